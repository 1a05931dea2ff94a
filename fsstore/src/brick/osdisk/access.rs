//! Permissions, owner and group of a file or directory.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Once;

use rustix::fs::{self, AtFlags, Mode, StatxFlags, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, capabilities};

use super::super::acl::ACCESS_ACL;
use super::super::disk::Access;

/// The permission bits: not set-user-ID, set-group-ID and sticky, which stay as they are.
const PERMISSIONS: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO);

/// See [`super::DiskFile::set_access`].
pub(super) fn set_access(fd: BorrowedFd<'_>, access: &Access) -> io::Result<()> {
    if let Some(mode) = access.mode {
        let stat = fs::statx(
            fd,
            "",
            AtFlags::EMPTY_PATH,
            StatxFlags::TYPE.union(StatxFlags::MODE),
        )?;
        let now = Mode::from_raw_mode(stat.stx_mode.into());
        let wanted = now.difference(PERMISSIONS) | Mode::from_raw_mode(mode);
        if wanted != now {
            fs::fchmod(fd, wanted)?;
        }
    }
    if let Some(acl) = &access.acl {
        fs::fsetxattr(fd, ACCESS_ACL, acl, XattrFlags::empty())?;
    }
    if access.uid.is_none() && access.gid.is_none() {
        return Ok(());
    }
    let (uid, gid) = (access.uid.map(Uid::from_raw), access.gid.map(Gid::from_raw));
    match fs::fchown(fd, uid, gid) {
        // Not in our power, or an id that this user namespace does not have.
        Err(e @ (Errno::PERM | Errno::INVAL)) => {
            if may_give_files_away() {
                static SAID: Once = Once::new();
                SAID.call_once(|| {
                    tracing::warn!(
                        "files stay the server's own, for they cannot be given away: {e}"
                    );
                });
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Whether this process may make files another user's. Source: capabilities(7), CAP_CHOWN.
pub fn may_give_files_away() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::CHOWN))
}
