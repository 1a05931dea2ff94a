//! GET of large and small objects, against nginx on the same files.

use super::{BUCKET, Bench, CONNECTIONS, SMALL_LEN_BYTES, Scale, Subject, interleave, noise};
use crate::Result;
use crate::client::Request;
use crate::load::{Block, requests, run};
use crate::nginx;
use crate::peer::Server;
use crate::report::Unit;
use crate::sign::sha256;

/// Name of the case of large objects.
pub const LARGE: &str = "GET 64 MiB, warm, 1 connection";
/// Name of the case of small objects.
pub const SMALL: &str = "GET 4 KiB signed, 32 connections";
/// Small objects, asked for in turn.
const SMALL_OBJECTS: usize = 256;

/// Large objects, one connection.
pub fn large(bench: &mut Bench) -> Result<()> {
    let len_bytes = bench.scale.large_len_bytes;
    let path = format!("/{BUCKET}/large");
    let body = noise(len_bytes);
    for server in &bench.servers {
        server.put(&path, &body)?;
    }
    case(bench, LARGE, Unit::MibPerS, 1, &[path], len_bytes as u64)
}

/// Small objects, 32 connections.
pub fn small(bench: &mut Bench) -> Result<()> {
    let paths = paths();
    let body = noise(SMALL_LEN_BYTES);
    for server in &bench.servers {
        for path in &paths {
            server.put(path, &body)?;
        }
    }
    let len_bytes = SMALL_LEN_BYTES as u64;
    case(bench, SMALL, Unit::OpsPerS, CONNECTIONS, &paths, len_bytes)
}

/// Where the small objects are.
pub(super) fn paths() -> Vec<String> {
    (0..SMALL_OBJECTS)
        .map(|number| format!("/{BUCKET}/small/{number:04}"))
        .collect()
}

fn case(
    bench: &mut Bench,
    name: &str,
    unit: Unit,
    connections: usize,
    paths: &[String],
    len_bytes: u64,
) -> Result<()> {
    let scale = &bench.scale;
    let mut subjects: Vec<Subject<'_>> = Vec::new();
    for server in &bench.servers {
        subjects.push((
            server.name,
            Box::new(move |_| signed(scale, server, connections, paths, len_bytes)),
        ));
    }
    if let Some(nginx) = &bench.nginx {
        subjects.push((
            "nginx",
            Box::new(move |_| plain(scale, nginx, connections, paths, len_bytes)),
        ));
    }
    interleave(&mut bench.report, name, unit, scale.rounds, subjects)
}

/// Each connection starts elsewhere in the list.
fn turned(list: &[Request], by: usize) -> Vec<Request> {
    let mut list = list.to_vec();
    let len = list.len();
    list.rotate_left(by * 7 % len);
    list
}

/// A stretch of signed GETs.
pub(super) fn signed(
    scale: &Scale,
    server: &Server,
    connections: usize,
    paths: &[String],
    len_bytes: u64,
) -> Result<Block> {
    let signer = server.signer();
    let list: Vec<Request> = paths
        .iter()
        .map(|path| Request::small(signer.head("GET", path, "", &sha256(b""), 0), b""))
        .collect();
    let work = (0..connections)
        .map(|number| requests(server.address, turned(&list, number), true, len_bytes, true))
        .collect::<Result<Vec<_>>>()?;
    run(work, scale.block)
}

fn plain(
    scale: &Scale,
    nginx: &nginx::Nginx,
    connections: usize,
    paths: &[String],
    len_bytes: u64,
) -> Result<Block> {
    let list: Vec<Request> = paths
        .iter()
        .map(|path| Request::small(nginx::get(nginx.address, path), b""))
        .collect();
    let work = (0..connections)
        .map(|number| requests(nginx.address, turned(&list, number), true, len_bytes, true))
        .collect::<Result<Vec<_>>>()?;
    run(work, scale.block)
}
