//! Changes of attributes of an object whose bytes stay.
//!
//! A new record goes to a fresh inode, with a copy of the bytes, that takes the object's name: an
//! xattr that changes in place is seen late on some file systems, and no rename fences it. An
//! object longer than [`MAX_COPIED_LEN_BYTES`] keeps its inode and gets the record in place:
//! on MooseFS that needs `mfsxattrcacheto=0`. That is noted in the claim, which is renewed afterwards: who
//! was overtaken before that fails, and who sleeps in between answers Conflict for what may be done. What
//! it writes when it wakes is not the object's any more: where the claim of who wrote in place was broken
//! the next change copies the object whatever its length, so that it has another inode.

use std::sync::Arc;

use super::claim::Claim;
use super::disk::SharedDisk;
use super::publish::NewFile;
use super::staged::Whole;
use super::{Inner, claim_of};
use crate::brick::attrs::Record;
use crate::brick::disk::{Access, DiskFile};
use crate::brick::look::{Looked, state_of};
use crate::brick::osdisk::OsFile;
use crate::brick::tree::failed;
use crate::error::{Result, StoreError};
use crate::object::{FileOwner, Locator, ObjectInfo, Precondition};
use crate::volume::AttrsPatch;

/// Longest object that is copied, in bytes.
const MAX_COPIED_LEN_BYTES: u64 = 8 << 20;

impl Inner {
    pub(super) async fn patch_object(
        self: &Arc<Self>,
        at: &Locator,
        patch: AttrsPatch,
        precondition: &Precondition,
    ) -> Result<ObjectInfo> {
        let name = claim_of(at);
        let turn = self.claims.turn(&name).await;
        let (inner, at, precondition) = (Arc::clone(self), at.clone(), precondition.clone());
        let prepare = self.prepare_for(&at.bucket);
        let act = move |claim: Claim| {
            let _turn = turn;
            let looked = inner.look_blocking(&at)?.ok_or(StoreError::NoSuchKey)?;
            precondition.check_write(Some(&looked.info))?;
            inner.patch_looked(&at, &claim, looked, patch)
        };
        self.claims.under(&name, prepare, act).await
    }

    pub(super) fn patch_looked(
        &self,
        at: &Locator,
        claim: &Claim,
        looked: Looked<SharedDisk>,
        patch: AttrsPatch,
    ) -> Result<ObjectInfo> {
        let Looked {
            found, mut record, ..
        } = looked;
        let attrs = &mut record.attrs;
        if let Some((system, user)) = patch.headers {
            (attrs.system, attrs.user) = (system, user);
        }
        if let Some(tags) = patch.tags {
            attrs.tags = tags;
        }
        if let Some(acl) = patch.acl {
            attrs.acl = acl;
        }
        if patch.owner.is_some() {
            attrs.owner = patch.owner;
        }
        record.mtime_before_ns = None;
        let touched = patch.touch.then(|| match patch.modified {
            Some(time) => self.as_kept(time.0),
            None => self.now_ns(),
        });
        let Some(source) = &found.file else {
            // A marker of a brick's: from now on it is a file, as others of ours are.
            return self.publish_patched(at, claim, None, record, touched.or(Some(0)));
        };
        let is_long = found.facts.len_bytes > MAX_COPIED_LEN_BYTES;
        let is_marked = is_long && claim.is_marked()?;
        if is_marked || !is_long {
            let copied = Copied {
                source,
                facts: &found.facts,
                owner: patch.file_owner,
            };
            let time = touched.unwrap_or(found.facts.mtime_ns);
            let publish = || self.publish_patched(at, claim, Some(copied), record, Some(time));
            let info = if is_marked {
                self.require_room(found.facts.len_bytes)?;
                let info = claim.while_renewed(publish)?;
                claim.forget_mark();
                info
            } else {
                publish()?
            };
            self.forget_record(&found);
            return Ok(info);
        }
        if let (Some(time), Some(state)) = (touched, &mut record.state) {
            record.mtime_before_ns = Some(state.mtime_ns);
            state.mtime_ns = time;
        }
        // No rename fences what is written in place: a gateway that slept until here, or sleeps from
        // here on, must not answer that it has changed anything.
        claim.note_in_place()?;
        self.tree.records.save(source, &found.facts, &record)?;
        if let Some(time) = touched {
            source.sync().map_err(failed("make a record durable"))?;
            source
                .set_modified(time)
                .map_err(failed("set a file's time"))?;
        }
        give(source, patch.file_owner)?;
        source.sync().map_err(failed("make a record durable"))?;
        let facts = Self::facts_of(source)?;
        claim.renew()?;
        Ok(record.to_object_info(at.key.clone(), &state_of(&facts)))
    }

    fn publish_patched(
        &self,
        at: &Locator,
        claim: &Claim,
        copied: Option<Copied<'_>>,
        mut record: Record,
        time_ns: Option<i64>,
    ) -> Result<ObjectInfo> {
        let (entry, file) = claim.create()?;
        let mut len_bytes = 0;
        if let Some(copied) = &copied {
            len_bytes = copied.facts.len_bytes;
            let fail = failed("copy an object whose attributes change");
            let done = file
                .copy_from(copied.source, 0, 0, len_bytes)
                .map_err(&fail)?;
            if done != len_bytes {
                return Err(StoreError::ChangedWhileRead);
            }
            file.sync().map_err(&fail)?;
            self.tree
                .disk
                .copy_access(copied.source, &file)
                .map_err(&fail)?;
            give(&file, copied.owner)?;
        }
        if let Some(time_ns) = time_ns {
            file.set_modified(time_ns)
                .map_err(failed("set a file's time"))?;
        }
        let facts = Self::facts_of(&file)?;
        if copied.is_none() {
            record.directory = Default::default();
        }
        if let Some(state) = &mut record.state {
            (state.ino, state.mtime_ns, state.len_bytes) = (facts.ino, facts.mtime_ns, len_bytes);
        }
        self.tree.records.save(&file, &facts, &record)?;
        file.sync().map_err(failed("make a record durable"))?;
        let whole = Whole { record, facts };
        // The claim's first file stays in it, so that it is ours until all is done.
        let new = NewFile {
            claim,
            entry: &entry,
            owner: &FileOwner::default(),
            only_new: false,
            is_durable: true,
        };
        self.publish(at, &new)?;
        Ok(self.info_of(at, &whole))
    }
}

/// What a patched object is copied from.
struct Copied<'a> {
    source: &'a OsFile,
    facts: &'a crate::brick::disk::FileFacts,
    owner: Option<FileOwner>,
}

/// Gives a file that stands to another owner, with the permissions it has.
fn give(file: &OsFile, owner: Option<FileOwner>) -> Result<()> {
    let Some(FileOwner {
        uid: uid @ Some(_),
        gid,
        ..
    }) = owner
    else {
        return Ok(());
    };
    let access = Access {
        uid,
        gid,
        ..Access::default()
    };
    file.set_access(&access)
        .map_err(failed("give a file to its owner"))
}
