//! Every route, and what is refused.

use super::{BucketOperation as B, ObjectOperation as O, Operation, Unset, route};
use crate::errors::{S3Code, S3Error};
use crate::s3::query::Query;

fn ask(method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<Operation, S3Error> {
    let mut request = http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let query = Query::parse(parts.uri.query())?;
    route(
        &parts,
        &query,
        &["s3.example.org".to_owned(), "example.org".to_owned()],
    )
}

fn code(method: &str, uri: &str) -> S3Code {
    ask(method, uri, &[]).unwrap_err().code()
}

fn bucket_and_key(operation: &Operation) -> (&str, &str) {
    let bucket = operation.bucket().map_or("", |bucket| bucket.as_str());
    (bucket, operation.key().map_or("", |key| key.as_str()))
}

#[test]
fn every_operation_of_a_bucket_has_its_route() {
    let form = [("content-type", "multipart/form-data; boundary=x")];
    for (method, uri, headers, expected) in [
        ("PUT", "/b", &[][..], B::CreateBucket),
        ("PUT", "/b/", &[][..], B::CreateBucket),
        ("HEAD", "/b", &[][..], B::HeadBucket),
        ("DELETE", "/b", &[][..], B::DeleteBucket),
        ("GET", "/b?prefix=acl", &[][..], B::ListObjects),
        ("GET", "/b?list-type=2&prefix=", &[][..], B::ListObjectsV2),
        ("GET", "/b?uploads", &[][..], B::ListMultipartUploads),
        ("GET", "/b?versions", &[][..], B::ListObjectVersions),
        ("POST", "/b?delete", &[][..], B::DeleteObjects),
        ("POST", "/b", &form[..], B::PostObject),
        ("GET", "/b?location", &[][..], B::GetBucketLocation),
        ("GET", "/b?tagging=", &[][..], B::GetBucketTagging),
        ("PUT", "/b?tagging", &[][..], B::PutBucketTagging),
        ("DELETE", "/b?tagging", &[][..], B::DeleteBucketTagging),
        ("GET", "/b?cors", &[][..], B::GetBucketCors),
        ("PUT", "/b?cors", &[][..], B::PutBucketCors),
        ("DELETE", "/b?cors", &[][..], B::DeleteBucketCors),
        ("GET", "/b?acl", &[][..], B::GetBucketAcl),
        ("PUT", "/b?acl", &[][..], B::PutBucketAcl),
        (
            "GET",
            "/b?versioning",
            &[][..],
            B::GetUnset(Unset::Versioning),
        ),
        ("GET", "/b?policy", &[][..], B::GetUnset(Unset::Policy)),
    ] {
        match ask(method, uri, headers).unwrap() {
            Operation::Bucket(name, operation) => {
                assert_eq!(
                    (name.as_str(), operation),
                    ("b", expected),
                    "{method} {uri}"
                );
            }
            other => panic!("{method} {uri}: {other:?}"),
        }
    }
    assert_eq!(ask("GET", "/", &[]).unwrap(), Operation::ListBuckets);
}

#[test]
fn every_operation_of_an_object_has_its_route() {
    let copy = [("x-amz-copy-source", "/a/b")];
    for (method, uri, headers, expected) in [
        ("GET", "/b/k", &[][..], O::GetObject),
        (
            "GET",
            "/b/k?partNumber=1&x-id=GetObject",
            &[][..],
            O::GetObject,
        ),
        ("GET", "/b/k?versionId=null", &[][..], O::GetObject),
        ("HEAD", "/b/k", &[][..], O::HeadObject),
        ("PUT", "/b/k", &[][..], O::PutObject),
        ("PUT", "/b/k", &copy[..], O::CopyObject),
        ("DELETE", "/b/k", &[][..], O::DeleteObject),
        ("GET", "/b/k?attributes", &[][..], O::GetObjectAttributes),
        ("GET", "/b/k?tagging", &[][..], O::GetObjectTagging),
        ("PUT", "/b/k?tagging", &[][..], O::PutObjectTagging),
        ("DELETE", "/b/k?tagging", &[][..], O::DeleteObjectTagging),
        ("GET", "/b/k?acl", &[][..], O::GetObjectAcl),
        ("PUT", "/b/k?acl", &[][..], O::PutObjectAcl),
        ("POST", "/b/k?uploads", &[][..], O::CreateMultipartUpload),
        (
            "PUT",
            "/b/k?partNumber=1&uploadId=u",
            &[][..],
            O::UploadPart,
        ),
        (
            "PUT",
            "/b/k?partNumber=1&uploadId=u",
            &copy[..],
            O::UploadPartCopy,
        ),
        ("GET", "/b/k?uploadId=u", &[][..], O::ListParts),
        (
            "POST",
            "/b/k?uploadId=u",
            &[][..],
            O::CompleteMultipartUpload,
        ),
        (
            "DELETE",
            "/b/k?uploadId=u",
            &[][..],
            O::AbortMultipartUpload,
        ),
    ] {
        match ask(method, uri, headers).unwrap() {
            Operation::Object(at, operation) => {
                assert_eq!(
                    (at.key.as_str(), operation),
                    ("k", expected),
                    "{method} {uri}"
                );
            }
            other => panic!("{method} {uri}: {other:?}"),
        }
    }
}

#[test]
fn what_is_not_built_is_said_by_name_and_never_taken_for_something_else() {
    for (method, uri) in [
        ("PUT", "/b?versioning"),
        ("PUT", "/b?policy"),
        ("DELETE", "/b?lifecycle"),
        ("GET", "/b?inventory&id=x"),
        ("GET", "/b/k?torrent"),
        ("POST", "/b/k?select&select-type=2"),
        ("POST", "/b/k?restore"),
        ("PUT", "/b/k?retention"),
        ("PUT", "/b/k?legal-hold"),
        ("PUT", "/b/k?renameObject"),
        ("PUT", "/b/k?someday="),
        ("PUT", "/b?someday"),
    ] {
        assert_eq!(code(method, uri), S3Code::NotImplemented, "{method} {uri}");
    }
}

#[test]
fn a_wrong_method_names_the_right_ones() {
    for (method, uri, allow) in [
        ("POST", "/", "GET"),
        ("PUT", "/b?location", "GET"),
        ("GET", "/b?delete", "POST"),
        ("DELETE", "/b?acl", "GET, PUT"),
        ("POST", "/b/k?tagging", "GET, PUT, DELETE"),
        ("POST", "/b/k", "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/b/k", "GET, HEAD, PUT, DELETE"),
    ] {
        let error = ask(method, uri, &[]).unwrap_err();
        assert_eq!(error.code(), S3Code::MethodNotAllowed, "{method} {uri}");
        assert_eq!(error.headers()["allow"], allow, "{method} {uri}");
    }
}

#[test]
fn a_key_is_what_the_path_says_and_nothing_is_normalised() {
    for (uri, bucket, key) in [
        ("/b/a/b", "b", "a/b"),
        ("/b//a//b/", "b", "/a//b/"),
        ("/b/./../x", "b", "./../x"),
        ("/b/a+b%2B%20c", "b", "a+b+ c"),
        ("/b/%E2%82%AC%00", "b", "\u{20ac}\0"),
        ("/b/a%2Fb", "b", "a/b"),
    ] {
        let operation = ask("GET", uri, &[]).unwrap();
        assert_eq!(bucket_and_key(&operation), (bucket, key), "{uri}");
    }
    assert_eq!(code("GET", "/b/%ff"), S3Code::InvalidURI);
    assert_eq!(code("GET", "/b/%zz"), S3Code::InvalidURI);
    assert_eq!(code("GET", "/.portico/k"), S3Code::InvalidBucketName);
    let long = format!("/b/{}", "x".repeat(1025));
    assert_eq!(code("PUT", &long), S3Code::KeyTooLongError);
}

#[test]
fn a_host_below_a_domain_is_a_bucket() {
    for (host, uri, bucket, key) in [
        ("b.example.org", "/k/l", "b", "k/l"),
        ("B.S3.Example.org:9000", "/k", "b", "k"),
        ("a.b.s3.example.org", "/", "a.b", ""),
        ("s3.example.org", "/b/k", "b", "k"),
        ("example.org:80", "/b", "b", ""),
        ("other.com", "/b/k", "b", "k"),
        ("[::1]:9000", "/b/k", "b", "k"),
    ] {
        let operation = ask("GET", uri, &[("host", host)]).unwrap();
        assert_eq!(bucket_and_key(&operation), (bucket, key), "{host}{uri}");
    }
    let listing = ask("GET", "/", &[("host", "s3.example.org")]).unwrap();
    assert_eq!(listing, Operation::ListBuckets);
}

#[test]
fn the_host_that_counts_is_the_one_that_signatures_cover() {
    let uri = "http://evil.example.org/k";
    let operation = ask("GET", uri, &[("host", "b.example.org")]).unwrap();
    assert_eq!(bucket_and_key(&operation), ("b", "k"));
    let authority_only = ask("GET", "http://b.example.org/k", &[]).unwrap();
    assert_eq!(bucket_and_key(&authority_only), ("b", "k"));
}
