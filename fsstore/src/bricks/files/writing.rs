//! Files that are open through a mount, and what was written to them and is not on the bricks yet.
//!
//! A write is answered when it is gathered. What has gathered goes to the log as one change, at
//! once where none of the file is under way, else after that one: so changes of a file are made in
//! the order they were asked for. Who looks at the file, through whichever door, waits until
//! nothing of it is left. An error is told at the next write, fsync or close.
//!
//! The lock of [`State`] is held for moments, never while anything is waited for.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use placement::layout::BrickId;
use tokio::sync::Notify;

use super::change::{MAX_EXTENTS, MAX_WRITE_LEN_BYTES};
use crate::files::{Errno, FileResult};
use crate::object::Locator;

/// Files in the table before those that are closed are looked for.
const MAX_UNSWEPT: usize = 1_024;

/// Open files, and those of them that have something under way.
#[derive(Default)]
pub struct Writing {
    /// How many have: so that nobody locks anything where none has.
    busy_count: AtomicUsize,
    /// By number. Guards the two maps.
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    open: HashMap<u64, Weak<Inode>>,
    busy: HashMap<Locator, Vec<Arc<Inode>>>,
}

/// A file that is open, however often.
pub struct Inode {
    /// Its number.
    pub ident: u64,
    state: Mutex<State>,
    changed: Notify,
}

/// A copy of a file, held open.
#[derive(Clone)]
pub struct HeldCopy {
    /// The brick it is on.
    pub brick: BrickId,
    /// The epoch of its group when it was opened.
    pub epoch: u64,
    /// The file.
    pub fd: Arc<OwnedFd>,
}

/// What is known of an open file.
pub struct State {
    /// Where it stands.
    pub at: Locator,
    /// The copy that is read; that is all there is of a file without a name.
    pub copy: HeldCopy,
    /// It has lost its name: what is written goes to the copy.
    pub is_orphan: bool,
    /// Its length, with all that was written.
    pub end: u64,
    /// Handles that may write.
    pub writers: usize,
    /// Whether it was written to since its digests were taken.
    pub is_edited: bool,
    gathered: Gathered,
    /// How often something was gathered; how many of these have arrived, and will have with what
    /// is under way.
    gathered_count: u64,
    arrived_count: u64,
    under_way_count: u64,
    is_under_way: bool,
    /// It is being moved: nothing goes on its way.
    is_frozen: bool,
    error: Option<Errno>,
    /// It is not known whether something that was written will arrive yet: what comes after it
    /// might be overtaken.
    is_broken: bool,
}

/// Bytes for places in a file.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Offsets and lengths in bytes.
    pub extents: Vec<(u64, u64)>,
    /// One after the other.
    pub bytes: Vec<u8>,
}

impl Gathered {
    fn has_room(&self, len: usize) -> bool {
        self.bytes.is_empty()
            || self.bytes.len() + len <= MAX_WRITE_LEN_BYTES && self.extents.len() < MAX_EXTENTS
    }

    fn push(&mut self, offset: u64, bytes: &[u8]) {
        match self.extents.last_mut() {
            Some((at, len)) if *at + *len == offset => *len += bytes.len() as u64,
            _ => self.extents.push((offset, bytes.len() as u64)),
        }
        self.bytes.extend_from_slice(bytes);
    }
}

impl Inode {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn until<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(value) = ready(&mut self.lock()) {
                return value;
            }
            changed.await;
        }
    }

    /// Waits until all has arrived that was written before.
    pub async fn settle(&self) {
        let written = self.lock().gathered_count;
        self.until(|state| (state.arrived_count >= written).then_some(()))
            .await;
    }

    /// Waits for room for as much.
    pub async fn room_for(&self, len: usize) {
        self.until(|state| state.gathered.has_room(len).then_some(()))
            .await;
    }

    /// Takes an error that nobody was told of yet.
    pub fn take_error(&self) -> FileResult<()> {
        self.lock().error.take().map_or(Ok(()), Err)
    }

    /// Keeps everything from going on its way, once what is under way has arrived.
    pub async fn freeze(&self) {
        self.until(|state| {
            let is_free = !state.is_frozen;
            state.is_frozen |= is_free;
            is_free.then_some(())
        })
        .await;
        self.until(|state| (!state.is_under_way).then_some(()))
            .await;
    }

    /// Lets it go on, at another place where it was moved. Gives whether something waits to go.
    pub fn thaw(&self, moved_to: Option<(Locator, HeldCopy)>) -> bool {
        let mut state = self.lock();
        state.is_frozen = false;
        if let Some((at, copy)) = moved_to {
            (state.at, state.copy) = (at, copy);
        }
        let waits = !state.gathered.bytes.is_empty() && !state.is_under_way;
        state.is_under_way |= waits;
        drop(state);
        self.changed.notify_waiters();
        waits
    }

    /// Gathers bytes; the room was waited for. Gives whether they are to be set on their way.
    pub fn gather(&self, offset: u64, bytes: &[u8]) -> Gather {
        let mut state = self.lock();
        if state.is_orphan {
            return Gather::Orphan(state.copy.clone());
        }
        if state.is_broken {
            return Gather::Broken;
        }
        if !state.gathered.has_room(bytes.len()) {
            return Gather::Full;
        }
        state.gathered_count += 1;
        state.gathered.push(offset, bytes);
        state.end = state.end.max(offset + bytes.len() as u64);
        state.is_edited = true;
        let begins = !state.is_under_way && !state.is_frozen;
        state.is_under_way |= begins;
        Gather::Done { begins }
    }

    /// What goes next, and to where; none where nothing does for now.
    pub fn next(&self) -> Option<(Locator, Gathered)> {
        let mut state = self.lock();
        state.arrived_count = state.under_way_count;
        if state.gathered.bytes.is_empty() || state.is_frozen {
            state.is_under_way = false;
            drop(state);
            self.changed.notify_waiters();
            return None;
        }
        state.under_way_count = state.gathered_count;
        let next = std::mem::take(&mut state.gathered);
        let at = state.at.clone();
        drop(state);
        self.changed.notify_waiters();
        Some((at, next))
    }

    /// Notes that something which was under way has failed; after some errors it may still arrive.
    pub fn failed(&self, error: Errno, may_arrive: bool) {
        let mut state = self.lock();
        state.error.get_or_insert(error);
        state.is_broken |= may_arrive;
    }
}

/// What came of gathering.
pub enum Gather {
    /// It is gathered.
    Done {
        /// Whether the caller has to set it on its way.
        begins: bool,
    },
    /// There is no room.
    Full,
    /// Nothing can be written to it as long as it is open.
    Broken,
    /// The file has no name: this is to be written to its copy.
    Orphan(HeldCopy),
}

impl Writing {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of a number, where it is open.
    pub fn get(&self, ident: u64) -> Option<Arc<Inode>> {
        self.lock().open.get(&ident).and_then(Weak::upgrade)
    }

    /// The file of a number; as `open` says where it is not open yet.
    pub fn get_or_open(
        &self,
        ident: u64,
        open: impl FnOnce() -> FileResult<(Locator, HeldCopy, u64)>,
    ) -> FileResult<Arc<Inode>> {
        if let Some(inode) = self.get(ident) {
            return Ok(inode);
        }
        let (at, copy, end) = open()?;
        let mut tables = self.lock();
        if let Some(inode) = tables.open.get(&ident).and_then(Weak::upgrade) {
            return Ok(inode);
        }
        let state = State {
            at,
            copy,
            is_orphan: false,
            end,
            writers: 0,
            is_edited: false,
            gathered: Gathered::default(),
            gathered_count: 0,
            arrived_count: 0,
            under_way_count: 0,
            is_under_way: false,
            is_frozen: false,
            error: None,
            is_broken: false,
        };
        let inode = Arc::new(Inode {
            ident,
            state: Mutex::new(state),
            changed: Notify::new(),
        });
        // Those that others closed last, who were about something else.
        if tables.open.len() >= MAX_UNSWEPT && tables.open.len().is_power_of_two() {
            tables.open.retain(|_, open| open.strong_count() > 0);
        }
        tables.open.insert(ident, Arc::downgrade(&inode));
        Ok(inode)
    }

    /// Forgets a file that is closed, where whoever closes it is the last to hold it. Nobody comes
    /// to hold it but by the table.
    pub fn closed(&self, inode: &Arc<Inode>) {
        let mut tables = self.lock();
        if Arc::strong_count(inode) == 1 {
            tables.open.remove(&inode.ident);
        }
    }

    /// A file has something under way, at a place.
    pub fn begins(&self, at: &Locator, inode: &Arc<Inode>) {
        let mut tables = self.lock();
        let of_place = tables.busy.entry(at.clone()).or_default();
        of_place.push(Arc::clone(inode));
        self.busy_count.fetch_add(1, Ordering::AcqRel);
    }

    /// It has nothing any more.
    pub fn ends(&self, at: &Locator, inode: &Arc<Inode>) {
        let mut tables = self.lock();
        if let Some(of_place) = tables.busy.get_mut(at)
            && let Some(found) = of_place.iter().position(|it| Arc::ptr_eq(it, inode))
        {
            of_place.swap_remove(found);
            if of_place.is_empty() {
                tables.busy.remove(at);
            }
            self.busy_count.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Waits until nothing is on its way to what stands at a place.
    pub async fn settle(&self, at: &Locator) {
        if self.busy_count.load(Ordering::Acquire) == 0 {
            return;
        }
        let busy = self.lock().busy.get(at).cloned();
        for inode in busy.into_iter().flatten() {
            inode.settle().await;
        }
    }

    /// Waits until what is on its way now has arrived.
    pub async fn settle_all(&self) {
        if self.busy_count.load(Ordering::Acquire) == 0 {
            return;
        }
        let busy: Vec<_> = self.lock().busy.values().flatten().cloned().collect();
        for inode in busy {
            inode.settle().await;
        }
    }
}
