//! Moving names: one rename(2), and the index told of all it moves as one step.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::super::Inner;
use super::super::attrs::Record;
use super::super::commit::Turn;
use super::super::disk::FileFacts;
use super::super::index::{Applied, Change};
use super::super::osdisk::OsDisk;
use super::super::osdisk::posix::{
    Met, is_dir, is_regular, is_symlink, link_text, meet_at, move_name,
};
use super::keep::Kept;
use super::place::{Below, below, keys};
use crate::files::{Errno, FilePath, FileResult, RenameMode};
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;

/// Most rounds with others who put a directory where a file was, or the reverse.
const MAX_ROUNDS: usize = 16;

/// One end of a rename: a name, and what stands there before it.
struct End<'p> {
    place: Below<'p>,
    parent: Arc<OwnedFd>,
    met: Option<Met>,
    object: Option<Locator>,
}

/// What a regular file is after it was moved.
type Moved = Option<(FileFacts, Record)>;

impl<'p> End<'p> {
    fn look(disk: &OsDisk, place: Below<'p>) -> FileResult<Self> {
        let parent = disk.open_directory(&place.parent)?;
        let met = match meet_at(&parent, place.name) {
            Ok(met) => Some(met),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(e),
        };
        let object = place.object();
        Ok(Self {
            place,
            parent,
            met,
            object,
        })
    }

    fn has(&self, kind: fn(u32) -> bool) -> bool {
        self.met.is_some_and(|met| kind(met.attr.mode))
    }

    /// Whether what stands here may be an object.
    fn may_be_object(&self) -> bool {
        self.has(is_regular) || self.has(is_symlink)
    }
}

impl Inner<OsDisk> {
    pub(super) fn move_path(
        &self,
        from: &FilePath,
        to: &FilePath,
        mode: RenameMode,
    ) -> FileResult<()> {
        for _ in 0..MAX_ROUNDS {
            let (source, target) = (below(from)?, below(to)?);
            let moves_tree = self.moves_tree(from, to, mode)?;
            if moves_tree {
                // The turn is not to wait for it.
                self.rows_may_move(&source.bucket)?;
                self.rows_may_move(&target.bucket)?;
            }
            let named = keys_of(&source, &target, moves_tree);
            let moved = self.change_names(&named, |turn| {
                let from = End::look(&self.tree.disk, source)?;
                let to = End::look(&self.tree.disk, target)?;
                if moves_tree_of(&from, &to, mode) != moves_tree {
                    // Something else has come there since.
                    return Ok(false);
                }
                let moved = self.renaming(|| self.move_between(turn, &from, &to, mode));
                if moved.is_ok() {
                    self.note_path(&from.place);
                    self.note_path(&to.place);
                }
                moved.map(|()| true)
            })?;
            if moved {
                return Ok(());
            }
        }
        Err(Errno::AGAIN)
    }

    /// Whether a directory is to be moved, as far as can be said outside the turn.
    fn moves_tree(&self, from: &FilePath, to: &FilePath, mode: RenameMode) -> FileResult<bool> {
        let disk = &self.tree.disk;
        let from = End::look(disk, below(from)?)?;
        match mode {
            RenameMode::Exchange => Ok(moves_tree_of(&from, &End::look(disk, below(to)?)?, mode)),
            RenameMode::Replace | RenameMode::NoReplace => Ok(from.has(is_dir)),
        }
    }

    fn move_between(
        &self,
        turn: &mut Turn<'_, OsDisk>,
        from: &End<'_>,
        to: &End<'_>,
        mode: RenameMode,
    ) -> FileResult<()> {
        let Some(moving) = from.met else {
            return Err(Errno::NOENT);
        };
        // Two names of one file: nothing is done. Source: rename(2).
        let same = to.met.is_some_and(|met| met.attr.ino == moving.attr.ino);
        if same && mode != RenameMode::NoReplace {
            return Ok(());
        }
        match mode {
            RenameMode::Exchange => self.exchange(turn, from, to),
            RenameMode::Replace | RenameMode::NoReplace => self.move_one(turn, from, to, mode),
        }
    }

    fn move_one(
        &self,
        turn: &mut Turn<'_, OsDisk>,
        from: &End<'_>,
        to: &End<'_>,
        mode: RenameMode,
    ) -> FileResult<()> {
        if from.has(is_dir) {
            return self.move_directory(turn, from, to, mode);
        }
        if let (RenameMode::NoReplace, Some(at)) = (mode, &to.object) {
            self.refuse_where_aside(at, Errno::EXIST)?;
        }
        if from.has(is_symlink)
            && let Ok(node) = self.tree.disk.open_node(from.place.path)
        {
            self.link_may_show(&to.place, &link_text(node.as_fd())?)?;
        }
        let kept = self.keep_end(from);
        // Other names of what is replaced stay, with digests that hold.
        let replaced_kept = match to.met {
            Some(met) if met.attr.link_count > 1 => self.keep_end(to),
            _ => None,
        };
        let replaced = to.met.filter(|met| is_regular(met.attr.mode));
        let held = replaced.and_then(|met| self.hold_for_records(&to.place, &met));
        let moved = rename(from, to, mode);
        let now = kept.and_then(|kept| self.kept(kept, moved.is_ok()));
        if let Some(kept) = replaced_kept {
            self.kept(kept, moved.is_ok());
        }
        moved?;
        turn.changed(&from.parent);
        turn.changed(&to.parent);
        if let Some(replaced) = replaced {
            self.tree.forget_later(turn, replaced.facts, held);
        }
        self.file_moved(turn, from, to, now);
        Ok(())
    }

    fn keep_end(&self, end: &End<'_>) -> Option<Kept> {
        let facts = end.met?.facts;
        self.keep(end.object.as_ref(), &facts)
    }

    /// Tells the index that what is no directory stands at another name, both in one step.
    fn file_moved(&self, turn: &mut Turn<'_, OsDisk>, from: &End<'_>, to: &End<'_>, now: Moved) {
        if from.may_be_object() {
            // Where a crash left two objects of one key, the other must not come to light.
            for at in [&from.object, &to.object].into_iter().flatten() {
                self.displace_escaped(turn, at);
            }
        }
        let gone = row(&from.object, |_| Some(Change::Remove));
        let come = row(&to.object, |at| match (&now, from.has(is_regular)) {
            (Some((facts, record)), true) => Some(Change::Put(self.plain_row(at, facts, record))),
            _ => None,
        });
        let is_told = come.is_some();
        self.change_index(gone.into_iter().chain(come));
        if let (false, Some(at)) = (is_told, &to.object) {
            self.reconcile_or_warn(at);
        }
        if from.has(is_symlink)
            && let Some(at) = &to.object
            && self.leads_to_directory(at)
        {
            self.forget_rows_are_whole(&at.bucket);
        }
    }

    fn move_directory(
        &self,
        turn: &mut Turn<'_, OsDisk>,
        from: &End<'_>,
        to: &End<'_>,
        mode: RenameMode,
    ) -> FileResult<()> {
        let replaced = match self.tree.records.in_use() && to.has(is_dir) {
            true => self.tree.disk.open_directory(to.place.path).ok(),
            false => None,
        };
        let aside = self.aside_below(&to.place)?;
        if mode == RenameMode::NoReplace && self.would_replace(&from.place, &to.place, &aside) {
            return Err(Errno::EXIST);
        }
        let (old, new) = (from.place.marker(), to.place.marker());
        self.move_dir(
            (&from.place.bucket, old.as_ref().map(|at| &at.key)),
            (&to.place.bucket, new.as_ref().map(|at| &at.key)),
            || rename(from, to, mode),
        )?;
        turn.built(&from.parent);
        turn.built(&to.parent);
        if let Some(replaced) = replaced {
            let records = Arc::clone(&self.tree.records);
            turn.later(move || records.forget_dir(&replaced));
        }
        if to.has(is_dir) {
            // It was empty; what its marker held besides goes with it, unless the directory
            // that came has a marker of its own.
            self.marker_left(turn, &to.place)?;
        }
        for place in [&from.place, &to.place] {
            if let Some(marker) = place.marker() {
                self.reconcile_or_warn(&marker);
            }
        }
        self.displace_all(turn, &aside);
        self.directory_left(turn, &from.place)
    }

    fn exchange(
        &self,
        turn: &mut Turn<'_, OsDisk>,
        from: &End<'_>,
        to: &End<'_>,
    ) -> FileResult<()> {
        for (end, other) in [(from, to), (to, from)] {
            if let (true, true, Some(at)) = (end.has(is_dir), other.may_be_object(), &end.object) {
                // A file is no shelter, and nobody asked to replace what the directory shelters.
                self.refuse_where_aside(at, Errno::BUSY)?;
            }
        }
        let moves_trees = [from, to]
            .iter()
            .any(|end| end.has(is_dir) || end.has(is_symlink));
        let mut aside = Vec::new();
        if moves_trees {
            self.rows_may_move(&from.place.bucket)?;
            self.rows_may_move(&to.place.bucket)?;
            aside.extend(self.aside_below(&from.place)?);
            aside.extend(self.aside_below(&to.place)?);
        }
        let kept = (self.keep_end(from), self.keep_end(to));
        let moving = moves_trees.then(|| {
            let (from, to) = (&from.place.bucket, &to.place.bucket);
            self.index.moving(from, to)
        });
        let moved = rename(from, to, RenameMode::Exchange);
        let now = (
            kept.0.and_then(|kept| self.kept(kept, moved.is_ok())),
            kept.1.and_then(|kept| self.kept(kept, moved.is_ok())),
        );
        moved?;
        let applied = match moves_trees {
            true => self.exchange_rows(from, to),
            false => None,
        };
        drop(moving);
        if let Some(applied) = applied {
            self.note_room(applied);
        }
        turn.built(&from.parent);
        turn.built(&to.parent);
        let ends = [(to, from, now.0), (from, to, now.1)];
        for (place, came, now) in &ends {
            let (Some(at), true) = (&place.object, came.may_be_object()) else {
                continue;
            };
            self.displace_escaped(turn, at);
            if let Some((facts, record)) = now {
                let row = self.plain_row(at, facts, record);
                self.tell_index(at, Change::Put(row));
            } else {
                self.reconcile_or_warn(at);
            }
        }
        if moves_trees {
            for (place, _, _) in &ends {
                let looked = [place.object.clone(), place.place.marker()];
                for at in looked.iter().flatten() {
                    self.reconcile_or_warn(at);
                }
            }
            self.displace_all(turn, &aside);
        }
        Ok(())
    }
}

impl Inner<OsDisk> {
    /// Of two that have changed places, one or both directories: the rows below them. Where they
    /// are not known to be all, what is below either is looked up until the scan has been there.
    /// Gives what the index says where it moved them.
    fn exchange_rows(&self, from: &End<'_>, to: &End<'_>) -> Option<Applied> {
        let markers = (from.place.marker(), to.place.marker());
        if let (Some(one), Some(other)) = &markers
            && !from.has(is_symlink)
            && !to.has(is_symlink)
        {
            let one = (&one.bucket, one.key.as_str());
            let other = (&other.bucket, other.key.as_str());
            let moved = match (from.has(is_dir), to.has(is_dir)) {
                (true, true) => self.index.swap_prefixes(one, other),
                (true, false) => self.index.move_prefix(one, other),
                (false, _) => self.index.move_prefix(other, one),
            };
            if from.has(is_dir) {
                self.bring_long_paths(one, other);
            }
            if to.has(is_dir) {
                self.bring_long_paths(other, one);
            }
            return Some(moved);
        }
        for end in [from, to] {
            self.forget_rows_are_whole(&end.place.bucket);
        }
        None
    }
}

fn rename(from: &End<'_>, to: &End<'_>, mode: RenameMode) -> FileResult<()> {
    move_name(
        (&from.parent, from.place.name),
        (&to.parent, to.place.name),
        mode,
    )
}

fn row(
    at: &Option<Locator>,
    change: impl FnOnce(&Locator) -> Option<Change>,
) -> Option<(BucketName, ObjectKey, Change)> {
    let at = at.as_ref()?;
    Some((at.bucket.clone(), at.key.clone(), change(at)?))
}

fn moves_tree_of(from: &End<'_>, to: &End<'_>, mode: RenameMode) -> bool {
    from.has(is_dir) || mode == RenameMode::Exchange && to.has(is_dir)
}

/// The keys that a rename may change: objects, and markers of directories where one moves.
fn keys_of(from: &Below<'_>, to: &Below<'_>, moves_tree: bool) -> Vec<(BucketName, ObjectKey)> {
    let mut all = vec![from.object(), to.object()];
    if moves_tree {
        all.extend([from.marker(), to.marker()]);
    }
    keys(&all)
}
