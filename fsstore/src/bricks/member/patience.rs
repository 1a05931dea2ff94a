//! Waiting for a disk that may hang without an error.

use std::sync::mpsc::Sender;

use super::super::driver::Input;
use super::Member;
use crate::brick::disk::Disk;
use crate::error::{Result, StoreError};

impl<D: Disk> Member<D> {
    /// Waits for what a brick is asked for. Where that takes longer than it may the brick is said to
    /// hang, and waited for until it is taken out: it is not where it has the last copy of
    /// anything. Errors: also Io.
    pub(in super::super) async fn patiently<T>(
        &self,
        told: &Sender<Input<D>>,
        asked: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut asked = std::pin::pin!(asked);
        tokio::select! {
            biased;
            answer = &mut asked => return answer,
            () = tokio::time::sleep(self.hangs_after()) => {
                let _ = told.send(Input::Hung { brick: self.id });
                tokio::select! {
                    biased;
                    answer = &mut asked => return answer,
                    () = self.until_failed() => {}
                }
            }
        }
        let failed = std::io::Error::other("the brick failed meanwhile");
        Err(StoreError::from_io("wait for a disk", failed))
    }

    async fn until_failed(&self) {
        loop {
            let changed = self.failing.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.has_failed() {
                return;
            }
            changed.await;
        }
    }
}
