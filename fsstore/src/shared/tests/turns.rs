//! Three gateways over one tree, each call to the next of them: the contract holds for all of them
//! together.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Result;
use crate::name::{BucketName, PartNumber, UploadId};
use crate::object::{Locator, ObjectInfo, PartClaim, Precondition, UploadInfo};
use crate::permission::{Act, Credentials};
use crate::shared::staged::SharedStaged;
use crate::shared::uploads::SharedPart;
use crate::shared::volume::SharedObject;
use crate::shared::{Shared, SharedOptions};
use crate::volume::{
    AttrsPatch, BucketInfo, ComposeOptions, ListPage, ListQuery, NewBucket, NewUpload, PartsPage,
    Removed, StageOptions, UploadsPage, UploadsQuery, Volume,
};

/// Gateways that take turns.
struct Turns {
    gateways: Vec<Shared>,
    next: AtomicUsize,
}

impl Turns {
    async fn new(count: usize) -> (Self, tempfile::TempDir) {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mut gateways = Vec::new();
        for _ in 0..count {
            let mut options = SharedOptions::new(dir.path());
            options.trusts_dir_times = true;
            gateways.push(Shared::open(options).await.unwrap());
        }
        let next = AtomicUsize::new(0);
        (Self { gateways, next }, dir)
    }

    fn next(&self) -> &Shared {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        &self.gateways[n % self.gateways.len()]
    }
}

impl Volume for Turns {
    type Object = SharedObject;
    type Staged = SharedStaged;
    type StagedPart = SharedPart;

    async fn create_bucket(&self, name: &BucketName, new: NewBucket) -> Result<BucketInfo> {
        self.next().create_bucket(name, new).await
    }
    async fn delete_bucket(&self, name: &BucketName) -> Result<()> {
        self.next().delete_bucket(name).await
    }
    async fn bucket(&self, name: &BucketName) -> Result<BucketInfo> {
        self.next().bucket(name).await
    }
    async fn set_bucket_setting(
        &self,
        name: &BucketName,
        setting: &str,
        value: Option<String>,
    ) -> Result<()> {
        self.next().set_bucket_setting(name, setting, value).await
    }
    async fn list_buckets(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BucketInfo>> {
        self.next().list_buckets(prefix, after, limit).await
    }
    fn enforces_permissions(&self, bucket: &BucketName) -> bool {
        self.next().enforces_permissions(bucket)
    }
    async fn permit(&self, who: &Credentials, act: Act<'_, Self::Object>) -> Result<()> {
        self.next().permit(who, act).await
    }
    async fn stat(&self, at: &Locator) -> Result<ObjectInfo> {
        self.next().stat(at).await
    }
    async fn open(&self, at: &Locator) -> Result<Self::Object> {
        self.next().open(at).await
    }
    async fn stage(&self, at: &Locator, options: StageOptions) -> Result<Self::Staged> {
        self.next().stage(at, options).await
    }
    async fn copy_into(
        &self,
        staged: &mut Self::Staged,
        source: &Self::Object,
        range: Range<u64>,
    ) -> Result<()> {
        self.next().copy_into(staged, source, range).await
    }
    async fn copy_into_part(
        &self,
        staged: &mut Self::StagedPart,
        source: &Self::Object,
        range: Range<u64>,
    ) -> Result<()> {
        self.next().copy_into_part(staged, source, range).await
    }
    async fn remove(&self, at: &Locator, precondition: &Precondition) -> Result<Removed> {
        self.next().remove(at, precondition).await
    }
    async fn set_attrs(
        &self,
        at: &Locator,
        patch: AttrsPatch,
        precondition: &Precondition,
    ) -> Result<ObjectInfo> {
        self.next().set_attrs(at, patch, precondition).await
    }
    async fn list(&self, bucket: &BucketName, query: &ListQuery) -> Result<ListPage> {
        self.next().list(bucket, query).await
    }
    async fn begin_upload(&self, at: &Locator, new: NewUpload) -> Result<UploadInfo> {
        self.next().begin_upload(at, new).await
    }
    async fn upload(&self, at: &Locator, id: &UploadId) -> Result<UploadInfo> {
        self.next().upload(at, id).await
    }
    async fn stage_part(
        &self,
        at: &Locator,
        id: &UploadId,
        number: PartNumber,
        options: StageOptions,
    ) -> Result<Self::StagedPart> {
        self.next().stage_part(at, id, number, options).await
    }
    async fn list_parts(
        &self,
        at: &Locator,
        id: &UploadId,
        after: Option<PartNumber>,
        limit: usize,
    ) -> Result<PartsPage> {
        self.next().list_parts(at, id, after, limit).await
    }
    async fn compose(
        &self,
        at: &Locator,
        id: &UploadId,
        parts: &[PartClaim],
        options: ComposeOptions,
    ) -> Result<ObjectInfo> {
        self.next().compose(at, id, parts, options).await
    }
    async fn abort_upload(&self, at: &Locator, id: &UploadId) -> Result<()> {
        self.next().abort_upload(at, id).await
    }
    async fn list_uploads(&self, bucket: &BucketName, query: &UploadsQuery) -> Result<UploadsPage> {
        self.next().list_uploads(bucket, query).await
    }
}

mod alone {
    crate::volume_contract!(super::Turns::new(1));
}

mod in_turns {
    crate::volume_contract!(super::Turns::new(3));
}
