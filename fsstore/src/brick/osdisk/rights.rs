//! Whether someone has rights to files: the kernel is asked, by a thread that is that someone.
//!
//! 1. A thread is started for the one question, and gives up groups, group, user and capabilities
//!    for those of who asks. It never turns back, so nothing of it can be left anywhere.
//! 2. It opens the way with O_PATH beneath the volume's root: the kernel checks each directory.
//! 3. It asks faccessat2(2) of what it opened, or of a file that the server holds open.
//!
//! Only the effective ids change: by its real and saved ones the thread stays root's, so that who
//! asks can neither signal nor trace it meanwhile. Source: credentials(7), kill(2), ptrace(2).

#![allow(unsafe_code, reason = "faccessat2(2) of a descriptor, by libc")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::super::disk::{Question, Right, Taken};
use super::super::tree::split_parent;
use super::{INSIDE, OsFile};
use crate::permission::Credentials;

/// How often a path is tried again that is renamed while it is resolved. Source: openat2(2).
const MAX_TRIES: u32 = 64;
const NO_CAPABILITIES: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// Checks that this process can ask the kernel on behalf of others at all. Errors:
/// PermissionDenied where it may not change its ids; Unsupported (ENOSYS) before Linux 5.8.
pub fn require_impersonation() -> io::Result<()> {
    // The overflow ids: nobody's.
    let nobody = Credentials {
        uid: 65_534,
        gid: 65_534,
        groups: Vec::new(),
    };
    as_user(&nobody, || {
        let root = fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        match access(root.as_fd(), libc::X_OK) {
            Err(Errno::ACCESS) => Ok(()),
            other => Ok(other?),
        }
    })
}

/// See [`super::Disk::check_rights`].
pub(super) fn check(
    root: &OwnedFd,
    who: &Credentials,
    question: &Question<'_, OsFile>,
) -> io::Result<()> {
    as_user(who, || {
        if let Some(way) = &question.way {
            match open_path(root, way, OFlags::empty()) {
                // The kernel has searched every directory up to where nothing stands.
                Ok(_) => {}
                Err(e) if leads_nowhere(e) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if let Some((path, right)) = &question.dir {
            let nearest = Nearest::of(root, path)?;
            access(nearest.dir.as_fd(), mask(*right) | libc::X_OK)?;
            if let Some(taken) = &question.takes {
                nearest.check_sticky(who, taken)?;
            }
        }
        match question.file {
            Some((file, right)) => Ok(access(file.as_fd(), mask(right))?),
            None => Ok(()),
        }
    })
}

/// Runs `act` on a thread that has someone's rights and no others.
fn as_user<T: Send>(
    who: &Credentials,
    act: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("permissions".to_owned());
        let thread = thread.spawn_scoped(scope, || {
            become_user(who)?;
            act()
        })?;
        let panicked = |_| Err(io::Error::other("a check of permissions panicked"));
        thread.join().unwrap_or_else(panicked)
    })
}

/// Makes this thread someone else's, for good. The superuser keeps the capabilities.
fn become_user(who: &Credentials) -> rustix::io::Result<()> {
    let groups: Vec<Gid> = who.groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(None, Gid::from_raw(who.gid), None)?;
    set_thread_res_uid(None, Uid::from_raw(who.uid), None)?;
    match who.uid {
        0 => Ok(()),
        // They do not go by themselves where the thread was made by one that keeps them.
        _ => set_capabilities(None, NO_CAPABILITIES),
    }
}

fn mask(right: Right) -> libc::c_int {
    match right {
        Right::Read => libc::R_OK,
        Right::Write => libc::W_OK,
    }
}

/// Asks for this thread's rights to what a descriptor is of.
fn access(on: BorrowedFd<'_>, mask: libc::c_int) -> rustix::io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_EACCESS;
    // SAFETY: the path is a string that ends with NUL and lives as long as the program; the
    // other arguments are numbers, and the kernel writes nowhere.
    let outcome = unsafe {
        let path = c"".as_ptr();
        libc::syscall(libc::SYS_faccessat2, on.as_raw_fd(), path, mask, flags)
    };
    match outcome {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// Nothing that S3 would show stands there.
fn leads_nowhere(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV)
}

fn open_path(root: &OwnedFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    for _ in 1..MAX_TRIES {
        match fs::openat2(root, path, flags, Mode::empty(), INSIDE) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    fs::openat2(root, path, flags, Mode::empty(), INSIDE)
}

/// The nearest directory of a path that stands.
struct Nearest<'a> {
    dir: OwnedFd,
    /// The path's next component, where that is no directory.
    next: Option<&'a str>,
}

impl<'a> Nearest<'a> {
    /// Opens it with this thread's rights. Errors: EACCES; ENOENT where nothing of the path stands.
    fn of(root: &OwnedFd, mut path: &'a str) -> rustix::io::Result<Self> {
        let mut next = None;
        loop {
            match open_path(root, path, OFlags::DIRECTORY) {
                Ok(dir) => return Ok(Self { dir, next }),
                Err(e) if leads_nowhere(e) => {}
                Err(e) => return Err(e),
            }
            match split_parent(path) {
                (Some(parent), name) => (path, next) = (parent, Some(name)),
                (None, _) => return Err(Errno::NOENT),
            }
        }
    }

    /// In a sticky directory, whose owner someone is not, only what is one's own can be taken.
    /// What keeps the path from going on is a file, which would be moved aside.
    fn check_sticky(&self, who: &Credentials, taken: &Taken<'_, OsFile>) -> rustix::io::Result<()> {
        let dir = look(self.dir.as_fd(), "")?;
        let is_sticky = Mode::from_raw_mode(dir.stx_mode.into()).contains(Mode::SVTX);
        if !is_sticky || who.uid == 0 || who.uid == dir.stx_uid {
            return Ok(());
        }
        if let Some(aside) = taken.aside
            && look(aside.as_fd(), "")?.stx_uid != who.uid
        {
            return Err(Errno::ACCESS);
        }
        let (name, is_dir) = match (self.next, taken.name) {
            (Some(next), _) => (next, false),
            (None, Some(name)) => (name, taken.is_dir),
            (None, None) => return Ok(()),
        };
        match look(self.dir.as_fd(), name) {
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e),
            Ok(found) => {
                let kind = FileType::from_raw_mode(found.stx_mode.into());
                let is_it = (kind == FileType::Directory) == is_dir;
                match is_it && found.stx_uid != who.uid {
                    true => Err(Errno::ACCESS),
                    false => Ok(()),
                }
            }
        }
    }
}

/// Looks at a name in a directory, or with an empty one at what is open.
fn look(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let mask = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::UID;
    fs::statx(dir, name, flags, mask)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::thread::{
        CapabilitiesSecureBits, capabilities_secure_bits, set_capabilities_secure_bits,
    };

    use super::*;

    #[test]
    fn a_thread_that_keeps_capabilities_does_not_hand_them_on() {
        if require_impersonation().is_err() {
            eprintln!("skipped: only root can ask on behalf of others");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("k"), "x").unwrap();
        let shut = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(dir.path(), shut).unwrap();
        let root = fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        let question = || Question {
            way: Some("k".to_owned()),
            dir: None,
            takes: None,
            file: None,
        };
        let keeping = || {
            let bits = capabilities_secure_bits().unwrap();
            let kept = bits | CapabilitiesSecureBits::NO_SETUID_FIXUP;
            set_capabilities_secure_bits(kept).unwrap();
            for (uid, is_let_in) in [(0, true), (4_001, false)] {
                let who = Credentials {
                    uid,
                    gid: uid,
                    groups: Vec::new(),
                };
                assert_eq!(check(&root, &who, &question()).is_ok(), is_let_in, "{uid}");
            }
        };
        std::thread::scope(|scope| scope.spawn(keeping).join().unwrap());
    }
}
