//! Names of directories, as walks read them.
//!
//! They are kept in memory where a directory's times tell of every change, and only while they are
//! older than [`QUIET_NS`]: a directory that changed within that time is read again, for the next
//! change may be of the same tick, or of a host whose clock is behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::brick::disk::{Disk, FileKind};
use crate::brick::tree::kind_met;
use crate::clock::Clock;
use crate::error::{Result, StoreError};
use crate::shared::disk::{Dir, SharedDisk};

/// How long nothing must have changed before what was read is kept in memory: longer than times
/// are coarse (2 s on FAT), and than clocks of hosts may differ (5 s; `portico doctor` measures).
pub const QUIET_NS: i64 = 10_000_000_000;
/// What is left of that for looks that take their time.
const MARGIN_NS: i64 = 1_000_000_000;
/// Most names of one directory in memory for one walk.
const CHUNK_NAMES: usize = 1 << 18;
/// Most bytes of names kept between walks.
const MAX_KEPT_BYTES: u64 = 64 << 20;
/// What stands at a name, as a walk takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// May be an object.
    File,
    /// May be an object in its shelter.
    Shelter,
    /// A directory; its name ends in a slash.
    Dir,
}

/// Names of a directory, in order.
pub(super) type List = Arc<[(Box<str>, Kind)]>;

/// A directory, and its times when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    ino: u64,
    mtime_ns: i64,
    ctime_ns: i64,
}

#[derive(Clone)]
pub(super) struct ByBytes;

impl Weighter<u64, (State, List)> for ByBytes {
    fn weight(&self, _: &u64, (_, list): &(State, List)) -> u64 {
        list.iter().map(|(name, _)| name.len() as u64 + 40).sum()
    }
}

/// Names of quiet directories.
pub struct Names {
    kept: Option<Cache<u64, (State, List), ByBytes>>,
    clock: Clock,
    /// Whether the clocks of hosts agree now.
    agrees: AtomicBool,
}

impl Names {
    /// None kept yet; none ever where a directory's times cannot be trusted.
    pub fn new(trusts_dir_times: bool, clock: Clock) -> Self {
        let kept = trusts_dir_times.then(|| Cache::with_weighter(1_024, MAX_KEPT_BYTES, ByBytes));
        Self {
            kept,
            clock,
            agrees: AtomicBool::new(true),
        }
    }

    /// Notes by how much this host's clock may be ahead of others', in nanoseconds: names of a
    /// directory that only seems quiet must not be kept, nor those that were.
    pub fn note_ahead(&self, ahead_ns: i64) {
        let agrees = ahead_ns < QUIET_NS - MARGIN_NS;
        if self.agrees.swap(agrees, Ordering::AcqRel) == agrees {
            return;
        }
        match (agrees, &self.kept) {
            (_, None) => {}
            (true, _) => tracing::info!("clocks agree: names of quiet directories are kept"),
            (false, Some(kept)) => {
                tracing::warn!(
                    ahead_ms = ahead_ns / 1_000_000,
                    "this host's clock is ahead of another's: names of directories are not kept"
                );
                kept.clear();
            }
        }
    }

    /// Whether names of quiet directories are kept.
    #[cfg(test)]
    pub fn keeps(&self) -> bool {
        self.kept().is_some()
    }

    pub(super) fn kept(&self) -> Option<&Cache<u64, (State, List), ByBytes>> {
        let agrees = self.agrees.load(Ordering::Acquire);
        self.kept.as_ref().filter(|_| agrees)
    }

    /// Names of a directory from `from` on; whether those are all there are.
    pub(super) fn read(&self, disk: &SharedDisk, dir: &Dir, from: &str) -> Result<(List, bool)> {
        let Some(kept) = self.kept() else {
            return read_names(disk, dir, from);
        };
        let state_now = || state_of(disk, dir);
        let before = state_now()?;
        if let Some((state, list)) = kept.get(&before.ino)
            && state == before
        {
            return Ok((list, true));
        }
        if !self.is_quiet(&before) {
            return read_names(disk, dir, from);
        }
        let (list, is_whole) = read_names(disk, dir, "")?;
        if !is_whole {
            return read_names(disk, dir, from);
        }
        if state_now()? == before {
            kept.insert(before.ino, (before, List::clone(&list)));
        }
        Ok((list, true))
    }

    /// Whether whatever changes a directory from now on changes its times.
    pub(super) fn is_quiet(&self, state: &State) -> bool {
        let newest = state.mtime_ns.max(state.ctime_ns);
        self.clock.now().0.saturating_sub(newest) > QUIET_NS
    }
}

pub(super) fn state_of(disk: &SharedDisk, dir: &Dir) -> Result<State> {
    let facts = disk.stat_dir(dir).map_err(failed)?;
    Ok(State {
        ino: facts.ino,
        mtime_ns: facts.mtime_ns,
        ctime_ns: facts.ctime_ns,
    })
}

pub(super) fn failed(e: std::io::Error) -> StoreError {
    StoreError::from_io("walk a bucket", e)
}

/// The smallest names from `from` on, at most [`CHUNK_NAMES`]; whether those are all.
pub(super) fn read_names(disk: &SharedDisk, dir: &Dir, from: &str) -> Result<(List, bool)> {
    let (mut names, mut is_whole, mut error) = (Vec::new(), true, None);
    let mut add = |name: String, kind: Kind| {
        if name.as_str() < from {
            return;
        }
        names.push((name.into_boxed_str(), kind));
        if names.len() >= 2 * CHUNK_NAMES {
            names.select_nth_unstable(CHUNK_NAMES);
            names.truncate(CHUNK_NAMES);
            is_whole = false;
        }
    };
    disk.read_dir_standing(dir, &mut |entry| {
        let kind = match kind_met(disk, dir, &entry) {
            Ok(Some(kind)) => kind,
            Ok(None) => return true,
            Err(e) => {
                error = Some(e);
                return false;
            }
        };
        match kind {
            FileKind::Dir => {
                add(format!("{}/", entry.name), Kind::Dir);
                add(entry.name, Kind::Shelter);
            }
            FileKind::File | FileKind::Symlink => add(entry.name, Kind::File),
            FileKind::Other => {}
        }
        true
    })
    .map_err(failed)?;
    if let Some(e) = error {
        return Err(failed(e));
    }
    names.sort_unstable();
    if names.len() > CHUNK_NAMES {
        names.truncate(CHUNK_NAMES);
        is_whole = false;
    }
    Ok((names.into(), is_whole))
}
