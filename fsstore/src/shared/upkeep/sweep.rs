//! Taking away what gateways that died left.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Lease, NAME, Watched, is_still};
use crate::brick::disk::{Disk, FileKind};
use crate::brick::tree::{absent_is_none, failed, is_absent};
use crate::brick::uploads::{INFO, load_info};
use crate::error::Result;
use crate::name::{BucketName, UploadId};
use crate::shared::claim::home_of;
use crate::shared::disk::{Dir, SharedDisk, is_not_empty, kind_at};
use crate::shared::watch::Watch;
use crate::shared::{Inner, claim_of_bucket, claim_of_upload};

/// What is left of a bucket that is gone.
enum Left {
    /// The guard of its removal, and whatever that did not come to.
    All,
    /// An upload that was begun while it went.
    Uploads,
}

impl Inner {
    /// Takes away what no gateway that lives has on its way.
    pub(in crate::shared) fn sweep(
        &self,
        watched: &mut Watched,
        began: Instant,
        strays: BTreeSet<String>,
    ) -> Result<()> {
        self.sweep_staging(watched)?;
        watched.strays.retain(|name, _| strays.contains(name));
        for name in strays {
            if is_still(&mut watched.strays, &name, (), began) {
                remove_stray(&self.tree.disk, &self.tree.own.staging, &name);
            }
        }
        self.claims.sweep(NAME, &mut watched.claims)
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

    pub(in crate::shared) fn remove_staged_by(&self, instance: &str) -> Result<()> {
        let (disk, staging) = (&self.tree.disk, &self.tree.own.staging);
        remove_tree(disk, staging, &home_of(instance))
    }

    /// Removes what is left of uploads that are over: without their first file in two rounds, or
    /// named by the record of the object that they became.
    pub(super) fn sweep_uploads(
        &self,
        bucket: &BucketName,
        headless: &mut BTreeSet<(BucketName, UploadId)>,
        lease: &mut Lease,
    ) -> Result<()> {
        for id in self.upload_ids(bucket)? {
            lease.keep()?;
            // One that cannot be read must not keep the others from their turn.
            if let Err(e) = self.sweep_upload(bucket, &id, headless) {
                tracing::warn!(%bucket, %id, "an upload cannot be looked at: {e}");
            }
        }
        Ok(())
    }

    fn sweep_upload(
        &self,
        bucket: &BucketName,
        id: &UploadId,
        headless: &mut BTreeSet<(BucketName, UploadId)>,
    ) -> Result<()> {
        let path = format!("{bucket}/{id}");
        let Ok(dir) = self.tree.disk.open_dir(&self.tree.own.uploads, &path) else {
            return Ok(());
        };
        let upload = (bucket.clone(), id.clone());
        let Some(info) = load_info(&*self.tree.disk, &dir, id.clone())? else {
            // One look that finds nothing proves nothing.
            if headless.remove(&upload) {
                return self.remove_headless(bucket, id);
            }
            headless.insert(upload);
            return Ok(());
        };
        headless.remove(&upload);
        match self.became(bucket, info)? {
            true => self.remove_upload(bucket, id.as_str()),
            false => Ok(()),
        }
    }

    /// Removes what a removal of a bucket that died, or the beginning of an upload that met one,
    /// has left: where the bucket was gone in two rounds.
    pub(in crate::shared) fn sweep_bucketless(
        &self,
        before: &mut BTreeSet<BucketName>,
    ) -> Result<()> {
        let own = &self.tree.own;
        let mut now = BTreeSet::new();
        for dir in [&own.uploads, &own.keys] {
            self.tree
                .disk
                .read_dir(dir, &mut |entry| {
                    now.extend(BucketName::parse(&entry.name));
                    true
                })
                .map_err(failed("look for what buckets left"))?;
        }
        now.retain(|name| self.left_by_removal(name).is_ok_and(|left| left.is_some()));
        for name in now.intersection(before) {
            let claim = claim_of_bucket(name);
            let claim = self.claims.acquire(self.claims.stage_held()?, &claim)?;
            let Some(left) = self.left_by_removal(name)? else {
                continue;
            };
            tracing::info!(%name, "a bucket whose removal was cut off: what it left is removed");
            match left {
                Left::All => drop(self.take_leftovers(name, &claim)?),
                Left::Uploads => {
                    let taken = claim.take(&own.uploads, name.as_str());
                    absent_is_none(taken).map_err(failed("remove uploads of no bucket"))?;
                }
            }
        }
        *before = now;
        Ok(())
    }

    /// What a removal of a bucket has left; none where the bucket stands, or may have been moved
    /// away by hand only: then it has its record, and none of a removal's guards.
    fn left_by_removal(&self, name: &BucketName) -> Result<Option<Left>> {
        let (disk, own) = (&self.tree.disk, &self.tree.own);
        let kind = |dir: &Dir| {
            kind_at(disk, dir, name.as_str()).map_err(failed("look for what buckets left"))
        };
        if kind(&self.tree.root)?.is_some() {
            return Ok(None);
        }
        if kind(&own.keys)? == Some(FileKind::File) {
            return Ok(Some(Left::All));
        }
        let is_stray = kind(&own.buckets)?.is_none() && kind(&own.uploads)?.is_some();
        Ok(is_stray.then_some(Left::Uploads))
    }

    /// Removes an upload whose directory does not list its first file, under the upload's claim.
    fn remove_headless(&self, bucket: &BucketName, id: &UploadId) -> Result<()> {
        let stage = self.claims.stage_held()?;
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
        let info = load_info(&*self.tree.disk, &dir, id.clone())?;
        match has_first || info.is_some() {
            true => Ok(()),
            false => self.remove_upload(bucket, id.as_str()),
        }
    }
}

/// Removes what was staged outside of a gateway's directory.
fn remove_stray(disk: &SharedDisk, staging: &Dir, name: &str) {
    tracing::info!(name, "what nobody has on its way is removed from staging");
    if disk.unlink(staging, name).is_err() {
        let _ = remove_tree(disk, staging, name);
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
        Err(e) if is_not_empty(&e) => Ok(()),
        Err(e) if !is_absent(&e) => Err(fail(e)),
        _ => Ok(()),
    }
}
