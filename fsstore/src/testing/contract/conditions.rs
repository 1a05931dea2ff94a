//! Conditions are decided against what stands at the key at the instant of the change.

use std::sync::Arc;

use bytes::Bytes;

use super::{Subject, assert_refused};
use crate::error::{FailedCondition, Result, StoreError};
use crate::object::{ETagMatch, ObjectInfo, Precondition, Timestamp};
use crate::volume::{AttrsPatch, CommitOptions, StageOptions, Staged, Volume};

const WRITERS: u8 = 24;

fn if_match(tag: &str) -> Precondition {
    Precondition {
        if_match: Some(ETagMatch::OneOf(vec![tag.to_owned()])),
        ..Precondition::default()
    }
}

fn if_absent() -> Precondition {
    Precondition {
        if_none_match: Some(ETagMatch::Any),
        ..Precondition::default()
    }
}

/// Lets writers race and gives back what each was told.
async fn race<V: Volume>(
    on: &Arc<Subject<V>>,
    key: &'static str,
    precondition: &Precondition,
) -> Vec<Result<ObjectInfo>> {
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (on, precondition) = (Arc::clone(on), precondition.clone());
            tokio::spawn(async move { on.put_if(key, &[writer], precondition).await })
        })
        .collect();
    let mut told = Vec::new();
    for task in tasks {
        told.push(task.await.unwrap());
    }
    told
}

/// Asserts that one won, that its bytes stand, and that the others were refused.
async fn assert_one_winner<V: Volume>(
    on: &Subject<V>,
    key: &str,
    told: Vec<Result<ObjectInfo>>,
) -> ObjectInfo {
    let mut winner = None;
    for (writer, told) in told.into_iter().enumerate() {
        match told {
            Ok(info) => assert!(winner.replace((writer, info)).is_none(), "two winners"),
            Err(StoreError::PreconditionFailed(_) | StoreError::Conflict) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let (writer, info) = winner.expect("one wins");
    assert_eq!(on.get(key).await, [u8::try_from(writer).unwrap()]);
    assert_eq!(on.stat(key).await, info);
    info
}

pub async fn create_if_absent_has_one_winner<V: Volume>(volume: Arc<V>) {
    let on = Arc::new(Subject::new(volume).await);
    for key in ["k", "dir/k", "a//b", "marker/", "dir"] {
        let told = race(&on, key, &if_absent()).await;
        assert_one_winner(&on, key, told).await;
    }
}

pub async fn an_if_match_race_has_one_winner<V: Volume>(volume: Arc<V>) {
    let on = Arc::new(Subject::new(volume).await);
    let mut info = on.put("k", b"start").await;
    for _ in 0..4 {
        let told = race(&on, "k", &if_match(info.etag.as_str())).await;
        info = assert_one_winner(&on, "k", told).await;
        // The next round's writers put other bytes than those that stand.
        info = on
            .put_if("k", b"start", if_match(info.etag.as_str()))
            .await
            .unwrap();
    }
}

pub async fn compare_and_swap_loses_no_update<V: Volume>(volume: Arc<V>) {
    const TASKS: u64 = 6;
    const ADDS: u64 = 8;
    let on = Arc::new(Subject::new(volume).await);
    on.put("counter", b"0").await;
    let add_one = async |on: &Subject<V>| {
        loop {
            let tag = on.stat("counter").await.etag;
            let object = on.volume.open(&on.at("counter")).await.unwrap();
            let value: u64 = String::from_utf8(super::read_all(&object).await)
                .unwrap()
                .parse()
                .unwrap();
            // What was read belongs to another state than the tag, where one came between.
            if crate::volume::Object::info(&object).etag != tag {
                continue;
            }
            let next = (value + 1).to_string();
            match on
                .put_if("counter", next.as_bytes(), if_match(tag.as_str()))
                .await
            {
                Ok(_) => return,
                Err(StoreError::PreconditionFailed(_) | StoreError::Conflict) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let on = Arc::clone(&on);
            tokio::spawn(async move {
                for _ in 0..ADDS {
                    add_one(&on).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(
        on.get("counter").await,
        (TASKS * ADDS).to_string().as_bytes()
    );
}

pub async fn if_match_guards_a_put<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let first = on.put("k", b"1").await;
    let second = on
        .put_if("k", b"2", if_match(first.etag.as_str()))
        .await
        .unwrap();
    let refused = on.put_if("k", b"3", if_match(first.etag.as_str())).await;
    assert_refused!(
        refused,
        StoreError::PreconditionFailed(FailedCondition::IfMatch)
    );
    assert_eq!(on.stat("k").await, second);
    let any = Precondition {
        if_match: Some(ETagMatch::Any),
        ..Precondition::default()
    };
    let third = on.put_if("k", b"3", any).await.unwrap();
    let not = |tag: &str| Precondition {
        if_none_match: Some(ETagMatch::OneOf(vec![tag.to_owned(), "other".to_owned()])),
        ..Precondition::default()
    };
    let refused = on.put_if("k", b"4", not(third.etag.as_str())).await;
    assert_refused!(
        refused,
        StoreError::PreconditionFailed(FailedCondition::IfNoneMatch)
    );
    on.put_if("k", b"4", not(first.etag.as_str()))
        .await
        .unwrap();
    assert_eq!(on.get("k").await, b"4");
}

pub async fn if_match_on_nothing_is_no_such_key<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let refused = on.put_if("k", b"1", if_match("x")).await;
    assert_refused!(refused, StoreError::NoSuchKey);
    on.assert_absent("k").await;
    let refused = on.volume.remove(&on.at("k"), &if_match("x")).await;
    assert_refused!(refused, StoreError::NoSuchKey);
}

pub async fn times_and_sizes_guard_a_put<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let time = |secs| Some(Timestamp::from_secs(secs));
    let none = Precondition::default();
    let put_at = async |modified| {
        let commit = CommitOptions {
            modified,
            ..CommitOptions::default()
        };
        on.put_with("k", b"four", commit).await;
    };
    for (asked, holds) in [
        (
            Precondition {
                if_match_size: Some(4),
                ..none.clone()
            },
            true,
        ),
        (
            Precondition {
                if_match_size: Some(5),
                ..none.clone()
            },
            false,
        ),
        (
            Precondition {
                if_match_modified: time(100),
                ..none.clone()
            },
            true,
        ),
        (
            Precondition {
                if_match_modified: time(101),
                ..none.clone()
            },
            false,
        ),
        (
            Precondition {
                if_unmodified_since: time(100),
                ..none.clone()
            },
            true,
        ),
        (
            Precondition {
                if_unmodified_since: time(99),
                ..none.clone()
            },
            false,
        ),
        (
            Precondition {
                if_modified_since: time(99),
                ..none.clone()
            },
            true,
        ),
        (
            Precondition {
                if_modified_since: time(100),
                ..none.clone()
            },
            false,
        ),
    ] {
        put_at(time(100)).await;
        let put = on.put_if("k", b"fresh", asked.clone()).await;
        if holds {
            put.unwrap();
            assert_eq!(on.get("k").await, b"fresh");
        } else {
            assert_refused!(put, StoreError::PreconditionFailed(_));
            assert_eq!(on.get("k").await, b"four");
        }
    }
}

pub async fn conditions_guard_a_remove<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for key in ["k", "a//b", "marker/"] {
        let info = on.put(key, b"1").await;
        let refused = on.volume.remove(&on.at(key), &if_match("other")).await;
        assert_refused!(
            refused,
            StoreError::PreconditionFailed(FailedCondition::IfMatch)
        );
        assert_eq!(on.get(key).await, b"1");
        let tag = if_match(info.etag.as_str());
        assert!(on.volume.remove(&on.at(key), &tag).await.unwrap().existed);
        on.assert_absent(key).await;
    }
}

pub async fn conditions_guard_attributes<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let info = on.put("k", b"1").await;
    let patch = AttrsPatch {
        owner: Some("someone".to_owned()),
        ..AttrsPatch::default()
    };
    let refused = on
        .volume
        .set_attrs(&on.at("k"), patch.clone(), &if_match("other"))
        .await;
    assert_refused!(
        refused,
        StoreError::PreconditionFailed(FailedCondition::IfMatch)
    );
    assert_eq!(on.stat("k").await, info);
    let tag = if_match(info.etag.as_str());
    let after = on.volume.set_attrs(&on.at("k"), patch, &tag).await.unwrap();
    assert_eq!(after.attrs.owner.as_deref(), Some("someone"));
}

pub async fn conditions_are_decided_at_the_commit<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let mut staged = on
        .volume
        .stage(&on.at("k"), StageOptions::default())
        .await
        .unwrap();
    staged.write(Bytes::from_static(b"slow")).await.unwrap();
    on.put("k", b"fast").await;
    let commit = CommitOptions {
        precondition: if_absent(),
        ..CommitOptions::default()
    };
    let refused = staged.commit(commit).await;
    assert_refused!(
        refused,
        StoreError::PreconditionFailed(FailedCondition::IfNoneMatch)
    );
    assert_eq!(on.get("k").await, b"fast");
}
