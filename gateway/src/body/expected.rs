//! What a request states of its body: Content-MD5, x-amz-checksum-*, x-amz-content-sha256.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fsstore::error::StoreError;
use fsstore::object::{DigestAlgorithm, DigestSet, ExpectedDigest};
use http::HeaderMap;

use super::BodyError;
use super::digest::digest;

/// Names of the headers that carry a checksum.
const CHECKSUM_HEADERS: [(&str, DigestAlgorithm); 5] = [
    ("x-amz-checksum-crc32", DigestAlgorithm::Crc32),
    ("x-amz-checksum-crc32c", DigestAlgorithm::Crc32c),
    ("x-amz-checksum-crc64nvme", DigestAlgorithm::Crc64Nvme),
    ("x-amz-checksum-sha1", DigestAlgorithm::Sha1),
    ("x-amz-checksum-sha256", DigestAlgorithm::Sha256),
];
const INVALID_VALUE: BodyError =
    BodyError::InvalidRequest("Value for x-amz-checksum- header is invalid.");

/// What the store must find in the bytes.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Digests that the client named, for `CommitOptions::expected`.
    pub digests: Vec<ExpectedDigest>,
    /// The checksum that the client chose to have kept, for `CommitOptions::keep_checksum`; its
    /// value is among `digests`.
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
                actual: _,
            } => Ok(self.mismatch(algorithm, &expected)),
            other => Err(other),
        }
    }

    fn mismatch(&self, algorithm: DigestAlgorithm, expected: &[u8]) -> BodyError {
        let is_payload = algorithm == DigestAlgorithm::Sha256
            && self.payload_sha256.is_some_and(|sha| sha[..] == *expected);
        if is_payload {
            BodyError::ContentSha256Mismatch
        } else {
            BodyError::BadDigest { algorithm }
        }
    }

    /// Errors: BadDigest, ContentSha256Mismatch.
    pub(super) fn verify(&self, bytes: &[u8]) -> Result<(), BodyError> {
        for expected in &self.digests {
            if digest(expected.algorithm, bytes) != expected.value {
                return Err(self.mismatch(expected.algorithm, &expected.value));
            }
        }
        Ok(())
    }
}

/// What was stated so far; a trailer is still to come.
#[derive(Debug)]
pub(super) struct Stated {
    expected: Vec<ExpectedDigest>,
    pub(super) checksum: Option<DigestAlgorithm>,
    /// The checksum that the trailer was announced to carry.
    trailer: Option<DigestAlgorithm>,
    payload_sha256: Option<[u8; 32]>,
}

impl Stated {
    /// Reads the headers. Errors: InvalidDigest, InvalidRequest.
    pub(super) fn read(
        headers: &HeaderMap,
        payload_sha256: Option<[u8; 32]>,
        may_trail: bool,
    ) -> Result<Self, BodyError> {
        let mut expected = Vec::new();
        if let Some(sha256) = payload_sha256 {
            expected.push(ExpectedDigest {
                algorithm: DigestAlgorithm::Sha256,
                value: sha256.to_vec(),
            });
        }
        if let Some(value) = headers.get("content-md5") {
            let value = decode_value(value.as_bytes(), DigestAlgorithm::Md5);
            expected.push(value.ok_or(BodyError::InvalidDigest)?);
        }
        let mut checksum = None;
        for (name, algorithm) in CHECKSUM_HEADERS {
            for value in headers.get_all(name) {
                let value = decode_value(value.as_bytes(), algorithm).ok_or(INVALID_VALUE)?;
                expected.push(value);
                set_once(&mut checksum, algorithm)?;
            }
        }
        let mut trailer = None;
        for value in headers.get_all("x-amz-trailer") {
            let algorithm = announced(value.as_bytes())?;
            if !may_trail {
                return Err(BodyError::InvalidRequest(
                    "x-amz-trailer needs an x-amz-content-sha256 that ends in -TRAILER",
                ));
            }
            set_once(&mut checksum, algorithm)?;
            trailer = Some(algorithm);
        }
        check_named(headers, checksum)?;
        Ok(Self {
            expected,
            checksum,
            trailer,
            payload_sha256,
        })
    }

    /// Digests beyond those that are always computed.
    pub(super) fn digests(&self) -> DigestSet {
        let named = self.expected.iter().map(|expected| expected.algorithm);
        named
            .chain(self.trailer)
            .fold(DigestSet::default(), DigestSet::with)
    }

    /// Takes the trailing headers. Errors: MalformedTrailer, InvalidRequest.
    pub(super) fn take_trailers(
        &mut self,
        trailers: Vec<(String, String)>,
    ) -> Result<(), BodyError> {
        let mut awaited = self.trailer;
        for (name, value) in trailers {
            let header = CHECKSUM_HEADERS.iter().find(|(known, _)| *known == name);
            let Some((_, algorithm)) = header.filter(|(_, found)| awaited == Some(*found)) else {
                return Err(BodyError::MalformedTrailer);
            };
            let value = decode_value(value.as_bytes(), *algorithm).ok_or(INVALID_VALUE)?;
            self.expected.push(value);
            awaited = None;
        }
        match awaited {
            Some(_) => Err(BodyError::MalformedTrailer),
            None => Ok(()),
        }
    }

    pub(super) fn into_expected(self) -> Expected {
        Expected {
            digests: self.expected,
            checksum: self.checksum,
            payload_sha256: self.payload_sha256,
        }
    }
}

fn set_once(
    checksum: &mut Option<DigestAlgorithm>,
    algorithm: DigestAlgorithm,
) -> Result<(), BodyError> {
    match checksum.replace(algorithm) {
        None => Ok(()),
        Some(_) => Err(BodyError::InvalidRequest(
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
        )),
    }
}

/// The checksum whose header x-amz-trailer names: exactly one.
fn announced(value: &[u8]) -> Result<DigestAlgorithm, BodyError> {
    let value = value.trim_ascii();
    let mut headers = CHECKSUM_HEADERS.iter();
    headers
        .find(|(name, _)| value.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, algorithm)| *algorithm)
        .ok_or(BodyError::InvalidRequest(
            "The value specified in the x-amz-trailer header is not supported",
        ))
}

/// The algorithm that x-amz-sdk-checksum-algorithm names must be that of the checksum sent.
fn check_named(headers: &HeaderMap, checksum: Option<DigestAlgorithm>) -> Result<(), BodyError> {
    const PREFIX_LEN: usize = "x-amz-checksum-".len();
    let Some(value) = headers.get("x-amz-sdk-checksum-algorithm") else {
        return Ok(());
    };
    let mut known = CHECKSUM_HEADERS.iter();
    let named = known
        .find(|(name, _)| {
            value
                .as_bytes()
                .eq_ignore_ascii_case(&name.as_bytes()[PREFIX_LEN..])
        })
        .map(|(_, algorithm)| *algorithm)
        .ok_or(BodyError::InvalidRequest(
            "Value for x-amz-sdk-checksum-algorithm header is invalid.",
        ))?;
    match checksum {
        Some(checksum) if checksum == named => Ok(()),
        Some(_) => Err(BodyError::InvalidRequest(
            "Value for x-amz-sdk-checksum-algorithm header is invalid.",
        )),
        None => Err(BodyError::InvalidRequest(
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or \
             x-amz-trailer headers were found.",
        )),
    }
}

/// A digest's value in base64; none where it has another form or length.
fn decode_value(base64: &[u8], algorithm: DigestAlgorithm) -> Option<ExpectedDigest> {
    let value = STANDARD.decode(base64.trim_ascii()).ok()?;
    (value.len() == algorithm.len_bytes()).then_some(ExpectedDigest { algorithm, value })
}
