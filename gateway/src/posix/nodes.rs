//! What the kernel knows of a volume: inodes it has looked up, by which names, and which of them
//! are held open.
//!
//! The kernel speaks of files by number. A number is an inode's, so hard links are one node with
//! several names; the mount's root alone is [`ROOT`]. Where an inode's number is used again while
//! the kernel still holds the file that had it, the new file has a stand-in for a number: the
//! kernel would end whoever uses the old one with EIO. Names make a tree of `(directory, name)`,
//! and a path is made by climbing it: so a renamed directory takes all below it along.
//!
//! A node lives as long as the kernel counts on it ([`Nodes::forget`]) or it is held open. The
//! table says what the kernel was told; what is true is asked of the volume, which is told the
//! number as well as the path and answers ESTALE where the two have parted.
//!
//! One lock guards the table. Nothing is called while it is held.

mod again;
mod node;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fsstore::files::{Errno, FileAttr, FileId, FilePath, FileResult};

pub use self::again::is_stand_in;
use self::node::{Node, Place};

/// The number of the mount's root. Source: fuse(4), FUSE_ROOT_ID.
pub const ROOT: u64 = 1;
/// More directories above a file than any path has room for: a climb that is longer runs in
/// circles. Source: PATH_MAX.
const MAX_DEPTH: usize = 4_096;
/// Where stand-ins for numbers begin: no file system counts its inodes so far.
const FIRST_STAND_IN: u64 = 1 << 62;

/// What the kernel knows. `H` is a handle on an open file.
#[derive(Debug)]
pub struct Nodes<H> {
    base: FilePath,
    table: Mutex<Table<H>>,
    /// Whether any node may be doubted, so that nobody climbs in vain.
    any_doubted: AtomicBool,
}

#[derive(Debug)]
struct Table<H> {
    nodes: HashMap<u64, Box<Node<H>>>,
    /// Which inodes have stand-ins for their numbers.
    stand_ins: HashMap<u64, u64>,
    next_stand_in: u64,
}

/// The type bits of a mode. Source: inode(7), S_IFMT.
pub(super) const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

impl<H: Clone> Nodes<H> {
    /// The table of a mount that shows what is below `base`.
    pub fn new(base: FilePath) -> Self {
        let table = Table {
            nodes: HashMap::from([(ROOT, Node::new(ROOT, 0))]),
            stand_ins: HashMap::new(),
            next_stand_in: FIRST_STAND_IN,
        };
        Self {
            base,
            table: Mutex::new(table),
            any_doubted: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table<H>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the kernel is given what stands at `name`: it counts on it once more. Puts the
    /// number by which the kernel is to know it into `attr`, and gives whether its attributes may
    /// be remembered, which is while nobody writes.
    pub fn looked_up(&self, parent: u64, name: &OsStr, attr: &mut FileAttr) -> bool {
        let mut table = self.lock();
        table.place(parent, name, attr);
        let node = table.nodes.get_mut(&attr.ino);
        node.is_none_or(|node| {
            node.lookups += 1;
            node.writer_count() == 0
        })
    }

    /// The inode's own number.
    pub fn real(&self, number: u64) -> u64 {
        if number < FIRST_STAND_IN {
            return number;
        }
        self.id(number).ino
    }

    /// Which file a node is.
    pub fn id(&self, number: u64) -> FileId {
        let table = self.lock();
        let node = table.nodes.get(&number);
        node.map_or(FileId::any(number), |node| FileId {
            ino: node.real,
            generation: node.generation,
        })
    }

    /// The numbers by which the kernel may know an inode.
    pub fn known(&self, real: u64) -> Vec<u64> {
        let table = self.lock();
        let stand_in = table.stand_ins.get(&real).copied();
        let is_known = |number: &u64| *number != ROOT && table.nodes.contains_key(number);
        [Some(real), stand_in]
            .into_iter()
            .flatten()
            .filter(is_known)
            .collect()
    }

    /// Notes what was said of a node. Gives whether its attributes may be remembered.
    pub fn described(&self, ino: u64, attr: &FileAttr) -> bool {
        let mut table = self.lock();
        let Some(node) = table.nodes.get_mut(&ino) else {
            return true;
        };
        node.note_last(attr);
        node.writer_count() == 0
    }

    /// What was last said of a directory that has lost its name, as it is now: without names.
    pub fn last_words(&self, ino: u64) -> Option<FileAttr> {
        let table = self.lock();
        let node = table
            .nodes
            .get(&ino)
            .filter(|node| node.names().next().is_none())?;
        let last = node.last()?;
        Some(FileAttr {
            link_count: 0,
            ..*last
        })
    }

    /// The kernel counts on a node `count` times less. Gives true where it is gone from the table.
    pub fn forget(&self, ino: u64, count: u64) -> bool {
        let mut table = self.lock();
        let Some(node) = table.nodes.get_mut(&ino) else {
            return false;
        };
        node.lookups = node.lookups.saturating_sub(count);
        table.drop_unneeded(ino)
    }

    /// Where a node stands: the path of one of its names. Errors: ESTALE where it has none.
    pub fn path(&self, ino: u64) -> FileResult<FilePath> {
        self.path_by(ino, 0)
    }

    /// As [`Nodes::path`], by its name of this index, from 0.
    pub fn path_by(&self, ino: u64, name_index: usize) -> FileResult<FilePath> {
        if ino == ROOT {
            return Ok(self.base.clone());
        }
        let mut names = Vec::with_capacity(8);
        let table = self.lock();
        let mut at = ino;
        while at != ROOT {
            let node = table.nodes.get(&at).ok_or(Errno::STALE)?;
            let index = if at == ino { name_index } else { 0 };
            let place = node.names().nth(index).ok_or(Errno::STALE)?;
            if names.len() == MAX_DEPTH {
                return Err(Errno::LOOP);
            }
            names.push(Arc::clone(&place.name));
            at = place.parent;
        }
        drop(table);
        let mut path = self.base.clone();
        for name in names.iter().rev() {
            path = path.join(name)?;
        }
        Ok(path)
    }

    /// The directory above, where the kernel knows it; the root is above itself.
    pub fn parent(&self, ino: u64) -> Option<u64> {
        if ino == ROOT {
            return Some(ROOT);
        }
        let table = self.lock();
        let place = table.nodes.get(&ino)?.names().next()?;
        Some(place.parent)
    }

    /// What stands at a name, as far as the kernel knows.
    pub fn child(&self, parent: u64, name: &OsStr) -> Option<u64> {
        let table = self.lock();
        table.nodes.get(&parent)?.child(name)
    }

    /// A directory was read to its end, where it had this many names.
    pub fn listed(&self, ino: u64, count: usize) {
        if let Some(node) = self.lock().nodes.get_mut(&ino) {
            node.note_listed(count);
        }
    }

    /// Whether a directory's names are to be kept as this handle reads them: where no other's
    /// are, until it is [given back](Self::kept), and the kernel knows most of what stands there.
    /// Else it is better told of them anew each time, with what they lead to.
    pub fn keeps(&self, ino: u64, handle: u64) -> bool {
        let mut table = self.lock();
        let node = table.nodes.get_mut(&ino);
        node.is_some_and(|node| node.keeps(handle))
    }

    /// A directory's handle is given back.
    pub fn kept(&self, ino: u64, handle: u64) {
        if let Some(node) = self.lock().nodes.get_mut(&ino) {
            node.kept(handle);
        }
    }

    /// True for what is no regular file as far as is known.
    pub fn is_directory(&self, parent: u64, name: &OsStr) -> bool {
        let table = self.lock();
        let child = table.nodes.get(&parent).and_then(|dir| dir.child(name));
        let node = child.and_then(|ino| table.nodes.get(&ino));
        node.is_none_or(|node| node.last().is_some())
    }

    /// A name was taken away by this mount.
    pub fn unlinked(&self, parent: u64, name: &OsStr) {
        self.lock().unname(parent, name);
    }

    /// A name was given to a node by this mount, where another or none stood.
    pub fn renamed(&self, parent: u64, name: &OsStr, new_parent: u64, new_name: &OsStr) {
        let mut table = self.lock();
        let from = table.nodes.get(&parent).and_then(|dir| dir.child(name));
        let Some(ino) = from else {
            table.unname(new_parent, new_name);
            return;
        };
        table.unname(parent, name);
        table.name(new_parent, new_name, ino);
    }

    /// Two names changed places.
    pub fn exchanged(&self, parent: u64, name: &OsStr, new_parent: u64, new_name: &OsStr) {
        let mut table = self.lock();
        let at = |table: &Table<H>, parent, name: &OsStr| {
            let dir = table.nodes.get(&parent);
            dir.and_then(|dir| dir.child(name))
        };
        let one = at(&table, parent, name);
        let other = at(&table, new_parent, new_name);
        table.unname(parent, name);
        table.unname(new_parent, new_name);
        if let Some(one) = one {
            table.name(new_parent, new_name, one);
        }
        if let Some(other) = other {
            table.name(parent, name, other);
        }
    }

    /// A node is held open by `handle`, of this number. Gives whether it is the first that may
    /// write: from then on its attributes may not be remembered.
    pub fn opened(&self, ino: u64, number: u64, handle: H, is_writable: bool) -> bool {
        let mut table = self.lock();
        let node = table.nodes.entry(ino).or_insert_with(|| Node::new(ino, 0));
        node.hold(number, handle, is_writable);
        is_writable && node.writer_count() == 1
    }

    /// Whether a file that is being opened has the bytes that it had when it was last asked so.
    pub fn is_as_before(&self, ino: u64, attr: &FileAttr) -> bool {
        let now = (attr.len_bytes, attr.mtime_ns, attr.ctime_ns);
        let mut table = self.lock();
        let node = table.nodes.get_mut(&ino);
        node.is_some_and(|node| node.is_as_before(now))
    }

    /// A handle holds its node no more; [`Nodes::closed`] follows once its file is closed.
    pub fn unheld(&self, ino: u64, number: u64) {
        let mut table = self.lock();
        if let Some(node) = table.nodes.get_mut(&ino) {
            node.let_go(number);
        }
    }

    /// A handle's file is closed.
    pub fn closed(&self, ino: u64, was_writable: bool) {
        let mut table = self.lock();
        if let Some(node) = table.nodes.get_mut(&ino) {
            node.close(was_writable);
        }
        table.drop_unneeded(ino);
    }

    /// A handle that holds a node open; the first that `suits`, else any.
    pub fn handle(&self, ino: u64, suits: impl Fn(&H) -> bool) -> Option<H> {
        let table = self.lock();
        let open = table.nodes.get(&ino)?.handles();
        let found = open.iter().find(|(_, handle)| suits(handle));
        found.or(open.first()).map(|(_, handle)| handle.clone())
    }

    /// The node of a path and the one above it, as far as the kernel knows them: `None` where
    /// the directory above is not known to it.
    pub fn find(&self, path: &FilePath) -> Option<Found> {
        let table = self.lock();
        let mut below = path.components();
        for name in self.base.components() {
            match below.next() {
                // Something above the mount's root, or the root itself.
                None => return None,
                Some(other) if other == name => {}
                Some(_) => return None,
            }
        }
        let mut found = Found {
            parent: None,
            name: None,
            ino: Some(ROOT),
        };
        for name in below {
            let parent = found.ino?;
            let child = table.nodes.get(&parent).and_then(|dir| dir.child(name));
            found = Found {
                parent: Some(parent),
                name: Some(Arc::from(name)),
                ino: child,
            };
        }
        Some(found)
    }

    /// Other hands changed what stands at a path: a directory that stood there may be elsewhere,
    /// and no path through it is to be used before it was [looked for](Self::doubted_above).
    /// Gives the node that the kernel knows there.
    pub fn doubt(&self, path: &FilePath) -> Option<u64> {
        let ino = self.find(path)?.ino?;
        if let Some(node) = self.lock().nodes.get_mut(&ino)
            && ino != ROOT
            && node.is_directory()
        {
            node.set_doubted(true);
            self.any_doubted.store(true, Ordering::Release);
        }
        Some(ino)
    }

    /// Other hands may have moved any directory.
    pub fn doubt_all(&self) {
        let mut table = self.lock();
        for (ino, node) in &mut table.nodes {
            if *ino != ROOT && node.is_directory() {
                node.set_doubted(true);
            }
        }
        self.any_doubted.store(true, Ordering::Release);
    }

    /// The uppermost doubted directory on the way to a node, or itself.
    pub fn doubted_above(&self, ino: u64) -> Option<u64> {
        if !self.any_doubted.load(Ordering::Acquire) {
            return None;
        }
        let table = self.lock();
        let (mut at, mut uppermost) = (ino, None);
        for _ in 0..MAX_DEPTH {
            let Some(node) = table.nodes.get(&at) else {
                break;
            };
            if node.is_doubted() {
                uppermost = Some(at);
            }
            match node.names().next() {
                Some(place) if at != ROOT => at = place.parent,
                _ => break,
            }
        }
        uppermost
    }

    /// A directory was looked for where it stood: it is doubted no more, and where it was not
    /// there it has lost its name.
    pub fn settle(&self, ino: u64, stands: bool) {
        let mut table = self.lock();
        let Some(node) = table.nodes.get_mut(&ino) else {
            return;
        };
        node.set_doubted(false);
        if !stands {
            table.unname_all(ino);
        }
    }

    /// Every node that the kernel may know.
    pub fn all(&self) -> Vec<u64> {
        self.lock().nodes.keys().copied().collect()
    }

    /// The directories and names of a node.
    pub fn names_of(&self, ino: u64) -> Vec<(u64, Arc<OsStr>)> {
        let table = self.lock();
        let node = table.nodes.get(&ino).into_iter();
        node.flat_map(|node| node.names())
            .map(|place| (place.parent, Arc::clone(&place.name)))
            .collect()
    }

    /// Every name that the kernel was told of, as directory and name.
    pub fn all_names(&self) -> Vec<(u64, Arc<OsStr>)> {
        let table = self.lock();
        let mut all = Vec::new();
        for (ino, node) in &table.nodes {
            all.extend(node.child_names().map(|name| (*ino, Arc::clone(name))));
        }
        all
    }
}

/// Where a path leads in the kernel's eyes.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The directory above; none for the root.
    pub parent: Option<u64>,
    /// The name in it.
    pub name: Option<Arc<OsStr>>,
    /// What stands there, where the kernel was told of anything.
    pub ino: Option<u64>,
}

impl<H> Table<H> {
    /// The number by which the kernel knows, or is to know, a file.
    fn number(&mut self, real: u64, generation: u64) -> u64 {
        let stand_in = self.stand_ins.get(&real).copied();
        for number in stand_in.into_iter().chain([real]) {
            let node = self.nodes.get(&number);
            if number != ROOT && node.is_none_or(|node| node.generation == generation) {
                return number;
            }
        }
        let number = self.next_stand_in;
        self.next_stand_in += 1;
        self.stand_ins.insert(real, number);
        number
    }

    /// Notes what stands at a name, and puts the number by which the kernel is to know it into
    /// `attr`.
    fn place(&mut self, parent: u64, name: &OsStr, attr: &mut FileAttr) {
        let (real, generation) = (attr.ino, attr.generation);
        let number = self.number(real, generation);
        attr.ino = number;
        let before = self.nodes.get(&parent);
        let before = before.and_then(|dir| dir.child(name));
        let node = self.nodes.entry(number);
        let node = node.or_insert_with(|| Node::new(real, generation));
        node.note_last(attr);
        if before != Some(number) || node.names().next().is_none() {
            self.name(parent, name, number);
        }
    }

    /// Gives a node a name, which whatever had it loses.
    fn name(&mut self, parent: u64, name: &OsStr, ino: u64) {
        self.unname(parent, name);
        // A directory has one name: where it is met at another, it was moved.
        if self.nodes.get(&ino).is_some_and(|node| node.is_directory()) {
            self.unname_all(ino);
        }
        let name: Arc<OsStr> = Arc::from(name);
        if let Some(dir) = self.nodes.get_mut(&parent) {
            dir.add_child(Arc::clone(&name), ino);
        }
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.add_name(Place { parent, name });
        }
    }

    /// Takes a name away.
    fn unname(&mut self, parent: u64, name: &OsStr) {
        let dir = self.nodes.get_mut(&parent);
        let Some(ino) = dir.and_then(|dir| dir.remove_child(name)) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.remove_name(parent, name);
        }
    }

    /// Takes all names away from a node.
    fn unname_all(&mut self, ino: u64) {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        for place in node.take_names() {
            if let Some(dir) = self.nodes.get_mut(&place.parent)
                && dir.child(&place.name) == Some(ino)
            {
                dir.remove_child(&place.name);
            }
        }
    }

    /// Drops a node that neither the kernel nor a handle needs, nor one below it for its path, and
    /// then what is not needed above; gives whether it did.
    fn drop_unneeded(&mut self, ino: u64) -> bool {
        if ino == ROOT || self.nodes.get(&ino).is_none_or(|node| node.is_needed()) {
            return false;
        }
        let Some(mut node) = self.nodes.remove(&ino) else {
            return false;
        };
        if self.stand_ins.get(&node.real) == Some(&ino) {
            self.stand_ins.remove(&node.real);
        }
        for place in node.take_names() {
            if let Some(dir) = self.nodes.get_mut(&place.parent)
                && dir.child(&place.name) == Some(ino)
            {
                dir.remove_child(&place.name);
            }
            self.drop_unneeded(place.parent);
        }
        true
    }
}

#[cfg(test)]
mod tests;
