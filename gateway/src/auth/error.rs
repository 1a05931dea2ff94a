//! Why a request was refused before anything was done for it.

use std::borrow::Cow;

use fsstore::object::Timestamp;

/// A refusal. The variants are named by S3's error codes where one exists; the message is what a
/// client is told. Source: S3 API, "Error responses".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// AccessDenied, 403.
    #[error("{0}")]
    AccessDenied(&'static str),
    /// AccessDenied, 403: `x-amz-*` headers that the signature does not cover.
    #[error("There were headers present in the request which were not signed")]
    HeadersNotSigned {
        /// The names, separated by `, `.
        names: String,
    },
    /// AccessDenied, 403: a presigned request after its end.
    #[error("Request has expired")]
    RequestExpired {
        /// When it ended.
        expires: Timestamp,
        /// The server's time.
        now: Timestamp,
    },
    /// InvalidAccessKeyId, 403.
    #[error("The AWS Access Key Id you provided does not exist in our records.")]
    InvalidAccessKeyId {
        /// The id as given.
        access_key: String,
    },
    /// SignatureDoesNotMatch, 403.
    #[error(
        "The request signature we calculated does not match the signature you provided. \
         Check your key and signing method."
    )]
    SignatureDoesNotMatch,
    /// RequestTimeTooSkewed, 403.
    #[error("The difference between the request time and the current time is too large.")]
    RequestTimeTooSkewed {
        /// The time the request names.
        request: Timestamp,
        /// The server's time.
        now: Timestamp,
        /// The largest difference taken, in milliseconds.
        max_skew_ms: u64,
    },
    /// AuthorizationHeaderMalformed, 400.
    #[error("The authorization header is malformed; {message}")]
    AuthorizationHeaderMalformed {
        /// What is wrong.
        message: Cow<'static, str>,
        /// The right region, where the request was signed for another.
        region: Option<String>,
    },
    /// AuthorizationQueryParametersError, 400.
    #[error("{message}")]
    AuthorizationQueryParametersError {
        /// What is wrong.
        message: Cow<'static, str>,
        /// The right region, where the request was signed for another.
        region: Option<String>,
    },
    /// InvalidToken, 400.
    #[error("The provided token is malformed or otherwise invalid.")]
    InvalidToken,
    /// ExpiredToken, 400.
    #[error("The provided token has expired.")]
    ExpiredToken,
    /// InvalidRequest, 400.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// InvalidArgument, 400.
    #[error("{message}")]
    InvalidArgument {
        /// What is wrong.
        message: &'static str,
        /// The argument's name.
        name: &'static str,
        /// Its value as given.
        value: String,
    },
    /// AccessDenied, 403: a form that its policy does not allow.
    #[error("Invalid according to Policy: {0}")]
    PolicyNotMet(String),
    /// InvalidPolicyDocument, 400: a form's policy that is none.
    #[error("{0}")]
    InvalidPolicyDocument(&'static str),
}

impl AuthError {
    /// The plain refusal.
    pub const DENIED: Self = Self::AccessDenied("Access Denied");
}
