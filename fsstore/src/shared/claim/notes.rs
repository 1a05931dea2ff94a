//! What a holder leaves in its claim for whoever breaks it: what it may have done is not all told by what
//! stands in the tree.
//!
//! - `in-place,*`: it writes to an object's file in place, and may only sleep; that no rename fences.
//!   Before such a claim is broken, a mark is made: `.portico/broken/<claim>`. Who would write in place
//!   gives the object a fresh inode instead where it finds one, and takes it away.
//! - `ends,<upload>,<entry>`, with the bucket's name in it: `entry` is the object that the upload becomes.
//!   Whoever breaks the claim takes `entry` away first, so that it cannot be published any more, and ends the
//!   upload if it was: else it could be completed once more, over what came since.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;

use super::{Claim, Claims, Stage};
use crate::brick::disk::{Disk, DiskFile};
use crate::brick::tree::{failed, is_absent};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, UploadId};
use crate::shared::disk::{Dir, is_gone};

const IN_PLACE: &str = "in-place,";
const ENDS: &str = "ends,";
/// Longest name of a bucket, in bytes.
const MAX_BUCKET_LEN: usize = 1 << 10;
/// For so long a mark is kept. Nobody sleeps longer than that with a file open.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Who knows of objects and uploads.
pub trait Uploads: Send + Sync {
    /// Ends an upload where the object stands that it became.
    fn end_if_published(&self, bucket: &BucketName, id: &UploadId) -> Result<()>;
}

impl Stage {
    /// Notes, durably, that an upload is over once `entry` is published. Gives the note's name.
    pub fn note_end(&self, bucket: &BucketName, id: &UploadId, entry: &str) -> Result<String> {
        let fail = failed("note the end of an upload");
        let name = format!("{ENDS}{id},{entry}");
        let disk = &self.claims.disk;
        let file = disk.open_own(&self.dir, &name, true).map_err(&fail)?;
        file.write_at(0, bucket.as_str().as_bytes())
            .map_err(&fail)?;
        file.sync().map_err(&fail)?;
        disk.sync_dir(&self.dir).map_err(fail)?;
        Ok(name)
    }
}

impl Claim {
    /// Notes that what follows writes in place. Errors: Conflict where the claim was broken.
    pub fn note_in_place(&self) -> Result<()> {
        let name = format!("{IN_PLACE}{}", self.claims.new_name());
        match self.claims.disk.open_own(&self.dir, &name, true) {
            Ok(_) => self.renew(),
            Err(e) if is_absent(&e) || is_gone(&e) => Err(StoreError::Conflict),
            Err(e) => Err(StoreError::from_io("note a change in place", e)),
        }
    }

    /// Takes a note back.
    pub fn forget_note(&self, note: &str) -> Result<()> {
        match self.claims.disk.unlink(&self.dir, note) {
            Err(e) if !is_absent(&e) && !is_gone(&e) => Err(failed("take a note back")(e)),
            _ => Ok(()),
        }
    }

    /// Leaves the claim as it is to whoever breaks it: what its holder did is not known.
    pub fn abandon(self) {
        std::mem::forget(self);
    }

    /// Whether who wrote in place under a claim of this name may only sleep.
    pub fn is_marked(&self) -> Result<bool> {
        let disk = &self.claims.disk;
        // Some file systems remember for a moment that there was nothing.
        let looks = if disk.is_remote() { 2 } else { 1 };
        for _ in 0..looks {
            match disk.stat(&self.claims.broken, &self.name) {
                Ok(_) => return Ok(true),
                Err(e) if is_absent(&e) => {}
                Err(e) => return Err(failed("look for a mark of a broken claim")(e)),
            }
        }
        Ok(false)
    }

    /// Takes the mark away, for the object has a fresh inode now: who slept has another.
    pub fn forget_mark(&self) {
        if let Err(e) = self.take(&self.claims.broken, &self.name)
            && !is_absent(&e)
        {
            tracing::warn!("a mark of a broken claim stays: {e}");
        }
    }
}

impl Claims {
    /// Says who is asked about uploads.
    pub fn ask_about_uploads(&self, uploads: Weak<dyn Uploads>) {
        let _ = self.uploads.set(uploads);
    }

    /// Sees to what the notes in a claim that is about to be broken say.
    pub(super) fn heed(&self, dir: &Dir, name: &str, names: &BTreeSet<String>) -> Result<()> {
        if names.iter().any(|note| note.starts_with(IN_PLACE)) {
            self.mark(name)?;
        }
        for note in names {
            let Some((id, entry)) = note
                .strip_prefix(ENDS)
                .and_then(|words| words.split_once(','))
            else {
                continue;
            };
            let (Some(bucket), Ok(id)) = (self.bucket_in(dir, note)?, UploadId::parse(id)) else {
                continue;
            };
            match self.disk.unlink(dir, entry) {
                Err(e) if !is_absent(&e) && !is_gone(&e) => {
                    return Err(failed("break a claim")(e));
                }
                _ => {}
            }
            if let Some(uploads) = self.uploads.get().and_then(Weak::upgrade) {
                uploads.end_if_published(&bucket, &id)?;
            }
        }
        Ok(())
    }

    /// The bucket that a note names; none where the note is gone, or was cut off by a loss of power: then
    /// nothing was published after it.
    fn bucket_in(&self, dir: &Dir, note: &str) -> Result<Option<BucketName>> {
        let fail = failed("read a note in a claim");
        let bytes = match self.disk.open_own(dir, note, false) {
            Ok(file) => file.read_at(0, MAX_BUCKET_LEN).map_err(fail)?,
            Err(e) if is_absent(&e) || is_gone(&e) => return Ok(None),
            Err(e) => return Err(fail(e)),
        };
        let name = std::str::from_utf8(&bytes).ok();
        Ok(name.and_then(|name| BucketName::parse(name).ok()))
    }

    /// Marks a claim, durably; a mark that stands counts from now.
    fn mark(&self, name: &str) -> Result<()> {
        let fail = failed("mark a claim that is broken");
        let file = self.disk.open_own(&self.broken, name, true);
        let file = file.map_err(&fail)?;
        file.write_at(0, b"\n").map_err(&fail)?;
        file.sync().map_err(&fail)?;
        self.disk.sync_dir(&self.broken).map_err(fail)
    }

    /// Takes marks away that nobody can need any more; `now_ns` by the file system's clock.
    pub fn sweep_marks(&self, now_ns: i64) -> Result<()> {
        let fail = failed("look at marks of broken claims");
        for name in self.names_in(&self.broken)? {
            match self.disk.stat(&self.broken, &name) {
                Ok(facts) if now_ns.saturating_sub(facts.mtime_ns) > KEPT.as_nanos() as i64 => {
                    let _ = self.disk.unlink(&self.broken, &name);
                }
                Err(e) if !is_absent(&e) => return Err(fail(e)),
                _ => {}
            }
        }
        Ok(())
    }
}
