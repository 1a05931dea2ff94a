//! Tests of the index as a whole: against a model, over crashes, under concurrency.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{
    Change, Index, KeyRange, MAX_FETCH_ROWS, MAX_OVERLAY_ROWS, Opened, Page, Room, Row, RowFlags,
    Totals,
};
use crate::error::Result;
use crate::name::{BucketName, ETag, ObjectKey};
use crate::volume::ListQuery;

fn bucket(name: &str) -> BucketName {
    BucketName::parse(name).unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

fn row(len_bytes: u64) -> Row {
    Row {
        len_bytes,
        mtime_ns: 1_700_000_000_000_000_000,
        ctime_ns: 1_700_000_000_000_000_001,
        ino: len_bytes ^ 0xffff,
        etag: ETag::from_md5(&[len_bytes as u8; 16]),
        owner: Some("owner".to_owned()),
        checksum: None,
        flags: RowFlags::default(),
    }
}

fn put(name: &BucketName, text: &str, len_bytes: u64) -> (BucketName, ObjectKey, Change) {
    (name.clone(), key(text), Change::Put(row(len_bytes)))
}

fn remove(name: &BucketName, text: &str) -> (BucketName, ObjectKey, Change) {
    (name.clone(), key(text), Change::Remove)
}

fn query(prefix: &str, delimiter: &str, after: &str, limit: usize) -> ListQuery {
    ListQuery {
        prefix: prefix.to_owned(),
        delimiter: (!delimiter.is_empty()).then(|| delimiter.to_owned()),
        after: (!after.is_empty()).then(|| after.to_owned()),
        limit,
    }
}

fn keys(page: &Page) -> Vec<&str> {
    page.objects.iter().map(|(key, _)| key.as_str()).collect()
}

async fn open(dir: &tempfile::TempDir) -> Index {
    Index::open(dir.path()).await.unwrap().0
}

/// A small generator (xorshift*), so that a printed seed repeats a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn key(&mut self) -> String {
        const PIECES: [&str; 10] = [
            "a",
            "b",
            "/",
            "/",
            "--",
            "é",
            "\u{10ffff}",
            "\0",
            "a-b",
            "z",
        ];
        let len = 1 + self.below(5);
        (0..len).map(|_| self.pick(&PIECES)).collect()
    }
}

fn seed() -> u64 {
    std::env::var("PORTICO_TEST_SEED").map_or_else(
        |_| {
            let address = Box::new(0_u8);
            let now = Instant::now();
            let mixed = format!("{:p}{now:?}{}", &raw const *address, std::process::id());
            mixed
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
                })
        },
        |text| text.parse().unwrap(),
    ) | 1
}

type Model = BTreeMap<String, Row>;

/// What a listing is, said plainly: every entry, then those after `after`, then a page.
fn model_list(model: &Model, query: &ListQuery) -> Page {
    let mut entries: BTreeMap<String, Option<Row>> = BTreeMap::new();
    for (key, row) in model {
        let Some(rest) = key.strip_prefix(&query.prefix) else {
            continue;
        };
        let common = query.delimiter.as_deref().and_then(|delimiter| {
            let end = rest.find(delimiter)? + delimiter.len();
            Some(format!("{}{}", query.prefix, &rest[..end]))
        });
        match common {
            Some(common) => entries.insert(common, None),
            None => entries.insert(key.clone(), Some(row.clone())),
        };
    }
    let after = query.after.clone().unwrap_or_default();
    entries.retain(|entry, _| *entry > after);
    let mut page = Page::default();
    let cut = entries.len() > query.limit && query.limit > 0;
    for (entry, row) in entries.into_iter().take(query.limit) {
        page.next = cut.then(|| entry.clone());
        match row {
            Some(row) => page.objects.push((key(&entry), row)),
            None => page.prefixes.push(entry),
        }
    }
    page
}

async fn check_lists(index: &Index, name: &BucketName, model: &Model, random: &mut Random) {
    for _ in 0..6 {
        let mut query = ListQuery {
            prefix: if random.below(3) == 0 {
                random.key()
            } else {
                String::new()
            },
            delimiter: [None, Some("/"), Some("--"), Some("é"), Some("a")][random.below(5)]
                .map(str::to_owned),
            after: (random.below(3) == 0).then(|| random.key()),
            limit: [0, 1, 2, 3, 10, 1_000, 10_000][random.below(7)],
        };
        loop {
            let page = index.list(name, &query).await.unwrap();
            assert_eq!(page, model_list(model, &query), "{query:?}");
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
        let verified = index.list_with(name, &query, drop_odd).await.unwrap();
        let even = model.iter().filter(|(_, row)| row.len_bytes % 2 == 0);
        let even = even.map(|(key, row)| (key.clone(), row.clone())).collect();
        assert_eq!(verified, model_list(&even, &query), "verified {query:?}");
    }
    let (from, to) = (random.key(), random.key());
    let limit = 1 + random.below(20);
    let rows = index
        .rows(name, &KeyRange::all().after(&from).before(&to), limit)
        .await
        .unwrap();
    let expected: Vec<_> = model
        .iter()
        .filter(|(key, _)| **key > from && **key < to)
        .take(limit)
        .map(|(text, row)| (key(text), row.clone()))
        .collect();
    assert_eq!(rows, expected, "{from:?} {to:?} {limit}");
    let probe = random.key();
    let found = index.get(name, &key(&probe)).await.unwrap();
    assert_eq!(found.as_ref(), model.get(&probe), "{probe:?}");
}

async fn drop_odd(rows: Vec<(ObjectKey, Row)>) -> Result<Vec<(ObjectKey, Option<Row>)>> {
    let keep = |row: Row| row.len_bytes.is_multiple_of(2).then_some(row);
    Ok(rows
        .into_iter()
        .map(|(key, row)| (key, keep(row)))
        .collect())
}

async fn check_totals(index: &Index, name: &BucketName, model: &Model) {
    let expected = Totals {
        objects: model.len() as u64,
        bytes: model.values().map(|row| row.len_bytes).sum(),
    };
    assert_eq!(index.count_and_bytes(name).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_equals_the_model() {
    let seed = seed();
    println!("PORTICO_TEST_SEED={seed}");
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut index = open(&dir).await;
    let names = [bucket("one"), bucket("two")];
    let mut models = [Model::new(), Model::new()];
    for step in 0..150 {
        let at = random.below(2);
        let (name, model) = (&names[at], &mut models[at]);
        match random.below(20) {
            0 => {
                index.drop_bucket(name);
                model.clear();
            }
            1 => index = reopen(index, &dir).await,
            2..=6 => assert!(index.flush().await.unwrap() >= index.flushed_through().min(1)),
            _ => {
                let changes: Vec<_> = (0..random.below(40))
                    .map(|n| {
                        let text = random.key();
                        if random.below(3) == 0 {
                            model.remove(&text);
                            remove(name, &text)
                        } else {
                            let len_bytes = step * 100 + n as u64;
                            model.insert(text.clone(), row(len_bytes));
                            put(name, &text, len_bytes)
                        }
                    })
                    .collect();
                index.apply(changes);
            }
        }
        for (name, model) in names.iter().zip(&models) {
            check_lists(&index, name, model, &mut random).await;
        }
        if random.below(10) == 0 {
            check_totals(&index, &names[at], &models[at]).await;
        }
    }
    index.flush().await.unwrap();
    for (name, model) in names.iter().zip(&models) {
        check_lists(&index, name, model, &mut random).await;
        check_totals(&index, name, model).await;
    }
}

async fn reopen(index: Index, dir: &tempfile::TempDir) -> Index {
    index.close().await.unwrap();
    let (index, opened) = Index::open(dir.path()).await.unwrap();
    assert_eq!(opened, Opened::Existing);
    index
}

/// Longer than one fetch and one slice of the overlay, with holes in both.
#[tokio::test]
async fn long_stretches_of_removed_keys_are_passed() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let name = bucket("b");
    let mut model = Model::new();
    for n in 0..5_000_u64 {
        model.insert(format!("d{}/k{n:05}", n / 1_500), row(n));
    }
    index.apply(
        model
            .values()
            .zip(model.keys())
            .map(|(r, k)| put(&name, k, r.len_bytes)),
    );
    index.flush().await.unwrap();
    let gone: Vec<String> = model
        .iter()
        .filter(|(_, row)| (100..4_000).contains(&row.len_bytes))
        .map(|(key, _)| key.clone())
        .collect();
    index.apply(gone.iter().map(|key| remove(&name, key)));
    model.retain(|key, _| !gone.contains(key));
    for delimiter in ["", "/", "k"] {
        for limit in [1, 7, 1_000, 10_000] {
            let query = query("", delimiter, "", limit);
            let page = index.list(&name, &query).await.unwrap();
            assert_eq!(page, model_list(&model, &query));
        }
    }
    check_totals(&index, &name, &model).await;
}

#[tokio::test]
async fn a_common_prefix_needs_one_confirmed_key() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let name = bucket("b");
    // Odd lengths are gone: `dead/` has none left, `late/` only its last.
    let dead = (0..3_000).map(|n| put(&name, &format!("dead/{n:04}"), 1));
    index.apply(dead);
    index.flush().await.unwrap();
    index.apply((0..2_000).map(|n| put(&name, &format!("late/{n:04}"), u64::from(n != 1_999))));
    index.apply([put(&name, "m", 1), put(&name, "n", 2)]);
    let page = index
        .list_with(&name, &query("", "/", "", 2), drop_odd)
        .await
        .unwrap();
    assert_eq!(
        (keys(&page), &page.prefixes[..]),
        (vec!["n"], &["late/".to_owned()][..])
    );
    assert_eq!(page.next, None);
}

#[tokio::test]
async fn a_verifier_replaces_rows_and_its_errors_are_returned() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let name = bucket("b");
    index.apply([put(&name, "a", 1), put(&name, "b", 2)]);
    let asked = AtomicU64::new(0);
    let page = index
        .list_with(&name, &query("", "", "", 1), |rows| {
            asked.fetch_add(rows.len() as u64, Ordering::Relaxed);
            std::future::ready(Ok(rows
                .into_iter()
                .map(|(key, _)| (key, Some(row(9))))
                .collect()))
        })
        .await
        .unwrap();
    assert_eq!(page.objects, [(key("a"), row(9))]);
    assert_eq!(page.next.as_deref(), Some("a"));
    assert_eq!(asked.into_inner(), 2);
    let failed = index
        .list_with(&name, &query("", "", "", 1), |_| {
            std::future::ready(Err(crate::error::StoreError::Stopping))
        })
        .await;
    assert!(matches!(failed, Err(crate::error::StoreError::Stopping)));
}

#[tokio::test]
async fn what_was_flushed_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let name = bucket("b");
    {
        let index = open(&dir).await;
        index.set_complete(&name, true);
        let applied = index.apply([put(&name, "kept", 1), put(&name, "then-removed", 2)]);
        assert!(index.flush().await.unwrap() >= applied.seq);
        let removed = index.apply([remove(&name, "then-removed")]);
        assert!(index.checkpoint().await.unwrap() >= removed.seq);
        let lost = index.apply([put(&name, "lost", 3)]);
        assert!(index.flushed_through() < lost.seq);
    }
    let (index, opened) = Index::open(dir.path()).await.unwrap();
    assert_eq!(opened, Opened::Existing);
    assert!(index.is_complete(&name));
    assert_eq!(index.buckets(), [(name.clone(), true)]);
    let page = index.list(&name, &query("", "", "", 10)).await.unwrap();
    assert!(keys(&page).starts_with(&["kept"]) && !keys(&page).contains(&"then-removed"));
}

#[tokio::test]
async fn a_checkpoint_leaves_everything_in_the_database_file() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let name = bucket("b");
    let index = open(&dir).await;
    index.apply((0..1_000).map(|n| put(&name, &format!("k{n}"), n)));
    index.checkpoint().await.unwrap();
    // The write-ahead log is left behind: what the main file has must be all.
    std::fs::copy(dir.path().join("index.db"), copy.path().join("index.db")).unwrap();
    let (copied, opened) = Index::open(copy.path()).await.unwrap();
    assert_eq!(opened, Opened::Existing);
    let totals = copied.count_and_bytes(&name).await.unwrap();
    assert_eq!((totals.objects, totals.bytes), (1_000, 499_500));
}

#[tokio::test]
async fn a_damaged_database_is_replaced() {
    let name = bucket("b");
    let garbage = |_: Vec<u8>| vec![0x55; 8_192];
    let cut = |whole: Vec<u8>| whole[..whole.len() / 2].to_vec();
    let foreign = |mut whole: Vec<u8>| {
        whole[60..64].copy_from_slice(&9_u32.to_be_bytes()); // user_version
        whole
    };
    let empty = |_: Vec<u8>| Vec::new();
    let damages: [&dyn Fn(Vec<u8>) -> Vec<u8>; 4] = [&garbage, &cut, &foreign, &empty];
    for (case, damage) in damages.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let index = open(&dir).await;
        index.apply((0..1_000).map(|n| put(&name, &format!("k{n}"), n)));
        index.close().await.unwrap();
        let path = dir.path().join("index.db");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, damage(whole)).unwrap();
        let (index, opened) = Index::open(dir.path()).await.unwrap();
        assert_eq!(opened, Opened::Fresh, "case {case}");
        assert!(index.buckets().is_empty());
        index.apply([put(&name, "again", 1)]);
        index.close().await.unwrap();
        let (index, opened) = Index::open(dir.path()).await.unwrap();
        assert_eq!(opened, Opened::Existing);
        let page = index.list(&name, &query("", "", "", 10)).await.unwrap();
        assert_eq!(keys(&page), ["again"]);
    }
}

#[tokio::test]
async fn damage_found_later_is_repaired_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let name = bucket("b");
    let index = open(&dir).await;
    index.apply((0..2_000).map(|n| put(&name, &format!("k{n:04}"), n)));
    index.close().await.unwrap();
    let path = dir.path().join("index.db");
    let mut bytes = std::fs::read(&path).unwrap();
    for page in bytes.chunks_mut(4_096).skip(5) {
        page.fill(0xee);
    }
    std::fs::write(&path, bytes).unwrap();
    let (index, opened) = Index::open(dir.path()).await.unwrap();
    assert_eq!(opened, Opened::Existing);
    let failed = index.list(&name, &query("", "", "", 10_000)).await;
    assert!(
        matches!(failed, Err(crate::error::StoreError::Index(_))),
        "{failed:?}"
    );
    drop(index);
    let (_, opened) = Index::open(dir.path()).await.unwrap();
    assert_eq!(opened, Opened::Fresh);
}

#[tokio::test]
async fn a_dropped_bucket_is_gone_at_once_and_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let name = bucket("b");
    let index = open(&dir).await;
    index.apply((0..10_000).map(|n| put(&name, &format!("k{n:05}"), n)));
    index.flush().await.unwrap();
    index.apply([put(&name, "pending", 1)]);
    index.drop_bucket(&name);
    let all = query("", "", "", 10);
    assert_eq!(index.list(&name, &all).await.unwrap(), Page::default());
    assert!(!index.is_complete(&name));
    index.add_bucket(&name, true);
    index.apply([put(&name, "new", 7)]);
    assert_eq!(keys(&index.list(&name, &all).await.unwrap()), ["new"]);
    // A kill before the rows were all deleted: they are deleted after the next start.
    index.flush().await.unwrap();
    drop(index);
    let index = open(&dir).await;
    assert_eq!(index.buckets(), [(name.clone(), true)]);
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut path = dir.path().to_path_buf();
    path.push("index.db");
    while count_rows(&path).await != 1 {
        assert!(Instant::now() < deadline, "the rows were not deleted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(keys(&index.list(&name, &all).await.unwrap()), ["new"]);
}

async fn count_rows(path: &std::path::Path) -> i64 {
    use sqlx::ConnectOptions;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut connection = options.connect().await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM entry")
        .fetch_one(&mut connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn rows_that_need_hashing_are_fed_until_they_are_hashed() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let names = [bucket("x"), bucket("a"), bucket("gone")];
    let mut unhashed = row(1);
    unhashed.flags.needs_hash = true;
    for name in &names {
        for n in 0..10 {
            let row = if n % 2 == 0 { unhashed.clone() } else { row(2) };
            index.apply([(name.clone(), key(&format!("k{n}")), Change::Put(row))]);
        }
    }
    index.flush().await.unwrap();
    index.drop_bucket(&names[2]);
    // Hashed since, and not yet flushed.
    index.apply([put(&names[0], "k0", 1), remove(&names[0], "k2")]);
    let mut found = Vec::new();
    let mut after: Option<(BucketName, ObjectKey)> = None;
    loop {
        let at = after.as_ref().map(|(bucket, key)| (bucket, key));
        let rows = index.next_unhashed(at, 3).await.unwrap();
        assert!(rows.iter().all(|(_, _, row)| *row == unhashed));
        let Some((bucket, key, _)) = rows.last().cloned() else {
            break;
        };
        after = Some((bucket, key));
        found.extend(
            rows.into_iter()
                .map(|(bucket, key, _)| format!("{bucket}/{key}")),
        );
    }
    assert_eq!(
        found,
        [
            "x/k4", "x/k6", "x/k8", "a/k0", "a/k2", "a/k4", "a/k6", "a/k8"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_overlay_says_so_and_empties() {
    let dir = tempfile::tempdir().unwrap();
    let index = Arc::new(open(&dir).await);
    let name = bucket("b");
    let many = (0..=MAX_OVERLAY_ROWS).map(|n| put(&name, &format!("k{n}"), 1));
    assert_eq!(index.apply(many).room, Room::Full);
    let committer = Arc::clone(&index);
    tokio::task::spawn_blocking(move || committer.wait_for_room_blocking())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(index.apply([put(&name, "one-more", 1)]).room, Room::Free);
    let totals = index.count_and_bytes(&name).await.unwrap();
    assert_eq!(totals.objects, MAX_OVERLAY_ROWS as u64 + 2);
}

#[tokio::test]
async fn changes_reach_the_database_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let seq = index.apply([put(&bucket("b"), "k", 1)]).seq;
    let deadline = Instant::now() + Duration::from_secs(5);
    while index.flushed_through() < seq {
        assert!(Instant::now() < deadline, "not flushed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One committer puts and removes; listers know what was acknowledged before they asked. Each
/// key is removed and put again in turns, its length counting the turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_listing_never_misses_what_was_applied_before() {
    const KEYS: usize = 1_500;
    let dir = tempfile::tempdir().unwrap();
    let index = Arc::new(open(&dir).await);
    let name = bucket("b");
    // Turn of each key: even is there, odd is removed. `begun` leads, `done` follows.
    let begun: Arc<Vec<AtomicU64>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
    let done: Arc<Vec<AtomicU64>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
    index.apply((0..KEYS).map(|n| put(&name, &format!("d{}/k{n:05}", n / 100), 0)));
    let stop = Arc::new(AtomicBool::new(false));
    let seed = seed();
    println!("PORTICO_TEST_SEED={seed}");
    let committer = {
        let (index, name, stop) = (Arc::clone(&index), name.clone(), Arc::clone(&stop));
        let (begun, done) = (Arc::clone(&begun), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut random = Random(seed);
            let mut changes = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let n = random.below(KEYS);
                let turn = done[n].load(Ordering::SeqCst) + 1;
                begun[n].store(turn, Ordering::SeqCst);
                let text = format!("d{}/k{n:05}", n / 100);
                let applied = if turn % 2 == 0 {
                    index.apply([put(&name, &text, turn)])
                } else {
                    index.apply([remove(&name, &text)])
                };
                done[n].store(turn, Ordering::SeqCst);
                changes += 1;
                if applied.room == Room::Full {
                    index.wait_for_room_blocking().unwrap();
                }
                if changes.is_multiple_of(64) {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
            changes
        })
    };
    let until = Instant::now() + Duration::from_secs(2);
    let mut listers = Vec::new();
    for lister in 0..2_usize {
        let (index, name) = (Arc::clone(&index), name.clone());
        let (begun, done) = (Arc::clone(&begun), Arc::clone(&done));
        listers.push(tokio::spawn(async move {
            let mut lists = 0;
            while Instant::now() < until {
                let before: Vec<u64> = done.iter().map(|t| t.load(Ordering::SeqCst)).collect();
                let listed = list_all(&index, &name, [1_000, 333][lister]).await;
                for n in 0..KEYS {
                    let latest = begun[n].load(Ordering::SeqCst);
                    let text = format!("d{}/k{n:05}", n / 100);
                    match listed.get(&text) {
                        Some(row) => {
                            let turn = row.len_bytes;
                            assert!((before[n]..=latest).contains(&turn), "{text}: {turn}");
                        }
                        // A removal stands between the listing's begin and its end.
                        None => assert!(
                            before[n] % 2 == 1 || latest > before[n],
                            "{text} was missed in turn {latest}"
                        ),
                    }
                }
                lists += 1;
            }
            lists
        }));
    }
    for lister in listers {
        assert!(lister.await.unwrap() > 0);
    }
    stop.store(true, Ordering::Relaxed);
    let changes = committer.join().unwrap();
    assert!(changes > 1_000, "{changes}");
    assert!(index.flushed_through() > 0);
}

async fn list_all(index: &Index, name: &BucketName, limit: usize) -> Model {
    let mut all = Model::new();
    let mut query = query("", "", "", limit);
    loop {
        let page = index.list(name, &query).await.unwrap();
        for (key, row) in page.objects {
            assert!(
                all.insert(key.as_str().to_owned(), row).is_none(),
                "{key} twice"
            );
        }
        match page.next {
            Some(next) => query.after = Some(next),
            None => return all,
        }
    }
}

#[tokio::test]
async fn the_longest_keys_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let name = bucket("b");
    let long: Vec<String> = (0..50)
        .map(|n| format!("{}{n:02}", "k".repeat(1_022)))
        .collect();
    index.apply(long.iter().map(|text| put(&name, text, 1)));
    index.flush().await.unwrap();
    let rows = index
        .rows(&name, &KeyRange::prefix("k"), MAX_FETCH_ROWS)
        .await
        .unwrap();
    assert!(
        rows.iter()
            .map(|(key, _)| key.as_str())
            .eq(long.iter().map(String::as_str))
    );
}
