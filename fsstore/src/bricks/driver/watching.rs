//! Bricks that hang, that are full, and what could not be made anywhere.

use std::sync::Arc;
use std::time::Instant;

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::replica::Record;

use super::super::kinds::Kept;
use super::super::member::{Manner, spoil};
use super::applying::lock;
use super::{Driver, Input, OUT};
use crate::brick::disk::Disk;
use crate::error::{Result, StoreError};

impl<D: Disk> Driver<D> {
    /// Takes out bricks that have not done for too long what they were given.
    pub(super) fn watch(&mut self) {
        for at in 0..self.seats.len() {
            let seat = &self.seats[at];
            let limit = seat.member.hangs_after();
            let is_logging = seat.jobs_left > 0 && seat.jobs_since.elapsed() > limit;
            let is_applying = || {
                let copies = self.groups.iter().flat_map(|group| &group.copies);
                let mut own = copies.filter(|copy| copy.seat == at);
                own.any(|copy| {
                    let first = copy.applying.front();
                    first.is_some_and(|(_, since, _)| since.elapsed() > limit)
                })
            };
            if !seat.member.has_failed() && (is_logging || is_applying()) {
                let brick = seat.member.id;
                self.hung(brick);
            }
        }
    }

    pub(super) fn hung(&mut self, brick: BrickId) {
        let Some(seat) = self.seat_of(brick) else {
            return;
        };
        if self.seats[seat].member.has_failed() {
            return;
        }
        if self.holds_last(seat) {
            let limit = self.seats[seat].member.hangs_after();
            let told = &mut self.seats[seat].hung_told;
            if told.is_none_or(|told| told.elapsed() > limit) {
                *told = Some(Instant::now());
                let brick = brick.0;
                tracing::error!(brick, "a brick hangs that has the last copy of something");
            }
            return;
        }
        self.fail_seat(seat, &StoreError::Busy("a disk that hangs"));
    }

    /// A brick has no room for its log. Where others have all that it has they go on without it;
    /// the last copy of something waits for room.
    pub(super) fn full(&mut self, brick: BrickId, error: &StoreError) {
        let Some(seat) = self.seat_of(brick) else {
            return;
        };
        if self.holds_last(seat) {
            tracing::error!(
                brick = brick.0,
                "changes wait until a brick has room: {error}"
            );
            return;
        }
        self.fail_seat(seat, error);
    }

    /// Keeps what no copy could make.
    pub(super) fn keep_unmade(&mut self, g: u32, seq: u64) {
        let group = &mut self.groups[g as usize];
        if group.unmade.iter().any(|record| record.at.seq == seq) {
            return;
        }
        let mut records = group
            .copies
            .iter()
            .filter_map(|copy| copy.replica.record(seq));
        let found = records.next().map(Arc::clone);
        group.unmade.extend(found);
        group.tried = Instant::now();
    }

    /// Tries again what no copy could make.
    pub(super) fn make_again(&mut self) {
        for g in 0..self.groups.len() as u32 {
            let group = &mut self.groups[g as usize];
            if group.unmade.is_empty() || group.tried.elapsed() < OUT {
                continue;
            }
            group.tried = Instant::now();
            let seats: Vec<(usize, u64)> = group
                .copies
                .iter()
                .map(|copy| (copy.seat, copy.life))
                .collect();
            let lacks = |seq: &u64| {
                group
                    .copies
                    .iter()
                    .any(|copy| lock(&copy.spoiled).contains(seq))
            };
            let unmade: Vec<Arc<Record<Kept>>> = std::mem::take(&mut group.unmade)
                .into_iter()
                .filter(|record| lacks(&record.at.seq))
                .collect();
            for record in &unmade {
                for (seat, life) in &seats {
                    self.try_again(g, *seat, *life, Arc::clone(record));
                }
            }
            self.groups[g as usize].unmade = unmade;
        }
    }

    fn try_again(&mut self, g: u32, seat: usize, life: u64, record: Arc<Record<Kept>>) {
        let member = self.member(seat);
        let in_sync = self.groups[g as usize].config.in_sync.contains(member.id);
        let Some(copy) = self
            .copy(g, seat)
            .filter(|_| in_sync && !member.has_failed())
        else {
            return;
        };
        let spoiled = Arc::clone(&copy.spoiled);
        let (seq, group, brick) = (record.at.seq, GroupId(g), member.id);
        let how = Manner {
            group,
            checks: true,
            is_partial: false,
            counts: false,
            was_logged: false,
            peers: self.shared.all_members(),
        };
        let made = member.apply(record, how, &spoiled);
        let told = self.shared.input.clone();
        self.shared.runtime.spawn(async move {
            let result = made.await;
            let _ = told.send(Input::Remade {
                brick,
                life,
                group,
                seq,
                result,
            });
        });
    }

    pub(super) fn remade(
        &mut self,
        of: (BrickId, u64),
        group: GroupId,
        seq: u64,
        result: Result<()>,
    ) {
        let Some(seat) = self.living_seat(of, group) else {
            return;
        };
        let others: Vec<usize> = {
            let copies = &self.groups[group.0 as usize].copies;
            let others = copies.iter().filter(|copy| copy.seat != seat);
            let made = others.filter(|copy| !lock(&copy.spoiled).contains(&seq));
            made.map(|copy| copy.seat).collect()
        };
        match result {
            Ok(()) => {
                if let Some(copy) = self.copy(group.0, seat) {
                    lock(&copy.spoiled).remove(&seq);
                }
            }
            // Another has it: this one is behind.
            Err(error) if !others.is_empty() => self.spoil(group.0, seat, &error),
            Err(_) => {
                if let Some(copy) = self.copy(group.0, seat) {
                    spoil(&copy.spoiled, seq);
                }
            }
        }
    }
}
