use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

use super::Assignment;
use crate::layout::{Brick, BrickId, Domain, Layout, Spread};

const GROUPS: u32 = 1024;

fn brick(id: u32, host: u32, weight: u64) -> Brick {
    Brick {
        id: BrickId(id),
        weight,
        domain: Domain {
            rack: host / 4,
            host,
            disk: id,
        },
    }
}

fn disks(replicas: usize, weights: &[u64]) -> Layout {
    let bricks = (0..)
        .zip(weights)
        .map(|(id, weight)| brick(id, 0, *weight))
        .collect();
    Layout {
        replicas,
        spread: Spread::Disk,
        bricks,
    }
}

/// Hosts with two disks each.
fn hosts(replicas: usize, count: u32) -> Layout {
    let bricks = (0..count * 2).map(|id| brick(id, id / 2, 4)).collect();
    Layout {
        replicas,
        spread: Spread::Host,
        bricks,
    }
}

/// The largest load over the brick's share.
fn worst(assignment: &Assignment, layout: &Layout) -> f64 {
    let ideal = layout.ideal_loads(GROUPS);
    let over = |(brick, ideal): (&Brick, &f64)| {
        let load = assignment.load(brick.id) as f64;
        if load == 0.0 { 0.0 } else { load / ideal }
    };
    layout
        .bricks
        .iter()
        .zip(&ideal)
        .map(over)
        .fold(0.0, f64::max)
}

/// Moves asked for by a change of shares: what bricks have less than they should.
fn ideal_moves(old: &Assignment, layout: &Layout) -> f64 {
    let ideal = layout.ideal_loads(GROUPS);
    let lacks = |(brick, ideal): (&Brick, &f64)| (ideal - old.load(brick.id) as f64).max(0.0);
    layout.bricks.iter().zip(&ideal).map(lacks).sum()
}

fn is_spread(assignment: &Assignment, layout: &Layout) -> bool {
    let domain = |id: &BrickId| {
        let brick = layout.bricks.iter().find(|brick| brick.id == *id).unwrap();
        assert!(brick.weight > 0, "on a drained brick");
        layout.spread.of(brick.domain)
    };
    assignment.groups().all(|(_, bricks)| {
        let mut domains: Vec<u32> = bricks.iter().map(domain).collect();
        domains.sort_unstable();
        domains.dedup();
        domains.len() == layout.replicas.min(layout.domains()) && domains.len() == bricks.len()
    })
}

fn moved(old: &Assignment, new: &Assignment) -> usize {
    let moves = old.moves_to(new);
    moves.iter().filter(|step| step.to.is_some()).count()
}

#[test]
fn twelve_bricks_are_even_within_three_percent() {
    for replicas in 1..=3 {
        let layout = disks(replicas, &[1; 12]);
        let assignment = Assignment::new(&layout, GROUPS);
        assert!(is_spread(&assignment, &layout));
        assert!(worst(&assignment, &layout) <= 1.03);
    }
}

#[test]
fn copies_never_share_a_host_or_a_rack() {
    for spread in [Spread::Host, Spread::Rack] {
        let layout = Layout {
            spread,
            ..hosts(3, 16)
        };
        let assignment = Assignment::new(&layout, GROUPS);
        assert!(is_spread(&assignment, &layout));
        assert!(worst(&assignment, &layout) <= 1.03);
    }
}

#[test]
fn an_added_host_gets_its_share_and_nothing_else_moves() {
    let (old, new) = (hosts(3, 6), hosts(3, 7));
    let before = Assignment::new(&old, GROUPS);
    let after = before.adapted(&new);
    assert!(is_spread(&after, &new));
    assert!(worst(&after, &new) <= 1.03);
    assert!(moved(&before, &after) as f64 <= 1.1 * ideal_moves(&before, &new));
    for step in before.moves_to(&after) {
        assert!(
            step.to.is_some_and(|to| to.0 >= 12),
            "moved between old bricks"
        );
    }
}

#[test]
fn a_drained_brick_gives_all_and_only_its_groups_away() {
    let mut layout = disks(2, &[1; 8]);
    let before = Assignment::new(&layout, GROUPS);
    layout.bricks[3].weight = 0;
    let after = before.adapted(&layout);
    assert_eq!(after.load(BrickId(3)), 0);
    assert!(is_spread(&after, &layout));
    assert!(moved(&before, &after) as f64 <= 1.1 * before.load(BrickId(3)) as f64);
}

/// Most of what the drained disk has is on the large one too, so what is not has to go there.
#[test]
fn a_disk_too_large_for_most_groups_of_a_drained_one_gets_the_others() {
    for at in [0, 1, 3, 4, 5] {
        let mut layout = disks(2, &[4, 4, 13, 4, 4, 4]);
        let before = Assignment::new(&layout, GROUPS);
        layout.bricks[at].weight = 0;
        let after = before.adapted(&layout);
        assert!(is_spread(&after, &layout));
        assert!(worst(&after, &layout) <= 1.03);
        assert!(moved(&before, &after) as f64 <= 1.1 * ideal_moves(&before, &layout));
    }
}

#[test]
fn with_too_few_disks_groups_have_fewer_copies_and_regain_them() {
    let (two, one) = (disks(2, &[1, 1]), disks(2, &[1]));
    let before = Assignment::new(&two, GROUPS);
    let alone = before.adapted(&one);
    assert!(alone.groups().all(|(_, bricks)| bricks == [BrickId(0)]));
    let again = alone.adapted(&two);
    assert!(is_spread(&again, &two));
    assert_eq!(moved(&alone, &again), GROUPS as usize);
}

#[test]
fn primaries_are_even() {
    let layout = disks(3, &[1; 8]);
    let assignment = Assignment::new(&layout, GROUPS);
    for brick in &layout.bricks {
        let firsts = assignment
            .groups()
            .filter(|(_, bricks)| bricks[0] == brick.id)
            .count();
        assert!((120..=136).contains(&firsts), "{firsts} of 128");
    }
}

#[test]
fn nothing_moves_where_nothing_changed() {
    let layout = disks(2, &[5, 3, 8, 2, 2]);
    let before = Assignment::new(&layout, GROUPS);
    assert_eq!(before.adapted(&layout), before);
}

/// Disks of usual sizes, none too large for its share.
fn weights() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(4u64..=16, 6..=24)
}

proptest! {
    #[test]
    fn loads_follow_weights(weights in weights(), replicas in 1usize..=3) {
        let layout = disks(replicas, &weights);
        let assignment = Assignment::new(&layout, GROUPS);
        prop_assert!(is_spread(&assignment, &layout));
        // One group more than the share where three percent are less than one.
        for (brick, ideal) in layout.bricks.iter().zip(layout.ideal_loads(GROUPS)) {
            let load = assignment.load(brick.id) as f64;
            prop_assert!(load <= (ideal * 1.03).max(ideal.ceil()), "{load} of {ideal}");
        }
    }

    #[test]
    fn changes_move_little_more_than_they_must(
        mut weights in weights(),
        change in 0..3,
        which in any::<usize>(),
        weight in 4u64..=16,
    ) {
        let layout = disks(2, &weights);
        let before = Assignment::new(&layout, GROUPS);
        match change {
            0 => weights.push(weight),
            1 => { let at = which % weights.len(); weights[at] = 0 }
            _ => { let at = which % weights.len(); weights[at] = weight }
        }
        let layout = disks(2, &weights);
        let after = before.adapted(&layout);
        prop_assert!(is_spread(&after, &layout));
        prop_assert!(moved(&before, &after) as f64 <= 1.1 * ideal_moves(&before, &layout));
        let again = after.adapted(&layout);
        prop_assert_eq!(moved(&after, &again), 0);
    }
}
