//! Objects that stand aside: those that a directory displaced, bodies of markers, and what a
//! crash left of either. In the turn.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use super::super::Inner;
use super::super::commit::Turn;
use super::super::disk::{Disk, FileKind};
use super::super::index::{Change, KeyRange, MAX_FETCH_ROWS};
use super::super::osdisk::OsDisk;
use super::super::osdisk::posix::{is_regular, is_symlink, meet};
use super::super::tree::Moved;
use super::super::walk::{Step, walk};
use super::place::Below;
use crate::error::Result;
use crate::files::{Errno, FileResult};
use crate::keypath::{Place, place};
use crate::object::Locator;

impl Inner<OsDisk> {
    /// A file has come to a key's path. What stands aside of that key is older: left by a
    /// crash, or by a directory that was moved away.
    pub(super) fn displace_escaped(&self, turn: &mut Turn<'_, OsDisk>, at: &Locator) {
        let mut moved = Moved::default();
        if let Err(e) = self.tree.replace_escaped(turn, at, &mut moved) {
            tracing::warn!(bucket = %at.bucket, key = %at.key, "an older object stays: {e}");
        }
    }

    /// Errors: `refusal` where an object stands aside of a key.
    pub(super) fn refuse_where_aside(&self, at: &Locator, refusal: Errno) -> FileResult<()> {
        match self.tree.stands_aside(at).map_err(|e| e.errno())? {
            true => Err(refusal),
            false => Ok(()),
        }
    }

    /// Before a file is removed: where two objects of one key stand, the plain one is the last
    /// to go.
    pub(super) fn remove_escaped_too(
        &self,
        turn: &mut Turn<'_, OsDisk>,
        at: &Locator,
    ) -> FileResult<()> {
        let mut moved = Moved::default();
        self.tree
            .replace_escaped(turn, at, &mut moved)
            .map_err(|e| e.errno())
    }

    /// A directory does not stand at a path any more: the object that it displaced is back.
    pub(super) fn directory_left(
        &self,
        turn: &mut Turn<'_, OsDisk>,
        place: &Below<'_>,
    ) -> FileResult<()> {
        let Some(at) = place.object() else {
            return Ok(());
        };
        let parent = self.tree.disk.open_directory(&place.parent)?;
        let (path, mut moved) = (at.key.as_str(), Moved::default());
        let name = place.name.to_str().ok_or(Errno::ILSEQ)?;
        let left = self
            .tree
            .leave_shelter(turn, &at.bucket, path, &parent, name, &mut moved);
        self.reconcile_moved(&at.bucket, &moved)
            .and(left)
            .map_err(|e| e.errno())?;
        Ok(())
    }

    /// The marker of a directory that does not stand any more, with its body.
    pub(super) fn marker_left(
        &self,
        turn: &mut Turn<'_, OsDisk>,
        place: &Below<'_>,
    ) -> FileResult<()> {
        let Some(marker) = place.marker() else {
            return Ok(());
        };
        let mut moved = Moved::default();
        let removed = self.tree.unlink_escaped(turn, &marker, &mut moved);
        self.tell_index(&marker, Change::Remove);
        removed.map_err(|e| e.errno())
    }

    /// The objects whose keys are below a path where no directory with files stands, or not for
    /// long: they stand aside since one was moved away.
    pub(super) fn aside_below(&self, place: &Below<'_>) -> FileResult<Vec<Locator>> {
        let Some(marker) = place.marker() else {
            return Ok(Vec::new());
        };
        let keys = &self.tree.own.keys;
        if self.tree.disk.stat(keys, marker.bucket.as_str()).is_err() {
            return Ok(Vec::new());
        }
        let found = match self.index.is_complete(&marker.bucket) {
            true => self.aside_by_index(&marker),
            false => self.aside_by_walk(&marker),
        };
        found.map_err(|e| e.errno())
    }

    fn aside_by_index(&self, marker: &Locator) -> Result<Vec<Locator>> {
        let mut range = KeyRange::prefix(marker.key.as_str());
        let mut found = Vec::new();
        loop {
            let rows = self.index.rows(&marker.bucket, &range, MAX_FETCH_ROWS);
            let rows = self.runtime.block_on(rows)?;
            let is_last = rows.len() < MAX_FETCH_ROWS;
            if let Some((key, _)) = rows.last() {
                range = range.after(key.as_str());
            }
            let aside = rows.into_iter().filter(|(_, row)| row.flags.escaped);
            found.extend(aside.map(|(key, _)| Locator::new(marker.bucket.clone(), key)));
            if is_last {
                return Ok(found);
            }
        }
    }

    fn aside_by_walk(&self, marker: &Locator) -> Result<Vec<Locator>> {
        let prefix = marker.key.as_str();
        let mut found = Vec::new();
        // What comes after the directory's own name and before its slash is few.
        let after = prefix.strip_suffix('/');
        walk(&self.tree, &marker.bucket, after, &mut |met| {
            let key = met.key.as_str();
            if !key.starts_with(prefix) {
                return Ok(if key > prefix { Step::Stop } else { Step::Next });
            }
            if met.escaped {
                found.push(Locator::new(marker.bucket.clone(), met.key));
            }
            Ok(Step::Next)
        })?;
        Ok(found)
    }

    /// Whether a directory that moves has a file of the same key as one of those aside.
    pub(super) fn would_replace(
        &self,
        from: &Below<'_>,
        to: &Below<'_>,
        aside: &[Locator],
    ) -> bool {
        let Some(marker) = to.marker() else {
            return false;
        };
        let comes = |at: &Locator| {
            let rest = at.key.as_str().strip_prefix(marker.key.as_str())?;
            let mut names = rest.split('/').map(OsStr::new);
            let path = names.try_fold(from.path.clone(), |path, name| path.join(name));
            let node = self.tree.disk.open_node(&path.ok()?).ok()?;
            let mode = meet(node.as_fd()).ok()?.attr.mode;
            Some(is_regular(mode) || is_symlink(mode))
        };
        aside.iter().any(|at| comes(at) == Some(true))
    }

    /// A directory has come to where objects stood aside: its files replace those of the same
    /// keys.
    pub(super) fn displace_all(&self, turn: &mut Turn<'_, OsDisk>, aside: &[Locator]) {
        for at in aside {
            if !matches!(place(&at.key), Place::Plain(_)) {
                continue;
            }
            let path = format!("{}/{}", at.bucket, at.key);
            let stands = self.tree.disk.stat(&self.tree.root, &path);
            if stands.is_ok_and(|it| matches!(it.kind, FileKind::File | FileKind::Symlink)) {
                self.displace_escaped(turn, at);
            }
            self.reconcile_or_warn(at);
        }
    }
}
