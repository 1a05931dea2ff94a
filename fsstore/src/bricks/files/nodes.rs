//! Directories, symbolic links and the like, as a brick that comes into sync is compared by and
//! gets them; and what regular files have besides their bytes and record.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use crc_fast::CrcAlgorithm;

use super::super::kinds::{Copied, Mark, Name};
use crate::brick::Inner;
use crate::brick::commit::Turn;
use crate::brick::disk::{Disk, FileKind};
use crate::brick::in_place::{DIR_IDENT, Posix, Special, number_of, path_of};
use crate::brick::osdisk::OsDisk;
use crate::brick::osdisk::posix::{
    self, Met, is_dir, is_regular, is_symlink, link_text, meet, xattr, xattr_names,
};
use crate::error::{Result, StoreError};
use crate::files::{Errno, FileResult};
use crate::keypath::key_of_plain;
use crate::name::BucketName;
use crate::object::Locator;

/// The bits of a mode that are no type.
const PERMISSIONS: u32 = 0o7_777;
/// Attributes that are copied, by how their names begin; the record's own are not.
const COPIED: [&[u8]; 3] = [b"user.", b"system.posix_acl_", b"security.capability"];
/// How the names of portico's own attributes begin.
pub const OWN_XATTRS: &[u8] = b"user.portico";

fn fail(errno: Errno) -> StoreError {
    StoreError::from_io("look at a name", errno.into())
}

/// What a file or directory has besides bytes and record.
pub fn posix_of(fd: BorrowedFd<'_>, met: &Met) -> FileResult<Posix> {
    let mut xattrs = Vec::new();
    let names = match xattr_names(fd) {
        Err(Errno::OPNOTSUPP) => Vec::new(),
        other => other?,
    };
    for name in names {
        let bytes = name.as_bytes();
        let is_copied = COPIED.iter().any(|head| bytes.starts_with(head));
        if is_copied && !bytes.starts_with(OWN_XATTRS) {
            match xattr(fd, &name) {
                Ok(value) => xattrs.push((bytes.to_vec(), value)),
                Err(Errno::NODATA) => {}
                Err(e) => return Err(e),
            }
        }
    }
    xattrs.sort();
    Ok(Posix {
        mode: met.attr.mode & PERMISSIONS,
        uid: met.attr.uid,
        gid: met.attr.gid,
        xattrs,
    })
}

/// The number of a directory: the one it was made with, else one of its path.
pub fn dir_ident(at: &Locator, fd: BorrowedFd<'_>) -> (u64, bool) {
    let stored = xattr(fd, DIR_IDENT.as_ref()).ok();
    let own = stored.and_then(|value| <[u8; 8]>::try_from(value).ok());
    match own {
        Some(own) => (u64::from_le_bytes(own), true),
        None => {
            let (bucket, key) = (at.bucket.as_str(), at.key.as_str());
            (number_of(&[b"d", bucket.as_bytes(), key.as_bytes()]), false)
        }
    }
}

fn open<D: Disk>(inner: &Inner<D>, at: &Locator) -> Result<Option<(std::os::fd::OwnedFd, Met)>> {
    let Some(os) = inner.disk().os() else {
        return Ok(None);
    };
    match os.open_node(&path_of(at)?) {
        Ok(fd) => {
            let met = meet(fd.as_fd()).map_err(fail)?;
            Ok(Some((fd, met)))
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => Ok(None),
        Err(e) => Err(fail(e)),
    }
}

/// What stands at a path and is neither a regular file nor a directory.
fn special_at<D: Disk>(inner: &Inner<D>, at: &Locator) -> Result<Option<(Special, Posix, i64)>> {
    match inner.kind_at(at)? {
        Some(facts) if matches!(facts.kind, FileKind::Symlink | FileKind::Other) => {}
        _ => return Ok(None),
    }
    let Some((fd, met)) = open(inner, at)? else {
        return Ok(None);
    };
    let found = special_of(fd.as_fd(), &met).map_err(fail)?;
    Ok(found.map(|(special, posix)| (special, posix, met.attr.mtime_ns)))
}

/// As a change says it; none of a regular file and a directory.
pub fn special_of(fd: BorrowedFd<'_>, met: &Met) -> FileResult<Option<(Special, Posix)>> {
    let mode = met.attr.mode;
    if is_dir(mode) || is_regular(mode) {
        return Ok(None);
    }
    let special = match is_symlink(mode) {
        true => Special::Symlink(link_text(fd)?.as_bytes().to_vec()),
        false => Special::Node(mode & !PERMISSIONS, met.attr.rdev),
    };
    let posix = Posix {
        mode: mode & PERMISSIONS,
        uid: met.attr.uid,
        gid: met.attr.gid,
        xattrs: Vec::new(),
    };
    Ok(Some((special, posix)))
}

fn sum_of(what: &impl serde::Serialize) -> u64 {
    let bytes = serde_json::to_vec(what).unwrap_or_default();
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, &bytes)
}

/// What tells a special file from another; none where none stands there.
pub fn mark_of_special<D: Disk>(inner: &Inner<D>, at: &Locator) -> Result<Option<Mark>> {
    let found = special_at(inner, at)?;
    Ok(found.map(|found| Mark {
        stamp: None,
        rest: (0, found.2),
        attrs: sum_of(&found),
        digests: None,
    }))
}

/// A special file, to be handed over.
pub fn copy_special<D: Disk>(inner: &Inner<D>, at: &Locator) -> Result<Option<Copied>> {
    let found = special_at(inner, at)?;
    Ok(found.map(|(special, posix, mtime_ns)| Copied::Special(special, posix, mtime_ns)))
}

fn dir_at<D: Disk>(inner: &Inner<D>, at: &Locator) -> Result<Option<(u64, Posix)>> {
    let Some((fd, met)) = open(inner, at)? else {
        return Ok(None);
    };
    if !is_dir(met.attr.mode) || inner.is_made_by_keys(at)? {
        return Ok(None);
    }
    let posix = posix_of(fd.as_fd(), &met).map_err(fail)?;
    Ok(Some((dir_ident(at, fd.as_fd()).0, posix)))
}

/// What tells a directory from another; none where none stands there, or one that keys made.
pub fn mark_of_dir<D: Disk>(inner: &Inner<D>, at: &Locator) -> Result<Option<Mark>> {
    let found = dir_at(inner, at)?;
    Ok(found.map(|found| Mark {
        stamp: None,
        rest: (0, 0),
        attrs: sum_of(&found),
        digests: None,
    }))
}

/// A directory, to be handed over.
pub fn copy_dir<D: Disk>(inner: &Inner<D>, at: &Locator) -> Result<Option<Copied>> {
    let found = dir_at(inner, at)?;
    Ok(found.map(|(ident, posix)| Copied::Dir(ident, posix)))
}

/// In a turn: makes a name what was handed over.
pub fn put_special<D: Disk>(
    inner: &Inner<D>,
    turn: &mut Turn<'_, D>,
    at: &Locator,
    (special, posix, mtime_ns): (&Special, &Posix, i64),
) -> Result<()> {
    inner.make_special_now(turn, at, special, posix, mtime_ns)
}

/// What a regular file has besides bytes and record; none on a disk that knows no more.
pub fn posix_of_file(fd: Option<BorrowedFd<'_>>) -> Result<Option<Box<Posix>>> {
    let Some(fd) = fd else { return Ok(None) };
    let met = meet(fd).map_err(fail)?;
    let posix = posix_of(fd, &met).map_err(fail)?;
    Ok(Some(Box::new(posix)))
}

/// The names of a bucket that no listing has: directories, and what is no regular file.
pub fn names_below<D: Disk>(
    inner: &Inner<D>,
    bucket: &BucketName,
    visit: &mut dyn FnMut(Locator, Name),
) -> Result<()> {
    let Some(os) = inner.disk().os() else {
        return Ok(());
    };
    let mut left = vec![String::new()];
    while let Some(path) = left.pop() {
        names_in(os, bucket, &path, &mut |name, kind| {
            let below = match path.is_empty() {
                true => name.to_owned(),
                false => format!("{path}/{name}"),
            };
            let Some(key) = key_of_plain(below.as_bytes()) else {
                return;
            };
            let at = Locator::new(bucket.clone(), key);
            match kind {
                FileKind::Dir => {
                    left.push(below);
                    let name = Name::Dir(at.bucket.clone(), at.key.clone());
                    visit(at, name);
                }
                FileKind::Symlink | FileKind::Other => {
                    let name = Name::object(&at);
                    visit(at, name);
                }
                FileKind::File => {}
            }
        })?;
    }
    Ok(())
}

fn names_in(
    os: &OsDisk,
    bucket: &BucketName,
    path: &str,
    visit: &mut dyn FnMut(&str, FileKind),
) -> Result<()> {
    let full = match path.is_empty() {
        true => bucket.as_str().to_owned(),
        false => format!("{bucket}/{path}"),
    };
    let fail = |e| StoreError::from_io("read a directory", e);
    let dir = match os.open_dir(&os.root(), &full) {
        Err(e) if crate::brick::tree::is_absent(&e) => return Ok(()),
        other => other.map_err(fail)?,
    };
    let read = os.read_dir(&dir, &mut |entry| {
        let kind = entry.kind.or_else(|| {
            let met = posix::meet_at(&dir, entry.name.as_ref());
            met.ok().map(|met| met.facts.kind)
        });
        if let Some(kind) = kind {
            visit(&entry.name, kind);
        }
        true
    });
    read.map_err(fail)
}
