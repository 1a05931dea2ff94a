//! What a completed upload becomes, decided from its parts' records alone: which parts, in which
//! order, with which tag and checksums. Pure; moves no bytes.

use std::collections::BTreeMap;

use crate::checksum;
use crate::error::{Result, StoreError};
use crate::name::{ETag, PartNumber};
use crate::object::{
    Checksum, ChecksumKind, DigestAlgorithm, ExpectedDigest, ObjectPart, PartClaim, PartInfo,
};
use crate::volume::{ComposeOptions, MIN_PART_LEN_BYTES};

/// The object that an upload becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composition {
    /// The parts chosen, in order, with their places in the object.
    pub parts: Vec<ObjectPart>,
    /// Length of the object in bytes.
    pub len_bytes: u64,
    /// MD5 over the parts' MD5s.
    pub md5_of_md5s: [u8; 16],
    /// CRC-64/NVME of the object's bytes.
    pub crc64nvme: u64,
    /// The checksum to keep: of the kind the upload was begun with.
    pub checksum: Option<Checksum>,
}

impl Composition {
    /// The object's tag.
    pub fn etag(&self) -> ETag {
        ETag::from_parts(&self.md5_of_md5s, self.part_count())
    }

    /// Number of parts, 1 to 10,000.
    pub fn part_count(&self) -> u16 {
        u16::try_from(self.parts.len()).expect("part numbers are distinct and at most 10,000")
    }
}

/// Decides what an upload becomes. `begun_with` is the checksum the upload was begun with,
/// `uploaded` its parts; `options.precondition` is the caller's to decide. Numbers may have
/// gaps. No claim at all is an InvalidPart. Errors: InvalidPartOrder, InvalidPart, PartTooSmall,
/// LengthMismatch, DigestMismatch, in this order.
pub fn compose(
    begun_with: Option<(DigestAlgorithm, ChecksumKind)>,
    uploaded: &BTreeMap<PartNumber, PartInfo>,
    claims: &[PartClaim],
    options: &ComposeOptions,
) -> Result<Composition> {
    let chosen = choose(uploaded, claims)?;
    let len_bytes = chosen.iter().map(|part| part.len_bytes).sum();
    if let Some(expected_bytes) = options.expected_len_bytes
        && expected_bytes != len_bytes
    {
        return Err(StoreError::LengthMismatch {
            expected_bytes,
            actual_bytes: len_bytes,
        });
    }
    let mut md5s = Vec::with_capacity(chosen.len() * 16);
    for part in &chosen {
        md5s.extend(md5_of(part)?);
    }
    let crc64nvme = full_object(DigestAlgorithm::Crc64Nvme, &chosen)
        .and_then(|value| value.try_into().ok())
        .map(u64::from_be_bytes)
        .expect("every part has a CRC-64/NVME");
    let kept = begun_with.and_then(|(algorithm, kind)| {
        let value = match kind {
            ChecksumKind::FullObject => full_object(algorithm, &chosen),
            ChecksumKind::Composite => composite(algorithm, &chosen),
        };
        value.map(|value| Checksum {
            algorithm,
            kind,
            value,
        })
    });
    if let Some(expected) = &options.expected {
        check_expected(expected, kept.as_ref(), &chosen)?;
    }
    Ok(Composition {
        parts: lay_out(&chosen),
        len_bytes,
        md5_of_md5s: checksum::digest_of(DigestAlgorithm::Md5, &md5s)
            .try_into()
            .expect("an MD5 has 16 bytes"),
        crc64nvme,
        checksum: kept,
    })
}

fn choose<'p>(
    uploaded: &'p BTreeMap<PartNumber, PartInfo>,
    claims: &[PartClaim],
) -> Result<Vec<&'p PartInfo>> {
    if claims.is_empty() {
        return Err(StoreError::InvalidPart { number: 1 });
    }
    if claims
        .windows(2)
        .any(|pair| pair[0].number >= pair[1].number)
    {
        return Err(StoreError::InvalidPartOrder);
    }
    let mut chosen = Vec::with_capacity(claims.len());
    for claim in claims {
        match uploaded.get(&claim.number) {
            Some(part) if is_claimed(part, claim) => chosen.push(part),
            _ => {
                return Err(StoreError::InvalidPart {
                    number: claim.number.get(),
                });
            }
        }
    }
    let before_last = &chosen[..chosen.len() - 1];
    if let Some(small) = before_last
        .iter()
        .find(|p| p.len_bytes < MIN_PART_LEN_BYTES)
    {
        return Err(StoreError::PartTooSmall {
            number: small.number.get(),
            len_bytes: small.len_bytes,
            min_bytes: MIN_PART_LEN_BYTES,
        });
    }
    Ok(chosen)
}

fn is_claimed(part: &PartInfo, claim: &PartClaim) -> bool {
    part.etag.as_str().eq_ignore_ascii_case(&claim.etag)
        && claim.checksum.as_ref().is_none_or(|expected| {
            digest_of_part(part, expected.algorithm).is_some_and(|value| value == expected.value)
        })
}

/// What is known of a part's bytes, whatever it was kept for.
fn digest_of_part(part: &PartInfo, algorithm: DigestAlgorithm) -> Option<Vec<u8>> {
    match (&part.checksum, algorithm) {
        (Some(checksum), _) if checksum.algorithm == algorithm => Some(checksum.value.clone()),
        (_, DigestAlgorithm::Crc64Nvme) => Some(part.crc64nvme.to_be_bytes().to_vec()),
        (_, DigestAlgorithm::Md5) => md5_of(part).ok().map(Vec::from),
        _ => None,
    }
}

/// The checksum of the object's bytes; none unless it is a CRC that every part has.
fn full_object(algorithm: DigestAlgorithm, parts: &[&PartInfo]) -> Option<Vec<u8>> {
    let (first, rest) = parts.split_first()?;
    let mut whole = digest_of_part(first, algorithm)?;
    checksum::crc_algorithm(algorithm)?;
    for part in rest {
        let value = digest_of_part(part, algorithm)?;
        whole = checksum::combine(algorithm, &whole, &value, part.len_bytes)?;
    }
    Some(whole)
}

/// The checksum over the parts' checksums; none unless every part has one.
fn composite(algorithm: DigestAlgorithm, parts: &[&PartInfo]) -> Option<Vec<u8>> {
    let values: Option<Vec<Vec<u8>>> = parts
        .iter()
        .map(|part| digest_of_part(part, algorithm))
        .collect();
    Some(checksum::composite(
        algorithm,
        values?.iter().map(Vec::as_slice),
    ))
}

fn check_expected(
    expected: &ExpectedDigest,
    kept: Option<&Checksum>,
    parts: &[&PartInfo],
) -> Result<()> {
    let algorithm = expected.algorithm;
    let actual = match kept {
        Some(kept) if kept.algorithm == algorithm => Some(kept.value.clone()),
        _ => full_object(algorithm, parts),
    };
    if actual.as_ref() == Some(&expected.value) {
        return Ok(());
    }
    Err(StoreError::DigestMismatch {
        algorithm,
        expected: expected.value.clone(),
        actual: actual.unwrap_or_default(),
    })
}

fn lay_out(parts: &[&PartInfo]) -> Vec<ObjectPart> {
    let mut offset_bytes = 0;
    parts
        .iter()
        .map(|part| {
            let placed = ObjectPart {
                number: part.number,
                offset_bytes,
                len_bytes: part.len_bytes,
                checksum: part.checksum.clone(),
            };
            offset_bytes += part.len_bytes;
            placed
        })
        .collect()
}

fn md5_of(part: &PartInfo) -> Result<[u8; 16]> {
    let digits = part.etag.as_str().as_bytes();
    let mut md5 = [0; 16];
    let corrupt =
        || StoreError::Corrupt(format!("the ETag of part {} is no MD5", part.number.get()));
    if digits.len() != 32 {
        return Err(corrupt());
    }
    for (byte, pair) in md5.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |d: u8| (d as char).to_digit(16).ok_or_else(corrupt);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Ok(md5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::digest_of;
    use crate::object::Timestamp;

    fn part(number: u32, bytes: &[u8], algorithm: Option<DigestAlgorithm>) -> PartInfo {
        let md5: [u8; 16] = digest_of(DigestAlgorithm::Md5, bytes).try_into().unwrap();
        let crc: [u8; 8] = digest_of(DigestAlgorithm::Crc64Nvme, bytes)
            .try_into()
            .unwrap();
        PartInfo {
            number: PartNumber::new(number).unwrap(),
            len_bytes: bytes.len() as u64,
            etag: ETag::from_md5(&md5),
            modified: Timestamp(0),
            checksum: algorithm.map(|algorithm| Checksum {
                algorithm,
                kind: ChecksumKind::FullObject,
                value: digest_of(algorithm, bytes),
            }),
            crc64nvme: u64::from_be_bytes(crc),
        }
    }

    fn upload(parts: &[PartInfo]) -> (BTreeMap<PartNumber, PartInfo>, Vec<PartClaim>) {
        let claims = parts
            .iter()
            .map(|part| PartClaim {
                number: part.number,
                etag: part.etag.as_str().to_owned(),
                checksum: None,
            })
            .collect();
        (
            parts.iter().map(|p| (p.number, p.clone())).collect(),
            claims,
        )
    }

    #[test]
    fn a_composition_has_the_whole_objects_crc_and_layout() {
        let big = vec![7; MIN_PART_LEN_BYTES as usize];
        let (parts, claims) = upload(&[part(2, &big, None), part(9, b"tail", None)]);
        let made = compose(None, &parts, &claims, &ComposeOptions::default()).unwrap();
        let whole = [&big[..], b"tail"].concat();
        assert_eq!(
            made.crc64nvme.to_be_bytes().to_vec(),
            digest_of(DigestAlgorithm::Crc64Nvme, &whole)
        );
        assert_eq!(made.len_bytes, whole.len() as u64);
        assert_eq!(made.parts[1].offset_bytes, big.len() as u64);
        assert_eq!(made.parts[1].number.get(), 9);
        assert_eq!(made.checksum, None);
    }

    #[test]
    fn a_composite_checksum_is_over_the_parts_values() {
        let (parts, claims) = upload(&[part(1, b"x", Some(DigestAlgorithm::Sha256))]);
        let begun = Some((DigestAlgorithm::Sha256, ChecksumKind::Composite));
        let made = compose(begun, &parts, &claims, &ComposeOptions::default()).unwrap();
        let inner = digest_of(DigestAlgorithm::Sha256, b"x");
        assert_eq!(
            made.checksum.unwrap().value,
            digest_of(DigestAlgorithm::Sha256, &inner)
        );
    }

    #[test]
    fn order_is_judged_before_parts_and_parts_before_size() {
        let (parts, claims) = upload(&[part(1, b"x", None), part(2, b"y", None)]);
        let options = ComposeOptions::default();
        let mut wrong = claims.clone();
        wrong[0].etag = "0".repeat(32);
        assert!(matches!(
            compose(None, &parts, &wrong, &options),
            Err(StoreError::InvalidPart { number: 1 })
        ));
        wrong.reverse();
        assert!(matches!(
            compose(None, &parts, &wrong, &options),
            Err(StoreError::InvalidPartOrder)
        ));
        assert!(matches!(
            compose(None, &parts, &claims, &options),
            Err(StoreError::PartTooSmall { number: 1, .. })
        ));
        assert!(compose(None, &parts, &[], &options).is_err());
    }

    #[test]
    fn an_expected_checksum_that_cannot_be_known_is_a_mismatch() {
        let (parts, claims) = upload(&[part(1, b"x", None)]);
        let expect = |algorithm, value| ComposeOptions {
            expected: Some(ExpectedDigest { algorithm, value }),
            ..ComposeOptions::default()
        };
        let crc = digest_of(DigestAlgorithm::Crc64Nvme, b"x");
        let sha = digest_of(DigestAlgorithm::Sha256, b"x");
        assert!(
            compose(
                None,
                &parts,
                &claims,
                &expect(DigestAlgorithm::Crc64Nvme, crc)
            )
            .is_ok()
        );
        assert!(compose(None, &parts, &claims, &expect(DigestAlgorithm::Sha256, sha)).is_err());
    }
}
