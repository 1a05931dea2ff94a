//! The only SQL of the listing index: its schema, its files and its connections.

mod reader;
mod writer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::pool::PoolOptions;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row as _, Sqlite};

pub(super) use self::reader::Stored;
pub(super) use self::writer::Writer;
use super::Opened;
use super::overlay::BucketId;
use crate::error::{Result, StoreError};
use crate::name::BucketName;

const FILE_NAME: &str = "index.db";
/// Its presence says that the database was found damaged and is to be made anew.
const DAMAGED_NAME: &str = "index.damaged";
/// The version of the schema and of the encoding of rows: another one is rebuilt, never migrated.
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
/// Rows that pass between SQLite's thread and ours without a wait.
const ROW_BUFFER: usize = 1_024;

const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_NOTADB: i32 = 26;

/// Made when it is first needed, so that the schema's version stays: which moves of directories
/// the database has, as a number that grows with each transaction that has some.
const MOVED: &str = "CREATE TABLE IF NOT EXISTS moved (
        id INTEGER PRIMARY KEY,
        through INTEGER NOT NULL
    )";

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
    /// Which moves of directories it has.
    pub moved_through: u64,
    dropped: Vec<BucketId>,
}

/// The connections that read.
#[derive(Debug)]
pub(super) struct Database {
    readers: SqlitePool,
    damaged: PathBuf,
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
        .fetch_all(&mut *connection)
        .await
        .map_err(fault)?;
    let mut known = KnownBuckets {
        buckets: Vec::new(),
        next_bucket: 1,
        moved_through: moved_through(&mut *connection).await.map_err(fault)?,
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

async fn moved_through(connection: &mut SqliteConnection) -> sqlx::Result<u64> {
    let is_there = sqlx::query("SELECT 1 FROM sqlite_schema WHERE name = 'moved'")
        .fetch_optional(&mut *connection)
        .await?;
    if is_there.is_none() {
        return Ok(0);
    }
    let through: i64 = sqlx::query_scalar("SELECT through FROM moved")
        .fetch_one(connection)
        .await?;
    Ok(through.try_into().unwrap_or(0))
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
