//! Files whose bytes have rotted: fetched again from any copy with the same stamp. A stamp is made
//! once, by one record, so it does not matter who has it or how current it is otherwise.

use super::action::is_past;
use super::log::Position;
use super::message::Payload;
use super::rules::Rule;
use super::{Action, Kinds, Out, Replica, Time};

impl<K: Kinds> Replica<K> {
    pub(super) fn found_rotten(
        &mut self,
        now: Time,
        name: K::Name,
        stamp: Position,
        out: &mut Out<K>,
    ) {
        self.rotten.insert(name.clone(), (stamp, now));
        self.ask_for_mending(name, stamp, out);
    }

    fn ask_for_mending(&self, name: K::Name, stamp: Position, out: &mut Out<K>) {
        let Some(config) = self.config else { return };
        let others = config.in_sync.without(self.life.brick);
        for brick in others.iter().chain(self.learners()) {
            let name = name.clone();
            self.send(brick, Payload::MendAsk { name, stamp }, out);
        }
    }

    /// Asks again for what did not come.
    pub(super) fn mend_on(&mut self, now: Time, out: &mut Out<K>) {
        let retry_us = self.terms.retry_us;
        let mut due = Vec::new();
        for (name, (stamp, asked)) in &mut self.rotten {
            if is_past(now, *asked, retry_us) {
                *asked = now;
                due.push((name.clone(), *stamp));
            }
        }
        due.sort_unstable();
        for (name, stamp) in due {
            self.ask_for_mending(name, stamp, out);
        }
    }

    pub(super) fn mend(&mut self, name: K::Name, stamp: Position, copy: K::Copy, out: &mut Out<K>) {
        let is_it = |(rotten, _): &(Position, Time)| *rotten == stamp;
        if self.rotten.get(&name).is_some_and(is_it) {
            self.rotten.remove(&name);
        } else if self.keeps(Rule::MendOwnStamp) {
            return;
        }
        out.push(Action::Mend { name, stamp, copy });
    }
}
