//! What a request's signature says of its body: `x-amz-content-sha256`.

use std::fmt;

use super::signing_key::SigningKey;

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
