//! A volume over bricks, started and stopped.

use std::collections::BTreeSet;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use placement::group::{GroupId, Grouping};
use placement::layout::BrickId;
use placement::replica::BrickSet;

use super::coming::FreeSeats;
use super::driver::{Driver, Input, Seat};
use super::files::moving::move_of;
use super::ledger::Ledger;
use super::log::ReplicaLog;
use super::logger::{Members, start as start_logger};
use super::member::Member;
use super::mending::{Mending, RotCounts, Suspects, mend_suspects};
use super::plan::MAX_BRICKS;
use super::quarantine::Quarantined;
use super::shared::Shared;
use crate::brick::Brick;
use crate::brick::disk::Disk;
use crate::brick::osdisk::OsDisk;
use crate::brick::scrub::Reading;
use crate::brick::sink::off_thread;
use crate::error::{Result, StoreError};
use crate::object::Locator;

/// How long an end waits for what mounts have written.
const SETTLING: Duration = Duration::from_secs(20);

/// A brick that is here.
pub struct Present<D: Disk> {
    /// Its number in the volume.
    pub id: BrickId,
    /// The brick, opened as a [member](crate::brick::BrickOptions::member).
    pub brick: Brick<D>,
    /// Its directory may be an older copy: nothing on it counts before it was compared.
    pub is_doubted: bool,
}

/// What a volume is made of.
pub struct Setup<D: Disk> {
    /// The bricks that are here.
    pub bricks: Vec<Present<D>>,
    /// How names are spread.
    pub grouping: Grouping,
    /// Copies of each group.
    pub replicas: usize,
    /// Counts the volume's starts, durably.
    pub term: u64,
    /// Which bricks should hold each group.
    pub wanted: Vec<BrickSet>,
}

/// Opens a brick's log, or begins one, which says of each group whether its tree is whole. What
/// the brick was writing when the power went is cut, where the files staged for it are not there:
/// nobody has been told that it has it. What is left counts from now on.
pub(super) fn open_log<D: Disk>(
    member: &Member<D>,
    groups: u32,
    is_whole: impl Fn(GroupId) -> bool,
    is_doubted: bool,
) -> Result<ReplicaLog<D>> {
    let disk = Arc::clone(member.inner.disk());
    let mut log = ReplicaLog::open(disk, Arc::clone(member.dir()), groups, is_whole)?;
    let mut cut = None;
    for (group, record) in log.doubtful() {
        if cut == Some(group) || log.is_replaced(group, &record) || member.is_makeable(&record)? {
            continue;
        }
        log.cut(group, record.at.seq - 1)?;
        cut = Some(group);
    }
    log.write()?;
    log.sync()?;
    if is_doubted {
        log.doubt()?;
    }
    let needed: std::collections::HashSet<_> = log.staged_ops().collect();
    member.sweep(|op| needed.contains(&op))?;
    Ok(log)
}

/// See the module. Clones share it; [`Bricks::close`] ends it in order.
pub struct Bricks<D: Disk = OsDisk> {
    pub(super) shared: Arc<Shared<D>>,
    driver: Arc<Mutex<Option<JoinHandle<()>>>>,
    pub(super) free: Arc<FreeSeats>,
    pub(super) term: u64,
}

impl<D: Disk> Clone for Bricks<D> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            driver: Arc::clone(&self.driver),
            free: Arc::clone(&self.free),
            term: self.term,
        }
    }
}

impl<D: Disk> Bricks<D> {
    /// Starts a volume over bricks. Within a tokio runtime. Errors: those of the bricks' logs.
    pub async fn start(setup: Setup<D>, ledger: Arc<dyn Ledger>) -> Result<Self> {
        off_thread(move || Self::start_blocking(setup, ledger)).await
    }

    fn start_blocking(setup: Setup<D>, ledger: Arc<dyn Ledger>) -> Result<Self> {
        let Setup {
            bricks,
            grouping,
            replicas,
            term,
            wanted,
        } = setup;
        if bricks.is_empty() || bricks.len() > MAX_BRICKS {
            return Err(StoreError::Corrupt(format!("{} bricks", bricks.len())));
        }
        // In its first epoch a volume was never served: what stands is all there is.
        let configs = ledger.groups();
        let is_new = configs.iter().all(|config| config.epoch <= 1);
        let count = grouping.count();
        let (input, inputs) = channel();
        let members: Members<D> = Arc::new(RwLock::new(Vec::new()));
        let mut unopened = None;
        let (mut seats, mut stored, mut last_op, mut now) = (Vec::new(), Vec::new(), 0, 0);
        let mut moves = BTreeSet::new();
        for Present {
            id,
            brick,
            is_doubted,
        } in bricks
        {
            let member = Arc::new(Member::new(id, brick)?);
            let is_whole = |group: GroupId| {
                let config = &configs[group.0 as usize];
                is_new && !is_doubted && config.in_sync.contains(id)
            };
            let log = match open_log(&member, count, is_whole, is_doubted) {
                Ok(log) => log,
                // The others are served; it takes part when it is found to be well.
                Err(error) => {
                    tracing::error!(brick = id.0, "a brick is left out: {error}");
                    unopened = Some(error);
                    continue;
                }
            };
            last_op = last_op.max(log.last_op());
            now = now.max(u64::try_from(member.inner.now().0).unwrap_or(0));
            let of_brick: Vec<_> = (0..count).map(|g| log.stored(GroupId(g))).collect();
            let records = of_brick.iter().flat_map(|stored| &stored.records);
            moves.extend(records.filter_map(|record| move_of(record)));
            stored.push(of_brick);
            let (jobs, thread) = start_logger(Arc::clone(&member), log, count, input.clone())
                .map_err(|e| StoreError::from_io("start a logging thread", e))?;
            seats.push(Seat::new(Arc::clone(&member), jobs, thread, term << 32));
            members
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .push(member);
        }
        if let Some(error) = unopened.filter(|_| seats.is_empty()) {
            return Err(error);
        }
        let first_op = last_op.max(now) + 1;
        let (suspects, waiting) = Suspects::new();
        let shared = Arc::new(Shared::new(grouping, members, input, first_op, suspects));
        let mending = Arc::downgrade(&shared);
        std::thread::Builder::new()
            .name("mend".to_owned())
            .spawn(move || mend_suspects(&mending, &waiting))
            .map_err(|e| StoreError::from_io("start the mending thread", e))?;
        let driver = Driver::new(
            Arc::clone(&shared),
            ledger,
            inputs,
            seats,
            stored,
            &wanted,
            replicas,
        );
        let thread = std::thread::Builder::new()
            .name("bricks".to_owned())
            .spawn(move || driver.run())
            .map_err(|e| StoreError::from_io("start the driver", e))?;
        let bricks = Self {
            shared,
            driver: Arc::new(Mutex::new(Some(thread))),
            free: Arc::default(),
            term,
        };
        if !moves.is_empty() {
            let finishing = bricks.clone();
            let runtime = bricks.shared.runtime.clone();
            runtime.spawn(async move { finishing.finish_moves(moves).await });
        }
        Ok(bricks)
    }

    /// Bricks that are known to be of no use.
    pub fn failed(&self) -> Vec<BrickId> {
        let members = self.shared.all_members();
        let failed = members.iter().filter(|member| member.has_failed());
        failed.map(|member| member.id).collect()
    }

    /// Reads a copy again that a scrub found bad, and makes it anew from a good one. Blocking, on a
    /// thread that is not a runtime's. Errors: those of the brick.
    pub fn mend(&self, brick: BrickId, at: &Locator) -> Result<Mending> {
        let mut may_read = |_| self.shared.suspects.is_open();
        self.shared.mend(brick, at, Reading::Disk, &mut may_read)
    }

    /// Has nothing mended any more, since the volume is about to be closed.
    pub fn stop_mending(&self) {
        self.shared.suspects.close();
    }

    /// How often copies were found bad.
    pub fn rot(&self) -> RotCounts {
        self.shared.suspects.counts()
    }

    /// The bad files that each brick keeps aside. Blocking. What cannot be read is left out.
    pub fn quarantined(&self) -> Vec<(BrickId, Vec<Quarantined>)> {
        let members = self.shared.live_members();
        let kept = members.iter().filter_map(|member| {
            let kept = member.quarantine().ok()?.list().ok()?;
            Some((member.id, kept))
        });
        kept.collect()
    }

    /// Says which bricks should hold each group from now on.
    pub fn set_wanted(&self, wanted: Vec<BrickSet>) {
        let _ = self.shared.input.send(Input::Wanted(wanted));
    }

    /// Finishes what was begun; later calls answer Stopping.
    pub async fn close(&self) -> Result<()> {
        // What mounts have written is on its way; where it cannot arrive nothing waits for ever.
        let settled = self.shared.writing.settle_all();
        let _ = tokio::time::timeout(SETTLING, settled).await;
        self.shared.suspects.close();
        let driver = Arc::clone(&self.driver);
        let input = self.shared.input.clone();
        off_thread(move || {
            let thread = driver.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread {
                let _ = input.send(Input::Stop);
                if thread.join().is_err() {
                    tracing::error!("the driver panicked");
                }
            }
            Ok(())
        })
        .await?;
        let mut outcome = Ok(());
        for (seat, member) in self.shared.all_members().into_iter().enumerate() {
            if self.free.contains(seat) {
                // It was closed when it left.
                continue;
            }
            match member.close().await {
                Err(error) if member.has_failed() => {
                    let brick = member.id.0;
                    tracing::warn!(brick, %error, "a brick that failed cannot be ended in order");
                }
                ended => outcome = outcome.and(ended),
            }
        }
        outcome
    }
}
