//! Directories being read. Places in them are the file system's own, so that an entry that
//! stands all the while is met once whatever else comes and goes.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::osdisk::OsDisk;
use super::super::osdisk::posix::{
    self, DIRECTORY_BITS, is_dir, list_next, meet, meet_at, seek_directory,
};
use super::place::{Place, bucket_of, place_of};
use crate::files::{Errno, FileAttr, FileEntry, FileId, FilePath, FileResult, OpenDir};

/// Read from the kernel at once, in bytes.
const READ_LEN_BYTES: usize = 32 << 10;

/// A directory of a brick, being read through a mount.
pub struct PosixDir {
    fd: Arc<OwnedFd>,
    /// In the root only buckets exist.
    is_root: bool,
    /// Guards the descriptor's place, which is that after `read`.
    ahead: Mutex<Ahead>,
}

/// Entries read ahead of whoever reads.
#[derive(Default)]
struct Ahead {
    names: Vec<u8>,
    entries: Vec<Entry>,
    /// How many of them were handed out.
    given: usize,
    /// Where the first of those left stands.
    from: u64,
}

struct Entry {
    name_end: usize,
    ino: u64,
    kind: u32,
    next: u64,
}

impl PosixDir {
    /// Opens a directory. Errors: ENOENT, ENOTDIR; ESTALE where it is another than `id`.
    pub(super) fn open(disk: &OsDisk, path: &FilePath, id: Option<FileId>) -> FileResult<Self> {
        let place = place_of(path)?;
        let fd = disk.open_directory(path)?;
        if let Some(id) = id
            && !id.is_of(&meet(fd.as_fd())?.attr)
        {
            return Err(Errno::STALE);
        }
        Ok(Self {
            fd,
            is_root: matches!(place, Place::Root),
            ahead: Mutex::default(),
        })
    }

    /// Opens whichever directory stands at a path.
    pub(crate) fn open_path(disk: &OsDisk, path: &FilePath) -> FileResult<Self> {
        Self::open(disk, path, None)
    }

    /// Whether an entry exists for a mount.
    fn shows(&self, name: &OsStr, kind: u32) -> bool {
        if matches!(name.as_bytes(), b"." | b"..") {
            return false;
        }
        if !self.is_root {
            return true;
        }
        bucket_of(name).is_ok()
            && match kind {
                0 => meet_at(&self.fd, name).is_ok_and(|met| is_dir(met.attr.mode)),
                kind => kind == DIRECTORY_BITS,
            }
    }

    fn read_on(&self, ahead: &mut Ahead) -> FileResult<bool> {
        let Ahead {
            names,
            entries,
            given,
            ..
        } = ahead;
        names.clear();
        entries.clear();
        *given = 0;
        let mut buffer = [MaybeUninit::uninit(); READ_LEN_BYTES];
        list_next(&self.fd, &mut buffer, &mut |(name, ino, kind, next)| {
            names.extend_from_slice(name.as_bytes());
            entries.push(Entry {
                name_end: names.len(),
                ino,
                kind,
                next,
            });
        })
    }
}

impl Ahead {
    /// The next entry and its name.
    fn peek(&self) -> Option<(&Entry, &OsStr)> {
        let entry = self.entries.get(self.given)?;
        let begin = match self.given {
            0 => 0,
            given => self.entries[given - 1].name_end,
        };
        Some((entry, OsStr::from_bytes(&self.names[begin..entry.name_end])))
    }
}

impl OpenDir for PosixDir {
    fn read(&self, from: u64, visit: &mut dyn FnMut(FileEntry<'_>) -> bool) -> FileResult<()> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        // From the beginning everything is read anew. Source: rewinddir(3).
        if from == 0 || from != ahead.from {
            *ahead = Ahead::default();
            seek_directory(&self.fd, from)?;
            ahead.from = from;
        }
        loop {
            while let Some((entry, name)) = ahead.peek() {
                let met = FileEntry {
                    name,
                    ino: entry.ino,
                    kind: entry.kind,
                    next: entry.next,
                };
                let next = entry.next;
                if self.shows(name, entry.kind) && !visit(met) {
                    return Ok(());
                }
                ahead.from = next;
                ahead.given += 1;
            }
            if !self.read_on(&mut ahead)? {
                return Ok(());
            }
        }
    }

    fn read_ahead(&self) {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if ahead.peek().is_none() {
            // Whoever reads next hears of an error.
            let _ = self.read_on(&mut ahead);
        }
    }

    fn attr(&self) -> FileResult<FileAttr> {
        Ok(meet(self.fd.as_fd())?.attr)
    }

    fn attr_of(&self, name: &OsStr) -> FileResult<FileAttr> {
        // A name, and no path out of here.
        FilePath::root().join(name)?;
        let attr = meet_at(&self.fd, name)?.attr;
        if self.is_root && (bucket_of(name).is_err() || !is_dir(attr.mode)) {
            return Err(Errno::NOENT);
        }
        Ok(attr)
    }

    fn sync(&self) -> FileResult<()> {
        posix::sync_dir(self.fd.as_fd())
    }
}
