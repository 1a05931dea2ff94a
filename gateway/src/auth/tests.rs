//! Published examples, and what is refused and how.

mod signed_by_crate;

use super::*;
use crate::users::{AccessKey, Entry, Origin, Secret, stable_id};

pub(super) const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
pub(super) const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// 2013-05-24T00:00:00Z
const MAY_24: Timestamp = Timestamp::from_secs(1_369_353_600);

pub(super) fn directory_with(token: Option<&str>, expires: Option<Timestamp>) -> Directory {
    let user = User {
        id: stable_id("alice"),
        name: "alice".to_owned(),
        account: "main".to_owned(),
        groups: Vec::new(),
        uid: None,
        gid: None,
        gids: Vec::new(),
        umask: None,
    };
    Directory::build(vec![Entry {
        user: Arc::new(user),
        keys: vec![AccessKey {
            id: KEY.to_owned(),
            secret: Secret::new(SECRET),
            session_token: token.map(Secret::new),
            expires,
        }],
        origin: Origin::Config,
    }])
    .unwrap()
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut builder = http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn check(parts: &Parts, now: Timestamp) -> Result<Authenticated, AuthError> {
    let config = AuthConfig {
        domains: vec!["s3.amazonaws.com".to_owned()],
        ..AuthConfig::default()
    };
    authenticate(parts, &directory_with(None, None), now, &config)
}

fn v4(signed_headers: &str, signature: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={KEY}/20130524/us-east-1/s3/aws4_request,\
         SignedHeaders={signed_headers},Signature={signature}"
    )
}

fn get_object_example(range: &str) -> Parts {
    let authorization = v4(
        "host;range;x-amz-content-sha256;x-amz-date",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    );
    request(
        "GET",
        "/test.txt",
        &[
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", range),
            ("x-amz-content-sha256", EMPTY_SHA256),
            ("x-amz-date", "20130524T000000Z"),
            ("authorization", &authorization),
        ],
    )
}

#[test]
fn the_get_object_example_is_verified() {
    let found = check(&get_object_example("bytes=0-9"), MAY_24).unwrap();
    let identity = found.identity.unwrap();
    assert_eq!(identity.user.name, "alice");
    assert_eq!(identity.access_key, KEY);
    assert!(matches!(found.payload, Payload::Signed(hash) if hash[0] == 0xe3));
    // Runs of spaces around a value are the same value.
    assert!(check(&get_object_example("  bytes=0-9 "), MAY_24).is_ok());
}

#[test]
fn another_range_is_refused() {
    let answer = check(&get_object_example("bytes=0-8"), MAY_24);
    assert_eq!(answer.unwrap_err(), AuthError::SignatureDoesNotMatch);
}

#[test]
fn the_put_object_example_is_verified() {
    let authorization = v4(
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    );
    for path in ["/test$file.text", "/test%24file.text"] {
        let parts = request(
            "PUT",
            path,
            &[
                ("host", "examplebucket.s3.amazonaws.com"),
                ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                ("x-amz-date", "20130524T000000Z"),
                ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
                (
                    "x-amz-content-sha256",
                    "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
                ),
                ("authorization", &authorization),
            ],
        );
        check(&parts, MAY_24).unwrap();
    }
}

#[test]
fn the_query_examples_are_verified() {
    for (uri, signature) in [
        (
            "/?lifecycle",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "/?prefix=J&max-keys=2",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ] {
        let authorization = v4("host;x-amz-content-sha256;x-amz-date", signature);
        let parts = request(
            "GET",
            uri,
            &[
                ("host", "examplebucket.s3.amazonaws.com"),
                ("x-amz-content-sha256", EMPTY_SHA256),
                ("x-amz-date", "20130524T000000Z"),
                ("authorization", &authorization),
            ],
        );
        check(&parts, MAY_24).unwrap();
    }
}

const PRESIGNED: &str = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
    &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
    &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
    &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
const HOST: (&str, &str) = ("host", "examplebucket.s3.amazonaws.com");

#[test]
fn the_presigned_example_lives_a_day() {
    let parts = request("GET", PRESIGNED, &[HOST]);
    let found = check(&parts, MAY_24).unwrap();
    assert!(matches!(found.payload, Payload::Unsigned));
    let day = |secs| Timestamp::from_secs(MAY_24.secs() + secs);
    assert!(check(&parts, day(86_400)).is_ok());
    let late = check(&parts, day(86_401)).unwrap_err();
    assert!(matches!(late, AuthError::RequestExpired { .. }), "{late:?}");
    let early = check(&parts, day(-901)).unwrap_err();
    assert_eq!(early, AuthError::AccessDenied("Request is not yet valid"));
}

#[test]
fn a_malformed_presigned_query_says_what_is_wrong() {
    for (from, to) in [
        ("X-Amz-Expires=86400", "X-Amz-Expires=604801"),
        ("X-Amz-Expires=86400", "X-Amz-Expires=-1"),
        ("X-Amz-Expires=86400", "X-Amz-Expires=x"),
        ("X-Amz-Date=20130524T000000Z", "X-Amz-Date=20130524"),
        ("X-Amz-Date=20130524T000000Z", "X-Amz-Date=20130525T000000Z"),
        ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"),
        ("%2Faws4_request", ""),
        ("%2Fs3%2F", "%2Fsts%2F"),
        ("&X-Amz-SignedHeaders=host", ""),
    ] {
        let uri = PRESIGNED.replace(from, to);
        let error = check(&request("GET", &uri, &[HOST]), MAY_24).unwrap_err();
        assert!(
            matches!(error, AuthError::AuthorizationQueryParametersError { .. }),
            "{to}: {error:?}"
        );
    }
}

#[test]
fn presigned_requests_take_no_unsigned_amz_header() {
    let parts = request("GET", PRESIGNED, &[HOST, ("x-amz-acl", "public-read")]);
    let names = "x-amz-acl".to_owned();
    let error = check(&parts, MAY_24).unwrap_err();
    assert_eq!(error, AuthError::HeadersNotSigned { names });
}

#[test]
fn a_header_and_a_query_signature_exclude_each_other() {
    let authorization = v4("host", "00");
    let parts = request("GET", PRESIGNED, &[HOST, ("authorization", &authorization)]);
    let error = check(&parts, MAY_24).unwrap_err();
    assert!(matches!(error, AuthError::InvalidArgument { .. }));
}

#[test]
fn only_the_configured_region_may_be_asked_for() {
    let config = AuthConfig {
        region: "eu-west-1".to_owned(),
        any_region: false,
        ..AuthConfig::default()
    };
    let parts = get_object_example("bytes=0-9");
    let error = authenticate(&parts, &directory_with(None, None), MAY_24, &config).unwrap_err();
    let AuthError::AuthorizationHeaderMalformed { message, region } = error else {
        panic!("{error:?}");
    };
    assert_eq!(region.as_deref(), Some("eu-west-1"));
    assert_eq!(
        message,
        "the region 'us-east-1' is wrong; expecting 'eu-west-1'"
    );
}

#[test]
fn a_clock_15_minutes_off_is_refused() {
    let parts = get_object_example("bytes=0-9");
    for (secs, is_good) in [(900, true), (901, false), (-900, true), (-901, false)] {
        let answer = check(&parts, Timestamp::from_secs(MAY_24.secs() + secs));
        assert_eq!(answer.is_ok(), is_good, "{secs}");
        if let Err(error) = answer {
            assert!(matches!(error, AuthError::RequestTimeTooSkewed { .. }));
        }
    }
}

#[test]
fn header_forms_are_told_apart() {
    let sent = |value: &str| {
        let headers = [
            HOST,
            ("authorization", value),
            ("x-amz-date", "20130524T000000Z"),
        ];
        check(&request("GET", "/", &headers), MAY_24).unwrap_err()
    };
    assert_eq!(sent(""), AuthError::DENIED);
    assert!(matches!(
        sent("Basic QTpC"),
        AuthError::InvalidArgument { .. }
    ));
    assert!(matches!(
        sent("AWS HAHAHA"),
        AuthError::InvalidArgument { .. }
    ));
    assert!(matches!(
        sent("AWS A:B"),
        AuthError::InvalidAccessKeyId { .. }
    ));
    for bad in [
        "AWS4-HMAC-SHA256 Credential=HAHA",
        "AWS4-HMAC-SHA256 Credential=A/20130524/r/s3/aws4_request, SignedHeaders=host",
        "AWS4-HMAC-SHA256 Credential=A/20130524/r/s3/aws, SignedHeaders=host, Signature=00",
        "AWS4-HMAC-SHA256 Credential=A/2013/r/s3/aws4_request,SignedHeaders=host,Signature=00",
        "AWS4-HMAC-SHA256 Credential=A/20130525/r/s3/aws4_request,SignedHeaders=host,Signature=00",
        "AWS4-HMAC-SHA256 Credential=A/20130524/r/s3/aws4_request,Signature=1,Signature=00",
    ] {
        assert!(
            matches!(sent(bad), AuthError::AuthorizationHeaderMalformed { .. }),
            "{bad}"
        );
    }
}

#[test]
fn without_a_signature_a_caller_is_anonymous() {
    let found = check(&request("GET", "/b/k", &[HOST]), MAY_24).unwrap();
    assert!(found.identity.is_none());
    let signed_chunks = ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
    let error = check(&request("PUT", "/b/k", &[HOST, signed_chunks]), MAY_24).unwrap_err();
    assert!(matches!(error, AuthError::InvalidRequest(_)));
    let junk = ("x-amz-content-sha256", "abc");
    let error = check(&request("PUT", "/b/k", &[HOST, junk]), MAY_24).unwrap_err();
    assert!(matches!(error, AuthError::InvalidArgument { .. }));
}

/// A V2 example: method, URI, date, headers, signature.
type V2Example<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

const V2_EXAMPLES: [V2Example<'static>; 4] = [
    (
        "GET",
        "/photos/puppy.jpg",
        "Tue, 27 Mar 2007 19:36:42 +0000",
        &[],
        "bWq2s1WEIj+Ydj0vQ697zp+IXMU=",
    ),
    (
        "PUT",
        "/photos/puppy.jpg",
        "Tue, 27 Mar 2007 21:15:45 +0000",
        &[("content-type", "image/jpeg"), ("content-length", "94328")],
        "MyyxeRY7whkBe+bq8fHCL/2kKUg=",
    ),
    (
        "GET",
        "/?prefix=photos&max-keys=50&marker=puppy",
        "Tue, 27 Mar 2007 19:42:41 +0000",
        &[("user-agent", "Mozilla/5.0")],
        "htDYFYduRNen8P9ZfE/s9SuKy0U=",
    ),
    (
        "GET",
        "/?acl",
        "Tue, 27 Mar 2007 19:44:46 +0000",
        &[],
        "c2WLPFtWHVgbEmeEG93a4cG37dM=",
    ),
];

#[test]
fn the_v2_examples_are_verified() {
    for (method, uri, date, headers, signature) in V2_EXAMPLES {
        let authorization = format!("AWS {KEY}:{signature}");
        let mut all = vec![
            ("host", "johnsmith.s3.amazonaws.com"),
            ("date", date),
            ("authorization", authorization.as_str()),
        ];
        all.extend_from_slice(headers);
        let now = date::parse_any(date).unwrap();
        let answer = check(&request(method, uri, &all), now);
        assert!(answer.is_ok(), "{method} {uri}: {answer:?}");
        all.push(("x-amz-meta-a", "1"));
        let error = check(&request(method, uri, &all), now).unwrap_err();
        assert_eq!(error, AuthError::SignatureDoesNotMatch);
    }
}

#[test]
fn a_bucket_is_signed_in_v2_with_a_slash_at_its_end_or_without() {
    use base64::Engine;
    use hmac::{Hmac, KeyInit, Mac};

    let date = "Tue, 27 Mar 2007 19:36:42 +0000";
    let now = date::parse_any(date).unwrap();
    for (signed, uri, is_it) in [
        ("/bucket", "/bucket", true),
        ("/bucket/", "/bucket", true),
        ("/bucket/key/", "/bucket/key", false),
        ("//", "/", false),
    ] {
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(format!("PUT\n\n\n{date}\n{signed}").as_bytes());
        let signature = mac.finalize().into_bytes();
        let signature = base64::engine::general_purpose::STANDARD.encode(signature);
        let authorization = format!("AWS {KEY}:{signature}");
        let headers = [
            ("host", "localhost"),
            ("date", date),
            ("authorization", authorization.as_str()),
        ];
        let answer = check(&request("PUT", uri, &headers), now);
        assert_eq!(answer.is_ok(), is_it, "{signed} {uri}: {answer:?}");
    }
}

#[test]
fn the_v2_presigned_example_expires() {
    let uri = format!(
        "/photos/puppy.jpg?AWSAccessKeyId={KEY}&Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D\
         &Expires=1175139620"
    );
    let parts = request("GET", &uri, &[("host", "johnsmith.s3.amazonaws.com")]);
    check(&parts, Timestamp::from_secs(1_175_139_620)).unwrap();
    let error = check(&parts, Timestamp::from_secs(1_175_139_621)).unwrap_err();
    assert!(matches!(error, AuthError::RequestExpired { .. }));
    let other = uri.replace("puppy", "kitten");
    let parts = request("GET", &other, &[("host", "johnsmith.s3.amazonaws.com")]);
    let error = check(&parts, Timestamp::from_secs(1_175_139_620)).unwrap_err();
    assert_eq!(error, AuthError::SignatureDoesNotMatch);
}

#[test]
fn a_v2_presigned_request_takes_no_subresource_under_an_encoded_name() {
    let good = format!(
        "/photos/puppy.jpg?AWSAccessKeyId={KEY}&Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D\
         &Expires=1175139620"
    );
    let now = Timestamp::from_secs(1_175_139_620);
    for added in ["acl", "%61cl", "ac%6C=", "%75ploadId=1", "%74agging"] {
        let uri = format!("{good}&{added}");
        let parts = request("GET", &uri, &[("host", "johnsmith.s3.amazonaws.com")]);
        let error = check(&parts, now).unwrap_err();
        assert_eq!(error, AuthError::SignatureDoesNotMatch, "{added}");
    }
}

#[test]
fn a_v4_presigned_request_takes_no_parameter_more() {
    for added in ["acl", "%61cl", "ac%6C=", "x=1", "X-Amz-Signatur%65=1"] {
        let parts = request("GET", &format!("{PRESIGNED}&{added}"), &[HOST]);
        let error = check(&parts, MAY_24).unwrap_err();
        assert_eq!(error, AuthError::SignatureDoesNotMatch, "{added}");
    }
}

#[test]
fn v2_dates_are_answered_as_s3_does() {
    let sent = |date: &str| {
        let authorization = format!("AWS {KEY}:x");
        let headers = [
            HOST,
            ("authorization", &authorization),
            ("x-amz-date", date),
        ];
        check(&request("GET", "/b", &headers), MAY_24).unwrap_err()
    };
    for date in ["Bad Date", "", "Tue, 07 Jul 1950 21:53:04 GMT"] {
        assert!(matches!(sent(date), AuthError::AccessDenied(_)), "{date}");
    }
    for date in [
        "Tue, 07 Jul 2010 21:53:04 GMT",
        "Tue, 07 Jul 9999 21:53:04 GMT",
    ] {
        let error = sent(date);
        assert!(
            matches!(error, AuthError::RequestTimeTooSkewed { .. }),
            "{date}: {error:?}"
        );
    }
}
