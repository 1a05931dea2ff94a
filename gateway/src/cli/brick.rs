//! `portico brick`, `heal`, `rebalance` and `scrub`: what the server of a volume of several
//! bricks is asked to do with them. What is asked for is in the volume's configuration: the server
//! goes on with it after any restart, whatever becomes of the command.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use fsstore::bricks::scrubber::{BrickScrub, ScrubStatus};
use fsstore::bricks::status::{BrickState, VolumeStatus};
use fsstore::object::Timestamp;
use serde_json::json;

use super::CommandError;
use super::control::desk::{self, ScrubAsk, VolumeAsk};
use super::layout::Layout;
use super::print::Answer;
use super::user::rfc3339;
use super::volume::{self, OwnArgs, bricks, status};

/// `portico brick …`
#[derive(Debug, Subcommand)]
pub(super) enum BrickCommand {
    /// List the bricks of a volume, with what each is and holds
    Status(LookArgs),
    /// Make an empty directory a brick; it gets its share of what the others hold
    Add(AddArgs),
    /// Move everything from a brick to the others, so that it can be removed
    Drain(DrainArgs),
    /// Take a brick out that holds nothing which counts: a drained one, or one that failed
    Remove(NumberArgs),
    /// Put an empty directory in the place of a brick: it gets what that one holds, or held
    Replace(ReplaceArgs),
}

/// `portico heal`: a volume heals by itself, as soon as it can.
#[derive(Debug, Args)]
pub(super) struct HealArgs {
    /// What to do; there is nothing else
    #[arg(value_name = "status")]
    word: Option<HealWord>,
    #[command(flatten)]
    own: OwnArgs,
}

/// What `portico heal` can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum HealWord {
    /// Show what lacks copies
    Status,
}

/// `portico rebalance …`
#[derive(Debug, Subcommand)]
pub(super) enum RebalanceCommand {
    /// Move what is not where it should be; what a pause held up goes on
    Start(LookArgs),
    /// Move nothing that has all its copies; what lacks copies is healed nevertheless
    Pause(LookArgs),
    /// Show what is to be moved
    Status(LookArgs),
}

/// `portico scrub …`
#[derive(Debug, Subcommand)]
pub(super) enum ScrubCommand {
    /// Begin to read every copy of everything, or go on after a pause
    Start(LookArgs),
    /// Read no more until it is started again
    Pause(LookArgs),
    /// Show how far it is, and what is not as it was written
    Status(LookArgs),
}

/// A command about a volume as a whole.
#[derive(Debug, Args)]
pub(super) struct LookArgs {
    #[command(flatten)]
    own: OwnArgs,
}

/// `portico brick add`
#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// The directory: empty, or not there yet
    #[arg(value_name = "BRICK")]
    brick: PathBuf,
    #[command(flatten)]
    own: OwnArgs,
}

/// `portico brick drain`
#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// The brick's number or path
    #[arg(value_name = "BRICK")]
    brick: String,
    /// Take it back: the brick gets its share again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    own: OwnArgs,
}

/// `portico brick remove`
#[derive(Debug, Args)]
pub(super) struct NumberArgs {
    /// The brick's number or path
    #[arg(value_name = "BRICK")]
    brick: String,
    #[command(flatten)]
    own: OwnArgs,
}

/// `portico brick replace`
#[derive(Debug, Args)]
pub(super) struct ReplaceArgs {
    /// The number or path of the brick that goes
    #[arg(value_name = "OLD")]
    brick: String,
    /// The directory that comes: empty, or not there yet
    #[arg(value_name = "NEW")]
    new: PathBuf,
    #[command(flatten)]
    own: OwnArgs,
}

/// Runs `portico brick …`.
pub(super) fn run(command: BrickCommand) -> Result<(), CommandError> {
    let (own, json, ask) = match command {
        BrickCommand::Status(args) => {
            let status = status(&args.own.existing()?)?;
            return match args.own.json() {
                true => printed(&json!(status.bricks)),
                false => bricks(&status).print(false),
            };
        }
        BrickCommand::Add(args) => {
            let dir = std::path::absolute(&args.brick)?;
            (
                args.own.existing()?,
                args.own.json(),
                VolumeAsk::Add { dir },
            )
        }
        BrickCommand::Drain(args) => {
            let own = args.own.existing()?;
            let ask = VolumeAsk::Drain {
                brick: number(&status(&own)?, &args.brick)?,
                is_undone: args.undo,
            };
            (own, args.own.json(), ask)
        }
        BrickCommand::Remove(args) => {
            let own = args.own.existing()?;
            let brick = number(&status(&own)?, &args.brick)?;
            (own, args.own.json(), VolumeAsk::Remove { brick })
        }
        BrickCommand::Replace(args) => {
            let own = args.own.existing()?;
            let ask = VolumeAsk::Replace {
                brick: number(&status(&own)?, &args.brick)?,
                dir: std::path::absolute(&args.new)?,
            };
            (own, args.own.json(), ask)
        }
    };
    show(&own, json, ask)
}

/// Runs `portico heal`.
pub(super) fn run_heal(args: &HealArgs) -> Result<(), CommandError> {
    let (None | Some(HealWord::Status)) = args.word;
    let status = status(&args.own.existing()?)?;
    let is_healing = |state| matches!(state, BrickState::Healing);
    let healing = status.bricks.iter().filter(|brick| is_healing(brick.state));
    let healing: Vec<u32> = healing.map(|brick| brick.number).collect();
    let gone = |state| matches!(state, BrickState::Failed | BrickState::Missing);
    let gone = status.bricks.iter().filter(|brick| gone(brick.state));
    let gone: Vec<u32> = gone.map(|brick| brick.number).collect();
    Answer::One(vec![
        ("groups", json!(status.groups)),
        ("short_groups", json!(status.short_groups)),
        ("unreachable_groups", json!(status.unreachable_groups)),
        ("healing_bricks", json!(healing)),
        ("gone_bricks", json!(gone)),
    ])
    .print(args.own.json())
}

/// Runs `portico rebalance …`.
pub(super) fn run_rebalance(command: &RebalanceCommand) -> Result<(), CommandError> {
    let (RebalanceCommand::Start(args)
    | RebalanceCommand::Pause(args)
    | RebalanceCommand::Status(args)) = command;
    let own = args.own.existing()?;
    let is_paused = match command {
        RebalanceCommand::Status(_) => None,
        RebalanceCommand::Start(_) => Some(false),
        RebalanceCommand::Pause(_) => Some(true),
    };
    let status = match is_paused {
        None => status(&own)?,
        Some(is_paused) => asked(&own, VolumeAsk::Rebalance { is_paused })?,
    };
    Answer::One(vec![
        ("is_paused", json!(status.is_rebalance_paused)),
        ("groups", json!(status.groups)),
        ("to_make_groups", json!(status.to_make_groups)),
        ("to_drop_groups", json!(status.to_drop_groups)),
    ])
    .print(args.own.json())
}

/// Runs `portico scrub …`.
pub(super) fn run_scrub(command: &ScrubCommand) -> Result<(), CommandError> {
    let (args, ask) = match command {
        ScrubCommand::Start(args) => (args, ScrubAsk::Start),
        ScrubCommand::Pause(args) => (args, ScrubAsk::Pause),
        ScrubCommand::Status(args) => (args, ScrubAsk::Status),
    };
    let own = args.own.existing()?;
    let mut answer = desk::ask(&own, VolumeAsk::Scrub(ask))?;
    if args.own.json() {
        return printed(&answer);
    }
    let kept = answer["quarantine"].take();
    let object = answer.as_object_mut();
    object.map(|answer| (answer.remove("quarantine"), answer.remove("since_start")));
    let status: ScrubStatus = serde_json::from_value(answer)?;
    Answer::One(vec![
        ("state", json!(status.state)),
        ("begun", json!(time_of(status.begun_s))),
        ("ended", json!(time_of(status.ended_s))),
    ])
    .print(false)?;
    println!();
    Answer::Many {
        columns: &[
            "brick",
            "done",
            "objects",
            "bytes",
            "rotten",
            "mended",
            "changed",
            "unreadable",
            "skipped",
        ],
        rows: status.bricks.iter().map(scrub_row).collect(),
    }
    .print(false)?;
    for named in &status.named {
        let mended = if named.is_mended { ", mended" } else { "" };
        println!(
            "{}: {}/{} on brick {}{mended}",
            named.what, named.bucket, named.key, named.brick
        );
    }
    for kept in kept.as_array().into_iter().flatten() {
        let text = |key: &str| kept[key].as_str().unwrap_or_default().to_owned();
        println!(
            "kept aside: {} ({} {}/{})",
            text("path"),
            text("what"),
            text("bucket"),
            text("key")
        );
    }
    Ok(())
}

/// A time as it is shown; none where there was none.
fn time_of(secs: i64) -> Option<String> {
    (secs > 0).then(|| rfc3339(Timestamp::from_secs(secs)))
}

fn scrub_row(brick: &BrickScrub) -> Vec<serde_json::Value> {
    vec![
        json!(brick.brick),
        json!(brick.is_done),
        json!(brick.objects),
        json!(brick.read_bytes),
        json!(brick.rotten),
        json!(brick.mended),
        json!(brick.changed),
        json!(brick.unreadable),
        json!(brick.skipped),
    ]
}

fn asked(own: &Layout, ask: VolumeAsk) -> Result<VolumeStatus, CommandError> {
    Ok(serde_json::from_value(desk::ask(own, ask)?)?)
}

fn show(own: &Layout, json: bool, ask: VolumeAsk) -> Result<(), CommandError> {
    volume::print(&asked(own, ask)?, json)
}

fn printed(value: &serde_json::Value) -> Result<(), CommandError> {
    println!("{value:#}");
    Ok(())
}

/// The number of a brick that is named by it or by its path. Errors: the volume has none such.
fn number(status: &VolumeStatus, word: &str) -> Result<u32, CommandError> {
    let path = std::path::absolute(word).ok();
    let path = path.map(|path| path.canonicalize().unwrap_or(path));
    let is_named = |brick: &&fsstore::bricks::status::BrickStatus| {
        word.parse() == Ok(brick.number) || path.as_ref() == Some(&brick.dir)
    };
    let found = status
        .bricks
        .iter()
        .find(is_named)
        .map(|brick| brick.number);
    found.ok_or_else(|| {
        let name = &status.name;
        CommandError::new(format!(
            "volume `{name}` has no brick {word}: `portico brick status` lists them"
        ))
    })
}
