//! Listings of buckets and of objects (both versions of the API).
//!
//! Source: S3 API, ListBuckets, ListObjects, ListObjectsV2.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fsstore::name::hex;
use fsstore::object::ChecksumKind;
use fsstore::volume::{BucketInfo, ListEntry, ListPage, ListQuery, Volume};
use http::Response;
use md5::{Digest, Md5};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::ctx::{Call, Ctx, Owner};
use super::query::Query;
use super::respond::{self, Body, iso_time};
use super::xml::{self, XmlWriter};
use crate::auth::grant::{Grant, Read};
use crate::body::error::digest_name;
use crate::errors::S3Error;

/// Most entries of a page of any listing but that of buckets.
pub const MAX_ENTRIES: usize = 1000;
/// Most buckets of a page.
const MAX_BUCKETS: usize = 10_000;
/// Buckets looked at in one step.
const BUCKETS_PER_STEP: usize = 1000;
/// About how many bytes an entry takes in a document.
pub(super) const ENTRY_LEN_BYTES: usize = 320;

/// What `encoding-type=url` leaves as it is.
const PLAIN: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// ListObjects: the caller goes on after the last key, or after NextMarker, which is given only
/// with a delimiter.
pub async fn list_objects<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<Read>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let asked = Asked::parse(&call.query)?;
    let marker = call.query.get("marker").unwrap_or_default();
    let page = asked.page(ctx, bucket, marker).await?;
    let mut xml = XmlWriter::root("ListBucketResult");
    xml.reserve((page.objects.len() + page.prefixes.len()) * ENTRY_LEN_BYTES);
    xml.text("Name", bucket.name.as_str());
    // Clients of this version take the prefix as it is (botocore decodes all but it); it is
    // encoded only where XML could not carry it.
    if xml::can_carry(&asked.prefix) {
        xml.text("Prefix", &asked.prefix);
    } else {
        asked.text(&mut xml, "Prefix", &asked.prefix);
    }
    asked.text(&mut xml, "Marker", marker);
    if let (Some(next), Some(_)) = (&page.next, &asked.delimiter) {
        asked.text(&mut xml, "NextMarker", next);
    }
    asked.write_limits(&mut xml, page.next.is_some());
    for entry in &page.objects {
        write_entry(
            &mut xml,
            &asked,
            entry,
            Some(&owner_of(call, bucket, entry)),
        );
    }
    write_prefixes(&mut xml, &asked, &page.prefixes);
    xml.close("ListBucketResult");
    Ok(respond::xml(xml))
}

/// ListObjectsV2: the caller goes on with NextContinuationToken.
pub async fn list_objects_v2<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<Read>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let asked = Asked::parse(&call.query)?;
    let with_owner = parse_boolean(&call.query, "fetch-owner")?;
    let start_after = call.query.get("start-after");
    let token = call.query.get("continuation-token");
    let from = match token.filter(|token| !token.is_empty()) {
        Some(token) => open_token(token)?,
        None => start_after.unwrap_or_default().to_owned(),
    };
    let page = asked.page(ctx, bucket, &from).await?;
    let mut xml = XmlWriter::root("ListBucketResult");
    xml.reserve((page.objects.len() + page.prefixes.len()) * ENTRY_LEN_BYTES);
    xml.text("Name", bucket.name.as_str());
    asked.text(&mut xml, "Prefix", &asked.prefix);
    if let Some(start_after) = start_after {
        asked.text(&mut xml, "StartAfter", start_after);
    }
    if let Some(token) = token {
        xml.text("ContinuationToken", token);
    }
    if let Some(next) = &page.next {
        xml.text("NextContinuationToken", &seal_token(next));
    }
    let count = page.objects.len() + page.prefixes.len();
    xml.number("KeyCount", count as u64);
    asked.write_limits(&mut xml, page.next.is_some());
    for entry in &page.objects {
        let owner = with_owner.then(|| owner_of(call, bucket, entry));
        write_entry(&mut xml, &asked, entry, owner.as_ref());
    }
    write_prefixes(&mut xml, &asked, &page.prefixes);
    xml.close("ListBucketResult");
    Ok(respond::xml(xml))
}

/// What both versions ask for.
pub(super) struct Asked {
    pub prefix: String,
    pub delimiter: Option<String>,
    pub limit: usize,
    pub url: bool,
}

impl Asked {
    fn parse(query: &Query) -> Result<Self, S3Error> {
        let asked = Self::parse_with(query, "max-keys")?;
        if asked.delimiter.is_some() && query.get("allow-unordered") == Some("true") {
            return Err(S3Error::invalid_argument(
                "allow-unordered",
                "true",
                "allow-unordered cannot be used with a delimiter",
            ));
        }
        Ok(asked)
    }

    /// Reads prefix, delimiter, encoding-type and the limit of this name. Errors:
    /// InvalidArgument.
    pub fn parse_with(query: &Query, limit: &'static str) -> Result<Self, S3Error> {
        let url = match query.get("encoding-type") {
            None | Some("") => false,
            Some(kind) if kind.eq_ignore_ascii_case("url") => true,
            Some(other) => {
                return Err(S3Error::invalid_argument(
                    "encoding-type",
                    other,
                    "Invalid Encoding Method specified in Request",
                ));
            }
        };
        Ok(Self {
            prefix: query.get("prefix").unwrap_or_default().to_owned(),
            delimiter: query.get_nonempty("delimiter").map(str::to_owned),
            limit: parse_limit(query, limit)?,
            url,
        })
    }

    /// A page after a key or prefix; nothing where nothing is asked for.
    pub async fn page<V: Volume>(
        &self,
        ctx: &Ctx<V>,
        bucket: &BucketInfo,
        after: &str,
    ) -> Result<ListPage, S3Error> {
        if self.limit == 0 {
            return Ok(ListPage::default());
        }
        let query = ListQuery {
            prefix: self.prefix.clone(),
            delimiter: self.delimiter.clone(),
            after: Some(after.to_owned()).filter(|after| !after.is_empty()),
            limit: self.limit,
        };
        Ok(ctx.volume.list(&bucket.name, &query).await?)
    }

    /// An element whose text is encoded where `encoding-type=url` asks for it.
    pub fn text(&self, xml: &mut XmlWriter, name: &str, text: &str) {
        if self.url {
            xml.open(name);
            for piece in utf8_percent_encode(text, &PLAIN) {
                xml.inner_text(piece);
            }
            xml.close(name);
        } else {
            xml.text(name, text);
        }
    }

    /// Limit, delimiter, encoding, and whether the page was cut.
    pub fn write_limits(&self, xml: &mut XmlWriter, truncated: bool) {
        xml.number("MaxKeys", self.limit as u64);
        if let Some(delimiter) = &self.delimiter {
            self.text(xml, "Delimiter", delimiter);
        }
        self.write_encoding(xml);
        xml.boolean("IsTruncated", truncated);
    }

    /// Says how names are encoded, where they are.
    pub fn write_encoding(&self, xml: &mut XmlWriter) {
        if self.url {
            xml.text("EncodingType", "url");
        }
    }
}

/// A limit of 0 to 2^31-1, 1000 where none or more. Errors: InvalidArgument.
pub(super) fn parse_limit(query: &Query, name: &'static str) -> Result<usize, S3Error> {
    let Some(text) = query.get_nonempty(name) else {
        return Ok(MAX_ENTRIES);
    };
    match text.parse::<i32>() {
        Ok(limit) if limit >= 0 => Ok(usize::try_from(limit).unwrap_or(0).min(MAX_ENTRIES)),
        Ok(_) => Err(S3Error::invalid_argument(
            name,
            text,
            format!("Argument {name} must be an integer between 0 and 2147483647"),
        )),
        Err(_) => Err(S3Error::invalid_argument(
            name,
            text,
            format!("Provided {name} not an integer or within integer range"),
        )),
    }
}

fn parse_boolean(query: &Query, name: &'static str) -> Result<bool, S3Error> {
    match query.get(name).unwrap_or_default() {
        text if text.eq_ignore_ascii_case("true") => Ok(true),
        text if text.is_empty() || text.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(S3Error::invalid_argument(name, other, "Invalid argument")),
    }
}

/// Who an entry belongs to: a file that came without a door is its bucket's owner's.
pub(super) fn owner_of<'a>(call: &'a Call, bucket: &BucketInfo, entry: &ListEntry) -> Owner<'a> {
    call.owner(entry.owner.as_deref().or(bucket.owner.as_deref()))
}

fn write_entry(xml: &mut XmlWriter, asked: &Asked, entry: &ListEntry, owner: Option<&Owner<'_>>) {
    xml.open("Contents");
    asked.text(xml, "Key", entry.key.as_str());
    write_facts(xml, entry, owner);
    xml.close("Contents");
}

/// What a listing says of an object besides its name.
pub(super) fn write_facts(xml: &mut XmlWriter, entry: &ListEntry, owner: Option<&Owner<'_>>) {
    xml.text("LastModified", &iso_time(entry.modified));
    xml.etag(entry.etag.as_str());
    if let Some((algorithm, kind)) = entry.checksum {
        xml.text("ChecksumAlgorithm", digest_name(algorithm));
        xml.text("ChecksumType", checksum_kind_name(kind));
    }
    xml.number("Size", entry.len_bytes);
    if let Some(owner) = owner {
        write_owner(xml, "Owner", owner);
    }
    xml.text("StorageClass", "STANDARD");
}

pub(super) fn write_prefixes(xml: &mut XmlWriter, asked: &Asked, prefixes: &[String]) {
    for prefix in prefixes {
        xml.open("CommonPrefixes");
        asked.text(xml, "Prefix", prefix);
        xml.close("CommonPrefixes");
    }
}

/// An `<Owner>` or `<Initiator>`.
pub(super) fn write_owner(xml: &mut XmlWriter, name: &str, owner: &Owner<'_>) {
    xml.open(name);
    xml.text("ID", &owner.id);
    xml.text("DisplayName", owner.name);
    xml.close(name);
}

/// S3's name of how a checksum was made.
pub const fn checksum_kind_name(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::FullObject => "FULL_OBJECT",
        ChecksumKind::Composite => "COMPOSITE",
    }
}

/// A token that says where to go on; clients must not read anything into it.
fn seal_token(place: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}{place}", token_check(place)))
}

/// The place that a token of [`seal_token`] says. Errors: InvalidArgument.
fn open_token(token: &str) -> Result<String, S3Error> {
    let refuse = || {
        S3Error::invalid_argument(
            "continuation-token",
            token,
            "The continuation token provided is incorrect",
        )
    };
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| refuse())?;
    let text = String::from_utf8(bytes).map_err(|_| refuse())?;
    match text.split_at_checked(CHECK_LEN) {
        Some((check, place)) if check == token_check(place) => Ok(place.to_owned()),
        _ => Err(refuse()),
    }
}

const CHECK_LEN: usize = 8;

/// Tells a token of ours from other text; protects nothing, for a token says nothing secret.
fn token_check(place: &str) -> String {
    let digest = Md5::new_with_prefix("portico listing ").chain_update(place);
    hex(&digest.finalize()[..CHECK_LEN / 2])
}

/// ListBuckets: those of the caller; admins see all. An anonymous caller has none.
pub async fn list_buckets<V: Volume>(
    ctx: &Ctx<V>,
    call: &Call,
    grant: Option<Grant<Read>>,
) -> Result<Response<Body>, S3Error> {
    let query = &call.query;
    let limit = match query.get_nonempty("max-buckets") {
        None => MAX_BUCKETS,
        Some(text) => match text.parse::<usize>() {
            Ok(limit) if (1..=MAX_BUCKETS).contains(&limit) => limit,
            _ => {
                return Err(S3Error::invalid_argument(
                    "max-buckets",
                    text,
                    "Argument max-buckets must be an integer between 1 and 10000",
                ));
            }
        },
    };
    let prefix = query.get("prefix").unwrap_or_default();
    let after = match query.get_nonempty("continuation-token") {
        Some(token) => Some(open_token(token)?),
        None => None,
    };
    let elsewhere = query
        .get_nonempty("bucket-region")
        .is_some_and(|region| region != ctx.auth.region);
    let mut buckets = match &grant {
        Some(grant) if !elsewhere => visible_buckets(ctx, grant, prefix, after, limit + 1).await?,
        _ => Vec::new(),
    };
    let more = buckets.len() > limit;
    buckets.truncate(limit);

    let mut xml = XmlWriter::root("ListAllMyBucketsResult");
    if let Some(caller) = &call.caller {
        write_owner(&mut xml, "Owner", &Owner::of(&caller.user));
    }
    xml.open("Buckets");
    for bucket in &buckets {
        xml.open("Bucket");
        xml.text("Name", bucket.name.as_str());
        xml.text("CreationDate", &iso_time(bucket.created));
        xml.text("BucketRegion", &ctx.auth.region);
        xml.close("Bucket");
    }
    xml.close("Buckets");
    if let (true, Some(last)) = (more, buckets.last()) {
        xml.text("ContinuationToken", &seal_token(last.name.as_str()));
    }
    if !prefix.is_empty() {
        xml.text("Prefix", prefix);
    }
    xml.close("ListAllMyBucketsResult");
    Ok(respond::xml(xml))
}

/// At most `limit` buckets that the caller sees, by name.
async fn visible_buckets<V: Volume>(
    ctx: &Ctx<V>,
    grant: &Grant<Read>,
    prefix: &str,
    mut after: Option<String>,
    limit: usize,
) -> Result<Vec<BucketInfo>, S3Error> {
    let all = grant.caller().is_some_and(|caller| caller.user.is_admin());
    let owner = grant.owner();
    let mut seen = Vec::new();
    loop {
        let step = ctx
            .volume
            .list_buckets(prefix, after.as_deref(), BUCKETS_PER_STEP)
            .await?;
        let is_last = step.len() < BUCKETS_PER_STEP;
        after = step.last().map(|bucket| bucket.name.as_str().to_owned());
        seen.extend(
            step.into_iter()
                .filter(|bucket| all || bucket.owner == owner),
        );
        if is_last || seen.len() >= limit {
            seen.truncate(limit);
            return Ok(seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, open_token, parse_limit, seal_token};
    use crate::errors::S3Code;
    use crate::s3::query::Query;
    use crate::s3::xml::XmlWriter;

    #[test]
    fn a_token_is_read_back_and_others_are_refused() {
        for place in ["a", "a/b\u{0}c", "\u{20ac}", "x+y z"] {
            assert_eq!(open_token(&seal_token(place)).unwrap(), place);
        }
        for bad in ["x", "!!!", "YWJjZGVmZ2hpag", "AAAA"] {
            let error = open_token(bad).unwrap_err();
            assert_eq!(error.code(), S3Code::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn limits_are_clamped_and_garbage_is_refused() {
        let limit = |text: &str| {
            let query = Query::parse(Some(text)).unwrap();
            parse_limit(&query, "max-keys").map_err(|error| error.code())
        };
        assert_eq!(limit(""), Ok(1000));
        assert_eq!(limit("max-keys="), Ok(1000));
        assert_eq!(limit("max-keys=0"), Ok(0));
        assert_eq!(limit("max-keys=7"), Ok(7));
        assert_eq!(limit("max-keys=5000"), Ok(1000));
        for bad in [
            "max-keys=-1",
            "max-keys=blah",
            "max-keys=99999999999",
            "max-keys=1.5",
        ] {
            assert_eq!(limit(bad), Err(S3Code::InvalidArgument), "{bad}");
        }
    }

    #[test]
    fn url_encoding_leaves_slashes_and_takes_plus_and_space() {
        let asked = Asked {
            prefix: String::new(),
            delimiter: None,
            limit: 1,
            url: true,
        };
        let mut xml = XmlWriter::document();
        asked.text(&mut xml, "K", "a/b c+d\u{1}\u{e9}~");
        let text = xml.finish();
        assert!(text.ends_with(b"<K>a/b%20c%2Bd%01%C3%A9~</K>"), "{text:?}");
        let query = Query::parse(Some("encoding-type=base64")).unwrap();
        assert!(Asked::parse(&query).is_err());
    }
}
