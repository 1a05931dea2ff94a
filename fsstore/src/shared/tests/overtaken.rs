//! Gateways that slept, or died, in the middle of what no rename fences.

use super::gateways::{Site, at, get, put};
use super::interrupted::{LONG, begin_with_part, look, patch, tags_of};
use crate::compose::compose;
use crate::error::{Result, StoreError};
use crate::name::UploadId;
use crate::object::{FileOwner, ObjectInfo, PartClaim, Precondition};
use crate::shared::claim::Claim;
use crate::shared::staged::{Commit, Seal};
use crate::shared::{Shared, claim_of};
use crate::volume::{ComposeOptions, Volume};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_patch_that_slept_writes_late_is_not_the_objects() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    put(&one, "long", &vec![1; LONG]).await;
    let inner = &one.inner;
    let stage = inner.claims.stage_held().unwrap();
    let claim = inner.claims.acquire(stage, &claim_of(&at("long"))).unwrap();
    let looked = look(inner, "long");
    claim.note_in_place().unwrap();
    // Here it sleeps; others change the object, the second of them without breaking anything.
    patch(&two, "long", "first").await;
    patch(&two, "long", "kept").await;
    let (file, facts) = (looked.found.file.as_ref().unwrap(), looked.found.facts);
    inner
        .tree
        .records
        .save(file, &facts, &looked.record)
        .unwrap();
    assert!(matches!(claim.renew(), Err(StoreError::Conflict)));
    assert_eq!(tags_of(&one, "long").await, ["kept"]);
    assert_eq!(get(&one, "long").await, vec![1; LONG]);
    // The inode that the second change found was not one that anybody else may write to.
    let before = look(inner, "long").found.facts.ino;
    patch(&two, "long", "again").await;
    assert_eq!(look(inner, "long").found.facts.ino, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_broken_leaves_a_mark_only_where_somebody_wrote_in_place() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    put(&one, "long", &vec![1; LONG]).await;
    let inner = &one.inner;
    let stage = inner.claims.stage_held().unwrap();
    let slept = inner.claims.acquire(stage, &claim_of(&at("long"))).unwrap();
    let before = look(inner, "long").found.facts.ino;
    patch(&two, "long", "kept").await;
    assert!(matches!(slept.note_in_place(), Err(StoreError::Conflict)));
    let marks = std::fs::read_dir(site.path(".portico/broken")).unwrap();
    assert_eq!(marks.count(), 0);
    assert_eq!(look(inner, "long").found.facts.ino, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_kept_for_days_and_not_for_ever() {
    let site = Site::new().await;
    let one = site.gateway().await;
    let mark = site.path(".portico/broken/0123");
    std::fs::write(&mark, b"").unwrap();
    let (now_ns, day_ns) = (one.inner.now_ns(), 24 * 3_600 * 1_000_000_000);
    one.inner.claims.sweep_marks(now_ns + 29 * day_ns).unwrap();
    assert!(mark.exists());
    one.inner.claims.sweep_marks(now_ns + 31 * day_ns).unwrap();
    assert!(!mark.exists());
}

/// Where a gateway that completed an upload died.
#[derive(PartialEq)]
enum Died {
    Before,
    After,
}

/// Completes an upload up to the moment before, or after, its object gets its name.
async fn complete_and_die(on: &Shared, died: Died) -> (UploadId, [PartClaim; 1]) {
    let (id, part) = begin_with_part(on, "k").await;
    let (inner, at) = (&on.inner, at("k"));
    let opened = inner.open_upload(&at, &id).unwrap();
    let parts = inner.parts_in(&opened.dir, None, 10).unwrap();
    let parts = parts.into_iter().map(|part| (part.number, part)).collect();
    let options = ComposeOptions::default();
    let made = compose(None, &parts, std::slice::from_ref(&part), &options).unwrap();
    let stage = inner.claims.stage().unwrap();
    let (entry, file) = stage.create().unwrap();
    let bytes = vec![0; made.len_bytes as usize];
    crate::brick::disk::DiskFile::write_at(&file, 0, &bytes).unwrap();
    let seal = Seal {
        record: crate::brick::attrs::Record {
            upload_id: Some(id.clone()),
            ..Default::default()
        },
        len_bytes: made.len_bytes,
        modified_ns: inner.now_ns(),
    };
    let owner = FileOwner::default();
    let whole = inner.seal(&at, &file, seal, &owner).unwrap();
    stage.note_end(&at.bucket, &id, &entry).unwrap();
    let claim = inner.claims.acquire(stage, &claim_of(&at)).unwrap();
    if died == Died::After {
        let commit = Commit {
            precondition: Precondition::default(),
            owner,
        };
        inner
            .publish_whole(&at, &claim, &entry, &whole, &commit)
            .unwrap();
    }
    Claim::abandon(claim);
    (id, [part])
}

async fn complete(on: &Shared, id: &UploadId, parts: &[PartClaim]) -> Result<ObjectInfo> {
    on.compose(&at("k"), id, parts, ComposeOptions::default())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_gateway_died_after_its_object_had_its_name_is_answered_as_done() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    let (id, parts) = complete_and_die(&one, Died::After).await;
    let stands = two.stat(&at("k")).await.unwrap();
    assert_eq!(complete(&two, &id, &parts).await.unwrap().etag, stands.etag);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_gateway_died_is_over_when_its_object_is_replaced() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    let (id, parts) = complete_and_die(&one, Died::After).await;
    put(&two, "k", b"later").await;
    let late = complete(&one, &id, &parts).await;
    assert!(matches!(late, Err(StoreError::NoSuchUpload)), "{late:?}");
    assert_eq!(get(&one, "k").await, b"later");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_gateway_died_is_over_when_its_object_is_removed() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    let (id, parts) = complete_and_die(&one, Died::After).await;
    two.remove(&at("k"), &Precondition::default())
        .await
        .unwrap();
    let late = complete(&one, &id, &parts).await;
    assert!(matches!(late, Err(StoreError::NoSuchUpload)), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_gateway_died_before_its_object_had_a_name_can_be_completed() {
    let site = Site::new().await;
    let (one, two) = (site.gateway().await, site.gateway().await);
    let (id, parts) = complete_and_die(&one, Died::Before).await;
    put(&two, "k", b"between").await;
    complete(&two, &id, &parts).await.unwrap();
    assert_ne!(get(&one, "k").await, b"between");
}
