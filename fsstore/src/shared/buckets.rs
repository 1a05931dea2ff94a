//! Buckets of a shared volume: as a brick's, but changed under the bucket's claim, and never known
//! without asking the tree.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

use quick_cache::sync::Cache;

use super::claim::Claim;
use super::disk::{Dir, SharedDisk, is_gone, is_not_empty, kind_at};
use super::{Inner, claim_of_bucket};
use crate::brick::buckets::{
    BucketRecord, MAX_RECORD_LEN_BYTES, RECORD_VERSION, holds_anything, page, read_record,
};
use crate::brick::disk::{Disk, FileFacts, FileKind};
use crate::brick::sink::off_thread;
use crate::brick::tree::{Tree, absent_is_none, failed, is_absent};
use crate::by_bucket::ByBucket;
use crate::error::{Result, StoreError};
use crate::name::BucketName;
use crate::object::Timestamp;
use crate::volume::{BucketInfo, Durability, NewBucket};

/// Most buckets whose records are kept in memory.
const MAX_CACHED: usize = 4_096;
/// Deepest tree of empty directories that a bucket's removal takes along.
const MAX_EMPTY_DEPTH: usize = 512;

/// A record as it was read, and the state of the file it was read from: every change makes a file
/// of its own.
struct Known {
    file: Option<FileFacts>,
    has_record: bool,
    info: BucketInfo,
}

/// The records of buckets, as they were last read.
pub struct Buckets {
    durability: ByBucket<Durability>,
    known: Cache<BucketName, Arc<Known>>,
}

impl Buckets {
    /// None read yet.
    pub fn new(durability: ByBucket<Durability>) -> Self {
        Self {
            durability,
            known: Cache::new(MAX_CACHED),
        }
    }

    /// Looks at a bucket. Errors: NoSuchBucket.
    fn load(&self, tree: &Tree<SharedDisk>, name: &BucketName) -> Result<BucketInfo> {
        Ok(self.known(tree, name)?.info.clone())
    }

    fn known(&self, tree: &Tree<SharedDisk>, name: &BucketName) -> Result<Arc<Known>> {
        let fail = failed("look at a bucket");
        let disk = &tree.disk;
        let standing = twice(|| absent_is_none(disk.stat(&tree.root, name.as_str())));
        let dir = match standing.map_err(&fail)? {
            Some(facts) if facts.kind == FileKind::Dir => facts,
            _ => {
                self.known.remove(name);
                return Err(StoreError::NoSuchBucket);
            }
        };
        let file = twice(|| absent_is_none(disk.stat(&tree.own.buckets, name.as_str())));
        let file = file.map_err(fail)?;
        if let Some(known) = self.known.get(name)
            && known.file == file
            && file.is_some()
            && known.has_record
        {
            return Ok(known);
        }
        let made = match dir.btime_ns {
            0 => dir.mtime_ns,
            born => born,
        };
        let record = twice(|| read_record(tree, name))?;
        let has_record = record.is_some();
        let record = record.unwrap_or(BucketRecord {
            version: RECORD_VERSION,
            created_ns: made,
            owner: None,
            settings: BTreeMap::new(),
        });
        let info = BucketInfo {
            name: name.clone(),
            created: Timestamp(record.created_ns),
            owner: record.owner,
            durability: self.durability.of(name),
            settings: record.settings,
        };
        let known = Arc::new(Known {
            file,
            has_record,
            info,
        });
        self.known.insert(name.clone(), Arc::clone(&known));
        Ok(known)
    }
}

/// What a remote file system says is not there is looked up once more: it may just be being
/// replaced. Never skipped: a bucket is made, and its owner and policy are none, where this is wrong.
pub(super) fn twice<T, E>(
    look: impl Fn() -> std::result::Result<Option<T>, E>,
) -> std::result::Result<Option<T>, E> {
    match look()? {
        None => look(),
        found => Ok(found),
    }
}

/// What an earlier bucket of a name left, taken into the claim.
pub(super) struct Leftovers {
    record: Option<String>,
    keys: Option<String>,
    uploads: Option<String>,
}

impl Inner {
    /// Looks at a bucket. Errors: NoSuchBucket.
    pub(super) async fn look_bucket(self: &Arc<Self>, name: &BucketName) -> Result<BucketInfo> {
        let (inner, name) = (Arc::clone(self), name.clone());
        off_thread(move || inner.buckets.load(&inner.tree, &name)).await
    }

    /// Does something under a bucket's claim.
    async fn with_bucket<T: Send + 'static>(
        self: &Arc<Self>,
        name: &BucketName,
        act: impl FnOnce(&Self, &BucketName, &Claim) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let claim_name = claim_of_bucket(name);
        let turn = self.claims.turn(&claim_name).await;
        let (inner, name) = (Arc::clone(self), name.clone());
        let claims = Arc::clone(&self.claims);
        let prepare = move || claims.stage_held();
        let act = move |claim: Claim| {
            let _turn = turn;
            act(&inner, &name, &claim)
        };
        self.claims.under(&claim_name, prepare, act).await
    }

    /// Makes a bucket. The record first: a directory without one would be nobody's bucket.
    pub(super) async fn make_bucket(
        self: &Arc<Self>,
        name: &BucketName,
        new: NewBucket,
    ) -> Result<BucketInfo> {
        self.with_bucket(name, move |inner, name, claim| {
            match inner.buckets.load(&inner.tree, name) {
                Ok(BucketInfo { owner, .. }) => return Err(StoreError::BucketExists { owner }),
                Err(StoreError::NoSuchBucket) => {}
                Err(e) => return Err(e),
            }
            let left = inner.take_leftovers(name, claim)?;
            let record = BucketRecord {
                version: RECORD_VERSION,
                created_ns: inner.now_ns(),
                owner: new.owner,
                settings: new.settings,
            };
            inner.write_bucket_record(name, claim, &record)?;
            let tree = &inner.tree;
            match tree.make_dir_for(&tree.root, name.as_str(), &new.file_owner) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    inner.put_back(name, claim, &left)?;
                    return Err(StoreError::BucketExists { owner: None });
                }
                Err(e) => return Err(StoreError::from_io("make a bucket", e)),
            }
            // Overtaken before the directory was made: then the record is another's, or gone.
            if let Err(e) = claim.renew() {
                let _ = tree.disk.remove_dir(&tree.root, name.as_str());
                return Err(e);
            }
            inner.sync_dir(&tree.root, true)?;
            inner.buckets.load(tree, name)
        })
        .await
    }

    /// Takes what an earlier bucket of this name left into the claim: it goes with that, and until
    /// then it can be put back.
    pub(super) fn take_leftovers(&self, name: &BucketName, claim: &Claim) -> Result<Leftovers> {
        let own = &self.tree.own;
        let take = |dir: &Dir| match claim.take(dir, name.as_str()) {
            Ok(entry) => {
                self.sync_dir(dir, true)?;
                Ok(Some(entry))
            }
            // Nothing there; or the claim was broken.
            Err(e) if is_absent(&e) => claim.renew().map(|()| None),
            Err(e) => Err(StoreError::from_io("take what a bucket left", e)),
        };
        Ok(Leftovers {
            record: take(&own.buckets)?,
            keys: take(&own.keys)?,
            uploads: take(&own.uploads)?,
        })
    }

    /// Gives a bucket back what was taken for an earlier one's.
    fn put_back(&self, name: &BucketName, claim: &Claim, left: &Leftovers) -> Result<()> {
        let own = &self.tree.own;
        if left.record.is_none() {
            let _ = claim.take(&own.buckets, name.as_str());
        }
        let taken = [
            (&left.record, &own.buckets),
            (&left.keys, &own.keys),
            (&left.uploads, &own.uploads),
        ];
        for (entry, dir) in taken {
            let Some(entry) = entry else { continue };
            claim
                .place(entry, dir, name.as_str())
                .map_err(failed("give a bucket back what is its own"))?;
            self.sync_dir(dir, true)?;
        }
        Ok(())
    }

    fn write_bucket_record(
        &self,
        name: &BucketName,
        claim: &Claim,
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
        let entry = claim.create_with(&bytes)?;
        let dir = &self.tree.own.buckets;
        match claim.place(&entry, dir, name.as_str()) {
            Err(e) if is_absent(&e) => return Err(StoreError::Conflict),
            other => other.map_err(failed("write a bucket's record"))?,
        }
        self.sync_dir(dir, true)
    }

    /// Sets or takes away a document.
    pub(super) async fn set_setting(
        self: &Arc<Self>,
        name: &BucketName,
        setting: String,
        value: Option<String>,
    ) -> Result<()> {
        self.with_bucket(name, move |inner, name, claim| {
            let known = inner.buckets.known(&inner.tree, name)?;
            if !known.has_record {
                inner.require_no_record(name)?;
            }
            let info = known.info.clone();
            let mut settings = info.settings;
            match value {
                Some(value) => settings.insert(setting, value),
                None => settings.remove(&setting),
            };
            let record = BucketRecord {
                version: RECORD_VERSION,
                created_ns: info.created.0,
                owner: info.owner,
                settings,
            };
            inner.write_bucket_record(name, claim, &record)
        })
        .await
    }

    /// Refuses to go on with a bucket whose record was not found though it is listed: what is
    /// written back would be the new setting alone. Errors: Conflict.
    fn require_no_record(&self, name: &BucketName) -> Result<()> {
        let (disk, records) = (&self.tree.disk, &self.tree.own.buckets);
        let fail = failed("look at a bucket's record");
        let mut is_listed = false;
        disk.read_dir(records, &mut |entry| {
            is_listed |= entry.name == name.as_str();
            !is_listed
        })
        .map_err(fail)?;
        match is_listed {
            true => Err(StoreError::Conflict),
            false => Ok(()),
        }
    }

    /// Removes a bucket that holds no object. A file in the place of its directory for escaped
    /// keys keeps those out until the bucket's own directory is gone, which no key outlives:
    /// rmdir(2) refuses one with anything in it.
    pub(super) async fn remove_bucket(self: &Arc<Self>, name: &BucketName) -> Result<()> {
        self.with_bucket(name, |inner, name, claim| {
            let fail = failed("remove a bucket");
            let tree = &inner.tree;
            let (disk, keys) = (&tree.disk, &tree.own.keys);
            let dir = tree.bucket_dir(name)?;
            let escaped = match disk.open_dir(keys, name.as_str()) {
                Ok(escaped) => Some(escaped),
                Err(e) if is_absent(&e) => None,
                Err(e) => return Err(fail(e)),
            };
            let holds = |dir: &Dir| holds_anything(tree, dir, 0);
            if holds(&dir)? || escaped.as_ref().map_or(Ok(false), holds)? {
                return Err(StoreError::BucketNotEmpty);
            }
            if let Some(escaped) = escaped {
                inner.remove_empty(&escaped, 0)?;
                remove_dir(disk, keys, name.as_str())?;
            }
            let guard = claim.create_with(b"")?;
            match claim.place_new(&guard, keys, name.as_str()) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    // A key came; or the last removal died, and this takes its place.
                    if kind_at(disk, keys, name.as_str()).map_err(&fail)? != Some(FileKind::File) {
                        return Err(StoreError::BucketNotEmpty);
                    }
                }
                other => other.map_err(&fail)?,
            }
            let obstacle = claim.take_obstacle(&dir).map_err(&fail)?;
            let removed = inner
                .remove_empty(&dir, 0)
                .and_then(|()| remove_dir(disk, &tree.root, name.as_str()));
            if removed.is_ok() {
                // The record after the directory, for the same reason as in the making; and only
                // while the claim is ours, for the next bucket's record has the same name.
                inner.sync_dir(&tree.root, true)?;
                for left in [&tree.own.buckets, &tree.own.uploads] {
                    absent_is_none(claim.take(left, name.as_str())).map_err(&fail)?;
                    inner.sync_dir(left, true)?;
                }
            } else if let Some(obstacle) = obstacle {
                absent_is_none(claim.obstruct(&obstacle, &dir)).map_err(&fail)?;
            }
            absent_is_none(claim.take(keys, name.as_str())).map_err(&fail)?;
            removed
        })
        .await
    }

    /// Removes empty directories below one. Errors: BucketNotEmpty.
    fn remove_empty(&self, dir: &Dir, depth: usize) -> Result<()> {
        let disk = &self.tree.disk;
        let mut names = Vec::new();
        disk.read_dir(dir, &mut |entry| {
            names.push(entry.name);
            true
        })
        .map_err(failed("remove an empty directory"))?;
        for name in names {
            match disk.open_dir(dir, &name) {
                Ok(below) if depth < MAX_EMPTY_DEPTH => self.remove_empty(&below, depth + 1)?,
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                _ => return Err(StoreError::BucketNotEmpty),
            }
            remove_dir(disk, dir, &name)?;
        }
        Ok(())
    }

    /// Buckets by name after `after`, at most `limit`.
    pub(super) fn buckets_page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BucketInfo>> {
        let load = |name: &BucketName| self.buckets.load(&self.tree, name);
        page(&self.tree, prefix, after, limit, load)
    }
}

/// Removes an empty directory, or one that another removed. Errors: BucketNotEmpty.
fn remove_dir(disk: &SharedDisk, parent: &Dir, name: &str) -> Result<()> {
    match disk.remove_dir(parent, name) {
        Ok(()) => Ok(()),
        Err(e) if is_absent(&e) || is_gone(&e) => Ok(()),
        Err(e) if is_not_empty(&e) => Err(StoreError::BucketNotEmpty),
        Err(e) => Err(StoreError::from_io("remove a bucket", e)),
    }
}
