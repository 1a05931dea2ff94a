//! Digests of files that other programs made.

use super::{Lease, SETTLED_NS};
use crate::brick::HashPolicy;
use crate::brick::attrs::{DigestState, Record};
use crate::brick::disk::{DiskFile, FileFacts};
use crate::brick::look::{Looked, state_of};
use crate::brick::sink::COPY_STEP_LEN_BYTES;
use crate::brick::tree::failed;
use crate::digest::Digester;
use crate::error::{Result, StoreError};
use crate::name::BucketName;
use crate::object::{DigestSet, Locator};
use crate::shared::disk::SharedDisk;
use crate::shared::{Inner, claim_of};

impl Inner {
    pub(super) fn hash_bucket(&self, bucket: &BucketName, lease: &mut Lease) -> Result<()> {
        self.each_key(bucket, |key| {
            if self.is_stopping() {
                return Ok(false);
            }
            lease.keep()?;
            let at = Locator::new(bucket.clone(), key);
            let hashed = match self.look_blocking(&at) {
                Ok(Some(looked)) => self.hash_settled(&at, looked, Some(&mut *lease)),
                Ok(None) | Err(StoreError::AccessDenied) => Ok(()),
                Err(e) => Err(e),
            };
            // One file that cannot be read must not keep the others from their turn.
            if let Err(e) = hashed {
                tracing::warn!(%bucket, key = at.key.as_str(), "a file gets no digest: {e}");
                lease.claim.renew()?;
            }
            Ok(true)
        })
    }

    /// Gives a file that has no digest one, where it has been left alone for some time.
    fn hash_settled(
        &self,
        at: &Locator,
        looked: Looked<SharedDisk>,
        lease: Option<&mut Lease>,
    ) -> Result<()> {
        let age_ns = self.options.clock.now().0 - looked.found.facts.mtime_ns;
        if !looked.info.etag.is_provisional() || age_ns < SETTLED_NS {
            return Ok(());
        }
        match self.hash(at, &looked, lease) {
            Ok(()) | Err(StoreError::ChangedWhileRead | StoreError::AccessDenied) => Ok(()),
            other => other,
        }
    }

    /// Reads a file for its digests and records them, under the key's claim: in place, because
    /// the file is another program's.
    pub(in crate::shared) fn hash(
        &self,
        at: &Locator,
        looked: &Looked<SharedDisk>,
        mut lease: Option<&mut Lease>,
    ) -> Result<()> {
        let Some(file) = &looked.found.file else {
            return Ok(());
        };
        let fail = failed("read a file for its digest");
        let before = looked.found.facts;
        let mut digester = Digester::new(DigestSet::default());
        let mut done = 0;
        while done < before.len_bytes {
            let bytes = file
                .read_at(done, COPY_STEP_LEN_BYTES as usize)
                .map_err(&fail)?;
            if bytes.is_empty() {
                return Err(StoreError::ChangedWhileRead);
            }
            done += bytes.len() as u64;
            digester.update(&bytes);
            if let Some(lease) = &mut lease {
                lease.keep()?;
            }
        }
        let digests = digester.finish(Default::default());
        let stage = self.claims.stage_held()?;
        let claim = self.claims.acquire(stage, &claim_of(at))?;
        // Its record, too, may have changed since: tags go to a file in place.
        let Some(current) = self.look_blocking(at)? else {
            return Err(StoreError::ChangedWhileRead);
        };
        let Some(file) = &current.found.file else {
            return Err(StoreError::ChangedWhileRead);
        };
        let now = current.found.facts;
        let identity = |facts: &FileFacts| (facts.ino, facts.len_bytes, facts.mtime_ns);
        if identity(&now) != identity(&before) {
            return Err(StoreError::ChangedWhileRead);
        }
        if !current.info.etag.is_provisional() {
            return Ok(());
        }
        let known = digests.known();
        let record = Record {
            state: Some(DigestState {
                len_bytes: now.len_bytes,
                mtime_ns: now.mtime_ns,
                ino: now.ino,
            }),
            md5: known.md5,
            crc64nvme: known.crc64nvme,
            etag_before: Some(state_of(&before).provisional_tag()),
            attrs: current.record.attrs,
            ..Record::default()
        };
        claim.note_in_place()?;
        self.tree.records.save(file, &now, &record)
    }

    /// Gives a file its digest before its tag is shown, where the bucket asks for that.
    pub(in crate::shared) fn hash_on_read(
        &self,
        at: &Locator,
        looked: Looked<SharedDisk>,
    ) -> Result<Looked<SharedDisk>> {
        let asks = self.options.hash.of(&at.bucket) == HashPolicy::OnRead;
        if !asks || !looked.info.etag.is_provisional() {
            return Ok(looked);
        }
        match self.hash(at, &looked, None) {
            Ok(()) => Ok(self.look_blocking(at)?.unwrap_or(looked)),
            Err(StoreError::ChangedWhileRead | StoreError::AccessDenied) => Ok(looked),
            Err(e) => Err(e),
        }
    }
}
