//! A volume under test, with one bucket, and short ways to use it.

use std::sync::Arc;

use bytes::Bytes;

use crate::checksum::digest_of;
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey, PartNumber, UploadId};
use crate::object::{
    DigestAlgorithm, ExpectedDigest, Locator, ObjectInfo, PartClaim, PartInfo, Precondition,
};
use crate::volume::{
    CommitOptions, ComposeOptions, ListQuery, MAX_PAGE, NewBucket, NewUpload, Object, StageOptions,
    Staged, StagedPart, Volume,
};

/// Asserts that a result is an error of a certain form.
macro_rules! assert_refused {
    ($result:expr, $($pattern:tt)+) => {
        match $result {
            Err($($pattern)+) => {}
            other => panic!(
                "expected {}, got {:?}", stringify!($($pattern)+), other.map(|_| "success"),
            ),
        }
    };
}
pub(crate) use assert_refused;

pub(crate) struct Subject<V> {
    pub volume: Arc<V>,
    pub bucket: BucketName,
}

pub(crate) fn digest(algorithm: DigestAlgorithm, bytes: &[u8]) -> ExpectedDigest {
    ExpectedDigest {
        algorithm,
        value: digest_of(algorithm, bytes),
    }
}

pub(crate) fn part_claim(part: &PartInfo) -> PartClaim {
    PartClaim {
        number: part.number,
        etag: part.etag.as_str().to_owned(),
        checksum: None,
    }
}

impl<V: Volume> Subject<V> {
    /// Makes the bucket.
    pub async fn new(volume: Arc<V>) -> Self {
        let bucket = BucketName::parse("bucket").unwrap();
        volume
            .create_bucket(&bucket, NewBucket::default())
            .await
            .unwrap();
        Self { volume, bucket }
    }

    pub fn at(&self, key: &str) -> Locator {
        Locator::new(self.bucket.clone(), ObjectKey::parse(key).unwrap())
    }

    pub async fn try_put(
        &self,
        key: &str,
        bytes: &[u8],
        stage: StageOptions,
        commit: CommitOptions,
    ) -> Result<ObjectInfo> {
        let mut staged = self.volume.stage(&self.at(key), stage).await?;
        staged.write(Bytes::copy_from_slice(bytes)).await?;
        staged.commit(commit).await
    }

    pub async fn put_with(&self, key: &str, bytes: &[u8], commit: CommitOptions) -> ObjectInfo {
        let stage = StageOptions {
            len_bytes: Some(bytes.len() as u64),
            ..StageOptions::default()
        };
        let put = self.try_put(key, bytes, stage, commit).await;
        put.unwrap_or_else(|error| panic!("put {key:?}: {error}"))
    }

    pub async fn put(&self, key: &str, bytes: &[u8]) -> ObjectInfo {
        self.put_with(key, bytes, CommitOptions::default()).await
    }

    pub async fn put_if(
        &self,
        key: &str,
        bytes: &[u8],
        precondition: Precondition,
    ) -> Result<ObjectInfo> {
        let commit = CommitOptions {
            precondition,
            ..CommitOptions::default()
        };
        self.try_put(key, bytes, StageOptions::default(), commit)
            .await
    }

    pub async fn get(&self, key: &str) -> Vec<u8> {
        let opened = self.volume.open(&self.at(key)).await;
        let object = opened.unwrap_or_else(|error| panic!("open {key:?}: {error}"));
        read_all(&object).await
    }

    pub async fn stat(&self, key: &str) -> ObjectInfo {
        let info = self.volume.stat(&self.at(key)).await;
        info.unwrap_or_else(|error| panic!("stat {key:?}: {error}"))
    }

    pub async fn remove(&self, key: &str) -> bool {
        let none = Precondition::default();
        let removed = self.volume.remove(&self.at(key), &none).await;
        removed
            .unwrap_or_else(|error| panic!("remove {key:?}: {error}"))
            .existed
    }

    pub async fn assert_absent(&self, key: &str) {
        assert_refused!(self.volume.stat(&self.at(key)).await, StoreError::NoSuchKey);
        assert_refused!(self.volume.open(&self.at(key)).await, StoreError::NoSuchKey);
    }

    /// Every key, in the order listed.
    pub async fn keys(&self) -> Vec<String> {
        let query = ListQuery {
            limit: MAX_PAGE,
            ..ListQuery::default()
        };
        let page = self.volume.list(&self.bucket, &query).await.unwrap();
        assert_eq!(page.next, None);
        let keys = page.objects.into_iter();
        keys.map(|entry| entry.key.as_str().to_owned()).collect()
    }

    pub async fn begin(&self, key: &str, new: NewUpload) -> UploadId {
        let begun = self.volume.begin_upload(&self.at(key), new).await;
        begun.unwrap().id
    }

    pub async fn part(&self, key: &str, id: &UploadId, number: u32, bytes: &[u8]) -> PartInfo {
        let number = PartNumber::new(number).unwrap();
        let options = StageOptions::default();
        let staged = self
            .volume
            .stage_part(&self.at(key), id, number, options)
            .await;
        let mut staged = staged.unwrap();
        staged.write(Bytes::copy_from_slice(bytes)).await.unwrap();
        staged.commit(Vec::new(), None).await.unwrap()
    }

    pub async fn try_complete(
        &self,
        key: &str,
        id: &UploadId,
        parts: &[&PartInfo],
    ) -> Result<ObjectInfo> {
        let claims: Vec<PartClaim> = parts.iter().map(|part| part_claim(part)).collect();
        let options = ComposeOptions::default();
        self.volume
            .compose(&self.at(key), id, &claims, options)
            .await
    }
}

/// All bytes of an open object, read in pieces of 1 MiB.
pub(crate) async fn read_all<O: Object>(object: &O) -> Vec<u8> {
    let len = object.info().len_bytes;
    let mut bytes = Vec::new();
    let mut from = 0;
    while from < len {
        let end = len.min(from + (1 << 20));
        let piece = object.read(from..end).await.unwrap();
        assert_eq!(piece.len() as u64, end - from, "a read is exact");
        bytes.extend_from_slice(&piece);
        from = end;
    }
    bytes
}
