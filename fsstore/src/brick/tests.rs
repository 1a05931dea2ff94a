//! The brick against its own directory: what doors do is seen in the tree, and the reverse.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use super::{Brick, BrickOptions};
use crate::error::StoreError;
use crate::name::{BucketName, ObjectKey, PartNumber};
use crate::object::{Locator, ObjectInfo, PartClaim, Precondition};
use crate::volume::{
    AttrsPatch, CommitOptions, ComposeOptions, Durability, ListQuery, NewBucket, NewUpload, Object,
    StageOptions, Staged, StagedPart, Volume,
};

struct TempBrick {
    brick: Brick,
    dir: tempfile::TempDir,
}

fn bucket() -> BucketName {
    BucketName::parse("b").unwrap()
}

fn at(key: &str) -> Locator {
    Locator::new(bucket(), ObjectKey::parse(key).unwrap())
}

impl TempBrick {
    async fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let brick = Brick::open(options_of(&dir)).await.unwrap();
        brick
            .create_bucket(&bucket(), NewBucket::default())
            .await
            .unwrap();
        Self { brick, dir }
    }

    async fn reopened(self) -> Self {
        self.brick.close().await.unwrap();
        let Self { brick, dir } = self;
        drop(brick);
        let brick = Brick::open(options_of(&dir)).await.unwrap();
        Self { brick, dir }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.path().join("b").join(key)
    }

    async fn put(&self, key: &str, bytes: &[u8]) -> ObjectInfo {
        let mut staged = self
            .brick
            .stage(&at(key), StageOptions::default())
            .await
            .unwrap();
        for chunk in bytes.chunks(50_000) {
            staged.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        staged.commit(CommitOptions::default()).await.unwrap()
    }

    async fn get(&self, key: &str) -> Vec<u8> {
        let object = self.brick.open(&at(key)).await.unwrap();
        object
            .read(0..object.info().len_bytes)
            .await
            .unwrap()
            .to_vec()
    }

    async fn keys(&self) -> Vec<String> {
        let query = ListQuery {
            limit: 1_000,
            ..ListQuery::default()
        };
        let page = self.brick.list(&bucket(), &query).await.unwrap();
        page.objects
            .into_iter()
            .map(|entry| entry.key.as_str().to_owned())
            .collect()
    }

    async fn eventually(&self, what: &str, mut is_so: impl AsyncFnMut(&Self) -> bool) {
        for _ in 0..100 {
            if is_so(self).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("never came about: {what}");
    }
}

/// Without the watch, which passes over what this process does: and it is the one that makes
/// files behind the brick's back here.
fn options_of(dir: &tempfile::TempDir) -> BrickOptions {
    BrickOptions {
        watch: false,
        ..BrickOptions::new(dir.path())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_a_file_with_its_bytes() {
    let brick = TempBrick::new().await;
    for len in [0, 5, 200_000, 3_000_000] {
        let bytes: Vec<u8> = (0..len).map(|i: u32| i as u8).collect();
        let info = brick.put("dir/key", &bytes).await;
        assert_eq!(info.len_bytes, u64::from(len));
        assert_eq!(std::fs::read(brick.path("dir/key")).unwrap(), bytes);
        assert_eq!(brick.get("dir/key").await, bytes);
        assert_eq!(brick.brick.stat(&at("dir/key")).await.unwrap(), info);
    }
    brick
        .brick
        .remove(&at("dir/key"), &Precondition::default())
        .await
        .unwrap();
    assert!(
        !brick.path("dir").exists(),
        "the directory goes with its last key"
    );
    assert!(brick.path("").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_and_keys_below_it_both_stand() {
    let brick = TempBrick::new().await;
    brick.put("a", b"short").await;
    brick.put("a/b", b"long").await;
    assert_eq!(brick.get("a").await, b"short");
    assert_eq!(brick.get("a/b").await, b"long");
    assert!(brick.path("a").is_dir());
    assert_eq!(brick.keys().await, ["a", "a/b"]);
    brick
        .brick
        .remove(&at("a/b"), &Precondition::default())
        .await
        .unwrap();
    assert!(brick.path("a").is_file(), "it is back at its path");
    assert_eq!(brick.get("a").await, b"short");
    assert_eq!(brick.keys().await, ["a"]);
    assert!(
        !brick
            .brick
            .stat(&at("a"))
            .await
            .unwrap()
            .etag
            .is_provisional()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_made_on_disk_is_listed_and_gets_its_md5() {
    let brick = TempBrick::new().await;
    std::fs::create_dir_all(brick.path("made/by")).unwrap();
    std::fs::write(brick.path("made/by/hand"), b"hello").unwrap();
    assert_eq!(brick.get("made/by/hand").await, b"hello");
    brick
        .eventually("it is listed", async |b| b.keys().await == ["made/by/hand"])
        .await;
    let md5 = "5d41402abc4b2a76b9719d911017c592";
    brick
        .eventually("its tag is its MD5", async |b| {
            b.brick
                .stat(&at("made/by/hand"))
                .await
                .unwrap()
                .etag
                .as_str()
                == md5
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_that_puts_the_time_back_voids_the_tag() {
    let brick = TempBrick::new().await;
    let info = brick.put("k", b"before").await;
    let path = brick.path("k");
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, b"after!").unwrap();
    file.set_modified(modified).unwrap();
    let now = brick.brick.stat(&at("k")).await.unwrap();
    assert_eq!(
        (now.len_bytes, now.modified),
        (info.len_bytes, info.modified)
    );
    assert_ne!(now.etag, info.etag);
    let query = ListQuery {
        limit: 10,
        ..ListQuery::default()
    };
    let page = brick.brick.list(&bucket(), &query).await.unwrap();
    assert_ne!(page.objects[0].etag, info.etag);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_touched_multipart_object_gets_its_own_tag_back() {
    let brick = TempBrick::new().await;
    let whole = upload(&brick, "big", &[vec![1; 5 << 20], vec![2; 70_000]]).await;
    assert!(whole.etag.as_str().ends_with("-2"));
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(brick.path("big"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let doubted = brick.brick.stat(&at("big")).await.unwrap();
    assert!(doubted.etag.is_provisional());
    brick
        .eventually("its own tag is back", async |b| {
            b.brick.stat(&at("big")).await.unwrap().etag == whole.etag
        })
        .await;
    let now = brick.brick.stat(&at("big")).await.unwrap();
    assert_eq!(
        now.etags_before,
        [doubted.etag],
        "what was shown goes on matching"
    );
    assert_eq!(now.part_count, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_no_object() {
    let brick = TempBrick::new().await;
    // A socket's path is limited to some 100 bytes.
    let short = tempfile::tempdir().unwrap();
    let link = short.path().join("b");
    std::os::unix::fs::symlink(brick.path(""), &link).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(link.join("s")).unwrap();
    assert!(brick.path("s").exists());
    let looked = brick.brick.stat(&at("s")).await;
    assert!(matches!(looked, Err(StoreError::NoSuchKey)));
}

async fn upload(brick: &TempBrick, key: &str, parts: &[Vec<u8>]) -> ObjectInfo {
    let upload = brick
        .brick
        .begin_upload(&at(key), NewUpload::default())
        .await
        .unwrap();
    let mut claims = Vec::new();
    for (number, bytes) in (1..).zip(parts) {
        let number = PartNumber::new(number).unwrap();
        let options = StageOptions {
            len_bytes: Some(bytes.len() as u64),
            ..StageOptions::default()
        };
        let mut staged = brick
            .brick
            .stage_part(&at(key), &upload.id, number, options)
            .await
            .unwrap();
        staged.write(Bytes::copy_from_slice(bytes)).await.unwrap();
        let part = staged.commit(Vec::new(), None).await.unwrap();
        claims.push(PartClaim {
            number,
            etag: part.etag.as_str().to_owned(),
            checksum: None,
        });
    }
    let options = ComposeOptions::default;
    let info = brick
        .brick
        .compose(&at(key), &upload.id, &claims, options())
        .await
        .unwrap();
    let again = brick
        .brick
        .compose(&at(key), &upload.id, &claims, options())
        .await
        .unwrap();
    assert_eq!(info, again);
    info
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_one_length_become_the_object_without_a_copy() {
    let brick = TempBrick::new().await;
    let parts = [vec![1; 5 << 20], vec![2; 5 << 20], vec![3; 100]];
    let whole = upload(&brick, "big", &parts).await;
    assert_eq!(std::fs::read(brick.path("big")).unwrap(), parts.concat());
    assert_eq!(brick.get("big").await, parts.concat());
    let object = brick.brick.open(&at("big")).await.unwrap();
    assert_eq!(object.parts().await.unwrap().len(), 3);
    assert!(whole.digests.crc64nvme.is_some());
    let left = std::fs::read_dir(brick.dir.path().join(".portico/uploads/b"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_object_is_readable_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let brick = TempBrick::new().await;
    brick.put("put", b"bytes").await;
    upload(&brick, "in-place", &[vec![1; 5 << 20], vec![2; 100]]).await;
    upload(&brick, "copied", &[vec![1; 100]]).await;
    let mode = |key| std::fs::metadata(brick.path(key)).unwrap().permissions();
    for key in ["in-place", "copied"] {
        assert_eq!(mode(key).mode(), mode("put").mode(), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reopened_brick_knows_its_objects() {
    let brick = TempBrick::new().await;
    let info = brick.put("x/y", b"1").await;
    brick.put("odd//key", b"2").await;
    brick.put("marker/", b"").await;
    let brick = brick.reopened().await;
    assert_eq!(brick.brick.stat(&at("x/y")).await.unwrap(), info);
    assert_eq!(brick.keys().await, ["marker/", "odd//key", "x/y"]);
    assert!(matches!(
        brick.brick.stat(&at("x")).await,
        Err(StoreError::NoSuchKey)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_whose_index_is_gone_is_listed_from_its_tree() {
    let brick = TempBrick::new().await;
    for key in ["a", "a/b", "a-b", "z/", "q//r"] {
        brick.put(key, b"1").await;
    }
    brick.brick.close().await.unwrap();
    let TempBrick { brick: old, dir } = brick;
    drop(old);
    std::fs::remove_dir_all(dir.path().join(".portico/index")).unwrap();
    let brick = TempBrick {
        brick: Brick::open(options_of(&dir)).await.unwrap(),
        dir,
    };
    assert_eq!(brick.keys().await, ["a", "a-b", "a/b", "q//r", "z/"]);
    brick
        .eventually("the index is built", async |b| {
            b.brick.progress().borrow().done
        })
        .await;
    assert_eq!(brick.keys().await, ["a", "a-b", "a/b", "q//r", "z/"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_inside_the_volume_are_followed_and_others_are_not() {
    use std::os::unix::fs::symlink;
    let brick = TempBrick::new().await;
    brick.put("real/x", b"1").await;
    symlink("real", brick.path("inside")).unwrap();
    symlink("..", brick.path("real/loop")).unwrap();
    symlink("/etc", brick.path("outside")).unwrap();
    symlink("../.portico", brick.path("reserved")).unwrap();
    assert_eq!(brick.get("inside/x").await, b"1");
    for absent in [
        "outside/passwd",
        "reserved/index/index.db",
        "outside",
        "inside",
    ] {
        let looked = brick.brick.stat(&at(absent)).await;
        assert!(matches!(looked, Err(StoreError::NoSuchKey)), "{absent}");
    }
    for obstructed in ["outside/new", "reserved/staging/new"] {
        let staged = brick
            .brick
            .stage(&at(obstructed), StageOptions::default())
            .await
            .unwrap();
        let committed = staged.commit(CommitOptions::default()).await;
        assert!(
            matches!(committed, Err(StoreError::Obstructed)),
            "{obstructed}"
        );
    }
    brick.put("inside/y", b"2").await;
    assert_eq!(std::fs::read(brick.path("real/y")).unwrap(), b"2");
    let all = ["inside/x", "inside/y", "real/x", "real/y"];
    brick
        .eventually("both ways are listed", async |b| b.keys().await == all)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relaxed_tag_is_doubted_after_an_unclean_stop_until_the_bytes_are_read() {
    let relaxed = |dir: &tempfile::TempDir| {
        let mut options = options_of(dir);
        options.durability.default = Durability::Relaxed;
        options
    };
    let TempBrick { brick, dir } = TempBrick::new().await;
    brick.close().await.unwrap();
    drop(brick);
    let brick = Brick::open(relaxed(&dir)).await.unwrap();
    let brick = TempBrick { brick, dir };
    let info = brick.put("k", b"bytes").await;
    let TempBrick { brick, dir } = brick;
    // Not closed: the intent log stays, as after a power loss.
    drop(brick);
    let brick = Brick::open(relaxed(&dir)).await.unwrap();
    let brick = TempBrick { brick, dir };
    assert!(
        brick
            .brick
            .stat(&at("k"))
            .await
            .unwrap()
            .etag
            .is_provisional()
    );
    brick
        .eventually("its tag is back", async |b| {
            b.brick.stat(&at("k")).await.unwrap().etag == info.etag
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_set_on_a_doubted_object_leave_its_multipart_tag_to_come_back() {
    use std::os::unix::fs::PermissionsExt;
    let brick = TempBrick::new().await;
    let whole = upload(&brick, "big", &[vec![1; 5 << 20], vec![2; 70_000]]).await;
    std::fs::set_permissions(brick.path("big"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let patch = AttrsPatch {
        tags: Some([("a".to_owned(), "b".to_owned())].into()),
        ..AttrsPatch::default()
    };
    let patched = brick
        .brick
        .set_attrs(&at("big"), patch, &Precondition::default())
        .await;
    assert!(patched.unwrap().etag.is_provisional());
    brick
        .eventually("its own tag is back", async |b| {
            let now = b.brick.stat(&at("big")).await.unwrap();
            now.etag == whole.etag && now.attrs.tags.len() == 1
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_made_again_has_no_key_of_the_one_removed_on_disk() {
    let brick = TempBrick::new().await;
    brick.put("a", b"1").await;
    brick.put("a/b", b"2").await;
    brick.put("odd//key", b"3").await;
    std::fs::remove_dir_all(brick.path("")).unwrap();
    brick
        .eventually("it is gone", async |b| {
            b.brick.bucket(&bucket()).await.is_err()
        })
        .await;
    brick
        .brick
        .create_bucket(&bucket(), NewBucket::default())
        .await
        .unwrap();
    assert!(brick.keys().await.is_empty());
    for key in ["a", "odd//key"] {
        let looked = brick.brick.stat(&at(key)).await;
        assert!(matches!(looked, Err(StoreError::NoSuchKey)), "{key}");
    }
    brick.brick.delete_bucket(&bucket()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_many_short_pieces_is_whole() {
    let brick = TempBrick::new().await;
    let mut staged = brick
        .brick
        .stage(&at("k"), StageOptions::default())
        .await
        .unwrap();
    let mut expected = Vec::new();
    for n in 0..30_000u32 {
        let piece = if n % 1_000 == 0 {
            vec![n as u8; 20_000]
        } else {
            vec![n as u8; 7]
        };
        expected.extend_from_slice(&piece);
        staged.write(piece.into()).await.unwrap();
    }
    staged.commit(CommitOptions::default()).await.unwrap();
    assert!(brick.get("k").await == expected);
}

crate::volume_contract!(async {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let brick = Brick::open(options_of(&dir)).await.unwrap();
    (brick, dir)
});
