//! Directories being read.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fsstore::files::{Errno, FileResult, Files, OpenDir};

use super::{DIRECTORY, Entry, FileSystem};
use crate::posix::nodes::KIND;

/// Most entries that are listed with attributes from the beginning of a directory.
const FIRST_LOOKS: usize = 64;

/// A directory held open: none where it was removed before.
#[derive(Debug)]
pub(super) struct DirHandle<D> {
    ino: u64,
    dir: Option<D>,
    /// How many names were read since the beginning.
    read: AtomicUsize,
}

/// An entry of a directory being listed.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    /// Its name; `.` and `..` too.
    pub name: &'a OsStr,
    /// Its inode number.
    pub ino: u64,
    /// The type bits of its mode; 0 where it has vanished since.
    pub kind: u32,
    /// Where to go on after it.
    pub next: u64,
}

impl<V: Files, B> FileSystem<V, B> {
    /// Opens a directory. One that was removed while someone stands in it opens, and is empty.
    pub fn open_dir(&self, ino: u64) -> FileResult<u64> {
        let still = self.still();
        let dir = match self.by_name(ino, |path, id| self.volume.open_dir(path, id)) {
            Ok(dir) => Some(dir),
            Err(Errno::STALE) if self.nodes.last_words(ino).is_some() => None,
            Err(error) => return Err(error),
        };
        drop(still);
        let number = self.dirs.number();
        let read = AtomicUsize::new(0);
        self.dirs
            .put(number, Arc::new(DirHandle { ino, dir, read }));
        Ok(number)
    }

    /// Lists a directory from `from` on (0, or an entry's `next`), until `visit` says false. An
    /// error after the first entry is for the next call.
    pub fn read_dir(
        &self,
        number: u64,
        from: u64,
        mut visit: impl FnMut(Listed<'_>) -> bool,
    ) -> FileResult<()> {
        let handle = self.dirs.get(number).ok_or(Errno::BADF)?;
        let Some(dir) = &handle.dir else {
            return Ok(());
        };
        let own = self.real(handle.ino);
        let above = self.nodes.parent(handle.ino);
        let above = above.map_or(own, |ino| self.real(ino));
        for (at, name, ino) in [(0, ".", own), (1, "..", above)] {
            let listed = Listed {
                name: OsStr::new(name),
                ino,
                kind: DIRECTORY,
                next: at + 1,
            };
            if from <= at && !visit(listed) {
                return Ok(());
            }
        }
        if volume_place(from) == 0 {
            handle.read.store(0, Ordering::Relaxed);
        }
        let (mut any, mut ended) = (false, true);
        let read = dir.read(volume_place(from), &mut |entry| {
            let kind = match entry.kind {
                0 => dir.attr_of(entry.name).map_or(0, |attr| attr.mode & KIND),
                kind => kind,
            };
            ended = visit(Listed {
                name: entry.name,
                ino: entry.ino,
                kind,
                next: kernel_place(entry.next),
            });
            handle.read.fetch_add(usize::from(ended), Ordering::Relaxed);
            any = true;
            ended
        });
        match read {
            Err(error) if !any => Err(error),
            Ok(()) if ended => {
                let count = handle.read.load(Ordering::Relaxed);
                self.nodes.listed(handle.ino, count);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Reads on in a directory, so that what the kernel asks for next is at hand.
    pub fn read_ahead(&self, number: u64) {
        if let Some(handle) = self.dirs.get(number)
            && let Some(dir) = &handle.dir
        {
            dir.read_ahead();
        }
    }

    /// Lists a directory with attributes, as [`FileSystem::read_dir`]. `visit` gives whether the
    /// entry was taken; those that are, other than `.` and `..`, count as looked up. An entry
    /// that has vanished since is left out. The first time the kernel asks so whether anyone
    /// wants attributes or not, and again only where someone does: so few are given then.
    pub fn read_dir_plus(
        &self,
        number: u64,
        from: u64,
        mut visit: impl FnMut(Listed<'_>, Option<Entry>) -> bool,
    ) -> FileResult<()> {
        let handle = self.dirs.get(number).ok_or(Errno::BADF)?;
        let mut looks = 0;
        self.read_dir(number, from, |listed| {
            if matches!(listed.name.as_encoded_bytes(), b"." | b"..") {
                return visit(listed, None);
            }
            if from == 0 && looks == FIRST_LOOKS {
                return false;
            }
            looks += 1;
            let since = self.changes();
            let attr = handle.dir.as_ref().map(|dir| dir.attr_of(listed.name));
            let Some(Ok(attr)) = attr else {
                return true;
            };
            // Counted before the kernel can hear of it; taken back where there was no room.
            let entry = self.entry(handle.ino, listed.name, attr, since);
            let was_taken = visit(listed, Some(entry));
            if !was_taken {
                self.nodes.forget(entry.attr.ino, 1);
            }
            was_taken
        })
    }

    /// Gives a directory's handle back.
    pub fn release_dir(&self, number: u64) {
        if let Some(handle) = self.dirs.take(number) {
            self.nodes.kept(handle.ino, number);
        }
    }

    /// Makes a directory's names durable.
    pub fn sync_dir(&self, number: u64) -> FileResult<()> {
        let handle = self.dirs.get(number).ok_or(Errno::BADF)?;
        handle.dir.as_ref().map_or(Ok(()), OpenDir::sync)
    }
}

/// The kernel's first two places are those of `.` and `..`. A volume's own place of so low a
/// number (no file system of Linux has one, it counts them in) is moved far up.
fn kernel_place(place: u64) -> u64 {
    if place <= 2 { place + FAR } else { place }
}

/// The inverse of [`kernel_place`]; the places of `.` and `..` are the beginning.
fn volume_place(place: u64) -> u64 {
    match place {
        0..=2 => 0,
        far if (FAR..=FAR + 2).contains(&far) => far - FAR,
        place => place,
    }
}

/// A place no directory is long enough to have.
const FAR: u64 = 1 << 62;
