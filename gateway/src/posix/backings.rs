//! What the kernel reads and writes files by when it does so itself: one for each inode, shared
//! by all its handles, because the kernel refuses a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Backings of open inodes. A handle holds the [`Arc`] as long as it is open; the last one that
/// is dropped ends it.
#[derive(Debug)]
pub struct Backings<B>(Mutex<HashMap<u64, Weak<B>>>);

impl<B> Default for Backings<B> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<B> Backings<B> {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<B>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The backing of an inode: the one that its open handles share, else what `make` gives. The
    /// lock is held over `make`, so that two who open at once cannot make two.
    pub fn share<E>(&self, ino: u64, make: impl FnOnce() -> Result<B, E>) -> Result<Arc<B>, E> {
        let mut table = self.lock();
        if let Some(shared) = table.get(&ino).and_then(Weak::upgrade) {
            return Ok(shared);
        }
        let made = Arc::new(make()?);
        table.insert(ino, Arc::downgrade(&made));
        Ok(made)
    }

    /// Forgets an inode's backing where the last handle that shares it has ended, or is about to
    /// as the only one left.
    pub fn dropped(&self, ino: u64) {
        let mut table = self.lock();
        if table
            .get(&ino)
            .is_some_and(|shared| shared.strong_count() <= 1)
        {
            table.remove(&ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_of_an_inode_share_one() {
        let backings = Backings::default();
        let make = |n| move || Ok::<_, ()>(n);
        let first = backings.share(7, make(1)).unwrap();
        let second = backings.share(7, make(2)).unwrap();
        assert_eq!((*first, *second), (1, 1));
        drop(first);
        assert_eq!(*backings.share(7, make(3)).unwrap(), 1);
        drop(second);
        backings.dropped(7);
        assert_eq!(*backings.share(7, make(4)).unwrap(), 4);
    }

    #[test]
    fn what_cannot_be_made_is_tried_again() {
        let backings = Backings::default();
        assert_eq!(backings.share(7, || Err::<u8, _>("no")), Err("no"));
        assert_eq!(*backings.share(7, || Ok::<_, ()>(1)).unwrap(), 1);
    }
}
