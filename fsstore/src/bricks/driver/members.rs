//! Who holds a group, and bricks that come and go.

use std::sync::Arc;
use std::time::Instant;

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::replica::{BrickSet, Event, GroupConfig, Stored};

use super::super::kinds::Kept;
use super::super::logger::LogJob;
use super::super::member::spoil;
use super::{Copy, Driver, Input, OUT, heal};
use crate::brick::disk::Disk;
use crate::error::StoreError;

impl<D: Disk> Driver<D> {
    /// Tells the copies of a group which of the others are not here.
    pub(super) fn tell_missing(&mut self, g: u32) {
        let group = &self.groups[g as usize];
        let is_here = |brick: BrickId| {
            group.copies.iter().any(|copy| {
                let member = &self.seats[copy.seat].member;
                let is_well = copy.out_since.is_none() && !member.has_failed();
                member.id == brick && is_well
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
            let is_well = copy.out_since.is_none() && copy.applied >= copy.readable_from;
            config.in_sync.contains(brick) && is_well
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
        let config = self.groups[group.0 as usize].config;
        if config.primary == brick
            && config.epoch >= epoch
            && let Some(seat) = self.seat_of(brick)
            && !self.seats[seat].member.has_failed()
            && self
                .copy(group.0, seat)
                .is_some_and(|copy| copy.out_since.is_none())
        {
            // Whatever it had to publish it has published: that is told apart, and may be later.
            if let Some(copy) = self.copy(group.0, seat) {
                copy.readable_from = 0;
            }
            self.publish_config(group.0);
            self.shared.set_reader(group.0, Some(seat));
        }
    }

    /// Something on a brick could not be read or written. Where it has the last copy of anything
    /// it stays: most of it may be well, and whether it can be written its log tells.
    pub(super) fn failed(&mut self, brick: BrickId, error: &StoreError) {
        let Some(seat) = self.seat_of(brick) else {
            return;
        };
        if self.holds_last(seat) {
            tracing::warn!(
                brick = brick.0,
                "a brick failed, and stays since it has the last copy of something: {error}"
            );
        } else {
            self.fail_seat(seat, error);
        }
    }

    pub(super) fn log_failed(&mut self, brick: BrickId, error: &StoreError) {
        if let Some(seat) = self.seat_of(brick) {
            self.take_out(seat, error);
        }
    }

    /// Whether nobody else has all of some group.
    pub(super) fn holds_last(&self, seat: usize) -> bool {
        let brick = self.seats[seat].member.id;
        self.groups.iter().any(|group| {
            let is_other = |copy: &Copy| {
                let member = &self.seats[copy.seat].member;
                let is_well = copy.out_since.is_none() && !member.has_failed();
                copy.seat != seat && is_well && group.config.in_sync.contains(member.id)
            };
            group.config.in_sync.contains(brick) && !group.copies.iter().any(is_other)
        })
    }

    /// A copy is not what it should be: its group goes on without it, and it begins again later.
    pub(super) fn spoil(&mut self, g: u32, seat: usize, error: &StoreError) {
        let brick = self.seats[seat].member.id;
        let Some(copy) = self.copy(g, seat) else {
            return;
        };
        if copy.out_since.replace(Instant::now()).is_some() {
            return;
        }
        spoil(&copy.spoiled, u64::MAX);
        tracing::error!(
            group = g,
            brick = brick.0,
            "a copy is not complete, and is made again: {error}"
        );
        self.tell_out(g, seat);
        self.publish_config(g);
    }

    fn tell_out(&mut self, g: u32, seat: usize) {
        if self.shared.reader_seat(g) == Some(seat)
            && let Some(other) = self.readable_beside(g, seat)
        {
            self.shared.set_reader(g, Some(other));
        }
        let brick = self.seats[seat].member.id;
        for copy in &self.groups[g as usize].copies {
            let event = match copy.seat == seat {
                true => Event::DiskFailed,
                false => Event::PeerFailed { brick },
            };
            self.inbox.push_back((g, copy.seat, event));
        }
    }

    /// Another copy that may be read: all in sync have what was answered, whoever is primary. Where
    /// there is none the one that cannot be written stays to be read.
    fn readable_beside(&self, g: u32, seat: usize) -> Option<usize> {
        let group = &self.groups[g as usize];
        let is_readable = |copy: &&Copy| {
            let member = &self.seats[copy.seat].member;
            let is_well = copy.out_since.is_none() && !member.has_failed();
            let has_all = copy.applied >= copy.readable_from;
            copy.seat != seat && is_well && has_all && group.config.in_sync.contains(member.id)
        };
        let mut copies = group.copies.iter();
        copies.find(is_readable).map(|copy| copy.seat)
    }

    /// Begins copies again that could not be made what they should be.
    pub(super) fn begin_again(&mut self) {
        for g in 0..self.groups.len() as u32 {
            let group = &self.groups[g as usize];
            let is_over = |copy: &&Copy| copy.out_since.is_some_and(|since| since.elapsed() > OUT);
            let over: Vec<usize> = group
                .copies
                .iter()
                .filter(is_over)
                .map(|c| c.seat)
                .collect();
            let (config, wanted) = (group.config, group.wanted);
            for seat in over {
                let member = Arc::clone(&self.seats[seat].member);
                if member.has_failed() {
                    continue;
                }
                if config.in_sync.contains(member.id) {
                    // It has not been let go: it begins again by its log.
                    match self.holds_last(seat) {
                        true => self.log(seat, LogJob::Again(GroupId(g))),
                        false => {
                            let error = StoreError::Busy("a copy that is not complete");
                            self.fail_seat(seat, &error);
                        }
                    }
                    continue;
                }
                self.drop_copy(g, seat);
                if wanted.is_none_or(|wanted| wanted.contains(member.id)) {
                    self.seats[seat].life += 1;
                    self.begin(g, seat, heal::nothing());
                }
            }
        }
    }

    pub(super) fn drop_copy(&mut self, g: u32, seat: usize) {
        self.park_asked(g, seat);
        self.seats[seat].member.note_applied(GroupId(g), None);
        let group = &mut self.groups[g as usize];
        group.drop_copy(seat);
        group.failures.retain(|(_, failed, _)| *failed != seat);
    }

    /// A brick is of no use: every group goes on without it, until its disk was looked at.
    pub(super) fn fail_seat(&mut self, seat: usize, error: &StoreError) {
        if !self.seats[seat].member.has_failed() {
            self.take_out(seat, error);
            self.log(seat, LogJob::Probe);
        }
    }

    fn take_out(&mut self, seat: usize, error: &StoreError) {
        let member = Arc::clone(&self.seats[seat].member);
        if member.has_failed() {
            return;
        }
        tracing::error!(
            brick = member.id.0,
            "a brick failed and is taken out: {error}"
        );
        self.shut_out(seat);
    }

    /// Every group goes on without a brick.
    pub(super) fn shut_out(&mut self, seat: usize) {
        let member = &self.seats[seat].member;
        if member.has_failed() {
            return;
        }
        member.set_failed(true);
        let brick = member.id;
        self.ledger.forsake(brick);
        for g in 0..self.groups.len() as u32 {
            self.tell_out(g, seat);
        }
        for g in 0..self.groups.len() as u32 {
            self.settle(g);
        }
    }

    /// A brick's disk takes bytes again: a new life of everything on it. Where it was let go
    /// meanwhile it is compared whole, now or when it is wanted again.
    pub(super) fn revived(&mut self, brick: BrickId, stored: Vec<Stored<Kept>>) {
        // One that has left, or come again since, has another log.
        let is_awaited = |seat: &usize| {
            let seat = &self.seats[*seat];
            seat.member.has_failed() && seat.thread.is_some()
        };
        let Some(seat) = self.seat_of(brick).filter(is_awaited) else {
            return;
        };
        tracing::warn!(brick = brick.0, "a brick is back, and catches up");
        self.log(seat, LogJob::Began);
        self.seats[seat].jobs_left = 0;
        self.seats[seat].is_poisoned = false;
        self.seats[seat].life += 1;
        self.seats[seat].dirty.clear();
        self.seats[seat].is_checkpointing = false;
        self.seats[seat].settling.clear();
        self.seats[seat].member.set_failed(false);
        for (g, stored) in (0..).zip(stored) {
            self.drop_copy(g, seat);
            let group = &self.groups[g as usize];
            if group.config.in_sync.contains(brick) {
                self.begin(g, seat, stored);
            } else if group.wanted.is_some_and(|wanted| wanted.contains(brick)) {
                self.begin(g, seat, heal::nothing());
            }
            // What it has logged and not published is not read from it.
            self.publish_config(g);
        }
    }

    /// The last copy of a group begins again with what its log has.
    pub(super) fn again(&mut self, brick: BrickId, group: GroupId, stored: Stored<Kept>) {
        let (g, seat) = (group.0, self.seat_of(brick));
        let Some(seat) = seat.filter(|seat| !self.seats[*seat].member.has_failed()) else {
            return;
        };
        let is_out = self
            .copy(g, seat)
            .is_some_and(|copy| copy.out_since.is_some());
        if is_out && self.groups[g as usize].config.in_sync.contains(brick) {
            self.drop_copy(g, seat);
            self.seats[seat].life += 1;
            self.begin(g, seat, stored);
            self.tell_missing(g);
            self.publish_config(g);
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
