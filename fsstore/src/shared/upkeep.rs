//! What only one gateway may do, under the lease `upkeep`: a claim that is renewed between pieces
//! of work, and taken over when it has not moved for [`LEASE`].
//!
//! - staging of gateways that died goes;
//! - uploads that were completed or not quite removed go;
//! - files made behind our back get a digest.
//!
//! Whatever two holders at once would do is done twice and harms nothing: the lease saves work.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::claim::{Claim, home_of};
use super::disk::{Dir, SharedDisk};
use super::presence::{BEAT, DEAD_AFTER, Seen};
use super::watch::Watch;
use super::{Inner, claim_of, claim_of_upload};
use crate::brick::HashPolicy;
use crate::brick::attrs::{DigestState, Record};
use crate::brick::disk::{Disk, DiskFile, FileFacts};
use crate::brick::look::{Looked, state_of};
use crate::brick::sink::{COPY_STEP_LEN_BYTES, off_thread};
use crate::brick::tree::{failed, is_absent};
use crate::brick::uploads::INFO;
use crate::digest::Digester;
use crate::error::{Result, StoreError};
use crate::name::{BucketName, UploadId};
use crate::object::{DigestSet, Locator};

/// The lease's name among claims: no key's claim has it.
const NAME: &str = "upkeep";
/// A lease that has not moved for so long is taken over.
const LEASE: Duration = Duration::from_secs(30);
/// How often it is renewed.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// How often the other gateways are looked at: each has shown by then that it lives.
const LOOK_INTERVAL: Duration = BEAT.saturating_mul(2);
/// For how many times as long as a round took nothing is done.
const REST: u32 = 20;
/// A file must have been left alone for so long before it is read for its digest, in nanoseconds.
const SETTLED_NS: i64 = 3_000_000_000;

/// What the last rounds saw of other gateways.
#[derive(Default)]
pub(super) struct Watched {
    lease: Option<Watch<BTreeSet<String>>>,
    gateways: BTreeMap<String, Watch<Vec<u8>>>,
    /// Staging directories of gateways that have no file.
    homeless: BTreeMap<String, Watch<()>>,
    /// Those that have not changed, or not had a file, for all of [`DEAD_AFTER`].
    dead: BTreeSet<String>,
    /// Uploads that had no first file when they were last looked at.
    headless: BTreeSet<(BucketName, UploadId)>,
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
        let Some(claim) = taken else {
            return Ok(());
        };
        let mut lease = Lease {
            claim,
            renewed: Instant::now(),
        };
        self.sweep_staging(watched)?;
        for info in self.buckets_page("", None, usize::MAX)? {
            self.sweep_uploads(&info.name, &mut watched.headless, &mut lease)?;
            if self.options.hash.of(&info.name).is_unasked() {
                self.hash_bucket(&info.name, &mut lease)?;
            }
        }
        Ok(())
    }

    fn look_at_gateways(&self, watched: &mut Watched) -> Result<()> {
        let began = Instant::now();
        let mut homes = BTreeSet::new();
        let (disk, staging) = (&self.tree.disk, &self.tree.own.staging);
        disk.read_dir(staging, &mut |entry| {
            homes.extend(entry.name.strip_prefix("g-").map(str::to_owned));
            true
        })
        .map_err(failed("look at what is staged"))?;
        homes.remove(self.presence.instance());
        watched.note(began, self.presence.look()?, homes);
        Ok(())
    }

    /// Removes what gateways that died, or ended, have staged.
    fn sweep_staging(&self, watched: &Watched) -> Result<()> {
        for instance in &watched.dead {
            // Once more, and now: this gateway may have slept since it looked.
            let now = self.presence.look()?;
            let before = watched.gateways.get(instance).map(Watch::state);
            if now.get(instance) != before {
                continue;
            }
            tracing::info!(instance, "a gateway that died: what it staged is removed");
            self.remove_staged_by(instance)?;
            self.presence.forget(instance);
        }
        Ok(())
    }

    pub(super) fn remove_staged_by(&self, instance: &str) -> Result<()> {
        let (disk, staging) = (&self.tree.disk, &self.tree.own.staging);
        remove_tree(disk, staging, &home_of(instance))
    }

    /// Removes what is left of uploads that are over: without their first file in two rounds, or
    /// named by the record of the object that they became.
    fn sweep_uploads(
        &self,
        bucket: &BucketName,
        headless: &mut BTreeSet<(BucketName, UploadId)>,
        lease: &mut Lease,
    ) -> Result<()> {
        for id in self.upload_ids(bucket)? {
            lease.keep()?;
            let path = format!("{bucket}/{id}");
            let Ok(dir) = self.tree.disk.open_dir(&self.tree.own.uploads, &path) else {
                continue;
            };
            let upload = (bucket.clone(), id.clone());
            let info = crate::brick::uploads::load_info(&*self.tree.disk, &dir, id.clone())?;
            let Some(info) = info else {
                // One look that finds nothing proves nothing.
                if headless.remove(&upload) {
                    self.remove_headless(bucket, &id)?;
                } else {
                    headless.insert(upload);
                }
                continue;
            };
            headless.remove(&upload);
            let became = self.look_blocking(&Locator::new(bucket.clone(), info.key))?;
            if became.is_some_and(|looked| looked.record.upload_id.as_ref() == Some(&id)) {
                self.remove_upload(bucket, id.as_str())?;
            }
        }
        Ok(())
    }

    /// Removes an upload whose directory does not list its first file, under the upload's claim.
    fn remove_headless(&self, bucket: &BucketName, id: &UploadId) -> Result<()> {
        let stage = self.claims.stage()?;
        stage.hold()?;
        let _claim = self.claims.acquire(stage, &claim_of_upload(bucket, id))?;
        let path = format!("{bucket}/{id}");
        let Ok(dir) = self.tree.disk.open_dir(&self.tree.own.uploads, &path) else {
            return Ok(());
        };
        let mut has_first = false;
        self.tree
            .disk
            .read_dir(&dir, &mut |entry| {
                has_first |= entry.name == INFO;
                !has_first
            })
            .map_err(failed("look at an upload"))?;
        let info = crate::brick::uploads::load_info(&*self.tree.disk, &dir, id.clone())?;
        match has_first || info.is_some() {
            true => Ok(()),
            false => self.remove_upload(bucket, id.as_str()),
        }
    }

    fn hash_bucket(&self, bucket: &BucketName, lease: &mut Lease) -> Result<()> {
        self.each_key(bucket, |key| {
            if self.is_stopping() {
                return Ok(false);
            }
            lease.keep()?;
            let at = Locator::new(bucket.clone(), key);
            match self.look_blocking(&at) {
                Ok(Some(looked)) => self.hash_settled(&at, looked, Some(&mut *lease))?,
                Ok(None) | Err(StoreError::AccessDenied) => {}
                Err(e) => return Err(e),
            }
            Ok(true)
        })
    }

    /// Gives a file that has no digest one, where it has been left alone for some time.
    fn hash_settled(
        &self,
        at: &Locator,
        looked: Looked<SharedDisk>,
        lease: Option<&mut Lease>,
    ) -> Result<()> {
        let age_ns = self.options.clock.now().0 - looked.found.facts.mtime_ns;
        if !looked.info.etag.is_provisional() || age_ns < SETTLED_NS {
            return Ok(());
        }
        match self.hash(at, &looked, lease) {
            Ok(()) | Err(StoreError::ChangedWhileRead | StoreError::AccessDenied) => Ok(()),
            other => other,
        }
    }

    /// Reads a file for its digests and records them, under the key's claim: in place, because
    /// the file is another program's.
    pub(super) fn hash(
        &self,
        at: &Locator,
        looked: &Looked<SharedDisk>,
        mut lease: Option<&mut Lease>,
    ) -> Result<()> {
        let Some(file) = &looked.found.file else {
            return Ok(());
        };
        let fail = failed("read a file for its digest");
        let before = looked.found.facts;
        let mut digester = Digester::new(DigestSet::default());
        let mut done = 0;
        while done < before.len_bytes {
            let bytes = file
                .read_at(done, COPY_STEP_LEN_BYTES as usize)
                .map_err(&fail)?;
            if bytes.is_empty() {
                return Err(StoreError::ChangedWhileRead);
            }
            done += bytes.len() as u64;
            digester.update(&bytes);
            if let Some(lease) = &mut lease {
                lease.keep()?;
            }
        }
        let digests = digester.finish(Default::default());
        let stage = self.claims.stage()?;
        stage.hold()?;
        let claim = self.claims.acquire(stage, &claim_of(at))?;
        // Its record, too, may have changed since: tags go to a file in place.
        let Some(current) = self.look_blocking(at)? else {
            return Err(StoreError::ChangedWhileRead);
        };
        let Some(file) = &current.found.file else {
            return Err(StoreError::ChangedWhileRead);
        };
        let now = current.found.facts;
        let identity = |facts: &FileFacts| (facts.ino, facts.len_bytes, facts.mtime_ns);
        if identity(&now) != identity(&before) {
            return Err(StoreError::ChangedWhileRead);
        }
        if !current.info.etag.is_provisional() {
            return Ok(());
        }
        let known = digests.known();
        let record = Record {
            state: Some(DigestState {
                len_bytes: now.len_bytes,
                mtime_ns: now.mtime_ns,
                ino: now.ino,
            }),
            md5: known.md5,
            crc64nvme: known.crc64nvme,
            etag_before: Some(state_of(&before).provisional_tag()),
            attrs: current.record.attrs,
            ..Record::default()
        };
        claim.renew()?;
        self.tree.records.save(file, &now, &record)
    }

    /// Gives a file its digest before its tag is shown, where the bucket asks for that.
    pub(super) fn hash_on_read(
        &self,
        at: &Locator,
        looked: Looked<SharedDisk>,
    ) -> Result<Looked<SharedDisk>> {
        let asks = self.options.hash.of(&at.bucket) == HashPolicy::OnRead;
        if !asks || !looked.info.etag.is_provisional() {
            return Ok(looked);
        }
        match self.hash(at, &looked, None) {
            Ok(()) => Ok(self.look_blocking(at)?.unwrap_or(looked)),
            Err(StoreError::ChangedWhileRead | StoreError::AccessDenied) => Ok(looked),
            Err(e) => Err(e),
        }
    }
}

/// Removes a directory with the directories of files in it.
fn remove_tree(disk: &SharedDisk, parent: &Dir, name: &str) -> Result<()> {
    let fail = failed("remove what a gateway staged");
    let dir = match disk.open_dir(parent, name) {
        Ok(dir) => dir,
        Err(e) if is_absent(&e) => return Ok(()),
        Err(e) => return Err(fail(e)),
    };
    crate::brick::buckets::remove_all_in(disk, &dir)?;
    match disk.remove_dir(parent, name) {
        // Its gateway was only asleep, and stages again: the next round looks at it anew.
        Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(e) if !is_absent(&e) => Err(fail(e)),
        _ => Ok(()),
    }
}
