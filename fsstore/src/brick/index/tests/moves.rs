//! Directories that move, against a model.

use std::collections::BTreeMap;

use super::super::{Change, Index, Room, Row};
use super::{Random, bucket, key, open, put, query, remove, row, seed};
use crate::name::{BucketName, MAX_KEY_LEN_BYTES};

type Model = BTreeMap<(String, String), Row>;

fn escaped(len_bytes: u64) -> Row {
    let mut row = row(len_bytes);
    row.flags.escaped = true;
    row
}

/// What should be true after a directory moved.
fn move_in(model: &mut Model, from: (&str, &str), to: (&str, &str)) {
    let stays = |row: &Row| row.flags.escaped;
    let mut after = Model::new();
    let mut moved = Model::new();
    for ((bucket, key), row) in std::mem::take(model) {
        let is_in = |at: (&str, &str)| bucket == at.0 && key.starts_with(at.1);
        if stays(&row) || !(is_in(from) || is_in(to)) {
            after.insert((bucket, key), row);
        } else if is_in(from) {
            let new = format!("{}{}", to.1, &key[from.1.len()..]);
            if new.len() <= MAX_KEY_LEN_BYTES {
                moved.insert((to.0.to_owned(), new), row);
            }
        }
    }
    // A plain file counts more than one in its shelter.
    after.extend(moved);
    *model = after;
}

async fn check(index: &Index, model: &Model, buckets: &[&str], context: &str) {
    for name in buckets {
        let of_bucket: BTreeMap<_, _> = model
            .iter()
            .filter(|((bucket, _), _)| bucket == name)
            .map(|((_, key), row)| (key.clone(), row.clone()))
            .collect();
        let name = bucket(name);
        index.still(&name).await.unwrap();
        let page = index.list(&name, &query("", "", "", 1_000)).await.unwrap();
        let listed: BTreeMap<_, _> = page
            .objects
            .into_iter()
            .map(|(key, row)| (key.as_str().to_owned(), row))
            .collect();
        assert_eq!(listed, of_bucket, "{context}");
        let totals = index.count_and_bytes(&name).await.unwrap();
        let bytes = of_bucket.values().map(|row| row.len_bytes).sum();
        assert_eq!(
            (totals.objects, totals.bytes),
            (of_bucket.len() as u64, bytes),
            "{context}"
        );
    }
}

/// No row is escaped and not, under the same key, at two places: then which of them moves is
/// not told. So keys below `e` are the escaped ones.
fn random_row(random: &mut Random, text: &str) -> Row {
    let len_bytes = random.below(1_000) as u64;
    match text.contains('e') {
        true => escaped(len_bytes),
        false => row(len_bytes),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_are_those_of_the_model() {
    const DIRS: [&str; 5] = ["a/", "b/", "b/c/", "d/", "a-b/"];
    const NAMES: [&str; 6] = ["", "k", "l\0m", "é", "c/k", "e"];
    const BUCKETS: [&str; 2] = ["one", "two"];
    let seed = seed();
    let mut random = Random(seed);
    for round in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let index = open(&dir).await;
        BUCKETS.iter().for_each(|name| {
            index.add_bucket(&bucket(name), true);
        });
        let mut model = Model::new();
        let mut done = Vec::new();
        for step in 0..60 {
            let name = random.pick(&BUCKETS);
            let text = format!("{}{}", random.pick(&DIRS), random.pick(&NAMES));
            let at = (name.to_owned(), text.clone());
            match random.below(11) {
                0..4 => {
                    let row = random_row(&mut random, &text);
                    index.apply([(bucket(name), key(&text), Change::Put(row.clone()))]);
                    model.insert(at, row);
                    done.push(format!("put {name} {text:?}"));
                }
                4 => {
                    index.apply([remove(&bucket(name), &text)]);
                    model.remove(&at);
                    done.push(format!("remove {name} {text:?}"));
                }
                5..8 => {
                    let from = (name, random.pick(&DIRS));
                    let to = (random.pick(&BUCKETS), random.pick(&DIRS));
                    if from.0 == to.0 && (from.1.starts_with(to.1) || to.1.starts_with(from.1)) {
                        continue;
                    }
                    // A directory replaces an empty one only.
                    let in_the_way: Vec<_> = model
                        .iter()
                        .filter(|((bucket, key), row)| {
                            bucket == to.0 && key.starts_with(to.1) && !row.flags.escaped
                        })
                        .map(|((_, key), _)| key.clone())
                        .collect();
                    for text in in_the_way {
                        index.apply([remove(&bucket(to.0), &text)]);
                        model.remove(&(to.0.to_owned(), text));
                    }
                    index.move_prefix((&bucket(from.0), from.1), (&bucket(to.0), to.1));
                    move_in(&mut model, from, to);
                    done.push(format!("move {from:?} {to:?}"));
                }
                8 => {
                    let one = (name, random.pick(&DIRS));
                    let other = (random.pick(&BUCKETS), random.pick(&DIRS));
                    if one.0 == other.0
                        && (one.1.starts_with(other.1) || other.1.starts_with(one.1))
                    {
                        continue;
                    }
                    index.swap_prefixes((&bucket(one.0), one.1), (&bucket(other.0), other.1));
                    move_in(&mut model, one, ("aside", "x/"));
                    move_in(&mut model, other, one);
                    move_in(&mut model, ("aside", "x/"), other);
                    done.push(format!("swap {one:?} {other:?}"));
                }
                9 => {
                    index.flush().await.unwrap();
                    done.push("flush".to_owned());
                }
                _ => {}
            }
            let context = format!("PORTICO_TEST_SEED={seed} round {round}: {done:#?}");
            for name in BUCKETS {
                for dir in DIRS {
                    let text = format!("{dir}{}", random.pick(&NAMES));
                    let got = index.get(&bucket(name), &key(&text)).await.unwrap();
                    let expected = model.get(&(name.to_owned(), text.clone()));
                    assert_eq!(got.as_ref(), expected, "{name} {text:?} {context}");
                }
            }
            if step % 7 == 0 {
                check(&index, &model, &BUCKETS, &context).await;
            }
        }
        let context = format!("PORTICO_TEST_SEED={seed} round {round}: {done:#?}");
        check(&index, &model, &BUCKETS, &context).await;
        index.close().await.unwrap();
        let index = open(&dir).await;
        check(&index, &model, &BUCKETS, &context).await;
    }
}

#[tokio::test]
async fn a_key_that_becomes_too_long_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let b = bucket("b");
    let long = "x".repeat(MAX_KEY_LEN_BYTES - 2);
    for flushed in [false, true] {
        index.apply([put(&b, &format!("a/{long}"), 1), put(&b, "a/k", 2)]);
        if flushed {
            index.flush().await.unwrap();
        }
        index.move_prefix((&b, "a/"), (&b, "dir/"));
        index.still(&b).await.unwrap();
        let page = index.list(&b, &query("", "", "", 10)).await.unwrap();
        assert_eq!(super::keys(&page), ["dir/k"]);
        assert_eq!(index.count_and_bytes(&b).await.unwrap().objects, 1);
    }
}

#[tokio::test]
async fn who_moves_on_before_rows_are_found_too_long_leaves_a_bucket_that_is_not_whole() {
    let long = "x".repeat(MAX_KEY_LEN_BYTES - 10);
    for flushing in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let index = open(&dir).await;
        let b = bucket("b");
        index.add_bucket(&b, true);
        index.apply([put(&b, &format!("a/d/{long}"), 1)]);
        index.flush().await.unwrap();
        assert!(!index.may_have_long_paths(&b));
        let writer = index.hold_writer().await;
        index.move_prefix((&b, "a/"), (&b, "directory/"));
        if flushing {
            index.shared.overlay().begin_flush();
        }
        index.move_prefix((&b, "directory/d/"), (&b, "s/"));
        drop(writer);
        index.flush().await.unwrap();
        assert!(index.may_have_long_paths(&b));
        assert!(!index.is_complete(&b), "while it was written: {flushing}");
    }
}

#[tokio::test]
async fn rows_that_stay_too_long_leave_a_bucket_whole() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let b = bucket("b");
    index.add_bucket(&b, true);
    index.apply([put(
        &b,
        &format!("a/{}", "x".repeat(MAX_KEY_LEN_BYTES - 2)),
        1,
    )]);
    index.flush().await.unwrap();
    index.move_prefix((&b, "a/"), (&b, "directory/"));
    index.flush().await.unwrap();
    assert!(index.may_have_long_paths(&b) && index.is_complete(&b));
}

#[tokio::test]
async fn a_plain_row_takes_the_place_of_an_escaped_one() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let b = bucket("b");
    for flushed in [false, true] {
        let shelter = Change::Put(escaped(5));
        index.apply([(b.clone(), key("to/k"), shelter), put(&b, "from/k", 2)]);
        if flushed {
            index.flush().await.unwrap();
        }
        index.move_prefix((&b, "from/"), (&b, "to/"));
        index.flush().await.unwrap();
        index.still(&b).await.unwrap();
        let totals = index.count_and_bytes(&b).await.unwrap();
        assert_eq!((totals.objects, totals.bytes), (1, 2), "{flushed}");
        let row = index.get(&b, &key("to/k")).await.unwrap().unwrap();
        assert!(!row.flags.escaped);
    }
}

#[tokio::test]
async fn what_comes_from_a_bucket_that_is_not_whole_leaves_no_other_so() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let (whole, not) = (bucket("whole"), bucket("not"));
    index.add_bucket(&whole, true);
    index.add_bucket(&not, false);
    index.move_prefix((&whole, "a/"), (&not, "a/"));
    assert!(index.is_complete(&whole) && !index.is_complete(&not));
    let doubts = index.doubts(&not);
    index.move_prefix((&not, "b/"), (&not, "c/"));
    assert!(
        !index.set_complete_unless_doubted(&not, doubts),
        "a scan may have missed it"
    );
    assert!(index.set_complete_unless_doubted(&not, index.doubts(&not)));
    index.set_complete(&not, false);
    index.move_prefix((&not, "a/"), (&whole, "a/"));
    assert!(!index.is_complete(&whole));
}

#[tokio::test]
async fn who_lists_waits_for_a_move_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let index = std::sync::Arc::new(open(&dir).await);
    let (b, other) = (bucket("b"), bucket("other"));
    let before = index.still(&b).await.unwrap();
    let moving = index.moving(&b, &b);
    assert_eq!(index.still(&other).await.unwrap(), 0);
    let (waiting, name): (_, BucketName) = (std::sync::Arc::clone(&index), b.clone());
    let waiter = tokio::spawn(async move { waiting.still(&name).await.unwrap() });
    tokio::task::yield_now().await;
    assert!(!waiter.is_finished());
    drop(moving);
    assert!(waiter.await.unwrap() > before);
}

#[tokio::test]
async fn a_directory_that_moves_without_a_pause_leaves_room() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let b = bucket("b");
    index.apply((0..300).map(|n| put(&b, &format!("one/{n:03}"), n)));
    let writer = index.hold_writer().await;
    for turn in 0..1_000 {
        let (from, to) = match turn % 2 {
            0 => ("one/", "two/"),
            _ => ("two/", "one/"),
        };
        index.move_prefix((&b, from), (&b, to));
        let changes = [put(&b, &format!("{to}000"), turn), remove(&b, from)];
        assert_eq!(index.apply(changes).room, Room::Free, "turn {turn}");
    }
    drop(writer);
    index.still(&b).await.unwrap();
    let page = index.list(&b, &query("", "/", "", 10)).await.unwrap();
    assert_eq!(page.prefixes, ["one/"]);
    let totals = index.count_and_bytes(&b).await.unwrap();
    let bytes = (0..300).sum::<u64>() + 999;
    assert_eq!((totals.objects, totals.bytes), (300, bytes));
}

#[tokio::test]
async fn a_directory_that_moves_to_ever_new_names_leaves_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let b = bucket("b");
    index.apply([put(&b, "d0/k", 1)]);
    let writer = index.hold_writer().await;
    let mut at = 0;
    let step = |n: usize| {
        let (from, to) = (format!("d{n}/"), format!("d{}/", n + 1));
        index.move_prefix((&b, &from), (&b, &to))
    };
    while step(at).room == Room::Free {
        at += 1;
        assert!(at < 1_000, "there is always room");
    }
    drop(writer);
    index.flush().await.unwrap();
    assert_eq!(step(at + 1).room, Room::Free);
    let key = key(&format!("d{}/k", at + 2));
    assert!(index.get(&b, &key).await.unwrap().is_some());
}

#[tokio::test]
async fn very_many_moves_leave_no_room_until_they_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let b = bucket("b");
    index.apply([put(&b, "one/k", 1), put(&b, "two/k", 2)]);
    let writer = index.hold_writer().await;
    let mut swaps = 0;
    while index.swap_prefixes((&b, "one/"), (&b, "two/")).room == Room::Free {
        swaps += 1;
        assert!(swaps < 1_000, "there is always room");
    }
    drop(writer);
    index.flush().await.unwrap();
    assert_eq!(index.apply([put(&b, "k", 3)]).room, Room::Free);
    let row = index.get(&b, &key("one/k")).await.unwrap().unwrap();
    assert_eq!(row.len_bytes, if swaps % 2 == 0 { 2 } else { 1 });
}
