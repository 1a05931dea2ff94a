//! Directories being read: the names that bricks have, each told by one that answers for it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::Bricks;
use super::look::{OsMember, Place, bucket_of, place_of};
use crate::brick::osdisk::OsDisk;
use crate::brick::osdisk::posix::{DIRECTORY_BITS, is_dir, meet_at};
use crate::brick::posix::PosixDir;
use crate::files::{Errno, FileAttr, FileEntry, FileId, FilePath, FileResult, OpenDir};
use crate::keypath::key_of_plain;
use crate::object::Locator;
use crate::volume::Volume;

/// How often a directory is read again while bricks come and go.
const MAX_ROUNDS: usize = 50;
/// Most buckets that are listed at once.
const BUCKETS_AT_ONCE: usize = 1_000;

/// Names with the type bits of their modes; 0 where not known.
pub type Names = BTreeMap<OsString, u32>;

impl Bricks<OsDisk> {
    /// The names in a directory, in order. Errors: EAGAIN where bricks come and go all the time;
    /// never a short answer.
    pub(super) fn names_in(&self, path: &FilePath) -> FileResult<Names> {
        match place_of(path)? {
            Place::Root => self.buckets(),
            Place::Bucket(_) | Place::Below(_) => {
                for _ in 0..MAX_ROUNDS {
                    let before = self.shared.epochs();
                    let sources = self.wait(self.shared.sources()).map_err(|e| e.errno())?;
                    let read = self.read_merged(path, &sources);
                    if self.shared.epochs() == before {
                        match read {
                            Err(Errno::IO) => {}
                            other => return other,
                        }
                    }
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                Err(Errno::AGAIN)
            }
        }
    }

    fn buckets(&self) -> FileResult<Names> {
        let (mut names, mut after) = (Names::new(), None::<String>);
        loop {
            let page = Volume::list_buckets(self, "", after.as_deref(), BUCKETS_AT_ONCE);
            let page = self.wait(page).map_err(|e| e.errno())?;
            let is_last = page.len() < BUCKETS_AT_ONCE;
            after = page.last().map(|info| info.name.as_str().to_owned());
            let found = page.into_iter();
            names.extend(found.map(|info| (info.name.as_str().into(), DIRECTORY_BITS)));
            if is_last {
                return Ok(names);
            }
        }
    }

    fn read_merged(
        &self,
        path: &FilePath,
        sources: &[placement::layout::BrickId],
    ) -> FileResult<Names> {
        let mut members = self.shared.all_members();
        members.retain(|member| sources.contains(&member.id));
        let (mut names, mut elsewhere) = (Names::new(), Vec::new());
        let mut stands = false;
        for member in &members {
            let found = match names_on(member, path) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => continue,
                other => other?,
            };
            stands = true;
            for (name, kind) in found {
                let Some(at) = place_in(path, &name) else {
                    continue;
                };
                let source = sources.get(self.shared.group_of(&at).0 as usize);
                if source == Some(&member.id) {
                    names.insert(name, kind);
                } else if kind == DIRECTORY_BITS {
                    elsewhere.push((Arc::clone(member), name));
                }
            }
        }
        for (member, name) in elsewhere {
            // One that only keys made stands on bricks that have such keys.
            if !names.contains_key(&name) && self.holds_names(&member, &path.join(&name)?)? {
                names.insert(name, DIRECTORY_BITS);
            }
        }
        match stands {
            true => Ok(names),
            false => Err(Errno::NOENT),
        }
    }

    /// Whether a brick has anything below a directory that it is to have.
    pub(super) fn holds_names(&self, member: &OsMember, path: &FilePath) -> FileResult<bool> {
        let found = match names_on(member, path) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => return Ok(false),
            other => other?,
        };
        for (name, kind) in found {
            let Some(at) = place_in(path, &name) else {
                continue;
            };
            let in_sync = self.shared.in_sync(self.shared.group_of(&at));
            if in_sync.iter().any(|other| other.id == member.id)
                || kind == DIRECTORY_BITS && self.holds_names(member, &path.join(&name)?)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn open_directory(&self, path: &FilePath, id: FileId) -> FileResult<BricksDir> {
        let node = self.node_as(path, id)?;
        match is_dir(node.met.attr.mode) {
            true => Ok(BricksDir {
                bricks: self.clone(),
                path: path.clone(),
                id: node.attr.id(),
                listed: Mutex::default(),
            }),
            false => Err(Errno::NOTDIR),
        }
    }
}

/// The place of a name in a directory, where a key can have it.
fn place_in(path: &FilePath, name: &OsStr) -> Option<Locator> {
    let (bucket, rest) = path.in_bucket()?;
    let bucket = bucket_of(bucket).ok()?;
    let whole = match rest.is_empty() {
        true => name.as_bytes().to_vec(),
        false => [rest.as_bytes(), b"/", name.as_bytes()].concat(),
    };
    Some(Locator::new(bucket, key_of_plain(&whole)?))
}

fn names_on(member: &OsMember, path: &FilePath) -> FileResult<Vec<(OsString, u32)>> {
    let disk = member.inner.disk();
    let dir = PosixDir::open_path(disk, path)?;
    let mut names = Vec::new();
    dir.read(0, &mut |entry| {
        names.push((entry.name.to_owned(), entry.kind));
        true
    })?;
    for (name, kind) in &mut names {
        if *kind == 0 {
            let opened = disk.open_directory(path)?;
            *kind = meet_at(&opened, name).map_or(0, |met| met.attr.mode & 0o170_000);
        }
    }
    Ok(names)
}

/// A directory of several bricks, being read through a mount.
pub struct BricksDir {
    bricks: Bricks<OsDisk>,
    path: FilePath,
    id: FileId,
    /// As it was when it was read from its beginning.
    listed: Mutex<Arc<Vec<(OsString, u32)>>>,
}

impl OpenDir for BricksDir {
    fn read(&self, from: u64, visit: &mut dyn FnMut(FileEntry<'_>) -> bool) -> FileResult<()> {
        let listed = {
            let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
            if from == 0 {
                // A directory that was removed has no names.
                let names = match self.bricks.names_in(&self.path) {
                    Err(Errno::NOENT) => Names::new(),
                    other => other?,
                };
                *listed = Arc::new(names.into_iter().collect());
            }
            Arc::clone(&listed)
        };
        let skipped = usize::try_from(from)
            .unwrap_or(usize::MAX)
            .min(listed.len());
        for (index, (name, kind)) in listed.iter().enumerate().skip(skipped) {
            let Ok(attr) = self.attr_of(name) else {
                // It went meanwhile.
                continue;
            };
            let entry = FileEntry {
                name,
                ino: attr.ino,
                kind: *kind,
                next: index as u64 + 1,
            };
            if !visit(entry) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn read_ahead(&self) {}

    fn attr(&self) -> FileResult<FileAttr> {
        Ok(self.bricks.node_as(&self.path, self.id)?.attr)
    }

    fn attr_of(&self, name: &OsStr) -> FileResult<FileAttr> {
        Ok(self.bricks.node(&self.path.join(name)?)?.attr)
    }

    fn sync(&self) -> FileResult<()> {
        // Names are in every brick's log, durably, before whoever made them is answered.
        Ok(())
    }
}
