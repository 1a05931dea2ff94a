//! The only publisher: one thread through which every change of names passes, in groups.
//!
//! Jobs act one after another, each holding the turn's lock, which so is every key's lock: what a
//! job looks at stays so until the job ends. A caller who must not wait for the queue takes the
//! same lock on its own thread ([`Committer::act_here`]); such a change is not durable.
//! A group goes through these steps, in this order, and each job waits for the last:
//!
//! 1. intents   the keys about to change are appended to the intent log;
//! 2. sync      the log, and the staged files with their records, are made durable: by one
//!    syncfs(2) for a large group, else file by file;
//! 3. act       each job decides its precondition and publishes (link, rename, unlink, …);
//! 4. index     the changes become visible to listings; the log says, after each job, what ctime
//!    files have now, and then the job waits where the index is far behind;
//! 5. sync      the log and the directories that changed are made durable;
//! 6. tell      those who watch hear of it, where anyone does, from a thread of its own;
//! 7. answer    each job's caller hears of it.
//!
//! A power cut before 3 leaves the old objects, one after 5 the new; between, each name is old or
//! new, and its key is in the log, so that the index learns which. Jobs that need not be
//! durable skip 2 and 5; where the committer *defers*, what they leave unsynced is kept for the
//! next group that is durable, since another log has them until then. Within 3 a job may make its changes so far [durable](Turn::settle)
//! before it takes away what they replace; what is only cleared up waits until after 5
//! ([`Turn::later`]). Where a sync fails, its directories are synced again with the next group,
//! since that group may build on them.
//!
//! Locks: the turn's, which guards names and what is unsynced; the log's own comes after it.
//!
//! Knows nothing of records, requests or SQL.

mod tell;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use self::tell::Teller;
pub use self::turn::Turn;
use self::turn::{Changed, Mode, Unsynced, same_failure, sync_after};
use super::disk::{Disk, DiskFile};
use super::intents::IntentLog;
use super::notices::{Notice, Watchers};
use crate::error::{Result, StoreError};
use crate::files::FilesWatcher;
use crate::name::{BucketName, ObjectKey};

/// Most jobs in one group.
const MAX_GROUP: usize = 256;
/// Most keys whose change stopped half-way that are kept; beyond, the log is kept to its end.
const MAX_OWED: usize = 65_536;
/// Stack of the thread, in bytes: trees of empty directories are looked through in depth.
const STACK_LEN_BYTES: usize = 8 << 20;
/// From this many staged files on, one syncfs(2) is cheaper than an fsync(2) each.
pub const SYNC_EVERYTHING_FROM: usize = 4;

/// What must be so before and after a job acts.
pub struct Terms<D: Disk> {
    /// Whether the answer waits for stable storage.
    pub durable: bool,
    /// A staged file to be made durable before.
    pub file: Option<Arc<D::File>>,
    /// The keys it may change.
    pub keys: Vec<(BucketName, ObjectKey)>,
    /// Whether it takes something away: then it goes on where the log cannot be written, since
    /// a full disk must not keep anyone from removing.
    pub removes: bool,
}

impl<D: Disk> Terms<D> {
    /// For a job that changes no name: it only must not overlap with one that does.
    pub fn to_look() -> Self {
        Self {
            durable: false,
            file: None,
            keys: Vec::new(),
            removes: false,
        }
    }
}

trait Act<D: Disk>: Send {
    fn act(&mut self, turn: &mut Turn<'_, D>);
    /// Whether it may have stopped half-way.
    fn is_half_done(&self) -> bool;
    fn answer(self: Box<Self>, failure: Option<StoreError>);
}

struct Call<F, T> {
    act: Option<F>,
    result: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
}

impl<D, F, T> Act<D> for Call<F, T>
where
    D: Disk,
    F: FnOnce(&mut Turn<'_, D>) -> Result<T> + Send,
    T: Send,
{
    fn act(&mut self, turn: &mut Turn<'_, D>) {
        if let Some(act) = self.act.take() {
            self.result = Some(act(turn));
        }
    }

    fn is_half_done(&self) -> bool {
        match &self.result {
            Some(Ok(_)) => false,
            Some(Err(e)) => e.is_of_the_disk(),
            None => true,
        }
    }

    fn answer(self: Box<Self>, failure: Option<StoreError>) {
        // What a job that never ran holds is given back before its caller goes on.
        drop(self.act);
        let result = match (failure, self.result) {
            // A job that changed nothing owes nothing to the disk.
            (Some(_), Some(Err(e))) => Err(e),
            (Some(failure), _) => Err(failure),
            (None, Some(result)) => result,
            (None, None) => Err(StoreError::Io {
                action: "publish a change",
                source: io::Error::other("it panicked"),
            }),
        };
        // Nobody waits where the request was dropped; the change stands all the same.
        let _ = self.answer.send(result);
    }
}

struct Job<D: Disk> {
    terms: Terms<D>,
    act: Box<dyn Act<D>>,
}

/// What jobs and callers on their own threads have in common.
struct Shared<D: Disk> {
    disk: Arc<D>,
    log: Arc<IntentLog<D>>,
    watchers: Arc<Watchers>,
    /// Keys whose change stopped half-way: the index may not have what became of them.
    owed: Mutex<Owed>,
    /// What jobs that are not durable leave is kept to be synced.
    defers: bool,
    /// What is waited for at the end of each turn.
    at_end: OnceLock<AtEnd>,
    /// The turn's lock.
    held: Mutex<Held<D>>,
}

type AtEnd = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Owed {
    keys: BTreeSet<(BucketName, ObjectKey)>,
    /// There were more than are kept.
    too_many: bool,
}

struct Held<D: Disk> {
    unsynced: Unsynced<D>,
    /// Nobody acts any more.
    stopped: bool,
}

impl<D: Disk> Shared<D> {
    fn hold(&self) -> MutexGuard<'_, Held<D>> {
        // Whoever panicked left a change half-way, as a crash may; the lists are whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owe(&self, keys: &[(BucketName, ObjectKey)]) {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        owed.too_many |= owed.keys.len() + keys.len() > MAX_OWED;
        if !owed.too_many {
            owed.keys.extend(keys.iter().cloned());
        }
    }

    /// The end of a turn: the log says what ctime files have now, and only then whoever is far
    /// behind is waited for. Gives what [`IntentLog::append_ours`] does.
    fn end_turn(&self, held: MutexGuard<'_, Held<D>>) -> Result<bool> {
        let says = self.log.append_ours();
        if let Some(wait) = self.at_end.get() {
            // A change stands whether it was waited for or not.
            if catch_unwind(AssertUnwindSafe(wait)).is_err() {
                tracing::error!("waiting after a change panicked");
            }
        }
        drop(held);
        says
    }

    /// Closes the open segment of the log where that is due, between two groups.
    fn rotate(&self) -> Result<()> {
        let Some(next) = self.log.next_if_due()? else {
            return Ok(());
        };
        // What is in a closed segment was acted on, by callers on their own threads as well.
        let _held = self.hold();
        self.log.switch(next)
    }
}

/// See the module. Dropping it finishes what was submitted.
pub struct Committer<D: Disk> {
    shared: Arc<Shared<D>>,
    jobs: Mutex<Option<Sender<Job<D>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<D: Disk> Committer<D> {
    /// Starts its threads.
    pub fn start(disk: Arc<D>, log: Arc<IntentLog<D>>) -> io::Result<Self> {
        Self::start_as(disk, log, false)
    }

    /// As [`Self::start`]; one that `defers` syncs what its other jobs changed with the next that
    /// is durable, and forgets none of it.
    pub fn start_as(disk: Arc<D>, log: Arc<IntentLog<D>>, defers: bool) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            disk,
            log,
            watchers: Arc::default(),
            owed: Mutex::default(),
            defers,
            at_end: OnceLock::new(),
            held: Mutex::new(Held {
                unsynced: Unsynced::default(),
                stopped: false,
            }),
        });
        let (teller, telling) = Teller::start(Arc::clone(&shared.watchers))?;
        let (jobs, queue) = channel();
        let running = Arc::clone(&shared);
        let committing = std::thread::Builder::new()
            .name("commit".to_owned())
            .stack_size(STACK_LEN_BYTES)
            .spawn(move || run(&running, &teller, &queue))?;
        Ok(Self {
            shared,
            jobs: Mutex::new(Some(jobs)),
            // The teller ends when the committing thread has.
            threads: Mutex::new(vec![committing, telling]),
        })
    }

    /// Has each turn wait for something at its end, when the log has all that is said of the
    /// change. Nothing happens where that was said before.
    pub fn wait_at_end(&self, wait: impl Fn() + Send + Sync + 'static) {
        let _ = self.shared.at_end.set(Box::new(wait));
    }

    /// Runs `act` in the key's lock, under `terms`, and gives its result when they are met.
    /// Dropping the future leaves the change to be made or not. Errors: those of `act`; Io
    /// where the disk could not make it durable; Stopping.
    pub fn submit<T, F>(
        &self,
        terms: Terms<D>,
        act: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F, D>
    where
        T: Send + 'static,
        F: FnOnce(&mut Turn<'_, D>) -> Result<T> + Send + 'static,
    {
        let (answer, heard) = oneshot::channel();
        let act = Box::new(Call {
            act: Some(act),
            result: None,
            answer,
        });
        if let Some(jobs) = &*self.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            // A send fails only when the thread is gone: then `heard` says Stopping.
            let _ = jobs.send(Job { terms, act });
        }
        async move { heard.await.unwrap_or(Err(StoreError::Stopping)) }
    }

    /// Runs `act` in the keys' lock on this thread, without waiting for the queue: for changes
    /// of a mount, which answers that the queue waits for may wait for. Nothing is durable on
    /// return, and those who watch are not told. A panic of `act` goes through. What only
    /// `removes` goes on where the log cannot be written. Errors: Stopping, and those of writing
    /// the log; then `act` did not run.
    pub fn act_here<T>(
        &self,
        keys: &[(BucketName, ObjectKey)],
        removes: bool,
        act: impl FnOnce(&mut Turn<'_, D>) -> T,
    ) -> Result<T> {
        let shared = &*self.shared;
        let mut held = shared.hold();
        if held.stopped {
            return Err(StoreError::Stopping);
        }
        match shared.log.append(keys.iter()) {
            Err(e) if !removes => return Err(e),
            _ => {}
        }
        let mut changed = Changed::default();
        let mut turn = Turn {
            disk: &*shared.disk,
            mode: Mode::Here,
            watched: false,
            changed: &mut changed,
            unsynced: &mut held.unsynced,
        };
        let acted = catch_unwind(AssertUnwindSafe(|| act(&mut turn)));
        held.unsynced.take_here(&shared.disk, changed);
        if let Err(e) = shared.end_turn(held) {
            tracing::debug!("after a crash digests will be in doubt: {e}");
        }
        acted.map_or_else(|panic| resume_unwind(panic), Ok)
    }

    /// Notes keys of which the index may not have what became of them, in the turn.
    pub fn owe(&self, keys: &[(BucketName, ObjectKey)]) {
        self.shared.owe(keys);
    }

    /// Takes the keys that are owed to the index; whoever cannot settle them
    /// [owes](Self::owe) them again. None where there were too many to be kept.
    pub fn take_owed(&self) -> Option<Vec<(BucketName, ObjectKey)>> {
        let mut owed = self
            .shared
            .owed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match owed.too_many {
            true => None,
            false => Some(std::mem::take(&mut owed.keys).into_iter().collect()),
        }
    }

    /// Tells `watcher` of every change from now on, as long as it lives.
    pub fn watch(&self, watcher: &Arc<dyn FilesWatcher>) {
        // A change that is not told of is over before the watcher looks at anything.
        let _held = self.shared.hold();
        self.shared.watchers.add(watcher);
    }

    /// Whether anyone watches.
    pub fn is_watched(&self) -> bool {
        self.shared.watchers.any()
    }

    /// Tells those who watch, on this thread, which must serve no mount.
    pub fn tell(&self, notices: &[Notice]) {
        self.shared.watchers.tell(notices);
    }

    /// Takes no more jobs, waits until those taken are answered, lets nobody act any more, and
    /// closes the open segment of the log. Errors: those of that.
    pub fn close(&self) -> Result<()> {
        self.stop();
        self.shared.log.ask_rotation();
        self.shared.rotate()
    }

    /// As [`Self::close`], leaving the log as it is.
    pub fn stop(&self) {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let this = std::thread::current().id();
        // The last owner may be what one of them drops: it cannot wait for itself.
        if threads.iter().all(|thread| thread.thread().id() != this) {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a committing thread panicked");
                }
            }
        }
        self.shared.hold().stopped = true;
    }
}

impl<D: Disk> Drop for Committer<D> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run<D: Disk>(shared: &Shared<D>, teller: &Teller<D>, queue: &Receiver<Job<D>>) {
    while let Ok(first) = queue.recv() {
        let (mut durable, mut relaxed) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(job) = next {
            if job.terms.durable {
                durable.push(job)
            } else {
                relaxed.push(job)
            }
            next = (durable.len() + relaxed.len() < MAX_GROUP)
                .then(|| queue.try_recv().ok())
                .flatten();
        }
        if !relaxed.is_empty() {
            let mode = match shared.defers {
                true => Mode::Deferred,
                false => Mode::Relaxed,
            };
            commit_group(shared, teller, relaxed, mode);
        }
        if !durable.is_empty() {
            commit_group(shared, teller, durable, Mode::Durable);
        }
    }
}

fn commit_group<D: Disk>(shared: &Shared<D>, teller: &Teller<D>, group: Vec<Job<D>>, mode: Mode) {
    let (disk, durable) = (&*shared.disk, mode == Mode::Durable);
    let mut ready = Vec::with_capacity(group.len());
    for (job, failed) in prepare(shared, group, durable) {
        match failed {
            Some(e) => job.act.answer(Some(e)),
            None => ready.push(job),
        }
    }
    if ready.is_empty() {
        return;
    }
    let mut changed = Changed::default();
    let mut says_ours = Ok(false);
    for job in &mut ready {
        // At once: the next job may wait for the disk, and be the last one.
        let says = act_one(shared, job, mode, &mut changed);
        says_ours = says_ours.and_then(|said| says.map(|says| said || says));
    }
    let failure = match changed.unsettled.take() {
        None if durable => {
            let logged = says_ours.and_then(|says| match says {
                true => sync_ours(disk, &shared.log, &changed),
                false => Ok(()),
            });
            // What only removes goes on without the log.
            let is_needed = ready.iter().any(|job| !job.terms.removes);
            let logged = logged.or_else(|e| if is_needed { Err(e) } else { Ok(()) });
            logged.and_then(|()| sync_after(disk, &changed)).err()
        }
        unsettled => unsettled,
    };
    let notices = std::mem::take(&mut changed.notices);
    let built = std::mem::take(&mut changed.built);
    match failure {
        _ if mode == Mode::Deferred => {
            let left = std::mem::take(&mut changed);
            shared.hold().unsynced.take_deferred(disk, left);
        }
        Some(_) => shared.hold().unsynced.take_failed(changed),
        None => changed.later.into_iter().for_each(|clear| clear()),
    }
    if !built.is_empty() {
        shared.hold().unsynced.take_here(
            disk,
            Changed {
                built,
                ..Changed::default()
            },
        );
    }
    teller.answer(notices, ready, failure);
}

/// Makes what the log says of the files after their changes durable, unless everything will be:
/// before the directories, since one commit of the file system's journal has both.
fn sync_ours<D: Disk>(disk: &D, log: &IntentLog<D>, changed: &Changed<D>) -> Result<()> {
    match changed.needs_everything() && disk.syncs_everything() {
        true => Ok(()),
        false => log.sync(),
    }
}

/// One job's turn. Gives what [`IntentLog::append_ours`] does.
fn act_one<D: Disk>(
    shared: &Shared<D>,
    job: &mut Job<D>,
    mode: Mode,
    changed: &mut Changed<D>,
) -> Result<bool> {
    let mut held = shared.hold();
    if mode == Mode::Durable {
        held.unsynced.give_to(changed);
    }
    let mut turn = Turn {
        disk: &*shared.disk,
        mode,
        watched: shared.watchers.any(),
        changed,
        unsynced: &mut held.unsynced,
    };
    // A job that panics must not take the publisher of everyone else's with it.
    let act = AssertUnwindSafe(|| job.act.act(&mut turn));
    if catch_unwind(act).is_err() {
        tracing::error!("a change panicked half-way");
    }
    if job.act.is_half_done() {
        shared.owe(&job.terms.keys);
    }
    shared.end_turn(held)
}

/// Steps 1 and 2. Gives each job with why it cannot go on.
fn prepare<D: Disk>(
    shared: &Shared<D>,
    group: Vec<Job<D>>,
    durable: bool,
) -> Vec<(Job<D>, Option<StoreError>)> {
    let (disk, log) = (&*shared.disk, &*shared.log);
    let keys = group.iter().flat_map(|job| &job.terms.keys);
    let logged = shared.rotate().and_then(|()| log.append(keys));
    if !durable || logged.is_err() {
        let failure = |job: &Job<D>| match &logged {
            Err(e) if !job.terms.removes => Some(same_failure(e)),
            _ => None,
        };
        return group
            .into_iter()
            .map(|job| {
                let failed = failure(&job);
                (job, failed)
            })
            .collect();
    }
    let files = group.iter().filter_map(|job| job.terms.file.as_deref());
    let synced = sync_before(disk, log, files);
    let mut failed_files = Vec::new().into_iter();
    let failure = match synced {
        Ok(failed) => {
            failed_files = failed.into_iter();
            None
        }
        Err(e) => Some(e),
    };
    group
        .into_iter()
        .map(|job| {
            let failed = match &failure {
                Some(e) => (!job.terms.removes).then(|| same_failure(e)),
                None if job.terms.file.is_some() => failed_files.next().flatten(),
                None => None,
            };
            (job, failed)
        })
        .collect()
}

/// Makes the log and the files durable. Gives, for each file, why it could not be; an error
/// where that cannot be told file by file.
fn sync_before<'a, D: Disk>(
    disk: &D,
    log: &IntentLog<D>,
    files: impl Iterator<Item = &'a D::File> + Clone,
) -> Result<Vec<Option<StoreError>>> {
    let count = files.clone().count();
    if count >= SYNC_EVERYTHING_FROM {
        let end = log.end();
        match disk.sync_everything() {
            Ok(()) => {
                log.note_synced(end);
                return Ok((0..count).map(|_| None).collect());
            }
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
            Err(e) => {
                log.give_up(end);
                return Err(StoreError::from_io("make a group durable", e));
            }
        }
    }
    log.sync()?;
    Ok(files
        .map(|file| {
            file.sync()
                .err()
                .map(|e| StoreError::from_io("make a file durable", e))
        })
        .collect())
}
