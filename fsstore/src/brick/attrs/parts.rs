//! The parts of a composed object, as the record keeps them.

use crate::name::{MAX_PART_NUMBER, PartNumber};
use crate::object::{Checksum, ChecksumKind, DigestAlgorithm, ObjectPart};

/// The parts an object was composed of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Where they lie.
    pub layout: Layout,
    /// Their checksums, where all have one of the same algorithm.
    pub checksums: Option<PartChecksums>,
}

/// Where parts lie in an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Numbered 1 to `count`, all but the last of one length.
    Uniform {
        /// Length of every part but the last, in bytes.
        part_len_bytes: u64,
        /// Number of parts, 1 to 10,000.
        count: u16,
        /// Length of the last part, in bytes.
        last_len_bytes: u64,
    },
    /// Number and length in bytes of each, by number.
    Listed(Vec<(PartNumber, u64)>),
}

/// Checksums of all parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartChecksums {
    /// Which checksum.
    pub algorithm: DigestAlgorithm,
    /// The values, big endian, one after the other.
    pub values: Vec<u8>,
}

impl Parts {
    /// Keeps these parts, which are in ascending order of number; none where there are none.
    pub fn of(parts: &[ObjectPart]) -> Option<Self> {
        let last = parts.last()?;
        let part_len_bytes = parts[0].len_bytes;
        let is_uniform = parts.iter().zip(1..).all(|(part, number)| {
            part.number.get() == number
                && (part.number == last.number || part.len_bytes == part_len_bytes)
        });
        let layout = if is_uniform {
            Layout::Uniform {
                part_len_bytes,
                count: last.number.get(),
                last_len_bytes: last.len_bytes,
            }
        } else {
            Layout::Listed(parts.iter().map(|p| (p.number, p.len_bytes)).collect())
        };
        Some(Self {
            layout,
            checksums: PartChecksums::of(parts),
        })
    }

    /// Number of parts.
    pub fn count(&self) -> usize {
        match &self.layout {
            Layout::Uniform { count, .. } => usize::from(*count),
            Layout::Listed(parts) => parts.len(),
        }
    }

    /// Length of the whole object in bytes; none where it is beyond what a `u64` holds.
    pub fn total_len_bytes(&self) -> Option<u64> {
        match &self.layout {
            Layout::Uniform {
                part_len_bytes,
                count,
                last_len_bytes,
            } => part_len_bytes
                .checked_mul(u64::from(count.checked_sub(1)?))?
                .checked_add(*last_len_bytes),
            Layout::Listed(parts) => parts
                .iter()
                .try_fold(0u64, |sum, (_, len_bytes)| sum.checked_add(*len_bytes)),
        }
    }

    /// The parts with their places in the object.
    pub fn to_object_parts(&self) -> Vec<ObjectPart> {
        let mut checksums = self.checksums.iter().flat_map(PartChecksums::each);
        let mut offset_bytes = 0;
        let mut placed = Vec::with_capacity(self.count());
        let mut place = |number, len_bytes| {
            placed.push(ObjectPart {
                number,
                offset_bytes,
                len_bytes,
                checksum: checksums.next(),
            });
            offset_bytes += len_bytes;
        };
        match &self.layout {
            Layout::Uniform {
                part_len_bytes,
                count,
                last_len_bytes,
            } => {
                for number in 1..=(*count).min(MAX_PART_NUMBER) {
                    let is_last = number == *count;
                    let len_bytes = if is_last {
                        last_len_bytes
                    } else {
                        part_len_bytes
                    };
                    let number = PartNumber::new(u32::from(number)).expect("1 to 10,000");
                    place(number, *len_bytes);
                }
            }
            Layout::Listed(parts) => parts.iter().for_each(|(number, len)| place(*number, *len)),
        }
        placed
    }
}

impl PartChecksums {
    fn of(parts: &[ObjectPart]) -> Option<Self> {
        let algorithm = parts.first()?.checksum.as_ref()?.algorithm;
        let mut values = Vec::with_capacity(parts.len() * algorithm.len_bytes());
        for part in parts {
            let checksum = part.checksum.as_ref()?;
            if checksum.algorithm != algorithm || checksum.value.len() != algorithm.len_bytes() {
                return None;
            }
            values.extend_from_slice(&checksum.value);
        }
        Some(Self { algorithm, values })
    }

    fn each(&self) -> impl Iterator<Item = Checksum> {
        let values = self.values.chunks_exact(self.algorithm.len_bytes());
        values.map(|value| Checksum {
            algorithm: self.algorithm,
            kind: ChecksumKind::FullObject,
            value: value.to_vec(),
        })
    }
}
