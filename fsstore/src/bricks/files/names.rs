//! Names that a mount makes and takes away.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::super::Bricks;
use super::super::kinds::{Change, Name};
use super::change::{FileChange, Posix, Special};
use super::look::{Node, Place, below, place_of};
use super::open::{BricksFile, of_file};
use crate::brick::acl;
use crate::brick::disk::{Disk, FileKind};
use crate::brick::in_place::number_of;
use crate::brick::osdisk::OsDisk;
use crate::brick::osdisk::posix::{is_dir, is_regular, xattr};
use crate::files::{Caller, Errno, FileAttr, FilePath, FileResult, NewNode, OpenFlags};
use crate::name::BucketName;
use crate::object::{FileOwner, Locator};
use crate::volume::{NewBucket, Volume};

/// Most rounds with others who make and remove a file.
const MAX_ROUNDS: usize = 64;
/// The bits of a mode that are permissions, and the set-group-ID bit. Source: inode(7).
const PERMISSIONS: u32 = 0o7_777;
const SET_GROUP_ID: u32 = 0o2_000;

/// A change of a directory.
pub fn of_dir(at: &Locator, change: FileChange) -> Change {
    Change::Dir {
        bucket: at.bucket.clone(),
        path: at.key.clone(),
        change: Box::new(change),
    }
}

/// The name of a directory.
pub fn dir_name(at: &Locator) -> Name {
    Name::Dir(at.bucket.clone(), at.key.clone())
}

impl Bricks<OsDisk> {
    /// The directory above a path. Errors: ENOENT, ENOTDIR.
    pub(super) fn parent_of(&self, path: &FilePath) -> FileResult<Node> {
        let (above, _) = path.split().ok_or(Errno::PERM)?;
        let node = self.node(&above)?;
        match is_dir(node.met.attr.mode) {
            true => Ok(node),
            false => Err(Errno::NOTDIR),
        }
    }

    /// What is made in a directory on behalf of a caller: as the kernel would have it.
    fn inherits(&self, parent: &Node, mode: u32, caller: Caller, is_dir: bool) -> Posix {
        let of_parent = parent.met.attr;
        let is_set_group = of_parent.mode & SET_GROUP_ID != 0;
        let mut posix = Posix {
            mode: mode & PERMISSIONS & !caller.umask,
            uid: caller.uid,
            gid: match is_set_group {
                true => of_parent.gid,
                false => caller.gid,
            },
            xattrs: Vec::new(),
        };
        if is_set_group && is_dir {
            posix.mode |= SET_GROUP_ID;
        }
        let default_acl = xattr(parent.fd.as_fd(), acl::DEFAULT_ACL.as_ref()).ok();
        let Some(default_acl) = default_acl else {
            return posix;
        };
        // A default ACL goes before the umask.
        if let Some(inherited) = acl::inherit(&default_acl, mode & 0o777) {
            posix.mode = posix.mode & !0o777 | mode & 0o7_000 | inherited.mode;
            if let Some(access) = inherited.acl {
                let name = acl::ACCESS_ACL.as_bytes().to_vec();
                posix.xattrs.push((name, access));
            }
        }
        if is_dir {
            let name = acl::DEFAULT_ACL.as_bytes().to_vec();
            posix.xattrs.push((name, default_acl));
        }
        posix
    }

    pub(super) fn create_file(
        &self,
        path: &FilePath,
        mode: u32,
        flags: OpenFlags,
        caller: Caller,
    ) -> FileResult<(FileAttr, BricksFile)> {
        for _ in 0..MAX_ROUNDS {
            match self.make_regular(path, mode, flags.exclusive, caller) {
                Err(Errno::EXIST) if !flags.exclusive => {}
                other => other?,
            }
            let opened = self
                .node(path)
                .and_then(|node| self.open_node(path, &node, flags));
            match opened {
                // Gone since, or another.
                Err(Errno::NOENT | Errno::STALE) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Makes an empty regular file. Errors: EEXIST.
    fn make_regular(
        &self,
        path: &FilePath,
        mode: u32,
        is_exclusive: bool,
        caller: Caller,
    ) -> FileResult<()> {
        let at = below(path)?;
        let parent = self.parent_of(path)?;
        let posix = self.inherits(&parent, mode, caller, false);
        let ident = self.new_ident(&at);
        self.passing(&at.bucket, async {
            let (group, names) = (self.shared.group_of(&at), vec![Name::object(&at)]);
            let at = at.clone();
            let made = self.shared.change_file(group, names, move |inner| {
                let is_taken = inner.kind_at(&at)?.is_some();
                if is_taken || is_exclusive && inner.stands_aside(&at)? {
                    return Ok(Err(Errno::EXIST));
                }
                let change = FileChange::Make {
                    ident,
                    posix: posix.clone(),
                    mtime_ns: inner.now().0,
                };
                Ok(Ok((Some(of_file(&at, change)), ())))
            });
            made.await
        })
    }

    /// A number for what is made at a place: never given twice.
    fn new_ident(&self, at: &Locator) -> u64 {
        let op = self.shared.new_op();
        let (bucket, key) = (at.bucket.as_str(), at.key.as_str());
        number_of(&[b"m", bucket.as_bytes(), key.as_bytes(), &op.0.to_le_bytes()])
    }

    /// Does something while its bucket is neither made nor removed.
    pub(super) fn passing<T>(
        &self,
        bucket: &BucketName,
        work: impl Future<Output = FileResult<T>>,
    ) -> FileResult<T> {
        self.wait(async {
            let gate = self.shared.gate(bucket);
            let _passing = gate.read().await;
            let looked = self.shared.look_bucket(bucket).await;
            looked.map_err(|e| e.errno())?;
            work.await
        })
    }

    pub(super) fn make_directory(
        &self,
        path: &FilePath,
        mode: u32,
        caller: Caller,
    ) -> FileResult<FileAttr> {
        let at = match place_of(path) {
            Ok(Place::Below(at)) => at,
            Ok(Place::Bucket(bucket)) => return self.make_bucket_dir(path, &bucket, mode, caller),
            Ok(Place::Root) => return Err(Errno::EXIST),
            Err(_) if path.components().count() == 1 => return Err(Errno::INVAL),
            Err(e) => return Err(e),
        };
        let parent = self.parent_of(path)?;
        if self.node(path).is_ok() {
            return Err(Errno::EXIST);
        }
        let posix = self.inherits(&parent, mode, caller, true);
        self.make_dir_as(&at, posix, self.new_ident(&at))?;
        Ok(self.node(path)?.attr)
    }

    /// Makes a directory. Errors: EEXIST.
    pub(super) fn make_dir_as(&self, at: &Locator, posix: Posix, ident: u64) -> FileResult<()> {
        let bucket = at.bucket.clone();
        self.passing(&bucket, async {
            let (group, names) = (self.shared.group_of(at), vec![dir_name(at)]);
            let at = at.clone();
            let made = self.shared.change_file(group, names, move |inner| {
                if inner.kind_at(&at)?.is_some() {
                    return Ok(Err(Errno::EXIST));
                }
                let change = FileChange::MakeDir {
                    ident,
                    posix: posix.clone(),
                };
                Ok(Ok((Some(of_dir(&at, change)), ())))
            });
            made.await
        })
    }

    fn make_bucket_dir(
        &self,
        path: &FilePath,
        bucket: &BucketName,
        mode: u32,
        caller: Caller,
    ) -> FileResult<FileAttr> {
        let is_root = rustix::process::geteuid().is_root();
        let new = NewBucket {
            file_owner: FileOwner {
                uid: is_root.then_some(caller.uid),
                gid: is_root.then_some(caller.gid),
                umask: Some(caller.umask | !mode & 0o777),
            },
            ..NewBucket::default()
        };
        let made = self.wait(Volume::create_bucket(self, bucket, new));
        made.map_err(|e| e.errno())?;
        Ok(self.node(path)?.attr)
    }

    pub(super) fn make_special(
        &self,
        path: &FilePath,
        node: NewNode,
        caller: Caller,
    ) -> FileResult<FileAttr> {
        if is_regular(node.mode) {
            self.make_regular(path, node.mode, true, caller)?;
            return Ok(self.node(path)?.attr);
        }
        let special = Special::Node(node.mode & !PERMISSIONS, node.rdev);
        self.make_special_as(path, special, node.mode, caller)
    }

    pub(super) fn make_link_to(
        &self,
        path: &FilePath,
        target: &OsStr,
        caller: Caller,
    ) -> FileResult<FileAttr> {
        let special = Special::Symlink(target.as_bytes().to_vec());
        let caller = Caller { umask: 0, ..caller };
        self.make_special_as(path, special, 0o777, caller)
    }

    fn make_special_as(
        &self,
        path: &FilePath,
        special: Special,
        mode: u32,
        caller: Caller,
    ) -> FileResult<FileAttr> {
        let at = below(path)?;
        let parent = self.parent_of(path)?;
        let posix = self.inherits(&parent, mode, caller, false);
        self.passing(&at.bucket, async {
            let (group, names) = (self.shared.group_of(&at), vec![Name::object(&at)]);
            let at = at.clone();
            let made = self.shared.change_file(group, names, move |inner| {
                if inner.kind_at(&at)?.is_some() || inner.stands_aside(&at)? {
                    return Ok(Err(Errno::EXIST));
                }
                let change = FileChange::Special {
                    special: special.clone(),
                    posix: posix.clone(),
                    mtime_ns: inner.now().0,
                    from: None,
                };
                Ok(Ok((Some(of_file(&at, change)), ())))
            });
            made.await
        })?;
        Ok(self.node(path)?.attr)
    }

    pub(super) fn unlink_path(&self, path: &FilePath) -> FileResult<()> {
        let at = match place_of(path)? {
            Place::Below(at) => at,
            Place::Bucket(_) | Place::Root => return Err(Errno::ISDIR),
        };
        let node = self.node(path)?;
        if is_dir(node.met.attr.mode) {
            return Err(Errno::ISDIR);
        }
        self.keep_copy(node.ident)?;
        self.unlink_at(&at, None)
    }

    /// Before a file loses its name: who has it open holds the copy that counts, for it is all
    /// there will be of it.
    pub(super) fn keep_copy(&self, ident: u64) -> FileResult<()> {
        match self.shared.writing.get(ident) {
            Some(inode) => self.copy_of(&inode).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Takes a name away, where it is the file of this number if one is given.
    pub(super) fn unlink_at(&self, at: &Locator, ident: Option<u64>) -> FileResult<()> {
        self.keep_parent(at)?;
        self.passing(&at.bucket, self.unlinking(at, ident))
    }

    /// Before the last name of a directory may go by a mount: one that keys made on other bricks
    /// alone is made where it belongs, for it is to stay.
    pub(super) fn keep_parent(&self, at: &Locator) -> FileResult<()> {
        let path = self.path_of(at)?;
        let Some((above, _)) = path.split() else {
            return Ok(());
        };
        let Ok(Place::Below(dir)) = place_of(&above) else {
            return Ok(());
        };
        let node = self.node(&above)?;
        let group = self.shared.group_of(&dir);
        let own = self.shared.in_sync(group);
        if own.iter().any(|member| member.id == node.member.id) {
            return Ok(());
        }
        let posix = super::nodes::posix_of(node.fd.as_fd(), &node.met)?;
        match self.make_dir_as(&dir, posix, self.new_ident(&dir)) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    pub(super) fn remove_directory(&self, path: &FilePath) -> FileResult<()> {
        let at = match place_of(path)? {
            Place::Below(at) => at,
            Place::Bucket(bucket) => {
                let removed = self.wait(Volume::delete_bucket(self, &bucket));
                return removed.map_err(|e| e.errno());
            }
            Place::Root => return Err(Errno::BUSY),
        };
        if !is_dir(self.node(path)?.met.attr.mode) {
            return Err(Errno::NOTDIR);
        }
        if !self.names_in(path)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.remove_dir_at(&at)
    }

    /// Removes a directory that is empty.
    pub(super) fn remove_dir_at(&self, at: &Locator) -> FileResult<()> {
        self.passing(&at.bucket, async {
            let (group, names) = (self.shared.group_of(at), vec![dir_name(at)]);
            let dir = at.clone();
            let removed = self.shared.change_file(group, names, move |inner| {
                let change = FileChange::RemoveDir;
                match inner.kind_at(&dir)?.map(|facts| facts.kind) {
                    Some(FileKind::Dir) => Ok(Ok((Some(of_dir(&dir, change)), ()))),
                    Some(_) => Ok(Err(Errno::NOTDIR)),
                    None => Ok(Ok((None, ()))),
                }
            });
            removed.await?;
            // Those that keys of other groups had made on other bricks.
            for member in self.shared.live_members() {
                let dir = at.clone();
                let removed = member
                    .inner
                    .in_turn(None, move |inner, turn| inner.remove_dir_now(turn, &dir));
                if let Err(error) = removed.await {
                    tracing::warn!(brick = member.id.0, %error, "an empty directory stays");
                }
            }
            Ok(())
        })
    }
}

impl<D: Disk> Bricks<D> {
    /// Takes a name away, where it is the file of this number if one is given. The gate is passed.
    pub(super) async fn unlinking(&self, at: &Locator, ident: Option<u64>) -> FileResult<()> {
        let (group, names) = (self.shared.group_of(at), vec![Name::object(at)]);
        let at = at.clone();
        let unlinked = self.shared.change_file(group, names, move |inner| {
            match inner.kind_at(&at)?.map(|facts| facts.kind) {
                None => return Ok(Err(Errno::NOENT)),
                Some(FileKind::Dir) => return Ok(Err(Errno::ISDIR)),
                Some(_) => {}
            }
            if let Some(ident) = ident
                && inner
                    .ident_at(&at)?
                    .is_none_or(|(found, ..)| found != ident)
            {
                return Ok(Err(Errno::STALE));
            }
            Ok(Ok((Some(of_file(&at, FileChange::Unlink { ident })), ())))
        });
        unlinked.await
    }
}
