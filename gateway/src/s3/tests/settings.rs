//! Tags and CORS through the door.

use crate::s3::testing::{Door, Who};

async fn door() -> Door {
    let door = Door::open();
    door.expect(Who::Alice, "PUT", "/bucket", 200).await;
    door.put("bucket", "key", Who::Alice, b"x").await;
    door
}

fn tagging(tags: &[(&str, &str)]) -> String {
    let tags: String = tags
        .iter()
        .map(|(key, value)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>"))
        .collect();
    format!("<Tagging><TagSet>{tags}</TagSet></Tagging>")
}

#[tokio::test]
async fn tags_are_kept_replaced_and_deleted() {
    let door = door().await;
    for (uri, put_status) in [("/bucket?tagging", 204), ("/bucket/key?tagging", 200)] {
        for tags in [&[("b", "2"), ("a", "1 +/@")][..], &[("c", "")][..]] {
            let answer = door.send(Who::Alice, "PUT", uri, &[], tagging(tags)).await;
            assert_eq!(answer.status, put_status, "{answer:?}");
            let root = door
                .expect(Who::Alice, "GET", uri, 200)
                .await
                .xml("Tagging");
            let set = root.child("TagSet").unwrap();
            assert_eq!(set.children.len(), tags.len());
            for tag in &set.children {
                let key = tag.required("Key").unwrap();
                let value = tag.required("Value").unwrap();
                assert!(tags.contains(&(key, value)), "{key}");
            }
        }
        door.expect(Who::Bob, "GET", uri, 403).await;
        door.expect(Who::Bob, "DELETE", uri, 403).await;
        door.expect(Who::Alice, "DELETE", uri, 204).await;
    }
    let none = door.ask(Who::Alice, "GET", "/bucket?tagging").await;
    assert_eq!(none.outcome(), (404, "NoSuchTagSet".to_owned()));
    let none = door
        .expect(Who::Alice, "GET", "/bucket/key?tagging", 200)
        .await;
    assert!(
        none.xml("Tagging")
            .child("TagSet")
            .unwrap()
            .children
            .is_empty()
    );
}

#[tokio::test]
async fn refused_tags_leave_those_that_stood() {
    let door = door().await;
    let uri = "/bucket/key?tagging";
    door.send(Who::Alice, "PUT", uri, &[], tagging(&[("a", "1")]))
        .await;
    for (body, code) in [
        (tagging(&[("a", "1"), ("a", "2")]), "InvalidTag"),
        ("<Tagging>".to_owned(), "MalformedXML"),
        (String::new(), "MissingRequestBodyError"),
    ] {
        let answer = door.send(Who::Alice, "PUT", uri, &[], body).await;
        assert_eq!(answer.outcome(), (400, code.to_owned()));
    }
    let root = door
        .expect(Who::Alice, "GET", uri, 200)
        .await
        .xml("Tagging");
    assert_eq!(root.child("TagSet").unwrap().children.len(), 1);
    let missing = door
        .send(Who::Alice, "PUT", "/bucket/no?tagging", &[], tagging(&[]))
        .await;
    assert_eq!(missing.outcome(), (404, "NoSuchKey".to_owned()));
}

const CORS: &str = "<CORSConfiguration>\
    <CORSRule><ID>one</ID><AllowedOrigin>https://*.example.org</AllowedOrigin>\
    <AllowedMethod>GET</AllowedMethod><AllowedMethod>PUT</AllowedMethod>\
    <AllowedHeader>x-amz-*</AllowedHeader><ExposeHeader>ETag</ExposeHeader>\
    <MaxAgeSeconds>60</MaxAgeSeconds></CORSRule>\
    <CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>HEAD</AllowedMethod></CORSRule>\
    </CORSConfiguration>";

const ORIGIN: &str = "https://a.example.org";

#[tokio::test]
async fn cors_rules_are_kept_as_given() {
    let door = door().await;
    let answer = door
        .send(Who::Alice, "PUT", "/bucket?cors", &[], CORS)
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = door.expect(Who::Alice, "GET", "/bucket?cors", 200).await;
    let given = crate::s3::xml::parse(CORS.as_bytes(), "CORSConfiguration").unwrap();
    assert_eq!(answer.xml("CORSConfiguration"), given);
    door.expect(Who::Alice, "DELETE", "/bucket?cors", 204).await;
    door.expect(Who::Alice, "GET", "/bucket?cors", 404).await;
}

#[tokio::test]
async fn a_preflight_is_allowed_by_a_rule_or_refused() {
    let door = door().await;
    let ask = async |headers: &[(&str, &str)]| {
        door.send(Who::Anonymous, "OPTIONS", "/bucket/key", headers, "")
            .await
    };
    let put = ("access-control-request-method", "PUT");
    assert_eq!(ask(&[]).await.outcome(), (400, "BadRequest".to_owned()));
    let early = ask(&[("origin", ORIGIN), put]).await;
    assert_eq!(early.outcome(), (403, "AccessForbidden".to_owned()));
    door.send(Who::Alice, "PUT", "/bucket?cors", &[], CORS)
        .await;
    let names = ("access-control-request-headers", "X-Amz-Date, x-amz-meta-a");
    let allowed = ask(&[("origin", ORIGIN), put, names]).await;
    assert_eq!(allowed.status, 200);
    for (name, value) in [
        ("access-control-allow-origin", ORIGIN),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-headers", "x-amz-date, x-amz-meta-a"),
        ("access-control-expose-headers", "ETag"),
        ("access-control-max-age", "60"),
        ("access-control-allow-credentials", "true"),
    ] {
        assert_eq!(allowed.header(name), Some(value));
    }
    assert!(allowed.header("vary").unwrap().contains("Origin"));
    for refused in [
        &[("origin", "https://example.com"), put][..],
        &[
            ("origin", ORIGIN),
            ("access-control-request-method", "DELETE"),
        ][..],
        &[
            ("origin", ORIGIN),
            put,
            ("access-control-request-headers", "x-other"),
        ][..],
    ] {
        let answer = ask(refused).await;
        assert_eq!(answer.outcome(), (403, "AccessForbidden".to_owned()));
        assert!(answer.header("access-control-allow-origin").is_none());
    }
}

#[tokio::test]
async fn answers_and_errors_carry_what_a_rule_allows() {
    let door = door().await;
    door.send(Who::Alice, "PUT", "/bucket?cors", &[], CORS)
        .await;
    let from = |origin| [("origin", origin)];
    let answer = door
        .send(Who::Alice, "GET", "/bucket", &from(ORIGIN), "")
        .await;
    assert_eq!(answer.header("access-control-allow-origin"), Some(ORIGIN));
    let denied = door
        .send(Who::Anonymous, "GET", "/bucket", &from(ORIGIN), "")
        .await;
    assert_eq!(denied.status, 403);
    assert_eq!(denied.header("access-control-allow-origin"), Some(ORIGIN));
    let any = door
        .send(Who::Alice, "HEAD", "/bucket", &from("http://x"), "")
        .await;
    assert_eq!(any.header("access-control-allow-origin"), Some("*"));
    let other = door
        .send(Who::Alice, "GET", "/bucket", &from("http://x"), "")
        .await;
    assert_eq!(other.header("access-control-allow-origin"), None);
    let same = door.ask(Who::Alice, "GET", "/bucket").await;
    assert_eq!(same.header("access-control-allow-origin"), None);
}
