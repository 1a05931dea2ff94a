//! Which bucket and key a request names, by its host and its path.

use http::header;
use http::request::Parts;

use super::query::percent_decode;
use crate::errors::S3Error;

/// The bucket and the key (empty where none), decoded.
pub(super) fn split_target(
    parts: &Parts,
    domains: &[String],
) -> Result<(Option<String>, String), S3Error> {
    let path = parts.uri.path();
    let path = path.strip_prefix('/').unwrap_or(path);
    if let Some(bucket) = bucket_in_host(parts, domains) {
        return Ok((Some(bucket), percent_decode(path)?));
    }
    if path.is_empty() || path == "*" {
        return Ok((None, String::new()));
    }
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    Ok((Some(percent_decode(bucket)?), percent_decode(key)?))
}

fn bucket_in_host(parts: &Parts, domains: &[String]) -> Option<String> {
    if domains.is_empty() {
        return None;
    }
    let host = match parts.uri.host() {
        Some(host) => host,
        None => without_port(parts.headers.get(header::HOST)?.to_str().ok()?),
    };
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    if domains.iter().any(|domain| domain == host) {
        return None;
    }
    domains
        .iter()
        .filter_map(|domain| host.strip_suffix(domain.as_str())?.strip_suffix('.'))
        .filter(|bucket| !bucket.is_empty())
        .min_by_key(|bucket| bucket.len())
        .map(str::to_owned)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}
