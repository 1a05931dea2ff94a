//! The listing index of a volume: one SQLite database and, in memory, the changes that it does
//! not have yet. Everything here can be rebuilt from the tree; no correctness rests on it
//! beyond listings, and whoever lists verifies what it says against the files.
//!
//! How a change gets in:
//! 1. The committer publishes a file and calls [`Index::apply`]: the change is in the overlay,
//!    and the very next listing sees it.
//! 2. A background task writes the overlay to the database, a generation per transaction. The
//!    generation stays readable until the transaction is committed.
//! 3. [`Index::checkpoint`] syncs the database: from then on the change survives a power loss,
//!    and the caller may forget its own record of the key.
//!
//! Listings read the overlay first and the database afterwards; so each key is shown as it was
//! at some instant between the call and the answer.
//!
//! Locks: `writer` (the writing connection), then `overlay` (never held over an await).

mod database;
mod list;
mod long_paths;
mod moves;
mod overlay;
mod range;
mod row;
mod rules;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use self::database::{Database, Writer};
use self::list::read_key;
pub use self::list::{MAX_FETCH_ROWS, Page};
pub use self::long_paths::LongPathsMark;
pub use self::moves::Moving;
pub use self::overlay::MAX_OVERLAY_ROWS;
use self::overlay::Overlay;
pub use self::range::KeyRange;
pub use self::row::{Row, RowFlags};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey};

/// Longest time a change waits before it is written to the database.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);
/// Changes that are written without waiting any longer.
const FLUSH_ROWS: usize = 4_096;
/// Pause after a transaction that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The same failure is told so rarely.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key has this row now.
    Put(Row),
    /// The key is gone.
    Remove,
}

/// Whether the index keeps up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Go on.
    Free,
    /// More than [`MAX_OVERLAY_ROWS`] changes are in memory, or many moves of directories: call
    /// [`Index::wait_for_room_within`] before the next change.
    Full,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Its number: greater than that of every change before. Starts again at 1 when the index
    /// is opened.
    pub seq: u64,
    /// Whether the index keeps up.
    pub room: Room,
}

/// What was found when the index was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// A database that can be used.
    Existing,
    /// None, or one that was damaged or of another version and was deleted: it is empty now.
    Fresh,
}

/// Objects of a bucket, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// How many there are.
    pub objects: u64,
    /// Their lengths together, in bytes.
    pub bytes: u64,
}

/// The listing index of one volume. Dropping it stops it at once: what was not flushed is
/// forgotten, as in a crash; [`Index::close`] forgets nothing.
#[derive(Debug)]
pub struct Index {
    shared: Arc<Shared>,
    flusher: Flusher,
    runtime: Handle,
}

#[derive(Debug)]
struct Shared {
    database: Database,
    /// The one connection that writes. Before `overlay` where both are held.
    writer: tokio::sync::Mutex<Writer>,
    /// Guards what is pending; held for microseconds, never over an await.
    overlay: Mutex<Overlay>,
    /// Told when there is something to flush.
    pending: Notify,
    /// Told when there is much to flush.
    hurry: Notify,
    /// Told when a directory has been moved.
    moved: Notify,
}

/// The background task; ends when dropped.
#[derive(Debug)]
struct Flusher(JoinHandle<()>);

impl Drop for Flusher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Index {
    /// Opens the index in a directory of its own, which is created where it is missing. A
    /// database that is damaged or of another version is deleted and made anew. Must be called
    /// within a tokio runtime. Errors: NoSpace, AccessDenied, Io, Index.
    pub async fn open(dir: &Path) -> Result<(Self, Opened)> {
        let (database, writer, known, opened) = Database::open(dir).await?;
        let shared = Arc::new(Shared {
            database,
            writer: tokio::sync::Mutex::new(writer),
            overlay: Mutex::new(Overlay::new(
                known.buckets,
                known.next_bucket,
                known.moved_through,
            )),
            pending: Notify::new(),
            hurry: Notify::new(),
            moved: Notify::new(),
        });
        shared.pending.notify_one();
        let flusher = Flusher(tokio::spawn(run_flusher(Arc::clone(&shared))));
        let index = Self {
            shared,
            flusher,
            runtime: Handle::current(),
        };
        Ok((index, opened))
    }

    /// Takes changes, which the next call of any kind sees; a later change of a key replaces an
    /// earlier one. Takes microseconds and touches no disk. A bucket that is not known is
    /// added, not complete. Not durable before [`Index::checkpoint`].
    pub fn apply(
        &self,
        changes: impl IntoIterator<Item = (BucketName, ObjectKey, Change)>,
    ) -> Applied {
        let (applied, row_count) = {
            let mut overlay = self.shared.overlay();
            (overlay.apply(changes), overlay.row_count())
        };
        self.shared.wake(row_count);
        applied
    }

    /// The number up to which changes are in the database (durable only after a checkpoint).
    pub fn flushed_through(&self) -> u64 {
        self.shared.overlay().flushed_through()
    }

    /// Writes everything applied before the call to the database. Returns the number up to
    /// which changes are there. Dropping the future loses nothing. Errors: NoSpace, Index: then
    /// the changes stay in memory.
    pub async fn flush(&self) -> Result<u64> {
        self.shared.flush().await
    }

    /// Makes everything applied before the call durable. Returns the number up to which changes
    /// are. Dropping the future loses nothing. Errors: NoSpace, Busy, Index.
    pub async fn checkpoint(&self) -> Result<u64> {
        self.shared.checkpoint().await
    }

    /// Waits until the overlay is below half its bound, for so long at most; none where the time is
    /// over. What is being written then goes on: given up half-way it would begin anew with each
    /// who waits. Errors: as [`Index::flush`].
    pub async fn wait_for_room_within(&self, patience: Duration) -> Option<Result<()>> {
        let shared = Arc::clone(&self.shared);
        let waiting = self.runtime.spawn(async move { shared.make_room().await });
        let waited = tokio::time::timeout(patience, waiting).await.ok()?;
        // It is not cancelled, and who panics has said so.
        waited.ok()
    }

    /// As [`Index::wait_for_room_within`], however long it takes, on a thread that is not the
    /// runtime's.
    #[cfg(test)]
    pub fn wait_for_room_blocking(&self) -> Result<()> {
        self.runtime.block_on(self.shared.make_room())
    }

    /// Adds a bucket, unless it is known: then nothing changes. `complete` says that the index
    /// has every key of it.
    pub fn add_bucket(&self, name: &BucketName, complete: bool) -> Applied {
        self.change_buckets(|overlay| overlay.add_bucket(name, complete))
    }

    /// States whether the index has every key of a bucket, which is added if it is not known.
    /// In the database this never precedes changes applied before.
    pub fn set_complete(&self, name: &BucketName, complete: bool) -> Applied {
        self.change_buckets(|overlay| overlay.set_complete(name, complete))
    }

    /// As [`Index::set_complete`] with true, unless it was said since [`Index::doubts`] gave
    /// `doubts` that rows may be missing. False where it was.
    pub fn set_complete_unless_doubted(&self, name: &BucketName, doubts: u64) -> bool {
        let mut overlay = self.shared.overlay();
        let is_complete = overlay.doubts(name) == doubts;
        if is_complete {
            overlay.set_complete(name, true);
        }
        drop(overlay);
        self.shared.wake(0);
        is_complete
    }

    /// How often it was said that rows of a bucket may be missing.
    pub fn doubts(&self, name: &BucketName) -> u64 {
        self.shared.overlay().doubts(name)
    }

    /// Directories of these buckets are about to be moved: nobody lists them until the guard is
    /// dropped, which is to be soon.
    pub fn moving(&self, from: &BucketName, to: &BucketName) -> Moving<'_> {
        Moving::begin(&self.shared, [from.clone(), to.clone()])
    }

    /// Gives every key that begins with `from`, and is no escaped one, the place that begins
    /// with `to` instead; both end in a slash, and neither is within the other. Takes no longer
    /// for many: the next who lists waits for it. Below `to` stood nothing but escaped keys: rows
    /// of anything else are forgotten.
    pub fn move_prefix(&self, from: (&BucketName, &str), to: (&BucketName, &str)) -> Applied {
        let is_prefix = |text: &str| text.ends_with('/');
        assert!(
            is_prefix(from.1) && is_prefix(to.1),
            "directories end in a slash"
        );
        debug_assert!(
            from.0 != to.0 || !(from.1.starts_with(to.1) || to.1.starts_with(from.1)),
            "no directory is moved into itself"
        );
        self.move_rows(|overlay| overlay.move_prefix(from, to))
    }

    /// As [`Index::move_prefix`], for two that change places.
    pub fn swap_prefixes(&self, one: (&BucketName, &str), other: (&BucketName, &str)) -> Applied {
        assert!(
            one.1.ends_with('/') && other.1.ends_with('/'),
            "directories end in a slash"
        );
        self.move_rows(|overlay| overlay.swap_prefixes(one, other))
    }

    fn move_rows(&self, change: impl FnOnce(&mut Overlay) -> Applied) -> Applied {
        let (applied, row_count) = {
            let mut overlay = self.shared.overlay();
            (change(&mut overlay), overlay.row_count())
        };
        self.shared.wake(row_count);
        applied
    }

    /// Waits until no directory of a bucket is being moved, and the rows of those that were
    /// are in their place. Gives what [`Index::moves_begun`] says at that instant. Errors: as
    /// [`Index::flush`].
    pub async fn still(&self, bucket: &BucketName) -> Result<u64> {
        self.shared.still(bucket).await
    }

    /// As [`Index::still`]; none where others go on moving directories meanwhile, so that who
    /// lists must keep them from it.
    pub async fn still_soon(&self, bucket: &BucketName) -> Result<Option<u64>> {
        self.shared.still_soon(bucket).await
    }

    /// How many directories of a bucket were ever about to be moved: a listing during which
    /// this changed may show one at both places or at neither.
    pub fn moves_begun(&self, bucket: &BucketName) -> u64 {
        self.shared.overlay().moves_begun(bucket)
    }

    /// Forgets a bucket and all its rows, at once for every later call. The rows are deleted
    /// from the database in the background. One that is not known is no error.
    pub fn drop_bucket(&self, name: &BucketName) -> Applied {
        self.change_buckets(|overlay| overlay.drop_bucket(name))
    }

    /// Every bucket known, by name, and whether the index has every key of it.
    pub fn buckets(&self) -> Vec<(BucketName, bool)> {
        self.shared.overlay().buckets()
    }

    /// True where the bucket is known and the index has every key of it.
    pub fn is_complete(&self, name: &BucketName) -> bool {
        self.shared.overlay().is_complete(name)
    }

    /// Looks up one key. Errors: Index, Corrupt.
    pub async fn get(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<Row>> {
        self.shared.get(bucket, key).await
    }

    /// Looks up many keys, each as [`Index::get`] does, with few questions to the database.
    /// Errors: Index, Corrupt.
    pub async fn get_many(
        &self,
        bucket: &BucketName,
        keys: &[ObjectKey],
    ) -> Result<Vec<Option<Row>>> {
        self.shared.get_many(bucket, keys).await
    }

    /// The keys whose files had this inode number when they were seen last, those aside from their
    /// paths left out. Reads every row. Errors: Index, Corrupt.
    pub async fn keys_of_ino(&self, ino: u64) -> Result<Vec<(BucketName, ObjectKey)>> {
        self.shared.flush().await?;
        let found = self.shared.database.of_ino(ino).await?;
        let names = self.shared.overlay().names();
        let mut keys = Vec::with_capacity(found.len());
        for (bucket, stored) in found {
            let is_aside = Row::decode(&stored.value)?.flags.escaped;
            if let (Some(bucket), false) = (names.get(&bucket), is_aside) {
                keys.push((bucket.clone(), read_key(stored.key)?));
            }
        }
        Ok(keys)
    }

    /// The first `limit` rows of a range, in order of keys by bytes; fewer only where the range
    /// has no more. `limit` is at most [`MAX_FETCH_ROWS`]. Errors: Index, Corrupt.
    pub async fn rows(
        &self,
        bucket: &BucketName,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Vec<(ObjectKey, Row)>> {
        self.shared.rows(bucket, range, limit).await
    }

    /// Lists a bucket as [`crate::volume::ListQuery`] says, without asking whether the entries
    /// still hold. A bucket that is not known is empty. Errors: Index, Corrupt.
    pub async fn list(
        &self,
        bucket: &BucketName,
        query: &crate::volume::ListQuery,
    ) -> Result<Page> {
        let keep_all = |rows: Vec<(ObjectKey, Row)>| {
            let kept = rows.into_iter().map(|(key, row)| (key, Some(row)));
            std::future::ready(Ok(kept.collect()))
        };
        self.shared.list_with(bucket, query, keep_all).await
    }

    /// Lists a bucket as [`crate::volume::ListQuery`] says, with only what `verify` confirms.
    ///
    /// `verify` is given rows in order, at most [`MAX_FETCH_ROWS`], and answers for each of
    /// them, in the same order: none where the object is gone, else its row as it is true now.
    /// The page is filled up with what follows. A common prefix is in the page when one key
    /// under it is confirmed. Errors: Index, Corrupt, and those of `verify`.
    pub async fn list_with<V, F>(
        &self,
        bucket: &BucketName,
        query: &crate::volume::ListQuery,
        verify: V,
    ) -> Result<Page>
    where
        V: FnMut(Vec<(ObjectKey, Row)>) -> F + Send,
        F: Future<Output = Result<Vec<(ObjectKey, Option<Row>)>>> + Send,
    {
        self.shared.list_with(bucket, query, verify).await
    }

    /// Up to `limit` rows that need hashing, of any bucket, ordered by bucket (in order of their
    /// creation) and key, after `after`. Rows applied since the last flush are not among them.
    /// Errors: Index, Corrupt.
    pub async fn next_unhashed(
        &self,
        after: Option<(&BucketName, &ObjectKey)>,
        limit: usize,
    ) -> Result<Vec<(BucketName, ObjectKey, Row)>> {
        self.shared.next_unhashed(after, limit).await
    }

    /// Counts a bucket's objects: exact for some instant during the call. Takes no longer for a
    /// large bucket, but flushes what is pending. Errors: as [`Index::flush`].
    pub async fn count_and_bytes(&self, bucket: &BucketName) -> Result<Totals> {
        self.shared.count_and_bytes(bucket).await
    }

    /// Stops the index after everything applied is durable. Errors: as [`Index::checkpoint`].
    pub async fn close(self) -> Result<()> {
        let Self {
            shared, flusher, ..
        } = self;
        drop(flusher);
        shared.checkpoint().await?;
        shared.database.close().await;
        Ok(())
    }

    /// Keeps the database from being written.
    #[cfg(test)]
    pub(super) async fn hold_writer(&self) -> impl Sized + '_ {
        self.shared.writer.lock().await
    }

    fn change_buckets(&self, change: impl FnOnce(&mut Overlay) -> Applied) -> Applied {
        let applied = change(&mut self.shared.overlay());
        self.shared.wake(0);
        applied
    }
}

impl Shared {
    fn overlay(&self) -> MutexGuard<'_, Overlay> {
        // A panic while it was held is a broken overlay only if a map operation panicked.
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, row_count: usize) {
        self.pending.notify_one();
        if row_count >= FLUSH_ROWS {
            self.hurry.notify_one();
        }
    }

    async fn flush(&self) -> Result<u64> {
        let target = self.overlay().last_seq();
        let mut writer = self.writer.lock().await;
        self.flush_locked(&mut writer, target).await
    }

    async fn make_room(&self) -> Result<()> {
        while !self.overlay().has_room() {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush_locked(&self, writer: &mut Writer, target: u64) -> Result<u64> {
        loop {
            let generation = {
                let mut overlay = self.overlay();
                if overlay.flushed_through() >= target {
                    return Ok(overlay.flushed_through());
                }
                overlay.begin_flush()
            };
            let generation = generation.expect("what is numbered is in a generation");
            let written = writer.write(&generation).await;
            match self.database.settle(written).await {
                Ok(too_long) => self.overlay().end_flush(&too_long),
                Err(e) => {
                    self.overlay().doubt_moves(&generation);
                    return Err(e);
                }
            }
        }
    }

    async fn checkpoint(&self) -> Result<u64> {
        let target = self.overlay().last_seq();
        let mut writer = self.writer.lock().await;
        let through = self.flush_locked(&mut writer, target).await?;
        let whole = writer.checkpoint().await;
        if self.database.settle(whole).await? {
            Ok(through)
        } else {
            Err(StoreError::Busy("readers of the listing index"))
        }
    }

    async fn count_and_bytes(&self, bucket: &BucketName) -> Result<Totals> {
        self.flush().await?;
        let Some(id) = self.overlay().bucket_id(bucket) else {
            return Ok(Totals::default());
        };
        self.database.totals(id).await
    }
}

/// Writes what is pending, every [`FLUSH_INTERVAL`] or [`FLUSH_ROWS`], and deletes the rows of
/// dropped buckets a batch at a time. Never ends by itself.
async fn run_flusher(shared: Arc<Shared>) {
    let mut told: Option<Instant> = None;
    loop {
        shared.pending.notified().await;
        // Much to flush, or the time is over: both are reasons to go on.
        let _ = tokio::time::timeout(FLUSH_INTERVAL, shared.hurry.notified()).await;
        match flush_in_background(&shared).await {
            Ok(more) => {
                told = None;
                if more {
                    shared.pending.notify_one();
                }
            }
            Err(error) => {
                // A disk that has failed is not told of at each try.
                if told.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
                    told = Some(Instant::now());
                    tracing::warn!(%error, source = ?std::error::Error::source(&error),
                        "the listing index could not be written; changes stay in memory");
                }
                shared.pending.notify_one();
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

/// Flushes and deletes a batch of dropped rows. True where more are to be deleted.
async fn flush_in_background(shared: &Shared) -> Result<bool> {
    let target = shared.overlay().last_seq();
    let mut writer = shared.writer.lock().await;
    shared.flush_locked(&mut writer, target).await?;
    let swept = writer.sweep().await;
    shared.database.settle(swept).await
}
