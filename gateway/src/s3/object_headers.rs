//! What an object says of itself, between headers and [`Attributes`]: the headers S3 keeps with
//! an object, the client's metadata, its tags.
//!
//! Source: S3 API, PutObject and GetObject; S3 User Guide, "Working with object metadata".

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use fsstore::object::ObjectInfo;
use http::header::{ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::respond::http_time;
use crate::errors::{S3Code, S3Error};

/// Most bytes of user metadata, names and values together. Source: S3 User Guide.
pub const MAX_USER_METADATA_LEN_BYTES: usize = 2048;
/// What an object without a Content-Type is. Source: S3 API, PutObject.
pub const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";
/// The only storage class there is.
pub const STORAGE_CLASS: &str = "STANDARD";
/// Before each name of the client's own metadata.
pub const META_PREFIX: &str = "x-amz-meta-";

const CONTENT_TYPE: &str = "content-type";
/// Where a website sends who asks for an object; an object's own, never copied.
pub const WEBSITE_REDIRECT: &str = "x-amz-website-redirect-location";

/// Headers kept with an object and given back as they came.
const KEPT: [&str; 7] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    CONTENT_TYPE,
    "expires",
    WEBSITE_REDIRECT,
];

/// The `system` and `user` maps of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Described {
    /// Kept headers by lower-case name.
    pub system: BTreeMap<String, String>,
    /// The client's metadata.
    pub user: BTreeMap<String, String>,
}

/// Reads what a request says of the object it makes. `aws-chunked` is taken out of
/// Content-Encoding: it describes the request. Errors: MetadataTooLarge, InvalidArgument.
pub fn described(headers: &HeaderMap) -> Result<Described, S3Error> {
    let mut described = Described::default();
    for name in KEPT {
        let Some(value) = joined(headers, name) else {
            continue;
        };
        let value = match name {
            "content-encoding" => match without_aws_chunked(&value) {
                Some(value) => value,
                None => continue,
            },
            WEBSITE_REDIRECT => checked_redirect(value)?,
            _ => value,
        };
        described.system.insert(name.to_owned(), value);
    }
    if !described.system.contains_key(CONTENT_TYPE) {
        let value = DEFAULT_CONTENT_TYPE.to_owned();
        described.system.insert(CONTENT_TYPE.to_owned(), value);
    }
    for name in headers.keys() {
        if let Some(short) = name.as_str().strip_prefix(META_PREFIX)
            && !short.is_empty()
            && let Some(value) = joined(headers, name.as_str())
        {
            described.user.insert(short.to_owned(), value);
        }
    }
    check_user_len(&described.user)?;
    Ok(described)
}

/// Refuses more than [`MAX_USER_METADATA_LEN_BYTES`]. Errors: MetadataTooLarge.
pub fn check_user_len(user: &BTreeMap<String, String>) -> Result<(), S3Error> {
    let len: usize = user.iter().map(|(k, v)| k.len() + v.len()).sum();
    if len > MAX_USER_METADATA_LEN_BYTES {
        return Err(S3Error::from(S3Code::MetadataTooLarge)
            .field("Size", len.to_string())
            .field("MaxSizeAllowed", MAX_USER_METADATA_LEN_BYTES.to_string()));
    }
    Ok(())
}

/// Every value of a header, joined by commas as HTTP joins them. Bytes that are not UTF-8 are
/// taken for Latin-1, which is what an HTTP client of old means by them.
fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).iter().map(text_of);
    let first = values.next()?;
    Some(values.fold(first, |all, next| all + "," + &next))
}

fn text_of(value: &HeaderValue) -> String {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.to_owned(),
        Err(_) => value.as_bytes().iter().map(|b| char::from(*b)).collect(),
    }
}

fn without_aws_chunked(value: &str) -> Option<String> {
    let kept: Vec<&str> = value
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!kept.is_empty()).then(|| kept.join(", "))
}

/// Source: S3 API, PutObject, x-amz-website-redirect-location.
fn checked_redirect(value: String) -> Result<String, S3Error> {
    const MAX_LEN_BYTES: usize = 2048;
    let begins = ["/", "http://", "https://"];
    if value.len() <= MAX_LEN_BYTES && begins.iter().any(|begin| value.starts_with(begin)) {
        return Ok(value);
    }
    let message = "The website redirect location must have a prefix of 'http://' or 'https://' \
                   or '/'.";
    Err(S3Error::invalid_argument(WEBSITE_REDIRECT, value, message))
}

/// Puts on an answer what is true of every answer about an object's state: ETag, Last-Modified,
/// and the headers of a 304 besides. Source: RFC 9110 section 15.4.5.
pub fn put_state(headers: &mut HeaderMap, info: &ObjectInfo) {
    headers.insert(ETAG, etag_value(info.etag.as_str()));
    if let Ok(value) = HeaderValue::from_str(&http_time(info.modified)) {
        headers.insert(LAST_MODIFIED, value);
    }
}

/// A tag in quotes.
pub fn etag_value(tag: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{tag}\""))
        .expect("an ETag is visible characters without a quote")
}

/// Puts on an answer what the client said of the object: kept headers, metadata, the number of
/// tags. What a header cannot carry is RFC 2047 encoded; a name that cannot be a header's is
/// counted in x-amz-missing-meta.
pub fn put_described(headers: &mut HeaderMap, info: &ObjectInfo) {
    for name in KEPT {
        let value = info.attrs.system.get(name).map(String::as_str);
        let value = match name {
            CONTENT_TYPE => value.or(Some(DEFAULT_CONTENT_TYPE)),
            _ => value,
        };
        if let Some(value) = value {
            headers.insert(HeaderName::from_static(name), header_text(value));
        }
    }
    let mut missing = 0_usize;
    for (name, value) in &info.attrs.user {
        match HeaderName::try_from(format!("{META_PREFIX}{name}")) {
            Ok(name) => {
                headers.insert(name, header_text(value));
            }
            Err(_) => missing += 1,
        }
    }
    if missing > 0 {
        headers.insert("x-amz-missing-meta", HeaderValue::from(missing));
    }
    if !info.attrs.tags.is_empty() {
        let count = HeaderValue::from(info.attrs.tags.len());
        headers.insert("x-amz-tagging-count", count);
    }
}

/// Text as a header carries it: as it is, raw UTF-8 included, and RFC 2047 encoded where control
/// characters or outer spaces would not survive.
fn header_text(text: &str) -> HeaderValue {
    if text.trim_matches([' ', '\t']) == text
        && let Ok(value) = HeaderValue::from_bytes(text.as_bytes())
    {
        return value;
    }
    let encoded = format!("=?UTF-8?B?{}?=", BASE64.encode(text));
    HeaderValue::from_str(&encoded).expect("base64 is visible characters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use fsstore::name::{ETag, ObjectKey};
    use fsstore::object::{Attributes, KnownDigests, Timestamp};

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        map
    }

    fn shown(described: Described) -> HeaderMap {
        let info = ObjectInfo {
            key: ObjectKey::parse("k").unwrap(),
            version: None,
            len_bytes: 0,
            etag: ETag::provisional(1),
            etags_before: Vec::new(),
            modified: Timestamp(0),
            attrs: Attributes {
                system: described.system,
                user: described.user,
                ..Attributes::default()
            },
            checksum: None,
            digests: KnownDigests::default(),
            part_count: None,
        };
        let mut headers = HeaderMap::new();
        put_described(&mut headers, &info);
        headers
    }

    #[test]
    fn aws_chunked_is_no_encoding_of_the_object() {
        for (sent, kept) in [
            ("gzip", Some("gzip")),
            ("deflate, gzip", Some("deflate, gzip")),
            ("gzip, aws-chunked", Some("gzip")),
            ("aws-chunked,gzip", Some("gzip")),
            ("aws-chunked", None),
            ("aws-chunked, AWS-Chunked", None),
        ] {
            let described = described(&headers(&[("content-encoding", sent.as_bytes())])).unwrap();
            let found = described.system.get("content-encoding");
            assert_eq!(found.map(String::as_str), kept, "{sent}");
        }
    }

    #[test]
    fn what_was_said_is_given_back() {
        let sent = headers(&[
            ("content-type", b"text/plain; charset=utf-8"),
            ("expires", b"some day"),
            ("x-amz-meta-name", "héllo".as_bytes()),
            ("x-amz-meta-empty", b""),
            ("x-amz-meta-twice", b"a"),
            ("x-amz-meta-twice", b"b"),
            ("x-other", b"no"),
        ]);
        let shown = shown(described(&sent).unwrap());
        assert_eq!(shown["content-type"], "text/plain; charset=utf-8");
        assert_eq!(shown["expires"], "some day");
        assert_eq!(shown["x-amz-meta-name"].as_bytes(), "héllo".as_bytes());
        assert_eq!(shown["x-amz-meta-empty"], "");
        assert_eq!(shown["x-amz-meta-twice"], "a,b");
        assert!(!shown.contains_key("x-other"));
    }

    #[test]
    fn without_a_content_type_it_is_binary() {
        let shown = shown(described(&HeaderMap::new()).unwrap());
        assert_eq!(shown["content-type"], DEFAULT_CONTENT_TYPE);
    }

    #[test]
    fn metadata_made_on_disk_cannot_break_an_answer() {
        let mut described = Described::default();
        described.user.insert("ok".into(), "two\r\nlines".into());
        described.user.insert("no name".into(), "x".into());
        let shown = shown(described);
        assert_eq!(shown["x-amz-meta-ok"], "=?UTF-8?B?dHdvDQpsaW5lcw==?=");
        assert_eq!(shown["x-amz-missing-meta"], "1");
    }

    #[test]
    fn metadata_over_2_kib_is_refused() {
        let most = "v".repeat(2044);
        assert!(described(&headers(&[("x-amz-meta-name", most.as_bytes())])).is_ok());
        let more = "v".repeat(2045);
        let error = described(&headers(&[("x-amz-meta-name", more.as_bytes())])).unwrap_err();
        assert_eq!(error.code(), S3Code::MetadataTooLarge);
    }

    #[test]
    fn a_redirect_leads_somewhere() {
        let asked = |to: &str| described(&headers(&[(WEBSITE_REDIRECT, to.as_bytes())]));
        assert!(asked("/other").is_ok());
        assert!(asked("https://example.com/").is_ok());
        assert_eq!(
            asked("ftp://x").unwrap_err().code(),
            S3Code::InvalidArgument
        );
    }
}
