//! What a call says that cannot be done.

use std::ffi::OsStr;

use crate::files::{Errno, FileId, Files, NewNode, RenameMode, SetAttr, Target};

use super::{BOTH, READ, Scene, WRITE, me, path};

fn scene() -> Scene {
    let scene = Scene::new();
    scene.write("b/f", b"x");
    scene.mkdir("b/d").unwrap();
    scene.write("b/d/f", b"x");
    scene
}

#[test]
fn another_file_of_the_same_number_is_stale() {
    let scene = scene();
    let path = path("b/f");
    let id = scene.lookup("b/f").unwrap().id();
    let later = FileId {
        generation: id.generation + 1,
        ..id
    };
    for (id, found) in [(id, Ok(())), (later, Err(Errno::STALE))] {
        let target = || Target::Named { path: &path, id };
        assert_eq!(scene.brick.attr(target()).map(drop), found);
        assert_eq!(
            scene.brick.open_file(target(), super::READ).map(drop),
            found
        );
    }
}

#[test]
fn what_is_not_there_is_enoent() {
    let scene = scene();
    let none = path("b/none");
    let named = Target::Named {
        path: &none,
        id: FileId::any(1),
    };
    assert_eq!(scene.lookup("b/none").err(), Some(Errno::NOENT));
    assert_eq!(scene.brick.attr(named).err(), Some(Errno::NOENT));
    assert_eq!(scene.create("b/none/f").err(), Some(Errno::NOENT));
    assert_eq!(scene.create("none/f").err(), Some(Errno::NOENT));
    assert_eq!(scene.mkdir("b/none/d").err(), Some(Errno::NOENT));
    assert_eq!(scene.brick.unlink(&none), Err(Errno::NOENT));
    assert_eq!(scene.brick.unlink(&path("none")), Err(Errno::NOENT));
    assert_eq!(scene.brick.remove_dir(&none), Err(Errno::NOENT));
    assert_eq!(scene.brick.remove_dir(&path("none")), Err(Errno::NOENT));
    let moved = scene.brick.rename(&none, &path("b/x"), RenameMode::Replace);
    assert_eq!(moved, Err(Errno::NOENT));
    assert_eq!(
        scene.brick.open_dir(&none, FileId::any(1)).err(),
        Some(Errno::NOENT)
    );
}

#[test]
fn what_is_below_a_file_is_enotdir() {
    let scene = scene();
    let below = path("b/f/x");
    assert_eq!(scene.lookup("b/f/x").err(), Some(Errno::NOTDIR));
    assert_eq!(scene.create("b/f/x").err(), Some(Errno::NOTDIR));
    assert_eq!(scene.mkdir("b/f/x").err(), Some(Errno::NOTDIR));
    assert_eq!(scene.brick.unlink(&below), Err(Errno::NOTDIR));
    assert_eq!(scene.brick.remove_dir(&path("b/f")), Err(Errno::NOTDIR));
    let ino = scene.lookup("b/f").unwrap().ino;
    let opened = scene.brick.open_dir(&path("b/f"), FileId::any(ino));
    assert_eq!(opened.err(), Some(Errno::NOTDIR));
    let over = |from: &str, to: &str| {
        scene
            .brick
            .rename(&path(from), &path(to), RenameMode::Replace)
    };
    assert_eq!(over("b/d", "b/f"), Err(Errno::NOTDIR));
    assert_eq!(over("b/f", "b/d"), Err(Errno::ISDIR));
    assert_eq!(over("b/d", "b/d/below"), Err(Errno::INVAL));
}

#[test]
fn what_is_there_is_eexist() {
    let scene = scene();
    assert_eq!(scene.mkdir("b/d").err(), Some(Errno::EXIST));
    assert_eq!(scene.mkdir("b/f").err(), Some(Errno::EXIST));
    assert_eq!(scene.mkdir("b").err(), Some(Errno::EXIST));
    assert_eq!(scene.mkdir("").err(), Some(Errno::EXIST));
    let link = scene.brick.make_symlink(&path("b/f"), "x".as_ref(), me());
    assert_eq!(link.err(), Some(Errno::EXIST));
    let node = NewNode {
        mode: 0o100_644,
        rdev: 0,
    };
    let made = scene.brick.make_node(&path("b/d"), node, me());
    assert_eq!(made.err(), Some(Errno::EXIST));
}

#[test]
fn a_directory_is_eisdir_or_enotempty() {
    let scene = scene();
    assert_eq!(scene.brick.unlink(&path("b/d")), Err(Errno::ISDIR));
    assert_eq!(scene.brick.unlink(&path("b")), Err(Errno::ISDIR));
    assert_eq!(scene.brick.unlink(&path("")), Err(Errno::ISDIR));
    for flags in [READ, WRITE, BOTH] {
        assert_eq!(scene.open("b/d", flags).err(), Some(Errno::ISDIR));
        assert_eq!(scene.open("b", flags).err(), Some(Errno::ISDIR));
    }
    assert_eq!(scene.create("b/d").err(), Some(Errno::ISDIR));
    assert_eq!(scene.brick.remove_dir(&path("b/d")), Err(Errno::NOTEMPTY));
    assert_eq!(scene.brick.remove_dir(&path("b")), Err(Errno::NOTEMPTY));
    assert_eq!(scene.brick.remove_dir(&path("")), Err(Errno::BUSY));
    let whole = path("b/d");
    let ino = scene.lookup("b/d").unwrap().ino;
    let cut = SetAttr {
        len_bytes: Some(0),
        ..SetAttr::default()
    };
    let set = scene.brick.set_attr(
        Target::Named {
            path: &whole,
            id: FileId::any(ino),
        },
        cut,
    );
    assert_eq!(set.err(), Some(Errno::ISDIR));
}

#[test]
fn another_inode_at_a_name_is_estale() {
    let scene = scene();
    let whole = path("b/f");
    let ino = scene.lookup("b/f").unwrap().ino;
    scene.put("f", b"another");
    let target = || Target::Named {
        path: &whole,
        id: FileId::any(ino),
    };
    let stale = Some(Errno::STALE);
    assert_eq!(scene.brick.attr(target()).err(), stale);
    assert_eq!(scene.brick.open_file(target(), READ).err(), stale);
    assert_eq!(scene.brick.open_file(target(), WRITE).err(), stale);
    let set = scene.brick.set_attr(target(), SetAttr::default());
    assert_eq!(set.err(), stale);
    assert_eq!(scene.brick.xattr_names(target()).err(), stale);
    assert_eq!(scene.brick.make_link(target(), &path("b/l")).err(), stale);
    assert_eq!(scene.brick.read_link(&whole, FileId::any(ino)).err(), stale);
    assert_eq!(
        scene.brick.open_dir(&path("b/d"), FileId::any(ino)).err(),
        stale
    );
    assert_eq!(scene.get("f"), b"another");
}

#[test]
fn a_bucket_name_that_can_be_none_is_einval() {
    let scene = scene();
    assert_eq!(scene.mkdir(".x").err(), Some(Errno::INVAL));
    let name = OsStr::new("f");
    let ino = scene.lookup("b/f").unwrap().ino;
    let whole = path("b").join(name).unwrap();
    assert_eq!(
        scene.brick.read_link(&whole, FileId::any(ino)),
        Err(Errno::INVAL)
    );
    let long = "x".repeat(256);
    let joined = path("b").join(OsStr::new(&long));
    assert_eq!(joined, Err(Errno::NAMETOOLONG));
}
