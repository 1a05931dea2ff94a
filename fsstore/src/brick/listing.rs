//! Listings: the index's ordered rows, each compared with its file before it is shown. A bucket
//! that the index does not have yet is read from its tree.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Inner;
use super::commit::Terms;
use super::disk::{Disk, FileFacts, FileKind};
use super::edits::Edits;
use super::index::{Page, Row};
use super::look::row_of;
use super::sink::off_thread;
use super::tree::{is_absent, is_forbidden};
use super::walk::{Met, Step, walk};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;
use crate::volume::{ListEntry, ListPage, ListQuery, MAX_PAGE};

/// Most times a page is read while names may move.
const MAX_ROUNDS: usize = 4;

/// Rows, and the places of those that are not as their files are.
type Compared = (Vec<(ObjectKey, Option<Row>)>, Vec<usize>);

fn entry_of(key: ObjectKey, row: Row, edits: &Edits) -> ListEntry {
    ListEntry {
        key,
        len_bytes: row.len_bytes,
        etag: edits.tag_to_list(row.ino, row.etag),
        modified: crate::object::Timestamp(row.mtime_ns),
        owner: row.owner,
        checksum: row.checksum,
    }
}

/// Whether a file is as it was when its row was made.
fn is_as_seen(row: &Row, facts: &FileFacts) -> bool {
    facts.kind == FileKind::File
        && (row.ino, row.ctime_ns, row.mtime_ns, row.len_bytes)
            == (facts.ino, facts.ctime_ns, facts.mtime_ns, facts.len_bytes)
}

impl<D: Disk> Inner<D> {
    pub(super) async fn list_page(
        self: &Arc<Self>,
        bucket: &BucketName,
        query: &ListQuery,
    ) -> Result<ListPage> {
        self.look_bucket(bucket).await?;
        let mut query = query.clone();
        query.limit = query.limit.min(MAX_PAGE);
        if query.limit == 0 {
            return Ok(ListPage::default());
        }
        if !self.index.is_complete(bucket) {
            let (inner, bucket) = (Arc::clone(self), bucket.clone());
            return off_thread(move || inner.list_by_walk(&bucket, &query)).await;
        }
        let Page {
            objects,
            prefixes,
            next,
        } = match self.page_of_one_state(bucket, &query).await {
            // A move that the database could not take: its rows are where they were.
            // Nor those of keys that are such again after all, since their directories moved on.
            _ if !self.index.is_complete(bucket) => {
                let (inner, bucket) = (Arc::clone(self), bucket.clone());
                return off_thread(move || inner.list_by_walk(&bucket, &query)).await;
            }
            page => page?,
        };
        let objects = objects
            .into_iter()
            .map(|(key, row)| entry_of(key, row, &self.edits))
            .collect();
        Ok(ListPage {
            objects,
            prefixes,
            next,
        })
    }

    /// A page as of one instant: no directory was moved across it, and it has no gap where a
    /// file was whose new name it was too early to see. Where names move all the time it is
    /// read in a turn, in which they do not.
    async fn page_of_one_state(
        self: &Arc<Self>,
        bucket: &BucketName,
        query: &ListQuery,
    ) -> Result<Page> {
        for _ in 0..MAX_ROUNDS {
            let Some(moves) = self.index.still_soon(bucket).await? else {
                break;
            };
            let renames = self.renames.load(Ordering::Acquire);
            let vanished = AtomicBool::new(false);
            let verify = |rows| async {
                let verified = self.verify_rows(bucket, rows).await?;
                if verified.iter().any(|(_, row)| row.is_none()) {
                    vanished.store(true, Ordering::Release);
                }
                Ok(verified)
            };
            let page = self.index.list_with(bucket, query, verify).await?;
            let has_gap =
                vanished.load(Ordering::Acquire) && self.renames.load(Ordering::Acquire) != renames;
            if self.index.moves_begun(bucket) == moves && !has_gap {
                return Ok(page);
            }
        }
        let (inner, bucket, query) = (Arc::clone(self), bucket.clone(), query.clone());
        self.committer
            .submit(Terms::to_look(), move |_| {
                let page = inner.page_in_turn(&bucket, &query);
                inner.runtime.block_on(page)
            })
            .await
    }

    /// A page while this turn keeps names where they are. What blocks does so on other threads:
    /// this one waits for them.
    async fn page_in_turn(
        self: &Arc<Self>,
        bucket: &BucketName,
        query: &ListQuery,
    ) -> Result<Page> {
        self.index.still(bucket).await?;
        let verify = |rows| {
            let (inner, of) = (Arc::clone(self), bucket.clone());
            off_thread(move || {
                let (mut verified, wrong) = inner.compare_rows(&of, rows)?;
                inner.correct(&of, &mut verified, wrong)?;
                Ok(verified)
            })
        };
        self.index.list_with(bucket, query, verify).await
    }

    /// In a turn: makes rows what their files say, and tells the index.
    fn correct(
        &self,
        bucket: &BucketName,
        rows: &mut [(ObjectKey, Option<Row>)],
        wrong: Vec<usize>,
    ) -> Result<()> {
        for i in wrong {
            let (key, row) = &mut rows[i];
            *row = self.reconcile(&Locator::new(bucket.clone(), key.clone()))?;
        }
        Ok(())
    }

    /// Runs a change that gives a file another name, in a turn, so that a listing meanwhile
    /// knows of it.
    pub(super) fn renaming<T>(&self, change: impl FnOnce() -> T) -> T {
        self.renames.fetch_add(1, Ordering::AcqRel);
        let changed = change();
        self.renames.fetch_add(1, Ordering::AcqRel);
        changed
    }

    /// Compares rows with their files. Those that differ are looked up while no change of ours
    /// is under way, and the index is told.
    async fn verify_rows(
        self: &Arc<Self>,
        bucket: &BucketName,
        rows: Vec<(ObjectKey, Row)>,
    ) -> Result<Vec<(ObjectKey, Option<Row>)>> {
        let (inner, of) = (Arc::clone(self), bucket.clone());
        let (mut verified, wrong) = off_thread(move || inner.compare_rows(&of, rows)).await?;
        if wrong.is_empty() {
            return Ok(verified);
        }
        let (inner, of) = (Arc::clone(self), bucket.clone());
        self.committer
            .submit(Terms::to_look(), move |_| {
                inner.correct(&of, &mut verified, wrong)?;
                Ok(verified)
            })
            .await
    }

    /// Which rows are as their files are, and the places of those that may not be.
    fn compare_rows(&self, bucket: &BucketName, rows: Vec<(ObjectKey, Row)>) -> Result<Compared> {
        // A bucket that may not be read is refused, and does not seem empty.
        self.tree.bucket_dir(bucket)?;
        let mut verified = Vec::with_capacity(rows.len());
        let mut open_dir: Option<(String, Option<Arc<D::Dir>>)> = None;
        let mut wrong = Vec::new();
        for (i, (key, row)) in rows.into_iter().enumerate() {
            let is_right = if row.flags.escaped || row.flags.is_marker {
                self.row_now(bucket, &key)?.as_ref() == Some(&row)
            } else {
                self.facts_of(bucket, &key, &mut open_dir)?
                    .is_some_and(|facts| self.is_right(&row, &facts))
            };
            if !is_right {
                wrong.push(i);
            }
            verified.push((key, Some(row)));
        }
        Ok((verified, wrong))
    }

    /// Whether a row says of a plain file what may be said of it.
    pub(super) fn is_right(&self, row: &Row, facts: &FileFacts) -> bool {
        // An empty file's tag depends on nothing else.
        is_as_seen(row, facts)
            && (row.etag.is_provisional()
                || facts.len_bytes == 0
                || (!self.edits.has(facts.ino) && self.stamps.holds(facts) != Some(false)))
    }

    /// Looks at a plain file, keeping its directory open for the next key.
    fn facts_of(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        open_dir: &mut Option<(String, Option<Arc<D::Dir>>)>,
    ) -> Result<Option<FileFacts>> {
        let fail = |e| StoreError::from_io("look at an object", e);
        let (parent, name) = match key.as_str().rsplit_once('/') {
            Some((parent, name)) => (format!("{bucket}/{parent}"), name),
            None => (bucket.as_str().to_owned(), key.as_str()),
        };
        if open_dir.as_ref().is_none_or(|(path, _)| *path != parent) {
            let dir = match self.tree.disk.open_dir(&self.tree.root, &parent) {
                Ok(dir) => Some(dir),
                // Where it may not be looked at: looking the key up decides what is shown.
                Err(e) if is_absent(&e) || is_forbidden(&e) => None,
                Err(e) => return Err(fail(e)),
            };
            *open_dir = Some((parent, dir));
        }
        let Some((_, Some(dir))) = open_dir.as_ref() else {
            return Ok(None);
        };
        match self.tree.disk.stat(dir, name) {
            Ok(facts) => Ok(Some(facts)),
            Err(e) if is_absent(&e) || is_forbidden(&e) => Ok(None),
            Err(e) => Err(fail(e)),
        }
    }

    /// The row an object would have now; one that may not be read is listed by its facts.
    pub(super) fn row_now(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<Row>> {
        let at = Locator::new(bucket.clone(), key.clone());
        match self.look_blocking(&at) {
            Ok(Some(looked)) => Ok(Some(row_of(
                &looked.info,
                &looked.found.facts,
                looked.found.escaped,
                self.options.hash.of(bucket),
            ))),
            Ok(None) => Ok(None),
            Err(StoreError::AccessDenied) => Ok(self.row_of_unreadable(bucket, key)),
            Err(e) => Err(e),
        }
    }

    fn row_of_unreadable(&self, bucket: &BucketName, key: &ObjectKey) -> Option<Row> {
        let path = format!("{bucket}/{key}");
        let facts = self.tree.disk.stat(&self.tree.root, &path).ok()?;
        if facts.kind != FileKind::File {
            return None;
        }
        let record = super::attrs::Record::default();
        let info = record.to_object_info(key.clone(), &super::look::state_of(&facts));
        let mut row = row_of(&info, &facts, false, super::HashPolicy::Never);
        row.flags.needs_hash = false;
        Some(row)
    }

    fn list_by_walk(self: &Arc<Self>, bucket: &BucketName, query: &ListQuery) -> Result<ListPage> {
        let mut page = ListPage::default();
        let mut last = None;
        let prefix = query.prefix.as_str();
        // The walk begins at the prefix where that is later than `after`.
        let before_prefix = (!prefix.is_empty()).then_some(prefix);
        let after = match (&query.after, before_prefix) {
            (Some(after), Some(prefix)) if after.as_str() < prefix => Some(prefix),
            (Some(after), _) => Some(after.as_str()),
            (None, prefix) => prefix,
        };
        let includes_prefix = query.after.as_deref().is_none_or(|after| after < prefix);
        if includes_prefix
            && !prefix.is_empty()
            && let Ok(key) = ObjectKey::parse(prefix)
        {
            // The walk begins after the prefix itself, which may be a key.
            let met = Met {
                key,
                facts: None,
                escaped: false,
            };
            self.take_met(bucket, query, met, &mut page, &mut last)?;
        }
        walk(&self.tree, bucket, after, &mut |met| {
            self.take_met(bucket, query, met, &mut page, &mut last)
        })?;
        Ok(page)
    }

    fn take_met(
        &self,
        bucket: &BucketName,
        query: &ListQuery,
        met: Met,
        page: &mut ListPage,
        last: &mut Option<String>,
    ) -> Result<Step> {
        let key = met.key.as_str();
        let Some(rest) = key.strip_prefix(query.prefix.as_str()) else {
            let beyond = key > query.prefix.as_str();
            return Ok(if beyond { Step::Stop } else { Step::Next });
        };
        let rolled = query.delimiter.as_deref().and_then(|delimiter| {
            let end = rest.find(delimiter)? + delimiter.len();
            Some(format!("{}{}", query.prefix, &rest[..end]))
        });
        if let Some(prefix) = &rolled
            && (query.after.as_ref().is_some_and(|after| prefix <= after)
                || last.as_ref() == Some(prefix))
        {
            return Ok(Step::Past(prefix.clone()));
        }
        let Some(row) = self.row_now(bucket, &met.key)? else {
            return Ok(Step::Next);
        };
        if page.objects.len() + page.prefixes.len() == query.limit {
            page.next.clone_from(last);
            return Ok(Step::Stop);
        }
        match rolled {
            Some(prefix) => {
                *last = Some(prefix.clone());
                page.prefixes.push(prefix.clone());
                Ok(Step::Past(prefix))
            }
            None => {
                *last = Some(key.to_owned());
                page.objects.push(entry_of(met.key, row, &self.edits));
                Ok(Step::Next)
            }
        }
    }
}
