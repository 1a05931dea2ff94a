//! What follows from the seed for the whole run.

use super::random::Random;
use crate::replica::{Leases, Terms};

/// What follows from the seed for the whole run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// All replicas in one process, without leases; messages are calls.
    pub is_local: bool,
    pub bricks: usize,
    pub terms: Terms,
    /// Of a thousand messages.
    pub loses: u64,
    pub doubles: u64,
    pub slow: u64,
    /// Between two faults, in µs, at most.
    pub fault_gap_us: u64,
}

/// Chooses.
pub fn plan(random: &mut Random) -> Plan {
    let is_local = random.is_one_of(250);
    let bricks = random.within(2, 4) as usize;
    let leases = Leases {
        lease_us: 300_000,
        grace_us: 345_000,
        beat_us: 80_000,
    };
    Plan {
        is_local,
        bricks,
        terms: Terms {
            leases: (!is_local).then_some(leases),
            patience_us: if is_local { 1 << 60 } else { 500_000 },
            retry_us: 120_000,
            min_in_sync: random.within(1, 2) as usize,
            retained: random.within(0, 12),
            batch: random.within(1, 8) as usize,
            tells_commits: is_local || random.is_one_of(500),
        },
        loses: random.within(0, 60),
        doubles: random.within(0, 100),
        slow: random.within(0, 60),
        fault_gap_us: random.within(150_000, 1_200_000),
    }
}
