//! Where a tree keeps what: `DIR/main` is the volume `main`, `DIR/.portico` is the server's own.
//!
//! ```text
//! DIR/main/BUCKET/KEY          objects, save where bricks have them
//! DIR/main/.portico/           the volume's own state
//! DIR/.portico/lock            held while a server runs; holds its pid,
//!                              and `mount` where that server is a mount
//! DIR/.portico/control.sock    where mounts join who holds the lock (see `control`)
//! DIR/.portico/shared          there where gateways share the tree (`serve --shared`)
//! DIR/.portico/doctor.json     what `portico doctor` found of its file system
//! DIR/.portico/users.toml      users and keys, mode 0600 (see `users`)
//! DIR/.portico/volume.json     where the volume's bricks are, if it has several
//! ```

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fsstore::bricks::making::{Note, label_of};
use rustix::fs::FlockOperation;

use super::CommandError;

/// The name of the volume that a server serves.
pub(super) const VOLUME: &str = "main";
/// The directory of the server's own state.
const STATE: &str = ".portico";

/// The name of the file that is locked, in that directory.
const LOCK: &str = "lock";
/// The file that says that gateways share the tree.
const SHARED: &str = "shared";
/// What a mount that serves adds there.
const MOUNT: &str = "mount";

/// The paths of one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// A tree that is there already.
    pub(super) fn existing(dir: &Path) -> Result<Self, CommandError> {
        if !dir.is_dir() {
            let shown = dir.display();
            return Err(CommandError::new(format!("{shown} is not a directory")));
        }
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// A tree that is made where it is not there. The state's directory is for its owner only.
    pub(super) fn create(dir: &Path) -> Result<Self, CommandError> {
        let layout = Self::create_own(dir)?;
        let volume = layout.volume();
        std::fs::create_dir_all(&volume).map_err(cannot_create(&volume))?;
        Ok(layout)
    }

    /// A server's own directory, without a volume in it.
    pub(super) fn create_own(dir: &Path) -> Result<Self, CommandError> {
        let layout = Self {
            dir: dir.to_owned(),
        };
        std::fs::create_dir_all(dir).map_err(cannot_create(dir))?;
        let state = layout.state();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&state)
            .map_err(cannot_create(&state))?;
        Ok(layout)
    }

    /// The server's own directory where none is named: only a volume of bricks has one apart.
    pub(super) fn default_own() -> Result<PathBuf, CommandError> {
        if rustix::process::geteuid().is_root() {
            return Ok(PathBuf::from("/var/lib/portico"));
        }
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let state = variable("XDG_STATE_HOME").map(PathBuf::from);
        let home = || Some(PathBuf::from(variable("HOME")?).join(".local/state"));
        let state = state.or_else(home).ok_or_else(|| {
            CommandError::new("which directory is the server's own? give DIR or PORTICO_DIR")
        })?;
        Ok(state.join("portico"))
    }

    /// Refuses a directory whose volume is not in it alone: one that only part of the volume is
    /// in, or whose volume is on bricks.
    pub(super) fn refuse_bricks(&self) -> Result<(), CommandError> {
        let shown = self.dir.display();
        if let Some(label) = label_of(&self.dir) {
            let name = label.volume_name;
            return Err(CommandError::new(format!(
                "{shown} is a brick of volume `{name}`, which is on several: name the directory of \
                 the server that serves it (`portico serve --brick {shown} --brick …`)"
            )));
        }
        if let Some(note) = Note::read(&self.state())? {
            return Err(CommandError::new(format!(
                "volume `{}` of {shown} is on several bricks ({}): this command is for a directory \
                 that is a volume of its own",
                note.volume_name,
                note.dirs
                    .iter()
                    .map(|dir| dir.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            )));
        }
        Ok(())
    }

    /// Whether this is the server's own directory of a volume on several bricks.
    pub(super) fn has_bricks(&self) -> Result<bool, CommandError> {
        Ok(Note::read(&self.state())?.is_some())
    }

    /// Refuses what cannot be mounted: a tree that no server has ever opened, a brick of several.
    pub(super) fn mountable(&self) -> Result<(), CommandError> {
        match label_of(&self.dir).is_none() && self.has_bricks()? {
            true => Ok(()),
            false => self.served_before(),
        }
    }

    /// Refuses a tree that no server has ever opened: it has no state to look at.
    pub(super) fn served_before(&self) -> Result<(), CommandError> {
        self.refuse_bricks()?;
        if self.state().is_dir() && self.volume().is_dir() {
            return Ok(());
        }
        let shown = self.dir.display();
        Err(CommandError::new(format!(
            "{shown} was never served by portico"
        )))
    }

    /// The volume's root.
    pub(super) fn volume(&self) -> PathBuf {
        self.dir.join(VOLUME)
    }

    /// The directory itself.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of the server's own state.
    pub(super) fn state(&self) -> PathBuf {
        self.dir.join(STATE)
    }

    /// Takes the tree for this process until the lock is dropped. Errors: another process has
    /// it, which is named by its pid.
    pub(super) fn lock(&self) -> Result<TreeLock, CommandError> {
        let (lock, mut file) = self.attempt("")?;
        lock.ok_or_else(|| {
            let mut holder = String::new();
            if let Err(error) = file.read_to_string(&mut holder) {
                return self.cannot_lock(error);
            }
            let shown = self.dir.display();
            CommandError::new(match holder.trim().split_once(' ') {
                Some((pid, MOUNT)) => format!(
                    "{shown} is in use by a mount, the portico with pid {pid}: unmount it, start \
                     `portico serve` first, and mount again beside it"
                ),
                _ => format!(
                    "{shown} is in use by the portico with pid {}",
                    holder.trim()
                ),
            })
        })
    }

    /// Takes the tree for gateways that share it: they keep out who would have it alone.
    pub(super) fn lock_shared(&self) -> Result<TreeLock, CommandError> {
        let failed = |error| self.cannot_lock(error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.state().join(LOCK))
            .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let shown = self.dir.display();
                return Err(CommandError::new(format!(
                    "{shown} is in use by a portico that does not share it"
                )));
            }
            // What keeps a server out that would have the tree alone is the file below.
            Err(error) => tracing::warn!(%error, "this file system keeps no locks"),
        }
        std::fs::write(self.state().join(SHARED), b"").map_err(failed)?;
        Ok(TreeLock { _file: file })
    }

    /// As [`Layout::lock`], for a mount; none where another process has it.
    pub(super) fn try_lock_for_mount(&self) -> Result<Option<TreeLock>, CommandError> {
        Ok(self.attempt(MOUNT)?.0)
    }

    fn cannot_lock(&self, error: std::io::Error) -> CommandError {
        let shown = self.state().join(LOCK);
        CommandError::new(format!("cannot lock {}: {error}", shown.display()))
    }

    /// The lock, where it is free, and the file that is locked, which says what this process is.
    fn attempt(&self, what: &str) -> Result<(Option<TreeLock>, File), CommandError> {
        let failed = |error| self.cannot_lock(error);
        if self.state().join(SHARED).exists() {
            let shown = self.dir.display();
            return Err(CommandError::new(format!(
                "{shown} is shared by gateways: serve it with --shared, and use the file system's \
                 own mounts; to have it for one server again, stop them all and remove {}",
                self.state().join(SHARED).display()
            )));
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.state().join(LOCK))
            .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok((None, file)),
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{} {what}", std::process::id()).map_err(failed)?;
        let held = file.try_clone().map_err(failed)?;
        Ok((Some(TreeLock { _file: held }), file))
    }
}

fn cannot_create(path: &Path) -> impl FnOnce(std::io::Error) -> CommandError {
    let shown = path.display().to_string();
    move |error| CommandError::new(format!("cannot create {shown}: {error}"))
}

/// The right to change a tree. The kernel takes it back when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct TreeLock {
    _file: File,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_tree_has_one_server_and_the_second_is_told_its_pid() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let held = layout.lock().unwrap();
        let refused = layout.lock().unwrap_err().text;
        let pid = std::process::id().to_string();
        assert!(refused.ends_with(&format!("pid {pid}")), "{refused}");
        drop(held);
        layout.lock().unwrap();
    }

    #[test]
    fn a_mount_that_has_the_tree_is_called_one() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let _held = layout.try_lock_for_mount().unwrap().unwrap();
        let refused = layout.lock().unwrap_err().text;
        let named = format!(
            "in use by a mount, the portico with pid {}:",
            std::process::id()
        );
        assert!(refused.contains(&named), "{refused}");
        assert!(layout.try_lock_for_mount().unwrap().is_none());
    }

    #[test]
    fn gateways_share_a_tree_and_keep_others_out() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let alone = layout.lock().unwrap();
        let refused = layout.lock_shared().unwrap_err().text;
        assert!(refused.contains("does not share"), "{refused}");
        drop(alone);
        let first = layout.lock_shared().unwrap();
        let _second = layout.lock_shared().unwrap();
        drop(first);
        let refused = layout.lock().unwrap_err().text;
        assert!(refused.contains("--shared"), "{refused}");
    }

    #[test]
    fn the_state_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(&dir.path().join("a/b")).unwrap();
        let mode = layout.state().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(layout.volume().is_dir());
    }

    #[test]
    fn a_tree_that_is_not_there_is_named() {
        let error = Layout::existing(Path::new("/nonexistent/tree")).unwrap_err();
        assert_eq!(error.text, "/nonexistent/tree is not a directory");
    }
}
