//! What comes late: a write after the request that it is of was dropped, a request while another one
//! completes the upload.

use std::time::Duration;

use bytes::Bytes;

use super::super::Brick;
use super::super::crashdisk::{CrashDisk, Model};
use super::ops::{Body, Op, at, upload_ids};
use super::picture;
use super::scene::{Prepared, Scene, copy_of};
use crate::error::StoreError;
use crate::name::{BucketName, PartNumber};
use crate::object::PartClaim;
use crate::volume::{ComposeOptions, NewBucket, StageOptions, StagedPart, Volume};

const MIN_PART: usize = 5 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_part_writes_into_no_other() {
    let setup = vec![
        Op::Begin("b:k"),
        Op::Part("b:k", 1, Body(MIN_PART, 1)),
        Op::Part("b:k", 3, Body(10, 1)),
    ];
    let prepared = Scene::new(setup, Vec::new()).prepare().await;
    let scene = &prepared.scene;
    let disk = scene.disk(prepared.world.clone(), Model::Journal);
    let index = copy_of(prepared.index.path());
    let brick = scene.open(&disk, index.path()).await.unwrap();
    let id = upload_ids(&brick, &at("b:k")).await.unwrap().remove(0);
    let options = StageOptions {
        len_bytes: Some(300_000),
        ..StageOptions::default()
    };
    let number = PartNumber::new(2).unwrap();
    let mut dropped = brick
        .stage_part(&at("b:k"), &id, number, options)
        .await
        .unwrap();
    disk.gate().close();
    dropped
        .write(Bytes::from(Body(300_000, 2).bytes()))
        .await
        .unwrap();
    while !disk.gate().has_caught() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(dropped);
    // 5 MiB, so that the completion need not refuse it.
    let again = Op::Part("b:k", 2, Body(MIN_PART, 3));
    again.run(&brick).await.remove(0).unwrap();
    let changes = disk.counts().0;
    disk.gate().open();
    while disk.counts().0 == changes {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    picture::finish_uploads(&brick, &prepared.universe).await;
}

/// An upload of two parts that have to be copied.
async fn parts_to_copy() -> Prepared {
    let setup = vec![
        Op::Begin("b:k"),
        Op::PartUnannounced("b:k", 1, Body(MIN_PART, 1)),
        Op::PartUnannounced("b:k", 2, Body(10, 2)),
    ];
    Scene::new(setup, Vec::new()).prepare().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_for_the_completion_under_way() {
    let prepared = parts_to_copy().await;
    let disk = prepared.scene.disk(prepared.world.clone(), Model::Journal);
    let index = copy_of(prepared.index.path());
    let brick = prepared.scene.open(&disk, index.path()).await.unwrap();
    let (at, claims) = (at("b:k"), claims(&brick).await);
    let id = upload_ids(&brick, &at).await.unwrap().remove(0);
    let complete = || {
        let (brick, at, id, claims) = (brick.clone(), at.clone(), id.clone(), claims.clone());
        tokio::spawn(async move {
            let options = ComposeOptions::default();
            brick.compose(&at, &id, &claims, options).await
        })
    };
    disk.gate().close();
    let first = complete();
    while !disk.gate().has_caught() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let again = [complete(), complete()];
    let part = brick
        .stage_part(
            &at,
            &id,
            PartNumber::new(3).unwrap(),
            StageOptions::default(),
        )
        .await;
    assert!(matches!(part.err(), Some(StoreError::Conflict)));
    let aborting = {
        let (brick, at, id) = (brick.clone(), at.clone(), id.clone());
        tokio::spawn(async move { brick.abort_upload(&at, &id).await })
    };
    // They could answer by now, if they did not wait.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!aborting.is_finished() && again.iter().all(|task| !task.is_finished()));
    disk.gate().open();
    let first = first.await.unwrap().unwrap();
    for task in again {
        assert_eq!(task.await.unwrap().unwrap(), first);
    }
    assert!(matches!(
        aborting.await.unwrap(),
        Err(StoreError::NoSuchUpload)
    ));
    assert_eq!(brick.stat(&at).await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_deleted_under_a_completion_gets_no_object() {
    let prepared = parts_to_copy().await;
    let disk = prepared.scene.disk(prepared.world.clone(), Model::Journal);
    let index = copy_of(prepared.index.path());
    let brick = prepared.scene.open(&disk, index.path()).await.unwrap();
    let (at, claims) = (at("b:k"), claims(&brick).await);
    let id = upload_ids(&brick, &at).await.unwrap().remove(0);
    disk.gate().close();
    let completing = {
        let (brick, at) = (brick.clone(), at.clone());
        tokio::spawn(async move {
            let options = ComposeOptions::default();
            brick.compose(&at, &id, &claims, options).await
        })
    };
    while !disk.gate().has_caught() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let bucket = BucketName::parse("b").unwrap();
    brick.delete_bucket(&bucket).await.unwrap();
    disk.gate().open();
    // It may be there again before the completion comes to publish.
    let made = brick.create_bucket(&bucket, NewBucket::default()).await;
    made.unwrap();
    assert!(matches!(
        completing.await.unwrap(),
        Err(StoreError::NoSuchUpload | StoreError::NoSuchBucket)
    ));
    assert!(matches!(brick.stat(&at).await, Err(StoreError::NoSuchKey)));
}

async fn claims(brick: &Brick<CrashDisk>) -> Vec<PartClaim> {
    let at = at("b:k");
    let id = upload_ids(brick, &at).await.unwrap().remove(0);
    let page = brick.list_parts(&at, &id, None, 10).await.unwrap();
    let parts = page.parts.into_iter();
    parts
        .map(|part| PartClaim {
            number: part.number,
            etag: part.etag.as_str().to_owned(),
            checksum: None,
        })
        .collect()
}
