//! Who wants to know of changes, and how they hear of them: so that what a mount's kernel
//! remembers is forgotten before the author of a change is answered.

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::files::{FilePath, FilesWatcher};

/// Something that changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// Anything may have.
    All,
    /// What stands at this path appeared, vanished or became another file.
    Name(FilePath),
    /// Bytes or attributes of the file with this inode number.
    File(u64),
}

/// Those who want to know.
#[derive(Default)]
pub struct Watchers {
    /// Guards the list alone; never held while anyone is told.
    list: Mutex<Vec<Weak<dyn FilesWatcher>>>,
    /// Whether one may live.
    any: AtomicBool,
}

impl Watchers {
    /// Tells `watcher` from now on, as long as it lives.
    pub fn add(&self, watcher: &Arc<dyn FilesWatcher>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|known| known.strong_count() > 0);
        list.push(Arc::downgrade(watcher));
        self.any.store(true, Ordering::Release);
    }

    /// Whether anyone may want to know.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Tells everyone who lives, on this thread.
    pub fn tell<'a>(&self, notices: impl IntoIterator<Item = &'a Notice> + Clone) {
        for watcher in self.living() {
            for notice in notices.clone() {
                match notice {
                    Notice::All => watcher.all_changed(),
                    Notice::Name(path) => watcher.name_changed(path),
                    Notice::File(ino) => watcher.file_changed(*ino),
                }
            }
        }
    }

    fn living(&self) -> Vec<Arc<dyn FilesWatcher>> {
        if !self.any() {
            return Vec::new();
        }
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let living: Vec<_> = list.iter().filter_map(Weak::upgrade).collect();
        if living.is_empty() {
            self.any.store(false, Ordering::Release);
        }
        living
    }
}
