//! File systems that are compared with the plain directory: our mount, and libfuse's example.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;

const START: Duration = Duration::from_secs(30);

/// A mounted FUSE file system; it is unmounted when its owner goes.
#[derive(Debug)]
pub struct Mounted {
    /// Where it is mounted.
    pub point: PathBuf,
    child: Child,
}

impl Mounted {
    /// Our mount of the tree that a server has open.
    pub fn portico(binary: &Path, tree: &Path, point: &Path) -> Result<Self> {
        let mut command = Command::new(binary);
        command.arg("mount").arg(tree).arg(point);
        Self::start(command, point)
    }

    /// libfuse's passthrough_hp on a directory, with its caches on.
    pub fn anchor(binary: &Path, source: &Path, point: &Path) -> Result<Self> {
        let mut command = Command::new(binary);
        command.arg("--foreground").arg(source).arg(point);
        Self::start(command, point)
    }

    /// Runs a command that mounts and stays, and waits until the mount stands.
    fn start(mut command: Command, point: &Path) -> Result<Self> {
        fs::create_dir_all(point)?;
        let before = fs::metadata(point)?.dev();
        let log = point.with_extension("log");
        let out = File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        let child = command
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let mut mounted = Self {
            point: point.to_owned(),
            child,
        };
        let started = Instant::now();
        while fs::metadata(point)?.dev() == before {
            let status = mounted.child.try_wait()?;
            if status.is_some() || started.elapsed() > START {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("{command:?} does not mount ({status:?}): {said}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.point);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes a mount away, if there is one: also what a run that was killed left behind.
pub fn unmount(point: &Path) {
    let _ = Command::new("umount")
        .arg("-l")
        .arg(point)
        .stderr(Stdio::null())
        .status();
}
