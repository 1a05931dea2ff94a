//! The only SQL of the listing index.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolOptions;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row as _, Sqlite, Transaction};

use super::overlay::{BucketId, BucketState, Generation, Key, Pending};
use super::range::KeyRange;
use super::row::Row;
use super::{Opened, Totals};
use crate::error::{Result, StoreError};
use crate::name::BucketName;

const FILE_NAME: &str = "index.db";
/// Its presence says that the database was found damaged and is to be made anew.
const DAMAGED_NAME: &str = "index.damaged";
/// The version of the schema and of [`Row::encode`]: another one is rebuilt, never migrated.
const SCHEMA_VERSION: i64 = 1;
/// "PxLI", so that a foreign database is not taken for ours.
const APPLICATION_ID: i64 = 0x5078_4c49;
/// Connections that read.
const READERS: u32 = 4;
/// Page cache of a reading connection, in KiB (negative: SQLite's notation for KiB).
const READER_CACHE: &str = "-2048";
/// Page cache of the writing connection.
const WRITER_CACHE: &str = "-8192";
/// Pages of write-ahead log after which SQLite copies it into the database by itself.
const AUTOCHECKPOINT_PAGES: &str = "4000";
/// Length to which the write-ahead log is cut once it has been copied, in bytes.
const WAL_LIMIT_BYTES: &str = "16777216";
/// Longest wait for another connection's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Rows written by one statement.
const WRITE_CHUNK: usize = 128;
/// Rows of a dropped bucket deleted by one transaction.
const SWEEP_ROWS: u64 = 4_096;
/// Rows that pass between SQLite's thread and ours without a wait.
const ROW_BUFFER: usize = 1_024;

const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_NOTADB: i32 = 26;

const SCHEMA: [&str; 3] = [
    "CREATE TABLE bucket (
        id INTEGER PRIMARY KEY,
        name TEXT UNIQUE,
        complete INTEGER NOT NULL,
        objects INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0
    )",
    "CREATE TABLE entry (
        bucket_id INTEGER NOT NULL,
        key BLOB NOT NULL,
        len_bytes INTEGER NOT NULL,
        needs_hash INTEGER NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (bucket_id, key)
    ) WITHOUT ROWID",
    "CREATE INDEX unhashed ON entry (bucket_id, key) WHERE needs_hash = 1",
];

/// The buckets that a database has.
pub(super) struct KnownBuckets {
    pub buckets: Vec<(BucketId, BucketName, bool)>,
    pub next_bucket: BucketId,
    dropped: Vec<BucketId>,
}

/// A row as the database has it.
pub(super) struct Stored {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// The connections that read.
#[derive(Debug)]
pub(super) struct Database {
    readers: SqlitePool,
    damaged: PathBuf,
}

/// The connection that writes.
#[derive(Debug)]
pub(super) struct Writer {
    connection: SqliteConnection,
    /// Buckets whose rows are to be deleted.
    dropped: Vec<BucketId>,
}

impl Database {
    pub async fn open(dir: &Path) -> Result<(Self, Writer, KnownBuckets, Opened)> {
        tokio::fs::create_dir_all(dir)
            .await
            .map_err(|e| StoreError::from_io("create the directory of the index", e))?;
        let damaged = dir.join(DAMAGED_NAME);
        let path = dir.join(FILE_NAME);
        let marked = tokio::fs::try_exists(&damaged)
            .await
            .map_err(|e| StoreError::from_io("look at the index", e))?;
        let found = if marked {
            None
        } else {
            open_existing(&path).await?
        };
        let (connection, opened) = match found {
            Some(connection) => (connection, Opened::Existing),
            None => {
                for suffix in ["", "-wal", "-shm"] {
                    remove_if_there(&dir.join(format!("{FILE_NAME}{suffix}"))).await?;
                }
                remove_if_there(&damaged).await?;
                (create(&path).await.map_err(fault)?, Opened::Fresh)
            }
        };
        let mut writer = Writer {
            connection,
            dropped: Vec::new(),
        };
        let mut known = known_buckets(&mut writer.connection).await?;
        writer.dropped = std::mem::take(&mut known.dropped);
        let options = connect_options(&path)
            .read_only(true)
            .pragma("cache_size", READER_CACHE);
        let readers = PoolOptions::<Sqlite>::new()
            .max_connections(READERS)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(fault)?;
        Ok((Self { readers, damaged }, writer, known, opened))
    }

    /// The first `limit` rows of a range, in order of keys.
    pub async fn rows(
        &self,
        bucket: BucketId,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Vec<Stored>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let query = match &range.to {
            Some(to) => sqlx::query(
                "SELECT key, value FROM entry
                WHERE bucket_id = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?",
            )
            .bind(bucket)
            .bind(range.from.as_slice())
            .bind(to.as_slice())
            .bind(limit),
            None => sqlx::query(
                "SELECT key, value FROM entry
                WHERE bucket_id = ? AND key >= ? ORDER BY key LIMIT ?",
            )
            .bind(bucket)
            .bind(range.from.as_slice())
            .bind(limit),
        };
        let rows = query
            .fetch_all(&self.readers)
            .await
            .and_then(|rows| rows.iter().map(stored).collect());
        self.settle(rows).await
    }

    /// What stands at a key.
    pub async fn get(&self, bucket: BucketId, key: &[u8]) -> Result<Option<Row>> {
        let row = sqlx::query("SELECT key, value FROM entry WHERE bucket_id = ? AND key = ?")
            .bind(bucket)
            .bind(key)
            .fetch_optional(&self.readers)
            .await
            .and_then(|row| row.as_ref().map(stored).transpose());
        let row = self.settle(row).await?;
        row.map(|stored| Row::decode(&stored.value)).transpose()
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
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.readers)
        .await
        .and_then(|rows| {
            rows.iter()
                .map(|row| Ok((row.try_get(2)?, stored(row)?)))
                .collect()
        });
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

    /// Turns an error of SQLite into the fact it states. Where the database is damaged, leaves
    /// a mark by which the next start makes it anew.
    pub async fn settle<T>(&self, result: sqlx::Result<T>) -> Result<T> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                if is_damage(&error) {
                    tracing::error!(%error, "the listing index is damaged; restart to rebuild it");
                    if let Err(error) = tokio::fs::write(&self.damaged, b"").await {
                        tracing::error!(%error, "the damage could not be marked");
                    }
                }
                Err(fault(error))
            }
        }
    }

    pub async fn close(&self) {
        self.readers.close().await;
    }
}

impl Writer {
    /// Writes a generation, as one transaction. Writing it again changes nothing.
    pub async fn write(&mut self, generation: &Generation) -> sqlx::Result<()> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        for (&id, state) in &generation.buckets {
            write_bucket(&mut transaction, id, state).await?;
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
            sqlx::query("UPDATE bucket SET objects = objects + ?, bytes = bytes + ? WHERE id = ?")
                .bind(delta.objects)
                .bind(delta.bytes)
                .bind(id)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        for (&id, state) in &generation.buckets {
            if *state == BucketState::Dropped && !self.dropped.contains(&id) {
                self.dropped.push(id);
            }
        }
        Ok(())
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

    /// Copies the write-ahead log into the database and syncs both. Errors: Busy where readers
    /// did not get out of the way, NoSpace, Index.
    pub async fn checkpoint(&mut self) -> Result<()> {
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .fetch_one(&mut self.connection)
            .await
            .map_err(fault)?;
        match row.try_get::<i64, _>(0).map_err(fault)? {
            0 => Ok(()),
            _ => Err(StoreError::Busy("readers of the listing index")),
        }
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

type Query<'q> = sqlx::query::Query<'q, Sqlite, sqlx::sqlite::SqliteArguments>;

/// A statement made for `rows` rows: prepared once for full chunks, which are the many.
fn statement<'q>(sql: String, rows: usize) -> Query<'q> {
    sqlx::query(AssertSqlSafe(sql)).persistent(rows == WRITE_CHUNK || rows == 1)
}

fn with_keys(head: &str, keys: usize) -> String {
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
    let _ = write!(
        sql,
        " ON CONFLICT (bucket_id, key) DO UPDATE SET len_bytes = excluded.len_bytes,
        needs_hash = excluded.needs_hash, value = excluded.value"
    );
    sql
}

fn stored(row: &SqliteRow) -> sqlx::Result<Stored> {
    Ok(Stored {
        key: row.try_get(0)?,
        value: row.try_get(1)?,
    })
}

fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(false)
        .row_buffer_size(ROW_BUFFER)
        .thread_name(|id| format!("index-{id}"))
        .disable_statement_logging()
}

async fn connect_writer(path: &Path, create: bool) -> sqlx::Result<SqliteConnection> {
    connect_options(path)
        .create_if_missing(create)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .pragma("cache_size", WRITER_CACHE)
        .pragma("wal_autocheckpoint", AUTOCHECKPOINT_PAGES)
        .pragma("journal_size_limit", WAL_LIMIT_BYTES)
        .connect()
        .await
}

/// Opens a database that is there, whole and of this version; none otherwise.
async fn open_existing(path: &Path) -> Result<Option<SqliteConnection>> {
    let there = tokio::fs::try_exists(path)
        .await
        .map_err(|e| StoreError::from_io("look at the index", e))?;
    if !there {
        return Ok(None);
    }
    let looked = async {
        let mut connection = connect_writer(path, false).await?;
        let ours = is_ours(&mut connection).await;
        if !matches!(ours, Ok(true)) {
            connection.close().await?;
        } else {
            return ours.map(|_| Some(connection));
        }
        ours.map(|_| None)
    };
    match looked.await {
        Ok(Some(connection)) => Ok(Some(connection)),
        Ok(None) => {
            tracing::info!("the listing index is of another version and is made anew");
            Ok(None)
        }
        Err(error) if is_damage(&error) => {
            tracing::warn!(%error, "the listing index is damaged and is made anew");
            Ok(None)
        }
        Err(error) => Err(fault(error)),
    }
}

async fn is_ours(connection: &mut SqliteConnection) -> sqlx::Result<bool> {
    let id: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut *connection)
        .await?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?;
    Ok(id == APPLICATION_ID && version == SCHEMA_VERSION)
}

async fn create(path: &Path) -> sqlx::Result<SqliteConnection> {
    let mut connection = connect_writer(path, true).await?;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for statement in SCHEMA {
        sqlx::query(statement).execute(&mut *transaction).await?;
    }
    for (pragma, value) in [
        ("application_id", APPLICATION_ID),
        ("user_version", SCHEMA_VERSION),
    ] {
        sqlx::query(AssertSqlSafe(format!("PRAGMA {pragma} = {value}")))
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(connection)
}

async fn known_buckets(connection: &mut SqliteConnection) -> Result<KnownBuckets> {
    let rows = sqlx::query("SELECT id, name, complete FROM bucket")
        .fetch_all(connection)
        .await
        .map_err(fault)?;
    let mut known = KnownBuckets {
        buckets: Vec::new(),
        next_bucket: 1,
        dropped: Vec::new(),
    };
    for row in rows {
        let id: BucketId = row.try_get(0).map_err(fault)?;
        known.next_bucket = known.next_bucket.max(id + 1);
        match row.try_get::<Option<String>, _>(1).map_err(fault)? {
            Some(name) => {
                let name = BucketName::parse(&name)
                    .map_err(|_| StoreError::Corrupt("a bucket of the listing index".to_owned()))?;
                known
                    .buckets
                    .push((id, name, row.try_get(2).map_err(fault)?));
            }
            None => known.dropped.push(id),
        }
    }
    Ok(known)
}

async fn remove_if_there(path: &Path) -> Result<()> {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::from_io("delete the index", error))
        }
        _ => Ok(()),
    }
}

fn fault(error: sqlx::Error) -> StoreError {
    match code(&error) {
        Some(SQLITE_FULL) => StoreError::NoSpace,
        _ => StoreError::Index(error),
    }
}

fn is_damage(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(SQLITE_CORRUPT | SQLITE_NOTADB))
}

/// SQLite's primary result code, the low byte of the extended one.
fn code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}
