use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use tempfile::TempDir;

use super::{Refused, Returned, Served, Standing, find};
use crate::bricks::identity::{Doubt, IdentityError};
use crate::bricks::making::{NewVolume, create};
use crate::bricks::plan::{BrickId, BrickSet, Plan};
use crate::bricks::starting::{Opened, start};

struct Scene {
    dir: TempDir,
    bricks: Vec<PathBuf>,
    opened: Opened,
}

/// A volume of three that is served; brick 2 has left it.
fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let bricks: Vec<_> = (0..3).map(|n| root.join(format!("disk{n}"))).collect();
    let new = NewVolume {
        name: "main",
        replicas: 2,
        dirs: &bricks,
        adopts_first: false,
    };
    create(&root.join("own"), &new).unwrap();
    let opened = start(&root.join("own"), &[]).unwrap();
    let gone = opened.seats.plan().members[2].uuid;
    opened.seats.leave(gone);
    Scene {
        dir,
        bricks,
        opened,
    }
}

impl Scene {
    fn change(&self, edit: impl FnOnce(&mut Plan) + Send + 'static) {
        let (tell, told) = channel();
        self.opened.seats.change(edit, move |_| {
            let _ = tell.send(());
        });
        told.recv_timeout(Duration::from_secs(20)).unwrap();
    }

    fn find(&self) -> Result<Option<Result<Returned, Refused>>, IdentityError> {
        let plan = self.opened.seats.plan();
        let served = Served {
            volume: self.opened.volume,
            plan: &plan,
            at: self.opened.seats.at(),
        };
        find(&served, BrickId(2), |id| id != BrickId(2))
    }

    fn doubt(&self) -> Option<Doubt> {
        self.find().unwrap().unwrap().unwrap().doubt
    }
}

fn run(command: &str, args: &[&Path]) {
    let mut words = command.split(' ');
    let command = Command::new(words.next().unwrap())
        .args(words)
        .args(args)
        .status();
    assert!(command.unwrap().success());
}

/// Takes brick 2 out of what others have as well, in new epochs.
fn let_go(plan: &mut Plan) {
    for group in &mut plan.groups {
        let others = group.in_sync.without(BrickId(2));
        if group.in_sync.contains(BrickId(2)) && !others.is_empty() {
            group.in_sync = others;
            group.epoch += 1;
        }
    }
}

#[test]
fn a_brick_is_there_as_long_as_its_path_leads_to_what_was_opened() {
    let scene = scene();
    let brick = &scene.bricks[0];
    let there = Standing::at(brick).unwrap();
    assert_eq!(Standing::at(brick), Some(there));
    let away = scene.dir.path().join("away");
    run("mv", &[brick, &away]);
    assert_eq!(Standing::at(brick), None);
    run("cp -a", &[&away, brick]);
    assert_ne!(Standing::at(brick), Some(there), "a copy is another");
    run("rm -r", &[brick]);
    run("mv", &[&away, brick]);
    assert_eq!(Standing::at(brick), Some(there));
}

#[test]
fn a_brick_that_nothing_was_decided_without_is_taken_as_it_is() {
    let scene = scene();
    assert_eq!(scene.doubt(), None);
    scene.change(let_go);
    assert_eq!(scene.doubt(), None, "it counts for nothing now");
}

#[test]
fn a_brick_in_use_and_a_directory_that_is_another_are_left_alone() {
    let scene = scene();
    let first = scene.find().unwrap().unwrap().unwrap();
    assert!(matches!(scene.find(), Err(IdentityError::InUse { .. })));
    drop(first);
    run("mv", &[&scene.bricks[2], &scene.dir.path().join("away")]);
    assert!(scene.find().unwrap().is_none());
    std::fs::create_dir(&scene.bricks[2]).unwrap();
    assert!(scene.find().unwrap().is_none());
}

#[test]
fn a_copy_is_doubted_and_says_so_for_ever() {
    let scene = scene();
    let away = scene.dir.path().join("away");
    run("mv", &[&scene.bricks[2], &away]);
    run("cp -a", &[&away, &scene.bricks[2]]);
    assert_eq!(scene.doubt(), Some(Doubt::Copied));
    assert_eq!(scene.doubt(), Some(Doubt::Copied), "noted on the brick");
}

#[test]
fn what_a_doubted_brick_alone_has_is_not_taken_from_it() {
    let scene = scene();
    scene.change(|plan| plan.groups[0].in_sync = BrickSet::of(&[BrickId(2)]));
    assert_eq!(scene.doubt(), None, "it is what it was");
    scene.change(|plan| plan.groups[0].epoch += 1);
    let refused = scene.find().unwrap().unwrap().err();
    assert_eq!(refused, Some(Refused::OnlyDoubted(Doubt::Stale)));
}
