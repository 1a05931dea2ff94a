//! Resident memory while many large uploads run.

use std::sync::Arc;
use std::time::Duration;

use super::{BUCKET, Bench, CONNECTIONS, Subject, interleave, noise};
use crate::Result;
use crate::client::{Request, ask};
use crate::load::{Block, requests, run};
use crate::peer::Server;
use crate::report::Unit;
use crate::sign::{UNSIGNED, sha256};

/// Name of the case.
pub const CASE: &str = "Peak memory, 32 uploads of 256 MiB";
/// Longest time for the uploads.
const LIMIT: Duration = Duration::from_secs(600);

/// Peak of VmRSS (VmHWM) while 32 connections upload at once.
pub fn uploads(bench: &mut Bench) -> Result<()> {
    let body = Arc::new(noise(bench.scale.upload_len_bytes));
    let mut subjects: Vec<Subject<'_>> = Vec::new();
    for server in &bench.servers {
        let body = &body;
        subjects.push((server.name, Box::new(move |_| peak(server, body))));
    }
    interleave(&mut bench.report, CASE, Unit::ResidentMib, 1, subjects)?;
    let idle = bench.servers[0].process.status_kib("VmRSS")? / 1024;
    let size = bench.scale.upload_len_bytes >> 20;
    bench.report.notes.push(format!(
        "Memory: uploads of {size} MiB each; portico's VmRSS afterwards {idle} MiB."
    ));
    Ok(())
}

/// The block's `bytes` are the peak of resident memory.
fn peak(server: &Server, body: &Arc<Vec<u8>>) -> Result<Block> {
    let signer = server.signer();
    let len_bytes = body.len() as u64;
    let paths: Vec<String> = (0..CONNECTIONS)
        .map(|number| format!("/{BUCKET}/memory-{number}"))
        .collect();
    server.process.reset_high_water()?;
    let work = paths
        .iter()
        .map(|path| {
            let head = signer.head("PUT", path, "", UNSIGNED, len_bytes);
            let list = vec![Request::large(head, body)];
            requests(server.address, list, false, len_bytes, false)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut block = run(work, LIMIT)?;
    block.bytes = server.process.status_kib("VmHWM")? * 1024;
    for path in &paths {
        let head = signer.head("DELETE", path, "", &sha256(b""), 0);
        ask(server.address, &Request::small(head, b""))?;
    }
    Ok(block)
}
