//! `portico mount`: a tree, or a bucket of it, as files.
//!
//! Where a server has the tree, it serves the mount: this process mounts, hands the kernel's
//! descriptor over and watches. Where nobody has, this process takes the tree and serves.

mod daemon;
pub(super) mod helper;
mod options;
mod supervise;

use std::path::{Path, PathBuf};

use clap::Args;

use self::options::Wanted;
use super::CommandError;
use super::control::Wish;
use super::layout::Layout;
use crate::config::Config;
use crate::posix::mounting::{self, MountOptions};

/// `portico mount`
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct MountArgs {
    /// What to mount: DIR or DIR/BUCKET, where DIR is the directory given to `portico serve`;
    /// with --dir or --config also main or main/BUCKET
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Where
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Options as for mount(8), separated by commas: ro, noexec, nosuid, nodev, noatime,
    /// allow_other (the default for root), devices (they can be made; such a mount shares no locks
    /// with the others of its tree), config=FILE. Words of
    /// /etc/fstab that are for others (defaults, nofail, _netdev, x-…) are accepted
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Come back once the mount stands; what serves or watches it goes on
    #[arg(long)]
    background: bool,
    /// The directory given to `portico serve`
    #[arg(long, value_name = "DIR", env = "PORTICO_DIR")]
    dir: Option<PathBuf>,
    /// A configuration file that names it, and says how files are served where no server runs
    #[arg(long, value_name = "FILE", env = "PORTICO_CONFIG")]
    config: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    /// This process is the one in the background
    #[arg(long, hide = true)]
    detached: bool,
    /// Unknown options are passed over (`mount -s`)
    #[arg(long = "lenient", hide = true)]
    is_lenient: bool,
}

const EXAMPLES: &str = "\
Examples:
  portico mount /srv/portico /mnt                 all buckets
  portico mount /srv/portico/photos /mnt/photos   one bucket
  portico mount main/photos /mnt --dir /srv/portico -o ro
  umount /mnt                                     ends it; so does SIGTERM

With a symbolic link to portico as /sbin/mount.portico, mount(8) and /etc/fstab know the type:
  /srv/portico/photos  /mnt/photos  portico  _netdev,nofail  0  0

Beside a running server the server serves the mount; should it end, the mount answers `not
connected` until it is back. Without one this process serves it, and other mounts too; it has the
tree until it is unmounted, so start `portico serve` first where S3 is wanted as well.";

/// A mount that is to be.
#[derive(Debug)]
struct Plan {
    layout: Layout,
    config: Config,
    wish: Wish,
    options: MountOptions,
    json: bool,
    is_detached: bool,
}

/// Runs `mount.portico`. Nothing is done for a bucket that is mounted there already: `mount -a`
/// passes over what stands by its source, and a bucket's mount shows its tree as source.
pub(super) fn run_for_mount_8(args: MountArgs) -> Result<(), CommandError> {
    let plan = args.plan()?;
    let source = plan.layout.dir().display().to_string();
    if let Some(bucket) = &plan.wish.bucket
        && mounting::is_bucket_of(&source, bucket, &plan.wish.at)?
    {
        return Ok(());
    }
    run(args)
}

/// Runs `portico mount`.
pub(super) fn run(args: MountArgs) -> Result<(), CommandError> {
    if args.background && !args.detached {
        return daemon::start(&args);
    }
    let plan = args.plan()?;
    crate::logs::install(&plan.config.log)?;
    if plan.is_detached {
        daemon::detach()?;
    }
    supervise::run(&plan)
}

impl MountArgs {
    fn plan(&self) -> Result<Plan, CommandError> {
        let lists = self.options.iter().map(String::as_str);
        let mut wanted = options::parse(lists, String::new(), self.is_lenient)?;
        let config = match self.config.as_ref().or(wanted.config.as_ref()) {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        let (layout, bucket) = self.tree(config.dir.as_deref())?;
        // The process may change its directory.
        let layout = Layout::existing(&layout.dir().canonicalize()?)?;
        wanted.mount.source = source(&layout, bucket.as_deref());
        let at = mountpoint(&self.mountpoint, &layout)?;
        let Wanted { mount, devices, .. } = wanted;
        Ok(Plan {
            layout,
            config,
            wish: Wish {
                at,
                bucket,
                may_make_devices: devices,
            },
            options: mount,
            json: self.json,
            is_detached: self.detached,
        })
    }

    /// The tree, and the bucket where it is one that is asked for.
    fn tree(&self, configured: Option<&Path>) -> Result<(Layout, Option<String>), CommandError> {
        let dir = self.dir.as_deref().or(configured);
        let is_path = self.volume.starts_with(['/', '.']);
        match dir.filter(|_| !is_path) {
            Some(dir) => {
                let layout = Layout::existing(dir)?;
                layout.mountable()?;
                Ok((layout, bucket_of_volume(&self.volume)?))
            }
            None => tree_of_path(Path::new(&self.volume)),
        }
    }
}

/// The bucket of `main/BUCKET`; none of `main`.
fn bucket_of_volume(word: &str) -> Result<Option<String>, CommandError> {
    let (name, bucket) = match word.split_once('/') {
        Some((name, bucket)) => (name, Some(bucket.trim_end_matches('/'))),
        None => (word, None),
    };
    if name != super::layout::VOLUME {
        return Err(CommandError::new(format!(
            "there is no volume `{name}`; say main, main/BUCKET, or the path of a tree"
        )));
    }
    Ok(bucket
        .filter(|bucket| !bucket.is_empty())
        .map(str::to_owned))
}

/// The tree at a path, or the tree above it and the bucket that its last name is.
fn tree_of_path(path: &Path) -> Result<(Layout, Option<String>), CommandError> {
    let served = |dir: &Path| {
        let dir = if dir == Path::new("") {
            Path::new(".")
        } else {
            dir
        };
        let layout = Layout::existing(dir).ok()?;
        layout.mountable().ok().map(|()| layout)
    };
    if let Some(layout) = served(path) {
        return Ok((layout, None));
    }
    let above = path.parent().and_then(served);
    let bucket = path.file_name().and_then(|name| name.to_str());
    match (above, bucket) {
        (Some(layout), Some(bucket)) => Ok((layout, Some(bucket.to_owned()))),
        _ => Err(CommandError::new(format!(
            "{0} is no directory that portico serves, nor a bucket in one; say DIR or DIR/BUCKET, \
             where DIR is what `portico serve` is given",
            path.display()
        ))),
    }
}

/// What df(1) and mount(8) show as a mount's source, as /etc/fstab would have it.
fn source(layout: &Layout, bucket: Option<&str>) -> String {
    let dir = layout.dir();
    let path = bucket.map_or_else(|| dir.to_owned(), |bucket| dir.join(bucket));
    path.display().to_string()
}

/// How a mount is made that nobody gave options for.
pub(super) fn default_options(
    layout: &Layout,
    bucket: Option<&str>,
) -> Result<MountOptions, CommandError> {
    let layout = Layout::existing(&layout.dir().canonicalize()?)?;
    Ok(options::parse([], source(&layout, bucket), false)?.mount)
}

/// Where to mount, as an absolute path. Errors: it is within the tree, which would wait for itself,
/// or above it, which would hide the tree from its own server.
pub(super) fn mountpoint(at: &Path, layout: &Layout) -> Result<PathBuf, CommandError> {
    let shown = at.display();
    let absolute = mounting::absolute(at)
        .map_err(|error| CommandError::new(format!("cannot mount at {shown}: {error}")))?;
    let tree = layout.dir().canonicalize()?;
    if absolute.starts_with(&tree) {
        return Err(CommandError::new(format!(
            "cannot mount at {shown}: it is within the tree itself"
        )));
    }
    if tree.starts_with(&absolute) {
        return Err(CommandError::new(format!(
            "cannot mount at {shown}: the tree itself lies below"
        )));
    }
    Ok(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(volume: &str) -> MountArgs {
        MountArgs {
            volume: volume.to_owned(),
            ..MountArgs::default()
        }
    }

    #[test]
    fn a_tree_is_named_by_its_path_and_a_bucket_below_it() {
        let dir = tempfile::tempdir().unwrap();
        Layout::create(dir.path()).unwrap();
        let shown = dir.path().to_str().unwrap();
        let (layout, bucket) = args(shown).tree(None).unwrap();
        assert_eq!((layout.dir(), bucket), (dir.path(), None));
        let (layout, bucket) = args(&format!("{shown}/photos")).tree(None).unwrap();
        assert_eq!(
            (layout.dir(), bucket.as_deref()),
            (dir.path(), Some("photos"))
        );
        let error = args(&format!("{shown}/a/b")).tree(None).unwrap_err();
        assert!(
            error.text.contains("say DIR or DIR/BUCKET"),
            "{}",
            error.text
        );
    }

    #[test]
    fn with_a_tree_given_the_volume_is_named() {
        let dir = tempfile::tempdir().unwrap();
        Layout::create(dir.path()).unwrap();
        let bucket = |word: &str| args(word).tree(Some(dir.path())).map(|(_, bucket)| bucket);
        assert_eq!(bucket("main"), Ok(None));
        assert_eq!(bucket("main/photos"), Ok(Some("photos".to_owned())));
        assert_eq!(bucket("main/"), Ok(None));
        let error = bucket("photos").unwrap_err();
        assert!(error.text.contains("no volume `photos`"), "{}", error.text);
    }

    #[test]
    fn nothing_is_mounted_within_the_tree_or_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let error = mountpoint(&layout.volume(), &layout).unwrap_err();
        assert!(
            error.text.ends_with("within the tree itself"),
            "{}",
            error.text
        );
        let above = mountpoint(dir.path().parent().unwrap(), &layout).unwrap_err();
        assert!(above.text.ends_with("lies below"), "{}", above.text);
        let elsewhere = tempfile::tempdir().unwrap();
        mountpoint(elsewhere.path(), &layout).unwrap();
    }
}
