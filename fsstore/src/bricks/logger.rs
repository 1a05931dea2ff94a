//! A brick's logging thread: makes records and the files staged for them durable, many groups by
//! one sync. Where the disk fails it says so, and looks now and then whether the disk is back.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use placement::group::GroupId;
use placement::replica::{Position, Record, Session};

use super::driver::Input;
use super::kinds::Kept;
use super::log::ReplicaLog;
use super::member::Member;
use crate::brick::commit::SYNC_EVERYTHING_FROM;
use crate::brick::disk::{Disk, DiskFile};
use crate::error::{Result, StoreError};

/// Most jobs that share a sync.
const MAX_BATCH: usize = 512;
/// Between two looks whether a failed disk is back.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const PROBE_LEN_BYTES: usize = 4096;

/// Something to be written down.
pub enum LogJob {
    /// Records after `keep`, with the files staged for them.
    Persist {
        group: GroupId,
        ticket: u64,
        keep: u64,
        records: Vec<Arc<Record<Kept>>>,
    },
    /// A log begun anew above `base`; the tree is not whole.
    Rebase {
        group: GroupId,
        ticket: u64,
        base: Position,
    },
    /// What may be forgotten.
    Trim { group: GroupId, base: Position },
    /// What the tree has durably.
    Kept(Vec<(GroupId, u64)>),
    /// The tree is whole, durably.
    Whole {
        group: GroupId,
        session: Session,
        seq: u64,
    },
}

/// What became durable together.
#[derive(Debug, Default)]
pub struct Logged {
    /// Tickets.
    pub persisted: Vec<(GroupId, u64)>,
    /// Checkpoints.
    pub kept: Vec<(GroupId, u64)>,
    /// Trees that are whole.
    pub whole: Vec<(GroupId, Session)>,
}

/// The members of a volume, as all its parts see them.
pub type Members<D> = Arc<RwLock<Vec<Arc<Member<D>>>>>;

struct Logger<D: Disk> {
    member: Arc<Member<D>>,
    members: Members<D>,
    log: ReplicaLog<D>,
    groups: u32,
    out: Sender<Input<D>>,
}

/// Starts a brick's thread; it ends when all senders are gone.
pub fn start<D: Disk>(
    member: Arc<Member<D>>,
    members: Members<D>,
    log: ReplicaLog<D>,
    groups: u32,
    out: Sender<Input<D>>,
) -> std::io::Result<(Sender<LogJob>, JoinHandle<()>)> {
    let (jobs, queue) = channel();
    let logger = Logger {
        member,
        members,
        log,
        groups,
        out,
    };
    let thread = std::thread::Builder::new()
        .name(format!("log {}", logger.member.id.0))
        .spawn(move || logger.run(&queue))?;
    Ok((jobs, thread))
}

impl<D: Disk> Logger<D> {
    fn run(mut self, queue: &Receiver<LogJob>) {
        while let Ok(first) = queue.recv() {
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH
                && let Ok(job) = queue.try_recv()
            {
                batch.push(job);
            }
            match self.write(batch) {
                Ok(logged) => {
                    let brick = self.member.id;
                    // Nobody listens where the volume is being closed.
                    let _ = self.out.send(Input::Logged { brick, logged });
                }
                Err(error) => {
                    self.tell_failed(error);
                    if !self.wait_for_disk(queue) {
                        return;
                    }
                }
            }
        }
    }

    fn tell_failed(&self, error: StoreError) {
        let brick = self.member.id;
        let _ = self.out.send(Input::Failed { brick, error });
    }

    fn write(&mut self, batch: Vec<LogJob>) -> Result<Logged> {
        let mut logged = Logged::default();
        let (mut files, mut is_due) = (Vec::new(), false);
        for job in batch {
            is_due |= !matches!(job, LogJob::Trim { .. });
            match job {
                LogJob::Persist {
                    group,
                    ticket,
                    keep,
                    records,
                } => {
                    for record in &records {
                        let members = Arc::clone(&self.members);
                        let members = members.read().unwrap_or_else(PoisonError::into_inner);
                        files.extend(self.member.prepare(record, &members)?);
                    }
                    self.log.append(group, keep, &records)?;
                    logged.persisted.push((group, ticket));
                }
                LogJob::Rebase {
                    group,
                    ticket,
                    base,
                } => {
                    self.log.rebase(group, base)?;
                    logged.persisted.push((group, ticket));
                }
                LogJob::Trim { group, base } => self.log.trim(group, base),
                LogJob::Kept(upto) => {
                    self.log.note_kept(&upto)?;
                    logged.kept.extend(upto);
                }
                LogJob::Whole {
                    group,
                    session,
                    seq,
                } => {
                    self.log.note_whole(group, seq)?;
                    logged.whole.push((group, session));
                }
            }
        }
        if is_due {
            self.log.write()?;
            self.sync(&files)?;
            self.log.compact_if_long()?;
        }
        Ok(logged)
    }

    fn sync(&self, files: &[Arc<D::File>]) -> Result<()> {
        let fail = |e| StoreError::from_io("make a change durable", e);
        let disk = self.member.inner.disk();
        if files.len() >= SYNC_EVERYTHING_FROM && disk.syncs_everything() {
            return disk.sync_everything().map_err(fail);
        }
        for file in files {
            file.sync().map_err(fail)?;
        }
        if !files.is_empty() {
            disk.sync_dir(self.member.dir()).map_err(fail)?;
        }
        self.log.sync()
    }

    /// Waits until the disk takes bytes again, forgetting what it is asked meanwhile: whoever
    /// asked knows that it failed. False where the volume was closed.
    fn wait_for_disk(&mut self, queue: &Receiver<LogJob>) -> bool {
        loop {
            let until = Instant::now() + PROBE_INTERVAL;
            loop {
                let left = until.saturating_duration_since(Instant::now());
                match queue.recv_timeout(left) {
                    Ok(_) => {}
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return false,
                }
            }
            if let Err(e) = self.reopen() {
                tracing::debug!(brick = self.member.id.0, "the disk is not back: {e}");
                continue;
            }
            let groups = (0..self.groups).map(GroupId);
            let stored = groups.map(|group| self.log.stored(group)).collect();
            let brick = self.member.id;
            let _ = self.out.send(Input::Revived { brick, stored });
            // What was asked of the life that is over; nothing is asked of the next before it
            // has been told.
            while queue.try_recv().is_ok() {}
            return true;
        }
    }

    fn reopen(&mut self) -> Result<()> {
        let fail = |e| StoreError::from_io("try whether the disk is back", e);
        let (disk, dir) = (Arc::clone(self.member.inner.disk()), self.member.dir());
        let probe = disk.open_own(dir, "probe", true).map_err(fail)?;
        probe.write_at(0, &[0; PROBE_LEN_BYTES]).map_err(fail)?;
        probe.sync().map_err(fail)?;
        disk.unlink(dir, "probe").map_err(fail)?;
        self.log = ReplicaLog::open(disk, Arc::clone(dir), self.groups, false)?;
        Ok(())
    }
}
