//! A brick's disk: a log and a tree of files, each with a tail that a crash may take.
//!
//! Fault model: what was synced stays, unless the whole disk is replaced or a file rots. Of what
//! was not synced, a crash keeps a part from the front, for the log and for the tree each: so a
//! file system with a journal keeps the order of renames.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::history::{Name, Value, extended};
use super::random::Random;
use crate::replica::{Kinds, Position, Record, Stored};

/// What the simulator's records are made of.
#[derive(Debug, Clone)]
pub struct Simulated;

impl Kinds for Simulated {
    type Name = Name;
    type Body = Change;
    type Copy = File;
    type Page = Page;
}

/// What a record does.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// As it was asked for; decided by [`Change::Put`] and its like.
    Asked(super::history::Ask),
    /// A whole file.
    Put(Name, Value),
    /// None any more.
    Remove(Name),
    /// A rename.
    Move(Name, Name),
    /// More of it.
    Extend(Name, Value),
}

/// A file. Its value is what its metadata say; whether its bytes agree, `is_rotten` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    pub value: Value,
    pub stamp: Position,
    pub is_rotten: bool,
}

/// Names after `after` up to `upto`, with what they have.
#[derive(Debug, Clone)]
pub struct Page {
    pub after: Option<Name>,
    pub upto: Option<Name>,
    pub files: Vec<(Name, Position)>,
}

type Tree = BTreeMap<Name, File>;

/// A disk.
#[derive(Debug, Clone)]
pub struct Disk {
    base: Position,
    log: Vec<Arc<Record<Simulated>>>,
    checkpoint: u64,
    is_complete: bool,
    durable: Tree,
    /// As programs see it.
    pub tree: Tree,
    /// What was done to the tree since it was durable.
    journal: VecDeque<(Name, Option<File>, Option<Name>)>,
    /// What was asked of the log and is not synced.
    queue: VecDeque<Write>,
    pub is_failing: bool,
}

#[derive(Debug, Clone)]
pub enum Write {
    Log {
        ticket: u64,
        keep: u64,
        records: Vec<Arc<Record<Simulated>>>,
    },
    Rebase {
        ticket: u64,
        base: Position,
    },
}

impl Disk {
    /// The disk of a new group's brick, or one put in for a broken one.
    pub fn new(is_complete: bool) -> Self {
        Self {
            base: Position::default(),
            log: Vec::new(),
            checkpoint: 0,
            is_complete,
            durable: Tree::new(),
            tree: Tree::new(),
            journal: VecDeque::new(),
            queue: VecDeque::new(),
            is_failing: false,
        }
    }

    pub fn write(&mut self, write: Write) {
        self.queue.push_back(write);
    }

    /// What was asked of the log up to `ticket` is durable.
    pub fn sync_log(&mut self, ticket: u64) {
        while let Some(write) = self.queue.front() {
            let (Write::Log { ticket: number, .. } | Write::Rebase { ticket: number, .. }) = write;
            if *number > ticket {
                break;
            }
            self.make_durable();
        }
    }

    fn make_durable(&mut self) {
        match self.queue.pop_front() {
            Some(Write::Log { keep, records, .. }) => {
                self.log.retain(|record| record.at.seq <= keep);
                let above = records
                    .into_iter()
                    .filter(|record| record.at.seq > self.base.seq);
                self.log.extend(above);
            }
            Some(Write::Rebase { base, .. }) => {
                self.base = base;
                self.log.clear();
                self.is_complete = false;
                self.checkpoint = base.seq;
            }
            None => {}
        }
    }

    /// True where it is marked whole.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// True while a new base is not durable: a checkpoint would be one of the old log.
    pub fn is_rebasing(&self) -> bool {
        self.queue
            .iter()
            .any(|write| matches!(write, Write::Rebase { .. }))
    }

    /// The tree is durable, with everything up to `seq`.
    pub fn sync_tree(&mut self, seq: u64, settles: bool) {
        self.durable = self.tree.clone();
        self.journal.clear();
        self.checkpoint = self.checkpoint.max(seq);
        if settles {
            self.is_complete = true;
            self.checkpoint = seq;
        }
    }

    pub fn trim(&mut self, base: Position) {
        if base.seq > self.base.seq {
            self.base = base;
            self.log.retain(|record| record.at.seq > base.seq);
        }
    }

    /// True where the record is durable here.
    pub fn has(&self, at: Position) -> bool {
        self.base.seq >= at.seq || self.log.iter().any(|record| record.at == at)
    }

    fn set(&mut self, name: Name, file: Option<File>) {
        match file {
            Some(file) => self.tree.insert(name, file),
            None => self.tree.remove(&name),
        };
        self.journal.push_back((name, file, None));
    }

    /// One rename: both names in one step.
    fn move_file(&mut self, from: Name, to: Name, file: File) {
        self.tree.remove(&from);
        self.tree.insert(to, file);
        self.journal.push_back((to, Some(file), Some(from)));
    }

    /// Replaces a file whole, or removes it.
    pub fn replace(&mut self, name: Name, copy: Option<File>) {
        self.set(name, copy);
    }

    /// Publishes a record, unless it is there already.
    pub fn apply(&mut self, record: &Record<Simulated>, is_partial: bool) {
        let at = record.at;
        let is_newer = |file: Option<&File>| file.is_some_and(|file| file.stamp >= at);
        let file = |value, is_rotten| {
            Some(File {
                value,
                stamp: at,
                is_rotten,
            })
        };
        match record.body {
            Some(Change::Put(name, value)) if !is_newer(self.tree.get(&name)) => {
                self.set(name, file(value, false));
            }
            Some(Change::Remove(name)) if !is_newer(self.tree.get(&name)) => {
                self.set(name, None);
            }
            Some(Change::Extend(name, by)) if !is_partial && !is_newer(self.tree.get(&name)) => {
                if let Some(old) = self.tree.get(&name).copied() {
                    self.set(name, file(extended(old.value, by), old.is_rotten));
                }
            }
            Some(Change::Move(from, to)) => {
                let old = self.tree.get(&from).copied().filter(|old| old.stamp < at);
                match old {
                    Some(_) if is_partial || is_newer(self.tree.get(&to)) => self.set(from, None),
                    Some(old) => {
                        let moved = File { stamp: at, ..old };
                        self.move_file(from, to, moved);
                    }
                    None => {}
                }
            }
            _ => {}
        }
    }

    /// The next names.
    pub fn page(&self, after: Option<Name>, len: usize) -> Page {
        let rest = self
            .tree
            .iter()
            .filter(|(name, _)| after.is_none_or(|after| **name > after));
        let files: Vec<(Name, Position)> = rest.map(|(name, file)| (*name, file.stamp)).collect();
        let is_last = files.len() <= len;
        let files: Vec<(Name, Position)> = files.into_iter().take(len).collect();
        let upto = files.last().map(|(name, _)| *name).filter(|_| !is_last);
        Page { after, upto, files }
    }

    /// Removes names of the page's range that it lacks; says which are missing here or differ.
    pub fn compare(&mut self, page: &Page, keep: &[Name], removes: bool) -> Vec<Name> {
        let is_within = |name: &Name| {
            page.after.is_none_or(|after| *name > after)
                && page.upto.is_none_or(|upto| *name <= upto)
                && !keep.contains(name)
        };
        let named = |name: &Name| page.files.iter().any(|(other, _)| other == name);
        let extra: Vec<Name> = self
            .tree
            .keys()
            .copied()
            .filter(|name| is_within(name) && !named(name))
            .collect();
        for name in extra.into_iter().filter(|_| removes) {
            self.set(name, None);
        }
        let differs = |(name, stamp): &(Name, Position)| {
            is_within(name)
                && self
                    .tree
                    .get(name)
                    .is_none_or(|file| file.stamp != *stamp || file.is_rotten)
        };
        let wanted = page.files.iter().filter(|entry| differs(entry));
        wanted.map(|(name, _)| *name).collect()
    }

    /// What is left after a crash.
    pub fn crash(&mut self, random: &mut Random) {
        let kept = random.below(self.queue.len() as u64 + 1);
        for _ in 0..kept {
            self.make_durable();
        }
        self.queue.clear();
        let kept = random.below(self.journal.len() as u64 + 1) as usize;
        for (name, file, source) in self.journal.drain(..).take(kept) {
            if let Some(source) = source {
                self.durable.remove(&source);
            }
            match file {
                Some(file) => self.durable.insert(name, file),
                None => self.durable.remove(&name),
            };
        }
        self.tree = self.durable.clone();
    }

    /// What a replica starts from.
    pub fn stored(&self) -> Stored<Simulated> {
        let last = self
            .log
            .last()
            .map_or(self.base.seq, |record| record.at.seq);
        Stored {
            base: self.base,
            records: self.log.clone(),
            checkpoint: self.checkpoint.clamp(self.base.seq, last),
            is_complete: self.is_complete,
        }
    }

    /// Sets or clears the rot of a file, as it lies on the disk.
    pub fn set_rotten(&mut self, name: Name, is_rotten: bool) {
        for tree in [&mut self.tree, &mut self.durable] {
            if let Some(file) = tree.get_mut(&name) {
                file.is_rotten = is_rotten;
            }
        }
        for (other, file, _) in &mut self.journal {
            if let (true, Some(file)) = (*other == name, file) {
                file.is_rotten = is_rotten;
            }
        }
    }
}
