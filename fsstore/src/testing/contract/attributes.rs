//! Attributes are kept with the object, exactly.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Subject, assert_refused};
use crate::error::StoreError;
use crate::object::{Attributes, ObjectInfo, Precondition, Timestamp};
use crate::volume::{AttrsPatch, CommitOptions, StageOptions, Volume};

const KINDS_OF_KEY: [&str; 4] = ["k", "a//b", "marker/", "dir/k"];

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn full() -> Attributes {
    Attributes {
        system: map(&[
            ("content-type", "text/plain; charset=utf-8"),
            ("content-disposition", "attachment; filename=\"é.txt\""),
            ("cache-control", ""),
            ("x-own", "anything"),
        ]),
        user: map(&[
            ("mtime", "1.5"),
            ("name", "value"),
            ("é", "日本"),
            ("empty", ""),
        ]),
        tags: map(&[("project", "p 1"), ("", "empty name"), ("é=&", "+/:@")]),
        owner: Some("79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be".to_owned()),
        acl: Some("o:FULL_CONTROL;*:READ".to_owned()),
    }
}

fn commit(attrs: Attributes) -> CommitOptions {
    CommitOptions {
        attrs,
        ..CommitOptions::default()
    }
}

async fn patch<V: Volume>(on: &Subject<V>, key: &str, patch: AttrsPatch) -> ObjectInfo {
    let patched = on
        .volume
        .set_attrs(&on.at(key), patch, &Precondition::default())
        .await;
    let info = patched.unwrap_or_else(|error| panic!("patch {key:?}: {error}"));
    assert_eq!(on.stat(key).await, info);
    info
}

pub async fn attributes_come_back<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for key in KINDS_OF_KEY {
        assert_eq!(on.put_with(key, b"1", commit(full())).await.attrs, full());
        assert_eq!(on.stat(key).await.attrs, full(), "{key:?}");
    }
}

pub async fn attributes_are_replaced_as_a_whole<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for key in KINDS_OF_KEY {
        on.put_with(key, b"1", commit(full())).await;
        on.put(key, b"2").await;
        assert_eq!(on.stat(key).await.attrs, Attributes::default(), "{key:?}");
    }
}

pub async fn a_patch_changes_what_it_names<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for key in KINDS_OF_KEY {
        let before = on.put_with(key, b"bytes", commit(full())).await;
        let mut expected = full();
        let nothing = patch(&on, key, AttrsPatch::default()).await;
        assert_eq!(nothing, before);

        expected.tags = map(&[("new", "1")]);
        let tags = AttrsPatch {
            tags: Some(expected.tags.clone()),
            ..AttrsPatch::default()
        };
        assert_eq!(patch(&on, key, tags).await.attrs, expected);

        expected.system = map(&[("content-type", "image/png")]);
        expected.user = BTreeMap::new();
        let headers = Some((expected.system.clone(), expected.user.clone()));
        let headers = AttrsPatch {
            headers,
            ..AttrsPatch::default()
        };
        assert_eq!(patch(&on, key, headers).await.attrs, expected);

        expected.acl = None;
        expected.owner = Some("other".to_owned());
        let rest = AttrsPatch {
            acl: Some(None),
            owner: expected.owner.clone(),
            ..AttrsPatch::default()
        };
        let after = patch(&on, key, rest).await;
        assert_eq!(after.attrs, expected);

        assert_eq!((after.etag, after.modified), (before.etag, before.modified));
        assert_eq!(
            (after.digests, after.len_bytes),
            (before.digests, before.len_bytes)
        );
        assert_eq!(on.get(key).await, b"bytes");
    }
}

pub async fn a_touch_moves_the_time_and_nothing_else<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for key in KINDS_OF_KEY {
        let long_ago = CommitOptions {
            modified: Some(Timestamp::from_secs(1_000)),
            ..commit(full())
        };
        let before = on.put_with(key, b"1", long_ago).await;
        let touch = AttrsPatch {
            touch: true,
            ..AttrsPatch::default()
        };
        let after = patch(&on, key, touch).await;
        assert!(after.modified > before.modified, "{key:?}");
        assert_eq!(
            ObjectInfo {
                modified: before.modified,
                ..after
            },
            before
        );
    }
    let time = Timestamp(1_234_567_890_123_456_789);
    for key in ["k", "a//b"] {
        on.put(key, b"1").await;
        let before = on.stat(key).await;
        let touch = AttrsPatch {
            touch: true,
            modified: Some(time),
            ..AttrsPatch::default()
        };
        let after = patch(&on, key, touch).await;
        assert_eq!((after.modified, &after.etag), (time, &before.etag));
        assert_eq!(on.stat(key).await, after);
    }
}

pub async fn attributes_of_nothing_are_not_set<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    on.put("dir/k", b"1").await;
    for key in ["k", "dir", "dir/", "a//b"] {
        let always = Precondition::default();
        let patched = on
            .volume
            .set_attrs(&on.at(key), AttrsPatch::default(), &always)
            .await;
        assert_refused!(patched, StoreError::NoSuchKey);
    }
}

pub async fn large_attributes_come_back<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let large = Attributes {
        user: (0..200)
            .map(|n| (format!("name-{n}"), "v".repeat(500)))
            .collect(),
        ..full()
    };
    for key in KINDS_OF_KEY {
        on.put_with(key, b"1", commit(large.clone())).await;
        assert_eq!(on.stat(key).await.attrs, large, "{key:?}");
        on.put(key, b"2").await;
        assert_eq!(on.stat(key).await.attrs, Attributes::default());
        let headers = Some((large.system.clone(), large.user.clone()));
        let grown = patch(
            &on,
            key,
            AttrsPatch {
                headers,
                ..AttrsPatch::default()
            },
        )
        .await;
        assert_eq!(grown.attrs.user, large.user);
        assert_eq!(on.get(key).await, b"2");
        on.remove(key).await;
        on.put(key, b"3").await;
        assert_eq!(on.stat(key).await.attrs, Attributes::default());
    }
}

pub async fn too_large_attributes_are_refused<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let huge = map(&[("name", &"v".repeat(2 << 20))]);
    let before = on.put("k", b"old").await;
    let attrs = Attributes {
        user: huge.clone(),
        ..Attributes::default()
    };
    for key in ["k", "new"] {
        let put = on
            .try_put(key, b"1", StageOptions::default(), commit(attrs.clone()))
            .await;
        assert_refused!(put, StoreError::MetadataTooLarge { .. });
    }
    let tags = AttrsPatch {
        tags: Some(huge),
        ..AttrsPatch::default()
    };
    let patched = on
        .volume
        .set_attrs(&on.at("k"), tags, &Precondition::default())
        .await;
    assert_refused!(patched, StoreError::MetadataTooLarge { .. });
    assert_eq!(on.stat("k").await, before);
    assert_eq!(on.keys().await, ["k"]);
}

pub async fn concurrent_patches_lose_nothing<V: Volume>(volume: Arc<V>) {
    let on = Arc::new(Subject::new(volume).await);
    on.put_with("k", b"1", commit(Attributes::default())).await;
    let tags = map(&[("t", "1")]);
    let headers = (map(&[("content-type", "a/b")]), map(&[("u", "1")]));
    let patches = [
        AttrsPatch {
            tags: Some(tags.clone()),
            ..AttrsPatch::default()
        },
        AttrsPatch {
            headers: Some(headers.clone()),
            ..AttrsPatch::default()
        },
        AttrsPatch {
            acl: Some(Some("acl".to_owned())),
            ..AttrsPatch::default()
        },
        AttrsPatch {
            owner: Some("owner".to_owned()),
            ..AttrsPatch::default()
        },
    ];
    let tasks = patches.map(|one| {
        let on = Arc::clone(&on);
        tokio::spawn(async move {
            on.volume
                .set_attrs(&on.at("k"), one, &Precondition::default())
                .await
                .unwrap();
        })
    });
    for task in tasks {
        task.await.unwrap();
    }
    let expected = Attributes {
        system: headers.0,
        user: headers.1,
        tags,
        owner: Some("owner".to_owned()),
        acl: Some("acl".to_owned()),
    };
    assert_eq!(on.stat("k").await.attrs, expected);
}

pub async fn a_tag_stands_while_attributes_change<V: Volume>(volume: Arc<V>) {
    let on = Arc::new(Subject::new(volume).await);
    for key in KINDS_OF_KEY {
        let put = on.put(key, b"bytes").await;
        let patching = Arc::clone(&on);
        let writer = tokio::spawn(async move {
            for round in 0..60 {
                let tags = Some(map(&[("round", &round.to_string())]));
                let tags = AttrsPatch {
                    tags,
                    ..AttrsPatch::default()
                };
                patch(&patching, key, tags).await;
            }
        });
        while !writer.is_finished() {
            let now = on.stat(key).await;
            assert_eq!(
                (now.etag, now.digests),
                (put.etag.clone(), put.digests),
                "{key:?}"
            );
            assert_eq!(on.get(key).await, b"bytes");
        }
        writer.await.unwrap();
    }
}
