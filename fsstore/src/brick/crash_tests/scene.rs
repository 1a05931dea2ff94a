//! A scene: operations, played on a disk whose power is cut, and what must be left.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::super::crashdisk::{Abilities, CrashDisk, Model, Random, World};
use super::super::intents::BootId;
use super::super::{Brick, BrickOptions, HashPolicy};
use super::ops::{Body, Op, at};
use super::picture::{self, Picture, Universe, said};
use crate::clock::Clock;
use crate::error::Result;
use crate::name::BucketName;
use crate::object::{Locator, Precondition, Timestamp};
use crate::volume::{Durability, Volume};

/// How much the suite tries: 1 in CI; more by hand.
pub fn effort() -> u64 {
    let set = std::env::var("PORTICO_CRASH_EFFORT").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Which index the brick finds when it is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexKept {
    /// As it was before the first operation.
    Behind,
    /// With everything, what the disk lost included.
    Ahead,
    /// None.
    Fresh,
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    PowerCut(Model),
    /// The page cache stays.
    Kill,
}

#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// After so many calls that change or sync anything.
    pub after: u64,
    pub end: End,
    pub seed: u64,
    pub index: IndexKept,
    /// Whether opening the brick again is cut as well, before it is opened at last.
    pub again: bool,
}

#[derive(Debug, Clone)]
pub struct Scene {
    pub abilities: Abilities,
    pub durability: Durability,
    /// Relaxed tags are in doubt after an unclean stop: reading decides.
    pub hash: HashPolicy,
    pub setup: Vec<Op>,
    pub ops: Vec<Op>,
}

/// A scene whose beginning is built and whose pictures are known.
pub struct Prepared {
    pub scene: Scene,
    pub world: World,
    pub index: TempDir,
    pub universe: Universe,
    /// Before the first operation, and after each.
    pub pictures: Vec<Picture>,
    /// Calls that change or sync anything, and all calls, of all operations.
    pub changes: u64,
    pub calls: u64,
}

/// Says where it was, should a check fail.
struct Where<'a>(&'a Scene, Cut);

impl Drop for Where<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with {:?}\nin {:?}", self.1, self.0);
        }
    }
}

pub fn index_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    match tempfile::tempdir_in(memory) {
        Ok(dir) => dir,
        Err(_) => tempfile::tempdir().unwrap(),
    }
}

pub fn copy_of(dir: &Path) -> TempDir {
    let copy = index_dir();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        // SQLite makes its shared memory anew.
        if !name.to_string_lossy().ends_with("-shm") {
            let copied = std::fs::copy(entry.path(), copy.path().join(name));
            // SQLite may have taken its log away meanwhile.
            assert!(copied.is_ok() || !entry.path().exists(), "{copied:?}");
        }
    }
    copy
}

impl Scene {
    pub fn new(setup: Vec<Op>, ops: Vec<Op>) -> Self {
        let mut whole = vec![Op::MakeBucket("b")];
        whole.extend(setup);
        Self {
            abilities: Abilities::default(),
            durability: Durability::Strict,
            hash: HashPolicy::OnRead,
            setup: whole,
            ops,
        }
    }

    pub fn with(mut self, abilities: Abilities) -> Self {
        self.abilities = abilities;
        self
    }

    pub async fn open(&self, disk: &Arc<CrashDisk>, index: &Path) -> Result<Brick<CrashDisk>> {
        let options = BrickOptions {
            durability: self.durability.into(),
            hash: self.hash.into(),
            scan_interval: Duration::from_secs(3_600),
            clock: Clock::standing(Timestamp::from_secs(1_800_000_000)),
            boot: BootId::new(&disk.world().boot()),
            ..BrickOptions::new("/")
        };
        Brick::open_on(Arc::clone(disk), options, index).await
    }

    pub fn disk(&self, world: World, model: Model) -> Arc<CrashDisk> {
        Arc::new(CrashDisk::new(world.with(model), self.abilities))
    }

    fn universe(&self) -> Universe {
        let mut universe = Universe::default();
        universe.buckets.insert("b");
        for op in self.setup.iter().chain(&self.ops) {
            universe.buckets.extend(op.buckets());
            universe.places.extend(op.places());
        }
        universe
    }

    /// Builds the scene's beginning and takes its pictures.
    pub async fn prepare(self) -> Prepared {
        let index = index_dir();
        let disk = self.disk(World::new(), Model::Journal);
        let brick = self.open(&disk, index.path()).await.unwrap();
        for op in &self.setup {
            for outcome in op.run(&brick).await {
                outcome.unwrap_or_else(|e| panic!("{op:?}: {e:?}"));
            }
        }
        brick.close().await.unwrap();
        drop(brick);
        let (world, index) = (disk.world(), copy_of(index.path()));
        let universe = self.universe();
        let disk = self.disk(world.clone().after_kill(), Model::Journal);
        let playing = copy_of(index.path());
        let brick = self.open(&disk, playing.path()).await.unwrap();
        let mut pictures = vec![picture::take(&brick, &universe).await];
        let (mut changes, mut calls) = (0, 0);
        for op in &self.ops {
            let before = disk.counts();
            for outcome in op.run(&brick).await {
                outcome.unwrap_or_else(|e| panic!("{op:?}: {e:?}"));
            }
            let after = disk.counts();
            changes += after.0 - before.0;
            calls += after.1 - before.1;
            pictures.push(picture::take(&brick, &universe).await);
            picture::check_listings(&brick, &universe).await;
        }
        Prepared {
            scene: self,
            world,
            index,
            universe,
            pictures,
            changes,
            calls,
        }
    }
}

/// What was acknowledged before the end: operations wholly, and of the next one some.
struct Acked {
    ops: usize,
    of_next: Vec<bool>,
}

impl Prepared {
    /// Plays the scene up to the cut, opens what is left, and checks it.
    pub async fn play(&self, cut: Cut) {
        let _where = Where(&self.scene, cut);
        let model = match cut.end {
            End::PowerCut(model) => model,
            End::Kill => Model::Journal,
        };
        let disk = self.scene.disk(self.world.clone(), model);
        let index = copy_of(self.index.path());
        let brick = self.scene.open(&disk, index.path()).await.unwrap();
        disk.cut_after(cut.after);
        let acked = self.run(&brick).await;
        let world = disk.world();
        let index = match cut.index {
            IndexKept::Behind => copy_of(self.index.path()),
            IndexKept::Fresh => index_dir(),
            IndexKept::Ahead => {
                brick.inner.index.flush().await.unwrap();
                copy_of(index.path())
            }
        };
        drop(brick);
        let mut random = Random(cut.seed);
        let mut world = end(world, cut.end, &mut random);
        if cut.again {
            let disk = self.scene.disk(world, model);
            disk.cut_after(random.below(8) as u64);
            drop(self.scene.open(&disk, index.path()).await);
            world = end(disk.world(), cut.end, &mut random);
        }
        self.check(world, model, &index, &acked).await;
    }

    async fn run(&self, brick: &Brick<CrashDisk>) -> Acked {
        for (done, op) in self.scene.ops.iter().enumerate() {
            let outcomes = op.run(brick).await;
            if outcomes.iter().any(Result::is_err) {
                return Acked {
                    ops: done,
                    of_next: outcomes.iter().map(Result::is_ok).collect(),
                };
            }
        }
        Acked {
            ops: self.scene.ops.len(),
            of_next: Vec::new(),
        }
    }

    async fn check(&self, world: World, model: Model, index: &TempDir, acked: &Acked) {
        let disk = self.scene.disk(world, model);
        let brick = self.scene.open(&disk, index.path()).await.unwrap();
        let left = disk.world().paths_below(".portico/staging");
        assert!(left.is_empty(), "in staging: {left:?}");
        if self.scene.durability == Durability::Strict {
            self.check_unread(&brick).await;
        }
        // Decides the tags in doubt, which a listing does not wait for.
        picture::take(&brick, &self.universe).await;
        picture::check_listings(&brick, &self.universe).await;
        let seen = picture::take(&brick, &self.universe).await;
        self.compare(&seen, acked);
        picture::scanned(&brick).await;
        picture::check_listings(&brick, &self.universe).await;
        brick.close().await.unwrap();
        drop(brick);
        let brick = self.scene.open(&disk, index.path()).await.unwrap();
        let again = picture::take(&brick, &self.universe).await;
        assert_eq!(again, seen, "a second opening shows the same");
        picture::check_listings(&brick, &self.universe).await;
        works(&brick).await;
        picture::finish_uploads(&brick, &self.universe).await;
        picture::check_listings(&brick, &self.universe).await;
    }

    /// Everything has its tag before it is asked for, also what was under way.
    async fn check_unread(&self, brick: &Brick<CrashDisk>) {
        for (place, entry) in picture::listed(brick, &self.universe).await {
            assert!(
                !entry.etag.is_provisional(),
                "{place} lost its tag: {entry:?}"
            );
        }
    }

    /// Everything is as before or as after the operation under way.
    fn compare(&self, seen: &Picture, acked: &Acked) {
        let before = &self.pictures[acked.ops];
        let Some(after) = self.pictures.get(acked.ops + 1) else {
            assert_eq!(seen, before, "all was acknowledged");
            return;
        };
        let op = &self.scene.ops[acked.ops];
        let Op::All(ops) = op else {
            assert!(
                seen == before || seen == after,
                "neither as before nor as after {op:?}:\n{seen:#?}\nbefore: {before:#?}\nafter: {after:#?}"
            );
            return;
        };
        let whats = seen.keys().chain(before.keys()).chain(after.keys());
        for what in whats {
            let (now, old, new) = (said(seen, what), said(before, what), said(after, what));
            assert!(
                now == old || now == new,
                "{what} is mixed: {now}\n{old}\n{new}"
            );
            let mut acknowledged = ops.iter().zip(&acked.of_next).filter(|(_, acked)| **acked);
            if acknowledged.any(|(op, _)| op.places().iter().any(|place| what.ends_with(place))) {
                assert_eq!(now, new, "{what} was acknowledged");
            }
        }
    }
}

fn end(world: World, end: End, random: &mut Random) -> World {
    match end {
        End::PowerCut(_) => world.after_power_cut(random),
        End::Kill => world.after_kill(),
    }
}

/// Checks that a brick takes and gives back an object.
pub async fn works(brick: &Brick<CrashDisk>) {
    let bucket = BucketName::parse("b").unwrap();
    if brick.bucket(&bucket).await.is_err() {
        return;
    }
    for outcome in Op::Put("b:spare/key", Body(10, 1), 0).run(brick).await {
        outcome.unwrap();
    }
    let spare: Locator = at("b:spare/key");
    assert_eq!(brick.stat(&spare).await.unwrap().len_bytes, 10);
    let removed = brick.remove(&spare, &Precondition::default()).await;
    assert!(removed.unwrap().existed);
}

/// Plays a prepared scene cut after every call, in every way that the effort allows.
pub async fn cut_everywhere(scene: Scene, ends: &[End]) {
    let prepared = scene.prepare().await;
    let kept = [IndexKept::Behind, IndexKept::Ahead, IndexKept::Fresh];
    let mut turn = 0;
    for after in 0..=prepared.changes {
        for end in ends {
            for round in 0..effort() {
                turn += 1;
                let cut = Cut {
                    after,
                    end: *end,
                    seed: turn * 7_919 + round,
                    index: kept[(turn % 3) as usize],
                    again: turn % 5 == 0,
                };
                prepared.play(cut).await;
            }
        }
    }
}
