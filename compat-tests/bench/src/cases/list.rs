//! Pages of 1,000 keys of flat buckets, small and very large. The files are written straight into
//! the tree before the servers start; both serve the same files.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Bench, Subject, interleave};
use crate::Result;
use crate::client::{Connection, Request, must_succeed};
use crate::load::{Block, run};
use crate::peer::Server;
use crate::report::Unit;
use crate::sign::sha256;

/// Objects of the small flat bucket.
pub const SMALL_BUCKET_OBJECTS: usize = 10_000;
/// Keys of a page.
const PAGE_KEYS: usize = 1_000;
/// Most pages of one round.
const PAGES: usize = 200;
/// The peer walks the whole bucket for a page: fewer will do.
const PEER_PAGES: usize = 3;
/// Threads that write the tree.
const WRITERS: usize = 4;
/// Longest time until the index has the tree.
const INDEX_LIMIT: Duration = Duration::from_secs(600);
/// Digests of these files are of no concern here, and must not be computed meanwhile.
const CONFIG: &str = "hash = \"never\"\n";

/// Name of the case for a bucket of that many objects.
pub fn case_name(objects: usize) -> String {
    format!("LIST page of 1,000 of {objects}")
}

/// Both buckets, ours and the peer's listing of the same files.
pub fn pages(bench: &mut Bench) -> Result<()> {
    let dir = bench.work_dir.join("list");
    let sizes = [SMALL_BUCKET_OBJECTS, bench.scale.list_objects];
    let mut is_new = false;
    for objects in sizes {
        is_new |= write_tree(&dir.join("main").join(bucket(objects)), objects)?;
    }
    let started = Instant::now();
    let portico = Server::portico(&bench.portico_binary, &dir, CONFIG)?;
    for objects in sizes {
        wait_for_index(&portico, objects)?;
    }
    let took = started.elapsed().as_secs_f64();
    let how = if is_new {
        "built"
    } else {
        "kept from before, ready"
    };
    bench.report.notes.push(format!(
        "Listings: files written straight into the tree; index {how} {took:.1} s after the start."
    ));
    let mut servers = vec![portico];
    if let Some(binary) = &bench.peer_binary {
        let log = bench.work_dir.join("list-peer.log");
        servers.push(Server::peer(binary, &dir.join("main"), &log)?);
    }
    for objects in sizes {
        let limit = bench.scale.block;
        let mut subjects: Vec<Subject<'_>> = Vec::new();
        for server in &servers {
            let pages = if server.name == "portico" {
                PAGES
            } else {
                PEER_PAGES
            };
            subjects.push((
                server.name,
                Box::new(move |round| read_pages(server, objects, pages, round, limit)),
            ));
        }
        let name = case_name(objects);
        let rounds = bench.scale.rounds;
        interleave(&mut bench.report, &name, Unit::LatencyMs, rounds, subjects)?;
    }
    Ok(())
}

fn bucket(objects: usize) -> String {
    format!("flat-{objects}")
}

fn key(number: usize) -> String {
    format!("object-{number:08}")
}

/// Writes the files where they are not yet; true where it did.
fn write_tree(dir: &Path, objects: usize) -> Result<bool> {
    let last = dir.join(key(objects - 1));
    if last.exists() {
        return Ok(false);
    }
    fs::create_dir_all(dir)?;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || -> std::io::Result<()> {
                    for number in (writer..objects - 1).step_by(WRITERS) {
                        let name = key(number);
                        File::create(dir.join(&name))?.write_all(name.as_bytes())?;
                    }
                    Ok(())
                })
            })
            .collect();
        for writer in writers {
            writer.join().map_err(|_| "a writer panicked")??;
        }
        File::create(&last)?.write_all(b"last")?;
        Ok(true)
    })
}

/// A page that starts after the key of that number.
fn page(server: &Server, objects: usize, after: usize) -> Request {
    let query = format!(
        "list-type=2&max-keys={PAGE_KEYS}&start-after={}",
        key(after)
    );
    let path = format!("/{}", bucket(objects));
    Request::small(
        server.signer().head("GET", &path, &query, &sha256(b""), 0),
        b"",
    )
}

/// Counts the bucket page by page until every object is listed.
fn wait_for_index(server: &Server, objects: usize) -> Result<()> {
    let started = Instant::now();
    let path = format!("/{}", bucket(objects));
    loop {
        let mut connection = Connection::open(server.address)?;
        let mut found = 0;
        let mut after = String::from("!");
        loop {
            let query = format!(
                "list-type=2&max-keys={PAGE_KEYS}&start-after={}",
                escaped(&after)
            );
            let head = server.signer().head("GET", &path, &query, &sha256(b""), 0);
            let answer = must_succeed(connection.fetch(&Request::small(head, b""))?)?;
            let text = String::from_utf8(answer.body)?;
            let count = text.matches("<Key>").count();
            found += count;
            match text
                .rsplit_once("<Key>")
                .and_then(|(_, rest)| rest.split_once("</Key>"))
            {
                Some((key, _)) if count == PAGE_KEYS => key.clone_into(&mut after),
                _ => break,
            }
        }
        if found == objects {
            return Ok(());
        }
        if started.elapsed() > INDEX_LIMIT {
            return Err(format!("{found} of {objects} objects are listed").into());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The keys of these buckets need no escapes, the mark before the first one does.
fn escaped(key: &str) -> String {
    key.replace('!', "%21")
}

fn read_pages(
    server: &Server,
    objects: usize,
    pages: usize,
    round: usize,
    limit: Duration,
) -> Result<Block> {
    let mut connection = Connection::open(server.address)?;
    let room = objects - PAGE_KEYS - 1;
    let list: Vec<Request> = (0..pages)
        .map(|number| page(server, objects, (round * pages + number) * 7_919_993 % room))
        .collect();
    let first = must_succeed(connection.fetch(&list[0])?)?;
    let keys = String::from_utf8_lossy(&first.body)
        .matches("<Key>")
        .count();
    if keys != PAGE_KEYS {
        return Err(format!("{keys} keys on a page").into());
    }
    let mut next = list.iter();
    let work = Box::new(move || match next.next() {
        None => Ok(None),
        Some(request) => {
            let answer = must_succeed(connection.exchange(request)?)?;
            Ok(Some(answer.len_bytes))
        }
    });
    run(vec![work], limit.max(Duration::from_secs(1)))
}
