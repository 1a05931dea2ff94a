//! What was acknowledged stays, whatever a gateway was about to do when it fell asleep, and whatever
//! a remote file system says for a moment.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::time::Duration;

use super::gateways::{Site, at, bucket, get, put};
use crate::error::StoreError;
use crate::name::{PartNumber, UploadId};
use crate::object::{PartClaim, Precondition};
use crate::shared::claim_of;
use crate::shared::upkeep::Watched;
use crate::shared::{Inner, Shared};
use crate::volume::{
    AttrsPatch, ComposeOptions, NewBucket, NewUpload, StageOptions, StagedPart, Volume,
};

/// Longer than what is copied when its attributes change.
pub(super) const LONG: usize = 9 << 20;

fn before(
    on: &Shared,
    step: &'static str,
    name: &str,
    act: impl FnOnce() -> io::Result<()> + Send + 'static,
) {
    on.inner.tree.disk.interrupts.before(step, name, act);
}

fn are_over(on: &Shared) -> bool {
    on.inner.tree.disk.interrupts.are_over()
}

/// Others act while a gateway sleeps.
fn meanwhile(
    work: impl Future<Output = ()> + Send + 'static,
) -> impl FnOnce() -> io::Result<()> + Send + 'static {
    let runtime = tokio::runtime::Handle::current();
    move || {
        runtime.block_on(work);
        Ok(())
    }
}

fn absent() -> io::Result<()> {
    Err(io::ErrorKind::NotFound.into())
}

fn owned(owner: &str) -> NewBucket {
    NewBucket {
        owner: Some(owner.to_owned()),
        ..NewBucket::default()
    }
}

fn tagged(name: &str) -> AttrsPatch {
    AttrsPatch {
        tags: Some(BTreeMap::from([(name.to_owned(), "set".to_owned())])),
        ..AttrsPatch::default()
    }
}

pub(super) async fn patch(on: &Shared, key: &str, tag: &str) {
    on.set_attrs(&at(key), tagged(tag), &Precondition::default())
        .await
        .unwrap();
}

async fn set(on: &Shared, name: &str, value: &str) -> crate::error::Result<()> {
    on.set_bucket_setting(&bucket(), name, Some(value.to_owned()))
        .await
}

pub(super) async fn tags_of(on: &Shared, key: &str) -> Vec<String> {
    let info = on.stat(&at(key)).await.unwrap();
    info.attrs.tags.into_keys().collect()
}

pub(super) async fn begin_with_part(on: &Shared, key: &str) -> (UploadId, PartClaim) {
    let id = on.begin_upload(&at(key), NewUpload::default()).await;
    let (id, number) = (id.unwrap().id, PartNumber::new(1).unwrap());
    let object = at(key);
    let part = on.stage_part(&object, &id, number, StageOptions::default());
    let mut part = part.await.unwrap();
    part.write(bytes::Bytes::from_static(b"part"))
        .await
        .unwrap();
    let info = part.commit(Vec::new(), None).await.unwrap();
    let claim = PartClaim {
        number,
        etag: info.etag.as_str().to_owned(),
        checksum: None,
    };
    (id, claim)
}

/// Makes the bucket, with an object under an escaped key and an upload in it.
async fn fill(on: &Shared) -> UploadId {
    on.create_bucket(&bucket(), owned("second")).await.unwrap();
    put(on, "marker/", b"").await;
    begin_with_part(on, "k").await.0
}

async fn is_as_filled(on: &Shared, id: &UploadId) {
    let owner = on.bucket(&bucket()).await.unwrap().owner;
    assert_eq!(owner.as_deref(), Some("second"));
    on.stat(&at("marker/")).await.unwrap();
    let parts = on.list_parts(&at("k"), id, None, 10).await.unwrap();
    assert_eq!(parts.parts.len(), 1);
}

/// Fills the bucket by another gateway before a step of this one's.
fn filled_before(on: &Shared, step: &'static str, by: &Shared) -> impl FnOnce() -> UploadId {
    let (sender, filled) = std::sync::mpsc::channel();
    let by = by.clone();
    let work = async move { sender.send(fill(&by).await).unwrap() };
    before(on, step, bucket().as_str(), meanwhile(work));
    move || filled.recv().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_made_by_another_while_one_made_it_keeps_all_that_is_in_it() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    one.delete_bucket(&bucket()).await.unwrap();
    let filled = filled_before(&one, "rename from", &two);
    let made = one.create_bucket(&bucket(), owned("first")).await;
    assert!(made.is_err(), "{made:?}");
    is_as_filled(&two, &filled()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_seems_not_to_be_there_is_not_made_again() {
    let site = Site::new().await;
    let one = site.gateway().await;
    one.delete_bucket(&bucket()).await.unwrap();
    let id = fill(&one).await;
    before(&one, "stat", "bucket", absent);
    let made = one.create_bucket(&bucket(), owned("first")).await;
    assert!(
        matches!(made, Err(StoreError::BucketExists { .. })),
        "{made:?}"
    );
    // Not even where it seems so for long.
    before(&one, "stat", "bucket", absent);
    before(&one, "stat", "bucket", absent);
    let made = one.create_bucket(&bucket(), owned("first")).await;
    assert!(
        matches!(made, Err(StoreError::BucketExists { .. })),
        "{made:?}"
    );
    assert!(are_over(&one));
    is_as_filled(&one, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_made_after_a_removal_keeps_its_record_and_uploads() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    let filled = filled_before(&one, "rename from", &two);
    one.delete_bucket(&bucket()).await.unwrap();
    is_as_filled(&two, &filled()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_slept_does_not_take_an_escaped_key_along() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    let by = two.clone();
    let work = async move { put(&by, "x/", b"").await };
    // After its last look for keys.
    before(&one, "take obstacle", "", meanwhile(work));
    let removed = one.delete_bucket(&bucket()).await;
    assert!(
        matches!(removed, Err(StoreError::BucketNotEmpty)),
        "{removed:?}"
    );
    assert!(are_over(&one));
    two.stat(&at("x/")).await.unwrap();
    two.remove(&at("x/"), &Precondition::default())
        .await
        .unwrap();
    two.delete_bucket(&bucket()).await.unwrap();
    assert!(!site.path("bucket").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_removed_by_another_while_one_made_it_is_not_left_without_a_record() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    one.delete_bucket(&bucket()).await.unwrap();
    let work = async move {
        two.create_bucket(&bucket(), owned("second")).await.unwrap();
        two.delete_bucket(&bucket()).await.unwrap();
    };
    before(&one, "make dir", "bucket", meanwhile(work));
    let made = one.create_bucket(&bucket(), owned("first")).await;
    assert!(matches!(made, Err(StoreError::Conflict)), "{made:?}");
    assert!(!site.path("bucket").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_owner_and_settings_when_its_record_seems_not_to_be_there() {
    let site = Site::new().await;
    let one = site.gateway().await;
    one.delete_bucket(&bucket()).await.unwrap();
    one.create_bucket(&bucket(), owned("first")).await.unwrap();
    set(&one, "policy", "deny").await.unwrap();
    let fresh = site.gateway().await;
    before(&fresh, "open own", "bucket", absent);
    assert_eq!(
        fresh.bucket(&bucket()).await.unwrap().settings["policy"],
        "deny"
    );
    let fresh = site.gateway().await;
    before(&fresh, "open own", "bucket", absent);
    before(&fresh, "open own", "bucket", absent);
    let refused = set(&fresh, "cors", "any").await;
    assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    let info = fresh.bucket(&bucket()).await.unwrap();
    assert_eq!(info.settings["policy"], "deny");
    assert_eq!(info.owner.as_deref(), Some("first"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_set_while_a_file_is_read_for_its_digest_stay() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    std::fs::write(site.path("bucket/long"), vec![1; LONG]).unwrap();
    let looked = look(&one.inner, "long");
    patch(&two, "long", "kept").await;
    let inner = std::sync::Arc::clone(&one.inner);
    let hashed = tokio::task::spawn_blocking(move || inner.hash(&at("long"), &looked, None));
    hashed.await.unwrap().unwrap();
    let info = one.stat(&at("long")).await.unwrap();
    assert!(!info.etag.is_provisional());
    assert_eq!(tags_of(&one, "long").await, ["kept"]);
}

pub(super) fn look(
    inner: &Inner,
    key: &str,
) -> crate::brick::look::Looked<crate::shared::disk::SharedDisk> {
    inner.look_blocking(&at(key)).unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_in_place_that_was_overtaken_undoes_nothing() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    put(&one, "long", &vec![1; LONG]).await;
    let inner = &one.inner;
    let stage = inner.claims.stage().unwrap();
    stage.hold().unwrap();
    let claim = inner.claims.acquire(stage, &claim_of(&at("long"))).unwrap();
    let looked = look(inner, "long");
    patch(&two, "long", "kept").await;
    let late = inner.patch_looked(&at("long"), &claim, looked, tagged("late"));
    assert!(matches!(late, Err(StoreError::Conflict)));
    assert_eq!(tags_of(&one, "long").await, ["kept"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_first_file_seems_not_to_be_there_is_not_swept() {
    let site = Site::new().await;
    let one = site.gateway().await;
    let (id, _) = begin_with_part(&one, "k").await;
    let inner = std::sync::Arc::clone(&one.inner);
    let rounds = tokio::task::spawn_blocking(move || {
        let mut watched = Watched::default();
        for _ in 0..2 {
            inner
                .tree
                .disk
                .interrupts
                .before("open own", "upload", absent);
            inner.keep_up(&mut watched).unwrap();
        }
    });
    rounds.await.unwrap();
    assert!(are_over(&one));
    let parts = one.list_parts(&at("k"), &id, None, 10).await.unwrap();
    assert_eq!(parts.parts.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_an_upload_that_ended_is_swept() {
    let site = Site::new().await;
    let one = site.gateway().await;
    let (id, _) = begin_with_part(&one, "k").await;
    let dir = site.path(".portico/uploads/bucket").join(id.as_str());
    std::fs::remove_file(dir.join("upload")).unwrap();
    let inner = std::sync::Arc::clone(&one.inner);
    let rounds = tokio::task::spawn_blocking(move || {
        let mut watched = Watched::default();
        inner.keep_up(&mut watched).unwrap();
        inner.keep_up(&mut watched).unwrap();
    });
    rounds.await.unwrap();
    assert!(!dir.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_aborted_while_it_was_completed_becomes_no_object() {
    let site = Site::new().await;
    // It renews no claim in time, as if all of it slept.
    let one = site.gateway_with(Duration::from_secs(3_600)).await;
    let two = site.gateway().await;
    let (id, part) = begin_with_part(&one, "k").await;
    let (by, aborted) = (two.clone(), id.clone());
    let work = async move { by.abort_upload(&at("k"), &aborted).await.unwrap() };
    before(&one, "rename to", "k", meanwhile(work));
    let completed = one
        .compose(&at("k"), &id, &[part], ComposeOptions::default())
        .await;
    assert!(completed.is_err(), "{completed:?}");
    assert!(are_over(&one));
    assert!(matches!(
        two.stat(&at("k")).await,
        Err(StoreError::NoSuchKey)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_seems_not_to_be_there_is_removed() {
    let site = Site::new().await;
    let one = site.gateway().await;
    put(&one, "k", b"bytes").await;
    assert_eq!(get(&one, "k").await, b"bytes");
    before(&one, "stat", "k", absent);
    let removed = one.remove(&at("k"), &Precondition::default()).await;
    assert!(removed.unwrap().existed);
    assert!(are_over(&one));
    assert!(!site.path("bucket/k").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_a_directory_that_is_lost_from_sight_is_no_short_page() {
    let site = Site::new().await;
    let one = site.gateway().await;
    put(&one, "k", b"bytes").await;
    before(&one, "read dir", "", || {
        Err(io::Error::from_raw_os_error(116))
    });
    let query = crate::volume::ListQuery {
        limit: 10,
        ..Default::default()
    };
    let page = one.list(&bucket(), &query).await;
    assert!(matches!(page, Err(StoreError::Busy(_))), "{:?}", page.err());
    assert!(are_over(&one));
}
