//! What a request says of its body: `x-amz-content-sha256`.

use std::fmt;

use super::AuthError;
use super::signing_key::SigningKey;

/// The header's name.
pub(super) const HEADER: &str = "x-amz-content-sha256";
/// What it says of a body that is not hashed.
pub(super) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const SIGNED_CHUNKS: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
const SIGNED_CHUNKS_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";
const UNSIGNED_CHUNKS_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";

/// How a body is to be read and verified.
#[derive(Debug, Clone)]
pub enum Payload {
    /// As it comes; nothing is said of its hash.
    Unsigned,
    /// As it comes; its SHA-256 is this.
    Signed([u8; 32]),
    /// aws-chunked, each chunk signed in a chain that begins with the request's signature.
    SignedChunks {
        /// The chain's beginning.
        seal: ChunkSeal,
        /// Whether trailing headers follow, signed too.
        trailer: bool,
    },
    /// aws-chunked, with trailing headers, nothing signed.
    UnsignedChunks,
}

impl Payload {
    /// What the header's value says. `seal` makes the beginning of a chain of signed chunks, or
    /// is none where the request has no SigV4 signature. Errors: InvalidArgument, InvalidRequest.
    pub(super) fn parse(
        value: &str,
        seal: Option<impl FnOnce() -> ChunkSeal>,
    ) -> Result<Self, AuthError> {
        match (value, seal) {
            (UNSIGNED, _) => Ok(Self::Unsigned),
            (UNSIGNED_CHUNKS_TRAILER, _) => Ok(Self::UnsignedChunks),
            (SIGNED_CHUNKS | SIGNED_CHUNKS_TRAILER, Some(seal)) => Ok(Self::SignedChunks {
                seal: seal(),
                trailer: value == SIGNED_CHUNKS_TRAILER,
            }),
            (SIGNED_CHUNKS | SIGNED_CHUNKS_TRAILER, None) => Err(AuthError::InvalidRequest(
                "Signed chunks need a request signed with AWS4-HMAC-SHA256",
            )),
            (hash, _) => {
                parse_sha256(hash)
                    .map(Self::Signed)
                    .ok_or_else(|| AuthError::InvalidArgument {
                        message: "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, \
                              STREAMING-UNSIGNED-PAYLOAD-TRAILER, \
                              STREAMING-AWS4-HMAC-SHA256-PAYLOAD, \
                              STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.",
                        name: HEADER,
                        value: hash.to_owned(),
                    })
            }
        }
    }

    /// What an anonymous request, or one whose signature does not speak of its body, says.
    pub(super) fn of_unsealed(headers: &http::HeaderMap) -> Result<Self, AuthError> {
        let Some(value) = headers.get(HEADER) else {
            return Ok(Self::Unsigned);
        };
        Self::parse(value.to_str().unwrap_or(""), None::<fn() -> ChunkSeal>)
    }
}

/// 64 hex digits.
fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |b: u8| (b as char).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(hash)
}

/// What chunk signatures are computed from. Holds a derived key: `Debug` does not show it.
#[derive(Clone)]
pub struct ChunkSeal {
    /// The request's signing key.
    pub(crate) key: SigningKey,
    /// `20130524T000000Z`
    pub(crate) timestamp: String,
    /// `20130524/us-east-1/s3/aws4_request`
    pub(crate) scope: String,
    /// The request's signature, 64 lower-case hex digits.
    pub(crate) seed: String,
}

impl fmt::Debug for ChunkSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkSeal")
            .field("timestamp", &self.timestamp)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}
