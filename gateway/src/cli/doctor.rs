//! `portico doctor --shared A B`: whether a file system that two hosts mount keeps what gateways
//! on it promise, measured by system calls through both mounts.
//!
//! A row that gateways depend on decides; one that they can do without is a limit, and says what
//! is lost. The verdict is kept in the tree, where `portico serve --shared` looks for it.

mod claims;
mod data;
mod fences;
pub(super) mod mounted;
mod names;
mod probe;
pub(super) mod verdict;

use std::path::PathBuf;

use clap::Args;
use fsstore::clock::Clock;
use serde_json::{Value, json};

use self::mounted::Mounted;
use self::probe::{Probe, Row, Standing};
use self::verdict::Verdict;
use super::CommandError;
use super::layout::Layout;
use super::print::Answer;

/// `portico doctor`
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// One directory as two mounts of one file system show it
    #[arg(long, num_args = 2, value_names = ["A", "B"], required = true)]
    shared: Vec<PathBuf>,
    /// How often each thing is tried
    #[arg(long, value_name = "N", default_value_t = 200)]
    rounds: u32,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// Runs `portico doctor`. Fails where the verdict is that gateways must not share the tree.
pub(super) fn run(args: &DoctorArgs) -> Result<(), CommandError> {
    let [a, b] = args.shared.as_slice() else {
        return Err(CommandError::new("doctor --shared takes two directories"));
    };
    if args.rounds == 0 {
        return Err(CommandError::new("--rounds must be 1 or more"));
    }
    let layout = Layout::create(a)?;
    let rows = examine(a, b, args.rounds)?;
    let mut mounts = vec![Mounted::of(a)?, Mounted::of(b)?];
    mounts.dedup();
    let verdict = Verdict::of(&rows, mounts, &Clock::system());
    verdict.note(&layout)?;
    answer(&rows, &verdict, args.json)?;
    match verdict.passed {
        true => Ok(()),
        false => Err(CommandError::new(
            "gateways must not share this tree: see the rows that failed",
        )),
    }
}

fn examine(
    a: &std::path::Path,
    b: &std::path::Path,
    rounds: u32,
) -> Result<Vec<Row>, CommandError> {
    let probe = Probe::new(a, b, rounds)?;
    let mut rows = Vec::new();
    data::examine(&probe, &mut rows);
    names::examine(&probe, &mut rows);
    claims::examine(&probe, &mut rows);
    fences::examine(&probe, &mut rows);
    Ok(rows)
}

fn answer(rows: &[Row], verdict: &Verdict, as_json: bool) -> Result<(), CommandError> {
    if as_json {
        let rows: Vec<Value> = rows.iter().map(Row::to_json).collect();
        return Answer::One(vec![
            ("passed", json!(verdict.passed)),
            ("trusts_dir_times", json!(verdict.trusts_dir_times)),
            ("rows", json!(rows)),
        ])
        .print(true);
    }
    Answer::Many {
        columns: &["row", "measured", "verdict"],
        rows: rows
            .iter()
            .map(|row| {
                let verdict = match row.standing {
                    Standing::Passed => "passed".to_owned(),
                    Standing::Limited => format!("limited: {}", row.means),
                    Standing::Failed => format!("FAILED: {}", row.means),
                };
                vec![json!(row.name), json!(row.measured), json!(verdict)]
            })
            .collect(),
    }
    .print(false)?;
    let overall = match verdict.passed {
        true => "passed: several gateways may serve this tree",
        false => "FAILED: several gateways must not serve this tree",
    };
    println!("\n{overall}");
    Ok(())
}
