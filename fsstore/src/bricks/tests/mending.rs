//! Copies whose bytes are not those that were written.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use placement::layout::BrickId;

use super::{Rig, at, files, get, make_bucket, put};
use crate::bricks::mending::Mending;
use crate::bricks::serving::Bricks;
use crate::error::StoreError;
use crate::volume::{CommitOptions, Object, StageOptions, Staged, Volume};

const LONG: Duration = Duration::from_secs(30);

/// Two bricks with an object.
async fn scene(key: &str, body: &str) -> (Rig, Bricks) {
    let mut rig = Rig::new(2, 2);
    let bricks = rig.start(&[0, 1]).await;
    make_bucket(&bricks).await;
    put(&bricks, key, body).await.unwrap();
    (rig, bricks)
}

fn path(rig: &Rig, brick: usize, key: &str) -> PathBuf {
    rig.dirs[brick].path().join("bkt").join(key)
}

fn change(rig: &Rig, brick: usize, key: &str) -> SystemTime {
    let path = path(rig, brick, key);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_at(b"X", 3).unwrap();
    file.set_modified(modified).unwrap();
    modified
}

/// Another byte, known to the brick as its own doing: as rot is, it moves no time.
async fn rot(rig: &Rig, bricks: &Bricks, brick: usize, key: &str) {
    change(rig, brick, key);
    let (member, at) = (bricks.shared.all_members()[brick].clone(), at(key));
    let vouched = member.inner.in_turn(None, move |inner, _| inner.vouch(&at));
    vouched.await.unwrap();
}

fn link(from: &Path, to: &Path) {
    let linked = Command::new("ln").args([from, to]).status();
    assert!(linked.unwrap().success());
}

fn reader(bricks: &Bricks, key: &str) -> usize {
    let group = bricks.shared.group_of(&at(key));
    bricks.shared.reader_seat(group.0).unwrap()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LONG, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn is_equal(rig: &Rig) -> bool {
    files(rig, 0) == files(rig, 1)
}

async fn mend(bricks: &Bricks, brick: usize, key: &str) -> Mending {
    let (bricks, at, id) = (bricks.clone(), at(key), BrickId(brick as u32));
    let mending = tokio::task::spawn_blocking(move || bricks.mend(id, &at));
    mending.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_is_given_the_bytes_that_were_written_and_the_bad_copy_is_mended() {
    let (rig, bricks) = scene("k", "the bytes").await;
    let bad = reader(&bricks, "k");
    rot(&rig, &bricks, bad, "k").await;
    assert!(!is_equal(&rig));
    assert_eq!(get(&bricks, "k").await.unwrap(), "the bytes");
    until("the copy is mended", || is_equal(&rig)).await;
    until("it is counted", || bricks.rot().mended == 1).await;
    let kept = bricks.quarantined();
    let kept = &kept[bad].1;
    assert_eq!(
        (kept.len(), &*kept[0].key, &*kept[0].what),
        (1, "k", "rotten")
    );
    let quarantine = rig.dirs[bad].path().join(".portico/quarantine");
    let kept = quarantine.join(format!("{:016x}", kept[0].number));
    assert_eq!(std::fs::read(kept).unwrap(), b"theXbytes");
    assert_eq!(get(&bricks, "k").await.unwrap(), "the bytes");
    bricks.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_edited_on_a_brick_is_read_elsewhere_and_mended() {
    let (rig, bricks) = scene("dir/k", "the bytes").await;
    let bad = reader(&bricks, "dir/k");
    std::fs::write(path(&rig, bad, "dir/k"), b"something else").unwrap();
    assert_eq!(get(&bricks, "dir/k").await.unwrap(), "the bytes");
    until("the copy is mended", || is_equal(&rig)).await;
    bricks.close().await.unwrap();
    assert_eq!(files(&rig, bad)["/dir/k"].0, b"the bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_object_is_compared_after_it_was_read() {
    let body = "0123456789abcdef".repeat(200_000);
    let (rig, bricks) = scene("short", "bytes").await;
    let staged = bricks.stage(&at("long"), StageOptions::default()).await;
    let mut staged = staged.unwrap();
    staged.write(body.clone().into()).await.unwrap();
    staged.commit(CommitOptions::default()).await.unwrap();
    let bad = reader(&bricks, "long");
    rot(&rig, &bricks, bad, "long").await;
    let object = bricks.open(&at("long")).await.unwrap();
    let mut read = Vec::new();
    while (read.len() as u64) < object.info().len_bytes {
        let from = read.len() as u64;
        let to = object.info().len_bytes.min(from + (256 << 10));
        read.extend_from_slice(&object.read(from..to).await.unwrap());
    }
    drop(object);
    until("the copy is mended", || is_equal(&rig)).await;
    assert_eq!(files(&rig, bad)["/long"].0, body.as_bytes());
    bricks.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_good_copy_is_told_and_left_as_it_is() {
    let (rig, bricks) = scene("k", "the bytes").await;
    for brick in 0..2 {
        rot(&rig, &bricks, brick, "k").await;
    }
    let before = files(&rig, 0);
    let refused = get(&bricks, "k").await;
    assert!(
        matches!(refused, Err(StoreError::Corrupt(_))),
        "{refused:?}"
    );
    assert_eq!(mend(&bricks, 0, "k").await, Mending::Lost);
    assert!(bricks.rot().lost > 0);
    assert_eq!(files(&rig, 0), before);
    // A new object is a new chance.
    put(&bricks, "k", "again").await.unwrap();
    assert_eq!(get(&bricks, "k").await.unwrap(), "again");
    assert_eq!(mend(&bricks, 0, "k").await, Mending::Sound);
    bricks.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mend_that_was_interrupted_is_made_again() {
    let (rig, bricks) = scene("k", "the bytes").await;
    rot(&rig, &bricks, 1, "k").await;
    // As a crash leaves it: kept aside, and not replaced.
    assert_eq!(mend(&bricks, 1, "k").await, Mending::Mended);
    let quarantine = rig.dirs[1].path().join(".portico/quarantine");
    let (kept, standing) = (bricks.quarantined()[1].1[0].number, path(&rig, 1, "k"));
    std::fs::remove_file(&standing).unwrap();
    link(&quarantine.join(format!("{kept:016x}")), &standing);
    assert_eq!(mend(&bricks, 1, "k").await, Mending::Mended);
    assert!(is_equal(&rig));
    assert_eq!(bricks.quarantined()[1].1.len(), 1, "once");
    // A file with a name of someone else's is left alone.
    rot(&rig, &bricks, 1, "k").await;
    link(&standing, &rig.dirs[1].path().join("bkt/other"));
    assert_eq!(mend(&bricks, 1, "k").await, Mending::Lost);
    bricks.close().await.unwrap();
}
