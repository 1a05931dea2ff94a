//! What a mount takes away. Directories above stay: whoever removes a tree names each of them.

use std::sync::Arc;

use super::super::Inner;
use super::super::index::Change;
use super::super::osdisk::posix::{
    Met, is_regular, is_symlink, meet_at, take_directory, take_name,
};
use super::super::osdisk::{OsDisk, OsFile};
use super::dirs::PosixDir;
use super::place::{Below, Place, keys, place_of};
use crate::files::{Errno, FilePath, FileResult, OpenDir};
use crate::name::BucketName;

impl Inner<OsDisk> {
    pub(super) fn unlink(&self, path: &FilePath) -> FileResult<()> {
        let place = match place_of(path)? {
            Place::Below(place) => place,
            Place::Bucket(_) => {
                self.tree.disk.open_directory(path)?;
                return Err(Errno::ISDIR);
            }
            Place::Root => return Err(Errno::ISDIR),
        };
        let object = place.object();
        self.remove_names(&keys([&object]), |turn| {
            let parent = self.tree.disk.open_directory(&place.parent)?;
            let met = meet_at(&parent, place.name)?;
            let is_object = is_regular(met.attr.mode) || is_symlink(met.attr.mode);
            let at = object.as_ref().filter(|_| is_object);
            // Its other names stay, with digests that hold.
            let kept = match met.attr.link_count > 1 {
                true => self.keep(at, &met.facts),
                false => None,
            };
            let held = self.hold_for_records(&place, &met);
            let taken = at
                .map_or(Ok(()), |at| self.remove_escaped_too(turn, at))
                .and_then(|()| take_name(&parent, place.name));
            if let Some(kept) = kept {
                self.kept(kept, taken.is_ok());
            }
            taken?;
            turn.changed(&parent);
            self.tree.forget_later(turn, met.facts, held);
            if let Some(at) = at {
                self.tell_index(at, Change::Remove);
            }
            Ok(())
        })
    }

    /// Holds a file that is about to lose its name, where its side file must outlast it.
    pub(super) fn hold_for_records(&self, place: &Below<'_>, met: &Met) -> Option<OsFile> {
        if !self.tree.records.in_use() || !is_regular(met.attr.mode) {
            return None;
        }
        self.tree.disk.open_node(place.path).ok().map(OsFile::from)
    }

    pub(super) fn remove_directory(&self, path: &FilePath) -> FileResult<()> {
        let place = match place_of(path)? {
            Place::Below(place) => place,
            Place::Bucket(bucket) => return self.remove_bucket_dir(path, &bucket),
            Place::Root => return Err(Errno::BUSY),
        };
        let (object, marker) = (place.object(), place.marker());
        // The sheltered object comes back; the marker goes.
        self.remove_names(&keys([&object, &marker]), |turn| {
            let disk = &self.tree.disk;
            let parent = disk.open_directory(&place.parent)?;
            let held = match self.tree.records.in_use() {
                true => Some(disk.open_directory(path)?),
                false => None,
            };
            take_directory(&parent, place.name)?;
            turn.built(&parent);
            if let Some(held) = held {
                let records = Arc::clone(&self.tree.records);
                turn.later(move || records.forget_dir(&held));
            }
            self.marker_left(turn, &place)?;
            self.directory_left(turn, &place)
        })
    }

    fn remove_bucket_dir(&self, path: &FilePath, bucket: &BucketName) -> FileResult<()> {
        self.remove_names(&[], |turn| {
            let dir = PosixDir::open(&self.tree.disk, path, None)?;
            let mut is_empty = true;
            dir.read(0, &mut |_| {
                is_empty = false;
                false
            })?;
            if !is_empty {
                return Err(Errno::NOTEMPTY);
            }
            self.remove_bucket(turn, bucket).map_err(|e| e.errno())
        })
    }
}
