//! How a logged change becomes files.

use std::sync::Arc;

use placement::group::GroupId;
use placement::replica::{OpId, Record};

use super::super::files::applying::ApplyingFile;
use super::super::kinds::{Change, Kept, NewObject};
use super::{CopyError, Member, staged_name};
use crate::brick::attrs::Stamp;
use crate::brick::commit::Turn;
use crate::brick::disk::{Disk, DiskFile};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey, UploadId};
use crate::object::{Locator, PartInfo, Timestamp};
use crate::volume::NewUpload;

/// One change on its way into the tree, in the turn.
pub(super) struct Applying<'a, D: Disk> {
    pub member: &'a Member<D>,
    pub group: GroupId,
    pub record: &'a Record<Kept>,
    pub op: OpId,
    pub stamp: Stamp,
    pub checks: bool,
    pub was_logged: bool,
    pub peers: &'a [Arc<Member<D>>],
}

impl<D: Disk> Applying<'_, D> {
    pub fn change(&self, turn: &mut Turn<'_, D>, change: &Change) -> Result<()> {
        let inner = &self.member.inner;
        let at = |bucket: &BucketName, key: &ObjectKey| Locator::new(bucket.clone(), key.clone());
        match change {
            Change::Put {
                bucket,
                key,
                new,
                upload,
            } => self.put(turn, &at(bucket, key), new, upload.as_ref()),
            Change::Remove { bucket, key } => {
                let at = at(bucket, key);
                match self.has_later(&at)? {
                    true => Ok(()),
                    false => inner.remove_now(turn, &at),
                }
            }
            Change::Patch {
                bucket,
                key,
                attrs,
                touched_ns,
                owner,
            } => {
                let at = at(bucket, key);
                if self.has_later(&at)? {
                    inner.vouch(&at)?;
                    // It may have stopped after its record.
                    return match *owner {
                        Some(owner) if inner.stamp_at(&at)? == Some(self.stamp) => {
                            inner.give_to(&at, owner)
                        }
                        _ => Ok(()),
                    };
                }
                let touched = touched_ns.map(Timestamp);
                inner.patch_now(turn, &at, ((**attrs).clone(), self.stamp), touched, *owner)
            }
            Change::KeepBucket {
                bucket,
                facts,
                owner,
            } => inner.keep_bucket(turn, &facts.info(bucket), owner),
            Change::RemoveBucket { bucket, created_ns } => {
                let removed = inner.remove_bucket_now(turn, bucket, Some(Timestamp(*created_ns)));
                match removed {
                    // What is in it came later.
                    Err(StoreError::BucketNotEmpty) if self.checks => Ok(()),
                    other => other,
                }
            }
            Change::Begin {
                bucket,
                key,
                id,
                begun,
            } => {
                let new = NewUpload {
                    attrs: begun.attrs.clone(),
                    checksum: begun.checksum,
                    file_owner: begun.owner,
                };
                let begun = Timestamp(begun.begun_ns);
                inner.begin_upload_as(&at(bucket, key), id.clone(), new, begun)
            }
            Change::Part {
                bucket,
                key,
                id,
                part,
            } => self.part(&at(bucket, key), id, part),
            Change::File {
                bucket,
                key,
                change,
            } => self.of_mount(&at(bucket, key)).file(turn, change),
            Change::Dir {
                bucket,
                path,
                change,
            } => self.of_mount(&at(bucket, path)).dir(turn, change),
            Change::End { bucket, id, .. } => inner.end_upload_now(bucket, id),
        }
    }

    fn of_mount<'b>(&'b self, at: &'b Locator) -> ApplyingFile<'b, D> {
        ApplyingFile {
            member: self.member,
            at,
            stamp: self.stamp,
            checks: self.checks,
        }
    }

    /// The staged file; where a power cut left its record and not it, another brick's, made
    /// durable here. None where a later change has replaced it.
    fn staged_anywhere(&self) -> Result<Option<Arc<D::File>>> {
        let staged = self.member.staged(self.op)?;
        if staged.is_some() || !self.checks {
            return Ok(staged);
        }
        let obtained = self.member.obtain(self.group, self.record, self.peers);
        let (CopyError::Source(error) | CopyError::Target(error)) = match obtained {
            Ok(true) => {
                let fetched = self.member.staged(self.op)?;
                if let Some(file) = &fetched {
                    let synced = file.sync();
                    synced.map_err(|e| StoreError::from_io("make a fetched file durable", e))?;
                }
                return Ok(fetched);
            }
            Ok(false) => return Ok(None),
            // It was published here, and what stands came later.
            Err(CopyError::Source(_)) if self.was_logged => return Ok(None),
            Err(error) => error,
        };
        Err(error)
    }

    /// Whether what stands was made by this change or a later one.
    fn has_later(&self, at: &Locator) -> Result<bool> {
        Ok(self.checks && self.member.inner.stamp_at(at)? >= Some(self.stamp))
    }

    fn put(
        &self,
        turn: &mut Turn<'_, D>,
        at: &Locator,
        new: &NewObject,
        upload: Option<&UploadId>,
    ) -> Result<()> {
        let Member { inner, dir, .. } = self.member;
        let has_later = self.has_later(at)?;
        let file = match has_later {
            true => None,
            false => self.staged_anywhere()?,
        };
        match file {
            Some(file) => {
                let name = staged_name(self.op);
                inner.put_sealed(turn, at, file, new.owner, (dir, &name), upload)?;
                self.member.unstage(self.op);
                Ok(())
            }
            // Here already, or replaced by what is still to come.
            None if self.checks => {
                self.member.drop_staged(self.op);
                if has_later {
                    inner.vouch(at)?;
                }
                match upload {
                    Some(id) => inner.end_upload_now(&at.bucket, id),
                    None => Ok(()),
                }
            }
            None => Err(StoreError::Corrupt(format!(
                "the file staged for {}/{} is gone",
                at.bucket, at.key
            ))),
        }
    }

    fn has_part(&self, at: &Locator, id: &UploadId, part: &PartInfo) -> Result<bool> {
        match self.member.inner.upload_now(at, id) {
            Err(StoreError::NoSuchUpload | StoreError::NoSuchBucket) => Ok(false),
            upload => Ok(upload?.parts_after(None, usize::MAX).contains(part)),
        }
    }

    fn part(&self, at: &Locator, id: &UploadId, part: &PartInfo) -> Result<()> {
        let Member { inner, dir, .. } = self.member;
        if self.checks && self.has_part(at, id, part)? {
            self.member.drop_staged(self.op);
            return Ok(());
        }
        let Some(file) = self.staged_anywhere()? else {
            return match self.checks {
                true => Ok(()),
                false => Err(StoreError::Corrupt("a staged part is gone".to_owned())),
            };
        };
        let name = staged_name(self.op);
        match inner.record_part(at, id, part.clone(), &file, (dir, &name)) {
            // It ended since.
            Err(StoreError::NoSuchUpload) => self.member.drop_staged(self.op),
            other => other?,
        }
        self.member.unstage(self.op);
        Ok(())
    }
}
