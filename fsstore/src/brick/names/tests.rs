use std::ffi::OsStr;
use std::time::Duration;

use bytes::Bytes;

use super::super::{Brick, BrickOptions, HashPolicy};
use crate::files::{FilePath, Files, RenameMode};
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;
use crate::volume::{CommitOptions, ListQuery, NewBucket, StageOptions, Staged, Volume};

const KEYS: usize = 12;
const ROUNDS: usize = 40;

fn bucket() -> BucketName {
    BucketName::parse("b").unwrap()
}

fn path(text: &str) -> FilePath {
    let names = text.split('/');
    names.fold(FilePath::root(), |path, name| {
        path.join(OsStr::new(name)).unwrap()
    })
}

async fn brick_with_directory(dir: &tempfile::TempDir) -> Brick {
    let options = BrickOptions {
        hash: HashPolicy::Never.into(),
        scan_interval: Duration::from_secs(3_600),
        ..BrickOptions::new(dir.path())
    };
    let brick = Brick::open(options).await.unwrap();
    brick
        .create_bucket(&bucket(), NewBucket::default())
        .await
        .unwrap();
    for n in 0..KEYS {
        let key = ObjectKey::parse(&format!("m/inner/{n:02}")).unwrap();
        let at = Locator::new(bucket(), key);
        let mut staged = brick.stage(&at, StageOptions::default()).await.unwrap();
        staged.write(Bytes::from_static(b"x")).await.unwrap();
        staged.commit(CommitOptions::default()).await.unwrap();
    }
    brick
}

async fn listed(brick: &Brick) -> Vec<String> {
    let query = ListQuery {
        limit: 1_000,
        ..ListQuery::default()
    };
    let page = brick.list(&bucket(), &query).await.unwrap();
    let keys = page.objects.into_iter();
    keys.map(|entry| entry.key.as_str().to_owned()).collect()
}

fn below(dir: &str) -> Vec<String> {
    (0..KEYS).map(|n| format!("{dir}/inner/{n:02}")).collect()
}

/// To a name before it and one after it in the order of keys, while it is being listed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_moves_is_listed_whole_at_one_of_its_places() {
    let dir = tempfile::tempdir().unwrap();
    let brick = brick_with_directory(&dir).await;
    let mut at = "m";
    for round in 0..ROUNDS {
        let to = ["a", "z", "m"][round % 3];
        let lister = brick.clone();
        let listing = tokio::spawn(async move { listed(&lister).await });
        let (mover, from) = (brick.clone(), at);
        let moving = tokio::task::spawn_blocking(move || {
            let (from, to) = (path(&format!("b/{from}")), path(&format!("b/{to}")));
            mover.rename(&from, &to, RenameMode::Replace).unwrap();
        });
        let (seen, moved) = (listing.await.unwrap(), moving.await);
        moved.unwrap();
        assert!(
            seen == below(at) || seen == below(to),
            "while {at} became {to}: {seen:?}"
        );
        assert_eq!(listed(&brick).await, below(to), "afterwards");
        at = to;
    }
    // By the index, not by walking the tree.
    assert!(brick.inner.index.is_complete(&bucket()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_moves_to_another_bucket_takes_its_keys_along() {
    let dir = tempfile::tempdir().unwrap();
    let brick = brick_with_directory(&dir).await;
    let other = BucketName::parse("other").unwrap();
    brick
        .create_bucket(&other, NewBucket::default())
        .await
        .unwrap();
    let mover = brick.clone();
    tokio::task::spawn_blocking(move || {
        let (from, to) = (path("b/m/inner"), path("other/n"));
        mover.rename(&from, &to, RenameMode::Replace).unwrap();
    })
    .await
    .unwrap();
    assert!(listed(&brick).await.is_empty());
    let index = &brick.inner.index;
    assert!(index.is_complete(&bucket()) && index.is_complete(&other));
    let totals = index.count_and_bytes(&other).await.unwrap();
    assert_eq!((totals.objects, totals.bytes), (KEYS as u64, KEYS as u64));
    let key = ObjectKey::parse("n/03").unwrap();
    let info = brick.stat(&Locator::new(other, key)).await.unwrap();
    assert!(!info.etag.is_provisional(), "its digests hold");
}
