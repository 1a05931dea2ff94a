//! `portico serve`: from flags, environment and file to a running server, and its end.

mod door;
mod greeting;
mod options;
mod run;

use std::sync::Arc;

use fsstore::volume::Volume;
use tokio::net::TcpListener;

use self::door::S3Door;
pub(super) use self::options::ServeArgs;
use self::run::Prepared;
pub(super) use self::run::run;
use super::CommandError;
use crate::server::Drained;

/// Serves a prepared tree to the end of the server.
async fn serve_tree(prepared: Prepared) -> Result<(), CommandError> {
    let listener = prepared.listen().await?;
    print!("{}", prepared.greeting(listener.local_addr()?));
    Err(CommandError::new("no store yet"))
}

/// Serves a volume on `listener` until a signal ends it.
async fn serve_volume<V: Volume>(
    prepared: &Prepared,
    volume: Arc<V>,
    listener: TcpListener,
) -> Result<Drained, CommandError> {
    let users = Arc::clone(&prepared.users);
    let door = S3Door::new(volume, users, &prepared.config);
    prepared.serve(listener, door).await
}

#[cfg(test)]
mod tests;
