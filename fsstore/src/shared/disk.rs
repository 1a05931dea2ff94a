//! The disk of a file system that several hosts share: the real one, with what such file systems
//! do besides.
//!
//! - What another host has just removed or replaced can answer ESTALE: it is looked up again.
//! - Nothing is taken from memory without asking: another host may have changed it.
//! - Names are moved into and out of directories that are held open, so that a directory that is
//!   gone refuses them (see [`super::claim`]).

#[cfg(test)]
mod interrupts;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{self, AtFlags};
use rustix::io::Errno;

use crate::brick::disk::{
    Access, DirEntry, Disk, DiskFile, FileFacts, FileKind, Inheritance, Question, Room,
};
use crate::brick::osdisk::{OsDisk, OsFile};
use crate::permission::Credentials;

/// How often what answers ESTALE is looked up again. Linux itself does so once.
const MAX_STALE_ROUNDS: u32 = 8;
/// Pause before the second of those, doubled each time: a quarter of a second in all.
const STALE_PAUSE: Duration = Duration::from_millis(2);

/// A name that keeps a bucket's directory from being removed. No key has it, for it is not UTF-8.
const OBSTACLE: &[u8] = b".portico-kept-\xff";

/// An open directory.
pub type Dir = Arc<OwnedFd>;

/// See the module.
pub struct SharedDisk {
    os: OsDisk,
    is_remote: bool,
    #[cfg(test)]
    pub(super) interrupts: interrupts::Interrupts,
}

/// Repeats what answers ESTALE: the name led to something that another host removed meanwhile.
/// NotFound where it is `base` that is gone, with all that was in it.
fn fresh<T>(base: &OwnedFd, look: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let mut pause = STALE_PAUSE;
    for _ in 1..MAX_STALE_ROUNDS {
        match look() {
            Err(e) if is_stale(&e) => std::thread::sleep(pause),
            other => return other,
        }
        pause *= 2;
    }
    match look() {
        Err(e) if is_stale(&e) && fs::fstat(base).is_err() => Err(Errno::NOENT.into()),
        other => other,
    }
}

fn is_stale(e: &io::Error) -> bool {
    e.raw_os_error().map(Errno::from_raw_os_error) == Some(Errno::STALE)
}

/// Whether what a descriptor leads to is there no more: NFS, CephFS and Gluster say ESTALE then,
/// MooseFS ENOENT.
pub fn is_gone(e: &io::Error) -> bool {
    is_stale(e) || e.kind() == io::ErrorKind::NotFound
}

/// Whether a directory was not removed because something is in it: POSIX lets file systems say
/// either. Source: rmdir(2).
pub fn is_not_empty(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
    )
}

impl SharedDisk {
    /// Opens a tree; `probe` is a directory in it that nobody else uses.
    pub fn open(root: &Path, probe: &Path, first_name: u64) -> io::Result<Self> {
        let os = OsDisk::open(root, probe)?.with_first_name(first_name);
        let facts = fs::fstatfs(&*os.root())?;
        Ok(Self {
            is_remote: !is_local(facts.f_type as u64),
            os,
            #[cfg(test)]
            interrupts: interrupts::Interrupts::default(),
        })
    }

    #[cfg(test)]
    fn reach(&self, step: &str, name: &str) -> io::Result<()> {
        self.interrupts.reach(step, name)
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "tests stop here"
    )]
    fn reach(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    /// Whether other hosts may change what is on it. Then a name that is not there is looked up
    /// once more: Gluster has been seen to answer ENOENT for one that is just being replaced.
    pub fn is_remote(&self) -> bool {
        self.is_remote
    }

    /// Gives a file the owner, group and permissions that another has.
    pub fn copy_access(&self, from: &OsFile, to: &OsFile) -> io::Result<()> {
        let stat = fs::fstat(from)?;
        to.set_access(&Access {
            uid: Some(stat.st_uid),
            gid: Some(stat.st_gid),
            mode: Some(stat.st_mode & 0o777),
            acl: None,
        })
    }

    /// Gives a file one more name, where none is. Source: link(2).
    pub fn link_name(
        &self,
        from: &OwnedFd,
        from_name: &str,
        to: &OwnedFd,
        to_name: &str,
    ) -> io::Result<()> {
        self.reach("link", to_name)?;
        Ok(fs::linkat(from, from_name, to, to_name, AtFlags::empty())?)
    }

    /// As `read_dir`, for who can tell whether a directory that is said to be gone is: after a
    /// failover NFS says so of those that are there, and what was read by then is not all.
    pub fn read_dir_standing(
        &self,
        dir: &OwnedFd,
        visit: &mut dyn FnMut(DirEntry) -> bool,
    ) -> io::Result<()> {
        self.reach("read dir", "")?;
        self.os.read_dir(dir, visit)
    }

    /// Gives a file a name that keeps rmdir(2) from removing a directory, whatever keys are
    /// removed from it. Source: link(2).
    pub fn obstruct(&self, from: &OwnedFd, from_name: &str, dir: &OwnedFd) -> io::Result<()> {
        match fs::linkat(from, from_name, dir, OBSTACLE, AtFlags::empty()) {
            // There already; or the file system has names of UTF-8 only, and none for this.
            Err(Errno::EXIST | Errno::ILSEQ | Errno::INVAL) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Takes what [`Self::obstruct`] put into a directory away, as one step; whether it was there.
    pub fn take_obstacle(&self, dir: &OwnedFd, to: &OwnedFd, to_name: &str) -> io::Result<bool> {
        self.reach("take obstacle", "")?;
        match fs::renameat(dir, OBSTACLE, to, to_name) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::ILSEQ | Errno::INVAL) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// File systems of one host. Source: statfs(2).
fn is_local(kind: u64) -> bool {
    const EXT4: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    const TMPFS: u64 = 0x0102_1994;
    const OVERLAY: u64 = 0x794c_7630;
    [EXT4, XFS, BTRFS, TMPFS, OVERLAY].contains(&kind)
}

impl Disk for SharedDisk {
    type File = OsFile;
    type Dir = OwnedFd;

    fn root(&self) -> Dir {
        self.os.root()
    }

    fn open_dir(&self, base: &OwnedFd, path: &str) -> io::Result<Dir> {
        fresh(base, || self.os.open_dir(base, path))
    }

    fn open(&self, base: &OwnedFd, path: &str) -> io::Result<OsFile> {
        self.reach("open", path)?;
        fresh(base, || self.os.open(base, path))
    }

    fn open_cached(&self, _: &OwnedFd, _: &str) -> io::Result<OsFile> {
        // What is in this host's memory may be of yesterday.
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn open_own(&self, dir: &OwnedFd, name: &str, create: bool) -> io::Result<OsFile> {
        self.reach("open own", name)?;
        fresh(dir, || self.os.open_own(dir, name, create))
    }

    fn create_unnamed(&self, staging: &OwnedFd) -> io::Result<OsFile> {
        self.os.create_unnamed(staging)
    }

    fn link(&self, file: &OsFile, dir: &OwnedFd, name: &str) -> io::Result<()> {
        self.os.link(file, dir, name)
    }

    fn rename(
        &self,
        from: &OwnedFd,
        from_name: &str,
        to: &OwnedFd,
        to_name: &str,
    ) -> io::Result<()> {
        self.reach("rename from", from_name)?;
        self.reach("rename to", to_name)?;
        self.os.rename(from, from_name, to, to_name)
    }

    fn unlink(&self, dir: &OwnedFd, name: &str) -> io::Result<()> {
        self.os.unlink(dir, name)
    }

    fn make_dir(&self, parent: &OwnedFd, name: &str, mode: u32) -> io::Result<()> {
        self.reach("make dir", name)?;
        self.os.make_dir(parent, name, mode)
    }

    fn remove_dir(&self, parent: &OwnedFd, name: &str) -> io::Result<()> {
        self.reach("remove dir", name)?;
        self.os.remove_dir(parent, name)
    }

    fn stat(&self, base: &OwnedFd, path: &str) -> io::Result<FileFacts> {
        self.reach("stat", path)?;
        fresh(base, || self.os.stat(base, path))
    }

    fn stat_dir(&self, dir: &OwnedFd) -> io::Result<FileFacts> {
        self.os.stat_dir(dir)
    }

    fn read_dir(&self, dir: &OwnedFd, visit: &mut dyn FnMut(DirEntry) -> bool) -> io::Result<()> {
        match self.read_dir_standing(dir, visit) {
            // Removed while it was read: nothing is in it.
            Err(e) if is_gone(&e) => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, dir: &OwnedFd) -> io::Result<()> {
        match self.os.sync_dir(dir) {
            // A directory that is gone has nothing to make durable, and some FUSE file systems
            // make names durable at once and know no fsync of directories.
            Err(e) if is_gone(&e) || is_unsupported(&e) => Ok(()),
            other => other,
        }
    }

    fn sync_everything(&self) -> io::Result<()> {
        self.os.sync_everything()
    }

    fn syncs_everything(&self) -> bool {
        self.os.syncs_everything()
    }

    fn dir_record(&self, dir: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
        match self.os.dir_record(dir) {
            Err(e) if is_gone(&e) => Ok(None),
            other => other,
        }
    }

    fn set_dir_record(&self, dir: &OwnedFd, record: Option<&[u8]>) -> io::Result<()> {
        self.os.set_dir_record(dir, record)
    }

    fn inheritance(&self, dir: &OwnedFd) -> io::Result<Inheritance> {
        self.os.inheritance(dir)
    }

    fn set_dir_access(&self, dir: &OwnedFd, access: &Access) -> io::Result<()> {
        self.os.set_dir_access(dir, access)
    }

    fn check_rights(&self, _: &Credentials, _: &Question<'_, OsFile>) -> io::Result<()> {
        // This host's kernel decides about its own file systems only.
        Err(io::ErrorKind::Unsupported.into())
    }

    fn tick_ns(&self) -> i64 {
        self.os.tick_ns()
    }

    fn has_xattrs(&self) -> bool {
        self.os.has_xattrs()
    }

    fn room(&self) -> io::Result<Room> {
        match self.os.room()? {
            // CephFS without a manager: nobody knows.
            Room { total_bytes: 0, .. } => Ok(Room {
                total_bytes: 0,
                free_bytes: u64::MAX,
            }),
            known => Ok(known),
        }
    }
}

fn is_unsupported(e: &io::Error) -> bool {
    let raw = e.raw_os_error().map(Errno::from_raw_os_error);
    matches!(raw, Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}

/// What stands at a name, or none.
pub fn kind_at(disk: &SharedDisk, dir: &OwnedFd, name: &str) -> io::Result<Option<FileKind>> {
    match disk.stat(dir, name) {
        Ok(facts) => Ok(Some(facts.kind)),
        Err(e) if crate::brick::tree::is_absent(&e) => Ok(None),
        Err(e) => Err(e),
    }
}
