//! The scenes whose every step is cut.

use super::super::crashdisk::{Abilities, Model};
use super::ops::{Body, Op};
use super::scene::{End, Scene, cut_everywhere};
use crate::volume::Durability;

const CUTS: [End; 2] = [
    End::PowerCut(Model::Journal),
    End::PowerCut(Model::Adversary),
];
const MIN_PART: usize = 5 << 20;

fn per_file() -> Abilities {
    Abilities {
        syncs_everything: false,
        ..Abilities::default()
    }
}

/// Room for a small record, not for one of many tags.
fn narrow() -> Abilities {
    Abilities {
        max_record_len_bytes: 300,
        ..Abilities::default()
    }
}

fn without_xattrs() -> Abilities {
    Abilities {
        has_xattrs: false,
        ..Abilities::default()
    }
}

macro_rules! scenes {
    ($($(#[$meta:meta])* $name:ident: [$($setup:expr),* $(,)?] => [$($op:expr),* $(,)?] on $($abilities:expr),+;)*) => {
        $(
            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                for abilities in [$($abilities),+] {
                    let scene = Scene::new(vec![$($setup),*], vec![$($op),*]);
                    cut_everywhere(scene.with(abilities), &CUTS).await;
                }
            }
        )*
    };
}

use Op::{
    Abort, All, Begin, Complete, Copy, MakeBucket, Part, PartUnannounced, Put, Remove,
    RemoveBucket, Set, Tag, Touch,
};

scenes! {
    put_of_a_new_key: [] => [Put("b:x/y/k", Body(5_000, 1), 0)]
        on Abilities::default(), per_file();
    put_of_a_long_body: [] => [Put("b:k", Body(400_000, 1), 0)]
        on Abilities::default();
    overwrite: [Put("b:k", Body(9_000, 1), 0)] => [Put("b:k", Body(5_000, 2), 60), Put("b:k", Body(200_000, 3), 0)]
        on Abilities::default(), per_file();
    a_key_and_keys_below_it: [Put("b:a", Body(10, 1), 0)] =>
        [Put("b:a/b", Body(20, 2), 0), Put("b:a", Body(30, 3), 0), Remove("b:a/b")]
        on Abilities::default(), per_file();
    a_key_above_others: [Put("b:a/b/c", Body(10, 1), 0)] =>
        [Put("b:a/b", Body(20, 2), 0), Put("b:a", Body(30, 3), 0), Remove("b:a/b/c"), Remove("b:a/b"), Remove("b:a")]
        on Abilities::default();
    the_last_key_of_a_directory: [Put("b:d/e/k", Body(10, 1), 0), Put("b:d/e", Body(10, 1), 0)] => [Remove("b:d/e/k"), Remove("b:d/e")]
        on Abilities::default();
    markers: [Put("b:n/m/k", Body(1, 1), 0)] =>
        [Put("b:m/", Body(0, 0), 0), Put("b:m/", Body(50, 1), 60), Put("b:m/", Body(0, 0), 90), Remove("b:m/"), Put("b:n/m/", Body(0, 0), 0), Remove("b:n/m/k"), Remove("b:n/m/")]
        on Abilities::default(), without_xattrs();
    escaped_keys: [] => [Put("b:q//r", Body(10, 1), 0), Put("b:q//r", Body(20, 2), 0), Remove("b:q//r")]
        on Abilities::default();
    tags: [Put("b:k", Body(10, 1), 0)] => [Tag("b:k", 2), Touch("b:k", 3)]
        on Abilities::default(), per_file(), without_xattrs();
    tags_beside_the_file: [Put("b:k", Body(10, 1), 900)] => [Tag("b:k", 20), Tag("b:k", 1), Touch("b:k", 21)]
        on narrow();
    records_beside_the_file: [] => [Put("b:k", Body(10, 1), 900), Put("b:k", Body(20, 2), 1_200), Tag("b:k", 30), Put("b:k", Body(30, 3), 0), Remove("b:k")]
        on narrow(), without_xattrs();
    a_marker_whose_inode_number_another_file_has: [Put("b:m/", Body(0, 0), 0), Put("b:k", Body(10, 1), 0)] => [Put("b:m/", Body(0, 0), 60)]
        on Abilities::default();
    a_marker_with_a_record_beside_it: [] => [Put("b:m/", Body(0, 0), 900), Put("b:m/", Body(0, 0), 1_200), Remove("b:m/")]
        on narrow();
    copies: [Put("b:k", Body(300_000, 1), 90)] => [Copy("b:k", "b:c/d"), Copy("b:c/d", "b:k")]
        on Abilities::default();
    buckets: [] => [MakeBucket("c"), Set("c", "x"), Begin("c:k"), Part("c:k", 1, Body(100, 1)), RemoveBucket("c"), MakeBucket("c")]
        on Abilities::default();
    an_upload_and_its_parts: [] =>
        [Begin("b:k"), Part("b:k", 1, Body(100, 1)), PartUnannounced("b:k", 1, Body(200, 2)), Part("b:k", 2, Body(300_000, 2)), Complete("b:k", vec![1])]
        on Abilities::default();
    parts_in_slots: [Begin("b:k"), Part("b:k", 1, Body(MIN_PART, 1))] =>
        [Part("b:k", 2, Body(100_000, 2)), Part("b:k", 2, Body(70_000, 3))]
        on Abilities::default();
    completing_in_place: [Put("b:k", Body(10, 1), 0), Begin("b:k"), Part("b:k", 1, Body(MIN_PART, 1)), Part("b:k", 2, Body(100, 2))] =>
        [Complete("b:k", vec![1, 2])]
        on Abilities::default();
    completing_without_the_last_part: [Begin("b:k"), Part("b:k", 1, Body(MIN_PART, 1)), Part("b:k", 2, Body(100, 2))] =>
        [Complete("b:k", vec![1])]
        on Abilities::default();
    completing_by_copying: [Put("b:k", Body(10, 1), 0), Begin("b:k"), PartUnannounced("b:k", 1, Body(1_000, 1))] =>
        [Complete("b:k", vec![1]), Touch("b:k", 3)]
        on Abilities::default();
    aborting: [Begin("b:k"), Part("b:k", 1, Body(MIN_PART, 1)), PartUnannounced("b:k", 2, Body(100, 1))] => [Abort("b:k")]
        on Abilities::default();
    many_at_once: [Put("b:a", Body(10, 1), 0), Put("b:e", Body(10, 1), 0)] => [All(vec![
            Put("b:a", Body(100, 2), 0), Put("b:a/b", Body(100, 2), 0), Put("b:c/d", Body(100, 2), 0), Put("b:c/f", Body(100, 2), 0),
            Put("b:g", Body(100, 2), 0), Put("b:h", Body(100, 2), 0), Remove("b:e"), Put("b:i//j", Body(100, 2), 0),
        ])]
        on Abilities::default(), per_file();
    many_removed_at_once: [Put("b:d/1", Body(10, 1), 0), Put("b:d/2", Body(10, 1), 0), Put("b:d/3", Body(10, 1), 0), Put("b:d", Body(10, 1), 0)] =>
        [All(vec![Remove("b:d/1"), Remove("b:d/2"), Remove("b:d/3"), Remove("b:d")])]
        on Abilities::default();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_acknowledgements_outlive_the_process() {
    let mut scene = Scene::new(
        vec![Put("b:k", Body(10, 1), 0)],
        vec![
            Put("b:k", Body(5_000, 2), 0),
            Put("b:k/l", Body(200_000, 3), 0),
            Tag("b:k", 3),
            Remove("b:k/l"),
            Copy("b:k", "b:c"),
        ],
    );
    scene.durability = Durability::Relaxed;
    cut_everywhere(scene, &[End::Kill]).await;
}
