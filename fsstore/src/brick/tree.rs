//! Where objects stand in the directory tree, and the steps that put them there or take them
//! away. Looking may be done by anyone; changing is done in the committer's turn only.
//!
//! A plain key stands at its path. While a directory stands there it stands in its shelter, the
//! key's escaped path: it is moved there before the directory is made and moved back after the
//! directory is gone, so that at every instant it stands at one of the two.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::disk::{DirEntry, Disk, DiskFile, FileFacts, FileKind};
use super::records::Records;
use crate::error::{Result, StoreError};
use crate::keypath::{self, Place};
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;

/// Permissions of the reserved directory and of what is in it: staged bytes and parts are as private
/// as the objects they will become.
const PRIVATE_DIR_MODE: u32 = 0o700;

/// The directories of portico's own, below the reserved directory.
pub struct OwnDirs<D: Disk> {
    /// Files on their way to a name.
    pub staging: Arc<D::Dir>,
    /// Escaped and sheltered keys, one directory a bucket.
    pub keys: Arc<D::Dir>,
    /// Records too large for an xattr.
    pub records: Arc<D::Dir>,
    /// What is known of each bucket.
    pub buckets: Arc<D::Dir>,
    /// Multipart uploads under way.
    pub uploads: Arc<D::Dir>,
    /// The listing index and the intent log.
    pub index: Arc<D::Dir>,
}

/// One volume's directory tree.
pub struct Tree<D: Disk> {
    /// The disk it is on.
    pub disk: Arc<D>,
    /// Its root, with one directory a bucket.
    pub root: Arc<D::Dir>,
    /// What is portico's own.
    pub own: OwnDirs<D>,
    /// Records of files and directories.
    pub records: Arc<Records<D>>,
    pub(super) next_name: AtomicU64,
    /// A walk met a symbolic link to a directory: what changes behind it the kernel tells of
    /// under another path.
    pub(super) has_linked_dirs: AtomicBool,
    /// Counts moves to and from shelters, before and after each.
    pub(super) moves: AtomicU64,
}

/// An object found.
pub struct Found<D: Disk> {
    /// Its bytes; none for a marker, which is a directory.
    pub file: Option<D::File>,
    /// Its file's facts; a marker's directory's, with length 0.
    pub facts: FileFacts,
    /// Whether it stands at its escaped path.
    pub escaped: bool,
    /// A marker's record; a file's is in the file.
    pub marker: Option<super::attrs::Record>,
}

/// What a change of names did besides.
#[derive(Debug, Default)]
pub struct Moved {
    /// Objects that went to their shelter or came back from it, and their files as they were
    /// before.
    pub keys: Vec<(ObjectKey, FileFacts)>,
    /// Files that lost this name and have others: as they were before, and as they are.
    pub outlived: Vec<(FileFacts, FileFacts)>,
    /// Whether an object stood there.
    pub existed: bool,
    /// Whether what was to be published has its name.
    pub placed: bool,
    /// Whether what was published stands at its escaped path.
    pub escaped: bool,
}

impl Moved {
    /// Notes a file that has lost this name, held where it had others.
    pub(super) fn outlives<F: DiskFile>(&mut self, before: &FileFacts, held: Option<F>) {
        let after = held.and_then(|file| file.facts().ok());
        let after = after.filter(|after| after.ino == before.ino);
        self.outlived.extend(after.map(|after| (*before, after)));
    }
}

/// Names what was asked of the disk.
pub(crate) fn failed(action: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |e| StoreError::from_io(action, e)
}

/// A name that is not there, or a name below a file.
pub fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// What stands at a name met in a directory; none where it is gone, or this process may not look.
pub(crate) fn kind_met<D: Disk>(
    disk: &D,
    dir: &D::Dir,
    entry: &DirEntry,
) -> io::Result<Option<FileKind>> {
    match entry.kind {
        Some(kind) => Ok(Some(kind)),
        None => match disk.stat(dir, &entry.name) {
            Ok(facts) => Ok(Some(facts.kind)),
            Err(e) if is_absent(&e) || is_forbidden(&e) => Ok(None),
            Err(e) => Err(e),
        },
    }
}

/// Whether this process may not look there.
pub(crate) fn is_forbidden(e: &io::Error) -> bool {
    e.kind() == ErrorKind::PermissionDenied
}

pub(crate) fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

pub(crate) fn split_parent(path: &str) -> (Option<&str>, &str) {
    match path.rsplit_once('/') {
        Some((parent, name)) => (Some(parent), name),
        None => (None, path),
    }
}

impl<D: Disk> Tree<D> {
    /// Opens a tree, making portico's own directories where they are not.
    pub fn open(disk: Arc<D>) -> Result<Self> {
        Self::open_with(disk, |records| records)
    }

    /// As [`Self::open`], with records kept as `adjust` says.
    pub fn open_with(disk: Arc<D>, adjust: impl FnOnce(Records<D>) -> Records<D>) -> Result<Self> {
        let fail = failed("make portico's own directories");
        let root = disk.root();
        let make = |parent: &Arc<D::Dir>, name: &str| -> Result<Arc<D::Dir>> {
            match disk.make_dir(parent, name, PRIVATE_DIR_MODE) {
                Ok(()) => disk.sync_dir(parent).map_err(&fail)?,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(fail(e)),
            }
            disk.open_dir(parent, name).map_err(&fail)
        };
        let reserved = make(&root, keypath::RESERVED)?;
        let own = OwnDirs {
            staging: make(&reserved, "staging")?,
            keys: make(&reserved, keypath::KEYS_DIR)?,
            records: make(&reserved, "records")?,
            buckets: make(&reserved, "buckets")?,
            uploads: make(&reserved, "uploads")?,
            index: make(&reserved, "index")?,
        };
        let (dir, staging) = (Arc::clone(&own.records), Arc::clone(&own.staging));
        let records = Records::new(Arc::clone(&disk), dir, staging)?;
        let records = adjust(records);
        Ok(Self {
            disk,
            root,
            own,
            records: Arc::new(records),
            next_name: AtomicU64::new(0),
            has_linked_dirs: AtomicBool::new(false),
            moves: AtomicU64::new(0),
        })
    }

    /// Removes what a crash left in staging: only names made by earlier runs.
    pub fn sweep_staging(&self) -> Result<usize> {
        let fail = failed("sweep staging");
        let mut names = Vec::new();
        let staging = &self.own.staging;
        self.disk
            .read_dir(staging, &mut |entry| {
                names.push(entry.name);
                true
            })
            .map_err(&fail)?;
        for name in &names {
            self.disk.unlink(staging, name).map_err(&fail)?;
        }
        Ok(names.len())
    }

    fn open_file(&self, base: &D::Dir, path: &str, escaped: bool) -> Result<Option<Found<D>>> {
        let fail = failed("open an object");
        let file = match self.disk.open(base, path) {
            Ok(file) => file,
            Err(e) if is_absent(&e) => return Ok(None),
            // A directory, or a FIFO, socket or device: no object.
            Err(e) if matches!(e.kind(), ErrorKind::IsADirectory | ErrorKind::InvalidInput) => {
                return Ok(None);
            }
            Err(e) => return Err(fail(e)),
        };
        let facts = file.facts().map_err(&fail)?;
        Ok((facts.kind == FileKind::File).then_some(Found {
            file: Some(file),
            facts,
            escaped,
            marker: None,
        }))
    }

    fn find_escaped(&self, at: &Locator) -> Result<Option<Found<D>>> {
        let path = format!("{}/{}", at.bucket, keypath::escaped_path(&at.key));
        self.open_file(&self.own.keys, &path, true)
    }

    /// Opens the object at a key; none where none stands there. A FIFO, socket, device or
    /// directory is no object.
    pub fn find(&self, at: &Locator) -> Result<Option<Found<D>>> {
        match keypath::place(&at.key) {
            Place::Plain(path) => {
                let path = format!("{}/{path}", at.bucket);
                loop {
                    let moves = self.moves.load(Ordering::Acquire);
                    if let Some(found) = self.open_file(&self.root, &path, false)? {
                        return Ok(Some(found));
                    }
                    if let Some(found) = self.find_escaped(at)? {
                        return Ok(Some(found));
                    }
                    // Between the two looks it may have moved from one place to the other.
                    if self.moves.load(Ordering::Acquire) == moves {
                        return Ok(None);
                    }
                }
            }
            Place::Marker { dir } => {
                if let Some(found) = self.find_escaped(at)? {
                    return Ok(Some(found));
                }
                self.find_marker(&format!("{}/{dir}", at.bucket))
            }
            Place::Escaped => self.find_escaped(at),
        }
    }

    /// As [`Self::find`]; one that may not be read is passed over.
    pub fn find_readable(&self, at: &Locator) -> Result<Option<Found<D>>> {
        match self.find(at) {
            Err(StoreError::AccessDenied) => Ok(None),
            other => other,
        }
    }

    /// Moves an object to or from its shelter, so that nobody who looks at both misses it.
    pub(super) fn moving<T>(&self, rename: impl FnOnce() -> T) -> T {
        self.moves.fetch_add(1, Ordering::AcqRel);
        let renamed = rename();
        self.moves.fetch_add(1, Ordering::AcqRel);
        renamed
    }

    /// As [`Self::find`] for a plain file, without waiting for the disk: none where that is
    /// not enough to tell.
    pub fn find_cached(&self, at: &Locator) -> Option<Found<D>> {
        let Place::Plain(path) = keypath::place(&at.key) else {
            return None;
        };
        let path = format!("{}/{path}", at.bucket);
        let file = self.disk.open_cached(&self.root, &path).ok()?;
        let facts = file.facts().ok()?;
        (facts.kind == FileKind::File).then_some(Found {
            file: Some(file),
            facts,
            escaped: false,
            marker: None,
        })
    }

    fn find_marker(&self, path: &str) -> Result<Option<Found<D>>> {
        let fail = failed("open a directory");
        let Some(dir) = absent_is_none(self.disk.open_dir(&self.root, path)).map_err(&fail)? else {
            return Ok(None);
        };
        let Some(record) = self.records.load_dir(&dir)?.marker else {
            return Ok(None);
        };
        let mut facts = self.disk.stat_dir(&dir).map_err(&fail)?;
        // The directory's own times move with its entries; the marker's state is recorded.
        facts.len_bytes = 0;
        if let Some(state) = record.state {
            (facts.mtime_ns, facts.ino) = (state.mtime_ns, state.ino);
        }
        Ok(Some(Found {
            file: None,
            facts,
            escaped: false,
            marker: Some(record),
        }))
    }

    /// Opens a bucket's directory. Errors: NoSuchBucket.
    pub fn bucket_dir(&self, bucket: &BucketName) -> Result<Arc<D::Dir>> {
        absent_is_none(self.disk.open_dir(&self.root, bucket.as_str()))
            .map_err(failed("open a bucket"))?
            .ok_or(StoreError::NoSuchBucket)
    }

    pub(super) fn require_bucket(&self, bucket: &BucketName) -> Result<()> {
        self.bucket_dir(bucket).map(|_| ())
    }
}
