//! Which group a name belongs to: a number that never changes while the name stays.
//!
//! A group is what is placed, replicated and moved as one. The directory is named by its id and
//! not by its path, so renaming a directory moves no file to another group.

mod siphash;

use siphash::SipHash24;

/// Groups of a volume, as a power of two, unless it was made with another: 1,024 groups.
pub const DEFAULT_GROUP_BITS: u32 = 10;
/// Most groups a volume may have, as a power of two.
pub const MAX_GROUP_BITS: u32 = 16;

/// A group's number, below the volume's count of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// A directory's identity: a UUID's bytes, the same on every brick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId(pub [u8; 16]);

/// How a volume spreads its names. Chosen when the volume is made and never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grouping {
    key: (u64, u64),
    bits: u32,
}

impl Grouping {
    /// A way to spread names over `2^bits` groups; `key` is random and the volume's own, so that
    /// nobody outside can choose names that all fall into one group. None where `bits` is more
    /// than [`MAX_GROUP_BITS`].
    pub fn new(key: (u64, u64), bits: u32) -> Option<Self> {
        (bits <= MAX_GROUP_BITS).then_some(Self { key, bits })
    }

    /// How many groups there are.
    pub fn count(&self) -> u32 {
        1 << self.bits
    }

    /// The group of `name` in `directory`. A name under which a program writes before it renames
    /// ([`final_name`]) is in the group of the name that it will have.
    pub fn group(&self, directory: DirectoryId, name: &[u8]) -> GroupId {
        let mut hash = SipHash24::new(self.key);
        hash.write(&directory.0);
        hash.write(final_name(name));
        GroupId((hash.finish() & u64::from(self.count() - 1)) as u32)
    }
}

/// Random letters or digits that rsync and mkstemp(3) put at the end.
const RANDOM_LEN: usize = 6;

/// The name a file will have once the program that writes it is done: the name itself, unless it
/// has one of these forms.
///
/// | form | who |
/// | --- | --- |
/// | `.NAME.XXXXXX` | rsync |
/// | `.NAME.swp` `.swo` `.swx`, `NAME~` | vim |
/// | `#NAME#`, `.#NAME`, `NAME~` | emacs |
/// | `NAME.XXXXXX` (letters alone) | Qt's QSaveFile |
/// | `NAME.part` `.partial` `.filepart` `.crdownload` `.tmp` | downloads, WinSCP, lftp |
/// | `.syncthing.NAME.tmp` | Syncthing |
/// | `.~lock.NAME#` | LibreOffice |
///
/// A wrong guess costs nothing but that two names share a group.
pub fn final_name(name: &[u8]) -> &[u8] {
    stripped(name)
        .filter(|rest| !rest.is_empty())
        .unwrap_or(name)
}

fn stripped(name: &[u8]) -> Option<&[u8]> {
    if let Some(rest) = between(name, b".syncthing.", b".tmp") {
        return Some(rest);
    }
    if let Some(rest) = between(name, b".~lock.", b"#") {
        return Some(rest);
    }
    if let Some(rest) = between(name, b"#", b"#") {
        return Some(rest);
    }
    if let Some(rest) = name.strip_prefix(b".#") {
        return Some(rest);
    }
    if let Some(rest) = name.strip_prefix(b".") {
        for ending in [&b".swp"[..], b".swo", b".swx"] {
            if let Some(rest) = rest.strip_suffix(ending) {
                return Some(rest);
            }
        }
        if let Some(rest) = without_random(rest, u8::is_ascii_alphanumeric) {
            return Some(rest);
        }
    }
    for ending in [
        &b"~"[..],
        b".part",
        b".partial",
        b".filepart",
        b".crdownload",
        b".tmp",
    ] {
        if let Some(rest) = name.strip_suffix(ending) {
            return Some(rest);
        }
    }
    // Digits would take numbered frames (`shot.000001`) for one name.
    without_random(name, u8::is_ascii_alphabetic).filter(|_| has_both_cases(name))
}

fn between<'a>(name: &'a [u8], head: &[u8], tail: &[u8]) -> Option<&'a [u8]> {
    name.strip_prefix(head)?.strip_suffix(tail)
}

/// `name` without a dot and [`RANDOM_LEN`] characters of a kind at its end.
fn without_random(name: &[u8], is_of_kind: fn(&u8) -> bool) -> Option<&[u8]> {
    let at = name.len().checked_sub(RANDOM_LEN + 1)?;
    let (rest, tail) = name.split_at(at);
    (tail[0] == b'.' && tail[1..].iter().all(is_of_kind)).then_some(rest)
}

/// True where the last characters are mixed, as random letters nearly always are and words
/// (`.backup`, `.SAMPLE`) are not.
fn has_both_cases(name: &[u8]) -> bool {
    let tail = &name[name.len().saturating_sub(RANDOM_LEN)..];
    tail.iter().any(u8::is_ascii_uppercase) && tail.iter().any(u8::is_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use super::{DirectoryId, Grouping, final_name};

    const GROUPING: Grouping = Grouping {
        key: (7, 11),
        bits: 10,
    };

    #[test]
    fn temporary_names_share_the_group_of_their_final_name() {
        let directory = DirectoryId([3; 16]);
        let group = GROUPING.group(directory, b"report.pdf");
        for name in [
            &b".report.pdf.aZ09bC"[..],
            b".report.pdf.swp",
            b"report.pdf~",
            b"#report.pdf#",
            b".#report.pdf",
            b"report.pdf.part",
            b"report.pdf.kJqLxz",
            b".syncthing.report.pdf.tmp",
            b".~lock.report.pdf#",
        ] {
            let shown = String::from_utf8_lossy(name);
            assert_eq!(GROUPING.group(directory, name), group, "{shown}");
        }
    }

    #[test]
    fn names_that_are_final_stay() {
        for name in [
            &b"a"[..],
            b"~",
            b".tmp",
            b"#",
            b"##",
            b".bashrc",
            b"shot.000001",
            b"notes.backup",
            b".gitignore",
        ] {
            assert_eq!(final_name(name), name, "{}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn a_group_depends_on_directory_name_and_key() {
        let group = |key, dir, name: &[u8]| {
            let grouping = Grouping::new((key, 0), 16).unwrap();
            grouping.group(DirectoryId([dir; 16]), name)
        };
        assert_ne!(group(1, 1, b"a"), group(1, 2, b"a"));
        assert_ne!(group(1, 1, b"a"), group(1, 1, b"b"));
        assert_ne!(group(1, 1, b"a"), group(2, 1, b"a"));
    }

    /// The mapping is part of what is on the disk: it may never change.
    #[test]
    fn the_mapping_is_the_one_of_every_release() {
        let group = |name: &[u8]| GROUPING.group(DirectoryId([3; 16]), name).0;
        assert_eq!(
            [group(b"a"), group(b"b"), group(b"report.pdf")],
            [344, 629, 157]
        );
    }

    #[test]
    fn names_spread_evenly_over_groups() {
        let mut counts = vec![0u32; GROUPING.count() as usize];
        for index in 0..102_400 {
            let name = format!("file-{index:08}.dat");
            let group = GROUPING.group(DirectoryId([9; 16]), name.as_bytes());
            counts[group.0 as usize] += 1;
        }
        // A hundred expected each: six standard deviations.
        assert!(counts.iter().all(|count| (40..=160).contains(count)));
    }
}
