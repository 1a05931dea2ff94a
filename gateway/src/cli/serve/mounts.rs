//! The mounts of a server: its own, and those of every `portico mount` beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fsstore::files::Files;
use fsstore::name::BucketName;

use super::run::Prepared;
use crate::cli::CommandError;
use crate::cli::control::desk::Desk;
use crate::cli::control::host::{Host, name};
use crate::cli::control::{HostKind, Wish};
use crate::cli::mount::{default_options, mountpoint};

/// Takes mounts in, and makes those that the configuration names. Errors: one of these fails.
pub(super) fn begin<V: Files>(
    prepared: &Prepared,
    volume: Arc<V>,
    desk: Option<Arc<dyn Desk>>,
) -> Result<Host<V>, CommandError> {
    let layout = &prepared.layout;
    let host = Host::open(layout, volume, HostKind::Serve, desk)?;
    for word in &prepared.config.mount {
        let (at, bucket) = place(word);
        let at = mountpoint(Path::new(at), layout).inspect_err(|_| host.leave())?;
        refuse_within_bricks(&at, &prepared.config.brick).inspect_err(|_| host.leave())?;
        let options = default_options(layout, bucket).inspect_err(|_| host.leave())?;
        let wish = Wish {
            at: at.clone(),
            bucket: bucket.map(str::to_owned),
            may_make_devices: false,
        };
        let shown = at.clone();
        let ended = move || tracing::info!(at = %shown.display(), "unmounted");
        let mounted = host.mount(&options, &wish, ended);
        let data_path = mounted.inspect_err(|_| host.leave())?;
        tracing::info!(at = %at.display(), bucket, data = name(data_path), "mounted");
    }
    Ok(host)
}

/// Refuses a mountpoint within a brick, which would wait for itself, or above one.
fn refuse_within_bricks(at: &Path, bricks: &[PathBuf]) -> Result<(), CommandError> {
    for brick in bricks {
        let brick = brick.canonicalize()?;
        if at.starts_with(&brick) || brick.starts_with(at) {
            return Err(CommandError::new(format!(
                "cannot mount at {}: the brick {} is there",
                at.display(),
                brick.display()
            )));
        }
    }
    Ok(())
}

/// `MOUNTPOINT` or `MOUNTPOINT:BUCKET`. A path may hold colons: only what can be a bucket's name
/// is one.
fn place(word: &str) -> (&str, Option<&str>) {
    match word.rsplit_once(':') {
        Some((at, bucket)) if !at.is_empty() && BucketName::parse(bucket).is_ok() => {
            (at, Some(bucket))
        }
        _ => (word, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_named_after_a_colon() {
        assert_eq!(place("/mnt"), ("/mnt", None));
        assert_eq!(place("/mnt:photos"), ("/mnt", Some("photos")));
        assert_eq!(place("/mnt/a:b/c"), ("/mnt/a:b/c", None));
        assert_eq!(place("/mnt/a:b:photos"), ("/mnt/a:b", Some("photos")));
    }
}
