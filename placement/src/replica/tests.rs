//! Single rules, by hand. Whether they suffice, the simulator says.

use super::{
    Action, Beat, BeatAck, BrickSet, Event, GroupConfig, Kinds, Leases, Life, Message, OpId,
    Outcome, Payload, Position, Read, Replica, Stored, Terms, Time, Verdict,
};
use crate::layout::BrickId;
use crate::replica::Effect;

#[derive(Debug, Clone)]
struct Plain;

impl Kinds for Plain {
    type Name = u8;
    type Body = ();
    type Copy = ();
    type Page = ();
}

const ME: BrickId = BrickId(0);
const OTHER: BrickId = BrickId(1);
const LEASE_US: u64 = 1_000;
const GRACE_US: u64 = 1_200;

fn terms(has_leases: bool) -> Terms {
    let leases = Leases {
        lease_us: LEASE_US,
        grace_us: GRACE_US,
        beat_us: 100,
    };
    Terms {
        leases: has_leases.then_some(leases),
        patience_us: 1 << 40,
        retry_us: 1 << 40,
        min_in_sync: 1,
        retained: 100,
        batch: 16,
        tells_commits: true,
    }
}

fn config(epoch: u64, in_sync: &[BrickId]) -> GroupConfig {
    GroupConfig {
        epoch,
        primary: ME,
        in_sync: BrickSet::of(in_sync),
        maker: Life {
            brick: ME,
            number: 1,
        },
    }
}

/// One replica, the primary, with the test in place of everyone else.
struct Rig {
    replica: Replica<Plain>,
    now: u64,
    epoch: u64,
    in_sync: Vec<BrickId>,
}

impl Rig {
    /// A primary that serves, with a barrier committed.
    fn serving(in_sync: &[BrickId], has_leases: bool) -> Self {
        let life = Life {
            brick: ME,
            number: 1,
        };
        let stored = Stored {
            base: Position::default(),
            records: Vec::new(),
            checkpoint: 0,
            is_complete: true,
        };
        let mut rig = Self {
            replica: Replica::start(Time(0), life, terms(has_leases), stored),
            now: 2 * GRACE_US,
            epoch: 2,
            in_sync: in_sync.to_vec(),
        };
        rig.tell(Event::Configured(config(2, in_sync)));
        rig.tell(Event::Tick);
        rig.tell(Event::Persisted { ticket: 1 });
        for other in in_sync.iter().filter(|brick| **brick != ME) {
            let ack = Payload::Ack {
                upto: 1,
                session: 0,
                beat: None,
            };
            rig.hear_from(*other, ack);
        }
        assert!(rig.replica.is_serving());
        rig
    }

    fn tell(&mut self, event: Event<Plain>) -> Vec<Action<Plain>> {
        let mut actions = Vec::new();
        self.replica.step(Time(self.now), event, &mut actions);
        actions
    }

    fn hear(&mut self, payload: Payload<Plain>) -> Vec<Action<Plain>> {
        self.hear_from(OTHER, payload)
    }

    fn hear_from(&mut self, from: BrickId, payload: Payload<Plain>) -> Vec<Action<Plain>> {
        let config = config(self.epoch, &self.in_sync);
        let message = Message { config, payload };
        self.tell(Event::Received { from, message })
    }

    /// Asks for a change of a name; says what was answered once it is durable here.
    fn write(&mut self, op: u64, ticket: u64) -> Vec<Outcome> {
        let op = OpId(op);
        let names = vec![7];
        self.tell(Event::Request {
            op,
            names,
            body: (),
        });
        let effects = vec![Effect {
            name: 7,
            is_derived: false,
        }];
        let verdict = Verdict::Write { effects, body: () };
        self.tell(Event::Decided { op, verdict });
        outcomes(&self.tell(Event::Persisted { ticket }))
    }

    /// A beat, answered at once.
    fn beat(&mut self) -> Option<Beat> {
        self.now += 100;
        let beat = beats(&self.tell(Event::Tick));
        if let Some(beat) = beat {
            let (sent, asked) = (beat.sent, Time(self.now));
            self.hear(Payload::Ack {
                upto: 0,
                session: 0,
                beat: Some(BeatAck { sent, asked }),
            });
        }
        beat
    }
}

fn outcomes(actions: &[Action<Plain>]) -> Vec<Outcome> {
    let outcome = |action: &Action<Plain>| match action {
        Action::Answer { outcome, .. } => Some(*outcome),
        _ => None,
    };
    actions.iter().filter_map(outcome).collect()
}

fn beats(actions: &[Action<Plain>]) -> Option<Beat> {
    actions.iter().find_map(|action| match action {
        Action::Send { message, .. } => match &message.payload {
            Payload::Append { beat, .. } => *beat,
            _ => None,
        },
        _ => None,
    })
}

fn proposed(actions: &[Action<Plain>]) -> Option<GroupConfig> {
    actions.iter().find_map(|action| match action {
        Action::Cas { next } => Some(*next),
        _ => None,
    })
}

fn join(session: u64) -> Payload<Plain> {
    Payload::Join {
        session,
        ends: vec![Position::default()],
        commit: 0,
        is_complete: true,
    }
}

#[test]
fn alone_with_an_unresolved_addition_a_primary_is_not_alone() {
    let mut rig = Rig::serving(&[ME], true);
    assert_eq!(rig.replica.may_read(Time(rig.now), &7), Read::Here);
    rig.hear(join(9));
    let actions = rig.hear(Payload::Ack {
        upto: 1,
        session: 9,
        beat: None,
    });
    assert_eq!(proposed(&actions).unwrap().in_sync.len(), 2);
    // The other may be in sync by now, and primary a grace from now: it has promised nothing.
    assert_eq!(rig.replica.may_read(Time(rig.now), &7), Read::Nowhere);
    // Nor is a record committed without it.
    assert!(rig.write(1, 2).is_empty());
    let actions = rig.hear(Payload::Ack {
        upto: 2,
        session: 9,
        beat: None,
    });
    assert!(matches!(outcomes(&actions)[..], [Outcome::Done { .. }]));
}

#[test]
fn a_primary_reads_while_all_others_have_promised() {
    let mut rig = Rig::serving(&[ME, OTHER], true);
    assert_eq!(rig.replica.may_read(Time(rig.now), &7), Read::Nowhere);
    let sent = rig.beat().unwrap().sent.0;
    let may_read = |rig: &Rig, at: u64| rig.replica.may_read(Time(at), &7) == Read::Here;
    assert!(may_read(&rig, sent + LEASE_US - 1));
    assert!(!may_read(&rig, sent + LEASE_US));
}

#[test]
fn what_a_primary_grants_ends_with_its_own_lease() {
    let mut rig = Rig::serving(&[ME, OTHER], true);
    let first = rig.beat().unwrap();
    assert!(first.grant.is_none(), "nobody asked yet");
    let second = rig.beat().unwrap();
    let grant = second.grant.unwrap();
    assert_eq!(grant.asked.0, first.sent.0);
    assert_eq!(second.sent.0 + grant.lasts_us, first.sent.0 + LEASE_US);
}

#[test]
fn the_lease_of_a_brick_taken_out_is_waited_out() {
    let mut rig = Rig::serving(&[ME, OTHER], true);
    rig.beat();
    let granted = rig.beat().unwrap().sent.0;
    let actions = rig.tell(Event::PeerFailed { brick: OTHER });
    let next = proposed(&actions).unwrap();
    assert_eq!(next.in_sync, BrickSet::of(&[ME]));
    rig.tell(Event::Configured(next));
    assert!(rig.write(1, 2).is_empty(), "the other may still read");
    rig.now = granted + GRACE_US - 1;
    assert!(outcomes(&rig.tell(Event::Tick)).is_empty());
    rig.now += 1;
    let told = outcomes(&rig.tell(Event::Tick));
    assert!(matches!(told[..], [Outcome::Done { .. }]));
}

#[test]
fn a_brick_taken_out_that_knows_of_it_is_not_waited_for() {
    let mut rig = Rig::serving(&[ME, OTHER], true);
    rig.beat();
    rig.beat();
    let actions = rig.tell(Event::PeerFailed { brick: OTHER });
    rig.tell(Event::Configured(proposed(&actions).unwrap()));
    assert!(rig.write(1, 2).is_empty());
    (rig.epoch, rig.in_sync) = (3, vec![ME]);
    rig.hear(Payload::Hello { is_answer: true });
    let told = outcomes(&rig.tell(Event::Tick));
    assert!(matches!(told[..], [Outcome::Done { .. }]));
}

#[test]
fn an_acknowledgement_of_an_earlier_session_does_not_count() {
    let mut rig = Rig::serving(&[ME], false);
    rig.hear(join(9));
    rig.hear(join(10));
    let old = Payload::Ack {
        upto: 1,
        session: 9,
        beat: None,
    };
    assert!(proposed(&rig.hear(old)).is_none());
    let new = Payload::Ack {
        upto: 1,
        session: 10,
        beat: None,
    };
    assert!(proposed(&rig.hear(new)).is_some());
}

#[test]
fn requests_for_a_name_wait_for_each_other() {
    let mut rig = Rig::serving(&[ME], false);
    let ask = |op: u64, names: &[u8]| Event::Request {
        op: OpId(op),
        names: names.to_vec(),
        body: (),
    };
    let decides = |actions: Vec<Action<Plain>>| {
        let op = |action: &Action<Plain>| match action {
            Action::Decide { op, .. } => Some(op.0),
            _ => None,
        };
        actions.iter().filter_map(op).collect::<Vec<u64>>()
    };
    assert_eq!(decides(rig.tell(ask(1, &[1]))), [1]);
    assert!(decides(rig.tell(ask(2, &[1, 2]))).is_empty());
    assert!(decides(rig.tell(ask(3, &[2, 1]))).is_empty());
    assert_eq!(decides(rig.tell(ask(4, &[3]))), [4]);
    let refuse = |op: u64| Event::Decided {
        op: OpId(op),
        verdict: Verdict::Refuse,
    };
    assert_eq!(decides(rig.tell(refuse(1))), [2]);
    assert_eq!(decides(rig.tell(refuse(2))), [3]);
}

#[test]
fn with_too_few_in_sync_writes_are_refused_and_reads_go_on() {
    let mut rig = Rig::serving(&[ME], false);
    rig.replica.terms.min_in_sync = 2;
    let names = vec![7];
    let op = OpId(1);
    let actions = rig.tell(Event::Request {
        op,
        names,
        body: (),
    });
    assert_eq!(outcomes(&actions), [Outcome::TooFew { in_sync: 1 }]);
    assert_eq!(rig.replica.may_read(Time(rig.now), &7), Read::Here);
}

#[test]
fn on_one_host_a_write_costs_each_copy_two_messages() {
    let mut rig = Rig::serving(&[ME, OTHER], false);
    let sends = |actions: &[Action<Plain>]| {
        let is_send = |action: &&Action<Plain>| matches!(action, Action::Send { .. });
        actions.iter().filter(is_send).count()
    };
    let effects = vec![Effect {
        name: 7,
        is_derived: false,
    }];
    let op = OpId(1);
    let mut count = sends(&rig.tell(Event::Request {
        op,
        names: vec![7],
        body: (),
    }));
    let verdict = Verdict::Write { effects, body: () };
    count += sends(&rig.tell(Event::Decided { op, verdict }));
    count += sends(&rig.tell(Event::Persisted { ticket: 2 }));
    count += sends(&rig.hear(Payload::Ack {
        upto: 2,
        session: 0,
        beat: None,
    }));
    assert_eq!(count, 2, "the record, and that it is committed");
}

#[test]
fn the_grace_outlasts_the_lease_whatever_the_clocks_do() {
    let leases = Leases::new(1_000_000, 50);
    // The reader's clock goes slow, the waiter's fast.
    let (reads_us, waits_us) = (leases.lease_us * 1000 / 950, leases.grace_us * 1000 / 1050);
    assert!(reads_us <= waits_us, "{reads_us} {waits_us}");
    assert!(leases.beat_us * 4 <= leases.lease_us);
}

#[test]
fn where_all_places_are_taken_one_that_is_not_wanted_leaves_first() {
    let all: Vec<BrickId> = (0..7).map(BrickId).collect();
    let mut rig = Rig::serving(&all, false);
    let eighth = BrickId(7);
    rig.tell(Event::Wanted(BrickSet::of(&[ME, eighth])));
    rig.hear_from(eighth, join(9));
    let ack = Payload::Ack {
        upto: 1,
        session: 9,
        beat: None,
    };
    let next = proposed(&rig.hear_from(eighth, ack)).unwrap();
    assert_eq!(next.in_sync, BrickSet::of(&all).without(BrickId(1)));
    let mut next = proposed(&rig.tell(Event::Configured(next))).unwrap();
    assert!(next.in_sync.contains(eighth) && next.in_sync.len() == 7);
    while let Some(later) = proposed(&rig.tell(Event::Configured(next))) {
        next = later;
    }
    assert_eq!(next.in_sync, BrickSet::of(&[ME, eighth]));
}
