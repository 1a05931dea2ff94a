//! Making names durable: the one way, for all that writes files beside the volume too.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs;
use rustix::io::Errno;

use crate::brick::attrs::XATTR_NAME;

/// Makes a directory's names durable, or says that they are not. XFS that has cut itself off after an
/// error of the disk answers an fsync(2) of a directory with success (of files with EIO): what was
/// to be written is no more in its log. A look at an xattr is refused there. Source: Linux,
/// xfs_dir_fsync, xfs_log_force_inode, xfs_attr_get.
pub fn sync_dir(dir: impl AsFd) -> Result<(), Errno> {
    fs::fsync(dir.as_fd())?;
    match fs::fgetxattr(dir, XATTR_NAME, &mut [0u8; 0]) {
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
    use std::io::ErrorKind;

    use super::sync_dir_at;

    #[test]
    fn a_directory_that_is_not_there_is_not_durable() {
        let dir = tempfile::tempdir().unwrap();
        assert!(sync_dir_at(dir.path()).is_ok());
        let missing = sync_dir_at(&dir.path().join("missing"));
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
