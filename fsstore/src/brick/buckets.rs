//! Buckets: directories of the volume's root, and what is known of each, one small JSON file a
//! bucket below the reserved directory. A directory dropped in is a bucket without a file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};

use super::commit::Turn;
use super::disk::{Disk, DiskFile, FileKind};
use super::tree::{Tree, absent_is_none, failed, is_absent};
use crate::by_bucket::ByBucket;
use crate::error::{Result, StoreError};
use crate::name::BucketName;
use crate::object::{FileOwner, Timestamp};
use crate::volume::{BucketInfo, Durability, NewBucket};

/// Longest bucket file, in bytes; settings beyond it are refused.
pub(crate) const MAX_RECORD_LEN_BYTES: usize = 1 << 20;
/// How long a bucket is known without looking again whether its directory stands. An object's
/// own operations notice at once.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// Most buckets kept in memory.
const MAX_CACHED: usize = 4_096;
/// Deepest tree of empty directories that a bucket's removal takes along.
const MAX_EMPTY_DEPTH: usize = 512;

/// What is kept of a bucket. Unknown fields of a later version are an error: what cannot be
/// understood is not rewritten.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BucketRecord {
    pub(crate) version: u32,
    pub(crate) created_ns: i64,
    pub(crate) owner: Option<String>,
    #[serde(default)]
    pub(crate) settings: BTreeMap<String, String>,
}

pub(crate) const RECORD_VERSION: u32 = 1;

struct Known {
    info: Arc<BucketInfo>,
    looked: Instant,
}

/// The buckets of one volume.
pub struct Buckets {
    durability: ByBucket<Durability>,
    known: Cache<BucketName, Arc<Known>>,
    /// Counts changes of buckets, after each.
    changes: AtomicU64,
}

impl Buckets {
    /// None known yet.
    pub fn new(durability: ByBucket<Durability>) -> Self {
        Self {
            durability,
            known: Cache::new(MAX_CACHED),
            changes: AtomicU64::new(0),
        }
    }

    /// What is known of a bucket, where it was looked at a moment ago. Does not wait.
    pub fn cached(&self, name: &BucketName) -> Option<Arc<BucketInfo>> {
        let known = self.known.get(name)?;
        (known.looked.elapsed() < TRUSTED_FOR).then(|| Arc::clone(&known.info))
    }

    /// What an acknowledgement means in a bucket.
    pub fn durability(&self, name: &BucketName) -> Durability {
        self.durability.of(name)
    }

    /// Looks at a bucket. Errors: NoSuchBucket.
    pub fn load<D: Disk>(&self, tree: &Tree<D>, name: &BucketName) -> Result<Arc<BucketInfo>> {
        let changes = self.changes.load(Ordering::Acquire);
        let result = self.load_uncached(tree, name).map(Arc::new);
        match &result {
            // What was read before a change is not kept beyond it.
            Ok(_) if self.changes.load(Ordering::Acquire) != changes => {}
            Ok(info) => {
                let known = Known {
                    info: Arc::clone(info),
                    looked: Instant::now(),
                };
                self.known.insert(name.clone(), Arc::new(known));
                if self.changes.load(Ordering::Acquire) != changes {
                    self.known.remove(name);
                }
            }
            Err(_) => {
                self.known.remove(name);
            }
        }
        result
    }

    fn load_uncached<D: Disk>(&self, tree: &Tree<D>, name: &BucketName) -> Result<BucketInfo> {
        let facts = match tree.disk.stat(&tree.root, name.as_str()) {
            Ok(facts) if facts.kind == FileKind::Dir => facts,
            Ok(_) => return Err(StoreError::NoSuchBucket),
            Err(e) if is_absent(&e) => return Err(StoreError::NoSuchBucket),
            Err(e) => return Err(StoreError::from_io("look at a bucket", e)),
        };
        let made = if facts.btime_ns != 0 {
            facts.btime_ns
        } else {
            facts.mtime_ns
        };
        let record = read_record(tree, name)?.unwrap_or(BucketRecord {
            version: RECORD_VERSION,
            created_ns: made,
            owner: None,
            settings: BTreeMap::new(),
        });
        Ok(BucketInfo {
            name: name.clone(),
            created: Timestamp(record.created_ns),
            owner: record.owner,
            durability: self.durability.of(name),
            settings: record.settings,
        })
    }

    /// Looks again before it says anything more of a bucket.
    pub fn forget(&self, name: &BucketName) {
        self.has_changed(name);
    }

    fn has_changed(&self, name: &BucketName) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.known.remove(name);
    }

    /// Makes a bucket, in the committer's turn. Errors: BucketExists.
    pub fn create<D: Disk>(
        &self,
        tree: &Tree<D>,
        turn: &mut Turn<'_, D>,
        name: &BucketName,
        new: NewBucket,
        now: Timestamp,
    ) -> Result<Arc<BucketInfo>> {
        match self.load(tree, name) {
            Ok(info) => {
                return Err(StoreError::BucketExists {
                    owner: info.owner.clone(),
                });
            }
            Err(StoreError::NoSuchBucket) => {}
            Err(e) => return Err(e),
        }
        let record = BucketRecord {
            version: RECORD_VERSION,
            created_ns: now.0,
            owner: new.owner,
            settings: new.settings,
        };
        // Escaped keys of a bucket whose directory was removed behind our back went with it.
        remove_escaped(tree, turn, name)?;
        // The record first: a directory without one would be nobody's bucket.
        write_record(tree, turn, name, &record)?;
        turn.settle()?;
        match tree.make_dir_for(&tree.root, name.as_str(), &new.file_owner) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                return Err(StoreError::BucketExists { owner: None });
            }
            Err(e) => return Err(StoreError::from_io("make a bucket", e)),
        }
        turn.changed(&tree.root);
        turn.named_in(name, "");
        self.has_changed(name);
        self.load(tree, name)
    }

    /// Makes a bucket's directory, in the committer's turn; one that stands is left as it is.
    pub fn make_dir<D: Disk>(
        &self,
        tree: &Tree<D>,
        turn: &mut Turn<'_, D>,
        name: &BucketName,
        owner: &FileOwner,
    ) -> Result<()> {
        match tree.make_dir_for(&tree.root, name.as_str(), owner) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(()),
            Err(e) => return Err(StoreError::from_io("make a bucket", e)),
        }
        turn.changed(&tree.root);
        turn.named_in(name, "");
        self.has_changed(name);
        Ok(())
    }

    /// Makes a bucket what this says, whether it stands or not, in the committer's turn. True
    /// where its directory did not stand.
    pub fn keep<D: Disk>(
        &self,
        tree: &Tree<D>,
        turn: &mut Turn<'_, D>,
        info: &BucketInfo,
        owner: &FileOwner,
    ) -> Result<bool> {
        let name = &info.name;
        let is_new = matches!(tree.bucket_dir(name), Err(StoreError::NoSuchBucket));
        let record = BucketRecord {
            version: RECORD_VERSION,
            created_ns: info.created.0,
            owner: info.owner.clone(),
            settings: info.settings.clone(),
        };
        write_record(tree, turn, name, &record)?;
        if is_new {
            turn.settle()?;
            self.make_dir(tree, turn, name, owner)?;
        }
        self.has_changed(name);
        Ok(is_new)
    }

    /// Whether a bucket has anything that its removal does not take along; one that is not there
    /// has nothing.
    pub fn holds_anything<D: Disk>(&self, tree: &Tree<D>, name: &BucketName) -> Result<bool> {
        for base in [&tree.root, &tree.own.keys] {
            match tree.disk.open_dir(base, name.as_str()) {
                Ok(dir) if holds_anything(tree, &dir, 0)? => return Ok(true),
                Ok(_) => {}
                Err(e) if is_absent(&e) => {}
                Err(e) => return Err(StoreError::from_io("look whether a bucket is empty", e)),
            }
        }
        Ok(false)
    }

    /// Sets or takes away a document, in the committer's turn. Errors: NoSuchBucket,
    /// MetadataTooLarge.
    pub fn set<D: Disk>(
        &self,
        tree: &Tree<D>,
        turn: &mut Turn<'_, D>,
        name: &BucketName,
        setting: String,
        value: Option<String>,
    ) -> Result<()> {
        let info = self.load(tree, name)?;
        let mut settings = info.settings.clone();
        match value {
            Some(value) => settings.insert(setting, value),
            None => settings.remove(&setting),
        };
        let record = BucketRecord {
            version: RECORD_VERSION,
            created_ns: info.created.0,
            owner: info.owner.clone(),
            settings,
        };
        write_record(tree, turn, name, &record)?;
        self.has_changed(name);
        self.load(tree, name).map(|_| ())
    }

    /// Removes a bucket that holds no object, with directories that are empty, in the
    /// committer's turn. Errors: NoSuchBucket, BucketNotEmpty.
    pub fn remove<D: Disk>(
        &self,
        tree: &Tree<D>,
        turn: &mut Turn<'_, D>,
        name: &BucketName,
    ) -> Result<()> {
        let fail = failed("remove a bucket");
        let dir = tree.bucket_dir(name)?;
        let escaped = match tree.disk.open_dir(&tree.own.keys, name.as_str()) {
            Ok(dir) => Some(dir),
            Err(e) if is_absent(&e) => None,
            Err(e) => return Err(fail(e)),
        };
        let holds = |dir: &D::Dir| holds_anything(tree, dir, 0);
        if holds(&dir)? || escaped.as_ref().map_or(Ok(false), |dir| holds(dir))? {
            return Err(StoreError::BucketNotEmpty);
        }
        if let Some(escaped) = escaped {
            remove_empty_dirs(tree, &escaped, &mut |_| {})?;
            tree.disk
                .remove_dir(&tree.own.keys, name.as_str())
                .map_err(&fail)?;
            turn.changed(&tree.own.keys);
        }
        remove_empty_dirs(tree, &dir, &mut |path| turn.named_in(name, path))?;
        match tree.disk.remove_dir(&tree.root, name.as_str()) {
            Ok(()) => {}
            // Something came in from behind our back.
            Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => {
                return Err(StoreError::BucketNotEmpty);
            }
            Err(e) => return Err(fail(e)),
        }
        turn.changed(&tree.root);
        turn.named_in(name, "");
        self.known.remove(name);
        // The record last, for the same reason.
        turn.settle()?;
        match tree.disk.unlink(&tree.own.buckets, name.as_str()) {
            Ok(()) => turn.changed(&tree.own.buckets),
            Err(e) if is_absent(&e) => {}
            Err(e) => return Err(fail(e)),
        }
        Ok(())
    }

    /// Buckets by name after `after`, at most `limit`.
    pub fn list<D: Disk>(
        &self,
        tree: &Tree<D>,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BucketInfo>> {
        let load = |name: &BucketName| self.load(tree, name).map(|info| (*info).clone());
        page(tree, prefix, after, limit, load)
    }
}

pub(crate) fn read_record<D: Disk>(
    tree: &Tree<D>,
    name: &BucketName,
) -> Result<Option<BucketRecord>> {
    let fail = failed("read a bucket's record");
    let file = match tree.disk.open_own(&tree.own.buckets, name.as_str(), false) {
        Ok(file) => file,
        Err(e) if is_absent(&e) => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    let bytes = file.read_at(0, MAX_RECORD_LEN_BYTES + 1).map_err(fail)?;
    let record: BucketRecord = serde_json::from_slice(&bytes)
        .map_err(|e| StoreError::Corrupt(format!("bucket {name}: {e}")))?;
    if record.version != RECORD_VERSION {
        return Err(StoreError::Corrupt(format!(
            "bucket {name}: version {} of its record is not known",
            record.version
        )));
    }
    Ok(Some(record))
}

fn write_record<D: Disk>(
    tree: &Tree<D>,
    turn: &mut Turn<'_, D>,
    name: &BucketName,
    record: &BucketRecord,
) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(record)
        .map_err(|e| StoreError::Corrupt(format!("bucket {name}: {e}")))?;
    if bytes.len() > MAX_RECORD_LEN_BYTES {
        return Err(StoreError::MetadataTooLarge {
            len_bytes: bytes.len(),
            max_bytes: MAX_RECORD_LEN_BYTES,
        });
    }
    tree.write_own(turn, &tree.own.buckets, name.as_str(), &bytes)
}

pub(crate) fn holds_anything<D: Disk>(tree: &Tree<D>, dir: &D::Dir, depth: usize) -> Result<bool> {
    let fail = failed("look whether a bucket is empty");
    if depth > MAX_EMPTY_DEPTH {
        return Ok(true);
    }
    let (mut dirs, mut found) = (Vec::new(), false);
    tree.disk
        .read_dir(dir, &mut |entry| {
            match entry.kind {
                Some(FileKind::Dir) | None => dirs.push(entry.name),
                Some(_) => found = true,
            }
            !found
        })
        .map_err(&fail)?;
    for name in dirs {
        if found {
            return Ok(true);
        }
        match tree.disk.open_dir(dir, &name) {
            Ok(below) => {
                found = tree.records.load_dir(&below)?.marker.is_some()
                    || holds_anything(tree, &below, depth + 1)?;
            }
            Err(_) => found = true,
        }
    }
    Ok(found)
}

fn remove_escaped<D: Disk>(
    tree: &Tree<D>,
    turn: &mut Turn<'_, D>,
    name: &BucketName,
) -> Result<()> {
    let keys = &tree.own.keys;
    let dir = match tree.disk.open_dir(keys, name.as_str()) {
        Ok(dir) => dir,
        Err(e) if is_absent(&e) => return Ok(()),
        Err(e) => return Err(StoreError::from_io("look for escaped keys", e)),
    };
    remove_all_in(&*tree.disk, &dir)?;
    tree.disk
        .remove_dir(keys, name.as_str())
        .map_err(failed("remove escaped keys"))?;
    turn.changed(keys);
    Ok(())
}

fn names_in<D: Disk>(disk: &D, dir: &D::Dir) -> Result<Vec<String>> {
    let mut names = Vec::new();
    disk.read_dir(dir, &mut |entry| {
        names.push(entry.name);
        true
    })
    .map_err(failed("read a directory that is to go"))?;
    Ok(names)
}

/// Buckets by name after `after`, at most `limit`, each as `load` knows it; one that it does not find
/// went meanwhile.
pub(crate) fn page<D: Disk>(
    tree: &Tree<D>,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    load: impl Fn(&BucketName) -> Result<BucketInfo>,
) -> Result<Vec<BucketInfo>> {
    let mut names = BTreeSet::new();
    tree.disk
        .read_dir(&tree.root, &mut |entry| {
            let is_dir = matches!(entry.kind, None | Some(FileKind::Dir));
            let is_wanted = entry.name.starts_with(prefix)
                && after.is_none_or(|after| entry.name.as_str() > after);
            if is_dir
                && is_wanted
                && let Ok(name) = BucketName::parse(&entry.name)
            {
                names.insert(name);
                if names.len() > limit {
                    names.pop_last();
                }
            }
            true
        })
        .map_err(failed("list buckets"))?;
    let mut buckets = Vec::with_capacity(names.len());
    for name in &names {
        match load(name) {
            Ok(info) => buckets.push(info),
            Err(StoreError::NoSuchBucket) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(buckets)
}

pub(crate) fn remove_all_in<D: Disk>(disk: &D, dir: &D::Dir) -> Result<()> {
    let fail = failed("remove escaped keys");
    let names = match names_in(disk, dir) {
        // On a tree that others serve too, someone else may have been first.
        Err(StoreError::Io { source, .. }) if is_absent(&source) => return Ok(()),
        names => names?,
    };
    for name in names {
        let removed = match disk.open_dir(dir, &name) {
            Ok(below) => {
                remove_all_in(disk, &below)?;
                disk.remove_dir(dir, &name)
            }
            Err(_) => disk.unlink(dir, &name),
        };
        absent_is_none(removed).map_err(&fail)?;
    }
    Ok(())
}

/// Calls `removed` with the path of each, below the one that all are in.
fn remove_empty_dirs<D: Disk>(
    tree: &Tree<D>,
    dir: &D::Dir,
    removed: &mut dyn FnMut(&str),
) -> Result<()> {
    remove_empty_below(&*tree.disk, dir, "", removed)
}

fn remove_empty_below<D: Disk>(
    disk: &D,
    dir: &D::Dir,
    prefix: &str,
    removed: &mut dyn FnMut(&str),
) -> Result<()> {
    let fail = failed("remove an empty directory");
    for name in names_in(disk, dir)? {
        let below = disk.open_dir(dir, &name).map_err(&fail)?;
        let path = format!("{prefix}{name}");
        remove_empty_below(disk, &below, &format!("{path}/"), removed)?;
        match disk.remove_dir(dir, &name) {
            // A name that is no UTF-8, or something that came in behind our back.
            Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => {
                return Err(StoreError::BucketNotEmpty);
            }
            other => other.map_err(&fail)?,
        }
        removed(&path);
    }
    Ok(())
}
