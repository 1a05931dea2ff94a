//! Multipart uploads: begin, take parts, complete, abort. Listing them is `list`'s.

use bytes::Bytes;
use fsstore::error::StoreError;
use fsstore::name::{PartNumber, UploadId};
use fsstore::object::{
    Checksum, DigestAlgorithm, Locator, ObjectInfo, PartClaim, Timestamp, UploadInfo,
};
use fsstore::volume::{BucketInfo, ComposeOptions, NewUpload, StageOptions, StagedPart, Volume};
use http::header::{ETAG, HOST};
use http::{HeaderValue, Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::ctx::{Call, Ctx, RequestBody};
use super::get::parse_part_number;
use super::object::{attributes, explain};
use super::object_checksum::{self, kind_name};
use super::object_headers::etag_value;
use super::query::Query;
use super::respond::{self, Body};
use super::xml::{self, Element, XmlWriter};
use crate::auth::grant::{Grant, Write};
use crate::body;
use crate::body::error::digest_name;
use crate::conditions;
use crate::errors::{S3Code, S3Error};

/// Most parts of one object. Source: S3 User Guide, "Multipart upload limits".
pub const MAX_PARTS: usize = 10_000;
/// Longest CompleteMultipartUpload document, in bytes: 10,000 parts with a SHA-256 each take
/// under 2 MiB, and clients indent.
pub const MAX_COMPLETE_LEN_BYTES: u64 = 4 << 20;

/// CreateMultipartUpload. Durable on return. Errors: those of the headers.
/// Source: S3 API, CreateMultipartUpload.
pub async fn create_multipart_upload<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let attrs = attributes(call, &grant, bucket)?;
    let algorithm = object_checksum::named_algorithm(call.headers())?;
    let kind = object_checksum::named_kind(call.headers())?;
    let checksum = object_checksum::for_upload(algorithm, kind)?;
    let new = NewUpload {
        attrs,
        checksum,
        file_owner: call.file_owner(),
    };
    let upload = ctx.volume.begin_upload(at, new).await?;
    let mut xml = XmlWriter::root("InitiateMultipartUploadResult");
    xml.text("Bucket", at.bucket.as_str());
    xml.text("Key", at.key.as_str());
    xml.text("UploadId", upload.id.as_str());
    xml.close("InitiateMultipartUploadResult");
    let mut response = respond::xml(xml);
    if let Some((algorithm, kind)) = upload.checksum {
        let headers = response.headers_mut();
        let name = HeaderValue::from_static(digest_name(algorithm));
        headers.insert(object_checksum::CHECKSUM_ALGORITHM, name);
        let kind = HeaderValue::from_static(kind_name(kind));
        headers.insert(object_checksum::CHECKSUM_TYPE, kind);
    }
    Ok(response)
}

/// The upload and the part that a query names. Errors: InvalidArgument, NoSuchUpload.
pub(super) fn part_and_upload(query: &Query) -> Result<(PartNumber, UploadId), S3Error> {
    let number = parse_part_number(query.get("partNumber").unwrap_or_default())?;
    Ok((number, upload_id(query)?))
}

/// The upload that a query names; one that is no id of ours was never begun.
fn upload_id(query: &Query) -> Result<UploadId, S3Error> {
    let id = query.get("uploadId").unwrap_or_default();
    UploadId::parse(id).map_err(|_| no_such_upload(id))
}

fn no_such_upload(id: &str) -> S3Error {
    S3Error::from(S3Code::NoSuchUpload).field("UploadId", id)
}

/// Looks at an upload. Errors: NoSuchUpload.
pub(super) async fn named_upload<V: Volume>(
    ctx: &Ctx<V>,
    at: &Locator,
    id: &UploadId,
) -> Result<UploadInfo, S3Error> {
    let found = ctx.volume.upload(at, id).await;
    found.map_err(|error| with_upload_id(error, id))
}

fn with_upload_id(error: StoreError, id: &UploadId) -> S3Error {
    match error {
        StoreError::NoSuchUpload => no_such_upload(id.as_str()),
        other => other.into(),
    }
}

/// UploadPart. A part without a checksum of its own gets the upload's: the object then has one
/// whatever the client left out. Durable on return. Errors: NoSuchUpload, those of the body,
/// InvalidRequest where the part's checksum is of another algorithm than the upload's.
/// Source: S3 API, UploadPart.
pub async fn upload_part<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<Write>,
    _bucket: &BucketInfo,
    at: &Locator,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let (number, id) = part_and_upload(&call.query)?;
    let mut decoded = body::decode(body, &call.payload, call.headers())?;
    let upload = named_upload(ctx, at, &id).await?;
    let asked = upload.checksum.map(|(algorithm, _)| algorithm);
    check_agrees(asked, decoded.checksum())?;
    let keep = asked.or(decoded.checksum());
    let options = StageOptions {
        len_bytes: decoded.len_bytes(),
        digests: keep.map_or(decoded.digests(), |a| decoded.digests().with(a)),
    };
    let staged = ctx.volume.stage_part(at, &id, number, options).await;
    let mut staged = staged.map_err(|error| with_upload_id(error, &id))?;
    while let Some(chunk) = decoded.next_chunk().await? {
        staged.write(chunk).await?;
    }
    let expected = decoded.finish()?;
    let committed = staged.commit(expected.digests.clone(), keep).await;
    let part = committed.map_err(|error| match error {
        StoreError::NoSuchUpload => no_such_upload(id.as_str()),
        other => explain(&expected, other),
    })?;
    let mut response = respond::empty(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(ETAG, etag_value(part.etag.as_str()));
    if let Some(checksum) = &part.checksum {
        object_checksum::put_value(headers, checksum, None);
    }
    Ok(response)
}

fn check_agrees(
    asked: Option<DigestAlgorithm>,
    sent: Option<DigestAlgorithm>,
) -> Result<(), S3Error> {
    match (asked, sent) {
        (Some(asked), Some(sent)) if asked != sent => Err(S3Code::InvalidRequest.with(format!(
            "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
            digest_name(asked).to_ascii_lowercase(),
            digest_name(sent).to_ascii_lowercase()
        ))),
        _ => Ok(()),
    }
}

/// CompleteMultipartUpload. Repeating it after it succeeded gives the same answer. Durable on
/// return. Errors: MalformedXML, InvalidPart, InvalidPartOrder, EntityTooSmall, BadDigest,
/// NoSuchUpload, PreconditionFailed, InvalidRequest. Source: S3 API, CompleteMultipartUpload.
pub async fn complete_multipart_upload<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<Write>,
    _bucket: &BucketInfo,
    at: &Locator,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let id = upload_id(&call.query)?;
    let document = read_completion(call, body).await?;
    let claims = claims(&xml::parse(&document, "CompleteMultipartUpload")?)?;
    drop(document);
    check_kind(ctx, call, at, &id).await?;
    let expected_len_bytes = object_len(call)?;
    let options = ComposeOptions {
        precondition: conditions::write_precondition(call.headers()),
        expected: object_checksum::read_headers(call.headers())?,
        expected_len_bytes,
        modified: modified(ctx, at, &id).await,
    };
    let composed = ctx.volume.compose(at, &id, &claims, options).await;
    let info = composed.map_err(|error| refused_composition(error, &id))?;
    Ok(completed(call, at, &info))
}

/// The time of the object's file by the metadata that the upload was begun with.
async fn modified<V: Volume>(ctx: &Ctx<V>, at: &Locator, id: &UploadId) -> Option<Timestamp> {
    if !ctx.config.apply_mtime.of(&at.bucket) {
        return None;
    }
    // One that is gone is for the store to judge.
    let upload = ctx.volume.upload(at, id).await.ok()?;
    ctx.modified(&at.bucket, &upload.attrs.user)
}

/// Reads the document. A checksum in the headers is the object's, not the document's.
/// Errors: those of bodies; an empty one is malformed XML.
async fn read_completion<B: RequestBody>(call: &Call, body: B) -> Result<Bytes, S3Error> {
    let mut headers = call.headers().clone();
    for algorithm in object_checksum::CHOICES {
        headers.remove(object_checksum::header_name(algorithm));
    }
    headers.remove("x-amz-sdk-checksum-algorithm");
    let decoded = body::decode(body, &call.payload, &headers)?;
    Ok(decoded.read_to_limit(MAX_COMPLETE_LEN_BYTES).await?)
}

fn refused_composition(error: StoreError, id: &UploadId) -> S3Error {
    match error {
        StoreError::LengthMismatch {
            expected_bytes,
            actual_bytes,
        } => S3Code::InvalidRequest.with(format!(
            "The provided 'x-amz-mp-object-size' header value {expected_bytes} does not match \
             what was computed: {actual_bytes}"
        )),
        other => with_upload_id(other, id),
    }
}

/// The parts a document names. A part that was sent twice may stand twice in a row: the later
/// one is meant, because it took the earlier one's place. Errors: MalformedXML for none or more
/// than [`MAX_PARTS`].
fn claims(root: &Element) -> Result<Vec<PartClaim>, S3Error> {
    root.allow_only(&["Part"])?;
    if root.children.is_empty() || root.children.len() > MAX_PARTS {
        return Err(xml::malformed());
    }
    let mut claims: Vec<PartClaim> = Vec::with_capacity(root.children.len());
    for part in &root.children {
        let claim = claim(part)?;
        match claims.last_mut() {
            Some(last) if last.number == claim.number => *last = claim,
            Some(_) | None => claims.push(claim),
        }
    }
    Ok(claims)
}

fn claim(part: &Element) -> Result<PartClaim, S3Error> {
    let number = part.required("PartNumber")?.trim();
    let number: u32 = number.parse().map_err(|_| xml::malformed())?;
    let number = PartNumber::new(number).map_err(|_| {
        let message = "PartNumber must be >= 1 and <= 10000";
        S3Error::invalid_argument("partNumber", number.to_string(), message)
    })?;
    Ok(PartClaim {
        number,
        etag: part.required("ETag")?.trim().trim_matches('"').to_owned(),
        checksum: object_checksum::read_element(part)?,
    })
}

/// The length the client says the object has. Errors: InvalidArgument.
fn object_len(call: &Call) -> Result<Option<u64>, S3Error> {
    const NAME: &str = "x-amz-mp-object-size";
    let Some(text) = call.header(NAME) else {
        return Ok(None);
    };
    let len = text.trim().parse();
    let len = len.map_err(|_| S3Error::invalid_argument(NAME, text, "It is a number of bytes."))?;
    Ok(Some(len))
}

/// Refuses another type of checksum than the upload was begun with. An upload that is gone may
/// have been completed by the request that this one repeats: the store decides that.
async fn check_kind<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    at: &Locator,
    id: &UploadId,
) -> Result<(), S3Error> {
    let Some(named) = object_checksum::named_kind(call.headers())? else {
        return Ok(());
    };
    let begun = match ctx.volume.upload(at, id).await {
        Ok(upload) => upload.checksum,
        Err(StoreError::NoSuchUpload) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let begun = begun.map_or(fsstore::object::ChecksumKind::FullObject, |(_, kind)| kind);
    if named == begun {
        return Ok(());
    }
    let begun = kind_name(begun);
    Err(S3Code::InvalidRequest.with(format!(
        "The upload was created using the {begun} checksum mode. The complete request must use \
         the same checksum mode."
    )))
}

fn completed(call: &Call, at: &Locator, info: &ObjectInfo) -> Response<Body> {
    let mut xml = XmlWriter::root("CompleteMultipartUploadResult");
    xml.text("Location", &location(call, at));
    xml.text("Bucket", at.bucket.as_str());
    xml.text("Key", at.key.as_str());
    xml.etag(info.etag.as_str());
    if let Some(checksum) = object_checksum::shown(info) {
        write_checksum(&mut xml, &checksum, info.part_count);
    }
    xml.close("CompleteMultipartUploadResult");
    respond::xml(xml)
}

fn write_checksum(xml: &mut XmlWriter, checksum: &Checksum, part_count: Option<u16>) {
    object_checksum::write_element(xml, checksum, part_count);
    xml.text("ChecksumType", kind_name(checksum.kind));
}

/// The URL of an object, by path, at the host the client used.
pub(super) fn location(call: &Call, at: &Locator) -> String {
    const PATH: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~');
    let scheme = if call.conn.tls { "https" } else { "http" };
    let host = match call.parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => call.header(HOST.as_str()).unwrap_or_default(),
    };
    let bucket = at.bucket.as_str();
    let in_host = host
        .strip_prefix(bucket)
        .is_some_and(|domain| domain.starts_with('.'))
        && !call.parts.uri.path().starts_with(&format!("/{bucket}/"));
    let key = utf8_percent_encode(at.key.as_str(), PATH);
    if in_host {
        format!("{scheme}://{host}/{key}")
    } else {
        format!(
            "{scheme}://{host}/{}/{key}",
            utf8_percent_encode(bucket, PATH)
        )
    }
}

/// AbortMultipartUpload: 204. Errors: NoSuchUpload. Source: S3 API, AbortMultipartUpload.
pub async fn abort_multipart_upload<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<Write>,
    _bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let id = upload_id(&call.query)?;
    let aborted = ctx.volume.abort_upload(at, &id).await;
    aborted.map_err(|error| with_upload_id(error, &id))?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}
