//! Bricks that are looked for while their volume is served: whether one is still where it was, and
//! whether what stands at a path is one that was missing.
//!
//! A brick is *there* as long as the path leads to the `.portico` that was opened: not where the
//! directory was moved, its disk unmounted, or another put in its place. Descriptors go on working
//! then, and what they write nobody would find.

use std::path::{Path, PathBuf};

use placement::keeper::Revision;
use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::home::{Found, Home, STATE};
use super::identity::{Doubt, IdentityError, Uuid};
use super::plan::{BrickId, Plan};
use super::seat::{Kept, OF_BRICK, Seen, peek_label};
use super::seats::Chair;

#[cfg(test)]
mod tests;

/// A directory as the kernel knows it: mount, device and inode. A disk that was unmounted and
/// mounted again is another mount, which is all that tells its inodes from those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing(u64, (u32, u32), u64);

impl Standing {
    /// What stands at a brick's path now; none where nothing does, or its disk fails. Blocking.
    pub fn at(dir: &Path) -> Option<Self> {
        let mask = StatxFlags::INO | StatxFlags::MNT_ID;
        let stat = rustix::fs::statx(CWD, dir.join(STATE), AtFlags::empty(), mask).ok()?;
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        Some(Self(stat.stx_mnt_id, device, stat.stx_ino))
    }
}

/// A brick that was missing, found, and locked for this process.
pub struct Returned {
    /// Where.
    pub dir: PathBuf,
    /// Why nothing on it counts before it was compared with the others.
    pub doubt: Option<Doubt>,
    /// Its seat.
    pub chair: Chair,
}

/// Why what was found is not taken in.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// A brick with this doubt has something that no trusted brick has: what is the latest of it
    /// nobody knows.
    OnlyDoubted(Doubt),
    /// Another server has changed the volume's configuration since: this one must be started again.
    Newer,
}

/// A volume as it is served.
pub struct Served<'a> {
    /// Which.
    pub volume: Uuid,
    /// Its configuration in force.
    pub plan: &'a Plan,
    /// Which that is.
    pub at: Revision,
}

/// Takes the brick of this number where it was last, if it is there. None where it is not.
/// Blocking. Errors: InUse, Io.
pub fn find(
    served: &Served<'_>,
    id: BrickId,
    is_here: impl Fn(BrickId) -> bool,
) -> Result<Option<Result<Returned, Refused>>, IdentityError> {
    let Some(member) = served.plan.member(id) else {
        return Ok(None);
    };
    let state = member.dir.join(STATE);
    // Nothing is locked that is not ours.
    let is_it = |volume: Uuid, brick: Uuid| volume == served.volume && brick == member.uuid;
    if !peek_label(&state, OF_BRICK).is_some_and(|label| is_it(label.volume, label.brick)) {
        return Ok(None);
    }
    let (home, label, kept) = match Home::find(&member.dir)? {
        Found::Brick(home, Seen::Seat(label, kept)) => (home, label, kept),
        _ => return Ok(None),
    };
    if !is_it(label.volume, label.brick) {
        return Ok(None);
    }
    if kept
        .as_ref()
        .is_some_and(|kept| kept.promised > served.at.term)
    {
        return Ok(Some(Err(Refused::Newer)));
    }
    let is_copied = label.place != home.place;
    let doubt = match &kept {
        None => Some(Doubt::Damaged),
        Some(_) if is_copied => Some(Doubt::Copied),
        Some(kept) if !is_current(kept, served.plan, id) => Some(Doubt::Stale),
        Some(kept) => kept.doubt,
    };
    if let Some(doubt) = doubt
        && served.plan.groups.iter().any(|group| {
            let others = group.in_sync.without(id);
            group.in_sync.contains(id) && !others.iter().any(&is_here)
        })
    {
        return Ok(Some(Err(Refused::OnlyDoubted(doubt))));
    }
    let dir = home.dir.clone();
    if let Some(kept) = kept.filter(|_| is_copied) {
        // The doubt first: without it a later start would take the copy for what it was made from.
        let written = home.seat().write(&Kept { doubt, ..kept });
        written.map_err(IdentityError::io("note a doubt on", &dir))?;
        let relabeled = home.seat().relabel(&home.label(&label));
        relabeled.map_err(IdentityError::io("write the label of", &dir))?;
    }
    Ok(Some(Ok(Returned {
        dir,
        doubt,
        chair: Chair {
            uuid: label.brick,
            doubt,
            write: home.into_write(),
        },
    })))
}

/// Whether an older configuration that a brick has says the same of all groups that it is in sync
/// of: then nothing can have been decided without it. Every start of a volume makes new epochs of
/// groups that it can serve, so this is not so of a brick put back from a copy made before.
pub(super) fn is_current(kept: &Kept, in_force: &Plan, id: BrickId) -> bool {
    let own = &kept.ledger.config.groups;
    let groups = in_force.groups.iter().zip(own);
    own.len() == in_force.groups.len()
        && groups
            .filter(|(now, _)| now.in_sync.contains(id))
            .all(|(now, own)| now.epoch == own.epoch)
}
