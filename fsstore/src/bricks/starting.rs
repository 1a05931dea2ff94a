//! How a volume of several bricks starts: which directories are its bricks, which are refused, and
//! which of its configurations counts.
//!
//! 1. the directories given are looked at, those where the server knows bricks to have been, and
//!    those that the newest configuration names; every brick found is locked for this process;
//! 2. what is foreign, cloned, half made or taken out is refused before anything is written;
//! 3. the new term is noted on every seat, with whatever doubt there is of its brick: durably,
//!    before a newer ledger could hide that doubt;
//! 4. the newest ledger is written again, in the new term, and is in force where most seats have it;
//! 5. labels of copies that are taken in get their new place, the server's own note is renewed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use placement::keeper::{self, Keeper, Refusal, Start};
use placement::layout::BrickId;

use super::home::own_seat;
use super::identity::{Doubt, FORMAT, IdentityError, Label, Place, Uuid};
use super::making::Note;
use super::plan::Plan;
use super::seat::{Kept, Seat, Seen};
use super::seats::{Chair, Seats, seats_of};
use crate::brick::disk::Disk;
use crate::brick::osdisk::OsDisk;

mod search;
#[cfg(test)]
mod tests;

use search::{Candidate, Search};

/// A brick that takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Its number.
    pub id: BrickId,
    /// Its UUID.
    pub uuid: Uuid,
    /// Where it is now.
    pub dir: PathBuf,
    /// Why nothing on it counts until it was compared with the others; see [`Seats::trust`].
    pub doubt: Option<Doubt>,
}

/// A volume whose configuration is in force.
pub struct Opened {
    /// Its configuration. Bricks are locked for this process as long as it lives.
    pub seats: Seats,
    /// The volume.
    pub volume: Uuid,
    /// Counts the volume's starts.
    pub term: u64,
    /// The bricks that are here.
    pub present: Vec<Present>,
    /// Those that are not.
    pub missing: Vec<BrickId>,
}

/// Starts the volume whose bricks are in `dirs`, or where the server's own directory `own`
/// (`DIR/.portico`) knows them to be. Blocking. Errors: see [`IdentityError`].
pub fn start(own: &Path, dirs: &[PathBuf]) -> Result<Opened, IdentityError> {
    let note = Note::read(own)?;
    let mut search = Search::default();
    search.look_at(dirs, true)?;
    if let Some(note) = &note {
        search.look_at(&note.dirs, false)?;
    }
    if let Some(plan) = search.newest() {
        let dirs: Vec<_> = plan
            .members
            .iter()
            .map(|member| member.dir.clone())
            .collect();
        search.look_at(&dirs, false)?;
    }
    let own_seat = own_seat(own).map_err(IdentityError::io("open", own))?;
    let witness = Witness::look(own_seat, own)?;
    search.forget_strangers();
    search.finish_half_made()?;
    if search.bricks.is_empty() {
        return Err(match note {
            Some(note) => IdentityError::AllGone {
                volume_name: note.volume_name,
                bricks: note.dirs.len(),
            },
            None => search.first_plain().unwrap_or(IdentityError::NoVolume),
        });
    }
    search.tell_gone();
    search.refuse_clones()?;
    let decided = decide(&search, &witness)?;
    search.refuse_others(&decided.claim.config)?;
    put_in_force(own, search, witness, decided)
}

/// The server's own directory as a seat.
struct Witness {
    seat: Seat<OsDisk>,
    uuid: Uuid,
    /// Its label and what it keeps; none where it has no label yet.
    found: Option<(Label, Option<Kept>)>,
}

impl Witness {
    fn look(seat: Seat<OsDisk>, own: &Path) -> Result<Self, IdentityError> {
        let seen = seat
            .look()
            .map_err(IdentityError::io("read the configuration in", own))?;
        let found = match seen {
            Seen::Seat(label, kept) => Some((label, kept)),
            Seen::Nothing | Seen::HalfMade(_) => None,
        };
        let uuid = match &found {
            Some((label, _)) => label.brick,
            None => Uuid::random().map_err(IdentityError::io("make a UUID for", own))?,
        };
        Ok(Self { seat, uuid, found })
    }

    /// What it keeps of a volume.
    fn kept(&self, volume: Uuid) -> Option<(&Label, &Kept)> {
        let (label, kept) = self.found.as_ref()?;
        (label.volume == volume).then_some((label, kept.as_ref()?))
    }
}

/// What a start does.
struct Decided {
    claim: keeper::Ledger<Plan>,
    doubts: BTreeMap<Uuid, Doubt>,
    missing: Vec<BrickId>,
}

fn decide(search: &Search, witness: &Witness) -> Result<Decided, IdentityError> {
    let bricks = &search.bricks;
    // As keeper has it: of the volume that most are of.
    let count = |of: Uuid| {
        bricks
            .iter()
            .filter(|brick| brick.label.volume == of)
            .count()
    };
    let volumes = bricks.iter().rev().map(|brick| brick.label.volume);
    let volume = volumes
        .max_by_key(|volume| count(*volume))
        .ok_or(IdentityError::NoVolume)?;
    let mut found: Vec<keeper::Found<Plan>> = bricks.iter().map(found_of).collect();
    let newest = bricks.iter().filter_map(|brick| brick.kept.as_ref());
    let newest = newest.chain(witness.kept(volume).map(|(_, kept)| kept));
    let newest = newest
        .max_by_key(|kept| kept.ledger.at)
        .map(|kept| Arc::clone(&kept.ledger));
    if let (Some((label, kept)), Some(newest)) = (witness.kept(volume), &newest)
        && newest.seats.contains(&witness.uuid.0)
    {
        found.push(seat_of(label, kept));
    }
    let names = newest.as_deref().map(|ledger| &ledger.config);
    let Start {
        claim,
        stale,
        missing,
    } = keeper::start(&found).map_err(|refusal| explain(refusal, bricks, names))?;
    let plan = &claim.config;
    refuse_without_ledger(plan, Uuid(claim.volume), bricks)?;
    let mut doubts = BTreeMap::new();
    for brick in bricks {
        let is_stale = stale.contains(&brick.label.brick.0);
        let earlier = brick.kept.as_ref().map(|kept| kept.doubt);
        let doubt = match earlier {
            None => Some(Doubt::Damaged),
            _ if brick.is_copied() => Some(Doubt::Copied),
            _ if is_stale => Some(Doubt::Stale),
            Some(doubt) => doubt,
        };
        doubts.extend(doubt.map(|doubt| (brick.label.brick, doubt)));
    }
    refuse_only_doubted(plan, bricks, &doubts)?;
    let here =
        |uuid: &&placement::keeper::Uuid| bricks.iter().any(|brick| brick.label.brick.0 == **uuid);
    let missing = missing.iter().filter(|uuid| !here(uuid));
    let missing = missing.filter_map(|uuid| plan.member_of(&Uuid(*uuid)));
    let missing = missing.map(|member| member.id).collect();
    Ok(Decided {
        claim,
        doubts,
        missing,
    })
}

/// Refuses bricks that keeper does not see, for they have no ledger, as it does others.
fn refuse_without_ledger(
    plan: &Plan,
    volume: Uuid,
    bricks: &[Candidate],
) -> Result<(), IdentityError> {
    for brick in bricks.iter().filter(|brick| brick.kept.is_none()) {
        let (dir, label) = (brick.home.dir.clone(), &brick.label);
        if label.volume != volume {
            return Err(IdentityError::Foreign {
                dir,
                volume_name: label.volume_name.clone(),
                volume: label.volume,
            });
        }
        if plan.member_of(&label.brick).is_none() {
            let volume_name = plan.name.clone();
            return Err(IdentityError::Removed { dir, volume_name });
        }
    }
    Ok(())
}

fn found_of(brick: &Candidate) -> keeper::Found<Plan> {
    match &brick.kept {
        Some(kept) => seat_of(&brick.label, kept),
        None => keeper::Found::Missing,
    }
}

fn seat_of(label: &Label, kept: &Kept) -> keeper::Found<Plan> {
    keeper::Found::Seat {
        label: keeper::Label {
            volume: label.volume.0,
            seat: label.brick.0,
        },
        promised: kept.promised,
        ledger: keeper::Ledger::clone(&kept.ledger),
    }
}

/// Where something only doubted bricks have in sync may be the latest, nobody knows what is lost.
fn refuse_only_doubted(
    plan: &Plan,
    bricks: &[Candidate],
    doubts: &BTreeMap<Uuid, Doubt>,
) -> Result<(), IdentityError> {
    let here = |id: BrickId| {
        let uuid = plan.member(id).map(|member| member.uuid);
        bricks.iter().find(|brick| Some(brick.label.brick) == uuid)
    };
    for group in &plan.groups {
        let found: Vec<&Candidate> = group.in_sync.iter().filter_map(here).collect();
        let is_trusted = |brick: &&Candidate| !doubts.contains_key(&brick.label.brick);
        if let Some(brick) = found.first().filter(|_| !found.iter().any(is_trusted)) {
            return Err(IdentityError::OnlyDoubted {
                dir: brick.home.dir.clone(),
                why: doubts[&brick.label.brick],
            });
        }
    }
    Ok(())
}

fn explain(refusal: Refusal, bricks: &[Candidate], plan: Option<&Plan>) -> IdentityError {
    let dir = |place: usize| {
        bricks
            .get(place)
            .map_or_else(PathBuf::new, |b| b.home.dir.clone())
    };
    let volume_name = plan.map_or_else(String::new, |plan| plan.name.clone());
    match refusal {
        Refusal::NoVolume => IdentityError::NoVolume,
        Refusal::HalfMade { place } => IdentityError::HalfMade { dir: dir(place) },
        Refusal::Foreign { place, volume } => IdentityError::Foreign {
            dir: dir(place),
            volume_name: bricks
                .get(place)
                .map_or(volume_name, |brick| brick.label.volume_name.clone()),
            volume: Uuid(volume),
        },
        Refusal::Cloned { places, seat } => IdentityError::Cloned {
            first: dir(places[0]),
            second: dir(places[1]),
            brick: Uuid(seat),
        },
        Refusal::Stranger { place, .. } => IdentityError::Removed {
            dir: dir(place),
            volume_name,
        },
        Refusal::NoMajority {
            found,
            needed,
            missing,
        } => {
            let member = |uuid: &placement::keeper::Uuid| plan?.member_of(&Uuid(*uuid));
            let word = |uuid: &placement::keeper::Uuid| match member(uuid) {
                Some(member) => format!("brick {} ({})", member.id.0, member.dir.display()),
                None => "the server's own directory".to_owned(),
            };
            IdentityError::TooFewSeats {
                volume_name,
                found,
                needed,
                missing: missing.iter().map(word).collect(),
            }
        }
        Refusal::Contradiction { at } => IdentityError::Contradiction { at },
    }
}

/// Writes to one seat, and keeps what went wrong.
struct Writer<'a, D: Disk> {
    uuid: Uuid,
    doubt: Option<Doubt>,
    seat: &'a Seat<D>,
}

/// Steps 3 and 4, one seat after the other. Gives the keeper once its claim is in force, and the
/// seats that could not be written. Errors: the last of those, where too few are left.
fn claim<D: Disk>(
    claim: &keeper::Ledger<Plan>,
    olds: &BTreeMap<Uuid, Arc<keeper::Ledger<Plan>>>,
    writers: &[Writer<'_, D>],
) -> Result<(Keeper<Plan>, BTreeSet<Uuid>), std::io::Error> {
    let mut keeper = Keeper::claim(claim.clone());
    let term = claim.at.term;
    let (mut failed, mut last) = (BTreeSet::new(), None);
    let claimed = Arc::new(claim.clone());
    for step in 0..2 {
        for writer in writers {
            let ledger = match step {
                // One that has none gets the new one, which counts nothing before the second step.
                0 => olds.get(&writer.uuid),
                _ => Some(&claimed),
            };
            let Some(ledger) = ledger.filter(|_| !failed.contains(&writer.uuid)) else {
                continue;
            };
            let kept = Kept {
                promised: term,
                doubt: writer.doubt,
                ledger: Arc::clone(ledger),
            };
            match writer.seat.write(&kept) {
                Ok(()) if step == 0 => keeper.promised(writer.uuid.0),
                Ok(()) => {
                    keeper.written(writer.uuid.0, claim.at);
                }
                Err(error) => {
                    failed.insert(writer.uuid);
                    last = Some(error);
                }
            }
        }
        if step == 0 && keeper.promise().is_some() {
            break;
        }
    }
    match keeper.in_force() {
        Some(_) => Ok((keeper, failed)),
        None => Err(last.unwrap_or_else(|| std::io::ErrorKind::NotFound.into())),
    }
}

fn put_in_force(
    own: &Path,
    search: Search,
    mut witness: Witness,
    mut decided: Decided,
) -> Result<Opened, IdentityError> {
    let plan = &mut decided.claim.config;
    for brick in &search.bricks {
        let found = plan
            .members
            .iter_mut()
            .find(|member| member.uuid == brick.label.brick);
        if let Some(member) = found {
            member.dir.clone_from(&brick.home.dir);
        }
    }
    let volume = Uuid(decided.claim.volume);
    let plan = decided.claim.config.clone();
    let is_wanted = seats_of(&plan, witness.uuid).contains(&witness.uuid.0);
    if is_wanted && witness.kept(volume).is_none() {
        witness.relabel(volume, &plan, own)?;
    }
    let is_seat = decided.claim.seats.contains(&witness.uuid.0);
    let mut olds = BTreeMap::new();
    let mut writers = Vec::new();
    for brick in &search.bricks {
        let uuid = brick.label.brick;
        let doubt = decided.doubts.get(&uuid).copied();
        olds.extend(
            brick
                .kept
                .as_ref()
                .map(|kept| (uuid, Arc::clone(&kept.ledger))),
        );
        let seat = brick.home.seat();
        writers.push(Writer { uuid, doubt, seat });
    }
    if is_seat {
        let uuid = witness.uuid;
        olds.extend(
            witness
                .kept(volume)
                .map(|(_, kept)| (uuid, Arc::clone(&kept.ledger))),
        );
        let (doubt, seat) = (None, &witness.seat);
        writers.push(Writer { uuid, doubt, seat });
    }
    let claimed = claim(&decided.claim, &olds, &writers);
    let (keeper, failed) = claimed.map_err(IdentityError::io("write the configuration of", own))?;
    drop(writers);
    let term = decided.claim.at.term;
    let mut present = Vec::new();
    let mut chairs = Vec::new();
    let mut missing = decided.missing;
    for Candidate { home, label, .. } in search.bricks {
        let uuid = label.brick;
        let Some(id) = plan.member_of(&uuid).map(|member| member.id) else {
            continue;
        };
        if failed.contains(&uuid) {
            missing.push(id);
            continue;
        }
        let doubt = decided.doubts.get(&uuid).copied();
        if label.place != home.place {
            // The doubt is on the brick already.
            let relabeled = home.seat().relabel(&home.label(&label));
            relabeled.map_err(IdentityError::io("write the label of", &home.dir))?;
        }
        present.push(Present {
            id,
            uuid,
            dir: home.dir.clone(),
            doubt,
        });
        let write = home.into_write();
        chairs.push(Chair { uuid, doubt, write });
    }
    let own_uuid = witness.uuid;
    chairs.push(witness.into_chair());
    Note::of(volume, &plan).write(own)?;
    let seats = Seats::run(keeper, term, own_uuid, chairs);
    let seats = seats.map_err(IdentityError::io("keep the configuration of", own))?;
    // Where the seats are not those they should be, they become so.
    seats.change(|_| {}, |_| {});
    Ok(Opened {
        seats,
        volume,
        term,
        present,
        missing,
    })
}

impl Witness {
    /// Makes the server's own directory a seat of a volume: it may have been one of another, or
    /// of none.
    fn relabel(&mut self, volume: Uuid, plan: &Plan, own: &Path) -> Result<(), IdentityError> {
        let failed = || IdentityError::io("write the label of", own);
        let label = Label {
            format: FORMAT,
            volume,
            volume_name: plan.name.clone(),
            brick: self.uuid,
            number: None,
            replicas: plan.replicas,
            place: Place {
                inode: 0,
                born_ns: 0,
            },
        };
        // What it kept of another volume goes first.
        self.seat.erase().map_err(failed())?;
        self.seat.relabel(&label).map_err(failed())?;
        self.found = Some((label, None));
        Ok(())
    }

    fn into_chair(self) -> Chair {
        let seat = self.seat;
        Chair {
            uuid: self.uuid,
            doubt: None,
            write: Box::new(move |kept| seat.write(kept)),
        }
    }
}
