//! Locks that processes hold on a volume's files, as the kernel lists them in /proc/locks.
//!
//! To read that table takes no lock and asks no file system, so it can neither wait for a mount
//! that this process serves nor get in the way of who locks. It names a lock by the device of its
//! file system (that of the mount table, which on btrfs is not the one that stat(2) gives) and by
//! the inode number. Not in it: locks of processes that this process's PID namespace does not
//! have. Source: proc_locks(5), proc_pid_mountinfo(5).

use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

const LOCKS: &str = "/proc/locks";
const MOUNTS: &str = "/proc/self/mountinfo";

/// A file system, by major and minor number.
pub type Device = (u32, u32);

/// The file systems whose locks are locks of a volume's files: those that have the same inode
/// numbers. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct LockPlaces(Arc<Mutex<Vec<Device>>>);

impl LockPlaces {
    /// The file system of a directory. Errors: those of the tables that the kernel shows, where it
    /// does not.
    pub fn of_tree(root: &Path) -> Result<Self> {
        let seen = statx(CWD, root, AtFlags::empty(), StatxFlags::MNT_ID)?;
        let device = device_of(&std::fs::read_to_string(MOUNTS)?, seen.stx_mnt_id);
        let device = device.ok_or_else(|| {
            let shown = root.display();
            Error::new(
                ErrorKind::NotFound,
                format!("{MOUNTS} has no mount of {shown}"),
            )
        })?;
        std::fs::read(LOCKS)?;
        Ok(Self(Arc::new(Mutex::new(vec![device]))))
    }

    /// One more, until what is given is dropped: then its number may become another's.
    pub fn add(&self, device: Device) -> LockPlace {
        self.lock().push(device);
        LockPlace {
            places: self.clone(),
            device,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Device>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any process has the file with this inode number locked for writing, by flock(2) or
    /// fcntl(2). True of the instant.
    pub fn has_writer(&self, ino: u64) -> Result<bool> {
        let table = std::fs::read_to_string(LOCKS)?;
        let places = self.lock();
        Ok(writers(&table).any(|(device, locked)| locked == ino && places.contains(&device)))
    }
}

/// A file system that counts; see [`LockPlaces::add`].
#[derive(Debug)]
pub struct LockPlace {
    places: LockPlaces,
    device: Device,
}

impl Drop for LockPlace {
    fn drop(&mut self) {
        let mut places = self.places.lock();
        if let Some(at) = places.iter().rposition(|other| *other == self.device) {
            places.remove(at);
        }
    }
}

/// The device in the table of mounts' line of a mount.
fn device_of(table: &str, mount_id: u64) -> Option<Device> {
    let mut lines = table.lines().map(|line| line.split(' '));
    lines.find_map(|mut fields| {
        let id: u64 = fields.next()?.parse().ok()?;
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        (id == mount_id).then_some((major.parse().ok()?, minor.parse().ok()?))
    })
}

/// The locks for writing in the table of locks that are held, not waited for.
fn writers(table: &str) -> impl Iterator<Item = (Device, u64)> {
    table.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        // One that is waited for has an arrow in place of its kind.
        let is_lock = matches!(fields.next()?, "FLOCK" | "POSIX" | "OFDLCK");
        let is_writer = fields.nth(1)? == "WRITE";
        let mut place = fields.nth(1)?.splitn(3, ':');
        let mut number = || u32::from_str_radix(place.next()?, 16).ok();
        let device = (number()?, number()?);
        let ino = place.next()?.parse().ok()?;
        (is_lock && is_writer).then_some((device, ino))
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{FlockOperation, fcntl_lock, flock};

    use super::*;

    #[test]
    fn locks_for_writing_that_are_held_are_read_from_the_table() {
        let table = "1: FLOCK  ADVISORY  WRITE 708 08:01:131074 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 709 08:01:131075 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 3568 fd:0a:2531452 0 99\n\
                     3: POSIX  ADVISORY  READ  3569 fd:0a:2531453 0 EOF\n\
                     4: OFDLCK ADVISORY  WRITE -1 00:2e:5 10 EOF\n\
                     5: LEASE  ACTIVE    WRITE 9 08:01:6 0 EOF\n\
                     6: POSIX  *NOINODE* WRITE\n";
        let held: Vec<_> = writers(table).collect();
        assert_eq!(
            held,
            [((8, 1), 131_074), ((0xfd, 10), 2_531_452), ((0, 0x2e), 5)]
        );
    }

    #[test]
    fn a_mounts_device_is_read_from_the_table() {
        let table =
            "21 1 0:42 / / rw - overlay overlay rw\n212 21 259:3 /a /b rw - ext4 /dev/x rw\n";
        assert_eq!(device_of(table, 212), Some((259, 3)));
        assert_eq!(device_of(table, 21), Some((0, 42)));
        assert_eq!(device_of(table, 2), None);
    }

    #[test]
    fn a_lock_for_writing_counts_as_long_as_it_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let places = LockPlaces::of_tree(dir.path()).unwrap();
        let elsewhere = LockPlaces::default();
        let file = File::create(dir.path().join("f")).unwrap();
        let ino = file.metadata().unwrap().ino();
        assert!(!places.has_writer(ino).unwrap());
        flock(&file, FlockOperation::LockShared).unwrap();
        assert!(!places.has_writer(ino).unwrap());
        for exclusive in [flock, fcntl_lock] {
            exclusive(&file, FlockOperation::LockExclusive).unwrap();
            assert!(places.has_writer(ino).unwrap());
            assert!(!places.has_writer(ino + 1).unwrap());
            assert!(!elsewhere.has_writer(ino).unwrap());
            exclusive(&file, FlockOperation::Unlock).unwrap();
            assert!(!places.has_writer(ino).unwrap());
        }
    }

    #[test]
    fn a_place_counts_as_long_as_it_is_kept() {
        let places = LockPlaces::default();
        let (first, second) = (places.add((0, 9)), places.add((0, 9)));
        drop(first);
        assert_eq!(*places.lock(), [(0, 9)]);
        drop(second);
        assert!(places.lock().is_empty());
    }
}
