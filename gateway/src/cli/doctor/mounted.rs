//! How a tree is mounted, as this host's kernel says: a verdict holds for that only.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const TABLE: &str = "/proc/self/mountinfo";
/// Options that differ from host to host and change nothing.
const OF_A_HOST: [&str; 6] = [
    "addr",
    "clientaddr",
    "mountaddr",
    "mountport",
    "port",
    "secret",
];

/// A file system's kind and options. Source: proc_pid_mountinfo(5).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Mounted {
    /// `nfs4`, `fuse.glusterfs`
    pub(crate) kind: String,
    /// Those of the mount and of the file system. What a FUSE daemon was told itself is not among
    /// them: the kernel does not know it.
    pub(crate) options: BTreeSet<String>,
}

/// What of a verdict holds for a mount.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// All.
    Whole,
    /// It was found with other options: these are on one side only.
    Options(Vec<String>),
    /// Nothing: it was found on another kind of file system.
    Kind,
}

impl Mounted {
    /// How the file system is mounted that a directory is on.
    pub(crate) fn of(dir: &Path) -> io::Result<Self> {
        let dir = dir.canonicalize()?;
        Self::find(&std::fs::read(TABLE)?, &dir).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no mount in the kernel's table")
        })
    }

    /// The last mount of the table on the longest way to a directory.
    fn find(table: &[u8], dir: &Path) -> Option<Self> {
        let lines = table.split(|byte| *byte == b'\n').filter_map(Line::parse);
        let above = lines.filter(|line| dir.starts_with(&line.place));
        above
            .max_by_key(|line| line.place.as_os_str().len())
            .map(|line| line.mounted)
    }

    /// Whether what was found of `examined` says anything of this one.
    pub(crate) fn fit(&self, examined: &[Self]) -> Fit {
        let alike: Vec<_> = examined
            .iter()
            .filter(|one| one.kind == self.kind)
            .collect();
        let Some(nearest) = alike
            .iter()
            .min_by_key(|one| one.options.symmetric_difference(&self.options).count())
        else {
            return Fit::Kind;
        };
        let differing = nearest.options.symmetric_difference(&self.options);
        match differing.cloned().collect::<Vec<_>>() {
            none if none.is_empty() => Fit::Whole,
            some => Fit::Options(some),
        }
    }
}

struct Line {
    place: PathBuf,
    mounted: Mounted,
}

impl Line {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let place = unescape(fields.nth(4)?);
        let own = fields.next()?;
        let mut fields = fields.skip_while(|field| *field != b"-");
        let kind = String::from_utf8_lossy(fields.nth(1)?).into_owned();
        let shared = fields.nth(1)?;
        let options = [own, shared]
            .into_iter()
            .flat_map(|all| all.split(|byte| *byte == b','));
        let options = options.map(|one| String::from_utf8_lossy(one).into_owned());
        let options = options.filter(|one| {
            let name = one.split('=').next().unwrap_or(one);
            !OF_A_HOST.contains(&name)
        });
        Some(Self {
            place,
            mounted: Mounted {
                kind,
                options: options.collect(),
            },
        })
    }
}

/// A path of the table: white space is `\040` and the like there.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::new();
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let byte =
            digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        path.push(byte.unwrap_or(*first));
        rest = match byte {
            Some(_) => after.get(3..).unwrap_or_default(),
            None => after,
        };
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Fit, Mounted};

    const TABLE: &[u8] = b"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        40 22 0:41 / /mnt/a\\040b rw shared:1 - nfs4 s:/x rw,noac,clientaddr=10.0.0.7\n\
        41 22 0:42 / /mnt/a rw - fuse.glusterfs s:v rw,max_read=131072\n";

    fn found(dir: &str) -> Mounted {
        Mounted::find(TABLE, Path::new(dir)).unwrap()
    }

    #[test]
    fn the_nearest_mount_counts_and_hosts_addresses_do_not() {
        assert_eq!(found("/mnt/ab").kind, "ext4");
        assert_eq!(found("/mnt/a/tree").kind, "fuse.glusterfs");
        let nfs = found("/mnt/a b/tree");
        assert_eq!(nfs.options.into_iter().collect::<Vec<_>>(), ["noac", "rw"]);
    }

    #[test]
    fn a_verdict_is_for_one_kind_of_file_system() {
        let (ext4, gluster) = (found("/"), found("/mnt/a"));
        assert_eq!(gluster.fit(std::slice::from_ref(&ext4)), Fit::Kind);
        assert_eq!(gluster.fit(&[ext4, gluster.clone()]), Fit::Whole);
    }

    #[test]
    fn options_that_were_not_examined_are_named() {
        let nfs = found("/mnt/a b");
        let mut other = nfs.clone();
        other.options.remove("noac");
        assert_eq!(other.fit(&[nfs]), Fit::Options(vec!["noac".to_owned()]));
    }
}
