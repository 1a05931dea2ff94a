//! The watch on a real directory tree, where the kernel tells: as root.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::disk::Disk;
use super::super::{Brick, BrickOptions, open_disk};
use super::Source;
use crate::files::{FilePath, FilesWatcher};
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;
use crate::volume::{ListQuery, NewBucket, Volume};

#[derive(Default)]
struct Heard {
    names: Mutex<Vec<FilePath>>,
    inos: Mutex<Vec<u64>>,
    all: Mutex<usize>,
}

impl FilesWatcher for Heard {
    fn name_changed(&self, path: &FilePath) {
        self.names.lock().unwrap().push(path.clone());
    }

    fn file_changed(&self, ino: u64) {
        self.inos.lock().unwrap().push(ino);
    }

    fn all_changed(&self) {
        *self.all.lock().unwrap() += 1;
    }
}

struct Scene {
    brick: Brick,
    heard: Arc<Heard>,
    _watcher: Arc<dyn FilesWatcher>,
    dir: tempfile::TempDir,
}

fn bucket() -> BucketName {
    BucketName::parse("b").unwrap()
}

fn path(text: &str) -> FilePath {
    text.split('/').fold(FilePath::root(), |path, name| {
        path.join(OsStr::new(name)).unwrap()
    })
}

impl Scene {
    /// None where the kernel tells nobody like us.
    async fn new() -> Option<Self> {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let disk = open_disk(dir.path()).unwrap();
        if Source::open(&disk.root()).is_err() {
            eprintln!("the kernel does not tell: not tried");
            return None;
        }
        let options = BrickOptions {
            scan_interval: Duration::from_secs(3_600),
            ..BrickOptions::new(dir.path())
        };
        let brick = Brick::open(options).await.unwrap();
        brick
            .create_bucket(&bucket(), NewBucket::default())
            .await
            .unwrap();
        let mut progress = brick.progress();
        progress.wait_for(|progress| progress.done).await.unwrap();
        let heard = Arc::new(Heard::default());
        let watcher: Arc<dyn FilesWatcher> = heard.clone();
        brick.inner.watch(&watcher);
        Some(Self {
            brick,
            heard,
            _watcher: watcher,
            dir,
        })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join("b").join(key)
    }

    async fn keys(&self) -> Vec<String> {
        let query = ListQuery {
            limit: 1_000,
            ..ListQuery::default()
        };
        let page = self.brick.list(&bucket(), &query).await.unwrap();
        let keys = page.objects.iter();
        keys.map(|entry| entry.key.as_str().to_owned()).collect()
    }

    async fn until(&self, what: &str, mut is_so: impl AsyncFnMut(&Self) -> bool) {
        for _ in 0..300 {
            if is_so(self).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never came about: {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_hand_does_is_listed_and_told() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    std::fs::create_dir(scene.path("dir")).unwrap();
    std::fs::write(scene.path("dir/k"), b"1").unwrap();
    // All of this process is ours; another hand has another process.
    let as_other = |command: &str| {
        let done = std::process::Command::new("sh")
            .current_dir(scene.path(""))
            .args(["-c", command])
            .status();
        assert!(done.unwrap().success(), "{command}");
    };
    as_other("mkdir -p made && echo 1 > made/k && echo 2 > plain");
    scene
        .until("new files are listed", async |scene| {
            scene.keys().await == ["made/k", "plain"]
        })
        .await;
    scene
        .until("new names are told", async |scene| {
            let names = scene.heard.names.lock().unwrap();
            ["b/made", "b/made/k", "b/plain"]
                .iter()
                .all(|name| names.contains(&path(name)))
        })
        .await;
    assert!(!scene.heard.names.lock().unwrap().contains(&path("b/dir/k")));
    as_other("mv made moved && rm plain && chmod 600 moved/k");
    scene
        .until("old names are gone", async |scene| {
            scene.keys().await == ["moved/k"]
        })
        .await;
    let at = Locator::new(bucket(), ObjectKey::parse("moved/k").unwrap());
    let ino = scene.brick.inner.tree.find(&at).unwrap().unwrap().facts.ino;
    scene
        .until("the chmod is told", async |scene| {
            scene.heard.inos.lock().unwrap().contains(&ino)
        })
        .await;
    assert_eq!(*scene.heard.all.lock().unwrap(), 0);
    scene.brick.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_brick_is_told_nothing_and_its_threads_end() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    let inner = Arc::downgrade(&scene.brick.inner);
    scene.brick.close().await.unwrap();
    let Scene { brick, dir, .. } = scene;
    drop(brick);
    for _ in 0..300 {
        if inner.strong_count() == 0 {
            drop(dir);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("a thread keeps the brick");
}
