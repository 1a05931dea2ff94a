//! [`Disk`] over a real directory tree, by system calls.

mod abilities;
mod access;
mod numbers;
mod rights;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use self::access::may_give_files_away;
use self::access::set_access;
pub(super) use self::numbers::past_creation;
pub use self::rights::require_impersonation;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::acl::DEFAULT_ACL;
use super::attrs::XATTR_NAME;
use super::disk::{
    Access, DirEntry, Disk, DiskFile, FileFacts, FileKind, Inheritance, Question, Room,
};
use crate::durable;
use crate::keypath::RESERVED;
use crate::permission::Credentials;

pub mod posix;

/// Largest value an xattr can have on Linux. Source: xattr(7), XATTR_SIZE_MAX.
const MAX_XATTR_LEN_BYTES: usize = 64 * 1024;
/// Read first; records that are longer are read again.
const USUAL_RECORD_LEN_BYTES: usize = 512;
/// Largest single copy asked of the kernel.
const COPY_STEP_LEN_BYTES: u64 = 128 << 20;

const STAT_MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);
const INSIDE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
const NO_LINKS: ResolveFlags = INSIDE.union(ResolveFlags::NO_SYMLINKS);
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOCTTY)
    .union(OFlags::NONBLOCK);

/// A directory tree on a file system of this host.
pub struct OsDisk {
    root: Arc<OwnedFd>,
    root_path: String,
    has_xattrs: bool,
    has_unnamed: bool,
    links_by_descriptor: bool,
    syncs_everything: bool,
    tick_ns: i64,
    next_name: AtomicU64,
}

/// A file of an [`OsDisk`].
pub struct OsFile {
    fd: OwnedFd,
    /// Where it stands in staging, on file systems without unnamed files.
    staged_name: Mutex<Option<StagedName>>,
}

/// Removes the staging name when the file is dropped.
struct StagedName {
    dir: OwnedFd,
    name: String,
}

impl Drop for StagedName {
    fn drop(&mut self) {
        // A name that stays is swept at the next start.
        let _ = fs::unlinkat(&self.dir, &self.name, AtFlags::empty());
    }
}

impl From<OwnedFd> for OsFile {
    fn from(fd: OwnedFd) -> Self {
        Self {
            fd,
            staged_name: Mutex::new(None),
        }
    }
}

impl AsFd for OsFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl OsDisk {
    /// Opens a tree, trying once what its file system can do. `probe` is a directory on it in
    /// which probing files may be made.
    pub fn open(root: &Path, probe: &Path) -> io::Result<Self> {
        let root_fd = fs::open(root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let probe_fd = fs::open(probe, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let root_path = link_target(&root_fd)?;
        let mut disk = Self {
            root: Arc::new(root_fd),
            root_path,
            has_xattrs: true,
            has_unnamed: true,
            links_by_descriptor: true,
            syncs_everything: false,
            tick_ns: abilities::LONGEST_TICK_NS,
            next_name: AtomicU64::new(0),
        };
        disk.probe(&probe_fd)?;
        Ok(disk)
    }

    /// Tells one mounting of its file system from the next; none where that is not known.
    pub fn mounting(&self) -> Option<u64> {
        abilities::mounting(&self.root)
    }

    fn probe(&mut self, dir: &OwnedFd) -> io::Result<()> {
        let file = match self.create_unnamed(dir) {
            Ok(file) => file,
            Err(_) => {
                self.has_unnamed = false;
                self.create_unnamed(dir)?
            }
        };
        self.has_xattrs = match file.set_record(b"probe") {
            Ok(()) => true,
            Err(e) if is(&e, &[Errno::OPNOTSUPP, Errno::NOSYS, Errno::PERM]) => false,
            Err(e) => return Err(e),
        };
        const PROBE: &str = "probe";
        let _ = fs::unlinkat(dir, PROBE, AtFlags::empty());
        if self.has_unnamed && self.link(&file, dir, PROBE).is_err() {
            self.links_by_descriptor = false;
            if self.link(&file, dir, PROBE).is_err() {
                self.has_unnamed = false;
            }
        }
        let _ = fs::unlinkat(dir, PROBE, AtFlags::empty());
        self.syncs_everything = abilities::syncs_everything(dir);
        self.tick_ns = abilities::tick_ns(dir, file.fd.as_fd())?;
        Ok(())
    }

    /// Names in staging begin at this number, which others that share the file system do not
    /// begin at: the number of a process names it on its host only.
    pub fn with_first_name(mut self, first_name: u64) -> Self {
        self.next_name = AtomicU64::new(first_name);
        self
    }

    /// As if the kernel were older.
    #[cfg(test)]
    pub fn with_coarse_times(mut self) -> Self {
        self.tick_ns = abilities::CLOCK_TICK_NS;
        self
    }

    fn staging_name(&self) -> String {
        let n = self.next_name.fetch_add(1, Ordering::Relaxed);
        format!("s{}-{n}", std::process::id())
    }

    /// Resolves links on the way, then refuses what lies outside the volume or in the
    /// reserved directory.
    fn resolve_links(&self, base: &OwnedFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        // Beneath the volume, not beneath `base`: a link may name another bucket's file.
        let base_path = link_target(base)?;
        let rest = base_path
            .strip_prefix(&self.root_path)
            .ok_or(Errno::NOENT)?;
        let whole = format!("{}/{path}", rest.trim_start_matches('/'));
        let whole = whole.trim_start_matches('/');
        let fd = match fs::openat2(&*self.root, whole, flags, Mode::empty(), INSIDE) {
            Err(Errno::XDEV | Errno::LOOP) => return Err(Errno::NOENT.into()),
            other => other?,
        };
        let inside = link_target(&fd)?;
        let inside = inside.strip_prefix(&self.root_path).ok_or(Errno::NOENT)?;
        let first = inside
            .trim_start_matches('/')
            .split('/')
            .next()
            .unwrap_or("");
        if first == RESERVED || first.is_empty() {
            return Err(Errno::NOENT.into());
        }
        Ok(fd)
    }

    fn open_with(&self, base: &OwnedFd, path: &str, resolve: ResolveFlags) -> io::Result<OsFile> {
        let fd = match fs::openat2(base, path, READ, Mode::empty(), resolve) {
            Err(Errno::LOOP) if !resolve.contains(ResolveFlags::CACHED) => {
                self.resolve_links(base, path, READ)?
            }
            // A link may need more than names in memory: let the waiting path decide.
            Err(Errno::LOOP) => return Err(Errno::AGAIN.into()),
            // A socket or a device without a driver.
            Err(Errno::NXIO | Errno::NODEV) => return Err(Errno::INVAL.into()),
            other => other?,
        };
        Ok(fd.into())
    }
}

/// Where a descriptor leads. Source: proc_pid_fd(5).
fn link_target(fd: &OwnedFd) -> io::Result<String> {
    let target = fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
    target.into_string().map_err(|_| Errno::ILSEQ.into())
}

fn is(error: &io::Error, any_of: &[Errno]) -> bool {
    error
        .raw_os_error()
        .is_some_and(|raw| any_of.contains(&Errno::from_raw_os_error(raw)))
}

fn nanos(time: fs::StatxTimestamp) -> i64 {
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::from(time.tv_nsec))
}

fn facts_of(stat: &fs::Statx) -> FileFacts {
    let has_btime = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    FileFacts {
        kind: kind_of(FileType::from_raw_mode(stat.stx_mode.into())),
        len_bytes: stat.stx_size,
        mtime_ns: nanos(stat.stx_mtime),
        ctime_ns: nanos(stat.stx_ctime),
        btime_ns: if has_btime { nanos(stat.stx_btime) } else { 0 },
        ino: stat.stx_ino,
        link_count: stat.stx_nlink.into(),
    }
}

fn kind_of(kind: FileType) -> FileKind {
    match kind {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    }
}

fn get_xattr(fd: BorrowedFd<'_>, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; USUAL_RECORD_LEN_BYTES];
    loop {
        match fs::fgetxattr(fd, name, &mut value[..]) {
            Ok(len) => {
                value.truncate(len);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) if value.len() < MAX_XATTR_LEN_BYTES => {
                value.resize(MAX_XATTR_LEN_BYTES, 0);
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

impl Disk for OsDisk {
    type File = OsFile;
    type Dir = OwnedFd;

    fn root(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.root)
    }

    fn open_dir(&self, base: &OwnedFd, path: &str) -> io::Result<Arc<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match fs::openat2(base, path, flags, Mode::empty(), NO_LINKS) {
            Err(Errno::LOOP) => self.resolve_links(base, path, flags)?,
            // With O_DIRECTORY a link in the last place is ENOTDIR: a link to a directory is
            // resolved, a plain file stays what it is.
            Err(Errno::NOTDIR) => self
                .resolve_links(base, path, flags)
                .map_err(|_| Errno::NOTDIR)?,
            other => other?,
        };
        Ok(Arc::new(fd))
    }

    fn open(&self, base: &OwnedFd, path: &str) -> io::Result<OsFile> {
        self.open_with(base, path, NO_LINKS)
    }

    fn open_cached(&self, base: &OwnedFd, path: &str) -> io::Result<OsFile> {
        self.open_with(base, path, NO_LINKS | ResolveFlags::CACHED)
    }

    fn open_own(&self, dir: &OwnedFd, name: &str, create: bool) -> io::Result<OsFile> {
        let mut flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if create {
            flags |= OFlags::CREATE;
        }
        let fd = fs::openat(dir, name, flags, Mode::from_raw_mode(0o644))?;
        Ok(fd.into())
    }

    fn create_unnamed(&self, staging: &OwnedFd) -> io::Result<OsFile> {
        let mode = Mode::from_raw_mode(0o644);
        if self.has_unnamed {
            let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
            let fd = fs::openat(staging, ".", flags, mode)?;
            return Ok(fd.into());
        }
        let name = self.staging_name();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = fs::openat(staging, &name, flags, mode)?;
        let dir = staging.try_clone()?;
        Ok(OsFile {
            fd,
            staged_name: Mutex::new(Some(StagedName { dir, name })),
        })
    }

    fn link(&self, file: &OsFile, dir: &OwnedFd, name: &str) -> io::Result<()> {
        let mut staged_name = file
            .staged_name
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(staged) = &*staged_name {
            fs::linkat(&staged.dir, &staged.name, dir, name, AtFlags::empty())?;
            // Now, not when the file is dropped: taking a name away moves the ctime.
            staged_name.take();
            return Ok(());
        }
        if self.links_by_descriptor {
            return Ok(fs::linkat(&file.fd, "", dir, name, AtFlags::EMPTY_PATH)?);
        }
        let path = format!("/proc/self/fd/{}", file.fd.as_raw_fd());
        Ok(fs::linkat(
            fs::CWD,
            path,
            dir,
            name,
            AtFlags::SYMLINK_FOLLOW,
        )?)
    }

    fn rename(
        &self,
        from: &OwnedFd,
        from_name: &str,
        to: &OwnedFd,
        to_name: &str,
    ) -> io::Result<()> {
        Ok(fs::renameat(from, from_name, to, to_name)?)
    }

    fn unlink(&self, dir: &OwnedFd, name: &str) -> io::Result<()> {
        Ok(fs::unlinkat(dir, name, AtFlags::empty())?)
    }

    fn make_dir(&self, parent: &OwnedFd, name: &str, mode: u32) -> io::Result<()> {
        Ok(fs::mkdirat(parent, name, Mode::from_raw_mode(mode))?)
    }

    fn remove_dir(&self, parent: &OwnedFd, name: &str) -> io::Result<()> {
        Ok(fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
    }

    fn stat(&self, base: &OwnedFd, path: &str) -> io::Result<FileFacts> {
        let stat = fs::statx(base, path, AtFlags::SYMLINK_NOFOLLOW, STAT_MASK)?;
        Ok(facts_of(&stat))
    }

    fn stat_dir(&self, dir: &OwnedFd) -> io::Result<FileFacts> {
        Ok(facts_of(&fs::statx(
            dir,
            "",
            AtFlags::EMPTY_PATH,
            STAT_MASK,
        )?))
    }

    fn read_dir(&self, dir: &OwnedFd, visit: &mut dyn FnMut(DirEntry) -> bool) -> io::Result<()> {
        for entry in fs::Dir::read_from(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => None,
                kind => Some(kind_of(kind)),
            };
            if !visit(DirEntry {
                name: name.to_owned(),
                kind,
            }) {
                break;
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &OwnedFd) -> io::Result<()> {
        Ok(durable::sync_dir(dir)?)
    }

    fn sync_everything(&self) -> io::Result<()> {
        if !self.syncs_everything {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(durable::sync_everything(&*self.root)?)
    }

    fn syncs_everything(&self) -> bool {
        self.syncs_everything
    }

    fn os(&self) -> Option<&OsDisk> {
        Some(self)
    }

    fn dir_record(&self, dir: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
        get_xattr(dir.as_fd(), XATTR_NAME)
    }

    fn set_dir_record(&self, dir: &OwnedFd, record: Option<&[u8]>) -> io::Result<()> {
        match record {
            Some(value) => Ok(fs::fsetxattr(
                dir,
                XATTR_NAME,
                value,
                fs::XattrFlags::empty(),
            )?),
            None => match fs::fremovexattr(dir, XATTR_NAME) {
                Ok(()) | Err(Errno::NODATA) => Ok(()),
                Err(e) => Err(e.into()),
            },
        }
    }

    fn inheritance(&self, dir: &OwnedFd) -> io::Result<Inheritance> {
        let stat = fs::statx(dir, "", AtFlags::EMPTY_PATH, STAT_MASK)?;
        let hands_down_group = Mode::from_raw_mode(stat.stx_mode.into()).contains(Mode::SGID);
        Ok(Inheritance {
            gid: hands_down_group.then_some(stat.stx_gid),
            default_acl: get_xattr(dir.as_fd(), DEFAULT_ACL)?,
        })
    }

    fn set_dir_access(&self, dir: &OwnedFd, access: &Access) -> io::Result<()> {
        set_access(dir.as_fd(), access)
    }

    fn check_rights(&self, who: &Credentials, question: &Question<'_, OsFile>) -> io::Result<()> {
        rights::check(&self.root, who, question)
    }

    fn tick_ns(&self) -> i64 {
        self.tick_ns
    }

    fn has_xattrs(&self) -> bool {
        self.has_xattrs
    }

    fn room(&self) -> io::Result<Room> {
        let facts = fs::fstatvfs(&*self.root)?;
        Ok(Room {
            total_bytes: facts.f_blocks.saturating_mul(facts.f_frsize),
            free_bytes: facts.f_bavail.saturating_mul(facts.f_frsize),
        })
    }
}

impl DiskFile for OsFile {
    fn facts(&self) -> io::Result<FileFacts> {
        Ok(facts_of(&fs::statx(
            &self.fd,
            "",
            AtFlags::EMPTY_PATH,
            STAT_MASK,
        )?))
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            let n = rustix::io::pread(&self.fd, rustix::buffer::spare_capacity(&mut bytes), at)?;
            if n == 0 {
                break;
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn read_at_cached(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut parts = [io::IoSliceMut::new(&mut bytes)];
        let n = rustix::io::preadv2(&self.fd, &mut parts, offset, ReadWriteFlags::NOWAIT)?;
        if n < len {
            // The end of the file, or bytes that are not in memory: the waiting path tells.
            return Err(Errno::AGAIN.into());
        }
        Ok(bytes)
    }

    fn write_at(&self, offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        let mut at = offset;
        while !bytes.is_empty() {
            let n = rustix::io::pwrite(&self.fd, bytes, at)?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += n as u64;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        Ok(fs::ftruncate(&self.fd, len_bytes)?)
    }

    fn set_modified(&self, mtime_ns: i64) -> io::Result<()> {
        let mtime = fs::Timespec {
            tv_sec: mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: mtime_ns.rem_euclid(1_000_000_000),
        };
        let omit = fs::Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_OMIT,
        };
        let times = fs::Timestamps {
            last_access: omit,
            last_modification: mtime,
        };
        Ok(fs::futimens(&self.fd, &times)?)
    }

    fn set_access(&self, access: &Access) -> io::Result<()> {
        set_access(self.fd.as_fd(), access)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(durable::sync_file(&self.fd, false)?)
    }

    fn copy_from(&self, source: &Self, from: u64, to: u64, len_bytes: u64) -> io::Result<u64> {
        let (mut read_at, mut write_at, mut left) = (from, to, len_bytes);
        while left > 0 {
            let step = left.min(COPY_STEP_LEN_BYTES) as usize;
            let copied = fs::copy_file_range(
                &source.fd,
                Some(&mut read_at),
                &self.fd,
                Some(&mut write_at),
                step,
            );
            match copied {
                Ok(0) => break,
                Ok(n) => left -= n as u64,
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    const STEP: u64 = 1 << 20;
                    let bytes = source.read_at(read_at, left.min(STEP) as usize)?;
                    if bytes.is_empty() {
                        break;
                    }
                    self.write_at(write_at, &bytes)?;
                    let n = bytes.len() as u64;
                    (read_at, write_at, left) = (read_at + n, write_at + n, left - n);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(len_bytes - left)
    }

    fn record(&self) -> io::Result<Option<Vec<u8>>> {
        get_xattr(self.fd.as_fd(), XATTR_NAME)
    }

    fn set_record(&self, record: &[u8]) -> io::Result<()> {
        Ok(fs::fsetxattr(
            &self.fd,
            XATTR_NAME,
            record,
            fs::XattrFlags::empty(),
        )?)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}
