//! What a request prepares before it takes a claim.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Claims, create_in};
use crate::brick::disk::Disk;
use crate::brick::osdisk::OsFile;
use crate::error::Result;
use crate::shared::disk::Dir;

/// A directory of our own in staging. Dropping it takes it away with what is in it.
pub struct Stage {
    pub(super) claims: Arc<Claims>,
    pub(super) path: String,
    pub(super) dir: Dir,
    /// The file that is in it only so that it is not empty.
    pub(super) held: Mutex<Option<String>>,
    pub(super) is_moved: AtomicBool,
}

impl Stage {
    /// Makes a file in it; gives its name.
    pub fn create(&self) -> Result<(String, OsFile)> {
        create_in(&self.claims, &self.dir)
    }

    /// Puts an empty file in it, so that it can be a claim.
    pub fn hold(&self) -> Result<()> {
        let (name, _) = self.create()?;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(name);
        Ok(())
    }

    /// The directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Moves the directory to where none is, with all that is in it, as one step.
    pub fn move_to(self, to: &Dir, name: &str) -> io::Result<()> {
        let claims = &self.claims;
        claims
            .disk
            .rename(&claims.staging, &self.path, to, name)
            .inspect(|()| self.is_moved.store(true, Ordering::Release))
    }

    /// Moves a file of it to a name, replacing what is there.
    pub fn place(&self, entry: &str, to: &Dir, name: &str) -> io::Result<()> {
        self.claims.disk.rename(&self.dir, entry, to, name)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.is_moved.load(Ordering::Acquire) {
            return;
        }
        let (claims, dir) = (Arc::clone(&self.claims), Arc::clone(&self.dir));
        let path = std::mem::take(&mut self.path);
        off_this_thread(move || {
            if let Ok(names) = claims.names_in(&dir) {
                for name in names {
                    let _ = claims.disk.unlink(&dir, &name);
                }
            }
            let _ = claims.disk.remove_dir(&claims.staging, &path);
        });
    }
}

/// Disk work that nobody waits for: not on a thread of the runtime.
fn off_this_thread(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}
