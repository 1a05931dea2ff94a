//! Requests at the primary: one change of a name at a time, in the order they came.

use std::collections::{HashMap, VecDeque};

use super::log::{Position, Record};
use super::rules::Rule;
use super::{Action, Effect, Kinds, OpId, Out, Outcome, Replica, Role, Time, Verdict};
use crate::layout::BrickId;

/// Requests not answered yet.
#[derive(Debug)]
pub struct Ops<K: Kinds> {
    ops: HashMap<OpId, Op<K>>,
    /// Who has, and who waits for, each name. A request stands in the queues of all its names from
    /// the start, and goes on when it is at the head of all: so two never wait for each other.
    queues: HashMap<K::Name, VecDeque<OpId>>,
}

#[derive(Debug)]
struct Op<K: Kinds> {
    names: Vec<K::Name>,
    state: State<K>,
}

#[derive(Debug)]
enum State<K: Kinds> {
    Waiting(K::Body),
    Deciding,
    Logged,
}

impl<K: Kinds> Default for Ops<K> {
    fn default() -> Self {
        Self {
            ops: HashMap::new(),
            queues: HashMap::new(),
        }
    }
}

impl<K: Kinds> Ops<K> {
    fn is_first(&self, op: OpId) -> bool {
        let is_head = |name: &K::Name| {
            let queue = self.queues.get(name);
            queue
                .and_then(VecDeque::front)
                .is_none_or(|first| *first == op)
        };
        self.ops[&op].names.iter().all(is_head)
    }

    /// Begins a request if it is its turn.
    fn begin(&mut self, op: OpId, out: &mut Out<K>) {
        if !self.is_first(op) {
            return;
        }
        if let Some(found) = self.ops.get_mut(&op) {
            match std::mem::replace(&mut found.state, State::Deciding) {
                State::Waiting(body) => out.push(Action::Decide { op, body }),
                other => found.state = other,
            }
        }
    }

    /// Ends a request; whoever waited for its names goes on.
    fn end(&mut self, op: OpId, out: &mut Out<K>) {
        let Some(ended) = self.ops.remove(&op) else {
            return;
        };
        let mut next = Vec::new();
        for name in ended.names {
            if let Some(queue) = self.queues.get_mut(&name) {
                queue.retain(|other| *other != op);
                match queue.front() {
                    Some(first) => next.push(*first),
                    None => drop(self.queues.remove(&name)),
                }
            }
        }
        for op in next {
            self.begin(op, out);
        }
    }

    /// Answers everyone: nothing more is done here.
    pub fn give_up(&mut self, primary: Option<BrickId>, out: &mut Out<K>) {
        let mut ops: Vec<(OpId, Op<K>)> = self.ops.drain().collect();
        ops.sort_unstable_by_key(|(op, _)| *op);
        self.queues.clear();
        for (op, found) in ops {
            let outcome = match found.state {
                State::Logged => Outcome::Unknown,
                _ => Outcome::NotPrimary { primary },
            };
            out.push(Action::Answer { op, outcome });
        }
    }
}

impl<K: Kinds> Replica<K> {
    pub(super) fn request(
        &mut self,
        op: OpId,
        names: Vec<K::Name>,
        body: K::Body,
        out: &mut Out<K>,
    ) {
        if let Some(outcome) = self.refusal() {
            out.push(Action::Answer { op, outcome });
            return;
        }
        let keeps_order = self.keeps(Rule::OneChangeOfAName);
        let Role::Primary(primary) = &mut self.role else {
            return;
        };
        for name in names.iter().filter(|_| keeps_order) {
            let queue = primary.ops.queues.entry(name.clone()).or_default();
            // A name named twice is waited for once.
            if queue.back() != Some(&op) {
                queue.push_back(op);
            }
        }
        let state = State::Waiting(body);
        primary.ops.ops.insert(op, Op { names, state });
        primary.ops.begin(op, out);
    }

    /// Why no request can be taken now.
    fn refusal(&self) -> Option<Outcome> {
        let Some(config) = self.config.filter(|_| self.is_serving()) else {
            let other = self.config.map(|config| config.primary);
            let primary = other.filter(|primary| *primary != self.life.brick);
            return Some(Outcome::NotPrimary { primary });
        };
        let proposed = self
            .proposal
            .as_ref()
            .map(|proposal| proposal.config.in_sync);
        let in_sync = config
            .in_sync
            .len()
            .min(proposed.map_or(usize::MAX, |set| set.len()));
        let is_short = in_sync < self.terms.min_in_sync && self.keeps(Rule::MinInSync);
        is_short.then_some(Outcome::TooFew { in_sync })
    }

    pub(super) fn decided(&mut self, now: Time, op: OpId, verdict: Verdict<K>, out: &mut Out<K>) {
        let refusal = self.refusal();
        let Role::Primary(primary) = &self.role else {
            return;
        };
        let is_open = |found: &Op<K>| matches!(found.state, State::Deciding);
        if !primary.ops.ops.get(&op).is_some_and(is_open) {
            return;
        }
        match (refusal, verdict) {
            (Some(outcome), _) => {
                out.push(Action::Answer { op, outcome });
                self.finish(op, out);
            }
            (None, Verdict::Write { effects, body }) => self.write(now, op, effects, body, out),
            (None, Verdict::Refuse) => {
                // A refusal tells what stands there: it is a read.
                let outcome = if self.holds_lease(now, primary) {
                    Outcome::Refused
                } else {
                    Outcome::NotPrimary { primary: None }
                };
                out.push(Action::Answer { op, outcome });
                self.finish(op, out);
            }
        }
    }

    fn write(
        &mut self,
        now: Time,
        op: OpId,
        effects: Vec<Effect<K::Name>>,
        body: K::Body,
        out: &mut Out<K>,
    ) {
        let (Some(config), Role::Primary(primary)) = (self.config, &mut self.role) else {
            return;
        };
        if let Some(found) = primary.ops.ops.get_mut(&op) {
            found.state = State::Logged;
        }
        let at = Position {
            epoch: config.epoch,
            seq: self.log.last().seq + 1,
        };
        self.log_record(
            now,
            Record {
                at,
                op,
                effects,
                body: Some(body),
            },
            out,
        );
    }

    /// A request was answered.
    pub(super) fn finish(&mut self, op: OpId, out: &mut Out<K>) {
        if let Role::Primary(primary) = &mut self.role {
            primary.ops.end(op, out);
        }
    }
}
