//! `portico serve --shared`: one of several gateways on a file system that hosts share.

use std::io::Write;
use std::sync::Arc;

use fsstore::shared::{Shared, SharedOptions};

use super::run::{Prepared, Signals};
use super::{hash_policy, run, serve_volume};
use crate::cli::CommandError;
use crate::cli::doctor::mounted::{Fit, Mounted};
use crate::cli::doctor::verdict::Verdict;
use crate::config::{Config, Enforce};

/// Serves a prepared tree to the end of the server.
pub(super) async fn serve_tree(prepared: Prepared) -> Result<(), CommandError> {
    let config = &prepared.config;
    check(config)?;
    let listener = prepared.listen().await?;
    let verdict = verdict_here(&prepared)?;
    let volume = Shared::open(options(&prepared, verdict.as_ref())).await?;
    if let Err(error) = require_proof(&prepared, &volume, verdict).await {
        volume.close().await?;
        return Err(error);
    }
    let greeting = prepared.greeting(listener.local_addr()?);
    // A reader that has gone does not keep the server from serving.
    let _ = std::io::stdout().write_all(greeting.as_bytes());
    let signals = Signals::new()?;
    let _telling = prepared.tell(None).await?;
    let drained = serve_volume(&prepared, Arc::new(volume.clone()), listener, signals).await;
    volume.close().await?;
    run::report(drained?)
}

/// Refuses what only a server does that has the tree alone.
fn check(config: &Config) -> Result<(), CommandError> {
    if !config.mount.is_empty() {
        return Err(CommandError::new(
            "a shared tree is mounted by its file system's own mount: take away `mount`",
        ));
    }
    let mut own = config.bucket.iter();
    if let Some((name, _)) = own.find(|(_, own)| own.enforce == Enforce::Posix || own.respect_locks)
    {
        return Err(CommandError::new(format!(
            "[bucket.{name}] enforce and respect_locks ask this host's kernel, which does not \
             decide for the hosts that share the tree: take them away, or serve without --shared"
        )));
    }
    Ok(())
}

/// What the doctor found of the tree as this host mounts it.
fn verdict_here(prepared: &Prepared) -> Result<Option<Verdict>, CommandError> {
    let Some(mut verdict) = Verdict::read(&prepared.layout) else {
        return Ok(None);
    };
    let own = Mounted::of(prepared.layout.dir())?;
    match own.fit(&verdict.mounts) {
        // Noted before mounts were.
        _ if verdict.mounts.is_empty() => {}
        Fit::Whole => {}
        Fit::Options(differing) => tracing::warn!(
            differing = differing.join(","),
            "this host mounts the tree with other options than those that `portico doctor --shared` \
             examined: run it here as well"
        ),
        Fit::Kind => {
            verdict.passed = false;
            verdict.trusts_dir_times = false;
            verdict.failed = vec![format!(
                "it was another file system, here it is {}",
                own.kind
            )];
        }
    }
    Ok(Some(verdict))
}

fn options(prepared: &Prepared, verdict: Option<&Verdict>) -> SharedOptions {
    let config = &prepared.config;
    SharedOptions {
        durability: config.by_bucket(config.durability, |own| own.durability),
        hash: config.by_bucket(hash_policy(config.hash), |own| own.hash.map(hash_policy)),
        trusts_dir_times: verdict.is_some_and(|verdict| verdict.trusts_dir_times),
        ..SharedOptions::new(prepared.layout.volume())
    }
}

/// Refuses to be one of several gateways where nobody has shown that the file system lets them.
async fn require_proof(
    prepared: &Prepared,
    volume: &Shared,
    verdict: Option<Verdict>,
) -> Result<(), CommandError> {
    let config = &prepared.config;
    if config.shared_unproven || verdict.as_ref().is_some_and(|verdict| verdict.passed) {
        return Ok(());
    }
    let looking = volume.clone();
    let other = tokio::task::spawn_blocking(move || looking.presence().has_others()).await??;
    let Some(other) = other else { return Ok(()) };
    let shown = prepared.layout.dir().display();
    let why = match verdict {
        Some(verdict) => format!("failed: {}", verdict.failed.join(", ")),
        None => "has not been run".to_owned(),
    };
    Err(CommandError::new(format!(
        "{shown} is served by another gateway ({other}), and `portico doctor --shared {shown} \
         OTHER_MOUNT` {why}; run it, or give --shared-unproven and lose what it would have found"
    )))
}
