//! The side that has a mountpoint and no tree.

use std::io::{Error, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{
    Ask, Hello, HostKind, VERSION, Welcome, Wish, Word, connect, hear_next, say, send_descriptor,
};
use crate::cli::CommandError;
use crate::cli::control::host::mount_anew;
use crate::posix::mounting::{self, MountOptions};

/// A mount that a host serves.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Who serves it.
    pub(crate) by: HostKind,
    /// Its pid.
    pub(crate) pid: u32,
    /// How bytes travel.
    pub(crate) data: String,
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
    /// Nobody listens: there is no host, or not yet.
    Nobody,
    /// It cannot be.
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
    let hello = Hello {
        portico: VERSION,
        ask: Ask::Mount(wish.clone()),
    };
    say(&stream, &hello)?;
    let welcome: Welcome = hear_next(&stream)?;
    if let Some(reason) = welcome.refused {
        return Err(Refusal::Refused(CommandError::new(reason)));
    }
    let device = mount_anew(&wish.at, options).map_err(Refusal::Refused)?;
    let agreed = send_descriptor(&stream, device.as_fd())
        .and_then(|()| hear_next(&stream))
        .inspect_err(|_| {
            let _ = mounting::detach(&wish.at);
        })?;
    match agreed {
        Word::Mounted(data) => Ok(Joined {
            by: welcome.by,
            pid: welcome.pid,
            data,
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
