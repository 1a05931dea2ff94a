//! What every handler has at hand: the store, the users, the settings ([`Ctx`]), and the request
//! with its caller ([`Call`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use fsstore::by_bucket::ByBucket;
use fsstore::clock::Clock;
use fsstore::error::StoreError;
use fsstore::name::BucketName;
use fsstore::object::{Attributes, FileOwner, Timestamp};
use fsstore::volume::{BucketInfo, MAX_PUT_LEN_BYTES};
use http::HeaderMap;
use http::request::Parts;

use super::client_mtime::client_mtime;
use super::query::Query;
use super::respond::{BoxError, RequestId};
use crate::auth::grant::{Access, Grant, Read, Resource, authorize};
use crate::auth::{AuthConfig, Identity, Payload};
use crate::body;
use crate::errors::{S3Code, S3Error};
use crate::users::{Directory, User, UserStore};

/// A request's body as a server hands it in.
pub trait RequestBody:
    http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static
{
}

impl<T> RequestBody for T where
    T: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static
{
}

/// Limits and settings of the S3 door. The region and the domains of virtual hosts stand in [`AuthConfig`],
/// because signatures depend on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Config {
    /// Longest body of one PUT or one part, in bytes.
    pub max_put_len_bytes: u64,
    /// Longest XML document taken, in bytes; AWS takes 2 MiB at most, in DeleteObjects.
    pub max_document_len_bytes: u64,
    /// Whether a file gets the modification time that a client's metadata carry.
    pub apply_mtime: ByBucket<bool>,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            max_put_len_bytes: MAX_PUT_LEN_BYTES,
            max_document_len_bytes: 2 << 20,
            apply_mtime: false.into(),
        }
    }
}

/// What a server knows of the connection a request came by.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnInfo {
    /// Who is at the other end.
    pub peer: Option<SocketAddr>,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// What all requests share.
pub struct Ctx<V> {
    /// The store.
    pub volume: Arc<V>,
    /// Who may come in.
    pub users: Arc<UserStore>,
    /// How requests are verified; the region; the domains of virtual hosts.
    pub auth: AuthConfig,
    /// Limits.
    pub config: S3Config,
    /// The time of day.
    pub clock: Clock,
}

impl<V> Ctx<V> {
    /// The time that a file is to have by a client's metadata, where they are to say it; none
    /// means now.
    pub fn modified(
        &self,
        bucket: &BucketName,
        user: &BTreeMap<String, String>,
    ) -> Option<Timestamp> {
        let applies = self.config.apply_mtime.of(bucket);
        applies.then(|| client_mtime(user)).flatten()
    }
}

/// A request with its caller. The body travels apart.
pub struct Call {
    /// Method, URI, headers.
    pub parts: Parts,
    /// The query, decoded.
    pub query: Query,
    /// The request's number.
    pub id: RequestId,
    /// When it came.
    pub now: Timestamp,
    /// Who sends it; none is anonymous.
    pub caller: Option<Identity>,
    /// What the signature says of the body.
    pub payload: Payload,
    /// The users as they were when the request came.
    pub directory: Arc<Directory>,
    /// How the request came.
    pub conn: ConnInfo,
}

impl Call {
    /// The request's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// A header's value; one that is not visible ASCII counts as absent.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    /// Proof that the caller may do `A`. Errors: AccessDenied.
    pub fn grant<A: Access>(&self, resource: Resource<'_>) -> Result<Grant<A>, S3Error> {
        Ok(authorize(self.caller.as_ref(), resource)?)
    }

    /// Proof that the caller may do `A` to an object that stands. Errors: AccessDenied.
    pub fn grant_object<A: Access>(
        &self,
        bucket: &BucketInfo,
        attrs: &Attributes,
    ) -> Result<Grant<A>, S3Error> {
        self.grant(Resource::Object(bucket, attrs))
    }

    /// The answer to an error of looking at an object: that a key does not exist is told only to
    /// those who may list the bucket. Source: S3 API, GetObject, "Permissions".
    pub fn object_error(&self, bucket: &BucketInfo, error: StoreError) -> S3Error {
        match error {
            StoreError::NoSuchKey if self.grant::<Read>(Resource::Bucket(bucket)).is_err() => {
                S3Code::AccessDenied.into()
            }
            other => other.into(),
        }
    }

    /// To whom a file belongs that the caller makes; of an anonymous one the server's own user.
    pub fn file_owner(&self) -> FileOwner {
        self.caller
            .as_ref()
            .map(|identity| identity.user.file_owner())
            .unwrap_or_default()
    }

    /// Reads a small body whole, with every digest verified. Errors: MissingRequestBodyError
    /// where it is empty, MaxMessageLengthExceeded over `max_bytes`, and those of bodies.
    pub async fn read_document<B: RequestBody>(
        &self,
        body: B,
        max_bytes: u64,
    ) -> Result<Bytes, S3Error> {
        let decoded = body::decode_optional(body, &self.payload, self.headers())?;
        let too_large = || {
            let error = S3Error::from(S3Code::MaxMessageLengthExceeded);
            error.field("MaxMessageLengthBytes", max_bytes.to_string())
        };
        if decoded.len_bytes().is_some_and(|len| len > max_bytes) {
            return Err(too_large());
        }
        let document = decoded.read_to_limit(max_bytes).await?;
        if document.is_empty() {
            return Err(S3Code::MissingRequestBodyError.into());
        }
        Ok(document)
    }

    /// Who owns what has this owner id: the user, where one is known. What has no owner is the
    /// root user's.
    pub fn owner(&self, id: Option<&str>) -> Owner<'_> {
        match id {
            Some(id) => match self.directory.user_by_id(id) {
                Some(user) => Owner::of(user),
                None => Owner {
                    id: id.to_owned().into(),
                    name: "",
                },
            },
            None => match self.directory.root() {
                Some(user) => Owner::of(user),
                None => Owner {
                    id: "".into(),
                    name: "",
                },
            },
        }
    }
}

/// An owner as documents name one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner<'a> {
    /// The canonical id.
    pub id: std::borrow::Cow<'a, str>,
    /// The display name; empty for a user who was removed.
    pub name: &'a str,
}

impl<'a> Owner<'a> {
    /// A user.
    pub fn of(user: &'a User) -> Self {
        Self {
            id: user.id.as_str().into(),
            name: &user.name,
        }
    }
}
