//! Claims: who may change a name now, among gateways that share nothing but the file system.
//!
//! A claim is a directory, `.portico/claims/<name>`, that is not empty:
//!
//! 1. whoever wants it prepares a directory of its own in staging, with the staged file (or an
//!    empty one) in it, under a name that nobody else ever uses;
//! 2. it renames that directory to the claim's name. rename(2) refuses a directory that is not
//!    empty, so one succeeds;
//! 3. what is published is renamed *out of* the claim's directory, what is removed is renamed
//!    *into* it, both through the descriptor the holder has of it;
//! 4. when the directory is empty the claim is over; whoever sees it empty removes it.
//!
//! A holder that died is told by this: its claim has had the same names in it for all of
//! [`PATIENCE`] while it was watched (see [`super::watch`]), by the observer's own clock; no clock
//! is compared with another host's. Who breaks a claim takes away the names that were watched and
//! then the directory. That fences a holder that
//! was only asleep: the name it would move out is not there, or the directory it would move into
//! is gone. Of the holder's rename and the breaker's unlink of the same name the file system lets
//! one win, and both sides learn which. What no rename tells the holder notes in its claim: see
//! [`notes`].

mod notes;
mod renewing;
mod stage;
mod wait;

use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

pub use self::notes::Uploads;
pub use self::stage::Stage;
pub use self::wait::Seen;

use super::disk::{Dir, SharedDisk, is_gone};
use crate::brick::buckets::remove_all_in;
use crate::brick::disk::{Disk, DiskFile};
use crate::brick::osdisk::OsFile;
use crate::brick::tree::{failed, is_absent};
use crate::error::{Result, StoreError};

/// How long a claim must not have moved before it is broken.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Permissions of what is portico's own.
const PRIVATE_DIR_MODE: u32 = 0o700;

/// Directories that claims need.
pub struct Places {
    /// Where they stand.
    pub claims: Dir,
    /// Where they are prepared.
    pub staging: Dir,
    /// Where it is marked that one was broken: see [`notes`].
    pub broken: Dir,
}

/// All claims of a tree, as one gateway makes them.
pub struct Claims {
    disk: Arc<SharedDisk>,
    claims: Dir,
    staging: Dir,
    broken: Dir,
    /// This gateway's directory in staging.
    home: String,
    instance: String,
    next: AtomicU64,
    patience: Duration,
    uploads: OnceLock<Weak<dyn Uploads>>,
    /// Requests of this process wait for each other here, not by looking at the disk.
    turns: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
    /// Requests that block a thread until they have a claim.
    blocked: AtomicUsize,
}

impl Claims {
    /// Claims of the gateway `instance`.
    pub fn new(disk: Arc<SharedDisk>, places: Places, instance: &str, patience: Duration) -> Self {
        let Places {
            claims,
            staging,
            broken,
        } = places;
        Self {
            disk,
            claims,
            staging,
            broken,
            home: home_of(instance),
            instance: instance.to_owned(),
            next: AtomicU64::new(0),
            patience,
            uploads: OnceLock::new(),
            turns: Mutex::new(HashMap::new()),
            blocked: AtomicUsize::new(0),
        }
    }

    /// The disk they are on.
    pub fn disk(&self) -> &Arc<SharedDisk> {
        &self.disk
    }

    /// Takes this gateway's directory in staging away, where nothing is on its way.
    pub fn leave(&self) {
        let _ = self.disk.remove_dir(&self.staging, &self.home);
    }

    /// A name that nobody else ever uses.
    pub fn new_name(&self) -> String {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}-{n}", self.instance)
    }

    /// Waits until no other request of this process is about a claim of this name.
    pub async fn turn(&self, name: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            match turns.get(name).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    turns.retain(|_, turn| turn.strong_count() > 0);
                    let turn = Arc::new(AsyncMutex::new(()));
                    turns.insert(name.to_owned(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }

    /// Makes a directory of our own in staging.
    pub fn stage(self: &Arc<Self>) -> Result<Stage> {
        let fail = failed("prepare a staging directory");
        let name = self.new_name();
        let path = format!("{}/{name}", self.home);
        let make = || self.disk.make_dir(&self.staging, &path, PRIVATE_DIR_MODE);
        match make() {
            // Our first, or another gateway took us for dead and swept.
            Err(e) if is_absent(&e) || is_gone(&e) => {
                match self
                    .disk
                    .make_dir(&self.staging, &self.home, PRIVATE_DIR_MODE)
                {
                    Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(fail(e)),
                    _ => make().map_err(&fail)?,
                }
            }
            other => other.map_err(&fail)?,
        }
        let dir = self.disk.open_dir(&self.staging, &path).map_err(&fail)?;
        Ok(Stage {
            claims: Arc::clone(self),
            path,
            dir,
            held: Mutex::new(None),
            is_moved: AtomicBool::new(false),
        })
    }

    /// As [`Self::stage`], with a file in it, so that it can be a claim.
    pub fn stage_held(self: &Arc<Self>) -> Result<Stage> {
        let stage = self.stage()?;
        stage.hold()?;
        Ok(stage)
    }

    fn names_in(&self, dir: &Dir) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        self.disk
            .read_dir(dir, &mut |entry| {
                names.insert(entry.name);
                true
            })
            .map_err(failed("look at a claim"))?;
        Ok(names)
    }

    /// Takes these names out of a claim's directory, and the directory away if it is then the one
    /// of that name: one that is not empty stays.
    fn empty(&self, dir: &Dir, name: &str, names: &BTreeSet<String>) {
        for entry in names {
            match self.disk.unlink(dir, entry) {
                Err(e) if !is_absent(&e) => remove_below(&self.disk, dir, entry),
                _ => {}
            }
        }
        let _ = self.disk.remove_dir(&self.claims, name);
    }

    fn claim_of(self: &Arc<Self>, stage: &Stage, name: &str) -> Claim {
        stage.is_moved.store(true, Ordering::Release);
        let mut held = stage.held.lock().unwrap_or_else(PoisonError::into_inner);
        Claim {
            claims: Arc::clone(self),
            name: name.to_owned(),
            dir: Arc::clone(&stage.dir),
            held: Mutex::new(held.take()),
        }
    }
}

/// The directory in staging of a gateway.
pub fn home_of(instance: &str) -> String {
    format!("g-{instance}")
}

fn create_in(claims: &Claims, dir: &Dir) -> Result<(String, OsFile)> {
    let name = claims.new_name();
    let file = claims
        .disk
        .open_own(dir, &name, true)
        .map_err(failed("make a staged file"))?;
    Ok((name, file))
}

/// Removes a directory that was taken into a claim.
fn remove_below(disk: &SharedDisk, dir: &Dir, name: &str) {
    if let Ok(below) = disk.open_dir(dir, name) {
        let _ = remove_all_in(disk, &below);
        let _ = disk.remove_dir(dir, name);
    }
}

/// A claim that is ours. Dropping it gives it up.
pub struct Claim {
    claims: Arc<Claims>,
    name: String,
    dir: Dir,
    /// The file of it that has no other purpose than to be renamed: see [`Self::renew`].
    held: Mutex<Option<String>>,
}

impl Claim {
    /// Moves a file out of the claim to a name, replacing the file there. NotFound where the
    /// claim was broken, or where the directory it goes to is gone: see [`Self::has`].
    pub fn place(&self, entry: &str, to: &Dir, name: &str) -> io::Result<()> {
        match self.claims.disk.rename(&self.dir, entry, to, name) {
            Err(e) if is_gone(&e) => Err(ErrorKind::NotFound.into()),
            other => other,
        }
    }

    /// As [`Self::place`], where nothing is: AlreadyExists otherwise.
    pub fn place_new(&self, entry: &str, to: &Dir, name: &str) -> io::Result<()> {
        let disk = &self.claims.disk;
        match disk.link_name(&self.dir, entry, to, name) {
            Err(e) if is_gone(&e) => return Err(ErrorKind::NotFound.into()),
            // A server that lost its answer, and was asked again, says so of its own work.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                let ino = |dir: &Dir, name: &str| disk.stat(dir, name).ok().map(|facts| facts.ino);
                if ino(to, name).is_none() || ino(to, name) != ino(&self.dir, entry) {
                    return Err(e);
                }
            }
            other => other?,
        }
        let _ = disk.unlink(&self.dir, entry);
        Ok(())
    }

    /// Takes a name away, as one step: what had it, a directory with all in it too, is in the
    /// claim's directory afterwards, and goes with the claim. Gives its name there. NotFound where
    /// nothing has the name, or where the claim was broken.
    pub fn take(&self, from: &Dir, name: &str) -> io::Result<String> {
        let entry = self.claims.new_name();
        match self.claims.disk.rename(from, name, &self.dir, &entry) {
            Err(e) if is_gone(&e) => Err(ErrorKind::NotFound.into()),
            other => other.map(|()| entry),
        }
    }

    /// Keeps a directory from being removed, by whoever slept while this claim was taken over.
    /// NotFound where the claim was broken, or the directory is gone.
    pub fn obstruct(&self, entry: &str, dir: &Dir) -> io::Result<()> {
        self.claims.disk.obstruct(&self.dir, entry, dir)
    }

    /// Undoes [`Self::obstruct`]; gives the obstacle's name in the claim.
    pub fn take_obstacle(&self, dir: &Dir) -> io::Result<Option<String>> {
        let entry = self.claims.new_name();
        let taken = self.claims.disk.take_obstacle(dir, &self.dir, &entry)?;
        Ok(taken.then_some(entry))
    }

    /// Gives what has a name another one in the claim; gives that name. A directory is refused.
    pub fn link(&self, from: &Dir, name: &str) -> io::Result<String> {
        let entry = self.claims.new_name();
        let disk = &self.claims.disk;
        disk.link_name(from, name, &self.dir, &entry)
            .map(|()| entry)
    }

    /// Makes a file in the claim.
    pub fn create(&self) -> Result<(String, OsFile)> {
        create_in(&self.claims, &self.dir)
    }

    /// Makes a file with these bytes in the claim, durably.
    pub fn create_with(&self, bytes: &[u8]) -> Result<String> {
        let fail = failed("write a file of portico's own");
        let (entry, file) = self.create()?;
        file.write_at(0, bytes).map_err(&fail)?;
        file.sync().map_err(&fail)?;
        Ok(entry)
    }

    /// Whether a file is still in the claim: else it was broken.
    pub fn has(&self, entry: &str) -> bool {
        self.claims.disk.stat(&self.dir, entry).is_ok()
    }

    /// Shows who watches that the claim is alive. Errors: Conflict where it was broken.
    pub fn renew(&self) -> Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (disk, next) = (&self.claims.disk, self.claims.new_name());
        let renewed = match &*held {
            Some(name) => disk.rename(&self.dir, name, &self.dir, &next),
            // Its first file is to be published: what moves is one of its own.
            None => disk.open_own(&self.dir, &next, true).map(drop),
        };
        match renewed {
            Ok(()) => *held = Some(next),
            Err(e) if is_absent(&e) || is_gone(&e) => return Err(StoreError::Conflict),
            Err(e) => return Err(StoreError::from_io("renew a claim", e)),
        }
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Here and now: the next to want it would wait.
        let names = self.claims.names_in(&self.dir).unwrap_or_default();
        self.claims.empty(&self.dir, &self.name, &names);
    }
}

#[cfg(test)]
mod tests;
