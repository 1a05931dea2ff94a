//! Bodies on plain connections, where frames stand for pieces of a file.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::tests::Held;
use super::*;
use crate::zerocopy::{ZeroCopyIo, stands_for_a_piece};

const LONG_LEN: usize = 8 << 20;
const SHORT_LEN: usize = 900_000;
const PATIENCE: Duration = Duration::from_secs(10);

async fn pair() -> (ZeroCopyIo, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, server) = tokio::join!(client, listener.accept());
    (ZeroCopyIo::new(server.unwrap().0), client.unwrap())
}

/// Serves the object to GETs of one connection.
fn serve(io: ZeroCopyIo, object: Arc<Held>) {
    let outbox = io.outbox();
    let answer = service_fn(move |_: Request<hyper::body::Incoming>| {
        let (object, outbox) = (Arc::clone(&object), outbox.clone());
        async move {
            let range = 0..object.info().len_bytes;
            let body = ObjectBody::new(object, range).with_outbox(Some(outbox));
            Ok::<_, Infallible>(Response::new(body))
        }
    });
    let connection = http1::Builder::new()
        .writev(true)
        .serve_connection(TokioIo::new(io), answer);
    tokio::spawn(connection);
}

/// The bodies of as many answers as are asked for at once, each of `len` bytes.
async fn get(client: &mut TcpStream, times: usize, len: usize) -> Vec<Vec<u8>> {
    let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(times);
    client.write_all(request.as_bytes()).await.unwrap();
    let mut bodies = Vec::new();
    for _ in 0..times {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        let mut body = vec![0; len];
        client.read_exact(&mut body).await.unwrap();
        bodies.push(body);
    }
    bodies
}

#[tokio::test]
async fn answers_come_whole_and_one_after_the_other() {
    for len in [SHORT_LEN, LONG_LEN, LONG_LEN + 1, (1 << 20) + 1] {
        let object = Held::in_file(len);
        let (io, mut client) = pair().await;
        serve(io, Arc::clone(&object));
        for times in [1, 3] {
            let bodies = tokio::time::timeout(PATIENCE, get(&mut client, times, len));
            for body in bodies.await.unwrap() {
                assert!(body == object.bytes, "{len}");
            }
        }
    }
}

#[tokio::test]
async fn a_change_while_pieces_are_sent_breaks_the_connection() {
    for len in [SHORT_LEN, LONG_LEN] {
        let object = Held::in_file(len);
        object.changed.store(true, Ordering::Relaxed);
        let (io, mut client) = pair().await;
        serve(io, object);
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut got = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, client.read_to_end(&mut got));
        let _ = ended.await.unwrap();
        assert!(got.len() < len, "{len}");
    }
}

#[tokio::test]
async fn the_last_frame_waits_for_the_pieces_and_sees_a_change_meanwhile() {
    for changes in [false, true] {
        let object = Held::in_file(LONG_LEN);
        let (mut io, mut client) = pair().await;
        let range = 0..LONG_LEN as u64;
        let mut body = ObjectBody::new(Arc::clone(&object), range).with_outbox(Some(io.outbox()));
        let mut frames = Vec::new();
        let soon = Duration::from_millis(50);
        while let Ok(frame) = tokio::time::timeout(soon, body.frame()).await {
            frames.push(frame.unwrap().unwrap().into_data().unwrap());
        }
        assert!(frames.iter().all(|frame| stands_for_a_piece(frame)));
        let before = frames.iter().map(Bytes::len).sum::<usize>();
        assert_eq!(before as u64, LONG_LEN as u64 - FRAME_LEN_BYTES);
        let send = async {
            for frame in &frames[..frames.len() - 1] {
                io.write_all(frame).await.unwrap();
            }
            object.changed.store(changes, Ordering::Relaxed);
            io.write_all(&frames[frames.len() - 1]).await.unwrap();
        };
        let mut got = vec![0; before];
        let all = async { tokio::join!(body.frame(), send, client.read_exact(&mut got)) };
        let (last, (), read) = tokio::time::timeout(PATIENCE, all).await.unwrap();
        read.unwrap();
        assert!(got == object.bytes[..before]);
        match last.unwrap() {
            Ok(last) => {
                assert!(!changes);
                assert_eq!(last.into_data().unwrap(), object.bytes[before..]);
            }
            Err(error) => {
                assert!(changes);
                let error = error.downcast_ref::<StoreError>();
                assert!(matches!(error, Some(StoreError::ChangedWhileRead)));
            }
        }
    }
}

#[tokio::test]
async fn short_ranges_are_copied() {
    let (io, _client) = pair().await;
    let object = Held::in_file(1 << 20);
    let mut body = ObjectBody::new(object, 0..1 << 20).with_outbox(Some(io.outbox()));
    while let Some(frame) = body.frame().await {
        assert!(!stands_for_a_piece(&frame.unwrap().into_data().unwrap()));
    }
}
