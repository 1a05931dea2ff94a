//! A brick is a volume.

use std::ops::Range;
use std::sync::Arc;

use super::commit::{Terms, Turn};
use super::disk::Disk;
use super::multipart::BrickPart;
use super::object::BrickObject;
use super::sink::{Sink, Target, off_thread, require_room};
use super::staged::BrickStaged;
use super::{Brick, Inner};
use crate::digest::Digests;
use crate::error::{Result, StoreError};
use crate::name::{BucketName, PartNumber, UploadId};
use crate::object::{Locator, ObjectInfo, PartClaim, Precondition, UploadInfo};
use crate::permission::{Act, Credentials};
use crate::volume::{
    AttrsPatch, BucketInfo, ComposeOptions, Durability, ListPage, ListQuery, NewBucket, NewUpload,
    Object, PartsPage, Removed, StageOptions, UploadsPage, UploadsQuery, Volume,
};

/// From this announced length on, room is asked for before the body is taken, in bytes.
const LARGE_LEN_BYTES: u64 = 1 << 20;

fn no_versions(at: &Locator) -> Result<()> {
    match at.version {
        // No bucket keeps versions yet, so none can be found.
        Some(_) => Err(StoreError::NoSuchKey),
        None => Ok(()),
    }
}

impl<D: Disk> Brick<D> {
    fn durable_turn() -> Terms<D> {
        Terms {
            durable: true,
            file: None,
            keys: Vec::new(),
            removes: false,
        }
    }
}

impl<D: Disk> Inner<D> {
    /// Makes a bucket, in the turn. Errors: BucketExists.
    pub(super) fn make_bucket(
        &self,
        turn: &mut Turn<'_, D>,
        name: &BucketName,
        new: NewBucket,
    ) -> Result<BucketInfo> {
        let now = self.options.clock.now();
        if matches!(self.tree.bucket_dir(name), Err(StoreError::NoSuchBucket)) {
            // Uploads that a crash left of an earlier bucket of this name.
            self.uploads.remove_all(&self.tree, name)?;
        }
        let info = self.buckets.create(&self.tree, turn, name, new, now)?;
        // What an earlier bucket of this name left in the index is gone by now.
        self.index.drop_bucket(name);
        self.index.add_bucket(name, true);
        Ok((*info).clone())
    }

    /// Removes a bucket with its uploads, in the turn. Errors: NoSuchBucket, BucketNotEmpty.
    pub(super) fn remove_bucket(&self, turn: &mut Turn<'_, D>, name: &BucketName) -> Result<()> {
        self.buckets.remove(&self.tree, turn, name)?;
        self.index.drop_bucket(name);
        turn.settle()?;
        self.uploads.remove_all(&self.tree, name)
    }
}

impl<D: Disk> Volume for Brick<D> {
    type Object = BrickObject<D>;
    type Staged = BrickStaged<D>;
    type StagedPart = BrickPart<D>;

    async fn create_bucket(&self, name: &BucketName, new: NewBucket) -> Result<BucketInfo> {
        let (inner, name) = (Arc::clone(&self.inner), name.clone());
        self.inner
            .committer
            .submit(Self::durable_turn(), move |turn| {
                inner.make_bucket(turn, &name, new)
            })
            .await
    }

    async fn delete_bucket(&self, name: &BucketName) -> Result<()> {
        let (inner, name) = (Arc::clone(&self.inner), name.clone());
        self.inner
            .committer
            .submit(Self::durable_turn(), move |turn| {
                inner.remove_bucket(turn, &name)
            })
            .await
    }

    async fn bucket(&self, name: &BucketName) -> Result<BucketInfo> {
        Ok((*self.inner.look_bucket(name).await?).clone())
    }

    async fn set_bucket_setting(
        &self,
        name: &BucketName,
        setting: &str,
        value: Option<String>,
    ) -> Result<()> {
        let (inner, name, setting) = (Arc::clone(&self.inner), name.clone(), setting.to_owned());
        self.inner
            .committer
            .submit(Self::durable_turn(), move |turn| {
                inner.buckets.set(&inner.tree, turn, &name, setting, value)
            })
            .await
    }

    async fn list_buckets(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BucketInfo>> {
        let (inner, prefix) = (Arc::clone(&self.inner), prefix.to_owned());
        let after = after.map(str::to_owned);
        off_thread(move || {
            inner
                .buckets
                .list(&inner.tree, &prefix, after.as_deref(), limit)
        })
        .await
    }

    fn enforces_permissions(&self, bucket: &BucketName) -> bool {
        self.inner.options.enforce.of(bucket)
    }

    async fn permit(&self, who: &Credentials, act: Act<'_, Self::Object>) -> Result<()> {
        self.inner.permit(who, act).await
    }

    async fn stat(&self, at: &Locator) -> Result<ObjectInfo> {
        no_versions(at)?;
        Ok(self.inner.look(at).await?.info)
    }

    async fn open(&self, at: &Locator) -> Result<Self::Object> {
        no_versions(at)?;
        Ok(BrickObject::new(self.inner.look(at).await?))
    }

    async fn stage(&self, at: &Locator, options: StageOptions) -> Result<Self::Staged> {
        no_versions(at)?;
        let inner = Arc::clone(&self.inner);
        inner.look_bucket(&at.bucket).await?;
        let len_bytes = options.len_bytes.unwrap_or(0);
        if len_bytes >= LARGE_LEN_BYTES {
            let disk = Arc::clone(&inner.tree.disk);
            off_thread(move || require_room(&*disk, len_bytes)).await?;
        }
        let target = Target::Unnamed {
            staging: Arc::clone(&inner.tree.own.staging),
        };
        let durable = inner.buckets.durability(&at.bucket) == Durability::Strict;
        let sink = Sink::new(Arc::clone(&inner.tree.disk), target, options, durable)?;
        Ok(BrickStaged::new(inner, at.clone(), sink))
    }

    async fn copy_into(
        &self,
        staged: &mut Self::Staged,
        source: &Self::Object,
        range: Range<u64>,
    ) -> Result<()> {
        let Some(file) = source.file() else {
            return Ok(());
        };
        let info = source.info();
        if range == (0..info.len_bytes)
            && let (Some(md5), Some(crc64nvme)) = (info.digests.md5, info.digests.crc64nvme)
        {
            let digests = Digests::of_known(info.len_bytes, md5, crc64nvme);
            if staged.sink.copy_whole(Arc::clone(file), digests).await? {
                return source.check_unchanged();
            }
        }
        staged.sink.copy_range(Arc::clone(file), range).await?;
        source.check_unchanged()
    }

    async fn copy_into_part(
        &self,
        staged: &mut Self::StagedPart,
        source: &Self::Object,
        range: Range<u64>,
    ) -> Result<()> {
        let Some(file) = source.file() else {
            return Ok(());
        };
        staged.sink.copy_range(Arc::clone(file), range).await?;
        source.check_unchanged()
    }

    async fn remove(&self, at: &Locator, precondition: &Precondition) -> Result<Removed> {
        no_versions(at)?;
        self.inner.remove_object(at, precondition).await
    }

    async fn set_attrs(
        &self,
        at: &Locator,
        patch: AttrsPatch,
        precondition: &Precondition,
    ) -> Result<ObjectInfo> {
        no_versions(at)?;
        self.inner.patch_object(at, patch, precondition).await
    }

    async fn list(&self, bucket: &BucketName, query: &ListQuery) -> Result<ListPage> {
        self.inner.list_page(bucket, query).await
    }

    async fn begin_upload(&self, at: &Locator, new: NewUpload) -> Result<UploadInfo> {
        no_versions(at)?;
        self.inner.look_bucket(&at.bucket).await?;
        let (inner, at) = (Arc::clone(&self.inner), at.clone());
        off_thread(move || {
            require_room(&*inner.tree.disk, 0)?;
            let now = inner.options.clock.now();
            inner
                .uploads
                .begin(&inner.tree, &at.bucket, &at.key, new, now)
        })
        .await
    }

    async fn upload(&self, at: &Locator, id: &UploadId) -> Result<UploadInfo> {
        Ok(self.inner.open_upload(at, id).await?.info.clone())
    }

    async fn stage_part(
        &self,
        at: &Locator,
        id: &UploadId,
        number: PartNumber,
        options: StageOptions,
    ) -> Result<Self::StagedPart> {
        self.inner.begin_part(at, id, number, options).await
    }

    async fn list_parts(
        &self,
        at: &Locator,
        id: &UploadId,
        after: Option<PartNumber>,
        limit: usize,
    ) -> Result<PartsPage> {
        self.inner.parts_page(at, id, after, limit).await
    }

    async fn compose(
        &self,
        at: &Locator,
        id: &UploadId,
        parts: &[PartClaim],
        options: ComposeOptions,
    ) -> Result<ObjectInfo> {
        self.inner.complete_upload(at, id, parts, options).await
    }

    async fn abort_upload(&self, at: &Locator, id: &UploadId) -> Result<()> {
        self.inner.end_upload(at, id).await
    }

    async fn list_uploads(&self, bucket: &BucketName, query: &UploadsQuery) -> Result<UploadsPage> {
        self.inner.uploads_page(bucket, query).await
    }
}
