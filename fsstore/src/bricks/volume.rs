//! Many bricks are a volume.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use placement::group::GroupId;
use placement::replica::OpId;

use super::Bricks;
use super::driver::UNDECIDED;
use super::fan::Fan;
use super::kinds::{BucketFacts, Change, Name, NewObject};
use super::object::BricksObject;
use super::shared::Shared;
use super::uploads::BricksPart;
use crate::brick::Inner;
use crate::brick::attrs::{DigestState, FileFacts, Record, check_record_len};
use crate::brick::disk::Disk;
use crate::brick::sink::off_thread;
use crate::error::{Result, StoreError};
use crate::name::{BucketName, PartNumber, UploadId};
use crate::object::{Locator, ObjectInfo, PartClaim, Precondition, Timestamp, UploadInfo};
use crate::permission::{Act, Credentials};
use crate::volume::{
    AttrsPatch, BucketInfo, CommitOptions, ComposeOptions, ListPage, ListQuery, NewBucket,
    NewUpload, PartsPage, Removed, StageOptions, Staged, UploadsPage, UploadsQuery, Volume,
};

/// Bytes on their way to become an object on several bricks.
pub struct BricksStaged<D: Disk> {
    pub(super) shared: Arc<Shared<D>>,
    at: Locator,
    pub(super) fan: Fan<D>,
}

fn no_versions(at: &Locator) -> Result<()> {
    match at.version {
        // No bucket keeps versions yet, so none can be found.
        Some(_) => Err(StoreError::NoSuchKey),
        None => Ok(()),
    }
}

/// The object that a committed change made.
pub(super) fn info_of(at: &Locator, new: &NewObject) -> ObjectInfo {
    let state = DigestState {
        len_bytes: new.len_bytes,
        mtime_ns: new.modified_ns,
        ino: 0,
    };
    let record = Record {
        state: Some(state),
        ..new.record.clone()
    };
    let facts = FileFacts {
        len_bytes: new.len_bytes,
        mtime_ns: new.modified_ns,
        ino: 0,
        ctime_ns: 0,
    };
    record.to_object_info(at.key.clone(), &facts)
}

impl<D: Disk> Staged for BricksStaged<D> {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.fan.write(chunk).await
    }

    async fn commit(self, options: CommitOptions) -> Result<ObjectInfo> {
        let Self { shared, at, fan } = self;
        let taken = fan.finish().await?;
        for (member, error) in taken.lost {
            shared.report(member.id, error);
        }
        taken.digests.check(&options.expected)?;
        let known = taken.digests.known();
        let record = Record {
            md5: known.md5,
            crc64nvme: known.crc64nvme,
            checksum: options
                .keep_checksum
                .and_then(|kept| taken.digests.checksum(kept)),
            attrs: options.attrs,
            ..Record::default()
        };
        let new = NewObject {
            len_bytes: taken.digests.len_bytes,
            modified_ns: 0,
            record,
            owner: options.file_owner,
            posix: None,
            moved_from: None,
        };
        let op = shared.new_op();
        for (member, file) in taken.files {
            member.stage(op, file);
        }
        let put = Put {
            op,
            new,
            modified: options.modified,
            upload: None,
        };
        // Whoever asked may leave: what was staged is put all the same, or staged no more.
        let precondition = options.precondition;
        let put = tokio::spawn(async move { shared.put(&at, put, precondition).await });
        put.await.map_err(|_| StoreError::Stopping)?
    }
}

/// A whole object, staged.
pub(super) struct Put {
    pub op: OpId,
    pub new: NewObject,
    /// The time it is given; none for that of its commit.
    pub modified: Option<Timestamp>,
    /// The upload that ends with it.
    pub upload: Option<UploadId>,
}

impl<D: Disk> Shared<D> {
    /// Publishes what was staged under an operation's number.
    pub(super) async fn put(
        &self,
        at: &Locator,
        put: Put,
        precondition: Precondition,
    ) -> Result<ObjectInfo> {
        self.writing.settle(at).await;
        let op = put.op;
        let result = self.put_staged(at, put, precondition).await;
        let is_open = matches!(result, Err(StoreError::Busy(UNDECIDED)));
        if result.is_err() && !is_open {
            self.all_members()
                .iter()
                .for_each(|member| member.unstage(op));
        }
        result
    }

    async fn put_staged(
        &self,
        at: &Locator,
        put: Put,
        precondition: Precondition,
    ) -> Result<ObjectInfo> {
        check_record_len(put.new.record.encode().len())?;
        let gate = self.gate(&at.bucket);
        let _passing = gate.read().await;
        self.look_bucket(&at.bucket).await?;
        let group = self.group_of(at);
        let mut names = vec![Name::object(at)];
        names.extend(put.upload.as_ref().map(|id| Name::upload(at, id)));
        let primary = self.reader(group).await?;
        let looks = !precondition.is_empty()
            || put.upload.is_some()
            || primary.inner.respects_locks(&at.bucket);
        let (op, decided_at) = (put.op, at.clone());
        self.decided(op, group, names, looks, move |inner| {
            if looks {
                inner.check(&decided_at, &precondition)?;
            }
            if let Some(id) = &put.upload {
                inner.upload_now(&decided_at, id)?;
            }
            let mut new = Box::new(put.new.clone());
            new.modified_ns = put.modified.unwrap_or_else(|| inner.now()).0;
            let info = info_of(&decided_at, &new);
            let change = Change::Put {
                bucket: decided_at.bucket.clone(),
                key: decided_at.key.clone(),
                new,
                upload: put.upload.clone(),
            };
            Ok((Some(change), info))
        })
        .await
    }

    /// Has a change made, and gives what was decided with it.
    pub(super) async fn decided<T: Clone + Send + 'static>(
        &self,
        op: OpId,
        group: GroupId,
        names: Vec<Name>,
        looks: bool,
        decide: impl Fn(&Arc<Inner<D>>) -> Result<(Option<Change>, T)> + Send + Sync + 'static,
    ) -> Result<T> {
        let slot = Arc::new(Mutex::new(None));
        let filled = Arc::clone(&slot);
        let decide = move |inner: &Arc<Inner<D>>| {
            let (change, answer) = decide(inner)?;
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
            Ok(change)
        };
        self.change(op, group, names, looks, Arc::new(decide))
            .await?;
        let answer = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A request that was done was decided.
        answer.ok_or(StoreError::Conflict)
    }

    /// Looks at a bucket. Errors: NoSuchBucket.
    pub(super) async fn look_bucket(&self, name: &BucketName) -> Result<Arc<BucketInfo>> {
        let group = self.group_of_bucket(name);
        self.read(group, |member| async move {
            let inner = Arc::clone(&member.inner);
            inner.look_bucket(name).await
        })
        .await
    }

    /// Makes a bucket what `decide` says of the one that stands, on the bricks of its group.
    async fn keep_bucket(
        &self,
        name: &BucketName,
        owner: crate::object::FileOwner,
        decide: impl Fn(Result<Arc<BucketInfo>>, Timestamp) -> Result<BucketFacts>
        + Send
        + Sync
        + 'static,
    ) -> Result<BucketFacts> {
        let group = self.group_of_bucket(name);
        let names = vec![Name::Bucket(name.clone())];
        let bucket = name.clone();
        self.decided(self.new_op(), group, names, true, move |inner| {
            let facts = decide(inner.load_bucket(&bucket), inner.now())?;
            let len_bytes = serde_json::to_vec(&facts).map_or(0, |bytes| bytes.len());
            check_record_len(len_bytes)?;
            let change = Change::KeepBucket {
                bucket: bucket.clone(),
                facts: facts.clone(),
                owner,
            };
            Ok((Some(change), facts))
        })
        .await
    }

    async fn make_bucket(&self, name: &BucketName, new: NewBucket) -> Result<BucketInfo> {
        let gate = self.gate(name);
        let _closed = gate.write().await;
        let owner = new.file_owner;
        let facts = self
            .keep_bucket(name, owner, move |standing, now| match standing {
                Ok(info) => Err(StoreError::BucketExists {
                    owner: info.owner.clone(),
                }),
                Err(StoreError::NoSuchBucket) => Ok(BucketFacts {
                    created_ns: now.0,
                    owner: new.owner.clone(),
                    settings: new.settings.clone(),
                }),
                Err(e) => Err(e),
            })
            .await?;
        Ok(facts.info(name))
    }

    async fn remove_bucket(&self, name: &BucketName) -> Result<()> {
        let gate = self.gate(name);
        let _closed = gate.write().await;
        self.look_bucket(name).await?;
        for member in self.live_members() {
            let bucket = name.clone();
            let inner = Arc::clone(&member.inner);
            if off_thread(move || inner.bucket_holds_anything(&bucket)).await? {
                return Err(StoreError::BucketNotEmpty);
            }
            // What was done in the bucket is not to be done again after a crash.
            member.inner.checkpoint().await?;
        }
        let group = self.group_of_bucket(name);
        let names = vec![Name::Bucket(name.clone())];
        let bucket = name.clone();
        self.decided(self.new_op(), group, names, true, move |inner| {
            let standing = inner.load_bucket(&bucket)?;
            let change = Change::RemoveBucket {
                bucket: bucket.clone(),
                created_ns: standing.created.0,
            };
            Ok((Some(change), ()))
        })
        .await?;
        // Directories that other groups' objects had made on other bricks.
        for member in self.live_members() {
            let bucket = name.clone();
            let removed = member.inner.in_turn(None, move |inner, turn| {
                inner.remove_bucket_now(turn, &bucket, None)
            });
            if let Err(e) = removed.await {
                tracing::warn!(brick = member.id.0, bucket = %name, "its directory stays: {e}");
            }
        }
        Ok(())
    }
}

impl<D: Disk> Volume for Bricks<D> {
    type Object = BricksObject<D>;
    type Staged = BricksStaged<D>;
    type StagedPart = BricksPart<D>;

    async fn create_bucket(&self, name: &BucketName, new: NewBucket) -> Result<BucketInfo> {
        self.shared.make_bucket(name, new).await
    }

    async fn delete_bucket(&self, name: &BucketName) -> Result<()> {
        self.shared.remove_bucket(name).await
    }

    async fn bucket(&self, name: &BucketName) -> Result<BucketInfo> {
        Ok((*self.shared.look_bucket(name).await?).clone())
    }

    async fn set_bucket_setting(
        &self,
        name: &BucketName,
        setting: &str,
        value: Option<String>,
    ) -> Result<()> {
        let gate = self.shared.gate(name);
        let _passing = gate.read().await;
        let (setting, owner) = (setting.to_owned(), crate::object::FileOwner::default());
        let kept = self.shared.keep_bucket(name, owner, move |standing, _| {
            let info = standing?;
            let mut settings = info.settings.clone();
            match &value {
                Some(value) => settings.insert(setting.clone(), value.clone()),
                None => settings.remove(&setting),
            };
            Ok(BucketFacts {
                created_ns: info.created.0,
                owner: info.owner.clone(),
                settings,
            })
        });
        kept.await.map(|_| ())
    }

    async fn list_buckets(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BucketInfo>> {
        self.shared.list_buckets(prefix, after, limit).await
    }

    fn enforces_permissions(&self, bucket: &BucketName) -> bool {
        let members = self.shared.all_members();
        members.iter().any(|member| member.inner.enforces(bucket))
    }

    async fn permit(&self, who: &Credentials, act: Act<'_, Self::Object>) -> Result<()> {
        let group = match &act {
            Act::Read { at, .. } | Act::Replace(at) | Act::Remove(at) | Act::Change(at) => {
                self.shared.group_of(at)
            }
            Act::List { bucket, .. } => self.shared.group_of_bucket(bucket),
        };
        let member = self.shared.reader(group).await?;
        let act = match act {
            Act::Read { at, object } => Act::Read {
                at,
                object: object.map(BricksObject::on_brick),
            },
            Act::Replace(at) => Act::Replace(at),
            Act::Remove(at) => Act::Remove(at),
            Act::Change(at) => Act::Change(at),
            Act::List { bucket, prefix } => Act::List { bucket, prefix },
        };
        member.inner.may(who, act).await
    }

    async fn stat(&self, at: &Locator) -> Result<ObjectInfo> {
        no_versions(at)?;
        self.shared.writing.settle(at).await;
        let group = self.shared.group_of(at);
        let found = self.shared.read(
            group,
            |member| async move { member.inner.stat_object(at).await },
        );
        self.or_no_bucket(&at.bucket, found.await).await
    }

    async fn open(&self, at: &Locator) -> Result<Self::Object> {
        no_versions(at)?;
        self.shared.writing.settle(at).await;
        let group = self.shared.group_of(at);
        let found = self.shared.read(group, |member| async move {
            let object = member.inner.open_object(at).await?;
            Ok((object, member))
        });
        let (object, member) = self.or_no_bucket(&at.bucket, found.await).await?;
        let (object, member) = self.shared.sound(at, group, (object, member)).await;
        let shared = Arc::clone(&self.shared);
        Ok(BricksObject::new(object, at.clone(), member, shared))
    }

    async fn stage(&self, at: &Locator, options: StageOptions) -> Result<Self::Staged> {
        no_versions(at)?;
        self.shared.look_bucket(&at.bucket).await?;
        let group = self.shared.group_of(at);
        self.shared.reader(group).await?;
        Ok(BricksStaged {
            shared: Arc::clone(&self.shared),
            at: at.clone(),
            fan: Fan::new(
                self.shared.in_sync(group),
                self.shared.input.clone(),
                options,
            )
            .await?,
        })
    }

    async fn copy_into(
        &self,
        staged: &mut Self::Staged,
        source: &Self::Object,
        range: Range<u64>,
    ) -> Result<()> {
        staged.fan.copy(source, range).await
    }

    async fn copy_into_part(
        &self,
        staged: &mut Self::StagedPart,
        source: &Self::Object,
        range: Range<u64>,
    ) -> Result<()> {
        staged.fan.copy(source, range).await
    }

    async fn remove(&self, at: &Locator, precondition: &Precondition) -> Result<Removed> {
        no_versions(at)?;
        self.shared.writing.settle(at).await;
        let gate = self.shared.gate(&at.bucket);
        let _passing = gate.read().await;
        self.shared.look_bucket(&at.bucket).await?;
        let group = self.shared.group_of(at);
        let (at, precondition) = (at.clone(), precondition.clone());
        let (op, names) = (self.shared.new_op(), vec![Name::object(&at)]);
        self.shared
            .decided(op, group, names, true, move |inner| {
                inner.check(&at, &precondition)?;
                let existed = inner.stands(&at)?;
                let change = existed.then(|| Change::Remove {
                    bucket: at.bucket.clone(),
                    key: at.key.clone(),
                });
                Ok((change, Removed { existed }))
            })
            .await
    }

    async fn set_attrs(
        &self,
        at: &Locator,
        patch: AttrsPatch,
        precondition: &Precondition,
    ) -> Result<ObjectInfo> {
        no_versions(at)?;
        self.shared.writing.settle(at).await;
        let gate = self.shared.gate(&at.bucket);
        let _passing = gate.read().await;
        self.shared.look_bucket(&at.bucket).await?;
        let group = self.shared.group_of(at);
        let (at, precondition) = (at.clone(), precondition.clone());
        let (op, names) = (self.shared.new_op(), vec![Name::object(&at)]);
        self.shared
            .decided(op, group, names, true, move |inner| {
                let looked = inner.look_now(&at)?.ok_or(StoreError::NoSuchKey)?;
                precondition.check_write(Some(&looked.info))?;
                if patch.touch {
                    inner.check(&at, &Precondition::default())?;
                }
                let mut info = looked.info;
                let mut attrs = info.attrs.clone();
                if let Some((system, user)) = &patch.headers {
                    (attrs.system, attrs.user) = (system.clone(), user.clone());
                }
                if let Some(tags) = &patch.tags {
                    attrs.tags.clone_from(tags);
                }
                if let Some(acl) = &patch.acl {
                    attrs.acl.clone_from(acl);
                }
                if patch.owner.is_some() {
                    attrs.owner.clone_from(&patch.owner);
                }
                let now = || patch.modified.unwrap_or_else(|| inner.now());
                let touched = patch.touch.then(now);
                info.attrs = attrs.clone();
                info.modified = touched.unwrap_or(info.modified);
                let record = Record {
                    attrs: attrs.clone(),
                    ..looked.record
                };
                check_record_len(record.encode().len())?;
                let change = Change::Patch {
                    bucket: at.bucket.clone(),
                    key: at.key.clone(),
                    attrs: Box::new(attrs),
                    touched_ns: touched.map(|time| time.0),
                    owner: patch.file_owner,
                };
                Ok((Some(change), info))
            })
            .await
    }

    async fn list(&self, bucket: &BucketName, query: &ListQuery) -> Result<ListPage> {
        self.shared.writing.settle_all().await;
        self.shared.list(bucket, query).await
    }

    async fn begin_upload(&self, at: &Locator, new: NewUpload) -> Result<UploadInfo> {
        no_versions(at)?;
        let (shared, at) = (Arc::clone(&self.shared), at.clone());
        let begun = tokio::spawn(async move { shared.begin_upload(&at, new).await });
        begun.await.map_err(|_| StoreError::Stopping)?
    }

    async fn upload(&self, at: &Locator, id: &UploadId) -> Result<UploadInfo> {
        Ok(self.shared.open_upload(at, id).await?.info.clone())
    }

    async fn stage_part(
        &self,
        at: &Locator,
        id: &UploadId,
        number: PartNumber,
        options: StageOptions,
    ) -> Result<Self::StagedPart> {
        BricksPart::begin(&self.shared, at, id, number, options).await
    }

    async fn list_parts(
        &self,
        at: &Locator,
        id: &UploadId,
        after: Option<PartNumber>,
        limit: usize,
    ) -> Result<PartsPage> {
        let upload = self.shared.open_upload(at, id).await?;
        let mut parts = upload.parts_after(after, limit.saturating_add(1));
        let truncated = limit > 0 && parts.len() > limit;
        parts.truncate(limit);
        Ok(PartsPage {
            upload: upload.info.clone(),
            parts,
            truncated,
        })
    }

    async fn compose(
        &self,
        at: &Locator,
        id: &UploadId,
        parts: &[PartClaim],
        options: ComposeOptions,
    ) -> Result<ObjectInfo> {
        let (shared, at, id) = (Arc::clone(&self.shared), at.clone(), id.clone());
        let parts = parts.to_vec();
        let composed = tokio::spawn(async move { shared.compose(&at, &id, &parts, options).await });
        composed.await.map_err(|_| StoreError::Stopping)?
    }

    async fn abort_upload(&self, at: &Locator, id: &UploadId) -> Result<()> {
        self.shared.abort_upload(at, id).await
    }

    async fn list_uploads(&self, bucket: &BucketName, query: &UploadsQuery) -> Result<UploadsPage> {
        self.shared.list_uploads(bucket, query).await
    }
}

impl<D: Disk> Bricks<D> {
    /// A key is not there because its bucket is not, where that is so.
    async fn or_no_bucket<T>(&self, bucket: &BucketName, found: Result<T>) -> Result<T> {
        match found {
            Err(StoreError::NoSuchKey | StoreError::NoSuchBucket) => {
                self.shared.look_bucket(bucket).await?;
                Err(StoreError::NoSuchKey)
            }
            other => other,
        }
    }
}
