//! Directories that moved: all keys below one prefix are below another, as one step.
//!
//! 1. [`super::Index::moving`] holds back whoever lists the buckets, so that nobody lists
//!    between the disk's step and ours;
//! 2. [`super::Index::move_prefix`] gives what is pending below the one its place below the
//!    other, and adds the move to the generation's [rules](super::rules): in its transaction one
//!    statement moves the rows of the database, before the generation's own rows are written;
//! 3. whoever lists a bucket waits for its moves to be in the database. [`super::Index::get`]
//!    does not wait: it looks where the row may be before the move as well.
//!
//! Escaped keys do not stand in the directory and stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::database::Database;
use super::overlay::{BucketId, Generation, Overlay, Pending};
use super::row::Row;
use super::rules::{Prefix, Trace};
use super::{Applied, Shared};
use crate::error::Result;
use crate::name::{BucketName, ObjectKey};

/// A rename under way is waited for in one; what is on its way when a listing comes is in the
/// database after another; more take what came meanwhile.
const ROUNDS_TO_STAND_STILL: usize = 4;

/// Where rows are while two directories change places: no key begins with it, since no UTF-8
/// does, and none gets longer by it.
const ASIDE: &[u8] = b"\xff/";

/// Where the row of a key is.
enum Place {
    Known(Pending),
    /// At the key, in the database, if anywhere.
    Here(BucketId),
    Moving(Stored),
}

/// Where it is in the database, if anywhere: by what the database says that it has.
struct Stored {
    states: Vec<State>,
}

struct State {
    /// Which moves it has then.
    moved_through: u64,
    traces: Vec<Trace>,
}

/// Moves under way and made, of one bucket.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// How many are under way on the disk.
    now: usize,
    /// How many there ever were.
    begun: u64,
}

impl Overlay {
    pub fn move_prefix(&mut self, from: (&BucketName, &str), to: (&BucketName, &str)) -> Applied {
        self.note_coming(from.0, to.0);
        let from = Prefix::new(self.ensure_bucket(from.0, false), from.1);
        let into = to.0;
        let to = Prefix::new(self.ensure_bucket(into, false), to.1);
        if self.active.move_rows(from, to) {
            self.note_long_paths(into);
        }
        self.sealed()
    }

    pub fn swap_prefixes(
        &mut self,
        one: (&BucketName, &str),
        other: (&BucketName, &str),
    ) -> Applied {
        self.note_coming(one.0, other.0);
        self.note_coming(other.0, one.0);
        let names = (one.0, other.0);
        let one = Prefix::new(self.ensure_bucket(one.0, false), one.1);
        let other = Prefix::new(self.ensure_bucket(other.0, false), other.1);
        let aside = Prefix {
            bucket: one.bucket,
            bytes: ASIDE.to_vec(),
        };
        self.active.move_rows(one.clone(), aside.clone());
        if self.active.move_rows(other.clone(), one) {
            self.note_long_paths(names.0);
        }
        if self.active.move_rows(aside, other) {
            self.note_long_paths(names.1);
        }
        self.sealed()
    }

    /// Rows of one bucket come to another, which has no more of them than that one had.
    fn note_coming(&mut self, from: &BucketName, to: &BucketName) {
        if self.is_complete(from) {
            return;
        }
        if self.is_complete(to) {
            self.set_complete(to, false);
        }
        // A scan under way may have been where they are now, and not where they were.
        self.doubt(to);
    }

    /// Whether moves of a bucket are not in the database yet.
    fn has_moves(&self, bucket: BucketId) -> bool {
        let touches = |generation: &Generation| generation.rules.touch(bucket);
        touches(&self.active) || self.flushing.as_deref().is_some_and(touches)
    }

    fn has_moves_of(&self, bucket: &BucketName) -> bool {
        let id = self.bucket_id(bucket);
        id.is_some_and(|id| self.has_moves(id))
    }

    fn has_any_moves(&self) -> bool {
        let has = |generation: &Generation| !generation.rules.is_empty();
        has(&self.active) || self.flushing.as_deref().is_some_and(has)
    }

    fn locate(&self, bucket: BucketId, key: &[u8]) -> Place {
        if let Some(pending) = self.active.at(bucket, key) {
            return Place::Known(pending.clone());
        }
        let mut traces = self.active.rules.back(vec![Trace::of(bucket, key)]);
        let state = |moved_through, traces| State {
            moved_through,
            traces,
        };
        let Some(flushing) = &self.flushing else {
            let states = vec![state(self.moved_through, traces)];
            return Place::Moving(Stored { states });
        };
        let mut found = None;
        traces.retain(|trace| match flushing.at(trace.bucket, &trace.key) {
            Some(Some(row)) if trace.fits(row) => {
                found.get_or_insert_with(|| row.clone());
                false
            }
            Some(_) => false,
            None => true,
        });
        if found.is_some() {
            return Place::Known(found);
        }
        let before = flushing.rules.back(traces.clone());
        let mut states = vec![state(self.moved_through, before)];
        if !flushing.rules.is_empty() {
            // Its transaction may be committed by now.
            states.push(state(flushing.moved_through, traces));
        }
        Place::Moving(Stored { states })
    }

    pub fn begin_move(&mut self, bucket: &BucketName) {
        let moves = self.moving.entry(bucket.clone()).or_default();
        moves.now += 1;
        moves.begun += 1;
    }

    pub fn end_move(&mut self, bucket: &BucketName) {
        if let Some(moves) = self.moving.get_mut(bucket) {
            moves.now -= 1;
        }
    }

    pub fn moves_begun(&self, bucket: &BucketName) -> u64 {
        self.moving.get(bucket).map_or(0, |moves| moves.begun)
    }

    pub(super) fn is_moving(&self, bucket: &BucketName) -> bool {
        self.moving.get(bucket).is_some_and(|moves| moves.now > 0)
    }

    /// The transaction of a generation failed; should its moves have been made all the same,
    /// making them again could move rows that came since.
    pub fn doubt_moves(&mut self, generation: &Generation) {
        for (id, name) in self.names() {
            if generation.rules.touch(id) && self.is_complete(&name) {
                self.set_complete(&name, false);
            }
        }
    }
}

/// Directories of two buckets are being moved: nobody lists either until this is dropped.
#[derive(Debug)]
pub struct Moving<'a> {
    shared: &'a Shared,
    buckets: [BucketName; 2],
}

impl<'a> Moving<'a> {
    pub(super) fn begin(shared: &'a Shared, buckets: [BucketName; 2]) -> Self {
        let mut overlay = shared.overlay();
        buckets.iter().for_each(|name| overlay.begin_move(name));
        drop(overlay);
        Self { shared, buckets }
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        let mut overlay = self.shared.overlay();
        self.buckets.iter().for_each(|name| overlay.end_move(name));
        drop(overlay);
        self.shared.moved.notify_waiters();
    }
}

impl Shared {
    pub(super) async fn get(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<Row>> {
        let bytes = key.as_str().as_bytes();
        loop {
            let stored = match self.place_of(bucket, bytes) {
                Place::Known(row) => return Ok(row.map(Arc::unwrap_or_clone)),
                Place::Here(id) => return self.database.get(id, bytes).await,
                Place::Moving(stored) => stored,
            };
            if let Some(found) = stored.get(&self.database).await? {
                return Ok(found);
            }
            // What was pending is in the database, and soon said to be.
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn get_many(
        &self,
        bucket: &BucketName,
        keys: &[ObjectKey],
    ) -> Result<Vec<Option<Row>>> {
        let mut rows = vec![None; keys.len()];
        let mut stored: Vec<(usize, &[u8])> = Vec::new();
        let mut moving = Vec::new();
        let mut id = None;
        for (i, key) in keys.iter().enumerate() {
            let bytes = key.as_str().as_bytes();
            match self.place_of(bucket, bytes) {
                Place::Known(row) => rows[i] = row.map(Arc::unwrap_or_clone),
                Place::Here(of) => {
                    id = Some(of);
                    stored.push((i, bytes));
                }
                Place::Moving(_) => moving.push((i, key)),
            }
        }
        if let Some(id) = id {
            let asked: Vec<_> = stored.iter().map(|(_, key)| *key).collect();
            let found = self.database.get_many(id, &asked).await?;
            let found: BTreeMap<_, _> = found.into_iter().collect();
            for (i, key) in stored {
                rows[i] = found.get(key).cloned();
            }
        }
        for (i, key) in moving {
            rows[i] = self.get(bucket, key).await?;
        }
        Ok(rows)
    }

    fn place_of(&self, bucket: &BucketName, key: &[u8]) -> Place {
        let overlay = self.overlay();
        let Some(id) = overlay.bucket_id(bucket) else {
            return Place::Known(None);
        };
        if overlay.has_any_moves() {
            return overlay.locate(id, key);
        }
        match overlay.pending(id, key) {
            Some(pending) => Place::Known(pending),
            None => Place::Here(id),
        }
    }

    /// Waits until what is to be listed of a bucket is in one place.
    pub(super) async fn settle_moves(&self, bucket: &BucketName) -> Result<()> {
        while self.has_moves(bucket) {
            self.flush().await?;
        }
        Ok(())
    }

    fn has_moves(&self, bucket: &BucketName) -> bool {
        self.overlay().has_moves_of(bucket)
    }

    /// As [`Self::still`], for so many rounds; none where others go on moving directories meanwhile.
    pub(super) async fn still_soon(&self, bucket: &BucketName) -> Result<Option<u64>> {
        for _ in 0..ROUNDS_TO_STAND_STILL {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            let (is_moving, has_moves, begun) = {
                let overlay = self.overlay();
                (
                    overlay.is_moving(bucket),
                    overlay.has_moves_of(bucket),
                    overlay.moves_begun(bucket),
                )
            };
            match (is_moving, has_moves) {
                (true, _) => moved.await,
                (false, true) => drop(self.flush().await?),
                (false, false) => return Ok(Some(begun)),
            }
        }
        Ok(None)
    }

    /// Waits until no directory of a bucket is being moved, and none that was is missed. Gives
    /// how many there were.
    pub(super) async fn still(&self, bucket: &BucketName) -> Result<u64> {
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            let (is_moving, begun) = {
                let overlay = self.overlay();
                (overlay.is_moving(bucket), overlay.moves_begun(bucket))
            };
            if !is_moving {
                self.settle_moves(bucket).await?;
                return Ok(begun);
            }
            moved.await;
        }
    }
}

impl Stored {
    /// None where the database has come to another state.
    async fn get(self, database: &Database) -> Result<Option<Option<Row>>> {
        let mut snapshot = database.snapshot().await?;
        let moved_through = snapshot.moved_through().await?;
        let mut states = self.states.into_iter();
        let Some(state) = states.find(|it| it.moved_through == moved_through) else {
            return Ok(None);
        };
        for trace in state.traces {
            match snapshot.get(trace.bucket, &trace.key).await? {
                Some(row) if trace.fits(&row) => return Ok(Some(Some(row))),
                _ => {}
            }
        }
        Ok(Some(None))
    }
}
