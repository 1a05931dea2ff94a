//! Changes made behind our back, as the kernel tells of them: so that listings have new names, and
//! mounts forget what they remember, within a second and without looking at the whole tree.
//!
//! 1. events are gathered for a moment, since one change makes several of them;
//! 2. our own are passed over, and those of files that are being written through a mount, which
//!    settles them itself;
//! 3. each name's row is compared with what stands there now, and put right in the committer's
//!    turn; a directory that was moved has what is below it compared;
//! 4. those who watch are told.
//!
//! An event is a hint: what it says is looked at, so one that is late, double or of another file
//! does no harm. Where events were lost the whole tree is looked at. What is not told of: names
//! below symbolic links and below other mounts. Source: fanotify(7).

mod event;
mod fanotify;
mod places;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use libc::{FAN_CREATE, FAN_DELETE, FAN_MOVED_FROM, FAN_MOVED_TO, FAN_ONDIR};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::event::{Event, Handle, read_events};
use self::fanotify::Fanotify;
use self::places::{Places, Spot, file_path, join, mounts_below, spot_of};
use super::Inner;
use super::commit::Terms;
use super::disk::{Disk, FileFacts, FileKind};
use super::index::Row;
use super::notices::Notice;
use super::osdisk::OsDisk;
use super::tree::{absent_is_none, is_forbidden};
use crate::error::{Result, StoreError};
use crate::keypath::{key_of_marker, key_of_plain};
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;

/// How long events are gathered after the first.
const GATHER: Duration = Duration::from_millis(50);
/// Read at once, in bytes.
const READ_LEN_BYTES: usize = 256 << 10;
/// Names put right in one turn.
const BATCH_NAMES: usize = 256;
/// Most names that wait to be looked at; beyond it the whole tree is looked at.
const MAX_PENDING: usize = 131_072;

/// A name came, went or leads elsewhere.
const NAMED: u64 = FAN_CREATE | FAN_DELETE | FAN_MOVED_FROM | FAN_MOVED_TO;
/// What is below a directory may have come or gone without events of its own.
const UNROOTED: u64 = FAN_DELETE | FAN_MOVED_FROM | FAN_MOVED_TO;

/// Whether the kernel tells of changes.
#[derive(Default)]
pub struct Watching {
    on: AtomicBool,
    root_path: OnceLock<Vec<u8>>,
    /// Closing it ends the thread.
    stop: Mutex<Option<OwnedFd>>,
}

impl Watching {
    /// Whether the kernel tells of changes.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// Whether the kernel tells of every change below the root now: not of those on what else
    /// is mounted there. Reads /proc.
    pub fn sees_all(&self) -> bool {
        self.is_on() && !self.has_mounts_below()
    }

    fn has_mounts_below(&self) -> bool {
        let root = self.root_path.get().map_or(&[][..], |path| path);
        match std::fs::read("/proc/self/mountinfo") {
            Ok(mounts) => mounts_below(&mounts, root),
            Err(_) => true,
        }
    }

    /// Ends it.
    pub fn stop(&self) {
        self.on.store(false, Ordering::Release);
        let mut stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        stop.take();
    }
}

/// What the kernel tells; to be opened before the tree is first looked at.
pub struct Source {
    fanotify: Fanotify,
    places: Places,
}

impl Source {
    /// Asks the kernel to tell of what happens below `root`. Errors: PermissionDenied where this
    /// process may not ask; others where kernel or file system cannot tell.
    pub fn open(root: &Arc<OwnedFd>) -> io::Result<Self> {
        let source = Self {
            fanotify: Fanotify::open(root.as_fd())?,
            places: Places::new(Arc::clone(root))?,
        };
        Ok(source)
    }
}

/// Starts the watch: two threads that end when the brick is closed or dropped.
pub fn start(inner: &Arc<Inner<OsDisk>>, source: Source) -> io::Result<()> {
    for own in [&inner.tree.own.staging, &inner.tree.own.index] {
        // Where the kernel cannot leave them out they are passed over here.
        let _ = source.fanotify.ignore(own.as_fd());
    }
    let _ = inner
        .watching
        .root_path
        .set(source.places.root_path().to_vec());
    let (stopped, stop) = rustix::pipe::pipe()?;
    let (subtrees, asked) = channel();
    let weak = Arc::downgrade(inner);
    std::thread::Builder::new()
        .name("watch-scan".to_owned())
        .spawn(move || scan_subtrees(&weak, &asked))?;
    let mut watch = Watch {
        inner: Arc::downgrade(inner),
        source,
        stopped,
        pid: std::process::id().cast_signed(),
        pending: Pending::default(),
        moves: 0,
        subtrees,
        buffer: vec![0; READ_LEN_BYTES],
    };
    std::thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || {
            if let Err(e) = watch.run() {
                tracing::error!("the kernel tells of no more changes, scans go on: {e}");
                if let Some(inner) = watch.inner.upgrade() {
                    inner.watching.stop();
                    inner.bell.ring();
                    // They remembered what they counted on being told.
                    inner.tell(&[Notice::All]);
                }
            }
        })?;
    let mut kept = inner
        .watching
        .stop
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    *kept = Some(stop);
    inner.watching.on.store(true, Ordering::Release);
    Ok(())
}

/// What is to be looked at.
#[derive(Default)]
struct Pending {
    /// What happened to a name in a directory.
    names: HashMap<(Handle, Box<[u8]>), u64>,
    /// Inodes whose number of names changed.
    objects: HashSet<Handle>,
    /// Events were lost, or are too many.
    lost: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.objects.is_empty() && !self.lost
    }

    fn lose(&mut self) {
        *self = Self {
            lost: true,
            ..Self::default()
        };
    }
}

struct Watch {
    inner: Weak<Inner<OsDisk>>,
    source: Source,
    stopped: OwnedFd,
    pid: i32,
    pending: Pending,
    /// Counts directories that were moved.
    moves: u64,
    subtrees: Sender<Subtree>,
    buffer: Vec<u8>,
}

/// What was found wrong, and what is to be told.
#[derive(Default)]
struct Findings {
    keys: Vec<Locator>,
    /// What may be wrong, by bucket: the rows tell.
    suspects: BTreeMap<BucketName, Vec<(ObjectKey, Option<FileFacts>)>>,
    notices: BTreeSet<Notice>,
}

impl Findings {
    /// Compares with their rows what has not been.
    fn compare(&mut self, inner: &Inner<OsDisk>) -> Result<()> {
        for (bucket, suspects) in std::mem::take(&mut self.suspects) {
            let (keys, facts): (Vec<_>, Vec<_>) = suspects.into_iter().unzip();
            let rows = inner.runtime.block_on(inner.index.get_many(&bucket, &keys));
            for ((key, facts), row) in keys.into_iter().zip(facts).zip(rows?) {
                if !is_right(inner, row.as_ref(), facts.as_ref()) {
                    self.keys.push(Locator::new(bucket.clone(), key));
                }
            }
        }
        Ok(())
    }
}

impl Watch {
    /// Until it is to stop. Errors: those of waiting and reading.
    fn run(&mut self) -> io::Result<()> {
        loop {
            // What came while the last was looked at waits for no further event.
            let is_idle = self.pending.is_empty();
            if is_idle && self.wait(None)? || self.wait(Some(GATHER))? {
                return Ok(());
            }
            let Some(inner) = self.inner.upgrade() else {
                return Ok(());
            };
            self.drain(&inner)?;
            self.note_failure()?;
            if !self.pending.is_empty() {
                self.settle(&inner)?;
                self.note_failure()?;
            }
        }
    }

    /// Where something told of could not be found though it is there, everything is looked at.
    /// Errors: PermissionDenied where nothing can be found, ever.
    fn note_failure(&mut self) -> io::Result<()> {
        match self.source.places.failure() {
            None => Ok(()),
            // Not even with time: CAP_DAC_READ_SEARCH is missing.
            Some(e) if is_forbidden(&e) => Err(e),
            Some(e) => {
                tracing::warn!("what changed cannot be found: {e}");
                self.pending.lose();
                Ok(())
            }
        }
    }

    /// Waits for events, or only for so long; true where it is to stop.
    fn wait(&self, gather: Option<Duration>) -> io::Result<bool> {
        let mut stopped = [
            PollFd::new(&self.stopped, PollFlags::empty()),
            PollFd::new(&self.source.fanotify, PollFlags::IN),
        ];
        let (count, timeout) = match gather {
            None => (2, None),
            Some(time) => (1, Timespec::try_from(time).ok()),
        };
        match poll(&mut stopped[..count], timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(!stopped[0].revents().is_empty())
    }

    /// Takes all events that wait.
    fn drain(&mut self, inner: &Inner<OsDisk>) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcome = loop {
            match self.source.fanotify.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(len) => {
                    let (read, own) = (&buffer[..len], self.pid);
                    if read_events(read, own, |event| self.take(inner, event)).is_err() {
                        tracing::warn!("the kernel told of changes in words we do not know");
                        self.pending.lose();
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        self.buffer = buffer;
        outcome
    }

    fn take(&mut self, inner: &Inner<OsDisk>, event: Event) {
        if event.mask & FAN_ONDIR != 0 && event.mask & (FAN_MOVED_FROM | FAN_MOVED_TO) != 0 {
            // Whoever moved it.
            self.source.places.forget();
            self.moves += 1;
        }
        if event.is_overflow() {
            self.pending.lose();
        }
        if event.pid == self.pid || self.pending.lost {
            return;
        }
        match (event.name, event.object) {
            (Some((dir, name)), _) => {
                if self.source.places.find(&dir).is_some() {
                    *self.pending.names.entry((dir, name)).or_default() |= event.mask;
                }
            }
            (None, Some(object)) if inner.is_watched() => {
                self.pending.objects.insert(object);
            }
            (None, _) => {}
        }
        if self.pending.names.len() + self.pending.objects.len() > MAX_PENDING {
            self.pending.lose();
        }
    }

    /// Looks at what is pending, reading on meanwhile so that the kernel has little to keep.
    fn settle(&mut self, inner: &Arc<Inner<OsDisk>>) -> io::Result<()> {
        let Pending {
            names,
            objects,
            lost,
        } = std::mem::take(&mut self.pending);
        if lost {
            tracing::info!("too much changed at once: the whole tree is looked at");
            inner.bell.ring();
            inner.tell(&[Notice::All]);
            return Ok(());
        }
        let objects = objects.iter();
        let touched = objects.filter_map(|object| self.source.places.ino_of(object));
        let touched: Vec<_> = touched.map(Notice::File).collect();
        inner.tell(&touched);
        let names: Vec<_> = names.into_iter().collect();
        for batch in names.chunks(BATCH_NAMES) {
            let moves = self.moves;
            let mut findings = Findings::default();
            for ((dir, name), mask) in batch {
                if let Err(e) = self.look(inner, dir, name, *mask, &mut findings) {
                    tracing::warn!("a change could not be looked at: {e}");
                    self.pending.lose();
                }
            }
            if let Err(e) = findings.compare(inner) {
                tracing::warn!("changes could not be compared with the index: {e}");
                self.pending.lose();
            }
            put_right(inner, findings);
            if inner.is_stopping() {
                return Ok(());
            }
            self.drain(inner)?;
            if self.moves != moves {
                // They may have been looked for where they no longer were.
                for (name, mask) in batch {
                    *self.pending.names.entry(name.clone()).or_default() |= mask;
                }
            }
        }
        Ok(())
    }

    fn look(
        &mut self,
        inner: &Inner<OsDisk>,
        dir: &Handle,
        name: &[u8],
        mask: u64,
        findings: &mut Findings,
    ) -> Result<()> {
        let Some(dir) = self.source.places.find(dir) else {
            return Ok(());
        };
        let path = join(&dir, name);
        let (is_named, is_dir) = (mask & NAMED != 0, mask & FAN_ONDIR != 0);
        if is_named && let Some(path) = file_path(&path) {
            findings.notices.insert(Notice::Name(path));
        }
        let facts = facts_of(inner, &path)?;
        if !is_named && let Some(facts) = facts {
            if inner.edits.account_for(&facts) {
                return Ok(());
            }
            findings.notices.insert(Notice::File(facts.ino));
        }
        if is_named && facts.is_some_and(|facts| facts.kind == FileKind::Symlink) {
            self.look_behind(inner, &path);
        }
        let (bucket, rest) = match spot_of(&path) {
            Spot::Nothing => return Ok(()),
            Spot::Bucket(bucket) => {
                if is_named && is_dir {
                    self.ask(Subtree::Bucket(bucket));
                }
                return Ok(());
            }
            Spot::Below(bucket, rest) => (bucket, rest),
        };
        if is_dir && mask & UNROOTED != 0 {
            self.ask(Subtree::Below(bucket.clone(), rest.clone()));
        }
        let marker = if is_dir { key_of_marker(&rest) } else { None };
        if is_dir && mask & NAMED == FAN_CREATE {
            // Neither it nor a file at its path has a row: that went with an event of its own.
            return Ok(());
        }
        for key in key_of_plain(&rest).into_iter().chain(marker) {
            if is_named && !is_dir {
                // A row is missing or there too much, most likely: none is asked for.
                findings.keys.push(Locator::new(bucket.clone(), key));
            } else {
                let suspects = findings.suspects.entry(bucket.clone()).or_default();
                suspects.push((key, facts));
            }
        }
        Ok(())
    }

    /// What changes behind a link to a directory is told of under another path: scans go on at
    /// their pace from now on.
    fn look_behind(&self, inner: &Inner<OsDisk>, path: &[u8]) {
        let (disk, root) = (&*inner.tree.disk, &inner.tree.root);
        if std::str::from_utf8(path).is_ok_and(|path| disk.open_dir(root, path).is_ok()) {
            inner.bell.ring();
        }
    }

    fn ask(&self, subtree: Subtree) {
        // The other thread is there as long as the brick is.
        let _ = self.subtrees.send(subtree);
    }
}

/// What stands at a path below the root, itself; none where it is no UTF-8, and so no key's.
fn facts_of(inner: &Inner<OsDisk>, path: &[u8]) -> Result<Option<FileFacts>> {
    let Ok(path) = std::str::from_utf8(path) else {
        return Ok(None);
    };
    let (disk, root) = (&*inner.tree.disk, &inner.tree.root);
    let facts = match path {
        "" => disk.stat_dir(root).map(Some),
        path => absent_is_none(disk.stat(root, path)),
    };
    facts.map_err(|e| StoreError::from_io("look at what changed", e))
}

/// Whether a row is what it would be made now, as far as that is told without opening anything.
fn is_right(inner: &Inner<OsDisk>, row: Option<&Row>, facts: Option<&FileFacts>) -> bool {
    match (row, facts) {
        (None, None) => true,
        (None, Some(facts)) => matches!(facts.kind, FileKind::Dir | FileKind::Other),
        (Some(row), Some(facts)) if facts.kind == FileKind::File => inner.is_right(row, facts),
        (Some(_), _) => false,
    }
}

fn put_right(inner: &Arc<Inner<OsDisk>>, findings: Findings) {
    let Findings { keys, notices, .. } = findings;
    if !keys.is_empty() {
        tracing::debug!(keys = keys.len(), "changed behind our back");
        if let Err(e) = inner.runtime.block_on(inner.submit_reconcile(keys)) {
            tracing::debug!("what changed is not indexed: {e}");
        }
    }
    // Listings first: who is told may look at once.
    let notices: Vec<_> = notices.into_iter().collect();
    inner.tell(&notices);
}

/// A part of the tree of which no single names are told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subtree {
    /// A whole bucket, which may have come or gone.
    Bucket(BucketName),
    /// What is below this path in a bucket.
    Below(BucketName, Vec<u8>),
}

/// On a thread of its own: a large tree may be moved in, and other changes must not wait for it.
fn scan_subtrees(inner: &Weak<Inner<OsDisk>>, asked: &Receiver<Subtree>) {
    while let Ok(first) = asked.recv() {
        let mut subtrees = BTreeSet::from([first]);
        subtrees.extend(asked.try_iter());
        for subtree in subtrees {
            let Some(inner) = inner.upgrade() else { return };
            if inner.is_stopping() {
                return;
            }
            if let Err(e) = inner.scan_subtree(&subtree)
                && !inner.is_stopping()
            {
                tracing::warn!(?subtree, "cannot be compared with the index: {e}");
            }
        }
    }
}

impl Inner<OsDisk> {
    fn scan_subtree(self: &Arc<Self>, subtree: &Subtree) -> Result<()> {
        tracing::debug!(?subtree, "moved behind our back");
        match subtree {
            Subtree::Below(bucket, path) => match std::str::from_utf8(path) {
                Ok(path) => self.scan_below(bucket, path),
                Err(_) => Ok(()),
            },
            Subtree::Bucket(bucket) => {
                self.buckets.forget(bucket);
                match self.buckets.load(&self.tree, bucket) {
                    Ok(_) => self.scan_one(bucket),
                    Err(StoreError::NoSuchBucket) => self.drop_if_gone(bucket),
                    Err(e) => Err(e),
                }
            }
        }
    }

    fn drop_if_gone(self: &Arc<Self>, bucket: &BucketName) -> Result<()> {
        let (inner, bucket) = (Arc::clone(self), bucket.clone());
        let dropping = self.committer.submit(Terms::to_look(), move |_| {
            let looked = inner.buckets.load(&inner.tree, &bucket);
            if matches!(looked, Err(StoreError::NoSuchBucket)) {
                inner.index.drop_bucket(&bucket);
            }
            Ok(())
        });
        self.runtime.block_on(dropping)
    }
}
