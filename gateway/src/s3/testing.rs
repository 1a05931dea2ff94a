//! An S3 door over a model volume, driven in-process by requests that aws-sigv4 signs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use fsstore::clock::Clock;
use fsstore::name::{BucketName, ObjectKey};
use fsstore::object::{Attributes, Locator, Timestamp};
use fsstore::testing::MemVolume;
use fsstore::volume::{CommitOptions, StageOptions, Staged, Volume};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};

use super::S3;
use super::ctx::{ConnInfo, Ctx, S3Config};
use super::xml::{self, Element};
use crate::auth::AuthConfig;
use crate::users::{KeyConfig, Secret, UserConfig, UserStore, stable_id};

const NOW_SECS: u64 = 1_700_000_000;
const HOST: &str = "s3.test:9000";

/// Who sends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// An ordinary user.
    Alice,
    /// Another.
    Bob,
    /// A member of `.admin`.
    Admin,
    /// Nobody.
    Anonymous,
}

impl Who {
    const USERS: [Self; 3] = [Self::Alice, Self::Bob, Self::Admin];

    pub fn name(self) -> &'static str {
        match self {
            Self::Alice => "alice",
            Self::Bob => "bob",
            Self::Admin => "admin",
            Self::Anonymous => "",
        }
    }

    /// The canonical id.
    pub fn id(self) -> String {
        stable_id(self.name())
    }

    fn access_key(self) -> String {
        format!("AKIA{}", self.name().to_ascii_uppercase())
    }

    fn secret(self) -> String {
        format!("secret-of-{}", self.name())
    }

    fn declared(self) -> UserConfig {
        UserConfig {
            name: self.name().to_owned(),
            account: "main".to_owned(),
            keys: vec![KeyConfig {
                access_key: self.access_key(),
                secret_key: Secret::new(self.secret()),
            }],
            groups: match self {
                Self::Admin => vec![".admin".to_owned()],
                Self::Alice | Self::Bob | Self::Anonymous => Vec::new(),
            },
            uid: None,
            gid: None,
            gids: Vec::new(),
            umask: None,
        }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The document, whose root has this name.
    pub fn xml(&self, root: &str) -> Element {
        xml::parse(&self.body, root).unwrap_or_else(|_| panic!("no {root}: {self:?}"))
    }

    /// The status, and the code of an error.
    pub fn outcome(&self) -> (u16, String) {
        let code = match xml::parse(&self.body, "Error") {
            Ok(error) => error.required("Code").unwrap().to_owned(),
            Err(_) => String::new(),
        };
        (self.status.as_u16(), code)
    }
}

/// A door over an empty model volume, with three users.
pub(crate) struct Door {
    s3: S3<MemVolume>,
    _dir: tempfile::TempDir,
}

impl Door {
    pub fn open() -> Self {
        Self::open_in("us-east-1")
    }

    pub fn open_in(region: &str) -> Self {
        Self::open_as(region, S3Config::default())
    }

    /// A door with these settings.
    pub fn open_with(config: S3Config) -> Self {
        Self::open_as("us-east-1", config)
    }

    fn open_as(region: &str, config: S3Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let declared = Who::USERS.into_iter().map(Who::declared).collect();
        let (users, _) = UserStore::open(dir.path(), declared, None).unwrap();
        let ctx = Ctx {
            volume: Arc::new(MemVolume::new()),
            users: Arc::new(users),
            auth: AuthConfig {
                region: region.to_owned(),
                domains: vec!["s3.test".to_owned()],
                ..AuthConfig::default()
            },
            config,
            clock: Clock::standing(Timestamp::from_secs(NOW_SECS as i64)),
        };
        Self {
            s3: S3::new(ctx),
            _dir: dir,
        }
    }

    /// The door itself, for requests whose body is no plain one.
    pub fn s3(&self) -> &S3<MemVolume> {
        &self.s3
    }

    pub fn door(&self) -> &S3<MemVolume> {
        &self.s3
    }

    pub fn volume(&self) -> &MemVolume {
        &self.s3.ctx().volume
    }

    /// Puts an object into the store behind the door.
    pub async fn put(&self, bucket: &str, key: &str, owner: Who, bytes: &'static [u8]) {
        let bucket = BucketName::parse(bucket).unwrap();
        let at = Locator::new(bucket, ObjectKey::parse(key).unwrap());
        let mut staged = self
            .volume()
            .stage(&at, StageOptions::default())
            .await
            .unwrap();
        staged.write(Bytes::from_static(bytes)).await.unwrap();
        let options = CommitOptions {
            attrs: Attributes {
                owner: Some(owner.id()),
                ..Attributes::default()
            },
            ..CommitOptions::default()
        };
        staged.commit(options).await.unwrap();
    }

    /// Sends a request with a signed body.
    pub async fn send(
        &self,
        who: Who,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let body = body.into();
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("content-length", body.len());
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", HOST);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Full::new(body.clone())).unwrap();
        if who != Who::Anonymous {
            sign_as(who, &mut request, &body);
        }
        let response = self.s3.handle(request, ConnInfo::default()).await;
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    /// Sends a request without a body and further headers.
    pub async fn ask(&self, who: Who, method: &str, uri: &str) -> Answer {
        self.send(who, method, uri, &[], Bytes::new()).await
    }

    /// Sends a request that must end with this status.
    pub async fn expect(&self, who: Who, method: &str, uri: &str, status: u16) -> Answer {
        let answer = self.ask(who, method, uri).await;
        assert_eq!(answer.status, status, "{method} {uri}: {answer:?}");
        answer
    }
}

fn sign_as(who: Who, request: &mut Request<Full<Bytes>>, body: &[u8]) {
    let credentials = Credentials::new(who.access_key(), who.secret(), None, None, "test");
    let identity = credentials.into();
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("s3")
        .time(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECS))
        .settings(settings)
        .build()
        .unwrap()
        .into();
    let host = request.headers()["host"].to_str().unwrap();
    let uri = format!("http://{host}{}", request.uri());
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    let method = request.method().as_str();
    let signable = SignableRequest::new(method, &uri, headers, SignableBody::Bytes(body)).unwrap();
    let (instructions, _) = sign(signable, &params).unwrap().into_parts();
    instructions.apply_to_request_http1x(request);
}
