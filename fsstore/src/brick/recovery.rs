//! What is done before anyone is served: what a crash left is swept away, and the index is
//! made true by the intent log.
//!
//! After the end of the process alone, the log's keys are all that may differ, since the page
//! cache has the rest of the log as well. After a power cut the log has what was synced: the
//! keys of durable changes, and the directories in which a mount changed names. Of each of
//! those the names directly in it are compared with the index: what changed below a directory
//! in it was preceded by that one's own mark, so each level is looked at by itself, whether its
//! directory still stands or not.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::Inner;
use super::attrs::Record;
use super::disk::{Disk, DiskFile, FileFacts, FileKind};
use super::index::Row;
use super::intents::{BucketDir, Intent, Ours};
use super::look::{claims_digests, row_has_seen};
use super::tree::{Found, is_absent, is_forbidden};
use crate::error::{Result, StoreError};
use crate::keypath::directories_above;
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;
use crate::volume::{Durability, ListQuery, MAX_PAGE};

/// Most names of one directory in memory at once.
const CHUNK_NAMES: usize = if cfg!(test) { 8 } else { 32_768 };
/// A marked directory with more names than in so many chunks is left to the scan: for each the
/// directory is read again, and nobody is served meanwhile.
const MAX_CHUNKS: usize = 4;
/// Most bytes read for digests in doubt before anybody is served; what is doubted beyond waits
/// for the background. A group whose answers were due is seldom longer.
const MAX_READ_BYTES: u64 = 64 << 20;
/// What a file is charged at least, in bytes: it is opened and synced, however short it is. So no
/// more than 256 are read.
const MIN_CHARGE_BYTES: u64 = 256 << 10;
/// Longest time since the first of them in which another is begun.
const MAX_READ_TIME: Duration = Duration::from_secs(2);

/// What the log left by an earlier run says, each thing once.
#[derive(Default)]
struct Said {
    keys: BTreeSet<(BucketName, ObjectKey)>,
    /// Files that were being edited, with the keys they were opened by.
    edits: BTreeMap<u64, Option<(BucketName, ObjectKey)>>,
    dirs: BTreeSet<BucketDir>,
    buckets: BTreeSet<BucketName>,
    /// Files as changes of ours left them, one after another.
    ours: HashSet<Ours>,
    /// Files as they are since this start finished what was under way, with the ctime before.
    finished: HashMap<Ours, i64>,
    reading: Reading,
}

/// How much was read for digests in doubt.
#[derive(Default)]
struct Reading {
    charged_bytes: u64,
    began: Option<Instant>,
}

impl Reading {
    /// Whether a file of a length is to be read now, and charges it.
    fn allows(&mut self, len_bytes: u64, now: Instant) -> bool {
        if len_bytes == 0 {
            // Nothing is read, and nothing of it can be lost.
            return true;
        }
        let began = *self.began.get_or_insert(now);
        let charge_bytes = len_bytes.max(MIN_CHARGE_BYTES);
        let charged_bytes = self.charged_bytes.saturating_add(charge_bytes);
        let is_allowed = charged_bytes <= MAX_READ_BYTES
            && now.saturating_duration_since(began) <= MAX_READ_TIME;
        if is_allowed {
            self.charged_bytes = charged_bytes;
        }
        is_allowed
    }
}

/// What the log and the index say of a file's digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// They hold: it is as one of them saw it.
    Said,
    /// Neither saw it so, what they saw may not have reached the disk, or it was being edited.
    Doubt,
    /// It has none.
    None,
}

impl<D: Disk> Inner<D> {
    /// Sweeps what a crash left and looks where the intent log says.
    pub(super) fn recover(&self, left: &[u64], fresh: bool) -> Result<()> {
        // What an earlier process made and did not sync, later changes build on.
        match self.tree.disk.sync_everything() {
            Err(e) if e.kind() == std::io::ErrorKind::Unsupported => {}
            other => other.map_err(|e| StoreError::from_io("sync what stands", e))?,
        }
        let mut said = Said::default();
        for number in left {
            self.read_segment(*number, &mut said)?;
        }
        let staged = self.tree.sweep_staging()?;
        let uploads = self.uploads.sweep(&self.tree, |before, after| {
            said.finished.insert(Ours::of(after), before.ctime_ns);
        })?;
        let keys = said.keys.len();
        self.recover_said(&mut said, fresh)?;
        if let Some(last) = left.last() {
            self.runtime.block_on(self.index.checkpoint())?;
            self.log.remove_through(*last)?;
        }
        let (edits, dirs) = (said.edits.len(), said.dirs.len());
        if staged + uploads + keys + edits + dirs > 0 {
            let buckets = said.buckets.len();
            tracing::info!(
                staged,
                uploads,
                keys,
                edits,
                dirs,
                buckets,
                "recovered after an unclean stop"
            );
        }
        Ok(())
    }

    fn read_segment(&self, number: u64, said: &mut Said) -> Result<()> {
        // Marks of names are for what the page cache lost.
        let mut power_lost = true;
        self.log.replay(number, |intent| match intent {
            Intent::Boot(boot) => power_lost = boot.is_none() || boot != self.options.boot,
            Intent::Key(bucket, key) => {
                said.keys.insert((bucket, key));
            }
            Intent::Edit { ino, at } => {
                said.edits.insert(ino, at);
            }
            Intent::Dir(dir) => {
                if power_lost {
                    said.dirs.insert(dir);
                }
            }
            Intent::Bucket(bucket) => {
                if power_lost {
                    said.buckets.insert(bucket);
                }
            }
            Intent::Ours(ours) => {
                said.ours.insert(ours);
                if !power_lost {
                    // Nobody has made a later change: so it is by all of its names.
                    self.stamps.note_ours(ours);
                }
            }
            // Rows of any depth may be under one name or the other.
            Intent::Rows(bucket) => {
                said.buckets.insert(bucket);
            }
        })
    }

    fn recover_said(&self, said: &mut Said, fresh: bool) -> Result<()> {
        // Before anything takes a record's word.
        for ino in said.edits.keys() {
            self.stamps.doubt(*ino);
        }
        for (bucket, key) in &std::mem::take(&mut said.keys) {
            self.recover_key(bucket, key, said, fresh)?;
            self.keep_up();
        }
        for (bucket, key) in said.edits.values().flatten() {
            self.recover_edit(bucket, key)?;
            self.keep_up();
        }
        // A fresh index gets everything from the tree.
        if fresh {
            return Ok(());
        }
        for bucket in &said.buckets {
            if self.index.is_complete(bucket) {
                self.index.set_complete(bucket, false);
            }
        }
        for dir in &said.dirs {
            if !said.buckets.contains(&dir.bucket) {
                self.compare_dir(dir)?;
            }
        }
        Ok(())
    }

    /// Looks at a key that was about to change, and at those above it, which may have been on
    /// their way to their shelter or back.
    fn recover_key(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        said: &mut Said,
        fresh: bool,
    ) -> Result<()> {
        let at = Locator::new(bucket.clone(), key.clone());
        said.finished.extend(self.finish_touch(&at)?);
        let above = directories_above(key.as_str());
        let above = above.filter_map(|key| ObjectKey::parse(key).ok());
        for key in above.chain([key.clone()]) {
            let at = Locator::new(bucket.clone(), key);
            let word = match self.tree.find_readable(&at)? {
                Some(found) => self.word_on(&at, &found, said)?,
                None => Word::None,
            };
            // A fresh index gets from the tree what is not in doubt.
            if !fresh || word == Word::Doubt {
                self.reconcile(&at)?;
            }
        }
        Ok(())
    }

    /// Decides whether a file's digests are in doubt, and notes it. A file that is neither as a
    /// change of ours left it nor as the index saw it was changed by somebody else, or by a
    /// change that did not come to its end.
    /// Where little was under way it is read at once: a killed process loses no bytes.
    fn word_on(&self, at: &Locator, found: &Found<D>, said: &mut Said) -> Result<Word> {
        let facts = &found.facts;
        // A marker's inode number is one of the past, maybe another file's by now.
        let Some(file) = &found.file else {
            return Ok(Word::None);
        };
        if said.edits.contains_key(&facts.ino) {
            return Ok(Word::Doubt);
        }
        let record = self.tree.records.load(file, facts)?;
        let Some(record) = record.filter(|record| claims_digests(record, facts)) else {
            return Ok(Word::None);
        };
        let mut seen = *facts;
        if let Some(before_ns) = said.finished.get(&Ours::of(facts)) {
            seen.ctime_ns = *before_ns;
        }
        let is_known = match self.buckets.durability(&at.bucket) {
            // Where nothing was synced, a name may have outlived its bytes.
            Durability::Relaxed => false,
            // By another of its names.
            Durability::Strict if self.stamps.holds(facts) == Some(true) => true,
            Durability::Strict if said.ours.contains(&Ours::of(&seen)) => true,
            Durability::Strict => {
                let row = self.runtime.block_on(self.index.get(&at.bucket, &at.key))?;
                row.is_some_and(|row| row_has_seen(&row, &seen))
                    || self.reads_true(at, file, facts, &record, said)
            }
        };
        match is_known {
            true => self.stamps.note(facts),
            false => self.stamps.doubt(facts.ino),
        }
        Ok(if is_known { Word::Said } else { Word::Doubt })
    }

    /// Whether a file in doubt was read, and has the bytes of its digests.
    fn reads_true(
        &self,
        at: &Locator,
        file: &D::File,
        facts: &FileFacts,
        record: &Record,
        said: &mut Said,
    ) -> bool {
        if !said.reading.allows(facts.len_bytes, Instant::now()) {
            return false;
        }
        let read = self.reads_as(file, facts, record);
        read.unwrap_or_else(|e| {
            tracing::warn!(bucket = %at.bucket, key = %at.key, "its tag stays in doubt: {e}");
            false
        })
    }

    /// In a turn, or when nobody takes one: looks at the keys whose change stopped half-way, and
    /// at those above them. False where one cannot be looked at.
    pub(super) fn settle_owed(&self) -> bool {
        let Some(owed) = self.committer.take_owed() else {
            return false;
        };
        let mut all = true;
        for (bucket, key) in owed {
            if let Err(e) = self.settle_key(&bucket, &key) {
                tracing::warn!(%bucket, %key, "the index may not have what became of it: {e}");
                self.committer.owe(&[(bucket, key)]);
                all = false;
            }
            // There may be more of them than one turn should tell the index.
            self.keep_up();
        }
        all
    }

    fn settle_key(&self, bucket: &BucketName, key: &ObjectKey) -> Result<()> {
        let above = directories_above(key.as_str());
        let above = above.filter_map(|key| ObjectKey::parse(key).ok());
        for key in above.chain([key.clone()]) {
            let at = Locator::new(bucket.clone(), key);
            if let Some(found) = self.tree.find_readable(&at)?
                && found.file.is_some()
            {
                self.stamps.changed(&found.facts);
            }
            self.reconcile(&at)?;
        }
        Ok(())
    }

    /// Looks at the key of a file that was being edited: its digests are in doubt until its
    /// bytes have been read again.
    fn recover_edit(&self, bucket: &BucketName, key: &ObjectKey) -> Result<()> {
        let at = Locator::new(bucket.clone(), key.clone());
        if let Some(found) = self.tree.find_readable(&at)?
            && let Some(file) = &found.file
            && found.facts.link_count > 1
            && let Err(e) = file.set_modified(found.facts.mtime_ns)
        {
            // The ctime alone was to move, which tells the rows of its other keys.
            tracing::warn!(bucket = %bucket, key = %key, "its ctime cannot be moved: {e}");
        }
        self.reconcile(&at).map(|_| ())
    }

    /// Compares the names directly in a directory, which may be gone, with their rows.
    fn compare_dir(&self, dir: &BucketDir) -> Result<()> {
        let BucketDir { bucket, path } = dir;
        let mut prefix = path.clone();
        if !prefix.is_empty() {
            prefix.push('/');
            // The directory's own object.
            self.reconcile_named(bucket, &prefix)?;
        }
        let mut after = None;
        for _ in 0..MAX_CHUNKS {
            let names = self.names_after(dir, after.as_deref())?;
            let is_last = names.len() < CHUNK_NAMES;
            let end = names.last().filter(|_| !is_last).cloned();
            let rows = self.rows_in(bucket, &prefix, after.as_deref(), end.as_deref())?;
            for name in &names {
                let key = format!("{prefix}{name}");
                if !self.row_is_right(bucket, &key, rows.get(name)) {
                    self.reconcile_named(bucket, &key)?;
                }
            }
            for name in rows.keys().filter(|name| !names.contains(*name)) {
                self.reconcile_named(bucket, &format!("{prefix}{name}"))?;
            }
            self.keep_up();
            match end {
                Some(end) => after = Some(end),
                None => return Ok(()),
            }
        }
        self.index.set_complete(bucket, false);
        Ok(())
    }

    fn reconcile_named(&self, bucket: &BucketName, key: &str) -> Result<()> {
        match ObjectKey::parse(key) {
            Ok(key) => {
                self.reconcile(&Locator::new(bucket.clone(), key))?;
                Ok(())
            }
            // A path that is too long for a key.
            Err(_) => Ok(()),
        }
    }

    fn row_is_right(&self, bucket: &BucketName, key: &str, row: Option<&Row>) -> bool {
        let Some(row) = row.filter(|row| !row.flags.escaped) else {
            return false;
        };
        let tree = &self.tree;
        let facts = tree.disk.stat(&tree.root, &format!("{bucket}/{key}"));
        facts.is_ok_and(|facts| self.is_right(row, &facts))
    }

    /// The first names of a directory that are no directories, in order.
    fn names_after(&self, dir: &BucketDir, after: Option<&str>) -> Result<BTreeSet<String>> {
        let fail = |e| StoreError::from_io("read a marked directory", e);
        let disk = &*self.tree.disk;
        let path = match dir.path.as_str() {
            "" => dir.bucket.as_str().to_owned(),
            path => format!("{}/{path}", dir.bucket),
        };
        let mut names = BTreeSet::new();
        let opened = match disk.open_dir(&self.tree.root, &path) {
            Ok(opened) => opened,
            // What may not be read is looked up name by name.
            Err(e) if is_absent(&e) || is_forbidden(&e) => return Ok(names),
            Err(e) => return Err(fail(e)),
        };
        let read = disk.read_dir(&opened, &mut |entry| {
            let may_be_object = !matches!(entry.kind, Some(FileKind::Dir | FileKind::Other));
            if may_be_object && after.is_none_or(|after| entry.name.as_str() > after) {
                names.insert(entry.name);
                if names.len() > CHUNK_NAMES {
                    names.pop_last();
                }
            }
            true
        });
        match read {
            Err(e) if !is_forbidden(&e) => Err(fail(e)),
            _ => Ok(names),
        }
    }

    /// The index's rows directly below a prefix, by name, after one name and up to another.
    fn rows_in(
        &self,
        bucket: &BucketName,
        prefix: &str,
        after: Option<&str>,
        end: Option<&str>,
    ) -> Result<BTreeMap<String, Row>> {
        let mut rows = BTreeMap::new();
        let end = end.map(|end| format!("{prefix}{end}"));
        let is_beyond = |key: &str| end.as_deref().is_some_and(|end| key > end);
        let mut query = ListQuery {
            prefix: prefix.to_owned(),
            delimiter: Some("/".to_owned()),
            after: after.map(|after| format!("{prefix}{after}")),
            limit: MAX_PAGE,
        };
        loop {
            let page = self.runtime.block_on(self.index.list(bucket, &query))?;
            for (key, row) in page.objects {
                let name = key.as_str().strip_prefix(prefix).unwrap_or_default();
                if !name.is_empty() && !is_beyond(key.as_str()) {
                    rows.insert(name.to_owned(), row);
                }
            }
            match page.next {
                Some(next) if !is_beyond(&next) => query.after = Some(next),
                _ => return Ok(rows),
            }
        }
    }
}
