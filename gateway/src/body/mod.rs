//! A request's body as the object's bytes, with what must be verified of it.
//!
//! [`decode`] reads headers only; the body is first polled by [`DecodedBody::next_chunk`], so
//! that `100 Continue` goes out no earlier than a handler wants bytes. Bytes are passed on while
//! their signatures are still being computed, so memory stays flat whatever a chunk's size: a
//! caller publishes nothing before [`DecodedBody::finish`] has answered, and passes what it
//! answers to the store's commit.

pub mod chunked;
mod digest;
pub mod error;
mod expected;
pub mod form;

use std::future::poll_fn;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use fsstore::object::{DigestAlgorithm, DigestSet};
use fsstore::volume::MAX_PUT_LEN_BYTES;
use http::HeaderMap;

use crate::auth::Payload;
use crate::server::Stalled;
use chunked::{ChunkedDecoder, Step};
use expected::Stated;

pub use error::BodyError;
pub use expected::Expected;

/// What bodies fail with.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How the bytes are framed, beneath HTTP's own framing.
enum Framing {
    /// As they come.
    Plain,
    /// aws-chunked.
    Chunked(Box<ChunkedDecoder>),
}

/// A body being decoded.
pub struct DecodedBody<B> {
    body: B,
    framing: Framing,
    stated: Stated,
    /// Announced length of the decoded bytes.
    len_bytes: Option<u64>,
    seen_bytes: u64,
    /// What came of the body and is not decoded yet.
    input: Bytes,
    is_ended: bool,
}

/// Reads what the headers say of a body, without polling it. Errors: MissingContentLength,
/// EntityTooLarge, InvalidDigest, InvalidRequest.
pub fn decode<B>(
    body: B,
    payload: &Payload,
    headers: &HeaderMap,
) -> Result<DecodedBody<B>, BodyError>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    decode_as(body, payload, headers, true)
}

/// As [`decode`], for requests whose body may be left out: one without any length is empty.
pub fn decode_optional<B>(
    body: B,
    payload: &Payload,
    headers: &HeaderMap,
) -> Result<DecodedBody<B>, BodyError>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    decode_as(body, payload, headers, false)
}

fn decode_as<B>(
    body: B,
    payload: &Payload,
    headers: &HeaderMap,
    is_length_required: bool,
) -> Result<DecodedBody<B>, BodyError>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let framing = match payload {
        Payload::Unsigned | Payload::Signed(_) => Framing::Plain,
        Payload::UnsignedChunks => Framing::Chunked(Box::new(ChunkedDecoder::unsigned())),
        Payload::SignedChunks { seal, trailer } => {
            Framing::Chunked(Box::new(ChunkedDecoder::signed(seal.clone(), *trailer)))
        }
    };
    let len_bytes = match &framing {
        Framing::Chunked(_) => Some(
            number(headers, "x-amz-decoded-content-length")?
                .ok_or(BodyError::MissingContentLength)?,
        ),
        Framing::Plain => match number(headers, "content-length")? {
            Some(len) => Some(len),
            // HTTP's own chunks, or an HTTP/2 stream that has more than headers.
            None if headers.contains_key("transfer-encoding") || !body.is_end_stream() => None,
            None if is_length_required => return Err(BodyError::MissingContentLength),
            None => Some(0),
        },
    };
    if let Some(len_bytes) = len_bytes {
        check_put_len(len_bytes)?;
    }
    let may_trail = match payload {
        Payload::UnsignedChunks => true,
        Payload::SignedChunks { trailer, .. } => *trailer,
        Payload::Unsigned | Payload::Signed(_) => false,
    };
    let payload_sha256 = match payload {
        Payload::Signed(hash) => Some(*hash),
        _ => None,
    };
    Ok(DecodedBody {
        body,
        framing,
        stated: Stated::read(headers, payload_sha256, may_trail)?,
        len_bytes,
        seen_bytes: 0,
        input: Bytes::new(),
        is_ended: false,
    })
}

fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, BodyError> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let digits = value.to_str().ok().filter(|text| {
        !text.is_empty() && text.len() <= 19 && text.bytes().all(|b| b.is_ascii_digit())
    });
    match digits.and_then(|text| text.parse().ok()) {
        Some(number) => Ok(Some(number)),
        None => Err(BodyError::InvalidRequest("A length is no decimal number")),
    }
}

fn check_put_len(len_bytes: u64) -> Result<(), BodyError> {
    if len_bytes > MAX_PUT_LEN_BYTES {
        return Err(BodyError::EntityTooLarge {
            len_bytes,
            max_bytes: MAX_PUT_LEN_BYTES,
        });
    }
    Ok(())
}

impl<B> DecodedBody<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    /// Length of the decoded bytes, for `StageOptions::len_bytes`; none where the client sends
    /// HTTP chunks and does not say it.
    pub fn len_bytes(&self) -> Option<u64> {
        self.len_bytes
    }

    /// Digests that the store must compute, for `StageOptions::digests`.
    pub fn digests(&self) -> DigestSet {
        self.stated.digests()
    }

    /// The checksum the client chose; a trailer's value is known only at the end.
    pub fn checksum(&self) -> Option<DigestAlgorithm> {
        self.stated.checksum
    }

    /// The next bytes of the object, never empty; none at the end. After an error only dropping
    /// is left. Dropping the future loses nothing. Errors: IncompleteBody, Transport,
    /// SignatureDoesNotMatch, InvalidRequest, MalformedTrailer, EntityTooLarge.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        while !self.is_ended {
            let step = match &mut self.framing {
                Framing::Plain if self.input.is_empty() => Step::NeedMore,
                Framing::Plain => Step::Data(std::mem::take(&mut self.input)),
                Framing::Chunked(decoder) => decoder.step(&mut self.input)?,
            };
            match step {
                Step::Data(bytes) => {
                    self.count(bytes.len() as u64)?;
                    return Ok(Some(bytes));
                }
                Step::NeedMore => match poll_data(&mut self.body).await? {
                    Some(bytes) => self.input = bytes,
                    None => self.end()?,
                },
            }
        }
        Ok(None)
    }

    fn count(&mut self, len: u64) -> Result<(), BodyError> {
        self.seen_bytes += len;
        match self.len_bytes {
            Some(announced) if self.seen_bytes > announced => Err(BodyError::IncompleteBody),
            Some(_) => Ok(()),
            None => check_put_len(self.seen_bytes),
        }
    }

    fn end(&mut self) -> Result<(), BodyError> {
        if let Framing::Chunked(decoder) = &mut self.framing {
            self.stated.take_trailers(decoder.finish()?)?;
        }
        if self.len_bytes.is_some_and(|len| len != self.seen_bytes) {
            return Err(BodyError::IncompleteBody);
        }
        self.is_ended = true;
        Ok(())
    }

    /// What the bytes must have, once [`Self::next_chunk`] answered none. Errors:
    /// IncompleteBody where it did not.
    pub fn finish(self) -> Result<Expected, BodyError> {
        if !self.is_ended {
            return Err(BodyError::IncompleteBody);
        }
        Ok(self.stated.into_expected())
    }

    /// All bytes of a small body, with every digest verified. Errors: as above, BadDigest,
    /// ContentSha256Mismatch, and EntityTooLarge over `max_bytes`.
    pub async fn read_to_limit(mut self, max_bytes: u64) -> Result<Bytes, BodyError> {
        let check = |len_bytes| {
            if len_bytes > max_bytes {
                return Err(BodyError::EntityTooLarge {
                    len_bytes,
                    max_bytes,
                });
            }
            Ok(())
        };
        check(self.len_bytes.unwrap_or(0))?;
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.next_chunk().await? {
            check(self.seen_bytes)?;
            whole.extend_from_slice(&chunk);
        }
        let whole = whole.freeze();
        self.finish()?.verify(&whole)?;
        Ok(whole)
    }
}

/// Bytes of HTTP's next data frame; trailing headers of HTTP's own are passed over.
async fn poll_data<B>(body: &mut B) -> Result<Option<Bytes>, BodyError>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    loop {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return Ok(None),
            Some(Err(error)) => return Err(failed(error.into())),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data()
                    && !bytes.is_empty()
                {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

fn failed(error: BoxError) -> BodyError {
    if error.is::<Stalled>() {
        BodyError::Timeout
    } else {
        BodyError::Transport(error)
    }
}

#[cfg(test)]
mod tests;
