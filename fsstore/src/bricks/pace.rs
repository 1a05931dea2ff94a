//! How fast upkeep may go: so many bytes and so many operations a second, whoever works.
//!
//! A token bucket of one second: what was not used in a second is lost, so that upkeep never makes
//! up for a pause with a burst. Time is what the caller says it is.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bounds; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes a second.
    pub bytes_per_s: u64,
    /// Operations a second.
    pub operations_per_s: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Pace {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    bytes: Bucket,
    operations: Bucket,
}

/// When the next may go, if all that went is spread evenly.
#[derive(Debug, Default)]
struct Bucket {
    free_at: Duration,
}

/// What may be used at once after an idle time.
const BURST: Duration = Duration::from_secs(1);

impl Bucket {
    /// Takes an amount; gives how long to wait before it is used.
    fn take(&mut self, now: Duration, amount: u64, per_s: u64) -> Duration {
        if per_s == 0 {
            return Duration::ZERO;
        }
        let cost = Duration::from_secs_f64(amount as f64 / per_s as f64);
        self.free_at = self.free_at.max(now.saturating_sub(BURST)) + cost;
        self.free_at.saturating_sub(now)
    }
}

impl Pace {
    /// A pace with these bounds.
    pub fn new(limits: Limits) -> Self {
        Self {
            state: Mutex::new(State {
                limits,
                bytes: Bucket::default(),
                operations: Bucket::default(),
            }),
        }
    }

    /// Notes one operation on so many bytes; gives how long to wait before it. `now` counts from
    /// any instant.
    pub fn take(&self, now: Duration, bytes: u64) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State {
            limits,
            bytes: of_bytes,
            operations,
        } = &mut *state;
        let first = of_bytes.take(now, bytes, limits.bytes_per_s);
        first.max(operations.take(now, 1, limits.operations_per_s))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Limits, Pace};

    /// How long `count` operations of `bytes` take for one who waits as he is told.
    fn time_for(limits: Limits, count: u32, bytes: u64) -> Duration {
        let pace = Pace::new(limits);
        let mut now = Duration::from_secs(1_000);
        for _ in 0..count {
            now += pace.take(now, bytes);
        }
        now - Duration::from_secs(1_000)
    }

    #[test]
    fn bytes_and_operations_are_bounded_each_by_its_own() {
        let limits = Limits {
            bytes_per_s: 1_000,
            operations_per_s: 10,
        };
        // A second's worth goes at once.
        assert_eq!(time_for(limits, 50, 100), Duration::from_secs(4));
        assert_eq!(time_for(limits, 50, 1), Duration::from_secs(4));
        assert_eq!(time_for(limits, 50, 1_000), Duration::from_secs(49));
        assert_eq!(time_for(Limits::default(), 50, 1 << 40), Duration::ZERO);
    }

    #[test]
    fn an_idle_time_is_worth_a_second_and_no_more() {
        let pace = Pace::new(Limits {
            bytes_per_s: 1_000,
            operations_per_s: 0,
        });
        let late = Duration::from_secs(3_600);
        assert_eq!(pace.take(late, 1_000), Duration::ZERO);
        assert_eq!(pace.take(late, 500), Duration::from_millis(500));
        assert_eq!(pace.take(late, 500), Duration::from_secs(1));
    }
}
