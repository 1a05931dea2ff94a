//! Clients: each asks one thing at a time, of any brick, and notes what it was told.

use super::disk::{Change, Simulated};
use super::history::{Ask, Entry, MAX_ENTRIES, Name, Told, Value};
use super::outcome::Violation;
use super::world::{NAMES, Occurrence, World};
use crate::layout::BrickId;
use crate::replica::{Action, Effect, Event, Message, OpId, Outcome, Payload, Read, Verdict};

/// How long a client waits, in µs.
const TIMEOUT_US: u64 = 1_200_000;
/// Requests of a client in one rush, unless it asks anyhow.
const MAX_RUSH: usize = 8;
/// Requests of a client in all.
const MAX_ASKS: usize = 30;

/// A client.
#[derive(Debug)]
pub struct Client {
    number: usize,
    entries: Vec<Entry>,
    asking: Option<Asking>,
    believed: usize,
    /// Requests since the rush began.
    rushed: usize,
    known: [Option<Value>; NAMES as usize],
}

#[derive(Debug)]
struct Asking {
    op: OpId,
    ask: Ask,
    asked: u64,
    /// On one host: the primary gave up, and another will answer or begin to serve.
    is_orphan: bool,
}

/// What comes back.
#[derive(Debug, Clone, Copy)]
pub enum Said {
    Read(Option<Value>),
    Outcome(Outcome),
    /// Could not be read here.
    NotHere,
}

impl Client {
    pub fn new(number: usize) -> Self {
        Self {
            number,
            entries: Vec::new(),
            asking: None,
            believed: 0,
            rushed: 0,
            known: [None; NAMES as usize],
        }
    }

    pub fn is_idle(&self) -> bool {
        self.asking.is_none()
    }
}

impl World {
    /// A client asks something new.
    pub(super) fn turn(&mut self, client: usize) {
        let is_over = self.now >= self.rush_until || self.clients[client].rushed >= MAX_RUSH;
        let waits = client >= self.plan.steady && is_over;
        if self.is_healing
            || waits
            || self.clients[client].entries.len() >= MAX_ASKS
            || self.clients[client].asking.is_some()
        {
            return;
        }
        self.clients[client].rushed += 1;
        let ask = self.choose(client);
        self.serial += 1;
        let asked = self.serial;
        self.clients[client].asking = Some(Asking {
            op: OpId(0),
            ask,
            asked,
            is_orphan: false,
        });
        self.send_ask(client);
    }

    /// All clients ask now.
    pub(super) fn rush(&mut self) {
        self.rush_until = self.now + 500_000;
        for client in 0..self.clients.len() {
            self.clients[client].believed = self.config.primary.0 as usize;
            self.clients[client].rushed = 0;
            let delay = self.random.below(20_000);
            self.schedule(delay, Occurrence::Turn { client });
        }
    }

    fn choose(&mut self, client: usize) -> Ask {
        // Few names at a time, so that requests meet.
        let names = u64::from(if self.now < self.rush_until { 2 } else { NAMES });
        let name = (self.random.below(names) & self.random.below(names)) as Name;
        let value = self.random.next() >> 8;
        let known = self.clients[client].known[usize::from(name)];
        match self.random.below(12) {
            0..=4 => Ask::Read(name),
            5 | 6 => Ask::Put(name, value),
            7 => Ask::PutIf(name, None, value),
            8 => Ask::PutIf(name, known, value),
            9 => Ask::Remove(name),
            10 => Ask::Move(name, name ^ 1),
            _ => Ask::Extend(name, value),
        }
    }

    fn send_ask(&mut self, client: usize) {
        self.serial += 1;
        let op = OpId(self.serial);
        let count = self.hosts.len() as u64;
        let found = &mut self.clients[client];
        let Some(asking) = &mut found.asking else {
            return;
        };
        asking.op = op;
        asking.is_orphan = false;
        let is_read = matches!(asking.ask, Ask::Read(_));
        let believed = found.believed;
        let ask = asking.ask;
        self.asks.insert(op, (client, ask));
        let to = if is_read {
            self.random.below(count) as usize
        } else {
            believed
        };
        self.carry_ask(to, client, op, 0);
        let timeout = if self.plan.is_local {
            TIMEOUT_US * 4
        } else {
            TIMEOUT_US
        };
        self.schedule(timeout, Occurrence::Timeout { client, op });
    }

    fn current(&mut self, client: usize, op: OpId) -> Option<&mut Asking> {
        let asking = self.clients[client].asking.as_mut();
        asking.filter(|asking| asking.op == op)
    }

    /// A request is on its way to a brick.
    fn carry_ask(&mut self, to: usize, client: usize, op: OpId, hops: u8) {
        let delay = if self.plan.is_local { 0 } else { self.delay() };
        self.schedule(
            delay,
            Occurrence::Asked {
                to,
                client,
                op,
                hops,
            },
        );
    }

    /// A request reaches a brick.
    pub(super) fn asked(&mut self, to: usize, client: usize, op: OpId, hops: u8) {
        if self.hosts[to].replica.is_none() {
            if self.plan.is_local {
                self.say(client, op, Said::NotHere);
            }
            return;
        }
        let Some(ask) = self.current(client, op).map(|asking| asking.ask) else {
            return;
        };
        let Ask::Read(name) = ask else {
            let mut names = vec![ask.name()];
            if let Ask::Move(_, to) = ask {
                names.push(to);
            }
            let body = Change::Asked(ask);
            self.tell(to, Event::Request { op, names, body });
            return;
        };
        let now = self.time(to);
        let host = &self.hosts[to];
        let Some(replica) = &host.replica else { return };
        match replica.may_read(now, &name) {
            Read::Here => match host.disk.tree.get(&name).copied() {
                Some(file) if file.is_rotten => {
                    let stamp = file.stamp;
                    self.tell(to, Event::Rotten { name, stamp });
                    self.say(client, op, Said::NotHere);
                }
                file => self.say(client, op, Said::Read(file.map(|file| file.value))),
            },
            Read::Ask(other) if hops < 3 => {
                self.carry_ask(other.0 as usize, client, op, hops + 1);
            }
            _ => self.say(client, op, Said::NotHere),
        }
    }

    fn say(&mut self, client: usize, op: OpId, said: Said) {
        if !self.plan.is_local && self.loses() {
            return;
        }
        if self.plan.is_local {
            self.told(client, op, said);
            return;
        }
        let delay = self.delay();
        self.schedule(delay, Occurrence::Told { client, op, said });
    }

    /// A replica answers a request.
    pub(super) fn answer(&mut self, op: OpId, outcome: Outcome) {
        if let Outcome::Done { at } = outcome {
            let has = |host: &&super::world::Host| host.wiped || host.disk.has(at);
            let copies = self.hosts.iter().filter(has).count();
            if copies < self.plan.terms.min_in_sync {
                let seq = at.seq;
                self.violation = Some(Violation::TooFewCopies { seq, copies });
            }
        }
        if let Some((client, ask)) = self.asks.get(&op).copied() {
            if let Outcome::Done { at } = outcome {
                self.check_readers(ask, at);
            }
            self.say(client, op, Said::Outcome(outcome));
        }
    }

    /// A client hears.
    pub(super) fn told(&mut self, client: usize, op: OpId, said: Said) {
        let count = self.hosts.len() as u64;
        let is_local = self.plan.is_local;
        // In a rush clients have heard who is to be primary.
        let other = if self.now < self.rush_until {
            self.config.primary.0 as usize
        } else {
            self.random.below(count) as usize
        };
        let Some(asking) = self.current(client, op) else {
            return;
        };
        let ask = asking.ask;
        match said {
            Said::Read(value) => {
                if let Ask::Read(name) = ask {
                    self.clients[client].known[usize::from(name)] = value;
                }
                self.done(client, Told::Found(value));
            }
            Said::Outcome(Outcome::Done { .. }) => self.done(client, Told::Done),
            Said::Outcome(Outcome::Refused) => self.done(client, Told::Refused),
            Said::Outcome(Outcome::Short { .. }) => self.done(client, Told::Nothing),
            Said::Outcome(Outcome::Unknown) if is_local => asking.is_orphan = true,
            Said::Outcome(Outcome::Unknown) => self.done(client, Told::Nothing),
            Said::Outcome(Outcome::NotPrimary { primary }) => {
                let hint = primary.filter(|_| self.now >= self.rush_until);
                let next = hint.map_or(other, |brick| brick.0 as usize);
                self.clients[client].believed = next;
                self.not_done(client);
            }
            Said::Outcome(Outcome::TooFew { .. }) | Said::NotHere => {
                self.clients[client].believed = other;
                self.not_done(client);
            }
        }
    }

    /// Nothing was done: the client asks something else, or the same again.
    fn not_done(&mut self, client: usize) {
        let is_over = self.is_healing || self.random.is_one_of(300);
        if is_over {
            self.clients[client].asking = None;
            self.rest(client);
        } else {
            self.send_ask(client);
        }
    }

    fn done(&mut self, client: usize, told: Told) {
        self.serial += 1;
        let answered = if told == Told::Nothing {
            self.figures.unknown += 1;
            u64::MAX
        } else {
            self.figures.answered += 1;
            self.serial
        };
        let found = &mut self.clients[client];
        if let Some(asking) = found.asking.take() {
            let is_plain_loss = told == Told::Nothing && matches!(asking.ask, Ask::Read(_));
            if !is_plain_loss {
                found.entries.push(Entry {
                    ask: asking.ask,
                    asked: asking.asked,
                    told,
                    answered,
                });
            }
        }
        self.rest(client);
    }

    fn rest(&mut self, client: usize) {
        let is_rush = self.now < self.rush_until;
        let most = if is_rush { 6_000 } else { self.plan.think_us };
        let delay = self.random.within(500, most);
        self.schedule(delay, Occurrence::Turn { client });
    }

    pub(super) fn timeout(&mut self, client: usize, op: OpId) {
        if self.current(client, op).is_some() {
            let count = self.hosts.len() as u64;
            self.clients[client].believed = self.random.below(count) as usize;
            self.done(client, Told::Nothing);
        }
    }

    /// A primary begins to serve. On one host: what an earlier one gave up, and this one did not
    /// answer, is asked again as if it had never been.
    pub(super) fn serving(&mut self, host: usize) {
        if !self.plan.is_local {
            return;
        }
        let mut orphans = Vec::new();
        for client in &mut self.clients {
            client.believed = host;
            if client
                .asking
                .as_ref()
                .is_some_and(|asking| asking.is_orphan)
            {
                orphans.push(client.number);
            }
        }
        for client in orphans {
            self.send_ask(client);
        }
    }

    /// What becomes of a request, by what stands on the brick.
    pub(super) fn decide(&mut self, host: usize, ask: Ask) -> Verdict<Simulated> {
        let tree = &self.hosts[host].disk.tree;
        let found = |name: Name| tree.get(&name).map(|file| file.value);
        let effect = |name: Name, is_derived: bool| Effect { name, is_derived };
        let (effects, body) = match ask {
            Ask::Put(name, value) => (vec![effect(name, false)], Change::Put(name, value)),
            Ask::PutIf(name, expected, value) if found(name) == expected => {
                (vec![effect(name, false)], Change::Put(name, value))
            }
            Ask::Remove(name) if found(name).is_some() => {
                (vec![effect(name, false)], Change::Remove(name))
            }
            Ask::Move(from, to) if found(from).is_some() => (
                vec![effect(from, false), effect(to, true)],
                Change::Move(from, to),
            ),
            Ask::Extend(name, by) if found(name).is_some() => {
                (vec![effect(name, true)], Change::Extend(name, by))
            }
            _ => return Verdict::Refuse,
        };
        Verdict::Write { effects, body }
    }

    /// Reads files for another brick.
    pub(super) fn send_files(&mut self, host: usize, action: Action<Simulated>) {
        let disk = &self.hosts[host].disk;
        let mut rotten = None;
        let (to, payload) = match action {
            Action::SendPage {
                to,
                session,
                after,
                as_of,
            } => {
                let page = disk.page(after, 2);
                let upto = page.upto;
                let payload = Payload::Page {
                    session,
                    after,
                    page,
                    upto,
                    as_of,
                };
                (to, Some(payload))
            }
            Action::SendCopy {
                to,
                session,
                name,
                as_of,
            } => {
                let copy = disk.tree.get(&name).copied();
                rotten = copy
                    .filter(|file| file.is_rotten)
                    .map(|file| (name, file.stamp));
                let payload = Payload::Copy {
                    session,
                    name,
                    copy,
                    as_of,
                };
                (to, Some(payload))
            }
            Action::SendMend { to, name, stamp } => {
                let copy = disk.tree.get(&name).copied();
                let copy = copy.filter(|file| file.stamp == stamp && !file.is_rotten);
                (to, copy.map(|copy| Payload::Mend { name, stamp, copy }))
            }
            _ => return,
        };
        if let Some((name, stamp)) = rotten {
            self.tell(host, Event::Rotten { name, stamp });
            return;
        }
        let config = self.hosts[host]
            .replica
            .as_ref()
            .and_then(|replica| replica.config().copied());
        if let (Some(config), Some(payload)) = (config, payload) {
            self.send(host, to.0 as usize, Message { config, payload });
        }
    }

    /// At the end: what stands on the primary is read as by a client.
    pub(super) fn read_all(&mut self) {
        let primary = self.config.primary.0 as usize;
        for name in 0..NAMES {
            let found = self.hosts[primary]
                .disk
                .tree
                .get(&name)
                .map(|file| file.value);
            self.serial += 2;
            let entry = Entry {
                ask: Ask::Read(name),
                asked: self.serial - 1,
                told: Told::Found(found),
                answered: self.serial,
            };
            self.clients[0].entries.push(entry);
        }
    }

    /// What was asked of a pair of names, in the order of asking.
    pub(super) fn entries(&self, pair: usize) -> Vec<Entry> {
        let all = self.clients.iter().flat_map(|client| client.entries.iter());
        let mut entries: Vec<Entry> = all
            .filter(|entry| entry.ask.pair() == pair)
            .copied()
            .collect();
        // A client that still waits may have changed something.
        for client in &self.clients {
            if let Some(asking) = client
                .asking
                .as_ref()
                .filter(|asking| asking.ask.pair() == pair)
            {
                entries.push(Entry {
                    ask: asking.ask,
                    asked: asking.asked,
                    told: Told::Nothing,
                    answered: u64::MAX,
                });
            }
        }
        entries.sort_unstable_by_key(|entry| entry.asked);
        assert!(entries.len() <= MAX_ENTRIES, "a history too long to check");
        entries
    }

    /// The brick that a number names.
    pub(super) fn brick(host: usize) -> BrickId {
        BrickId(host as u32)
    }
}
