//! Uploads on their way to become objects:
//!
//! 1. under the upload's claim, which a task renews, what it becomes is decided from the parts'
//!    records;
//! 2. the parts are copied to a file of their own, which gets a record that names the upload;
//! 3. if the upload's claim is still ours, the file becomes the key's claim, the precondition is
//!    decided, and the file gets its name;
//! 4. the upload's files go.
//!
//! Between 3 and 4 a gateway may die: the object's record tells that this upload is over, whoever
//! asks to complete it again is answered the same, and the upkeep removes what is left.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::claim::Claim;
use super::staged::{Commit, Seal};
use super::uploads::Opened;
use super::{Inner, claim_of, claim_of_upload};
use crate::brick::attrs::{MultipartTag, Parts, Record};
use crate::brick::disk::{Disk, DiskFile};
use crate::brick::osdisk::OsFile;
use crate::brick::tree::{failed, is_absent};
use crate::compose::{Composition, compose};
use crate::error::{Result, StoreError};
use crate::name::{PartNumber, UploadId};
use crate::object::{Locator, ObjectInfo, PartClaim, PartInfo};
use crate::volume::ComposeOptions;

/// Copied between two looks at whether the claim is to be renewed, in bytes.
const COPY_STEP_LEN_BYTES: u64 = 16 << 20;
/// A claim that is held for long is renewed this often.
const RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// How often it is looked whether it is time for that.
const RENEW_TICK: Duration = Duration::from_millis(50);

/// An upload's claim, renewed while something takes long.
struct Held {
    claim: Arc<Mutex<Claim>>,
    is_over: Arc<AtomicBool>,
}

impl Held {
    /// Renews a claim until this is dropped: a sync of a long file, too, may take longer than
    /// others have patience.
    fn new(claim: Claim, interval: Duration) -> Result<Self> {
        let (claim, is_over) = (
            Arc::new(Mutex::new(claim)),
            Arc::new(AtomicBool::new(false)),
        );
        let (renewed, over) = (Arc::downgrade(&claim), Arc::clone(&is_over));
        std::thread::Builder::new()
            .name("claim".to_owned())
            .spawn(move || {
                let mut last = Instant::now();
                while !over.load(Ordering::Acquire) {
                    std::thread::sleep(RENEW_TICK);
                    if last.elapsed() < interval {
                        continue;
                    }
                    last = Instant::now();
                    match renewed.upgrade().map(|claim| renew(&claim)) {
                        Some(Ok(())) => {}
                        _ => return,
                    }
                }
            })
            .map_err(|e| StoreError::from_io("renew a claim", e))?;
        Ok(Self { claim, is_over })
    }

    /// Errors: Conflict where the claim is no longer ours.
    fn check(&self) -> Result<()> {
        renew(&self.claim)
    }
}

fn renew(claim: &Mutex<Claim>) -> Result<()> {
    claim.lock().unwrap_or_else(PoisonError::into_inner).renew()
}

impl Drop for Held {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}

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
            let held = Held::new(claim, inner.renew_interval())?;
            // Who completes it has the key's claim when it publishes, and may only sleep: from
            // here on it cannot.
            let stage = inner.claims.stage_held()?;
            drop(inner.claims.acquire(stage, &claim_of(&at))?);
            held.check()?;
            inner.abort(&at, &id)
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
            inner.complete(&at, opened, claim, &claims, options)
        };
        self.claims.under(&name, prepare, act).await
    }

    fn renew_interval(&self) -> Duration {
        RENEW_INTERVAL.min(self.options.patience / 4)
    }

    fn complete(
        &self,
        at: &Locator,
        opened: Opened,
        claim: Claim,
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
        let held = Held::new(claim, self.renew_interval())?;
        let stage = self.claims.stage()?;
        let (entry, file) = stage.create()?;
        self.copy_parts(&dir, &composition, &parts, &file)?;
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
            parts: Parts::of(&composition.parts),
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
        let key_claim = self.claims.acquire(stage, &claim_of(at))?;
        // Aborted, or completed by another, while this gateway slept?
        held.check()?;
        self.open_upload(at, &upload.id)?;
        self.publish_whole(at, &key_claim, &entry, &whole, &commit)?;
        drop(key_claim);
        if let Err(e) = self.remove_upload(&at.bucket, upload.id.as_str()) {
            tracing::warn!(id = %upload.id, "a completed upload's files stay for the upkeep: {e}");
        }
        Ok(self.info_of(at, &whole))
    }

    fn copy_parts(
        &self,
        dir: &super::disk::Dir,
        composition: &Composition,
        parts: &BTreeMap<PartNumber, PartInfo>,
        file: &OsFile,
    ) -> Result<()> {
        let fail = failed("copy a part");
        for part in &composition.parts {
            let number = part.number;
            let source = match self.tree.disk.open(dir, &super::uploads::name_of(number)) {
                Err(e) if is_absent(&e) => return Err(StoreError::Conflict),
                other => other.map_err(&fail)?,
            };
            // Sent again meanwhile: then it is not what was decided on.
            let facts = Self::facts_of(&source)?;
            let record = self.tree.records.load(&source, &facts)?.unwrap_or_default();
            let decided = parts.get(&number).map(|part| part.crc64nvme);
            if record.crc64nvme != decided || facts.len_bytes != part.len_bytes {
                return Err(StoreError::Conflict);
            }
            let mut done = 0;
            while done < part.len_bytes {
                let step = COPY_STEP_LEN_BYTES.min(part.len_bytes - done);
                let copied = file
                    .copy_from(&source, done, part.offset_bytes + done, step)
                    .map_err(&fail)?;
                if copied != step {
                    return Err(StoreError::Conflict);
                }
                done += step;
            }
        }
        Ok(())
    }

    /// Completing again: the same answer as long as the object stands.
    fn completed_before(&self, at: &Locator, id: &UploadId) -> Result<ObjectInfo> {
        match self.look_blocking(at)? {
            Some(looked) if looked.record.upload_id.as_ref() == Some(id) => Ok(looked.info),
            _ => Err(StoreError::NoSuchUpload),
        }
    }
}
