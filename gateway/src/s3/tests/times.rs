use super::ask::{Ask, Door};
use crate::s3::ctx::S3Config;

const MIB: usize = 1 << 20;
const MTIME: &str = "1500000000.25";
const SHOWN: &str = "Fri, 14 Jul 2017 02:40:00 GMT";

/// A door that applies clients' times in `bucket`, and another bucket, `plain`.
async fn door() -> Door {
    let mut config = S3Config::default();
    config.apply_mtime.buckets.insert("bucket".to_owned(), true);
    let door = Door::open_with(config).await;
    door.send(Ask::put("/plain", "")).await.is(200);
    door
}

async fn modified(door: &Door, target: &str) -> String {
    let head = door.send(Ask::head(target)).await.is(200);
    head.header("last-modified").to_owned()
}

fn described(ask: Ask) -> Ask {
    ask.header("x-amz-meta-mtime", MTIME)
}

#[tokio::test]
async fn a_clients_time_is_the_files_where_it_is_applied() {
    let door = door().await;
    door.send(described(Ask::put("/bucket/put", "x")))
        .await
        .is(200);
    assert_eq!(modified(&door, "/bucket/put").await, SHOWN);
    let attrs = "atime:1/mtime:1500000000/uid:0";
    let ask = Ask::put("/bucket/s3cmd", "x").header("x-amz-meta-s3cmd-attrs", attrs);
    door.send(ask).await.is(200);
    assert_eq!(modified(&door, "/bucket/s3cmd").await, SHOWN);

    let upload = described(Ask::post("/bucket/parts?uploads", ""));
    let begun = door.send(upload).await.is(200);
    let id = begun.xml("InitiateMultipartUploadResult");
    let id = id.required("UploadId").unwrap();
    let part = Ask::put(
        &format!("/bucket/parts?partNumber=1&uploadId={id}"),
        vec![b'a'; MIB],
    );
    let sent = door.send(part).await.is(200);
    let body = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part>\
         </CompleteMultipartUpload>",
        sent.header("etag").replace('"', "&quot;")
    );
    let done = Ask::post(&format!("/bucket/parts?uploadId={id}"), body);
    door.send(done).await.is(200);
    assert_eq!(modified(&door, "/bucket/parts").await, SHOWN);
}

#[tokio::test]
async fn a_copys_time_is_that_of_metadata_that_come_with_it() {
    let door = door().await;
    door.send(Ask::put("/bucket/from", "x")).await.is(200);
    for to in ["/bucket/to", "/bucket/from"] {
        let copy = described(Ask::put(to, ""))
            .header("x-amz-copy-source", "/bucket/from")
            .header("x-amz-metadata-directive", "REPLACE");
        door.send(copy).await.is(200);
        assert_eq!(modified(&door, to).await, SHOWN);
    }
    let copy = Ask::put("/bucket/as-it-is", "").header("x-amz-copy-source", "/bucket/from");
    door.send(copy).await.is(200);
    let head = door.send(Ask::head("/bucket/as-it-is")).await.is(200);
    assert_eq!(head.header("x-amz-meta-mtime"), MTIME);
    assert_ne!(head.header("last-modified"), SHOWN);
}

#[tokio::test]
async fn a_clients_time_is_kept_only_where_it_is_not_applied_or_is_none() {
    let door = door().await;
    door.send(described(Ask::put("/plain/k", "x")))
        .await
        .is(200);
    let head = door.send(Ask::head("/plain/k")).await.is(200);
    assert_eq!(head.header("x-amz-meta-mtime"), MTIME);
    assert_ne!(head.header("last-modified"), SHOWN);
    let nonsense = Ask::put("/bucket/k", "x").header("x-amz-meta-mtime", "yesterday");
    door.send(nonsense).await.is(200);
    let head = door.send(Ask::head("/bucket/k")).await.is(200);
    assert_eq!(head.header("x-amz-meta-mtime"), "yesterday");
    assert!(!head.header("last-modified").is_empty(), "{head:?}");
}
