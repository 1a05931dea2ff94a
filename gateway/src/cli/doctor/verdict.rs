//! What the doctor found, kept in the tree as `DIR/.portico/doctor.json`.

use std::io::ErrorKind;
use std::path::PathBuf;

use fsstore::clock::Clock;
use serde::{Deserialize, Serialize};

use super::mounted::Mounted;
use super::probe::{Row, Standing};
use crate::cli::CommandError;
use crate::cli::layout::Layout;

const NAME: &str = "doctor.json";

/// The verdict on a tree's file system.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Whether several gateways may serve the tree.
    pub(crate) passed: bool,
    /// Whether a directory's times tell at once of every change in it.
    pub(crate) trusts_dir_times: bool,
    /// When it was found, in seconds since 1970.
    pub(crate) at: i64,
    /// Rows that failed.
    pub(crate) failed: Vec<String>,
    /// Rows that are limits.
    pub(crate) limited: Vec<String>,
    /// How the tree was mounted where it was found.
    #[serde(default)]
    pub(crate) mounts: Vec<Mounted>,
}

impl Verdict {
    /// The verdict that follows from rows.
    pub(super) fn of(rows: &[Row], mounts: Vec<Mounted>, clock: &Clock) -> Self {
        let named = |standing| {
            let rows = rows.iter().filter(|row| row.standing == standing);
            rows.map(|row| row.name.to_owned()).collect::<Vec<_>>()
        };
        let failed = named(Standing::Failed);
        Self {
            passed: failed.is_empty(),
            trusts_dir_times: rows
                .iter()
                .any(|row| row.name == super::names::DIR_TIMES && row.standing == Standing::Passed),
            at: clock.now().secs(),
            failed,
            limited: named(Standing::Limited),
            mounts,
        }
    }

    /// The verdict noted in a tree; none where there is none that can be read.
    pub(crate) fn read(layout: &Layout) -> Option<Self> {
        let text = std::fs::read(path(layout)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Notes it in a tree.
    pub(super) fn note(&self, layout: &Layout) -> Result<(), CommandError> {
        let failed = |error: std::io::Error| {
            CommandError::new(format!("cannot note the verdict in the tree: {error}"))
        };
        // Never half of it: the old one goes first.
        match std::fs::remove_file(path(layout)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(path(layout), text).map_err(failed)
    }
}

fn path(layout: &Layout) -> PathBuf {
    layout.state().join(NAME)
}
