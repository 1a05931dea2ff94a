//! Names, parsed once at the border: buckets, keys, uploads, versions, ETags.
//!
//! Inside the store there are no raw strings: a value of one of these types has already been
//! checked. Protocol rules that are stricter than the store's (S3's bucket alphabet, Swift's
//! length limits) belong to the doors.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest object key, in bytes of UTF-8. Source: S3 User Guide, "Naming Amazon S3 objects".
pub const MAX_KEY_LEN_BYTES: usize = 1024;
/// Longest bucket name the store takes: one file name. Source: NAME_MAX, limits.h(0p).
pub const MAX_BUCKET_LEN_BYTES: usize = 255;
/// Highest part number. Source: S3 API, UploadPart.
pub const MAX_PART_NUMBER: u16 = 10_000;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("the name is empty")]
    Empty,
    /// The name is longer than the store takes.
    #[error("the name is {len_bytes} bytes long, the limit is {max_bytes}")]
    TooLong {
        /// Length given, in bytes.
        len_bytes: usize,
        /// Longest length taken, in bytes.
        max_bytes: usize,
    },
    /// The name has a form that cannot be taken.
    #[error("{0}")]
    Malformed(&'static str),
}

/// A bucket: one directory directly below a volume's root.
///
/// Invariant: 1 to 255 bytes, no `/`, no NUL, does not begin with a dot (so it can never be
/// `.`, `..` or the reserved directory).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BucketName(String);

impl BucketName {
    /// Checks a bucket name. Errors: Empty, TooLong, Malformed.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > MAX_BUCKET_LEN_BYTES {
            return Err(NameError::TooLong {
                len_bytes: name.len(),
                max_bytes: MAX_BUCKET_LEN_BYTES,
            });
        }
        if name.starts_with('.') {
            return Err(NameError::Malformed(
                "a bucket name cannot begin with a dot",
            ));
        }
        if name.bytes().any(|b| b == b'/' || b == 0) {
            return Err(NameError::Malformed(
                "a bucket name has no slash and no NUL",
            ));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object's key: 1 to 1,024 bytes of UTF-8, otherwise anything (NUL and `..` included).
/// Ordered by bytes, which is S3's listing order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Checks a key. Errors: Empty, TooLong.
    pub fn parse(key: &str) -> Result<Self, NameError> {
        if key.is_empty() {
            return Err(NameError::Empty);
        }
        if key.len() > MAX_KEY_LEN_BYTES {
            return Err(NameError::TooLong {
                len_bytes: key.len(),
                max_bytes: MAX_KEY_LEN_BYTES,
            });
        }
        Ok(Self(key.to_owned()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A version of an object. Kept opaque; the store makes them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VersionId(String);

impl VersionId {
    /// Checks a version id: 1 to 64 characters of `[A-Za-z0-9._-]`.
    pub fn parse(id: &str) -> Result<Self, NameError> {
        parse_token(id, 64).map(Self)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A multipart upload. Made by the store, unguessable, ordered by time of creation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UploadId(String);

impl UploadId {
    /// Checks an upload id: 1 to 64 characters of `[A-Za-z0-9_-]`, so that it is a file name.
    pub fn parse(id: &str) -> Result<Self, NameError> {
        let token = parse_token(id, 64)?;
        if token.contains('.') {
            return Err(NameError::Malformed("an upload id has no dot"));
        }
        Ok(Self(token))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn parse_token(text: &str, max_bytes: usize) -> Result<String, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max_bytes {
        return Err(NameError::TooLong {
            len_bytes: text.len(),
            max_bytes,
        });
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    {
        return Err(NameError::Malformed(
            "an id is letters, digits, '.', '_' and '-'",
        ));
    }
    Ok(text.to_owned())
}

/// The number of a part: 1 to 10,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct PartNumber(u16);

impl PartNumber {
    /// Checks a part number. Errors: Malformed.
    pub fn new(number: u32) -> Result<Self, NameError> {
        match u16::try_from(number) {
            Ok(n) if (1..=MAX_PART_NUMBER).contains(&n) => Ok(Self(n)),
            _ => Err(NameError::Malformed("a part number is 1 to 10000")),
        }
    }

    /// The number, 1 to 10,000.
    pub fn get(self) -> u16 {
        self.0
    }
}

/// An entity tag without its quotes. Three forms exist:
/// 32 hex digits (MD5 of the bytes), `<32 hex>-<parts>` (multipart), and `px1-<16 hex>`
/// (provisional: the digest is not known yet; no client takes it for an MD5).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ETag(String);

impl ETag {
    /// The tag of bytes with this MD5.
    pub fn from_md5(md5: &[u8; 16]) -> Self {
        Self(hex(md5))
    }

    /// The tag of an object composed of `parts` parts: MD5 over the parts' MD5s.
    pub fn from_parts(md5_of_md5s: &[u8; 16], parts: u16) -> Self {
        Self(format!("{}-{parts}", hex(md5_of_md5s)))
    }

    /// The tag of a state of the bytes whose digest is not known.
    pub fn provisional(state: u64) -> Self {
        Self(format!("px1-{state:016x}"))
    }

    /// Takes a tag as the index keeps it; checks only that a header can carry it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > 128 || !text.bytes().all(|b| b.is_ascii_graphic() && b != b'"') {
            return Err(NameError::Malformed(
                "an ETag is up to 128 visible characters, no quote",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// True where the digest of the bytes is not known.
    pub fn is_provisional(&self) -> bool {
        self.0.starts_with("px1-")
    }

    /// The tag without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names are written down as the text they are, and checked when they are read.
macro_rules! written_as_text {
    ($($name:ident),+) => {$(
        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    )+};
}

written_as_text!(BucketName, ObjectKey, UploadId, ETag);

impl TryFrom<u32> for PartNumber {
    type Error = NameError;

    fn try_from(number: u32) -> Result<Self, NameError> {
        Self::new(number)
    }
}

impl From<PartNumber> for u32 {
    fn from(number: PartNumber) -> Self {
        Self::from(number.0)
    }
}

/// Lower-case hexadecimal digits of some bytes.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(DIGITS[usize::from(b >> 4)] as char);
        out.push(DIGITS[usize::from(b & 15)] as char);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_name_cannot_reach_the_reserved_directory() {
        for bad in ["", ".", "..", ".portico", "a/b", "a\0b"] {
            assert!(BucketName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(BucketName::parse(&"x".repeat(256)).is_err());
        assert!(BucketName::parse("my-bucket.1").is_ok());
    }

    #[test]
    fn a_key_is_measured_in_bytes() {
        assert!(ObjectKey::parse(&"é".repeat(512)).is_ok());
        assert!(ObjectKey::parse(&"é".repeat(513)).is_err());
        assert!(ObjectKey::parse("").is_err());
    }

    #[test]
    fn an_upload_id_is_one_file_name() {
        for bad in ["", "..", "a/b", "a b", "a.b"] {
            assert!(UploadId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_provisional_etag_is_never_taken_for_an_md5() {
        let tag = ETag::provisional(7);
        assert_eq!(tag.as_str(), "px1-0000000000000007");
        assert!(tag.is_provisional());
        assert!(!ETag::from_md5(&[0; 16]).is_provisional());
        assert_eq!(
            ETag::from_parts(&[0xab; 16], 3).as_str(),
            format!("{}-3", "ab".repeat(16))
        );
    }
}
