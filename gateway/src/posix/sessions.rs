//! The mounts that a process serves: begun, counted, waited for.
//!
//! A change made through a mount is not told to any session: its own kernel knows. So as soon as
//! a volume has two, none may remember anything, and what was remembered is forgotten. Mounts that
//! share a file system have one session.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::{Duration, Instant};

use fsstore::files::{FilePath, Files, FilesWatcher};
use fsstore::locks::{Device, LockPlace};

pub use super::fuse::DataPath;
use super::fuse::{self, Running};

/// Threads of one session. More than the processors, because a call may wait for the disk.
const MAX_THREADS: usize = 8;
const MIN_THREADS: usize = 4;

/// What a mount shows, and what can be done through it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// Where it begins in the volume.
    pub base: FilePath,
    /// Whether devices can be made through it.
    pub may_make_devices: bool,
}

/// What the mounts of a volume have in common.
#[derive(Debug)]
pub struct Company {
    alone: RwLock<bool>,
    is_closed: AtomicBool,
}

impl Default for Company {
    fn default() -> Self {
        Self {
            alone: RwLock::new(true),
            is_closed: AtomicBool::new(false),
        }
    }
}

impl Company {
    /// True where the mount is alone. It stays so while the guard is held: over a reply.
    pub fn alone(&self) -> RwLockReadGuard<'_, bool> {
        self.alone.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once the volume answers no mount any more.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    fn set_alone(&self, is_alone: bool) {
        *self.alone.write().unwrap_or_else(PoisonError::into_inner) = is_alone;
    }
}

#[derive(Default)]
struct Live {
    next: u64,
    sessions: Vec<(u64, Weak<dyn FilesWatcher>)>,
}

/// What sessions share with those who wait for them.
#[derive(Default)]
struct Shared {
    company: Arc<Company>,
    live: Mutex<Live>,
    ended: Condvar,
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sessions on one volume. Clones share them.
pub struct Sessions<V> {
    volume: Arc<V>,
    shared: Arc<Shared>,
}

impl<V> Clone for Sessions<V> {
    fn clone(&self) -> Self {
        Self {
            volume: Arc::clone(&self.volume),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<V: Files> Sessions<V> {
    /// None so far.
    pub fn new(volume: Arc<V>) -> Self {
        Self {
            volume,
            shared: Arc::default(),
        }
    }

    /// Begins to serve a mount by its device. Errors: ENOENT where what it shows is not there.
    pub fn start(&self, terms: Terms, device: OwnedFd) -> std::io::Result<Session> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (2 * processors).clamp(MIN_THREADS, MAX_THREADS);
        // Held to the end: two that begin at once count each other.
        let mut live = self.shared.live();
        if !live.sessions.is_empty() {
            self.shared.company.set_alone(false);
            let others = live.sessions.iter();
            let others: Vec<_> = others.filter_map(|(_, other)| other.upgrade()).collect();
            others.iter().for_each(|other| other.all_changed());
        }
        let company = Arc::clone(&self.shared.company);
        let started = fuse::start(Arc::clone(&self.volume), terms, device, company, threads);
        let running = started.inspect_err(|_| self.shared.settle(&live))?;
        self.volume.watch(&running.watcher);
        // What changed between the first answers and this.
        running.watcher.all_changed();
        live.next += 1;
        let number = live.next;
        live.sessions
            .push((number, Arc::downgrade(&running.watcher)));
        Ok(Session {
            number,
            locks: None,
            running: Some(running),
            shared: Arc::clone(&self.shared),
        })
    }

    /// Tells the volume that locks on a session's file system are locks on its files, as long as
    /// the session lasts.
    pub fn keep_locks(&self, session: &mut Session, file_system: std::io::Result<Device>) {
        match file_system {
            Ok(device) => session.locks = Some(self.volume.keeps_locks_on(device)),
            Err(error) => tracing::warn!(%error, "locks taken through a mount are not seen"),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.shared.live().sessions.len()
    }

    /// From now on every call of those that are left is answered ENOTCONN.
    pub fn close(&self) {
        self.shared.company.is_closed.store(true, Ordering::Relaxed);
    }

    /// Waits until no more than `staying` are left, at most so long. Gives how many are left.
    pub fn wait(&self, staying: usize, longest: Duration) -> usize {
        let deadline = Instant::now() + longest;
        let mut live = self.shared.live();
        while live.sessions.len() > staying {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.ended.wait_timeout(live, left);
            live = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        live.sessions.len()
    }
}

impl Shared {
    fn settle(&self, live: &Live) {
        let is_alone = live.sessions.len() <= 1;
        if is_alone && !*self.company.alone() {
            // What the others did to directories it was not told.
            let left = live.sessions.iter();
            let left = left.filter_map(|(_, left)| left.upgrade());
            left.for_each(|left| left.all_changed());
        }
        self.company.set_alone(is_alone);
    }
}

/// A mount being served.
pub struct Session {
    number: u64,
    /// Held as long as locks can be held on its file system.
    locks: Option<LockPlace>,
    running: Option<Running>,
    shared: Arc<Shared>,
}

impl Session {
    /// Its number, which no other session of the volume has had.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How its bytes travel.
    pub fn data_path(&self) -> DataPath {
        let running = self.running.as_ref();
        running.map_or(DataPath::ThroughServer, |running| running.data_path)
    }

    /// Waits until the mount is gone: unmounted, and left by the last who used it.
    pub fn join(mut self) -> std::io::Result<()> {
        self.running.take().map_or(Ok(()), Running::join)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut live = self.shared.live();
        live.sessions.retain(|(number, _)| *number != self.number);
        self.shared.settle(&live);
        drop(live);
        self.shared.ended.notify_all();
    }
}
