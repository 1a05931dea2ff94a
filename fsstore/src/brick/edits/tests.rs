use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::super::commit::Terms;
use super::super::disk::Disk;
use super::super::hashing::Suspect;
use super::super::osdisk::OsDisk;
use super::super::{Brick, BrickOptions, HashPolicy, open_disk};
use super::Edit;
use crate::checksum::digest_of;
use crate::clock::Clock;
use crate::error::StoreError;
use crate::name::{BucketName, ETag, ObjectKey};
use crate::object::{DigestAlgorithm, ETagMatch, Locator, Precondition, Timestamp};
use crate::volume::{CommitOptions, ListQuery, NewBucket, StageOptions, Staged, Volume};

struct Scene {
    dir: TempDir,
    brick: Brick,
    at: Locator,
}

/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);
const OLD: &[u8] = b"old bytes";

fn md5(bytes: &[u8]) -> ETag {
    let md5: [u8; 16] = digest_of(DigestAlgorithm::Md5, bytes).try_into().unwrap();
    ETag::from_md5(&md5)
}

impl Scene {
    async fn new(hash: HashPolicy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = BrickOptions {
            hash: hash.into(),
            scan_interval: Duration::from_secs(3_600),
            ..BrickOptions::new(dir.path())
        };
        Self::with(dir, options).await
    }

    async fn with(dir: TempDir, options: BrickOptions) -> Self {
        let brick = Brick::open(options).await.unwrap();
        Self::of(dir, brick).await
    }

    /// Where times are no finer than the clock's ticks.
    async fn coarse() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = BrickOptions {
            hash: HashPolicy::Never.into(),
            scan_interval: Duration::from_secs(3_600),
            ..BrickOptions::new(dir.path())
        };
        let disk = open_disk(dir.path()).unwrap().with_coarse_times();
        let index = dir.path().join(".portico/index");
        let brick = Brick::open_on(Arc::new(disk), options, &index).await;
        Self::of(dir, brick.unwrap()).await
    }

    async fn of(dir: TempDir, brick: Brick) -> Self {
        let bucket = BucketName::parse("b").unwrap();
        let at = Locator::new(bucket.clone(), ObjectKey::parse("d/k").unwrap());
        brick
            .create_bucket(&bucket, NewBucket::default())
            .await
            .unwrap();
        let scene = Self { dir, brick, at };
        scene.put(OLD, Precondition::default()).await.unwrap();
        scene
    }

    async fn put(
        &self,
        bytes: &'static [u8],
        precondition: Precondition,
    ) -> Result<(), StoreError> {
        let staged = self.brick.stage(&self.at, StageOptions::default()).await;
        let mut staged = staged.unwrap();
        staged.write(Bytes::from_static(bytes)).await.unwrap();
        let options = CommitOptions {
            precondition,
            ..CommitOptions::default()
        };
        staged.commit(options).await.map(|_| ())
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("b/d/k")
    }

    async fn begin(&self) -> Edit<OsDisk> {
        let (inner, at) = (Arc::clone(&self.brick.inner), self.at.clone());
        tokio::task::spawn_blocking(move || {
            let disk = &inner.tree.disk;
            let file = disk.open(&inner.tree.root, "b/d/k").unwrap();
            inner.begin_edit(Some(&at), Arc::new(file)).unwrap()
        })
        .await
        .unwrap()
    }

    /// Writes in place, as a mount does, and puts length and mtime back.
    fn write_unseen(&self, bytes: &[u8]) {
        let file = std::fs::File::options()
            .write(true)
            .open(self.path())
            .unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.set_modified(modified).unwrap();
    }

    /// Has a directory where the file is, which is so sheltered; gives what is in it.
    async fn put_below(&self) -> Locator {
        let below = Locator::new(
            self.at.bucket.clone(),
            ObjectKey::parse("d/k/below").unwrap(),
        );
        let staged = self.brick.stage(&below, StageOptions::default()).await;
        let put = staged.unwrap().commit(CommitOptions::default()).await;
        put.unwrap();
        below
    }

    async fn tag(&self) -> ETag {
        self.brick.stat(&self.at).await.unwrap().etag
    }

    async fn listed_tag(&self) -> ETag {
        let query = ListQuery {
            limit: 10,
            ..ListQuery::default()
        };
        let page = self.brick.list(&self.at.bucket, &query).await.unwrap();
        assert_eq!(page.objects.len(), 1);
        page.objects[0].etag.clone()
    }
}

async fn end(edit: Edit<OsDisk>) {
    tokio::task::spawn_blocking(move || edit.end(|| None))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_is_edited_no_digest_of_a_file_holds() {
    let scene = Scene::new(HashPolicy::Background).await;
    assert_eq!(
        (scene.tag().await, scene.listed_tag().await),
        (md5(OLD), md5(OLD))
    );
    let edit = scene.begin().await;
    assert!(scene.listed_tag().await.is_provisional());
    let provisional = scene.tag().await;
    assert!(provisional.is_provisional());
    let of = |tag: &ETag| Precondition {
        if_match: Some(ETagMatch::OneOf(vec![tag.as_str().to_owned()])),
        ..Precondition::default()
    };
    let refused = scene.put(b"new", of(&md5(OLD))).await;
    assert!(
        matches!(refused, Err(StoreError::PreconditionFailed(_))),
        "{refused:?}"
    );
    // Nor is one taken meanwhile.
    let suspect = Suspect {
        at: scene.at.clone(),
        settled: true,
    };
    scene.brick.inner.hash_one(&suspect).await.unwrap();
    assert!(scene.tag().await.is_provisional());
    end(edit).await;
    assert_eq!(
        (scene.tag().await, scene.listed_tag().await),
        (md5(OLD), md5(OLD))
    );
    let edit = scene.begin().await;
    scene.put(b"new", of(&provisional)).await.unwrap();
    assert_eq!(scene.tag().await, md5(b"new"), "another inode");
    end(edit).await;
    assert_eq!(scene.tag().await, md5(b"new"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_gives_an_edited_file_a_tag_like_no_other() {
    let scene = Scene::new(HashPolicy::Never).await;
    let edit = scene.begin().await;
    let (one, other) = (scene.listed_tag().await, scene.listed_tag().await);
    assert!(one.is_provisional() && other.is_provisional());
    assert_ne!(one, other);
    // A look has its pages written first, so that its tag is the state's.
    assert_eq!(scene.tag().await, scene.tag().await);
    end(edit).await;
    assert_eq!(scene.listed_tag().await, md5(OLD));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_that_puts_length_and_time_back_is_in_the_record() {
    let scene = Scene::new(HashPolicy::Never).await;
    let edit = scene.begin().await;
    scene.write_unseen(b"new bytes");
    end(edit).await;
    assert!(scene.tag().await.is_provisional());
    scene.brick.close().await.unwrap();
    // Neither memory nor index remember anything.
    let Scene { dir, .. } = scene;
    std::fs::remove_dir_all(dir.path().join(".portico/index")).unwrap();
    let brick = Brick::open(BrickOptions {
        hash: HashPolicy::Never.into(),
        ..BrickOptions::new(dir.path())
    })
    .await
    .unwrap();
    let at = Locator::new(
        BucketName::parse("b").unwrap(),
        ObjectKey::parse("d/k").unwrap(),
    );
    assert!(brick.stat(&at).await.unwrap().etag.is_provisional());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_that_times_cannot_tell_is_taken_for_one() {
    let scene = Scene::coarse().await;
    // On a busy machine not every edit begins within the tick of what came before.
    for attempt in 0.. {
        let edit = scene.begin().await;
        end(edit).await;
        if scene.tag().await.is_provisional() {
            break;
        }
        assert!(attempt < 100, "every edit was told by its times");
        scene.put(OLD, Precondition::default()).await.unwrap();
    }
    scene.put(OLD, Precondition::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let edit = scene.begin().await;
    end(edit).await;
    assert_eq!(scene.tag().await, md5(OLD));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_lasts_until_the_last_handle_is_dropped() {
    let scene = Scene::new(HashPolicy::Never).await;
    let (first, second) = (scene.begin().await, scene.begin().await);
    scene.write_unseen(b"OLD");
    end(first).await;
    assert!(scene.tag().await.is_provisional());
    end(second).await;
    // The bytes are others, though length and mtime are as they were.
    assert!(scene.tag().await.is_provisional());
    assert!(scene.listed_tag().await.is_provisional());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_closed_file_has_become_is_hashed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = BrickOptions::new(dir.path());
    options.hash = HashPolicy::OnClose.into();
    options.scan_interval = Duration::from_secs(3_600);
    let clock = Clock::standing(Clock::system().now());
    options.clock = clock.clone();
    let scene = Scene::with(dir, options).await;
    let edit = scene.begin().await;
    scene.write_unseen(b"NEW");
    // It never gets old enough to be hashed for its age.
    let modified = scene.brick.stat(&scene.at).await.unwrap().modified;
    clock.set(Timestamp(modified.0 + 1));
    drop(edit);
    let hashed = async {
        while scene.tag().await != md5(b"NEW bytes") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), hashed)
        .await
        .expect("it is hashed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_taken_before_an_edit_is_not_recorded_during_it() {
    let scene = Scene::new(HashPolicy::Never).await;
    let edit = scene.begin().await;
    scene.write_unseen(b"NEW");
    end(edit).await;
    let inner = Arc::clone(&scene.brick.inner);
    let suspect = Suspect {
        at: scene.at.clone(),
        settled: true,
    };
    let (reading, from) = (Arc::clone(&inner), suspect.clone());
    let digested = tokio::task::spawn_blocking(move || reading.digest(&from).unwrap());
    let (facts, digests) = digested.await.unwrap().unwrap();
    let edit = scene.begin().await;
    let (recording, at) = (Arc::clone(&inner), scene.at.clone());
    let recorded = inner.committer.submit(Terms::to_look(), move |turn| {
        recording.record_digests(turn, &at, &facts, &digests)
    });
    recorded.await.unwrap();
    end(edit).await;
    assert!(scene.tag().await.is_provisional());
    // Afterwards it is.
    inner.hash_one(&suspect).await.unwrap();
    assert_eq!(scene.tag().await, md5(b"NEW bytes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_of_a_removed_file_and_one_that_outlives_the_volume_end() {
    let scene = Scene::new(HashPolicy::Background).await;
    let edit = scene.begin().await;
    scene
        .brick
        .remove(&scene.at, &Precondition::default())
        .await
        .unwrap();
    end(edit).await;
    scene.put(OLD, Precondition::default()).await.unwrap();
    assert_eq!(scene.tag().await, md5(OLD));
    let edit = scene.begin().await;
    scene.brick.close().await.unwrap();
    end(edit).await;
}

/// What was being edited at the end is in doubt at the next start, though nobody wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_is_remembered_over_a_restart() {
    let scene = Scene::new(HashPolicy::Never).await;
    let edit = scene.begin().await;
    scene.brick.close().await.unwrap();
    let Scene { dir, brick, at } = scene;
    drop((edit, brick));
    let mut options = BrickOptions::new(dir.path());
    options.hash = HashPolicy::Never.into();
    let brick = Brick::open(options.clone()).await.unwrap();
    assert!(brick.stat(&at).await.unwrap().etag.is_provisional());
    brick.close().await.unwrap();
    drop(brick);
    // And until it was read again.
    let brick = Brick::open(options).await.unwrap();
    assert!(brick.stat(&at).await.unwrap().etag.is_provisional());
    let suspect = Suspect {
        at: at.clone(),
        settled: true,
    };
    brick.inner.hash_one(&suspect).await.unwrap();
    assert_eq!(brick.stat(&at).await.unwrap().etag, md5(OLD));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_dropped_by_a_panic_in_the_turn_ends_without_another_turn() {
    let scene = Scene::new(HashPolicy::Never).await;
    let edit = scene.begin().await;
    let inner = Arc::clone(&scene.brick.inner);
    let (over, is_over) = std::sync::mpsc::channel();
    // Of its own: were it to wait for ever, the test would not.
    std::thread::spawn(move || {
        let acted = catch_unwind(AssertUnwindSafe(|| {
            inner.committer.act_here(&[], false, |_| {
                let _edit = edit;
                panic!("as a change would that has an error");
            })
        }));
        over.send(acted.is_err())
    });
    assert_eq!(is_over.recv_timeout(PATIENCE), Ok(true));
    assert!(scene.tag().await.is_provisional(), "in doubt");
    scene.put(b"new", Precondition::default()).await.unwrap();
    assert_eq!(scene.tag().await, md5(b"new"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_changed_by_other_hands_does_not_get_its_digest_back_in_its_shelter() {
    for looked_at in [false, true] {
        let scene = Scene::new(HashPolicy::Never).await;
        scene.write_unseen(b"new bytes");
        if looked_at {
            assert!(scene.tag().await.is_provisional());
        }
        let below = scene.put_below().await;
        assert!(scene.tag().await.is_provisional(), "in its shelter");
        let removed = scene.brick.remove(&below, &Precondition::default()).await;
        removed.unwrap();
        assert!(scene.tag().await.is_provisional(), "and back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_keeps_its_digest_in_its_shelter() {
    let scene = Scene::new(HashPolicy::Never).await;
    let below = scene.put_below().await;
    assert_eq!(scene.tag().await, md5(OLD));
    let removed = scene.brick.remove(&below, &Precondition::default()).await;
    removed.unwrap();
    assert_eq!(scene.tag().await, md5(OLD));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tag_of_an_open_file_goes_on_matching_where_nothing_was_written() {
    let scene = Scene::new(HashPolicy::Never).await;
    for bytes in [OLD, b""] {
        scene.put(bytes, Precondition::default()).await.unwrap();
        let edit = scene.begin().await;
        let shown = scene.brick.stat(&scene.at).await.unwrap().etag;
        assert!(shown.is_provisional());
        end(edit).await;
        let now = scene.brick.stat(&scene.at).await.unwrap();
        assert_eq!(now.etag, md5(bytes));
        assert_eq!(now.etags_before, std::slice::from_ref(&shown));
        // Another edit changes something, and takes it back.
        let edit = scene.begin().await;
        std::fs::write(scene.path(), b"new bytes").unwrap();
        std::fs::write(scene.path(), bytes).unwrap();
        end(edit).await;
        let named = Precondition {
            if_match: Some(ETagMatch::OneOf(vec![shown.as_str().to_owned()])),
            ..Precondition::default()
        };
        let refused = scene.put(b"x", named).await;
        assert!(
            matches!(refused, Err(StoreError::PreconditionFailed(_))),
            "{refused:?}"
        );
    }
}
