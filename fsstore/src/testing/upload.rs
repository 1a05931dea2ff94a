//! Multipart uploads of [`MemVolume`].

use std::collections::BTreeMap;

use bytes::Bytes;

use super::body::{Body, check_attrs};
use super::memory::{MemObject, MemVolume, State};
use super::paging::{Entry, Window, page};
use crate::compose::compose;
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ETag, PartNumber, UploadId};
use crate::object::{
    DigestAlgorithm, ExpectedDigest, KnownDigests, Locator, ObjectInfo, PartClaim, PartInfo,
    UploadInfo,
};
use crate::volume::{
    ComposeOptions, NewUpload, PartsPage, StageOptions, StagedPart, UploadsPage, UploadsQuery,
};

/// An upload under way.
#[derive(Debug)]
pub(super) struct MemUpload {
    info: UploadInfo,
    parts: BTreeMap<PartNumber, PartInfo>,
    bytes: BTreeMap<PartNumber, Bytes>,
}

/// Bytes on their way to become a part in a [`MemVolume`].
#[derive(Debug)]
pub struct MemStagedPart {
    volume: MemVolume,
    at: Locator,
    id: UploadId,
    number: PartNumber,
    pub(super) body: Body,
}

impl StagedPart for MemStagedPart {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.body.append(&chunk);
        Ok(())
    }

    async fn commit(
        self,
        expected: Vec<ExpectedDigest>,
        keep_checksum: Option<DigestAlgorithm>,
    ) -> Result<PartInfo> {
        self.body.check(&expected)?;
        if let Some(algorithm) = keep_checksum {
            self.body.assert_computed(algorithm);
        }
        let mut state = self.volume.lock();
        let modified = state.tick();
        let upload = upload_mut(&mut state, &self.at, &self.id)?;
        let begun_with = upload.info.checksum.map(|(algorithm, _)| algorithm);
        let kept = keep_checksum.or(begun_with);
        let part = PartInfo {
            number: self.number,
            len_bytes: self.body.bytes.len() as u64,
            etag: ETag::from_md5(&self.body.md5()),
            modified,
            checksum: kept.map(|algorithm| self.body.checksum(algorithm)),
            crc64nvme: self.body.crc64nvme(),
        };
        upload.parts.insert(self.number, part.clone());
        upload.bytes.insert(self.number, self.body.bytes.into());
        Ok(part)
    }
}

impl MemVolume {
    pub(super) fn begin_upload_now(&self, at: &Locator, new: NewUpload) -> Result<UploadInfo> {
        check_attrs(&new.attrs)?;
        let mut state = self.lock();
        let begun = state.tick();
        state.uploads_begun += 1;
        let id = format!("mem-{:016x}", state.uploads_begun);
        let info = UploadInfo {
            id: UploadId::parse(&id).expect("hex digits are an id"),
            key: at.key.clone(),
            begun,
            attrs: new.attrs,
            checksum: new.checksum,
            file_owner: new.file_owner,
        };
        let upload = MemUpload {
            info: info.clone(),
            parts: BTreeMap::new(),
            bytes: BTreeMap::new(),
        };
        let bucket = state.bucket_mut(&at.bucket)?;
        bucket
            .uploads
            .insert((at.key.clone(), info.id.clone()), upload);
        Ok(info)
    }

    pub(super) fn upload_now(&self, at: &Locator, id: &UploadId) -> Result<UploadInfo> {
        Ok(upload_mut(&mut self.lock(), at, id)?.info.clone())
    }

    pub(super) fn stage_part_now(
        &self,
        at: &Locator,
        id: &UploadId,
        number: PartNumber,
        options: StageOptions,
    ) -> Result<MemStagedPart> {
        upload_mut(&mut self.lock(), at, id)?;
        Ok(MemStagedPart {
            volume: self.clone(),
            at: at.clone(),
            id: id.clone(),
            number,
            body: Body::begin(options)?,
        })
    }

    pub(super) fn list_parts_now(
        &self,
        at: &Locator,
        id: &UploadId,
        after: Option<PartNumber>,
        limit: usize,
    ) -> Result<PartsPage> {
        let mut state = self.lock();
        let upload = upload_mut(&mut state, at, id)?;
        let mut parts: Vec<PartInfo> = upload
            .parts
            .values()
            .filter(|part| after.is_none_or(|after| part.number > after))
            .cloned()
            .collect();
        let truncated = limit > 0 && parts.len() > limit;
        parts.truncate(limit);
        Ok(PartsPage {
            upload: upload.info.clone(),
            parts,
            truncated,
        })
    }

    pub(super) fn compose_now(
        &self,
        at: &Locator,
        id: &UploadId,
        claims: &[PartClaim],
        options: &ComposeOptions,
    ) -> Result<ObjectInfo> {
        let mut state = self.lock();
        let modified = state.tick();
        let bucket = state.bucket_mut(&at.bucket)?;
        let current = bucket.objects.get(&at.key);
        let upload_key = (at.key.clone(), id.clone());
        let Some(upload) = bucket.uploads.get(&upload_key) else {
            return match current {
                Some(object) if object.composed_from.as_ref() == Some(id) => {
                    Ok(object.info.clone())
                }
                _ => Err(StoreError::NoSuchUpload),
            };
        };
        let made = compose(upload.info.checksum, &upload.parts, claims, options)?;
        options.precondition.check_write(current.map(|o| &o.info))?;
        let mut bytes = Vec::new();
        for part in &made.parts {
            bytes.extend_from_slice(&upload.bytes[&part.number]);
        }
        let info = ObjectInfo {
            key: at.key.clone(),
            version: None,
            len_bytes: made.len_bytes,
            etag: made.etag(),
            etags_before: Vec::new(),
            modified: options.modified.unwrap_or(modified),
            attrs: upload.info.attrs.clone(),
            part_count: Some(made.part_count()),
            checksum: made.checksum,
            digests: KnownDigests {
                md5: None,
                crc64nvme: Some(made.crc64nvme),
            },
        };
        let object = MemObject {
            info: info.clone(),
            bytes: bytes.into(),
            parts: made.parts,
            composed_from: Some(id.clone()),
        };
        bucket.objects.insert(at.key.clone(), object);
        bucket.uploads.remove(&upload_key);
        Ok(info)
    }

    pub(super) fn abort_upload_now(&self, at: &Locator, id: &UploadId) -> Result<()> {
        let mut state = self.lock();
        let bucket = state.bucket_mut(&at.bucket)?;
        let upload = bucket.uploads.remove(&(at.key.clone(), id.clone()));
        upload.map(drop).ok_or(StoreError::NoSuchUpload)
    }

    pub(super) fn list_uploads_now(
        &self,
        bucket: &BucketName,
        query: &UploadsQuery,
    ) -> Result<UploadsPage> {
        let state = self.lock();
        let after = query.after_key.as_deref();
        let uploads = state.bucket(bucket)?.uploads.iter();
        let behind = uploads.filter(|((key, id), _)| match (after, &query.after_id) {
            (None, _) => true,
            (Some(after), Some(after_id)) if key.as_str() == after => id > after_id,
            (Some(after), _) => key.as_str() > after,
        });
        let window = Window {
            prefix: &query.prefix,
            delimiter: query.delimiter.as_deref(),
            after,
            limit: query.limit,
        };
        let (entries, truncated) = page(behind.map(|((key, _), upload)| (key, upload)), &window);
        let mut found = UploadsPage {
            truncated,
            ..UploadsPage::default()
        };
        for entry in entries {
            match entry {
                Entry::At(upload) => found.uploads.push(upload.info.clone()),
                Entry::Prefix(prefix) => found.prefixes.push(prefix),
            }
        }
        Ok(found)
    }
}

/// Errors: NoSuchBucket, NoSuchUpload.
fn upload_mut<'s>(state: &'s mut State, at: &Locator, id: &UploadId) -> Result<&'s mut MemUpload> {
    let bucket = state.bucket_mut(&at.bucket)?;
    let upload = bucket.uploads.get_mut(&(at.key.clone(), id.clone()));
    upload.ok_or(StoreError::NoSuchUpload)
}
