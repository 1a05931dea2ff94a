//! A brick that was away for a moment, and what it learns by the records it missed.

use std::sync::Arc;

use placement::group::GroupId;
use placement::replica::{BrickSet, Effect, OpId, Position, Record};

use super::super::crash_tests::{
    Way, at, copies, disk, prepared, put, start, start_these, state, tag, wait_for_both,
};
use super::super::kinds::{Change, Kept, Name, NewObject};
use super::super::ledger::{Ledger, MemoryLedger};
use super::super::member::CopyError;
use super::{fail_once, wait_for_equal};
use crate::brick::attrs::Stamp;
use crate::object::{FileOwner, Precondition};
use crate::volume::Volume;

/// What one brick does alone comes to the other by its records.
async fn changes_come_by_records(keys: &[&str], taken: impl AsyncFn(&super::Crashing)) {
    let (worlds, kept) = prepared().await;
    let ledger = MemoryLedger::new(kept.groups());
    let disks = worlds.map(disk);
    let alone = start(&disks[..1], &ledger, 2).await;
    taken(&alone).await;
    let bricks = BrickSet::of(&[placement::layout::BrickId(0)]);
    assert!(ledger.groups().iter().any(|group| group.in_sync == bricks));
    alone.close().await.unwrap();
    let mut expected = Vec::new();
    let disks = disks.map(|old| disk(old.world().after_kill()));
    let both = start(&disks, &ledger, 3).await;
    for key in keys {
        expected.push(state(&both, key).await);
    }
    wait_for_both(&ledger, "by records").await;
    wait_for_equal(&both, keys, "by records").await;
    both.close().await.unwrap();
    // And the one that was away can answer alone.
    let disks = disks.map(|old| disk(old.world().after_kill()));
    let [_, second] = &disks;
    let member = start_these(&[(1, second)], &ledger, 4, Way::default()).await;
    for (key, expected) in keys.iter().zip(expected) {
        assert_eq!(state(&member, key).await, expected, "{key}");
    }
    member.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_whose_attributes_changed_since_comes_with_its_bytes() {
    let keys = ["dir/new", "dir/old", "dir/gone", "dir/twice"];
    changes_come_by_records(&keys, async |bricks| {
        put(bricks, "dir/new", "new").await.unwrap();
        tag(bricks, "dir/new").await.unwrap();
        put(bricks, "dir/old", "longer than before").await.unwrap();
        tag(bricks, "dir/old").await.unwrap();
        put(bricks, "dir/gone", "gone").await.unwrap();
        let always = Precondition::default();
        bricks.remove(&at("dir/gone"), &always).await.unwrap();
        for body in ["once", "twice"] {
            put(bricks, "dir/twice", body).await.unwrap();
            tag(bricks, "dir/twice").await.unwrap();
        }
    })
    .await;
}

/// The record of a put of what stands at a key of the first brick, with another stamp.
fn record_of(bricks: &super::Crashing, key: &str, earlier: u64) -> Record<Kept> {
    let member = &bricks.shared.all_members()[0];
    let looked = member.inner.look_now(&at(key)).unwrap().unwrap();
    let Stamp { epoch, seq } = looked.record.bytes_stamp().unwrap();
    let (bucket, key) = (at(key).bucket, at(key).key);
    Record {
        at: Position {
            epoch,
            seq: seq - earlier,
        },
        op: OpId(1 << 60 | earlier),
        effects: vec![Effect {
            name: Name::Object(bucket.clone(), key.clone()),
            is_derived: false,
        }],
        body: Some(Some(Arc::new(Change::Put {
            bucket,
            key,
            new: Box::new(NewObject {
                len_bytes: looked.info.len_bytes,
                modified_ns: looked.info.modified.0,
                record: looked.record,
                owner: FileOwner::default(),
                posix: None,
                moved_from: None,
            }),
            upload: None,
        }))),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_cannot_be_read_are_not_taken_for_bytes_that_nobody_needs() {
    let (worlds, kept) = prepared().await;
    let ledger = MemoryLedger::new(kept.groups());
    let disks = worlds.map(disk);
    let bricks = start(&disks, &ledger, 2).await;
    state(&bricks, "dir/old").await;
    let members = bricks.shared.all_members();
    let group: GroupId = bricks.shared.group_of(&at("dir/old"));
    tokio::task::block_in_place(|| {
        let record = record_of(&bricks, "dir/old", 0);
        let mut failures = 0;
        for call in 0.. {
            fail_once(&disks[0], call);
            let obtained = members[1].obtain(group, &record, &members);
            if disks[0].failed().is_none() {
                assert!(matches!(obtained, Ok(true)), "{call}: {obtained:?}");
                break;
            }
            assert!(
                matches!(obtained, Err(CopyError::Source(_))),
                "{call}: {obtained:?}"
            );
            failures += 1;
        }
        assert!(failures > 0);
        fail_once(&disks[0], u64::MAX >> 2);
        let earlier = record_of(&bricks, "dir/old", 1);
        let obtained = members[1].obtain(group, &earlier, &members);
        assert!(matches!(obtained, Ok(false)), "{obtained:?}");
        // Of what nobody has heard of, nobody can say so.
        let mut unheard = record_of(&bricks, "dir/old", 0);
        unheard.at.seq += 1;
        unheard.op = OpId(1 << 61);
        let obtained = members[1].obtain(group, &unheard, &members);
        assert!(
            matches!(obtained, Err(CopyError::Source(_))),
            "{obtained:?}"
        );
    });
    assert_eq!(copies(&bricks, "dir/old")[0], copies(&bricks, "dir/old")[1]);
    bricks.close().await.unwrap();
}
