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
    ReplicaLog::open(Arc::clone(disk), disk.root(), 2, |_| true).unwrap()
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
