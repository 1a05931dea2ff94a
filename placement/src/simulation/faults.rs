//! What goes wrong.

use super::disk::Disk;
use super::history::Name;
use super::world::{NAMES, Occurrence, World};
use crate::layout::BrickId;
use crate::replica::{BrickSet, Event, GroupConfig};

/// Something that ends by itself.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// A host is down.
    Down(usize),
    /// All are.
    AllDown,
    /// A host hears nobody, or nobody hears it.
    Apart(usize),
    /// Two hosts do not hear each other.
    Cut(usize, usize),
    /// The network fell in two: a bit for each host, and one for the store.
    Split(u32),
    /// A host cannot reach the store.
    StoreCut(usize),
    /// A host is heard by the store and does not hear it.
    StoreMute(usize),
    /// A disk writes no more.
    Disk(usize),
    /// Someone wants fewer copies.
    Drain,
}

impl World {
    /// Something goes wrong, and again after a while.
    pub(super) fn trouble(&mut self) {
        if self.is_healing {
            return;
        }
        // Now and then misfortunes come in rows, and to the same host.
        let is_row = self.random.is_one_of(300);
        let gap = self.random.within(
            1_000,
            if is_row {
                60_000
            } else {
                self.plan.fault_gap_us
            },
        );
        self.schedule(gap, Occurrence::Trouble);
        self.figures.faults += 1;
        let mut host = self.random.below(self.hosts.len() as u64) as usize;
        if self.random.is_one_of(300) {
            host = self.last_host;
        }
        self.last_host = host;
        let other = self.random.below(self.hosts.len() as u64) as usize;
        let lasts = self.random.within(1_000, self.plan.fault_us);
        let fault = if self.plan.is_local {
            self.trouble_within(host)
        } else {
            match self.random.below(20) {
                0..=3 => self.take_down(host),
                4 => {
                    for host in 0..self.hosts.len() {
                        self.take_down(host);
                    }
                    Some(Fault::AllDown)
                }
                5..=7 => {
                    self.hosts[host].paused_until = self.now + lasts;
                    None
                }
                8 => {
                    self.set_apart(host, true);
                    Some(Fault::Apart(host))
                }
                9 | 10 => {
                    let sides = self.random.below(1 << (self.hosts.len() + 1)) as u32;
                    self.split(sides, true);
                    Some(Fault::Split(sides))
                }
                11 | 12 if host != other => {
                    self.is_cut[host][other] = true;
                    Some(Fault::Cut(host, other))
                }
                13 => {
                    self.is_store_cut[host] = true;
                    Some(Fault::StoreCut(host))
                }
                14 => {
                    self.is_store_mute[host] = true;
                    Some(Fault::StoreMute(host))
                }
                15 => self.fail_disk(host),
                16 => self.wipe(host),
                17 | 18 => self.rot(host),
                _ => self.drain_brick(host),
            }
        };
        if let Some(trace) = self.trace {
            trace(format!("{} trouble: {fault:?}, host {host}", self.now));
        }
        if let Some(fault) = fault {
            self.schedule(lasts, Occurrence::Undo(fault));
        }
    }

    /// On one host only some things can go wrong.
    fn trouble_within(&mut self, host: usize) -> Option<Fault> {
        match self.random.below(8) {
            0 => {
                for host in 0..self.hosts.len() {
                    self.take_down(host);
                }
                Some(Fault::AllDown)
            }
            1..=3 => self.fail_disk(host),
            4 => self.wipe(host),
            5 | 6 => self.rot(host),
            _ => self.drain_brick(host),
        }
    }

    fn take_down(&mut self, host: usize) -> Option<Fault> {
        self.hosts[host].replica.as_ref()?;
        self.stop(host);
        Some(Fault::Down(host))
    }

    fn set_apart(&mut self, host: usize, is_apart: bool) {
        let one_way = is_apart && self.random.is_one_of(300);
        for other in 0..self.hosts.len() {
            self.is_cut[host][other] = is_apart;
            self.is_cut[other][host] = is_apart && !one_way;
        }
    }

    /// Cuts whatever lies on different sides: a bit for each host, and one for the store.
    pub(super) fn split(&mut self, sides: u32, is_cut: bool) {
        let count = self.hosts.len();
        let side = |which: usize| sides >> which & 1;
        for host in 0..count {
            for other in 0..count {
                if side(host) != side(other) {
                    self.is_cut[host][other] = is_cut;
                }
            }
            if side(host) != side(count) {
                self.is_store_cut[host] = is_cut;
            }
        }
    }

    fn fail_disk(&mut self, host: usize) -> Option<Fault> {
        self.hosts[host].replica.as_ref()?;
        let others = self.config.in_sync.without(Self::brick(host));
        if !others.iter().all(|other| self.is_sound(other)) {
            return None;
        }
        self.hosts[host].disk.is_failing = true;
        self.disk_failed(host);
        Some(Fault::Disk(host))
    }

    pub(super) fn disk_failed(&mut self, host: usize) {
        self.tell(host, Event::DiskFailed);
        if self.plan.is_local {
            let brick = Self::brick(host);
            for other in (0..self.hosts.len()).filter(|other| *other != host) {
                self.tell(other, Event::PeerFailed { brick });
            }
        }
    }

    /// Puts in an empty disk, where another brick in sync has everything, and by no change under
    /// way this one would be the last.
    fn wipe(&mut self, host: usize) -> Option<Fault> {
        let brick = Self::brick(host);
        let mut configs = vec![self.config];
        let replicas = self.hosts.iter().filter_map(|host| host.replica.as_ref());
        configs.extend(replicas.filter_map(|replica| replica.proposed().copied()));
        let is_kept = |config: &GroupConfig| {
            let others = config.in_sync.without(brick);
            !others.is_empty() && others.iter().all(|other| self.is_sound(other))
        };
        let is_drained = self.wanted.len() < self.hosts.len();
        if is_drained || self.hosts[host].replica.is_none() || !configs.iter().all(is_kept) {
            return None;
        }
        self.stop(host);
        self.forget_proposals(brick);
        self.hosts[host].disk = Disk::new(false);
        self.hosts[host].wiped = true;
        if self.plan.is_local {
            for other in (0..self.hosts.len()).filter(|other| *other != host) {
                self.tell(other, Event::PeerFailed { brick });
            }
        }
        Some(Fault::Down(host))
    }

    /// True where a brick has everything it should, and can write.
    fn is_sound(&self, brick: BrickId) -> bool {
        let disk = &self.hosts[brick.0 as usize].disk;
        let is_whole = disk.stored().is_complete && !disk.is_failing;
        is_whole && disk.tree.values().all(|file| !file.is_rotten)
    }

    /// Lets a file rot that another brick in sync has as well.
    fn rot(&mut self, host: usize) -> Option<Fault> {
        let name = self.random.below(u64::from(NAMES)) as Name;
        let file = self.hosts[host].disk.tree.get(&name).copied()?;
        let others = self.config.in_sync.without(Self::brick(host));
        let is_good = |brick: BrickId| {
            let tree = &self.hosts[brick.0 as usize].disk.tree;
            tree.get(&name) == Some(&file)
        };
        if others.iter().any(is_good) && !others.is_empty() {
            let all_good = others.iter().all(is_good);
            if all_good {
                self.hosts[host].disk.set_rotten(name, true);
            }
        }
        None
    }

    fn drain_brick(&mut self, host: usize) -> Option<Fault> {
        let wanted = self.wanted.without(Self::brick(host));
        let hosts = self.hosts.iter();
        let is_learning = hosts
            .map(|host| host.disk.stored().is_complete)
            .any(|is_whole| !is_whole);
        if wanted.is_empty() || is_learning {
            return None;
        }
        self.want(wanted);
        Some(Fault::Drain)
    }

    fn want(&mut self, wanted: BrickSet) {
        self.wanted = wanted;
        for host in 0..self.hosts.len() {
            self.tell(host, Event::Wanted(wanted));
        }
    }

    fn want_all(&mut self) {
        let all = (0..self.hosts.len()).map(Self::brick);
        let all = all.fold(BrickSet::default(), BrickSet::with);
        self.want(all);
    }

    pub(super) fn undo(&mut self, fault: Fault) {
        match fault {
            Fault::Down(host) => {
                // On one host all replicas start together.
                if self.hosts[host].replica.is_none() {
                    self.hosts[host].disk.is_failing = false;
                    self.start(host);
                }
            }
            Fault::AllDown => (0..self.hosts.len()).for_each(|host| self.undo(Fault::Down(host))),
            Fault::Apart(host) => self.set_apart(host, false),
            Fault::Split(sides) => self.split(sides, false),
            Fault::Cut(host, other) => self.is_cut[host][other] = false,
            Fault::StoreCut(host) => self.is_store_cut[host] = false,
            Fault::StoreMute(host) => self.is_store_mute[host] = false,
            Fault::Disk(host) => {
                if self.hosts[host].replica.is_some() {
                    self.stop(host);
                    self.hosts[host].disk.is_failing = false;
                    self.start(host);
                }
            }
            Fault::Drain => self.want_all(),
        }
    }

    /// Ends all faults, and lets scrub find what has rotted.
    pub(super) fn end_trouble(&mut self) {
        self.is_healing = true;
        for host in 0..self.hosts.len() {
            self.set_apart(host, false);
            self.is_store_cut[host] = false;
            self.is_store_mute[host] = false;
            self.hosts[host].paused_until = 0;
            if self.hosts[host].disk.is_failing {
                self.undo(Fault::Disk(host));
            }
            self.undo(Fault::Down(host));
        }
        self.want_all();
    }

    /// What a scrub of a brick finds.
    pub(super) fn scrub(&mut self, host: usize) {
        let tree = &self.hosts[host].disk.tree;
        let rotten: Vec<_> = tree
            .iter()
            .filter(|(_, file)| file.is_rotten)
            .map(|(name, file)| (*name, file.stamp))
            .collect();
        for (name, stamp) in rotten {
            self.tell(host, Event::Rotten { name, stamp });
        }
    }
}
