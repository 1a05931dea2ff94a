//! A brick, as the driver sees it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Instant;

use placement::replica::Session;

use super::super::logger::LogJob;
use super::super::member::Member;
use super::Mark;
use crate::brick::disk::Disk;

/// See the module.
pub(in crate::bricks) struct Seat<D: Disk> {
    pub(super) member: Arc<Member<D>>,
    pub(super) jobs: Sender<LogJob>,
    pub(super) thread: Option<JoinHandle<()>>,
    /// The number of the latest life of anything on it.
    pub(super) life: u64,
    /// Applied since the last checkpoint: by group the last record.
    pub(super) dirty: HashMap<u32, u64>,
    pub(super) changes: usize,
    pub(super) checkpointed: Instant,
    pub(super) is_checkpointing: bool,
    /// A sync of its tree failed: no later one says that what came before is durable.
    pub(super) is_poisoned: bool,
    /// Jobs that its logging thread has not done, and since when.
    pub(super) jobs_left: usize,
    pub(super) jobs_since: Instant,
    /// When it was last said that it hangs and stays.
    pub(super) hung_told: Option<Instant>,
    /// Learners' trees that are to be synced and marked whole; whether some are being.
    pub(super) settling: Vec<(Mark, Session)>,
    pub(super) is_settling: bool,
}

impl<D: Disk> Seat<D> {
    pub fn new(
        member: Arc<Member<D>>,
        jobs: Sender<LogJob>,
        thread: JoinHandle<()>,
        life: u64,
    ) -> Self {
        Self {
            member,
            jobs,
            thread: Some(thread),
            life,
            dirty: HashMap::new(),
            changes: 0,
            checkpointed: Instant::now(),
            is_checkpointing: false,
            is_poisoned: false,
            jobs_left: 0,
            jobs_since: Instant::now(),
            hung_told: None,
            settling: Vec::new(),
            is_settling: false,
        }
    }
}
