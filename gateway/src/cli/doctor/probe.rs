//! Two directories that are one, and what is measured in them.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::CommandError;

/// What a row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// As it must be.
    Passed,
    /// Something is lost, and nothing wrong.
    Limited,
    /// Gateways on it would break their promises.
    Failed,
}

/// One thing measured.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// What.
    pub(super) name: &'static str,
    /// What was seen.
    pub(super) measured: String,
    /// What that means.
    pub(super) standing: Standing,
    /// What a row that did not pass means for the tree.
    pub(super) means: &'static str,
}

impl Row {
    /// For scripts.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "row": self.name,
            "measured": self.measured,
            "verdict": match self.standing {
                Standing::Passed => "passed",
                Standing::Limited => "limited",
                Standing::Failed => "failed",
            },
            "means": self.means,
        })
    }
}

/// How a row is judged.
pub(super) struct Rule {
    pub(super) name: &'static str,
    /// What it is where it does not hold.
    pub(super) else_: Standing,
    pub(super) means: &'static str,
}

impl Rule {
    /// A row that gateways depend on.
    pub(super) const fn needs(name: &'static str, means: &'static str) -> Self {
        Self {
            name,
            else_: Standing::Failed,
            means,
        }
    }

    /// A row that gateways can do without.
    pub(super) const fn wants(name: &'static str, means: &'static str) -> Self {
        Self {
            name,
            else_: Standing::Limited,
            means,
        }
    }

    /// The row, where `count` of `of` went wrong; an error of the system is one that did not hold.
    pub(super) fn counted(&self, what: &str, outcome: io::Result<(u32, u32)>) -> Row {
        match outcome {
            Ok((wrong, of)) => self.judged(wrong == 0, format!("{wrong} of {of} {what}")),
            Err(error) => self.judged(false, error.to_string()),
        }
    }

    /// The row, where something holds or not.
    pub(super) fn judged(&self, holds: bool, measured: String) -> Row {
        Row {
            name: self.name,
            measured,
            standing: match holds {
                true => Standing::Passed,
                false => self.else_,
            },
            means: match holds {
                true => "",
                false => self.means,
            },
        }
    }
}

/// A scratch directory as both mounts show it. Dropping it takes it away.
pub(super) struct Probe {
    pub(super) a: PathBuf,
    pub(super) b: PathBuf,
    pub(super) rounds: u32,
}

impl Probe {
    /// Makes the scratch directory in A and finds it in B. Errors: it is not there, so these are
    /// not one directory.
    pub(super) fn new(a: &Path, b: &Path, rounds: u32) -> Result<Self, CommandError> {
        let name = format!(".portico-doctor-{}", std::process::id());
        let probe = Self {
            a: a.join(&name),
            b: b.join(&name),
            rounds,
        };
        std::fs::create_dir(&probe.a).map_err(|error| {
            CommandError::new(format!("cannot write to {}: {error}", a.display()))
        })?;
        if !probe.b.is_dir() {
            return Err(CommandError::new(format!(
                "{} and {} are not one directory: what is made in the one is not in the other",
                a.display(),
                b.display()
            )));
        }
        Ok(probe)
    }

    /// The mounts by turns: who writes, who reads.
    pub(super) fn sides(&self, round: u32) -> (&Path, &Path) {
        match round % 2 {
            0 => (&self.a, &self.b),
            _ => (&self.b, &self.a),
        }
    }

    /// Counts the rounds in which `try_once` says that it went wrong.
    pub(super) fn count(
        &self,
        rounds: u32,
        mut try_once: impl FnMut(u32) -> io::Result<bool>,
    ) -> io::Result<(u32, u32)> {
        let mut wrong = 0;
        for round in 0..rounds {
            wrong += u32::from(try_once(round)?);
        }
        Ok((wrong, rounds))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.a);
    }
}
