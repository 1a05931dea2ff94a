//! Bricks that come to a volume and go from it while it is served.

use placement::layout::BrickId;

use super::{Rig, at, files, get, in_sync, keys, make_bucket, put};
use crate::bricks::ledger::Ledger;
use crate::bricks::plan::BrickSet;
use crate::error::StoreError;
use crate::object::Precondition;
use crate::volume::Volume;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brick_that_joins_while_it_is_served_is_filled() {
    let mut rig = Rig::new(2, 2);
    let bricks = rig.start(&[0]).await;
    make_bucket(&bricks).await;
    for n in 0..60 {
        put(&bricks, &format!("d{}/k{n}", n % 5), "before")
            .await
            .unwrap();
    }
    in_sync(&rig, 1).await;
    bricks.join(rig.present(1, false).await).await.unwrap();
    for n in 40..80 {
        put(&bricks, &format!("d{}/k{n}", n % 5), "meanwhile")
            .await
            .unwrap();
    }
    in_sync(&rig, 2).await;
    put(&bricks, "d0/later", "x").await.unwrap();
    bricks.close().await.unwrap();
    assert_eq!(files(&rig, 0).len(), 81);
    assert_eq!(files(&rig, 0), files(&rig, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brick_that_left_comes_again_and_has_what_it_missed() {
    let mut rig = Rig::new(2, 2);
    let bricks = rig.start(&[0, 1]).await;
    make_bucket(&bricks).await;
    for n in 0..30 {
        put(&bricks, &format!("k{n}"), "old").await.unwrap();
    }
    for round in 0..3 {
        assert!(bricks.leave(BrickId(1)).await.unwrap());
        assert!(!bricks.leave(BrickId(1)).await.unwrap(), "it is not here");
        in_sync(&rig, 1).await;
        let body = format!("round {round}");
        for n in 0..20 {
            put(&bricks, &format!("k{n}"), &body).await.unwrap();
        }
        let always = Precondition::default();
        let removed = format!("k{}", 20 + round);
        bricks.remove(&at(&removed), &always).await.unwrap();
        // It is compared, whether its log would do or not.
        let present = rig.present(1, round == 2).await;
        bricks.join(present).await.unwrap();
        assert_eq!(get(&bricks, "k7").await.unwrap(), body);
        in_sync(&rig, 2).await;
    }
    let again = bricks.join(rig.present(1, false).await).await;
    assert!(matches!(again, Err(StoreError::Busy(_))), "it is here");
    bricks.close().await.unwrap();
    assert_eq!(files(&rig, 0).len(), 27);
    assert_eq!(files(&rig, 0), files(&rig, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_copy_that_left_is_the_last_copy_when_it_is_back() {
    let mut rig = Rig::new(2, 2);
    let bricks = rig.start(&[0]).await;
    make_bucket(&bricks).await;
    for n in 0..20 {
        put(&bricks, &format!("k{n}"), "body").await.unwrap();
    }
    in_sync(&rig, 1).await;
    bricks.join(rig.present(1, false).await).await.unwrap();
    in_sync(&rig, 2).await;
    bricks.leave(BrickId(0)).await.unwrap();
    let alone = BrickSet::of(&[BrickId(1)]);
    for _ in 0..600 {
        if rig.ledger.groups().iter().all(|g| g.in_sync == alone) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    put(&bricks, "alone", "x").await.unwrap();
    bricks.leave(BrickId(1)).await.unwrap();
    // Nobody has the latest now; who comes first is not taken for it.
    bricks.join(rig.present(0, false).await).await.unwrap();
    bricks.join(rig.present(1, false).await).await.unwrap();
    in_sync(&rig, 2).await;
    assert_eq!(keys(&bricks).await.len(), 21);
    bricks.close().await.unwrap();
    assert_eq!(files(&rig, 0), files(&rig, 1));
}
