//! Files that were replaced since their bytes were not those that were written: kept aside on their
//! brick, for whoever wants to know what happened, and so that bad sectors are not written again.
//!
//! `main/.portico/quarantine/NUMBER` is the file, `NUMBER.json` says what it was. At most
//! [`MAX_FILES`] and [`MAX_LEN_BYTES`] a brick: the oldest go first. Nothing else depends on them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::home::OBJECTS;
use crate::brick::disk::{Disk, DiskFile};
use crate::brick::member::QUARANTINE_DIR;
use crate::keypath::RESERVED;
use crate::object::Locator;

#[cfg(test)]
mod tests;

/// Most files kept on a brick.
pub const MAX_FILES: usize = 100;
/// Most of their bytes.
pub const MAX_LEN_BYTES: u64 = 1 << 30;
/// Longest description that is read, in bytes.
const MAX_NOTE_LEN_BYTES: usize = 16 << 10;

/// A file that is kept aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantined {
    /// Its name in the quarantine; those that came later have greater ones.
    pub number: u64,
    /// The bucket it was in.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// What was wrong with it: `rotten`, `changed` or `unreadable`.
    pub what: String,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// When it was replaced, seconds since 1970.
    pub since_s: i64,
}

/// Where a brick in a directory keeps a file.
pub fn path_in(dir: &Path, kept: &Quarantined) -> PathBuf {
    let own = dir.join(OBJECTS).join(RESERVED);
    own.join(QUARANTINE_DIR).join(name_of(kept.number))
}

fn name_of(number: u64) -> String {
    format!("{number:016x}")
}

fn note_of(number: u64) -> String {
    format!("{number:016x}.json")
}

/// A brick's quarantine. Blocking.
pub(super) struct Quarantine<D: Disk> {
    pub disk: Arc<D>,
    pub dir: Arc<D::Dir>,
}

impl<D: Disk> Quarantine<D> {
    /// What is kept, the oldest first. What cannot be understood is left out.
    pub fn list(&self) -> io::Result<Vec<Quarantined>> {
        let mut names = Vec::new();
        self.disk.read_dir(&self.dir, &mut |entry| {
            names.extend(Some(entry.name).filter(|name| name.ends_with(".json")));
            true
        })?;
        names.sort_unstable();
        let mut found = Vec::new();
        for name in names {
            let file = self.disk.open_own(&self.dir, &name, false)?;
            let bytes = file.read_at(0, MAX_NOTE_LEN_BYTES)?;
            found.extend(serde_json::from_slice(&bytes).ok());
        }
        Ok(found)
    }

    /// Keeps a file, where it is not too long; what is too much goes. It has its name until the
    /// caller takes it away. Gives whether it is kept.
    pub fn keep(&self, file: &D::File, at: &Locator, kept: Quarantined) -> io::Result<bool> {
        if kept.len_bytes > MAX_LEN_BYTES {
            tracing::info!(bucket = %at.bucket, key = %at.key, "a bad file is too long to be kept aside");
            return Ok(false);
        }
        let mut standing = self.list()?;
        let mut sum: u64 = standing.iter().map(|kept| kept.len_bytes).sum();
        standing.reverse();
        while standing.len() >= MAX_FILES || sum + kept.len_bytes > MAX_LEN_BYTES {
            let Some(oldest) = standing.pop() else { break };
            sum -= oldest.len_bytes;
            self.drop(oldest.number)?;
        }
        let note = self.disk.open_own(&self.dir, &note_of(kept.number), true)?;
        note.write_at(0, &serde_json::to_vec(&kept)?)?;
        self.disk.link(file, &self.dir, &name_of(kept.number))?;
        Ok(true)
    }

    /// Where a file with this inode number is kept.
    pub fn number_of(&self, ino: u64) -> io::Result<Option<u64>> {
        for kept in self.list()? {
            match self.disk.stat(&self.dir, &name_of(kept.number)) {
                Ok(facts) if facts.ino == ino => return Ok(Some(kept.number)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Keeps a file no more.
    pub fn drop(&self, number: u64) -> io::Result<()> {
        for name in [name_of(number), note_of(number)] {
            match self.disk.unlink(&self.dir, &name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
