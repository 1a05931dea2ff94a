//! Paths longer than a key can be: a file at one has no row, and is an object as soon as a
//! directory above it gets a shorter name. Of each bucket it is known that it has none, or it may
//! have some: until a scan that met none says otherwise.

use std::collections::BTreeSet;

use super::Index;
use super::overlay::{BucketId, Generation, Overlay};
use super::rules::Move;
use crate::name::BucketName;

/// What is known of a bucket.
#[derive(Debug, Clone, Copy)]
pub(super) struct LongPaths {
    maybe: bool,
    /// How often one was met.
    met: u64,
}

impl LongPaths {
    pub fn new(maybe: bool) -> Self {
        Self { maybe, met: 0 }
    }
}

/// What was so of a bucket when a scan of it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongPathsMark {
    met: u64,
    moves_begun: u64,
}

impl Overlay {
    pub fn note_long_paths(&mut self, name: &BucketName) {
        if self.bucket_id(name).is_none() {
            self.add_bucket(name, false);
        }
        if let Some(it) = self.long_paths_mut(name) {
            it.maybe = true;
            it.met += 1;
        }
    }

    fn may_have_long_paths(&self, name: &BucketName) -> bool {
        self.long_paths(name).is_none_or(|it| it.maybe)
    }

    fn long_paths_mark(&self, name: &BucketName) -> LongPathsMark {
        LongPathsMark {
            met: self.long_paths(name).map_or(0, |it| it.met),
            moves_begun: self.moves_begun(name),
        }
    }

    fn note_no_long_paths(&mut self, name: &BucketName, since: Option<LongPathsMark>) {
        let is_so = !self.is_moving(name) && since == Some(self.long_paths_mark(name));
        if let (true, Some(it)) = (is_so, self.long_paths_mut(name)) {
            it.maybe = false;
        }
    }

    /// Rows of these buckets are gone, whose keys became too long as directories moved. Where some
    /// have moved on already to a shorter name, their keys may be such again.
    pub fn note_rows_too_long(&mut self, buckets: &BTreeSet<BucketId>, written: &Generation) {
        if buckets.is_empty() {
            return;
        }
        let names = self.names();
        for name in buckets.iter().filter_map(|id| names.get(id)) {
            self.note_long_paths(name);
        }
        let moves = written
            .rules
            .moves()
            .iter()
            .chain(self.active.rules.moves());
        let shortened: BTreeSet<_> = moves
            .filter(|it| buckets.contains(&it.from.bucket) && it.shortens())
            .map(|it| it.to.bucket)
            .collect();
        for name in shortened.iter().filter_map(|id| names.get(id)) {
            self.set_complete(name, false);
        }
    }
}

impl Move {
    /// Whether keys get shorter.
    fn shortens(&self) -> bool {
        self.to.bytes.len() < self.from.bytes.len()
    }
}

impl Index {
    /// Says that a path of a bucket is too long for a key, or may be.
    pub fn note_long_paths(&self, name: &BucketName) {
        self.shared.overlay().note_long_paths(name);
        self.shared.wake(0);
    }

    /// Whether paths of a bucket may be too long for keys.
    pub fn may_have_long_paths(&self, name: &BucketName) -> bool {
        self.shared.overlay().may_have_long_paths(name)
    }

    /// What is to be given to [`Index::note_no_long_paths`] by a scan that begins now; none where
    /// directories of the bucket are being moved.
    pub fn long_paths_mark(&self, name: &BucketName) -> Option<LongPathsMark> {
        let overlay = self.shared.overlay();
        (!overlay.is_moving(name)).then(|| overlay.long_paths_mark(name))
    }

    /// A scan met no path that is too long for a key. Nothing changes where it may have missed one
    /// that came or moved meanwhile.
    pub fn note_no_long_paths(&self, name: &BucketName, since: Option<LongPathsMark>) {
        self.shared.overlay().note_no_long_paths(name, since);
    }
}
