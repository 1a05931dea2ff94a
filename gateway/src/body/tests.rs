//! Published chunk signatures, splits, truncations and statements about bodies.

mod statements;

use std::collections::VecDeque;
use std::task::{Context, Poll};

use http_body::Frame;
use proptest::prelude::{any, proptest};

use super::*;
use crate::auth::ChunkSeal;
use crate::auth::signing_key::SigningKey;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
/// 2013-05-24, of the published examples.
const DAY_SECS: u64 = 1_369_353_600;

/// A body of given frames; panics where it is polled though it must not be.
pub(super) struct Frames {
    frames: VecDeque<Result<Bytes, &'static str>>,
    may_poll: bool,
}

impl Frames {
    pub(super) fn of(frames: &[&[u8]]) -> Self {
        let frames = frames.iter().map(|f| Ok(Bytes::copy_from_slice(f)));
        Self {
            frames: frames.collect(),
            may_poll: true,
        }
    }

    /// `bytes` in frames of `len`, at least 1.
    pub(super) fn split(bytes: &[u8], len: usize) -> Self {
        Self::of(&bytes.chunks(len.max(1)).collect::<Vec<_>>())
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        assert!(self.may_poll, "polled before bytes were asked for");
        Poll::Ready(self.frames.pop_front().map(|frame| match frame {
            Ok(bytes) => Ok(Frame::data(bytes)),
            Err(text) => Err(text.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }
}

pub(super) fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in list {
        map.append(*name, value.parse().unwrap());
    }
    map
}

fn seal(seed: &str) -> ChunkSeal {
    ChunkSeal {
        key: SigningKey::derive(SECRET, DAY_SECS, "us-east-1", "s3"),
        timestamp: "20130524T000000Z".to_owned(),
        scope: "20130524/us-east-1/s3/aws4_request".to_owned(),
        seed: seed.to_owned(),
    }
}

/// The published example: 65 KiB of `a`, in chunks of 64 KiB and 1 KiB.
fn example(signatures: [&str; 3], trailer: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (len, signature) in [65_536, 1_024, 0].into_iter().zip(signatures) {
        out.extend(format!("{len:x};chunk-signature={signature}\r\n").into_bytes());
        if len > 0 {
            out.extend(vec![b'a'; len]);
            out.extend(b"\r\n");
        }
    }
    out.extend(trailer.as_bytes());
    out.extend(b"\r\n");
    out
}

const SIGNATURES: [&str; 3] = [
    "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
    "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
    "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
];
const TRAILER_SIGNATURES: [&str; 3] = [
    "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
    "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
    "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
];
const TRAILER: &str = "x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:\
    d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n";

fn signed() -> Payload {
    Payload::SignedChunks {
        seal: seal("4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"),
        trailer: false,
    }
}

fn signed_trailer() -> Payload {
    Payload::SignedChunks {
        seal: seal("106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"),
        trailer: true,
    }
}

pub(super) async fn read(
    body: Frames,
    payload: &Payload,
    headers: &HeaderMap,
) -> Result<(Vec<u8>, Expected), BodyError> {
    let mut decoded = decode(body, payload, headers)?;
    let mut whole = Vec::new();
    while let Some(chunk) = decoded.next_chunk().await? {
        assert!(!chunk.is_empty());
        whole.extend_from_slice(&chunk);
    }
    Ok((whole, decoded.finish()?))
}

const LEN: (&str, &str) = ("x-amz-decoded-content-length", "66560");
const ANNOUNCED: (&str, &str) = ("x-amz-trailer", "x-amz-checksum-crc32c");

#[tokio::test]
async fn the_published_signed_chunks_are_verified() {
    let body = Frames::split(&example(SIGNATURES, ""), 4_000);
    let (bytes, expected) = read(body, &signed(), &headers(&[LEN])).await.unwrap();
    assert_eq!(bytes, vec![b'a'; 66_560]);
    assert!(expected.digests.is_empty());
}

#[tokio::test]
async fn the_published_signed_trailer_is_verified() {
    let list = headers(&[LEN, ANNOUNCED]);
    // Line ends as the published example has them, too.
    for trailer in [TRAILER.to_owned(), TRAILER.replace("\r\n", "\n")] {
        let body = Frames::split(&example(TRAILER_SIGNATURES, &trailer), 999);
        let (bytes, expected) = read(body, &signed_trailer(), &list).await.unwrap();
        assert_eq!(bytes.len(), 66_560);
        assert_eq!(expected.checksum, Some(DigestAlgorithm::Crc32c));
        assert!(expected.verify(&bytes).is_ok());
        assert!(expected.verify(b"other").is_err());
    }
}

#[tokio::test]
async fn a_changed_byte_of_a_chunk_or_trailer_is_refused() {
    for at in [100, 65_700, 66_700] {
        let mut bytes = example(SIGNATURES, "");
        bytes[at] ^= 1;
        let answer = read(Frames::split(&bytes, 5_000), &signed(), &headers(&[LEN])).await;
        assert!(
            matches!(answer, Err(BodyError::SignatureDoesNotMatch)),
            "{at}"
        );
    }
    for (from, to) in [
        ("sOO8/Q==", "sOO8/A=="),
        ("d81f", "d82f"),
        ("crc32c", "crc32"),
    ] {
        let bytes = example(TRAILER_SIGNATURES, &TRAILER.replace(from, to));
        let list = headers(&[LEN, ANNOUNCED]);
        let answer = read(Frames::split(&bytes, 5_000), &signed_trailer(), &list).await;
        assert!(matches!(answer, Err(BodyError::SignatureDoesNotMatch)));
    }
}

#[tokio::test]
async fn a_signed_trailer_cannot_be_left_out_or_added_to() {
    let list = headers(&[LEN, ANNOUNCED]);
    let bytes = example(TRAILER_SIGNATURES, "");
    let answer = read(Frames::split(&bytes, 5_000), &signed_trailer(), &list).await;
    assert!(matches!(answer, Err(BodyError::SignatureDoesNotMatch)));
    let bytes = example(
        TRAILER_SIGNATURES,
        &format!("{TRAILER}x-amz-checksum-sha1:AA==\r\n"),
    );
    let answer = read(Frames::split(&bytes, 5_000), &signed_trailer(), &list).await;
    assert!(matches!(answer, Err(BodyError::MalformedTrailer)));
    let bytes = example(SIGNATURES, "x-amz-checksum-crc32c:sOO8/Q==\r\n");
    let answer = read(Frames::split(&bytes, 5_000), &signed(), &headers(&[LEN])).await;
    assert!(matches!(answer, Err(BodyError::MalformedTrailer)));
}

#[tokio::test]
async fn a_body_cut_anywhere_is_incomplete() {
    let whole = example(TRAILER_SIGNATURES, TRAILER);
    let list = headers(&[LEN, ANNOUNCED]);
    let tail = whole.len() - 400;
    for cut in [0, 1, 50, 65_000].into_iter().chain(tail..whole.len()) {
        let body = Frames::split(&whole[..cut], 70_000);
        let answer = read(body, &signed_trailer(), &list).await;
        assert!(answer.is_err(), "{cut}");
    }
}

#[tokio::test]
async fn the_last_line_end_may_be_missing_where_nothing_trails() {
    let mut bytes = example(SIGNATURES, "");
    bytes.truncate(bytes.len() - 2);
    let answer = read(Frames::split(&bytes, 5_000), &signed(), &headers(&[LEN])).await;
    assert!(answer.is_ok());
}

const UNSIGNED: &[u8] =
    b"5\r\nhello\r\n6;x=1\r\n world\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n";

fn unsigned_headers(len: &str) -> HeaderMap {
    headers(&[
        ("x-amz-decoded-content-length", len),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
        ("x-amz-sdk-checksum-algorithm", "CRC32"),
    ])
}

#[tokio::test]
async fn unsigned_chunks_carry_a_checksum_behind() {
    let body = Frames::split(UNSIGNED, 1);
    let decoded = decode(body, &Payload::UnsignedChunks, &unsigned_headers("11")).unwrap();
    assert_eq!(decoded.len_bytes(), Some(11));
    assert!(decoded.digests().has(DigestAlgorithm::Crc32));
    assert_eq!(
        &decoded.read_to_limit(11).await.unwrap()[..],
        b"hello world"
    );
    let changed = String::from_utf8_lossy(UNSIGNED).replace("world", "World");
    let body = Frames::split(changed.as_bytes(), 7);
    let decoded = decode(body, &Payload::UnsignedChunks, &unsigned_headers("11")).unwrap();
    let answer = decoded.read_to_limit(11).await;
    assert!(matches!(answer, Err(BodyError::BadDigest { .. })));
}

#[tokio::test]
async fn a_wrong_decoded_length_is_incomplete() {
    for len in ["10", "12"] {
        let body = Frames::split(UNSIGNED, 100);
        let answer = read(body, &Payload::UnsignedChunks, &unsigned_headers(len)).await;
        assert!(matches!(answer, Err(BodyError::IncompleteBody)), "{len}");
    }
}

#[tokio::test]
async fn malformed_chunks_are_refused() {
    let long = format!("5;x={}\r\nhello\r\n", "y".repeat(2_000));
    for (bytes, len) in [
        ("x\r\n", "5"),
        ("\r\n", "5"),
        ("-5\r\nhello\r\n0\r\n\r\n", "5"),
        ("5\nhello\r\n0\r\n\r\n", "5"),
        ("5\r\nhelloo\r\n0\r\n\r\n", "5"),
        ("fffffffffffffffff\r\n", "5"),
        ("ffffffffffff\r\n", "5"),
        ("0\r\n\r\nmore", "0"),
        ("0\r\nno colon\r\n\r\n", "0"),
        ("0\r\nx-other:1\r\n\r\n", "0"),
        (long.as_str(), "5"),
    ] {
        let list = headers(&[("x-amz-decoded-content-length", len)]);
        let body = Frames::split(bytes.as_bytes(), 3);
        let answer = read(body, &Payload::UnsignedChunks, &list).await;
        assert!(
            matches!(
                answer,
                Err(BodyError::InvalidRequest(_)
                    | BodyError::MalformedTrailer
                    | BodyError::ChunkTooLarge { .. })
            ),
            "{bytes:?}: {:?}",
            answer.err()
        );
    }
}

proptest! {
    #[test]
    fn however_the_input_is_split_the_bytes_are_the_same(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..6),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
    ) {
        let mut framed = Vec::new();
        for chunk in &chunks {
            framed.extend(format!("{:X}\r\n", chunk.len()).into_bytes());
            framed.extend(chunk);
            framed.extend(b"\r\n");
        }
        framed.extend(b"0\r\n\r\n");
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(framed.len())).collect();
        ends.push(framed.len());
        ends.sort_unstable();
        let mut decoder = ChunkedDecoder::unsigned();
        let mut out = Vec::new();
        let mut begin = 0;
        for end in ends {
            let mut input = Bytes::copy_from_slice(&framed[begin..end]);
            while let Step::Data(data) = decoder.step(&mut input).unwrap() {
                out.extend_from_slice(&data);
            }
            begin = end;
        }
        assert!(decoder.finish().unwrap().is_empty());
        assert_eq!(out, chunks.concat());
    }
}
