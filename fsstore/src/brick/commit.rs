//! The only publisher: one thread through which every change of names passes, in groups.
//!
//! Being one thread it is every key's lock: what a job looks at stays so until the job ends.
//! A group goes through these steps, in this order, and each job waits for the last:
//!
//! 1. intents   the keys about to change are appended to the intent log;
//! 2. sync      the log, and the staged files with their records, are made durable: by one
//!    syncfs(2) for a large group, else file by file;
//! 3. act       each job decides its precondition and publishes (link, rename, unlink, …);
//! 4. index     the changes become visible to listings;
//! 5. sync      the directories that changed are made durable;
//! 6. answer    each job's caller hears of it.
//!
//! A power cut before 3 leaves the old objects, one after 5 the new; between, each name is old or
//! new, and its key is in the log, so that the index learns which. Jobs that need not be
//! durable skip 2 and 5. Within 3 a job may make its changes so far [durable](Turn::settle)
//! before it takes away what they replace; what is only cleared up waits until after 5
//! ([`Turn::later`]). Where a sync fails, its directories are synced again with the next group,
//! since that group may build on them.
//!
//! Knows nothing of records, requests or SQL.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::disk::{Disk, DiskFile};
use super::intents::IntentLog;
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey};

/// Most jobs in one group.
const MAX_GROUP: usize = 256;
/// Stack of the thread, in bytes: trees of empty directories are looked through in depth.
const STACK_LEN_BYTES: usize = 8 << 20;
/// From this many staged files on, one syncfs(2) is cheaper than an fsync(2) each.
const SYNC_EVERYTHING_FROM: usize = 4;

/// What a job is given to act with.
pub struct Turn<'a, D: Disk> {
    disk: &'a D,
    durable: bool,
    changed: &'a mut Changed<D>,
}

struct Changed<D: Disk> {
    dirs: Vec<Arc<D::Dir>>,
    files: Vec<Arc<D::File>>,
    later: Vec<Box<dyn FnOnce() + Send>>,
    /// Why a job could not settle: the group's syncs are not tried again.
    unsettled: Option<StoreError>,
}

impl<D: Disk> Turn<'_, D> {
    /// Notes that names in a directory changed, to be made durable before the answer.
    pub fn changed(&mut self, dir: &Arc<D::Dir>) {
        if !self
            .changed
            .dirs
            .iter()
            .any(|known| Arc::ptr_eq(known, dir))
        {
            self.changed.dirs.push(Arc::clone(dir));
        }
    }

    /// Notes that a published file's record changed, to be made durable before the answer.
    pub fn changed_file(&mut self, file: &Arc<D::File>) {
        self.changed.files.push(Arc::clone(file));
    }

    /// Makes what changed so far durable, before what it replaces is taken away. Nothing
    /// happens where the answer does not wait for stable storage.
    pub fn settle(&mut self) -> Result<()> {
        if self.durable {
            if let Err(e) = sync_after(self.disk, self.changed) {
                self.changed.unsettled = Some(same_failure(&e));
                return Err(e);
            }
            self.changed.dirs.clear();
            self.changed.files.clear();
        }
        Ok(())
    }

    /// Clears something up once the changes are durable. Where they cannot be made durable it
    /// is not done at all.
    pub fn later(&mut self, clear: impl FnOnce() + Send + 'static) {
        self.changed.later.push(Box::new(clear));
    }
}

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

/// See the module. Dropping it finishes what was submitted.
pub struct Committer<D: Disk> {
    jobs: Mutex<Option<Sender<Job<D>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<D: Disk> Committer<D> {
    /// Starts the thread.
    pub fn start(disk: Arc<D>, log: Arc<IntentLog<D>>) -> io::Result<Self> {
        let (jobs, queue) = channel();
        let thread = std::thread::Builder::new()
            .name("commit".to_owned())
            .stack_size(STACK_LEN_BYTES)
            .spawn(move || run(&*disk, &log, &queue))?;
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
        })
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

    /// Takes no more jobs and waits until those taken are answered.
    pub fn stop(&self) {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the committing thread panicked");
        }
    }
}

impl<D: Disk> Drop for Committer<D> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run<D: Disk>(disk: &D, log: &IntentLog<D>, queue: &Receiver<Job<D>>) {
    let mut unsynced = Vec::new();
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
            commit_group(disk, log, relaxed, false, &mut unsynced);
        }
        if !durable.is_empty() {
            commit_group(disk, log, durable, true, &mut unsynced);
        }
    }
}

fn commit_group<D: Disk>(
    disk: &D,
    log: &IntentLog<D>,
    group: Vec<Job<D>>,
    durable: bool,
    unsynced: &mut Vec<Arc<D::Dir>>,
) {
    let mut ready = Vec::with_capacity(group.len());
    for (job, failed) in prepare(disk, log, group, durable) {
        match failed {
            Some(e) => job.act.answer(Some(e)),
            None => ready.push(job),
        }
    }
    if ready.is_empty() {
        return;
    }
    let mut changed = Changed {
        dirs: if durable {
            std::mem::take(unsynced)
        } else {
            Vec::new()
        },
        files: Vec::new(),
        later: Vec::new(),
        unsettled: None,
    };
    for job in &mut ready {
        let mut turn = Turn {
            disk,
            durable,
            changed: &mut changed,
        };
        // A job that panics must not take the publisher of everyone else's with it.
        let act = AssertUnwindSafe(|| job.act.act(&mut turn));
        if catch_unwind(act).is_err() {
            tracing::error!("a change panicked half-way");
        }
    }
    let failure = match changed.unsettled.take() {
        None if durable => sync_after(disk, &changed).err(),
        unsettled => unsettled,
    };
    match failure {
        Some(_) => *unsynced = changed.dirs,
        None => changed.later.into_iter().for_each(|clear| clear()),
    }
    for job in ready {
        job.act.answer(failure.as_ref().map(same_failure));
    }
}

/// Steps 1 and 2. Gives each job with why it cannot go on.
fn prepare<D: Disk>(
    disk: &D,
    log: &IntentLog<D>,
    group: Vec<Job<D>>,
    durable: bool,
) -> Vec<(Job<D>, Option<StoreError>)> {
    let keys = group.iter().flat_map(|job| &job.terms.keys);
    let logged = log.rotate_if_due().and_then(|()| log.append(keys));
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
        Err(e) => {
            // What was not synced may be lost: nothing is appended behind it.
            log.ask_rotation();
            Some(e)
        }
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
        match disk.sync_everything() {
            Ok(()) => return Ok((0..count).map(|_| None).collect()),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
            Err(e) => return Err(StoreError::from_io("make a group durable", e)),
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

fn sync_after<D: Disk>(disk: &D, changed: &Changed<D>) -> Result<()> {
    let fail = |e| StoreError::from_io("make a change durable", e);
    if changed.dirs.len() + changed.files.len() >= SYNC_EVERYTHING_FROM {
        match disk.sync_everything() {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
            other => return other.map_err(fail),
        }
    }
    changed
        .files
        .iter()
        .try_for_each(|file| file.sync().map_err(fail))?;
    changed
        .dirs
        .iter()
        .try_for_each(|dir| disk.sync_dir(dir).map_err(fail))
}

/// One failure told to many.
fn same_failure(failure: &StoreError) -> StoreError {
    match failure {
        StoreError::NoSpace => StoreError::NoSpace,
        StoreError::QuotaExceeded => StoreError::QuotaExceeded,
        StoreError::ReadOnly => StoreError::ReadOnly,
        StoreError::Io { action, source } => {
            let source = match source.raw_os_error() {
                Some(raw) => io::Error::from_raw_os_error(raw),
                None => io::Error::new(source.kind(), source.to_string()),
            };
            StoreError::Io { action, source }
        }
        other => StoreError::Io {
            action: "make a group durable",
            source: io::Error::other(other.to_string()),
        },
    }
}
