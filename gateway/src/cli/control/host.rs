//! The side that has the tree: it serves its guests' mounts and its own.

mod own;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{Error, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fsstore::files::{FilePath, Files};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat, major, minor};
use rustix::net::sockopt;

use super::desk::Desk;
use super::{
    Ask, Hello, HostKind, PATIENCE, Reply, VERSION, Welcome, Wish, Word, begin, check_peer, desk,
    hear_next, listen, other_version, receive_descriptor, say, send_descriptor,
};
use crate::cli::CommandError;
use crate::cli::control::places::end_mount;
use crate::cli::layout::Layout;
use crate::posix::mounting::{self, LooseMount, MountId, Watched};
use crate::posix::sessions::{DataPath, Session, Sessions, Terms};
use crate::posix::shared::{Share, SharedTree};

/// Most guests at once.
const MAX_GUESTS: usize = 256;
/// The device number of /dev/fuse. Source: Documentation/admin-guide/devices.txt.
const FUSE_DEVICE: (u32, u32) = (10, 229);
/// How long guests get to let go of their mounts when the host ends.
const PARTING: Duration = Duration::from_secs(5);
/// How often it is looked whether a bucket that is mounted was made again.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

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
    /// Who answers for a volume of several bricks.
    desk: Option<Arc<dyn Desk>>,
    volume: Arc<V>,
    sessions: Sessions<V>,
    shared: SharedTree<V>,
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
    /// The mount, where others share its file system.
    shared: Option<Watched>,
    /// Whether its process is gone and the mount stands on.
    is_left: bool,
    /// Whether its process is not root's, and cannot end a mount as root does.
    is_of_user: bool,
}

impl Guest {
    /// Whether the mount stands where it was wanted, as far as this process sees that place.
    fn stands(&self) -> bool {
        let stands = match &self.shared {
            Some(mount) => mount.is_uppermost(),
            None => mounting::is_ours(&self.at),
        };
        stands.unwrap_or(false)
    }
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
    /// Listens in the tree's state directory, for mounts and for commands about the volume, which
    /// `desk` answers where it is on several bricks. The caller has the tree's lock.
    pub(crate) fn open(
        layout: &Layout,
        volume: Arc<V>,
        kind: HostKind,
        desk: Option<Arc<dyn Desk>>,
    ) -> Result<Self, CommandError> {
        let listener = listen(&layout.state()).map_err(|error| {
            let shown = layout.state().display().to_string();
            CommandError::new(format!("cannot listen for mounts in {shown}: {error}"))
        })?;
        let source = layout.dir().canonicalize()?.display().to_string();
        let sessions = Sessions::new(Arc::clone(&volume));
        let host = Self {
            inner: Arc::new(Inner {
                kind,
                desk,
                shared: SharedTree::new(source, sessions.clone()),
                sessions,
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
        let deadline = begin(stream)?;
        let hello: Hello = hear_next(stream, deadline)?;
        if self.is_leaving() {
            // As if nobody had listened: the guest asks who comes next.
            return Ok(());
        }
        let wish = match hello.ask {
            Ask::Mount(wish) => wish,
            Ask::Volume(ask) => {
                return match &self.inner.desk {
                    Some(desk) => desk::attend(stream, hello.portico, ask, &**desk),
                    None => desk::refuse(stream, self.inner.kind),
                };
            }
        };
        let mut refused = self.refusal(hello.portico, &wish);
        let mut shared = None;
        if refused.is_none() && hello.attaches && !wish.may_make_devices {
            match self.share(&wish) {
                Ok(found) => shared = found,
                Err(error) => refused = Some(error.to_string()),
            }
        }
        let is_refused = refused.is_some();
        let welcome = Welcome {
            portico: VERSION,
            by: self.inner.kind,
            pid: std::process::id(),
            refused,
            shares: shared.is_some(),
        };
        say(stream, &welcome)?;
        match shared {
            _ if is_refused => Ok(()),
            Some((mount, share)) => {
                send_descriptor(stream, mount.as_fd())?;
                let watched = mount.watch(&wish.at)?;
                // Held, it would keep the guest's from being unmounted.
                drop(mount);
                let Reply::Attached {} = hear_next(stream, deadline)? else {
                    return Err(ErrorKind::InvalidData.into());
                };
                self.attend_shared(stream, &wish, watched, share)
            }
            None => {
                let device = receive_descriptor(stream, deadline)?;
                self.attend_own(stream, &wish, device)
            }
        }
    }

    /// Serves a guest's mount of the file system that all share, as long as the guest watches it.
    fn attend_shared(
        &self,
        stream: &UnixStream,
        wish: &Wish,
        watched: Watched,
        mut share: Share,
    ) -> Result<(), Error> {
        let number = self.welcome(stream, wish, Some(watched), share.data_path())?;
        let parted = self.renew_until_parted(stream, wish, &mut share, number);
        self.part(number);
        parted?;
        // A guest that is gone does not hear it.
        let _ = say(stream, &Word::Ended {});
        Ok(())
    }

    /// Waits until the guest is gone or the file system has ended. Meanwhile, where a bucket that
    /// is mounted is made again, the guest is sent a mount of the new one.
    fn renew_until_parted(
        &self,
        stream: &UnixStream,
        wish: &Wish,
        share: &mut Share,
        number: u64,
    ) -> Result<(), Error> {
        let interval = Timespec::try_from(LOOK_INTERVAL).map_err(|_| ErrorKind::InvalidInput)?;
        let longest = share.may_be_renewed().then_some(interval);
        loop {
            let mut watched = [
                PollFd::new(stream, PollFlags::IN),
                PollFd::from_borrowed_fd(share.ended(), PollFlags::IN),
            ];
            let count = rustix::io::retry_on_intr(|| poll(&mut watched, longest.as_ref()))?;
            if count > 0 {
                return Ok(());
            }
            if let Some(mount) = share.renewed() {
                let watched = mount.watch(&wish.at)?;
                if let Some(guest) = self.inner.guests().get_mut(&number) {
                    guest.shared = Some(watched);
                }
                say(stream, &Word::Again {})?;
                send_descriptor(stream, mount.as_fd())?;
            }
        }
    }

    /// Serves a guest's mount that is a file system of its own.
    fn attend_own(&self, stream: &UnixStream, wish: &Wish, device: OwnedFd) -> Result<(), Error> {
        let started = check_device(device).and_then(|device| self.start(wish, device));
        let session = match started {
            Ok(session) => session,
            Err(error) => return say(stream, &Word::Failed(error.to_string())),
        };
        let number = self.welcome(stream, wish, None, session.data_path())?;
        if let Err(error) = session.join() {
            tracing::warn!(%error, "a mount ended badly");
        }
        self.inner.guests().remove(&number);
        let _ = say(stream, &Word::Ended {});
        Ok(())
    }

    /// Notes a guest whose mount stands, and tells it so. Gives its number.
    fn welcome(
        &self,
        stream: &UnixStream,
        wish: &Wish,
        shared: Option<Watched>,
        data_path: DataPath,
    ) -> Result<u64, Error> {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let guest = Guest {
            stream: stream.try_clone()?,
            at: wish.at.clone(),
            shared,
            is_left: false,
            is_of_user: !sockopt::socket_peercred(stream)?.uid.is_root(),
        };
        self.inner.guests().insert(number, guest);
        let data = name(data_path);
        tracing::info!(bucket = wish.bucket, data, "a mount joined");
        let _ = say(stream, &Word::Mounted(data.to_owned()));
        Ok(number)
    }

    /// Lets a guest go that shared. A mount whose watcher was killed stands on, and is ended when
    /// this process leaves.
    fn part(&self, number: u64) {
        let mut guests = self.inner.guests();
        if let Some(guest) = guests.get_mut(&number) {
            guest.is_left = true;
        }
        guests.retain(|_, guest| !guest.is_left || guest.stands());
    }

    fn share(&self, wish: &Wish) -> Result<Option<(LooseMount, Share)>, Error> {
        let bucket = wish.bucket.as_ref().map(OsStr::new);
        self.inner.shared.share(bucket)
    }

    /// Why a guest is sent away; none where it is welcome.
    fn refusal(&self, version: u32, wish: &Wish) -> Option<String> {
        if version != VERSION {
            return Some(other_version(version));
        }
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
        let sessions = &self.inner.sessions;
        let mut session = sessions.start(terms, device)?;
        // A guest's may stand where this process does not see it.
        if mounting::is_ours(&wish.at).unwrap_or(false) {
            sessions.keep_locks(&mut session, mounting::file_system_at(&wish.at));
        }
        Ok(session)
    }

    fn is_leaving(&self) -> bool {
        self.inner.is_leaving.load(Ordering::Relaxed)
    }

    /// Whether there is a mount to serve: one that someone watches, or one that was left.
    pub(crate) fn is_in_use(&self) -> bool {
        self.inner.shared.release_unused();
        self.inner.sessions.count() > 0
    }

    /// Ends all mounts: its own are unmounted, guests let go of theirs. Waits a bounded time;
    /// then nothing is done for those that are left.
    pub(crate) fn leave(&self) {
        self.inner.is_leaving.store(true, Ordering::Relaxed);
        let own = self.inner.own().clone();
        for (at, id) in own {
            end_mount(&at, id);
        }
        let deadline = Instant::now() + PARTING;
        let mut standing = 0;
        for guest in self.inner.guests().values() {
            let has_gone = say(&guest.stream, &Word::Leaving {}).is_err();
            if has_gone && guest.stands() {
                // Nobody watches it: what its guest would do is done here.
                if let Err(error) = mounting::abort(&guest.at) {
                    tracing::debug!(%error, at = %guest.at.display(), "cannot end a mount");
                    standing += usize::from(guest.is_of_user);
                }
            }
        }
        self.inner.shared.release();
        standing += self.count_standing(deadline);
        let longest = deadline.saturating_duration_since(Instant::now());
        match self.inner.sessions.wait(standing, longest) {
            0 => {}
            left => tracing::warn!("{left} mounts are still in use; they end with the server"),
        }
        self.inner.sessions.close();
    }
}

impl<V> Host<V> {
    /// Waits for the word of guests that may not end their mounts, and gives how many there are:
    /// these are served until the process is gone.
    fn count_standing(&self, deadline: Instant) -> usize {
        let guests = self.inner.guests();
        let may_not = guests.values().filter(|guest| guest.is_of_user);
        let streams: Vec<_> = may_not
            .filter_map(|guest| guest.stream.try_clone().ok())
            .collect();
        drop(guests);
        let stands = |stream: &&UnixStream| {
            let word = hear_next(stream, Some(deadline));
            matches!(word, Ok(Reply::Stands {}))
        };
        streams.iter().filter(stands).count()
    }
}

/// Refuses a descriptor that is no /dev/fuse, or one where no kernel has begun to ask: reading it
/// could wait for ever.
fn check_device(device: OwnedFd) -> Result<OwnedFd, Error> {
    let stat = fstat(device.as_fd())?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_device || (major(stat.st_rdev), minor(stat.st_rdev)) != FUSE_DEVICE {
        return Err(Error::new(ErrorKind::InvalidInput, "that is no /dev/fuse"));
    }
    let longest = Timespec::try_from(PATIENCE).map_err(|_| ErrorKind::InvalidInput)?;
    let mut watched = [PollFd::new(&device, PollFlags::IN)];
    if rustix::io::retry_on_intr(|| poll(&mut watched, Some(&longest)))? == 0 {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(device)
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
