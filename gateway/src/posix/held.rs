//! Files held open for a moment after they were looked up, where names are being replaced.
//!
//! The kernel looks a name up and then opens the file it was told of. Where that file was
//! replaced in between it is gone, and the kernel looks up and opens once more, not twice. So
//! after the first such miss, what is looked up is held until the opening has come: the second
//! attempt finds its file, as on a local file system.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most files held.
const MAX_HELD: usize = 256;
/// Most of them held where they are long, and how many bytes they may then have together: a file
/// without a name takes room as long as it is held.
const MAX_LONG: usize = 8;
const MAX_HELD_BYTES: u64 = 256 << 20;
/// How long a file is held at most, until the next is, or as long again. After a miss what is looked
/// up is held for as long at least.
const WHILE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct File<F> {
    ino: u64,
    len_bytes: u64,
    since: Instant,
    file: Arc<F>,
}

#[derive(Debug)]
struct State<F> {
    /// The last first.
    files: VecDeque<File<F>>,
    holds: bool,
    missed_again: bool,
}

/// Files by node number. Clones are of one.
#[derive(Debug)]
pub struct Held<F> {
    state: Arc<Mutex<State<F>>>,
}

impl<F> Default for Held<F> {
    fn default() -> Self {
        let state = State {
            files: VecDeque::new(),
            holds: false,
            missed_again: false,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }
}

impl<F> State<F> {
    /// Takes out what is to be held no longer, to be dropped outside the lock.
    fn beyond(&mut self, now: Instant) -> VecDeque<File<F>> {
        let mut held_bytes = 0_u64;
        let is_beyond = |(i, held): (usize, &File<F>)| {
            held_bytes = held_bytes.saturating_add(held.len_bytes);
            i >= MAX_HELD
                || i >= MAX_LONG && held_bytes > MAX_HELD_BYTES
                || now.duration_since(held.since) >= WHILE
        };
        let kept = self.files.iter().enumerate().position(is_beyond);
        self.files.split_off(kept.unwrap_or(self.files.len()))
    }
}

fn lock<F>(state: &Mutex<State<F>>) -> MutexGuard<'_, State<F>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<F: Send + Sync + 'static> Held<F> {
    /// Notes that a file was gone before it could be opened: for a while what is looked up is
    /// held.
    pub fn missed(&self) {
        let mut state = lock(&self.state);
        state.missed_again = true;
        if state.holds {
            return;
        }
        let shared = Arc::downgrade(&self.state);
        let watching = std::thread::Builder::new()
            .name("mount-held".to_owned())
            .spawn(move || {
                loop {
                    std::thread::sleep(WHILE);
                    let Some(state) = shared.upgrade() else {
                        return;
                    };
                    let mut state = lock(&state);
                    if !std::mem::take(&mut state.missed_again) {
                        state.holds = false;
                        let files = std::mem::take(&mut state.files);
                        drop(state);
                        drop(files);
                        return;
                    }
                    let beyond = state.beyond(Instant::now());
                    drop(state);
                    drop(beyond);
                }
            });
        state.holds = watching.is_ok();
    }

    /// Whether what is looked up is to be held.
    pub fn wants(&self) -> bool {
        lock(&self.state).holds
    }

    /// Holds a file that was looked up, of so many bytes.
    pub fn hold(&self, ino: u64, len_bytes: u64, file: F) {
        let mut state = lock(&self.state);
        if !state.holds {
            return;
        }
        let since = Instant::now();
        state.files.push_front(File {
            ino,
            len_bytes,
            since,
            file: Arc::new(file),
        });
        let beyond = state.beyond(since);
        drop(state);
        drop(beyond);
    }

    /// A file that is held.
    pub fn get(&self, ino: u64) -> Option<Arc<F>> {
        let state = lock(&self.state);
        let found = state.files.iter().find(|held| held.ino == ino);
        found.map(|held| Arc::clone(&held.file))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn files_are_held_after_a_miss_and_let_go_later() {
        let held = Held::default();
        assert!(!held.wants());
        held.hold(1, 1, "before");
        assert_eq!(held.get(1), None);
        held.missed();
        assert!(held.wants());
        held.hold(1, 1, "one");
        assert_eq!(held.get(1).as_deref(), Some(&"one"));
        for ino in 2..=MAX_HELD as u64 + 1 {
            held.hold(ino, 1, "another");
        }
        assert_eq!(held.get(1), None);
        // Of long ones few: the last, in any case.
        for ino in 1_000..1_000 + 2 * MAX_LONG as u64 {
            held.hold(ino, MAX_HELD_BYTES, "long");
            assert!(held.get(ino).is_some());
        }
        let is_held = |ino: &u64| held.get(*ino).is_some();
        let long = (1_000..2_000).filter(is_held).count();
        assert_eq!((long, held.get(2)), (MAX_LONG, None));
        let began = Instant::now();
        while held.wants() {
            assert!(began.elapsed() < 20 * WHILE, "they are held for ever");
            std::thread::sleep(WHILE / 20);
        }
        assert_eq!(held.get(2), None);
    }
}
