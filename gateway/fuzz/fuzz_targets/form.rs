//! POST forms: any input, however split, gives the fields and the file it gives whole.

#![no_main]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use gateway::body::form::read_form;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use libfuzzer_sys::fuzz_target;

struct Frames(VecDeque<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Fields and file of a form; none where it is none.
async fn read(pieces: VecDeque<Bytes>) -> Option<(Vec<(String, String)>, Vec<u8>)> {
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static("multipart/form-data; boundary=X");
    headers.insert(http::header::CONTENT_TYPE, kind);
    let mut form = read_form(Frames(pieces), &headers).await.ok()?;
    let mut file = Vec::new();
    while let Some(bytes) = form.file.next_chunk().await.ok()? {
        file.extend_from_slice(&bytes);
    }
    form.file.finish().ok()?;
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Some((form.fields.iter().map(own).collect(), file))
}

/// The frames are always ready, so one poll ends it.
fn run<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing is waited for"),
    }
}

// Input: a byte that says how long the pieces are, then the body.
fuzz_target!(|input: &[u8]| {
    let Some((len, body)) = input.split_first() else {
        return;
    };
    let pieces = body
        .chunks(usize::from(*len).max(1))
        .map(Bytes::copy_from_slice)
        .collect();
    let whole = VecDeque::from([Bytes::copy_from_slice(body)]);
    assert_eq!(run(read(pieces)), run(read(whole)));
});
