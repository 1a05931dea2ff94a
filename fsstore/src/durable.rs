//! Making bytes and names durable: the one way, for all that writes files beside the volume too.
//!
//! A file system that cuts itself off after an error of the disk may answer what was not written
//! with success: ext4 and XFS an fsync(2) that was under way at that moment, XFS any fsync(2) of a
//! directory later on too. It has said to all before that it is cut off, so it is asked after each
//! success. Source: Linux, ext4_force_shutdown, xfs_do_force_shutdown, xfs_dir_fsync,
//! xfs_log_force_inode; seen on 6.18 by FS_IOC_SHUTDOWN while files are synced.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs;
use rustix::io::Errno;

use crate::brick::attrs::XATTR_NAME;

/// Makes a file's bytes durable, and its attributes unless `data_only`, or says that they are not.
pub fn sync_file(file: impl AsFd, data_only: bool) -> Result<(), Errno> {
    let file = file.as_fd();
    match data_only {
        true => fs::fdatasync(file)?,
        false => fs::fsync(file)?,
    }
    // Nothing is read: on a network this asks nobody.
    match rustix::io::pread(file, &mut [0u8; 0][..], 0) {
        Err(Errno::IO) => Err(Errno::IO),
        // Opened for writing alone.
        Err(Errno::BADF) => refuse_cut_off(file),
        _ => Ok(()),
    }
}

/// Makes a directory's names durable, or says that they are not.
pub fn sync_dir(dir: impl AsFd) -> Result<(), Errno> {
    fs::fsync(dir.as_fd())?;
    refuse_cut_off(dir.as_fd())
}

/// Makes everything of a directory's file system durable, or says that it is not.
pub fn sync_everything(dir: impl AsFd) -> Result<(), Errno> {
    fs::syncfs(dir.as_fd())?;
    refuse_cut_off(dir.as_fd())
}

/// A look at an xattr is refused by a file system that is cut off. Source: Linux, ext4_xattr_get,
/// xfs_attr_get.
fn refuse_cut_off(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    match fs::fgetxattr(fd, XATTR_NAME, &mut [0u8; 0]) {
        Err(Errno::IO) => Err(Errno::IO),
        _ => Ok(()),
    }
}

/// As [`sync_dir`], by path.
pub fn sync_dir_at(path: &Path) -> io::Result<()> {
    Ok(sync_dir(std::fs::File::open(path)?)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{ErrorKind, Write};

    use super::{sync_dir_at, sync_everything, sync_file};

    #[test]
    fn a_file_is_durable_however_it_was_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        // For writing alone, for reading alone.
        let mut file = File::create(&path).unwrap();
        file.write_all(b"bytes").unwrap();
        sync_file(&file, false).unwrap();
        sync_file(&file, true).unwrap();
        sync_file(File::open(&path).unwrap(), false).unwrap();
        sync_everything(File::open(dir.path()).unwrap()).unwrap();
    }

    #[test]
    fn what_nobody_can_sync_is_not_durable() {
        // A FIFO's end, as proc(5) has it: fsync(2) refuses it.
        let (end, _other) = rustix::pipe::pipe().unwrap();
        assert_eq!(sync_file(&end, false), Err(rustix::io::Errno::INVAL));
    }

    #[test]
    fn a_directory_that_is_not_there_is_not_durable() {
        let dir = tempfile::tempdir().unwrap();
        assert!(sync_dir_at(dir.path()).is_ok());
        let missing = sync_dir_at(&dir.path().join("missing"));
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
