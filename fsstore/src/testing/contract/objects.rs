//! Objects are put, read, replaced, copied and removed.

use std::sync::Arc;

use bytes::Bytes;

use super::{Subject, assert_refused, read_all};
use crate::checksum::digest_of;
use crate::error::StoreError;
use crate::name::ETag;
use crate::object::{DigestAlgorithm, Timestamp};
use crate::volume::{CommitOptions, MAX_PUT_LEN_BYTES, Object, StageOptions, Staged, Volume};

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    let mut random = super::random::Random::new(len as u64);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(random.draw().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub async fn an_object_is_put_got_replaced_and_removed<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    on.assert_absent("k").await;
    let info = on.put("k", b"hello").await;
    assert_eq!(info.etag.as_str(), "5d41402abc4b2a76b9719d911017c592");
    assert_eq!((info.len_bytes, info.part_count), (5, None));
    assert_eq!(on.get("k").await, b"hello");
    let longer = on.put("k", b"hello, world").await;
    assert_ne!(longer.etag, info.etag);
    assert_eq!(on.get("k").await, b"hello, world");
    on.put("k", b"x").await;
    assert_eq!(on.get("k").await, b"x");
    assert!(on.remove("k").await);
    on.assert_absent("k").await;
    assert!(!on.remove("k").await);
    on.put("k", b"again").await;
    assert_eq!(on.get("k").await, b"again");
}

pub async fn an_empty_object_is_an_object<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let staged = on
        .volume
        .stage(&on.at("k"), StageOptions::default())
        .await
        .unwrap();
    let info = staged.commit(CommitOptions::default()).await.unwrap();
    assert_eq!(info.len_bytes, 0);
    assert_eq!(info.etag.as_str(), "d41d8cd98f00b204e9800998ecf8427e");
    assert_eq!(on.get("k").await, b"");
    assert_eq!(on.keys().await, ["k"]);
}

pub async fn ranges_are_read_exactly<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let bytes = pattern((3 << 20) + 17);
    let mut staged = on
        .volume
        .stage(&on.at("k"), StageOptions::default())
        .await
        .unwrap();
    let mut rest = &bytes[..];
    for len in [1, 4095, 0, 65_536, 65_537, 1 << 20].into_iter().cycle() {
        let (piece, after) = rest.split_at(rest.len().min(len));
        staged.write(Bytes::copy_from_slice(piece)).await.unwrap();
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    staged.commit(CommitOptions::default()).await.unwrap();
    let object = on.volume.open(&on.at("k")).await.unwrap();
    let len = bytes.len() as u64;
    for range in [
        0..1,
        0..len,
        len - 1..len,
        4_095..8_193,
        1 << 20..2 << 20,
        5..5,
    ] {
        let expected = &bytes[range.start as usize..range.end as usize];
        assert!(
            object.read(range.clone()).await.unwrap() == expected,
            "{range:?}"
        );
        if let Some(read) = object.try_read(range.clone()) {
            assert!(read.unwrap() == expected, "{range:?}");
        }
    }
    object.check_unchanged().unwrap();
    assert!(object.parts().await.unwrap().is_empty());
    assert!(read_all(&object).await == bytes);
}

pub async fn an_open_object_keeps_its_bytes<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let old = pattern(200_000);
    let info = on.put("k", &old).await;
    let before_replace = on.volume.open(&on.at("k")).await.unwrap();
    on.put("k", &vec![7; 300_000]).await;
    let before_remove = on.volume.open(&on.at("k")).await.unwrap();
    on.remove("k").await;
    on.assert_absent("k").await;
    assert_eq!(before_replace.info(), &info);
    before_replace.check_unchanged().unwrap();
    assert!(read_all(&before_replace).await == old);
    assert!(read_all(&before_remove).await == vec![7; 300_000]);
}

pub async fn every_answer_tells_the_same<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for key in ["k", "dir/k", "a//b", "marker/"] {
        let bytes = key.as_bytes();
        let put = on.put(key, bytes).await;
        assert_eq!(put, on.stat(key).await);
        assert_eq!(&put, on.volume.open(&on.at(key)).await.unwrap().info());
        assert_eq!(put.key.as_str(), key);
        let md5: [u8; 16] = digest_of(DigestAlgorithm::Md5, bytes).try_into().unwrap();
        assert_eq!(put.etag, ETag::from_md5(&md5));
        assert_eq!(put.digests.md5, Some(md5));
        let crc = put.digests.crc64nvme.unwrap().to_be_bytes();
        assert_eq!(crc.to_vec(), digest_of(DigestAlgorithm::Crc64Nvme, bytes));
    }
}

pub async fn a_body_of_another_length_leaves_the_old_object<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let old = on.put("k", b"old").await;
    for announced in [0, 4, 6, 1_000_000] {
        let stage = StageOptions {
            len_bytes: Some(announced),
            ..StageOptions::default()
        };
        let put = on
            .try_put("k", b"fresh", stage.clone(), CommitOptions::default())
            .await;
        assert_refused!(put, StoreError::LengthMismatch { .. });
        assert_eq!(on.stat("k").await, old);
        assert_eq!(on.get("k").await, b"old");
        let put = on
            .try_put("new", b"fresh", stage, CommitOptions::default())
            .await;
        assert_refused!(put, StoreError::LengthMismatch { .. });
        on.assert_absent("new").await;
    }
    assert_eq!(on.keys().await, ["k"]);
}

pub async fn a_body_too_long_is_refused_when_announced<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let stage = StageOptions {
        len_bytes: Some(MAX_PUT_LEN_BYTES + 1),
        ..StageOptions::default()
    };
    let staged = on.volume.stage(&on.at("k"), stage).await;
    assert_refused!(
        staged,
        StoreError::TooLarge {
            max_bytes: MAX_PUT_LEN_BYTES
        }
    );
}

pub async fn a_dropped_stage_leaves_nothing<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    on.put("old", b"old").await;
    for key in ["old", "new", "below/it", "a//b", "old/under"] {
        let staged = on.volume.stage(&on.at(key), StageOptions::default()).await;
        let mut staged = staged.unwrap();
        staged
            .write(Bytes::from_static(b"never seen"))
            .await
            .unwrap();
        drop(staged);
        assert_eq!(on.keys().await, ["old"]);
    }
    assert_eq!(on.get("old").await, b"old");
    on.remove("old").await;
    on.volume.delete_bucket(&on.bucket).await.unwrap();
}

pub async fn a_given_time_is_kept<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for key in ["k", "a//b", "marker/"] {
        for time in [
            Timestamp(1_234_567_890_123_456_789),
            Timestamp::from_secs(0),
        ] {
            let commit = CommitOptions {
                modified: Some(time),
                ..CommitOptions::default()
            };
            assert_eq!(on.put_with(key, b"1", commit).await.modified, time);
            assert_eq!(on.stat(key).await.modified, time);
        }
    }
}

pub async fn times_do_not_go_back<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let mut last = on.put("k", b"0").await.modified;
    assert!(last > Timestamp::from_secs(1_700_000_000), "{last:?}");
    for round in 1..10u8 {
        let now = on.put("k", &[round]).await.modified;
        assert!(now >= last, "{now:?} is before {last:?}");
        last = now;
    }
}

pub async fn ranges_are_copied<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let bytes = pattern(300_000);
    on.put("source", &bytes).await;
    let source = on.volume.open(&on.at("source")).await.unwrap();
    on.put("source", b"replaced after it was opened").await;
    let mut staged = on
        .volume
        .stage(&on.at("k"), StageOptions::default())
        .await
        .unwrap();
    staged.write(Bytes::from_static(b"head")).await.unwrap();
    for range in [0..4_096, 100_001..300_000, 7..7] {
        on.volume
            .copy_into(&mut staged, &source, range)
            .await
            .unwrap();
    }
    staged.write(Bytes::from_static(b"tail")).await.unwrap();
    let info = staged.commit(CommitOptions::default()).await.unwrap();
    let expected = [b"head", &bytes[..4_096], &bytes[100_001..], b"tail"].concat();
    assert!(on.get("k").await == expected);
    let md5: [u8; 16] = digest_of(DigestAlgorithm::Md5, &expected)
        .try_into()
        .unwrap();
    assert_eq!(info.etag, ETag::from_md5(&md5));
    assert_eq!(info.len_bytes, expected.len() as u64);
    let crc = info.digests.crc64nvme.unwrap().to_be_bytes();
    assert_eq!(
        crc.to_vec(),
        digest_of(DigestAlgorithm::Crc64Nvme, &expected)
    );
}

pub async fn an_object_is_copied_onto_itself<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let bytes = pattern(100_000);
    let before = on.put("k", &bytes).await;
    let source = on.volume.open(&on.at("k")).await.unwrap();
    let mut staged = on
        .volume
        .stage(&on.at("k"), StageOptions::default())
        .await
        .unwrap();
    on.volume
        .copy_into(&mut staged, &source, 0..100_000)
        .await
        .unwrap();
    let after = staged.commit(CommitOptions::default()).await.unwrap();
    assert_eq!(after.etag, before.etag);
    assert!(on.get("k").await == bytes);
}

pub async fn concurrent_puts_leave_one_of_them_whole<V: Volume>(volume: Arc<V>) {
    let on = Arc::new(Subject::new(volume).await);
    let tasks: Vec<_> = (0..12u8)
        .map(|writer| {
            let on = Arc::clone(&on);
            tokio::spawn(async move { on.put("k", &vec![writer; 50_000]).await })
        })
        .collect();
    let mut tags = Vec::new();
    for task in tasks {
        tags.push(task.await.unwrap().etag);
    }
    let bytes = on.get("k").await;
    assert!(bytes.len() == 50_000 && bytes.iter().all(|byte| *byte == bytes[0]));
    assert_eq!(on.stat("k").await.etag, tags[usize::from(bytes[0])]);
    assert_eq!(on.keys().await, ["k"]);
}
