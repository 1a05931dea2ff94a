//! What other doors change, told to a mount's kernel: it remembers names and attributes for a
//! day, and forgets exactly what it must.

use std::ffi::OsStr;
use std::sync::Arc;

use fsstore::files::{FilePath, Files, FilesWatcher};

use super::fs::FileSystem;

/// A kernel that remembers.
pub trait Kernel: Send + Sync + 'static {
    /// What stands at a name, or that nothing does, is to be asked again.
    fn forget_name(&self, parent: u64, name: &OsStr);

    /// Attributes are to be asked again.
    fn forget_attr(&self, ino: u64);

    /// Attributes of a directory, and names of it that are kept, are to be asked again.
    fn forget_names_in(&self, ino: u64);

    /// Attributes, and bytes or names that are kept, are to be asked again. Gives whether the kernel
    /// knows the file.
    fn forget_file(&self, ino: u64) -> bool;

    /// Every name is to be asked again; false where the kernel cannot be told so.
    fn forget_all_names(&self) -> bool;
}

/// Tells one mount's kernel.
pub struct Teller<V: Files, B, K> {
    fs: Arc<FileSystem<V, B>>,
    kernel: K,
}

impl<V: Files, B, K> Teller<V, B, K> {
    /// Tells `kernel`, which sees the volume as `fs` shows it.
    pub fn new(fs: Arc<FileSystem<V, B>>, kernel: K) -> Self {
        Self { fs, kernel }
    }
}

impl<V: Files, B: Send + Sync + 'static, K: Kernel> FilesWatcher for Teller<V, B, K> {
    fn name_changed(&self, path: &FilePath) {
        self.fs.doubt(path);
        let Some(found) = self.fs.find(path) else {
            return;
        };
        if let (Some(parent), Some(name)) = (found.parent, &found.name) {
            self.kernel.forget_name(parent, name);
            // Its time, its number of links, and what it was listed as: of a name that it did not
            // know the kernel takes no notice, and a time can be put back.
            self.kernel.forget_names_in(parent);
        }
        if let Some(ino) = found.ino {
            self.kernel.forget_attr(ino);
        }
    }

    fn file_changed(&self, ino: u64) {
        self.fs.note_change();
        for ino in self.fs.known(ino) {
            if self.kernel.forget_file(ino) {
                continue;
            }
            // It may be about to know it, with what was said before: the answer under way is in
            // place once the lock of its directory is had.
            for (parent, name) in self.fs.names_of(ino) {
                self.kernel.forget_name(parent, &name);
            }
            self.kernel.forget_file(ino);
        }
    }

    fn all_changed(&self) {
        self.fs.doubt_all();
        let (inodes, names) = self.fs.all_known();
        if !self.kernel.forget_all_names() {
            for (parent, name) in names {
                self.kernel.forget_name(parent, &name);
            }
        }
        for ino in inodes {
            self.kernel.forget_file(ino);
        }
    }
}
