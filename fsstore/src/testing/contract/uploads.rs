//! Parts become one object.

use std::sync::Arc;

use bytes::Bytes;

use super::{Subject, assert_refused, digest, part_claim, read_all};
use crate::checksum::digest_of;
use crate::error::{FailedCondition, StoreError};
use crate::name::{BucketName, ETag, ObjectKey, PartNumber, UploadId};
use crate::object::{
    Attributes, DigestAlgorithm, ETagMatch, FileOwner, Locator, PartInfo, Precondition, Timestamp,
};
use crate::volume::{
    ComposeOptions, MIN_PART_LEN_BYTES, NewBucket, NewUpload, Object, StageOptions, StagedPart,
    Volume,
};

const MIN: usize = MIN_PART_LEN_BYTES as usize;

fn number(number: u32) -> PartNumber {
    PartNumber::new(number).unwrap()
}

/// The tag that S3 gives an object of these parts.
fn multipart_etag(parts: &[&[u8]]) -> ETag {
    let md5s: Vec<u8> = parts
        .iter()
        .flat_map(|part| digest_of(DigestAlgorithm::Md5, part))
        .collect();
    let md5: [u8; 16] = digest_of(DigestAlgorithm::Md5, &md5s).try_into().unwrap();
    ETag::from_parts(&md5, u16::try_from(parts.len()).unwrap())
}

pub async fn an_upload_becomes_an_object<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let old = on.put("k", b"old").await;
    let (first, second, third) = (vec![1; MIN], vec![2; MIN], b"three".to_vec());
    let id = on.begin("k", NewUpload::default()).await;
    let three = on.part("k", &id, 3, &third).await;
    let one = on.part("k", &id, 1, &first).await;
    let two = on.part("k", &id, 2, &second).await;
    assert_eq!(on.stat("k").await, old);
    assert_eq!(two.len_bytes, MIN_PART_LEN_BYTES);
    assert_eq!(
        three.etag,
        ETag::from_md5(
            &digest(DigestAlgorithm::Md5, &third)
                .value
                .try_into()
                .unwrap()
        )
    );
    let info = on
        .try_complete("k", &id, &[&one, &two, &three])
        .await
        .unwrap();
    let whole = [&first[..], &second, &third].concat();
    assert_eq!(info.etag, multipart_etag(&[&first, &second, &third]));
    assert_eq!((info.part_count, info.digests.md5), (Some(3), None));
    assert_eq!(info.len_bytes, whole.len() as u64);
    let crc = info.digests.crc64nvme.unwrap().to_be_bytes();
    assert_eq!(crc.to_vec(), digest_of(DigestAlgorithm::Crc64Nvme, &whole));
    assert_eq!(on.stat("k").await, info);
    let object = on.volume.open(&on.at("k")).await.unwrap();
    assert!(read_all(&object).await == whole);
    let parts = object.parts().await.unwrap();
    let laid: Vec<_> = parts
        .iter()
        .map(|p| (p.number.get(), p.offset_bytes, p.len_bytes))
        .collect();
    let min = MIN_PART_LEN_BYTES;
    assert_eq!(laid, [(1, 0, min), (2, min, min), (3, 2 * min, 5)]);
    assert_eq!(on.keys().await, ["k"]);
    assert_refused!(
        on.volume.upload(&on.at("k"), &id).await,
        StoreError::NoSuchUpload
    );
}

pub async fn a_part_is_replaced<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let id = on.begin("k", NewUpload::default()).await;
    let old = on.part("k", &id, 1, b"the old bytes").await;
    let new = on.part("k", &id, 1, b"new").await;
    let page = on
        .volume
        .list_parts(&on.at("k"), &id, None, 10)
        .await
        .unwrap();
    assert_eq!(page.parts, std::slice::from_ref(&new));
    let refused = on.try_complete("k", &id, &[&old]).await;
    assert_refused!(refused, StoreError::InvalidPart { number: 1 });
    on.try_complete("k", &id, &[&new]).await.unwrap();
    assert_eq!(on.get("k").await, b"new");
}

pub async fn parts_that_were_not_uploaded_are_refused<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let id = on.begin("k", NewUpload::default()).await;
    let one = on.part("k", &id, 1, b"1").await;
    let never = PartInfo {
        number: number(7),
        ..one.clone()
    };
    let refused = on.try_complete("k", &id, &[&never]).await;
    assert_refused!(refused, StoreError::InvalidPart { number: 7 });
    let other_tag = PartInfo {
        etag: ETag::from_md5(&[0; 16]),
        ..one.clone()
    };
    let refused = on.try_complete("k", &id, &[&other_tag]).await;
    assert_refused!(refused, StoreError::InvalidPart { number: 1 });
    let refused = on.try_complete("k", &id, &[]).await;
    assert_refused!(refused, StoreError::InvalidPart { .. });
    on.assert_absent("k").await;
    on.try_complete("k", &id, &[&one]).await.unwrap();
}

pub async fn parts_out_of_order_are_refused<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let id = on.begin("k", NewUpload::default()).await;
    let one = on.part("k", &id, 1, &vec![1; MIN]).await;
    let two = on.part("k", &id, 2, &vec![2; MIN]).await;
    let refused = on.try_complete("k", &id, &[&two, &one]).await;
    assert_refused!(refused, StoreError::InvalidPartOrder);
    let refused = on.try_complete("k", &id, &[&one, &one]).await;
    assert_refused!(refused, StoreError::InvalidPartOrder);
    on.try_complete("k", &id, &[&one, &two]).await.unwrap();
}

pub async fn a_small_part_is_refused_unless_last<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let id = on.begin("k", NewUpload::default()).await;
    let small = on.part("k", &id, 1, &vec![1; MIN - 1]).await;
    let last = on.part("k", &id, 2, b"").await;
    match on.try_complete("k", &id, &[&small, &last]).await {
        Err(StoreError::PartTooSmall {
            number,
            len_bytes,
            min_bytes,
        }) => {
            assert_eq!((number, len_bytes), (1, MIN_PART_LEN_BYTES - 1));
            assert_eq!(min_bytes, MIN_PART_LEN_BYTES);
        }
        other => panic!("{other:?}"),
    }
    on.try_complete("k", &id, &[&small]).await.unwrap();
}

pub async fn numbers_may_have_gaps<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let id = on.begin("k", NewUpload::default()).await;
    let big = vec![1; MIN];
    let three = on.part("k", &id, 3, &big).await;
    on.part("k", &id, 500, b"not named at completion").await;
    let last = on.part("k", &id, 10_000, b"last").await;
    let info = on.try_complete("k", &id, &[&three, &last]).await.unwrap();
    assert_eq!(info.etag, multipart_etag(&[&big, b"last"]));
    assert!(on.get("k").await == [&big[..], b"last"].concat());
    let object = on.volume.open(&on.at("k")).await.unwrap();
    let numbers: Vec<u16> = object
        .parts()
        .await
        .unwrap()
        .iter()
        .map(|p| p.number.get())
        .collect();
    assert_eq!(numbers, [3, 10_000]);
}

pub async fn parts_of_any_size_are_put_together<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for (key, lens) in [
        ("growing", [MIN, MIN + 1, MIN + 4_097]),
        ("shrinking", [MIN + 70_000, MIN + 1, 3]),
        ("equal", [MIN + 4_096, MIN + 4_096, MIN + 4_096]),
        ("odd", [MIN + 1, MIN + 1, MIN]),
    ] {
        let id = on.begin(key, NewUpload::default()).await;
        let bodies: Vec<Vec<u8>> = lens
            .iter()
            .zip(1..)
            .map(|(len, byte)| vec![byte; *len])
            .collect();
        let mut parts = Vec::new();
        for (body, number) in bodies.iter().zip(1..) {
            parts.push(on.part(key, &id, number, body).await);
        }
        let parts: Vec<&PartInfo> = parts.iter().collect();
        let info = on.try_complete(key, &id, &parts).await.unwrap();
        let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
        assert_eq!(info.etag, multipart_etag(&bodies), "{key}");
        assert!(on.get(key).await == bodies.concat(), "{key}");
        assert_eq!(on.stat(key).await, info);
    }
}

pub async fn an_empty_part_is_an_object<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let id = on.begin("k", NewUpload::default()).await;
    let empty = on.part("k", &id, 1, b"").await;
    let info = on.try_complete("k", &id, &[&empty]).await.unwrap();
    assert_eq!((info.len_bytes, info.etag), (0, multipart_etag(&[b""])));
    assert_eq!(on.get("k").await, b"");
}

async fn assert_upload_gone<V: Volume>(on: &Subject<V>, at: &Locator, id: &UploadId) {
    let options = StageOptions::default();
    assert_refused!(on.volume.upload(at, id).await, StoreError::NoSuchUpload);
    let staged = on.volume.stage_part(at, id, number(1), options).await;
    assert_refused!(staged, StoreError::NoSuchUpload);
    let listed = on.volume.list_parts(at, id, None, 10).await;
    assert_refused!(listed, StoreError::NoSuchUpload);
    assert_refused!(
        on.volume.abort_upload(at, id).await,
        StoreError::NoSuchUpload
    );
}

pub async fn an_aborted_upload_is_gone<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let id = on.begin("k", NewUpload::default()).await;
    let part = on.part("k", &id, 1, b"1").await;
    let at = on.at("k");
    let staged = on
        .volume
        .stage_part(&at, &id, number(2), StageOptions::default())
        .await;
    let mut staged = staged.unwrap();
    staged.write(Bytes::from_static(b"late")).await.unwrap();
    on.volume.abort_upload(&at, &id).await.unwrap();
    assert_refused!(
        staged.commit(Vec::new(), None).await,
        StoreError::NoSuchUpload
    );
    assert_upload_gone(&on, &at, &id).await;
    assert_refused!(
        on.try_complete("k", &id, &[&part]).await,
        StoreError::NoSuchUpload
    );
    on.assert_absent("k").await;
    assert_upload_gone(&on, &at, &UploadId::parse("never-begun").unwrap()).await;
}

pub async fn completing_at_once_answers_the_same<V: Volume>(volume: Arc<V>) {
    let on = Arc::new(Subject::new(volume).await);
    for key in ["k", "a//b", "marker/"] {
        let id = on.begin(key, NewUpload::default()).await;
        let part = on.part(key, &id, 1, b"1").await;
        let mut tasks = Vec::new();
        for _ in 0..8 {
            let (on, id, claim) = (Arc::clone(&on), id.clone(), part_claim(&part));
            tasks.push(tokio::spawn(async move {
                let options = ComposeOptions::default();
                on.volume.compose(&on.at(key), &id, &[claim], options).await
            }));
        }
        let mut answers = Vec::new();
        for task in tasks {
            answers.push(task.await.unwrap().unwrap());
        }
        let stands = on.stat(key).await;
        assert!(answers.iter().all(|answer| *answer == stands), "{key}");
    }
}

pub async fn completing_twice_answers_the_same<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for key in ["k", "a//b", "marker/"] {
        let id = on.begin(key, NewUpload::default()).await;
        let part = on.part(key, &id, 1, b"1").await;
        let time = Timestamp(1_234_567_890_123_456_789);
        let once = ComposeOptions {
            precondition: Precondition {
                if_none_match: Some(ETagMatch::Any),
                ..Precondition::default()
            },
            modified: Some(time),
            ..ComposeOptions::default()
        };
        let claims = [part_claim(&part)];
        let first = on
            .volume
            .compose(&on.at(key), &id, &claims, once.clone())
            .await
            .unwrap();
        let second = on
            .volume
            .compose(&on.at(key), &id, &claims, once)
            .await
            .unwrap();
        assert_eq!(first, second);
        assert_eq!(first.modified, time);
        assert_eq!(on.stat(key).await, first);
    }
}

pub async fn a_completed_upload_is_gone_with_its_object<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for by_remove in [true, false] {
        let id = on.begin("k", NewUpload::default()).await;
        let part = on.part("k", &id, 1, b"1").await;
        on.try_complete("k", &id, &[&part]).await.unwrap();
        assert_upload_gone(&on, &on.at("k"), &id).await;
        if by_remove {
            on.remove("k").await;
        } else {
            on.put("k", b"1").await;
        }
        let again = on.try_complete("k", &id, &[&part]).await;
        assert_refused!(again, StoreError::NoSuchUpload);
    }
    assert_eq!(on.stat("k").await.part_count, None);
}

pub async fn an_upload_is_of_its_key<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let id = on.begin("k", NewUpload::default()).await;
    let part = on.part("k", &id, 1, b"1").await;
    for other in ["K", "k/", "k/k", "other"] {
        assert_upload_gone(&on, &on.at(other), &id).await;
        let completed = on.try_complete(other, &id, &[&part]).await;
        assert_refused!(completed, StoreError::NoSuchUpload);
    }
    let info = on.volume.upload(&on.at("k"), &id).await.unwrap();
    assert_eq!((info.id, info.key), (id, ObjectKey::parse("k").unwrap()));
}

pub async fn an_upload_is_of_its_bucket<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let other = BucketName::parse("other-bucket").unwrap();
    let new = NewBucket::default();
    on.volume.create_bucket(&other, new).await.unwrap();
    let there = Subject {
        volume: Arc::clone(&on.volume),
        bucket: other,
    };
    let id = on.begin("k", NewUpload::default()).await;
    // Before the upload was used, and after: what is remembered of it is of its bucket too.
    assert_upload_gone(&there, &there.at("k"), &id).await;
    let part = on.part("k", &id, 1, b"1").await;
    assert_upload_gone(&there, &there.at("k"), &id).await;
    let completed = there.try_complete("k", &id, &[&part]).await;
    assert_refused!(completed, StoreError::NoSuchUpload);
    there.assert_absent("k").await;
    on.try_complete("k", &id, &[&part]).await.unwrap();
    assert_eq!(on.get("k").await, b"1");
    let completed = there.try_complete("k", &id, &[&part]).await;
    assert_refused!(completed, StoreError::NoSuchUpload);
}

pub async fn a_bad_part_leaves_the_old_one<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let id = on.begin("k", NewUpload::default()).await;
    let old = on.part("k", &id, 1, b"old").await;
    let stage = async |len_bytes| {
        let options = StageOptions {
            len_bytes,
            ..StageOptions::default()
        };
        let staged = on
            .volume
            .stage_part(&on.at("k"), &id, number(1), options)
            .await;
        let mut staged = staged.unwrap();
        staged.write(Bytes::from_static(b"fresh")).await.unwrap();
        staged
    };
    let wrong = vec![digest(DigestAlgorithm::Md5, b"other")];
    let refused = stage(None).await.commit(wrong, None).await;
    assert_refused!(
        refused,
        StoreError::DigestMismatch {
            algorithm: DigestAlgorithm::Md5,
            ..
        }
    );
    let refused = stage(Some(6)).await.commit(Vec::new(), None).await;
    assert_refused!(refused, StoreError::LengthMismatch { .. });
    drop(stage(None).await);
    let page = on
        .volume
        .list_parts(&on.at("k"), &id, None, 10)
        .await
        .unwrap();
    assert_eq!(page.parts, std::slice::from_ref(&old));
    on.try_complete("k", &id, &[&old]).await.unwrap();
    assert_eq!(on.get("k").await, b"old");
}

pub async fn a_refused_completion_leaves_the_upload<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let old = on.put("k", b"old").await;
    let id = on.begin("k", NewUpload::default()).await;
    let part = on.part("k", &id, 1, b"1").await;
    let claims = [part_claim(&part)];
    let only_new = ComposeOptions {
        precondition: Precondition {
            if_none_match: Some(ETagMatch::Any),
            ..Precondition::default()
        },
        ..ComposeOptions::default()
    };
    let refused = on.volume.compose(&on.at("k"), &id, &claims, only_new).await;
    assert_refused!(
        refused,
        StoreError::PreconditionFailed(FailedCondition::IfNoneMatch)
    );
    let longer = ComposeOptions {
        expected_len_bytes: Some(2),
        ..ComposeOptions::default()
    };
    let refused = on.volume.compose(&on.at("k"), &id, &claims, longer).await;
    assert_refused!(
        refused,
        StoreError::LengthMismatch {
            expected_bytes: 2,
            actual_bytes: 1
        }
    );
    assert_eq!(on.stat("k").await, old);
    let if_old = ComposeOptions {
        precondition: Precondition {
            if_match: Some(ETagMatch::OneOf(vec![old.etag.to_string()])),
            ..Precondition::default()
        },
        expected_len_bytes: Some(1),
        ..ComposeOptions::default()
    };
    on.volume
        .compose(&on.at("k"), &id, &claims, if_old)
        .await
        .unwrap();
    assert_eq!(on.get("k").await, b"1");
}

pub async fn one_of_two_completions_wins<V: Volume>(volume: Arc<V>) {
    let on = Arc::new(Subject::new(volume).await);
    let mut tasks = Vec::new();
    for writer in 0..8u8 {
        let id = on.begin("k", NewUpload::default()).await;
        let part = on.part("k", &id, 1, &[writer]).await;
        let on = Arc::clone(&on);
        tasks.push(tokio::spawn(async move {
            let only_new = ComposeOptions {
                precondition: Precondition {
                    if_none_match: Some(ETagMatch::Any),
                    ..Precondition::default()
                },
                ..ComposeOptions::default()
            };
            on.volume
                .compose(&on.at("k"), &id, &[part_claim(&part)], only_new)
                .await
        }));
    }
    let mut winners = Vec::new();
    for (writer, task) in (0..8u8).zip(tasks) {
        match task.await.unwrap() {
            Ok(_) => winners.push(writer),
            Err(StoreError::PreconditionFailed(_) | StoreError::Conflict) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(on.get("k").await, winners);
}

pub async fn ranges_are_copied_into_parts<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let bytes: Vec<u8> = (0..MIN + 10_000).map(|at| (at / 1_000) as u8).collect();
    on.put("source", &bytes).await;
    let source = on.volume.open(&on.at("source")).await.unwrap();
    let id = on.begin("k", NewUpload::default()).await;
    let mut parts = Vec::new();
    for (range, n) in [(5..MIN as u64 + 5, 1), (100..4_196, 2)] {
        let options = StageOptions::default();
        let staged = on
            .volume
            .stage_part(&on.at("k"), &id, number(n), options)
            .await;
        let mut staged = staged.unwrap();
        on.volume
            .copy_into_part(&mut staged, &source, range)
            .await
            .unwrap();
        parts.push(staged.commit(Vec::new(), None).await.unwrap());
    }
    let info = on
        .try_complete("k", &id, &[&parts[0], &parts[1]])
        .await
        .unwrap();
    let (first, second) = (&bytes[5..MIN + 5], &bytes[100..4_196]);
    assert_eq!(info.etag, multipart_etag(&[first, second]));
    assert!(on.get("k").await == [first, second].concat());
    assert!(on.get("source").await == bytes);
}

pub async fn uploads_reach_every_kind_of_key<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let long = "k".repeat(1024);
    let keys = ["a", "a/b", "a//b", "a/b/", "..", "x/", &long, "a/b/c", "\0"];
    for key in keys {
        let id = on.begin(key, NewUpload::default()).await;
        let part = on.part(key, &id, 1, key.as_bytes()).await;
        on.try_complete(key, &id, &[&part]).await.unwrap();
    }
    for key in keys {
        assert_eq!(on.get(key).await, key.as_bytes(), "{key:?}");
        assert_eq!(on.stat(key).await.etag, multipart_etag(&[key.as_bytes()]));
    }
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    assert_eq!(on.keys().await, sorted);
}

pub async fn an_upload_keeps_its_attributes<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let new = NewUpload {
        attrs: Attributes {
            system: [("content-type".to_owned(), "text/plain".to_owned())].into(),
            user: (0..50)
                .map(|n| (format!("name-{n}"), "v".repeat(200)))
                .collect(),
            tags: [("t".to_owned(), "1".to_owned())].into(),
            owner: Some("someone".to_owned()),
            acl: Some("acl".to_owned()),
        },
        checksum: None,
        file_owner: FileOwner {
            umask: Some(0o027),
            ..FileOwner::default()
        },
    };
    let begun = on
        .volume
        .begin_upload(&on.at("k"), new.clone())
        .await
        .unwrap();
    assert_eq!(begun.attrs, new.attrs);
    assert_eq!(
        on.volume.upload(&on.at("k"), &begun.id).await.unwrap(),
        begun
    );
    let part = on.part("k", &begun.id, 1, b"1").await;
    let info = on.try_complete("k", &begun.id, &[&part]).await.unwrap();
    assert_eq!(info.attrs, new.attrs);
}
