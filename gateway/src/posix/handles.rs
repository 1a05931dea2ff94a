//! Numbers for what is held open: the kernel gives them back with each call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tables that share the load, each behind its own lock; numbers go round.
const SHARDS: usize = 8;

/// Open things by number. A number is never given twice.
#[derive(Debug)]
pub struct Handles<T> {
    next: AtomicU64,
    shards: [Mutex<HashMap<u64, Arc<T>>>; SHARDS],
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(1),
            shards: Default::default(),
        }
    }
}

impl<T> Handles<T> {
    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Arc<T>>> {
        let shard = &self.shards[number as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for what will be put there.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Puts what is held open under its number.
    pub fn put(&self, number: u64, open: Arc<T>) {
        self.shard(number).insert(number, open);
    }

    /// What has this number.
    pub fn get(&self, number: u64) -> Option<Arc<T>> {
        self.shard(number).get(&number).cloned()
    }

    /// Takes what has this number out.
    pub fn take(&self, number: u64) -> Option<Arc<T>> {
        self.shard(number).remove(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_out_is_not_there_and_its_number_is_not_used_again() {
        let handles = Handles::default();
        let first = handles.number();
        handles.put(first, Arc::new("a"));
        assert_eq!(handles.get(first).as_deref(), Some(&"a"));
        assert_eq!(handles.take(first).as_deref(), Some(&"a"));
        assert_eq!(handles.get(first), None);
        assert_ne!(handles.number(), first);
    }
}
