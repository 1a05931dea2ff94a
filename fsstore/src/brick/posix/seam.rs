//! What a mount's changes ask of the engine.

use super::super::Inner;
use super::super::commit::Turn;
use super::super::disk::Disk;
use super::super::osdisk::OsDisk;
use super::place::Below;
use crate::files::FileResult;
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;

impl Inner<OsDisk> {
    /// Runs a change of names in these directories.
    pub(super) fn change_in<T>(
        &self,
        _places: &[&Below<'_>],
        keys: &[(BucketName, ObjectKey)],
        act: impl FnOnce(&mut Turn<'_, OsDisk>) -> FileResult<T>,
    ) -> FileResult<T> {
        self.change_names(keys, act)
    }

    /// As [`Self::change_in`], for a change that takes something away.
    pub(super) fn remove_in<T>(
        &self,
        _places: &[&Below<'_>],
        keys: &[(BucketName, ObjectKey)],
        act: impl FnOnce(&mut Turn<'_, OsDisk>) -> FileResult<T>,
    ) -> FileResult<T> {
        self.remove_names(keys, act)
    }

    /// Renames a directory with the rows below it.
    pub(super) fn move_rows(
        &self,
        from: &Below<'_>,
        to: &Below<'_>,
        rename: impl FnOnce() -> FileResult<()>,
    ) -> FileResult<()> {
        self.forget_rows_are_whole(&from.bucket);
        self.forget_rows_are_whole(&to.bucket);
        rename()
    }

    pub(super) fn forget_rows_are_whole(&self, bucket: &BucketName) {
        if self.index.is_complete(bucket) {
            self.index.set_complete(bucket, false);
        }
    }

    /// Whether a symbolic link at a key leads to a directory of the volume.
    pub(super) fn leads_to_directory(&self, at: &Locator) -> bool {
        let path = format!("{}/{}", at.bucket, at.key);
        self.tree.disk.open_dir(&self.tree.root, &path).is_ok()
    }
}
