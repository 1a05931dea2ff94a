//! The mount that all others of a file system are clones of. It stands where nobody can unmount
//! it: in a mount namespace of its own.
//!
//! ```text
//! 1. a thread parts from the others' mounts: what it mounts is seen by nobody else
//! 2. it makes the file system, and mounts it there: the anchor
//! 3. it gives away clones of the anchor, of its root or of a directory below it
//! ```
//!
//! A clone stands nowhere; whoever has its descriptor may move it to a place of his own. Clones
//! outlive the anchor; the file system ends with the last of them all. Source: open_tree(2),
//! mount_namespaces(7). A mount is cloned only where it is one of the cloning thread's own
//! namespace (`check_mnt` in fs/namespace.c); one that stands nowhere itself, from Linux 6.15 on.

use std::ffi::{OsStr, OsString};
use std::io::Error;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Builder;

use fsstore::locks::Device;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
    fsopen, mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{fchdir, getegid, geteuid, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::clones::LooseMount;
use super::{SUBTYPE, file_system_of, open_device};

/// A mount of a file system that nobody sees and that is cloned.
#[derive(Debug)]
pub struct Anchor {
    /// The anchor itself, to look through.
    mount: OwnedFd,
    /// Whose end is the thread's, and the anchor's with it.
    asks: Sender<Ask>,
}

/// A clone that is wanted: of the root, or of what has this name in it.
struct Ask {
    name: Option<OsString>,
    answer: SyncSender<Result<OwnedFd, Error>>,
}

impl Anchor {
    /// Makes a file system; other users may come in. Gives the device by which it is served, too.
    /// Errors: EPERM, EACCES, ENOSYS, EINVAL where this process or this kernel cannot.
    pub fn make(source: &str) -> Result<(Self, OwnedFd), Error> {
        let device = OwnedFd::from(open_device()?);
        let (asks, asked) = channel();
        let (made, outcome) = sync_channel(1);
        let (source, served_by) = (source.to_owned(), device.try_clone()?);
        let thread = Builder::new().name("anchor".to_owned());
        thread.spawn(move || {
            let anchored = part_from_others().and_then(|()| anchor(&source, served_by.as_fd()));
            // Held, it would keep the file system from ending with who serves it.
            drop(served_by);
            let mount = match anchored.and_then(|mount| Ok((mount.try_clone()?, mount))) {
                Ok((given, mount)) => {
                    let _ = made.send(Ok(given));
                    mount
                }
                Err(error) => {
                    let _ = made.send(Err(error));
                    return;
                }
            };
            clone_for_all(&mount, &asked);
        })?;
        let mount = outcome.recv().map_err(|_| ended())??;
        let anchor = Self { mount, asks };
        // Asks the kernel alone: nobody serves yet.
        anchor.clone_of(None)?;
        Ok((anchor, device))
    }

    /// One more mount, of the root or of a directory in it. Errors: ENOENT; ENOTDIR where
    /// something else stands there, once it is moved to its place.
    pub fn clone_of(&self, name: Option<&OsStr>) -> Result<LooseMount, Error> {
        let (answer, outcome) = sync_channel(1);
        let name = name.map(OsStr::to_owned);
        let ask = Ask { name, answer };
        self.asks.send(ask).map_err(|_| ended())?;
        let clone = outcome.recv().map_err(|_| ended())??;
        Ok(LooseMount::received(clone))
    }

    /// The number of the file system.
    pub fn file_system(&self) -> Result<Device, Error> {
        file_system_of(&self.mount, Path::new(""))
    }

    /// The inode number of what has this name in the root. Errors: ENOENT.
    pub fn number_of(&self, name: &OsStr) -> Result<u64, Error> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
        Ok(statx(&self.mount, name, flags, StatxFlags::INO)?.stx_ino)
    }
}

fn ended() -> Error {
    Error::other("the thread that clones mounts has ended")
}

fn clone_for_all(mount: &OwnedFd, asked: &Receiver<Ask>) {
    for Ask { name, answer } in asked {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_NO_AUTOMOUNT
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let clone = open_tree(mount, name.unwrap_or_default(), flags);
        // Who asked may have gone.
        let _ = answer.send(clone.map_err(Error::from));
    }
}

/// Gives this thread mounts of its own. None of what it does with them reaches others.
fn part_from_others() -> Result<(), Error> {
    part()?;
    // What others unmount ends here as well, so that this copy of theirs keeps nothing busy.
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    if let Err(error) = leave_all_behind() {
        tracing::debug!(%error, "the anchor stands among copies of all mounts");
    }
    Ok(())
}

#[allow(unsafe_code)]
fn part() -> Result<(), Errno> {
    // SAFETY: only the flag FILES can part threads from each other's descriptors; this thread
    // gets mounts, a root and a working directory of its own, the latter two as they were.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
}

/// Lets go of the copies of all mounts: only an empty file system stands in this namespace then.
/// Where that cannot be (in an initramfs) they stay. Source: pivot_root(2), "pivot_root(".", ".")".
fn leave_all_behind() -> Result<(), Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let root = fsmount(&context, flags, MountAttrFlags::empty())?;
    move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&root)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)
}

/// Makes the file system and mounts it where this thread is.
fn anchor(source: &str, device: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let mount = new_mount(source, device, true)?;
    move_mount(
        &mount,
        "",
        CWD,
        ".",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    Ok(mount)
}

/// A new file system's mount, which stands nowhere yet. Errors: those of fsopen(2), ENOSYS before
/// Linux 5.2.
pub(super) fn new_mount(
    source: &str,
    device: BorrowedFd<'_>,
    allow_other: bool,
) -> Result<OwnedFd, Error> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let words = [
        ("source", source),
        ("subtype", SUBTYPE),
        ("fd", &device.as_raw_fd().to_string()),
        ("rootmode", "40000"),
        ("user_id", &geteuid().as_raw().to_string()),
        ("group_id", &getegid().as_raw().to_string()),
    ];
    for (word, value) in words {
        fsconfig_set_string(&context, word, value)?;
    }
    fsconfig_set_flag(&context, "default_permissions")?;
    if allow_other {
        fsconfig_set_flag(&context, "allow_other")?;
    }
    fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(fsmount(&context, flags, MountAttrFlags::MOUNT_ATTR_NODEV)?)
}
