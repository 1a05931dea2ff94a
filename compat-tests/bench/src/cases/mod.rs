//! The cases. In each the subjects take turns round by round, so that what the machine does
//! meanwhile falls on all of them.

pub mod bricks;
pub mod get;
pub mod list;
pub mod memory;
pub mod mount;
pub mod multipart;
pub mod put;

use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
use crate::load::Block;
use crate::nginx::Nginx;
use crate::peer::Server;
use crate::report::{Report, Row, Unit};

/// The bucket that all cases but the listings use.
pub const BUCKET: &str = "bench";
/// Connections of the cases with small objects.
pub const CONNECTIONS: usize = 32;
/// Length of a small object.
pub const SMALL_LEN_BYTES: usize = 4 * 1024;

/// How much of everything.
#[derive(Debug, Clone)]
pub struct Scale {
    /// Rounds of each case.
    pub rounds: usize,
    /// Length of one subject's stretch in one round.
    pub block: Duration,
    /// Length of a large object.
    pub large_len_bytes: usize,
    /// Parts of the completed upload, 8 MiB each.
    pub parts: usize,
    /// Length of each of the 32 uploads whose memory is measured.
    pub upload_len_bytes: usize,
    /// Objects of the large flat bucket.
    pub list_objects: usize,
    /// Length of the file that is read and written through the mount.
    pub mount_file_len_bytes: usize,
}

impl Scale {
    /// What docs/performance.md shows.
    pub fn full() -> Self {
        Self {
            rounds: 5,
            block: Duration::from_secs(3),
            large_len_bytes: 64 << 20,
            parts: 128,
            upload_len_bytes: 256 << 20,
            list_objects: 1_000_000,
            mount_file_len_bytes: 1 << 30,
        }
    }

    /// A look in about a minute; its figures are not for publication.
    pub fn quick() -> Self {
        Self {
            rounds: 2,
            block: Duration::from_millis(700),
            large_len_bytes: 64 << 20,
            parts: 16,
            upload_len_bytes: 16 << 20,
            list_objects: 50_000,
            mount_file_len_bytes: 128 << 20,
        }
    }
}

/// What the cases share.
#[derive(Debug)]
pub struct Bench {
    /// How much.
    pub scale: Scale,
    /// Everything written goes below here.
    pub work_dir: PathBuf,
    /// Our binary.
    pub portico_binary: PathBuf,
    /// The peer's binary, where there is one.
    pub peer_binary: Option<PathBuf>,
    /// libfuse's passthrough_hp, where there is one.
    pub anchor_binary: Option<PathBuf>,
    /// Our server first, then the peer if there is one.
    pub servers: Vec<Server>,
    /// nginx over our server's files, where it is installed.
    pub nginx: Option<Nginx>,
    /// What was found.
    pub report: Report,
}

/// A subject's name and what runs one stretch of it; the argument is the round.
pub type Subject<'a> = (&'static str, Box<dyn FnMut(usize) -> Result<Block> + 'a>);

/// Runs the subjects in turns and reports a row for each.
pub fn interleave(
    report: &mut Report,
    case: &str,
    unit: Unit,
    rounds: usize,
    mut subjects: Vec<Subject<'_>>,
) -> Result<()> {
    let count = subjects.len();
    let mut blocks = vec![Vec::with_capacity(rounds); count];
    for round in 0..rounds {
        for turn in 0..count {
            let subject = (turn + round) % count;
            let (name, run) = &mut subjects[subject];
            let block = run(round).map_err(|error| format!("{case}, {name}: {error}"))?;
            blocks[subject].push(block);
        }
    }
    for ((name, _), blocks) in subjects.iter().zip(&blocks) {
        report.add(Row::new(case, name, unit, blocks));
    }
    Ok(())
}

/// Bytes that do not compress: xorshift64.
pub fn noise(len_bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len_bytes + 8);
    while bytes.len() < len_bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len_bytes);
    bytes
}

/// The text between two marks in an XML answer.
pub fn between<'a>(text: &'a str, before: &str, after: &str) -> Result<&'a str> {
    text.split_once(before)
        .and_then(|(_, rest)| rest.split_once(after))
        .map(|(found, _)| found)
        .ok_or_else(|| format!("no {before} in {text}").into())
}
