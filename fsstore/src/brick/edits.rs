//! Files that are open for writing through a mount. Their bytes may change at any instant, by
//! stores to mapped memory even unseen, so none of their digests holds while one is here.
//!
//! Exact, not a cache: what is not here is not open for writing. Begun and ended in the turn, so
//! that a job's precondition and a digest on its way to a record see one or the other.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use rustix::io::Errno;
use tokio::runtime::Handle;

use super::disk::{Disk, DiskFile, FileFacts};
use super::hashing::{Suspect, is_same_state};
use super::intents::Point;
use super::look::claims_digests;
use super::{HashPolicy, Inner};
use crate::files::FileResult;
use crate::name::ETag;
use crate::object::Locator;
use crate::volume::Durability;

/// Most edits that ended and are still known.
const MAX_ENDED: usize = 16_384;

/// See the module.
pub struct Edits {
    /// How many files there are, so that nobody locks anything where there is none.
    count: AtomicUsize,
    /// By inode number: they are held open, so none is another file's.
    files: Mutex<HashMap<u64, Editing>>,
    /// How many tags were made up for listings, and what makes them another start's.
    listed: AtomicU64,
    seed: RandomState,
    /// The ctime at the end of edits of late: what the kernel tells of them comes afterwards.
    ended: Cache<u64, i64>,
    /// The ctime at the end of edits of late that changed nothing after their tag was given.
    shown: Cache<u64, i64>,
}

impl Default for Edits {
    fn default() -> Self {
        Self {
            count: AtomicUsize::new(0),
            files: Mutex::default(),
            listed: AtomicU64::new(0),
            seed: RandomState::new(),
            ended: Cache::new(MAX_ENDED),
            shown: Cache::new(MAX_ENDED),
        }
    }
}

struct Editing {
    /// How often it is open for writing.
    handles: usize,
    /// As it was before the first of them.
    before: FileFacts,
    /// The keys it was opened by.
    at: Vec<Locator>,
    /// Whether it has digests, so that the log names it.
    logged: bool,
    /// Whether it was changed so late before that an edit may leave all its times as they are.
    may_hide: bool,
    /// The ctime with which its tag was given last.
    shown: Option<i64>,
}

impl Edits {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Editing>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a file is open for writing.
    pub fn has(&self, ino: u64) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.lock().contains_key(&ino)
    }

    /// The tag to list a file by. Its pages are not written for a listing, as they are before a
    /// tag is given for good; so the tag of one that is open for writing is like no other.
    pub fn tag_to_list(&self, ino: u64, tag: ETag) -> ETag {
        if !self.has(ino) {
            return tag;
        }
        let count = self.listed.fetch_add(1, Ordering::Relaxed);
        ETag::provisional(self.seed.hash_one((ino, count)))
    }

    /// Whether a file is open for writing, or is as the last edit of it left it.
    pub fn account_for(&self, facts: &FileFacts) -> bool {
        self.has(facts.ino) || self.ended.get(&facts.ino) == Some(facts.ctime_ns)
    }

    fn show(&self, facts: &FileFacts) {
        if let Some(editing) = self.lock().get_mut(&facts.ino) {
            editing.shown = Some(facts.ctime_ns);
        }
    }

    /// Whether a file is as it was when the tag of this instant was given, while it was open for
    /// writing.
    pub fn have_shown(&self, facts: &FileFacts) -> bool {
        !self.shown.is_empty() && self.shown.get(&facts.ino) == Some(facts.ctime_ns)
    }

    fn is_logged(&self, ino: u64) -> bool {
        self.lock().get(&ino).is_some_and(|editing| editing.logged)
    }

    fn begin(&self, facts: &FileFacts, at: Option<&Locator>, logged: bool, may_hide: bool) {
        let mut files = self.lock();
        let editing = files.entry(facts.ino).or_insert_with(|| Editing {
            handles: 0,
            before: *facts,
            at: Vec::new(),
            logged: false,
            may_hide,
            shown: None,
        });
        editing.handles += 1;
        editing.logged |= logged;
        if let Some(at) = at
            && !editing.at.contains(at)
        {
            editing.at.push(at.clone());
        }
        self.count.store(files.len(), Ordering::Release);
    }

    /// Takes one handle away; gives what was known where it was the last.
    fn end(&self, ino: u64) -> Option<Editing> {
        let mut files = self.lock();
        let editing = files.get_mut(&ino)?;
        editing.handles -= 1;
        if editing.handles > 0 {
            return None;
        }
        let ended = files.remove(&ino);
        self.count.store(files.len(), Ordering::Release);
        ended
    }
}

/// A file is open for writing until the last of these is dropped.
pub struct Edit<D: Disk> {
    inner: Arc<Inner<D>>,
    file: Option<Arc<D::File>>,
    ino: u64,
}

impl<D: Disk> Edit<D> {
    /// Ends it, on this thread, which must not be an async one. `at` gives the key that the
    /// file has by now, which may be another than it was opened by.
    pub fn end(mut self, at: impl FnOnce() -> Option<Locator>) {
        if let Some(file) = self.file.take() {
            self.inner.end_edit(&*file, self.ino, at);
        }
    }
}

impl<D: Disk> Drop for Edit<D> {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        let ino = self.ino;
        match Handle::try_current() {
            Err(_) => self.inner.end_edit(&*file, ino, || None),
            // An async thread cannot wait. Where the runtime is about to end nobody asks
            // whether the edit did; the log tells the next start.
            Ok(runtime) => {
                let inner = Arc::clone(&self.inner);
                runtime.spawn_blocking(move || inner.end_edit(&*file, ino, || None));
            }
        }
    }
}

impl<D: Disk> Inner<D> {
    /// Begins an edit of a regular file, found at the key `at` (none where its path is no
    /// key's), before it is opened for writing or cut: from now on its digests do not hold. Where
    /// it has some, the log says so, durably unless the bucket is relaxed. Not in a turn. Errors:
    /// NOTCONN after the end, and those of the disk.
    pub fn begin_edit(
        self: &Arc<Self>,
        at: Option<&Locator>,
        file: Arc<D::File>,
    ) -> FileResult<Edit<D>> {
        let begun = self
            .committer
            .act_here(&[], false, |_| self.edit_begins(at, &*file));
        let (ino, point) = begun.map_err(|e| e.errno())??;
        let edit = Edit {
            inner: Arc::clone(self),
            file: Some(file),
            ino,
        };
        let is_strict =
            at.is_none_or(|at| self.buckets.durability(&at.bucket) == Durability::Strict);
        if let Some(point) = point
            && is_strict
        {
            self.log.sync_to(point).map_err(|e| e.errno())?;
        }
        Ok(edit)
    }

    /// As [`Self::begin_edit`], of a file just made, which has no digests; in the turn that made
    /// it.
    pub fn begin_first_edit(
        self: &Arc<Self>,
        at: Option<&Locator>,
        file: &Arc<D::File>,
        facts: &FileFacts,
    ) -> Edit<D> {
        self.edits.begin(facts, at, false, false);
        Edit {
            inner: Arc::clone(self),
            file: Some(Arc::clone(file)),
            ino: facts.ino,
        }
    }

    fn edit_begins(
        &self,
        at: Option<&Locator>,
        file: &D::File,
    ) -> FileResult<(u64, Option<Point>)> {
        let facts = file.facts().map_err(|e| errno_of(&e))?;
        let record = self.tree.records.load(file, &facts);
        let has_digests = match record.map_err(|e| e.errno())? {
            Some(record) => claims_digests(&record, &facts) || self.edits.is_logged(facts.ino),
            None => false,
        };
        let mut point = None;
        if has_digests {
            let key = at.map(|at| (at.bucket.clone(), at.key.clone()));
            let named = self.log.begin_edit(facts.ino, key.as_ref());
            point = Some(named.map_err(|e| e.errno())?);
        }
        let may_hide = self.is_within_tick(&facts);
        self.edits.begin(&facts, at, has_digests, may_hide);
        Ok((facts.ino, point))
    }

    fn end_edit(&self, file: &D::File, ino: u64, at: impl FnOnce() -> Option<Locator>) {
        if std::thread::panicking() {
            // Maybe out of the turn, which this thread then cannot take. That the log goes on
            // naming it costs a look at the next start.
            self.edits.end(ino);
            self.stamps.doubt(ino);
            return;
        }
        let ended = self
            .committer
            .act_here(&[], true, |_| self.edit_ends(file, ino, at));
        let changed = match ended {
            Ok(changed) => changed,
            Err(e) => {
                // Nobody asks any more; the log tells the next start.
                tracing::debug!(ino, "an edit outlived the volume: {e}");
                self.edits.end(ino);
                return;
            }
        };
        for at in changed {
            if self.options.hash.of(&at.bucket) == HashPolicy::OnClose {
                // A full queue loses nothing: the index knows what needs hashing.
                let _ = self.suspects.try_send(Suspect { at, settled: true });
            }
        }
    }

    /// Gives the keys of what is to be hashed.
    fn edit_ends(
        &self,
        file: &D::File,
        ino: u64,
        at: impl FnOnce() -> Option<Locator>,
    ) -> Vec<Locator> {
        let Some(mut editing) = self.edits.end(ino) else {
            return Vec::new();
        };
        if editing.logged {
            self.log.end_edit(ino);
        }
        let facts = match file.facts() {
            Ok(facts) => facts,
            Err(e) => {
                tracing::warn!(ino, "a file that was edited cannot be looked at: {e}");
                self.stamps.doubt(ino);
                return Vec::new();
            }
        };
        self.edits.ended.insert(ino, facts.ctime_ns);
        if editing.shown == Some(facts.ctime_ns) {
            self.edits.shown.insert(ino, facts.ctime_ns);
        }
        if facts.link_count == 0 {
            self.stamps.forget(ino);
            return Vec::new();
        }
        let changed = editing.may_hide || !is_same_state(&facts, &editing.before);
        // Another name would have moved its ctime.
        if !changed && !editing.logged {
            return Vec::new();
        }
        if let Some(at) = at()
            && !editing.at.contains(&at)
        {
            editing.at.push(at);
        }
        let is_empty = facts.len_bytes == 0;
        if changed {
            if is_empty {
                // Its digest is known.
                self.stamps.note(&facts);
            } else {
                self.stamps.doubt(ino);
            }
            if editing.logged {
                self.void_record(file, &facts);
            }
        }
        for at in &editing.at {
            if let Err(e) = self.reconcile(at) {
                tracing::warn!(bucket = %at.bucket, key = %at.key, "cannot be indexed: {e}");
            }
        }
        match changed && !is_empty {
            true => editing.at,
            false => Vec::new(),
        }
    }

    /// Notes that the tag of a file open for writing, whose pages were written, was given. Nothing
    /// is noted where the next change may not move its times.
    pub(super) fn show_edited(&self, facts: &FileFacts) {
        if !self.is_within_tick(facts) {
            self.edits.show(facts);
        }
    }

    /// Whether a file was changed so late that its times do not tell a change that follows from
    /// it: only where the file system's clock is coarse.
    fn is_within_tick(&self, facts: &FileFacts) -> bool {
        let age_ns = self.options.clock.now().0.saturating_sub(facts.ctime_ns);
        let tick_ns = self.tree.disk.tick_ns();
        (-tick_ns..tick_ns).contains(&age_ns)
    }

    /// Waits until a change of the file would move its times. From a thread that may block.
    pub(super) fn let_tick_pass(&self, facts: &FileFacts) {
        if self.is_within_tick(facts) {
            let tick_ns = self.tree.disk.tick_ns();
            std::thread::sleep(Duration::from_nanos(tick_ns.unsigned_abs()));
        }
    }

    /// Takes the digests out of a record that would hold by length, mtime and inode alone: the
    /// edit has put them back, and memory and index may forget that it was one.
    fn void_record(&self, file: &D::File, facts: &FileFacts) {
        let voided = self.tree.records.load(file, facts).and_then(|record| {
            let Some(mut record) = record.filter(|record| claims_digests(record, facts)) else {
                return Ok(());
            };
            record.void_digests();
            self.tree.records.save(file, facts, &record)
        });
        if let Err(e) = voided {
            tracing::warn!(ino = facts.ino, "its digests stay in its record: {e}");
        }
    }
}

fn errno_of(e: &std::io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}
