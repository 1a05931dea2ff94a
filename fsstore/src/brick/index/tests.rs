//! Tests of the index as a whole.

mod faults;
mod model;
mod moves;
mod race;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Change, Index, KeyRange, MAX_FETCH_ROWS, MAX_OVERLAY_ROWS, Page, Room, Row, RowFlags};
use crate::error::Result;
use crate::name::{BucketName, ETag, ObjectKey};
use crate::volume::ListQuery;

fn bucket(name: &str) -> BucketName {
    BucketName::parse(name).unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

fn row(len_bytes: u64) -> Row {
    Row {
        len_bytes,
        mtime_ns: 1_700_000_000_000_000_000,
        ctime_ns: 1_700_000_000_000_000_001,
        ino: len_bytes ^ 0xffff,
        etag: ETag::from_md5(&[len_bytes as u8; 16]),
        owner: Some("owner".to_owned()),
        checksum: None,
        flags: RowFlags::default(),
    }
}

fn put(name: &BucketName, text: &str, len_bytes: u64) -> (BucketName, ObjectKey, Change) {
    (name.clone(), key(text), Change::Put(row(len_bytes)))
}

fn remove(name: &BucketName, text: &str) -> (BucketName, ObjectKey, Change) {
    (name.clone(), key(text), Change::Remove)
}

fn query(prefix: &str, delimiter: &str, after: &str, limit: usize) -> ListQuery {
    ListQuery {
        prefix: prefix.to_owned(),
        delimiter: (!delimiter.is_empty()).then(|| delimiter.to_owned()),
        after: (!after.is_empty()).then(|| after.to_owned()),
        limit,
    }
}

fn keys(page: &Page) -> Vec<&str> {
    page.objects.iter().map(|(key, _)| key.as_str()).collect()
}

async fn open(dir: &tempfile::TempDir) -> Index {
    Index::open(dir.path()).await.unwrap().0
}

/// A small generator (xorshift*), so that a printed seed repeats a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn key(&mut self) -> String {
        const PIECES: [&str; 10] = [
            "a",
            "b",
            "/",
            "/",
            "--",
            "é",
            "\u{10ffff}",
            "\0",
            "a-b",
            "z",
        ];
        let len = 1 + self.below(5);
        (0..len).map(|_| self.pick(&PIECES)).collect()
    }
}

fn seed() -> u64 {
    std::env::var("PORTICO_TEST_SEED").map_or_else(
        |_| {
            let address = Box::new(0_u8);
            let now = Instant::now();
            let mixed = format!("{:p}{now:?}{}", &raw const *address, std::process::id());
            mixed
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
                })
        },
        |text| text.parse().unwrap(),
    ) | 1
}

/// What a bucket should have.
type Model = BTreeMap<String, Row>;

async fn drop_odd(rows: Vec<(ObjectKey, Row)>) -> Result<Vec<(ObjectKey, Option<Row>)>> {
    let keep = |row: Row| row.len_bytes.is_multiple_of(2).then_some(row);
    Ok(rows
        .into_iter()
        .map(|(key, row)| (key, keep(row)))
        .collect())
}

#[tokio::test]
async fn a_common_prefix_needs_one_confirmed_key() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let name = bucket("b");
    // Odd lengths are gone: `dead/` has none left, `late/` only its last.
    let dead = (0..3_000).map(|n| put(&name, &format!("dead/{n:04}"), 1));
    index.apply(dead);
    index.flush().await.unwrap();
    index.apply((0..2_000).map(|n| put(&name, &format!("late/{n:04}"), u64::from(n != 1_999))));
    index.apply([put(&name, "m", 1), put(&name, "n", 2)]);
    let page = index
        .list_with(&name, &query("", "/", "", 2), drop_odd)
        .await
        .unwrap();
    assert_eq!(
        (keys(&page), &page.prefixes[..]),
        (vec!["n"], &["late/".to_owned()][..])
    );
    assert_eq!(page.next, None);
}

#[tokio::test]
async fn a_verifier_replaces_rows_and_its_errors_are_returned() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let name = bucket("b");
    index.apply([put(&name, "a", 1), put(&name, "b", 2)]);
    let asked = AtomicU64::new(0);
    let page = index
        .list_with(&name, &query("", "", "", 1), |rows| {
            asked.fetch_add(rows.len() as u64, Ordering::Relaxed);
            std::future::ready(Ok(rows
                .into_iter()
                .map(|(key, _)| (key, Some(row(9))))
                .collect()))
        })
        .await
        .unwrap();
    assert_eq!(page.objects, [(key("a"), row(9))]);
    assert_eq!(page.next.as_deref(), Some("a"));
    assert_eq!(asked.into_inner(), 2);
    let failed = index
        .list_with(&name, &query("", "", "", 1), |_| {
            std::future::ready(Err(crate::error::StoreError::Stopping))
        })
        .await;
    assert!(matches!(failed, Err(crate::error::StoreError::Stopping)));
}

#[tokio::test]
async fn rows_that_need_hashing_are_fed_until_they_are_hashed() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let names = [bucket("x"), bucket("a"), bucket("gone")];
    let mut unhashed = row(1);
    unhashed.flags.needs_hash = true;
    for name in &names {
        for n in 0..10 {
            let row = if n % 2 == 0 { unhashed.clone() } else { row(2) };
            index.apply([(name.clone(), key(&format!("k{n}")), Change::Put(row))]);
        }
    }
    index.flush().await.unwrap();
    index.drop_bucket(&names[2]);
    // Hashed since, and not yet flushed.
    index.apply([put(&names[0], "k0", 1), remove(&names[0], "k2")]);
    let mut found = Vec::new();
    let mut after: Option<(BucketName, ObjectKey)> = None;
    loop {
        let at = after.as_ref().map(|(bucket, key)| (bucket, key));
        let rows = index.next_unhashed(at, 3).await.unwrap();
        assert!(rows.iter().all(|(_, _, row)| *row == unhashed));
        let Some((bucket, key, _)) = rows.last().cloned() else {
            break;
        };
        after = Some((bucket, key));
        found.extend(
            rows.into_iter()
                .map(|(bucket, key, _)| format!("{bucket}/{key}")),
        );
    }
    assert_eq!(
        found,
        [
            "x/k4", "x/k6", "x/k8", "a/k0", "a/k2", "a/k4", "a/k6", "a/k8"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_overlay_says_so_and_empties() {
    let dir = tempfile::tempdir().unwrap();
    let index = Arc::new(open(&dir).await);
    let name = bucket("b");
    let many = (0..=MAX_OVERLAY_ROWS).map(|n| put(&name, &format!("k{n}"), 1));
    assert_eq!(index.apply(many).room, Room::Full);
    let committer = Arc::clone(&index);
    tokio::task::spawn_blocking(move || committer.wait_for_room_blocking())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(index.apply([put(&name, "one-more", 1)]).room, Room::Free);
    let totals = index.count_and_bytes(&name).await.unwrap();
    assert_eq!(totals.objects, MAX_OVERLAY_ROWS as u64 + 2);
}

#[tokio::test]
async fn changes_reach_the_database_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let seq = index.apply([put(&bucket("b"), "k", 1)]).seq;
    let deadline = Instant::now() + Duration::from_secs(5);
    while index.flushed_through() < seq {
        assert!(Instant::now() < deadline, "not flushed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_longest_keys_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let name = bucket("b");
    let long: Vec<String> = (0..50)
        .map(|n| format!("{}{n:02}", "k".repeat(1_022)))
        .collect();
    index.apply(long.iter().map(|text| put(&name, text, 1)));
    index.flush().await.unwrap();
    let rows = index
        .rows(&name, &KeyRange::prefix("k"), MAX_FETCH_ROWS)
        .await
        .unwrap();
    assert!(
        rows.iter()
            .map(|(key, _)| key.as_str())
            .eq(long.iter().map(String::as_str))
    );
}
