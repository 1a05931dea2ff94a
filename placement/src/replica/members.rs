//! Who is in sync: the primary lets learners in, and those out that it does not hear of.

use super::action::is_past;
use super::config::{BrickSet, MAX_COPIES};
use super::log::Position;
use super::message::Payload;
use super::primary::Peer;
use super::rules::Rule;
use super::{Action, Kinds, Out, Replica, Role, Session, Time};
use crate::layout::BrickId;

impl<K: Kinds> Replica<K> {
    /// A brick wants to come into sync.
    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn join(
        &mut self,
        now: Time,
        from: BrickId,
        session: Session,
        ends: &[Position],
        commit: u64,
        is_complete: bool,
        out: &mut Out<K>,
    ) {
        let Some(config) = self.config else { return };
        if config.in_sync.contains(from) {
            // It is not what the configuration takes it for.
            self.peer_failed(from);
            return;
        }
        let proposed = self.proposal.as_ref().map(|proposal| proposal.config);
        let is_proposed = proposed.is_some_and(|next| next.in_sync.contains(from));
        let is_wanted = self.wanted.is_none_or(|wanted| wanted.contains(from));
        let common = self.log.common(ends).filter(|_| is_complete);
        let committed = self.log.position(self.commit);
        let Role::Primary(primary) = &mut self.role else {
            return;
        };
        if !is_wanted || !primary.is_active {
            return;
        }
        let known = primary.peers.iter().position(|peer| peer.brick == from);
        if is_proposed {
            // It lost what it had while it was being added: it leaves before it comes again.
            if let Some(at) = known {
                let peer = &mut primary.peers[at];
                peer.is_bad |= peer.session != session;
            }
            return;
        }
        if known.is_some_and(|at| primary.peers[at].session > session) {
            return;
        }
        let (start, is_whole) = match common.filter(|at| at.seq >= commit) {
            Some(at) => (at, false),
            None => match committed {
                Some(at) => (at, true),
                None => return,
            },
        };
        // Said again to one that is known, the start may be a later one: it counts from the last
        // Welcome only where the first was lost, so the first is repeated.
        let peer = known.map(|at| primary.peers.swap_remove(at));
        let mut peer = peer.unwrap_or_else(|| Peer::new(now, from, start.seq + 1));
        // One that was to come by records may find them gone by now.
        let is_repeated = peer.session == session && peer.is_learner && !(is_whole && peer.is_done);
        if !is_repeated {
            peer = Peer::new(now, from, start.seq + 1);
            peer.session = session;
            peer.is_learner = true;
            peer.is_done = !is_whole;
        }
        peer.heard = now;
        primary.peers.push(peer);
        let welcome = Payload::Welcome {
            session,
            start,
            is_whole,
        };
        self.send(from, welcome, out);
    }

    pub(super) fn page_asked(
        &mut self,
        from: BrickId,
        session: Session,
        after: Option<K::Name>,
        out: &mut Out<K>,
    ) {
        if self.has_learner(from, session) {
            out.push(Action::SendPage {
                to: from,
                session,
                after,
                as_of: self.commit,
            });
        }
    }

    pub(super) fn copy_asked(
        &mut self,
        from: BrickId,
        session: Session,
        name: K::Name,
        out: &mut Out<K>,
    ) {
        // A rotten copy is not handed on; the learner asks again.
        if self.has_learner(from, session) && !self.rotten.contains_key(&name) {
            out.push(Action::SendCopy {
                to: from,
                session,
                name,
                as_of: self.commit,
            });
        }
    }

    fn has_learner(&self, brick: BrickId, session: Session) -> bool {
        let is_it = |peer: &Peer| peer.brick == brick && peer.session == session && peer.is_learner;
        matches!(&self.role, Role::Primary(primary) if primary.peers.iter().any(is_it))
    }

    pub(super) fn learner_done(&mut self, from: BrickId, session: Session) {
        if let Role::Primary(primary) = &mut self.role {
            let is_it = |peer: &&mut Peer| peer.brick == from && peer.session == session;
            if let Some(peer) = primary.peers.iter_mut().find(is_it) {
                peer.is_done = true;
            }
        }
    }

    /// The learners it has.
    pub(super) fn learners(&self) -> Vec<BrickId> {
        let Role::Primary(primary) = &self.role else {
            return Vec::new();
        };
        let learners = primary.peers.iter().filter(|peer| peer.is_learner);
        learners.map(|peer| peer.brick).collect()
    }

    /// Whoever of these it heard of last, and within a lease: one that it did not hear of may have
    /// lost its disk.
    pub(super) fn heard_last(&self, now: Time, bricks: BrickSet) -> Option<BrickId> {
        let Role::Primary(primary) = &self.role else {
            let has_leases = self.terms.leases.is_some();
            return bricks.iter().next().filter(|_| !has_leases);
        };
        let is_near = |peer: &&Peer| {
            let leases = self.terms.leases;
            let is_late = leases.is_some_and(|leases| is_past(now, peer.heard, leases.lease_us));
            bricks.contains(peer.brick) && !peer.is_bad && !is_late
        };
        let near = primary.peers.iter().filter(is_near);
        near.max_by_key(|peer| peer.heard).map(|peer| peer.brick)
    }

    /// The change of members that is due; none is under way.
    pub(super) fn change_members(&mut self, now: Time, out: &mut Out<K>) {
        let Some(config) = self.config else { return };
        let (me, last) = (self.life.brick, self.log.last().seq);
        let (commit, patience_us) = (self.commit, self.terms.patience_us);
        let keeps_whole = self.keeps(Rule::PromoteWhenWhole);
        let lag = self.terms.batch as u64;
        let Role::Primary(primary) = &self.role else {
            return;
        };
        let is_lost = |peer: &&Peer| {
            config.in_sync.contains(peer.brick)
                && (peer.is_bad || is_past(now, peer.heard, patience_us))
        };
        if let Some(peer) = primary.peers.iter().find(is_lost) {
            let rest = config.in_sync.without(peer.brick);
            return self.propose(now, me, rest, out);
        }
        if !primary.is_active {
            return;
        }
        let is_ready = |peer: &&Peer| {
            let is_whole = peer.is_done && peer.acked >= commit && last - peer.acked <= lag;
            peer.is_learner && (is_whole || !keeps_whole)
        };
        let ready = primary.peers.iter().find(is_ready);
        if ready.is_some() && config.in_sync.len() >= MAX_COPIES {
            // No room for one more, so one that is not wanted goes before all that are have come.
            let wanted = self.wanted.unwrap_or(config.in_sync);
            let spare = config.in_sync.without(me);
            let spare = spare.iter().find(|brick| !wanted.contains(*brick));
            if let Some(brick) = spare {
                self.propose(now, me, config.in_sync.without(brick), out);
            }
            return;
        }
        if let Some(peer) = ready {
            let more = config.in_sync.with(peer.brick);
            return self.propose(now, me, more, out);
        }
        let Some(wanted) = self.wanted else { return };
        if !wanted.iter().all(|brick| config.in_sync.contains(brick)) {
            return;
        }
        // Nobody is let go, and nothing handed over, unless all who stay were heard just now.
        if !self.holds_lease(now, primary) {
            return;
        }
        let surplus = config.in_sync.iter().find(|brick| !wanted.contains(*brick));
        match (surplus, wanted.iter().next()) {
            (Some(brick), _) if brick != me => {
                self.propose(now, me, config.in_sync.without(brick), out);
            }
            (Some(_), Some(next)) => self.propose(now, next, wanted, out),
            _ => {}
        }
    }
}
