//! Permissions of files, as the kernel would grant them to who asks: what a door asks a volume
//! before it acts in a bucket that enforces them.

use crate::name::BucketName;
use crate::object::Locator;

/// Most supplementary groups. Source: credentials(7), NGROUPS_MAX.
pub const MAX_GROUPS: usize = 65_536;

/// Someone as the kernel knows users. Source: credentials(7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Further groups, up to [`MAX_GROUPS`].
    pub groups: Vec<u32>,
}

/// What is to be done. Whatever it is, every directory on the way must let itself be searched.
/// An object that stands aside (escaped or sheltered) counts as standing in the nearest directory
/// of its key.
#[derive(Debug)]
pub enum Act<'a, O> {
    /// An object is given out: read permission of its file.
    Read {
        /// Its key.
        at: &'a Locator,
        /// The object that was opened; none where nothing stands.
        object: Option<&'a O>,
    },
    /// An object is made or replaced: write permission of the nearest directory that stands, and
    /// of the file that stands.
    Replace(&'a Locator),
    /// An object is removed: write permission of the nearest directory that stands.
    Remove(&'a Locator),
    /// Attributes of an object change: write permission of its file.
    Change(&'a Locator),
    /// Keys are listed: read permission of the deepest directory that the prefix leads into.
    List {
        /// Where.
        bucket: &'a BucketName,
        /// What the keys begin with.
        prefix: &'a str,
    },
}
