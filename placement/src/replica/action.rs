//! What a replica is told, and what it says to do.

use std::sync::Arc;

use super::config::{BrickSet, GroupConfig};
use super::log::{Position, Record};
use super::message::Message;
use super::{Effect, Kinds, OpId, Session, Time};
use crate::layout::BrickId;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event<K: Kinds> {
    /// Time passed. Due a few times within each of the terms; on one host only while something
    /// has to be tried again.
    Tick,
    /// The store has this configuration: the answer to a read, the outcome of a compare-and-set
    /// whether it won or lost, or a watch. The first one told to a replica must have been read
    /// after its start.
    Configured(GroupConfig),
    /// A message came.
    Received {
        /// From whom.
        from: BrickId,
        /// What.
        message: Message<K>,
    },
    /// What [`Action::Persist`] or [`Action::Rebase`] asked for is durable, and so is all that was
    /// asked before it.
    Persisted {
        /// Of the action.
        ticket: u64,
    },
    /// A client wants a change. Answered once by [`Action::Answer`].
    Request {
        /// The request's number.
        op: OpId,
        /// The names it changes.
        names: Vec<K::Name>,
        /// What [`Action::Decide`] hands back.
        body: K::Body,
    },
    /// What the driver found where it was asked to decide.
    Decided {
        /// The request.
        op: OpId,
        /// What becomes of it.
        verdict: Verdict<K>,
    },
    /// The tree is durable with everything applied up to here, and that is noted durably. No
    /// checkpoint is taken between [`Action::Rebase`] and its [`Event::Persisted`]: it would be
    /// noted with the old log.
    Checkpointed {
        /// Up to here.
        seq: u64,
    },
    /// The brick's disk failed, or is full.
    DiskFailed,
    /// Another brick is known to be of no use.
    PeerFailed {
        /// Which.
        brick: BrickId,
    },
    /// A page was compared, names the primary lacks were removed.
    Compared {
        /// Of the action.
        session: Session,
        /// Names that are missing here or differ, without those of the action's `keep`.
        wants: Vec<K::Name>,
    },
    /// The tree is durable and marked whole.
    Settled {
        /// Of the action.
        session: Session,
    },
    /// A file does not have the bytes its record says.
    Rotten {
        /// Its name.
        name: K::Name,
        /// The stamp it has.
        stamp: Position,
    },
    /// The bricks that should hold the group, the one preferred as primary not distinguished.
    Wanted(BrickSet),
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Verdict<K: Kinds> {
    /// It changes something.
    Write {
        /// The names of the request, and whether what becomes of them is derived.
        effects: Vec<Effect<K::Name>>,
        /// What to log.
        body: K::Body,
    },
    /// Its precondition does not hold, or there is nothing to do.
    Refuse,
}

/// What is to be done. The driver does it in the order given; only what is durable later is told
/// later.
#[derive(Debug, Clone)]
pub enum Action<K: Kinds> {
    /// Hand a message over; it may be lost.
    Send {
        /// To whom.
        to: BrickId,
        /// What.
        message: Message<K>,
    },
    /// Drop the log's records above `keep`, append these, and sync: them and the staged files
    /// they name. Then tell [`Event::Persisted`]; where it fails, [`Event::DiskFailed`].
    Persist {
        /// To name it by; ascending.
        ticket: u64,
        /// Records above go.
        keep: u64,
        /// Records to append.
        records: Vec<Arc<Record<K>>>,
    },
    /// Drop the log, begin it anew above `base`, and mark the tree as not whole: durably, then
    /// tell [`Event::Persisted`].
    Rebase {
        /// To name it by.
        ticket: u64,
        /// The new base.
        base: Position,
    },
    /// A record is committed: publish it, unless the tree has it already (a name whose stamp is
    /// the record's or later keeps what it has). It need not be durable before a checkpoint.
    Apply {
        /// The record.
        record: Arc<Record<K>>,
        /// The tree is not whole: names whose effect is derived stay as they are, for what they
        /// would be derived from may be missing or old, and a stamp always means the same bytes.
        /// They are fetched.
        is_partial: bool,
    },
    /// Records up to `base` may be dropped from the disk.
    Trim {
        /// The new base.
        base: Position,
    },
    /// Look at the names of a request and decide its precondition; tell [`Event::Decided`], now
    /// or later. The names do not change before.
    Decide {
        /// The request.
        op: OpId,
        /// As it was requested.
        body: K::Body,
    },
    /// Tell the client.
    Answer {
        /// The request.
        op: OpId,
        /// What came of it.
        outcome: Outcome,
    },
    /// Change the configuration to `next` if its epoch is `next.epoch - 1`, then tell
    /// [`Event::Configured`] with what the store has. Lost outcomes are no matter.
    Cas {
        /// The change.
        next: GroupConfig,
    },
    /// Read the configuration and tell [`Event::Configured`].
    ReadConfig,
    /// Read names after `after` from the tree and send them as a [`Payload::Page`].
    ///
    /// [`Payload::Page`]: super::Payload::Page
    SendPage {
        /// To whom.
        to: BrickId,
        /// For the page.
        session: Session,
        /// The last name of the page before; none for the first page.
        after: Option<K::Name>,
        /// For the page.
        as_of: u64,
    },
    /// Read a file, or that there is none, and send it as a [`Payload::Copy`].
    ///
    /// [`Payload::Copy`]: super::Payload::Copy
    SendCopy {
        /// To whom.
        to: BrickId,
        /// For the copy.
        session: Session,
        /// Which.
        name: K::Name,
        /// For the copy.
        as_of: u64,
    },
    /// Compare the tree with a page: remove names in its range that it lacks, save those of
    /// `keep`; then tell [`Event::Compared`].
    Compare {
        /// For the event.
        session: Session,
        /// The page.
        page: K::Page,
        /// Names that are not to be touched: the log has them newer.
        keep: Vec<K::Name>,
    },
    /// Replace a file by this one, or remove it.
    Replace {
        /// Which.
        name: K::Name,
        /// The file; none removes.
        copy: Option<K::Copy>,
    },
    /// Make the tree durable, then mark it as whole, durably; then tell [`Event::Settled`].
    Settle {
        /// For the event.
        session: Session,
        /// A checkpoint at this record comes with it.
        seq: u64,
    },
    /// If the file has this stamp and its bytes are right, send it as a [`Payload::Mend`].
    ///
    /// [`Payload::Mend`]: super::Payload::Mend
    SendMend {
        /// To whom.
        to: BrickId,
        /// Which.
        name: K::Name,
        /// Its stamp.
        stamp: Position,
    },
    /// Replace a rotten file, if it still has this stamp.
    Mend {
        /// Which.
        name: K::Name,
        /// Its stamp.
        stamp: Position,
        /// A good one.
        copy: K::Copy,
    },
    /// The replica serves as primary from now on, in this epoch. Requests that an earlier primary
    /// answered with [`Outcome::Unknown`], and that were not answered anew before this, were not
    /// done and may be given again.
    Serving {
        /// The epoch.
        epoch: u64,
    },
    /// Someone has to know.
    Alarm(Alarm),
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, and durable on every brick in sync.
    Done {
        /// Its stamp.
        at: Position,
    },
    /// It is done, but fewer bricks than asked for have it: one left while it was under way. It is
    /// not to be told as done.
    Short {
        /// Its stamp.
        at: Position,
    },
    /// The driver's verdict stands: nothing was changed.
    Refused,
    /// Not here; nothing was changed.
    NotPrimary {
        /// Who may be.
        primary: Option<BrickId>,
    },
    /// Nothing was changed: too few bricks are in sync.
    TooFew {
        /// How many are.
        in_sync: usize,
    },
    /// It may be done, now, later or never: the primary is another by now. That one says more, or
    /// begins to serve without ([`Action::Serving`]).
    Unknown,
}

/// Where a name may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// On this brick, now.
    Here,
    /// Ask the replica of this brick.
    Ask(BrickId),
    /// Nowhere for now.
    Nowhere,
}

/// What the protocol cannot mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// The disk of the only brick in sync fails: the group waits for it, or for someone to decide
    /// otherwise.
    LastCopyFailing,
    /// The only brick in sync has lost what its disk had: the group is lost.
    LastCopyLost,
    /// The primary lacks what is committed here: its disk was put back to an older state. This
    /// replica does not follow it.
    PrimaryForgot {
        /// The first record that differs.
        seq: u64,
    },
}

/// True where `lasts_us` have passed since `since`.
pub(super) fn is_past(now: Time, since: Time, lasts_us: u64) -> bool {
    now.0 >= since.0.saturating_add(lasts_us)
}
