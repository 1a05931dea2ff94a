//! What is made and taken away by name.

use crate::files::{Errno, Files, NewNode};
use crate::name::BucketName;
use crate::volume::Volume;

use super::{Scene, at_in, me, path, path_of_bytes};

const FIFO: u32 = 0o010_000;
const REGULAR: u32 = 0o100_000;

#[test]
fn what_is_unlinked_is_no_object_any_more_and_its_directory_stays() {
    let scene = Scene::new();
    scene.put("d/k", b"x");
    scene.brick.unlink(&path("b/d/k")).unwrap();
    assert!(!scene.has_key("d/k"));
    assert!(scene.keys().is_empty());
    assert!(scene.lookup("b/d").is_ok(), "who removes a tree needs it");
    scene.brick.remove_dir(&path("b/d")).unwrap();
    assert_eq!(scene.lookup("b/d").err(), Some(Errno::NOENT));
}

#[test]
fn a_directory_made_stays_when_its_last_key_goes() {
    let scene = Scene::new();
    let made = scene.mkdir("b/d").unwrap();
    assert_ne!(made.generation, 0);
    scene.put("d/k", b"x");
    scene.delete("d/k");
    assert_eq!(scene.lookup("b/d").unwrap().ino, made.ino);
}

#[test]
fn a_sheltered_object_comes_back_when_its_directory_is_removed() {
    let scene = Scene::new();
    let short = scene.put("a", b"short");
    scene.put("a/b", b"long");
    scene.brick.unlink(&path("b/a/b")).unwrap();
    assert_eq!(scene.get("a"), b"short");
    scene.brick.remove_dir(&path("b/a")).unwrap();
    assert_eq!(scene.read("b/a").unwrap(), b"short");
    assert_eq!(scene.stat("a").etag, short.etag);
    assert_eq!(scene.keys(), ["a"]);
}

#[test]
fn a_marker_goes_with_its_directory() {
    let scene = Scene::new();
    scene.put("d/", b"");
    scene.put("e/", b"with a body");
    assert_eq!(scene.keys(), ["d/", "e/"]);
    scene.brick.remove_dir(&path("b/d")).unwrap();
    scene.brick.remove_dir(&path("b/e")).unwrap();
    assert!(!scene.has_key("d/") && !scene.has_key("e/"));
    assert!(scene.keys().is_empty());
}

#[test]
fn a_directory_in_the_root_is_a_bucket() {
    let scene = Scene::new();
    assert_eq!(scene.names_of(""), ["b"]);
    let made = scene.brick.make_dir(&path("new"), 0o750, me()).unwrap();
    assert_eq!(made.mode & 0o7777, 0o750);
    let name = BucketName::parse("new").unwrap();
    scene.runtime.block_on(scene.brick.bucket(&name)).unwrap();
    assert_eq!(scene.names_of(""), ["b", "new"]);
    assert_eq!(scene.mkdir("new").err(), Some(Errno::EXIST));
    scene.mkdir("new/empty").unwrap();
    let full = scene.brick.remove_dir(&path("new"));
    assert_eq!(full.err(), Some(Errno::NOTEMPTY));
    scene.brick.remove_dir(&path("new/empty")).unwrap();
    scene.brick.remove_dir(&path("new")).unwrap();
    let gone = scene.runtime.block_on(scene.brick.bucket(&name));
    assert!(gone.is_err());
    assert_eq!(scene.names_of(""), ["b"]);
}

#[test]
fn what_is_no_bucket_does_not_exist_in_the_root() {
    let scene = Scene::new();
    std::fs::write(scene.real("file"), b"x").unwrap();
    std::fs::create_dir(scene.real(".hidden")).unwrap();
    std::os::unix::fs::symlink("b", scene.real("link")).unwrap();
    assert_eq!(scene.names_of(""), ["b"]);
    for name in [".portico", "file", ".hidden", "link"] {
        assert_eq!(scene.lookup(name).err(), Some(Errno::NOENT), "{name}");
    }
    for below in [".portico/index", ".portico/keys/x", ".hidden/x"] {
        assert_eq!(scene.lookup(below).err(), Some(Errno::NOENT), "{below}");
        assert_eq!(scene.create(below).err(), Some(Errno::NOENT), "{below}");
        assert_eq!(scene.mkdir(below).err(), Some(Errno::NOENT), "{below}");
    }
    assert_eq!(scene.mkdir(".portico").err(), Some(Errno::INVAL));
    assert_eq!(scene.create("x").err(), Some(Errno::PERM));
    let node = NewNode {
        mode: REGULAR | 0o644,
        rdev: 0,
    };
    let made = scene.brick.make_node(&path("x"), node, me());
    assert_eq!(made.err(), Some(Errno::PERM));
    let linked = scene.brick.make_symlink(&path("x"), "b".as_ref(), me());
    assert_eq!(linked.err(), Some(Errno::PERM));
}

#[test]
fn a_regular_node_is_an_object_and_a_fifo_is_none() {
    let scene = Scene::new();
    let node = |mode| NewNode { mode, rdev: 0 };
    let whole = path("b/f");
    scene
        .brick
        .make_node(&whole, node(REGULAR | 0o600), me())
        .unwrap();
    let fifo = scene
        .brick
        .make_node(&path("b/fifo"), node(FIFO | 0o666), me())
        .unwrap();
    assert_eq!(fifo.mode, FIFO | 0o644);
    assert_eq!(scene.keys(), ["f"]);
    assert!(!scene.has_key("fifo"));
    scene.brick.unlink(&path("b/fifo")).unwrap();
    assert_eq!(scene.names_of("b"), ["f"]);
}

#[test]
fn a_name_that_is_no_key_works_all_the_same() {
    let scene = Scene::new();
    let name = path_of_bytes(b"b/\xff\xfe");
    let (made, file) = scene.brick.create(&name, 0o644, super::BOTH, me()).unwrap();
    drop(file);
    assert_eq!(scene.brick.lookup(&name).unwrap().ino, made.ino);
    let other = path_of_bytes(b"b/\xfd");
    let mode = crate::files::RenameMode::Replace;
    scene.brick.rename(&name, &other, mode).unwrap();
    assert_eq!(scene.brick.lookup(&name).err(), Some(Errno::NOENT));
    assert!(scene.keys().is_empty());
    // It becomes an object when its name becomes a key.
    scene.brick.rename(&other, &path("b/k"), mode).unwrap();
    assert_eq!(scene.keys(), ["k"]);
    scene.brick.rename(&path("b/k"), &other, mode).unwrap();
    assert!(scene.keys().is_empty());
    scene.brick.unlink(&other).unwrap();
    assert_eq!(scene.brick.lookup(&other).err(), Some(Errno::NOENT));
}

#[test]
fn a_path_longer_than_a_system_call_takes_works() {
    let scene = Scene::new();
    let name = "n".repeat(250);
    let mut whole = path("b");
    for _ in 0..20 {
        whole = whole.join(name.as_ref()).unwrap();
        scene.brick.make_dir(&whole, 0o755, me()).unwrap();
    }
    let file = whole.join("f".as_ref()).unwrap();
    drop(scene.brick.create(&file, 0o644, super::BOTH, me()).unwrap());
    assert!(scene.brick.lookup(&file).is_ok());
    assert!(scene.keys().is_empty(), "it is longer than a key");
    scene.brick.unlink(&file).unwrap();
    while let Some((above, _)) = whole.split() {
        if above.split().is_none() {
            break;
        }
        scene.brick.remove_dir(&whole).unwrap();
        whole = above;
    }
    assert!(scene.names_of("b").is_empty());
}

#[test]
fn an_object_left_in_its_shelter_is_removed_with_the_plain_one() {
    let scene = Scene::new();
    scene.put("a", b"old");
    // As a crash between the two moves leaves it.
    let shelter = scene.real(".portico/keys/b");
    std::fs::create_dir_all(&shelter).unwrap();
    std::fs::copy(scene.real("b/a"), shelter.join("a=")).unwrap();
    scene.brick.unlink(&path("b/a")).unwrap();
    assert!(!scene.has_key("a"));
    assert!(!shelter.join("a=").exists());
}

#[test]
fn names_are_there_after_a_restart() {
    let scene = Scene::new();
    scene.mkdir("b/d").unwrap();
    scene.write("b/d/one", b"hello");
    scene.write("b/d/two", b"x");
    scene.brick.unlink(&path("b/d/two")).unwrap();
    let scene = scene.reopened();
    assert_eq!(scene.keys(), ["d/one"]);
    assert_eq!(scene.stat_at(&at_in("b", "d/one")).unwrap().len_bytes, 5);
}
