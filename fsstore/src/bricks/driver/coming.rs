//! Bricks that come while the volume is served, and those that are let go.

use placement::layout::BrickId;
use placement::replica::Stored;
use tokio::sync::oneshot;

use super::super::coming::Left;
use super::super::kinds::Kept;
use super::{Driver, Seat, heal};
use crate::brick::disk::Disk;

impl<D: Disk> Driver<D> {
    /// A brick is here, in a seat that is new or that nobody has any more.
    pub(super) fn joined(&mut self, at: usize, mut seat: Seat<D>, stored: Vec<Stored<Kept>>) {
        let brick = seat.member.id;
        match self.seats.get(at) {
            Some(left) => {
                seat.life = seat.life.max(left.life + 1);
                for g in 0..self.groups.len() as u32 {
                    self.drop_copy(g, at);
                }
                self.seats[at] = seat;
            }
            None => self.seats.push(seat),
        }
        for (g, stored) in (0..).zip(stored) {
            let group = &self.groups[g as usize];
            if group.config.in_sync.contains(brick) {
                self.begin(g, at, stored);
            } else if group.wanted.is_some_and(|wanted| wanted.contains(brick)) {
                self.begin(g, at, heal::nothing());
            }
            self.tell_missing(g);
            // Of all: who had the seat before may have been readable.
            self.publish_config(g);
        }
    }

    /// A brick is to go; whoever asked is told what is left of it, and nothing where it is not here.
    pub(super) fn leave(&mut self, brick: BrickId, told: oneshot::Sender<Left>) {
        let is_here = |at: &usize| self.seats[*at].thread.is_some();
        let Some(at) = self.seat_of(brick).filter(is_here) else {
            return;
        };
        self.shut_out(at);
        // Its thread ends once it has done what it was given.
        let (gone, _) = std::sync::mpsc::channel();
        self.seats[at].jobs = gone;
        let _ = told.send((at, self.seats[at].thread.take()));
    }
}
