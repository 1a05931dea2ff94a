//! Digests through changes that leave bytes alone: what held goes on holding, what was in doubt
//! stays so. In the turn.

use super::super::Inner;
use super::super::attrs::Record;
use super::super::disk::{DiskFile, FileFacts, FileKind};
use super::super::index::{Change, Row};
use super::super::look::{Looked, row_of, state_of};
use super::super::osdisk::{OsDisk, OsFile};
use crate::error::StoreError;
use crate::object::{Attributes, Locator};

/// An object's file before a change that moves its ctime. [`Inner::kept`] is to be told when
/// the change is over, whether it was made or not.
pub(super) struct Kept {
    ino: u64,
    looked: Option<Looked<OsDisk>>,
}

impl Kept {
    /// Whether the file's digests are known and hold.
    pub fn holds(&self) -> bool {
        let looked = self.looked.as_ref();
        looked.is_some_and(|looked| !looked.info.etag.is_provisional())
    }

    /// The file and its record, where its digests hold.
    pub fn file_with_digests(&self) -> Option<(&OsFile, FileFacts, Record)> {
        let looked = self.looked.as_ref().filter(|_| self.holds())?;
        let file = looked.found.file.as_ref()?;
        Some((file, looked.found.facts, looked.record.clone()))
    }

    /// States what its record is by now.
    pub fn set_record(&mut self, record: Record) {
        if let Some(looked) = &mut self.looked {
            looked.record = record;
        }
    }

    /// Changes what a client said of the object, in the record as it stands: digests in doubt
    /// stay in it until the bytes have been read again.
    pub fn attrs_mut(&mut self) -> Option<&mut Attributes> {
        self.looked.as_mut().map(|looked| &mut looked.record.attrs)
    }
}

impl Inner<OsDisk> {
    /// Looks at a file that is about to change but for its bytes; `at` is its key, where it has
    /// one. None where there is nothing to keep.
    pub(super) fn keep(&self, at: Option<&Locator>, facts: &FileFacts) -> Option<Kept> {
        let ino = facts.ino;
        // What is being edited has no digests.
        if facts.kind != FileKind::File || self.edits.has(ino) {
            return None;
        }
        let looked = match at.map(|at| self.look_blocking(at)) {
            Some(Ok(Some(looked))) if looked.found.facts.ino == ino => Some(looked),
            // Another file has the name by now, or one that may not be read: then nothing is
            // known of its digests here, and they are read again.
            Some(Err(StoreError::AccessDenied) | Ok(_)) | None => None,
            Some(Err(e)) => {
                tracing::warn!(ino, "a file that changes could not be looked at: {e}");
                None
            }
        };
        let kept = Kept { ino, looked };
        if kept.holds() {
            self.stamps.changing(ino);
        } else if kept.looked.as_ref().is_none_or(|looked| looked.in_doubt) {
            self.stamps.doubt(ino);
        }
        Some(kept)
    }

    /// Notes what the change has led to, and gives the file's facts and what is true of it now.
    pub(super) fn kept(&self, kept: Kept, changed: bool) -> Option<(FileFacts, Record)> {
        let holds = kept.holds();
        let looked = kept.looked?;
        let now = match (changed, looked.found.file.as_ref()) {
            (true, Some(file)) => file.facts().ok(),
            // As it was in this turn.
            _ => Some(looked.found.facts),
        };
        match now {
            Some(now) if holds => self.ours(&now),
            // What is not known is looked up.
            None => self.stamps.forget(kept.ino),
            Some(_) => {}
        }
        Some((now?, looked.record))
    }

    /// The row of a plain file with this record.
    pub(super) fn plain_row(&self, at: &Locator, facts: &FileFacts, record: &Record) -> Row {
        let info = record.to_object_info(at.key.clone(), &state_of(facts));
        row_of(&info, facts, false, self.options.hash.of(&at.bucket))
    }

    /// Tells the index of one key.
    pub(super) fn tell_index(&self, at: &Locator, change: Change) {
        self.change_index([(at.bucket.clone(), at.key.clone(), change)]);
    }

    /// Makes a key's row what the tree says; what cannot be looked at is found by the scan.
    pub(super) fn reconcile_or_warn(&self, at: &Locator) {
        if let Err(e) = self.reconcile(at) {
            tracing::warn!(bucket = %at.bucket, key = %at.key, "cannot be indexed: {e}");
        }
    }
}
