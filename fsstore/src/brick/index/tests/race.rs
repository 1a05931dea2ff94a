//! Listings while changes are applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Model, Random, bucket, open, put, query, remove, seed};
use crate::brick::index::{Index, Room};
use crate::name::BucketName;

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
    while Instant::now() < until {
        let through = index.flushed_through();
        assert!(index.checkpoint().await.unwrap() >= through);
        tokio::time::sleep(Duration::from_millis(50)).await;
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
