//! What requests and the driver share: who may be read, and where requests go.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use placement::group::{DirectoryId, GroupId, Grouping};
use placement::layout::BrickId;
use placement::replica::OpId;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{Notify, RwLock, oneshot};

use super::driver::{Ask, Decide, Input};
use super::files::writing::Writing;
use super::kinds::Name;
use super::logger::Members;
use super::member::Member;
use super::mending::Suspects;
use super::uploads::Completing;
use crate::brick::disk::Disk;
use crate::error::{Result, StoreError};
use crate::locks::LockPlaces;
use crate::name::BucketName;
use crate::object::Locator;

/// How long a reader waits for a primary.
const PATIENCE: Duration = Duration::from_secs(20);
/// Stands for no seat.
const NOBODY: u32 = u32::MAX;
/// Buckets whose gates are kept though nobody passes them.
const MAX_IDLE_GATES: usize = 1024;

/// What readers need to know of a group.
#[derive(Debug)]
struct Seen {
    epoch: AtomicU64,
    reader: AtomicU32,
    /// Seats in sync, one bit each.
    in_sync: AtomicU64,
}

/// See the module.
pub struct Shared<D: Disk> {
    pub grouping: Grouping,
    pub members: Members<D>,
    pub input: Sender<Input<D>>,
    pub runtime: Handle,
    pub completing: Arc<Completing>,
    pub(super) suspects: Suspects,
    /// Files that are open through a mount.
    pub writing: Writing,
    /// Locks on a mount are locks on the volume's files.
    pub locks: LockPlaces,
    groups: Vec<Seen>,
    moved: Notify,
    next_op: AtomicU64,
    gates: Mutex<HashMap<BucketName, Arc<RwLock<()>>>>,
}

impl<D: Disk> Shared<D> {
    pub fn new(
        grouping: Grouping,
        members: Members<D>,
        input: Sender<Input<D>>,
        first_op: u64,
        suspects: Suspects,
    ) -> Self {
        let group = |_| Seen {
            epoch: AtomicU64::new(0),
            reader: AtomicU32::new(NOBODY),
            in_sync: AtomicU64::new(0),
        };
        Self {
            grouping,
            members,
            input,
            runtime: Handle::current(),
            completing: Arc::default(),
            suspects,
            writing: Writing::default(),
            locks: LockPlaces::default(),
            groups: (0..grouping.count()).map(group).collect(),
            moved: Notify::new(),
            next_op: AtomicU64::new(first_op),
            gates: Mutex::default(),
        }
    }

    /// The group of an object, and of the uploads to it. A directory's id is made of its path, so
    /// a key's group is the same on every brick and in every run.
    pub fn group_of(&self, at: &Locator) -> GroupId {
        group_by(&self.grouping, at)
    }

    /// The group of what is known of a bucket.
    pub fn group_of_bucket(&self, bucket: &BucketName) -> GroupId {
        group_by_bucket(&self.grouping, bucket)
    }

    pub fn new_op(&self) -> OpId {
        OpId(self.next_op.fetch_add(1, Ordering::Relaxed))
    }

    /// Everyone who changes something in a bucket passes its gate; who makes or removes it closes
    /// it meanwhile.
    pub fn gate(&self, bucket: &BucketName) -> Arc<RwLock<()>> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if gates.len() > MAX_IDLE_GATES {
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        }
        Arc::clone(gates.entry(bucket.clone()).or_default())
    }

    pub(super) fn configured(
        &self,
        g: u32,
        epoch: u64,
        primary: Option<usize>,
        in_sync: impl Iterator<Item = usize>,
    ) {
        let seen = &self.groups[g as usize];
        let bits = in_sync.fold(0, |bits, seat| bits | 1u64 << (seat & 63));
        seen.in_sync.store(bits, Ordering::Release);
        // Who is in sync has all that was answered, and may be read while another becomes primary.
        let is_in = |seat: usize| bits & 1u64 << (seat & 63) != 0;
        let reader = self.reader_seat(g);
        if reader != primary && !reader.is_some_and(is_in) {
            seen.reader.store(NOBODY, Ordering::Release);
        }
        // Last: who reads it before and after knows whether the rest changed.
        seen.epoch.store(epoch, Ordering::Release);
    }

    pub(super) fn set_reader(&self, g: u32, seat: Option<usize>) {
        let number = seat.map_or(NOBODY, |seat| seat as u32);
        self.groups[g as usize]
            .reader
            .store(number, Ordering::Release);
        self.moved.notify_waiters();
    }

    /// Who may be read for a group, where it is known.
    pub fn reader_seat(&self, g: u32) -> Option<usize> {
        let seat = self.groups[g as usize].reader.load(Ordering::Acquire);
        (seat != NOBODY).then_some(seat as usize)
    }

    /// The epoch of a group.
    pub fn epoch(&self, group: GroupId) -> u64 {
        self.groups[group.0 as usize].epoch.load(Ordering::Acquire)
    }

    pub fn epochs(&self) -> Vec<u64> {
        let epochs = self.groups.iter();
        epochs
            .map(|seen| seen.epoch.load(Ordering::Acquire))
            .collect()
    }

    pub fn all_members(&self) -> Vec<Arc<Member<D>>> {
        self.members
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Those that are not known to have failed.
    pub fn live_members(&self) -> Vec<Arc<Member<D>>> {
        let mut members = self.all_members();
        members.retain(|member| !member.has_failed());
        members
    }

    /// Seats in sync, one bit each.
    pub fn in_sync_bits(&self, group: GroupId) -> u64 {
        let seen = &self.groups[group.0 as usize];
        seen.in_sync.load(Ordering::Acquire)
    }

    /// The bricks in sync that are not known to have failed, the one to read from first.
    pub fn in_sync(&self, group: GroupId) -> Vec<Arc<Member<D>>> {
        let seen = &self.groups[group.0 as usize];
        let bits = seen.in_sync.load(Ordering::Acquire);
        let first = self.reader_seat(group.0);
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        let is_in = |seat: &usize| bits & 1 << (seat & 63) != 0;
        let mut seats: Vec<usize> = (0..members.len()).filter(is_in).collect();
        seats.sort_by_key(|seat| Some(*seat) != first);
        let found = seats.into_iter().map(|seat| Arc::clone(&members[seat]));
        found.filter(|member| !member.has_failed()).collect()
    }

    /// Waits until a group may be read, and says where. Errors: Busy.
    pub async fn reader(&self, group: GroupId) -> Result<Arc<Member<D>>> {
        if let Some(member) = self.reader_now(group) {
            return Ok(member);
        }
        let found = async {
            loop {
                let moved = self.moved.notified();
                if let Some(member) = self.reader_now(group) {
                    return member;
                }
                // A notice between the two would be missed but for the timeout.
                let _ = tokio::time::timeout(Duration::from_millis(50), moved).await;
            }
        };
        tokio::time::timeout(PATIENCE, found)
            .await
            .map_err(|_| StoreError::Busy("no brick of its group"))
    }

    fn reader_now(&self, group: GroupId) -> Option<Arc<Member<D>>> {
        let seat = self.reader_seat(group.0)?;
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        members.get(seat).cloned()
    }

    /// Reads from the brick that answers for a group; where its disk fails, from the next.
    pub async fn read<T, F>(&self, group: GroupId, read: impl Fn(Arc<Member<D>>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut member = self.reader(group).await?;
        let mut tried = Vec::new();
        loop {
            tried.push(member.id);
            let error = match member
                .patiently(&self.input, read(Arc::clone(&member)))
                .await
            {
                Err(error) if is_fault(&error) => error,
                other => return other,
            };
            let mut others = self.in_sync(group).into_iter();
            let Some(next) = others.find(|other| !tried.contains(&other.id)) else {
                return Err(error);
            };
            self.report(member.id, error);
            member = next;
        }
    }

    /// Says that a brick's disk failed.
    pub fn report(&self, brick: BrickId, error: StoreError) {
        let _ = self.input.send(Input::Failed { brick, error });
    }

    /// Has a change made: decided on the primary, made on every brick in sync.
    pub async fn change(
        &self,
        op: OpId,
        group: GroupId,
        names: Vec<Name>,
        looks: bool,
        decide: Decide<D>,
    ) -> Result<()> {
        let (answer, heard) = oneshot::channel();
        let ask = Ask {
            names,
            decide,
            looks,
            answer: Some(answer),
        };
        let sent = self.input.send(Input::Request { op, group, ask });
        sent.map_err(|_| StoreError::Stopping)?;
        heard.await.unwrap_or(Err(StoreError::Stopping))
    }
}

/// See [`Shared::group_of`].
pub fn group_by(grouping: &Grouping, at: &Locator) -> GroupId {
    let key = at.key.as_str();
    let (dir, name) = key.rsplit_once('/').unwrap_or(("", key));
    let mut hasher = Sha256::new();
    hasher.update(at.bucket.as_str());
    hasher.update("/");
    hasher.update(dir);
    let digest = hasher.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    grouping.group(DirectoryId(id), name.as_bytes())
}

/// See [`Shared::group_of_bucket`].
pub fn group_by_bucket(grouping: &Grouping, bucket: &BucketName) -> GroupId {
    grouping.group(DirectoryId([0; 16]), bucket.as_str().as_bytes())
}

/// Whether an error says that a brick has no room.
pub fn is_full(error: &StoreError) -> bool {
    matches!(error, StoreError::NoSpace | StoreError::QuotaExceeded)
}

/// Whether an error says that a brick is of no use, not that a request is.
pub fn is_fault(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { .. } | StoreError::ReadOnly)
}
