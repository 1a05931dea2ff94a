//! What the kernel asks by a number alone: it has a file handle of a client of NFS, and has
//! forgotten the file, or never knew it since it was mounted. Then it looks up `.` and `..` of a
//! number. Source: fuse_get_dentry, fuse_get_parent in fs/fuse/inode.c.
//!
//! A generation goes with the number. The kernel itself compares it, by its low 32 bits.

use std::ffi::OsStr;

use fsstore::files::{Errno, FileAttr, FileResult, Files, Target};

use super::{Entry, FileSystem};
use crate::posix::nodes::{ROOT, is_stand_in};

impl<V: Files, B> FileSystem<V, B> {
    /// What has this number. Errors: ESTALE.
    pub(super) fn lookup_itself(&self, ino: u64) -> FileResult<Entry> {
        match self.entry_again(ino) {
            Err(Errno::STALE) => {
                let placed = self.place_forgotten(ino)?;
                let found = self.entry_again(ino);
                self.nodes.forget(placed, 0);
                found
            }
            outcome => outcome,
        }
    }

    /// The directory above. Errors: ESTALE.
    pub(super) fn lookup_above(&self, ino: u64) -> FileResult<Entry> {
        if let Some(parent) = self.nodes.parent(ino) {
            return self.entry_again(parent);
        }
        let placed = self.place_forgotten(ino)?;
        let parent = self.nodes.parent(ino).ok_or(Errno::STALE);
        let found = parent.and_then(|parent| self.entry_again(parent));
        self.nodes.forget(placed, 0);
        found
    }

    /// The kernel is given a node once more, by no name.
    fn entry_again(&self, ino: u64) -> FileResult<Entry> {
        let attr = self.look(ino, |target: Target<'_, V::OpenFile>| {
            self.volume.attr(target)
        })?;
        if ino == ROOT {
            // By this number and generation the kernel knows it from the start. What stat(2) says
            // it asks for.
            let attr = FileAttr {
                ino: ROOT,
                generation: 0,
                ..attr
            };
            let may_remember = false;
            return Ok(Entry { attr, may_remember });
        }
        let attr = FileAttr { ino, ..attr };
        let may_remember = self.nodes.met_again(ino, &attr).ok_or(Errno::STALE)?;
        Ok(Entry { attr, may_remember })
    }

    /// Gives a file that the kernel does not know its place in the table. Gives the number of what
    /// was placed last, which may go again.
    fn place_forgotten(&self, ino: u64) -> FileResult<u64> {
        if ino == ROOT || is_stand_in(ino) {
            return Err(Errno::STALE);
        }
        let path = self.volume.find(ino)?;
        let _still = self.still();
        let base = self.nodes.path(ROOT)?;
        let mut names = path.components();
        if !base.components().all(|above| names.next() == Some(above)) {
            return Err(Errno::STALE);
        }
        let (mut at, mut number) = (base, ROOT);
        let mut place = |name: &OsStr| {
            at = at.join(name)?;
            let mut attr = self.volume.lookup(&at)?;
            number = self.nodes.placed(number, name, &mut attr);
            Ok(())
        };
        let placed: FileResult<()> = names.try_for_each(&mut place);
        if placed.is_ok() && number == ino {
            return Ok(number);
        }
        self.nodes.forget(number, 0);
        Err(Errno::STALE)
    }
}
