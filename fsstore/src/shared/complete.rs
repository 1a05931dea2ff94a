//! Uploads on their way to become objects:
//!
//! 1. under the upload's claim, which a thread renews, what it becomes is decided from the parts'
//!    records;
//! 2. the parts are copied to a file of their own, which gets a record that names the upload;
//! 3. if the upload's claim is still ours, the file becomes the key's claim, with a note that the
//!    upload ends with it; the precondition is decided, and the file gets its name;
//! 4. the upload's first file goes, then the note, the key's claim, and the other files.
//!
//! Between 3 and 4 a gateway may die: the object's record tells that this upload is over, and whoever
//! asks to complete it again is answered the same. Nobody replaces the object before the key's claim
//! was broken, and whoever breaks it heeds the note ([`super::claim::Uploads`]) and takes the upload's first
//! file away; the upkeep removes what is left.

mod copying;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::copying::Parts;
use super::claim::Claim;
use super::staged::{Commit, Seal};
use super::uploads::Opened;
use super::{Inner, claim_of, claim_of_upload};
use crate::brick::attrs::{MultipartTag, Parts as RecordedParts, Record};
use crate::compose::compose;
use crate::error::{Result, StoreError};
use crate::name::{BucketName, UploadId};
use crate::object::{Locator, ObjectInfo, PartClaim, UploadInfo};
use crate::volume::ComposeOptions;

impl Inner {
    pub(super) async fn end_upload(self: &Arc<Self>, at: &Locator, id: &UploadId) -> Result<()> {
        let name = claim_of_upload(&at.bucket, id);
        let turn = self.claims.turn(&name).await;
        let (inner, at, id) = (Arc::clone(self), at.clone(), id.clone());
        let (looking, place, upload) = (Arc::clone(self), at.clone(), id.clone());
        let prepare = move || {
            looking.open_upload(&place, &upload)?;
            looking.claims.stage_held()
        };
        let act = move |claim: Claim| {
            let _turn = turn;
            claim.while_renewed(|| {
                // Who completes it has the key's claim when it publishes, and may only sleep: from
                // here on it cannot.
                let stage = inner.claims.stage_held()?;
                drop(inner.claims.acquire(stage, &claim_of(&at))?);
                claim.renew()?;
                inner.abort(&at, &id)
            })
        };
        self.claims.under(&name, prepare, act).await
    }

    pub(super) async fn complete_upload(
        self: &Arc<Self>,
        at: &Locator,
        id: &UploadId,
        claims: &[PartClaim],
        options: ComposeOptions,
    ) -> Result<ObjectInfo> {
        let name = claim_of_upload(&at.bucket, id);
        let turn = self.claims.turn(&name).await;
        let (inner, at, id) = (Arc::clone(self), at.clone(), id.clone());
        let claims = claims.to_vec();
        let staging = Arc::clone(&self.claims);
        let prepare = move || staging.stage_held();
        let act = move |claim: Claim| {
            let _turn = turn;
            let opened = match inner.open_upload(&at, &id) {
                Err(StoreError::NoSuchUpload) => return inner.completed_before(&at, &id),
                other => other?,
            };
            if let Ok(info) = inner.completed_before(&at, &id) {
                // Who published it died before the files went.
                inner.remove_upload(&at.bucket, id.as_str())?;
                return Ok(info);
            }
            claim.while_renewed(|| inner.complete(&at, opened, &claim, &claims, options))
        };
        self.claims.under(&name, prepare, act).await
    }

    fn complete(
        &self,
        at: &Locator,
        opened: Opened,
        claim: &Claim,
        claims: &[PartClaim],
        options: ComposeOptions,
    ) -> Result<ObjectInfo> {
        let Opened { info: upload, dir } = opened;
        let parts: BTreeMap<_, _> = self
            .parts_in(&dir, None, usize::MAX)?
            .into_iter()
            .map(|part| (part.number, part))
            .collect();
        let composition = compose(upload.checksum, &parts, claims, &options)?;
        self.require_room(composition.len_bytes)?;
        let stage = self.claims.stage()?;
        let (entry, file) = stage.create()?;
        let copying = Parts {
            inner: self,
            dir: &dir,
            composition: &composition,
            decided: &parts,
        };
        copying.copy_into(&file)?;
        let modified = options.modified.map(|time| self.as_kept(time.0));
        let record = Record {
            crc64nvme: Some(composition.crc64nvme),
            multipart: Some(MultipartTag {
                md5_of_md5s: composition.md5_of_md5s,
                part_count: composition.part_count(),
            }),
            checksum: composition.checksum.clone(),
            attrs: upload.attrs.clone(),
            upload_id: Some(upload.id.clone()),
            parts: RecordedParts::of(&composition.parts),
            ..Record::default()
        };
        let seal = Seal {
            record,
            len_bytes: composition.len_bytes,
            modified_ns: modified.unwrap_or_else(|| self.now_ns()),
        };
        let whole = self.seal(at, &file, seal, &upload.file_owner)?;
        let commit = Commit {
            precondition: options.precondition,
            owner: upload.file_owner,
        };
        let note = stage.note_end(&at.bucket, &upload.id, &entry)?;
        let key_claim = self.claims.acquire(stage, &claim_of(at))?;
        // Aborted, or completed by another, while this gateway slept?
        claim.renew()?;
        self.open_upload(at, &upload.id)?;
        let published = self
            .publish_whole(at, &key_claim, &entry, &whole, &commit)
            .and_then(|()| self.behead_upload(&at.bucket, &upload.id))
            .and_then(|()| key_claim.forget_note(&note));
        match published {
            // It may have got its name: who breaks the claim finds out.
            Err(e @ StoreError::Io { .. }) => {
                key_claim.abandon();
                return Err(e);
            }
            other => other?,
        }
        drop(key_claim);
        if let Err(e) = self.remove_upload(&at.bucket, upload.id.as_str()) {
            tracing::warn!(id = %upload.id, "a completed upload's files stay for the upkeep: {e}");
        }
        Ok(self.info_of(at, &whole))
    }

    /// Whether the object stands that an upload became.
    pub(super) fn became(&self, bucket: &BucketName, upload: UploadInfo) -> Result<bool> {
        let looked = self.look_blocking(&Locator::new(bucket.clone(), upload.key))?;
        Ok(looked.is_some_and(|looked| looked.record.upload_id.as_ref() == Some(&upload.id)))
    }

    /// Completing again: the same answer as long as the object stands.
    fn completed_before(&self, at: &Locator, id: &UploadId) -> Result<ObjectInfo> {
        match self.look_blocking(at)? {
            Some(looked) if looked.record.upload_id.as_ref() == Some(id) => Ok(looked.info),
            _ => Err(StoreError::NoSuchUpload),
        }
    }
}
