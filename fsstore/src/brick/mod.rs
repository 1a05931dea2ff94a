//! One brick: a directory tree of plain files that is a volume.
//!
//! - ground: [`disk`], [`osdisk`]; names in it: [`tree`], [`publish`], [`removal`], [`walk`];
//!   [`records`] of files
//! - writing: [`sink`] over [`lane`]s, [`staged`], [`upload`] and [`multipart`], [`commit`] with
//!   its [`intents`]
//! - reading: [`look`], [`object`], [`listing`] over the [`index`]
//! - `owner` and `permit`: to whom files belong, and whom their permissions let in
//! - as files, for a mount: [`posix`]
//! - upkeep: [`scan`] (the index against the tree), [`hashing`] (digests not known yet), [`scrub`]
//!   (bytes against their digests)
//!
//! Files with their records are the truth; the index may be deleted at any time.

pub(crate) mod acl;
pub mod attrs;
mod backlog;
mod bell;
pub mod buckets;
pub mod commit;
pub mod disk;
pub mod edits;
pub mod hashing;
pub(crate) mod in_place;
pub mod index;
pub mod inspect;
pub mod intents;
pub mod lane;
pub mod listing;
pub mod look;
pub(crate) mod member;
pub mod multipart;
pub mod names;
pub mod notices;
pub mod object;
pub mod osdisk;
pub(crate) mod owner;
mod permit;
pub mod posix;
pub mod publish;
pub mod records;
pub mod recovery;
pub mod removal;
pub mod scan;
pub mod scrub;
pub mod sink;
pub mod staged;
pub mod tree;
pub mod upload;
pub mod uploads;
pub mod volume;
pub mod walk;
pub mod watch;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::watch::{Receiver, Sender};

use self::backlog::Backlog;
use self::bell::Bell;
use self::buckets::Buckets;
use self::commit::{Committer, Terms};
use self::disk::Disk;
use self::edits::Edits;
use self::hashing::Suspect;
use self::index::{Index, Opened};
use self::intents::{BootId, IntentLog};
use self::look::{Stamps, Unrecordable};
use self::osdisk::OsDisk;
use self::tree::Tree;
use self::uploads::Uploads;
use self::watch::{Source, Watching};
use crate::by_bucket::ByBucket;
use crate::clock::Clock;
use crate::error::{Result, StoreError};
use crate::keypath::RESERVED;
use crate::locks::LockPlaces;
use crate::volume::Durability;

/// Objects that wait to be hashed; more are found again by the index.
const MAX_SUSPECTS: usize = 4_096;
/// How often the intent log is looked after.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(2);
/// The log is looked after each so many times only where it names edits or marks: by then the
/// kernel has written most of what is to be synced. Source: vm.dirty_expire_centisecs, 30 s.
const BOUND_UPKEEPS: u32 = 15;

/// When a file without a known digest gets one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashPolicy {
    /// Soon, by a task of low pace; until then its tag is provisional.
    #[default]
    Background,
    /// The same, but a file written through a mount as soon as it is closed.
    OnClose,
    /// Before the first answer that shows its tag.
    OnRead,
    /// Never: its tag stays provisional.
    Never,
}

impl HashPolicy {
    /// Whether the hashing task reads files without being asked.
    pub(crate) fn is_unasked(self) -> bool {
        match self {
            Self::Background | Self::OnClose => true,
            Self::OnRead | Self::Never => false,
        }
    }
}

/// How long a disk of a volume of several may take for what it is given.
const HANGS_AFTER: Duration = Duration::from_secs(30);

/// How a brick is opened.
#[derive(Debug, Clone)]
pub struct BrickOptions {
    /// The volume's root; made where it is not.
    pub root: PathBuf,
    /// What an acknowledgement means.
    pub durability: ByBucket<Durability>,
    /// When files made without a door get a digest.
    pub hash: ByBucket<HashPolicy>,
    /// Whether objects are not replaced or removed whose file a process has locked for writing.
    pub respect_locks: ByBucket<bool>,
    /// Whether doors ask for the permissions of files; see [`crate::volume::Volume::permit`].
    pub enforce: ByBucket<bool>,
    /// Shortest pause between two looks at the whole tree; a large tree is looked at less
    /// often, so that looking takes a twentieth of the time at most. Where the kernel tells of
    /// changes, ten minutes are the shortest.
    pub scan_interval: Duration,
    /// Whether the kernel is asked to tell of changes.
    pub watch: bool,
    /// The time of day.
    pub clock: Clock,
    /// The host's boot; none where it is not known, then a power cut is assumed.
    pub boot: Option<BootId>,
    /// Whether the brick is a member of a volume that logs changes before it makes them: what it
    /// changes is synced now and then, not before each answer.
    pub member: bool,
    /// For so long a disk may take for what it is given, as a member; one that takes longer hangs.
    pub hangs_after: Duration,
}

impl BrickOptions {
    /// The defaults, for a root.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            durability: ByBucket::default(),
            hash: ByBucket::default(),
            respect_locks: ByBucket::default(),
            enforce: ByBucket::default(),
            scan_interval: Duration::from_secs(1),
            watch: true,
            clock: Clock::system(),
            boot: BootId::of_host(),
            member: false,
            hangs_after: HANGS_AFTER,
        }
    }
}

/// How far the index has been built from the tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RebuildProgress {
    /// The bucket being read; none where none is.
    pub bucket: Option<String>,
    /// Objects read so far, over all buckets.
    pub objects: u64,
    /// Whether every bucket's listing comes from the index.
    pub done: bool,
}

/// What all parts of a brick share.
pub struct Inner<D: Disk> {
    tree: Tree<D>,
    committer: Committer<D>,
    log: Arc<IntentLog<D>>,
    index: Index,
    stamps: Stamps,
    edits: Edits,
    locks: LockPlaces,
    unrecordable: Unrecordable,
    buckets: Buckets,
    uploads: Uploads<D>,
    options: BrickOptions,
    /// When digests of files that were edited are taken, as it was asked for.
    hash_edited: ByBucket<HashPolicy>,
    runtime: Handle,
    suspects: mpsc::Sender<Suspect>,
    progress: Sender<RebuildProgress>,
    bell: Bell,
    watching: Watching,
    stopping: AtomicBool,
    /// Counts renames of files by a mount, before and after each.
    renames: AtomicU64,
    backlog: Backlog,
}

/// See the module. Clones share it; [`Brick::close`] ends it in order.
pub struct Brick<D: Disk = OsDisk> {
    inner: Arc<Inner<D>>,
}

impl<D: Disk> Clone for Brick<D> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl Brick<OsDisk> {
    /// Opens a tree, or begins one. Within a tokio runtime. Errors: AccessDenied, ReadOnly,
    /// NoSpace, Io, Index.
    pub async fn open(mut options: BrickOptions) -> Result<Self> {
        let root = options.root.clone();
        let disk = sink::off_thread(move || open_disk(&root)).await?;
        if let Some(number) = disk.mounting() {
            options.boot = options.boot.and_then(|boot| boot.with_mounting(number));
        }
        if !disk.has_xattrs() {
            tracing::warn!(
                root = %options.root.display(),
                "this file system has no user xattrs: metadata are kept in side files under {RESERVED}/records"
            );
        }
        let index_dir = options.root.join(RESERVED).join("index");
        let source = told_of_changes(&disk, &options);
        let brick = Self::open_on(Arc::new(disk), options, &index_dir).await?;
        if let Some(source) = source {
            watch::start(&brick.inner, source)
                .map_err(|e| StoreError::from_io("start the watch", e))?;
        }
        Ok(brick)
    }
}

/// Asks the kernel to tell of changes behind our back, before anything is looked at. The log says
/// whether it does.
fn told_of_changes(disk: &OsDisk, options: &BrickOptions) -> Option<Source> {
    if !options.watch {
        return None;
    }
    match Source::open(&disk.root()) {
        Ok(source) => {
            tracing::info!("the kernel tells of changes made behind portico's back");
            Some(source)
        }
        Err(e) => {
            let every = options.scan_interval;
            tracing::info!(
                ?every,
                "changes made behind portico's back are looked for by scans: the kernel tells of none ({e})"
            );
            None
        }
    }
}

fn open_disk(root: &Path) -> Result<OsDisk> {
    let fail = |e| StoreError::from_io("open the volume's root", e);
    std::fs::create_dir_all(root).map_err(fail)?;
    let staging = root.join(RESERVED).join("staging");
    // No one else's, like what will be in it.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&staging)
        .map_err(fail)?;
    OsDisk::open(root, &staging).map_err(fail)
}

impl<D: Disk> Brick<D> {
    /// Opens a tree on a disk. The index's database is in `index_dir`, a directory of the host.
    ///
    /// 1. what a crash left half made is swept away;
    /// 2. the keys of the intent log are looked at again, so that the index is true;
    /// 3. the tree is compared with the index in the background, and buckets that the index
    ///    does not have are read from the tree until it has.
    pub async fn open_on(
        disk: Arc<D>,
        mut options: BrickOptions,
        index_dir: &Path,
    ) -> Result<Self> {
        let hash_edited = options.hash.clone();
        if options.member {
            // What its bytes are by themselves is not what they should be.
            options.hash = HashPolicy::Never.into();
        }
        let tree = sink::off_thread(move || Tree::open(disk)).await?;
        let locks = match options.respect_locks.any(|respects| respects) {
            true => LockPlaces::of_tree(&options.root)
                .map_err(|e| StoreError::from_io("learn which locks the kernel shows", e))?,
            false => LockPlaces::default(),
        };
        let (log, left) = IntentLog::open(
            Arc::clone(&tree.disk),
            Arc::clone(&tree.own.index),
            options.boot.clone(),
        )?;
        let log = Arc::new(log);
        let committer =
            Committer::start_as(Arc::clone(&tree.disk), Arc::clone(&log), options.member)
                .map_err(|e| StoreError::from_io("start the committing thread", e))?;
        let (index, opened) = Index::open(index_dir).await?;
        let (suspects, suspected) = mpsc::channel(MAX_SUSPECTS);
        let inner = Arc::new(Inner {
            tree,
            committer,
            log,
            index,
            stamps: Stamps::new(),
            edits: Edits::default(),
            locks,
            unrecordable: Unrecordable::new(),
            buckets: Buckets::new(options.durability.clone()),
            uploads: Uploads::new(),
            options,
            hash_edited,
            runtime: Handle::current(),
            suspects,
            progress: Sender::new(RebuildProgress::default()),
            bell: Bell::default(),
            watching: Watching::default(),
            stopping: AtomicBool::new(false),
            renames: AtomicU64::new(0),
            backlog: Backlog::default(),
        });
        let waiting = Arc::downgrade(&inner);
        inner.committer.wait_at_end(move || {
            if let Some(inner) = waiting.upgrade() {
                inner.keep_up();
            }
        });
        let recovering = Arc::clone(&inner);
        let fresh = opened == Opened::Fresh;
        sink::off_thread(move || recovering.recover(&left, fresh)).await?;
        inner.drop_closed_segments().await?;
        let brick = Self { inner };
        brick.start_upkeep(suspected);
        Ok(brick)
    }

    fn start_upkeep(&self, suspected: mpsc::Receiver<Suspect>) {
        let upkeep = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            let mut waited = 0;
            loop {
                tokio::time::sleep(UPKEEP_INTERVAL).await;
                let Some(inner) = upkeep.upgrade() else {
                    return;
                };
                if inner.is_stopping() {
                    return;
                }
                // Before such a segment is removed everything is synced, which is not to
                // hurry what is written in place.
                waited += 1;
                if inner.log.binds() && !inner.log.is_long() && waited < BOUND_UPKEEPS {
                    continue;
                }
                waited = 0;
                if let Err(e) = inner.rotate_log().await {
                    tracing::error!("the index could not be made durable: {e}");
                }
            }
        });
        scan::start(&self.inner);
        hashing::start(&self.inner, suspected);
    }

    /// How far the index has been built.
    pub fn progress(&self) -> Receiver<RebuildProgress> {
        self.inner.progress.subscribe()
    }

    /// Finishes what was begun and makes the index durable. Later calls answer Stopping.
    pub async fn close(&self) -> Result<()> {
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.bell.end();
        self.inner.watching.stop();
        let inner = Arc::clone(&self.inner);
        let settled = sink::off_thread(move || {
            inner.committer.close()?;
            Ok(inner.settle_owed())
        })
        .await?;
        match settled {
            true => self.inner.drop_closed_segments().await,
            false => Ok(()),
        }
    }
}

impl<D: Disk> Inner<D> {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Closes the open segment of the log and drops it once the index is durable without it.
    async fn rotate_log(self: &Arc<Self>) -> Result<()> {
        if self.log.is_empty() && self.log.closed_through().is_none() {
            return Ok(());
        }
        self.log.ask_rotation();
        let inner = Arc::clone(self);
        let settled = self
            .committer
            .submit(Terms::to_look(), move |_| Ok(inner.settle_owed()))
            .await?;
        match settled {
            true => self.drop_closed_segments().await,
            // The log goes on naming what the index may not have.
            false => Ok(()),
        }
    }

    async fn drop_closed_segments(&self) -> Result<()> {
        let closed = self.log.closed_through();
        self.index.checkpoint().await?;
        let Some(number) = closed else { return Ok(()) };
        if self.options.durability.any(|d| d == Durability::Relaxed) || self.log.binds() {
            // A relaxed key, an edit or a mark leaves the log, and with it doubt, when bytes and
            // names are durable.
            let disk = Arc::clone(&self.tree.disk);
            sink::off_thread(move || match disk.sync_everything() {
                Err(e) if e.kind() == std::io::ErrorKind::Unsupported => Ok(()),
                other => other.map_err(|e| StoreError::from_io("sync relaxed objects", e)),
            })
            .await?;
        }
        self.log.remove_through(number)
    }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
pub(crate) mod crashdisk;
#[cfg(test)]
mod tests;
