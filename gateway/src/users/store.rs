//! The users of a store: those of the users file, those the configuration declares, and root.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use fsstore::name::hex;
use fsstore::object::Timestamp;
use serde::Deserialize;

use super::file::{Stamp, UsersFile, default_account};
use super::{
    ADMIN_GROUP, AccessKey, Directory, Entry, Origin, ROOT_NAME, Secret, Umask, User, UserError,
    check_key, stable_id,
};

/// Longest life of a temporary key, in seconds (a year).
pub const MAX_TTL_SECS: u32 = 366 * 86_400;
/// How long an expired key is kept, in seconds, so that its holder is told that it expired.
const EXPIRED_KEPT_SECS: i64 = 7 * 86_400;

/// A user declared in the configuration: `[[user]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserConfig {
    /// Login name.
    pub name: String,
    /// The account whose buckets the user sees.
    #[serde(default = "default_account")]
    pub account: String,
    /// Access keys.
    #[serde(default)]
    pub keys: Vec<KeyConfig>,
    /// Groups; `.admin` may do everything.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The user id that this user's files have on disk; none leaves them the server's own.
    #[serde(default)]
    pub uid: Option<u32>,
    /// The group id, likewise.
    #[serde(default)]
    pub gid: Option<u32>,
    /// Further group ids, by which files let this user in.
    #[serde(default)]
    pub gids: Vec<u32>,
    /// Bits taken from the permissions of this user's files, as octal text.
    #[serde(default)]
    pub umask: Option<Umask>,
}

/// A key declared in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// The public part.
    pub access_key: String,
    /// The secret part.
    #[serde(deserialize_with = "secret")]
    pub secret_key: Secret,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

/// The keys of root as the environment gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootKeys {
    /// PORTICO_ROOT_ACCESS_KEY
    pub access_key: String,
    /// PORTICO_ROOT_SECRET_KEY
    pub secret_key: Secret,
}

/// A user to be added to the users file.
#[derive(Debug, Clone, Default)]
pub struct NewUser {
    /// Login name.
    pub name: String,
    /// The account; none is `main`.
    pub account: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// The user id that this user's files have on disk; none leaves them the server's own.
    pub uid: Option<u32>,
    /// The group id, likewise.
    pub gid: Option<u32>,
    /// Further group ids, by which files let this user in.
    pub gids: Vec<u32>,
    /// Bits taken from the permissions of this user's files.
    pub umask: Option<Umask>,
    /// The first key; none generates one.
    pub key: NewKey,
}

/// A key to be added. What is not given is generated.
#[derive(Debug, Clone, Default)]
pub struct NewKey {
    /// The public part.
    pub access_key: Option<String>,
    /// The secret part.
    pub secret_key: Option<Secret>,
    /// Life in seconds, up to [`MAX_TTL_SECS`]: makes a temporary key with a session token.
    pub ttl_secs: Option<u32>,
}

/// Keeps users, and the current [`Directory`].
///
/// `current` guards the snapshot only, `stamp` the state of the file it was made from; `stamp` is
/// taken first. Every method but [`UserStore::directory`] does blocking I/O.
#[derive(Debug)]
pub struct UserStore {
    file: UsersFile,
    declared: RwLock<Vec<UserConfig>>,
    root: Option<RootKeys>,
    stamp: Mutex<Option<Stamp>>,
    current: RwLock<Arc<Directory>>,
}

impl UserStore {
    /// Opens the users of a store's directory. At the first start the root user is made, with
    /// generated keys unless the environment gives some. Errors: UserError.
    pub fn open(
        dir: &Path,
        declared: Vec<UserConfig>,
        root: Option<RootKeys>,
    ) -> Result<(Self, FirstStart), UserError> {
        let file = UsersFile::of(dir)?;
        let first = make_root(&file, root.is_none())?;
        let store = Self {
            file,
            declared: RwLock::new(declared),
            root,
            stamp: Mutex::new(None),
            current: RwLock::new(Arc::new(Directory::default())),
        };
        store.reload()?;
        Ok((store, FirstStart(first)))
    }

    /// The current snapshot: one read lock, no I/O.
    pub fn directory(&self) -> Arc<Directory> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// Where the users file is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Replaces the users that the configuration declares, and reloads.
    pub fn set_declared(&self, declared: Vec<UserConfig>) -> Result<(), UserError> {
        let before = {
            let mut now = self
                .declared
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *now, declared)
        };
        let reloaded = self.reload();
        if reloaded.is_err() {
            let mut now = self
                .declared
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *now = before;
        }
        reloaded
    }

    /// Reads the users file again; an error leaves the current snapshot in place.
    pub fn reload(&self) -> Result<(), UserError> {
        let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.file.stamp()?;
        let entries = self.file.read()?.unwrap_or_default();
        self.publish(entries)?;
        *stamp = found;
        Ok(())
    }

    /// Reloads if the file was replaced since: cheap enough to be asked every second.
    pub fn reload_if_changed(&self) -> Result<bool, UserError> {
        let known = *self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if self.file.stamp()? == known {
            return Ok(false);
        }
        self.reload()?;
        Ok(true)
    }

    fn publish(&self, entries: Vec<Entry>) -> Result<(), UserError> {
        let directory = Arc::new(self.merge(entries)?);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = directory;
        Ok(())
    }

    /// The file's users with root's keys from the environment, and the declared ones.
    fn merge(&self, mut entries: Vec<Entry>) -> Result<Directory, UserError> {
        if let Some(keys) = &self.root {
            for entry in entries.iter_mut().filter(|e| e.user.name == ROOT_NAME) {
                entry.keys = vec![plain_key(&keys.access_key, &keys.secret_key)];
            }
        }
        let declared = self.declared.read().unwrap_or_else(PoisonError::into_inner);
        entries.extend(declared.iter().map(declared_entry));
        Directory::build(entries)
    }

    /// Adds a user with a key. Durable. Errors: Exists, Malformed, TooMany, Locked, Io.
    pub fn add_user(&self, new: NewUser, now: Timestamp) -> Result<Entry, UserError> {
        let key = make_key(&new.key, now)?;
        let entry = Entry {
            user: Arc::new(User {
                id: hex(&random::<32>()?),
                name: new.name,
                account: new.account.unwrap_or_else(default_account),
                groups: new.groups,
                uid: new.uid,
                gid: new.gid,
                gids: new.gids,
                umask: new.umask,
            }),
            keys: vec![key],
            origin: Origin::File,
        };
        let added = entry.clone();
        self.change(now, |entries| {
            entries.push(entry);
            Ok(())
        })?;
        Ok(added)
    }

    /// Removes a user with all keys; what the user owns stays, and is the admins' from then on.
    /// Durable. Errors: Missing, Declared, Root, Locked, Io.
    pub fn remove_user(&self, name: &str, now: Timestamp) -> Result<(), UserError> {
        if name == ROOT_NAME {
            return Err(UserError::Root);
        }
        self.refuse_declared(|user| user.name == name, &format!("user {name}"))?;
        self.change(now, |entries| {
            let before = entries.len();
            entries.retain(|entry| entry.user.name != name);
            if entries.len() == before {
                return Err(UserError::Missing(format!("user {name}")));
            }
            Ok(())
        })
    }

    /// Adds a key to a user. Durable. Errors: Missing, Declared, Exists, Malformed, Locked, Io.
    pub fn add_key(
        &self,
        name: &str,
        new: &NewKey,
        now: Timestamp,
    ) -> Result<AccessKey, UserError> {
        self.refuse_declared(|user| user.name == name, &format!("user {name}"))?;
        let key = make_key(new, now)?;
        let added = key.clone();
        self.change(now, |entries| {
            let entry = entries.iter_mut().find(|entry| entry.user.name == name);
            let entry = entry.ok_or_else(|| UserError::Missing(format!("user {name}")))?;
            entry.keys.push(key);
            Ok(())
        })?;
        Ok(added)
    }

    /// Removes a key. Durable. Errors: Missing, Declared, Locked, Io.
    pub fn remove_key(&self, access_key: &str, now: Timestamp) -> Result<(), UserError> {
        let what = format!("access key {access_key}");
        self.refuse_declared(
            |user| user.keys.iter().any(|key| key.access_key == access_key),
            &what,
        )?;
        self.change(now, |entries| {
            for entry in entries.iter_mut() {
                if let Some(at) = entry.keys.iter().position(|key| key.id == access_key) {
                    entry.keys.remove(at);
                    return Ok(());
                }
            }
            Err(UserError::Missing(what))
        })
    }

    fn refuse_declared(
        &self,
        is_it: impl Fn(&UserConfig) -> bool,
        what: &str,
    ) -> Result<(), UserError> {
        let declared = self.declared.read().unwrap_or_else(PoisonError::into_inner);
        if declared.iter().any(is_it) {
            return Err(UserError::Declared(what.to_owned()));
        }
        Ok(())
    }

    /// Changes the file under its lock; what would not load is not written.
    fn change(
        &self,
        now: Timestamp,
        edit: impl FnOnce(&mut Vec<Entry>) -> Result<(), UserError>,
    ) -> Result<(), UserError> {
        let lock = self.file.lock()?;
        let mut entries = self.file.read()?.unwrap_or_default();
        for entry in &mut entries {
            entry.keys.retain(|key| !is_long_expired(key, now));
        }
        edit(&mut entries)?;
        self.merge(entries.clone())?;
        self.file.write(&lock, &entries)?;
        drop(lock);
        self.reload()
    }
}

/// Whether [`UserStore::open`] made the root user just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstStart(pub bool);

fn make_root(file: &UsersFile, generate_keys: bool) -> Result<bool, UserError> {
    let lock = file.lock()?;
    let mut entries = file.read()?.unwrap_or_default();
    let found = entries.iter_mut().find(|e| e.user.name == ROOT_NAME);
    let is_new = found.is_none();
    match found {
        Some(root) if !root.keys.is_empty() || !generate_keys => return Ok(false),
        Some(root) => root.keys.push(make_key(&NewKey::default(), Timestamp(0))?),
        None => {
            let mut keys = Vec::new();
            if generate_keys {
                keys.push(make_key(&NewKey::default(), Timestamp(0))?);
            }
            entries.push(Entry {
                user: Arc::new(User {
                    id: hex(&random::<32>()?),
                    name: ROOT_NAME.to_owned(),
                    account: default_account(),
                    groups: vec![ADMIN_GROUP.to_owned()],
                    uid: None,
                    gid: None,
                    gids: Vec::new(),
                    umask: None,
                }),
                keys,
                origin: Origin::File,
            });
        }
    }
    file.write(&lock, &entries)?;
    Ok(is_new)
}

fn declared_entry(config: &UserConfig) -> Entry {
    Entry {
        user: Arc::new(User {
            id: stable_id(&config.name),
            name: config.name.clone(),
            account: config.account.clone(),
            groups: config.groups.clone(),
            uid: config.uid,
            gid: config.gid,
            gids: config.gids.clone(),
            umask: config.umask,
        }),
        keys: config
            .keys
            .iter()
            .map(|key| plain_key(&key.access_key, &key.secret_key))
            .collect(),
        origin: Origin::Config,
    }
}

fn plain_key(id: &str, secret: &Secret) -> AccessKey {
    AccessKey {
        id: id.to_owned(),
        secret: secret.clone(),
        session_token: None,
        expires: None,
    }
}

fn is_long_expired(key: &AccessKey, now: Timestamp) -> bool {
    key.expires
        .is_some_and(|end| end.secs().saturating_add(EXPIRED_KEPT_SECS) < now.secs())
}

fn make_key(new: &NewKey, now: Timestamp) -> Result<AccessKey, UserError> {
    let id = match &new.access_key {
        Some(id) => id.clone(),
        None => format!(
            "PX{}",
            random_text::<18>(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")?
        ),
    };
    let secret = match &new.secret_key {
        Some(secret) => secret.clone(),
        None => Secret::new(random_text::<40>(LETTERS)?),
    };
    let mut key = plain_key(&id, &secret);
    if let Some(ttl) = new.ttl_secs {
        if ttl == 0 || ttl > MAX_TTL_SECS {
            return Err(UserError::Malformed {
                what: "ttl".to_owned(),
                why: "1 second to 366 days",
            });
        }
        key.session_token = Some(Secret::new(random_text::<64>(LETTERS)?));
        key.expires = Some(Timestamp::from_secs(now.secs() + i64::from(ttl)));
    }
    check_key(&key)?;
    Ok(key)
}

/// 64 characters that need no quoting in a shell, a URL or TOML.
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// `LEN` characters of an alphabet whose length is a power of two, so that none is likelier.
fn random_text<const LEN: usize>(alphabet: &[u8]) -> Result<String, UserError> {
    assert!(alphabet.len().is_power_of_two());
    let bytes = random::<LEN>()?;
    let letter = |b: &u8| alphabet[usize::from(*b) % alphabet.len()] as char;
    Ok(bytes.iter().map(letter).collect())
}

fn random<const LEN: usize>() -> Result<[u8; LEN], UserError> {
    let mut bytes = [0; LEN];
    let mut filled = 0;
    while filled < LEN {
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(&mut bytes[filled..], flags) {
            Ok(len) => filled += len,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                return Err(UserError::Io {
                    action: "read",
                    path: "random bytes".to_owned(),
                    source: e.into(),
                });
            }
        }
    }
    Ok(bytes)
}
