//! Files created, written and held open.

use crate::brick::HashPolicy;
use crate::files::{Errno, FileId, Files, OpenFile, OpenFlags, SetAttr, Target};

use super::{BOTH, EMPTY_MD5, HELLO_MD5, READ, Scene, WRITE, me, path, read_all};

#[test]
fn a_file_written_is_an_object_at_once_and_gets_its_md5() {
    let scene = Scene::new();
    scene.write("b/dir-is-missing", b"x");
    scene.mkdir("b/d").unwrap();
    let file = scene.create("b/d/f").unwrap();
    assert_eq!(scene.keys(), ["d/f", "dir-is-missing"]);
    assert!(scene.stat("d/f").etag.is_provisional());
    assert_eq!(file.write(0, b"hello"), Ok(5));
    let during = scene.stat("d/f");
    assert_eq!(during.len_bytes, 5);
    assert!(during.etag.is_provisional());
    assert!(scene.listed_tag("d/f").starts_with("px1-"));
    drop(file);
    assert_eq!(scene.get("d/f"), b"hello");
    scene.eventually_tagged("d/f", HELLO_MD5);
}

#[test]
fn an_empty_file_has_the_md5_of_nothing_without_being_read() {
    // Nothing is read for its digest here.
    let scene = Scene::with(|options| options.hash = HashPolicy::Never.into());
    let file = scene.create("b/f").unwrap();
    assert!(scene.stat("f").etag.is_provisional());
    assert!(scene.listed_tag("f").starts_with("px1-"));
    drop(file);
    assert_eq!(scene.stat("f").etag.as_str(), EMPTY_MD5);
    assert_eq!(scene.listed_tag("f"), EMPTY_MD5);
    scene.put("k", b"hello");
    drop(
        scene
            .open(
                "b/k",
                OpenFlags {
                    truncate: true,
                    ..WRITE
                },
            )
            .unwrap(),
    );
    assert_eq!(scene.stat("k").etag.as_str(), EMPTY_MD5);
    assert_eq!(scene.listed_tag("k"), EMPTY_MD5);
    std::fs::write(scene.real("b/k"), b"hello").unwrap();
    assert!(scene.stat("k").etag.is_provisional());
}

#[test]
fn an_object_put_is_a_file_at_once() {
    let scene = Scene::new();
    scene.put("x/y", b"hello");
    assert_eq!(scene.read("b/x/y").unwrap(), b"hello");
    assert_eq!(scene.lookup("b/x/y").unwrap().len_bytes, 5);
    scene.delete("x/y");
    assert_eq!(scene.lookup("b/x/y").err(), Some(Errno::NOENT));
    assert_eq!(scene.lookup("b/x").err(), Some(Errno::NOENT));
}

#[test]
fn an_open_file_keeps_its_bytes_when_the_object_is_replaced() {
    let scene = Scene::new();
    scene.put("k", b"old");
    let open = scene.open("b/k", BOTH).unwrap();
    let put = scene.put("k", b"newer");
    assert_eq!(read_all(&open).unwrap(), b"old");
    assert_eq!(open.write(0, b"OLD"), Ok(3));
    drop(open);
    assert_eq!(scene.get("k"), b"newer");
    assert_eq!(scene.stat("k").etag, put.etag);
}

#[test]
fn an_edit_voids_the_md5_until_it_is_known_again() {
    let scene = Scene::new();
    let put = scene.put("k", b"HELLO");
    let file = scene.open("b/k", WRITE).unwrap();
    assert_eq!(file.write(0, b"hello"), Ok(5));
    let during = scene.stat("k");
    assert!(during.etag.is_provisional());
    drop(file);
    assert_ne!(scene.stat("k").etag, put.etag);
    scene.eventually_tagged("k", HELLO_MD5);
}

#[test]
fn opening_with_truncate_empties_the_object() {
    let scene = Scene::new();
    scene.put("k", b"HELLO");
    let truncate = OpenFlags {
        truncate: true,
        ..WRITE
    };
    drop(scene.open("b/k", truncate).unwrap());
    assert_eq!(scene.stat("k").len_bytes, 0);
    scene.eventually_tagged("k", EMPTY_MD5);
}

#[test]
fn create_opens_what_is_there_unless_it_is_to_be_exclusive() {
    let scene = Scene::new();
    scene.put("k", b"hello");
    let (attr, file) = scene.brick.create(&path("b/k"), 0o600, BOTH, me()).unwrap();
    assert_eq!(attr.len_bytes, 5);
    assert_eq!(read_all(&file).unwrap(), b"hello");
    let exclusive = OpenFlags {
        exclusive: true,
        ..BOTH
    };
    let again = scene.brick.create(&path("b/k"), 0o600, exclusive, me());
    assert_eq!(again.err(), Some(Errno::EXIST));
    let truncate = OpenFlags {
        truncate: true,
        ..BOTH
    };
    let (attr, _file) = scene
        .brick
        .create(&path("b/k"), 0o600, truncate, me())
        .unwrap();
    assert_eq!(attr.len_bytes, 0);
}

#[test]
fn writes_of_a_file_opened_to_append_go_to_the_end() {
    let scene = Scene::new();
    scene.write("b/k", b"hel");
    let append = OpenFlags {
        append: true,
        ..WRITE
    };
    let file = scene.open("b/k", append).unwrap();
    assert_eq!(file.write(0, b"lo"), Ok(2));
    drop(file);
    assert_eq!(scene.read("b/k").unwrap(), b"hello");
    scene.eventually_tagged("k", HELLO_MD5);
}

#[test]
fn a_length_set_by_name_is_an_edit_of_its_own() {
    let scene = Scene::new();
    scene.put("k", b"hello, world");
    let whole = path("b/k");
    let ino = scene.lookup("b/k").unwrap().ino;
    let set = SetAttr {
        len_bytes: Some(5),
        ..SetAttr::default()
    };
    let target = Target::Named {
        path: &whole,
        id: FileId::any(ino),
    };
    assert_eq!(scene.brick.set_attr(target, set).unwrap().len_bytes, 5);
    assert!(scene.stat("k").etag.is_provisional());
    scene.eventually_tagged("k", HELLO_MD5);
    let reading = scene.open("b/k", READ).unwrap();
    let longer = SetAttr {
        len_bytes: Some(7),
        ..SetAttr::default()
    };
    let set = scene.brick.set_attr(Target::Open(&reading), longer);
    assert_eq!(set.unwrap().len_bytes, 7);
    assert_eq!(scene.get("k"), b"hello\0\0");
}

#[test]
fn holes_are_found_punched_and_copied() {
    const PUNCH_HOLE_KEEP_SIZE: u32 = 3;
    let scene = Scene::new();
    let file = scene.create("b/k").unwrap();
    let block = vec![7; 1 << 16];
    file.write(0, &block).unwrap();
    file.write(1 << 20, &block).unwrap();
    assert_eq!(file.seek(0, false), Ok(1 << 16));
    assert_eq!(file.seek(1 << 16, true), Ok(1 << 20));
    file.allocate(PUNCH_HOLE_KEEP_SIZE, 0, 1 << 16).unwrap();
    assert_eq!(file.seek(0, true), Ok(1 << 20));
    assert_eq!(file.seek(2 << 20, true), Err(Errno::NXIO));
    let other = scene.create("b/copy").unwrap();
    assert_eq!(file.copy_to(1 << 20, &other, 0, 1 << 16), Ok(1 << 16));
    assert_eq!(read_all(&other).unwrap(), block);
    assert_eq!(file.sync(true), Ok(()));
    assert_eq!(file.sync(false), Ok(()));
}

#[test]
fn a_read_ends_at_the_end_and_replaces_what_the_buffer_held() {
    let scene = Scene::new();
    scene.write("b/k", b"hello");
    let file = scene.open("b/k", READ).unwrap();
    let mut buffer = b"something longer".to_vec();
    file.read(1, &mut buffer, 3).unwrap();
    assert_eq!(buffer, b"ell");
    file.read(3, &mut buffer, 10).unwrap();
    assert_eq!(buffer, b"lo");
    file.read(5, &mut buffer, 10).unwrap();
    assert_eq!(buffer, b"");
}

#[test]
fn a_file_that_lost_its_name_goes_on() {
    let scene = Scene::new();
    let file = scene.create("b/k").unwrap();
    scene.brick.unlink(&path("b/k")).unwrap();
    assert_eq!(file.write(0, b"hello"), Ok(5));
    let attr = scene.brick.attr(Target::Open(&file)).unwrap();
    assert_eq!((attr.len_bytes, attr.link_count), (5, 0));
    drop(file);
    assert!(!scene.has_key("k"));
    assert!(scene.keys().is_empty());
}
