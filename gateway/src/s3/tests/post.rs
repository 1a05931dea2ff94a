use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};

use super::ask::{Ask, Door};
use crate::s3::testing::Who;

/// A form with these fields and a file, as a browser sends it.
fn form(fields: &[(&str, &str)], file: &str) -> Ask {
    let mut body = String::new();
    for (name, value) in fields {
        body +=
            &format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    }
    body += &format!(
        "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"foo.txt\"\r\n\
         Content-Type: text/plain\r\n\r\n{file}\r\n--XX--\r\n"
    );
    Ask::post("/bucket", body)
        .header("content-type", "multipart/form-data; boundary=XX")
        .by(Who::Anonymous)
}

async fn with_open_bucket() -> Door {
    let door = Door::open().await;
    let open = Ask::put("/bucket?acl", "").header("x-amz-acl", "public-read-write");
    door.send(open).await.is(200);
    door
}

/// Alice's policy and its signature.
fn signed(conditions: &Value) -> (String, String) {
    let document = json!({"expiration": "2099-01-01T00:00:00Z", "conditions": conditions});
    let policy = STANDARD.encode(document.to_string());
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(b"secret-of-alice").unwrap();
    mac.update(policy.as_bytes());
    (policy, STANDARD.encode(mac.finalize().into_bytes()))
}

#[tokio::test]
async fn anyone_may_post_where_anyone_may_write() {
    let door = with_open_bucket().await;
    let fields = [
        ("key", "a/${filename}"),
        ("acl", "public-read"),
        ("Content-Type", "text/html"),
        ("x-amz-meta-Color", "red"),
        (
            "tagging",
            "<Tagging><TagSet><Tag><Key>0</Key><Value>0</Value></Tag></TagSet></Tagging>",
        ),
    ];
    let posted = door.send(form(&fields, "bar\r\n--X")).await.is(204);
    assert!(posted.body.is_empty());
    assert_eq!(
        posted.header("location"),
        "http://s3.test:9000/bucket/a/foo.txt"
    );
    let got = door
        .send(Ask::get("/bucket/a/foo.txt").by(Who::Bob))
        .await
        .is(200);
    assert_eq!(got.text(), "bar\r\n--X");
    assert_eq!(got.header("content-type"), "text/html");
    assert_eq!(got.header("x-amz-meta-color"), "red");
    assert_eq!(got.header("x-amz-tagging-count"), "1");
    assert_eq!(got.header("etag"), posted.header("etag"));
}

#[tokio::test]
async fn the_answer_is_the_one_the_form_asks_for() {
    let door = with_open_bucket().await;
    for (asked, status) in [("200", 200), ("204", 204), ("404", 204), ("", 204)] {
        let fields = [("key", "foo.txt"), ("success_action_status", asked)];
        let posted = door.send(form(&fields, "bar")).await.is(status);
        assert!(posted.body.is_empty(), "{asked}");
    }
    let fields = [("key", "foo.txt"), ("success_action_status", "201")];
    let posted = door.send(form(&fields, "bar")).await.is(201);
    let told = posted.xml("PostResponse");
    assert_eq!(told.required("Key").unwrap(), "foo.txt");
    assert_eq!(told.required("ETag").unwrap(), posted.header("etag"));
    for (to, sent) in [
        ("http://web.test/done", "http://web.test/done?"),
        ("https://web.test/?a=b", "https://web.test/?a=b&"),
    ] {
        let fields = [("key", "a b"), ("success_action_redirect", to)];
        let posted = door.send(form(&fields, "bar")).await.is(303);
        let etag = posted.header("etag").trim_matches('"');
        let location = format!("{sent}bucket=bucket&key=a%20b&etag=%22{etag}%22");
        assert_eq!(posted.header("location"), location);
    }
    let fields = [
        ("key", "foo.txt"),
        ("success_action_redirect", "javascript:alert(1)"),
    ];
    door.send(form(&fields, "bar")).await.is(204);
}

#[tokio::test]
async fn a_signed_policy_lets_its_holder_post_within_it() {
    let door = Door::open().await;
    let (policy, signature) = signed(&json!([
        {"bucket": "bucket"},
        ["starts-with", "$key", "foo"],
        {"acl": "private"},
        ["content-length-range", 2, 8],
    ]));
    let fields = |key| {
        [
            ("key", key),
            ("AWSAccessKeyId", "AKIAALICE"),
            ("acl", "private"),
            ("policy", policy.as_str()),
            ("signature", signature.as_str()),
        ]
    };
    door.send(form(&fields("foo.txt"), "bar")).await.is(204);
    let got = door.send(Ask::get("/bucket/foo.txt")).await.is(200);
    assert_eq!(got.text(), "bar");
    let other = door.send(form(&fields("other.txt"), "bar")).await;
    other.is_error(403, "AccessDenied");
    let large = door.send(form(&fields("foo.txt"), "far too large")).await;
    large.is_error(400, "EntityTooLarge");
    let small = door.send(form(&fields("foo.txt"), "x")).await;
    small.is_error(400, "EntityTooSmall");
    let mut forged = fields("foo.txt");
    forged[4].1 = "AAAA";
    let refused = door.send(form(&forged, "bar")).await;
    refused.is_error(403, "SignatureDoesNotMatch");
    assert_eq!(door.send(Ask::get("/bucket/foo.txt")).await.text(), "bar");
}

#[tokio::test]
async fn a_form_that_is_none_or_may_not_is_refused() {
    let door = Door::open().await;
    let stranger = door.send(form(&[("key", "k")], "x")).await;
    stranger.is_error(403, "AccessDenied");
    let door = with_open_bucket().await;
    door.send(form(&[], "x"))
        .await
        .is_error(400, "InvalidArgument");
    let checksum = [("key", "k"), ("x-amz-checksum-crc32", "AAAAAA==")];
    door.send(form(&checksum, "x"))
        .await
        .is_error(400, "BadDigest");
    let encrypted = [("key", "k"), ("x-amz-server-side-encryption", "AES256")];
    door.send(form(&encrypted, "x"))
        .await
        .is_error(501, "NotImplemented");
    let tags = [("key", "k"), ("tagging", "<Tagging/>")];
    door.send(form(&tags, "x"))
        .await
        .is_error(400, "MalformedXML");
    door.send(Ask::get("/bucket/k"))
        .await
        .is_error(404, "NoSuchKey");
}
