//! Every call of an operation fails once: the answer is clear, nothing is mixed, nothing stays
//! in staging, and the brick goes on.

use rustix::io::Errno;

use super::super::crashdisk::{Fault, Model, Random};
use super::ops::{Body, Op};
use super::picture;
use super::scene::{Prepared, Scene, copy_of, effort, works};
use crate::error::{Result, StoreError};
use Op::{Begin, Complete, Part, PartUnannounced, Put, Remove, Tag};

const MIN_PART: usize = 5 << 20;

fn is_clear(e: &StoreError, errno: Errno) -> bool {
    match errno {
        Errno::NOSPC => matches!(e, StoreError::NoSpace),
        Errno::ROFS => matches!(e, StoreError::ReadOnly),
        _ => matches!(e, StoreError::Io { .. }),
    }
}

/// Says where it was, should a check fail.
struct Where(String);

impl Drop for Where {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with {}", self.0);
        }
    }
}

/// Lets the call fail that many calls after the scene's beginning.
/// `rotates` says whether the index is made durable, and the log forgotten, before the power
/// is cut.
async fn fail_at(prepared: &Prepared, at: u64, errno: Errno, rotates: bool) {
    let disk = prepared
        .scene
        .disk(prepared.world.clone().after_kill(), Model::Adversary);
    let index = copy_of(prepared.index.path());
    let brick = prepared.scene.open(&disk, index.path()).await.unwrap();
    picture::scanned(&brick).await;
    disk.fail(Fault { at, errno });
    let op = &prepared.scene.ops[0];
    let outcome: Result<()> = op.run(&brick).await.remove(0);
    let failed = disk.failed();
    let context = format!("{failed:?} at call {at} ({errno:?}) of {op:?}, rotates: {rotates}");
    let _where = Where(context.clone());
    let (before, after) = (&prepared.pictures[0], &prepared.pictures[1]);
    disk.fail(Fault {
        at: u64::MAX / 2,
        errno,
    });
    let seen = picture::take(&brick, &prepared.universe).await;
    match &outcome {
        Ok(()) => assert_eq!(seen, *after, "{context}: acknowledged"),
        Err(e) => {
            assert!(is_clear(e, errno), "{context}: {e:?}");
            // A name that was given and could not be made durable is given all the same.
            assert!(
                seen == *before || seen == *after,
                "{context}: {seen:#?}\n{before:#?}"
            );
        }
    }
    let staged = disk.world().paths_below(".portico/staging");
    assert!(staged.is_empty(), "{context}: {staged:?} in staging");
    picture::check_listings(&brick, &prepared.universe).await;
    works(&brick).await;
    // The same again: whatever failed stands in nobody's way, and what is acknowledged now
    // is durable.
    if outcome.is_err() && seen == *before {
        for outcome in op.run(&brick).await {
            outcome.unwrap_or_else(|e| panic!("{context}: again: {e:?}"));
        }
        let again = picture::take(&brick, &prepared.universe).await;
        assert_eq!(again, *after, "{context}: again");
    }
    if outcome.is_ok() && matches!(op, Remove(_)) && matches!(failed, Some("write_at" | "sync")) {
        // It went on without the log: after a crash tags of what it moved may be in doubt.
        return;
    }
    let acknowledged = picture::take(&brick, &prepared.universe).await;
    if rotates {
        brick.inner.rotate_log().await.unwrap();
    }
    drop(brick);
    let left = disk.world().after_power_cut(&mut Random(at));
    let disk = prepared.scene.disk(left, Model::Adversary);
    let brick = prepared.scene.open(&disk, index.path()).await.unwrap();
    let reopened = picture::take(&brick, &prepared.universe).await;
    let was_answered = outcome.is_ok() || seen == *before;
    assert!(
        reopened == acknowledged || !was_answered && reopened == *before,
        "{context}: after a power cut: {reopened:#?}\n{acknowledged:#?}"
    );
    picture::check_listings(&brick, &prepared.universe).await;
}

async fn fail_everywhere(setup: Vec<Op>, op: Op) {
    let prepared = Scene::new(setup, vec![op]).prepare().await;
    let errnos = [Errno::IO, Errno::NOSPC, Errno::ROFS];
    for at in 0..prepared.calls {
        if effort() > 1 {
            for errno in errnos {
                fail_at(&prepared, at, errno, false).await;
                fail_at(&prepared, at, errno, true).await;
            }
        } else {
            let errno = errnos[at as usize % 3];
            fail_at(&prepared, at, errno, false).await;
            fail_at(&prepared, at, errno, true).await;
        }
    }
}

macro_rules! faults {
    ($($name:ident: [$($setup:expr),* $(,)?] => $op:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                fail_everywhere(vec![$($setup),*], $op).await;
            }
        )*
    };
}

faults! {
    a_put_that_fails: [] => Put("b:x/k", Body(1_000, 1), 0);
    a_long_put_that_fails: [Put("b:k", Body(10, 1), 0)] => Put("b:k", Body(300_000, 1), 0);
    an_overwrite_that_fails: [Put("b:k", Body(9, 1), 0)] => Put("b:k", Body(1_000, 2), 0);
    a_put_below_a_key_that_fails: [Put("b:a", Body(9, 1), 0)] => Put("b:a/b", Body(1_000, 2), 0);
    a_delete_that_fails: [Put("b:d", Body(9, 1), 0), Put("b:d/k", Body(9, 1), 0)] => Remove("b:d/k");
    a_change_of_tags_that_fails: [Put("b:k", Body(9, 1), 0)] => Tag("b:k", 3);
    a_part_that_fails: [Begin("b:k")] => PartUnannounced("b:k", 1, Body(1_000, 1));
    a_part_in_its_slot_that_fails: [Begin("b:k"), Part("b:k", 1, Body(MIN_PART, 1))] => Part("b:k", 2, Body(1_000, 1));
    a_completion_that_fails: [Put("b:k", Body(9, 1), 0), Begin("b:k"), PartUnannounced("b:k", 1, Body(1_000, 1))] => Complete("b:k", vec![1]);
    a_completion_in_place_that_fails: [Put("b:k", Body(9, 1), 0), Begin("b:k"), Part("b:k", 1, Body(MIN_PART, 1))] => Complete("b:k", vec![1]);
}
