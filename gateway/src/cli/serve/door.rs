//! The S3 door as the server sees it.

use std::sync::Arc;

use fsstore::clock::Clock;
use fsstore::volume::Volume;
use http::{Request, Response};

use crate::auth::AuthConfig;
use crate::config::Config;
use crate::errors::S3Code;
use crate::metrics::Meter;
use crate::s3::S3;
use crate::s3::ctx::{ConnInfo, Ctx, S3Config};
use crate::s3::respond::Body;
use crate::server::{Handler, Peer, Refusal, RequestBody};
use crate::users::UserStore;

/// S3 over a volume. Clones share it.
pub(super) struct S3Door<V> {
    s3: Arc<S3<V>>,
    meter: Option<Arc<Meter>>,
}

impl<V> Clone for S3Door<V> {
    fn clone(&self) -> Self {
        Self {
            s3: Arc::clone(&self.s3),
            meter: self.meter.clone(),
        }
    }
}

impl<V: Volume> S3Door<V> {
    /// Opens the door of a volume, as the configuration says.
    pub(super) fn new(
        volume: Arc<V>,
        users: Arc<UserStore>,
        config: &Config,
        meter: Option<Arc<Meter>>,
    ) -> Self {
        let auth = AuthConfig {
            region: config.region.clone(),
            domains: config.domains.iter().map(|d| d.to_lowercase()).collect(),
            ..AuthConfig::default()
        };
        let s3 = S3::new(Ctx {
            volume,
            users,
            auth,
            config: S3Config {
                apply_mtime: config.by_bucket(config.apply_mtime, |own| own.apply_mtime),
                ..S3Config::default()
            },
            clock: Clock::system(),
        });
        Self {
            s3: Arc::new(s3.measured_by(meter.clone())),
            meter,
        }
    }
}

impl<V: Volume> Handler for S3Door<V> {
    type Body = Body;

    async fn handle(&self, request: Request<RequestBody>, peer: Peer) -> Response<Body> {
        let conn = ConnInfo {
            peer: Some(peer.addr),
            tls: peer.is_tls,
        };
        self.s3.handle(request, conn).await
    }

    fn refuse(&self, refusal: Refusal) -> Response<Body> {
        self.s3.refuse(match refusal {
            Refusal::Overloaded => S3Code::SlowDown,
            Refusal::Panicked => S3Code::InternalError,
        })
    }

    fn connected(&self, is_open: bool) {
        if let Some(meter) = &self.meter {
            meter.connected(is_open);
        }
    }
}
