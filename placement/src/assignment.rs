//! Which bricks hold which group. Computed once and kept in the configuration; afterwards it
//! changes by as few moves as a change of the bricks asks for.
//!
//! Each group would go to the bricks that rank highest for it (weighted rendezvous hashing:
//! Thaler and Ravishankar 1998; weights as in Schindelhauer and Schomaker 2005). By chance alone
//! that leaves the fullest of 12 bricks some 8 % above the mean, so a greedy balancer moves
//! groups until every brick is within [`TOLERANCE`] of its share.

use crate::group::GroupId;
use crate::layout::{Brick, BrickId, Layout};

mod balance;
#[cfg(test)]
mod tests;

use balance::Balance;

/// How far from its share a brick's load may be, as a part of the share (and at least rounded to
/// whole groups).
pub const TOLERANCE: f64 = 0.03;

/// The bricks of every group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    groups: Vec<Vec<BrickId>>,
}

/// A copy of a group that is to be made or given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Which group.
    pub group: GroupId,
    /// Who gives its copy up once `to` is in sync; none where a copy is added.
    pub from: Option<BrickId>,
    /// Who gets a copy; none where one is only given up.
    pub to: Option<BrickId>,
}

impl Assignment {
    /// Assigns `groups` groups for the first time.
    pub fn new(layout: &Layout, groups: u32) -> Self {
        Self::from_groups(vec![Vec::new(); groups as usize]).adapted(layout)
    }

    /// An assignment as it was kept. Each group's bricks, the one preferred as primary first.
    pub fn from_groups(groups: Vec<Vec<BrickId>>) -> Self {
        Self { groups }
    }

    /// The bricks of a group, the one preferred as primary first; fewer than asked for where
    /// there are too few failure domains.
    pub fn bricks(&self, group: GroupId) -> &[BrickId] {
        &self.groups[group.0 as usize]
    }

    /// Every group with its bricks.
    pub fn groups(&self) -> impl Iterator<Item = (GroupId, &[BrickId])> {
        (0..)
            .map(GroupId)
            .zip(self.groups.iter().map(Vec::as_slice))
    }

    /// How many groups a brick holds.
    pub fn load(&self, brick: BrickId) -> usize {
        let holds = |group: &&Vec<BrickId>| group.contains(&brick);
        self.groups.iter().filter(holds).count()
    }

    /// This assignment changed for another layout: nothing on bricks that are gone or being
    /// drained, every group on as many failure domains as asked for, loads within [`TOLERANCE`]
    /// of the shares, and no more moves than that takes.
    #[must_use]
    pub fn adapted(&self, layout: &Layout) -> Self {
        let mut balance = Balance::new(layout, self.groups.len() as u32);
        for (index, old) in self.groups.iter().enumerate() {
            balance.keep(index as u32, old);
        }
        balance.fill();
        balance.even_out();
        let mut groups = balance.into_groups();
        choose_primaries(&mut groups, &self.groups, layout);
        Self { groups }
    }

    /// What has to be moved to get from this assignment to `next`, in the order of groups.
    pub fn moves_to(&self, next: &Self) -> Vec<Move> {
        let mut moves = Vec::new();
        for (group, (old, new)) in self.groups.iter().zip(&next.groups).enumerate() {
            let group = GroupId(group as u32);
            let mut gone = old.iter().filter(|brick| !new.contains(brick));
            let mut come = new.iter().filter(|brick| !old.contains(brick));
            loop {
                let (from, to) = (gone.next().copied(), come.next().copied());
                if from.is_none() && to.is_none() {
                    break;
                }
                moves.push(Move { group, from, to });
            }
        }
        moves
    }
}

/// How high a brick ranks for a group; the highest gets it. Pure, the same on every machine up to
/// the last bits of ln(3): therefore the outcome is kept and not computed again.
pub fn rank(group: GroupId, brick: &Brick) -> f64 {
    let hash = mix(u64::from(group.0) << 32 | u64::from(brick.id.0));
    // Within (0, 1), with 53 bits.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    brick.weight as f64 / -uniform.ln()
}

/// The finalizer of SplitMix64. Source: Steele, Lea and Flood 2014.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Puts each group's preferred primary first: the old one where that leaves it no more than its
/// share of primaries, else the brick that is furthest below its share.
fn choose_primaries(groups: &mut [Vec<BrickId>], old: &[Vec<BrickId>], layout: &Layout) {
    let ideal = layout.ideal_loads(groups.len() as u32);
    let copies = layout.replicas.min(layout.domains()).max(1) as f64;
    let index_of = |id: BrickId| layout.bricks.iter().position(|brick| brick.id == id);
    let mut taken = vec![0.0; layout.bricks.len()];
    for (group, old) in groups.iter_mut().zip(old) {
        let fullness = |id: &BrickId| {
            index_of(*id).map_or(f64::MAX, |at| (taken[at] + 1.0) * copies / ideal[at])
        };
        let kept = old
            .first()
            .and_then(|first| group.iter().position(|id| id == first));
        let kept = kept.filter(|at| fullness(&group[*at]) <= 1.0 + TOLERANCE);
        let emptiest = || {
            let by = |a: &usize, b: &usize| fullness(&group[*a]).total_cmp(&fullness(&group[*b]));
            (0..group.len()).min_by(by)
        };
        if let Some(at) = kept.or_else(emptiest) {
            group[..=at].rotate_right(1);
            if let Some(index) = index_of(group[0]) {
                taken[index] += 1.0;
            }
        }
    }
}
