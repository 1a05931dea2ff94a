//! Not in sync, and on the way there: by the records it missed, or where the primary's log no
//! longer reaches back to them by comparing its tree with the primary's, name by name, while new
//! records come in beside.

use std::collections::{BTreeMap, BTreeSet};

use super::action::is_past;
use super::log::{Log, Position, Record};
use super::message::Payload;
use super::rules::Rule;
use super::{Action, Alarm, Kinds, Out, Replica, Role, Session, Time};
use crate::layout::BrickId;

/// A learner.
#[derive(Debug)]
pub struct Learner<K: Kinds> {
    /// The session it joins or joined by.
    pub session: Session,
    /// When it last sent what it waits for an answer to.
    sent: Time,
    heard: Time,
    /// Up to here its log is the primary's, once it was welcomed.
    matched: Option<u64>,
    walk: Option<Walk<K>>,
}

/// A comparison of trees.
#[derive(Debug)]
struct Walk<K: Kinds> {
    /// What has to be durable before it begins.
    rebase: Option<u64>,
    /// Names up to here are compared.
    after: Option<K::Name>,
    /// Where the page being compared ends.
    upto: Option<K::Name>,
    is_comparing: bool,
    /// A page was compared, and its files are on their way.
    is_fetching: bool,
    is_walked: bool,
    is_settling: bool,
    /// Files of this page that are still to come.
    wants: BTreeSet<K::Name>,
    /// Files to be fetched because a record derived them from what may not be here; true once
    /// asked for.
    owed: BTreeMap<K::Name, bool>,
    /// The latest state of the primary that anything was taken from.
    as_of: u64,
}

impl<K: Kinds> Learner<K> {
    pub fn new(now: Time, session: Session) -> Self {
        Self {
            session,
            sent: now,
            heard: now,
            matched: None,
            walk: None,
        }
    }

    /// The primary was heard; true where the learner was welcomed.
    pub fn hears(&mut self, now: Time) -> bool {
        self.heard = now;
        self.matched.is_some()
    }

    pub fn matched(&self) -> u64 {
        self.matched.unwrap_or(0)
    }

    pub fn matched_to(&mut self, seq: u64) {
        self.matched = Some(self.matched().max(seq));
    }

    /// A record is applied; true while the tree is not whole: then what it derives is fetched.
    pub fn applies(&mut self, record: &Record<K>) -> bool {
        let Some(walk) = self.walk.as_mut().filter(|walk| !walk.is_settling) else {
            return false;
        };
        for effect in &record.effects {
            if effect.is_derived {
                walk.owed.insert(effect.name.clone(), false);
            } else {
                walk.owed.remove(&effect.name);
            }
        }
        true
    }

    fn is_walking(&mut self, session: Session) -> Option<&mut Walk<K>> {
        let is_it = self.session == session && self.matched.is_some();
        let walk = self
            .walk
            .as_mut()
            .filter(|walk| is_it && walk.rebase.is_none());
        walk.filter(|walk| !walk.is_settling)
    }
}

impl<K: Kinds> Replica<K> {
    /// Asks the primary to be let in.
    pub(super) fn ask_to_join(&mut self, now: Time, out: &mut Out<K>) {
        let Some(config) = self.config else { return };
        let Role::Learner(learner) = &mut self.role else {
            return;
        };
        if config.primary == self.life.brick || self.is_failed {
            return;
        }
        learner.sent = now;
        let join = Payload::Join {
            session: learner.session,
            ends: self.log.ends(),
            commit: self.commit,
            is_complete: self.is_complete,
        };
        self.send(config.primary, join, out);
    }

    pub(super) fn learn_on(&mut self, now: Time, out: &mut Out<K>) {
        let Role::Learner(learner) = &mut self.role else {
            return;
        };
        if learner.matched.is_some() && is_past(now, learner.heard, self.terms.patience_us) {
            self.learn(now, out);
        } else if is_past(now, learner.sent, self.terms.retry_us) {
            if learner.matched.is_none() {
                self.ask_to_join(now, out);
            } else {
                self.ask_again(now, out);
            }
        }
    }

    /// The primary says how this brick comes into sync.
    pub(super) fn welcomed(
        &mut self,
        now: Time,
        from: BrickId,
        session: Session,
        start: Position,
        is_whole: bool,
        out: &mut Out<K>,
    ) {
        let is_primary = self.config.is_some_and(|config| config.primary == from);
        let Role::Learner(learner) = &mut self.role else {
            return;
        };
        if !is_primary || learner.session != session || learner.matched.is_some() {
            return;
        }
        learner.heard = now;
        if !is_whole {
            if start.seq < self.commit {
                self.is_failed = true;
                out.push(Action::Alarm(Alarm::PrimaryForgot { seq: start.seq }));
                return;
            }
            learner.matched = Some(start.seq);
            if self.log.last().seq > start.seq {
                self.log.truncate(start.seq);
                self.persist(start.seq, out);
            }
            self.acknowledge(None, out);
            return;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        learner.matched = Some(start.seq);
        learner.walk = Some(Walk {
            rebase: Some(ticket),
            after: None,
            upto: None,
            is_comparing: false,
            is_fetching: false,
            is_walked: false,
            is_settling: false,
            wants: BTreeSet::new(),
            owed: BTreeMap::new(),
            as_of: start.seq,
        });
        self.log = Log::new(start, Vec::new());
        self.flushes.clear();
        self.flushes.push_back((ticket, start.seq));
        self.durable = start.seq;
        self.commit = start.seq;
        self.checkpoint = start.seq;
        self.rotten.clear();
        self.is_complete = !self.keeps(Rule::IncompleteMarked);
        out.push(Action::Rebase {
            ticket,
            base: start,
        });
        if self.is_complete {
            let seq = start.seq;
            out.push(Action::Settle { session: 0, seq });
        }
    }

    /// The tree is marked as not whole: the comparison may begin.
    pub(super) fn rebased(&mut self, now: Time, ticket: u64, out: &mut Out<K>) {
        let Role::Learner(learner) = &mut self.role else {
            return;
        };
        let begins = |walk: &mut Walk<K>| walk.rebase.take_if(|rebase| *rebase <= ticket).is_some();
        if learner.walk.as_mut().is_some_and(begins) {
            self.ask_again(now, out);
        }
    }

    /// Asks for whatever the learner waits for.
    fn ask_again(&mut self, now: Time, out: &mut Out<K>) {
        let Some(config) = self.config else { return };
        let Role::Learner(learner) = &mut self.role else {
            return;
        };
        learner.sent = now;
        let session = learner.session;
        let Some(walk) = &mut learner.walk else {
            let done = Payload::Done { session };
            self.send(config.primary, done, out);
            return;
        };
        if walk.rebase.is_some() || walk.is_settling {
            return;
        }
        for is_asked in walk.owed.values_mut() {
            *is_asked = true;
        }
        let mut names: BTreeSet<K::Name> = walk.owed.keys().cloned().collect();
        names.extend(walk.wants.iter().cloned());
        let needs_page = !walk.is_walked && !walk.is_comparing && !walk.is_fetching;
        let after = walk.after.clone();
        for name in names {
            let ask = Payload::CopyAsk { session, name };
            self.send(config.primary, ask, out);
        }
        if needs_page {
            self.send(config.primary, Payload::PageAsk { session, after }, out);
        }
    }

    /// Names of the primary, to be compared.
    pub(super) fn page(
        &mut self,
        now: Time,
        session: Session,
        (after, page, upto): (Option<K::Name>, K::Page, Option<K::Name>),
        as_of: u64,
        out: &mut Out<K>,
    ) {
        let newer = self.touched_since(as_of);
        let Role::Learner(learner) = &mut self.role else {
            return;
        };
        learner.heard = now;
        let Some(walk) = learner.is_walking(session) else {
            return;
        };
        // One asked for again and again may come twice, and late.
        let is_next = after == walk.after;
        if !is_next || walk.is_walked || walk.is_comparing || walk.is_fetching {
            return;
        }
        walk.is_comparing = true;
        walk.upto = upto;
        walk.as_of = walk.as_of.max(as_of);
        out.push(Action::Compare {
            session,
            page,
            keep: newer.into_iter().collect(),
        });
    }

    /// Names that records above `as_of` have changed here already.
    fn touched_since(&self, as_of: u64) -> BTreeSet<K::Name> {
        let applied = self
            .log
            .above(as_of)
            .take_while(|record| record.at.seq <= self.commit);
        let effects = applied.flat_map(|record| record.effects.iter());
        effects.map(|effect| effect.name.clone()).collect()
    }

    pub(super) fn compared(
        &mut self,
        now: Time,
        session: Session,
        wants: Vec<K::Name>,
        out: &mut Out<K>,
    ) {
        let Role::Learner(learner) = &mut self.role else {
            return;
        };
        let Some(walk) = learner.is_walking(session) else {
            return;
        };
        if !std::mem::take(&mut walk.is_comparing) {
            return;
        }
        walk.is_fetching = true;
        walk.wants.extend(wants);
        self.page_done(now, out);
    }

    /// Goes to the next page where this one has all its files.
    fn page_done(&mut self, now: Time, out: &mut Out<K>) {
        let Role::Learner(learner) = &mut self.role else {
            return;
        };
        let Some(walk) = &mut learner.walk else {
            return;
        };
        if walk.is_fetching && walk.wants.is_empty() {
            walk.is_fetching = false;
            walk.is_walked = walk.upto.is_none();
            walk.after = walk.upto.clone();
        }
        if !walk.is_walked {
            self.ask_again(now, out);
        }
        self.learner_caught_up(out);
    }

    /// A file of the primary.
    pub(super) fn copy(
        &mut self,
        now: Time,
        session: Session,
        name: K::Name,
        copy: Option<K::Copy>,
        as_of: u64,
        out: &mut Out<K>,
    ) {
        let is_newer =
            self.keeps(Rule::CopyNotOverNewer) && self.touched_since(as_of).contains(&name);
        let Role::Learner(learner) = &mut self.role else {
            return;
        };
        learner.heard = now;
        let Some(walk) = learner.is_walking(session) else {
            return;
        };
        if !walk.wants.contains(&name) && !walk.owed.contains_key(&name) {
            return;
        }
        walk.wants.remove(&name);
        if !is_newer {
            walk.owed.remove(&name);
            walk.as_of = walk.as_of.max(as_of);
            out.push(Action::Replace { name, copy });
        }
        if walk.is_fetching && walk.wants.is_empty() {
            self.page_done(now, out);
        } else {
            self.learner_caught_up(out);
        }
    }

    /// Where everything was compared and fetched, and the log has come as far as the latest state
    /// that anything was taken from, the tree is whole.
    pub(super) fn learner_caught_up(&mut self, out: &mut Out<K>) {
        let commit = self.commit;
        let (needs_owed, needs_as_of) = (
            self.keeps(Rule::DerivedFetched),
            self.keeps(Rule::WholeWhenCaughtUp),
        );
        let Some(config) = self.config else { return };
        let Role::Learner(learner) = &mut self.role else {
            return;
        };
        let session = learner.session;
        let Some(walk) = learner.is_walking(session) else {
            return;
        };
        if !needs_owed {
            walk.owed.clear();
        }
        let is_whole = walk.is_walked && walk.owed.is_empty() && walk.wants.is_empty();
        if is_whole && (commit >= walk.as_of || !needs_as_of) {
            walk.is_settling = true;
            out.push(Action::Settle {
                session,
                seq: commit,
            });
            return;
        }
        let mut asks = Vec::new();
        for (name, is_asked) in &mut walk.owed {
            if !std::mem::replace(is_asked, true) {
                asks.push(name.clone());
            }
        }
        for name in asks {
            let ask = Payload::CopyAsk { session, name };
            self.send(config.primary, ask, out);
        }
    }

    /// The tree is whole, durably.
    pub(super) fn settled(&mut self, now: Time, session: Session, out: &mut Out<K>) {
        let Role::Learner(learner) = &mut self.role else {
            return;
        };
        if learner.session != session || learner.walk.is_none() {
            return;
        }
        learner.walk = None;
        self.is_complete = true;
        self.ask_again(now, out);
    }
}
