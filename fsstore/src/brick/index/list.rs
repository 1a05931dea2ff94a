//! Ordered listings over the overlay and the database.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use super::Shared;
use super::overlay::{BucketId, Key, Pending};
use super::range::{KeyRange, end_of_prefix};
use super::row::Row;
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey};
use crate::volume::{ListQuery, MAX_PAGE};

/// Most rows that one call fetches or hands to a verifier.
pub const MAX_FETCH_ROWS: usize = 1_024;
/// First fetch of a listing that may roll keys up.
const FIRST_ROLLED_ROWS: usize = 64;
/// Fetch after a seek past a common prefix: the next one is likely to be near.
const SEEK_ROWS: usize = 8;
/// Most pending changes copied while the overlay is held.
const SLICE_ROWS: usize = 512;

/// One page of a listing, with what the index knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Objects, in order.
    pub objects: Vec<(ObjectKey, Row)>,
    /// Common prefixes, in order.
    pub prefixes: Vec<String>,
    /// Where the page was cut: the last entry's key or prefix, to go on after. None at the end.
    pub next: Option<String>,
}

/// A row not yet read: most of those under a common prefix never are.
enum Value {
    Pending(Arc<Row>),
    Stored(Vec<u8>),
}

struct Merged {
    key: Vec<u8>,
    value: Value,
}

impl Merged {
    fn read(self) -> Result<(ObjectKey, Row)> {
        let row = match self.value {
            Value::Pending(row) => Arc::unwrap_or_clone(row),
            Value::Stored(bytes) => Row::decode(&bytes)?,
        };
        Ok((read_key(self.key)?, row))
    }
}

fn read_key(bytes: Vec<u8>) -> Result<ObjectKey> {
    String::from_utf8(bytes)
        .ok()
        .and_then(|text| ObjectKey::parse(&text).ok())
        .ok_or_else(|| StoreError::Corrupt("a key of the listing index".to_owned()))
}

impl Shared {
    pub(super) async fn get(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<Row>> {
        let bytes = key.as_str().as_bytes();
        let id = {
            let overlay = self.overlay();
            let Some(id) = overlay.bucket_id(bucket) else {
                return Ok(None);
            };
            if let Some(pending) = overlay.pending(id, bytes) {
                return Ok(pending.map(Arc::unwrap_or_clone));
            }
            id
        };
        self.database.get(id, bytes).await
    }

    pub(super) async fn rows(
        &self,
        bucket: &BucketName,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Vec<(ObjectKey, Row)>> {
        assert!(limit <= MAX_FETCH_ROWS, "rows: at most {MAX_FETCH_ROWS}");
        let Some(id) = self.overlay().bucket_id(bucket) else {
            return Ok(Vec::new());
        };
        let mut cursor = Cursor::new(self, id, range.clone(), limit);
        let mut rows = Vec::new();
        while rows.len() < limit {
            let Some(row) = cursor.next().await? else {
                break;
            };
            rows.push(row.read()?);
        }
        Ok(rows)
    }

    pub(super) async fn next_unhashed(
        &self,
        after: Option<(&BucketName, &ObjectKey)>,
        limit: usize,
    ) -> Result<Vec<(BucketName, ObjectKey, Row)>> {
        assert!(limit <= MAX_FETCH_ROWS, "rows: at most {MAX_FETCH_ROWS}");
        let mut from: (BucketId, Vec<u8>) = (0, Vec::new());
        if let Some((bucket, key)) = after
            && let Some(id) = self.overlay().bucket_id(bucket)
        {
            from = (id, key.as_str().as_bytes().to_vec());
        }
        let mut found = Vec::new();
        loop {
            let want = limit - found.len();
            let stored = self.database.unhashed((from.0, &from.1), want).await?;
            let ended = stored.len() < want;
            let overlay = self.overlay();
            let names = overlay.names();
            for (id, stored) in stored {
                from = (id, stored.key.clone());
                let (Some(name), None) = (names.get(&id), overlay.pending(id, &stored.key)) else {
                    continue;
                };
                let row = Row::decode(&stored.value)?;
                found.push((name.clone(), read_key(stored.key)?, row));
            }
            if ended || found.len() == limit {
                return Ok(found);
            }
        }
    }

    pub(super) async fn list_with<V, F>(
        &self,
        bucket: &BucketName,
        query: &ListQuery,
        mut verify: V,
    ) -> Result<Page>
    where
        V: FnMut(Vec<(ObjectKey, Row)>) -> F + Send,
        F: Future<Output = Result<Vec<(ObjectKey, Option<Row>)>>> + Send,
    {
        let Some(id) = self.overlay().bucket_id(bucket) else {
            return Ok(Page::default());
        };
        let mut page = Filling::new(query.limit.min(MAX_PAGE));
        let mut walk = Walk::new(self, id, query, page.limit);
        while page.limit > 0 {
            // One more than fits, to know whether the page is the last.
            let want = (page.limit + 1 - page.len()).min(MAX_FETCH_ROWS);
            let (rows, rolled) = walk.candidates(want).await?;
            if rows.is_empty() {
                break;
            }
            let asked = rows.len();
            let verdicts = verify(rows).await?;
            assert_eq!(verdicts.len(), asked, "a verdict for each row");
            for ((key, verdict), prefix) in verdicts.into_iter().zip(rolled) {
                let entry = match (prefix, verdict) {
                    (None, Some(row)) => Entry::Object(key, row),
                    (None, None) => continue,
                    (Some(prefix), Some(_)) => Entry::Prefix(prefix),
                    (Some(prefix), None) => {
                        let rest = KeyRange::prefix(&prefix).after(key.as_str());
                        if !self.any_living(id, rest, &mut verify).await? {
                            continue;
                        }
                        Entry::Prefix(prefix)
                    }
                };
                if !page.take(entry) {
                    return Ok(page.cut());
                }
            }
        }
        Ok(page.page)
    }

    /// True where one row of the range is confirmed.
    async fn any_living<V, F>(
        &self,
        bucket: BucketId,
        range: KeyRange,
        verify: &mut V,
    ) -> Result<bool>
    where
        V: FnMut(Vec<(ObjectKey, Row)>) -> F + Send,
        F: Future<Output = Result<Vec<(ObjectKey, Option<Row>)>>> + Send,
    {
        let mut cursor = Cursor::new(self, bucket, range, SEEK_ROWS);
        let mut want = 1;
        loop {
            let mut rows = Vec::new();
            while rows.len() < want {
                let Some(row) = cursor.next().await? else {
                    break;
                };
                rows.push(row.read()?);
            }
            if rows.is_empty() {
                return Ok(false);
            }
            let verdicts = verify(rows).await?;
            if verdicts.iter().any(|(_, verdict)| verdict.is_some()) {
                return Ok(true);
            }
            want = (want * 4).min(MAX_FETCH_ROWS);
        }
    }

    /// Merges one stretch of the overlay and the database. Returns rows in order, and where to
    /// go on; none at the end of the range. There may be no rows though it goes on.
    async fn merge(
        &self,
        bucket: BucketId,
        range: &KeyRange,
        limit: usize,
    ) -> Result<(VecDeque<Merged>, Option<Vec<u8>>)> {
        // The overlay first: a change leaves it only when the database has it.
        let slice = self
            .overlay()
            .slice(bucket, range, limit.clamp(SEEK_ROWS, SLICE_ROWS));
        let stored = self.database.rows(bucket, range, limit).await?;
        let pending_end = slice.rows.last().filter(|_| slice.cut);
        let stored_end = stored.last().filter(|_| stored.len() == limit);
        // Beyond this key one of the two has not been read.
        let end: Option<Vec<u8>> = match (pending_end, stored_end) {
            (Some((key, _)), Some(stored)) => Some(stored.key.as_slice().min(&key[..]).to_vec()),
            (Some((key, _)), None) => Some(key.to_vec()),
            (None, Some(stored)) => Some(stored.key.clone()),
            (None, None) => None,
        };
        let within = |key: &[u8]| end.as_deref().is_none_or(|end| key <= end);
        let mut merged = VecDeque::with_capacity(stored.len() + slice.rows.len());
        let mut pending = slice.rows.into_iter().peekable();
        let take_pending = |merged: &mut VecDeque<Merged>, (key, pending): (Key, Pending)| {
            merged.extend(pending.map(|row| Merged {
                key: key.to_vec(),
                value: Value::Pending(row),
            }));
        };
        for row in stored {
            if !within(&row.key) {
                break;
            }
            let mut replaced = false;
            while let Some(newer) = pending.next_if(|(key, _)| key[..] <= row.key[..]) {
                replaced = newer.0[..] == row.key[..];
                take_pending(&mut merged, newer);
            }
            if !replaced {
                merged.push_back(Merged {
                    key: row.key,
                    value: Value::Stored(row.value),
                });
            }
        }
        while let Some(newer) = pending.next_if(|(key, _)| within(key)) {
            take_pending(&mut merged, newer);
        }
        let next = end.map(|mut key| {
            key.push(0);
            key
        });
        Ok((merged, next))
    }
}

/// Rows of a range in order, fetched as they are needed.
struct Cursor<'a> {
    shared: &'a Shared,
    bucket: BucketId,
    /// What has not been fetched.
    range: KeyRange,
    ended: bool,
    fetched: VecDeque<Merged>,
    fetch_rows: usize,
}

impl<'a> Cursor<'a> {
    fn new(shared: &'a Shared, bucket: BucketId, range: KeyRange, fetch_rows: usize) -> Self {
        Self {
            shared,
            bucket,
            ended: range.is_empty(),
            range,
            fetched: VecDeque::new(),
            fetch_rows: fetch_rows.clamp(1, MAX_FETCH_ROWS),
        }
    }

    async fn next(&mut self) -> Result<Option<Merged>> {
        while self.fetched.is_empty() && !self.ended {
            let (rows, next) = self
                .shared
                .merge(self.bucket, &self.range, self.fetch_rows)
                .await?;
            self.fetched = rows;
            self.fetch_rows = (self.fetch_rows * 4).min(MAX_FETCH_ROWS);
            match next {
                Some(key) => self.range.from = key,
                None => self.ended = true,
            }
        }
        Ok(self.fetched.pop_front())
    }

    /// Skips all keys before `key`; none means all.
    fn skip_to(&mut self, key: Option<Vec<u8>>) {
        let Some(key) = key else {
            self.fetched.clear();
            self.ended = true;
            return;
        };
        let skipped = self.fetched.partition_point(|row| row.key < key);
        self.fetched.drain(..skipped);
        if self.fetched.is_empty() && !self.ended && key > self.range.from {
            self.range.from = key;
            self.ended = self.range.is_empty();
            self.fetch_rows = SEEK_ROWS;
        }
    }
}

/// Entries of a listing that may be in its page.
struct Walk<'a> {
    cursor: Cursor<'a>,
    prefix: &'a [u8],
    delimiter: Option<&'a [u8]>,
}

impl<'a> Walk<'a> {
    fn new(shared: &'a Shared, bucket: BucketId, query: &'a ListQuery, limit: usize) -> Self {
        let prefix = query.prefix.as_bytes();
        let delimiter = query.delimiter.as_deref().map(str::as_bytes);
        let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty());
        let mut range = KeyRange::prefix(&query.prefix);
        if let Some(after) = query.after.as_deref() {
            range = match rolled(after.as_bytes(), prefix, delimiter) {
                // All keys that begin with it roll up to it, and it is not after `after`.
                Some(common) => match end_of_prefix(common) {
                    Some(end) => range.at_or_after(end),
                    None => range.before(""),
                },
                None => range.after(after),
            };
        }
        let first = match delimiter {
            Some(_) => FIRST_ROLLED_ROWS.min(limit + 1),
            None => limit + 1,
        };
        Self {
            cursor: Cursor::new(shared, bucket, range, first),
            prefix,
            delimiter,
        }
    }

    /// Up to `want` entries that follow: their rows (of a common prefix, the first under it),
    /// and for each the common prefix it stands for.
    async fn candidates(&mut self, want: usize) -> Result<Candidates> {
        let mut rows = Vec::new();
        let mut prefixes = Vec::new();
        while rows.len() < want {
            let Some(row) = self.cursor.next().await? else {
                break;
            };
            let common = rolled(&row.key, self.prefix, self.delimiter);
            if let Some(common) = common {
                self.cursor.skip_to(end_of_prefix(common));
            }
            let common_len = common.map(<[u8]>::len);
            let (key, row) = row.read()?;
            prefixes.push(common_len.map(|len| key.as_str()[..len].to_owned()));
            rows.push((key, row));
        }
        Ok((rows, prefixes))
    }
}

type Candidates = (Vec<(ObjectKey, Row)>, Vec<Option<String>>);

/// The common prefix to which a key rolls up.
fn rolled<'k>(key: &'k [u8], prefix: &[u8], delimiter: Option<&[u8]>) -> Option<&'k [u8]> {
    let delimiter = delimiter?;
    let rest = key.strip_prefix(prefix)?;
    let at = rest
        .windows(delimiter.len())
        .position(|window| window == delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

enum Entry {
    Object(ObjectKey, Row),
    Prefix(String),
}

/// A page that is being filled.
struct Filling {
    page: Page,
    limit: usize,
    last_is_prefix: bool,
}

impl Filling {
    fn new(limit: usize) -> Self {
        Self {
            page: Page::default(),
            limit,
            last_is_prefix: false,
        }
    }

    fn len(&self) -> usize {
        self.page.objects.len() + self.page.prefixes.len()
    }

    /// Adds an entry; false, without adding it, where the page is full.
    fn take(&mut self, entry: Entry) -> bool {
        if self.len() == self.limit {
            return false;
        }
        self.last_is_prefix = matches!(entry, Entry::Prefix(_));
        match entry {
            Entry::Object(key, row) => self.page.objects.push((key, row)),
            Entry::Prefix(prefix) => self.page.prefixes.push(prefix),
        }
        true
    }

    /// The page, with more to follow.
    fn cut(mut self) -> Page {
        self.page.next = if self.last_is_prefix {
            self.page.prefixes.last().cloned()
        } else {
            let last = self.page.objects.last();
            last.map(|(key, _)| key.as_str().to_owned())
        };
        self.page
    }
}
