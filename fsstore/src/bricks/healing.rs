//! What a brick that comes into sync is compared by, and how it gets what it lacks: names of a
//! group with marks that tell versions apart, and files whole.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crc_fast::CrcAlgorithm;
use placement::group::{GroupId, Grouping};
use placement::replica::OpId;

use super::files::nodes;
use super::kinds::{BegunUpload, BucketFacts, Copied, Listed, Mark, Name, NewObject};
use super::member::{CopyError, Copying, Member};
use super::shared::{group_by, group_by_bucket};
use crate::brick::attrs::Record;
use crate::brick::commit::Turn;
use crate::brick::disk::{Disk, DiskFile};
use crate::brick::look::Looked;
use crate::brick::member::Sealing;
use crate::brick::sink::off_thread;
use crate::error::{Result, StoreError};
use crate::name::{BucketName, ObjectKey, UploadId};
use crate::object::{FileOwner, Locator, PartInfo, Timestamp};
use crate::volume::{BucketInfo, Durability, ListQuery, MAX_PAGE, NewUpload};

/// Names of one page.
const PAGE_NAMES: usize = 64;
/// Groups whose names are read from a brick at once: memory is for one in so many of its names.
const GROUPS_AT_ONCE: u32 = 64;

/// The names of some groups on a brick, as they were after an instant.
#[derive(Debug)]
pub struct Census {
    first: u32,
    since: Instant,
    names: BTreeMap<GroupId, BTreeSet<Name>>,
}

/// Names that records have changed while a brick learned: what was compared before does not
/// concern them any more.
pub type Touched = Arc<Mutex<HashSet<Name>>>;

fn is_touched(touched: &Touched, name: &Name) -> bool {
    let touched = touched.lock().unwrap_or_else(PoisonError::into_inner);
    touched.contains(name)
}

/// A brick's names of a group, no older than an instant.
pub async fn names_of<D: Disk>(
    member: &Arc<Member<D>>,
    grouping: Grouping,
    group: GroupId,
    not_before: Instant,
) -> Result<BTreeSet<Name>> {
    let mut census = member.census.lock().await;
    let first = group.0 - group.0 % GROUPS_AT_ONCE;
    let is_good = |found: &&Census| found.first == first && found.since >= not_before;
    if census.as_ref().filter(is_good).is_none() {
        *census = None;
        *census = Some(count(member, grouping, first).await?);
    }
    let names = census.as_ref().and_then(|census| census.names.get(&group));
    Ok(names.cloned().unwrap_or_default())
}

async fn count<D: Disk>(member: &Arc<Member<D>>, grouping: Grouping, first: u32) -> Result<Census> {
    let since = Instant::now();
    let mut names: BTreeMap<GroupId, BTreeSet<Name>> = BTreeMap::new();
    let mut add = |group: GroupId, name: Name| {
        if (first..first + GROUPS_AT_ONCE).contains(&group.0) {
            names.entry(group).or_default().insert(name);
        }
    };
    let listing = Arc::clone(&member.inner);
    let buckets = off_thread(move || listing.list_buckets_now("", None, usize::MAX)).await?;
    for BucketInfo { name: bucket, .. } in buckets {
        add(
            group_by_bucket(&grouping, &bucket),
            Name::Bucket(bucket.clone()),
        );
        let mut query = ListQuery {
            limit: MAX_PAGE,
            ..ListQuery::default()
        };
        loop {
            let page = member.inner.list_objects(&bucket, &query).await?;
            for entry in page.objects {
                let at = Locator::new(bucket.clone(), entry.key);
                add(group_by(&grouping, &at), Name::object(&at));
            }
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        let (listing, of) = (Arc::clone(&member.inner), bucket.clone());
        let nodes = off_thread(move || {
            let mut nodes = Vec::new();
            nodes::names_below(&listing, &of, &mut |at, name| nodes.push((at, name)))?;
            Ok(nodes)
        });
        for (at, name) in nodes.await? {
            add(group_by(&grouping, &at), name);
        }
        let (listing, of) = (Arc::clone(&member.inner), bucket.clone());
        let uploads = off_thread(move || {
            let mut uploads = Vec::new();
            listing.each_upload(&of, |info| uploads.push((info.key, info.id)))?;
            Ok(uploads)
        });
        for (key, id) in uploads.await? {
            let at = Locator::new(bucket.clone(), key);
            add(group_by(&grouping, &at), Name::upload(&at, &id));
        }
    }
    Ok(Census {
        first,
        since,
        names,
    })
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

/// The names of a group after one, with their marks as they are now.
pub async fn page<D: Disk>(
    member: Arc<Member<D>>,
    grouping: Grouping,
    group: GroupId,
    after: Option<Name>,
    not_before: Instant,
) -> Result<Listed> {
    let names = names_of(&member, grouping, group, not_before).await?;
    off_thread(move || {
        let is_after = |name: &&Name| after.as_ref().is_none_or(|after| *name > after);
        let mut left = names.iter().filter(is_after);
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
        remove(member, turn, name)?;
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

/// Copies what stands at a name from one brick to another, where it is staged durably.
pub async fn copy<D: Disk>(
    from: Arc<Member<D>>,
    to: Arc<Member<D>>,
    name: Name,
    ops: impl Fn() -> OpId + Send + 'static,
) -> Copying<Option<Copied>> {
    let copied = off_thread(move || {
        Ok(match &name {
            Name::Bucket(bucket) => match facts_of(&from, bucket) {
                Ok(facts) => Ok(facts.map(Copied::Bucket)),
                Err(error) => Err(CopyError::Source(error)),
            },
            Name::Dir(bucket, path) => {
                let at = Locator::new(bucket.clone(), path.clone());
                nodes::copy_dir(&from.inner, &at).map_err(CopyError::Source)
            }
            Name::Object(bucket, key) => copy_object(&from, &to, (bucket, key), ops()),
            Name::Upload(bucket, key, id) => copy_upload(&from, &to, (bucket, key), id, ops),
        })
    });
    copied.await.map_err(CopyError::Source)?
}

fn copy_object<D: Disk>(
    from: &Member<D>,
    to: &Member<D>,
    (bucket, key): (&BucketName, &ObjectKey),
    op: OpId,
) -> Copying<Option<Copied>> {
    let at = Locator::new(bucket.clone(), key.clone());
    if let Some(copied) = nodes::copy_special(&from.inner, &at).map_err(CopyError::Source)? {
        return Ok(Some(copied));
    }
    let Some(looked) = from.inner.look_now(&at).map_err(CopyError::Source)? else {
        return Ok(None);
    };
    let stamp = looked.record.stamp;
    let file = match &looked.found.file {
        Some(file) => to.copy_here(file)?,
        None => Arc::new(to.inner.unnamed().map_err(CopyError::Target)?),
    };
    let fail = |e| CopyError::Target(StoreError::from_io("fetch a file", e));
    let len_bytes = file.facts().map_err(fail)?.len_bytes;
    if len_bytes != looked.info.len_bytes {
        return Err(CopyError::Source(StoreError::ChangedWhileRead));
    }
    let new = NewObject {
        len_bytes,
        modified_ns: looked.info.modified.0,
        record: Record {
            state: None,
            mtime_before_ns: None,
            ..looked.record
        },
        owner: FileOwner::default(),
        posix: match &looked.found.file {
            Some(file) => nodes::posix_of_file(file.descriptor()).map_err(CopyError::Source)?,
            None => None,
        },
    };
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
    file.sync().map_err(fail)?;
    to.stage(op, file);
    Ok(Some(Copied::Object(Box::new(new), op)))
}

fn copy_upload<D: Disk>(
    from: &Member<D>,
    to: &Member<D>,
    (bucket, key): (&BucketName, &ObjectKey),
    id: &UploadId,
    ops: impl Fn() -> OpId,
) -> Copying<Option<Copied>> {
    let at = Locator::new(bucket.clone(), key.clone());
    let upload = match from.inner.upload_now(&at, id) {
        Err(StoreError::NoSuchUpload) => return Ok(None),
        other => other.map_err(CopyError::Source)?,
    };
    let begun = BegunUpload {
        begun_ns: upload.info.begun.0,
        attrs: upload.info.attrs.clone(),
        checksum: upload.info.checksum,
        owner: upload.info.file_owner,
    };
    let mut parts: Vec<(PartInfo, OpId)> = Vec::new();
    for part in upload.parts_after(None, usize::MAX) {
        let opened = upload.open_part(from.inner.disk(), part.number);
        let (source, at) = opened.map_err(CopyError::Source)?;
        let (file, _) = to.copy_range_here(&source, at, part.len_bytes)?;
        let synced = file.sync();
        synced.map_err(|e| CopyError::Target(StoreError::from_io("fetch a part", e)))?;
        let op = ops();
        to.stage(op, file);
        parts.push((part, op));
    }
    Ok(Some(Copied::Upload(begun, parts)))
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
            let info = BucketInfo {
                name: bucket.clone(),
                created: Timestamp(facts.created_ns),
                owner: facts.owner.clone(),
                durability: Durability::Strict,
                settings: facts.settings.clone(),
            };
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
        (Name::Object(bucket, key), Some(Copied::Object(new, op))) => {
            let at = Locator::new(bucket.clone(), key.clone());
            member.publish_staged(turn, &at, *op, new.owner)
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
                .try_for_each(|(part, op)| member.record_staged(&at, id, part, *op))
        }
        _ => Err(StoreError::Corrupt("a copy of another kind".to_owned())),
    }
}
