//! Lengths and digests that headers state.

use super::*;
use fsstore::error::StoreError;

const CRC32_OF_HELLO: &str = "NhCmhg==";
const MD5_OF_HELLO: &str = "XUFAKrxLKna5cZ2REBfFkg==";

fn try_decode(list: &[(&'static str, &str)]) -> Result<DecodedBody<Frames>, BodyError> {
    let mut body = Frames::of(&[b"hello"]);
    body.may_poll = false;
    decode(body, &Payload::Unsigned, &headers(list))
}

const LEN: (&str, &str) = ("content-length", "5");

#[test]
fn decoding_polls_nothing() {
    let decoded = try_decode(&[LEN]).unwrap();
    assert_eq!(decoded.len_bytes(), Some(5));
    assert!(matches!(decoded.finish(), Err(BodyError::IncompleteBody)));
}

#[test]
fn a_length_must_be_known_or_chunked() {
    let payload = Payload::Unsigned;
    let empty = || Frames::of(&[]);
    let answer = decode(empty(), &payload, &headers(&[])).err();
    assert!(matches!(answer, Some(BodyError::MissingContentLength)));
    let decoded = decode_optional(empty(), &payload, &headers(&[])).unwrap();
    assert_eq!(decoded.len_bytes(), Some(0));
    let list = headers(&[("transfer-encoding", "chunked")]);
    assert_eq!(decode(empty(), &payload, &list).unwrap().len_bytes(), None);
    let answer = decode(empty(), &Payload::UnsignedChunks, &headers(&[LEN])).err();
    assert!(matches!(answer, Some(BodyError::MissingContentLength)));
}

#[test]
fn five_gib_is_the_most() {
    let at = (5u64 << 30).to_string();
    let over = ((5u64 << 30) + 1).to_string();
    assert!(try_decode(&[("content-length", at.as_str())]).is_ok());
    let answer = try_decode(&[("content-length", over.as_str())]).err();
    assert!(matches!(answer, Some(BodyError::EntityTooLarge { .. })));
    for bad in ["", "-1", "x", "99999999999999999999"] {
        let answer = try_decode(&[("content-length", bad)]).err();
        assert!(
            matches!(answer, Some(BodyError::InvalidRequest(_))),
            "{bad}"
        );
    }
}

#[test]
fn content_md5_is_16_bytes_in_base64() {
    for bad in [
        "",
        "YWJyYWNhZGFicmE=",
        "AWS HAHAHA",
        "XUFAKrxLKna5cZ2REBfFkg",
    ] {
        let answer = try_decode(&[LEN, ("content-md5", bad)]).err();
        assert!(matches!(answer, Some(BodyError::InvalidDigest)), "{bad}");
    }
    assert!(try_decode(&[LEN, ("content-md5", MD5_OF_HELLO)]).is_ok());
}

#[test]
fn contradicting_checksum_headers_are_refused() {
    let crc32 = ("x-amz-checksum-crc32", CRC32_OF_HELLO);
    for bad in [
        vec![("x-amz-checksum-crc32", "AAAA")],
        vec![("x-amz-checksum-crc32", "bad")],
        vec![crc32, ("x-amz-checksum-crc32c", CRC32_OF_HELLO)],
        vec![crc32, crc32],
        vec![crc32, ("x-amz-sdk-checksum-algorithm", "SHA1")],
        vec![crc32, ("x-amz-sdk-checksum-algorithm", "ROT13")],
        vec![("x-amz-sdk-checksum-algorithm", "SHA1")],
        vec![("x-amz-trailer", "x-amz-checksum-crc32")],
        vec![("x-amz-trailer", "x-amz-meta-a")],
    ] {
        let mut list = vec![LEN];
        list.extend(bad.clone());
        let answer = try_decode(&list).err();
        assert!(
            matches!(answer, Some(BodyError::InvalidRequest(_))),
            "{bad:?}"
        );
    }
    let decoded = try_decode(&[LEN, crc32, ("x-amz-sdk-checksum-algorithm", "crc32")]).unwrap();
    assert_eq!(decoded.checksum(), Some(DigestAlgorithm::Crc32));
    assert!(decoded.digests().has(DigestAlgorithm::Crc32));
    assert!(!decoded.digests().has(DigestAlgorithm::Sha256));
}

#[test]
fn a_header_and_a_trailer_are_two_checksums() {
    let list = headers(&[
        ("x-amz-decoded-content-length", "5"),
        ("x-amz-checksum-crc32", CRC32_OF_HELLO),
        ("x-amz-trailer", "x-amz-checksum-crc32c"),
    ]);
    let answer = decode(Frames::of(&[]), &Payload::UnsignedChunks, &list).err();
    assert!(matches!(answer, Some(BodyError::InvalidRequest(_))));
}

#[tokio::test]
async fn a_small_body_is_verified_whole() {
    let sent = |text: &'static [u8], list: &[(&'static str, &str)], payload: Payload| {
        let mut all = vec![("content-length", "5")];
        all.extend_from_slice(list);
        let decoded = decode(Frames::split(text, 2), &payload, &headers(&all)).unwrap();
        decoded.read_to_limit(5)
    };
    let md5 = ("content-md5", MD5_OF_HELLO);
    let crc32 = ("x-amz-checksum-crc32", CRC32_OF_HELLO);
    let read = sent(b"hello", &[md5, crc32], Payload::Unsigned).await;
    assert_eq!(&read.unwrap()[..], b"hello");
    let answer = sent(b"hellO", &[md5], Payload::Unsigned).await;
    assert!(matches!(answer, Err(BodyError::BadDigest { .. })));
    let answer = sent(b"hello", &[], Payload::Signed([7; 32])).await;
    assert!(matches!(answer, Err(BodyError::ContentSha256Mismatch)));
    let answer = sent(b"hell", &[], Payload::Unsigned).await;
    assert!(matches!(answer, Err(BodyError::IncompleteBody)));
}

#[tokio::test]
async fn a_limit_holds_without_a_length_too() {
    let list = headers(&[("transfer-encoding", "chunked")]);
    let body = Frames::split(b"hello", 2);
    let decoded = decode(body, &Payload::Unsigned, &list).unwrap();
    let answer = decoded.read_to_limit(4).await;
    assert!(matches!(
        answer,
        Err(BodyError::EntityTooLarge { max_bytes: 4, .. })
    ));
}

#[tokio::test]
async fn a_client_gone_is_a_transport_error() {
    let mut body = Frames::of(&[b"he"]);
    body.frames.push_back(Err("connection reset"));
    let answer = read(body, &Payload::Unsigned, &headers(&[LEN])).await;
    assert!(matches!(answer, Err(BodyError::Transport(_))));
}

#[tokio::test]
async fn a_mismatch_says_which_statement_was_wrong() {
    let list = headers(&[
        LEN,
        (
            "x-amz-checksum-sha256",
            "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=",
        ),
    ]);
    let (_, expected) = read(Frames::of(&[b"hello"]), &Payload::Signed([7; 32]), &list)
        .await
        .unwrap();
    let explained = |value: Vec<u8>| {
        expected.explain(StoreError::DigestMismatch {
            algorithm: DigestAlgorithm::Sha256,
            expected: value,
            actual: Vec::new(),
        })
    };
    let answer = explained(vec![7; 32]).unwrap();
    assert!(matches!(answer, BodyError::ContentSha256Mismatch));
    let answer = explained(vec![8; 32]).unwrap();
    assert!(matches!(answer, BodyError::BadDigest { .. }));
    let other = expected.explain(StoreError::NoSpace).unwrap_err();
    assert!(matches!(other, StoreError::NoSpace));
}
