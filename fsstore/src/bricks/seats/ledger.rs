//! The seats as the replicas' ledger.

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::replica::GroupConfig;

use super::Seats;
use crate::bricks::ledger::{Done, Ledger};

impl Ledger for Seats {
    fn groups(&self) -> Vec<GroupConfig> {
        self.plan().groups.clone()
    }

    fn change(&self, batch: Vec<(GroupId, GroupConfig)>, done: Done) {
        let groups: Vec<usize> = batch.iter().map(|(group, _)| group.0 as usize).collect();
        Seats::change(
            self,
            move |plan| {
                for (group, next) in batch {
                    plan.swap(group, next);
                }
            },
            move |plan| {
                let now = |at: &usize| (GroupId(*at as u32), plan.groups[*at]);
                done(groups.iter().map(now).collect());
            },
        );
    }

    fn forsake(&self, brick: BrickId) {
        if let Some(member) = self.plan().member(brick) {
            Seats::forsake(self, member.uuid);
        }
    }
}
