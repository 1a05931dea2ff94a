//! aws-chunked: the framing that carries signatures or trailing headers with a body.
//!
//! ```text
//! chunk    = size-hex [";chunk-signature=" 64 hex] CRLF bytes CRLF
//! last     = "0" [";chunk-signature=" 64 hex] CRLF
//! body     = *chunk last *(name ":" value CRLF) CRLF
//! ```
//! The decoder does no I/O and gives the same bytes however its input is split. Source: S3 API,
//! "Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks"
//! and "Including Trailing Headers".

use bytes::Bytes;
use fsstore::name::hex;
use fsstore::volume::MAX_PUT_LEN_BYTES;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::BodyError;
use crate::auth::ChunkSeal;

/// Longest line of a chunk's head or of a trailing header, in bytes.
const MAX_LINE_LEN_BYTES: usize = 1 << 10;
/// Most trailing headers, the signature included.
const MAX_TRAILERS: usize = 8;
/// SHA-256 of nothing, as strings to sign name it.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature";

/// What one step of the decoder gives.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes of the object, never empty.
    Data(Bytes),
    /// Nothing is left of the input.
    NeedMore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the line before a chunk.
    Head,
    /// In a chunk's bytes.
    Data { left_bytes: u64 },
    /// In the line end after a chunk's bytes.
    DataEnd,
    /// After the last chunk's head: trailing headers up to an empty line.
    Trailers,
    /// After the empty line.
    End,
}

/// Computes and compares the chain of chunk signatures.
struct Verifier {
    seal: ChunkSeal,
    /// The signature before; the request's at first.
    before: String,
    /// The signature that the current chunk claims.
    claimed: String,
    hash: Sha256,
}

impl Verifier {
    /// Checks the chunk whose bytes were hashed.
    fn check_chunk(&mut self) -> Result<(), BodyError> {
        let hash = hex(&self.hash.finalize_reset());
        let claimed = std::mem::take(&mut self.claimed);
        self.check("AWS4-HMAC-SHA256-PAYLOAD", &[EMPTY_SHA256, &hash], claimed)
    }

    /// Checks the trailing headers; `text` is `name:value\n` of each.
    fn check_trailers(&mut self, text: &str, claimed: String) -> Result<(), BodyError> {
        let hash = hex(&Sha256::digest(text));
        self.check("AWS4-HMAC-SHA256-TRAILER", &[&hash], claimed)
    }

    fn check(&mut self, kind: &str, hashes: &[&str], claimed: String) -> Result<(), BodyError> {
        let ChunkSeal {
            key,
            timestamp,
            scope,
            seed: _,
        } = &self.seal;
        let before = &self.before;
        let hashes = hashes.join("\n");
        let text = format!("{kind}\n{timestamp}\n{scope}\n{before}\n{hashes}");
        let computed = key.sign(text.as_bytes());
        if !bool::from(computed.as_bytes().ct_eq(claimed.as_bytes())) {
            return Err(BodyError::SignatureDoesNotMatch);
        }
        self.before = computed;
        Ok(())
    }
}

/// Takes aws-chunked bytes, gives the object's. After an error only dropping is left.
pub struct ChunkedDecoder {
    state: State,
    line: Vec<u8>,
    verifier: Option<Verifier>,
    may_trail: bool,
    trailers: Vec<(String, String)>,
    trailer_signature: Option<String>,
}

impl ChunkedDecoder {
    /// Chunks without signatures, trailing headers without one.
    pub fn unsigned() -> Self {
        Self::new(None, true)
    }

    /// Chunks signed in a chain; trailing headers, if any may come, signed too.
    pub fn signed(seal: ChunkSeal, may_trail: bool) -> Self {
        let before = seal.seed.clone();
        let verifier = Verifier {
            seal,
            before,
            claimed: String::new(),
            hash: Sha256::new(),
        };
        Self::new(Some(verifier), may_trail)
    }

    fn new(verifier: Option<Verifier>, may_trail: bool) -> Self {
        Self {
            state: State::Head,
            line: Vec::new(),
            verifier,
            may_trail,
            trailers: Vec::new(),
            trailer_signature: None,
        }
    }

    /// Takes input until there are bytes to give, or none is left. Errors: InvalidRequest,
    /// MalformedTrailer, ChunkTooLarge, SignatureDoesNotMatch.
    pub fn step(&mut self, input: &mut Bytes) -> Result<Step, BodyError> {
        while !input.is_empty() {
            match self.state {
                State::Data { left_bytes } => return self.take_data(input, left_bytes),
                State::End => {
                    return Err(BodyError::InvalidRequest(
                        "There are bytes after the end of the aws-chunked body",
                    ));
                }
                State::Head | State::DataEnd | State::Trailers => {
                    if self.take_line(input)? {
                        let line = std::mem::take(&mut self.line);
                        self.end_line(&line)?;
                    }
                }
            }
        }
        Ok(Step::NeedMore)
    }

    /// Ends the decoding; answers the trailing headers but their signature, names in lower case.
    /// Errors: IncompleteBody, SignatureDoesNotMatch, MalformedTrailer.
    pub fn finish(&mut self) -> Result<Vec<(String, String)>, BodyError> {
        match self.state {
            State::End => Ok(std::mem::take(&mut self.trailers)),
            // Some clients leave out the last line end where nothing trails.
            State::Trailers if self.line.is_empty() && self.trailers.is_empty() => {
                self.end_trailers()?;
                Ok(Vec::new())
            }
            _ => Err(BodyError::IncompleteBody),
        }
    }

    fn take_data(&mut self, input: &mut Bytes, left_bytes: u64) -> Result<Step, BodyError> {
        let available = input.len() as u64;
        let data = if left_bytes < available {
            // Less than the input's length, so it fits.
            input.split_to(left_bytes as usize)
        } else {
            std::mem::take(input)
        };
        let left_bytes = left_bytes - data.len() as u64;
        if let Some(verifier) = &mut self.verifier {
            verifier.hash.update(&data);
            if left_bytes == 0 {
                verifier.check_chunk()?;
            }
        }
        self.state = if left_bytes == 0 {
            State::DataEnd
        } else {
            State::Data { left_bytes }
        };
        Ok(Step::Data(data))
    }

    /// Moves input to `line` up to a line end; true where the line is whole, its end removed.
    fn take_line(&mut self, input: &mut Bytes) -> Result<bool, BodyError> {
        let end = input.iter().position(|b| *b == b'\n');
        let taken = input.split_to(end.map_or(input.len(), |at| at + 1));
        if self.line.len() + taken.len() > MAX_LINE_LEN_BYTES {
            return Err(malformed());
        }
        self.line.extend_from_slice(&taken);
        if end.is_none() {
            return Ok(false);
        }
        self.line.pop();
        // Published examples of trailing headers end their lines with LF only.
        let is_crlf = self.line.pop_if(|b| *b == b'\r').is_some();
        if !is_crlf && self.state != State::Trailers {
            return Err(malformed());
        }
        Ok(true)
    }

    fn end_line(&mut self, line: &[u8]) -> Result<(), BodyError> {
        match self.state {
            State::Head => self.begin_chunk(line),
            State::DataEnd if line.is_empty() => {
                self.state = State::Head;
                Ok(())
            }
            State::Trailers if line.is_empty() => self.end_trailers(),
            State::Trailers => self.add_trailer(line),
            State::DataEnd | State::Data { .. } | State::End => Err(malformed()),
        }
    }

    fn begin_chunk(&mut self, line: &[u8]) -> Result<(), BodyError> {
        let line = std::str::from_utf8(line).map_err(|_| malformed())?;
        let (size, extension) = line.split_once(';').unwrap_or((line, ""));
        let size_bytes = parse_size(size)?;
        if let Some(verifier) = &mut self.verifier {
            let signature = extension.trim().strip_prefix("chunk-signature=");
            signature
                .ok_or_else(malformed)?
                .clone_into(&mut verifier.claimed);
        }
        if size_bytes > 0 {
            self.state = State::Data {
                left_bytes: size_bytes,
            };
            return Ok(());
        }
        if let Some(verifier) = &mut self.verifier {
            verifier.check_chunk()?;
        }
        self.state = State::Trailers;
        Ok(())
    }

    fn add_trailer(&mut self, line: &[u8]) -> Result<(), BodyError> {
        let line = std::str::from_utf8(line).map_err(|_| BodyError::MalformedTrailer)?;
        let (name, value) = line.split_once(':').ok_or(BodyError::MalformedTrailer)?;
        let name = name.trim().to_ascii_lowercase();
        let value = value.trim().to_owned();
        let is_one_too_many = self.trailers.len() + 1 >= MAX_TRAILERS;
        // The signature comes last: nothing after it would be signed.
        if !self.may_trail || is_one_too_many || self.trailer_signature.is_some() {
            return Err(BodyError::MalformedTrailer);
        }
        if name == TRAILER_SIGNATURE && self.verifier.is_some() {
            self.trailer_signature = Some(value);
        } else {
            self.trailers.push((name, value));
        }
        Ok(())
    }

    fn end_trailers(&mut self) -> Result<(), BodyError> {
        if let Some(verifier) = &mut self.verifier {
            match self.trailer_signature.take() {
                Some(claimed) => {
                    let lines = self.trailers.iter().map(|(n, v)| format!("{n}:{v}\n"));
                    verifier.check_trailers(&lines.collect::<String>(), claimed)?;
                }
                None if self.may_trail => return Err(BodyError::SignatureDoesNotMatch),
                None => {}
            }
        }
        self.state = State::End;
        Ok(())
    }
}

fn malformed() -> BodyError {
    BodyError::InvalidRequest("The aws-chunked body is not well-formed")
}

/// Hex digits, at least one.
fn parse_size(text: &str) -> Result<u64, BodyError> {
    let is_hex = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let digits = Some(text).filter(|_| is_hex).ok_or_else(malformed)?;
    match u64::from_str_radix(digits, 16) {
        Ok(size) if size <= MAX_PUT_LEN_BYTES => Ok(size),
        _ => Err(BodyError::ChunkTooLarge {
            max_bytes: MAX_PUT_LEN_BYTES,
        }),
    }
}
