//! A mounted file system as plain calls: what the kernel asks, in numbers, becomes what a volume
//! is asked, in paths. It knows no mount and no protocol, so it is tested without either.
//!
//! A call that only looks goes by an open file where there is one, which needs no path. A call
//! that changes goes by name, because a change of an object is its key's, and by an open file
//! where the names are gone.
//!
//! Order of locks: `moving` (read: while a path is in use; written: while directories move),
//! then the table of nodes, for moments. A path is thus never used after a directory in it has
//! moved.

mod again;
mod dirs;
mod files;
mod finding;

use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use fsstore::files::{
    Caller, Errno, FileAttr, FileId, FilePath, FileResult, FileSystemFacts, Files, NewNode,
    OpenDir, OpenFile, RenameMode, SetAttr, Target, XattrMode,
};

use self::dirs::DirHandle;
pub use self::dirs::Listed;
pub use self::files::{OpenHandle, Opened};
use super::backings::Backings;
use super::handles::Handles;
use super::held::Held;
use super::near::Near;
use super::nodes::{Found, KIND, Nodes, ROOT};
use super::sessions::{Company, Terms};

/// Types of files, as bits of their mode. Source: inode(7).
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const BLOCK_DEVICE: u32 = 0o060_000;

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its attributes.
    pub attr: FileAttr,
    /// Whether the attributes hold until this side says otherwise: not while someone may write,
    /// because stores to mapped memory are told by no call.
    pub may_remember: bool,
}

type Handle<V, B> = OpenHandle<<V as Files>::OpenFile, B>;

/// A volume, or a bucket of it, as a mount shows it.
pub struct FileSystem<V: Files, B> {
    volume: Arc<V>,
    /// Of what stands where the mount begins: another one where a bucket was made again.
    root_ino: AtomicU64,
    may_make_devices: bool,
    nodes: Nodes<Arc<Handle<V, B>>>,
    files: Handles<Handle<V, B>>,
    dirs: Handles<DirHandle<V::OpenDir>>,
    backings: Backings<B>,
    /// Directories that names are looked up in.
    near: Near<V::OpenDir>,
    /// Files between a look and the opening that follows.
    held: Held<V::OpenFile>,
    moving: RwLock<()>,
    company: OnceLock<Arc<Company>>,
    /// Counts what other doors change of files.
    changes: AtomicU64,
}

impl<V: Files, B> FileSystem<V, B> {
    /// Shows a volume on these terms. Errors: ENOENT, ENOTDIR for where it begins.
    pub fn new(volume: Arc<V>, terms: Terms) -> FileResult<Self> {
        let root = volume.lookup(&terms.base)?;
        if root.mode & KIND != DIRECTORY {
            return Err(Errno::NOTDIR);
        }
        let nodes = Nodes::new(terms.base);
        nodes.described(ROOT, &root);
        Ok(Self {
            volume,
            root_ino: AtomicU64::new(root.ino),
            may_make_devices: terms.may_make_devices,
            nodes,
            files: Handles::default(),
            dirs: Handles::default(),
            backings: Backings::default(),
            near: Near::default(),
            held: Held::default(),
            moving: RwLock::new(()),
            company: OnceLock::new(),
            changes: AtomicU64::new(0),
        })
    }

    /// Whether the kernel will be told the end of all that it remembers.
    pub fn is_told_all(&self) -> bool {
        self.volume.tells_all()
    }

    /// Whether the kernel may keep the names of a directory that it is about to read by this
    /// handle, and gains by it: it compares the directory's time before it uses them, and what is
    /// done elsewhere moves that or is told. Of several who read at once it would take the time
    /// of one for that of another's names: so it is one handle at a time.
    pub fn may_keep_names(&self, ino: u64, handle: u64) -> bool {
        self.is_told_all() && self.volume.dates_every_change() && self.nodes.keeps(ino, handle)
    }

    /// Which file the kernel knows by `ino`.
    fn id(&self, ino: u64) -> FileId {
        if ino == ROOT {
            FileId::any(self.root_ino.load(Ordering::Relaxed))
        } else {
            self.nodes.id(ino)
        }
    }

    /// The inode number of what the kernel knows by `ino`.
    fn real(&self, ino: u64) -> u64 {
        if ino == ROOT {
            self.root_ino.load(Ordering::Relaxed)
        } else {
            self.nodes.real(ino)
        }
    }

    fn still(&self) -> RwLockReadGuard<'_, ()> {
        self.moving.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says with which other mounts this one is of one volume.
    pub fn joins(&self, company: &Arc<Company>) {
        let _ = self.company.set(Arc::clone(company));
    }

    /// Other hands may have changed anything.
    pub fn doubt_all(&self) {
        self.nodes.doubt_all();
        self.near.let_all_go();
    }

    /// Other hands changed what stands at a path.
    pub fn doubt(&self, path: &FilePath) {
        if let Some(ino) = self.nodes.doubt(path) {
            self.near.let_go(ino);
        }
    }

    /// The path of a name in a directory. Errors: ENOENT in a directory that is removed.
    fn place(&self, parent: u64, name: &OsStr) -> FileResult<FilePath> {
        self.settle_doubts(parent)?;
        match self.nodes.path(parent) {
            Ok(dir) => dir.join(name),
            Err(Errno::STALE) if self.nodes.last_words(parent).is_some() => Err(Errno::NOENT),
            Err(error) => Err(error),
        }
    }

    /// To be asked before the volume is asked what an [`entry`](Self::entry) is to say.
    fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Another door changed some file; to be noted before it is looked up here.
    pub fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Tells of what a name leads to. It is not to be remembered where files were changed
    /// `since`: the kernel could not be told of one that it did not know yet.
    fn entry(&self, parent: u64, name: &OsStr, mut attr: FileAttr, since: u64) -> Entry {
        let may_remember = self.nodes.looked_up(parent, name, &mut attr);
        let may_remember = may_remember && self.changes() == since;
        Entry { attr, may_remember }
    }

    /// What is said of a node that the kernel knows.
    fn described(&self, ino: u64, attr: FileAttr) -> Entry {
        let shown = if ino == ROOT { self.real(ROOT) } else { ino };
        let attr = FileAttr { ino: shown, ..attr };
        let may_remember = self.nodes.described(ino, &attr);
        Entry { attr, may_remember }
    }

    /// What stands at a name. Errors: ENOENT; ESTALE for `.` and `..`.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> FileResult<Entry> {
        match name.as_encoded_bytes() {
            b"." => return self.lookup_itself(parent),
            b".." => return self.lookup_above(parent),
            _ => {}
        }
        let _still = self.still();
        let since = self.changes();
        match self.find_in(parent, name) {
            Ok(attr) if self.held.wants() && attr.mode & KIND == REGULAR => {
                self.lookup_to_hold(parent, name, attr, since)
            }
            Ok(attr) => Ok(self.entry(parent, name, attr, since)),
            Err(error) => {
                // Unless it is the directory that is not there.
                let was_there = self.nodes.child(parent, name).is_some();
                if error == Errno::NOENT && was_there && self.place(parent, name).is_ok() {
                    self.nodes.unlinked(parent, name);
                }
                Err(error)
            }
        }
    }

    /// The kernel counts on a node `count` times less.
    pub fn forget(&self, ino: u64, count: u64) {
        if self.nodes.forget(ino, count) {
            self.near.let_go(ino);
        }
    }

    /// A node's attributes, by a handle where the kernel has one in mind.
    pub fn attr(&self, ino: u64, handle: Option<u64>) -> FileResult<Entry> {
        let attr = match handle.and_then(|number| self.files.get(number)) {
            Some(open) => self.volume.attr(Target::Open(&open.file)),
            None => match self.near.get(ino).filter(|_| self.remembers()) {
                Some(dir) => dir.attr(),
                None => self.look(ino, |target| self.volume.attr(target)),
            },
        };
        match (attr, self.nodes.last_words(ino)) {
            (Err(Errno::STALE), Some(last)) => Ok(Entry {
                attr: last,
                may_remember: false,
            }),
            (Ok(attr), _) => Ok(self.described(ino, attr)),
            (Err(error), _) => Err(error),
        }
    }

    /// Changes attributes for this user; by a handle where there was one.
    pub fn set_attr(
        &self,
        ino: u64,
        handle: Option<u64>,
        set: SetAttr,
        uid: u32,
    ) -> FileResult<Entry> {
        let drops = uid != 0 && set.len_bytes.is_some() && set.mode.is_none();
        let act = |target: Target<'_, V::OpenFile>| {
            let again = match &target {
                Target::Named { path, id } => Target::Named { path, id: *id },
                Target::Open(file) => Target::Open(*file),
            };
            let attr = self.volume.set_attr(target, set)?;
            if drops {
                self.drop_set_id(again, attr)
            } else {
                Ok(attr)
            }
        };
        let open = handle.and_then(|number| self.files.get(number));
        let attr = match open.filter(|open| open.file.is_writable()) {
            Some(open) => act(Target::Open(&open.file)),
            None => self.change(ino, act),
        }?;
        Ok(self.described(ino, attr))
    }

    /// Where a symbolic link leads.
    pub fn read_link(&self, ino: u64) -> FileResult<OsString> {
        let _still = self.still();
        self.by_name(ino, |path, id| self.volume.read_link(path, id))
    }

    /// Makes a directory.
    pub fn make_dir(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        caller: Caller,
    ) -> FileResult<Entry> {
        let _still = self.still();
        let path = self.place(parent, name)?;
        let since = self.changes();
        let attr = self.volume.make_dir(&path, mode, caller)?;
        Ok(self.entry(parent, name, attr, since))
    }

    /// Makes a file, a FIFO, a socket or a device. Errors: EPERM for a device, unless the terms
    /// allow it.
    pub fn make_node(
        &self,
        parent: u64,
        name: &OsStr,
        node: NewNode,
        caller: Caller,
    ) -> FileResult<Entry> {
        if matches!(node.mode & KIND, CHARACTER_DEVICE | BLOCK_DEVICE) && !self.may_make_devices {
            return Err(Errno::PERM);
        }
        let _still = self.still();
        let path = self.place(parent, name)?;
        let since = self.changes();
        let attr = self.volume.make_node(&path, node, caller)?;
        Ok(self.entry(parent, name, attr, since))
    }

    /// Makes a symbolic link.
    pub fn make_symlink(
        &self,
        parent: u64,
        name: &OsStr,
        target: &OsStr,
        caller: Caller,
    ) -> FileResult<Entry> {
        let _still = self.still();
        let path = self.place(parent, name)?;
        let since = self.changes();
        let attr = self.volume.make_symlink(&path, target, caller)?;
        Ok(self.entry(parent, name, attr, since))
    }

    /// Gives a file one more name.
    pub fn make_link(&self, ino: u64, parent: u64, name: &OsStr) -> FileResult<Entry> {
        let since = self.changes();
        let attr = self.change(ino, |target| {
            let to = self.place(parent, name)?;
            self.volume.make_link(target, &to)
        })?;
        Ok(self.entry(parent, name, attr, since))
    }

    /// Takes a name away from what is no directory.
    pub fn unlink(&self, parent: u64, name: &OsStr) -> FileResult<()> {
        let _still = self.still();
        self.volume.unlink(&self.place(parent, name)?)?;
        self.nodes.unlinked(parent, name);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, parent: u64, name: &OsStr) -> FileResult<()> {
        let _still = self.still();
        self.volume.remove_dir(&self.place(parent, name)?)?;
        if let Some(ino) = self.nodes.child(parent, name) {
            self.near.let_go(ino);
        }
        self.nodes.unlinked(parent, name);
        Ok(())
    }

    /// Moves a name.
    pub fn move_name(
        &self,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        mode: RenameMode,
    ) -> FileResult<()> {
        let move_name = || {
            let source = self.place(from.0, from.1)?;
            let target = self.place(to.0, to.1)?;
            self.volume.rename(&source, &target, mode)?;
            match mode {
                RenameMode::Exchange => self.nodes.exchanged(from.0, from.1, to.0, to.1),
                RenameMode::Replace | RenameMode::NoReplace => {
                    self.nodes.renamed(from.0, from.1, to.0, to.1);
                }
            }
            Ok(())
        };
        let is_directory = self.nodes.is_directory(from.0, from.1)
            || mode == RenameMode::Exchange && self.nodes.is_directory(to.0, to.1);
        if is_directory {
            let _moving = self.moving.write().unwrap_or_else(PoisonError::into_inner);
            move_name()
        } else {
            let _still = self.still();
            move_name()
        }
    }

    /// Room.
    pub fn facts(&self) -> FileResult<FileSystemFacts> {
        self.volume.facts()
    }

    /// An extended attribute's value.
    pub fn xattr(&self, ino: u64, name: &OsStr) -> FileResult<Vec<u8>> {
        self.look(ino, |target| self.volume.xattr(target, name))
    }

    /// Sets an extended attribute.
    pub fn set_xattr(
        &self,
        ino: u64,
        name: &OsStr,
        value: &[u8],
        mode: XattrMode,
    ) -> FileResult<()> {
        self.change(ino, |target| {
            self.volume.set_xattr(target, name, value, mode)
        })
    }

    /// The names of extended attributes.
    pub fn xattr_names(&self, ino: u64) -> FileResult<Vec<OsString>> {
        self.look(ino, |target| self.volume.xattr_names(target))
    }

    /// Takes an extended attribute away.
    pub fn remove_xattr(&self, ino: u64, name: &OsStr) -> FileResult<()> {
        self.change(ino, |target| self.volume.remove_xattr(target, name))
    }

    /// Where a path leads in the kernel's eyes: for telling it what changed.
    pub fn find(&self, path: &FilePath) -> Option<Found> {
        self.nodes.find(path)
    }

    /// The numbers by which the kernel may know an inode.
    pub fn known(&self, ino: u64) -> Vec<u64> {
        let mut known = self.nodes.known(ino);
        if ino == self.real(ROOT) {
            known.push(ROOT);
        }
        known
    }

    /// The directories and names by which the kernel may know a node.
    pub fn names_of(&self, ino: u64) -> Vec<(u64, Arc<OsStr>)> {
        self.nodes.names_of(ino)
    }

    /// Every number, and every directory and name, that the kernel may know.
    pub fn all_known(&self) -> (Vec<u64>, Vec<(u64, Arc<OsStr>)>) {
        (self.nodes.all(), self.nodes.all_names())
    }
}
