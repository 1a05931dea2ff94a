//! Why a body was refused.

use fsstore::object::DigestAlgorithm;

/// A refusal of a body. What was staged of it must be dropped. Source of the codes: S3 API,
/// "Error responses".
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// IncompleteBody, 400: fewer bytes came than were announced, or the client went away.
    #[error("You did not provide the number of bytes specified by the Content-Length HTTP header")]
    IncompleteBody,
    /// RequestTimeout, 400: no bytes came for too long.
    #[error(
        "Your socket connection to the server was not read from or written to within the timeout \
         period."
    )]
    Timeout,
    /// IncompleteBody, 400: the connection failed while the body was read.
    #[error("The connection failed before the whole body had come")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// MissingContentLength, 411.
    #[error("You must provide the Content-Length HTTP header.")]
    MissingContentLength,
    /// EntityTooLarge, 400.
    #[error("Your proposed upload exceeds the maximum allowed size")]
    EntityTooLarge {
        /// The length announced or met, in bytes.
        len_bytes: u64,
        /// The limit, in bytes.
        max_bytes: u64,
    },
    /// EntityTooSmall, 400 (a form's content-length-range).
    #[error("Your proposed upload is smaller than the minimum allowed size")]
    EntityTooSmall {
        /// The length that came, in bytes.
        len_bytes: u64,
        /// The least length, in bytes.
        min_bytes: u64,
    },
    /// InvalidDigest, 400: Content-MD5 is not 16 bytes in base64.
    #[error("The Content-MD5 you specified was invalid.")]
    InvalidDigest,
    /// BadDigest, 400.
    #[error("The {} you specified did not match the calculated checksum.", digest_name(*algorithm))]
    BadDigest {
        /// Which digest.
        algorithm: DigestAlgorithm,
    },
    /// XAmzContentSHA256Mismatch, 400.
    #[error("The provided 'x-amz-content-sha256' header does not match what was computed.")]
    ContentSha256Mismatch,
    /// SignatureDoesNotMatch, 403: of a chunk or of the trailing headers.
    #[error(
        "The request signature we calculated does not match the signature you provided. \
         Check your key and signing method."
    )]
    SignatureDoesNotMatch,
    /// InvalidRequest, 400: checksum headers or aws-chunked framing.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// MalformedTrailerError, 400.
    #[error(
        "The request contained trailing data that was not well-formed or did not conform to our published schema."
    )]
    MalformedTrailer,
    /// InvalidChunkSizeError: a chunk's size is over the limit of a whole PUT.
    #[error("Chunk is larger than {max_bytes} bytes")]
    ChunkTooLarge {
        /// The limit, in bytes.
        max_bytes: u64,
    },
    /// MalformedPOSTRequest, 400.
    #[error("The body of your POST request is not well-formed multipart/form-data. ({0})")]
    MalformedForm(&'static str),
    /// MaxPostPreDataLengthExceededError, 400.
    #[error("Your POST request fields preceding the upload file were too large.")]
    FormFieldsTooLarge,
    /// IncorrectNumberOfFilesInPostRequest, 400.
    #[error("POST requires exactly one file upload per request.")]
    IncorrectNumberOfFiles,
}

/// S3's name of a digest, as it stands in messages and headers.
pub fn digest_name(algorithm: DigestAlgorithm) -> &'static str {
    match algorithm {
        DigestAlgorithm::Md5 => "Content-MD5",
        DigestAlgorithm::Crc32 => "CRC32",
        DigestAlgorithm::Crc32c => "CRC32C",
        DigestAlgorithm::Crc64Nvme => "CRC64NVME",
        DigestAlgorithm::Sha1 => "SHA1",
        DigestAlgorithm::Sha256 => "SHA256",
    }
}
