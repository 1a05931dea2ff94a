//! Which bucket and key a request names, by its host and its path.

use http::request::Parts;

use super::query::percent_decode;
use crate::auth::uri::{bucket_of_host, host_of};
use crate::errors::S3Error;

/// The bucket and the key (empty where none), decoded. The host is the one that signatures cover.
pub(super) fn split_target(
    parts: &Parts,
    domains: &[String],
) -> Result<(Option<String>, String), S3Error> {
    let path = parts.uri.path();
    let path = path.strip_prefix('/').unwrap_or(path);
    let host = host_of(parts).and_then(|host| bucket_of_host(host, domains));
    if let Some(bucket) = host {
        return Ok((Some(bucket), percent_decode(path)?));
    }
    if path.is_empty() || path == "*" {
        return Ok((None, String::new()));
    }
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    Ok((Some(percent_decode(bucket)?), percent_decode(key)?))
}
