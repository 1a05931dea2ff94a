//! A gate that keeps one write waiting.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Open,
    /// The next write will wait.
    Closed,
    /// One waits; the others pass.
    Waiting,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    opened: Condvar,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the next write waiting until [`Self::open`].
    pub fn close(&self) {
        *self.lock() = State::Closed;
    }

    /// Whether a write waits.
    pub fn has_caught(&self) -> bool {
        *self.lock() == State::Waiting
    }

    /// Lets the write go on.
    pub fn open(&self) {
        *self.lock() = State::Open;
        self.opened.notify_all();
    }

    /// A write passes, or waits.
    pub(super) fn pass(&self) {
        let mut state = self.lock();
        if *state == State::Closed {
            *state = State::Waiting;
            while *state == State::Waiting {
                let woken = self.opened.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}
