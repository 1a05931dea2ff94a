//! Multipart uploads under way: `.portico/uploads/<bucket>/<upload id>/` holds
//!
//! - `upload`      what was said when it was begun (JSON), as in a brick;
//! - `part-00001`  each part, with its digests in its record; the last one renamed there counts.
//!
//! An upload is begun on one gateway, its parts are sent to any, and any completes it: what the
//! directory holds is all there is. It is begun by moving a whole directory there, and over when
//! `upload` is gone. A part's bytes and record are durable before it has its name.

use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;

use super::Inner;
use super::claim::Uploads;
use super::disk::{Dir, SharedDisk, is_gone, is_not_empty};
use super::staged::{Seal, Slot};
use crate::brick::attrs::Record;
use crate::brick::disk::{Disk, DiskFile, FileKind};
use crate::brick::look::claims_digests;
use crate::brick::multipart::FirstUploads;
use crate::brick::owner::OWN_DIR_MODE;
use crate::brick::sink::{Sink, off_thread};
use crate::brick::tree::{absent_is_none, failed, is_absent};
use crate::brick::uploads::{INFO, encode_info, load_info, new_id};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ETag, PartNumber, UploadId};
use crate::object::{DigestAlgorithm, ExpectedDigest, Locator, PartInfo, Timestamp, UploadInfo};
use crate::volume::{NewUpload, PartsPage, StageOptions, StagedPart, UploadsPage, UploadsQuery};

/// Most rounds with a removal of the bucket's uploads.
const MAX_ROUNDS: usize = 16;
const PART: &str = "part-";

/// Bytes on their way to become a part.
pub struct SharedPart {
    inner: Arc<Inner>,
    at: Locator,
    upload: UploadInfo,
    number: PartNumber,
    slot: Slot,
    pub(super) sink: Sink<SharedDisk>,
}

/// An upload that stands.
pub(super) struct Opened {
    pub(super) info: UploadInfo,
    pub(super) dir: Dir,
}

pub(super) fn name_of(number: PartNumber) -> String {
    format!("{PART}{:05}", number.get())
}

fn number_of(name: &str) -> Option<PartNumber> {
    PartNumber::new(name.strip_prefix(PART)?.parse().ok()?).ok()
}

impl Inner {
    /// Begins an upload. Durable.
    pub(super) fn begin(&self, at: &Locator, new: NewUpload) -> Result<UploadInfo> {
        let fail = failed("begin an upload");
        self.tree.bucket_dir(&at.bucket)?;
        self.require_room(0)?;
        let now = Timestamp(self.now_ns());
        let id = new_id(now)?;
        let bytes = encode_info(&at.key, &new, now)?;
        let stage = self.claims.stage()?;
        let disk = &self.tree.disk;
        let file = disk.open_own(stage.dir(), INFO, true).map_err(&fail)?;
        file.write_at(0, &bytes).map_err(&fail)?;
        file.sync().map_err(&fail)?;
        self.sync_dir(stage.dir(), true)?;
        let dir = self.uploads_dir(&at.bucket)?;
        stage
            .move_to(&dir, id.as_str())
            .map_err(|e| match is_absent(&e) {
                true => StoreError::Conflict,
                false => fail(e),
            })?;
        self.sync_dir(&dir, true)?;
        // A removal of the bucket may have taken the directory away with it meanwhile.
        if let Err(e) = self.open_upload(at, &id) {
            let _ = self.remove_upload(&at.bucket, id.as_str());
            return Err(match e {
                StoreError::NoSuchUpload => StoreError::Conflict,
                other => other,
            });
        }
        Ok(UploadInfo {
            id,
            key: at.key.clone(),
            begun: now,
            attrs: new.attrs,
            checksum: new.checksum,
            file_owner: new.file_owner,
        })
    }

    fn uploads_dir(&self, bucket: &BucketName) -> Result<Dir> {
        let fail = failed("make a directory for uploads");
        let (disk, uploads) = (&self.tree.disk, &self.tree.own.uploads);
        for _ in 0..MAX_ROUNDS {
            match disk.open_dir(uploads, bucket.as_str()) {
                Err(e) if is_absent(&e) => {}
                other => return other.map_err(fail),
            }
            match disk.make_dir(uploads, bucket.as_str(), OWN_DIR_MODE) {
                Ok(()) => self.sync_dir(uploads, true)?,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(fail(e)),
            }
        }
        Err(StoreError::Conflict)
    }

    /// Opens an upload of this bucket and key. Errors: NoSuchBucket, NoSuchUpload.
    pub(super) fn open_upload(&self, at: &Locator, id: &UploadId) -> Result<Opened> {
        self.tree.bucket_dir(&at.bucket)?;
        let (disk, uploads) = (&self.tree.disk, &self.tree.own.uploads);
        let path = format!("{}/{id}", at.bucket);
        let dir = absent_is_none(disk.open_dir(uploads, &path))
            .map_err(failed("open an upload"))?
            .ok_or(StoreError::NoSuchUpload)?;
        match load_info(&**disk, &dir, id.clone())? {
            Some(info) if info.key == at.key => Ok(Opened { info, dir }),
            _ => Err(StoreError::NoSuchUpload),
        }
    }

    pub(super) async fn begin_part(
        self: &Arc<Self>,
        at: &Locator,
        id: &UploadId,
        number: PartNumber,
        mut options: StageOptions,
    ) -> Result<SharedPart> {
        let (inner, at, id) = (Arc::clone(self), at.clone(), id.clone());
        off_thread(move || {
            let upload = inner.open_upload(&at, &id)?.info;
            if let Some((algorithm, _)) = upload.checksum {
                options.digests = options.digests.with(algorithm);
            }
            let (slot, file) = inner.open_slot(options.len_bytes)?;
            // Parts are durable in every mode: hours may lie between a part and its completion.
            let sink = inner.sink_into(file, options, true)?;
            Ok(SharedPart {
                inner,
                at,
                upload,
                number,
                slot,
                sink,
            })
        })
        .await
    }

    /// A part as it stands; none where it went while it was looked at.
    fn part_in(&self, dir: &Dir, number: PartNumber) -> Result<Option<PartInfo>> {
        let disk = &self.tree.disk;
        let file = match disk.open(dir, &name_of(number)) {
            Ok(file) => file,
            Err(e) if is_absent(&e) => return Ok(None),
            Err(e) => return Err(StoreError::from_io("look at a part", e)),
        };
        let facts = Self::facts_of(&file)?;
        let record = self.tree.records.load(&file, &facts)?.unwrap_or_default();
        let (Some(md5), Some(crc64nvme)) = (record.md5, record.crc64nvme) else {
            return Err(StoreError::Corrupt(format!("part {}", number.get())));
        };
        if !claims_digests(&record, &facts) {
            return Err(StoreError::Corrupt(format!("part {}", number.get())));
        }
        Ok(Some(PartInfo {
            number,
            len_bytes: facts.len_bytes,
            etag: ETag::from_md5(&md5),
            modified: Timestamp(facts.mtime_ns),
            checksum: record.checksum,
            crc64nvme,
        }))
    }

    /// The parts of an upload, by number, after `after`, at most `limit`.
    pub(super) fn parts_in(
        &self,
        dir: &Dir,
        after: Option<PartNumber>,
        limit: usize,
    ) -> Result<Vec<PartInfo>> {
        let mut numbers = Vec::new();
        self.tree
            .disk
            .read_dir(dir, &mut |entry| {
                numbers.extend(number_of(&entry.name));
                true
            })
            .map_err(failed("list parts"))?;
        numbers.sort_unstable();
        let mut parts = Vec::new();
        for number in numbers {
            if parts.len() == limit {
                break;
            }
            if after.is_none_or(|after| number > after) {
                parts.extend(self.part_in(dir, number)?);
            }
        }
        Ok(parts)
    }

    pub(super) fn parts_page(
        &self,
        at: &Locator,
        id: &UploadId,
        after: Option<PartNumber>,
        limit: usize,
    ) -> Result<PartsPage> {
        let Opened { info, dir } = self.open_upload(at, id)?;
        let mut parts = self.parts_in(&dir, after, limit.saturating_add(1))?;
        let truncated = limit > 0 && parts.len() > limit;
        parts.truncate(limit);
        Ok(PartsPage {
            upload: info,
            parts,
            truncated,
        })
    }

    pub(super) fn uploads_page(
        &self,
        bucket: &BucketName,
        query: &UploadsQuery,
    ) -> Result<UploadsPage> {
        self.tree.bucket_dir(bucket)?;
        if query.limit == 0 {
            return Ok(UploadsPage::default());
        }
        let mut page = FirstUploads::new(query);
        for id in self.upload_ids(bucket)? {
            let (disk, uploads) = (&self.tree.disk, &self.tree.own.uploads);
            let dir = match disk.open_dir(uploads, &format!("{bucket}/{id}")) {
                Ok(dir) => dir,
                Err(e) if is_absent(&e) => continue,
                Err(e) => return Err(StoreError::from_io("list uploads", e)),
            };
            if let Some(info) = load_info(&**disk, &dir, id)? {
                page.offer(info);
            }
        }
        Ok(page.finish())
    }

    pub(super) fn upload_ids(&self, bucket: &BucketName) -> Result<Vec<UploadId>> {
        let fail = failed("list uploads");
        let (disk, uploads) = (&self.tree.disk, &self.tree.own.uploads);
        let mut ids = Vec::new();
        if let Some(dir) = absent_is_none(disk.open_dir(uploads, bucket.as_str())).map_err(&fail)? {
            disk.read_dir(&dir, &mut |entry| {
                if matches!(entry.kind, None | Some(FileKind::Dir)) {
                    ids.extend(UploadId::parse(&entry.name));
                }
                true
            })
            .map_err(fail)?;
        }
        Ok(ids)
    }

    /// Removes an upload's files: first what makes it an upload.
    pub(super) fn remove_upload(&self, bucket: &BucketName, name: &str) -> Result<()> {
        let fail = failed("remove an upload");
        let (disk, uploads) = (&self.tree.disk, &self.tree.own.uploads);
        let parent = match absent_is_none(disk.open_dir(uploads, bucket.as_str())) {
            Ok(Some(parent)) => parent,
            Ok(None) => return Ok(()),
            Err(e) => return Err(fail(e)),
        };
        for _ in 0..MAX_ROUNDS {
            let dir = match absent_is_none(disk.open_dir(&parent, name)).map_err(&fail)? {
                Some(dir) => dir,
                None => return Ok(()),
            };
            if absent_is_none(disk.unlink(&dir, INFO))
                .map_err(&fail)?
                .is_some()
            {
                self.sync_dir(&dir, true)?;
            }
            remove_all(disk, &dir).map_err(&fail)?;
            match disk.remove_dir(&parent, name) {
                Ok(()) => return Ok(()),
                Err(e) if is_absent(&e) || is_gone(&e) => return Ok(()),
                // A part that was just being renamed there.
                Err(e) if is_not_empty(&e) => {}
                Err(e) => return Err(fail(e)),
            }
        }
        Err(StoreError::Conflict)
    }

    /// Takes away what makes an upload one, durably.
    pub(super) fn behead_upload(&self, bucket: &BucketName, id: &UploadId) -> Result<()> {
        let fail = failed("end an upload");
        let (disk, uploads) = (&self.tree.disk, &self.tree.own.uploads);
        let opened = absent_is_none(disk.open_dir(uploads, &format!("{bucket}/{id}")));
        let Some(dir) = opened.map_err(&fail)? else {
            return Ok(());
        };
        absent_is_none(disk.unlink(&dir, INFO)).map_err(fail)?;
        self.sync_dir(&dir, true)
    }

    /// Ends an upload, by whoever has its claim.
    pub(super) fn abort(&self, at: &Locator, id: &UploadId) -> Result<()> {
        self.open_upload(at, id)?;
        self.remove_upload(&at.bucket, id.as_str())
    }

    fn record_part(
        &self,
        at: &Locator,
        upload: &UploadInfo,
        number: PartNumber,
        slot: &Slot,
    ) -> Result<()> {
        let opened = self.open_upload(at, &upload.id)?;
        let placed = slot.stage.place(&slot.entry, &opened.dir, &name_of(number));
        match placed {
            Err(e) if is_absent(&e) || is_gone(&e) => {
                // The upload ended; or what was staged was swept, for this gateway slept: then the
                // part is to be sent again.
                self.open_upload(at, &upload.id)?;
                return Err(StoreError::Conflict);
            }
            other => other.map_err(failed("record a part"))?,
        }
        self.sync_dir(&opened.dir, true)?;
        // Ended between the look and the rename: then the part went with it, or goes now.
        if let Err(e) = self.open_upload(at, &upload.id) {
            let _ = self.tree.disk.unlink(&opened.dir, &name_of(number));
            return Err(e);
        }
        Ok(())
    }
}

impl Uploads for Inner {
    fn end_if_published(&self, bucket: &BucketName, id: &UploadId) -> Result<()> {
        let (disk, uploads) = (&self.tree.disk, &self.tree.own.uploads);
        let opened = absent_is_none(disk.open_dir(uploads, &format!("{bucket}/{id}")));
        let Some(dir) = opened.map_err(failed("end an upload"))? else {
            return Ok(());
        };
        let Some(info) = load_info(&**disk, &dir, id.clone())? else {
            return Ok(());
        };
        match self.became(bucket, info)? {
            true => self.behead_upload(bucket, id),
            false => Ok(()),
        }
    }
}

fn remove_all(disk: &SharedDisk, dir: &Dir) -> std::io::Result<()> {
    let mut names = Vec::new();
    disk.read_dir(dir, &mut |entry| {
        names.push(entry.name);
        true
    })?;
    for name in names {
        absent_is_none(disk.unlink(dir, &name))?;
    }
    Ok(())
}

impl StagedPart for SharedPart {
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
            at,
            upload,
            number,
            slot,
            sink,
        } = self;
        let keep_checksum = keep_checksum.or(upload.checksum.map(|(algorithm, _)| algorithm));
        sink.finish(move |taken| {
            taken.digests.check(&expected)?;
            let known = taken.digests.known();
            let record = Record {
                md5: known.md5,
                crc64nvme: known.crc64nvme,
                checksum: keep_checksum.and_then(|kept| taken.digests.checksum(kept)),
                ..Record::default()
            };
            let seal = Seal {
                record,
                len_bytes: taken.digests.len_bytes,
                modified_ns: inner.now_ns(),
            };
            let whole = inner.seal_own(&taken.file, seal, true)?;
            let part = PartInfo {
                number,
                len_bytes: whole.facts.len_bytes,
                etag: ETag::from_md5(&taken.digests.md5),
                modified: Timestamp(whole.facts.mtime_ns),
                checksum: whole.record.checksum,
                crc64nvme: taken.digests.crc64nvme,
            };
            inner.record_part(&at, &upload, number, &slot)?;
            Ok(part)
        })
        .await
    }
}
