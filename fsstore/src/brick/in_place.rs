//! What a logged change of a mount does on one brick: files are changed where they stand, names
//! come and go without the objects around them.
//!
//! A file is changed only where it is the one that was meant: names are given again, so a change
//! says by a number which file it is of ([`ident_of`]). Everything here may be done again after a
//! crash, in order, and leaves the same.
//!
//! Order, for bytes: the record says that no digest holds; the bytes; the time. A crash in between
//! leaves a file without digests.

mod nodes;

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use self::nodes::{DIR_IDENT, path_of, put_xattr};
use super::attrs::{DigestState, Record, Stamp};
use super::commit::Turn;
use super::disk::{Access, Disk, DiskFile, FileFacts, FileKind};
use super::look::claims_digests;
use super::osdisk::posix;
use super::staged::Whole;
use super::tree::{Moved, absent_is_none, failed, split_parent};
use super::{HashPolicy, Inner};
use crate::digest::Digests;
use crate::error::Result;
use crate::files::{Errno, FileResult, SetTime, XattrMode};
use crate::name::BucketName;
use crate::object::{FileOwner, Locator, Precondition};

/// Owner, permissions and attributes of a file or directory, besides what S3 keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Posix {
    /// Permissions, with the set-ID and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Extended attributes, ACLs among them, without the record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What is no regular file and no directory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Special {
    /// A symbolic link with this text.
    Symlink(Vec<u8>),
    /// A FIFO, a socket or a device: the type bits of its mode, and the device.
    Node(u32, u64),
}

/// What is changed of a file's attributes; what is none stays. Times are nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct SetFacts {
    /// Length in bytes.
    pub len_bytes: Option<u64>,
    /// Permissions.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Owning group.
    pub gid: Option<u32>,
    /// Time of the last read.
    pub atime_ns: Option<i64>,
    /// Time of the last write.
    pub mtime_ns: Option<i64>,
}

/// Which file a change is of, and which change it is.
#[derive(Debug, Clone, Copy)]
pub struct Which {
    /// The file's number.
    pub ident: u64,
    /// The change's.
    pub stamp: Stamp,
}

/// What is done to the bytes of a file.
pub enum Bytes<'a> {
    /// These come to these offsets, one after the other in `bytes`.
    Written {
        /// Offsets and lengths in bytes.
        extents: &'a [(u64, u64)],
        /// The bytes.
        bytes: &'a [u8],
    },
    /// fallocate(2): mode, offset and length.
    Allocated(u32, u64, u64),
    /// It is cut, or extended by a hole.
    Cut(u64),
}

/// The number of a file at a place: the one in its record, or one made of its place and of the
/// change that made it whole. Never 0 nor 1, which stand for nothing and for the root.
pub fn ident_of(at: &Locator, record: &Record) -> u64 {
    record.ident.unwrap_or_else(|| {
        let made = record.bytes_stamp().unwrap_or_default();
        number_of(&[
            at.bucket.as_str().as_bytes(),
            at.key.as_str().as_bytes(),
            &made.epoch.to_le_bytes(),
            &made.seq.to_le_bytes(),
        ])
    })
}

/// A number made of these, nearly never the same for others. Never 0 nor 1.
pub fn number_of(parts: &[&[u8]]) -> u64 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let number = digest[..8]
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte));
    number.max(2)
}

/// A regular file met where it stands, to be changed.
struct Standing<D: Disk> {
    file: Arc<D::File>,
    facts: FileFacts,
    record: Record,
}

fn os_error(errno: Errno) -> std::io::Error {
    errno.into()
}

impl<D: Disk> Inner<D> {
    /// The path of a place below the root, its directory's and its name.
    fn plain_path(at: &Locator) -> String {
        format!("{}/{}", at.bucket, at.key)
    }

    /// The directory of a place; none where it does not stand.
    fn dir_of_place(&self, at: &Locator) -> Result<Option<Arc<D::Dir>>> {
        let path = Self::plain_path(at);
        let (parent, _) = split_parent(&path);
        let opened = self
            .tree
            .disk
            .open_dir(&self.tree.root, parent.unwrap_or(""));
        absent_is_none(opened).map_err(failed("open a directory"))
    }

    /// What stands at a place itself, be it a link.
    pub(crate) fn kind_at(&self, at: &Locator) -> Result<Option<FileFacts>> {
        let stat = self.tree.disk.stat(&self.tree.root, &Self::plain_path(at));
        absent_is_none(stat).map_err(failed("look at a name"))
    }

    /// Whether the directory at a place stands for the keys below it alone.
    pub(crate) fn is_made_by_keys(&self, at: &Locator) -> Result<bool> {
        let opened = self
            .tree
            .disk
            .open_dir(&self.tree.root, &Self::plain_path(at));
        match absent_is_none(opened).map_err(failed("open a directory"))? {
            Some(dir) => Ok(self.tree.records.load_dir(&dir)?.made_by_keys),
            None => Ok(false),
        }
    }

    fn standing(&self, at: &Locator) -> Result<Option<Standing<D>>> {
        let fail = failed("open a file to change it");
        let Some(dir) = self.dir_of_place(at)? else {
            return Ok(None);
        };
        let path = Self::plain_path(at);
        let (_, name) = split_parent(&path);
        let disk = &self.tree.disk;
        match absent_is_none(disk.stat(&dir, name)).map_err(&fail)? {
            Some(facts) if facts.kind == FileKind::File => {}
            _ => return Ok(None),
        }
        let opened = match disk.open_own(&dir, name, false) {
            // A server that is no superuser's, and a file that nobody may write.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => disk.open(&dir, name),
            other => other,
        };
        let Some(file) = absent_is_none(opened).map_err(&fail)? else {
            return Ok(None);
        };
        let facts = file.facts().map_err(&fail)?;
        let record = self.tree.records.load(&file, &facts)?.unwrap_or_default();
        Ok(Some(Standing {
            file: Arc::new(file),
            facts,
            record,
        }))
    }

    /// The number of the regular file at a place, and the record it has.
    pub(crate) fn ident_at(&self, at: &Locator) -> Result<Option<(u64, Record, FileFacts)>> {
        let standing = self.standing(at)?;
        Ok(standing.map(|it| (ident_of(at, &it.record), it.record, it.facts)))
    }

    /// Does something on this thread while nothing changes here.
    pub(crate) fn while_still<T>(&self, act: impl FnOnce() -> T) -> Result<T> {
        self.committer.act_here(&[], true, |_| act())
    }

    /// Whether an object of this key stands aside, for a directory is in its place.
    pub(crate) fn stands_aside(&self, at: &Locator) -> Result<bool> {
        self.tree.stands_aside(at)
    }

    /// When digests of a bucket's files that were edited are to be taken.
    pub(crate) fn hash_edited(&self, bucket: &BucketName) -> HashPolicy {
        self.hash_edited.of(bucket)
    }

    /// The digests of the file of this number, and the change that left it; no digests where it
    /// changes meanwhile. None where they are known, or it is empty.
    pub(crate) fn digest_of(
        &self,
        at: &Locator,
        ident: u64,
    ) -> Result<Option<(Stamp, Option<Digests>)>> {
        let Some(it) = self.standing_as(at, ident)? else {
            return Ok(None);
        };
        let is_known = claims_digests(&it.record, &it.facts) || it.facts.len_bytes == 0;
        let Some(stamp) = it.record.stamp.filter(|_| !is_known) else {
            return Ok(None);
        };
        let digests = self.digest_file(&it.file, &it.facts)?;
        Ok(Some((stamp, digests)))
    }

    fn standing_as(&self, at: &Locator, ident: u64) -> Result<Option<Standing<D>>> {
        let standing = self.standing(at)?;
        Ok(standing.filter(|it| ident_of(at, &it.record) == ident))
    }

    /// In a turn: makes an empty regular file where none of this number stands. What else stands
    /// there is replaced: it was decided that nothing does.
    pub(crate) fn make_file_now(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        which: Which,
        posix: &Posix,
        mtime_ns: i64,
    ) -> Result<()> {
        if self.standing_as(at, which.ident)?.is_some() {
            return Ok(());
        }
        let file = Arc::new(self.unnamed()?);
        let fail = failed("make a file");
        file.set_modified(mtime_ns).map_err(&fail)?;
        let facts = file.facts().map_err(&fail)?;
        let record = Record {
            state: Some(DigestState {
                len_bytes: 0,
                mtime_ns: facts.mtime_ns,
                ino: facts.ino,
            }),
            stamp: Some(which.stamp),
            ident: Some(which.ident),
            ..Record::default()
        };
        self.tree.records.save(&file, &facts, &record)?;
        self.give(&*file, posix)?;
        turn.changed_file(&file);
        let whole = Whole {
            file,
            record,
            len_bytes: 0,
            owner: FileOwner::default(),
            synced: true,
        };
        self.clear_the_way(turn, at)?;
        self.ensure_bucket_dir(turn, &at.bucket)?;
        self.publish(turn, at, whole, &Precondition::default(), |_| {})
            .map(|_| ())
    }

    /// Takes away what stands at a name and is neither a file nor a directory.
    fn clear_the_way(&self, turn: &mut Turn<'_, D>, at: &Locator) -> Result<()> {
        match self.kind_at(at)? {
            Some(facts) if matches!(facts.kind, FileKind::Other | FileKind::Symlink) => {
                self.unlink_now(turn, at)
            }
            _ => Ok(()),
        }
    }

    /// Gives a file its owner, permissions and attributes.
    pub(crate) fn give(&self, file: &D::File, posix: &Posix) -> Result<()> {
        let access = Access {
            uid: Some(posix.uid),
            gid: Some(posix.gid),
            mode: Some(posix.mode),
            acl: None,
        };
        let fail = failed("give a file to its owner");
        file.set_access(&access).map_err(&fail)?;
        let Some(fd) = file.descriptor() else {
            return Ok(());
        };
        for (name, value) in &posix.xattrs {
            let name = OsStr::from_bytes(name);
            let set = posix::set_xattr(fd, name, value, XattrMode::Set);
            set.map_err(|errno| fail(os_error(errno)))?;
        }
        // A new owner, and an ACL, take bits away.
        posix::set_mode(fd, posix.mode).map_err(|errno| fail(os_error(errno)))
    }

    /// In a turn: changes a file's bytes. Gives whether the file stands here.
    pub(crate) fn change_bytes_now(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        which: Which,
        what: Bytes<'_>,
        mtime_ns: i64,
    ) -> Result<bool> {
        let Some(mut it) = self.standing_as(at, which.ident)? else {
            return Ok(false);
        };
        let fail = failed("write to a file");
        self.stamps.changing(it.facts.ino);
        it.record.void_digests();
        it.record.made = it.record.bytes_stamp();
        it.record.stamp = Some(which.stamp);
        it.record.ident = Some(which.ident);
        self.tree.records.save(&it.file, &it.facts, &it.record)?;
        match what {
            Bytes::Written { extents, bytes } => {
                let mut rest = bytes;
                for (offset, len) in extents {
                    let len = usize::try_from(*len).unwrap_or(usize::MAX).min(rest.len());
                    let (now, later) = rest.split_at(len);
                    it.file.write_at(*offset, now).map_err(&fail)?;
                    rest = later;
                }
            }
            Bytes::Cut(len_bytes) => it.file.set_len(len_bytes).map_err(&fail)?,
            Bytes::Allocated(mode, offset, len_bytes) => {
                if let Some(fd) = it.file.descriptor() {
                    posix::allocate(fd, mode, offset, len_bytes)
                        .map_err(|errno| fail(os_error(errno)))?;
                }
            }
        }
        it.file.set_modified(mtime_ns).map_err(&fail)?;
        turn.changed_file(&it.file);
        turn.touched(it.facts.ino);
        self.reconcile(at)?;
        Ok(true)
    }

    /// In a turn: changes a file and none of its bytes: digests that held go on holding. Gives
    /// whether the file stands here.
    pub(crate) fn change_attrs_now(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        which: Which,
        mtime_ns: Option<i64>,
        act: impl FnOnce(&D::File) -> Result<()>,
    ) -> Result<bool> {
        let Some(mut it) = self.standing_as(at, which.ident)? else {
            return Ok(false);
        };
        let fail = failed("change a file's attributes");
        let held = claims_digests(&it.record, &it.facts) && self.held(at, &it.facts)?;
        self.stamps.changing(it.facts.ino);
        it.record.ident = Some(which.ident);
        it.record.made = it.record.bytes_stamp();
        it.record.stamp = Some(which.stamp);
        if let (Some(mtime_ns), Some(state)) = (mtime_ns, it.record.state.as_mut())
            && state.mtime_ns == it.facts.mtime_ns
        {
            it.record.mtime_before_ns = Some(state.mtime_ns);
            state.mtime_ns = mtime_ns;
        }
        self.tree.records.save(&it.file, &it.facts, &it.record)?;
        let acted = act(&it.file).and_then(|()| match mtime_ns {
            Some(mtime_ns) => it.file.set_modified(mtime_ns).map_err(&fail),
            None => Ok(()),
        });
        let after = it.file.facts().map_err(&fail)?;
        match held {
            true => self.ours(&after),
            false => self.stamps.doubt(after.ino),
        }
        acted?;
        turn.changed_file(&it.file);
        turn.touched(after.ino);
        self.reconcile(at)?;
        Ok(true)
    }

    /// In a turn: what [`SetFacts`] says, of a regular file.
    pub(crate) fn set_now(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        which: Which,
        set: SetFacts,
    ) -> Result<bool> {
        if let Some(len_bytes) = set.len_bytes {
            let mtime_ns = set.mtime_ns.unwrap_or_else(|| self.now().0);
            if !self.change_bytes_now(turn, at, which, Bytes::Cut(len_bytes), mtime_ns)? {
                return Ok(false);
            }
        }
        let rest = SetFacts {
            len_bytes: None,
            mtime_ns: set.mtime_ns.filter(|_| set.len_bytes.is_none()),
            ..set
        };
        if rest == SetFacts::default() {
            return Ok(true);
        }
        self.change_attrs_now(turn, at, which, rest.mtime_ns, |file| {
            let access = Access {
                uid: rest.uid,
                gid: rest.gid,
                mode: rest.mode,
                acl: None,
            };
            let fail = failed("change a file's attributes");
            if access != Access::default() {
                file.set_access(&access).map_err(&fail)?;
            }
            let Some(fd) = file.descriptor() else {
                return Ok(());
            };
            set_rest(fd, rest).map_err(|errno| fail(os_error(errno)))
        })
    }

    /// In a turn: takes a name away from what is no directory, and leaves the directories.
    pub(crate) fn unlink_now(&self, turn: &mut Turn<'_, D>, at: &Locator) -> Result<()> {
        let Some(dir) = self.dir_of_place(at)? else {
            return Ok(());
        };
        let fail = failed("remove a name");
        let path = Self::plain_path(at);
        let (_, name) = split_parent(&path);
        let disk = &self.tree.disk;
        let Some(facts) = absent_is_none(disk.stat(&dir, name)).map_err(&fail)? else {
            return Ok(());
        };
        if facts.kind == FileKind::Dir {
            return Ok(());
        }
        let mut moved = Moved::default();
        self.tree.unlink_escaped(turn, at, &mut moved)?;
        let held = self.tree.hold(&dir, name);
        absent_is_none(disk.unlink(&dir, name)).map_err(&fail)?;
        turn.changed(&dir);
        turn.named_in(&at.bucket, at.key.as_str());
        turn.touched(facts.ino);
        self.tree.forget_later(turn, facts, held);
        self.reconcile(at).map(|_| ())
    }

    /// In a turn: gives a regular file another name, replacing what stands there.
    pub(crate) fn move_now(
        &self,
        turn: &mut Turn<'_, D>,
        (from, to): (&Locator, &Locator),
        which: Which,
    ) -> Result<()> {
        // A file that came to the old name later is another one, or stays for a later change.
        let Some(it) = self.standing_as(from, which.ident)? else {
            return Ok(());
        };
        if it.record.stamp > Some(which.stamp) {
            return Ok(());
        }
        self.clear_the_way(turn, to)?;
        self.ensure_bucket_dir(turn, &to.bucket)?;
        let fail = failed("move a name");
        let moved = self.change_attrs_now(turn, from, which, None, |_| Ok(()))?;
        debug_assert!(moved);
        let held = self.held(from, &it.file.facts().map_err(&fail)?)?;
        let mut aside = Moved::default();
        let to_path = Self::plain_path(to);
        let (_, to_name) = split_parent(&to_path);
        let from_path = Self::plain_path(from);
        let (_, from_name) = split_parent(&from_path);
        let to_dir = match split_parent(to.key.as_str()).0 {
            Some(parent) => {
                let owner = FileOwner::default();
                self.tree
                    .make_dirs(turn, &to.bucket, parent, &owner, &mut aside)?
            }
            None => self.tree.bucket_dir(&to.bucket)?,
        };
        let Some(from_dir) = self.dir_of_place(from)? else {
            return Ok(());
        };
        let disk = &self.tree.disk;
        let replaced = absent_is_none(disk.stat(&to_dir, to_name)).map_err(&fail)?;
        let replaced = replaced.filter(|facts| facts.kind == FileKind::File);
        let kept = self.tree.hold(&to_dir, to_name);
        let ino = it.facts.ino;
        self.stamps.changing(ino);
        let renamed = {
            let (from, to) = ((&*from_dir, from_name), (&*to_dir, to_name));
            self.renaming(|| self.tree.move_file(from, to))
        };
        let after = it.file.facts().map_err(&fail)?;
        match held {
            true => self.ours(&after),
            false => self.stamps.doubt(ino),
        }
        renamed.map_err(&fail)?;
        turn.changed(&from_dir);
        turn.changed(&to_dir);
        turn.changed_file(&it.file);
        turn.named_in(&from.bucket, from.key.as_str());
        turn.named_in(&to.bucket, to.key.as_str());
        if let Some(replaced) = replaced {
            turn.touched(replaced.ino);
            self.tree.forget_later(turn, replaced, kept);
        }
        for at in [from, to] {
            self.tree.unlink_escaped(turn, at, &mut aside)?;
            self.reconcile(at)?;
        }
        self.reconcile_moved(&to.bucket, &aside)
    }

    /// In a turn: digests that were taken of the bytes which a change left become the record's.
    pub(crate) fn digests_now(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        (which, of): (Which, Stamp),
        (md5, crc64nvme, shown): ([u8; 16], u64, u64),
    ) -> Result<()> {
        let Some(mut it) = self.standing_as(at, which.ident)? else {
            return Ok(());
        };
        if it.record.stamp != Some(of) {
            return Ok(());
        }
        let state = DigestState {
            len_bytes: it.facts.len_bytes,
            mtime_ns: it.facts.mtime_ns,
            ino: it.facts.ino,
        };
        it.record.void_digests();
        it.record.state = Some(state);
        it.record.md5 = Some(md5);
        it.record.crc64nvme = Some(crc64nvme);
        it.record.made = it.record.bytes_stamp();
        it.record.etag_before = Some(shown);
        it.record.stamp = Some(which.stamp);
        it.record.ident = Some(which.ident);
        self.stamps.changing(it.facts.ino);
        self.tree.records.save(&it.file, &it.facts, &it.record)?;
        let after = it.file.facts().map_err(failed("look at a file"))?;
        self.ours(&after);
        turn.changed_file(&it.file);
        self.reconcile(at).map(|_| ())
    }
}

fn set_rest(fd: BorrowedFd<'_>, set: SetFacts) -> FileResult<()> {
    // A new owner takes set-user-ID bits away, and the bits above nine come only this way.
    if let Some(mode) = set.mode {
        posix::set_mode(fd, mode)?;
    }
    match set.atime_ns {
        Some(atime_ns) => posix::set_times(fd, Some(SetTime::At(atime_ns)), None),
        None => Ok(()),
    }
}
