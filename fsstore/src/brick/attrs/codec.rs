//! The record as bytes.
//!
//! 1. One byte, the format: [`FORMAT`] for a record, [`STUB_FORMAT`] for a [`Spilled`] stub.
//! 2. Fields: tag (varint), length of the value in bytes (varint), value. Tags ascend strictly.
//!    A tag above the highest known one is a later version's: kept as it is.
//! 3. The CRC-32C of all bytes before, 4 bytes, little endian.
//!
//! A stub is its format, the record's CRC-32C (4 bytes, little endian), its length (varint), and
//! the CRC as above. Varints are LEB128 in their shortest form. A *text* is a varint `h`: for an
//! even one, entry `h / 2` of a dictionary; for an odd one, a string of `h / 2` bytes follows.
//! Decoding never panics, whatever the bytes.

use super::dictionary::{HEADER_NAMES, HEADER_VALUES, NOTHING, USER_NAMES};
use super::wire::{Input, crc32c, open, push_field, push_map, push_varint, seal, text};
use super::{
    DigestState, DirectoryFlags, Layout, MultipartTag, PartChecksums, Parts, Record, Stamp,
};
use crate::error::StoreError;
use crate::name::{PartNumber, UploadId, hex};
use crate::object::{Checksum, ChecksumKind, DigestAlgorithm};

/// First byte of a record.
pub const FORMAT: u8 = 1;
/// First byte of a stub.
pub const STUB_FORMAT: u8 = 2;

/// The tags. They are on disk: numbers are never used again for something else.
mod tag {
    pub const STATE: u64 = 1;
    pub const MD5: u64 = 2;
    pub const CRC64NVME: u64 = 3;
    pub const MULTIPART: u64 = 4;
    pub const ETAG_BEFORE: u64 = 5;
    pub const CHECKSUM: u64 = 6;
    pub const SYSTEM: u64 = 7;
    pub const USER: u64 = 8;
    pub const TAGS: u64 = 9;
    pub const OWNER: u64 = 10;
    pub const ACL: u64 = 11;
    pub const UPLOAD_ID: u64 = 12;
    pub const UNIFORM_PARTS: u64 = 13;
    pub const LISTED_PARTS: u64 = 14;
    pub const PART_CHECKSUMS: u64 = 15;
    pub const DIRECTORY: u64 = 16;
    pub const MTIME_BEFORE: u64 = 17;
    pub const STAMP: u64 = 18;
    pub const MADE: u64 = 19;
    pub const IDENT: u64 = 20;
    pub const HIGHEST: u64 = IDENT;
}

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttrsError {
    /// Longer than any record.
    #[error("{len_bytes} bytes are longer than any record")]
    TooLong {
        /// Length given, in bytes.
        len_bytes: usize,
    },
    /// Of a format that this version does not know.
    #[error("format {0} is not known")]
    UnknownFormat(u8),
    /// The check sum at the end is not that of the bytes.
    #[error("the check sum is wrong")]
    WrongCheckSum,
    /// The bytes end too early.
    #[error("the bytes end too early")]
    Truncated,
    /// A field has a value it cannot have.
    #[error("{0}")]
    Malformed(&'static str),
    /// Bytes of a side file that are not those the stub names.
    #[error("the side file is not the one the stub names")]
    AnotherSideFile,
}

impl From<AttrsError> for StoreError {
    fn from(error: AttrsError) -> Self {
        Self::Corrupt(error.to_string())
    }
}

type Result<T> = std::result::Result<T, AttrsError>;

/// What the extended attribute holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// The record.
    Whole(Box<Record>),
    /// Where the record was too large: the stub of it.
    Spilled(Spilled),
}

impl Stored {
    /// Reads what stands in the extended attribute.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.first() == Some(&STUB_FORMAT) {
            return Spilled::decode(bytes).map(Self::Spilled);
        }
        Record::decode(bytes).map(|record| Self::Whole(Box::new(record)))
    }
}

/// Says that the whole record stands in a side file, and which bytes that file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spilled {
    /// CRC-32C of the encoded record.
    pub crc32c: u32,
    /// Length of the encoded record in bytes.
    pub len_bytes: u32,
}

impl Spilled {
    /// The stub of an encoded record, of at most [`super::MAX_RECORD_LEN_BYTES`].
    pub fn of(encoded: &[u8]) -> Self {
        Self {
            crc32c: crc32c(encoded),
            len_bytes: u32::try_from(encoded.len()).expect("a record is at most 1 MiB"),
        }
    }

    /// The stub as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![STUB_FORMAT];
        out.extend(self.crc32c.to_le_bytes());
        push_varint(&mut out, u64::from(self.len_bytes));
        seal(out)
    }

    /// The record in the side file, whose bytes these are. Errors: AnotherSideFile where they
    /// are not the ones the stub names.
    pub fn decode_side_file(&self, bytes: &[u8]) -> Result<Record> {
        if bytes.len() as u64 != u64::from(self.len_bytes) || crc32c(bytes) != self.crc32c {
            return Err(AttrsError::AnotherSideFile);
        }
        Record::decode(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = open(bytes, STUB_FORMAT)?;
        let stub = Self {
            crc32c: u32::from_le_bytes(input.array()?),
            len_bytes: u32::try_from(input.varint()?)
                .map_err(|_| AttrsError::Malformed("the side file is too long"))?,
        };
        input.end()?;
        Ok(stub)
    }
}

impl Record {
    /// The record as bytes. Longer than [`super::MAX_RECORD_LEN_BYTES`] only where its attributes are:
    /// see [`super::check_record_len`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        if let Some(state) = &self.state {
            let mut value = Vec::new();
            push_varint(&mut value, state.len_bytes);
            push_varint(&mut value, state.ino);
            value.extend(state.mtime_ns.to_le_bytes());
            push_field(&mut out, tag::STATE, &value);
        }
        if let Some(md5) = &self.md5 {
            push_field(&mut out, tag::MD5, md5);
        }
        if let Some(crc) = self.crc64nvme {
            push_field(&mut out, tag::CRC64NVME, &crc.to_le_bytes());
        }
        if let Some(multipart) = &self.multipart {
            let mut value = multipart.md5_of_md5s.to_vec();
            push_varint(&mut value, u64::from(multipart.part_count));
            push_field(&mut out, tag::MULTIPART, &value);
        }
        if let Some(etag) = self.etag_before {
            push_field(&mut out, tag::ETAG_BEFORE, &etag.to_le_bytes());
        }
        if let Some(checksum) = &self.checksum {
            let kind = match checksum.kind {
                ChecksumKind::FullObject => 0,
                ChecksumKind::Composite => 0x80,
            };
            let mut value = vec![algorithm_number(checksum.algorithm) | kind];
            value.extend_from_slice(&checksum.value);
            push_field(&mut out, tag::CHECKSUM, &value);
        }
        self.encode_attrs(&mut out);
        if let Some(id) = &self.upload_id {
            push_field(&mut out, tag::UPLOAD_ID, id.as_str().as_bytes());
        }
        if let Some(parts) = &self.parts {
            push_parts(&mut out, parts);
        }
        let flags = u8::from(self.directory.made_by_keys) | u8::from(self.directory.is_marker) << 1;
        if flags != 0 {
            push_field(&mut out, tag::DIRECTORY, &[flags]);
        }
        if let Some(mtime_ns) = self.mtime_before_ns {
            push_field(&mut out, tag::MTIME_BEFORE, &mtime_ns.to_le_bytes());
        }
        push_stamp(&mut out, tag::STAMP, self.stamp);
        push_stamp(&mut out, tag::MADE, self.made);
        if let Some(ident) = self.ident {
            push_field(&mut out, tag::IDENT, &ident.to_le_bytes());
        }
        for (tag, value) in &self.unknown {
            push_field(&mut out, *tag, value);
        }
        seal(out)
    }

    fn encode_attrs(&self, out: &mut Vec<u8>) {
        let attrs = &self.attrs;
        push_map(out, tag::SYSTEM, &attrs.system, HEADER_NAMES, HEADER_VALUES);
        push_map(out, tag::USER, &attrs.user, USER_NAMES, NOTHING);
        push_map(out, tag::TAGS, &attrs.tags, NOTHING, NOTHING);
        if let Some(owner) = &attrs.owner {
            push_field(out, tag::OWNER, &pack_owner(owner));
        }
        if let Some(acl) = &attrs.acl {
            push_field(out, tag::ACL, acl.as_bytes());
        }
    }

    /// Reads a record. Errors: every [`AttrsError`] but AnotherSideFile.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = open(bytes, FORMAT)?;
        let mut record = Self::default();
        let mut tag_before = 0;
        while !input.is_empty() {
            let tag = input.varint()?;
            if tag <= tag_before {
                return Err(AttrsError::Malformed("fields are out of order"));
            }
            tag_before = tag;
            let len = input.varint()?;
            let value = input.take(len)?;
            if tag > tag::HIGHEST {
                record.unknown.push((tag, value.to_vec()));
            } else {
                record.take_field(tag, Input(value))?;
            }
        }
        Ok(record)
    }

    fn take_field(&mut self, tag: u64, mut value: Input<'_>) -> Result<()> {
        match tag {
            tag::STATE => {
                self.state = Some(DigestState {
                    len_bytes: value.varint()?,
                    ino: value.varint()?,
                    mtime_ns: i64::from_le_bytes(value.array()?),
                });
            }
            tag::MD5 => self.md5 = Some(value.array()?),
            tag::CRC64NVME => self.crc64nvme = Some(u64::from_le_bytes(value.array()?)),
            tag::MULTIPART => {
                self.multipart = Some(MultipartTag {
                    md5_of_md5s: value.array()?,
                    part_count: value.part_count()?,
                });
            }
            tag::MTIME_BEFORE => self.mtime_before_ns = Some(i64::from_le_bytes(value.array()?)),
            tag::ETAG_BEFORE => self.etag_before = Some(u64::from_le_bytes(value.array()?)),
            tag::CHECKSUM => self.checksum = Some(take_checksum(&mut value)?),
            tag::SYSTEM => self.attrs.system = value.map(HEADER_NAMES, HEADER_VALUES)?,
            tag::USER => self.attrs.user = value.map(USER_NAMES, NOTHING)?,
            tag::TAGS => self.attrs.tags = value.map(NOTHING, NOTHING)?,
            tag::OWNER => self.attrs.owner = Some(unpack_owner(value.rest())?),
            tag::ACL => self.attrs.acl = Some(text(value.rest())?),
            tag::UPLOAD_ID => {
                let id = UploadId::parse(&text(value.rest())?);
                self.upload_id =
                    Some(id.map_err(|_| AttrsError::Malformed("the upload id is none"))?);
            }
            tag::UNIFORM_PARTS | tag::LISTED_PARTS => {
                if self.parts.is_some() {
                    return Err(AttrsError::Malformed("the parts are given twice"));
                }
                self.parts = Some(take_layout(tag, &mut value)?);
            }
            tag::PART_CHECKSUMS => {
                let parts = self.parts.as_mut();
                let parts = parts.ok_or(AttrsError::Malformed("checksums of no parts"))?;
                parts.checksums = Some(take_part_checksums(parts.count(), &mut value)?);
            }
            tag::DIRECTORY => {
                let [flags] = value.array()?;
                self.directory = DirectoryFlags {
                    made_by_keys: flags & 1 != 0,
                    is_marker: flags & 2 != 0,
                };
            }
            tag::STAMP => self.stamp = Some(take_stamp(&mut value)?),
            tag::MADE => self.made = Some(take_stamp(&mut value)?),
            tag::IDENT => self.ident = Some(u64::from_le_bytes(value.array()?)),
            _ => return Err(AttrsError::Malformed("tag 0 is none")),
        }
        value.end()
    }
}

fn push_stamp(out: &mut Vec<u8>, tag: u64, stamp: Option<Stamp>) {
    if let Some(stamp) = stamp {
        let mut value = Vec::new();
        push_varint(&mut value, stamp.epoch);
        push_varint(&mut value, stamp.seq);
        push_field(out, tag, &value);
    }
}

fn take_stamp(value: &mut Input<'_>) -> Result<Stamp> {
    Ok(Stamp {
        epoch: value.varint()?,
        seq: value.varint()?,
    })
}

fn push_parts(out: &mut Vec<u8>, parts: &Parts) {
    let mut value = Vec::new();
    match &parts.layout {
        Layout::Uniform {
            part_len_bytes,
            count,
            last_len_bytes,
        } => {
            push_varint(&mut value, *part_len_bytes);
            push_varint(&mut value, u64::from(*count));
            push_varint(&mut value, *last_len_bytes);
            push_field(out, tag::UNIFORM_PARTS, &value);
        }
        Layout::Listed(listed) => {
            for (number, len_bytes) in listed {
                push_varint(&mut value, u64::from(number.get()));
                push_varint(&mut value, *len_bytes);
            }
            push_field(out, tag::LISTED_PARTS, &value);
        }
    }
    if let Some(checksums) = &parts.checksums {
        let mut value = vec![algorithm_number(checksums.algorithm)];
        value.extend_from_slice(&checksums.values);
        push_field(out, tag::PART_CHECKSUMS, &value);
    }
}

fn take_layout(tag: u64, value: &mut Input<'_>) -> Result<Parts> {
    let layout = if tag == tag::UNIFORM_PARTS {
        Layout::Uniform {
            part_len_bytes: value.varint()?,
            count: value.part_count()?,
            last_len_bytes: value.varint()?,
        }
    } else {
        let mut listed: Vec<(PartNumber, u64)> = Vec::new();
        while !value.is_empty() {
            let number = u32::try_from(value.varint()?).ok();
            let number = number.and_then(|number| PartNumber::new(number).ok());
            let number = number.ok_or(AttrsError::Malformed("a part number is none"))?;
            if listed.last().is_some_and(|(before, _)| *before >= number) {
                return Err(AttrsError::Malformed("the parts are out of order"));
            }
            listed.push((number, value.varint()?));
        }
        Layout::Listed(listed)
    };
    let parts = Parts {
        layout,
        checksums: None,
    };
    if parts.total_len_bytes().is_none() {
        return Err(AttrsError::Malformed("the parts are too long"));
    }
    Ok(parts)
}

fn take_part_checksums(count: usize, value: &mut Input<'_>) -> Result<PartChecksums> {
    let [number] = value.array()?;
    let algorithm = algorithm_of(number)?;
    let values = value.rest();
    if values.len() != count * algorithm.len_bytes() {
        return Err(AttrsError::Malformed("not one checksum for each part"));
    }
    Ok(PartChecksums {
        algorithm,
        values: values.to_vec(),
    })
}

fn take_checksum(value: &mut Input<'_>) -> Result<Checksum> {
    let [byte] = value.array()?;
    let algorithm = algorithm_of(byte & 0x7f)?;
    let kind = match byte & 0x80 {
        0 => ChecksumKind::FullObject,
        _ => ChecksumKind::Composite,
    };
    let value = value.rest();
    if value.len() != algorithm.len_bytes() {
        return Err(AttrsError::Malformed("a checksum has another length"));
    }
    Ok(Checksum {
        algorithm,
        kind,
        value: value.to_vec(),
    })
}

/// The numbers are on disk.
fn algorithm_number(algorithm: DigestAlgorithm) -> u8 {
    match algorithm {
        DigestAlgorithm::Md5 => 0,
        DigestAlgorithm::Crc32 => 1,
        DigestAlgorithm::Crc32c => 2,
        DigestAlgorithm::Crc64Nvme => 3,
        DigestAlgorithm::Sha1 => 4,
        DigestAlgorithm::Sha256 => 5,
    }
}

fn algorithm_of(number: u8) -> Result<DigestAlgorithm> {
    DigestAlgorithm::ALL
        .into_iter()
        .find(|algorithm| algorithm_number(*algorithm) == number)
        .ok_or(AttrsError::Malformed("an algorithm is not known"))
}

const OWNER_AS_TEXT: u8 = 0;
const OWNER_AS_HEX: u8 = 1;

/// Ids that are lower-case hexadecimal digits, as S3's canonical ids are, take half the room.
fn pack_owner(owner: &str) -> Vec<u8> {
    let mut packed = vec![OWNER_AS_HEX];
    for pair in owner.as_bytes().chunks(2) {
        let value = std::str::from_utf8(pair).ok();
        packed.push(
            value
                .and_then(|v| u8::from_str_radix(v, 16).ok())
                .unwrap_or(0),
        );
    }
    if hex(&packed[1..]) != owner {
        packed = vec![OWNER_AS_TEXT];
        packed.extend_from_slice(owner.as_bytes());
    }
    packed
}

fn unpack_owner(value: &[u8]) -> Result<String> {
    match value.split_first() {
        Some((&OWNER_AS_TEXT, bytes)) => text(bytes),
        Some((&OWNER_AS_HEX, bytes)) => Ok(hex(bytes)),
        _ => Err(AttrsError::Malformed("the owner is none")),
    }
}
