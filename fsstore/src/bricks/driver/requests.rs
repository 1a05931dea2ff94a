//! Requests on their way through a primary.

use std::sync::Arc;
use std::time::Instant;

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::replica::{Event, OpId, Outcome, Verdict};

use super::super::kinds::Kept;
use super::{Ask, DEADLINE, Decision, Driver, Input, PATIENCE, Pending};
use crate::brick::disk::Disk;
use crate::error::{Result, StoreError};

/// What whoever asked is told at the deadline.
pub const UNDECIDED: &str = "the bricks of its group; the change may still be made";

impl<D: Disk> Driver<D> {
    pub(super) fn request(&mut self, op: OpId, group: GroupId, ask: Ask<D>) {
        self.asks.insert(
            op,
            Pending {
                group,
                ask,
                refusal: None,
                parked: None,
                since: Instant::now(),
                asked: None,
            },
        );
        self.ask_primary(op);
    }

    /// Gives a request to the primary; where there is none it waits for one.
    pub(super) fn ask_primary(&mut self, op: OpId) {
        let Some(g) = self.asks.get(&op).map(|pending| pending.group.0) else {
            return;
        };
        let primary = self.groups[g as usize].config.primary;
        let seat = self.seat_of(primary);
        let seat = seat.filter(|seat| self.copy(g, *seat).is_some());
        let Some(pending) = self.asks.get_mut(&op) else {
            return;
        };
        pending.asked = seat;
        pending.parked = pending.parked.filter(|_| seat.is_none());
        match seat {
            Some(seat) => {
                let names = pending.ask.names.clone();
                let body = None;
                self.inbox
                    .push_back((g, seat, Event::Request { op, names, body }));
            }
            None => self.groups[g as usize].parked.push(op),
        }
    }

    pub(super) fn decide(&mut self, g: u32, seat: usize, op: OpId) {
        let Some(pending) = self.asks.get(&op) else {
            let verdict = Verdict::Refuse;
            self.inbox
                .push_back((g, seat, Event::Decided { op, verdict }));
            return;
        };
        let decide = Arc::clone(&pending.ask.decide);
        let member = Arc::clone(&self.seats[seat].member);
        if !pending.ask.looks {
            let decision = decide(&member.inner);
            self.decided(member.id, GroupId(g), op, decision);
            return;
        }
        // In the turn: after all that was committed before, before anything that comes.
        let looked = member
            .inner
            .in_turn(None, move |inner, _| Ok(decide(inner)));
        let (told, group, brick) = (self.shared.input.clone(), GroupId(g), member.id);
        self.shared.runtime.spawn(async move {
            let decision = looked.await.and_then(|decision| decision);
            let _ = told.send(Input::Decided {
                brick,
                group,
                op,
                decision,
            });
        });
    }

    pub(super) fn decided(&mut self, brick: BrickId, group: GroupId, op: OpId, decision: Decision) {
        let Some(seat) = self.seat_of(brick) else {
            return;
        };
        let decision = self.with_bytes(op, decision);
        let verdict = Self::verdict(&decision);
        match decision {
            // It says nothing of what stands there.
            Err(error @ (StoreError::Io { .. } | StoreError::ReadOnly))
                if !self.holds_last(seat) =>
            {
                self.fail_seat(seat, &error);
                return;
            }
            Err(error) => {
                if let Some(pending) = self.asks.get_mut(&op) {
                    pending.refusal = Some(error);
                }
            }
            Ok(_) => {}
        }
        self.inbox
            .push_back((group.0, seat, Event::Decided { op, verdict }));
    }

    /// A change whose staged bytes went with the disks that had them is none.
    fn with_bytes(&self, op: OpId, decision: Decision) -> Decision {
        let Ok(Some(change)) = &decision else {
            return decision;
        };
        let is_here =
            |seat: &super::Seat<D>| !seat.member.has_failed() && seat.member.has_staged(op);
        match change.has_staged() && !self.seats.iter().any(is_here) {
            true => Err(StoreError::Busy("its bytes were lost with a brick")),
            false => decision,
        }
    }

    pub(super) fn answer(&mut self, g: u32, op: OpId, outcome: Outcome) {
        if self.asks.contains_key(&op) {
            self.outcome(g, op, outcome);
        }
    }

    /// Tells whoever asked.
    pub(super) fn finish(&mut self, op: OpId, result: Result<()>) {
        for seat in &self.seats {
            seat.member.unstage(op);
        }
        if let Some(pending) = self.asks.remove(&op) {
            // Nobody waits where the request was dropped; what was done stands all the same.
            if let Some(answer) = pending.ask.answer {
                let _ = answer.send(result);
            }
        }
    }

    /// A copy ended that had been asked: nobody else is going to answer what is not done.
    pub(super) fn park_asked(&mut self, g: u32, seat: usize) {
        let group = &mut self.groups[g as usize];
        for (op, pending) in &mut self.asks {
            let is_done = group.done.iter().any(|(_, done)| done == op);
            if pending.group.0 == g && pending.asked == Some(seat) && !is_done {
                pending.asked = None;
                if !group.parked.contains(op) {
                    group.parked.push(*op);
                }
            }
        }
    }

    /// Ends requests that waited too long for a primary, and tells those who wait too long for
    /// what one has taken.
    pub(super) fn give_up_late(&mut self) {
        for pending in self.asks.values_mut() {
            if pending.since.elapsed() >= DEADLINE
                && let Some(answer) = pending.ask.answer.take()
            {
                let _ = answer.send(Err(StoreError::Busy(UNDECIDED)));
            }
        }
        for g in 0..self.groups.len() {
            let parked = std::mem::take(&mut self.groups[g].parked);
            for op in parked {
                let parked = self.asks.get_mut(&op);
                let parked = parked.map(|pending| pending.parked.get_or_insert_with(Instant::now));
                match parked {
                    Some(since) if since.elapsed() < PATIENCE => self.groups[g].parked.push(op),
                    Some(_) => self.finish(op, Err(StoreError::Busy("no brick of its group"))),
                    None => {}
                }
            }
        }
    }

    fn outcome(&mut self, g: u32, op: OpId, outcome: Outcome) {
        match outcome {
            Outcome::Done { at } => {
                let group = &mut self.groups[g as usize];
                // It may have been one that nobody knew of: it is not to be done again.
                group.parked.retain(|parked| *parked != op);
                group.done.push((at.seq, op));
                self.settle(g);
            }
            Outcome::Refused => {
                let refusal = self.asks.get_mut(&op).and_then(|ask| ask.refusal.take());
                self.finish(op, refusal.map_or(Ok(()), Err));
            }
            Outcome::Short { .. } => self.finish(op, Err(StoreError::Busy("too few bricks"))),
            Outcome::TooFew { .. } => self.finish(op, Err(StoreError::Busy("too few bricks"))),
            // The next primary does it, or has done it and says so.
            Outcome::NotPrimary { .. } | Outcome::Unknown => {
                if let Some(pending) = self.asks.get_mut(&op) {
                    pending.asked = None;
                }
                self.groups[g as usize].parked.push(op);
            }
        }
    }

    fn verdict(decision: &Decision) -> Verdict<Kept> {
        match decision {
            Ok(Some(change)) => Verdict::Write {
                effects: change.effects(),
                body: Some(Arc::new(change.clone())),
            },
            Ok(None) | Err(_) => Verdict::Refuse,
        }
    }
}
