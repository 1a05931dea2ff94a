//! The intent log: which keys were about to change since the index was last made durable.
//!
//! After a crash the index may lack the last changes; the log says which keys to look at again,
//! so that it is true before the first listing is answered. A segment is a file of frames, each
//! `[len u32 LE][crc32c u32 LE][bucket \0 key]`; reading stops at the first that is not whole.
//! Segments are numbered; one is removed when everything it names is durable in the index.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crc_fast::CrcAlgorithm;

use super::disk::{Disk, DiskFile};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey};

/// A segment that has grown to this is closed and a new one begun, in bytes.
pub const SEGMENT_LEN_BYTES: u64 = 4 << 20;
const HEADER_LEN_BYTES: usize = 8;
const MAX_FRAME_LEN_BYTES: usize = 2048;
/// Read at once when replaying, in bytes.
const READ_LEN_BYTES: usize = 1 << 20;

struct Segment<D: Disk> {
    number: u64,
    file: Arc<D::File>,
    len_bytes: u64,
}

/// See the module.
pub struct IntentLog<D: Disk> {
    disk: Arc<D>,
    dir: Arc<D::Dir>,
    open: Mutex<Segment<D>>,
    rotation_asked: AtomicBool,
    closed_through: Mutex<Option<u64>>,
}

fn io_failed(e: std::io::Error) -> StoreError {
    StoreError::from_io("write the intent log", e)
}

fn name_of(number: u64) -> String {
    format!("intents-{number:016x}")
}

fn number_of(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix("intents-")?, 16).ok()
}

impl<D: Disk> IntentLog<D> {
    /// Begins a new segment in `dir`, and gives the numbers of those left by an earlier run,
    /// in order: each is to be [replayed](Self::replay), then [removed](Self::remove_through).
    pub fn open(disk: Arc<D>, dir: Arc<D::Dir>) -> Result<(Self, Vec<u64>)> {
        let mut left = Vec::new();
        disk.read_dir(&dir, &mut |entry| {
            left.extend(number_of(&entry.name));
            true
        })
        .map_err(io_failed)?;
        left.sort_unstable();
        let number = left.last().map_or(0, |last| last + 1);
        let segment = Self::begin(&*disk, &dir, number)?;
        let log = Self {
            disk,
            dir,
            open: Mutex::new(segment),
            rotation_asked: AtomicBool::new(false),
            closed_through: Mutex::new(None),
        };
        Ok((log, left))
    }

    fn begin(disk: &D, dir: &D::Dir, number: u64) -> Result<Segment<D>> {
        let file = disk
            .open_own(dir, &name_of(number), true)
            .map_err(io_failed)?;
        disk.sync_dir(dir).map_err(io_failed)?;
        Ok(Segment {
            number,
            file: Arc::new(file),
            len_bytes: 0,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Segment<D>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends keys; in the page cache on return.
    pub fn append<'a>(
        &self,
        keys: impl Iterator<Item = &'a (BucketName, ObjectKey)>,
    ) -> Result<()> {
        let mut frames = Vec::new();
        for (bucket, key) in keys {
            let len = bucket.as_str().len() + 1 + key.as_str().len();
            let start = frames.len();
            frames.extend_from_slice(&(len as u32).to_le_bytes());
            frames.extend_from_slice(&[0; 4]);
            frames.extend_from_slice(bucket.as_str().as_bytes());
            frames.push(0);
            frames.extend_from_slice(key.as_str().as_bytes());
            let crc = crc_of(&frames[start + HEADER_LEN_BYTES..]);
            frames[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        }
        if frames.is_empty() {
            return Ok(());
        }
        let mut segment = self.lock();
        if let Err(e) = segment.file.write_at(segment.len_bytes, &frames) {
            self.ask_rotation();
            return Err(io_failed(e));
        }
        segment.len_bytes += frames.len() as u64;
        Ok(())
    }

    /// Makes what was appended durable.
    pub fn sync(&self) -> Result<()> {
        let file = Arc::clone(&self.lock().file);
        file.sync().map_err(io_failed)
    }

    /// Whether anything was appended to the open segment.
    pub fn is_empty(&self) -> bool {
        self.lock().len_bytes == 0
    }

    /// Asks the committer to close the open segment before its next group.
    pub fn ask_rotation(&self) {
        self.rotation_asked.store(true, Ordering::Release);
    }

    /// Between two groups: closes the open segment where it is long or its closing was asked
    /// for. Every key in a closed segment was acted on.
    pub fn rotate_if_due(&self) -> Result<()> {
        let asked = self.rotation_asked.swap(false, Ordering::AcqRel);
        let mut segment = self.lock();
        if segment.len_bytes < SEGMENT_LEN_BYTES && !(asked && segment.len_bytes > 0) {
            return Ok(());
        }
        let next = Self::begin(&*self.disk, &self.dir, segment.number + 1)?;
        let closed = std::mem::replace(&mut *segment, next).number;
        *self
            .closed_through
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(closed);
        Ok(())
    }

    /// The last segment closed and not yet removed.
    pub fn closed_through(&self) -> Option<u64> {
        *self
            .closed_through
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes closed segments up to and with `number`: the index has what they name.
    pub fn remove_through(&self, number: u64) -> Result<()> {
        let mut names = Vec::new();
        let open = self.lock().number;
        self.disk
            .read_dir(&self.dir, &mut |entry| {
                if number_of(&entry.name).is_some_and(|n| n <= number && n != open) {
                    names.push(entry.name);
                }
                true
            })
            .map_err(io_failed)?;
        for name in names {
            self.disk.unlink(&self.dir, &name).map_err(io_failed)?;
        }
        let mut closed = self
            .closed_through
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if closed.is_some_and(|closed| closed <= number) {
            *closed = None;
        }
        Ok(())
    }

    /// Reads a segment back, calling `each` with every key that is whole.
    pub fn replay(&self, number: u64, mut each: impl FnMut(BucketName, ObjectKey)) -> Result<()> {
        let file = self
            .disk
            .open_own(&self.dir, &name_of(number), false)
            .map_err(io_failed)?;
        let (mut offset, mut pending) = (0, Vec::new());
        loop {
            let bytes = file.read_at(offset, READ_LEN_BYTES).map_err(io_failed)?;
            offset += bytes.len() as u64;
            let at_end = bytes.len() < READ_LEN_BYTES;
            pending.extend_from_slice(&bytes);
            let mut rest = &pending[..];
            loop {
                match next_frame(rest) {
                    Frame::Whole(bucket, key, after) => {
                        each(bucket, key);
                        rest = after;
                    }
                    Frame::Torn => return Ok(()),
                    Frame::Short => break,
                }
            }
            if at_end {
                return Ok(());
            }
            pending = rest.to_vec();
        }
    }
}

enum Frame<'a> {
    Whole(BucketName, ObjectKey, &'a [u8]),
    Short,
    Torn,
}

fn crc_of(payload: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, payload) as u32
}

fn next_frame(bytes: &[u8]) -> Frame<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN_BYTES>() else {
        return Frame::Short;
    };
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i]));
    let len = word(0) as usize;
    if len == 0 || len > MAX_FRAME_LEN_BYTES {
        return Frame::Torn;
    }
    let Some((payload, rest)) = rest.split_at_checked(len) else {
        return Frame::Short;
    };
    let names = std::str::from_utf8(payload)
        .ok()
        .and_then(|text| text.split_once('\0'));
    match names {
        Some((bucket, key)) if crc_of(payload) == word(4) => {
            match (BucketName::parse(bucket), ObjectKey::parse(key)) {
                (Ok(bucket), Ok(key)) => Frame::Whole(bucket, key, rest),
                _ => Frame::Torn,
            }
        }
        _ => Frame::Torn,
    }
}
