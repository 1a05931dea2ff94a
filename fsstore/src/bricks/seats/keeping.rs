//! The ledger's thread: one change after another, each written to all seats.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use placement::keeper::{Keeper, Ledger, Revision, majority};

use super::super::identity::{Doubt, Uuid};
use super::super::plan::Plan;
use super::super::seat::Kept;
use super::{Chair, Done, Edit, Failure, Job, PATIENCE, SeatJob, Shared, seats_of};

/// A seat's thread, as the ledger's sees it.
struct Desk {
    orders: Sender<(u64, Kept)>,
    doubt: Option<Doubt>,
    has_failed: bool,
    /// It has been given something that it has not answered.
    is_busy: bool,
    /// Groups that a doubted brick was in sync of when it came, and still is.
    unproven: BTreeSet<usize>,
}

struct Report {
    seat: Uuid,
    round: u64,
    /// The ledger that was to be written.
    at: Revision,
    outcome: io::Result<()>,
}

pub(super) struct Keeping {
    shared: Arc<Shared>,
    keeper: Keeper<Plan>,
    term: u64,
    own: Uuid,
    desks: BTreeMap<Uuid, Desk>,
    reports: Sender<Report>,
    reported: Receiver<Report>,
    /// Counts ledgers written, so that late reports are not taken for new ones.
    round: u64,
}

impl Keeping {
    /// With nobody in the seats yet.
    pub(super) fn new(shared: Arc<Shared>, keeper: Keeper<Plan>, term: u64, own: Uuid) -> Self {
        let (reports, reported) = channel();
        Self {
            shared,
            keeper,
            term,
            own,
            desks: BTreeMap::new(),
            reports,
            reported,
            round: 0,
        }
    }

    /// Until the seats are closed.
    pub(super) fn keep(mut self) {
        loop {
            let jobs = {
                let mut state = self.shared.lock();
                while state.queue.is_empty() && !state.is_closed {
                    let woken = self.shared.changed.wait(state);
                    state = woken.unwrap_or_else(PoisonError::into_inner);
                }
                if state.queue.is_empty() {
                    return;
                }
                std::mem::take(&mut state.queue)
            };
            let mut changes = Vec::new();
            for job in jobs {
                match job {
                    Job::Change(edit, done) => changes.push((edit, done)),
                    Job::Trust(uuid, told) => told(self.trust(uuid)),
                    Job::Seat(asked) => {
                        if let Some(uuid) = self.seat(asked) {
                            self.bring_up(uuid);
                        }
                    }
                }
            }
            if !changes.is_empty() && self.apply(changes).is_none() {
                return;
            }
        }
    }

    /// Does what is asked of a seat; gives the one that joined.
    fn seat(&mut self, asked: SeatJob) -> Option<Uuid> {
        match asked {
            SeatJob::Join(chair) => {
                let uuid = chair.uuid;
                match self.join(chair) {
                    Ok(()) => return Some(uuid),
                    Err(error) => self.fail(uuid, error, |_| false),
                }
            }
            SeatJob::Forsake(uuid) => {
                if let Some(desk) = self.desks.get_mut(&uuid) {
                    desk.has_failed = true;
                }
            }
            SeatJob::Leave(uuid) => {
                self.desks.remove(&uuid);
            }
        }
        None
    }

    /// Does what was asked of seats meanwhile; changes wait. None where the seats are closed.
    fn seats_meanwhile(&mut self) -> Option<()> {
        let queue = {
            let mut state = self.shared.lock();
            if state.is_closed {
                return None;
            }
            std::mem::take(&mut state.queue)
        };
        let mut later = Vec::new();
        for job in queue {
            match job {
                Job::Seat(asked) => {
                    self.seat(asked);
                }
                other => later.push(other),
            }
        }
        let mut state = self.shared.lock();
        later.append(&mut state.queue);
        state.queue = later;
        Some(())
    }

    /// Puts changes in force, and tells. None where the seats are closed before.
    fn apply(&mut self, changes: Vec<(Edit, Done)>) -> Option<()> {
        let in_force = Arc::clone(&self.shared.lock().plan);
        let mut plan = Plan::clone(&in_force);
        let mut told = Vec::new();
        for (edit, done) in changes {
            edit(&mut plan);
            told.push(done);
        }
        let seats = seats_of(&plan, self.own);
        let old = self.keeper.in_force()?.seats.clone();
        // The server's own directory may be another than the one that was a seat.
        if plan != *in_force || seats != old {
            let ledger = self.keeper.propose(seats.clone(), plan)?.clone();
            self.write(Arc::new(ledger), &seats, &old)?;
            self.settle(&seats, &old);
        }
        let plan = Arc::clone(&self.shared.lock().plan);
        told.into_iter().for_each(|done| done(&plan));
        Some(())
    }

    /// Writes a ledger until it is in force and every seat has answered or failed.
    fn write(
        &mut self,
        ledger: Arc<Ledger<Plan>>,
        seats: &BTreeSet<placement::keeper::Uuid>,
        old: &BTreeSet<placement::keeper::Uuid>,
    ) -> Option<()> {
        let wanted: BTreeSet<Uuid> = seats.union(old).copied().map(Uuid).collect();
        self.round += 1;
        let mut awaited = self.order(&ledger, &wanted, false);
        let (mut deadline, mut in_force) = (Instant::now() + PATIENCE, false);
        loop {
            if awaited.is_empty() && in_force {
                return Some(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.reported.recv_timeout(left) {
                Ok(report) => {
                    let is_late = self.is_late(&report);
                    if report.at != ledger.at {
                        continue;
                    }
                    match report.outcome {
                        // However long it took, it is there.
                        Ok(()) => {
                            awaited.remove(&report.seat);
                            if let Some(desk) = self.desks.get_mut(&report.seat) {
                                desk.has_failed = false;
                            }
                            if self.keeper.written(report.seat.0, ledger.at) {
                                in_force = true;
                                let mut state = self.shared.lock();
                                (state.plan, state.at) =
                                    (Arc::new(ledger.config.clone()), ledger.at);
                            }
                        }
                        Err(_) if is_late => {}
                        Err(error) => {
                            awaited.remove(&report.seat);
                            self.fail(report.seat, error, |keeping| {
                                !in_force && !keeping.can_do(seats, old)
                            });
                        }
                    }
                }
                Err(_) => {
                    for seat in std::mem::take(&mut awaited) {
                        let late = io::Error::from(io::ErrorKind::TimedOut);
                        self.fail(seat, late, |keeping| {
                            !in_force && !keeping.can_do(seats, old)
                        });
                    }
                    if in_force {
                        return Some(());
                    }
                    // Too few are left: those that failed and those that came back are tried, and
                    // those that still write are waited for.
                    self.seats_meanwhile()?;
                    self.round += 1;
                    awaited = self.order(&ledger, &wanted, true);
                    deadline = Instant::now() + PATIENCE;
                }
            }
        }
    }

    /// Whether the seats that did not fail are enough, of the old ones and the new.
    fn can_do(
        &self,
        seats: &BTreeSet<placement::keeper::Uuid>,
        old: &BTreeSet<placement::keeper::Uuid>,
    ) -> bool {
        let is_sound = |uuid: &&placement::keeper::Uuid| {
            let desk = self.desks.get(&Uuid(**uuid));
            desk.is_some_and(|desk| !desk.has_failed)
        };
        let has_most = |of: &BTreeSet<placement::keeper::Uuid>| {
            of.iter().filter(is_sound).count() >= majority(of.len())
        };
        has_most(seats) && has_most(old)
    }

    /// Has seats written; gives those that are to answer: those that failed only where asked.
    fn order(
        &mut self,
        ledger: &Arc<Ledger<Plan>>,
        wanted: &BTreeSet<Uuid>,
        awaits_failed: bool,
    ) -> BTreeSet<Uuid> {
        let mut awaited = BTreeSet::new();
        for (uuid, desk) in &mut self.desks {
            // One whose disk hangs is not given more and more.
            if !wanted.contains(uuid) || desk.has_failed && desk.is_busy {
                continue;
            }
            let kept = Kept {
                promised: self.term,
                doubt: desk.doubt,
                ledger: Arc::clone(ledger),
            };
            if desk.orders.send((self.round, kept)).is_ok() {
                desk.is_busy = true;
                if awaits_failed || !desk.has_failed {
                    awaited.insert(*uuid);
                }
            }
        }
        awaited
    }

    /// Takes note of a report; true where it is of an earlier round.
    fn is_late(&mut self, report: &Report) -> bool {
        if let Some(desk) = self.desks.get_mut(&report.seat) {
            desk.is_busy = false;
        }
        report.round != self.round
    }

    /// After a change: ends doubts that are settled, and lets go of seats that are none any more.
    fn settle(
        &mut self,
        seats: &BTreeSet<placement::keeper::Uuid>,
        old: &BTreeSet<placement::keeper::Uuid>,
    ) {
        let plan = Arc::clone(&self.shared.lock().plan);
        let mut settled = Vec::new();
        for (uuid, desk) in &mut self.desks {
            let Some(id) = plan.member_of(uuid).map(|member| member.id) else {
                continue;
            };
            if desk.doubt.is_some() {
                desk.unproven
                    .retain(|group| plan.groups[*group].in_sync.contains(id));
                if desk.unproven.is_empty() && !plan.lacks(id) {
                    settled.push(*uuid);
                }
            }
        }
        for uuid in settled {
            match self.trust(uuid) {
                Ok(()) => {
                    tracing::info!(event = "brick.trusted", brick = %uuid, "a brick was compared")
                }
                Err(error) => tracing::warn!(%error, brick = %uuid, "a brick stays doubted"),
            }
        }
        self.desks.retain(|uuid, _| {
            *uuid == self.own || !old.contains(&uuid.0) || seats.contains(&uuid.0)
        });
    }

    fn fail(&mut self, seat: Uuid, error: io::Error, is_stuck: impl Fn(&Self) -> bool) {
        let was_known = self
            .desks
            .get_mut(&seat)
            .is_some_and(|desk| std::mem::replace(&mut desk.has_failed, true));
        let is_stuck = is_stuck(self);
        let mut state = self.shared.lock();
        if was_known && !is_stuck {
            return;
        }
        let failure = Failure {
            brick: state.plan.member_of(&seat).map(|member| member.id),
            error,
            is_stuck,
        };
        match state.told.clone() {
            Some(told) => {
                drop(state);
                told(failure);
            }
            None => state.untold.push(failure),
        }
    }

    /// Takes a seat in, or the same one again.
    pub(super) fn join(&mut self, chair: Chair) -> io::Result<()> {
        let (orders, ordered) = channel::<(u64, Kept)>();
        let Chair {
            uuid,
            doubt,
            mut write,
        } = chair;
        let reports = self.reports.clone();
        let thread = std::thread::Builder::new().name("seat".to_owned());
        thread.spawn(move || {
            while let Ok(mut order) = ordered.recv() {
                // Of what waits only the latest matters.
                while let Ok(later) = ordered.try_recv() {
                    order = later;
                }
                let (round, kept) = order;
                let outcome = write(&kept);
                let report = Report {
                    seat: uuid,
                    round,
                    at: kept.ledger.at,
                    outcome,
                };
                if reports.send(report).is_err() {
                    return;
                }
            }
        })?;
        let plan = Arc::clone(&self.shared.lock().plan);
        let id = plan.member_of(&uuid).map(|member| member.id);
        let in_sync = |at: &usize| id.is_some_and(|id| plan.groups[*at].in_sync.contains(id));
        let unproven = (0..plan.groups.len()).filter(|at| doubt.is_some() && in_sync(at));
        let desk = Desk {
            orders,
            doubt,
            has_failed: false,
            is_busy: false,
            unproven: unproven.collect(),
        };
        self.desks.insert(uuid, desk);
        Ok(())
    }

    /// Has a seat that comes again write what is in force: nobody waits for it.
    fn bring_up(&mut self, uuid: Uuid) {
        if let Some(ledger) = self.keeper.in_force().cloned()
            && ledger.seats.contains(&uuid.0)
        {
            self.round += 1;
            self.order(&Arc::new(ledger), &BTreeSet::from([uuid]), false);
        }
    }

    fn trust(&mut self, brick: Uuid) -> io::Result<()> {
        let ledger = self.keeper.in_force().ok_or(io::ErrorKind::InvalidInput)?;
        let ledger = Arc::new(ledger.clone());
        let desk = self.desks.get_mut(&brick).ok_or(io::ErrorKind::NotFound)?;
        let doubt = desk.doubt.take();
        self.round += 1;
        let only = BTreeSet::from([brick]);
        self.order(&ledger, &only, true);
        let deadline = Instant::now() + PATIENCE;
        let outcome = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.reported.recv_timeout(left) {
                Ok(report) if self.is_late(&report) => {}
                Ok(report) => break report.outcome,
                Err(_) => break Err(io::ErrorKind::TimedOut.into()),
            }
        };
        if let (Err(_), Some(desk)) = (&outcome, self.desks.get_mut(&brick)) {
            desk.doubt = doubt;
        }
        outcome
    }
}
