//! The primary: orders writes, commits what all in sync have, and says who is in sync.

use super::action::is_past;
use super::config::GroupConfig;
use super::log::{Position, Record};
use super::message::{Beat, BeatAck, Grant, Payload};
use super::ops::Ops;
use super::rules::Rule;
use super::{Action, Kinds, OpId, Out, Outcome, Replica, Role, Session, Time};
use crate::layout::BrickId;

/// A primary.
#[derive(Debug)]
pub struct Primary<K: Kinds> {
    /// Its barrier is committed: it serves.
    pub is_active: bool,
    /// Where its barrier stands, once the grace is over.
    barrier: Option<u64>,
    ready_at: Time,
    pub(super) peers: Vec<Peer>,
    holds: Vec<Hold>,
    pub ops: Ops<K>,
}

/// Another brick, as the primary knows it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) brick: BrickId,
    /// Set for a learner, and kept once it is in sync.
    pub(super) session: Session,
    pub(super) is_learner: bool,
    /// A learner whose tree is whole.
    pub(super) is_done: bool,
    pub(super) is_bad: bool,
    /// The next record to send.
    pub(super) next: u64,
    /// Durable there up to here.
    pub(super) acked: u64,
    pub(super) heard: Time,
    pub(super) sent: Time,
    pub(super) beaten: Time,
    pub(super) lease_from: Option<Time>,
    /// When, by its own clock, it asked for the lease that it was not granted yet.
    pub(super) asked: Option<Time>,
    pub(super) granted: Option<Time>,
}

/// A brick taken out whose lease to read may live.
#[derive(Debug)]
struct Hold {
    brick: BrickId,
    epoch: u64,
    until: Time,
}

impl Peer {
    pub(super) fn new(now: Time, brick: BrickId, next: u64) -> Self {
        Self {
            brick,
            session: 0,
            is_learner: false,
            is_done: false,
            is_bad: false,
            next,
            acked: 0,
            heard: now,
            sent: now,
            beaten: Time(0),
            lease_from: None,
            asked: None,
            granted: None,
        }
    }
}

impl<K: Kinds> Replica<K> {
    /// Begins as primary, in an epoch of its own making.
    pub(super) fn lead(&mut self, now: Time, out: &mut Out<K>) {
        let Some(config) = self.config else { return };
        // Whatever lease anyone still has rests on what this brick promised the old primary.
        let grace_us = self.terms.leases.map_or(0, |leases| self.grace_us(leases));
        let next = self.log.last().seq + 1;
        let others = config.in_sync.without(self.life.brick);
        self.role = Role::Primary(Box::new(Primary {
            is_active: false,
            barrier: None,
            ready_at: Time(self.promised.0 + grace_us),
            peers: others
                .iter()
                .map(|brick| Peer::new(now, brick, next))
                .collect(),
            holds: Vec::new(),
            ops: Ops::default(),
        }));
        if !self.keeps(Rule::Barrier)
            && let Role::Primary(primary) = &mut self.role
        {
            primary.is_active = true;
        }
        self.replicate(now, true, out);
        self.raise_barrier(now, out);
    }

    fn raise_barrier(&mut self, now: Time, out: &mut Out<K>) {
        let Some(config) = self.config else { return };
        let Role::Primary(primary) = &mut self.role else {
            return;
        };
        if primary.barrier.is_some() || now < primary.ready_at {
            return;
        }
        let at = Position {
            epoch: config.epoch,
            seq: self.log.last().seq + 1,
        };
        primary.barrier = Some(at.seq);
        self.log_record(
            now,
            Record {
                at,
                op: OpId::default(),
                effects: Vec::new(),
                body: None,
            },
            out,
        );
    }

    /// Logs a record here and sends it to all.
    pub(super) fn log_record(&mut self, now: Time, record: Record<K>, out: &mut Out<K>) {
        let keep = record.at.seq - 1;
        self.log.push(record.into());
        self.persist(keep, out);
        self.replicate(now, false, out);
        self.advance(now, out);
    }

    /// Its own change of configuration took effect.
    pub(super) fn reconfigured(&mut self, now: Time, old: Option<GroupConfig>, out: &mut Out<K>) {
        let (Some(config), Some(old)) = (self.config, old) else {
            return;
        };
        let (me, next) = (self.life.brick, self.log.last().seq + 1);
        let keeps_hold = self.keeps(Rule::HoldAfterRemoval);
        let grace_us = self.terms.leases.map_or(0, |leases| self.grace_us(leases));
        let Role::Primary(primary) = &mut self.role else {
            return;
        };
        let mut removed = Vec::new();
        primary.peers.retain_mut(|peer| {
            let is_in = config.in_sync.contains(peer.brick);
            if is_in && peer.is_learner {
                peer.is_learner = false;
                peer.heard = now;
            }
            if !is_in && old.in_sync.contains(peer.brick) {
                removed.push(peer.brick);
                if let Some(granted) = peer.granted.filter(|_| keeps_hold) {
                    primary.holds.push(Hold {
                        brick: peer.brick,
                        epoch: config.epoch,
                        until: Time(granted.0 + grace_us),
                    });
                }
            }
            is_in || peer.is_learner
        });
        for brick in config.in_sync.without(me).iter() {
            if !primary.peers.iter().any(|peer| peer.brick == brick) {
                primary.peers.push(Peer::new(now, brick, next));
            }
        }
        for brick in removed {
            self.send(brick, Payload::Hello { is_answer: false }, out);
        }
        self.replicate(now, true, out);
        self.advance(now, out);
    }

    /// What a primary does as time passes.
    pub(super) fn lead_on(&mut self, now: Time, out: &mut Out<K>) {
        if self.is_failed {
            // Nobody hears of it any more, so another takes over.
            return;
        }
        self.raise_barrier(now, out);
        let (retry_us, patience_us) = (self.terms.retry_us, self.terms.patience_us);
        let last = self.log.last().seq;
        let leases = self.terms.leases;
        let mut over = Vec::new();
        let proposed = self
            .proposal
            .as_ref()
            .map(|proposal| proposal.config.in_sync);
        let proposed = proposed.unwrap_or_default();
        let Role::Primary(primary) = &mut self.role else {
            return;
        };
        primary.peers.retain(|peer| {
            let is_lost = peer.is_bad || is_past(now, peer.heard, patience_us);
            let is_over = is_lost && !proposed.contains(peer.brick);
            if peer.is_learner && is_over {
                over.push((peer.brick, peer.session));
            }
            !(peer.is_learner && is_over)
        });
        let mut due = Vec::new();
        for peer in &mut primary.peers {
            if peer.acked < last && is_past(now, peer.sent, retry_us) {
                // Where messages are calls, who does not answer is slow: it says where it lacks
                // something. All anew may be more than this log still has.
                if leases.is_some() {
                    peer.next = peer.next.min(peer.acked + 1);
                }
                due.push(peer.brick);
            } else if leases.is_some_and(|leases| is_past(now, peer.beaten, leases.beat_us)) {
                due.push(peer.brick);
            }
        }
        for brick in due {
            self.send_records(now, brick, true, out);
        }
        for (brick, session) in over {
            self.send(brick, Payload::Over { session }, out);
        }
        self.advance(now, out);
    }

    /// Sends each peer what it was not sent yet; with `is_always` an empty message where there is
    /// nothing.
    fn replicate(&mut self, now: Time, is_always: bool, out: &mut Out<K>) {
        let last = self.log.last().seq;
        let Role::Primary(primary) = &self.role else {
            return;
        };
        let due = primary
            .peers
            .iter()
            .filter(|peer| is_always || peer.next <= last);
        let due: Vec<BrickId> = due.map(|peer| peer.brick).collect();
        for brick in due {
            self.send_records(now, brick, false, out);
        }
    }

    pub(super) fn send_records(&mut self, now: Time, to: BrickId, is_beat: bool, out: &mut Out<K>) {
        if self.is_failed {
            return;
        }
        let (commit, batch, leases) = (self.commit, self.terms.batch, self.terms.leases);
        let is_in = self
            .config
            .is_some_and(|config| config.in_sync.contains(to));
        let lasts_us = self.grantable(now);
        let log = &self.log;
        let Role::Primary(primary) = &mut self.role else {
            return;
        };
        let is_active = primary.is_active;
        let Some(peer) = primary.peers.iter_mut().find(|peer| peer.brick == to) else {
            return;
        };
        let Some(prev) = log.position(peer.next - 1) else {
            // The log does not reach back that far: in sync it would.
            peer.is_bad = true;
            return;
        };
        let records = log.from(peer.next, batch);
        peer.next += records.len() as u64;
        peer.sent = now;
        let beat = leases.filter(|_| is_beat).map(|_| {
            peer.beaten = now;
            let may_grant = is_active && is_in && lasts_us > 0;
            let asked = peer.asked.filter(|_| may_grant);
            Beat {
                sent: now,
                grant: asked.map(|asked| {
                    peer.granted = Some(now);
                    Grant { asked, lasts_us }
                }),
            }
        });
        let append = Payload::Append {
            prev,
            records,
            commit,
            beat,
        };
        self.send(to, append, out);
    }

    pub(super) fn acked(
        &mut self,
        now: Time,
        from: BrickId,
        upto: u64,
        session: Session,
        beat: Option<BeatAck>,
        out: &mut Out<K>,
    ) {
        let last = self.log.last().seq;
        let Role::Primary(primary) = &mut self.role else {
            return;
        };
        let Some(peer) = primary.peers.iter_mut().find(|peer| peer.brick == from) else {
            return;
        };
        let is_known = session == peer.session || (session == 0 && !peer.is_learner);
        // What an earlier session acknowledged may be lost since.
        if !is_known && peer.session != 0 {
            return;
        }
        peer.heard = now;
        peer.acked = peer.acked.max(upto.min(last));
        peer.next = peer.next.max(peer.acked + 1);
        if let Some(beat) = beat {
            peer.lease_from = peer.lease_from.max(Some(beat.sent));
            peer.asked = peer.asked.max(Some(beat.asked));
        }
        self.replicate(now, false, out);
        self.advance(now, out);
    }

    pub(super) fn mismatch(
        &mut self,
        now: Time,
        from: BrickId,
        last: u64,
        session: Session,
        out: &mut Out<K>,
    ) {
        let base = self.log.base().seq;
        let Role::Primary(primary) = &mut self.role else {
            return;
        };
        let Some(peer) = primary.peers.iter_mut().find(|peer| peer.brick == from) else {
            return;
        };
        if peer.session != session && peer.is_learner {
            return;
        }
        peer.heard = now;
        if last < base {
            peer.is_bad = true;
        } else {
            peer.next = peer.next.min(last + 1);
            self.send_records(now, from, false, out);
        }
    }

    /// Commits what all in sync have, and answers.
    pub(super) fn advance(&mut self, now: Time, out: &mut Out<K>) {
        let joint = self.joint(Rule::JointCommit);
        let own = if self.keeps(Rule::PrimaryDurable) {
            self.durable
        } else {
            self.log.last().seq
        };
        let (breach, before, me) = (self.breach, self.commit, self.life.brick);
        let Role::Primary(primary) = &mut self.role else {
            return;
        };
        primary.holds.retain(|hold| now < hold.until);
        if primary.barrier.is_none() || !primary.holds.is_empty() || self.is_failed {
            return;
        }
        let durable = |brick: BrickId| {
            let peer = primary.peers.iter().find(|peer| peer.brick == brick);
            if brick == me {
                own
            } else {
                peer.map_or(0, |peer| peer.acked)
            }
        };
        let mut acked: Vec<u64> = joint.iter().map(durable).collect();
        acked.sort_unstable();
        let at = if breach.keeps(Rule::CommitNeedsAll) {
            0
        } else {
            (acked.len() - 1) / 2
        };
        let seq = acked.get(at).copied().unwrap_or(0);
        if seq <= before {
            return;
        }
        self.commit_to(seq, out);
        self.answer_committed(before, out);
        let commit = self.commit;
        let epoch = self.config.map_or(0, |config| config.epoch);
        if let Role::Primary(primary) = &mut self.role
            && !primary.is_active
            && primary.barrier.is_some_and(|barrier| barrier <= commit)
        {
            primary.is_active = true;
            out.push(Action::Serving { epoch });
        }
        if self.terms.tells_commits {
            self.replicate(now, true, out);
        }
    }

    fn answer_committed(&mut self, before: u64, out: &mut Out<K>) {
        let in_sync = self.config.map_or(0, |config| config.in_sync.len());
        let is_enough = in_sync >= self.terms.min_in_sync || !self.keeps(Rule::MinInSync);
        let committed: Vec<(OpId, Position)> = self
            .log
            .above(before)
            .take_while(|record| record.at.seq <= self.commit)
            .filter(|record| record.body.is_some())
            .map(|record| (record.op, record.at))
            .collect();
        for (op, at) in committed {
            let outcome = if is_enough {
                Outcome::Done { at }
            } else {
                Outcome::Short { at }
            };
            out.push(Action::Answer { op, outcome });
            self.finish(op, out);
        }
    }

    /// A brick that was taken out knows of it: it reads no more.
    pub(super) fn knows_epoch(&mut self, from: BrickId, epoch: u64) {
        if let Role::Primary(primary) = &mut self.role {
            primary
                .holds
                .retain(|hold| hold.brick != from || epoch < hold.epoch);
        }
    }

    pub(super) fn peer_failed(&mut self, brick: BrickId) {
        match &mut self.role {
            Role::Primary(primary) => {
                for peer in &mut primary.peers {
                    peer.is_bad |= peer.brick == brick;
                }
            }
            Role::Follower(follower) => {
                let is_primary = self.config.is_some_and(|config| config.primary == brick);
                follower.is_orphan |= is_primary && self.terms.leases.is_none();
            }
            _ => {}
        }
    }

    /// Is primary no more: says so to whoever waits.
    pub(super) fn step_down(&mut self, out: &mut Out<K>) {
        let primary = self.config.map(|config| config.primary);
        if let Role::Primary(old) = &mut self.role {
            old.ops.give_up(primary, out);
            self.role = Role::Idle;
        }
    }
}
