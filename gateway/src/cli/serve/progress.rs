//! Shows how far the index has been built from the tree: a bar on a terminal, else log lines.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use fsstore::brick::RebuildProgress;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

/// How often a log line tells of a rebuild that goes on.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);

/// Shows progress until the brick is gone.
pub(in crate::cli) async fn show(mut progress: watch::Receiver<RebuildProgress>) {
    let mut display = Display::new(std::io::stderr().is_terminal());
    loop {
        let now = progress.borrow_and_update().clone();
        display.update(&now);
        if progress.changed().await.is_err() {
            return;
        }
    }
}

/// What is shown of a rebuild.
struct Display {
    is_terminal: bool,
    bar: Option<ProgressBar>,
    logged: Option<Instant>,
    is_rebuilding: bool,
}

impl Display {
    fn new(is_terminal: bool) -> Self {
        Self {
            is_terminal,
            bar: None,
            logged: None,
            is_rebuilding: false,
        }
    }

    fn update(&mut self, now: &RebuildProgress) {
        let objects = now.objects;
        match &now.bucket {
            Some(bucket) => {
                self.is_rebuilding = true;
                if self.is_terminal {
                    self.move_bar(bucket, objects);
                } else if self.logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                    tracing::info!(bucket, objects, "the index is being built from the tree");
                    self.logged = Some(Instant::now());
                }
            }
            None if now.done && self.is_rebuilding => {
                self.is_rebuilding = false;
                self.logged = None;
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
                tracing::info!(objects, "the index is whole");
            }
            None => {}
        }
    }

    fn move_bar(&mut self, bucket: &str, objects: u64) {
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            let template = "{spinner} building the index: {human_pos} objects, {per_sec}, {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        bar.set_position(objects);
        bar.set_message(bucket.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuild_is_shown_while_it_goes_on_and_an_idle_brick_never() {
        let at = |bucket: Option<&str>, done| RebuildProgress {
            bucket: bucket.map(str::to_owned),
            objects: 5,
            done,
        };
        let mut bar = Display::new(true);
        bar.update(&at(None, true));
        assert!(bar.bar.is_none());
        bar.update(&at(Some("b"), false));
        assert_eq!(bar.bar.as_ref().unwrap().position(), 5);
        bar.update(&at(None, true));
        assert!(bar.bar.is_none() && !bar.is_rebuilding);

        let mut lines = Display::new(false);
        lines.update(&at(Some("b"), false));
        assert!(lines.bar.is_none() && lines.logged.is_some());
    }
}
