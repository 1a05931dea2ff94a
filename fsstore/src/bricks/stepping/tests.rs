use std::collections::BTreeSet;
use std::path::PathBuf;

use placement::layout::BrickId;
use placement::replica::BrickSet;

use super::Stepping;
use crate::bricks::identity::Uuid;
use crate::bricks::plan::{NewMember, NewPlan, Plan};

fn member(number: u8) -> NewMember {
    NewMember {
        uuid: Uuid([number; 16]),
        dir: PathBuf::from(format!("/disk{number}")),
        device: format!("sd{number}"),
        weight: 1_000,
    }
}

fn plan(count: u8) -> Plan {
    let new = NewPlan {
        name: "main",
        replicas: 2,
        grouping_key: (1, 2),
        group_bits: 5,
        first_holds_all: false,
    };
    Plan::new(new, (0..count).map(member).collect()).unwrap()
}

fn nobody() -> BTreeSet<BrickId> {
    BTreeSet::new()
}

/// How many groups are to change.
fn moving(plan: &Plan, wanted: &[BrickSet]) -> usize {
    let now = plan.in_sync();
    now.iter()
        .zip(wanted)
        .filter(|(now, wanted)| now != wanted)
        .count()
}

/// Carries out what is wanted.
fn arrive(plan: &mut Plan, wanted: &[BrickSet]) {
    for (group, wanted) in plan.groups.iter_mut().zip(wanted) {
        group.in_sync = *wanted;
    }
}

#[test]
fn a_few_groups_at_a_time_until_all_are_where_they_should_be() {
    let mut plan = plan(3);
    plan.add(member(3)).unwrap();
    let to_make = plan.progress().to_make;
    assert!(to_make > 8);
    let mut stepping = Stepping::new(4);
    let mut rounds = 0;
    while plan.progress().to_make > 0 {
        let wanted = stepping.step(&plan, &nobody());
        assert!((1..=4).contains(&moving(&plan, &wanted)));
        assert_eq!(
            stepping.step(&plan, &nobody()),
            wanted,
            "the same until some are there"
        );
        arrive(&mut plan, &wanted);
        rounds += 1;
    }
    assert!(rounds >= to_make / 4, "{rounds}");
    assert_eq!(moving(&plan, &stepping.step(&plan, &nobody())), 0);
}

#[test]
fn a_pause_holds_moves_up_and_not_what_lacks_copies() {
    let mut plan = plan(3);
    plan.add(member(3)).unwrap();
    let mut stepping = Stepping::new(1_000);
    assert!(moving(&plan, &stepping.step(&plan, &nobody())) > 0);
    plan.is_rebalance_paused = true;
    assert_eq!(moving(&plan, &stepping.step(&plan, &nobody())), 0);
    for group in &mut plan.groups {
        group.in_sync = group.in_sync.without(BrickId(1));
    }
    let short = plan.progress().short;
    let wanted = stepping.step(&plan, &nobody());
    assert_eq!(moving(&plan, &wanted), short);
}

#[test]
fn what_a_brick_that_is_gone_should_have_holds_nothing_up_and_nothing_is_given_up_for_it() {
    let mut plan = plan(3);
    let gone = BTreeSet::from([BrickId(1)]);
    for group in &mut plan.groups {
        group.in_sync = group.in_sync.without(BrickId(1));
    }
    let mut stepping = Stepping::new(2);
    let wanted = stepping.step(&plan, &gone);
    assert_eq!(
        moving(&plan, &wanted),
        0,
        "two bricks are left, and each has what it should"
    );
    // A fourth comes: it gets its share, though the second cannot.
    plan.add(member(3)).unwrap();
    let fourth = BrickId(3);
    for _ in 0..100 {
        let wanted = stepping.step(&plan, &gone);
        assert!(wanted.iter().all(|set| !set.contains(BrickId(1))));
        arrive(&mut plan, &wanted);
    }
    assert_eq!(plan.held(fourth), plan.wanted.load(fourth));
    assert!(plan.groups.iter().all(|group| !group.in_sync.is_empty()));
    // It is back.
    for _ in 0..100 {
        let wanted = stepping.step(&plan, &nobody());
        arrive(&mut plan, &wanted);
    }
    assert_eq!(plan.progress().settled, plan.groups.len());
}
