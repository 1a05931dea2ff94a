//! Kills, damage, and buckets that go.

use std::time::{Duration, Instant};

use super::{bucket, keys, open, put, query, remove};
use crate::brick::index::{Index, Opened, Page};
use crate::error::StoreError;

#[tokio::test]
async fn what_was_flushed_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let name = bucket("b");
    {
        let index = open(&dir).await;
        index.set_complete(&name, true);
        let applied = index.apply([put(&name, "kept", 1), put(&name, "then-removed", 2)]);
        assert!(index.flush().await.unwrap() >= applied.seq);
        let removed = index.apply([remove(&name, "then-removed")]);
        assert!(index.checkpoint().await.unwrap() >= removed.seq);
        let lost = index.apply([put(&name, "lost", 3)]);
        assert!(index.flushed_through() < lost.seq);
    }
    let (index, opened) = Index::open(dir.path()).await.unwrap();
    assert_eq!(opened, Opened::Existing);
    assert!(index.is_complete(&name));
    assert_eq!(index.buckets(), [(name.clone(), true)]);
    let page = index.list(&name, &query("", "", "", 10)).await.unwrap();
    assert!(keys(&page).starts_with(&["kept"]) && !keys(&page).contains(&"then-removed"));
}

#[tokio::test]
async fn a_checkpoint_leaves_everything_in_the_database_file() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let name = bucket("b");
    let index = open(&dir).await;
    index.apply((0..1_000).map(|n| put(&name, &format!("k{n}"), n)));
    index.checkpoint().await.unwrap();
    // The write-ahead log is left behind: what the main file has must be all.
    std::fs::copy(dir.path().join("index.db"), copy.path().join("index.db")).unwrap();
    let (copied, opened) = Index::open(copy.path()).await.unwrap();
    assert_eq!(opened, Opened::Existing);
    let totals = copied.count_and_bytes(&name).await.unwrap();
    assert_eq!((totals.objects, totals.bytes), (1_000, 499_500));
}

#[tokio::test]
async fn a_full_disk_loses_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let name = bucket("b");
    let index = open(&dir).await;
    index.apply([put(&name, "first", 1)]);
    index.flush().await.unwrap();
    index.shared.writer.lock().await.limit_pages(20).await;
    let applied = index.apply((0..5_000).map(|n| put(&name, &format!("k{n:04}"), n)));
    for _ in 0..3 {
        let failed = index.flush().await;
        assert!(matches!(failed, Err(StoreError::NoSpace)), "{failed:?}");
        let failed = index.checkpoint().await;
        assert!(matches!(failed, Err(StoreError::NoSpace)), "{failed:?}");
        index.apply([remove(&name, "first")]);
    }
    assert!(index.flushed_through() < applied.seq);
    let page = index.list(&name, &query("", "", "", 10_000)).await.unwrap();
    assert_eq!(page.objects.len(), 5_000);
    index.shared.writer.lock().await.limit_pages(100_000).await;
    assert!(index.checkpoint().await.unwrap() > applied.seq);
    let totals = index.count_and_bytes(&name).await.unwrap();
    assert_eq!((totals.objects, totals.bytes), (5_000, 4_999 * 2_500));
}

#[tokio::test]
async fn a_flush_that_is_given_up_loses_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let name = bucket("b");
    let index = open(&dir).await;
    for round in 0..100_u64 {
        index.apply((0..300).map(|n| put(&name, &format!("k{:04}", n * 7 + round), round)));
        index.apply([remove(&name, &format!("k{round:04}"))]);
        let patience = Duration::from_micros(round * 50);
        let _ = tokio::time::timeout(patience, index.flush()).await;
        let _ = tokio::time::timeout(patience, index.checkpoint()).await;
    }
    index.checkpoint().await.unwrap();
    let page = index.list(&name, &query("", "", "", 10_000)).await.unwrap();
    let lengths: u64 = page.objects.iter().map(|(_, row)| row.len_bytes).sum();
    let totals = index.count_and_bytes(&name).await.unwrap();
    assert_eq!(
        (totals.objects, totals.bytes),
        (page.objects.len() as u64, lengths)
    );
    let last = page.objects.last().map(|(key, _)| key.as_str());
    assert_eq!(last, Some("k2192"));
}

#[tokio::test]
async fn a_damaged_database_is_replaced() {
    let name = bucket("b");
    let garbage = |_: Vec<u8>| vec![0x55; 8_192];
    let cut = |whole: Vec<u8>| whole[..whole.len() / 2].to_vec();
    let foreign = |mut whole: Vec<u8>| {
        whole[60..64].copy_from_slice(&9_u32.to_be_bytes()); // user_version
        whole
    };
    let empty = |_: Vec<u8>| Vec::new();
    let damages: [&dyn Fn(Vec<u8>) -> Vec<u8>; 4] = [&garbage, &cut, &foreign, &empty];
    for (case, damage) in damages.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let index = open(&dir).await;
        index.apply((0..1_000).map(|n| put(&name, &format!("k{n}"), n)));
        index.close().await.unwrap();
        let path = dir.path().join("index.db");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, damage(whole)).unwrap();
        let (index, opened) = Index::open(dir.path()).await.unwrap();
        assert_eq!(opened, Opened::Fresh, "case {case}");
        assert!(index.buckets().is_empty());
        index.apply([put(&name, "again", 1)]);
        index.close().await.unwrap();
        let (index, opened) = Index::open(dir.path()).await.unwrap();
        assert_eq!(opened, Opened::Existing);
        let page = index.list(&name, &query("", "", "", 10)).await.unwrap();
        assert_eq!(keys(&page), ["again"]);
    }
}

#[tokio::test]
async fn damage_found_later_is_repaired_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let name = bucket("b");
    let index = open(&dir).await;
    index.apply((0..2_000).map(|n| put(&name, &format!("k{n:04}"), n)));
    index.close().await.unwrap();
    let path = dir.path().join("index.db");
    let mut bytes = std::fs::read(&path).unwrap();
    for page in bytes.chunks_mut(4_096).skip(5) {
        page.fill(0xee);
    }
    std::fs::write(&path, bytes).unwrap();
    let (index, opened) = Index::open(dir.path()).await.unwrap();
    assert_eq!(opened, Opened::Existing);
    let failed = index.list(&name, &query("", "", "", 10_000)).await;
    assert!(matches!(failed, Err(StoreError::Index(_))), "{failed:?}");
    drop(index);
    let (_, opened) = Index::open(dir.path()).await.unwrap();
    assert_eq!(opened, Opened::Fresh);
}

#[tokio::test]
async fn a_dropped_bucket_is_gone_at_once_and_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let name = bucket("b");
    let index = open(&dir).await;
    index.apply((0..10_000).map(|n| put(&name, &format!("k{n:05}"), n)));
    index.flush().await.unwrap();
    index.apply([put(&name, "pending", 1)]);
    index.drop_bucket(&name);
    let all = query("", "", "", 10);
    assert_eq!(index.list(&name, &all).await.unwrap(), Page::default());
    assert!(!index.is_complete(&name));
    index.add_bucket(&name, true);
    index.apply([put(&name, "new", 7)]);
    assert_eq!(keys(&index.list(&name, &all).await.unwrap()), ["new"]);
    // A kill before the rows were all deleted: they are deleted after the next start.
    index.flush().await.unwrap();
    drop(index);
    let index = open(&dir).await;
    assert_eq!(index.buckets(), [(name.clone(), true)]);
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut path = dir.path().to_path_buf();
    path.push("index.db");
    while count_rows(&path).await != 1 {
        assert!(Instant::now() < deadline, "the rows were not deleted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(keys(&index.list(&name, &all).await.unwrap()), ["new"]);
}

async fn count_rows(path: &std::path::Path) -> i64 {
    use sqlx::ConnectOptions;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut connection = options.connect().await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM entry")
        .fetch_one(&mut connection)
        .await
        .unwrap()
}
