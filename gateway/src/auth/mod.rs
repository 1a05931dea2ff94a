//! Who sent a request, proved by its signature, and what that user may do.
//!
//! [`authenticate`] verifies what was received and never polls a body. What a caller may do is
//! decided by [`grant::authorize`], whose answer is a value that handlers take as an argument.

pub mod acl;
mod date;
pub mod error;
pub mod grant;
pub mod payload;
pub mod post_policy;
pub(crate) mod signing_key;
mod sigv2;
mod sigv4;
pub mod uri;

use std::sync::Arc;

use fsstore::object::Timestamp;
use http::request::Parts;
use subtle::ConstantTimeEq;

use crate::users::{Credential, Directory, User};

pub use error::AuthError;
pub use payload::{ChunkSeal, Payload};

/// How requests are verified.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// The region of this server, as GetBucketLocation tells it.
    pub region: String,
    /// Takes signatures made for any region, not only [`Self::region`].
    pub any_region: bool,
    /// Host names under which `BUCKET.DOMAIN` names a bucket; lower case, no port.
    pub domains: Vec<String>,
    /// How far a request's time may be from the server's, in seconds.
    pub max_skew_secs: u32,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            any_region: true,
            domains: Vec::new(),
            max_skew_secs: 900,
        }
    }
}

/// A caller who proved to be a user.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The user.
    pub user: Arc<User>,
    /// The access key the request was signed with.
    pub access_key: String,
}

/// What [`authenticate`] found out.
#[derive(Debug, Clone)]
pub struct Authenticated {
    /// The caller; none is anonymous.
    pub identity: Option<Identity>,
    /// What the request says of its body, for [`crate::body::decode`].
    pub payload: Payload,
}

impl Identity {
    fn of(credential: &Credential) -> Self {
        Self {
            user: Arc::clone(&credential.user),
            access_key: credential.key.id.clone(),
        }
    }
}

impl Authenticated {
    fn user(credential: &Credential, payload: Payload) -> Self {
        Self {
            identity: Some(Identity::of(credential)),
            payload,
        }
    }
}

/// Verifies a request's signature. Never polls the body. A request with no signature at all is
/// anonymous; what may be done so is [`grant::authorize`]'s to decide. Errors: see [`AuthError`].
pub fn authenticate(
    parts: &Parts,
    directory: &Directory,
    now: Timestamp,
    config: &AuthConfig,
) -> Result<Authenticated, AuthError> {
    let query = parts.uri.query().unwrap_or("");
    let is_v4_query = uri::has_parameter(query, "X-Amz-Algorithm")
        || uri::has_parameter(query, "X-Amz-Signature");
    let is_v2_query = !is_v4_query
        && uri::has_parameter(query, "Signature")
        && uri::has_parameter(query, "AWSAccessKeyId");
    let Some(header) = parts.headers.get(http::header::AUTHORIZATION) else {
        if is_v4_query {
            return sigv4::verify_query(parts, query, directory, now, config);
        }
        if is_v2_query {
            return sigv2::verify_query(parts, query, directory, now, config);
        }
        return Ok(Authenticated {
            identity: None,
            payload: Payload::of_unsealed(&parts.headers)?,
        });
    };
    let value = header.to_str().unwrap_or("").trim();
    if value.is_empty() {
        return Err(AuthError::DENIED);
    }
    let is_repeated = parts
        .headers
        .get_all(http::header::AUTHORIZATION)
        .iter()
        .count()
        > 1;
    if is_v4_query || is_v2_query || is_repeated {
        return Err(AuthError::InvalidArgument {
            message: "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, \
                      Signature query string parameter or the Authorization header should be \
                      specified",
            name: "Authorization",
            value: String::new(),
        });
    }
    match value.split(' ').next() {
        Some(sigv4::ALGORITHM) => sigv4::verify_header(parts, value, directory, now, config),
        Some("AWS") => sigv2::verify_header(parts, value, directory, now, config),
        _ => Err(AuthError::InvalidArgument {
            message: "Unsupported Authorization Type",
            name: "Authorization",
            value: String::new(),
        }),
    }
}

/// A temporary key needs its session token, unexpired; any other key must come without one.
/// Errors: InvalidAccessKeyId, InvalidToken, ExpiredToken.
fn check_token(
    credential: &Credential,
    token: Option<&[u8]>,
    now: Timestamp,
) -> Result<(), AuthError> {
    let key = &credential.key;
    match (&key.session_token, token) {
        (None, None) => {}
        (Some(_), None) => {
            return Err(AuthError::InvalidAccessKeyId {
                access_key: key.id.clone(),
            });
        }
        (None, Some(_)) => return Err(AuthError::InvalidToken),
        (Some(kept), Some(given)) => {
            if !bool::from(kept.reveal().as_bytes().ct_eq(given)) {
                return Err(AuthError::InvalidToken);
            }
        }
    }
    if key.expires.is_some_and(|end| now >= end) {
        return Err(AuthError::ExpiredToken);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
