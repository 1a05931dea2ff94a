//! Scrubs: every brick's bytes read again at a pace, begun, paused and gone on with, over restarts
//! too.
//!
//! What a scrub has seen is kept in `scrub.json` in the server's own directory, written every
//! [`SAVE_INTERVAL`] and at each change of what it is to do; after a crash the last seconds are
//! read again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::home::own_seat;
use super::identity::FORMAT;
use super::pace::{Limits, Pace};
use crate::brick::Brick;
use crate::brick::disk::Disk;
use crate::brick::scrub::{Position, Scrubbed, Scrubbing, Verdict};
use crate::clock::Clock;

#[cfg(test)]
mod tests;

/// The file's name.
const FILE: &str = "scrub.json";
/// How often it is written while a scrub goes on.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// Longest sleep before it is looked whether to go on.
const NAP: Duration = Duration::from_millis(100);
/// How often it is looked whether one is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 60 });
/// Most objects named in the status.
const MAX_NAMED: usize = 100;

/// What a scrub is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubState {
    /// Nothing: the last one came to its end, or there was none.
    #[default]
    Idle,
    /// It reads.
    Running,
    /// It waits to be started again.
    Paused,
}

/// What a scrub has seen on one brick.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrickScrub {
    /// The brick's number.
    pub brick: u32,
    /// Whether all of it was read.
    pub is_done: bool,
    /// Objects read.
    pub objects: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Objects with other bytes than were written.
    pub rotten: u64,
    /// Of what was bad, what is as it was written again.
    pub mended: u64,
    /// Objects whose files were changed on the disk since they were written.
    pub changed: u64,
    /// Objects that could not be read.
    pub unreadable: u64,
    /// Objects without a digest, or that were being written.
    pub skipped: u64,
    /// How far it is.
    pub position: Position,
}

/// An object that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// On which brick.
    pub brick: u32,
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// What is wrong with it: `rotten`, `changed` or `unreadable`.
    pub what: String,
    /// Whether it is as it was written again.
    #[serde(default)]
    pub is_mended: bool,
}

/// A scrub, the present one or the last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScrubStatus {
    /// Version of the form.
    pub format: u32,
    /// What it is doing.
    pub state: ScrubState,
    /// When it began, seconds since 1970; 0 where none ever did.
    pub begun_s: i64,
    /// When it ended; 0 where it did not.
    pub ended_s: i64,
    /// Where none ever began: since when the first is waited for; else 0.
    pub waiting_since_s: i64,
    /// What it has seen.
    pub bricks: Vec<BrickScrub>,
    /// Objects that are not as they were written: the first of them.
    pub named: Vec<Named>,
}

impl ScrubStatus {
    fn read(own: &Path) -> Self {
        let found = std::fs::read(own.join(FILE)).ok();
        let status: Option<Self> = found.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        // One that cannot be understood is begun anew.
        status
            .filter(|status| status.format == FORMAT)
            .unwrap_or(Self {
                format: FORMAT,
                ..Self::default()
            })
    }

    fn begun(now_s: i64) -> Self {
        Self {
            format: FORMAT,
            state: ScrubState::Running,
            begun_s: now_s,
            ..Self::default()
        }
    }

    fn brick(&mut self, number: u32) -> &mut BrickScrub {
        let at = self.bricks.iter().position(|brick| brick.brick == number);
        let at = at.unwrap_or_else(|| {
            self.bricks.push(BrickScrub {
                brick: number,
                ..BrickScrub::default()
            });
            self.bricks.len() - 1
        });
        &mut self.bricks[at]
    }
}

/// The bricks to be read, by number, as they are when a scrub comes to them.
type Bricks<D> = Box<dyn Fn() -> Vec<(u32, Brick<D>)> + Send>;
/// Told of objects that are not as they were written, with the number of the brick. Gives whether
/// the object is mended.
type Found = Box<dyn Fn(u32, &Scrubbed) -> bool + Send>;

/// See the module.
pub struct Scrubber {
    shared: Arc<Shared>,
}

struct Shared {
    own: PathBuf,
    clock: Clock,
    pace: Pace,
    every: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    status: ScrubStatus,
    /// Counts the changes of what is to be done: who works for an earlier one stops.
    orders: u64,
    is_closed: bool,
    is_at_work: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a scrub where one is due. A volume that never had one gets its first after that time.
    fn begins_by_itself(&self, status: &mut ScrubStatus) -> bool {
        if self.every.is_zero() || status.state != ScrubState::Idle {
            return false;
        }
        let now_s = self.clock.now().secs();
        let every_s = i64::try_from(self.every.as_secs()).unwrap_or(i64::MAX);
        if status.begun_s == 0 && status.waiting_since_s == 0 {
            status.waiting_since_s = now_s;
            if let Err(error) = self.save(status) {
                tracing::warn!(%error, "when the next scrub is due cannot be kept");
            }
        }
        let last_s = status.begun_s.max(status.waiting_since_s);
        let is_due = now_s >= last_s.saturating_add(every_s);
        if is_due {
            *status = ScrubStatus::begun(now_s);
        }
        is_due
    }

    fn save(&self, status: &ScrubStatus) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(status)?;
        own_seat(&self.own)?.replace(FILE, &bytes)
    }
}

impl Scrubber {
    /// Opens the scrubs of a server; one that was under way goes on. `own` is the server's own
    /// directory, `found` is told of every object that is not as it was written. One begins by itself
    /// where the last began so long ago, or none ever did and the volume is as old; zero: none does.
    /// Errors: no thread can be started.
    pub fn open<D: Disk>(
        own: &Path,
        (limits, every): (Limits, Duration),
        clock: Clock,
        bricks: impl Fn() -> Vec<(u32, Brick<D>)> + Send + 'static,
        found: impl Fn(u32, &Scrubbed) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            own: own.to_owned(),
            clock,
            pace: Pace::new(limits),
            every,
            state: Mutex::new(State {
                status: ScrubStatus::read(own),
                orders: 0,
                is_closed: false,
                is_at_work: false,
            }),
            changed: Condvar::new(),
        });
        let working = Arc::clone(&shared);
        let (bricks, found): (Bricks<D>, Found) = (Box::new(bricks), Box::new(found));
        let thread = std::thread::Builder::new().name("scrub".to_owned());
        thread.spawn(move || work(&working, &bricks, &found))?;
        Ok(Self { shared })
    }

    /// What it is doing and has seen.
    pub fn status(&self) -> ScrubStatus {
        self.shared.lock().status.clone()
    }

    /// Begins a scrub, or goes on with the one that was paused. Durable.
    pub fn start(&self) -> io::Result<()> {
        let now_s = self.shared.clock.now().secs();
        self.order(|status| match status.state {
            ScrubState::Running => {}
            ScrubState::Paused => status.state = ScrubState::Running,
            ScrubState::Idle => *status = ScrubStatus::begun(now_s),
        })
    }

    /// Pauses a scrub; without one nothing happens. Durable.
    pub fn pause(&self) -> io::Result<()> {
        self.order(|status| {
            if status.state == ScrubState::Running {
                status.state = ScrubState::Paused;
            }
        })
    }

    fn order(&self, change: impl FnOnce(&mut ScrubStatus)) -> io::Result<()> {
        let mut state = self.shared.lock();
        change(&mut state.status);
        state.orders += 1;
        self.shared.changed.notify_all();
        self.shared.save(&state.status)
    }

    /// Ends what is under way; the next start goes on with it. Waits for the thread to let go of
    /// the bricks.
    pub fn close(&self) {
        let mut state = self.shared.lock();
        state.is_closed = true;
        self.shared.changed.notify_all();
        while state.is_at_work {
            let woken = self.shared.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
    }
}

fn work<D: Disk>(shared: &Shared, bricks: &Bricks<D>, found: &Found) {
    loop {
        let order = {
            let mut state = shared.lock();
            while state.status.state != ScrubState::Running && !state.is_closed {
                if shared.begins_by_itself(&mut state.status) {
                    state.orders += 1;
                    continue;
                }
                let woken = shared.changed.wait_timeout(state, LOOK_INTERVAL);
                (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_closed {
                return;
            }
            state.is_at_work = true;
            state.orders
        };
        let has_ended = pass(shared, order, bricks, found);
        let mut state = shared.lock();
        state.is_at_work = false;
        if has_ended && state.orders == order {
            state.status.state = ScrubState::Idle;
            state.status.ended_s = shared.clock.now().secs();
            let bad = state
                .status
                .bricks
                .iter()
                .map(|b| b.rotten + b.unreadable)
                .sum::<u64>();
            tracing::info!(event = "scrub.done", bad, "everything was read again");
        }
        if let Err(error) = shared.save(&state.status) {
            tracing::warn!(%error, "how far the scrub is cannot be kept");
        }
        shared.changed.notify_all();
    }
}

/// Reads what is left on every brick. True where it came to the end.
fn pass<D: Disk>(shared: &Shared, order: u64, bricks: &Bricks<D>, found: &Found) -> bool {
    for (number, brick) in bricks() {
        let position = {
            let mut state = shared.lock();
            let scrub = state.status.brick(number);
            if scrub.is_done {
                continue;
            }
            scrub.position.clone()
        };
        let mut visitor = Visitor {
            shared,
            order,
            number,
            found,
            begun: Instant::now(),
            saved: Instant::now(),
        };
        match brick.scrub(&position, &mut visitor) {
            Ok(true) => shared.lock().status.brick(number).is_done = true,
            Ok(false) => return false,
            Err(error) => {
                tracing::warn!(event = "scrub.failed", brick = number, %error, "a brick cannot be read");
                let mut state = shared.lock();
                let scrub = state.status.brick(number);
                scrub.unreadable += 1;
                scrub.is_done = true;
            }
        }
    }
    true
}

struct Visitor<'a> {
    shared: &'a Shared,
    order: u64,
    number: u32,
    found: &'a Found,
    begun: Instant,
    saved: Instant,
}

impl Visitor<'_> {
    fn goes_on(&self) -> bool {
        let state = self.shared.lock();
        !state.is_closed && state.orders == self.order
    }
}

impl Scrubbing for Visitor<'_> {
    fn may_read(&mut self, len_bytes: u64) -> bool {
        let wait = self.shared.pace.take(self.begun.elapsed(), len_bytes);
        let until = Instant::now() + wait;
        loop {
            if !self.goes_on() {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(NAP));
        }
    }

    fn scrubbed(&mut self, object: Scrubbed) -> bool {
        let what = match object.verdict {
            Verdict::Sound | Verdict::Skipped => None,
            Verdict::Rotten => Some("rotten"),
            Verdict::Changed => Some("changed"),
            Verdict::Unreadable => Some("unreadable"),
        };
        let mut is_mended = false;
        if let Some(what) = what {
            let (bucket, key) = (object.at.bucket.as_str(), object.at.key.as_str());
            let brick = self.number;
            tracing::warn!(
                event = "scrub.found",
                brick,
                bucket,
                key,
                what,
                "an object is not as it was written"
            );
            is_mended = (self.found)(brick, &object);
        }
        {
            let mut state = self.shared.lock();
            if state.orders != self.order {
                return false;
            }
            if let Some(what) = what.filter(|_| state.status.named.len() < MAX_NAMED) {
                state.status.named.push(Named {
                    brick: self.number,
                    bucket: object.at.bucket.as_str().to_owned(),
                    key: object.at.key.as_str().to_owned(),
                    what: what.to_owned(),
                    is_mended,
                });
            }
            let scrub = state.status.brick(self.number);
            scrub.objects += 1;
            scrub.read_bytes += object.len_bytes;
            scrub.mended += u64::from(is_mended);
            match object.verdict {
                Verdict::Sound => {}
                Verdict::Rotten => scrub.rotten += 1,
                Verdict::Changed => scrub.changed += 1,
                Verdict::Unreadable => scrub.unreadable += 1,
                Verdict::Skipped => scrub.skipped += 1,
            }
            scrub.position.bucket = object.at.bucket.as_str().to_owned();
            scrub.position.key = object.at.key.as_str().to_owned();
            if self.saved.elapsed() >= SAVE_INTERVAL {
                self.saved = Instant::now();
                if let Err(error) = self.shared.save(&state.status) {
                    tracing::warn!(%error, "how far the scrub is cannot be kept");
                }
            }
        }
        self.goes_on()
    }
}
