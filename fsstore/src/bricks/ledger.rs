//! Who keeps the configuration of a volume's groups: the bricks' seats, or memory in tests.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::replica::GroupConfig;

/// Told what is in force.
pub type Done = Box<dyn FnOnce(Vec<(GroupId, GroupConfig)>) + Send>;

/// Keeps the groups' configurations; each changes by compare-and-set of its epoch alone.
pub trait Ledger: Send + Sync + 'static {
    /// What is in force, by group.
    fn groups(&self) -> Vec<GroupConfig>;

    /// Changes each group whose epoch is one below the given, durably; then tells what is in
    /// force of each, on any thread, soon. May be asked again before.
    fn change(&self, batch: Vec<(GroupId, GroupConfig)>, done: Done);

    /// A brick is of no use: nothing is to be written there until it comes back.
    fn forsake(&self, brick: BrickId);
}

/// A ledger in memory: for tests.
#[derive(Debug, Clone)]
pub struct MemoryLedger {
    groups: Arc<Mutex<Vec<GroupConfig>>>,
    /// How long a change takes to be in force.
    takes: Duration,
}

impl MemoryLedger {
    /// One that says this.
    pub fn new(groups: Vec<GroupConfig>) -> Self {
        Self {
            groups: Arc::new(Mutex::new(groups)),
            takes: Duration::ZERO,
        }
    }

    /// One whose changes take so long to be in force.
    #[cfg(test)]
    pub(super) fn taking(self, takes: Duration) -> Self {
        Self { takes, ..self }
    }

    fn put_in_force(&self, batch: Vec<(GroupId, GroupConfig)>, done: Done) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let mut said = Vec::with_capacity(batch.len());
        for (group, next) in batch {
            let known = &mut groups[group.0 as usize];
            if next.epoch == known.epoch + 1 {
                *known = next;
            }
            said.push((group, *known));
        }
        drop(groups);
        done(said);
    }
}

impl Ledger for MemoryLedger {
    fn groups(&self) -> Vec<GroupConfig> {
        self.groups
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn change(&self, batch: Vec<(GroupId, GroupConfig)>, done: Done) {
        if self.takes.is_zero() {
            return self.put_in_force(batch, done);
        }
        let ledger = self.clone();
        std::thread::spawn(move || {
            std::thread::sleep(ledger.takes);
            ledger.put_in_force(batch, done);
        });
    }

    fn forsake(&self, _: BrickId) {}
}
