//! Both halves of the waist at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::error::StoreError;
use crate::files::{Errno, Files, OpenFile, OpenFlags, RenameMode, Target, XattrMode};
use crate::object::{ETagMatch, Precondition};
use crate::volume::{AttrsPatch, CommitOptions, StageOptions, Staged, Volume};

use super::{BOTH, Scene, at, me, path};

impl Scene {
    /// Puts an object where none is; false where one was.
    fn put_new(&self, key: &str, bytes: &'static [u8]) -> bool {
        let only_new = Precondition {
            if_none_match: Some(ETagMatch::Any),
            ..Precondition::default()
        };
        let put = self.runtime.block_on(async {
            let options = StageOptions::default();
            let mut staged = self.brick.stage(&at(key), options).await.unwrap();
            staged.write(Bytes::from_static(bytes)).await.unwrap();
            let options = CommitOptions {
                precondition: only_new,
                ..CommitOptions::default()
            };
            staged.commit(options).await
        });
        match put {
            Ok(_) => true,
            Err(StoreError::PreconditionFailed(_)) => false,
            Err(e) => panic!("{e}"),
        }
    }

    /// Makes a file where none is; false where one was.
    fn create_new(&self, at: &str) -> bool {
        let exclusive = OpenFlags {
            exclusive: true,
            ..BOTH
        };
        match self.brick.create(&path(at), 0o644, exclusive, me()) {
            Ok((_, file)) => {
                assert_eq!(file.write(0, b"mount"), Ok(5));
                true
            }
            Err(Errno::EXIST) => false,
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn who_makes_what_is_not_there_is_one_whatever_the_door() {
    const KEYS: usize = 60;
    let scene = Scene::new();
    let (by_put, by_mount) = std::thread::scope(|threads| {
        let putting = threads.spawn(|| {
            let keys = (0..KEYS).map(|i| format!("k{i}"));
            keys.filter(|key| scene.put_new(key, b"put"))
                .collect::<BTreeSet<_>>()
        });
        let making = threads.spawn(|| {
            let keys = (0..KEYS).rev().map(|i| format!("k{i}"));
            keys.filter(|key| scene.create_new(&format!("b/{key}")))
                .collect::<BTreeSet<_>>()
        });
        (putting.join().unwrap(), making.join().unwrap())
    });
    assert!(by_put.is_disjoint(&by_mount));
    assert_eq!(by_put.len() + by_mount.len(), KEYS);
    for key in by_put {
        assert_eq!(scene.get(&key), b"put");
    }
    for key in by_mount {
        assert_eq!(scene.get(&key), b"mount");
    }
}

#[test]
fn a_listing_shows_a_moved_directory_at_one_place_whole() {
    const KEYS: usize = 40;
    let scene = Scene::new();
    for i in 0..KEYS {
        scene.put(&format!("d/sub/{i}"), b"x");
    }
    let (done, listings) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        let listing = threads.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let keys = scene.keys();
                let at_d = keys.iter().filter(|key| key.starts_with("d/")).count();
                assert!(at_d == 0 || at_d == KEYS, "{keys:?}");
                assert_eq!(keys.len(), KEYS, "{keys:?}");
                listings.fetch_add(1, Ordering::AcqRel);
            }
        });
        for round in 0..50 {
            let (from, to) = match round % 2 {
                0 => ("b/d", "b/e"),
                _ => ("b/e", "b/d"),
            };
            // Each falls into another instant of a listing.
            let seen = listings.load(Ordering::Acquire);
            let is_over = || listings.load(Ordering::Acquire) > seen || listing.is_finished();
            scene.eventually("a listing ends", is_over);
            std::thread::sleep(Duration::from_micros(round * 97));
            let moved = scene
                .brick
                .rename(&path(from), &path(to), RenameMode::Replace);
            assert_eq!(moved, Ok(()));
        }
        done.store(true, Ordering::Release);
        listing.join().unwrap();
    });
}

#[test]
fn many_hands_leave_listing_and_tree_the_same() {
    const ROUNDS: usize = 40;
    let scene = Scene::new();
    std::thread::scope(|threads| {
        for hand in 0..4 {
            let scene = &scene;
            threads.spawn(move || {
                for round in 0..ROUNDS {
                    let (one, two) = ((hand + round) % 5, (hand * 3 + round) % 7);
                    let (file, key) = (format!("b/k{one}"), format!("k{two}"));
                    // Whatever was there, by whomever: only what stays counts.
                    match (hand + round) % 4 {
                        0 => drop(scene.create(&file)),
                        1 => drop(scene.put(&key, b"put")),
                        2 => {
                            let _ = scene.brick.unlink(&path(&file));
                        }
                        _ => {
                            let to = path(&format!("b/{key}"));
                            let mode = RenameMode::Replace;
                            let _ = scene.brick.rename(&path(&file), &to, mode);
                        }
                    }
                }
            });
        }
    });
    assert_eq!(scene.keys(), scene.names_of("b"));
    for key in scene.keys() {
        let tag = scene.stat(&key).etag;
        assert_eq!(scene.listed_tag(&key), tag.as_str());
    }
}

#[test]
fn an_open_that_makes_what_is_not_there_never_says_that_it_is_not() {
    const ROUNDS: usize = 3_000;
    let scene = Scene::new();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // Behind the mount's back, and so outside its turns.
                    let _ = std::fs::remove_file(scene.real("b/k"));
                }
            });
        }
        let opened = (0..ROUNDS).find_map(|_| scene.create("b/k").err());
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(opened, None);
    });
}

#[test]
fn an_attribute_set_on_a_handle_leaves_tags_set_meanwhile() {
    const ROUNDS: usize = 100;
    let scene = Scene::new();
    scene.put("k", b"x");
    let file = scene.open("b/k", BOTH).unwrap();
    let is_over = AtomicBool::new(false);
    let tags_of = |round: usize| BTreeMap::from([("round".to_owned(), round.to_string())]);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let name = OsStr::new("user.s3.meta.round");
            for round in 0_usize.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let value = round.to_string();
                let set = scene.brick.set_xattr(
                    Target::Open(&file),
                    name,
                    value.as_bytes(),
                    XattrMode::Set,
                );
                assert_eq!(set, Ok(()));
            }
        });
        let lost = (0..ROUNDS).find(|round| {
            let tags = Some(tags_of(*round));
            let patch = AttrsPatch {
                tags,
                ..AttrsPatch::default()
            };
            scene.patch("k", patch);
            scene.stat("k").attrs.tags != tags_of(*round)
        });
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(lost, None);
    });
}
