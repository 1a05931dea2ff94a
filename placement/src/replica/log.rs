//! The records that a replica keeps: the suffix of the group's log above a base.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Effect, Kinds, OpId};

/// A place in the log, and the identity of the record there: two records at the same position are
/// one. It is also the stamp of what the record made of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The epoch in which its primary made it.
    pub epoch: u64,
    /// Its number: 1, 2, 3 …, without gaps.
    pub seq: u64,
}

/// One change, in the order that its primary gave it.
#[derive(Debug, Clone)]
pub struct Record<K: Kinds> {
    /// Where it stands.
    pub at: Position,
    /// The request it came from.
    pub op: OpId,
    /// The names it changes; none for a barrier.
    pub effects: Vec<Effect<K::Name>>,
    /// What it does; none for a barrier, with which a primary begins its epoch.
    pub body: Option<K::Body>,
}

impl<K: Kinds> Record<K> {
    /// True where it changes `name`.
    pub fn touches(&self, name: &K::Name) -> bool {
        self.effects.iter().any(|effect| effect.name == *name)
    }
}

/// Records above `base`, in order. What is at or below the base is committed and in the tree.
#[derive(Debug)]
pub struct Log<K: Kinds> {
    base: Position,
    records: VecDeque<Arc<Record<K>>>,
}

impl<K: Kinds> Log<K> {
    pub fn new(base: Position, records: Vec<Arc<Record<K>>>) -> Self {
        let mut log = Self {
            base,
            records: VecDeque::new(),
        };
        for record in records {
            log.push(record);
        }
        log
    }

    pub fn base(&self) -> Position {
        self.base
    }

    pub fn last(&self) -> Position {
        self.records.back().map_or(self.base, |record| record.at)
    }

    pub fn get(&self, seq: u64) -> Option<&Arc<Record<K>>> {
        let index = seq.checked_sub(self.base.seq + 1)?;
        self.records.get(usize::try_from(index).ok()?)
    }

    /// The position with this number, where it is still known.
    pub fn position(&self, seq: u64) -> Option<Position> {
        if seq == self.base.seq {
            return Some(self.base);
        }
        self.get(seq).map(|record| record.at)
    }

    /// Records from `seq` on, at most `limit`.
    pub fn from(&self, seq: u64, limit: usize) -> Vec<Arc<Record<K>>> {
        let skipped = seq.saturating_sub(self.base.seq + 1) as usize;
        let from = skipped.min(self.records.len());
        let to = from.saturating_add(limit).min(self.records.len());
        self.records.range(from..to).cloned().collect()
    }

    /// How many records at the end, `limit` at most, have none among them that is heavy.
    pub fn light_at_end(&self, limit: u64) -> u64 {
        let is_light = |record: &&Arc<Record<K>>| !record.body.as_ref().is_some_and(K::is_heavy);
        let last = self.records.iter().rev().take(limit as usize);
        let light = last.take_while(is_light).count();
        match light == self.records.len() {
            // Below these there is nothing to keep either.
            true => limit,
            false => light as u64,
        }
    }

    /// Records above `seq`.
    pub fn above(&self, seq: u64) -> impl Iterator<Item = &Arc<Record<K>>> {
        let skipped = seq.saturating_sub(self.base.seq) as usize;
        self.records.range(skipped.min(self.records.len())..)
    }

    pub fn push(&mut self, record: Arc<Record<K>>) {
        assert_eq!(record.at.seq, self.last().seq + 1, "a gap in the log");
        self.records.push_back(record);
    }

    /// Drops records above `seq`.
    pub fn truncate(&mut self, seq: u64) {
        assert!(seq >= self.base.seq, "cut below the base");
        self.records.truncate((seq - self.base.seq) as usize);
    }

    /// Drops records up to `seq`, which becomes the base.
    pub fn trim(&mut self, seq: u64) {
        if let Some(at) = self.position(seq) {
            self.records.drain(..(seq - self.base.seq) as usize);
            self.base = at;
        }
    }

    /// The last position of each epoch that is known, ascending; the base's first.
    pub fn ends(&self) -> Vec<Position> {
        let mut ends = vec![self.base];
        for record in &self.records {
            match ends.last_mut() {
                Some(end) if end.epoch == record.at.epoch => *end = record.at,
                _ => ends.push(record.at),
            }
        }
        ends
    }

    /// The last position that this log shares with one of these [`ends`](Self::ends); none where
    /// it lies below the base. An epoch's records have one author, so where both logs have records
    /// of an epoch they agree up to the end of the shorter.
    pub fn common(&self, ends: &[Position]) -> Option<Position> {
        let own = self.ends();
        ends.iter().rev().find_map(|theirs| {
            let ours = own.iter().find(|end| end.epoch == theirs.epoch)?;
            let seq = ours.seq.min(theirs.seq);
            self.position(seq).filter(|at| at.epoch == theirs.epoch)
        })
    }
}
