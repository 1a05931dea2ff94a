//! How a call finds the file that it is about: by an open file, by name, or by what was held
//! open when it was looked up.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fsstore::files::{
    Errno, FileAttr, FileId, FilePath, FileResult, Files, OpenDir, OpenFile, OpenFlags, Target,
};

use super::{DIRECTORY, Entry, FileSystem, Handle};
use crate::posix::nodes::{KIND, ROOT};

/// Most rounds with others who replace a file.
const MAX_ROUNDS: usize = 8;
/// How a file is held that may be opened next.
const TO_HOLD: OpenFlags = OpenFlags {
    read: true,
    write: false,
    append: false,
    truncate: false,
    exclusive: false,
    sync: false,
};

impl<V: Files, B> FileSystem<V, B> {
    /// Calls `act` with each path of a node until one leads to it: other hands may have taken
    /// some away, and another directory may stand where the mount begins. Errors: ESTALE where
    /// none does, and those of `act`.
    pub(super) fn by_name<T>(
        &self,
        ino: u64,
        act: impl Fn(&FilePath, FileId) -> FileResult<T>,
    ) -> FileResult<T> {
        self.settle_doubts(ino)?;
        let mut id = self.id(ino);
        let mut name_index = 0;
        loop {
            let path = self.nodes.path_by(ino, name_index)?;
            match act(&path, id) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) if ino != ROOT => name_index += 1,
                Err(Errno::STALE) => {
                    let root = self.volume.lookup(&path).map_err(|_| Errno::STALE)?;
                    if root.ino == id.ino || root.mode & KIND != DIRECTORY {
                        return Err(Errno::STALE);
                    }
                    id = FileId::any(root.ino);
                    self.root_ino.store(root.ino, Ordering::Relaxed);
                }
                outcome => return outcome,
            }
        }
    }

    /// Before a path through a directory is used that other hands may have moved: looks whether
    /// it stands there. Among several mounts each may be one, since none is told of the others'.
    pub(super) fn settle_doubts(&self, ino: u64) -> FileResult<()> {
        while let Some(doubted) = self.nodes.doubted_above(ino) {
            self.check_place(doubted)?;
        }
        if ino != ROOT && self.company.get().is_some_and(|company| !*company.alone()) {
            self.check_place(ino)?;
        }
        Ok(())
    }

    pub(super) fn check_place(&self, ino: u64) -> FileResult<()> {
        let Ok(path) = self.nodes.path(ino) else {
            self.nodes.settle(ino, true);
            return Ok(());
        };
        let stands = match self.volume.lookup(&path) {
            Ok(attr) => self.nodes.id(ino).is_of(&attr),
            Err(Errno::NOENT | Errno::NOTDIR) => false,
            Err(error) => return Err(error),
        };
        self.nodes.settle(ino, stands);
        Ok(())
    }

    /// A call that only looks at a file.
    pub(super) fn look<T>(
        &self,
        ino: u64,
        act: impl Fn(Target<'_, V::OpenFile>) -> FileResult<T>,
    ) -> FileResult<T> {
        if let Some(open) = self.nodes.handle(ino, |_| true) {
            return act(Target::Open(&open.file));
        }
        let still = self.still();
        let named = self.by_name(ino, |path, id| act(Target::Named { path, id }));
        drop(still);
        match named {
            Err(Errno::STALE) => act(Target::Open(&*self.gone(ino)?)),
            outcome => outcome,
        }
    }

    /// A file whose names are gone, where it was held when it was looked up. Errors: ESTALE;
    /// then what is looked up is held from now on, because the kernel is about to try again.
    pub(super) fn gone(&self, ino: u64) -> FileResult<Arc<V::OpenFile>> {
        self.held.get(ino).ok_or_else(|| {
            self.held.missed();
            Errno::STALE
        })
    }

    /// A call that changes a file.
    pub(super) fn change<T>(
        &self,
        ino: u64,
        act: impl Fn(Target<'_, V::OpenFile>) -> FileResult<T>,
    ) -> FileResult<T> {
        let still = self.still();
        let named = self.by_name(ino, |path, id| act(Target::Named { path, id }));
        drop(still);
        match named {
            Err(Errno::STALE) => {
                let writable = |open: &Arc<Handle<V, B>>| open.file.is_writable();
                match self.nodes.handle(ino, writable) {
                    Some(open) => act(Target::Open(&open.file)),
                    None => act(Target::Open(&*self.gone(ino)?)),
                }
            }
            outcome => outcome,
        }
    }

    /// A directory to look names up in, held open; none where the kernel does not remember
    /// either, or it cannot be opened.
    pub(super) fn near(&self, ino: u64) -> Option<Arc<V::OpenDir>> {
        if !self.remembers() {
            return None;
        }
        if let Some(dir) = self.near.get(ino) {
            return Some(dir);
        }
        let since = self.near.since();
        let opened = self.by_name(ino, |path, id| self.volume.open_dir(path, id));
        let dir = Arc::new(opened.ok()?);
        self.near.hold(ino, Arc::clone(&dir), since);
        Some(dir)
    }

    /// Whether this mount is told of whatever is done elsewhere.
    pub(super) fn remembers(&self) -> bool {
        self.is_told_all() && self.company.get().is_none_or(|company| *company.alone())
    }

    /// Goes on with a look where names are being replaced: what is found is held for the
    /// opening that follows.
    pub(super) fn lookup_to_hold(
        &self,
        parent: u64,
        name: &OsStr,
        found: FileAttr,
        since: u64,
    ) -> FileResult<Entry> {
        let path = self.place(parent, name)?;
        let mut attr = found;
        for _ in 0..MAX_ROUNDS {
            let id = attr.id();
            let target = Target::Named { path: &path, id };
            match self.volume.open_file(target, TO_HOLD) {
                Ok(file) => {
                    let attr = self.volume.attr(Target::Open(&file))?;
                    let entry = self.entry(parent, name, attr, since);
                    self.held.hold(entry.attr.ino, attr.len_bytes, file);
                    return Ok(entry);
                }
                // Replaced again.
                Err(Errno::STALE) => attr = self.find_in(parent, name)?,
                // Whoever opens it will hear why.
                Err(_) => break,
            }
        }
        Ok(self.entry(parent, name, attr, since))
    }

    /// What stands at a name in a directory.
    pub(super) fn find_in(&self, parent: u64, name: &OsStr) -> FileResult<FileAttr> {
        match self.near(parent) {
            Some(dir) => dir.attr_of(name),
            None => self.volume.lookup(&self.place(parent, name)?),
        }
    }
}
