//! How a session waits for the kernel's next request: asleep, or eagerly while requests come close
//! upon each other.
//!
//! A thread asleep in read(2) has to be woken for each request, by which time it could have
//! answered most (in a virtual machine 15 to 20 µs). So while one request follows the other a thread of the
//! session reads again and again instead: its descriptor does not block (open(2), O_NONBLOCK), and
//! fuser goes on at EAGAIN. It sleeps again where requests become rare, and where no processor has been
//! idle beside it: then it takes what others have work for.

use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::thread::{CpuSet, sched_getaffinity};

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
/// How often it is asked whether a processor was idle.
const WATCH: Duration = Duration::from_millis(250);
/// One was where all together idled for this part of that time.
const ENOUGH_IDLE_PART: u32 = 8;
/// How long a session is not eager after none was idle, in microseconds.
const MODESTY_US: u64 = 1_000_000;

/// A session's way to wait. Dropping it ends its thread.
#[derive(Debug)]
pub struct Eagerness {
    state: Arc<State>,
    /// None only while it is dropped.
    keeper: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    /// The description that one of the session's threads reads from, and no other.
    device: OwnedFd,
    born: Instant,
    requests: AtomicU64,
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
        let ours = sched_getaffinity(None)?;
        let granted = std::thread::available_parallelism().map_or(1, NonZero::get);
        // Where fewer are granted than are ours, time on them is: it is not spent on waiting.
        if granted < 2 || granted < ours.count() as usize {
            return Ok(None);
        }
        Self::with(device, move || idle_of(&ours)).map(Some)
    }

    fn with(
        device: OwnedFd,
        idle: impl Fn() -> Option<Duration> + Send + 'static,
    ) -> io::Result<Self> {
        let state = Arc::new(State {
            device,
            born: Instant::now(),
            requests: AtomicU64::new(0),
            looked_us: AtomicU64::new(0),
            modest_until_us: AtomicU64::new(0),
            is_eager: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
        });
        let kept = Arc::clone(&state);
        let keeper = std::thread::Builder::new()
            .name("eager".to_owned())
            .spawn(move || kept.keep(&idle))?;
        Ok(Self {
            state,
            keeper: Some(keeper),
        })
    }

    /// Notes a request.
    pub fn note(&self) {
        let state = &self.state;
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
        // The keeper alone touches the descriptor.
        if let Some(keeper) = &self.keeper
            && !state.is_eager.swap(true, Ordering::AcqRel)
        {
            keeper.thread().unpark();
        }
    }
}

impl Drop for Eagerness {
    fn drop(&mut self) {
        self.state.has_ended.store(true, Ordering::Release);
        if let Some(keeper) = self.keeper.take() {
            keeper.thread().unpark();
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

    /// Begins and ends each time of eagerness.
    fn keep(&self, idle: &dyn Fn() -> Option<Duration>) {
        while !self.has_ended.load(Ordering::Acquire) {
            if !self.is_eager.load(Ordering::Acquire) {
                std::thread::park();
                continue;
            }
            self.block(false);
            if self.was_in_the_way(idle) {
                let until = self.now_us().saturating_add(MODESTY_US);
                self.modest_until_us.store(until, Ordering::Relaxed);
            }
            self.block(true);
            self.is_eager.store(false, Ordering::Release);
        }
    }

    /// Waits until it is time to sleep, and says whether that is for others.
    fn was_in_the_way(&self, idle: &dyn Fn() -> Option<Duration>) -> bool {
        let mut quiet = 0;
        let mut before = self.requests.load(Ordering::Relaxed);
        let mut watched = (Instant::now(), idle());
        loop {
            std::thread::sleep(TICK);
            let now = self.requests.load(Ordering::Relaxed);
            let is_quiet = now.wrapping_sub(before) < FEW;
            before = now;
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet == QUIET_TICKS || self.has_ended.load(Ordering::Acquire) {
                return false;
            }
            let passed = watched.0.elapsed();
            if passed >= WATCH {
                let idle = idle();
                let idled = idle
                    .zip(watched.1)
                    .map(|(now, then)| now.saturating_sub(then));
                if idled.is_none_or(|idled| idled < passed / ENOUGH_IDLE_PART) {
                    return true;
                }
                watched = (Instant::now(), idle);
            }
        }
    }
}

/// How long some processors have been idle, all together.
fn idle_of(processors: &CpuSet) -> Option<Duration> {
    parse_idle(&std::fs::read_to_string("/proc/stat").ok()?, processors)
}

/// The fourth number of each processor's line, in hundredths of a second. Source: proc_stat(5).
fn parse_idle(stat: &str, processors: &CpuSet) -> Option<Duration> {
    let mut idle_cs = None;
    for line in stat.lines().take_while(|line| line.starts_with("cpu")) {
        let mut words = line.split_ascii_whitespace();
        // The first line, of all together, has no number.
        let number = words.next()?.strip_prefix("cpu")?.parse().ok();
        if number.is_some_and(|n| n < CpuSet::MAX_CPU && processors.is_set(n)) {
            let idle: u64 = words.nth(3)?.parse().ok()?;
            idle_cs = Some(idle_cs.unwrap_or(0) + idle);
        }
    }
    idle_cs.map(|cs| Duration::from_millis(10 * cs))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::Duration;

    use rustix::fs::{OFlags, fcntl_getfl};
    use rustix::thread::CpuSet;

    use super::{BURST, Eagerness, parse_idle};

    /// Where the processors have always been idle so long.
    fn session(idle: Option<Duration>) -> (OwnedFd, Eagerness) {
        let (device, _) = rustix::pipe::pipe().unwrap();
        let same = device.try_clone().unwrap();
        (same, Eagerness::with(device, move || idle).unwrap())
    }

    fn blocks(device: &OwnedFd) -> bool {
        let flags = fcntl_getfl(device.as_fd()).unwrap();
        !flags.contains(OFlags::NONBLOCK)
    }

    /// As fast as this thread can, until the session does not sleep any more.
    fn hurry(device: &OwnedFd, eagerness: &Eagerness) {
        while blocks(device) {
            (0..2 * BURST).for_each(|_| eagerness.note());
        }
    }

    #[test]
    fn it_is_eager_while_requests_come_and_sleeps_after() {
        let (device, eagerness) = session(None);
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
        let (device, eagerness) = session(None);
        eagerness.note();
        assert!(blocks(&device));
    }

    #[test]
    fn it_sleeps_where_no_processor_was_idle_though_requests_go_on() {
        let (device, eagerness) = session(Some(Duration::from_secs(7)));
        hurry(&device, &eagerness);
        while !blocks(&device) {
            eagerness.note();
        }
    }

    #[test]
    fn its_end_leaves_a_descriptor_that_blocks() {
        let (device, eagerness) = session(None);
        hurry(&device, &eagerness);
        drop(eagerness);
        assert!(blocks(&device));
    }

    #[test]
    fn the_kernel_says_how_long_processors_were_idle() {
        let stat =
            "cpu  9 9 9 700 9\ncpu0 1 2 3 100 5\ncpu1 1 2 3 250 5\ncpu2 1 2 3 350 5\nintr 1\n";
        let mut ours = CpuSet::new();
        assert_eq!(parse_idle(stat, &ours), None);
        ours.set(0);
        ours.set(2);
        assert_eq!(parse_idle(stat, &ours), Some(Duration::from_millis(4_500)));
        assert_eq!(parse_idle("cpu0 1 2", &ours), None);
    }
}
