//! A path for an inode of which only the number is known: NFS clients come back with no more.
//!
//! 1. where the file system opens inodes by number, it knows each directory's place, and that of
//!    a file whose name it remembers;
//! 2. else the index knows the keys of a file: all its rows are read, a second for some millions.
//!
//! What has no key, is no directory and is not remembered (a FIFO, a name that is no UTF-8) is not
//! found.

use std::os::fd::AsFd;

use super::super::Inner;
use super::super::osdisk::OsDisk;
use crate::error::Result;
use crate::files::{Errno, FilePath, FileResult};

impl Inner<OsDisk> {
    /// See [`Files::find`](crate::files::Files::find).
    pub(super) fn find_number(&self, ino: u64) -> FileResult<FilePath> {
        let disk = &self.tree.disk;
        match disk.open_number(ino) {
            Ok((fd, _)) => {
                if let Some(path) = disk.path_of(fd.as_fd())
                    && self.leads_to(&path, ino)
                {
                    return Ok(path);
                }
            }
            Err(Errno::STALE) => return Err(Errno::STALE),
            Err(error) => tracing::debug!(%error, "no file is opened by its number here"),
        }
        let found = self.find_in_index(ino).map_err(|error| error.errno())?;
        found.ok_or(Errno::STALE)
    }

    pub(super) fn find_in_index(&self, ino: u64) -> Result<Option<FilePath>> {
        let keys = self.runtime.block_on(self.index.keys_of_ino(ino))?;
        let mut paths = keys.iter().filter_map(|(bucket, key)| {
            let names = key.as_str().split('/').filter(|name| !name.is_empty());
            let mut names = std::iter::once(bucket.as_str()).chain(names);
            names.try_fold(FilePath::root(), |path, name| path.join(name.as_ref()).ok())
        });
        Ok(paths.find(|path| self.leads_to(path, ino)))
    }

    fn leads_to(&self, path: &FilePath, ino: u64) -> bool {
        self.look_up(path).is_ok_and(|attr| attr.ino == ino)
    }
}
