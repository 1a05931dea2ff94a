//! What holds for every request.

use crate::s3::ctx::ConnInfo;
use crate::s3::testing::{Door, Who};

/// Most bytes that the future of a request takes: rare handlers are boxed to keep to it.
const MAX_FUTURE_LEN_BYTES: usize = 8 << 10;

#[tokio::test]
async fn every_answer_has_a_request_id_and_errors_repeat_it() {
    let door = Door::open();
    let answer = door.ask(Who::Alice, "GET", "/nowhere/key").await;
    assert_eq!(answer.outcome(), (404, "NoSuchBucket".to_owned()));
    let error = answer.xml("Error");
    let id = answer.header("x-amz-request-id").unwrap();
    assert_eq!(error.required("RequestId").unwrap(), id);
    assert_eq!(error.required("Resource").unwrap(), "/nowhere/key");
    assert_eq!(answer.header("content-type"), Some("application/xml"));
    assert!(answer.header("x-amz-id-2").is_some());
    assert_eq!(answer.header("server"), Some("Portico"));
    let listing = door.ask(Who::Alice, "GET", "/").await;
    assert_ne!(listing.header("x-amz-request-id").unwrap(), id);
}

#[tokio::test]
async fn an_error_to_head_has_no_body() {
    let door = Door::open();
    let answer = door.expect(Who::Alice, "HEAD", "/nowhere", 404).await;
    assert!(answer.body.is_empty());
}

#[tokio::test]
async fn a_wrong_signature_is_refused_before_anything_is_said() {
    let door = Door::open();
    let forged = [(
        "authorization",
        "AWS4-HMAC-SHA256 Credential=AKIAALICE/20231114/us-east-1/s3/aws4_request,\
         SignedHeaders=host;x-amz-date,Signature=00",
    )];
    for uri in ["/", "/nowhere", "/b?versioning", "/b?nope"] {
        let answer = door.send(Who::Anonymous, "PUT", uri, &forged, "").await;
        let (status, _) = answer.outcome();
        assert!(status == 403 || status == 400, "{uri}: {answer:?}");
        assert_ne!(answer.outcome().1, "NotImplemented");
    }
}

#[tokio::test]
async fn anonymous_callers_are_refused_where_nothing_is_public() {
    let door = Door::open();
    door.expect(Who::Alice, "PUT", "/bucket", 200).await;
    for (method, uri) in [
        ("GET", "/bucket"),
        ("HEAD", "/bucket"),
        ("DELETE", "/bucket"),
        ("PUT", "/other"),
        ("GET", "/bucket?acl"),
        ("GET", "/bucket?cors"),
        ("GET", "/bucket/key?acl"),
        ("GET", "/bucket/key?tagging"),
    ] {
        door.expect(Who::Anonymous, method, uri, 403).await;
        if method != "PUT" {
            door.expect(Who::Bob, method, uri, 403).await;
        }
    }
    door.expect(Who::Admin, "GET", "/bucket", 200).await;
}

#[tokio::test]
async fn what_is_asked_for_and_not_built_is_said_and_nothing_is_done() {
    let door = Door::open();
    door.expect(Who::Alice, "PUT", "/bucket", 200).await;
    for (name, value) in [
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-object-lock-mode", "COMPLIANCE"),
        ("x-amz-write-offset-bytes", "3"),
    ] {
        let answer = door
            .send(Who::Alice, "PUT", "/bucket/key", &[(name, value)], "x")
            .await;
        assert_eq!(
            answer.outcome(),
            (501, "NotImplemented".to_owned()),
            "{name}"
        );
    }
    let class = [("x-amz-storage-class", "GLACIER")];
    let answer = door
        .send(Who::Alice, "PUT", "/bucket/key", &class, "x")
        .await;
    assert_eq!(answer.outcome(), (400, "InvalidStorageClass".to_owned()));
    let lock = [("x-amz-bucket-object-lock-enabled", "true")];
    let answer = door.send(Who::Alice, "PUT", "/locked", &lock, "").await;
    assert_eq!(answer.outcome(), (501, "NotImplemented".to_owned()));
    door.expect(Who::Alice, "HEAD", "/locked", 404).await;
    let listing = door.ask(Who::Alice, "GET", "/bucket").await;
    assert!(listing.xml("ListBucketResult").child("Contents").is_none());
}

#[tokio::test]
async fn a_bucket_of_another_owner_than_expected_is_refused() {
    let door = Door::open();
    door.expect(Who::Alice, "PUT", "/bucket", 200).await;
    for (owner, status) in [(Who::Alice.id(), 200), (Who::Bob.id(), 403)] {
        let expected = [("x-amz-expected-bucket-owner", owner.as_str())];
        let answer = door.send(Who::Alice, "GET", "/bucket", &expected, "").await;
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn a_bucket_may_be_named_by_the_host() {
    let door = Door::open();
    door.expect(Who::Alice, "PUT", "/bucket", 200).await;
    door.put("bucket", "a/key", Who::Alice, b"x").await;
    let host = [("host", "bucket.s3.test:9000")];
    let answer = door.send(Who::Alice, "GET", "/?prefix=a/", &host, "").await;
    let listing = answer.xml("ListBucketResult");
    assert_eq!(listing.required("Name").unwrap(), "bucket");
    let entry = listing.child("Contents").unwrap();
    assert_eq!(entry.required("Key").unwrap(), "a/key");
    let tags = door
        .send(Who::Alice, "GET", "/a/key?tagging", &host, "")
        .await;
    assert_eq!(tags.status, 200);
}

#[tokio::test]
async fn a_request_in_flight_is_small() {
    let door = Door::open();
    let request = http::Request::new(http_body_util::Full::new(bytes::Bytes::new()));
    let len_bytes = size_of_val(&door.door().handle(request, ConnInfo::default()));
    assert!(len_bytes <= MAX_FUTURE_LEN_BYTES, "{len_bytes}");
}
