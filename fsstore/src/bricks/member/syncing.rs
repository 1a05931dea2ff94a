//! Fetched files made durable together: one sync for all that came meanwhile.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::Member;
use crate::brick::commit::SYNC_EVERYTHING_FROM;
use crate::brick::disk::{Disk, DiskFile};
use crate::brick::sink::off_thread;
use crate::error::{Result, StoreError};

/// A file, and who is told what came of it.
type Waiting<D> = (Arc<<D as Disk>::File>, oneshot::Sender<Result<()>>);

/// Files that wait. The turn is taken before the list, which is held for instants only.
pub(super) struct Syncing<D: Disk> {
    waiting: Mutex<Vec<Waiting<D>>>,
    turn: tokio::sync::Mutex<()>,
}

impl<D: Disk> Default for Syncing<D> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }
}

impl<D: Disk> Member<D> {
    /// Makes a file durable, with those of whoever else waits.
    pub(in super::super) async fn sync_together(&self, file: Arc<D::File>) -> Result<()> {
        let (told, heard) = oneshot::channel();
        self.waiting().push((file, told));
        {
            let _turn = self.syncing.turn.lock().await;
            let batch = std::mem::take(&mut *self.waiting());
            if !batch.is_empty() {
                let disk = Arc::clone(self.inner.disk());
                off_thread(move || {
                    sync_all(&*disk, batch);
                    Ok(())
                })
                .await?;
            }
        }
        heard.await.unwrap_or(Err(StoreError::Stopping))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting<D>>> {
        let waiting = self.syncing.waiting.lock();
        waiting.unwrap_or_else(PoisonError::into_inner)
    }
}

fn sync_all<D: Disk>(disk: &D, batch: Vec<Waiting<D>>) {
    let fail = |e| StoreError::from_io("make fetched bytes durable", e);
    if batch.len() >= SYNC_EVERYTHING_FROM && disk.syncs_everything() {
        // Who waits is told of a failure by a sync of its own file: errors are not cloned.
        let is_durable = disk.sync_everything().is_ok();
        for (file, told) in batch {
            let synced = match is_durable {
                true => Ok(()),
                false => file.sync().and(Err(std::io::ErrorKind::Other.into())),
            };
            let _ = told.send(synced.map_err(fail));
        }
        return;
    }
    for (file, told) in batch {
        let _ = told.send(file.sync().map_err(fail));
    }
}
