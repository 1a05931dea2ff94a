//! Runs prepared work on many threads for a bounded time and takes each operation's latency.

use std::net::SocketAddr;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::Result;
use crate::client::{Connection, Request, must_succeed};

/// One measured stretch of one subject.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Block {
    /// Operations that ended well.
    pub ops: u64,
    /// Bytes of the objects they moved.
    pub bytes: u64,
    /// From the start of the first operation to the end of the last, in seconds.
    pub seconds: f64,
    /// Each operation's latency in microseconds.
    #[serde(skip)]
    pub latencies_us: Vec<u32>,
}

impl Block {
    /// Operations a second.
    pub fn ops_per_s(&self) -> f64 {
        self.ops as f64 / self.seconds.max(1e-9)
    }

    /// MiB a second.
    pub fn mib_per_s(&self) -> f64 {
        self.bytes as f64 / (1024.0 * 1024.0) / self.seconds.max(1e-9)
    }
}

/// What a thread may do next; `None` ends it.
pub type Work<'a> = Box<dyn FnMut() -> Result<Option<u64>> + Send + 'a>;

/// Runs every thread's work until it has none left or the time is over. The time starts when all
/// threads are ready.
pub fn run(threads: Vec<Work<'_>>, limit: Duration) -> Result<Block> {
    let ready = Barrier::new(threads.len() + 1);
    std::thread::scope(|scope| {
        let running: Vec<_> = threads
            .into_iter()
            .map(|work| {
                let ready = &ready;
                scope.spawn(move || {
                    ready.wait();
                    run_one(work, limit)
                })
            })
            .collect();
        ready.wait();
        let started = Instant::now();
        let mut whole = Block::default();
        for thread in running {
            let part = thread.join().map_err(|_| "a client thread panicked")??;
            whole.ops += part.ops;
            whole.bytes += part.bytes;
            whole.latencies_us.extend(part.latencies_us);
        }
        whole.seconds = started.elapsed().as_secs_f64();
        Ok(whole)
    })
}

fn run_one(mut work: Work<'_>, limit: Duration) -> Result<Block> {
    let mut block = Block::default();
    let started = Instant::now();
    while started.elapsed() < limit {
        let before = Instant::now();
        let Some(bytes) = work()? else { break };
        let took_us = before.elapsed().as_micros();
        block
            .latencies_us
            .push(u32::try_from(took_us).unwrap_or(u32::MAX));
        block.ops += 1;
        block.bytes += bytes;
    }
    Ok(block)
}

/// Work that sends a thread's requests in order over one connection, again and again where
/// `repeat` says so. `len_bytes` is what each moves; answers of GETs must be that long.
pub fn requests<'a>(
    address: SocketAddr,
    list: Vec<Request>,
    repeat: bool,
    len_bytes: u64,
    is_get: bool,
) -> Result<Work<'a>> {
    let mut connection = Connection::open(address)?;
    let mut next = 0;
    Ok(Box::new(move || {
        if next == list.len() {
            if !repeat {
                return Ok(None);
            }
            next = 0;
        }
        let answer = must_succeed(connection.exchange(&list[next])?)?;
        if is_get && answer.len_bytes != len_bytes {
            return Err(format!("{} bytes for {len_bytes}", answer.len_bytes).into());
        }
        next += 1;
        Ok(Some(len_bytes))
    }))
}
