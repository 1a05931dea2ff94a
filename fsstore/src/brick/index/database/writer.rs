//! What is written to the database.

use std::collections::BTreeSet;
use std::sync::Arc;

use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection, Row as _, Sqlite, Transaction};

use super::super::overlay::{BucketId, BucketState, Generation, Key, Pending};
use super::super::row::Row;
use super::super::rules::{Kind, Move, Prefix};
use super::MOVED;
use crate::name::MAX_KEY_LEN_BYTES;

/// Rows written, or asked for, by one statement.
pub(super) const WRITE_CHUNK: usize = 128;
/// Rows of a dropped bucket deleted by one transaction.
const SWEEP_ROWS: u64 = 4_096;

/// The connection that writes.
#[derive(Debug)]
pub(in super::super) struct Writer {
    pub(super) connection: SqliteConnection,
    /// Buckets whose rows are to be deleted.
    pub(super) dropped: Vec<BucketId>,
}

impl Writer {
    /// Writes a generation, as one transaction. Writing it again changes nothing. Gives the buckets
    /// of which rows went, since a directory's move made their keys too long.
    pub async fn write(&mut self, generation: &Generation) -> sqlx::Result<BTreeSet<BucketId>> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        for (&id, state) in &generation.buckets {
            write_bucket(&mut transaction, id, state).await?;
        }
        for (&id, keys) in generation.rules.superseded() {
            for kind in [Kind::Any, Kind::Plain, Kind::Escaped] {
                let keys = keys.iter().filter(|(_, of)| **of == kind);
                let keys = keys.map(|(key, _)| &key[..]);
                delete_rows(&mut transaction, id, keys, kind).await?;
            }
        }
        let mut too_long = BTreeSet::new();
        for it in generation.rules.moves() {
            if move_rows(&mut transaction, it).await? {
                too_long.insert(it.to.bucket);
            }
        }
        if !generation.rules.is_empty() {
            say_moved_through(&mut transaction, generation.moved_through).await?;
        }
        for (&id, rows) in &generation.rows {
            let mut delta = Delta::default();
            let mut rows = rows.iter();
            loop {
                let chunk: Vec<_> = rows.by_ref().take(WRITE_CHUNK).collect();
                if chunk.is_empty() {
                    break;
                }
                delta.add(write_rows(&mut transaction, id, &chunk).await?);
            }
            count(&mut transaction, id, &delta).await?;
        }
        transaction.commit().await?;
        for (&id, state) in &generation.buckets {
            if *state == BucketState::Dropped && !self.dropped.contains(&id) {
                self.dropped.push(id);
            }
        }
        Ok(too_long)
    }

    /// Deletes a batch of rows of dropped buckets. True where more are left.
    pub async fn sweep(&mut self) -> sqlx::Result<bool> {
        let Some(&id) = self.dropped.last() else {
            return Ok(false);
        };
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let deleted = sqlx::query(
            "DELETE FROM entry WHERE (bucket_id, key) IN
            (SELECT bucket_id, key FROM entry WHERE bucket_id = ? LIMIT ?)",
        )
        .bind(id)
        .bind(SWEEP_ROWS as i64)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        let done = deleted < SWEEP_ROWS;
        if done {
            sqlx::query("DELETE FROM bucket WHERE id = ?")
                .bind(id)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        if done {
            self.dropped.pop();
        }
        Ok(!self.dropped.is_empty())
    }

    /// Copies the write-ahead log into the database and syncs both. False where readers did not
    /// get out of the way in time: then nothing is said of durability.
    pub async fn checkpoint(&mut self) -> sqlx::Result<bool> {
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(&mut self.connection)
            .await?;
        Ok(row.try_get::<i64, _>(0)? == 0)
    }
}

#[cfg(test)]
impl Writer {
    /// Makes the file system look full beyond this many pages.
    pub async fn limit_pages(&mut self, pages: u32) {
        sqlx::query(AssertSqlSafe(format!("PRAGMA max_page_count = {pages}")))
            .execute(&mut self.connection)
            .await
            .unwrap();
    }
}

/// How the counters of a bucket change.
#[derive(Default)]
struct Delta {
    objects: i64,
    bytes: i64,
}

impl Delta {
    fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    fn negated(&self) -> Self {
        Self {
            objects: -self.objects,
            bytes: -self.bytes,
        }
    }
}

async fn write_bucket(
    transaction: &mut Transaction<'_, Sqlite>,
    id: BucketId,
    state: &BucketState,
) -> sqlx::Result<()> {
    let (name, complete) = match state {
        BucketState::Known { name, complete } => (Some(name.as_str()), *complete),
        BucketState::Dropped => (None, false),
    };
    sqlx::query(
        "INSERT INTO bucket (id, name, complete) VALUES (?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, complete = excluded.complete",
    )
    .bind(id)
    .bind(name)
    .bind(complete)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Writes rows of one bucket; what they replace is counted in the same transaction, so the
/// counters stay exact.
async fn write_rows(
    transaction: &mut Transaction<'_, Sqlite>,
    bucket: BucketId,
    rows: &[(&Key, &Pending)],
) -> sqlx::Result<Delta> {
    let sql = with_keys(
        "SELECT count(*), coalesce(sum(len_bytes), 0) FROM entry",
        rows.len(),
    );
    let keys = rows.iter().map(|(key, _)| &key[..]);
    let replaced = keys
        .fold(statement(sql, rows.len()).bind(bucket), |query, key| {
            query.bind(key)
        })
        .fetch_one(&mut **transaction)
        .await?;
    let mut delta = Delta {
        objects: -replaced.try_get::<i64, _>(0)?,
        bytes: -replaced.try_get::<i64, _>(1)?,
    };

    let gone: Vec<&[u8]> = rows
        .iter()
        .filter(|(_, pending)| pending.is_none())
        .map(|(key, _)| &key[..])
        .collect();
    if !gone.is_empty() {
        let query = statement(with_keys("DELETE FROM entry", gone.len()), gone.len()).bind(bucket);
        gone.iter()
            .fold(query, |query, &key| query.bind(key))
            .execute(&mut **transaction)
            .await?;
    }

    let puts: Vec<(&[u8], &Arc<Row>)> = rows
        .iter()
        .filter_map(|(key, pending)| Some((&key[..], pending.as_ref()?)))
        .collect();
    if !puts.is_empty() {
        let mut query = statement(upsert(puts.len()), puts.len());
        for (key, row) in &puts {
            let len_bytes = i64::try_from(row.len_bytes).unwrap_or(i64::MAX);
            delta.add(Delta {
                objects: 1,
                bytes: len_bytes,
            });
            query = query
                .bind(bucket)
                .bind(*key)
                .bind(len_bytes)
                .bind(row.flags.needs_hash)
                .bind(row.encode());
        }
        query.execute(&mut **transaction).await?;
    }
    Ok(delta)
}

async fn count(
    transaction: &mut Transaction<'_, Sqlite>,
    bucket: BucketId,
    delta: &Delta,
) -> sqlx::Result<()> {
    sqlx::query("UPDATE bucket SET objects = objects + ?, bytes = bytes + ? WHERE id = ?")
        .bind(delta.objects)
        .bind(delta.bytes)
        .bind(bucket)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

async fn say_moved_through(
    transaction: &mut Transaction<'_, Sqlite>,
    through: u64,
) -> sqlx::Result<()> {
    sqlx::query(MOVED).execute(&mut **transaction).await?;
    sqlx::query("INSERT OR REPLACE INTO moved (id, through) VALUES (0, ?)")
        .bind(i64::try_from(through).unwrap_or(i64::MAX))
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Rows of keys that stand at their path: the first byte of a row is its flags.
const PLAIN: &str = "bucket_id = ? AND key >= ? AND key < ? AND substr(value, 1, 1) < x'04'";
/// The same of the row that is about to move.
const IS_PLAIN: &str = "substr(moving.value, 1, 1) < x'04'";

/// Deletes rows of one bucket, of one kind.
async fn delete_rows(
    transaction: &mut Transaction<'_, Sqlite>,
    bucket: BucketId,
    mut keys: impl Iterator<Item = &[u8]>,
    kind: Kind,
) -> sqlx::Result<()> {
    let of_kind = match kind {
        Kind::Any => "",
        Kind::Plain => " AND substr(value, 1, 1) < x'04'",
        Kind::Escaped => " AND substr(value, 1, 1) >= x'04'",
    };
    loop {
        let chunk: Vec<_> = keys.by_ref().take(WRITE_CHUNK).collect();
        if chunk.is_empty() {
            return Ok(());
        }
        let sql = |head| format!("{}{of_kind}", with_keys(head, chunk.len()));
        let bound = |head| {
            let query = statement(sql(head), chunk.len()).bind(bucket);
            chunk.iter().fold(query, |query, &key| query.bind(key))
        };
        let row = bound("SELECT count(*), coalesce(sum(len_bytes), 0) FROM entry")
            .fetch_one(&mut **transaction)
            .await?;
        let gone = Delta {
            objects: row.try_get(0)?,
            bytes: row.try_get(1)?,
        };
        if gone.objects > 0 {
            bound("DELETE FROM entry")
                .execute(&mut **transaction)
                .await?;
            count(transaction, bucket, &gone.negated()).await?;
        }
    }
}

/// Moves the rows of a directory. Rows of what it replaced are taken away, where it came by as
/// well, and of what has no key there: gives whether there were such.
async fn move_rows(transaction: &mut Transaction<'_, Sqlite>, it: &Move) -> sqlx::Result<bool> {
    let max_len_bytes = it.max_key_len_bytes();
    let are_too_long = match max_len_bytes < MAX_KEY_LEN_BYTES {
        true => delete_plain(transaction, &it.from, max_len_bytes).await?,
        false => false,
    };
    let is_elsewhere = it.from != it.to;
    let to = Some(&it.to).filter(|_| is_elsewhere);
    for place in it.via.iter().chain(to) {
        delete_plain(transaction, place, 0).await?;
        delete_shadowed(transaction, &it.from, place).await?;
    }
    if !is_elsewhere {
        return Ok(are_too_long);
    }
    let moved = match it.from.bucket == it.to.bucket {
        true => Delta::default(),
        false => count_plain(transaction, &it.from, 0).await?,
    };
    let sql = format!(
        "UPDATE entry SET bucket_id = ?, key = CAST(? || substr(key, ?) AS BLOB) WHERE {PLAIN}"
    );
    within(
        sqlx::query(AssertSqlSafe(sql))
            .bind(it.to.bucket)
            .bind(&it.to.bytes)
            .bind(as_i64(it.from.bytes.len() + 1)),
        &it.from,
    )
    .execute(&mut **transaction)
    .await?;
    count(transaction, it.from.bucket, &moved.negated()).await?;
    count(transaction, it.to.bucket, &moved).await?;
    Ok(are_too_long)
}

/// Deletes plain rows below a prefix whose keys are longer than so many bytes. Gives whether there
/// were any.
async fn delete_plain(
    transaction: &mut Transaction<'_, Sqlite>,
    prefix: &Prefix,
    longer_than_bytes: usize,
) -> sqlx::Result<bool> {
    let gone = count_plain(transaction, prefix, longer_than_bytes).await?;
    if gone.objects == 0 {
        return Ok(false);
    }
    let sql = format!("DELETE FROM entry WHERE {PLAIN} AND length(key) > ?");
    within(sqlx::query(AssertSqlSafe(sql)), prefix)
        .bind(as_i64(longer_than_bytes))
        .execute(&mut **transaction)
        .await?;
    count(transaction, prefix.bucket, &gone.negated()).await?;
    Ok(true)
}

/// Deletes escaped rows below one prefix whose keys plain ones below another are about to get: of
/// both, the plain file counts.
async fn delete_shadowed(
    transaction: &mut Transaction<'_, Sqlite>,
    from: &Prefix,
    to: &Prefix,
) -> sqlx::Result<()> {
    let select = format!(
        "FROM entry WHERE bucket_id = ?1 AND key >= ?2 AND key < ?3 AND EXISTS (
            SELECT 1 FROM entry AS moving WHERE moving.bucket_id = ?4
            AND moving.key = CAST(?5 || substr(entry.key, ?6) AS BLOB)
            AND {IS_PLAIN})"
    );
    let bound = |sql: String| {
        within(sqlx::query(AssertSqlSafe(sql)), to)
            .bind(from.bucket)
            .bind(&from.bytes)
            .bind(as_i64(to.bytes.len() + 1))
    };
    let row = bound(format!(
        "SELECT count(*), coalesce(sum(len_bytes), 0) {select}"
    ))
    .fetch_one(&mut **transaction)
    .await?;
    let (objects, bytes): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if objects == 0 {
        return Ok(());
    }
    bound(format!("DELETE {select}"))
        .execute(&mut **transaction)
        .await?;
    count(transaction, to.bucket, &Delta { objects, bytes }.negated()).await
}

async fn count_plain(
    transaction: &mut Transaction<'_, Sqlite>,
    prefix: &Prefix,
    longer_than_bytes: usize,
) -> sqlx::Result<Delta> {
    let sql = format!(
        "SELECT count(*), coalesce(sum(len_bytes), 0) FROM entry WHERE {PLAIN} AND length(key) > ?"
    );
    let row = within(sqlx::query(AssertSqlSafe(sql)), prefix)
        .bind(as_i64(longer_than_bytes))
        .fetch_one(&mut **transaction)
        .await?;
    Ok(Delta {
        objects: row.try_get(0)?,
        bytes: row.try_get(1)?,
    })
}

fn within<'q>(query: Query<'q>, prefix: &'q Prefix) -> Query<'q> {
    query
        .bind(prefix.bucket)
        .bind(&prefix.bytes)
        .bind(prefix.end())
}

fn as_i64(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// A statement made for `rows` rows: prepared once for full chunks, which are the many.
pub(super) fn statement<'q>(sql: String, rows: usize) -> Query<'q> {
    sqlx::query(AssertSqlSafe(sql)).persistent(rows == WRITE_CHUNK || rows == 1)
}

pub(super) fn with_keys(head: &str, keys: usize) -> String {
    let mut sql = format!("{head} WHERE bucket_id = ? AND key IN (?");
    for _ in 1..keys {
        sql.push_str(",?");
    }
    sql.push(')');
    sql
}

fn upsert(rows: usize) -> String {
    let mut sql =
        "INSERT INTO entry (bucket_id, key, len_bytes, needs_hash, value) VALUES (?,?,?,?,?)"
            .to_owned();
    for _ in 1..rows {
        sql.push_str(",(?,?,?,?,?)");
    }
    sql.push_str(
        " ON CONFLICT (bucket_id, key) DO UPDATE SET len_bytes = excluded.len_bytes,
        needs_hash = excluded.needs_hash, value = excluded.value",
    );
    sql
}
