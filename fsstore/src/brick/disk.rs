//! The only door to blocking file I/O: a trait small enough that a crash is an ordinary unit
//! test, and its real implementation in [`super::osdisk`].
//!
//! Paths are relative to a directory handle, UTF-8, never empty and never absolute. Nothing
//! here may be called from an async thread, except what says that it does not wait.

use std::io;
use std::sync::Arc;

use crate::permission::Credentials;

/// What stands at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A FIFO, socket or device: never an object.
    Other,
}

/// What the file system says of a file. Times are nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Time of the last change of its bytes.
    pub mtime_ns: i64,
    /// Time of the last change of anything.
    pub ctime_ns: i64,
    /// Time of creation; 0 where the file system keeps none.
    pub btime_ns: i64,
    /// Inode number.
    pub ino: u64,
    /// Number of names.
    pub link_count: u64,
}

/// Room on the file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Size of the file system.
    pub total_bytes: u64,
    /// What is free to this process.
    pub free_bytes: u64,
}

/// Who may do what with a file or directory, as it is to be; what is none stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The permission bits, of three times three.
    pub mode: Option<u32>,
    /// The access ACL, as its xattr has it.
    pub acl: Option<Vec<u8>>,
}

/// What a directory hands down to what is made in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inheritance {
    /// Its group, where it is a set-group-ID directory. Source: inode(7).
    pub gid: Option<u32>,
    /// Its default ACL, as its xattr has it.
    pub default_acl: Option<Vec<u8>>,
}

/// Permissions that someone must have. Source: path_resolution(7), access(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// To read a file, or to list and search a directory.
    Read,
    /// To write a file, or to change names in a directory and search it.
    Write,
}

/// What would be taken away from a directory, or replaced in it.
#[derive(Debug)]
pub struct Taken<'a, F> {
    /// Its name; none where it has none there.
    pub name: Option<&'a str>,
    /// Whether a directory is meant; what is of another kind stays.
    pub is_dir: bool,
    /// The file that is taken though it stands elsewhere.
    pub aside: Option<&'a F>,
}

/// What the kernel is asked of someone's permissions. Paths begin at the volume's root. All that
/// is named is required.
#[derive(Debug)]
pub struct Question<'a, F> {
    /// The directories of this path are searched, as far as they stand.
    pub way: Option<String>,
    /// A right to this directory, or to the nearest above it that stands.
    pub dir: Option<(String, Right)>,
    /// That the directory, where it is sticky, lets this be taken. Source: inode(7), S_ISVTX.
    pub takes: Option<Taken<'a, F>>,
    /// A right to an open file.
    pub file: Option<(&'a F, Right)>,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: String,
    /// What it is; none where the file system does not say in the directory itself.
    pub kind: Option<FileKind>,
}

/// One file system tree.
pub trait Disk: Send + Sync + 'static {
    /// A file held open.
    type File: DiskFile;
    /// A directory held open.
    type Dir: Send + Sync;

    /// The volume's root.
    fn root(&self) -> Arc<Self::Dir>;

    /// Opens a directory below `base`. Symbolic links are followed as [`Disk::open`] says.
    fn open_dir(&self, base: &Self::Dir, path: &str) -> io::Result<Arc<Self::Dir>>;

    /// Opens a regular file for reading, below `base`. A symbolic link on the way is followed
    /// only where it stays inside the volume and outside the reserved directory; another one
    /// is NotFound. A directory is IsADirectory; a FIFO, socket or device is InvalidInput and
    /// is never waited for. Source: openat2(2), RESOLVE_BENEATH.
    fn open(&self, base: &Self::Dir, path: &str) -> io::Result<Self::File>;

    /// As [`Disk::open`], but never waits: WouldBlock where names are not in memory.
    fn open_cached(&self, base: &Self::Dir, path: &str) -> io::Result<Self::File>;

    /// Opens a file of portico's own for reading and writing, creating it where it is not.
    fn open_own(&self, dir: &Self::Dir, name: &str, create: bool) -> io::Result<Self::File>;

    /// Makes a file with no name, on the file system of `staging`; a crash leaves nothing, or
    /// leaves a name in `staging` that the next start removes.
    fn create_unnamed(&self, staging: &Self::Dir) -> io::Result<Self::File>;

    /// Gives a file made by [`Disk::create_unnamed`] a name where none is: AlreadyExists
    /// otherwise.
    fn link(&self, file: &Self::File, dir: &Self::Dir, name: &str) -> io::Result<()>;

    /// Moves a name, replacing what stands at the new one. Source: rename(2).
    fn rename(
        &self,
        from: &Self::Dir,
        from_name: &str,
        to: &Self::Dir,
        to_name: &str,
    ) -> io::Result<()>;

    /// Removes a file's name.
    fn unlink(&self, dir: &Self::Dir, name: &str) -> io::Result<()>;

    /// Makes a directory, with permissions less the process's umask: AlreadyExists where anything
    /// stands.
    fn make_dir(&self, parent: &Self::Dir, name: &str, mode: u32) -> io::Result<()>;

    /// Removes an empty directory: DirectoryNotEmpty otherwise.
    fn remove_dir(&self, parent: &Self::Dir, name: &str) -> io::Result<()>;

    /// Looks at a name without following a symbolic link in its last component.
    fn stat(&self, base: &Self::Dir, path: &str) -> io::Result<FileFacts>;

    /// Looks at an open directory.
    fn stat_dir(&self, dir: &Self::Dir) -> io::Result<FileFacts>;

    /// Calls `visit` for each name (never `.` and `..`; names that are not UTF-8 are passed
    /// over), in the directory's own order, until it says false.
    fn read_dir(&self, dir: &Self::Dir, visit: &mut dyn FnMut(DirEntry) -> bool) -> io::Result<()>;

    /// Makes the names in a directory durable. Source: fsync(2).
    fn sync_dir(&self, dir: &Self::Dir) -> io::Result<()>;

    /// Makes everything written so far durable, with errors reported; Unsupported where the
    /// file system cannot promise that. Source: syncfs(2).
    fn sync_everything(&self) -> io::Result<()>;

    /// Whether [`Disk::sync_everything`] can be asked.
    fn syncs_everything(&self) -> bool;

    /// A directory's record, none where it has none. Unsupported without xattrs.
    fn dir_record(&self, dir: &Self::Dir) -> io::Result<Option<Vec<u8>>>;

    /// Sets a directory's record, or takes it away.
    fn set_dir_record(&self, dir: &Self::Dir, record: Option<&[u8]>) -> io::Result<()>;

    /// What a directory hands down.
    fn inheritance(&self, dir: &Self::Dir) -> io::Result<Inheritance>;

    /// As [`DiskFile::set_access`], of a directory.
    fn set_dir_access(&self, dir: &Self::Dir, access: &Access) -> io::Result<()>;

    /// Has the kernel decide, as files are now, whether someone has the rights that a question
    /// names: PermissionDenied where not. Unsupported where the disk knows no permissions.
    fn check_rights(
        &self,
        who: &Credentials,
        question: &Question<'_, Self::File>,
    ) -> io::Result<()>;

    /// Within how many nanoseconds after a change of a file another may leave its times as they
    /// are; 0 where every change moves them.
    fn tick_ns(&self) -> i64;

    /// Whether files take user xattrs at all.
    fn has_xattrs(&self) -> bool;

    /// Room on the file system.
    fn room(&self) -> io::Result<Room>;

    /// The operating system's disk, where it is one: a mount's symbolic links, FIFOs and
    /// attributes of directories are none of a simulated disk's.
    fn os(&self) -> Option<&super::osdisk::OsDisk> {
        None
    }
}

/// A file held open.
pub trait DiskFile: Send + Sync + 'static {
    /// Looks at it. Does not wait.
    fn facts(&self) -> io::Result<FileFacts>;

    /// Reads up to `len` bytes at an offset; fewer only at the end.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// As [`DiskFile::read_at`], but never waits: WouldBlock where bytes are not in memory.
    fn read_at_cached(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Writes all bytes at an offset.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts or extends it.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;

    /// Sets its mtime.
    fn set_modified(&self, mtime_ns: i64) -> io::Result<()>;

    /// Sets permissions, then owner and group: last, because who gives a file away may not
    /// touch it any more. An owner or group that this process may not give is passed over.
    fn set_access(&self, access: &Access) -> io::Result<()>;

    /// Makes its bytes, length and record durable. After an error it is never tried again.
    fn sync(&self) -> io::Result<()>;

    /// Copies bytes from another file, sharing blocks where the file system can; gives the
    /// number of bytes copied, less than asked only at the source's end.
    fn copy_from(&self, source: &Self, from: u64, to: u64, len_bytes: u64) -> io::Result<u64>;

    /// Its record (the xattr `user.portico`), none where it has none.
    fn record(&self) -> io::Result<Option<Vec<u8>>>;

    /// Sets its record, as one step.
    fn set_record(&self, record: &[u8]) -> io::Result<()>;

    /// The descriptor, where the file is one of the operating system's.
    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>>;
}
