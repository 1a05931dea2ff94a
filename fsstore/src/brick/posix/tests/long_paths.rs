//! Files whose paths are too long for keys until a directory above them gets a shorter name.

use std::time::Duration;

use super::super::super::names::MAX_LOOKED;
use super::{FilePath, Scene, at, path};
use crate::files::{Files, RenameMode};
use crate::name::MAX_KEY_LEN_BYTES;

/// A brick that nobody scans again.
fn scene() -> Scene {
    let scene = Scene::with(|options| options.scan_interval = Duration::from_secs(3_600));
    scanned(&scene);
    scene
}

fn scanned(scene: &Scene) {
    let mut progress = scene.brick.progress();
    let done = scene
        .runtime
        .block_on(async { progress.wait_for(|progress| progress.done).await.map(drop) });
    done.unwrap();
}

/// A path below a directory: of nearly the greatest length of a key where its name is short.
fn long_path(dir: &str) -> String {
    let name = "n".repeat(200);
    format!("{dir}/{}", [name.as_str(); 5].join("/"))
}

fn long_name() -> String {
    "x".repeat(200)
}

fn make_parents(scene: &Scene, of: &str) {
    let names: Vec<_> = of.split('/').collect();
    for len in 2..names.len() {
        let dir = names[..len].join("/");
        if scene.lookup(&dir).is_err() {
            scene.mkdir(&dir).unwrap();
        }
    }
}

#[test]
fn keys_that_were_too_long_for_a_while_are_listed_again() {
    let (scene, key) = (scene(), long_path("a"));
    assert!(key.len() <= MAX_KEY_LEN_BYTES && long_path(&long_name()).len() > MAX_KEY_LEN_BYTES);
    let long = format!("b/{}", long_name());
    scene.put(&key, b"hello");
    scene.put("a/k", b"x");
    for listed_between in [false, true] {
        scene.mv("b/a", &long).unwrap();
        if listed_between {
            assert_eq!(scene.keys(), [format!("{}/k", long_name())]);
        }
        scene.mv(&long, "b/a").unwrap();
        assert_eq!(scene.keys(), ["a/k".to_owned(), key.clone()]);
        assert!(scene.rows_are_whole(), "nobody had to walk");
    }
    assert_eq!(scene.get(&key), b"hello");
}

#[test]
fn files_made_below_too_long_a_path_are_listed_when_it_gets_shorter() {
    let scene = scene();
    let made = format!("b/{}", long_path(&long_name()));
    make_parents(&scene, &made);
    scene.write(&made, b"hello");
    assert!(scene.keys().is_empty());
    scene.mv(&format!("b/{}", long_name()), "b/s").unwrap();
    assert_eq!(scene.keys(), [long_path("s")]);
    assert!(scene.rows_are_whole());
    // The same to another bucket, and by changing places.
    scene.make_bucket("c");
    scene.mv("b/s", &format!("c/{}", long_name())).unwrap();
    scene.mkdir("c/t").unwrap();
    scene
        .rename(&format!("c/{}", long_name()), "c/t", RenameMode::Exchange)
        .unwrap();
    assert_eq!(scene.keys_in("c"), [long_path("t")]);
}

/// Before the scan has met it, whoever renames must take it that there may be one.
#[test]
fn paths_that_stood_before_the_start_are_listed_when_they_get_shorter() {
    let scene = scene();
    let made = format!("b/{}", long_path(&long_name()));
    make_parents(&scene, &made);
    scene.write(&made, b"hello");
    let scene = scene.reopened();
    scene.mv(&format!("b/{}", long_name()), "b/s").unwrap();
    assert_eq!(scene.keys(), [long_path("s")]);
}

#[test]
fn a_scan_tells_whether_there_are_such_paths() {
    let scene = scene();
    let bucket = at("k").bucket;
    let may = |scene: &Scene| scene.brick.inner.index.may_have_long_paths(&bucket);
    assert!(!may(&scene), "a new bucket has none");
    let made = format!("b/{}", long_path(&long_name()));
    make_parents(&scene, &made);
    scene.write(&made, b"hello");
    assert!(may(&scene));
    scene.brick.inner.scan_one(&bucket).unwrap();
    assert!(may(&scene));
    let gone: FilePath = path(&made);
    scene.brick.unlink(&gone).unwrap();
    scene.mv(&format!("b/{}", long_name()), "b/s").unwrap();
    scene.brick.inner.scan_one(&bucket).unwrap();
    assert!(!may(&scene));
}

#[test]
fn a_directory_of_many_keys_is_left_to_the_scan() {
    let scene = scene();
    let long = format!("b/{}", long_name());
    let made = format!("b/{}", long_path(&long_name()));
    make_parents(&scene, &made);
    scene.write(&made, b"hello");
    for n in 0..MAX_LOOKED {
        scene.write(&format!("{long}/{n:03}"), b"x");
    }
    assert!(scene.rows_are_whole());
    scene.mv(&long, "b/s").unwrap();
    assert!(scene.keys().contains(&long_path("s")), "by a walk, or else");
    scene.eventually("a scan that nobody waits for", || scene.rows_are_whole());
    assert!(scene.keys().contains(&long_path("s")));
}
