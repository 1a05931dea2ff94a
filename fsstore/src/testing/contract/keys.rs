//! Every key is exact, whatever it looks like as a path.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::random::{Random, seeds};
use super::{Subject, read_all};
use crate::object::Attributes;
use crate::volume::{
    AttrsPatch, CommitOptions, ListQuery, MAX_PAGE, Object, StageOptions, Staged, Volume,
};

/// Keys that are paths only in part, or that get in each other's way.
pub(crate) fn awkward_keys() -> Vec<String> {
    let fixed = [
        "a",
        "a/b",
        "a/b/c",
        "a//b",
        "a/",
        "a/b/",
        "a//",
        "a/.",
        "a/..",
        "/",
        "//",
        "/a",
        "/a/b",
        ".",
        "..",
        "...",
        "./x",
        "../x",
        "../../x",
        "x/../y",
        ".portico",
        ".portico/keys/bucket/a=",
        "x",
        "x/",
        "x=",
        "x~",
        "x~/y",
        "x=/y",
        "%41",
        "A",
        "a%2Fb",
        "a%2Fb=",
        "a=",
        "\0",
        "nul\0",
        "\u{1}\u{1f}\u{7f}",
        "new\nline",
        "tab\t",
        " ",
        " lead",
        "trail ",
        "a b",
        "\\",
        "back\\slash",
        "é",
        "e\u{301}",
        "日本語/キー",
        "\u{10ffff}",
        "\u{feff}",
        "?q=1&r",
        "#",
        "*",
        "-",
        "--",
        "~",
        "=",
        "~/",
        "=/",
        "a-b",
        "a.b",
        "a0",
        ".hidden",
        "dir/.hidden/",
        "CON",
        "case",
        "CASE",
    ];
    let mut keys: Vec<String> = fixed.iter().map(|key| (*key).to_owned()).collect();
    for piece in [
        "c".repeat(255),
        "d".repeat(256),
        "e".repeat(300),
        "é".repeat(128),
    ] {
        keys.push(format!("long/{piece}"));
        keys.push(piece);
    }
    keys.push("k".repeat(1024));
    keys.push("é".repeat(512));
    keys.push("\0".repeat(1024));
    keys.push("/".repeat(1024));
    keys.push("p/".repeat(512));
    keys.push(format!("{}{}", "q/".repeat(511), "qq"));
    keys
}

async fn assert_holds<V: Volume>(on: &Subject<V>, keys: &BTreeSet<String>) {
    let listed: Vec<String> = keys.iter().cloned().collect();
    assert_eq!(on.keys().await, listed);
    for key in keys {
        assert_eq!(on.get(key).await, key.as_bytes(), "{key:?}");
    }
}

pub async fn awkward_keys_are_exact<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let keys: BTreeSet<String> = awkward_keys().into_iter().collect();
    for key in awkward_keys() {
        on.put(&key, key.as_bytes()).await;
        assert_eq!(on.get(&key).await, key.as_bytes(), "{key:?}");
    }
    assert_holds(&on, &keys).await;
    for key in &keys {
        assert!(on.remove(key).await, "{key:?}");
        on.assert_absent(key).await;
    }
    assert!(on.keys().await.is_empty());
    on.volume.delete_bucket(&on.bucket).await.unwrap();
}

pub async fn keys_come_and_go_in_any_order<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let pool = [
        "a", "a/", "a/b", "a/b/", "a/b/c", "a/b/c/d", "a//", "a//b", "b", "b/c", "b/c/", "b/../c",
    ];
    for seed in seeds(6) {
        let mut random = Random::new(seed);
        let mut standing = BTreeSet::new();
        for _ in 0..60 {
            let key = *random.choose(&pool);
            if random.below(5) < 3 {
                on.put(key, key.as_bytes()).await;
                standing.insert(key.to_owned());
            } else {
                assert_eq!(on.remove(key).await, standing.remove(key), "{key:?}");
            }
            assert_holds(&on, &standing).await;
            for key in pool.iter().filter(|key| !standing.contains(**key)) {
                on.assert_absent(key).await;
            }
        }
        for key in pool {
            on.remove(key).await;
        }
    }
    on.volume.delete_bucket(&on.bucket).await.unwrap();
}

pub async fn a_key_and_one_below_it_both_exist<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for order in [["a", "a/b"], ["a/b", "a"]] {
        for removed_first in order {
            for key in order {
                on.put(key, key.as_bytes()).await;
            }
            assert_eq!(on.get("a").await, b"a");
            assert_eq!(on.get("a/b").await, b"a/b");
            assert_eq!(on.keys().await, ["a", "a/b"]);
            on.put("a", b"new").await;
            assert_eq!(on.get("a").await, b"new");
            assert!(on.remove(removed_first).await);
            let left = order.iter().find(|key| **key != removed_first).unwrap();
            assert_eq!(on.keys().await, [*left]);
            let expected: &[u8] = if *left == "a" { b"new" } else { b"a/b" };
            assert_eq!(on.get(left).await, expected);
            on.put(left, b"again").await;
            assert_eq!(on.get(left).await, b"again");
            assert!(on.remove(left).await);
            assert!(on.keys().await.is_empty());
        }
    }
}

pub async fn a_key_under_a_key_keeps_its_record<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let commit = CommitOptions {
        attrs: Attributes {
            owner: Some("someone".to_owned()),
            user: [("m".to_owned(), "v".to_owned())].into(),
            ..Attributes::default()
        },
        ..CommitOptions::default()
    };
    let put = on.put_with("a/b", b"bytes", commit).await;
    for below in ["a/b/c", "a/b/c/d", "a/b/"] {
        on.put(below, b"below").await;
        assert_eq!(on.stat("a/b").await, put, "while {below} stands");
        on.remove(below).await;
        assert_eq!(on.stat("a/b").await, put, "after {below} went");
        assert_eq!(on.get("a/b").await, b"bytes");
    }
}

pub async fn an_open_object_outlives_a_key_below_it<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    on.put("a", b"bytes").await;
    let object = on.volume.open(&on.at("a")).await.unwrap();
    on.put("a/b", b"below").await;
    assert_eq!(read_all(&object).await, b"bytes");
    object.check_unchanged().unwrap();
    on.remove("a/b").await;
    assert_eq!(read_all(&object).await, b"bytes");
    // A stage begun before the directory came is published beside it.
    let mut staged = on
        .volume
        .stage(&on.at("a"), StageOptions::default())
        .await
        .unwrap();
    staged.write(Bytes::from_static(b"new")).await.unwrap();
    on.put("a/b", b"below").await;
    staged.commit(CommitOptions::default()).await.unwrap();
    assert_eq!(on.get("a").await, b"new");
    assert_eq!(on.get("a/b").await, b"below");
}

pub async fn a_directory_marker_is_an_object<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let put = on.put("dir/", b"").await;
    assert_eq!((put.key.as_str(), put.len_bytes), ("dir/", 0));
    on.assert_absent("dir").await;
    on.put("dir/k", b"1").await;
    assert_eq!(on.stat("dir/").await, put);
    assert_eq!(on.keys().await, ["dir/", "dir/k"]);
    on.put("dir", b"a file beside it").await;
    assert_eq!(on.keys().await, ["dir", "dir/", "dir/k"]);
    assert_eq!(on.get("dir/").await, b"");
    on.remove("dir/k").await;
    assert_eq!(on.stat("dir/").await, put);
    assert!(on.remove("dir/").await);
    on.assert_absent("dir/").await;
    assert_eq!(on.get("dir").await, b"a file beside it");
}

pub async fn a_marker_with_a_body_keeps_it<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    on.put("dir/k", b"1").await;
    on.put("dir/", b"body").await;
    assert_eq!(on.get("dir/").await, b"body");
    assert_eq!(on.stat("dir/").await.len_bytes, 4);
    on.put("dir/", b"").await;
    assert_eq!(on.stat("dir/").await.len_bytes, 0);
    assert_eq!(on.get("dir/").await, b"");
    on.put("dir/", b"body again").await;
    let patch = AttrsPatch {
        tags: Some([("t".to_owned(), "1".to_owned())].into()),
        ..AttrsPatch::default()
    };
    let patched = on
        .volume
        .set_attrs(&on.at("dir/"), patch, &Default::default())
        .await
        .unwrap();
    assert_eq!(patched.attrs.tags["t"], "1");
    assert_eq!(on.stat("dir/").await, patched);
    assert_eq!(on.get("dir/").await, b"body again");
    on.remove("dir/k").await;
    assert_eq!(on.get("dir/").await, b"body again");
    on.remove("dir/").await;
    assert!(on.keys().await.is_empty());
}

pub async fn a_directory_is_no_object<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    on.put("a/b/c", b"1").await;
    for key in ["a", "a/", "a/b", "a/b/", "a/b/c/", "a/b/c/d"] {
        on.assert_absent(key).await;
        assert!(!on.remove(key).await, "{key:?}");
    }
    assert_eq!(on.get("a/b/c").await, b"1");
}

pub async fn a_removed_key_leaves_no_prefix<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    on.put("a/b/c", b"1").await;
    on.put("z", b"1").await;
    on.remove("a/b/c").await;
    let query = ListQuery {
        delimiter: Some("/".to_owned()),
        limit: MAX_PAGE,
        ..ListQuery::default()
    };
    let page = on.volume.list(&on.bucket, &query).await.unwrap();
    assert!(page.prefixes.is_empty(), "{:?}", page.prefixes);
    assert_eq!(page.objects.len(), 1);
    on.put("a", b"in the directory's place").await;
    assert_eq!(on.get("a").await, b"in the directory's place");
}

pub async fn a_key_is_never_missed_while_one_below_it_comes_and_goes<V: Volume>(volume: Arc<V>) {
    let on = Arc::new(Subject::new(volume).await);
    let put = on.put("a", b"bytes").await;
    let below = Arc::clone(&on);
    let writer = tokio::spawn(async move {
        for _ in 0..60 {
            below.put("a/b", b"below").await;
            below.remove("a/b").await;
        }
    });
    while !writer.is_finished() {
        assert_eq!(on.stat("a").await, put);
        assert_eq!(on.get("a").await, b"bytes");
        assert!(on.keys().await.contains(&"a".to_owned()));
    }
    writer.await.unwrap();
    assert_eq!(on.keys().await, ["a"]);
}

pub async fn neighbours_do_not_disturb_each_other<V: Volume>(volume: Arc<V>) {
    let on = Arc::new(Subject::new(volume).await);
    let keys = ["a", "a/", "a/b", "a/b/", "a/b/c", "a/b/c/d", "a//", "b/c"];
    let tasks = keys.map(|key| {
        let on = Arc::clone(&on);
        tokio::spawn(async move {
            for round in 0..25u8 {
                on.put(key, &[round]).await;
                assert_eq!(on.get(key).await, [round], "{key:?}");
                assert!(on.remove(key).await, "{key:?}");
                on.assert_absent(key).await;
            }
            on.put(key, key.as_bytes()).await;
        })
    });
    for task in tasks {
        task.await.unwrap();
    }
    assert_holds(&on, &keys.map(str::to_owned).into()).await;
}

pub async fn copies_reach_every_kind_of_key<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    on.put("a/b", b"0").await;
    for from in ["plain", "a", "a//b", "marker/"] {
        on.put(from, from.as_bytes()).await;
        for to in ["to", "x//y", "a/b/", "to/below"] {
            let source = on.volume.open(&on.at(from)).await.unwrap();
            let staged = on.volume.stage(&on.at(to), StageOptions::default()).await;
            let mut staged = staged.unwrap();
            let range = 0..source.info().len_bytes;
            on.volume
                .copy_into(&mut staged, &source, range)
                .await
                .unwrap();
            staged.commit(CommitOptions::default()).await.unwrap();
            assert_eq!(on.get(to).await, from.as_bytes(), "{from:?} to {to:?}");
        }
    }
}
