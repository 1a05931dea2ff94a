//! `portico user` and `portico key`. A running server sees the change within seconds.

use std::time::Duration;

use clap::{Args, Subcommand};
use fsstore::clock::Clock;
use fsstore::object::Timestamp;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::layout::Layout;
use super::print::Answer;
use super::{CommandError, TreeArgs};
use crate::config::{Config, parse_duration};
use crate::users::{AccessKey, Entry, NewKey, NewUser, Origin, Secret, Umask, UserStore};

/// `portico user …`
#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Add a user with a key, and show them
    Add(AddUserArgs),
    /// List users and the ids of their keys
    Ls(ListUsersArgs),
    /// Remove a user with all its keys; what it owns stays
    Rm(RemoveUserArgs),
}

/// `portico key …`
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Add an access key to a user, and show it
    Add(AddKeyArgs),
    /// Remove an access key
    Rm(RemoveKeyArgs),
}

/// `portico user add`
#[derive(Debug, Args)]
pub(super) struct AddUserArgs {
    /// The user's name
    name: String,
    /// The account whose buckets the user sees [default: main]
    #[arg(long)]
    account: Option<String>,
    /// Groups, separated by commas; members of .admin may do everything
    #[arg(long, value_delimiter = ',')]
    groups: Vec<String>,
    /// User id that the user's files have on disk [default: the server's own]
    #[arg(long)]
    uid: Option<u32>,
    /// Group id, likewise
    #[arg(long)]
    gid: Option<u32>,
    /// Further group ids, separated by commas, by which files let the user in
    #[arg(long, value_delimiter = ',')]
    gids: Vec<u32>,
    /// Bits taken from the permissions of the user's files, in octal [default: the server's own]
    #[arg(long)]
    umask: Option<Umask>,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    tree: TreeArgs,
}

/// `portico user ls`
#[derive(Debug, Args)]
pub(super) struct ListUsersArgs {
    #[command(flatten)]
    tree: TreeArgs,
}

/// `portico user rm`
#[derive(Debug, Args)]
pub(super) struct RemoveUserArgs {
    /// The user's name
    name: String,
    #[command(flatten)]
    tree: TreeArgs,
}

/// `portico key add`
#[derive(Debug, Args)]
pub(super) struct AddKeyArgs {
    /// Whose key
    user: String,
    /// How long it lives (90s, 15m, 12h, 7d): makes a temporary key with a session token
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    tree: TreeArgs,
}

/// `portico key rm`
#[derive(Debug, Args)]
pub(super) struct RemoveKeyArgs {
    /// The id of the key
    access_key: String,
    #[command(flatten)]
    tree: TreeArgs,
}

/// A key that is given rather than made.
#[derive(Debug, Args)]
struct KeyArgs {
    /// Id of the key; made up unless given
    #[arg(long, value_name = "KEY")]
    access_key: Option<String>,
    /// Its secret; made up unless given, and better so, for flags show in the process list
    #[arg(long, value_name = "SECRET")]
    secret_key: Option<String>,
}

impl KeyArgs {
    fn new_key(self, ttl: Option<Duration>) -> Result<NewKey, CommandError> {
        let ttl_secs = ttl.map(|ttl| u32::try_from(ttl.as_secs())).transpose();
        Ok(NewKey {
            access_key: self.access_key,
            secret_key: self.secret_key.map(Secret::new),
            ttl_secs: ttl_secs.map_err(|_| CommandError::new("--ttl is too long"))?,
        })
    }
}

/// Runs `portico user …`.
pub(super) fn run_user(command: UserCommand) -> Result<(), CommandError> {
    let now = Clock::system().now();
    match command {
        UserCommand::Add(args) => {
            let new = NewUser {
                name: args.name,
                account: args.account,
                groups: args.groups,
                uid: args.uid,
                gid: args.gid,
                gids: args.gids,
                umask: args.umask,
                key: args.key.new_key(None)?,
            };
            let entry = open(&args.tree)?.add_user(new, now)?;
            let key = entry.keys.first().map(secret_fields).unwrap_or_default();
            let mut fields = vec![
                ("name", json!(entry.user.name)),
                ("account", json!(entry.user.account)),
                ("id", json!(entry.user.id)),
            ];
            fields.extend(key);
            Answer::One(fields).print(args.tree.json)
        }
        UserCommand::Ls(args) => {
            let directory = open(&args.tree)?.directory();
            let answer = Answer::Many {
                columns: &[
                    "name", "account", "groups", "uid", "gid", "gids", "umask", "from", "keys",
                    "id",
                ],
                rows: directory.entries().map(user_row).collect(),
            };
            answer.print(args.tree.json)
        }
        UserCommand::Rm(args) => {
            open(&args.tree)?.remove_user(&args.name, now)?;
            Answer::One(vec![("removed", json!(args.name))]).print(args.tree.json)
        }
    }
}

/// Runs `portico key …`.
pub(super) fn run_key(command: KeyCommand) -> Result<(), CommandError> {
    let now = Clock::system().now();
    match command {
        KeyCommand::Add(args) => {
            let new = args.key.new_key(args.ttl)?;
            let key = open(&args.tree)?.add_key(&args.user, &new, now)?;
            let mut fields = vec![("user", json!(args.user))];
            fields.extend(secret_fields(&key));
            Answer::One(fields).print(args.tree.json)
        }
        KeyCommand::Rm(args) => {
            open(&args.tree)?.remove_key(&args.access_key, now)?;
            Answer::One(vec![("removed", json!(args.access_key))]).print(args.tree.json)
        }
    }
}

fn open(tree: &TreeArgs) -> Result<UserStore, CommandError> {
    let (layout, config) = tree.resolve()?;
    open_users(&layout, config)
}

/// The users of a tree.
pub(super) fn open_users(layout: &Layout, config: Config) -> Result<UserStore, CommandError> {
    let root = config.root.keys();
    let (store, _) = UserStore::open(layout.dir(), config.user, root)?;
    Ok(store)
}

fn user_row(entry: &Entry) -> Vec<Value> {
    let user = &entry.user;
    let keys: Vec<&str> = entry.keys.iter().map(|key| key.id.as_str()).collect();
    let from = match entry.origin {
        Origin::File => "users file",
        Origin::Config => "configuration",
    };
    vec![
        json!(user.name),
        json!(user.account),
        json!(user.groups),
        json!(user.uid),
        json!(user.gid),
        json!(user.gids),
        json!(user.umask),
        json!(from),
        json!(keys),
        json!(user.id),
    ]
}

/// A key with its secrets, shown to the one who made it.
fn secret_fields(key: &AccessKey) -> Vec<(&'static str, Value)> {
    let mut fields = vec![
        ("access_key", json!(key.id)),
        ("secret_key", json!(key.secret.reveal())),
    ];
    if let Some(token) = &key.session_token {
        fields.push(("session_token", json!(token.reveal())));
    }
    if let Some(end) = key.expires {
        fields.push(("expires", json!(rfc3339(end))));
    }
    fields
}

/// A time as people and scripts read it, to the second, in UTC.
pub(super) fn rfc3339(at: Timestamp) -> String {
    OffsetDateTime::from_unix_timestamp(at.secs())
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("@{}", at.secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        assert_eq!(rfc3339(Timestamp::from_secs(0)), "1970-01-01T00:00:00Z");
    }
}
