//! Changes of the configuration under way.

use super::action::is_past;
use super::config::{BrickSet, GroupConfig};
use super::rules::Rule;
use super::{Action, Alarm, Kinds, Out, Replica, Role, Time};
use crate::layout::BrickId;

/// A compare-and-set that was sent and whose epoch has not passed: it may take effect at any time.
#[derive(Debug)]
pub struct Proposal {
    pub config: GroupConfig,
    sent: Time,
}

impl<K: Kinds> Replica<K> {
    /// Proposes a configuration for the next epoch; the caller knows that none is under way.
    pub(super) fn propose(
        &mut self,
        now: Time,
        primary: BrickId,
        in_sync: BrickSet,
        out: &mut Out<K>,
    ) {
        let Some(config) = self.config else { return };
        let next = GroupConfig {
            epoch: config.epoch + 1,
            primary,
            in_sync,
            maker: self.life,
        };
        self.proposal = Some(Proposal {
            config: next,
            sent: now,
        });
        out.push(Action::Cas { next });
    }

    /// Sends what is under way again: the same change, for the first may yet win.
    pub(super) fn propose_again(&mut self, now: Time, out: &mut Out<K>) {
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        if is_past(now, proposal.sent, self.terms.retry_us) {
            proposal.sent = now;
            out.push(Action::Cas {
                next: proposal.config,
            });
            if !self.keeps(Rule::UnknownStaysOpen) {
                self.proposal = None;
            }
        }
    }

    /// True where it has proposed another primary.
    pub(super) fn is_leaving(&self) -> bool {
        let other = |proposal: &Proposal| proposal.config.primary != self.life.brick;
        self.proposal.as_ref().is_some_and(other)
    }

    /// Everyone who is in sync, or may be by a change of its own that is under way.
    pub(super) fn joint(&self, rule: Rule) -> BrickSet {
        let current = self.config.map(|config| config.in_sync).unwrap_or_default();
        match &self.proposal {
            Some(proposal) if self.keeps(rule) => current.union(proposal.config.in_sync),
            _ => current,
        }
    }

    /// As a primary that cannot go on: proposes another.
    pub(super) fn abdicate(&mut self, now: Time, out: &mut Out<K>) {
        let Some(config) = self.config else { return };
        if self.proposal.is_some() || config.primary != self.life.brick {
            return;
        }
        let others = config.in_sync.without(self.life.brick);
        match self.heard_last(now, others) {
            Some(other) => self.propose(now, other, others, out),
            // One of them takes over when it has not heard of this one for a grace.
            None if !others.is_empty() => {}
            None if self.is_complete => out.push(Action::Alarm(Alarm::LastCopyFailing)),
            None => out.push(Action::Alarm(Alarm::LastCopyLost)),
        }
    }

    /// What a step ends with: the change of configuration that is due, if none is under way.
    pub(super) fn manage(&mut self, now: Time, out: &mut Out<K>) {
        let Some(config) = self.config.filter(|_| self.proposal.is_none()) else {
            return;
        };
        let me = self.life.brick;
        if config.primary == me && config.in_sync.contains(me) {
            if self.is_failed || !self.is_complete {
                if self.adopted == now || config.in_sync.len() > 1 {
                    self.abdicate(now, out);
                }
            } else if config.maker != self.life && self.keeps(Rule::OwnEpoch) {
                // In an epoch of an earlier life there may be changes under way that it forgot.
                self.propose(now, me, config.in_sync, out);
            } else {
                self.change_members(now, out);
            }
        } else if matches!(&self.role, Role::Follower(follower) if follower.is_orphan) {
            self.follow_on(now, out);
        }
    }
}
