//! Mountpoints: mounting, unmounting, and finding one whose server is gone.
//!
//! As root by mount(2), or as one of several mounts of a file system ([`clones`]); as a user by
//! `fusermount3`, which may. Only the mountpoint's path is touched, and nothing below it.

mod anchor;
mod attr;
mod clones;
mod former;
mod table;

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fsstore::locks::Device;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, statfs, statx};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount as mount_at, unmount as unmount_at};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

pub use self::anchor::Anchor;
pub use self::clones::LooseMount;
pub use self::former::Former;
pub use self::table::{MountId, Waited, Watched, is_bucket_of, is_ours, ours};

/// The program that mounts for users. Source: fusermount3(1).
const HELPER: &str = "fusermount3";
/// How it is told to take a mount out of the tree though it be in use.
const HELPER_DETACHES: [&str; 2] = ["-u", "-z"];
/// What mounts are called: `fuse.portico` in mountinfo.
const SUBTYPE: &str = "portico";

/// How a mount is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// What df(1) shows as its source.
    pub source: String,
    /// Nothing can be changed through it.
    pub is_read_only: bool,
    /// No program is run from it.
    pub no_exec: bool,
    /// Set-id bits mean nothing.
    pub no_suid: bool,
    /// Devices on it are not opened.
    pub no_dev: bool,
    /// Reading leaves times of access alone.
    pub no_atime: bool,
    /// Other users may come in, as far as modes let them.
    pub allow_other: bool,
}

/// Whether an error says that this process, or this kernel, is not one to do it at all.
pub fn may_not(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::Unsupported
    )
}

/// Mounts, in the place of a former mount where there is one, and gives the device by which the
/// mount is served. Its first request waits there. The bare directory is seen only where nothing
/// can be put [beneath](Former::put_beneath) the former. Errors: those of mount(2); what
/// `fusermount3` said; NotFound where someone else has taken the former away.
pub fn mount(at: &Path, options: &MountOptions, former: Option<Former>) -> Result<OwnedFd, Error> {
    if let Some(former) = former {
        match mount_beneath(&former, options) {
            Ok((mount, device)) => return mount.uncover(&former).map(|()| device),
            Err(error) => tracing::debug!(%error, "nothing is mounted beneath what stands there"),
        }
        former.detach()?;
    }
    match mount_directly(at, options) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => mount_by_helper(at, options),
        outcome => outcome,
    }
}

/// The number of the file system that stands at a place. Asks the kernel alone, which gives it to
/// everyone who asks for nothing else. Source: `fuse_getattr` in fs/fuse/dir.c.
pub fn file_system_at(at: &Path) -> Result<Device, Error> {
    file_system_of(CWD, at)
}

fn file_system_of(dir: impl AsFd, path: &Path) -> Result<Device, Error> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let stat = statx(dir, path, flags, StatxFlags::empty())?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor))
}

fn mount_beneath(former: &Former, options: &MountOptions) -> Result<(LooseMount, OwnedFd), Error> {
    let device = OwnedFd::from(open_device()?);
    let mount = anchor::new_mount(&options.source, device.as_fd(), options.allow_other)?;
    attr::set(mount.as_fd(), options)?;
    former.put_beneath(mount.as_fd())?;
    Ok((LooseMount::received(mount), device))
}

fn open_device() -> Result<File, Error> {
    OpenOptions::new().read(true).write(true).open("/dev/fuse")
}

/// Whether this process may open the device itself.
pub fn can_open_device() -> bool {
    open_device().is_ok()
}

fn mount_directly(at: &Path, options: &MountOptions) -> Result<OwnedFd, Error> {
    let device = open_device()?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.is_read_only);
    flags.set(MountFlags::NOEXEC, options.no_exec);
    flags.set(MountFlags::NOSUID, options.no_suid);
    flags.set(MountFlags::NODEV, options.no_dev);
    flags.set(MountFlags::NOATIME, options.no_atime);
    let data = CString::new(data)?;
    let kind = format!("fuse.{SUBTYPE}");
    mount_at(&*options.source, at, &*kind, flags, &*data)?;
    Ok(device.into())
}

/// The helper mounts, and sends the device over the socket that stands in for its standard input.
fn mount_by_helper(at: &Path, options: &MountOptions) -> Result<OwnedFd, Error> {
    let mut words = vec![
        format!("fsname={}", options.source.replace(',', "\\,")),
        format!("subtype={SUBTYPE}"),
        "default_permissions".to_owned(),
    ];
    let flags = [
        (options.is_read_only, "ro"),
        (options.no_exec, "noexec"),
        (options.no_suid, "nosuid"),
        (options.no_dev, "nodev"),
        (options.no_atime, "noatime"),
        (options.allow_other, "allow_other"),
    ];
    words.extend(
        flags
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, word)| (*word).to_owned()),
    );
    let (ours, theirs) = UnixStream::pair()?;
    let child = Command::new(HELPER)
        .arg("-o")
        .arg(words.join(","))
        .arg("--")
        .arg(at)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::new(
            ErrorKind::NotFound,
            format!("mounting as a user needs {HELPER} (package fuse3)"),
        ),
        _ => error,
    })?;
    let device = receive_descriptor(&ours);
    let output = child.wait_with_output()?;
    match device {
        Ok(Some(device)) => Ok(device),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(Error::other(said.trim().to_owned()))
        }
    }
}

/// The descriptor that comes with the next byte of a socket; none where it ends without.
fn receive_descriptor(socket: &UnixStream) -> Result<Option<OwnedFd>, Error> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::io::retry_on_intr(|| recvmsg(socket, &mut parts, &mut ancillary, flags))?;
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// What stands at a mountpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A directory that can be mounted on.
    Free,
    /// A mount of portico that is served.
    Alive,
    /// A mount of portico whose server is gone.
    Dead,
}

/// Looks at a mountpoint. Errors: it is not there, or is no directory; a dead mount of another
/// program stands there, which is not ours to take away.
pub fn standing(at: &Path) -> Result<Standing, Error> {
    match statfs(at) {
        Err(Errno::NOTCONN | Errno::CONNABORTED) if is_ours(at)? => return Ok(Standing::Dead),
        Err(error) => return Err(error.into()),
        Ok(_) => {}
    }
    if !at.is_dir() {
        return Err(Errno::NOTDIR.into());
    }
    if is_ours(at)? {
        return Ok(Standing::Alive);
    }
    Ok(Standing::Free)
}

/// A mountpoint's path without links and dots, though a dead mount stand there.
pub fn absolute(at: &Path) -> Result<PathBuf, Error> {
    match at.canonicalize() {
        Err(error) if is_dead(&error) => {
            let name = at.file_name().ok_or(error)?;
            let parent = at.parent().filter(|dir| *dir != Path::new(""));
            let parent = parent.unwrap_or(Path::new(".")).canonicalize()?;
            Ok(parent.join(name))
        }
        outcome => outcome,
    }
}

fn is_dead(error: &Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOTCONN | Errno::CONNABORTED)
    )
}

/// Unmounts. Errors: EBUSY while someone uses it; EINVAL where nothing is mounted.
pub fn unmount(at: &Path) -> Result<(), Error> {
    match unmount_at(at, UnmountFlags::NOFOLLOW) {
        Err(Errno::PERM) => by_helper(at, &["-u"]),
        outcome => Ok(outcome?),
    }
}

/// Takes a mount out of the tree; those who use it go on, or learn that it is dead.
pub fn detach(at: &Path) -> Result<(), Error> {
    match unmount_at(at, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        Err(Errno::PERM) => by_helper(at, &HELPER_DETACHES),
        outcome => Ok(outcome?),
    }
}

/// Ends a mount without taking it out of the tree: what is not yet written is, and then every call
/// answers ENOTCONN. So who writes on is not led into the bare directory below. As root only.
pub fn abort(at: &Path) -> Result<(), Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Held open, it is busy: the kernel ends the session and leaves the mount.
    let root = rustix::fs::open(at, flags, Mode::empty())?;
    rustix::fs::syncfs(&root)?;
    match unmount_at(at, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn by_helper(at: &Path, flags: &[&str]) -> Result<(), Error> {
    let output = Command::new(HELPER)
        .args(flags)
        .arg("--")
        .arg(at)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("busy") {
        return Err(Errno::BUSY.into());
    }
    Err(Error::other(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_directory_is_free_and_a_file_is_no_mountpoint() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(standing(dir.path()).unwrap(), Standing::Free);
        let file = dir.path().join("f");
        std::fs::write(&file, "").unwrap();
        assert_eq!(
            standing(&file).unwrap_err().kind(),
            ErrorKind::NotADirectory
        );
        let nowhere = standing(&dir.path().join("x")).unwrap_err();
        assert_eq!(nowhere.kind(), ErrorKind::NotFound);
    }
}
