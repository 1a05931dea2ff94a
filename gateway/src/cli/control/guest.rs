//! The side that has a mountpoint and no tree.

use std::io::{Error, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{
    Ask, Hello, HostKind, Reply, VERSION, Welcome, Wish, Word, begin, check_peer, connect,
    hear_next, receive_descriptor, say, send_descriptor,
};
use crate::cli::CommandError;
use crate::cli::control::places::{dead_mount, is_still_there, mount, mount_failed};
use crate::posix::mounting::{
    self, Former, LooseMount, MountId, MountOptions, Standing, Waited, Watched,
};

/// A mount that a host serves.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Who serves it.
    pub(crate) by: HostKind,
    /// Its pid.
    pub(crate) pid: u32,
    /// How bytes travel.
    pub(crate) data: String,
    at: PathBuf,
    options: MountOptions,
    /// Which mount it was at first.
    id: MountId,
    stream: UnixStream,
    /// The mount, where its end is not the end of its file system.
    shared: Mutex<Option<Arc<Watched>>>,
}

/// How a host's last word ended a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parting {
    /// It was unmounted.
    Ended,
    /// The host is about to end; the mount is still served.
    Leaving,
    /// The host is gone.
    Lost,
}

/// Why a mount did not join.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Nobody listens: there is no host, or not yet. What stood dead at the mountpoint, or a dead
    /// mount in its place, stands there.
    Nobody,
    /// It cannot be. What stood dead at the mountpoint stands there.
    Refused(CommandError),
    /// It cannot be, and nothing stands at the mountpoint by now.
    Bare(CommandError),
    /// What had been left at the mountpoint was taken away by someone.
    TakenAway,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Self::Nobody,
            kind if is_end_of_host(kind) => Self::Nobody,
            _ => Self::Refused(CommandError::new(format!(
                "the server does not answer: {error}"
            ))),
        }
    }
}

/// What a mount is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// What is to be seen, and where.
    pub(crate) wish: &'a Wish,
    /// How it is made.
    pub(crate) options: &'a MountOptions,
    /// Whether a dead mount was left standing there. If it stands no more, someone took it away.
    pub(crate) was_left: bool,
}

/// Asks the host of a tree to serve a mount, and mounts. It takes the place of what stands
/// dead there, and not before the host has agreed.
pub(crate) fn join(state: &Path, request: Request<'_>) -> Result<Joined, Refusal> {
    let may_attach = rustix::process::geteuid().is_root();
    let attaches = may_attach && request.wish.can_share(request.options);
    match agree(state, request, attaches)? {
        Some(joined) => Ok(joined),
        // It may not attach: it mounts a file system of its own, perhaps by the helper.
        None => {
            let request = Request {
                was_left: false,
                ..request
            };
            agree(state, request, false)?.ok_or(Refusal::Nobody)
        }
    }
}

/// Agrees with the host; none where this process may not attach what it was sent.
fn agree(state: &Path, request: Request<'_>, attaches: bool) -> Result<Option<Joined>, Refusal> {
    let Request { wish, options, .. } = request;
    let at = &wish.at;
    let stream = connect(state)?;
    trust(&stream)?;
    let deadline = begin(&stream)?;
    let hello = Hello {
        portico: VERSION,
        ask: Ask::Mount(wish.clone()),
        attaches,
    };
    say(&stream, &hello)?;
    let welcome: Welcome = hear_next(&stream, deadline)?;
    if let Some(reason) = welcome.refused {
        return Err(Refusal::Refused(CommandError::new(reason)));
    }
    let failed = |error: Error| not_mounted(request, &error);
    let (shared, id) = if welcome.shares {
        let mount = LooseMount::received(receive_descriptor(&stream, deadline)?);
        match mount.attach(at, options, dead_for(request)?) {
            Ok(watched) => {
                let id = watched.id();
                (Some(watched), id)
            }
            Err(error) if mounting::may_not(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
    } else {
        let (device, id) = mount(at, options, dead_for(request)?).map_err(failed)?;
        send_descriptor(&stream, device.as_fd()).map_err(|error| let_go(at, error))?;
        (None, id)
    };
    if shared.is_some() {
        say(&stream, &Reply::Attached {}).map_err(|error| let_go(at, error))?;
    }
    match hear_next(&stream, deadline).map_err(|error| let_go(at, error))? {
        Word::Mounted(data) => Ok(Some(Joined {
            by: welcome.by,
            pid: welcome.pid,
            data,
            at: at.clone(),
            options: options.clone(),
            id,
            stream,
            shared: Mutex::new(shared.map(Arc::new)),
        })),
        word => {
            detach(at);
            let reason = match word {
                Word::Failed(reason) => reason,
                _ => "the server does not want it any more".to_owned(),
            };
            Err(Refusal::Bare(CommandError::new(reason)))
        }
    }
}

/// What stands dead at the mountpoint.
fn dead_for(request: Request<'_>) -> Result<Option<Former>, Refusal> {
    let dead = dead_mount(&request.wish.at).map_err(Refusal::Refused)?;
    if request.was_left && dead.is_none() {
        tracing::info!("the mount was taken away");
        return Err(Refusal::TakenAway);
    }
    Ok(dead)
}

/// Why there is no mount, and what stands at the mountpoint then.
fn not_mounted(request: Request<'_>, error: &Error) -> Refusal {
    let at = &request.wish.at;
    if request.was_left && error.kind() == ErrorKind::NotFound {
        tracing::info!("the mount was taken away just now");
        return Refusal::TakenAway;
    }
    let told = mount_failed(at, error);
    match mounting::standing(at) {
        Ok(Standing::Dead) => Refusal::Refused(told),
        _ => Refusal::Bare(told),
    }
}

/// Refuses a host that runs as another user, unless that is root: who serves a mount says whom
/// its files belong to and what programs in it may become.
fn trust(stream: &UnixStream) -> Result<(), Refusal> {
    check_peer(stream).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => Refusal::Refused(CommandError::new(
            "the tree is served by another user, who could give files any owner and set-id bits \
             here; mount as that user",
        )),
        _ => error.into(),
    })
}

/// Takes a mount away that was not agreed on. But a host that died leaves it dead: who writes there
/// is not led into the bare directory below, and the next attempt takes it away.
fn let_go(at: &Path, error: Error) -> Refusal {
    match Refusal::from(error) {
        Refusal::Refused(error) => {
            detach(at);
            Refusal::Bare(error)
        }
        refusal => refusal,
    }
}

/// A host that ends in the middle is as good as none.
fn is_end_of_host(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

fn detach(at: &Path) {
    if let Err(error) = mounting::detach(at) {
        tracing::debug!(%error, at = %at.display(), "the mount is left");
    }
}

impl Joined {
    /// Which mount it is.
    pub(crate) fn id(&self) -> MountId {
        self.shared().map_or(self.id, |mount| mount.id())
    }

    fn shared(&self) -> Option<Arc<Watched>> {
        let shared = self.shared.lock();
        shared.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the host's next word, or for the end of the mount.
    pub(crate) fn wait(&self) -> Parting {
        loop {
            let shared = self.shared();
            if let Some(mount) = &shared {
                match mount.wait(self.stream.as_fd(), None) {
                    Ok(Waited::Gone) => return Parting::Ended,
                    Ok(Waited::Else | Waited::Nothing) => {}
                    Err(error) => tracing::warn!(%error, "the mount is not watched"),
                }
            }
            let word = hear_next(&self.stream, None);
            match (word, shared) {
                // Others share the file system, and someone has ended it by force.
                (Ok(Word::Ended {}), Some(mount)) if is_still_there(&mount) => {
                    return Parting::Lost;
                }
                (Ok(Word::Ended {}), _) => return Parting::Ended,
                (Ok(Word::Leaving {}), _) => return Parting::Leaving,
                (Ok(Word::Again {}), Some(mount)) => {
                    if let Err(error) = self.renew(&mount) {
                        tracing::warn!(%error, "the mount shows a bucket that is gone");
                    }
                }
                (Ok(word), _) => {
                    tracing::debug!(?word, "an unexpected word of the server");
                    return Parting::Lost;
                }
                (Err(_), _) => return Parting::Lost,
            }
        }
    }

    /// Ends the mount without taking it out of the tree, as the host is about to end. Where this
    /// process may not, the host is told so: it need not wait.
    pub(crate) fn abort(&self) {
        let Err(error) = mounting::abort(&self.at) else {
            return;
        };
        tracing::debug!(%error, "the mount ends with the server");
        // A mount that others share has its end told otherwise.
        if self.shared().is_none() {
            let _ = say(&self.stream, &Reply::Stands {});
        }
    }

    /// Puts the mount that the host sends in the place of the one that stands.
    fn renew(&self, mount: &Watched) -> Result<(), Error> {
        let again = LooseMount::received(receive_descriptor(&self.stream, None)?);
        let again = again.replace(&self.at, &self.options, mount)?;
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        *shared = Some(Arc::new(again));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::Mode;
    use rustix::process::{Uid, geteuid};

    use super::*;
    use crate::cli::control::listen;

    #[test]
    fn a_host_of_another_user_is_not_trusted() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can be another user");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let state: PathBuf = dir.path().to_owned();
        trust_of(&state, None).unwrap();
        rustix::fs::chmod(&state, Mode::from_raw_mode(0o777)).unwrap();
        std::fs::remove_file(state.join("control.sock")).unwrap();
        let refused = trust_of(&state, Some(Uid::from_raw(65_534))).unwrap_err();
        let Refusal::Refused(error) = refused else {
            panic!("{refused:?}")
        };
        assert!(error.text.contains("by another user"), "{}", error.text);
    }

    /// What is thought of a host whose thread runs as a user.
    fn trust_of(state: &Path, user: Option<Uid>) -> Result<(), Refusal> {
        let at = state.to_owned();
        let listening = std::thread::spawn(move || {
            if user.is_some() {
                rustix::thread::set_thread_res_uid(None, user, None).unwrap();
            }
            listen(&at).unwrap()
        });
        let _listener = listening.join().unwrap();
        trust(&connect(state).unwrap())
    }
}
