//! The clock: the only place where the time of day is read. Components get a [`Clock`]; tests
//! give them one that stands still until it is moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::object::Timestamp;

/// A source of the time of day. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The machine's clock.
    pub const fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `at` until it is [`Clock::set`].
    pub fn standing(at: Timestamp) -> Self {
        Self(Some(Arc::new(AtomicI64::new(at.0))))
    }

    /// The time now, in nanoseconds since 1970. The machine's clock may go backwards.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Some(standing) => Timestamp(standing.load(Ordering::Relaxed)),
            None => system_now(),
        }
    }

    /// Moves a standing clock; the machine's clock is not ours to move.
    pub fn set(&self, at: Timestamp) {
        if let Some(standing) = &self.0 {
            standing.store(at.0, Ordering::Relaxed);
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the clock's home")]
fn system_now() -> Timestamp {
    let since_1970 = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_clock_moves_only_when_it_is_set() {
        let clock = Clock::standing(Timestamp::from_secs(5));
        let other = clock.clone();
        assert_eq!(clock.now(), clock.now());
        other.set(Timestamp::from_secs(6));
        assert_eq!(clock.now(), Timestamp::from_secs(6));
    }

    #[test]
    fn the_systems_clock_is_past_2020_and_cannot_be_set() {
        let clock = Clock::system();
        clock.set(Timestamp(0));
        assert!(clock.now().secs() > 1_577_836_800);
    }
}
