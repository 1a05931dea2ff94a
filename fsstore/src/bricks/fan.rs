//! A body on its way to many bricks at once: taken once, digested once, written to each beside the
//! others. A brick whose disk fails is left behind; the body goes on as long as one is left.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use bytes::Bytes;

use super::driver::Input;
use super::member::Member;
use super::shared::is_fault;
use crate::brick::disk::{Disk, DiskFile};
use crate::brick::lane::{Block, Lane};
use crate::brick::sink::{
    BLOCK_LEN_BYTES, COPY_STEP_LEN_BYTES, Gather, SMALL_LEN_BYTES, Writer, off_thread, require_room,
};
use crate::digest::{Digester, Digests, ShaDigester};
use crate::error::{Result, StoreError};
use crate::object::DigestSet;
use crate::volume::{MAX_PUT_LEN_BYTES, Object, StageOptions};

/// A brick that takes the body, and whether it still does.
struct Outlet<D: Disk> {
    member: Arc<Member<D>>,
    lane: Option<Lane<Writer<D>>>,
}

/// A file with the whole body, and the brick it is on.
pub type OnBrick<D> = (Arc<Member<D>>, Arc<<D as Disk>::File>);

/// What was taken.
pub struct FanTaken<D: Disk> {
    /// Digests of the bytes.
    pub digests: Digests,
    /// The files with them.
    pub files: Vec<OnBrick<D>>,
    /// Bricks that failed meanwhile, and how.
    pub lost: Vec<(Arc<Member<D>>, StoreError)>,
}

enum State {
    Small,
    Lanes {
        digest: Lane<Digester>,
        sha: Option<Lane<ShaDigester>>,
    },
}

/// See the module.
pub struct Fan<D: Disk> {
    outlets: Vec<Outlet<D>>,
    told: Sender<Input<D>>,
    lost: Vec<(Arc<Member<D>>, StoreError)>,
    options: StageOptions,
    len_bytes: u64,
    block: Gather,
    state: State,
}

fn wrong_len(expected_bytes: u64, actual_bytes: u64) -> StoreError {
    StoreError::LengthMismatch {
        expected_bytes,
        actual_bytes,
    }
}

fn write_failed(e: std::io::Error) -> StoreError {
    StoreError::from_io("write staged bytes", e)
}

fn nobody_left() -> StoreError {
    StoreError::Busy("no brick of its group")
}

impl<D: Disk> Fan<D> {
    /// One with nothing in it. Errors: TooLarge, NoSpace.
    pub async fn new(
        members: Vec<Arc<Member<D>>>,
        told: Sender<Input<D>>,
        options: StageOptions,
    ) -> Result<Self> {
        if options.len_bytes.is_some_and(|len| len > MAX_PUT_LEN_BYTES) {
            return Err(StoreError::TooLarge {
                max_bytes: MAX_PUT_LEN_BYTES,
            });
        }
        if members.is_empty() {
            return Err(nobody_left());
        }
        if let Some(len_bytes) = options.len_bytes.filter(|len| *len >= 1 << 20) {
            let asked = members.clone();
            off_thread(move || {
                let mut asked = asked.iter();
                asked.try_for_each(|member| require_room(&**member.inner.disk(), len_bytes))
            })
            .await?;
        }
        let outlet = |member| Outlet { member, lane: None };
        Ok(Self {
            outlets: members.into_iter().map(outlet).collect(),
            told,
            lost: Vec::new(),
            options,
            len_bytes: 0,
            block: Gather::default(),
            state: State::Small,
        })
    }

    /// Takes more bytes, waiting where a disk or the digests are behind.
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
        if let Some(expected) = self.options.len_bytes.filter(|len| self.len_bytes > *len) {
            return Err(wrong_len(expected, self.len_bytes));
        }
        self.block.push(chunk);
        let limit = match self.state {
            State::Small => SMALL_LEN_BYTES,
            State::Lanes { .. } => BLOCK_LEN_BYTES,
        };
        match self.block.len_bytes > limit {
            true => self.push_block().await,
            false => Ok(()),
        }
    }

    /// Takes a range of an object.
    pub async fn copy<O: Object>(&mut self, source: &O, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + COPY_STEP_LEN_BYTES);
            let bytes = source.read(at..end).await?;
            at = end;
            self.write(bytes).await?;
        }
        source.check_unchanged()
    }

    async fn push_block(&mut self) -> Result<()> {
        if matches!(self.state, State::Small) {
            self.begin_lanes().await?;
        }
        let block: Block = self.block.take().into();
        if let State::Lanes { digest, sha } = &mut self.state {
            digest.push(Arc::clone(&block)).await?;
            if let Some(sha) = sha {
                sha.push(Arc::clone(&block)).await?;
            }
        }
        let mut at = 0;
        while at < self.outlets.len() {
            let outlet = &mut self.outlets[at];
            let pushed = match &mut outlet.lane {
                Some(lane) => {
                    let pushed = lane.push(Arc::clone(&block));
                    outlet.member.patiently(&self.told, pushed).await
                }
                None => Ok(()),
            };
            match pushed {
                Ok(()) => at += 1,
                Err(error) => self.lose(at, error)?,
            }
        }
        Ok(())
    }

    /// Goes on without a brick. Errors: where it was the last, or the request is at fault.
    fn lose(&mut self, at: usize, error: StoreError) -> Result<()> {
        if self.outlets.len() == 1 || !is_fault(&error) {
            return Err(error);
        }
        let outlet = self.outlets.swap_remove(at);
        self.lost.push((outlet.member, error));
        Ok(())
    }

    async fn begin_lanes(&mut self) -> Result<()> {
        let announced = self.options.len_bytes.unwrap_or(0);
        let mut at = 0;
        while at < self.outlets.len() {
            let member = Arc::clone(&self.outlets[at].member);
            let made = off_thread(move || {
                require_room(&**member.inner.disk(), announced)?;
                member.inner.unnamed()
            });
            match made.await {
                Ok(file) => {
                    self.outlets[at].lane = Some(Lane::new(Writer::of_new(Arc::new(file))));
                    at += 1;
                }
                Err(error) => self.lose(at, error)?,
            }
        }
        let wanted = self.options.digests;
        self.state = State::Lanes {
            digest: Lane::new(Digester::new(wanted)),
            sha: ShaDigester::new(wanted).map(Lane::new),
        };
        Ok(())
    }

    /// Ends the body. Long ones are durable then. Errors: LengthMismatch, those of the disks.
    pub async fn finish(mut self) -> Result<FanTaken<D>> {
        if let Some(expected) = self.options.len_bytes.filter(|len| self.len_bytes != *len) {
            return Err(wrong_len(expected, self.len_bytes));
        }
        if matches!(self.state, State::Lanes { .. }) && self.block.len_bytes > 0 {
            self.push_block().await?;
        }
        match self.state {
            State::Small => {
                let block = self.block.take();
                take_small(
                    self.outlets,
                    &self.told,
                    self.lost,
                    block,
                    self.options.digests,
                )
                .await
            }
            State::Lanes { digest, sha } => {
                let sha = match sha {
                    Some(sha) => sha.finish().await?,
                    None => ShaDigester::default(),
                };
                let digests = digest.finish().await?.finish(sha);
                let written = self.outlets.into_iter().map(|outlet| {
                    let (Outlet { member, lane }, told) = (outlet, self.told.clone());
                    tokio::spawn(async move {
                        let result = match lane {
                            Some(lane) => member.patiently(&told, end_lane(lane)).await,
                            None => Err(nobody_left()),
                        };
                        (member, result)
                    })
                });
                // All of them sync at once.
                let written: Vec<_> = written.collect();
                let (mut files, mut lost) = (Vec::new(), self.lost);
                for end in written {
                    let (member, result) = end.await.map_err(|_| StoreError::Stopping)?;
                    match result {
                        Ok(file) => files.push((member, file)),
                        Err(error) if is_fault(&error) => lost.push((member, error)),
                        Err(error) => return Err(error),
                    }
                }
                whole(digests, files, lost)
            }
        }
    }
}

fn whole<D: Disk>(
    digests: Digests,
    files: Vec<OnBrick<D>>,
    mut lost: Vec<(Arc<Member<D>>, StoreError)>,
) -> Result<FanTaken<D>> {
    if files.is_empty() {
        return Err(lost.pop().map_or_else(nobody_left, |(_, error)| error));
    }
    Ok(FanTaken {
        digests,
        files,
        lost,
    })
}

async fn end_lane<D: Disk>(lane: Lane<Writer<D>>) -> Result<Arc<D::File>> {
    let file = lane.finish().await?.finish().await?;
    off_thread(move || {
        file.sync().map_err(write_failed)?;
        Ok(file)
    })
    .await
}

async fn take_small<D: Disk>(
    outlets: Vec<Outlet<D>>,
    told: &Sender<Input<D>>,
    mut lost: Vec<(Arc<Member<D>>, StoreError)>,
    block: Vec<Bytes>,
    wanted: DigestSet,
) -> Result<FanTaken<D>> {
    let block = Arc::new(block);
    // Each on a thread of its own: one that hangs keeps no other.
    let mut writing = Vec::with_capacity(outlets.len());
    for Outlet { member, .. } in outlets {
        let (to, bytes) = (Arc::clone(&member), Arc::clone(&block));
        let written = tokio::task::spawn_blocking(move || write_small(&to, &bytes));
        writing.push((member, written));
    }
    let mut digester = Digester::new(wanted);
    let mut sha = ShaDigester::new(wanted).unwrap_or_default();
    for piece in &*block {
        digester.update(piece);
        sha.update(piece);
    }
    let mut files = Vec::with_capacity(writing.len());
    for (member, written) in writing {
        let written = async { written.await.map_err(|_| StoreError::Stopping)? };
        match member.patiently(told, written).await {
            Ok(file) => files.push((member, file)),
            Err(error) if is_fault(&error) => lost.push((member, error)),
            Err(error) => return Err(error),
        }
    }
    whole(digester.finish(sha), files, lost)
}

fn write_small<D: Disk>(member: &Member<D>, block: &[Bytes]) -> Result<Arc<D::File>> {
    let len_bytes: usize = block.iter().map(Bytes::len).sum();
    // What is left is for the log, so that what is there can be removed.
    require_room(&**member.inner.disk(), len_bytes as u64)?;
    let file = member.inner.unnamed()?;
    let mut at = 0;
    for piece in block {
        file.write_at(at, piece).map_err(write_failed)?;
        at += piece.len() as u64;
    }
    Ok(Arc::new(file))
}
