//! GetObjectAttributes.

use fsstore::object::{Locator, ObjectInfo, ObjectPart};
use fsstore::volume::{BucketInfo, Object, Volume};
use http::header::LAST_MODIFIED;
use http::{HeaderValue, Response};

use super::ctx::{Call, Ctx};
use super::object_checksum::{self, kind_name};
use super::object_headers::STORAGE_CLASS;
use super::permit;
use super::respond::{self, Body, http_time};
use super::xml::XmlWriter;
use crate::auth::grant::Read;
use crate::conditions;
use crate::errors::{S3Code, S3Error};

/// The header that says which attributes are asked for.
const OBJECT_ATTRIBUTES: &str = "x-amz-object-attributes";
/// Most parts in one answer. Source: S3 API, GetObjectAttributes.
const MAX_PARTS_PAGE: usize = 1000;

/// Which attributes are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Asked {
    etag: bool,
    checksum: bool,
    parts: bool,
    storage_class: bool,
    size: bool,
}

impl Asked {
    fn of(call: &Call) -> Result<Self, S3Error> {
        let mut asked = Self::default();
        for value in call.headers().get_all(OBJECT_ATTRIBUTES) {
            let value = value.to_str().map_err(|_| invalid(""))?;
            for name in value.split(',').map(str::trim) {
                match name {
                    "ETag" => asked.etag = true,
                    "Checksum" => asked.checksum = true,
                    "ObjectParts" => asked.parts = true,
                    "StorageClass" => asked.storage_class = true,
                    "ObjectSize" => asked.size = true,
                    other => return Err(invalid(other)),
                }
            }
        }
        if asked == Self::default() {
            let message = "The x-amz-object-attributes header specifying the attributes to be \
                           retrieved is either missing or empty";
            return Err(S3Code::InvalidRequest.with(message));
        }
        Ok(asked)
    }
}

fn invalid(name: &str) -> S3Error {
    S3Error::invalid_argument(OBJECT_ATTRIBUTES, name, "Invalid attribute name specified.")
}

/// A page of parts.
struct PartsPage {
    after: u16,
    limit: usize,
}

impl PartsPage {
    fn of(call: &Call) -> Result<Self, S3Error> {
        let number = |name: &str| match call.header(name) {
            None => Ok(None),
            Some(text) => text.trim().parse::<u16>().map(Some).map_err(|_| {
                S3Error::invalid_argument(name, text, "It is a number from 0 to 65535.")
            }),
        };
        let limit = number("x-amz-max-parts")?.map_or(MAX_PARTS_PAGE, usize::from);
        Ok(Self {
            after: number("x-amz-part-number-marker")?.unwrap_or(0),
            limit: limit.min(MAX_PARTS_PAGE),
        })
    }
}

/// GetObjectAttributes. Parts are shown of every object that was uploaded in parts, with a
/// checksum or without. Errors: NoSuchKey, AccessDenied, InvalidArgument, InvalidRequest,
/// PreconditionFailed. Source: S3 API, GetObjectAttributes.
pub async fn get_object_attributes<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let asked = Asked::of(call)?;
    let page = PartsPage::of(call)?;
    let object = permit::open(ctx, call, bucket, at).await?;
    let info = object.info();
    call.grant_object::<Read>(bucket, &info.attrs)?;
    conditions::precondition(call.headers()).check_read(info)?;
    let mut xml = XmlWriter::root("GetObjectAttributesResponse");
    if asked.etag {
        // Without quotes, as AWS has it here and only here.
        xml.text("ETag", info.etag.as_str());
    }
    if asked.checksum
        && let Some(checksum) = object_checksum::shown(info)
    {
        xml.open("Checksum");
        object_checksum::write_element(&mut xml, &checksum, info.part_count);
        xml.text("ChecksumType", kind_name(checksum.kind));
        xml.close("Checksum");
    }
    if asked.parts && info.part_count.is_some() {
        write_parts(&mut xml, info, &object.parts().await?, &page);
    }
    if asked.storage_class {
        xml.text("StorageClass", STORAGE_CLASS);
    }
    if asked.size {
        xml.number("ObjectSize", info.len_bytes);
    }
    xml.close("GetObjectAttributesResponse");
    let mut response = respond::xml(xml);
    if let Ok(value) = HeaderValue::from_str(&http_time(info.modified)) {
        response.headers_mut().insert(LAST_MODIFIED, value);
    }
    Ok(response)
}

fn write_parts(xml: &mut XmlWriter, info: &ObjectInfo, parts: &[ObjectPart], page: &PartsPage) {
    let mut after = parts.iter().filter(|part| part.number.get() > page.after);
    let shown: Vec<&ObjectPart> = after.by_ref().take(page.limit).collect();
    let is_truncated = after.next().is_some();
    let next = shown.last().map_or(page.after, |part| part.number.get());
    xml.open("ObjectParts");
    xml.number("PartsCount", u64::from(info.part_count.unwrap_or(0)));
    xml.number("PartNumberMarker", u64::from(page.after));
    xml.number("NextPartNumberMarker", u64::from(next));
    xml.number("MaxParts", page.limit as u64);
    xml.boolean("IsTruncated", is_truncated);
    for part in shown {
        xml.open("Part");
        xml.number("PartNumber", u64::from(part.number.get()));
        xml.number("Size", part.len_bytes);
        if let Some(checksum) = &part.checksum {
            object_checksum::write_element(xml, checksum, None);
        }
        xml.close("Part");
    }
    xml.close("ObjectParts");
}
