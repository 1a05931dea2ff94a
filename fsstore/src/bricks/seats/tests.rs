use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use placement::group::GroupId;
use placement::keeper::{Keeper, Ledger, Revision};
use placement::layout::BrickId;

use super::{Chair, Failure, PATIENCE, Seats, seats_of};
use crate::bricks::identity::{Doubt, Uuid};
use crate::bricks::plan::{NewMember, NewPlan, Plan};
use crate::bricks::seat::Kept;

const PLAN: NewPlan<'_> = NewPlan {
    name: "main",
    replicas: 2,
    grouping_key: (1, 2),
    group_bits: 5,
    first_holds_all: false,
};
const OWN: Uuid = Uuid([200; 16]);
const LONG: Duration = Duration::from_secs(20);

fn uuid(number: u8) -> Uuid {
    Uuid([number + 1; 16])
}

fn brick(number: u8) -> NewMember {
    NewMember {
        uuid: uuid(number),
        dir: PathBuf::from(format!("/disk{number}")),
        device: format!("sd{number}"),
        weight: 1_000,
    }
}

/// A seat in memory.
#[derive(Clone, Default)]
struct Paper {
    kept: Arc<Mutex<Vec<Kept>>>,
    fails: Arc<AtomicBool>,
    /// Held while it cannot get on.
    hangs: Arc<Mutex<()>>,
}

impl Paper {
    fn chair(&self, uuid: Uuid, doubt: Option<Doubt>) -> Chair {
        let paper = self.clone();
        Chair {
            uuid,
            doubt,
            write: Box::new(move |kept| {
                let _going_on = paper.hangs.lock().unwrap();
                if paper.fails.load(Ordering::SeqCst) {
                    return Err(io::Error::other("the disk is gone"));
                }
                paper.kept.lock().unwrap().push(kept.clone());
                Ok(())
            }),
        }
    }

    fn last(&self) -> Option<Kept> {
        self.kept.lock().unwrap().last().cloned()
    }

    fn count(&self) -> usize {
        self.kept.lock().unwrap().len()
    }
}

struct Scene {
    seats: Seats,
    papers: Vec<Paper>,
    own: Paper,
    failures: Receiver<Failure>,
}

/// A volume with its claim in force.
fn scene(count: u8) -> Scene {
    let bricks = (0..count).map(brick).collect();
    let plan = Plan::new(PLAN, bricks).unwrap();
    let at = Revision { term: 1, number: 1 };
    let seats = seats_of(&plan, OWN);
    let mut keeper = Keeper::claim(Ledger {
        volume: [9; 16],
        at,
        before: Revision::default(),
        seats: seats.clone(),
        config: plan,
    });
    seats.iter().for_each(|seat| keeper.promised(*seat));
    for seat in &seats {
        keeper.written(*seat, at);
    }
    let own = Paper::default();
    let mut papers = Vec::new();
    let mut chairs = vec![own.chair(OWN, None)];
    for number in 0..count {
        let paper = Paper::default();
        chairs.push(paper.chair(uuid(number), None));
        papers.push(paper);
    }
    let seats = Seats::run(keeper, 1, OWN, chairs).unwrap();
    let (tell, failures) = channel();
    let tell = Mutex::new(tell);
    seats.on_failure(move |failure| {
        let _ = tell.lock().unwrap().send(failure);
    });
    Scene {
        seats,
        papers,
        own,
        failures,
    }
}

impl Scene {
    /// Changes the plan and waits for it.
    fn change(&self, edit: impl FnOnce(&mut Plan) + Send + 'static) -> Arc<Plan> {
        self.begin(edit).recv_timeout(LONG).unwrap()
    }

    fn begin(&self, edit: impl FnOnce(&mut Plan) + Send + 'static) -> Receiver<Arc<Plan>> {
        let (tell, told) = channel();
        self.seats.change(edit, move |plan| {
            let _ = tell.send(Arc::clone(plan));
        });
        told
    }
}

#[test]
fn a_change_is_told_when_it_is_on_most_seats() {
    let scene = scene(3);
    let plan = scene.change(|plan| plan.is_rebalance_paused = true);
    assert!(plan.is_rebalance_paused && scene.seats.plan().is_rebalance_paused);
    assert_eq!(scene.seats.at(), Revision { term: 1, number: 2 });
    let written = scene.papers.iter().filter_map(Paper::last);
    let written = written.filter(|kept| kept.ledger.config.is_rebalance_paused);
    assert!(written.count() >= 2);
    assert_eq!(scene.own.count(), 0, "three bricks need no other seat");
}

#[test]
fn what_changes_nothing_writes_nothing_and_is_told() {
    let scene = scene(3);
    let plan = scene.change(|_| {});
    assert_eq!(plan.name, "main");
    assert!(scene.papers.iter().all(|paper| paper.count() == 0));
}

#[test]
fn a_group_is_changed_from_the_epoch_it_has_only() {
    let scene = scene(3);
    let old = scene.seats.plan().groups[5];
    let next = |epoch, primary| {
        let mut next = old;
        (next.epoch, next.primary) = (epoch, BrickId(primary));
        next
    };
    let ask = |next| {
        let (tell, told) = channel();
        scene.seats.cas(GroupId(5), next, move |now| {
            let _ = tell.send(now);
        });
        told.recv_timeout(LONG).unwrap()
    };
    let primary = old.in_sync.iter().last().unwrap().0;
    assert_eq!(ask(next(2, primary)), next(2, primary));
    // It lost, and is told who won.
    assert_eq!(ask(next(2, 9)), next(2, primary));
    assert_eq!(ask(next(7, 9)), next(2, primary));
}

#[test]
fn a_seat_that_fails_is_told_once_and_the_others_go_on() {
    let scene = scene(3);
    scene.papers[1].fails.store(true, Ordering::SeqCst);
    scene.change(|plan| plan.is_rebalance_paused = true);
    scene.change(|plan| plan.is_rebalance_paused = false);
    let failure = scene.failures.recv_timeout(LONG).unwrap();
    assert_eq!((failure.brick, failure.is_stuck), (Some(BrickId(1)), false));
    assert!(scene.failures.try_recv().is_err());
    assert_eq!(scene.papers[1].count(), 0);
    assert_eq!(scene.papers[0].count(), 2);
}

#[test]
fn with_too_few_seats_nothing_is_in_force_until_one_comes_back() {
    let scene = scene(3);
    for paper in &scene.papers[1..] {
        paper.fails.store(true, Ordering::SeqCst);
    }
    let told = scene.begin(|plan| plan.is_rebalance_paused = true);
    let stuck = (0..2).map(|_| scene.failures.recv_timeout(LONG).unwrap());
    assert!(stuck.into_iter().any(|failure| failure.is_stuck));
    assert!(told.try_recv().is_err());
    assert!(!scene.seats.plan().is_rebalance_paused);
    scene.papers[2].fails.store(false, Ordering::SeqCst);
    assert!(told.recv_timeout(LONG).unwrap().is_rebalance_paused);
}

#[test]
fn seats_that_are_slow_count_however_late_they_answer() {
    let scene = scene(3);
    let slow = [&scene.papers[0], &scene.papers[1], &scene.papers[2]];
    let held: Vec<_> = slow.iter().map(|paper| paper.hangs.lock()).collect();
    let told = scene.begin(|plan| plan.is_rebalance_paused = true);
    let stuck = (0..3).map(|_| scene.failures.recv_timeout(LONG).unwrap());
    assert!(stuck.into_iter().any(|failure| failure.is_stuck));
    // Tried again meanwhile, in vain.
    assert!(told.recv_timeout(3 * PATIENCE).is_err());
    drop(held);
    assert!(told.recv_timeout(LONG).unwrap().is_rebalance_paused);
    assert_eq!(scene.seats.at(), Revision { term: 1, number: 2 });
    scene.change(|plan| plan.is_rebalance_paused = false);
}

#[test]
fn bricks_that_went_away_end_a_wait_for_seats_by_coming_back() {
    let scene = scene(3);
    for paper in &scene.papers[1..] {
        paper.fails.store(true, Ordering::SeqCst);
    }
    let told = scene.begin(|plan| plan.is_rebalance_paused = true);
    let stuck = (0..2).map(|_| scene.failures.recv_timeout(LONG).unwrap());
    assert!(stuck.into_iter().any(|failure| failure.is_stuck));
    // Its disk is another's by now: the old seat will never be written again.
    scene.seats.leave(uuid(2));
    let back = Paper::default();
    scene.seats.join(back.chair(uuid(2), None));
    assert!(told.recv_timeout(LONG).unwrap().is_rebalance_paused);
    assert!(back.last().unwrap().ledger.config.is_rebalance_paused);
    assert_eq!(scene.papers[2].count(), 0);
}

#[test]
fn a_brick_more_has_a_seat_and_the_servers_own_directory_with_an_even_number() {
    let scene = scene(3);
    let paper = Paper::default();
    scene.seats.join(paper.chair(uuid(3), None));
    scene.change(|plan| {
        plan.add(brick(3)).unwrap();
    });
    assert!(
        paper
            .last()
            .is_some_and(|kept| kept.ledger.seats.len() == 5)
    );
    assert!(
        scene
            .own
            .last()
            .is_some_and(|kept| kept.ledger.seats.contains(&OWN.0))
    );
    // One less: the seat that goes is told as well.
    let taken = scene.change(|plan| {
        for group in &mut plan.groups {
            group.in_sync = group.in_sync.without(BrickId(3));
        }
        plan.remove(BrickId(3)).unwrap();
    });
    assert_eq!(taken.members.len(), 3);
    let last = paper.last().unwrap();
    assert!(!last.ledger.seats.contains(&uuid(3).0));
}

#[test]
fn doubt_is_written_with_every_ledger_until_it_is_taken_back() {
    let scene = scene(3);
    let paper = Paper::default();
    scene.seats.join(paper.chair(uuid(0), Some(Doubt::Copied)));
    scene.change(|plan| plan.is_rebalance_paused = true);
    assert_eq!(paper.last().unwrap().doubt, Some(Doubt::Copied));
    scene.seats.trust(uuid(0)).unwrap();
    assert_eq!(paper.last().unwrap().doubt, None);
    assert!(paper.last().unwrap().ledger.config.is_rebalance_paused);
    let unknown = scene.seats.trust(uuid(9)).unwrap_err();
    assert_eq!(unknown.kind(), io::ErrorKind::NotFound);
    paper.fails.store(true, Ordering::SeqCst);
    assert!(scene.seats.trust(uuid(0)).is_err());
}

#[test]
fn a_seat_that_failed_counts_again_once_it_takes_a_ledger() {
    let scene = scene(3);
    scene.papers[1].fails.store(true, Ordering::SeqCst);
    scene.change(|plan| plan.is_rebalance_paused = true);
    scene.papers[1].fails.store(false, Ordering::SeqCst);
    for turn in 0..50 {
        scene.change(move |plan| plan.is_rebalance_paused = turn % 2 == 0);
        if scene.papers[1].count() > 0 {
            break;
        }
    }
    // Without the third it is needed.
    scene.papers[2].fails.store(true, Ordering::SeqCst);
    scene.change(|plan| plan.name = "other".to_owned());
    assert_eq!(scene.papers[1].last().unwrap().ledger.config.name, "other");
}

#[test]
fn a_brick_is_trusted_once_it_was_taken_out_everywhere_and_is_back() {
    let scene = scene(3);
    let (paper, id) = (Paper::default(), BrickId(0));
    scene.seats.join(paper.chair(uuid(0), Some(Doubt::Copied)));
    // A new primary everywhere changes nothing for it.
    scene.change(|plan| plan.groups.iter_mut().for_each(|group| group.epoch += 1));
    assert_eq!(paper.last().unwrap().doubt, Some(Doubt::Copied));
    let before = scene.seats.plan();
    scene.change(move |plan| {
        for group in &mut plan.groups {
            group.in_sync = group.in_sync.without(id);
        }
    });
    assert_eq!(paper.last().unwrap().doubt, Some(Doubt::Copied));
    scene.change(move |plan| plan.groups.clone_from(&before.groups));
    assert_eq!(paper.last().unwrap().doubt, None);
}
