//! A shared tree is a volume.

use std::ops::Range;
use std::sync::Arc;

use super::disk::SharedDisk;
use super::staged::SharedStaged;
use super::uploads::SharedPart;
use super::{Inner, Shared};
use crate::brick::object::BrickObject;
use crate::brick::sink::off_thread;
use crate::error::{Result, StoreError};
use crate::name::{BucketName, PartNumber, UploadId};
use crate::object::{Locator, ObjectInfo, PartClaim, Precondition, UploadInfo};
use crate::permission::{Act, Credentials};
use crate::volume::{
    AttrsPatch, BucketInfo, ComposeOptions, ListPage, ListQuery, NewBucket, NewUpload, Object,
    PartsPage, Removed, StageOptions, UploadsPage, UploadsQuery, Volume,
};

/// An object held open: one inode, as a brick holds it.
pub type SharedObject = BrickObject<SharedDisk>;

fn no_versions(at: &Locator) -> Result<()> {
    match at.version {
        // No bucket keeps versions yet, so none can be found.
        Some(_) => Err(StoreError::NoSuchKey),
        None => Ok(()),
    }
}

impl Shared {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        off_thread(move || work(&inner)).await
    }
}

impl Volume for Shared {
    type Object = SharedObject;
    type Staged = SharedStaged;
    type StagedPart = SharedPart;

    async fn create_bucket(&self, name: &BucketName, new: NewBucket) -> Result<BucketInfo> {
        self.inner.make_bucket(name, new).await
    }

    async fn delete_bucket(&self, name: &BucketName) -> Result<()> {
        self.inner.remove_bucket(name).await
    }

    async fn bucket(&self, name: &BucketName) -> Result<BucketInfo> {
        self.inner.look_bucket(name).await
    }

    async fn set_bucket_setting(
        &self,
        name: &BucketName,
        setting: &str,
        value: Option<String>,
    ) -> Result<()> {
        self.inner
            .set_setting(name, setting.to_owned(), value)
            .await
    }

    async fn list_buckets(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BucketInfo>> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.blocking(move |inner| inner.buckets_page(&prefix, after.as_deref(), limit))
            .await
    }

    fn enforces_permissions(&self, _: &BucketName) -> bool {
        false
    }

    async fn permit(&self, _: &Credentials, _: Act<'_, Self::Object>) -> Result<()> {
        // This host's kernel does not decide about another's files; the command line refuses
        // buckets that ask for it.
        Err(StoreError::AccessDenied)
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
        self.inner.begin_object(at, options).await
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
        let at = at.clone();
        self.blocking(move |inner| inner.begin(&at, new)).await
    }

    async fn upload(&self, at: &Locator, id: &UploadId) -> Result<UploadInfo> {
        let (at, id) = (at.clone(), id.clone());
        self.blocking(move |inner| Ok(inner.open_upload(&at, &id)?.info))
            .await
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
        let (at, id) = (at.clone(), id.clone());
        self.blocking(move |inner| inner.parts_page(&at, &id, after, limit))
            .await
    }

    async fn compose(
        &self,
        at: &Locator,
        id: &UploadId,
        parts: &[PartClaim],
        options: ComposeOptions,
    ) -> Result<ObjectInfo> {
        no_versions(at)?;
        self.inner.complete_upload(at, id, parts, options).await
    }

    async fn abort_upload(&self, at: &Locator, id: &UploadId) -> Result<()> {
        self.inner.end_upload(at, id).await
    }

    async fn list_uploads(&self, bucket: &BucketName, query: &UploadsQuery) -> Result<UploadsPage> {
        let (bucket, query) = (bucket.clone(), query.clone());
        self.blocking(move |inner| inner.uploads_page(&bucket, &query))
            .await
    }
}
