//! What is allowed through one mount of several of a file system: mount_setattr(2), which no
//! crate wraps.

use std::io::Error;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::MountOptions;

/// Sets a mount's flags by its descriptor. Errors: those of mount_setattr(2).
pub(super) fn set(mount: BorrowedFd<'_>, options: &MountOptions) -> Result<(), Error> {
    let flags = [
        (options.is_read_only, libc::MOUNT_ATTR_RDONLY),
        (options.no_exec, libc::MOUNT_ATTR_NOEXEC),
        (options.no_suid, libc::MOUNT_ATTR_NOSUID),
        (options.no_dev, libc::MOUNT_ATTR_NODEV),
        (options.no_atime, libc::MOUNT_ATTR_NOATIME),
    ];
    let on = flags.iter().filter(|(on, _)| *on);
    let clear = flags.iter().filter(|(on, _)| !*on);
    let attr = libc::mount_attr {
        attr_set: on.fold(0, |all, (_, flag)| all | flag),
        // How times of access are kept is a number, not a flag: it is cleared in any case.
        attr_clr: clear.fold(libc::MOUNT_ATTR__ATIME, |all, (_, flag)| all | flag),
        propagation: 0,
        userns_fd: 0,
    };
    set_attr(mount, &attr)
}

#[allow(unsafe_code)]
fn set_attr(mount: BorrowedFd<'_>, attr: &libc::mount_attr) -> Result<(), Error> {
    // SAFETY: the path is empty and ends in a zero; the kernel reads as many bytes of `attr` as
    // it has, and keeps no pointer.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(Error::last_os_error())
    }
}
