//! Claims: one holder, and none that was overtaken.

use std::sync::Arc;
use std::time::Duration;

use super::{Claims, Places};
use crate::brick::disk::{Disk, DiskFile};
use crate::brick::tree::Tree;
use crate::error::StoreError;
use crate::shared::disk::SharedDisk;
use crate::shared::presence::own_dir;

struct Scene {
    disk: Arc<SharedDisk>,
    tree: Tree<SharedDisk>,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let probe = dir.path().join(".portico/staging/g-probe");
        std::fs::create_dir_all(&probe).unwrap();
        let disk = Arc::new(SharedDisk::open(dir.path(), &probe, 0).unwrap());
        let tree = Tree::open(Arc::clone(&disk)).unwrap();
        Self {
            disk,
            tree,
            _dir: dir,
        }
    }

    fn gateway(&self, instance: &str, patience: Duration) -> Arc<Claims> {
        let places = Places {
            claims: own_dir(&self.disk, "claims").unwrap(),
            staging: Arc::clone(&self.tree.own.staging),
            broken: own_dir(&self.disk, "broken").unwrap(),
        };
        Arc::new(Claims::new(
            Arc::clone(&self.disk),
            places,
            instance,
            patience,
        ))
    }
}

const SOON: Duration = Duration::from_millis(30);

#[test]
fn a_claim_has_one_holder_at_a_time() {
    let scene = Scene::new();
    let inside = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for instance in ["a", "b", "c"] {
            let claims = scene.gateway(instance, Duration::from_secs(60));
            let inside = &inside;
            scope.spawn(move || {
                for _ in 0..50 {
                    let stage = claims.stage().unwrap();
                    stage.hold().unwrap();
                    let claim = claims.acquire(stage, "k").unwrap();
                    let before = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    assert_eq!(before, 0);
                    std::thread::yield_now();
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    drop(claim);
                }
            });
        }
    });
}

#[test]
fn a_holder_that_was_overtaken_publishes_nothing() {
    let scene = Scene::new();
    let (asleep, other) = (scene.gateway("a", SOON), scene.gateway("b", SOON));
    let stage = asleep.stage().unwrap();
    let (entry, file) = stage.create().unwrap();
    file.write_at(0, b"late").unwrap();
    let late = asleep.acquire(stage, "k").unwrap();

    let stage = other.stage().unwrap();
    let (own, file) = stage.create().unwrap();
    file.write_at(0, b"new").unwrap();
    let claim = other.acquire(stage, "k").unwrap();
    let root = scene.disk.root();
    // Woken while the other has the claim, and after it.
    assert!(late.place(&entry, &root, "file").is_err());
    claim.place(&own, &root, "file").unwrap();
    drop(claim);
    assert!(late.place(&entry, &root, "file").is_err());
    assert!(late.place_new(&entry, &root, "another").is_err());
    assert!(matches!(late.renew(), Err(StoreError::Conflict)));
    let file = scene.disk.open(&root, "file").unwrap();
    assert_eq!(file.read_at(0, 9).unwrap(), b"new");
}

#[test]
fn a_holder_that_was_overtaken_removes_nothing() {
    let scene = Scene::new();
    let (asleep, other) = (scene.gateway("a", SOON), scene.gateway("b", SOON));
    let root = scene.disk.root();
    scene.disk.open_own(&root, "file", true).unwrap();
    let stage = asleep.stage().unwrap();
    stage.hold().unwrap();
    let late = asleep.acquire(stage, "k").unwrap();
    let stage = other.stage().unwrap();
    stage.hold().unwrap();
    let claim = other.acquire(stage, "k").unwrap();
    assert!(late.take(&root, "file").is_err());
    // It gives up what is no longer its own.
    drop(late);
    assert!(claim.renew().is_ok());
    drop(claim);
    assert!(scene.disk.stat(&root, "file").is_ok());
}

#[test]
fn a_claim_that_is_renewed_is_not_broken() {
    let scene = Scene::new();
    let patience = Duration::from_millis(200);
    let (busy, other) = (scene.gateway("a", patience), scene.gateway("b", patience));
    let stage = busy.stage().unwrap();
    stage.hold().unwrap();
    let claim = busy.acquire(stage, "k").unwrap();
    let waiting = std::thread::spawn(move || {
        let stage = other.stage().unwrap();
        stage.hold().unwrap();
        other.acquire(stage, "k").map(drop)
    });
    for _ in 0..40 {
        std::thread::sleep(Duration::from_millis(10));
        claim.renew().unwrap();
    }
    assert!(!waiting.is_finished());
    drop(claim);
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_dropped_stage_leaves_nothing() {
    let scene = Scene::new();
    let claims = scene.gateway("a", SOON);
    let stage = claims.stage().unwrap();
    stage.create().unwrap();
    drop(stage);
    let staging = scene.disk.open_dir(&scene.tree.own.staging, "g-a").unwrap();
    let mut names = Vec::new();
    scene
        .disk
        .read_dir(&staging, &mut |entry| {
            names.push(entry.name);
            true
        })
        .unwrap();
    assert_eq!(names, Vec::<String>::new());
}
