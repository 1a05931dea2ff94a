//! Digests of a small body held in memory. Streams are digested by the store.

use crc_fast::CrcAlgorithm;
use fsstore::object::DigestAlgorithm;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The digest of some bytes, big endian.
pub(super) fn digest(algorithm: DigestAlgorithm, bytes: &[u8]) -> Vec<u8> {
    let crc32 = |crc: CrcAlgorithm| {
        let value = crc_fast::checksum(crc, bytes);
        value.to_be_bytes()[4..].to_vec()
    };
    match algorithm {
        DigestAlgorithm::Md5 => Md5::digest(bytes).to_vec(),
        DigestAlgorithm::Crc32 => crc32(CrcAlgorithm::Crc32IsoHdlc),
        DigestAlgorithm::Crc32c => crc32(CrcAlgorithm::Crc32Iscsi),
        DigestAlgorithm::Crc64Nvme => crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
            .to_be_bytes()
            .to_vec(),
        DigestAlgorithm::Sha1 => Sha1::digest(bytes).to_vec(),
        DigestAlgorithm::Sha256 => Sha256::digest(bytes).to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use fsstore::name::hex;

    use super::*;

    #[test]
    fn check_values_are_met() {
        // The check values of the catalogue of CRC algorithms, and RFC 1321's and FIPS 180's forms.
        for (algorithm, expected) in [
            (DigestAlgorithm::Crc32, "cbf43926"),
            (DigestAlgorithm::Crc32c, "e3069283"),
            (DigestAlgorithm::Crc64Nvme, "ae8b14860a799888"),
            (DigestAlgorithm::Md5, "25f9e794323b453885f5181f1b624d0b"),
            (
                DigestAlgorithm::Sha1,
                "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
            ),
            (
                DigestAlgorithm::Sha256,
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ),
        ] {
            let value = digest(algorithm, b"123456789");
            assert_eq!(hex(&value), expected, "{algorithm:?}");
            assert_eq!(value.len(), algorithm.len_bytes());
        }
    }
}
