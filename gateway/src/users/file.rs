//! The users file, `DIR/.portico/users.toml`: its form, and how it is replaced.
//!
//! Invariant: readable by its owner only, and always whole. Write order: 1. write a file in the
//! claim ([`super::claim`]), 2. sync it, 3. rename it over, 4. sync the directory. Blocking I/O:
//! start, SIGHUP and commands only.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fsstore::object::Timestamp;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::claim::FileClaim;
use super::{AccessKey, DEFAULT_ACCOUNT, Entry, Origin, Secret, Umask, User, UserError};

/// Version of the form; another one is refused, not guessed at.
const FORMAT: u32 = 1;
const NAME: &str = "users.toml";
/// Largest users file read, in bytes.
const MAX_FILE_LEN_BYTES: u64 = 256 << 20;
/// How often, and after how long each time, a held lock is tried again (10 s in all).
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The file as TOML.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    format: u32,
    #[serde(default, rename = "user")]
    users: Vec<UserForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserForm {
    id: String,
    name: String,
    #[serde(default = "default_account")]
    account: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gids: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    umask: Option<Umask>,
    #[serde(default, rename = "key")]
    keys: Vec<KeyForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyForm {
    access_key: String,
    secret_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_token: Option<String>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<i64>,
}

/// The account of a user who names none.
pub(super) fn default_account() -> String {
    DEFAULT_ACCOUNT.to_owned()
}

impl From<KeyForm> for AccessKey {
    fn from(form: KeyForm) -> Self {
        Self {
            id: form.access_key,
            secret: Secret::new(form.secret_key),
            session_token: form.session_token.map(Secret::new),
            expires: form.expires.map(Timestamp::from_secs),
        }
    }
}

impl From<&AccessKey> for KeyForm {
    fn from(key: &AccessKey) -> Self {
        Self {
            access_key: key.id.clone(),
            secret_key: key.secret.reveal().to_owned(),
            session_token: key.session_token.as_ref().map(|t| t.reveal().to_owned()),
            expires: key.expires.map(Timestamp::secs),
        }
    }
}

impl From<UserForm> for Entry {
    fn from(form: UserForm) -> Self {
        Self {
            user: Arc::new(User {
                id: form.id,
                name: form.name,
                account: form.account,
                groups: form.groups,
                uid: form.uid,
                gid: form.gid,
                gids: form.gids,
                umask: form.umask,
            }),
            keys: form.keys.into_iter().map(AccessKey::from).collect(),
            origin: Origin::File,
        }
    }
}

impl From<&Entry> for UserForm {
    fn from(entry: &Entry) -> Self {
        let user = &entry.user;
        Self {
            id: user.id.clone(),
            name: user.name.clone(),
            account: user.account.clone(),
            groups: user.groups.clone(),
            uid: user.uid,
            gid: user.gid,
            gids: user.gids.clone(),
            umask: user.umask,
            keys: entry.keys.iter().map(KeyForm::from).collect(),
        }
    }
}

/// State of the file that tells whether it was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    mtime_ns: (i64, i64),
    len_bytes: u64,
}

/// The users file.
#[derive(Debug, Clone)]
pub(super) struct UsersFile {
    path: PathBuf,
    lock_path: PathBuf,
    directory: PathBuf,
}

/// The right to replace the file; other commands wait until it is dropped.
pub(super) struct Lock {
    claim: FileClaim,
    /// Commands of one host wait for each other here; where the file system locks for all hosts,
    /// those of all. Closing it unlocks.
    _file: File,
}

impl UsersFile {
    /// The file of a store's directory. Makes `DIR/.portico` where it is missing.
    pub(super) fn of(dir: &Path) -> Result<Self, UserError> {
        let directory = dir.join(".portico");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|e| io_error("create", &directory, e))?;
        Ok(Self {
            path: directory.join(NAME),
            lock_path: directory.join("users.lock"),
            directory,
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its state; none where it does not exist.
    pub(super) fn stamp(&self) -> Result<Option<Stamp>, UserError> {
        match std::fs::metadata(&self.path) {
            Ok(meta) => Ok(Some(Stamp {
                inode: meta.ino(),
                mtime_ns: (meta.mtime(), meta.mtime_nsec()),
                len_bytes: meta.len(),
            })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("look at", &self.path, e)),
        }
    }

    /// Reads it; none where it does not exist. Errors: Unreadable, Io.
    pub(super) fn read(&self) -> Result<Option<Vec<Entry>>, UserError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("open", &self.path, e)),
        };
        let meta = file
            .metadata()
            .map_err(|e| io_error("look at", &self.path, e))?;
        if meta.mode() & 0o077 != 0 {
            tracing::warn!(path = %self.path.display(), "the users file is readable by others: chmod 600 it");
        }
        if meta.len() > MAX_FILE_LEN_BYTES {
            return Err(self.unreadable("larger than 256 MiB"));
        }
        let mut text = String::new();
        file.take(MAX_FILE_LEN_BYTES)
            .read_to_string(&mut text)
            .map_err(|e| io_error("read", &self.path, e))?;
        // Only the message: the full text of the error shows the line, which may hold a secret.
        let form: Form = toml::from_str(&text).map_err(|e| self.unreadable(e.message()))?;
        if form.format != FORMAT {
            return Err(self.unreadable("the format is not 1"));
        }
        Ok(Some(form.users.into_iter().map(Entry::from).collect()))
    }

    fn unreadable(&self, message: &str) -> UserError {
        UserError::Unreadable {
            path: self.path.display().to_string(),
            message: message.to_owned(),
        }
    }

    /// Waits for the right to replace the file, 10 seconds at most. Errors: Locked, Io.
    pub(super) fn lock(&self) -> Result<Lock, UserError> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&self.lock_path)
            .map_err(|e| io_error("open", &self.lock_path, e))?;
        for _ in 0..LOCK_TRIES {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return self.claim(file),
                Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                Err(Errno::INTR) => {}
                // The file system has no locks: the claim needs none.
                Err(Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP) => return self.claim(file),
                Err(e) => return Err(io_error("lock", &self.lock_path, e.into())),
            }
        }
        Err(UserError::Locked(self.path.display().to_string()))
    }

    fn claim(&self, file: File) -> Result<Lock, UserError> {
        match FileClaim::take(&self.directory) {
            Ok(claim) => Ok(Lock { claim, _file: file }),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                Err(UserError::Locked(self.path.display().to_string()))
            }
            Err(e) => Err(io_error("claim", &self.path, e)),
        }
    }

    /// Replaces the file, durably. Errors: Locked where another command took this one for dead;
    /// Io: then the old file stands.
    pub(super) fn write(&self, lock: &Lock, entries: &[Entry]) -> Result<(), UserError> {
        let form = Form {
            format: FORMAT,
            users: entries.iter().map(UserForm::from).collect(),
        };
        let text = toml::to_string(&form).map_err(|e| self.unreadable(&e.to_string()))?;
        match lock.claim.replace(NAME, text.as_bytes()) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(UserError::Locked(self.path.display().to_string()))
            }
            other => other.map_err(|e| io_error("replace", &self.path, e)),
        }
    }
}

fn io_error(action: &'static str, path: &Path, source: std::io::Error) -> UserError {
    UserError::Io {
        action,
        path: path.display().to_string(),
        source,
    }
}
