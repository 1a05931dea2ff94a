//! How a session waits for the kernel's next request: asleep, or eagerly while requests come close
//! upon each other.
//!
//! A thread asleep in read(2) has to be woken for each request, by which time it could have
//! answered most (in a virtual machine 15 to 20 µs). So while one request follows the other a thread of the
//! session reads again and again instead: its descriptor does not block (open(2), O_NONBLOCK), and
//! fuser goes on at EAGAIN. It sleeps again where requests become rare, and where it has to wait for a
//! processor, which others have work for then.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// So many requests are looked at together.
const BURST: u64 = 16;
/// They are close upon each other where they come within this time, in microseconds.
const BURST_TIME_US: u64 = 5_000;
/// How often it is asked whether to go on.
const TICK: Duration = Duration::from_millis(1);
/// Requests in a tick below which it is a quiet one.
const FEW: u64 = 3;
/// Quiet ticks in a row after which the session sleeps.
const QUIET_TICKS: u32 = 2;
/// Ticks after which it is asked whether others want the processors.
const WATCHED_TICKS: u32 = 8;
/// They do where the eager thread waits for one longer than this part of the time.
const WAITING_PART: u32 = 3;
/// How long it then is not eager, in microseconds.
const MODESTY_US: u64 = 200_000;

/// A session's way to wait. Dropping it ends its thread.
#[derive(Debug)]
pub struct Eagerness {
    state: Arc<State>,
    keeper: Option<JoinHandle<()>>,
    thread: Thread,
}

thread_local! {
    /// Whether the session knows of this thread. It is one session's to its end.
    static IS_KNOWN: Cell<bool> = const { Cell::new(false) };
}

#[derive(Debug)]
struct State {
    /// The description that one of the session's threads reads from, and no other.
    device: OwnedFd,
    born: Instant,
    requests: AtomicU64,
    /// The session's threads, as far as they had a request.
    threads: Mutex<Vec<Schedule>>,
    /// When the last burst was looked at, in microseconds since `born`.
    looked_us: AtomicU64,
    /// Not before this, in microseconds since `born`.
    modest_until_us: AtomicU64,
    is_eager: AtomicBool,
    has_ended: AtomicBool,
}

impl Eagerness {
    /// For a session whose threads read `device`, one of them alone this description of it. None
    /// where there is no processor to spare. Errors: no thread can be had.
    pub fn of(device: OwnedFd) -> io::Result<Option<Self>> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        (processors > 1).then(|| Self::with(device)).transpose()
    }

    fn with(device: OwnedFd) -> io::Result<Self> {
        let state = Arc::new(State {
            device,
            born: Instant::now(),
            requests: AtomicU64::new(0),
            threads: Mutex::default(),
            looked_us: AtomicU64::new(0),
            modest_until_us: AtomicU64::new(0),
            is_eager: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
        });
        let kept = Arc::clone(&state);
        let keeper = std::thread::Builder::new()
            .name("eager".to_owned())
            .spawn(move || kept.keep())?;
        let thread = keeper.thread().clone();
        Ok(Self {
            state,
            keeper: Some(keeper),
            thread,
        })
    }

    /// Notes a request, on the session's thread that has it.
    pub fn note(&self) {
        let state = &self.state;
        if !IS_KNOWN.replace(true) {
            state.threads().extend(Schedule::of_this_thread());
        }
        let requests = state.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if !requests.is_multiple_of(BURST) || state.is_eager.load(Ordering::Relaxed) {
            return;
        }
        let now = state.now_us();
        let before = state.looked_us.swap(now, Ordering::Relaxed);
        let is_burst = now.saturating_sub(before) <= BURST_TIME_US;
        if !is_burst || now < state.modest_until_us.load(Ordering::Relaxed) {
            return;
        }
        if !state.is_eager.swap(true, Ordering::AcqRel) {
            state.block(false);
            self.thread.unpark();
        }
    }
}

impl Drop for Eagerness {
    fn drop(&mut self) {
        self.state.has_ended.store(true, Ordering::Release);
        self.thread.unpark();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

impl State {
    fn now_us(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn block(&self, blocks: bool) {
        let device = self.device.as_fd();
        let set = fcntl_getfl(device).and_then(|flags| {
            let without = flags - OFlags::NONBLOCK;
            fcntl_setfl(
                device,
                if blocks {
                    without
                } else {
                    without | OFlags::NONBLOCK
                },
            )
        });
        if let Err(error) = set {
            tracing::debug!(%error, "a session waits as it did");
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<Schedule>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turns(&self) -> Vec<Turns> {
        self.threads().iter().map(Schedule::turns).collect()
    }

    /// Ends each time of eagerness.
    fn keep(&self) {
        while !self.has_ended.load(Ordering::Acquire) {
            if !self.is_eager.load(Ordering::Acquire) {
                std::thread::park();
                continue;
            }
            if self.was_in_the_way() {
                let until = self.now_us().saturating_add(MODESTY_US);
                self.modest_until_us.store(until, Ordering::Relaxed);
            }
            self.block(true);
            // After the descriptor: whoever begins anew comes after it.
            self.is_eager.store(false, Ordering::Release);
        }
        self.block(true);
    }

    /// Waits until it is time to sleep, and says whether others wanted the processors.
    fn was_in_the_way(&self) -> bool {
        let (mut quiet, mut ticks) = (0, 0);
        let mut before = self.requests.load(Ordering::Relaxed);
        let mut since = (Instant::now(), self.turns());
        loop {
            std::thread::sleep(TICK);
            let now = self.requests.load(Ordering::Relaxed);
            let is_quiet = now.wrapping_sub(before) < FEW;
            before = now;
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet == QUIET_TICKS || self.has_ended.load(Ordering::Acquire) {
                return false;
            }
            ticks += 1;
            if ticks == WATCHED_TICKS {
                let now = (Instant::now(), self.turns());
                if eager_waited(&since.1, &now.1) > (now.0 - since.0) / WAITING_PART {
                    return true;
                }
                (ticks, since) = (0, now);
            }
        }
    }
}

/// A thread's turns on a processor so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Turns {
    ran: Duration,
    /// How long it could have run and did not.
    waited: Duration,
}

impl Turns {
    /// From the kernel's text: nanoseconds on a processor, nanoseconds on a run queue, turns.
    fn parse(schedstat: &[u8]) -> Option<Self> {
        let mut numbers = std::str::from_utf8(schedstat).ok()?.split_whitespace();
        let mut next = || numbers.next()?.parse().ok().map(Duration::from_nanos);
        let (ran, waited) = (next()?, next()?);
        Some(Self { ran, waited })
    }

    fn since(self, before: Self) -> Self {
        Self {
            ran: self.ran.saturating_sub(before.ran),
            waited: self.waited.saturating_sub(before.waited),
        }
    }
}

/// How long the eager one of the threads waited: that which ran or would have run longest.
fn eager_waited(before: &[Turns], now: &[Turns]) -> Duration {
    let turns = before.iter().zip(now).map(|(&b, &n)| n.since(b));
    let eager = turns.max_by_key(|turns| turns.ran + turns.waited);
    eager.unwrap_or_default().waited
}

/// Where the kernel tells of a thread's turns. Source: proc(5) and
/// Documentation/scheduler/sched-stats.rst, `/proc/PID/schedstat`.
#[derive(Debug)]
struct Schedule(File);

impl Schedule {
    /// None where the kernel does not tell.
    fn of_this_thread() -> Option<Self> {
        File::open("/proc/thread-self/schedstat").ok().map(Self)
    }

    fn turns(&self) -> Turns {
        let mut text = [0; 96];
        let len = self.0.read_at(&mut text, 0).unwrap_or(0);
        Turns::parse(&text[..len]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use rustix::fs::{OFlags, fcntl_getfl};

    use super::{BURST, Eagerness, Turns, eager_waited};

    fn session() -> (OwnedFd, Eagerness) {
        let (device, _) = rustix::pipe::pipe().unwrap();
        let same = device.try_clone().unwrap();
        (same, Eagerness::with(device).unwrap())
    }

    fn blocks(device: &OwnedFd) -> bool {
        !fcntl_getfl(device.as_fd())
            .unwrap()
            .contains(OFlags::NONBLOCK)
    }

    /// As fast as this thread can, until the session does not sleep any more.
    fn hurry(device: &OwnedFd, eagerness: &Eagerness) {
        while blocks(device) {
            (0..2 * BURST).for_each(|_| eagerness.note());
        }
    }

    #[test]
    fn it_is_eager_while_requests_come_and_sleeps_after() {
        let (device, eagerness) = session();
        assert!(blocks(&device));
        for _ in 0..2 {
            hurry(&device, &eagerness);
            while !blocks(&device) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn one_request_does_not_make_it_eager() {
        let (device, eagerness) = session();
        eagerness.note();
        assert!(blocks(&device));
    }

    #[test]
    fn it_sleeps_where_its_threads_wait_for_processors() {
        let (device, eagerness) = session();
        let processors = std::thread::available_parallelism().unwrap().get();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let others = 2 * processors;
            for _ in 0..others {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            hurry(&device, &eagerness);
            // Though requests go on.
            while !blocks(&device) {
                eagerness.note();
            }
            ended.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn its_end_leaves_a_descriptor_that_blocks() {
        let (device, eagerness) = session();
        hurry(&device, &eagerness);
        drop(eagerness);
        assert!(blocks(&device));
    }

    #[test]
    fn the_eager_thread_is_the_one_that_wants_to_run_most() {
        let turns = |text: &str| Turns::parse(text.as_bytes()).unwrap();
        let before = [turns("100 50 1\n"), turns("7000 60 1\n")];
        let now = [turns("900 55 9\n"), turns("7300 460 2\n")];
        assert_eq!(eager_waited(&before, &now), Duration::from_nanos(5));
        assert_eq!(eager_waited(&[], &now), Duration::ZERO);
        assert_eq!(Turns::parse(b"12"), None);
    }
}
