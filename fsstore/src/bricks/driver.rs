//! The thread that steps every replica of every group, and carries out what they say.
//!
//! Messages between replicas are calls: an inbox, emptied before anything else is taken in. What
//! waits for a disk is done elsewhere: records by each brick's [`super::logger`], publishing by
//! each brick's committer, in its order. A request is answered once every brick in sync has
//! applied it, so that whoever asks next may read from any of them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::replica::{
    Action, BrickSet, Event, GroupConfig, Life, OpId, Record, Replica, Stored, Terms, Time,
};

use super::healing::Touched;
use super::kinds::Kept;
use super::ledger::Ledger;
use super::logger::LogJob;
use super::member::Spoiled;
use super::shared::Shared;
use crate::brick::disk::Disk;
use crate::error::{Result, StoreError};

mod applying;
mod coming;
mod handing;
mod heal;
mod input;
mod logging;
mod members;
mod requests;
mod seat;
mod watching;

use handing::Handing;
pub use input::{Ask, Decide, Decision, Input, Mark};
pub use requests::UNDECIDED;
pub(super) use seat::Seat;

/// How often what waits is looked after.
const TICK: Duration = Duration::from_millis(200);
/// Between two checkpoints of a brick.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
/// A checkpoint is taken before its time after so many changes.
const CHECKPOINT_CHANGES: usize = 8_192;
/// Messages do not get lost: what is sent again is what a replica waits for outside.
const RETRY_US: u64 = 2_000_000;
/// Records of a group kept for a brick that is away for a moment.
const RETAINED: u64 = 32;
/// Most records in one message.
const BATCH: usize = 256;
/// How long a request waits for a primary.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one is waited for that it has; then whoever asked is told that it is not known.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long a copy that could not be made what it should be takes no part.
const OUT: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 15_000 });

/// One copy of a group.
struct Copy {
    seat: usize,
    life: u64,
    /// What could not be done in its tree: nothing in its log may say that it has been.
    spoiled: Spoiled,
    /// Since when it takes no part because of that.
    out_since: Option<Instant>,
    replica: Replica<Kept>,
    /// Records up to here were in its log when its life began: the tree may have them.
    old: u64,
    /// The same; 0 once the log was begun anew in this life.
    began_with: u64,
    /// Published up to here.
    applied: u64,
    /// Records on their way into the tree: since when, and whether they are over.
    applying: VecDeque<(u64, Instant, bool)>,
    /// In sync, but not read before it has published up to here.
    readable_from: u64,
    /// What is to be logged, while bytes of the first are fetched.
    unlogged: VecDeque<LogJob>,
    is_fetching: bool,
    /// Tickets of what is being logged, each with its first record.
    logging: VecDeque<(u64, u64)>,
    /// What is to be done in the tree once the records that it is about are logged: only a brick
    /// that learns is told that records are committed before it has them.
    held: VecDeque<Action<Kept>>,
    /// Counts how often its log was begun anew.
    rebases: u64,
    /// The same, seen in turns; nothing that counts once the copy's life is over.
    walk: Arc<AtomicU64>,
    /// When its tree had what the log before had said, and what records have changed since.
    rebased: Arc<OnceLock<Instant>>,
    touched: Touched,
}

struct Group {
    config: GroupConfig,
    wanted: Option<BrickSet>,
    copies: Vec<Copy>,
    /// Committed, and answered once all in sync have applied them.
    done: Vec<(u64, OpId)>,
    /// What comes of requests that every brick in sync has applied: told once the ledger knows of
    /// those that fell out.
    settled: Vec<(OpId, Result<()>)>,
    /// What could not be published, and where.
    failures: Vec<(u64, usize, StoreError)>,
    /// What could not be published anywhere: each copy makes it as soon as it can.
    unmade: Vec<Arc<Record<Kept>>>,
    tried: Instant,
    /// Wait for a primary.
    parked: Vec<OpId>,
}

impl Group {
    /// Ends a copy's life: what is under way for it acts no more.
    fn drop_copy(&mut self, seat: usize) {
        self.copies.retain(|copy| {
            if copy.seat == seat {
                copy.walk.store(u64::MAX, Ordering::Release);
            }
            copy.seat != seat
        });
    }
}

struct Pending<D: Disk> {
    group: GroupId,
    ask: Ask<D>,
    refusal: Option<StoreError>,
    /// Since when it waits for a primary, where it does.
    parked: Option<Instant>,
    since: Instant,
    /// The seat it was given to.
    asked: Option<usize>,
}

/// See the module.
pub struct Driver<D: Disk> {
    shared: Arc<Shared<D>>,
    ledger: Arc<dyn Ledger>,
    input: Receiver<Input<D>>,
    seats: Vec<Seat<D>>,
    groups: Vec<Group>,
    asks: HashMap<OpId, Pending<D>>,
    inbox: VecDeque<(u32, usize, Event<Kept>)>,
    actions: Vec<Action<Kept>>,
    cas: Vec<(GroupId, GroupConfig)>,
    begun: Instant,
    min_in_sync: usize,
    handing: Handing,
}

impl<D: Disk> Driver<D> {
    /// Starts the replicas of all bricks that are here.
    pub fn new(
        shared: Arc<Shared<D>>,
        ledger: Arc<dyn Ledger>,
        input: Receiver<Input<D>>,
        seats: Vec<Seat<D>>,
        mut stored: Vec<Vec<Stored<Kept>>>,
        wanted: &[BrickSet],
        replicas: usize,
    ) -> Self {
        let configs = ledger.groups();
        let mut driver = Self {
            shared,
            ledger,
            input,
            seats,
            groups: Vec::with_capacity(configs.len()),
            asks: HashMap::new(),
            inbox: VecDeque::new(),
            actions: Vec::new(),
            cas: Vec::new(),
            begun: Instant::now(),
            // Half of them, at least one.
            min_in_sync: replicas.div_ceil(2).max(1),
            handing: Handing::default(),
        };
        for lists in &mut stored {
            lists.reverse();
        }
        for (g, config) in (0..).zip(configs) {
            let wanted = wanted.get(g as usize).copied();
            driver.groups.push(Group {
                config,
                wanted,
                copies: Vec::new(),
                done: Vec::new(),
                settled: Vec::new(),
                failures: Vec::new(),
                unmade: Vec::new(),
                tried: Instant::now(),
                parked: Vec::new(),
            });
            for (seat, lists) in stored.iter_mut().enumerate() {
                let Some(stored) = lists.pop() else { continue };
                let brick = driver.seats[seat].member.id;
                let is_of_it = config.in_sync.contains(brick)
                    || wanted.is_some_and(|wanted| wanted.contains(brick));
                if is_of_it {
                    driver.begin(g, seat, stored);
                }
            }
            driver.tell_missing(g);
            driver.publish_config(g);
        }
        driver
    }

    fn terms(&self) -> Terms {
        Terms {
            leases: None,
            patience_us: u64::MAX,
            retry_us: RETRY_US,
            min_in_sync: self.min_in_sync,
            retained: RETAINED,
            batch: BATCH,
            tells_commits: true,
        }
    }

    fn now(&self) -> Time {
        Time(self.begun.elapsed().as_micros() as u64)
    }

    /// Begins a life of a copy.
    fn begin(&mut self, g: u32, seat: usize, stored: Stored<Kept>) {
        let life = Life {
            brick: self.seats[seat].member.id,
            number: self.seats[seat].life,
        };
        let old = stored
            .records
            .last()
            .map_or(stored.base.seq, |record| record.at.seq);
        let applied = stored.checkpoint;
        let changes = stored.records.iter();
        let changes = changes.filter_map(|record| record.body.as_ref()?.as_deref());
        self.seats[seat].member.note_moves(changes);
        let known = stored.is_complete.then_some(applied);
        let member = Arc::clone(&self.seats[seat].member);
        member.note_applied(GroupId(g), None);
        if known.is_some() {
            member.note_applied(GroupId(g), known);
        }
        let replica = Replica::start(self.now(), life, self.terms(), stored);
        let group = &mut self.groups[g as usize];
        group.drop_copy(seat);
        group.copies.push(Copy {
            seat,
            life: life.number,
            spoiled: Spoiled::default(),
            out_since: None,
            replica,
            old,
            began_with: old,
            applied,
            applying: VecDeque::new(),
            readable_from: old,
            unlogged: VecDeque::new(),
            is_fetching: false,
            logging: VecDeque::new(),
            held: VecDeque::new(),
            rebases: 0,
            walk: Arc::default(),
            rebased: Arc::default(),
            touched: Touched::default(),
        });
        self.inbox
            .push_back((g, seat, Event::Configured(group.config)));
        if let Some(wanted) = group.wanted {
            self.inbox.push_back((g, seat, Event::Wanted(wanted)));
        }
    }

    fn seat_of(&self, brick: BrickId) -> Option<usize> {
        self.seats.iter().position(|seat| seat.member.id == brick)
    }

    /// Runs until it is told to stop.
    pub fn run(mut self) {
        self.drain();
        let mut ticked = Instant::now();
        loop {
            match self.input.recv_timeout(TICK) {
                Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(first) => {
                    self.take(first);
                    // What came meanwhile shares a batch of the logs and of the ledger.
                    for _ in 0..1024 {
                        match self.input.try_recv() {
                            Ok(Input::Stop) => return self.stop(),
                            Ok(input) => self.take(input),
                            Err(_) => break,
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.drain();
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick();
            }
        }
        self.stop();
    }

    fn stop(mut self) {
        for (_, pending) in self.asks.drain() {
            if let Some(answer) = pending.ask.answer {
                let _ = answer.send(Err(StoreError::Stopping));
            }
        }
        for seat in &mut self.seats {
            let (gone, _) = std::sync::mpsc::channel();
            seat.jobs = gone;
            if let Some(thread) = seat.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a logging thread panicked");
            }
        }
    }

    fn take(&mut self, input: Input<D>) {
        match input {
            Input::Request { op, group, ask } => self.request(op, group, ask),
            Input::Decided {
                brick,
                group,
                op,
                decision,
            } => self.decided(brick, group, op, decision),
            Input::Logged { brick, logged } => self.logged(brick, logged),
            Input::Applied {
                brick,
                life,
                group,
                seq,
                result,
            } => self.applied((brick, life), group, seq, result),
            Input::Remade {
                brick,
                life,
                group,
                seq,
                result,
            } => self.remade((brick, life), group, seq, result),
            Input::Again {
                brick,
                group,
                stored,
            } => self.again(brick, group, stored),
            Input::Full { brick, error } => self.full(brick, &error),
            Input::Hung { brick } => self.hung(brick),
            Input::Ready {
                brick,
                group,
                epoch,
            } => self.ready(brick, group, epoch),
            Input::Configured(configs) => self.configured(configs),
            Input::Synced {
                brick,
                marks,
                result,
            } => self.synced(brick, marks, result),
            Input::Whole {
                brick,
                trees,
                result,
            } => self.whole(brick, trees, result),
            Input::Failed { brick, error } => self.failed(brick, &error),
            Input::LogFailed { brick, error } => self.log_failed(brick, &error),
            Input::Spoiled {
                brick,
                life,
                group,
                error,
            } => {
                if let Some(seat) = self.living_seat((brick, life), group) {
                    self.spoil(group.0, seat, &error);
                }
            }
            Input::Fetched {
                brick,
                life,
                group,
                ticket,
                result,
            } => self.fetched((brick, life), group, ticket, result),
            Input::Revived { brick, stored } => self.revived(brick, stored),
            Input::Tell {
                brick,
                life,
                group,
                event,
            } => {
                if let Some(seat) = self.living_seat((brick, life), group) {
                    self.inbox.push_back((group.0, seat, *event));
                }
            }
            Input::Wanted(wanted) => self.set_wanted(&wanted),
            Input::Joined { at, seat, stored } => self.joined(at, *seat, stored),
            Input::Leave { brick, told } => self.leave(brick, told),
            Input::Stop => {}
        }
        self.drain();
    }

    /// Steps replicas until none has anything to say to another.
    fn drain(&mut self) {
        loop {
            while let Some((g, seat, event)) = self.inbox.pop_front() {
                let now = self.now();
                let copies = &mut self.groups[g as usize].copies;
                let Some(copy) = copies.iter_mut().find(|copy| copy.seat == seat) else {
                    continue;
                };
                let mut actions = std::mem::take(&mut self.actions);
                copy.replica.step(now, event, &mut actions);
                for action in actions.drain(..) {
                    self.act(g, seat, action);
                }
                self.actions = actions;
            }
            if self.cas.is_empty() {
                return;
            }
            let batch = std::mem::take(&mut self.cas);
            let told = self.shared.input.clone();
            self.ledger.change(
                batch,
                Box::new(move |configs| {
                    let _ = told.send(Input::Configured(configs));
                }),
            );
        }
    }

    fn act(&mut self, g: u32, seat: usize, action: Action<Kept>) {
        let (group, brick) = (GroupId(g), self.seats[seat].member.id);
        match action {
            Action::Send { to, message } => {
                if let Some(to) = self.seat_of(to) {
                    let from = brick;
                    self.inbox
                        .push_back((g, to, Event::Received { from, message }));
                }
            }
            Action::Persist {
                ticket,
                keep,
                records,
            } => {
                let Some(copy) = self.copy(g, seat) else {
                    return;
                };
                if let Some(first) = records.first() {
                    copy.logging.push_back((ticket, first.at.seq));
                }
                let life = copy.life;
                copy.unlogged.push_back(LogJob::Persist {
                    group,
                    life,
                    ticket,
                    keep,
                    records,
                    lacking: Vec::new(),
                });
                self.log_on(g, seat);
            }
            Action::Rebase { ticket, base } => {
                let Some(copy) = self.copy(g, seat) else {
                    return;
                };
                copy.rebases += 1;
                copy.walk.store(copy.rebases, Ordering::Release);
                copy.rebased = Arc::default();
                copy.touched = Touched::default();
                copy.applied = base.seq;
                copy.applying.clear();
                copy.old = u64::MAX;
                let life = copy.life;
                // What was to be logged before is of the log that is over.
                copy.unlogged.clear();
                copy.logging.clear();
                copy.held.clear();
                copy.began_with = 0;
                self.log(
                    seat,
                    LogJob::Rebase {
                        group,
                        life,
                        ticket,
                        base,
                    },
                );
                self.seats[seat].member.note_applied(group, None);
            }
            Action::Trim { base } => self.log(seat, LogJob::Trim { group, base }),
            Action::Decide { op, .. } => self.decide(g, seat, op),
            Action::Answer { op, outcome } => self.answer(g, op, outcome),
            Action::Cas { next } => self.cas.push((group, next)),
            Action::ReadConfig => {
                let config = self.groups[g as usize].config;
                self.inbox.push_back((g, seat, Event::Configured(config)));
            }
            Action::Serving { epoch } => self.serving(g, seat, epoch),
            Action::Alarm(alarm) => {
                tracing::error!(group = g, brick = brick.0, ?alarm, "a group is in trouble");
            }
            other => self.in_order(g, seat, other),
        }
    }

    fn copy(&mut self, g: u32, seat: usize) -> Option<&mut Copy> {
        let copies = &mut self.groups[g as usize].copies;
        copies.iter_mut().find(|copy| copy.seat == seat)
    }

    /// A brick's seat, where its copy of a group still lives the life that is spoken of.
    fn living_seat(&mut self, (brick, life): (BrickId, u64), group: GroupId) -> Option<usize> {
        let seat = self.seat_of(brick)?;
        self.has_life(group.0, seat, life).then_some(seat)
    }

    /// Notes that a brick's tree has changes up to one that are not synced.
    fn dirtied(&mut self, seat: usize, g: u32, upto: u64) {
        let latest = self.seats[seat].dirty.entry(g).or_default();
        *latest = upto.max(*latest);
    }

    fn has_life(&mut self, g: u32, seat: usize, life: u64) -> bool {
        self.copy(g, seat).is_some_and(|copy| copy.life == life)
    }

    fn tick(&mut self) {
        for seat in 0..self.seats.len() {
            if self.seats[seat].checkpointed.elapsed() >= CHECKPOINT_INTERVAL {
                self.checkpoint(seat);
            }
        }
        for g in 0..self.groups.len() as u32 {
            let group = &self.groups[g as usize];
            let is_quiet = group.copies.iter().all(|copy| {
                let brick = self.seats[copy.seat].member.id;
                copy.replica.is_serving()
                    || (group.config.in_sync.contains(brick) && group.config.primary != brick)
            });
            let is_settled = group
                .wanted
                .is_none_or(|wanted| wanted == group.config.in_sync);
            if is_quiet && is_settled {
                continue;
            }
            for at in 0..self.groups[g as usize].copies.len() {
                let seat = self.groups[g as usize].copies[at].seat;
                self.inbox.push_back((g, seat, Event::Tick));
            }
        }
        self.watch();
        self.begin_again();
        self.make_again();
        self.hand_on();
        self.drain();
        self.give_up_late();
    }
}
