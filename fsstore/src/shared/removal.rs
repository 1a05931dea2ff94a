//! How an object loses its name, by whoever has the key's claim: it is moved into the claim's
//! directory, so that a holder whose claim was broken cannot take away what came after it.

use std::sync::Arc;

use super::claim::{Claim, Stage};
use super::disk::{SharedDisk, is_gone, is_not_empty};
use super::{Inner, claim_of};
use crate::brick::disk::{Disk, DiskFile, FileKind};
use crate::brick::look::Looked;
use crate::brick::tree::{absent_is_none, failed, is_absent, split_parent};
use crate::error::{Result, StoreError};
use crate::keypath::{self, Place};
use crate::name::BucketName;
use crate::object::{Locator, Precondition};
use crate::volume::Removed;

/// How often an object that does not go is taken away again.
const MAX_TAKES: usize = 5;

impl Inner {
    /// What a change of an object begins with, before it has the key's claim.
    pub(super) fn prepare_for(
        self: &Arc<Self>,
        bucket: &BucketName,
    ) -> impl FnOnce() -> Result<Stage> + Send + 'static {
        let (inner, bucket) = (Arc::clone(self), bucket.clone());
        move || {
            inner.tree.bucket_dir(&bucket)?;
            inner.claims.stage_held()
        }
    }

    /// Removes an object.
    pub(super) async fn remove_object(
        self: &Arc<Self>,
        at: &Locator,
        precondition: &Precondition,
    ) -> Result<Removed> {
        let name = claim_of(at);
        let turn = self.claims.turn(&name).await;
        let (inner, at, precondition) = (Arc::clone(self), at.clone(), precondition.clone());
        let prepare = self.prepare_for(&at.bucket);
        let act = move |claim: Claim| {
            let _turn = turn;
            let current = inner.look_blocking(&at)?;
            precondition.check_write(current.as_ref().map(|looked| &looked.info))?;
            let mut existed = inner.take(&at, &claim, inner.is_durable(&at.bucket))?;
            if let Some(looked) = &current {
                existed |= inner.take_until_gone(&at, &claim, looked)?;
            }
            drop(claim);
            // Held open until here, so that nothing new has its number.
            if let Some(looked) = current {
                inner.forget_record(&looked.found);
            }
            inner.prune_for(&at)?;
            Ok(Removed { existed })
        };
        self.claims.under(&name, prepare, act).await
    }

    /// Takes away an object that stands there still although it was said not to: a name that is
    /// just being replaced may seem not to be there. Errors: Conflict.
    fn take_until_gone(
        &self,
        at: &Locator,
        claim: &Claim,
        looked: &Looked<SharedDisk>,
    ) -> Result<bool> {
        let mut existed = false;
        for _ in 0..MAX_TAKES {
            match self.find(at)? {
                Some(found) if found.facts.ino == looked.found.facts.ino => {
                    existed |= self.take(at, claim, self.is_durable(&at.bucket))?;
                }
                // What another program put there meanwhile is not what was to be removed.
                _ => return Ok(existed),
            }
        }
        Err(StoreError::Conflict)
    }

    /// Takes an object away; whether one stood there.
    fn take(&self, at: &Locator, claim: &Claim, is_durable: bool) -> Result<bool> {
        let mut existed = false;
        match keypath::place(&at.key) {
            Place::Plain(path) => {
                // The one at the path counts, where both are: it goes last.
                existed |= self.take_escaped(at, claim)?;
                existed |= self.take_plain(at, path, claim, is_durable)?;
            }
            Place::Marker { dir } => {
                let path = format!("{}/{dir}", at.bucket);
                let opened = absent_is_none(self.tree.disk.open_dir(&self.tree.root, &path))
                    .map_err(failed("open a directory"))?;
                if let Some(opened) = opened {
                    existed |= self.tree.records.load_dir(&opened)?.marker.is_some();
                    self.clear_marker(&opened)?;
                }
                existed |= self.take_escaped(at, claim)?;
            }
            Place::Escaped => existed |= self.take_escaped(at, claim)?,
        }
        Ok(existed)
    }

    fn take_plain(
        &self,
        at: &Locator,
        path: &str,
        claim: &Claim,
        is_durable: bool,
    ) -> Result<bool> {
        let fail = failed("remove an object");
        let (parent, name) = split_parent(path);
        let parent = match parent {
            Some(parent) => format!("{}/{parent}", at.bucket),
            None => at.bucket.as_str().to_owned(),
        };
        let disk = &self.tree.disk;
        let Some(parent) =
            absent_is_none(disk.open_dir(&self.tree.root, &parent)).map_err(&fail)?
        else {
            return Ok(false);
        };
        let Some(facts) = absent_is_none(disk.stat(&parent, name)).map_err(&fail)? else {
            return Ok(false);
        };
        // What is no object is not S3's to remove.
        if !matches!(facts.kind, FileKind::File | FileKind::Symlink) {
            return Ok(false);
        }
        self.take_name(claim, &parent, name)?;
        self.sync_dir(&parent, is_durable)?;
        Ok(true)
    }

    fn take_name(&self, claim: &Claim, parent: &super::disk::Dir, name: &str) -> Result<()> {
        match claim.take(parent, name) {
            Ok(_) => Ok(()),
            Err(e) if is_absent(&e) => {
                // Taken away behind our back; or the claim is no longer ours.
                match absent_is_none(self.tree.disk.stat(parent, name)) {
                    Ok(None) => Ok(()),
                    _ => Err(StoreError::Conflict),
                }
            }
            Err(e) => Err(StoreError::from_io("remove an object", e)),
        }
    }

    /// Takes away the file at a key's escaped path.
    pub(super) fn take_escaped(&self, at: &Locator, claim: &Claim) -> Result<bool> {
        let fail = failed("remove an object with an escaped key");
        let path = format!("{}/{}", at.bucket, keypath::escaped_path(&at.key));
        let (Some(parent_path), name) = split_parent(&path) else {
            return Ok(false);
        };
        let (disk, keys) = (&self.tree.disk, &self.tree.own.keys);
        let Some(parent) = absent_is_none(disk.open_dir(keys, parent_path)).map_err(&fail)? else {
            return Ok(false);
        };
        if absent_is_none(disk.stat(&parent, name))
            .map_err(&fail)?
            .is_none()
        {
            return Ok(false);
        }
        self.take_name(claim, &parent, name)?;
        self.sync_dir(&parent, true)?;
        self.prune_own_dirs(parent_path);
        Ok(true)
    }

    /// Removes the now empty directories of a long escaped key, and the bucket's where nothing is
    /// in it any more.
    fn prune_own_dirs(&self, mut path: &str) {
        let (disk, keys) = (&self.tree.disk, &self.tree.own.keys);
        loop {
            let (parent_path, name) = split_parent(path);
            let parent = match parent_path {
                Some(parent) => disk.open_dir(keys, parent),
                None => Ok(Arc::clone(keys)),
            };
            if !parent.is_ok_and(|parent| disk.remove_dir(&parent, name).is_ok()) {
                return;
            }
            match parent_path {
                Some(parent) => path = parent,
                None => return,
            }
        }
    }

    /// Removes the side file of an object that was taken away or replaced, while it is held open.
    pub(super) fn forget_record(&self, found: &crate::brick::tree::Found<super::disk::SharedDisk>) {
        let Some(file) = &found.file else { return };
        // A file with other names keeps its record.
        if file.facts().is_ok_and(|facts| facts.link_count == 0) {
            self.tree.records.forget(found.facts.ino);
        }
    }

    fn prune_for(&self, at: &Locator) -> Result<()> {
        match keypath::place(&at.key) {
            Place::Plain(path) => match split_parent(path).0 {
                Some(parent) => self.prune(&at.bucket, parent),
                None => Ok(()),
            },
            Place::Marker { dir } => self.prune(&at.bucket, dir),
            Place::Escaped => Ok(()),
        }
    }

    /// Removes empty directories that keys made, from `path` upwards. Who puts a key there at the
    /// same time makes them again.
    fn prune(&self, bucket: &BucketName, mut path: &str) -> Result<()> {
        let disk = &self.tree.disk;
        loop {
            let full = format!("{bucket}/{path}");
            let Ok(dir) = disk.open_dir(&self.tree.root, &full) else {
                return Ok(());
            };
            let state = self.tree.records.load_dir(&dir)?;
            if !state.made_by_keys || state.marker.is_some() || self.has_marker(bucket, path)? {
                return Ok(());
            }
            let (parent_path, name) = split_parent(path);
            let parent = match parent_path {
                Some(parent) => format!("{bucket}/{parent}"),
                None => bucket.as_str().to_owned(),
            };
            let Ok(parent) = disk.open_dir(&self.tree.root, &parent) else {
                return Ok(());
            };
            match disk.remove_dir(&parent, name) {
                Ok(()) => self.sync_dir(&parent, self.is_durable(bucket))?,
                Err(e) if is_not_empty(&e) || is_absent(&e) || is_gone(&e) => return Ok(()),
                Err(e) => {
                    // The object is gone, which is what was asked for.
                    tracing::warn!(path, "an empty directory stays: {e}");
                    return Ok(());
                }
            }
            match parent_path {
                Some(parent) => path = parent,
                None => return Ok(()),
            }
        }
    }

    /// Whether the object `<path>/` stands: its directory stays.
    fn has_marker(&self, bucket: &BucketName, path: &str) -> Result<bool> {
        match crate::name::ObjectKey::parse(&format!("{path}/")) {
            Ok(key) => self.tree.stands_aside(&Locator::new(bucket.clone(), key)),
            Err(_) => Ok(false),
        }
    }
}
