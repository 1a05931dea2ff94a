//! Directories held open because names are looked up in them: then a look is one system call,
//! and finds what stands in that very directory wherever it is by now.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most that are held open, each by a descriptor.
const MAX_HELD: usize = 64;

/// Directories by node number, the last used first.
#[derive(Debug)]
pub struct Near<D> {
    held: Mutex<VecDeque<(u64, Arc<D>)>>,
    /// Counts how often any was let go.
    let_go: AtomicU64,
}

impl<D> Default for Near<D> {
    fn default() -> Self {
        Self {
            held: Mutex::default(),
            let_go: AtomicU64::new(0),
        }
    }
}

impl<D> Near<D> {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Arc<D>)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory of this node, where it is held.
    pub fn get(&self, ino: u64) -> Option<Arc<D>> {
        let mut held = self.lock();
        let index = held.iter().position(|(other, _)| *other == ino)?;
        if index > 0 {
            held.swap(0, index);
        }
        held.front().map(|(_, dir)| Arc::clone(dir))
    }

    /// To be asked before a directory is opened that is to be held.
    pub fn since(&self) -> u64 {
        self.let_go.load(Ordering::Acquire)
    }

    /// Holds a directory, for which another goes where there are many; unless any was let go
    /// `since`, which this one may be.
    pub fn hold(&self, ino: u64, dir: Arc<D>, since: u64) {
        let mut held = self.lock();
        if self.since() != since {
            return;
        }
        held.retain(|(other, _)| *other != ino);
        held.push_front((ino, dir));
        let beyond = (held.len() > MAX_HELD).then(|| held.pop_back());
        // Closed where nobody waits for it.
        drop(held);
        drop(beyond);
    }

    /// Lets all go.
    pub fn let_all_go(&self) {
        let mut held = self.lock();
        self.let_go.fetch_add(1, Ordering::Release);
        held.clear();
    }

    /// Lets a directory go.
    pub fn let_go(&self, ino: u64) {
        let mut held = self.lock();
        self.let_go.fetch_add(1, Ordering::Release);
        held.retain(|(other, _)| *other != ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_used_stay() {
        let near = Near::default();
        let all = MAX_HELD as u64 + 1;
        near.hold(1, Arc::new(1), near.since());
        for ino in 2..=all {
            assert_eq!(near.get(1).as_deref(), Some(&1));
            near.hold(ino, Arc::new(ino), near.since());
        }
        assert_eq!(near.get(2).as_deref(), None);
        assert_eq!(near.get(3).as_deref(), Some(&3));
        assert_eq!(near.get(all).as_deref(), Some(&all));
        near.let_go(all);
        assert_eq!(near.get(all).as_deref(), None);
        let before = near.since() - 1;
        near.hold(1, Arc::new(9), before);
        assert_eq!(near.get(1).as_deref(), Some(&1));
        near.hold(1, Arc::new(7), near.since());
        assert_eq!(near.get(1).as_deref(), Some(&7));
        near.let_all_go();
        assert_eq!(near.get(1).as_deref(), None);
    }
}
