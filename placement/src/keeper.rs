//! Who keeps the configuration of a volume whose bricks are all on one host: the bricks
//! themselves, each with a copy of one small file, the *ledger*.
//!
//! A ledger is in force once most of its seats have it durably. Seats are the bricks, and with two
//! bricks also a directory of the server's own: of two seats none may be missing, of three one
//! may. Only one process has the bricks open at a time (it holds their locks), so there is nothing
//! to agree on, only something not to forget:
//!
//! - A start needs most seats of the newest ledger found. Whatever was in force is then among what
//!   was found, because two majorities share a seat.
//! - A start begins a *term*. It notes the term on most seats first (a promise), then writes the
//!   newest ledger again, in that term, to most seats, and only then serves. So no two starts
//!   write ledgers of one term, and what an earlier start left on few seats that are away is never
//!   taken for newer than what was decided since. (Without the promise two starts that each
//!   reached one seat could have the same term: the tests' random walk found that.)
//! - A brick in sync holds the newest ledger or the one before it. An older one was put back from
//!   a copy or away for long: it is a learner, whatever the ledger says.
//!
//! What is changed for many groups at once (a brick fails) is one revision. An outcome is unknown
//! until most seats answered; whoever asked is told nothing until then.

use std::collections::BTreeSet;

#[cfg(test)]
mod tests;

/// A UUID's bytes.
pub type Uuid = [u8; 16];

/// What a brick says of itself. Written last when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// The volume it is of.
    pub volume: Uuid,
    /// Which brick it is.
    pub seat: Uuid,
}

/// Which of two ledgers is newer: that of the later term, within a term that of the higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Revision {
    /// Counts starts of the volume.
    pub term: u64,
    /// Counts ledgers.
    pub number: u64,
}

/// The configuration, as each seat keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger<C> {
    /// The volume.
    pub volume: Uuid,
    /// Which it is.
    pub at: Revision,
    /// The one it was made from.
    pub before: Revision,
    /// Who keeps it.
    pub seats: BTreeSet<Uuid>,
    /// What it says of groups and bricks.
    pub config: C,
}

/// What was found in one place.
#[derive(Debug, Clone)]
pub enum Found<C> {
    /// Nothing there, or not to be read.
    Missing,
    /// Made halfway: files of a brick without its label.
    HalfMade,
    /// A brick, or the server's own directory.
    Seat {
        /// What it says of itself.
        label: Label,
        /// The latest term noted there.
        promised: u64,
        /// Its ledger.
        ledger: Ledger<C>,
    },
}

/// Why a volume is not started. Places are indices of what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing of a volume anywhere.
    NoVolume,
    /// Making this brick was interrupted; it is empty and may be made anew.
    HalfMade {
        /// Where.
        place: usize,
    },
    /// A brick of another volume.
    Foreign {
        /// Where.
        place: usize,
        /// The volume it is of.
        volume: Uuid,
    },
    /// The same brick twice: one is a copy of the other.
    Cloned {
        /// Where.
        places: [usize; 2],
        /// Which brick.
        seat: Uuid,
    },
    /// A brick that was taken out of the volume, or never belonged to it.
    Stranger {
        /// Where.
        place: usize,
        /// Which brick.
        seat: Uuid,
    },
    /// Too few seats to know what was decided last.
    NoMajority {
        /// How many were found.
        found: usize,
        /// How many are needed.
        needed: usize,
        /// Those not found.
        missing: Vec<Uuid>,
    },
    /// Two ledgers of one revision that differ: someone changed one by hand.
    Contradiction {
        /// Which revision.
        at: Revision,
    },
}

/// How a volume starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start<C> {
    /// To be put in force ([`Keeper::claim`]) before anything is served. Its term is new.
    pub claim: Ledger<C>,
    /// Seats found whose ledger is older than the last two: nothing on them counts as in sync.
    pub stale: Vec<Uuid>,
    /// Seats not found.
    pub missing: Vec<Uuid>,
}

/// How many of `seats` are most of them.
pub fn majority(seats: usize) -> usize {
    seats / 2 + 1
}

/// Decides whether and how a volume starts from what was found.
pub fn start<C: Clone + PartialEq>(found: &[Found<C>]) -> Result<Start<C>, Refusal> {
    let mut seats: Vec<(usize, &Label, &Ledger<C>)> = Vec::new();
    let mut term = 0;
    for (place, found) in found.iter().enumerate() {
        match found {
            Found::Missing => {}
            Found::HalfMade => return Err(Refusal::HalfMade { place }),
            Found::Seat {
                label,
                promised,
                ledger,
            } => {
                term = term.max(*promised).max(ledger.at.term);
                seats.push((place, label, ledger));
            }
        }
    }
    refuse_foreign(&seats)?;
    refuse_clones(&seats)?;
    let Some((_, _, newest)) = seats.iter().max_by_key(|(_, _, ledger)| ledger.at) else {
        return Err(Refusal::NoVolume);
    };
    let is_other = |ledger: &Ledger<C>| ledger.at == newest.at && ledger != *newest;
    if seats.iter().any(|(_, _, ledger)| is_other(ledger)) {
        return Err(Refusal::Contradiction { at: newest.at });
    }
    let is_stranger = |seat: &Uuid| !newest.seats.contains(seat);
    if let Some((place, label, _)) = seats.iter().find(|(_, label, _)| is_stranger(&label.seat)) {
        let (place, seat) = (*place, label.seat);
        return Err(Refusal::Stranger { place, seat });
    }
    let is_missing = |seat: &&Uuid| !seats.iter().any(|(_, label, _)| label.seat == **seat);
    let missing: Vec<Uuid> = newest.seats.iter().filter(is_missing).copied().collect();
    let needed = majority(newest.seats.len());
    if seats.len() < needed {
        let found = seats.len();
        return Err(Refusal::NoMajority {
            found,
            needed,
            missing,
        });
    }
    let is_stale = |ledger: &Ledger<C>| ledger.at < newest.before;
    let stale = seats.iter().filter(|(_, _, ledger)| is_stale(ledger));
    Ok(Start {
        claim: Ledger {
            at: Revision {
                term: term + 1,
                number: newest.at.number + 1,
            },
            before: newest.at,
            ..(*newest).clone()
        },
        stale: stale.map(|(_, label, _)| label.seat).collect(),
        missing,
    })
}

fn refuse_foreign<C>(seats: &[(usize, &Label, &Ledger<C>)]) -> Result<(), Refusal> {
    let of_volume = |volume: &Uuid| {
        seats
            .iter()
            .filter(|(_, label, _)| label.volume == *volume)
            .count()
    };
    let usual = seats.iter().map(|(_, label, _)| label.volume);
    // Where as many are of one volume as of the other, the first place counts.
    let usual = usual.rev().max_by_key(of_volume);
    let is_foreign = |label: &Label, ledger: &Ledger<C>| {
        Some(label.volume) != usual || ledger.volume != label.volume
    };
    let foreign = seats
        .iter()
        .find(|(_, label, ledger)| is_foreign(label, ledger));
    foreign.map_or(Ok(()), |(place, label, _)| {
        Err(Refusal::Foreign {
            place: *place,
            volume: label.volume,
        })
    })
}

fn refuse_clones<C>(seats: &[(usize, &Label, &Ledger<C>)]) -> Result<(), Refusal> {
    for (index, (place, label, _)) in seats.iter().enumerate() {
        let twin = seats[..index]
            .iter()
            .find(|(_, other, _)| other.seat == label.seat);
        if let Some((first, _, _)) = twin {
            return Err(Refusal::Cloned {
                places: [*first, *place],
                seat: label.seat,
            });
        }
    }
    Ok(())
}

/// The ledger in force, and the one on its way.
#[derive(Debug, Clone)]
pub struct Keeper<C> {
    in_force: Ledger<C>,
    pending: Option<Pending<C>>,
    /// Seats that noted the term, until most have.
    promises: Option<BTreeSet<Uuid>>,
}

#[derive(Debug, Clone)]
struct Pending<C> {
    ledger: Ledger<C>,
    written: BTreeSet<Uuid>,
}

impl<C: Clone> Keeper<C> {
    /// Begins with a claim: first its term is to be noted on its seats, then it is to be written.
    pub fn claim(claim: Ledger<C>) -> Self {
        Self {
            in_force: claim.clone(),
            pending: Some(Pending {
                ledger: claim,
                written: BTreeSet::new(),
            }),
            promises: Some(BTreeSet::new()),
        }
    }

    /// The term that is to be noted on all seats, until most have it.
    pub fn promise(&self) -> Option<u64> {
        self.promises.as_ref().map(|_| self.in_force.at.term)
    }

    /// A seat has noted the term durably.
    pub fn promised(&mut self, seat: Uuid) {
        let seats = &self.in_force.seats;
        if let Some(promises) = &mut self.promises {
            promises.insert(seat);
            if seats.intersection(promises).count() >= majority(seats.len()) {
                self.promises = None;
            }
        }
    }

    /// The ledger in force; none before the claim is.
    pub fn in_force(&self) -> Option<&Ledger<C>> {
        let is_claiming = self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.ledger.at == self.in_force.at);
        (!is_claiming).then_some(&self.in_force)
    }

    /// The ledger on its way: to be written to every seat of it and of the one in force, and again
    /// where that failed and can be tried.
    pub fn pending(&self) -> Option<&Ledger<C>> {
        let pending = self.pending.as_ref().filter(|_| self.promises.is_none());
        pending.map(|pending| &pending.ledger)
    }

    /// Makes the next ledger; to be written as [`pending`](Self::pending) says. None while one is
    /// on its way: what is to be changed meanwhile goes into the next.
    pub fn propose(&mut self, seats: BTreeSet<Uuid>, config: C) -> Option<&Ledger<C>> {
        if self.pending.is_some() {
            return None;
        }
        let at = self.in_force.at;
        let ledger = Ledger {
            volume: self.in_force.volume,
            at: Revision {
                number: at.number + 1,
                ..at
            },
            before: at,
            seats,
            config,
        };
        let pending = self.pending.insert(Pending {
            ledger,
            written: BTreeSet::new(),
        });
        Some(&pending.ledger)
    }

    /// A seat has a ledger durably. True where that puts it in force: most seats of it have it, and
    /// most of the one before, whose seats a start may look for.
    pub fn written(&mut self, seat: Uuid, at: Revision) -> bool {
        let Some(pending) = &mut self.pending else {
            return false;
        };
        if pending.ledger.at != at {
            return false;
        }
        pending.written.insert(seat);
        let has_most = |seats: &BTreeSet<Uuid>| {
            seats.intersection(&pending.written).count() >= majority(seats.len())
        };
        if !has_most(&pending.ledger.seats) || !has_most(&self.in_force.seats) {
            return false;
        }
        if let Some(pending) = self.pending.take() {
            self.in_force = pending.ledger;
        }
        true
    }
}
