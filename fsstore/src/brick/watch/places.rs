//! Where a directory is, by its handle: in the volume, at which path, or elsewhere.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, StatxFlags};

use super::event::Handle;
use super::fanotify::open_handle;
use crate::files::FilePath;
use crate::keypath::RESERVED;
use crate::name::BucketName;

/// Most directories kept in memory: a few hundred bytes each.
const MAX_KNOWN: usize = 32_768;

/// What a name belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spot {
    /// It may be a bucket.
    Bucket(BucketName),
    /// It stands at this path below a bucket's directory; empty for the directory itself.
    Below(BucketName, Vec<u8>),
    /// The root itself, or what can be no bucket's.
    Nothing,
}

/// See the module.
pub struct Places {
    root: Arc<OwnedFd>,
    root_path: Vec<u8>,
    known: HashMap<Handle, Option<Arc<[u8]>>>,
    /// Why a handle could not be opened, though what it names is there.
    failed: Option<io::Error>,
}

impl Places {
    /// Of a volume with this root.
    pub fn new(root: Arc<OwnedFd>) -> io::Result<Self> {
        let root_path = path_of(root.as_fd())?;
        Ok(Self {
            root,
            root_path,
            known: HashMap::new(),
            failed: None,
        })
    }

    /// Where the root is.
    pub fn root_path(&self) -> &[u8] {
        &self.root_path
    }

    /// Forgets them all: a directory was moved.
    pub fn forget(&mut self) {
        self.known.clear();
        if let Ok(path) = path_of(self.root.as_fd()) {
            self.root_path = path;
        }
    }

    /// The path of a directory below the root, empty for the root; none where it is outside, is
    /// portico's own or is gone.
    pub fn find(&mut self, dir: &Handle) -> Option<Arc<[u8]>> {
        if let Some(known) = self.known.get(dir) {
            return known.clone();
        }
        let opened = match open_handle(self.root.as_fd(), dir) {
            Ok(opened) => opened,
            // What is gone is not kept: it costs nothing any more.
            Err(e) if e.raw_os_error() == Some(libc::ESTALE) => return None,
            Err(e) => {
                self.failed = Some(e);
                return None;
            }
        };
        if link_count(opened.as_fd()) == 0 {
            return None;
        }
        let path = path_of(opened.as_fd()).ok()?;
        let place = below(&self.root_path, &path).map(Arc::from);
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(dir.clone(), place.clone());
        place
    }

    /// Why what was told of could not be found since this was asked last, though it is there.
    pub fn failure(&mut self) -> Option<io::Error> {
        self.failed.take()
    }

    /// The number of an inode; none where it is gone.
    pub fn ino_of(&self, object: &Handle) -> Option<u64> {
        let opened = open_handle(self.root.as_fd(), object).ok()?;
        let stat = fs::statx(&opened, "", AtFlags::EMPTY_PATH, StatxFlags::INO).ok()?;
        Some(stat.stx_ino)
    }
}

fn link_count(fd: BorrowedFd<'_>) -> u32 {
    fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::NLINK).map_or(0, |stat| stat.stx_nlink)
}

/// Where a descriptor leads. Source: proc_pid_fd(5).
fn path_of(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let target = fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
    Ok(target.into_bytes())
}

/// The part of a directory's path below the root; none outside of it and in what is portico's own.
fn below<'a>(root: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(root)?;
    let rest = match rest.strip_prefix(b"/") {
        Some(rest) => rest,
        None if rest.is_empty() || root.ends_with(b"/") => rest,
        None => return None,
    };
    let first = rest.split(|b| *b == b'/').next().unwrap_or_default();
    (first != RESERVED.as_bytes()).then_some(rest)
}

/// Whether anything is mounted below a directory, as /proc/self/mountinfo says: the mount point is
/// the fifth word of a line. Source: proc_pid_mountinfo(5).
pub fn mounts_below(mountinfo: &[u8], dir: &[u8]) -> bool {
    let mut lines = mountinfo.split(|b| *b == b'\n');
    lines.any(|line| {
        let point = line.split(|b| *b == b' ').nth(4).unwrap_or_default();
        let point = unescaped(point);
        below(dir, &point).is_some_and(|rest| !rest.is_empty())
    })
}

/// Blanks and backslashes are written as \ and three octal digits.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let code = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        (rest, _) = match code {
            Some(byte) => (&after[3..], plain.push(byte)),
            None => (after, plain.push(*first)),
        };
    }
    plain
}

/// The path of a name in a directory; of `.`, the directory's own.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match (dir, name) {
        (_, b".") => dir.to_vec(),
        (b"", _) => name.to_vec(),
        _ => [dir, b"/", name].concat(),
    }
}

/// What a path below the root belongs to.
pub fn spot_of(path: &[u8]) -> Spot {
    let (first, rest) = match path.iter().position(|b| *b == b'/') {
        Some(end) => (&path[..end], Some(&path[end + 1..])),
        None => (path, None),
    };
    let bucket = std::str::from_utf8(first).ok();
    match bucket.and_then(|name| BucketName::parse(name).ok()) {
        None => Spot::Nothing,
        Some(bucket) => match rest {
            None => Spot::Bucket(bucket),
            Some(rest) => Spot::Below(bucket, rest.to_vec()),
        },
    }
}

/// As mounts name it; none for what no mount shows.
pub fn file_path(path: &[u8]) -> Option<FilePath> {
    let names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
    let path = names
        .map(OsStr::from_bytes)
        .try_fold(FilePath::root(), |path, name| path.join(name));
    path.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_in_the_volume_or_not() {
        for (root, path, expected) in [
            ("/srv/main", "/srv/main", Some("")),
            ("/srv/main", "/srv/main/b", Some("b")),
            ("/srv/main", "/srv/main/b/x/y", Some("b/x/y")),
            ("/srv/main", "/srv/main2/b", None),
            ("/srv/main", "/srv", None),
            ("/srv/main", "/srv/main/.portico", None),
            ("/srv/main", "/srv/main/.portico/staging", None),
            ("/srv/main", "/srv/main/b/.portico", Some("b/.portico")),
            ("/", "/", Some("")),
            ("/", "/b/x", Some("b/x")),
            ("/", "/.portico/keys", None),
        ] {
            let found = below(root.as_bytes(), path.as_bytes());
            assert_eq!(found, expected.map(str::as_bytes), "{root} {path}");
        }
    }

    #[test]
    fn a_mount_below_is_seen() {
        let mounts = b"22 1 8:1 / / rw - ext4 /dev/a rw\n\
                       23 22 0:5 / /srv/my\\040tree/b rw shared:1 - tmpfs none rw\n";
        assert!(mounts_below(mounts, b"/srv/my tree"));
        assert!(mounts_below(mounts, b"/srv"));
        assert!(!mounts_below(mounts, b"/srv/my tree/b"));
        assert!(!mounts_below(mounts, b"/srv/my"));
        assert!(!mounts_below(b"", b"/srv"));
    }

    #[test]
    fn a_name_belongs_to_a_bucket() {
        let bucket = || BucketName::parse("buck").unwrap();
        assert_eq!(spot_of(&join(b"", b"buck")), Spot::Bucket(bucket()));
        assert_eq!(
            spot_of(&join(b"buck", b"k")),
            Spot::Below(bucket(), b"k".to_vec())
        );
        assert_eq!(
            spot_of(&join(b"buck/d", b".")),
            Spot::Below(bucket(), b"d".to_vec())
        );
        assert_eq!(
            spot_of(&join(b"buck/d", b"\xff")),
            Spot::Below(bucket(), b"d/\xff".to_vec())
        );
        assert_eq!(spot_of(&join(b"", b".")), Spot::Nothing);
        assert_eq!(spot_of(b".portico"), Spot::Nothing);
        assert_eq!(spot_of(b"\xff\xff\xff/k"), Spot::Nothing);
    }
}
