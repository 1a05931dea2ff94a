//! The kernel's calls one by one, without a kernel.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use fsstore::files::{
    Caller, Errno, FilePath, FileResult, NewNode, OpenFlags, RenameMode, SetAttr,
};
use gateway::posix::fs::FileSystem;
use gateway::posix::nodes::ROOT;
use gateway::posix::sessions::Terms;

use crate::plain::Plain;

const ME: Caller = Caller {
    uid: 0,
    gid: 0,
    umask: 0o022,
};
const ANOTHER: u32 = 4_242;

/// A file system over a directory, with backings that are numbers.
pub struct Try {
    pub dir: tempfile::TempDir,
    pub fs: FileSystem<Plain, u32>,
}

impl Try {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plain = Arc::new(Plain::new(dir.path()));
        let fs = FileSystem::new(plain, Terms::default()).unwrap();
        Self { dir, fs }
    }

    pub fn file(&self, name: &str, bytes: &str) -> u64 {
        std::fs::write(self.dir.path().join(name), bytes).unwrap();
        self.ino(ROOT, name).unwrap()
    }

    pub fn make_dir(&self, parent: u64, name: &str) -> u64 {
        let made = self.fs.make_dir(parent, OsStr::new(name), 0o755, ME);
        made.unwrap().attr.ino
    }

    pub fn ino(&self, parent: u64, name: &str) -> FileResult<u64> {
        Ok(self.fs.lookup(parent, OsStr::new(name))?.attr.ino)
    }

    pub fn open(&self, ino: u64, flags: OpenFlags) -> FileResult<u64> {
        Ok(self.fs.open(ino, flags, ME, false)?.number)
    }

    pub fn read(&self, number: u64) -> Vec<u8> {
        let mut buffer = Vec::new();
        self.fs.read(number, 0, &mut buffer, 100).unwrap();
        buffer
    }
}

pub fn reading() -> OpenFlags {
    OpenFlags {
        read: true,
        ..OpenFlags::default()
    }
}

fn writing() -> OpenFlags {
    OpenFlags {
        write: true,
        ..reading()
    }
}

#[test]
fn a_file_is_made_written_read_and_given_back() {
    let t = Try::new();
    let (entry, opened) =
        t.fs.create(ROOT, OsStr::new("f"), 0o666, writing(), ME)
            .unwrap();
    assert_eq!(entry.attr.mode & 0o777, 0o644);
    assert_eq!(t.fs.write(opened.number, 0, b"bytes", None), Ok(5));
    assert_eq!(t.read(opened.number), b"bytes");
    t.fs.release(opened.number);
    assert_eq!(t.fs.write(opened.number, 0, b"x", None), Err(Errno::BADF));
    assert_eq!(std::fs::read(t.dir.path().join("f")).unwrap(), b"bytes");
}

#[test]
fn a_file_without_a_name_lives_on_by_its_handle() {
    let t = Try::new();
    let ino = t.file("f", "old");
    let number = t.open(ino, writing()).unwrap();
    t.fs.unlink(ROOT, OsStr::new("f")).unwrap();
    assert_eq!(t.fs.attr(ino, None).unwrap().attr.link_count, 0);
    let cut = SetAttr {
        len_bytes: Some(1),
        ..SetAttr::default()
    };
    assert_eq!(t.fs.set_attr(ino, None, cut, 0).unwrap().attr.len_bytes, 1);
    let again = t.open(ino, reading()).unwrap();
    assert_eq!(t.read(again), b"o");
    t.fs.release(again);
    t.fs.release(number);
    assert_eq!(t.fs.attr(ino, None), Err(Errno::STALE));
}

#[test]
fn what_is_renamed_over_stays_what_it_was_for_those_who_have_it_open() {
    let t = Try::new();
    let (new, old) = (t.file("a", "new"), t.file("b", "old"));
    let number = t.open(old, reading()).unwrap();
    let (from, to) = ((ROOT, OsStr::new("a")), (ROOT, OsStr::new("b")));
    t.fs.move_name(from, to, RenameMode::Replace).unwrap();
    assert_eq!(t.read(number), b"old");
    let number = t.open(new, reading()).unwrap();
    assert_eq!(t.read(number), b"new");
}

#[test]
fn what_is_below_a_renamed_directory_is_found_at_its_new_place() {
    let t = Try::new();
    let dir = t.make_dir(ROOT, "d");
    let below = t.make_dir(dir, "below");
    let (from, to) = ((ROOT, OsStr::new("d")), (ROOT, OsStr::new("e")));
    t.fs.move_name(from, to, RenameMode::NoReplace).unwrap();
    t.fs.create(below, OsStr::new("f"), 0o644, writing(), ME)
        .unwrap();
    assert!(t.dir.path().join("e/below/f").is_file());
    let taken =
        t.fs.move_name(to, (ROOT, OsStr::new("e2")), RenameMode::Exchange);
    assert_eq!(taken, Err(Errno::NOENT));
    assert!(t.ino(below, "f").is_ok());
}

#[test]
fn a_name_taken_away_by_other_hands_leaves_the_others() {
    let t = Try::new();
    let ino = t.file("a", "bytes");
    t.fs.make_link(ino, ROOT, OsStr::new("b")).unwrap();
    std::fs::remove_file(t.dir.path().join("a")).unwrap();
    assert_eq!(t.fs.attr(ino, None).unwrap().attr.ino, ino);
    let number = t.open(ino, reading()).unwrap();
    assert_eq!(t.read(number), b"bytes");
    t.fs.release(number);
    // Made while the other stands: of another number for sure.
    std::fs::write(t.dir.path().join("c"), "another").unwrap();
    std::fs::rename(t.dir.path().join("c"), t.dir.path().join("b")).unwrap();
    assert_eq!(t.open(ino, reading()), Err(Errno::STALE));
}

#[test]
fn a_removed_directory_answers_those_who_stand_in_it() {
    let t = Try::new();
    let dir = t.make_dir(ROOT, "d");
    t.fs.remove_dir(ROOT, OsStr::new("d")).unwrap();
    let attr = t.fs.attr(dir, None).unwrap().attr;
    assert_eq!((attr.ino, attr.link_count), (dir, 0));
    let number = t.fs.open_dir(dir).unwrap();
    let mut met = 0;
    let read = t.fs.read_dir(number, 0, |_| {
        met += 1;
        true
    });
    assert_eq!((read, met), (Ok(()), 0));
    assert_eq!(t.ino(dir, "x"), Err(Errno::NOENT));
    let made = t.fs.make_dir(dir, OsStr::new("x"), 0o755, ME);
    assert_eq!(made, Err(Errno::NOENT));
    t.fs.release_dir(number);
    t.fs.forget(dir, 1);
    assert_eq!(t.fs.attr(dir, None), Err(Errno::STALE));
}

#[test]
fn a_directory_is_listed_with_itself_and_the_one_above_and_each_entry_once() {
    let t = Try::new();
    let dir = t.make_dir(ROOT, "d");
    let names: BTreeSet<OsString> = (0..300).map(|n| format!("file-{n}").into()).collect();
    for name in &names {
        std::fs::write(t.dir.path().join("d").join(name), "").unwrap();
    }
    let number = t.fs.open_dir(dir).unwrap();
    let (mut met, mut own, mut from) = (Vec::new(), Vec::new(), 0);
    loop {
        // A few at a time, as a small buffer holds.
        let mut count = 0;
        let read = t.fs.read_dir(number, from, |listed| {
            if count == 7 {
                return false;
            }
            count += 1;
            from = listed.next;
            match listed.name.to_str() {
                Some(name @ ("." | "..")) => own.push((name.to_owned(), listed.ino)),
                _ => met.push(listed.name.to_owned()),
            }
            true
        });
        read.unwrap();
        if count == 0 {
            break;
        }
    }
    let root = t.dir.path().metadata().unwrap().ino();
    assert_eq!(own, [(".".to_owned(), dir), ("..".to_owned(), root)]);
    assert_eq!(met.len(), names.len());
    assert_eq!(met.into_iter().collect::<BTreeSet<_>>(), names);
}

#[test]
fn the_kernel_keeps_names_of_a_directory_most_of_which_it_knows() {
    let t = Try::new();
    for number in 0..9 {
        std::fs::write(t.dir.path().join(format!("f{number}")), "").unwrap();
    }
    let keeps = || {
        let number = t.fs.open_dir(ROOT).unwrap();
        let keeps = t.fs.may_keep_names(ROOT, number);
        t.fs.release_dir(number);
        keeps
    };
    assert!(!keeps());
    let number = t.fs.open_dir(ROOT).unwrap();
    t.fs.read_dir(number, 0, |_| true).unwrap();
    assert!(!keeps());
    for number in 0..4 {
        assert!(!keeps());
        t.fs.lookup(ROOT, OsStr::new(&format!("f{number}")))
            .unwrap();
    }
    assert!(keeps());
    let ino = t.fs.lookup(ROOT, OsStr::new("f0")).unwrap().attr.ino;
    t.fs.forget(ino, 2);
    assert!(!keeps());
    t.fs.read_dir_plus(number, 0, |_, _| true).unwrap();
    assert!(keeps());
    // One handle at a time.
    assert!(t.fs.may_keep_names(ROOT, number));
    assert!(!keeps());
    t.fs.release_dir(number);
    assert!(keeps());
}

#[test]
fn a_directory_is_listed_whole_though_few_attributes_are_given_at_first() {
    let t = Try::new();
    for number in 0..200 {
        std::fs::write(t.dir.path().join(format!("f{number:03}")), "").unwrap();
    }
    let handle = t.fs.open_dir(ROOT).unwrap();
    let (mut from, mut batches) = (0, Vec::new());
    loop {
        let mut met = Vec::new();
        let read = t.fs.read_dir_plus(handle, from, |listed, _| {
            met.push(listed.name.to_owned());
            from = listed.next;
            true
        });
        read.unwrap();
        if met.is_empty() {
            break;
        }
        batches.push(met);
    }
    assert!(batches[0].len() < 100);
    let mut all: Vec<_> = batches.concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 202);
}

#[test]
fn an_entry_listed_with_attributes_counts_as_looked_up_where_there_was_room() {
    let t = Try::new();
    std::fs::write(t.dir.path().join("f"), "").unwrap();
    let number = t.fs.open_dir(ROOT).unwrap();
    let listed = |has_room: bool| {
        let mut found = None;
        let visit = |_: gateway::posix::fs::Listed<'_>,
                     entry: Option<gateway::posix::fs::Entry>| {
            found = entry.map(|entry| entry.attr.ino).or(found);
            entry.is_none() || has_room
        };
        t.fs.read_dir_plus(number, 0, visit).unwrap();
        found.unwrap()
    };
    let ino = listed(false);
    assert!(t.fs.known(ino).is_empty());
    assert_eq!(listed(true), ino);
    assert_eq!(t.fs.known(ino), [ino]);
    t.fs.forget(ino, 1);
    assert!(t.fs.known(ino).is_empty());
}

#[test]
fn attributes_are_not_to_be_remembered_while_someone_may_write() {
    let t = Try::new();
    let ino = t.file("f", "bytes");
    assert!(t.fs.attr(ino, None).unwrap().may_remember);
    let opened = t.fs.open(ino, writing(), ME, false).unwrap();
    assert!(opened.must_forget_attr);
    assert!(!t.fs.attr(ino, None).unwrap().may_remember);
    t.fs.release(opened.number);
    assert!(t.fs.attr(ino, None).unwrap().may_remember);
    assert!(
        !t.fs
            .open(ino, reading(), ME, false)
            .unwrap()
            .must_forget_attr
    );
}

#[test]
fn pages_are_kept_of_what_is_as_it_was_when_it_was_last_opened() {
    let t = Try::new();
    let ino = t.file("f", "bytes");
    let opened = || t.fs.open(ino, reading(), ME, true).unwrap().is_as_before;
    assert!(!opened());
    assert!(opened());
    std::fs::write(t.dir.path().join("f"), "other").unwrap();
    assert!(!opened());
    assert!(opened());
}

#[test]
fn set_id_bits_are_lost_when_another_than_root_changes_the_bytes() {
    let t = Try::new();
    let ino = t.file("f", "bytes");
    let path = t.dir.path().join("f");
    let mode = || path.metadata().unwrap().mode() & 0o7_777;
    let give = || std::fs::set_permissions(&path, PermissionsExt::from_mode(0o6_755)).unwrap();
    let by = |uid| Caller { uid, ..ME };
    let cut = OpenFlags {
        truncate: true,
        ..writing()
    };

    give();
    let opened = t.fs.open(ino, writing(), by(ANOTHER), false).unwrap();
    assert!(opened.must_see_writes);
    assert_eq!(mode(), 0o6_755, "opened, not written");
    t.fs.write(opened.number, 0, b"x", Some(ANOTHER)).unwrap();
    assert_eq!(mode(), 0o755);

    give();
    t.fs.allocate(opened.number, 0, 0, 10, ANOTHER).unwrap();
    assert_eq!(mode(), 0o755);

    give();
    t.fs.open(ino, cut, by(ANOTHER), false).unwrap();
    assert_eq!(mode(), 0o755);

    give();
    let shorter = SetAttr {
        len_bytes: Some(1),
        ..SetAttr::default()
    };
    let entry = t.fs.set_attr(ino, None, shorter, ANOTHER).unwrap();
    assert_eq!(entry.attr.mode & 0o7_777, 0o755);

    give();
    let opened = t.fs.open(ino, cut, by(0), false).unwrap();
    assert!(!opened.must_see_writes);
    t.fs.write(opened.number, 0, b"x", None).unwrap();
    assert_eq!(mode(), 0o6_755, "root may");
}

#[test]
fn devices_are_made_only_where_the_terms_allow_it() {
    let t = Try::new();
    let node = |mode| NewNode { mode, rdev: 0 };
    let make = |name, mode| t.fs.make_node(ROOT, OsStr::new(name), node(mode), ME);
    assert_eq!(make("c", 0o020_644), Err(Errno::PERM));
    assert_eq!(make("b", 0o060_644), Err(Errno::PERM));
    assert_eq!(make("p", 0o010_644).unwrap().attr.mode, 0o010_644);
}

#[test]
fn handles_of_a_file_share_what_the_kernel_reads_it_by() {
    let t = Try::new();
    let ino = t.file("f", "bytes");
    let (one, two) = (
        t.open(ino, reading()).unwrap(),
        t.open(ino, writing()).unwrap(),
    );
    let back = |number, id| t.fs.back(number, |_| Ok::<_, ()>(id)).unwrap().unwrap();
    assert_eq!((*back(one, 1), *back(two, 2)), (1, 1));
    t.fs.release(one);
    let three = t.open(ino, reading()).unwrap();
    assert_eq!(*back(three, 3), 1);
    t.fs.release(two);
    t.fs.release(three);
    let four = t.open(ino, reading()).unwrap();
    assert_eq!(*back(four, 4), 4);
}

#[test]
fn bytes_are_copied_and_holes_are_found() {
    let t = Try::new();
    let (from, to) = (t.file("a", ""), t.file("b", ""));
    let (from, to) = (
        t.open(from, writing()).unwrap(),
        t.open(to, writing()).unwrap(),
    );
    t.fs.write(from, 1 << 20, b"bytes", None).unwrap();
    assert_eq!(t.fs.seek(from, 0, true), Ok(1 << 20));
    assert_eq!(t.fs.seek(from, 0, false), Ok(0));
    assert_eq!(t.fs.copy((from, 1 << 20), (to, 0), 100, 0), Ok(5));
    assert_eq!(t.read(to), b"bytes");
}

#[test]
fn a_mount_begins_at_a_directory_that_is_there() {
    let t = Try::new();
    t.file("f", "");
    let begin = |name: &str| {
        let base = FilePath::root().join(OsStr::new(name)).unwrap();
        let terms = Terms {
            base,
            ..Terms::default()
        };
        let plain = Arc::new(Plain::new(t.dir.path()));
        FileSystem::<_, u32>::new(plain, terms).map(|_| ())
    };
    assert_eq!(begin("absent"), Err(Errno::NOENT));
    assert_eq!(begin("f"), Err(Errno::NOTDIR));
    t.make_dir(ROOT, "d");
    assert_eq!(begin("d"), Ok(()));
}

#[test]
fn a_mount_goes_on_in_the_directory_that_was_made_again_where_it_begins() {
    let t = Try::new();
    let base = t.dir.path().join("bucket");
    std::fs::create_dir(&base).unwrap();
    let terms = Terms {
        base: FilePath::root().join(OsStr::new("bucket")).unwrap(),
        ..Terms::default()
    };
    let plain = Arc::new(Plain::new(t.dir.path()));
    let fs = FileSystem::<_, u32>::new(plain, terms).unwrap();
    std::fs::rename(&base, t.dir.path().join("old")).unwrap();
    std::fs::create_dir(&base).unwrap();
    std::fs::write(base.join("new"), "").unwrap();
    let handle = fs.open_dir(ROOT).unwrap();
    let mut names = Vec::new();
    fs.read_dir(handle, 0, |listed| {
        names.push(listed.name.to_owned());
        true
    })
    .unwrap();
    assert!(names.contains(&"new".into()), "{names:?}");
    let now = base.metadata().unwrap().ino();
    assert_eq!(fs.attr(ROOT, None).unwrap().attr.ino, now);
}
