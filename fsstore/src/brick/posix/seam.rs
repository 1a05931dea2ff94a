//! What a mount's changes ask of the engine.

use super::super::Inner;
use super::super::disk::Disk;
use super::super::osdisk::OsDisk;
use super::place::Below;
use crate::files::FileResult;
use crate::name::BucketName;
use crate::object::Locator;

impl Inner<OsDisk> {
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
