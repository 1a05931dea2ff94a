//! What replicas of a group say to each other. Messages may be lost, late, doubled or out of
//! order; on one host they are calls.

use std::sync::Arc;

use super::config::GroupConfig;
use super::log::{Position, Record};
use super::{Kinds, Session, Time};

/// A message. It carries the configuration its sender acts by, so that whoever knows an older one
/// learns of it without asking the store.
#[derive(Debug, Clone)]
pub struct Message<K: Kinds> {
    /// The sender's configuration.
    pub config: GroupConfig,
    /// What it says.
    pub payload: Payload<K>,
}

/// What a message says.
#[derive(Debug, Clone)]
pub enum Payload<K: Kinds> {
    /// From the primary: records to be made durable, and how far records are committed.
    Append {
        /// The position before the first record.
        prev: Position,
        /// Records, in order and without gaps; may be none.
        records: Vec<Arc<Record<K>>>,
        /// Up to here records are committed.
        commit: u64,
        /// The exchange that leases rest on.
        beat: Option<Beat>,
    },
    /// To the primary: the log is the primary's and durable up to here.
    Ack {
        /// Up to here.
        upto: u64,
        /// The learner's session; 0 for a brick that never joined.
        session: Session,
        /// Answers the latest beat.
        beat: Option<BeatAck>,
    },
    /// To the primary: `prev` is not in the log; send from above this.
    Mismatch {
        /// What the log has, at most.
        last: u64,
        /// As in an Ack.
        session: Session,
    },
    /// To the primary, from a brick that is not in sync: wants to be.
    Join {
        /// New with each Join that is not a repetition.
        session: Session,
        /// The last position of each epoch in its log.
        ends: Vec<Position>,
        /// Up to here it knows records to be committed.
        commit: u64,
        /// False where its tree may lack or have anything.
        is_complete: bool,
    },
    /// To a learner: records come from here on.
    Welcome {
        /// Answers this Join.
        session: Session,
        /// The learner's log has to end here.
        start: Position,
        /// The log does not reach far enough: the tree has to be compared, name by name.
        is_whole: bool,
    },
    /// To a learner: its session is over; it may begin another.
    Over {
        /// Which.
        session: Session,
    },
    /// From a learner: list names after this one (none: from the first).
    PageAsk {
        /// The learner's session.
        session: Session,
        /// The last name of the page before.
        after: Option<K::Name>,
    },
    /// To a learner: names with their stamps and digests.
    Page {
        /// The learner's session.
        session: Session,
        /// The last name of the page before; none for the first page.
        after: Option<K::Name>,
        /// The names, and the range that they are all of.
        page: K::Page,
        /// The last name of the range; none at the end of the group.
        upto: Option<K::Name>,
        /// Up to here records had been applied when it was read.
        as_of: u64,
    },
    /// From a learner: send this file.
    CopyAsk {
        /// The learner's session.
        session: Session,
        /// Its name.
        name: K::Name,
    },
    /// To a learner: a file whole, or that there is none.
    Copy {
        /// The learner's session.
        session: Session,
        /// Its name.
        name: K::Name,
        /// The file.
        copy: Option<K::Copy>,
        /// Up to here records had been applied when it was read.
        as_of: u64,
    },
    /// From a learner: the tree is whole, durably.
    Done {
        /// The learner's session.
        session: Session,
    },
    /// To the primary: this brick can hold nothing any more; take it out.
    Failed,
    /// Nothing but the configuration; `is_answer` where it answers another Hello.
    Hello {
        /// False asks for one in return.
        is_answer: bool,
    },
    /// To any copy: send the file of this stamp; the asker's has rotted.
    MendAsk {
        /// Its name.
        name: K::Name,
        /// The stamp that its bytes must have.
        stamp: Position,
    },
    /// The file of that stamp, verified by the sender.
    Mend {
        /// Its name.
        name: K::Name,
        /// Its stamp.
        stamp: Position,
        /// The file.
        copy: K::Copy,
    },
}

/// Sent by the primary with each beat.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    /// When, by the primary's clock. The primary's lease from whoever answers counts from here.
    pub sent: Time,
    /// A lease for the receiver to read by.
    pub grant: Option<Grant>,
}

/// A follower's answer to a beat: it will not serve as primary for a grace from now.
#[derive(Debug, Clone, Copy)]
pub struct BeatAck {
    /// The beat's `sent`.
    pub sent: Time,
    /// When, by the follower's clock. The lease granted in return counts from here.
    pub asked: Time,
}

/// Leave to read without asking.
#[derive(Debug, Clone, Copy)]
pub struct Grant {
    /// The answer that it is granted for.
    pub asked: Time,
    /// How long, counted from `asked` by the reader's clock, in µs.
    pub lasts_us: u64,
}
