//! One copy of one group: a state machine that is told what happened and says what to do.
//!
//! `step(now, event, actions)`: no I/O, no clock, no thread. How the parts fit, and what a driver
//! owes for each action, is in the crate's README; the names of the rules are in [`rules`].

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use crate::layout::BrickId;

mod action;
mod config;
mod follower;
mod learner;
mod lease;
mod log;
mod members;
mod mend;
mod message;
mod ops;
mod primary;
mod proposal;
pub mod rules;
#[cfg(test)]
mod tests;

pub use action::{Action, Alarm, Event, Outcome, Read, Verdict};
pub use config::{BrickSet, GroupConfig, Life, MAX_COPIES};
use follower::Follower;
use learner::Learner;
use log::Log;
pub use log::{Position, Record};
pub use message::{Beat, BeatAck, Grant, Message, Payload};
use primary::Primary;
use proposal::Proposal;
use rules::{Breach, Rule};

/// A reading of the clock of the brick's own host, in µs. Clocks of different hosts have nothing
/// to do with each other but that they go equally fast, up to the drift [`Leases`] allows for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(pub u64);

/// A request's number, the gateway's own; new for each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OpId(pub u64);

/// A learner's attempt to come into sync; never 0, never twice the same for a brick.
pub type Session = u64;

/// What the driver's records are made of. All of them are cheap to clone.
pub trait Kinds: Debug + Clone + 'static {
    /// A name in a directory.
    type Name: Clone + Eq + Ord + Hash + Debug;
    /// What a record does.
    type Body: Clone + Debug;
    /// A file, whole.
    type Copy: Clone + Debug;
    /// Names with their stamps and digests, of a range of names.
    type Page: Clone + Debug;

    /// Whether a record is too long to be kept for those who might lack it one day: what it did is
    /// fetched instead.
    fn is_heavy(_body: &Self::Body) -> bool {
        false
    }
}

/// A name that a record changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect<N> {
    /// The name.
    pub name: N,
    /// True where what becomes of it depends on what stood there or elsewhere before (a rename's
    /// target, attributes, bytes written in place); false where the record says all (a whole file,
    /// a removal).
    pub is_derived: bool,
}

/// How long things take, in µs of the clock of whoever waits.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Leases; none where all replicas of the group live and die in one process, which tells each
    /// of them of a new configuration before anything else happens.
    pub leases: Option<Leases>,
    /// A brick in sync that was not heard for this long is taken out. More than a beat, a tick and
    /// a round trip, or bricks come and go without end.
    pub patience_us: u64,
    /// What was not answered for this long is sent again.
    pub retry_us: u64,
    /// Writes are refused with fewer bricks in sync.
    pub min_in_sync: usize,
    /// Records kept for learners although nothing else needs them.
    pub retained: u64,
    /// Most records in one message.
    pub batch: usize,
    /// Followers hear of each commit at once and not with the next record or beat.
    pub tells_commits: bool,
}

/// Leases rest on clocks going equally fast, within a bound.
#[derive(Debug, Clone, Copy)]
pub struct Leases {
    /// How long a primary may read after a beat that all others answered, and a follower after
    /// asking.
    pub lease_us: u64,
    /// How long a follower waits after its last answer before it serves as primary. With clocks
    /// that go wrong by a part d, at least lease × (1 + d) / (1 − d).
    pub grace_us: u64,
    /// Between two beats.
    pub beat_us: u64,
}

/// What a brick has of a group when it starts.
#[derive(Debug)]
pub struct Stored<K: Kinds> {
    /// Below the first record.
    pub base: Position,
    /// The log, as far as it is whole.
    pub records: Vec<Arc<Record<K>>>,
    /// The tree has everything up to here, durably; at least the base.
    pub checkpoint: u64,
    /// False for an empty disk, and for one that a comparison was not finished on.
    pub is_complete: bool,
}

/// A replica.
#[derive(Debug)]
pub struct Replica<K: Kinds> {
    life: Life,
    terms: Terms,
    breach: Breach,
    config: Option<GroupConfig>,
    role: Role<K>,
    proposal: Option<Proposal>,
    wanted: Option<BrickSet>,
    log: Log<K>,
    /// What is on its way to the disk: ticket, and up to where the log is durable with it.
    flushes: VecDeque<(u64, u64)>,
    next_ticket: u64,
    durable: u64,
    commit: u64,
    checkpoint: u64,
    is_complete: bool,
    is_failed: bool,
    /// When it last promised not to serve as primary.
    promised: Time,
    adopted: Time,
    asked_store: Option<Time>,
    next_session: Session,
    /// The session it came into sync by; 0 where it never had one in this life.
    last_session: Session,
    rotten: HashMap<K::Name, (Position, Time)>,
}

#[derive(Debug)]
enum Role<K: Kinds> {
    /// Knows no configuration, or may do nothing by it.
    Idle,
    Follower(Follower),
    Learner(Learner<K>),
    Primary(Box<Primary<K>>),
}

/// What a step says to do, appended to.
type Out<K> = Vec<Action<K>>;

impl<K: Kinds> Replica<K> {
    /// A replica at the start of a life. It takes part in nothing before it is told the
    /// configuration that the store has *now*.
    pub fn start(now: Time, life: Life, terms: Terms, stored: Stored<K>) -> Self {
        let log = Log::new(stored.base, stored.records);
        let last = log.last().seq;
        assert!((log.base().seq..=last).contains(&stored.checkpoint));
        Self {
            life,
            terms,
            breach: Breach::default(),
            config: None,
            role: Role::Idle,
            proposal: None,
            wanted: None,
            log,
            flushes: VecDeque::new(),
            next_ticket: 1,
            durable: last,
            commit: stored.checkpoint,
            checkpoint: stored.checkpoint,
            is_complete: stored.is_complete,
            is_failed: false,
            promised: now,
            adopted: now,
            asked_store: None,
            next_session: life.number << 16 | 1,
            last_session: 0,
            rotten: HashMap::new(),
        }
    }

    /// Breaks a rule, to see that it is noticed.
    #[cfg(any(test, feature = "simulation"))]
    #[must_use]
    pub fn breaking(mut self, rule: Option<Rule>) -> Self {
        self.breach = Breach::of(rule);
        if !self.breach.keeps(Rule::BlankIsNotInSync) {
            self.is_complete = true;
        }
        self
    }

    /// Tells what happened, at `now`; appends what is to be done, in this order, before the next
    /// event is told.
    pub fn step(&mut self, now: Time, event: Event<K>, out: &mut Vec<Action<K>>) {
        match event {
            Event::Tick => self.tick(now, out),
            Event::Configured(config) => self.adopt(now, config, out),
            Event::Received { from, message } => self.receive(now, from, message, out),
            Event::Persisted { ticket } => self.persisted(now, ticket, out),
            Event::Request { op, names, body } => self.request(op, names, body, out),
            Event::Decided { op, verdict } => self.decided(now, op, verdict, out),
            Event::Checkpointed { seq } => self.checkpointed(seq, out),
            Event::DiskFailed => self.fail(now, out),
            Event::PeerFailed { brick } => self.peer_failed(brick),
            Event::Compared { session, wants } => self.compared(now, session, wants, out),
            Event::Settled { session } => self.settled(now, session, out),
            Event::Rotten { name, stamp } => self.found_rotten(now, name, stamp, out),
            Event::Wanted(wanted) => self.wanted = Some(wanted),
        }
        self.manage(now, out);
    }

    /// Which brick it is.
    pub fn brick(&self) -> BrickId {
        self.life.brick
    }

    /// The configuration it acts by.
    pub fn config(&self) -> Option<&GroupConfig> {
        self.config.as_ref()
    }

    /// True for a primary that takes requests.
    pub fn is_serving(&self) -> bool {
        matches!(&self.role, Role::Primary(primary) if primary.is_active)
            && !self.is_failed
            && !self.is_leaving()
    }

    /// Up to where it knows records to be committed, and where its log ends.
    pub fn progress(&self) -> (u64, u64) {
        (self.commit, self.log.last().seq)
    }

    /// The record with this number, where its log still has it.
    pub fn record(&self, seq: u64) -> Option<&Arc<Record<K>>> {
        self.log.get(seq)
    }

    /// True where its tree is whole, as far as it knows.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The change of configuration that it has sent and does not know the outcome of.
    pub fn proposed(&self) -> Option<&GroupConfig> {
        self.proposal.as_ref().map(|proposal| &proposal.config)
    }

    /// Where `name` may be read now. Where it is here, the tree is to be read before the next
    /// step, or opened before it and read later: an open file is one state.
    pub fn may_read(&self, now: Time, name: &K::Name) -> Read {
        let Some(config) = self.config.filter(|_| !self.is_failed) else {
            return Read::Nowhere;
        };
        let is_here = match &self.role {
            Role::Primary(primary) => self.is_serving() && self.holds_lease(now, primary),
            Role::Follower(follower) => self.follower_may_read(now, follower, name),
            _ => false,
        };
        if is_here && !self.rotten.contains_key(name) {
            Read::Here
        } else if config.primary == self.life.brick {
            // Its own copy is rotten, or it does not serve: another may have a lease.
            let others = config.in_sync.without(self.life.brick);
            let is_rotten = self.rotten.contains_key(name);
            let other = others.iter().next().filter(|_| is_rotten && is_here);
            other.map_or(Read::Nowhere, Read::Ask)
        } else {
            Read::Ask(config.primary)
        }
    }

    fn keeps(&self, rule: Rule) -> bool {
        self.breach.keeps(rule)
    }

    fn send(&self, to: BrickId, payload: Payload<K>, out: &mut Out<K>) {
        if let Some(config) = self.config {
            let message = Message { config, payload };
            out.push(Action::Send { to, message });
        }
    }

    fn receive(&mut self, now: Time, from: BrickId, message: Message<K>, out: &mut Out<K>) {
        if self.config.is_none() {
            // What the store has now may be newer than what any message says.
            self.ask_store(now, out);
            return;
        }
        self.adopt(now, message.config, out);
        let epoch = self.config.map_or(0, |config| config.epoch);
        let is_old = message.config.epoch < epoch;
        if is_old && self.keeps(Rule::OldEpochRefused) {
            self.send(from, Payload::Hello { is_answer: true }, out);
            return;
        }
        self.knows_epoch(from, message.config.epoch);
        match message.payload {
            Payload::Append {
                prev,
                records,
                commit,
                beat,
            } => self.append(now, from, prev, records, commit, beat, out),
            Payload::Ack {
                upto,
                session,
                beat,
            } => self.acked(now, from, upto, session, beat, out),
            Payload::Mismatch { last, session } => self.mismatch(now, from, last, session, out),
            Payload::Join {
                session,
                ends,
                commit,
                is_complete,
            } => self.join(now, from, session, &ends, commit, is_complete, out),
            Payload::Welcome {
                session,
                start,
                is_whole,
            } => self.welcomed(now, from, session, start, is_whole, out),
            Payload::Over { session } => {
                let is_it = |learner: &Learner<K>| learner.session == session;
                if matches!(&self.role, Role::Learner(learner) if is_it(learner)) {
                    self.learn(now, out);
                }
            }
            Payload::PageAsk { session, after } => self.page_asked(from, session, after, out),
            Payload::Page {
                session,
                after,
                page,
                upto,
                as_of,
            } => self.page(now, session, (after, page, upto), as_of, out),
            Payload::CopyAsk { session, name } => self.copy_asked(from, session, name, out),
            Payload::Copy {
                session,
                name,
                copy,
                as_of,
            } => self.copy(now, session, name, copy, as_of, out),
            Payload::Done { session } => self.learner_done(from, session),
            Payload::Failed => self.peer_failed(from),
            Payload::Hello { is_answer } => {
                if !is_answer {
                    self.send(from, Payload::Hello { is_answer: true }, out);
                }
                // Begun anew, it may not know what is committed.
                self.send_records(now, from, false, out);
            }
            Payload::MendAsk { name, stamp } => {
                out.push(Action::SendMend {
                    to: from,
                    name,
                    stamp,
                });
            }
            Payload::Mend { name, stamp, copy } => self.mend(name, stamp, copy, out),
        }
    }

    /// Acts by a configuration, where it is newer than the one known.
    fn adopt(&mut self, now: Time, config: GroupConfig, out: &mut Out<K>) {
        self.asked_store = None;
        let old = self.config;
        if old.is_some_and(|old| old.epoch >= config.epoch) {
            return;
        }
        self.config = Some(config);
        self.adopted = now;
        let passed = |proposal: &mut Proposal| proposal.config.epoch <= config.epoch;
        self.proposal.take_if(passed);
        let me = self.life.brick;
        let has_same_maker = old.is_some_and(|old| old.maker == config.maker);
        let is_in = config.in_sync.contains(me) && self.is_complete && !self.is_failed;
        let is_own = config.maker == self.life || !self.keeps(Rule::OwnEpoch);
        if is_in && config.primary == me && is_own {
            if matches!(self.role, Role::Primary(_)) {
                self.reconfigured(now, old, out);
            } else {
                self.lead(now, out);
            }
            return;
        }
        self.step_down(out);
        match &mut self.role {
            Role::Follower(_) | Role::Learner(_) if has_same_maker && !is_in => {
                // A learner goes on; a follower that was taken out becomes one.
                if !matches!(self.role, Role::Learner(_)) {
                    self.learn(now, out);
                }
            }
            Role::Follower(follower) if has_same_maker => follower.heard = now,
            _ if is_in && config.primary == me => self.role = Role::Idle,
            _ if is_in => {
                self.role = Role::Follower(Follower::new(now, self.commit));
                self.send(config.primary, Payload::Hello { is_answer: false }, out);
            }
            _ => self.learn(now, out),
        }
    }

    fn tick(&mut self, now: Time, out: &mut Out<K>) {
        let retry_us = self.terms.retry_us;
        let Some(config) = self.config else {
            self.ask_store(now, out);
            return;
        };
        self.propose_again(now, out);
        if self.is_failed && config.primary != self.life.brick {
            self.send(config.primary, Payload::Failed, out);
        }
        match &self.role {
            Role::Primary(_) => self.lead_on(now, out),
            Role::Follower(_) => self.follow_on(now, out),
            Role::Learner(_) => self.learn_on(now, out),
            Role::Idle => {}
        }
        self.mend_on(now, out);
        // Someone else may have changed what nobody tells a brick that is out.
        if now.0 >= self.adopted.0.saturating_add(retry_us) && !self.is_serving() {
            self.ask_store(now, out);
        }
    }

    /// Asks the store for its configuration, once in a while.
    fn ask_store(&mut self, now: Time, out: &mut Out<K>) {
        let is_due = self
            .asked_store
            .is_none_or(|asked| now.0 >= asked.0 + self.terms.retry_us);
        if is_due {
            self.asked_store = Some(now);
            out.push(Action::ReadConfig);
        }
    }

    /// Writes to the log: drops what is above `keep`, then appends what the log has above it.
    fn persist(&mut self, keep: u64, out: &mut Out<K>) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        for (_, upto) in &mut self.flushes {
            *upto = keep.min(*upto);
        }
        self.durable = self.durable.min(keep);
        self.flushes.push_back((ticket, self.log.last().seq));
        let records = self.log.from(keep + 1, usize::MAX);
        out.push(Action::Persist {
            ticket,
            keep,
            records,
        });
    }

    fn persisted(&mut self, now: Time, ticket: u64, out: &mut Out<K>) {
        while let Some((flushed, upto)) = self.flushes.front().copied() {
            if flushed > ticket {
                break;
            }
            self.flushes.pop_front();
            self.durable = self.durable.max(upto);
        }
        match &self.role {
            Role::Primary(_) => self.advance(now, out),
            Role::Follower(_) => self.acknowledge(None, out),
            Role::Learner(_) => {
                self.acknowledge(None, out);
                self.rebased(now, ticket, out);
            }
            Role::Idle => {}
        }
    }

    /// Up to where the log is durable, or for one rule's sake is said to be.
    fn acknowledgeable(&self) -> u64 {
        if self.keeps(Rule::AckWhenDurable) {
            self.durable
        } else {
            self.log.last().seq
        }
    }

    /// Commits up to `seq`: hands the records over to be applied.
    fn commit_to(&mut self, seq: u64, out: &mut Out<K>) {
        let applied = if self.keeps(Rule::ApplyWhenCommitted) {
            seq
        } else {
            self.log.last().seq
        };
        let records: Vec<Arc<Record<K>>> = self
            .log
            .above(self.commit)
            .take_while(|record| record.at.seq <= applied)
            .cloned()
            .collect();
        self.commit = self.commit.max(seq.min(self.log.last().seq));
        for record in records {
            for effect in &record.effects {
                self.rotten.remove(&effect.name);
            }
            let mut is_partial = false;
            if let Role::Learner(learner) = &mut self.role {
                is_partial = learner.applies(&record) && self.breach.keeps(Rule::DerivedFetched);
            }
            out.push(Action::Apply { record, is_partial });
        }
        if !self.keeps(Rule::TrimWhenDurable) {
            self.trim(out);
        }
    }

    /// The tree is durable up to `seq`; what the log no longer needs is dropped.
    fn checkpointed(&mut self, seq: u64, out: &mut Out<K>) {
        self.checkpoint = self.checkpoint.max(seq.min(self.commit));
        self.trim(out);
    }

    fn trim(&mut self, out: &mut Out<K>) {
        let needed = if self.keeps(Rule::TrimWhenDurable) {
            self.checkpoint
        } else {
            self.commit
        };
        let retained = self.log.light_at_end(self.terms.retained);
        let upto = needed.min(self.log.last().seq.saturating_sub(retained));
        // A learner looks up in its log what copies must not replace.
        if self.is_complete && upto > self.log.base().seq {
            self.log.trim(upto);
            let base = self.log.base();
            out.push(Action::Trim { base });
        }
    }

    /// The brick's own disk is of no use any more. Only a new life helps.
    fn fail(&mut self, now: Time, out: &mut Out<K>) {
        self.is_failed = true;
        let Some(config) = self.config else { return };
        if config.primary == self.life.brick {
            self.abdicate(now, out);
        } else {
            self.send(config.primary, Payload::Failed, out);
        }
    }
}
