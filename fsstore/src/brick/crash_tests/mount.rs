//! What a mount changes, on its own thread and not durably: after a crash names are as before
//! or as after each change, no digest is stale, and the index is true.

use std::sync::Arc;

use rustix::io::Errno;

use super::super::crashdisk::{CrashDisk, Model, Random, World};
use super::super::disk::{Disk, DiskFile};
use super::super::{Brick, HashPolicy};
use super::ops::{Body, Op, Place, at};
use super::picture;
use super::scene::{Prepared, Scene, copy_of, effort, index_dir, works};
use crate::checksum::digest_of;
use crate::error::StoreError;
use crate::name::{ETag, ObjectKey};
use crate::object::{DigestAlgorithm, Locator};
use crate::volume::{Object, Volume};

/// A step of a mount.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Opens a file for writing; it stays open.
    Open(Place),
    /// Writes at its beginning.
    Write(Place, &'static [u8]),
    /// Puts the mtime back to what it was when it was opened.
    Untouch(Place),
    Close(Place),
    Make(Place),
    Rename(Place, Place),
    Unlink(Place),
    MakeDir(Place),
    /// Moves a directory with all that is in it.
    MoveDir(Place, Place),
}

type Open = (
    Place,
    super::super::edits::Edit<CrashDisk>,
    Arc<<CrashDisk as Disk>::File>,
    i64,
);

fn path_of(at: &Locator) -> String {
    format!("{}/{}", at.bucket, at.key)
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap()
}

fn errno(e: std::io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// Takes steps until one fails; gives how many did not.
fn walk(brick: &Brick<CrashDisk>, disk: &CrashDisk, steps: &[Step]) -> usize {
    let mut open: Vec<Open> = Vec::new();
    let taken = steps
        .iter()
        .take_while(|step| take(brick, disk, **step, &mut open).is_ok())
        .count();
    for (_, edit, ..) in open {
        // As when the process dies.
        std::mem::forget(edit);
    }
    taken
}

fn take(
    brick: &Brick<CrashDisk>,
    disk: &CrashDisk,
    step: Step,
    open: &mut Vec<Open>,
) -> Result<(), Errno> {
    let (inner, root) = (&brick.inner, disk.root());
    let keys = |places: &[Place]| -> Vec<_> {
        let at = places.iter().map(|place| at(place));
        at.map(|at| (at.bucket, at.key)).collect()
    };
    let tell = |place: Place| {
        inner
            .reconcile(&at(place))
            .map(|_| ())
            .map_err(|e| e.errno())
    };
    match step {
        Step::Open(place) => {
            let file = disk.open(&root, &path_of(&at(place))).map_err(errno)?;
            let file = Arc::new(file);
            let mtime_ns = file.facts().map_err(errno)?.mtime_ns;
            let edit = inner.begin_edit(Some(&at(place)), Arc::clone(&file))?;
            open.push((place, edit, file, mtime_ns));
            Ok(())
        }
        Step::Write(place, bytes) => {
            let (.., file, _) = open.iter().find(|(open, ..)| *open == place).unwrap();
            file.write_at(0, bytes).map_err(errno)
        }
        Step::Untouch(place) => {
            let (.., file, mtime_ns) = open.iter().find(|(open, ..)| *open == place).unwrap();
            file.set_modified(*mtime_ns).map_err(errno)
        }
        Step::Close(place) => {
            let found = open.iter().position(|(open, ..)| *open == place).unwrap();
            let (_, edit, ..) = open.remove(found);
            edit.end(|| None);
            Ok(())
        }
        Step::Make(place) => inner.change_names(&keys(&[place]), |_| {
            let path = path_of(&at(place));
            let (parent, name) = split(&path);
            let dir = disk.open_dir(&root, parent).map_err(errno)?;
            let file = disk.create_unnamed(&dir).map_err(errno)?;
            disk.link(&file, &dir, name).map_err(errno)?;
            tell(place)
        }),
        Step::Rename(from, to) => inner.change_names(&keys(&[from, to]), |_| {
            let (old, new) = (path_of(&at(from)), path_of(&at(to)));
            let ((old_dir, old_name), (new_dir, new_name)) = (split(&old), split(&new));
            let old_dir = disk.open_dir(&root, old_dir).map_err(errno)?;
            let new_dir = disk.open_dir(&root, new_dir).map_err(errno)?;
            let looked = inner.look_blocking(&at(from)).map_err(|e| e.errno())?;
            disk.rename(&old_dir, old_name, &new_dir, new_name)
                .map_err(errno)?;
            if let Some(looked) = looked
                && let Some(file) = &looked.found.file
            {
                let facts = file.facts().map_err(errno)?;
                match looked.in_doubt {
                    true => inner.stamps.doubt(facts.ino),
                    false => inner.ours(&facts),
                }
            }
            tell(from)?;
            tell(to)
        }),
        Step::Unlink(place) => inner.remove_names(&keys(&[place]), |_| {
            let path = path_of(&at(place));
            let (parent, name) = split(&path);
            let dir = disk.open_dir(&root, parent).map_err(errno)?;
            disk.unlink(&dir, name).map_err(errno)?;
            tell(place)
        }),
        Step::MakeDir(place) => inner.change_names(&[], |turn| {
            let path = path_of(&at(place));
            let (parent, name) = split(&path);
            let dir = disk.open_dir(&root, parent).map_err(errno)?;
            disk.make_dir(&dir, name, 0o755).map_err(errno)?;
            turn.built(&dir);
            Ok(())
        }),
        Step::MoveDir(from, to) => {
            let (from, to) = (at(from), at(to));
            inner.rows_may_move(&from.bucket)?;
            inner.rows_may_move(&to.bucket)?;
            inner.change_names(&[], |turn| {
                let (old, new) = (path_of(&from), path_of(&to));
                let ((old_dir, old_name), (new_dir, new_name)) = (split(&old), split(&new));
                let old_dir = disk.open_dir(&root, old_dir).map_err(errno)?;
                let new_dir = disk.open_dir(&root, new_dir).map_err(errno)?;
                turn.built(&old_dir);
                turn.built(&new_dir);
                let marker = |at: &Locator| ObjectKey::parse(&format!("{}/", at.key)).unwrap();
                inner.move_dir(
                    (&from.bucket, Some(&marker(&from))),
                    (&to.bucket, Some(&marker(&to))),
                    || {
                        let renamed = disk.rename(&old_dir, old_name, &new_dir, new_name);
                        renamed.map_err(errno)
                    },
                )
            })
        }
    }
}

/// Where what stands in directories that move comes to stand.
const MOVED: [Place; 9] = [
    "b:d/e/n", "b:d/e/p", "b:f/k", "b:f/n", "b:g/e/k", "b:g/e/n", "b:g/e/o", "b:g/l", "b:g/l/m",
];

fn places_of(steps: &[Step]) -> Vec<Place> {
    let mut places = Vec::new();
    for step in steps {
        match *step {
            Step::Open(place)
            | Step::Write(place, _)
            | Step::Untouch(place)
            | Step::Close(place)
            | Step::Make(place)
            | Step::Unlink(place) => places.push(place),
            Step::Rename(from, to) => places.extend([from, to]),
            Step::MakeDir(_) | Step::MoveDir(..) => {}
        }
    }
    places
}

/// Every tag is provisional or true, and whoever lists sees what whoever looks sees.
async fn check(prepared: &Prepared, world: World, model: Model, index: &tempfile::TempDir) {
    let disk = prepared.scene.disk(world, model);
    for _ in 0..2 {
        let brick = prepared.scene.open(&disk, index.path()).await.unwrap();
        picture::check_listings(&brick, &prepared.universe).await;
        for place in &prepared.universe.places {
            let object = match brick.open(&at(place)).await {
                Ok(object) => object,
                Err(StoreError::NoSuchKey) => continue,
                Err(e) => panic!("{place}: {e:?}"),
            };
            let info = object.info();
            let bytes = object.read(0..info.len_bytes).await.unwrap();
            let md5: [u8; 16] = digest_of(DigestAlgorithm::Md5, &bytes).try_into().unwrap();
            assert!(
                info.etag.is_provisional() || info.etag == ETag::from_md5(&md5),
                "{place} has a stale tag: {info:?}"
            );
        }
        picture::scanned(&brick).await;
        picture::check_listings(&brick, &prepared.universe).await;
        works(&brick).await;
        brick.close().await.unwrap();
    }
}

async fn cut_everywhere(setup: Vec<Op>, steps: &'static [Step]) {
    let scene = Scene {
        hash: HashPolicy::Never,
        ..Scene::new(setup, Vec::new())
    };
    let mut prepared = scene.prepare().await;
    prepared.universe.places.extend(places_of(steps));
    prepared.universe.places.extend(MOVED);
    let mut changes = u64::MAX;
    let (mut cut, mut turn) = (0, 0);
    while cut <= changes {
        for model in [Some(Model::Journal), Some(Model::Adversary), None] {
            for round in 0..4 * effort() {
                turn += 1;
                let played = model.unwrap_or(Model::Journal);
                let disk = prepared.scene.disk(prepared.world.clone(), played);
                let index = copy_of(prepared.index.path());
                let brick = prepared.scene.open(&disk, index.path()).await.unwrap();
                picture::scanned(&brick).await;
                let before = disk.counts().0;
                disk.cut_after(cut);
                let (walker, walked) = (brick.clone(), Arc::clone(&disk));
                let walking = tokio::task::spawn_blocking(move || walk(&walker, &walked, steps));
                let taken = walking.await.unwrap();
                let made = disk.counts().0 - before;
                if made < cut {
                    assert_eq!(taken, steps.len(), "a step failed by itself");
                    changes = made;
                }
                let kept = match turn % 3 {
                    0 => copy_of(prepared.index.path()),
                    1 => index_dir(),
                    _ => {
                        brick.inner.index.flush().await.unwrap();
                        copy_of(index.path())
                    }
                };
                let world = disk.world();
                drop(brick);
                let mut random = Random(turn * 7_919 + round);
                let world = match model {
                    Some(_) => world.after_power_cut(&mut random),
                    None => world.after_kill(),
                };
                eprintln!("cut after {cut} of {steps:?}, {model:?}, turn {turn}");
                check(&prepared, world, played, &kept).await;
            }
        }
        cut += 1;
    }
}

macro_rules! walks {
    ($($name:ident: [$($setup:expr),* $(,)?] => [$($step:expr),* $(,)?];)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                const STEPS: &[Step] = &[$($step),*];
                cut_everywhere(vec![$($setup),*], STEPS).await;
            }
        )*
    };
}

walks! {
    no_digest_outlives_an_edit_in_place: [Op::Put("b:d/k", Body(9_000, 1), 0)] => [
        Step::Open("b:d/k"), Step::Write("b:d/k", b"new"), Step::Untouch("b:d/k"),
    ];
    no_digest_outlives_an_edit_that_ended: [Op::Put("b:d/k", Body(9_000, 1), 0)] => [
        Step::Open("b:d/k"), Step::Write("b:d/k", b"new"), Step::Untouch("b:d/k"), Step::Close("b:d/k"),
    ];
    a_file_edited_under_another_name: [Op::Put("b:d/k", Body(9_000, 1), 0)] => [
        Step::Open("b:d/k"), Step::Rename("b:d/k", "b:l"), Step::Write("b:d/k", b"new"), Step::Untouch("b:d/k"),
    ];
    a_directory_that_a_mount_moved: [Op::Put("b:d/e/k", Body(9, 1), 0), Op::Put("b:d/l", Body(9, 2), 0), Op::Put("b:d/l/m", Body(9, 3), 0)] => [
        Step::MoveDir("b:d/e", "b:f"), Step::Make("b:f/n"), Step::MakeDir("b:d/e"), Step::Make("b:d/e/o"), Step::MoveDir("b:d", "b:g"), Step::Make("b:g/e/p"),
    ];
    names_that_a_mount_changed: [Op::Put("b:d/k", Body(9, 1), 0), Op::Put("b:d/l", Body(9, 2), 0), Op::Put("b:m", Body(9, 3), 0)] => [
        Step::Rename("b:d/k", "b:d/n"), Step::Unlink("b:d/l"), Step::Make("b:d/o"),
        Step::Rename("b:m", "b:d/m"), Step::MakeDir("b:e"), Step::Make("b:e/p"), Step::Rename("b:d/n", "b:e/k"),
    ];
}
