//! Two bricks on disks that fail at a call, or are full: who is taken out, and that copies are
//! equal again afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use placement::layout::BrickId;
use placement::replica::{BrickSet, GroupConfig};
use rustix::io::Errno;

use super::crash_tests::{
    Crashing, at, both, copies, disk, prepared, put, start, start_doubting, state, wait_for_both,
};
use super::ledger::{Ledger, MemoryLedger};
use crate::brick::crashdisk::{CrashDisk, Fault};
use crate::error::StoreError;
use crate::object::Precondition;
use crate::volume::Volume;

mod away;
mod full;
mod learning;

/// Longer than any request waits for a primary.
const SOON: Duration = Duration::from_secs(40);
const KEY: &str = "dir/new";

fn fail_once(disk: &CrashDisk, at: u64) {
    let errno = Errno::IO;
    disk.fail(Fault { at, errno });
}

/// Puts until it is taken: where all bricks are out for a moment it is not.
async fn put_at_last(bricks: &Crashing, key: &str, body: &str) {
    let begun = Instant::now();
    while let Err(error) = put(bricks, key, body).await {
        assert!(begun.elapsed() < SOON, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn wait_for_equal(bricks: &Crashing, keys: &[&str], context: &str) {
    let begun = Instant::now();
    loop {
        let differs = |key: &&&str| {
            let copies = copies(bricks, key);
            copies[0] != copies[1]
        };
        let Some(key) = keys.iter().find(differs) else {
            return;
        };
        let is_late = begun.elapsed() >= SOON;
        assert!(!is_late, "{context}: {key}: {:?}", copies(bricks, key));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_whose_disk_fails_leaves_its_source_alone() {
    let (worlds, kept) = prepared().await;
    for cut in [1, 4, 7, 10] {
        let ledger = MemoryLedger::new(kept.groups());
        let disks = worlds.clone().map(disk);
        let bricks = start_doubting(&disks, &ledger, 2, Some(1)).await;
        for n in 0..20 {
            put(&bricks, &format!("dir/k{n}"), "body").await.unwrap();
        }
        disks[1].cut_after(cut);
        for n in 20..60 {
            let key = format!("dir/k{n}");
            put(&bricks, &key, "body").await.unwrap();
            assert_eq!(state(&bricks, &key).await.as_deref(), Some("body"));
        }
        assert!(!bricks.failed().contains(&BrickId(0)), "{cut}");
        let _ = tokio::time::timeout(Duration::from_secs(1), bricks.close()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_fails_on_the_last_copy_does_not_take_it_out() {
    let (worlds, kept) = prepared().await;
    let alone = |config: GroupConfig| GroupConfig {
        primary: BrickId(0),
        in_sync: BrickSet::of(&[BrickId(0)]),
        ..config
    };
    let ledger = MemoryLedger::new(kept.groups().into_iter().map(alone).collect());
    let disks = worlds.map(disk);
    let bricks = start(&disks[..1], &ledger, 2).await;
    state(&bricks, "dir/old").await;
    let member = &bricks.shared.all_members()[0];
    let error = StoreError::from_io("read", std::io::Error::from(Errno::IO));
    bricks.shared.report(member.id, error);
    put(&bricks, KEY, "after").await.unwrap();
    assert_eq!(state(&bricks, KEY).await.as_deref(), Some("after"));
    assert!(bricks.failed().is_empty());
    bricks.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brick_that_was_not_wanted_while_it_was_out_takes_part_again() {
    let (worlds, kept) = prepared().await;
    let ledger = MemoryLedger::new(kept.groups());
    let disks = worlds.map(disk);
    let bricks = start(&disks, &ledger, 2).await;
    state(&bricks, "dir/old").await;
    fail_once(&disks[1], 0);
    put(&bricks, KEY, "after").await.unwrap();
    let begun = Instant::now();
    while bricks.failed().is_empty() {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let groups = ledger.groups().len();
    bricks.set_wanted(vec![BrickSet::of(&[BrickId(0)]); groups]);
    while !bricks.failed().is_empty() {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bricks.set_wanted(vec![both(); groups]);
    wait_for_both(&ledger, "wanted again").await;
    wait_for_equal(&bricks, &["dir/old", KEY], "wanted again").await;
    bricks.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_equal_again_after_a_call_that_failed() {
    let (worlds, kept) = prepared().await;
    for call in [2, 9, 16, 23, 30] {
        let ledger = MemoryLedger::new(kept.groups());
        let disks = worlds.clone().map(disk);
        let bricks = start(&disks, &ledger, 2).await;
        state(&bricks, "dir/old").await;
        fail_once(&disks[1], call);
        put_at_last(&bricks, KEY, "after").await;
        put_at_last(&bricks, "dir/old", "after").await;
        let context = format!("{call}: {:?}", disks[1].failed());
        tokio::time::sleep(Duration::from_millis(300)).await;
        wait_for_both(&ledger, &context).await;
        wait_for_equal(&bricks, &["dir/old", KEY], &context).await;
        assert_eq!(state(&bricks, KEY).await.as_deref(), Some("after"));
        bricks.close().await.unwrap();
        // And after a crash, from what was said to be durable.
        let disks = disks.map(|old| disk(old.world().after_kill()));
        let bricks = start(&disks, &ledger, 3).await;
        wait_for_both(&ledger, &context).await;
        wait_for_equal(&bricks, &["dir/old", KEY], &context).await;
        bricks.close().await.unwrap();
    }
}

/// The brick that could not remove it has the removal in its log, or so its disk said: were it
/// believed to be in sync at the next start, a log that lacks it would undo what was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_answered_before_the_ledger_knows_who_fell_out() {
    let (worlds, kept) = prepared().await;
    let mut met = 0;
    for call in 0..40 {
        let ledger = MemoryLedger::new(kept.groups()).taking(Duration::from_millis(300));
        let disks = worlds.clone().map(disk);
        let bricks = start(&disks, &ledger, 2).await;
        state(&bricks, "dir/old").await;
        fail_once(&disks[1], call);
        let (at, always) = (at("dir/old"), Precondition::default());
        let removed = bricks.remove(&at, &always).await;
        if disks[1].failed() == Some("unlink") {
            removed.unwrap();
            let is_out = |config: &GroupConfig| !config.in_sync.contains(BrickId(1));
            assert!(ledger.groups().iter().any(is_out), "{call}");
            met += 1;
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), bricks.close()).await;
    }
    assert!(met > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_a_last_copy_that_fails_is_answered() {
    let (worlds, kept) = prepared().await;
    let alone = |config: GroupConfig| GroupConfig {
        primary: BrickId(0),
        in_sync: BrickSet::of(&[BrickId(0)]),
        ..config
    };
    let alone: Vec<GroupConfig> = kept.groups().into_iter().map(alone).collect();
    for call in [1, 4, 7, 10, 13, 16] {
        let ledger = MemoryLedger::new(alone.clone());
        let disks: Vec<Arc<CrashDisk>> = worlds.clone().map(disk).into();
        let bricks = start(&disks[..1], &ledger, 2).await;
        state(&bricks, "dir/old").await;
        fail_once(&disks[0], call);
        let context = || format!("{call}: {:?}", disks[0].failed());
        let answer = tokio::time::timeout(SOON, put(&bricks, KEY, "after")).await;
        assert!(answer.is_ok(), "{}", context());
        put_at_last(&bricks, "dir/later", "later").await;
        if matches!(answer, Ok(Ok(()))) {
            let found = state(&bricks, KEY).await;
            assert_eq!(found.as_deref(), Some("after"), "{}", context());
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), bricks.close()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disks_refuse_small_objects_and_let_others_be_removed() {
    let (worlds, kept) = prepared().await;
    let ledger = MemoryLedger::new(kept.groups());
    let disks = worlds.map(disk);
    let bricks = start(&disks, &ledger, 2).await;
    disks.iter().for_each(|disk| disk.set_free(1 << 20));
    let refused = put(&bricks, KEY, "after").await;
    assert!(matches!(refused, Err(StoreError::NoSpace)), "{refused:?}");
    let (at, always) = (at("dir/old"), Precondition::default());
    let removed = bricks.remove(&at, &always);
    assert!(removed.await.unwrap().existed);
    assert_eq!(state(&bricks, "dir/old").await, None);
    assert!(bricks.failed().is_empty());
    bricks.close().await.unwrap();
}
