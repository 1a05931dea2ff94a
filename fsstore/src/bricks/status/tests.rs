use std::collections::BTreeSet;
use std::path::PathBuf;

use placement::keeper::Revision;
use placement::layout::BrickId;
use placement::replica::BrickSet;

use super::{BrickState, Known, VolumeStatus, events, inspect};
use crate::bricks::identity::Uuid;
use crate::bricks::making::{NewVolume, create};
use crate::bricks::plan::{NewMember, NewPlan, Plan};

const AT: Revision = Revision { term: 3, number: 9 };

fn plan() -> Plan {
    let member = |number: u8| NewMember {
        uuid: Uuid([number; 16]),
        dir: PathBuf::from(format!("/nonexistent/disk{number}")),
        device: format!("sd{number}"),
        weight: 1_000,
    };
    let new = NewPlan {
        name: "main",
        replicas: 2,
        grouping_key: (1, 2),
        group_bits: 5,
        first_holds_all: false,
    };
    Plan::new(new, (0..3).map(member).collect()).unwrap()
}

fn status(plan: &Plan, known: &Known) -> VolumeStatus {
    VolumeStatus::of("v", AT, plan, known)
}

fn healthy(plan: &Plan) -> VolumeStatus {
    status(plan, &Known::default())
}

fn lose(plan: &mut Plan, id: BrickId) {
    for group in &mut plan.groups {
        group.in_sync = group.in_sync.without(id);
    }
}

fn settle(plan: &mut Plan) {
    let wanted: Vec<_> = plan
        .wanted
        .groups()
        .map(|(_, bricks)| bricks.to_vec())
        .collect();
    for (group, bricks) in plan.groups.iter_mut().zip(wanted) {
        group.in_sync = BrickSet::of(&bricks);
    }
}

fn names(before: &VolumeStatus, now: &VolumeStatus) -> Vec<&'static str> {
    events(before, now).iter().map(|event| event.name).collect()
}

fn state(status: &VolumeStatus, number: usize) -> BrickState {
    status.bricks[number].state
}

#[test]
fn a_failed_brick_is_told_and_shown_until_it_is_whole_again() {
    let mut plan = plan();
    let first = healthy(&plan);
    assert!(first.is_settled() && first.short_groups == 0);
    assert_eq!(state(&first, 1), BrickState::Whole);
    lose(&mut plan, BrickId(1));
    let known = Known {
        failed: BTreeSet::from([BrickId(1)]),
        ..Known::default()
    };
    let failed = status(&plan, &known);
    assert_eq!(state(&failed, 1), BrickState::Failed);
    assert!(failed.short_groups > 0 && failed.unreachable_groups == 0);
    assert_eq!(names(&first, &failed), ["brick.failed", "volume.short"]);
    let back = healthy(&plan);
    assert_eq!(state(&back, 1), BrickState::Healing);
    assert_eq!(names(&failed, &back), ["brick.healing"]);
    settle(&mut plan);
    let healed = healthy(&plan);
    let told = ["brick.whole", "volume.healed", "rebalance.done"];
    assert_eq!(names(&back, &healed), told);
    assert!(names(&healed, &healed).is_empty());
}

#[test]
fn groups_that_no_brick_here_has_are_unreachable() {
    let plan = plan();
    let known = Known {
        missing: BTreeSet::from([BrickId(0), BrickId(1)]),
        ..Known::default()
    };
    let now = status(&plan, &known);
    assert!(now.unreachable_groups > 0);
    let told = events(&healthy(&plan), &now);
    let bad: Vec<_> = told
        .iter()
        .map(|event| (event.name, event.brick, event.is_bad))
        .collect();
    assert_eq!(
        bad,
        [
            ("brick.missing", Some(0), true),
            ("brick.missing", Some(1), true),
            ("volume.unreachable", None, true),
        ]
    );
    assert_eq!(
        names(&now, &healthy(&plan)).last(),
        Some(&"volume.reachable")
    );
}

#[test]
fn a_drain_is_told_from_its_beginning_to_its_end() {
    let mut plan = plan();
    let first = healthy(&plan);
    plan.drain(BrickId(2)).unwrap();
    let draining = healthy(&plan);
    assert_eq!(
        names(&first, &draining),
        [
            "brick.healing",
            "brick.healing",
            "brick.draining",
            "rebalance.begun"
        ]
    );
    settle(&mut plan);
    let drained = healthy(&plan);
    assert!(names(&draining, &drained).contains(&"brick.drained"));
    plan.remove(BrickId(2)).unwrap();
    assert_eq!(names(&drained, &healthy(&plan)), ["brick.removed"]);
    assert!(names(&healthy(&plan), &drained).contains(&"brick.added"));
}

#[test]
fn a_pause_is_told() {
    let mut plan = plan();
    let first = healthy(&plan);
    plan.is_rebalance_paused = true;
    assert_eq!(names(&first, &healthy(&plan)), ["rebalance.paused"]);
    assert_eq!(names(&healthy(&plan), &first), ["rebalance.resumed"]);
}

#[test]
fn a_volume_that_nobody_serves_is_looked_at_without_a_change() {
    let root = tempfile::tempdir().unwrap();
    let own = root.path().join("own");
    assert_eq!(inspect(&own).unwrap(), None);
    let dirs: Vec<_> = (0..2)
        .map(|number| root.path().join(format!("d{number}")))
        .collect();
    let new = NewVolume {
        name: "photos",
        replicas: 2,
        dirs: &dirs,
        adopts_first: false,
    };
    create(&own, &new).unwrap();
    let status = inspect(&own).unwrap().unwrap();
    assert_eq!((status.name.as_str(), status.term), ("photos", 0));
    assert!(status.bricks.iter().all(|brick| brick.free_bytes.is_some()));
    std::fs::remove_dir_all(&dirs[1]).unwrap();
    let status = inspect(&own).unwrap().unwrap();
    assert_eq!(state(&status, 1), BrickState::Missing);
    assert_eq!(status.unreachable_groups, 0);
    std::fs::remove_dir_all(&dirs[0]).unwrap();
    assert!(
        inspect(&own).unwrap().is_some(),
        "the server's own directory has it"
    );
}
