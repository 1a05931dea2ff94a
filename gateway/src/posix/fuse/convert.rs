//! The kernel's words and the waist's: numbers, times, flags, attributes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fsstore::files::{Caller, Errno, FileAttr, OpenFlags, SetTime};
use fuser::{FileType, INodeNo, Request, TimeOrNow};

use crate::posix::nodes::KIND;

pub(super) fn code(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.raw_os_error())
}

pub(super) fn caller(request: &Request, umask: u32) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        umask,
    }
}

fn time(ns: i64) -> SystemTime {
    let length = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 {
        UNIX_EPOCH - length
    } else {
        UNIX_EPOCH + length
    }
}

/// Nanoseconds since 1970 of a time that the kernel asks for, saturating: what an i64 holds lies
/// within the years 1678 to 2262. The kernel counts nanoseconds forward from whole seconds also
/// before 1970; fuser 0.18 counts both backward, which is undone here.
fn asked_nanoseconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            seconds
                .saturating_mul(-1_000_000_000)
                .saturating_add(i64::from(before.subsec_nanos()))
        }
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(asked_nanoseconds(time)),
    }
}

pub(super) fn file_type(mode: u32) -> FileType {
    match mode & KIND {
        0o010_000 => FileType::NamedPipe,
        0o020_000 => FileType::CharDevice,
        0o040_000 => FileType::Directory,
        0o060_000 => FileType::BlockDevice,
        0o120_000 => FileType::Symlink,
        0o140_000 => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

pub(super) fn attributes(attr: &FileAttr) -> fuser::FileAttr {
    fuser::FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.len_bytes,
        blocks: attr.block_count,
        atime: time(attr.atime_ns),
        mtime: time(attr.mtime_ns),
        ctime: time(attr.ctime_ns),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.mode),
        perm: (attr.mode & 0o7_777) as u16,
        nlink: attr.link_count,
        uid: attr.uid,
        gid: attr.gid,
        // The kernel's 32 bits are the low ones of the C library's 64. Source: makedev(3).
        rdev: attr.rdev as u32,
        blksize: attr.block_len_bytes,
        flags: 0,
    }
}

/// What stands for no file: a name the kernel may remember as absent.
pub(super) fn nothing() -> fuser::FileAttr {
    attributes(&FileAttr {
        ino: 0,
        generation: 0,
        len_bytes: 0,
        block_count: 0,
        block_len_bytes: 0,
        atime_ns: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        mode: 0,
        link_count: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
    })
}

/// Flags of open(2) as the kernel passes them on. Source: asm-generic/fcntl.h.
pub(super) fn open_flags(flags: i32) -> OpenFlags {
    const WRITE_ONLY: i32 = 0o1;
    const READ_WRITE: i32 = 0o2;
    const EXCLUSIVE: i32 = 0o200;
    const TRUNCATE: i32 = 0o1_000;
    const APPEND: i32 = 0o2_000;
    const DATA_SYNC: i32 = 0o10_000;
    let access = flags & 0o3;
    OpenFlags {
        write: access == WRITE_ONLY || access == READ_WRITE,
        read: access != WRITE_ONLY,
        append: flags & APPEND != 0,
        truncate: flags & TRUNCATE != 0,
        exclusive: flags & EXCLUSIVE != 0,
        sync: flags & DATA_SYNC != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_after_1970_come_back_as_they_went() {
        for ns in [0, 1, 1_700_000_000_123_456_789, i64::MAX] {
            assert_eq!(asked_nanoseconds(time(ns)), ns);
        }
    }

    #[test]
    fn a_time_before_1970_is_read_as_the_kernel_wrote_it() {
        // What fuser makes of -3 s and 999,999,998 ns.
        let as_given = UNIX_EPOCH - Duration::new(3, 999_999_998);
        assert_eq!(asked_nanoseconds(as_given), -2_000_000_002);
        assert_eq!(
            asked_nanoseconds(UNIX_EPOCH - Duration::new(1, 0)),
            -1_000_000_000
        );
        assert_eq!(time(-1), UNIX_EPOCH - Duration::from_nanos(1));
    }

    #[test]
    fn flags_of_an_opening_are_read_as_the_kernel_means_them() {
        let (read, write) = (open_flags(0), open_flags(0o1));
        assert!(read.read && !read.write && !write.read && write.write);
        let both = open_flags(0o2 | 0o2_000 | 0o1_000 | 0o4_010_000);
        assert!(both.read && both.write && both.append && both.truncate && both.sync);
        assert!(!both.exclusive && open_flags(0o301).exclusive);
    }

    #[test]
    fn a_mode_has_a_type() {
        assert_eq!(file_type(0o040_755), FileType::Directory);
        assert_eq!(file_type(0o120_777), FileType::Symlink);
        assert_eq!(file_type(0o100_644), FileType::RegularFile);
    }
}
