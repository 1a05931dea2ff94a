//! What the kernel asks for by number alone, having forgotten it.

use std::ffi::OsStr;

use fsstore::files::{Errno, FileResult};
use gateway::posix::nodes::ROOT;

use crate::calls::{Try, reading};

fn itself(t: &Try, ino: u64) -> FileResult<u64> {
    t.ino(ino, ".")
}

#[test]
fn a_forgotten_file_is_found_by_its_number_and_forgotten_again() {
    let t = Try::new();
    let dir = t.make_dir(ROOT, "d");
    let path = t.dir.path().join("d/f");
    std::fs::write(&path, "bytes").unwrap();
    let file = t.ino(dir, "f").unwrap();
    for ino in [file, dir] {
        t.fs.forget(ino, 1);
    }
    assert_eq!(t.fs.all_known().1, []);
    assert_eq!(itself(&t, file), Ok(file));
    let number = t.open(file, reading()).unwrap();
    assert_eq!(t.read(number), b"bytes");
    t.fs.release(number);
    t.fs.forget(file, 1);
    assert_eq!(t.fs.all_known(), (vec![ROOT], vec![]));

    std::fs::remove_file(path).unwrap();
    assert_eq!(itself(&t, file), Err(Errno::STALE));
    assert_eq!(t.fs.all_known(), (vec![ROOT], vec![]));
}

#[test]
fn the_directories_above_a_forgotten_one_are_found() {
    let t = Try::new();
    let outer = t.make_dir(ROOT, "d");
    let inner = t.make_dir(outer, "e");
    for ino in [inner, outer] {
        t.fs.forget(ino, 1);
    }
    assert_eq!(t.ino(inner, ".."), Ok(outer));
    assert_eq!(t.ino(outer, ".."), Ok(ROOT));
    let root = t.fs.lookup(outer, OsStr::new("..")).unwrap().attr;
    assert_eq!((root.ino, root.generation), (ROOT, 0));
    assert_eq!(itself(&t, ROOT), Ok(ROOT));
    t.fs.forget(outer, 1);
    assert_eq!(t.fs.all_known(), (vec![ROOT], vec![]));
}

#[test]
fn a_file_whose_directory_was_forgotten_first_keeps_its_path() {
    let t = Try::new();
    let dir = t.make_dir(ROOT, "d");
    std::fs::write(t.dir.path().join("d/f"), "bytes").unwrap();
    let file = t.ino(dir, "f").unwrap();
    t.fs.forget(dir, 1);
    assert_eq!(t.fs.attr(file, None).unwrap().attr.len_bytes, 5);
    t.fs.forget(file, 1);
    assert_eq!(t.fs.all_known(), (vec![ROOT], vec![]));
}

#[test]
fn a_known_file_that_others_moved_is_found_by_its_number() {
    let t = Try::new();
    let file = t.file("f", "bytes");
    std::fs::rename(t.dir.path().join("f"), t.dir.path().join("g")).unwrap();
    assert_eq!(t.fs.attr(file, None).err(), Some(Errno::STALE));
    assert_eq!(itself(&t, file), Ok(file));
    assert_eq!(t.fs.attr(file, None).unwrap().attr.len_bytes, 5);
    t.fs.forget(file, 2);
    assert_eq!(t.fs.all_known(), (vec![ROOT], vec![]));
}

#[test]
fn a_number_that_stands_in_for_another_leads_nowhere_once_forgotten() {
    let t = Try::new();
    assert_eq!(itself(&t, 1 << 62), Err(Errno::STALE));
    assert_eq!(t.ino(1 << 62, ".."), Err(Errno::STALE));
}
