//! Staged bytes and attributes of [`super::MemVolume`], judged as a commit judges them.

use crate::checksum::digest_of;
use crate::error::{Result, StoreError};
use crate::object::{Attributes, Checksum, ChecksumKind, DigestAlgorithm, ExpectedDigest};
use crate::volume::{MAX_PUT_LEN_BYTES, StageOptions};

/// Most bytes of attributes one object has here.
const MAX_ATTRS_LEN_BYTES: usize = 1 << 20;
/// Bytes that were staged, and what was announced of them.
#[derive(Debug)]
pub(super) struct Body {
    options: StageOptions,
    pub(super) bytes: Vec<u8>,
}

impl Body {
    pub(super) fn begin(options: StageOptions) -> Result<Self> {
        match options.len_bytes {
            Some(len) if len > MAX_PUT_LEN_BYTES => Err(StoreError::TooLarge {
                max_bytes: MAX_PUT_LEN_BYTES,
            }),
            _ => Ok(Self {
                options,
                bytes: Vec::new(),
            }),
        }
    }

    pub(super) fn append(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
    }

    /// Compares with what was announced. Errors: LengthMismatch, DigestMismatch.
    pub(super) fn check(&self, expected: &[ExpectedDigest]) -> Result<()> {
        let actual_bytes = self.bytes.len() as u64;
        if let Some(expected_bytes) = self.options.len_bytes
            && expected_bytes != actual_bytes
        {
            return Err(StoreError::LengthMismatch {
                expected_bytes,
                actual_bytes,
            });
        }
        for named in expected {
            self.assert_computed(named.algorithm);
            let actual = digest_of(named.algorithm, &self.bytes);
            if actual != named.value {
                return Err(StoreError::DigestMismatch {
                    algorithm: named.algorithm,
                    expected: named.value.clone(),
                    actual,
                });
            }
        }
        Ok(())
    }

    /// The checksum to keep of these bytes.
    pub(super) fn checksum(&self, algorithm: DigestAlgorithm) -> Checksum {
        Checksum {
            algorithm,
            kind: ChecksumKind::FullObject,
            value: digest_of(algorithm, &self.bytes),
        }
    }

    pub(super) fn md5(&self) -> [u8; 16] {
        digest_of(DigestAlgorithm::Md5, &self.bytes)
            .try_into()
            .expect("an MD5 has 16 bytes")
    }

    pub(super) fn crc64nvme(&self) -> u64 {
        let value = digest_of(DigestAlgorithm::Crc64Nvme, &self.bytes);
        u64::from_be_bytes(value.try_into().expect("a CRC-64 has 8 bytes"))
    }

    /// A volume that computes digests while bytes pass cannot give one that was not named.
    pub(super) fn assert_computed(&self, algorithm: DigestAlgorithm) {
        let always = matches!(algorithm, DigestAlgorithm::Md5 | DigestAlgorithm::Crc64Nvme);
        assert!(
            always || self.options.digests.has(algorithm),
            "{algorithm:?} is asked for at the commit and was not named in the stage"
        );
    }
}

pub(super) fn check_attrs(attrs: &Attributes) -> Result<()> {
    let maps = [&attrs.system, &attrs.user, &attrs.tags];
    let pairs = maps.iter().flat_map(|map| map.iter());
    let texts = attrs.owner.iter().chain(&attrs.acl);
    let len_bytes = pairs.map(|(k, v)| k.len() + v.len()).sum::<usize>()
        + texts.map(String::len).sum::<usize>();
    if len_bytes > MAX_ATTRS_LEN_BYTES {
        return Err(StoreError::MetadataTooLarge {
            len_bytes,
            max_bytes: MAX_ATTRS_LEN_BYTES,
        });
    }
    Ok(())
}
