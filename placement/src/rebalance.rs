//! From where groups are to where they should be, a few at a time.
//!
//! There is no plan to be kept and no position to be lost: what is left to do is the difference
//! between the configuration and the assignment. So a rebalance goes on after any restart, a pause
//! is not asking for more, and healing and draining are the same thing.

use crate::assignment::Assignment;
use crate::group::GroupId;
use crate::replica::BrickSet;

/// What to tell the replicas of a group ([`Event::Wanted`](crate::replica::Event::Wanted)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The group.
    pub group: GroupId,
    /// The bricks that should hold it.
    pub wanted: BrickSet,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Groups that are where they should be.
    pub settled: usize,
    /// Groups that have fewer copies than they should: what is to be healed.
    pub short: usize,
    /// Copies to be made.
    pub to_make: usize,
    /// Copies to be given up, once the others are made.
    pub to_drop: usize,
}

/// What is left, with `in_sync` the bricks in sync of each group.
pub fn progress(in_sync: &[BrickSet], target: &Assignment) -> Progress {
    let mut progress = Progress::default();
    for (now, wanted) in pairs(in_sync, target) {
        let missing = missing_count(now, wanted);
        let surplus = missing_count(wanted, now);
        progress.settled += usize::from(missing + surplus == 0);
        progress.short += usize::from(now.len() < wanted.len());
        progress.to_make += missing;
        progress.to_drop += surplus;
    }
    progress
}

/// The groups to be moved next, at most `at_once` with those under way: first what has the fewest
/// copies for what it should have. `is_paused` leaves what is short of copies, which is healing.
pub fn next_steps(
    in_sync: &[BrickSet],
    target: &Assignment,
    under_way: &[GroupId],
    at_once: usize,
    is_paused: bool,
) -> Vec<Step> {
    let mut open: Vec<(usize, Step)> = Vec::new();
    for (index, (now, wanted)) in pairs(in_sync, target).enumerate() {
        let group = GroupId(index as u32);
        let short = wanted.len().saturating_sub(now.len());
        let is_settled = now == wanted;
        if !is_settled && !under_way.contains(&group) && (short > 0 || !is_paused) {
            open.push((short, Step { group, wanted }));
        }
    }
    open.sort_by_key(|(short, step)| (std::cmp::Reverse(*short), step.group));
    let room = at_once.saturating_sub(under_way.len());
    open.into_iter().take(room).map(|(_, step)| step).collect()
}

fn pairs<'a>(
    in_sync: &'a [BrickSet],
    target: &'a Assignment,
) -> impl Iterator<Item = (BrickSet, BrickSet)> + 'a {
    let wanted = target.groups().map(|(_, bricks)| BrickSet::of(bricks));
    in_sync.iter().copied().zip(wanted)
}

/// How many of `of` are not in `from`.
fn missing_count(from: BrickSet, of: BrickSet) -> usize {
    of.iter().filter(|brick| !from.contains(*brick)).count()
}

#[cfg(test)]
mod tests {
    use super::{Progress, next_steps, progress};
    use crate::assignment::Assignment;
    use crate::group::GroupId;
    use crate::layout::BrickId;
    use crate::replica::BrickSet;

    fn set(bricks: &[u32]) -> BrickSet {
        let bricks: Vec<BrickId> = bricks.iter().copied().map(BrickId).collect();
        BrickSet::of(&bricks)
    }

    fn target(groups: &[&[u32]]) -> Assignment {
        let named = |group: &&[u32]| group.iter().copied().map(BrickId).collect();
        Assignment::from_groups(groups.iter().map(named).collect())
    }

    #[test]
    fn what_lacks_copies_comes_first_and_goes_on_in_a_pause() {
        let target = target(&[&[0, 1], &[0, 2], &[1, 2], &[0, 1]]);
        let now = [set(&[0, 1]), set(&[0, 1]), set(&[1]), set(&[0, 2])];
        let groups = |under_way: &[u32], at_once, is_paused| {
            let under_way: Vec<GroupId> = under_way.iter().copied().map(GroupId).collect();
            let steps = next_steps(&now, &target, &under_way, at_once, is_paused);
            steps.iter().map(|step| step.group.0).collect::<Vec<u32>>()
        };
        assert_eq!(groups(&[], 8, false), [2, 1, 3]);
        assert_eq!(groups(&[], 2, false), [2, 1]);
        assert_eq!(groups(&[2], 2, false), [1]);
        assert_eq!(groups(&[], 8, true), [2]);
        let expected = Progress {
            settled: 1,
            short: 1,
            to_make: 3,
            to_drop: 2,
        };
        assert_eq!(progress(&now, &target), expected);
    }

    #[test]
    fn step_by_step_everything_gets_where_it_should_be() {
        let target = target(&[&[0, 1], &[0, 2], &[1, 2], &[0, 1]]);
        let mut now = [set(&[2, 3]), set(&[0, 1]), set(&[1]), set(&[0, 2])];
        let mut rounds = 0;
        loop {
            let steps = next_steps(&now, &target, &[], 1, false);
            let Some(step) = steps.first() else { break };
            now[step.group.0 as usize] = step.wanted;
            rounds += 1;
        }
        assert_eq!(rounds, 4);
        assert_eq!(progress(&now, &target).settled, 4);
    }
}
