//! Attributes of files. What is changed of an object but its bytes keeps its digests.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::super::Inner;
use super::super::index::Change;
use super::super::osdisk::OsDisk;
use super::super::osdisk::posix::{
    is_dir, is_regular, is_symlink, meet, set_len, set_mode, set_owner, set_times,
};
use super::keep::Kept;
use super::open::{Held, PosixFile};
use super::place::{Place, keys, place_of};
use crate::files::{Errno, FileAttr, FilePath, FileResult, OpenFlags, SetAttr, SetTime, Target};

impl Inner<OsDisk> {
    pub(super) fn look_up(&self, path: &FilePath) -> FileResult<FileAttr> {
        let place = place_of(path)?;
        let fd = self.tree.disk.open_node(path)?;
        let attr = meet(fd.as_fd())?.attr;
        match place {
            // A bucket is a directory.
            Place::Bucket(_) if !is_dir(attr.mode) => Err(Errno::NOENT),
            _ => Ok(attr),
        }
    }

    pub(super) fn set_attributes(
        self: &Arc<Self>,
        target: Target<'_, PosixFile>,
        set: SetAttr,
    ) -> FileResult<FileAttr> {
        let held = self.hold_target(target)?;
        if set.mode.is_some() && is_symlink(held.met.attr.mode) {
            return Err(Errno::OPNOTSUPP);
        }
        if let Some(len_bytes) = set.len_bytes {
            self.set_length(&held, len_bytes)?;
        }
        let rest = SetAttr {
            len_bytes: None,
            ..set
        };
        if rest != SetAttr::default() {
            self.keeping_digests(&held, |kept| {
                let carried = kept.and_then(|kept| self.carry_time(kept, rest.mtime));
                set_rest(&held, rest, carried)
            })?;
        }
        Ok(held.meet_again()?.attr)
    }

    /// An edit from its beginning to its end.
    fn set_length(self: &Arc<Self>, held: &Held<'_>, len_bytes: u64) -> FileResult<()> {
        if is_dir(held.met.attr.mode) {
            return Err(Errno::ISDIR);
        }
        if !is_regular(held.met.attr.mode) {
            return Err(Errno::INVAL);
        }
        if let Some(file) = held.writable() {
            return set_len(file.fd(), len_bytes);
        }
        let flags = OpenFlags {
            write: true,
            ..OpenFlags::default()
        };
        let fd = self.tree.disk.reopen(held.fd(), flags)?;
        let met = meet(fd.as_fd())?;
        let file = self.opened(fd, &met, flags, || self.object_held(held))?;
        set_len(file.fd(), len_bytes)
    }

    /// Runs a change of anything but bytes in the turn. Digests that held go on holding, and
    /// the index learns the new time of change.
    pub(super) fn keeping_digests<T>(
        &self,
        held: &Held<'_>,
        change: impl FnOnce(Option<&mut Kept>) -> FileResult<T>,
    ) -> FileResult<T> {
        // What is being edited has no digests to keep.
        let object = match held.writable() {
            Some(_) => None,
            None => self.object_held(held),
        };
        let Some(at) = object else {
            return change(None);
        };
        self.change_names(&keys([&Some(at.clone())]), |_| {
            let Some(mut kept) = self.keep(Some(&at), &held.met.facts) else {
                return change(None);
            };
            let changed = change(Some(&mut kept));
            // Where it failed half-way, what was done of it has moved the ctime.
            if let Some((facts, record)) = self.kept(kept, true) {
                let row = self.plain_row(&at, &facts, &record);
                self.tell_index(&at, Change::Put(row));
            }
            changed
        })
    }

    /// Lets digests that hold go on holding when the file's time is set: the record holds for
    /// the time before and the new one until it is set. Gives the time to set.
    fn carry_time(&self, kept: &mut Kept, mtime: Option<SetTime>) -> Option<SetTime> {
        let at_ns = match mtime? {
            SetTime::Now => self.options.clock.now().0,
            SetTime::At(at_ns) => at_ns,
        };
        let (file, facts, mut record) = kept.file_with_digests()?;
        let state = record.state.as_mut()?;
        record.mtime_before_ns = Some(state.mtime_ns);
        state.mtime_ns = at_ns;
        // Without a record for the new time the digests are void and are taken again.
        self.tree.records.save(file, &facts, &record).ok()?;
        kept.set_record(record);
        Some(SetTime::At(at_ns))
    }
}

fn set_rest(held: &Held<'_>, set: SetAttr, carried: Option<SetTime>) -> FileResult<()> {
    // A new owner takes set-user-ID bits away, so the mode comes after it.
    if set.uid.is_some() || set.gid.is_some() {
        set_owner(held.fd(), set.uid, set.gid)?;
    }
    if let Some(mode) = set.mode {
        set_mode(held.fd(), mode)?;
    }
    if set.atime.is_some() || set.mtime.is_some() {
        set_times(held.fd(), set.atime, carried.or(set.mtime))?;
    }
    Ok(())
}
