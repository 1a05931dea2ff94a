//! `portico mount` as a process, beside a server and without: who serves, who watches, and what
//! is left when one of them is killed. Where this machine lets nobody mount, each test says so
//! and is done.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod processes;
mod revived;
mod shared;

use std::cell::RefCell;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::mpsc::channel;

use rustix::process::Signal;

use self::processes::{Place, until};

/// The errno of a mount whose server is gone.
const NOT_CONNECTED: i32 = 107;

fn is_dead(place: &Place) -> bool {
    let listed = fs::read_dir(place.at());
    listed.is_err_and(|error| error.raw_os_error() == Some(NOT_CONNECTED))
}

#[test]
fn a_mount_beside_a_server_is_served_by_it() {
    let Some(place) = Place::new() else { return };
    let server = place.serve();
    let mount = place.mount(&[]);
    assert_eq!(mount.said["served_by"], server.pid());
    fs::create_dir(place.at().join("bucket")).unwrap();
    fs::write(place.at().join("bucket/key"), "bytes").unwrap();
    let kept = fs::read(place.tree().join("main/bucket/key")).unwrap();
    assert_eq!(kept, b"bytes");
    mount.ends_after(|| place.unmount());
}

#[test]
fn a_mount_whose_server_was_killed_answers_enotconn_and_stands_again_with_the_next() {
    let Some(place) = Place::new() else { return };
    let server = place.serve();
    let mount = place.mount(&[]);
    fs::create_dir(place.at().join("bucket")).unwrap();
    server.kill();
    until("the mount is dead", || is_dead(&place));
    let _next = place.serve();
    until("the mount stands again", || {
        place.at().join("bucket").is_dir()
    });
    fs::write(place.at().join("bucket/key"), "bytes").unwrap();
    mount.ends_after(|| place.unmount());
}

#[test]
fn a_server_that_ends_in_order_leaves_the_mount_to_the_next_too() {
    let Some(place) = Place::new() else { return };
    let server = place.serve();
    let mount = place.mount(&[]);
    fs::create_dir(place.at().join("bucket")).unwrap();
    let pid = server.pid();
    server.ends_after(|| processes::send(pid, Signal::TERM));
    assert!(is_dead(&place));
    let _next = place.serve();
    until("the mount stands again", || {
        place.at().join("bucket").is_dir()
    });
    mount.ends_after(|| place.unmount());
}

#[test]
fn a_mount_taken_away_while_its_server_is_gone_is_not_made_again() {
    let Some(place) = Place::new() else { return };
    let server = place.serve();
    let mount = place.mount(&[]);
    server.kill();
    until("the mount is dead", || is_dead(&place));
    mount.ends_after(|| place.unmount());
}

#[test]
fn a_server_that_dies_while_a_mount_joins_it_again_is_not_its_end() {
    let Some(place) = Place::new() else { return };
    let server = place.serve();
    let mount = place.mount(&[]);
    fs::create_dir(place.at().join("bucket")).unwrap();
    server.kill();
    let socket = place.tree().join(".portico/control.sock");
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    for _ in 0..2 {
        let guest = RefCell::new(None);
        until("the mount joins", || {
            *guest.borrow_mut() = listener.accept().ok();
            guest.borrow().is_some()
        });
        let (mut guest, _) = guest.take().unwrap();
        let mut hello = [0; 4_096];
        assert!(guest.read(&mut hello).unwrap() > 0);
        let welcome = r#"{"portico":1,"by":"serve","pid":1,"refused":null}"#;
        writeln!(guest, "{welcome}").unwrap();
        // The descriptor that comes with it is closed.
        guest.read_exact(&mut [0]).unwrap();
    }
    drop(listener);
    until("the mount is dead", || is_dead(&place));
    let _next = place.serve();
    until("the mount stands again", || {
        place.at().join("bucket").is_dir()
    });
    mount.ends_after(|| place.unmount());
}

#[test]
fn a_mount_taken_away_while_servers_refuse_it_is_not_made_again() {
    let Some(place) = Place::new() else { return };
    let server = place.serve();
    let mount = place.mount(&[]);
    server.kill();
    let socket = place.tree().join(".portico/control.sock");
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let (refused, count) = channel();
    std::thread::spawn(move || {
        for guest in listener.incoming() {
            let mut guest = guest.unwrap();
            let mut hello = [0; 4_096];
            assert!(guest.read(&mut hello).unwrap() > 0);
            let welcome = r#"{"portico":1,"by":"serve","pid":1,"refused":"no"}"#;
            writeln!(guest, "{welcome}").unwrap();
            if refused.send(()).is_err() {
                return;
            }
        }
    });
    for _ in 0..2 {
        count.recv().unwrap();
    }
    assert!(is_dead(&place));
    mount.ends_after(|| place.unmount());
    assert!(!place.is_mounted());
}

#[test]
fn a_mount_goes_on_after_its_watcher_was_killed() {
    let Some(place) = Place::new() else { return };
    let _server = place.serve();
    let mount = place.mount(&[]);
    fs::create_dir(place.at().join("bucket")).unwrap();
    mount.kill();
    fs::write(place.at().join("bucket/key"), "bytes").unwrap();
    assert_eq!(fs::read(place.at().join("bucket/key")).unwrap(), b"bytes");
    place.unmount();
    assert!(!place.at().join("bucket").exists());
}

#[test]
fn a_server_ends_though_nobody_watches_its_mount_any_more() {
    let Some(place) = Place::new() else { return };
    let server = place.serve();
    let mount = place.mount(&[]);
    fs::create_dir(place.at().join("bucket")).unwrap();
    let kept = fs::File::create(place.at().join("bucket/key")).unwrap();
    mount.kill();
    let pid = server.pid();
    server.ends_after(|| processes::send(pid, Signal::TERM));
    assert!(is_dead(&place));
    drop(kept);
}

#[test]
fn a_mount_over_a_dead_one_clears_it_away() {
    let Some(place) = Place::new() else { return };
    place.mount(&[]).kill();
    until("the mount is dead", || is_dead(&place));
    let mount = place.mount(&[]);
    fs::create_dir(place.at().join("bucket")).unwrap();
    mount.ends_after(|| place.unmount());
    assert!(!place.at().join("bucket").exists());
}

#[test]
fn sigterm_unmounts() {
    let Some(place) = Place::new() else { return };
    let mount = place.mount(&[]);
    fs::create_dir(place.at().join("bucket")).unwrap();
    let pid = mount.pid();
    mount.ends_after(|| processes::send(pid, Signal::TERM));
    assert!(!place.at().join("bucket").exists());
    assert!(place.tree().join("main/bucket").is_dir());
}

#[test]
fn what_others_mount_upon_a_mount_is_left_alone() {
    let Some(place) = Place::new() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root mounts upon a mount");
        return;
    }
    let _server = place.serve();
    let mount = place.mount(&[]);
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", place.at(), "tmpfs", flags, None).unwrap();
    fs::write(place.at().join("precious"), "bytes").unwrap();
    let pid = mount.pid();
    mount.ends_after(|| processes::send(pid, Signal::TERM));
    assert_eq!(fs::read(place.at().join("precious")).unwrap(), b"bytes");
}

#[test]
fn without_a_server_the_first_mount_serves_the_others_to_their_end() {
    let Some(place) = Place::new() else { return };
    let first = place.mount(&[]);
    assert_eq!(first.said["served_by"], first.pid());
    fs::create_dir(place.at().join("bucket")).unwrap();
    let other = place.other();
    let second = other.mount_of("bucket", &["-o", "ro"]);
    assert_eq!(second.said["served_by"], first.pid());
    fs::write(place.at().join("bucket/key"), "bytes").unwrap();
    assert_eq!(fs::read(other.at().join("key")).unwrap(), b"bytes");
    let refused = fs::write(other.at().join("key"), "x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    let refused = place.portico(&["serve", place.tree().to_str().unwrap()]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains(&format!("pid {}", first.pid())), "{told}");

    place.unmount();
    assert_eq!(fs::read(other.at().join("key")).unwrap(), b"bytes");
    second.ends_after(|| other.unmount());
    first.ends_after(|| {});
}

#[test]
fn what_one_mount_changes_the_other_sees_at_once() {
    let Some(place) = Place::new() else { return };
    let _server = place.serve();
    let other = place.other();
    let (_one, _two) = (place.mount(&[]), other.mount_of("", &[]));
    let (here, there) = (place.at().join("bucket"), other.at().join("bucket"));
    fs::create_dir(&here).unwrap();
    for turn in 0..50 {
        let name = format!("k{turn}");
        assert!(!there.join(&name).exists());
        fs::write(here.join(&name), "one").unwrap();
        assert_eq!(fs::read(there.join(&name)).unwrap(), b"one");
        fs::write(there.join(&name), "longer").unwrap();
        assert_eq!(fs::metadata(here.join(&name)).unwrap().len(), 6);
        assert_eq!(fs::read(here.join(&name)).unwrap(), b"longer");
        fs::remove_file(here.join(&name)).unwrap();
        assert!(!there.join(&name).exists());
    }
}

#[test]
fn a_server_mounts_what_it_is_told_to() {
    let Some(place) = Place::new() else { return };
    let server = place.serve_with(&["--mount", place.at().to_str().unwrap()]);
    until("the mount stands", || place.is_mounted());
    fs::create_dir(place.at().join("bucket")).unwrap();
    let pid = server.pid();
    server.ends_after(|| processes::send(pid, Signal::TERM));
    assert!(!place.is_mounted());
}

#[test]
fn mount_8_and_fstab_find_it_as_a_type() {
    let Some(place) = Place::new() else { return };
    let helper = place.dir().join("mount.portico");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_portico"), &helper).unwrap();
    let mut command = Command::new(&helper);
    let status = command.arg(place.tree()).arg(place.at());
    let status = status
        .args(["-v", "-o", "rw,nofail,noexec"])
        .output()
        .unwrap()
        .status;
    assert!(status.success());
    assert!(place.is_mounted());
    fs::create_dir(place.at().join("bucket")).unwrap();
    place.unmount();
    let mut command = Command::new(&helper);
    let status = command
        .arg("/nonexistent")
        .arg(place.at())
        .output()
        .unwrap()
        .status;
    assert_eq!(status.code(), Some(32));
}

#[test]
fn what_cannot_be_mounted_is_named() {
    let Some(place) = Place::new() else { return };
    let _server = place.serve();
    let tree = place.tree().to_str().unwrap().to_owned();
    let at = place.at().to_str().unwrap().to_owned();
    let told = |words: &[&str]| {
        let output = place.portico(words);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let bucket = told(&["mount", &format!("{tree}/absent"), &at]);
    assert!(bucket.contains("there is no bucket `absent`"), "{bucket}");
    let option = told(&["mount", &tree, &at, "-o", "noexecc"]);
    assert!(
        option.contains("the nearest known one is `noexec`"),
        "{option}"
    );
    let within = told(&["mount", &tree, &format!("{tree}/main")]);
    assert!(within.contains("within the tree itself"), "{within}");
    assert!(!place.is_mounted());
    let _mount = place.mount(&[]);
    let twice = told(&["mount", &tree, &at]);
    assert!(twice.contains("is mounted already"), "{twice}");
}
