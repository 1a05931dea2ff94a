//! Forms, whole and cut, good and bad.

use super::*;
use crate::body::tests::{Frames, headers};

fn form(parts: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (head, value) in parts {
        out.push_str(&format!(
            "--XX\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n"
        ));
    }
    out.push_str("--XX--\r\n");
    out
}

const TYPE: (&str, &str) = ("content-type", "multipart/form-data; boundary=XX");

async fn read(text: &str, frame: usize) -> Result<(FormFields, Vec<u8>), BodyError> {
    let body = Frames::split(text.as_bytes(), frame);
    let mut form = read_form(body, &headers(&[TYPE])).await?;
    form.file.expect(&form.fields.to_headers(), Some((2, 20)))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = form.file.next_chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    form.file.finish()?;
    Ok((form.fields, bytes))
}

#[tokio::test]
async fn fields_come_before_the_file_however_frames_are_cut() {
    let text = form(&[
        ("name=\"KEY\"", "dir/${filename}"),
        ("name=\"acl\"; filename=\"acl\"", "private"),
        (
            "filename=\"C:\\\\d\\a;b\\\".txt\"; name=file",
            "by\r\n--Xt\r\r\nes",
        ),
        ("name=\"late\"", "ignored"),
    ]);
    for frame in 1..text.len() {
        let (fields, bytes) = read(&text, frame).await.unwrap();
        assert_eq!(fields.get_expanded("key").unwrap(), "dir/a;b\".txt");
        assert_eq!(fields.get("acl"), Some("private"));
        assert_eq!(fields.get("late"), None);
        assert_eq!(bytes, b"by\r\n--Xt\r\r\nes");
    }
}

#[tokio::test]
async fn a_form_cut_anywhere_before_its_files_end_is_incomplete() {
    let text = form(&[("name=\"key\"", "k"), ("name=\"file\"", "bytes")]);
    let end = text.rfind("\r\n--XX--").unwrap();
    for cut in 0..end {
        let answer = read(&text[..cut], 10).await;
        assert!(matches!(answer, Err(BodyError::IncompleteBody)), "{cut}");
    }
    assert!(read(&text, 10).await.is_ok());
}

#[tokio::test]
async fn a_policys_lengths_hold() {
    let of = |file: &str| form(&[("name=\"file\"", file)]);
    let answer = read(&of("1"), 9).await;
    assert!(matches!(answer, Err(BodyError::EntityTooSmall { .. })));
    let answer = read(&of(&"1".repeat(21)), 9).await;
    assert!(matches!(answer, Err(BodyError::EntityTooLarge { .. })));
    assert!(read(&of(&"1".repeat(20)), 9).await.is_ok());
}

#[tokio::test]
async fn a_field_comes_once() {
    let twice = |one: &str, two: &str| {
        let (one, two) = (format!("name=\"{one}\""), format!("name=\"{two}\""));
        form(&[(&one, "a"), (&two, "b"), ("name=\"file\"", "bytes")])
    };
    for (one, two) in [
        ("key", "key"),
        ("acl", "ACL"),
        ("policy", "policy"),
        ("Content-Type", "content-type"),
        ("x-amz-meta-a", "X-Amz-Meta-A"),
        ("x-amz-signature", "x-amz-signature"),
        ("success_action_redirect", "success_action_redirect"),
    ] {
        let answer = read(&twice(one, two), 9).await;
        assert!(matches!(answer, Err(BodyError::MalformedForm(_))), "{two}");
    }
    assert!(read(&twice("x-ignore-a", "x-ignore-a"), 9).await.is_ok());
    assert!(read(&twice("key", "acl"), 9).await.is_ok());
}

#[tokio::test]
async fn malformed_forms_are_refused() {
    let answer = read(&form(&[("name=\"key\"", "k")]), 9).await;
    assert!(matches!(answer, Err(BodyError::IncorrectNumberOfFiles)));
    let answer = read(&form(&[("title=\"key\"", "k")]), 9).await;
    assert!(matches!(answer, Err(BodyError::MalformedForm(_))));
    let answer = read("--XXY\r\n\r\n", 9).await;
    assert!(matches!(answer, Err(BodyError::MalformedForm(_))));
    let long = "x".repeat(MAX_FIELDS_LEN_BYTES);
    let answer = read(&form(&[("name=\"key\"", &long)]), 4_000).await;
    assert!(matches!(answer, Err(BodyError::FormFieldsTooLarge)));
    for bad in ["multipart/form-data", "text/plain; boundary=XX"] {
        let list = headers(&[("content-type", bad)]);
        let answer = read_form(Frames::of(&[]), &list).await.err();
        assert!(matches!(answer, Some(BodyError::MalformedForm(_))));
    }
}

#[tokio::test]
async fn fields_may_name_digests() {
    let crc = ("name=\"x-amz-checksum-crc32\"", "NhCmhg==");
    let text = form(&[crc, ("name=\"file\"", "hello")]);
    let list = headers(&[TYPE]);
    let mut form = read_form(Frames::of(&[text.as_bytes()]), &list)
        .await
        .unwrap();
    form.file.expect(&form.fields.to_headers(), None).unwrap();
    assert!(form.file.digests().has(DigestAlgorithm::Crc32));
    while form.file.next_chunk().await.unwrap().is_some() {}
    let expected = form.file.finish().unwrap();
    assert_eq!(expected.checksum, Some(DigestAlgorithm::Crc32));
    assert!(expected.verify(b"hello").is_ok());
    assert!(expected.verify(b"hellO").is_err());
}
