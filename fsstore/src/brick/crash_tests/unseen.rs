//! Edits behind our back that end like a crash before anybody has seen them: the bytes change in
//! place, the modification time is put back.

use super::super::crashdisk::{CrashDisk, Model, Random, World};
use super::super::disk::{Disk, DiskFile};
use super::ops::{Body, Op, at};
use super::picture;
use super::scene::{Scene, copy_of, index_dir};
use crate::checksum::digest_of;
use crate::name::ETag;
use crate::object::DigestAlgorithm;
use crate::volume::Volume;

fn edit(disk: &CrashDisk, path: &str, bytes: &[u8]) {
    let file = disk.open(&disk.root(), path).unwrap();
    let mtime_ns = file.facts().unwrap().mtime_ns;
    file.write_at(0, bytes).unwrap();
    file.set_modified(mtime_ns).unwrap();
    file.sync().unwrap();
}

/// Which index the next start finds.
#[derive(Debug, Clone, Copy)]
enum Kept {
    Before,
    After,
    None,
}

async fn edit_and_end(kept: Kept, end: fn(World) -> World) {
    let prepared = Scene::new(Vec::new(), Vec::new()).prepare().await;
    let scene = &prepared.scene;
    let disk = scene.disk(prepared.world.clone(), Model::Journal);
    let index = copy_of(prepared.index.path());
    let brick = scene.open(&disk, index.path()).await.unwrap();
    for op in [
        Op::Put("b:k", Body(1_000, 1), 0),
        Op::Put("b:left/alone", Body(1_000, 2), 0),
    ] {
        op.run(&brick).await.remove(0).unwrap();
    }
    let bytes = Body(1_000, 3).bytes();
    edit(&disk, "b/k", &bytes);
    let left = match kept {
        Kept::Before => copy_of(prepared.index.path()),
        Kept::After => {
            brick.inner.index.flush().await.unwrap();
            copy_of(index.path())
        }
        Kept::None => index_dir(),
    };
    let disk = scene.disk(end(disk.world()), Model::Journal);
    drop(brick);
    // The second start finds what the first one has made durable.
    for start in 1..=2 {
        let brick = scene.open(&disk, left.path()).await.unwrap();
        for (place, entry) in picture::listed(&brick, &prepared.universe).await {
            let is_doubted = entry.etag.is_provisional();
            assert_eq!(
                is_doubted,
                place == "b:k",
                "{kept:?}, start {start}: {entry:?}"
            );
        }
        brick.close().await.unwrap();
    }
    let brick = scene.open(&disk, left.path()).await.unwrap();
    let md5: [u8; 16] = digest_of(DigestAlgorithm::Md5, &bytes).try_into().unwrap();
    let info = brick.stat(&at("b:k")).await.unwrap();
    assert_eq!(info.etag, ETag::from_md5(&md5), "{kept:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_that_nobody_saw_before_a_kill_is_doubted() {
    for kept in [Kept::Before, Kept::After, Kept::None] {
        edit_and_end(kept, World::after_kill).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_that_nobody_saw_before_a_power_cut_is_doubted() {
    for kept in [Kept::Before, Kept::After, Kept::None] {
        edit_and_end(kept, |world| world.after_power_cut(&mut Random(1))).await;
    }
}
