//! What is written at a mountpoint while its server ends and another takes over: it fails, or it
//! is in the tree; never is it in the bare directory below.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Signal, geteuid};

use crate::processes::{self, Place, until};
use crate::shared::{place, puts_mounts_beneath_others};

/// A server's ends in one test, of each kind.
const END_COUNT: usize = 4;

/// Makes files at a place until it is told to end, and gives the names of those that it was told
/// are written.
fn write_on(at: &Path, prefix: &str, goes_on: &Arc<()>) -> JoinHandle<Vec<String>> {
    let (at, prefix) = (at.to_owned(), prefix.to_owned());
    let goes_on = Arc::downgrade(goes_on);
    std::thread::spawn(move || {
        let mut written = Vec::new();
        for turn in 0.. {
            if goes_on.strong_count() == 0 {
                break;
            }
            let name = format!("{prefix}{turn}");
            let outcome = fs::File::create_new(at.join(&name))
                .and_then(|mut file| file.write_all(name.as_bytes()));
            if outcome.is_ok() {
                written.push(name);
            }
        }
        written
    })
}

#[test]
fn while_servers_come_and_go_nothing_is_written_below_the_mount() {
    let Some(place) = place() else { return };
    if !puts_mounts_beneath_others() {
        eprintln!("skipped: the kernel is before Linux 6.5");
        return;
    }
    let bucket = place.tree().join("main/bucket");
    fs::create_dir(&bucket).unwrap();
    let (devices, own) = (place.another("devices"), place.another("own"));
    let own_words = ["--mount", &format!("{}:bucket", own.at().display())];
    let mut server = place.serve();
    let one = place.mount_of("bucket", &[]);
    let other = devices.mount_of("bucket", &["-o", "devices"]);
    let goes_on = Arc::new(());
    let mut writers = vec![
        write_on(place.at(), "shared", &goes_on),
        write_on(devices.at(), "devices", &goes_on),
    ];
    let stand_again = |places: &[&Place], turn: String| {
        fs::write(bucket.join(&turn), "").unwrap();
        for place in places {
            until("the mount stands again", || place.at().join(&turn).exists());
        }
    };

    for turn in 0..END_COUNT {
        let pid = server.pid();
        server.ends_after(|| processes::send(pid, Signal::TERM));
        server = place.serve();
        stand_again(&[&place, &devices], format!("ended{turn}"));
    }
    server.kill();
    // What a server mounts itself is gone after an end in order, and dead after a kill.
    server = place.serve_with(&own_words);
    until("the server's own mount stands", || own.is_mounted());
    writers.push(write_on(own.at(), "own", &goes_on));
    for turn in 0..END_COUNT {
        server.kill();
        server = place.serve_with(&own_words);
        stand_again(&[&place, &devices, &own], format!("killed{turn}"));
    }

    drop(goes_on);
    let written: Vec<Vec<String>> = writers
        .into_iter()
        .map(|writer| writer.join().unwrap())
        .collect();
    assert!(written.iter().all(|names| !names.is_empty()));
    one.ends_after(|| place.unmount());
    other.ends_after(|| devices.unmount());
    own.unmount();
    for below in [&place, &devices, &own] {
        assert_eq!(below.mount_count(), 0);
        let names: Vec<_> = fs::read_dir(below.at()).unwrap().collect();
        assert!(names.is_empty(), "{} below: {names:?}", names.len());
    }
    for name in written.concat() {
        let kept = fs::read(bucket.join(&name)).unwrap();
        assert_eq!(kept, name.as_bytes());
    }
}

#[test]
fn a_servers_mount_ended_by_force_comes_back_nowhere_but_in_its_place() {
    let Some(place) = place() else { return };
    assert!(geteuid().is_root());
    let (hidden, watch, forced) = (
        place.another("hidden"),
        place.another("watch"),
        place.another("forced"),
    );
    let (moved, aside) = (place.dir().join("dir"), place.dir().join("aside"));
    fs::create_dir_all(moved.join("mnt")).unwrap();
    let words = |at: &Path| ["--mount".to_owned(), at.display().to_string()];
    let words = [
        words(hidden.at()),
        words(&moved.join("mnt")),
        words(watch.at()),
    ]
    .concat();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let _server = place.serve_with(&words);
    until("the mounts stand", || watch.is_mounted());
    let _mount = forced.mount(&[]);
    fs::create_dir(forced.at().join("bucket")).unwrap();
    mount("none", hidden.at(), "tmpfs", MountFlags::empty(), None).unwrap();
    rustix::fs::rename(&moved, &aside).unwrap();
    fs::create_dir_all(moved.join("mnt")).unwrap();

    unmount(forced.at(), UnmountFlags::FORCE).unwrap();
    until("the others come back", || {
        watch.at().join("bucket").is_dir()
    });
    // Those that may not come back would have come within this time.
    std::thread::sleep(Duration::from_secs(1));
    let is_over_the_other = moved.join("mnt/bucket").exists();
    if is_over_the_other {
        unmount(moved.join("mnt"), UnmountFlags::DETACH).unwrap();
    }
    unmount(aside.join("mnt"), UnmountFlags::DETACH).unwrap();
    assert!(!is_over_the_other);
    assert_eq!(hidden.mount_count(), 2);
    assert!(!hidden.at().join("bucket").exists());
}
