//! What a mount's changes ask of the engine.

use super::super::Inner;
use super::super::disk::Disk;
use super::super::osdisk::OsDisk;
use super::place::Below;
use crate::files::FileResult;
use crate::object::Locator;

impl Inner<OsDisk> {
    /// Renames a directory with the rows below it.
    pub(super) fn move_rows(
        &self,
        from: &Below<'_>,
        to: &Below<'_>,
        rename: impl FnOnce() -> FileResult<()>,
    ) -> FileResult<()> {
        let (old, new) = (from.marker(), to.marker());
        self.move_dir(
            (&from.bucket, old.as_ref().map(|at| &at.key)),
            (&to.bucket, new.as_ref().map(|at| &at.key)),
            rename,
        )
    }

    /// Whether a symbolic link at a key leads to a directory of the volume.
    pub(super) fn leads_to_directory(&self, at: &Locator) -> bool {
        let path = format!("{}/{}", at.bucket, at.key);
        self.tree.disk.open_dir(&self.tree.root, &path).is_ok()
    }
}
