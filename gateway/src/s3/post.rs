//! POST of an object by an HTML form. The form carries its own signature, so the handler finds
//! out itself who sends it. Source: S3 API, "POST Object".

use std::sync::Arc;

use fsstore::name::ObjectKey;
use fsstore::object::{Attributes, FileOwner, Locator, ObjectInfo, Precondition};
use fsstore::permission::Act;
use fsstore::volume::{BucketInfo, CommitOptions, StageOptions, Staged, Volume};
use http::header::{ETAG, LOCATION};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::ctx::{Call, Ctx, RequestBody};
use super::dispatch::refuse_unbuilt_headers;
use super::multipart::location;
use super::object::{attributes, explain};
use super::object_headers::etag_value;
use super::operation::{BucketOperation, Operation};
use super::permit;
use super::respond::{self, Body};
use super::tagging;
use super::xml::XmlWriter;
use crate::auth::grant::{Grant, Resource, Write};
use crate::auth::post_policy;
use crate::body::form::{FileBody, FormFields, PostForm, read_form};
use crate::errors::{S3Error, key_error};

/// PostObject. The file is read only when the form's sender is known and may write; the length
/// that the policy allows is enforced while it comes. Durable on return. Errors: those of forms,
/// policies, metadata and tags, BadDigest. Source: S3 API, "POST Object".
pub async fn post_object<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let PostForm { fields, mut file } = read_form(body, call.headers()).await?;
    let at = Locator::new(bucket.name.clone(), key_of(&fields)?);
    let allowed = post_policy::verify(
        &fields,
        bucket.name.as_str(),
        &call.directory,
        call.now,
        &ctx.auth,
    )?;
    let call = form_call(call, &fields, allowed.identity)?;
    let operation = Operation::Bucket(bucket.name.clone(), BucketOperation::PostObject);
    refuse_unbuilt_headers(&operation, call.headers())?;
    let grant = call.grant::<Write>(Resource::Bucket(bucket))?;
    permit::check(ctx, &call, &at.bucket, Act::Replace(&at)).await?;
    let attrs = form_attributes(&call, &fields, &grant, bucket)?;
    file.expect(call.headers(), allowed.len_range_bytes)?;
    let info = store_file(ctx, &at, file, attrs, call.file_owner()).await?;
    Ok(posted(&call, &fields, &at, &info))
}

fn key_of(fields: &FormFields) -> Result<ObjectKey, S3Error> {
    let key = fields.get_expanded("key").unwrap_or_default();
    if key.is_empty() {
        let message = "Bucket POST must contain a field named 'key'.  If it is specified, please \
                       check the order of the fields.";
        return Err(S3Error::invalid_argument("key", "", message));
    }
    ObjectKey::parse(&key).map_err(|error| key_error(&error))
}

/// The request that the form stands for: its fields are the headers, its signer the caller.
fn form_call(
    call: &Call,
    fields: &FormFields,
    caller: Option<crate::auth::Identity>,
) -> Result<Call, S3Error> {
    let mut parts = call.parts.clone();
    parts.headers = form_headers(fields)?;
    if let Some(host) = call.headers().get(http::header::HOST) {
        parts.headers.insert(http::header::HOST, host.clone());
    }
    Ok(Call {
        parts,
        query: call.query.clone(),
        id: call.id,
        now: call.now,
        caller,
        payload: call.payload.clone(),
        directory: Arc::clone(&call.directory),
        conn: call.conn,
    })
}

fn form_headers(fields: &FormFields) -> Result<HeaderMap, S3Error> {
    let mut headers = fields.to_headers();
    if let Some(canned) = fields.get("acl") {
        let value = HeaderValue::from_str(canned)
            .map_err(|_| S3Error::invalid_argument("acl", canned, "unknown canned ACL"))?;
        headers.insert("x-amz-acl", value);
    }
    Ok(headers)
}

/// As of a PUT, except that tags come as a document.
fn form_attributes(
    call: &Call,
    fields: &FormFields,
    grant: &Grant<Write>,
    bucket: &BucketInfo,
) -> Result<Attributes, S3Error> {
    let mut attrs = attributes(call, grant, bucket)?;
    if let Some(document) = fields.get("tagging") {
        attrs.tags = tagging::parse_document(document.as_bytes(), tagging::MAX_OBJECT_TAGS)?;
    }
    Ok(attrs)
}

async fn store_file<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    at: &Locator,
    mut file: FileBody<B>,
    attrs: Attributes,
    file_owner: FileOwner,
) -> Result<ObjectInfo, S3Error> {
    let options = StageOptions {
        len_bytes: None,
        digests: file.digests(),
    };
    let mut staged = ctx.volume.stage(at, options).await?;
    while let Some(chunk) = file.next_chunk().await? {
        staged.write(chunk).await?;
    }
    let expected = file.finish()?;
    let options = CommitOptions {
        modified: ctx.modified(&at.bucket, &attrs.user),
        attrs,
        precondition: Precondition::default(),
        expected: expected.digests.clone(),
        keep_checksum: expected.checksum,
        file_owner,
    };
    let committed = staged.commit(options).await;
    committed.map_err(|error| explain(&expected, error))
}

/// The answer the form asks for: a redirect, a document (201), or nothing (200, and 204 for
/// everything else).
fn posted(call: &Call, fields: &FormFields, at: &Locator, info: &ObjectInfo) -> Response<Body> {
    let url = location(call, at);
    let mut response = match (
        redirect(fields, at, info),
        fields.get("success_action_status"),
    ) {
        (Some(to), _) => {
            let mut response = respond::empty(StatusCode::SEE_OTHER);
            response.headers_mut().insert(LOCATION, to);
            response
        }
        (None, Some("200")) => respond::empty(StatusCode::OK),
        (None, Some("201")) => {
            let mut xml = XmlWriter::document();
            xml.open("PostResponse");
            xml.text("Location", &url);
            xml.text("Bucket", at.bucket.as_str());
            xml.text("Key", at.key.as_str());
            xml.etag(info.etag.as_str());
            xml.close("PostResponse");
            let mut response = respond::xml(xml);
            *response.status_mut() = StatusCode::CREATED;
            response
        }
        (None, _) => respond::empty(StatusCode::NO_CONTENT),
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, etag_value(info.etag.as_str()));
    if let Ok(url) = HeaderValue::from_str(&url)
        && !headers.contains_key(LOCATION)
    {
        headers.insert(LOCATION, url);
    }
    response
}

/// Where a browser is sent: `success_action_redirect` with bucket, key and ETag added to its
/// query. One that is no HTTP URL is passed over, as AWS does.
fn redirect(fields: &FormFields, at: &Locator, info: &ObjectInfo) -> Option<HeaderValue> {
    const QUERY: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~');
    let to = fields.get("success_action_redirect");
    let to = to.or_else(|| fields.get("redirect"))?;
    let url: http::Uri = to.parse().ok()?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return None;
    }
    let sign = if url.query().is_some() { '&' } else { '?' };
    let bucket = utf8_percent_encode(at.bucket.as_str(), QUERY);
    let key = utf8_percent_encode(at.key.as_str(), QUERY);
    let etag = info.etag.as_str();
    let to = format!("{to}{sign}bucket={bucket}&key={key}&etag=%22{etag}%22");
    HeaderValue::from_str(&to).ok()
}
