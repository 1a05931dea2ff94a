//! Through the kernel. Where /dev/fuse cannot be used, each test says so and is done.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

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
        let dir = tempfile::tempdir().unwrap();
        let (root, at) = (dir.path().join("root"), dir.path().join("mnt"));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(&at).unwrap();
        let device = match mounting::mount(&at, &options()) {
            Ok(device) => device,
            Err(error) => {
                eprintln!("skipped: cannot mount here: {error}");
                return None;
            }
        };
        let plain = Arc::new(Plain::new(root));
        let sessions = Sessions::new(Arc::clone(&plain));
        let session = sessions.start(Terms::default(), device).unwrap();
        eprintln!("{:?}", session.data_path());
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

#[test]
fn files_written_are_read_back() {
    let Some(mount) = Mounted::new() else { return };
    std::fs::write(mount.path("f"), "bytes").unwrap();
    assert_eq!(std::fs::read(mount.path("f")).unwrap(), b"bytes");
    assert_eq!(std::fs::read(mount.plain.root.join("f")).unwrap(), b"bytes");
    if let Ok(secs) = std::env::var("HOLD") {
        eprintln!("{}", mount.at.display());
        std::thread::sleep(std::time::Duration::from_secs(secs.parse().unwrap()));
    }
}

#[test]
fn a_name_that_another_door_gives_is_seen_once_it_is_told() {
    let Some(mount) = Mounted::new() else { return };
    let below = |name: &str| FilePath::root().join(OsStr::new(name)).unwrap();
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
