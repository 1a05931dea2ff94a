//! Listings: candidates of a walk, each looked up before it is shown, many at a time: on a network
//! file system a look is a wait.
//!
//! A row is kept of each quiet file, so that the next listing asks for the file's facts only.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use quick_cache::sync::Cache;

use super::Inner;
use super::disk::Dir;
use super::walk::Walk;
use crate::brick::disk::{Disk, FileFacts, FileKind};
use crate::brick::sink::off_thread;
use crate::brick::tree::{is_absent, is_forbidden};
use crate::error::{Result, StoreError};
use crate::keypath::{self, Place};
use crate::name::{BucketName, ObjectKey};
use crate::object::{Locator, ObjectInfo};
use crate::volume::{ListEntry, ListPage, ListQuery, MAX_PAGE};

/// Most rows in memory: some 300 bytes each.
const MAX_ROWS: usize = 200_000;
/// Threads that look things up for one listing.
const LOOKERS: usize = 16;
/// And for all of them.
const MAX_LOOKERS: usize = 96;
/// Fewer candidates than these are not worth more threads.
const FEW: usize = 8;

/// An object as a listing showed it, and the state of the file it was then.
struct Row {
    facts: FileFacts,
    entry: ListEntry,
}

/// Rows of quiet files.
pub struct Rows {
    kept: Cache<(BucketName, ObjectKey), Arc<Row>>,
    /// Threads that look things up now, for all listings.
    lookers: AtomicUsize,
}

impl Rows {
    /// None yet.
    pub fn new() -> Self {
        Self {
            kept: Cache::new(MAX_ROWS),
            lookers: AtomicUsize::new(0),
        }
    }
}

/// A thread that looks things up beside the one that lists.
struct Looker<'a>(&'a AtomicUsize);

impl<'a> Looker<'a> {
    /// None where there are enough.
    fn new(lookers: &'a AtomicUsize) -> Option<Self> {
        let looker = Self(lookers);
        (lookers.fetch_add(1, Ordering::AcqRel) < MAX_LOOKERS).then_some(looker)
    }
}

impl Drop for Looker<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Default for Rows {
    fn default() -> Self {
        Self::new()
    }
}

/// What may be in a page.
enum Candidate {
    Key(ObjectKey),
    /// What keys may have begun with, the first that was met, and those of them that are escaped.
    Prefix {
        prefix: String,
        first: ObjectKey,
        escaped: BTreeSet<String>,
    },
}

/// What is.
enum Found {
    Object(ListEntry),
    Prefix(String),
}

fn entry_of(info: ObjectInfo) -> ListEntry {
    ListEntry {
        key: info.key,
        len_bytes: info.len_bytes,
        etag: info.etag,
        modified: info.modified,
        owner: info.attrs.owner,
        checksum: info.checksum.map(|sum| (sum.algorithm, sum.kind)),
    }
}

impl Inner {
    pub(super) async fn list_page(
        self: &Arc<Self>,
        bucket: &BucketName,
        query: &ListQuery,
    ) -> Result<ListPage> {
        let (inner, bucket, mut query) = (Arc::clone(self), bucket.clone(), query.clone());
        query.limit = query.limit.min(MAX_PAGE);
        off_thread(move || {
            inner.tree.bucket_dir(&bucket)?;
            match query.limit {
                0 => Ok(ListPage::default()),
                _ => inner.list_blocking(&bucket, &query),
            }
        })
        .await
    }

    fn list_blocking(&self, bucket: &BucketName, query: &ListQuery) -> Result<ListPage> {
        let prefix = query.prefix.as_str();
        let from = match query.after.as_deref() {
            // Just after it: no string is between.
            Some(after) if after >= prefix => format!("{after}\0"),
            _ => prefix.to_owned(),
        };
        let mut walk = Walk::new(&self.tree, &self.names, bucket, &from)?;
        if let (Some(delimiter), Some(after)) = (&query.delimiter, &query.after)
            && let Some(rolled) = roll_up(after, prefix, delimiter)
            && rolled <= *after
        {
            // The page before ended with it.
            walk.pass(&rolled);
        }
        let mut page = ListPage::default();
        let mut last = None;
        loop {
            let have = page.objects.len() + page.prefixes.len();
            let candidates = self.candidates(&mut walk, query, query.limit + 1 - have)?;
            if candidates.is_empty() {
                return Ok(page);
            }
            for found in self.look_up(bucket, candidates)? {
                if page.objects.len() + page.prefixes.len() == query.limit {
                    page.next = last;
                    return Ok(page);
                }
                match found {
                    Found::Object(entry) => {
                        last = Some(entry.key.as_str().to_owned());
                        page.objects.push(entry);
                    }
                    Found::Prefix(prefix) => {
                        last = Some(prefix.clone());
                        page.prefixes.push(prefix);
                    }
                }
            }
        }
    }

    /// The next candidates of a walk, at most `limit`.
    fn candidates(
        &self,
        walk: &mut Walk<'_>,
        query: &ListQuery,
        limit: usize,
    ) -> Result<Vec<Candidate>> {
        let mut candidates = Vec::new();
        while candidates.len() < limit {
            let Some(key) = walk.next_key()? else { break };
            let prefix = query.prefix.as_str();
            if !key.as_str().starts_with(prefix) {
                break;
            }
            let rolled = query
                .delimiter
                .as_deref()
                .and_then(|delimiter| roll_up(key.as_str(), prefix, delimiter));
            candidates.push(match rolled {
                Some(prefix) => Candidate::Prefix {
                    escaped: walk.pass(&prefix),
                    first: key,
                    prefix,
                },
                None => Candidate::Key(key),
            });
        }
        Ok(candidates)
    }

    /// Which candidates are there, in their order.
    fn look_up(&self, bucket: &BucketName, candidates: Vec<Candidate>) -> Result<Vec<Found>> {
        let count = candidates.len();
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<Option<Result<Option<Found>>>>> =
            Mutex::new((0..count).map(|_| None).collect());
        let look = || {
            let mut open_dir = None;
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(candidate) = candidates.get(i) else {
                    return;
                };
                let found = self.look_up_one(bucket, candidate, &mut open_dir);
                results.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(found);
            }
        };
        match count {
            0..=FEW => look(),
            _ => std::thread::scope(|scope| {
                for _ in 1..LOOKERS.min(count) {
                    let Some(looker) = Looker::new(&self.rows.lookers) else {
                        break;
                    };
                    let named = std::thread::Builder::new().name("look up".to_owned());
                    let spawned = named.spawn_scoped(scope, move || {
                        let _looker = looker;
                        look();
                    });
                    // No more threads are to be had: those that are there do the work.
                    if spawned.is_err() {
                        break;
                    }
                }
                look();
            }),
        }
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::with_capacity(count);
        for result in results.into_iter().flatten() {
            found.extend(result?);
        }
        Ok(found)
    }

    fn look_up_one(
        &self,
        bucket: &BucketName,
        candidate: &Candidate,
        open_dir: &mut Option<(String, Dir)>,
    ) -> Result<Option<Found>> {
        match candidate {
            Candidate::Key(key) => {
                let entry = self.entry_now(bucket, key, open_dir)?;
                Ok(entry.map(Found::Object))
            }
            Candidate::Prefix {
                prefix,
                first,
                escaped,
            } => {
                let any = self.has_any(bucket, prefix, first, escaped)?;
                Ok(any.then(|| Found::Prefix(prefix.clone())))
            }
        }
    }

    /// Whether any object's key begins with this: the first that was met nearly always does, and
    /// others are looked for no higher in the tree than they can be.
    fn has_any(
        &self,
        bucket: &BucketName,
        prefix: &str,
        first: &ObjectKey,
        escaped: &BTreeSet<String>,
    ) -> Result<bool> {
        if self.stands(bucket, first.clone())? {
            return Ok(true);
        }
        let keys = escaped.iter().filter_map(|key| ObjectKey::parse(key).ok());
        for key in keys.filter(|key| key != first) {
            if self.stands(bucket, key)? {
                return Ok(true);
            }
        }
        let mut walk = Walk::below(&self.tree, &self.names, bucket, prefix)?;
        while let Some(key) = walk.next_key()? {
            if !key.as_str().starts_with(prefix) {
                return Ok(false);
            }
            if self.stands(bucket, key)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn stands(&self, bucket: &BucketName, key: ObjectKey) -> Result<bool> {
        match self.find(&Locator::new(bucket.clone(), key)) {
            Ok(found) => Ok(found.is_some()),
            Err(StoreError::AccessDenied) => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// An object as it is now.
    fn entry_now(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        open_dir: &mut Option<(String, Dir)>,
    ) -> Result<Option<ListEntry>> {
        let place = (bucket.clone(), key.clone());
        if let Some(row) = self.rows.kept.get(&place) {
            if self.facts_at(bucket, key, open_dir)? == Some(row.facts) {
                return Ok(Some(row.entry.clone()));
            }
            self.rows.kept.remove(&place);
        }
        let at = Locator::new(bucket.clone(), key.clone());
        let looked = match self.look_blocking(&at) {
            Ok(Some(looked)) => looked,
            Ok(None) => return Ok(None),
            // One that may not be read is listed all the same, by its facts.
            Err(StoreError::AccessDenied) => return self.entry_of_unreadable(bucket, key),
            Err(e) => return Err(e),
        };
        let facts = looked.found.facts;
        let is_plain = looked.found.file.is_some() && !looked.found.escaped;
        let entry = entry_of(looked.info);
        if is_plain && self.is_quiet(&facts) {
            let row = Row {
                facts,
                entry: entry.clone(),
            };
            self.rows.kept.insert(place, Arc::new(row));
        }
        Ok(Some(entry))
    }

    fn entry_of_unreadable(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
    ) -> Result<Option<ListEntry>> {
        let Some(facts) = self.facts_at(bucket, key, &mut None)? else {
            return Ok(None);
        };
        let record = crate::brick::attrs::Record::default();
        let state = crate::brick::look::state_of(&facts);
        Ok(Some(entry_of(record.to_object_info(key.clone(), &state))))
    }

    /// The facts of the plain file of a key, keeping its directory open for the next key.
    fn facts_at(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        open_dir: &mut Option<(String, Dir)>,
    ) -> Result<Option<FileFacts>> {
        let Place::Plain(path) = keypath::place(key) else {
            return Ok(None);
        };
        let fail = |e| StoreError::from_io("look at an object", e);
        let (parent, name) = match path.rsplit_once('/') {
            Some((parent, name)) => (format!("{bucket}/{parent}"), name),
            None => (bucket.as_str().to_owned(), path),
        };
        let disk = &self.tree.disk;
        if open_dir.as_ref().is_none_or(|(path, _)| *path != parent) {
            match disk.open_dir(&self.tree.root, &parent) {
                Ok(dir) => *open_dir = Some((parent, dir)),
                Err(e) if is_absent(&e) || is_forbidden(&e) => return Ok(None),
                Err(e) => return Err(fail(e)),
            }
        }
        let Some((_, dir)) = open_dir else {
            return Ok(None);
        };
        match disk.stat(dir, name) {
            Ok(facts) if facts.kind == FileKind::File => Ok(Some(facts)),
            Ok(_) => Ok(None),
            Err(e) if is_absent(&e) || is_forbidden(&e) => Ok(None),
            Err(e) => Err(fail(e)),
        }
    }

    /// Every object of a bucket, in order, until `visit` says false. For the upkeep.
    pub(super) fn each_key(
        &self,
        bucket: &BucketName,
        mut visit: impl FnMut(ObjectKey) -> Result<bool>,
    ) -> Result<()> {
        let mut walk = Walk::new(&self.tree, &self.names, bucket, "")?;
        while let Some(key) = walk.next_key()? {
            if !visit(key)? {
                break;
            }
        }
        Ok(())
    }
}

/// The common prefix that a key is rolled up to; none where the delimiter is not in its rest.
fn roll_up(key: &str, prefix: &str, delimiter: &str) -> Option<String> {
    let rest = key.strip_prefix(prefix)?;
    let end = rest.find(delimiter)? + delimiter.len();
    Some(format!("{prefix}{}", &rest[..end]))
}
