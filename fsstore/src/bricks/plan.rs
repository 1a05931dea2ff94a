//! What is kept of a volume of several bricks: its bricks, which of them hold which group, and
//! which should. Kept whole in every seat's ledger ([`super::seat`]); changed by
//! [`super::seats::Seats::change`] alone.

use std::path::{Path, PathBuf};

use placement::assignment::Assignment;
use placement::group::{GroupId, Grouping, MAX_GROUP_BITS};
pub use placement::layout::BrickId;
use placement::layout::{Brick, Domain, Layout, Spread};
use placement::rebalance::{Progress, progress};
pub use placement::replica::{BrickSet, MAX_COPIES};
use placement::replica::{GroupConfig, Life};
use serde::{Deserialize, Serialize};

use super::identity::Uuid;

#[cfg(test)]
mod tests;

/// Most bricks of one volume: readers know those in sync by the bits of a u64.
pub const MAX_BRICKS: usize = 64;

/// A brick of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number, which is never given to another.
    pub id: BrickId,
    /// Its UUID.
    pub uuid: Uuid,
    /// Where it was last.
    pub dir: PathBuf,
    /// The device it is on, as [`super::identity::device_of`] names it.
    pub device: String,
    /// Its size in MiB.
    pub weight: u64,
    /// Whether it is being emptied.
    pub is_draining: bool,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The volume's name.
    pub name: String,
    /// Copies of each group.
    pub replicas: usize,
    /// The key of [`Grouping`].
    pub grouping_key: (u64, u64),
    /// Groups, as a power of two.
    pub group_bits: u32,
    /// The number of the next brick.
    pub next_brick: u32,
    /// Its bricks, by number.
    pub members: Vec<Member>,
    /// The configuration of each group.
    pub groups: Vec<GroupConfig>,
    /// Which bricks should hold each group.
    pub wanted: Assignment,
    /// Whether groups with as many copies as they should have stay where they are.
    pub is_rebalance_paused: bool,
}

/// Why bricks cannot be what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No copies, or more than a group may have.
    #[error("a volume keeps 1 to {MAX_COPIES} copies, not {0}")]
    Replicas(usize),
    /// Fewer bricks would be left than there are copies.
    #[error("{bricks} bricks cannot hold {replicas} copies of everything")]
    TooFewBricks {
        /// Bricks that take groups.
        bricks: usize,
        /// Copies.
        replicas: usize,
    },
    /// More than [`MAX_BRICKS`].
    #[error("a volume has at most {MAX_BRICKS} bricks")]
    TooManyBricks,
    /// No brick of that number.
    #[error("the volume has no brick {0}")]
    NoSuchBrick(u32),
    /// What it holds is not elsewhere yet.
    #[error(
        "brick {id} still holds {groups} groups: `portico brick drain {id}` moves them to others"
    )]
    NotEmpty {
        /// Its number.
        id: u32,
        /// How many groups.
        groups: usize,
    },
}

/// A brick that is to be one of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMember {
    /// Its UUID.
    pub uuid: Uuid,
    /// Where it is.
    pub dir: PathBuf,
    /// As in [`Member`].
    pub device: String,
    /// As in [`Member`].
    pub weight: u64,
}

/// A volume that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewPlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Copies of each group.
    pub replicas: usize,
    /// Random. See [`Grouping`].
    pub grouping_key: (u64, u64),
    /// Groups, as a power of two; at most [`MAX_GROUP_BITS`].
    pub group_bits: u32,
    /// Whether the first brick holds something, which others are to get; else all are empty.
    pub first_holds_all: bool,
}

impl Plan {
    /// The plan of a new volume. Errors: Replicas, TooFewBricks, TooManyBricks.
    pub fn new(new: NewPlan<'_>, bricks: Vec<NewMember>) -> Result<Self, PlanError> {
        let NewPlan {
            replicas,
            group_bits,
            ..
        } = new;
        assert!(group_bits <= MAX_GROUP_BITS, "our own mistake");
        let mut plan = Self {
            name: new.name.to_owned(),
            replicas,
            grouping_key: new.grouping_key,
            group_bits,
            next_brick: 0,
            members: Vec::new(),
            groups: Vec::new(),
            wanted: Assignment::from_groups(vec![Vec::new(); 1 << group_bits]),
            is_rebalance_paused: false,
        };
        if replicas == 0 || replicas > MAX_COPIES {
            return Err(PlanError::Replicas(replicas));
        }
        for brick in bricks {
            plan.push(brick)?;
        }
        plan.check_count()?;
        plan.adapt();
        let first = plan.members[0].id;
        let begun = |(_, bricks): (GroupId, &[BrickId])| {
            let held: &[BrickId] = if new.first_holds_all {
                &[first]
            } else {
                bricks
            };
            let primary = held.first().copied().unwrap_or(first);
            GroupConfig {
                epoch: 1,
                primary,
                in_sync: BrickSet::of(held),
                maker: Life {
                    brick: primary,
                    number: 0,
                },
            }
        };
        plan.groups = plan.wanted.groups().map(begun).collect();
        Ok(plan)
    }

    /// How names are spread over groups.
    pub fn grouping(&self) -> Grouping {
        Grouping::new(self.grouping_key, self.group_bits)
            .expect("bits are checked where it is read")
    }

    /// What placement is decided by.
    pub fn layout(&self) -> Layout {
        let disks = self.disks();
        let bricks = self.members.iter().zip(disks).map(|(member, disk)| Brick {
            id: member.id,
            weight: if member.is_draining {
                0
            } else {
                member.weight.max(1)
            },
            domain: Domain {
                rack: 0,
                host: 0,
                disk,
            },
        });
        Layout {
            replicas: self.replicas,
            spread: Spread::Disk,
            bricks: bricks.collect(),
        }
    }

    /// True where there are not enough devices that no two copies share one: then copies are on
    /// different bricks, which may be of one device.
    pub fn shares_devices(&self) -> bool {
        let taking = self.members.iter().filter(|member| !member.is_draining);
        let mut devices: Vec<&str> = taking.map(|member| member.device.as_str()).collect();
        devices.sort_unstable();
        devices.dedup();
        devices.len() < self.replicas
    }

    /// The failure domain of each brick.
    fn disks(&self) -> Vec<u32> {
        let is_shared = self.shares_devices();
        let first_on = |member: &Member| {
            let same = |other: &&Member| other.device == member.device;
            self.members
                .iter()
                .find(same)
                .map_or(member.id, |other| other.id)
        };
        let disk_of = |member: &Member| {
            if is_shared {
                member.id
            } else {
                first_on(member)
            }
        };
        self.members
            .iter()
            .map(|member| disk_of(member).0)
            .collect()
    }

    /// A member by its number.
    pub fn member(&self, id: BrickId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// A member by its UUID.
    pub fn member_of(&self, uuid: &Uuid) -> Option<&Member> {
        self.members.iter().find(|member| member.uuid == *uuid)
    }

    /// The member that was last at a directory.
    pub fn member_at(&self, dir: &Path) -> Option<&Member> {
        self.members.iter().find(|member| member.dir == dir)
    }

    /// Makes `next` a group's configuration if its epoch is the one after the present.
    pub fn swap(&mut self, group: GroupId, next: GroupConfig) {
        let known = &mut self.groups[group.0 as usize];
        if known.epoch + 1 == next.epoch {
            *known = next;
        }
    }

    /// How far the volume is from where it should be.
    pub fn progress(&self) -> Progress {
        progress(&self.in_sync(), &self.wanted)
    }

    /// The bricks in sync of each group.
    pub fn in_sync(&self) -> Vec<BrickSet> {
        self.groups.iter().map(|group| group.in_sync).collect()
    }

    /// Whether a brick should have something that it has not.
    pub fn lacks(&self, id: BrickId) -> bool {
        let lacks = |(group, bricks): (GroupId, &[BrickId])| {
            let config = &self.groups[group.0 as usize];
            bricks.contains(&id) && !config.in_sync.contains(id)
        };
        self.wanted.groups().any(lacks)
    }

    /// How many groups a brick has a copy of that counts.
    pub fn held(&self, id: BrickId) -> usize {
        let holds = |group: &&GroupConfig| group.in_sync.contains(id);
        self.groups.iter().filter(holds).count()
    }

    /// How many groups only this brick has a copy of that counts.
    pub fn held_alone(&self, id: BrickId) -> usize {
        let alone = BrickSet::of(&[id]);
        self.groups
            .iter()
            .filter(|group| group.in_sync == alone)
            .count()
    }

    /// Adds a brick; groups that it is to hold are wanted there from now on. Gives its number.
    pub fn add(&mut self, brick: NewMember) -> Result<BrickId, PlanError> {
        let id = self.push(brick)?;
        self.adapt();
        Ok(id)
    }

    /// Has a brick emptied: everything on it is wanted elsewhere. Errors: too few others.
    pub fn drain(&mut self, id: BrickId) -> Result<(), PlanError> {
        self.set_draining(id, true)
    }

    /// Takes the word back.
    pub fn undrain(&mut self, id: BrickId) -> Result<(), PlanError> {
        self.set_draining(id, false)
    }

    fn set_draining(&mut self, id: BrickId, is_draining: bool) -> Result<(), PlanError> {
        let before = self.clone();
        let member = self.members.iter_mut().find(|member| member.id == id);
        member.ok_or(PlanError::NoSuchBrick(id.0))?.is_draining = is_draining;
        if let Err(error) = self.check_count() {
            *self = before;
            return Err(error);
        }
        self.adapt();
        Ok(())
    }

    /// Takes a brick out that holds nothing which counts. Errors: it does; too few others.
    pub fn remove(&mut self, id: BrickId) -> Result<Member, PlanError> {
        let at = self.members.iter().position(|member| member.id == id);
        let at = at.ok_or(PlanError::NoSuchBrick(id.0))?;
        match self.held(id) {
            0 => {}
            groups => return Err(PlanError::NotEmpty { id: id.0, groups }),
        }
        let removed = self.members.remove(at);
        if let Err(error) = self.check_count() {
            self.members.insert(at, removed);
            return Err(error);
        }
        self.adapt();
        Ok(removed)
    }

    /// Puts a new brick where another was: what that one should hold is wanted here, and nothing
    /// else moves. The old one is to be removed once it holds nothing that counts.
    pub fn replace(&mut self, old: BrickId, brick: NewMember) -> Result<BrickId, PlanError> {
        if self.member(old).is_none() {
            return Err(PlanError::NoSuchBrick(old.0));
        }
        let new = self.push(brick)?;
        let moved = |(_, bricks): (GroupId, &[BrickId])| {
            let put = |id: &BrickId| if *id == old { new } else { *id };
            bricks.iter().map(put).collect()
        };
        self.wanted = Assignment::from_groups(self.wanted.groups().map(moved).collect());
        if let Some(member) = self.members.iter_mut().find(|member| member.id == old) {
            member.is_draining = true;
        }
        self.adapt();
        Ok(new)
    }

    fn push(&mut self, brick: NewMember) -> Result<BrickId, PlanError> {
        if self.members.len() == MAX_BRICKS {
            return Err(PlanError::TooManyBricks);
        }
        let id = BrickId(self.next_brick);
        self.next_brick += 1;
        self.members.push(Member {
            id,
            uuid: brick.uuid,
            dir: brick.dir,
            device: brick.device,
            weight: brick.weight,
            is_draining: false,
        });
        Ok(id)
    }

    fn check_count(&self) -> Result<(), PlanError> {
        let taking = self.members.iter().filter(|member| !member.is_draining);
        match taking.count() {
            bricks if bricks < self.replicas || bricks == 0 => Err(PlanError::TooFewBricks {
                bricks,
                replicas: self.replicas,
            }),
            _ => Ok(()),
        }
    }

    fn adapt(&mut self) {
        self.wanted = self.wanted.adapted(&self.layout());
    }
}

/// A plan as it is written: short, for it is written whole at each change.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanForm {
    name: String,
    replicas: usize,
    grouping_key: (u64, u64),
    group_bits: u32,
    next_brick: u32,
    bricks: Vec<MemberForm>,
    /// Epoch, primary, in sync, the maker and the number of its life.
    groups: Vec<(u64, u32, Vec<u32>, u32, u64)>,
    wanted: Vec<Vec<u32>>,
    is_rebalance_paused: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberForm {
    number: u32,
    uuid: Uuid,
    dir: PathBuf,
    device: String,
    weight_mib: u64,
    is_draining: bool,
}

impl From<&Plan> for PlanForm {
    fn from(plan: &Plan) -> Self {
        let group = |group: &GroupConfig| {
            let in_sync = group.in_sync.iter().map(|id| id.0).collect();
            let maker = group.maker;
            (
                group.epoch,
                group.primary.0,
                in_sync,
                maker.brick.0,
                maker.number,
            )
        };
        let member = |member: &Member| MemberForm {
            number: member.id.0,
            uuid: member.uuid,
            dir: member.dir.clone(),
            device: member.device.clone(),
            weight_mib: member.weight,
            is_draining: member.is_draining,
        };
        let numbers = |(_, bricks): (GroupId, &[BrickId])| bricks.iter().map(|id| id.0).collect();
        Self {
            name: plan.name.clone(),
            replicas: plan.replicas,
            grouping_key: plan.grouping_key,
            group_bits: plan.group_bits,
            next_brick: plan.next_brick,
            bricks: plan.members.iter().map(member).collect(),
            groups: plan.groups.iter().map(group).collect(),
            wanted: plan.wanted.groups().map(numbers).collect(),
            is_rebalance_paused: plan.is_rebalance_paused,
        }
    }
}

impl TryFrom<PlanForm> for Plan {
    type Error = String;

    /// Errors: what does not hold together, as a clause.
    fn try_from(form: PlanForm) -> Result<Self, String> {
        let grouping = Grouping::new(form.grouping_key, form.group_bits);
        let count = grouping.ok_or("it has too many groups")?.count() as usize;
        if form.groups.len() != count || form.wanted.len() != count {
            return Err(format!("it does not speak of {count} groups"));
        }
        if form.replicas == 0 || form.replicas > MAX_COPIES || form.bricks.len() > MAX_BRICKS {
            return Err("its numbers are out of range".to_owned());
        }
        let is_known = |id: &u32| form.bricks.iter().any(|brick| brick.number == *id);
        for (_, primary, in_sync, _, _) in &form.groups {
            let holds = in_sync.contains(primary) && in_sync.iter().all(is_known);
            if !holds || in_sync.len() > MAX_COPIES {
                return Err("a group is on bricks that are not in it".to_owned());
            }
        }
        let ids = |numbers: &[u32]| numbers.iter().copied().map(BrickId).collect::<Vec<_>>();
        if !form.wanted.iter().flatten().all(is_known) {
            return Err("a group is wanted on bricks that are not in it".to_owned());
        }
        let group = |(epoch, primary, in_sync, maker, number): &(u64, u32, Vec<u32>, u32, u64)| {
            GroupConfig {
                epoch: *epoch,
                primary: BrickId(*primary),
                in_sync: BrickSet::of(&ids(in_sync)),
                maker: Life {
                    brick: BrickId(*maker),
                    number: *number,
                },
            }
        };
        let wanted = form.wanted.iter().map(|numbers| ids(numbers)).collect();
        let groups = form.groups.iter().map(group).collect();
        let member = |brick: MemberForm| Member {
            id: BrickId(brick.number),
            uuid: brick.uuid,
            dir: brick.dir,
            device: brick.device,
            weight: brick.weight_mib,
            is_draining: brick.is_draining,
        };
        Ok(Self {
            name: form.name,
            replicas: form.replicas,
            grouping_key: form.grouping_key,
            group_bits: form.group_bits,
            next_brick: form.next_brick,
            members: form.bricks.into_iter().map(member).collect(),
            groups,
            wanted: Assignment::from_groups(wanted),
            is_rebalance_paused: form.is_rebalance_paused,
        })
    }
}
