//! The body of a GET: one range of an [`Object`], frame by frame, with one frame read ahead.
//!
//! Invariants: exactly the bytes announced are sent, or the body fails and the connection
//! breaks; the last frame is given out only after the object was seen unchanged, and that only
//! after all bytes were taken from it, so that two states are never spliced into a body that
//! looks whole. Knows no header and no S3 code.

use std::future::Future;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use fsstore::error::{Result, StoreError};
use fsstore::volume::Object;
use http_body::{Body, Frame, SizeHint};

use super::respond::BoxError;
use crate::zerocopy::{MAX_PIECE_LEN_BYTES, Outbox, Source};

/// Longest frame, in bytes. Two of them are in memory for each GET under way.
pub const FRAME_LEN_BYTES: u64 = 256 << 10;

type Reading = Pin<Box<dyn Future<Output = Result<Bytes>> + Send>>;

/// A body that reads from an object. Dropping it stops the reading; a read already handed to
/// the disk ends there.
///
/// With an [`Outbox`], frames of a plain file whose bytes are in memory stand for their piece of
/// the file: they are sent without being copied. Others are read, off the async threads. The
/// last frame is always read, after the pieces before it were sent: a piece's bytes are taken
/// from the file only then.
pub struct ObjectBody<O> {
    object: Arc<O>,
    outbox: Option<Outbox>,
    /// What is not yet given out.
    left: Range<u64>,
    ahead: Ahead,
    failed: bool,
}

/// An object as what pieces are sent from.
struct PlainFile<O>(Arc<O>);

impl<O: Object> Source for PlainFile<O> {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.plain_file()
    }
}

/// The frame after the one last given out.
enum Ahead {
    /// Not asked for: the last frame needed no wait, and the next will be as near.
    None,
    Ready(Bytes),
    Reading(Reading),
}

impl<O: Object> ObjectBody<O> {
    /// A body of `range`, which lies within the object.
    pub fn new(object: Arc<O>, range: Range<u64>) -> Self {
        debug_assert!(range.end <= object.info().len_bytes);
        Self {
            object,
            outbox: None,
            left: range,
            ahead: Ahead::None,
            failed: false,
        }
    }

    /// Sends by `outbox` where that is possible, and the range long enough to be worth it.
    #[must_use]
    pub fn with_outbox(mut self, outbox: Option<Outbox>) -> Self {
        let is_long = self.left.end - self.left.start > MAX_PIECE_LEN_BYTES as u64;
        self.outbox = outbox.filter(|_| is_long && self.object.plain_file().is_some());
        self
    }

    /// A frame that stands for the next piece, where it is not of the last frame and its bytes are
    /// in memory: sending what is not would hold an async thread until the disk answers. The
    /// kernel reads ahead in runs, so the first and the last byte tell of those between.
    fn piece(&mut self) -> Option<Result<Bytes>> {
        let outbox = self.outbox.as_ref()?;
        let start = self.left.start;
        let longest = start + MAX_PIECE_LEN_BYTES as u64;
        let end = longest.min(self.left.end.saturating_sub(FRAME_LEN_BYTES));
        if end <= start {
            return None;
        }
        for at in [start, end - 1] {
            if let Err(error) = self.object.try_read(at..at + 1)? {
                return Some(Err(error));
            }
        }
        self.left.start = end;
        let source = Arc::new(PlainFile(Arc::clone(&self.object)));
        Some(Ok(outbox.push(source, start, (end - start) as usize)))
    }

    /// Ready when the next frame is not the last one, or nothing before it is still to be taken
    /// from the file.
    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.outbox {
            Some(outbox) if self.left.end - self.left.start <= FRAME_LEN_BYTES => {
                outbox.poll_sent(cx)
            }
            _ => Poll::Ready(()),
        }
    }

    /// The first frame's range of what is left.
    fn frame_range(left: &Range<u64>) -> Range<u64> {
        left.start..left.end.min(left.start + FRAME_LEN_BYTES)
    }

    fn start_reading(&self, range: Range<u64>) -> Reading {
        let object = Arc::clone(&self.object);
        Box::pin(async move { object.read(range).await })
    }

    fn poll_frame_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes>> {
        if matches!(self.ahead, Ahead::None)
            && let Some(frame) = self.piece()
        {
            return Poll::Ready(frame);
        }
        ready!(self.poll_turn(cx));
        let range = Self::frame_range(&self.left);
        let (bytes, waited) = match std::mem::replace(&mut self.ahead, Ahead::None) {
            Ahead::Ready(bytes) => (bytes, true),
            Ahead::Reading(mut reading) => match reading.as_mut().poll(cx) {
                Poll::Ready(bytes) => (bytes?, true),
                Poll::Pending => {
                    self.ahead = Ahead::Reading(reading);
                    return Poll::Pending;
                }
            },
            Ahead::None => match self.object.try_read(range.clone()) {
                Some(bytes) => (bytes?, false),
                None => {
                    let mut reading = self.start_reading(range.clone());
                    match reading.as_mut().poll(cx) {
                        Poll::Ready(bytes) => (bytes?, true),
                        Poll::Pending => {
                            self.ahead = Ahead::Reading(reading);
                            return Poll::Pending;
                        }
                    }
                }
            },
        };
        if bytes.len() as u64 != range.end - range.start {
            return Poll::Ready(Err(StoreError::ChangedWhileRead));
        }
        self.left.start = range.end;
        if self.left.is_empty() {
            self.object.check_unchanged()?;
        } else if waited {
            self.read_ahead(cx);
        }
        Poll::Ready(Ok(bytes))
    }

    /// Sets the next frame going while the last one is sent. A failure shows when its turn comes.
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        let range = Self::frame_range(&self.left);
        if let Some(Ok(bytes)) = self.object.try_read(range.clone()) {
            self.ahead = Ahead::Ready(bytes);
            return;
        }
        let mut reading = self.start_reading(range);
        self.ahead = match reading.as_mut().poll(cx) {
            Poll::Ready(Ok(bytes)) => Ahead::Ready(bytes),
            Poll::Ready(Err(error)) => Ahead::Reading(Box::pin(std::future::ready(Err(error)))),
            Poll::Pending => Ahead::Reading(reading),
        };
    }
}

impl<O: Object> Body for ObjectBody<O> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.failed || this.left.is_empty() {
            return Poll::Ready(None);
        }
        match this.poll_frame_bytes(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Poll::Ready(Err(error)) => {
                this.failed = true;
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.end - self.left.start)
    }
}

#[cfg(test)]
mod zerocopy_tests;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use fsstore::name::{ETag, ObjectKey};
    use fsstore::object::{Attributes, KnownDigests, ObjectInfo, ObjectPart, Timestamp};
    use http_body_util::BodyExt;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    /// An object in memory, whose bytes are near or have to be waited for, and may change.
    pub(in crate::s3) struct Held {
        info: ObjectInfo,
        pub(in crate::s3) bytes: Bytes,
        /// The same bytes in a file.
        file: Option<OwnedFd>,
        cached: bool,
        pub(in crate::s3) changed: AtomicBool,
        reads: AtomicU32,
    }

    impl Held {
        pub(in crate::s3) fn new(len: usize, cached: bool) -> Arc<Self> {
            Arc::new(Self::build(len, cached))
        }

        pub(in crate::s3) fn in_file(len: usize) -> Arc<Self> {
            let mut held = Self::build(len, true);
            let mut file = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut file, &held.bytes).unwrap();
            held.file = Some(file.into());
            Arc::new(held)
        }

        fn build(len: usize, cached: bool) -> Self {
            Self {
                info: ObjectInfo {
                    key: ObjectKey::parse("k").unwrap(),
                    version: None,
                    len_bytes: len as u64,
                    etag: ETag::provisional(1),
                    etags_before: Vec::new(),
                    modified: Timestamp(0),
                    attrs: Attributes::default(),
                    checksum: None,
                    digests: KnownDigests::default(),
                    part_count: None,
                },
                bytes: (0..len).map(|i| (i / 1000) as u8).collect(),
                file: None,
                cached,
                changed: AtomicBool::new(false),
                reads: AtomicU32::new(0),
            }
        }
    }

    impl Object for Held {
        fn info(&self) -> &ObjectInfo {
            &self.info
        }

        async fn read(&self, range: Range<u64>) -> Result<Bytes> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(self.bytes.slice(range.start as usize..range.end as usize))
        }

        fn try_read(&self, range: Range<u64>) -> Option<Result<Bytes>> {
            self.cached
                .then(|| Ok(self.bytes.slice(range.start as usize..range.end as usize)))
        }

        fn plain_file(&self) -> Option<BorrowedFd<'_>> {
            self.file.as_ref().map(AsFd::as_fd)
        }

        fn check_unchanged(&self) -> Result<()> {
            match self.changed.load(Ordering::Relaxed) {
                true => Err(StoreError::ChangedWhileRead),
                false => Ok(()),
            }
        }

        async fn parts(&self) -> Result<Vec<ObjectPart>> {
            Ok(Vec::new())
        }
    }

    const LEN: usize = (FRAME_LEN_BYTES * 3 + 17) as usize;

    #[tokio::test]
    async fn a_range_comes_whole_from_cache_and_from_disk() {
        for cached in [true, false] {
            let object = Held::new(LEN, cached);
            let body = ObjectBody::new(Arc::clone(&object), 5..LEN as u64 - 3);
            assert_eq!(body.size_hint().exact(), Some(LEN as u64 - 8));
            let bytes = body.collect().await.unwrap().to_bytes();
            assert_eq!(bytes, object.bytes.slice(5..LEN - 3));
            let reads = object.reads.load(Ordering::Relaxed);
            assert_eq!(reads, if cached { 0 } else { 4 });
        }
    }

    #[tokio::test]
    async fn a_small_object_is_one_frame() {
        let mut body = ObjectBody::new(Held::new(4096, true), 0..4096);
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap().len(), 4096);
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
    }

    #[tokio::test]
    async fn the_next_frame_is_asked_for_before_it_is_wanted() {
        let object = Held::new(LEN, false);
        let mut body = ObjectBody::new(Arc::clone(&object), 0..LEN as u64);
        body.frame().await.unwrap().unwrap();
        assert_eq!(object.reads.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_changed_object_never_gives_its_last_frame() {
        for cached in [true, false] {
            let object = Held::new(LEN, cached);
            let mut body = ObjectBody::new(Arc::clone(&object), 0..LEN as u64);
            body.frame().await.unwrap().unwrap();
            object.changed.store(true, Ordering::Relaxed);
            let mut sent = FRAME_LEN_BYTES;
            let failed = loop {
                match body.frame().await.unwrap() {
                    Ok(frame) => sent += frame.data_ref().unwrap().len() as u64,
                    Err(error) => break error,
                }
            };
            let failed = failed.downcast_ref::<StoreError>();
            assert!(matches!(failed, Some(StoreError::ChangedWhileRead)));
            assert!(sent < LEN as u64);
            assert!(body.frame().await.is_none());
        }
    }

    #[tokio::test]
    async fn an_empty_range_is_over_at_once() {
        let mut body = ObjectBody::new(Held::new(0, false), 0..0);
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }
}
