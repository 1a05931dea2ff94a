use super::ask::{Ask, Door};
use crate::s3::testing::Who;

/// A door with an object at `/bucket/from`, all of whose attributes are set.
async fn with_source() -> Door {
    let door = Door::open().await;
    let ask = Ask::put("/bucket/from", "hello")
        .header("content-type", "audio/ogg")
        .header("x-amz-meta-key1", "value1")
        .header("x-amz-tagging", "t=1")
        .header("x-amz-acl", "public-read");
    door.send(ask).await.is(200);
    door
}

fn copy(from: &str, to: &str) -> Ask {
    Ask::put(to, "").header("x-amz-copy-source", from)
}

#[tokio::test]
async fn a_copy_keeps_what_was_said_but_not_who_may_read() {
    let door = with_source().await;
    let copied = door.send(copy("/bucket/from", "/bucket/to")).await.is(200);
    let result = copied.xml("CopyObjectResult");
    let etag = result.required("ETag").unwrap().to_owned();
    assert!(result.required("LastModified").unwrap().ends_with('Z'));
    let got = door.send(Ask::get("/bucket/to")).await.is(200);
    assert_eq!(got.text(), "hello");
    assert_eq!(got.header("etag"), etag);
    assert_eq!(got.header("content-type"), "audio/ogg");
    assert_eq!(got.header("x-amz-meta-key1"), "value1");
    assert_eq!(got.header("x-amz-tagging-count"), "1");
    door.send(Ask::get("/bucket/from").by(Who::Anonymous))
        .await
        .is(200);
    let refused = door.send(Ask::get("/bucket/to").by(Who::Anonymous)).await;
    refused.is_error(403, "AccessDenied");
}

#[tokio::test]
async fn a_copy_can_replace_what_was_said() {
    let door = with_source().await;
    let ask = copy("bucket/from", "/bucket/to")
        .header("x-amz-metadata-directive", "REPLACE")
        .header("x-amz-tagging-directive", "REPLACE")
        .header("x-amz-tagging", "u=1&v=2")
        .header("content-type", "audio/mpeg")
        .header("x-amz-meta-key3", "value3");
    door.send(ask).await.is(200);
    let got = door.send(Ask::get("/bucket/to")).await.is(200);
    assert_eq!(got.header("content-type"), "audio/mpeg");
    assert_eq!(got.header("x-amz-meta-key3"), "value3");
    assert_eq!(got.header("x-amz-tagging-count"), "2");
    assert!(!got.headers.contains_key("x-amz-meta-key1"));
    let unknown = copy("/bucket/from", "/bucket/to").header("x-amz-metadata-directive", "keep");
    door.send(unknown).await.is_error(400, "InvalidArgument");
}

#[tokio::test]
async fn a_copy_onto_itself_must_change_something() {
    let door = with_source().await;
    let same = copy("/bucket/from", "/bucket/from");
    door.send(same.clone())
        .await
        .is_error(400, "InvalidRequest");
    let changed = same
        .header("x-amz-metadata-directive", "REPLACE")
        .header("x-amz-meta-foo", "bar");
    let result = door.send(changed).await.is(200);
    let etag = result
        .xml("CopyObjectResult")
        .required("ETag")
        .unwrap()
        .to_owned();
    let got = door.send(Ask::get("/bucket/from")).await.is(200);
    assert_eq!(got.text(), "hello");
    assert_eq!(got.header("etag"), etag);
    assert_eq!(got.header("x-amz-meta-foo"), "bar");
    assert!(!got.headers.contains_key("x-amz-meta-key1"));
    assert_eq!(got.header("x-amz-tagging-count"), "1");
    let refused = door.send(Ask::get("/bucket/from").by(Who::Anonymous)).await;
    refused.is_error(403, "AccessDenied");
}

#[tokio::test]
async fn a_source_must_stand_and_be_readable() {
    let door = with_source().await;
    let absent = door.send(copy("/absent/k", "/bucket/to")).await;
    absent.is_error(404, "NoSuchBucket");
    let absent = door.send(copy("/bucket/absent", "/bucket/to")).await;
    absent.is_error(404, "NoSuchKey");
    door.send(Ask::put("/bobs", "").by(Who::Bob)).await.is(200);
    let readable = copy("/bucket/from", "/bobs/to").by(Who::Bob);
    door.send(readable).await.is(200);
    door.send(Ask::put("/bucket/private", "x")).await.is(200);
    let private = copy("/bucket/private", "/bobs/to").by(Who::Bob);
    door.send(private).await.is_error(403, "AccessDenied");
    let foreign = copy("/bucket/from", "/bobs/to");
    door.send(foreign).await.is_error(403, "AccessDenied");
}

#[tokio::test]
async fn conditions_on_a_source_are_412() {
    let door = with_source().await;
    let etag = door
        .send(Ask::head("/bucket/from"))
        .await
        .header("etag")
        .to_owned();
    for (name, value, status) in [
        ("x-amz-copy-source-if-match", etag.as_str(), 200),
        ("x-amz-copy-source-if-match", "ABCORZ", 412),
        ("x-amz-copy-source-if-none-match", "ABCORZ", 200),
        ("x-amz-copy-source-if-none-match", etag.as_str(), 412),
        (
            "x-amz-copy-source-if-modified-since",
            "Sat, 29 Oct 2099 19:43:31 GMT",
            412,
        ),
        (
            "x-amz-copy-source-if-unmodified-since",
            "Sat, 29 Oct 1994 19:43:31 GMT",
            412,
        ),
    ] {
        let ask = copy("/bucket/from", "/bucket/to").header(name, value);
        assert_eq!(door.send(ask).await.status, status, "{name}: {value}");
    }
    let onto = copy("/bucket/from", "/bucket/to").header("if-none-match", "*");
    door.send(onto).await.is_error(412, "PreconditionFailed");
}

#[tokio::test]
async fn a_copy_can_be_given_a_checksum() {
    let door = with_source().await;
    let ask = copy("/bucket/from", "/bucket/to").header("x-amz-checksum-algorithm", "SHA256");
    let result = door.send(ask).await.is(200).xml("CopyObjectResult");
    let sha256 = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";
    assert_eq!(result.required("ChecksumSHA256").unwrap(), sha256);
    assert_eq!(result.required("ChecksumType").unwrap(), "FULL_OBJECT");
    let head = Ask::head("/bucket/to").header("x-amz-checksum-mode", "ENABLED");
    assert_eq!(
        door.send(head).await.header("x-amz-checksum-sha256"),
        sha256
    );
    let bad = copy("/bucket/from", "/bucket/to").header("x-amz-checksum-algorithm", "MD4");
    door.send(bad).await.is_error(400, "InvalidRequest");
}
