//! `portico serve`: from flags, environment and file to a running server, and its end.

mod bricks;
mod door;
mod greeting;
mod mounts;
mod options;
pub(super) mod progress;
mod run;
mod shared;
mod telling;

use std::io::Write;
use std::sync::Arc;

use fsstore::brick::{Brick, BrickOptions, HashPolicy};
use fsstore::volume::Volume;
use tokio::net::TcpListener;

use self::bricks::Served;
use self::door::S3Door;
pub(super) use self::options::ServeArgs;
use self::run::{Prepared, Signals};
pub(super) use self::run::{raise_descriptor_limit, run};
use super::CommandError;
use super::layout::Layout;
use crate::config::{self, Config, Enforce};
use crate::metrics::Source;
use crate::server::Drained;

/// Serves a prepared tree to the end of the server.
async fn serve_tree(prepared: Prepared) -> Result<(), CommandError> {
    if prepared.config.shared {
        return shared::serve_tree(prepared).await;
    }
    if prepared.has_bricks {
        return serve_bricks(prepared).await;
    }
    let listener = prepared.listen().await?;
    let _telling = prepared.tell(None).await?;
    let brick = Brick::open(brick_options(&prepared.layout, &prepared.config)).await?;
    let greeting = prepared.greeting(listener.local_addr()?);
    // A reader that has gone does not keep the server from serving.
    let _ = std::io::stdout().write_all(greeting.as_bytes());
    let showing = tokio::spawn(progress::show(brick.progress()));
    // Before anything is mounted that a signal is to unmount.
    let signals = Signals::new()?;
    let host =
        tokio::task::block_in_place(|| mounts::begin(&prepared, Arc::new(brick.clone()), None));
    let drained = match &host {
        Ok(_) => serve_volume(&prepared, Arc::new(brick.clone()), listener, signals).await,
        Err(_) => Ok(Drained::All),
    };
    showing.abort();
    let host = host.inspect(|host| tokio::task::block_in_place(|| host.leave()));
    brick.close().await?;
    host?;
    run::report(drained?)
}

/// Serves a volume of several bricks to the end of the server.
async fn serve_bricks(prepared: Prepared) -> Result<(), CommandError> {
    let listener = prepared.listen().await?;
    let served = Served::open(&prepared).await?;
    let telling = served.clone();
    let source: Source = Arc::new(move |text| telling.tell(text));
    let _telling = prepared.tell(Some(source)).await?;
    let greeting = prepared.greeting(listener.local_addr()?);
    let _ = std::io::stdout().write_all(greeting.as_bytes());
    let signals = Signals::new()?;
    let volume = Arc::new(served.bricks.clone());
    let host = tokio::task::block_in_place(|| {
        mounts::begin(
            &prepared,
            Arc::clone(&volume),
            Some(Arc::new(served.clone())),
        )
    });
    let mut looking = tokio::task::JoinSet::new();
    looking.spawn(served.clone().look_after());
    looking.spawn(served.clone().watch_paths());
    looking.spawn(served.clone().search());
    let drained = match &host {
        Ok(_) => serve_volume(&prepared, volume, listener, signals).await,
        Err(_) => Ok(Drained::All),
    };
    looking.shutdown().await;
    let host = host.inspect(|host| tokio::task::block_in_place(|| host.leave()));
    served.close().await?;
    host?;
    run::report(drained?)
}

/// How the volume of a tree is opened.
pub(super) fn brick_options(layout: &Layout, config: &Config) -> BrickOptions {
    BrickOptions {
        durability: config.by_bucket(config.durability, |own| own.durability),
        hash: config.by_bucket(hash_policy(config.hash), |own| own.hash.map(hash_policy)),
        respect_locks: config.by_bucket(false, |own| Some(own.respect_locks)),
        enforce: config.by_bucket(false, |own| Some(own.enforce == Enforce::Posix)),
        scan_interval: config.scan_interval,
        watch: config.watch,
        ..BrickOptions::new(layout.volume())
    }
}

fn hash_policy(asked: config::HashPolicy) -> HashPolicy {
    match asked {
        config::HashPolicy::Background => HashPolicy::Background,
        config::HashPolicy::OnClose => HashPolicy::OnClose,
        config::HashPolicy::OnRead => HashPolicy::OnRead,
        config::HashPolicy::Never => HashPolicy::Never,
    }
}

/// Serves a volume on `listener` until a signal ends it.
async fn serve_volume<V: Volume>(
    prepared: &Prepared,
    volume: Arc<V>,
    listener: TcpListener,
    signals: Signals,
) -> Result<Drained, CommandError> {
    let users = Arc::clone(&prepared.users);
    let meter = prepared.meter.clone();
    let door = S3Door::new(volume, users, &prepared.config, meter);
    prepared.serve(listener, door, signals).await
}

#[cfg(test)]
mod tests;
