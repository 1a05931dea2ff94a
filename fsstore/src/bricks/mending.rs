//! Copies whose bytes are not those that were written: found by a scrub or while they are read, and
//! made anew from a copy that is right.
//!
//! What is *bad* is decided by the file's own record, whose CRC was taken when the bytes came: other
//! bytes are rot, or an edit behind the volume's back, which is none of an object with several copies.
//! What is *good* is another brick's copy of the same stamp and CRC whose bytes have that CRC while
//! they are copied. A stamp is made by one change, so a copy of it is right whoever has it.
//!
//! 1. the bad file is read again;
//! 2. a good copy is staged on its brick, durably;
//! 3. in the brick's turn, if the bad file still stands as it was read, it is put into
//!    [`super::quarantine`] and the good one takes its name.
//!
//! A crash leaves one or the other. A file with several names (links of a mount) is told of only.
//!
//! **While it is read** an object of one frame is compared as it goes out, and read elsewhere where
//! it is bad; that costs a CRC of bytes in the cache. A longer one is sent by the kernel: it is
//! compared afterwards, as far as the kernel still has it in memory, within [`AFTERWARDS`]; so that a
//! reader may be given bad bytes once. What is longer than [`MAX_AFTERWARDS_LEN_BYTES`], or read in
//! parts, waits for a scrub. A file that cannot be read
//! is mended the same way; a brick with many such within a minute has failed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crc_fast::{CrcAlgorithm, Digest};
use placement::layout::BrickId;
use placement::replica::OpId;
use tokio::sync::Semaphore;

use super::healing::{self, Staging};
use super::kinds::{Copied, Name};
use super::member::{CopyError, Member};
use super::pace::{Limits, Pace};
use super::quarantine::Quarantined;
use super::shared::{Shared, is_fault};
use crate::brick::disk::{Disk, DiskFile};
use crate::brick::hashing::is_same_state;
use crate::brick::scrub::{Checked, Reading, Verdict};
use crate::brick::sink::require_room;
use crate::error::{Result, StoreError};
use crate::object::Locator;

/// Longest object that is compared while it is read, in bytes.
pub(super) const MAX_INLINE_LEN_BYTES: u64 = 1 << 20;
/// Longest that is compared after it was read.
pub(super) const MAX_AFTERWARDS_LEN_BYTES: u64 = 64 << 20;
/// How much is compared afterwards: a twentieth of a core at most.
const AFTERWARDS: Limits = Limits {
    bytes_per_s: 128 << 20,
    operations_per_s: 200,
};
/// Most objects that wait to be looked at; later ones are found when they are read again.
const MAX_WAITING: usize = 1024;
/// An object that was looked at is not looked at again so soon.
const REST: Duration = Duration::from_secs(300);
/// Most objects known to have been looked at.
const MAX_RESTING: usize = 4096;
/// So many files that cannot be read, within [`UNREADABLE_WITHIN`], are a disk that fails.
const MAX_UNREADABLE: usize = 16;
const UNREADABLE_WITHIN: Duration = Duration::from_secs(60);
/// So are reads that take so long to fail, altogether, within [`WAITED_WITHIN`].
const MAX_WAITED: Duration = Duration::from_secs(30);
const WAITED_WITHIN: Duration = Duration::from_secs(120);
/// Read at once, in bytes.
const STEP_LEN_BYTES: usize = 1 << 20;

/// What came of a bad copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mending {
    /// It is right, or is not there any more.
    Sound,
    /// It was bad, and is as it was written again.
    Mended,
    /// It is bad, and no other copy that is here is good.
    Lost,
    /// Its brick has no copy of it that counts.
    NotHeld,
}

/// How often copies were found bad since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RotCounts {
    /// Copies that were bad.
    pub found: u64,
    /// Those that were made anew.
    pub mended: u64,
    /// Those that no good copy was found for, at each time they were looked at.
    pub lost: u64,
}

/// Why a copy is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// It was read, and nothing is known against it.
    WasRead,
    /// Bytes that were read are not those of its record, or it could not be read.
    IsBad,
}

struct Suspect {
    brick: BrickId,
    at: Locator,
    suspicion: Suspicion,
}

/// Copies to be looked at.
pub(super) struct Suspects {
    queue: Mutex<Option<SyncSender<Suspect>>>,
    rested: Mutex<HashMap<(BrickId, Locator), (Suspicion, Instant)>>,
    unreadable: Mutex<HashMap<BrickId, Vec<Instant>>>,
    waited: Mutex<HashMap<BrickId, Vec<(Instant, Duration)>>>,
    found: AtomicU64,
    mended: AtomicU64,
    lost: AtomicU64,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the mending thread reads its orders from.
pub(super) struct Waiting(Receiver<Suspect>);

impl Suspects {
    pub fn new() -> (Self, Waiting) {
        let (queue, waiting) = sync_channel(MAX_WAITING);
        let suspects = Self {
            queue: Mutex::new(Some(queue)),
            rested: Mutex::default(),
            unreadable: Mutex::default(),
            waited: Mutex::default(),
            found: AtomicU64::default(),
            mended: AtomicU64::default(),
            lost: AtomicU64::default(),
        };
        (suspects, Waiting(waiting))
    }

    /// Has a copy looked at, soon and beside everything else; not where it was just now.
    pub fn add(&self, brick: BrickId, at: &Locator, suspicion: Suspicion) {
        {
            let mut rested = lock(&self.rested);
            let key = (brick, at.clone());
            let is_known = rested.get(&key).is_some_and(|(known, since)| {
                since.elapsed() < REST && (*known == Suspicion::IsBad || *known == suspicion)
            });
            if is_known {
                return;
            }
            if rested.len() >= MAX_RESTING {
                rested.clear();
            }
            rested.insert(key, (suspicion, Instant::now()));
        }
        let at = at.clone();
        let suspect = Suspect {
            brick,
            at,
            suspicion,
        };
        if let Some(queue) = &*lock(&self.queue) {
            // Where too many wait it is found when it is read again.
            let _ = queue.try_send(suspect);
        }
    }

    /// Nothing is looked at any more.
    pub fn close(&self) {
        *lock(&self.queue) = None;
    }

    pub fn is_open(&self) -> bool {
        lock(&self.queue).is_some()
    }

    pub fn counts(&self) -> RotCounts {
        RotCounts {
            found: self.found.load(Ordering::Relaxed),
            mended: self.mended.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }

    /// Notes how long a reader waited to be told that a file cannot be read; true where readers of
    /// its brick have waited too long altogether.
    pub fn is_too_slow(&self, brick: BrickId, waited: Duration) -> bool {
        let mut all = lock(&self.waited);
        let waits = all.entry(brick).or_default();
        waits.retain(|(at, _)| at.elapsed() < WAITED_WITHIN);
        waits.push((Instant::now(), waited));
        waits.iter().map(|(_, waited)| *waited).sum::<Duration>() > MAX_WAITED
    }

    /// Notes a file that cannot be read; true where its brick has too many.
    fn is_one_too_many(&self, brick: BrickId) -> bool {
        let mut unreadable = lock(&self.unreadable);
        let times = unreadable.entry(brick).or_default();
        times.retain(|at| at.elapsed() < UNREADABLE_WITHIN);
        times.push(Instant::now());
        times.len() > MAX_UNREADABLE
    }
}

/// Looks at suspects until nobody adds any.
pub(super) fn mend_suspects<D: Disk>(shared: &Weak<Shared<D>>, waiting: &Waiting) {
    let (pace, begun) = (Pace::new(AFTERWARDS), Instant::now());
    while let Ok(suspect) = waiting.0.recv() {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let Suspect {
            brick,
            at,
            suspicion,
        } = suspect;
        let reading = match suspicion {
            Suspicion::WasRead => Reading::Memory,
            Suspicion::IsBad => Reading::Disk,
        };
        let mut may_read = |len_bytes| {
            if suspicion == Suspicion::WasRead {
                std::thread::sleep(pace.take(begun.elapsed(), len_bytes));
            }
            shared.suspects.is_open()
        };
        if let Err(error) = shared.mend(brick, &at, reading, &mut may_read) {
            tracing::debug!(brick = brick.0, bucket = %at.bucket, key = %at.key, "cannot be mended: {error}");
        }
    }
}

impl<D: Disk> Shared<D> {
    /// Reads a copy, and makes it anew where it is bad. Blocking. Errors: those of its brick, which
    /// has failed then where it is at fault.
    pub(super) fn mend(
        self: &Arc<Self>,
        brick: BrickId,
        at: &Locator,
        reading: Reading,
        may_read: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Mending> {
        let held = self.in_sync(self.group_of(at));
        let Some(member) = held.iter().find(|member| member.id == brick) else {
            return Ok(Mending::NotHeld);
        };
        let Some(mut checked) = self.check(member, at, reading, may_read)? else {
            return Ok(Mending::Sound);
        };
        let is_bad = !matches!(checked.verdict, Verdict::Sound | Verdict::Skipped);
        if reading == Reading::Memory && is_bad {
            // It may have been the memory.
            match self.check(member, at, Reading::Disk, may_read)? {
                Some(again) => checked = again,
                None => return Ok(Mending::Sound),
            }
        }
        let what = match checked.verdict {
            Verdict::Sound | Verdict::Skipped => return Ok(Mending::Sound),
            Verdict::Rotten => "rotten",
            Verdict::Changed => "changed",
            Verdict::Unreadable => "unreadable",
        };
        let (bucket, key) = (at.bucket.as_str(), at.key.as_str());
        self.suspects.found.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            event = "rot.found",
            brick = brick.0,
            bucket,
            key,
            what,
            "a copy is not as it was written"
        );
        if checked.verdict == Verdict::Unreadable && self.suspects.is_one_too_many(brick) {
            self.report(
                brick,
                StoreError::Busy("too many files that cannot be read"),
            );
        }
        for source in held.iter().filter(|source| source.id != brick) {
            match self.mend_from(member, source, at, (&checked, what)) {
                Ok(true) => {
                    self.suspects.mended.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(
                        event = "rot.mended",
                        brick = brick.0,
                        from = source.id.0,
                        bucket,
                        key,
                        "a copy is as it was written again"
                    );
                    return Ok(Mending::Mended);
                }
                Ok(false) => {}
                Err(error) => {
                    let from = source.id.0;
                    tracing::warn!(
                        brick = brick.0,
                        from,
                        bucket,
                        key,
                        "cannot be mended: {error}"
                    );
                }
            }
        }
        self.suspects.lost.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            event = "rot.lost",
            brick = brick.0,
            bucket,
            key,
            what,
            "a copy is bad, and none that is here is good"
        );
        Ok(Mending::Lost)
    }

    fn check(
        &self,
        member: &Member<D>,
        at: &Locator,
        reading: Reading,
        may_read: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Checked>> {
        let checked = member.inner.check_bytes(at, reading, may_read);
        if let Err(StoreError::Io { .. }) = &checked {
            let error = StoreError::Busy("a file that cannot be looked at");
            self.report(member.id, error);
        }
        checked
    }

    /// Makes a copy anew from another; false where that one is not what was written either, or
    /// something was changed meanwhile.
    fn mend_from(
        self: &Arc<Self>,
        member: &Arc<Member<D>>,
        source: &Arc<Member<D>>,
        at: &Locator,
        (bad, what): (&Checked, &'static str),
    ) -> Result<bool> {
        let name = Name::object(at);
        let one = Arc::new(Semaphore::new(1));
        let permit = one.try_acquire_owned().map_err(|_| StoreError::Stopping)?;
        let staging = Staging {
            to: Arc::clone(member),
            shared: Arc::clone(self),
            permit: Arc::new(permit),
        };
        require_room(&**member.inner.disk(), bad.facts.len_bytes)?;
        let copied = healing::copy_object(source, &staging, (&at.bucket, &at.key));
        let (copied, files) = match copied {
            Ok(copied) => copied,
            Err(CopyError::Source(error)) => {
                self.suspects.add(source.id, at, Suspicion::IsBad);
                return Err(error);
            }
            Err(CopyError::Target(error)) => {
                // One that is full is not one that fails.
                if is_fault(&error) {
                    let error = StoreError::Busy("a good copy that cannot be written");
                    self.report(member.id, error);
                }
                return Err(error);
            }
        };
        let op = match &copied {
            Some(Copied::Object(new, held))
                if new.record.stamp == bad.record.stamp
                    && new.record.crc64nvme == bad.record.crc64nvme
                    && member.has_crc(held.op(), new.record.crc64nvme)? =>
            {
                Some(held.op())
            }
            _ => None,
        };
        let (Some(copied), Some(op)) = (copied, op) else {
            self.suspects.add(source.id, at, Suspicion::WasRead);
            return Ok(false);
        };
        for file in files {
            let synced = file.sync();
            synced.map_err(|e| StoreError::from_io("make a good copy durable", e))?;
        }
        let (replacing, facts, at) = (Arc::clone(member), bad.facts, at.clone());
        let stamp = bad.record.stamp;
        let kept = Quarantined {
            number: op.0,
            bucket: at.bucket.as_str().to_owned(),
            key: at.key.as_str().to_owned(),
            what: what.to_owned(),
            len_bytes: facts.len_bytes,
            since_s: member.inner.now().secs(),
        };
        let replaced = member.inner.in_turn(None, move |inner, turn| {
            let Some(looked) = inner.look_now(&at)? else {
                return Ok(false);
            };
            let (Some(file), true) = (
                &looked.found.file,
                is_same_state(&looked.found.facts, &facts),
            ) else {
                return Ok(false);
            };
            // A patch moves none of what was compared where records are files of their own.
            if looked.record.stamp != stamp {
                return Ok(false);
            }
            let (quarantine, ino) = (replacing.quarantine()?, looked.found.facts.ino);
            let fail = |e| StoreError::from_io("look into the quarantine", e);
            let (bucket, key) = (at.bucket.as_str(), at.key.as_str());
            let brick = replacing.id.0;
            // It is there already where an earlier mend of it was interrupted.
            let standing = quarantine.number_of(ino).map_err(fail)?;
            let own_names = 1 + u64::from(standing.is_some());
            if has_more_names(file, own_names) {
                // The others would go on leading to the bad one.
                tracing::warn!(brick, bucket, key, "a bad file has several names");
                return Ok(false);
            }
            let number = standing.unwrap_or(kept.number);
            let is_edited = kept.what == "changed";
            let is_kept = match standing {
                Some(_) => Ok(true),
                None => quarantine.keep(file, &at, kept),
            };
            match is_kept {
                Ok(true) => {}
                // Someone wrote it: it is not thrown away.
                Ok(false) | Err(_) if is_edited => {
                    tracing::warn!(brick, bucket, key, "an edited file cannot be kept aside");
                    return Ok(false);
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(brick, %error, "a bad file is not kept aside"),
            }
            let replaced = healing::replace(&replacing, turn, &name, Some(&copied));
            if replaced.is_err() {
                // It stands where it stood.
                let _ = quarantine.drop(number);
            }
            replaced?;
            Ok(true)
        });
        self.runtime.block_on(replaced)
    }
}

/// Whether a file has more names than so many, where that can be known.
fn has_more_names(file: &impl DiskFile, count: u64) -> bool {
    let stat = file.descriptor().map(rustix::fs::fstat);
    stat.and_then(std::result::Result::ok)
        .is_some_and(|stat| stat.st_nlink > count as _)
}

impl<D: Disk> Member<D> {
    /// Whether a staged file's bytes have a CRC.
    fn has_crc(&self, op: OpId, crc: Option<u64>) -> Result<bool> {
        let fail = |e| StoreError::from_io("read a fetched file", e);
        let (Some(file), Some(crc)) = (self.staged(op)?, crc) else {
            return Ok(false);
        };
        let (mut digest, mut offset_bytes) = (Digest::new(CrcAlgorithm::Crc64Nvme), 0);
        loop {
            let bytes = file.read_at(offset_bytes, STEP_LEN_BYTES).map_err(fail)?;
            if bytes.is_empty() {
                return Ok(digest.finalize() == crc);
            }
            digest.update(&bytes);
            offset_bytes += bytes.len() as u64;
        }
    }
}
