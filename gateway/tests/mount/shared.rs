//! Mounts of one tree are one file system: locks hold among them, each is unmounted for itself,
//! and each has flags of its own. Where this process may not have mounts of its own, or the
//! kernel is before Linux 5.12, each test says so and is done.

use std::fs::{self, File, FileTimes};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gateway::posix::mounting::Anchor;
use rustix::fs::{CWD, FileType, FlockOperation, Mode, fcntl_lock, flock, mknodat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use crate::NOT_CONNECTED;
use crate::processes::{Place, Process, until};

/// Bytes of a file that is mapped.
const MAPPED_LEN_BYTES: usize = 16 << 10;

/// None where mounts are file systems of their own.
pub fn place() -> Option<Place> {
    let place = Place::new()?;
    if let Err(error) = Anchor::make("test") {
        eprintln!("skipped: mounts share nothing here: {error}");
        return None;
    }
    Some(place)
}

/// A file in a bucket, and open: it can be locked through the mount at `at`.
fn open(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).unwrap()
}

/// Asks for a lock on all of a file as fcntl(2) does, save that it is the open file's and not
/// the process's, so that two of this process are two.
#[allow(unsafe_code)]
fn try_record_lock(file: &File) -> Result<(), Errno> {
    let wanted = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let pointer = std::ptr::from_ref(&wanted);
    // SAFETY: the descriptor is open, and the kernel reads the structure and keeps nothing.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, pointer) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
    }
}

fn locks_hold_among(one: &Path, others: &[&Path]) {
    let (held, exclusive) = (open(one), FlockOperation::NonBlockingLockExclusive);
    let asked: Vec<File> = others.iter().map(|path| open(path)).collect();
    flock(&held, exclusive).unwrap();
    for file in &asked {
        assert_eq!(flock(file, exclusive), Err(Errno::WOULDBLOCK));
    }
    flock(&held, FlockOperation::Unlock).unwrap();
    for file in &asked {
        flock(file, exclusive).unwrap();
        assert_eq!(flock(&held, exclusive), Err(Errno::WOULDBLOCK));
        flock(file, FlockOperation::Unlock).unwrap();
    }
    fcntl_lock(&held, exclusive).unwrap();
    for file in &asked {
        assert_eq!(try_record_lock(file), Err(Errno::WOULDBLOCK));
    }
    fcntl_lock(&held, FlockOperation::Unlock).unwrap();
    // Dropped, each leaves its lock to the next.
    for file in asked {
        try_record_lock(&file).unwrap();
    }
}

#[test]
fn locks_hold_among_mounts_of_a_tree_and_of_its_buckets() {
    let Some(place) = place() else { return };
    let server = place.serve();
    let (second, third) = (place.other(), place.another("third"));
    let _first = place.mount(&[]);
    fs::create_dir(place.at().join("bucket")).unwrap();
    let (_second, _third) = (second.mount(&[]), third.mount_of("bucket", &[]));
    let file = place.at().join("bucket/key");
    let others = [&second.at().join("bucket/key"), &third.at().join("key")];
    locks_hold_among(&file, &others.map(|path| path.as_path()));
    server.signal(Signal::TERM);
}

#[test]
fn locks_hold_among_mounts_without_a_server_and_the_servers_own() {
    let Some(place) = place() else { return };
    let other = place.other();
    fs::create_dir(place.tree().join("main/bucket")).unwrap();
    let within = |at: &Place| at.at().join("bucket/key");
    let (first, second) = (place.mount(&[]), other.mount(&[]));
    locks_hold_among(&within(&place), &[&within(&other)]);
    second.ends_after(|| other.unmount());
    first.ends_after(|| place.unmount());

    let _server = place.serve_with(&["--mount", place.at().to_str().unwrap()]);
    until("the mount stands", || place.is_mounted());
    let _second = other.mount(&[]);
    locks_hold_among(&within(&place), &[&within(&other)]);
}

#[test]
fn a_lock_outlives_the_unmounting_of_another_mount() {
    let Some(place) = place() else { return };
    let _server = place.serve();
    let (other, third) = (place.other(), place.another("third"));
    let (first, _second) = (place.mount(&[]), other.mount(&[]));
    fs::create_dir(place.at().join("bucket")).unwrap();
    let held = open(&other.at().join("bucket/key"));
    flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    first.ends_after(|| place.unmount());
    let _third = third.mount(&[]);
    let asked = open(&third.at().join("bucket/key"));
    let refused = flock(&asked, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(refused, Err(Errno::WOULDBLOCK));
}

#[test]
fn a_mount_in_use_is_busy_and_the_others_are_not() {
    let Some(place) = place() else { return };
    let _server = place.serve();
    let other = place.other();
    let (first, second) = (place.mount(&[]), other.mount(&[]));
    fs::create_dir(place.at().join("bucket")).unwrap();
    let file = open(&place.at().join("bucket/key"));
    let busy = unmount(place.at(), UnmountFlags::empty());
    assert_eq!(busy, Err(Errno::BUSY));
    second.ends_after(|| unmount(other.at(), UnmountFlags::empty()).unwrap());
    drop(file);
    // The last close is told in passing.
    until("it is unmounted", || {
        unmount(place.at(), UnmountFlags::empty()).is_ok()
    });
    first.ends_after(|| {});
}

#[test]
fn each_mount_has_flags_of_its_own() {
    let Some(place) = place() else { return };
    let _server = place.serve();
    let other = place.other();
    let _first = place.mount(&["-o", "ro,noexec,nosuid"]);
    fs::create_dir(place.tree().join("main/bucket")).unwrap();
    let _second = other.mount(&["-o", "noatime"]);
    fs::write(other.at().join("bucket/key"), "bytes").unwrap();
    let refused = fs::write(place.at().join("bucket/key"), "x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::read(place.at().join("bucket/key")).unwrap(), b"bytes");

    let flags = |place: &Place| place.line().split(' ').nth(5).unwrap().to_owned();
    assert_eq!(flags(&place), "ro,nosuid,nodev,noexec,relatime");
    assert_eq!(flags(&other), "rw,nodev,noatime");
    let source = place.tree().canonicalize().unwrap();
    let kind = format!(" - fuse.portico {} ", source.display());
    assert!(place.line().contains(&kind), "{}", place.line());
}

#[test]
fn mount_8_may_ask_twice_for_a_bucket() {
    let Some(place) = place() else { return };
    let helper = place.dir().join("mount.portico");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_portico"), &helper).unwrap();
    fs::create_dir(place.tree().join("main/bucket")).unwrap();
    for bucket in ["bucket", "bucket", ""] {
        let source = place.tree().join(bucket);
        let mut command = std::process::Command::new(&helper);
        let output = command.arg(source).arg(place.at()).output().unwrap();
        // Another thing than what stands is refused.
        assert_eq!(output.status.success(), !bucket.is_empty());
        assert_eq!(place.mount_count(), 1);
    }
}

#[test]
fn attributes_are_remembered_beside_another_mount() {
    let Some(place) = place() else { return };
    let _server = place.serve();
    let other = place.other();
    let (_first, _second) = (place.mount(&[]), other.mount(&[]));
    fs::create_dir(place.at().join("bucket")).unwrap();
    let (here, there) = (place.at().join("bucket/key"), other.at().join("bucket/key"));
    fs::write(&here, "bytes").unwrap();
    let number = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.dev(), found.ino())
    };
    assert_eq!(number(&here), number(&there));
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let times = FileTimes::new().set_modified(long_ago);
    File::open(&here).unwrap().set_times(times).unwrap();
    assert_eq!(fs::metadata(&there).unwrap().mtime(), 1_000_000);
}

#[test]
fn a_mount_that_was_ended_by_force_stays_away_and_the_others_come_back() {
    let Some(place) = place() else { return };
    let other = place.other();
    let third = place.another("third");
    let server = place.serve_with(&["--mount", third.at().to_str().unwrap()]);
    until("the mount stands", || third.is_mounted());
    let (first, second) = (place.mount(&[]), other.mount(&[]));
    fs::create_dir(place.at().join("bucket")).unwrap();
    first.ends_after(|| unmount(place.at(), UnmountFlags::FORCE).unwrap());
    assert!(!place.is_mounted());
    for place in [&other, &third] {
        until("it stands again", || place.at().join("bucket").is_dir());
        fs::write(place.at().join("bucket/key"), "bytes").unwrap();
    }
    locks_hold_among(
        &other.at().join("bucket/key"),
        &[&third.at().join("bucket/key")],
    );
    second.ends_after(|| other.unmount());
    drop(server);
}

#[test]
fn all_mounts_stand_again_with_the_next_server() {
    let Some(place) = place() else { return };
    let (other, third) = (place.other(), place.another("third"));
    fs::create_dir(place.tree().join("main/bucket")).unwrap();
    let mut server = place.serve();
    let _mounts: Vec<Process> = vec![
        place.mount(&[]),
        other.mount_of("", &[]),
        third.mount_of("bucket", &[]),
    ];
    let path_of_each = [
        place.at().join("bucket/key"),
        other.at().join("bucket/key"),
        third.at().join("key"),
    ];
    for is_killed in [true, false] {
        fs::write(&path_of_each[0], "bytes").unwrap();
        if is_killed {
            server.kill();
        } else {
            let pid = server.pid();
            server.ends_after(|| crate::processes::send(pid, Signal::TERM));
        }
        for path in &path_of_each {
            let error = fs::read(path).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(NOT_CONNECTED), "{error}");
        }
        server = place.serve();
        for path in &path_of_each {
            until("it stands again", || path.exists());
            assert_eq!(fs::read(path).unwrap(), b"bytes");
        }
        let [one, others @ ..] = &path_of_each;
        locks_hold_among(one, &[&others[0], &others[1]]);
        for place in [&place, &other, &third] {
            assert_eq!(place.mount_count(), 1);
        }
    }
}

#[test]
fn a_mount_for_devices_is_a_file_system_of_its_own() {
    let Some(place) = place() else { return };
    let _server = place.serve();
    let other = place.other();
    let (_plain, _devices) = (place.mount(&[]), other.mount(&["-o", "devices"]));
    fs::create_dir(place.at().join("bucket")).unwrap();
    let make = |at: &Place, name: &str| {
        let path = at.at().join("bucket").join(name);
        let device = rustix::fs::makedev(1, 3);
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR, device)
    };
    assert_eq!(make(&place, "null"), Err(Errno::PERM));
    match make(&other, "null") {
        // A container may make none anywhere.
        Ok(()) => assert!(fs::metadata(place.at().join("bucket/null")).is_ok()),
        Err(error) => assert_eq!(error, Errno::PERM),
    }
    for turn in 0..20 {
        let name = format!("bucket/k{turn}");
        assert!(!other.at().join(&name).exists());
        fs::write(place.at().join(&name), "one").unwrap();
        assert_eq!(fs::read(other.at().join(&name)).unwrap(), b"one");
        fs::remove_file(other.at().join(&name)).unwrap();
        assert!(!place.at().join(&name).exists());
    }
}

/// A process that has locked a file by flock(2) and waits.
fn holder(path: &Path) -> Child {
    let mut command = Command::new("flock");
    command.args(["--exclusive", "--no-fork"]).arg(path);
    let mut child = command.args(["sh", "-c", "echo held; exec sleep 600"]);
    child = child.stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut said = [0; 5];
    let stdout = child.stdout.as_mut().unwrap();
    stdout.read_exact(&mut said).unwrap();
    child
}

#[test]
fn a_lock_of_a_killed_process_is_free_at_the_other_mounts() {
    let Some(place) = place() else { return };
    let _server = place.serve();
    let other = place.other();
    let (_first, _second) = (place.mount(&[]), other.mount(&[]));
    fs::create_dir(place.at().join("bucket")).unwrap();
    let asked = open(&other.at().join("bucket/key"));
    let mut holder = holder(&place.at().join("bucket/key"));
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    assert_eq!(flock(&asked, exclusive), Err(Errno::WOULDBLOCK));
    holder.kill().unwrap();
    holder.wait().unwrap();
    until("the lock is free", || flock(&asked, exclusive).is_ok());
}

#[test]
fn no_lock_outlives_the_server() {
    let Some(place) = place() else { return };
    let server = place.serve();
    let other = place.other();
    let (_first, _second) = (place.mount(&[]), other.mount_of("", &[]));
    fs::create_dir(place.at().join("bucket")).unwrap();
    let path = place.at().join("bucket/key");
    let held = open(&path);
    flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    server.kill();
    let _next = place.serve();
    for place in [&place, &other] {
        until("it stands again", || place.at().join("bucket/key").exists());
    }
    locks_hold_among(&path, &[&other.at().join("bucket/key")]);
    drop(held);
}

/// Memory that is a file's.
struct Mapped(*mut u8);

impl Mapped {
    #[allow(unsafe_code)]
    fn new(file: &File) -> Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses where; the length is not 0; what is mapped is unmapped once.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                MAPPED_LEN_BYTES,
                access,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(
            start,
            libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
        Self(start.cast())
    }

    #[allow(unsafe_code)]
    fn store(&self, at: usize, byte: u8) {
        assert!(at < MAPPED_LEN_BYTES);
        // SAFETY: it is within what is mapped for writing, and of one byte.
        unsafe { self.0.add(at).write_volatile(byte) }
    }

    #[allow(unsafe_code)]
    fn load(&self, at: usize) -> u8 {
        assert!(at < MAPPED_LEN_BYTES);
        // SAFETY: as above.
        unsafe { self.0.add(at).read_volatile() }
    }
}

impl Drop for Mapped {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and nothing points into it any more.
        unsafe { libc::munmap(self.0.cast(), MAPPED_LEN_BYTES) };
    }
}

#[test]
fn what_is_stored_to_memory_through_one_mount_the_other_reads_at_once() {
    let Some(place) = place() else { return };
    let _server = place.serve();
    let (other, third) = (place.other(), place.another("third"));
    let _first = place.mount(&[]);
    fs::create_dir(place.at().join("bucket")).unwrap();
    let (_second, _third) = (other.mount(&[]), third.mount_of("bucket", &[]));
    let here = open(&place.at().join("bucket/key"));
    here.set_len(MAPPED_LEN_BYTES as u64).unwrap();
    let there = open(&other.at().join("bucket/key"));
    let alone = open(&third.at().join("key"));
    let (written, seen) = (Mapped::new(&here), Mapped::new(&there));
    let mut byte = [0];
    for turn in 1..=200_u8 {
        let at = usize::from(turn) * 61;
        written.store(at, turn);
        assert_eq!(seen.load(at), turn);
        there.read_exact_at(&mut byte, at as u64).unwrap();
        assert_eq!(byte, [turn]);
        alone.read_exact_at(&mut byte, at as u64).unwrap();
        assert_eq!(byte, [turn]);
        there.write_all_at(&[turn], at as u64 + 1).unwrap();
        assert_eq!(written.load(at + 1), turn);
    }
}

#[test]
fn a_bucket_that_was_made_again_is_shown_by_its_mount() {
    let Some(place) = place() else { return };
    let own = place.another("own");
    let (bucket, all) = (place.other(), place.another("all"));
    fs::create_dir(place.tree().join("main/bucket")).unwrap();
    let word = format!("{}:bucket", own.at().display());
    let _server = place.serve_with(&["--mount", &word]);
    until("the mount stands", || own.is_mounted());
    let (_all, mount) = (all.mount(&[]), bucket.mount_of("bucket", &["-o", "noexec"]));
    // The old directory is still known by its number, so the new one has another.
    let number = |path: &Path| fs::metadata(path).map_or(0, |found| found.ino());
    let shown = all.at().join("bucket");
    let directories = [shown.clone(), place.tree().join("main/bucket")];
    for (turn, dir) in directories.iter().cycle().take(4).enumerate() {
        let (kept, before) = (File::open(bucket.at()).unwrap(), number(&shown));
        fs::remove_dir(dir).unwrap();
        fs::create_dir(dir).unwrap();
        let name = format!("key{turn}");
        fs::write(dir.join(&name), "bytes").unwrap();
        until("the kernel is told of it", || number(&shown) != before);
        for at in [bucket.at(), own.at()] {
            until("the new bucket shows", || number(at) == number(&shown));
            fs::write(at.join("made"), "there").unwrap();
            assert_eq!(fs::read(dir.join("made")).unwrap(), b"there");
            fs::remove_file(at.join("made")).unwrap();
        }
        let others = [own.at().join(&name), all.at().join("bucket").join(&name)];
        locks_hold_among(
            &bucket.at().join(&name),
            &[others[0].as_path(), others[1].as_path()],
        );
        drop(kept);
        for place in [&bucket, &own] {
            assert_eq!(place.mount_count(), 1);
        }
        assert!(bucket.line().contains(",noexec,"), "{}", bucket.line());
        fs::remove_file(dir.join(&name)).unwrap();
    }
    mount.ends_after(|| bucket.unmount());
    assert!(!bucket.is_mounted());
}

pub fn puts_mounts_beneath_others() -> bool {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(5))
}

#[test]
fn while_a_bucket_is_made_again_nobody_sees_the_bare_directory() {
    let Some(place) = place() else { return };
    if !puts_mounts_beneath_others() {
        eprintln!("skipped: the kernel is before Linux 6.5");
        return;
    }
    let (bucket, all) = (place.other(), place.another("all"));
    fs::create_dir(place.tree().join("main/bucket")).unwrap();
    fs::write(bucket.at().join("bare"), "").unwrap();
    let _server = place.serve();
    let (_all, _mount) = (all.mount(&[]), bucket.mount_of("bucket", &[]));
    let bare = bucket.at().join("bare");
    let is_over = Arc::new(());
    let is_watched = Arc::downgrade(&is_over);
    let looking = std::thread::spawn(move || {
        let mut seen = 0;
        while is_watched.strong_count() > 0 {
            seen += usize::from(bare.exists());
        }
        seen
    });
    let dir = all.at().join("bucket");
    for turn in 0..5 {
        fs::remove_dir(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        let name = format!("key{turn}");
        fs::write(dir.join(&name), "").unwrap();
        until("the new bucket shows", || bucket.at().join(&name).exists());
        fs::remove_file(dir.join(&name)).unwrap();
    }

    drop(is_over);
    assert_eq!(looking.join().unwrap(), 0);
}

#[test]
fn what_is_cloned_stands_where_nobody_sees_it_and_holds_nothing_of_others() {
    let Some(place) = place() else { return };
    let server = place.serve();
    let _mount = place.mount(&[]);
    let source = format!(" {} ", place.tree().canonicalize().unwrap().display());
    let count = |table: &str| {
        let lines = table.lines().filter(|line| line.contains(&source));
        lines.count()
    };
    assert_eq!(
        count(&fs::read_to_string("/proc/self/mountinfo").unwrap()),
        1
    );
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let tables: Vec<String> = threads
        .map(|thread| thread.unwrap().path())
        .filter(|thread| fs::read_to_string(thread.join("comm")).unwrap() == "anchor\n")
        .map(|thread| fs::read_to_string(thread.join("mountinfo")).unwrap())
        .collect();
    let [table] = &tables[..] else {
        panic!("{tables:?}")
    };
    assert_eq!(count(table), 1);
    // An empty file system below it; all others are let go.
    assert_eq!(table.lines().count(), 2, "{table}");
}
