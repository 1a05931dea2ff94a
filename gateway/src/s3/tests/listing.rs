//! Listings of objects and uploads through the door.

use fsstore::name::{BucketName, ObjectKey};
use fsstore::object::{Attributes, Locator};
use fsstore::volume::{NewUpload, Volume};

use crate::s3::testing::{Answer, Door, Who};
use crate::s3::xml::Element;

async fn door_with(keys: &[&str]) -> Door {
    let door = Door::open();
    door.expect(Who::Alice, "PUT", "/bucket", 200).await;
    for key in keys {
        door.put("bucket", key, Who::Alice, b"bytes").await;
    }
    door
}

fn texts(root: &Element, element: &str, inner: &str) -> Vec<String> {
    let found = root.children_named(element);
    found
        .map(|one| one.required(inner).unwrap().to_owned())
        .collect()
}

fn listed(answer: &Answer) -> (Vec<String>, Vec<String>, bool) {
    let root = answer.xml("ListBucketResult");
    (
        texts(&root, "Contents", "Key"),
        texts(&root, "CommonPrefixes", "Prefix"),
        root.required("IsTruncated").unwrap() == "true",
    )
}

#[tokio::test]
async fn pages_with_a_delimiter_go_on_after_next_marker() {
    let keys = [
        "asdf",
        "boo/bar",
        "boo/baz/xyzzy",
        "cquux/thud",
        "cquux/bla",
    ];
    let door = door_with(&keys).await;
    let mut marker = String::new();
    let mut seen = Vec::new();
    loop {
        let uri = format!("/bucket?delimiter=/&max-keys=1&marker={marker}");
        let answer = door.expect(Who::Alice, "GET", &uri, 200).await;
        let (keys, prefixes, truncated) = listed(&answer);
        assert_eq!(keys.len() + prefixes.len(), 1);
        seen.extend(keys.into_iter().chain(prefixes));
        let root = answer.xml("ListBucketResult");
        let next = root.text_of("NextMarker").unwrap();
        assert_eq!(next.is_some(), truncated);
        match next {
            Some(next) => {
                assert_eq!(next, seen.last().unwrap());
                marker = next.to_owned();
            }
            None => break,
        }
    }
    assert_eq!(seen, ["asdf", "boo/", "cquux/"]);
    let flat = door
        .expect(Who::Alice, "GET", "/bucket?max-keys=1", 200)
        .await;
    assert!(listed(&flat).2);
    assert!(flat.xml("ListBucketResult").child("NextMarker").is_none());
}

#[tokio::test]
async fn version_2_goes_on_with_its_token_and_counts() {
    let door = door_with(&["a", "b", "c", "d/1", "d/2"]).await;
    let first = door
        .expect(
            Who::Alice,
            "GET",
            "/bucket?list-type=2&max-keys=2&start-after=a",
            200,
        )
        .await;
    let root = first.xml("ListBucketResult");
    assert_eq!(
        listed(&first),
        (vec!["b".to_owned(), "c".to_owned()], vec![], true)
    );
    assert_eq!(root.required("KeyCount").unwrap(), "2");
    assert_eq!(root.required("StartAfter").unwrap(), "a");
    let token = root.required("NextContinuationToken").unwrap();
    let uri = format!("/bucket?list-type=2&delimiter=/&continuation-token={token}");
    let rest = door.expect(Who::Alice, "GET", &uri, 200).await;
    assert_eq!(listed(&rest), (vec![], vec!["d/".to_owned()], false));
    let root = rest.xml("ListBucketResult");
    assert_eq!(root.required("ContinuationToken").unwrap(), token);
    assert!(root.child("NextContinuationToken").is_none());
    assert_eq!(root.required("KeyCount").unwrap(), "1");
    let forged = door
        .ask(
            Who::Alice,
            "GET",
            "/bucket?list-type=2&continuation-token=YQ",
        )
        .await;
    assert_eq!(forged.outcome(), (400, "InvalidArgument".to_owned()));
}

#[tokio::test]
async fn an_entry_says_what_stands_and_whose_it_is() {
    let door = door_with(&["key"]).await;
    let v1 = door.expect(Who::Alice, "GET", "/bucket", 200).await;
    let root = v1.xml("ListBucketResult");
    let entry = root.child("Contents").unwrap();
    assert_eq!(entry.required("Size").unwrap(), "5");
    let md5 = "\"4b3a6218bb3e3a7303e8a171a60fcf92\"";
    assert_eq!(entry.required("ETag").unwrap(), md5);
    assert_eq!(entry.required("StorageClass").unwrap(), "STANDARD");
    let owner = entry.child("Owner").unwrap();
    assert_eq!(owner.required("ID").unwrap(), Who::Alice.id());
    assert_eq!(owner.required("DisplayName").unwrap(), "alice");
    assert_eq!(root.required("Marker").unwrap(), "");
    assert!(root.child("Delimiter").is_none());
    for (uri, has_owner) in [
        ("/bucket?list-type=2", false),
        ("/bucket?list-type=2&fetch-owner=true", true),
    ] {
        let v2 = door.expect(Who::Alice, "GET", uri, 200).await;
        let root = v2.xml("ListBucketResult");
        let entry = root.child("Contents").unwrap();
        assert_eq!(entry.child("Owner").is_some(), has_owner, "{uri}");
    }
}

#[tokio::test]
async fn names_are_encoded_where_asked_and_nowhere_else() {
    let door = door_with(&["asdf+b", "foo+1/bar", "quux ab/thud"]).await;
    let uri = "/bucket?delimiter=/&encoding-type=url&prefix=&marker=";
    let encoded = door.expect(Who::Alice, "GET", uri, 200).await;
    let (keys, prefixes, _) = listed(&encoded);
    assert_eq!(keys, ["asdf%2Bb"]);
    assert_eq!(prefixes, ["foo%2B1/", "quux%20ab/"]);
    let root = encoded.xml("ListBucketResult");
    assert_eq!(root.required("Delimiter").unwrap(), "/");
    assert_eq!(root.required("EncodingType").unwrap(), "url");
    for (uri, prefix) in [
        ("/bucket?encoding-type=url&prefix=%0A%2B", "\n+"),
        ("/bucket?encoding-type=url&prefix=%01", "%01"),
        (
            "/bucket?encoding-type=url&list-type=2&prefix=%0A%2B",
            "%0A%2B",
        ),
    ] {
        let answer = door.expect(Who::Alice, "GET", uri, 200).await;
        let root = answer.xml("ListBucketResult");
        assert_eq!(root.required("Prefix").unwrap(), prefix, "{uri}");
    }
    let plain = door
        .expect(Who::Alice, "GET", "/bucket?prefix=foo%2B", 200)
        .await;
    assert_eq!(listed(&plain).0, ["foo+1/bar"]);
    assert_eq!(
        plain.xml("ListBucketResult").required("Prefix").unwrap(),
        "foo+"
    );
}

#[tokio::test]
async fn a_page_of_nothing_is_not_truncated() {
    let door = door_with(&["a", "b"]).await;
    for uri in ["/bucket?max-keys=0", "/bucket?list-type=2&max-keys=0"] {
        let answer = door.expect(Who::Alice, "GET", uri, 200).await;
        assert_eq!(listed(&answer), (vec![], vec![], false));
    }
    for bad in [
        "max-keys=-1",
        "max-keys=blah",
        "encoding-type=nope",
        "list-type=2&fetch-owner=7",
    ] {
        let answer = door.ask(Who::Alice, "GET", &format!("/bucket?{bad}")).await;
        assert_eq!(
            answer.outcome(),
            (400, "InvalidArgument".to_owned()),
            "{bad}"
        );
    }
}

#[tokio::test]
async fn every_object_is_the_null_version_of_its_key() {
    let door = door_with(&["a", "b", "c/1"]).await;
    let uri = "/bucket?versions&max-keys=1";
    let first = door.expect(Who::Alice, "GET", uri, 200).await;
    let root = first.xml("ListVersionsResult");
    let version = root.child("Version").unwrap();
    assert_eq!(version.required("Key").unwrap(), "a");
    assert_eq!(version.required("VersionId").unwrap(), "null");
    assert_eq!(version.required("IsLatest").unwrap(), "true");
    assert_eq!(root.required("NextKeyMarker").unwrap(), "a");
    assert_eq!(root.required("NextVersionIdMarker").unwrap(), "null");
    let uri = "/bucket?versions&delimiter=/&key-marker=a&version-id-marker=null";
    let rest = door.expect(Who::Alice, "GET", uri, 200).await;
    let root = rest.xml("ListVersionsResult");
    assert_eq!(texts(&root, "Version", "Key"), ["b"]);
    assert_eq!(texts(&root, "CommonPrefixes", "Prefix"), ["c/"]);
    assert_eq!(root.required("IsTruncated").unwrap(), "false");
    let alone = door
        .ask(Who::Alice, "GET", "/bucket?versions&version-id-marker=null")
        .await;
    assert_eq!(alone.outcome(), (400, "InvalidArgument".to_owned()));
}

#[tokio::test]
async fn uploads_and_parts_are_listed_in_pages() {
    let door = door_with(&[]).await;
    let mut ids = Vec::new();
    for (key, owner) in [("a", Who::Alice), ("b/1", Who::Bob), ("b/2", Who::Bob)] {
        let bucket = BucketName::parse("bucket").unwrap();
        let at = Locator::new(bucket, ObjectKey::parse(key).unwrap());
        let new = NewUpload {
            attrs: Attributes {
                owner: Some(owner.id()),
                ..Attributes::default()
            },
            ..NewUpload::default()
        };
        ids.push(door.volume().begin_upload(&at, new).await.unwrap().id);
    }
    let first = door
        .expect(Who::Alice, "GET", "/bucket?uploads&max-uploads=1", 200)
        .await;
    let root = first.xml("ListMultipartUploadsResult");
    assert_eq!(texts(&root, "Upload", "Key"), ["a"]);
    assert_eq!(texts(&root, "Upload", "UploadId"), [ids[0].as_str()]);
    assert_eq!(root.required("IsTruncated").unwrap(), "true");
    assert_eq!(root.required("NextKeyMarker").unwrap(), "a");
    assert_eq!(
        root.required("NextUploadIdMarker").unwrap(),
        ids[0].as_str()
    );
    let uri = format!("/bucket?uploads&key-marker=a&upload-id-marker={}", ids[0]);
    let rest = door.expect(Who::Alice, "GET", &uri, 200).await;
    let root = rest.xml("ListMultipartUploadsResult");
    assert_eq!(texts(&root, "Upload", "Key"), ["b/1", "b/2"]);
    let upload = root.child("Upload").unwrap();
    let initiator = upload.child("Initiator").unwrap();
    assert_eq!(initiator.required("DisplayName").unwrap(), "bob");
    let rolled = door
        .expect(Who::Alice, "GET", "/bucket?uploads&delimiter=/", 200)
        .await;
    let root = rolled.xml("ListMultipartUploadsResult");
    assert_eq!(texts(&root, "CommonPrefixes", "Prefix"), ["b/"]);

    let uri = format!("/bucket/a?uploadId={}&max-parts=3", ids[0]);
    let parts = door.expect(Who::Alice, "GET", &uri, 200).await;
    let root = parts.xml("ListPartsResult");
    assert_eq!(root.required("IsTruncated").unwrap(), "false");
    assert_eq!(root.required("MaxParts").unwrap(), "3");
    assert!(root.child("Part").is_none());
    for missing in ["/bucket/a?uploadId=nope", "/bucket/a?uploadId=.."] {
        let answer = door.ask(Who::Alice, "GET", missing).await;
        assert_eq!(answer.outcome(), (404, "NoSuchUpload".to_owned()));
    }
}

#[tokio::test]
async fn a_public_bucket_is_listed_by_anyone() {
    let door = door_with(&["a"]).await;
    door.expect(Who::Anonymous, "GET", "/bucket", 403).await;
    let public = [("x-amz-acl", "public-read")];
    let answer = door
        .send(Who::Alice, "PUT", "/bucket?acl", &public, "")
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    for who in [Who::Anonymous, Who::Bob] {
        let answer = door.expect(who, "GET", "/bucket?list-type=2", 200).await;
        assert_eq!(listed(&answer).0, ["a"]);
    }
    door.expect(Who::Anonymous, "GET", "/bucket?acl", 403).await;
}
