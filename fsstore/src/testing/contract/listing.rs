//! Listings are those of a model: a set of names, filtered and cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Subject;
use super::random::{Random, seeds};
use crate::object::{Attributes, DigestAlgorithm};
use crate::volume::{CommitOptions, ListPage, ListQuery, MAX_PAGE, StageOptions, Volume};

/// What a page is compared with: keys, common prefixes, and where to go on.
type Shown = (Vec<String>, Vec<String>, Option<String>);

/// Every name that the query asks for, with whether it is a common prefix.
fn names(keys: &BTreeSet<String>, query: &ListQuery) -> BTreeMap<String, bool> {
    let mut names = BTreeMap::new();
    for key in keys.iter().filter(|key| key.starts_with(&query.prefix)) {
        let from = query.prefix.len();
        let delimiter = query.delimiter.as_deref();
        let found = delimiter.and_then(|text| key[from..].find(text).map(|at| at + text.len()));
        match found {
            Some(end) => names.insert(key[..from + end].to_owned(), true),
            None => names.insert(key.clone(), false),
        };
    }
    names
}

fn model(keys: &BTreeSet<String>, query: &ListQuery) -> Shown {
    let mut names = names(keys, query);
    names.retain(|name, _| query.after.as_ref().is_none_or(|after| name > after));
    let page: Vec<(&String, &bool)> = names.iter().take(query.limit).collect();
    let next = if names.len() > page.len() {
        page.last().map(|(name, _)| (*name).clone())
    } else {
        None
    };
    let of = |kind: bool| {
        let kept = page.iter().filter(|(_, is_prefix)| **is_prefix == kind);
        kept.map(|(name, _)| (*name).clone()).collect()
    };
    (of(false), of(true), next)
}

fn shown(page: &ListPage) -> Shown {
    let keys = page.objects.iter().map(|entry| entry.key.to_string());
    (keys.collect(), page.prefixes.clone(), page.next.clone())
}

async fn list<V: Volume>(on: &Subject<V>, query: &ListQuery) -> ListPage {
    on.volume.list(&on.bucket, query).await.unwrap()
}

fn query(prefix: &str, delimiter: Option<&str>, after: Option<&str>, limit: usize) -> ListQuery {
    ListQuery {
        prefix: prefix.to_owned(),
        delimiter: delimiter.map(str::to_owned),
        after: after.map(str::to_owned),
        limit,
    }
}

async fn put_all<V: Volume>(on: &Subject<V>, keys: &[&str]) {
    for key in keys {
        on.put(key, b"1").await;
    }
}

pub async fn a_listing_sees_every_change<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    assert_eq!(
        list(&on, &query("", None, None, 10)).await,
        ListPage::default()
    );
    for round in 0..20u8 {
        let put = on.put("k", &vec![round; usize::from(round)]).await;
        let page = list(&on, &query("", None, None, 10)).await;
        assert_eq!(page.objects.len(), 1);
        assert_eq!(page.objects[0].etag, put.etag);
        assert_eq!(page.objects[0].len_bytes, put.len_bytes);
        if round % 3 == 0 {
            on.remove("k").await;
            assert!(on.keys().await.is_empty());
        }
    }
}

pub async fn keys_are_in_order_of_bytes<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let ordered = [
        "\u{1}", " ", "A", "Z/z", "a", "a!", "a-b", "a.b", "a/", "a//", "a/b", "a0", "aa", "b",
        "é", "ｆ", "😀",
    ];
    let mut keys = ordered;
    Random::new(1).shuffle(&mut keys);
    put_all(&on, &keys).await;
    assert_eq!(on.keys().await, ordered);
}

/// Keys in which prefixes and delimiters of all sorts meet.
fn random_key(random: &mut Random) -> String {
    const PIECES: [&str; 12] = [
        "a", "b", "/", "//", "-", "--", ".", "é", "~", "=", "ab", "\u{1}",
    ];
    let len = 1 + random.below(6);
    (0..len).map(|_| *random.choose(&PIECES)).collect()
}

fn random_query(random: &mut Random, keys: &BTreeSet<String>) -> ListQuery {
    let all: Vec<&String> = keys.iter().collect();
    let some_prefix = |random: &mut Random| {
        let key = random.choose(&all).as_str();
        let ends: Vec<usize> = key.char_indices().map(|(at, _)| at).collect();
        key[..*random.choose(&ends)].to_owned()
    };
    let delimiters = [
        None,
        None,
        Some("/"),
        Some("/"),
        Some("//"),
        Some("--"),
        Some("a"),
        Some("é/"),
    ];
    let after = match random.below(4) {
        0 => Some(random.choose(&all).to_string()),
        1 => Some(some_prefix(random)),
        2 => Some(random_key(random)),
        _ => None,
    };
    ListQuery {
        prefix: if random.below(2) == 0 {
            some_prefix(random)
        } else {
            String::new()
        },
        delimiter: random.choose(&delimiters).map(str::to_owned),
        after,
        limit: *random.choose(&[1, 2, 3, 5, 8, 100]),
    }
}

async fn fill<V: Volume>(on: &Subject<V>, random: &mut Random, keys: &mut BTreeSet<String>) {
    for _ in 0..40 {
        let key = random_key(random);
        on.put(&key, key.as_bytes()).await;
        keys.insert(key);
    }
    for key in keys.clone() {
        if random.below(4) == 0 {
            on.remove(&key).await;
            keys.remove(&key);
        }
    }
}

pub async fn listings_are_those_of_the_model<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let mut keys = BTreeSet::new();
    for seed in seeds(6) {
        let mut random = Random::new(seed);
        fill(&on, &mut random, &mut keys).await;
        for _ in 0..120 {
            let query = random_query(&mut random, &keys);
            let page = list(&on, &query).await;
            assert_eq!(shown(&page), model(&keys, &query), "{query:?} of {keys:?}");
        }
    }
}

pub async fn pages_make_the_whole<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let mut keys = BTreeSet::new();
    for seed in seeds(3) {
        let mut random = Random::new(seed);
        fill(&on, &mut random, &mut keys).await;
        for _ in 0..20 {
            let mut query = random_query(&mut random, &keys);
            query.after = None;
            let expected = names(&keys, &query);
            let mut found = BTreeMap::new();
            loop {
                let page = list(&on, &query).await;
                let (objects, prefixes, next) = shown(&page);
                let before = found.len();
                found.extend(objects.into_iter().map(|name| (name, false)));
                found.extend(prefixes.into_iter().map(|name| (name, true)));
                assert!(found.len() - before <= query.limit, "{query:?}");
                query.after = next;
                if query.after.is_none() {
                    break;
                }
                assert_eq!(found.len() - before, query.limit, "{query:?}");
            }
            assert_eq!(found, expected, "{query:?}");
        }
    }
}

pub async fn a_prefix_is_shown_only_after_the_marker<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    put_all(&on, &["a/1", "a/2", "a/3", "b", "c/1"]).await;
    let prefixes = async |after: &str| {
        let page = list(&on, &query("", Some("/"), Some(after), 100)).await;
        page.prefixes
    };
    assert_eq!(prefixes("a").await, ["a/", "c/"]);
    assert_eq!(prefixes("a/").await, ["c/"]);
    assert_eq!(prefixes("a/2").await, ["c/"]);
    assert_eq!(prefixes("c/").await, [""; 0]);
}

pub async fn a_page_has_its_limit<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    put_all(&on, &["a/1", "a/2", "b", "c/1", "d"]).await;
    let list_up_to = async |limit| shown(&list(&on, &query("", Some("/"), None, limit)).await);
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(list_up_to(0).await, (vec![], vec![], None));
    assert_eq!(
        list_up_to(1).await,
        (vec![], owned(&["a/"]), Some("a/".to_owned()))
    );
    assert_eq!(
        list_up_to(2).await,
        (owned(&["b"]), owned(&["a/"]), Some("b".to_owned()))
    );
    let all = (owned(&["b", "d"]), owned(&["a/", "c/"]), None);
    assert_eq!(list_up_to(4).await, all);
    assert_eq!(list_up_to(MAX_PAGE).await, all);
    assert_eq!(list_up_to(usize::MAX).await, all);
}

pub async fn an_entry_tells_what_stat_tells<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let keys = ["a//b", "dir", "dir/", "dir/k", "k"];
    for key in keys {
        let commit = CommitOptions {
            attrs: Attributes {
                owner: Some(format!("owner of {key}")),
                ..Attributes::default()
            },
            keep_checksum: Some(DigestAlgorithm::Crc32c),
            ..CommitOptions::default()
        };
        let stage = StageOptions {
            digests: Default::default(),
            ..StageOptions::default()
        };
        let stage = StageOptions {
            digests: stage.digests.with(DigestAlgorithm::Crc32c),
            ..stage
        };
        on.try_put(key, key.as_bytes(), stage, commit)
            .await
            .unwrap();
    }
    let page = list(&on, &query("", None, None, 10)).await;
    assert_eq!(page.objects.len(), keys.len());
    for entry in page.objects {
        let info = on.stat(entry.key.as_str()).await;
        assert_eq!(entry.etag, info.etag);
        assert_eq!(entry.len_bytes, info.len_bytes);
        assert_eq!(entry.modified, info.modified);
        assert_eq!(entry.owner, info.attrs.owner);
        let kept = info
            .checksum
            .map(|checksum| (checksum.algorithm, checksum.kind));
        assert!(kept.is_some() && entry.checksum == kept);
    }
}
