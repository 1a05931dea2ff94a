//! Telling what lives from what died by looking at it again and again: what does not change while
//! it is watched is dead.
//!
//! What counts is time in which somebody looked, not time that went by: a watcher that slept, or
//! whose file system stood still, has seen nothing meanwhile, and neither could those it watches
//! move.

use std::time::{Duration, Instant};

/// Fewest looks, after the first, for which something must not have changed.
const MIN_LOOKS: u32 = 8;

/// Something that is looked at, and for how long it was seen not to change.
pub struct Watch<T> {
    state: T,
    watched: Duration,
    last: Instant,
}

impl<T: PartialEq> Watch<T> {
    /// As the first look saw it, which began at this time.
    pub fn new(state: T, began: Instant) -> Self {
        Self {
            state,
            watched: Duration::ZERO,
            last: began,
        }
    }

    /// Adds a look that began at this time; whether nothing has changed for all of `patience`.
    pub fn is_still(&mut self, state: T, began: Instant, patience: Duration) -> bool {
        if self.state == state {
            let gap = began.saturating_duration_since(self.last);
            self.watched += gap.min(patience / MIN_LOOKS);
        } else {
            (self.state, self.watched) = (state, Duration::ZERO);
        }
        self.last = began;
        self.watched >= patience
    }

    /// What the last look saw.
    pub fn state(&self) -> &T {
        &self.state
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Watch;

    const PATIENCE: Duration = Duration::from_secs(8);

    #[test]
    fn what_does_not_change_for_eight_looks_is_dead() {
        let began = Instant::now();
        let mut watch = Watch::new("same", began);
        let looks = (1..=8).map(|n| watch.is_still("same", began + n * PATIENCE / 8, PATIENCE));
        let looks: Vec<bool> = looks.collect();
        assert_eq!(
            looks,
            [false, false, false, false, false, false, false, true]
        );
    }

    #[test]
    fn a_watcher_that_slept_has_seen_nothing_meanwhile() {
        let began = Instant::now();
        let mut watch = Watch::new("same", began);
        assert!(!watch.is_still("same", began + PATIENCE * 100, PATIENCE));
        assert!(!watch.is_still("other", began + PATIENCE * 200, PATIENCE));
        assert_eq!(*watch.state(), "other");
        for n in 1..8 {
            assert!(!watch.is_still("other", began + PATIENCE * (200 + n), PATIENCE));
        }
        assert!(watch.is_still("other", began + PATIENCE * 208, PATIENCE));
    }
}
