//! DeleteObjects: up to 1,000 keys in one request, each with an answer of its own.

use fsstore::error::StoreError;
use fsstore::name::ObjectKey;
use fsstore::object::{Locator, Precondition};
use fsstore::permission::Act;
use fsstore::volume::{BucketInfo, Volume};
use futures_util::StreamExt;
use futures_util::stream;
use http::{HeaderMap, Response};

use super::ctx::{Call, Ctx, RequestBody};
use super::object_checksum;
use super::permit;
use super::respond::{self, Body};
use super::xml::{self, Element, XmlWriter};
use crate::auth::grant::{Grant, Write};
use crate::conditions::{parse_tags, parse_time};
use crate::errors::{S3Code, S3Error, key_error};

/// Most keys of one request. Source: S3 API, DeleteObjects.
pub const MAX_KEYS: usize = 1000;
/// Most deletes under way for one request.
const CONCURRENCY: usize = 32;

/// One key to delete.
struct Entry {
    key: String,
    version: Option<String>,
    precondition: Precondition,
}

/// DeleteObjects: 200, with what became of each key, in the order asked. A key where nothing
/// stood is deleted. Each delete is durable on return. Errors: MalformedXML for no key or more
/// than [`MAX_KEYS`], InvalidRequest without a digest of the body.
/// Source: S3 API, DeleteObjects.
pub async fn delete_objects<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<Write>,
    bucket: &BucketInfo,
    body: B,
) -> Result<Response<Body>, S3Error> {
    check_has_digest(call.headers())?;
    let limit = ctx.config.max_document_len_bytes;
    let document = call.read_document(body, limit).await?;
    let root = xml::parse(&document, "Delete")?;
    root.allow_only(&["Object", "Quiet"])?;
    let is_quiet = root
        .text_of("Quiet")?
        .is_some_and(|text| text.trim() == "true");
    let entries: Vec<Entry> = root
        .children_named("Object")
        .map(entry)
        .collect::<Result<_, S3Error>>()?;
    if entries.is_empty() || entries.len() > MAX_KEYS {
        return Err(xml::malformed());
    }
    drop((root, document));
    let mut xml = XmlWriter::root("DeleteResult");
    let mut answers = stream::iter(entries)
        .map(|entry| async move {
            let done = delete(ctx, call, bucket, &entry).await;
            (entry, done)
        })
        .buffered(CONCURRENCY);
    while let Some((entry, done)) = answers.next().await {
        match done {
            Ok(()) if is_quiet => {}
            Ok(()) => {
                xml.open("Deleted");
                write_name(&mut xml, &entry);
                xml.close("Deleted");
            }
            Err(error) => {
                if error.status().is_server_error() {
                    tracing::error!(%error, request_id = %call.id, "a delete failed");
                }
                xml.open("Error");
                write_name(&mut xml, &entry);
                xml.text("Code", error.code().name());
                xml.text("Message", error.message());
                xml.close("Error");
            }
        }
    }
    xml.close("DeleteResult");
    Ok(respond::xml(xml))
}

fn write_name(xml: &mut XmlWriter, entry: &Entry) {
    xml.text("Key", &entry.key);
    if let Some(version) = &entry.version {
        xml.text("VersionId", version);
    }
}

/// A document that lost bytes could name other keys, so one without a digest is refused.
fn check_has_digest(headers: &HeaderMap) -> Result<(), S3Error> {
    let has_checksum = object_checksum::CHOICES
        .iter()
        .any(|algorithm| headers.contains_key(object_checksum::header_name(*algorithm)));
    if has_checksum || headers.contains_key("content-md5") || headers.contains_key("x-amz-trailer")
    {
        return Ok(());
    }
    let message = "Missing required header for this request: Content-MD5 OR x-amz-checksum-*";
    Err(S3Code::InvalidRequest.with(message))
}

/// Errors: MalformedXML. A condition that cannot be read refuses the whole document, because its
/// delete must not become an unconditional one.
fn entry(object: &Element) -> Result<Entry, S3Error> {
    object.allow_only(&["Key", "VersionId", "ETag", "LastModifiedTime", "Size"])?;
    let size = object.text_of("Size")?.map(|text| text.trim().parse());
    let modified = object.text_of("LastModifiedTime")?;
    let version = object.text_of("VersionId")?.filter(|id| !id.is_empty());
    Ok(Entry {
        key: object.required("Key")?.to_owned(),
        version: version.map(str::to_owned),
        precondition: Precondition {
            if_match: object.text_of("ETag")?.map(parse_tags),
            if_match_size: size.transpose().map_err(|_| xml::malformed())?,
            if_match_modified: modified
                .map(|text| parse_time(text).ok_or_else(xml::malformed))
                .transpose()?,
            ..Precondition::default()
        },
    })
}

async fn delete<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    entry: &Entry,
) -> Result<(), S3Error> {
    let key = ObjectKey::parse(&entry.key).map_err(|error| key_error(&error))?;
    if entry.version.as_deref().is_some_and(|id| id != "null") {
        return Err(S3Code::NoSuchVersion.into());
    }
    let at = Locator::new(bucket.name.clone(), key);
    permit::check(ctx, call, &at.bucket, Act::Remove(&at)).await?;
    match ctx.volume.remove(&at, &entry.precondition).await {
        Ok(_) | Err(StoreError::NoSuchKey) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
