//! Digests of bytes at hand, and what follows from digests alone: the CRC of two strings put
//! together, the checksum over parts' checksums. Pure.

use crc_fast::CrcAlgorithm;
use sha2::Digest;

use crate::object::DigestAlgorithm;

/// The digest of `bytes`, big endian.
pub fn digest_of(algorithm: DigestAlgorithm, bytes: &[u8]) -> Vec<u8> {
    match algorithm {
        DigestAlgorithm::Md5 => md5::Md5::digest(bytes).to_vec(),
        DigestAlgorithm::Sha1 => sha1::Sha1::digest(bytes).to_vec(),
        DigestAlgorithm::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
        DigestAlgorithm::Crc32 => crc_bytes(algorithm, CrcAlgorithm::Crc32IsoHdlc, bytes),
        DigestAlgorithm::Crc32c => crc_bytes(algorithm, CrcAlgorithm::Crc32Iscsi, bytes),
        DigestAlgorithm::Crc64Nvme => crc_bytes(algorithm, CrcAlgorithm::Crc64Nvme, bytes),
    }
}

/// The CRC that crc-fast computes for this algorithm; none where it is not a CRC.
pub const fn crc_algorithm(algorithm: DigestAlgorithm) -> Option<CrcAlgorithm> {
    match algorithm {
        DigestAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        DigestAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        DigestAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        DigestAlgorithm::Md5 | DigestAlgorithm::Sha1 | DigestAlgorithm::Sha256 => None,
    }
}

/// The CRC of two strings put together, from the CRC of each and the length of the second. None
/// where the algorithm is not a CRC or a value does not have its length.
pub fn combine(
    algorithm: DigestAlgorithm,
    first: &[u8],
    second: &[u8],
    second_len_bytes: u64,
) -> Option<Vec<u8>> {
    let crc = crc_algorithm(algorithm)?;
    let (first, second) = (crc_value(algorithm, first)?, crc_value(algorithm, second)?);
    let value = crc_fast::checksum_combine(crc, first, second, second_len_bytes);
    Some(crc_to_bytes(algorithm, value))
}

/// The checksum over parts' checksums, in the parts' order. Source: S3 User Guide, "Checking
/// object integrity", composite checksums.
pub fn composite<'v>(
    algorithm: DigestAlgorithm,
    values: impl IntoIterator<Item = &'v [u8]>,
) -> Vec<u8> {
    let joined: Vec<u8> = values.into_iter().flatten().copied().collect();
    digest_of(algorithm, &joined)
}

fn crc_bytes(algorithm: DigestAlgorithm, crc: CrcAlgorithm, bytes: &[u8]) -> Vec<u8> {
    crc_to_bytes(algorithm, crc_fast::checksum(crc, bytes))
}

fn crc_to_bytes(algorithm: DigestAlgorithm, value: u64) -> Vec<u8> {
    value.to_be_bytes()[8 - algorithm.len_bytes()..].to_vec()
}

fn crc_value(algorithm: DigestAlgorithm, bytes: &[u8]) -> Option<u64> {
    if bytes.len() != algorithm.len_bytes() {
        return None;
    }
    Some(
        bytes
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;
    use crate::name::hex;

    #[test]
    fn digests_have_their_published_check_values() {
        // Sources: the catalogue of parametrised CRC algorithms; RFC 1321; FIPS 180-4 examples.
        let check = b"123456789";
        for (algorithm, value) in [
            (DigestAlgorithm::Crc32, "cbf43926"),
            (DigestAlgorithm::Crc32c, "e3069283"),
            (DigestAlgorithm::Crc64Nvme, "ae8b14860a799888"),
            (DigestAlgorithm::Md5, "25f9e794323b453885f5181f1b624d0b"),
            (
                DigestAlgorithm::Sha1,
                "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
            ),
        ] {
            assert_eq!(hex(&digest_of(algorithm, check)), value, "{algorithm:?}");
        }
        assert_eq!(
            hex(&digest_of(DigestAlgorithm::Sha256, b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_digest_has_its_length() {
        for algorithm in DigestAlgorithm::ALL {
            assert_eq!(digest_of(algorithm, b"").len(), algorithm.len_bytes());
        }
    }

    #[test]
    fn only_crcs_can_be_combined() {
        for algorithm in [
            DigestAlgorithm::Md5,
            DigestAlgorithm::Sha1,
            DigestAlgorithm::Sha256,
        ] {
            let value = digest_of(algorithm, b"x");
            assert_eq!(combine(algorithm, &value, &value, 1), None);
        }
        assert_eq!(combine(DigestAlgorithm::Crc32, &[0; 4], &[0; 3], 1), None);
    }

    proptest! {
        #[test]
        fn combining_crcs_is_the_crc_of_the_whole(
            a in vec(any::<u8>(), 0..300), b in vec(any::<u8>(), 0..300)
        ) {
            let whole = [a.clone(), b.clone()].concat();
            for algorithm in [DigestAlgorithm::Crc32, DigestAlgorithm::Crc32c, DigestAlgorithm::Crc64Nvme] {
                let made = combine(
                    algorithm, &digest_of(algorithm, &a), &digest_of(algorithm, &b), b.len() as u64,
                );
                prop_assert_eq!(made, Some(digest_of(algorithm, &whole)));
            }
        }
    }
}
