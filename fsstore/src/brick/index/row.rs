//! What the index keeps of one object, and its form inside the database.

use crate::error::{Result, StoreError};
use crate::name::ETag;
use crate::object::{ChecksumKind, DigestAlgorithm};

/// What the index keeps of one object: enough to answer a listing, and enough of the file's
/// state to tell whether that answer still holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Length in bytes.
    pub len_bytes: u64,
    /// The file's mtime, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// The file's ctime as last seen, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// The file's inode number.
    pub ino: u64,
    /// The tag of the bytes in that state; provisional where the digest is not known.
    pub etag: ETag,
    /// Id of the owner.
    pub owner: Option<String>,
    /// The checksum kept with the object.
    pub checksum: Option<(DigestAlgorithm, ChecksumKind)>,
    /// Marks.
    pub flags: RowFlags,
}

/// Marks of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowFlags {
    /// The digest is not known and should be computed in the background.
    pub needs_hash: bool,
    /// The object is a directory with a marker (its key ends in `/`).
    pub is_marker: bool,
    /// The key is not the path: the file is under the reserved directory.
    pub escaped: bool,
}

/// Where the inode number is in a row that is [encoded](Row::encode): after the flags and three
/// numbers.
pub(super) const INO_OFFSET_BYTES: usize = 1 + 3 * 8;

const FLAG_NEEDS_HASH: u8 = 1;
const FLAG_IS_MARKER: u8 = 2;
const FLAG_ESCAPED: u8 = 4;

const ETAG_MD5: u8 = 0;
const ETAG_PARTS: u8 = 1;
const ETAG_PROVISIONAL: u8 = 2;
const ETAG_TEXT: u8 = 3;

const NO_CHECKSUM: u8 = 0;
const CHECKSUM_COMPOSITE: u8 = 0x80;

impl Row {
    /// The row as the database keeps it: flags, length, mtime, ctime, inode (little endian),
    /// ETag (a form byte, then its bytes), checksum byte, then the owner's text.
    pub(super) fn encode(&self) -> Vec<u8> {
        let owner = self.owner.as_deref();
        let mut out = Vec::with_capacity(64 + owner.map_or(0, str::len));
        out.push(self.flags.encode());
        out.extend_from_slice(&self.len_bytes.to_le_bytes());
        out.extend_from_slice(&self.mtime_ns.to_le_bytes());
        out.extend_from_slice(&self.ctime_ns.to_le_bytes());
        out.extend_from_slice(&self.ino.to_le_bytes());
        encode_etag(&self.etag, &mut out);
        out.push(
            self.checksum
                .map_or(NO_CHECKSUM, |(algorithm, kind)| match kind {
                    ChecksumKind::FullObject => algorithm_code(algorithm),
                    ChecksumKind::Composite => algorithm_code(algorithm) | CHECKSUM_COMPOSITE,
                }),
        );
        out.push(u8::from(owner.is_some()));
        out.extend_from_slice(owner.unwrap_or("").as_bytes());
        out
    }

    /// Reads what [`Row::encode`] wrote. Errors: Corrupt.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        Self::read(&mut Reader(bytes))
            .ok_or_else(|| StoreError::Corrupt("a row of the listing index".to_owned()))
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let flags = RowFlags::decode(from.byte()?);
        let len_bytes = u64::from_le_bytes(from.array()?);
        let mtime_ns = i64::from_le_bytes(from.array()?);
        let ctime_ns = i64::from_le_bytes(from.array()?);
        let ino = u64::from_le_bytes(from.array()?);
        let etag = read_etag(from)?;
        let checksum = match from.byte()? {
            NO_CHECKSUM => None,
            code => {
                let kind = if code & CHECKSUM_COMPOSITE == 0 {
                    ChecksumKind::FullObject
                } else {
                    ChecksumKind::Composite
                };
                Some((algorithm_of(code & !CHECKSUM_COMPOSITE)?, kind))
            }
        };
        let owner = match from.byte()? {
            0 => None,
            _ => Some(std::str::from_utf8(from.0).ok()?.to_owned()),
        };
        Some(Self {
            len_bytes,
            mtime_ns,
            ctime_ns,
            ino,
            etag,
            owner,
            checksum,
            flags,
        })
    }
}

impl RowFlags {
    fn encode(self) -> u8 {
        let bit = |set: bool, flag: u8| if set { flag } else { 0 };
        bit(self.needs_hash, FLAG_NEEDS_HASH)
            | bit(self.is_marker, FLAG_IS_MARKER)
            | bit(self.escaped, FLAG_ESCAPED)
    }

    fn decode(bits: u8) -> Self {
        Self {
            needs_hash: bits & FLAG_NEEDS_HASH != 0,
            is_marker: bits & FLAG_IS_MARKER != 0,
            escaped: bits & FLAG_ESCAPED != 0,
        }
    }
}

/// Writes the shortest form from which exactly the same tag can be read.
fn encode_etag(etag: &ETag, out: &mut Vec<u8>) {
    let text = etag.as_str();
    if let Some(md5) = unhex::<16>(text) {
        out.push(ETAG_MD5);
        out.extend_from_slice(&md5);
    } else if let Some((md5, parts)) = split_parts(etag) {
        out.push(ETAG_PARTS);
        out.extend_from_slice(&md5);
        out.extend_from_slice(&parts.to_le_bytes());
    } else if let Some(state) = text.strip_prefix("px1-").and_then(unhex::<8>) {
        out.push(ETAG_PROVISIONAL);
        out.extend_from_slice(&state);
    } else {
        let len = u8::try_from(text.len()).expect("ETag::parse takes at most 128 characters");
        out.extend_from_slice(&[ETAG_TEXT, len]);
        out.extend_from_slice(text.as_bytes());
    }
}

fn read_etag(from: &mut Reader<'_>) -> Option<ETag> {
    Some(match from.byte()? {
        ETAG_MD5 => ETag::from_md5(&from.array()?),
        ETAG_PARTS => {
            let md5 = from.array()?;
            ETag::from_parts(&md5, u16::from_le_bytes(from.array()?))
        }
        ETAG_PROVISIONAL => ETag::provisional(u64::from_be_bytes(from.array()?)),
        ETAG_TEXT => {
            let len = usize::from(from.byte()?);
            ETag::parse(std::str::from_utf8(from.take(len)?).ok()?).ok()?
        }
        _ => return None,
    })
}

fn split_parts(etag: &ETag) -> Option<([u8; 16], u16)> {
    let (digest, parts) = etag.as_str().split_once('-')?;
    let (md5, parts) = (unhex::<16>(digest)?, parts.parse().ok()?);
    // "+3" and "03" parse as well, and are not what from_parts writes.
    (ETag::from_parts(&md5, parts) == *etag).then_some((md5, parts))
}

/// Reads exactly `N` bytes of lower-case hexadecimal digits.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

fn algorithm_code(algorithm: DigestAlgorithm) -> u8 {
    match algorithm {
        DigestAlgorithm::Md5 => 1,
        DigestAlgorithm::Crc32 => 2,
        DigestAlgorithm::Crc32c => 3,
        DigestAlgorithm::Crc64Nvme => 4,
        DigestAlgorithm::Sha1 => 5,
        DigestAlgorithm::Sha256 => 6,
    }
}

fn algorithm_of(code: u8) -> Option<DigestAlgorithm> {
    DigestAlgorithm::ALL
        .into_iter()
        .find(|&algorithm| algorithm_code(algorithm) == code)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Row, RowFlags};
    use crate::name::ETag;
    use crate::object::{ChecksumKind, DigestAlgorithm};

    fn row(etag: ETag) -> Row {
        Row {
            len_bytes: 5 << 40,
            mtime_ns: -1,
            ctime_ns: i64::MAX,
            ino: u64::MAX,
            etag,
            owner: None,
            checksum: None,
            flags: RowFlags::default(),
        }
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let md5 = [0xab; 16];
        for etag in [
            ETag::from_md5(&md5),
            ETag::from_parts(&md5, 10_000),
            ETag::provisional(0x0123_4567_89ab_cdef),
            ETag::parse(&"AB".repeat(16)).unwrap(),
            ETag::parse(&format!("{}-+3", "ab".repeat(16))).unwrap(),
            ETag::parse(&format!("{}-03", "ab".repeat(16))).unwrap(),
            ETag::parse(&"x".repeat(128)).unwrap(),
            ETag::parse("px1-xyz").unwrap(),
        ] {
            let row = row(etag);
            assert_eq!(Row::decode(&row.encode()).unwrap(), row);
        }
        for algorithm in DigestAlgorithm::ALL {
            for kind in [ChecksumKind::FullObject, ChecksumKind::Composite] {
                for owner in [None, Some(String::new()), Some("ümlaut".to_owned())] {
                    let mut row = row(ETag::from_md5(&md5));
                    row.checksum = Some((algorithm, kind));
                    row.owner = owner;
                    row.flags.escaped = kind == ChecksumKind::Composite;
                    row.flags.needs_hash = algorithm == DigestAlgorithm::Md5;
                    row.flags.is_marker = algorithm == DigestAlgorithm::Sha1;
                    assert_eq!(Row::decode(&row.encode()).unwrap(), row);
                }
            }
        }
    }

    #[test]
    fn a_cut_row_is_refused() {
        let whole = row(ETag::from_parts(&[7; 16], 2)).encode();
        for len in 0..whole.len() {
            assert!(Row::decode(&whole[..len]).is_err(), "{len}");
        }
    }
}
