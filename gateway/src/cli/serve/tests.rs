//! `portico serve` with a volume in memory: all but the store and the process.

use std::net::SocketAddr;
use std::path::Path;

use fsstore::testing::MemVolume;
use fsstore::volume::Durability;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::config::Config;

fn config(dir: &Path) -> Config {
    Config {
        dir: Some(dir.to_owned()),
        listen: "127.0.0.1:0".parse().unwrap(),
        ..Config::default()
    }
}

/// Sends a request with an empty body, as HTTP/1.1 text, and gives the whole answer.
async fn ask(addr: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("{head}\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_answers_in_s3s_words_and_a_sigterm_drains() {
    let dir = tempfile::tempdir().unwrap();
    let prepared = Prepared::new(config(dir.path()), None).unwrap();
    let listener = prepared.listen().await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        serve_volume(
            &prepared,
            Arc::new(MemVolume::new()),
            listener,
            Signals::new().unwrap(),
        )
        .await
        .map_err(|error| panic!("{error:?}"))
    });
    let answer = ask(addr, "DELETE /bucket HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(answer.contains("<Code>NoSuchBucket</Code>"), "{answer}");
    assert!(answer.contains("x-amz-request-id"), "{answer}");

    let me = rustix::process::getpid();
    rustix::process::kill_process(me, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), task);
    assert_eq!(ended.await.unwrap().unwrap(), Ok(Drained::All));
}

#[test]
fn a_buckets_own_settings_go_before_the_volumes() {
    let text = "hash = \"on-read\"\n[bucket.own]\nhash = \"never\"\n\
                [bucket.fast]\ndurability = \"relaxed\"";
    let config = Config::parse(text, Path::new("p.toml")).unwrap();
    let layout = Layout::create(tempfile::tempdir().unwrap().path()).unwrap();
    let options = brick_options(&layout, &config);
    let of = |name: &str| {
        let name = fsstore::name::BucketName::parse(name).unwrap();
        (options.hash.of(&name), options.durability.of(&name))
    };
    assert_eq!(of("own"), (HashPolicy::Never, Durability::Strict));
    assert_eq!(of("fast"), (HashPolicy::OnRead, Durability::Relaxed));
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    config.listen = holder.local_addr().unwrap();
    let prepared = Prepared::new(config, None).unwrap();
    let error = prepared.listen().await.unwrap_err();
    let wanted = format!(
        "cannot listen on {}: another program listens there",
        holder.local_addr().unwrap()
    );
    assert_eq!(error.text, wanted);
}

#[test]
fn a_second_start_says_where_the_keys_are_in_place_of_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let listen = "127.0.0.1:7480".parse().unwrap();
    let start = || Prepared::new(config(dir.path()), None).unwrap();
    let first = start().greeting(listen);
    let secret = first
        .lines()
        .find_map(|line| line.trim().strip_prefix("secret key"))
        .unwrap()
        .trim();
    assert!(secret.len() >= 20);
    let second = start().greeting(listen);
    assert!(!second.contains(secret), "{second}");
    let kept = dir.path().join(".portico/users.toml");
    assert!(second.contains(kept.to_str().unwrap()), "{second}");
    assert!(std::fs::read_to_string(kept).unwrap().contains(secret));
}
