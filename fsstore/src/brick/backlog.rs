//! Whoever changes names waits where the index is far behind: in the turn, so that nobody leaves it
//! further behind meanwhile, and for a bounded time, since what the index lacks is in memory and in
//! the intent log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Inner;
use super::commit::{Terms, Turn};
use super::disk::Disk;
use super::index::{Change, Room};
use crate::error::Result;
use crate::name::{BucketName, ObjectKey};

/// Longest time that one change waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nobody waits after the index could not be written.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub struct Backlog {
    is_full: AtomicBool,
    /// When the index could not be written.
    failed: Mutex<Option<Instant>>,
}

impl Backlog {
    fn is_worth_waiting(&self) -> bool {
        if !self.is_full.load(Ordering::Acquire) {
            return false;
        }
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_none_or(|at| at.elapsed() >= RETRY_INTERVAL)
    }
}

impl<D: Disk> Inner<D> {
    /// Tells the index, in the turn; waits where it is far behind.
    pub(super) fn change_index(
        &self,
        changes: impl IntoIterator<Item = (BucketName, ObjectKey, Change)>,
    ) {
        let is_full = self.index.apply(changes).room == Room::Full;
        self.backlog.is_full.store(is_full, Ordering::Release);
        // In the turn: else those who move directories without a pause leave the index behind,
        // and listings, which wait for their rows, with it.
        self.wait_for_index_blocking();
    }

    /// Waits for a while where the index is far behind.
    pub(super) async fn wait_for_index(&self) {
        if !self.backlog.is_worth_waiting() {
            return;
        }
        match self.index.wait_for_room_within(PATIENCE).await {
            Some(Ok(())) => self.backlog.is_full.store(false, Ordering::Release),
            Some(Err(e)) => {
                // Nothing is lost: the changes stay in memory and their keys in the intent log.
                tracing::error!("the index is behind and cannot be written: {e}");
                let failed = self.backlog.failed.lock();
                *failed.unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
            None => tracing::warn!("the index is behind"),
        }
    }

    /// As [`Self::wait_for_index`], on a thread that may block.
    pub(super) fn wait_for_index_blocking(&self) {
        if self.backlog.is_worth_waiting() {
            self.runtime.block_on(self.wait_for_index());
        }
    }

    /// As [`super::commit::Committer::submit`], for changes that the index is told of.
    pub(super) fn submit<T, F>(
        self: &Arc<Self>,
        terms: Terms<D>,
        act: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F, D>
    where
        T: Send + 'static,
        F: FnOnce(&mut Turn<'_, D>) -> Result<T> + Send + 'static,
    {
        let done = self.committer.submit(terms, act);
        let inner = Arc::clone(self);
        async move {
            let done = done.await;
            inner.wait_for_index().await;
            done
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::super::index::{Change, MAX_OVERLAY_ROWS};
    use super::super::{Brick, BrickOptions, HashPolicy};
    use crate::name::{BucketName, ObjectKey};

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_turn_waits_for_the_index_for_a_while_only() {
        let dir = tempfile::tempdir().unwrap();
        let options = BrickOptions {
            hash: HashPolicy::Never.into(),
            scan_interval: Duration::from_secs(3_600),
            ..BrickOptions::new(dir.path())
        };
        let brick = Brick::open(options).await.unwrap();
        let inner = Arc::clone(&brick.inner);
        let bucket = BucketName::parse("b").unwrap();
        let key = |n: usize| ObjectKey::parse(&format!("k{n}")).unwrap();
        let writer = inner.index.hold_writer().await;
        let many = (0..=MAX_OVERLAY_ROWS).map(|n| (bucket.clone(), key(n), Change::Remove));
        inner.index.apply(many);
        let (acted, heard) = channel();
        for n in 0..2 {
            let (inner, acted) = (Arc::clone(&inner), acted.clone());
            let keys = vec![(bucket.clone(), key(n))];
            std::thread::spawn(move || {
                let changed = inner.change_names(&keys, |_| {
                    inner.change_index([(keys[0].0.clone(), keys[0].1.clone(), Change::Remove)]);
                    acted.send(()).unwrap();
                    Ok(())
                });
                changed.unwrap();
            });
        }
        // The index cannot be written, and yet one after the other has its turn.
        tokio::task::spawn_blocking(move || {
            heard.recv_timeout(LONG).unwrap();
            heard.recv_timeout(LONG).unwrap();
        })
        .await
        .unwrap();
        drop(writer);
        brick.close().await.unwrap();
    }
}
