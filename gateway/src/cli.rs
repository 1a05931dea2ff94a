//! The command line: what `portico` can be asked, and how it answers people and scripts.

mod brick;
mod bucket;
mod control;
mod doctor;
mod index;
mod layout;
mod meta;
mod mount;
mod print;
mod serve;
mod user;
mod volume;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "portico",
    version,
    about = "S3 over a tree of plain files",
    long_about = "Portico serves a directory tree over S3. An object is a plain file: \
                  DIR/main/BUCKET/KEY.",
    after_help = EXAMPLES,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  portico serve ./data                          serve ./data on 127.0.0.1:7480
  portico serve ./data --listen 0.0.0.0:443 --tls-cert c.pem --tls-key k.pem
  portico mount ./data /mnt                     see the buckets as files
  portico user add alice --dir ./data           make a user and its first key
  portico key add alice --ttl 1h --dir ./data   make a key that ends in an hour
  portico bucket ls --dir ./data --json         list buckets, for a script
  portico serve --shared /mnt/tree              one of several gateways on a shared file system
  portico doctor --shared /mnt/a /mnt/b         whether that file system is fit for it
  portico meta ./data/main/photos/cat.jpg       what portico knows of a file

Every option of `serve` is also a key of the configuration file and a variable PORTICO_…;
a flag goes before a variable, a variable before the file. `portico serve --help` lists them.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a directory tree over S3
    Serve(Box<serve::ServeArgs>),
    /// Mount a tree, or a bucket of it, as files
    Mount(Box<mount::MountArgs>),
    /// Add, list and remove users
    #[command(subcommand)]
    User(user::UserCommand),
    /// Add and remove access keys, temporary ones too
    #[command(subcommand)]
    Key(user::KeyCommand),
    /// List buckets, or look at one
    #[command(subcommand)]
    Bucket(bucket::BucketCommand),
    /// Check the listing index against the tree, or build it anew
    #[command(subcommand)]
    Index(index::IndexCommand),
    /// Show what portico knows of a file
    Meta(meta::MetaArgs),
    /// Measure whether several gateways may share a file system
    Doctor(doctor::DoctorArgs),
    /// Make a volume of several bricks, or look at it
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    /// Add, drain, replace and remove bricks, or list them
    #[command(subcommand)]
    Brick(brick::BrickCommand),
    /// Show what lacks copies: a volume heals by itself
    Heal(brick::HealArgs),
    /// Move what is not where it should be, or pause that
    #[command(subcommand)]
    Rebalance(brick::RebalanceCommand),
    /// Read everything again to find rot, or pause that
    #[command(subcommand)]
    Scrub(brick::ScrubCommand),
}

/// Which tree a command is about.
#[derive(Debug, Args)]
struct TreeArgs {
    /// The directory given to `portico serve`
    #[arg(long, value_name = "DIR", env = "PORTICO_DIR")]
    dir: Option<PathBuf>,
    /// A configuration file that names it
    #[arg(long, value_name = "FILE", env = "PORTICO_CONFIG")]
    config: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl TreeArgs {
    /// The tree, and what the configuration file says of it.
    fn resolve(&self) -> Result<(layout::Layout, Config), CommandError> {
        let config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        let dir = self.dir.as_ref().or(config.dir.as_ref()).ok_or_else(|| {
            CommandError::new("which tree? give --dir DIR, PORTICO_DIR, or --config FILE")
        })?;
        Ok((layout::Layout::existing(dir)?, config))
    }
}

/// Why a command failed: a sentence for people, with its causes.
#[derive(Debug, PartialEq)]
struct CommandError {
    text: String,
}

impl CommandError {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }
}

/// An error with all its causes, as one line.
impl<E: Error> From<E> for CommandError {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let words = error.to_string();
            if !text.contains(&words) {
                text.push_str(": ");
                text.push_str(&words);
            }
            cause = error.source();
        }
        Self { text }
    }
}

/// Runs the command line of this process. Exit codes: 0 done, 1 failed, 2 not understood; as
/// `mount.portico` those of mount(8), 32 for failed.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if mount::helper::is_called(words.next().as_deref()) {
        let outcome = match mount::helper::parse(words) {
            Ok(Some(args)) => mount::run_for_mount_8(args),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        return report(outcome, ExitCode::from(MOUNT_FAILED));
    }
    report(run(Cli::parse().command), ExitCode::FAILURE)
}

/// What mount(8) takes for a failed mount. Source: mount(8), EXIT STATUS.
const MOUNT_FAILED: u8 = 32;

fn run(command: Command) -> Result<(), CommandError> {
    match command {
        Command::Serve(args) => serve::run(*args),
        Command::Mount(args) => mount::run(*args),
        Command::User(command) => user::run_user(command),
        Command::Key(command) => user::run_key(command),
        Command::Bucket(command) => bucket::run(command),
        Command::Index(command) => index::run(command),
        Command::Meta(args) => meta::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Volume(command) => volume::run(command),
        Command::Brick(command) => brick::run(command),
        Command::Heal(args) => brick::run_heal(&args),
        Command::Rebalance(command) => brick::run_rebalance(&command),
        Command::Scrub(command) => brick::run_scrub(&command),
    }
}

fn report(outcome: Result<(), CommandError>, failed: ExitCode) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portico: {}", error.text);
            failed
        }
    }
}

/// Runs a future of a short command to its end.
fn block_on<F: Future>(future: F) -> Result<F::Output, CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_for_scripts_has_json() {
        fn check(command: &clap::Command) {
            let leaves = command.get_subcommands().count() == 0;
            if leaves && command.get_name() != "serve" {
                assert!(
                    command.get_arguments().any(|arg| arg.get_id() == "json"),
                    "{} has no --json",
                    command.get_name()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn causes_are_told_once() {
        let inner = std::io::Error::other("inner");
        let error = crate::config::ConfigError::Read {
            path: "x.toml".into(),
            source: inner,
        };
        assert_eq!(CommandError::from(error).text, "cannot read x.toml: inner");
    }
}
