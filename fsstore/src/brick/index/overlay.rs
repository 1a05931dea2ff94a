//! Changes that the database does not have yet.
//!
//! Two generations: changes go into the active one; a flush turns it into the flushing one,
//! which stays readable until its transaction is committed. Whoever reads the overlay first
//! and the database afterwards therefore sees every change applied before it began.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use super::long_paths::LongPaths;
use super::moves::Moves;
use super::range::KeyRange;
use super::row::Row;
use super::rules::Rules;
use super::{Applied, Change, Room};
use crate::name::{BucketName, ObjectKey};

/// Most changes kept in memory before callers are told to wait (all buckets, both
/// generations). With the longest keys that is about 50 MiB, with usual ones a fifth.
pub const MAX_OVERLAY_ROWS: usize = 32_768;
/// Most places to which directories moved kept before callers are told to wait: for each there
/// are statements over its rows, which whoever lists waits for.
const MAX_MOVES: usize = 64;

/// A bucket's number in the database. Never used again while rows of it exist.
pub(super) type BucketId = i64;
/// A key as bytes, shared between the overlay and those who read it.
pub(super) type Key = Arc<[u8]>;
/// What is pending at a key: a row, or its removal.
pub(super) type Pending = Option<Arc<Row>>;

/// What the database should know of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BucketState {
    /// It is there.
    Known { name: BucketName, complete: bool },
    /// It is gone; its rows are to be deleted.
    Dropped,
}

/// Changes that go into the database in one transaction.
#[derive(Debug, Default)]
pub(super) struct Generation {
    /// By bucket, in order of keys.
    pub rows: BTreeMap<BucketId, BTreeMap<Key, Pending>>,
    /// Directories that moved; before the rows.
    pub rules: Rules,
    /// By number: a dropped bucket comes before its successor of the same name.
    pub buckets: BTreeMap<BucketId, BucketState>,
    /// The last change in it.
    pub through: u64,
    /// Which moves the database has with it, where there are any in it.
    pub moved_through: u64,
    /// Rows and superseded ones.
    pub row_count: usize,
}

impl Generation {
    pub fn put(&mut self, bucket: BucketId, key: Key, pending: Pending) {
        let before = self.rows.entry(bucket).or_default().insert(key, pending);
        self.row_count += usize::from(before.is_none());
    }

    /// Takes away what is pending in a range.
    pub fn take_range(&mut self, bucket: BucketId, range: &KeyRange) -> Vec<(Key, Pending)> {
        let Some(rows) = self.rows.get_mut(&bucket) else {
            return Vec::new();
        };
        let mut tail = rows.split_off(&range.from[..]);
        if let Some(to) = &range.to {
            rows.append(&mut tail.split_off(&to[..]));
        }
        self.row_count -= tail.len();
        tail.into_iter().collect()
    }

    /// What is pending at a key, if anything.
    pub fn at(&self, bucket: BucketId, key: &[u8]) -> Option<&Pending> {
        self.rows.get(&bucket)?.get(key)
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.buckets.is_empty() && self.rules.is_empty()
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    id: BucketId,
    complete: bool,
    /// How often it was said that rows may be missing.
    doubts: u64,
    long_paths: LongPaths,
}

impl Bucket {
    fn new(id: BucketId, complete: bool, may_have_long_paths: bool) -> Self {
        Self {
            id,
            complete,
            doubts: 0,
            long_paths: LongPaths::new(may_have_long_paths),
        }
    }
}

/// Changes that the database does not have yet, and the buckets as they are.
#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) active: Generation,
    pub(super) flushing: Option<Arc<Generation>>,
    /// By bucket, where directories were ever moved.
    pub(super) moving: BTreeMap<BucketName, Moves>,
    buckets: BTreeMap<BucketName, Bucket>,
    next_bucket: BucketId,
    last_seq: u64,
    flushed_through: u64,
    /// Which moves the database has.
    pub(super) moved_through: u64,
}

/// A stretch of the overlay in order of keys.
pub(super) struct Slice {
    /// What is pending, a key once.
    pub rows: Vec<(Key, Pending)>,
    /// True where the stretch was cut after the last of `rows`.
    pub cut: bool,
}

impl Overlay {
    /// An empty overlay over a database that has these buckets.
    pub fn new(
        buckets: impl IntoIterator<Item = (BucketId, BucketName, bool)>,
        next_bucket: BucketId,
        moved_through: u64,
    ) -> Self {
        Self {
            active: Generation::default(),
            flushing: None,
            moving: BTreeMap::new(),
            buckets: buckets
                .into_iter()
                .map(|(id, name, complete)| (name, Bucket::new(id, complete, true)))
                .collect(),
            next_bucket,
            last_seq: 0,
            flushed_through: 0,
            moved_through,
        }
    }

    pub fn apply(
        &mut self,
        changes: impl IntoIterator<Item = (BucketName, ObjectKey, Change)>,
    ) -> Applied {
        let mut any = false;
        for (bucket, key, change) in changes {
            let id = self.ensure_bucket(&bucket, false);
            let pending = match change {
                Change::Put(row) => Some(Arc::new(row)),
                Change::Remove => None,
            };
            let key = Key::from(key.as_str().as_bytes());
            self.active.put(id, key, pending);
            any = true;
        }
        if any { self.sealed() } else { self.applied() }
    }

    pub fn add_bucket(&mut self, name: &BucketName, complete: bool) -> Applied {
        if self.buckets.contains_key(name) {
            return self.applied();
        }
        self.ensure_bucket(name, complete);
        self.sealed()
    }

    pub fn set_complete(&mut self, name: &BucketName, complete: bool) -> Applied {
        let id = self.ensure_bucket(name, complete);
        if let Some(bucket) = self.buckets.get_mut(name) {
            bucket.complete = complete;
            bucket.doubts += u64::from(!complete);
        }
        self.note_bucket(name, id, complete);
        self.sealed()
    }

    /// Says that rows of a bucket may be missing which a scan under way does not bring.
    pub fn doubt(&mut self, name: &BucketName) {
        if let Some(bucket) = self.buckets.get_mut(name) {
            bucket.doubts += 1;
        }
    }

    /// How often it was said of a bucket that rows may be missing.
    pub fn doubts(&self, name: &BucketName) -> u64 {
        self.buckets.get(name).map_or(0, |bucket| bucket.doubts)
    }

    pub(super) fn long_paths(&self, name: &BucketName) -> Option<&LongPaths> {
        self.buckets.get(name).map(|bucket| &bucket.long_paths)
    }

    pub(super) fn long_paths_mut(&mut self, name: &BucketName) -> Option<&mut LongPaths> {
        let bucket = self.buckets.get_mut(name);
        bucket.map(|bucket| &mut bucket.long_paths)
    }

    pub fn drop_bucket(&mut self, name: &BucketName) -> Applied {
        let Some(Bucket { id, .. }) = self.buckets.remove(name) else {
            return self.applied();
        };
        if let Some(rows) = self.active.rows.remove(&id) {
            self.active.row_count -= rows.len();
        }
        self.active.buckets.insert(id, BucketState::Dropped);
        self.sealed()
    }

    pub fn bucket_id(&self, name: &BucketName) -> Option<BucketId> {
        self.buckets.get(name).map(|bucket| bucket.id)
    }

    pub fn is_complete(&self, name: &BucketName) -> bool {
        self.buckets.get(name).is_some_and(|bucket| bucket.complete)
    }

    pub fn buckets(&self) -> Vec<(BucketName, bool)> {
        self.buckets
            .iter()
            .map(|(name, bucket)| (name.clone(), bucket.complete))
            .collect()
    }

    /// The names of these buckets, where they still have one.
    pub fn names(&self) -> BTreeMap<BucketId, BucketName> {
        self.buckets
            .iter()
            .map(|(name, bucket)| (bucket.id, name.clone()))
            .collect()
    }

    /// What is pending at a key, if anything.
    pub fn pending(&self, bucket: BucketId, key: &[u8]) -> Option<Pending> {
        let at = |generation: &Generation| generation.at(bucket, key).cloned();
        at(&self.active).or_else(|| self.flushing.as_deref().and_then(at))
    }

    /// The first `limit` keys of a range at which something is pending.
    pub fn slice(&self, bucket: BucketId, range: &KeyRange, limit: usize) -> Slice {
        let mut slice = Slice {
            rows: Vec::new(),
            cut: false,
        };
        if range.is_empty() {
            return slice;
        }
        let mut newer = pending_in(Some(&self.active), bucket, range).peekable();
        let mut older = pending_in(self.flushing.as_deref(), bucket, range).peekable();
        while let Some((key, pending)) = next_pending(&mut newer, &mut older) {
            if slice.rows.len() == limit {
                slice.cut = true;
                break;
            }
            slice.rows.push((Key::clone(key), pending.clone()));
        }
        slice
    }

    /// Changes in memory, counting a key once per generation.
    pub fn row_count(&self) -> usize {
        self.active.row_count + self.flushing.as_ref().map_or(0, |old| old.row_count)
    }

    fn move_count(&self) -> usize {
        let flushing = self.flushing.as_ref();
        self.active.rules.place_count() + flushing.map_or(0, |old| old.rules.place_count())
    }

    /// Whether callers are to wait.
    fn is_full(&self) -> bool {
        self.row_count() > MAX_OVERLAY_ROWS || self.move_count() > MAX_MOVES
    }

    /// Whether callers need not wait any more.
    pub fn has_room(&self) -> bool {
        self.row_count() <= MAX_OVERLAY_ROWS / 2 && self.move_count() <= MAX_MOVES / 2
    }

    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub fn flushed_through(&self) -> u64 {
        self.flushed_through
    }

    /// The generation to write next: the one whose transaction failed, or the active one.
    pub fn begin_flush(&mut self) -> Option<Arc<Generation>> {
        if self.flushing.is_none() && !self.active.is_empty() {
            self.active.moved_through = self.moved_through + 1;
            self.flushing = Some(Arc::new(std::mem::take(&mut self.active)));
        }
        self.flushing.clone()
    }

    /// Forgets the flushing generation: its transaction is committed. Rows of these buckets went,
    /// whose keys became too long.
    pub fn end_flush(&mut self, too_long: &BTreeSet<BucketId>) {
        let done = self.flushing.take().expect("a flush was begun");
        self.flushed_through = done.through;
        if !done.rules.is_empty() {
            self.moved_through = done.moved_through;
        }
        self.note_rows_too_long(too_long, &done);
    }

    pub(super) fn ensure_bucket(&mut self, name: &BucketName, complete: bool) -> BucketId {
        if let Some(bucket) = self.buckets.get(name) {
            return bucket.id;
        }
        let id = self.next_bucket;
        self.next_bucket += 1;
        // One that is whole already is new, and empty.
        self.buckets
            .insert(name.clone(), Bucket::new(id, complete, !complete));
        self.note_bucket(name, id, complete);
        id
    }

    fn note_bucket(&mut self, name: &BucketName, id: BucketId, complete: bool) {
        let state = BucketState::Known {
            name: name.clone(),
            complete,
        };
        self.active.buckets.insert(id, state);
    }

    pub(super) fn sealed(&mut self) -> Applied {
        self.last_seq += 1;
        self.active.through = self.last_seq;
        self.applied()
    }

    fn applied(&self) -> Applied {
        Applied {
            seq: self.last_seq,
            room: match self.is_full() {
                true => Room::Full,
                false => Room::Free,
            },
        }
    }
}

fn pending_in<'a>(
    generation: Option<&'a Generation>,
    bucket: BucketId,
    range: &'a KeyRange,
) -> impl Iterator<Item = (&'a Key, &'a Pending)> {
    let to = range
        .to
        .as_deref()
        .map_or(Bound::Unbounded, Bound::Excluded);
    generation
        .and_then(|generation| generation.rows.get(&bucket))
        .into_iter()
        .flat_map(move |rows| rows.range::<[u8], _>((Bound::Included(range.from.as_slice()), to)))
}

/// The lesser of two iterators' next keys; where they are equal the newer one's.
fn next_pending<'a, T>(
    newer: &mut Peekable<impl Iterator<Item = (&'a Key, T)>>,
    older: &mut Peekable<impl Iterator<Item = (&'a Key, T)>>,
) -> Option<(&'a Key, T)> {
    match (newer.peek(), older.peek()) {
        (Some((new, _)), Some((old, _))) if old < new => older.next(),
        (Some((new, _)), Some((old, _))) => {
            if old == new {
                older.next();
            }
            newer.next()
        }
        (Some(_), None) => newer.next(),
        (None, _) => older.next(),
    }
}
