//! Two bricks on disks whose power can be cut at every call, together or one by one: what was
//! answered stays, nothing is mixed, and the copies are equal afterwards. The file systems keep the
//! order of names' changes, as those with a journal do: without it a staged file could lose its
//! name before its object has one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use placement::group::Grouping;
use placement::layout::BrickId;
use placement::replica::{BrickSet, GroupConfig, Life};
use tokio::task::JoinSet;

use super::ledger::{Ledger, MemoryLedger};
use super::serving::{Bricks, Present, Setup};
use crate::brick::attrs::Record;
use crate::brick::crashdisk::{Abilities, CrashDisk, Model, Random, World};
use crate::brick::disk::DiskFile;
use crate::brick::intents::BootId;
use crate::brick::{Brick, BrickOptions};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey};
use crate::object::{Locator, Precondition};
use crate::volume::{
    AttrsPatch, CommitOptions, ListQuery, NewBucket, Object, StageOptions, Staged, Volume,
};

/// How long an operation on two dead disks is waited for: it has no answer.
const NO_ANSWER: Duration = Duration::from_millis(400);
const FOREVER: u64 = u64::MAX / 2;

pub(super) type Crashing = Bricks<CrashDisk>;

fn bucket() -> BucketName {
    BucketName::parse("b").unwrap()
}

pub(super) fn at(key: &str) -> Locator {
    Locator::new(bucket(), ObjectKey::parse(key).unwrap())
}

fn ledger() -> MemoryLedger {
    let (a, b) = (BrickId(0), BrickId(1));
    let config = |primary| GroupConfig {
        epoch: 1,
        primary,
        in_sync: BrickSet::of(&[a, b]),
        maker: Life {
            brick: primary,
            number: 0,
        },
    };
    MemoryLedger::new(vec![config(a), config(b)])
}

pub(super) fn disk(world: World) -> Arc<CrashDisk> {
    let world = world.with(Model::Journal);
    Arc::new(CrashDisk::new(world, Abilities::default()))
}

pub(super) async fn start(disks: &[Arc<CrashDisk>], ledger: &MemoryLedger, term: u64) -> Crashing {
    start_doubting(disks, ledger, term, None).await
}

/// How a volume is started.
pub(super) struct Way {
    /// Nothing counts on this one.
    pub doubted: Option<u32>,
    /// Which bricks each group is wanted on.
    pub wanted: BrickSet,
    /// When a disk is taken for one that hangs.
    pub hangs_after: Duration,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            doubted: None,
            wanted: both(),
            hangs_after: Duration::from_secs(120),
        }
    }
}

/// As [`start`]; nothing counts on one of them.
pub(super) async fn start_doubting(
    disks: &[Arc<CrashDisk>],
    ledger: &MemoryLedger,
    term: u64,
    doubted: Option<u32>,
) -> Crashing {
    let way = Way {
        doubted,
        ..Way::default()
    };
    start_as(disks, ledger, term, way).await
}

/// As [`start`].
pub(super) async fn start_as(
    disks: &[Arc<CrashDisk>],
    ledger: &MemoryLedger,
    term: u64,
    way: Way,
) -> Crashing {
    let disks: Vec<(u32, &Arc<CrashDisk>)> = (0..).zip(disks).collect();
    start_these(&disks, ledger, term, way).await
}

/// As [`start_as`], of these of its bricks.
pub(super) async fn start_these(
    disks: &[(u32, &Arc<CrashDisk>)],
    ledger: &MemoryLedger,
    term: u64,
    way: Way,
) -> Crashing {
    let mut bricks = Vec::new();
    for (id, disk) in disks {
        let options = BrickOptions {
            scan_interval: Duration::from_secs(3_600),
            boot: BootId::new(&disk.world().boot()),
            member: true,
            hangs_after: way.hangs_after,
            ..BrickOptions::new("/")
        };
        let index = tempfile::tempdir().unwrap();
        let opened = Brick::open_on(Arc::clone(*disk), options, index.path()).await;
        // As long as the test: SQLite opens its files again and again.
        tokio::spawn(async move {
            let _kept = index;
            std::future::pending::<()>().await;
        });
        bricks.push(Present {
            id: BrickId(*id),
            brick: opened.unwrap(),
            is_doubted: way.doubted == Some(*id),
        });
    }
    let setup = Setup {
        bricks,
        grouping: Grouping::new((1, 2), 1).unwrap(),
        replicas: 2,
        term,
        wanted: ledger.groups().iter().map(|_| way.wanted).collect(),
    };
    Bricks::start(setup, Arc::new(ledger.clone()))
        .await
        .unwrap()
}

pub(super) fn both() -> BrickSet {
    BrickSet::of(&[BrickId(0), BrickId(1)])
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Put,
    Overwrite,
    Delete,
    Tag,
    PutAndTag,
}

impl Op {
    fn key(self) -> &'static str {
        match self {
            Self::Put | Self::PutAndTag => "dir/new",
            Self::Overwrite | Self::Delete | Self::Tag => "dir/old",
        }
    }

    async fn run(self, bricks: &Crashing) -> Result<()> {
        match self {
            Self::Put | Self::Overwrite => put(bricks, self.key(), "after").await,
            Self::Delete => {
                let (at, always) = (at(self.key()), Precondition::default());
                bricks.remove(&at, &always).await.map(|_| ())
            }
            Self::Tag => tag(bricks, self.key()).await,
            Self::PutAndTag => {
                put(bricks, self.key(), "after").await?;
                tag(bricks, self.key()).await
            }
        }
    }

    /// What may stand at its key: before it, on the way, and after it.
    fn states(self) -> (&'static [Option<&'static str>], Option<&'static str>) {
        match self {
            Self::Put => (&[None], Some("after")),
            Self::PutAndTag => (&[None, Some("after")], Some("after tagged")),
            Self::Overwrite => (&[Some("before")], Some("after")),
            Self::Delete => (&[Some("before")], None),
            Self::Tag => (&[Some("before")], Some("before tagged")),
        }
    }
}

pub(super) async fn put(bricks: &Crashing, key: &str, body: &str) -> Result<()> {
    let mut staged = bricks.stage(&at(key), StageOptions::default()).await?;
    staged.write(body.to_owned().into()).await?;
    let mut options = CommitOptions::default();
    options
        .attrs
        .user
        .insert("body".to_owned(), body.to_owned());
    staged.commit(options).await.map(|_| ())
}

pub(super) async fn tag(bricks: &Crashing, key: &str) -> Result<()> {
    let patch = AttrsPatch {
        tags: Some([("tag".to_owned(), "after".to_owned())].into()),
        touch: true,
        ..AttrsPatch::default()
    };
    let always = Precondition::default();
    bricks.set_attrs(&at(key), patch, &always).await.map(|_| ())
}

/// What stands at a key: its bytes, which are its record's, and its tag.
pub(super) async fn state(bricks: &Crashing, key: &str) -> Option<String> {
    let object = match bricks.open(&at(key)).await {
        Err(StoreError::NoSuchKey) => return None,
        other => other.unwrap(),
    };
    let info = object.info();
    assert!(!info.etag.is_provisional(), "its digests are in doubt");
    let bytes = object.read(0..info.len_bytes).await.unwrap();
    assert_eq!(info.attrs.user["body"].as_bytes(), &bytes[..]);
    let tagged = if info.attrs.tags.is_empty() {
        ""
    } else {
        " tagged"
    };
    Some(format!("{}{tagged}", String::from_utf8_lossy(&bytes)))
}

async fn listed(bricks: &Crashing) -> Vec<String> {
    let query = ListQuery {
        limit: 10,
        ..ListQuery::default()
    };
    let page = bricks.list(&bucket(), &query).await.unwrap();
    let keys = page.objects.iter();
    keys.map(|entry| entry.key.as_str().to_owned()).collect()
}

pub(super) async fn wait_for_both(ledger: &MemoryLedger, context: &str) {
    let begun = Instant::now();
    while ledger.groups().iter().any(|group| group.in_sync != both()) {
        let is_late = begun.elapsed() > Duration::from_secs(120);
        assert!(!is_late, "{context}: {:?}", ledger.groups());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What each brick has at a key: bytes, time and record, but for the inode's number.
pub(super) fn copies(bricks: &Crashing, key: &str) -> Vec<Option<(Vec<u8>, i64, Record)>> {
    let members = bricks.shared.all_members();
    let copy = |member: &Arc<super::member::Member<CrashDisk>>| {
        let looked = member.inner.look_now(&at(key)).unwrap()?;
        let file = looked.found.file.unwrap();
        let bytes = file.read_at(0, 1 << 20).unwrap();
        let mut record = looked.record;
        // Of the way to the time that it has.
        record.mtime_before_ns = None;
        if let Some(state) = &mut record.state {
            state.ino = 0;
        }
        Some((bytes, looked.found.facts.mtime_ns, record))
    };
    // It may wait for a change under way.
    tokio::task::block_in_place(|| members.iter().map(copy).collect())
}

/// A volume with an object, as its disks are after an orderly end.
pub(super) async fn prepared() -> ([World; 2], MemoryLedger) {
    let (disks, ledger) = ([disk(World::new()), disk(World::new())], ledger());
    let bricks = start(&disks, &ledger, 1).await;
    let name = bucket();
    bricks
        .create_bucket(&name, NewBucket::default())
        .await
        .unwrap();
    put(&bricks, "dir/old", "before").await.unwrap();
    bricks.close().await.unwrap();
    (disks.map(|disk| disk.world().after_kill()), ledger)
}

/// One operation with the disks cut after so many changes each, then the end, and what is left.
async fn play(worlds: &[World; 2], kept: &MemoryLedger, op: Op, cuts: [u64; 2], seed: u64) {
    let ledger = MemoryLedger::new(kept.groups());
    let disks = worlds.clone().map(disk);
    let bricks = start(&disks, &ledger, 2).await;
    assert_eq!(state(&bricks, "dir/old").await.as_deref(), Some("before"));
    for (disk, cut) in disks.iter().zip(cuts) {
        disk.cut_after(cut);
    }
    // With one disk that is well there is an answer, however long it takes.
    let patience = match cuts.contains(&FOREVER) {
        true => Duration::from_secs(60),
        false => NO_ANSWER,
    };
    let answer = tokio::time::timeout(patience, op.run(&bricks)).await;
    let context = format!("{op:?} cut after {cuts:?}: {answer:?}");
    if cuts.contains(&FOREVER) {
        // One disk is well: nobody notices.
        assert!(matches!(answer, Ok(Ok(()))), "{context}");
        assert_eq!(state(&bricks, op.key()).await.as_deref(), op.states().1);
    }
    let mut random = Random(seed);
    let left = disks.map(|disk| disk.world().after_power_cut(&mut random));
    let _ = tokio::time::timeout(NO_ANSWER, bricks.close()).await;
    let mut disks = left.map(disk);
    let alone = seed as usize / 2 % 2;
    let is_in = |config: &GroupConfig| config.in_sync.contains(BrickId(alone as u32));
    if seed % 2 == 1 && ledger.groups().iter().all(is_in) {
        // One of them has to do alone for a moment, with what it had of the last change.
        let one = [(alone as u32, &disks[alone])];
        let bricks = start_these(&one, &ledger, 3, Way::default()).await;
        state(&bricks, op.key()).await;
        bricks.close().await.unwrap();
        disks = disks.map(|old| disk(old.world().after_kill()));
    }
    let bricks = start(&disks, &ledger, 4).await;
    let found = state(&bricks, op.key()).await;
    let (before, after) = op.states();
    let may_be_old = !matches!(answer, Ok(Ok(())));
    assert!(
        found.as_deref() == after || (may_be_old && before.contains(&found.as_deref())),
        "{context}: {found:?}"
    );
    wait_for_both(&ledger, &context).await;
    assert_eq!(state(&bricks, op.key()).await, found, "{context}");
    assert_eq!(
        listed(&bricks).await.contains(&op.key().to_owned()),
        found.is_some()
    );
    // What the one missed it publishes soon.
    let begun = Instant::now();
    loop {
        let copies = copies(&bricks, op.key());
        if copies[0] == copies[1] {
            break;
        }
        let is_late = begun.elapsed() > Duration::from_secs(10);
        assert!(!is_late, "{context}: {copies:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    put(&bricks, op.key(), "later").await.unwrap();
    assert_eq!(state(&bricks, op.key()).await.as_deref(), Some("later"));
    bricks.close().await.unwrap();
}

/// How many changes an operation makes on a disk, up to its answer.
async fn changes(worlds: &[World; 2], kept: &MemoryLedger, op: Op) -> u64 {
    let ledger = MemoryLedger::new(kept.groups());
    let disks = worlds.clone().map(disk);
    let bricks = start(&disks, &ledger, 2).await;
    state(&bricks, "dir/old").await;
    let before = disks.each_ref().map(|disk| disk.counts().0);
    op.run(&bricks).await.unwrap();
    let after = disks.each_ref().map(|disk| disk.counts().0);
    bricks.close().await.unwrap();
    (after[0] - before[0]).max(after[1] - before[1])
}

/// Scenes that are played at once.
const SCENES_AT_ONCE: usize = 6;
/// Scenes of an operation that are played with every run of the tests.
const SCENES: u64 = 7;

/// Plays an operation cut at its calls: at all of them, or at some, others for each operation.
async fn play_some(op: Op, scenes: u64) {
    let (worlds, ledger) = prepared().await;
    let last = changes(&worlds, &ledger, op).await;
    assert!(last > 3, "{last}");
    let both_and_one = |cut| [[cut, cut], [cut, FOREVER], [FOREVER, cut]];
    let all: Vec<[u64; 2]> = (0..=last).flat_map(both_and_one).collect();
    // A step that has no divisor with three meets all kinds of cuts.
    let step = (all.len() as u64 / scenes).max(1);
    let step = step + u64::from(step > 1 && step.is_multiple_of(3));
    // Most of a scene's time is waiting.
    let mut playing = JoinSet::new();
    for cuts in all.into_iter().skip(op as usize % 3).step_by(step as usize) {
        let (worlds, ledger) = (worlds.clone(), MemoryLedger::new(ledger.groups()));
        let seed = cuts[0].min(cuts[1]);
        playing.spawn(async move { play(&worlds, &ledger, op, cuts, seed).await });
        if playing.len() >= SCENES_AT_ONCE {
            playing.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(played) = playing.join_next().await {
        played.unwrap();
    }
}

async fn play_all(op: Op) {
    play_some(op, SCENES).await;
}

/// By hand: `cargo test -p portico-fsstore --features testing --lib every_call -- --ignored`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes"]
async fn operations_survive_a_cut_at_every_call() {
    for op in [Op::Put, Op::Overwrite, Op::Delete, Op::Tag, Op::PutAndTag] {
        play_some(op, u64::MAX).await;
    }
    heal_some(u64::MAX).await;
}

/// A brick that is filled, cut after so many changes; then the end, and what is left.
async fn play_heal(worlds: &[World; 2], kept: &MemoryLedger, cuts: [u64; 2]) {
    let ledger = MemoryLedger::new(kept.groups());
    let disks = worlds.clone().map(disk);
    let context = format!("healing cut after {cuts:?}");
    let bricks = start_doubting(&disks, &ledger, 3, Some(1)).await;
    for (disk, cut) in disks.iter().zip(cuts) {
        disk.cut_after(cut);
    }
    let begun = Instant::now();
    while bricks.failed().is_empty() && begun.elapsed() < 3 * NO_ANSWER {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut random = Random(cuts[1]);
    let left = disks.map(|disk| disk.world().after_power_cut(&mut random));
    let _ = tokio::time::timeout(NO_ANSWER, bricks.close()).await;
    let disks = left.map(disk);
    let bricks = start(&disks, &ledger, 4).await;
    wait_for_both(&ledger, &context).await;
    let begun = Instant::now();
    for key in ["dir/old", "dir/tagged", "dir/k0", "dir/k7"] {
        while copies(&bricks, key)[0] != copies(&bricks, key)[1] {
            let is_late = begun.elapsed() > Duration::from_secs(120);
            assert!(!is_late, "{context}: {key}: {:?}", copies(&bricks, key));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(state(&bricks, key).await.is_some(), "{context}: {key}");
    }
    bricks.close().await.unwrap();
}

/// Cuts a brick that is filled at so many of its calls, alone or with its source.
async fn heal_some(scenes: u64) {
    let (worlds, ledger) = prepared().await;
    let [first, _] = worlds.map(disk);
    let bricks = start(&[Arc::clone(&first)], &ledger, 2).await;
    for n in 0..8 {
        put(&bricks, &format!("dir/k{n}"), "body").await.unwrap();
    }
    put(&bricks, "dir/tagged", "body").await.unwrap();
    tag(&bricks, "dir/tagged").await.unwrap();
    bricks.close().await.unwrap();
    let worlds = [first.world().after_kill(), World::new()];
    let filled = worlds.clone().map(disk);
    let whole = MemoryLedger::new(ledger.groups());
    let bricks = start_doubting(&filled, &whole, 3, Some(1)).await;
    let before = filled[1].counts().0;
    wait_for_both(&whole, "filled").await;
    let last = filled[1].counts().0 - before;
    bricks.close().await.unwrap();
    assert!(last > 20, "{last}");
    let step = (last / scenes).max(1);
    let mut playing = JoinSet::new();
    for cut in (0..=last).step_by(step as usize) {
        for cuts in [[FOREVER, cut], [cut, cut]] {
            let (worlds, ledger) = (worlds.clone(), MemoryLedger::new(ledger.groups()));
            playing.spawn(async move { play_heal(&worlds, &ledger, cuts).await });
            if playing.len() >= SCENES_AT_ONCE {
                playing.join_next().await.unwrap().unwrap();
            }
        }
    }
    while let Some(played) = playing.join_next().await {
        played.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brick_that_is_filled_survives_cuts() {
    heal_some(SCENES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_object_survives_cuts() {
    play_all(Op::Put).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_object_survives_cuts() {
    play_all(Op::Overwrite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_object_survives_cuts() {
    play_all(Op::Delete).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_attributes_survive_cuts() {
    play_all(Op::Tag).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_and_then_its_attributes_survive_cuts() {
    play_all(Op::PutAndTag).await;
}

/// A disk that fails is out of the way within a second, while requests go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_brick_is_taken_out_while_requests_go_on() {
    for lost in 0..2 {
        let (worlds, kept) = prepared().await;
        let ledger = MemoryLedger::new(kept.groups());
        let disks = worlds.clone().map(disk);
        let bricks = start(&disks, &ledger, 2).await;
        state(&bricks, "dir/old").await;
        disks[lost].cut_after(0);
        for n in 0..20 {
            let key = format!("dir/k{n}");
            put(&bricks, &key, "body").await.unwrap();
            assert_eq!(state(&bricks, &key).await.as_deref(), Some("body"));
        }
        assert_eq!(bricks.failed(), [BrickId(lost as u32)]);
        let left = BrickId(1 - lost as u32);
        let groups = ledger.groups();
        assert!(
            groups
                .iter()
                .all(|group| group.in_sync == BrickSet::of(&[left]))
        );
        assert_eq!(listed(&bricks).await.len(), 10);
        let _ = tokio::time::timeout(Duration::from_secs(5), bricks.close()).await;
    }
}
