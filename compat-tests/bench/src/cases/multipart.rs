//! Complete of a large upload of equal parts: no byte should be copied.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{BUCKET, Bench, Subject, between, interleave, noise};
use crate::Result;
use crate::client::{Connection, Request, ask, must_succeed};
use crate::load::Block;
use crate::peer::Server;
use crate::report::Unit;
use crate::sign::{UNSIGNED, sha256};

/// Name of the case.
pub const CASE: &str = "Complete of 1 GiB in 8 MiB parts";
const PART_LEN_BYTES: usize = 8 << 20;

/// Uploads the parts, then takes the time of Complete alone.
pub fn complete(bench: &mut Bench) -> Result<()> {
    let part = Arc::new(noise(PART_LEN_BYTES));
    let parts = bench.scale.parts;
    let mut subjects: Vec<Subject<'_>> = Vec::new();
    for server in &bench.servers {
        let part = &part;
        subjects.push((
            server.name,
            Box::new(move |_| upload_and_complete(server, part, parts)),
        ));
    }
    let rounds = bench.scale.rounds.min(3);
    interleave(&mut bench.report, CASE, Unit::LatencyMs, rounds, subjects)?;
    if parts != 128 {
        let size = parts * 8;
        bench
            .report
            .notes
            .push(format!("Complete was of {size} MiB only."));
    }
    Ok(())
}

fn upload_and_complete(server: &Server, part: &Arc<Vec<u8>>, parts: usize) -> Result<Block> {
    let signer = server.signer();
    let path = format!("/{BUCKET}/completed");
    let begin = signer.head("POST", &path, "uploads=", &sha256(b""), 0);
    let answer = ask(server.address, &Request::small(begin, b""))?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let id = between(&text, "<UploadId>", "</UploadId>")?;

    let mut connection = Connection::open(server.address)?;
    let mut body = String::from("<CompleteMultipartUpload>");
    for number in 1..=parts {
        let query = format!("partNumber={number}&uploadId={id}");
        let head = signer.head("PUT", &path, &query, UNSIGNED, part.len() as u64);
        let answer = must_succeed(connection.exchange(&Request::large(head, part))?)?;
        let etag = answer.etag.ok_or("a part without an ETag")?;
        let _ = write!(
            body,
            "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        );
    }
    body.push_str("</CompleteMultipartUpload>");

    let query = format!("uploadId={id}");
    let digest = sha256(body.as_bytes());
    let head = signer.head("POST", &path, &query, &digest, body.len() as u64);
    let request = Request::small(head, body.as_bytes());
    let before = Instant::now();
    let answer = must_succeed(connection.fetch(&request)?)?;
    let took = before.elapsed();
    let said = String::from_utf8_lossy(&answer.body);
    between(&said, "<ETag>", "</ETag>")?;
    let remove = signer.head("DELETE", &path, "", &sha256(b""), 0);
    ask(server.address, &Request::small(remove, b""))?;
    Ok(one_operation(took, (parts * part.len()) as u64))
}

fn one_operation(took: Duration, bytes: u64) -> Block {
    Block {
        ops: 1,
        bytes,
        seconds: took.as_secs_f64(),
        latencies_us: vec![u32::try_from(took.as_micros()).unwrap_or(u32::MAX)],
    }
}
