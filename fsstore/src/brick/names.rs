//! What a mount changes of names: on its own thread, in the turn, as POSIX wants it (nothing is
//! durable before fsync). The key is in the intent log, so that the index is true after the
//! process is killed.

use std::sync::Arc;

use super::Inner;
use super::commit::Turn;
use super::disk::Disk;
use super::notices::Notice;
use crate::files::{FileResult, FilesWatcher};
use crate::name::{BucketName, ObjectKey};

impl<D: Disk> Inner<D> {
    /// Runs `act` in the turn on this thread; it may change the names and records of `keys`,
    /// and must tell the index of them. Directories that it makes or moves names of directories
    /// in are to be given to [`Turn::built`]. Not durable on return. Errors: those of `act`, and
    /// those of writing the log, before anything was done.
    pub fn change_names<T>(
        &self,
        keys: &[(BucketName, ObjectKey)],
        act: impl FnOnce(&mut Turn<'_, D>) -> FileResult<T>,
    ) -> FileResult<T> {
        match self.committer.act_here(keys, act) {
            Ok(acted) => acted,
            Err(e) => Err(e.errno()),
        }
    }

    /// Tells `watcher` of what other doors change, as long as it lives.
    pub fn watch(&self, watcher: &Arc<dyn FilesWatcher>) {
        self.committer.watch(watcher);
    }

    /// Tells those who watch of what was changed behind our back, on this thread, which must
    /// serve no mount and hold no turn.
    pub fn tell(&self, notices: &[Notice]) {
        self.committer.tell(notices);
    }
}
