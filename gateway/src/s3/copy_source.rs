//! The source of a copy, as `x-amz-copy-source` names it.

use fsstore::name::{BucketName, ObjectKey};
use fsstore::object::Locator;
use http::HeaderMap;

use super::query::percent_decode;
use crate::errors::{S3Error, bucket_name_error, key_error};

/// The header that makes a PUT a copy.
pub const COPY_SOURCE: &str = "x-amz-copy-source";

/// The source a request names: `bucket/key` or `/bucket/key`, percent-encoded (a `+` is a
/// space, as AWS has it), and `?versionId=` after it. Errors: InvalidArgument, InvalidBucketName,
/// KeyTooLongError, NotImplemented for every version but `null`, because none is kept.
/// Source: S3 API, CopyObject.
pub fn copy_source(headers: &HeaderMap) -> Result<Locator, S3Error> {
    let Some(value) = headers.get(COPY_SOURCE) else {
        return Err(malformed(""));
    };
    let text = value.to_str().map_err(|_| malformed(""))?;
    let (path, version) = match text.rsplit_once("?versionId=") {
        Some((path, version)) => (path, Some(version)),
        None => (text, None),
    };
    let path = percent_decode(&path.replace('+', " ")).map_err(|_| malformed(text))?;
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (bucket, key) = path.split_once('/').ok_or_else(|| malformed(text))?;
    if bucket.is_empty() || key.is_empty() {
        return Err(malformed(text));
    }
    if let Some(version) = version
        && version != "null"
        && !version.is_empty()
    {
        return Err(S3Error::not_implemented("Copying a version").field("VersionId", version));
    }
    let bucket = BucketName::parse(bucket).map_err(|error| bucket_name_error(&error, bucket))?;
    let key = ObjectKey::parse(key).map_err(|error| key_error(&error))?;
    Ok(Locator::new(bucket, key))
}

fn malformed(value: &str) -> S3Error {
    let message = "Copy Source must mention the source bucket and key: sourcebucket/sourcekey";
    S3Error::invalid_argument(COPY_SOURCE, value, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::S3Code;
    use http::HeaderValue;

    fn source(text: &str) -> Result<(String, String), S3Error> {
        let mut headers = HeaderMap::new();
        headers.insert(COPY_SOURCE, HeaderValue::from_str(text).unwrap());
        let at = copy_source(&headers)?;
        Ok((at.bucket.to_string(), at.key.to_string()))
    }

    #[test]
    fn a_source_is_decoded_once() {
        for (text, key) in [
            ("b/k", "k"),
            ("/b/k", "k"),
            ("b%2Fk", "k"),
            ("/b/a/b%20c", "a/b c"),
            ("/b/a+b", "a b"),
            ("/b/a%2Bb", "a+b"),
            ("/b/%3FversionId", "?versionId"),
            ("/b/%2525", "%25"),
            ("/b//k", "/k"),
            ("/b/k?versionId=null", "k"),
        ] {
            assert_eq!(source(text).unwrap(), ("b".into(), key.into()), "{text}");
        }
    }

    #[test]
    fn what_is_no_source_is_refused() {
        for (text, code) in [
            ("", S3Code::InvalidArgument),
            ("b", S3Code::InvalidArgument),
            ("/b/", S3Code::InvalidArgument),
            ("/b/%zz", S3Code::InvalidArgument),
            ("/.b/k", S3Code::InvalidBucketName),
            ("/b/k?versionId=1", S3Code::NotImplemented),
        ] {
            assert_eq!(source(text).unwrap_err().code(), code, "{text}");
        }
        let long = format!("/b/{}", "k".repeat(1025));
        assert_eq!(source(&long).unwrap_err().code(), S3Code::KeyTooLongError);
    }
}
