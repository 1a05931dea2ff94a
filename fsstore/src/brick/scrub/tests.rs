use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use bytes::Bytes;

use super::{Position, Scrubbed, Scrubbing, Verdict};
use crate::brick::{Brick, BrickOptions, HashPolicy};
use crate::by_bucket::ByBucket;
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;
use crate::volume::{CommitOptions, NewBucket, StageOptions, Staged, Volume};

struct Scene {
    brick: Brick,
    dir: tempfile::TempDir,
}

fn at(bucket: &str, key: &str) -> Locator {
    let bucket = BucketName::parse(bucket).unwrap();
    Locator::new(bucket, ObjectKey::parse(key).unwrap())
}

impl Scene {
    async fn new(objects: &[(&str, &str, usize)]) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let options = BrickOptions {
            // What was changed behind our back keeps the digests of before.
            hash: ByBucket {
                default: HashPolicy::Never,
                buckets: std::collections::BTreeMap::new(),
            },
            watch: false,
            ..BrickOptions::new(dir.path())
        };
        let brick = Brick::open(options).await.unwrap();
        let scene = Self { brick, dir };
        for (bucket, key, len_bytes) in objects {
            let at = at(bucket, key);
            let _ = scene
                .brick
                .create_bucket(&at.bucket, NewBucket::default())
                .await;
            let mut staged = scene
                .brick
                .stage(&at, StageOptions::default())
                .await
                .unwrap();
            staged
                .write(Bytes::from(vec![7; *len_bytes]))
                .await
                .unwrap();
            staged.commit(CommitOptions::default()).await.unwrap();
        }
        scene
    }

    fn path(&self, at: &Locator) -> PathBuf {
        self.dir
            .path()
            .join(at.bucket.as_str())
            .join(at.key.as_str())
    }

    /// Another byte, with the time put back; known to the brick as its own doing, as rot is that
    /// moves no time.
    fn rot(&self, at: &Locator) {
        self.change(at);
        let found = self.brick.inner.tree.find(at).unwrap().unwrap();
        self.brick.inner.stamps.note(&found.facts);
    }

    fn change(&self, at: &Locator) {
        let file = std::fs::File::options()
            .write(true)
            .open(self.path(at))
            .unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.write_at(b"x", 0).unwrap();
        file.set_modified(modified).unwrap();
    }

    async fn verdict(&self, at: &Locator) -> Option<Verdict> {
        let (brick, at) = (self.brick.clone(), at.clone());
        let verify = move || brick.verify(&at, &mut |_| true).unwrap();
        let found = tokio::task::spawn_blocking(verify).await.unwrap();
        found.map(|(_, verdict)| verdict)
    }

    async fn scrub(&self, from: Position, most: usize) -> (bool, Noted) {
        let brick = self.brick.clone();
        let scrub = move || {
            let mut noted = Noted {
                most,
                ..Noted::default()
            };
            let ended = brick.scrub(&from, &mut noted).unwrap();
            (ended, noted)
        };
        tokio::task::spawn_blocking(scrub).await.unwrap()
    }
}

#[derive(Default)]
struct Noted {
    seen: Vec<Scrubbed>,
    read_bytes: u64,
    most: usize,
}

impl Noted {
    fn keys(&self) -> Vec<&str> {
        self.seen
            .iter()
            .map(|object| object.at.key.as_str())
            .collect()
    }
}

impl Scrubbing for Noted {
    fn may_read(&mut self, len_bytes: u64) -> bool {
        self.read_bytes += len_bytes;
        true
    }

    fn scrubbed(&mut self, object: Scrubbed) -> bool {
        self.seen.push(object);
        self.seen.len() < self.most
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_rotted_are_told_from_bytes_that_were_changed() {
    let scene = Scene::new(&[
        ("b", "sound", 9),
        ("b", "rotten", 3_000_000),
        ("b", "changed", 9),
    ])
    .await;
    scene.rot(&at("b", "rotten"));
    scene.change(&at("b", "changed"));
    assert_eq!(scene.verdict(&at("b", "sound")).await, Some(Verdict::Sound));
    assert_eq!(
        scene.verdict(&at("b", "rotten")).await,
        Some(Verdict::Rotten)
    );
    assert_eq!(
        scene.verdict(&at("b", "changed")).await,
        Some(Verdict::Changed)
    );
    assert_eq!(scene.verdict(&at("b", "absent")).await, None);
    let before = std::fs::metadata(scene.path(&at("b", "rotten")))
        .unwrap()
        .ctime_nsec();
    scene.verdict(&at("b", "rotten")).await;
    let after = std::fs::metadata(scene.path(&at("b", "rotten")))
        .unwrap()
        .ctime_nsec();
    assert_eq!(before, after, "a scrub changes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_a_digest_is_passed_over() {
    let scene = Scene::new(&[("b", "known", 9)]).await;
    std::fs::write(scene.dir.path().join("b/dropped in"), "bytes").unwrap();
    assert_eq!(
        scene.verdict(&at("b", "dropped in")).await,
        Some(Verdict::Skipped)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_sees_every_object_once_and_goes_on_where_it_was() {
    let objects = [
        ("a", "x", 10),
        ("b", "d/e", 0),
        ("b", "d/f", 2_500_000),
        ("c", "z", 1),
    ];
    let scene = Scene::new(&objects).await;
    scene.rot(&at("c", "z"));
    let (ended, all) = scene.scrub(Position::default(), usize::MAX).await;
    assert!(ended);
    assert_eq!(all.keys(), ["x", "d/e", "d/f", "z"]);
    assert_eq!(all.seen[3].verdict, Verdict::Rotten);
    assert_eq!(all.read_bytes, 2_500_011);
    let (ended, first) = scene.scrub(Position::default(), 2).await;
    assert_eq!((ended, first.keys()), (false, vec!["x", "d/e"]));
    let from = Position {
        bucket: "b".to_owned(),
        key: "d/e".to_owned(),
    };
    let (ended, rest) = scene.scrub(from, usize::MAX).await;
    assert_eq!((ended, rest.keys()), (true, vec!["d/f", "z"]));
}
