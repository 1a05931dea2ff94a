//! GetObject and HeadObject: conditions, ranges, parts, and the headers of an object.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fsstore::error::StoreError;
use fsstore::name::PartNumber;
use fsstore::object::{Checksum, Locator, ObjectInfo, ObjectPart};
use fsstore::volume::{BucketInfo, Object, Volume};
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, EXPIRES};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::ctx::{Call, Ctx};
use super::get_body::{FRAME_LEN_BYTES, ObjectBody};
use super::object_checksum::{self, kind_name};
use super::object_headers::{put_described, put_state};
use super::permit;
use super::query::Query;
use super::respond::{self, Body};
use crate::auth::grant::Read;
use crate::conditions::{self, Refusal, refused_read};
use crate::errors::{S3Code, S3Error};
use crate::zerocopy::Outbox;

/// Query parameters that replace headers of the answer. Source: S3 API, GetObject.
const OVERRIDES: [(&str, &str); 6] = [
    ("response-cache-control", "cache-control"),
    ("response-content-disposition", "content-disposition"),
    ("response-content-encoding", "content-encoding"),
    ("response-content-language", "content-language"),
    ("response-content-type", "content-type"),
    ("response-expires", "expires"),
];

/// How often an object is opened again that an in-place writer changed before its first byte was
/// sent.
const MAX_OPENS: u32 = 3;

/// GetObject. A range that is malformed, or more than one, is ignored: the answer is the whole
/// object with 200, as at AWS. What fits one frame is read before the answer begins, so that a
/// failing disk is a 500 and not a broken connection. Errors: NoSuchKey, AccessDenied,
/// PreconditionFailed, InvalidRange, InvalidPartNumber, InvalidRequest.
/// Source: S3 API, GetObject.
pub async fn get_object<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    for _ in 0..MAX_OPENS {
        match open_and_answer(ctx, call, bucket, at).await? {
            Opened::Answered(response) => return Ok(response),
            Opened::Changed => {}
        }
    }
    Err(StoreError::ChangedWhileRead.into())
}

enum Opened {
    Answered(Response<Body>),
    /// The bytes moved while they were read; nothing was sent.
    Changed,
}

async fn open_and_answer<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Opened, S3Error> {
    let object = permit::open(ctx, call, bucket, at).await;
    let object = object.map_err(refused_look)?;
    let info = object.info();
    call.grant_object::<Read>(bucket, &info.attrs)?;
    if let Some(unmodified) = check_conditions(call.headers(), info)? {
        return Ok(Opened::Answered(unmodified));
    }
    let parts = match part_number(&call.query)? {
        Some(_) if info.part_count.is_some() => object.parts().await?,
        Some(_) | None => Vec::new(),
    };
    let wanted = Wanted::of(call, info, &parts)?;
    let mut response = answer(call, info, &wanted)?;
    *response.body_mut() = if wanted.bytes.end - wanted.bytes.start > FRAME_LEN_BYTES {
        let outbox = call.parts.extensions.get::<Outbox>().cloned();
        Body::stream(ObjectBody::new(Arc::new(object), wanted.bytes).with_outbox(outbox))
    } else {
        match read_whole(&object, wanted.bytes).await {
            Ok(bytes) => Body::full(bytes),
            Err(StoreError::ChangedWhileRead) => return Ok(Opened::Changed),
            Err(error) => return Err(error.into()),
        }
    };
    Ok(Opened::Answered(response))
}

/// Bytes that fit one frame. Errors: ChangedWhileRead, Io.
async fn read_whole<O: Object>(object: &O, range: Range<u64>) -> Result<Bytes, StoreError> {
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    let len_bytes = range.end - range.start;
    let bytes = match object.try_read(range.clone()) {
        Some(read) => read?,
        None => object.read(range).await?,
    };
    if bytes.len() as u64 != len_bytes {
        return Err(StoreError::ChangedWhileRead);
    }
    object.check_unchanged()?;
    Ok(bytes)
}

/// HeadObject: the headers of [`get_object`], without a body. Source: S3 API, HeadObject.
pub async fn head_object<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let number = part_number(&call.query)?;
    let object = permit::open(ctx, call, bucket, at).await;
    let object = object.map_err(refused_look)?;
    let parts = match number {
        None => Vec::new(),
        Some(_) => object.parts().await?,
    };
    let info = object.info();
    call.grant_object::<Read>(bucket, &info.attrs)?;
    if let Some(unmodified) = check_conditions(call.headers(), info)? {
        return Ok(unmodified);
    }
    let wanted = Wanted::of(call, info, &parts)?;
    answer(call, info, &wanted)
}

/// The answer where an object cannot be looked at. Where nothing stands there is no delete marker
/// either, and a client that may know so is told.
fn refused_look(refused: S3Error) -> S3Error {
    if refused.code() != S3Code::NoSuchKey {
        return refused;
    }
    let name = HeaderName::from_static("x-amz-delete-marker");
    refused.header(name, HeaderValue::from_static("false"))
}

/// None where the conditions hold, the 304 where the client has what stands. Errors:
/// PreconditionFailed.
fn check_conditions(
    headers: &HeaderMap,
    info: &ObjectInfo,
) -> Result<Option<Response<Body>>, S3Error> {
    let failed = match conditions::precondition(headers).check_read(info) {
        Ok(()) => return Ok(None),
        Err(StoreError::PreconditionFailed(failed)) => failed,
        Err(other) => return Err(other.into()),
    };
    match refused_read(failed) {
        Refusal::PreconditionFailed => Err(StoreError::PreconditionFailed(failed).into()),
        Refusal::NotModified => {
            let mut response = respond::empty(StatusCode::NOT_MODIFIED);
            let mut all = HeaderMap::new();
            put_described(&mut all, info);
            let headers = response.headers_mut();
            put_state(headers, info);
            for name in [CACHE_CONTROL, EXPIRES] {
                if let Some(value) = all.remove(&name) {
                    headers.insert(name, value);
                }
            }
            Ok(Some(response))
        }
    }
}

/// The part that a request names. Errors: InvalidArgument.
fn part_number(query: &Query) -> Result<Option<PartNumber>, S3Error> {
    query.get("partNumber").map(parse_part_number).transpose()
}

/// A part number, 1 to 10,000. Errors: InvalidArgument.
pub fn parse_part_number(text: &str) -> Result<PartNumber, S3Error> {
    let number = text.parse().ok().and_then(|n| PartNumber::new(n).ok());
    number.ok_or_else(|| {
        let message = "Part number must be an integer between 1 and 10000, inclusive";
        S3Error::invalid_argument("partNumber", text, message)
    })
}

/// What of an object is asked for.
struct Wanted {
    bytes: Range<u64>,
    /// Whether the answer is a 206 that says which bytes it has.
    partial: bool,
    /// The checksum of these bytes, where one is known and asked for.
    checksum: Option<(Checksum, Option<u16>)>,
    /// Whether the number of parts is told.
    of_parts: bool,
}

impl Wanted {
    fn of(call: &Call, info: &ObjectInfo, parts: &[ObjectPart]) -> Result<Self, S3Error> {
        let headers = call.headers();
        let number = part_number(&call.query)?;
        let has_range = headers.contains_key(http::header::RANGE);
        if number.is_some() && has_range {
            let message = "Cannot specify both Range header and partNumber query parameter";
            return Err(S3Code::InvalidRequest.with(message));
        }
        let with_checksum = headers
            .get("x-amz-checksum-mode")
            .is_some_and(|mode| mode.as_bytes().eq_ignore_ascii_case(b"ENABLED"));
        let wanted = match (number, conditions::range(headers, info)) {
            (Some(number), _) => Self::part(info, parts, number)?,
            (None, Some(range)) => {
                let bytes = range.resolve(info.len_bytes).map_err(|error| {
                    let asked = headers.get(http::header::RANGE);
                    let asked = asked.and_then(|value| value.to_str().ok()).unwrap_or("");
                    S3Error::from(error).field("RangeRequested", asked)
                })?;
                Self {
                    bytes,
                    partial: true,
                    checksum: None,
                    of_parts: false,
                }
            }
            (None, None) => Self::whole(info),
        };
        Ok(Self {
            checksum: wanted.checksum.filter(|_| with_checksum),
            ..wanted
        })
    }

    fn whole(info: &ObjectInfo) -> Self {
        Self {
            bytes: 0..info.len_bytes,
            partial: false,
            checksum: object_checksum::shown(info).map(|sum| (sum, info.part_count)),
            of_parts: false,
        }
    }

    /// An object that was not uploaded in parts is its own first part.
    fn part(info: &ObjectInfo, parts: &[ObjectPart], number: PartNumber) -> Result<Self, S3Error> {
        if info.part_count.is_none() {
            if number.get() != 1 {
                return Err(no_such_part(number, 1));
            }
            return Ok(Self {
                partial: info.len_bytes > 0,
                ..Self::whole(info)
            });
        }
        let found = parts.iter().find(|part| part.number == number);
        let part = found.ok_or_else(|| no_such_part(number, info.part_count.unwrap_or(1)))?;
        let kind = object_checksum::shown(info).map(|sum| sum.kind);
        let checksum = part.checksum.clone().map(|sum| Checksum {
            kind: kind.unwrap_or(sum.kind),
            ..sum
        });
        Ok(Self {
            bytes: part.offset_bytes..part.offset_bytes + part.len_bytes,
            partial: part.len_bytes > 0,
            checksum: checksum.map(|sum| (sum, None)),
            of_parts: true,
        })
    }
}

fn no_such_part(number: PartNumber, part_count: u16) -> S3Error {
    S3Error::from(S3Code::InvalidPartNumber)
        .field("PartNumberRequested", number.get().to_string())
        .field("ActualPartCount", part_count.to_string())
}

/// The answer without its body.
fn answer(call: &Call, info: &ObjectInfo, wanted: &Wanted) -> Result<Response<Body>, S3Error> {
    let mut response = respond::empty(match wanted.partial {
        true => StatusCode::PARTIAL_CONTENT,
        false => StatusCode::OK,
    });
    let headers = response.headers_mut();
    put_state(headers, info);
    put_described(headers, info);
    override_headers(call, headers)?;
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let len_bytes = wanted.bytes.end - wanted.bytes.start;
    headers.insert(CONTENT_LENGTH, HeaderValue::from(len_bytes));
    if wanted.partial {
        let (first, last) = (wanted.bytes.start, wanted.bytes.end - 1);
        let value = format!("bytes {first}-{last}/{}", info.len_bytes);
        let value = HeaderValue::from_str(&value).expect("digits and signs are visible");
        headers.insert(CONTENT_RANGE, value);
    }
    if let (true, Some(count)) = (wanted.of_parts, info.part_count) {
        headers.insert("x-amz-mp-parts-count", HeaderValue::from(count));
    }
    if let Some((checksum, part_count)) = &wanted.checksum {
        object_checksum::put_value(headers, checksum, *part_count);
        let kind = HeaderValue::from_static(kind_name(checksum.kind));
        headers.insert(object_checksum::CHECKSUM_TYPE, kind);
    }
    Ok(response)
}

/// Replaces headers as response-* parameters ask. Errors: InvalidRequest for anonymous callers,
/// who could make a link that looks like the owner's.
fn override_headers(call: &Call, headers: &mut HeaderMap) -> Result<(), S3Error> {
    for (parameter, name) in OVERRIDES {
        let Some(value) = call.query.get_nonempty(parameter) else {
            continue;
        };
        if call.caller.is_none() {
            let message = "Request specific response headers cannot be used for anonymous GET \
                           requests.";
            return Err(S3Code::InvalidRequest.with(message));
        }
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
            S3Error::invalid_argument(parameter, value, "A header cannot carry this value.")
        })?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::get_body::tests::Held;
    use super::*;
    use std::sync::atomic::Ordering;

    #[tokio::test]
    async fn a_small_object_that_changed_is_not_answered_with() {
        for is_cached in [true, false] {
            let object = Held::new(4096, is_cached);
            let read = read_whole(&*object, 6..4000).await.unwrap();
            assert_eq!(read.len(), 3994);
            assert!(read_whole(&*object, 0..0).await.unwrap().is_empty());
            object.changed.store(true, Ordering::Relaxed);
            let refused = read_whole(&*object, 0..4096).await;
            assert!(matches!(refused, Err(StoreError::ChangedWhileRead)));
        }
    }
}
