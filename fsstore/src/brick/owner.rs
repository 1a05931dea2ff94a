//! To whom what a door makes belongs: what the kernel gives to a file made in place by its owner, a
//! staged file is given here, before it is synced and published.
//!
//! - the owner and the group are the [`FileOwner`]'s, the group that of a set-group-ID directory;
//! - the permissions are the default ACL's of the directory, else 0666 less the umask.
//!
//! The directory may not be there yet: those above it hand both down, so the nearest that stands
//! tells. Files of no one in particular are the server's own, with its umask.

use std::io;
use std::sync::Arc;

use super::acl;
use super::disk::{Access, Disk, DiskFile};
use super::tree::{Tree, is_absent, split_parent};
use crate::keypath::{self, Place};
use crate::object::{FileOwner, Locator};

/// Permissions of a file before its umask.
const FILE_MODE: u32 = 0o666;
/// Permissions of a directory before its umask.
const DIR_MODE: u32 = 0o777;
/// Permissions of a directory that is no one's in particular, before the server's umask.
pub(crate) const OWN_DIR_MODE: u32 = 0o755;

impl<D: Disk> Tree<D> {
    /// Makes a staged file its owner's, as if it had been made at its key.
    pub(crate) fn give_file(
        &self,
        at: &Locator,
        file: &D::File,
        owner: &FileOwner,
    ) -> io::Result<()> {
        let inherited = match self.nearest_dir(at)? {
            Some(dir) => self.disk.inheritance(&dir)?,
            None => Default::default(),
        };
        let mut access = Access {
            uid: owner.uid,
            gid: inherited.gid.or(owner.gid),
            mode: owner.umask.map(|umask| FILE_MODE & !umask),
            acl: None,
        };
        let handed_down = inherited.default_acl.as_deref();
        if let Some(handed_down) = handed_down.and_then(|acl| acl::inherit(acl, FILE_MODE)) {
            (access.mode, access.acl) = (Some(handed_down.mode), handed_down.acl);
        }
        match access == Access::default() {
            true => Ok(()),
            false => file.set_access(&access),
        }
    }

    /// The directory that a key's file will stand in, or the nearest above it that stands.
    fn nearest_dir(&self, at: &Locator) -> io::Result<Option<Arc<D::Dir>>> {
        let within = match keypath::place(&at.key) {
            Place::Plain(path) => split_parent(path).0,
            Place::Marker { dir } => Some(dir),
            Place::Escaped => None,
        };
        let mut path = match within {
            Some(within) => format!("{}/{within}", at.bucket),
            None => at.bucket.as_str().to_owned(),
        };
        loop {
            match self.disk.open_dir(&self.root, &path) {
                Ok(dir) => return Ok(Some(dir)),
                Err(e) if is_absent(&e) => {}
                Err(e) => return Err(e),
            }
            match split_parent(&path).0 {
                Some(parent) => path.truncate(parent.len()),
                None => return Ok(None),
            }
        }
    }

    /// Makes a directory for an owner: the kernel hands down what it inherits. AlreadyExists
    /// where anything stands.
    pub(crate) fn make_dir_for(
        &self,
        parent: &D::Dir,
        name: &str,
        owner: &FileOwner,
    ) -> io::Result<Arc<D::Dir>> {
        let open = || self.disk.open_dir(parent, name);
        if *owner == FileOwner::default() {
            self.disk.make_dir(parent, name, OWN_DIR_MODE)?;
            return open();
        }
        let inherited = self.disk.inheritance(parent)?;
        // A default ACL is taken whole, whatever the umask.
        let mode = match (owner.umask, &inherited.default_acl) {
            (_, Some(_)) => DIR_MODE,
            (Some(umask), None) => DIR_MODE & !umask,
            (None, None) => OWN_DIR_MODE,
        };
        self.disk.make_dir(parent, name, mode)?;
        let dir = open()?;
        let umask_counts = owner.umask.is_some() && inherited.default_acl.is_none();
        let access = Access {
            uid: owner.uid,
            gid: match inherited.gid {
                Some(_) => None,
                None => owner.gid,
            },
            // The server's own umask took bits as well.
            mode: umask_counts.then_some(mode),
            acl: None,
        };
        self.disk.set_dir_access(&dir, &access)?;
        Ok(dir)
    }
}

#[cfg(test)]
mod tests;
