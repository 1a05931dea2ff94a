//! ListObjectVersions, where no bucket keeps versions: every object is the one version of its
//! key, `null`, as in a bucket that never had versioning enabled.
//!
//! Source: S3 API, ListObjectVersions; S3 User Guide, "Listing objects in a versioning-enabled
//! bucket".

use fsstore::volume::{BucketInfo, Volume};
use http::Response;

use super::ctx::{Call, Ctx};
use super::list::{Asked, ENTRY_LEN_BYTES, owner_of, write_facts, write_prefixes};
use super::respond::{self, Body};
use super::xml::XmlWriter;
use crate::auth::grant::{Grant, Read};
use crate::errors::S3Error;

/// The id of the version that a key has without versioning.
pub const NULL_VERSION: &str = "null";

/// ListObjectVersions. Errors: InvalidArgument.
pub async fn list_object_versions<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<Read>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let asked = Asked::parse_with(&call.query, "max-keys")?;
    let key_marker = call.query.get("key-marker").unwrap_or_default();
    let id_marker = call.query.get("version-id-marker").unwrap_or_default();
    if key_marker.is_empty() && !id_marker.is_empty() {
        return Err(S3Error::invalid_argument(
            "version-id-marker",
            id_marker,
            "A version-id marker cannot be specified without a key marker.",
        ));
    }
    // A key has one version, so that after any of its versions comes the next key.
    let page = asked.page(ctx, bucket, key_marker).await?;
    let mut xml = XmlWriter::root("ListVersionsResult");
    xml.reserve((page.objects.len() + page.prefixes.len()) * ENTRY_LEN_BYTES);
    xml.text("Name", bucket.name.as_str());
    asked.text(&mut xml, "Prefix", &asked.prefix);
    asked.text(&mut xml, "KeyMarker", key_marker);
    xml.text("VersionIdMarker", id_marker);
    if let Some(next) = &page.next {
        asked.text(&mut xml, "NextKeyMarker", next);
        if page
            .objects
            .last()
            .is_some_and(|last| last.key.as_str() == next)
        {
            xml.text("NextVersionIdMarker", NULL_VERSION);
        }
    }
    asked.write_limits(&mut xml, page.next.is_some());
    for entry in &page.objects {
        xml.open("Version");
        asked.text(&mut xml, "Key", entry.key.as_str());
        xml.text("VersionId", NULL_VERSION);
        xml.boolean("IsLatest", true);
        write_facts(&mut xml, entry, Some(&owner_of(call, bucket, entry)));
        xml.close("Version");
    }
    write_prefixes(&mut xml, &asked, &page.prefixes);
    xml.close("ListVersionsResult");
    Ok(respond::xml(xml))
}
