//! Acts that the permissions of files allow and forbid. As root only: nobody else can be another.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::super::osdisk::require_impersonation;
use super::super::{Brick, BrickOptions};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;
use crate::permission::{Act, Credentials};
use crate::volume::{CommitOptions, StageOptions, Staged, Volume};

const ALICE: u32 = 4_001;
const BOB: u32 = 4_002;
const STAFF: u32 = 4_500;

struct Scene {
    brick: Brick,
    dir: tempfile::TempDir,
}

fn bucket() -> BucketName {
    BucketName::parse("b").unwrap()
}

fn at(key: &str) -> Locator {
    Locator::new(bucket(), ObjectKey::parse(key).unwrap())
}

fn user(uid: u32) -> Credentials {
    Credentials {
        uid,
        gid: uid,
        groups: Vec::new(),
    }
}

/// Whether it was permitted. Every other outcome than yes and no is a failure.
fn is_permitted(answer: Result<()>) -> bool {
    match answer {
        Ok(()) => true,
        Err(StoreError::AccessDenied) => false,
        Err(other) => panic!("{other}"),
    }
}

impl Scene {
    /// A bucket that anyone may do everything in; none where this process cannot be another.
    async fn new() -> Option<Self> {
        if let Err(e) = require_impersonation() {
            eprintln!("skipped: only root can ask on behalf of others ({e})");
            return None;
        }
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let brick = Brick::open(BrickOptions::new(dir.path())).await.unwrap();
        let scene = Self { brick, dir };
        std::fs::create_dir(scene.path("")).unwrap();
        scene.own(scene.dir.path(), 0, 0o755);
        scene.own(&scene.path(""), 0, 0o777);
        Some(scene)
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join("b").join(key)
    }

    fn own(&self, path: &Path, id: u32, mode: u32) {
        chown(path, Some(id), Some(id)).unwrap();
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    async fn put(&self, key: &str, bytes: &'static [u8]) {
        let staged = self.brick.stage(&at(key), StageOptions::default()).await;
        let mut staged = staged.unwrap();
        staged.write(Bytes::from_static(bytes)).await.unwrap();
        staged.commit(CommitOptions::default()).await.unwrap();
    }

    async fn may(&self, who: &Credentials, act: Act<'_, <Brick as Volume>::Object>) -> bool {
        is_permitted(self.brick.permit(who, act).await)
    }

    async fn may_read(&self, who: &Credentials, key: &str) -> bool {
        let at = at(key);
        let object = self.brick.open(&at).await.ok();
        let object = object.as_ref();
        self.may(who, Act::Read { at: &at, object }).await
    }

    /// r, w, d and a: whether someone may read, replace and remove an object and change its
    /// attributes.
    async fn rights(&self, who: &Credentials, key: &str) -> String {
        let at = at(key);
        let answers = [
            ('r', self.may_read(who, key).await),
            ('w', self.may(who, Act::Replace(&at)).await),
            ('d', self.may(who, Act::Remove(&at)).await),
            ('a', self.may(who, Act::Change(&at)).await),
        ];
        let granted = answers.iter().filter(|(_, granted)| *granted);
        granted.map(|(right, _)| right).collect()
    }

    async fn may_list(&self, who: &Credentials, prefix: &str) -> bool {
        let bucket = &bucket();
        self.may(who, Act::List { bucket, prefix }).await
    }
}

#[tokio::test]
async fn a_files_mode_decides_by_user_group_and_further_groups() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    scene.put("d/k", b"x").await;
    scene.own(&scene.path("d"), ALICE, 0o755);
    scene.own(&scene.path("d/k"), ALICE, 0o640);
    chown(scene.path("d/k"), None, Some(STAFF)).unwrap();
    let staff = Credentials {
        groups: vec![7, STAFF],
        ..user(BOB)
    };
    for (who, rights) in [
        (user(ALICE), "rwda"),
        (user(BOB), ""),
        (staff, "r"),
        (user(0), "rwda"),
    ] {
        assert_eq!(scene.rights(&who, "d/k").await, rights, "{who:?}");
    }
    // Whoever may write the directory may remove the file, and not replace or change it.
    scene.own(&scene.path("d"), ALICE, 0o777);
    assert_eq!(scene.rights(&user(BOB), "d/k").await, "d");
    scene.own(&scene.path("d/k"), ALICE, 0o646);
    assert_eq!(scene.rights(&user(BOB), "d/k").await, "rwda");
    // Nothing is remembered.
    scene.own(&scene.path("d/k"), ALICE, 0o600);
    assert_eq!(scene.rights(&user(BOB), "d/k").await, "d");
}

#[tokio::test]
async fn every_directory_on_the_way_must_let_itself_be_searched() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    scene.put("a/b/k", b"x").await;
    for dir in ["a", "a/b"] {
        scene.own(&scene.path(dir), 0, 0o777);
    }
    scene.own(&scene.path("a/b/k"), 0, 0o666);
    let bob = user(BOB);
    assert_eq!(scene.rights(&bob, "a/b/k").await, "rwda");
    scene.own(&scene.path("a"), 0, 0o766);
    assert_eq!(scene.rights(&bob, "a/b/k").await, "");
    // Also for what is not there, and for what is yet to be made.
    assert_eq!(scene.rights(&bob, "a/b/none").await, "");
    assert_eq!(scene.rights(&bob, "a/new/none").await, "");
    assert!(!scene.may_list(&bob, "a/b/").await);
    scene.own(&scene.path("a"), 0, 0o711);
    assert_eq!(scene.rights(&bob, "a/b/k").await, "rwda");
    assert_eq!(scene.rights(&bob, "a/new/none").await, "ra");
    assert!(scene.may_list(&bob, "a/b/").await);
    scene.own(&scene.path(""), 0, 0o700);
    assert_eq!(scene.rights(&bob, "a/b/k").await, "");
    assert_eq!(scene.rights(&bob, "none//at-all").await, "");
    assert!(!scene.may_list(&bob, "").await);
}

#[tokio::test]
async fn a_listing_needs_the_deepest_directory_of_its_prefix() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    scene.put("shut/open/k", b"x").await;
    scene.own(&scene.path("shut"), 0, 0o711);
    scene.own(&scene.path("shut/open"), 0, 0o755);
    let bob = user(BOB);
    for (prefix, answer) in [
        ("", true),
        ("shut", true),
        ("shut/", false),
        ("shut/o", false),
        ("shut/open/", true),
        ("shut/open/none/at/all", true),
        ("shut/none/", false),
        ("shut//open/", false),
        ("none/", true),
    ] {
        assert_eq!(scene.may_list(&bob, prefix).await, answer, "{prefix:?}");
    }
    let gone = &BucketName::parse("gone").unwrap();
    let act = Act::List {
        bucket: gone,
        prefix: "",
    };
    let answer = scene.brick.permit(&bob, act).await;
    assert!(matches!(answer, Err(StoreError::NoSuchBucket)));
}

#[tokio::test]
async fn in_a_sticky_directory_only_ones_own_is_taken() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    scene.put("s/k", b"x").await;
    scene.own(&scene.path("s"), 0, 0o1777);
    scene.own(&scene.path("s/k"), ALICE, 0o666);
    assert_eq!(scene.rights(&user(ALICE), "s/k").await, "rwda");
    assert_eq!(scene.rights(&user(BOB), "s/k").await, "ra");
    assert_eq!(scene.rights(&user(0), "s/k").await, "rwda");
    // It would be moved aside for a directory.
    assert_eq!(scene.rights(&user(BOB), "s/k/below").await, "ra");
    assert_eq!(scene.rights(&user(BOB), "s/k/").await, "rda");
    assert_eq!(scene.rights(&user(BOB), "s/new").await, "rwda");
    // Whose the directory is may take everything.
    scene.own(&scene.path("s"), BOB, 0o1777);
    assert_eq!(scene.rights(&user(BOB), "s/k").await, "rwda");
}

#[tokio::test]
async fn an_object_that_stands_aside_is_asked_for_by_its_file() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    // One whose key is no path, and one whose name a directory has.
    scene.put("d//k", b"escaped").await;
    scene.put("a", b"sheltered").await;
    scene.put("a/b", b"x").await;
    let keys = scene.dir.path().join(".portico/keys/b");
    let mut count = 0;
    for entry in std::fs::read_dir(keys).unwrap() {
        scene.own(&entry.unwrap().path(), ALICE, 0o644);
        count += 1;
    }
    assert_eq!(count, 2);
    for key in ["d//k", "a"] {
        assert_eq!(scene.rights(&user(ALICE), key).await, "rwda", "{key}");
        assert_eq!(scene.rights(&user(BOB), key).await, "rd", "{key}");
    }
    scene.own(&scene.path(""), 0, 0o1777);
    for key in ["d//k", "a"] {
        assert_eq!(scene.rights(&user(ALICE), key).await, "rwda", "{key}");
        assert_eq!(scene.rights(&user(BOB), key).await, "r", "{key}");
    }
    scene.own(&scene.path(""), 0, 0o755);
    for key in ["d//k", "a"] {
        assert_eq!(scene.rights(&user(ALICE), key).await, "ra", "{key}");
    }
}

#[tokio::test]
async fn a_marker_is_asked_for_by_its_directory() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    scene.put("m/", b"").await;
    scene.own(&scene.path("m"), ALICE, 0o755);
    assert_eq!(scene.rights(&user(ALICE), "m/").await, "rwda");
    assert_eq!(scene.rights(&user(BOB), "m/").await, "rd");
    scene.own(&scene.path("m"), ALICE, 0o700);
    scene.own(&scene.path(""), 0, 0o1777);
    assert_eq!(scene.rights(&user(BOB), "m/").await, "");
    scene.own(&scene.path(""), 0, 0o755);
    assert_eq!(scene.rights(&user(ALICE), "m/").await, "rwa");
}

#[tokio::test]
async fn the_way_of_a_symbolic_link_is_searched_too() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    scene.put("shut/k", b"x").await;
    scene.own(&scene.path("shut"), 0, 0o700);
    scene.own(&scene.path("shut/k"), 0, 0o666);
    symlink("shut/k", scene.path("link")).unwrap();
    symlink("shut", scene.path("way")).unwrap();
    for key in ["link", "way/k"] {
        assert_eq!(scene.rights(&user(BOB), key).await, "", "{key}");
    }
    scene.own(&scene.path("shut"), 0, 0o777);
    for key in ["link", "way/k"] {
        assert_eq!(scene.rights(&user(BOB), key).await, "rwda", "{key}");
    }
}

#[tokio::test]
async fn what_was_opened_is_what_is_asked_for() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    scene.put("k", b"secret").await;
    scene.own(&scene.path("k"), ALICE, 0o600);
    let at = at("k");
    let opened = scene.brick.open(&at).await.unwrap();
    scene.put("k", b"public").await;
    let object = Some(&opened);
    assert!(scene.may_read(&user(BOB), "k").await);
    let bob = user(BOB);
    assert!(!scene.may(&bob, Act::Read { at: &at, object }).await);
}
