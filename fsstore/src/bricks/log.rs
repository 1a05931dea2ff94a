//! A brick's copy of the replicated log: one file for all groups, so that one sync makes the
//! records of many groups durable.
//!
//! `replica/log` below the reserved directory is a run of frames: length of the payload (4 bytes,
//! little endian), its CRC-32C (4 bytes), the payload, an [`Entry`] in JSON, and where it has bytes
//! that are written in place, a NUL (which JSON has none of) and they. Reading stops at the
//! first frame that is not whole; what follows was never said to be durable. Once it has grown, it
//! is written anew with what is still needed, and renamed over the old one.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use placement::group::GroupId;
use placement::replica::{Effect, OpId, Position, Record, Stored};
use serde::{Deserialize, Serialize};

use super::kinds::{Change, Kept, Name};
use crate::brick::disk::{Disk, DiskFile};
use crate::error::{Result, StoreError};

/// The log's name, and that of the one which is to take its place.
const LOG: &str = "log";
const NEXT_LOG: &str = "log.next";
/// A log longer than this is written anew, where that halves it at least; in bytes.
const LONG_LEN_BYTES: u64 = 64 << 20;
/// Longest payload: a record with the longest attributes, in hexadecimal.
const MAX_PAYLOAD_LEN_BYTES: usize = 8 << 20;

/// Before bytes that stand beside an entry.
const BESIDE: u8 = 0;

/// What a frame says. `g` is the group, `e` and `s` are a position.
#[derive(Debug, Serialize, Deserialize)]
enum Entry {
    /// The first of a log: whether the tree was whole when it was begun.
    Begun { is_whole: bool },
    /// A record.
    #[serde(rename = "r")]
    Record {
        g: u32,
        e: u64,
        s: u64,
        op: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        names: Vec<(Name, bool)>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        change: Option<Box<Change>>,
    },
    /// Records above this one are none.
    Cut { g: u32, s: u64 },
    /// The group's log begins anew above this, and the tree is whole or not.
    Base {
        g: u32,
        e: u64,
        s: u64,
        is_whole: bool,
    },
    /// The tree has these records, durably: groups and numbers.
    Kept { upto: Vec<(u32, u64)> },
    /// The tree is whole, with all up to here.
    Whole { g: u32, s: u64 },
}

impl Entry {
    fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Record { change, .. } => change.as_ref()?.bytes(),
            _ => None,
        }
    }
}

type Logged = Arc<Record<Kept>>;

/// What the log has of a group.
#[derive(Debug, Clone, Default)]
struct GroupLog {
    base: Position,
    checkpoint: u64,
    is_whole: bool,
    records: VecDeque<Logged>,
}

impl GroupLog {
    fn cut(&mut self, seq: u64) {
        let kept = seq.saturating_sub(self.base.seq);
        self.records
            .truncate(usize::try_from(kept).unwrap_or(usize::MAX));
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
    groups: Vec<GroupLog>,
}

fn fail(e: std::io::Error) -> StoreError {
    StoreError::from_io("write the log of changes", e)
}

fn push_frame(out: &mut Vec<u8>, entry: &Entry) -> Result<()> {
    let mut payload = serde_json::to_vec(entry).map_err(|e| StoreError::Corrupt(e.to_string()))?;
    if let Some(bytes) = entry.bytes() {
        payload.push(BESIDE);
        payload.extend_from_slice(bytes);
    }
    if payload.len() > MAX_PAYLOAD_LEN_BYTES {
        return Err(StoreError::MetadataTooLarge {
            len_bytes: payload.len(),
            max_bytes: MAX_PAYLOAD_LEN_BYTES,
        });
    }
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(check_sum(&payload).to_le_bytes());
    out.extend(payload);
    Ok(())
}

fn check_sum(payload: &[u8]) -> u32 {
    // A CRC-32 has 32 bits.
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, payload) as u32
}

/// The next whole frame and what follows it.
fn next_frame(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    if len > MAX_PAYLOAD_LEN_BYTES || rest.len() < len {
        return None;
    }
    let (payload, rest) = rest.split_at(len);
    if check_sum(payload) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (entry, beside) = match payload.iter().position(|byte| *byte == BESIDE) {
        Some(end) => (&payload[..end], Some(&payload[end + 1..])),
        None => (payload, None),
    };
    let mut entry: Entry = serde_json::from_slice(entry).ok()?;
    if let (Some(beside), Entry::Record { change, .. }) = (beside, &mut entry)
        && let Some(change) = change
    {
        change.set_bytes(Bytes::copy_from_slice(beside));
    }
    Some((entry, rest))
}

fn entry_of(group: GroupId, record: &Record<Kept>) -> Entry {
    let effects = record.effects.iter();
    Entry::Record {
        g: group.0,
        e: record.at.epoch,
        s: record.at.seq,
        op: record.op.0,
        names: effects
            .map(|effect| (effect.name.clone(), effect.is_derived))
            .collect(),
        change: record
            .body
            .clone()
            .flatten()
            .map(|change| Box::new((*change).clone())),
    }
}

impl<D: Disk> ReplicaLog<D> {
    /// Opens a brick's log, or begins one: then the tree is whole where `is_whole` says so.
    /// Durable on return.
    pub fn open(disk: Arc<D>, dir: Arc<D::Dir>, groups: u32, is_whole: bool) -> Result<Self> {
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
            let begun = Entry::Begun { is_whole };
            push_frame(&mut log.unwritten, &begun)?;
            log.take(begun);
            log.write()?;
        }
        // What an earlier run wrote and did not sync counts from now on.
        log.sync()?;
        log.disk.sync_dir(&log.dir).map_err(fail)?;
        Ok(log)
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
                }
            }
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
            self.file
                .write_at(self.end, &self.unwritten)
                .map_err(fail)?;
            self.end += self.unwritten.len() as u64;
            self.unwritten.clear();
        }
        Ok(())
    }

    /// Makes what was written durable.
    pub fn sync(&self) -> Result<()> {
        self.file.sync().map_err(fail)
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
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use placement::group::GroupId;
    use placement::replica::{OpId, Position, Record};

    use super::ReplicaLog;
    use crate::brick::crashdisk::{Abilities, CrashDisk, World};
    use crate::brick::disk::{Disk, DiskFile};

    fn record(epoch: u64, seq: u64) -> Arc<Record<super::Kept>> {
        Arc::new(Record {
            at: Position { epoch, seq },
            op: OpId(seq),
            effects: Vec::new(),
            body: None,
        })
    }

    fn open(disk: &Arc<CrashDisk>) -> ReplicaLog<CrashDisk> {
        ReplicaLog::open(Arc::clone(disk), disk.root(), 2, true).unwrap()
    }

    fn seqs(log: &ReplicaLog<CrashDisk>, group: u32) -> Vec<(u64, u64)> {
        let stored = log.stored(GroupId(group));
        let records = stored.records.iter();
        records
            .map(|record| (record.at.epoch, record.at.seq))
            .collect()
    }

    fn disk() -> Arc<CrashDisk> {
        Arc::new(CrashDisk::new(World::new(), Abilities::default()))
    }

    #[test]
    fn what_was_written_is_read_again_and_what_was_cut_is_not() {
        let disk = disk();
        let mut log = open(&disk);
        let group = GroupId(1);
        log.append(group, 0, &[record(1, 1), record(1, 2), record(1, 3)])
            .unwrap();
        log.append(group, 1, &[record(2, 2)]).unwrap();
        log.note_kept(&[(group, 1)]).unwrap();
        log.write().unwrap();
        let again = open(&disk);
        assert_eq!(seqs(&again, 1), [(1, 1), (2, 2)]);
        assert_eq!(again.stored(group).checkpoint, 1);
        assert!(again.stored(group).is_complete && seqs(&again, 0).is_empty());
    }

    #[test]
    fn a_torn_end_is_dropped_and_written_over() {
        let disk = disk();
        let mut log = open(&disk);
        log.append(GroupId(0), 0, &[record(1, 1)]).unwrap();
        log.write().unwrap();
        let whole = log.end;
        log.append(GroupId(0), 1, &[record(1, 2)]).unwrap();
        log.write().unwrap();
        let file = disk.open_own(&disk.root(), "log", false).unwrap();
        file.set_len(log.end - 1).unwrap();
        let mut torn = open(&disk);
        assert_eq!((seqs(&torn, 0), torn.end), (vec![(1, 1)], whole));
        torn.append(GroupId(0), 1, &[record(3, 2)]).unwrap();
        torn.write().unwrap();
        assert_eq!(seqs(&open(&disk), 0), [(1, 1), (3, 2)]);
    }

    #[test]
    fn a_log_written_anew_says_the_same_in_less() {
        let disk = disk();
        let mut log = open(&disk);
        for seq in 1..100 {
            log.append(GroupId(0), seq - 1, &[record(1, seq)]).unwrap();
        }
        log.note_kept(&[(GroupId(0), 98)]).unwrap();
        log.trim(GroupId(0), Position { epoch: 1, seq: 90 });
        log.rebase(GroupId(1), Position { epoch: 4, seq: 7 })
            .unwrap();
        log.write().unwrap();
        let long = log.end;
        log.compact().unwrap();
        assert!(log.end < long / 4);
        let again = open(&disk);
        assert_eq!(seqs(&again, 0).len(), 9);
        assert_eq!(again.stored(GroupId(0)).checkpoint, 98);
        let other = again.stored(GroupId(1));
        assert_eq!((other.base.seq, other.is_complete), (7, false));
    }

    #[test]
    fn a_doubted_log_is_of_no_whole_tree() {
        let disk = disk();
        let mut log = open(&disk);
        log.append(GroupId(0), 0, &[record(1, 1)]).unwrap();
        log.write().unwrap();
        log.doubt().unwrap();
        let again = open(&disk);
        assert!(!again.stored(GroupId(0)).is_complete && seqs(&again, 0).is_empty());
    }
}
