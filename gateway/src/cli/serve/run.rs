//! A server's life: prepare, announce, serve, drain, close.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fsstore::brick::osdisk::{may_give_files_away, require_impersonation};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::bricks;
use super::greeting::{Greeting, Keys};
use super::options::{ServeArgs, unknown_variables};
use crate::cli::CommandError;
use crate::cli::layout::{Layout, TreeLock};
use crate::config::{Config, Enforce};
use crate::logs;
use crate::metrics::Meter;
use crate::server::{self, Drained, Handler, Phase};
use crate::tls::{self, Certificates};
use crate::users::{Directory, FirstStart, ROOT_NAME, UserStore};

/// How often the users' file is looked at.
const USERS_POLL: Duration = Duration::from_secs(1);
/// How long disk work may go on after a server that was told to end now.
const HALT_GRACE: Duration = Duration::from_secs(1);

/// Runs `portico serve`.
pub(crate) fn run(args: ServeArgs) -> Result<(), CommandError> {
    let config_path = args.config.clone();
    let config = args.resolve()?;
    logs::install(&config.log)?;
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for (name, near) in unknown_variables(names) {
        tracing::warn!("{name} is no option; the nearest is {near}");
    }
    raise_descriptor_limit();
    let prepared = Prepared::new(config, config_path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(prepared.config.limits.disk_threads)
        .build()?;
    let outcome = runtime.block_on(super::serve_tree(prepared));
    runtime.shutdown_timeout(HALT_GRACE);
    outcome
}

/// As many descriptors as the system lets this process have: each connection and each object
/// being read or written takes one.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Says so, once, where users have an id on disk that this process cannot give to their files.
fn say_where_files_stay_our_own(directory: &Directory) {
    if may_give_files_away() {
        return;
    }
    let own = rustix::process::geteuid().as_raw();
    let users = directory.entries().map(|entry| &entry.user);
    let others: Vec<_> = users
        .filter(|user| user.uid.is_some_and(|uid| uid != own))
        .map(|user| user.name.as_str())
        .collect();
    if !others.is_empty() {
        tracing::warn!(
            users = others.join(", "),
            "files of these users will belong to the server's own user: only root can give them away"
        );
    }
}

/// Refuses buckets whose checks this process cannot make.
fn check_enforced(config: &Config) -> Result<(), CommandError> {
    let mut enforced = config.bucket.iter();
    let Some((name, _)) = enforced.find(|(_, own)| own.enforce == Enforce::Posix) else {
        return Ok(());
    };
    require_impersonation().map_err(|error| {
        CommandError::new(format!(
            "[bucket.{name}] enforce = \"posix\" needs a server that runs as root, on Linux 5.8 or \
             later: it cannot ask the kernel for the rights of others ({error})"
        ))
    })
}

/// All that a server needs besides its volume.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) config: Config,
    config_path: Option<PathBuf>,
    pub(super) layout: Layout,
    /// Whether the volume is on several bricks.
    pub(super) has_bricks: bool,
    pub(super) users: Arc<UserStore>,
    /// Counts requests, where someone may look.
    pub(super) meter: Option<Arc<Meter>>,
    is_first_start: bool,
    certificates: Option<Arc<Certificates>>,
    _lock: TreeLock,
}

impl Prepared {
    /// Makes the tree and takes it; reads users and certificates.
    pub(super) fn new(config: Config, config_path: Option<PathBuf>) -> Result<Self, CommandError> {
        let dir = match &config.dir {
            Some(dir) => dir.clone(),
            None if !config.brick.is_empty() => Layout::default_own()?,
            None => {
                return Err(CommandError::new(
                    "which directory? give DIR, PORTICO_DIR or the key `dir`",
                ));
            }
        };
        check_enforced(&config)?;
        let has_bricks = bricks::has_bricks(&config, &dir)?;
        let layout = match has_bricks {
            true => Layout::create_own(&dir)?,
            false => Layout::create(&dir)?,
        };
        let lock = match config.shared {
            true => layout.lock_shared()?,
            false => layout.lock()?,
        };
        if !has_bricks {
            layout.refuse_bricks()?;
        }
        let declared = config.user.clone();
        let (users, FirstStart(is_first_start)) =
            UserStore::open(layout.dir(), declared, config.root.keys())?;
        say_where_files_stay_our_own(&users.directory());
        let certificates = match (&config.tls.cert, &config.tls.key) {
            (Some(cert), Some(key)) => Some(Certificates::load(cert, key)?),
            _ => None,
        };
        Ok(Self {
            meter: config.metrics.listen.map(|_| Arc::default()),
            config,
            config_path,
            layout,
            has_bricks,
            users: Arc::new(users),
            is_first_start,
            certificates,
            _lock: lock,
        })
    }

    /// Binds the address. Errors: in use, not ours, not permitted; each names the address.
    pub(super) async fn listen(&self) -> Result<TcpListener, CommandError> {
        let at = self.config.listen;
        TcpListener::bind(at).await.map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => "another program listens there",
                std::io::ErrorKind::AddrNotAvailable => "no interface of this machine has it",
                std::io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege",
                _ => return CommandError::new(format!("cannot listen on {at}: {error}")),
            };
            CommandError::new(format!("cannot listen on {at}: {hint}"))
        })
    }

    /// What is said at the start, for a server that listens on `listen`.
    pub(super) fn greeting(&self, listen: SocketAddr) -> String {
        let directory = self.users.directory();
        let root = directory.entries().find(|e| e.user.name == ROOT_NAME);
        let key = root.and_then(|entry| entry.keys.first());
        let is_given = self.config.root.access_key.is_some();
        let keys = match key {
            _ if is_given => Keys::Given,
            Some(key) if self.is_first_start => Keys::New {
                access_key: &key.id,
                secret_key: &key.secret,
                kept_in: self.users.path(),
            },
            _ => Keys::KeptIn(self.users.path()),
        };
        Greeting {
            dir: self.layout.dir(),
            listen,
            is_tls: self.certificates.is_some(),
            domain: self.config.domains.first().map(String::as_str),
            region: &self.config.region,
            keys,
        }
        .text()
    }

    /// Serves `handler` until a signal ends it: SIGTERM or SIGINT drains, a second one ends at
    /// once, SIGHUP reloads.
    pub(super) async fn serve<H: Handler>(
        &self,
        listener: TcpListener,
        handler: H,
        signals: Signals,
    ) -> Result<Drained, CommandError> {
        let (phase, receiver) = watch::channel(Phase::Serve);
        let tls = match &self.certificates {
            Some(certificates) => Some(tls::server_config(Arc::clone(certificates))?),
            None => None,
        };
        let serving = server::serve(listener, tls, handler, &self.config.limits, receiver);
        tokio::select! {
            drained = serving => Ok(drained),
            () = signals.obey(phase, || self.reload()) => unreachable!("signals never end"),
            () = self.watch_users() => unreachable!("watching never ends"),
        }
    }

    /// Reads users and certificates again. What cannot be read stays as it was.
    fn reload(&self) {
        if let Some(certificates) = &self.certificates {
            match certificates.reload() {
                Ok(()) => tracing::info!("certificates are read again"),
                Err(error) => tracing::error!(%error, "the certificates in use stay"),
            }
        }
        let declared = match &self.config_path {
            None => Ok(self.config.user.clone()),
            Some(path) => Config::read(path).map(|config| config.user),
        };
        let outcome = match declared {
            Ok(declared) => self
                .users
                .set_declared(declared)
                .map_err(CommandError::from),
            Err(error) => Err(error.into()),
        };
        match outcome {
            Ok(()) => tracing::info!("users are read again"),
            Err(error) => tracing::error!(error = error.text, "the users as they were stay"),
        }
    }

    /// Follows what `portico user` and `portico key` do to the users' file.
    async fn watch_users(&self) {
        loop {
            tokio::time::sleep(USERS_POLL).await;
            let users = Arc::clone(&self.users);
            let looked = tokio::task::spawn_blocking(move || users.reload_if_changed()).await;
            match looked {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => tracing::info!("the users changed"),
                Ok(Err(error)) => tracing::error!(%error, "the users as they were stay"),
                Err(error) => tracing::error!(%error, "looking at the users' file failed"),
            }
        }
    }
}

/// The signals that a server obeys.
pub(super) struct Signals {
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on they are obeyed and end nothing by themselves. Within a tokio runtime.
    pub(super) fn new() -> Result<Self, CommandError> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Obeys for ever.
    async fn obey(mut self, phase: watch::Sender<Phase>, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => tokio::task::block_in_place(&reload),
                _ = self.interrupt.recv() => step(&phase),
                _ = self.terminate.recv() => step(&phase),
            }
        }
    }
}

/// From serving to draining, from draining to the end.
fn step(phase: &watch::Sender<Phase>) {
    phase.send_modify(|phase| {
        *phase = match phase {
            Phase::Serve => Phase::Drain,
            Phase::Drain | Phase::Halt => Phase::Halt,
        };
        tracing::info!(phase = ?phase, "told to stop");
    });
}

/// Says how a server ended; one that cut connections failed.
pub(super) fn report(drained: Drained) -> Result<(), CommandError> {
    match drained {
        Drained::All => {
            tracing::info!("stopped; every request was answered");
            Ok(())
        }
        Drained::Cut { connections } => Err(CommandError::new(format!(
            "stopped with {connections} connections cut"
        ))),
    }
}
