//! A volume of several bricks: opened or made, served, told to change, and told of.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use fsstore::brick::scrub::Scrubbed;
use fsstore::bricks::Bricks;
use fsstore::bricks::home::STATE;
use fsstore::bricks::identity::{IdentityError, Uuid};
use fsstore::bricks::making::{self, Arrival, NewVolume, Note};
use fsstore::bricks::mending::Mending;
use fsstore::bricks::pace::Limits;
use fsstore::bricks::plan::{BrickId, BrickSet};
use fsstore::bricks::plan::{NewMember, Plan, PlanError};
use fsstore::bricks::quarantine;
use fsstore::bricks::scrubber::Scrubber;
use fsstore::bricks::seats::Seats;
use fsstore::bricks::serving::{Present, Setup};
use fsstore::bricks::starting::{self, Opened};
use fsstore::bricks::status::{BrickState, BrickStatus, Known, VolumeStatus, events};
use fsstore::bricks::stepping::Stepping;
use fsstore::clock::Clock;
use serde_json::{Value, json};

use self::attendance::Attendance;
use super::brick_options;
use super::run::Prepared;
use crate::cli::CommandError;
use crate::cli::control::desk::{Desk, ScrubAsk, VolumeAsk};
use crate::config::{Config, Enforce};

mod attendance;
mod numbers;

/// The name of a volume that the first start makes.
const FIRST_NAME: &str = "main";
/// Groups that are moved or healed at once.
const GROUPS_AT_ONCE: usize = 128;
/// How often it is looked what moves next, and what has changed.
const TICK: Duration = Duration::from_millis(100);
/// Longest wait for a change of the configuration.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether the volume of the server in `dir` is on several bricks: its settings name some, or it
/// knows of some. Errors: what such a volume has not is asked for.
pub(super) fn has_bricks(config: &Config, dir: &Path) -> Result<bool, CommandError> {
    if config.brick.is_empty() && Note::read(&dir.join(STATE))?.is_none() {
        return Ok(false);
    }
    let refused = |what: &str| {
        Err(CommandError::new(format!(
            "a volume of several bricks has no {what} yet: take it away"
        )))
    };
    if config.shared {
        return refused("`shared`");
    }
    let mut own = config.bucket.values();
    if own.any(|own| own.respect_locks || own.enforce == Enforce::Posix) {
        return refused("`respect_locks` and `enforce = \"posix\"`");
    }
    Ok(true)
}

/// Starts the volume, or makes it where all of its bricks are empty and the server knows of none.
fn open(own: &Path, config: &Config) -> Result<Opened, CommandError> {
    let dirs = &config.brick;
    match starting::start(own, dirs) {
        Err(IdentityError::NoVolume) if !dirs.is_empty() => {}
        // Making it was interrupted.
        Err(IdentityError::HalfMade { .. }) if Note::read(own)?.is_none() => {}
        opened => return Ok(opened?),
    }
    let new = NewVolume {
        name: FIRST_NAME,
        replicas: config.replicas,
        dirs,
        adopts_first: false,
    };
    making::create(own, &new)?;
    tracing::info!(
        event = "volume.made",
        bricks = dirs.len(),
        replicas = config.replicas,
        "a volume was made"
    );
    Ok(starting::start(own, dirs)?)
}

/// A volume that is served.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) bricks: Bricks,
    inner: Arc<Inner>,
}

struct Inner {
    own: PathBuf,
    seats: Seats,
    volume: Uuid,
    attendance: Arc<Attendance>,
    scrubber: Scrubber,
    runtime: tokio::runtime::Handle,
}

impl Served {
    /// Opens the volume of a server. Within a tokio runtime.
    pub(super) async fn open(prepared: &Prepared) -> Result<Self, CommandError> {
        let (layout, config) = (&prepared.layout, &prepared.config);
        let own = layout.state();
        let opened = tokio::task::block_in_place(|| open(&own, config))?;
        let plan = opened.seats.plan();
        let attendance = Arc::new(Attendance::new(brick_options(layout, config)));
        opened
            .missing
            .iter()
            .for_each(|id| attendance.is_missing(*id));
        let mut present = Vec::new();
        for found in &opened.present {
            match attendance.open(&found.dir).await {
                Ok(brick) => {
                    attendance.came(found.id, brick.clone(), &found.dir);
                    present.push(Present {
                        id: found.id,
                        brick,
                        is_doubted: found.doubt.is_some(),
                    });
                }
                Err(error) => {
                    let (brick, dir) = (found.id.0, found.dir.display());
                    let error = error.text;
                    tracing::error!(event = "brick.failed", brick, dir = %dir, error, "a brick cannot be opened");
                    // It is looked for as others are, once nobody has it.
                    opened.seats.leave(found.uuid);
                    attendance.is_missing(found.id);
                }
            }
            if let Some(doubt) = found.doubt {
                let (brick, dir) = (found.id.0, found.dir.display());
                tracing::warn!(event = "brick.doubted", brick, dir = %dir, "the brick {doubt}: it is compared with the others");
            }
        }
        if plan.shares_devices() {
            tracing::warn!(
                event = "volume.shares_devices",
                "the bricks are on fewer disks than there are copies: one that fails may take all copies of something"
            );
        }
        let setup = Setup {
            bricks: present,
            grouping: plan.grouping(),
            replicas: plan.replicas,
            term: opened.term,
            wanted: plan.in_sync(),
        };
        let bricks = Bricks::start(setup, Arc::new(opened.seats.clone())).await?;
        let limits = Limits {
            bytes_per_s: config.scrub.mib_per_s << 20,
            operations_per_s: config.scrub.reads_per_s,
        };
        let pace = (limits, config.scrub.every);
        let here = Arc::clone(&attendance);
        let all = move || here.bricks();
        let mending = bricks.clone();
        let mend = move |number, object: &Scrubbed| {
            let mended = mending.mend(BrickId(number), &object.at);
            matches!(mended, Ok(Mending::Mended))
        };
        let scrubber = Scrubber::open(&own, pace, Clock::system(), all, mend)?;
        Ok(Self {
            bricks,
            inner: Arc::new(Inner {
                scrubber,
                own,
                seats: opened.seats,
                volume: opened.volume,
                attendance,
                runtime: tokio::runtime::Handle::current(),
            }),
        })
    }

    /// Ends it in order.
    pub(super) async fn close(&self) -> Result<(), CommandError> {
        self.bricks.stop_mending();
        tokio::task::block_in_place(|| self.inner.scrubber.close());
        Ok(self.bricks.close().await?)
    }

    fn known(&self) -> Known {
        Known {
            missing: self.inner.attendance.missing(),
            failed: self.bricks.failed().into_iter().collect(),
        }
    }

    /// How it is.
    fn status(&self) -> VolumeStatus {
        let seats = &self.inner.seats;
        let (at, plan) = (seats.at(), seats.plan());
        VolumeStatus::of(&self.inner.volume.to_string(), at, &plan, &self.known())
    }

    /// Has groups moved to where they should be, and tells what changes, until it is dropped.
    pub(super) async fn look_after(self) {
        let mut stepping = Stepping::new(GROUPS_AT_ONCE);
        let mut told: Option<Vec<BrickSet>> = None;
        let mut before = self.status();
        self.inner.seats.on_failure(tell_failure);
        tell_first(&before);
        loop {
            let known = self.known();
            let gone = known.missing.union(&known.failed).copied().collect();
            let wanted = stepping.step(&self.inner.seats.plan(), &gone);
            if told.as_ref() != Some(&wanted) {
                self.bricks.set_wanted(wanted.clone());
                told = Some(wanted);
            }
            let now = self.status();
            for event in events(&before, &now) {
                let (name, brick) = (event.name, event.brick);
                match event.is_bad {
                    true => tracing::warn!(event = name, brick, "{}", event.text),
                    false => tracing::info!(event = name, brick, "{}", event.text),
                }
            }
            before = now;
            tokio::time::sleep(TICK).await;
        }
    }

    /// Changes the plan, and waits for it to be in force. Errors: those of the change; too few
    /// bricks can be written.
    fn change<T: Send + 'static>(
        &self,
        edit: impl FnOnce(&mut Plan) -> Result<T, PlanError> + Send + 'static,
    ) -> Result<T, CommandError> {
        let (tell, told) = channel();
        let (keep, kept) = channel();
        self.inner.seats.change(
            move |plan| {
                let _ = keep.send(edit(plan));
            },
            move |_| {
                let _ = tell.send(());
            },
        );
        if told.recv_timeout(PATIENCE).is_err() {
            return Err(CommandError::new(
                "too few bricks can be written to change the volume: see `portico brick status`",
            ));
        }
        let ended = || CommandError::new("the server is stopping");
        Ok(kept.recv().map_err(|_| ended())??)
    }

    /// A directory becomes a brick, and one of the volume's as `edit` has it.
    fn arrives(
        &self,
        dir: &Path,
        edit: impl FnOnce(&mut Plan, NewMember) -> Result<BrickId, PlanError> + Send + 'static,
    ) -> Result<(), CommandError> {
        let seats = &self.inner.seats;
        let arrival = Arrival::begin(dir, self.inner.volume, &seats.plan())?;
        let member = arrival.member.clone();
        let (uuid, dir) = (member.uuid, member.dir.clone());
        seats.join(arrival.arrive());
        match self.change(move |plan| edit(plan, member)) {
            Ok(id) => self.taken_in(id, &dir),
            Err(error) => {
                // It stays half made, and nobody's.
                seats.leave(uuid);
                Err(error)
            }
        }
    }

    /// A brick came: it is given what it should have.
    fn taken_in(&self, id: BrickId, dir: &Path) -> Result<(), CommandError> {
        self.note()?;
        let taken = self.inner.runtime.block_on(self.take_in(id, dir, false));
        if taken.is_err() {
            // It is one of the volume, and looked for as others are.
            self.inner.attendance.is_missing(id);
            self.release(id);
        }
        taken
    }

    /// Lets go of the directory of a brick.
    fn release(&self, id: BrickId) {
        if let Some(member) = self.inner.seats.plan().member(id) {
            self.inner.seats.leave(member.uuid);
        }
    }

    /// What a scrub has seen, how often copies were bad, and the bad files that are kept.
    fn scrub_answer(&self) -> Value {
        let plan = self.inner.seats.plan();
        let mut kept = Vec::new();
        for (id, files) in self.bricks.quarantined() {
            let dir = plan.member(id).map(|member| member.dir.clone());
            for file in files {
                let path = dir.as_deref().map(|dir| quarantine::path_in(dir, &file));
                let mut shown = json!(file);
                shown["brick"] = json!(id.0);
                shown["path"] = json!(path);
                kept.push(shown);
            }
        }
        let rot = self.bricks.rot();
        let mut answer = json!(self.inner.scrubber.status());
        answer["since_start"] = json!({"found": rot.found, "mended": rot.mended, "lost": rot.lost});
        answer["quarantine"] = json!(kept);
        answer
    }

    /// Notes where bricks are, for the next start.
    fn note(&self) -> Result<(), CommandError> {
        let plan = self.inner.seats.plan();
        Ok(Note::renew(&self.inner.own, self.inner.volume, &plan)?)
    }
}

fn tell_failure(failure: fsstore::bricks::seats::Failure) {
    let (brick, error) = (failure.brick.map(|id| id.0), failure.error);
    match failure.is_stuck {
        true => tracing::error!(
            event = "volume.stuck",
            brick,
            %error,
            "too few bricks keep the volume's configuration: it cannot be changed until one is back"
        ),
        false => {
            tracing::warn!(event = "seat.failed", brick, %error, "the configuration cannot be written there")
        }
    }
}

/// Tells what is not well at the start: later only changes are told.
fn tell_first(status: &VolumeStatus) {
    let nothing = VolumeStatus {
        short_groups: 0,
        unreachable_groups: 0,
        to_make_groups: 0,
        to_drop_groups: 0,
        is_rebalance_paused: false,
        bricks: status
            .bricks
            .iter()
            .map(|brick| BrickStatus {
                state: BrickState::Whole,
                ..brick.clone()
            })
            .collect(),
        ..status.clone()
    };
    for event in events(&nothing, status) {
        tracing::warn!(event = event.name, brick = event.brick, "{}", event.text);
    }
}

impl Desk for Served {
    fn answer(&self, ask: VolumeAsk) -> Result<Value, CommandError> {
        match ask {
            VolumeAsk::Status => {}
            VolumeAsk::Scrub(ask) => {
                let scrubber = &self.inner.scrubber;
                match ask {
                    ScrubAsk::Start => scrubber.start()?,
                    ScrubAsk::Pause => scrubber.pause()?,
                    ScrubAsk::Status => {}
                }
                return Ok(self.scrub_answer());
            }
            VolumeAsk::Drain { brick, is_undone } => {
                let id = BrickId(brick);
                self.change(move |plan| match is_undone {
                    true => plan.undrain(id),
                    false => plan.drain(id),
                })?;
            }
            VolumeAsk::Remove { brick } => {
                self.change(move |plan| plan.remove(BrickId(brick)))?;
                self.note()?;
                self.inner.runtime.block_on(self.let_go(BrickId(brick)));
            }
            VolumeAsk::Rebalance { is_paused } => self.change(move |plan| {
                plan.is_rebalance_paused = is_paused;
                Ok(())
            })?,
            VolumeAsk::Add { dir } => self.arrives(&dir, Plan::add)?,
            VolumeAsk::Replace { brick, dir } => {
                self.arrives(&dir, move |plan, member| {
                    plan.replace(BrickId(brick), member)
                })?;
            }
        }
        Ok(json!(self.status()))
    }
}
