//! A request's body as the object's bytes, with what must be verified of it.
//!
//! [`decode`] reads headers only; the body is first polled by [`DecodedBody::next_chunk`], so
//! that `100 Continue` goes out no earlier than a handler wants bytes. Bytes are passed on while
//! their signatures are still being computed: a caller publishes nothing before
//! [`DecodedBody::finish`] has answered, and passes what it answers to the store's commit.

pub mod error;

use bytes::Bytes;
use fsstore::error::StoreError;
use fsstore::object::{DigestAlgorithm, DigestSet, ExpectedDigest};
use http::HeaderMap;

use crate::auth::Payload;

pub use error::BodyError;

/// What the store must find in the bytes.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Digests that the client named, for `CommitOptions::expected`.
    pub digests: Vec<ExpectedDigest>,
    /// The checksum that the client chose to have kept, for `CommitOptions::keep_checksum`; its
    /// value is among `digests` unless the client only named the algorithm.
    pub checksum: Option<DigestAlgorithm>,
    payload_sha256: Option<[u8; 32]>,
}

impl Expected {
    /// Tells a mismatch with `x-amz-content-sha256` from one with a checksum; any other error of
    /// the store is given back.
    pub fn explain(&self, error: StoreError) -> Result<BodyError, StoreError> {
        match error {
            StoreError::DigestMismatch {
                algorithm,
                expected,
                actual,
            } => {
                let is_payload = algorithm == DigestAlgorithm::Sha256
                    && self.payload_sha256.is_some_and(|sha| sha[..] == expected);
                let _ = actual;
                Ok(if is_payload {
                    BodyError::ContentSha256Mismatch
                } else {
                    BodyError::BadDigest { algorithm }
                })
            }
            other => Err(other),
        }
    }
}

/// A body being decoded.
pub struct DecodedBody<B> {
    body: B,
    len_bytes: u64,
    digests: DigestSet,
    checksum: Option<DigestAlgorithm>,
}

/// Reads what the headers say of a body, without polling it. Errors: MissingContentLength,
/// EntityTooLarge, InvalidDigest, InvalidRequest.
pub fn decode<B>(
    _body: B,
    _payload: &Payload,
    _headers: &HeaderMap,
) -> Result<DecodedBody<B>, BodyError>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Err(BodyError::InvalidRequest(
        "bodies are not read by this build",
    ))
}

impl<B> DecodedBody<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Length of the decoded bytes, for `StageOptions::len_bytes`.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Digests that the store must compute, for `StageOptions::digests`.
    pub fn digests(&self) -> DigestSet {
        self.digests
    }

    /// The checksum the client chose; a trailer's value is known only at the end.
    pub fn checksum(&self) -> Option<DigestAlgorithm> {
        self.checksum
    }

    /// The next bytes of the object; none at the end. After an error only dropping is left.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        let _ = &mut self.body;
        Err(BodyError::IncompleteBody)
    }

    /// What the bytes must have, once [`Self::next_chunk`] answered none. Errors:
    /// IncompleteBody where it did not.
    pub fn finish(self) -> Result<Expected, BodyError> {
        Err(BodyError::IncompleteBody)
    }

    /// All bytes of a small body, with every digest verified. Errors: as above, BadDigest,
    /// ContentSha256Mismatch, and EntityTooLarge over `max_bytes`.
    pub async fn read_to_limit(self, max_bytes: u64) -> Result<Bytes, BodyError> {
        Err(BodyError::EntityTooLarge {
            len_bytes: self.len_bytes,
            max_bytes,
        })
    }
}
