//! Looking at objects: which record holds for a file's bytes as they are now.
//!
//! A record names length, mtime and inode of the state its digests were taken at. A rewrite that
//! puts those back moves the ctime all the same; so the ctime last seen, after our own last
//! change, is kept in memory, in the index and, until that is durable, in the intent log; and a
//! record whose file has another is void until the bytes have been read again.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::attrs::{self, Record, Verdict};
use super::commit::Terms;
use super::disk::{Disk, DiskFile, FileFacts};
use super::hashing::Suspect;
use super::index::{Row, RowFlags};
use super::intents::Ours;
use super::sink::off_thread;
use super::tree::Found;
use super::{HashPolicy, Inner};
use crate::error::{Result, StoreError};
use crate::name::{ETag, ObjectKey};
use crate::object::{Locator, ObjectInfo};
use crate::volume::BucketInfo;

/// Most inodes whose ctime is kept in memory: 16 bytes each and the cache's own.
const MAX_STAMPS: usize = 262_144;

/// The ctime of files after our own last change to them, by inode number.
pub struct Stamps(Cache<u64, i64>);

/// Files that take no record, by inode number with the ctime they had: reading them again for
/// their digest would be in vain.
pub struct Unrecordable(Cache<u64, i64>);

/// Most of them kept in memory.
const MAX_UNRECORDABLE: usize = 16_384;

impl Unrecordable {
    /// None known yet.
    pub fn new() -> Self {
        Self(Cache::new(MAX_UNRECORDABLE))
    }

    /// Notes a file whose record could not be written.
    pub fn note(&self, facts: &FileFacts) {
        self.0.insert(facts.ino, facts.ctime_ns);
    }

    /// Whether the file is one and has not changed since.
    pub fn has(&self, facts: &FileFacts) -> bool {
        self.0.get(&facts.ino) == Some(facts.ctime_ns)
    }
}

impl Default for Unrecordable {
    fn default() -> Self {
        Self::new()
    }
}

/// Stands for whatever ctime a change of ours under way will lead to.
const CHANGING: i64 = i64::MIN;

/// A ctime that no file has.
const DOUBTED: i64 = i64::MAX;

impl Stamps {
    /// None known yet.
    pub fn new() -> Self {
        Self(Cache::new(MAX_STAMPS))
    }

    /// Whether the file is as we left it; none where that is not known here.
    pub fn holds(&self, facts: &FileFacts) -> Option<bool> {
        let stamp = self.0.get(&facts.ino)?;
        Some(stamp == CHANGING || stamp == facts.ctime_ns)
    }

    /// Notes a file as it is after a change of ours; see [`Inner::ours`].
    pub fn note(&self, facts: &FileFacts) {
        self.0.insert(facts.ino, facts.ctime_ns);
    }

    /// As [`Self::note`], of what an earlier run left.
    pub fn note_ours(&self, ours: Ours) {
        self.0.insert(ours.ino, ours.ctime_ns);
    }

    /// Notes a file as it was looked at, unless something is known of it: who looks outside the
    /// turn may have looked before our last change and come here after it.
    pub fn learn(&self, facts: &FileFacts) {
        let learnt = self.0.get_or_insert_with(&facts.ino, || {
            Ok::<_, std::convert::Infallible>(facts.ctime_ns)
        });
        match learnt {
            Ok(_) => {}
            Err(never) => match never {},
        }
    }

    /// Notes that we are about to move a file's ctime.
    pub fn changing(&self, ino: u64) {
        self.0.insert(ino, CHANGING);
    }

    /// Notes a file as it is, where a change of ours was under way and stopped.
    pub fn changed(&self, facts: &FileFacts) {
        if self.0.get(&facts.ino) == Some(CHANGING) {
            self.note(facts);
        }
    }

    /// Doubts a file's digests until its bytes have been read again.
    pub fn doubt(&self, ino: u64) {
        self.0.insert(ino, DOUBTED);
    }

    /// Forgets a file.
    pub fn forget(&self, ino: u64) {
        self.0.remove(&ino);
    }
}

impl Default for Stamps {
    fn default() -> Self {
        Self::new()
    }
}

/// An object looked at.
pub struct Looked<D: Disk> {
    /// The object, held open.
    pub found: Found<D>,
    /// What it is.
    pub info: ObjectInfo,
    /// Its record, with void digests taken away.
    pub record: Record,
    /// The record names digests that do not hold: the bytes were changed behind our back, or
    /// a change of ours was under way while we looked.
    pub in_doubt: bool,
}

/// A file's facts, as far as records know them.
pub fn state_of(facts: &FileFacts) -> attrs::FileFacts {
    attrs::FileFacts {
        len_bytes: facts.len_bytes,
        mtime_ns: facts.mtime_ns,
        ino: facts.ino,
        ctime_ns: facts.ctime_ns,
    }
}

/// What the index keeps of an object.
pub fn row_of(info: &ObjectInfo, facts: &FileFacts, escaped: bool, hash: HashPolicy) -> Row {
    let is_marker = facts.kind == super::disk::FileKind::Dir;
    Row {
        len_bytes: info.len_bytes,
        mtime_ns: facts.mtime_ns,
        ctime_ns: facts.ctime_ns,
        ino: facts.ino,
        etag: info.etag.clone(),
        owner: info.attrs.owner.clone(),
        checksum: info.checksum.as_ref().map(|sum| (sum.algorithm, sum.kind)),
        flags: RowFlags {
            needs_hash: info.etag.is_provisional() && hash != HashPolicy::Never,
            is_marker,
            escaped,
        },
    }
}

/// Whether a record's digests hold as far as length, mtime and inode tell.
pub fn claims_digests(record: &Record, facts: &FileFacts) -> bool {
    record.verdict(facts.len_bytes, facts.mtime_ns, facts.ino) == Verdict::Valid
}

/// A row has seen a file as it is, with digests that held.
pub fn row_has_seen(row: &Row, facts: &FileFacts) -> bool {
    (row.ino, row.ctime_ns) == (facts.ino, facts.ctime_ns) && !row.etag.is_provisional()
}

/// A row says that a record holds: same inode and ctime, and a digest was known.
fn row_holds(row: Option<&Row>, facts: &FileFacts) -> bool {
    match row {
        Some(row) if row.ino == facts.ino => row_has_seen(row, facts),
        // Never seen by this index: then length, mtime and inode have to do.
        _ => true,
    }
}

impl<D: Disk> Inner<D> {
    /// In a turn: notes a file as it is after a change of ours, in memory and in the log.
    pub(super) fn ours(&self, facts: &FileFacts) {
        self.stamps.note(facts);
        self.log.ours(Ours::of(facts));
    }

    /// In a turn: says in the log how a file is in the midst of a change of ours, before the disk
    /// is waited for. Where that cannot be said its digests are in doubt after a crash.
    pub(super) fn say_ours(&self, file: &D::File) {
        let said = file
            .facts()
            .map_err(|e| StoreError::from_io("look at an object", e))
            .and_then(|facts| {
                self.log.ours(Ours::of(&facts));
                self.log.append_ours()
            });
        if let Err(e) = said {
            tracing::debug!("after a crash digests will be in doubt: {e}");
        }
    }

    fn looked(
        &self,
        key: &ObjectKey,
        found: Found<D>,
        mut record: Record,
        holds: bool,
    ) -> Looked<D> {
        let had_digests = record.etag().is_some();
        if !holds {
            record.void_digests();
        }
        let state = state_of(&found.facts);
        let mut info = record.to_object_info(key.clone(), &state);
        if found.marker.is_none() && self.edits.has(found.facts.ino) {
            // Empty, perhaps, and for this instant only.
            info.etag = ETag::provisional(state.provisional_tag());
        }
        if !info.etag.is_provisional() && self.edits.have_shown(&found.facts) {
            let shown = ETag::provisional(state.provisional_tag());
            info.etags_before.push(shown);
        }
        let in_doubt = had_digests && info.etag.is_provisional();
        Looked {
            found,
            info,
            record,
            in_doubt,
        }
    }

    /// An object's record as it stands, whether its digests hold or not.
    pub(super) fn record_of(&self, found: &Found<D>) -> Result<Record> {
        match (&found.marker, &found.file) {
            (Some(record), _) => Ok(record.clone()),
            (None, Some(file)) => Ok(self
                .tree
                .records
                .load(file, &found.facts)?
                .unwrap_or_default()),
            (None, None) => Ok(Record::default()),
        }
    }

    /// Whether a record holds, as far as memory tells.
    fn holds_in_memory(&self, found: &Found<D>, record: &Record) -> Option<bool> {
        if found.marker.is_some() {
            return Some(true);
        }
        if self.edits.has(found.facts.ino) {
            return Some(false);
        }
        if !claims_digests(record, &found.facts) {
            return Some(false);
        }
        if found.facts.len_bytes == 0 {
            // Whatever was done to it, it has no other bytes.
            return Some(true);
        }
        self.stamps.holds(&found.facts)
    }

    /// Looks at an object from a thread that may block; none where there is none.
    pub fn look_blocking(&self, at: &Locator) -> Result<Option<Looked<D>>> {
        let Some(found) = self.tree.find(at)? else {
            return Ok(None);
        };
        let record = self.record_of(&found)?;
        let holds = match self.holds_in_memory(&found, &record) {
            Some(holds) => holds,
            None => {
                let row = self.runtime.block_on(self.index.get(&at.bucket, &at.key))?;
                self.holds_by_row(row.as_ref(), &found.facts)
            }
        };
        Ok(Some(self.looked(&at.key, found, record, holds)))
    }

    /// Whether a file's digests held as it was before a change of its names that nobody has been
    /// told of yet.
    pub(super) fn held(&self, at: &Locator, before: &FileFacts) -> Result<bool> {
        if self.edits.has(before.ino) {
            return Ok(false);
        }
        if let Some(holds) = self.stamps.holds(before) {
            return Ok(holds);
        }
        let row = self.runtime.block_on(self.index.get(&at.bucket, &at.key))?;
        Ok(row_holds(row.as_ref(), before))
    }

    fn holds_by_row(&self, row: Option<&Row>, facts: &FileFacts) -> bool {
        let holds = row_holds(row, facts);
        if holds {
            self.stamps.learn(facts);
        }
        holds
    }

    /// Looks at an object: on this thread where everything is in memory. Errors:
    /// NoSuchBucket, NoSuchKey, AccessDenied.
    pub async fn look(self: &Arc<Self>, at: &Locator) -> Result<Looked<D>> {
        let mut looked = match self.tree.find_cached(at) {
            Some(found) => self.look_found(at, found).await?,
            None => self.look_waiting(at).await?,
        };
        if self.edits.has(looked.found.facts.ino) {
            return self.look_at_edited(at).await;
        }
        if looked.in_doubt {
            looked = self.look_in_turn(at).await?;
        }
        if !looked.info.etag.is_provisional() {
            return Ok(looked);
        }
        match self.options.hash.of(&at.bucket) {
            HashPolicy::Never => Ok(looked),
            HashPolicy::Background | HashPolicy::OnClose => {
                // A full queue loses nothing: the index knows what needs hashing.
                let (at, settled) = (at.clone(), false);
                let _ = self.suspects.try_send(Suspect { at, settled });
                Ok(looked)
            }
            HashPolicy::OnRead => {
                let (place, settled) = (at.clone(), true);
                self.hash_one(&Suspect { at: place, settled }).await?;
                self.look_waiting(at).await
            }
        }
    }

    async fn look_found(&self, at: &Locator, found: Found<D>) -> Result<Looked<D>> {
        let record = self.record_of(&found)?;
        let holds = match self.holds_in_memory(&found, &record) {
            Some(holds) => holds,
            None => {
                let row = self.index.get(&at.bucket, &at.key).await?;
                self.holds_by_row(row.as_ref(), &found.facts)
            }
        };
        Ok(self.looked(&at.key, found, record, holds))
    }

    /// Looks at a file that is open for writing. A store to mapped memory moves its times only
    /// where the page was clean: so its pages are written first, and every store after this
    /// look is one to another state, with another provisional tag.
    async fn look_at_edited(self: &Arc<Self>, at: &Locator) -> Result<Looked<D>> {
        let (inner, place) = (Arc::clone(self), at.clone());
        let written = off_thread(move || {
            if let Some(found) = inner.tree.find(&place)?
                && let Some(file) = found.file
            {
                inner.let_tick_pass(&found.facts);
                file.sync()
                    .map_err(|e| StoreError::from_io("write a file's pages", e))?;
            }
            Ok(())
        });
        written.await?;
        let looked = self.look_waiting(at).await?;
        self.show_edited(&looked.found.facts);
        Ok(looked)
    }

    /// Looks while no change of ours is under way.
    async fn look_in_turn(self: &Arc<Self>, at: &Locator) -> Result<Looked<D>> {
        let (inner, at) = (Arc::clone(self), at.clone());
        self.committer
            .submit(Terms::to_look(), move |_| {
                inner.look_blocking(&at)?.ok_or(StoreError::NoSuchKey)
            })
            .await
    }

    async fn look_waiting(self: &Arc<Self>, at: &Locator) -> Result<Looked<D>> {
        let (inner, place) = (Arc::clone(self), at.clone());
        let looked = off_thread(move || inner.look_blocking(&place)).await?;
        match looked {
            Some(looked) => Ok(looked),
            None => {
                let (inner, bucket) = (Arc::clone(self), at.bucket.clone());
                off_thread(move || inner.buckets.load(&inner.tree, &bucket)).await?;
                Err(StoreError::NoSuchKey)
            }
        }
    }

    /// Looks at a bucket: on this thread where it was looked at a moment ago. Errors:
    /// NoSuchBucket.
    pub async fn look_bucket(
        self: &Arc<Self>,
        name: &crate::name::BucketName,
    ) -> Result<Arc<BucketInfo>> {
        if let Some(info) = self.buckets.cached(name) {
            return Ok(info);
        }
        let (inner, name) = (Arc::clone(self), name.clone());
        off_thread(move || inner.buckets.load(&inner.tree, &name)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::{FileFacts, FileKind};
    use super::Stamps;

    #[test]
    fn what_a_late_look_saw_does_not_replace_what_we_know() {
        let old = FileFacts {
            kind: FileKind::File,
            len_bytes: 1,
            mtime_ns: 1,
            ctime_ns: 1,
            btime_ns: 1,
            ino: 1,
            link_count: 1,
        };
        let new = FileFacts { ctime_ns: 2, ..old };
        let stamps = Stamps::new();
        stamps.learn(&old);
        assert_eq!(stamps.holds(&old), Some(true));
        // Our change, between that look and another that comes late.
        stamps.changing(1);
        stamps.learn(&old);
        assert_eq!(stamps.holds(&new), Some(true));
        stamps.note(&new);
        stamps.learn(&old);
        assert_eq!(stamps.holds(&new), Some(true));
        stamps.doubt(1);
        stamps.learn(&new);
        assert_eq!(stamps.holds(&new), Some(false));
    }
}
