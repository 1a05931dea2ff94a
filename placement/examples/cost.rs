//! What the protocol costs on one host, where messages are calls: nanoseconds a write, without any
//! disk, for 1, 2 and 3 copies.
//!
//!     cargo run --release -p portico-placement --example cost

use std::collections::VecDeque;
use std::time::Instant;

use placement::layout::BrickId;
use placement::replica::{
    Action, BrickSet, Effect, Event, GroupConfig, Kinds, Life, OpId, Position, Replica, Stored,
    Terms, Time, Verdict,
};

#[derive(Debug, Clone)]
struct Plain;

impl Kinds for Plain {
    type Name = u64;
    type Body = ();
    type Copy = ();
    type Page = ();
}

const WRITES: u64 = 200_000;

/// All copies of a group; disks that are durable at once.
struct Group {
    replicas: Vec<Replica<Plain>>,
    inbox: VecDeque<(usize, Event<Plain>)>,
    actions: Vec<Action<Plain>>,
    answers: u64,
}

impl Group {
    fn new(copies: u32) -> Self {
        let terms = Terms {
            leases: None,
            patience_us: u64::MAX,
            retry_us: u64::MAX,
            min_in_sync: 1,
            retained: 1000,
            batch: 64,
            tells_commits: true,
        };
        let bricks: Vec<BrickId> = (0..copies).map(BrickId).collect();
        let life = |brick: BrickId| Life { brick, number: 1 };
        let start = |brick: &BrickId| {
            let stored = Stored {
                base: Position::default(),
                records: Vec::new(),
                checkpoint: 0,
                is_complete: true,
            };
            Replica::start(Time(0), life(*brick), terms, stored)
        };
        let config = GroupConfig {
            epoch: 2,
            primary: BrickId(0),
            in_sync: BrickSet::of(&bricks),
            maker: life(BrickId(0)),
        };
        let mut group = Self {
            replicas: bricks.iter().map(start).collect(),
            inbox: VecDeque::new(),
            actions: Vec::new(),
            answers: 0,
        };
        for brick in 0..copies as usize {
            group.inbox.push_back((brick, Event::Configured(config)));
        }
        group.drain();
        group
    }

    fn drain(&mut self) {
        while let Some((brick, event)) = self.inbox.pop_front() {
            self.replicas[brick].step(Time(1), event, &mut self.actions);
            for action in self.actions.drain(..) {
                match action {
                    Action::Send { to, message } => {
                        let from = BrickId(brick as u32);
                        let to = to.0 as usize;
                        self.inbox
                            .push_back((to, Event::Received { from, message }));
                    }
                    Action::Persist { ticket, .. } => {
                        self.inbox.push_back((brick, Event::Persisted { ticket }));
                    }
                    Action::Decide { op, .. } => {
                        let effect = Effect {
                            name: op.0,
                            is_derived: false,
                        };
                        let effects = vec![effect];
                        let verdict = Verdict::Write { effects, body: () };
                        self.inbox
                            .push_back((brick, Event::Decided { op, verdict }));
                    }
                    Action::Answer { .. } => self.answers += 1,
                    _ => {}
                }
            }
        }
    }
}

fn main() {
    for copies in 1..=3 {
        let mut group = Group::new(copies);
        let begun = Instant::now();
        for number in 1..=WRITES {
            let op = OpId(number);
            let names = vec![number];
            group.inbox.push_back((
                0,
                Event::Request {
                    op,
                    names,
                    body: (),
                },
            ));
            group.drain();
            if number % 1000 == 0 {
                for brick in 0..copies as usize {
                    let seq = group.replicas[brick].progress().0;
                    group.inbox.push_back((brick, Event::Checkpointed { seq }));
                }
            }
        }
        let ns = begun.elapsed().as_nanos() / u128::from(WRITES);
        assert_eq!(group.answers, WRITES);
        println!("{copies} copies: {ns} ns a write");
    }
}
