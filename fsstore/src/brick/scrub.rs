//! Reading everything again, to find bytes that are no longer those that were written.
//!
//! Every record keeps the CRC-64/NVME of its object's bytes. A scrub reads the bytes from the disk,
//! past what the kernel has in memory, and compares. It changes nothing: what is to be done about
//! rot its caller decides.

use std::io;

use super::attrs::Record;
use super::disk::{Disk, DiskFile, FileFacts};
use super::hashing::is_same_state;
use super::look::claims_digests;
use super::walk::{Step, walk};
use super::{Brick, Inner};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;
use crate::volume::MAX_PAGE;

/// Bytes read at once.
const STEP_LEN_BYTES: usize = 1 << 20;

/// What an object's bytes are, as they are on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Those that were written.
    Sound,
    /// Others, though nobody has changed the file since: they rotted.
    Rotten,
    /// Others, and the file was changed behind our back since they were written.
    Changed,
    /// Not to be read.
    Unreadable,
    /// Not known: it has no digest, is being written, or changed while it was read.
    Skipped,
}

/// An object that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrubbed {
    /// Which.
    pub at: Locator,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// What its bytes are.
    pub verdict: Verdict,
}

/// How far a scrub is: everything up to here was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Position {
    /// The bucket.
    pub bucket: String,
    /// The last key in it.
    pub key: String,
}

/// What a scrub asks of its caller. Both may take their time; the scrub's thread waits.
pub trait Scrubbing {
    /// So many bytes are about to be read. False ends the scrub.
    fn may_read(&mut self, len_bytes: u64) -> bool;

    /// An object was looked at. False ends the scrub.
    fn scrubbed(&mut self, object: Scrubbed) -> bool;
}

impl<D: Disk> Brick<D> {
    /// Reads every object after a position, in order. True where it came to the end. Blocking, on
    /// a thread that is not a runtime's. Errors: those of the tree; of one object none.
    pub fn scrub(&self, from: &Position, scrubbing: &mut dyn Scrubbing) -> Result<bool> {
        let inner = &self.inner;
        let mut after: Option<String> = None;
        loop {
            let page = inner
                .buckets
                .list(&inner.tree, "", after.as_deref(), MAX_PAGE)?;
            let Some(last) = page.last() else {
                return Ok(true);
            };
            after = Some(last.name.as_str().to_owned());
            for bucket in page
                .iter()
                .filter(|bucket| bucket.name.as_str() >= &*from.bucket)
            {
                let is_first = bucket.name.as_str() == from.bucket;
                let key = Some(&*from.key).filter(|_| is_first);
                if !self.scrub_bucket(&bucket.name, key, scrubbing)? {
                    return Ok(false);
                }
            }
        }
    }

    fn scrub_bucket(
        &self,
        bucket: &BucketName,
        after: Option<&str>,
        scrubbing: &mut dyn Scrubbing,
    ) -> Result<bool> {
        let mut goes_on = true;
        let walked = walk(&self.inner.tree, bucket, after, &mut |met| {
            goes_on = self.scrub_met(bucket, met.key, scrubbing)?;
            Ok(if goes_on { Step::Next } else { Step::Stop })
        });
        match walked {
            // Removed meanwhile.
            Err(StoreError::NoSuchBucket) => Ok(true),
            walked => walked.map(|_| goes_on),
        }
    }

    fn scrub_met(
        &self,
        bucket: &BucketName,
        key: ObjectKey,
        scrubbing: &mut dyn Scrubbing,
    ) -> Result<bool> {
        let at = Locator::new(bucket.clone(), key);
        match self.verify(&at, &mut |len_bytes| scrubbing.may_read(len_bytes)) {
            Ok(Some((len_bytes, verdict))) => Ok(scrubbing.scrubbed(Scrubbed {
                at,
                len_bytes,
                verdict,
            })),
            Ok(None) => Ok(true),
            Err(StoreError::Stopping) => Ok(false),
            Err(error) => {
                tracing::debug!(bucket = %at.bucket, key = %at.key, "cannot be scrubbed: {error}");
                Ok(scrubbing.scrubbed(Scrubbed {
                    at,
                    len_bytes: 0,
                    verdict: Verdict::Unreadable,
                }))
            }
        }
    }

    /// Reads one object: its length in bytes, and what its bytes are; none where there is none.
    /// `may_read` is asked before each step; where it says no, the answer is Stopping. Blocking.
    pub fn verify(
        &self,
        at: &Locator,
        may_read: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<(u64, Verdict)>> {
        let checked = self.inner.check_bytes(at, Reading::Disk, may_read)?;
        Ok(checked.map(|checked| (checked.facts.len_bytes, checked.verdict)))
    }
}

/// Where bytes are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The disk, past what the kernel has in memory.
    Disk,
    /// What the kernel has in memory, which is what readers are given; no disk is read for it.
    Memory,
}

/// An object whose bytes were read.
pub(crate) struct Checked {
    /// The file as it was.
    pub facts: FileFacts,
    /// Its record, with its digests whether they hold or not.
    pub record: Record,
    /// What its bytes are.
    pub verdict: Verdict,
}

impl<D: Disk> Inner<D> {
    /// As [`Brick::verify`].
    pub(crate) fn check_bytes(
        &self,
        at: &Locator,
        from: Reading,
        may_read: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Checked>> {
        let Some(looked) = self.look_blocking(at)? else {
            return Ok(None);
        };
        let (facts, in_doubt) = (looked.found.facts, looked.in_doubt);
        // With its digests, whether they hold or not.
        let record = self.record_of(&looked.found)?;
        let of_verdict = |verdict| {
            let record = record.clone();
            Ok(Some(Checked {
                facts,
                record,
                verdict,
            }))
        };
        let Some(file) = &looked.found.file else {
            return of_verdict(Verdict::Sound);
        };
        let Some(expected) = record.crc64nvme.filter(|_| !self.edits.has(facts.ino)) else {
            return of_verdict(Verdict::Skipped);
        };
        let found = match crc_of_file::<D>(file, &facts, from, may_read) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Err(StoreError::Stopping);
            }
            Err(error) if is_not_in_memory(&error) => return of_verdict(Verdict::Skipped),
            Err(error) => {
                tracing::debug!(bucket = %at.bucket, key = %at.key, "cannot be read: {error}");
                return of_verdict(Verdict::Unreadable);
            }
        };
        let now = file
            .facts()
            .map_err(|e| StoreError::from_io("look at an object", e))?;
        of_verdict(match found {
            _ if !is_same_state(&now, &facts) || self.edits.has(facts.ino) => Verdict::Skipped,
            found if found == expected => Verdict::Sound,
            _ if claims_digests(&record, &facts) && !in_doubt => Verdict::Rotten,
            _ => Verdict::Changed,
        })
    }
}

/// The CRC of a file's bytes. Errors: Interrupted where it is told to end.
fn crc_of_file<D: Disk>(
    file: &D::File,
    facts: &FileFacts,
    from: Reading,
    may_read: &mut dyn FnMut(u64) -> bool,
) -> io::Result<u64> {
    if from == Reading::Disk {
        // What is in memory was right once; what is to be written goes first.
        file.sync()?;
        forget_pages(file);
    }
    let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    let mut offset_bytes = 0;
    loop {
        let left = facts.len_bytes.saturating_sub(offset_bytes);
        if !may_read(left.min(STEP_LEN_BYTES as u64)) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let bytes = match from {
            Reading::Disk => file.read_at(offset_bytes, STEP_LEN_BYTES)?,
            Reading::Memory if left == 0 => return Ok(crc.finalize()),
            Reading::Memory => {
                let step =
                    usize::try_from(left).map_or(STEP_LEN_BYTES, |left| left.min(STEP_LEN_BYTES));
                file.read_at_cached(offset_bytes, step)?
            }
        };
        if bytes.is_empty() {
            return Ok(crc.finalize());
        }
        crc.update(&bytes);
        offset_bytes += bytes.len() as u64;
    }
}

fn is_not_in_memory(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Unsupported
    )
}

/// Has the kernel read from the disk next time. Source: posix_fadvise(2), POSIX_FADV_DONTNEED.
fn forget_pages(file: &impl DiskFile) {
    let Some(fd) = file.descriptor() else { return };
    if let Err(error) = rustix::fs::fadvise(fd, 0, None, rustix::fs::Advice::DontNeed) {
        tracing::debug!(%error, "what the kernel has in memory is read");
    }
}

#[cfg(test)]
mod tests;
