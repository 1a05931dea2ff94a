//! Who sent a request, proved by its signature, and what that user may do.
//!
//! [`authenticate`] verifies what was received and never polls a body. What a caller may do is
//! decided by [`grant::authorize`], whose answer is a value that handlers take as an argument.

pub mod acl;
pub mod error;
pub mod grant;
pub mod payload;
pub(crate) mod signing_key;

use std::sync::Arc;

use fsstore::object::Timestamp;
use http::request::Parts;

use crate::users::{Directory, User};

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

/// Verifies a request's signature. Never polls the body. Errors: see [`AuthError`].
pub fn authenticate(
    parts: &Parts,
    directory: &Directory,
    now: Timestamp,
    config: &AuthConfig,
) -> Result<Authenticated, AuthError> {
    let _ = (directory, now, config);
    if parts.headers.contains_key(http::header::AUTHORIZATION) {
        return Err(AuthError::AccessDenied(
            "signatures are not verified by this build",
        ));
    }
    Ok(Authenticated {
        identity: None,
        payload: Payload::Unsigned,
    })
}
