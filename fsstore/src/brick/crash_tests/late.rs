//! Writes that come late: after the request they are of was dropped.

use std::time::Duration;

use bytes::Bytes;

use super::super::crashdisk::Model;
use super::ops::{Body, Op, at, upload_ids};
use super::picture;
use super::scene::{Scene, copy_of};
use crate::name::PartNumber;
use crate::volume::{StageOptions, StagedPart, Volume};

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
