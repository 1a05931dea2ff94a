use std::path::{Path, PathBuf};

use placement::layout::BrickId;

use super::{NewVolume, Note, create, label_of};
use crate::bricks::identity::IdentityError;
use crate::bricks::starting::start;

fn new(dirs: &[PathBuf]) -> NewVolume<'_> {
    NewVolume {
        name: "photos",
        replicas: 2,
        dirs,
        adopts_first: false,
    }
}

fn dirs(root: &Path, count: usize) -> Vec<PathBuf> {
    let root = root.canonicalize().unwrap();
    (0..count)
        .map(|number| root.join(format!("disk{number}")))
        .collect()
}

/// Takes labels out of force again, as if making the volume had stopped before.
fn unfinish(dir: &Path, name: &str) {
    let (from, to) = (dir.join(name), dir.join(format!("{name}.making")));
    let moved = std::process::Command::new("mv").args([&from, &to]).status();
    assert!(moved.unwrap().success());
}

#[test]
fn empty_directories_become_a_volume_and_are_made_where_they_are_not() {
    let root = tempfile::tempdir().unwrap();
    let (own, dirs) = (root.path().join("own"), dirs(root.path(), 3));
    std::fs::create_dir_all(dirs[0].join("lost+found")).unwrap();
    let volume = create(&own, &new(&dirs)).unwrap();
    let label = label_of(&dirs[2]).unwrap();
    assert_eq!((label.volume, label.number), (volume, Some(2)));
    assert_eq!(label.volume_name, "photos");
    assert!(dirs.iter().all(|dir| dir.join("main").is_dir()));
    let note = Note::read(&own).unwrap().unwrap();
    assert_eq!((note.volume, note.dirs), (volume, dirs.clone()));
    let opened = start(&own, &dirs).unwrap();
    assert_eq!((opened.volume, opened.term), (volume, 1));
    assert_eq!(opened.seats.plan().progress().settled, 1_024);
}

#[test]
fn what_is_not_empty_or_a_brick_already_is_refused_and_stays() {
    let root = tempfile::tempdir().unwrap();
    let (own, dirs) = (root.path().join("own"), dirs(root.path(), 3));
    std::fs::create_dir(&dirs[1]).unwrap();
    std::fs::write(dirs[1].join("mine"), "x").unwrap();
    let refusal = create(&own, &new(&dirs)).unwrap_err();
    assert!(
        matches!(refusal, IdentityError::NotEmpty { .. }),
        "{refusal}"
    );
    assert!(!dirs[0].join(".portico").exists());
    std::fs::remove_file(dirs[1].join("mine")).unwrap();
    create(&own, &new(&dirs)).unwrap();
    drop(start(&own, &dirs).unwrap());
    let again = create(&root.path().join("own2"), &new(&dirs)).unwrap_err();
    let is_refusal = matches!(
        again,
        IdentityError::Foreign { .. } | IdentityError::InUse { .. }
    );
    assert!(is_refusal, "{again}");
    let second = create(&own, &new(&[root.path().join("x"), root.path().join("y")]));
    assert!(matches!(second, Err(IdentityError::Foreign { .. })));
    let parents = [root.path().join("no/such"), root.path().join("y")];
    let orphan = create(&root.path().join("own3"), &new(&parents)).unwrap_err();
    assert!(matches!(orphan, IdentityError::Io { .. }), "{orphan}");
    let few = create(&root.path().join("own3"), &new(&parents[1..])).unwrap_err();
    assert!(matches!(few, IdentityError::Plan(_)), "{few}");
}

#[test]
fn a_volume_that_was_being_named_is_finished_by_a_start_and_where_it_is_asked_for_again() {
    for asks_again in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let (own, dirs) = (root.path().join("own"), dirs(root.path(), 2));
        let volume = create(&own, &new(&dirs)).unwrap();
        std::fs::remove_file(own.join("volume.json")).unwrap();
        unfinish(&dirs[1], ".portico/brick.json");
        unfinish(&own, "own.json");
        if asks_again {
            assert_eq!(create(&own, &new(&dirs)).unwrap(), volume);
        }
        let opened = start(&own, &dirs).unwrap();
        assert_eq!((opened.volume, opened.present.len()), (volume, 2));
        assert!(own.join("own.json").exists() && own.join("volume.json").exists());
    }
}

#[test]
fn a_volume_that_was_not_named_yet_is_begun_anew() {
    for begun in 1..=2 {
        let root = tempfile::tempdir().unwrap();
        let (own, dirs) = (root.path().join("own"), dirs(root.path(), 2));
        let volume = create(&own, &new(&dirs)).unwrap();
        std::fs::remove_file(own.join("volume.json")).unwrap();
        for dir in &dirs[..begun] {
            unfinish(dir, ".portico/brick.json");
        }
        for dir in &dirs[begun..] {
            std::fs::remove_dir_all(dir).unwrap();
        }
        let refusal = start(&own, &dirs[..1]).map(drop).unwrap_err();
        assert!(
            matches!(refusal, IdentityError::HalfMade { .. }),
            "{refusal}"
        );
        assert_ne!(create(&own, &new(&dirs)).unwrap(), volume);
        assert_eq!(start(&own, &[]).unwrap().present.len(), 2);
    }
}

#[test]
fn a_tree_that_was_served_becomes_the_first_brick_where_that_is_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let (own, dirs) = (root.path().join("own"), dirs(root.path(), 2));
    std::fs::create_dir_all(dirs[0].join("main/bucket")).unwrap();
    std::fs::write(dirs[0].join("main/bucket/key"), "bytes").unwrap();
    std::fs::create_dir(dirs[0].join(".portico")).unwrap();
    std::fs::write(dirs[0].join(".portico/lock"), "1 \n").unwrap();
    let refusal = create(&own, &new(&dirs)).unwrap_err();
    assert!(
        matches!(refusal, IdentityError::NotEmpty { .. }),
        "{refusal}"
    );
    let adopting = NewVolume {
        adopts_first: true,
        ..new(&dirs)
    };
    create(&own, &adopting).unwrap();
    let plan = start(&own, &[]).unwrap().seats.plan();
    assert_eq!(plan.held_alone(BrickId(0)), 1_024);
    assert_eq!(plan.progress().to_make, 1_024);
    assert_eq!(
        std::fs::read(dirs[0].join("main/bucket/key")).unwrap(),
        b"bytes"
    );
}
