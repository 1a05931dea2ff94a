//! What the driver is told.

use std::sync::Arc;

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::replica::{BrickSet, Event, GroupConfig, OpId, Session, Stored};
use tokio::sync::oneshot;

use super::super::coming::Left;
use super::super::kinds::{Change, Kept, Name};
use super::super::logger::Logged;
use super::super::member::Copying;
use super::Seat;
use crate::brick::Inner;
use crate::brick::disk::Disk;
use crate::error::{Result, StoreError};

/// How far a copy's tree is: its group, its life, how often its log was begun anew, its last record.
pub type Mark = (GroupId, u64, u64, u64);

/// What becomes of a request: the change, or none where there is nothing to do.
pub type Decision = Result<Option<Change>>;
/// Decides a request on the primary's brick; may be asked again.
pub type Decide<D> = Arc<dyn Fn(&Arc<Inner<D>>) -> Decision + Send + Sync>;

/// A request.
pub struct Ask<D: Disk> {
    /// The names it changes.
    pub names: Vec<Name>,
    /// Decides it.
    pub decide: Decide<D>,
    /// Whether that looks at files.
    pub looks: bool,
    /// Told what came of it; none once that was told.
    pub answer: Option<oneshot::Sender<Result<()>>>,
}

/// What the thread is told.
pub enum Input<D: Disk> {
    Request {
        op: OpId,
        group: GroupId,
        ask: Ask<D>,
    },
    Decided {
        brick: BrickId,
        group: GroupId,
        op: OpId,
        decision: Decision,
    },
    Logged {
        brick: BrickId,
        logged: Logged,
    },
    Applied {
        brick: BrickId,
        life: u64,
        group: GroupId,
        seq: u64,
        result: Result<()>,
    },
    /// A record that could not be made anywhere was tried again.
    Remade {
        brick: BrickId,
        life: u64,
        group: GroupId,
        seq: u64,
        result: Result<()>,
    },
    /// What a brick's log has of a group.
    Again {
        brick: BrickId,
        group: GroupId,
        stored: Stored<Kept>,
    },
    /// A brick has no room for its log; it tries again.
    Full {
        brick: BrickId,
        error: StoreError,
    },
    /// A brick has not answered for as long as it may.
    Hung {
        brick: BrickId,
    },
    Ready {
        brick: BrickId,
        group: GroupId,
        epoch: u64,
    },
    Configured(Vec<(GroupId, GroupConfig)>),
    Synced {
        brick: BrickId,
        marks: Vec<Mark>,
        result: Result<()>,
    },
    /// Trees of learners were synced with all that was fetched.
    Whole {
        brick: BrickId,
        trees: Vec<(Mark, Session)>,
        result: Result<()>,
    },
    /// Something on a brick could not be read or written: others may be better.
    Failed {
        brick: BrickId,
        error: StoreError,
    },
    /// A brick can log nothing.
    LogFailed {
        brick: BrickId,
        error: StoreError,
    },
    /// A copy could not be made what it should be.
    Spoiled {
        brick: BrickId,
        life: u64,
        group: GroupId,
        error: StoreError,
    },
    /// Bytes of records that are to be logged are here, or nobody needs those of these operations.
    Fetched {
        brick: BrickId,
        life: u64,
        group: GroupId,
        ticket: u64,
        result: Copying<Vec<OpId>>,
    },
    Revived {
        brick: BrickId,
        stored: Vec<Stored<Kept>>,
    },
    /// What a healing step came to, to be told to a replica.
    Tell {
        brick: BrickId,
        life: u64,
        group: GroupId,
        event: Box<Event<Kept>>,
    },
    Wanted(Vec<BrickSet>),
    /// A brick came: its seat, and what its log has.
    Joined {
        at: usize,
        seat: Box<Seat<D>>,
        stored: Vec<Stored<Kept>>,
    },
    /// A brick is to go.
    Leave {
        brick: BrickId,
        told: oneshot::Sender<Left>,
    },
    Stop,
}
