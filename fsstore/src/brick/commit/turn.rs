//! What a job is given to act with, and what it leaves to be synced and told.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::super::disk::{Disk, DiskFile};
use super::super::notices::Notice;
use super::SYNC_EVERYTHING_FROM;
use crate::error::{Result, StoreError};
use crate::files::FilePath;
use crate::name::BucketName;

/// Most directories held open to be synced with the next durable group; beyond, that group
/// syncs everything.
const MAX_UNSYNCED_DIRS: usize = 256;
/// Most things left to be cleared up after the next durable group.
const MAX_LATER: usize = 256;
/// Most notices of one group; beyond, it says that anything may have changed.
const MAX_NOTICES: usize = 4_096;

/// What a job is given to act with.
pub struct Turn<'a, D: Disk> {
    pub(super) disk: &'a D,
    pub(super) mode: Mode,
    /// Whether anyone wants to know of changes.
    pub(super) watched: bool,
    pub(super) changed: &'a mut Changed<D>,
    /// What earlier changes left unsynced.
    pub(super) unsynced: &'a mut Unsynced<D>,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// A job's whose answer waits for stable storage.
    Durable,
    /// A job's whose answer does not.
    Relaxed,
    /// A job's whose answer does not, since another log has the change until a later durable
    /// group has synced it.
    Deferred,
    /// A caller's on its own thread: nothing waits, but what is durable must not be lost.
    Here,
}

/// What a group changed.
pub(super) struct Changed<D: Disk> {
    pub dirs: Vec<Arc<D::Dir>>,
    /// Those that later durable changes build on.
    pub built: Vec<Arc<D::Dir>>,
    pub files: Vec<Arc<D::File>>,
    pub later: Vec<Box<dyn FnOnce() + Send>>,
    /// Whether only syncing everything will do.
    pub everything: bool,
    /// Why a job could not settle: the group's syncs are not tried again.
    pub unsettled: Option<StoreError>,
    pub notices: BTreeSet<Notice>,
}

impl<D: Disk> Default for Changed<D> {
    fn default() -> Self {
        Self {
            dirs: Vec::new(),
            built: Vec::new(),
            files: Vec::new(),
            later: Vec::new(),
            everything: false,
            unsettled: None,
            notices: BTreeSet::new(),
        }
    }
}

impl<D: Disk> Changed<D> {
    /// Whether it is made durable by syncing everything, where that can be done.
    pub fn needs_everything(&self) -> bool {
        self.everything || self.dirs.len() + self.files.len() >= SYNC_EVERYTHING_FROM
    }
}

/// What was changed without being synced, and what later durable changes may build on: it is
/// synced with the next durable group.
pub(super) struct Unsynced<D: Disk> {
    dirs: Vec<Arc<D::Dir>>,
    files: Vec<Arc<D::File>>,
    later: Vec<Box<dyn FnOnce() + Send>>,
    everything: bool,
}

impl<D: Disk> Default for Unsynced<D> {
    fn default() -> Self {
        Self {
            dirs: Vec::new(),
            files: Vec::new(),
            later: Vec::new(),
            everything: false,
        }
    }
}

impl<D: Disk> Unsynced<D> {
    /// Hands all of it to a group that is about to be synced.
    pub fn give_to(&mut self, changed: &mut Changed<D>) {
        changed.everything |= std::mem::take(&mut self.everything);
        changed.later.append(&mut self.later);
        changed.files.append(&mut self.files);
        for dir in self.dirs.drain(..) {
            add_dir::<D>(&mut changed.dirs, dir);
        }
    }

    /// Takes back what could not be synced, except what would have been cleared up.
    pub fn take_failed(&mut self, mut changed: Changed<D>) {
        self.everything |= changed.everything;
        self.files.append(&mut changed.files);
        for dir in changed.dirs.into_iter().chain(changed.built) {
            add_dir::<D>(&mut self.dirs, dir);
        }
    }

    /// Takes all that a deferred group left.
    pub fn take_deferred(&mut self, disk: &D, mut changed: Changed<D>) {
        self.everything |= changed.everything || changed.unsettled.is_some();
        self.later.append(&mut changed.later);
        if self.everything && disk.syncs_everything() {
            return;
        }
        self.files.append(&mut changed.files);
        for dir in changed.dirs.into_iter().chain(changed.built) {
            add_dir::<D>(&mut self.dirs, dir);
        }
        if self.dirs.len() + self.files.len() > MAX_UNSYNCED_DIRS {
            if disk.syncs_everything() {
                self.dirs.clear();
                self.files.clear();
                self.everything = true;
            } else {
                self.sync_now(disk);
            }
        }
        if self.later.len() > MAX_LATER {
            self.sync_now(disk);
        }
    }

    /// Takes what a caller's own change left.
    pub fn take_here(&mut self, disk: &D, mut changed: Changed<D>) {
        let needs_all = changed.unsettled.is_some() || !changed.later.is_empty();
        self.everything |= changed.everything;
        self.later.append(&mut changed.later);
        let dirs = if needs_all { changed.dirs } else { Vec::new() };
        for dir in dirs.into_iter().chain(changed.built) {
            add_dir::<D>(&mut self.dirs, dir);
        }
        if self.later.len() > MAX_LATER {
            self.sync_now(disk);
        }
        if self.dirs.len() > MAX_UNSYNCED_DIRS {
            if disk.syncs_everything() {
                self.dirs.clear();
                self.everything = true;
            } else {
                self.sync_now(disk);
            }
        }
    }

    /// Syncs it, and clears up. Where that fails it is left for the next group; what was to be
    /// cleared up stays.
    fn sync_now(&mut self, disk: &D) {
        let mut changed = Changed::default();
        self.give_to(&mut changed);
        match sync_after(disk, &changed) {
            Ok(()) => changed.later.into_iter().for_each(|clear| clear()),
            Err(e) => {
                tracing::warn!("changes through the mount could not be made durable: {e}");
                self.take_failed(changed);
            }
        }
    }
}

fn add_dir<D: Disk>(dirs: &mut Vec<Arc<D::Dir>>, dir: Arc<D::Dir>) {
    if !dirs.iter().any(|known| Arc::ptr_eq(known, &dir)) {
        dirs.push(dir);
    }
}

impl<D: Disk> Turn<'_, D> {
    /// Notes that names in a directory changed, to be made durable before the answer.
    pub fn changed(&mut self, dir: &Arc<D::Dir>) {
        add_dir::<D>(&mut self.changed.dirs, Arc::clone(dir));
    }

    /// As [`Self::changed`], and where this answer does not wait, before that of the next
    /// change that does: a directory was made or moved here, in which that one may build.
    pub fn built(&mut self, dir: &Arc<D::Dir>) {
        match self.mode {
            Mode::Durable | Mode::Deferred => self.changed(dir),
            Mode::Relaxed | Mode::Here => {
                add_dir::<D>(&mut self.changed.built, Arc::clone(dir));
            }
        }
    }

    /// Notes that a published file's record changed, to be made durable before the answer.
    pub fn changed_file(&mut self, file: &Arc<D::File>) {
        self.changed.files.push(Arc::clone(file));
    }

    /// Makes what changed so far durable, before what it replaces is taken away. Nothing
    /// happens where the bucket's answers do not wait for stable storage.
    pub fn settle(&mut self) -> Result<()> {
        match self.mode {
            Mode::Relaxed => return Ok(()),
            Mode::Durable => {}
            // What this change builds on was not synced either.
            Mode::Here | Mode::Deferred => {
                let built = std::mem::take(&mut self.changed.built);
                self.changed.dirs.extend(built);
                self.unsynced.give_to(self.changed);
            }
        }
        if let Err(e) = sync_after(self.disk, self.changed) {
            self.changed.unsettled = Some(same_failure(&e));
            return Err(e);
        }
        self.changed.dirs.clear();
        self.changed.files.clear();
        self.changed.everything = false;
        Ok(())
    }

    /// Clears something up once the changes are durable. Where they cannot be made durable it
    /// is not done at all.
    pub fn later(&mut self, clear: impl FnOnce() + Send + 'static) {
        self.changed.later.push(Box::new(clear));
    }

    /// Notes that what stands at this path appeared, vanished or became another file, for
    /// those who watch.
    pub fn named(&mut self, path: FilePath) {
        self.note(|| Some(Notice::Name(path)));
    }

    /// As [`Self::named`], for a path below a bucket; empty for the bucket itself.
    pub fn named_in(&mut self, bucket: &BucketName, path: &str) {
        self.note(|| path_of(bucket, path).map(Notice::Name));
    }

    /// Notes that a file's bytes or attributes changed, for those who watch.
    pub fn touched(&mut self, ino: u64) {
        self.note(|| Some(Notice::File(ino)));
    }

    /// As [`Self::touched`], for a directory.
    pub fn touched_dir(&mut self, dir: &D::Dir) {
        let disk = self.disk;
        self.note(|| disk.stat_dir(dir).ok().map(|facts| Notice::File(facts.ino)));
    }

    fn note(&mut self, notice: impl FnOnce() -> Option<Notice>) {
        if !self.watched {
            return;
        }
        let notices = &mut self.changed.notices;
        notices.extend(notice());
        if notices.len() > MAX_NOTICES {
            notices.clear();
            notices.insert(Notice::All);
        }
    }
}

/// A path below a bucket, as watchers know it.
fn path_of(bucket: &BucketName, path: &str) -> Option<FilePath> {
    std::iter::once(bucket.as_str())
        .chain(path.split('/').filter(|name| !name.is_empty()))
        .try_fold(FilePath::root(), |path, name| {
            path.join(std::ffi::OsStr::new(name)).ok()
        })
}

pub(super) fn sync_after<D: Disk>(disk: &D, changed: &Changed<D>) -> Result<()> {
    let fail = |e| StoreError::from_io("make a change durable", e);
    if changed.needs_everything() {
        match disk.sync_everything() {
            Err(e) if e.kind() == io::ErrorKind::Unsupported && !changed.everything => {}
            other => return other.map_err(fail),
        }
    }
    changed
        .files
        .iter()
        .try_for_each(|file| file.sync().map_err(fail))?;
    changed
        .dirs
        .iter()
        .try_for_each(|dir| disk.sync_dir(dir).map_err(fail))
}

/// One failure told to many.
pub(super) fn same_failure(failure: &StoreError) -> StoreError {
    match failure {
        StoreError::NoSpace => StoreError::NoSpace,
        StoreError::QuotaExceeded => StoreError::QuotaExceeded,
        StoreError::ReadOnly => StoreError::ReadOnly,
        StoreError::Io { action, source } => {
            let source = match source.raw_os_error() {
                Some(raw) => io::Error::from_raw_os_error(raw),
                None => io::Error::new(source.kind(), source.to_string()),
            };
            StoreError::Io { action, source }
        }
        other => StoreError::Io {
            action: "make a group durable",
            source: io::Error::other(other.to_string()),
        },
    }
}
