//! What a brick says of itself, and why a directory is refused as one.
//!
//! A brick is a directory as `portico serve DIR` makes it: objects in `BRICK/main`. What makes it
//! one of several is its *label*, `BRICK/.portico/brick.json`:
//!
//! ```text
//! {"format":1,"volume":"2f0e…","volume_name":"main","brick":"91aa…","number":0,"replicas":2,
//!  "place":{"inode":131,"born_ns":1700000000000000000}}
//! ```
//!
//! It is written last when the brick is made ([`super::making`]) and always whole. `place` is the
//! directory `.portico` that it was written in: `cp -a` and rsync carry the label, but not the
//! inode and the time of birth. A copy on another disk is known by that, even where the brick it
//! was copied from is gone; a copy of the whole device, or a snapshot of a file system that keeps
//! both, is known only beside the original, and by its ledger being older.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use placement::keeper::Revision;
use rustix::fs::{AtFlags, StatxFlags};
use serde::{Deserialize, Serialize};

/// Version of the label's form; another one is refused, not guessed at.
pub const FORMAT: u32 = 1;

/// A UUID, written as `8-4-4-4-12` hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Uuid(pub placement::keeper::Uuid);

impl Uuid {
    /// A new one, of random bits. Source: RFC 9562, version 4. Errors: the kernel gives none.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Uuid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no UUID");
        let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        let dashes: Vec<usize> = text.match_indices('-').map(|(at, _)| at).collect();
        if digits.len() != 32 || text.len() != 36 || dashes != [8, 13, 18, 23] {
            return Err(wrong());
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::try_from(pair[0] << 4 | pair[1]).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl From<Uuid> for String {
    fn from(uuid: Uuid) -> Self {
        uuid.to_string()
    }
}

impl TryFrom<String> for Uuid {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A directory, as long as it is not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Inode number.
    pub inode: u64,
    /// Time of birth, nanoseconds since 1970; 0 where the file system keeps none.
    pub born_ns: i64,
}

/// What a brick says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// [`FORMAT`].
    pub format: u32,
    /// The volume it is of.
    pub volume: Uuid,
    /// That volume's name.
    pub volume_name: String,
    /// Which brick it is.
    pub brick: Uuid,
    /// Its number in the volume; none for the server's own directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// Copies that the volume kept when the label was written: for people.
    pub replicas: usize,
    /// The directory it was written in.
    pub place: Place,
}

impl Label {
    /// Reads a label. Errors: what is wrong with it, as a clause.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if version.format != FORMAT {
            return Err(format!(
                "it has format {}, and this portico knows format {FORMAT}",
                version.format
            ));
        }
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// The label as it is written.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// Why directories are not taken for the bricks of a volume. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nothing of a volume anywhere.
    #[error("none of these directories is a brick: `portico volume create` makes a volume of them")]
    NoVolume,
    /// No brick is found, and the server's own directory knows that there were some.
    #[error(
        "no brick of volume `{volume_name}` is found, and it has {bricks}: are the disks mounted? \
         Nothing was changed"
    )]
    AllGone {
        /// The volume.
        volume_name: String,
        /// How many it has.
        bricks: usize,
    },
    /// One directory given twice.
    #[error("{} and {} are one directory: give each brick once", first.display(), second.display())]
    SameDirectory {
        /// One path.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Not a directory.
    #[error("{} is no directory: a brick is one", dir.display())]
    NoDirectory {
        /// Where.
        dir: PathBuf,
    },
    /// Not a brick, and empty.
    #[error(
        "{} is empty and no brick of volume `{volume_name}`: if its disk is not mounted, mount it; \
         if it is to become a brick, `portico brick add {}`",
        dir.display(), dir.display()
    )]
    NoBrick {
        /// Where.
        dir: PathBuf,
        /// The volume of the others.
        volume_name: String,
    },
    /// Not a brick, and not empty.
    #[error(
        "{} is no brick, and it is not empty: give an empty directory. A tree that `portico serve DIR` \
         served can become the first brick of a new volume (`portico volume create --adopt`)",
        dir.display()
    )]
    NotEmpty {
        /// Where.
        dir: PathBuf,
    },
    /// Made halfway.
    #[error(
        "making a brick of {} was interrupted: ask for it again (`portico volume create`, \
         `portico brick add`), or remove {}/.portico/brick.json.making",
        dir.display(), dir.display()
    )]
    HalfMade {
        /// Where.
        dir: PathBuf,
    },
    /// A brick of another volume.
    #[error(
        "{} is a brick of another volume, `{volume_name}` ({volume}): serve it with its own bricks, or \
         take it away from this command",
        dir.display()
    )]
    Foreign {
        /// Where.
        dir: PathBuf,
        /// Its volume's name.
        volume_name: String,
        /// Its volume.
        volume: Uuid,
    },
    /// The same brick twice.
    #[error(
        "{} and {} are the same brick ({brick}): one is a copy of the other, and only you know which. \
         Take the copy away (or remove its .portico/brick.json)",
        first.display(), second.display()
    )]
    Cloned {
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// Which brick both say they are.
        brick: Uuid,
    },
    /// A brick that was taken out of the volume.
    #[error(
        "{} was taken out of volume `{volume_name}`, which goes on without it. Its files are plain and \
         yours; remove {}/.portico and {}/main/.portico to make it a plain directory",
        dir.display(), dir.display(), dir.display()
    )]
    Removed {
        /// Where.
        dir: PathBuf,
        /// The volume.
        volume_name: String,
    },
    /// Only copies or outdated bricks have some of the groups.
    #[error(
        "{} {why}, and no other brick found has all of what it holds: what was written since would be \
         lost. Bring the missing bricks back. What is on the bricks that are left are plain files below \
         `main/`: if the others are gone for good, copy them into a new volume",
        dir.display()
    )]
    OnlyDoubted {
        /// Where.
        dir: PathBuf,
        /// Why it is doubted.
        why: Doubt,
    },
    /// Too few seats to know what was decided last.
    #[error(
        "only {found} of the places that keep the configuration of volume `{volume_name}` are here, and \
         {needed} are needed. Missing: {}. Bring one back. What is on the bricks that are left are plain \
         files below `main/`: if the others are gone for good, copy them into a new volume", missing.join(", ")
    )]
    TooFewSeats {
        /// The volume.
        volume_name: String,
        /// How many are here.
        found: usize,
        /// How many are needed.
        needed: usize,
        /// Where the others were.
        missing: Vec<String>,
    },
    /// Two configurations of one revision that differ.
    #[error(
        "two bricks have different configurations of the same revision ({}.{}): one was changed by \
         hand. Take away the brick that was",
        at.term, at.number
    )]
    Contradiction {
        /// Which revision.
        at: Revision,
    },
    /// A brick that another process has open.
    #[error("{} is in use by another portico", dir.display())]
    InUse {
        /// Where.
        dir: PathBuf,
    },
    /// A file of portico's own cannot be understood.
    #[error("{} cannot be understood: {reason}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What was asked for cannot be.
    #[error(transparent)]
    Plan(#[from] super::plan::PlanError),
    /// The operating system failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Its error.
        #[source]
        source: io::Error,
    },
}

impl IdentityError {
    /// For `map_err`: what was tried, and where.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Why nothing on a brick counts until it was compared with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// Its ledger is older than the last two: it was away, or put back to an older state.
    Stale,
    /// It stands in another directory than the one it was made in.
    Copied,
    /// Its ledger cannot be read.
    Damaged,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stale => "is older than the volume: it was away, or restored",
            Self::Copied => "is a copy of the brick that was made",
            Self::Damaged => "has no configuration that can be read",
        })
    }
}

/// Where a directory stands.
pub fn place_of(dir: &Path) -> io::Result<Place> {
    let mask = StatxFlags::INO | StatxFlags::BTIME;
    let stat = rustix::fs::statx(rustix::fs::CWD, dir, AtFlags::empty(), mask)?;
    let has_btime = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    let born = stat.stx_btime;
    let born_ns = born.tv_sec.saturating_mul(1_000_000_000) + i64::from(born.tv_nsec);
    Ok(Place {
        inode: stat.stx_ino,
        born_ns: if has_btime { born_ns } else { 0 },
    })
}

/// The device that a directory is on: the whole disk where a partition is on one, else the file
/// system's own number. Names are the kernel's and last until the next boot.
/// Source: sysfs, /sys/dev/block.
pub fn device_of(dir: &Path) -> io::Result<String> {
    let stat = rustix::fs::stat(dir)?;
    let number = (
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev),
    );
    let own = format!("{}:{}", number.0, number.1);
    let Ok(found) = Path::new("/sys/dev/block").join(&own).canonicalize() else {
        return Ok(own);
    };
    let whole = if found.join("partition").exists() {
        found.parent()
    } else {
        Some(&*found)
    };
    let name = whole.and_then(Path::file_name);
    Ok(name.map_or(own, |name| name.to_string_lossy().into_owned()))
}

/// The size of the file system that a directory is on, in MiB.
pub fn size_mib_of(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok((stat.f_blocks.saturating_mul(stat.f_frsize) >> 20).max(1))
}

#[cfg(test)]
mod tests {
    use super::{FORMAT, Label, Place, Uuid, device_of, place_of, size_mib_of};

    fn label() -> Label {
        Label {
            format: FORMAT,
            volume: Uuid([7; 16]),
            volume_name: "main".to_owned(),
            brick: Uuid([0xab; 16]),
            number: Some(3),
            replicas: 2,
            place: Place {
                inode: 131,
                born_ns: 5,
            },
        }
    }

    #[test]
    fn a_uuid_is_read_as_it_is_written() {
        let uuid = Uuid::random().unwrap();
        let text = uuid.to_string();
        assert_eq!((text.len(), &text[14..15]), (36, "4"));
        assert_eq!(text.parse(), Ok(uuid));
        assert_ne!(Uuid::random().unwrap(), uuid);
        for wrong in ["", "91aa", &text.replace('-', ""), &text.replace('-', "_")] {
            assert!(wrong.parse::<Uuid>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_label_is_read_as_it_is_written_and_of_this_format_only() {
        let bytes = label().to_bytes().unwrap();
        assert_eq!(Label::parse(&bytes), Ok(label()));
        let later = Label {
            format: 2,
            ..label()
        };
        let reason = Label::parse(&later.to_bytes().unwrap()).unwrap_err();
        assert!(reason.contains("format 2"), "{reason}");
        assert!(Label::parse(&bytes[..bytes.len() / 2]).is_err());
        assert!(Label::parse(b"").is_err());
    }

    #[test]
    fn a_renamed_directory_is_the_same_place_and_a_new_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
        std::fs::create_dir(&one).unwrap();
        let place = place_of(&one).unwrap();
        let moved = std::process::Command::new("mv")
            .args([&one, &other])
            .status();
        assert!(moved.unwrap().success());
        assert_eq!(place_of(&other).unwrap(), place);
        std::fs::create_dir(&one).unwrap();
        assert_ne!(place_of(&one).unwrap(), place);
    }

    #[test]
    fn directories_of_one_file_system_share_its_device() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        std::fs::create_dir(&sub).unwrap();
        assert_eq!(device_of(dir.path()).unwrap(), device_of(&sub).unwrap());
        assert_ne!(
            device_of(&sub).unwrap(),
            device_of("/proc".as_ref()).unwrap()
        );
        assert!(size_mib_of(&sub).unwrap() > 0);
    }
}
