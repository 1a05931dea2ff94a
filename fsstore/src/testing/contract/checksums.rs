//! Digests are checked before anything is published, and kept where that is asked for.

use std::sync::Arc;

use bytes::Bytes;

use super::{Subject, assert_refused, digest, part_claim};
use crate::checksum::digest_of;
use crate::error::{Result, StoreError};
use crate::name::{PartNumber, UploadId};
use crate::object::{
    Checksum, ChecksumKind, DigestAlgorithm, DigestSet, ExpectedDigest, ObjectInfo, PartInfo,
};
use crate::volume::{
    CommitOptions, ComposeOptions, MIN_PART_LEN_BYTES, NewUpload, Object, StageOptions, StagedPart,
    Volume,
};

const MIN: usize = MIN_PART_LEN_BYTES as usize;

fn staging(algorithm: DigestAlgorithm) -> StageOptions {
    StageOptions {
        len_bytes: None,
        digests: DigestSet::default().with(algorithm),
    }
}

fn checksum(algorithm: DigestAlgorithm, bytes: &[u8]) -> Checksum {
    Checksum {
        algorithm,
        kind: ChecksumKind::FullObject,
        value: digest_of(algorithm, bytes),
    }
}

pub async fn a_wrong_digest_leaves_the_old_object<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let old = on.put("k", b"old").await;
    for algorithm in DigestAlgorithm::ALL {
        let wrong = digest(algorithm, b"other");
        let commit = || CommitOptions {
            expected: vec![digest(DigestAlgorithm::Md5, b"fresh"), wrong.clone()],
            ..CommitOptions::default()
        };
        match on
            .try_put("k", b"fresh", staging(algorithm), commit())
            .await
        {
            Err(StoreError::DigestMismatch {
                algorithm: which,
                expected,
                actual,
            }) => {
                assert_eq!((which, expected), (algorithm, wrong.value.clone()));
                assert_eq!(actual, digest_of(algorithm, b"fresh"));
            }
            other => panic!("{algorithm:?}: {other:?}"),
        }
        let put = on
            .try_put("new", b"fresh", staging(algorithm), commit())
            .await;
        assert_refused!(put, StoreError::DigestMismatch { .. });
    }
    assert_eq!(on.stat("k").await, old);
    assert_eq!(on.get("k").await, b"old");
    assert_eq!(on.keys().await, ["k"]);
}

pub async fn a_right_digest_is_taken<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let bytes = vec![9; 100_001];
    let all = DigestAlgorithm::ALL.into_iter();
    let stage = StageOptions {
        len_bytes: Some(bytes.len() as u64),
        digests: all.clone().fold(DigestSet::default(), DigestSet::with),
    };
    let commit = CommitOptions {
        expected: all.map(|algorithm| digest(algorithm, &bytes)).collect(),
        ..CommitOptions::default()
    };
    let info = on.try_put("k", &bytes, stage, commit).await.unwrap();
    assert_eq!(info.checksum, None);
    // MD5 and CRC-64/NVME need not be named in the stage.
    let always = [DigestAlgorithm::Md5, DigestAlgorithm::Crc64Nvme];
    let commit = CommitOptions {
        expected: always
            .iter()
            .map(|algorithm| digest(*algorithm, b"1"))
            .collect(),
        ..CommitOptions::default()
    };
    on.try_put("k", b"1", StageOptions::default(), commit)
        .await
        .unwrap();
}

pub async fn a_chosen_checksum_is_kept<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for algorithm in DigestAlgorithm::ALL {
        for key in ["k", "a//b", "marker/"] {
            let commit = CommitOptions {
                keep_checksum: Some(algorithm),
                ..CommitOptions::default()
            };
            let put = on
                .try_put(key, b"bytes", staging(algorithm), commit)
                .await
                .unwrap();
            assert_eq!(put.checksum, Some(checksum(algorithm, b"bytes")));
            assert_eq!(on.stat(key).await, put);
        }
    }
    on.put("k", b"bytes").await;
    assert_eq!(on.stat("k").await.checksum, None);
}

async fn part_with<V: Volume>(
    on: &Subject<V>,
    id: &UploadId,
    number: u32,
    bytes: &[u8],
    keep: Option<DigestAlgorithm>,
) -> PartInfo {
    let options = keep.map(staging).unwrap_or_default();
    let number = PartNumber::new(number).unwrap();
    let staged = on.volume.stage_part(&on.at("k"), id, number, options).await;
    let mut staged = staged.unwrap();
    staged.write(Bytes::copy_from_slice(bytes)).await.unwrap();
    staged.commit(Vec::new(), keep).await.unwrap()
}

pub async fn a_parts_checksum_is_kept<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    for algorithm in DigestAlgorithm::ALL {
        let id = on.begin("k", NewUpload::default()).await;
        let part = part_with(&on, &id, 1, b"bytes", Some(algorithm)).await;
        assert_eq!(part.checksum, Some(checksum(algorithm, b"bytes")));
        let crc = digest_of(DigestAlgorithm::Crc64Nvme, b"bytes");
        assert_eq!(part.crc64nvme.to_be_bytes().to_vec(), crc);
        let page = on
            .volume
            .list_parts(&on.at("k"), &id, None, 10)
            .await
            .unwrap();
        assert_eq!(page.parts, std::slice::from_ref(&part));
        on.try_complete("k", &id, &[&part]).await.unwrap();
        let object = on.volume.open(&on.at("k")).await.unwrap();
        assert_eq!(object.parts().await.unwrap()[0].checksum, part.checksum);
    }
    // The one the upload was begun with needs no naming again.
    let algorithm = DigestAlgorithm::Sha256;
    let begun = Some((algorithm, ChecksumKind::Composite));
    let id = on
        .begin(
            "k",
            NewUpload {
                checksum: begun,
                ..NewUpload::default()
            },
        )
        .await;
    let part = part_with(&on, &id, 1, b"bytes", None).await;
    assert_eq!(part.checksum, Some(checksum(algorithm, b"bytes")));
}

async fn completed<V: Volume>(
    on: &Subject<V>,
    begun: (DigestAlgorithm, ChecksumKind),
    bodies: &[&[u8]],
) -> ObjectInfo {
    let new = NewUpload {
        checksum: Some(begun),
        ..NewUpload::default()
    };
    let id = on.begin("k", new).await;
    let upload = on.volume.upload(&on.at("k"), &id).await.unwrap();
    assert_eq!(upload.checksum, Some(begun));
    let mut parts = Vec::new();
    for (body, number) in bodies.iter().zip(1..) {
        parts.push(part_with(on, &id, number, body, Some(begun.0)).await);
    }
    let info = on
        .try_complete("k", &id, &parts.iter().collect::<Vec<_>>())
        .await
        .unwrap();
    assert_eq!(on.stat("k").await, info);
    info
}

pub async fn composite_checksums_are_over_the_parts<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let first = vec![1; MIN];
    for algorithm in [
        DigestAlgorithm::Crc32,
        DigestAlgorithm::Crc32c,
        DigestAlgorithm::Sha1,
        DigestAlgorithm::Sha256,
    ] {
        let kind = ChecksumKind::Composite;
        let info = completed(&on, (algorithm, kind), &[&first, b"tail"]).await;
        let values = [digest_of(algorithm, &first), digest_of(algorithm, b"tail")].concat();
        let value = digest_of(algorithm, &values);
        assert_eq!(
            info.checksum,
            Some(Checksum {
                algorithm,
                kind,
                value
            })
        );
    }
}

pub async fn full_checksums_are_over_the_bytes<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let first: Vec<u8> = (0..MIN + 33).map(|at| (at % 251) as u8).collect();
    let whole = [&first[..], &first, b"tail"].concat();
    for algorithm in [
        DigestAlgorithm::Crc32,
        DigestAlgorithm::Crc32c,
        DigestAlgorithm::Crc64Nvme,
    ] {
        let begun = (algorithm, ChecksumKind::FullObject);
        let info = completed(&on, begun, &[&first, &first, b"tail"]).await;
        assert_eq!(info.checksum, Some(checksum(algorithm, &whole)));
    }
}

pub async fn a_completion_checks_what_it_expects<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let algorithm = DigestAlgorithm::Crc32;
    let new = NewUpload {
        checksum: Some((algorithm, ChecksumKind::FullObject)),
        ..NewUpload::default()
    };
    let id = on.begin("k", new).await;
    let part = part_with(&on, &id, 1, b"bytes", Some(algorithm)).await;
    let claims = [part_claim(&part)];
    let complete = async |expected: ExpectedDigest| -> Result<ObjectInfo> {
        let options = ComposeOptions {
            expected: Some(expected),
            ..ComposeOptions::default()
        };
        on.volume.compose(&on.at("k"), &id, &claims, options).await
    };
    let refused = complete(digest(algorithm, b"other")).await;
    assert_refused!(
        refused,
        StoreError::DigestMismatch {
            algorithm: DigestAlgorithm::Crc32,
            ..
        }
    );
    on.assert_absent("k").await;
    let info = complete(digest(algorithm, b"bytes")).await.unwrap();
    assert_eq!(info.checksum, Some(checksum(algorithm, b"bytes")));
}

pub async fn a_claim_with_another_checksum_is_refused<V: Volume>(volume: Arc<V>) {
    let on = Subject::new(volume).await;
    let algorithm = DigestAlgorithm::Sha256;
    let new = NewUpload {
        checksum: Some((algorithm, ChecksumKind::Composite)),
        ..NewUpload::default()
    };
    let id = on.begin("k", new).await;
    let part = part_with(&on, &id, 1, b"bytes", Some(algorithm)).await;
    let complete = async |bytes: &[u8]| {
        let mut claim = part_claim(&part);
        claim.checksum = Some(digest(algorithm, bytes));
        let options = ComposeOptions::default();
        on.volume.compose(&on.at("k"), &id, &[claim], options).await
    };
    assert_refused!(
        complete(b"other").await,
        StoreError::InvalidPart { number: 1 }
    );
    complete(b"bytes").await.unwrap();
}
