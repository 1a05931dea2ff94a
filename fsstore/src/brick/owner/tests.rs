//! What a door makes, beside what the kernel makes in the same place.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{XattrFlags, getxattr, setxattr};

use super::super::acl::{ACCESS_ACL, DEFAULT_ACL};
use super::super::osdisk::may_give_files_away;
use super::super::{Brick, BrickOptions};
use crate::name::{BucketName, ObjectKey, PartNumber};
use crate::object::{FileOwner, Locator, PartClaim, Precondition};
use crate::volume::{
    AttrsPatch, CommitOptions, ComposeOptions, NewBucket, NewUpload, StageOptions, Staged,
    StagedPart, Volume,
};

/// u::rwx, user 1234:rw-, g::r-x, mask rwx, o::--- (see `acl`).
const ACL: &[u8] = &[
    2, 0, 0, 0, //
    1, 0, 7, 0, 255, 255, 255, 255, //
    2, 0, 6, 0, 210, 4, 0, 0, //
    4, 0, 5, 0, 255, 255, 255, 255, //
    16, 0, 7, 0, 255, 255, 255, 255, //
    32, 0, 0, 0, 255, 255, 255, 255,
];

struct Scene {
    brick: Brick,
    dir: tempfile::TempDir,
    owner: FileOwner,
}

fn bucket() -> BucketName {
    BucketName::parse("b").unwrap()
}

fn at(key: &str) -> Locator {
    Locator::new(bucket(), ObjectKey::parse(key).unwrap())
}

/// Someone else, where this process may give files away; else ourselves.
fn owner(umask: u32) -> FileOwner {
    let other = may_give_files_away();
    FileOwner {
        uid: other.then_some(4_321),
        gid: other.then_some(8_765),
        umask: Some(umask),
    }
}

impl Scene {
    async fn new(umask: u32) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let brick = Brick::open(BrickOptions::new(dir.path())).await.unwrap();
        let owner = owner(umask);
        let new = NewBucket {
            file_owner: owner,
            ..NewBucket::default()
        };
        brick.create_bucket(&bucket(), new).await.unwrap();
        Self { brick, dir, owner }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join("b").join(key)
    }

    async fn put(&self, key: &str, len_bytes: usize, file_owner: FileOwner) {
        let options = StageOptions::default();
        let mut staged = self.brick.stage(&at(key), options).await.unwrap();
        let bytes = Bytes::from(vec![7; len_bytes]);
        staged.write(bytes).await.unwrap();
        let options = CommitOptions {
            file_owner,
            ..CommitOptions::default()
        };
        staged.commit(options).await.unwrap();
    }

    /// Puts `key` as the owner, small and large, and by parts.
    async fn put_all_ways(&self, prefix: &str) -> Vec<String> {
        let keys: Vec<_> = ["small", "large", "parts"]
            .iter()
            .map(|name| format!("{prefix}{name}"))
            .collect();
        self.put(&keys[0], 5, self.owner).await;
        self.put(&keys[1], 1_000_000, self.owner).await;
        let (brick, at) = (&self.brick, at(&keys[2]));
        let new = NewUpload {
            file_owner: self.owner,
            ..NewUpload::default()
        };
        let id = brick.begin_upload(&at, new).await.unwrap().id;
        let number = PartNumber::new(1).unwrap();
        let staged = brick.stage_part(&at, &id, number, StageOptions::default());
        let mut staged = staged.await.unwrap();
        staged.write(Bytes::from_static(b"part")).await.unwrap();
        let part = staged.commit(Vec::new(), None).await.unwrap();
        let claim = PartClaim {
            number,
            etag: part.etag.as_str().to_owned(),
            checksum: None,
        };
        let claims = [claim];
        let composed = brick.compose(&at, &id, &claims, ComposeOptions::default());
        composed.await.unwrap();
        keys
    }

    fn assert_owned(&self, path: &Path, gid: Option<u32>) {
        let meta = std::fs::metadata(path).unwrap();
        let own = std::fs::metadata(self.dir.path()).unwrap();
        let expected = (
            self.owner.uid.unwrap_or(own.uid()),
            gid.or(self.owner.gid).unwrap_or(own.gid()),
        );
        assert_eq!((meta.uid(), meta.gid()), expected, "{}", path.display());
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn acl(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let len = getxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_is_its_owners_with_the_owners_umask() {
    let scene = Scene::new(0o027).await;
    for key in scene.put_all_ways("dir/below/").await {
        let path = scene.path(&key);
        assert_eq!(mode(&path), 0o640, "{key}");
        scene.assert_owned(&path, None);
    }
    for dir in ["", "dir", "dir/below"] {
        let path = scene.path(dir);
        assert_eq!(mode(&path), 0o750, "{dir}");
        scene.assert_owned(&path, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_file_is_the_new_owners() {
    let scene = Scene::new(0o077).await;
    scene.put("k", 5, FileOwner::default()).await;
    std::fs::set_permissions(scene.path("k"), PermissionsExt::from_mode(0o664)).unwrap();
    scene.put("k", 5, scene.owner).await;
    assert_eq!(mode(&scene.path("k")), 0o600);
    scene.assert_owned(&scene.path("k"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_changed_in_place_leave_the_permissions() {
    let scene = Scene::new(0o022).await;
    let patch = AttrsPatch {
        file_owner: Some(scene.owner),
        touch: true,
        ..AttrsPatch::default()
    };
    for mode_given in [None, Some(0o604)] {
        let (at, any) = (at("k"), Precondition::default());
        scene.put("k", 5, FileOwner::default()).await;
        let before = scene.brick.stat(&at).await.unwrap();
        if let Some(mode) = mode_given {
            std::fs::set_permissions(scene.path("k"), PermissionsExt::from_mode(mode)).unwrap();
        }
        let mode_before = mode(&scene.path("k"));
        let patched = scene.brick.set_attrs(&at, patch.clone(), &any).await;
        let after = scene.brick.stat(&at).await.unwrap();
        assert_eq!(patched.unwrap().etag, after.etag);
        assert_eq!(mode(&scene.path("k")), mode_before);
        scene.assert_owned(&scene.path("k"), None);
        // Giving it away casts no doubt on its tag; a chmod behind our back does.
        assert_eq!(after.etag == before.etag, mode_given.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_acl_is_handed_down_as_by_the_kernel() {
    let scene = Scene::new(0o077).await;
    let above = scene.path("above");
    std::fs::create_dir(&above).unwrap();
    setxattr(&above, DEFAULT_ACL, ACL, XattrFlags::empty()).unwrap();
    let by_kernel = above.join("by-kernel");
    let mut open = std::fs::OpenOptions::new();
    open.write(true).create_new(true).mode(0o666);
    open.open(&by_kernel).unwrap();
    let dir_by_kernel = above.join("dir-by-kernel");
    std::fs::DirBuilder::new()
        .mode(0o777)
        .create(&dir_by_kernel)
        .unwrap();
    let mut keys = scene.put_all_ways("above/").await;
    keys.extend(scene.put_all_ways("above/made/below/").await);
    for key in keys {
        let path = scene.path(&key);
        assert_eq!(mode(&path), mode(&by_kernel), "{key}");
        assert!(acl(&path, ACCESS_ACL).is_some());
        assert_eq!(acl(&path, ACCESS_ACL), acl(&by_kernel, ACCESS_ACL), "{key}");
        scene.assert_owned(&path, None);
    }
    for dir in ["above/made", "above/made/below"] {
        let path = scene.path(dir);
        assert_eq!(mode(&path), mode(&dir_by_kernel), "{dir}");
        for name in [ACCESS_ACL, DEFAULT_ACL] {
            assert_eq!(acl(&path, name), acl(&dir_by_kernel, name), "{dir} {name}");
        }
        scene.assert_owned(&path, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_group_id_directory_hands_down_its_group() {
    let scene = Scene::new(0o027).await;
    let above = scene.path("above");
    std::fs::create_dir(&above).unwrap();
    if may_give_files_away() {
        std::os::unix::fs::chown(&above, None, Some(5_555)).unwrap();
    }
    std::fs::set_permissions(&above, PermissionsExt::from_mode(0o2775)).unwrap();
    let gid = std::fs::metadata(&above).unwrap().gid();
    let mut keys = scene.put_all_ways("above/").await;
    keys.extend(scene.put_all_ways("above/made/below/").await);
    for key in keys {
        scene.assert_owned(&scene.path(&key), Some(gid));
        assert_eq!(mode(&scene.path(&key)), 0o640);
    }
    for dir in ["above/made", "above/made/below"] {
        scene.assert_owned(&scene.path(dir), Some(gid));
        assert_eq!(mode(&scene.path(dir)), 0o2750, "{dir}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_ones_is_the_servers_own() {
    let scene = Scene::new(0o077).await;
    scene.put("dir/k", 5, FileOwner::default()).await;
    let made = scene.dir.path().join("made-here");
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&made)
        .unwrap();
    let (meta, own) = (
        std::fs::metadata(scene.path("dir/k")).unwrap(),
        std::fs::metadata(&made).unwrap(),
    );
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode()),
        (own.uid(), own.gid(), own.mode())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn staged_bytes_are_out_of_others_reach() {
    let scene = Scene::new(0o022).await;
    assert_eq!(mode(&scene.dir.path().join(".portico")), 0o700);
}
