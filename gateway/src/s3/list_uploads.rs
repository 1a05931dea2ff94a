//! Listings of multipart uploads under way, and of an upload's parts.
//!
//! Source: S3 API, ListMultipartUploads, ListParts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fsstore::name::{PartNumber, UploadId};
use fsstore::object::{ChecksumKind, DigestAlgorithm, Locator, PartInfo, UploadInfo};
use fsstore::volume::{BucketInfo, PartsPage, UploadsPage, UploadsQuery, Volume};
use http::Response;

use super::ctx::{Call, Ctx};
use super::list::{Asked, checksum_kind_name, parse_limit, write_owner, write_prefixes};
use super::respond::{self, Body, iso_time};
use super::xml::XmlWriter;
use crate::auth::grant::{Grant, Read, Write};
use crate::body::error::digest_name;
use crate::errors::{S3Code, S3Error};

/// ListMultipartUploads.
pub async fn list_multipart_uploads<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<Read>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let asked = Asked::parse_with(&call.query, "max-uploads")?;
    let key_marker = call.query.get("key-marker").unwrap_or_default();
    let id_marker = call.query.get("upload-id-marker").unwrap_or_default();
    let query = UploadsQuery {
        prefix: asked.prefix.clone(),
        delimiter: asked.delimiter.clone(),
        after_key: Some(key_marker.to_owned()).filter(|key| !key.is_empty()),
        after_id: parse_id_marker(key_marker, id_marker)?,
        limit: asked.limit,
    };
    let page = if asked.limit == 0 {
        UploadsPage::default()
    } else {
        ctx.volume.list_uploads(&bucket.name, &query).await?
    };
    let mut xml = XmlWriter::root("ListMultipartUploadsResult");
    xml.text("Bucket", bucket.name.as_str());
    asked.text(&mut xml, "KeyMarker", key_marker);
    xml.text("UploadIdMarker", id_marker);
    if page.truncated {
        let (key, id) = last_of(&page);
        asked.text(&mut xml, "NextKeyMarker", key);
        xml.text("NextUploadIdMarker", id);
    }
    asked.text(&mut xml, "Prefix", &asked.prefix);
    if let Some(delimiter) = &asked.delimiter {
        asked.text(&mut xml, "Delimiter", delimiter);
    }
    xml.number("MaxUploads", asked.limit as u64);
    asked.write_encoding(&mut xml);
    xml.boolean("IsTruncated", page.truncated);
    for upload in &page.uploads {
        xml.open("Upload");
        asked.text(&mut xml, "Key", upload.key.as_str());
        xml.text("UploadId", upload.id.as_str());
        write_people(&mut xml, call, upload);
        xml.text("StorageClass", "STANDARD");
        xml.text("Initiated", &iso_time(upload.begun));
        write_checksum_kind(&mut xml, upload.checksum);
        xml.close("Upload");
    }
    write_prefixes(&mut xml, &asked, &page.prefixes);
    xml.close("ListMultipartUploadsResult");
    Ok(respond::xml(xml))
}

/// An id without a key means nothing, as AWS says. Errors: InvalidArgument.
fn parse_id_marker(key: &str, id: &str) -> Result<Option<UploadId>, S3Error> {
    if key.is_empty() || id.is_empty() {
        return Ok(None);
    }
    UploadId::parse(id)
        .map(Some)
        .map_err(|_| S3Error::invalid_argument("upload-id-marker", id, "Invalid uploadId marker"))
}

/// Where a page ends: the last upload's key and id, or the last prefix and no id.
fn last_of(page: &UploadsPage) -> (&str, &str) {
    let upload = page.uploads.last();
    let upload = upload.map(|upload| (upload.key.as_str(), upload.id.as_str()));
    let prefix = page.prefixes.last().map(|prefix| (prefix.as_str(), ""));
    upload.max(prefix).unwrap_or_default()
}

/// ListParts.
pub async fn list_parts<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<Write>,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let id = call.query.get("uploadId").unwrap_or_default();
    let id = UploadId::parse(id)
        .map_err(|_| S3Error::from(S3Code::NoSuchUpload).field("UploadId", id))?;
    let limit = parse_limit(&call.query, "max-parts")?;
    let marker = parse_part_marker(call)?;
    let page = if limit == 0 {
        PartsPage {
            upload: ctx.volume.upload(at, &id).await?,
            parts: Vec::new(),
            truncated: false,
        }
    } else {
        match marker {
            // Beyond the highest number there is nothing, but the upload must be there.
            Marker::Beyond => PartsPage {
                upload: ctx.volume.upload(at, &id).await?,
                parts: Vec::new(),
                truncated: false,
            },
            Marker::Start => ctx.volume.list_parts(at, &id, None, limit).await?,
            Marker::After(number) => {
                let after = Some(number);
                ctx.volume.list_parts(at, &id, after, limit).await?
            }
        }
    };
    Ok(respond::xml(parts_document(call, at, &page, limit)))
}

enum Marker {
    Start,
    After(PartNumber),
    Beyond,
}

fn parse_part_marker(call: &Call) -> Result<Marker, S3Error> {
    const NAME: &str = "part-number-marker";
    let Some(text) = call.query.get_nonempty(NAME) else {
        return Ok(Marker::Start);
    };
    match text.parse::<i32>() {
        Ok(0) => Ok(Marker::Start),
        Ok(number) if number > 0 => {
            Ok(PartNumber::new(number.unsigned_abs()).map_or(Marker::Beyond, Marker::After))
        }
        _ => Err(S3Error::invalid_argument(
            NAME,
            text,
            "Argument part-number-marker must be an integer between 0 and 2147483647",
        )),
    }
}

fn parts_document(call: &Call, at: &Locator, page: &PartsPage, limit: usize) -> XmlWriter {
    let marker = call.query.get_nonempty("part-number-marker").unwrap_or("0");
    let mut xml = XmlWriter::root("ListPartsResult");
    xml.reserve(page.parts.len() * 256);
    xml.text("Bucket", at.bucket.as_str());
    xml.text("Key", at.key.as_str());
    xml.text("UploadId", page.upload.id.as_str());
    xml.text("PartNumberMarker", marker);
    let last = page.parts.last().map_or(0, |part| part.number.get());
    if last > 0 || !page.truncated {
        xml.number("NextPartNumberMarker", u64::from(last));
    }
    xml.number("MaxParts", limit as u64);
    xml.boolean("IsTruncated", page.truncated);
    write_people(&mut xml, call, &page.upload);
    xml.text("StorageClass", "STANDARD");
    write_checksum_kind(&mut xml, page.upload.checksum);
    for part in &page.parts {
        write_part(&mut xml, part);
    }
    xml.close("ListPartsResult");
    xml
}

fn write_part(xml: &mut XmlWriter, part: &PartInfo) {
    xml.open("Part");
    xml.number("PartNumber", u64::from(part.number.get()));
    xml.text("LastModified", &iso_time(part.modified));
    xml.etag(part.etag.as_str());
    xml.number("Size", part.len_bytes);
    if let Some(checksum) = &part.checksum {
        let element = format!("Checksum{}", digest_name(checksum.algorithm));
        xml.text(&element, &STANDARD.encode(&checksum.value));
    }
    xml.close("Part");
}

fn write_people(xml: &mut XmlWriter, call: &Call, upload: &UploadInfo) {
    let owner = call.owner(upload.attrs.owner.as_deref());
    write_owner(xml, "Initiator", &owner);
    write_owner(xml, "Owner", &owner);
}

fn write_checksum_kind(xml: &mut XmlWriter, checksum: Option<(DigestAlgorithm, ChecksumKind)>) {
    if let Some((algorithm, kind)) = checksum {
        xml.text("ChecksumAlgorithm", digest_name(algorithm));
        xml.text("ChecksumType", checksum_kind_name(kind));
    }
}
