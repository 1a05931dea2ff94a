//! What a request says about the state it wants: If-* and Range headers, parsed into the
//! store's [`Precondition`] and [`ByteRange`]. Knows no S3 code; nothing here can panic on input.
//!
//! Header values that HTTP tells servers to ignore when they make no sense (dates, Range) are
//! ignored here too; those that S3 made up itself (copy range, size and time of a delete) are
//! errors.

use std::ops::Range;

use fsstore::error::FailedCondition;
use fsstore::object::{ByteRange, ETagMatch, ObjectInfo, Precondition, Timestamp};
use http::header::{
    self, HeaderMap, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

/// Length an object must have for a DELETE, in bytes. Source: S3 API, DeleteObject.
pub const IF_MATCH_SIZE: &str = "x-amz-if-match-size";
/// Modification time an object must have for a DELETE. Source: S3 API, DeleteObject.
pub const IF_MATCH_LAST_MODIFIED: &str = "x-amz-if-match-last-modified-time";
/// Bytes of the source that become a part. Source: S3 API, UploadPartCopy.
pub const COPY_SOURCE_RANGE: &str = "x-amz-copy-source-range";

/// A header that must be understood and was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{header} is not of the form {form}")]
pub struct MalformedHeader {
    /// Its lower-case name.
    pub header: &'static str,
    /// The form it should have.
    pub form: &'static str,
}

/// How a condition that did not hold is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 304: the client has what stands.
    NotModified,
    /// 412.
    PreconditionFailed,
}

/// How a read whose condition did not hold is answered. Source: RFC 9110 section 13.2.2.
pub const fn refused_read(failed: FailedCondition) -> Refusal {
    match failed {
        FailedCondition::IfNoneMatch | FailedCondition::IfModifiedSince => Refusal::NotModified,
        FailedCondition::IfMatch
        | FailedCondition::IfUnmodifiedSince
        | FailedCondition::IfMatchSize
        | FailedCondition::IfMatchModified => Refusal::PreconditionFailed,
    }
}

/// The conditions of a read or of a whole-object write. Dates that are none are ignored.
pub fn precondition(headers: &HeaderMap) -> Precondition {
    Precondition {
        if_match: tags_in(headers, IF_MATCH.as_str()),
        if_none_match: tags_in(headers, IF_NONE_MATCH.as_str()),
        if_modified_since: date_in(headers, IF_MODIFIED_SINCE.as_str()),
        if_unmodified_since: date_in(headers, IF_UNMODIFIED_SINCE.as_str()),
        ..Precondition::default()
    }
}

/// The conditions of a write: If-Match and If-None-Match only, as S3 has it.
/// Source: S3 User Guide, "Conditional writes".
pub fn write_precondition(headers: &HeaderMap) -> Precondition {
    Precondition {
        if_match: tags_in(headers, IF_MATCH.as_str()),
        if_none_match: tags_in(headers, IF_NONE_MATCH.as_str()),
        ..Precondition::default()
    }
}

/// The conditions on the source of a copy. Source: S3 API, CopyObject.
pub fn copy_source_precondition(headers: &HeaderMap) -> Precondition {
    Precondition {
        if_match: tags_in(headers, "x-amz-copy-source-if-match"),
        if_none_match: tags_in(headers, "x-amz-copy-source-if-none-match"),
        if_modified_since: date_in(headers, "x-amz-copy-source-if-modified-since"),
        if_unmodified_since: date_in(headers, "x-amz-copy-source-if-unmodified-since"),
        ..Precondition::default()
    }
}

/// The conditions of a DELETE. Errors: where size or time cannot be read, because a delete that
/// was meant to be conditional must not become an unconditional one.
pub fn delete_precondition(headers: &HeaderMap) -> Result<Precondition, MalformedHeader> {
    let mut asked = write_precondition(headers);
    if let Some(text) = value_of(headers, IF_MATCH_SIZE) {
        asked.if_match_size = Some(text.trim().parse().map_err(|_| MalformedHeader {
            header: IF_MATCH_SIZE,
            form: "a number of bytes",
        })?);
    }
    if let Some(text) = value_of(headers, IF_MATCH_LAST_MODIFIED) {
        asked.if_match_modified = Some(parse_time(text).ok_or(MalformedHeader {
            header: IF_MATCH_LAST_MODIFIED,
            form: "a date",
        })?);
    }
    Ok(asked)
}

/// The range of a read. None where no range is asked for, where it is malformed, where it is
/// more than one, and where an If-Range names another state than `info`: S3 then answers with
/// the whole object. Source: RFC 9110 sections 13.1.5 and 14.2.
pub fn range(headers: &HeaderMap, info: &ObjectInfo) -> Option<ByteRange> {
    let range = parse_range(value_of(headers, header::RANGE.as_str())?)?;
    let Some(state) = value_of(headers, IF_RANGE.as_str()) else {
        return Some(range);
    };
    let state = state.trim();
    let holds = match parse_http_date(state) {
        Some(time) => info.modified.secs() == time.secs(),
        // A weak tag never holds here: RFC 9110 section 13.1.5 wants a strong comparison.
        None => !state.starts_with("W/") && state.trim_matches('"') == info.etag.as_str(),
    };
    holds.then_some(range)
}

/// Parses one byte range: `bytes=first-last`, `bytes=first-`, `bytes=-len`. None where it is
/// malformed (`last` before `first` included) or more than one.
pub fn parse_range(text: &str) -> Option<ByteRange> {
    let (unit, spec) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = spec.trim().split_once('-')?;
    match (first, last) {
        ("", len) => Some(ByteRange::Suffix(offset(len)?)),
        (first, "") => Some(ByteRange::From(offset(first)?)),
        (first, last) => {
            let (first, last) = (offset(first)?, offset(last)?);
            (first <= last).then_some(ByteRange::FromTo(first, last))
        }
    }
}

/// Parses `x-amz-copy-source-range`, `bytes=first-last` and nothing else: the bytes it means,
/// whatever the source's length. Errors: malformed. Source: S3 API, UploadPartCopy.
pub fn copy_source_range(headers: &HeaderMap) -> Result<Option<Range<u64>>, MalformedHeader> {
    let malformed = MalformedHeader {
        header: COPY_SOURCE_RANGE,
        form: "bytes=first-last",
    };
    let Some(value) = headers.get(COPY_SOURCE_RANGE) else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| malformed)?;
    if !text.starts_with("bytes=") {
        return Err(malformed);
    }
    match parse_range(text) {
        Some(ByteRange::FromTo(first, last)) => Ok(Some(first..last.saturating_add(1))),
        Some(ByteRange::From(_) | ByteRange::Suffix(_)) | None => Err(malformed),
    }
}

/// Digits only, and not more than a u64 holds: more means "as far as it goes".
fn offset(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

fn value_of<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn date_in(headers: &HeaderMap, name: &str) -> Option<Timestamp> {
    parse_http_date(value_of(headers, name)?)
}

fn tags_in(headers: &HeaderMap, name: &str) -> Option<ETagMatch> {
    let mut tags = Vec::new();
    for value in headers.get_all(name) {
        // A value that is no text names no tag of ours, and yet is a condition.
        let text = value.to_str().unwrap_or("\u{fffd}");
        match parse_tags(text) {
            ETagMatch::Any => return Some(ETagMatch::Any),
            ETagMatch::OneOf(more) => tags.extend(more),
        }
    }
    headers.contains_key(name).then_some(ETagMatch::OneOf(tags))
}

/// Parses a list of entity tags: quotes may be missing, `W/` is taken off, `*` alone is any.
/// Never fails: what is no tag matches nothing. Source: RFC 9110 section 13.1.1.
pub fn parse_tags(text: &str) -> ETagMatch {
    if text.trim() == "*" {
        return ETagMatch::Any;
    }
    let mut tags = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return ETagMatch::OneOf(tags);
        }
        rest = rest.strip_prefix("W/").unwrap_or(rest);
        let (tag, after) = match rest.strip_prefix('"') {
            Some(inner) => inner.split_once('"').unwrap_or((inner, "")),
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        tags.push(tag.trim().to_owned());
        rest = after;
    }
}

const IMF_FIXDATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);
const ASCTIME: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]"
);

/// Parses an HTTP date in any of its three forms. The two-digit years of RFC 850 are 1970 to
/// 2069. Source: RFC 9110 section 5.6.7.
pub fn parse_http_date(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let parsed = PrimitiveDateTime::parse(text, IMF_FIXDATE)
        .or_else(|_| PrimitiveDateTime::parse(text, ASCTIME))
        .ok()
        .or_else(|| parse_rfc850(text))?;
    Some(Timestamp::from_secs(parsed.assume_utc().unix_timestamp()))
}

/// Parses a date in an HTTP form or in ISO 8601 (`2026-01-31T12:00:00.000Z`), as SDKs send one
/// or the other.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    parse_http_date(text).or_else(|| {
        let format = &time::format_description::well_known::Rfc3339;
        let parsed = OffsetDateTime::parse(text.trim(), format).ok()?;
        Some(Timestamp::from_secs(parsed.unix_timestamp()))
    })
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
fn parse_rfc850(text: &str) -> Option<PrimitiveDateTime> {
    let (_, rest) = text.split_once(", ")?;
    let rest = rest.strip_suffix(" GMT")?;
    let (date, clock) = rest.split_once(' ')?;
    let mut date = date.split('-');
    let (day, month, year) = (date.next()?, date.next()?, date.next()?);
    if date.next().is_some() || year.len() != 2 {
        return None;
    }
    let year: i32 = year.parse().ok()?;
    let year = if year < 70 { 2000 + year } else { 1900 + year };
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(year, month, day.parse().ok()?).ok()?;
    let mut clock = clock.split(':');
    let (hour, minute, second) = (clock.next()?, clock.next()?, clock.next()?);
    if clock.next().is_some() {
        return None;
    }
    let time = Time::from_hms(
        hour.parse().ok()?,
        minute.parse().ok()?,
        second.parse().ok()?,
    );
    Some(PrimitiveDateTime::new(date, time.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fsstore::name::{ETag, ObjectKey};
    use fsstore::object::{Attributes, KnownDigests};
    use http::HeaderValue;
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn info() -> ObjectInfo {
        ObjectInfo {
            key: ObjectKey::parse("k").unwrap(),
            version: None,
            len_bytes: 10,
            etag: ETag::parse("abc").unwrap(),
            etags_before: Vec::new(),
            modified: parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap(),
            attrs: Attributes::default(),
            checksum: None,
            digests: KnownDigests::default(),
            part_count: None,
        }
    }

    fn one_of(tags: &[&str]) -> ETagMatch {
        ETagMatch::OneOf(tags.iter().map(|tag| (*tag).to_owned()).collect())
    }

    #[test]
    fn tags_come_quoted_bare_weak_and_in_lists() {
        assert_eq!(parse_tags("\"a\""), one_of(&["a"]));
        assert_eq!(parse_tags("a"), one_of(&["a"]));
        assert_eq!(
            parse_tags("W/\"a\" ,b,\t\"c,d\""),
            one_of(&["a", "b", "c,d"])
        );
        assert_eq!(parse_tags(" * "), ETagMatch::Any);
        assert_eq!(parse_tags("\"open"), one_of(&["open"]));
        assert_eq!(parse_tags(""), one_of(&[]));
    }

    #[test]
    fn repeated_headers_are_one_list() {
        let asked = precondition(&headers(&[("if-match", "\"a\""), ("if-match", "\"b\"")]));
        assert_eq!(asked.if_match, Some(one_of(&["a", "b"])));
        assert!(precondition(&HeaderMap::new()).is_empty());
    }

    #[test]
    fn the_three_date_forms_are_one_instant() {
        let instant = Some(Timestamp::from_secs(784_111_777));
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse_http_date(text), instant, "{text}");
        }
        assert_eq!(parse_time("1994-11-06T08:49:37.000Z"), instant);
    }

    #[test]
    fn a_bad_date_asks_nothing() {
        for text in ["", "yesterday", "Sun, 32 Nov 1994 08:49:37 GMT", "0"] {
            let asked = precondition(&headers(&[("if-modified-since", text)]));
            assert!(asked.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_delete_with_an_unreadable_condition_is_refused() {
        assert!(delete_precondition(&headers(&[(IF_MATCH_SIZE, "many")])).is_err());
        assert!(delete_precondition(&headers(&[(IF_MATCH_LAST_MODIFIED, "now")])).is_err());
        let asked = delete_precondition(&headers(&[(IF_MATCH_SIZE, "3")])).unwrap();
        assert_eq!(asked.if_match_size, Some(3));
    }

    #[test]
    fn ranges_of_three_kinds_are_read_and_all_else_is_none() {
        assert_eq!(parse_range("bytes=0-4"), Some(ByteRange::FromTo(0, 4)));
        assert_eq!(parse_range("bytes=4-"), Some(ByteRange::From(4)));
        assert_eq!(parse_range("bytes=-7"), Some(ByteRange::Suffix(7)));
        let endless = format!("bytes=0-{}", "9".repeat(40));
        assert_eq!(parse_range(&endless), Some(ByteRange::FromTo(0, u64::MAX)));
        for bad in [
            "0-4",
            "bytes=",
            "bytes=-",
            "bytes=4",
            "bytes=5-4",
            "bytes=0-1,3-4",
            "bytes=+1-2",
            "lines=0-4",
            "bytes=a-b",
        ] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_copy_range_is_strict() {
        let at = |text| copy_source_range(&headers(&[(COPY_SOURCE_RANGE, text)]));
        assert_eq!(at("bytes=0-4"), Ok(Some(0..5)));
        assert_eq!(copy_source_range(&HeaderMap::new()), Ok(None));
        for bad in [
            "0-2",
            "bytes=0",
            "bytes=hello-world",
            "bytes=0-bar",
            "bytes=hello-",
            "bytes=0-2,3-5",
            "bytes=0-",
            "bytes=-5",
            "bytes=4-2",
        ] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn if_range_of_another_state_asks_for_the_whole() {
        let asked = |state| {
            range(
                &headers(&[("range", "bytes=0-1"), ("if-range", state)]),
                &info(),
            )
        };
        assert!(asked("\"abc\"").is_some());
        assert!(asked("Sun, 06 Nov 1994 08:49:37 GMT").is_some());
        assert!(asked("\"other\"").is_none());
        assert!(asked("W/\"abc\"").is_none());
        assert!(asked("Sun, 06 Nov 1994 08:49:38 GMT").is_none());
    }

    #[test]
    fn what_the_client_has_is_304_and_the_rest_412() {
        assert_eq!(
            refused_read(FailedCondition::IfNoneMatch),
            Refusal::NotModified
        );
        assert_eq!(
            refused_read(FailedCondition::IfModifiedSince),
            Refusal::NotModified
        );
        assert_eq!(
            refused_read(FailedCondition::IfMatch),
            Refusal::PreconditionFailed
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in any::<String>()) {
            let _ = parse_range(&text);
            let _ = parse_tags(&text);
            let _ = parse_time(&text);
        }

        #[test]
        fn text_that_looks_like_a_range_never_panics(text in "bytes=[0-9,=-]{0,30}") {
            if let Some(range) = parse_range(&text)
                && let Ok(bytes) = range.resolve(100)
            {
                prop_assert!(bytes.start < bytes.end && bytes.end <= 100);
            }
        }

        #[test]
        fn a_date_survives_being_written(secs in 0i64..9_223_372_036) {
            let time = OffsetDateTime::from_unix_timestamp(secs).unwrap();
            let parsed = Some(Timestamp::from_secs(secs));
            prop_assert_eq!(parse_http_date(&time.format(IMF_FIXDATE).unwrap()), parsed);
            prop_assert_eq!(parse_http_date(&time.format(ASCTIME).unwrap()), parsed);
        }

        #[test]
        fn a_list_of_tags_survives(tags in prop::collection::vec("[!#-+.-~]{1,8}", 1..5)) {
            let text = tags.iter().map(|tag| format!("\"{tag}\"")).collect::<Vec<_>>().join(", ");
            prop_assert_eq!(parse_tags(&text), ETagMatch::OneOf(tags));
        }
    }
}
