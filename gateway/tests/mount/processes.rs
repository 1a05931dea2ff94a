//! Servers and mounts as processes, and directories for them; all of it is gone at a test's end,
//! however it ends.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}: in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).unwrap();
    kill_process(pid, signal).unwrap();
}

/// A tree and a mountpoint beside it.
pub struct Place {
    dir: Rc<tempfile::TempDir>,
    at: PathBuf,
}

impl Place {
    /// None where nothing can be mounted.
    pub fn new() -> Option<Self> {
        let may_mount = fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .is_ok();
        let is_root = rustix::process::geteuid().is_root();
        if !may_mount || !is_root && !Path::new("/usr/bin/fusermount3").exists() {
            eprintln!("skipped: nothing can be mounted here");
            return None;
        }
        let dir = Rc::new(tempfile::tempdir().unwrap());
        let place = Self {
            at: dir.path().join("mnt"),
            dir,
        };
        fs::create_dir(&place.at).unwrap();
        // What `portico serve` has once made.
        for part in ["tree", "tree/main", "tree/.portico"] {
            fs::create_dir(place.dir.path().join(part)).unwrap();
        }
        Some(place)
    }

    /// Another mountpoint for the same tree.
    pub fn other(&self) -> Self {
        self.another("other")
    }

    /// One more, of this name.
    pub fn another(&self, name: &str) -> Self {
        let at = self.dir.path().join(name);
        fs::create_dir(&at).unwrap();
        Self {
            dir: Rc::clone(&self.dir),
            at,
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    pub fn at(&self) -> &Path {
        &self.at
    }

    fn lines(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let at = self.at.to_str().unwrap();
        let lines = table.lines();
        let here = lines.filter(|line| line.split(' ').nth(4) == Some(at));
        here.map(str::to_owned).collect()
    }

    /// What the kernel's table says of the mount here.
    pub fn line(&self) -> String {
        self.lines().pop().unwrap()
    }

    /// How many mounts are here, one over the other.
    pub fn mount_count(&self) -> usize {
        self.lines().len()
    }

    pub fn is_mounted(&self) -> bool {
        self.mount_count() > 0
    }

    pub fn unmount(&self) {
        gateway::posix::mounting::detach(&self.at).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portico"));
        command
            .args(words)
            .env_remove("PORTICO_DIR")
            .current_dir(self.dir.path());
        command
    }

    /// Runs a command to its end.
    pub fn portico(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    pub fn serve(&self) -> Process {
        self.serve_with(&[])
    }

    /// A server that listens, for mounts too.
    pub fn serve_with(&self, flags: &[&str]) -> Process {
        let mut command = self.command(&["serve", "tree", "--listen", "127.0.0.1:0"]);
        let mut child = command.args(flags).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(line.contains("Portico serves"), "{line}");
        // The rest is read, so that nothing waits for a reader.
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        Process {
            child,
            said: serde_json::Value::Null,
        }
    }

    pub fn mount(&self, flags: &[&str]) -> Process {
        self.mount_of("", flags)
    }

    /// A mount of the tree, or of a bucket, that stands.
    pub fn mount_of(&self, bucket: &str, flags: &[&str]) -> Process {
        let source = self.tree().join(bucket);
        let words = [
            "mount",
            source.to_str().unwrap(),
            self.at.to_str().unwrap(),
            "--json",
        ];
        let mut command = self.command(&words);
        let mut child = command.args(flags).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.ends_with("}\n") {
            let len = stdout.read_line(&mut said).unwrap();
            assert!(len > 0, "the mount ended before it stood: {said}");
        }
        Process {
            child,
            said: serde_json::from_str(&said).unwrap(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while self.is_mounted() {
            let _ = gateway::posix::mounting::detach(&self.at);
        }
    }
}

/// A server or a mount.
pub struct Process {
    child: Child,
    /// What a mount said of itself.
    pub said: serde_json::Value,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends, as in order, after this was done.
    pub fn ends_after(mut self, act: impl FnOnce()) {
        act();
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(start.elapsed() < PATIENCE, "it goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
