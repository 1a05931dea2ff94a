//! A sink takes a body's bytes once: digests them and writes them to a file, side by side.
//!
//! A small body is kept in memory until its end, so that it costs one visit to the blocking pool.
//! A longer one passes through lanes; what is under way is bounded by the lanes' queues.
//! Nothing has a name before its commit, so dropping a sink leaves nothing behind.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::disk::{Disk, DiskFile};
use super::lane::{Block, Lane, Process};
use crate::digest::{Digester, Digests, ShaDigester};
use crate::error::{Result, StoreError};
use crate::object::DigestSet;
use crate::volume::{MAX_PUT_LEN_BYTES, StageOptions};

/// Longest body kept in memory until its end, in bytes.
pub(crate) const SMALL_LEN_BYTES: usize = 128 << 10;
/// A piece shorter than this is copied rather than held, in bytes.
const SHORT_LEN_BYTES: usize = 16 << 10;
/// Bytes gathered into one block for the lanes.
pub(crate) const BLOCK_LEN_BYTES: usize = 256 << 10;
/// A durable stage begins a sync after so many bytes, beside the writing of the next, so that
/// disk and digests work at once and the commit has little left to wait for.
const SYNC_STEP_LEN_BYTES: u64 = 4 << 20;
/// Read at once when copying through the digests, in bytes.
pub const COPY_STEP_LEN_BYTES: u64 = 1 << 20;

/// Where a sink's bytes go.
pub enum Target<D: Disk> {
    /// A new file without a name.
    Unnamed {
        /// A directory on its file system.
        staging: Arc<D::Dir>,
    },
    /// A place in a file that stands.
    At {
        /// The file.
        file: Arc<D::File>,
        /// Where the bytes begin.
        offset_bytes: u64,
        /// Kept until the last write has ended, even one of a sink that was dropped: the place
        /// must not be given to another before.
        claim: Arc<dyn Send + Sync>,
    },
}

/// What a sink has taken.
pub struct Taken<D: Disk> {
    /// The file that holds the bytes.
    pub file: Arc<D::File>,
    /// Their digests.
    pub digests: Digests,
    /// Whether the body was long: then the file is to be synced by the caller, off the
    /// committer's thread.
    pub long: bool,
}

/// Pieces of a body on their way into one block.
#[derive(Default)]
pub(crate) struct Gather {
    pieces: Vec<Bytes>,
    /// Short pieces, copied: each would hold a whole receive buffer of the connection.
    short: BytesMut,
    pub(crate) len_bytes: usize,
}

impl Gather {
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.len_bytes += piece.len();
        if piece.len() < SHORT_LEN_BYTES {
            self.short.extend_from_slice(&piece);
            return;
        }
        self.end_short();
        self.pieces.push(piece);
    }

    fn end_short(&mut self) {
        if !self.short.is_empty() {
            self.pieces.push(std::mem::take(&mut self.short).freeze());
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Bytes> {
        self.end_short();
        self.len_bytes = 0;
        std::mem::take(&mut self.pieces)
    }
}

/// See the module.
pub struct Sink<D: Disk> {
    disk: Arc<D>,
    target: Target<D>,
    options: StageOptions,
    durable: bool,
    len_bytes: u64,
    block: Gather,
    state: State<D>,
}

enum State<D: Disk> {
    Small,
    Lanes {
        digest: Lane<Digester>,
        sha: Option<Lane<ShaDigester>>,
        write: Lane<Writer<D>>,
    },
    Copied {
        file: Arc<D::File>,
        digests: Digests,
    },
}

pub(crate) struct Writer<D: Disk> {
    _claim: Option<Arc<dyn Send + Sync>>,
    file: Arc<D::File>,
    at_bytes: u64,
    unsynced_bytes: u64,
    durable: bool,
    /// The sync under way. Its error counts like one of a write: a failed fsync(2) is told
    /// once, so the last sync would not tell it again.
    syncing: Option<JoinHandle<Result<()>>>,
}

impl<D: Disk> Process for Writer<D> {
    type Error = StoreError;

    fn process(&mut self, block: &[Bytes]) -> Result<()> {
        for piece in block {
            self.file
                .write_at(self.at_bytes, piece)
                .map_err(write_failed)?;
            self.at_bytes += piece.len() as u64;
            self.unsynced_bytes += piece.len() as u64;
        }
        if self.durable && self.unsynced_bytes >= SYNC_STEP_LEN_BYTES {
            self.begin_sync()?;
        }
        Ok(())
    }
}

impl<D: Disk> Writer<D> {
    /// One that begins at a file's beginning, and syncs what it has written beside.
    pub(crate) fn of_new(file: Arc<D::File>) -> Self {
        Self {
            _claim: None,
            file,
            at_bytes: 0,
            unsynced_bytes: 0,
            durable: true,
            syncing: None,
        }
    }

    /// Begins a sync, unless the last one is still under way.
    fn begin_sync(&mut self) -> Result<()> {
        if let Some(syncing) = self.syncing.take() {
            if !syncing.is_finished() {
                self.syncing = Some(syncing);
                return Ok(());
            }
            Handle::current().block_on(outcome_of(syncing))?;
        }
        self.unsynced_bytes = 0;
        let file = Arc::clone(&self.file);
        let sync = move || file.sync().map_err(write_failed);
        self.syncing = Some(tokio::task::spawn_blocking(sync));
        Ok(())
    }

    /// Waits for the sync under way and gives the file.
    pub(crate) async fn finish(self) -> Result<Arc<D::File>> {
        if let Some(syncing) = self.syncing {
            outcome_of(syncing).await?;
        }
        Ok(self.file)
    }
}

async fn outcome_of<T>(blocking: JoinHandle<Result<T>>) -> Result<T> {
    match blocking.await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(StoreError::Stopping),
    }
}

impl Process for Digester {
    type Error = StoreError;

    fn process(&mut self, block: &[Bytes]) -> Result<()> {
        block.iter().for_each(|piece| self.update(piece));
        Ok(())
    }
}

impl Process for ShaDigester {
    type Error = StoreError;

    fn process(&mut self, block: &[Bytes]) -> Result<()> {
        block.iter().for_each(|piece| self.update(piece));
        Ok(())
    }
}

fn write_failed(e: std::io::Error) -> StoreError {
    StoreError::from_io("write staged bytes", e)
}

/// Runs blocking work on the blocking pool.
pub async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    outcome_of(tokio::task::spawn_blocking(work)).await
}

impl<D: Disk> Sink<D> {
    /// A sink with nothing in it. Errors: TooLarge where more is announced than one PUT may have.
    pub fn new(
        disk: Arc<D>,
        target: Target<D>,
        options: StageOptions,
        durable: bool,
    ) -> Result<Self> {
        if options.len_bytes.is_some_and(|len| len > MAX_PUT_LEN_BYTES) {
            return Err(StoreError::TooLarge {
                max_bytes: MAX_PUT_LEN_BYTES,
            });
        }
        Ok(Self {
            disk,
            target,
            options,
            durable,
            len_bytes: 0,
            block: Gather::default(),
            state: State::Small,
        })
    }

    /// Digests computed besides MD5 and CRC-64/NVME.
    pub fn wanted(&self) -> DigestSet {
        self.options.digests
    }

    /// Takes more bytes, waiting where the disk or the digests are behind.
    pub async fn write(&mut self, chunk: Bytes) -> Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.len_bytes += chunk.len() as u64;
        if self.len_bytes > MAX_PUT_LEN_BYTES {
            return Err(StoreError::TooLarge {
                max_bytes: MAX_PUT_LEN_BYTES,
            });
        }
        if let Some(expected_bytes) = self.options.len_bytes
            && self.len_bytes > expected_bytes
        {
            return Err(StoreError::LengthMismatch {
                expected_bytes,
                actual_bytes: self.len_bytes,
            });
        }
        self.block.push(chunk);
        let limit = match self.state {
            State::Small => SMALL_LEN_BYTES,
            _ => BLOCK_LEN_BYTES,
        };
        if self.block.len_bytes > limit {
            self.push_block().await?;
        }
        Ok(())
    }

    async fn push_block(&mut self) -> Result<()> {
        if matches!(self.state, State::Small | State::Copied { .. }) {
            self.begin_lanes().await?;
        }
        let block: Block = self.block.take().into();
        if let State::Lanes { digest, sha, write } = &mut self.state {
            digest.push(Arc::clone(&block)).await?;
            if let Some(sha) = sha {
                sha.push(Arc::clone(&block)).await?;
            }
            write.push(block).await?;
        }
        Ok(())
    }

    async fn begin_lanes(&mut self) -> Result<()> {
        if matches!(self.state, State::Copied { .. }) {
            return Err(StoreError::Io {
                action: "append to a whole copy",
                source: std::io::ErrorKind::Unsupported.into(),
            });
        }
        let announced = self.options.len_bytes.unwrap_or(0);
        let (file, at_bytes) = match &self.target {
            Target::At {
                file, offset_bytes, ..
            } => (Arc::clone(file), *offset_bytes),
            Target::Unnamed { staging } => {
                let (disk, staging) = (Arc::clone(&self.disk), Arc::clone(staging));
                let file = off_thread(move || {
                    require_room(&*disk, announced)?;
                    disk.create_unnamed(&staging).map_err(write_failed)
                });
                (Arc::new(file.await?), 0)
            }
        };
        let wanted = self.options.digests;
        let claim = match &self.target {
            Target::At { claim, .. } => Some(Arc::clone(claim)),
            Target::Unnamed { .. } => None,
        };
        let writer = Writer {
            _claim: claim,
            file,
            at_bytes,
            unsynced_bytes: 0,
            durable: self.durable,
            syncing: None,
        };
        self.state = State::Lanes {
            digest: Lane::new(Digester::new(wanted)),
            sha: ShaDigester::new(wanted).map(Lane::new),
            write: Lane::new(writer),
        };
        Ok(())
    }

    /// Takes all bytes of a file whose digests are known, sharing blocks where it can. False
    /// where they must pass through the digests instead.
    pub async fn copy_whole(&mut self, source: Arc<D::File>, digests: Digests) -> Result<bool> {
        let Target::Unnamed { staging } = &self.target else {
            return Ok(false);
        };
        let untouched = self.len_bytes == 0 && matches!(self.state, State::Small);
        if !untouched || self.options.digests != DigestSet::default() {
            return Ok(false);
        }
        let (disk, staging) = (Arc::clone(&self.disk), Arc::clone(staging));
        let (len_bytes, durable) = (digests.len_bytes, self.durable);
        let file = off_thread(move || {
            require_room(&*disk, 0)?;
            let file = disk.create_unnamed(&staging).map_err(write_failed)?;
            let copied = file
                .copy_from(&source, 0, 0, len_bytes)
                .map_err(write_failed)?;
            if copied != len_bytes {
                return Err(StoreError::ChangedWhileRead);
            }
            if durable {
                file.sync().map_err(write_failed)?;
            }
            Ok(Arc::new(file))
        })
        .await?;
        self.len_bytes = len_bytes;
        self.state = State::Copied { file, digests };
        Ok(true)
    }

    /// Takes a range of a file through the digests.
    pub async fn copy_range(&mut self, source: Arc<D::File>, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(COPY_STEP_LEN_BYTES);
            let file = Arc::clone(&source);
            let bytes = off_thread(move || {
                file.read_at(at, len as usize)
                    .map_err(|e| StoreError::from_io("read the source of a copy", e))
            })
            .await?;
            if bytes.len() as u64 != len {
                return Err(StoreError::ChangedWhileRead);
            }
            at += len;
            self.write(bytes.into()).await?;
        }
        Ok(())
    }

    /// Ends the body: all bytes are in the file, digested. `then` runs with them on the same
    /// visit to the blocking pool. Errors: LengthMismatch, those of the disk and of `then`.
    pub async fn finish<T: Send + 'static>(
        mut self,
        then: impl FnOnce(Taken<D>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if let Some(expected_bytes) = self.options.len_bytes
            && self.len_bytes != expected_bytes
        {
            return Err(StoreError::LengthMismatch {
                expected_bytes,
                actual_bytes: self.len_bytes,
            });
        }
        if matches!(self.state, State::Lanes { .. }) && self.block.len_bytes > 0 {
            self.push_block().await?;
        }
        match self.state {
            State::Small => {
                let (disk, target, block) = (self.disk, self.target, self.block.take());
                let wanted = self.options.digests;
                off_thread(move || then(take_small(&*disk, target, &block, wanted)?)).await
            }
            State::Lanes { digest, sha, write } => {
                let file = write.finish().await?.finish().await?;
                let sha = match sha {
                    Some(sha) => sha.finish().await?,
                    None => ShaDigester::default(),
                };
                let digests = digest.finish().await?.finish(sha);
                off_thread(move || {
                    then(Taken {
                        file,
                        digests,
                        long: true,
                    })
                })
                .await
            }
            State::Copied { file, digests } => {
                off_thread(move || {
                    then(Taken {
                        file,
                        digests,
                        long: true,
                    })
                })
                .await
            }
        }
    }
}

fn take_small<D: Disk>(
    disk: &D,
    target: Target<D>,
    block: &[Bytes],
    wanted: DigestSet,
) -> Result<Taken<D>> {
    let mut digester = Digester::new(wanted);
    let mut sha = ShaDigester::new(wanted).unwrap_or_default();
    for piece in block {
        digester.update(piece);
        sha.update(piece);
    }
    let (file, mut at, _claim) = match target {
        Target::At {
            file,
            offset_bytes,
            claim,
        } => (file, offset_bytes, Some(claim)),
        Target::Unnamed { staging } => (
            Arc::new(disk.create_unnamed(&staging).map_err(write_failed)?),
            0,
            None,
        ),
    };
    for piece in block {
        file.write_at(at, piece).map_err(write_failed)?;
        at += piece.len() as u64;
    }
    Ok(Taken {
        file,
        digests: digester.finish(sha),
        long: false,
    })
}

/// Refuses a body where the file system would be left with less than the reserve that lets
/// objects still be removed and records written. Errors: NoSpace.
pub fn require_room<D: Disk>(disk: &D, len_bytes: u64) -> Result<()> {
    const RESERVE_LEN_BYTES: u64 = 32 << 20;
    let room = disk
        .room()
        .map_err(|e| StoreError::from_io("ask for room", e))?;
    let reserve = RESERVE_LEN_BYTES.min(room.total_bytes / 50);
    if room.free_bytes < len_bytes.saturating_add(reserve) {
        return Err(StoreError::NoSpace);
    }
    Ok(())
}
