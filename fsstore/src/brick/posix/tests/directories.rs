//! Directories being read.

use std::collections::BTreeSet;

use crate::files::{Errno, FileId, Files, OpenDir};

use super::{Scene, path};

/// Reads from a place on, at most `limit` names; gives them and where to go on.
fn some(dir: &impl OpenDir, from: u64, limit: usize) -> (Vec<String>, u64) {
    let (mut names, mut next) = (Vec::new(), from);
    dir.read(from, &mut |entry| {
        if names.len() == limit {
            return false;
        }
        names.push(entry.name.to_str().unwrap().to_owned());
        next = entry.next;
        true
    })
    .unwrap();
    (names, next)
}

#[test]
fn entries_that_stand_are_met_once_while_others_come_and_go() {
    let scene = Scene::new();
    let standing: BTreeSet<String> = (0..2_000).map(|i| format!("standing-{i}")).collect();
    std::fs::create_dir(scene.real("b/d")).unwrap();
    for name in &standing {
        std::fs::write(scene.real("b/d").join(name), b"").unwrap();
    }
    let ino = scene.lookup("b/d").unwrap().ino;
    let dir = scene
        .brick
        .open_dir(&path("b/d"), FileId::any(ino))
        .unwrap();
    let (mut met, mut from) = (Vec::new(), 0);
    for round in 0.. {
        let (names, next) = some(&dir, from, 37);
        if names.is_empty() {
            break;
        }
        met.extend(names.into_iter().filter(|name| standing.contains(name)));
        from = next;
        std::fs::write(scene.real(&format!("b/d/coming-{round}")), b"").unwrap();
        let going = scene.real(&format!("b/d/coming-{}", round / 2));
        let _ = std::fs::remove_file(going);
    }
    assert_eq!(met.len(), standing.len());
    assert_eq!(met.into_iter().collect::<BTreeSet<_>>(), standing);
}

#[test]
fn a_place_is_gone_back_to_and_the_beginning_is_read_anew() {
    let scene = Scene::new();
    for name in ["a", "b", "c", "d"] {
        scene.write(&format!("b/{name}"), b"");
    }
    let ino = scene.lookup("b").unwrap().ino;
    let dir = scene.brick.open_dir(&path("b"), FileId::any(ino)).unwrap();
    let (first, after_two) = some(&dir, 0, 2);
    let (rest, end) = some(&dir, after_two, 10);
    assert_eq!((first.len(), rest.len()), (2, 2));
    assert_eq!(some(&dir, end, 10).0, Vec::<String>::new());
    assert_eq!(some(&dir, after_two, 10).0, rest);
    scene.write("b/e", b"");
    let all: BTreeSet<String> = some(&dir, 0, 10).0.into_iter().collect();
    assert_eq!(all, ["a", "b", "c", "d", "e"].map(str::to_owned).into());
}

#[test]
fn entries_have_their_inode_and_kind_and_attributes() {
    let scene = Scene::new();
    scene.write("b/f", b"hello");
    scene.mkdir("b/d").unwrap();
    let ino = scene.lookup("b").unwrap().ino;
    let dir = scene.brick.open_dir(&path("b"), FileId::any(ino)).unwrap();
    dir.read(0, &mut |entry| {
        let name = entry.name.to_str().unwrap();
        let attr = scene.lookup(&format!("b/{name}")).unwrap();
        assert_eq!(entry.ino, attr.ino);
        assert_eq!(entry.kind, attr.mode & 0o170_000);
        assert_eq!(dir.attr_of(entry.name), Ok(attr));
        true
    })
    .unwrap();
    assert_eq!(dir.attr_of("none".as_ref()), Err(Errno::NOENT));
    assert_eq!(dir.attr_of("../b".as_ref()), Err(Errno::INVAL));
    assert_eq!(dir.sync(), Ok(()));
}

#[test]
fn the_root_has_attributes_of_buckets_only() {
    let scene = Scene::new();
    std::fs::write(scene.real("file"), b"x").unwrap();
    let ino = scene.lookup("").unwrap().ino;
    let dir = scene.brick.open_dir(&path(""), FileId::any(ino)).unwrap();
    assert_eq!(dir.attr_of("b".as_ref()), scene.lookup("b"));
    for name in ["file", ".portico", "none"] {
        assert_eq!(dir.attr_of(name.as_ref()), Err(Errno::NOENT), "{name}");
    }
}
