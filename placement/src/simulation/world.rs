//! What happens, in order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use super::clients::Client;
use super::disk::{Change, Disk, Simulated, Write};
use super::faults::Fault;
use super::history::{Ask, Name};
use super::outcome::{Figures, Violation};
use super::plan::{Plan, plan};
use super::random::Random;
use crate::layout::BrickId;
use crate::replica::rules::Rule;
use crate::replica::{
    Action, Alarm, BrickSet, Event, GroupConfig, Life, Message, OpId, Position, Replica, Time,
};

/// Names in use: three pairs.
pub const NAMES: Name = 6;
const TICK_US: u64 = 40_000;
/// After this long without faults everything has to be at rest, in µs.
const REST_US: u64 = 30_000_000;

/// A host with its brick.
pub struct Host {
    pub disk: Disk,
    pub replica: Option<Replica<Simulated>>,
    pub life: u64,
    pub paused_until: u64,
    pub wiped: bool,
    /// The clock's rate, in parts of a million, and its offset.
    rate: u64,
    offset: u64,
}

#[derive(Debug, Clone)]
pub enum Occurrence {
    Deliver {
        to: usize,
        from: usize,
        message: Message<Simulated>,
    },
    Tick {
        host: usize,
        life: u64,
    },
    Flushed {
        host: usize,
        life: u64,
        ticket: u64,
    },
    Checkpoint {
        host: usize,
        life: u64,
    },
    Settled {
        host: usize,
        life: u64,
        session: u64,
        seq: u64,
    },
    DiskFailed {
        host: usize,
        life: u64,
    },
    StoreAsked {
        from: usize,
        life: u64,
        next: Option<GroupConfig>,
    },
    StoreSaid {
        to: usize,
        life: u64,
        config: GroupConfig,
    },
    Asked {
        to: usize,
        client: usize,
        op: OpId,
        hops: u8,
    },
    Told {
        client: usize,
        op: OpId,
        said: super::clients::Said,
    },
    Turn {
        client: usize,
    },
    Timeout {
        client: usize,
        op: OpId,
    },
    Trouble,
    Undo(Fault),
}

struct Scheduled {
    at: u64,
    serial: u64,
    what: Occurrence,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

/// Everything there is.
pub struct World {
    pub random: Random,
    pub now: u64,
    pub serial: u64,
    pub plan: Plan,
    pub hosts: Vec<Host>,
    pub config: GroupConfig,
    pub wanted: BrickSet,
    pub is_cut: Vec<Vec<bool>>,
    pub is_store_cut: Vec<bool>,
    /// Hosts that the store hears and that do not hear it.
    pub is_store_mute: Vec<bool>,
    pub last_host: usize,
    /// Until then clients ask without a pause, and all of the same names.
    pub rush_until: u64,
    pub is_healing: bool,
    pub clients: Vec<Client>,
    pub asks: HashMap<OpId, (usize, Ask)>,
    pub figures: Figures,
    pub broken: Option<Rule>,
    pub violation: Option<Violation>,
    /// Where to tell of everything that happens.
    pub trace: Option<fn(String)>,
    queue: BinaryHeap<Reverse<Scheduled>>,
    inbox: VecDeque<(usize, Event<Simulated>)>,
    actions: Vec<Action<Simulated>>,
    pub committed: HashMap<u64, Position>,
}

impl World {
    pub fn new(seed: u64, broken: Option<Rule>) -> Self {
        let mut random = Random::new(seed);
        let plan = plan(&mut random);
        let bricks: Vec<BrickId> = (0..plan.bricks as u32).map(BrickId).collect();
        let all = BrickSet::of(&bricks);
        let config = GroupConfig {
            epoch: 1,
            primary: BrickId(0),
            in_sync: all,
            maker: Life::default(),
        };
        let count = plan.bricks;
        let mut world = Self {
            now: 0,
            serial: 0,
            hosts: Vec::new(),
            config,
            wanted: all,
            is_cut: vec![vec![false; count]; count],
            is_store_cut: vec![false; count],
            is_store_mute: vec![false; count],
            last_host: 0,
            rush_until: 0,
            is_healing: false,
            clients: Vec::new(),
            asks: HashMap::new(),
            figures: Figures::default(),
            broken,
            violation: None,
            trace: None,
            queue: BinaryHeap::new(),
            inbox: VecDeque::new(),
            actions: Vec::new(),
            committed: HashMap::new(),
            random,
            plan,
        };
        for host in 0..count {
            let rates = [950_000, world.random.within(950_000, 1_050_000), 1_050_000];
            let rate = world.random.pick(&rates).unwrap_or(1_000_000);
            let offset = world.random.below(1 << 40);
            world.hosts.push(Host {
                disk: Disk::new(true),
                replica: None,
                life: 0,
                paused_until: 0,
                wiped: false,
                rate: if world.plan.is_local { 1_000_000 } else { rate },
                offset: if world.plan.is_local { 0 } else { offset },
            });
            world.start(host);
        }
        for client in 0..4 {
            world.clients.push(Client::new(client));
            let delay = world.random.below(world.plan.trouble_us / 2);
            world.schedule(delay, Occurrence::Turn { client });
        }
        world.schedule(300_000, Occurrence::Trouble);
        world
    }

    /// Runs to the end.
    pub fn run(mut self) -> Result<Figures, Violation> {
        self.run_until(self.plan.trouble_us, |_| false)?;
        self.end_trouble();
        let rest = self.now + REST_US;
        self.run_until(rest, Self::is_at_rest)?;
        if self.has_lost_to_rot() {
            // All copies in reach rotted or went: more went wrong than copies are kept for.
            self.figures.rotted += 1;
            return Ok(self.figures);
        }
        if !self.is_at_rest() {
            return Err(Violation::NoRest(self.describe()));
        }
        self.compare_copies()?;
        self.read_all();
        self.check_histories()?;
        Ok(self.figures)
    }

    fn run_until(&mut self, end: u64, is_done: fn(&Self) -> bool) -> Result<(), Violation> {
        let mut looked = self.now;
        while let Some(Reverse(next)) = self.queue.pop() {
            if next.at > end {
                self.queue.push(Reverse(next));
                break;
            }
            self.now = next.at;
            self.figures.events += 1;
            self.happen(next.what);
            self.drain();
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
            if self.now > looked + 100_000 {
                looked = self.now;
                if is_done(self) {
                    break;
                }
            }
        }
        Ok(())
    }

    pub fn schedule(&mut self, delay: u64, what: Occurrence) {
        self.serial += 1;
        let at = self.now + delay;
        let serial = self.serial;
        self.queue.push(Reverse(Scheduled { at, serial, what }));
    }

    /// Forgets changes that have not reached the store and would leave a brick alone in sync.
    pub fn forget_proposals(&mut self, brick: BrickId) {
        let queue = std::mem::take(&mut self.queue);
        let is_kept = |Reverse(scheduled): &Reverse<Scheduled>| match &scheduled.what {
            Occurrence::StoreAsked {
                next: Some(next), ..
            } => !next.in_sync.without(brick).is_empty(),
            _ => true,
        };
        self.queue = queue.into_iter().filter(is_kept).collect();
    }

    pub fn loses(&mut self) -> bool {
        !self.is_healing && self.random.is_one_of(self.plan.loses)
    }

    /// How long something takes on the network, in µs.
    pub fn delay(&mut self) -> u64 {
        if !self.is_healing && self.random.is_one_of(self.plan.slow) {
            return self.random.within(20_000, 1_500_000);
        }
        self.random.within(200, 8_000)
    }

    pub fn time(&self, host: usize) -> Time {
        let host = &self.hosts[host];
        Time(host.offset + (u128::from(self.now) * u128::from(host.rate) / 1_000_000) as u64)
    }

    /// Begins a life of a host's replica.
    pub fn start(&mut self, host: usize) {
        let now = self.time(host);
        let found = &mut self.hosts[host];
        found.life += 1;
        found.paused_until = 0;
        let life = Life {
            brick: BrickId(host as u32),
            number: found.life,
        };
        let stored = found.disk.stored();
        let replica = Replica::start(now, life, self.plan.terms, stored).breaking(self.broken);
        found.replica = Some(replica);
        let life = found.life;
        self.inbox.push_back((host, Event::Wanted(self.wanted)));
        self.inbox.push_back((host, Event::Tick));
        let delay = self.random.below(TICK_US);
        self.schedule(delay, Occurrence::Tick { host, life });
        self.schedule(delay * 5, Occurrence::Checkpoint { host, life });
    }

    /// Ends a life.
    pub fn stop(&mut self, host: usize) {
        let found = &mut self.hosts[host];
        found.replica = None;
        found.life += 1;
        found.disk.crash(&mut self.random);
        self.inbox.retain(|(to, _)| *to != host);
    }

    pub fn tell(&mut self, host: usize, event: Event<Simulated>) {
        self.inbox.push_back((host, event));
    }

    /// Lets replicas take in what they were told, and does what they say.
    fn drain(&mut self) {
        while let Some((host, event)) = self.inbox.pop_front() {
            let now = self.time(host);
            let Some(replica) = &mut self.hosts[host].replica else {
                continue;
            };
            let mut actions = std::mem::take(&mut self.actions);
            if let Some(trace) = self.trace {
                trace(format!("{} brick {host} <- {event:?}", self.now));
            }
            replica.step(now, event, &mut actions);
            if let Some(trace) = self.trace {
                for action in &actions {
                    trace(format!("{} brick {host} -> {action:?}", self.now));
                }
            }
            for action in actions.drain(..) {
                self.act(host, action);
            }
            self.actions = actions;
        }
    }

    fn act(&mut self, host: usize, action: Action<Simulated>) {
        let life = self.hosts[host].life;
        match action {
            Action::Send { to, message } => self.send(host, to.0 as usize, message),
            Action::Persist {
                ticket,
                keep,
                records,
            } => {
                self.flush(
                    host,
                    ticket,
                    Write::Log {
                        ticket,
                        keep,
                        records,
                    },
                );
            }
            Action::Rebase { ticket, base } => {
                self.figures.walks += 1;
                self.flush(host, ticket, Write::Rebase { ticket, base });
            }
            Action::Apply { record, is_partial } => {
                let at = record.at;
                let known = *self.committed.entry(at.seq).or_insert(at);
                if known != at {
                    self.violation = Some(Violation::Forked { seq: at.seq });
                }
                self.hosts[host].disk.apply(&record, is_partial);
            }
            Action::Trim { base } => self.hosts[host].disk.trim(base),
            Action::Decide { op, body } => {
                if let Change::Asked(ask) = body {
                    let verdict = self.decide(host, ask);
                    self.tell(host, Event::Decided { op, verdict });
                }
            }
            Action::Answer { op, outcome } => self.answer(op, outcome),
            Action::Cas { next } => self.ask_store(host, Some(next)),
            Action::ReadConfig => self.ask_store(host, None),
            Action::SendPage { .. } | Action::SendCopy { .. } | Action::SendMend { .. } => {
                self.send_files(host, action)
            }
            Action::Compare {
                session,
                page,
                keep,
            } => {
                let removes = self.broken != Some(Rule::ExtraNamesRemoved);
                let wants = self.hosts[host].disk.compare(&page, &keep, removes);
                self.tell(host, Event::Compared { session, wants });
            }
            Action::Replace { name, copy } => {
                self.figures.copies += 1;
                self.hosts[host].disk.replace(name, copy);
            }
            Action::Settle { session, seq } => {
                let delay = self.random.within(100, 20_000);
                let settled = Occurrence::Settled {
                    host,
                    life,
                    session,
                    seq,
                };
                self.schedule(delay, settled);
            }
            Action::Mend { name, copy, .. } => {
                self.figures.mended += 1;
                self.hosts[host].disk.replace(name, Some(copy));
            }
            Action::Serving { .. } => self.serving(host),
            // The disk comes back.
            Action::Alarm(Alarm::LastCopyFailing) => {}
            Action::Alarm(alarm) => self.violation = Some(Violation::Alarmed(alarm)),
        }
    }

    fn flush(&mut self, host: usize, ticket: u64, write: Write) {
        let life = self.hosts[host].life;
        self.hosts[host].disk.write(write);
        if self.hosts[host].disk.is_failing {
            self.schedule(100, Occurrence::DiskFailed { host, life });
            return;
        }
        let slow = self.random.is_one_of(20);
        let delay = self.random.within(50, if slow { 60_000 } else { 3_000 });
        self.schedule(delay, Occurrence::Flushed { host, life, ticket });
    }

    pub fn send(&mut self, from: usize, to: usize, message: Message<Simulated>) {
        if self.plan.is_local {
            let from = BrickId(from as u32);
            self.tell(to, Event::Received { from, message });
            return;
        }
        if self.is_cut[from][to] || self.loses() {
            return;
        }
        if self.random.is_one_of(self.plan.doubles) {
            let delay = self.delay();
            let message = message.clone();
            self.schedule(delay, Occurrence::Deliver { to, from, message });
        }
        let delay = self.delay();
        self.schedule(delay, Occurrence::Deliver { to, from, message });
    }

    fn happen(&mut self, what: Occurrence) {
        // What befalls a host that is stopped waits until it goes on.
        if let Some(host) = what.host() {
            let until = self.hosts[host].paused_until;
            if until > self.now {
                self.schedule(until - self.now, what);
                return;
            }
        }
        if let Some((host, life)) = what.life()
            && self.hosts[host].life != life
        {
            return;
        }
        match what {
            Occurrence::Deliver { to, from, message } => {
                let from = BrickId(from as u32);
                self.tell(to, Event::Received { from, message });
            }
            Occurrence::Tick { host, life } => {
                self.tell(host, Event::Tick);
                self.schedule(TICK_US, Occurrence::Tick { host, life });
            }
            Occurrence::Flushed { host, ticket, .. } => {
                self.hosts[host].disk.sync_log(ticket);
                self.tell(host, Event::Persisted { ticket });
            }
            Occurrence::Checkpoint { host, life } => {
                let found = &mut self.hosts[host];
                let is_able = !found.disk.is_failing && !found.disk.is_rebasing();
                if let Some(replica) = found.replica.as_ref().filter(|_| is_able) {
                    let seq = replica.progress().0;
                    found.disk.sync_tree(seq, false);
                    self.tell(host, Event::Checkpointed { seq });
                }
                if self.is_healing || self.random.is_one_of(100) {
                    self.scrub(host);
                }
                let delay = self.random.within(50_000, 600_000);
                self.schedule(delay, Occurrence::Checkpoint { host, life });
            }
            Occurrence::Settled {
                host, session, seq, ..
            } => {
                if !self.hosts[host].disk.is_failing {
                    self.hosts[host].disk.sync_tree(seq, true);
                    self.tell(host, Event::Settled { session });
                }
            }
            Occurrence::DiskFailed { host, .. } => self.disk_failed(host),
            Occurrence::StoreAsked { from, life, next } => self.store_asked(from, life, next),
            Occurrence::StoreSaid { to, config, .. } => self.tell(to, Event::Configured(config)),
            Occurrence::Asked {
                to,
                client,
                op,
                hops,
            } => self.asked(to, client, op, hops),
            Occurrence::Told { client, op, said } => self.told(client, op, said),
            Occurrence::Turn { client } => self.turn(client),
            Occurrence::Timeout { client, op } => self.timeout(client, op),
            Occurrence::Trouble => self.trouble(),
            Occurrence::Undo(fault) => self.undo(fault),
        }
    }
}

impl Occurrence {
    /// The host that it befalls, while it runs.
    fn host(&self) -> Option<usize> {
        match self {
            Self::Deliver { to, .. } | Self::StoreSaid { to, .. } | Self::Asked { to, .. } => {
                Some(*to)
            }
            Self::Tick { host, .. }
            | Self::Flushed { host, .. }
            | Self::Checkpoint { host, .. }
            | Self::Settled { host, .. }
            | Self::DiskFailed { host, .. } => Some(*host),
            _ => None,
        }
    }

    /// The life that it belongs to.
    fn life(&self) -> Option<(usize, u64)> {
        match self {
            Self::Tick { host, life }
            | Self::Flushed { host, life, .. }
            | Self::Checkpoint { host, life }
            | Self::Settled { host, life, .. }
            | Self::DiskFailed { host, life } => Some((*host, *life)),
            Self::StoreSaid { to, life, .. } => Some((*to, *life)),
            _ => None,
        }
    }
}
