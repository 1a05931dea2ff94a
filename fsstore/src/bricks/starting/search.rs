//! Which of the directories looked at are bricks, and which are refused before anything is read of
//! the volume's configuration.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::bricks::home::{Found, Home};
use crate::bricks::identity::{IdentityError, Label, Uuid};
use crate::bricks::plan::Plan;
use crate::bricks::seat::{Kept, Seen};

/// A brick that was found.
pub(super) struct Candidate {
    pub(super) home: Box<Home>,
    pub(super) label: Label,
    pub(super) kept: Option<Kept>,
    /// Whether it was named, and not only remembered.
    is_given: bool,
}

impl Candidate {
    pub(super) fn is_copied(&self) -> bool {
        self.label.place != self.home.place
    }
}

/// Directories looked at.
#[derive(Default)]
pub(super) struct Search {
    pub(super) bricks: Vec<Candidate>,
    half_made: Vec<(Box<Home>, Label, bool)>,
    /// Given, and no bricks: empty or not.
    others: Vec<(PathBuf, bool)>,
    seen: BTreeSet<PathBuf>,
    /// What is not there, or on a disk that fails.
    gone: Vec<(PathBuf, std::io::Error)>,
}

impl Search {
    pub(super) fn look_at(
        &mut self,
        dirs: &[PathBuf],
        is_given: bool,
    ) -> Result<(), IdentityError> {
        for dir in dirs {
            let canonical = dir.canonicalize().unwrap_or_else(|_| dir.clone());
            if is_given && canonical.exists() && !canonical.is_dir() {
                return Err(IdentityError::NoDirectory { dir: canonical });
            }
            if !self.seen.insert(canonical.clone()) {
                match is_given {
                    true => {
                        let (first, second) = (canonical, dir.clone());
                        return Err(IdentityError::SameDirectory { first, second });
                    }
                    false => continue,
                }
            }
            match Home::find(&canonical)? {
                Found::Brick(home, Seen::Seat(label, kept)) => {
                    self.bricks.push(Candidate {
                        home,
                        label,
                        kept,
                        is_given,
                    });
                }
                Found::Brick(home, Seen::HalfMade(label)) => {
                    self.half_made.push((home, label, is_given));
                }
                Found::Empty if is_given => self.others.push((canonical, true)),
                Found::Plain { .. } | Found::Brick(_, Seen::Nothing) if is_given => {
                    self.others.push((canonical, false));
                }
                Found::Gone(error) => self.gone.push((canonical, error)),
                Found::Empty | Found::Plain { .. } | Found::Brick(..) => {}
            }
        }
        Ok(())
    }

    /// Tells of what was looked at in vain.
    pub(super) fn tell_gone(&self) {
        for (dir, error) in &self.gone {
            let dir = dir.display();
            tracing::warn!(dir = %dir, %error, "no brick is found here");
        }
    }

    /// The volume that most are of, of those that were named where some were; of as many, the
    /// first.
    pub(super) fn volume(&self) -> Option<Uuid> {
        let has_given = self.bricks.iter().any(|brick| brick.is_given);
        let counts = |brick: &&Candidate| brick.is_given || !has_given;
        let all = || {
            self.bricks
                .iter()
                .filter(counts)
                .map(|brick| brick.label.volume)
        };
        let mut usual = None;
        for volume in all() {
            let count = all().filter(|other| *other == volume).count();
            if usual.is_none_or(|(_, most)| count > most) {
                usual = Some((volume, count));
            }
        }
        usual.map(|(volume, _)| volume)
    }

    pub(super) fn newest(&self) -> Option<Plan> {
        let volume = self.volume()?;
        let of_volume = |brick: &&Candidate| brick.label.volume == volume;
        let kept = self
            .bricks
            .iter()
            .filter(of_volume)
            .filter_map(|brick| brick.kept.as_ref());
        let newest = kept.max_by_key(|kept| kept.ledger.at)?;
        Some(newest.ledger.config.clone())
    }

    /// Forgets what was not named and is none of the volume's bricks any more.
    pub(super) fn forget_strangers(&mut self) {
        let (volume, plan) = (self.volume(), self.newest());
        let is_member = |label: &Label| {
            let found = plan.as_ref().and_then(|plan| plan.member_of(&label.brick));
            Some(label.volume) == volume && (plan.is_none() || found.is_some())
        };
        self.bricks
            .retain(|brick| brick.is_given || is_member(&brick.label));
        self.half_made
            .retain(|(_, label, is_given)| *is_given || is_member(label));
    }

    /// Finishes those that the volume has already taken in; others are refused.
    pub(super) fn finish_half_made(&mut self) -> Result<(), IdentityError> {
        let plan = self.newest();
        for (home, label, is_given) in std::mem::take(&mut self.half_made) {
            let is_member = |plan: &Plan| plan.member_of(&label.brick).is_some();
            let dir = home.dir.clone();
            if !plan.as_ref().is_some_and(is_member) {
                return Err(IdentityError::HalfMade { dir });
            }
            let finished = home.seat().finish().and_then(|()| home.seat().look());
            match finished.map_err(IdentityError::io("finish the brick", &dir))? {
                Seen::Seat(label, kept) => self.bricks.push(Candidate {
                    home,
                    label,
                    kept,
                    is_given,
                }),
                Seen::Nothing | Seen::HalfMade(_) => return Err(IdentityError::HalfMade { dir }),
            }
        }
        Ok(())
    }

    /// Refuses one brick twice; what keeper does not see, for one of the two may have no ledger.
    pub(super) fn refuse_clones(&self) -> Result<(), IdentityError> {
        for (index, brick) in self.bricks.iter().enumerate() {
            let is_twin = |other: &&Candidate| other.label.brick == brick.label.brick;
            if let Some(twin) = self.bricks[..index].iter().find(is_twin) {
                return Err(IdentityError::Cloned {
                    first: twin.home.dir.clone(),
                    second: brick.home.dir.clone(),
                    brick: brick.label.brick,
                });
            }
        }
        Ok(())
    }

    pub(super) fn first_plain(&self) -> Option<IdentityError> {
        let (dir, _) = self.others.iter().find(|(_, is_empty)| !is_empty)?;
        Some(IdentityError::NotEmpty { dir: dir.clone() })
    }

    /// Refuses what was given and is no brick, unless a brick of the plan was there: then its disk
    /// is not mounted.
    pub(super) fn refuse_others(&self, plan: &Plan) -> Result<(), IdentityError> {
        for (dir, is_empty) in &self.others {
            if plan.member_at(dir).is_some() {
                let dir = dir.display();
                tracing::warn!(dir = %dir, "a brick was here: is its disk mounted?");
                continue;
            }
            let dir = dir.clone();
            return Err(match is_empty {
                true => IdentityError::NoBrick {
                    dir,
                    volume_name: plan.name.clone(),
                },
                false => IdentityError::NotEmpty { dir },
            });
        }
        Ok(())
    }
}
