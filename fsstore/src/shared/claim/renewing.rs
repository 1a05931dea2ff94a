//! Claims that are held for long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::Claim;
use crate::error::{Result, StoreError};

/// A claim that is held for long is renewed this often.
const INTERVAL: Duration = Duration::from_secs(2);

/// Ends the thread that renews, also where the work panics.
struct Over<'a> {
    is_over: &'a AtomicBool,
    renewing: Thread,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        self.renewing.unpark();
    }
}

impl Claim {
    /// Does what may take long, and shows meanwhile that the claim is alive: a sync of a long file,
    /// too, may take longer than others have patience. Whether the claim is still ours afterwards
    /// [`Self::renew`] tells.
    pub fn while_renewed<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let interval = INTERVAL.min(self.claims.patience / 4);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let renewing = std::thread::Builder::new()
                .name("claim".to_owned())
                .spawn_scoped(scope, || self.keep_renewing(interval, &is_over))
                .map_err(|e| StoreError::from_io("renew a claim", e))?;
            let _over = Over {
                is_over: &is_over,
                renewing: renewing.thread().clone(),
            };
            work()
        })
    }

    fn keep_renewing(&self, interval: Duration, is_over: &AtomicBool) {
        let mut last = Instant::now();
        while !is_over.load(Ordering::Acquire) {
            let left = interval.saturating_sub(last.elapsed());
            if !left.is_zero() {
                std::thread::park_timeout(left);
                continue;
            }
            last = Instant::now();
            if self.renew().is_err() {
                return;
            }
        }
    }
}
