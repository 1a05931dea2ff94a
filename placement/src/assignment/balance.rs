//! The greedy balancer.

use super::{TOLERANCE, rank};
use crate::group::GroupId;
use crate::layout::{BrickId, Layout};

/// An assignment in the making. Bricks are named by their index in the layout.
pub struct Balance<'a> {
    layout: &'a Layout,
    domain: Vec<u32>,
    ideal: Vec<f64>,
    load: Vec<usize>,
    copies: usize,
    groups: Vec<Vec<usize>>,
    /// What each group had and keeps: the only copies that cost something to move.
    kept: Vec<Vec<usize>>,
}

impl<'a> Balance<'a> {
    pub fn new(layout: &'a Layout, groups: u32) -> Self {
        let bricks = layout.bricks.iter();
        Self {
            layout,
            domain: bricks.map(|brick| layout.spread.of(brick.domain)).collect(),
            ideal: layout.ideal_loads(groups),
            load: vec![0; layout.bricks.len()],
            copies: layout.replicas.min(layout.domains()),
            groups: vec![Vec::new(); groups as usize],
            kept: vec![Vec::new(); groups as usize],
        }
    }

    /// Keeps what a group had and may still have.
    pub fn keep(&mut self, group: u32, old: &[BrickId]) {
        for id in old {
            let at = self.layout.bricks.iter().position(|brick| brick.id == *id);
            let Some(at) = at.filter(|at| self.layout.bricks[*at].weight > 0) else {
                continue;
            };
            let has_room = self.groups[group as usize].len() < self.copies;
            if has_room && self.may_hold(group as usize, at, None) {
                self.place(group as usize, at);
                self.kept[group as usize].push(at);
            }
        }
    }

    /// Gives every group the copies it lacks: to the bricks that rank highest among those with
    /// room, or where none has room to the least full.
    pub fn fill(&mut self) {
        for group in 0..self.groups.len() {
            while self.groups[group].len() < self.copies {
                let may = |at: &usize| {
                    self.layout.bricks[*at].weight > 0 && self.may_hold(group, *at, None)
                };
                let candidates = (0..self.load.len()).filter(may);
                let key = |at: &usize| {
                    let has_room = (self.load[*at] as f64) < self.ideal[*at].ceil();
                    if has_room {
                        (1, rank(GroupId(group as u32), &self.layout.bricks[*at]))
                    } else {
                        (0, -self.fullness(*at))
                    }
                };
                let best = candidates.max_by(|a, b| {
                    let (a, b) = (key(a), key(b));
                    a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
                });
                let Some(best) = best else { break };
                self.place(group, best);
            }
        }
    }

    /// Moves groups from bricks above their share to bricks below it, one at a time, until all
    /// are within the tolerance or no move helps.
    pub fn even_out(&mut self) {
        // Each move brings two bricks nearer to their shares, so this bound is never met.
        for _ in 0..self.groups.len() * self.copies.max(1) {
            let is_over = |at: &usize| self.load[*at] as f64 > upper(self.ideal[*at]);
            let is_under = |at: &usize| (self.load[*at] as f64) < lower(self.ideal[*at]);
            let all = || (0..self.load.len()).filter(|at| self.ideal[*at] > 0.0);
            let (is_any_over, is_any_under) =
                (all().any(|at| is_over(&at)), all().any(|at| is_under(&at)));
            if !is_any_over && !is_any_under {
                break;
            }
            let mut donors: Vec<usize> = all()
                .filter(|at| is_over(at) || (!is_any_over && self.surplus(*at) > 0.0))
                .collect();
            donors.sort_by(|a, b| self.fullness(*b).total_cmp(&self.fullness(*a)));
            let mut takers: Vec<usize> = all()
                .filter(|at| is_under(at) || (!is_any_under && self.surplus(*at) < 0.0))
                .collect();
            takers.sort_by(|a, b| self.fullness(*a).total_cmp(&self.fullness(*b)));
            let pairs = donors
                .iter()
                .flat_map(|from| takers.iter().map(move |to| (*from, *to)));
            let found = pairs
                .filter(|(from, to)| self.surplus(*from) - self.surplus(*to) > 1.0)
                .find_map(|(from, to)| Some((self.best_move(from, to)?, from, to)));
            let Some((group, from, to)) = found else {
                break;
            };
            self.groups[group].retain(|at| *at != from);
            self.kept[group].retain(|at| *at != from);
            self.load[from] -= 1;
            self.place(group, to);
        }
    }

    /// The groups, by the bricks' ids.
    pub fn into_groups(self) -> Vec<Vec<BrickId>> {
        let named = |group: Vec<usize>| group.iter().map(|at| self.layout.bricks[*at].id).collect();
        self.groups.into_iter().map(named).collect()
    }

    /// The group that may go from one brick to another: first what is only now to come to the one,
    /// which costs no move, then what ranks the other highest.
    fn best_move(&self, from: usize, to: usize) -> Option<usize> {
        let brick = &self.layout.bricks[to];
        let may = |group: &usize| {
            self.groups[*group].contains(&from) && self.may_hold(*group, to, Some(from))
        };
        let by = |a: &usize, b: &usize| {
            let rank = |group: &usize| rank(GroupId(*group as u32), brick);
            let is_new = |group: &usize| !self.kept[*group].contains(&from);
            let by_cost = is_new(a).cmp(&is_new(b));
            by_cost.then_with(|| rank(a).total_cmp(&rank(b)))
        };
        (0..self.groups.len()).filter(may).max_by(by)
    }

    /// True where a group, once `without` has left it, has no copy in the brick's domain.
    fn may_hold(&self, group: usize, at: usize, without: Option<usize>) -> bool {
        let mut others = self.groups[group]
            .iter()
            .filter(|other| Some(**other) != without);
        !others.any(|other| self.domain[*other] == self.domain[at])
    }

    fn place(&mut self, group: usize, at: usize) {
        self.groups[group].push(at);
        self.load[at] += 1;
    }

    fn fullness(&self, at: usize) -> f64 {
        self.load[at] as f64 / self.ideal[at]
    }

    fn surplus(&self, at: usize) -> f64 {
        self.load[at] as f64 - self.ideal[at]
    }
}

fn upper(ideal: f64) -> f64 {
    (ideal * (1.0 + TOLERANCE)).floor().max(ideal.ceil())
}

fn lower(ideal: f64) -> f64 {
    (ideal * (1.0 - TOLERANCE)).ceil().min(ideal.floor())
}
