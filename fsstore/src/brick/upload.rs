//! Multipart uploads under way: `.portico/uploads/<bucket>/<upload id>/` holds
//!
//! - `upload`   what was said when it was begun (JSON);
//! - `data`     the parts that have a slot, each at (number − 1) × slot length: when the parts
//!   are of one length this file is the object, and completing moves no byte;
//! - `part-…`   parts that could not take their slot (another length, or uploaded again);
//! - `parts`    one JSON line a finished part, the last line of a number counts.
//!
//! A part's bytes are durable before its line, the line before the answer. A part uploaded again
//! never touches the bytes of the one it replaces. An upload whose `data` has a second name was
//! published before a crash: the start removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::disk::{Disk, DiskFile};
use super::tree::{failed, is_absent};
use crate::error::{Result, StoreError};
use crate::name::{ETag, PartNumber};
use crate::object::{Checksum, PartInfo, Timestamp, UploadInfo};
use crate::volume::{MAX_OBJECT_LEN_BYTES, MIN_PART_LEN_BYTES};

/// Longest `parts` file that is read, in bytes: far beyond 10,000 parts uploaded many times.
const MAX_LOG_LEN_BYTES: usize = 256 << 20;

/// How long a request waits for the completion that another one began.
const COMPLETION_PATIENCE: Duration = Duration::from_secs(60);

/// The file with the slots.
pub(super) const DATA: &str = "data";
/// The file with a line a part.
pub(super) const PARTS: &str = "parts";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartLine {
    n: u16,
    len: u64,
    md5: String,
    crc64: u64,
    at_ns: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<Checksum>,
    /// Length of a slot, where the part is in its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<u64>,
    /// Its file, where it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

/// Where a part's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartPlace {
    /// In `data`, at its slot.
    Slot,
    /// In a file of its own.
    File(String),
}

/// How far an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// Parts may be added.
    #[default]
    Open,
    /// A completion is under way: it ends the upload, or is refused and leaves it open.
    Completing,
    /// Completed or aborted.
    Ended,
}

#[derive(Default)]
struct Parts {
    slot_len_bytes: Option<u64>,
    filling: BTreeSet<PartNumber>,
    done: BTreeMap<PartNumber, (PartInfo, PartPlace)>,
    log_len_bytes: u64,
    next_file: u64,
    stage: Stage,
    /// A sync of `data` failed: what was written to it meanwhile is lost, whoever wrote it.
    data_failed: bool,
}

/// One upload under way.
pub struct Upload<D: Disk> {
    /// What was said when it was begun.
    pub info: UploadInfo,
    dir: Arc<D::Dir>,
    /// The file with the slots.
    pub data: Arc<D::File>,
    log: D::File,
    parts: Mutex<Parts>,
    /// Told when a completion is over.
    completed: Notify,
}

/// Where a new part's bytes are to go. Dropping it, everywhere it is held, gives the slot back.
pub enum Claim<D: Disk> {
    /// To the part's slot in `data`.
    Slot(Arc<SlotClaim<D>>),
    /// To a file of their own.
    File,
}

/// See [`Claim`].
pub struct SlotClaim<D: Disk> {
    upload: Arc<Upload<D>>,
    number: PartNumber,
    /// Where the slot begins, in bytes.
    pub offset_bytes: u64,
}

impl<D: Disk> Drop for SlotClaim<D> {
    fn drop(&mut self) {
        self.upload.lock().filling.remove(&self.number);
    }
}

impl<D: Disk> Upload<D> {
    /// Opens an upload in its directory, with the parts finished so far.
    pub(super) fn open(disk: &D, dir: Arc<D::Dir>, info: UploadInfo) -> Result<Self> {
        let open = |name| match disk.open_own(&dir, name, false) {
            Err(e) if is_absent(&e) => Err(StoreError::NoSuchUpload),
            other => other.map_err(failed("open an upload")),
        };
        let (data, log) = (Arc::new(open(DATA)?), open(PARTS)?);
        let text = log
            .read_at(0, MAX_LOG_LEN_BYTES)
            .map_err(failed("read an upload's parts"))?;
        Ok(Self {
            info,
            dir,
            data,
            log,
            parts: Mutex::new(read_lines(&text)),
            completed: Notify::new(),
        })
    }

    /// Whether it was completed or aborted.
    pub(super) fn has_ended(&self) -> bool {
        self.lock().stage == Stage::Ended
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses where a part goes. Only a part whose length is known beforehand can take a slot;
    /// the first of at least 5 MiB sets the slots' length.
    pub fn claim(self: &Arc<Self>, number: PartNumber, len_bytes: Option<u64>) -> Result<Claim<D>> {
        let mut parts = self.lock();
        parts.require_open()?;
        let Some(len_bytes) = len_bytes else {
            return Ok(Claim::File);
        };
        if parts.slot_len_bytes.is_none() && len_bytes >= MIN_PART_LEN_BYTES {
            parts.slot_len_bytes = Some(len_bytes);
        }
        let Some(slot_len_bytes) = parts.slot_len_bytes else {
            return Ok(Claim::File);
        };
        let offset_bytes = u64::from(number.get() - 1).saturating_mul(slot_len_bytes);
        let is_free = !parts.filling.contains(&number)
            && !matches!(parts.done.get(&number), Some((_, PartPlace::Slot)));
        if len_bytes > slot_len_bytes
            || !is_free
            || parts.data_failed
            || offset_bytes.saturating_add(len_bytes) > MAX_OBJECT_LEN_BYTES
        {
            return Ok(Claim::File);
        }
        parts.filling.insert(number);
        Ok(Claim::Slot(Arc::new(SlotClaim {
            upload: Arc::clone(self),
            number,
            offset_bytes,
        })))
    }

    /// Records a part whose bytes are durable. Durable on return. Errors: NoSuchUpload where
    /// the upload ended meanwhile, Conflict where it is being completed.
    pub fn record(&self, disk: &D, part: PartInfo, own_file: Option<&D::File>) -> Result<()> {
        let fail = failed("record a part");
        let mut parts = self.lock();
        parts.require_open()?;
        let stays = parts.done.get(&part.number).is_some_and(|(old, place)| {
            // The same bytes again: those in the slot may stay.
            *place == PartPlace::Slot && same_bytes(old, &part)
        });
        let place = match own_file {
            Some(file) if !stays => {
                let name = self.name_part(disk, &mut parts, part.number, file)?;
                PartPlace::File(name)
            }
            None if parts.data_failed => {
                return Err(StoreError::Io {
                    action: "make a part durable",
                    source: std::io::Error::other("another part's sync failed"),
                });
            }
            _ => PartPlace::Slot,
        };
        let line = line_of(&part, &place, parts.slot_len_bytes)?;
        self.log
            .write_at(parts.log_len_bytes, line.as_bytes())
            .map_err(&fail)?;
        self.log.sync().map_err(&fail)?;
        parts.log_len_bytes += line.len() as u64;
        parts.filling.remove(&part.number);
        let old = parts.done.insert(part.number, (part, place));
        if let Some((_, PartPlace::File(name))) = old {
            // Bytes nobody can name any more; what stays goes with the upload.
            let _ = disk.unlink(&self.dir, &name);
        }
        Ok(())
    }

    /// Gives a part's file a name that no crash has left there. Durable on return.
    fn name_part(
        &self,
        disk: &D,
        parts: &mut Parts,
        number: PartNumber,
        file: &D::File,
    ) -> Result<String> {
        let fail = failed("record a part");
        loop {
            let name = format!("part-{}-{}", number.get(), parts.next_file);
            parts.next_file += 1;
            match disk.link(file, &self.dir, &name) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => {
                    other.map_err(&fail)?;
                    disk.sync_dir(&self.dir).map_err(fail)?;
                    return Ok(name);
                }
            }
        }
    }

    /// Opens the file with the slots by a descriptor of a part's own: the kernel tells each
    /// descriptor once of a failed write, so what one part's sync is told is told to the others.
    pub fn open_data(&self, disk: &D) -> Result<Arc<D::File>> {
        let data = disk.open_own(&self.dir, DATA, false);
        data.map(Arc::new).map_err(failed("open an upload's slots"))
    }

    /// Makes a part's bytes durable. Where that fails in `data`, no part that is not yet
    /// recorded may count on it any more.
    pub fn sync_part(&self, file: &D::File, in_data: bool) -> Result<()> {
        file.sync().map_err(|e| {
            if in_data {
                self.lock().data_failed = true;
            }
            StoreError::from_io("make a part durable", e)
        })
    }

    /// The parts finished so far, after `after`, at most `limit`.
    pub fn parts_after(&self, after: Option<PartNumber>, limit: usize) -> Vec<PartInfo> {
        let parts = self.lock();
        let after = after.map_or(0, PartNumber::get);
        let later = parts.done.iter().filter(|(number, _)| number.get() > after);
        later
            .take(limit)
            .map(|(_, (part, _))| part.clone())
            .collect()
    }

    /// Whether these parts, in this order, are `data` from its beginning, and `data` has no
    /// other part's bytes, recorded or on their way.
    pub fn is_data(&self, chosen: &[(PartNumber, u64)]) -> bool {
        let parts = self.lock();
        let Some(slot) = parts.slot_len_bytes else {
            return false;
        };
        let in_slots = parts
            .done
            .values()
            .filter(|(_, place)| *place == PartPlace::Slot);
        if parts.data_failed || !parts.filling.is_empty() || in_slots.count() > chosen.len() {
            return false;
        }
        chosen.iter().enumerate().all(|(i, (number, len_bytes))| {
            usize::from(number.get()) == i + 1
                && matches!(parts.done.get(number), Some((_, PartPlace::Slot)))
                && (*len_bytes == slot || i + 1 == chosen.len())
        })
    }

    /// Opens a part's bytes: the file and where in it they begin.
    pub fn open_part(&self, disk: &D, number: PartNumber) -> Result<(Arc<D::File>, u64)> {
        let parts = self.lock();
        match parts.done.get(&number) {
            Some((_, PartPlace::Slot)) => {
                let slot = parts.slot_len_bytes.unwrap_or(0);
                Ok((Arc::clone(&self.data), u64::from(number.get() - 1) * slot))
            }
            Some((_, PartPlace::File(name))) => {
                let file = disk
                    .open_own(&self.dir, name, false)
                    .map_err(failed("open a part"))?;
                Ok((Arc::new(file), 0))
            }
            None => Err(StoreError::InvalidPart {
                number: number.get(),
            }),
        }
    }

    /// Lets no part be added any more, unless it is being completed; gives the stage before.
    pub fn end(&self) -> Stage {
        let mut parts = self.lock();
        let before = parts.stage;
        if before == Stage::Open {
            parts.stage = Stage::Ended;
        }
        before
    }

    /// Ends it, whatever is under way.
    pub fn end_for_good(&self) {
        self.move_on(|_| Stage::Ended);
    }

    /// Begins to complete it: no part may be added meanwhile. Gives all its parts, at one instant;
    /// the stage where it is not open.
    pub fn begin_completing(&self) -> std::result::Result<BTreeMap<PartNumber, PartInfo>, Stage> {
        let mut parts = self.lock();
        if parts.stage != Stage::Open {
            return Err(parts.stage);
        }
        parts.stage = Stage::Completing;
        let done = parts.done.iter();
        Ok(done
            .map(|(number, (part, _))| (*number, part.clone()))
            .collect())
    }

    /// Opens it again, where the completion was refused.
    pub fn reopen(&self) {
        self.move_on(|stage| match stage {
            Stage::Completing => Stage::Open,
            other => other,
        });
    }

    fn move_on(&self, to: impl FnOnce(Stage) -> Stage) {
        let mut parts = self.lock();
        parts.stage = to(parts.stage);
        drop(parts);
        self.completed.notify_waiters();
    }

    /// Waits until no completion is under way. Errors: Busy after a minute.
    pub async fn no_longer_completing(&self) -> Result<()> {
        let over = async {
            loop {
                let told = self.completed.notified();
                if self.lock().stage != Stage::Completing {
                    return;
                }
                told.await;
            }
        };
        let waited = tokio::time::timeout(COMPLETION_PATIENCE, over).await;
        waited.map_err(|_| StoreError::Busy("a completion of this upload"))
    }
}

impl Parts {
    fn require_open(&self) -> Result<()> {
        match self.stage {
            Stage::Open => Ok(()),
            Stage::Completing => Err(StoreError::Conflict),
            Stage::Ended => Err(StoreError::NoSuchUpload),
        }
    }
}

fn same_bytes(old: &PartInfo, new: &PartInfo) -> bool {
    (old.len_bytes, &old.etag, old.crc64nvme) == (new.len_bytes, &new.etag, new.crc64nvme)
}

fn line_of(part: &PartInfo, place: &PartPlace, slot: Option<u64>) -> Result<String> {
    let (slot, file) = match place {
        PartPlace::Slot => (slot, None),
        PartPlace::File(name) => (None, Some(name.clone())),
    };
    let line = PartLine {
        n: part.number.get(),
        len: part.len_bytes,
        md5: part.etag.as_str().to_owned(),
        crc64: part.crc64nvme,
        at_ns: part.modified.0,
        checksum: part.checksum.clone(),
        slot,
        file,
    };
    let mut text = serde_json::to_string(&line).map_err(|e| StoreError::Corrupt(e.to_string()))?;
    text.push('\n');
    Ok(text)
}

/// Reads the lines that are whole; what follows was never acknowledged and is overwritten.
fn read_lines(text: &[u8]) -> Parts {
    let mut parts = Parts::default();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some((part, place, slot)) = read_line(line) else {
            break;
        };
        if place == PartPlace::Slot {
            parts.slot_len_bytes = slot;
        }
        parts.next_file += 1;
        parts.log_len_bytes += line.len() as u64;
        parts.done.insert(part.number, (part, place));
    }
    parts
}

fn read_line(line: &[u8]) -> Option<(PartInfo, PartPlace, Option<u64>)> {
    let line: PartLine = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
    let part = PartInfo {
        number: PartNumber::new(u32::from(line.n)).ok()?,
        len_bytes: line.len,
        etag: ETag::parse(&line.md5).ok()?,
        modified: Timestamp(line.at_ns),
        checksum: line.checksum,
        crc64nvme: line.crc64,
    };
    Some((
        part,
        line.file.map_or(PartPlace::Slot, PartPlace::File),
        line.slot,
    ))
}
