use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::super::{Brick, BrickOptions, HashPolicy};
use crate::files::{FilePath, FilesWatcher};
use crate::name::{BucketName, ObjectKey};
use crate::object::{Locator, Precondition};
use crate::volume::{AttrsPatch, CommitOptions, NewBucket, StageOptions, Staged, Volume};

/// Keeps what it hears.
#[derive(Default)]
struct Ear(Mutex<BTreeSet<String>>);

impl Ear {
    fn hear(&self, what: String) {
        self.0.lock().unwrap().insert(what);
    }

    /// What was heard since the last call; files that are not asked for are left out.
    fn heard(&self, inos: &[u64]) -> Vec<String> {
        let heard = std::mem::take(&mut *self.0.lock().unwrap());
        let is_asked = |what: &String| match what.strip_prefix('#') {
            Some(ino) => inos.contains(&ino.parse().unwrap()),
            None => true,
        };
        heard.into_iter().filter(is_asked).collect()
    }
}

impl FilesWatcher for Ear {
    fn name_changed(&self, path: &FilePath) {
        self.hear(path.as_os_str().to_string_lossy().into_owned());
    }

    fn file_changed(&self, ino: u64) {
        self.hear(format!("#{ino}"));
    }

    fn all_changed(&self) {
        self.hear("all".to_owned());
    }
}

struct Scene {
    brick: Brick,
    dir: tempfile::TempDir,
    ear: Arc<Ear>,
}

fn at(key: &str) -> Locator {
    let bucket = BucketName::parse("b").unwrap();
    Locator::new(bucket, ObjectKey::parse(key).unwrap())
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = BrickOptions {
            hash: HashPolicy::Never.into(),
            scan_interval: Duration::from_secs(3_600),
            ..BrickOptions::new(dir.path())
        };
        let brick = Brick::open(options).await.unwrap();
        let ear = Arc::new(Ear::default());
        let watcher: Arc<dyn FilesWatcher> = Arc::clone(&ear) as _;
        brick.inner.watch(&watcher);
        let scene = Self { brick, dir, ear };
        scene
            .brick
            .create_bucket(&at("k").bucket, NewBucket::default())
            .await
            .unwrap();
        scene
    }

    async fn put(&self, key: &str, bytes: &'static [u8]) {
        let staged = self.brick.stage(&at(key), StageOptions::default()).await;
        let mut staged = staged.unwrap();
        staged.write(Bytes::from_static(bytes)).await.unwrap();
        staged.commit(CommitOptions::default()).await.unwrap();
    }

    async fn remove(&self, key: &str) {
        let none = Precondition::default();
        self.brick.remove(&at(key), &none).await.unwrap();
    }

    fn ino(&self, path: &str) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(self.dir.path().join(path)).unwrap().ino()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_name_that_a_door_changes_is_told() {
    let scene = Scene::new().await;
    assert_eq!(scene.ear.heard(&[]), ["b"]);
    scene.put("d/e/k", b"1").await;
    assert_eq!(scene.ear.heard(&[]), ["b/d", "b/d/e", "b/d/e/k"]);
    let old = scene.ino("b/d/e/k");
    scene.put("d/e/k", b"2").await;
    // Whoever has the old one open sees that it lost its name.
    assert_eq!(
        scene.ear.heard(&[old]),
        [format!("#{old}"), "b/d/e/k".to_owned()]
    );
    scene.remove("d/e/k").await;
    assert_eq!(scene.ear.heard(&[]), ["b/d", "b/d/e", "b/d/e/k"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_goes_to_its_shelter_and_comes_back_is_told() {
    let scene = Scene::new().await;
    scene.put("a", b"1").await;
    let ino = scene.ino("b/a");
    scene.ear.heard(&[]);
    scene.put("a/b", b"2").await;
    let sheltered = [format!("#{ino}"), "b/a".to_owned(), "b/a/b".to_owned()];
    assert_eq!(scene.ear.heard(&[ino]), sheltered);
    scene.remove("a/b").await;
    assert_eq!(scene.ear.heard(&[ino]), sheltered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_markers_and_buckets_are_told() {
    let scene = Scene::new().await;
    scene.put("k", b"1").await;
    let ino = scene.ino("b/k");
    scene.ear.heard(&[]);
    let patch = AttrsPatch {
        touch: true,
        ..AttrsPatch::default()
    };
    let none = Precondition::default();
    scene.brick.set_attrs(&at("k"), patch, &none).await.unwrap();
    assert_eq!(scene.ear.heard(&[ino]), [format!("#{ino}")]);
    scene.put("m/", b"").await;
    let marker = scene.ino("b/m");
    let heard = scene.ear.heard(&[marker]);
    assert!(heard.contains(&"b/m".to_owned()) && heard.contains(&format!("#{marker}")));
    scene.remove("m/").await;
    scene.remove("k").await;
    assert_eq!(scene.ear.heard(&[]), ["b/k", "b/m"]);
    std::fs::create_dir_all(scene.dir.path().join("b/empty/inner")).unwrap();
    scene.brick.delete_bucket(&at("k").bucket).await.unwrap();
    assert_eq!(scene.ear.heard(&[]), ["b", "b/empty", "b/empty/inner"]);
}

/// A failed precondition changes nothing, so nothing is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_did_not_change_is_not_told() {
    let scene = Scene::new().await;
    scene.put("k", b"1").await;
    scene.ear.heard(&[]);
    scene.remove("other").await;
    scene.brick.stat(&at("k")).await.unwrap();
    assert!(scene.ear.heard(&[]).is_empty());
}
