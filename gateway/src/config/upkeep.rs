//! How a server is watched, and a volume of several bricks kept up.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use super::duration;

/// How fast a scrub may go, and how often one begins.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScrubConfig {
    /// How long after one the next begins; 0 is never.
    #[serde(deserialize_with = "duration")]
    pub every: Duration,
    /// MiB a second; 0 is no bound.
    pub mib_per_s: u64,
    /// Files, and further MiB of a file, a second; 0 is no bound.
    pub reads_per_s: u64,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(30 * 86_400),
            mib_per_s: 50,
            reads_per_s: 0,
        }
    }
}

/// Where numbers about the server are told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// The address and port; none: nowhere.
    pub listen: Option<SocketAddr>,
}
