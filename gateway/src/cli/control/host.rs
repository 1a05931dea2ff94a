//! The side that has the tree: it serves its guests' mounts and its own.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{Error, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fsstore::files::{FilePath, Files};
use rustix::fs::{FileType, fstat, major, minor};

use super::{
    Ask, Hello, HostKind, VERSION, Welcome, Wish, Word, be_patient, check_peer, hear_next, listen,
    receive_descriptor, say,
};
use crate::cli::CommandError;
use crate::posix::mounting::{self, MountId, MountOptions, Standing};
use crate::posix::sessions::{DataPath, Session, Sessions, Terms};

/// Most guests at once.
const MAX_GUESTS: usize = 256;
/// The device number of /dev/fuse. Source: Documentation/admin-guide/devices.txt.
const FUSE_DEVICE: (u32, u32) = (10, 229);
/// How long guests get to let go of their mounts when the host ends.
const PARTING: Duration = Duration::from_secs(5);

/// Serves mounts. Clones share it.
pub(crate) struct Host<V> {
    inner: Arc<Inner<V>>,
}

impl<V> Clone for Host<V> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

struct Inner<V> {
    kind: HostKind,
    volume: Arc<V>,
    sessions: Sessions<V>,
    is_leaving: AtomicBool,
    guest_count: AtomicUsize,
    next: AtomicU64,
    guests: Mutex<HashMap<u64, Guest>>,
    own: Mutex<Vec<(PathBuf, MountId)>>,
}

/// A mount of another process.
struct Guest {
    stream: UnixStream,
    at: PathBuf,
}

impl<V> Inner<V> {
    fn guests(&self) -> MutexGuard<'_, HashMap<u64, Guest>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self) -> MutexGuard<'_, Vec<(PathBuf, MountId)>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Files> Host<V> {
    /// Listens in the tree's state directory. The caller has the tree's lock.
    pub(crate) fn open(state: &Path, volume: Arc<V>, kind: HostKind) -> Result<Self, CommandError> {
        let listener = listen(state).map_err(|error| {
            let shown = state.display();
            CommandError::new(format!("cannot listen for mounts in {shown}: {error}"))
        })?;
        let host = Self {
            inner: Arc::new(Inner {
                kind,
                sessions: Sessions::new(Arc::clone(&volume)),
                volume,
                is_leaving: AtomicBool::new(false),
                guest_count: AtomicUsize::new(0),
                next: AtomicU64::new(0),
                guests: Mutex::default(),
                own: Mutex::default(),
            }),
        };
        let accepting = host.clone();
        spawn("mounts", move || accepting.accept(&listener))?;
        Ok(host)
    }

    /// Takes guests in until the process ends.
    fn accept(&self, listener: &UnixListener) {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a mount in");
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            if self.inner.guest_count.fetch_add(1, Ordering::Relaxed) >= MAX_GUESTS {
                self.inner.guest_count.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!("{MAX_GUESTS} mounts are served already");
                continue;
            }
            let host = self.clone();
            let attended = spawn("guest", move || {
                if let Err(error) = host.attend(&stream) {
                    tracing::warn!(%error, "a mount was not agreed on");
                }
                host.inner.guest_count.fetch_sub(1, Ordering::Relaxed);
            });
            if let Err(error) = attended {
                tracing::warn!(error = error.text, "cannot take a mount in");
                self.inner.guest_count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Serves a guest's mount to its end. The guest may be gone before: the mount stands.
    fn attend(&self, stream: &UnixStream) -> Result<(), Error> {
        check_peer(stream)?;
        be_patient(stream)?;
        let hello: Hello = hear_next(stream)?;
        if self.inner.is_leaving.load(Ordering::Relaxed) {
            // As if nobody had listened: the guest asks who comes next.
            return Ok(());
        }
        let refused = self.refusal(&hello);
        let is_refused = refused.is_some();
        let welcome = Welcome {
            portico: VERSION,
            by: self.inner.kind,
            pid: std::process::id(),
            refused,
        };
        say(stream, &welcome)?;
        if is_refused {
            return Ok(());
        }
        let Ask::Mount(wish) = hello.ask;
        let device = receive_descriptor(stream)?;
        let guest = Guest {
            stream: stream.try_clone()?,
            at: wish.at.clone(),
        };
        let started = check_device(device).and_then(|device| self.start(&wish, device));
        let session = match started {
            Ok(session) => session,
            Err(error) => return say(stream, &Word::Failed(error.to_string())),
        };
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        self.inner.guests().insert(number, guest);
        tracing::info!(
            bucket = wish.bucket,
            data = name(session.data_path()),
            "a mount joined"
        );
        let _ = say(stream, &Word::Mounted(name(session.data_path()).to_owned()));
        if let Err(error) = session.join() {
            tracing::warn!(%error, "a mount ended badly");
        }
        self.inner.guests().remove(&number);
        let _ = say(stream, &Word::Ended {});
        Ok(())
    }

    /// Why a guest is sent away; none where it is welcome.
    fn refusal(&self, hello: &Hello) -> Option<String> {
        if hello.portico != VERSION {
            return Some(format!(
                "the server speaks version {VERSION} of its protocol, not {}",
                hello.portico
            ));
        }
        let Ask::Mount(wish) = &hello.ask;
        self.base(wish).err().map(|error| error.text)
    }

    /// Where a mount begins in the volume. Errors: no such bucket.
    fn base(&self, wish: &Wish) -> Result<FilePath, CommandError> {
        let Some(bucket) = &wish.bucket else {
            return Ok(FilePath::root());
        };
        let path = FilePath::root().join(OsStr::new(bucket));
        path.and_then(|path| self.inner.volume.lookup(&path).map(|_| path))
            .map_err(|_| CommandError::new(format!("there is no bucket `{bucket}`")))
    }

    fn start(&self, wish: &Wish, device: OwnedFd) -> Result<Session, Error> {
        let base = self.base(wish).map_err(|error| Error::other(error.text))?;
        let terms = Terms {
            base,
            may_make_devices: wish.may_make_devices,
        };
        self.inner.sessions.start(terms, device)
    }

    /// Mounts in this process. `ended` is called once the mount is gone.
    pub(crate) fn mount(
        &self,
        options: &MountOptions,
        wish: &Wish,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<DataPath, CommandError> {
        self.base(wish)?;
        let at = &wish.at;
        let (device, id) = mount_anew(at, options)?;
        let started = self.start(wish, device).map_err(CommandError::from);
        let session = started.inspect_err(|_| {
            let _ = mounting::detach(at);
        })?;
        let data_path = session.data_path();
        self.inner.own().push((at.clone(), id.clone()));
        let inner = Arc::clone(&self.inner);
        spawn("mounted", move || {
            if let Err(error) = session.join() {
                tracing::warn!(%error, "a mount ended badly");
            }
            inner.own().retain(|(_, other)| *other != id);
            ended();
        })?;
        Ok(data_path)
    }

    /// How many mounts are served.
    pub(crate) fn count(&self) -> usize {
        self.inner.sessions.count()
    }

    /// Ends all mounts: its own are unmounted, guests let go of theirs. Waits a bounded time;
    /// then nothing is done for those that are left.
    pub(crate) fn leave(&self) {
        self.inner.is_leaving.store(true, Ordering::Relaxed);
        let own = self.inner.own().clone();
        for (at, id) in own {
            end_mount(&at, &id);
        }
        for guest in self.inner.guests().values() {
            let has_gone = say(&guest.stream, &Word::Leaving {}).is_err();
            if has_gone && mounting::is_ours(&guest.at).unwrap_or(false) {
                // Nobody watches it: what its guest would do is done here.
                if let Err(error) = mounting::abort(&guest.at) {
                    tracing::debug!(%error, at = %guest.at.display(), "cannot end a mount");
                }
            }
        }
        match self.inner.sessions.wait(PARTING) {
            0 => {}
            left => tracing::warn!("{left} mounts are still in use; they end with the server"),
        }
        self.inner.sessions.close();
    }
}

/// Mounts where nothing or a dead mount stands. Errors: a mount of portico stands there.
pub(crate) fn mount_anew(
    at: &Path,
    options: &MountOptions,
) -> Result<(OwnedFd, MountId), CommandError> {
    let failed = |error: Error| {
        let shown = at.display();
        CommandError::new(format!("cannot mount at {shown}: {error}"))
    };
    match mounting::standing(at).map_err(failed)? {
        Standing::Free => {}
        Standing::Dead => mounting::detach(at).map_err(failed)?,
        Standing::Alive => {
            let shown = at.display();
            return Err(CommandError::new(format!("{shown} is mounted already")));
        }
    }
    let device = mounting::mount(at, options).map_err(failed)?;
    let id = mounting::ours(at).and_then(|id| id.ok_or_else(|| ErrorKind::NotFound.into()));
    Ok((device, id.map_err(failed)?))
}

/// Unmounts; where it is in use, takes it out of the tree. What others have mounted upon it, or
/// in its place, is left alone, and the mount with it.
pub(crate) fn end_mount(at: &Path, id: &MountId) {
    if !matches!(mounting::ours(at), Ok(Some(found)) if found == *id) {
        tracing::warn!(at = %at.display(), "another mount stands there; it is left");
        return;
    }
    let ended = mounting::unmount(at).or_else(|error| {
        tracing::debug!(%error, at = %at.display(), "cannot unmount");
        mounting::detach(at)
    });
    if let Err(error) = ended {
        tracing::warn!(%error, at = %at.display(), "the mount is left");
    }
}

/// Refuses a descriptor that is no /dev/fuse: reading it could wait for ever.
fn check_device(device: OwnedFd) -> Result<OwnedFd, Error> {
    let stat = fstat(device.as_fd())?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if is_device && (major(stat.st_rdev), minor(stat.st_rdev)) == FUSE_DEVICE {
        return Ok(device);
    }
    Err(Error::new(ErrorKind::InvalidInput, "that is no /dev/fuse"))
}

/// What people and guests are told of how bytes travel.
pub(crate) fn name(data_path: DataPath) -> &'static str {
    match data_path {
        DataPath::Passthrough => "passthrough",
        DataPath::ThroughServer => "through the server",
    }
}

fn spawn(name: &str, act: impl FnOnce() + Send + 'static) -> Result<(), CommandError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(act)?;
    Ok(())
}
