//! All uploads of a volume: begun, opened, listed, removed. One upload is [`super::upload`]'s.

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};

use super::disk::{Disk, DiskFile, FileFacts, FileKind};
use super::owner::OWN_DIR_MODE;
use super::tree::{Tree, absent_is_none, failed, is_absent};
use super::upload::{DATA, PARTS, Upload};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey, UploadId, hex};
use crate::object::{
    Attributes, ChecksumKind, DigestAlgorithm, FileOwner, Locator, Timestamp, UploadInfo,
};
use crate::volume::NewUpload;

/// Longest `upload` file, in bytes.
const MAX_INFO_LEN_BYTES: usize = 1 << 20;
/// Uploads whose parts are kept in memory though no request is using them.
const MAX_IDLE: usize = 64;

pub(crate) const INFO: &str = "upload";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InfoRecord {
    version: u32,
    key: String,
    begun_ns: i64,
    attrs: Attributes,
    checksum: Option<(DigestAlgorithm, ChecksumKind)>,
    #[serde(default, skip_serializing_if = "is_no_one")]
    file_owner: FileOwner,
}

fn is_no_one(owner: &FileOwner) -> bool {
    *owner == FileOwner::default()
}

/// An upload's place: an id is nothing in another bucket than its own.
type Place = (BucketName, UploadId);

/// The uploads of one volume.
pub struct Uploads<D: Disk> {
    active: Mutex<HashMap<Place, Weak<Upload<D>>>>,
    idle: Cache<Place, Arc<Upload<D>>>,
    /// Completed, but their files could not be removed: the next start removes them.
    left: Mutex<BTreeSet<UploadId>>,
}

impl<D: Disk> Default for Uploads<D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<D: Disk> Uploads<D> {
    /// None in memory yet.
    pub fn new() -> Self {
        Self {
            active: Mutex::new(HashMap::new()),
            idle: Cache::new(MAX_IDLE),
            left: Mutex::new(BTreeSet::new()),
        }
    }

    /// Begins an upload. Durable. The bucket is the caller's to check.
    pub fn begin(
        &self,
        tree: &Tree<D>,
        bucket: &BucketName,
        key: &ObjectKey,
        new: NewUpload,
        now: Timestamp,
    ) -> Result<UploadInfo> {
        let id = new_id(now)?;
        let begun = self.begin_as(tree, bucket, key, id, new, now)?;
        begun.ok_or(StoreError::Conflict)
    }

    /// As [`Self::begin`], with an id made before; none where there is one of this id.
    pub fn begin_as(
        &self,
        tree: &Tree<D>,
        bucket: &BucketName,
        key: &ObjectKey,
        id: UploadId,
        new: NewUpload,
        now: Timestamp,
    ) -> Result<Option<UploadInfo>> {
        let fail = failed("begin an upload");
        let disk = &*tree.disk;
        let bucket_dir = make_dir(disk, &tree.own.uploads, bucket.as_str())?;
        let dir = make_dir(disk, &bucket_dir, id.as_str())?;
        let bytes = encode_info(key, &new, now)?;
        for name in [DATA, PARTS] {
            disk.open_own(&dir, name, true)
                .and_then(|file| file.sync())
                .map_err(&fail)?;
        }
        // Last: an upload without this file does not exist.
        let file = disk.create_unnamed(&tree.own.staging).map_err(&fail)?;
        file.write_at(0, &bytes).map_err(&fail)?;
        file.sync().map_err(&fail)?;
        match disk.link(&file, &dir, INFO) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(None),
            linked => linked.map_err(&fail)?,
        }
        disk.sync_dir(&dir).map_err(&fail)?;
        Ok(Some(UploadInfo {
            id,
            key: key.clone(),
            begun: now,
            attrs: new.attrs,
            checksum: new.checksum,
            file_owner: new.file_owner,
        }))
    }

    /// Opens an upload of this bucket and key. Errors: NoSuchUpload.
    pub fn open(
        &self,
        tree: &Tree<D>,
        bucket: &BucketName,
        key: &ObjectKey,
        id: &UploadId,
    ) -> Result<Arc<Upload<D>>> {
        let place = (bucket.clone(), id.clone());
        let upload = match self.idle.get(&place) {
            Some(upload) => upload,
            None => {
                // Held while loading: two requests must not each have their own state.
                let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
                let upload = match active.get(&place).and_then(Weak::upgrade) {
                    Some(upload) => upload,
                    None => {
                        let upload = Arc::new(load(tree, bucket, id)?);
                        active.retain(|_, known| known.strong_count() > 0);
                        active.insert(place.clone(), Arc::downgrade(&upload));
                        upload
                    }
                };
                self.idle.insert(place, Arc::clone(&upload));
                upload
            }
        };
        if upload.info.key != *key || upload.has_ended() || self.is_left(id) {
            return Err(StoreError::NoSuchUpload);
        }
        Ok(upload)
    }

    /// Leaves a completed upload's files to the next start; to callers it is no more.
    pub fn leave(&self, id: &UploadId) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.insert(id.clone());
    }

    fn is_left(&self, id: &UploadId) -> bool {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.contains(id)
    }

    /// Removes an upload's files, and ends it for those who use it.
    pub fn remove(&self, tree: &Tree<D>, bucket: &BucketName, id: &UploadId) -> Result<()> {
        let removed = remove_files(tree, bucket.as_str(), id.as_str());
        // Afterwards: nobody can open it any more who is not met here.
        let place = (bucket.clone(), id.clone());
        self.idle.remove(&place);
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(upload) = active.remove(&place).and_then(|known| known.upgrade()) {
            upload.end_for_good();
        }
        removed
    }

    /// Ends and removes every upload of a bucket.
    pub fn remove_all(&self, tree: &Tree<D>, bucket: &BucketName) -> Result<()> {
        for name in names_in(tree, &tree.own.uploads, bucket.as_str())? {
            match UploadId::parse(&name) {
                Ok(id) => self.remove(tree, bucket, &id)?,
                Err(_) => remove_files(tree, bucket.as_str(), &name)?,
            }
        }
        match tree.disk.remove_dir(&tree.own.uploads, bucket.as_str()) {
            Err(e) if !is_absent(&e) => Err(StoreError::from_io("remove uploads", e)),
            _ => Ok(()),
        }
    }

    /// Every upload of a bucket, in the directory's own order.
    pub fn each(
        &self,
        tree: &Tree<D>,
        bucket: &BucketName,
        mut visit: impl FnMut(UploadInfo),
    ) -> Result<()> {
        let path = bucket.as_str();
        for name in names_in(tree, &tree.own.uploads, path)? {
            let Ok(id) = UploadId::parse(&name) else {
                continue;
            };
            let dir = match tree
                .disk
                .open_dir(&tree.own.uploads, &format!("{path}/{name}"))
            {
                Ok(dir) => dir,
                Err(e) if is_absent(&e) => continue,
                Err(e) => return Err(StoreError::from_io("list uploads", e)),
            };
            if self.is_left(&id) {
                continue;
            }
            if let Some(info) = load_info(&*tree.disk, &dir, id)? {
                visit(info);
            }
        }
        Ok(())
    }

    /// Removes what a crash left: uploads that were published, aborted or not quite begun.
    /// `lost_name` is told of each file that is an object by now, which loses its other name:
    /// as it was before and as it is after.
    pub fn sweep(
        &self,
        tree: &Tree<D>,
        mut lost_name: impl FnMut(&FileFacts, &FileFacts),
    ) -> Result<usize> {
        let mut removed = 0;
        for bucket in names_in(tree, &tree.own.uploads, "")? {
            for name in names_in(tree, &tree.own.uploads, &bucket)? {
                let path = format!("{bucket}/{name}");
                let Ok(dir) = tree.disk.open_dir(&tree.own.uploads, &path) else {
                    continue;
                };
                if is_over(tree, &bucket, &name, &dir)? {
                    let data = tree.disk.open(&dir, DATA).ok();
                    let before = data.as_ref().and_then(|data| data.facts().ok());
                    remove_files(tree, &bucket, &name)?;
                    let after = data.and_then(|data| data.facts().ok());
                    if let (Some(before), Some(after)) = (before, after) {
                        lost_name(&before, &after);
                    }
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

/// Whether an upload was not quite begun, or was completed: `data` has become an object, or the
/// object says which upload it was.
fn is_over<D: Disk>(tree: &Tree<D>, bucket: &str, name: &str, dir: &D::Dir) -> Result<bool> {
    let fail = failed("look at an upload");
    let data = absent_is_none(tree.disk.stat(dir, DATA)).map_err(&fail)?;
    let parts = absent_is_none(tree.disk.stat(dir, PARTS)).map_err(&fail)?;
    if data.is_none_or(|facts| facts.link_count > 1) || parts.is_none() {
        return Ok(true);
    }
    let (Ok(bucket), Ok(id)) = (BucketName::parse(bucket), UploadId::parse(name)) else {
        return Ok(absent_is_none(tree.disk.stat(dir, INFO))
            .map_err(&fail)?
            .is_none());
    };
    let info = match load_info(&*tree.disk, dir, id) {
        Ok(Some(info)) => info,
        Ok(None) => return Ok(true),
        // What cannot be understood is not removed.
        Err(StoreError::Corrupt(_)) => return Ok(false),
        Err(e) => return Err(e),
    };
    let Some(found) = tree.find_readable(&Locator::new(bucket, info.key))? else {
        return Ok(false);
    };
    let record = match &found.file {
        Some(file) => tree.records.load(file, &found.facts)?,
        None => found.marker,
    };
    Ok(record.is_some_and(|record| record.upload_id == Some(info.id)))
}

fn names_in<D: Disk>(tree: &Tree<D>, base: &Arc<D::Dir>, path: &str) -> Result<Vec<String>> {
    let fail = failed("list uploads");
    let dir = if path.is_empty() {
        Arc::clone(base)
    } else {
        match tree.disk.open_dir(base, path) {
            Ok(dir) => dir,
            Err(e) if is_absent(&e) => return Ok(Vec::new()),
            Err(e) => return Err(fail(e)),
        }
    };
    let mut names = Vec::new();
    tree.disk
        .read_dir(&dir, &mut |entry| {
            if matches!(entry.kind, None | Some(FileKind::Dir)) {
                names.push(entry.name);
            }
            true
        })
        .map_err(&fail)?;
    Ok(names)
}

fn make_dir<D: Disk>(disk: &D, parent: &Arc<D::Dir>, name: &str) -> Result<Arc<D::Dir>> {
    let fail = failed("make an upload's directory");
    match disk.make_dir(parent, name, OWN_DIR_MODE) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(fail(e)),
    }
    // One that another request just made may not be durable yet.
    disk.sync_dir(parent).map_err(&fail)?;
    disk.open_dir(parent, name).map_err(fail)
}

/// An id that sorts by time and cannot be guessed.
pub(crate) fn new_id(now: Timestamp) -> Result<UploadId> {
    let mut random = [0; 12];
    rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|e| StoreError::from_io("make an upload id", e.into()))?;
    let id = format!("{:016x}{}", now.0.max(0), hex(&random));
    UploadId::parse(&id).map_err(|e| StoreError::Corrupt(e.to_string()))
}

/// What is kept in an upload's `upload` file. Errors: MetadataTooLarge.
pub(crate) fn encode_info(key: &ObjectKey, new: &NewUpload, now: Timestamp) -> Result<Vec<u8>> {
    let record = InfoRecord {
        version: 1,
        key: key.as_str().to_owned(),
        begun_ns: now.0,
        attrs: new.attrs.clone(),
        checksum: new.checksum,
        file_owner: new.file_owner,
    };
    let bytes = serde_json::to_vec(&record).map_err(|e| StoreError::Corrupt(e.to_string()))?;
    if bytes.len() > MAX_INFO_LEN_BYTES {
        return Err(StoreError::MetadataTooLarge {
            len_bytes: bytes.len(),
            max_bytes: MAX_INFO_LEN_BYTES,
        });
    }
    Ok(bytes)
}

pub(crate) fn load_info<D: Disk>(
    disk: &D,
    dir: &D::Dir,
    id: UploadId,
) -> Result<Option<UploadInfo>> {
    let fail = failed("read an upload");
    let file = match disk.open_own(dir, INFO, false) {
        Ok(file) => file,
        Err(e) if is_absent(&e) => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    let bytes = file.read_at(0, MAX_INFO_LEN_BYTES + 1).map_err(fail)?;
    let corrupt = |what: String| StoreError::Corrupt(format!("upload {id}: {what}"));
    let record: InfoRecord = serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string()))?;
    let key = ObjectKey::parse(&record.key).map_err(|e| corrupt(e.to_string()))?;
    Ok(Some(UploadInfo {
        id,
        key,
        begun: Timestamp(record.begun_ns),
        attrs: record.attrs,
        checksum: record.checksum,
        file_owner: record.file_owner,
    }))
}

fn load<D: Disk>(tree: &Tree<D>, bucket: &BucketName, id: &UploadId) -> Result<Upload<D>> {
    let fail = failed("open an upload");
    let disk = &*tree.disk;
    let absent = |e: std::io::Error| match is_absent(&e) {
        true => StoreError::NoSuchUpload,
        false => fail(e),
    };
    let dir = disk
        .open_dir(&tree.own.uploads, &format!("{bucket}/{id}"))
        .map_err(absent)?;
    let info = load_info(disk, &dir, id.clone())?.ok_or(StoreError::NoSuchUpload)?;
    Upload::open(disk, dir, info)
}

fn remove_files<D: Disk>(tree: &Tree<D>, bucket: &str, id: &str) -> Result<()> {
    let fail = failed("remove an upload");
    let disk = &*tree.disk;
    let parent = match disk.open_dir(&tree.own.uploads, bucket) {
        Ok(parent) => parent,
        Err(e) if is_absent(&e) => return Ok(()),
        Err(e) => return Err(fail(e)),
    };
    let dir = match disk.open_dir(&parent, id) {
        Ok(dir) => dir,
        Err(e) if is_absent(&e) => return Ok(()),
        Err(e) => return Err(fail(e)),
    };
    // First what makes it an upload.
    match disk.unlink(&dir, INFO) {
        Ok(()) => disk.sync_dir(&dir).map_err(&fail)?,
        Err(e) if is_absent(&e) => {}
        Err(e) => return Err(fail(e)),
    }
    let mut names = Vec::new();
    disk.read_dir(&dir, &mut |entry| {
        names.push(entry.name);
        true
    })
    .map_err(&fail)?;
    for name in names {
        disk.unlink(&dir, &name).map_err(&fail)?;
    }
    disk.remove_dir(&parent, id).map_err(fail)
}
