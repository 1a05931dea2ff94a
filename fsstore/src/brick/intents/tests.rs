use std::sync::Arc;

use super::super::crashdisk::{Abilities, CrashDisk, Fault, Model, Random, World};
use super::super::disk::Disk;
use super::{BootId, BucketDir, Intent, IntentLog, MAX_DIR_MARKS};
use crate::error::StoreError;
use crate::name::{BucketName, ObjectKey};

type Log = IntentLog<CrashDisk>;

fn disk() -> Arc<CrashDisk> {
    let world = World::new().with(Model::Adversary);
    Arc::new(CrashDisk::new(world, Abilities::default()))
}

fn open(disk: &Arc<CrashDisk>) -> (Log, Vec<u64>) {
    IntentLog::open(Arc::clone(disk), disk.root(), BootId::new("now")).unwrap()
}

fn bucket() -> BucketName {
    BucketName::parse("bucket").unwrap()
}

fn key(name: &str) -> (BucketName, ObjectKey) {
    (bucket(), ObjectKey::parse(name).unwrap())
}

fn rotate(log: &Log) {
    log.ask_rotation();
    let next = log.next_if_due().unwrap().unwrap();
    log.switch(next).unwrap();
}

fn said(log: &Log, number: u64) -> Vec<Intent> {
    let mut said = Vec::new();
    log.replay(number, |intent| said.push(intent)).unwrap();
    said
}

fn mark(log: &Log, dir: &str) {
    let bucket = bucket();
    let point = log.mark([(&bucket, dir)].into_iter()).unwrap().unwrap();
    log.sync_to(point).unwrap();
}

/// What an open after a power cut finds in the segments left.
fn after_power_cut(disk: &CrashDisk, seed: u64) -> Vec<Intent> {
    let world = disk.world().after_power_cut(&mut Random(seed));
    let disk = Arc::new(CrashDisk::new(world, Abilities::default()));
    let (log, left) = open(&disk);
    left.into_iter()
        .flat_map(|number| said(&log, number))
        .collect()
}

#[test]
fn a_segment_begins_with_its_boot_and_is_empty() {
    let (log, _) = open(&disk());
    assert!(log.is_empty());
    assert_eq!(said(&log, 0), [Intent::Boot(BootId::new("now"))]);
    log.ask_rotation();
    assert!(log.next_if_due().unwrap().is_none());
}

#[test]
fn a_mark_is_durable_and_written_once() {
    let disk = disk();
    let (log, _) = open(&disk);
    let bucket = bucket();
    mark(&log, "a/b");
    let written = log.end();
    let changes = disk.counts().0;
    mark(&log, "a/b");
    assert_eq!((log.end(), disk.counts().0), (written, changes));
    assert!(log.are_marked([(&bucket, "a/b")], true));
    assert!(!log.are_marked([(&bucket, "a")], false));
    let dir = Intent::Dir(BucketDir::new(&bucket, "a/b"));
    for seed in 0..8 {
        assert!(after_power_cut(&disk, seed).contains(&dir));
    }
    rotate(&log);
    assert!(!log.are_marked([(&bucket, "a/b")], false));
}

#[test]
fn many_marks_of_a_bucket_become_one_of_the_bucket() {
    let (log, _) = open(&disk());
    for n in 0..MAX_DIR_MARKS + 5 {
        mark(&log, &format!("d{n}"));
    }
    let marks = said(&log, 0);
    let dirs = marks.iter().filter(|it| matches!(it, Intent::Dir(_)));
    assert_eq!(dirs.count(), MAX_DIR_MARKS);
    let bucket = bucket();
    assert_eq!(marks.last(), Some(&Intent::Bucket(bucket.clone())));
    assert!(log.are_marked([(&bucket, "any other")], true));
}

#[test]
fn an_edit_is_named_in_every_segment_until_it_ends() {
    let disk = disk();
    let (log, _) = open(&disk);
    let edit = Intent::Edit {
        ino: 7,
        at: Some(key("k")),
    };
    let point = log.begin_edit(7, Some(&key("k"))).unwrap();
    log.sync_to(point).unwrap();
    rotate(&log);
    assert!(log.is_empty() && log.binds());
    log.remove_through(log.closed_through().unwrap()).unwrap();
    for seed in 0..8 {
        assert!(after_power_cut(&disk, seed).contains(&edit));
    }
    log.end_edit(7);
    log.append([key("other")].iter()).unwrap();
    rotate(&log);
    log.remove_through(log.closed_through().unwrap()).unwrap();
    assert!(!log.binds());
    let open = log.closed_through().map_or(2, |closed| closed + 1);
    assert!(!said(&log, open).contains(&edit));
}

#[test]
fn what_is_asked_of_a_segment_closed_meanwhile_is_durable() {
    let disk = disk();
    let (log, _) = open(&disk);
    let point = log.begin_edit(7, Some(&key("k"))).unwrap();
    log.end_edit(7);
    rotate(&log);
    log.sync_to(point).unwrap();
    for seed in 0..8 {
        let found = after_power_cut(&disk, seed);
        assert!(
            found
                .iter()
                .any(|intent| matches!(intent, Intent::Edit { .. }))
        );
    }
}

/// fsync(2) tells of a failure once: a second one would say that all is well.
#[test]
fn a_sync_that_failed_is_not_tried_again() {
    let disk = disk();
    let (log, _) = open(&disk);
    let bucket = bucket();
    let point = log.mark([(&bucket, "a")].into_iter()).unwrap().unwrap();
    let errno = rustix::io::Errno::IO;
    disk.fail(Fault { at: 0, errno });
    for _ in 0..2 {
        let failed = log.sync_to(point);
        assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
    }
    assert!(!log.are_marked([(&bucket, "a")], true));
    let next = log.next_if_due().unwrap().unwrap();
    log.switch(next).unwrap();
    mark(&log, "a");
    assert!(log.are_marked([(&bucket, "a")], true));
}

/// The frames of a version that knew keys only.
#[test]
fn a_segment_of_an_earlier_version_is_read() {
    let disk = disk();
    let root = disk.root();
    let file = disk.open_own(&root, "intents-0000000000000003", true);
    let mut frames = Vec::new();
    for name in ["k", "a/b"] {
        let payload = format!("bucket\0{name}").into_bytes();
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &payload) as u32;
        frames.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        frames.extend_from_slice(&crc.to_le_bytes());
        frames.extend_from_slice(&payload);
    }
    crate::brick::disk::DiskFile::write_at(&file.unwrap(), 0, &frames).unwrap();
    let (log, left) = open(&disk);
    assert_eq!(left, [3]);
    let keys = ["k", "a/b"].map(|name| {
        let (bucket, key) = key(name);
        Intent::Key(bucket, key)
    });
    assert_eq!(said(&log, 3), keys);
}

#[test]
fn a_segment_that_could_not_be_begun_is_asked_for_again() {
    let disk = disk();
    let (log, _) = open(&disk);
    log.append([key("k")].iter()).unwrap();
    log.ask_rotation();
    let errno = rustix::io::Errno::IO;
    disk.fail(Fault { at: 0, errno });
    assert!(log.next_if_due().is_err());
    assert!(log.next_if_due().unwrap().is_some());
}
