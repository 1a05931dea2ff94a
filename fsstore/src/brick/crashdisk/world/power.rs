//! What of a [`World`] outlives the process, and what the power.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{BLOCK_LEN_BYTES, Id, Model, Node, ROOT, Random, World};

impl World {
    /// What a power cut leaves, by a seed.
    pub fn after_power_cut(mut self, random: &mut Random) -> Self {
        self.boots += 1;
        let pending = std::mem::take(&mut self.pending);
        let prefix = random.below(pending.len() + 1);
        let odds = random.below(5);
        let mut left: Vec<usize> = Vec::new();
        for (at, change) in pending.iter().enumerate() {
            let goes = match self.model {
                Model::Journal => at < prefix,
                Model::Adversary => {
                    let misses = |j: usize| change.needs(&pending[j]) && !left.contains(&j);
                    random.below(4) < odds && !(0..at).any(misses)
                }
            };
            if goes {
                self.apply(change);
                left.push(at);
            }
        }
        let dirty = std::mem::take(&mut self.dirty);
        for (id, blocks) in dirty {
            self.tear(id, &blocks, random);
        }
        self.restart()
    }

    /// What the end of the process leaves: everything, but what has no name.
    pub fn after_kill(mut self) -> Self {
        self.sync_everything();
        self.restart()
    }

    /// Lets some of the blocks written reach the stable file.
    fn tear(&mut self, id: Id, dirty: &BTreeSet<usize>, random: &mut Random) {
        let Some(live) = self.live.get(&id).cloned() else {
            return;
        };
        let Some(node) = self.safe_node(id) else {
            return;
        };
        let old = Arc::clone(&node.bytes);
        let odds = random.below(5);
        let len = match random.below(3) {
            0 => old.len(),
            1 => live.bytes.len(),
            _ => {
                let some = random.below(live.bytes.len() / BLOCK_LEN_BYTES + 1) * BLOCK_LEN_BYTES;
                let (low, high) = (old.len(), live.bytes.len());
                some.clamp(low.min(high), low.max(high))
            }
        };
        node.bytes = Arc::clone(&live.bytes);
        for block in dirty {
            if random.below(4) >= odds {
                put_back(node, &old, *block);
            }
        }
        Arc::make_mut(&mut node.bytes).resize(len, 0);
        if random.below(2) == 0 {
            (node.mtime_ns, node.ctime_ns) = (live.mtime_ns, live.ctime_ns);
        }
    }

    fn restart(mut self) -> Self {
        let mut reached = BTreeSet::new();
        let mut left = vec![ROOT];
        while let Some(id) = left.pop() {
            if reached.insert(id)
                && let Some(node) = self.safe.get(&id)
            {
                left.extend(node.entries.values());
            }
        }
        self.safe.retain(|id, _| reached.contains(id));
        let mut counts: BTreeMap<Id, u64> = BTreeMap::new();
        for dir in self.safe.values() {
            for to in dir.entries.values() {
                *counts.entry(*to).or_default() += 1;
            }
        }
        for (id, node) in &mut self.safe {
            node.link_count = counts.get(id).copied().unwrap_or(0);
        }
        self.live = self.safe.clone();
        self.pending.clear();
        self.dirty.clear();
        self.lost.clear();
        self.holds.clear();
        self
    }
}

/// Puts a block of a file back to what it was, zeros where it was not.
pub(super) fn put_back(node: &mut Node, old: &[u8], block: usize) {
    let bytes = Arc::make_mut(&mut node.bytes);
    let start = (block * BLOCK_LEN_BYTES).min(bytes.len());
    let end = (start + BLOCK_LEN_BYTES).min(bytes.len());
    for (at, byte) in (start..end).zip(&mut bytes[start..end]) {
        *byte = old.get(at).copied().unwrap_or(0);
    }
}
