//! One place that keeps the volume's configuration: a brick's `.portico`, or the server's own.
//!
//! ```text
//! brick.json           the label (own.json in the server's own directory)
//! brick.json.making    the label of a brick that is being made
//! ledger               (own.ledger) a line `portico ledger 1 CRC64NVME`, then JSON: the latest term
//!                      promised, whether the brick is doubted, and the ledger
//! NAME.new             what is about to replace NAME
//! ```
//!
//! A file is replaced whole: 1. `NAME.new` is written, 2. synced, 3. renamed over `NAME`, 4. the
//! directory is synced. After a crash at any of them `NAME` is old or new. After an error nothing
//! is known but that, and the seat is not used again in this run.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use placement::keeper::{Ledger, Revision};
use serde::{Deserialize, Serialize};

use super::identity::{Doubt, Label, Uuid};
use super::plan::{Plan, PlanForm};
use crate::brick::disk::{Disk, DiskFile};
use crate::checksum::digest_of;
use crate::object::DigestAlgorithm;

#[cfg(test)]
mod tests;

/// Version of the ledger's form.
const FORMAT: u32 = 1;
/// Longest file of its own that is read, in bytes: 65,536 groups of seven copies need less.
const MAX_FILE_LEN_BYTES: usize = 16 << 20;

/// The names of a seat's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    label: &'static str,
    making: &'static str,
    ledger: &'static str,
}

/// Those of a brick.
pub const OF_BRICK: Names = Names {
    label: "brick.json",
    making: "brick.json.making",
    ledger: "ledger",
};

/// Those of the server's own directory, which may be a brick as well.
pub const OF_SERVER: Names = Names {
    label: "own.json",
    making: "own.json.making",
    ledger: "own.ledger",
};

/// What a seat keeps besides its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The latest term noted here.
    pub promised: u64,
    /// Why nothing on this brick counts, until it was compared.
    pub doubt: Option<Doubt>,
    /// The configuration.
    pub ledger: Arc<Ledger<Plan>>,
}

/// What is found in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing of a seat.
    Nothing,
    /// A label that was not yet in force when making it ended.
    HalfMade(Label),
    /// A seat; none where its ledger is absent or damaged.
    Seat(Label, Option<Kept>),
}

/// A seat that is read and written. Blocking.
pub struct Seat<D: Disk> {
    disk: Arc<D>,
    dir: Arc<D::Dir>,
    names: Names,
}

impl<D: Disk> Seat<D> {
    /// A seat in a directory of a disk.
    pub fn new(disk: Arc<D>, dir: Arc<D::Dir>, names: Names) -> Self {
        Self { disk, dir, names }
    }

    /// Reads what is there. Errors: the label is there and not to be understood (InvalidData), or
    /// the disk fails.
    pub fn look(&self) -> io::Result<Seen> {
        let invalid = |reason: String| io::Error::new(ErrorKind::InvalidData, reason);
        if let Some(bytes) = self.read(self.names.label)? {
            let label = Label::parse(&bytes).map_err(invalid)?;
            // A ledger that cannot be read is one that is not there: others have it.
            let kept = self.read(self.names.ledger)?;
            let kept = kept.and_then(|bytes| decode(&bytes).ok());
            return Ok(Seen::Seat(label, kept));
        }
        match self.read(self.names.making)? {
            // What cannot be understood was being written.
            Some(bytes) => Ok(Label::parse(&bytes).map_or(Seen::Nothing, Seen::HalfMade)),
            None => Ok(Seen::Nothing),
        }
    }

    /// Notes that a brick is being made. Until [`Seat::finish`] it is not one.
    pub fn begin(&self, label: &Label) -> io::Result<()> {
        self.replace(self.names.making, &label.to_bytes()?)
    }

    /// Puts the label that [`Seat::begin`] wrote in force.
    pub fn finish(&self) -> io::Result<()> {
        let Names { making, label, .. } = self.names;
        self.disk.rename(&self.dir, making, &self.dir, label)?;
        self.disk.sync_dir(&self.dir)
    }

    /// Replaces a label that is in force.
    pub fn relabel(&self, label: &Label) -> io::Result<()> {
        self.replace(self.names.label, &label.to_bytes()?)
    }

    /// Takes everything of the seat away, the label first.
    pub fn erase(&self) -> io::Result<()> {
        let Names {
            label,
            making,
            ledger,
        } = self.names;
        for name in [label, making, ledger] {
            match self.disk.unlink(&self.dir, name) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => self.disk.sync_dir(&self.dir)?,
            }
        }
        Ok(())
    }

    /// Writes what the seat keeps, durably.
    pub fn write(&self, kept: &Kept) -> io::Result<()> {
        self.replace(self.names.ledger, &encode(kept)?)
    }

    /// Replaces a file of the seat's directory, whole. See the module.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = format!("{name}.new");
        let file = self.disk.open_own(&self.dir, &new, true)?;
        file.set_len(0)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        self.disk.rename(&self.dir, &new, &self.dir, name)?;
        self.disk.sync_dir(&self.dir)
    }

    /// Reads a file of the seat's directory; none where there is none.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match self.disk.open_own(&self.dir, name, false) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = usize::try_from(file.facts()?.len_bytes).unwrap_or(usize::MAX);
        match len > MAX_FILE_LEN_BYTES {
            true => Err(io::Error::new(ErrorKind::InvalidData, "it is too long")),
            false => file.read_at(0, len).map(Some),
        }
    }
}

/// Reads the label of a seat that another process may have; none where there is none, or it cannot
/// be understood.
pub fn peek_label(dir: &Path, names: Names) -> Option<Label> {
    Label::parse(&std::fs::read(dir.join(names.label)).ok()?).ok()
}

/// Reads a seat that another process may have, changing nothing; none where there is none, or its
/// files cannot be read.
pub fn peek(dir: &Path, names: Names) -> Option<(Label, Arc<Ledger<Plan>>)> {
    let label = peek_label(dir, names)?;
    let kept = decode(&std::fs::read(dir.join(names.ledger)).ok()?).ok()?;
    Some((label, kept.ledger))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptForm {
    promised: u64,
    doubt: Option<Doubt>,
    volume: Uuid,
    at: (u64, u64),
    before: (u64, u64),
    seats: BTreeSet<Uuid>,
    plan: PlanForm,
}

fn head(body: &[u8]) -> String {
    let crc = digest_of(DigestAlgorithm::Crc64Nvme, body);
    let hex: String = crc.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("portico ledger {FORMAT} {hex}")
}

fn encode(kept: &Kept) -> io::Result<Vec<u8>> {
    let pair = |at: Revision| (at.term, at.number);
    let ledger = &kept.ledger;
    let body = serde_json::to_vec(&KeptForm {
        promised: kept.promised,
        doubt: kept.doubt,
        volume: Uuid(ledger.volume),
        at: pair(ledger.at),
        before: pair(ledger.before),
        seats: ledger.seats.iter().copied().map(Uuid).collect(),
        plan: PlanForm::from(&ledger.config),
    })?;
    let mut bytes = head(&body).into_bytes();
    bytes.push(b'\n');
    bytes.extend(body);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Kept, String> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (first, body) = bytes.split_at(end.ok_or("it has no first line")?);
    let body = &body[1..];
    if first != head(body).as_bytes() {
        return Err("its checksum is another".to_owned());
    }
    let form: KeptForm = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let at = |(term, number): (u64, u64)| Revision { term, number };
    Ok(Kept {
        promised: form.promised,
        doubt: form.doubt,
        ledger: Arc::new(Ledger {
            volume: form.volume.0,
            at: at(form.at),
            before: at(form.before),
            seats: form.seats.into_iter().map(|uuid| uuid.0).collect(),
            config: Plan::try_from(form.plan)?,
        }),
    })
}
