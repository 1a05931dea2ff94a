//! The volume's configuration in all of its seats while it is served.
//!
//! Changes that come at once become one revision of the ledger, which is written to every seat at
//! the same time, and is told of when most seats have it durably. A seat that cannot be written,
//! or takes longer than [`PATIENCE`], is a brick that failed: nobody waits for it any more, but it is
//! offered every later ledger, and counts again once it takes one. Where there are too few without
//! such, nothing is in force until one does, however long it takes.
//!
//! The doubt of a brick ends by itself: once it has been taken out of every group that it was in sync
//! of when it came, and is in sync of all that it should have. It has been compared with others then.
//!
//! Locks: the state's, for the queue and what is in force; never held while a disk is waited for or
//! a callback runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use placement::group::GroupId;
use placement::keeper::{Keeper, Ledger, Revision, majority};
use placement::layout::BrickId;
use placement::replica::GroupConfig;

use super::identity::{Doubt, Uuid};
use super::plan::Plan;
use super::seat::Kept;

mod ledger;
#[cfg(test)]
mod tests;

/// How long a seat may take to write a ledger before the others go on without it; where they are too
/// few, how often those that failed are tried again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes what one seat keeps, durably.
pub type Write = Box<dyn FnMut(&Kept) -> io::Result<()> + Send>;
type Edit = Box<dyn FnOnce(&mut Plan) + Send>;
type Done = Box<dyn FnOnce(&Arc<Plan>) + Send>;
type Told = Arc<dyn Fn(Failure) + Send + Sync>;

/// A seat that could not be written.
#[derive(Debug)]
pub struct Failure {
    /// The brick; none for the server's own directory.
    pub brick: Option<BrickId>,
    /// Why.
    pub error: io::Error,
    /// Whether too few seats are left: nothing can be changed until one comes back.
    pub is_stuck: bool,
}

/// A seat that takes part.
pub struct Chair {
    /// Whose.
    pub uuid: Uuid,
    /// Why its brick is doubted.
    pub doubt: Option<Doubt>,
    /// How it is written.
    pub write: Write,
}

/// See the module. Clones share it; when the last is dropped, its threads end.
#[derive(Clone)]
pub struct Seats {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The configuration in force.
    plan: Arc<Plan>,
    at: Revision,
    queue: Vec<Job>,
    told: Option<Told>,
    /// Failures from before anyone asked to be told.
    untold: Vec<Failure>,
    is_closed: bool,
}

enum Job {
    Change(Edit, Done),
    Join(Chair),
    Trust(Uuid, Box<dyn FnOnce(io::Result<()>) + Send>),
    Forsake(Uuid),
    Leave(Uuid),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seats {
    /// Keeps what [`super::starting`] has put in force. `own` is the seat of the server's own
    /// directory. Errors: no thread can be started.
    pub fn run(keeper: Keeper<Plan>, term: u64, own: Uuid, chairs: Vec<Chair>) -> io::Result<Self> {
        let ledger = keeper.in_force().ok_or(io::ErrorKind::InvalidInput)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                plan: Arc::new(ledger.config.clone()),
                at: ledger.at,
                queue: Vec::new(),
                told: None,
                untold: Vec::new(),
                is_closed: false,
            }),
            changed: Condvar::new(),
        });
        let (reports, reported) = channel();
        let mut keeping = Keeping {
            shared: Arc::clone(&shared),
            keeper,
            term,
            own,
            desks: BTreeMap::new(),
            reports,
            reported,
            round: 0,
        };
        for chair in chairs {
            keeping.join(chair)?;
        }
        let thread = std::thread::Builder::new().name("ledger".to_owned());
        thread.spawn(move || keeping.keep())?;
        Ok(Self {
            handle: Arc::new(Handle { shared }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.handle.shared.lock()
    }

    fn push(&self, job: Job) {
        self.lock().queue.push(job);
        self.handle.shared.changed.notify_all();
    }

    /// What is in force.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.lock().plan)
    }

    /// The revision in force.
    pub fn at(&self) -> Revision {
        self.lock().at
    }

    /// Changes the plan. `done` is told what is in force once the change is, or at once where it
    /// changes nothing. Both run on the ledger's thread and must not wait. Neither is called where
    /// too few seats can be written, until they can.
    pub fn change(
        &self,
        edit: impl FnOnce(&mut Plan) + Send + 'static,
        done: impl FnOnce(&Arc<Plan>) + Send + 'static,
    ) {
        self.push(Job::Change(Box::new(edit), Box::new(done)));
    }

    /// Makes `next` the group's configuration if its epoch is the one after the present. `done` is
    /// told what the group has then, as in [`Seats::change`].
    pub fn cas(
        &self,
        group: GroupId,
        next: GroupConfig,
        done: impl FnOnce(GroupConfig) + Send + 'static,
    ) {
        let at = group.0 as usize;
        let edit = move |plan: &mut Plan| plan.swap(group, next);
        self.change(edit, move |plan| done(plan.groups[at]));
    }

    /// Has a new brick's seat written from now on; it counts once a plan has it as a member.
    pub fn join(&self, chair: Chair) {
        self.push(Job::Join(chair));
    }

    /// Ends the doubt of a brick, durably. To be called once what is not whole on it is marked
    /// there by whoever compares it. Waits for the disk.
    pub fn trust(&self, brick: Uuid) -> io::Result<()> {
        let (answer, answered) = channel();
        let told = move |outcome| {
            let _ = answer.send(outcome);
        };
        self.push(Job::Trust(brick, Box::new(told)));
        let ended = |_| Err(io::ErrorKind::BrokenPipe.into());
        answered.recv().unwrap_or_else(ended)
    }

    /// Waits for a seat no more: its brick is known to have failed.
    pub fn forsake(&self, brick: Uuid) {
        self.push(Job::Forsake(brick));
    }

    /// Lets go of a seat: what it is written with is dropped, and with it the brick's lock, as soon as
    /// the disk lets go of what is being written. It may [join](Self::join) again.
    pub fn leave(&self, brick: Uuid) {
        self.push(Job::Leave(brick));
    }

    /// Who is told of seats that cannot be written, those of the past as well. On the ledger's
    /// thread; must not wait.
    pub fn on_failure(&self, told: impl Fn(Failure) + Send + Sync + 'static) {
        let told: Told = Arc::new(told);
        let untold = {
            let mut state = self.lock();
            state.told = Some(Arc::clone(&told));
            std::mem::take(&mut state.untold)
        };
        untold.into_iter().for_each(|failure| told(failure));
    }
}

/// The seats of a plan: its bricks, and the server's own directory where they are of an even
/// number, so that half of them may be missing.
pub fn seats_of(plan: &Plan, own: Uuid) -> BTreeSet<placement::keeper::Uuid> {
    let mut seats: BTreeSet<_> = plan.members.iter().map(|member| member.uuid.0).collect();
    if seats.len() % 2 == 0 {
        seats.insert(own.0);
    }
    seats
}

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

struct Keeping {
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
    fn keep(mut self) {
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
                    Job::Join(chair) => {
                        let (uuid, joined) = (chair.uuid, self.join(chair));
                        match joined {
                            Ok(()) => self.bring_up(uuid),
                            Err(error) => self.fail(uuid, error, |_| false),
                        }
                    }
                    Job::Trust(uuid, told) => told(self.trust(uuid)),
                    Job::Forsake(uuid) => {
                        if let Some(desk) = self.desks.get_mut(&uuid) {
                            desk.has_failed = true;
                        }
                    }
                    Job::Leave(uuid) => {
                        self.desks.remove(&uuid);
                    }
                }
            }
            if !changes.is_empty() && self.apply(changes).is_none() {
                return;
            }
        }
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
                    if self.shared.lock().is_closed {
                        return None;
                    }
                    // Too few are left: those that failed are tried again, and those that still
                    // write are waited for.
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
    fn join(&mut self, chair: Chair) -> io::Result<()> {
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
