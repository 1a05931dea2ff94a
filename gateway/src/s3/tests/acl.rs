//! Access lists through the door.

use crate::s3::testing::{Answer, Door, Who};

const ALL: &str = "http://acs.amazonaws.com/groups/global/AllUsers";

/// Grantee (id or URI) and permission, in order.
fn grants(answer: &Answer) -> Vec<(String, String)> {
    let root = answer.xml("AccessControlPolicy");
    let list = root.child("AccessControlList").unwrap();
    let grants = list.children_named("Grant").map(|grant| {
        let grantee = grant.child("Grantee").unwrap();
        let id = grantee
            .child("ID")
            .or_else(|| grantee.child("URI"))
            .unwrap();
        (
            id.text.clone(),
            grant.required("Permission").unwrap().to_owned(),
        )
    });
    grants.collect()
}

fn policy(owner: &str, grants: &str) -> String {
    format!(
        "<AccessControlPolicy xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <Owner><ID>{owner}</ID></Owner><AccessControlList>{grants}</AccessControlList>\
         </AccessControlPolicy>"
    )
}

fn grant(kind: &str, inner: &str, permission: &str) -> String {
    format!(
        "<Grant><Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
         xsi:type=\"{kind}\">{inner}</Grantee><Permission>{permission}</Permission></Grant>"
    )
}

async fn door() -> Door {
    let door = Door::open();
    door.expect(Who::Alice, "PUT", "/bucket", 200).await;
    door.put("bucket", "key", Who::Alice, b"x").await;
    door
}

#[tokio::test]
async fn a_new_bucket_is_its_owners_alone() {
    let door = door().await;
    for uri in ["/bucket?acl", "/bucket/key?acl"] {
        let answer = door.expect(Who::Alice, "GET", uri, 200).await;
        let full = (Who::Alice.id(), "FULL_CONTROL".to_owned());
        assert_eq!(grants(&answer), [full]);
        let root = answer.xml("AccessControlPolicy");
        let owner = root.child("Owner").unwrap();
        assert_eq!(owner.required("DisplayName").unwrap(), "alice");
        door.expect(Who::Bob, "GET", uri, 403).await;
    }
}

#[tokio::test]
async fn a_canned_list_replaces_the_one_that_stood() {
    let door = door().await;
    for uri in ["/bucket?acl", "/bucket/key?acl"] {
        let canned = [("x-amz-acl", "public-read")];
        let answer = door.send(Who::Alice, "PUT", uri, &canned, "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = door.expect(Who::Alice, "GET", uri, 200).await;
        let expected = [
            (ALL.to_owned(), "READ".to_owned()),
            (Who::Alice.id(), "FULL_CONTROL".to_owned()),
        ];
        assert_eq!(grants(&answer), expected);
        let canned = [("x-amz-acl", "private")];
        door.send(Who::Alice, "PUT", uri, &canned, "").await;
        let answer = door.expect(Who::Alice, "GET", uri, 200).await;
        assert_eq!(grants(&answer).len(), 1);
    }
    let bad = [("x-amz-acl", "mine")];
    let answer = door.send(Who::Alice, "PUT", "/bucket?acl", &bad, "").await;
    assert_eq!(answer.outcome(), (400, "InvalidArgument".to_owned()));
}

#[tokio::test]
async fn headers_grant_to_users_and_groups() {
    let door = Door::open();
    let bob = format!("id=\"{}\", uri={ALL}", Who::Bob.id());
    let headers = [("x-amz-grant-read", bob.as_str())];
    let answer = door.send(Who::Alice, "PUT", "/bucket", &headers, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = door.expect(Who::Alice, "GET", "/bucket?acl", 200).await;
    let read = "READ".to_owned();
    let expected = [(ALL.to_owned(), read.clone()), (Who::Bob.id(), read)];
    assert_eq!(grants(&answer), expected);
    for (value, code) in [
        ("id=nobody", "InvalidArgument"),
        ("uri=http://nowhere", "InvalidArgument"),
        ("emailAddress=a@b", "UnresolvableGrantByEmailAddress"),
        ("what", "InvalidArgument"),
    ] {
        let headers = [("x-amz-grant-write", value)];
        let answer = door
            .send(Who::Alice, "PUT", "/bucket?acl", &headers, "")
            .await;
        assert_eq!(answer.outcome(), (400, code.to_owned()), "{value}");
    }
    let both = [("x-amz-acl", "private"), ("x-amz-grant-read", bob.as_str())];
    let answer = door.send(Who::Alice, "PUT", "/bucket?acl", &both, "").await;
    assert_eq!(answer.outcome(), (400, "InvalidRequest".to_owned()));
}

#[tokio::test]
async fn a_document_grants_what_it_says_and_the_owner_stays() {
    let door = door().await;
    let alice = Who::Alice.id();
    for uri in ["/bucket?acl", "/bucket/key?acl"] {
        let bob = format!("<ID>{}</ID><DisplayName>x</DisplayName>", Who::Bob.id());
        let body = policy(&alice, &grant("CanonicalUser", &bob, "READ_ACP"));
        let answer = door.send(Who::Alice, "PUT", uri, &[], body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = door.expect(Who::Bob, "GET", uri, 200).await;
        assert_eq!(grants(&seen), [(Who::Bob.id(), "READ_ACP".to_owned())]);
        let stolen = policy(&Who::Bob.id(), "");
        let answer = door.send(Who::Alice, "PUT", uri, &[], stolen).await;
        assert_eq!(answer.outcome(), (403, "AccessDenied".to_owned()));
        let answer = door
            .send(Who::Bob, "PUT", uri, &[], policy(&alice, ""))
            .await;
        assert_eq!(answer.outcome(), (403, "AccessDenied".to_owned()));
        let answer = door
            .send(Who::Alice, "PUT", uri, &[], policy(&alice, ""))
            .await;
        assert_eq!(answer.status, 200);
        let none = door.expect(Who::Alice, "GET", uri, 200).await;
        assert_eq!(grants(&none), []);
    }
}

#[tokio::test]
async fn documents_that_make_no_sense_are_refused() {
    let door = door().await;
    let alice = Who::Alice.id();
    let nobody = grant("CanonicalUser", "<ID>_foo</ID>", "READ");
    let email = grant(
        "AmazonCustomerByEmail",
        "<EmailAddress>a@b</EmailAddress>",
        "READ",
    );
    let group = grant("Group", "<URI>http://x</URI>", "READ");
    let id = format!("<ID>{alice}</ID>");
    for (body, status, code) in [
        (policy(&alice, &nobody), 400, "InvalidArgument"),
        (
            policy(&alice, &email),
            400,
            "UnresolvableGrantByEmailAddress",
        ),
        (policy(&alice, &group), 400, "InvalidArgument"),
        (
            policy(&alice, &grant("Group", &id, "READ")),
            400,
            "MalformedACLError",
        ),
        (
            policy(&alice, &grant("CanonicalUser", &id, "ALL")),
            400,
            "MalformedACLError",
        ),
        (
            "<AccessControlPolicy/>".to_owned(),
            400,
            "MalformedACLError",
        ),
        ("<x".to_owned(), 400, "MalformedACLError"),
        (String::new(), 400, "MissingSecurityHeader"),
    ] {
        let answer = door
            .send(Who::Alice, "PUT", "/bucket?acl", &[], body.clone())
            .await;
        assert_eq!(answer.outcome(), (status, code.to_owned()), "{body}");
    }
    let missing = door.ask(Who::Alice, "GET", "/bucket/missing?acl").await;
    assert_eq!(missing.outcome(), (404, "NoSuchKey".to_owned()));
}
