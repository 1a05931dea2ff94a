//! Uploads and their parts are listed.

use std::sync::Arc;

use super::Subject;
use crate::name::{PartNumber, UploadId};
use crate::volume::{NewUpload, UploadsPage, UploadsQuery, Volume};

pub async fn parts_are_listed_in_pages<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let id = on.begin("k", NewUpload::default()).await;
    let list = async |after: Option<u32>, limit: usize| {
        let after = after.map(|number| PartNumber::new(number).unwrap());
        let page = on
            .volume
            .list_parts(&on.at("k"), &id, after, limit)
            .await
            .unwrap();
        assert_eq!(page.upload.id, id);
        let numbers = page.parts.iter().map(|part| part.number.get());
        (numbers.collect::<Vec<_>>(), page.truncated)
    };
    assert_eq!(list(None, 10).await, (vec![], false));
    let mut parts = Vec::new();
    for number in [7, 1, 10_000, 30, 2] {
        parts.push(on.part("k", &id, number, &vec![1; number as usize]).await);
    }
    assert_eq!(list(None, 10).await, (vec![1, 2, 7, 30, 10_000], false));
    assert_eq!(list(None, 5).await, (vec![1, 2, 7, 30, 10_000], false));
    assert_eq!(list(None, 2).await, (vec![1, 2], true));
    assert_eq!(list(Some(2), 2).await, (vec![7, 30], true));
    assert_eq!(list(Some(8), 2).await, (vec![30, 10_000], false));
    assert_eq!(list(Some(10_000), 2).await, (vec![], false));
    assert_eq!(list(None, 0).await, (vec![], false));
    parts.sort_by_key(|part| part.number);
    let page = on
        .volume
        .list_parts(&on.at("k"), &id, None, 10)
        .await
        .unwrap();
    assert_eq!(page.parts, parts);
}

fn shown(page: &UploadsPage) -> Vec<(String, UploadId)> {
    let uploads = page.uploads.iter();
    uploads
        .map(|upload| (upload.key.to_string(), upload.id.clone()))
        .collect()
}

pub async fn uploads_are_listed_in_pages<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let mut begun = Vec::new();
    // Of one key they are in the order of their beginning.
    for key in ["b", "a", "a/b", "b", "a//", "b", "c"] {
        begun.push((key.to_owned(), on.begin(key, NewUpload::default()).await));
    }
    begun.sort_by(|one, other| one.0.cmp(&other.0));
    let list =
        async |query: &UploadsQuery| on.volume.list_uploads(&on.bucket, query).await.unwrap();
    let all = UploadsQuery {
        limit: 100,
        ..UploadsQuery::default()
    };
    let page = list(&all).await;
    assert_eq!((shown(&page), page.truncated), (begun.clone(), false));
    for limit in [1, 2, 3, 7] {
        let mut query = UploadsQuery {
            limit,
            ..UploadsQuery::default()
        };
        let mut found = Vec::new();
        loop {
            let page = list(&query).await;
            assert!(page.uploads.len() <= limit);
            found.extend(shown(&page));
            assert!(found.len() <= begun.len(), "an upload is listed twice");
            if !page.truncated {
                break;
            }
            let (key, id) = found.last().cloned().unwrap();
            (query.after_key, query.after_id) = (Some(key), Some(id));
        }
        assert_eq!(found, begun, "in pages of {limit}");
    }
    let after_key = UploadsQuery {
        after_key: Some("b".to_owned()),
        ..all.clone()
    };
    assert_eq!(shown(&list(&after_key).await), begun[6..]);
    let prefix = UploadsQuery {
        prefix: "a/".to_owned(),
        ..all.clone()
    };
    assert_eq!(shown(&list(&prefix).await), begun[1..3]);
    let none = list(&UploadsQuery::default()).await;
    assert_eq!(none, UploadsPage::default());
    let (key, id) = &begun[0];
    on.volume.abort_upload(&on.at(key), id).await.unwrap();
    assert_eq!(shown(&list(&all).await), begun[1..]);
}

pub async fn uploads_are_rolled_up<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for key in ["a/1", "a/2", "b", "c/1", "c/2", "d"] {
        on.begin(key, NewUpload::default()).await;
    }
    let list = async |after: Option<&str>, limit: usize| {
        let query = UploadsQuery {
            delimiter: Some("/".to_owned()),
            after_key: after.map(str::to_owned),
            limit,
            ..UploadsQuery::default()
        };
        let page = on.volume.list_uploads(&on.bucket, &query).await.unwrap();
        let keys: Vec<String> = page.uploads.iter().map(|u| u.key.to_string()).collect();
        (keys.join(" "), page.prefixes.join(" "), page.truncated)
    };
    let of = |keys: &str, prefixes: &str, more| (keys.to_owned(), prefixes.to_owned(), more);
    assert_eq!(list(None, 100).await, of("b d", "a/ c/", false));
    assert_eq!(list(None, 4).await, of("b d", "a/ c/", false));
    assert_eq!(list(None, 1).await, of("", "a/", true));
    assert_eq!(list(Some("a/"), 2).await, of("b", "c/", true));
    assert_eq!(list(Some("c/"), 2).await, of("d", "", false));
}

pub async fn an_upload_is_no_object<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for key in ["k", "dir/k", "a//b", "marker/"] {
        let id = on.begin(key, NewUpload::default()).await;
        on.part(key, &id, 1, b"1").await;
        on.assert_absent(key).await;
    }
    assert!(on.keys().await.is_empty());
    on.volume.delete_bucket(&on.bucket).await.unwrap();
}
