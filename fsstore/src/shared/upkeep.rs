//! What only one gateway may do, under the lease `upkeep`: a claim that is renewed between pieces
//! of work, and taken over when it has not moved for [`LEASE`].
//!
//! - staging and claims of gateways that died go;
//! - uploads that were completed or not quite removed go, and those of buckets that are gone;
//! - files made behind our back get a digest.
//!
//! Whatever two holders at once would do is done twice and harms nothing: the lease saves work.

mod hash;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Inner;
use super::claim::{Claim, Seen as SeenClaim};
use super::presence::{BEAT, DEAD_AFTER, Seen};
use super::watch::Watch;
use crate::brick::disk::Disk;
use crate::brick::sink::off_thread;
use crate::brick::tree::failed;
use crate::error::{Result, StoreError};
use crate::name::{BucketName, UploadId};

/// The lease's name among claims: no key's claim has it.
const NAME: &str = "upkeep";
/// A lease that has not moved for so long is taken over.
const LEASE: Duration = Duration::from_secs(30);
/// How often it is renewed.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// How often the other gateways are looked at: each has shown by then that it lives.
const LOOK_INTERVAL: Duration = BEAT.saturating_mul(2);
/// How often marks of broken claims are looked at: they are kept for days.
const MARKS_INTERVAL: Duration = Duration::from_secs(3_600);
/// For how many times as long as a round took nothing is done.
const REST: u32 = 20;
/// A file must have been left alone for so long before it is read for its digest, in nanoseconds.
const SETTLED_NS: i64 = 3_000_000_000;

/// What the last rounds saw of other gateways.
#[derive(Default)]
pub(super) struct Watched {
    lease: SeenClaim,
    /// Whether the last round was this gateway's: then it sweeps while it rests, too.
    keeps: bool,
    gateways: BTreeMap<String, Watch<Vec<u8>>>,
    /// Staging directories of gateways that have no file.
    homeless: BTreeMap<String, Watch<()>>,
    /// Those that have not changed, or not had a file, for all of [`DEAD_AFTER`].
    dead: BTreeSet<String>,
    /// By how much this host's clock was ahead of each at most, in nanoseconds.
    ahead_ns: BTreeMap<String, i64>,
    /// What else is in staging: side files on their way.
    strays: BTreeMap<String, Watch<()>>,
    claims: BTreeMap<String, SeenClaim>,
    /// Buckets that are gone and have left something, when they were last looked at.
    bucketless: BTreeSet<BucketName>,
    /// Uploads that had no first file when they were last looked at.
    headless: BTreeSet<(BucketName, UploadId)>,
    /// When marks of broken claims were last looked at.
    marks: Option<Instant>,
}

impl Watched {
    /// Notes what a look at the gateways' files, and at what is staged, that began then saw.
    fn note(&mut self, began: Instant, seen: Seen, mut homes: BTreeSet<String>) {
        self.dead.clear();
        homes.retain(|instance| !seen.contains_key(instance));
        self.gateways
            .retain(|instance, _| seen.contains_key(instance));
        self.homeless.retain(|instance, _| homes.contains(instance));
        for (instance, bytes) in seen {
            if is_still(&mut self.gateways, &instance, bytes, began) {
                self.dead.insert(instance);
            }
        }
        for instance in homes {
            if is_still(&mut self.homeless, &instance, (), began) {
                self.dead.insert(instance);
            }
        }
    }
}

fn is_still<T: PartialEq>(
    known: &mut BTreeMap<String, Watch<T>>,
    instance: &str,
    state: T,
    began: Instant,
) -> bool {
    match known.get_mut(instance) {
        Some(watch) => watch.is_still(state, began, DEAD_AFTER),
        None => {
            known.insert(instance.to_owned(), Watch::new(state, began));
            false
        }
    }
}

/// A lease, renewed as the work goes on.
pub(super) struct Lease {
    claim: Claim,
    renewed: Instant,
}

impl Lease {
    /// Errors: Conflict where another gateway took it over.
    fn keep(&mut self) -> Result<()> {
        if self.renewed.elapsed() < RENEW_INTERVAL {
            return Ok(());
        }
        self.renewed = Instant::now();
        self.claim.renew()
    }
}

/// Does the upkeep for as long as the gateway lives.
pub(super) fn start(inner: &Arc<Inner>) {
    let shortest = inner.options.upkeep_interval;
    let inner = Arc::downgrade(inner);
    tokio::spawn(async move {
        let (mut watched, mut pause) = (Watched::default(), shortest);
        loop {
            // Others are watched however long a rest is.
            let slept = pause.min(LOOK_INTERVAL.max(shortest));
            tokio::time::sleep(slept).await;
            pause -= slept;
            let rests = !pause.is_zero();
            let began = Instant::now();
            let Some(live) = inner.upgrade().filter(|inner| !inner.is_stopping()) else {
                return;
            };
            let round = off_thread(move || {
                let outcome = match rests {
                    true => live.look_at_gateways(&mut watched),
                    false => live.keep_up(&mut watched),
                };
                Ok((watched, outcome))
            });
            let Ok((seen, outcome)) = round.await else {
                return;
            };
            watched = seen;
            if !rests {
                pause = shortest.max(began.elapsed() * REST);
            }
            match outcome {
                Ok(()) | Err(StoreError::Stopping | StoreError::Conflict) => {}
                Err(e) => tracing::warn!("the upkeep stopped half-way: {e}"),
            }
        }
    });
}

impl Inner {
    pub(super) fn keep_up(&self, watched: &mut Watched) -> Result<()> {
        self.look_at_gateways(watched)?;
        let taken = self
            .claims
            .try_acquire_for(NAME, &mut watched.lease, LEASE)?;
        watched.keeps = taken.is_some();
        let Some(claim) = taken else {
            return Ok(());
        };
        let mut lease = Lease {
            claim,
            renewed: Instant::now(),
        };
        self.sweep_bucketless(&mut watched.bucketless)?;
        if watched.marks.is_none_or(|at| at.elapsed() > MARKS_INTERVAL) {
            watched.marks = Some(Instant::now());
            let now_ns = self.now_ns().saturating_sub(self.presence.ahead_ns());
            if let Err(e) = self.claims.sweep_marks(now_ns) {
                tracing::warn!("marks of broken claims cannot be looked at: {e}");
            }
        }
        for info in self.buckets_page("", None, usize::MAX)? {
            self.sweep_uploads(&info.name, &mut watched.headless, &mut lease)?;
            if self.options.hash.of(&info.name).is_unasked() {
                self.hash_bucket(&info.name, &mut lease)?;
            }
        }
        Ok(())
    }

    /// Compares this host's clock with the file system's and with those of gateways that have
    /// written since the last look.
    fn look_at_clocks(&self, watched: &mut Watched, seen: &Seen) {
        watched
            .ahead_ns
            .retain(|instance, _| seen.contains_key(instance));
        for (instance, said) in seen {
            let is_new = |watch: &Watch<Vec<u8>>| watch.state() != said;
            if watched.gateways.get(instance).is_some_and(is_new)
                && let Some(ahead_ns) = self.presence.ahead_of_ns(said)
            {
                watched.ahead_ns.insert(instance.clone(), ahead_ns);
            }
        }
        let most_ns = watched.ahead_ns.values().copied().max();
        let own_ns = self.presence.ahead_ns();
        self.names.note_ahead(most_ns.unwrap_or(own_ns).max(own_ns));
    }

    pub(super) fn look_at_gateways(&self, watched: &mut Watched) -> Result<()> {
        let began = Instant::now();
        let (mut homes, mut strays) = (BTreeSet::new(), BTreeSet::new());
        let (disk, staging) = (&self.tree.disk, &self.tree.own.staging);
        disk.read_dir(staging, &mut |entry| {
            match entry.name.strip_prefix("g-") {
                Some(instance) => homes.insert(instance.to_owned()),
                None => strays.insert(entry.name),
            };
            true
        })
        .map_err(failed("look at what is staged"))?;
        homes.remove(self.presence.instance());
        let seen = self.presence.look()?;
        self.look_at_clocks(watched, &seen);
        watched.note(began, seen, homes);
        self.tree.records.look_for_side_files()?;
        match watched.keeps {
            true => self.sweep(watched, began, strays),
            false => Ok(()),
        }
    }
}
