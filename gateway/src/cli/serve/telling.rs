//! The listener on which numbers are told.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::run::Prepared;
use crate::cli::CommandError;
use crate::metrics::{MetricsDoor, Source};
use crate::server::{self, Limits, Phase};

/// Most who look at once.
const MAX_CONNECTIONS: usize = 16;

/// Numbers are told until this is dropped.
pub(super) struct Telling {
    task: JoinHandle<()>,
    _phase: watch::Sender<Phase>,
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Prepared {
    /// Begins to tell numbers, where the configuration says where. Errors: nobody can listen there.
    pub(super) async fn tell(&self, more: Option<Source>) -> Result<Option<Telling>, CommandError> {
        let (Some(at), Some(meter)) = (self.config.metrics.listen, &self.meter) else {
            return Ok(None);
        };
        let listener = TcpListener::bind(at).await.map_err(|error| {
            CommandError::new(format!("cannot listen on {at} (metrics.listen): {error}"))
        })?;
        let meter = Arc::clone(meter);
        let counted: Source = Arc::new(move |text| meter.tell(text));
        let sources = [counted].into_iter().chain(more).collect();
        let limits = Limits {
            connections: MAX_CONNECTIONS,
            in_flight: MAX_CONNECTIONS,
            ..self.config.limits.clone()
        };
        let (phase, receiver) = watch::channel(Phase::Serve);
        let at = listener.local_addr()?;
        tracing::info!(%at, "numbers are told at /metrics");
        let task = tokio::spawn(async move {
            let door = MetricsDoor::new(sources);
            server::serve(listener, None, door, &limits, receiver).await;
        });
        Ok(Some(Telling {
            task,
            _phase: phase,
        }))
    }
}
