//! The files of a brick against its objects: what one half of the waist does, the other sees.
//!
//! As root what belongs to callers is tested with other users; as a user with this one.

mod attributes;
mod directories;
mod errors;
mod links;
mod long_paths;
mod names;
mod numbers;
mod races;
mod random;
mod renames;
mod writing;
mod xattributes;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::brick::posix::PosixFile;
use crate::brick::{Brick, BrickOptions};
use crate::error::StoreError;
use crate::files::{
    Caller, FileAttr, FileId, FilePath, FileResult, Files, OpenDir, OpenFile, OpenFlags, Target,
};
use crate::name::{BucketName, ObjectKey};
use crate::object::{Locator, ObjectInfo, Precondition};
use crate::volume::{
    AttrsPatch, CommitOptions, ListQuery, NewBucket, Object, StageOptions, Staged, Volume,
};

/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest pause between two looks whether it has.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

const READ: OpenFlags = flags(true, false);
const WRITE: OpenFlags = flags(false, true);
const BOTH: OpenFlags = flags(true, true);

const fn flags(read: bool, write: bool) -> OpenFlags {
    OpenFlags {
        write,
        read,
        append: false,
        truncate: false,
        exclusive: false,
        sync: false,
    }
}

/// A brick with the bucket `b`, seen from both sides.
struct Scene {
    brick: Brick,
    runtime: Runtime,
    options: BrickOptions,
    dir: tempfile::TempDir,
}

fn path(text: &str) -> FilePath {
    path_of_bytes(text.as_bytes())
}

fn path_of_bytes(bytes: &[u8]) -> FilePath {
    use std::os::unix::ffi::OsStrExt;
    let names = bytes.split(|b| *b == b'/').filter(|name| !name.is_empty());
    names.fold(FilePath::root(), |path, name| {
        path.join(OsStr::from_bytes(name)).unwrap()
    })
}

/// Whoever runs the tests.
fn me() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        umask: 0o022,
    }
}

fn at(key: &str) -> Locator {
    at_in("b", key)
}

fn at_in(bucket: &str, key: &str) -> Locator {
    Locator::new(
        BucketName::parse(bucket).unwrap(),
        ObjectKey::parse(key).unwrap(),
    )
}

impl Scene {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut BrickOptions)) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let runtime = Runtime::new().unwrap();
        let mut options = BrickOptions::new(dir.path());
        change(&mut options);
        let brick = runtime.block_on(Brick::open(options.clone())).unwrap();
        let scene = Self {
            brick,
            runtime,
            options,
            dir,
        };
        scene.make_bucket("b");
        scene
    }

    fn reopened(self) -> Self {
        self.runtime.block_on(self.brick.close()).unwrap();
        let Self {
            brick,
            runtime,
            options,
            dir,
        } = self;
        drop(brick);
        let brick = runtime.block_on(Brick::open(options.clone())).unwrap();
        Self {
            brick,
            runtime,
            options,
            dir,
        }
    }

    fn make_bucket(&self, name: &str) {
        let name = BucketName::parse(name).unwrap();
        self.runtime
            .block_on(self.brick.create_bucket(&name, NewBucket::default()))
            .unwrap();
    }

    /// The file behind the mount's back.
    fn real(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn put(&self, key: &str, bytes: &[u8]) -> ObjectInfo {
        self.runtime.block_on(async {
            let options = StageOptions::default();
            let mut staged = self.brick.stage(&at(key), options).await.unwrap();
            staged.write(Bytes::copy_from_slice(bytes)).await.unwrap();
            staged.commit(CommitOptions::default()).await.unwrap()
        })
    }

    fn patch(&self, key: &str, patch: AttrsPatch) {
        let whatever = Precondition::default();
        self.runtime
            .block_on(self.brick.set_attrs(&at(key), patch, &whatever))
            .unwrap();
    }

    fn delete(&self, key: &str) {
        let whatever = Precondition::default();
        self.runtime
            .block_on(self.brick.remove(&at(key), &whatever))
            .unwrap();
    }

    fn stat_at(&self, at: &Locator) -> Result<ObjectInfo, StoreError> {
        self.runtime.block_on(self.brick.stat(at))
    }

    fn stat(&self, key: &str) -> ObjectInfo {
        self.stat_at(&at(key)).unwrap()
    }

    fn get(&self, key: &str) -> Vec<u8> {
        self.runtime.block_on(async {
            let object = self.brick.open(&at(key)).await.unwrap();
            let whole = 0..object.info().len_bytes;
            object.read(whole).await.unwrap().to_vec()
        })
    }

    fn has_key(&self, key: &str) -> bool {
        match self.stat_at(&at(key)) {
            Ok(_) => true,
            Err(StoreError::NoSuchKey) => false,
            Err(e) => panic!("{e}"),
        }
    }

    fn keys_in(&self, bucket: &str) -> Vec<String> {
        let query = ListQuery {
            limit: 1_000,
            ..ListQuery::default()
        };
        let bucket = BucketName::parse(bucket).unwrap();
        let page = self.runtime.block_on(self.brick.list(&bucket, &query));
        let objects = page.unwrap().objects.into_iter();
        objects.map(|entry| entry.key.as_str().to_owned()).collect()
    }

    /// Whether the index has every key, so that listings need not walk.
    fn rows_are_whole(&self) -> bool {
        let bucket = BucketName::parse("b").unwrap();
        self.brick.inner.index.is_complete(&bucket)
    }

    fn keys(&self) -> Vec<String> {
        self.keys_in("b")
    }

    /// The tag that a listing shows.
    fn listed_tag(&self, key: &str) -> String {
        let query = ListQuery {
            prefix: key.to_owned(),
            limit: 1,
            ..ListQuery::default()
        };
        let bucket = BucketName::parse("b").unwrap();
        let page = self.runtime.block_on(self.brick.list(&bucket, &query));
        let entry = page.unwrap().objects.pop().unwrap();
        assert_eq!(entry.key.as_str(), key);
        entry.etag.as_str().to_owned()
    }

    fn eventually(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let (began, mut pause) = (Instant::now(), Duration::from_micros(100));
        while !is_so() {
            assert!(began.elapsed() < PATIENCE, "never came about: {what}");
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn eventually_tagged(&self, key: &str, tag: &str) {
        self.eventually("the MD5 is the tag", || {
            self.stat(key).etag.as_str() == tag && self.listed_tag(key) == tag
        });
    }

    fn create(&self, at: &str) -> FileResult<PosixFile> {
        Ok(self.brick.create(&path(at), 0o644, BOTH, me())?.1)
    }

    fn write(&self, at: &str, bytes: &[u8]) {
        let file = self.create(at).unwrap();
        assert_eq!(file.write(0, bytes), Ok(bytes.len()));
    }

    fn lookup(&self, at: &str) -> FileResult<FileAttr> {
        self.brick.lookup(&path(at))
    }

    fn open(&self, at: &str, flags: OpenFlags) -> FileResult<PosixFile> {
        let path = path(at);
        let ino = self.brick.lookup(&path)?.ino;
        self.brick.open_file(
            Target::Named {
                path: &path,
                id: FileId::any(ino),
            },
            flags,
        )
    }

    fn read(&self, at: &str) -> FileResult<Vec<u8>> {
        read_all(&self.open(at, READ)?)
    }

    fn mkdir(&self, at: &str) -> FileResult<FileAttr> {
        self.brick.make_dir(&path(at), 0o755, me())
    }

    fn names_of(&self, at: &str) -> Vec<String> {
        let ino = self.lookup(at).unwrap().ino;
        let dir = self.brick.open_dir(&path(at), FileId::any(ino)).unwrap();
        let mut names = Vec::new();
        dir.read(0, &mut |entry| {
            names.push(entry.name.to_str().unwrap().to_owned());
            true
        })
        .unwrap();
        names.sort();
        names
    }
}

fn read_all(file: &PosixFile) -> FileResult<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read(0, &mut bytes, 1 << 20)?;
    Ok(bytes)
}

/// MD5 of `hello` and of nothing, as tags.
const HELLO_MD5: &str = "5d41402abc4b2a76b9719d911017c592";
const EMPTY_MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";
