//! Where records are kept: in the xattr of the file or directory itself; where that has no room,
//! or the file system has no xattrs, in a side file `.portico/records/<inode number>`.
//!
//! A side file belongs to an inode, not to a name, so it goes along with a rename and is written
//! before its file is published. A stub in the xattr says which bytes the side file has: a new
//! record goes to the other of two names, so that the old one stands until the stub is changed.
//! On a file system without xattrs there is no stub, the one name is replaced, and the side file
//! begins with the time of the inode's creation, by which a number used again is told.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::io::Errno;

use super::attrs::{MAX_RECORD_LEN_BYTES, Record, Spilled, Stored, check_record_len};
use super::disk::{Disk, DiskFile, FileFacts};
use super::tree::{failed, is_absent};
use crate::error::{Result, StoreError};

/// The inode's creation time in front of a side file's record, in bytes.
const BTIME_LEN_BYTES: usize = 8;

/// What is known of a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirState {
    /// It was made for keys, and vanishes with the last of them.
    pub made_by_keys: bool,
    /// The record of the object `<directory>/`, where there is one.
    pub marker: Option<Record>,
}

/// See the module.
pub struct Records<D: Disk> {
    disk: Arc<D>,
    dir: Arc<D::Dir>,
    staging: Arc<D::Dir>,
    /// False as long as no side file was ever written: then none need be looked for.
    in_use: AtomicBool,
    /// Longest record that is tried in an xattr, in bytes.
    xattr_room_bytes: usize,
    next_name: AtomicU64,
}

/// The names of an inode's side files.
fn names_of(ino: u64) -> [String; 2] {
    [ino.to_string(), format!("{ino}-b")]
}

fn has_no_room(e: &io::Error) -> bool {
    let raw = e.raw_os_error().map(Errno::from_raw_os_error);
    // ext4 says ENOSPC, XFS and btrfs E2BIG or ERANGE.
    matches!(
        raw,
        Some(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::OPNOTSUPP)
    )
}

impl<D: Disk> Records<D> {
    /// Records of the files on a disk; side files are in `dir`.
    pub fn new(disk: Arc<D>, dir: Arc<D::Dir>, staging: Arc<D::Dir>) -> Result<Self> {
        let mut in_use = !disk.has_xattrs();
        disk.read_dir(&dir, &mut |_| {
            in_use = true;
            false
        })
        .map_err(failed("look for side files"))?;
        let in_use = AtomicBool::new(in_use);
        Ok(Self {
            disk,
            dir,
            staging,
            in_use,
            xattr_room_bytes: usize::MAX,
            next_name: AtomicU64::new(0),
        })
    }

    /// Keeps records of more bytes than these in side files, where xattrs might take them too.
    /// Names in staging begin at a number that others, on other hosts too, do not begin at.
    pub fn shared(mut self, xattr_room_bytes: usize, first_name: u64) -> Self {
        self.xattr_room_bytes = xattr_room_bytes;
        self.next_name = AtomicU64::new(first_name);
        self
    }

    /// Whether side files exist. Then a file that is replaced or removed must be held open
    /// until [`Self::forget`], so that its number is not given to another meanwhile.
    pub fn in_use(&self) -> bool {
        self.in_use.load(Ordering::Acquire)
    }

    /// Looks whether another host has made side files since.
    pub fn look_for_side_files(&self) -> Result<()> {
        if !self.in_use() {
            let mark = &mut |_| {
                self.in_use.store(true, Ordering::Release);
                false
            };
            self.disk
                .read_dir(&self.dir, mark)
                .map_err(failed("look for side files"))?;
        }
        Ok(())
    }

    /// A file's record; none where it has none. One that cannot be read is as good as none:
    /// the object's bytes are served, and the log says what was found.
    pub fn load(&self, file: &D::File, facts: &FileFacts) -> Result<Option<Record>> {
        let stored = file.record().map_err(failed("read a record"))?;
        self.decode(stored, facts)
    }

    fn decode(&self, stored: Option<Vec<u8>>, facts: &FileFacts) -> Result<Option<Record>> {
        let outcome = match stored {
            None if self.disk.has_xattrs() => return Ok(None),
            None => self.side_file_without_xattr(facts)?,
            Some(bytes) => match Stored::decode(&bytes) {
                Ok(Stored::Whole(record)) => Ok(Some(*record)),
                Ok(Stored::Spilled(stub)) => self.spilled(&stub, facts.ino)?,
                Err(e) => Err(e),
            },
        };
        Ok(outcome.unwrap_or_else(|e| {
            tracing::warn!(ino = facts.ino, "a record cannot be read: {e}");
            None
        }))
    }

    /// The record a stub names, under whichever name it stands.
    fn spilled(
        &self,
        stub: &Spilled,
        ino: u64,
    ) -> Result<std::result::Result<Option<Record>, super::attrs::AttrsError>> {
        let mut outcome = Ok(None);
        for name in names_of(ino) {
            if let Some(bytes) = self.side_file(&name)? {
                outcome = stub.decode_side_file(&bytes).map(Some);
                if outcome.is_ok() {
                    break;
                }
            }
        }
        Ok(outcome)
    }

    fn side_file_without_xattr(
        &self,
        facts: &FileFacts,
    ) -> Result<std::result::Result<Option<Record>, super::attrs::AttrsError>> {
        let Some(bytes) = self.side_file(&facts.ino.to_string())? else {
            return Ok(Ok(None));
        };
        let Some((btime, record)) = bytes.split_first_chunk::<BTIME_LEN_BYTES>() else {
            return Ok(Ok(None));
        };
        if i64::from_le_bytes(*btime) != facts.btime_ns {
            return Ok(Ok(None));
        }
        Ok(Record::decode(record).map(Some))
    }

    fn side_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let fail = failed("read a side file");
        let file = match self.disk.open_own(&self.dir, name, false) {
            Ok(file) => file,
            Err(e) if is_absent(&e) => return Ok(None),
            Err(e) => return Err(fail(e)),
        };
        file.read_at(0, MAX_RECORD_LEN_BYTES + BTIME_LEN_BYTES)
            .map(Some)
            .map_err(fail)
    }

    /// Sets a file's record. What stands in the xattr is durable with the file's next sync, a
    /// side file on return. Errors: MetadataTooLarge.
    pub fn save(&self, file: &D::File, facts: &FileFacts, record: &Record) -> Result<()> {
        let encoded = record.encode();
        check_record_len(encoded.len())?;
        if !self.disk.has_xattrs() {
            return self.write_side_file(facts, &encoded, None);
        }
        let written = match encoded.len() > self.xattr_room_bytes {
            true => Err(Errno::TOOBIG.into()),
            false => file.set_record(&encoded),
        };
        match written {
            Ok(()) => Ok(()),
            Err(e) if has_no_room(&e) => {
                let before = file.record().map_err(failed("read a record"))?;
                self.write_side_file(facts, &encoded, Some(before))?;
                file.set_record(&Spilled::of(&encoded).encode())
                    .map_err(failed("write the stub of a record"))
            }
            Err(e) => Err(StoreError::from_io("write a record", e)),
        }
    }

    /// What is known of a directory.
    pub fn load_dir(&self, dir: &D::Dir) -> Result<DirState> {
        let stored = match self.disk.has_xattrs() {
            true => self
                .disk
                .dir_record(dir)
                .map_err(failed("read a directory's record"))?,
            false => None,
        };
        if stored.is_none() && self.disk.has_xattrs() {
            return Ok(DirState::default());
        }
        let facts = self
            .disk
            .stat_dir(dir)
            .map_err(failed("look at a directory"))?;
        let Some(record) = self.decode(stored, &facts)? else {
            return Ok(DirState::default());
        };
        let made_by_keys = record.directory.made_by_keys;
        let marker = record.directory.is_marker.then_some(record);
        Ok(DirState {
            made_by_keys,
            marker,
        })
    }

    /// Sets what is known of a directory: durable with the directory's next sync.
    pub fn save_dir(&self, dir: &D::Dir, state: &DirState) -> Result<()> {
        let fail = failed("write a directory's record");
        let mut record = state.marker.clone().unwrap_or_default();
        record.directory.is_marker = state.marker.is_some();
        record.directory.made_by_keys = state.made_by_keys;
        let facts = self.disk.stat_dir(dir).map_err(&fail)?;
        if *state == DirState::default() {
            if self.disk.has_xattrs() {
                self.disk.set_dir_record(dir, None).map_err(&fail)?;
            }
            if !self.disk.has_xattrs() {
                // The side file is all there is.
                self.forget(facts.ino);
                self.disk.sync_dir(&self.dir).map_err(&fail)?;
            }
            return Ok(());
        }
        let encoded = record.encode();
        check_record_len(encoded.len())?;
        if !self.disk.has_xattrs() {
            return self.write_side_file(&facts, &encoded, None);
        }
        match self.disk.set_dir_record(dir, Some(&encoded)) {
            Err(e) if has_no_room(&e) => {
                let before = self.disk.dir_record(dir).map_err(&fail)?;
                self.write_side_file(&facts, &encoded, Some(before))?;
                let stub = Spilled::of(&encoded).encode();
                self.disk.set_dir_record(dir, Some(&stub)).map_err(fail)
            }
            other => other.map_err(fail),
        }
    }

    /// Writes a record beside its inode; `xattr_before` is what the xattr says until now, on
    /// file systems that have them.
    fn write_side_file(
        &self,
        facts: &FileFacts,
        encoded: &[u8],
        xattr_before: Option<Option<Vec<u8>>>,
    ) -> Result<()> {
        let fail = failed("write a side file");
        self.in_use.store(true, Ordering::Release);
        let mut bytes = Vec::with_capacity(BTIME_LEN_BYTES + encoded.len());
        let [mut name, other] = names_of(facts.ino);
        if let Some(Some(before)) = &xattr_before
            && let Ok(Stored::Spilled(stub)) = Stored::decode(before)
            && let Some(standing) = self.side_file(&name)?
            && stub.decode_side_file(&standing).is_ok()
        {
            name = other;
        }
        if xattr_before.is_none() {
            bytes.extend_from_slice(&facts.btime_ns.to_le_bytes());
        }
        bytes.extend_from_slice(encoded);
        let file = self.disk.create_unnamed(&self.staging).map_err(&fail)?;
        file.write_at(0, &bytes).map_err(&fail)?;
        file.sync().map_err(&fail)?;
        let staged = format!(
            "r{}-{}",
            std::process::id(),
            self.next_name.fetch_add(1, Ordering::Relaxed)
        );
        self.disk
            .link(&file, &self.staging, &staged)
            .map_err(&fail)?;
        if let Err(e) = self.disk.rename(&self.staging, &staged, &self.dir, &name) {
            let _ = self.disk.unlink(&self.staging, &staged);
            return Err(fail(e));
        }
        self.disk.sync_dir(&self.dir).map_err(fail)
    }

    /// Removes the side file of an inode that is no longer an object; one that stays is wrong
    /// for whatever has the number next, which is told by its length, CRC or creation time.
    pub fn forget(&self, ino: u64) {
        if !self.in_use() {
            return;
        }
        for name in names_of(ino) {
            match self.disk.unlink(&self.dir, &name) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => tracing::warn!(ino, "a side file could not be removed: {e}"),
            }
        }
    }

    /// As [`Self::forget`], for a directory held open.
    pub fn forget_dir(&self, dir: &D::Dir) {
        if self.in_use()
            && let Ok(facts) = self.disk.stat_dir(dir)
        {
            self.forget(facts.ino);
        }
    }
}
