use std::time::Duration;

use super::super::{Brick, BrickOptions, HashPolicy};
use super::BATCH_KEYS;
use crate::by_bucket::ByBucket;
use crate::name::BucketName;
use crate::volume::{ListQuery, Volume};

/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many of a bucket's objects are listed with a digest, and how many are listed.
async fn hashed(brick: &Brick, bucket: &str) -> (usize, usize) {
    let query = ListQuery {
        limit: 1_000,
        ..ListQuery::default()
    };
    let bucket = BucketName::parse(bucket).unwrap();
    let page = brick.list(&bucket, &query).await.unwrap();
    let known = page.objects.iter().filter(|o| !o.etag.is_provisional());
    (known.count(), page.objects.len())
}

async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_that_are_not_hashed_unasked_are_passed_over() {
    const MANY: usize = 2 * BATCH_KEYS + 1;
    let dir = tempfile::tempdir().unwrap();
    let make = |bucket: &str, count: usize| {
        std::fs::create_dir(dir.path().join(bucket)).unwrap();
        for number in 0..count {
            let path = dir.path().join(bucket).join(number.to_string());
            std::fs::write(path, number.to_string()).unwrap();
        }
    };
    make("asked", MANY);
    make("never", MANY);
    make("soon", 3);
    let mut hash = ByBucket::from(HashPolicy::Never);
    hash.buckets.insert("asked".to_owned(), HashPolicy::OnRead);
    hash.buckets
        .insert("soon".to_owned(), HashPolicy::Background);
    let brick = Brick::open(BrickOptions {
        hash,
        scan_interval: Duration::from_millis(200),
        ..BrickOptions::new(dir.path())
    })
    .await
    .unwrap();
    until(async || hashed(&brick, "asked").await == (0, MANY)).await;
    until(async || hashed(&brick, "soon").await == (3, 3)).await;
    assert_eq!(hashed(&brick, "asked").await, (0, MANY));
    assert_eq!(hashed(&brick, "never").await, (0, MANY));
    brick.close().await.unwrap();
}
