//! Who may come in: users, their access keys, and the snapshot that requests look them up in.
//!
//! A [`Directory`] is immutable; [`UserStore`] keeps the current one and puts another in its
//! place when users change. Secrets never show in `Debug` output: see [`Secret`].

mod claim;
mod file;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use fsstore::name::hex;
use fsstore::object::{FileOwner, Timestamp};
use fsstore::permission::{Credentials, MAX_GROUPS};
use sha2::{Digest, Sha256};

use crate::auth::signing_key::SigningKeys;

pub use store::{
    FirstStart, KeyConfig, MAX_TTL_SECS, NewKey, NewUser, RootKeys, UserConfig, UserStore,
};

/// Members may do everything in every account.
pub const ADMIN_GROUP: &str = ".admin";
/// The account of a user who names none.
pub const DEFAULT_ACCOUNT: &str = "main";
/// Name of the user made at the first start.
pub const ROOT_NAME: &str = "root";
/// Shortest secret, in bytes.
pub const MIN_SECRET_LEN_BYTES: usize = 8;
/// Longest secret, in bytes.
pub const MAX_SECRET_LEN_BYTES: usize = 256;
/// Shortest access key id, in bytes.
pub const MIN_ACCESS_KEY_LEN_BYTES: usize = 3;
/// Longest access key id, in bytes.
pub const MAX_ACCESS_KEY_LEN_BYTES: usize = 128;
/// Longest name of a user, an account or a group, in bytes.
pub const MAX_NAME_LEN_BYTES: usize = 128;
/// What is no user's and no group's number. Source: chown(2).
const NO_ID: u32 = u32::MAX;
/// Most users and most keys a store takes.
pub const MAX_USERS: usize = 100_000;

/// Text that must not be shown: `Debug` gives `***`, there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, to compute with or to hand to its owner once.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A user: one owner of buckets and objects, through every door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Canonical id: 64 lower-case hex digits. What owners and grants name.
    pub id: String,
    /// Login name, unique.
    pub name: String,
    /// The account whose buckets the user sees.
    pub account: String,
    /// Groups, without order.
    pub groups: Vec<String>,
    /// The user id that this user's files have on disk; none leaves them the server's own.
    pub uid: Option<u32>,
    /// The group id, likewise.
    pub gid: Option<u32>,
    /// Further group ids, by which files let this user in; none is taken from the host.
    pub gids: Vec<u32>,
    /// Bits taken from the permissions of this user's files; none is the server's own umask.
    pub umask: Option<Umask>,
}

/// Bits taken from permissions, as umask(2) has them. Written in octal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Umask(u32);

impl std::str::FromStr for Umask {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "octal digits, up to 0777";
        let is_octal = text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let bits = u32::from_str_radix(text, 8).map_err(|_| FORM)?;
        if !is_octal || bits > 0o777 {
            return Err(FORM);
        }
        Ok(Self(bits))
    }
}

impl TryFrom<String> for Umask {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Umask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl From<Umask> for String {
    fn from(umask: Umask) -> Self {
        umask.to_string()
    }
}

impl User {
    /// To whom this user's files belong on disk.
    pub fn file_owner(&self) -> FileOwner {
        FileOwner {
            uid: self.uid,
            gid: self.gid,
            umask: self.umask.map(|Umask(bits)| bits),
        }
    }

    /// Who this user is to the kernel; none where the uid or the gid is not known.
    pub fn credentials(&self) -> Option<Credentials> {
        Some(Credentials {
            uid: self.uid?,
            gid: self.gid?,
            groups: self.gids.clone(),
        })
    }

    /// True for members of [`ADMIN_GROUP`].
    pub fn is_admin(&self) -> bool {
        self.groups.iter().any(|group| group == ADMIN_GROUP)
    }
}

/// The canonical id of a user declared in the configuration: the same after every start.
pub fn stable_id(name: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(b"portico user ");
    digest.update(name.as_bytes());
    hex(&digest.finalize())
}

/// An access key of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// The public part.
    pub id: String,
    /// The secret part.
    pub secret: Secret,
    /// Present on temporary keys: requests must carry it too.
    pub session_token: Option<Secret>,
    /// When the key ends; none means never.
    pub expires: Option<Timestamp>,
}

/// An access key, whose it is, and the signing keys derived from it lately.
#[derive(Debug)]
pub struct Credential {
    /// The user.
    pub user: Arc<User>,
    /// The key.
    pub key: AccessKey,
    /// Cache of derived keys; gone with the directory, so never older than the secret.
    pub(crate) signing_keys: SigningKeys,
}

/// Where a user comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The users file; the CLI may change it.
    File,
    /// The configuration; changed there only.
    Config,
}

/// A user with all keys, as the CLI lists it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The user.
    pub user: Arc<User>,
    /// Its keys.
    pub keys: Vec<AccessKey>,
    /// Where it is declared.
    pub origin: Origin,
}

/// A snapshot of all users and keys.
#[derive(Debug, Default)]
pub struct Directory {
    by_key: HashMap<String, Credential>,
    by_name: BTreeMap<String, Entry>,
    by_id: HashMap<String, Arc<User>>,
}

/// Why a user or key was refused, or could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A name, key or secret has a form that is not taken.
    #[error("{what}: {why}")]
    Malformed {
        /// What was given, by name; never its value where that is a secret.
        what: String,
        /// The rule.
        why: &'static str,
    },
    /// The name, id or access key is in use.
    #[error("{0} exists already")]
    Exists(String),
    /// No such user or key.
    #[error("there is no {0}")]
    Missing(String),
    /// The user or key is declared in the configuration and can be changed there only.
    #[error("{0} is declared in the configuration: change it there")]
    Declared(String),
    /// The root user stays.
    #[error("the root user cannot be removed")]
    Root,
    /// The store is full.
    #[error("more than {MAX_USERS} users or keys")]
    TooMany,
    /// Another portico command holds the users file for too long.
    #[error("another command is changing {0}")]
    Locked(String),
    /// The users file cannot be understood.
    #[error("{path}: {message}")]
    Unreadable {
        /// The file.
        path: String,
        /// What is wrong, without the file's text (it holds secrets).
        message: String,
    },
    /// The file system failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: String,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
}

impl Directory {
    /// Builds a snapshot. Errors: Exists, Malformed, TooMany.
    pub fn build(entries: Vec<Entry>) -> Result<Self, UserError> {
        let mut directory = Self::default();
        for entry in entries {
            directory.insert(entry)?;
        }
        Ok(directory)
    }

    fn insert(&mut self, entry: Entry) -> Result<(), UserError> {
        let user = &entry.user;
        check_name("user name", &user.name)?;
        check_name("account", &user.account)?;
        for group in &user.groups {
            check_name("group", group)?;
        }
        if [user.uid, user.gid].contains(&Some(NO_ID)) || user.gids.contains(&NO_ID) {
            return Err(malformed("uid or gid", "0 to 4294967294"));
        }
        if user.gids.len() > MAX_GROUPS {
            return Err(malformed("gids", "65536 at most"));
        }
        if !is_canonical_id(&user.id) {
            return Err(malformed("user id", "64 lower-case hex digits"));
        }
        if self.by_name.contains_key(&user.name) || self.by_id.contains_key(&user.id) {
            return Err(UserError::Exists(format!("user {}", user.name)));
        }
        if self.by_name.len() >= MAX_USERS || self.by_key.len() + entry.keys.len() > MAX_USERS {
            return Err(UserError::TooMany);
        }
        for key in &entry.keys {
            check_key(key)?;
            let credential = Credential {
                user: Arc::clone(user),
                key: key.clone(),
                signing_keys: SigningKeys::default(),
            };
            if self.by_key.insert(key.id.clone(), credential).is_some() {
                return Err(UserError::Exists(format!("access key {}", key.id)));
            }
        }
        self.by_id.insert(user.id.clone(), Arc::clone(user));
        self.by_name.insert(user.name.clone(), entry);
        Ok(())
    }

    /// The credential of an access key id, expired or not.
    pub fn credential(&self, access_key: &str) -> Option<&Credential> {
        self.by_key.get(access_key)
    }

    /// The user of a canonical id.
    pub fn user_by_id(&self, id: &str) -> Option<&Arc<User>> {
        self.by_id.get(id)
    }

    /// The user of a name.
    pub fn user_by_name(&self, name: &str) -> Option<&Arc<User>> {
        self.by_name.get(name).map(|entry| &entry.user)
    }

    /// The user who stands for things without an owner: `root`, else the first admin.
    pub fn root(&self) -> Option<&Arc<User>> {
        self.user_by_name(ROOT_NAME).or_else(|| {
            let mut users = self.by_name.values().map(|entry| &entry.user);
            users.find(|user| user.is_admin())
        })
    }

    /// All users, by name.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.by_name.values()
    }
}

/// True for 64 lower-case hex digits.
pub fn is_canonical_id(id: &str) -> bool {
    id.len() == 64
        && id
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn malformed(what: &str, why: &'static str) -> UserError {
    UserError::Malformed {
        what: what.to_owned(),
        why,
    }
}

/// Checks the name of a user, an account or a group.
pub fn check_name(what: &str, name: &str) -> Result<(), UserError> {
    let is_known = |b: u8| b.is_ascii_alphanumeric() || b"._-@+=$".contains(&b);
    if name.is_empty() || name.len() > MAX_NAME_LEN_BYTES || !name.bytes().all(is_known) {
        return Err(malformed(
            what,
            "1 to 128 characters: letters, digits and . _ - @ + = $",
        ));
    }
    Ok(())
}

/// Checks an access key's id and secrets.
pub fn check_key(key: &AccessKey) -> Result<(), UserError> {
    let is_known = |b: u8| b.is_ascii_alphanumeric() || b"._-@+=$".contains(&b);
    let lens = MIN_ACCESS_KEY_LEN_BYTES..=MAX_ACCESS_KEY_LEN_BYTES;
    if !lens.contains(&key.id.len()) || !key.id.bytes().all(is_known) {
        return Err(malformed(
            "access key",
            "3 to 128 characters: letters, digits and . _ - @ + = $",
        ));
    }
    check_secret("secret key", &key.secret, MAX_SECRET_LEN_BYTES)?;
    match &key.session_token {
        Some(token) => check_secret("session token", token, 4 * MAX_SECRET_LEN_BYTES),
        None => Ok(()),
    }
}

fn check_secret(what: &str, secret: &Secret, max_bytes: usize) -> Result<(), UserError> {
    let text = secret.reveal();
    let lens = MIN_SECRET_LEN_BYTES..=max_bytes;
    if !lens.contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(malformed(what, "8 or more visible ASCII characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
