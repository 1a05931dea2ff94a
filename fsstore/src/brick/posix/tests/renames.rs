//! Names moved.

use crate::files::{
    Errno, FileId, FileResult, Files, NewNode, OpenFile, OpenFlags, RenameMode, Target,
};

use super::{BOTH, HELLO_MD5, Scene, at_in, me, path};

impl Scene {
    pub(super) fn rename(&self, from: &str, to: &str, mode: RenameMode) -> FileResult<()> {
        self.brick.rename(&path(from), &path(to), mode)
    }

    pub(super) fn mv(&self, from: &str, to: &str) -> FileResult<()> {
        self.rename(from, to, RenameMode::Replace)
    }
}

#[test]
fn a_file_moved_is_the_same_object_at_another_key() {
    let scene = Scene::new();
    let put = scene.put("one", b"hello");
    let ino = scene.lookup("b/one").unwrap().ino;
    scene.mv("b/one", "b/two").unwrap();
    assert!(!scene.has_key("one"));
    assert_eq!(scene.stat("two").etag, put.etag);
    assert_eq!(scene.listed_tag("two"), put.etag.as_str());
    assert_eq!(scene.keys(), ["two"]);
    assert_eq!(scene.lookup("b/two").unwrap().ino, ino);
    let scene = scene.reopened();
    assert_eq!(scene.stat("two").etag, put.etag);
}

#[test]
fn a_file_moved_over_another_replaces_the_object() {
    let scene = Scene::new();
    let put = scene.put("one", b"hello");
    scene.put("two", b"other");
    let open = scene.open("b/two", super::READ).unwrap();
    let kept = scene.rename("b/one", "b/two", RenameMode::NoReplace);
    assert_eq!(kept, Err(Errno::EXIST));
    assert_eq!(scene.keys(), ["one", "two"]);
    assert_eq!(scene.stat("one").etag, put.etag);
    scene.mv("b/one", "b/two").unwrap();
    assert_eq!(scene.keys(), ["two"]);
    assert_eq!(scene.get("two"), b"hello");
    assert_eq!(scene.stat("two").etag, put.etag);
    assert_eq!(super::read_all(&open).unwrap(), b"other");
}

#[test]
fn doubt_goes_along_with_a_file() {
    let scene = Scene::new();
    scene.put("one", b"HELLO");
    scene.keys();
    // Size and time as they were, other bytes: behind portico's back.
    let real = scene.real("b/one");
    let before = std::fs::metadata(&real).unwrap().modified().unwrap();
    std::fs::write(&real, b"hello").unwrap();
    let file = std::fs::File::options().write(true).open(&real).unwrap();
    file.set_modified(before).unwrap();
    scene.mv("b/one", "b/two").unwrap();
    assert!(scene.stat("two").etag.is_provisional());
    scene.eventually_tagged("two", HELLO_MD5);
}

#[test]
fn a_file_moved_while_it_is_written_gets_its_md5_where_it_went() {
    let scene = Scene::new();
    let file = scene.create("b/one").unwrap();
    file.write(0, b"hel").unwrap();
    scene.mv("b/one", "b/two").unwrap();
    assert_eq!(scene.keys(), ["two"]);
    file.write(3, b"lo").unwrap();
    drop(file);
    scene.eventually_tagged("two", HELLO_MD5);
}

#[test]
fn a_directory_moves_with_all_its_keys() {
    let scene = Scene::new();
    let put = scene.put("d/one", b"hello");
    scene.put("d/sub/two", b"x");
    scene.put("d/sub/", b"");
    scene.put("da", b"beside it");
    scene.mv("b/d", "b/e").unwrap();
    assert_eq!(scene.keys(), ["da", "e/one", "e/sub/", "e/sub/two"]);
    assert!(!scene.has_key("d/one"));
    assert_eq!(scene.stat("e/one").etag, put.etag);
    assert_eq!(scene.listed_tag("e/one"), put.etag.as_str());
    let scene = scene.reopened();
    assert_eq!(scene.keys(), ["da", "e/one", "e/sub/", "e/sub/two"]);
    assert_eq!(scene.listed_tag("e/one"), put.etag.as_str());
}

#[test]
fn names_move_between_buckets() {
    let scene = Scene::new();
    scene.make_bucket("c");
    let put = scene.put("d/one", b"hello");
    scene.put("f", b"x");
    scene.mv("b/d", "c/d").unwrap();
    scene.mv("b/f", "c/f").unwrap();
    assert!(scene.keys().is_empty());
    assert_eq!(scene.keys_in("c"), ["d/one", "f"]);
    assert_eq!(scene.stat_at(&at_in("c", "d/one")).unwrap().etag, put.etag);
}

#[test]
fn a_bucket_stays_where_it_is() {
    let scene = Scene::new();
    scene.mkdir("b/d").unwrap();
    scene.write("b/f", b"x");
    for (from, to) in [("b", "c"), ("b/d", "c"), ("b/f", "f"), ("b", "b/d/b")] {
        assert_eq!(scene.mv(from, to), Err(Errno::PERM), "{from} {to}");
    }
    assert_eq!(scene.mv(".portico/index", "b/x"), Err(Errno::NOENT));
    assert_eq!(scene.mv("b/f", ".portico/index"), Err(Errno::NOENT));
}

#[test]
fn an_empty_directory_is_replaced_with_its_marker() {
    let scene = Scene::new();
    scene.put("from/k", b"x");
    scene.put("to/", b"with a body");
    scene.mv("b/from", "b/to").unwrap();
    assert_eq!(scene.keys(), ["to/k"]);
    assert!(!scene.has_key("to/"));
    scene.mkdir("b/other").unwrap();
    assert_eq!(scene.mv("b/other", "b/to"), Err(Errno::NOTEMPTY));
}

#[test]
fn the_object_that_a_directory_displaced_comes_back_when_it_moves_away() {
    let scene = Scene::new();
    let short = scene.put("a", b"short");
    scene.put("a/b", b"long");
    scene.mv("b/a", "b/z").unwrap();
    assert_eq!(scene.keys(), ["a", "z/b"]);
    assert_eq!(scene.read("b/a").unwrap(), b"short");
    assert_eq!(scene.stat("a").etag, short.etag);
}

#[test]
fn a_directory_moved_to_where_an_object_stood_aside_replaces_it() {
    let scene = Scene::new();
    let aside = scene.put("d/k", b"aside");
    scene.put("d/k/below", b"x");
    scene.put("d/other", b"aside too");
    scene.put("d/other/below", b"x");
    scene.mv("b/d", "b/e").unwrap();
    assert_eq!(
        scene.keys(),
        ["d/k", "d/other", "e/k/below", "e/other/below"]
    );
    assert_eq!(scene.stat("d/k").etag, aside.etag);
    let put = scene.put("new/k", b"hello");
    scene.mv("b/new", "b/d").unwrap();
    assert_eq!(
        scene.keys(),
        ["d/k", "d/other", "e/k/below", "e/other/below"]
    );
    assert_eq!(scene.stat("d/k").etag, put.etag);
    assert_eq!(scene.get("d/other"), b"aside too");
    scene.brick.unlink(&path("b/d/k")).unwrap();
    assert!(!scene.has_key("d/k"));
}

#[test]
fn two_names_change_places() {
    let scene = Scene::new();
    let one = scene.put("one", b"1");
    let two = scene.put("two", b"2");
    let exchange = RenameMode::Exchange;
    scene.rename("b/one", "b/two", exchange).unwrap();
    assert_eq!(scene.stat("one").etag, two.etag);
    assert_eq!(scene.stat("two").etag, one.etag);
    assert_eq!(scene.listed_tag("two"), one.etag.as_str());
    scene.put("d/k", b"x");
    scene.put("e/l", b"x");
    scene.rename("b/d", "b/e", exchange).unwrap();
    assert!(scene.rows_are_whole());
    assert_eq!(scene.keys(), ["d/l", "e/k", "one", "two"]);
    scene.rename("b/d", "b/one", exchange).unwrap();
    assert!(scene.rows_are_whole());
    assert_eq!(scene.keys(), ["d", "e/k", "one/l", "two"]);
    assert_eq!(scene.stat("d").etag, two.etag);
    assert_eq!(scene.rename("b/d", "b/none", exchange), Err(Errno::NOENT));
}

#[test]
fn two_names_of_one_file_are_left_as_they_are() {
    let scene = Scene::new();
    scene.put("one", b"x");
    let (one, ino) = (path("b/one"), scene.lookup("b/one").unwrap().ino);
    let target = Target::Named {
        path: &one,
        id: FileId::any(ino),
    };
    scene.brick.make_link(target, &path("b/two")).unwrap();
    scene.mv("b/one", "b/two").unwrap();
    assert_eq!(scene.names_of("b"), ["one", "two"]);
}

#[test]
fn a_file_does_not_change_places_with_a_directory_that_shelters_an_object() {
    let scene = Scene::new();
    let sheltered = scene.put("d", b"sheltered");
    scene.put("d/k", b"x");
    let file = scene.put("f", b"file");
    scene.put("e/l", b"x");
    let swap = |one, other| scene.rename(one, other, RenameMode::Exchange);
    assert_eq!(swap("b/d", "b/f"), Err(Errno::BUSY));
    assert_eq!(swap("b/f", "b/d"), Err(Errno::BUSY));
    assert_eq!(scene.keys(), ["d", "d/k", "e/l", "f"]);
    assert_eq!(scene.stat("d").etag, sheltered.etag);
    assert_eq!(scene.stat("f").etag, file.etag);
    // Two directories leave the object where it is.
    swap("b/d", "b/e").unwrap();
    assert_eq!(scene.keys(), ["d", "d/l", "e/k", "f"]);
    assert_eq!(scene.get("d"), b"sheltered");
}

#[test]
fn what_replaces_nothing_leaves_an_object_that_stands_aside() {
    let scene = Scene::new();
    let aside = scene.put("a/x", b"aside");
    scene.put("a/x/below", b"x");
    scene.mv("b/a", "b/z").unwrap();
    let exclusive = OpenFlags {
        exclusive: true,
        ..BOTH
    };
    let create = |flags| scene.brick.create(&path("b/a/x"), 0o644, flags, me());
    assert_eq!(create(exclusive).err(), Some(Errno::NOENT), "no directory");
    scene.mkdir("b/a").unwrap();
    scene.write("b/f", b"file");
    scene.put("new/x", b"new");
    let (file, to) = (path("b/f"), path("b/a/x"));
    let ino = scene.lookup("b/f").unwrap().ino;
    let node = NewNode {
        mode: 0o100_644,
        rdev: 0,
    };
    let exist = Some(Errno::EXIST);
    assert_eq!(create(exclusive).err(), exist);
    let linked = scene.brick.make_link(
        Target::Named {
            path: &file,
            id: FileId::any(ino),
        },
        &to,
    );
    assert_eq!(linked.err(), exist);
    assert_eq!(scene.brick.make_node(&to, node, me()).err(), exist);
    let link = scene.brick.make_symlink(&to, "../f".as_ref(), me());
    assert_eq!(link.err(), exist);
    let kept = scene.rename("b/f", "b/a/x", RenameMode::NoReplace);
    assert_eq!(kept.err(), exist);
    scene.brick.remove_dir(&path("b/a")).unwrap();
    let kept = scene.rename("b/new", "b/a", RenameMode::NoReplace);
    assert_eq!(kept.err(), exist);
    assert_eq!(scene.stat("a/x").etag, aside.etag);
    assert_eq!(scene.keys(), ["a/x", "f", "new/x", "z/x/below"]);
    // What may replace it does.
    scene.mkdir("b/a").unwrap();
    create(BOTH).unwrap();
    assert_eq!(scene.get("a/x"), b"");
    scene.brick.unlink(&to).unwrap();
    assert!(!scene.has_key("a/x"));
    scene.rename("b/f", "b/a/x", RenameMode::NoReplace).unwrap();
    assert_eq!(scene.get("a/x"), b"file");
}
