//! Hard and symbolic links.

use std::os::fd::AsFd;

use crate::files::{Errno, FileId, Files, OpenFile, Target};
use crate::name::BucketName;

use super::{BOTH, HELLO_MD5, Scene, me, path};

fn link(scene: &Scene, from: &str, to: &str) -> Result<u32, Errno> {
    let (source, to) = (path(from), path(to));
    let ino = scene.lookup(from)?.ino;
    let target = Target::Named {
        path: &source,
        id: FileId::any(ino),
    };
    Ok(scene.brick.make_link(target, &to)?.link_count)
}

#[test]
fn a_hard_link_is_a_second_key_with_the_same_bytes_and_tag() {
    let scene = Scene::new();
    let put = scene.put("one", b"hello");
    assert_eq!(link(&scene, "b/one", "b/two"), Ok(2));
    for key in ["one", "two"] {
        assert_eq!(scene.stat(key).etag, put.etag);
        assert_eq!(scene.listed_tag(key), put.etag.as_str());
    }
    // A PUT to one breaks it off.
    scene.put("one", b"other");
    assert_eq!(scene.get("two"), b"hello");
    assert_eq!(scene.stat("two").etag, put.etag);
    assert_eq!(scene.listed_tag("two"), put.etag.as_str());
    assert_eq!(link(&scene, "b/one", "b/two"), Err(Errno::EXIST));
}

#[test]
fn a_key_removed_leaves_the_other_with_its_tag() {
    let scene = Scene::new();
    let put = scene.put("one", b"hello");
    link(&scene, "b/one", "b/two").unwrap();
    scene.delete("one");
    assert_eq!(scene.keys(), ["two"]);
    assert_eq!(scene.stat("two").etag, put.etag);
    assert_eq!(scene.listed_tag("two"), put.etag.as_str());
}

#[test]
fn a_link_broken_off_does_not_make_true_what_was_in_doubt() {
    let scene = Scene::new();
    let put = scene.put("one", b"hello");
    link(&scene, "b/one", "b/two").unwrap();
    let on_disk = scene.real("b/two");
    let before = std::fs::metadata(&on_disk).unwrap().modified().unwrap();
    std::fs::write(&on_disk, b"other").unwrap();
    let file = std::fs::File::options().write(true).open(&on_disk).unwrap();
    file.set_modified(before).unwrap();
    scene.put("one", b"third");
    assert_ne!(scene.stat("two").etag, put.etag);
    assert_ne!(scene.listed_tag("two"), put.etag.as_str());
}

#[test]
fn a_name_taken_away_leaves_the_other_with_its_tag() {
    let scene = Scene::new();
    let put = scene.put("one", b"hello");
    link(&scene, "b/one", "b/two").unwrap();
    scene.brick.unlink(&path("b/one")).unwrap();
    assert_eq!(scene.keys(), ["two"]);
    assert_eq!(scene.stat("two").etag, put.etag);
}

#[test]
fn an_open_file_can_be_linked() {
    let scene = Scene::new();
    let file = scene.create("b/one").unwrap();
    file.write(0, b"hello").unwrap();
    let linked = scene.brick.make_link(Target::Open(&file), &path("b/two"));
    assert_eq!(linked.unwrap().link_count, 2);
    drop(file);
    assert_eq!(scene.keys(), ["one", "two"]);
    scene.eventually_tagged("one", HELLO_MD5);
    scene.eventually_tagged("two", HELLO_MD5);
}

#[test]
fn a_directory_has_one_name() {
    let scene = Scene::new();
    scene.mkdir("b/d").unwrap();
    assert_eq!(link(&scene, "b/d", "b/e"), Err(Errno::PERM));
    scene.write("b/f", b"x");
    assert_eq!(link(&scene, "b/f", "f"), Err(Errno::PERM));
}

#[test]
fn a_symbolic_link_to_a_file_inside_is_an_object() {
    let scene = Scene::new();
    let put = scene.put("file", b"hello");
    let make = |at: &str, to: &str| scene.brick.make_symlink(&path(at), to.as_ref(), me());
    let made = make("b/link", "file").unwrap();
    assert_eq!(made.len_bytes, 4);
    make("b/dangling", "nothing").unwrap();
    make("b/outside", "/etc/passwd").unwrap();
    assert_eq!(scene.keys(), ["file", "link"]);
    assert_eq!(scene.stat("link").etag, put.etag);
    assert_eq!(
        scene
            .brick
            .read_link(&path("b/link"), FileId::any(made.ino))
            .unwrap(),
        "file"
    );
    assert_eq!(scene.lookup("b/link").unwrap().ino, made.ino);
    let opened = scene.open("b/link", BOTH);
    assert_eq!(opened.err(), Some(Errno::STALE));
    scene.brick.unlink(&path("b/link")).unwrap();
    assert_eq!(scene.keys(), ["file"]);
}

#[test]
fn keys_are_reached_through_a_symbolic_link_to_a_directory() {
    let scene = Scene::new();
    scene.put("d/k", b"x");
    assert_eq!(scene.keys(), ["d/k"]);
    scene
        .brick
        .make_symlink(&path("b/link"), "d".as_ref(), me())
        .unwrap();
    assert_eq!(scene.keys(), ["d/k", "link/k"]);
    // The mount's kernel goes through links itself.
    assert_eq!(scene.lookup("b/link/k").err(), Some(Errno::STALE));
}

/// A crash may come between the link and what is said of it.
#[test]
fn before_a_link_to_a_directory_is_made_the_log_says_that_rows_are_missing() {
    let says = |target: &str| {
        let scene = Scene::new();
        scene.put("d/k", b"x");
        let made = scene
            .brick
            .make_symlink(&path("b/d"), target.as_ref(), me());
        assert_eq!(made.err(), Some(Errno::EXIST));
        let (bucket, log) = (BucketName::parse("b").unwrap(), &scene.brick.inner.log);
        let end = log.end();
        log.mark_rows(&bucket).unwrap();
        log.end() == end
    };
    assert!(!says("nothing") && !says("/d"));
    assert!(says("d"));
}

#[test]
fn a_descriptor_leads_to_a_path_of_this_volume_or_to_none() {
    let scene = Scene::new();
    let disk = &scene.brick.inner.tree.disk;
    scene.write("b/k", b"x");
    let open = |at: &std::path::Path| std::fs::File::open(at).unwrap();
    let file = open(&scene.real("b/k"));
    assert_eq!(disk.path_of(file.as_fd()), Some(path("b/k")));
    std::fs::remove_file(scene.real("b/k")).unwrap();
    assert_eq!(disk.path_of(file.as_fd()), None);
    let mut sibling = scene.real("").file_name().unwrap().to_owned();
    sibling.push("2");
    let sibling = scene.real("").with_file_name(sibling);
    std::fs::create_dir(&sibling).unwrap();
    std::fs::write(sibling.join("k"), b"x").unwrap();
    let led = disk.path_of(open(&sibling.join("k")).as_fd());
    std::fs::remove_dir_all(sibling).unwrap();
    assert_eq!(led, None);
}
