use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use placement::assignment::Assignment;
use placement::group::Grouping;
use placement::layout::{Brick as Weighed, BrickId, Domain, Layout, Spread};
use placement::replica::{BrickSet, GroupConfig, Life};
use tempfile::TempDir;

use super::ledger::{Ledger, MemoryLedger};
use super::serving::{Bricks, Present, Setup};
use crate::brick::osdisk::OsDisk;
use crate::brick::{Brick, BrickOptions};
use crate::error::Result;
use crate::name::{BucketName, ObjectKey};
use crate::object::{Locator, ObjectInfo, Precondition};
use crate::volume::{CommitOptions, ListQuery, NewBucket, Object, StageOptions, Staged, Volume};

mod coming;
mod mending;

const GROUP_BITS: u32 = 4;

/// Bricks in temporary directories, and what is kept of them beside.
pub(super) struct Rig {
    dirs: Vec<TempDir>,
    ledger: MemoryLedger,
    wanted: Vec<BrickSet>,
    replicas: usize,
    term: u64,
}

impl Rig {
    pub(super) fn new(bricks: u32, replicas: usize) -> Self {
        let weighed = |id| Weighed {
            id: BrickId(id),
            weight: 1,
            domain: Domain {
                rack: 0,
                host: 0,
                disk: id,
            },
        };
        let layout = Layout {
            replicas,
            spread: Spread::Disk,
            bricks: (0..bricks).map(weighed).collect(),
        };
        let assignment = Assignment::new(&layout, 1 << GROUP_BITS);
        let config = |bricks: &[BrickId]| GroupConfig {
            epoch: 1,
            primary: bricks[0],
            in_sync: BrickSet::of(bricks),
            maker: Life {
                brick: bricks[0],
                number: 0,
            },
        };
        let configs: Vec<GroupConfig> = assignment.groups().map(|(_, of)| config(of)).collect();
        let dir = |_| tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        Self {
            dirs: (0..bricks).map(dir).collect(),
            wanted: configs.iter().map(|config| config.in_sync).collect(),
            ledger: MemoryLedger::new(configs),
            replicas,
            term: 0,
        }
    }

    /// How many bricks there are.
    pub(super) fn len(&self) -> usize {
        self.dirs.len()
    }

    /// A brick's directory.
    pub(super) fn dir(&self, brick: usize) -> &Path {
        self.dirs[brick].path()
    }

    /// Starts the volume with these of its bricks.
    pub(super) async fn start(&mut self, bricks: &[u32]) -> Bricks {
        self.start_doubting(bricks, &[]).await
    }

    async fn present(&self, id: u32, is_doubted: bool) -> Present<OsDisk> {
        let options = BrickOptions {
            member: true,
            watch: false,
            ..BrickOptions::new(self.dirs[id as usize].path())
        };
        Present {
            id: BrickId(id),
            brick: Brick::open(options).await.unwrap(),
            is_doubted,
        }
    }

    /// As [`Self::start`]; on some bricks nothing counts.
    async fn start_doubting(&mut self, bricks: &[u32], doubted: &[u32]) -> Bricks {
        self.term += 1;
        let mut present = Vec::new();
        for id in bricks {
            present.push(self.present(*id, doubted.contains(id)).await);
        }
        let setup = Setup {
            bricks: present,
            grouping: Grouping::new((1, 2), GROUP_BITS).unwrap(),
            replicas: self.replicas,
            term: self.term,
            wanted: self.wanted.clone(),
        };
        Bricks::start(setup, Arc::new(self.ledger.clone()))
            .await
            .unwrap()
    }
}

pub(super) fn bucket() -> BucketName {
    BucketName::parse("bkt").unwrap()
}

fn at(key: &str) -> Locator {
    Locator::new(bucket(), ObjectKey::parse(key).unwrap())
}

async fn put(bricks: &Bricks, key: &str, body: &str) -> Result<ObjectInfo> {
    let mut staged = bricks.stage(&at(key), StageOptions::default()).await?;
    staged.write(body.to_owned().into()).await?;
    let mut options = CommitOptions::default();
    options
        .attrs
        .user
        .insert("body".to_owned(), body.to_owned());
    staged.commit(options).await
}

async fn get(bricks: &Bricks, key: &str) -> Result<String> {
    let object = bricks.open(&at(key)).await?;
    let bytes = object.read(0..object.info().len_bytes).await?;
    assert_eq!(object.info().attrs.user["body"].as_bytes(), &bytes[..]);
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

async fn keys(bricks: &Bricks) -> Vec<String> {
    let query = ListQuery {
        limit: 1000,
        ..ListQuery::default()
    };
    let page = bricks.list(&bucket(), &query).await.unwrap();
    let keys = page.objects.iter();
    keys.map(|entry| entry.key.as_str().to_owned()).collect()
}

async fn make_bucket(bricks: &Bricks) {
    let name = bucket();
    let made = bricks.create_bucket(&name, NewBucket::default());
    made.await.unwrap();
}

/// Where a brick's plain files are, with their bytes, times and permissions.
fn files(rig: &Rig, brick: usize) -> BTreeMap<String, (Vec<u8>, i64, u32)> {
    fn walk(dir: &Path, below: &str, found: &mut BTreeMap<String, (Vec<u8>, i64, u32)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{below}/{}", entry.file_name().to_str().unwrap());
            let facts = entry.metadata().unwrap();
            if facts.is_dir() {
                walk(&entry.path(), &name, found);
            } else {
                let mtime_ns = facts.mtime() * 1_000_000_000 + facts.mtime_nsec();
                let bytes = std::fs::read(entry.path()).unwrap();
                found.insert(name, (bytes, mtime_ns, facts.mode()));
            }
        }
    }
    let mut found = BTreeMap::new();
    let dir = rig.dirs[brick].path().join("bkt");
    if dir.exists() {
        walk(&dir, "", &mut found);
    }
    found
}

/// Waits until every group has this many bricks in sync.
async fn in_sync(rig: &Rig, count: usize) {
    for _ in 0..2400 {
        let groups = rig.ledger.groups();
        if groups.iter().all(|config| config.in_sync.len() == count) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not in sync: {:?}", rig.ledger.groups());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_bricks_have_the_same_plain_files() {
    let mut rig = Rig::new(2, 2);
    let bricks = rig.start(&[0, 1]).await;
    make_bucket(&bricks).await;
    for n in 0..40 {
        put(&bricks, &format!("d{}/k{n}", n % 3), &format!("body {n}"))
            .await
            .unwrap();
    }
    put(&bricks, "d1/k1", "again").await.unwrap();
    let removed = bricks.remove(&at("d2/k2"), &Precondition::default()).await;
    assert!(removed.unwrap().existed);
    bricks.close().await.unwrap();
    let first = files(&rig, 0);
    assert_eq!(first.len(), 39);
    assert_eq!(first["/d1/k1"].0, b"again");
    assert_eq!(first, files(&rig, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_there_after_a_restart() {
    let mut rig = Rig::new(3, 2);
    for round in 0..3 {
        let bricks = rig.start(&[0, 1, 2]).await;
        if round == 0 {
            make_bucket(&bricks).await;
        }
        assert_eq!(keys(&bricks).await.len(), 20 * round);
        for n in 0..20 {
            put(&bricks, &format!("r{round}/k{n}"), "old")
                .await
                .unwrap();
            put(&bricks, &format!("r{round}/k{n}"), "new")
                .await
                .unwrap();
        }
        for n in 0..20 {
            assert_eq!(
                get(&bricks, &format!("r{round}/k{n}")).await.unwrap(),
                "new"
            );
        }
        bricks.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brick_that_was_away_catches_up() {
    let mut rig = Rig::new(2, 2);
    let bricks = rig.start(&[0, 1]).await;
    make_bucket(&bricks).await;
    for n in 0..60 {
        put(&bricks, &format!("k{n}"), "old").await.unwrap();
    }
    bricks.close().await.unwrap();
    let bricks = rig.start(&[0]).await;
    // So many that the log of none of the groups reaches back.
    for n in 0..60 {
        for _ in 0..2 {
            put(&bricks, &format!("k{n}"), "new").await.unwrap();
        }
    }
    for n in 0..10 {
        let (key, always) = (at(&format!("k{n}")), Precondition::default());
        bricks.remove(&key, &always).await.unwrap();
    }
    in_sync(&rig, 1).await;
    bricks.close().await.unwrap();
    let bricks = rig.start(&[0, 1]).await;
    in_sync(&rig, 2).await;
    put(&bricks, "later", "x").await.unwrap();
    bricks.close().await.unwrap();
    assert_eq!(files(&rig, 0).len(), 51);
    assert_eq!(files(&rig, 0), files(&rig, 1));
    // And it can answer alone.
    let bricks = rig.start(&[1]).await;
    assert_eq!(keys(&bricks).await.len(), 51);
    assert_eq!(get(&bricks, "k33").await.unwrap(), "new");
    bricks.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_brick_is_filled() {
    let mut rig = Rig::new(2, 2);
    let bricks = rig.start(&[0, 1]).await;
    make_bucket(&bricks).await;
    for n in 0..200 {
        put(&bricks, &format!("d{}/k{n}", n % 7), "body")
            .await
            .unwrap();
    }
    put(&bricks, "dir/", "").await.unwrap();
    bricks.close().await.unwrap();
    rig.dirs[1] = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let private = std::fs::Permissions::from_mode(0o600);
    let path = rig.dirs[0].path().join("bkt/d3/k199");
    std::fs::set_permissions(path, private).unwrap();
    let bricks = rig.start_doubting(&[0, 1], &[1]).await;
    for n in 0..50 {
        put(&bricks, &format!("d{}/k{n}", n % 7), "meanwhile")
            .await
            .unwrap();
    }
    in_sync(&rig, 2).await;
    bricks.close().await.unwrap();
    assert_eq!(files(&rig, 0).len(), 200);
    assert_eq!(files(&rig, 0), files(&rig, 1));
    assert_eq!(files(&rig, 1)["/d3/k199"].2 & 0o777, 0o600);
    // What differs in that alone is seen as well.
    let public = std::fs::Permissions::from_mode(0o666);
    let path = rig.dirs[1].path().join("bkt/d3/k199");
    std::fs::set_permissions(path, public).unwrap();
    let before = rig.ledger.groups();
    let bricks = rig.start_doubting(&[0, 1], &[1]).await;
    // It is taken out, and comes in again.
    let groups = || rig.ledger.groups().into_iter();
    while groups()
        .zip(&before)
        .any(|(now, before)| now.epoch < before.epoch + 2)
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    in_sync(&rig, 2).await;
    bricks.close().await.unwrap();
    assert!(files(&rig, 0) == files(&rig, 1), "copies differ");
    let bricks = rig.start(&[1]).await;
    assert_eq!(keys(&bricks).await.len(), 201);
    bricks.close().await.unwrap();
}

mod contract_of_two {
    use super::Rig;

    crate::volume_contract!(async {
        let mut rig = Rig::new(2, 2);
        let bricks = rig.start(&[0, 1]).await;
        (bricks, rig)
    });
}

mod contract_of_three {
    use super::Rig;

    crate::volume_contract!(async {
        let mut rig = Rig::new(3, 2);
        let bricks = rig.start(&[0, 1, 2]).await;
        (bricks, rig)
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brick_beside_one_that_was_adopted_is_filled_before_it_counts() {
    let mut rig = Rig::new(2, 2);
    let adopted = Brick::open(BrickOptions::new(rig.dirs[0].path()));
    let adopted = adopted.await.unwrap();
    let (name, keys) = (bucket(), ["a", "d/b", "d/c"]);
    adopted
        .create_bucket(&name, NewBucket::default())
        .await
        .unwrap();
    for key in keys {
        let staged = adopted.stage(&at(key), StageOptions::default()).await;
        let mut options = CommitOptions::default();
        options.attrs.user.insert("body".to_owned(), String::new());
        staged.unwrap().commit(options).await.unwrap();
    }
    adopted.close().await.unwrap();
    let first = BrickSet::of(&[BrickId(0)]);
    let of_first = |config: GroupConfig| GroupConfig {
        primary: BrickId(0),
        in_sync: first,
        maker: Life {
            brick: BrickId(0),
            number: 0,
        },
        ..config
    };
    let groups = rig.ledger.groups().into_iter().map(of_first).collect();
    rig.ledger = MemoryLedger::new(groups);
    let bricks = rig.start(&[0, 1]).await;
    in_sync(&rig, 2).await;
    bricks.close().await.unwrap();
    let bricks = rig.start(&[1]).await;
    for key in keys {
        assert_eq!(get(&bricks, key).await.unwrap(), "", "{key}");
    }
    bricks.close().await.unwrap();
}
