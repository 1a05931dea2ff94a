//! Which gateways serve a tree: each has a file `.portico/gateways/<instance>` and replaces it
//! every [`BEAT`]. Whether one lives is told by whether its file changes while it is watched, by
//! the watcher's own clock.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Inner;
use super::claim::Claims;
use super::disk::{Dir, SharedDisk};
use crate::brick::disk::{Disk, DiskFile};
use crate::brick::tree::{absent_is_none, failed, is_absent};
use crate::clock::Clock;
use crate::error::{Result, StoreError};
use crate::keypath::RESERVED;

/// How often a gateway shows that it lives.
pub const BEAT: Duration = Duration::from_secs(2);
/// A file that does not change for so long is a dead gateway's.
pub const DEAD_AFTER: Duration = Duration::from_secs(30);
/// How long a start watches the files of others.
pub const WATCHED_FOR: Duration = Duration::from_secs(7);
const PRIVATE_DIR_MODE: u32 = 0o700;
const MAX_LEN_BYTES: usize = 4_096;

/// Opens a directory of portico's own, making it where it is not.
pub(super) fn own_dir(disk: &Arc<SharedDisk>, name: &str) -> Result<Dir> {
    let fail = failed("make portico's own directories");
    let reserved = disk.open_dir(&disk.root(), RESERVED).map_err(&fail)?;
    match disk.make_dir(&reserved, name, PRIVATE_DIR_MODE) {
        Ok(()) => disk.sync_dir(&reserved).map_err(&fail)?,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(fail(e)),
    }
    disk.open_dir(&reserved, name).map_err(fail)
}

/// A gateway's own file and those of others.
pub struct Presence {
    claims: Arc<Claims>,
    disk: Arc<SharedDisk>,
    dir: Dir,
    instance: String,
    beats: AtomicU64,
    clock: Clock,
    /// How far this host's clock was ahead of the file system's times at the last beat, at most.
    ahead_ns: AtomicI64,
    /// Set once this gateway has said that it is gone; held while its file changes.
    has_left: Mutex<bool>,
}

/// What each gateway's file said when it was looked at.
pub(super) type Seen = BTreeMap<String, Vec<u8>>;

impl Presence {
    pub(super) fn new(claims: Arc<Claims>, dir: Dir, instance: &str, clock: Clock) -> Result<Self> {
        let disk = Arc::clone(claims.disk());
        Ok(Self {
            claims,
            disk,
            dir,
            instance: instance.to_owned(),
            beats: AtomicU64::new(0),
            clock,
            ahead_ns: AtomicI64::new(0),
            has_left: Mutex::new(false),
        })
    }

    /// The name of this gateway among the others.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Shows once more that this gateway lives.
    pub(super) fn beat(&self) -> Result<()> {
        let fail = failed("show that this gateway lives");
        let beat = self.beats.fetch_add(1, Ordering::Relaxed);
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let text = serde_json::json!({
            "host": host,
            "pid": std::process::id(),
            "beat": beat,
            "now_ns": self.clock.now().0,
        });
        let has_left = self.has_left.lock().unwrap_or_else(PoisonError::into_inner);
        if *has_left {
            return Ok(());
        }
        let stage = self.claims.stage()?;
        let (entry, file) = stage.create()?;
        file.write_at(0, text.to_string().as_bytes())
            .map_err(&fail)?;
        let written_ns = file.facts().map_err(&fail)?.mtime_ns;
        let ahead_ns = self.clock.now().0.saturating_sub(written_ns);
        self.ahead_ns.store(ahead_ns, Ordering::Relaxed);
        stage.place(&entry, &self.dir, &self.instance).map_err(fail)
    }

    /// By how much this host's clock may be ahead of the file system's times, in nanoseconds.
    pub(super) fn ahead_ns(&self) -> i64 {
        self.ahead_ns.load(Ordering::Relaxed)
    }

    /// By how much this host's clock may be ahead of the one of the gateway that has just written
    /// this, in nanoseconds; none where it does not say.
    pub(super) fn ahead_of_ns(&self, said: &[u8]) -> Option<i64> {
        let said: serde_json::Value = serde_json::from_slice(said).ok()?;
        let then_ns = said.get("now_ns")?.as_i64()?;
        Some(self.clock.now().0.saturating_sub(then_ns))
    }

    pub(super) fn leave(&self) -> Result<()> {
        *self.has_left.lock().unwrap_or_else(PoisonError::into_inner) = true;
        absent_is_none(self.disk.unlink(&self.dir, &self.instance))
            .map(|_| ())
            .map_err(failed("say that this gateway is gone"))
    }

    pub(super) fn forget(&self, instance: &str) {
        let _ = self.disk.unlink(&self.dir, instance);
    }

    /// The files of other gateways, as they are now.
    pub(super) fn look(&self) -> Result<Seen> {
        let fail = failed("look for other gateways");
        let mut names = Vec::new();
        self.disk
            .read_dir(&self.dir, &mut |entry| {
                names.push(entry.name);
                true
            })
            .map_err(&fail)?;
        let mut seen = Seen::new();
        for name in names.into_iter().filter(|name| *name != self.instance) {
            let file = match self.disk.open_own(&self.dir, &name, false) {
                Ok(file) => file,
                Err(e) if is_absent(&e) => continue,
                Err(e) => return Err(fail(e)),
            };
            match file.read_at(0, MAX_LEN_BYTES) {
                Ok(bytes) => drop(seen.insert(name, bytes)),
                Err(e) if super::disk::is_gone(&e) => {}
                Err(e) => return Err(fail(e)),
            }
        }
        Ok(seen)
    }

    /// Whether another gateway lives: at once where none has a file, else watching for some
    /// seconds whether one changes. Blocks.
    pub fn has_others(&self) -> Result<Option<String>> {
        let before = self.look()?;
        let began = Instant::now();
        while !before.is_empty() && began.elapsed() < WATCHED_FOR {
            std::thread::sleep(BEAT / 8);
            let now = self.look()?;
            let lives = now
                .iter()
                .find(|(name, bytes)| before.get(*name) != Some(*bytes));
            if let Some((_, bytes)) = lives {
                return Ok(Some(String::from_utf8_lossy(bytes).into_owned()));
            }
        }
        Ok(None)
    }
}

/// Shows that a gateway lives for as long as it does; on a thread of its own, for those of requests
/// may all be waiting.
pub(super) fn start(inner: &Arc<Inner>) -> Result<()> {
    let inner = Arc::downgrade(inner);
    let beating = move || {
        loop {
            std::thread::sleep(BEAT);
            let Some(live) = inner.upgrade().filter(|inner| !inner.is_stopping()) else {
                return;
            };
            if let Err(e) = live.presence.beat() {
                tracing::warn!("this gateway cannot show that it lives: {e}");
            }
        }
    };
    std::thread::Builder::new()
        .name("presence".to_owned())
        .spawn(beating)
        .map(drop)
        .map_err(|e| StoreError::from_io("show that this gateway lives", e))
}
