//! Looking at what stands at a path: on the brick that answers for its group, and where that has
//! no directory there, for one that keys made on others.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use placement::group::GroupId;

use super::super::Bricks;
use super::super::member::Member;
use super::nodes::dir_ident;
use crate::brick::attrs::{Record, Stored, XATTR_NAME};
use crate::brick::in_place::{ident_of, number_of};
use crate::brick::osdisk::OsDisk;
use crate::brick::osdisk::posix::{Met, is_dir, is_regular, is_symlink, link_text, meet, xattr};
use crate::error::StoreError;
use crate::files::{Errno, FileAttr, FileId, FilePath, FileResult};
use crate::keypath::key_of_plain;
use crate::name::{BucketName, MAX_KEY_LEN_BYTES};
use crate::object::Locator;

/// The type bits of a mode. Source: inode(7).
const KIND: u32 = 0o170_000;

/// A brick of a volume on this machine.
pub type OsMember = Arc<Member<OsDisk>>;

/// A path, told apart.
pub enum Place {
    /// The volume's root.
    Root,
    /// A bucket.
    Bucket(BucketName),
    /// Something below one.
    Below(Locator),
}

/// What stands at a path.
pub struct Node {
    /// The brick that told.
    pub member: OsMember,
    /// It, to look at and to change.
    pub fd: OwnedFd,
    /// What the brick says of it.
    pub met: Met,
    /// Its number.
    pub ident: u64,
    /// Its attributes as a mount shows them.
    pub attr: FileAttr,
    /// The record of a regular file.
    pub record: Option<Record>,
}

impl Node {
    /// Errors: ESTALE where it is another file.
    pub fn require(self, id: FileId) -> FileResult<Self> {
        match id.is_of(&self.attr) {
            true => Ok(self),
            false => Err(Errno::STALE),
        }
    }
}

/// The bucket that a name in the root can be.
pub fn bucket_of(name: &OsStr) -> FileResult<BucketName> {
    let name = name.to_str().ok_or(Errno::NOENT)?;
    BucketName::parse(name).map_err(|_| Errno::NOENT)
}

/// Tells a path apart. Errors: ENOENT where no bucket can be; EILSEQ and ENAMETOOLONG where no key
/// can be.
pub fn place_of(path: &FilePath) -> FileResult<Place> {
    let Some((bucket, rest)) = path.in_bucket() else {
        return Ok(Place::Root);
    };
    let bucket = bucket_of(bucket)?;
    if rest.is_empty() {
        return Ok(Place::Bucket(bucket));
    }
    match key_of_plain(rest.as_bytes()) {
        Some(key) => Ok(Place::Below(Locator::new(bucket, key))),
        None if rest.len() > MAX_KEY_LEN_BYTES => Err(Errno::NAMETOOLONG),
        None => Err(Errno::ILSEQ),
    }
}

/// As [`place_of`], for what is made, moved or removed below a bucket. Errors: EPERM besides.
pub fn below(path: &FilePath) -> FileResult<Locator> {
    match place_of(path) {
        Ok(Place::Below(at)) => Ok(at),
        Ok(Place::Root | Place::Bucket(_)) => Err(Errno::PERM),
        Err(_) if path.components().count() == 1 => Err(Errno::PERM),
        Err(e) => Err(e),
    }
}

/// Whether an error says that a brick is of no use.
fn is_fault(errno: Errno) -> bool {
    matches!(errno, Errno::IO | Errno::ROFS | Errno::NODEV)
}

impl Bricks<OsDisk> {
    pub(super) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.shared.runtime.block_on(work)
    }

    /// Reads from the brick that answers for a group; where its disk fails, from the next.
    pub(super) fn reading<T>(
        &self,
        group: GroupId,
        read: impl Fn(&OsMember) -> FileResult<T>,
    ) -> FileResult<T> {
        let first = self
            .wait(self.shared.reader(group))
            .map_err(|e| e.errno())?;
        let mut tried = vec![first.id];
        let mut member = first;
        loop {
            let error = match read(&member) {
                Err(error) if is_fault(error) => error,
                other => return other,
            };
            let mut others = self.shared.in_sync(group).into_iter();
            let Some(next) = others.find(|other| !tried.contains(&other.id)) else {
                return Err(error);
            };
            let told = StoreError::from_io("look at a file", error.into());
            self.shared.report(member.id, told);
            tried.push(next.id);
            member = next;
        }
    }

    /// What stands at a path. Errors: ENOENT, ENOTDIR.
    pub(super) fn node(&self, path: &FilePath) -> FileResult<Node> {
        match place_of(path) {
            Ok(Place::Root) => self.reading(GroupId(0), root_on),
            Ok(Place::Bucket(bucket)) => {
                let group = self.shared.group_of_bucket(&bucket);
                self.reading(group, |member| {
                    member.inner.load_bucket(&bucket).map_err(|e| e.errno())?;
                    let number = number_of(&[b"b", bucket.as_str().as_bytes()]);
                    dir_on(member, path, |_| (number, false))
                })
            }
            Ok(Place::Below(at)) => {
                self.wait(self.shared.writing.settle(&at));
                let group = self.shared.group_of(&at);
                let found = self.reading(group, |member| node_on(member, path, &at));
                match found {
                    Err(Errno::NOENT | Errno::NOTDIR) => {
                        self.dir_elsewhere(path, &at)?.ok_or(match found {
                            Err(e) => e,
                            Ok(_) => Errno::NOENT,
                        })
                    }
                    other => other,
                }
            }
            // No such name can stand there.
            Err(Errno::ILSEQ) => Err(Errno::NOENT),
            Err(e) => Err(e),
        }
    }

    /// A directory that only keys made, on bricks that have such keys.
    fn dir_elsewhere(&self, path: &FilePath, at: &Locator) -> FileResult<Option<Node>> {
        let group = self.shared.group_of(at);
        let own: Vec<_> = self.shared.in_sync(group);
        let live = self.shared.live_members();
        for member in live {
            if own.iter().any(|own| own.id == member.id) {
                continue;
            }
            if let Ok(node) = node_on(&member, path, at)
                && is_dir(node.met.attr.mode)
                && self.holds_names(&member, path)?
            {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// A path with what was found at it before. Errors: ESTALE where it is another file.
    pub(super) fn node_as(&self, path: &FilePath, id: FileId) -> FileResult<Node> {
        self.node(path)?.require(id)
    }
}

fn root_on(member: &OsMember) -> FileResult<Node> {
    dir_on(member, &FilePath::root(), |_| (number_of(&[b"r"]), true))
}

fn dir_on(
    member: &OsMember,
    path: &FilePath,
    number: impl Fn(&OwnedFd) -> (u64, bool),
) -> FileResult<Node> {
    let fd = member.inner.disk().open_node(path)?;
    let met = meet(fd.as_fd())?;
    if !is_dir(met.attr.mode) {
        return Err(Errno::NOENT);
    }
    let (ident, is_own) = number(&fd);
    Ok(Node {
        attr: shown(&met, ident, is_own),
        member: Arc::clone(member),
        fd,
        met,
        ident,
        record: None,
    })
}

/// What a mount shows. A number that is made of a path is told from a later one of the path by the
/// time the directory was made.
fn shown(met: &Met, ident: u64, is_own: bool) -> FileAttr {
    FileAttr {
        ino: ident,
        generation: match is_own {
            true => 1,
            false => met.attr.generation,
        },
        ..met.attr
    }
}

/// What stands at a path on one brick.
pub fn node_on(member: &OsMember, path: &FilePath, at: &Locator) -> FileResult<Node> {
    let disk = member.inner.disk();
    let fd = disk.open_node(path)?;
    let met = meet(fd.as_fd())?;
    let mode = met.attr.mode;
    if is_dir(mode) {
        return dir_on(member, path, |fd| dir_ident(at, fd.as_fd()));
    }
    let mut record = None;
    let ident = if is_regular(mode) {
        let found = record_on(member, at, &fd)?;
        let ident = ident_of(at, &found);
        record = Some(found);
        ident
    } else {
        let (bucket, key) = (at.bucket.as_str().as_bytes(), at.key.as_str().as_bytes());
        let what = match is_symlink(mode) {
            true => link_text(fd.as_fd())?.as_bytes().to_vec(),
            false => (mode & KIND).to_le_bytes().to_vec(),
        };
        number_of(&[b"s", bucket, key, &what])
    };
    Ok(Node {
        attr: FileAttr {
            link_count: 1,
            ..shown(&met, ident, true)
        },
        member: Arc::clone(member),
        fd,
        met,
        ident,
        record,
    })
}

fn record_on(member: &OsMember, at: &Locator, fd: &OwnedFd) -> FileResult<Record> {
    match xattr(fd.as_fd(), XATTR_NAME.as_ref()) {
        Err(Errno::NODATA) => Ok(Record::default()),
        Ok(bytes) => match Stored::decode(&bytes) {
            Ok(Stored::Whole(record)) => Ok(*record),
            // It stands beside the file.
            _ => {
                let found = member.inner.ident_at(at).map_err(|e| e.errno())?;
                Ok(found.map(|(_, record, _)| record).unwrap_or_default())
            }
        },
        Err(Errno::OPNOTSUPP) => {
            let found = member.inner.ident_at(at).map_err(|e| e.errno())?;
            Ok(found.map(|(_, record, _)| record).unwrap_or_default())
        }
        Err(e) => Err(e),
    }
}
