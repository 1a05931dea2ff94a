//! Ordered listings over the overlay and the database.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use super::Shared;
use super::database::Stored;
use super::overlay::{BucketId, Key, Pending};
use super::range::{KeyRange, Rolling, end_of_prefix};
use super::row::Row;
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey};
use crate::volume::{ListQuery, MAX_PAGE};

/// Most rows that one call fetches or hands to a verifier.
pub const MAX_FETCH_ROWS: usize = 1_024;
/// First fetch of a listing that may roll keys up, in either way to fetch. (Small in tests, so
/// that small models pass every edge.)
const FIRST_ROLLED_ROWS: usize = if cfg!(test) { 4 } else { 64 };
/// Where less than one row in this many was rolled up, plain fetches are faster.
const ROLLED_SHARE: usize = 8;
/// First fetch of a search for one living key.
const SEARCH_ROWS: usize = 8;
/// Most pending changes copied while the overlay is held.
const SLICE_ROWS: usize = if cfg!(test) { 32 } else { 512 };

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
    /// What a pending change leaves at its key.
    fn pending((key, pending): (Key, Pending)) -> Option<Self> {
        pending.map(|row| Self {
            key: key.to_vec(),
            value: Value::Pending(row),
        })
    }

    fn read(self) -> Result<(ObjectKey, Row)> {
        let row = match self.value {
            Value::Pending(row) => Arc::unwrap_or_clone(row),
            Value::Stored(bytes) => Row::decode(&bytes)?,
        };
        Ok((read_key(self.key)?, row))
    }
}

pub(super) fn read_key(bytes: Vec<u8>) -> Result<ObjectKey> {
    String::from_utf8(bytes)
        .ok()
        .and_then(|text| ObjectKey::parse(&text).ok())
        .ok_or_else(|| StoreError::Corrupt("a key of the listing index".to_owned()))
}

impl Shared {
    pub(super) async fn rows(
        &self,
        bucket: &BucketName,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Vec<(ObjectKey, Row)>> {
        assert!(limit <= MAX_FETCH_ROWS, "rows: at most {MAX_FETCH_ROWS}");
        self.settle_moves(bucket).await?;
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
        let mut cursor = Cursor::new(self, bucket, range, SEARCH_ROWS);
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

    /// Merges one stretch of the overlay and the database.
    async fn merge(
        &self,
        bucket: BucketId,
        range: &KeyRange,
        rolling: Option<Rolling<'_>>,
        limit: usize,
    ) -> Result<Stretch> {
        // The overlay first: a change leaves it only when the database has it.
        let slice_rows = limit.clamp(SEARCH_ROWS, SLICE_ROWS);
        let slice = self.overlay().slice(bucket, range, slice_rows);
        let stored = match rolling {
            Some(rolling) => self.database.heads(bucket, range, rolling, limit).await?,
            None => self.database.rows(bucket, range, limit).await?,
        };
        let pending_end = slice
            .rows
            .last()
            .filter(|_| slice.cut)
            .map(|row| &row.0[..]);
        let stored_end = stored.last().filter(|_| stored.len() == limit);
        let stored_end = stored_end.map(|row| &row.key[..]);
        // Beyond this key one of the two has not been read.
        let end = match (pending_end, stored_end) {
            (Some(pending), Some(stored)) => Some(pending.min(stored)),
            (end, None) | (None, end) => end,
        };
        let end = end.map(<[u8]>::to_vec);
        Ok(merge_rows(slice.rows, stored, end, rolling))
    }
}

/// Merged rows, in order; there may be none though the range goes on.
struct Stretch {
    rows: VecDeque<Merged>,
    /// The last key of which it is known; none where the range ended.
    end: Option<Vec<u8>>,
    /// True where it ended early, at a common prefix whose first key is gone.
    lost_head: bool,
}

/// Merges up to `end`. With `rolling`, `stored` has only the first key of a common prefix: the
/// one that follows it is not known where that one is gone.
fn merge_rows(
    pending: Vec<(Key, Pending)>,
    stored: Vec<Stored>,
    end: Option<Vec<u8>>,
    rolling: Option<Rolling<'_>>,
) -> Stretch {
    let within = |key: &[u8]| end.as_deref().is_none_or(|end| key <= end);
    let mut rows = VecDeque::with_capacity(stored.len() + pending.len());
    let mut pending = pending.into_iter().peekable();
    for stored in stored.into_iter().take_while(|row| within(&row.key)) {
        while let Some(older) = pending.next_if(|(key, _)| key[..] < stored.key[..]) {
            rows.extend(Merged::pending(older));
        }
        match pending.next_if(|(key, _)| key[..] == stored.key[..]) {
            None => rows.push_back(Merged {
                key: stored.key,
                value: Value::Stored(stored.value),
            }),
            Some((_, None)) if rolling.is_some_and(|r| r.common(&stored.key).is_some()) => {
                return Stretch {
                    rows,
                    end: Some(stored.key),
                    lost_head: true,
                };
            }
            Some(newer) => rows.extend(Merged::pending(newer)),
        }
    }
    while let Some(newer) = pending.next_if(|(key, _)| within(key)) {
        rows.extend(Merged::pending(newer));
    }
    Stretch {
        rows,
        end,
        lost_head: false,
    }
}

/// Rows of a range in order, fetched as they are needed. With `rolling`, whoever reads must
/// skip a common prefix after its first row: the others may not be fetched.
struct Cursor<'a> {
    shared: &'a Shared,
    bucket: BucketId,
    /// What has not been fetched.
    range: KeyRange,
    ended: bool,
    fetched: VecDeque<Merged>,
    fetch_rows: usize,
    rolling: Option<Rolling<'a>>,
    /// Whether only first keys of common prefixes are fetched.
    heads_only: bool,
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
            rolling: None,
            heads_only: false,
        }
    }

    async fn next(&mut self) -> Result<Option<Merged>> {
        while self.fetched.is_empty() && !self.ended {
            self.fetch().await?;
        }
        Ok(self.fetched.pop_front())
    }

    async fn fetch(&mut self) -> Result<()> {
        let rolling = self.rolling.filter(|_| self.heads_only);
        let stretch = self
            .shared
            .merge(self.bucket, &self.range, rolling, self.fetch_rows)
            .await?;
        self.fetched = stretch.rows;
        self.fetch_rows = (self.fetch_rows * 4).min(MAX_FETCH_ROWS);
        match stretch.end {
            Some(mut key) => {
                key.push(0);
                self.range.from = key;
            }
            None => self.ended = true,
        }
        if let Some(rolling) = rolling {
            let rows = self.fetched.iter();
            let rolled = rows
                .filter(|row| rolling.common(&row.key).is_some())
                .count();
            if stretch.lost_head {
                self.heads_only = false;
                self.fetch_rows = FIRST_ROLLED_ROWS;
            } else if rolled * ROLLED_SHARE < self.fetched.len() {
                self.heads_only = false;
            }
        }
        Ok(())
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
            if !self.heads_only {
                self.heads_only = true;
                self.fetch_rows = FIRST_ROLLED_ROWS;
            }
        }
    }
}

/// Entries of a listing that may be in its page.
struct Walk<'a> {
    cursor: Cursor<'a>,
    rolling: Option<Rolling<'a>>,
}

impl<'a> Walk<'a> {
    fn new(shared: &'a Shared, bucket: BucketId, query: &'a ListQuery, limit: usize) -> Self {
        let delimiter = query.delimiter.as_deref().map(str::as_bytes);
        let rolling = delimiter
            .filter(|delimiter| !delimiter.is_empty())
            .map(|delimiter| Rolling {
                prefix: query.prefix.as_bytes(),
                delimiter,
            });
        let mut range = KeyRange::prefix(&query.prefix);
        if let Some(after) = query.after.as_deref() {
            let common = rolling.and_then(|rolling| rolling.common(after.as_bytes()));
            range = match common.and_then(end_of_prefix) {
                // All keys that begin with it roll up to it, and it is not after `after`.
                Some(end) => range.at_or_after(end),
                None => range.after(after),
            };
        }
        let first = match rolling {
            Some(_) => FIRST_ROLLED_ROWS.min(limit + 1),
            None => limit + 1,
        };
        let mut cursor = Cursor::new(shared, bucket, range, first);
        cursor.rolling = rolling;
        Self { cursor, rolling }
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
            let common = self.rolling.and_then(|rolling| rolling.common(&row.key));
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
