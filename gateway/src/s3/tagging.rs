//! Tags of buckets and objects: documents, and the header `x-amz-tagging`.
//!
//! Source: S3 API, PutBucketTagging, PutObjectTagging and their kin; S3 User Guide, "Categorizing
//! your storage using tags".

use std::collections::BTreeMap;

use fsstore::object::{Locator, Precondition};
use fsstore::volume::{AttrsPatch, BucketInfo, Object, Volume};
use http::{Response, StatusCode};

use super::ctx::{Call, Ctx, RequestBody};
use super::permit;
use super::query::Query;
use super::respond::{self, Body};
use super::xml::{self, XmlWriter, malformed};
use crate::auth::grant::{Grant, Manage, Read, Write};
use crate::errors::{S3Code, S3Error};

/// Name of the bucket setting: a JSON object of keys and values.
pub const SETTING: &str = "tagging";
/// Most tags of a bucket.
pub const MAX_BUCKET_TAGS: usize = 50;
/// Most tags of an object.
pub const MAX_OBJECT_TAGS: usize = 10;
/// Longest key, in UTF-16 units as AWS counts.
const MAX_KEY_LEN: usize = 128;
/// Longest value, in UTF-16 units.
const MAX_VALUE_LEN: usize = 256;

/// GetBucketTagging. Errors: NoSuchTagSet.
pub fn get_bucket_tagging(
    _grant: Grant<Manage>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let Some(text) = bucket.settings.get(SETTING) else {
        return Err(S3Error::from(S3Code::NoSuchTagSet).field("BucketName", bucket.name.as_str()));
    };
    let tags = serde_json::from_str(text)
        .map_err(|error| S3Error::from(S3Code::InternalError).cause(error))?;
    Ok(respond::xml(document(&tags)))
}

/// PutBucketTagging: 204. Durable. Errors: MalformedXML, InvalidTag.
pub async fn put_bucket_tagging<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<Manage>,
    bucket: &BucketInfo,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let limit = ctx.config.max_document_len_bytes;
    let tags = parse_document(&call.read_document(body, limit).await?, MAX_BUCKET_TAGS)?;
    let text = serde_json::to_string(&tags)
        .map_err(|error| S3Error::from(S3Code::InternalError).cause(error))?;
    let volume = &ctx.volume;
    volume
        .set_bucket_setting(&bucket.name, SETTING, Some(text))
        .await?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

/// DeleteBucketTagging: 204. Durable.
pub async fn delete_bucket_tagging<V: Volume>(
    ctx: &Ctx<V>,
    _grant: Grant<Manage>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let volume = &ctx.volume;
    volume
        .set_bucket_setting(&bucket.name, SETTING, None)
        .await?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

/// GetObjectTagging. Errors: NoSuchKey, AccessDenied.
pub async fn get_object_tagging<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    bucket: &BucketInfo,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    let object = permit::open(ctx, call, bucket, at).await?;
    let info = object.info();
    call.grant_object::<Read>(bucket, &info.attrs)?;
    Ok(respond::xml(document(&info.attrs.tags)))
}

/// PutObjectTagging: 200. Durable. Errors: NoSuchKey, MalformedXML, InvalidTag.
pub async fn put_object_tagging<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<Write>,
    at: &Locator,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let limit = ctx.config.max_document_len_bytes;
    let tags = parse_document(&call.read_document(body, limit).await?, MAX_OBJECT_TAGS)?;
    set_object_tags(ctx, at, tags).await?;
    Ok(respond::empty(StatusCode::OK))
}

/// DeleteObjectTagging: 204. Durable. Errors: NoSuchKey.
pub async fn delete_object_tagging<V: Volume>(
    ctx: &Ctx<V>,
    _grant: Grant<Write>,
    at: &Locator,
) -> Result<Response<Body>, S3Error> {
    set_object_tags(ctx, at, BTreeMap::new()).await?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

async fn set_object_tags<V: Volume>(
    ctx: &Ctx<V>,
    at: &Locator,
    tags: BTreeMap<String, String>,
) -> Result<(), S3Error> {
    let patch = AttrsPatch {
        tags: Some(tags),
        ..AttrsPatch::default()
    };
    ctx.volume
        .set_attrs(at, patch, &Precondition::default())
        .await?;
    Ok(())
}

/// The tags of the header `x-amz-tagging`, which is a query string. Errors: InvalidArgument,
/// InvalidTag.
pub fn from_header(call: &Call) -> Result<BTreeMap<String, String>, S3Error> {
    match call.headers().get("x-amz-tagging") {
        None => Ok(BTreeMap::new()),
        Some(value) => from_query_string(value.to_str().map_err(|_| bad_header(""))?),
    }
}

/// As [`from_header`], from the text.
pub fn from_query_string(text: &str) -> Result<BTreeMap<String, String>, S3Error> {
    let query = Query::parse(Some(text)).map_err(|_| bad_header(text))?;
    let pairs = query
        .iter()
        .map(|(key, value)| (key.to_owned(), value.unwrap_or_default().to_owned()));
    collect(pairs, MAX_OBJECT_TAGS)
}

fn bad_header(value: &str) -> S3Error {
    S3Error::invalid_argument(
        "x-amz-tagging",
        value,
        "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters \
         without tag name duplicates.",
    )
}

/// Reads a `<Tagging>` document. Errors: MalformedXML, InvalidTag.
pub fn parse_document(
    document: &[u8],
    max_tags: usize,
) -> Result<BTreeMap<String, String>, S3Error> {
    let root = xml::parse(document, "Tagging")?;
    root.allow_only(&["TagSet"])?;
    let set = root.child("TagSet").ok_or_else(malformed)?;
    set.allow_only(&["Tag"])?;
    let mut pairs = Vec::with_capacity(set.children.len());
    for tag in &set.children {
        tag.allow_only(&["Key", "Value"])?;
        pairs.push((
            tag.required("Key")?.to_owned(),
            tag.required("Value")?.to_owned(),
        ));
    }
    collect(pairs.into_iter(), max_tags)
}

fn collect(
    pairs: impl Iterator<Item = (String, String)>,
    max_tags: usize,
) -> Result<BTreeMap<String, String>, S3Error> {
    let mut tags = BTreeMap::new();
    for (key, value) in pairs {
        check_tag(&key, &value)?;
        if tags.len() == max_tags {
            let what = if max_tags == MAX_OBJECT_TAGS {
                "Object tags cannot be greater than 10"
            } else {
                "Bucket tag count cannot be greater than 50"
            };
            return Err(S3Code::InvalidTag.with(what));
        }
        if tags.contains_key(&key) {
            return Err(S3Code::InvalidTag
                .with("Cannot provide multiple Tags with the same key")
                .field("TagKey", key));
        }
        tags.insert(key, value);
    }
    Ok(tags)
}

fn check_tag(key: &str, value: &str) -> Result<(), S3Error> {
    let refuse = |why: &'static str| Err(S3Code::InvalidTag.with(why).field("TagKey", key));
    if key.is_empty() || key.encode_utf16().count() > MAX_KEY_LEN {
        return refuse("The TagKey you have provided is invalid");
    }
    if value.encode_utf16().count() > MAX_VALUE_LEN {
        return refuse("The TagValue you have provided is invalid");
    }
    if key.starts_with("aws:") {
        return refuse("System tags cannot be added/updated by requester");
    }
    let is_known = |c: char| c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c);
    if !key.chars().all(is_known) {
        return refuse("The TagKey you have provided is invalid");
    }
    if !value.chars().all(is_known) {
        return refuse("The TagValue you have provided is invalid");
    }
    Ok(())
}

fn document(tags: &BTreeMap<String, String>) -> XmlWriter {
    let mut xml = XmlWriter::root("Tagging");
    xml.open("TagSet");
    for (key, value) in tags {
        xml.open("Tag");
        xml.text("Key", key);
        xml.text("Value", value);
        xml.close("Tag");
    }
    xml.close("TagSet");
    xml.close("Tagging");
    xml
}

#[cfg(test)]
mod tests {
    use super::{MAX_OBJECT_TAGS, from_query_string, parse_document};
    use crate::errors::S3Code;

    fn set(tags: &[(String, String)]) -> Vec<u8> {
        let tags: String = tags
            .iter()
            .map(|(key, value)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>"))
            .collect();
        format!("<Tagging><TagSet>{tags}</TagSet></Tagging>").into_bytes()
    }

    fn numbered(count: usize) -> Vec<(String, String)> {
        (0..count)
            .map(|n| (format!("k{n}"), "v".to_owned()))
            .collect()
    }

    #[test]
    fn ten_tags_of_the_longest_lengths_are_taken_and_no_more() {
        let long: Vec<_> = (0..10)
            .map(|n| (format!("{n}{}", "k".repeat(127)), "v".repeat(256)))
            .collect();
        assert_eq!(
            parse_document(&set(&long), MAX_OBJECT_TAGS).unwrap().len(),
            10
        );
        for bad in [
            numbered(11),
            vec![("k".repeat(129), String::new())],
            vec![("k".to_owned(), "v".repeat(257))],
            vec![(String::new(), "v".to_owned())],
            vec![("aws:k".to_owned(), "v".to_owned())],
            vec![
                ("a".to_owned(), "1".to_owned()),
                ("a".to_owned(), "2".to_owned()),
            ],
            vec![("a*".to_owned(), "1".to_owned())],
        ] {
            let error = parse_document(&set(&bad), MAX_OBJECT_TAGS).unwrap_err();
            assert_eq!(error.code(), S3Code::InvalidTag, "{bad:?}");
        }
    }

    #[test]
    fn a_document_of_another_shape_is_malformed() {
        for bad in [
            "<Tagging/>",
            "<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>",
            "<Tagging><TagSet><Tags/></TagSet></Tagging>",
            "<TagSet/>",
        ] {
            let error = parse_document(bad.as_bytes(), 10).unwrap_err();
            assert_eq!(error.code(), S3Code::MalformedXML, "{bad}");
        }
    }

    #[test]
    fn the_header_is_a_query_string() {
        let tags = from_query_string("a=1&b+c=x%2Fy&d").unwrap();
        let tags: Vec<_> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(tags, [("a", "1"), ("b c", "x/y"), ("d", "")]);
        assert!(from_query_string("a=%zz").is_err());
    }
}
