//! Requests as the tests of objects write them: built up header by header, alice's unless said.

use bytes::Bytes;
use fsstore::testing::MemVolume;

use crate::s3::S3;
use crate::s3::ctx::S3Config;
use crate::s3::testing::{self, Answer, Who};
use crate::s3::xml::Element;

/// A door with a bucket of alice's, `bucket`.
pub(super) struct Door(testing::Door);

/// A request to be sent.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    method: &'static str,
    target: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    who: Who,
}

impl Ask {
    fn new(method: &'static str, target: &str, body: impl Into<Bytes>) -> Self {
        Self {
            method,
            target: target.to_owned(),
            headers: Vec::new(),
            body: body.into(),
            who: Who::Alice,
        }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target, "")
    }

    pub fn head(target: &str) -> Self {
        Self::new("HEAD", target, "")
    }

    pub fn put(target: &str, body: impl Into<Bytes>) -> Self {
        Self::new("PUT", target, body)
    }

    pub fn post(target: &str, body: impl Into<Bytes>) -> Self {
        Self::new("POST", target, body)
    }

    pub fn delete(target: &str) -> Self {
        Self::new("DELETE", target, "")
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn by(mut self, who: Who) -> Self {
        self.who = who;
        self
    }
}

/// An answer, with what the tests ask of it.
#[derive(Debug)]
pub(super) struct Reply(Answer);

impl std::ops::Deref for Reply {
    type Target = Answer;

    fn deref(&self) -> &Answer {
        &self.0
    }
}

impl Reply {
    /// The value of a header; empty where it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.0.header(name).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn xml(&self, root: &str) -> Element {
        self.0.xml(root)
    }

    /// Fails the test unless the answer is this error.
    #[track_caller]
    pub fn is_error(&self, status: u16, code: &str) {
        assert_eq!(self.outcome(), (status, code.to_owned()), "{}", self.text());
    }

    /// Fails the test unless the answer has this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }
}

impl Door {
    pub async fn open() -> Self {
        Self::open_with(S3Config::default()).await
    }

    /// One with these settings.
    pub async fn open_with(config: S3Config) -> Self {
        let door = Self(testing::Door::open_with(config));
        door.send(Ask::put("/bucket", "")).await.is(200);
        door
    }

    /// The door itself, for requests whose body is no plain one.
    pub fn s3(&self) -> &S3<MemVolume> {
        self.0.s3()
    }

    pub async fn send(&self, ask: Ask) -> Reply {
        let headers = ask.headers.iter();
        let headers: Vec<_> = headers.map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let sent = self
            .0
            .send(ask.who, ask.method, &ask.target, &headers, ask.body);
        Reply(sent.await)
    }
}
