//! What file system and kernel can do beyond what every one can.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, StatxFlags, Timespec, Timestamps};

/// Since when syncfs(2) tells of failed writes.
const REPORTS_SYNCFS_ERRORS: (u32, u32) = (5, 8);
/// Since when a file's times are finer than the clock's ticks where someone has looked at them
/// ("multigrain timestamps").
const HAS_FINE_TIMES: (u32, u32) = (6, 13);

/// Longer than any tick of the kernel's clock.
pub(super) const CLOCK_TICK_NS: i64 = 20_000_000;
/// As long as times go that have no parts of a second (ext4 with inodes of 128 bytes) or go by
/// two (FAT).
pub(super) const LONGEST_TICK_NS: i64 = 2_020_000_000;

/// Whether syncfs(2) makes everything durable, and says where it could not.
pub(super) fn syncs_everything(dir: &OwnedFd) -> bool {
    is_local_journal(dir) && kernel_version() >= REPORTS_SYNCFS_ERRORS
}

/// Within how many nanoseconds of one change another may leave a file's times as they are. Moves
/// the times of `file`, which is there to be tried.
pub(super) fn tick_ns(dir: &OwnedFd, file: BorrowedFd<'_>) -> io::Result<i64> {
    Ok(match keeps_nanoseconds(file)? {
        true if is_local_journal(dir) && kernel_version() >= HAS_FINE_TIMES => 0,
        true => CLOCK_TICK_NS,
        false => LONGEST_TICK_NS,
    })
}

/// ext4, XFS and btrfs: where syncfs(2) covers names as well as bytes.
fn is_local_journal(dir: &OwnedFd) -> bool {
    const EXT4: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    fs::fstatfs(dir).is_ok_and(|facts| [EXT4, XFS, BTRFS].contains(&(facts.f_type as u64)))
}

/// Tells one mounting of the file system from the next: the number of what the kernel keeps of it
/// in sysfs, from its first mount until its last is gone, and given to nothing else until the next
/// boot. None where the kernel keeps nothing of it there (it does of ext4 and XFS).
pub(super) fn mounting(dir: &OwnedFd) -> Option<u64> {
    let stat = fs::fstat(dir).ok()?;
    let (major, minor) = (fs::major(stat.st_dev), fs::minor(stat.st_dev));
    let device = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let name = device.file_name()?;
    ["ext4", "xfs"].iter().find_map(|kind| {
        let kept = Path::new("/sys/fs").join(kind).join(name);
        Some(std::fs::metadata(kept).ok()?.ino())
    })
}

/// Whether a file's times have parts of a second.
fn keeps_nanoseconds(file: BorrowedFd<'_>) -> io::Result<bool> {
    let odd = Timespec {
        tv_sec: 1,
        tv_nsec: 123_456_789,
    };
    let times = Timestamps {
        last_access: odd,
        last_modification: odd,
    };
    fs::futimens(file, &times)?;
    let stat = fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MTIME)?;
    Ok(stat.stx_mtime.tv_nsec != 0)
}

/// Major and minor; zeros where it does not say.
fn kernel_version() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
