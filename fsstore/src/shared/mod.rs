//! A volume on a file system that several hosts share, served by any number of gateways at once.
//!
//! The tree is the one a brick has, name for name, and it is all there is: a gateway keeps nothing
//! that others would have to know. What it remembers (names of quiet directories, rows of quiet
//! files) it compares with the tree before every use.
//!
//! - [`disk`]: the file system, and what such file systems do besides
//! - [`claim`]: who may change a name now; [`publish`] and [`removal`]: what changes names
//! - [`staged`], [`patch`], [`uploads`], [`complete`]: writing
//! - [`look`], [`listing`] over [`walk`]: reading
//! - [`buckets`]; [`presence`]: which gateways live, told by a [`watch`]; [`upkeep`]: what only one of them may do
//!
//! What is exact and what is not:
//!
//! - A PUT, a removal, a change of attributes, a completion decide their condition and act under
//!   the key's claim, by whatever gateway: exact among gateways. A gateway that sleeps in the
//!   middle for longer than [`claim::PATIENCE`] and is overtaken fails when it wakes.
//!   Whatever exists under a name of the tree is moved into the claim before it goes, for that is
//!   what fails then. What is written in place is noted first ([`claim`], [`patch`]).
//! - Readers take no claim: they open one inode, which has bytes and metadata of one state.
//! - Programs that change the tree by other mounts take no claim either: a condition is decided
//!   on what was looked at a moment before.
//! - A removal of a bucket that slept between its last look and its rmdir(2) may take away an
//!   empty bucket that was made meanwhile under the same name.

pub mod buckets;
pub mod claim;
pub mod complete;
pub mod disk;
pub mod listing;
pub mod look;
pub mod patch;
pub mod presence;
pub mod publish;
pub mod removal;
pub mod staged;
pub mod upkeep;
pub mod uploads;
pub mod volume;
pub mod walk;
pub mod watch;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sha2::Digest;

use self::buckets::Buckets;
use self::claim::{Claims, Places, Uploads};
use self::disk::SharedDisk;
use self::listing::Rows;
use self::presence::Presence;
use self::walk::Names;
use crate::brick::HashPolicy;
use crate::brick::disk::Disk;
use crate::brick::sink::off_thread;
use crate::brick::tree::Tree;
use crate::by_bucket::ByBucket;
use crate::clock::Clock;
use crate::error::{Result, StoreError};
use crate::keypath::RESERVED;
use crate::name::{BucketName, UploadId, hex};
use crate::object::Locator;
use crate::volume::Durability;

/// Longest record kept in an xattr, in bytes: beyond that some engines refuse, or lose, values.
const XATTR_ROOM_BYTES: usize = 3 << 10;

/// How a shared volume is opened.
#[derive(Debug, Clone)]
pub struct SharedOptions {
    /// The volume's root; made where it is not.
    pub root: PathBuf,
    /// What an acknowledgement means.
    pub durability: ByBucket<Durability>,
    /// When files made without a door get a digest.
    pub hash: ByBucket<HashPolicy>,
    /// Whether a directory's times tell every gateway at once of every change in it, so that the
    /// names of a quiet directory need not be read again.
    pub trusts_dir_times: bool,
    /// Shortest pause between two rounds of upkeep.
    pub upkeep_interval: Duration,
    /// How long another gateway's claim must not have moved before it is broken.
    pub patience: Duration,
    /// The time of day.
    pub clock: Clock,
}

impl SharedOptions {
    /// The defaults, for a root.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            durability: ByBucket::default(),
            hash: ByBucket::default(),
            trusts_dir_times: false,
            upkeep_interval: Duration::from_secs(5),
            patience: claim::PATIENCE,
            clock: Clock::system(),
        }
    }
}

/// What all parts of a gateway's volume share.
pub struct Inner {
    tree: Tree<SharedDisk>,
    claims: Arc<Claims>,
    buckets: Buckets,
    rows: Rows,
    names: Names,
    presence: Presence,
    options: SharedOptions,
    /// Whether files keep times finer than a second.
    keeps_nanoseconds: bool,
    stopping: AtomicBool,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Shared {
    inner: Arc<Inner>,
}

impl Shared {
    /// Opens a tree, or begins one. Within a tokio runtime. Errors: AccessDenied, ReadOnly,
    /// NoSpace, Io; Unsupported where the file system keeps no xattrs.
    pub async fn open(options: SharedOptions) -> Result<Self> {
        let inner = off_thread(move || Inner::open(options)).await?;
        let inner = Arc::new(inner);
        let uploads: Weak<dyn Uploads> = Arc::downgrade(&inner) as _;
        inner.claims.ask_about_uploads(uploads);
        presence::start(&inner)?;
        upkeep::start(&inner);
        Ok(Self { inner })
    }

    /// Which gateways serve the tree.
    pub fn presence(&self) -> &Presence {
        &self.inner.presence
    }

    /// Says to the others that this gateway is gone. Later calls answer Stopping.
    pub async fn close(&self) -> Result<()> {
        self.inner.stopping.store(true, Ordering::Release);
        let inner = Arc::clone(&self.inner);
        off_thread(move || {
            inner.claims.leave();
            inner.presence.leave()
        })
        .await
    }
}

impl Inner {
    fn open(options: SharedOptions) -> Result<Self> {
        let fail = |e| StoreError::from_io("open the volume's root", e);
        let instance = random_name()?;
        let staging = options.root.join(RESERVED).join("staging");
        let probe = staging.join(claim::home_of(&instance));
        std::fs::create_dir_all(&probe).map_err(fail)?;
        let disk = SharedDisk::open(&options.root, &probe, random_number()?).map_err(fail)?;
        if !disk.has_xattrs() {
            return Err(fail(std::io::Error::new(
                std::io::ErrorKind::Unsupported,
                "the file system keeps no extended attributes",
            )));
        }
        let (disk, first_name) = (Arc::new(disk), random_number()? >> 8);
        let tree = Tree::open_with(Arc::clone(&disk), |records| {
            records.shared(XATTR_ROOM_BYTES, first_name)
        })?;
        let keeps_nanoseconds = disk.tick_ns() < 1_000_000_000;
        let own = |name: &str| presence::own_dir(&disk, name);
        let claims = Claims::new(
            Arc::clone(&disk),
            Places {
                claims: own("claims")?,
                staging: Arc::clone(&tree.own.staging),
                broken: own("broken")?,
            },
            &instance,
            options.patience,
        );
        let claims = Arc::new(claims);
        let presence = Presence::new(
            Arc::clone(&claims),
            own("gateways")?,
            &instance,
            options.clock.clone(),
        )?;
        // Before anything is done, so that of two that start together one sees the other.
        presence.beat()?;
        Ok(Self {
            claims,
            buckets: Buckets::new(options.durability.clone()),
            rows: Rows::new(),
            names: Names::new(options.trusts_dir_times, options.clock.clone()),
            presence,
            keeps_nanoseconds,
            stopping: AtomicBool::new(false),
            options,
            tree,
        })
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn is_durable(&self, bucket: &BucketName) -> bool {
        self.options.durability.of(bucket) == Durability::Strict
    }

    /// The time now, as finely as files keep it: a record names its file's time.
    fn now_ns(&self) -> i64 {
        self.as_kept(self.options.clock.now().0)
    }

    fn as_kept(&self, time_ns: i64) -> i64 {
        match self.keeps_nanoseconds {
            true => time_ns,
            false => time_ns - time_ns.rem_euclid(1_000_000_000),
        }
    }
}

/// The claim of a key.
fn claim_of(at: &Locator) -> String {
    claim_name(&["k", at.bucket.as_str(), at.key.as_str()])
}

/// The claim of a bucket.
fn claim_of_bucket(bucket: &BucketName) -> String {
    claim_name(&["b", bucket.as_str()])
}

/// The claim of an upload.
fn claim_of_upload(bucket: &BucketName, id: &UploadId) -> String {
    claim_name(&["u", bucket.as_str(), id.as_str()])
}

/// A file name for these words: neither a key's length nor its bytes are a name's.
fn claim_name(words: &[&str]) -> String {
    let mut hasher = sha2::Sha256::new();
    for word in words {
        hasher.update((word.len() as u64).to_le_bytes());
        hasher.update(word.as_bytes());
    }
    hex(&hasher.finalize()[..16])
}

fn random_bytes<const LEN: usize>() -> Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|e| StoreError::from_io("draw random bytes", e.into()))?;
    Ok(bytes)
}

fn random_number() -> Result<u64> {
    Ok(u64::from_le_bytes(random_bytes()?))
}

fn random_name() -> Result<String> {
    Ok(hex(&random_bytes::<8>()?))
}

#[cfg(test)]
mod tests;
