//! Sending from a file to a plain socket without copying through this process.
//!
//! hyper passes a body's frames to its socket as they are, by address. So a body may give out,
//! in place of bytes, a frame that *stands for* a piece of a file: a slice of one [`REGION`] of
//! memory that nothing else uses. [`ZeroCopyIo`] under hyper knows such a slice by its address
//! and calls sendfile(2) for the piece instead, in the order in which they were pushed.
//!
//! Only for HTTP/1 without TLS: HTTP/2 and TLS look into the bytes. A connection that offers an
//! [`Outbox`] has promised to be such a one.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Longest piece of a file that one frame stands for, in bytes.
pub const MAX_PIECE_LEN_BYTES: usize = 1 << 20;

/// Memory whose addresses stand for pieces of files. Its bytes are never sent.
static REGION: LazyLock<Bytes> = LazyLock::new(|| vec![0; MAX_PIECE_LEN_BYTES].into());

/// What a piece is sent from.
pub trait Source: Send + Sync {
    /// The file; none where there is none any more, which breaks the connection.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
}

struct Piece {
    source: Arc<dyn Source>,
    offset_bytes: u64,
    len_bytes: usize,
}

/// The pieces on their way to one connection. Clones share it.
#[derive(Clone, Default)]
pub struct Outbox(Arc<Mutex<Pieces>>);

#[derive(Default)]
struct Pieces {
    queue: VecDeque<Piece>,
    /// Woken when the queue becomes empty.
    waiting: Option<Waker>,
}

impl Outbox {
    /// Queues a piece of at most [`MAX_PIECE_LEN_BYTES`] and gives the frame that stands for it.
    /// The frame must reach the connection next, whole and as it is.
    pub fn push(&self, source: Arc<dyn Source>, offset_bytes: u64, len_bytes: usize) -> Bytes {
        let frame = REGION.slice(..len_bytes);
        self.lock().queue.push_back(Piece {
            source,
            offset_bytes,
            len_bytes,
        });
        frame
    }

    /// Ready when every piece was handed to the kernel. A body may wait for that: hyper writes the
    /// frames it has while the next is awaited.
    pub fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut pieces = self.lock();
        if pieces.queue.is_empty() {
            return Poll::Ready(());
        }
        pieces.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Pieces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends some of the first piece. Errors: WouldBlock, those of sendfile(2), UnexpectedEof
    /// where the file has become too short.
    fn send(&self, stream: &TcpStream, len: usize) -> io::Result<usize> {
        let mut pieces = self.lock();
        let piece = pieces
            .queue
            .front_mut()
            .ok_or_else(|| io::Error::other("a frame stands for no piece"))?;
        let fd = piece
            .source
            .descriptor()
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut at = piece.offset_bytes;
        let len = len.min(piece.len_bytes);
        let sent = rustix::fs::sendfile(stream, fd, Some(&mut at), len)?;
        if sent == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.offset_bytes += sent as u64;
        piece.len_bytes -= sent;
        if piece.len_bytes == 0 {
            pieces.queue.pop_front();
            if pieces.queue.is_empty()
                && let Some(waiting) = pieces.waiting.take()
            {
                waiting.wake();
            }
        }
        Ok(sent)
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("pieces", &self.lock().queue.len())
            .finish()
    }
}

/// True where a frame stands for a piece: its own bytes mean nothing.
pub(crate) fn stands_for_a_piece(buf: &[u8]) -> bool {
    let start = REGION.as_ptr() as usize;
    (start..start + MAX_PIECE_LEN_BYTES).contains(&(buf.as_ptr() as usize))
}

/// A plain connection that sends the pieces of its outbox.
pub struct ZeroCopyIo {
    stream: TcpStream,
    outbox: Outbox,
}

impl ZeroCopyIo {
    /// A connection with an empty outbox.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            outbox: Outbox::default(),
        }
    }

    /// What bodies for this connection push to.
    pub fn outbox(&self) -> Outbox {
        self.outbox.clone()
    }

    fn poll_send(&self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            let sent = self
                .stream
                .try_io(Interest::WRITABLE, || self.outbox.send(&self.stream, len));
            match sent {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return Poll::Ready(other),
            }
        }
    }
}

impl AsyncRead for ZeroCopyIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ZeroCopyIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !buf.is_empty() && stands_for_a_piece(buf) {
            return self.poll_send(cx, buf.len());
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let is_piece = |buf: &io::IoSlice<'_>| !buf.is_empty() && stands_for_a_piece(buf);
        let first = bufs.iter().position(is_piece).unwrap_or(bufs.len());
        match bufs.get(first) {
            Some(piece) if bufs[..first].iter().all(|buf| buf.is_empty()) => {
                self.poll_send(cx, piece.len())
            }
            _ => Pin::new(&mut self.stream).poll_write_vectored(cx, &bufs[..first]),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    struct FileSource(File);

    impl Source for FileSource {
        fn descriptor(&self) -> Option<BorrowedFd<'_>> {
            Some(self.0.as_fd())
        }
    }

    fn file_of(bytes: &[u8]) -> Arc<dyn Source> {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, bytes).unwrap();
        Arc::new(FileSource(file))
    }

    async fn pair() -> (ZeroCopyIo, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, server) = tokio::join!(client, listener.accept());
        (ZeroCopyIo::new(server.unwrap().0), client.unwrap())
    }

    #[tokio::test]
    async fn pieces_and_bytes_keep_their_order() {
        let (mut io, mut client) = pair().await;
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        let source = file_of(&bytes);
        let expected = [
            &b"head"[..],
            &bytes[10..900_010],
            &b"tail"[..],
            &bytes[5..6],
        ]
        .concat();
        let sending = async {
            io.write_all(b"head").await.unwrap();
            let frame = io.outbox().push(Arc::clone(&source), 10, 900_000);
            io.write_all(&frame).await.unwrap();
            let frame = io.outbox().push(source, 5, 1);
            let mut bufs = [io::IoSlice::new(b"tail"), io::IoSlice::new(&frame)];
            let mut bufs = &mut bufs[..];
            while !bufs.is_empty() {
                let n = io.write_vectored(bufs).await.unwrap();
                io::IoSlice::advance_slices(&mut bufs, n);
            }
            io.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(sending, client.read_to_end(&mut got));
        read.unwrap();
        assert!(got == expected);
    }

    #[tokio::test]
    async fn a_file_cut_short_breaks_the_connection() {
        let (mut io, _client) = pair().await;
        let frame = io.outbox().push(file_of(b"abc"), 0, 10);
        let error = io.write_all(&frame).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
