//! Who holds a group, and bricks that come and go.

use std::sync::Arc;

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::replica::{BrickSet, Event, GroupConfig, Stored};

use super::super::kinds::Kept;
use super::{Copy, Driver, Input, heal};
use crate::brick::disk::Disk;
use crate::error::StoreError;

impl<D: Disk> Driver<D> {
    /// Tells the copies of a group which of the others are not here.
    pub(super) fn tell_missing(&mut self, g: u32) {
        let group = &self.groups[g as usize];
        let is_here = |brick: BrickId| {
            group.copies.iter().any(|copy| {
                let member = &self.seats[copy.seat].member;
                member.id == brick && !member.has_failed()
            })
        };
        for brick in group.config.in_sync.iter().filter(|brick| !is_here(*brick)) {
            for copy in &group.copies {
                let event = Event::PeerFailed { brick };
                self.inbox.push_back((g, copy.seat, event));
            }
        }
    }

    pub(super) fn configured(&mut self, configs: Vec<(GroupId, GroupConfig)>) {
        for (group, config) in configs {
            let g = group.0;
            let known = &mut self.groups[g as usize];
            if config.epoch > known.config.epoch {
                let before = std::mem::replace(&mut known.config, config);
                self.await_newcomers(g, before.in_sync);
                self.publish_config(g);
            }
            let config = self.groups[g as usize].config;
            for at in 0..self.groups[g as usize].copies.len() {
                let seat = self.groups[g as usize].copies[at].seat;
                self.inbox.push_back((g, seat, Event::Configured(config)));
            }
            // Who was no primary yet when it was told has forgotten it.
            self.tell_missing(g);
            self.settle(g);
        }
    }

    /// Whoever comes into sync has all records, but may have some still to publish: until then it
    /// is not read.
    fn await_newcomers(&mut self, g: u32, before: BrickSet) {
        let group = &mut self.groups[g as usize];
        let config = group.config;
        let commits = group.copies.iter().map(|copy| copy.replica.progress().0);
        let committed = commits.max().unwrap_or(0);
        for copy in &mut group.copies {
            let brick = self.seats[copy.seat].member.id;
            if config.in_sync.contains(brick) && !before.contains(brick) {
                copy.readable_from = committed;
            }
        }
    }

    /// Lets readers know who is in sync; nobody reads while the primary is another and not ready.
    pub(super) fn publish_config(&self, g: u32) {
        let group = &self.groups[g as usize];
        let config = &group.config;
        let primary = self.seat_of(config.primary);
        let is_readable = |copy: &&Copy| {
            let brick = self.seats[copy.seat].member.id;
            config.in_sync.contains(brick) && copy.applied >= copy.readable_from
        };
        let readable = group.copies.iter().filter(is_readable);
        let readable = readable.map(|copy| copy.seat);
        self.shared.configured(g, config.epoch, primary, readable);
    }

    /// A primary serves: it may be read once all that was committed before is published.
    pub(super) fn serving(&mut self, g: u32, seat: usize, epoch: u64) {
        let member = Arc::clone(&self.seats[seat].member);
        let (told, brick) = (self.shared.input.clone(), member.id);
        let reached = member.inner.in_turn(None, |_, _| Ok(()));
        self.shared.runtime.spawn(async move {
            if reached.await.is_ok() {
                let group = GroupId(g);
                let _ = told.send(Input::Ready {
                    brick,
                    group,
                    epoch,
                });
            }
        });
        let parked = std::mem::take(&mut self.groups[g as usize].parked);
        for op in parked {
            self.ask_primary(op);
        }
    }

    pub(super) fn ready(&mut self, brick: BrickId, group: GroupId, epoch: u64) {
        let config = &self.groups[group.0 as usize].config;
        if config.primary == brick
            && config.epoch >= epoch
            && let Some(seat) = self.seat_of(brick)
            && !self.seats[seat].member.has_failed()
        {
            self.shared.set_reader(group.0, Some(seat));
        }
    }

    pub(super) fn failed(&mut self, brick: BrickId, error: &StoreError) {
        if let Some(seat) = self.seat_of(brick) {
            self.fail_seat(seat, error);
        }
    }

    /// A brick is of no use: every group goes on without it.
    pub(super) fn fail_seat(&mut self, seat: usize, error: &StoreError) {
        let member = Arc::clone(&self.seats[seat].member);
        if member.has_failed() {
            return;
        }
        tracing::error!(
            brick = member.id.0,
            "a brick failed and is taken out: {error}"
        );
        member.set_failed(true);
        let brick = member.id;
        self.ledger.forsake(brick);
        for g in 0..self.groups.len() as u32 {
            if self.shared.reader_seat(g) == Some(seat) {
                self.shared.set_reader(g, None);
            }
            for copy in &self.groups[g as usize].copies {
                let event = match copy.seat == seat {
                    true => Event::DiskFailed,
                    false => Event::PeerFailed { brick },
                };
                self.inbox.push_back((g, copy.seat, event));
            }
        }
        for g in 0..self.groups.len() as u32 {
            self.settle(g);
        }
    }

    /// A brick's disk takes bytes again: a new life of everything on it.
    pub(super) fn revived(&mut self, brick: BrickId, stored: Vec<Stored<Kept>>) {
        let Some(seat) = self.seat_of(brick) else {
            return;
        };
        tracing::warn!(brick = brick.0, "a brick is back, and catches up");
        self.seats[seat].life += 1;
        self.seats[seat].dirty.clear();
        self.seats[seat].is_checkpointing = false;
        self.seats[seat].member.set_failed(false);
        for (g, stored) in (0..).zip(stored) {
            let group = &self.groups[g as usize];
            let is_of_it = group.config.in_sync.contains(brick)
                || group.wanted.is_some_and(|wanted| wanted.contains(brick));
            if is_of_it {
                self.begin(g, seat, stored);
            }
        }
    }

    pub(super) fn set_wanted(&mut self, wanted: &[BrickSet]) {
        for (g, wanted) in (0..self.groups.len() as u32).zip(wanted) {
            let group = &mut self.groups[g as usize];
            group.wanted = Some(*wanted);
            let known: Vec<usize> = group.copies.iter().map(|copy| copy.seat).collect();
            for seat in &known {
                self.inbox.push_back((g, *seat, Event::Wanted(*wanted)));
            }
            for brick in wanted.iter() {
                if let Some(seat) = self.seat_of(brick)
                    && !known.contains(&seat)
                    && !self.seats[seat].member.has_failed()
                {
                    self.begin(g, seat, heal::nothing());
                }
            }
        }
    }
}
