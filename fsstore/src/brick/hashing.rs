//! Digests of files that came without one: read, digested and recorded, one file after another,
//! after those that came together were made durable together. An empty file needs none of it.
//!
//! A file whose record only lost its ctime is told by its CRC-64/NVME: where that is still the
//! record's, all its digests hold again, a multipart tag included. The provisional tag shown in
//! between goes on matching in conditions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::attrs::{DigestState, Record};
use super::commit::{SYNC_EVERYTHING_FROM, Terms, Turn};
use super::disk::{Disk, DiskFile, FileFacts};
use super::index::{Change, RowFlags};
use super::look::{row_of, state_of};
use super::sink::{COPY_STEP_LEN_BYTES, off_thread};
use super::tree::Found;
use super::{HashPolicy, Inner};
use crate::digest::{Digester, Digests, ShaDigester};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, MAX_KEY_LEN_BYTES, ObjectKey};
use crate::object::{DigestSet, Locator};

/// Most objects hashed in one go: their files are held open meanwhile.
const BATCH_KEYS: usize = 384;
/// Most objects whose digests are recorded in one turn, which others wait for meanwhile.
const LOT_KEYS: usize = 32;
/// Bytes after which nothing more is read before what was is recorded.
const LOT_BYTES: u64 = 4 << 20;
/// How long suspects are gathered after the first: what a mount writes seldom comes alone, and
/// much of it is gone again soon.
const GATHER: Duration = Duration::from_millis(100);
/// How often the index is asked where it has no more; where it has, hashing takes half of the time.
const IDLE: Duration = Duration::from_millis(500);
/// A file changed more recently is left alone: it may still be written.
const SETTLED_AFTER_NS: i64 = 300_000_000;

/// An object that may have no digest that holds.
#[derive(Debug, Clone)]
pub struct Suspect {
    /// Where it stands.
    pub at: Locator,
    /// Whether whoever wrote it is known to be done.
    pub settled: bool,
}

/// Starts the task; it ends when the brick is closed or dropped.
pub fn start<D: Disk>(inner: &Arc<Inner<D>>, mut suspected: mpsc::Receiver<Suspect>) {
    if !inner.options.hash.any(HashPolicy::is_unasked) {
        return;
    }
    let weak = Arc::downgrade(inner);
    tokio::spawn(async move {
        let mut after: Option<(BucketName, ObjectKey)> = None;
        let mut pause = IDLE;
        loop {
            let mut batch = Vec::new();
            match tokio::time::timeout(pause, suspected.recv()).await {
                Ok(None) => return,
                Ok(Some(first)) => {
                    batch.push(first);
                    tokio::time::sleep(GATHER).await;
                    while batch.len() < BATCH_KEYS
                        && let Ok(next) = suspected.try_recv()
                    {
                        batch.push(next);
                    }
                }
                Err(_) => {}
            }
            let Some(inner) = weak.upgrade() else { return };
            if inner.is_stopping() {
                return;
            }
            if !batch.is_empty() {
                inner.hash_all(batch).await;
                continue;
            }
            let began = Instant::now();
            pause = IDLE;
            let from = after.as_ref().map(|(bucket, key)| (bucket, key));
            let rows = match inner.index.next_unhashed(from, BATCH_KEYS).await {
                Ok(rows) => rows,
                Err(e) => {
                    tracing::warn!("the index cannot say what needs hashing: {e}");
                    continue;
                }
            };
            let is_unasked = |bucket: &BucketName| inner.options.hash.of(bucket).is_unasked();
            let left_alone = rows.iter().position(|(bucket, ..)| !is_unasked(bucket));
            let has_more = rows.len() == BATCH_KEYS || left_alone.is_some();
            after = match left_alone {
                Some(at) => Some((rows[at].0.clone(), last_key())),
                None => rows
                    .last()
                    .map(|(bucket, key, _)| (bucket.clone(), key.clone())),
            };
            let unsettled = |(bucket, key, _)| Suspect {
                at: Locator::new(bucket, key),
                settled: false,
            };
            let due = rows.into_iter().take(left_alone.unwrap_or(BATCH_KEYS));
            inner.hash_all(due.map(unsettled).collect()).await;
            if has_more {
                pause = began.elapsed().min(IDLE);
            }
        }
    });
}

/// The last key that a bucket can have: after it begins another bucket.
fn last_key() -> ObjectKey {
    let most = MAX_KEY_LEN_BYTES / char::MAX.len_utf8();
    ObjectKey::parse(&char::MAX.to_string().repeat(most)).expect("it is of the longest length")
}

/// A file that is to be read for its digest, as it was found.
struct Due<D: Disk> {
    at: Locator,
    file: D::File,
    facts: FileFacts,
}

fn note_unhashed(at: &Locator, e: &StoreError) {
    tracing::debug!(bucket = %at.bucket, key = %at.key, "not hashed: {e}");
}

fn failed(e: std::io::Error) -> StoreError {
    StoreError::from_io("read a file for its digest", e)
}

impl<D: Disk> Inner<D> {
    /// Digests those of many that need it. They are made durable together, not one by one: for
    /// many small files that is most of the work.
    async fn hash_all(self: &Arc<Self>, suspects: Vec<Suspect>) {
        let inner = Arc::clone(self);
        let due = off_thread(move || {
            let due: Vec<_> = suspects
                .iter()
                .filter_map(|suspect| {
                    let due = inner.due(suspect);
                    due.unwrap_or_else(|e| {
                        note_unhashed(&suspect.at, &e);
                        None
                    })
                })
                .collect();
            Ok(inner.sync_all_due(due))
        });
        let due = match due.await {
            Ok(due) => due,
            Err(e) => {
                tracing::debug!("files could not be synced, nothing is hashed: {e}");
                return;
            }
        };
        let mut due = due.into_iter().peekable();
        while due.peek().is_some() {
            let mut lot = Vec::new();
            let mut len_bytes = 0;
            while lot.len() < LOT_KEYS
                && len_bytes < LOT_BYTES
                && let Some(next) = due.next()
            {
                len_bytes += next.facts.len_bytes;
                lot.push(next);
            }
            if let Err(StoreError::Stopping) = self.hash_lot(lot).await {
                return;
            }
        }
    }

    /// Digests files that are durable, and records it of all of them in one turn. Errors:
    /// Stopping, and that of one of those that could not be recorded.
    async fn hash_lot(self: &Arc<Self>, lot: Vec<Due<D>>) -> Result<()> {
        let inner = Arc::clone(self);
        let digested = off_thread(move || {
            let mut digested = Vec::with_capacity(lot.len());
            for due in lot {
                match inner.digest_synced(&due) {
                    Ok(Some((facts, digests))) => digested.push((due.at, facts, digests)),
                    Ok(None) => {}
                    Err(StoreError::Stopping) => return Err(StoreError::Stopping),
                    Err(e) => note_unhashed(&due.at, &e),
                }
            }
            Ok(digested)
        });
        self.record_all(digested.await?).await
    }

    async fn record_all(
        self: &Arc<Self>,
        digested: Vec<(Locator, FileFacts, Digests)>,
    ) -> Result<()> {
        if digested.is_empty() {
            return Ok(());
        }
        let keys = digested.iter();
        let keys = keys.map(|(at, ..)| (at.bucket.clone(), at.key.clone()));
        let terms = Terms {
            durable: false,
            file: None,
            keys: keys.collect(),
            removes: false,
        };
        let inner = Arc::clone(self);
        self.committer
            .submit(terms, move |turn| {
                let mut failed = None;
                for (at, facts, digests) in &digested {
                    if let Err(e) = inner.record_digests(turn, at, facts, digests) {
                        note_unhashed(at, &e);
                        failed = Some(e);
                    }
                }
                failed.map_or(Ok(()), Err)
            })
            .await
    }

    /// Digests an object whose digest is not known or does not hold. Nothing happens where
    /// it changes meanwhile.
    pub(super) async fn hash_one(self: &Arc<Self>, suspect: &Suspect) -> Result<()> {
        let (inner, suspect) = (Arc::clone(self), suspect.clone());
        let due = off_thread(move || {
            let due = inner.due(&suspect)?;
            due.iter().try_for_each(|due| inner.sync_due(due))?;
            Ok(due)
        });
        match due.await? {
            Some(due) => self.hash_synced(due).await,
            None => Ok(()),
        }
    }

    async fn hash_synced(self: &Arc<Self>, due: Due<D>) -> Result<()> {
        let (inner, at) = (Arc::clone(self), due.at.clone());
        let digested = off_thread(move || inner.digest_synced(&due)).await?;
        let Some((facts, digests)) = digested else {
            return Ok(());
        };
        self.record_all(vec![(at, facts, digests)]).await
    }

    /// What is to be read for a digest; none where it is known, or while it is being written.
    fn due(self: &Arc<Self>, suspect: &Suspect) -> Result<Option<Due<D>>> {
        let at = &suspect.at;
        let Some(looked) = self.look_blocking(at)? else {
            return Ok(None);
        };
        let (facts, Some(file)) = (looked.found.facts, looked.found.file) else {
            return Ok(None);
        };
        if !looked.info.etag.is_provisional() {
            // Known meanwhile, or known to the record and not to the index.
            self.reconcile_row_if_behind(at);
            return Ok(None);
        }
        if self.unrecordable.has(&facts) || self.edits.has(facts.ino) {
            return Ok(None);
        }
        let age_ns = self.options.clock.now().0.saturating_sub(facts.mtime_ns);
        if (0..SETTLED_AFTER_NS).contains(&age_ns) && !suspect.settled {
            return Ok(None);
        }
        let at = at.clone();
        Ok(Some(Due { at, file, facts }))
    }

    /// Makes a file durable before it is read: the record must not reach the disk before the
    /// bytes that it vouches for, and a store to mapped memory moves a file's times only where
    /// the page was clean.
    fn sync_due(&self, due: &Due<D>) -> Result<()> {
        self.let_tick_pass(&due.facts);
        due.file.sync().map_err(failed)
    }

    /// As [`Self::sync_due`], of many; gives those that are durable.
    fn sync_all_due(&self, mut due: Vec<Due<D>>) -> Vec<Due<D>> {
        due.iter().for_each(|due| self.let_tick_pass(&due.facts));
        if due.len() >= SYNC_EVERYTHING_FROM && self.tree.disk.sync_everything().is_ok() {
            return due;
        }
        // Of a failure each file's own descriptor tells again.
        due.retain(|due| {
            let synced = due.file.sync().map_err(failed);
            synced.inspect_err(|e| note_unhashed(&due.at, e)).is_ok()
        });
        due
    }

    /// Reads a synced file through the digests; none where it changed meanwhile.
    fn digest_synced(&self, due: &Due<D>) -> Result<Option<(FileFacts, Digests)>> {
        let digests = self.digest_file(&due.file, &due.facts)?;
        Ok(digests.map(|digests| (due.facts, digests)))
    }

    pub(super) fn digest_file(&self, file: &D::File, facts: &FileFacts) -> Result<Option<Digests>> {
        let mut digester = Digester::new(DigestSet::default());
        let mut at_bytes = 0;
        loop {
            let bytes = file
                .read_at(at_bytes, COPY_STEP_LEN_BYTES as usize)
                .map_err(failed)?;
            if bytes.is_empty() {
                break;
            }
            digester.update(&bytes);
            at_bytes += bytes.len() as u64;
            if self.is_stopping() {
                return Err(StoreError::Stopping);
            }
        }
        let now = file.facts().map_err(failed)?;
        let digests = digester.finish(ShaDigester::default());
        let unchanged = is_same_state(&now, facts) && digests.len_bytes == facts.len_bytes;
        Ok(unchanged.then_some(digests))
    }

    /// Whether a file has the bytes that its record's digests are of; all of them are made durable
    /// and read.
    pub(super) fn reads_as(
        &self,
        file: &D::File,
        facts: &FileFacts,
        record: &Record,
    ) -> Result<bool> {
        if facts.len_bytes > 0 {
            self.let_tick_pass(facts);
            file.sync().map_err(failed)?;
        }
        let digests = self.digest_file(file, facts)?;
        Ok(digests.is_some_and(|digests| is_of(record, &digests)))
    }

    /// Reads an object through the digests, as [`Self::hash_one`] does before it records them.
    #[cfg(test)]
    pub(super) fn digest(
        self: &Arc<Self>,
        suspect: &Suspect,
    ) -> Result<Option<(FileFacts, Digests)>> {
        let Some(due) = self.due(suspect)? else {
            return Ok(None);
        };
        self.sync_due(&due)?;
        self.digest_synced(&due)
    }

    fn reconcile_row_if_behind(self: &Arc<Self>, at: &Locator) {
        let row = self.runtime.block_on(self.index.get(&at.bucket, &at.key));
        if matches!(row, Ok(Some(row)) if row.flags.needs_hash) {
            drop(self.submit_reconcile(vec![at.clone()]));
        }
    }

    /// In the committer's turn: the digests become the record's where the file is still as it
    /// was read.
    pub(super) fn record_digests(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        facts: &FileFacts,
        digests: &Digests,
    ) -> Result<()> {
        let Some(Found {
            file: Some(file),
            facts: now,
            escaped,
            ..
        }) = self.tree.find(at)?
        else {
            return Ok(());
        };
        if !is_same_state(&now, facts) || self.edits.has(now.ino) {
            return Ok(());
        }
        let mut record = self.tree.records.load(&file, &now)?.unwrap_or_default();
        let state = DigestState {
            len_bytes: now.len_bytes,
            mtime_ns: now.mtime_ns,
            ino: now.ino,
        };
        let holds = record.state == Some(state) && is_of(&record, digests);
        let file = Arc::new(file);
        let flags = RowFlags {
            escaped,
            ..RowFlags::default()
        };
        let mut after = now;
        let known = if holds {
            let etag_before = Some(state_of(facts).provisional_tag());
            Record {
                etag_before,
                ..record.clone()
            }
        } else {
            renewed(record.clone(), state, facts, digests)
        };
        self.stamps.changing(now.ino);
        turn.touched(now.ino);
        match self.tree.records.save(&file, &now, &known) {
            Ok(()) => {
                turn.changed_file(&file);
                record = known;
                after = file.facts().map_err(failed)?;
            }
            Err(e) => {
                // Not ours to write to: what held before holds, or nothing does and we ask no
                // more.
                tracing::debug!(bucket = %at.bucket, key = %at.key, "no record: {e}");
                self.stamps.forget(now.ino);
                if !holds {
                    self.unrecordable.note(&now);
                    record = Record::default();
                }
            }
        }
        let info = record.to_object_info(at.key.clone(), &state_of(&after));
        if !info.etag.is_provisional() {
            self.ours(&after);
        }
        let mut row = row_of(&info, &after, escaped, HashPolicy::Never);
        row.flags = flags;
        self.change_index([(at.bucket.clone(), at.key.clone(), Change::Put(row))]);
        Ok(())
    }
}

/// Whether nothing was done to a file between two looks.
pub fn is_same_state(a: &FileFacts, b: &FileFacts) -> bool {
    (a.ino, a.len_bytes, a.mtime_ns, a.ctime_ns) == (b.ino, b.len_bytes, b.mtime_ns, b.ctime_ns)
}

/// Whether a record's digests, a multipart tag included, are of the bytes that these are of.
fn is_of(record: &Record, digests: &Digests) -> bool {
    record.crc64nvme == Some(digests.crc64nvme)
        && record.md5.is_none_or(|md5| md5 == digests.md5)
        && record.etag().is_some()
}

/// A record with new digests; what the client said stays.
fn renewed(mut record: Record, state: DigestState, facts: &FileFacts, digests: &Digests) -> Record {
    record.void_digests();
    record.state = Some(state);
    record.mtime_before_ns = None;
    record.md5 = Some(digests.md5);
    record.crc64nvme = Some(digests.crc64nvme);
    record.etag_before = Some(state_of(facts).provisional_tag());
    record
}

#[cfg(test)]
mod tests;
