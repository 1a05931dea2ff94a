//! Directories become bricks, and bricks a volume.
//!
//! A volume is made in this order, so that a crash leaves bricks that are whole, or that say they
//! are half made:
//! 1. every directory gets the label it is to have, as `brick.json.making`, and the first ledger;
//!    so does the server's own where it is a seat;
//! 2. once all have, one after the other puts its label in force;
//! 3. the server notes where the bricks are (`volume.json`).
//!
//! What stopped in 1 is begun anew where it is asked for again; what stopped in 2 is finished then,
//! or by a start.
//!
//! A brick that comes to a volume is labelled the same way; in between the volume's configuration
//! takes it in ([`Arrival::arrive`]). A start finishes what stopped after that.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use placement::group::DEFAULT_GROUP_BITS;
use placement::keeper::{Ledger, Revision};
use serde::{Deserialize, Serialize};

use super::home::{Found, Home, OBJECTS, STATE, own_seat};
use super::identity::{FORMAT, IdentityError, Label, Place, Uuid, device_of, size_mib_of};
use super::plan::{NewMember, NewPlan, Plan};
use super::seat::{Kept, Seen};
use super::seats::{Chair, seats_of};
use crate::durable;

#[cfg(test)]
mod tests;

/// The server's note of its volume.
const NOTE: &str = "volume.json";

/// A volume to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewVolume<'a> {
    /// Its name.
    pub name: &'a str,
    /// Copies of everything.
    pub replicas: usize,
    /// Its bricks: empty directories; those that are not there are made, their parents not.
    pub dirs: &'a [PathBuf],
    /// Whether the first may be a tree that `portico serve DIR` served: what is in it becomes the
    /// volume's, where it stands.
    pub adopts_first: bool,
}

/// What a server knows of its volume before it has found a brick. No seat: it decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    format: u32,
    /// The volume.
    pub volume: Uuid,
    /// Its name.
    pub volume_name: String,
    /// Where its bricks are.
    pub dirs: Vec<PathBuf>,
}

impl Note {
    pub(super) fn of(volume: Uuid, plan: &Plan) -> Self {
        Self {
            format: FORMAT,
            volume,
            volume_name: plan.name.clone(),
            dirs: plan
                .members
                .iter()
                .map(|member| member.dir.clone())
                .collect(),
        }
    }

    /// Reads the note in a server's own directory; none where it has no volume of bricks. Errors:
    /// Unreadable, Io.
    pub fn read(own: &Path) -> Result<Option<Self>, IdentityError> {
        let file = own.join(NOTE);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::io("read", &file)(source)),
        };
        let note: Result<Self, _> = serde_json::from_slice(&bytes);
        match note {
            Ok(note) if note.format == FORMAT => Ok(Some(note)),
            Ok(note) => Err(IdentityError::Unreadable {
                file,
                reason: format!("its format is {}", note.format),
            }),
            Err(error) => Err(IdentityError::Unreadable {
                file,
                reason: error.to_string(),
            }),
        }
    }

    /// Writes the note anew, after the volume's bricks changed. Errors: Io.
    pub fn renew(own: &Path, volume: Uuid, plan: &Plan) -> Result<(), IdentityError> {
        Self::of(volume, plan).write(own)
    }

    pub(super) fn write(&self, own: &Path) -> Result<(), IdentityError> {
        let written = || {
            let bytes = serde_json::to_vec_pretty(self)?;
            own_seat(own)?.replace(NOTE, &bytes)
        };
        written().map_err(IdentityError::io("write the note of the volume in", own))
    }
}

/// The label of a directory that was served as a brick, for those who would serve it as a tree of
/// its own. None where it is none.
pub fn label_of(dir: &Path) -> Option<Label> {
    let bytes = std::fs::read(dir.join(STATE).join("brick.json")).ok()?;
    Label::parse(&bytes).ok()
}

/// Makes a volume. Durable. Gives the volume. Blocking.
/// Errors: NoDirectory, SameDirectory, NotEmpty, Foreign (a directory is a brick already),
/// InUse, Plan, Io.
pub fn create(own: &Path, new: &NewVolume<'_>) -> Result<Uuid, IdentityError> {
    if let Some(note) = Note::read(own)? {
        return Err(IdentityError::Foreign {
            dir: own.to_owned(),
            volume_name: note.volume_name,
            volume: note.volume,
        });
    }
    for dir in new.dirs {
        make_dir(dir).map_err(IdentityError::io("make the directory", dir))?;
    }
    let dirs = distinct(new.dirs)?;
    let begun = look(&dirs, new.adopts_first)?;
    if let Some(volume) = begun.finishes {
        return finish(own, &begun.homes, volume);
    }
    drop(begun);
    make(own, new, &dirs)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn distinct(dirs: &[PathBuf]) -> Result<Vec<PathBuf>, IdentityError> {
    let mut found: Vec<PathBuf> = Vec::new();
    for dir in dirs {
        let path = dir
            .canonicalize()
            .map_err(IdentityError::io("look at", dir))?;
        if !path.is_dir() {
            return Err(IdentityError::NoDirectory { dir: path });
        }
        if found.contains(&path) {
            let (first, second) = (path, dir.clone());
            return Err(IdentityError::SameDirectory { first, second });
        }
        found.push(path);
    }
    Ok(found)
}

/// What an earlier attempt left.
struct Begun {
    homes: Vec<Home>,
    /// The volume, where all that is left is to put labels in force.
    finishes: Option<Uuid>,
}

fn look(dirs: &[PathBuf], adopts_first: bool) -> Result<Begun, IdentityError> {
    let (mut homes, mut labels) = (Vec::new(), Vec::new());
    let mut has_finished = false;
    for (index, dir) in dirs.iter().enumerate() {
        match Home::find(dir)? {
            Found::Empty => {}
            Found::Plain { is_store: true } if adopts_first && index == 0 => {}
            Found::Plain { .. } | Found::Brick(_, Seen::Nothing) => {
                return Err(IdentityError::NotEmpty { dir: dir.clone() });
            }
            Found::Gone(error) => return Err(IdentityError::io("look at", dir)(error)),
            Found::Brick(home, Seen::HalfMade(label)) => {
                homes.push(*home);
                labels.push(label);
            }
            Found::Brick(home, Seen::Seat(label, kept)) => {
                // One that was started is a brick of a volume that lives.
                if kept.is_none_or(|kept| kept.promised > 0) {
                    return Err(IdentityError::Foreign {
                        dir: dir.clone(),
                        volume_name: label.volume_name,
                        volume: label.volume,
                    });
                }
                has_finished = true;
                homes.push(*home);
                labels.push(label);
            }
        }
    }
    let volume = labels.first().map(|label| label.volume);
    if let Some(other) = labels.iter().position(|label| Some(label.volume) != volume) {
        return Err(IdentityError::Foreign {
            dir: homes[other].dir.clone(),
            volume_name: labels[other].volume_name.clone(),
            volume: labels[other].volume,
        });
    }
    if has_finished && homes.len() < dirs.len() {
        let is_known = |dir: &&PathBuf| homes.iter().any(|home| home.dir == **dir);
        let label = &labels[0];
        let dir = dirs
            .iter()
            .find(|dir| !is_known(dir))
            .cloned()
            .unwrap_or_default();
        return Err(IdentityError::NoBrick {
            dir,
            volume_name: label.volume_name.clone(),
        });
    }
    Ok(Begun {
        homes,
        finishes: volume.filter(|_| has_finished),
    })
}

/// The second step and the third.
fn finish(own: &Path, homes: &[Home], volume: Uuid) -> Result<Uuid, IdentityError> {
    let mut plan = None;
    for home in homes {
        let failed = || IdentityError::io("finish the brick", &home.dir);
        if let Seen::HalfMade(_) = home.seat().look().map_err(failed())? {
            home.seat().finish().map_err(failed())?;
        }
        if let Seen::Seat(_, Some(kept)) = home.seat().look().map_err(failed())? {
            plan = Some(Arc::clone(&kept.ledger));
        }
    }
    let witness = own_seat(own).map_err(IdentityError::io("open", own))?;
    let failed = || IdentityError::io("read the configuration in", own);
    if let Seen::HalfMade(_) = witness.look().map_err(failed())? {
        witness.finish().map_err(failed())?;
    }
    if let Some(ledger) = plan {
        Note::of(volume, &ledger.config).write(own)?;
    }
    Ok(volume)
}

fn make(own: &Path, new: &NewVolume<'_>, dirs: &[PathBuf]) -> Result<Uuid, IdentityError> {
    let random = || Uuid::random().map_err(IdentityError::io("make a UUID for", own));
    let volume = random()?;
    let mut members = Vec::new();
    for dir in dirs {
        members.push(new_member(dir)?);
    }
    let key = random()?.0;
    let (low, high) = key.split_at(8);
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let planned = NewPlan {
        name: new.name,
        replicas: new.replicas,
        grouping_key: (number(low), number(high)),
        group_bits: DEFAULT_GROUP_BITS,
        first_holds_all: dirs.first().is_some_and(|dir| holds_objects(dir)),
    };
    let plan = Plan::new(planned, members)?;
    let own_uuid = random()?;
    let kept = Kept {
        promised: 0,
        doubt: None,
        ledger: Arc::new(Ledger {
            volume: volume.0,
            at: Revision { term: 0, number: 1 },
            before: Revision { term: 0, number: 0 },
            seats: seats_of(&plan, own_uuid),
            config: plan.clone(),
        }),
    };
    let label = |brick, number, place| Label {
        format: FORMAT,
        volume,
        volume_name: new.name.to_owned(),
        brick,
        number,
        replicas: new.replicas,
        place,
    };
    let nowhere = Place {
        inode: 0,
        born_ns: 0,
    };
    let mut homes = Vec::new();
    for member in &plan.members {
        let dir = &member.dir;
        let failed = || IdentityError::io("make a brick of", dir);
        let home = Home::make(dir).map_err(failed())?;
        let label = label(member.uuid, Some(member.id.0), home.place);
        begin(&home, &label, Some(&kept)).map_err(failed())?;
        homes.push(home);
    }
    let failed = || IdentityError::io("make a seat of", own);
    let witness = own_seat(own).map_err(failed())?;
    witness.erase().map_err(failed())?;
    let is_seat = kept.ledger.seats.contains(&own_uuid.0);
    if is_seat {
        witness
            .begin(&label(own_uuid, None, nowhere))
            .map_err(failed())?;
        witness.write(&kept).map_err(failed())?;
    }
    for home in &homes {
        home.seat()
            .finish()
            .map_err(IdentityError::io("finish the brick", &home.dir))?;
    }
    if is_seat {
        witness.finish().map_err(failed())?;
    }
    Note::of(volume, &plan).write(own)?;
    Ok(volume)
}

fn holds_objects(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir.join(OBJECTS));
    entries.is_ok_and(|mut entries| entries.next().is_some())
}

fn new_member(dir: &Path) -> Result<NewMember, IdentityError> {
    let failed = || IdentityError::io("look at", dir);
    if dir.to_str().is_none() {
        let error = io::Error::new(ErrorKind::InvalidInput, "its path is not UTF-8");
        return Err(failed()(error));
    }
    Ok(NewMember {
        uuid: Uuid::random().map_err(failed())?,
        dir: dir.to_owned(),
        device: device_of(dir).map_err(failed())?,
        weight: size_mib_of(dir).map_err(failed())?,
    })
}

/// The first step, for one brick: what an earlier attempt left goes, the label is noted, then
/// comes all that a brick has.
fn begin(home: &Home, label: &Label, kept: Option<&Kept>) -> io::Result<()> {
    home.seat().erase()?;
    home.seat().begin(label)?;
    make_dir(&home.objects())?;
    durable::sync_dir_at(&home.dir)?;
    kept.map_or(Ok(()), |kept| home.seat().write(kept))
}

/// A directory on its way to become a brick of a volume that is served.
pub struct Arrival {
    home: Home,
    /// What the plan is to take in.
    pub member: NewMember,
}

impl Arrival {
    /// Begins: the directory says that it is half made. Blocking. Errors: NoDirectory, NotEmpty,
    /// Foreign, InUse, Io.
    pub fn begin(dir: &Path, volume: Uuid, plan: &Plan) -> Result<Self, IdentityError> {
        make_dir(dir).map_err(IdentityError::io("make the directory", dir))?;
        let dirs = distinct(&[dir.to_owned()])?;
        let dir = &dirs[0];
        if look(&dirs, false)?.finishes.is_some() {
            return Err(IdentityError::NotEmpty { dir: dir.clone() });
        }
        let failed = || IdentityError::io("make a brick of", dir);
        let home = Home::make(dir).map_err(failed())?;
        let member = new_member(dir)?;
        let label = Label {
            format: FORMAT,
            volume,
            volume_name: plan.name.clone(),
            brick: member.uuid,
            number: Some(plan.next_brick),
            replicas: plan.replicas,
            place: home.place,
        };
        begin(&home, &label, None).map_err(failed())?;
        Ok(Self { home, member })
    }

    /// Its seat, to join the others before the plan takes it in. The label is put in force with
    /// the first ledger that is written here, which is the one that has it as a member.
    pub fn arrive(self) -> Chair {
        let Self { home, member } = self;
        let mut is_finished = false;
        Chair {
            uuid: member.uuid,
            doubt: None,
            write: Box::new(move |kept| {
                home.seat().write(kept)?;
                if !is_finished {
                    home.seat().finish()?;
                    is_finished = true;
                }
                Ok(())
            }),
        }
    }
}
