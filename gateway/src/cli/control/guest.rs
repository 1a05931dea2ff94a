//! The side that has a mountpoint and no tree.

use std::io::{Error, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{
    Ask, Hello, HostKind, VERSION, Welcome, Wish, Word, check_peer, connect, hear_next, say,
    send_descriptor,
};
use crate::cli::CommandError;
use crate::cli::control::host::mount_anew;
use crate::posix::mounting::{self, MountId, MountOptions};

/// A mount that a host serves.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Who serves it.
    pub(crate) by: HostKind,
    /// Its pid.
    pub(crate) pid: u32,
    /// How bytes travel.
    pub(crate) data: String,
    /// Which one it is.
    pub(crate) id: MountId,
    stream: UnixStream,
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
    /// It cannot be. What stood dead at the mountpoint may be taken away.
    Refused(CommandError),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Self::Nobody,
            // A host that ends in the middle is as good as none.
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                Self::Nobody
            }
            _ => Self::Refused(CommandError::new(format!(
                "the server does not answer: {error}"
            ))),
        }
    }
}

/// Asks the host of a tree to serve a mount, and mounts. What stands dead there is taken away
/// first, and not before the host has agreed.
pub(crate) fn join(state: &Path, options: &MountOptions, wish: &Wish) -> Result<Joined, Refusal> {
    let stream = connect(state)?;
    trust(&stream)?;
    let hello = Hello {
        portico: VERSION,
        ask: Ask::Mount(wish.clone()),
    };
    say(&stream, &hello)?;
    let welcome: Welcome = hear_next(&stream)?;
    if let Some(reason) = welcome.refused {
        return Err(Refusal::Refused(CommandError::new(reason)));
    }
    let (device, id) = mount_anew(&wish.at, options).map_err(Refusal::Refused)?;
    let agreed = send_descriptor(&stream, device.as_fd())
        .and_then(|()| hear_next(&stream))
        .map_err(Refusal::from)
        .inspect_err(|refusal| {
            // A host that died leaves the mount dead: who writes there is not led into the bare
            // directory below, and the next attempt takes it away.
            if matches!(refusal, Refusal::Refused(_)) {
                let _ = mounting::detach(&wish.at);
            }
        })?;
    match agreed {
        Word::Mounted(data) => Ok(Joined {
            by: welcome.by,
            pid: welcome.pid,
            data,
            id,
            stream,
        }),
        word => {
            let _ = mounting::detach(&wish.at);
            let reason = match word {
                Word::Failed(reason) => reason,
                _ => "the server does not want it any more".to_owned(),
            };
            Err(Refusal::Refused(CommandError::new(reason)))
        }
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

impl Joined {
    /// Waits for the host's next word.
    pub(crate) fn wait(&self) -> Parting {
        if let Err(error) = self.stream.set_read_timeout(None) {
            tracing::debug!(%error, "cannot wait without a limit");
        }
        match hear_next(&self.stream) {
            Ok(Word::Ended {}) => Parting::Ended,
            Ok(Word::Leaving {}) => Parting::Leaving,
            Ok(word) => {
                tracing::debug!(?word, "an unexpected word of the server");
                Parting::Lost
            }
            Err(_) => Parting::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

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
