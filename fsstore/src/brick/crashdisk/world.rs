//! What a [`super::CrashDisk`] holds: every inode twice, as programs see it (`live`) and as it
//! is on stable storage (`safe`), and the changes between the two.

mod power;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use self::power::put_back;
use super::super::disk::{Access, FileFacts, FileKind};

/// Stands for an inode for good; inode numbers are used again.
pub(super) type Id = u64;

/// Unit in which bytes reach stable storage.
const BLOCK_LEN_BYTES: usize = 4096;
/// The clock's beginning and its step, in nanoseconds: one step a change.
const BEGINNING_NS: i64 = 1_700_000_000_000_000_000;
const STEP_NS: i64 = 1_000_000;
pub(super) const ROOT: Id = 1;

/// Which changes that were not synced a power cut leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// Changes of names, records and times persist as a prefix, in order, as the journals of
    /// ext4 and XFS keep them; syncing one makes all before it durable.
    Journal,
    /// Any subset persists, as POSIX allows; only that a rename is one step, that changes of
    /// one name keep their order, and that a directory goes after what was in it.
    Adversary,
}

/// Numbers from a seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub ino: u64,
    pub is_dir: bool,
    pub bytes: Arc<Vec<u8>>,
    pub record: Option<Vec<u8>>,
    pub access: Access,
    pub entries: BTreeMap<String, Id>,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub btime_ns: i64,
    pub link_count: u64,
}

impl Node {
    fn new(ino: u64, is_dir: bool, now_ns: i64) -> Self {
        Self {
            ino,
            is_dir,
            bytes: Arc::default(),
            record: None,
            access: Access::default(),
            entries: BTreeMap::new(),
            mtime_ns: now_ns,
            ctime_ns: now_ns,
            btime_ns: now_ns,
            link_count: 0,
        }
    }

    pub fn facts(&self) -> FileFacts {
        FileFacts {
            kind: match self.is_dir {
                true => FileKind::Dir,
                false => FileKind::File,
            },
            len_bytes: self.bytes.len() as u64,
            mtime_ns: self.mtime_ns,
            ctime_ns: self.ctime_ns,
            btime_ns: self.btime_ns,
            ino: self.ino,
            link_count: self.link_count,
        }
    }
}

#[derive(Debug, Clone)]
enum Kind {
    /// What names lead to from now on.
    Names(Vec<(Id, String, Option<Id>)>),
    Record(Option<Vec<u8>>),
    Access(Access),
    Modified(i64),
}

/// A change that is not on stable storage yet.
#[derive(Debug, Clone)]
struct Change {
    /// The inode that is named, unnamed or changed.
    subject: Id,
    kind: Kind,
    at_ns: i64,
}

impl Change {
    fn names(&self) -> &[(Id, String, Option<Id>)] {
        match &self.kind {
            Kind::Names(names) => names,
            _ => &[],
        }
    }

    fn touches(&self, id: Id) -> bool {
        self.subject == id || self.names().iter().any(|(dir, _, _)| *dir == id)
    }

    /// Whether it is of the inode itself, not of its names.
    fn is_of(&self, id: Id) -> bool {
        match &self.kind {
            Kind::Names(names) => names.iter().any(|(dir, _, _)| *dir == id),
            _ => self.subject == id,
        }
    }

    /// Whether it cannot persist without an earlier one.
    fn needs(&self, earlier: &Self) -> bool {
        let same_name = self.names().iter().any(|(dir, name, _)| {
            let mut others = earlier.names().iter();
            others.any(|(other, other_name, _)| (other, other_name) == (dir, name))
        });
        let empties = self.names().iter().all(|(_, _, to)| to.is_none())
            && earlier
                .names()
                .iter()
                .any(|(dir, _, _)| *dir == self.subject);
        same_name || empties
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct World {
    pub(super) live: BTreeMap<Id, Node>,
    safe: BTreeMap<Id, Node>,
    pending: Vec<Change>,
    /// Blocks written and not synced, by inode.
    dirty: BTreeMap<Id, BTreeSet<usize>>,
    /// Blocks that a failed sync gave up, until they are written again.
    lost: BTreeMap<Id, BTreeSet<usize>>,
    /// How often each inode is held open.
    pub(super) holds: BTreeMap<Id, usize>,
    next_id: Id,
    now_ns: i64,
    pub(super) model: Model,
    /// How often the power was cut.
    boots: u32,
}

fn blocks(range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    range.start / BLOCK_LEN_BYTES..range.end.div_ceil(BLOCK_LEN_BYTES)
}

impl World {
    /// An empty root directory.
    pub fn new() -> Self {
        let root = Node::new(2, true, BEGINNING_NS);
        Self {
            live: BTreeMap::from([(ROOT, root.clone())]),
            safe: BTreeMap::from([(ROOT, root)]),
            pending: Vec::new(),
            dirty: BTreeMap::new(),
            lost: BTreeMap::new(),
            holds: BTreeMap::new(),
            next_id: ROOT + 1,
            now_ns: BEGINNING_NS,
            model: Model::Journal,
            boots: 0,
        }
    }

    /// Tells the time since the last power cut from those before.
    pub fn boot(&self) -> String {
        format!("boot-{}", self.boots)
    }

    /// The same, under a model.
    pub fn with(mut self, model: Model) -> Self {
        self.model = model;
        self
    }

    fn tick(&mut self) -> i64 {
        self.now_ns += STEP_NS;
        self.now_ns
    }

    pub(super) fn node(&self, id: Id) -> io::Result<&Node> {
        self.live.get(&id).ok_or_else(|| Errno::STALE.into())
    }

    fn node_mut(&mut self, id: Id) -> io::Result<&mut Node> {
        self.live.get_mut(&id).ok_or_else(|| Errno::STALE.into())
    }

    /// A new inode without a name.
    pub(super) fn create(&mut self, is_dir: bool) -> Id {
        let used: BTreeSet<u64> = self
            .live
            .values()
            .chain(self.safe.values())
            .map(|n| n.ino)
            .collect();
        let ino = (10..).find(|ino| !used.contains(ino)).unwrap_or(0);
        let (id, now_ns) = (self.next_id, self.tick());
        self.next_id += 1;
        self.live.insert(id, Node::new(ino, is_dir, now_ns));
        id
    }

    /// What a name leads to.
    pub(super) fn entry(&self, dir: Id, name: &str) -> io::Result<Id> {
        let node = self.node(dir)?;
        if !node.is_dir {
            return Err(Errno::NOTDIR.into());
        }
        node.entries
            .get(name)
            .copied()
            .ok_or_else(|| Errno::NOENT.into())
    }

    pub(super) fn find(&self, mut at: Id, path: &str) -> io::Result<Id> {
        for name in path.split('/') {
            at = self.entry(at, name)?;
        }
        Ok(at)
    }

    /// Makes names lead elsewhere, as one step.
    pub(super) fn rename_all(
        &mut self,
        subject: Id,
        names: Vec<(Id, String, Option<Id>)>,
    ) -> io::Result<()> {
        let at_ns = self.tick();
        for (dir, name, to) in &names {
            let node = self.node_mut(*dir)?;
            (node.mtime_ns, node.ctime_ns) = (at_ns, at_ns);
            let before = match to {
                Some(id) => node.entries.insert(name.clone(), *id),
                None => node.entries.remove(name),
            };
            if let Some(before) = before {
                self.node_mut(before)?.link_count -= 1;
            }
            if let Some(id) = to {
                self.node_mut(*id)?.link_count += 1;
            }
        }
        self.node_mut(subject)?.ctime_ns = at_ns;
        self.pending.push(Change {
            subject,
            kind: Kind::Names(names),
            at_ns,
        });
        Ok(())
    }

    pub(super) fn set_record(&mut self, id: Id, record: Option<Vec<u8>>) -> io::Result<()> {
        let at_ns = self.tick();
        let node = self.node_mut(id)?;
        (node.record, node.ctime_ns) = (record.clone(), at_ns);
        self.pending.push(Change {
            subject: id,
            kind: Kind::Record(record),
            at_ns,
        });
        Ok(())
    }

    pub(super) fn set_access(&mut self, id: Id, set: &Access) -> io::Result<()> {
        let at_ns = self.tick();
        let node = self.node_mut(id)?;
        let access = Access {
            uid: set.uid.or(node.access.uid),
            gid: set.gid.or(node.access.gid),
            mode: set.mode.or(node.access.mode),
            acl: set.acl.clone().or_else(|| node.access.acl.clone()),
        };
        (node.access, node.ctime_ns) = (access.clone(), at_ns);
        self.pending.push(Change {
            subject: id,
            kind: Kind::Access(access),
            at_ns,
        });
        Ok(())
    }

    pub(super) fn set_modified(&mut self, id: Id, mtime_ns: i64) -> io::Result<()> {
        let at_ns = self.tick();
        let node = self.node_mut(id)?;
        (node.mtime_ns, node.ctime_ns) = (mtime_ns, at_ns);
        self.pending.push(Change {
            subject: id,
            kind: Kind::Modified(mtime_ns),
            at_ns,
        });
        Ok(())
    }

    pub(super) fn write(&mut self, id: Id, offset: usize, new: &[u8]) -> io::Result<()> {
        let at_ns = self.tick();
        let node = self.node_mut(id)?;
        let bytes = Arc::make_mut(&mut node.bytes);
        let (before, end) = (bytes.len(), offset + new.len());
        if before < end {
            bytes.resize(end, 0);
        }
        bytes[offset..end].copy_from_slice(new);
        (node.mtime_ns, node.ctime_ns) = (at_ns, at_ns);
        self.soil(id, offset.min(before)..end);
        Ok(())
    }

    pub(super) fn set_len(&mut self, id: Id, len: usize) -> io::Result<()> {
        let at_ns = self.tick();
        let node = self.node_mut(id)?;
        let before = node.bytes.len();
        Arc::make_mut(&mut node.bytes).resize(len, 0);
        (node.mtime_ns, node.ctime_ns) = (at_ns, at_ns);
        self.soil(id, before.min(len)..before.max(len));
        Ok(())
    }

    fn soil(&mut self, id: Id, range: std::ops::Range<usize>) {
        let dirty = self.dirty.entry(id).or_default();
        let lost = self.lost.entry(id).or_default();
        for block in blocks(range) {
            dirty.insert(block);
            lost.remove(&block);
        }
    }

    fn safe_node(&mut self, id: Id) -> Option<&mut Node> {
        if !self.safe.contains_key(&id) {
            let live = self.live.get(&id)?;
            self.safe
                .insert(id, Node::new(live.ino, live.is_dir, live.btime_ns));
        }
        self.safe.get_mut(&id)
    }

    fn apply(&mut self, change: &Change) {
        if let Kind::Names(names) = &change.kind {
            for (dir, name, to) in names {
                let Some(node) = self.safe_node(*dir) else {
                    continue;
                };
                match to {
                    Some(id) => node.entries.insert(name.clone(), *id),
                    None => node.entries.remove(name),
                };
                node.ctime_ns = node.ctime_ns.max(change.at_ns);
            }
        }
        let Some(node) = self.safe_node(change.subject) else {
            return;
        };
        match &change.kind {
            Kind::Names(_) => {}
            Kind::Record(record) => node.record.clone_from(record),
            Kind::Access(access) => node.access.clone_from(access),
            Kind::Modified(mtime_ns) => node.mtime_ns = *mtime_ns,
        }
        node.ctime_ns = node.ctime_ns.max(change.at_ns);
    }

    /// Applies the chosen changes, and those they need, in order; the others stay pending.
    fn persist(&mut self, is_chosen: impl Fn(&Change) -> bool) {
        let pending = std::mem::take(&mut self.pending);
        let mut goes: Vec<bool> = pending.iter().map(is_chosen).collect();
        if self.model == Model::Journal {
            let end = goes
                .iter()
                .rposition(|goes| *goes)
                .map_or(0, |last| last + 1);
            goes[..end].fill(true);
        }
        for later in (0..pending.len()).rev() {
            if goes[later] {
                for earlier in 0..later {
                    goes[earlier] |= pending[later].needs(&pending[earlier]);
                }
            }
        }
        for (change, goes) in pending.into_iter().zip(goes) {
            match goes {
                true => self.apply(&change),
                false => self.pending.push(change),
            }
        }
    }

    /// fsync(2) of a file.
    pub(super) fn sync_file(&mut self, id: Id) {
        let model = self.model;
        self.persist(|change| match model {
            Model::Journal => change.touches(id),
            Model::Adversary => change.is_of(id),
        });
        self.sync_bytes(id);
        self.collect();
    }

    fn sync_bytes(&mut self, id: Id) {
        let lost = self.lost.remove(&id).unwrap_or_default();
        self.dirty.remove(&id);
        let Some(live) = self.live.get(&id).cloned() else {
            return;
        };
        let Some(node) = self.safe_node(id) else {
            return;
        };
        let old = std::mem::replace(&mut node.bytes, Arc::clone(&live.bytes));
        (node.mtime_ns, node.ctime_ns) = (live.mtime_ns, live.ctime_ns);
        for block in &lost {
            put_back(node, &old, *block);
        }
        if !lost.is_empty() {
            self.lost.insert(id, lost);
        }
    }

    /// A sync that failed: what was not synced is given up, as the page cache does.
    pub(super) fn give_up(&mut self, id: Id) {
        if let Some(dirty) = self.dirty.remove(&id) {
            self.lost.entry(id).or_default().extend(dirty);
        }
    }

    /// As [`Self::give_up`], of every file.
    pub(super) fn give_up_everything(&mut self) {
        let ids: Vec<Id> = self.dirty.keys().copied().collect();
        ids.into_iter().for_each(|id| self.give_up(id));
    }

    /// fsync(2) of a directory.
    pub(super) fn sync_dir(&mut self, id: Id) {
        let model = self.model;
        self.persist(|change| match model {
            Model::Journal => change.touches(id),
            Model::Adversary => change.is_of(id),
        });
        self.collect();
    }

    /// syncfs(2).
    pub(super) fn sync_everything(&mut self) {
        self.persist(|_| true);
        let ids: Vec<Id> = self.dirty.keys().copied().collect();
        for id in ids {
            self.sync_bytes(id);
        }
        self.collect();
    }

    /// Forgets inodes that nothing leads to.
    pub(super) fn collect(&mut self) {
        let gone: Vec<Id> = self
            .live
            .iter()
            .filter(|(id, node)| {
                let id = **id;
                id != ROOT
                    && node.link_count == 0
                    && !self.holds.contains_key(&id)
                    && !self.pending.iter().any(|change| change.touches(id))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            if !self
                .safe
                .values()
                .any(|dir| dir.entries.values().any(|to| *to == id))
            {
                self.safe.remove(&id);
            }
            self.live.remove(&id);
            self.dirty.remove(&id);
            self.lost.remove(&id);
        }
    }

    /// The paths of all files below a directory, for looking at what was left.
    pub fn paths_below(&self, path: &str) -> Vec<String> {
        let mut paths = Vec::new();
        if let Ok(id) = self.find(ROOT, path) {
            self.add_paths(id, path, &mut paths);
        }
        paths
    }

    fn add_paths(&self, id: Id, path: &str, paths: &mut Vec<String>) {
        let Some(node) = self.live.get(&id) else {
            return;
        };
        for (name, to) in &node.entries {
            let path = format!("{path}/{name}");
            self.add_paths(*to, &path, paths);
            paths.push(path);
        }
    }
}
