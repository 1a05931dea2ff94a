use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::index::{Change, KeyRange, Row};
use super::super::intents::BucketDir;
use super::super::{Brick, BrickOptions, HashPolicy};
use super::{CHUNK_NAMES, MAX_CHUNKS, MAX_READ_BYTES, MAX_READ_TIME, MIN_CHARGE_BYTES, Reading};
use crate::name::{BucketName, ObjectKey};
use crate::volume::{NewBucket, Volume};

fn bucket() -> BucketName {
    BucketName::parse("b").unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

/// A brick over a tree that nobody scans again, with files at `keys`.
async fn brick_of(dir: &tempfile::TempDir, keys: &[String]) -> Brick {
    let options = BrickOptions {
        hash: HashPolicy::Never.into(),
        scan_interval: Duration::from_secs(3_600),
        ..BrickOptions::new(dir.path())
    };
    let brick = Brick::open(options).await.unwrap();
    let mut progress = brick.progress();
    progress.wait_for(|progress| progress.done).await.unwrap();
    brick
        .create_bucket(&bucket(), NewBucket::default())
        .await
        .unwrap();
    for key in keys {
        let path = dir.path().join("b").join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, key).unwrap();
    }
    brick
}

async fn compare(brick: &Brick, path: &str) {
    let (inner, dir) = (Arc::clone(&brick.inner), BucketDir::new(&bucket(), path));
    tokio::task::spawn_blocking(move || inner.compare_dir(&dir).unwrap())
        .await
        .unwrap();
}

async fn indexed(brick: &Brick) -> Vec<(String, Row)> {
    let index = &brick.inner.index;
    let rows = index.rows(&bucket(), &KeyRange::all(), 1_000).await;
    let rows = rows.unwrap().into_iter();
    rows.map(|(key, row)| (key.as_str().to_owned(), row))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marked_directory_is_compared_name_by_name_and_no_deeper() {
    let dir = tempfile::tempdir().unwrap();
    let mut keys: Vec<_> = (0..CHUNK_NAMES * 2 + 3)
        .map(|n| format!("d/k{n:02}"))
        .collect();
    keys.extend(["d/k05-x/deep", "d/k20-x/deep", "d/z", "e"].map(str::to_owned));
    let brick = brick_of(&dir, &keys).await;
    compare(&brick, "d").await;
    let is_in_d = |key: &&String| key.starts_with("d/") && !key.ends_with("deep");
    let in_d: Vec<_> = keys.iter().filter(is_in_d).cloned().collect();
    let found = indexed(&brick).await;
    let names: Vec<_> = found.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(names, in_d);
    // Rows of what is gone, of what has changed, and none of what is there.
    let index = &brick.inner.index;
    let right = |name: &str| found.iter().find(|(key, _)| key == name).unwrap().1.clone();
    let mut wrong = right("d/k03");
    wrong.len_bytes += 1;
    let put = |name: &str, row: &Row| (bucket(), key(name), Change::Put(row.clone()));
    index.apply([
        put("d/a-gone", &wrong),
        put("d/k03", &wrong),
        put("d/k10-gone", &wrong),
        put("d/zz-gone", &wrong),
        (bucket(), key("d/k01"), Change::Remove),
        (bucket(), key("d/z"), Change::Remove),
        put("d/gone/deep", &wrong),
        put("other", &wrong),
    ]);
    index.flush().await.unwrap();
    compare(&brick, "d").await;
    let mut expected = found.clone();
    expected.push(("d/gone/deep".to_owned(), wrong.clone()));
    expected.push(("other".to_owned(), wrong.clone()));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(indexed(&brick).await, expected);
    // A directory that is gone has no names.
    compare(&brick, "d/gone").await;
    expected.retain(|(key, _)| key != "d/gone/deep");
    assert_eq!(indexed(&brick).await, expected);
    // The bucket's own directory.
    compare(&brick, "").await;
    let names: Vec<_> = indexed(&brick).await.into_iter().map(|it| it.0).collect();
    assert!(names.contains(&"e".to_owned()) && !names.contains(&"other".to_owned()));
    assert!(brick.inner.index.is_complete(&bucket()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marked_directory_of_very_many_names_is_left_to_the_scan() {
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<_> = (0..CHUNK_NAMES * MAX_CHUNKS + 1)
        .map(|n| format!("d/k{n:02}"))
        .collect();
    let brick = brick_of(&dir, &keys).await;
    assert!(brick.inner.index.is_complete(&bucket()));
    compare(&brick, "d").await;
    assert!(!brick.inner.index.is_complete(&bucket()));
}

#[test]
fn what_is_read_before_the_start_is_bounded_in_files_bytes_and_time() {
    let now = Instant::now();
    let mut reading = Reading::default();
    let files = (0..10_000).filter(|_| reading.allows(1, now)).count();
    assert_eq!(files as u64, MAX_READ_BYTES / MIN_CHARGE_BYTES);
    assert!(!reading.allows(1, now) && reading.allows(0, now));

    let mut reading = Reading::default();
    assert!(!reading.allows(MAX_READ_BYTES + 1, now));
    assert!(
        reading.allows(MAX_READ_BYTES, now),
        "what is not read is not charged"
    );

    let mut reading = Reading::default();
    assert!(reading.allows(1, now));
    assert!(reading.allows(1, now + MAX_READ_TIME));
    let later = now + MAX_READ_TIME + Duration::from_nanos(1);
    assert!(!reading.allows(1, later) && reading.allows(0, later));
}
