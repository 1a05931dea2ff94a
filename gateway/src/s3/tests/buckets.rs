//! Buckets through the door.

use crate::s3::testing::{Door, Who};

fn location(region: &str) -> String {
    format!(
        "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
    )
}

#[tokio::test]
async fn a_bucket_is_created_looked_at_and_deleted() {
    let door = Door::open();
    let created = door.expect(Who::Alice, "PUT", "/bucket", 200).await;
    assert_eq!(created.header("location"), Some("/bucket"));
    let head = door.expect(Who::Alice, "HEAD", "/bucket", 200).await;
    assert_eq!(head.header("x-amz-bucket-region"), Some("us-east-1"));
    let place = door
        .expect(Who::Alice, "GET", "/bucket?location", 200)
        .await;
    assert_eq!(place.xml("LocationConstraint").text, "");
    door.put("bucket", "key", Who::Alice, b"x").await;
    let full = door.ask(Who::Alice, "DELETE", "/bucket").await;
    assert_eq!(full.outcome(), (409, "BucketNotEmpty".to_owned()));
    door.expect(Who::Alice, "PUT", "/empty", 200).await;
    door.expect(Who::Bob, "DELETE", "/empty", 403).await;
    door.expect(Who::Alice, "DELETE", "/empty", 204).await;
    let gone = door.ask(Who::Alice, "DELETE", "/empty").await;
    assert_eq!(gone.outcome(), (404, "NoSuchBucket".to_owned()));
}

#[tokio::test]
async fn names_that_s3_does_not_take_are_refused() {
    let door = Door::open();
    for name in [
        "ab",
        "Upper",
        "_start",
        "192.168.5.123",
        "a..b",
        "foo-.bar",
        "dash-",
    ] {
        let answer = door.ask(Who::Alice, "PUT", &format!("/{name}")).await;
        assert_eq!(
            answer.outcome(),
            (400, "InvalidBucketName".to_owned()),
            "{name}"
        );
    }
}

#[tokio::test]
async fn creating_a_bucket_again_depends_on_whose_it_is_and_what_would_change() {
    let door = Door::open();
    door.expect(Who::Alice, "PUT", "/bucket", 200).await;
    door.expect(Who::Alice, "PUT", "/bucket", 200).await;
    let other = door.ask(Who::Bob, "PUT", "/bucket").await;
    assert_eq!(other.outcome(), (409, "BucketAlreadyExists".to_owned()));
    let public = [("x-amz-acl", "public-read")];
    let changed = door.send(Who::Alice, "PUT", "/bucket", &public, "").await;
    assert_eq!(changed.outcome(), (409, "BucketAlreadyExists".to_owned()));
}

#[tokio::test]
async fn outside_us_east_1_a_bucket_of_ones_own_is_a_conflict() {
    let door = Door::open_in("eu-central-1");
    let body = location("eu-central-1");
    let created = door
        .send(Who::Alice, "PUT", "/bucket", &[], body.clone())
        .await;
    assert_eq!(created.status, 200, "{created:?}");
    let again = door.send(Who::Alice, "PUT", "/bucket", &[], body).await;
    assert_eq!(again.outcome(), (409, "BucketAlreadyOwnedByYou".to_owned()));
    let place = door
        .expect(Who::Alice, "GET", "/bucket?location", 200)
        .await;
    assert_eq!(place.xml("LocationConstraint").text, "eu-central-1");
    let far = door
        .send(Who::Alice, "PUT", "/far", &[], location("us-west-2"))
        .await;
    assert_eq!(far.outcome().1, "IllegalLocationConstraintException");
    let bad = door.send(Who::Alice, "PUT", "/far", &[], "<Create").await;
    assert_eq!(bad.outcome(), (400, "MalformedXML".to_owned()));
    door.expect(Who::Alice, "HEAD", "/far", 404).await;
}

#[tokio::test]
async fn a_caller_lists_the_buckets_that_are_theirs_in_pages() {
    let door = Door::open();
    for name in ["aaa", "bbb", "ccc"] {
        door.expect(Who::Alice, "PUT", &format!("/{name}"), 200)
            .await;
    }
    door.expect(Who::Bob, "PUT", "/bob", 200).await;
    let names = |answer: &crate::s3::testing::Answer| -> Vec<String> {
        let root = answer.xml("ListAllMyBucketsResult");
        let buckets = root.child("Buckets").unwrap();
        let names = buckets.children_named("Bucket");
        names
            .map(|bucket| bucket.required("Name").unwrap().to_owned())
            .collect()
    };
    let all = door.expect(Who::Alice, "GET", "/", 200).await;
    assert_eq!(names(&all), ["aaa", "bbb", "ccc"]);
    let owner = all.xml("ListAllMyBucketsResult");
    assert_eq!(
        owner.child("Owner").unwrap().required("ID").unwrap(),
        Who::Alice.id()
    );
    let first = door.expect(Who::Alice, "GET", "/?max-buckets=2", 200).await;
    assert_eq!(names(&first), ["aaa", "bbb"]);
    let root = first.xml("ListAllMyBucketsResult");
    let token = root.required("ContinuationToken").unwrap();
    let uri = format!("/?continuation-token={token}&max-buckets=2");
    let rest = door.expect(Who::Alice, "GET", &uri, 200).await;
    assert_eq!(names(&rest), ["ccc"]);
    let root = rest.xml("ListAllMyBucketsResult");
    assert!(root.child("ContinuationToken").is_none());
    let some = door.expect(Who::Alice, "GET", "/?prefix=b", 200).await;
    assert_eq!(names(&some), ["bbb"]);
    let nobody = door.expect(Who::Anonymous, "GET", "/", 200).await;
    assert_eq!(names(&nobody), Vec::<String>::new());
    let admin = door.expect(Who::Admin, "GET", "/", 200).await;
    assert_eq!(names(&admin), ["aaa", "bbb", "bob", "ccc"]);
    for bad in [
        "/?max-buckets=0",
        "/?max-buckets=x",
        "/?continuation-token=x",
    ] {
        let answer = door.ask(Who::Alice, "GET", bad).await;
        assert_eq!(
            answer.outcome(),
            (400, "InvalidArgument".to_owned()),
            "{bad}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_set_is_truly_not_set() {
    let door = Door::open();
    door.expect(Who::Alice, "PUT", "/bucket", 200).await;
    for (name, root) in [
        ("versioning", "VersioningConfiguration"),
        ("requestPayment", "RequestPaymentConfiguration"),
        ("logging", "BucketLoggingStatus"),
        ("notification", "NotificationConfiguration"),
        ("accelerate", "AccelerateConfiguration"),
    ] {
        let answer = door
            .expect(Who::Alice, "GET", &format!("/bucket?{name}"), 200)
            .await;
        assert!(answer.xml(root).child("Status").is_none());
    }
    for (name, code) in [
        ("policy", "NoSuchBucketPolicy"),
        ("lifecycle", "NoSuchLifecycleConfiguration"),
        (
            "encryption",
            "ServerSideEncryptionConfigurationNotFoundError",
        ),
        ("object-lock", "ObjectLockConfigurationNotFoundError"),
        ("website", "NoSuchWebsiteConfiguration"),
        ("publicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
        ("ownershipControls", "OwnershipControlsNotFoundError"),
        ("replication", "ReplicationConfigurationNotFoundError"),
        ("cors", "NoSuchCORSConfiguration"),
        ("tagging", "NoSuchTagSet"),
    ] {
        let answer = door
            .ask(Who::Alice, "GET", &format!("/bucket?{name}"))
            .await;
        assert_eq!(answer.outcome(), (404, code.to_owned()));
    }
    for name in ["versioning", "policy", "lifecycle", "encryption", "website"] {
        let answer = door
            .send(Who::Alice, "PUT", &format!("/bucket?{name}"), &[], "<x/>")
            .await;
        assert_eq!(
            answer.outcome(),
            (501, "NotImplemented".to_owned()),
            "{name}"
        );
    }
}
