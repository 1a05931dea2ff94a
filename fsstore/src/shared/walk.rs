//! Walks a bucket's tree in the order of its keys, as far as it is asked, with bounded memory.
//!
//! Names of a directory are taken in the order of `name` for files and `name/` for directories:
//! then a depth-first walk meets keys in byte order. Nothing before the page is walked: in each
//! directory on the way to where it begins, the names before that are passed over.
//!
//! What is met is a candidate: whether an object stands there is looked up afterwards. Where a
//! directory stands, the object of its name may be in its shelter, so that key is a candidate too:
//! an object that moves to its shelter during a walk is met in one place or the other.

mod names;

use std::collections::BTreeSet;

use self::names::{Kind, List, State, failed, read_names, state_of};
pub use self::names::{Names, QUIET_NS};
use super::buckets::twice;
use super::disk::{Dir, SharedDisk, is_gone};
use crate::brick::disk::Disk;
use crate::brick::tree::{Tree, absent_is_none, is_absent, is_forbidden};
use crate::error::{Result, StoreError};
use crate::keypath;
use crate::name::{BucketName, ObjectKey};

/// Deepest directory that is walked: a key has no more components.
const MAX_DEPTH: usize = 513;

/// A directory being walked.
struct Level {
    dir: Dir,
    prefix: String,
    names: List,
    at: usize,
    is_whole: bool,
}

/// A walk under way.
pub struct Walk<'a> {
    tree: &'a Tree<SharedDisk>,
    names: &'a Names,
    bucket: &'a BucketName,
    levels: Vec<Level>,
    /// Keys before this are passed over.
    from: String,
    /// Escaped keys from there on; those met may come again.
    escaped: BTreeSet<String>,
    /// What their directory was when they were read, where its times tell of more.
    escaped_read: Option<State>,
    /// The next plain candidate, where an escaped one goes first.
    waiting: Option<String>,
    last: Option<String>,
    /// Whether escaped keys are none of its business.
    is_plain: bool,
}

impl<'a> Walk<'a> {
    /// Begins at the first key that is not before `from`. Errors: NoSuchBucket.
    pub fn new(
        tree: &'a Tree<SharedDisk>,
        names: &'a Names,
        bucket: &'a BucketName,
        from: &str,
    ) -> Result<Self> {
        let root = tree.bucket_dir(bucket)?;
        let mut walk = Self::nowhere(tree, names, bucket, from);
        walk.enter(root, String::new())?;
        Ok(walk)
    }

    fn nowhere(
        tree: &'a Tree<SharedDisk>,
        names: &'a Names,
        bucket: &'a BucketName,
        from: &str,
    ) -> Self {
        Self {
            tree,
            names,
            bucket,
            levels: Vec::new(),
            from: from.to_owned(),
            escaped: BTreeSet::new(),
            escaped_read: None,
            waiting: None,
            last: None,
            is_plain: false,
        }
    }

    /// A walk over plain keys that begin with `prefix`, from the directory that they are all in.
    pub fn below(
        tree: &'a Tree<SharedDisk>,
        names: &'a Names,
        bucket: &'a BucketName,
        prefix: &str,
    ) -> Result<Self> {
        let mut walk = Self::nowhere(tree, names, bucket, prefix);
        walk.is_plain = true;
        let (path, prefix) = match prefix.rsplit_once('/') {
            Some((dir, _)) => (format!("{bucket}/{dir}"), format!("{dir}/")),
            None => (bucket.as_str().to_owned(), String::new()),
        };
        let open = || absent_is_none(tree.disk.open_dir(&tree.root, &path));
        if let Some(dir) = twice(open).map_err(failed)? {
            walk.enter(dir, prefix)?;
        }
        Ok(walk)
    }

    /// Passes over everything that begins with `prefix`; gives the escaped keys among that.
    pub fn pass(&mut self, prefix: &str) -> BTreeSet<String> {
        // No key has a byte of 0xff: what follows the prefix is smaller than this.
        let Some(after) = successor(prefix) else {
            self.levels.clear();
            self.waiting = None;
            return std::mem::take(&mut self.escaped);
        };
        let later = self.escaped.split_off(&after);
        let mut passed = std::mem::replace(&mut self.escaped, later);
        self.waiting = self.waiting.take().filter(|key| *key >= after);
        self.from = after;
        while self
            .levels
            .last()
            .is_some_and(|level| level.prefix.starts_with(prefix))
        {
            self.levels.pop();
        }
        if let Some(level) = self.levels.last_mut()
            && let Some(rest) = self.from.strip_prefix(&level.prefix)
        {
            let begins = rest.split('/').next().unwrap_or_default();
            let at = level.names.partition_point(|(name, _)| **name < *begins);
            level.at = level.at.max(at);
        }
        passed.split_off(prefix)
    }

    fn enter(&mut self, dir: Dir, prefix: String) -> Result<()> {
        if self.levels.len() >= MAX_DEPTH {
            return Ok(());
        }
        let begins = match self.from.strip_prefix(&prefix) {
            Some(rest) => rest.split('/').next().unwrap_or_default().to_owned(),
            None => String::new(),
        };
        let (names, is_whole) = match self.names.read(&self.tree.disk, &dir, &begins) {
            Err(e) if is_refusal(&e) && !prefix.is_empty() => {
                tracing::warn!(prefix, "a directory cannot be listed: {e}");
                return Ok(());
            }
            Err(StoreError::Io { source, .. }) if is_gone(&source) => {
                self.require_gone(&dir, &prefix)?;
                return self.read_escaped();
            }
            other => other?,
        };
        self.read_escaped()?;
        let at = names.partition_point(|(name, _)| **name < *begins);
        self.levels.push(Level {
            dir,
            prefix,
            names,
            at,
            is_whole,
        });
        Ok(())
    }

    /// Tells a directory that was removed since it was opened from one that a file system lost
    /// sight of: a page without what is in that would be short. Errors: Busy, to be asked again.
    fn require_gone(&self, dir: &Dir, prefix: &str) -> Result<()> {
        let path = format!("{}/{prefix}", self.bucket);
        let disk = &self.tree.disk;
        let now = match disk.open_dir(&self.tree.root, path.trim_end_matches('/')) {
            Ok(now) => now,
            Err(e) if is_absent(&e) => return Ok(()),
            Err(e) => return Err(failed(e)),
        };
        let ino_of = |dir: &Dir| disk.stat_dir(dir).map(|facts| facts.ino);
        match (ino_of(dir), ino_of(&now)) {
            // Removed, and made again since.
            (Ok(before), Ok(after)) if before != after => Ok(()),
            _ => Err(StoreError::Busy("a directory cannot be listed just now")),
        }
    }

    /// The next key at which an object may stand, in order.
    pub fn next_key(&mut self) -> Result<Option<ObjectKey>> {
        loop {
            if self.waiting.is_none() {
                self.waiting = self.next_plain()?;
            }
            let escaped = self.escaped.first();
            let key = match (&self.waiting, escaped) {
                (None, None) => return Ok(None),
                (Some(plain), Some(escaped)) if escaped < plain => self.escaped.pop_first(),
                (None, Some(_)) => self.escaped.pop_first(),
                (Some(_), _) => self.waiting.take(),
            };
            let Some(key) = key else { return Ok(None) };
            if key < self.from || self.last.as_ref().is_some_and(|last| key <= *last) {
                continue;
            }
            self.last = Some(key.clone());
            if let Ok(key) = ObjectKey::parse(&key) {
                return Ok(Some(key));
            }
        }
    }

    fn next_plain(&mut self) -> Result<Option<String>> {
        while let Some(level) = self.levels.last_mut() {
            let Some((name, kind)) = level.names.get(level.at) else {
                let last = level.names.last().map(|(name, _)| name.clone());
                match last {
                    Some(last) if !level.is_whole => {
                        // Just after the last that was read.
                        let begins = format!("{last}\0");
                        let (names, is_whole) =
                            match read_names(&self.tree.disk, &level.dir, &begins) {
                                Err(StoreError::Io { source, .. }) if is_gone(&source) => {
                                    let level = self.levels.pop();
                                    if let Some(level) = level {
                                        self.require_gone(&level.dir, &level.prefix)?;
                                    }
                                    continue;
                                }
                                other => other?,
                            };
                        (level.names, level.at, level.is_whole) = (names, 0, is_whole);
                        self.read_escaped()?;
                    }
                    _ => drop(self.levels.pop()),
                }
                continue;
            };
            level.at += 1;
            let path = format!("{}{name}", level.prefix);
            if *kind != Kind::Dir {
                if path >= self.from && keypath::key_of_plain(path.as_bytes()).is_some() {
                    return Ok(Some(path));
                }
                continue;
            }
            let is_before = path < self.from && !self.from.starts_with(&path);
            if is_before {
                continue;
            }
            let name = name.trim_end_matches('/').to_owned();
            let dir = Dir::clone(&level.dir);
            match self.open_below(&dir, &name)? {
                Some(below) => self.enter(below, path.clone())?,
                None => continue,
            }
            if path >= self.from {
                // Its marker.
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Reads the escaped keys from `from` on: after the names of each directory, for an object
    /// that had left its path when those were read was in its shelter by then.
    fn read_escaped(&mut self) -> Result<()> {
        if self.is_plain {
            return Ok(());
        }
        let disk = &self.tree.disk;
        let root = match disk.open_dir(&self.tree.own.keys, self.bucket.as_str()) {
            Ok(root) => root,
            Err(e) if is_absent(&e) => return Ok(()),
            Err(e) => return Err(failed(e)),
        };
        let state = state_of(disk, &root)?;
        if self.escaped_read == Some(state) {
            return Ok(());
        }
        let mut is_flat = true;
        let mut pending = vec![(String::new(), root)];
        while let Some((prefix, dir)) = pending.pop() {
            let mut below = Vec::new();
            disk.read_dir(&dir, &mut |entry| {
                match keypath::decode_escaped(&format!("{prefix}{}", entry.name)) {
                    Some(key) if key.as_str() >= self.from.as_str() => {
                        self.escaped.insert(key.as_str().to_owned());
                    }
                    Some(_) => {}
                    None if entry.name.ends_with('~') => below.push(entry.name),
                    None => {}
                }
                true
            })
            .map_err(failed)?;
            for name in below {
                is_flat = false;
                match disk.open_dir(&dir, &name) {
                    Ok(opened) => pending.push((format!("{prefix}{name}/"), opened)),
                    Err(e) if is_absent(&e) => {}
                    Err(e) => return Err(failed(e)),
                }
            }
        }
        let tells = is_flat && self.names.kept().is_some() && self.names.is_quiet(&state);
        self.escaped_read = tells.then_some(state);
        Ok(())
    }

    fn open_below(&self, dir: &Dir, name: &str) -> Result<Option<Dir>> {
        match self.tree.disk.open_dir(dir, name) {
            Ok(below) => Ok(Some(below)),
            Err(e) if is_absent(&e) || is_forbidden(&e) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }
}

/// A directory that may not be read never breaks a listing.
fn is_refusal(e: &StoreError) -> bool {
    matches!(e, StoreError::AccessDenied)
}

/// The smallest string that is greater than all that begin with `prefix`.
fn successor(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            last => char::from_u32(last as u32 + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}
