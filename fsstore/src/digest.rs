//! Digests of passing bytes, each computed once.

use crc_fast::CrcAlgorithm;
use md5::Digest as _;

use crate::error::{Result, StoreError};
use crate::object::{
    Checksum, ChecksumKind, DigestAlgorithm, DigestSet, ExpectedDigest, KnownDigests,
};

/// Computes MD5, CRC-64/NVME and whatever CRCs were asked for.
pub struct Digester {
    md5: md5::Md5,
    crc64nvme: crc_fast::Digest,
    crc32: Option<crc_fast::Digest>,
    crc32c: Option<crc_fast::Digest>,
    len_bytes: u64,
}

/// Computes the SHA digests asked for; apart from [`Digester`] so that both may run at once.
#[derive(Default)]
pub struct ShaDigester {
    sha1: Option<sha1::Sha1>,
    sha256: Option<sha2::Sha256>,
}

/// The digests of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// How many bytes they are of.
    pub len_bytes: u64,
    /// MD5.
    pub md5: [u8; 16],
    /// CRC-64/NVME.
    pub crc64nvme: u64,
    others: Vec<(DigestAlgorithm, Vec<u8>)>,
}

impl Digester {
    /// Begins; SHA digests in `wanted` are left to [`ShaDigester`].
    pub fn new(wanted: DigestSet) -> Self {
        let crc = |algorithm, kind| wanted.has(algorithm).then(|| crc_fast::Digest::new(kind));
        Self {
            md5: md5::Md5::new(),
            crc64nvme: crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme),
            crc32: crc(DigestAlgorithm::Crc32, CrcAlgorithm::Crc32IsoHdlc),
            crc32c: crc(DigestAlgorithm::Crc32c, CrcAlgorithm::Crc32Iscsi),
            len_bytes: 0,
        }
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.crc64nvme.update(bytes);
        for crc in [&mut self.crc32, &mut self.crc32c].into_iter().flatten() {
            crc.update(bytes);
        }
        self.len_bytes += bytes.len() as u64;
    }

    /// Ends, together with the SHA digests of the same bytes.
    pub fn finish(self, sha: ShaDigester) -> Digests {
        let crc32_bytes = |crc: crc_fast::Digest| (crc.finalize() as u32).to_be_bytes().to_vec();
        let mut others = Vec::new();
        if let Some(crc) = self.crc32 {
            others.push((DigestAlgorithm::Crc32, crc32_bytes(crc)));
        }
        if let Some(crc) = self.crc32c {
            others.push((DigestAlgorithm::Crc32c, crc32_bytes(crc)));
        }
        if let Some(sha1) = sha.sha1 {
            others.push((DigestAlgorithm::Sha1, sha1.finalize().to_vec()));
        }
        if let Some(sha256) = sha.sha256 {
            others.push((DigestAlgorithm::Sha256, sha256.finalize().to_vec()));
        }
        Digests {
            len_bytes: self.len_bytes,
            md5: self.md5.finalize().into(),
            crc64nvme: self.crc64nvme.finalize(),
            others,
        }
    }
}

impl ShaDigester {
    /// Begins; none where no SHA digest is wanted.
    pub fn new(wanted: DigestSet) -> Option<Self> {
        let digester = Self {
            sha1: wanted.has(DigestAlgorithm::Sha1).then(sha1::Sha1::new),
            sha256: wanted.has(DigestAlgorithm::Sha256).then(sha2::Sha256::new),
        };
        (digester.sha1.is_some() || digester.sha256.is_some()).then_some(digester)
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(sha1) = &mut self.sha1 {
            sha1.update(bytes);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }
}

impl Digests {
    /// Those known of an object's bytes, without any other.
    pub fn of_known(len_bytes: u64, md5: [u8; 16], crc64nvme: u64) -> Self {
        Self {
            len_bytes,
            md5,
            crc64nvme,
            others: Vec::new(),
        }
    }

    /// The value of one, big endian; none where it was not computed.
    pub fn value(&self, algorithm: DigestAlgorithm) -> Option<Vec<u8>> {
        match algorithm {
            DigestAlgorithm::Md5 => Some(self.md5.to_vec()),
            DigestAlgorithm::Crc64Nvme => Some(self.crc64nvme.to_be_bytes().to_vec()),
            other => self
                .others
                .iter()
                .find(|(a, _)| *a == other)
                .map(|(_, v)| v.clone()),
        }
    }

    /// Compares with what a client named. Errors: DigestMismatch.
    pub fn check(&self, expected: &[ExpectedDigest]) -> Result<()> {
        for named in expected {
            let actual = self.value(named.algorithm).unwrap_or_default();
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

    /// One of them as a checksum of the whole object.
    pub fn checksum(&self, algorithm: DigestAlgorithm) -> Option<Checksum> {
        let value = self.value(algorithm)?;
        Some(Checksum {
            algorithm,
            kind: ChecksumKind::FullObject,
            value,
        })
    }

    /// What is kept of them with every object.
    pub fn known(&self) -> KnownDigests {
        KnownDigests {
            md5: Some(self.md5),
            crc64nvme: Some(self.crc64nvme),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::hex;

    fn all() -> DigestSet {
        DigestAlgorithm::ALL
            .into_iter()
            .fold(DigestSet::default(), DigestSet::with)
    }

    fn digests(bytes: &[u8]) -> Digests {
        let (mut plain, mut sha) = (Digester::new(all()), ShaDigester::new(all()).unwrap());
        plain.update(bytes);
        sha.update(bytes);
        plain.finish(sha)
    }

    #[test]
    fn check_values_of_every_algorithm() {
        // Source: the check value ("123456789") of each algorithm's catalogue entry.
        let expected = [
            (DigestAlgorithm::Md5, "25f9e794323b453885f5181f1b624d0b"),
            (DigestAlgorithm::Crc32, "cbf43926"),
            (DigestAlgorithm::Crc32c, "e3069283"),
            (DigestAlgorithm::Crc64Nvme, "ae8b14860a799888"),
            (
                DigestAlgorithm::Sha1,
                "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
            ),
            (
                DigestAlgorithm::Sha256,
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ),
        ];
        let digests = digests(b"123456789");
        for (algorithm, value) in expected {
            assert_eq!(
                hex(&digests.value(algorithm).unwrap()),
                value,
                "{algorithm:?}"
            );
        }
    }

    #[test]
    fn a_named_digest_that_differs_is_an_error() {
        let digests = digests(b"x");
        let named = |value: Vec<u8>| {
            [ExpectedDigest {
                algorithm: DigestAlgorithm::Sha1,
                value,
            }]
        };
        let right = digests.value(DigestAlgorithm::Sha1).unwrap();
        assert!(digests.check(&named(right)).is_ok());
        assert!(digests.check(&named(vec![0; 20])).is_err());
    }
}
