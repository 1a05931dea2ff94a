//! Access lists of buckets and objects in S3's notation: XML documents, canned names, headers.
//!
//! Source: S3 API, GetBucketAcl, PutBucketAcl, GetObjectAcl, PutObjectAcl; S3 User Guide,
//! "Access control list (ACL) overview".

use fsstore::object::{Locator, Precondition};
use fsstore::volume::{AttrsPatch, BucketInfo, Object, Volume};
use http::{Response, StatusCode};

use super::ctx::{Call, Ctx, RequestBody};
use super::permit;
use super::respond::{self, Body};
use super::xml::{self, Element, XSI, XmlWriter};
use crate::auth::acl::{Acl, CannedAcl, Grantee, MAX_GRANTS, Permission, SETTING};
use crate::auth::grant::{Grant, ReadAcl, WriteAcl};
use crate::errors::{S3Code, S3Error};

/// The headers that grant a permission each, in the order AWS lists them.
const GRANT_HEADERS: [(&str, Permission); 5] = [
    ("x-amz-grant-read", Permission::Read),
    ("x-amz-grant-write", Permission::Write),
    ("x-amz-grant-read-acp", Permission::ReadAcp),
    ("x-amz-grant-write-acp", Permission::WriteAcp),
    ("x-amz-grant-full-control", Permission::FullControl),
];

/// GetBucketAcl.
pub fn get_bucket_acl(
    call: &Call,
    _grant: Grant<ReadAcl>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    Ok(respond::xml(document(call, &Acl::of_bucket(bucket))))
}

/// PutBucketAcl. Durable. Errors: NoSuchBucket, and those of [`from_headers`] and documents.
pub async fn put_bucket_acl<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<WriteAcl>,
    bucket: &BucketInfo,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let owner = bucket.owner.clone();
    let acl = from_request(ctx, call, owner, None, body).await?;
    let text = Some(acl.to_text());
    let volume = &ctx.volume;
    volume
        .set_bucket_setting(&bucket.name, SETTING, text)
        .await?;
    Ok(respond::empty(StatusCode::OK))
}

/// GetObjectAcl. Errors: NoSuchKey, AccessDenied.
pub async fn get_object_acl<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let object = permit::open(ctx, call, bucket, at).await?;
    let info = object.info();
    call.grant_object::<ReadAcl>(bucket, &info.attrs)?;
    let mut acl = Acl::of_object(&info.attrs);
    if info.attrs.owner.is_none() && info.attrs.acl.is_none() {
        // A file that came without a door is its bucket's owner's.
        acl = Acl::private(bucket.owner.clone());
    }
    Ok(respond::xml(document(call, &acl)))
}

/// PutObjectAcl. Durable. Errors: NoSuchKey, AccessDenied, and those of [`from_headers`] and
/// documents.
pub async fn put_object_acl<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    at: &Locator,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let info = ctx.volume.stat(at).await;
    let info = info.map_err(|error| call.object_error(bucket, error))?;
    call.grant_object::<WriteAcl>(bucket, &info.attrs)?;
    let owner = info.attrs.owner.or_else(|| bucket.owner.clone());
    let acl = from_request(ctx, call, owner, bucket.owner.as_deref(), body).await?;
    let patch = AttrsPatch {
        acl: Some(Some(acl.to_text())),
        ..AttrsPatch::default()
    };
    ctx.volume
        .set_attrs(at, patch, &Precondition::default())
        .await?;
    Ok(respond::empty(StatusCode::OK))
}

/// The list that the headers of a PUT ask for; none where they ask for none. `owner` is who will
/// own it, `bucket_owner` the owner of the bucket that an object goes to. Errors: InvalidRequest
/// where a canned name and grants come together, InvalidArgument,
/// UnresolvableGrantByEmailAddress.
pub fn from_headers(
    call: &Call,
    owner: Option<String>,
    bucket_owner: Option<&str>,
) -> Result<Option<Acl>, S3Error> {
    let canned = call.header("x-amz-acl").filter(|value| !value.is_empty());
    let mut grants = Vec::new();
    for (header, permission) in GRANT_HEADERS {
        for value in call.headers().get_all(header) {
            let value = value.to_str().map_err(|_| bad_grant(header, ""))?;
            for part in value.split(',') {
                grants.push((parse_header_grantee(call, header, part.trim())?, permission));
            }
        }
    }
    match canned {
        Some(_) if !grants.is_empty() => Err(S3Code::InvalidRequest
            .with("Specifying both Canned ACLs and Header Grants is not allowed")),
        Some(name) => {
            let canned = CannedAcl::parse(name)?;
            Ok(Some(Acl::canned(canned, owner, bucket_owner)))
        }
        None if grants.is_empty() => Ok(None),
        None => Ok(Some(checked(Acl { owner, grants })?)),
    }
}

async fn from_request<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    owner: Option<String>,
    bucket_owner: Option<&str>,
    body: B,
) -> Result<Acl, S3Error> {
    if let Some(acl) = from_headers(call, owner.clone(), bucket_owner)? {
        return Ok(acl);
    }
    let limit = ctx.config.max_document_len_bytes;
    let document = call.read_document(body, limit).await.map_err(|error| {
        if error.code() == S3Code::MissingRequestBodyError {
            S3Error::from(S3Code::MissingSecurityHeader).field("MissingHeaderName", "x-amz-acl")
        } else {
            error
        }
    })?;
    parse_document(call, &document, owner)
}

fn parse_document(call: &Call, document: &[u8], owner: Option<String>) -> Result<Acl, S3Error> {
    let malformed = || S3Error::from(S3Code::MalformedACLError);
    let root = xml::parse(document, "AccessControlPolicy").map_err(|_| malformed())?;
    root.allow_only(&["Owner", "AccessControlList"])
        .map_err(|_| malformed())?;
    if let Some(named) = root.child("Owner") {
        let id = named.required("ID").map_err(|_| malformed())?;
        if !id.is_empty() && id != call.owner(owner.as_deref()).id {
            return Err(S3Code::AccessDenied.with("The owner of an access list cannot be changed."));
        }
    }
    let list = root.child("AccessControlList").ok_or_else(malformed)?;
    list.allow_only(&["Grant"]).map_err(|_| malformed())?;
    let mut grants = Vec::with_capacity(list.children.len().min(MAX_GRANTS));
    for grant in &list.children {
        let permission = grant.required("Permission").map_err(|_| malformed())?;
        let permission = Permission::parse(permission).ok_or_else(malformed)?;
        let grantee = grant.child("Grantee").ok_or_else(malformed)?;
        grants.push((parse_grantee(call, grantee)?, permission));
    }
    checked(Acl { owner, grants })
}

/// Reads a `<Grantee>`. Its `xsi:type` may be left out, as old clients do.
fn parse_grantee(call: &Call, grantee: &Element) -> Result<Grantee, S3Error> {
    let text = |name: &str| {
        let text = grantee.text_of(name);
        text.map_err(|_| S3Error::from(S3Code::MalformedACLError))
    };
    let (id, uri, email) = (text("ID")?, text("URI")?, text("EmailAddress")?);
    match (grantee.attribute("type"), id, uri, email) {
        (Some("CanonicalUser") | None, Some(id), None, None) => user(call, id),
        (Some("Group") | None, None, Some(uri), None) => group(uri),
        (Some("AmazonCustomerByEmail") | None, None, None, Some(email)) => Err(by_email(email)),
        _ => Err(S3Code::MalformedACLError.into()),
    }
}

/// Reads one `id="…"`, `uri="…"` or `emailAddress="…"` of a grant header.
fn parse_header_grantee(call: &Call, header: &str, part: &str) -> Result<Grantee, S3Error> {
    let (kind, value) = part
        .split_once('=')
        .ok_or_else(|| bad_grant(header, part))?;
    let value = value.trim();
    let value = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value);
    match kind.trim().to_ascii_lowercase().as_str() {
        "id" => user(call, value),
        "uri" => group(value),
        "emailaddress" => Err(by_email(value)),
        _ => Err(bad_grant(header, part)),
    }
}

fn user(call: &Call, id: &str) -> Result<Grantee, S3Error> {
    match call.directory.user_by_id(id) {
        Some(user) => Ok(Grantee::User(user.id.clone())),
        None => Err(S3Error::invalid_argument(
            "CanonicalUser/ID",
            id,
            "Invalid id",
        )),
    }
}

fn group(uri: &str) -> Result<Grantee, S3Error> {
    Grantee::from_uri(uri)
        .ok_or_else(|| S3Error::invalid_argument("Group/URI", uri, "Invalid group uri"))
}

fn by_email(address: &str) -> S3Error {
    S3Error::from(S3Code::UnresolvableGrantByEmailAddress).field("EmailAddress", address)
}

fn bad_grant(header: &str, value: &str) -> S3Error {
    S3Error::invalid_argument(header, value, "Argument format not recognized")
}

fn checked(acl: Acl) -> Result<Acl, S3Error> {
    if acl.grants.len() > MAX_GRANTS {
        return Err(S3Code::InvalidRequest.with("The request has more than 100 grants."));
    }
    Ok(acl)
}

/// The document of a list: grants to groups first, then those to users.
fn document(call: &Call, acl: &Acl) -> XmlWriter {
    let mut xml = XmlWriter::root("AccessControlPolicy");
    let owner = call.owner(acl.owner.as_deref());
    xml.open("Owner");
    xml.text("ID", &owner.id);
    xml.text("DisplayName", owner.name);
    xml.close("Owner");
    xml.open("AccessControlList");
    let (groups, users): (Vec<_>, Vec<_>) = acl
        .grants
        .iter()
        .partition(|(grantee, _)| grantee.uri().is_some());
    for (grantee, permission) in groups.into_iter().chain(users) {
        xml.open("Grant");
        match grantee {
            Grantee::User(id) => {
                let user = call.owner(Some(id));
                xml.open_with(
                    "Grantee",
                    &[("xmlns:xsi", XSI), ("xsi:type", "CanonicalUser")],
                );
                xml.text("ID", id);
                xml.text("DisplayName", user.name);
            }
            Grantee::AllUsers | Grantee::AuthenticatedUsers | Grantee::LogDelivery => {
                xml.open_with("Grantee", &[("xmlns:xsi", XSI), ("xsi:type", "Group")]);
                xml.text("URI", grantee.uri().unwrap_or_default());
            }
        }
        xml.close("Grantee");
        xml.text("Permission", permission.as_str());
        xml.close("Grant");
    }
    xml.close("AccessControlList");
    xml.close("AccessControlPolicy");
    xml
}
