//! Wakes the scanner before its time.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

#[derive(Default)]
struct State {
    rung: bool,
    over: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// Rings for one [`Listener`]. Dropping it ends the listener's wait for good.
#[derive(Default)]
pub struct Bell(Arc<Shared>);

/// See [`Bell`].
pub struct Listener(Arc<Shared>);

impl Bell {
    /// One to wait for it.
    pub fn listener(&self) -> Listener {
        Listener(Arc::clone(&self.0))
    }

    /// Ends the wait under way, or the next one.
    pub fn ring(&self) {
        self.set(|state| state.rung = true);
    }

    /// Ends every wait from now on.
    pub fn end(&self) {
        self.set(|state| state.over = true);
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        self.0.changed.notify_all();
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.end();
    }
}

impl Listener {
    /// Lets a while pass, whether the bell rings or not; false where it never will again.
    pub fn rest(&self, time: Duration) -> bool {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |state: &mut State| !state.over;
        let waited = self.0.changed.wait_timeout_while(state, time, goes_on);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.over
    }

    /// Waits until the bell rings, `longest` at most; false where it never will again.
    pub fn wait(&self, longest: Duration) -> bool {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = |state: &mut State| !state.rung && !state.over;
        let waited = self.0.changed.wait_timeout_while(state, longest, quiet);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.rung = false;
        !state.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_ring_is_heard_by_the_wait_after_it() {
        let bell = Bell::default();
        let listener = bell.listener();
        bell.ring();
        assert!(listener.wait(LONG));
        assert!(listener.wait(Duration::from_millis(1)));
    }

    #[test]
    fn a_rest_leaves_the_ring_to_the_wait() {
        let bell = Bell::default();
        let listener = bell.listener();
        bell.ring();
        assert!(listener.rest(Duration::from_millis(1)));
        assert!(listener.wait(LONG));
        bell.end();
        assert!(!listener.rest(LONG));
    }

    #[test]
    fn a_bell_that_is_gone_ends_the_wait() {
        let bell = Bell::default();
        let listener = bell.listener();
        let waiting = std::thread::spawn(move || listener.wait(LONG));
        drop(bell);
        assert!(!waiting.join().unwrap());
    }
}
