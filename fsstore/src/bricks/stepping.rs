//! Which bricks each group is to be on for now, on the way from where groups are to where they are
//! wanted: a few groups at a time, first what lacks copies.
//!
//! Nothing is remembered that matters: a restart goes on from the configuration, as
//! `placement::rebalance` has it. Pure.

use std::collections::BTreeSet;

use placement::assignment::Assignment;
use placement::group::GroupId;
use placement::layout::BrickId;
use placement::rebalance::next_steps;
use placement::replica::BrickSet;

use super::plan::Plan;

#[cfg(test)]
mod tests;

/// See the module.
#[derive(Debug, Clone)]
pub struct Stepping {
    at_once: usize,
    under_way: BTreeSet<GroupId>,
}

impl Stepping {
    /// One that has at most so many groups on their way at once.
    pub fn new(at_once: usize) -> Self {
        Self {
            at_once: at_once.max(1),
            under_way: BTreeSet::new(),
        }
    }

    /// The bricks that each group is to be on for now: those where it is wanted for groups on their
    /// way, those that have it for the others. `gone` are bricks that can be given nothing.
    pub fn step(&mut self, plan: &Plan, gone: &BTreeSet<BrickId>) -> Vec<BrickSet> {
        let in_sync = plan.in_sync();
        // What a brick that is gone should have waits until it is back, and holds nothing else up.
        let target = |(group, bricks): (GroupId, &[BrickId])| {
            let now = in_sync[group.0 as usize];
            let has_gone = |id: &&BrickId| gone.contains(id) && !now.contains(**id);
            match bricks.iter().any(|id| has_gone(&id)) {
                false => bricks.to_vec(),
                // Who has it keeps it: nothing is given up for a copy that cannot be made.
                true => {
                    let here = bricks.iter().filter(|id| !has_gone(id)).copied();
                    now.union(BrickSet::of(&here.collect::<Vec<_>>()))
                        .iter()
                        .collect()
                }
            }
        };
        let target = Assignment::from_groups(plan.wanted.groups().map(target).collect());
        let is_open = |group: &GroupId| {
            let now = in_sync[group.0 as usize];
            let wanted = BrickSet::of(target.bricks(*group));
            let may_move = !plan.is_rebalance_paused || now.len() < wanted.len();
            now != wanted && may_move
        };
        self.under_way.retain(is_open);
        let under_way: Vec<GroupId> = self.under_way.iter().copied().collect();
        let steps = next_steps(
            &in_sync,
            &target,
            &under_way,
            self.at_once,
            plan.is_rebalance_paused,
        );
        self.under_way.extend(steps.iter().map(|step| step.group));
        let mut wanted = in_sync;
        for group in &self.under_way {
            wanted[group.0 as usize] = BrickSet::of(target.bricks(*group));
        }
        wanted
    }
}
