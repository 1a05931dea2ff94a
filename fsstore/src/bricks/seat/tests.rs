use std::path::PathBuf;
use std::sync::Arc;

use placement::keeper::{Ledger, Revision};

use super::{Kept, OF_BRICK, Seat, Seen, decode, encode};
use crate::brick::crashdisk::{Abilities, CrashDisk, Fault, Model, Random, World};
use crate::brick::disk::Disk;
use crate::bricks::identity::{Doubt, FORMAT, Label, Place, Uuid};
use crate::bricks::plan::{NewMember, NewPlan, Plan};
use crate::bricks::seats::seats_of;

const PLAN: NewPlan<'_> = NewPlan {
    name: "main",
    replicas: 2,
    grouping_key: (1, 2),
    group_bits: 5,
    first_holds_all: false,
};

fn label(volume: u8) -> Label {
    Label {
        format: FORMAT,
        volume: Uuid([volume; 16]),
        volume_name: "main".to_owned(),
        brick: Uuid([1; 16]),
        number: Some(0),
        replicas: 2,
        place: Place {
            inode: 1,
            born_ns: 1,
        },
    }
}

fn kept(number: u64) -> Kept {
    let brick = |number: u8| NewMember {
        uuid: Uuid([number; 16]),
        dir: PathBuf::from(format!("/disk{number}")),
        device: format!("sd{number}"),
        weight: 1_000,
    };
    let plan = Plan::new(PLAN, vec![brick(1), brick(2)]).unwrap();
    Kept {
        promised: number,
        doubt: Some(Doubt::Stale).filter(|_| number.is_multiple_of(2)),
        ledger: Arc::new(Ledger {
            volume: [9; 16],
            at: Revision { term: 1, number },
            before: Revision {
                term: 1,
                number: number - 1,
            },
            seats: seats_of(&plan, Uuid([3; 16])),
            config: plan,
        }),
    }
}

fn disk(world: World) -> Arc<CrashDisk> {
    Arc::new(CrashDisk::new(world, Abilities::default()))
}

fn seat(disk: &Arc<CrashDisk>) -> Seat<CrashDisk> {
    Seat::new(Arc::clone(disk), disk.root(), OF_BRICK)
}

#[test]
fn what_is_kept_is_read_as_it_was_written() {
    for number in [1, 2] {
        let bytes = encode(&kept(number)).unwrap();
        assert_eq!(decode(&bytes), Ok(kept(number)));
    }
}

#[test]
fn a_ledger_with_a_flipped_bit_anywhere_is_not_believed() {
    let bytes = encode(&kept(1)).unwrap();
    for at in (0..bytes.len()).step_by(7) {
        let mut rotten = bytes.clone();
        rotten[at] ^= 1;
        assert!(decode(&rotten).is_err(), "byte {at}");
    }
    assert!(decode(&bytes[..bytes.len() - 1]).is_err());
}

#[test]
fn a_damaged_ledger_is_none_and_a_damaged_label_an_error() {
    let disk = disk(World::new());
    let seat = seat(&disk);
    seat.begin(&label(1)).unwrap();
    assert_eq!(seat.look().unwrap(), Seen::HalfMade(label(1)));
    seat.finish().unwrap();
    seat.replace(OF_BRICK.ledger, b"portico ledger 1 00\n{}")
        .unwrap();
    assert_eq!(seat.look().unwrap(), Seen::Seat(label(1), None));
    seat.replace(OF_BRICK.label, b"{").unwrap();
    let error = seat.look().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    seat.erase().unwrap();
    assert_eq!(seat.look().unwrap(), Seen::Nothing);
}

/// What a seat holds after each step of a life: made, then written three times, then relabeled.
fn live(seat: &Seat<CrashDisk>, mut note: impl FnMut(Seen)) -> std::io::Result<()> {
    note(Seen::Nothing);
    seat.begin(&label(1))?;
    note(Seen::HalfMade(label(1)));
    seat.write(&kept(1))?;
    // A ledger of a brick without a label is not looked at.
    note(Seen::HalfMade(label(1)));
    seat.finish()?;
    note(Seen::Seat(label(1), Some(kept(1))));
    for number in [2, 3] {
        seat.write(&kept(number))?;
        note(Seen::Seat(label(1), Some(kept(number))));
    }
    seat.relabel(&label(2))?;
    note(Seen::Seat(label(2), Some(kept(3))));
    Ok(())
}

fn states() -> Vec<Seen> {
    let disk = disk(World::new());
    let mut states = Vec::new();
    live(&seat(&disk), |seen| states.push(seen)).unwrap();
    assert_eq!(seat(&disk).look().unwrap(), states[states.len() - 1]);
    states
}

#[test]
fn after_a_power_cut_anywhere_a_seat_is_as_before_the_step_or_after_it() {
    let states = states();
    let full = disk(World::new());
    live(&seat(&full), |_| {}).unwrap();
    let (changes, _) = full.counts();
    assert!(changes > 20, "{changes} changes");
    for model in [Model::Journal, Model::Adversary] {
        for cut in 0..=changes {
            for run in 0..5 {
                let disk = disk(World::new().with(model));
                disk.cut_after(cut);
                let mut done = 0;
                let outcome = live(&seat(&disk), |_| done += 1);
                assert_eq!(outcome.is_ok(), cut == changes);
                let left = disk.world().after_power_cut(&mut Random(run));
                let seen = seat(&self::disk(left)).look().unwrap();
                let next = states.get(done).unwrap_or(&states[done - 1]);
                assert!(
                    seen == states[done - 1] || seen == *next,
                    "{model:?}, cut after {cut}, run {run}: {seen:?}"
                );
            }
        }
    }
}

#[test]
fn a_call_that_fails_leaves_the_seat_as_before_the_step_or_after_it() {
    let states = states();
    let full = disk(World::new());
    live(&seat(&full), |_| {}).unwrap();
    let (_, calls) = full.counts();
    for at in 0..calls {
        let disk = disk(World::new());
        let errno = rustix::io::Errno::NOSPC;
        disk.fail(Fault { at, errno });
        let mut done = 0;
        let outcome = live(&seat(&disk), |_| done += 1);
        assert!(outcome.is_err(), "call {at}");
        let seen = seat(&disk).look().unwrap();
        let next = states.get(done).unwrap_or(&states[done - 1]);
        assert!(
            seen == states[done - 1] || seen == *next,
            "call {at}: {seen:?}"
        );
    }
}
