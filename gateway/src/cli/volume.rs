//! `portico volume`: a volume of several bricks, made and looked at.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use fsstore::bricks::identity::IdentityError;
use fsstore::bricks::making::{self, NewVolume};
use fsstore::bricks::status::{BrickStatus, VolumeStatus, inspect};
use fsstore::durable;
use serde_json::{Value, json};

use super::control::desk::{self, VolumeAsk};
use super::layout::Layout;
use super::print::Answer;
use super::{CommandError, TreeArgs};
use crate::config::{Config, DEFAULT_REPLICAS};

/// The users' file in a server's own directory.
const USERS: &str = "users.toml";

/// `portico volume …`
#[derive(Debug, Subcommand)]
pub(super) enum VolumeCommand {
    /// Make a volume of several bricks; `portico serve DIR` then serves it
    Create(CreateArgs),
    /// Show how a volume is: its copies, what is to be healed or moved, its bricks
    Status(StatusArgs),
}

/// `portico volume create`
#[derive(Debug, Args)]
#[command(after_help = CREATE_HELP)]
pub(super) struct CreateArgs {
    /// The volume's name
    name: String,
    /// A directory that becomes a brick: empty, or not there yet; give it again for each
    #[arg(long, value_name = "BRICK", value_delimiter = ',', required = true)]
    brick: Vec<PathBuf>,
    /// Copies of everything, each on another brick, and on another disk where there are enough
    #[arg(long, value_name = "N", default_value_t = DEFAULT_REPLICAS)]
    replicas: usize,
    /// The first brick is a directory that `portico serve` has served: what is in it becomes the
    /// volume's, where it stands, and is copied to the others
    #[arg(long)]
    adopt: bool,
    #[command(flatten)]
    own: OwnArgs,
}

const CREATE_HELP: &str = "\
Examples:
  portico volume create photos --brick /disk1/p --brick /disk2/p --dir /var/lib/portico
  portico serve /var/lib/portico

A store that is served alone grows without moving: stop it, then
  portico volume create photos --adopt --brick /srv/portico --brick /disk2/p --dir /var/lib/portico

DIR has the users and, where the bricks are of an even number, a copy of the volume's configuration:
with it on a disk of its own either of two bricks may be lost.";

/// `portico volume status`, and what shows the same
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    own: OwnArgs,
}

/// Which server a command is about.
#[derive(Debug, Args)]
pub(super) struct OwnArgs {
    #[command(flatten)]
    tree: TreeArgs,
}

impl OwnArgs {
    /// The server's own directory, as `portico serve --brick` finds it.
    fn dir(&self) -> Result<(PathBuf, Config), CommandError> {
        let config = match &self.tree.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        let dir = match self.tree.dir.as_ref().or(config.dir.as_ref()) {
            Some(dir) => dir.clone(),
            None => Layout::default_own()?,
        };
        Ok((dir, config))
    }

    /// The directory, where it is.
    pub(super) fn existing(&self) -> Result<Layout, CommandError> {
        Layout::existing(&self.dir()?.0)
    }

    /// Whether to answer in JSON.
    pub(super) fn json(&self) -> bool {
        self.tree.json
    }
}

/// Runs `portico volume …`.
pub(super) fn run(command: VolumeCommand) -> Result<(), CommandError> {
    match command {
        VolumeCommand::Create(args) => create(&args),
        VolumeCommand::Status(args) => {
            let status = status(&args.own.existing()?)?;
            print(&status, args.own.json())
        }
    }
}

fn create(args: &CreateArgs) -> Result<(), CommandError> {
    let (dir, _) = args.own.dir()?;
    let own = Layout::create_own(&dir)?;
    let _lock = own.lock()?;
    let adopted = args.brick.first().filter(|_| args.adopt);
    // Whoever serves the store that is adopted would go on beside the volume.
    let _adopted_lock = match adopted {
        Some(first) if !is_same(first, &dir) => Some(Layout::existing(first)?.lock()?),
        _ => None,
    };
    let new = NewVolume {
        name: &args.name,
        replicas: args.replicas,
        dirs: &args.brick,
        adopts_first: args.adopt,
    };
    making::create(&own.state(), &new)?;
    if let Some(first) = adopted {
        take_users_over(&Layout::existing(first)?, &own)?;
    }
    let status = status(&own)?;
    if status.shares_devices {
        eprintln!(
            "portico: these bricks are on fewer disks than there are copies: a disk that fails may take \
             all copies of something with it"
        );
    }
    print(&status, args.own.json())
}

fn is_same(one: &std::path::Path, other: &std::path::Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Copies the users of an adopted store to a server that has none.
fn take_users_over(from: &Layout, to: &Layout) -> Result<(), CommandError> {
    let (from, to) = (from.state().join(USERS), to.state().join(USERS));
    if to.exists() || !from.exists() {
        return Ok(());
    }
    // With its permissions: they are its owner's only.
    std::fs::copy(&from, &to)?;
    durable::sync_file(std::fs::File::open(&to)?, false).map_err(std::io::Error::from)?;
    to.parent().map_or(Ok(()), durable::sync_dir_at)?;
    Ok(())
}

/// How the volume of a server is: as it says, or as its bricks say where it does not run. Errors:
/// it has none of several bricks.
pub(super) fn status(own: &Layout) -> Result<VolumeStatus, CommandError> {
    if let Some(answer) = desk::try_ask(own, VolumeAsk::Status)? {
        return Ok(serde_json::from_value(answer)?);
    }
    let found = inspect(&own.state()).map_err(|error: IdentityError| CommandError::from(error))?;
    let shown = own.dir().display();
    found.ok_or_else(|| {
        CommandError::new(format!(
            "{shown} has no volume of several bricks: `portico volume create` makes one"
        ))
    })
}

/// Shows a volume and its bricks.
pub(super) fn print(status: &VolumeStatus, json: bool) -> Result<(), CommandError> {
    if json {
        println!("{:#}", json!(status));
        return Ok(());
    }
    Answer::One(vec![
        ("volume", json!(status.name)),
        ("uuid", json!(status.volume)),
        ("copies", json!(status.replicas)),
        ("health", json!(health(status))),
        ("rebalance", json!(rebalance(status))),
    ])
    .print(false)?;
    println!();
    bricks(status).print(false)
}

/// A word on the whole.
fn health(status: &VolumeStatus) -> String {
    let VolumeStatus {
        groups,
        short_groups,
        unreachable_groups,
        ..
    } = status;
    if *unreachable_groups > 0 {
        return format!("{unreachable_groups} of {groups} groups of names cannot be reached");
    }
    match short_groups {
        0 => "everything has all its copies".to_owned(),
        short => format!("{short} of {groups} groups of names lack copies"),
    }
}

fn rebalance(status: &VolumeStatus) -> String {
    match (status.to_make_groups, status.is_rebalance_paused) {
        (0, true) => "paused; nothing to move".to_owned(),
        (0, false) => "nothing to move".to_owned(),
        (count, true) => format!("paused; {count} copies of groups to make"),
        (count, false) => format!("{count} copies of groups to make"),
    }
}

/// The table of bricks.
pub(super) fn bricks(status: &VolumeStatus) -> Answer {
    Answer::Many {
        columns: &[
            "brick",
            "state",
            "groups",
            "wanted",
            "only here",
            "size",
            "free",
            "path",
        ],
        rows: status.bricks.iter().map(row).collect(),
    }
}

fn row(brick: &BrickStatus) -> Vec<Value> {
    vec![
        json!(brick.number),
        json!(brick.state.to_string()),
        json!(brick.held_groups),
        json!(brick.wanted_groups),
        json!(brick.alone_groups),
        json!(brick.size_bytes.map(readable)),
        json!(brick.free_bytes.map(readable)),
        json!(brick.dir),
    ]
}

/// A length for people, in the largest unit of which there is one.
fn readable(len_bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut unit, mut scale) = (0, 1_u64);
    while unit + 1 < UNITS.len() && len_bytes / scale >= 1024 {
        unit += 1;
        scale *= 1024;
    }
    match unit {
        0 => format!("{len_bytes} B"),
        _ => format!("{:.1} {}", len_bytes as f64 / scale as f64, UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use fsstore::bricks::plan::MAX_COPIES;

    use super::readable;
    use crate::config::MAX_REPLICAS;

    #[test]
    fn settings_may_ask_for_as_many_copies_as_there_may_be() {
        assert_eq!(MAX_REPLICAS, MAX_COPIES);
    }

    #[test]
    fn lengths_are_readable() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1 << 40, "1.0 TiB"),
            (u64::MAX, "16384.0 PiB"),
        ];
        for (len_bytes, text) in cases {
            assert_eq!(readable(len_bytes), text);
        }
    }
}
