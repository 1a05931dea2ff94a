//! One connection, one request at a time, with as little work as a client can do.

use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::Result;

/// Longest wait for bytes of an answer.
const STALL: Duration = Duration::from_secs(120);
/// Bytes taken from the socket at once.
const READ_LEN_BYTES: usize = 256 * 1024;

/// A request ready to send.
#[derive(Debug, Clone)]
pub struct Request {
    /// Request line and headers; a small body may follow at once.
    pub head: Vec<u8>,
    /// A large body, shared by all requests that send it.
    pub body: Option<Arc<Vec<u8>>>,
}

impl Request {
    /// A request with no body, or with one that goes out in the same write.
    pub fn small(mut head: Vec<u8>, body: &[u8]) -> Self {
        head.extend_from_slice(body);
        Self { head, body: None }
    }

    /// A request with a large body.
    pub fn large(head: Vec<u8>, body: &Arc<Vec<u8>>) -> Self {
        Self {
            head,
            body: Some(Arc::clone(body)),
        }
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The `ETag` header as it stood.
    pub etag: Option<String>,
    /// Length of the body in bytes.
    pub len_bytes: u64,
    /// The body, where it was asked for.
    pub body: Vec<u8>,
}

/// How long a body is.
enum Length {
    Known(u64),
    Chunked,
}

/// A connection that is kept open.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STALL))?;
        stream.set_write_timeout(Some(STALL))?;
        Ok(Self {
            reader: BufReader::with_capacity(READ_LEN_BYTES, stream),
        })
    }

    /// Sends a request and reads its answer; the body is read and dropped.
    pub fn exchange(&mut self, request: &Request) -> Result<Answer> {
        self.send(request)?;
        self.receive(false)
    }

    /// Sends a request and keeps the body of its answer.
    pub fn fetch(&mut self, request: &Request) -> Result<Answer> {
        self.send(request)?;
        self.receive(true)
    }

    fn send(&mut self, request: &Request) -> Result<()> {
        let stream = self.reader.get_mut();
        let Some(body) = &request.body else {
            return Ok(stream.write_all(&request.head)?);
        };
        let head = request.head.as_slice();
        let sent = stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?;
        if sent < head.len() {
            stream.write_all(&head[sent..])?;
            return Ok(stream.write_all(body)?);
        }
        Ok(stream.write_all(&body[sent - head.len()..])?)
    }

    fn receive(&mut self, keep: bool) -> Result<Answer> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| format!("no status in {line:?}"))?;
        let mut length = Length::Known(0);
        let mut etag = None;
        loop {
            line.clear();
            self.reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = Length::Known(value.parse()?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                length = Length::Chunked;
            } else if name.eq_ignore_ascii_case("etag") {
                etag = Some(value.to_owned());
            }
        }
        let mut body = Vec::new();
        let kept = (keep || status >= 300).then_some(&mut body);
        let len_bytes = match length {
            Length::Known(len_bytes) => self.take(len_bytes, kept)?,
            Length::Chunked => self.take_chunks(kept)?,
        };
        Ok(Answer {
            status,
            etag,
            len_bytes,
            body,
        })
    }

    fn take(&mut self, len_bytes: u64, kept: Option<&mut Vec<u8>>) -> Result<u64> {
        if let Some(kept) = kept {
            self.reader.by_ref().take(len_bytes).read_to_end(kept)?;
            return Ok(len_bytes);
        }
        let mut left = len_bytes;
        while left > 0 {
            let got = self.reader.fill_buf()?.len();
            if got == 0 {
                return Err("the answer broke off".into());
            }
            let used = left.min(got as u64);
            self.reader.consume(used as usize);
            left -= used;
        }
        Ok(len_bytes)
    }

    fn take_chunks(&mut self, mut kept: Option<&mut Vec<u8>>) -> Result<u64> {
        let mut total = 0;
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let size = line.trim().split(';').next().unwrap_or_default();
            let len_bytes = u64::from_str_radix(size, 16)?;
            total += self.take(len_bytes, kept.as_deref_mut())?;
            line.clear();
            self.reader.read_line(&mut line)?;
            if len_bytes == 0 {
                return Ok(total);
            }
        }
    }
}

/// Sends one request on a connection of its own; anything but 2xx is an error that shows the body.
pub fn ask(address: SocketAddr, request: &Request) -> Result<Answer> {
    let answer = Connection::open(address)?.fetch(request)?;
    must_succeed(answer)
}

/// Passes an answer on if its status is 2xx.
pub fn must_succeed(answer: Answer) -> Result<Answer> {
    if (200..300).contains(&answer.status) {
        return Ok(answer);
    }
    let body = String::from_utf8_lossy(&answer.body);
    Err(format!("status {}: {body}", answer.status).into())
}
