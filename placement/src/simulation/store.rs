//! The keeper of the configuration: one register with compare-and-set, as far away as the
//! network is bad. What it was asked may take effect long after its asker has died.

use super::faults::Fault;
use super::world::{Occurrence, World};
use crate::replica::{Event, GroupConfig};

impl World {
    /// A brick asks for a change, or for what there is.
    pub(super) fn ask_store(&mut self, from: usize, next: Option<GroupConfig>) {
        let life = self.hosts[from].life;
        let arrival = Occurrence::StoreAsked { from, life, next };
        if self.plan.is_local {
            self.schedule(0, arrival);
            return;
        }
        if self.is_store_cut[from] || self.store_loses() {
            return;
        }
        let copies = 1 + u64::from(self.random.is_one_of(self.plan.doubles));
        for _ in 0..copies {
            let delay = self.delay();
            self.schedule(delay, arrival.clone());
        }
    }

    /// Some changes are moments at which leases matter: clients all ask at once, and the old
    /// primary may be cut off just then, before it hears.
    fn seize(&mut self, old: GroupConfig, next: GroupConfig) {
        if self.is_healing || self.plan.is_local {
            return;
        }
        let has_gone = old
            .in_sync
            .iter()
            .any(|brick| !next.in_sync.contains(brick));
        if old.primary != next.primary || has_gone {
            self.rush();
        }
        let is_first = old.in_sync.len() == 1 && next.in_sync.len() == 2;
        if is_first && self.random.is_one_of(150) {
            let alone = 1 << old.primary.0;
            let lasts = self.random.within(100_000, self.plan.fault_us * 2);
            self.figures.faults += 1;
            self.split(alone, true);
            self.schedule(lasts, Occurrence::Undo(Fault::Split(alone)));
        }
    }

    fn store_loses(&mut self) -> bool {
        self.loses() || (!self.is_healing && self.random.is_one_of(self.plan.store_loses))
    }

    pub(super) fn store_asked(&mut self, from: usize, life: u64, next: Option<GroupConfig>) {
        if let Some(next) = next.filter(|next| next.epoch == self.config.epoch + 1) {
            let old = std::mem::replace(&mut self.config, next);
            self.figures.epochs += 1;
            self.seize(old, next);
            self.check_in_sync();
            if self.plan.is_local {
                // Without leases nobody may go on by an older one.
                for host in (0..self.hosts.len()).filter(|host| *host != from) {
                    self.tell(host, Event::Configured(next));
                }
            }
        }
        let is_deaf = self.is_store_cut[from] || self.is_store_mute[from];
        if !self.plan.is_local && (is_deaf || self.store_loses()) {
            return;
        }
        let delay = if self.plan.is_local { 0 } else { self.delay() };
        let config = self.config;
        self.schedule(
            delay,
            Occurrence::StoreSaid {
                to: from,
                life,
                config,
            },
        );
    }
}
