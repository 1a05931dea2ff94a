//! The intent log: what was about to change since the index was last made durable.
//!
//! After a crash the index may lack the last changes; the log says where to look again, so that
//! it is true before the first listing is answered. A segment is a file of [`frame`]s; reading
//! stops at the first that is not whole. Segments are numbered; one is removed when everything
//! it names is durable in the index, and on the disk.
//!
//! What of it outlives what:
//! - the process: all of it, since it is in the page cache; so keys are enough.
//! - the power: what was synced. A durable change's keys are. A mount's change is not durable,
//!   but may reach the disk by itself, or the index may know of what the disk lost; so before
//!   the first change of a name in a directory since the segment was begun, the directory is
//!   *marked*, durably, and its names are compared with the index after a power cut. Where
//!   many directories of one bucket are marked, the bucket is.
//! - Where a whole directory is moved, rows of any depth change in the index by one step of its
//!   own, later than on the disk. The bucket is named durably before; after a crash of any kind
//!   the index does not have all of it until it has been scanned.
//! - A file opened to be edited that has digests is named durably before, for its bytes may
//!   reach the disk without the times that betray them. What is being edited is named again in
//!   each new segment.
//! - A change of ours moves a file's ctime, which the index learns later than the file. So what it
//!   was moved to is said after the change and before its answer, durably where the answer is: a
//!   file with another was changed by somebody else, or by a change that nobody was told of, and
//!   its digests are in doubt.
//!
//! Each segment begins with the boot that it was begun in, which tells whether the power was
//! lost since.

mod frame;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::frame::{BootId, BucketDir, Intent, Ours};
use self::frame::{Frame, next_frame, push_bucket, push_dir, push_key, push_ours, push_rows};
use super::disk::{Disk, DiskFile};
use super::tree::is_absent;
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey};

/// A segment that has grown to this is closed and a new one begun, in bytes.
pub const SEGMENT_LEN_BYTES: u64 = 4 << 20;
/// Most directories of a bucket marked in one segment; beyond, the bucket is.
const MAX_DIR_MARKS: usize = 64;
/// Closed segments that are not removed by and by: with usual keys, some 250,000 changes.
const MAX_CLOSED: usize = 4;
/// Most keys named in every segment.
const MAX_KEPT: usize = 16_384;
/// Read at once when replaying, in bytes.
const READ_LEN_BYTES: usize = 1 << 20;

/// A place in the log, up to which it may be asked to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    number: u64,
    end: u64,
}

/// A segment that is begun and not yet written to.
pub struct Segment<D: Disk> {
    number: u64,
    file: Arc<D::File>,
    len_bytes: u64,
    /// What is said at its beginning, in bytes: of no change since then.
    head_len_bytes: u64,
    synced_bytes: u64,
    /// Where directories are marked, by bucket.
    dirs: HashMap<BucketName, HashMap<String, u64>>,
    /// Where buckets are marked.
    buckets: HashMap<BucketName, u64>,
    /// Where it is said that whole directories of a bucket move.
    rows: HashMap<BucketName, u64>,
    /// Where edits are named, by inode number.
    edits: HashMap<u64, u64>,
    /// Whether it says something that bytes on their way to the disk depend on.
    binds: bool,
    /// A sync failed: what was not durable then never is.
    failed: bool,
}

/// A segment that is written no more.
struct Closed<D: Disk> {
    number: u64,
    file: Arc<D::File>,
    synced: bool,
    binds: bool,
    failed: bool,
}

/// Guards the open segment; held for single writes to the page cache.
struct Open<D: Disk> {
    segment: Segment<D>,
    closed: Vec<Closed<D>>,
    /// What is being edited, and must be named in every segment: by inode number.
    edited: BTreeMap<u64, Option<(BucketName, ObjectKey)>>,
    /// Keys to be named in every segment: the next start will change something about them.
    kept: BTreeSet<(BucketName, ObjectKey)>,
    /// Frames of files as changes of ours left them, not yet appended.
    ours: Vec<u8>,
}

/// See the module.
pub struct IntentLog<D: Disk> {
    disk: Arc<D>,
    dir: Arc<D::Dir>,
    boot: Option<BootId>,
    open: Mutex<Open<D>>,
    rotation_asked: AtomicBool,
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

impl<D: Disk> Segment<D> {
    fn write(&mut self, frames: &[u8]) -> Result<()> {
        self.file
            .write_at(self.len_bytes, frames)
            .map_err(io_failed)?;
        self.len_bytes += frames.len() as u64;
        Ok(())
    }

    fn point(&self, end: u64) -> Point {
        Point {
            number: self.number,
            end,
        }
    }

    /// Where a directory, or its bucket, is marked.
    fn mark_of(&self, bucket: &BucketName, path: &str) -> Option<u64> {
        let of_bucket = self.buckets.get(bucket);
        let of_dir = || self.dirs.get(bucket)?.get(path);
        of_bucket.or_else(of_dir).copied()
    }
}

impl<D: Disk> IntentLog<D> {
    /// Begins a new segment in `dir`, and gives the numbers of those left by an earlier run,
    /// in order: each is to be [replayed](Self::replay), then [removed](Self::remove_through).
    pub fn open(disk: Arc<D>, dir: Arc<D::Dir>, boot: Option<BootId>) -> Result<(Self, Vec<u64>)> {
        let mut left = Vec::new();
        disk.read_dir(&dir, &mut |entry| {
            left.extend(number_of(&entry.name));
            true
        })
        .map_err(io_failed)?;
        left.sort_unstable();
        let number = left.last().map_or(0, |last| last + 1);
        let segment = begin(&*disk, &dir, boot.as_ref(), number)?;
        let log = Self {
            disk,
            dir,
            boot,
            open: Mutex::new(Open {
                segment,
                closed: Vec::new(),
                edited: BTreeMap::new(),
                kept: BTreeSet::new(),
                ours: Vec::new(),
            }),
            rotation_asked: AtomicBool::new(false),
        };
        Ok((log, left))
    }

    fn lock(&self) -> MutexGuard<'_, Open<D>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, segment: &mut Segment<D>, frames: &[u8]) -> Result<()> {
        if frames.is_empty() {
            return Ok(());
        }
        segment.write(frames).inspect_err(|_| self.ask_rotation())
    }

    /// Appends keys; in the page cache on return.
    pub fn append<'a>(
        &self,
        keys: impl Iterator<Item = &'a (BucketName, ObjectKey)>,
    ) -> Result<()> {
        let mut frames = Vec::new();
        for (bucket, key) in keys {
            push_key(&mut frames, bucket, key);
        }
        if frames.is_empty() {
            return Ok(());
        }
        self.write(&mut self.lock().segment, &frames)
    }

    /// Takes a file as a change of ours left it, to be [appended](Self::append_ours) before the
    /// change is answered.
    pub fn ours(&self, ours: Ours) {
        push_ours(&mut self.lock().ours, ours);
    }

    /// Appends what was said of files after changes of ours; in the page cache on return. Gives
    /// whether anything was. Where that fails their digests are in doubt after a crash.
    pub fn append_ours(&self) -> Result<bool> {
        let open = &mut *self.lock();
        let frames = std::mem::take(&mut open.ours);
        self.write(&mut open.segment, &frames)?;
        Ok(!frames.is_empty())
    }

    /// Says in the open segment, where it does not, that whole directories of a bucket move.
    /// Gives up to where the log is to be [durable](Self::sync_to) before; in the page cache on
    /// return.
    pub fn mark_rows(&self, bucket: &BucketName) -> Result<Point> {
        let segment = &mut self.lock().segment;
        let end = match segment.rows.get(bucket) {
            Some(end) => *end,
            None => {
                let mut frames = Vec::new();
                push_rows(&mut frames, bucket);
                self.write(segment, &frames)?;
                segment.binds = true;
                segment.rows.insert(bucket.clone(), segment.len_bytes);
                segment.len_bytes
            }
        };
        Ok(segment.point(end))
    }

    /// Marks directories in the open segment where they are not. Gives up to where the log is
    /// to be [durable](Self::sync_to) before names in them change; in the page cache on return.
    pub fn mark<'a>(
        &self,
        dirs: impl Iterator<Item = (&'a BucketName, &'a str)>,
    ) -> Result<Option<Point>> {
        let segment = &mut self.lock().segment;
        let mut last = None;
        for (bucket, path) in dirs {
            let end = match segment.mark_of(bucket, path) {
                Some(end) => end,
                None => self.add_mark(segment, bucket, path)?,
            };
            last = last.max(Some(end));
        }
        Ok(last.map(|end| segment.point(end)))
    }

    fn add_mark(&self, segment: &mut Segment<D>, bucket: &BucketName, path: &str) -> Result<u64> {
        let mut frames = Vec::new();
        let marked = segment.dirs.get(bucket).map_or(0, HashMap::len);
        let whole = marked >= MAX_DIR_MARKS;
        match whole {
            true => push_bucket(&mut frames, bucket),
            false => push_dir(&mut frames, bucket, path),
        }
        self.write(segment, &frames)?;
        segment.binds = true;
        let end = segment.len_bytes;
        match whole {
            true => {
                segment.buckets.insert(bucket.clone(), end);
            }
            false => {
                let dirs = segment.dirs.entry(bucket.clone()).or_default();
                dirs.insert(path.to_owned(), end);
            }
        }
        Ok(end)
    }

    /// Whether directories are marked in the open segment: durably, where that is asked for.
    pub fn are_marked<'a>(
        &self,
        dirs: impl IntoIterator<Item = (&'a BucketName, &'a str)>,
        durably: bool,
    ) -> bool {
        let segment = &self.lock().segment;
        dirs.into_iter().all(|(bucket, path)| {
            segment
                .mark_of(bucket, path)
                .is_some_and(|end| !durably || end <= segment.synced_bytes)
        })
    }

    /// Names a key, which the open segment names, in those to come as well.
    pub fn keep(&self, bucket: &BucketName, key: &ObjectKey) {
        let kept = &mut self.lock().kept;
        if kept.len() < MAX_KEPT {
            kept.insert((bucket.clone(), key.clone()));
        }
    }

    /// Says, in this segment and in those to come, that a file with digests is being edited.
    /// Gives up to where the log is to be [durable](Self::sync_to) before its bytes change; in
    /// the page cache on return.
    pub fn begin_edit(&self, ino: u64, at: Option<&(BucketName, ObjectKey)>) -> Result<Point> {
        let open = &mut *self.lock();
        let segment = &mut open.segment;
        let end = match segment.edits.get(&ino) {
            Some(end) => *end,
            None => {
                let mut frames = Vec::new();
                let at = at.cloned();
                Intent::Edit { ino, at }.push_to(&mut frames);
                self.write(segment, &frames)?;
                segment.binds = true;
                segment.edits.insert(ino, segment.len_bytes);
                segment.len_bytes
            }
        };
        open.edited.entry(ino).or_insert_with(|| at.cloned());
        Ok(open.segment.point(end))
    }

    /// The file is not being edited any more: segments to come need not name it.
    pub fn end_edit(&self, ino: u64) {
        self.lock().edited.remove(&ino);
    }

    /// Makes what was appended durable.
    pub fn sync(&self) -> Result<()> {
        let end = self.end();
        self.sync_to(end)
    }

    /// The end of what was appended so far.
    pub fn end(&self) -> Point {
        let segment = &self.lock().segment;
        segment.point(segment.len_bytes)
    }

    /// Makes the log durable up to a point, unless it is.
    pub fn sync_to(&self, point: Point) -> Result<()> {
        let (file, failed, end) = {
            let open = self.lock();
            let segment = &open.segment;
            if point.number == segment.number {
                if point.end <= segment.synced_bytes {
                    return Ok(());
                }
                (Arc::clone(&segment.file), segment.failed, segment.len_bytes)
            } else {
                // One that is removed was durable, and what it said is.
                let closed = open.closed.iter().find(|it| it.number == point.number);
                let Some(closed) = closed.filter(|it| !it.synced) else {
                    return Ok(());
                };
                (Arc::clone(&closed.file), closed.failed, point.end)
            }
        };
        if failed {
            return Err(io_failed(std::io::Error::other("an earlier sync failed")));
        }
        if let Err(e) = file.sync() {
            self.give_up(point);
            return Err(io_failed(e));
        }
        self.note_synced(Point { end, ..point });
        Ok(())
    }

    /// Notes that the log was made durable up to a point by other means.
    pub fn note_synced(&self, point: Point) {
        let segment = &mut self.lock().segment;
        if point.number == segment.number && !segment.failed {
            segment.synced_bytes = point.end.max(segment.synced_bytes);
        }
    }

    /// Notes that the log could not be made durable up to a point. What was not synced may be
    /// lost: nothing durable is appended behind it.
    pub fn give_up(&self, point: Point) {
        let open = &mut *self.lock();
        open.segment.failed |= open.segment.number == point.number;
        for closed in &mut open.closed {
            closed.failed |= closed.number == point.number && !closed.synced;
        }
        self.ask_rotation();
    }

    /// Whether anything was appended to the open segment.
    pub fn is_empty(&self) -> bool {
        let segment = &self.lock().segment;
        segment.len_bytes == segment.head_len_bytes
    }

    /// Whether a segment says something that bytes on their way to the disk depend on: before
    /// it is removed, everything is to be durable.
    pub fn binds(&self) -> bool {
        let open = self.lock();
        open.segment.binds || open.closed.iter().any(|closed| closed.binds)
    }

    /// Whether so many segments are closed that reading them back would delay a start.
    pub fn is_long(&self) -> bool {
        self.lock().closed.len() >= MAX_CLOSED
    }

    /// Before the open segment is removed, everything is to be durable.
    pub fn bind(&self) {
        self.lock().segment.binds = true;
    }

    /// Asks the committer to close the open segment before its next group.
    pub fn ask_rotation(&self) {
        self.rotation_asked.store(true, Ordering::Release);
    }

    /// Begins the next segment where the open one is long or its closing was asked for. It is
    /// for [`Self::switch`] only.
    pub fn next_if_due(&self) -> Result<Option<Segment<D>>> {
        let asked = self.rotation_asked.swap(false, Ordering::AcqRel);
        let number = {
            let segment = &self.lock().segment;
            let said_bytes = segment.len_bytes - segment.head_len_bytes;
            if said_bytes < SEGMENT_LEN_BYTES && (said_bytes == 0 || !asked) {
                return Ok(None);
            }
            segment.number + 1
        };
        begin(&*self.disk, &self.dir, self.boot.as_ref(), number)
            .map(Some)
            .inspect_err(|_| {
                if asked {
                    self.ask_rotation();
                }
            })
    }

    /// Closes the open segment for the next. In the turn, between two groups: every key in a
    /// closed segment was acted on.
    pub fn switch(&self, mut next: Segment<D>) -> Result<()> {
        let open = &mut *self.lock();
        let mut frames = Vec::new();
        let mut ends = Vec::with_capacity(open.edited.len());
        for (bucket, key) in &open.kept {
            push_key(&mut frames, bucket, key);
        }
        for (ino, at) in &open.edited {
            let (ino, at) = (*ino, at.clone());
            Intent::Edit { ino, at }.push_to(&mut frames);
            ends.push((ino, next.len_bytes + frames.len() as u64));
        }
        if !frames.is_empty() {
            self.write(&mut next, &frames)?;
            next.binds = !open.edited.is_empty();
        }
        next.edits.extend(ends);
        next.head_len_bytes = next.len_bytes;
        let closed = std::mem::replace(&mut open.segment, next);
        open.closed.push(Closed {
            number: closed.number,
            file: closed.file,
            synced: closed.synced_bytes == closed.len_bytes,
            binds: closed.binds,
            failed: closed.failed,
        });
        Ok(())
    }

    /// The last segment closed and not yet removed.
    pub fn closed_through(&self) -> Option<u64> {
        self.lock().closed.last().map(|closed| closed.number)
    }

    /// Removes closed segments up to and with `number`: the index has what they name. What is
    /// being edited is durably named in a later one.
    pub fn remove_through(&self, number: u64) -> Result<()> {
        let carries = {
            let open = self.lock();
            !(open.edited.is_empty() && open.kept.is_empty())
        };
        if carries {
            self.sync()?;
        }
        let mut names = Vec::new();
        let open = self.lock().segment.number;
        self.disk
            .read_dir(&self.dir, &mut |entry| {
                if number_of(&entry.name).is_some_and(|n| n <= number && n != open) {
                    names.push(entry.name);
                }
                true
            })
            .map_err(io_failed)?;
        for name in names {
            match self.disk.unlink(&self.dir, &name) {
                // Another was faster.
                Err(e) if is_absent(&e) => {}
                other => other.map_err(io_failed)?,
            }
        }
        self.lock().closed.retain(|closed| closed.number > number);
        Ok(())
    }

    /// Reads a segment back, calling `each` with everything that is whole.
    pub fn replay(&self, number: u64, mut each: impl FnMut(Intent)) -> Result<()> {
        let file = self
            .disk
            .open_own(&self.dir, &name_of(number), false)
            .map_err(io_failed)?;
        let (mut offset, mut pending) = (0, Vec::new());
        let mut has_kinds = None;
        loop {
            let bytes = file.read_at(offset, READ_LEN_BYTES).map_err(io_failed)?;
            offset += bytes.len() as u64;
            let at_end = bytes.len() < READ_LEN_BYTES;
            pending.extend_from_slice(&bytes);
            let mut rest = &pending[..];
            loop {
                match next_frame(rest, has_kinds != Some(false)) {
                    Frame::Whole(intent, _)
                        if has_kinds.is_none() && !matches!(intent, Some(Intent::Boot(_))) =>
                    {
                        // Of an earlier version: read again as one.
                        has_kinds = Some(false);
                    }
                    Frame::Whole(intent, after) => {
                        has_kinds.get_or_insert(true);
                        match intent {
                            Some(intent) => each(intent),
                            None => tracing::warn!("the intent log is of a later version"),
                        }
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

fn begin<D: Disk>(
    disk: &D,
    dir: &D::Dir,
    boot: Option<&BootId>,
    number: u64,
) -> Result<Segment<D>> {
    let file = disk
        .open_own(dir, &name_of(number), true)
        .map_err(io_failed)?;
    let mut segment = Segment {
        number,
        file: Arc::new(file),
        len_bytes: 0,
        head_len_bytes: 0,
        synced_bytes: 0,
        dirs: HashMap::new(),
        buckets: HashMap::new(),
        rows: HashMap::new(),
        edits: HashMap::new(),
        binds: false,
        failed: false,
    };
    let mut frames = Vec::new();
    Intent::Boot(boot.cloned()).push_to(&mut frames);
    segment.write(&frames)?;
    segment.head_len_bytes = segment.len_bytes;
    disk.sync_dir(dir).map_err(io_failed)?;
    Ok(segment)
}
