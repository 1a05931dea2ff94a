//! Parts on their way into an upload, and uploads on their way to become objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::Inner;
use super::attrs::{MultipartTag, Parts, Record};
use super::commit::Terms;
use super::disk::{Disk, DiskFile};
use super::sink::{Sink, Target, off_thread, require_room};
use super::staged::{Unsealed, Whole};
use super::tree::failed;
use super::upload::{Claim, Stage, Upload};
use crate::compose::{Composition, compose};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ETag, PartNumber, UploadId};
use crate::object::{
    DigestAlgorithm, ExpectedDigest, Locator, ObjectInfo, PartClaim, PartInfo, Timestamp,
    UploadInfo,
};
use crate::volume::{
    ComposeOptions, Durability, PartsPage, StageOptions, StagedPart, UploadsPage, UploadsQuery,
};

/// Bytes on their way to become a part of an upload to a brick.
pub struct BrickPart<D: Disk> {
    inner: Arc<Inner<D>>,
    upload: Arc<Upload<D>>,
    number: PartNumber,
    claim: Claim<D>,
    pub(super) sink: Sink<D>,
}

impl<D: Disk> StagedPart for BrickPart<D> {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.sink.write(chunk).await
    }

    async fn commit(
        self,
        expected: Vec<ExpectedDigest>,
        keep_checksum: Option<DigestAlgorithm>,
    ) -> Result<PartInfo> {
        let Self {
            inner,
            upload,
            number,
            claim,
            sink,
        } = self;
        let keep_checksum = keep_checksum.or(upload.info.checksum.map(|(algorithm, _)| algorithm));
        sink.finish(move |taken| {
            taken.digests.check(&expected)?;
            let in_data = matches!(claim, Claim::Slot(_));
            upload.sync_part(&taken.file, in_data)?;
            let part = PartInfo {
                number,
                len_bytes: taken.digests.len_bytes,
                etag: ETag::from_md5(&taken.digests.md5),
                modified: inner.options.clock.now(),
                checksum: keep_checksum.and_then(|kept| taken.digests.checksum(kept)),
                crc64nvme: taken.digests.crc64nvme,
            };
            let own_file = matches!(claim, Claim::File).then_some(&*taken.file);
            upload.record(&*inner.tree.disk, part.clone(), own_file)?;
            drop(claim);
            Ok(part)
        })
        .await
    }
}

impl<D: Disk> Inner<D> {
    pub(super) async fn open_upload(
        self: &Arc<Self>,
        at: &Locator,
        id: &UploadId,
    ) -> Result<Arc<Upload<D>>> {
        self.look_bucket(&at.bucket).await?;
        let (inner, at, id) = (Arc::clone(self), at.clone(), id.clone());
        off_thread(move || inner.uploads.open(&inner.tree, &at.bucket, &at.key, &id)).await
    }

    pub(super) async fn begin_part(
        self: &Arc<Self>,
        at: &Locator,
        id: &UploadId,
        number: PartNumber,
        options: StageOptions,
    ) -> Result<BrickPart<D>> {
        let upload = self.open_upload(at, id).await?;
        let mut options = options;
        if let Some((algorithm, _)) = upload.info.checksum {
            options.digests = options.digests.with(algorithm);
        }
        let (disk, len_bytes) = (Arc::clone(&self.tree.disk), options.len_bytes.unwrap_or(0));
        off_thread(move || require_room(&*disk, len_bytes)).await?;
        let claim = upload.claim(number, options.len_bytes)?;
        let target = match &claim {
            Claim::Slot(slot) => {
                let (disk, opening) = (Arc::clone(&self.tree.disk), Arc::clone(&upload));
                let file = off_thread(move || opening.open_data(&*disk)).await?;
                Target::At {
                    file,
                    offset_bytes: slot.offset_bytes,
                    claim: Arc::clone(slot) as Arc<dyn Send + Sync>,
                }
            }
            Claim::File => Target::Unnamed {
                staging: Arc::clone(&self.tree.own.staging),
            },
        };
        // Parts are durable in every mode: hours may lie between a part and its completion.
        let sink = Sink::new(Arc::clone(&self.tree.disk), target, options, true)?;
        Ok(BrickPart {
            inner: Arc::clone(self),
            upload,
            number,
            claim,
            sink,
        })
    }

    pub(super) async fn parts_page(
        self: &Arc<Self>,
        at: &Locator,
        id: &UploadId,
        after: Option<PartNumber>,
        limit: usize,
    ) -> Result<PartsPage> {
        let upload = self.open_upload(at, id).await?;
        let mut parts = upload.parts_after(after, limit.saturating_add(1));
        let truncated = limit > 0 && parts.len() > limit;
        parts.truncate(limit);
        Ok(PartsPage {
            upload: upload.info.clone(),
            parts,
            truncated,
        })
    }

    /// Completes an upload:
    ///
    /// 1. what it becomes is decided from the parts' records;
    /// 2. the file is made whole: `data` itself where the parts are its beginning, else a new
    ///    file to which they are copied; its record names the upload; it is synced;
    /// 3. in the committer's turn the precondition is decided and the file gets its name;
    /// 4. `data` loses its own name, and the upload's other files go.
    pub(super) async fn complete_upload(
        self: &Arc<Self>,
        at: &Locator,
        id: &UploadId,
        claims: &[PartClaim],
        options: ComposeOptions,
    ) -> Result<ObjectInfo> {
        let (upload, parts) = loop {
            let upload = match self.open_upload(at, id).await {
                Err(StoreError::NoSuchUpload) => return self.completed_before(at, id).await,
                other => other?,
            };
            match upload.begin_completing() {
                Ok(parts) => break (upload, parts),
                // The same request again, before the first was answered.
                Err(Stage::Completing) => upload.no_longer_completing().await?,
                Err(Stage::Open | Stage::Ended) => {}
            }
        };
        let reopening = Reopen(Some(Arc::clone(&upload)));
        let composition = compose(upload.info.checksum, &parts, claims, &options)?;
        let durable = self.buckets.durability(&at.bucket) == Durability::Strict;
        let (inner, source, wanted) = (Arc::clone(self), Arc::clone(&upload), id.clone());
        let target = at.clone();
        let modified = options.modified;
        let modified = modified.unwrap_or_else(|| self.options.clock.now());
        // The guard goes along: a caller that leaves must not reopen it under the copying.
        let (reopening, whole) = off_thread(move || {
            match inner.make_composed(&target, &source, &wanted, &composition, modified) {
                Ok(whole) => Ok((reopening, whole)),
                // Its files are gone, with its bucket.
                Err(_) if source.has_ended() => Err(StoreError::NoSuchUpload),
                Err(e) => Err(e),
            }
        })
        .await?;
        let terms = Terms {
            durable,
            file: None,
            keys: vec![(at.bucket.clone(), at.key.clone())],
            removes: false,
        };
        let (inner, place, id) = (Arc::clone(self), at.clone(), id.clone());
        self.committer
            .submit(terms, move |turn| {
                // Whether the caller still waits or not, the upload ends or goes on here.
                let mut reopening = reopening;
                if upload.has_ended() {
                    return Err(StoreError::NoSuchUpload);
                }
                inner.check_write(&place, &options.precondition)?;
                let (uploads, tree) = (&inner.uploads, &inner.tree);
                let (mut unsettled, published) = (None, Arc::clone(&whole.file));
                let info = inner.publish(turn, &place, whole, &options.precondition, |turn| {
                    reopening.0 = None;
                    upload.end_for_good();
                    // A crash may leave it so, or bring back the name that it is about to lose.
                    inner.say_ours(&published);
                    // The object first, durably: else a crash could leave neither.
                    unsettled = turn.settle().err();
                    // Before anyone learns of the object: `data` must have no name but its key.
                    let leave = || {
                        uploads.leave(&id);
                        // The next start sweeps it, which moves the object's ctime.
                        inner.log.keep(&place.bucket, &place.key);
                    };
                    if unsettled.is_some() {
                        return leave();
                    }
                    // That `data` loses its other name moves its ctime, and is not synced.
                    inner.log.bind();
                    if let Err(e) = uploads.remove(tree, &place.bucket, &id) {
                        leave();
                        tracing::warn!(%id, "a completed upload's files stay until restart: {e}");
                    }
                });
                match unsettled {
                    Some(e) => Err(e),
                    None => info,
                }
            })
            .await
    }

    /// Completing again: the same answer as long as the object stands.
    async fn completed_before(self: &Arc<Self>, at: &Locator, id: &UploadId) -> Result<ObjectInfo> {
        let info = match self.look(at).await {
            Ok(looked) if looked.record.upload_id.as_ref() == Some(id) => looked.info,
            Ok(_) | Err(StoreError::NoSuchKey) => return Err(StoreError::NoSuchUpload),
            Err(e) => return Err(e),
        };
        // It has its name, but maybe not durably yet: a group later it has.
        let terms = Terms {
            durable: self.buckets.durability(&at.bucket) == Durability::Strict,
            ..Terms::to_look()
        };
        self.committer.submit(terms, |_| Ok(())).await?;
        Ok(info)
    }

    fn make_composed(
        &self,
        at: &Locator,
        upload: &Upload<D>,
        id: &UploadId,
        composition: &Composition,
        modified: Timestamp,
    ) -> Result<Whole<D>> {
        let disk = &*self.tree.disk;
        let chosen: Vec<_> = composition
            .parts
            .iter()
            .map(|part| (part.number, part.len_bytes))
            .collect();
        let is_data = upload.is_data(&chosen);
        let file = if is_data {
            upload
                .data
                .set_len(composition.len_bytes)
                .map_err(failed("cut an upload"))?;
            Arc::clone(&upload.data)
        } else {
            require_room(disk, composition.len_bytes)?;
            let fail = failed("copy a part");
            let file = disk.create_unnamed(&self.tree.own.staging).map_err(&fail)?;
            for part in &composition.parts {
                let (source, from) = upload.open_part(disk, part.number)?;
                let copied = file
                    .copy_from(&source, from, part.offset_bytes, part.len_bytes)
                    .map_err(&fail)?;
                if copied != part.len_bytes {
                    return Err(StoreError::InvalidPart {
                        number: part.number.get(),
                    });
                }
            }
            Arc::new(file)
        };
        file.set_modified(modified.0)
            .map_err(failed("set a file's time"))?;
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
        let unsealed = Unsealed {
            file,
            record,
            len_bytes: composition.len_bytes,
            owner: upload.info.file_owner,
        };
        self.seal(at, unsealed, true, true)
    }

    pub(super) async fn end_upload(self: &Arc<Self>, at: &Locator, id: &UploadId) -> Result<()> {
        loop {
            let upload = self.open_upload(at, id).await?;
            match upload.end() {
                Stage::Open => break,
                Stage::Completing => upload.no_longer_completing().await?,
                Stage::Ended => return Err(StoreError::NoSuchUpload),
            }
        }
        let (inner, bucket, id) = (Arc::clone(self), at.bucket.clone(), id.clone());
        off_thread(move || inner.uploads.remove(&inner.tree, &bucket, &id)).await
    }

    pub(super) async fn uploads_page(
        self: &Arc<Self>,
        bucket: &BucketName,
        query: &UploadsQuery,
    ) -> Result<UploadsPage> {
        self.look_bucket(bucket).await?;
        if query.limit == 0 {
            return Ok(UploadsPage::default());
        }
        let (inner, bucket, query) = (Arc::clone(self), bucket.clone(), query.clone());
        off_thread(move || {
            let mut page = FirstUploads::new(&query);
            inner
                .uploads
                .each(&inner.tree, &bucket, |info| page.offer(info))?;
            Ok(page.finish())
        })
        .await
    }
}

/// Lets parts be added again where the completion did not come about.
struct Reopen<D: Disk>(Option<Arc<Upload<D>>>);

impl<D: Disk> Drop for Reopen<D> {
    fn drop(&mut self) {
        if let Some(upload) = &self.0 {
            upload.reopen();
        }
    }
}

/// The first entries of a listing of uploads, from uploads in any order.
pub(crate) struct FirstUploads<'a> {
    query: &'a UploadsQuery,
    /// By key and id, or by common prefix and nothing.
    entries: BTreeMap<(String, String), Option<UploadInfo>>,
    truncated: bool,
}

impl<'a> FirstUploads<'a> {
    pub(crate) fn new(query: &'a UploadsQuery) -> Self {
        Self {
            query,
            entries: BTreeMap::new(),
            truncated: false,
        }
    }

    fn is_after(&self, key: &str, id: &str) -> bool {
        let Some(after) = self.query.after_key.as_deref() else {
            return true;
        };
        match &self.query.after_id {
            Some(after_id) if key == after => id > after_id.as_str(),
            _ => key > after,
        }
    }

    pub(crate) fn offer(&mut self, info: UploadInfo) {
        let (key, id) = (info.key.as_str(), info.id.as_str());
        let Some(rest) = key.strip_prefix(self.query.prefix.as_str()) else {
            return;
        };
        let rolled = self.query.delimiter.as_deref().and_then(|delimiter| {
            let end = rest.find(delimiter)? + delimiter.len();
            Some(format!("{}{}", self.query.prefix, &rest[..end]))
        });
        let entry = match rolled {
            Some(prefix) => {
                if self
                    .query
                    .after_key
                    .as_ref()
                    .is_some_and(|after| prefix <= *after)
                {
                    return;
                }
                ((prefix, String::new()), None)
            }
            None if self.is_after(key, id) => ((key.to_owned(), id.to_owned()), Some(info.clone())),
            None => return,
        };
        self.entries.insert(entry.0, entry.1);
        if self.entries.len() > self.query.limit {
            self.entries.pop_last();
            self.truncated = true;
        }
    }

    pub(crate) fn finish(self) -> UploadsPage {
        let mut page = UploadsPage {
            truncated: self.truncated,
            ..UploadsPage::default()
        };
        for ((prefix, _), upload) in self.entries {
            match upload {
                Some(upload) => page.uploads.push(upload),
                None => page.prefixes.push(prefix),
            }
        }
        page
    }
}
