//! What a mount writes, on two disks whose power is cut in the middle of it: what was answered is
//! there, on both alike.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::crash_tests::{Crashing, at, copies, disk, prepared, start, wait_for_both};
use super::super::kinds::Name;
use super::super::ledger::{Ledger, MemoryLedger};
use super::applying::ApplyingFile;
use super::change::{FileChange, Posix, SetFacts};
use super::open::of_file;
use crate::brick::attrs::Stamp;
use crate::brick::crashdisk::{Random, World};
use crate::brick::disk::DiskFile;
use crate::files::{Errno, FileResult};

/// How long a step on dead disks is waited for: it has no answer.
const NO_ANSWER: Duration = Duration::from_millis(400);
const LONG: Duration = Duration::from_secs(60);
const FOREVER: u64 = u64::MAX / 2;
const IDENT: u64 = 0x1234_5678_9abc;
/// Of one group: a writer's temporary name, and the name it is given.
const NAMES: [&str; 2] = ["dir/.file.aB3xYz", "dir/file"];
/// What stands at both before any step, and after each.
const STATES: [[Option<&str>; 2]; 8] = [
    [None, None],
    [Some(""), None],
    [Some("one two three"), None],
    [Some("one TWO THREE"), None],
    [None, Some("one TWO THREE")],
    [None, Some("ONE TWO THREE four")],
    [None, Some("ONE TWO")],
    [None, None],
];

fn write(extents: &'static [(u64, &'static str)]) -> impl Fn(i64) -> FileChange {
    move |mtime_ns| FileChange::Write {
        ident: IDENT,
        extents: extents
            .iter()
            .map(|(at, text)| (*at, text.len() as u64))
            .collect(),
        mtime_ns,
        bytes: extents.iter().flat_map(|(_, text)| text.bytes()).collect(),
    }
}

async fn step(bricks: &Crashing, number: usize) -> FileResult<()> {
    let shared = &bricks.shared;
    let [temporary, last] = NAMES.map(at);
    let group = shared.group_of(&temporary);
    match number {
        0 => {
            let place = temporary.clone();
            let names = vec![Name::object(&temporary)];
            let made = shared.change_file(group, names, move |inner| {
                if inner.kind_at(&place)?.is_some() {
                    return Ok(Err(Errno::EXIST));
                }
                let change = FileChange::Make {
                    ident: IDENT,
                    posix: Posix::default(),
                    mtime_ns: inner.now().0,
                };
                Ok(Ok((Some(of_file(&place, change)), ())))
            });
            made.await
        }
        1 => {
            let change = write(&[(8, "three"), (0, "one two ")]);
            shared.change_standing(&temporary, IDENT, change).await
        }
        2 => {
            let change = write(&[(4, "TWO"), (8, "THREE")]);
            shared.change_standing(&temporary, IDENT, change).await
        }
        3 => {
            let change = move |_| FileChange::Move {
                ident: IDENT,
                to: (last.bucket.clone(), last.key.clone()),
            };
            let place = temporary.clone();
            let names = NAMES.map(|name| Name::object(&at(name))).to_vec();
            let moved = shared.change_file(group, names, move |_| {
                Ok(Ok((Some(of_file(&place, change(0))), ())))
            });
            moved.await
        }
        4 => {
            let change = write(&[(0, "ONE"), (13, " four")]);
            shared.change_standing(&last, IDENT, change).await
        }
        5 => {
            let cut = |mtime_ns| FileChange::Set {
                ident: IDENT,
                set: SetFacts {
                    len_bytes: Some(7),
                    mtime_ns: Some(mtime_ns),
                    ..SetFacts::default()
                },
            };
            shared.change_standing(&last, IDENT, cut).await
        }
        _ => {
            let gone = |_| FileChange::Unlink { ident: Some(IDENT) };
            shared.change_standing(&last, IDENT, gone).await
        }
    }
}

type Found = [Option<String>; 2];

/// What both bricks have at both names, once they have the same.
async fn settled(bricks: &Crashing, context: &str) -> Found {
    let begun = Instant::now();
    loop {
        let found = NAMES.map(|name| copies(bricks, name));
        if found.iter().all(|copies| copies[0] == copies[1]) {
            return found.map(|copies| {
                let first = copies.into_iter().next().flatten();
                first.map(|(bytes, ..)| String::from_utf8(bytes).unwrap())
            });
        }
        let is_late = begun.elapsed() > Duration::from_secs(20);
        assert!(!is_late, "{context}: {found:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_state(found: &Found, state: &[Option<&str>; 2]) -> bool {
    found.each_ref().map(|text| text.as_deref()) == *state
}

/// All steps, with the disks cut after so many changes each, then the end, and what is left.
async fn play(worlds: &[World; 2], kept: &MemoryLedger, cuts: [u64; 2]) {
    let ledger = MemoryLedger::new(kept.groups());
    let disks = worlds.clone().map(disk);
    let bricks = start(&disks, &ledger, 2).await;
    wait_for_both(&ledger, "before").await;
    for (disk, cut) in disks.iter().zip(cuts) {
        disk.cut_after(cut);
    }
    // With one disk left each step has an answer, on a busy machine too.
    let patience = match cuts.contains(&FOREVER) {
        true => LONG,
        false => NO_ANSWER,
    };
    let mut answered = 0;
    while answered + 1 < STATES.len() {
        match tokio::time::timeout(patience, step(&bricks, answered)).await {
            Ok(Ok(())) => answered += 1,
            _ => break,
        }
    }
    let context = format!("cut after {cuts:?}, {answered} steps were answered");
    if cuts.contains(&FOREVER) {
        // One disk is well: nobody notices.
        assert_eq!(answered + 1, STATES.len(), "{context}");
    }
    let mut random = Random(cuts[0].min(cuts[1]));
    let left = disks.map(|disk| disk.world().after_power_cut(&mut random));
    let _ = tokio::time::timeout(NO_ANSWER, bricks.close()).await;
    let disks = left.map(disk);
    let bricks = start(&disks, &ledger, 3).await;
    wait_for_both(&ledger, &context).await;
    for name in NAMES {
        // What was logged is made again before anyone reads.
        let group = bricks.shared.group_of(&at(name));
        bricks.shared.reader(group).await.unwrap();
    }
    let found = settled(&bricks, &context).await;
    let next = (answered + 1).min(STATES.len() - 1);
    assert!(
        is_state(&found, &STATES[answered]) || is_state(&found, &STATES[next]),
        "{context}: {found:?}"
    );
    bricks.close().await.unwrap();
}

async fn play_some(scenes: u64) {
    let (worlds, kept) = prepared().await;
    let ledger = MemoryLedger::new(kept.groups());
    let disks = worlds.clone().map(disk);
    let bricks = start(&disks, &ledger, 2).await;
    let before = disks.each_ref().map(|disk| disk.counts().0);
    for number in 0..STATES.len() - 1 {
        step(&bricks, number).await.unwrap();
        let found = settled(&bricks, "without a cut").await;
        assert!(is_state(&found, &STATES[number + 1]), "{number}: {found:?}");
    }
    let after = disks.each_ref().map(|disk| disk.counts().0);
    bricks.close().await.unwrap();
    let last = (after[0] - before[0]).max(after[1] - before[1]);
    assert!(last > 20, "{last}");
    let kinds = |cut| [[cut, cut], [cut, FOREVER], [FOREVER, cut]];
    let all: Vec<[u64; 2]> = (0..=last).flat_map(kinds).collect();
    // A step that has no divisor with three meets all kinds of cuts.
    let stride = (all.len() as u64 / scenes).max(1);
    let stride = stride + u64::from(stride > 1 && stride.is_multiple_of(3));
    for cuts in all.iter().step_by(stride as usize) {
        play(&worlds, &kept, *cuts).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_mount_wrote_survives_cuts_on_both_bricks_alike() {
    play_some(8).await;
}

/// By hand: `cargo test -p portico-fsstore --lib mount_wrote -- --ignored`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes"]
async fn what_a_mount_wrote_survives_a_cut_at_every_call() {
    play_some(u64::MAX).await;
}

/// A change with its number, and at which of the names it is.
type Numbered = (u64, usize, FileChange);

/// Makes changes in the first brick's tree, in their order, as if they had been logged.
async fn make(bricks: &Crashing, changes: &[Numbered], checks: bool) {
    let member = Arc::clone(&bricks.shared.all_members()[0]);
    let (inner, changes) = (Arc::clone(&member.inner), changes.to_vec());
    let made = inner.in_turn(None, move |_, turn| {
        for (seq, name, change) in &changes {
            let place = at(NAMES[*name]);
            let applying = ApplyingFile {
                member: &member,
                at: &place,
                stamp: Stamp {
                    epoch: 1,
                    seq: *seq,
                },
                checks,
            };
            applying.file(turn, change)?;
        }
        Ok(())
    });
    made.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_file_that_the_power_left_empty_is_made_again_from_the_log() {
    let (worlds, kept) = prepared().await;
    let [temporary, last] = NAMES.map(at);
    let moved = FileChange::Move {
        ident: IDENT,
        to: (last.bucket.clone(), last.key.clone()),
    };
    let made = FileChange::Make {
        ident: IDENT,
        posix: Posix::default(),
        mtime_ns: 1,
    };
    let changes = [
        (1, 0, made),
        (2, 0, write(&[(0, "one two three")])(2)),
        (3, 0, moved.clone()),
        (4, 1, write(&[(0, "ONE")])(3)),
    ];
    // The move may be the last, and where it was made the file may have been durable.
    for (upto, durable) in [(4, 0), (4, 1), (3, 0), (3, 1)] {
        let context = format!("{upto} changes, {durable} of them durable");
        let ledger = MemoryLedger::new(kept.groups());
        let disks = worlds.clone().map(disk);
        let bricks = start(&disks, &ledger, 2).await;
        let member = Arc::clone(&bricks.shared.all_members()[0]);
        member.note_moves([&of_file(&temporary, moved.clone())]);
        make(&bricks, &changes[..upto], false).await;
        let before = copies(&bricks, NAMES[1])[0].clone();
        assert!(before.is_some(), "{context}");
        let looked = member.inner.look_now(&last).unwrap().unwrap();
        looked.found.file.unwrap().set_len(0).unwrap();
        make(&bricks, &changes[durable..upto], true).await;
        assert_eq!(copies(&bricks, NAMES[1])[0], before, "{context}");
        assert_eq!(copies(&bricks, NAMES[0])[0], None, "{context}");
        bricks.close().await.unwrap();
    }
}
