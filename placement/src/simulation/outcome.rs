//! What came of a seed.

use std::fmt::{self, Display};

use super::clients::Client;
use super::disk::File;
use super::history::{Ask, Name, Order, linearize};
use super::world::{Host, NAMES, World};
use crate::replica::{Alarm, BrickSet, Position, Read};

/// What a seed did wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// No order of what clients were told makes sense; the pair's history.
    NotLinearizable(String),
    /// Two records are committed at one place.
    Forked {
        /// Where.
        seq: u64,
    },
    /// A change was acknowledged that too few bricks had.
    TooFewCopies {
        /// Which.
        seq: u64,
        /// How many had it.
        copies: usize,
    },
    /// A brick was made one in sync, or kept so, that lacks what is committed.
    NotInSync {
        /// Which.
        brick: u32,
        /// What it lacks.
        seq: u64,
    },
    /// A brick may read a name after a change of it was acknowledged that it has not applied.
    StaleReader {
        /// Which brick.
        brick: u32,
        /// The change.
        seq: u64,
    },
    /// A replica gave an alarm for which there was no reason.
    Alarmed(Alarm),
    /// Copies differ after all came into sync.
    CopiesDiffer(String),
    /// All faults were over, and yet not all came into sync.
    NoRest(String),
}

/// What happened in a seed, or in many.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Events.
    pub events: u64,
    /// Requests of clients that got an answer.
    pub answered: u64,
    /// Requests whose outcome stayed unknown.
    pub unknown: u64,
    /// Faults.
    pub faults: u64,
    /// Changes of the configuration.
    pub epochs: u64,
    /// Trees compared whole.
    pub walks: u64,
    /// Files fetched for learners.
    pub copies: u64,
    /// Rotten files mended.
    pub mended: u64,
    /// Seeds that ended with a file that no brick has a good copy of.
    pub rotted: u64,
    /// Histories too hard to search through.
    pub given_up: u64,
}

impl Figures {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            events: self.events + other.events,
            answered: self.answered + other.answered,
            unknown: self.unknown + other.unknown,
            faults: self.faults + other.faults,
            epochs: self.epochs + other.epochs,
            walks: self.walks + other.walks,
            copies: self.copies + other.copies,
            mended: self.mended + other.mended,
            rotted: self.rotted + other.rotted,
            given_up: self.given_up + other.given_up,
        }
    }
}

impl World {
    /// True where all are in sync and nothing is under way.
    pub(super) fn is_at_rest(&self) -> bool {
        let all = |set: BrickSet| set.len() == self.plan.bricks;
        let same = |host: &Host| {
            let replica = host.replica.as_ref();
            replica.is_some_and(|replica| {
                let (commit, last) = replica.progress();
                commit == last
                    && replica
                        .config()
                        .is_some_and(|config| *config == self.config)
                    && host.disk.tree.values().all(|file| !file.is_rotten)
            })
        };
        let commits: Vec<u64> = self
            .hosts
            .iter()
            .filter_map(|host| host.replica.as_ref())
            .map(|replica| replica.progress().0)
            .collect();
        let primary = self.hosts[self.config.primary.0 as usize].replica.as_ref();
        let is_readable = primary.is_some_and(|primary| {
            let now = self.time(self.config.primary.0 as usize);
            primary.is_serving() && primary.may_read(now, &0) == Read::Here
        });
        all(self.config.in_sync)
            && self.hosts.iter().all(same)
            && commits.windows(2).all(|pair| pair[0] == pair[1])
            && is_readable
            && self.clients.iter().all(Client::is_idle)
    }

    /// Everyone in sync has everything committed, durably; an empty disk will be found out.
    pub(super) fn check_in_sync(&mut self) {
        for brick in self.config.in_sync.iter() {
            let host = &self.hosts[brick.0 as usize];
            if host.wiped && !host.disk.is_complete() {
                continue;
            }
            let missing = |(_, at): &(&u64, &Position)| !host.disk.has(**at);
            if let Some((seq, _)) = self.committed.iter().find(missing) {
                let (brick, seq) = (brick.0, *seq);
                self.violation = Some(Violation::NotInSync { brick, seq });
            }
        }
    }

    /// Whoever may read a name has applied what was acknowledged of it.
    pub(super) fn check_readers(&mut self, ask: Ask, at: Position) {
        for (index, host) in self.hosts.iter().enumerate() {
            let Some(replica) = &host.replica else {
                continue;
            };
            let may = replica.may_read(self.time(index), &ask.name()) == Read::Here;
            if may && host.paused_until <= self.now && replica.progress().0 < at.seq {
                let (brick, seq) = (index as u32, at.seq);
                self.violation = Some(Violation::StaleReader { brick, seq });
            }
        }
    }

    pub(super) fn has_lost_to_rot(&self) -> bool {
        let trees = || self.hosts.iter().map(|host| &host.disk.tree);
        let is_lost = |(name, file): (&Name, &File)| {
            let is_good = |other: &File| other.stamp == file.stamp && !other.is_rotten;
            file.is_rotten && !trees().any(|tree| tree.get(name).is_some_and(is_good))
        };
        trees().any(|tree| tree.iter().any(is_lost))
    }

    pub(super) fn compare_copies(&self) -> Result<(), Violation> {
        let first = &self.hosts[0].disk.tree;
        for (index, host) in self.hosts.iter().enumerate() {
            if host.disk.tree != *first {
                let text = format!("brick 0: {first:?}\nbrick {index}: {:?}", host.disk.tree);
                return Err(Violation::CopiesDiffer(text));
            }
        }
        Ok(())
    }

    pub(super) fn check_histories(&mut self) -> Result<(), Violation> {
        for pair in 0..usize::from(NAMES / 2) {
            let entries = self.entries(pair);
            match linearize(&entries) {
                Order::Found => {}
                Order::TooHard => self.figures.given_up += 1,
                Order::Missing => {
                    let lines: Vec<String> = entries.iter().map(ToString::to_string).collect();
                    return Err(Violation::NotLinearizable(lines.join("\n")));
                }
            }
        }
        Ok(())
    }

    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?}\n", self.config);
        for host in &self.hosts {
            text.push_str(&format!("{:?}\n", host.replica));
        }
        let waiting = self
            .clients
            .iter()
            .filter(|client| !client.is_idle())
            .count();
        text + &format!("{waiting} clients wait")
    }
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLinearizable(history) => write!(f, "not linearizable:\n{history}"),
            Self::Forked { seq } => write!(f, "two records committed at {seq}"),
            Self::TooFewCopies { seq, copies } => {
                write!(f, "record {seq} acknowledged with {copies} copies")
            }
            Self::NotInSync { brick, seq } => write!(f, "brick {brick} in sync without {seq}"),
            Self::StaleReader { brick, seq } => write!(f, "brick {brick} may read before {seq}"),
            Self::Alarmed(alarm) => write!(f, "alarm: {alarm:?}"),
            Self::CopiesDiffer(trees) => write!(f, "copies differ:\n{trees}"),
            Self::NoRest(state) => write!(f, "no rest:\n{state}"),
        }
    }
}
