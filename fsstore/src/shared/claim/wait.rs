//! Waiting for claims that others have, and breaking those that do not move.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Claim, Claims, Stage};
use crate::brick::disk::Disk;
use crate::brick::sink::off_thread;
use crate::brick::tree::{failed, is_absent};
use crate::error::{Result, StoreError};
use crate::shared::disk::{is_gone, is_not_empty};
use crate::shared::watch::Watch;

/// How long a request waits for a claim in all.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Pauses between two looks at a claim that another has.
const FIRST_PAUSE: Duration = Duration::from_micros(500);
const LAST_PAUSE: Duration = Duration::from_millis(20);
/// Most requests that wait for a second claim, which holds a thread: others, that read, need some.
const MAX_BLOCKED: usize = 48;

/// A claim that another has, as it was seen.
pub type Seen = Option<Watch<BTreeSet<String>>>;

/// How far one look brought a request.
enum Step<A, T> {
    Done(T),
    Waits(Stage, A, Seen),
}

fn busy() -> StoreError {
    StoreError::Busy("another gateway is changing this name")
}

impl Claims {
    /// Prepares, takes a claim and acts under it. Waits without a thread for those who have it:
    /// a gateway that stands still must not keep others from reading. Errors: Busy after a minute.
    pub async fn under<T: Send + 'static, A>(
        self: &Arc<Self>,
        name: &str,
        prepare: impl FnOnce() -> Result<Stage> + Send + 'static,
        act: A,
    ) -> Result<T>
    where
        A: FnOnce(Claim) -> Result<T> + Send + 'static,
    {
        let (began, mut pause) = (Instant::now(), FIRST_PAUSE);
        let (claims, own) = (Arc::clone(self), name.to_owned());
        let first = move || claims.step(prepare()?, &own, act, None);
        let mut step = off_thread(first).await?;
        loop {
            let (stage, act, seen) = match step {
                Step::Done(outcome) => return Ok(outcome),
                Step::Waits(stage, act, seen) => (stage, act, seen),
            };
            if began.elapsed() > self.max_wait() {
                return Err(busy());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
            let (claims, own) = (Arc::clone(self), name.to_owned());
            step = off_thread(move || claims.step(stage, &own, act, seen)).await?;
        }
    }

    fn step<T, A>(
        self: &Arc<Self>,
        stage: Stage,
        name: &str,
        act: A,
        seen: Seen,
    ) -> Result<Step<A, T>>
    where
        A: FnOnce(Claim) -> Result<T>,
    {
        let mut seen = seen;
        if self.try_move(&stage, name)? {
            return act(self.claim_of(&stage, name)).map(Step::Done);
        }
        self.look_at_holder(name, &mut seen, self.patience)?;
        Ok(Step::Waits(stage, act, seen))
    }

    fn max_wait(&self) -> Duration {
        MAX_WAIT.max(self.patience * 3)
    }

    /// Takes a claim, waiting for those who have it. Blocks. Errors: Busy after a minute, or where
    /// too many block already.
    pub fn acquire(self: &Arc<Self>, stage: Stage, name: &str) -> Result<Claim> {
        self.acquire_beside(stage, name, None)
    }

    /// As [`Self::acquire`], for who has a claim already and keeps it meanwhile. Errors: Conflict
    /// where that was broken.
    pub fn acquire_beside(
        self: &Arc<Self>,
        stage: Stage,
        name: &str,
        other: Option<&Claim>,
    ) -> Result<Claim> {
        if self.try_move(&stage, name)? {
            return Ok(self.claim_of(&stage, name));
        }
        let _place = Blocked::new(self)?;
        let (began, mut renewed) = (Instant::now(), Instant::now());
        let (mut seen, mut pause) = (None, FIRST_PAUSE);
        loop {
            self.look_at_holder(name, &mut seen, self.patience)?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(LAST_PAUSE);
            if self.try_move(&stage, name)? {
                return Ok(self.claim_of(&stage, name));
            }
            if began.elapsed() > self.max_wait() {
                return Err(busy());
            }
            if let Some(other) = other
                && renewed.elapsed() >= self.patience / 4
            {
                renewed = Instant::now();
                other.renew()?;
            }
        }
    }

    fn try_move(&self, stage: &Stage, name: &str) -> Result<bool> {
        let moved = self
            .disk
            .rename(&self.staging, &stage.path, &self.claims, name);
        match moved {
            Ok(()) => Ok(true),
            Err(e) if is_not_empty(&e) => Ok(false),
            Err(e) if is_absent(&e) || is_gone(&e) => self.has_moved(stage, name, e),
            Err(e) => Err(StoreError::from_io("take a claim", e)),
        }
    }

    /// What a rename did that answered that there is nothing to rename: a server that lost its
    /// answer, and was asked again, says so of one that it has done. Errors: Busy where what was
    /// staged is gone, for another gateway took this one for dead.
    fn has_moved(&self, stage: &Stage, name: &str, e: io::Error) -> Result<bool> {
        let ours = self.disk.stat_dir(&stage.dir).map(|facts| facts.ino);
        let is_at = |base, path: &str| {
            let there = self.disk.open_dir(base, path);
            let there = there.and_then(|dir| self.disk.stat_dir(&dir));
            ours.is_ok() && there.ok().map(|facts| facts.ino) == ours.as_ref().ok().copied()
        };
        if is_at(&self.claims, name) {
            return Ok(true);
        }
        if is_at(&self.staging, &stage.path) {
            return Ok(false);
        }
        tracing::warn!(name, "what was prepared for a claim is gone: {e}");
        Err(StoreError::Busy("this gateway was taken for dead"))
    }

    /// Looks at who has a claim, and breaks it where it has not moved for `patience`.
    fn look_at_holder(&self, name: &str, seen: &mut Seen, patience: Duration) -> Result<()> {
        let began = Instant::now();
        let Ok(dir) = self.disk.open_dir(&self.claims, name) else {
            return Ok(());
        };
        let names = self.names_in(&dir)?;
        if names.is_empty() {
            let _ = self.disk.remove_dir(&self.claims, name);
            return Ok(());
        }
        match seen {
            Some(watch) => {
                if watch.is_still(names, began, patience) {
                    let names = watch.state();
                    tracing::warn!(name, ?names, "a claim that does not move is broken");
                    self.heed(&dir, name, names)?;
                    self.empty(&dir, name, names);
                    *seen = None;
                }
            }
            None => *seen = Some(Watch::new(names, began)),
        }
        Ok(())
    }

    /// Takes a claim if nobody has it, or if it has not moved for `patience` since the first look
    /// that `seen` remembers. For leases, which are looked at from time to time.
    pub fn try_acquire_for(
        self: &Arc<Self>,
        name: &str,
        seen: &mut Seen,
        patience: Duration,
    ) -> Result<Option<Claim>> {
        let stage = self.stage()?;
        stage.hold()?;
        if !self.try_move(&stage, name)? {
            self.look_at_holder(name, seen, patience)?;
            if !self.try_move(&stage, name)? {
                return Ok(None);
            }
        }
        Ok(Some(self.claim_of(&stage, name)))
    }

    /// Looks at all claims but one, and breaks those of gateways that died with bodies, or what
    /// was deleted, in them: nobody else may ever want these names.
    pub fn sweep(&self, except: &str, seen: &mut BTreeMap<String, Seen>) -> Result<()> {
        let mut names = BTreeSet::new();
        self.disk
            .read_dir(&self.claims, &mut |entry| {
                names.insert(entry.name);
                true
            })
            .map_err(failed("look at claims"))?;
        names.remove(except);
        seen.retain(|name, _| names.contains(name));
        for name in names {
            let watch = seen.entry(name.clone()).or_default();
            match self.look_at_holder(&name, watch, self.patience) {
                // It was given up meanwhile.
                Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// One of those that block.
struct Blocked<'a>(&'a Claims);

impl<'a> Blocked<'a> {
    /// Errors: Busy.
    fn new(claims: &'a Claims) -> Result<Self> {
        let place = Self(claims);
        match claims.blocked.fetch_add(1, Ordering::AcqRel) < MAX_BLOCKED {
            true => Ok(place),
            false => Err(busy()),
        }
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.0.blocked.fetch_sub(1, Ordering::AcqRel);
    }
}
