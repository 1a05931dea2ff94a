//! The bricks of a volume, and what each failure takes away.

/// A brick's number in its volume's configuration; it stands for the brick's UUID and is never
/// given to another brick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BrickId(pub u32);

/// A brick, as placement sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brick {
    /// Which.
    pub id: BrickId,
    /// Its size, in any unit that all bricks of the volume share. 0 for a brick being drained:
    /// it gets nothing, and what it has goes elsewhere.
    pub weight: u64,
    /// What fails with it.
    pub domain: Domain,
}

/// Where a brick stands. Numbers are the volume's own; a host's is unique over all racks, a
/// disk's over all hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Domain {
    /// Power, switch.
    pub rack: u32,
    /// Machine.
    pub host: u32,
    /// Device; two bricks on one file system share it.
    pub disk: u32,
}

/// What no two copies may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// A disk.
    Disk,
    /// A host (and so no disk).
    Host,
    /// A rack (and so no host).
    Rack,
}

/// What placement is decided by.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Copies of each group; at most [`MAX_COPIES`](crate::replica::MAX_COPIES).
    pub replicas: usize,
    /// What no two copies share.
    pub spread: Spread,
    /// The bricks, each once.
    pub bricks: Vec<Brick>,
}

impl Spread {
    /// The number of the failure domain that a brick is in.
    pub fn of(self, domain: Domain) -> u32 {
        match self {
            Self::Disk => domain.disk,
            Self::Host => domain.host,
            Self::Rack => domain.rack,
        }
    }
}

impl Layout {
    /// How many failure domains have bricks that take groups. Fewer than `replicas` means that
    /// groups get fewer copies than asked for.
    pub fn domains(&self) -> usize {
        let taking = self.bricks.iter().filter(|brick| brick.weight > 0);
        let mut seen: Vec<u32> = taking.map(|brick| self.spread.of(brick.domain)).collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len()
    }

    /// How many of `groups` groups each brick should hold: by weight, but no failure domain more
    /// than one copy of each group. In the order of `bricks`.
    pub fn ideal_loads(&self, groups: u32) -> Vec<f64> {
        let domain_of: Vec<u32> = self
            .bricks
            .iter()
            .map(|brick| self.spread.of(brick.domain))
            .collect();
        let mut domains: Vec<(u32, f64, bool)> = Vec::new();
        for (brick, domain) in self.bricks.iter().zip(&domain_of) {
            match domains.iter_mut().find(|(known, _, _)| known == domain) {
                Some((_, weight, _)) => *weight += brick.weight as f64,
                None => domains.push((*domain, brick.weight as f64, false)),
            }
        }
        domains.retain(|(_, weight, _)| *weight > 0.0);
        let copies = self.replicas.min(domains.len()) as f64;
        // Domains too heavy for their share hold one copy of everything; the rest share the rest.
        let mut per_weight;
        loop {
            let full = domains.iter().filter(|(_, _, is_full)| *is_full).count() as f64;
            let open: f64 = domains
                .iter()
                .filter(|(_, _, is_full)| !is_full)
                .map(|(_, weight, _)| weight)
                .sum();
            per_weight = if open > 0.0 {
                (copies - full) / open
            } else {
                0.0
            };
            let mut has_changed = false;
            for (_, weight, is_full) in &mut domains {
                if !*is_full && *weight * per_weight > 1.0 {
                    *is_full = true;
                    has_changed = true;
                }
            }
            if !has_changed {
                break;
            }
        }
        let share = |(brick, domain): (&Brick, &u32)| {
            let known = domains.iter().find(|(known, _, _)| known == domain);
            known.map_or(0.0, |(_, total, is_full)| {
                let of_weight = if *is_full { 1.0 / total } else { per_weight };
                brick.weight as f64 * of_weight * f64::from(groups)
            })
        };
        self.bricks.iter().zip(&domain_of).map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Brick, BrickId, Domain, Layout, Spread};

    fn layout(replicas: usize, weights: &[u64]) -> Layout {
        let bricks = (0..).zip(weights).map(|(id, weight)| Brick {
            id: BrickId(id),
            weight: *weight,
            domain: Domain {
                rack: 0,
                host: 0,
                disk: id,
            },
        });
        Layout {
            replicas,
            spread: Spread::Disk,
            bricks: bricks.collect(),
        }
    }

    #[test]
    fn shares_follow_weights() {
        assert_eq!(layout(1, &[1, 3]).ideal_loads(100), [25.0, 75.0]);
        assert_eq!(layout(2, &[2, 1, 1]).ideal_loads(100), [100.0, 50.0, 50.0]);
    }

    #[test]
    fn no_disk_gets_a_group_twice_however_large_it_is() {
        let loads = layout(2, &[10, 1, 1, 0]).ideal_loads(100);
        assert_eq!(loads, [100.0, 50.0, 50.0, 0.0]);
    }

    #[test]
    fn fewer_disks_than_copies_hold_all() {
        assert_eq!(layout(3, &[5, 1]).ideal_loads(64), [64.0, 64.0]);
        assert_eq!(layout(3, &[5, 1, 0]).domains(), 2);
    }
}
