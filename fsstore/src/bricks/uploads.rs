//! Multipart uploads on several bricks: an upload lives on the bricks of its key's group, a part
//! is a file of its own on each, and completing puts them together on each.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::driver::UNDECIDED;
use super::fan::Fan;
use super::kinds::{BegunUpload, Change, Name, NewObject};
use super::shared::{Shared, is_fault};
use super::volume::Put;
use crate::brick::attrs::{MultipartTag, Parts, Record};
use crate::brick::disk::Disk;
use crate::brick::multipart::FirstUploads;
use crate::brick::sink::off_thread;
use crate::brick::upload::Upload;
use crate::brick::uploads::new_id;
use crate::compose::{Composition, compose};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ETag, PartNumber, UploadId};
use crate::object::{
    DigestAlgorithm, ExpectedDigest, Locator, ObjectInfo, PartClaim, PartInfo, UploadInfo,
};
use crate::volume::{
    ComposeOptions, NewUpload, StageOptions, StagedPart, UploadsPage, UploadsQuery,
};

/// Bytes on their way to become a part on several bricks.
pub struct BricksPart<D: Disk> {
    shared: Arc<Shared<D>>,
    at: Locator,
    upload: UploadInfo,
    number: PartNumber,
    pub(super) fan: Fan<D>,
}

impl<D: Disk> BricksPart<D> {
    pub(super) async fn begin(
        shared: &Arc<Shared<D>>,
        at: &Locator,
        id: &UploadId,
        number: PartNumber,
        mut options: StageOptions,
    ) -> Result<Self> {
        let upload = shared.open_upload(at, id).await?;
        if let Some((algorithm, _)) = upload.info.checksum {
            options.digests = options.digests.with(algorithm);
        }
        let group = shared.group_of(at);
        Ok(Self {
            shared: Arc::clone(shared),
            at: at.clone(),
            upload: upload.info.clone(),
            number,
            fan: Fan::new(shared.in_sync(group), shared.input.clone(), options).await?,
        })
    }
}

impl<D: Disk> StagedPart for BricksPart<D> {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.fan.write(chunk).await
    }

    async fn commit(
        self,
        expected: Vec<ExpectedDigest>,
        keep_checksum: Option<DigestAlgorithm>,
    ) -> Result<PartInfo> {
        let Self {
            shared,
            at,
            upload,
            number,
            fan,
        } = self;
        let taken = fan.finish().await?;
        for (member, error) in taken.lost {
            shared.report(member.id, error);
        }
        taken.digests.check(&expected)?;
        let kept = keep_checksum.or(upload.checksum.map(|(algorithm, _)| algorithm));
        let op = shared.new_op();
        for (member, file) in taken.files {
            member.stage(op, file);
        }
        let digests = taken.digests;
        let decide = move || async move {
            let group = shared.group_of(&at);
            let gate = shared.gate(&at.bucket);
            let _passing = gate.read().await;
            let names = vec![Name::upload(&at, &upload.id)];
            let completing = Arc::clone(&shared.completing);
            let committed = shared.decided(op, group, names, true, move |inner| {
                inner.upload_now(&at, &upload.id)?;
                if completing.has(&upload.id) {
                    return Err(StoreError::Conflict);
                }
                let part = PartInfo {
                    number,
                    len_bytes: digests.len_bytes,
                    etag: ETag::from_md5(&digests.md5),
                    modified: inner.now(),
                    checksum: kept.and_then(|kept| digests.checksum(kept)),
                    crc64nvme: digests.crc64nvme,
                };
                let change = Change::Part {
                    bucket: at.bucket.clone(),
                    key: at.key.clone(),
                    id: upload.id.clone(),
                    part: Box::new(part.clone()),
                };
                Ok((Some(change), part))
            });
            let part = committed.await;
            let is_open = matches!(part, Err(StoreError::Busy(UNDECIDED)));
            if part.is_err() && !is_open {
                shared
                    .all_members()
                    .iter()
                    .for_each(|member| member.unstage(op));
            }
            part
        };
        // Whoever asked may leave: what was staged is a part all the same, or staged no more.
        tokio::spawn(decide())
            .await
            .map_err(|_| StoreError::Stopping)?
    }
}

/// Uploads that are being put together: none takes a part meanwhile.
#[derive(Debug, Default)]
pub struct Completing(Mutex<HashSet<UploadId>>);

impl Completing {
    fn has(&self, id: &UploadId) -> bool {
        let ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.contains(id)
    }

    fn begin(self: &Arc<Self>, id: &UploadId) -> Option<CompletingOne> {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.insert(id.clone()).then(|| CompletingOne {
            all: Arc::clone(self),
            id: id.clone(),
        })
    }
}

struct CompletingOne {
    all: Arc<Completing>,
    id: UploadId,
}

impl Drop for CompletingOne {
    fn drop(&mut self) {
        let mut ids = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.remove(&self.id);
    }
}

/// How long a completion waits for another of the same upload, in steps of 10 ms.
const MAX_WAITS: usize = 6_000;

impl<D: Disk> Shared<D> {
    pub(super) async fn begin_upload(&self, at: &Locator, new: NewUpload) -> Result<UploadInfo> {
        let gate = self.gate(&at.bucket);
        let _passing = gate.read().await;
        self.look_bucket(&at.bucket).await?;
        let group = self.group_of(at);
        let member = self.reader(group).await?;
        let begun = member.inner.now();
        let id = new_id(begun)?;
        let change = Change::Begin {
            bucket: at.bucket.clone(),
            key: at.key.clone(),
            id: id.clone(),
            begun: Box::new(BegunUpload {
                begun_ns: begun.0,
                attrs: new.attrs.clone(),
                checksum: new.checksum,
                owner: new.file_owner,
            }),
        };
        let info = UploadInfo {
            id: id.clone(),
            key: at.key.clone(),
            begun,
            attrs: new.attrs,
            checksum: new.checksum,
            file_owner: new.file_owner,
        };
        let len_bytes = serde_json::to_vec(&change).map_or(0, |bytes| bytes.len());
        crate::brick::attrs::check_record_len(len_bytes)?;
        let names = vec![Name::upload(at, &id)];
        let (op, looks) = (self.new_op(), false);
        self.decided(op, group, names, looks, move |_| {
            Ok((Some(change.clone()), info.clone()))
        })
        .await
    }

    /// Opens an upload on the brick that answers for it. Errors: NoSuchBucket, NoSuchUpload.
    pub(super) async fn open_upload(&self, at: &Locator, id: &UploadId) -> Result<Arc<Upload<D>>> {
        self.look_bucket(&at.bucket).await?;
        let group = self.group_of(at);
        self.read(group, |member| async move {
            let (at, id) = (at.clone(), id.clone());
            off_thread(move || member.inner.upload_now(&at, &id)).await
        })
        .await
    }

    pub(super) async fn abort_upload(&self, at: &Locator, id: &UploadId) -> Result<()> {
        let completing = self.begin_completing(id).await?;
        self.open_upload(at, id).await?;
        let gate = self.gate(&at.bucket);
        let _passing = gate.read().await;
        let (group, names) = (self.group_of(at), vec![Name::upload(at, id)]);
        let (at, id) = (at.clone(), id.clone());
        let ended = self.decided(self.new_op(), group, names, true, move |inner| {
            inner.upload_now(&at, &id)?;
            let change = Change::End {
                bucket: at.bucket.clone(),
                key: at.key.clone(),
                id: id.clone(),
            };
            Ok((Some(change), ()))
        });
        let ended = ended.await;
        drop(completing);
        ended
    }

    async fn begin_completing(&self, id: &UploadId) -> Result<CompletingOne> {
        for _ in 0..MAX_WAITS {
            if let Some(begun) = self.completing.begin(id) {
                return Ok(begun);
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        Err(StoreError::Busy("a completion of this upload"))
    }

    /// Completes an upload: decided from the parts of the brick that answers for it, put together
    /// on every brick in sync, published as any object.
    pub(super) async fn compose(
        &self,
        at: &Locator,
        id: &UploadId,
        claims: &[PartClaim],
        options: ComposeOptions,
    ) -> Result<ObjectInfo> {
        let completing = self.begin_completing(id).await?;
        let upload = match self.open_upload(at, id).await {
            Err(StoreError::NoSuchUpload) => return self.completed_before(at, id).await,
            other => other?,
        };
        let parts: BTreeMap<PartNumber, PartInfo> = upload
            .parts_after(None, usize::MAX)
            .into_iter()
            .map(|part| (part.number, part))
            .collect();
        let composition = compose(upload.info.checksum, &parts, claims, &options)?;
        let op = self.new_op();
        self.join_everywhere(at, id, &composition, op).await?;
        let record = Record {
            crc64nvme: Some(composition.crc64nvme),
            multipart: Some(MultipartTag {
                md5_of_md5s: composition.md5_of_md5s,
                part_count: composition.part_count(),
            }),
            checksum: composition.checksum.clone(),
            attrs: upload.info.attrs.clone(),
            upload_id: Some(id.clone()),
            parts: Parts::of(&composition.parts),
            ..Record::default()
        };
        let put = Put {
            op,
            new: NewObject {
                len_bytes: composition.len_bytes,
                modified_ns: 0,
                record,
                owner: upload.info.file_owner,
                posix: None,
                moved_from: None,
            },
            modified: options.modified,
            upload: Some(id.clone()),
        };
        let done = self.put(at, put, options.precondition).await;
        drop(completing);
        done
    }

    async fn join_everywhere(
        &self,
        at: &Locator,
        id: &UploadId,
        composition: &Composition,
        op: placement::replica::OpId,
    ) -> Result<()> {
        let chosen: Vec<_> = composition
            .parts
            .iter()
            .map(|part| (part.number, part.offset_bytes, part.len_bytes))
            .collect();
        let chosen = Arc::new(chosen);
        let joining = self.in_sync(self.group_of(at)).into_iter().map(|member| {
            let (at, id, chosen) = (at.clone(), id.clone(), Arc::clone(&chosen));
            let len_bytes = composition.len_bytes;
            tokio::task::spawn_blocking(move || {
                let joined = member.inner.upload_now(&at, &id);
                let joined =
                    joined.and_then(|upload| member.inner.join_parts(&upload, &chosen, len_bytes));
                (member, joined)
            })
        });
        let joining: Vec<_> = joining.collect();
        let (mut count, mut failure) = (0, None);
        for joined in joining {
            let (member, joined) = joined.await.map_err(|_| StoreError::Stopping)?;
            match joined {
                Ok(file) => {
                    member.stage(op, file);
                    count += 1;
                }
                Err(error) => failure = Some((member, error)),
            }
        }
        // It could not fetch the whole either.
        if let Some((_, error @ (StoreError::NoSpace | StoreError::QuotaExceeded))) = failure {
            self.all_members()
                .iter()
                .for_each(|member| member.unstage(op));
            return Err(error);
        }
        match failure {
            Some((_, error)) if count == 0 => Err(error),
            Some((member, error)) if is_fault(&error) => {
                self.report(member.id, error);
                Ok(())
            }
            // One that lacks a part fetches the whole.
            _ => Ok(()),
        }
    }

    /// Completing again: the same answer as long as the object stands.
    async fn completed_before(&self, at: &Locator, id: &UploadId) -> Result<ObjectInfo> {
        let group = self.group_of(at);
        let found = self.read(group, |member| async move {
            member.inner.composed_from(at).await
        });
        match found.await {
            Ok((Some(of), info)) if of == *id => Ok(info),
            Ok(_) | Err(StoreError::NoSuchKey | StoreError::NoSuchBucket) => {
                Err(StoreError::NoSuchUpload)
            }
            Err(e) => Err(e),
        }
    }

    pub(super) async fn list_uploads(
        &self,
        bucket: &BucketName,
        query: &UploadsQuery,
    ) -> Result<UploadsPage> {
        self.look_bucket(bucket).await?;
        if query.limit == 0 {
            return Ok(UploadsPage::default());
        }
        let sources = self.sources().await?;
        let members = self.all_members();
        let (bucket, query) = (bucket.clone(), query.clone());
        let grouping = self.grouper();
        off_thread(move || {
            let mut page = FirstUploads::new(&query);
            for member in &members {
                if !sources.contains(&member.id) {
                    continue;
                }
                member.inner.each_upload(&bucket, |info| {
                    let at = Locator::new(bucket.clone(), info.key.clone());
                    if sources[grouping(&at).0 as usize] == member.id {
                        page.offer(info);
                    }
                })?;
            }
            Ok(page.finish())
        })
        .await
    }
}
