//! [`MemVolume`]: buckets and objects in ordered maps behind one mutex, bytes in memory. The
//! plainest thing that keeps the contract of [`Volume`]; for tests of doors only.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::body::{Body, check_attrs};
use super::paging::{Entry, Window, page};
use super::upload::{MemStagedPart, MemUpload};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ETag, ObjectKey, PartNumber, UploadId};
use crate::object::{
    KnownDigests, Locator, ObjectInfo, ObjectPart, PartClaim, Precondition, Timestamp, UploadInfo,
};
use crate::permission::{Act, Credentials};
use crate::volume::{
    AttrsPatch, BucketInfo, CommitOptions, ComposeOptions, Durability, ListEntry, ListPage,
    ListQuery, NewBucket, NewUpload, Object, PartsPage, Removed, StageOptions, Staged, UploadsPage,
    UploadsQuery, Volume,
};

/// The time at which the clock of a new volume stands: 2026-01-01 00:00 UTC.
const FIRST_TIME: Timestamp = Timestamp::from_secs(1_767_225_600);
/// How far the clock goes at every change.
const TICK_NS: i64 = 1_000_000;

/// A volume in memory. Clones share it. Its clock stands at 2026-01-01 and goes on by one
/// millisecond at each change, so that tests are repeatable; see [`MemVolume::set_clock`].
#[derive(Debug, Clone, Default)]
pub struct MemVolume {
    /// Guards everything; never held across an await.
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
pub(super) struct State {
    clock: Timestamp,
    pub(super) uploads_begun: u64,
    buckets: BTreeMap<BucketName, MemBucket>,
}

#[derive(Debug)]
pub(super) struct MemBucket {
    info: BucketInfo,
    pub(super) objects: BTreeMap<ObjectKey, MemObject>,
    pub(super) uploads: BTreeMap<(ObjectKey, UploadId), MemUpload>,
}

/// An object of a [`MemVolume`], held open: a state of its own.
#[derive(Debug, Clone)]
pub struct MemObject {
    pub(super) info: ObjectInfo,
    pub(super) bytes: Bytes,
    pub(super) parts: Vec<ObjectPart>,
    /// The upload it was composed from.
    pub(super) composed_from: Option<UploadId>,
}

/// Bytes on their way into a [`MemVolume`].
#[derive(Debug)]
pub struct MemStaged {
    volume: MemVolume,
    at: Locator,
    pub(super) body: Body,
}

impl Default for State {
    fn default() -> Self {
        Self {
            clock: FIRST_TIME,
            uploads_begun: 0,
            buckets: BTreeMap::new(),
        }
    }
}

impl MemVolume {
    /// An empty volume.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the time of the next change.
    pub fn set_clock(&self, now: Timestamp) {
        self.lock().clock = now;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it held the lock has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn tick(&mut self) -> Timestamp {
        let now = self.clock;
        self.clock = Timestamp(now.0 + TICK_NS);
        now
    }

    pub(super) fn bucket(&self, name: &BucketName) -> Result<&MemBucket> {
        self.buckets.get(name).ok_or(StoreError::NoSuchBucket)
    }

    pub(super) fn bucket_mut(&mut self, name: &BucketName) -> Result<&mut MemBucket> {
        self.buckets.get_mut(name).ok_or(StoreError::NoSuchBucket)
    }

    fn object(&self, at: &Locator) -> Result<&MemObject> {
        let bucket = self.bucket(&at.bucket)?;
        match at.version {
            None => bucket.objects.get(&at.key).ok_or(StoreError::NoSuchKey),
            Some(_) => Err(StoreError::NoSuchKey),
        }
    }
}

impl Staged for MemStaged {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.body.append(&chunk);
        Ok(())
    }

    async fn commit(self, options: CommitOptions) -> Result<ObjectInfo> {
        self.body.check(&options.expected)?;
        check_attrs(&options.attrs)?;
        if let Some(algorithm) = options.keep_checksum {
            self.body.assert_computed(algorithm);
        }
        let md5 = self.body.md5();
        let mut info = ObjectInfo {
            key: self.at.key.clone(),
            version: None,
            len_bytes: self.body.bytes.len() as u64,
            etag: ETag::from_md5(&md5),
            etags_before: Vec::new(),
            modified: Timestamp::default(),
            attrs: options.attrs,
            checksum: options.keep_checksum.map(|a| self.body.checksum(a)),
            digests: KnownDigests {
                md5: Some(md5),
                crc64nvme: Some(self.body.crc64nvme()),
            },
            part_count: None,
        };
        let mut state = self.volume.lock();
        let now = state.tick();
        let bucket = state.bucket_mut(&self.at.bucket)?;
        let current = bucket.objects.get(&self.at.key);
        options.precondition.check_write(current.map(|o| &o.info))?;
        info.modified = options.modified.unwrap_or(now);
        let object = MemObject {
            info: info.clone(),
            bytes: self.body.bytes.into(),
            parts: Vec::new(),
            composed_from: None,
        };
        bucket.objects.insert(self.at.key, object);
        Ok(info)
    }
}

impl MemObject {
    fn slice(&self, range: Range<u64>) -> Bytes {
        let end = usize::try_from(range.end).expect("the range lies within the object");
        let start = usize::try_from(range.start).expect("the range lies within the object");
        self.bytes.slice(start..end)
    }
}

impl Object for MemObject {
    fn info(&self) -> &ObjectInfo {
        &self.info
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        Ok(self.slice(range))
    }

    fn try_read(&self, range: Range<u64>) -> Option<Result<Bytes>> {
        Some(Ok(self.slice(range)))
    }

    fn plain_file(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn check_unchanged(&self) -> Result<()> {
        Ok(())
    }

    async fn parts(&self) -> Result<Vec<ObjectPart>> {
        Ok(self.parts.clone())
    }
}

impl Volume for MemVolume {
    type Object = MemObject;
    type Staged = MemStaged;
    type StagedPart = MemStagedPart;

    async fn create_bucket(&self, name: &BucketName, new: NewBucket) -> Result<BucketInfo> {
        let mut state = self.lock();
        if let Some(standing) = state.buckets.get(name) {
            return Err(StoreError::BucketExists {
                owner: standing.info.owner.clone(),
            });
        }
        let info = BucketInfo {
            name: name.clone(),
            created: state.tick(),
            owner: new.owner,
            durability: Durability::Strict,
            settings: new.settings,
        };
        let bucket = MemBucket {
            info: info.clone(),
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
        };
        state.buckets.insert(name.clone(), bucket);
        Ok(info)
    }

    async fn delete_bucket(&self, name: &BucketName) -> Result<()> {
        let mut state = self.lock();
        if !state.bucket(name)?.objects.is_empty() {
            return Err(StoreError::BucketNotEmpty);
        }
        state.buckets.remove(name);
        Ok(())
    }

    async fn bucket(&self, name: &BucketName) -> Result<BucketInfo> {
        Ok(self.lock().bucket(name)?.info.clone())
    }

    async fn set_bucket_setting(
        &self,
        name: &BucketName,
        setting: &str,
        value: Option<String>,
    ) -> Result<()> {
        let mut state = self.lock();
        let settings = &mut state.bucket_mut(name)?.info.settings;
        match value {
            Some(value) => settings.insert(setting.to_owned(), value),
            None => settings.remove(setting),
        };
        Ok(())
    }

    async fn list_buckets(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BucketInfo>> {
        let state = self.lock();
        let infos = state.buckets.values().map(|bucket| &bucket.info);
        Ok(infos
            .filter(|info| info.name.as_str().starts_with(prefix))
            .filter(|info| after.is_none_or(|after| info.name.as_str() > after))
            .take(limit)
            .cloned()
            .collect())
    }

    fn enforces_permissions(&self, _bucket: &BucketName) -> bool {
        // Nothing here is a file.
        false
    }

    async fn permit(&self, _who: &Credentials, _act: Act<'_, MemObject>) -> Result<()> {
        Ok(())
    }

    async fn stat(&self, at: &Locator) -> Result<ObjectInfo> {
        Ok(self.lock().object(at)?.info.clone())
    }

    async fn open(&self, at: &Locator) -> Result<MemObject> {
        self.lock().object(at).cloned()
    }

    async fn stage(&self, at: &Locator, options: StageOptions) -> Result<MemStaged> {
        self.lock().bucket(&at.bucket)?;
        Ok(MemStaged {
            volume: self.clone(),
            at: at.clone(),
            body: Body::begin(options)?,
        })
    }

    async fn copy_into(
        &self,
        staged: &mut MemStaged,
        source: &MemObject,
        range: Range<u64>,
    ) -> Result<()> {
        staged.body.append(&source.slice(range));
        Ok(())
    }

    async fn copy_into_part(
        &self,
        staged: &mut MemStagedPart,
        source: &MemObject,
        range: Range<u64>,
    ) -> Result<()> {
        staged.body.append(&source.slice(range));
        Ok(())
    }

    async fn remove(&self, at: &Locator, precondition: &Precondition) -> Result<Removed> {
        let mut state = self.lock();
        let bucket = state.bucket_mut(&at.bucket)?;
        let current = bucket.objects.get(&at.key).map(|object| &object.info);
        precondition.check_write(current)?;
        let existed = bucket.objects.remove(&at.key).is_some();
        Ok(Removed { existed })
    }

    async fn set_attrs(
        &self,
        at: &Locator,
        patch: AttrsPatch,
        precondition: &Precondition,
    ) -> Result<ObjectInfo> {
        let mut state = self.lock();
        let now = state.tick();
        let bucket = state.bucket_mut(&at.bucket)?;
        let object = bucket.objects.get_mut(&at.key);
        let info = &mut object.ok_or(StoreError::NoSuchKey)?.info;
        precondition.check_write(Some(info))?;
        let mut attrs = info.attrs.clone();
        if let Some((system, user)) = patch.headers {
            (attrs.system, attrs.user) = (system, user);
        }
        attrs.tags = patch.tags.unwrap_or(attrs.tags);
        attrs.acl = patch.acl.unwrap_or(attrs.acl);
        attrs.owner = patch.owner.or(attrs.owner);
        check_attrs(&attrs)?;
        info.attrs = attrs;
        if patch.touch {
            info.modified = patch.modified.unwrap_or(now);
        }
        Ok(info.clone())
    }

    async fn list(&self, bucket: &BucketName, query: &ListQuery) -> Result<ListPage> {
        let state = self.lock();
        let after = query.after.as_deref();
        let objects = state.bucket(bucket)?.objects.iter();
        let behind = objects.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
        let window = Window {
            prefix: &query.prefix,
            delimiter: query.delimiter.as_deref(),
            after,
            limit: query.limit,
        };
        let (entries, truncated) = page(behind, &window);
        let mut found = ListPage::default();
        for entry in entries {
            let name = match entry {
                Entry::At(object) => {
                    found.objects.push(list_entry(&object.info));
                    object.info.key.as_str().to_owned()
                }
                Entry::Prefix(prefix) => {
                    found.prefixes.push(prefix.clone());
                    prefix
                }
            };
            found.next = truncated.then_some(name);
        }
        Ok(found)
    }

    async fn begin_upload(&self, at: &Locator, new: NewUpload) -> Result<UploadInfo> {
        self.begin_upload_now(at, new)
    }

    async fn upload(&self, at: &Locator, id: &UploadId) -> Result<UploadInfo> {
        self.upload_now(at, id)
    }

    async fn stage_part(
        &self,
        at: &Locator,
        id: &UploadId,
        number: PartNumber,
        options: StageOptions,
    ) -> Result<MemStagedPart> {
        self.stage_part_now(at, id, number, options)
    }

    async fn list_parts(
        &self,
        at: &Locator,
        id: &UploadId,
        after: Option<PartNumber>,
        limit: usize,
    ) -> Result<PartsPage> {
        self.list_parts_now(at, id, after, limit)
    }

    async fn compose(
        &self,
        at: &Locator,
        id: &UploadId,
        parts: &[PartClaim],
        options: ComposeOptions,
    ) -> Result<ObjectInfo> {
        self.compose_now(at, id, parts, &options)
    }

    async fn abort_upload(&self, at: &Locator, id: &UploadId) -> Result<()> {
        self.abort_upload_now(at, id)
    }

    async fn list_uploads(&self, bucket: &BucketName, query: &UploadsQuery) -> Result<UploadsPage> {
        self.list_uploads_now(bucket, query)
    }
}

fn list_entry(info: &ObjectInfo) -> ListEntry {
    ListEntry {
        key: info.key.clone(),
        len_bytes: info.len_bytes,
        etag: info.etag.clone(),
        modified: info.modified,
        owner: info.attrs.owner.clone(),
        checksum: info.checksum.as_ref().map(|c| (c.algorithm, c.kind)),
    }
}
