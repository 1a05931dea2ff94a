//! Leases of the primary: until when no other can serve, and how long others may read.
//!
//! A primary may read while every other brick in sync has promised, within a lease, not to serve
//! as primary: each does by answering a beat, and waits a grace from then on its own clock. What
//! the primary grants to readers ends with its own lease at the latest; so once a new primary has
//! waited out its promise, nobody reads by anything older.

use super::primary::Primary;
use super::rules::Rule;
use super::{Kinds, Leases, Replica, Role, Time};

impl Leases {
    /// Leases of a length, with a grace that outlasts them although each clock may go wrong by
    /// `drift_per_mille` thousandths, less than a thousand. A new primary's wait for an old one is
    /// the grace.
    pub fn new(lease_us: u64, drift_per_mille: u64) -> Self {
        let drift = drift_per_mille.min(999);
        Self {
            lease_us,
            grace_us: lease_us * (1000 + drift) / (1000 - drift) + 1,
            beat_us: lease_us / 8,
        }
    }
}

impl<K: Kinds> Replica<K> {
    pub(super) fn grace_us(&self, leases: Leases) -> u64 {
        if !self.keeps(Rule::Grace) {
            0
        } else if !self.keeps(Rule::GraceAboveDrift) {
            leases.lease_us
        } else {
            leases.grace_us
        }
    }

    /// True where no other brick can serve as primary now.
    pub(super) fn holds_lease(&self, now: Time, primary: &Primary<K>) -> bool {
        !self.keeps(Rule::PrimaryReadsByLease) || self.lease_left(now, primary) > 0
    }

    fn lease_left(&self, now: Time, primary: &Primary<K>) -> u64 {
        let Some(leases) = self.terms.leases else {
            return u64::MAX;
        };
        let others = self.joint(Rule::JointLease).without(self.life.brick);
        let left = others.iter().map(|brick| {
            let peer = primary.peers.iter().find(|peer| peer.brick == brick);
            let from = peer.and_then(|peer| peer.lease_from);
            from.map_or(0, |from| (from.0 + leases.lease_us).saturating_sub(now.0))
        });
        left.min().unwrap_or(u64::MAX)
    }

    /// How long a lease the primary may grant, in µs.
    pub(super) fn grantable(&self, now: Time) -> u64 {
        let (Role::Primary(primary), Some(leases)) = (&self.role, self.terms.leases) else {
            return 0;
        };
        if self.is_leaving() || self.is_failed {
            return 0;
        }
        if self.keeps(Rule::ChainedGrant) {
            self.lease_left(now, primary).min(leases.lease_us)
        } else {
            leases.lease_us
        }
    }
}
