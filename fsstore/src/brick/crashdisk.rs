//! A disk in memory whose power can be cut: [`Disk`] over a [`World`], which keeps what programs
//! see apart from what is on stable storage. Calls that change or sync anything are counted;
//! after a chosen number of them the process is dead, and every further call fails. A chosen
//! call of any kind can be made to fail.

mod gate;
mod world;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::disk::{
    Access, DirEntry, Disk, DiskFile, FileFacts, FileKind, Inheritance, Question, Room,
};
use crate::permission::Credentials;
use gate::Gate;
use world::{Id, ROOT};
pub use world::{Model, Random, World};

/// How large it says that it is, in bytes.
const TOTAL_LEN_BYTES: u64 = 1 << 40;

/// What the file system can do.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    /// Whether it has syncfs(2).
    pub syncs_everything: bool,
    /// Whether it has xattrs.
    pub has_xattrs: bool,
    /// Room for a record in an xattr, in bytes.
    pub max_record_len_bytes: usize,
}

impl Default for Abilities {
    fn default() -> Self {
        Self {
            syncs_everything: true,
            has_xattrs: true,
            max_record_len_bytes: 64 << 10,
        }
    }
}

/// A call that is to fail.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// The number of the call among all calls, from 0.
    pub at: u64,
    /// How it fails.
    pub errno: Errno,
}

struct Guarded {
    world: World,
    /// Calls so far that change or sync anything.
    changes: u64,
    /// Calls so far of any kind.
    calls: u64,
    cut_after: Option<u64>,
    dead: bool,
    fault: Option<Fault>,
    /// The last call that was made to fail.
    failed: Option<&'static str>,
    /// What it says that is free, in bytes.
    free_bytes: u64,
}

struct Shared {
    guarded: Mutex<Guarded>,
    abilities: Abilities,
    gate: Gate,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
pub struct CrashDisk {
    shared: Arc<Shared>,
}

/// An inode held open.
pub struct Handle {
    shared: Arc<Shared>,
    id: Id,
}

impl Handle {
    /// Who may do what with it.
    pub fn access(&self) -> io::Result<Access> {
        Ok(self.shared.lock().world.node(self.id)?.access.clone())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let world = &mut self.shared.lock().world;
        if let Some(holds) = world.holds.get_mut(&self.id) {
            *holds -= 1;
            if *holds == 0 {
                world.holds.remove(&self.id);
                world.collect();
            }
        }
    }
}

impl CrashDisk {
    /// A disk that holds `world`.
    pub fn new(world: World, abilities: Abilities) -> Self {
        Self {
            shared: Arc::new(Shared {
                guarded: Mutex::new(Guarded {
                    world,
                    changes: 0,
                    calls: 0,
                    cut_after: None,
                    dead: false,
                    fault: None,
                    failed: None,
                    free_bytes: TOTAL_LEN_BYTES / 2,
                }),
                abilities,
                gate: Gate::default(),
            }),
        }
    }

    /// The gate that writes pass.
    pub fn gate(&self) -> &Gate {
        &self.shared.gate
    }

    /// Lets the process die after so many more calls that change or sync anything.
    pub fn cut_after(&self, changes: u64) {
        let mut guarded = self.shared.lock();
        guarded.cut_after = Some(guarded.changes + changes);
    }

    /// Lets one call fail, counted from now on.
    pub fn fail(&self, fault: Fault) {
        let mut guarded = self.shared.lock();
        guarded.failed = None;
        guarded.fault = Some(Fault {
            at: guarded.calls + fault.at,
            ..fault
        });
    }

    /// Has it say that so much is free, in bytes.
    pub fn set_free(&self, free_bytes: u64) {
        self.shared.lock().free_bytes = free_bytes;
    }

    /// The name of the call that was made to fail; none where none was.
    pub fn failed(&self) -> Option<&'static str> {
        self.shared.lock().failed
    }

    /// How many calls there were: those that change or sync anything, and all.
    pub fn counts(&self) -> (u64, u64) {
        let guarded = self.shared.lock();
        (guarded.changes, guarded.calls)
    }

    /// The world as it is; after the process died, as it was then.
    pub fn world(&self) -> World {
        self.shared.lock().world.clone()
    }

    fn hold(&self, guarded: &mut Guarded, id: Id) -> Handle {
        *guarded.world.holds.entry(id).or_default() += 1;
        Handle {
            shared: Arc::clone(&self.shared),
            id,
        }
    }

    fn read(&self, name: &'static str) -> io::Result<MutexGuard<'_, Guarded>> {
        begin(&self.shared, name, false)
    }

    fn change(&self, name: &'static str) -> io::Result<MutexGuard<'_, Guarded>> {
        begin(&self.shared, name, true)
    }
}

fn begin<'a>(
    shared: &'a Shared,
    name: &'static str,
    is_change: bool,
) -> io::Result<MutexGuard<'a, Guarded>> {
    let mut guarded = shared.lock();
    if is_change {
        if guarded.cut_after == Some(guarded.changes) {
            guarded.dead = true;
        }
        if !guarded.dead {
            guarded.changes += 1;
        }
    }
    if guarded.dead {
        return Err(io::Error::other("the power is cut"));
    }
    let number = guarded.calls;
    guarded.calls += 1;
    match guarded.fault {
        Some(fault) if fault.at == number => {
            guarded.failed = Some(name);
            Err(fault.errno.into())
        }
        _ => Ok(guarded),
    }
}

impl Guarded {
    fn file(&self, base: Id, path: &str) -> io::Result<Id> {
        let id = self.world.find(base, path)?;
        match self.world.node(id)?.is_dir {
            true => Err(Errno::ISDIR.into()),
            false => Ok(id),
        }
    }
}

impl Disk for CrashDisk {
    type File = Handle;
    type Dir = Handle;

    fn root(&self) -> Arc<Handle> {
        Arc::new(self.hold(&mut self.shared.lock(), ROOT))
    }

    fn open_dir(&self, base: &Handle, path: &str) -> io::Result<Arc<Handle>> {
        let mut guarded = self.read("open_dir")?;
        let id = guarded.world.find(base.id, path)?;
        if !guarded.world.node(id)?.is_dir {
            return Err(Errno::NOTDIR.into());
        }
        Ok(Arc::new(self.hold(&mut guarded, id)))
    }

    fn open(&self, base: &Handle, path: &str) -> io::Result<Handle> {
        let mut guarded = self.read("open")?;
        let id = guarded.file(base.id, path)?;
        Ok(self.hold(&mut guarded, id))
    }

    fn open_cached(&self, _base: &Handle, _path: &str) -> io::Result<Handle> {
        Err(Errno::AGAIN.into())
    }

    fn open_own(&self, dir: &Handle, name: &str, create: bool) -> io::Result<Handle> {
        let there = self.read("open_own")?.file(dir.id, name);
        match there {
            Err(e) if create && e.kind() == io::ErrorKind::NotFound => {
                let mut guarded = self.change("create")?;
                let id = guarded.world.create(false);
                let names = vec![(dir.id, name.to_owned(), Some(id))];
                guarded.world.rename_all(id, names)?;
                Ok(self.hold(&mut guarded, id))
            }
            other => Ok(self.hold(&mut self.shared.lock(), other?)),
        }
    }

    fn create_unnamed(&self, _staging: &Handle) -> io::Result<Handle> {
        let mut guarded = self.change("create_unnamed")?;
        let id = guarded.world.create(false);
        Ok(self.hold(&mut guarded, id))
    }

    fn link(&self, file: &Handle, dir: &Handle, name: &str) -> io::Result<()> {
        let mut guarded = self.change("link")?;
        match guarded.world.entry(dir.id, name) {
            Ok(_) => Err(Errno::EXIST.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let names = vec![(dir.id, name.to_owned(), Some(file.id))];
                guarded.world.rename_all(file.id, names)
            }
            Err(e) => Err(e),
        }
    }

    fn rename(&self, from: &Handle, from_name: &str, to: &Handle, to_name: &str) -> io::Result<()> {
        let mut guarded = self.change("rename")?;
        let world = &mut guarded.world;
        let id = world.entry(from.id, from_name)?;
        if let Ok(old) = world.entry(to.id, to_name)
            && world.node(old)?.is_dir
        {
            return Err(Errno::ISDIR.into());
        }
        let names = vec![
            (from.id, from_name.to_owned(), None),
            (to.id, to_name.to_owned(), Some(id)),
        ];
        world.rename_all(id, names)?;
        world.collect();
        Ok(())
    }

    fn unlink(&self, dir: &Handle, name: &str) -> io::Result<()> {
        let mut guarded = self.change("unlink")?;
        let id = guarded.file(dir.id, name)?;
        let names = vec![(dir.id, name.to_owned(), None)];
        guarded.world.rename_all(id, names)?;
        guarded.world.collect();
        Ok(())
    }

    fn make_dir(&self, parent: &Handle, name: &str, _mode: u32) -> io::Result<()> {
        let mut guarded = self.change("make_dir")?;
        match guarded.world.entry(parent.id, name) {
            Ok(_) => return Err(Errno::EXIST.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let id = guarded.world.create(true);
        let names = vec![(parent.id, name.to_owned(), Some(id))];
        guarded.world.rename_all(id, names)
    }

    fn remove_dir(&self, parent: &Handle, name: &str) -> io::Result<()> {
        let mut guarded = self.change("remove_dir")?;
        let id = guarded.world.entry(parent.id, name)?;
        let node = guarded.world.node(id)?;
        if !node.is_dir {
            return Err(Errno::NOTDIR.into());
        }
        if !node.entries.is_empty() {
            return Err(Errno::NOTEMPTY.into());
        }
        let names = vec![(parent.id, name.to_owned(), None)];
        guarded.world.rename_all(id, names)?;
        guarded.world.collect();
        Ok(())
    }

    fn stat(&self, base: &Handle, path: &str) -> io::Result<FileFacts> {
        let guarded = self.read("stat")?;
        let id = guarded.world.find(base.id, path)?;
        Ok(guarded.world.node(id)?.facts())
    }

    fn stat_dir(&self, dir: &Handle) -> io::Result<FileFacts> {
        Ok(self.read("stat_dir")?.world.node(dir.id)?.facts())
    }

    fn read_dir(&self, dir: &Handle, visit: &mut dyn FnMut(DirEntry) -> bool) -> io::Result<()> {
        let entries: Vec<_> = {
            let guarded = self.read("read_dir")?;
            let node = guarded.world.node(dir.id)?;
            let entries = node.entries.iter();
            let kind_of = |id| guarded.world.node(id).map(|node| node.facts().kind).ok();
            entries
                .map(|(name, id)| (name.clone(), kind_of(*id)))
                .collect()
        };
        for (name, kind) in entries {
            if !visit(DirEntry { name, kind }) {
                break;
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Handle) -> io::Result<()> {
        self.change("sync_dir")?.world.sync_dir(dir.id);
        Ok(())
    }

    fn sync_everything(&self) -> io::Result<()> {
        if !self.shared.abilities.syncs_everything {
            return Err(io::ErrorKind::Unsupported.into());
        }
        match self.change("sync_everything") {
            Ok(mut guarded) => {
                guarded.world.sync_everything();
                Ok(())
            }
            Err(e) => {
                let mut guarded = self.shared.lock();
                if !guarded.dead {
                    guarded.world.give_up_everything();
                }
                Err(e)
            }
        }
    }

    fn syncs_everything(&self) -> bool {
        self.shared.abilities.syncs_everything
    }

    fn dir_record(&self, dir: &Handle) -> io::Result<Option<Vec<u8>>> {
        record_of(dir)
    }

    fn set_dir_record(&self, dir: &Handle, record: Option<&[u8]>) -> io::Result<()> {
        set_record_of(dir, record)
    }

    fn inheritance(&self, dir: &Handle) -> io::Result<Inheritance> {
        self.read("inheritance")?.world.node(dir.id)?;
        Ok(Inheritance::default())
    }

    fn set_dir_access(&self, dir: &Handle, access: &Access) -> io::Result<()> {
        dir.set_access(access)
    }

    fn check_rights(&self, _: &Credentials, _: &Question<'_, Handle>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn tick_ns(&self) -> i64 {
        0
    }

    fn has_xattrs(&self) -> bool {
        self.shared.abilities.has_xattrs
    }

    fn room(&self) -> io::Result<Room> {
        Ok(Room {
            total_bytes: TOTAL_LEN_BYTES,
            free_bytes: self.shared.lock().free_bytes,
        })
    }
}

fn record_of(handle: &Handle) -> io::Result<Option<Vec<u8>>> {
    let guarded = begin(&handle.shared, "record", false)?;
    Ok(guarded.world.node(handle.id)?.record.clone())
}

fn set_record_of(handle: &Handle, record: Option<&[u8]>) -> io::Result<()> {
    let abilities = handle.shared.abilities;
    let mut guarded = begin(&handle.shared, "set_record", true)?;
    if !abilities.has_xattrs {
        return Err(Errno::OPNOTSUPP.into());
    }
    if record.is_some_and(|record| record.len() > abilities.max_record_len_bytes) {
        return Err(Errno::NOSPC.into());
    }
    guarded
        .world
        .set_record(handle.id, record.map(<[u8]>::to_vec))
}

impl DiskFile for Handle {
    fn facts(&self) -> io::Result<FileFacts> {
        let guarded = begin(&self.shared, "facts", false)?;
        let facts = guarded.world.node(self.id)?.facts();
        debug_assert_eq!(facts.kind, FileKind::File);
        Ok(facts)
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let guarded = begin(&self.shared, "read_at", false)?;
        let bytes = &guarded.world.node(self.id)?.bytes;
        let start = (offset as usize).min(bytes.len());
        let end = start.saturating_add(len).min(bytes.len());
        Ok(bytes[start..end].to_vec())
    }

    fn read_at_cached(&self, _offset: u64, _len: usize) -> io::Result<Vec<u8>> {
        Err(Errno::AGAIN.into())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.shared.gate.pass();
        begin(&self.shared, "write_at", true)?
            .world
            .write(self.id, offset as usize, bytes)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        begin(&self.shared, "set_len", true)?
            .world
            .set_len(self.id, len_bytes as usize)
    }

    fn set_modified(&self, mtime_ns: i64) -> io::Result<()> {
        begin(&self.shared, "set_modified", true)?
            .world
            .set_modified(self.id, mtime_ns)
    }

    fn set_access(&self, access: &Access) -> io::Result<()> {
        begin(&self.shared, "set_access", true)?
            .world
            .set_access(self.id, access)
    }

    fn sync(&self) -> io::Result<()> {
        match begin(&self.shared, "sync", true) {
            Ok(mut guarded) => guarded.world.sync_file(self.id),
            Err(e) => {
                let mut guarded = self.shared.lock();
                if !guarded.dead {
                    guarded.world.give_up(self.id);
                }
                return Err(e);
            }
        }
        Ok(())
    }

    fn copy_from(&self, source: &Self, from: u64, to: u64, len_bytes: u64) -> io::Result<u64> {
        let bytes = source.read_at(from, len_bytes as usize)?;
        self.write_at(to, &bytes)?;
        Ok(bytes.len() as u64)
    }

    fn record(&self) -> io::Result<Option<Vec<u8>>> {
        match self.shared.abilities.has_xattrs {
            true => record_of(self),
            false => Ok(None),
        }
    }

    fn set_record(&self, record: &[u8]) -> io::Result<()> {
        set_record_of(self, Some(record))
    }

    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}
