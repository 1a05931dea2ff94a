//! Through the kernel. Where /dev/fuse cannot be used, each test says so and is done.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fsstore::files::FilePath;
use gateway::posix::mounting::{self, MountOptions};
use gateway::posix::sessions::{Session, Sessions, Terms};

use crate::plain::Plain;

/// A directory, mounted at another.
struct Mounted {
    _dir: tempfile::TempDir,
    at: PathBuf,
    plain: Arc<Plain>,
    sessions: Sessions<Plain>,
    session: Option<Session>,
}

fn options() -> MountOptions {
    MountOptions {
        source: "test".to_owned(),
        is_read_only: false,
        no_exec: false,
        no_suid: false,
        no_dev: true,
        no_atime: false,
        allow_other: true,
    }
}

impl Mounted {
    fn new() -> Option<Self> {
        Self::of(Plain::new)
    }

    fn of(make: impl FnOnce(PathBuf) -> Plain) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (root, at) = (dir.path().join("root"), dir.path().join("mnt"));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(&at).unwrap();
        let device = match mounting::mount(&at, &options(), None) {
            Ok(device) => device,
            Err(error) => {
                eprintln!("skipped: cannot mount here: {error}");
                return None;
            }
        };
        let plain = Arc::new(make(root));
        let sessions = Sessions::new(Arc::clone(&plain));
        let session = sessions.start(Terms::default(), device).unwrap();
        Some(Self {
            _dir: dir,
            at,
            plain,
            sessions,
            session: Some(session),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        mounting::detach(&self.at).unwrap();
        self.session.take().unwrap().join().unwrap();
        assert_eq!(self.sessions.count(), 0);
    }
}

/// The path of a name in the root.
fn below(name: &str) -> FilePath {
    FilePath::root().join(OsStr::new(name)).unwrap()
}

#[test]
fn files_written_are_read_back() {
    let Some(mount) = Mounted::new() else { return };
    std::fs::write(mount.path("f"), "bytes").unwrap();
    assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"bytes");
    assert_eq!(std::fs::read(mount.plain.root.join("f")).unwrap(), b"bytes");
}

#[test]
fn a_name_that_another_door_gives_is_seen_once_it_is_told() {
    let Some(mount) = Mounted::new() else { return };
    std::fs::metadata(mount.path("f")).unwrap_err();
    std::fs::write(mount.plain.root.join("f"), "one").unwrap();
    mount
        .plain
        .tell(|watcher| watcher.name_changed(&below("f")));
    assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"one");

    std::fs::write(mount.plain.root.join("new"), "other").unwrap();
    std::fs::rename(mount.plain.root.join("new"), mount.plain.root.join("f")).unwrap();
    mount
        .plain
        .tell(|watcher| watcher.name_changed(&below("f")));
    assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"other");

    std::fs::remove_file(mount.plain.root.join("f")).unwrap();
    mount
        .plain
        .tell(|watcher| watcher.name_changed(&below("f")));
    std::fs::metadata(mount.path("f")).unwrap_err();
}

#[test]
fn everything_is_asked_again_after_anything_may_have_changed() {
    let Some(mount) = Mounted::new() else { return };
    std::fs::write(mount.path("f"), "one").unwrap();
    assert_eq!(std::fs::metadata(mount.path("f")).unwrap().len(), 3);
    std::fs::metadata(mount.path("g")).unwrap_err();
    std::fs::write(mount.plain.root.join("f"), "longer").unwrap();
    std::fs::write(mount.plain.root.join("g"), "").unwrap();
    mount.plain.tell(|watcher| watcher.all_changed());
    assert_eq!(std::fs::metadata(mount.path("f")).unwrap().len(), 6);
    std::fs::metadata(mount.path("g")).unwrap();
}

#[test]
fn names_that_the_kernel_keeps_are_those_that_stand() {
    let Some(mount) = Mounted::new() else { return };
    let names = || {
        let entries = std::fs::read_dir(&mount.at).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let mut expected: Vec<OsString> = Vec::new();
    for number in 0..50 {
        let (ours, theirs) = (format!("a{number:02}"), format!("b{number:02}"));
        std::fs::write(mount.path(&ours), "").unwrap();
        expected.push(ours.into());
        expected.sort();
        assert_eq!(names(), expected);
        assert_eq!(names(), expected);
        let before = std::fs::metadata(&mount.at).unwrap().modified().unwrap();
        std::fs::write(mount.plain.root.join(&theirs), "").unwrap();
        mount
            .plain
            .tell(|watcher| watcher.name_changed(&below(&theirs)));
        // As rsync and tar do.
        File::open(&mount.plain.root)
            .and_then(|dir| dir.set_modified(before))
            .unwrap();
        expected.push(theirs.into());
        assert_eq!(names(), expected);
    }
}

#[test]
fn names_that_the_kernel_keeps_are_those_that_stand_while_others_list() {
    let Some(mount) = Mounted::new() else { return };
    let list = || {
        let entries = std::fs::read_dir(&mount.at).unwrap();
        entries
            .map(|entry| entry.unwrap().metadata())
            .filter(|entry| entry.is_ok())
            .count()
    };
    for number in 0..1_000 {
        std::fs::write(mount.path(&format!("standing-{number:04}")), "").unwrap();
    }
    let is_over = AtomicBool::new(false);
    let mut counts = Vec::new();
    std::thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    list();
                }
            });
        }
        for number in 0..150 {
            std::fs::write(mount.path(&format!("new-{number:04}")), "").unwrap();
            counts.push(list());
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(counts, (1_001..=1_150).collect::<Vec<_>>());
}

#[test]
fn a_name_that_is_replaced_again_and_again_always_opens() {
    let Some(mount) = Mounted::new() else { return };
    let real = mount.plain.root.join("f");
    std::fs::write(&real, "0").unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                number += 1;
                let next = mount.plain.root.join("next");
                std::fs::write(&next, number.to_string()).unwrap();
                std::fs::rename(&next, &real).unwrap();
                if number % 2 == 0 {
                    mount
                        .plain
                        .tell(|watcher| watcher.name_changed(&below("f")));
                }
            }
        });
        let read = || std::fs::read_to_string(mount.path("f"));
        let read: Result<Vec<_>, _> = (0..3_000).map(|_| read()).collect();
        is_over.store(true, Ordering::Relaxed);
        let numbers: Result<Vec<u64>, _> = read.unwrap().iter().map(|text| text.parse()).collect();
        let numbers = numbers.unwrap();
        let back: Vec<_> = numbers
            .windows(2)
            .filter(|pair| pair[0] > pair[1])
            .collect();
        assert!(back.is_empty(), "older after newer: {back:?}");
    });
}

#[test]
fn a_call_that_panics_is_answered_and_the_mount_goes_on() {
    let Some(mount) = Mounted::new() else { return };
    for _ in 0..20 {
        let error = std::fs::metadata(mount.path("panic")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
    }
    std::fs::write(mount.path("f"), "bytes").unwrap();
    assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"bytes");
}

#[test]
fn bytes_that_pass_through_the_server_are_the_same() {
    let Some(mount) = Mounted::of(Plain::hiding) else {
        return;
    };
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(mount.path("f"), &bytes).unwrap();
    assert_eq!(std::fs::read(mount.path("f")).unwrap(), bytes);
    assert_eq!(std::fs::read(mount.plain.root.join("f")).unwrap(), bytes);

    let file = File::options().append(true).open(mount.path("f")).unwrap();
    (&file).write_all(b"end").unwrap();
    file.set_len(10).unwrap();
    (&file).write_all(b"end").unwrap();
    file.sync_all().unwrap();
    let wanted = [&bytes[..10], b"end"].concat();
    assert_eq!(std::fs::read(mount.path("f")).unwrap(), wanted);

    // An edit by other hands, with as many bytes.
    let other = [&bytes[..10], b"END"].concat();
    std::fs::write(mount.plain.root.join("f"), &other).unwrap();
    assert_eq!(std::fs::read(mount.path("f")).unwrap(), other);
}

#[test]
fn an_open_file_outlives_its_name() {
    let Some(mount) = Mounted::new() else { return };
    std::fs::write(mount.path("f"), "old").unwrap();
    let mut file = File::options()
        .read(true)
        .write(true)
        .open(mount.path("f"))
        .unwrap();
    std::fs::write(mount.path("g"), "new").unwrap();
    std::fs::rename(mount.path("g"), mount.path("f")).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.write_all(b"er").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5);
    assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"new");
}

#[test]
fn a_program_is_run_from_it() {
    let Some(mount) = Mounted::new() else { return };
    std::fs::copy("/bin/true", mount.path("true")).unwrap();
    let status = std::process::Command::new(mount.path("true")).status();
    assert!(status.unwrap().success());
}
