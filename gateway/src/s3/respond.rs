//! Answers: the response body, XML documents, errors, and the headers every answer has.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fsstore::object::Timestamp;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Frame, SizeHint};

use super::xml::XmlWriter;
use crate::errors::S3Error;
use crate::metrics::{Measured, Meter};

/// What a body in motion fails with; hyper then breaks the connection.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The names of headers of S3's own.
pub const X_AMZ_REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
/// See [`X_AMZ_REQUEST_ID`].
pub const X_AMZ_ID_2: HeaderName = HeaderName::from_static("x-amz-id-2");
/// See [`X_AMZ_REQUEST_ID`].
pub const X_AMZ_BUCKET_REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");

/// The target of access log events.
pub const ACCESS_LOG: &str = "portico::access";

const SERVER: HeaderValue = HeaderValue::from_static("Portico");
const APPLICATION_XML: HeaderValue = HeaderValue::from_static("application/xml");

/// The body of a response: nothing, bytes at hand, or a stream.
pub struct Body {
    kind: Kind,
    /// Logged when the body is dropped: sent whole, or given up.
    record: Option<Box<AccessRecord>>,
    /// Counted then.
    measuring: Option<Box<Measuring>>,
}

enum Kind {
    Empty,
    Full(Bytes),
    Stream(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>),
}

impl Body {
    /// No bytes.
    pub const fn empty() -> Self {
        Self {
            kind: Kind::Empty,
            record: None,
            measuring: None,
        }
    }

    /// Bytes at hand.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            kind: if bytes.is_empty() {
                Kind::Empty
            } else {
                Kind::Full(bytes)
            },
            record: None,
            measuring: None,
        }
    }

    /// A stream. Its `size_hint` should be exact: it becomes Content-Length.
    pub fn stream<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static,
    {
        Self {
            kind: Kind::Stream(Box::pin(body)),
            record: None,
            measuring: None,
        }
    }

    /// Has the request counted when this body is done with.
    pub(crate) fn measure_at_end(&mut self, measuring: Measuring) {
        self.measuring = Some(Box::new(measuring));
    }

    /// Logs the request when this body is done with.
    pub(crate) fn log_at_end(&mut self, record: AccessRecord) {
        self.record = Some(Box::new(record));
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.kind {
            Kind::Empty => "Body::Empty",
            Kind::Full(_) => "Body::Full",
            Kind::Stream(_) => "Body::Stream",
        })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match &mut self.kind {
            Kind::Empty => None,
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                Some(Ok(Frame::data(bytes)))
            }
            Kind::Stream(body) => match body.as_mut().poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(frame) => frame,
            },
        };
        if let (Some(measuring), Some(Ok(frame))) = (&mut self.measuring, &frame) {
            measuring.measured.sent_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        if let Some(record) = &mut self.record {
            match &frame {
                Some(Ok(frame)) => {
                    record.sent_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                Some(Err(error)) => record.failure = Some(error.to_string()),
                None => (),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(body) => body.size_hint(),
        }
    }
}

/// A request that is under way; counted when it is dropped.
pub(crate) struct Measuring {
    meter: Arc<Meter>,
    begun: Instant,
    pub measured: Measured,
}

impl Measuring {
    pub(crate) fn begin(meter: Arc<Meter>, headers: &HeaderMap) -> Self {
        meter.begun();
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self {
            meter,
            begun: Instant::now(),
            measured: Measured {
                door: "s3",
                operation: "None",
                // What is said of a client that went away.
                status: 499,
                took: Duration::ZERO,
                received_bytes: length.unwrap_or(0),
                sent_bytes: 0,
            },
        }
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        self.measured.took = self.begun.elapsed();
        self.meter.ended(&self.measured);
    }
}

/// One line of the access log; written when it is dropped.
pub(crate) struct AccessRecord {
    pub method: http::Method,
    pub bucket: String,
    pub key: String,
    pub user: String,
    pub status: u16,
    pub request_id: RequestId,
    pub begun: Instant,
    pub sent_bytes: u64,
    pub failure: Option<String>,
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        tracing::info!(
            target: ACCESS_LOG,
            method = %self.method,
            bucket = self.bucket,
            key = self.key,
            user = self.user,
            status = self.status,
            bytes = self.sent_bytes,
            duration_us = self.begun.elapsed().as_micros() as u64,
            request_id = %self.request_id,
            failure = self.failure,
            "request"
        );
    }
}

/// The number of a request, as `x-amz-request-id` shows it: 16 upper-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId(u64);

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

/// Makes request ids: distinct while the server runs, and unlike those of another start.
#[derive(Debug)]
pub struct RequestIds {
    next: AtomicU64,
    host_id: HeaderValue,
}

impl RequestIds {
    /// Begins a series from a seed (the time of the start).
    pub fn new(seed: u64) -> Self {
        let host_id = HeaderValue::from_str(&format!("portico-{:016x}", scramble(!seed)))
            .unwrap_or(HeaderValue::from_static("portico"));
        Self {
            next: AtomicU64::new(seed),
            host_id,
        }
    }

    /// The next id.
    pub fn next(&self) -> RequestId {
        RequestId(scramble(self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// What stands in `x-amz-id-2` and `<HostId>`.
    pub fn host_id(&self) -> &HeaderValue {
        &self.host_id
    }
}

/// A bijection on 64 bits that leaves no pattern visible. Source: splitmix64's finisher.
const fn scramble(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// An answer with an XML document, 200.
pub fn xml(document: XmlWriter) -> Response<Body> {
    let mut response = Response::new(Body::full(document.finish()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, APPLICATION_XML);
    response
}

/// The answer that an error is. `resource` is the request's path; HEAD (and 304) have no body.
pub fn error(
    error: &S3Error,
    resource: &str,
    id: RequestId,
    host_id: &HeaderValue,
    with_body: bool,
) -> Response<Body> {
    let status = error.status();
    let mut response = empty(status);
    if with_body && status != StatusCode::NOT_MODIFIED {
        let host_id = host_id.to_str().unwrap_or_default();
        *response.body_mut() = Body::full(error_document(error, resource, id, host_id));
    }
    let headers = response.headers_mut();
    if status != StatusCode::NOT_MODIFIED {
        headers.insert(header::CONTENT_TYPE, APPLICATION_XML);
    }
    for (name, value) in error.headers() {
        headers.insert(name, value.clone());
    }
    response
}

/// The `<Error>` document. Also what a 200 that turned out an error carries (Copy, Complete).
pub fn error_document(error: &S3Error, resource: &str, id: RequestId, host_id: &str) -> Bytes {
    let mut xml = XmlWriter::document();
    xml.open("Error");
    xml.text("Code", error.code().name());
    xml.text("Message", error.message());
    for (name, value) in error.fields() {
        xml.text(name, value);
    }
    xml.text("Resource", error.resource_name().unwrap_or(resource));
    xml.text("RequestId", &id.to_string());
    xml.text("HostId", host_id);
    xml.close("Error");
    xml.finish()
}

/// Puts the headers on an answer that every answer has.
pub(crate) fn mark(headers: &mut HeaderMap, id: RequestId, ids: &RequestIds) {
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        headers.insert(X_AMZ_REQUEST_ID, value);
    }
    headers.insert(X_AMZ_ID_2, ids.host_id().clone());
    headers.insert(header::SERVER, SERVER);
}

/// A time as XML documents of S3 say it: `2009-10-12T17:50:30.000Z`.
pub fn iso_time(time: Timestamp) -> String {
    let (year, month, day) = civil(time.secs().div_euclid(86_400));
    let secs = time.secs().rem_euclid(86_400);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        secs / 3600,
        secs / 60 % 60,
        secs % 60,
        time.subsec_nanos() / 1_000_000
    )
}

/// A time as headers say it: `Mon, 12 Oct 2009 17:50:30 GMT`. Source: RFC 9110 section 5.6.7.
pub fn http_time(time: Timestamp) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let days = time.secs().div_euclid(86_400);
    let (year, month, day) = civil(days);
    let secs = time.secs().rem_euclid(86_400);
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        DAYS[days.rem_euclid(7) as usize],
        MONTHS[(month - 1) as usize],
        secs / 3600,
        secs / 60 % 60,
        secs % 60
    )
}

/// Year, month (1 to 12) and day of a count of days since 1970-01-01, in the Gregorian calendar.
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 {
        month_shifted + 3
    } else {
        month_shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::S3Code;

    #[test]
    fn times_are_written_as_s3_writes_them() {
        let time = Timestamp(1_255_369_830_123_456_789);
        assert_eq!(iso_time(time), "2009-10-12T17:50:30.123Z");
        assert_eq!(http_time(time), "Mon, 12 Oct 2009 17:50:30 GMT");
        assert_eq!(iso_time(Timestamp(-1)), "1969-12-31T23:59:59.999Z");
        assert_eq!(http_time(Timestamp(0)), "Thu, 01 Jan 1970 00:00:00 GMT");
        let leap = Timestamp::from_secs(951_782_400);
        assert_eq!(iso_time(leap), "2000-02-29T00:00:00.000Z");
    }

    #[test]
    fn an_error_document_escapes_what_the_client_sent() {
        let error =
            S3Error::invalid_argument("max-keys", "<1>", "Provided max-keys not an integer");
        let ids = RequestIds::new(1);
        let text = error_document(&error, "/a&b", ids.next(), "host");
        let text = std::str::from_utf8(&text).unwrap();
        assert!(
            text.contains("<ArgumentValue>&lt;1&gt;</ArgumentValue>"),
            "{text}"
        );
        assert!(text.contains("<Resource>/a&amp;b</Resource>"), "{text}");
    }

    #[test]
    fn an_error_to_head_has_no_body() {
        let ids = RequestIds::new(1);
        let id = ids.next();
        let answer = error(&S3Code::NoSuchKey.into(), "/", id, ids.host_id(), false);
        assert!(http_body::Body::is_end_stream(answer.body()));
        assert_eq!(answer.status(), 404);
    }

    #[test]
    fn request_ids_differ() {
        let ids = RequestIds::new(7);
        let made: std::collections::HashSet<String> =
            (0..1000).map(|_| ids.next().to_string()).collect();
        assert_eq!(made.len(), 1000);
        assert!(made.iter().all(|id| id.len() == 16));
    }
}
