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
    /// Of a thousand, besides, of what is said to the store or by it.
    pub store_loses: u64,
    /// Between two requests of a client, in µs, at most.
    pub think_us: u64,
    /// Between two faults, in µs, at most.
    pub fault_gap_us: u64,
    /// Clients from this number on ask only when the primary has changed.
    pub steady: usize,
    /// How long a fault lasts, in µs, at most.
    pub fault_us: u64,
    /// How long faults go on, in µs.
    pub trouble_us: u64,
}

/// Chooses.
pub fn plan(random: &mut Random) -> Plan {
    let is_local = random.is_one_of(250);
    let bricks = random.within(2, 4) as usize;
    // In some seeds leases are long, and so is what a wrong clock makes of them.
    let is_long = !is_local && random.is_one_of(200);
    let lease_us = if is_long {
        random.within(1_500_000, 4_000_000)
    } else {
        random.within(150_000, 1_200_000)
    };
    let leases = Leases::new(lease_us, 50);
    // Shorter than the lease or longer, but always longer than between two beats heard.
    let patience_us = 130_000 + random.within(lease_us / 7, lease_us * 2);
    Plan {
        is_local,
        bricks,
        terms: Terms {
            leases: (!is_local).then_some(leases),
            patience_us: if is_local { 1 << 60 } else { patience_us },
            retry_us: 120_000,
            min_in_sync: random.within(1, 2) as usize,
            retained: random.within(0, 12),
            batch: random.within(1, 8) as usize,
            tells_commits: is_local || random.is_one_of(500),
        },
        loses: random.within(0, 60),
        doubles: random.within(0, 100),
        slow: random.within(0, 90),
        store_loses: random.within(0, 300),
        think_us: random.within(15_000, 300_000),
        fault_gap_us: random.within(150_000, if is_long { 3_000_000 } else { 1_200_000 }),
        steady: random.within(1, 4) as usize,
        fault_us: if is_long { 9_000_000 } else { 1_200_000 },
        trouble_us: if is_long { 14_000_000 } else { 6_000_000 },
    }
}
