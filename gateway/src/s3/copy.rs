//! CopyObject and UploadPartCopy: the bytes stay in the store.

use std::ops::Range;

use fsstore::error::StoreError;
use fsstore::name::{PartNumber, UploadId};
use fsstore::object::{
    Attributes, Checksum, DigestAlgorithm, DigestSet, ETagMatch, Locator, ObjectInfo, Precondition,
    Timestamp,
};
use fsstore::volume::{
    AttrsPatch, BucketInfo, CommitOptions, MAX_PUT_LEN_BYTES, Object, StageOptions, Staged,
    StagedPart, Volume,
};
use http::Response;

use super::copy_source::{COPY_SOURCE, copy_source};
use super::ctx::{Call, Ctx};
use super::multipart::{named_upload, part_and_upload};
use super::object::{acl_of, check_early};
use super::object_checksum::{self, kind_name};
use super::object_headers::{Described, WEBSITE_REDIRECT, described};
use super::permit;
use super::respond::{self, Body, iso_time};
use super::tagging;
use super::xml::XmlWriter;
use crate::auth::grant::{Grant, Read, Write};
use crate::conditions::{self, copy_source_range};
use crate::errors::{S3Code, S3Error};

/// What a copy takes from its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directive {
    Copy,
    Replace,
}

impl Directive {
    fn of(call: &Call, header: &str, message: &'static str) -> Result<Self, S3Error> {
        match call.headers().get(header).map(|value| value.as_bytes()) {
            None | Some(b"COPY") => Ok(Self::Copy),
            Some(b"REPLACE") => Ok(Self::Replace),
            Some(other) => {
                let other = String::from_utf8_lossy(other).into_owned();
                Err(S3Error::invalid_argument(header, other, message))
            }
        }
    }
}

/// What a CopyObject asks for, besides its source.
struct Asked {
    metadata: Directive,
    tagging: Directive,
    described: Described,
    algorithm: Option<DigestAlgorithm>,
    precondition: Precondition,
}

impl Asked {
    fn of(call: &Call) -> Result<Self, S3Error> {
        Ok(Self {
            metadata: Directive::of(
                call,
                "x-amz-metadata-directive",
                "Unknown metadata directive.",
            )?,
            tagging: Directive::of(
                call,
                "x-amz-tagging-directive",
                "Unknown tagging directive.",
            )?,
            described: described(call.headers())?,
            algorithm: object_checksum::named_algorithm(call.headers())?,
            precondition: conditions::write_precondition(call.headers()),
        })
    }

    /// The attributes of the copy. The access list is never copied, nor is a redirect.
    fn attributes(
        &self,
        call: &Call,
        source: &Attributes,
        owner: Option<String>,
        acl: Option<String>,
    ) -> Result<Attributes, S3Error> {
        let redirect = self.described.system.get(WEBSITE_REDIRECT).cloned();
        let (mut system, user) = match self.metadata {
            Directive::Replace => (self.described.system.clone(), self.described.user.clone()),
            Directive::Copy => (source.system.clone(), source.user.clone()),
        };
        system.remove(WEBSITE_REDIRECT);
        system.extend(redirect.map(|to| (WEBSITE_REDIRECT.to_owned(), to)));
        Ok(Attributes {
            system,
            user,
            tags: match self.tagging {
                Directive::Replace => tagging::from_header(call)?,
                Directive::Copy => source.tags.clone(),
            },
            owner,
            acl,
        })
    }

    /// The time of the copy's file. Metadata that are copied may speak of bytes that were since
    /// written through a mount: only those of the request count.
    fn modified<V>(&self, ctx: &Ctx<V>, at: &Locator) -> Option<Timestamp> {
        match self.metadata {
            Directive::Replace => ctx.modified(&at.bucket, &self.described.user),
            Directive::Copy => None,
        }
    }

    /// Whether a copy of an object onto itself would change anything.
    fn changes_something(&self) -> bool {
        self.metadata == Directive::Replace
            || self.tagging == Directive::Replace
            || self.described.system.contains_key(WEBSITE_REDIRECT)
    }
}

/// CopyObject. A copy onto itself that only changes attributes copies no bytes. Durable on
/// return. Errors: those of the source (NoSuchKey, AccessDenied, PreconditionFailed), of the
/// headers, InvalidRequest for a source over 5 GiB and for a copy onto itself that changes
/// nothing. Source: S3 API, CopyObject.
pub async fn copy_object<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let asked = Asked::of(call)?;
    let acl = acl_of(call, &grant, bucket)?;
    let from = copy_source(call.headers())?;
    let source = open_source(ctx, call, &from).await?;
    let info = source.info();
    check_len(info.len_bytes)?;
    check_early(ctx, at, &asked.precondition).await?;
    let attrs = asked.attributes(call, &info.attrs, grant.owner(), acl)?;
    let kept = info.checksum.as_ref().map(|sum| sum.algorithm);
    let stored = if from != *at {
        store_copy(ctx, call, at, &source, asked, attrs, kept).await?
    } else if !asked.changes_something() {
        return Err(S3Code::InvalidRequest.with(
            "This copy request is illegal because it is trying to copy an object to itself \
             without changing the object's metadata, storage class, website redirect location \
             or encryption attributes.",
        ));
    } else if asked.algorithm.is_some() && asked.algorithm != kept {
        store_copy(ctx, call, at, &source, asked, attrs, kept).await?
    } else {
        describe_again(ctx, call, at, info, asked, attrs).await?
    };
    let mut xml = XmlWriter::root("CopyObjectResult");
    let checksum = object_checksum::shown(&stored);
    write_result(
        &mut xml,
        stored.etag.as_str(),
        stored.modified,
        checksum.as_ref(),
    );
    if let Some(checksum) = &checksum {
        xml.text("ChecksumType", kind_name(checksum.kind));
    }
    xml.close("CopyObjectResult");
    Ok(respond::xml(xml))
}

/// Copies the bytes to a new object. It has the checksum that was asked for, else one of the
/// source's algorithm; of the full object always, because a copy has no parts.
async fn store_copy<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    at: &Locator,
    source: &V::Object,
    asked: Asked,
    attrs: Attributes,
    kept: Option<DigestAlgorithm>,
) -> Result<ObjectInfo, S3Error> {
    let len_bytes = source.info().len_bytes;
    let algorithm = asked.algorithm.or(kept);
    let options = StageOptions {
        len_bytes: Some(len_bytes),
        digests: digests_with(algorithm),
    };
    let mut staged = ctx.volume.stage(at, options).await?;
    let copied = ctx.volume.copy_into(&mut staged, source, 0..len_bytes);
    copied.await?;
    let options = CommitOptions {
        modified: asked.modified(ctx, at),
        attrs,
        precondition: asked.precondition,
        expected: Vec::new(),
        keep_checksum: algorithm,
        file_owner: call.file_owner(),
    };
    Ok(staged.commit(options).await?)
}

/// Changes what is said of an object whose bytes stay. Where conditions were named on the
/// source, the object they held for must be the one that is changed.
async fn describe_again<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    at: &Locator,
    info: &ObjectInfo,
    asked: Asked,
    attrs: Attributes,
) -> Result<ObjectInfo, S3Error> {
    let modified = asked.modified(ctx, at);
    let mut precondition = asked.precondition;
    let on_source = conditions::copy_source_precondition(call.headers());
    if !on_source.is_empty() && precondition.if_match.is_none() {
        let tag = info.etag.as_str().to_owned();
        precondition.if_match = Some(ETagMatch::OneOf(vec![tag]));
    }
    let patch = AttrsPatch {
        headers: Some((attrs.system, attrs.user)),
        tags: Some(attrs.tags),
        acl: Some(attrs.acl),
        owner: attrs.owner,
        file_owner: Some(call.file_owner()),
        touch: true,
        modified,
    };
    Ok(ctx.volume.set_attrs(at, patch, &precondition).await?)
}

/// UploadPartCopy. Durable on return. Errors: those of the source, InvalidArgument for a
/// malformed range, InvalidRange for one beyond the source, NoSuchUpload, InvalidRequest over
/// 5 GiB. Source: S3 API, UploadPartCopy.
pub async fn upload_part_copy<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<Write>,
    _bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let (number, id) = part_and_upload(&call.query)?;
    let range = copy_source_range(call.headers())?;
    let from = copy_source(call.headers())?;
    let upload = named_upload(ctx, at, &id).await?;
    let source = open_source(ctx, call, &from).await?;
    let len_bytes = source.info().len_bytes;
    let range = range.unwrap_or(0..len_bytes);
    if range.end > len_bytes {
        let message =
            format!("Range specified is not valid for source object of size: {len_bytes}");
        return Err(S3Code::InvalidRange.with(message));
    }
    check_len(range.end - range.start)?;
    let algorithm = upload.checksum.map(|(algorithm, _)| algorithm);
    let part = PartTarget {
        at,
        id: &id,
        number,
    };
    let info = store_part(ctx, part, &source, range, algorithm).await?;
    let mut xml = XmlWriter::root("CopyPartResult");
    write_result(
        &mut xml,
        info.etag.as_str(),
        info.modified,
        info.checksum.as_ref(),
    );
    xml.close("CopyPartResult");
    Ok(respond::xml(xml))
}

/// Where a part goes.
struct PartTarget<'a> {
    at: &'a Locator,
    id: &'a UploadId,
    number: PartNumber,
}

async fn store_part<V: Volume>(
    ctx: &Ctx<V>,
    part: PartTarget<'_>,
    source: &V::Object,
    range: Range<u64>,
    algorithm: Option<DigestAlgorithm>,
) -> Result<fsstore::object::PartInfo, StoreError> {
    let options = StageOptions {
        len_bytes: Some(range.end - range.start),
        digests: digests_with(algorithm),
    };
    let volume = &ctx.volume;
    let staged = volume.stage_part(part.at, part.id, part.number, options);
    let mut staged = staged.await?;
    volume.copy_into_part(&mut staged, source, range).await?;
    staged.commit(Vec::new(), algorithm).await
}

fn digests_with(algorithm: Option<DigestAlgorithm>) -> DigestSet {
    algorithm.map_or(DigestSet::default(), |a| DigestSet::default().with(a))
}

/// Opens the source where the caller may read it and its conditions hold.
async fn open_source<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    from: &Locator,
) -> Result<V::Object, S3Error> {
    let bucket = ctx.volume.bucket(&from.bucket).await?;
    check_source_owner(call, &bucket)?;
    let source = permit::open(ctx, call, &bucket, from).await?;
    call.grant_object::<Read>(&bucket, &source.info().attrs)?;
    // Every condition that fails on a source is a 412: a copy cannot be "not modified".
    conditions::copy_source_precondition(call.headers()).check_read(source.info())?;
    Ok(source)
}

fn check_source_owner(call: &Call, bucket: &BucketInfo) -> Result<(), S3Error> {
    match call.headers().get("x-amz-source-expected-bucket-owner") {
        Some(expected)
            if expected.as_bytes() != call.owner(bucket.owner.as_deref()).id.as_bytes() =>
        {
            Err(S3Code::AccessDenied.into())
        }
        Some(_) | None => Ok(()),
    }
}

fn check_len(len_bytes: u64) -> Result<(), S3Error> {
    if len_bytes <= MAX_PUT_LEN_BYTES {
        return Ok(());
    }
    let message = format!(
        "The specified copy source is larger than the maximum allowable size for a copy source: \
         {MAX_PUT_LEN_BYTES}"
    );
    Err(S3Code::InvalidRequest
        .with(message)
        .field("ArgumentName", COPY_SOURCE))
}

fn write_result(xml: &mut XmlWriter, etag: &str, modified: Timestamp, checksum: Option<&Checksum>) {
    xml.text("LastModified", &iso_time(modified));
    xml.etag(etag);
    if let Some(checksum) = checksum {
        object_checksum::write_element(xml, checksum, None);
    }
}
