//! Buckets come, go and are listed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Subject, assert_refused};
use crate::error::StoreError;
use crate::name::{BucketName, PartNumber, UploadId};
use crate::object::{Locator, Precondition};
use crate::volume::{
    AttrsPatch, ListQuery, NewBucket, NewUpload, StageOptions, StagedPart, UploadsQuery, Volume,
};

fn name(text: &str) -> BucketName {
    BucketName::parse(text).unwrap()
}

pub async fn a_bucket_is_made_seen_and_deleted<V: Volume>(volume: Arc<V>) {
    let new = NewBucket {
        owner: Some("someone".to_owned()),
        settings: BTreeMap::from([("acl".to_owned(), "private".to_owned())]),
        ..NewBucket::default()
    };
    assert_refused!(volume.bucket(&name("b")).await, StoreError::NoSuchBucket);
    let made = volume.create_bucket(&name("b"), new.clone()).await.unwrap();
    assert_eq!((&made.owner, &made.settings), (&new.owner, &new.settings));
    assert_eq!(volume.bucket(&name("b")).await.unwrap(), made);
    match volume.create_bucket(&name("b"), NewBucket::default()).await {
        Err(StoreError::BucketExists { owner }) => assert_eq!(owner, new.owner),
        other => panic!("made twice: {other:?}"),
    }
    assert_eq!(volume.bucket(&name("b")).await.unwrap(), made);
    volume.delete_bucket(&name("b")).await.unwrap();
    assert_refused!(volume.bucket(&name("b")).await, StoreError::NoSuchBucket);
    assert_refused!(
        volume.delete_bucket(&name("b")).await,
        StoreError::NoSuchBucket
    );
    let again = volume
        .create_bucket(&name("b"), NewBucket::default())
        .await
        .unwrap();
    assert!(
        again.settings.is_empty() && again.owner.is_none(),
        "{again:?}"
    );
}

pub async fn a_bucket_with_an_object_is_not_deleted<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for key in ["a", "a/b/c", "a//b", "..", "dir/", "x\0"] {
        on.put(key, b"1").await;
        let refused = on.volume.delete_bucket(&on.bucket).await;
        assert_refused!(refused, StoreError::BucketNotEmpty);
        assert_eq!(on.get(key).await, b"1");
        assert!(on.remove(key).await);
    }
    on.volume.delete_bucket(&on.bucket).await.unwrap();
}

pub async fn deleting_a_bucket_ends_its_uploads<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let id = on.begin("k", NewUpload::default()).await;
    on.part("k", &id, 1, b"part").await;
    on.volume.delete_bucket(&on.bucket).await.unwrap();
    let on = Subject::new(on.volume).await;
    assert_refused!(
        on.volume.upload(&on.at("k"), &id).await,
        StoreError::NoSuchUpload
    );
    on.assert_absent("k").await;
}

pub async fn deleting_a_bucket_ends_uploads_in_use<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let mut staged = Vec::new();
    // More than a volume may keep at hand of those that no request uses.
    for n in 0..100 {
        let (at, number) = (on.at(&format!("k{n}")), PartNumber::new(1).unwrap());
        let id = on.begin(at.key.as_str(), NewUpload::default()).await;
        let options = StageOptions::default();
        let part = on.volume.stage_part(&at, &id, number, options).await;
        staged.push((part.unwrap(), id));
    }
    on.volume.delete_bucket(&on.bucket).await.unwrap();
    let on = Subject::new(on.volume).await;
    for (n, (part, id)) in staged.into_iter().enumerate() {
        assert_refused!(
            part.commit(Vec::new(), None).await,
            StoreError::NoSuchUpload | StoreError::NoSuchBucket
        );
        assert_refused!(
            on.volume.upload(&on.at(&format!("k{n}")), &id).await,
            StoreError::NoSuchUpload
        );
    }
}

pub async fn bucket_settings_are_kept<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let set = async |setting: &str, value: Option<&str>| {
        let value = value.map(str::to_owned);
        on.volume
            .set_bucket_setting(&on.bucket, setting, value)
            .await
            .unwrap();
        on.volume.bucket(&on.bucket).await.unwrap().settings
    };
    let long = "é".repeat(30_000);
    assert_eq!(set("cors", Some("<c/>")).await["cors"], "<c/>");
    assert_eq!(set("tagging", Some(&long)).await["tagging"], long);
    let replaced = set("cors", Some("<d/>")).await;
    assert_eq!((replaced["cors"].as_str(), replaced.len()), ("<d/>", 2));
    assert!(!set("cors", None).await.contains_key("cors"));
    assert_eq!(set("cors", None).await.len(), 1);
}

pub async fn buckets_are_listed_by_name<V: Volume>(volume: Arc<V>) {
    for bucket in ["b-2", "a", "b-1", "c", "B"] {
        volume
            .create_bucket(&name(bucket), NewBucket::default())
            .await
            .unwrap();
    }
    let list = async |prefix: &str, after: Option<&str>, limit: usize| {
        let buckets = volume.list_buckets(prefix, after, limit).await.unwrap();
        let names = buckets.into_iter().map(|bucket| bucket.name.to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(list("", None, 100).await, ["B", "a", "b-1", "b-2", "c"]);
    assert_eq!(list("", None, 2).await, ["B", "a"]);
    assert_eq!(list("", Some("a"), 2).await, ["b-1", "b-2"]);
    assert_eq!(list("", Some("b"), 9).await, ["b-1", "b-2", "c"]);
    assert_eq!(list("b-", None, 100).await, ["b-1", "b-2"]);
    assert_eq!(list("b-", Some("b-1"), 100).await, ["b-2"]);
    assert!(list("zz", None, 100).await.is_empty());
    assert!(list("", None, 0).await.is_empty());
}

pub async fn nothing_is_done_in_no_bucket<V: Volume>(volume: Arc<V>) {
    let none = name("none");
    let at = Locator::new(none.clone(), crate::name::ObjectKey::parse("k").unwrap());
    let id = UploadId::parse("x").unwrap();
    let always = Precondition::default();
    assert_refused!(volume.stat(&at).await, StoreError::NoSuchBucket);
    assert_refused!(volume.open(&at).await, StoreError::NoSuchBucket);
    assert_refused!(
        volume.stage(&at, StageOptions::default()).await,
        StoreError::NoSuchBucket
    );
    assert_refused!(volume.remove(&at, &always).await, StoreError::NoSuchBucket);
    let patched = volume.set_attrs(&at, AttrsPatch::default(), &always).await;
    assert_refused!(patched, StoreError::NoSuchBucket);
    assert_refused!(
        volume.list(&none, &ListQuery::default()).await,
        StoreError::NoSuchBucket
    );
    let begun = volume.begin_upload(&at, NewUpload::default()).await;
    assert_refused!(begun, StoreError::NoSuchBucket);
    assert_refused!(volume.upload(&at, &id).await, StoreError::NoSuchBucket);
    assert_refused!(
        volume.abort_upload(&at, &id).await,
        StoreError::NoSuchBucket
    );
    let uploads = volume.list_uploads(&none, &UploadsQuery::default()).await;
    assert_refused!(uploads, StoreError::NoSuchBucket);
    let set = volume.set_bucket_setting(&none, "cors", None).await;
    assert_refused!(set, StoreError::NoSuchBucket);
    // Not even after the bytes were staged.
    let on = Subject::new(volume).await;
    let staged = on
        .volume
        .stage(&on.at("k"), StageOptions::default())
        .await
        .unwrap();
    on.volume.delete_bucket(&on.bucket).await.unwrap();
    let committed = crate::volume::Staged::commit(staged, Default::default()).await;
    assert_refused!(committed, StoreError::NoSuchBucket);
    assert_refused!(on.volume.bucket(&on.bucket).await, StoreError::NoSuchBucket);
}

pub async fn create_bucket_has_one_winner<V: Volume>(volume: Arc<V>) {
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let volume = Arc::clone(&volume);
            tokio::spawn(
                async move { volume.create_bucket(&name("b"), NewBucket::default()).await },
            )
        })
        .collect();
    let mut winners = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => winners += 1,
            Err(StoreError::BucketExists { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(winners, 1);
}
