//! In sync, and not the primary.

use std::sync::Arc;

use super::action::is_past;
use super::learner::Learner;
use super::log::{Position, Record};
use super::message::{Beat, BeatAck, Payload};
use super::rules::Rule;
use super::{Action, Alarm, Kinds, Out, Replica, Role, Time};
use crate::layout::BrickId;

/// What a follower remembers of its primary.
#[derive(Debug)]
pub struct Follower {
    /// Up to here its log is known to be the primary's.
    pub matched: u64,
    /// Until when it may read.
    lease_until: Time,
    /// When it last heard of the primary.
    pub heard: Time,
    /// The primary is known to be of no use, in a group without leases.
    pub is_orphan: bool,
}

impl Follower {
    pub fn new(now: Time, commit: u64) -> Self {
        Self {
            matched: commit,
            lease_until: Time(0),
            heard: now,
            is_orphan: false,
        }
    }
}

impl<K: Kinds> Replica<K> {
    pub(super) fn follower_may_read(&self, now: Time, follower: &Follower, name: &K::Name) -> bool {
        let has_lease = self.terms.leases.is_none()
            || now < follower.lease_until
            || !self.keeps(Rule::FollowerReadsByLease);
        let is_open = self.keeps(Rule::UncommittedAsksPrimary)
            && self
                .log
                .above(self.commit)
                .any(|record| record.touches(name));
        has_lease && !is_open
    }

    /// Records from the primary.
    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn append(
        &mut self,
        now: Time,
        from: BrickId,
        prev: Position,
        records: Vec<Arc<Record<K>>>,
        commit: u64,
        beat: Option<Beat>,
        out: &mut Out<K>,
    ) {
        let is_primary = self.config.is_some_and(|config| config.primary == from);
        let may_be_old = !self.keeps(Rule::OldEpochRefused);
        let is_attached = match &mut self.role {
            Role::Follower(follower) if is_primary || may_be_old => {
                follower.heard = now;
                true
            }
            Role::Learner(learner) if is_primary => learner.hears(now),
            _ => false,
        };
        if !is_attached || self.is_failed {
            return;
        }
        if !self.follows(prev) {
            let last = self
                .log
                .last()
                .seq
                .min(prev.seq.saturating_sub(1))
                .max(self.commit);
            let session = self.session();
            self.send(from, Payload::Mismatch { last, session }, out);
            // A beat is a beat, whatever the log: the leases do not depend on it.
            self.acknowledge(beat.map(|beat| (now, beat)), out);
            return;
        }
        let Some(matched) = self.take_in(prev, records, out) else {
            return;
        };
        self.matched_to(matched);
        let upto = commit.min(self.matched());
        if upto > self.commit {
            self.commit_to(upto, out);
        }
        self.learner_caught_up(out);
        self.acknowledge(beat.map(|beat| (now, beat)), out);
    }

    /// True where the log has `prev`, or has committed and dropped it.
    fn follows(&self, prev: Position) -> bool {
        if !self.keeps(Rule::PrevMatches) {
            return prev.seq <= self.log.last().seq;
        }
        prev.seq < self.log.base().seq || self.log.position(prev.seq) == Some(prev)
    }

    /// Takes records into the log; says up to where it is the primary's now, or nothing where the
    /// primary lacks what is committed here.
    fn take_in(
        &mut self,
        prev: Position,
        records: Vec<Arc<Record<K>>>,
        out: &mut Out<K>,
    ) -> Option<u64> {
        let mut matched = prev.seq;
        let mut keep = None;
        for record in records {
            let seq = record.at.seq;
            matched = seq;
            if seq <= self.log.base().seq {
                continue;
            }
            match self.log.position(seq) {
                Some(own) if own == record.at => {}
                Some(_) if !self.keeps(Rule::ConflictsGiveWay) => {}
                Some(_) if seq <= self.commit => {
                    self.is_failed = true;
                    out.push(Action::Alarm(Alarm::PrimaryForgot { seq }));
                    return None;
                }
                found => {
                    keep.get_or_insert(seq - 1);
                    if found.is_some() {
                        self.log.truncate(seq - 1);
                    }
                    self.log.push(record);
                }
            }
        }
        if let Some(keep) = keep {
            self.persist(keep, out);
        }
        Some(matched)
    }

    fn matched(&self) -> u64 {
        match &self.role {
            Role::Follower(follower) => follower.matched,
            Role::Learner(learner) => learner.matched(),
            _ => 0,
        }
    }

    fn matched_to(&mut self, seq: u64) {
        match &mut self.role {
            Role::Follower(follower) => follower.matched = follower.matched.max(seq),
            Role::Learner(learner) => learner.matched_to(seq),
            _ => {}
        }
    }

    fn session(&self) -> u64 {
        match &self.role {
            Role::Learner(learner) => learner.session,
            _ => self.last_session,
        }
    }

    /// Tells the primary up to where the log is its own and durable.
    pub(super) fn acknowledge(&mut self, beat: Option<(Time, Beat)>, out: &mut Out<K>) {
        let Some(config) = self.config.filter(|_| !self.is_failed) else {
            return;
        };
        let answer = match (&mut self.role, beat) {
            (Role::Follower(follower), Some((now, beat))) => {
                if let Some(grant) = beat.grant {
                    let from = if self.breach.keeps(Rule::LeaseFromAsking) {
                        grant.asked
                    } else {
                        now
                    };
                    let until = Time(from.0 + grant.lasts_us);
                    follower.lease_until = follower.lease_until.max(until);
                }
                self.promised = now;
                Some(BeatAck {
                    sent: beat.sent,
                    asked: now,
                })
            }
            // Being added, it may be in sync already without knowing: it promises as well.
            (Role::Learner(_), Some((now, beat))) => {
                self.promised = now;
                Some(BeatAck {
                    sent: beat.sent,
                    asked: now,
                })
            }
            _ => None,
        };
        let ack = Payload::Ack {
            upto: self.matched().min(self.acknowledgeable()),
            session: self.session(),
            beat: answer,
        };
        self.send(config.primary, ack, out);
    }

    /// Serves as primary where the present one was not heard for a grace.
    pub(super) fn follow_on(&mut self, now: Time, out: &mut Out<K>) {
        let Role::Follower(follower) = &self.role else {
            return;
        };
        let Some(config) = self.config.filter(|_| self.proposal.is_none()) else {
            return;
        };
        let me = self.life.brick;
        // One after the other, so that they do not race each other without need.
        let others = config.in_sync.without(config.primary);
        let rank = others.iter().take_while(|brick| *brick != me).count() as u64;
        let wait_us = match self.terms.leases {
            Some(leases) => self.grace_us(leases) + rank * leases.beat_us,
            None => self.terms.patience_us.saturating_mul(rank + 1),
        };
        let since = follower.heard.max(self.adopted);
        let is_due = follower.is_orphan || is_past(now, since, wait_us);
        if is_due && !self.is_failed {
            self.propose(now, me, others, out);
        }
    }

    /// Becomes a learner, without having asked anyone yet.
    pub(super) fn learn(&mut self, now: Time, out: &mut Out<K>) {
        let session = self.next_session;
        self.next_session += 1;
        self.last_session = session;
        self.role = Role::Learner(Learner::new(now, session));
        self.ask_to_join(now, out);
    }
}
