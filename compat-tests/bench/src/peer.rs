//! The S3 servers that are compared: ours and, where it is installed, a peer.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::client::{Request, ask};
use crate::sign::{Signer, UNSIGNED, sha256};

const ACCESS_KEY: &str = "AKIABENCH00000000001";
const SECRET_KEY: &str = "bench-secret-0123456789abcdefghijklmnopq";
const START: Duration = Duration::from_secs(120);

/// A port of 127.0.0.1 that nobody listened on just now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A child process that ends with its owner.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a command with its output in a file and waits until it listens.
    pub fn start(mut command: Command, log: &Path, address: SocketAddr) -> Result<Self> {
        let out = File::create(log)?;
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        let mut process = Self {
            child: command
                .spawn()
                .map_err(|error| format!("{command:?}: {error}"))?,
        };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = process.child.try_wait()? {
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("{command:?} ended with {status}: {said}").into());
            }
            if started.elapsed() > START {
                return Err(format!("{command:?} does not listen").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(process)
    }

    /// A value of /proc/PID/status in KiB, such as `VmRSS`.
    pub fn status_kib(&self, name: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| format!("no {name} in /proc").into())
    }

    /// Processor time it has used, in clock ticks. Source: proc(5), utime and stime.
    pub fn cpu_ticks(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = text.rsplit_once(") ").ok_or("no fields in /proc")?;
        fields
            .split(' ')
            .skip(11)
            .take(2)
            .map(|field| Ok(field.parse::<u64>()?))
            .sum()
    }

    /// Starts the high-water mark of resident memory anew. Source: proc(5), clear_refs.
    pub fn reset_high_water(&self) -> Result<()> {
        Ok(fs::write(
            format!("/proc/{}/clear_refs", self.child.id()),
            "5",
        )?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An S3 server under load.
#[derive(Debug)]
pub struct Server {
    /// `portico`, `s3s-fs`, or what distinguishes one of several of ours.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// The directory that holds its buckets.
    pub buckets: PathBuf,
    /// The process.
    pub process: Process,
}

impl Server {
    /// Our release binary on a directory; objects are at `DIR/main`.
    pub fn portico(binary: &Path, dir: &Path, config: &str) -> Result<Self> {
        Self::portico_with("portico", binary, dir, config, &[])
    }

    /// As [`Server::portico`], by another name and with more words.
    pub fn portico_with(
        name: &'static str,
        binary: &Path,
        dir: &Path,
        config: &str,
        words: &[String],
    ) -> Result<Self> {
        fs::create_dir_all(dir.join("main"))?;
        let address = free_address()?;
        let config_path = dir.with_extension("toml");
        fs::write(&config_path, config)?;
        let mut command = Command::new(binary);
        command
            .arg("serve")
            .arg(dir)
            .args(["--listen", &address.to_string(), "--config"])
            .arg(&config_path)
            .args(words)
            .env("PORTICO_ROOT_ACCESS_KEY", ACCESS_KEY)
            .env("PORTICO_ROOT_SECRET_KEY", SECRET_KEY);
        let process = Process::start(command, &dir.with_extension("log"), address)?;
        Ok(Self {
            name,
            address,
            buckets: dir.join("main"),
            process,
        })
    }

    /// The peer on a directory of buckets.
    pub fn peer(binary: &Path, dir: &Path, log: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let address = free_address()?;
        let mut command = Command::new(binary);
        command
            .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])
            .arg(dir)
            .env("RUST_LOG", "error");
        let process = Process::start(command, log, address)?;
        Ok(Self {
            name: "s3s-fs",
            address,
            buckets: dir.to_owned(),
            process,
        })
    }

    /// A signer of requests to it, good for a quarter of an hour.
    pub fn signer(&self) -> Signer {
        Signer::new(&self.address.to_string(), ACCESS_KEY, SECRET_KEY)
    }

    /// Makes a bucket.
    pub fn create_bucket(&self, name: &str) -> Result<()> {
        let head = self
            .signer()
            .head("PUT", &format!("/{name}"), "", &sha256(b""), 0);
        ask(self.address, &Request::small(head, b""))?;
        Ok(())
    }

    /// Puts an object.
    pub fn put(&self, path: &str, body: &[u8]) -> Result<()> {
        let head = self
            .signer()
            .head("PUT", path, "", UNSIGNED, body.len() as u64);
        ask(self.address, &Request::small(head, body))?;
        Ok(())
    }
}
