//! What one gateway did is seen by the others, and one that dies leaves nothing in their way.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::StoreError;
use crate::name::{BucketName, ObjectKey, PartNumber};
use crate::object::{Attributes, Locator, PartClaim, Precondition};
use crate::shared::{Shared, SharedOptions};
use crate::volume::{
    AttrsPatch, CommitOptions, ComposeOptions, ListQuery, NewBucket, NewUpload, Object,
    StageOptions, Staged, StagedPart, Volume,
};

pub(super) fn bucket() -> BucketName {
    BucketName::parse("bucket").unwrap()
}

pub(super) fn at(key: &str) -> Locator {
    Locator::new(bucket(), ObjectKey::parse(key).unwrap())
}

pub(super) struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let site = Self { dir };
        let first = site.gateway().await;
        let made = first.create_bucket(&bucket(), NewBucket::default()).await;
        made.unwrap();
        first.close().await.unwrap();
        site
    }

    pub(super) async fn gateway(&self) -> Shared {
        self.gateway_with(Duration::from_millis(100)).await
    }

    pub(super) async fn gateway_with(&self, patience: Duration) -> Shared {
        let mut options = SharedOptions::new(self.dir.path());
        options.patience = patience;
        // Tests say when.
        options.upkeep_interval = Duration::from_secs(3_600);
        Shared::open(options).await.unwrap()
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }
}

pub(super) async fn put(on: &Shared, key: &str, bytes: &[u8]) {
    let staged = on.stage(&at(key), StageOptions::default()).await;
    let mut staged = staged.unwrap();
    staged.write(Bytes::copy_from_slice(bytes)).await.unwrap();
    staged.commit(CommitOptions::default()).await.unwrap();
}

pub(super) async fn get(on: &Shared, key: &str) -> Vec<u8> {
    let object = on.open(&at(key)).await.unwrap();
    let len = object.info().len_bytes;
    object.read(0..len).await.unwrap().to_vec()
}

async fn keys(on: &Shared) -> Vec<String> {
    let query = ListQuery {
        limit: 1_000,
        ..ListQuery::default()
    };
    let page = on.list(&bucket(), &query).await.unwrap();
    let keys = page.objects.into_iter();
    keys.map(|entry| entry.key.as_str().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_plain_files_at_their_keys() {
    let site = Site::new().await;
    let one = site.gateway().await;
    put(&one, "a/b/c", b"bytes").await;
    assert_eq!(std::fs::read(site.path("bucket/a/b/c")).unwrap(), b"bytes");
    one.remove(&at("a/b/c"), &Precondition::default())
        .await
        .unwrap();
    assert!(!site.path("bucket/a").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_dropped_in_is_an_object_at_every_gateway() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    std::fs::create_dir(site.path("bucket/dir")).unwrap();
    std::fs::write(site.path("bucket/dir/file"), b"dropped").unwrap();
    for on in [&one, &two] {
        assert_eq!(get(on, "dir/file").await, b"dropped");
        assert_eq!(keys(on).await, ["dir/file"]);
        let info = on.stat(&at("dir/file")).await.unwrap();
        assert!(info.etag.is_provisional());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_file_gets_its_digest_and_its_first_tag_still_matches() {
    let site = Site::new().await;
    let mut options = SharedOptions::new(site.dir.path());
    options.upkeep_interval = Duration::from_millis(50);
    let one = Shared::open(options).await.unwrap();
    std::fs::write(site.path("bucket/file"), b"dropped").unwrap();
    let first = one.stat(&at("file")).await.unwrap().etag;
    assert!(first.is_provisional());
    let info = loop {
        let info = one.stat(&at("file")).await.unwrap();
        if !info.etag.is_provisional() {
            break info;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(info.etags_before, [first]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_out_a_gateway_that_died_with_a_claim() {
    let site = Site::new().await;
    let (dead, on) = (site.gateway().await, site.gateway().await);
    put(&on, "k", b"old").await;
    let claims = &dead.inner.claims;
    let stage = claims.stage().unwrap();
    stage.hold().unwrap();
    let claim = claims
        .acquire(stage, &crate::shared::claim_of(&at("k")))
        .unwrap();
    // It never gives it up.
    std::mem::forget(claim);
    let began = Instant::now();
    put(&on, "k", b"new").await;
    assert!(began.elapsed() >= Duration::from_millis(100));
    assert_eq!(get(&on, "k").await, b"new");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_begun_fed_and_completed_on_three_gateways() {
    let site = Site::new().await;
    let (one, two, three) = (
        site.gateway().await,
        site.gateway().await,
        site.gateway().await,
    );
    let new = NewUpload {
        attrs: Attributes {
            user: BTreeMap::from([("colour".to_owned(), "red".to_owned())]),
            ..Attributes::default()
        },
        ..NewUpload::default()
    };
    let id = one.begin_upload(&at("k"), new).await.unwrap().id;
    one.close().await.unwrap();
    drop(one);
    let number = PartNumber::new(1).unwrap();
    let staged = two
        .stage_part(&at("k"), &id, number, StageOptions::default())
        .await;
    let mut staged = staged.unwrap();
    staged.write(Bytes::from_static(b"part")).await.unwrap();
    let part = staged.commit(Vec::new(), None).await.unwrap();
    let claim = PartClaim {
        number,
        etag: part.etag.as_str().to_owned(),
        checksum: None,
    };
    let options = ComposeOptions::default();
    let made = three
        .compose(&at("k"), &id, std::slice::from_ref(&claim), options)
        .await;
    let made = made.unwrap();
    assert_eq!(made.attrs.user["colour"], "red");
    assert_eq!(get(&two, "k").await, b"part");
    // And again, on another.
    let options = ComposeOptions::default();
    let again = two.compose(&at("k"), &id, &[claim], options).await;
    assert_eq!(again.unwrap().etag, made.etag);
    assert!(matches!(
        three.upload(&at("k"), &id).await,
        Err(StoreError::NoSuchUpload)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_gateway_staged_is_no_object_and_goes() {
    let site = Site::new().await;
    let (dead, on) = (site.gateway().await, site.gateway().await);
    let staged = dead.stage(&at("k"), StageOptions::default()).await;
    let mut staged = staged.unwrap();
    staged.write(Bytes::from(vec![7; 300_000])).await.unwrap();
    let home = crate::shared::claim::home_of(dead.presence().instance());
    std::mem::forget(staged);
    assert!(keys(&on).await.is_empty());
    assert!(site.path(".portico/staging").join(&home).exists());
    // Not quite dead: its upkeep may stage something meanwhile, which another round takes.
    let is_there = || site.path(".portico/staging").join(&home).exists();
    for _ in 0..100 {
        on.inner
            .remove_staged_by(dead.presence().instance())
            .unwrap();
        if !is_there() {
            break;
        }
    }
    assert!(!is_there());
    // It was only asleep: it goes on.
    put(&dead, "k", b"woken").await;
    assert_eq!(get(&on, "k").await, b"woken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_is_seen_by_every_gateway_at_once() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    for round in 0..20 {
        let (writer, reader) = match round % 2 {
            0 => (&one, &two),
            _ => (&two, &one),
        };
        let value = Some(round.to_string());
        writer
            .set_bucket_setting(&bucket(), "cors", value)
            .await
            .unwrap();
        let seen = reader.bucket(&bucket()).await.unwrap();
        assert_eq!(seen.settings["cors"], round.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_of_a_long_object_change_in_place() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    put(&one, "long", &vec![5; 9 << 20]).await;
    let before = one.stat(&at("long")).await.unwrap();
    let patch = AttrsPatch {
        tags: Some(BTreeMap::from([("a".to_owned(), "b".to_owned())])),
        ..AttrsPatch::default()
    };
    two.set_attrs(&at("long"), patch, &Precondition::default())
        .await
        .unwrap();
    let after = one.stat(&at("long")).await.unwrap();
    assert_eq!(after.attrs.tags["a"], "b");
    assert_eq!((after.etag, after.modified), (before.etag, before.modified));
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_live_are_told_from_those_that_died() {
    let site = Site::new().await;
    let one = site.gateway().await;
    let presence = |on: &Shared| {
        let inner = std::sync::Arc::clone(&on.inner);
        tokio::task::spawn_blocking(move || inner.presence.has_others().unwrap())
    };
    let two = site.gateway().await;
    assert!(presence(&two).await.unwrap().is_some());
    one.close().await.unwrap();
    drop(one);
    // The file of one that was killed stays, and does not change.
    std::fs::write(site.path(".portico/gateways/killed"), b"{}").unwrap();
    assert_eq!(presence(&two).await.unwrap(), None);
}
