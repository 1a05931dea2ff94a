//! How a volume of several bricks is: what commands show, and what is told as events when it
//! changes.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use placement::keeper::{Ledger, Revision};
use placement::layout::BrickId;
use serde::{Deserialize, Serialize};

use super::home::STATE;
use super::identity::{IdentityError, Label};
use super::making::Note;
use super::plan::{Member, Plan};
use super::seat::{self, OF_BRICK, OF_SERVER};

#[cfg(test)]
mod tests;

/// What a brick is in its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrickState {
    /// It has all it should have, or more.
    Whole,
    /// It is being given what it should have and has not.
    Healing,
    /// It is being emptied.
    Draining,
    /// It holds nothing that counts, and may be removed.
    Drained,
    /// Its disk failed.
    Failed,
    /// It is not here.
    Missing,
}

impl fmt::Display for BrickState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "whole",
            Self::Healing => "healing",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Failed => "failed",
            Self::Missing => "missing",
        })
    }
}

/// A brick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrickStatus {
    /// Its number.
    pub number: u32,
    /// Where it is, or was last.
    pub dir: PathBuf,
    /// What it is.
    pub state: BrickState,
    /// Groups of names of which it has a copy that counts.
    pub held_groups: usize,
    /// Groups that it should have.
    pub wanted_groups: usize,
    /// Groups of which nothing else has a copy that counts.
    pub alone_groups: usize,
    /// Size of its file system; none where it is not here.
    pub size_bytes: Option<u64>,
    /// What is free there.
    pub free_bytes: Option<u64>,
    /// The device it is on.
    pub device: String,
    /// Its UUID.
    pub uuid: String,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub volume: String,
    /// Copies of everything.
    pub replicas: usize,
    /// Counts its starts.
    pub term: u64,
    /// Counts its configurations.
    pub revision: u64,
    /// Groups of names.
    pub groups: usize,
    /// Groups that have fewer copies than they should: what is to be healed.
    pub short_groups: usize,
    /// Groups of which no copy that counts is on a brick that is here: they cannot be read.
    pub unreachable_groups: usize,
    /// Copies of groups to be made.
    pub to_make_groups: usize,
    /// Copies to be given up, once the others are made.
    pub to_drop_groups: usize,
    /// Whether groups with as many copies as they should have stay where they are.
    pub is_rebalance_paused: bool,
    /// Whether copies may be on one device, for there are too few.
    pub shares_devices: bool,
    /// Its bricks.
    pub bricks: Vec<BrickStatus>,
}

/// What is known besides the configuration.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Bricks that are not here.
    pub missing: BTreeSet<BrickId>,
    /// Bricks whose disk failed.
    pub failed: BTreeSet<BrickId>,
}

impl VolumeStatus {
    /// The status of a volume with this configuration.
    pub fn of(volume: &str, at: Revision, plan: &Plan, known: &Known) -> Self {
        let progress = plan.progress();
        let is_here = |id: &BrickId| !known.missing.contains(id) && !known.failed.contains(id);
        let is_unreachable =
            |group: &&placement::replica::GroupConfig| !group.in_sync.iter().any(|id| is_here(&id));
        Self {
            name: plan.name.clone(),
            volume: volume.to_owned(),
            replicas: plan.replicas,
            term: at.term,
            revision: at.number,
            groups: plan.groups.len(),
            short_groups: progress.short,
            unreachable_groups: plan.groups.iter().filter(is_unreachable).count(),
            to_make_groups: progress.to_make,
            to_drop_groups: progress.to_drop,
            is_rebalance_paused: plan.is_rebalance_paused,
            shares_devices: plan.shares_devices(),
            bricks: plan
                .members
                .iter()
                .map(|member| brick(plan, member, known))
                .collect(),
        }
    }

    /// True where every group has as many copies as it should, each where it should be.
    pub fn is_settled(&self) -> bool {
        self.to_make_groups + self.to_drop_groups == 0
    }
}

fn brick(plan: &Plan, member: &Member, known: &Known) -> BrickStatus {
    let id = member.id;
    let (held, wanted) = (plan.held(id), plan.wanted.load(id));
    let state = if known.missing.contains(&id) {
        BrickState::Missing
    } else if known.failed.contains(&id) {
        BrickState::Failed
    } else if member.is_draining && held == 0 {
        BrickState::Drained
    } else if member.is_draining {
        BrickState::Draining
    } else if plan.lacks(id) {
        BrickState::Healing
    } else {
        BrickState::Whole
    };
    let room = match state {
        BrickState::Missing => None,
        _ => rustix::fs::statvfs(&member.dir).ok(),
    };
    BrickStatus {
        number: id.0,
        dir: member.dir.clone(),
        state,
        held_groups: held,
        wanted_groups: wanted,
        alone_groups: plan.held_alone(id),
        size_bytes: room
            .as_ref()
            .map(|room| room.f_blocks.saturating_mul(room.f_frsize)),
        free_bytes: room
            .as_ref()
            .map(|room| room.f_bavail.saturating_mul(room.f_frsize)),
        device: member.device.clone(),
        uuid: member.uuid.to_string(),
    }
}

/// Looks at a volume that no server has, without changing anything: as the newest configuration
/// found says. None where the server's own directory knows of no volume. Errors: Unreadable,
/// NoVolume (no configuration is found).
pub fn inspect(own: &Path) -> Result<Option<VolumeStatus>, IdentityError> {
    let Some(note) = Note::read(own)? else {
        return Ok(None);
    };
    let mut newest: Option<Arc<Ledger<Plan>>> = None;
    let mut take = |ledger: Arc<Ledger<Plan>>| {
        let is_newer = newest.as_ref().is_none_or(|known| ledger.at > known.at);
        if ledger.volume == note.volume.0 && is_newer {
            newest = Some(ledger);
        }
    };
    if let Some((_, ledger)) = seat::peek(own, OF_SERVER) {
        take(ledger);
    }
    for dir in &note.dirs {
        if let Some((_, ledger)) = seat::peek(&dir.join(STATE), OF_BRICK) {
            take(ledger);
        }
    }
    let ledger = newest.ok_or(IdentityError::AllGone {
        volume_name: note.volume_name,
        bricks: note.dirs.len(),
    })?;
    let plan = &ledger.config;
    let is_here = |member: &&Member| {
        let found = seat::peek(&member.dir.join(STATE), OF_BRICK);
        let is_it = |label: &Label| label.brick == member.uuid;
        found.is_some_and(|(label, _)| is_it(&label))
    };
    let missing = plan.members.iter().filter(|member| !is_here(member));
    let known = Known {
        missing: missing.map(|member| member.id).collect(),
        failed: BTreeSet::new(),
    };
    let volume = note.volume.to_string();
    Ok(Some(VolumeStatus::of(&volume, ledger.at, plan, &known)))
}

/// Something that an administrator may want to be told of. Names are stable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub name: &'static str,
    /// The brick; none where it is of the volume.
    pub brick: Option<u32>,
    /// What happened, for people.
    pub text: String,
    /// Whether someone should act.
    pub is_bad: bool,
}

/// What happened from one status to the next.
pub fn events(before: &VolumeStatus, now: &VolumeStatus) -> Vec<Event> {
    let mut events = Vec::new();
    for brick in &now.bricks {
        let old = before.bricks.iter().find(|old| old.number == brick.number);
        let event = |name, text: String, is_bad| Event {
            name,
            brick: Some(brick.number),
            text: format!("brick {} ({}) {text}", brick.number, brick.dir.display()),
            is_bad,
        };
        match old.map(|old| old.state) {
            None => events.push(event("brick.added", "is one of the volume".into(), false)),
            Some(state) if state == brick.state => {}
            Some(_) => events.push(match brick.state {
                BrickState::Whole => event("brick.whole", "has all it should have".into(), false),
                BrickState::Healing => event("brick.healing", "is being healed".into(), false),
                BrickState::Draining => event("brick.draining", "is being emptied".into(), false),
                BrickState::Drained => {
                    event("brick.drained", "is empty and may be removed".into(), false)
                }
                BrickState::Failed => event("brick.failed", "failed".into(), true),
                BrickState::Missing => event("brick.missing", "is not here".into(), true),
            }),
        }
    }
    for old in &before.bricks {
        if !now.bricks.iter().any(|brick| brick.number == old.number) {
            events.push(Event {
                name: "brick.removed",
                brick: Some(old.number),
                text: format!("brick {} ({}) was removed", old.number, old.dir.display()),
                is_bad: false,
            });
        }
    }
    let of_volume = |name, text: String, is_bad| Event {
        name,
        brick: None,
        text: format!("volume {}: {text}", now.name),
        is_bad,
    };
    let begins = |before: usize, now: usize| before == 0 && now > 0;
    if begins(before.unreachable_groups, now.unreachable_groups) {
        let count = now.unreachable_groups;
        let text = format!("{count} groups of names cannot be reached");
        events.push(of_volume("volume.unreachable", text, true));
    }
    if begins(now.unreachable_groups, before.unreachable_groups) {
        let text = "everything can be reached again".to_owned();
        events.push(of_volume("volume.reachable", text, false));
    }
    if begins(before.short_groups, now.short_groups) {
        let count = now.short_groups;
        let text = format!("{count} groups have fewer copies than {}", now.replicas);
        events.push(of_volume("volume.short", text, true));
    }
    if begins(now.short_groups, before.short_groups) {
        let text = "everything has as many copies as it should".to_owned();
        events.push(of_volume("volume.healed", text, false));
    }
    if before.is_settled() && !now.is_settled() && now.short_groups == 0 {
        let text = format!("{} copies of groups are to be moved", now.to_make_groups);
        events.push(of_volume("rebalance.begun", text, false));
    }
    if now.is_settled() && !before.is_settled() {
        let text = "everything is where it should be".to_owned();
        events.push(of_volume("rebalance.done", text, false));
    }
    match (before.is_rebalance_paused, now.is_rebalance_paused) {
        (false, true) => events.push(of_volume(
            "rebalance.paused",
            "it moves nothing".into(),
            false,
        )),
        (true, false) => events.push(of_volume("rebalance.resumed", "it moves on".into(), false)),
        _ => {}
    }
    events
}
