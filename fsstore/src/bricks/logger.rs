//! A brick's logging thread: makes records and the files staged for them durable, many groups by
//! one sync. Where the disk fails it says so, and looks now and then whether the disk is back.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use placement::group::GroupId;
use placement::replica::{OpId, Position, Record, Session};

use super::driver::Input;
use super::kinds::Kept;
use super::log::ReplicaLog;
use super::member::{CopyError, Member};
use super::shared::is_full;
use crate::brick::commit::SYNC_EVERYTHING_FROM;
use crate::brick::disk::{Disk, DiskFile};
use crate::error::{Result, StoreError};

/// Most jobs that share a sync.
const MAX_BATCH: usize = 512;
/// Between two looks whether a failed disk is back.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// The same where it failed again soon after it was back, at most.
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(300);
/// Between two looks whether there is room.
const ROOM_INTERVAL: Duration = Duration::from_millis(200);
const PROBE_LEN_BYTES: usize = 4096;

/// Something to be written down.
pub enum LogJob {
    /// Records after `keep`, with the files staged for them.
    Persist {
        group: GroupId,
        life: u64,
        ticket: u64,
        keep: u64,
        records: Vec<Arc<Record<Kept>>>,
        /// Those whose bytes nobody needs any more.
        lacking: Vec<OpId>,
    },
    /// A log begun anew above `base`; the tree is not whole.
    Rebase {
        group: GroupId,
        life: u64,
        ticket: u64,
        base: Position,
    },
    /// What may be forgotten.
    Trim { group: GroupId, base: Position },
    /// What the tree has durably: groups, lives of their copies, numbers.
    Kept(Vec<(GroupId, u64, u64)>),
    /// The tree is whole, durably.
    Whole {
        group: GroupId,
        life: u64,
        session: Session,
        seq: u64,
    },
    /// What the log has of a group is asked for, by a copy that begins again.
    Again(GroupId),
    /// The brick failed elsewhere: its disk is looked at now and then until it takes bytes.
    Probe,
    /// A brick that was back has a new life: what came before this was asked of the old one.
    Began,
}

/// What became durable together.
#[derive(Debug, Default)]
pub struct Logged {
    /// Tickets. As below, after the group the life of the copy that asked.
    pub persisted: Vec<(GroupId, u64, u64)>,
    /// Checkpoints.
    pub kept: Vec<(GroupId, u64, u64)>,
    /// Trees that are whole.
    pub whole: Vec<(GroupId, u64, Session)>,
    /// How many jobs that was.
    pub jobs: usize,
}

/// The members of a volume, as all its parts see them.
pub type Members<D> = Arc<RwLock<Vec<Arc<Member<D>>>>>;

struct Logger<D: Disk> {
    member: Arc<Member<D>>,
    log: ReplicaLog<D>,
    groups: u32,
    out: Sender<Input<D>>,
    /// How long a failed disk is left alone, and when it last came back.
    pause: Duration,
    revived: Option<Instant>,
    /// Copies whose records could not be logged, by their lives: nothing more is of them.
    stuck: HashMap<GroupId, u64>,
    /// What came while it waited for room.
    later: VecDeque<LogJob>,
}

/// Starts a brick's thread; it ends when all senders are gone.
pub fn start<D: Disk>(
    member: Arc<Member<D>>,
    log: ReplicaLog<D>,
    groups: u32,
    out: Sender<Input<D>>,
) -> std::io::Result<(Sender<LogJob>, JoinHandle<()>)> {
    let (jobs, queue) = channel();
    let logger = Logger {
        member,
        log,
        groups,
        out,
        pause: PROBE_INTERVAL,
        revived: None,
        stuck: HashMap::new(),
        later: VecDeque::new(),
    };
    let thread = std::thread::Builder::new()
        .name(format!("log {}", logger.member.id.0))
        .spawn(move || logger.run(&queue))?;
    Ok((jobs, thread))
}

impl<D: Disk> Logger<D> {
    fn run(mut self, queue: &Receiver<LogJob>) {
        while let Some(first) = self.next(queue) {
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH
                && let Some(job) = self.later.pop_front().or_else(|| queue.try_recv().ok())
            {
                batch.push(job);
            }
            let jobs = batch.len();
            let is_to_probe = batch.iter().any(|job| matches!(job, LogJob::Probe));
            match self.write(batch, queue) {
                Ok(mut logged) => {
                    logged.jobs = jobs;
                    let brick = self.member.id;
                    // Nobody listens where the volume is being closed.
                    let _ = self.out.send(Input::Logged { brick, logged });
                    if is_to_probe && !self.wait_for_disk(queue) {
                        return;
                    }
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
        let _ = self.out.send(Input::LogFailed { brick, error });
    }

    fn next(&mut self, queue: &Receiver<LogJob>) -> Option<LogJob> {
        self.later.pop_front().or_else(|| queue.recv().ok())
    }

    /// Does something until there is room for it, or the brick is taken out. Nothing that is
    /// waited for with it is told meanwhile; what was told stands, and is read.
    fn once_there_is_room<T>(
        &mut self,
        queue: &Receiver<LogJob>,
        mut act: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let mut is_told = false;
        loop {
            let error = match act(self) {
                Err(error) if is_full(&error) => error,
                other => return other,
            };
            if !std::mem::replace(&mut is_told, true) {
                let brick = self.member.id;
                let _ = self.out.send(Input::Full { brick, error });
            }
            match queue.recv_timeout(ROOM_INTERVAL) {
                Ok(LogJob::Probe) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(StoreError::NoSpace);
                }
                Ok(job) => self.later.push_back(job),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn write(&mut self, batch: Vec<LogJob>, queue: &Receiver<LogJob>) -> Result<Logged> {
        let mut logged = Logged::default();
        let (mut files, mut is_due) = (Vec::new(), false);
        for job in batch {
            is_due |= !matches!(
                job,
                LogJob::Trim { .. } | LogJob::Again(_) | LogJob::Probe | LogJob::Began
            );
            match job {
                LogJob::Persist {
                    group,
                    life,
                    ticket,
                    keep,
                    records,
                    lacking,
                } => match self
                    .once_there_is_room(queue, |it| it.prepare(group, life, &records, &lacking))?
                {
                    Some(prepared) => {
                        files.extend(prepared);
                        self.log.append(group, keep, &records)?;
                        logged.persisted.push((group, life, ticket));
                    }
                    None => continue,
                },
                LogJob::Rebase {
                    group,
                    life,
                    ticket,
                    base,
                } => {
                    if self.stuck.get(&group) == Some(&life) {
                        continue;
                    }
                    self.log.rebase(group, base)?;
                    logged.persisted.push((group, life, ticket));
                }
                LogJob::Trim { group, base } => self.log.trim(group, base),
                LogJob::Kept(mut upto) => {
                    upto.retain(|(group, life, _)| self.stuck.get(group) != Some(life));
                    let marks = upto.iter().map(|(group, _, seq)| (*group, *seq));
                    self.log.note_kept(&marks.collect::<Vec<_>>())?;
                    logged.kept.extend(upto);
                }
                LogJob::Whole {
                    group,
                    life,
                    session,
                    seq,
                } => {
                    if self.stuck.get(&group) == Some(&life) {
                        continue;
                    }
                    self.log.note_whole(group, seq)?;
                    logged.whole.push((group, life, session));
                }
                LogJob::Again(group) => {
                    let (brick, stored) = (self.member.id, self.log.stored(group));
                    let _ = self.out.send(Input::Again {
                        brick,
                        group,
                        stored,
                    });
                }
                LogJob::Probe | LogJob::Began => {}
            }
        }
        if is_due {
            self.once_there_is_room(queue, |it| it.log.write())?;
            self.sync(&files)?;
            match self.log.compact_if_long() {
                // It stays long until there is room; what was asked is durable.
                Err(StoreError::NoSpace | StoreError::QuotaExceeded) => {}
                other => other?,
            }
        }
        Ok(logged)
    }

    /// The files staged for records, ready to be synced; none where a copy has to begin again,
    /// since one is not there: then none of its records count any more.
    fn prepare(
        &mut self,
        group: GroupId,
        life: u64,
        records: &[Arc<Record<Kept>>],
        lacking: &[OpId],
    ) -> Result<Option<Vec<Arc<D::File>>>> {
        if self.stuck.get(&group) == Some(&life) {
            return Ok(None);
        }
        let mut files = Vec::new();
        for record in records {
            match self.member.prepare(record, lacking.contains(&record.op)) {
                Ok(file) => files.extend(file),
                Err(CopyError::Target(error)) => return Err(error),
                Err(CopyError::Source(error)) => {
                    self.stuck.insert(group, life);
                    let brick = self.member.id;
                    let _ = self.out.send(Input::Spoiled {
                        brick,
                        life,
                        group,
                        error,
                    });
                    return Ok(None);
                }
            }
        }
        Ok(Some(files))
    }

    fn sync(&mut self, files: &[Arc<D::File>]) -> Result<()> {
        let fail = |e| StoreError::from_io("make a change durable", e);
        let disk = Arc::clone(self.member.inner.disk());
        if files.len() >= SYNC_EVERYTHING_FROM && disk.syncs_everything() {
            disk.sync_everything().map_err(fail)?;
            self.log.synced();
            return Ok(());
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
        // One that fails again and again is left alone for longer each time.
        let is_again = self.revived.is_some_and(|at| at.elapsed() < 4 * self.pause);
        self.pause = match is_again {
            true => (2 * self.pause).min(MAX_PROBE_INTERVAL),
            false => PROBE_INTERVAL,
        };
        self.later.clear();
        loop {
            let until = Instant::now() + self.pause;
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
            self.revived = Some(Instant::now());
            let groups = (0..self.groups).map(GroupId);
            let stored = groups.map(|group| self.log.stored(group)).collect();
            let brick = self.member.id;
            let _ = self.out.send(Input::Revived { brick, stored });
            // What was asked of the life that is over.
            loop {
                match queue.recv() {
                    Ok(LogJob::Began) => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        }
    }

    fn reopen(&mut self) -> Result<()> {
        let fail = |e| StoreError::from_io("try whether the disk is back", e);
        let (disk, dir) = (Arc::clone(self.member.inner.disk()), self.member.dir());
        let probe = disk.open_own(dir, "probe", true).map_err(fail)?;
        probe.write_at(0, &[0; PROBE_LEN_BYTES]).map_err(fail)?;
        probe.sync().map_err(fail)?;
        disk.unlink(dir, "probe").map_err(fail)?;
        // What was not durable may be nowhere by now but in memory.
        for op in self.log.keep_confirmed()? {
            self.member.drop_staged(op);
        }
        Ok(())
    }
}
