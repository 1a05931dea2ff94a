//! Checksums as S3 names and writes them: headers, XML elements, base64, `-N` of composites,
//! and which algorithm goes with which type.
//!
//! Source: S3 User Guide, "Checking object integrity".

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use fsstore::object::{Checksum, ChecksumKind, DigestAlgorithm, ExpectedDigest, ObjectInfo};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::xml::{Element, XmlWriter};
use crate::body::error::digest_name;
use crate::errors::{S3Code, S3Error};

/// The algorithms a client may choose.
pub const CHOICES: [DigestAlgorithm; 5] = [
    DigestAlgorithm::Crc32,
    DigestAlgorithm::Crc32c,
    DigestAlgorithm::Crc64Nvme,
    DigestAlgorithm::Sha1,
    DigestAlgorithm::Sha256,
];

/// The header that says how a checksum was made.
pub const CHECKSUM_TYPE: &str = "x-amz-checksum-type";
/// The header that names the algorithm of an upload or a copy.
pub const CHECKSUM_ALGORITHM: &str = "x-amz-checksum-algorithm";

/// The header that carries a checksum. MD5 has one of its own and is never asked for here.
pub const fn header_name(algorithm: DigestAlgorithm) -> &'static str {
    match algorithm {
        DigestAlgorithm::Md5 => "content-md5",
        DigestAlgorithm::Crc32 => "x-amz-checksum-crc32",
        DigestAlgorithm::Crc32c => "x-amz-checksum-crc32c",
        DigestAlgorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
        DigestAlgorithm::Sha1 => "x-amz-checksum-sha1",
        DigestAlgorithm::Sha256 => "x-amz-checksum-sha256",
    }
}

/// The XML element that carries a checksum.
pub const fn element_name(algorithm: DigestAlgorithm) -> &'static str {
    match algorithm {
        DigestAlgorithm::Md5 => "ChecksumMD5",
        DigestAlgorithm::Crc32 => "ChecksumCRC32",
        DigestAlgorithm::Crc32c => "ChecksumCRC32C",
        DigestAlgorithm::Crc64Nvme => "ChecksumCRC64NVME",
        DigestAlgorithm::Sha1 => "ChecksumSHA1",
        DigestAlgorithm::Sha256 => "ChecksumSHA256",
    }
}

/// What stands in `x-amz-checksum-type` and `<ChecksumType>`.
pub const fn kind_name(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::FullObject => "FULL_OBJECT",
        ChecksumKind::Composite => "COMPOSITE",
    }
}

/// The algorithm of this name, in any case.
pub fn parse_algorithm(name: &str) -> Option<DigestAlgorithm> {
    CHOICES
        .into_iter()
        .find(|algorithm| digest_name(*algorithm).eq_ignore_ascii_case(name.trim()))
}

/// The algorithm that a request names in x-amz-checksum-algorithm. Errors: InvalidRequest.
pub fn named_algorithm(headers: &HeaderMap) -> Result<Option<DigestAlgorithm>, S3Error> {
    let Some(value) = headers.get(CHECKSUM_ALGORITHM) else {
        return Ok(None);
    };
    match value.to_str().ok().and_then(parse_algorithm) {
        Some(algorithm) => Ok(Some(algorithm)),
        None => Err(S3Code::InvalidRequest.with(
            "Checksum algorithm provided is unsupported. Please try again with any of the valid \
             types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
        )),
    }
}

/// The type that a request names in x-amz-checksum-type. Errors: InvalidRequest.
pub fn named_kind(headers: &HeaderMap) -> Result<Option<ChecksumKind>, S3Error> {
    match headers.get(CHECKSUM_TYPE).map(HeaderValue::as_bytes) {
        None => Ok(None),
        Some(b"FULL_OBJECT") => Ok(Some(ChecksumKind::FullObject)),
        Some(b"COMPOSITE") => Ok(Some(ChecksumKind::Composite)),
        Some(_) => {
            Err(S3Code::InvalidRequest
                .with(format!("Value for {CHECKSUM_TYPE} header is invalid.")))
        }
    }
}

/// What an upload that names these two is begun with: SHA-1 and SHA-256 are composite only,
/// CRC-64/NVME is of the full object only, CRC-32 and CRC-32C are composite unless asked.
/// Errors: InvalidRequest.
pub fn for_upload(
    algorithm: Option<DigestAlgorithm>,
    kind: Option<ChecksumKind>,
) -> Result<Option<(DigestAlgorithm, ChecksumKind)>, S3Error> {
    use DigestAlgorithm as D;
    let Some(algorithm) = algorithm else {
        return match kind {
            None => Ok(None),
            Some(_) => Err(S3Code::InvalidRequest.with(
                "The x-amz-checksum-type header can only be used with the \
                 x-amz-checksum-algorithm header.",
            )),
        };
    };
    let taken = match (algorithm, kind) {
        (D::Crc32 | D::Crc32c, kind) => kind.unwrap_or(ChecksumKind::Composite),
        (D::Sha1 | D::Sha256, None | Some(ChecksumKind::Composite)) => ChecksumKind::Composite,
        (D::Crc64Nvme, None | Some(ChecksumKind::FullObject)) => ChecksumKind::FullObject,
        (D::Sha1 | D::Sha256, Some(ChecksumKind::FullObject))
        | (D::Crc64Nvme, Some(ChecksumKind::Composite))
        | (D::Md5, _) => {
            return Err(S3Code::InvalidRequest.with(format!(
                "The {} checksum type cannot be used with the {} checksum algorithm.",
                kind.map_or("default", kind_name),
                digest_name(algorithm).to_ascii_lowercase()
            )));
        }
    };
    Ok(Some((algorithm, taken)))
}

/// Decodes a value, a `-N` at its end allowed. None where it is no base64 of the right length.
pub fn decode(algorithm: DigestAlgorithm, text: &str) -> Option<ExpectedDigest> {
    let text = text.trim();
    let text = match text.rsplit_once('-') {
        Some((value, parts)) if parts.bytes().all(|b| b.is_ascii_digit()) => value,
        _ => text,
    };
    let value = BASE64.decode(text).ok()?;
    (value.len() == algorithm.len_bytes()).then_some(ExpectedDigest { algorithm, value })
}

/// A value as S3 writes it: base64, and for a composite `-N` with the number of parts.
pub fn encode(checksum: &Checksum, part_count: Option<u16>) -> String {
    let text = BASE64.encode(&checksum.value);
    match (checksum.kind, part_count) {
        (ChecksumKind::Composite, Some(parts)) => format!("{text}-{parts}"),
        (ChecksumKind::Composite, None) | (ChecksumKind::FullObject, _) => text,
    }
}

/// The checksum to show of an object: the one its client chose, else the CRC-64/NVME that is
/// computed of every object; none where the bytes changed behind our back.
pub fn shown(info: &ObjectInfo) -> Option<Checksum> {
    info.checksum.clone().or_else(|| {
        Some(Checksum {
            algorithm: DigestAlgorithm::Crc64Nvme,
            kind: ChecksumKind::FullObject,
            value: info.digests.crc64nvme?.to_be_bytes().to_vec(),
        })
    })
}

/// Puts a checksum and its type on an answer.
pub fn put_headers(headers: &mut HeaderMap, checksum: &Checksum, part_count: Option<u16>) {
    put_value(headers, checksum, part_count);
    let kind = HeaderValue::from_static(kind_name(checksum.kind));
    headers.insert(CHECKSUM_TYPE, kind);
}

/// Puts a checksum on an answer.
pub fn put_value(headers: &mut HeaderMap, checksum: &Checksum, part_count: Option<u16>) {
    let value = HeaderValue::from_str(&encode(checksum, part_count));
    let name = HeaderName::from_static(header_name(checksum.algorithm));
    headers.insert(name, value.expect("base64 is visible characters"));
}

/// Writes a checksum's element.
pub fn write_element(xml: &mut XmlWriter, checksum: &Checksum, part_count: Option<u16>) {
    xml.text(
        element_name(checksum.algorithm),
        &encode(checksum, part_count),
    );
}

/// The checksum that an element's children name. Errors: MalformedXML, InvalidRequest where
/// there are several, BadDigest where the value cannot be one.
pub fn read_element(element: &Element) -> Result<Option<ExpectedDigest>, S3Error> {
    let mut found = None;
    for algorithm in CHOICES {
        let Some(text) = element.text_of(element_name(algorithm))? else {
            continue;
        };
        let digest = decode(algorithm, text).ok_or_else(|| bad_value(algorithm))?;
        if found.replace(digest).is_some() {
            return Err(several());
        }
    }
    Ok(found)
}

/// The checksum that headers name for a whole object. Errors: InvalidRequest where there are
/// several, BadDigest where the value cannot be one.
pub fn read_headers(headers: &HeaderMap) -> Result<Option<ExpectedDigest>, S3Error> {
    let mut found = None;
    for algorithm in CHOICES {
        let Some(value) = headers.get(header_name(algorithm)) else {
            continue;
        };
        let digest = value.to_str().ok().and_then(|text| decode(algorithm, text));
        let digest = digest.ok_or_else(|| bad_value(algorithm))?;
        if found.replace(digest).is_some() {
            return Err(several());
        }
    }
    Ok(found)
}

fn several() -> S3Error {
    S3Code::InvalidRequest.with("Expecting a single x-amz-checksum- header")
}

fn bad_value(algorithm: DigestAlgorithm) -> S3Error {
    S3Code::BadDigest.with(format!(
        "The {} you specified did not match the calculated checksum.",
        digest_name(algorithm)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::xml;

    #[test]
    fn a_composite_carries_its_number_of_parts() {
        let checksum = Checksum {
            algorithm: DigestAlgorithm::Crc32,
            kind: ChecksumKind::Composite,
            value: vec![0, 0, 0, 1],
        };
        assert_eq!(encode(&checksum, Some(3)), "AAAAAQ==-3");
        let read = decode(DigestAlgorithm::Crc32, "AAAAAQ==-3").unwrap();
        assert_eq!(read.value, checksum.value);
        for bad in ["bad", "AAAAAQ==-x", "AAAAAAE=", ""] {
            assert!(decode(DigestAlgorithm::Crc32, bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_algorithm_goes_only_with_its_types() {
        use ChecksumKind::{Composite, FullObject};
        use DigestAlgorithm as D;
        let pair = |algorithm, kind| for_upload(Some(algorithm), kind).ok().flatten();
        assert_eq!(pair(D::Sha256, None), Some((D::Sha256, Composite)));
        assert_eq!(pair(D::Sha256, Some(FullObject)), None);
        assert_eq!(pair(D::Sha1, Some(FullObject)), None);
        assert_eq!(pair(D::Crc32, None), Some((D::Crc32, Composite)));
        assert_eq!(
            pair(D::Crc32c, Some(FullObject)),
            Some((D::Crc32c, FullObject))
        );
        assert_eq!(pair(D::Crc64Nvme, None), Some((D::Crc64Nvme, FullObject)));
        assert_eq!(pair(D::Crc64Nvme, Some(Composite)), None);
        assert_eq!(for_upload(None, None).unwrap(), None);
        assert!(for_upload(None, Some(Composite)).is_err());
    }

    #[test]
    fn one_checksum_is_read_and_two_are_refused() {
        let read = |text: &str| read_element(&xml::parse(text.as_bytes(), "Part").unwrap());
        assert_eq!(read("<Part/>").unwrap(), None);
        let one = "<Part><ChecksumCRC32>AAAAAQ==</ChecksumCRC32></Part>";
        assert_eq!(read(one).unwrap().unwrap().value, [0, 0, 0, 1]);
        let two = "<Part><ChecksumCRC32>AAAAAQ==</ChecksumCRC32>\
                   <ChecksumCRC32C>AAAAAQ==</ChecksumCRC32C></Part>";
        assert_eq!(read(two).unwrap_err().code(), S3Code::InvalidRequest);
        let bad = "<Part><ChecksumSHA256>bad</ChecksumSHA256></Part>";
        assert_eq!(read(bad).unwrap_err().code(), S3Code::BadDigest);
    }

    #[test]
    fn algorithms_are_named_in_any_case() {
        assert_eq!(parse_algorithm("crc32C"), Some(DigestAlgorithm::Crc32c));
        assert_eq!(parse_algorithm("MD5"), None);
    }
}
