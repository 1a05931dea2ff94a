//! What happens to a test's gateway before a step on its disk: another gateway acts, as if this one
//! had slept, or the step fails.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};

type Act = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Steps that are interrupted, once each.
#[derive(Default)]
pub struct Interrupts {
    counts: Mutex<HashMap<String, usize>>,
    waiting: Mutex<Vec<(&'static str, String, Act)>>,
}

impl Interrupts {
    /// Does `act` before the next step of this kind about this name; the step fails where it does.
    pub fn before(
        &self,
        step: &'static str,
        name: &str,
        act: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push((step, name.to_owned(), Box::new(act)));
    }

    /// Whether all of them came to pass.
    pub fn are_over(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.is_empty()
    }

    /// How many steps of a kind there were.
    pub fn count(&self, step: &str) -> usize {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(step).copied().unwrap_or_default()
    }

    pub(super) fn reach(&self, step: &str, name: &str) -> io::Result<()> {
        *self
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(step.to_owned())
            .or_default() += 1;
        let act = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let at = waiting
                .iter()
                .position(|(of, about, _)| *of == step && about == name);
            at.map(|at| waiting.remove(at).2)
        };
        act.map_or(Ok(()), |act| act())
    }
}
