use std::fs::File;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};

use super::super::{Brick, BrickOptions};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey};
use crate::object::{Locator, Precondition};
use crate::volume::{AttrsPatch, CommitOptions, StageOptions, Staged, Volume};

async fn put(brick: &Brick, at: &Locator, bytes: &'static [u8]) -> Result<()> {
    let mut staged = brick.stage(at, StageOptions::default()).await?;
    staged.write(Bytes::from_static(bytes)).await?;
    staged.commit(CommitOptions::default()).await.map(drop)
}

fn is_locked<T>(result: Result<T>) -> bool {
    matches!(result, Err(StoreError::Locked))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_locked_is_neither_replaced_nor_removed() {
    let dir = tempfile::tempdir().unwrap();
    for bucket in ["careful", "careless"] {
        std::fs::create_dir(dir.path().join(bucket)).unwrap();
    }
    let mut options = BrickOptions::new(dir.path());
    options.scan_interval = Duration::from_secs(3_600);
    let buckets = &mut options.respect_locks.buckets;
    buckets.insert("careful".to_owned(), true);
    let brick = Brick::open(options).await.unwrap();
    // An ordinary key, and one whose file stands below the reserved directory.
    for key in ["d/k", "d//k"] {
        let at = |bucket: &str| {
            let bucket = BucketName::parse(bucket).unwrap();
            Locator::new(bucket, ObjectKey::parse(key).unwrap())
        };
        let (careful, careless) = (at("careful"), at("careless"));
        for at in [&careful, &careless] {
            put(&brick, at, b"old").await.unwrap();
            let held = hold(&brick, at).await;
            let patch = |touch| AttrsPatch {
                touch,
                ..AttrsPatch::default()
            };
            let any = Precondition::default();
            if at == &careless {
                put(&brick, at, b"new").await.unwrap();
                continue;
            }
            assert!(is_locked(put(&brick, at, b"new").await));
            assert!(is_locked(brick.remove(at, &any).await));
            assert!(is_locked(brick.set_attrs(at, patch(true), &any).await));
            brick.set_attrs(at, patch(false), &any).await.unwrap();
            assert_eq!(brick.stat(at).await.unwrap().len_bytes, 3);
            flock(&held, FlockOperation::LockShared).unwrap();
            put(&brick, at, b"newer").await.unwrap();
            let held = hold(&brick, at).await;
            assert!(is_locked(brick.remove(at, &any).await));
            drop(held);
            assert!(brick.remove(at, &any).await.unwrap().existed);
        }
    }
    brick.close().await.unwrap();
}

/// Locks an object's file for writing.
async fn hold(brick: &Brick, at: &Locator) -> File {
    use crate::volume::Object;
    let object = brick.open(at).await.unwrap();
    let fd = object.plain_file().unwrap();
    use std::os::fd::AsRawFd;
    // A description of its own: the object's must not hold the lock.
    let file = File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}
