use super::ask::{Ask, Door};
use crate::s3::testing::Who;

const KEY: &str = "/bucket/a/key%20with%20spaces";
const ETAG: &str = "\"5eb63bbbe01eeed093cb22bb8f5acdc3\"";

/// A door with "hello world" at [`KEY`].
async fn with_object() -> Door {
    let door = Door::open().await;
    let ask = Ask::put(KEY, "hello world")
        .header("content-type", "text/plain")
        .header("cache-control", "no-cache")
        .header("x-amz-meta-color", "red")
        .header("x-amz-tagging", "a=1&b=2");
    let put = door.send(ask).await.is(200);
    assert_eq!(put.header("etag"), ETAG);
    door
}

#[tokio::test]
async fn an_object_comes_back_with_what_was_said_of_it() {
    let door = with_object().await;
    let got = door.send(Ask::get(KEY)).await.is(200);
    assert_eq!(got.text(), "hello world");
    let head = door.send(Ask::head(KEY)).await.is(200);
    assert!(head.body.is_empty());
    for reply in [&got, &head] {
        for (name, value) in [
            ("etag", ETAG),
            ("content-length", "11"),
            ("content-type", "text/plain"),
            ("cache-control", "no-cache"),
            ("x-amz-meta-color", "red"),
            ("x-amz-tagging-count", "2"),
            ("accept-ranges", "bytes"),
            ("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ] {
            assert_eq!(reply.header(name), value, "{name}");
        }
        assert!(!reply.headers.contains_key("x-amz-checksum-crc64nvme"));
    }
}

#[tokio::test]
async fn ranges_are_206_and_beyond_the_end_416() {
    let door = with_object().await;
    let ranged = |range: &str| door.send(Ask::get(KEY).header("range", range));
    for (range, text, shown) in [
        ("bytes=0-4", "hello", "bytes 0-4/11"),
        ("bytes=6-", "world", "bytes 6-10/11"),
        ("bytes=-5", "world", "bytes 6-10/11"),
        ("bytes=-500", "hello world", "bytes 0-10/11"),
        ("bytes=4-400", "o world", "bytes 4-10/11"),
    ] {
        let got = ranged(range).await.is(206);
        assert_eq!(got.text(), text, "{range}");
        assert_eq!(got.header("content-range"), shown);
        assert_eq!(got.header("content-length"), text.len().to_string());
    }
    for range in ["bytes=11-", "bytes=40-50", "bytes=-0"] {
        let refused = ranged(range).await;
        refused.is_error(416, "InvalidRange");
        let error = refused.xml("Error");
        assert_eq!(error.required("ActualObjectSize").unwrap(), "11");
    }
    for range in ["bytes=5-2", "lines=0-1", "bytes=0-1,3-4"] {
        let got = ranged(range).await.is(200);
        assert_eq!(got.text(), "hello world", "{range}");
    }
    let head = door.send(Ask::head(KEY).header("range", "bytes=0-4"));
    assert_eq!(head.await.is(206).header("content-length"), "5");
}

#[tokio::test]
async fn an_empty_object_has_no_range() {
    let door = Door::open().await;
    door.send(Ask::put("/bucket/empty", "")).await.is(200);
    let got = door.send(Ask::get("/bucket/empty")).await.is(200);
    assert_eq!((got.header("content-length"), got.text()), ("0", ""));
    let refused = door.send(Ask::get("/bucket/empty").header("range", "bytes=40-50"));
    refused.await.is_error(416, "InvalidRange");
}

#[tokio::test]
async fn conditions_of_a_read_are_304_and_412() {
    let door = with_object().await;
    let past = "Sat, 29 Oct 1994 19:43:31 GMT";
    let future = "Sat, 29 Oct 2099 19:43:31 GMT";
    for (name, value, status) in [
        ("if-match", ETAG, 200),
        ("if-match", "5eb63bbbe01eeed093cb22bb8f5acdc3", 200),
        ("if-match", "\"ABCORZ\"", 412),
        ("if-none-match", ETAG, 304),
        ("if-none-match", "ABCORZ", 200),
        ("if-modified-since", past, 200),
        ("if-modified-since", future, 304),
        ("if-modified-since", "no date", 200),
        ("if-unmodified-since", past, 412),
        ("if-unmodified-since", future, 200),
    ] {
        let got = door.send(Ask::get(KEY).header(name, value)).await;
        assert_eq!(got.status, status, "{name}: {value}");
        if status == 304 {
            assert_eq!(got.header("etag"), ETAG);
            assert_eq!(got.header("cache-control"), "no-cache");
            assert!(got.body.is_empty());
        }
        if status == 412 {
            got.is_error(412, "PreconditionFailed");
        }
        let head = door.send(Ask::head(KEY).header(name, value)).await;
        assert_eq!(head.status, status, "HEAD, {name}: {value}");
    }
}

#[tokio::test]
async fn headers_are_overridden_for_users_only() {
    let door = Door::open().await;
    let put = Ask::put("/bucket/k", "x").header("x-amz-acl", "public-read");
    door.send(put).await.is(200);
    let target = "/bucket/k?response-content-type=foo%2Fbar&response-cache-control=no-store\
                  &response-content-disposition=bla&response-content-encoding=aaa\
                  &response-content-language=esperanto&response-expires=123";
    let got = door.send(Ask::get(target)).await.is(200);
    for (name, value) in [
        ("content-type", "foo/bar"),
        ("cache-control", "no-store"),
        ("content-disposition", "bla"),
        ("content-encoding", "aaa"),
        ("content-language", "esperanto"),
        ("expires", "123"),
    ] {
        assert_eq!(got.header(name), value);
    }
    let anonymous = door.send(Ask::get(target).by(Who::Anonymous)).await;
    anonymous.is_error(400, "InvalidRequest");
    door.send(Ask::get("/bucket/k").by(Who::Anonymous))
        .await
        .is(200);
}

#[tokio::test]
async fn others_learn_nothing_of_a_private_object() {
    let door = with_object().await;
    for user in [Who::Anonymous, Who::Bob] {
        for key in [KEY, "/bucket/absent"] {
            let refused = door.send(Ask::get(key).by(user)).await;
            refused.is_error(403, "AccessDenied");
            let refused = door.send(Ask::head(key).by(user)).await;
            assert_eq!(refused.status, 403);
        }
    }
    let absent = door.send(Ask::get("/bucket/absent")).await;
    absent.is_error(404, "NoSuchKey");
    assert_eq!(absent.header("x-amz-delete-marker"), "false");
    assert_eq!(door.send(Ask::head("/bucket/absent")).await.status, 404);
    let absent = door.send(Ask::get("/nowhere/k")).await;
    absent.is_error(404, "NoSuchBucket");
}

#[tokio::test]
async fn the_checksum_is_shown_where_it_is_asked_for() {
    let door = with_object().await;
    let shown = |ask: Ask| door.send(ask.header("x-amz-checksum-mode", "ENABLED"));
    let got = shown(Ask::get(KEY)).await.is(200);
    assert!(!got.header("x-amz-checksum-crc64nvme").is_empty());
    assert_eq!(got.header("x-amz-checksum-type"), "FULL_OBJECT");
    let part = shown(Ask::get(KEY).header("range", "bytes=0-1"))
        .await
        .is(206);
    assert!(!part.headers.contains_key("x-amz-checksum-crc64nvme"));
    let put = Ask::put(KEY, "hello world").header("x-amz-checksum-crc32", "DUoRhQ==");
    let put = door.send(put).await.is(200);
    assert_eq!(put.header("x-amz-checksum-crc32"), "DUoRhQ==");
    let head = shown(Ask::head(KEY)).await.is(200);
    assert_eq!(head.header("x-amz-checksum-crc32"), "DUoRhQ==");
    assert!(!head.headers.contains_key("x-amz-checksum-crc64nvme"));
}

#[tokio::test]
async fn an_object_of_one_piece_is_its_own_first_part() {
    let door = with_object().await;
    let first = door
        .send(Ask::get(&format!("{KEY}?partNumber=1")))
        .await
        .is(206);
    assert_eq!(first.text(), "hello world");
    assert_eq!(first.header("content-range"), "bytes 0-10/11");
    let second = door.send(Ask::get(&format!("{KEY}?partNumber=2"))).await;
    second.is_error(416, "InvalidPartNumber");
    let zeroth = door.send(Ask::get(&format!("{KEY}?partNumber=0"))).await;
    zeroth.is_error(400, "InvalidArgument");
    let both = Ask::get(&format!("{KEY}?partNumber=1")).header("range", "bytes=0-1");
    door.send(both).await.is_error(400, "InvalidRequest");
}

#[tokio::test]
async fn a_long_object_comes_whole() {
    let door = Door::open().await;
    let long: Vec<u8> = (0..1_000_000_u32).map(|i| (i / 7) as u8).collect();
    door.send(Ask::put("/bucket/long", long.clone()))
        .await
        .is(200);
    let got = door.send(Ask::get("/bucket/long")).await.is(200);
    assert_eq!(got.body, long);
}
