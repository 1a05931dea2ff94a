//! SigV2, in the Authorization header and in the query, for old clients. Source: S3 User Guide,
//! "Signing and Authenticating REST Requests (AWS signature version 2)".

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fsstore::object::Timestamp;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use http::request::Parts;
use sha1::Sha1;
use subtle::ConstantTimeEq;

use super::payload::Payload;
use super::sigv4::{check_skew, find_key};
use super::uri::{bucket_of_host, decode_value, host_of, query_value};
use super::{AuthConfig, AuthError, Authenticated, check_token, date};
use crate::users::{Credential, Directory};

/// Query parameters that are part of the resource, sorted. Source: the same, and the list that
/// botocore signs (botocore/auth.py, HmacV1Auth.QSAOfInterest).
const SIGNED_PARAMETERS: [&str; 41] = [
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "defaultObjectAcl",
    "delete",
    "encryption",
    "inventory",
    "legal-hold",
    "lifecycle",
    "location",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "partNumber",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "retention",
    "select",
    "select-type",
    "storageClass",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

/// Verifies a request whose Authorization header has this value, `AWS AKID:signature`.
pub(super) fn verify_header(
    parts: &Parts,
    authorization: &str,
    directory: &Directory,
    now: Timestamp,
    config: &AuthConfig,
) -> Result<Authenticated, AuthError> {
    let fields = authorization.strip_prefix("AWS ").unwrap_or("").trim();
    let Some((access_key, signature)) = fields.rsplit_once(':') else {
        return Err(AuthError::InvalidArgument {
            message: "AWS authorization header is invalid.  Expected AwsAccessKeyId:signature",
            name: "Authorization",
            value: fields.to_owned(),
        });
    };
    let credential = find_key(directory, access_key)?;
    let token = parts.headers.get("x-amz-security-token");
    check_token(credential, token.map(http::HeaderValue::as_bytes), now)?;
    let text = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
    let time = text("x-amz-date").or_else(|| text("date"));
    match time.and_then(date::parse_any) {
        Some(time) if time.secs() >= 0 => check_skew(time, now, config)?,
        _ => {
            return Err(AuthError::AccessDenied(
                "AWS authentication requires a valid Date or x-amz-date header",
            ));
        }
    }
    let date = if parts.headers.contains_key("x-amz-date") {
        ""
    } else {
        text("date").unwrap_or("")
    };
    verify(parts, date, signature, credential, config)?;
    let payload = Payload::of_unsealed(&parts.headers)?;
    Ok(Authenticated::user(credential, payload))
}

/// Verifies a request whose query has AWSAccessKeyId and Signature.
pub(super) fn verify_query(
    parts: &Parts,
    query: &str,
    directory: &Directory,
    now: Timestamp,
    config: &AuthConfig,
) -> Result<Authenticated, AuthError> {
    let value = |name: &str| {
        query_value(query, name).ok_or(AuthError::AccessDenied(
            "Query-string authentication requires the Signature, Expires and AWSAccessKeyId \
             parameters",
        ))
    };
    let (access_key, signature) = (value("AWSAccessKeyId")?, value("Signature")?);
    let expires_text = value("Expires")?;
    let credential = find_key(directory, &access_key)?;
    let token = query_value(query, "x-amz-security-token");
    let token = match &token {
        Some(text) => Some(text.as_bytes()),
        None => parts
            .headers
            .get("x-amz-security-token")
            .map(http::HeaderValue::as_bytes),
    };
    check_token(credential, token, now)?;
    let Ok(expires_secs) = expires_text.parse::<u32>() else {
        return Err(AuthError::AccessDenied(
            "Invalid date (should be seconds since epoch)",
        ));
    };
    let expires = Timestamp::from_secs(i64::from(expires_secs));
    if now > expires {
        return Err(AuthError::RequestExpired { expires, now });
    }
    // A plus that a client forgot to encode is no space: signatures have none.
    let signature = signature.replace(' ', "+");
    verify(parts, &expires_text, &signature, credential, config)?;
    let payload = Payload::of_unsealed(&parts.headers)?;
    Ok(Authenticated::user(credential, payload))
}

fn verify(
    parts: &Parts,
    date: &str,
    signature: &str,
    credential: &Credential,
    config: &AuthConfig,
) -> Result<(), AuthError> {
    let bucket = host_of(parts).and_then(|host| bucket_of_host(host, &config.domains));
    let path = parts.uri.path();
    let is_it = |path: &str| {
        let text = string_to_sign(parts, date, bucket.as_deref(), path);
        is_signature_of(&text, signature, credential)
    };
    // A bucket is signed as `/bucket/` by botocore, though it sends `/bucket`.
    let is_bucket = bucket.is_none() && path.len() > 1 && !path[1..].contains('/');
    if is_it(path) || (is_bucket && is_it(&format!("{path}/"))) {
        Ok(())
    } else {
        Err(AuthError::SignatureDoesNotMatch)
    }
}

/// True where the signature is the text's, base64 of HMAC-SHA1 with the key's secret.
pub(super) fn is_signature_of(text: &[u8], signature: &str, credential: &Credential) -> bool {
    let secret = credential.key.secret.reveal().as_bytes();
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(text);
    let computed = STANDARD.encode(mac.finalize().into_bytes());
    computed.as_bytes().ct_eq(signature.as_bytes()).into()
}

fn string_to_sign(parts: &Parts, date: &str, bucket: Option<&str>, path: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b'\n');
    for name in ["content-md5", "content-type"] {
        if let Some(value) = parts.headers.get(name) {
            out.extend_from_slice(value.as_bytes().trim_ascii());
        }
        out.push(b'\n');
    }
    out.extend_from_slice(date.as_bytes());
    out.push(b'\n');
    let query = parts.uri.query().unwrap_or("");
    push_amz_headers(&mut out, &parts.headers, query);
    if let Some(bucket) = bucket {
        out.push(b'/');
        out.extend_from_slice(bucket.as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    push_subresources(&mut out, query);
    out
}

/// `name:value` of each x-amz-* header, sorted, values of one name joined by commas. Presigned
/// requests carry such headers in their query (botocore/auth.py, HmacV1QueryAuth).
fn push_amz_headers(out: &mut Vec<u8>, headers: &HeaderMap, query: &str) {
    let mut fields: Vec<(Cow<'_, str>, Cow<'_, [u8]>)> = headers
        .iter()
        .map(|(name, value)| (name.as_str().into(), Cow::Borrowed(value.as_bytes())))
        .collect();
    fields.extend(query.split('&').map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode_value(value).into_owned().into_bytes();
        (decode_value(name), Cow::Owned(value))
    }));
    fields.retain(|(name, _)| name.starts_with("x-amz-"));
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut before = "";
    for (name, value) in &fields {
        if name == before {
            out.pop();
            out.push(b',');
        } else {
            out.extend_from_slice(name.as_bytes());
            out.push(b':');
        }
        out.extend_from_slice(value.trim_ascii());
        out.push(b'\n');
        before = name;
    }
}

/// The signed parameters of a query, sorted by name; names and values decoded. Requests are routed
/// by decoded names, so that an encoded one must be signed as what it stands for.
fn push_subresources(out: &mut Vec<u8>, query: &str) {
    let mut signed: Vec<(Cow<'_, str>, Option<&str>)> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => (decode_value(name), Some(value)),
            None => (decode_value(pair), None),
        })
        .filter(|(name, _)| SIGNED_PARAMETERS.binary_search(&name.as_ref()).is_ok())
        .collect();
    signed.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (index, (name, value)) in signed.into_iter().enumerate() {
        out.push(if index == 0 { b'?' } else { b'&' });
        out.extend_from_slice(name.as_bytes());
        // `?acl=` is signed as `acl` by clients that send `?acl`, and the other way round.
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            out.push(b'=');
            out.extend_from_slice(decode_value(value).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subresources(query: &str) -> String {
        let mut out = Vec::new();
        push_subresources(&mut out, query);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_signed_parameters_are_sorted() {
        assert!(SIGNED_PARAMETERS.is_sorted());
    }

    #[test]
    fn an_encoded_name_is_signed_as_what_it_stands_for() {
        for name in SIGNED_PARAMETERS {
            let all: String = name.bytes().map(|b| format!("%{b:02x}")).collect();
            let first = format!("%{:02X}{}", name.as_bytes()[0], &name[1..]);
            for encoded in [all, first] {
                assert_eq!(subresources(&encoded), format!("?{name}"));
                let query = format!("x=1&{encoded}=a%20b&y");
                assert_eq!(subresources(&query), format!("?{name}=a b"));
            }
        }
        // Sorted as decoded.
        assert_eq!(subresources("%75ploadId=1&acl"), "?acl&uploadId=1");
    }

    #[test]
    fn an_encoded_amz_parameter_is_signed() {
        let mut out = Vec::new();
        push_amz_headers(&mut out, &HeaderMap::new(), "a&%78-amz-acl=private");
        assert_eq!(out, b"x-amz-acl:private\n");
    }
}
