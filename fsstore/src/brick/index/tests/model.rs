//! A listing equals what a map says.

use std::collections::BTreeMap;

use super::{Model, Random, bucket, drop_odd, key, open, put, query, remove, row, seed};
use crate::brick::index::{Index, KeyRange, Opened, Page, Row, Totals};
use crate::name::BucketName;
use crate::volume::ListQuery;

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
    for _ in 0..4 {
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
        for _ in 0..30 {
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
    let asked: Vec<_> = model.keys().chain([&probe]).map(|text| key(text)).collect();
    let found = index.get_many(name, &asked).await.unwrap();
    let expected = asked.iter().map(|key| model.get(key.as_str()).cloned());
    assert_eq!(found, expected.collect::<Vec<_>>());
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
    for step in 0..60 {
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

/// The database is asked for the first key of each prefix only; where that one is removed in
/// memory, the next must be found.
#[tokio::test]
async fn a_prefix_whose_first_keys_are_removed_in_memory_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let index = open(&dir).await;
    let name = bucket("b");
    let mut model = Model::new();
    for (prefix, n) in (0..60_u64).flat_map(|prefix| (0..20).map(move |n| (prefix, n))) {
        model.insert(format!("d{prefix:02}/k{n:02}"), row(n));
    }
    index.apply(
        model
            .iter()
            .map(|(key, row)| put(&name, key, row.len_bytes)),
    );
    index.flush().await.unwrap();
    // From here on everything stays in memory.
    index.flusher.0.abort();
    // Prefix n loses its first n % 22 keys: some lose none, some all.
    let gone: Vec<String> = (0..60)
        .flat_map(|prefix| (0..prefix % 22).map(move |n| format!("d{prefix:02}/k{n:02}")))
        .collect();
    index.apply(gone.iter().map(|key| remove(&name, key)));
    index.apply([put(&name, "d21/later", 1), put(&name, "d01/earlier", 1)]);
    model.retain(|key, _| !gone.contains(key));
    model.insert("d21/later".to_owned(), row(1));
    model.insert("d01/earlier".to_owned(), row(1));
    for delimiter in ["/", "/k", "d"] {
        for limit in [1, 5, 25, 1_000] {
            let mut query = query("", delimiter, "", limit);
            loop {
                let page = index.list(&name, &query).await.unwrap();
                assert_eq!(page, model_list(&model, &query), "{query:?}");
                match page.next {
                    Some(next) => query.after = Some(next),
                    None => break,
                }
            }
        }
    }
    assert_eq!(
        index.flushed_through(),
        1,
        "the removals were not in memory"
    );
}
