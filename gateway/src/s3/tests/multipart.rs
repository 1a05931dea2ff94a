use bytes::Bytes;

use super::ask::{Ask, Door};

const MIB: usize = 1 << 20;

async fn begin(door: &Door, key: &str, headers: &[(&str, &str)]) -> String {
    let ask = Ask::post(&format!("/bucket/{key}?uploads"), "");
    let ask = headers.iter().fold(ask, |ask, (n, v)| ask.header(n, v));
    let begun = door.send(ask).await.is(200);
    let result = begun.xml("InitiateMultipartUploadResult");
    assert_eq!(result.required("Key").unwrap(), key);
    result.required("UploadId").unwrap().to_owned()
}

fn part(key: &str, id: &str, number: u16, body: impl Into<Bytes>) -> Ask {
    Ask::put(
        &format!("/bucket/{key}?partNumber={number}&uploadId={id}"),
        body,
    )
}

/// Uploads a part and gives its element for the completion.
async fn upload(door: &Door, ask: Ask, number: u16) -> String {
    let etag = door.send(ask).await.is(200).header("etag").to_owned();
    element(number, &etag)
}

fn element(number: u16, etag: &str) -> String {
    let etag = etag.replace('"', "&quot;");
    format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
}

fn complete(key: &str, id: &str, parts: &str) -> Ask {
    let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    Ask::post(&format!("/bucket/{key}?uploadId={id}"), body)
}

#[tokio::test]
async fn parts_become_an_object_and_may_be_read_apart() {
    let door = Door::open().await;
    let headers = [("content-type", "text/plain"), ("x-amz-meta-foo", "bar")];
    let id = begin(&door, "k", &headers).await;
    let unfinished = door.send(Ask::get("/bucket/k?partNumber=1")).await;
    unfinished.is_error(404, "NoSuchKey");
    let first = vec![b'a'; 5 * MIB];
    let parts = upload(&door, part("k", &id, 1, first), 1).await
        + &upload(&door, part("k", &id, 2, "tail"), 2).await;
    let done = door.send(complete("k", &id, &parts)).await.is(200);
    let result = done.xml("CompleteMultipartUploadResult");
    let etag = result.required("ETag").unwrap();
    assert!(etag.ends_with("-2\""), "{etag}");
    let location = "http://s3.test:9000/bucket/k";
    assert_eq!(result.required("Location").unwrap(), location);
    assert_eq!(result.required("ChecksumType").unwrap(), "FULL_OBJECT");

    let head = door.send(Ask::head("/bucket/k")).await.is(200);
    assert_eq!(head.header("content-length"), (5 * MIB + 4).to_string());
    assert_eq!(head.header("content-type"), "text/plain");
    assert_eq!(head.header("x-amz-meta-foo"), "bar");
    assert!(!head.headers.contains_key("x-amz-mp-parts-count"));
    let tail = door.send(Ask::get("/bucket/k?partNumber=2")).await.is(206);
    assert_eq!(tail.text(), "tail");
    assert_eq!(tail.header("x-amz-mp-parts-count"), "2");
    assert_eq!(tail.header("etag"), etag);
    let head = door.send(Ask::head("/bucket/k?partNumber=1")).await.is(206);
    assert_eq!(head.header("content-length"), (5 * MIB).to_string());
    let beyond = door.send(Ask::get("/bucket/k?partNumber=3")).await;
    beyond.is_error(416, "InvalidPartNumber");

    let again = door.send(complete("k", &id, &parts)).await.is(200);
    assert_eq!(again.body, done.body);
}

#[tokio::test]
async fn a_completion_names_parts_that_are_there() {
    let door = Door::open().await;
    let id = begin(&door, "k", &[]).await;
    let small = upload(&door, part("k", &id, 1, "small"), 1).await;
    let last = upload(&door, part("k", &id, 2, "last"), 2).await;
    let both = format!("{small}{last}");
    let swapped = format!("{last}{small}");
    let absent = element(9999, "\"93b885adfe0da089cdf634904fd59f71\"");
    let other = element(1, "\"ffffffffffffffffffffffffffffffff\"");
    for (parts, status, code) in [
        ("", 400, "MalformedXML"),
        (
            "<Part><PartNumber>1</PartNumber></Part>",
            400,
            "MalformedXML",
        ),
        (absent.as_str(), 400, "InvalidPart"),
        (other.as_str(), 400, "InvalidPart"),
        (swapped.as_str(), 400, "InvalidPartOrder"),
        (both.as_str(), 400, "EntityTooSmall"),
    ] {
        let refused = door.send(complete("k", &id, parts)).await;
        assert_eq!(refused.outcome(), (status, code.to_owned()), "{parts}");
    }
    let empty = Ask::post(&format!("/bucket/k?uploadId={id}"), "");
    door.send(empty).await.is_error(400, "MalformedXML");
    let size = complete("k", &id, &last).header("x-amz-mp-object-size", "5");
    door.send(size).await.is_error(400, "InvalidRequest");
    let size = complete("k", &id, &last).header("x-amz-mp-object-size", "4");
    door.send(size).await.is(200);
}

#[tokio::test]
async fn a_part_sent_again_may_be_named_twice() {
    let door = Door::open().await;
    let id = begin(&door, "k", &[]).await;
    let first = upload(&door, part("k", &id, 1, "first"), 1).await;
    let second = upload(&door, part("k", &id, 1, "second"), 1).await;
    let swapped = complete("k", &id, &format!("{second}{first}"));
    door.send(swapped).await.is_error(400, "InvalidPart");
    let both = complete("k", &id, &format!("{first}{second}"));
    door.send(both).await.is(200);
    assert_eq!(door.send(Ask::get("/bucket/k")).await.text(), "second");
}

#[tokio::test]
async fn an_upload_that_is_not_there_is_named_so() {
    let door = Door::open().await;
    let parts = element(1, "1234");
    for id in ["abc1234def", "no.id"] {
        let refused = door.send(complete("k", id, &parts)).await;
        refused.is_error(404, "NoSuchUpload");
        let refused = door.send(part("k", id, 1, "x")).await;
        refused.is_error(404, "NoSuchUpload");
        let abort = Ask::delete(&format!("/bucket/k?uploadId={id}"));
        door.send(abort).await.is_error(404, "NoSuchUpload");
    }
    let id = begin(&door, "k", &[]).await;
    let abort = Ask::delete(&format!("/bucket/k?uploadId={id}"));
    door.send(abort.clone()).await.is(204);
    door.send(abort).await.is_error(404, "NoSuchUpload");
    let bad = part("k", &id, 0, "x");
    door.send(bad).await.is_error(400, "InvalidArgument");
}

#[tokio::test]
async fn conditions_hold_at_completion() {
    let door = Door::open().await;
    let tried = async |name: &'static str, value: &str| {
        let id = begin(&door, "k", &[]).await;
        let parts = upload(&door, part("k", &id, 1, "abc"), 1).await;
        door.send(complete("k", &id, &parts).header(name, value))
            .await
    };
    let first = tried("if-none-match", "*").await.is(200);
    let result = first.xml("CompleteMultipartUploadResult");
    let etag = result.required("ETag").unwrap();
    tried("if-none-match", "*")
        .await
        .is_error(412, "PreconditionFailed");
    tried("if-none-match", etag)
        .await
        .is_error(412, "PreconditionFailed");
    tried("if-match", "badetag")
        .await
        .is_error(412, "PreconditionFailed");
    tried("if-match", etag).await.is(200);
    door.send(Ask::delete("/bucket/k")).await.is(204);
    tried("if-match", "*").await.is_error(404, "NoSuchKey");
}

#[tokio::test]
async fn composite_checksums_are_verified_and_shown() {
    let door = Door::open().await;
    let begun = Ask::post("/bucket/k?uploads", "").header("x-amz-checksum-algorithm", "SHA256");
    let begun = door.send(begun).await.is(200);
    assert_eq!(begun.header("x-amz-checksum-algorithm"), "SHA256");
    assert_eq!(begun.header("x-amz-checksum-type"), "COMPOSITE");
    let result = begun.xml("InitiateMultipartUploadResult");
    let id = result.required("UploadId").unwrap();
    // SHA-256 of 1,024 times "A", and of that digest.
    let of_part = "arcu6553sHVAiX4MjW0j7I7vD4w6R+Gz9Ok0Q9lTa+0=";
    let of_object = "Ok6Cs5b96ux6+MWQkJO7UBT5sKPBeXBLwvj/hK89smg=-1";
    let other = part("k", id, 1, "x").header("x-amz-checksum-crc32", "jNwg+A==");
    door.send(other).await.is_error(400, "InvalidRequest");
    let ask = part("k", id, 1, "A".repeat(1024)).header("x-amz-checksum-sha256", of_part);
    let sent = door.send(ask).await.is(200);
    assert_eq!(sent.header("x-amz-checksum-sha256"), of_part);
    let parts = element(1, sent.header("etag"));
    for bad in ["bad", of_part] {
        let refused = complete("k", id, &parts).header("x-amz-checksum-sha256", bad);
        door.send(refused).await.is_error(400, "BadDigest");
    }
    let kind = complete("k", id, &parts).header("x-amz-checksum-type", "FULL_OBJECT");
    door.send(kind).await.is_error(400, "InvalidRequest");
    let done = complete("k", id, &parts).header("x-amz-checksum-sha256", of_object);
    let result = door
        .send(done)
        .await
        .is(200)
        .xml("CompleteMultipartUploadResult");
    assert_eq!(result.required("ChecksumSHA256").unwrap(), of_object);
    let enabled = |target: &str| {
        let ask = Ask::get(target).header("x-amz-checksum-mode", "ENABLED");
        door.send(ask)
    };
    let got = enabled("/bucket/k").await.is(200);
    assert_eq!(got.header("x-amz-checksum-sha256"), of_object);
    assert_eq!(got.header("x-amz-checksum-type"), "COMPOSITE");
    let first = enabled("/bucket/k?partNumber=1").await.is(206);
    assert_eq!(first.header("x-amz-checksum-sha256"), of_part);
    assert_eq!(first.header("x-amz-checksum-type"), "COMPOSITE");
}

#[tokio::test]
async fn checksum_types_that_do_not_go_together_are_refused() {
    let door = Door::open().await;
    for (algorithm, kind) in [("SHA256", "FULL_OBJECT"), ("CRC64NVME", "COMPOSITE")] {
        let ask = Ask::post("/bucket/k?uploads", "")
            .header("x-amz-checksum-algorithm", algorithm)
            .header("x-amz-checksum-type", kind);
        door.send(ask).await.is_error(400, "InvalidRequest");
    }
}

#[tokio::test]
async fn parts_are_copied_from_ranges() {
    let door = Door::open().await;
    door.send(Ask::put("/bucket/%3FversionId", "0123456789"))
        .await
        .is(200);
    let id = begin(&door, "k", &[]).await;
    let from = |range: &str| {
        let ask = part("k", &id, 1, "").header("x-amz-copy-source", "/bucket/%3FversionId");
        if range.is_empty() {
            ask
        } else {
            ask.header("x-amz-copy-source-range", range)
        }
    };
    for bad in [
        "0-2",
        "bytes=0",
        "bytes=hello-world",
        "bytes=0-2,3-5",
        "bytes=5-",
    ] {
        door.send(from(bad)).await.is_error(400, "InvalidArgument");
    }
    door.send(from("bytes=0-21"))
        .await
        .is_error(416, "InvalidRange");
    let none = part("k", &id, 1, "").header("x-amz-copy-source", "/bucket/absent");
    door.send(none).await.is_error(404, "NoSuchKey");
    door.send(from("")).await.is(200);
    let copied = door.send(from("bytes=2-4")).await.is(200);
    let etag = copied
        .xml("CopyPartResult")
        .required("ETag")
        .unwrap()
        .to_owned();
    door.send(complete("k", &id, &element(1, &etag)))
        .await
        .is(200);
    assert_eq!(door.send(Ask::get("/bucket/k")).await.text(), "234");
}

#[tokio::test]
async fn attributes_are_told_as_asked() {
    let door = Door::open().await;
    let id = begin(&door, "k", &[]).await;
    let mut parts = String::new();
    for number in 1..=3 {
        let ask = part(
            "k",
            &id,
            number,
            vec![b'x'; if number == 3 { 7 } else { 5 * MIB }],
        );
        parts += &upload(&door, ask, number).await;
    }
    door.send(complete("k", &id, &parts)).await.is(200);
    let ask =
        |names: &str| Ask::get("/bucket/k?attributes").header("x-amz-object-attributes", names);
    let all = "ETag,Checksum,ObjectParts,StorageClass,ObjectSize";
    let told = door
        .send(ask(all))
        .await
        .is(200)
        .xml("GetObjectAttributesResponse");
    assert_eq!(
        told.required("ObjectSize").unwrap(),
        (10 * MIB + 7).to_string()
    );
    assert_eq!(told.required("StorageClass").unwrap(), "STANDARD");
    assert!(told.required("ETag").unwrap().ends_with("-3"));
    let shown = told.child("ObjectParts").unwrap();
    assert_eq!(shown.required("PartsCount").unwrap(), "3");
    assert_eq!(shown.required("IsTruncated").unwrap(), "false");
    assert_eq!(shown.children_named("Part").count(), 3);

    let paged = ask("ObjectParts")
        .header("x-amz-max-parts", "1")
        .header("x-amz-part-number-marker", "1");
    let told = door
        .send(paged)
        .await
        .is(200)
        .xml("GetObjectAttributesResponse");
    let shown = told.child("ObjectParts").unwrap();
    assert_eq!(shown.required("NextPartNumberMarker").unwrap(), "2");
    assert_eq!(shown.required("IsTruncated").unwrap(), "true");
    let part = shown.child("Part").unwrap();
    assert_eq!(part.required("PartNumber").unwrap(), "2");
    assert_eq!(part.required("Size").unwrap(), (5 * MIB).to_string());
    assert!(told.child("ETag").is_none());

    door.send(ask("Colour"))
        .await
        .is_error(400, "InvalidArgument");
    let none = Ask::get("/bucket/k?attributes");
    door.send(none).await.is_error(400, "InvalidRequest");
    door.send(Ask::put("/bucket/plain", "foo")).await.is(200);
    let plain = Ask::get("/bucket/plain?attributes").header("x-amz-object-attributes", all);
    let told = door
        .send(plain)
        .await
        .is(200)
        .xml("GetObjectAttributesResponse");
    assert!(told.child("ObjectParts").is_none());
    assert!(told.child("Checksum").is_some());
}
