use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use placement::keeper::{self, Ledger, Revision};
use placement::layout::BrickId;
use tempfile::TempDir;

use super::{Opened, Writer, claim, seat_of, start};
use crate::brick::crashdisk::{Abilities, CrashDisk, Model, Random, World};
use crate::brick::disk::Disk;
use crate::bricks::identity::{Doubt, FORMAT, IdentityError, Label, Place, Uuid};
use crate::bricks::making::{Arrival, NewVolume, create};
use crate::bricks::plan::{NewMember, NewPlan, Plan};
use crate::bricks::seat::{Kept, OF_BRICK, Seat, Seen};
use crate::bricks::seats::seats_of;

struct Scene {
    dir: TempDir,
    bricks: Vec<PathBuf>,
}

const PLAN: NewPlan<'_> = NewPlan {
    name: "main",
    replicas: 2,
    grouping_key: (1, 2),
    group_bits: 5,
    first_holds_all: false,
};

fn scene(count: usize) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let bricks: Vec<_> = (0..count)
        .map(|number| root.join(format!("disk{number}")))
        .collect();
    let scene = Scene { dir, bricks };
    create(&scene.own(), &new(&scene.bricks)).unwrap();
    scene
}

fn new(dirs: &[PathBuf]) -> NewVolume<'_> {
    NewVolume {
        name: "main",
        replicas: 2,
        dirs,
        adopts_first: false,
    }
}

impl Scene {
    fn own(&self) -> PathBuf {
        self.path("own")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn start(&self) -> Result<Opened, IdentityError> {
        start(&self.own(), &self.bricks)
    }

    fn refusal(&self) -> String {
        self.start().map(drop).unwrap_err().to_string()
    }
}

fn run(command: &str, args: &[&Path]) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap())
        .args(words)
        .args(args)
        .status();
    assert!(status.unwrap().success(), "{command}");
}

fn change(opened: &Opened, edit: impl FnOnce(&mut Plan) + Send + 'static) {
    let (tell, told) = channel();
    opened.seats.change(edit, move |_| {
        let _ = tell.send(());
    });
    told.recv_timeout(Duration::from_secs(20)).unwrap();
}

/// Starts and changes something three times, so that who is away gets old.
fn go_on(opened: &Opened) {
    for turn in 0..3 {
        change(opened, move |plan| plan.is_rebalance_paused = turn % 2 == 0);
    }
}

/// Takes a brick's groups from it, as when it failed.
fn take_out(opened: &Opened, id: BrickId) {
    change(opened, move |plan| {
        for group in &mut plan.groups {
            group.in_sync = group.in_sync.without(id);
            let first = group.in_sync.iter().next();
            group.primary = first.unwrap_or(group.primary);
        }
    });
}

fn doubts(opened: &Opened) -> Vec<Option<Doubt>> {
    opened.present.iter().map(|brick| brick.doubt).collect()
}

#[test]
fn every_start_is_a_later_term_and_finds_what_was_in_force() {
    let scene = scene(3);
    for term in 1..4 {
        let opened = scene.start().unwrap();
        assert_eq!((opened.term, opened.present.len()), (term, 3));
        assert_eq!(opened.seats.plan().is_rebalance_paused, term > 1);
        change(&opened, |plan| plan.is_rebalance_paused = true);
        drop(opened);
    }
}

#[test]
fn the_server_knows_its_bricks_without_being_told() {
    let scene = scene(3);
    drop(start(&scene.own(), &[]).unwrap());
    let one = &scene.bricks[..1];
    let opened = start(&scene.path("other"), one).unwrap();
    assert_eq!(opened.present.len(), 3, "the ledger names the others");
}

#[test]
fn a_brick_that_was_moved_is_found_where_it_is_and_not_doubted() {
    let mut scene = scene(3);
    let moved = scene.path("moved");
    run("mv", &[&scene.bricks[1], &moved]);
    scene.bricks[1] = moved.clone();
    let opened = scene.start().unwrap();
    assert_eq!(doubts(&opened), [None, None, None]);
    assert_eq!(opened.seats.plan().members[1].dir, moved);
}

#[test]
fn a_volume_starts_without_one_brick_of_three_and_not_without_two() {
    let scene = scene(3);
    run("mv", &[&scene.bricks[2], &scene.path("away")]);
    let opened = scene.start().unwrap();
    assert_eq!(opened.missing, [BrickId(2)]);
    drop(opened);
    run("mv", &[&scene.bricks[1], &scene.path("away too")]);
    let refusal = scene.refusal();
    assert!(
        refusal.contains("only 1 of the places") && refusal.contains("2 are needed"),
        "{refusal}"
    );
    assert!(
        refusal.contains("brick 1 (") && refusal.contains("brick 2 ("),
        "{refusal}"
    );
}

#[test]
fn of_two_bricks_either_may_be_missing_where_the_servers_own_directory_is_here() {
    for missing in 0..2 {
        let scene = scene(2);
        run("mv", &[&scene.bricks[missing], &scene.path("away")]);
        assert_eq!(scene.start().unwrap().missing.len(), 1);
    }
    let scene = scene(2);
    run("mv", &[&scene.bricks[0], &scene.path("away")]);
    run("rm -r", &[&scene.own()]);
    assert!(scene.refusal().contains("the server's own directory"));
}

#[test]
fn another_directory_of_the_server_takes_the_place_of_the_lost_one() {
    let scene = scene(2);
    run("rm -r", &[&scene.own()]);
    let opened = scene.start().unwrap();
    change(&opened, |plan| plan.is_rebalance_paused = true);
    drop(opened);
    run("mv", &[&scene.bricks[0], &scene.path("away")]);
    assert!(scene.start().unwrap().seats.plan().is_rebalance_paused);
}

#[test]
fn a_mountpoint_without_its_disk_is_a_missing_brick() {
    let scene = scene(3);
    run("mv", &[&scene.bricks[2], &scene.path("away")]);
    std::fs::create_dir(&scene.bricks[2]).unwrap();
    assert_eq!(scene.start().unwrap().missing, [BrickId(2)]);
    assert_eq!(std::fs::read_dir(&scene.bricks[2]).unwrap().count(), 0);
}

#[test]
fn all_mountpoints_without_disks_are_no_new_volume() {
    let scene = scene(2);
    for (number, dir) in scene.bricks.iter().enumerate() {
        run("mv", &[dir, &scene.path(&format!("away{number}"))]);
        std::fs::create_dir(dir).unwrap();
    }
    let refusal = scene.refusal();
    assert!(refusal.contains("are the disks mounted?"), "{refusal}");
    assert!(create(&scene.own(), &new(&scene.bricks)).is_err());
}

#[test]
fn directories_that_are_no_bricks_are_refused_by_what_they_are() {
    let mut scene = scene(2);
    let extra = scene.path("extra");
    std::fs::create_dir(&extra).unwrap();
    scene.bricks.push(extra.clone());
    assert!(scene.refusal().contains("portico brick add"));
    std::fs::write(extra.join("file"), "x").unwrap();
    assert!(scene.refusal().contains("it is not empty"));
    scene.bricks[2] = extra.join("file");
    assert!(scene.refusal().contains("is no directory"));
    scene.bricks[2] = scene.bricks[0].clone();
    assert!(scene.refusal().contains("are one directory"));
    scene.bricks.truncate(2);
    let nothing = scene.path("nothing");
    std::fs::create_dir(&nothing).unwrap();
    let refusal = start(&scene.path("fresh"), &[nothing])
        .map(drop)
        .unwrap_err();
    assert!(matches!(refusal, IdentityError::NoVolume));
}

#[test]
fn a_brick_of_another_volume_is_refused_by_its_name() {
    let (mut scene, other) = (scene(2), scene(2));
    scene.bricks.push(other.bricks[1].clone());
    let refusal = scene.refusal();
    assert!(
        refusal.contains("a brick of another volume, `main`"),
        "{refusal}"
    );
    // Its ledger gone, it is one nevertheless.
    std::fs::remove_file(other.bricks[1].join(".portico/ledger")).unwrap();
    assert!(scene.refusal().contains("a brick of another volume"));
}

#[test]
fn a_brick_and_its_copy_are_both_refused() {
    let mut scene = scene(2);
    let copy = scene.path("copy");
    run("cp -a", &[&scene.bricks[1], &copy]);
    scene.bricks.push(copy.clone());
    assert!(scene.refusal().contains("are the same brick"));
    // The original is known though it is not named.
    scene.bricks.remove(1);
    assert!(scene.refusal().contains("are the same brick"));
    std::fs::remove_file(copy.join(".portico/ledger")).unwrap();
    assert!(scene.refusal().contains("are the same brick"));
}

#[test]
fn a_copy_alone_is_doubted_until_it_was_compared() {
    let mut scene = scene(2);
    let copy = scene.path("copy");
    run("cp -a", &[&scene.bricks[1], &copy]);
    run("rm -r", &[&scene.bricks[1]]);
    scene.bricks[1] = copy;
    for _ in 0..2 {
        let opened = scene.start().unwrap();
        assert_eq!(doubts(&opened), [None, Some(Doubt::Copied)]);
        drop(opened);
    }
    let opened = scene.start().unwrap();
    opened.seats.trust(opened.present[1].uuid).unwrap();
    drop(opened);
    assert_eq!(doubts(&scene.start().unwrap()), [None, None]);
}

#[test]
fn copies_alone_are_not_served() {
    let mut scene = scene(2);
    for number in 0..2 {
        let copy = scene.path(&format!("copy{number}"));
        run("cp -a", &[&scene.bricks[number], &copy]);
        run("rm -r", &[&scene.bricks[number]]);
        scene.bricks[number] = copy;
    }
    let refusal = scene.refusal();
    assert!(
        refusal.contains("is a copy of the brick that was made"),
        "{refusal}"
    );
}

#[test]
fn a_brick_that_was_away_is_doubted() {
    let scene = scene(3);
    let away = scene.path("away");
    run("mv", &[&scene.bricks[1], &away]);
    let opened = scene.start().unwrap();
    go_on(&opened);
    drop(opened);
    run("mv", &[&away, &scene.bricks[1]]);
    let opened = scene.start().unwrap();
    assert_eq!(doubts(&opened), [None, Some(Doubt::Stale), None]);
    drop(opened);
    // Its ledger is the newest by now; the doubt stays.
    assert_eq!(doubts(&scene.start().unwrap())[1], Some(Doubt::Stale));
}

#[test]
fn a_brick_with_a_damaged_ledger_is_doubted() {
    let scene = scene(3);
    std::fs::write(
        scene.bricks[0].join(".portico/ledger"),
        "portico ledger 1 0\n{}",
    )
    .unwrap();
    let opened = scene.start().unwrap();
    assert_eq!(doubts(&opened), [Some(Doubt::Damaged), None, None]);
    assert!(opened.missing.is_empty());
}

#[test]
fn the_latest_of_a_group_is_not_taken_from_a_doubted_brick() {
    let scene = scene(2);
    let (copy, away) = (scene.path("old"), scene.path("away"));
    run("cp -a", &[&scene.bricks[1], &copy]);
    let opened = scene.start().unwrap();
    take_out(&opened, BrickId(0));
    go_on(&opened);
    drop(opened);
    // The brick that has all is put back to what it was.
    run("mv", &[&scene.bricks[1], &away]);
    run("mv", &[&copy, &scene.bricks[1]]);
    let refusal = scene.refusal();
    assert!(
        refusal.contains("what was written since would be lost"),
        "{refusal}"
    );
    run("rm -r", &[&scene.bricks[1]]);
    run("mv", &[&away, &scene.bricks[1]]);
    scene.start().unwrap();
}

#[test]
fn a_brick_that_was_taken_out_is_refused() {
    let scene = scene(3);
    let opened = scene.start().unwrap();
    take_out(&opened, BrickId(2));
    change(&opened, |plan| drop(plan.remove(BrickId(2)).unwrap()));
    drop(opened);
    let refusal = scene.refusal();
    assert!(
        refusal.contains("was taken out of volume `main`"),
        "{refusal}"
    );
    let opened = start(&scene.own(), &scene.bricks[..2]).unwrap();
    assert_eq!(opened.present.len(), 2);
}

#[test]
fn a_brick_in_use_is_refused() {
    let scene = scene(2);
    let _opened = scene.start().unwrap();
    assert!(scene.refusal().contains("is in use by another portico"));
}

#[test]
fn a_brick_that_came_is_one_after_a_start() {
    let mut scene = scene(3);
    let opened = scene.start().unwrap();
    let plan = opened.seats.plan();
    let fourth = scene.path("disk3");
    let arrival = Arrival::begin(&fourth, opened.volume, &plan).unwrap();
    let member = arrival.member.clone();
    opened.seats.join(arrival.arrive());
    change(&opened, |plan| {
        plan.add(member).unwrap();
    });
    drop(opened);
    scene.bricks.push(fourth);
    let opened = scene.start().unwrap();
    assert_eq!(opened.present.len(), 4);
    assert_eq!(opened.seats.plan().members[3].dir, scene.bricks[3]);
    assert!(doubts(&opened).iter().all(Option::is_none));
}

#[test]
fn a_brick_whose_coming_was_interrupted_is_finished_or_refused() {
    let mut scene = scene(3);
    let opened = scene.start().unwrap();
    let fourth = scene.path("disk3");
    drop(Arrival::begin(&fourth, opened.volume, &opened.seats.plan()).unwrap());
    drop(opened);
    drop(scene.start().unwrap());
    scene.bricks.push(fourth.clone());
    let refusal = scene.refusal();
    assert!(refusal.contains("was interrupted"), "{refusal}");
    // Begun again, and stopped after the volume took it in.
    let opened = start(&scene.own(), &scene.bricks[..3]).unwrap();
    let arrival = Arrival::begin(&fourth, opened.volume, &opened.seats.plan()).unwrap();
    let member = arrival.member.clone();
    drop(arrival);
    change(&opened, |plan| {
        plan.add(member).unwrap();
    });
    drop(opened);
    let opened = scene.start().unwrap();
    assert_eq!(opened.present.len(), 4);
}

const OWN: Uuid = Uuid([200; 16]);

fn uuid(number: u8) -> Uuid {
    Uuid([number + 1; 16])
}

/// Three seats on one disk that can be cut: two bricks and the server's own directory.
fn seats_on(disk: &Arc<CrashDisk>) -> Vec<(Uuid, Seat<CrashDisk>)> {
    let uuids = [uuid(0), uuid(1), OWN];
    let names = ["a", "b", "own"];
    let seat = |name: &str| {
        let dir = disk.open_dir(&disk.root(), name).unwrap();
        Seat::new(Arc::clone(disk), dir, OF_BRICK)
    };
    uuids.into_iter().zip(names.map(seat)).collect()
}

/// As a start that stopped left them: one seat has a change that the others do not have.
fn world_before(model: Model) -> World {
    let disk = Arc::new(CrashDisk::new(
        World::new().with(model),
        Abilities::default(),
    ));
    for name in ["a", "b", "own"] {
        disk.make_dir(&disk.root(), name, 0o700).unwrap();
    }
    disk.sync_dir(&disk.root()).unwrap();
    let member = |number: u8| NewMember {
        uuid: uuid(number),
        dir: PathBuf::from(format!("/disk{number}")),
        device: format!("sd{number}"),
        weight: 1_000,
    };
    let plan = Plan::new(PLAN, vec![member(0), member(1)]).unwrap();
    let seats = seats_of(&plan, OWN);
    for (index, (uuid, seat)) in seats_on(&disk).into_iter().enumerate() {
        let number = if index == 0 { 2 } else { 1 };
        let mut config = plan.clone();
        config.is_rebalance_paused = index == 0;
        let label = Label {
            format: FORMAT,
            volume: Uuid([9; 16]),
            volume_name: "main".to_owned(),
            brick: uuid,
            number: None,
            replicas: 2,
            place: Place {
                inode: 1,
                born_ns: 1,
            },
        };
        seat.relabel(&label).unwrap();
        let ledger = Arc::new(Ledger {
            volume: [9; 16],
            at: Revision { term: 1, number },
            before: Revision {
                term: 1,
                number: number - 1,
            },
            seats: seats.clone(),
            config,
        });
        let kept = Kept {
            promised: 1,
            doubt: None,
            ledger,
        };
        seat.write(&kept).unwrap();
    }
    disk.world().after_power_cut(&mut Random(0))
}

/// A start from some of the seats; gives whether its ledger, which it put in force, has the change.
fn start_from(
    seats: &[(Uuid, Seat<CrashDisk>)],
) -> Result<(bool, Result<(), std::io::Error>), keeper::Refusal> {
    let mut found = Vec::new();
    let mut olds = BTreeMap::new();
    let mut writers = Vec::new();
    for (uuid, seat) in seats {
        let Ok(Seen::Seat(label, Some(kept))) = seat.look() else {
            panic!("a seat is neither old nor new");
        };
        found.push(seat_of(&label, &kept));
        olds.insert(*uuid, kept.ledger);
        writers.push(Writer {
            uuid: *uuid,
            doubt: None,
            seat,
        });
    }
    let started = keeper::start(&found)?;
    let has_change = started.claim.config.is_rebalance_paused;
    let outcome = claim(&started.claim, &olds, &writers);
    Ok((has_change, outcome.map(drop)))
}

#[test]
fn a_start_that_is_cut_anywhere_takes_back_nothing_that_was_in_force() {
    for model in [Model::Journal, Model::Adversary] {
        let before = world_before(model);
        let full = Arc::new(CrashDisk::new(before.clone(), Abilities::default()));
        assert!(start_from(&seats_on(&full)).unwrap().1.is_ok());
        let (changes, _) = full.counts();
        assert!(changes > 30, "{changes} changes");
        for cut in 0..=changes {
            let disk = Arc::new(CrashDisk::new(before.clone(), Abilities::default()));
            let seats = seats_on(&disk);
            disk.cut_after(cut);
            let (_, outcome) = start_from(&seats).unwrap();
            // Most seats are enough: the last one may be cut.
            assert!(outcome.is_ok() || cut < changes);
            let left = disk.world().after_power_cut(&mut Random(cut));
            for absent in 0..3 {
                let disk = Arc::new(CrashDisk::new(left.clone(), Abilities::default()));
                let mut seats = seats_on(&disk);
                seats.remove(absent);
                let (has_change, again) = start_from(&seats).unwrap();
                again.unwrap();
                assert!(
                    has_change || outcome.is_err(),
                    "{model:?}, cut after {cut}, without {absent}: forgotten"
                );
            }
        }
    }
}
