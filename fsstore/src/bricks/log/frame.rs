//! Frames of a brick's log: what they say, as bytes.

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use placement::group::GroupId;
use placement::replica::Record;
use serde::{Deserialize, Serialize};

use super::super::kinds::{Change, Kept, Name};
use crate::error::{Result, StoreError};

/// Longest payload: a record with the longest attributes, in hexadecimal.
const MAX_PAYLOAD_LEN_BYTES: usize = 8 << 20;

/// Before bytes that stand beside an entry.
const BESIDE: u8 = 0;

/// What a frame says. `g` is the group, `e` and `s` are a position.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Entry {
    /// The first of a log: whether the tree was whole when it was begun.
    Begun { is_whole: bool },
    /// The same, where it was whole of some groups.
    BegunOf { whole: Vec<u32> },
    /// A record.
    #[serde(rename = "r")]
    Record {
        g: u32,
        e: u64,
        s: u64,
        op: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        names: Vec<(Name, bool)>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        change: Option<Box<Change>>,
    },
    /// Records above this one are none.
    Cut { g: u32, s: u64 },
    /// The group's log begins anew above this, and the tree is whole or not.
    Base {
        g: u32,
        e: u64,
        s: u64,
        is_whole: bool,
    },
    /// The tree has these records, durably: groups and numbers.
    Kept { upto: Vec<(u32, u64)> },
    /// The tree is whole, with all up to here.
    Whole { g: u32, s: u64 },
    /// All before was durable when this was written, and the files staged for it.
    #[serde(rename = "y")]
    Synced,
}

impl Entry {
    fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Record { change, .. } => change.as_ref()?.bytes(),
            _ => None,
        }
    }
}

pub(super) fn push_frame(out: &mut Vec<u8>, entry: &Entry) -> Result<()> {
    let mut payload = serde_json::to_vec(entry).map_err(|e| StoreError::Corrupt(e.to_string()))?;
    if let Some(bytes) = entry.bytes() {
        payload.push(BESIDE);
        payload.extend_from_slice(bytes);
    }
    if payload.len() > MAX_PAYLOAD_LEN_BYTES {
        return Err(StoreError::MetadataTooLarge {
            len_bytes: payload.len(),
            max_bytes: MAX_PAYLOAD_LEN_BYTES,
        });
    }
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(check_sum(&payload).to_le_bytes());
    out.extend(payload);
    Ok(())
}

fn check_sum(payload: &[u8]) -> u32 {
    // A CRC-32 has 32 bits.
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, payload) as u32
}

/// The next whole frame and what follows it.
pub(super) fn next_frame(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    if len > MAX_PAYLOAD_LEN_BYTES || rest.len() < len {
        return None;
    }
    let (payload, rest) = rest.split_at(len);
    if check_sum(payload) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (entry, beside) = match payload.iter().position(|byte| *byte == BESIDE) {
        Some(end) => (&payload[..end], Some(&payload[end + 1..])),
        None => (payload, None),
    };
    let mut entry: Entry = serde_json::from_slice(entry).ok()?;
    if let (Some(beside), Entry::Record { change, .. }) = (beside, &mut entry)
        && let Some(change) = change
    {
        change.set_bytes(Bytes::copy_from_slice(beside));
    }
    Some((entry, rest))
}

pub(super) fn entry_of(group: GroupId, record: &Record<Kept>) -> Entry {
    let effects = record.effects.iter();
    Entry::Record {
        g: group.0,
        e: record.at.epoch,
        s: record.at.seq,
        op: record.op.0,
        names: effects
            .map(|effect| (effect.name.clone(), effect.is_derived))
            .collect(),
        change: record
            .body
            .clone()
            .flatten()
            .map(|change| Box::new((*change).clone())),
    }
}
