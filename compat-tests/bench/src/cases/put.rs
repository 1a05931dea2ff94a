//! PUT of large and small objects, against the plain write loop and the speed of MD5.

use std::sync::Arc;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};

use super::{BUCKET, Bench, CONNECTIONS, SMALL_LEN_BYTES, Subject, interleave, noise};
use crate::Result;
use crate::client::Request;
use crate::load::{Block, requests, run};
use crate::peer::Server;
use crate::raw::{Finish, write_loop};
use crate::report::Unit;
use crate::sign::{UNSIGNED, sha256};

/// Name of the case of large objects.
pub const LARGE: &str = "PUT 64 MiB, 1 connection";
/// Name of the case of small objects.
pub const SMALL: &str = "PUT 4 KiB signed, 32 connections";
/// The plain loop.
pub const RAW: &str = "write-fsync-rename";
/// The plain loop with what strict durability needs.
pub const RAW_SYNC: &str = "… and fsync of dir";
/// MD5 alone.
pub const MD5: &str = "MD5, one thread";
/// Names of large objects, written in turn so that the disk does not fill.
const LARGE_NAMES: usize = 4;
/// Most small objects of one connection in one round.
const SMALL_REQUESTS: usize = 1500;

/// Large objects over one connection, their bodies not signed: MD5 is all that must be computed.
pub fn large(bench: &mut Bench) -> Result<()> {
    let body = Arc::new(noise(bench.scale.large_len_bytes));
    let (limit, raw_dir) = (bench.scale.block, bench.work_dir.join("raw"));
    let mut subjects: Vec<Subject<'_>> = Vec::new();
    for server in &bench.servers {
        let body = &body;
        subjects.push((
            server.name,
            Box::new(move |_| put_large(server, body, limit)),
        ));
    }
    for (name, finish) in [(RAW, Finish::Rename), (RAW_SYNC, Finish::SyncDirectory)] {
        let (raw_dir, body) = (&raw_dir, &body);
        subjects.push((
            name,
            Box::new(move |_| write_loop(raw_dir, body, 1, LARGE_NAMES, finish, limit)),
        ));
    }
    subjects.push((MD5, Box::new(|_| Ok(md5_speed(&body, limit)))));
    interleave(
        &mut bench.report,
        LARGE,
        Unit::MibPerS,
        bench.scale.rounds,
        subjects,
    )
}

pub(super) fn put_large(server: &Server, body: &Arc<Vec<u8>>, limit: Duration) -> Result<Block> {
    let len_bytes = body.len() as u64;
    let signer = server.signer();
    let list = (0..LARGE_NAMES)
        .map(|number| format!("/{BUCKET}/put-large-{number}"))
        .map(|path| Request::large(signer.head("PUT", &path, "", UNSIGNED, len_bytes), body))
        .collect();
    run(
        vec![requests(server.address, list, true, len_bytes, false)?],
        limit,
    )
}

fn md5_speed(body: &[u8], limit: Duration) -> Block {
    let mut block = Block::default();
    let started = Instant::now();
    while started.elapsed() < limit / 2 {
        let before = Instant::now();
        std::hint::black_box(Md5::digest(std::hint::black_box(body)));
        let took_us = before.elapsed().as_micros();
        block
            .latencies_us
            .push(u32::try_from(took_us).unwrap_or(u32::MAX));
        block.ops += 1;
        block.bytes += body.len() as u64;
    }
    block.seconds = started.elapsed().as_secs_f64();
    block
}

/// New small objects over 32 connections, their bodies signed.
pub fn small(bench: &mut Bench) -> Result<()> {
    let body = Arc::new(noise(SMALL_LEN_BYTES));
    let (limit, raw_dir) = (bench.scale.block, bench.work_dir.join("raw"));
    let mut subjects: Vec<Subject<'_>> = Vec::new();
    for server in &bench.servers {
        let body = &body;
        subjects.push((
            server.name,
            Box::new(move |round| put_small(server, body, round, limit)),
        ));
    }
    for (name, finish) in [(RAW, Finish::Rename), (RAW_SYNC, Finish::SyncDirectory)] {
        let (raw_dir, body) = (&raw_dir, &body);
        subjects.push((
            name,
            Box::new(move |_| {
                write_loop(raw_dir, body, CONNECTIONS, SMALL_REQUESTS, finish, limit)
            }),
        ));
    }
    interleave(
        &mut bench.report,
        SMALL,
        Unit::OpsPerS,
        bench.scale.rounds,
        subjects,
    )
}

pub(super) fn put_small(
    server: &Server,
    body: &Arc<Vec<u8>>,
    round: usize,
    limit: Duration,
) -> Result<Block> {
    let len_bytes = body.len() as u64;
    let (signer, digest) = (server.signer(), sha256(body));
    let work = (0..CONNECTIONS)
        .map(|connection| {
            let list = (0..SMALL_REQUESTS)
                .map(|number| format!("/{BUCKET}/put-small/{round}/{connection}/{number}"))
                .map(|path| Request::large(signer.head("PUT", &path, "", &digest, len_bytes), body))
                .collect();
            requests(server.address, list, false, len_bytes, false)
        })
        .collect::<Result<Vec<_>>>()?;
    run(work, limit)
}
