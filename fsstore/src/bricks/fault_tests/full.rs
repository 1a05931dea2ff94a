//! Disks without room or without an answer, and requests that nobody waits for any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use placement::layout::BrickId;
use placement::replica::{BrickSet, GroupConfig};
use rustix::io::Errno;
use tokio::task::JoinSet;

use super::super::crash_tests::{
    Way, at, copies, disk, prepared, put, start, start_as, state, wait_for_both,
};
use super::super::driver::Input;
use super::super::ledger::{Ledger, MemoryLedger};
use super::{KEY, SOON, put_at_last, wait_for_equal};
use crate::brick::crashdisk::{CrashDisk, Fault, World};
use crate::error::StoreError;

fn alone(kept: &MemoryLedger) -> MemoryLedger {
    let of_first = |config: GroupConfig| GroupConfig {
        primary: BrickId(0),
        in_sync: BrickSet::of(&[BrickId(0)]),
        ..config
    };
    MemoryLedger::new(kept.groups().into_iter().map(of_first).collect())
}

/// The last copy meets a call that finds no room: it stays, and what it said before the end is
/// what it says after it.
async fn meet_no_room(world: World, ledger: MemoryLedger, call: u64) -> bool {
    let disks = [disk(world)];
    let bricks = start(&disks, &ledger, 2).await;
    state(&bricks, "dir/old").await;
    let errno = Errno::NOSPC;
    disks[0].fail(Fault { at: call, errno });
    let answer = tokio::time::timeout(SOON, put(&bricks, KEY, "after")).await;
    let met = disks[0].failed();
    let at = u64::MAX >> 2;
    disks[0].fail(Fault { at, errno });
    let answer = answer.unwrap_or_else(|_| panic!("{call}: {met:?}"));
    assert!(bricks.failed().is_empty(), "{call}: {met:?}");
    assert_eq!(state(&bricks, "dir/old").await.as_deref(), Some("before"));
    put_at_last(&bricks, "dir/later", "later").await;
    // What no copy could make is tried again every half second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let found = state(&bricks, KEY).await;
    assert!(answer.is_err() || found.is_some(), "{call}: {met:?}");
    bricks.close().await.unwrap();
    let disks = disks.map(|old| disk(old.world().after_kill()));
    let bricks = start(&disks, &ledger, 3).await;
    assert_eq!(state(&bricks, KEY).await, found, "{call}: {met:?}");
    bricks.close().await.unwrap();
    met.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_copy_without_room_stays_and_does_not_change_its_mind() {
    let (worlds, kept) = prepared().await;
    let mut meeting = JoinSet::new();
    for call in (0..40).step_by(3) {
        let [world, _] = worlds.clone();
        meeting.spawn(meet_no_room(world, alone(&kept), call));
    }
    let mut met = 0;
    while let Some(has_met) = meeting.join_next().await {
        met += usize::from(has_met.unwrap());
    }
    assert!(met > 5, "{met}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_is_taken_out_and_comes_back() {
    let (worlds, kept) = prepared().await;
    let ledger = MemoryLedger::new(kept.groups());
    let disks = worlds.map(disk);
    let way = Way {
        hangs_after: Duration::from_secs(3),
        ..Way::default()
    };
    let bricks = start_as(&disks, &ledger, 2, way).await;
    state(&bricks, "dir/old").await;
    disks[1].gate().close();
    put_at_last(&bricks, KEY, "after").await;
    assert!(disks[1].gate().has_caught());
    assert_eq!(state(&bricks, KEY).await.as_deref(), Some("after"));
    put_at_last(&bricks, "dir/old", "after").await;
    disks[1].gate().open();
    wait_for_both(&ledger, "hung").await;
    wait_for_equal(&bricks, &["dir/old", KEY], "hung").await;
    bricks.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_written_any_more_is_read_on() {
    let (worlds, kept) = prepared().await;
    let ledger = MemoryLedger::new(kept.groups());
    let disks = worlds.map(disk);
    let bricks = start(&disks, &ledger, 2).await;
    let keys: Vec<String> = (0..8).map(|n| format!("d{n}/k")).collect();
    for key in &keys {
        put(&bricks, key, "body").await.unwrap();
    }
    for brick in [BrickId(1), BrickId(0)] {
        let error = StoreError::ReadOnly;
        let _ = bricks.shared.input.send(Input::LogFailed { brick, error });
    }
    let begun = Instant::now();
    while bricks.failed().len() < 2 {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for key in &keys {
        assert_eq!(state(&bricks, key).await.as_deref(), Some("body"), "{key}");
    }
    let _ = tokio::time::timeout(Duration::from_secs(1), bricks.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_staged_for_someone_who_left_is_put_or_forgotten() {
    let (worlds, kept) = prepared().await;
    let ledger = MemoryLedger::new(kept.groups());
    let disks: [Arc<CrashDisk>; 2] = worlds.map(disk);
    let bricks = start(&disks, &ledger, 2).await;
    state(&bricks, "dir/old").await;
    let members = bricks.shared.all_members();
    let gate = bricks.shared.gate(&at(KEY).bucket);
    let closed = gate.write().await;
    let waiting = tokio::time::timeout(Duration::from_secs(3), put(&bricks, KEY, "after"));
    assert!(waiting.await.is_err());
    assert!(members.iter().all(|member| member.staged_count() == 1));
    drop(closed);
    let begun = Instant::now();
    while members.iter().any(|member| member.staged_count() > 0) {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(state(&bricks, KEY).await.as_deref(), Some("after"));
    assert_eq!(copies(&bricks, KEY)[0], copies(&bricks, KEY)[1]);
    bricks.close().await.unwrap();
}
