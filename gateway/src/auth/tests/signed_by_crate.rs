//! Properties over requests that the aws-sigv4 crate signs.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation,
    SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::sample::Index;

use super::*;

const NOW_SECS: u64 = 1_700_000_000;

struct Signed {
    request: http::Request<()>,
}

fn settings(location: SignatureLocation) -> SigningSettings {
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    if location == SignatureLocation::QueryParams {
        settings.expires_in = Some(Duration::from_secs(60));
    } else {
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    settings.signature_location = location;
    settings
}

fn sign_request(
    method: &str,
    uri: &str,
    headers: &[(String, String)],
    location: SignatureLocation,
    token: Option<&str>,
) -> Signed {
    let identity = Credentials::new(KEY, SECRET, token.map(str::to_owned), None, "test").into();
    let body = match location {
        SignatureLocation::QueryParams => SignableBody::UnsignedPayload,
        _ => SignableBody::Bytes(b"body"),
    };
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("s3")
        .time(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECS))
        .settings(settings(location))
        .build()
        .unwrap()
        .into();
    let whole = format!("http://host.example:9000{uri}");
    let mut all = vec![("host", "host.example:9000")];
    all.extend(headers.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    let signable = SignableRequest::new(method, &whole, all.iter().copied(), body).unwrap();
    let (instructions, _) = sign(signable, &params).unwrap().into_parts();
    let mut builder = http::Request::builder().method(method).uri(&whole);
    for (name, value) in all {
        builder = builder.header(name, value);
    }
    let mut request = builder.body(()).unwrap();
    instructions.apply_to_request_http1x(&mut request);
    Signed { request }
}

fn verify(request: http::Request<()>, token: Option<&str>) -> Result<Authenticated, AuthError> {
    let now = Timestamp::from_secs(i64::try_from(NOW_SECS).unwrap());
    let directory = directory_with(token, None);
    authenticate(
        &request.into_parts().0,
        &directory,
        now,
        &AuthConfig::default(),
    )
}

/// Percent-encodes as SDKs do.
fn encode(text: &str, keep_slash: bool) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (keep_slash && b == b'/') {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

fn uris() -> impl Strategy<Value = String> {
    let key = "[a-zA-Z0-9 /.$(+*~é%_-]{0,24}";
    let parameters = proptest::collection::vec(("[a-z-]{1,8}", "[ -~é]{0,10}"), 0..4);
    (key, parameters).prop_map(|(key, parameters)| {
        let mut uri = format!("/bucket/{}", encode(&key, true));
        for (index, (name, value)) in parameters.iter().enumerate() {
            uri.push(if index == 0 { '?' } else { '&' });
            uri.push_str(&format!("{name}={}", encode(value, false)));
        }
        uri
    })
}

fn header_lists() -> impl Strategy<Value = Vec<(String, String)>> {
    let one = ("x-amz-meta-[a-z]{1,6}", "[!-~]([ -~]{0,10}[!-~])?");
    proptest::collection::btree_map(one.0, one.1, 0..4).prop_map(|map| map.into_iter().collect())
}

fn methods() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("GET"), Just("PUT"), Just("DELETE"), Just("POST")]
}

/// Another letter or digit in place of one.
fn other(letter: char) -> char {
    if letter == 'a' { 'b' } else { 'a' }
}

/// `text` with the letter or digit that `at` chooses changed; none where it has none.
fn mutate(text: &str, at: Index) -> Option<String> {
    // Not in escapes: an escape in another case means the same.
    let spots: Vec<usize> = text
        .char_indices()
        .filter(|(i, c)| {
            let before = &text.as_bytes()[i.saturating_sub(2)..*i];
            c.is_ascii_alphanumeric() && !before.contains(&b'%')
        })
        .map(|(i, _)| i)
        .collect();
    if spots.is_empty() {
        return None;
    }
    let spot = spots[at.index(spots.len())];
    let mut out = text.to_owned();
    let letter = other(text.as_bytes()[spot] as char).to_string();
    out.replace_range(spot..=spot, &letter);
    Some(out)
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    #[test]
    fn what_the_crate_signs_is_accepted(
        method in methods(), uri in uris(), headers in header_lists(), presign in any::<bool>(),
    ) {
        let location = if presign {
            SignatureLocation::QueryParams
        } else {
            SignatureLocation::Headers
        };
        let signed = sign_request(method, &uri, &headers, location, None);
        verify(signed.request, None).unwrap();
    }

    #[test]
    fn a_changed_byte_is_refused(
        method in methods(), uri in uris(), headers in header_lists(), presign in any::<bool>(),
        what in 0..4u8, at in any::<Index>(),
    ) {
        let location = if presign {
            SignatureLocation::QueryParams
        } else {
            SignatureLocation::Headers
        };
        let mut request = sign_request(method, &uri, &headers, location, None).request;
        match what {
            0 => {
                *request.method_mut() = if method == "GET" {
                    http::Method::HEAD
                } else {
                    http::Method::GET
                };
            }
            1 => {
                let whole = request.uri().to_string();
                let (_, target) = whole.split_once(":9000").unwrap();
                let changed = mutate(target, at).unwrap();
                *request.uri_mut() = changed.parse().unwrap();
            }
            2 => {
                request.headers_mut().insert("host", "host.example:9001".parse().unwrap());
            }
            _ => {
                let Some((name, value)) = headers.first() else { return Ok(()) };
                let name: http::HeaderName = name.parse().unwrap();
                let changed = mutate(value, at).unwrap_or_else(|| format!("{value}x"));
                request.headers_mut().insert(name, changed.parse().unwrap());
            }
        }
        assert!(verify(request, None).is_err());
    }
}

#[test]
fn a_signed_list_without_host_is_refused() {
    let request = sign_request("GET", "/b", &[], SignatureLocation::Headers, None).request;
    let (mut parts, ()) = request.into_parts();
    let value = parts.headers["authorization"].to_str().unwrap();
    let changed = value.replace("SignedHeaders=host;", "SignedHeaders=");
    assert_ne!(value, changed);
    parts
        .headers
        .insert("authorization", changed.parse().unwrap());
    let error = verify(http::Request::from_parts(parts, ()), None).unwrap_err();
    let names = "host".to_owned();
    assert_eq!(error, AuthError::HeadersNotSigned { names });
}

#[test]
fn an_added_amz_header_is_refused() {
    let mut request = sign_request("PUT", "/b/k", &[], SignatureLocation::Headers, None).request;
    request
        .headers_mut()
        .insert("x-amz-acl", "public-read".parse().unwrap());
    let error = verify(request, None).unwrap_err();
    let names = "x-amz-acl".to_owned();
    assert_eq!(error, AuthError::HeadersNotSigned { names });
}

#[test]
fn repeated_headers_are_joined() {
    let headers = [("x-amz-meta-a".to_owned(), "1,2".to_owned())];
    let mut request =
        sign_request("PUT", "/b/k", &headers, SignatureLocation::Headers, None).request;
    request
        .headers_mut()
        .insert("x-amz-meta-a", "1".parse().unwrap());
    request
        .headers_mut()
        .append("x-amz-meta-a", "2".parse().unwrap());
    verify(request, None).unwrap();
}

#[test]
fn temporary_keys_need_their_token() {
    for location in [SignatureLocation::Headers, SignatureLocation::QueryParams] {
        let sent = |token| sign_request("GET", "/b", &[], location, token).request;
        verify(sent(Some("sessiontoken")), Some("sessiontoken")).unwrap();
        let error = verify(sent(Some("sessiontokem")), Some("sessiontoken")).unwrap_err();
        assert_eq!(error, AuthError::InvalidToken);
        let error = verify(sent(Some("sessiontoken")), None).unwrap_err();
        assert_eq!(error, AuthError::InvalidToken);
        let error = verify(sent(None), Some("sessiontoken")).unwrap_err();
        assert!(matches!(error, AuthError::InvalidAccessKeyId { .. }));
    }
}

#[test]
fn an_expired_key_is_refused() {
    let request = sign_request(
        "GET",
        "/b",
        &[],
        SignatureLocation::Headers,
        Some("sessiontoken"),
    );
    let now = Timestamp::from_secs(i64::try_from(NOW_SECS).unwrap());
    let directory = directory_with(Some("sessiontoken"), Some(now));
    let (parts, ()) = request.request.into_parts();
    let error = authenticate(&parts, &directory, now, &AuthConfig::default()).unwrap_err();
    assert_eq!(error, AuthError::ExpiredToken);
}
