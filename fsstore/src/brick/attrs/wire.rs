//! Varints, texts and check sums: what the record's fields are made of.

use std::collections::BTreeMap;

use crc_fast::CrcAlgorithm;

use super::MAX_RECORD_LEN_BYTES;
use super::codec::AttrsError;
use crate::name::MAX_PART_NUMBER;

const CRC_LEN_BYTES: usize = 4;

type Result<T> = std::result::Result<T, AttrsError>;

pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    let value = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(value).expect("a CRC-32 has 32 bits")
}

/// Adds the check sum.
pub(super) fn seal(mut out: Vec<u8>) -> Vec<u8> {
    let crc = crc32c(&out);
    out.extend(crc.to_le_bytes());
    out
}

/// Takes away format and check sum.
pub(super) fn open(bytes: &[u8], format: u8) -> Result<Input<'_>> {
    if bytes.len() > MAX_RECORD_LEN_BYTES {
        return Err(AttrsError::TooLong {
            len_bytes: bytes.len(),
        });
    }
    let (body, crc) = bytes
        .split_last_chunk::<CRC_LEN_BYTES>()
        .ok_or(AttrsError::Truncated)?;
    let (first, fields) = body.split_first().ok_or(AttrsError::Truncated)?;
    if *first != format {
        return Err(AttrsError::UnknownFormat(*first));
    }
    if crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(AttrsError::WrongCheckSum);
    }
    Ok(Input(fields))
}

pub(super) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn push_field(out: &mut Vec<u8>, tag: u64, value: &[u8]) {
    push_varint(out, tag);
    push_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Nothing where the map is empty.
pub(super) fn push_map(
    out: &mut Vec<u8>,
    tag: u64,
    map: &BTreeMap<String, String>,
    names: &[&str],
    values: &[&str],
) {
    if map.is_empty() {
        return;
    }
    let mut field = Vec::new();
    for (name, value) in map {
        push_text(&mut field, name, names);
        push_text(&mut field, value, values);
    }
    push_field(out, tag, &field);
}

fn push_text(out: &mut Vec<u8>, text: &str, dictionary: &[&str]) {
    if let Some(index) = dictionary.iter().position(|entry| *entry == text) {
        push_varint(out, index as u64 * 2);
    } else {
        push_varint(out, text.len() as u64 * 2 + 1);
        out.extend_from_slice(text.as_bytes());
    }
}

pub(super) fn text(bytes: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(bytes);
    Ok(text
        .map_err(|_| AttrsError::Malformed("a text is not UTF-8"))?
        .to_owned())
}

/// Bytes still to be read.
pub(super) struct Input<'b>(pub(super) &'b [u8]);

impl<'b> Input<'b> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn end(&self) -> Result<()> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(AttrsError::Malformed("a field is too long"))
        }
    }

    pub(super) fn rest(&mut self) -> &'b [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn take(&mut self, len: u64) -> Result<&'b [u8]> {
        let len = usize::try_from(len).map_err(|_| AttrsError::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(len).ok_or(AttrsError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(AttrsError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return Err(AttrsError::Malformed(
                    "a number is not in its shortest form",
                ));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(AttrsError::Malformed("a number is too long"))
    }

    /// A number of parts, 1 to 10,000.
    pub(super) fn part_count(&mut self) -> Result<u16> {
        match u16::try_from(self.varint()?) {
            Ok(count) if (1..=MAX_PART_NUMBER).contains(&count) => Ok(count),
            _ => Err(AttrsError::Malformed("an object has 1 to 10,000 parts")),
        }
    }

    pub(super) fn map(
        &mut self,
        names: &[&str],
        values: &[&str],
    ) -> Result<BTreeMap<String, String>> {
        let mut map = BTreeMap::new();
        while !self.is_empty() {
            let name = self.text(names)?;
            let value = self.text(values)?;
            if map.insert(name, value).is_some() {
                return Err(AttrsError::Malformed("a name is given twice"));
            }
        }
        Ok(map)
    }

    fn text(&mut self, dictionary: &[&str]) -> Result<String> {
        let head = self.varint()?;
        if head % 2 == 1 {
            return text(self.take(head / 2)?);
        }
        let index = usize::try_from(head / 2).ok();
        let entry = index.and_then(|index| dictionary.get(index));
        let entry = entry.ok_or(AttrsError::Malformed("a dictionary has no such entry"))?;
        Ok((*entry).to_owned())
    }
}
