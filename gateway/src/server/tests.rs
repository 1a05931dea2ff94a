//! The server with a handler of the tests' own, on loopback.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::{http1, http2};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::{Certificates, server_config};

/// `/panic` panics, `/refuse` leaves the body alone, `/slow` takes 200 ms, `/forever` never answers, `/echo` gives the body
/// back, `/host` the Host; the answer's header `peer` says whether TLS is spoken.
#[derive(Clone)]
struct Door;

impl Handler for Door {
    type Body = Full<Bytes>;

    async fn handle(&self, request: Request<RequestBody>, peer: Peer) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let bytes = match path.as_str() {
            "/host" => Bytes::copy_from_slice(request.headers()["host"].as_bytes()),
            "/panic" => panic!("as asked"),
            "/refuse" => Bytes::from_static(b"refused"),
            "/forever" => std::future::pending().await,
            "/slow" => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Bytes::from_static(b"slow")
            }
            _ => match request.into_body().collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) => Bytes::from(error.to_string()),
            },
        };
        Response::builder()
            .header("tls", peer.is_tls.to_string())
            .body(Full::new(bytes))
            .unwrap()
    }

    fn refuse(&self, refusal: Refusal) -> Response<Full<Bytes>> {
        let status = match refusal {
            Refusal::Overloaded => 503,
            Refusal::Panicked => 500,
        };
        let mut response = Response::new(Full::default());
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        response
    }
}

struct Running {
    addr: SocketAddr,
    phase: watch::Sender<Phase>,
    task: JoinHandle<Drained>,
}

impl Running {
    async fn start(limits: Limits, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (phase, receiver) = watch::channel(Phase::Serve);
        let task = tokio::spawn(async move { serve(listener, tls, Door, &limits, receiver).await });
        Self { addr, phase, task }
    }

    async fn plain() -> Self {
        Self::start(Limits::default(), None).await
    }

    /// A connection for requests without a body.
    async fn connect(&self) -> http1::SendRequest<Empty<Bytes>> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// What the server answers to these bytes until it closes the connection.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(path).header("host", "localhost");
    request.body(Empty::new()).unwrap()
}

#[tokio::test]
async fn a_panic_is_answered_500_and_the_server_goes_on() {
    let server = Running::plain().await;
    let mut client = server.connect().await;
    let answer = client.send_request(get("/panic")).await.unwrap();
    assert_eq!(answer.status(), 500);
    let answer = client.send_request(get("/echo")).await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_drain_answers_what_is_under_way_and_takes_nothing_new() {
    let server = Running::plain().await;
    let mut client = server.connect().await;
    let slow = tokio::spawn(async move {
        let answer = client.send_request(get("/slow")).await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes()
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.phase.send(Phase::Drain).unwrap();
    assert_eq!(slow.await.unwrap(), "slow");
    assert_eq!(server.task.await.unwrap(), Drained::All);
    assert!(TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test]
async fn a_drain_ends_idle_connections() {
    let server = Running::plain().await;
    let mut client = server.connect().await;
    client.send_request(get("/echo")).await.unwrap();
    let _silent = TcpStream::connect(server.addr).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    server.phase.send(Phase::Drain).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), server.task);
    assert_eq!(ended.await.unwrap().unwrap(), Drained::All);
}

#[tokio::test]
async fn a_drain_is_bounded() {
    let limits = Limits {
        drain_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = Running::start(limits, None).await;
    let mut client = server.connect().await;
    let forever = tokio::spawn(async move { client.send_request(get("/forever")).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.phase.send(Phase::Drain).unwrap();
    assert_eq!(server.task.await.unwrap(), Drained::Cut { connections: 1 });
    assert!(forever.await.unwrap().is_err());
}

#[tokio::test]
async fn a_halt_does_not_wait_for_the_drain() {
    let server = Running::plain().await;
    let mut client = server.connect().await;
    tokio::spawn(async move { client.send_request(get("/forever")).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.phase.send(Phase::Drain).unwrap();
    server.phase.send(Phase::Halt).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), server.task);
    assert_eq!(
        ended.await.unwrap().unwrap(),
        Drained::Cut { connections: 1 }
    );
}

#[tokio::test]
async fn requests_beyond_the_bound_are_refused_until_a_place_is_free() {
    let limits = Limits {
        in_flight: 1,
        ..Limits::default()
    };
    let server = Running::start(limits, None).await;
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    let slow = tokio::spawn(async move { one.send_request(get("/slow")).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let refused = two.send_request(get("/echo")).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let answer = two.send_request(get("/echo")).await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn connections_beyond_the_bound_wait() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let server = Running::start(limits, None).await;
    let mut one = server.connect().await;
    one.send_request(get("/echo")).await.unwrap();
    let mut two = server.connect().await;
    let waiting = tokio::spawn(async move { two.send_request(get("/echo")).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    drop(one);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_client_that_sends_no_headers_is_let_go() {
    let limits = Limits {
        header_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = Running::start(limits, None).await;
    assert_eq!(server.raw("").await, "");
    let half = server.raw("GET /echo HTTP/1.1\r\nhost:").await;
    assert!(!half.contains("200"), "{half}");
    for beginning in ["P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        let ended = tokio::time::timeout(Duration::from_secs(5), server.raw(beginning));
        assert_eq!(ended.await.unwrap(), "", "{beginning:?}");
    }
}

#[tokio::test]
async fn a_body_that_stands_still_reaches_the_handler_as_an_error() {
    let limits = Limits {
        stall_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = Running::start(limits, None).await;
    let answer = server
        .raw("PUT /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc")
        .await;
    assert!(answer.contains("sent nothing for 50ms"), "{answer}");
}

#[tokio::test]
async fn a_body_held_back_and_not_asked_for_ends_the_connection() {
    let server = Running::plain().await;
    let next = "GET /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let put = |path| {
        format!(
            "PUT {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nexpect: 100-Continue\r\n\r\n"
        )
    };
    let answer = server.raw(&(put("/refuse") + next)).await;
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");

    let empty = put("/echo").replace("length: 2", "length: 0");
    let answer = server.raw(&(empty + next)).await;
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");

    let answer = server.raw(&(put("/echo") + "ab" + next)).await;
    assert!(answer.contains("HTTP/1.1 100 Continue"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
}

#[tokio::test]
async fn what_is_left_of_a_short_body_does_not_end_the_connection() {
    let server = Running::plain().await;
    let next = "GET /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let len_bytes = unread::MAX_SKIPPED_BYTES as usize;
    let put = format!("PUT /refuse HTTP/1.1\r\nhost: a\r\ncontent-length: {len_bytes}\r\n\r\n");
    let answer = server.raw(&(put + &"x".repeat(len_bytes) + next)).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    let first = answer.split("refused").next().unwrap();
    assert!(!first.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn what_is_left_of_a_long_body_ends_the_connection_and_the_answer_says_so() {
    let server = Running::plain().await;
    let len_bytes = unread::MAX_SKIPPED_BYTES as usize * 8;
    let put = format!("PUT /refuse HTTP/1.1\r\nhost: a\r\ncontent-length: {len_bytes}\r\n\r\n");
    // The whole body is sent, as most clients do before they look for an answer.
    let answer = server.raw(&(put + &"x".repeat(len_bytes))).await;
    assert!(answer.contains("refused"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

/// A self-signed certificate for localhost, served, and the client's trust in it.
async fn tls_server(
    alpn: &[&[u8]],
) -> (Running, Arc<Certificates>, TlsConnector, tempfile::TempDir) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let certificates = Certificates::load(&cert, &key).unwrap();
    let tls = server_config(Arc::clone(&certificates)).unwrap();
    let server = Running::start(Limits::default(), Some(tls)).await;
    let connector = trusting(made.cert.der().clone(), alpn);
    (server, certificates, connector, dir)
}

fn trusting(cert: CertificateDer<'static>, alpn: &[&[u8]]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

type ClientTls = tokio_rustls::client::TlsStream<TcpStream>;

async fn handshake(server: &Running, connector: &TlsConnector) -> std::io::Result<ClientTls> {
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    connector.connect(name, stream).await
}

#[tokio::test]
async fn tls_speaks_http_1_and_2_by_alpn() {
    let (server, _, connector, _dir) = tls_server(&[b"http/1.1"]).await;
    let stream = handshake(&server, &connector).await.unwrap();
    let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = client.send_request(get("/echo")).await.unwrap();
    assert_eq!(answer.headers()["tls"], "true");

    let (server, _, connector, _dir) = tls_server(&[b"h2", b"http/1.1"]).await;
    let stream = handshake(&server, &connector).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://localhost/echo");
    let request = request.body(Full::new(Bytes::from_static(b"two"))).unwrap();
    let answer = client.send_request(request).await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "two"
    );
}

#[tokio::test]
async fn new_connections_get_a_reloaded_certificate() {
    let (server, certificates, old_trust, dir) = tls_server(&[b"http/1.1"]).await;
    handshake(&server, &old_trust).await.unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    certificates.reload().unwrap();
    let new_trust = trusting(made.cert.der().clone(), &[b"http/1.1"]);
    handshake(&server, &new_trust).await.unwrap();
    assert!(handshake(&server, &old_trust).await.is_err());
}

#[tokio::test]
async fn without_tls_http_2_works_by_prior_knowledge() {
    let server = Running::plain().await;
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://b.localhost:81/host").body(Empty::<Bytes>::new());
    let answer = client.send_request(request.unwrap()).await.unwrap();
    assert_eq!(answer.headers()["tls"], "false");
    let host = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(host, "b.localhost:81");
}
