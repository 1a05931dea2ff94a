//! SigV4, in the Authorization header and in the query. Source: S3 API, "Authenticating Requests
//! (AWS Signature Version 4)".
//!
//! Order: form, key, token, time, signature. The canonical request is built from what was
//! received; the aws-sigv4 crate computes keys and signatures.

use std::borrow::Cow;

use fsstore::name::hex;
use fsstore::object::Timestamp;
use http::HeaderMap;
use http::request::Parts;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::payload::{self, ChunkSeal, Payload};
use super::signing_key::SigningKey;
use super::uri::{host_of, push_canonical_path, push_canonical_query, query_value};
use super::{AuthConfig, AuthError, Authenticated, check_token, date};
use crate::users::{Credential, Directory};

/// The scheme's name.
pub(super) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "s3";
const TERMINATOR: &str = "aws4_request";
/// Longest list of signed headers taken, in bytes.
const MAX_SIGNED_HEADERS_LEN_BYTES: usize = 8 << 10;
/// Longest life of a presigned request, in seconds. Source: the same, "X-Amz-Expires".
const MAX_EXPIRES_SECS: i64 = 604_800;

/// Where a signature stood: decides what malformed ones are called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    Query,
}

impl Place {
    fn malformed(self, message: impl Into<Cow<'static, str>>) -> AuthError {
        self.malformed_region(message, None)
    }

    fn malformed_region(
        self,
        message: impl Into<Cow<'static, str>>,
        region: Option<String>,
    ) -> AuthError {
        let message = message.into();
        match self {
            Self::Header => AuthError::AuthorizationHeaderMalformed { message, region },
            Self::Query => AuthError::AuthorizationQueryParametersError { message, region },
        }
    }
}

/// `AKID/20130524/us-east-1/s3/aws4_request`
struct Scope<'a> {
    access_key: &'a str,
    day: &'a str,
    day_secs: u64,
    region: &'a str,
    /// All but the access key.
    text: &'a str,
}

impl<'a> Scope<'a> {
    fn parse(credential: &'a str, place: Place, config: &AuthConfig) -> Result<Self, AuthError> {
        let malformed = || {
            place.malformed(
                "the Credential is mal-formed; expecting \
                 \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
            )
        };
        // An access key may have slashes; the scope has exactly four fields.
        let mut fields = credential.rsplitn(5, '/');
        let mut field = || fields.next().ok_or_else(malformed);
        let (terminator, service, region, day) = (field()?, field()?, field()?, field()?);
        let access_key = field()?;
        if access_key.is_empty() || terminator != TERMINATOR {
            return Err(malformed());
        }
        let midnight = date::parse_day(day).ok_or_else(malformed)?;
        let day_secs = u64::try_from(midnight.secs()).map_err(|_| malformed())?;
        if service != SERVICE {
            return Err(place.malformed("incorrect service. This endpoint belongs to \"s3\"."));
        }
        if region.is_empty() || (!config.any_region && region != config.region) {
            let right = &config.region;
            return Err(place.malformed_region(
                format!("the region '{region}' is wrong; expecting '{right}'"),
                Some(right.clone()),
            ));
        }
        Ok(Self {
            access_key,
            day,
            day_secs,
            region,
            text: &credential[access_key.len() + 1..],
        })
    }

    /// The scope is of the day of the request's `20130524T000000Z`.
    fn check_day(&self, timestamp: &str, place: Place) -> Result<(), AuthError> {
        if timestamp.starts_with(self.day) {
            return Ok(());
        }
        let (day, other) = (self.day, &timestamp[..8]);
        Err(place.malformed(format!(
            "Invalid credential date \"{day}\". This date is not the same as X-Amz-Date: \"{other}\"."
        )))
    }
}

/// A signature as received.
struct Claim<'a> {
    place: Place,
    scope: Scope<'a>,
    signed_headers: &'a str,
    signature: &'a str,
    /// `20130524T000000Z`
    timestamp: &'a str,
    time: Timestamp,
    /// What the canonical request ends with.
    payload_hash: &'a str,
}

/// Verifies a request whose Authorization header has this value.
pub(super) fn verify_header(
    parts: &Parts,
    authorization: &str,
    directory: &Directory,
    now: Timestamp,
    config: &AuthConfig,
) -> Result<Authenticated, AuthError> {
    let fields = HeaderFields::parse(authorization)?;
    let scope = Scope::parse(fields.credential, Place::Header, config)?;
    let (timestamp, time) = request_time(&parts.headers)?;
    scope.check_day(&timestamp, Place::Header)?;
    let payload_hash = match parts.headers.get(payload::HEADER) {
        Some(value) => value.to_str().unwrap_or(""),
        None => {
            return Err(AuthError::InvalidRequest(
                "Missing required header for this request: x-amz-content-sha256",
            ));
        }
    };
    let claim = Claim {
        place: Place::Header,
        scope,
        signed_headers: fields.signed_headers,
        signature: fields.signature,
        timestamp: &timestamp,
        time,
        payload_hash,
    };
    let credential = find_key(directory, claim.scope.access_key)?;
    let token = parts.headers.get("x-amz-security-token");
    check_token(credential, token.map(http::HeaderValue::as_bytes), now)?;
    check_skew(claim.time, now, config)?;
    let key = claim.verify(parts, credential)?;
    let payload = Payload::parse(payload_hash, Some(|| claim.seal(key)))?;
    Ok(Authenticated::user(credential, payload))
}

/// Verifies a request whose query has X-Amz-Algorithm.
pub(super) fn verify_query(
    parts: &Parts,
    query: &str,
    directory: &Directory,
    now: Timestamp,
    config: &AuthConfig,
) -> Result<Authenticated, AuthError> {
    let place = Place::Query;
    let value = |name: &str| {
        query_value(query, name).ok_or_else(|| {
            place.malformed(
                "Query-string authentication version 4 requires the X-Amz-Algorithm, \
                 X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and \
                 X-Amz-Expires parameters.",
            )
        })
    };
    if value("X-Amz-Algorithm")? != ALGORITHM {
        return Err(place.malformed("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\""));
    }
    let (credential, signature) = (value("X-Amz-Credential")?, value("X-Amz-Signature")?);
    let (timestamp, signed_headers) = (value("X-Amz-Date")?, value("X-Amz-SignedHeaders")?);
    let expires_secs = parse_expires(&value("X-Amz-Expires")?)?;
    let time = date::parse_iso(&timestamp).ok_or_else(|| {
        place.malformed("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
    })?;
    let scope = Scope::parse(&credential, place, config)?;
    scope.check_day(&timestamp, place)?;
    let stated = stated_hash(&parts.headers, query, &signed_headers);
    let claim = Claim {
        place,
        scope,
        signed_headers: &signed_headers,
        signature: &signature,
        timestamp: &timestamp,
        time,
        payload_hash: stated.as_deref().unwrap_or(payload::UNSIGNED),
    };
    let credential = find_key(directory, claim.scope.access_key)?;
    let token = query_value(query, "X-Amz-Security-Token");
    let token = match &token {
        Some(text) => Some(text.as_bytes()),
        None => parts
            .headers
            .get("x-amz-security-token")
            .map(http::HeaderValue::as_bytes),
    };
    check_token(credential, token, now)?;
    check_life(time, expires_secs, now, config)?;
    let key = claim.verify(parts, credential)?;
    let payload = match &stated {
        Some(hash) => Payload::parse(hash, Some(|| claim.seal(key)))?,
        None => Payload::of_unsealed(&parts.headers)?,
    };
    Ok(Authenticated::user(credential, payload))
}

/// What a presigned request signed as its body's hash: the parameter, or the header if signed.
fn stated_hash(headers: &HeaderMap, query: &str, signed_headers: &str) -> Option<String> {
    if let Some(value) = query_value(query, "X-Amz-Content-Sha256") {
        return Some(value.into_owned());
    }
    let is_signed = signed_headers
        .split(';')
        .any(|name| name == payload::HEADER);
    let value = headers.get(payload::HEADER).filter(|_| is_signed)?;
    value.to_str().ok().map(str::to_owned)
}

fn parse_expires(text: &str) -> Result<i64, AuthError> {
    let malformed = |message| Err(Place::Query.malformed(message));
    match text.parse::<i64>() {
        Err(_) => malformed("X-Amz-Expires should be a number"),
        Ok(secs) if secs < 0 => malformed("X-Amz-Expires must be non-negative"),
        Ok(secs) if secs > MAX_EXPIRES_SECS => malformed(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given \
             X-Amz-Expires must be less than 604800 seconds",
        ),
        Ok(secs) => Ok(secs),
    }
}

/// A presigned request is good from its date (less the clock skew) until it expires.
fn check_life(
    time: Timestamp,
    expires_secs: i64,
    now: Timestamp,
    config: &AuthConfig,
) -> Result<(), AuthError> {
    if time.secs() - i64::from(config.max_skew_secs) > now.secs() {
        return Err(AuthError::AccessDenied("Request is not yet valid"));
    }
    let expires = Timestamp::from_secs(time.secs().saturating_add(expires_secs));
    if now > expires {
        return Err(AuthError::RequestExpired { expires, now });
    }
    Ok(())
}

/// Errors: RequestTimeTooSkewed.
pub(super) fn check_skew(
    request: Timestamp,
    now: Timestamp,
    config: &AuthConfig,
) -> Result<(), AuthError> {
    if request.secs().abs_diff(now.secs()) > u64::from(config.max_skew_secs) {
        return Err(AuthError::RequestTimeTooSkewed {
            request,
            now,
            max_skew_ms: u64::from(config.max_skew_secs) * 1_000,
        });
    }
    Ok(())
}

/// The key of an id. Errors: InvalidAccessKeyId.
pub(super) fn find_key<'d>(
    directory: &'d Directory,
    access_key: &str,
) -> Result<&'d Credential, AuthError> {
    directory
        .credential(access_key)
        .ok_or_else(|| AuthError::InvalidAccessKeyId {
            access_key: access_key.to_owned(),
        })
}

/// X-Amz-Date, else Date, as text of the string to sign and as a time. Errors: AccessDenied.
fn request_time(headers: &HeaderMap) -> Result<(Cow<'_, str>, Timestamp), AuthError> {
    let text = headers
        .get("x-amz-date")
        .or_else(|| headers.get(http::header::DATE))
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let (text, time) = match date::parse_iso(text) {
        Some(time) => (Cow::Borrowed(text), Some(time)),
        None => {
            let time = date::parse_any(text);
            (
                Cow::Owned(time.map(date::format_iso).unwrap_or_default()),
                time,
            )
        }
    };
    match time {
        Some(time) if time.secs() >= 0 => Ok((text, time)),
        _ => Err(AuthError::AccessDenied(
            "AWS authentication requires a valid Date or x-amz-date header",
        )),
    }
}

/// The fields of the Authorization header.
#[derive(Debug)]
struct HeaderFields<'a> {
    credential: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> HeaderFields<'a> {
    /// `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`, with commas or spaces.
    fn parse(value: &'a str) -> Result<Self, AuthError> {
        let fields = value.strip_prefix(ALGORITHM).unwrap_or(value);
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for field in fields.split([',', ' ']).filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(Place::Header.malformed("a field is given twice."));
            }
        }
        let missing = |what: &str| {
            Place::Header.malformed(format!(
                "the authorization header requires three components: \
                 Credential, SignedHeaders, and Signature; {what} is missing."
            ))
        };
        let fields = Self {
            credential: credential.ok_or_else(|| missing("Credential"))?,
            signed_headers: signed_headers.ok_or_else(|| missing("SignedHeaders"))?,
            signature: signature.ok_or_else(|| missing("Signature"))?,
        };
        if fields.signed_headers.len() > MAX_SIGNED_HEADERS_LEN_BYTES {
            return Err(Place::Header.malformed("SignedHeaders is too long."));
        }
        Ok(fields)
    }
}

impl Claim<'_> {
    /// Compares signatures; answers the signing key. Errors: HeadersNotSigned,
    /// SignatureDoesNotMatch.
    fn verify(&self, parts: &Parts, credential: &Credential) -> Result<SigningKey, AuthError> {
        self.check_headers_signed(&parts.headers)?;
        let Scope { day, region, .. } = self.scope;
        let kept = credential.signing_keys.get(day, region, SERVICE);
        let is_new = kept.is_none();
        let key = kept.unwrap_or_else(|| {
            let secret = credential.key.secret.reveal();
            SigningKey::derive(secret, self.scope.day_secs, region, SERVICE)
        });
        let path = parts.uri.path();
        let mut canonical_path = Vec::with_capacity(path.len() + 16);
        push_canonical_path(&mut canonical_path, path);
        // A client may sign its path as it sends it, with fewer or other escapes.
        let is_good = self.matches(&key, parts, &canonical_path)
            || (canonical_path != path.as_bytes() && self.matches(&key, parts, path.as_bytes()));
        if !is_good {
            return Err(AuthError::SignatureDoesNotMatch);
        }
        if is_new {
            credential.signing_keys.keep(day, region, SERVICE, &key);
        }
        Ok(key)
    }

    fn matches(&self, key: &SigningKey, parts: &Parts, path: &[u8]) -> bool {
        let hash = Sha256::digest(self.canonical_request(parts, path));
        let text = format!(
            "{ALGORITHM}\n{}\n{}\n{}",
            self.timestamp,
            self.scope.text,
            hex(&hash)
        );
        let computed = key.sign(text.as_bytes());
        computed.as_bytes().ct_eq(self.signature.as_bytes()).into()
    }

    fn canonical_request(&self, parts: &Parts, path: &[u8]) -> Vec<u8> {
        let query = parts.uri.query().unwrap_or("");
        let mut out = Vec::with_capacity(512 + path.len() + query.len());
        out.extend_from_slice(parts.method.as_str().as_bytes());
        out.push(b'\n');
        out.extend_from_slice(path);
        out.push(b'\n');
        if !query.is_empty() {
            let skip = (self.place == Place::Query).then_some("X-Amz-Signature");
            push_canonical_query(&mut out, query, skip);
        }
        out.push(b'\n');
        for name in self.signed_headers.split(';') {
            out.extend_from_slice(name.as_bytes());
            out.push(b':');
            push_header_values(&mut out, parts, name);
            out.push(b'\n');
        }
        out.push(b'\n');
        out.extend_from_slice(self.signed_headers.as_bytes());
        out.push(b'\n');
        out.extend_from_slice(self.payload_hash.as_bytes());
        out
    }

    /// The signature must cover the host and every `x-amz-*` header. Presigned requests may add
    /// x-amz-content-sha256, which only restricts them. Errors: HeadersNotSigned.
    fn check_headers_signed(&self, headers: &HeaderMap) -> Result<(), AuthError> {
        let is_signed = |name: &str| self.signed_headers.split(';').any(|signed| signed == name);
        let mut unsigned: Vec<&str> = Vec::new();
        if !is_signed("host") {
            unsigned.push("host");
        }
        for name in headers.keys().map(http::HeaderName::as_str) {
            let may_be_added = self.place == Place::Query && name == payload::HEADER;
            if name.starts_with("x-amz-") && !may_be_added && !is_signed(name) {
                unsigned.push(name);
            }
        }
        if unsigned.is_empty() {
            return Ok(());
        }
        Err(AuthError::HeadersNotSigned {
            names: unsigned.join(", "),
        })
    }

    fn seal(&self, key: SigningKey) -> ChunkSeal {
        ChunkSeal {
            key,
            timestamp: self.timestamp.to_owned(),
            scope: self.scope.text.to_owned(),
            seed: self.signature.to_owned(),
        }
    }
}

/// The values of a header, joined by commas; each trimmed, runs of spaces made one.
fn push_header_values(out: &mut Vec<u8>, parts: &Parts, name: &str) {
    if name == "host" {
        out.extend_from_slice(host_of(parts).unwrap_or("").as_bytes());
        return;
    }
    for (index, value) in parts.headers.get_all(name).iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let mut before = b' ';
        for &b in value.as_bytes().trim_ascii() {
            if b != b' ' || before != b' ' {
                out.push(b);
            }
            before = b;
        }
    }
}

/// The signature of a POST form's policy. Errors: SignatureDoesNotMatch and those of the scope.
pub(super) fn verify_policy(
    policy_base64: &str,
    credential_field: &str,
    signature: &str,
    credential: &Credential,
    config: &AuthConfig,
) -> Result<(), AuthError> {
    let scope = Scope::parse(credential_field, Place::Query, config)?;
    let secret = credential.key.secret.reveal();
    let key = SigningKey::derive(secret, scope.day_secs, scope.region, SERVICE);
    let computed = key.sign(policy_base64.as_bytes());
    if computed.as_bytes().ct_eq(signature.as_bytes()).into() {
        return Ok(());
    }
    Err(AuthError::SignatureDoesNotMatch)
}

/// The access key of a credential field. Errors: those of the scope.
pub(super) fn access_key_of<'c>(
    credential_field: &'c str,
    config: &AuthConfig,
) -> Result<&'c str, AuthError> {
    Scope::parse(credential_field, Place::Query, config).map(|scope| scope.access_key)
}
