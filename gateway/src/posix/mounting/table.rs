//! The kernel's table of mounts, and one line of it that is watched. Source:
//! proc_pid_mountinfo(5).

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::SUBTYPE;

const TABLE: &str = "/proc/self/mountinfo";
/// Asks for the number of a mount that is never given to another. Source: statx(2),
/// STATX_MNT_ID_UNIQUE, Linux 6.8.
const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// Which mount it is: its number, which no other has while it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountId(u64);

struct Line<'a> {
    id: MountId,
    /// The mount it stands on.
    parent: MountId,
    /// Where in its file system it begins.
    root: Vec<u8>,
    place: Vec<u8>,
    kind: &'a [u8],
    source: Vec<u8>,
}

fn lines(table: &[u8]) -> impl Iterator<Item = Line<'_>> {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
        let (id, parent) = (MountId(number()?), MountId(number()?));
        let root = unescape(fields.nth(1)?);
        let place = unescape(fields.next()?);
        let mut fields = fields.skip_while(|field| *field != b"-");
        let kind = fields.nth(1)?;
        let source = unescape(fields.next()?);
        Some(Line {
            id,
            parent,
            root,
            place,
            kind,
            source,
        })
    })
}

/// The mount at a place that no other at this place stands on: their order in the table is that of
/// their making, and one may be put beneath another.
fn uppermost<'a>(table: &'a [u8], at: &Path) -> Option<Line<'a>> {
    let at = at.as_os_str().as_encoded_bytes();
    let here = || lines(table).filter(|line| line.place == at);
    here().find(|line| !here().any(|other| other.parent == line.id))
}

fn is_of_portico(kind: &[u8]) -> bool {
    kind.strip_prefix(b"fuse.") == Some(SUBTYPE.as_bytes())
}

/// True where the uppermost mount at `at` is one of portico, dead or alive. Asks no mount.
pub fn is_ours(at: &Path) -> Result<bool, Error> {
    Ok(ours(at)?.is_some())
}

/// The uppermost mount at `at`, where it is one of portico, dead or alive. Asks no mount.
pub fn ours(at: &Path) -> Result<Option<MountId>, Error> {
    let table = std::fs::read(TABLE)?;
    let found = uppermost(&table, at).filter(|line| is_of_portico(line.kind));
    Ok(found.map(|line| line.id))
}

/// True where the uppermost mount at `at` is of a directory of this name in the file system that
/// the mounts of a tree share.
pub fn is_bucket_of(source: &str, bucket: &str, at: &Path) -> Result<bool, Error> {
    let table = std::fs::read(TABLE)?;
    let root = format!("/{bucket}");
    Ok(uppermost(&table, at).is_some_and(|line| {
        is_of_portico(line.kind) && line.source == source.as_bytes() && line.root == root.as_bytes()
    }))
}

/// Undoes the table's `\040` and its like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).filter(|_| *first == b'\\');
        let octal = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

/// A mount whose end is waited for. It is not held: that would keep it from being unmounted.
#[derive(Debug)]
pub struct Watched {
    /// The next mount may get it once this one is gone.
    id: MountId,
    /// Its number for ever, where the kernel gives such.
    unique_id: Option<u64>,
    at: PathBuf,
    /// Polled, it tells of each change of the table since it was opened or last polled.
    table: File,
}

/// What a wait for a mount's end has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The mount is unmounted.
    Gone,
    /// Something else happened first.
    Else,
    /// Nothing happened for as long as was waited.
    Nothing,
}

impl Watched {
    /// Watches a mount that stands at `at`, or is about to.
    pub(super) fn new(mount: BorrowedFd<'_>, at: &Path) -> Result<Self, Error> {
        let number = |what| mount_id(mount, Path::new(""), AtFlags::EMPTY_PATH, what);
        let id = number(StatxFlags::MNT_ID)?.ok_or(ErrorKind::Unsupported)?;
        Ok(Self {
            id: MountId(id),
            unique_id: number(UNIQUE)?,
            at: at.to_owned(),
            table: File::open(TABLE)?,
        })
    }

    /// Which one it is.
    pub fn id(&self) -> MountId {
        self.id
    }

    /// Whether both are the same mount, as far as the kernel's numbers tell.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.id, self.unique_id) == (other.id, other.unique_id)
    }

    /// Whether it is mounted. Before Linux 6.8 another mount of portico that is made at once in its
    /// place is taken for it.
    pub fn stands(&self) -> Result<bool, Error> {
        let table = std::fs::read(TABLE)?;
        let mut ours = lines(&table).filter(|line| is_of_portico(line.kind));
        if !ours.any(|line| line.id == self.id) {
            return Ok(false);
        }
        match uppermost(&table, &self.at) {
            // Where it was, the number may be another mount's by now.
            Some(line) if line.id == self.id => Ok(self.is_the_one()),
            // It was moved, or another mount hides it.
            _ => Ok(true),
        }
    }

    /// Whether it is mounted where it was meant to be, and nothing hides it.
    pub fn is_uppermost(&self) -> Result<bool, Error> {
        let table = std::fs::read(TABLE)?;
        let found = uppermost(&table, &self.at);
        Ok(found.is_some_and(|line| line.id == self.id) && self.is_the_one())
    }

    fn is_the_one(&self) -> bool {
        let now = mount_id(CWD.as_fd(), &self.at, AtFlags::SYMLINK_NOFOLLOW, UNIQUE);
        now.is_ok_and(|now| now == self.unique_id)
    }

    /// Waits until it is gone, or until `other` can be read or is closed on the other side; where
    /// a time is given, about so long.
    pub fn wait(&self, other: BorrowedFd<'_>, longest: Option<Duration>) -> Result<Waited, Error> {
        let longest = longest.map(Timespec::try_from).transpose();
        let longest = longest.map_err(|_| ErrorKind::InvalidInput)?;
        loop {
            if !self.stands()? {
                return Ok(Waited::Gone);
            }
            let mut watched = [
                PollFd::new(&self.table, PollFlags::PRI),
                PollFd::from_borrowed_fd(other, PollFlags::IN),
            ];
            let count = rustix::io::retry_on_intr(|| poll(&mut watched, longest.as_ref()))?;
            if !watched[1].revents().is_empty() {
                return Ok(Waited::Else);
            }
            if count == 0 {
                return Ok(Waited::Nothing);
            }
        }
    }
}

/// The number of a mount; none where the kernel has none of this kind. The file system itself is
/// not asked: it may be dead.
fn mount_id(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: AtFlags,
    what: StatxFlags,
) -> Result<Option<u64>, Error> {
    let flags = flags | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let found = statx(dir, path, flags, what)?;
    Ok((found.stx_mask & what.bits() != 0).then_some(found.stx_mnt_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
29 1 254:0 / / rw - ext4 /dev/root rw
30 29 0:40 / /mnt/a\\040b rw shared:1 - fuse.portico main rw
31 29 0:41 / /mnt/c rw - fuse.portico main rw
32 31 0:42 / /mnt/c rw - tmpfs none rw
";

    #[test]
    fn the_uppermost_mount_counts() {
        let at = |path| uppermost(TABLE, Path::new(path)).map(|line| (line.id.0, line.kind));
        assert_eq!(at("/mnt/a b"), Some((30, &b"fuse.portico"[..])));
        assert_eq!(at("/mnt/c"), Some((32, &b"tmpfs"[..])));
        assert_eq!(at("/mnt"), None);
    }

    #[test]
    fn a_mount_put_beneath_another_is_not_the_uppermost() {
        let table =
            b"30 31 0:40 / /m rw - fuse.portico d rw\n31 1 0:40 / /m rw - fuse.portico d rw\n";
        let found = uppermost(table, Path::new("/m")).map(|line| line.id.0);
        assert_eq!(found, Some(30));
    }

    #[test]
    fn a_line_says_what_is_mounted() {
        let line = b"50 27 0:45 /b\\040c /m rw - fuse.portico /d\\040e rw";
        let found = lines(line).next().unwrap();
        assert_eq!((found.root, found.source), (b"/b c".into(), b"/d e".into()));
    }

    #[test]
    fn escapes_of_the_table_are_undone() {
        assert_eq!(unescape(b"a\\040b\\134c\\"), b"a b\\c\\");
    }
}
