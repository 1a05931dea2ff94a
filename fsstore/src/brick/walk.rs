//! Walks a bucket's tree in the order of its keys, with bounded memory.
//!
//! Within a directory names are taken in the order of `name` for files and `name/` for
//! directories: then a depth-first walk meets keys in byte order. A directory with more names
//! than [`CHUNK_NAMES`] is read several times, each time keeping the smallest names beyond the
//! last. Escaped keys stand elsewhere and are merged in, in the same way.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Once};

use super::disk::{Disk, FileFacts, FileKind};
use super::tree::{Tree, is_absent, is_forbidden, kind_met};
use crate::error::{Result, StoreError};
use crate::keypath;
use crate::name::{BucketName, MAX_KEY_LEN_BYTES, ObjectKey};

/// Most names of one directory in memory at once.
const CHUNK_NAMES: usize = 32_768;
/// Deepest directory that is walked: a key has no more components.
const MAX_DEPTH: usize = 513;

/// What a visitor wants next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The next key.
    Next,
    /// The next key that does not begin with this.
    Past(String),
    /// Nothing more.
    Stop,
}

/// A key met on the walk.
pub struct Met {
    /// The key.
    pub key: ObjectKey,
    /// Its file's facts; none for markers and symbolic links, which are to be looked up.
    pub facts: Option<FileFacts>,
    /// Whether it stands at its escaped path.
    pub escaped: bool,
}

/// Calls `visit` for every key of a bucket after `after` that may hold an object, in order. Gives
/// whether it came by paths that are too long for keys, or could not see whether there are.
/// Errors: NoSuchBucket, those of the disk and of `visit`.
pub fn walk<D: Disk>(
    tree: &Tree<D>,
    bucket: &BucketName,
    after: Option<&str>,
    visit: &mut dyn FnMut(Met) -> Result<Step>,
) -> Result<bool> {
    let root = tree.bucket_dir(bucket)?;
    let mut walk = Walk {
        tree,
        bucket,
        after: after.map(str::to_owned),
        past: None,
        escaped: BTreeMap::new(),
        escaped_after: after.map(str::to_owned),
        escaped_ended: false,
        has_long_paths: false,
        visit,
    };
    if walk.directory(&root, String::new())? {
        walk.escaped_before(None)?;
    }
    Ok(walk.has_long_paths)
}

/// As [`walk`], of the keys that stand below a directory of a bucket; escaped ones stand
/// elsewhere and are not met. One that is not there has none.
pub fn walk_below<D: Disk>(
    tree: &Tree<D>,
    bucket: &BucketName,
    dir: &str,
    visit: &mut dyn FnMut(Met) -> Result<Step>,
) -> Result<bool> {
    let opened = match tree.disk.open_dir(&tree.root, &format!("{bucket}/{dir}")) {
        Ok(opened) => opened,
        Err(e) if is_absent(&e) || is_forbidden(&e) => return Ok(false),
        Err(e) => return Err(failed(e)),
    };
    let prefix = format!("{dir}/");
    let mut walk = Walk {
        tree,
        bucket,
        after: None,
        past: None,
        escaped: BTreeMap::new(),
        escaped_after: None,
        escaped_ended: true,
        has_long_paths: false,
        visit,
    };
    if walk.marker_of(&opened, &prefix)? {
        walk.directory(&opened, prefix)?;
    }
    Ok(walk.has_long_paths)
}

/// A directory being walked.
struct Level<D: Disk> {
    dir: Arc<D::Dir>,
    /// Its inode: a symbolic link back to a directory above is not followed again.
    ino: u64,
    prefix: String,
    names: VecDeque<(String, FileKind)>,
    last: Option<String>,
    more: bool,
}

impl<D: Disk> Level<D> {
    fn new(dir: Arc<D::Dir>, ino: u64, prefix: String) -> Self {
        Self {
            dir,
            ino,
            prefix,
            names: VecDeque::new(),
            last: None,
            more: true,
        }
    }
}

/// What became of a name.
enum Entered<D: Disk> {
    Done,
    Below(Arc<D::Dir>, String),
    Stop,
}

struct Walk<'a, D: Disk> {
    tree: &'a Tree<D>,
    bucket: &'a BucketName,
    after: Option<String>,
    past: Option<String>,
    escaped: BTreeMap<String, Met>,
    escaped_after: Option<String>,
    escaped_ended: bool,
    has_long_paths: bool,
    visit: &'a mut dyn FnMut(Met) -> Result<Step>,
}

fn failed(e: io::Error) -> StoreError {
    StoreError::from_io("walk a bucket", e)
}

/// Keeps the smallest `CHUNK_NAMES` entries.
fn keep_small<V>(entries: &mut BTreeMap<String, V>, name: String, value: V) -> bool {
    let mut cut = false;
    if entries.len() < CHUNK_NAMES || entries.last_key_value().is_some_and(|(k, _)| name < *k) {
        entries.insert(name, value);
    } else {
        cut = true;
    }
    if entries.len() > CHUNK_NAMES {
        entries.pop_last();
        cut = true;
    }
    cut
}

impl<D: Disk> Walk<'_, D> {
    /// Walks a directory and those below it; false where the visitor said stop. The stack is
    /// a list, since keys may have hundreds of components.
    fn directory(&mut self, root: &Arc<D::Dir>, prefix: String) -> Result<bool> {
        let ino = self.ino_of(root)?;
        let mut levels = vec![Level::<D>::new(Arc::clone(root), ino, prefix)];
        while let Some(level) = levels.last_mut() {
            let Some((name, kind)) = level.names.pop_front() else {
                if !level.more {
                    levels.pop();
                    continue;
                }
                let (names, cut) = match self.names_after(&level.dir, level.last.as_deref()) {
                    // Names can be read only by who may pass through.
                    Err(e) if is_forbidden(&e) && !level.prefix.is_empty() => {
                        self.say_forbidden(&level.prefix);
                        (BTreeMap::new(), false)
                    }
                    other => other.map_err(failed)?,
                };
                level.more = cut;
                level.last = names.last_key_value().map(|(name, _)| name.clone());
                level.names = names.into_iter().collect();
                continue;
            };
            let (dir, prefix) = (Arc::clone(&level.dir), level.prefix.clone());
            match self.entry(&dir, &prefix, &name, kind)? {
                Entered::Stop => return Ok(false),
                Entered::Done => {}
                Entered::Below(below, path) => {
                    let ino = self.ino_of(&below)?;
                    let is_loop = levels.iter().any(|level| level.ino == ino);
                    if levels.len() <= MAX_DEPTH && !is_loop {
                        levels.push(Level::new(below, ino, path));
                    }
                }
            }
        }
        Ok(true)
    }

    fn ino_of(&self, dir: &D::Dir) -> Result<u64> {
        Ok(self.tree.disk.stat_dir(dir).map_err(failed)?.ino)
    }

    fn names_after(
        &self,
        dir: &Arc<D::Dir>,
        last: Option<&str>,
    ) -> io::Result<(BTreeMap<String, FileKind>, bool)> {
        let (mut names, mut cut, mut error) = (BTreeMap::new(), false, None);
        let disk = &*self.tree.disk;
        disk.read_dir(dir, &mut |entry| {
            let kind = match kind_met(disk, dir, &entry) {
                Ok(Some(kind)) => kind,
                Ok(None) => return true,
                Err(e) => {
                    error = Some(e);
                    return false;
                }
            };
            let mut name = entry.name;
            // A link to a directory inside the volume is a directory.
            let kind = match kind {
                FileKind::Symlink if disk.open_dir(dir, &name).is_ok() => {
                    self.tree.has_linked_dirs.store(true, Ordering::Release);
                    FileKind::Dir
                }
                kind => kind,
            };
            match kind {
                FileKind::Dir => name.push('/'),
                FileKind::File | FileKind::Symlink => {}
                FileKind::Other => return true,
            }
            if last.is_none_or(|last| name.as_str() > last) {
                cut |= keep_small(&mut names, name, kind);
            }
            true
        })?;
        match error {
            Some(e) => Err(e),
            None => Ok((names, cut)),
        }
    }

    fn entry(
        &mut self,
        dir: &Arc<D::Dir>,
        prefix: &str,
        sort_name: &str,
        kind: FileKind,
    ) -> Result<Entered<D>> {
        let path = format!("{prefix}{sort_name}");
        self.has_long_paths |= path.len() > MAX_KEY_LEN_BYTES;
        if self
            .past
            .as_ref()
            .is_some_and(|past| path.starts_with(past.as_str()))
        {
            return Ok(Entered::Done);
        }
        if kind == FileKind::Dir {
            let inside = self
                .after
                .as_ref()
                .is_some_and(|after| after.starts_with(&path));
            if !inside && self.after.as_ref().is_some_and(|after| *after > path) {
                return Ok(Entered::Done);
            }
            let name = sort_name.trim_end_matches('/');
            let below = match self.tree.disk.open_dir(dir, name) {
                Ok(below) => below,
                Err(e) if is_absent(&e) => return Ok(Entered::Done),
                // A directory that may not be read never breaks a listing.
                Err(e) if is_forbidden(&e) => {
                    self.say_forbidden(&path);
                    return Ok(Entered::Done);
                }
                Err(e) => return Err(failed(e)),
            };
            if !inside && !self.marker_of(&below, &path)? {
                return Ok(Entered::Stop);
            }
            return Ok(Entered::Below(below, path));
        }
        if self.after.as_ref().is_some_and(|after| *after >= path) {
            return Ok(Entered::Done);
        }
        let Some(key) = keypath::key_of_plain(path.as_bytes()) else {
            return Ok(Entered::Done);
        };
        let facts = match kind {
            FileKind::File => match self.tree.disk.stat(dir, sort_name) {
                Ok(facts) => Some(facts),
                Err(e) if is_absent(&e) => return Ok(Entered::Done),
                // A directory whose names may be read, and nothing more.
                Err(e) if is_forbidden(&e) => {
                    self.say_forbidden(prefix);
                    return Ok(Entered::Done);
                }
                Err(e) => return Err(failed(e)),
            },
            _ => None,
        };
        let met = Met {
            key,
            facts,
            escaped: false,
        };
        Ok(if self.meet(met)? {
            Entered::Done
        } else {
            Entered::Stop
        })
    }

    /// Visits a directory's marker, where it has one; false where the visitor said stop.
    fn marker_of(&mut self, dir: &D::Dir, path: &str) -> Result<bool> {
        if self.tree.records.load_dir(dir)?.marker.is_some()
            && let Ok(key) = ObjectKey::parse(path)
        {
            return self.meet(Met {
                key,
                facts: None,
                escaped: false,
            });
        }
        Ok(true)
    }

    /// Says that what is below a directory cannot be listed: loudly once, for walks come often.
    fn say_forbidden(&mut self, path: &str) {
        self.has_long_paths = true;
        static SAID: Once = Once::new();
        let bucket = self.bucket;
        SAID.call_once(|| {
            tracing::warn!(%bucket, path, "a directory may not be read: what is in it is not listed");
        });
        tracing::debug!(%bucket, path, "a directory may not be read");
    }

    /// Visits a key from the tree, after the escaped ones before it.
    fn meet(&mut self, met: Met) -> Result<bool> {
        if !self.escaped_before(Some(met.key.as_str()))? {
            return Ok(false);
        }
        // A shelter left by a crash; the plain file counts.
        self.escaped.remove(met.key.as_str());
        self.visit(met)
    }

    fn visit(&mut self, met: Met) -> Result<bool> {
        if self
            .past
            .as_ref()
            .is_some_and(|past| met.key.as_str().starts_with(past.as_str()))
        {
            return Ok(true);
        }
        match (self.visit)(met)? {
            Step::Next => Ok(true),
            Step::Past(prefix) => {
                self.past = Some(prefix);
                Ok(true)
            }
            Step::Stop => Ok(false),
        }
    }

    fn escaped_before(&mut self, limit: Option<&str>) -> Result<bool> {
        loop {
            if self.escaped.is_empty() && !self.escaped_ended {
                self.fill_escaped()?;
            }
            let Some(first) = self.escaped.first_entry() else {
                return Ok(true);
            };
            if limit.is_some_and(|limit| first.key().as_str() >= limit) {
                return Ok(true);
            }
            let met = first.remove();
            if !self.visit(met)? {
                return Ok(false);
            }
        }
    }

    fn fill_escaped(&mut self) -> Result<()> {
        let keys = &self.tree.own.keys;
        let dir = match self.tree.disk.open_dir(keys, self.bucket.as_str()) {
            Ok(dir) => dir,
            Err(e) if is_absent(&e) => {
                self.escaped_ended = true;
                return Ok(());
            }
            Err(e) => return Err(failed(e)),
        };
        let mut found = BTreeMap::new();
        let cut = self.escaped_in(&dir, "", 0, &mut found)?;
        self.escaped_ended = !cut;
        if let Some((last, _)) = found.last_key_value() {
            self.escaped_after = Some(last.clone());
        }
        self.escaped = found;
        Ok(())
    }

    fn escaped_in(
        &self,
        dir: &Arc<D::Dir>,
        prefix: &str,
        depth: usize,
        found: &mut BTreeMap<String, Met>,
    ) -> Result<bool> {
        let disk = &*self.tree.disk;
        let (mut dirs, mut cut) = (Vec::new(), false);
        disk.read_dir(dir, &mut |entry| {
            let path = format!("{prefix}{}", entry.name);
            match keypath::decode_escaped(&path) {
                Some(key) => {
                    let is_later = self
                        .escaped_after
                        .as_ref()
                        .is_none_or(|last| key.as_str() > last.as_str());
                    if is_later {
                        let met = Met {
                            key: key.clone(),
                            facts: None,
                            escaped: true,
                        };
                        cut |= keep_small(found, key.as_str().to_owned(), met);
                    }
                }
                None if entry.name.ends_with('~') => dirs.push(entry.name),
                None => {}
            }
            true
        })
        .map_err(failed)?;
        for name in dirs {
            if depth > MAX_DEPTH {
                break;
            }
            match disk.open_dir(dir, &name) {
                Ok(below) => {
                    cut |=
                        self.escaped_in(&below, &format!("{prefix}{name}/"), depth + 1, found)?;
                }
                Err(e) if is_absent(&e) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(cut)
    }
}
