//! What a brick that comes into sync is compared by, and how it gets what it lacks: names of a
//! group with marks that tell versions apart, and files whole.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use crc_fast::CrcAlgorithm;
use placement::replica::OpId;
use tokio::sync::OwnedSemaphorePermit;

use super::files::nodes;
use super::kinds::{BegunUpload, BucketFacts, Copied, Listed, Mark, Name, NewObject};
use super::member::{CopyError, Copying, Member};
use super::shared::Shared;
use crate::brick::attrs::Record;
use crate::brick::commit::Turn;
use crate::brick::disk::{Disk, DiskFile};
use crate::brick::hashing::is_same_state;
use crate::brick::look::Looked;
use crate::brick::member::Sealing;
use crate::brick::sink::{SMALL_LEN_BYTES, off_thread};
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey, UploadId};
use crate::object::{FileOwner, Locator, PartInfo, Timestamp};
use crate::volume::NewUpload;

mod census;

pub use census::{Census, names_of};

/// Names of one page.
const PAGE_NAMES: usize = 64;

/// Names that records have changed while a brick learned: what was compared before does not
/// concern them any more.
pub type Touched = Arc<Mutex<HashSet<Name>>>;

fn is_touched(touched: &Touched, name: &Name) -> bool {
    let touched = touched.lock().unwrap_or_else(PoisonError::into_inner);
    touched.contains(name)
}

/// A file staged on a brick for a copy: nobody takes it any more once this is dropped.
pub struct Held {
    op: OpId,
    release: Box<dyn Fn(OpId) + Send + Sync>,
}

impl Held {
    /// Under which number it is staged.
    pub fn op(&self) -> OpId {
        self.op
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Held").field(&self.op).finish()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.release)(self.op);
    }
}

/// Where copies are staged: each holds the permit until nobody needs its files any more.
pub struct Staging<D: Disk> {
    /// The brick.
    pub to: Arc<Member<D>>,
    /// Numbers operations.
    pub shared: Arc<Shared<D>>,
    /// Bounds how many are staged at once.
    pub permit: Arc<OwnedSemaphorePermit>,
}

impl<D: Disk> Staging<D> {
    fn hold(&self, file: Arc<D::File>) -> Arc<Held> {
        let op = self.shared.new_op();
        self.to.stage(op, file);
        let (to, permit) = (Arc::clone(&self.to), Arc::clone(&self.permit));
        let release = Box::new(move |op| {
            let _held = &permit;
            to.unstage(op);
        });
        Arc::new(Held { op, release })
    }
}

fn sum_of(text: &impl serde::Serialize) -> u64 {
    let bytes = serde_json::to_vec(text).unwrap_or_default();
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, &bytes)
}

/// What tells a name's version; none where nothing stands there.
fn mark_of<D: Disk>(member: &Member<D>, name: &Name) -> Result<Option<Mark>> {
    match name {
        Name::Bucket(bucket) => {
            let facts = facts_of(member, bucket)?;
            Ok(facts.map(|facts| Mark {
                stamp: None,
                rest: (0, 0),
                attrs: sum_of(&facts),
                digests: None,
            }))
        }
        Name::Dir(bucket, path) => {
            let at = Locator::new(bucket.clone(), path.clone());
            nodes::mark_of_dir(&member.inner, &at)
        }
        Name::Object(bucket, key) => {
            let at = Locator::new(bucket.clone(), key.clone());
            if let Some(mark) = nodes::mark_of_special(&member.inner, &at)? {
                return Ok(Some(mark));
            }
            let looked = member.inner.look_now(&at)?;
            looked.map(|looked| mark_of_object(&looked)).transpose()
        }
        Name::Upload(bucket, key, id) => {
            let at = Locator::new(bucket.clone(), key.clone());
            match member.inner.upload_now(&at, id) {
                Ok(upload) => Ok(Some(Mark {
                    stamp: None,
                    rest: (0, 0),
                    attrs: sum_of(&upload.parts_after(None, usize::MAX)),
                    digests: None,
                })),
                Err(StoreError::NoSuchUpload) => Ok(None),
                Err(e) => Err(e),
            }
        }
    }
}

fn mark_of_object<D: Disk>(looked: &Looked<D>) -> Result<Mark> {
    let record = Record {
        state: None,
        mtime_before_ns: None,
        // Shown on one brick.
        etag_before: None,
        ..looked.record.clone()
    };
    let mut bare = record.clone();
    bare.void_digests();
    let sum = |record: &Record| crc_fast::checksum(CrcAlgorithm::Crc64Nvme, &record.encode());
    let posix = match &looked.found.file {
        Some(file) => nodes::posix_of_file(file.descriptor())?,
        None => None,
    };
    Ok(Mark {
        stamp: record.stamp,
        rest: (looked.info.len_bytes, looked.info.modified.0),
        attrs: sum(&bare) ^ posix.map_or(0, |posix| sum_of(&posix)),
        digests: (!looked.info.etag.is_provisional()).then(|| sum(&record)),
    })
}

fn facts_of<D: Disk>(member: &Member<D>, bucket: &BucketName) -> Result<Option<BucketFacts>> {
    match member.inner.load_bucket(bucket) {
        Ok(info) => Ok(Some(BucketFacts {
            created_ns: info.created.0,
            owner: info.owner.clone(),
            settings: info.settings.clone(),
        })),
        Err(StoreError::NoSuchBucket) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Of these names of a group those after one, with their marks as they are now.
pub async fn page<D: Disk>(
    member: Arc<Member<D>>,
    names: Arc<BTreeSet<Name>>,
    after: Option<Name>,
) -> Result<Listed> {
    off_thread(move || {
        let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut left = names.range::<Name, _>((from, Bound::Unbounded));
        let chosen: Vec<&Name> = left.by_ref().take(PAGE_NAMES).collect();
        let upto = left.next().and(chosen.last()).map(|last| (*last).clone());
        let mut listed = Listed {
            upto,
            names: BTreeMap::new(),
            after: after.clone(),
        };
        for name in chosen {
            if let Some(mark) = mark_of(&member, name)? {
                listed.names.insert(name.clone(), mark);
            }
        }
        Ok(listed)
    })
    .await
}

/// In the learner's turn: removes names that a page lacks, and says which differ. `own` are its
/// names of the group; those that are kept or touched are left alone.
pub fn compare<D: Disk>(
    member: &Member<D>,
    turn: &mut Turn<'_, D>,
    own: &BTreeSet<Name>,
    page: &Listed,
    keep: &[Name],
    touched: &Touched,
) -> Result<Vec<Name>> {
    let is_left = |name: &Name| keep.contains(name) || is_touched(touched, name);
    let is_within = |name: &Name| {
        page.after.as_ref().is_none_or(|after| name > after)
            && page.upto.as_ref().is_none_or(|upto| name <= upto)
    };
    let extra = own
        .iter()
        .filter(|name| is_within(name) && !page.names.contains_key(*name));
    for name in extra.filter(|name| !is_left(name)) {
        // What only may hold an object, and does not, is left alone.
        if mark_of(member, name)?.is_some() {
            remove(member, turn, name)?;
        }
    }
    let mut wants = Vec::new();
    for (name, mark) in page.names.iter().filter(|(name, _)| !is_left(name)) {
        let own = mark_of(member, name)?;
        if !own.is_some_and(|own| mark.is_met_by(&own)) {
            wants.push(name.clone());
        }
    }
    Ok(wants)
}

fn remove<D: Disk>(member: &Member<D>, turn: &mut Turn<'_, D>, name: &Name) -> Result<()> {
    match name {
        Name::Bucket(bucket) => match member.inner.remove_bucket_now(turn, bucket, None) {
            // Objects of other groups are still to go, or stand here by right.
            Err(StoreError::BucketNotEmpty) => Ok(()),
            other => other,
        },
        Name::Dir(bucket, path) => {
            let at = Locator::new(bucket.clone(), path.clone());
            member.inner.remove_dir_now(turn, &at)
        }
        Name::Object(bucket, key) => {
            let at = Locator::new(bucket.clone(), key.clone());
            match nodes::mark_of_special(&member.inner, &at)? {
                Some(_) => member.inner.unlink_now(turn, &at),
                None => member.inner.remove_now(turn, &at),
            }
        }
        Name::Upload(bucket, _, id) => member.inner.end_upload_now(bucket, id),
    }
}

/// A copy, and the files of it that are to be made durable before it counts.
pub type Made<F> = (Option<Copied>, Vec<Arc<F>>);

/// Copies what stands at a name from one brick to another, where it is staged.
pub async fn copy<D: Disk>(
    from: Arc<Member<D>>,
    staging: Staging<D>,
    name: Name,
) -> Copying<Made<D::File>> {
    let copied = off_thread(move || {
        let without_files = |copied| (copied, Vec::new());
        Ok(match &name {
            Name::Bucket(bucket) => match facts_of(&from, bucket) {
                Ok(facts) => Ok(without_files(facts.map(Copied::Bucket))),
                Err(error) => Err(CopyError::Source(error)),
            },
            Name::Dir(bucket, path) => {
                let at = Locator::new(bucket.clone(), path.clone());
                let copied = nodes::copy_dir(&from.inner, &at);
                copied.map(without_files).map_err(CopyError::Source)
            }
            Name::Object(bucket, key) => copy_object(&from, &staging, (bucket, key)),
            Name::Upload(bucket, key, id) => copy_upload(&from, &staging, (bucket, key), id),
        })
    });
    copied.await.map_err(CopyError::Source)?
}

/// As [`copy`], of an object, under an operation's number.
pub(super) fn copy_object<D: Disk>(
    from: &Member<D>,
    staging: &Staging<D>,
    name: (&BucketName, &ObjectKey),
) -> Copying<Made<D::File>> {
    match copy_standing(from, staging, name) {
        // Someone writes to it, and may go on: for this once he waits.
        Err(CopyError::Source(StoreError::ChangedWhileRead)) => {
            let copied = from
                .inner
                .while_still(|| copy_standing(from, staging, name));
            copied.map_err(CopyError::Source)?
        }
        other => other,
    }
}

fn copy_standing<D: Disk>(
    from: &Member<D>,
    staging: &Staging<D>,
    (bucket, key): (&BucketName, &ObjectKey),
) -> Copying<Made<D::File>> {
    let (at, to) = (Locator::new(bucket.clone(), key.clone()), &staging.to);
    if let Some(copied) = nodes::copy_special(&from.inner, &at).map_err(CopyError::Source)? {
        return Ok((Some(copied), Vec::new()));
    }
    let Some(looked) = from.inner.look_now(&at).map_err(CopyError::Source)? else {
        return Ok((None, Vec::new()));
    };
    let stamp = looked.record.stamp;
    let (file, found) = match &looked.found.file {
        Some(file) => to.copy_range_here(file, 0, looked.info.len_bytes)?,
        None => (Arc::new(to.inner.unnamed().map_err(CopyError::Target)?), 0),
    };
    let fail = |e| CopyError::Target(StoreError::from_io("fetch a file", e));
    let len_bytes = file.facts().map_err(fail)?.len_bytes;
    if len_bytes != looked.info.len_bytes {
        return Err(CopyError::Source(StoreError::ChangedWhileRead));
    }
    let mut record = Record {
        state: None,
        mtime_before_ns: None,
        ..looked.record
    };
    if len_bytes > 0 && record.crc64nvme.is_some_and(|expected| expected != found) {
        // What rotted is not to be vouched for anew.
        tracing::error!(bucket = %at.bucket, key = %at.key, "copied, and not what its digests say");
        record.void_digests();
    }
    let new = NewObject {
        len_bytes,
        modified_ns: looked.info.modified.0,
        record,
        owner: FileOwner::default(),
        posix: match &looked.found.file {
            Some(file) => nodes::posix_of_file(file.descriptor()).map_err(CopyError::Source)?,
            None => None,
        },
        moved_from: None,
    };
    if let Some(source) = &looked.found.file {
        let now = source.facts();
        let now = now.map_err(|e| CopyError::Source(StoreError::from_io("fetch a file", e)))?;
        if !is_same_state(&now, &looked.found.facts) {
            return Err(CopyError::Source(StoreError::ChangedWhileRead));
        }
    }
    let sealing = Sealing {
        at: &at,
        record: new.record.clone(),
        len_bytes,
        modified: new.modified(),
        owner: &new.owner,
        stamp,
    };
    let sealed = to.inner.seal_as(&file, sealing);
    sealed.map_err(CopyError::Target)?;
    if let Some(posix) = &new.posix {
        to.inner.give(&file, posix).map_err(CopyError::Target)?;
    }
    let held = staging.hold(Arc::clone(&file));
    let copied = Copied::Object(Box::new(new), held);
    // Short ones are made durable together.
    if len_bytes > SMALL_LEN_BYTES as u64 {
        file.sync().map_err(fail)?;
        return Ok((Some(copied), Vec::new()));
    }
    Ok((Some(copied), vec![file]))
}

fn copy_upload<D: Disk>(
    from: &Member<D>,
    staging: &Staging<D>,
    (bucket, key): (&BucketName, &ObjectKey),
    id: &UploadId,
) -> Copying<Made<D::File>> {
    let at = Locator::new(bucket.clone(), key.clone());
    let upload = match from.inner.upload_now(&at, id) {
        Err(StoreError::NoSuchUpload) => return Ok((None, Vec::new())),
        other => other.map_err(CopyError::Source)?,
    };
    let begun = BegunUpload {
        begun_ns: upload.info.begun.0,
        attrs: upload.info.attrs.clone(),
        checksum: upload.info.checksum,
        owner: upload.info.file_owner,
    };
    let mut parts: Vec<(PartInfo, Arc<Held>)> = Vec::new();
    for part in upload.parts_after(None, usize::MAX) {
        let opened = upload.open_part(from.inner.disk(), part.number);
        let (source, at) = opened.map_err(CopyError::Source)?;
        let (file, found) = staging.to.copy_range_here(&source, at, part.len_bytes)?;
        if found != part.crc64nvme {
            let changed = StoreError::Corrupt("a part is not what was uploaded".to_owned());
            return Err(CopyError::Source(changed));
        }
        let synced = file.sync();
        synced.map_err(|e| CopyError::Target(StoreError::from_io("fetch a part", e)))?;
        parts.push((part, staging.hold(file)));
    }
    Ok((Some(Copied::Upload(begun, parts)), Vec::new()))
}

/// In the learner's turn: makes a name what was fetched, or takes it away.
pub fn replace<D: Disk>(
    member: &Member<D>,
    turn: &mut Turn<'_, D>,
    name: &Name,
    copy: Option<&Copied>,
) -> Result<()> {
    match (name, copy) {
        (_, None) => remove(member, turn, name),
        (Name::Bucket(bucket), Some(Copied::Bucket(facts))) => {
            let info = facts.info(bucket);
            member.inner.keep_bucket(turn, &info, &FileOwner::default())
        }
        (Name::Dir(bucket, path), Some(Copied::Dir(ident, posix))) => {
            let at = Locator::new(bucket.clone(), path.clone());
            member.inner.make_dir_now(turn, &at, *ident, posix)
        }
        (Name::Object(bucket, key), Some(Copied::Special(special, posix, mtime_ns))) => {
            let at = Locator::new(bucket.clone(), key.clone());
            let special = (special, posix, *mtime_ns);
            nodes::put_special(&member.inner, turn, &at, special)
        }
        (Name::Object(bucket, key), Some(Copied::Object(new, held))) => {
            let at = Locator::new(bucket.clone(), key.clone());
            member.publish_staged(turn, &at, held.op(), new.owner)
        }
        (Name::Upload(bucket, key, id), Some(Copied::Upload(begun, parts))) => {
            let at = Locator::new(bucket.clone(), key.clone());
            let new = NewUpload {
                attrs: begun.attrs.clone(),
                checksum: begun.checksum,
                file_owner: begun.owner,
            };
            // Parts that were replaced since go with what is here of it.
            member.inner.end_upload_now(bucket, id)?;
            let begun = Timestamp(begun.begun_ns);
            member.inner.begin_upload_as(&at, id.clone(), new, begun)?;
            parts
                .iter()
                .try_for_each(|(part, held)| member.record_staged(&at, id, part, held.op()))
        }
        _ => Err(StoreError::Corrupt("a copy of another kind".to_owned())),
    }
}
