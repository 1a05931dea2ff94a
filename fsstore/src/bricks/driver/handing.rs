//! What a primary's brick hands to those that come into sync: pages of names and files, each once
//! however often it is asked for, and of a few groups at a time where a brick's names are more than
//! memory is for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::replica::{Payload, Session};
use tokio::sync::Semaphore;

use super::super::healing::{self, Staging};
use super::super::kinds::Name;
use super::super::member::CopyError;
use super::Driver;
use crate::brick::disk::Disk;

/// Pages and files that are read at once for bricks that come into sync.
const COPIES_AT_ONCE: usize = 8;
/// Files staged at once for bricks that come into sync, and not yet in place.
const MAX_STAGED: usize = 256;
/// A learner that has not asked for a page for so long keeps no other waiting.
const SLOW: Duration = Duration::from_secs(10);
/// Names that nobody asks for are forgotten after this.
const CENSUS_IDLE: Duration = Duration::from_secs(30);

/// What somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Want {
    /// The page after this name.
    Page(Option<Name>),
    /// What stands at this name.
    Copy(Name),
}

/// A learner's group, its session, and what of it.
type Asked = (u32, BrickId, Session, Want);

/// What is on its way, and takes itself out when it is dropped.
struct OnItsWay {
    all: Arc<Mutex<HashSet<Asked>>>,
    asked: Asked,
}

fn lock(all: &Mutex<HashSet<Asked>>) -> MutexGuard<'_, HashSet<Asked>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.asked);
    }
}

/// A comparison under way.
struct Walk {
    session: Session,
    /// When the primary's tree had all that the learner's log begins with.
    begun: Arc<OnceLock<Instant>>,
    /// Records had been applied up to here when the first page was asked for.
    as_of: u64,
    asked: Instant,
}

/// A page that waits for its group's turn.
struct Waiting {
    seat: usize,
    session: Session,
    after: Option<Name>,
}

/// Comparisons under way.
pub(super) struct Handing {
    walks: HashMap<(u32, BrickId), Walk>,
    waiting: BTreeMap<(u32, BrickId), Waiting>,
    on_its_way: Arc<Mutex<HashSet<Asked>>>,
    /// Pages and files that are read.
    pub pace: Arc<Semaphore>,
    /// Files that are staged.
    staged: Arc<Semaphore>,
}

impl Default for Handing {
    fn default() -> Self {
        Self {
            walks: HashMap::new(),
            waiting: BTreeMap::new(),
            on_its_way: Arc::default(),
            pace: Arc::new(Semaphore::new(COPIES_AT_ONCE)),
            staged: Arc::new(Semaphore::new(MAX_STAGED)),
        }
    }
}

impl Handing {
    /// Notes that something is on its way; none where it is already.
    fn begin(&self, asked: Asked) -> Option<OnItsWay> {
        let is_new = lock(&self.on_its_way).insert(asked.clone());
        is_new.then(|| OnItsWay {
            all: Arc::clone(&self.on_its_way),
            asked,
        })
    }

    /// Whether it is a group's turn: groups are taken in ranges of `width`.
    fn is_its_turn(&self, (g, to): (u32, BrickId), width: u32) -> bool {
        let is_open = |walk: &Walk| walk.asked.elapsed() < SLOW;
        let walking = self.walks.iter().filter(|(_, walk)| is_open(walk));
        let walking = walking.map(|(at, _)| at);
        let mut others = walking.chain(self.waiting.keys());
        !others.any(|(other, learner)| *learner == to && other / width < g / width)
    }
}

impl<D: Disk> Driver<D> {
    pub(super) fn send_page(
        &mut self,
        g: u32,
        seat: usize,
        to: BrickId,
        (session, as_of): (Session, u64),
        after: Option<Name>,
    ) {
        let Some(target) = self.seat_of(to) else {
            return;
        };
        let member = self.member(seat);
        let walk = self.handing.walks.get_mut(&(g, to));
        match walk.filter(|walk| walk.session == session) {
            Some(walk) => walk.asked = Instant::now(),
            None => {
                let begun = Arc::new(OnceLock::new());
                let walk = Walk {
                    session,
                    begun: Arc::clone(&begun),
                    as_of,
                    asked: Instant::now(),
                };
                self.handing.walks.insert((g, to), walk);
                // After all that was committed before is published.
                let reached = member.inner.in_turn(None, |_, _| Ok(()));
                self.shared.runtime.spawn(async move {
                    if reached.await.is_ok() {
                        begun.get_or_init(Instant::now);
                    }
                });
            }
        }
        let width = member.census_width();
        let width = width.min(self.member(target).census_width());
        if !self.handing.is_its_turn((g, to), width) {
            let waiting = Waiting {
                seat,
                session,
                after,
            };
            self.handing.waiting.insert((g, to), waiting);
            return;
        }
        self.send_page_now(g, seat, (to, session), after);
    }

    fn send_page_now(
        &mut self,
        g: u32,
        seat: usize,
        (to, session): (BrickId, Session),
        after: Option<Name>,
    ) {
        let asked = (g, to, session, Want::Page(after.clone()));
        let Some(on_its_way) = self.handing.begin(asked) else {
            return;
        };
        let (member, grouping) = (self.member(seat), self.shared.grouping);
        let Some(walk) = self.handing.walks.get(&(g, to)) else {
            return;
        };
        // Names are those after the walk began; so what came later comes with its record.
        let (begun, as_of) = (Arc::clone(&walk.begun), walk.as_of);
        let pace = Arc::clone(&self.handing.pace);
        let reached = member.inner.in_turn(None, |_, _| Ok(()));
        let page = async move {
            reached.await.map_err(CopyError::Source)?;
            let begun = *begun.get_or_init(Instant::now);
            let names = healing::names_of(&member, grouping, GroupId(g), begun);
            let names = names.await.map_err(CopyError::Source)?;
            let _permit = pace.acquire_owned().await;
            let page = healing::page(member, names, after.clone());
            let page = page.await.map_err(CopyError::Source)?;
            let upto = page.upto.clone();
            drop(on_its_way);
            Ok(Payload::Page {
                session,
                after,
                page: Arc::new(page),
                upto,
                as_of,
            })
        };
        self.then_send(g, (seat, to), page);
    }

    pub(super) fn send_copy(
        &mut self,
        g: u32,
        seat: usize,
        to: BrickId,
        (session, as_of): (Session, u64),
        name: Name,
    ) {
        let Some(target) = self.seat_of(to) else {
            return;
        };
        let asked = (g, to, session, Want::Copy(name.clone()));
        let Some(on_its_way) = self.handing.begin(asked) else {
            return;
        };
        let (member, target) = (self.member(seat), self.member(target));
        let pace = Arc::clone(&self.handing.pace);
        let (staged, shared) = (Arc::clone(&self.handing.staged), Arc::clone(&self.shared));
        // After all that was committed before is published.
        let reached = member.inner.in_turn(None, |_, _| Ok(()));
        let copy = async move {
            reached.await.map_err(CopyError::Source)?;
            let closed = |_| CopyError::Source(crate::error::StoreError::Stopping);
            let permit = staged.acquire_owned().await.map_err(closed)?;
            let reading = pace.acquire_owned().await;
            let staging = Staging {
                to: Arc::clone(&target),
                shared,
                permit: Arc::new(permit),
            };
            let copied = healing::copy(member, staging, name.clone()).await;
            drop(reading);
            let (copy, files) = copied?;
            for file in files {
                let synced = target.sync_together(file).await;
                synced.map_err(CopyError::Target)?;
            }
            drop(on_its_way);
            Ok(Payload::Copy {
                session,
                name,
                copy: copy.map(Arc::new),
                as_of,
            })
        };
        self.then_send(g, (seat, to), copy);
    }

    /// Forgets comparisons that are over, and lets those go on whose turn it is.
    pub(super) fn hand_on(&mut self) {
        let mut handing = std::mem::take(&mut self.handing);
        let is_learning = |(g, to): &(u32, BrickId)| {
            let group = &self.groups[*g as usize];
            let mut copies = group.copies.iter();
            let is_here = copies
                .any(|copy| self.seats[copy.seat].member.id == *to && copy.out_since.is_none());
            is_here && !group.config.in_sync.contains(*to)
        };
        handing.walks.retain(|at, _| is_learning(at));
        handing.waiting.retain(|at, _| is_learning(at));
        let mut due = Vec::new();
        for ((g, to), waiting) in &handing.waiting {
            let Some(target) = self.seat_of(*to) else {
                continue;
            };
            let width = self.member(waiting.seat).census_width();
            let width = width.min(self.member(target).census_width());
            match handing.is_its_turn((*g, *to), width) {
                true => due.push((*g, *to)),
                false => break,
            }
        }
        let due: Vec<_> = due
            .into_iter()
            .filter_map(|at| Some((at, handing.waiting.remove(&at)?)))
            .collect();
        if handing.walks.is_empty() {
            for seat in &self.seats {
                if let Ok(mut census) = seat.member.census.try_lock()
                    && let Some(found) = &*census
                    && found.since().elapsed() > CENSUS_IDLE
                {
                    *census = None;
                }
            }
        }
        self.handing = handing;
        for ((g, to), waiting) in due {
            self.send_page_now(g, waiting.seat, (to, waiting.session), waiting.after);
        }
    }
}
