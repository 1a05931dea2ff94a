//! Which bricks of a volume are here while it is served: one that comes is taken in, and one that
//! is not at its path any more is let go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fsstore::brick::{Brick, BrickOptions};
use fsstore::bricks::home::OBJECTS;
use fsstore::bricks::identity::IdentityError;
use fsstore::bricks::plan::BrickId;
use fsstore::bricks::returning::{self, Refused, Standing};
use fsstore::bricks::serving::Present;

use super::Served;
use crate::cli::CommandError;

/// How often it is looked whether a brick is still at its path.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often it is looked whether one that was missing is back.
const SEARCH_INTERVAL: Duration = Duration::from_millis(500);

/// A brick that is here.
#[derive(Clone)]
struct Here {
    brick: Brick,
    dir: PathBuf,
    standing: Option<Standing>,
}

/// See the module.
pub(super) struct Attendance {
    /// How bricks are opened, but for where they are.
    options: BrickOptions,
    here: Mutex<BTreeMap<BrickId, Here>>,
    missing: Mutex<BTreeSet<BrickId>>,
    /// What was said last of a brick that was found and not taken in.
    said: Mutex<BTreeMap<BrickId, String>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Attendance {
    pub(super) fn new(options: BrickOptions) -> Self {
        Self {
            options,
            here: Mutex::default(),
            missing: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// Opens the brick in a directory.
    pub(super) async fn open(&self, dir: &Path) -> Result<Brick, CommandError> {
        let options = BrickOptions {
            root: dir.join(OBJECTS),
            member: true,
            ..self.options.clone()
        };
        Ok(Brick::open(options).await?)
    }

    /// A brick that was opened is here.
    pub(super) fn came(&self, id: BrickId, brick: Brick, dir: &Path) {
        let here = Here {
            brick,
            dir: dir.to_owned(),
            standing: Standing::at(dir),
        };
        lock(&self.here).insert(id, here);
        lock(&self.missing).remove(&id);
        lock(&self.said).remove(&id);
    }

    pub(super) fn is_missing(&self, id: BrickId) {
        lock(&self.missing).insert(id);
    }

    pub(super) fn missing(&self) -> BTreeSet<BrickId> {
        lock(&self.missing).clone()
    }

    /// Those that are here.
    pub(super) fn bricks(&self) -> Vec<(u32, Brick)> {
        let here = lock(&self.here);
        here.iter()
            .map(|(id, here)| (id.0, here.brick.clone()))
            .collect()
    }

    fn all(&self) -> Vec<(BrickId, Here)> {
        let here = lock(&self.here);
        here.iter().map(|(id, here)| (*id, here.clone())).collect()
    }

    /// Whether something is said of a brick for the first time.
    fn is_news(&self, id: BrickId, text: &str) -> bool {
        lock(&self.said)
            .insert(id, text.to_owned())
            .is_none_or(|said| said != text)
    }
}

impl Served {
    fn attendance(&self) -> &Attendance {
        &self.inner.attendance
    }

    /// Lets bricks go that are not where they were, each looked at by itself, for ever: a disk that
    /// does not answer keeps none of the others waiting.
    pub(in crate::cli::serve) async fn watch_paths(self) {
        let mut watched = tokio::task::JoinSet::new();
        let mut under_way = BTreeSet::new();
        loop {
            for (id, here) in self.attendance().all() {
                if under_way.insert(id) {
                    watched.spawn(self.clone().look(id, here));
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
            while let Some(looked) = watched.try_join_next() {
                match looked {
                    Ok(id) => drop(under_way.remove(&id)),
                    Err(error) => {
                        tracing::error!(%error, "looking for a brick failed");
                        // Nobody knows which: all are looked at again.
                        under_way.clear();
                    }
                }
            }
        }
    }

    async fn look(self, id: BrickId, here: Here) -> BrickId {
        let dir = here.dir.clone();
        let looked = tokio::task::spawn_blocking(move || Standing::at(&dir)).await;
        if let Ok(found) = looked
            && found != here.standing
        {
            self.let_go(id).await;
        }
        id
    }

    /// A brick is not here any more: everything goes on without it.
    pub(super) async fn let_go(&self, id: BrickId) {
        self.attendance().is_missing(id);
        if let Err(error) = self.bricks.leave(id).await {
            tracing::warn!(brick = id.0, %error, "a brick cannot be let go");
            return;
        }
        if let Some(member) = self.inner.seats.plan().member(id) {
            self.inner.seats.leave(member.uuid);
        }
        lock(&self.attendance().here).remove(&id);
    }

    /// Takes bricks in that were missing and are at their paths again, for ever.
    pub(in crate::cli::serve) async fn search(self) {
        loop {
            for id in self.attendance().missing() {
                if !lock(&self.attendance().here).contains_key(&id)
                    && let Err(error) = self.search_for(id).await
                    && self.attendance().is_news(id, &error.text)
                {
                    let (brick, error) = (id.0, error.text);
                    tracing::warn!(
                        event = "brick.refused",
                        brick,
                        error,
                        "a brick is found, and not taken in"
                    );
                }
            }
            tokio::time::sleep(SEARCH_INTERVAL).await;
        }
    }

    async fn search_for(&self, id: BrickId) -> Result<(), CommandError> {
        let plan = self.inner.seats.plan();
        if plan.member(id).is_none() {
            lock(&self.attendance().missing).remove(&id);
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        let failed = self.bricks.failed();
        let found = tokio::task::spawn_blocking(move || {
            let served = returning::Served {
                volume: inner.volume,
                plan: &plan,
                at: inner.seats.at(),
            };
            let here: BTreeSet<BrickId> = lock(&inner.attendance.here).keys().copied().collect();
            let is_here = |id| here.contains(&id) && !failed.contains(&id);
            returning::find(&served, id, is_here)
        });
        let found = found.await.map_err(|_| CommandError::new("it panicked"))?;
        let returned = match found {
            // A disk that comes and goes, and one that this process has not let go of yet.
            Ok(None) | Err(IdentityError::InUse { .. }) => return Ok(()),
            Ok(Some(Ok(returned))) => returned,
            Ok(Some(Err(Refused::OnlyDoubted(doubt)))) => {
                return Err(CommandError::new(format!(
                    "it {doubt}, and no other brick that is here has all of what it holds"
                )));
            }
            Ok(Some(Err(Refused::Newer))) => {
                return Err(CommandError::new(
                    "another server has had it since: start this one again",
                ));
            }
            Err(error) => return Err(error.into()),
        };
        let (brick, dir, uuid) = (id.0, returned.dir.display(), returned.chair.uuid);
        if let Some(doubt) = returned.doubt {
            tracing::warn!(event = "brick.doubted", brick, dir = %dir, "the brick {doubt}: it is compared with the others");
        }
        // Its lock is the chair's: it goes where the brick cannot be opened.
        self.take_in(id, &returned.dir, returned.doubt.is_some())
            .await?;
        self.inner.seats.join(returned.chair);
        if self.inner.seats.plan().member(id).is_none() {
            // It was taken out of the volume meanwhile.
            self.let_go(id).await;
            self.inner.seats.leave(uuid);
            return Ok(());
        }
        tracing::info!(event = "brick.back", brick, dir = %dir, "a brick is here again");
        Ok(())
    }

    /// Opens a brick that is not here and has it filled.
    pub(super) async fn take_in(
        &self,
        id: BrickId,
        dir: &Path,
        is_doubted: bool,
    ) -> Result<(), CommandError> {
        let brick = self.attendance().open(dir).await?;
        let present = Present {
            id,
            brick: brick.clone(),
            is_doubted,
        };
        self.bricks.join(present).await?;
        self.attendance().came(id, brick, dir);
        Ok(())
    }
}
