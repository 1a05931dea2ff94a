//! A brick's copy of the replicated log: one file for all groups, so that one sync makes the
//! records of many groups durable.
//!
//! `replica/log` below the reserved directory is a run of frames: length of the payload (4 bytes,
//! little endian), its CRC-32C (4 bytes), the payload, an [`Entry`] in JSON, and where it has bytes
//! that are written in place, a NUL (which JSON has none of) and they. Reading stops at the first
//! frame that is not whole; what follows was never said to be durable. What was written
//! together begins with a frame that says that all before it is durable: after a crash only the
//! last of it may be there without the files that were staged for it. Once the log has grown, it
//! is written anew with what is still needed, and renamed over the old one.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;

mod frame;

use frame::{Entry, entry_of, next_frame, push_frame};
use placement::group::GroupId;
use placement::replica::{Effect, OpId, Position, Record, Stored};

use super::kinds::{Kept, Name};
use crate::brick::disk::{Disk, DiskFile};
use crate::error::{Result, StoreError};

/// The log's name, and that of the one which is to take its place.
const LOG: &str = "log";
const NEXT_LOG: &str = "log.next";
/// A log longer than this is written anew, where that halves it at least; in bytes.
const LONG_LEN_BYTES: u64 = 64 << 20;

type Logged = Arc<Record<Kept>>;

/// What the log has of a group.
#[derive(Debug, Clone, Default)]
struct GroupLog {
    base: Position,
    checkpoint: u64,
    is_whole: bool,
    records: VecDeque<Logged>,
    /// Up to here records are durable with the files staged for them.
    confirmed: u64,
}

impl GroupLog {
    fn cut(&mut self, seq: u64) {
        let kept = seq.saturating_sub(self.base.seq);
        self.records
            .truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        self.confirmed = self.confirmed.min(seq);
    }

    fn trim(&mut self, base: Position) {
        while let Some(first) = self.records.front()
            && first.at.seq <= base.seq
        {
            self.base = first.at;
            self.records.pop_front();
        }
    }

    fn last(&self) -> u64 {
        self.records
            .back()
            .map_or(self.base.seq, |record| record.at.seq)
    }
}

/// See the module.
pub struct ReplicaLog<D: Disk> {
    disk: Arc<D>,
    dir: Arc<D::Dir>,
    file: D::File,
    end: u64,
    /// How long it was when it was last written anew.
    compact_len_bytes: u64,
    /// Frames that are not written yet.
    unwritten: Vec<u8>,
    /// Whether all that was written is durable.
    is_synced: bool,
    /// Groups with records that are not confirmed.
    unconfirmed: Vec<u32>,
    /// Operations whose records were dropped and not given yet.
    dropped: Vec<OpId>,
    groups: Vec<GroupLog>,
}

fn fail(e: std::io::Error) -> StoreError {
    StoreError::from_io("write the log of changes", e)
}

impl<D: Disk> ReplicaLog<D> {
    /// Opens a brick's log, or begins one: then a group's tree is whole where `is_whole` says so.
    /// Durable on return.
    pub fn open(
        disk: Arc<D>,
        dir: Arc<D::Dir>,
        groups: u32,
        is_whole: impl Fn(GroupId) -> bool,
    ) -> Result<Self> {
        match disk.unlink(&dir, NEXT_LOG) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
        let file = disk.open_own(&dir, LOG, true).map_err(fail)?;
        let len_bytes = file.facts().map_err(fail)?.len_bytes;
        let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        let bytes = file.read_at(0, len).map_err(fail)?;
        let mut log = Self {
            disk,
            dir,
            file,
            end: 0,
            compact_len_bytes: 0,
            unwritten: Vec::new(),
            is_synced: false,
            unconfirmed: Vec::new(),
            dropped: Vec::new(),
            groups: vec![GroupLog::default(); groups as usize],
        };
        let mut rest = bytes.as_slice();
        while let Some((entry, after)) = next_frame(rest) {
            log.take(entry);
            log.end += (rest.len() - after.len()) as u64;
            rest = after;
        }
        if !rest.is_empty() {
            log.file.set_len(log.end).map_err(fail)?;
        }
        if log.end == 0 {
            let whole = (0..groups).filter(|g| is_whole(GroupId(*g))).collect();
            let begun = Entry::BegunOf { whole };
            push_frame(&mut log.unwritten, &begun)?;
            log.take(begun);
            log.write()?;
        }
        log.disk.sync_dir(&log.dir).map_err(fail)?;
        log.file.sync().map_err(fail)?;
        Ok(log)
    }

    /// What an earlier run may have written without the files staged for it: who opens the log
    /// looks after them, [cuts](Self::cut) what is not whole, and then [confirms](Self::confirm).
    pub fn doubtful(&self) -> Vec<(GroupId, Logged)> {
        let mut groups = self.unconfirmed.clone();
        groups.sort_unstable();
        groups.dedup();
        let of = |g: u32| {
            let group = &self.groups[g as usize];
            let since = group.confirmed.max(group.checkpoint);
            let records = group.records.iter();
            records
                .filter(move |record| record.at.seq > since)
                .map(move |record| (GroupId(g), Arc::clone(record)))
        };
        groups.into_iter().flat_map(of).collect()
    }

    /// Whether a record after this one says all that becomes of all its names.
    pub fn is_replaced(&self, group: GroupId, record: &Record<Kept>) -> bool {
        let group = &self.groups[group.0 as usize];
        let later = || {
            let records = group.records.iter();
            records.filter(|later| later.at.seq > record.at.seq)
        };
        let is_said = |effect: &Effect<Name>| {
            later().any(|later| {
                let mut effects = later.effects.iter();
                effects.any(|other| other.name == effect.name && !other.is_derived)
            })
        };
        record.effects.first().is_none_or(is_said)
    }

    /// Drops a group's records above a number.
    pub fn cut(&mut self, group: GroupId, seq: u64) -> Result<()> {
        self.push(Entry::Cut { g: group.0, s: seq })
    }

    /// All that was written is durable, with the files staged for it.
    pub fn confirm(&mut self) {
        for g in std::mem::take(&mut self.unconfirmed) {
            if let Some(group) = self.groups.get_mut(g as usize) {
                group.confirmed = group.last();
            }
        }
    }

    /// Writes the log anew with what is known to be durable, after a sync had failed: what the
    /// kernel has in memory of the rest may be nowhere else, and no further sync would say so.
    /// Gives the operations whose records are dropped.
    pub fn keep_confirmed(&mut self) -> Result<Vec<OpId>> {
        let mut dropped = std::mem::take(&mut self.dropped);
        for g in std::mem::take(&mut self.unconfirmed) {
            if let Some(group) = self.groups.get_mut(g as usize) {
                let confirmed = group.confirmed;
                let above = group.records.iter().rev();
                let above = above.take_while(|record| record.at.seq > confirmed);
                dropped.extend(above.map(|record| record.op));
                group.cut(confirmed);
            }
        }
        // Where that fails they are to be given the next time.
        self.dropped = dropped;
        self.compact()?;
        Ok(std::mem::take(&mut self.dropped))
    }

    fn group(&mut self, group: u32) -> Option<&mut GroupLog> {
        self.groups.get_mut(group as usize)
    }

    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Begun { is_whole } => {
                self.groups
                    .iter_mut()
                    .for_each(|group| group.is_whole = is_whole);
            }
            Entry::BegunOf { whole } => {
                for g in whole {
                    if let Some(group) = self.group(g) {
                        group.is_whole = true;
                    }
                }
            }
            Entry::Record {
                g,
                e,
                s,
                op,
                names,
                change,
            } => {
                let at = Position { epoch: e, seq: s };
                let effect = |(name, is_derived)| Effect { name, is_derived };
                let record = Record {
                    at,
                    op: OpId(op),
                    effects: names.into_iter().map(effect).collect(),
                    body: change.map(|change| Some(Arc::from(change))),
                };
                if let Some(group) = self.group(g)
                    && s == group.last() + 1
                {
                    group.records.push_back(Arc::new(record));
                    self.unconfirmed.push(g);
                }
            }
            Entry::Synced => self.confirm(),
            Entry::Cut { g, s } => {
                if let Some(group) = self.group(g) {
                    group.cut(s);
                }
            }
            Entry::Base { g, e, s, is_whole } => {
                if let Some(group) = self.group(g) {
                    *group = GroupLog {
                        base: Position { epoch: e, seq: s },
                        checkpoint: s,
                        is_whole,
                        records: VecDeque::new(),
                        confirmed: s,
                    };
                }
            }
            Entry::Kept { upto } => {
                for (g, s) in upto {
                    if let Some(group) = self.group(g) {
                        group.checkpoint = group.checkpoint.max(s);
                    }
                }
            }
            Entry::Whole { g, s } => {
                if let Some(group) = self.group(g) {
                    group.is_whole = true;
                    group.checkpoint = group.checkpoint.max(s);
                }
            }
        }
    }

    /// What a replica starts with.
    pub fn stored(&self, group: GroupId) -> Stored<Kept> {
        let found = &self.groups[group.0 as usize];
        Stored {
            base: found.base,
            records: found.records.iter().cloned().collect(),
            checkpoint: found.checkpoint.clamp(found.base.seq, found.last()),
            is_complete: found.is_whole,
        }
    }

    /// Notes that no group's tree is whole, durably: what stands may be older than the log says.
    pub fn doubt(&mut self) -> Result<()> {
        for g in 0..self.groups.len() as u32 {
            let base = self.groups[g as usize].base;
            self.rebase(GroupId(g), base)?;
        }
        self.write()?;
        self.sync()
    }

    /// The greatest number of any operation in it.
    pub fn last_op(&self) -> u64 {
        let records = self.groups.iter().flat_map(|group| &group.records);
        records.map(|record| record.op.0).max().unwrap_or(0)
    }

    /// The staged files that records in it may still need.
    pub fn staged_ops(&self) -> impl Iterator<Item = OpId> {
        let records = self.groups.iter().flat_map(|group| &group.records);
        records.map(|record| record.op)
    }

    /// Takes records after `keep`, to be written.
    pub fn append(&mut self, group: GroupId, keep: u64, records: &[Logged]) -> Result<()> {
        let Some(found) = self.groups.get_mut(group.0 as usize) else {
            return Ok(());
        };
        if keep < found.last() {
            push_frame(
                &mut self.unwritten,
                &Entry::Cut {
                    g: group.0,
                    s: keep,
                },
            )?;
            found.cut(keep);
        }
        for record in records {
            push_frame(&mut self.unwritten, &entry_of(group, record))?;
            found.records.push_back(Arc::clone(record));
        }
        if !records.is_empty() {
            self.unconfirmed.push(group.0);
        }
        Ok(())
    }

    /// Begins a group's log anew above `base`; the tree is not whole from now on.
    pub fn rebase(&mut self, group: GroupId, base: Position) -> Result<()> {
        self.push(Entry::Base {
            g: group.0,
            e: base.epoch,
            s: base.seq,
            is_whole: false,
        })
    }

    /// Notes what the tree has durably.
    pub fn note_kept(&mut self, upto: &[(GroupId, u64)]) -> Result<()> {
        let upto = upto.iter().map(|(group, seq)| (group.0, *seq)).collect();
        self.push(Entry::Kept { upto })
    }

    /// Notes that a group's tree is whole.
    pub fn note_whole(&mut self, group: GroupId, seq: u64) -> Result<()> {
        self.push(Entry::Whole { g: group.0, s: seq })
    }

    fn push(&mut self, entry: Entry) -> Result<()> {
        push_frame(&mut self.unwritten, &entry)?;
        self.take(entry);
        Ok(())
    }

    /// Forgets records up to a base.
    pub fn trim(&mut self, group: GroupId, base: Position) {
        if let Some(group) = self.group(group.0) {
            group.trim(base);
        }
    }

    /// Writes what was taken, without a sync.
    pub fn write(&mut self) -> Result<()> {
        if !self.unwritten.is_empty() {
            if std::mem::take(&mut self.is_synced) {
                let mut marked = Vec::new();
                push_frame(&mut marked, &Entry::Synced)?;
                marked.append(&mut self.unwritten);
                self.unwritten = marked;
            }
            self.file
                .write_at(self.end, &self.unwritten)
                .map_err(fail)?;
            self.end += self.unwritten.len() as u64;
            self.unwritten.clear();
        }
        Ok(())
    }

    /// Makes what was written durable; the files staged for it are.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync().map_err(fail)?;
        self.synced();
        Ok(())
    }

    /// Notes that what was written is durable, with the files staged for it.
    pub fn synced(&mut self) {
        self.is_synced = true;
        self.confirm();
    }

    /// Writes the log anew where it has grown long; everything taken is durable then.
    pub fn compact_if_long(&mut self) -> Result<()> {
        if self.end < LONG_LEN_BYTES.max(2 * self.compact_len_bytes) {
            return Ok(());
        }
        self.compact()
    }

    /// Writes the log anew.
    pub fn compact(&mut self) -> Result<()> {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, &Entry::Begun { is_whole: false })?;
        for (g, group) in (0..).zip(&self.groups) {
            push_frame(
                &mut bytes,
                &Entry::Base {
                    g,
                    e: group.base.epoch,
                    s: group.base.seq,
                    is_whole: group.is_whole,
                },
            )?;
            for record in &group.records {
                push_frame(&mut bytes, &entry_of(GroupId(g), record))?;
            }
        }
        let upto = (0..).zip(self.groups.iter().map(|group| group.checkpoint));
        push_frame(
            &mut bytes,
            &Entry::Kept {
                upto: upto.collect(),
            },
        )?;
        push_frame(&mut bytes, &Entry::Synced)?;
        let file = self
            .disk
            .open_own(&self.dir, NEXT_LOG, true)
            .map_err(fail)?;
        file.set_len(0).map_err(fail)?;
        file.write_at(0, &bytes).map_err(fail)?;
        file.sync().map_err(fail)?;
        self.disk
            .rename(&self.dir, NEXT_LOG, &self.dir, LOG)
            .map_err(fail)?;
        self.disk.sync_dir(&self.dir).map_err(fail)?;
        self.file = file;
        self.end = bytes.len() as u64;
        self.compact_len_bytes = self.end;
        self.unwritten.clear();
        self.is_synced = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
