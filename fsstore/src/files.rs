//! The second half of the waist: a volume as a tree of POSIX files. A mount speaks to [`Files`];
//! what it does is seen by every other door at once, and what they do by it.
//!
//! Calls may wait for the disk, so they belong on threads of their own. Paths are relative to the
//! volume's root: its directories are buckets, the reserved directory does not exist. Errors are
//! those of the system call of the same name, as `errno`: that is the fact, and POSIX's readers
//! know it. Nothing here is durable before `fsync`, as POSIX says.
//!
//! Permissions are checked by whoever calls (a mount has the kernel do it); what is made belongs
//! to the [`Caller`].

use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

pub use rustix::io::Errno;

use crate::locks::{Device, LockPlace};

/// The result of a call on files.
pub type FileResult<T> = Result<T, Errno>;

/// A path below a volume's root: components without NUL, `.` and `..`, joined by `/`; the root
/// itself is empty. Bytes, because POSIX names need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FilePath(OsString);

impl FilePath {
    /// The volume's root.
    pub fn root() -> Self {
        Self::default()
    }

    /// What stands at `name` in this directory. Errors: EINVAL for a name that is none, and
    /// ENAMETOOLONG for one of more than 255 bytes.
    pub fn join(&self, name: &OsStr) -> FileResult<Self> {
        let bytes = name.as_bytes();
        if bytes.len() > crate::keypath::MAX_COMPONENT_LEN_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        if matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|b| matches!(b, 0 | b'/')) {
            return Err(Errno::INVAL);
        }
        let mut path = Vec::with_capacity(self.0.len() + 1 + bytes.len());
        path.extend_from_slice(self.0.as_bytes());
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(bytes);
        Ok(Self(OsString::from_vec(path)))
    }

    /// The directory above and the name in it; none for the root.
    pub fn split(&self) -> Option<(Self, &OsStr)> {
        let bytes = self.0.as_bytes();
        if bytes.is_empty() {
            return None;
        }
        match bytes.iter().rposition(|b| *b == b'/') {
            Some(end) => Some((
                Self(OsString::from_vec(bytes[..end].to_vec())),
                OsStr::from_bytes(&bytes[end + 1..]),
            )),
            None => Some((Self::root(), &self.0)),
        }
    }

    /// Its components, outermost first.
    pub fn components(&self) -> impl Iterator<Item = &OsStr> {
        let parts = self.0.as_bytes().split(|b| *b == b'/');
        parts.filter(|part| !part.is_empty()).map(OsStr::from_bytes)
    }

    /// The bucket's name as bytes, and the path below the bucket (empty for the bucket itself);
    /// none for the root.
    pub fn in_bucket(&self) -> Option<(&OsStr, &OsStr)> {
        let bytes = self.0.as_bytes();
        if bytes.is_empty() {
            return None;
        }
        let (bucket, rest) = match bytes.iter().position(|b| *b == b'/') {
            Some(end) => (&bytes[..end], &bytes[end + 1..]),
            None => (bytes, &[][..]),
        };
        Some((OsStr::from_bytes(bucket), OsStr::from_bytes(rest)))
    }

    /// As the operating system takes it; empty for the root.
    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }
}

/// On whose behalf a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// Bits that are taken from the mode of what is made, unless its directory has a default
    /// ACL. Source: umask(2), acl(5).
    pub umask: u32,
}

/// What stat(2) says of a file. Times are nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileAttr {
    /// Inode number.
    pub ino: u64,
    /// Tells an inode from a later one of the same number; the same over restarts.
    pub generation: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// Blocks of 512 bytes.
    pub block_count: u64,
    /// The length best read at once, in bytes.
    pub block_len_bytes: u32,
    /// Time of the last read.
    pub atime_ns: i64,
    /// Time of the last write.
    pub mtime_ns: i64,
    /// Time of the last change of anything.
    pub ctime_ns: i64,
    /// Type and permissions. Source: inode(7).
    pub mode: u32,
    /// Number of names.
    pub link_count: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Device, where it is one.
    pub rdev: u64,
}

impl FileAttr {
    /// Which file it is.
    pub fn id(&self) -> FileId {
        FileId {
            ino: self.ino,
            generation: self.generation,
        }
    }
}

/// Which file: the number of its inode alone may be another's by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// Inode number.
    pub ino: u64,
    /// As in [`FileAttr`]; 0 where any will do.
    pub generation: u64,
}

impl FileId {
    /// Whichever file has this number.
    pub const fn any(ino: u64) -> Self {
        Self { ino, generation: 0 }
    }

    /// Whether a file is this one.
    pub fn is_of(&self, attr: &FileAttr) -> bool {
        self.ino == attr.ino && (self.generation == 0 || self.generation == attr.generation)
    }
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the call.
    Now,
    /// This one, in nanoseconds since 1970.
    At(i64),
}

/// What is changed of a file; what is none stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permissions.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Owning group.
    pub gid: Option<u32>,
    /// Length in bytes: cut, or extended by a hole.
    pub len_bytes: Option<u64>,
    /// Time of the last read.
    pub atime: Option<SetTime>,
    /// Time of the last write.
    pub mtime: Option<SetTime>,
}

/// A file that is asked about: by a name it had, or held open. A name that leads to another inode
/// by now is ESTALE.
#[derive(Debug)]
pub enum Target<'a, F> {
    /// At a path, with the file that was seen there.
    Named {
        /// The path.
        path: &'a FilePath,
        /// Which file it was.
        id: FileId,
    },
    /// Held open; it may have lost its name.
    Open(&'a F),
}

/// How a file is opened. Source: open(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenFlags {
    /// For writing.
    pub write: bool,
    /// For reading.
    pub read: bool,
    /// Every write goes to the end.
    pub append: bool,
    /// Cut to nothing first.
    pub truncate: bool,
    /// Fail where it exists (create only).
    pub exclusive: bool,
    /// O_SYNC or O_DSYNC.
    pub sync: bool,
}

/// What is made by [`Files::make_node`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewNode {
    /// Type and permissions, before the umask.
    pub mode: u32,
    /// The device, where it is one.
    pub rdev: u64,
}

/// What rename does with what stands at the new name. Source: rename(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RenameMode {
    /// It is replaced.
    #[default]
    Replace,
    /// EEXIST.
    NoReplace,
    /// The two change places.
    Exchange,
}

/// How an xattr is set. Source: setxattr(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Made or replaced.
    Set,
    /// EEXIST where it is.
    Create,
    /// ENODATA where it is not.
    Replace,
}

/// What statvfs(3) says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystemFacts {
    /// Length of a block in bytes.
    pub block_len_bytes: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for other users than root.
    pub blocks_available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Longest name in bytes.
    pub name_len_bytes: u32,
}

/// Told of what other doors, and hands behind portico's back, change: so that what a mount's
/// kernel remembers is forgotten. Called after the change and before its author is answered, from
/// a thread that serves no mount; may take a while, must not call [`Files`].
pub trait FilesWatcher: Send + Sync + 'static {
    /// What stands at this path appeared, vanished or became another file.
    fn name_changed(&self, path: &FilePath);

    /// Bytes or attributes of this file changed.
    fn file_changed(&self, ino: u64);

    /// Anything may have changed.
    fn all_changed(&self);
}

/// A volume as a tree of files.
pub trait Files: Send + Sync + 'static {
    /// A file held open.
    type OpenFile: OpenFile;
    /// A directory being read.
    type OpenDir: OpenDir;

    /// What stands at a path; a symbolic link is not followed. Errors: ENOENT, ENOTDIR.
    fn lookup(&self, path: &FilePath) -> FileResult<FileAttr>;

    /// A path of the inode of this number, of which nothing else is known any more. May take long.
    /// Errors: ESTALE where none is found.
    fn find(&self, ino: u64) -> FileResult<FilePath>;

    /// A file's attributes. Errors: ESTALE, ENOENT.
    fn attr(&self, target: Target<'_, Self::OpenFile>) -> FileResult<FileAttr>;

    /// Changes attributes. A new length is an edit: it is over when this returns.
    fn set_attr(&self, target: Target<'_, Self::OpenFile>, set: SetAttr) -> FileResult<FileAttr>;

    /// Makes a regular file and opens it, or opens the one that is there (unless `exclusive`).
    fn create(
        &self,
        path: &FilePath,
        mode: u32,
        flags: OpenFlags,
        caller: Caller,
    ) -> FileResult<(FileAttr, Self::OpenFile)>;

    /// Opens a regular file. One opened for writing is being edited until the last such
    /// [`OpenFile`] of it is dropped: until then its tag is provisional at every door.
    fn open_file(
        &self,
        target: Target<'_, Self::OpenFile>,
        flags: OpenFlags,
    ) -> FileResult<Self::OpenFile>;

    /// Opens a directory for reading. Errors: ENOENT, ENOTDIR; ESTALE where it is another.
    fn open_dir(&self, path: &FilePath, id: FileId) -> FileResult<Self::OpenDir>;

    /// Makes a directory; in the root, a bucket (EINVAL where its name cannot be one's).
    fn make_dir(&self, path: &FilePath, mode: u32, caller: Caller) -> FileResult<FileAttr>;

    /// Makes a regular file, a FIFO, a socket or a device. Source: mknod(2).
    fn make_node(&self, path: &FilePath, node: NewNode, caller: Caller) -> FileResult<FileAttr>;

    /// Makes a symbolic link.
    fn make_symlink(&self, path: &FilePath, target: &OsStr, caller: Caller)
    -> FileResult<FileAttr>;

    /// Gives a file one more name.
    fn make_link(&self, target: Target<'_, Self::OpenFile>, to: &FilePath) -> FileResult<FileAttr>;

    /// Takes a name away from what is no directory.
    fn unlink(&self, path: &FilePath) -> FileResult<()>;

    /// Removes an empty directory; in the root, a bucket.
    fn remove_dir(&self, path: &FilePath) -> FileResult<()>;

    /// Moves a name. Buckets stay where they are (EPERM).
    fn rename(&self, from: &FilePath, to: &FilePath, mode: RenameMode) -> FileResult<()>;

    /// Where a symbolic link leads.
    fn read_link(&self, path: &FilePath, id: FileId) -> FileResult<OsString>;

    /// An extended attribute's value. Errors: ENODATA. `user.s3.meta.NAME` is the object's user
    /// metadata, `user.s3.content-type` and its like the headers kept with it; the record itself
    /// is not shown.
    fn xattr(&self, target: Target<'_, Self::OpenFile>, name: &OsStr) -> FileResult<Vec<u8>>;

    /// Sets an extended attribute. Errors: EPERM for the record, EOPNOTSUPP, ENOSPC.
    fn set_xattr(
        &self,
        target: Target<'_, Self::OpenFile>,
        name: &OsStr,
        value: &[u8],
        mode: XattrMode,
    ) -> FileResult<()>;

    /// The names of a file's extended attributes.
    fn xattr_names(&self, target: Target<'_, Self::OpenFile>) -> FileResult<Vec<OsString>>;

    /// Takes an extended attribute away. Errors: ENODATA, EPERM.
    fn remove_xattr(&self, target: Target<'_, Self::OpenFile>, name: &OsStr) -> FileResult<()>;

    /// Whether every change of a directory's names moves its time of writing, however soon it
    /// comes after another.
    fn dates_every_change(&self) -> bool;

    /// Room, in blocks and inodes.
    fn facts(&self) -> FileResult<FileSystemFacts>;

    /// A file without a name where files are kept, to try on it what their file system can do.
    fn trial_file(&self) -> FileResult<OwnedFd>;

    /// Tells `watcher` of changes until the [`Arc`] that was given here is the last one's
    /// (the volume keeps a weak one).
    fn watch(&self, watcher: &Arc<dyn FilesWatcher>);

    /// Says that locks on a file system are locks on this volume's files, by their inode numbers,
    /// as long as what is given is kept.
    fn keeps_locks_on(&self, device: Device) -> LockPlace;

    /// Whether those who watch are told of every change, what is done behind the volume's back
    /// included. Where that ends they are told that anything may have changed. Does not wait.
    fn tells_all(&self) -> bool;
}

/// A file held open. Dropping it ends the edit, where it was open for writing and the last.
pub trait OpenFile: Send + Sync + 'static {
    /// Its inode number.
    fn ino(&self) -> u64;

    /// Whether it was opened for writing.
    fn is_writable(&self) -> bool;

    /// Reads at an offset; shorter only at the end.
    fn read(&self, offset: u64, buffer: &mut Vec<u8>, len: usize) -> FileResult<()>;

    /// Writes at an offset (at the end where opened so); gives the number of bytes written.
    fn write(&self, offset: u64, bytes: &[u8]) -> FileResult<usize>;

    /// Tells a close what became of writes that were answered early. Nothing is durable for it.
    fn flush(&self) -> FileResult<()> {
        Ok(())
    }

    /// Whether a close is to wait for [`OpenFile::flush`].
    fn must_flush(&self) -> bool {
        false
    }

    /// Makes bytes (and, unless `data_only`, attributes) durable, and with them its name.
    fn sync(&self, data_only: bool) -> FileResult<()>;

    /// fallocate(2), with its mode bits.
    fn allocate(&self, mode: u32, offset: u64, len_bytes: u64) -> FileResult<()>;

    /// lseek(2) with SEEK_DATA (`data`) or SEEK_HOLE.
    fn seek(&self, offset: u64, data: bool) -> FileResult<u64>;

    /// copy_file_range(2) to another file; gives the number of bytes copied.
    fn copy_to(&self, from: u64, other: &Self, to: u64, len_bytes: u64) -> FileResult<u64>;

    /// The plain file, for the kernel to read and write without us; none where every byte has to
    /// pass through [`OpenFile::read`] and [`OpenFile::write`].
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
}

/// An entry met in a directory.
#[derive(Debug, Clone, Copy)]
pub struct FileEntry<'a> {
    /// Its name; never `.` or `..`.
    pub name: &'a OsStr,
    /// Its inode number.
    pub ino: u64,
    /// The type bits of its mode; 0 where not known.
    pub kind: u32,
    /// Where to go on after it.
    pub next: u64,
}

/// A directory being read.
pub trait OpenDir: Send + Sync + 'static {
    /// Calls `visit` for entries from `from` on (0, or an entry's `next`) until it says false or
    /// the directory ends. An entry that stands all the while is met once.
    fn read(&self, from: u64, visit: &mut dyn FnMut(FileEntry<'_>) -> bool) -> FileResult<()>;

    /// Reads on from where the last [`read`](Self::read) stopped, so that the next finds it at
    /// hand.
    fn read_ahead(&self);

    /// Its own attributes.
    fn attr(&self) -> FileResult<FileAttr>;

    /// Attributes of an entry of this directory. Errors: ENOENT.
    fn attr_of(&self, name: &OsStr) -> FileResult<FileAttr>;

    /// Makes its names durable.
    fn sync(&self) -> FileResult<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> FilePath {
        text.split('/').fold(FilePath::root(), |path, name| {
            path.join(OsStr::new(name)).unwrap()
        })
    }

    #[test]
    fn a_path_is_joined_and_split() {
        let whole = path("b/x/y");
        assert_eq!(whole.as_os_str(), "b/x/y");
        assert_eq!(whole.split(), Some((path("b/x"), OsStr::new("y"))));
        assert_eq!(path("b").split(), Some((FilePath::root(), OsStr::new("b"))));
        assert_eq!(FilePath::root().split(), None);
        assert_eq!(whole.components().count(), 3);
    }

    #[test]
    fn a_path_names_its_bucket() {
        let of = |text| {
            path(text)
                .in_bucket()
                .map(|(bucket, rest)| (bucket.to_owned(), rest.to_owned()))
        };
        assert_eq!(of("b/x/y"), Some(("b".into(), "x/y".into())));
        assert_eq!(of("b"), Some(("b".into(), "".into())));
        assert_eq!(FilePath::root().in_bucket(), None);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let root = FilePath::root();
        for name in ["", ".", "..", "a/b", "a\0b"] {
            assert_eq!(root.join(OsStr::new(name)), Err(Errno::INVAL));
        }
        let long = "x".repeat(256);
        assert_eq!(root.join(OsStr::new(&long)), Err(Errno::NAMETOOLONG));
    }
}
