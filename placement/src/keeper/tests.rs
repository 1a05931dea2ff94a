use std::collections::BTreeSet;

use super::{Found, Keeper, Label, Ledger, Refusal, Revision, Start, Uuid, start};
use crate::simulation::Random;

const VOLUME: Uuid = [1; 16];

fn seat(number: u8) -> Uuid {
    [100 + number; 16]
}

fn seats(count: u8) -> BTreeSet<Uuid> {
    (0..count).map(seat).collect()
}

fn ledger(term: u64, number: u64, count: u8) -> Ledger<u64> {
    Ledger {
        volume: VOLUME,
        at: Revision { term, number },
        before: Revision {
            term,
            number: number - 1,
        },
        seats: seats(count),
        config: number,
    }
}

fn found(number: u8, ledger: Ledger<u64>) -> Found<u64> {
    let label = Label {
        volume: VOLUME,
        seat: seat(number),
    };
    Found::Seat {
        label,
        promised: ledger.at.term,
        ledger,
    }
}

#[test]
fn the_newest_ledger_counts_and_a_term_begins() {
    let all = [
        found(0, ledger(1, 4, 3)),
        found(1, ledger(1, 5, 3)),
        Found::Missing,
    ];
    let started = start(&all).unwrap();
    let at = Revision { term: 2, number: 6 };
    assert_eq!((started.claim.at, started.claim.config), (at, 5));
    assert_eq!(started.missing, [seat(2)]);
    assert!(started.stale.is_empty());
}

#[test]
fn a_brick_with_an_older_ledger_is_stale() {
    let all = [
        found(0, ledger(1, 3, 3)),
        found(1, ledger(1, 5, 3)),
        found(2, ledger(1, 4, 3)),
    ];
    assert_eq!(start(&all).unwrap().stale, [seat(0)]);
}

#[test]
fn of_two_bricks_one_is_not_enough_and_with_the_servers_own_directory_it_is() {
    let alone = [found(0, ledger(1, 5, 2)), Found::Missing];
    let refusal = Refusal::NoMajority {
        found: 1,
        needed: 2,
        missing: vec![seat(1)],
    };
    assert_eq!(start(&alone), Err(refusal));
    let with_third = [
        found(0, ledger(1, 5, 3)),
        Found::Missing,
        found(2, ledger(1, 5, 3)),
    ];
    assert!(start(&with_third).is_ok());
}

#[test]
fn what_does_not_belong_is_refused_by_its_name() {
    let mine = || found(0, ledger(1, 5, 2));
    let foreign = Found::Seat {
        label: Label {
            volume: [2; 16],
            seat: seat(1),
        },
        promised: 9,
        ledger: Ledger {
            volume: [2; 16],
            ..ledger(9, 9, 2)
        },
    };
    let refusal = |found: &[Found<u64>]| start(found).err();
    let volume = [2; 16];
    assert_eq!(
        refusal(&[mine(), foreign]),
        Some(Refusal::Foreign { place: 1, volume })
    );
    let places = [0, 1];
    assert_eq!(
        refusal(&[mine(), mine()]),
        Some(Refusal::Cloned {
            places,
            seat: seat(0)
        })
    );
    assert_eq!(
        refusal(&[mine(), Found::HalfMade]),
        Some(Refusal::HalfMade { place: 1 })
    );
    let stranger = found(7, ledger(1, 2, 2));
    assert_eq!(
        refusal(&[mine(), stranger]),
        Some(Refusal::Stranger {
            place: 1,
            seat: seat(7)
        })
    );
    let at = Revision { term: 1, number: 5 };
    let other = Ledger {
        config: 77,
        ..ledger(1, 5, 2)
    };
    assert_eq!(
        refusal(&[mine(), found(1, other)]),
        Some(Refusal::Contradiction { at })
    );
    assert_eq!(refusal(&[Found::Missing]), Some(Refusal::NoVolume));
}

#[test]
fn a_ledger_is_in_force_when_most_seats_have_it() {
    let mut keeper = Keeper::claim(ledger(2, 6, 3));
    assert!(keeper.in_force().is_none());
    let at = Revision { term: 2, number: 6 };
    assert_eq!((keeper.promise(), keeper.pending()), (Some(2), None));
    keeper.promised(seat(1));
    keeper.promised(seat(1));
    assert!(keeper.pending().is_none(), "a seat counts once");
    keeper.promised(seat(0));
    assert_eq!(keeper.pending().map(|ledger| ledger.at), Some(at));
    assert!(!keeper.written(seat(0), at));
    assert!(!keeper.written(seat(0), at), "a seat counts once");
    assert!(keeper.written(seat(2), at));
    // Two more bricks: most of the old seats and most of the new.
    let next = keeper.propose(seats(5), 7).unwrap().at;
    assert!(keeper.propose(seats(5), 8).is_none());
    assert!(!keeper.written(seat(3), next));
    assert!(!keeper.written(seat(4), next));
    assert!(!keeper.written(seat(0), next));
    assert!(keeper.written(seat(1), next));
    assert_eq!(keeper.in_force().unwrap().config, 7);
}

/// Starts, changes, crashes between any two writes, and places that are away: whatever was in
/// force is found again, or the start is refused.
#[test]
fn nothing_in_force_is_forgotten() {
    for run in 0..20_000 {
        let mut random = Random::new(run);
        let count = random.within(1, 5) as u8;
        let mut disks: Vec<Ledger<u64>> = (0..count).map(|_| ledger(1, 1, count)).collect();
        let mut terms = vec![1; usize::from(count)];
        let (mut in_force, mut newest) = (1, Revision { term: 1, number: 1 });
        for _ in 0..random.within(1, 12) {
            let away = random.below(1 << count);
            let place = |number: u8| {
                let is_away = away >> number & 1 == 1 && away != (1 << count) - 1;
                if is_away {
                    Found::Missing
                } else {
                    let label = Label {
                        volume: VOLUME,
                        seat: seat(number),
                    };
                    Found::Seat {
                        label,
                        promised: terms[usize::from(number)],
                        ledger: disks[usize::from(number)].clone(),
                    }
                }
            };
            let all: Vec<Found<u64>> = (0..count).map(place).collect();
            let Ok(Start { claim, .. }) = start(&all) else {
                continue;
            };
            assert!(claim.config >= in_force, "run {run}: forgotten");
            assert!(claim.at > newest, "run {run}: a revision twice");
            let mut keeper = Keeper::claim(claim);
            let mut value = u64::MAX;
            // Writes reach seats in any order, until the crash.
            for _ in 0..random.below(20) {
                let number = random.below(u64::from(count)) as u8;
                let is_here = matches!(all[usize::from(number)], Found::Seat { .. });
                if let Some(term) = keeper.promise() {
                    if is_here {
                        terms[usize::from(number)] = term;
                        keeper.promised(seat(number));
                    }
                } else if let Some(ledger) = keeper.pending().cloned().filter(|_| is_here) {
                    disks[usize::from(number)] = ledger.clone();
                    if keeper.written(seat(number), ledger.at) {
                        (in_force, newest) = (ledger.config, ledger.at);
                    }
                } else if keeper.pending().is_none() {
                    value = in_force + 1 + random.below(3);
                    keeper.propose(seats(count), value);
                }
            }
            assert!(value >= in_force);
        }
    }
}
