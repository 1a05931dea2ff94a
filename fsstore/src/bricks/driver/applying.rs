//! Committed changes on their way into the bricks' trees, and how far those are durable.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::replica::{Action, OpId, Record, Session};

use super::super::kinds::Kept;
use super::super::logger::LogJob;
use super::super::member::{Manner, Spoiled, spoil};
use super::super::shared::{is_fault, is_full};
use super::{CHECKPOINT_CHANGES, Copy, Driver, Group, Input, Mark};
use crate::brick::disk::Disk;
use crate::error::{Result, StoreError};

/// So many bytes that are written in place count as one more change: what the logs hold between two
/// checkpoints, in memory too, is bounded.
const BYTES_A_CHANGE: usize = 16 << 10;

impl<D: Disk> Driver<D> {
    /// Does something in a brick's tree after what was said before it; a record once it is logged,
    /// since with that its staged file is there.
    pub(super) fn in_order(&mut self, g: u32, seat: usize, action: Action<Kept>) {
        let Some(copy) = self.copy(g, seat) else {
            return;
        };
        if !copy.held.is_empty() || copy.is_too_early(&action) {
            copy.held.push_back(action);
            return;
        }
        self.do_now(g, seat, action);
    }

    fn do_now(&mut self, g: u32, seat: usize, action: Action<Kept>) {
        match action {
            Action::Apply { record, is_partial } => self.apply(g, seat, record, is_partial),
            other => self.heal(g, seat, other),
        }
    }

    /// Something was logged: what waited for it is done.
    pub(super) fn release(&mut self, g: u32, seat: usize, ticket: u64) {
        if let Some(copy) = self.copy(g, seat) {
            copy.logging.retain(|(logging, _)| *logging > ticket);
        }
        while let Some(copy) = self.copy(g, seat)
            && let Some(next) = copy.held.pop_front()
        {
            if copy.is_too_early(&next) {
                copy.held.push_front(next);
                return;
            }
            self.do_now(g, seat, next);
        }
    }

    pub(super) fn apply(
        &mut self,
        g: u32,
        seat: usize,
        record: Arc<Record<Kept>>,
        is_partial: bool,
    ) {
        let seq = record.at.seq;
        let written = record.body.as_ref().and_then(|body| body.as_ref()?.bytes());
        self.seats[seat].changes += written.map_or(0, |bytes| bytes.len() / BYTES_A_CHANGE);
        let member = Arc::clone(&self.seats[seat].member);
        let in_sync = self.groups[g as usize].config.in_sync.contains(member.id);
        let Some(copy) = self.copy(g, seat) else {
            return;
        };
        let checks = !in_sync || seq <= copy.old;
        if !in_sync && copy.rebases > 0 {
            let mut touched = copy.touched.lock().unwrap_or_else(PoisonError::into_inner);
            touched.extend(record.effects.iter().map(|effect| effect.name.clone()));
        }
        copy.applying.push_back((seq, Instant::now(), false));
        let (life, spoiled) = (copy.life, Arc::clone(&copy.spoiled));
        let began_with = copy.began_with;
        let how = Manner {
            group: GroupId(g),
            checks,
            is_partial,
            counts: in_sync,
            was_logged: seq <= began_with,
            peers: match checks {
                true => self.shared.all_members(),
                false => Vec::new(),
            },
        };
        let applied = member.apply(record, how, &spoiled);
        let (told, group) = (self.shared.input.clone(), GroupId(g));
        let brick = member.id;
        self.shared.runtime.spawn(async move {
            let result = applied.await;
            if result.is_err() {
                // The turn may never have come to it.
                spoil(&spoiled, seq);
            }
            let _ = told.send(Input::Applied {
                brick,
                life,
                group,
                seq,
                result,
            });
        });
    }

    pub(super) fn applied(
        &mut self,
        (brick, life): (BrickId, u64),
        group: GroupId,
        seq: u64,
        result: Result<()>,
    ) {
        let Some(seat) = self.living_seat((brick, life), group) else {
            return;
        };
        let mut has_caught_up = false;
        if let Some(copy) = self.copy(group.0, seat) {
            let before = copy.applied;
            if let Some(found) = copy.applying.iter_mut().find(|(at, ..)| *at == seq) {
                found.2 = true;
            }
            // They are over in their order, and told of in any.
            while let Some((upto, _, true)) = copy.applying.front().copied() {
                copy.applied = copy.applied.max(upto);
                copy.applying.pop_front();
            }
            let upto = copy.applied;
            has_caught_up = before < copy.readable_from && upto >= copy.readable_from;
            let found = &mut self.seats[seat];
            if upto > before {
                let latest = found.dirty.entry(group.0).or_default();
                *latest = upto.max(*latest);
            }
            found.changes += 1;
        }
        if has_caught_up {
            self.publish_config(group.0);
        }
        if let Err(error) = result {
            let of_group = &mut self.groups[group.0 as usize];
            if of_group.config.in_sync.contains(brick) {
                of_group.failures.push((seq, seat, error));
            } else {
                self.spoil(group.0, seat, &error);
            }
        }
        self.settle(group.0);
        if self.seats[seat].changes >= CHECKPOINT_CHANGES {
            self.checkpoint(seat);
        }
    }

    /// Settles what every brick in sync has applied. Where one could not and another could, the
    /// one is taken out; where none could, that is the answer.
    pub(super) fn settle(&mut self, g: u32) {
        self.settle_applied(g);
        self.tell_settled(g);
    }

    fn settle_applied(&mut self, g: u32) {
        let group = &mut self.groups[g as usize];
        if group.done.is_empty() && group.failures.is_empty() {
            return;
        }
        let members = |copy: &&Copy| {
            let member = &self.seats[copy.seat].member;
            let is_well = copy.out_since.is_none() && !member.has_failed();
            group.config.in_sync.contains(member.id) && is_well
        };
        let counted: Vec<(usize, u64)> = group
            .copies
            .iter()
            .filter(members)
            .map(|copy| (copy.seat, copy.applied))
            .collect();
        let Some(upto) = counted.iter().map(|(_, applied)| *applied).min() else {
            return;
        };
        let (answered, waiting) = std::mem::take(&mut group.done)
            .into_iter()
            .partition(|(seq, _)| *seq <= upto);
        group.done = waiting;
        let (failures, later): (Vec<_>, Vec<_>) = std::mem::take(&mut group.failures)
            .into_iter()
            .partition(|(seq, _, _)| *seq <= upto);
        group.failures = later;
        let answered: Vec<(u64, OpId)> = answered;
        let mut errors: HashMap<u64, Vec<(usize, StoreError)>> = HashMap::new();
        for (seq, seat, error) in failures {
            if counted.iter().any(|(counted, _)| *counted == seat) {
                errors.entry(seq).or_default().push((seat, error));
            }
        }
        let mut lost = Vec::new();
        let mut refused = HashMap::new();
        for (seq, mut of_seq) in errors {
            if of_seq.len() < counted.len() {
                lost.append(&mut of_seq);
            } else if let Some((_, error)) = of_seq.pop() {
                refused.insert(seq, error);
            }
        }
        // Every copy lacks it alike: none is behind the others. What there was no room for, or no
        // disk, may be made after a crash by one of them: so none says that it is done, and all
        // try again.
        let may_pass = |error: &StoreError| is_fault(error) || is_full(error);
        let unmade: Vec<u64> = refused
            .iter()
            .filter(|(_, error)| may_pass(error))
            .map(|(seq, _)| *seq)
            .collect();
        for copy in &self.groups[g as usize].copies {
            let mut spoiled = lock(&copy.spoiled);
            for seq in refused.keys().filter(|seq| !unmade.contains(seq)) {
                spoiled.remove(seq);
            }
        }
        for seq in unmade {
            self.keep_unmade(g, seq);
        }
        for (seat, error) in lost {
            self.spoil(g, seat, &error);
        }
        for (seq, op) in answered {
            let result = refused.remove(&seq).map_or(Ok(()), Err);
            self.groups[g as usize].settled.push((op, result));
        }
        for (seq, error) in refused {
            tracing::error!(
                group = g,
                seq,
                "a change could not be made anywhere: {error}"
            );
        }
    }

    /// Answers what is settled, once the ledger has no brick in sync that fell out meanwhile: such
    /// a brick may lack what its log said to be durable, and a start that knows nothing of that
    /// would believe it.
    fn tell_settled(&mut self, g: u32) {
        let group = &self.groups[g as usize];
        if group.settled.is_empty() || self.awaits_ledger(group) {
            return;
        }
        for (op, result) in std::mem::take(&mut self.groups[g as usize].settled) {
            self.finish(op, result);
        }
    }

    /// Whether a copy that takes no part is still in sync, beside one that does.
    fn awaits_ledger(&self, group: &Group) -> bool {
        let in_sync = |copy: &&Copy| {
            let brick = self.seats[copy.seat].member.id;
            group.config.in_sync.contains(brick)
        };
        let is_well =
            |copy: &Copy| copy.out_since.is_none() && !self.seats[copy.seat].member.has_failed();
        let (well, out): (Vec<_>, Vec<_>) = group
            .copies
            .iter()
            .filter(in_sync)
            .partition(|copy| is_well(copy));
        !well.is_empty() && !out.is_empty()
    }

    /// Has a brick's tree synced, and then says how far it is.
    pub(super) fn checkpoint(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        let is_busy = seat.is_checkpointing || seat.is_poisoned;
        if seat.dirty.is_empty() || is_busy || seat.member.has_failed() {
            return;
        }
        (seat.checkpointed, seat.changes) = (Instant::now(), 0);
        seat.is_checkpointing = true;
        let dirty = std::mem::take(&mut seat.dirty);
        let synced = seat.member.inner.checkpoint();
        let (told, brick) = (self.shared.input.clone(), seat.member.id);
        let mark = |(g, seq): (u32, u64)| {
            let mut copies = self.groups[g as usize].copies.iter();
            let copy = copies.find(|copy| copy.seat == at)?;
            Some((GroupId(g), copy.life, copy.rebases, seq))
        };
        let marks = dirty.into_iter().filter_map(mark).collect();
        self.shared.runtime.spawn(async move {
            let result = synced.await;
            let _ = told.send(Input::Synced {
                brick,
                marks,
                result,
            });
        });
    }

    pub(super) fn synced(&mut self, brick: BrickId, marks: Vec<Mark>, result: Result<()>) {
        let Some(seat) = self.seat_of(brick) else {
            return;
        };
        self.seats[seat].is_checkpointing = false;
        match result {
            Ok(()) => {
                let mut kept = Vec::with_capacity(marks.len());
                for mark in marks {
                    let (group, life, _, seq) = mark;
                    if self.is_kept(seat, mark) {
                        kept.push((group, life, seq));
                    } else if self.has_life(group.0, seat, life) {
                        self.dirtied(seat, group.0, seq);
                    }
                }
                self.log(seat, LogJob::Kept(kept));
            }
            Err(StoreError::Stopping) => {}
            Err(error) if self.holds_last(seat) => {
                // What was not synced stays to be made again; what failed once is not trusted.
                tracing::error!(brick = brick.0, "a brick's tree cannot be synced: {error}");
                self.seats[seat].is_poisoned |= !is_full(&error);
                for (group, life, _, seq) in marks {
                    if self.has_life(group.0, seat, life) {
                        self.dirtied(seat, group.0, seq);
                    }
                }
            }
            Err(error) => self.fail_seat(seat, &error),
        }
    }

    /// Whether a tree that was synced is what a copy's log says: not where the log was begun anew
    /// since, and not where something could not be done in the tree.
    fn is_kept(&mut self, seat: usize, (group, life, rebases, _): Mark) -> bool {
        self.copy(group.0, seat).is_some_and(|copy| {
            let is_it = copy.life == life && copy.rebases == rebases;
            is_it && lock(&copy.spoiled).is_empty()
        })
    }

    /// Trees of learners are whole, and synced.
    pub(super) fn whole(
        &mut self,
        brick: BrickId,
        trees: Vec<(Mark, Session)>,
        result: Result<()>,
    ) {
        let Some(seat) = self.seat_of(brick) else {
            return;
        };
        self.seats[seat].is_settling = false;
        self.settle_trees(seat);
        if let Err(error) = result {
            return self.synced(brick, Vec::new(), Err(error));
        }
        for (mark, session) in trees {
            if !self.is_kept(seat, mark) {
                continue;
            }
            let (group, life, _, seq) = mark;
            let job = LogJob::Whole {
                group,
                life,
                session,
                seq,
            };
            self.log(seat, job);
        }
    }
}

pub(super) fn lock(spoiled: &Spoiled) -> MutexGuard<'_, BTreeSet<u64>> {
    spoiled.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Copy {
    fn is_too_early(&self, action: &Action<Kept>) -> bool {
        let Action::Apply { record, .. } = action else {
            return false;
        };
        self.logging
            .iter()
            .any(|(_, first)| *first <= record.at.seq)
    }
}
