//! The rules that keep copies equal, and for the simulator a switch that breaks each of them: a
//! rule whose breach no seed notices is either superfluous or untested.

/// A rule of the protocol. Each names what is done where the rule is *kept*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A record is committed when every brick in sync has it.
    CommitNeedsAll,
    /// A brick acknowledges what is durable on it.
    AckWhenDurable,
    /// The primary counts itself when the record is durable there too.
    PrimaryDurable,
    /// Nothing is applied before it is committed.
    ApplyWhenCommitted,
    /// A brick being added must acknowledge from the moment the change is sent.
    JointCommit,
    /// A brick being added must grant the primary's lease from the moment the change is sent.
    JointLease,
    /// A change of unknown outcome stays possible until its epoch has passed.
    UnknownStaysOpen,
    /// A new primary waits out the lease that it gave the old one.
    Grace,
    /// The grace outlasts the lease although clocks drift.
    GraceAboveDrift,
    /// After a brick was taken out nothing is committed until its lease to read is over.
    HoldAfterRemoval,
    /// The primary grants no longer than its own lease.
    ChainedGrant,
    /// A lease counts from when it was asked for, not from when it came.
    LeaseFromAsking,
    /// The primary reads, and refuses by a precondition, under a lease.
    PrimaryReadsByLease,
    /// A follower reads under a lease.
    FollowerReadsByLease,
    /// A follower asks the primary for names with records not known to be committed.
    UncommittedAsksPrimary,
    /// A primary serves only in epochs made in its present life.
    OwnEpoch,
    /// A primary serves after a barrier of its own is committed.
    Barrier,
    /// Records are accepted after the one they follow.
    PrevMatches,
    /// A record that the primary does not have gives way.
    ConflictsGiveWay,
    /// An older epoch's primary is refused.
    OldEpochRefused,
    /// A learner is added once its tree is whole and its log has all that is committed.
    PromoteWhenWhole,
    /// A learner's tree that is not whole is marked so, durably.
    IncompleteMarked,
    /// Names that the primary does not have are removed from a learner.
    ExtraNamesRemoved,
    /// A file copied does not replace what a later record made.
    CopyNotOverNewer,
    /// What a record derives from another file is fetched, while a tree is not whole.
    DerivedFetched,
    /// A tree is whole when it has caught up with the latest state any copy was taken from.
    WholeWhenCaughtUp,
    /// With fewer in sync than asked for, writes are refused.
    MinInSync,
    /// One change of a name at a time is between decision and commit.
    OneChangeOfAName,
    /// A disk without its log does not count as in sync, whatever the configuration says.
    BlankIsNotInSync,
    /// A rotten file is replaced by one of its own stamp.
    MendOwnStamp,
    /// The log keeps what is not durable in the tree.
    TrimWhenDurable,
}

/// All rules, in the order of the table.
pub const RULES: [Rule; 31] = [
    Rule::CommitNeedsAll,
    Rule::AckWhenDurable,
    Rule::PrimaryDurable,
    Rule::ApplyWhenCommitted,
    Rule::JointCommit,
    Rule::JointLease,
    Rule::UnknownStaysOpen,
    Rule::Grace,
    Rule::GraceAboveDrift,
    Rule::HoldAfterRemoval,
    Rule::ChainedGrant,
    Rule::LeaseFromAsking,
    Rule::PrimaryReadsByLease,
    Rule::FollowerReadsByLease,
    Rule::UncommittedAsksPrimary,
    Rule::OwnEpoch,
    Rule::Barrier,
    Rule::PrevMatches,
    Rule::ConflictsGiveWay,
    Rule::OldEpochRefused,
    Rule::PromoteWhenWhole,
    Rule::IncompleteMarked,
    Rule::ExtraNamesRemoved,
    Rule::CopyNotOverNewer,
    Rule::DerivedFetched,
    Rule::WholeWhenCaughtUp,
    Rule::MinInSync,
    Rule::OneChangeOfAName,
    Rule::BlankIsNotInSync,
    Rule::MendOwnStamp,
    Rule::TrimWhenDurable,
];

/// Which rule is broken: none, but in the simulator.
#[derive(Debug, Clone, Copy, Default)]
pub struct Breach {
    #[cfg(any(test, feature = "simulation"))]
    broken: Option<Rule>,
}

impl Breach {
    /// Breaks a rule.
    #[cfg(any(test, feature = "simulation"))]
    pub fn of(broken: Option<Rule>) -> Self {
        Self { broken }
    }

    /// True where the rule is kept: always, but in the simulator.
    #[cfg(any(test, feature = "simulation"))]
    pub fn keeps(self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    /// True where the rule is kept: always, but in the simulator.
    #[cfg(not(any(test, feature = "simulation")))]
    pub const fn keeps(self, _rule: Rule) -> bool {
        true
    }
}
