//! One file system, mounted any number of times: so its mounts share locks, mapped memory and
//! all that the kernel remembers, which it keeps for each file system alone.
//!
//! Each mount is a clone of the [anchor](super::anchor). It stands nowhere at first; whoever wants
//! it, perhaps another process in another mount namespace, sets its flags and moves it to its place.
//! Source: move_mount(2).

use std::io::Error;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use super::former::{Former, detach_held};
use super::table::Watched;
use super::{MountOptions, attr};

/// A mount that stands nowhere yet. Dropped, it is gone.
#[derive(Debug)]
pub struct LooseMount(OwnedFd);

impl LooseMount {
    /// One that another thread or process made.
    pub fn received(mount: OwnedFd) -> Self {
        Self(mount)
    }

    /// Watches it: it is about to be put in its place.
    pub fn watch(&self, at: &Path) -> Result<Watched, Error> {
        Watched::new(self.0.as_fd(), at)
    }

    /// The inode number of what it shows.
    pub fn number(&self) -> Result<u64, Error> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        Ok(statx(&self.0, "", flags, StatxFlags::INO)?.stx_ino)
    }

    /// Puts it in its place, in that of a former mount where there is one. That one is taken
    /// away, and those who use it may go on using it; the bare directory is seen only where
    /// nothing can be put [beneath](Former::put_beneath). Errors: EPERM where this process may
    /// not; ENOTDIR; NotFound where someone else has taken the former away.
    pub fn attach(
        self,
        at: &Path,
        options: &MountOptions,
        former: Option<Former>,
    ) -> Result<Watched, Error> {
        attr::set(self.0.as_fd(), options)?;
        let watched = self.watch(at)?;
        let Some(former) = former else {
            self.move_to(at)?;
            return Ok(watched);
        };
        match former.put_beneath(self.0.as_fd()) {
            Ok(()) => self.uncover(&former)?,
            Err(Errno::INVAL) => {
                former.detach()?;
                self.move_to(at)?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(watched)
    }

    /// Puts it in the place of another. Errors: as [`attach`](Self::attach); EBUSY where the other
    /// is not uppermost there.
    pub fn replace(
        self,
        at: &Path,
        options: &MountOptions,
        other: &Watched,
    ) -> Result<Watched, Error> {
        let former = Former::at(at)?.filter(|former| former.is(other));
        let former = former.ok_or(Errno::BUSY)?;
        self.attach(at, options, Some(former))
    }

    /// Takes the mount away beneath which this one stands, or this one where that cannot be.
    pub(super) fn uncover(&self, former: &Former) -> Result<(), Error> {
        former.detach().inspect_err(|_| {
            if let Err(error) = detach_held(self.0.as_fd()) {
                tracing::debug!(%error, "a mount is left beneath another");
            }
        })
    }

    fn move_to(&self, at: &Path) -> Result<(), Errno> {
        move_mount(
            &self.0,
            "",
            CWD,
            at,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
    }
}

impl AsFd for LooseMount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
