//! A lane: byte blocks processed in order on the blocking pool, beside the task that makes them.
//!
//! A lane holds a thread only while it has blocks, so any number of lanes cannot starve each
//! other of threads, and its queue is bounded, so memory does not grow with the body.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Most bytes a lane has waiting; one block more is taken where the queue is empty.
const MAX_QUEUED_BYTES: usize = 1 << 20;

/// A run of bytes in the pieces they came in, shared by the lanes that process it.
pub type Block = Arc<[Bytes]>;

fn len_of(block: &Block) -> usize {
    block.iter().map(Bytes::len).sum()
}

/// What a lane does with a block. After an error no further block is processed.
pub trait Process: Send + 'static {
    /// Why it failed.
    type Error: Send + 'static;
    /// Processes the next block; blocking is allowed.
    fn process(&mut self, block: &[Bytes]) -> Result<(), Self::Error>;
}

struct State<P: Process> {
    queue: VecDeque<Block>,
    queued_bytes: usize,
    /// None while a thread has it.
    processor: Option<P>,
    error: Option<P::Error>,
}

struct Shared<P: Process> {
    state: Mutex<State<P>>,
    moved: Notify,
}

/// See the module. Dropping it forgets the blocks that wait.
pub struct Lane<P: Process> {
    shared: Arc<Shared<P>>,
}

impl<P: Process> Shared<P> {
    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut processor: P) {
        loop {
            let block = {
                let mut state = self.lock();
                match state.queue.pop_front() {
                    Some(block) => {
                        state.queued_bytes -= len_of(&block);
                        block
                    }
                    None => {
                        state.processor = Some(processor);
                        self.moved.notify_one();
                        return;
                    }
                }
            };
            self.moved.notify_one();
            if let Err(e) = processor.process(&block) {
                let mut state = self.lock();
                state.error = Some(e);
                state.processor = Some(processor);
                state.queue.clear();
                state.queued_bytes = 0;
                self.moved.notify_one();
                return;
            }
        }
    }
}

impl<P: Process> Lane<P> {
    /// A lane with nothing in it.
    pub fn new(processor: P) -> Self {
        let state = State {
            queue: VecDeque::new(),
            queued_bytes: 0,
            processor: Some(processor),
            error: None,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                moved: Notify::new(),
            }),
        }
    }

    /// Queues a block, waiting for room. Errors: what an earlier block met.
    pub async fn push(&mut self, block: Block) -> Result<(), P::Error> {
        loop {
            {
                let mut state = self.shared.lock();
                if let Some(e) = state.error.take() {
                    return Err(e);
                }
                let full = state.queued_bytes + len_of(&block) > MAX_QUEUED_BYTES;
                if !full || state.queue.is_empty() {
                    state.queued_bytes += len_of(&block);
                    state.queue.push_back(block);
                    if let Some(processor) = state.processor.take() {
                        drop(state);
                        let shared = Arc::clone(&self.shared);
                        tokio::task::spawn_blocking(move || shared.run(processor));
                    }
                    return Ok(());
                }
            }
            self.shared.moved.notified().await;
        }
    }

    /// Waits until every block is processed and gives the processor back.
    pub async fn finish(self) -> Result<P, P::Error> {
        loop {
            {
                let mut state = self.shared.lock();
                if let Some(e) = state.error.take() {
                    return Err(e);
                }
                if state.queue.is_empty()
                    && let Some(processor) = state.processor.take()
                {
                    return Ok(processor);
                }
            }
            self.shared.moved.notified().await;
        }
    }
}

impl<P: Process> Drop for Lane<P> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.queue.clear();
        state.queued_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Collect(Vec<u8>, usize);

    impl Process for Collect {
        type Error = &'static str;
        fn process(&mut self, block: &[Bytes]) -> Result<(), Self::Error> {
            for piece in block {
                if self.0.len() + piece.len() > self.1 {
                    return Err("full");
                }
                self.0.extend_from_slice(piece);
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn blocks_keep_their_order() {
        let mut lane = Lane::new(Collect(Vec::new(), usize::MAX));
        let mut expected = Vec::new();
        for n in 0..500u32 {
            let block = vec![n as u8; 10_000];
            expected.extend_from_slice(&block);
            lane.push(Arc::new([block.into()])).await.unwrap();
        }
        assert_eq!(lane.finish().await.unwrap().0, expected);
    }

    #[tokio::test]
    async fn an_error_reaches_the_writer() {
        let mut lane = Lane::new(Collect(Vec::new(), 100));
        let mut failed = false;
        for _ in 0..1_000 {
            if lane
                .push(Arc::new([Bytes::from_static(&[0; 60])]))
                .await
                .is_err()
            {
                failed = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        assert!(failed || lane.finish().await.is_err());
    }

    #[tokio::test]
    async fn more_lanes_than_threads_all_finish() {
        let mut lanes = Vec::new();
        for _ in 0..600 {
            let mut lane = Lane::new(Collect(Vec::new(), usize::MAX));
            lane.push(Arc::new([Bytes::from_static(b"abc")]))
                .await
                .unwrap();
            lanes.push(lane);
        }
        for mut lane in lanes {
            lane.push(Arc::new([Bytes::from_static(b"def")]))
                .await
                .unwrap();
            assert_eq!(lane.finish().await.unwrap().0, b"abcdef");
        }
    }
}
