//! Directories, symbolic links and the like: what a mount makes besides regular files.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use super::super::Inner;
use super::super::commit::Turn;
use super::super::disk::{Access, Disk, FileKind};
use super::super::osdisk::posix;
use super::super::tree::{Moved, absent_is_none, failed, split_parent};
use super::{Posix, SetFacts, Special, os_error};
use crate::error::{Result, StoreError};
use crate::files::{Errno, FilePath, FileResult, NewNode, SetTime, XattrMode};
use crate::object::{FileOwner, Locator};

/// Where a directory made by a mount keeps its number: with a record it would be an object.
pub const DIR_IDENT: &str = "user.portico.dir";

/// Sets an extended attribute, or takes it away; one that is not there is gone already.
pub fn put_xattr(fd: BorrowedFd<'_>, name: &[u8], value: Option<&[u8]>) -> FileResult<()> {
    let name = OsStr::from_bytes(name);
    match value {
        Some(value) => posix::set_xattr(fd, name, value, XattrMode::Set),
        None => match posix::take_xattr(fd, name) {
            Err(Errno::NODATA) => Ok(()),
            other => other,
        },
    }
}

impl<D: Disk> Inner<D> {
    /// In a turn: makes what is no regular file and no directory, in place of what stands there.
    pub(crate) fn make_special_now(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        special: &Special,
        posix: &Posix,
        mtime_ns: i64,
    ) -> Result<()> {
        let Some(os) = self.tree.disk.os() else {
            return Err(no_such_nodes());
        };
        let fail = failed("make a name");
        let path = path_of(at)?;
        self.ensure_bucket_dir(turn, &at.bucket)?;
        let mut aside = Moved::default();
        if let Some(parent) = split_parent(at.key.as_str()).0 {
            let owner = FileOwner::default();
            self.tree
                .make_dirs(turn, &at.bucket, parent, &owner, &mut aside)?;
        }
        match self.kind_at(at)? {
            Some(facts) if facts.kind == FileKind::Dir => return Ok(()),
            Some(_) => self.unlink_now(turn, at)?,
            None => {}
        }
        let (above, name) = path.split().ok_or_else(no_such_nodes)?;
        let parent = os.open_directory(&above).map_err(|e| fail(os_error(e)))?;
        let made = match special {
            Special::Symlink(text) => {
                let text = OsStr::from_bytes(text);
                posix::add_symlink(&parent, name, text)
            }
            Special::Node(kind, rdev) => {
                let node = NewNode {
                    mode: kind | posix.mode,
                    rdev: *rdev,
                };
                posix::add_node(&parent, name, node)
            }
        };
        made.map_err(|e| fail(os_error(e)))?;
        let set = SetFacts {
            mode: matches!(special, Special::Node(..)).then_some(posix.mode),
            uid: Some(posix.uid),
            gid: Some(posix.gid),
            mtime_ns: Some(mtime_ns),
            ..SetFacts::default()
        };
        self.set_node_now(turn, at, set)?;
        if let Some(dir) = self.dir_of_place(at)? {
            turn.changed(&dir);
        }
        turn.named_in(&at.bucket, at.key.as_str());
        self.reconcile(at)?;
        self.reconcile_moved(&at.bucket, &aside)
    }

    /// In a turn: changes attributes of what is no regular file.
    pub(crate) fn set_node_now(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        set: SetFacts,
    ) -> Result<()> {
        self.on_node(turn, at, |fd| {
            if set.uid.is_some() || set.gid.is_some() {
                match posix::set_owner(fd, set.uid, set.gid) {
                    // As for files: who is no superuser keeps what he makes.
                    Err(Errno::PERM) => {}
                    other => other?,
                }
            }
            if let Some(mode) = set.mode {
                posix::set_mode(fd, mode)?;
            }
            posix::set_times(
                fd,
                set.atime_ns.map(SetTime::At),
                set.mtime_ns.map(SetTime::At),
            )
        })
    }

    /// In a turn: sets an attribute of what stands at a name, or takes it away.
    pub(crate) fn xattr_node_now(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        name: &[u8],
        value: Option<&[u8]>,
    ) -> Result<()> {
        self.on_node(turn, at, |fd| put_xattr(fd, name, value))
    }

    fn on_node(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        act: impl FnOnce(BorrowedFd<'_>) -> FileResult<()>,
    ) -> Result<()> {
        let Some(os) = self.tree.disk.os() else {
            return Err(no_such_nodes());
        };
        let fail = failed("change attributes");
        let fd = match os.open_node(&path_of(at)?) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other.map_err(|e| fail(os_error(e)))?,
        };
        act(fd.as_fd()).map_err(|e| fail(os_error(e)))?;
        if let Some(dir) = self.dir_of_place(at)? {
            turn.changed(&dir);
        }
        Ok(())
    }

    /// In a turn: makes a directory, which stays without keys, or makes it this one.
    pub(crate) fn make_dir_now(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        ident: u64,
        posix: &Posix,
    ) -> Result<()> {
        self.ensure_bucket_dir(turn, &at.bucket)?;
        let mut aside = Moved::default();
        self.clear_the_way(turn, at)?;
        let owner = FileOwner::default();
        let dir = self
            .tree
            .make_dirs(turn, &at.bucket, at.key.as_str(), &owner, &mut aside)?;
        self.reconcile_moved(&at.bucket, &aside)?;
        let mut state = self.tree.records.load_dir(&dir)?;
        if state.made_by_keys {
            state.made_by_keys = false;
            self.tree.records.save_dir(&dir, &state)?;
        }
        let access = Access {
            uid: Some(posix.uid),
            gid: Some(posix.gid),
            mode: None,
            acl: None,
        };
        let fail = failed("make a directory");
        self.tree
            .disk
            .set_dir_access(&dir, &access)
            .map_err(&fail)?;
        turn.changed(&dir);
        if let Some(parent) = self.dir_of_place(at)? {
            turn.built(&parent);
        }
        if self.tree.disk.os().is_none() {
            return Ok(());
        }
        self.on_node(turn, at, |fd| {
            put_xattr(fd, DIR_IDENT.as_bytes(), Some(&ident.to_le_bytes()))?;
            for (name, value) in &posix.xattrs {
                put_xattr(fd, name, Some(value))?;
            }
            posix::set_mode(fd, posix.mode)
        })
    }

    /// In a turn: removes an empty directory; one that has names stays, for they came later.
    pub(crate) fn remove_dir_now(&self, turn: &mut Turn<'_, D>, at: &Locator) -> Result<()> {
        let Some(parent) = self.dir_of_place(at)? else {
            return Ok(());
        };
        let path = Self::plain_path(at);
        let (_, name) = split_parent(&path);
        match self.tree.disk.remove_dir(&parent, name) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => return Ok(()),
            Err(e) => {
                let gone = absent_is_none::<()>(Err(e));
                return gone.map(|_| ()).map_err(failed("remove a directory"));
            }
        }
        turn.built(&parent);
        turn.named_in(&at.bucket, at.key.as_str());
        let mut moved = Moved::default();
        self.tree
            .leave_shelter(turn, &at.bucket, at.key.as_str(), &parent, name, &mut moved)?;
        self.reconcile_moved(&at.bucket, &moved)
    }
}

/// A place as a path of files.
pub fn path_of(at: &Locator) -> Result<FilePath> {
    let names = std::iter::once(at.bucket.as_str()).chain(at.key.as_str().split('/'));
    let mut names = names.map(std::ffi::OsStr::new);
    names
        .try_fold(FilePath::root(), |path, name| path.join(name))
        .map_err(|_| no_such_nodes())
}

fn no_such_nodes() -> StoreError {
    StoreError::Corrupt("no mount could make this name".to_owned())
}
