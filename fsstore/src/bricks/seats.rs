//! The volume's configuration in all of its seats while it is served.
//!
//! Changes that come at once become one revision of the ledger, which is written to every seat at
//! the same time, and is told of when most seats have it durably. A seat that cannot be written,
//! or takes longer than [`PATIENCE`], is a brick that failed: nobody waits for it any more, but it is
//! offered every later ledger, and counts again once it takes one. Where there are too few without
//! such, nothing is in force until one does, however long it takes.
//!
//! The doubt of a brick ends by itself: once it has been taken out of every group that it was in sync
//! of when it came, and is in sync of all that it should have. It has been compared with others then.
//!
//! Locks: the state's, for the queue and what is in force; never held while a disk is waited for or
//! a callback runs.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use placement::group::GroupId;
use placement::keeper::{Keeper, Revision};
use placement::layout::BrickId;
use placement::replica::GroupConfig;

use self::keeping::Keeping;
use super::identity::{Doubt, Uuid};
use super::plan::Plan;
use super::seat::Kept;

mod keeping;
mod ledger;
#[cfg(test)]
mod tests;

/// How long a seat may take to write a ledger before the others go on without it; where they are too
/// few, how often those that failed are tried again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes what one seat keeps, durably.
pub type Write = Box<dyn FnMut(&Kept) -> io::Result<()> + Send>;
type Edit = Box<dyn FnOnce(&mut Plan) + Send>;
type Done = Box<dyn FnOnce(&Arc<Plan>) + Send>;
type Told = Arc<dyn Fn(Failure) + Send + Sync>;

/// A seat that could not be written.
#[derive(Debug)]
pub struct Failure {
    /// The brick; none for the server's own directory.
    pub brick: Option<BrickId>,
    /// Why.
    pub error: io::Error,
    /// Whether too few seats are left: nothing can be changed until one comes back.
    pub is_stuck: bool,
}

/// A seat that takes part.
pub struct Chair {
    /// Whose.
    pub uuid: Uuid,
    /// Why its brick is doubted.
    pub doubt: Option<Doubt>,
    /// How it is written.
    pub write: Write,
}

/// See the module. Clones share it; when the last is dropped, its threads end.
#[derive(Clone)]
pub struct Seats {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The configuration in force.
    plan: Arc<Plan>,
    at: Revision,
    queue: Vec<Job>,
    told: Option<Told>,
    /// Failures from before anyone asked to be told.
    untold: Vec<Failure>,
    is_closed: bool,
}

enum Job {
    Change(Edit, Done),
    Trust(Uuid, Box<dyn FnOnce(io::Result<()>) + Send>),
    Seat(SeatJob),
}

/// What becomes of a seat; done even while a ledger waits for too few of them.
enum SeatJob {
    Join(Chair),
    Forsake(Uuid),
    Leave(Uuid),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seats {
    /// Keeps what [`super::starting`] has put in force. `own` is the seat of the server's own
    /// directory. Errors: no thread can be started.
    pub fn run(keeper: Keeper<Plan>, term: u64, own: Uuid, chairs: Vec<Chair>) -> io::Result<Self> {
        let ledger = keeper.in_force().ok_or(io::ErrorKind::InvalidInput)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                plan: Arc::new(ledger.config.clone()),
                at: ledger.at,
                queue: Vec::new(),
                told: None,
                untold: Vec::new(),
                is_closed: false,
            }),
            changed: Condvar::new(),
        });
        let mut keeping = Keeping::new(Arc::clone(&shared), keeper, term, own);
        for chair in chairs {
            keeping.join(chair)?;
        }
        let thread = std::thread::Builder::new().name("ledger".to_owned());
        thread.spawn(move || keeping.keep())?;
        Ok(Self {
            handle: Arc::new(Handle { shared }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.handle.shared.lock()
    }

    fn push(&self, job: Job) {
        self.lock().queue.push(job);
        self.handle.shared.changed.notify_all();
    }

    /// What is in force.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.lock().plan)
    }

    /// The revision in force.
    pub fn at(&self) -> Revision {
        self.lock().at
    }

    /// Changes the plan. `done` is told what is in force once the change is, or at once where it
    /// changes nothing. Both run on the ledger's thread and must not wait. Neither is called where
    /// too few seats can be written, until they can.
    pub fn change(
        &self,
        edit: impl FnOnce(&mut Plan) + Send + 'static,
        done: impl FnOnce(&Arc<Plan>) + Send + 'static,
    ) {
        self.push(Job::Change(Box::new(edit), Box::new(done)));
    }

    /// Makes `next` the group's configuration if its epoch is the one after the present. `done` is
    /// told what the group has then, as in [`Seats::change`].
    pub fn cas(
        &self,
        group: GroupId,
        next: GroupConfig,
        done: impl FnOnce(GroupConfig) + Send + 'static,
    ) {
        let at = group.0 as usize;
        let edit = move |plan: &mut Plan| plan.swap(group, next);
        self.change(edit, move |plan| done(plan.groups[at]));
    }

    /// Has a new brick's seat written from now on; it counts once a plan has it as a member.
    pub fn join(&self, chair: Chair) {
        self.push(Job::Seat(SeatJob::Join(chair)));
    }

    /// Ends the doubt of a brick, durably. To be called once what is not whole on it is marked
    /// there by whoever compares it. Waits for the disk.
    pub fn trust(&self, brick: Uuid) -> io::Result<()> {
        let (answer, answered) = channel();
        let told = move |outcome| {
            let _ = answer.send(outcome);
        };
        self.push(Job::Trust(brick, Box::new(told)));
        let ended = |_| Err(io::ErrorKind::BrokenPipe.into());
        answered.recv().unwrap_or_else(ended)
    }

    /// Waits for a seat no more: its brick is known to have failed.
    pub fn forsake(&self, brick: Uuid) {
        self.push(Job::Seat(SeatJob::Forsake(brick)));
    }

    /// Lets go of a seat: what it is written with is dropped, and with it the brick's lock, as soon as
    /// the disk lets go of what is being written. It may [join](Self::join) again.
    pub fn leave(&self, brick: Uuid) {
        self.push(Job::Seat(SeatJob::Leave(brick)));
    }

    /// Who is told of seats that cannot be written, those of the past as well. On the ledger's
    /// thread; must not wait.
    pub fn on_failure(&self, told: impl Fn(Failure) + Send + Sync + 'static) {
        let told: Told = Arc::new(told);
        let untold = {
            let mut state = self.lock();
            state.told = Some(Arc::clone(&told));
            std::mem::take(&mut state.untold)
        };
        untold.into_iter().for_each(|failure| told(failure));
    }
}

/// The seats of a plan: its bricks, and the server's own directory where they are of an even
/// number, so that half of them may be missing.
pub fn seats_of(plan: &Plan, own: Uuid) -> BTreeSet<placement::keeper::Uuid> {
    let mut seats: BTreeSet<_> = plan.members.iter().map(|member| member.uuid.0).collect();
    if seats.len() % 2 == 0 {
        seats.insert(own.0);
    }
    seats
}
