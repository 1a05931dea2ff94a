use super::ask::{Ask, Door};
use crate::s3::ctx::ConnInfo;
use crate::s3::testing::Who;

#[tokio::test]
async fn conditions_of_a_write_are_decided() {
    let door = Door::open().await;
    let key = "/bucket/obj";
    let put = |name: &'static str, value: &str| {
        let ask = Ask::put(key, "").header(name, value);
        door.send(ask)
    };
    let first = put("if-none-match", "*").await.is(200);
    let etag = first.header("etag").to_owned();
    put("if-none-match", "*")
        .await
        .is_error(412, "PreconditionFailed");
    put("if-none-match", &etag)
        .await
        .is_error(412, "PreconditionFailed");
    put("if-none-match", "badetag").await.is(200);
    put("if-match", &etag).await.is(200);
    door.send(Ask::delete(key)).await.is(204);
    put("if-match", "*").await.is_error(404, "NoSuchKey");
    put("if-match", "badetag").await.is_error(404, "NoSuchKey");
    put("if-none-match", &etag).await.is(200);
    put("if-match", "*").await.is(200);
    put("if-match", "badetag")
        .await
        .is_error(412, "PreconditionFailed");
}

/// A body that nobody may look at.
struct Untouched;

impl http_body::Body for Untouched {
    type Data = bytes::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, std::io::Error>>> {
        panic!("the body was polled: 100 Continue would have gone out")
    }
}

#[tokio::test]
async fn what_can_be_refused_without_the_body_is() {
    let door = Door::open().await;
    let open = Ask::put("/bucket?acl", "").header("x-amz-acl", "public-read-write");
    door.send(open).await.is(200);
    door.send(Ask::put("/bucket/there", "x")).await.is(200);
    for (target, name, value, status) in [
        ("/absent/k", "x-a", "", 404),
        ("/bucket/there", "if-none-match", "*", 412),
        ("/bucket/there", "if-match", "\"other\"", 412),
        ("/bucket/k", "if-match", "*", 404),
        ("/bucket/k", "content-md5", "short", 400),
        ("/bucket/k", "x-amz-tagging", "a=1&a=2", 400),
        ("/bucket/k", "x-amz-acl", "nobody", 400),
        ("/bucket/k?partNumber=1&uploadId=absent", "x-a", "", 404),
    ] {
        let request = http::Request::put(target)
            .header("host", "s3.test:9000")
            .header("content-length", "3")
            .header(name, value);
        let request = request.body(Untouched).unwrap();
        let answer = door.s3().handle(request, ConnInfo::default()).await;
        assert_eq!(answer.status(), status, "{target} {name}: {value}");
    }
}

#[tokio::test]
async fn of_many_creators_one_wins() {
    let door = Door::open().await;
    let put = |_| door.send(Ask::put("/bucket/k", "x").header("if-none-match", "*"));
    let replies = futures_util::future::join_all((0..16).map(put)).await;
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status.as_u16()).collect();
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 1);
    assert_eq!(statuses.iter().filter(|s| **s == 412).count(), 15);
}

#[tokio::test]
async fn a_refused_body_leaves_the_old_object() {
    let door = Door::open().await;
    let key = "/bucket/obj";
    door.send(Ask::put(key, "old")).await.is(200);
    let wrong = Ask::put(key, "new").header("content-md5", "XUFAKrxLKna5cZ2REBfFkg==");
    door.send(wrong).await.is_error(400, "BadDigest");
    let wrong = Ask::put(key, "new").header("x-amz-checksum-crc32", "AAAAAA==");
    door.send(wrong).await.is_error(400, "BadDigest");
    let refused = Ask::put(key, "new").header("content-md5", "short");
    door.send(refused).await.is_error(400, "InvalidDigest");
    assert_eq!(door.send(Ask::get(key)).await.text(), "old");
}

#[tokio::test]
async fn a_put_replaces_everything_said_before() {
    let door = Door::open().await;
    let first = Ask::put("/bucket/k", "1")
        .header("x-amz-meta-a", "1")
        .header("x-amz-tagging", "t=1")
        .header("content-type", "text/plain");
    door.send(first).await.is(200);
    door.send(Ask::put("/bucket/k", "2")).await.is(200);
    let got = door.send(Ask::get("/bucket/k")).await.is(200);
    assert_eq!(got.text(), "2");
    assert_eq!(got.header("content-type"), "binary/octet-stream");
    assert!(!got.headers.contains_key("x-amz-meta-a"));
    assert!(!got.headers.contains_key("x-amz-tagging-count"));
}

#[tokio::test]
async fn writes_need_the_buckets_leave() {
    let door = Door::open().await;
    for user in [Who::Anonymous, Who::Bob] {
        let put = door.send(Ask::put("/bucket/k", "x").by(user)).await;
        put.is_error(403, "AccessDenied");
        let delete = door.send(Ask::delete("/bucket/k").by(user)).await;
        delete.is_error(403, "AccessDenied");
    }
    let open = Ask::put("/bucket?acl", "").header("x-amz-acl", "public-read-write");
    door.send(open).await.is(200);
    door.send(Ask::put("/bucket/k", "x").by(Who::Anonymous))
        .await
        .is(200);
    door.send(Ask::put("/bucket/bobs", "x").by(Who::Bob))
        .await
        .is(200);
    let got = door.send(Ask::get("/bucket/bobs").by(Who::Bob)).await;
    assert_eq!(got.is(200).text(), "x");
}

#[tokio::test]
async fn what_a_name_cannot_be_is_refused() {
    let door = Door::open().await;
    let long = format!("/bucket/{}", "k".repeat(1025));
    door.send(Ask::put(&long, "x"))
        .await
        .is_error(400, "KeyTooLongError");
    let big = Ask::put("/bucket/k", "x").header("x-amz-meta-a", &"v".repeat(2048));
    door.send(big).await.is_error(400, "MetadataTooLarge");
    let tags: Vec<String> = (0..11).map(|i| format!("k{i}=v")).collect();
    let many = Ask::put("/bucket/k", "x").header("x-amz-tagging", &tags.join("&"));
    door.send(many).await.is_error(400, "InvalidTag");
    let absent = door.send(Ask::put("/absent/k", "x")).await;
    absent.is_error(404, "NoSuchBucket");
}

#[tokio::test]
async fn a_delete_is_204_and_its_conditions_hold() {
    let door = Door::open().await;
    let key = "/bucket/obj";
    let delete = |name: &'static str, value: &str| {
        let ask = Ask::delete(key).header(name, value);
        door.send(ask)
    };
    let put = door.send(Ask::put(key, "abc")).await.is(200);
    let etag = put.header("etag").to_owned();
    let old = "Thu, 01 Jan 2015 00:00:00 GMT";
    for (name, value) in [
        ("if-match", "badetag"),
        ("x-amz-if-match-size", "9999"),
        ("x-amz-if-match-last-modified-time", old),
    ] {
        delete(name, value)
            .await
            .is_error(412, "PreconditionFailed");
    }
    delete("x-amz-if-match-size", "many")
        .await
        .is_error(400, "InvalidArgument");
    door.send(Ask::head(key)).await.is(200);
    delete("x-amz-if-match-size", "3").await.is(204);
    door.send(Ask::get(key)).await.is_error(404, "NoSuchKey");
    for (name, value) in [
        ("if-match", etag.as_str()),
        ("if-match", "*"),
        ("x-amz-if-match-size", "1"),
    ] {
        delete(name, value).await.is(204);
    }
    door.send(Ask::delete("/absent/k"))
        .await
        .is_error(404, "NoSuchBucket");
}

fn many(objects: &str) -> Ask {
    let body = format!("<Delete>{objects}</Delete>");
    Ask::post("/bucket?delete", body.clone()).header("content-md5", &md5_base64(body.as_bytes()))
}

fn md5_base64(bytes: &[u8]) -> String {
    use base64::Engine;
    use md5::Digest;
    base64::engine::general_purpose::STANDARD.encode(md5::Md5::digest(bytes))
}

#[tokio::test]
async fn many_keys_are_deleted_in_one_request() {
    let door = Door::open().await;
    for key in ["a", "b%26c"] {
        door.send(Ask::put(&format!("/bucket/{key}"), "x"))
            .await
            .is(200);
    }
    let long = "k".repeat(1025);
    let objects = format!(
        "<Object><Key>a</Key></Object><Object><Key>b&amp;c</Key></Object>\
         <Object><Key>never</Key></Object><Object><Key>{long}</Key></Object>"
    );
    let result = door.send(many(&objects)).await.is(200).xml("DeleteResult");
    let deleted: Vec<&str> = result
        .children_named("Deleted")
        .map(|deleted| deleted.required("Key").unwrap())
        .collect();
    assert_eq!(deleted, ["a", "b&c", "never"]);
    let errors: Vec<_> = result.children_named("Error").collect();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].required("Code").unwrap(), "KeyTooLongError");
    door.send(Ask::get("/bucket/a"))
        .await
        .is_error(404, "NoSuchKey");
    let quiet = many("<Quiet>true</Quiet><Object><Key>a</Key></Object>");
    let result = door.send(quiet).await.is(200).xml("DeleteResult");
    assert!(result.children.is_empty());
}

#[tokio::test]
async fn each_of_many_deletes_has_its_conditions() {
    let door = Door::open().await;
    let put = door.send(Ask::put("/bucket/obj", "")).await.is(200);
    let etag = put.header("etag").replace('"', "&quot;");
    for condition in [
        "<ETag>badetag</ETag>",
        "<Size>9999</Size>",
        "<LastModifiedTime>2015-01-01T00:00:00Z</LastModifiedTime>",
    ] {
        let ask = many(&format!("<Object><Key>obj</Key>{condition}</Object>"));
        let result = door.send(ask).await.is(200).xml("DeleteResult");
        let error = result.child("Error").unwrap();
        assert_eq!(error.required("Code").unwrap(), "PreconditionFailed");
    }
    let held = many(&format!(
        "<Object><Key>obj</Key><ETag>{etag}</ETag><Size>0</Size>\
         <LastModifiedTime>2026-01-01T00:00:00.000Z</LastModifiedTime></Object>"
    ));
    let result = door.send(held).await.is(200).xml("DeleteResult");
    assert!(result.child("Deleted").is_some());
    let again = many("<Object><Key>obj</Key><ETag>badetag</ETag></Object>");
    let result = door.send(again).await.is(200).xml("DeleteResult");
    assert!(result.child("Error").is_none());
}

#[tokio::test]
async fn a_list_of_deletes_is_bounded_and_verified() {
    let door = Door::open().await;
    door.send(many("")).await.is_error(400, "MalformedXML");
    let objects = |n: usize| -> String {
        (0..n)
            .map(|i| format!("<Object><Key>k{i}</Key></Object>"))
            .collect()
    };
    door.send(many(&objects(1001)))
        .await
        .is_error(400, "MalformedXML");
    door.send(many(&objects(1000))).await.is(200);
    let body = format!("<Delete>{}</Delete>", objects(1));
    let unverified = Ask::post("/bucket?delete", body.clone());
    door.send(unverified).await.is_error(400, "InvalidRequest");
    let wrong = Ask::post("/bucket?delete", body).header("content-md5", &md5_base64(b"other"));
    door.send(wrong).await.is_error(400, "BadDigest");
    let bad = many("<Object><Key>k</Key><Size>many</Size></Object>");
    door.send(bad).await.is_error(400, "MalformedXML");
}
