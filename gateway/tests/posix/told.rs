//! What a kernel is told of changes by others.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex};

use fsstore::files::{Caller, FilePath, FilesWatcher};
use gateway::posix::fs::FileSystem;
use gateway::posix::nodes::ROOT;
use gateway::posix::sessions::Terms;
use gateway::posix::telling::{Kernel, Teller};

use crate::plain::Plain;

/// A kernel that notes what it is told.
#[derive(Clone, Default)]
struct Listener {
    told: Arc<Mutex<Vec<String>>>,
    has_epoch: bool,
}

impl Listener {
    fn note(&self, words: String) {
        self.told.lock().unwrap().push(words);
    }

    fn take(&self) -> Vec<String> {
        let mut told = std::mem::take(&mut *self.told.lock().unwrap());
        told.sort();
        told
    }
}

impl Kernel for Listener {
    fn forget_name(&self, parent: u64, name: &OsStr) {
        self.note(format!("name {} in {parent}", name.display()));
    }

    fn forget_attr(&self, ino: u64) {
        self.note(format!("attr {ino}"));
    }

    fn forget_names_in(&self, ino: u64) {
        self.note(format!("names in {ino}"));
    }

    fn forget_file(&self, ino: u64) -> bool {
        self.note(format!("file {ino}"));
        true
    }

    fn forget_all_names(&self) -> bool {
        if self.has_epoch {
            self.note("all names".to_owned());
        }
        self.has_epoch
    }
}

struct Try {
    _dir: tempfile::TempDir,
    listener: Listener,
    fs: Arc<FileSystem<Plain, ()>>,
    teller: Teller<Plain, (), Listener>,
    /// A directory `d` and a file `d/f`, which the kernel knows.
    dir_ino: u64,
    file_ino: u64,
}

fn below(names: &[&str]) -> FilePath {
    names.iter().fold(FilePath::root(), |path, name| {
        path.join(OsStr::new(name)).unwrap()
    })
}

impl Try {
    fn new(has_epoch: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plain = Arc::new(Plain::new(dir.path()));
        let fs = Arc::new(FileSystem::new(plain, Terms::default()).unwrap());
        let me = Caller {
            uid: 0,
            gid: 0,
            umask: 0,
        };
        let made = fs.make_dir(ROOT, OsStr::new("d"), 0o755, me).unwrap();
        std::fs::write(dir.path().join("d/f"), "").unwrap();
        let found = fs.lookup(made.attr.ino, OsStr::new("f")).unwrap();
        let listener = Listener {
            has_epoch,
            ..Listener::default()
        };
        Self {
            _dir: dir,
            teller: Teller::new(Arc::clone(&fs), listener.clone()),
            fs,
            listener,
            dir_ino: made.attr.ino,
            file_ino: found.attr.ino,
        }
    }
}

#[test]
fn a_name_is_forgotten_with_what_stood_there_and_its_directorys_attributes() {
    let t = Try::new(true);
    let (dir, file) = (t.dir_ino, t.file_ino);
    t.teller.name_changed(&below(&["d", "f"]));
    let mut wanted = vec![
        format!("name f in {dir}"),
        format!("names in {dir}"),
        format!("attr {file}"),
    ];
    wanted.sort();
    assert_eq!(t.listener.take(), wanted);
    // A name that was absent may be remembered as that.
    t.teller.name_changed(&below(&["d", "new"]));
    assert_eq!(
        t.listener.take(),
        [format!("name new in {dir}"), format!("names in {dir}")]
    );
}

#[test]
fn a_directory_that_others_moved_is_not_taken_for_what_stands_there_now() {
    let t = Try::new(true);
    let root = t._dir.path();
    std::fs::rename(root.join("d"), root.join("moved")).unwrap();
    std::fs::create_dir(root.join("d")).unwrap();
    std::fs::write(root.join("d/f"), "another").unwrap();
    t.teller.name_changed(&below(&["d"]));
    let fs = &t.fs;
    assert!(fs.attr(t.file_ino, None).is_err());
    assert!(fs.lookup(t.dir_ino, OsStr::new("f")).is_err());
    assert!(fs.unlink(t.dir_ino, OsStr::new("f")).is_err());
    assert_eq!(std::fs::read(root.join("d/f")).unwrap(), b"another");
    // Met where it is, it is at hand again.
    fs.lookup(ROOT, OsStr::new("moved")).unwrap();
    assert_eq!(fs.attr(t.file_ino, None).unwrap().attr.len_bytes, 0);
}

#[test]
fn a_directory_that_others_moved_untold_is_looked_for_after_anything_may_have_changed() {
    let t = Try::new(true);
    let root = t._dir.path();
    std::fs::rename(root.join("d"), root.join("moved")).unwrap();
    std::fs::create_dir(root.join("d")).unwrap();
    t.teller.all_changed();
    let me = Caller {
        uid: 0,
        gid: 0,
        umask: 0,
    };
    assert!(
        t.fs.make_dir(t.dir_ino, OsStr::new("new"), 0o755, me)
            .is_err()
    );
    assert!(!root.join("d/new").exists());
    t.fs.lookup(ROOT, OsStr::new("moved")).unwrap();
    t.fs.make_dir(t.dir_ino, OsStr::new("new"), 0o755, me)
        .unwrap();
    assert!(root.join("moved/new").is_dir());
}

#[test]
fn what_the_kernel_cannot_know_it_is_not_told() {
    let t = Try::new(true);
    t.teller.name_changed(&below(&["elsewhere", "f"]));
    t.teller.file_changed(u64::MAX);
    assert!(t.listener.take().is_empty());
    t.teller.file_changed(t.file_ino);
    assert_eq!(t.listener.take(), [format!("file {}", t.file_ino)]);
}

#[test]
fn after_anything_may_have_changed_everything_is_forgotten() {
    let files = |t: &Try| [ROOT, t.dir_ino, t.file_ino].map(|ino| format!("file {ino}"));
    let t = Try::new(true);
    t.teller.all_changed();
    let mut wanted = files(&t).to_vec();
    wanted.push("all names".to_owned());
    wanted.sort();
    assert_eq!(t.listener.take(), wanted);

    let t = Try::new(false);
    t.teller.all_changed();
    let mut wanted = files(&t).to_vec();
    wanted.push(format!("name d in {ROOT}"));
    wanted.push(format!("name f in {}", t.dir_ino));
    wanted.sort();
    assert_eq!(t.listener.take(), wanted);
}
