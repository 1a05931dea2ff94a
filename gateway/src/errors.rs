//! THE table of errors: every fact that can keep a request from being answered, and what S3
//! says to it (code, status, message). Every mapping is exhaustive: a new variant of an error
//! does not compile unanswered.
//!
//! Source: S3 API Reference, "Error responses".

mod code;

use std::borrow::Cow;
use std::fmt;

use fsstore::error::{FailedCondition, FsLimit, StoreError};
use fsstore::name::NameError;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

pub use code::S3Code;

use crate::auth::AuthError;
use crate::body::BodyError;
use crate::body::error::digest_name;
use crate::conditions::MalformedHeader;
use crate::s3::respond::iso_time;

/// Longest chain of causes that is logged.
const MAX_CAUSES: usize = 16;

/// An answer that is an error: code, status, message, further XML fields and headers.
/// One word wide, so that results of handlers stay small.
#[derive(Debug)]
pub struct S3Error(Box<Answer>);

#[derive(Debug)]
struct Answer {
    code: S3Code,
    message: Cow<'static, str>,
    resource: Option<String>,
    fields: Vec<(&'static str, String)>,
    headers: HeaderMap,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl From<S3Code> for S3Error {
    fn from(code: S3Code) -> Self {
        Self(Box::new(Answer {
            code,
            message: Cow::Borrowed(code.message()),
            resource: None,
            fields: Vec::new(),
            headers: HeaderMap::new(),
            cause: None,
        }))
    }
}

impl S3Error {
    fn message_of_its_own(mut self, message: Cow<'static, str>) -> Self {
        self.0.message = message;
        self
    }

    /// The refusal of an argument: `InvalidArgument` with the fields AWS gives.
    pub fn invalid_argument(
        name: &str,
        value: impl Into<String>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        S3Code::InvalidArgument
            .with(message)
            .field("ArgumentName", name)
            .field("ArgumentValue", value)
    }

    /// The refusal of something that is not built, named.
    pub fn not_implemented(what: &str) -> Self {
        S3Code::NotImplemented.with(format!("{what} is not implemented"))
    }

    /// Adds an XML element after the standard ones.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.fields.push((name, value.into()));
        self
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// Names the resource where it is not the request's path.
    #[must_use]
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.0.resource = Some(resource.into());
        self
    }

    /// Keeps what caused it, for the log.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// What it came from and what that came from, down to the system's own error, for the log.
    pub fn causes(&self) -> Option<String> {
        let mut cause = std::error::Error::source(self)?;
        let mut text = cause.to_string();
        for _ in 1..MAX_CAUSES {
            let Some(next) = cause.source() else {
                break;
            };
            let said = next.to_string();
            if !text.ends_with(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            cause = next;
        }
        Some(text)
    }

    /// Its code.
    pub fn code(&self) -> S3Code {
        self.0.code
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.code.status()
    }

    /// Its message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The resource, where one was named.
    pub fn resource_name(&self) -> Option<&str> {
        self.0.resource.as_deref()
    }

    /// Further XML elements, in order.
    pub fn fields(&self) -> &[(&'static str, String)] {
        &self.0.fields
    }

    /// Further headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }
}

impl fmt::Display for S3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)
    }
}

impl std::error::Error for S3Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as _)
    }
}

/// The header that states a condition.
pub const fn condition_name(condition: FailedCondition) -> &'static str {
    match condition {
        FailedCondition::IfMatch => "If-Match",
        FailedCondition::IfNoneMatch => "If-None-Match",
        FailedCondition::IfModifiedSince => "If-Modified-Since",
        FailedCondition::IfUnmodifiedSince => "If-Unmodified-Since",
        FailedCondition::IfMatchSize => "x-amz-if-match-size",
        FailedCondition::IfMatchModified => "x-amz-if-match-last-modified-time",
    }
}

impl From<StoreError> for S3Error {
    fn from(error: StoreError) -> Self {
        let answer = store_answer(&error);
        if answer.status().is_server_error() {
            answer.cause(error)
        } else {
            answer
        }
    }
}

fn store_answer(error: &StoreError) -> S3Error {
    use S3Code as C;
    match error {
        StoreError::NoSuchBucket => C::NoSuchBucket.into(),
        StoreError::NoSuchKey => C::NoSuchKey.into(),
        // CreateBucket looks at the owner first; whoever else comes here learns nothing.
        StoreError::BucketExists { owner: _ } => C::BucketAlreadyExists.into(),
        StoreError::BucketNotEmpty => C::BucketNotEmpty.into(),
        StoreError::NoSuchUpload => C::NoSuchUpload.into(),
        StoreError::InvalidPart { number } => {
            S3Error::from(C::InvalidPart).field("PartNumber", number.to_string())
        }
        StoreError::InvalidPartOrder => C::InvalidPartOrder.into(),
        StoreError::PartTooSmall {
            number,
            len_bytes,
            min_bytes,
        } => S3Error::from(C::EntityTooSmall)
            .field("ProposedSize", len_bytes.to_string())
            .field("MinSizeAllowed", min_bytes.to_string())
            .field("PartNumber", number.to_string()),
        StoreError::PreconditionFailed(condition) => {
            S3Error::from(C::PreconditionFailed).field("Condition", condition_name(*condition))
        }
        StoreError::DigestMismatch { algorithm, .. } => C::BadDigest.with(format!(
            "The {} you specified did not match the calculated checksum.",
            digest_name(*algorithm)
        )),
        StoreError::LengthMismatch { .. } => C::IncompleteBody.into(),
        StoreError::TooLarge { max_bytes } => {
            S3Error::from(C::EntityTooLarge).field("MaxSizeAllowed", max_bytes.to_string())
        }
        StoreError::MetadataTooLarge {
            len_bytes,
            max_bytes,
        } => S3Error::from(C::MetadataTooLarge)
            .field("Size", len_bytes.to_string())
            .field("MaxSizeAllowed", max_bytes.to_string()),
        StoreError::RangeNotSatisfiable { len_bytes } => range_answer(*len_bytes),
        StoreError::NoSpace => C::StorageFull.into(),
        StoreError::QuotaExceeded => C::QuotaExceeded.into(),
        StoreError::ReadOnly => C::AccessDenied.with("The store is read-only."),
        StoreError::AccessDenied => C::AccessDenied.into(),
        StoreError::Limit(FsLimit::NameLen) => C::KeyTooLongError.into(),
        StoreError::Limit(FsLimit::FileLen) => C::EntityTooLarge.into(),
        StoreError::Limit(what @ FsLimit::Links) => {
            C::InvalidRequest.with(format!("A limit of the file system below was met: {what}."))
        }
        StoreError::Obstructed => {
            C::InvalidRequest.with("Something that is no object stands in this key's way.")
        }
        StoreError::ChangedWhileRead => {
            C::OperationAborted.with("The object changed while it was read. Try again.")
        }
        StoreError::Locked => C::OperationAborted
            .with("A process has the object's file locked for writing. Try again."),
        StoreError::Conflict => C::OperationAborted.into(),
        StoreError::Busy(what) => C::SlowDown.with(format!("Too much is under way: {what}.")),
        StoreError::Corrupt(_) | StoreError::Io { .. } | StoreError::Index(_) => {
            C::InternalError.into()
        }
        StoreError::Stopping => C::ServiceUnavailable.with("The server is stopping."),
    }
}

impl From<AuthError> for S3Error {
    fn from(error: AuthError) -> Self {
        use S3Code as C;
        let message = error.to_string();
        match error {
            AuthError::AccessDenied(_) => C::AccessDenied.with(message),
            AuthError::HeadersNotSigned { names } => C::AccessDenied
                .with(message)
                .field("HeadersNotSigned", names),
            AuthError::RequestExpired { expires, now } => C::AccessDenied
                .with(message)
                .field("Expires", iso_time(expires))
                .field("ServerTime", iso_time(now)),
            AuthError::InvalidAccessKeyId { access_key } => C::InvalidAccessKeyId
                .with(message)
                .field("AWSAccessKeyId", access_key),
            AuthError::SignatureDoesNotMatch => C::SignatureDoesNotMatch.with(message),
            AuthError::RequestTimeTooSkewed {
                request,
                now,
                max_skew_ms,
            } => C::RequestTimeTooSkewed
                .with(message)
                .field("RequestTime", iso_time(request))
                .field("ServerTime", iso_time(now))
                .field("MaxAllowedSkewMilliseconds", max_skew_ms.to_string()),
            AuthError::AuthorizationHeaderMalformed { region, message: _ } => {
                with_region(C::AuthorizationHeaderMalformed.with(message), region)
            }
            AuthError::AuthorizationQueryParametersError { region, message: _ } => {
                with_region(C::AuthorizationQueryParametersError.with(message), region)
            }
            AuthError::InvalidToken => C::InvalidToken.with(message),
            AuthError::ExpiredToken => C::ExpiredToken.with(message),
            AuthError::InvalidRequest(_) => C::InvalidRequest.with(message),
            AuthError::InvalidArgument {
                name,
                value,
                message,
            } => Self::invalid_argument(name, value, message),
            AuthError::PolicyNotMet(_) => C::AccessDenied.with(message),
            AuthError::InvalidPolicyDocument(_) => C::InvalidPolicyDocument.with(message),
        }
    }
}

fn with_region(error: S3Error, region: Option<String>) -> S3Error {
    match region {
        Some(region) => error.field("Region", region),
        None => error,
    }
}

impl From<BodyError> for S3Error {
    fn from(error: BodyError) -> Self {
        use S3Code as C;
        let message = error.to_string();
        match error {
            BodyError::IncompleteBody => C::IncompleteBody.with(message),
            BodyError::Timeout => C::RequestTimeout.with(message),
            BodyError::Transport(cause) => C::IncompleteBody.with(message).cause(cause),
            BodyError::MissingContentLength => C::MissingContentLength.with(message),
            BodyError::EntityTooLarge {
                len_bytes,
                max_bytes,
            } => C::EntityTooLarge
                .with(message)
                .field("ProposedSize", len_bytes.to_string())
                .field("MaxSizeAllowed", max_bytes.to_string()),
            BodyError::EntityTooSmall {
                len_bytes,
                min_bytes,
            } => C::EntityTooSmall
                .with(message)
                .field("ProposedSize", len_bytes.to_string())
                .field("MinSizeAllowed", min_bytes.to_string()),
            BodyError::InvalidDigest => C::InvalidDigest.with(message),
            BodyError::BadDigest { algorithm: _ } => C::BadDigest.with(message),
            BodyError::ContentSha256Mismatch => C::XAmzContentSHA256Mismatch.with(message),
            BodyError::SignatureDoesNotMatch => C::SignatureDoesNotMatch.with(message),
            BodyError::InvalidRequest(_) => C::InvalidRequest.with(message),
            BodyError::MalformedTrailer => C::MalformedTrailerError.with(message),
            BodyError::ChunkTooLarge { max_bytes } => C::InvalidChunkSizeError
                .with(message)
                .field("MaxSizeAllowed", max_bytes.to_string()),
            BodyError::MalformedForm(_) => C::MalformedPOSTRequest.with(message),
            BodyError::FormFieldsTooLarge => C::MaxPostPreDataLengthExceededError.with(message),
            BodyError::IncorrectNumberOfFiles => {
                C::IncorrectNumberOfFilesInPostRequest.with(message)
            }
        }
    }
}

impl From<MalformedHeader> for S3Error {
    fn from(error: MalformedHeader) -> Self {
        S3Code::InvalidArgument
            .with(error.to_string())
            .field("ArgumentName", error.header)
    }
}

fn range_answer(len_bytes: u64) -> S3Error {
    let error =
        S3Error::from(S3Code::InvalidRange).field("ActualObjectSize", len_bytes.to_string());
    match HeaderValue::from_str(&format!("bytes */{len_bytes}")) {
        Ok(value) => error.header(http::header::CONTENT_RANGE, value),
        Err(_) => error,
    }
}

/// What a refused bucket name is answered with.
pub fn bucket_name_error(error: &NameError, name: &str) -> S3Error {
    match error {
        NameError::Empty | NameError::TooLong { .. } | NameError::Malformed(_) => {
            S3Error::from(S3Code::InvalidBucketName).field("BucketName", name)
        }
    }
}

/// What a refused key is answered with.
pub fn key_error(error: &NameError) -> S3Error {
    match error {
        NameError::TooLong {
            len_bytes,
            max_bytes,
        } => S3Error::from(S3Code::KeyTooLongError)
            .field("Size", len_bytes.to_string())
            .field("MaxSizeAllowed", max_bytes.to_string()),
        NameError::Empty => S3Code::UserKeyMustBeSpecified.into(),
        NameError::Malformed(what) => S3Code::InvalidURI.with(*what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_error_status_and_a_message() {
        for code in S3Code::ALL {
            assert!((304..=507).contains(&code.status_code()), "{code}");
            assert!(!code.message().is_empty(), "{code}");
        }
    }

    #[test]
    fn an_unsatisfiable_range_says_how_long_the_object_is() {
        let error = S3Error::from(StoreError::RangeNotSatisfiable { len_bytes: 7 });
        assert_eq!(error.status(), 416);
        assert_eq!(error.headers()["content-range"], "bytes */7");
    }

    #[test]
    fn a_limit_of_the_file_system_is_the_clients_error() {
        for (limit, code) in [
            (FsLimit::NameLen, S3Code::KeyTooLongError),
            (FsLimit::FileLen, S3Code::EntityTooLarge),
            (FsLimit::Links, S3Code::InvalidRequest),
        ] {
            assert_eq!(S3Error::from(StoreError::Limit(limit)).code(), code);
        }
    }

    #[test]
    fn a_failing_disk_is_an_internal_error_that_keeps_its_cause() {
        let error = S3Error::from(StoreError::Corrupt("a secret path".to_owned()));
        assert_eq!(error.code(), S3Code::InternalError);
        assert!(std::error::Error::source(&error).is_some());
        assert!(!error.to_string().contains("secret"));
    }

    #[test]
    fn the_log_is_told_the_whole_chain_of_causes() {
        let errno = std::io::Error::from_raw_os_error(28);
        let text = errno.to_string();
        let error = S3Code::InternalError.with("x").cause(StoreError::Io {
            action: "sync a file",
            source: errno,
        });
        let causes = error.causes().unwrap();
        assert!(causes.ends_with(&text), "{causes}");
        assert!(causes.len() > text.len(), "{causes}");
        assert_eq!(causes.matches(&text).count(), 1, "{causes}");
        assert_eq!(S3Error::from(S3Code::NoSuchKey).causes(), None);
    }

    #[test]
    fn a_result_with_an_error_stays_one_word() {
        assert_eq!(size_of::<S3Error>(), size_of::<usize>());
    }
}
