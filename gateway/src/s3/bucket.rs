//! Buckets: create, look at, delete, and what is truly not set.
//!
//! Source: S3 API, CreateBucket, HeadBucket, DeleteBucket, GetBucketLocation; S3 User Guide,
//! "General purpose bucket naming rules".

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use fsstore::error::StoreError;
use fsstore::name::BucketName;
use fsstore::volume::{BucketInfo, NewBucket, Volume};
use http::{HeaderValue, Response, StatusCode, header};

use super::acl;
use super::ctx::{Call, Ctx, RequestBody};
use super::respond::{self, Body};
use super::route::Unset;
use super::xml::{self, XmlWriter};
use crate::auth::acl::{Acl, SETTING as ACL_SETTING};
use crate::auth::grant::{Grant, Manage, Read, Write};
use crate::errors::{S3Code, S3Error};

/// The region whose name AWS leaves out.
const US_EAST_1: &str = "us-east-1";

/// CreateBucket: 200 with Location. Durable. Errors: InvalidBucketName, MalformedXML,
/// InvalidLocationConstraint, IllegalLocationConstraintException, BucketAlreadyExists,
/// BucketAlreadyOwnedByYou, NotImplemented, and those of access lists.
pub async fn create_bucket<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Grant<Write>,
    name: &BucketName,
    body: B,
) -> Result<Response<Body>, S3Error> {
    if !is_valid_name(name.as_str()) {
        return Err(S3Error::from(S3Code::InvalidBucketName).field("BucketName", name.as_str()));
    }
    let owner = grant.owner();
    check_ownership_header(call)?;
    let acl = acl::from_headers(call, owner.clone(), None)?;
    if !body.is_end_stream() {
        let limit = ctx.config.max_document_len_bytes;
        match call.read_document(body, limit).await {
            Ok(document) => check_configuration(&document, &ctx.auth.region)?,
            Err(error) if error.code() == S3Code::MissingRequestBodyError => {}
            Err(error) => return Err(error),
        }
    }
    let mut settings = BTreeMap::new();
    if let Some(acl) = &acl {
        settings.insert(ACL_SETTING.to_owned(), acl.to_text());
    }
    let new = NewBucket {
        owner: owner.clone(),
        settings,
        file_owner: call.file_owner(),
    };
    match ctx.volume.create_bucket(name, new).await {
        Ok(_) => {}
        Err(StoreError::BucketExists { owner: Some(of) }) if Some(&of) == owner.as_ref() => {
            let bucket = ctx.volume.bucket(name).await?;
            answer_own(ctx, &bucket, acl.unwrap_or_else(|| Acl::private(owner)))?;
        }
        Err(error) => return Err(S3Error::from(error).field("BucketName", name.as_str())),
    }
    let mut response = respond::empty(StatusCode::OK);
    if let Ok(value) = HeaderValue::from_str(&format!("/{name}")) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    Ok(response)
}

/// What the owner of a bucket is told who creates it again: in us-east-1 that is no error as
/// long as nothing would change, elsewhere it is.
fn answer_own<V>(ctx: &Ctx<V>, bucket: &BucketInfo, asked: Acl) -> Result<(), S3Error> {
    let code = if ctx.auth.region != US_EAST_1 {
        S3Code::BucketAlreadyOwnedByYou
    } else if Acl::of_bucket(bucket) != asked {
        S3Code::BucketAlreadyExists
    } else {
        return Ok(());
    };
    Err(S3Error::from(code).field("BucketName", bucket.name.as_str()))
}

/// Access lists are honoured, so that only the ownership that leaves them on may be asked for.
fn check_ownership_header(call: &Call) -> Result<(), S3Error> {
    match call.header("x-amz-object-ownership") {
        None | Some("ObjectWriter") => Ok(()),
        Some(other @ ("BucketOwnerPreferred" | "BucketOwnerEnforced")) => {
            Err(S3Error::not_implemented("This object ownership").field("ObjectOwnership", other))
        }
        Some(other) => Err(S3Error::invalid_argument(
            "x-amz-object-ownership",
            other,
            "Invalid x-amz-object-ownership header",
        )),
    }
}

/// Checks a `<CreateBucketConfiguration>`.
fn check_configuration(document: &[u8], region: &str) -> Result<(), S3Error> {
    let root = xml::parse(document, "CreateBucketConfiguration")?;
    root.allow_only(&["LocationConstraint", "Location", "Bucket", "Tags"])?;
    for unbuilt in ["Location", "Bucket"] {
        if root.child(unbuilt).is_some() {
            return Err(S3Error::not_implemented("A directory bucket"));
        }
    }
    if root
        .child("Tags")
        .is_some_and(|tags| !tags.children.is_empty())
    {
        return Err(S3Error::not_implemented("CreateBucket with tags"));
    }
    let asked = root
        .text_of("LocationConstraint")?
        .unwrap_or_default()
        .trim();
    if asked.is_empty() || asked == region || (asked == "EU" && region == "eu-west-1") {
        return Ok(());
    }
    if is_region_name(asked) && region != US_EAST_1 {
        return Err(S3Code::IllegalLocationConstraintException.with(format!(
            "The {asked} location constraint is incompatible for the region specific endpoint \
             this request was sent to."
        )));
    }
    Err(S3Error::from(S3Code::InvalidLocationConstraint).field("LocationConstraint", asked))
}

/// True for the form of AWS's regions: `eu-west-1`.
fn is_region_name(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    match parts.split_last() {
        Some((number, words)) => {
            words.len() >= 2
                && words.iter().all(is_word)
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
        }
        None => false,
    }
}

/// True for names that S3 lets new buckets have: 3 to 63 of `a-z0-9.-`, each label between dots
/// beginning and ending with a letter or a digit, not an IPv4 address, none of S3's own forms.
pub fn is_valid_name(name: &str) -> bool {
    const PREFIXES: [&str; 4] = ["xn--", "sthree-", "amzn-s3-demo-", "sthree-configurator"];
    const SUFFIXES: [&str; 5] = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];
    let is_known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
    let is_label =
        |label: &str| !(label.is_empty() || label.starts_with('-') || label.ends_with('-'));
    (3..=63).contains(&name.len())
        && name.bytes().all(is_known)
        && name.split('.').all(is_label)
        && name.parse::<Ipv4Addr>().is_err()
        && !PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && !SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// HeadBucket: 200.
pub fn head_bucket<V: Volume>(
    ctx: &Ctx<V>,
    _grant: Grant<Read>,
) -> Result<Response<Body>, S3Error> {
    let mut response = respond::empty(StatusCode::OK);
    let headers = response.headers_mut();
    if let Ok(region) = HeaderValue::from_str(&ctx.auth.region) {
        headers.insert(respond::X_AMZ_BUCKET_REGION, region);
    }
    headers.insert(
        "x-amz-access-point-alias",
        HeaderValue::from_static("false"),
    );
    Ok(response)
}

/// DeleteBucket: 204. Durable. Errors: BucketNotEmpty.
pub async fn delete_bucket<V: Volume>(
    ctx: &Ctx<V>,
    _grant: Grant<Manage>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let deleted = ctx.volume.delete_bucket(&bucket.name).await;
    deleted.map_err(|error| S3Error::from(error).field("BucketName", bucket.name.as_str()))?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

/// GetBucketLocation: empty in us-east-1.
pub fn get_bucket_location<V: Volume>(
    ctx: &Ctx<V>,
    _grant: Grant<Read>,
) -> Result<Response<Body>, S3Error> {
    let region = ctx.auth.region.as_str();
    let mut xml = XmlWriter::root("LocationConstraint");
    xml.inner_text(if region == US_EAST_1 { "" } else { region });
    xml.close("LocationConstraint");
    Ok(respond::xml(xml))
}

/// The GET of a configuration that nobody can have set: its empty document, or the error that
/// says there is none.
pub fn get_unset(
    _grant: Grant<Manage>,
    unset: Unset,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let (root, child) = match unset {
        Unset::Accelerate => ("AccelerateConfiguration", None),
        Unset::Logging => ("BucketLoggingStatus", None),
        Unset::Notification => ("NotificationConfiguration", None),
        Unset::RequestPayment => (
            "RequestPaymentConfiguration",
            Some(("Payer", "BucketOwner")),
        ),
        Unset::Versioning => ("VersioningConfiguration", None),
        Unset::Encryption => {
            return missing(
                S3Code::ServerSideEncryptionConfigurationNotFoundError,
                bucket,
            );
        }
        Unset::Lifecycle => return missing(S3Code::NoSuchLifecycleConfiguration, bucket),
        Unset::ObjectLock => return missing(S3Code::ObjectLockConfigurationNotFoundError, bucket),
        Unset::OwnershipControls => return missing(S3Code::OwnershipControlsNotFoundError, bucket),
        Unset::Policy => return missing(S3Code::NoSuchBucketPolicy, bucket),
        Unset::PublicAccessBlock => {
            return missing(S3Code::NoSuchPublicAccessBlockConfiguration, bucket);
        }
        Unset::Replication => {
            return missing(S3Code::ReplicationConfigurationNotFoundError, bucket);
        }
        Unset::Website => return missing(S3Code::NoSuchWebsiteConfiguration, bucket),
    };
    let mut xml = XmlWriter::root(root);
    if let Some((name, text)) = child {
        xml.text(name, text);
    }
    xml.close(root);
    Ok(respond::xml(xml))
}

fn missing(code: S3Code, bucket: &BucketInfo) -> Result<Response<Body>, S3Error> {
    Err(S3Error::from(code).field("BucketName", bucket.name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::{check_configuration, is_valid_name};
    use crate::errors::S3Code;

    #[test]
    fn new_names_are_those_of_s3() {
        for good in [
            "abc",
            "a.b.c",
            "my-bucket-1",
            "1.2.3",
            "0abc",
            &"a".repeat(63),
        ] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in [
            "",
            "a",
            "ab",
            "Abc",
            "a_b",
            "abc-",
            "-abc",
            ".abc",
            "abc.",
            "a..b",
            "a.-b",
            "a-.b",
            "192.168.5.123",
            "xn--abc",
            "sthree-abc",
            "abc-s3alias",
            "abc--ol-s3",
            "a b c",
            "abc\u{e9}",
            &"a".repeat(64),
        ] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_location_other_than_ours_is_refused() {
        let ask = |asked: &str, region: &str| {
            let text = format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{asked}</LocationConstraint></CreateBucketConfiguration>"
            );
            check_configuration(text.as_bytes(), region).map_err(|error| error.code())
        };
        assert_eq!(ask("", "us-east-1"), Ok(()));
        assert_eq!(ask("eu-central-1", "eu-central-1"), Ok(()));
        let illegal = Err(S3Code::IllegalLocationConstraintException);
        assert_eq!(ask("us-west-2", "eu-central-1"), illegal);
        assert_eq!(
            ask("us-west-2", "us-east-1"),
            Err(S3Code::InvalidLocationConstraint)
        );
        assert_eq!(
            ask("here", "eu-central-1"),
            Err(S3Code::InvalidLocationConstraint)
        );
        let garbage = check_configuration(b"<CreateBucketConfiguration><X/>", "x");
        assert_eq!(garbage.unwrap_err().code(), S3Code::MalformedXML);
    }
}
