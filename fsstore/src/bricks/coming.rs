//! Bricks that come to a volume and go from it while it is served.
//!
//! A brick has one *seat* in the process, a number that readers know it by. Where a brick comes
//! again it gets the seat that it had; one that is new may get that of a brick that has left.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use placement::group::GroupId;
use placement::layout::BrickId;
use tokio::sync::oneshot;

use super::Bricks;
use super::driver::{Input, Seat};
use super::logger::start as start_logger;
use super::member::Member;
use super::plan::MAX_BRICKS;
use super::serving::{Present, open_log};
use crate::brick::disk::Disk;
use crate::brick::sink::off_thread;
use crate::error::{Result, StoreError};

/// What is left of a brick that was let go: its seat, and its logging thread, which ends.
pub(super) type Left = (usize, Option<JoinHandle<()>>);

/// Seats of bricks that have left. The lock is never held while a disk is waited for.
#[derive(Default)]
pub(super) struct FreeSeats(Mutex<Seating>);

#[derive(Default)]
struct Seating {
    free: BTreeSet<usize>,
    /// Someone is on his way to a seat: one at a time.
    is_coming: bool,
}

/// A seat that is kept for who comes; given up when it is dropped before.
struct Reserved<'a> {
    seats: &'a FreeSeats,
    at: usize,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.seats.lock().is_coming = false;
    }
}

impl FreeSeats {
    fn lock(&self) -> MutexGuard<'_, Seating> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn contains(&self, seat: usize) -> bool {
        self.lock().free.contains(&seat)
    }

    /// Keeps a seat: the one at `known`, where the brick has had one. `count` are there.
    fn reserve(&self, known: Option<usize>, count: usize) -> Result<Reserved<'_>> {
        let mut seating = self.lock();
        if seating.is_coming {
            return Err(StoreError::Busy("another brick that is coming"));
        }
        let at = match known {
            Some(at) if !seating.free.contains(&at) => {
                return Err(StoreError::Busy("a brick that is still here"));
            }
            Some(at) => at,
            None => seating.free.first().copied().unwrap_or(count),
        };
        if at >= MAX_BRICKS {
            return Err(StoreError::NoSpace);
        }
        seating.is_coming = true;
        Ok(Reserved { seats: self, at })
    }
}

impl<D: Disk> Bricks<D> {
    /// Takes a brick in, a new one or one that [has left](Self::leave): what it should have and has
    /// not is brought to it. Errors: those of its log; Busy (it is here, or
    /// another is coming), NoSpace (no seat is free).
    pub async fn join(&self, present: Present<D>) -> Result<()> {
        let bricks = self.clone();
        off_thread(move || bricks.join_blocking(present)).await
    }

    fn join_blocking(&self, present: Present<D>) -> Result<()> {
        let shared = &self.shared;
        let members = shared.all_members();
        let known = members.iter().position(|member| member.id == present.id);
        let reserved = self.free.reserve(known, members.len())?;
        let at = reserved.at;
        let count = shared.grouping.count();
        let Present {
            id,
            brick,
            is_doubted,
        } = present;
        let member = Arc::new(Member::new(id, brick)?);
        // A log that is begun now knows of nothing that is whole.
        let log = open_log(&member, count, |_| false, is_doubted)?;
        let stored = (0..count).map(|g| log.stored(GroupId(g))).collect();
        let (jobs, thread) = start_logger(Arc::clone(&member), log, count, shared.input.clone())
            .map_err(|e| StoreError::from_io("start a logging thread", e))?;
        let seat = Seat::new(Arc::clone(&member), jobs, thread, self.term << 32);
        {
            let mut all = shared
                .members
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            match all.get_mut(at) {
                Some(left) => *left = member,
                None => all.push(member),
            }
        }
        self.free.lock().free.remove(&at);
        let seat = Box::new(seat);
        let sent = shared.input.send(Input::Joined { at, seat, stored });
        sent.map_err(|_| StoreError::Stopping)
    }

    /// Lets a brick go: its groups go on without it, and it is closed. Where it holds the last copy
    /// of something, that cannot be reached until it joins again. Gives whether it was here. Dropped
    /// before its end it leaves the brick out, and its seat taken.
    pub async fn leave(&self, brick: BrickId) -> Result<bool> {
        let (told, heard) = oneshot::channel();
        let asked = self.shared.input.send(Input::Leave { brick, told });
        asked.map_err(|_| StoreError::Stopping)?;
        let Ok((at, thread)) = heard.await else {
            return Ok(false);
        };
        if let Some(thread) = thread {
            off_thread(move || {
                if thread.join().is_err() {
                    tracing::error!("a logging thread panicked");
                }
                Ok(())
            })
            .await?;
        }
        let member = self.shared.all_members().get(at).cloned();
        if let Some(member) = member {
            if let Err(error) = member.close().await {
                tracing::info!(brick = brick.0, %error, "a brick that left cannot be ended in order");
            }
            self.free.lock().free.insert(at);
        }
        Ok(true)
    }
}
