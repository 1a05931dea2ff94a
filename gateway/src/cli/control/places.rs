//! Mountpoints as guests and hosts treat them: what is taken away before a mount, and what may be
//! taken away at its end.

use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use crate::cli::CommandError;
use crate::posix::mounting::{self, Former, MountId, MountOptions, Standing, Watched};

/// What umount(8) may take from ending a file system by force to taking the mount away.
const FORCING: Duration = Duration::from_millis(300);

/// Mounts a file system of its own.
pub(crate) fn mount(
    at: &Path,
    options: &MountOptions,
    dead: Option<Former>,
) -> Result<(OwnedFd, MountId), Error> {
    let device = mounting::mount(at, options, dead)?;
    let id = mounting::ours(at)?.ok_or(ErrorKind::NotFound)?;
    Ok((device, id))
}

/// The dead mount that the next one is to take the place of, if there is one. Errors: a mount of
/// portico is served there; it is no directory.
pub(crate) fn dead_mount(at: &Path) -> Result<Option<Former>, CommandError> {
    let failed = |error| mount_failed(at, &error);
    let found = match mounting::standing(at).map_err(failed)? {
        Standing::Free => return Ok(None),
        Standing::Dead => Former::at(at).map_err(failed)?,
        Standing::Alive => return Err(mounted_already(at)),
    };
    match found {
        Some(other) if !other.is_dead() => Err(mounted_already(at)),
        dead => Ok(dead),
    }
}

fn mounted_already(at: &Path) -> CommandError {
    CommandError::new(format!("{} is mounted already", at.display()))
}

/// What people are told of a mount that cannot be made.
pub(crate) fn mount_failed(at: &Path, error: &Error) -> CommandError {
    let shown = at.display();
    CommandError::new(format!("cannot mount at {shown}: {error}"))
}

/// Whether a mount stands though its file system has ended. With `umount -f` the one comes a
/// moment after the other, and such a mount is not to come back.
pub(crate) fn is_still_there(mount: &Watched) -> bool {
    std::thread::sleep(FORCING);
    mount.stands().unwrap_or(false)
}

/// Unmounts; where it is in use, takes it out of the tree. What others have mounted upon it, or
/// in its place, is left alone, and the mount with it. Gives whether the mount is taken away.
pub(crate) fn end_mount(at: &Path, id: MountId) -> bool {
    if !matches!(mounting::ours(at), Ok(Some(found)) if found == id) {
        tracing::warn!(at = %at.display(), "another mount stands there; it is left");
        return false;
    }
    let ended = mounting::unmount(at).or_else(|error| {
        tracing::debug!(%error, at = %at.display(), "cannot unmount");
        mounting::detach(at)
    });
    ended
        .inspect_err(|error| tracing::warn!(%error, at = %at.display(), "the mount is left"))
        .is_ok()
}
