//! The index against the tree: rows are told from files key by key, at the start, after a crash,
//! and again and again for what is changed behind our back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Inner;
use super::commit::Terms;
use super::disk::{Disk, FileFacts};
use super::index::{Change, KeyRange, MAX_FETCH_ROWS, Row};
use super::walk::{Step, walk, walk_below};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;
use crate::volume::MAX_PAGE;

/// Keys compared at once.
const BATCH_KEYS: usize = 512;
/// A scan takes one part in this many of the time.
const REST_FACTOR: u32 = 20;
/// Most times a bucket is scanned in a row.
const MAX_ROUNDS: usize = 4;
/// Pause between two scans where the kernel tells of changes: they are but a net.
const NET_INTERVAL: Duration = Duration::from_secs(600);

/// Starts the scanner: a thread that ends when the brick is closed or dropped.
pub fn start<D: Disk>(inner: &Arc<Inner<D>>) {
    let (weak, bell) = (Arc::downgrade(inner), inner.bell.listener());
    let spawned = std::thread::Builder::new()
        .name("scan".to_owned())
        .spawn(move || {
            let mut has_told = false;
            loop {
                let Some(inner) = weak.upgrade() else { return };
                if inner.is_stopping() {
                    return;
                }
                let began = Instant::now();
                match inner.scan_all() {
                    Ok(()) => has_told = false,
                    Err(e) => {
                        // A disk that has failed is not told of at each look.
                        if !inner.is_stopping() && !std::mem::replace(&mut has_told, true) {
                            tracing::warn!("the tree could not be compared with the index: {e}");
                        }
                    }
                }
                let took = began.elapsed();
                let rest = (took * REST_FACTOR).max(inner.scan_interval());
                drop(inner);
                // Whoever asks for one scan after another gets half of the time.
                if !bell.rest(took) || !bell.wait(rest) {
                    return;
                }
            }
        });
    if let Err(e) = spawned {
        tracing::error!("the scanner could not be started: {e}");
    }
}

/// Keys of the tree that wait to be compared.
struct Batch {
    /// In order, with their files' facts.
    met: Vec<(ObjectKey, Option<FileFacts>)>,
    /// What was not compared yet.
    rest: KeyRange,
}

impl Batch {
    fn new(within: &KeyRange) -> Self {
        Self {
            met: Vec::with_capacity(BATCH_KEYS),
            rest: within.clone(),
        }
    }
}

impl<D: Disk> Inner<D> {
    /// Makes a key's row what the tree says, from the committer's turn or before anyone is
    /// served, and gives it.
    pub(super) fn reconcile(&self, at: &Locator) -> Result<Option<Row>> {
        let row = self.row_now(&at.bucket, &at.key)?;
        let change = row.clone().map_or(Change::Remove, Change::Put);
        self.change_index([(at.bucket.clone(), at.key.clone(), change)]);
        Ok(row)
    }

    /// As [`Self::reconcile`] for many, in a turn of their own. Nobody need wait for it.
    pub(super) fn submit_reconcile(
        self: &Arc<Self>,
        keys: Vec<Locator>,
    ) -> impl Future<Output = Result<()>> + use<D> {
        let inner = Arc::clone(self);
        self.committer.submit(Terms::to_look(), move |_| {
            for at in &keys {
                if let Err(e) = inner.reconcile(at) {
                    tracing::warn!(bucket = %at.bucket, key = %at.key, "cannot be indexed: {e}");
                }
            }
            Ok(())
        })
    }

    /// The shortest pause between two scans.
    fn scan_interval(&self) -> Duration {
        let asked = self.options.scan_interval;
        // Behind a symbolic link names change under another path than is told.
        let is_told =
            self.watching.sees_all() && !self.tree.has_linked_dirs.load(Ordering::Acquire);
        if is_told {
            asked.max(NET_INTERVAL)
        } else {
            asked
        }
    }

    fn scan_all(self: &Arc<Self>) -> Result<()> {
        self.tree.has_linked_dirs.store(false, Ordering::Release);
        let mut standing = BTreeSet::new();
        let mut after: Option<String> = None;
        let mut objects = 0;
        loop {
            let buckets = self
                .buckets
                .list(&self.tree, "", after.as_deref(), MAX_PAGE)?;
            let Some(last) = buckets.last() else { break };
            after = Some(last.name.as_str().to_owned());
            for bucket in buckets {
                match self.scan_bucket(&bucket.name, &mut objects) {
                    Ok(()) => {}
                    Err(StoreError::NoSuchBucket) => continue,
                    // Its listing is refused; the others are not to suffer.
                    Err(StoreError::AccessDenied) => {
                        tracing::debug!(bucket = %bucket.name, "a bucket may not be read");
                    }
                    Err(e) => return Err(e),
                }
                standing.insert(bucket.name);
            }
        }
        for (bucket, _) in self.index.buckets() {
            if !standing.contains(&bucket)
                && matches!(
                    self.buckets.load(&self.tree, &bucket),
                    Err(StoreError::NoSuchBucket)
                )
            {
                self.index.drop_bucket(&bucket);
            }
        }
        self.progress.send_modify(|progress| {
            progress.bucket = None;
            progress.done = true;
        });
        Ok(())
    }

    /// Compares one bucket with the index, apart from the scans of all.
    pub(super) fn scan_one(self: &Arc<Self>, bucket: &BucketName) -> Result<()> {
        let done_before = self.progress.borrow().done;
        let scanned = self.scan_bucket(bucket, &mut 0);
        self.progress.send_modify(|progress| {
            progress.bucket = None;
            progress.done |= done_before;
        });
        scanned
    }

    /// Compares what stands below a directory of a bucket, which may be gone, with the index.
    pub(super) fn scan_below(self: &Arc<Self>, bucket: &BucketName, dir: &str) -> Result<()> {
        let within = KeyRange::prefix(&format!("{dir}/"));
        let mut batch = Batch::new(&within);
        let has_long_paths = walk_below(&self.tree, bucket, dir, &mut |met| {
            if self.is_stopping() {
                return Err(StoreError::Stopping);
            }
            batch.met.push((met.key, met.facts));
            if batch.met.len() >= BATCH_KEYS {
                self.compare(bucket, &mut batch, false)?;
            }
            Ok(Step::Next)
        })?;
        if has_long_paths {
            self.index.note_long_paths(bucket);
        }
        self.compare(bucket, &mut batch, true)
    }

    fn scan_bucket(self: &Arc<Self>, bucket: &BucketName, objects: &mut u64) -> Result<()> {
        for _ in 0..MAX_ROUNDS {
            if self.scan_once(bucket, objects)? {
                break;
            }
        }
        Ok(())
    }

    /// False where it has to be done again, since whole directories came in from where the
    /// index did not have them.
    fn scan_once(self: &Arc<Self>, bucket: &BucketName, objects: &mut u64) -> Result<bool> {
        let doubts = self.index.doubts(bucket);
        let mark = self.index.long_paths_mark(bucket);
        let rebuilding = !self.index.is_complete(bucket);
        if rebuilding {
            self.progress.send_modify(|progress| {
                progress.bucket = Some(bucket.as_str().to_owned());
                progress.done = false;
            });
        }
        let everything = KeyRange::all();
        let mut batch = Batch::new(&everything);
        let has_long_paths = walk(&self.tree, bucket, None, &mut |met| {
            if self.is_stopping() {
                return Err(StoreError::Stopping);
            }
            *objects += 1;
            batch.met.push((met.key, met.facts));
            if batch.met.len() >= BATCH_KEYS {
                self.compare(bucket, &mut batch, false)?;
                if rebuilding {
                    let seen = *objects;
                    self.progress
                        .send_modify(|progress| progress.objects = seen);
                }
            }
            Ok(Step::Next)
        })?;
        match has_long_paths {
            true => self.index.note_long_paths(bucket),
            false => self.index.note_no_long_paths(bucket, mark),
        }
        self.compare(bucket, &mut batch, true)?;
        if !rebuilding {
            return Ok(true);
        }
        let seen = *objects;
        self.progress
            .send_modify(|progress| progress.objects = seen);
        Ok(self.index.set_complete_unless_doubted(bucket, doubts))
    }

    /// Compares the keys met since the last time, and all between them, with their rows; to the
    /// end of the range where these are the last. Empties the batch.
    fn compare(
        self: &Arc<Self>,
        bucket: &BucketName,
        batch: &mut Batch,
        to_the_end: bool,
    ) -> Result<()> {
        let mut wrong = Vec::new();
        let taken = std::mem::take(&mut batch.met);
        let last = taken.last().map(|(key, _)| key.as_str());
        let mut range = batch.rest.clone();
        if let (Some(last), false) = (last, to_the_end) {
            // The key after `last` in the order of bytes.
            range = range.before(&format!("{last}\0"));
            batch.rest = batch.rest.clone().after(last);
        }
        let mut met = taken.iter().peekable();
        let limit = BATCH_KEYS.min(MAX_FETCH_ROWS);
        loop {
            let rows = self
                .runtime
                .block_on(self.index.rows(bucket, &range, limit))?;
            let ended = rows.len() < limit;
            if let Some((key, _)) = rows.last() {
                range = range.after(key.as_str());
            }
            for (key, row) in rows {
                while met.peek().is_some_and(|(in_tree, _)| *in_tree < key) {
                    wrong.extend(met.next().map(|(in_tree, _)| in_tree.clone()));
                }
                let is_right = match met.peek() {
                    Some((in_tree, facts)) if *in_tree == key => {
                        met.next();
                        match facts {
                            Some(facts) => self.is_right(&row, facts),
                            // A marker, a link, an escaped key: looked up, as a listing does.
                            None => self.row_now(bucket, &key)?.as_ref() == Some(&row),
                        }
                    }
                    _ => false,
                };
                if !is_right {
                    wrong.push(key);
                }
            }
            if wrong.len() > BATCH_KEYS {
                self.settle(bucket, &mut wrong)?;
            }
            if ended {
                break;
            }
        }
        wrong.extend(met.map(|(key, _)| key.clone()));
        self.settle(bucket, &mut wrong)
    }

    fn settle(self: &Arc<Self>, bucket: &BucketName, wrong: &mut Vec<ObjectKey>) -> Result<()> {
        if wrong.is_empty() {
            return Ok(());
        }
        let keys = wrong
            .drain(..)
            .map(|key| Locator::new(bucket.clone(), key))
            .collect();
        self.runtime.block_on(self.submit_reconcile(keys))
    }
}
