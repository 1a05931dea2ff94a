//! Who may replace the users file, among hosts that share a file system on which flock(2) may reach
//! no further than one of them.
//!
//! A claim is a directory `users.claim` that is not empty, moved there by rename(2), which refuses
//! one that stands: so one of all hosts has it. The new file is written in it and renamed out of it,
//! through its descriptor. One that has not moved for [`PATIENCE`] while it was watched is a dead
//! command's and is emptied; a command that only slept finds its file gone then and fails, and
//! cannot undo what came after it.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use fsstore::durable;
use fsstore::name::hex;
use rustix::fs::{self, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// How long a claim must not have changed before it is broken.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one is waited for in all.
const MAX_WAIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// Most of a pause that counts as watched: a watcher that slept has seen nothing.
const MAX_WATCHED: Duration = Duration::from_millis(500);
const NAME: &str = "users.claim";
const HOLDER: &str = "holder";

/// A claim. Dropping it gives it up.
#[derive(Debug)]
pub(super) struct FileClaim {
    parent: OwnedFd,
    dir: OwnedFd,
    /// A name that no other claim has in it.
    own: String,
}

impl FileClaim {
    /// Takes the claim in a directory, waiting for who has it. Errors: WouldBlock after
    /// [`MAX_WAIT`].
    pub(super) fn take(directory: &Path) -> io::Result<Self> {
        Self::take_within(directory, PATIENCE, MAX_WAIT)
    }

    fn take_within(directory: &Path, patience: Duration, limit: Duration) -> io::Result<Self> {
        let parent = open_dir(CWD, directory)?;
        let mut random = [0; 8];
        getrandom(&mut random[..], GetRandomFlags::empty())?;
        let own = hex(&random);
        let staged = format!("{NAME}-{own}");
        fs::mkdirat(&parent, &staged, Mode::RWXU)?;
        let made = open_dir(&parent, &staged).and_then(|dir| {
            create(&dir, &format!("{HOLDER}-{own}"))?;
            Ok(dir)
        });
        let claim = Self {
            dir: made?,
            parent,
            own,
        };
        let moved = claim.move_there(&staged, patience, limit);
        if moved.is_err() {
            claim.clear();
            let _ = fs::unlinkat(&claim.parent, &staged, AtFlags::REMOVEDIR);
        }
        moved.map(|()| claim)
    }

    fn move_there(&self, staged: &str, patience: Duration, limit: Duration) -> io::Result<()> {
        let began = Instant::now();
        let (mut seen, mut watched, mut last) = (BTreeSet::new(), Duration::ZERO, began);
        loop {
            match fs::renameat(&self.parent, staged, &self.parent, NAME) {
                Ok(()) => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            if began.elapsed() > limit {
                return Err(ErrorKind::WouldBlock.into());
            }
            std::thread::sleep(PAUSE.min(patience / 8));
            let now = Instant::now();
            let Ok(standing) = open_dir(&self.parent, NAME) else {
                continue;
            };
            let names = names_in(&standing)?;
            watched = match names == seen {
                true => watched + (now - last).min(MAX_WATCHED).min(patience / 8),
                false => Duration::ZERO,
            };
            (seen, last) = (names, now);
            if watched >= patience {
                tracing::warn!("a command that changed users and died: its claim is broken");
                unlink_all(&standing, &seen);
                watched = Duration::ZERO;
            }
            if seen.is_empty() || watched.is_zero() {
                // One with anything in it stays.
                let _ = fs::unlinkat(&self.parent, NAME, AtFlags::REMOVEDIR);
            }
        }
    }

    /// Gives a file these bytes, durably, replacing one of that name. Errors: NotFound where the
    /// claim was broken.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let staged = format!("{name}-{}", self.own);
        let mut file = std::fs::File::from(create(&self.dir, &staged)?);
        file.write_all(bytes)?;
        durable::sync_file(&file, false)?;
        fs::renameat(&self.dir, &staged, &self.parent, name)?;
        match durable::sync_dir(&self.parent) {
            // Some FUSE file systems make names durable at once and know no fsync of directories.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }

    fn clear(&self) {
        if let Ok(names) = names_in(&self.dir) {
            unlink_all(&self.dir, &names);
        }
    }
}

impl Drop for FileClaim {
    fn drop(&mut self) {
        self.clear();
        // If it was broken this is another's, which is not empty, and stays.
        let _ = fs::unlinkat(&self.parent, NAME, AtFlags::REMOVEDIR);
    }
}

fn open_dir(base: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(fs::openat(base, path, flags, Mode::empty())?)
}

fn create(dir: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    Ok(fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?)
}

fn names_in(dir: &OwnedFd) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.insert(name);
        }
    }
    Ok(names)
}

fn unlink_all(dir: &OwnedFd, names: &BTreeSet<String>) {
    for name in names {
        let _ = fs::unlinkat(dir, name, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::FileClaim;

    const SOON: Duration = Duration::from_millis(80);
    const LONG: Duration = Duration::from_secs(120);

    #[test]
    fn one_of_many_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (inside, path) = (&inside, dir.path());
                scope.spawn(move || {
                    for _ in 0..5 {
                        let claim = FileClaim::take_within(path, LONG, LONG).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        claim.replace("users.toml", &[number]).unwrap();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn who_slept_and_was_overtaken_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let asleep = FileClaim::take_within(dir.path(), LONG, LONG).unwrap();
        let other = FileClaim::take_within(dir.path(), SOON, LONG).unwrap();
        other.replace("users.toml", b"new").unwrap();
        assert!(asleep.replace("users.toml", b"late").is_err());
        drop(asleep);
        other.replace("users.toml", b"newer").unwrap();
        drop(other);
        assert_eq!(
            std::fs::read(dir.path().join("users.toml")).unwrap(),
            b"newer"
        );
        assert!(!dir.path().join("users.claim").exists());
    }
}
