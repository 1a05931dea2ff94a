//! Whoever changes names waits where the index is far behind: in the turn, so that nobody leaves it
//! further behind meanwhile, and for a bounded time, since what the index lacks is in memory and in
//! the intent log. At the turn's end: a process that ends in that wait has said all of its change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Inner;
use super::disk::Disk;
use super::index::{Applied, Change, Room};
use crate::name::{BucketName, ObjectKey};

/// Longest time that one change waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nobody waits after the index could not be written.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Whether a change since the last wait found the index far behind.
    is_full: AtomicBool,
    /// When the index could not be written.
    failed: Mutex<Option<Instant>>,
}

impl Backlog {
    fn failed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_failure(&self) {
        *self.failed() = Some(Instant::now());
    }

    fn is_worth_waiting(&self) -> bool {
        self.failed()
            .is_none_or(|at| at.elapsed() >= RETRY_INTERVAL)
    }
}

impl<D: Disk> Inner<D> {
    /// Tells the index, in the turn; who does so outside is to [wait](Self::keep_up) itself.
    pub(super) fn change_index(
        &self,
        changes: impl IntoIterator<Item = (BucketName, ObjectKey, Change)>,
    ) {
        self.note_room(self.index.apply(changes));
    }

    /// Takes what the index says of a change: the turn is to wait at its end where it is far behind.
    pub(super) fn note_room(&self, applied: Applied) {
        if applied.room == Room::Full {
            self.backlog.is_full.store(true, Ordering::Release);
        }
    }

    /// Waits for a while, at the end of a turn, where the index is far behind after its changes:
    /// else those who change names without a pause leave it behind, and listings, which wait for
    /// rows of directories that move, with it.
    pub(super) fn keep_up(&self) {
        let is_full = self.backlog.is_full.swap(false, Ordering::AcqRel);
        if !is_full || !self.backlog.is_worth_waiting() {
            return;
        }
        let waited = self.index.wait_for_room_within(PATIENCE);
        match self.runtime.block_on(waited) {
            Some(Ok(())) => {}
            Some(Err(e)) => {
                // Nothing is lost: the changes stay in memory and their keys in the intent log.
                tracing::error!("the index is behind and cannot be written: {e}");
                self.backlog.note_failure();
            }
            None => tracing::warn!("the index is behind"),
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
