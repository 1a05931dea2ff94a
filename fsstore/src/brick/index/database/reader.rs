//! What is asked of the database.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite};

use super::super::Totals;
use super::super::overlay::BucketId;
use super::super::range::{KeyRange, Rolling};
use super::super::row::{INO_OFFSET_BYTES, Row};
use super::writer::{WRITE_CHUNK, statement, with_keys};
use super::{Database, moved_through};
use crate::error::Result;

/// After every key: no UTF-8 has this byte.
const AFTER_ALL: &[u8] = &[0xff];

/// Most rows of one file that are of interest: any that still leads to it will do.
const MAX_LINKS: usize = 64;

/// A row as the database has it.
pub(in super::super) struct Stored {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

impl Database {
    /// The first `limit` rows of a range, in order of keys.
    pub async fn rows(
        &self,
        bucket: BucketId,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Vec<Stored>> {
        let rows = sqlx::query(
            "SELECT key, value FROM entry
            WHERE bucket_id = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?",
        )
        .bind(bucket)
        .bind(range.from.as_slice())
        .bind(end_of(range))
        .bind(row_limit(limit))
        .fetch_all(&self.readers)
        .await
        .and_then(|rows| rows.iter().map(stored).collect());
        self.settle(rows).await
    }

    /// As [`Database::rows`], but of the keys that roll up to the same common prefix only the
    /// first: one seek for each, instead of a read of all that are under it.
    pub async fn heads(
        &self,
        bucket: BucketId,
        range: &KeyRange,
        rolling: Rolling<'_>,
        limit: usize,
    ) -> Result<Vec<Stored>> {
        // After a key comes the key and a zero byte; after a common prefix, the prefix and a
        // byte that no UTF-8 has. substr and instr count bytes, since all of these are blobs.
        let rows = sqlx::query(
            "WITH RECURSIVE head (key) AS (
                SELECT * FROM (
                    SELECT key FROM entry
                    WHERE bucket_id = ?1 AND key >= ?2 AND key < ?3 ORDER BY key LIMIT 1
                )
                UNION ALL
                SELECT (
                    SELECT e.key FROM entry AS e
                    WHERE e.bucket_id = ?1 AND e.key < ?3 AND e.key >=
                        CASE instr(substr(head.key, ?4 + 1), ?5)
                        WHEN 0 THEN CAST(head.key || x'00' AS BLOB)
                        ELSE CAST(substr(head.key, 1, ?4 - 1 + length(?5)
                            + instr(substr(head.key, ?4 + 1), ?5)) || x'FF' AS BLOB)
                        END
                    ORDER BY e.key LIMIT 1
                )
                FROM head WHERE head.key IS NOT NULL LIMIT ?6
            )
            SELECT e.key, e.value FROM head
            CROSS JOIN entry AS e ON e.bucket_id = ?1 AND e.key = head.key",
        )
        .bind(bucket)
        .bind(range.from.as_slice())
        .bind(end_of(range))
        .bind(row_limit(rolling.prefix.len()))
        .bind(rolling.delimiter)
        .bind(row_limit(limit))
        .fetch_all(&self.readers)
        .await
        .and_then(|rows| rows.iter().map(stored).collect());
        let mut rows: Vec<Stored> = self.settle(rows).await?;
        // In order already; SQLite does not promise it.
        rows.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(rows)
    }

    /// What stands at a key.
    pub async fn get(&self, bucket: BucketId, key: &[u8]) -> Result<Option<Row>> {
        let row = self.settle(one(&self.readers, bucket, key).await).await?;
        row.map(|stored| Row::decode(&stored.value)).transpose()
    }

    /// What stands at many keys, in any order; those at which nothing does are left out.
    pub async fn get_many(&self, bucket: BucketId, keys: &[&[u8]]) -> Result<Vec<(Vec<u8>, Row)>> {
        let mut found = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(WRITE_CHUNK) {
            let sql = with_keys("SELECT key, value FROM entry", chunk.len());
            let query = statement(sql, chunk.len()).bind(bucket);
            let query = chunk.iter().fold(query, |query, &key| query.bind(key));
            let rows = query.fetch_all(&self.readers).await;
            let rows = rows.and_then(|rows| rows.iter().map(stored).collect());
            let rows: Vec<Stored> = self.settle(rows).await?;
            for Stored { key, value } in rows {
                found.push((key, Row::decode(&value)?));
            }
        }
        Ok(found)
    }

    /// One state of the database, to be asked several things.
    pub async fn snapshot(&self) -> Result<Snapshot<'_>> {
        let transaction = self.settle(self.readers.begin().await).await?;
        Ok(Snapshot {
            database: self,
            transaction,
        })
    }

    /// The first `limit` rows that need hashing, after a bucket and key.
    pub async fn unhashed(
        &self,
        after: (BucketId, &[u8]),
        limit: usize,
    ) -> Result<Vec<(BucketId, Stored)>> {
        let rows = sqlx::query(
            "SELECT key, value, bucket_id FROM entry INDEXED BY unhashed
            WHERE needs_hash = 1 AND (bucket_id, key) > (?, ?)
            ORDER BY bucket_id, key LIMIT ?",
        )
        .bind(after.0)
        .bind(after.1)
        .bind(row_limit(limit))
        .fetch_all(&self.readers)
        .await
        .and_then(|rows| rows.iter().map(stored_in_bucket).collect());
        self.settle(rows).await
    }

    /// The rows of files with an inode number, in order of nothing.
    pub async fn of_ino(&self, ino: u64) -> Result<Vec<(BucketId, Stored)>> {
        let rows = sqlx::query(
            "SELECT key, value, bucket_id FROM entry WHERE substr(value, ?, ?) = ? LIMIT ?",
        )
        // Counted from 1.
        .bind(row_limit(INO_OFFSET_BYTES + 1))
        .bind(row_limit(size_of::<u64>()))
        .bind(ino.to_le_bytes().to_vec())
        .bind(row_limit(MAX_LINKS))
        .fetch_all(&self.readers)
        .await
        .and_then(|rows| rows.iter().map(stored_in_bucket).collect());
        self.settle(rows).await
    }

    /// The counters of a bucket.
    pub async fn totals(&self, bucket: BucketId) -> Result<Totals> {
        let row = sqlx::query("SELECT objects, bytes FROM bucket WHERE id = ?")
            .bind(bucket)
            .fetch_optional(&self.readers)
            .await
            .and_then(|row| {
                row.map(|row| Ok((row.try_get::<i64, _>(0)?, row.try_get::<i64, _>(1)?)))
                    .transpose()
            });
        let (objects, bytes) = self.settle(row).await?.unwrap_or((0, 0));
        Ok(Totals {
            objects: objects.try_into().unwrap_or(0),
            bytes: bytes.try_into().unwrap_or(0),
        })
    }
}

/// See [`Database::snapshot`].
pub(in super::super) struct Snapshot<'a> {
    database: &'a Database,
    transaction: sqlx::Transaction<'a, Sqlite>,
}

impl Snapshot<'_> {
    /// Which moves of directories it has.
    pub async fn moved_through(&mut self) -> Result<u64> {
        let through = moved_through(&mut self.transaction).await;
        self.database.settle(through).await
    }

    /// What stands at a key.
    pub async fn get(&mut self, bucket: BucketId, key: &[u8]) -> Result<Option<Row>> {
        let row = one(&mut *self.transaction, bucket, key).await;
        let row = self.database.settle(row).await?;
        row.map(|stored| Row::decode(&stored.value)).transpose()
    }
}

async fn one<'e>(
    executor: impl sqlx::Executor<'e, Database = Sqlite>,
    bucket: BucketId,
    key: &[u8],
) -> sqlx::Result<Option<Stored>> {
    let row = sqlx::query("SELECT key, value FROM entry WHERE bucket_id = ? AND key = ?")
        .bind(bucket)
        .bind(key)
        .fetch_optional(executor)
        .await?;
    row.as_ref().map(stored).transpose()
}

fn end_of(range: &KeyRange) -> &[u8] {
    range.to.as_deref().unwrap_or(AFTER_ALL)
}

fn row_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn stored(row: &SqliteRow) -> sqlx::Result<Stored> {
    Ok(Stored {
        key: row.try_get(0)?,
        value: row.try_get(1)?,
    })
}

/// A row with the bucket that it is of.
fn stored_in_bucket(row: &SqliteRow) -> sqlx::Result<(BucketId, Stored)> {
    Ok((row.try_get(2)?, stored(row)?))
}
