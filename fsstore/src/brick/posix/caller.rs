//! Acting on behalf of a caller: what is made in between is owned as the caller's own call would
//! have it, directories with the set-group-ID bit and default ACLs included.
//!
//! User, group and umask are the thread's alone: the group and user of a thread are its own to
//! the kernel, and a thread that acts here has a umask to itself from the first time on.
//! Capabilities stay, so that whoever calls must have been checked already. With them stays
//! CAP_SYS_RESOURCE: what is made is counted to the caller's quota, but its hard limits, and the
//! blocks that a file system keeps for the superuser, stop nobody where this process is the
//! superuser's. Source: credentials(7), capabilities(7), quotactl(2).

use std::cell::Cell;

use rustix::fs::{Gid, Mode, Uid};
use rustix::process::{getegid, geteuid, umask};
use rustix::thread::{
    CapabilitiesSecureBits, UnshareFlags, capabilities_secure_bits, set_capabilities_secure_bits,
    set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
};

use crate::files::{Caller, FileResult};

/// What a thread that acts for callers is by itself.
#[derive(Clone, Copy)]
struct Own {
    uid: Uid,
    gid: Gid,
    umask: Mode,
    /// Whether it may act for anyone.
    is_root: bool,
}

thread_local! {
    static OWN: Cell<Option<Own>> = const { Cell::new(None) };
}

/// Runs `act` as the caller. Where this process is no superuser's everything is its own user's,
/// and only the umask is the caller's. Errors: those of `act`; EPERM where the kernel does not
/// let this thread be the caller.
pub(super) fn on_behalf<T>(caller: Caller, act: impl FnOnce() -> FileResult<T>) -> FileResult<T> {
    let own = own()?;
    let callers = Mode::from_raw_mode(caller.umask & 0o777);
    let _umask = (callers != own.umask).then(|| Umask::become_(callers, own));
    if !own.is_root {
        return act();
    }
    let gid = Gid::from_raw_unchecked(caller.gid);
    let uid = Uid::from_raw_unchecked(caller.uid);
    let _group = (gid != own.gid)
        .then(|| Group::become_(gid, own))
        .transpose()?;
    let _user = (uid != own.uid)
        .then(|| User::become_(uid, own))
        .transpose()?;
    act()
}

/// Restores the thread's own umask when dropped: what it makes for the store itself later is to
/// have no stranger's.
struct Umask(Own);

impl Umask {
    fn become_(mask: Mode, own: Own) -> Self {
        umask(mask);
        Self(own)
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        umask(self.0.umask);
    }
}

/// Restores the thread's own group when dropped.
struct Group(Own);

impl Group {
    fn become_(gid: Gid, own: Own) -> FileResult<Self> {
        set_thread_res_gid(None, gid, None)?;
        Ok(Self(own))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let back = set_thread_res_gid(None, self.0.gid, None);
        // The real group is still its own, so this is always allowed.
        assert!(back.is_ok(), "a thread cannot return to its own group");
    }
}

/// Restores the thread's own user when dropped.
struct User(Own);

impl User {
    fn become_(uid: Uid, own: Own) -> FileResult<Self> {
        set_thread_res_uid(None, uid, None)?;
        Ok(Self(own))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let back = set_thread_res_uid(None, self.0.uid, None);
        assert!(back.is_ok(), "a thread cannot return to its own user");
    }
}

fn own() -> FileResult<Own> {
    if let Some(own) = OWN.get() {
        return Ok(own);
    }
    unshare_umask()?;
    // It can be read by setting it only; nobody else has this one.
    let mask = umask(Mode::empty());
    umask(mask);
    let own = Own {
        uid: geteuid(),
        gid: getegid(),
        umask: mask,
        is_root: geteuid().is_root(),
    };
    if own.is_root {
        let bits = capabilities_secure_bits()?;
        set_capabilities_secure_bits(bits | CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    }
    OWN.set(Some(own));
    Ok(own)
}

#[allow(unsafe_code)]
fn unshare_umask() -> FileResult<()> {
    // SAFETY: only the flag FILES can part threads from each other's descriptors; FS gives this
    // thread a umask, working directory and root of its own, the latter two as they were.
    unsafe { unshare_unsafe(UnshareFlags::FS) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn made_as(caller: Caller) -> std::fs::Metadata {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::thread::spawn(move || {
            on_behalf(caller, || {
                let mode = Mode::from_raw_mode(0o666);
                let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
                rustix::fs::open(&path, flags, mode).map(drop)
            })
            .unwrap();
            assert_eq!((geteuid(), getegid()), {
                let own = own().unwrap();
                (own.uid, own.gid)
            });
            std::fs::metadata(&path).unwrap()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn what_is_made_is_the_callers_and_has_the_umask() {
        let (uid, gid) = match geteuid().is_root() {
            true => (4711, 4712),
            // Another user can make files of its own only.
            false => (geteuid().as_raw(), getegid().as_raw()),
        };
        for umask in [0o022, 0o077, 0] {
            let made = made_as(Caller { uid, gid, umask });
            assert_eq!((made.uid(), made.gid()), (uid, gid));
            assert_eq!(made.permissions().mode() & 0o777, 0o666 & !umask);
        }
    }

    #[test]
    fn other_threads_keep_their_umask() {
        let before = umask(Mode::from_raw_mode(0o022));
        let caller = Caller {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            umask: 0o077,
        };
        made_as(caller);
        assert_eq!(umask(before), Mode::from_raw_mode(0o022));
    }

    #[test]
    fn what_a_thread_makes_for_itself_has_its_own_umask() {
        let caller = Caller {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            umask: 0o777,
        };
        std::thread::spawn(move || {
            let before = own().unwrap().umask;
            for act in [Ok(()), Err(rustix::io::Errno::IO)] {
                assert_eq!(on_behalf(caller, || act), act);
                assert_eq!(umask(before), before);
            }
        })
        .join()
        .unwrap();
    }
}
