use std::path::PathBuf;

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::replica::BrickSet;

use super::{NewMember, NewPlan, Plan, PlanError, PlanForm};
use crate::bricks::identity::Uuid;

fn brick(number: u8, device: &str) -> NewMember {
    NewMember {
        uuid: Uuid([number; 16]),
        dir: PathBuf::from(format!("/disk{number}")),
        device: device.to_owned(),
        weight: 1_000,
    }
}

fn bricks(devices: &[&str]) -> Vec<NewMember> {
    (1..)
        .zip(devices)
        .map(|(number, device)| brick(number, device))
        .collect()
}

fn plan(replicas: usize, devices: &[&str]) -> Plan {
    Plan::new(new(replicas, false), bricks(devices)).unwrap()
}

fn new(replicas: usize, first_holds_all: bool) -> NewPlan<'static> {
    NewPlan {
        name: "main",
        replicas,
        grouping_key: (1, 2),
        group_bits: 10,
        first_holds_all,
    }
}

/// As if everything had been moved to where it is wanted.
fn settle(plan: &mut Plan) {
    let wanted: Vec<_> = plan
        .wanted
        .groups()
        .map(|(_, bricks)| bricks.to_vec())
        .collect();
    for (group, bricks) in plan.groups.iter_mut().zip(wanted) {
        (group.in_sync, group.primary) = (BrickSet::of(&bricks), bricks[0]);
    }
}

#[test]
fn a_plan_is_read_as_it_was_written() {
    let plan = plan(2, &["a", "b", "c"]);
    let text = serde_json::to_string(&PlanForm::from(&plan)).unwrap();
    let form: PlanForm = serde_json::from_str(&text).unwrap();
    assert_eq!(Plan::try_from(form), Ok(plan));
    assert!(text.len() < 64 << 10, "{} bytes", text.len());
}

#[test]
fn a_plan_that_does_not_hold_together_is_refused() {
    let good = plan(2, &["a", "b", "c"]);
    let refused = |change: &dyn Fn(&mut Plan)| {
        let mut plan = good.clone();
        change(&mut plan);
        Plan::try_from(PlanForm::from(&plan)).unwrap_err()
    };
    assert!(refused(&|plan| plan.groups.truncate(9)).contains("1024 groups"));
    assert!(refused(&|plan| plan.members.truncate(2)).contains("not in it"));
    assert!(refused(&|plan| plan.groups[3].primary = BrickId(9)).contains("not in it"));
    assert!(refused(&|plan| plan.replicas = 0).contains("out of range"));
    assert!(refused(&|plan| plan.group_bits = 40).contains("too many"));
}

#[test]
fn empty_bricks_hold_what_they_should_and_an_old_first_one_holds_all() {
    let fresh = plan(2, &["a", "b", "c"]);
    assert_eq!(fresh.progress().settled, 1_024);
    let grown = Plan::new(new(2, true), bricks(&["a", "b"])).unwrap();
    assert_eq!(grown.held(BrickId(0)), 1_024);
    assert_eq!(grown.held_alone(BrickId(0)), 1_024);
    assert_eq!(grown.progress().to_make, 1_024);
}

#[test]
fn no_two_copies_are_on_one_device_where_there_are_enough() {
    let plan = plan(2, &["a", "a", "b"]);
    assert!(!plan.shares_devices());
    let third = BrickId(2);
    assert!(
        plan.wanted
            .groups()
            .all(|(_, bricks)| bricks.contains(&third))
    );
}

#[test]
fn on_too_few_devices_copies_are_on_different_bricks() {
    let plan = plan(2, &["a", "a"]);
    assert!(plan.shares_devices());
    assert!(plan.wanted.groups().all(|(_, bricks)| bricks.len() == 2));
}

#[test]
fn a_brick_that_comes_gets_its_share_and_nothing_else_moves() {
    let mut plan = plan(2, &["a", "b", "c"]);
    let id = plan.add(brick(4, "d")).unwrap();
    let progress = plan.progress();
    assert_eq!((id, progress.to_make), (BrickId(3), progress.to_drop));
    // An even share is 512 of 2,048 copies.
    assert!((490..=530).contains(&progress.to_make), "{progress:?}");
    assert_eq!(plan.wanted.load(id), progress.to_make);
}

#[test]
fn a_brick_is_drained_before_it_is_removed() {
    let mut plan = plan(2, &["a", "b", "c"]);
    let first = BrickId(0);
    let held = plan.held(first);
    let refused = PlanError::NotEmpty {
        id: 0,
        groups: held,
    };
    assert_eq!(plan.remove(first).unwrap_err(), refused);
    plan.drain(first).unwrap();
    assert_eq!(plan.wanted.load(first), 0);
    settle(&mut plan);
    plan.remove(first).unwrap();
    assert_eq!(plan.members.len(), 2);
    let next = plan.add(brick(9, "z")).unwrap();
    assert_eq!(next, BrickId(3), "a number is never given again");
}

#[test]
fn a_drain_that_leaves_too_few_bricks_is_refused_and_changes_nothing() {
    let mut plan = plan(2, &["a", "b"]);
    let before = plan.clone();
    let refused = PlanError::TooFewBricks {
        bricks: 1,
        replicas: 2,
    };
    assert_eq!(plan.drain(BrickId(1)), Err(refused));
    assert_eq!(plan.drain(BrickId(7)), Err(PlanError::NoSuchBrick(7)));
    assert_eq!(plan, before);
}

#[test]
fn a_drain_taken_back_leaves_things_as_they_were() {
    let mut plan = plan(2, &["a", "b", "c"]);
    plan.drain(BrickId(2)).unwrap();
    assert!(plan.progress().to_make > 0);
    plan.undrain(BrickId(2)).unwrap();
    assert!(!plan.members[2].is_draining);
    let load = plan.wanted.load(BrickId(2));
    assert!((660..=705).contains(&load), "{load}");
}

#[test]
fn a_replaced_bricks_groups_go_to_the_new_one_and_no_others_move() {
    let mut plan = plan(2, &["a", "b", "c"]);
    let (old, held) = (BrickId(1), plan.held(BrickId(1)));
    let new = plan.replace(old, brick(4, "d")).unwrap();
    let progress = plan.progress();
    assert_eq!((progress.to_make, progress.to_drop), (held, held));
    let goes_on = |(group, bricks): (GroupId, &[BrickId])| {
        let before = plan.groups[group.0 as usize].in_sync;
        bricks.iter().all(|id| before.contains(*id) || *id == new)
    };
    assert!(plan.wanted.groups().all(goes_on));
}

#[test]
fn counts_that_cannot_be_are_refused() {
    let refusal =
        |replicas, devices: &[&str]| Plan::new(new(replicas, false), bricks(devices)).unwrap_err();
    assert_eq!(refusal(0, &["a"]), PlanError::Replicas(0));
    assert_eq!(refusal(8, &["a"]), PlanError::Replicas(8));
    let too_few = |bricks, replicas| PlanError::TooFewBricks { bricks, replicas };
    assert_eq!(refusal(2, &["a"]), too_few(1, 2));
    assert_eq!(refusal(1, &[]), too_few(0, 1));
}
