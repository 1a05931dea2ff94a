//! A brick on its way into sync, and what disturbs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use placement::layout::BrickId;
use placement::replica::BrickSet;

use super::super::crash_tests::{
    Crashing, Way, both, copies, disk, prepared, put, start, start_as, start_doubting, state,
    wait_for_both,
};
use super::super::ledger::{Ledger, MemoryLedger};
use super::{SOON, wait_for_equal};
use crate::error::StoreError;

/// Long enough for whatever waits for nothing.
const A_WHILE: Duration = Duration::from_millis(500);

async fn wait_until(context: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < SOON, "{context}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn fail_brick(bricks: &Crashing, brick: u32) {
    let error = StoreError::from_io("test", std::io::ErrorKind::Other.into());
    bricks.shared.report(BrickId(brick), error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_that_was_given_up_removes_nothing() {
    let (worlds, kept) = prepared().await;
    let ledger = MemoryLedger::new(kept.groups());
    let disks = worlds.map(disk);
    let first = BrickSet::of(&[BrickId(0)]);
    let way = Way {
        doubted: Some(1),
        wanted: first,
        ..Way::default()
    };
    let bricks = start_as(&disks, &ledger, 2, way).await;
    let is_alone = || ledger.groups().iter().all(|group| group.in_sync == first);
    wait_until("alone", is_alone).await;
    let member = Arc::clone(&bricks.shared.all_members()[1]);
    // Whoever compares waits for the learner's names.
    let names = member.census.lock().await;
    bricks.set_wanted(vec![both(); ledger.groups().len()]);
    // It asks to be let in every two seconds, and then for names.
    tokio::time::sleep(6 * A_WHILE).await;
    fail_brick(&bricks, 1);
    wait_until("failed", || member.has_failed()).await;
    wait_until("back", || !member.has_failed()).await;
    // By records, while the comparison of this session waits behind that of the last.
    for n in 0.. {
        let key = format!("dir/new{n}");
        put(&bricks, &key, "body").await.unwrap();
        tokio::time::sleep(A_WHILE).await;
        if copies(&bricks, &key)[1].is_some() || n == 20 {
            break;
        }
    }
    drop(names);
    wait_for_both(&ledger, "compared").await;
    let keys: Vec<String> = (0..=20).map(|n| format!("dir/new{n}")).collect();
    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    keys.push("dir/old");
    wait_for_equal(&bricks, &keys, "compared").await;
    bricks.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_fetched_and_not_needed_is_kept_nowhere() {
    let (worlds, kept) = prepared().await;
    let ledger = MemoryLedger::new(kept.groups());
    let disks = worlds.map(disk);
    let bricks = start(&disks[..1], &ledger, 2).await;
    for n in 0..300 {
        put(&bricks, &format!("dir/k{n}"), "body").await.unwrap();
    }
    bricks.close().await.unwrap();
    let disks = disks.map(|old| disk(old.world().after_kill()));
    let bricks = start_doubting(&disks, &ledger, 3, Some(1)).await;
    let members = bricks.shared.all_members();
    // Sessions end while files are on their way.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        fail_brick(&bricks, 1);
        wait_until("failed", || members[1].has_failed()).await;
        wait_until("back", || !members[1].has_failed()).await;
    }
    wait_for_both(&ledger, "healed").await;
    wait_until("unstaged", || {
        members.iter().all(|member| member.staged_count() == 0)
    })
    .await;
    assert_eq!(state(&bricks, "dir/k299").await.as_deref(), Some("body"));
    wait_for_equal(&bricks, &["dir/k0", "dir/k150", "dir/k299"], "healed").await;
    bricks.close().await.unwrap();
}
