//! Steps 6 and 7: those who watch are told, then the callers are answered.

use std::collections::BTreeSet;
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::super::disk::Disk;
use super::super::notices::{Notice, Watchers};
use super::turn::same_failure;
use super::{Act, Job};
use crate::error::StoreError;

/// Most groups that wait to be told of; then the committer waits.
const MAX_WAITING: usize = 256;

/// What is told and answered together.
struct Group<D: Disk> {
    notices: BTreeSet<Notice>,
    acts: Vec<Box<dyn Act<D>>>,
    failure: Option<StoreError>,
}

/// A thread that tells and answers in order: telling may wait for a kernel that waits for those
/// who change names, so the committer itself must not.
pub(super) struct Teller<D: Disk> {
    groups: SyncSender<Group<D>>,
    disk: PhantomData<D>,
}

impl<D: Disk> Teller<D> {
    /// Starts the thread; it ends when the teller is dropped and everyone has an answer.
    pub fn start(watchers: Arc<Watchers>) -> io::Result<(Self, JoinHandle<()>)> {
        let (groups, waiting) = sync_channel(MAX_WAITING);
        let thread = std::thread::Builder::new()
            .name("tell".to_owned())
            .spawn(move || run(&watchers, &waiting))?;
        let disk = PhantomData;
        Ok((Self { groups, disk }, thread))
    }

    /// Answers jobs, after those who watch were told. A change that failed may be visible all
    /// the same.
    pub fn answer(
        &self,
        notices: BTreeSet<Notice>,
        jobs: Vec<Job<D>>,
        failure: Option<StoreError>,
    ) {
        let acts = jobs.into_iter().map(|job| job.act).collect();
        let group = Group {
            notices,
            acts,
            failure,
        };
        if group.notices.is_empty() {
            return group.answer();
        }
        if let Err(unsent) = self.groups.send(group) {
            // The thread is gone only when something in it panicked.
            unsent.0.answer();
        }
    }
}

impl<D: Disk> Group<D> {
    fn answer(self) {
        for act in self.acts {
            act.answer(self.failure.as_ref().map(same_failure));
        }
    }
}

fn run<D: Disk>(watchers: &Watchers, waiting: &Receiver<Group<D>>) {
    while let Ok(group) = waiting.recv() {
        let told = catch_unwind(AssertUnwindSafe(|| watchers.tell(&group.notices)));
        if told.is_err() {
            tracing::error!("telling a watcher panicked");
        }
        group.answer();
    }
}
