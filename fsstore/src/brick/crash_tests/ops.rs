//! Operations as values, so that a scene can be run many times.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::Brick;
use super::super::crashdisk::{CrashDisk, Random};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey, PartNumber, UploadId};
use crate::object::{
    Attributes, DigestAlgorithm, DigestSet, FileOwner, Locator, PartClaim, Precondition,
};
use crate::volume::{
    AttrsPatch, CommitOptions, ComposeOptions, NewBucket, NewUpload, Object, StageOptions, Staged,
    StagedPart, UploadsQuery, Volume,
};

/// A place, written `bucket:key`.
pub type Place = &'static str;

/// A body: its length in bytes and what it is made from.
#[derive(Debug, Clone, Copy)]
pub struct Body(pub usize, pub u64);

impl Body {
    pub fn bytes(self) -> Vec<u8> {
        let mut random = Random(self.1);
        let mut bytes = Vec::with_capacity(self.0 + 8);
        while bytes.len() < self.0 {
            bytes.extend_from_slice(&random.next().to_le_bytes());
        }
        bytes.truncate(self.0);
        bytes
    }
}

#[derive(Debug, Clone)]
pub enum Op {
    /// With a record of about so many bytes.
    Put(Place, Body, usize),
    Remove(Place),
    /// Sets as many tags, and the time as well.
    Tag(Place, usize),
    Touch(Place, usize),
    Copy(Place, Place),
    MakeBucket(&'static str),
    RemoveBucket(&'static str),
    Set(&'static str, &'static str),
    Begin(Place),
    /// A part; with its length announced.
    Part(Place, u32, Body),
    /// A part whose length is not announced.
    PartUnannounced(Place, u32, Body),
    Complete(Place, Vec<u32>),
    Abort(Place),
    /// All at once.
    All(Vec<Op>),
}

pub fn at(place: &str) -> Locator {
    let (bucket, key) = place.split_once(':').unwrap();
    Locator::new(
        BucketName::parse(bucket).unwrap(),
        ObjectKey::parse(key).unwrap(),
    )
}

fn pairs(what: &str, count: usize) -> BTreeMap<String, String> {
    (0..count)
        .map(|n| {
            (
                format!("{what}{n}"),
                format!("value {n} of {count} of {what}"),
            )
        })
        .collect()
}

impl Op {
    /// The places it may change.
    pub fn places(&self) -> Vec<Place> {
        match self {
            Self::Put(at, ..) | Self::Remove(at) | Self::Tag(at, _) | Self::Touch(at, _) => {
                vec![at]
            }
            Self::Copy(from, to) => vec![from, to],
            Self::Begin(at) | Self::Abort(at) | Self::Complete(at, _) => vec![at],
            Self::Part(at, ..) | Self::PartUnannounced(at, ..) => vec![at],
            Self::MakeBucket(_) | Self::RemoveBucket(_) | Self::Set(..) => Vec::new(),
            Self::All(ops) => ops.iter().flat_map(Self::places).collect(),
        }
    }

    /// The buckets it names by themselves.
    pub fn buckets(&self) -> Vec<&'static str> {
        match self {
            Self::MakeBucket(name) | Self::RemoveBucket(name) | Self::Set(name, _) => vec![name],
            Self::All(ops) => ops.iter().flat_map(Self::buckets).collect(),
            _ => Vec::new(),
        }
    }

    /// Runs it; gives what became of it, or of each where there are many.
    pub async fn run(&self, brick: &Brick<CrashDisk>) -> Vec<Result<()>> {
        let Self::All(ops) = self else {
            return vec![self.run_one(brick).await];
        };
        let mut tasks = Vec::new();
        for op in ops {
            let (op, brick) = (op.clone(), brick.clone());
            tasks.push(tokio::spawn(async move { op.run_one(&brick).await }));
        }
        let mut outcomes = Vec::new();
        for task in tasks {
            outcomes.push(task.await.unwrap());
        }
        outcomes
    }

    async fn run_one(&self, brick: &Brick<CrashDisk>) -> Result<()> {
        match self {
            Self::Put(place, body, attrs_len) => put(brick, &at(place), *body, *attrs_len).await,
            Self::Remove(place) => {
                let removed = brick.remove(&at(place), &Precondition::default()).await;
                removed.map(|_| ())
            }
            Self::Tag(place, count) => tag(brick, &at(place), *count, false).await,
            Self::Touch(place, count) => tag(brick, &at(place), *count, true).await,
            Self::Copy(from, to) => copy(brick, &at(from), &at(to)).await,
            Self::MakeBucket(name) => {
                let new = NewBucket {
                    owner: Some("owner".to_owned()),
                    settings: pairs("setting", 2),
                    file_owner: owner_of(1),
                };
                let name = BucketName::parse(name).unwrap();
                brick.create_bucket(&name, new).await.map(|_| ())
            }
            Self::RemoveBucket(name) => {
                brick.delete_bucket(&BucketName::parse(name).unwrap()).await
            }
            Self::Set(name, value) => {
                let (name, value) = (BucketName::parse(name).unwrap(), (*value).to_owned());
                brick.set_bucket_setting(&name, "cors", Some(value)).await
            }
            Self::Begin(place) => {
                let new = NewUpload {
                    attrs: attributes(100),
                    checksum: None,
                    file_owner: owner_of(2),
                };
                brick.begin_upload(&at(place), new).await.map(|_| ())
            }
            Self::Part(place, number, body) => {
                part(brick, &at(place), *number, *body, Some(body.0 as u64)).await
            }
            Self::PartUnannounced(place, number, body) => {
                part(brick, &at(place), *number, *body, None).await
            }
            Self::Complete(place, numbers) => complete(brick, &at(place), numbers).await,
            Self::Abort(place) => {
                let id = upload_id(brick, &at(place)).await?;
                brick.abort_upload(&at(place), &id).await
            }
            Self::All(_) => unreachable!("lists of operations are flat"),
        }
    }
}

fn attributes(len_bytes: usize) -> Attributes {
    Attributes {
        system: BTreeMap::from([("content-type".to_owned(), "text/plain".to_owned())]),
        user: pairs("meta", len_bytes / 30),
        tags: pairs("tag", 1),
        owner: Some("someone".to_owned()),
        acl: None,
    }
}

/// Another one for each body.
fn owner_of(number: u64) -> FileOwner {
    FileOwner {
        uid: Some(1_000 + (number % 1_000) as u32),
        gid: Some(2_000 + (number % 1_000) as u32),
        umask: Some(0o027),
    }
}

async fn put(brick: &Brick<CrashDisk>, at: &Locator, body: Body, attrs_len: usize) -> Result<()> {
    let options = StageOptions {
        len_bytes: Some(body.0 as u64),
        digests: DigestSet::default().with(DigestAlgorithm::Crc32c),
    };
    let mut staged = brick.stage(at, options).await?;
    for chunk in body.bytes().chunks(100_000) {
        staged.write(Bytes::copy_from_slice(chunk)).await?;
    }
    let options = CommitOptions {
        attrs: attributes(attrs_len),
        keep_checksum: Some(DigestAlgorithm::Crc32c),
        file_owner: owner_of(body.1),
        ..CommitOptions::default()
    };
    staged.commit(options).await.map(|_| ())
}

async fn tag(brick: &Brick<CrashDisk>, at: &Locator, count: usize, touch: bool) -> Result<()> {
    let patch = AttrsPatch {
        tags: Some(pairs("new-tag", count)),
        touch,
        ..AttrsPatch::default()
    };
    let patched = brick.set_attrs(at, patch, &Precondition::default()).await;
    patched.map(|_| ())
}

async fn copy(brick: &Brick<CrashDisk>, from: &Locator, to: &Locator) -> Result<()> {
    let source = brick.open(from).await?;
    let mut staged = brick.stage(to, StageOptions::default()).await?;
    let len_bytes = source.info().len_bytes;
    brick.copy_into(&mut staged, &source, 0..len_bytes).await?;
    let options = CommitOptions {
        attrs: source.info().attrs.clone(),
        ..CommitOptions::default()
    };
    staged.commit(options).await.map(|_| ())
}

/// The ids of the uploads to a key.
pub async fn upload_ids(brick: &Brick<CrashDisk>, at: &Locator) -> Result<Vec<UploadId>> {
    let query = UploadsQuery {
        prefix: at.key.as_str().to_owned(),
        limit: 1_000,
        ..UploadsQuery::default()
    };
    let page = brick.list_uploads(&at.bucket, &query).await?;
    let of_key = page.uploads.into_iter().filter(|info| info.key == at.key);
    Ok(of_key.map(|info| info.id).collect())
}

async fn upload_id(brick: &Brick<CrashDisk>, at: &Locator) -> Result<UploadId> {
    let ids = upload_ids(brick, at).await?;
    ids.into_iter().next().ok_or(StoreError::NoSuchUpload)
}

async fn part(
    brick: &Brick<CrashDisk>,
    at: &Locator,
    number: u32,
    body: Body,
    len_bytes: Option<u64>,
) -> Result<()> {
    let id = upload_id(brick, at).await?;
    let number = PartNumber::new(number).unwrap();
    let options = StageOptions {
        len_bytes,
        ..StageOptions::default()
    };
    let mut staged = brick.stage_part(at, &id, number, options).await?;
    for chunk in body.bytes().chunks(1_000_000) {
        staged.write(Bytes::copy_from_slice(chunk)).await?;
    }
    staged.commit(Vec::new(), None).await.map(|_| ())
}

async fn complete(brick: &Brick<CrashDisk>, at: &Locator, numbers: &[u32]) -> Result<()> {
    let id = upload_id(brick, at).await?;
    let page = brick.list_parts(at, &id, None, 10_000).await?;
    let claims: Vec<_> = page
        .parts
        .iter()
        .filter(|part| numbers.contains(&u32::from(part.number.get())))
        .map(|part| PartClaim {
            number: part.number,
            etag: part.etag.as_str().to_owned(),
            checksum: None,
        })
        .collect();
    let composed = brick.compose(at, &id, &claims, ComposeOptions::default());
    composed.await.map(|_| ())
}
