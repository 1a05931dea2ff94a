//! A plain directory as [`Files`]: nothing of an object store, so that what fails here is the
//! mount's own fault. Calls are those of the system; nobody is told of changes but by the test.

use std::ffi::{CString, OsStr, OsString};
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirEntryExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use fsstore::files::{
    Caller, Errno, FileAttr, FileEntry, FileId, FilePath, FileResult, FileSystemFacts, Files,
    FilesWatcher, NewNode, OpenDir, OpenFile, OpenFlags, RenameMode, SetAttr, SetTime, Target,
    XattrMode,
};
use fsstore::locks::{Device, LockPlace, LockPlaces};
use rustix::fs::{self as sys, AtFlags, Mode, OFlags, RenameFlags, Timespec, XattrFlags};

/// A directory.
pub struct Plain {
    pub root: PathBuf,
    /// Whether bytes pass through this side only.
    hides_descriptors: bool,
    watchers: Mutex<Vec<Weak<dyn FilesWatcher>>>,
}

impl Plain {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            hides_descriptors: false,
            watchers: Mutex::default(),
        }
    }

    /// As [`Plain::new`], for bytes that pass through this side only.
    pub fn hiding(root: impl Into<PathBuf>) -> Self {
        Self {
            hides_descriptors: true,
            ..Self::new(root)
        }
    }

    pub fn tell(&self, act: impl Fn(&dyn FilesWatcher)) {
        let watchers = self.watchers.lock().unwrap();
        watchers
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|watcher| act(&*watcher));
    }

    fn on_disk(&self, path: &FilePath) -> PathBuf {
        self.root.join(path.as_os_str())
    }

    /// The path of a target, which leads to it.
    fn path(&self, target: Target<'_, PlainFile>) -> FileResult<PathBuf> {
        match target {
            Target::Named { path, id } => {
                let path = self.on_disk(path);
                let attr = look(&path)?;
                if id.is_of(&attr) {
                    Ok(path)
                } else {
                    Err(Errno::STALE)
                }
            }
            Target::Open(open) => Ok(by_descriptor(open.fd.as_fd())),
        }
    }

    fn opened(&self, fd: OwnedFd, ino: u64, flags: OpenFlags) -> PlainFile {
        PlainFile {
            fd,
            ino,
            flags,
            is_shown: !self.hides_descriptors,
        }
    }

    fn made(&self, path: &FilePath, caller: Caller) -> FileResult<FileAttr> {
        let path = self.on_disk(path);
        own(&path, caller)?;
        look(&path)
    }
}

fn by_descriptor(fd: BorrowedFd<'_>) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn own(path: &std::path::Path, caller: Caller) -> FileResult<()> {
    use std::os::unix::fs::MetadataExt;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let dir = path.parent().unwrap().metadata().map_err(errno)?;
    let is_shared = dir.mode() & 0o2_000 != 0;
    let gid = if is_shared { dir.gid() } else { caller.gid };
    std::os::unix::fs::lchown(path, Some(caller.uid), Some(gid)).map_err(errno)
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn attr_of(stat: &sys::Stat) -> FileAttr {
    let ns = |seconds: i64, part: u64| seconds * 1_000_000_000 + part as i64;
    FileAttr {
        ino: stat.st_ino,
        generation: 0,
        len_bytes: stat.st_size as u64,
        block_count: stat.st_blocks as u64,
        block_len_bytes: stat.st_blksize as u32,
        atime_ns: ns(stat.st_atime, stat.st_atime_nsec),
        mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
        mode: stat.st_mode,
        link_count: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
    }
}

fn look(path: &std::path::Path) -> FileResult<FileAttr> {
    let follow = path.starts_with("/proc/self/fd");
    let flags = if follow {
        AtFlags::empty()
    } else {
        AtFlags::SYMLINK_NOFOLLOW
    };
    let path = if path.as_os_str().is_empty() {
        std::path::Path::new(".")
    } else {
        path
    };
    Ok(attr_of(&sys::statat(sys::CWD, path, flags)?))
}

fn mode(bits: u32, umask: u32) -> Mode {
    Mode::from_raw_mode(bits & !umask & 0o7_777)
}

fn access(flags: OpenFlags) -> OFlags {
    let mut wanted = OFlags::CLOEXEC
        | match (flags.read, flags.write) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
    wanted.set(OFlags::APPEND, flags.append);
    wanted.set(OFlags::TRUNC, flags.truncate);
    wanted.set(OFlags::EXCL, flags.exclusive);
    wanted.set(OFlags::SYNC, flags.sync);
    wanted
}

fn timespec(time: Option<SetTime>) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, sys::UTIME_OMIT),
        Some(SetTime::Now) => (0, sys::UTIME_NOW),
        Some(SetTime::At(ns)) => (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000)),
    };
    Timespec { tv_sec, tv_nsec }
}

impl Files for Plain {
    fn keeps_locks_on(&self, device: Device) -> LockPlace {
        LockPlaces::default().add(device)
    }

    fn find(&self, ino: u64) -> FileResult<FilePath> {
        let mut dirs = vec![FilePath::root()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(self.on_disk(&dir)).unwrap() {
                let entry = entry.unwrap();
                let path = dir.join(&entry.file_name())?;
                if entry.ino() == ino {
                    return Ok(path);
                }
                if entry.file_type().unwrap().is_dir() {
                    dirs.push(path);
                }
            }
        }
        Err(Errno::STALE)
    }

    fn tells_all(&self) -> bool {
        true
    }

    type OpenFile = PlainFile;
    type OpenDir = PlainDir;

    fn lookup(&self, path: &FilePath) -> FileResult<FileAttr> {
        assert_ne!(path.as_os_str(), "panic", "as the test wants it");
        look(&self.on_disk(path))
    }

    fn attr(&self, target: Target<'_, PlainFile>) -> FileResult<FileAttr> {
        look(&self.path(target)?)
    }

    fn set_attr(&self, target: Target<'_, PlainFile>, set: SetAttr) -> FileResult<FileAttr> {
        let path = self.path(target)?;
        if set.uid.is_some() || set.gid.is_some() {
            std::os::unix::fs::lchown(&path, set.uid, set.gid)
                .or_else(|_| std::os::unix::fs::chown(&path, set.uid, set.gid))
                .map_err(errno)?;
        }
        if let Some(bits) = set.mode {
            sys::chmod(&path, mode(bits, 0))?;
        }
        if let Some(len) = set.len_bytes {
            let file = sys::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            sys::ftruncate(file, len)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let times = sys::Timestamps {
                last_access: timespec(set.atime),
                last_modification: timespec(set.mtime),
            };
            let follow = path.starts_with("/proc/self/fd");
            let flags = if follow {
                AtFlags::empty()
            } else {
                AtFlags::SYMLINK_NOFOLLOW
            };
            sys::utimensat(sys::CWD, &path, &times, flags)?;
        }
        look(&path)
    }

    fn create(
        &self,
        path: &FilePath,
        bits: u32,
        flags: OpenFlags,
        caller: Caller,
    ) -> FileResult<(FileAttr, PlainFile)> {
        let at = self.on_disk(path);
        let existed = at.symlink_metadata().is_ok();
        let wanted = access(flags) | OFlags::CREATE;
        let fd = sys::open(&at, wanted, mode(bits, caller.umask))?;
        if !existed {
            own(&at, caller)?;
        }
        let attr = attr_of(&sys::fstat(&fd)?);
        Ok((attr, self.opened(fd, attr.ino, flags)))
    }

    fn open_file(&self, target: Target<'_, PlainFile>, flags: OpenFlags) -> FileResult<PlainFile> {
        let wanted = match &target {
            Target::Named { id, .. } => Some(*id),
            Target::Open(_) => None,
        };
        let path = self.path(target)?;
        let fd = sys::open(&path, access(flags), Mode::empty())?;
        let attr = attr_of(&sys::fstat(&fd)?);
        // Replaced since it was looked at.
        if wanted.is_some_and(|id| !id.is_of(&attr)) {
            return Err(Errno::STALE);
        }
        Ok(self.opened(fd, attr.ino, flags))
    }

    fn open_dir(&self, path: &FilePath, id: FileId) -> FileResult<PlainDir> {
        let at = self.on_disk(path);
        let fd = sys::open(&at, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        if !id.is_of(&attr_of(&sys::fstat(&fd)?)) {
            return Err(Errno::STALE);
        }
        Ok(PlainDir { fd })
    }

    fn make_dir(&self, path: &FilePath, bits: u32, caller: Caller) -> FileResult<FileAttr> {
        sys::mkdir(self.on_disk(path), mode(bits, caller.umask))?;
        self.made(path, caller)
    }

    fn make_node(&self, path: &FilePath, node: NewNode, caller: Caller) -> FileResult<FileAttr> {
        let kind = sys::FileType::from_raw_mode(node.mode);
        let bits = mode(node.mode, caller.umask);
        sys::mknodat(sys::CWD, self.on_disk(path), kind, bits, node.rdev)?;
        self.made(path, caller)
    }

    fn make_symlink(&self, path: &FilePath, to: &OsStr, caller: Caller) -> FileResult<FileAttr> {
        std::os::unix::fs::symlink(to, self.on_disk(path)).map_err(errno)?;
        self.made(path, caller)
    }

    fn make_link(&self, target: Target<'_, PlainFile>, to: &FilePath) -> FileResult<FileAttr> {
        let path = self.path(target)?;
        let follow = path.starts_with("/proc/self/fd");
        let flags = if follow {
            AtFlags::SYMLINK_FOLLOW
        } else {
            AtFlags::empty()
        };
        sys::linkat(sys::CWD, &path, sys::CWD, self.on_disk(to), flags)?;
        look(&self.on_disk(to))
    }

    fn unlink(&self, path: &FilePath) -> FileResult<()> {
        sys::unlink(self.on_disk(path))
    }

    fn remove_dir(&self, path: &FilePath) -> FileResult<()> {
        sys::rmdir(self.on_disk(path))
    }

    fn rename(&self, from: &FilePath, to: &FilePath, how: RenameMode) -> FileResult<()> {
        let flags = match how {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        sys::renameat_with(
            sys::CWD,
            self.on_disk(from),
            sys::CWD,
            self.on_disk(to),
            flags,
        )
    }

    fn read_link(&self, path: &FilePath, _: FileId) -> FileResult<OsString> {
        let target = sys::readlink(self.on_disk(path), Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    fn xattr(&self, target: Target<'_, PlainFile>, name: &OsStr) -> FileResult<Vec<u8>> {
        let mut value = vec![0; 1 << 16];
        let path = self.path(target)?;
        let len = if path.starts_with("/proc/self/fd") {
            sys::getxattr(&path, name, &mut value[..])?
        } else {
            sys::lgetxattr(&path, name, &mut value[..])?
        };
        value.truncate(len);
        Ok(value)
    }

    fn set_xattr(
        &self,
        target: Target<'_, PlainFile>,
        name: &OsStr,
        value: &[u8],
        how: XattrMode,
    ) -> FileResult<()> {
        let flags = match how {
            XattrMode::Set => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        sys::lsetxattr(self.path(target)?, name, value, flags)
    }

    fn xattr_names(&self, target: Target<'_, PlainFile>) -> FileResult<Vec<OsString>> {
        let mut names = vec![0; 1 << 16];
        let path = self.path(target)?;
        let len = if path.starts_with("/proc/self/fd") {
            sys::listxattr(&path, &mut names[..])?
        } else {
            sys::llistxattr(&path, &mut names[..])?
        };
        let names = names[..len]
            .split(|b| *b == 0)
            .filter(|name| !name.is_empty());
        Ok(names
            .map(|name| OsStr::from_bytes(name).to_owned())
            .collect())
    }

    fn remove_xattr(&self, target: Target<'_, PlainFile>, name: &OsStr) -> FileResult<()> {
        sys::lremovexattr(self.path(target)?, name)
    }

    fn dates_every_change(&self) -> bool {
        true
    }

    fn facts(&self) -> FileResult<FileSystemFacts> {
        let facts = sys::statvfs(&self.root)?;
        Ok(FileSystemFacts {
            block_len_bytes: facts.f_bsize,
            blocks: facts.f_blocks,
            blocks_free: facts.f_bfree,
            blocks_available: facts.f_bavail,
            files: facts.f_files,
            files_free: facts.f_ffree,
            name_len_bytes: facts.f_namemax as u32,
        })
    }

    fn trial_file(&self) -> FileResult<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        sys::open(&self.root, flags, Mode::from_raw_mode(0o600))
    }

    fn watch(&self, watcher: &Arc<dyn FilesWatcher>) {
        self.watchers.lock().unwrap().push(Arc::downgrade(watcher));
    }
}

/// An open file.
#[derive(Debug)]
pub struct PlainFile {
    fd: OwnedFd,
    ino: u64,
    flags: OpenFlags,
    is_shown: bool,
}

impl OpenFile for PlainFile {
    fn ino(&self) -> u64 {
        self.ino
    }

    fn is_writable(&self) -> bool {
        self.flags.write
    }

    fn read(&self, offset: u64, buffer: &mut Vec<u8>, len: usize) -> FileResult<()> {
        buffer.resize(len, 0);
        let mut done = 0;
        while done < len {
            match rustix::io::pread(&self.fd, &mut buffer[done..], offset + done as u64)? {
                0 => break,
                count => done += count,
            }
        }
        buffer.truncate(done);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> FileResult<usize> {
        if self.flags.append {
            return rustix::io::writev(&self.fd, &[IoSlice::new(bytes)]);
        }
        rustix::io::pwrite(&self.fd, bytes, offset)
    }

    fn sync(&self, data_only: bool) -> FileResult<()> {
        if data_only {
            sys::fdatasync(&self.fd)
        } else {
            sys::fsync(&self.fd)
        }
    }

    fn allocate(&self, mode: u32, offset: u64, len_bytes: u64) -> FileResult<()> {
        let mode = sys::FallocateFlags::from_bits_retain(mode);
        sys::fallocate(&self.fd, mode, offset, len_bytes)
    }

    fn seek(&self, offset: u64, data: bool) -> FileResult<u64> {
        let offset = offset as i64 as u64;
        let to = if data {
            sys::SeekFrom::Data(offset)
        } else {
            sys::SeekFrom::Hole(offset)
        };
        sys::seek(&self.fd, to)
    }

    fn copy_to(&self, mut from: u64, other: &Self, mut to: u64, len: u64) -> FileResult<u64> {
        let (from, to) = (Some(&mut from), Some(&mut to));
        let copied = sys::copy_file_range(&self.fd, from, &other.fd, to, len as usize)?;
        Ok(copied as u64)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.is_shown.then(|| self.fd.as_fd())
    }
}

/// A directory being read.
#[derive(Debug)]
pub struct PlainDir {
    fd: OwnedFd,
}

impl OpenDir for PlainDir {
    fn read(&self, from: u64, visit: &mut dyn FnMut(FileEntry<'_>) -> bool) -> FileResult<()> {
        let fd = sys::openat(
            &self.fd,
            ".",
            OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut space = vec![std::mem::MaybeUninit::uninit(); 1 << 15];
        sys::seek(&fd, sys::SeekFrom::Start(from))?;
        let mut entries = sys::RawDir::new(&fd, &mut space);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = CString::from(entry.file_name());
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            let met = FileEntry {
                name: OsStr::from_bytes(name.as_bytes()),
                ino: entry.ino(),
                kind: entry.file_type().as_raw_mode(),
                next: entry.next_entry_cookie(),
            };
            if !visit(met) {
                break;
            }
        }
        Ok(())
    }

    fn read_ahead(&self) {}

    fn attr(&self) -> FileResult<FileAttr> {
        Ok(attr_of(&sys::fstat(&self.fd)?))
    }

    fn attr_of(&self, name: &OsStr) -> FileResult<FileAttr> {
        assert_ne!(name, "panic", "as the test wants it");
        Ok(attr_of(&sys::statat(
            &self.fd,
            name,
            AtFlags::SYMLINK_NOFOLLOW,
        )?))
    }

    fn sync(&self) -> FileResult<()> {
        sys::fsync(&self.fd)
    }
}
