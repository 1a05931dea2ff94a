//! How a `portico mount` joins the process that has a tree: over the socket
//! `DIR/.portico/control.sock`, which that process alone listens on.
//!
//! ```text
//! guest: {"portico":1,"ask":{"mount":{"at":"/mnt","bucket":"photos","may_make_devices":false}},
//!         "attaches":true}
//! host:  {"portico":1,"by":"serve","pid":17,"refused":null,"shares":true}
//! host:  one byte, and with it a mount that stands nowhere (SCM_RIGHTS)
//! guest: {"attached":{}}      the mount stands
//! host:  {"mounted":"passthrough"}                           or {"failed":"…"}
//! host:  {"again":{}}         and one byte with a mount that is to take the place of the one there
//! host:  {"leaving":{}}       before it ends: the guest lets go of the mount
//! guest: {"stands":{}}        it may not: a user's mount of its own stands until the host has ended
//! host:  {"ended":{}}         once the mount's file system is served no more
//! guest: closes the socket once the mount is gone
//! ```
//!
//! Where the host has no file system to share (`"shares":false`), or the guest may attach none or
//! wants what the others have not, the mount is a file system of its own: instead of the second
//! and third line the guest mounts and sends one byte, and with it the descriptor of /dev/fuse.
//!
//! Commands about a volume of several bricks come the same way:
//!
//! ```text
//! command: {"portico":1,"ask":{"volume":"status"}}
//! host:    {"portico":1,"by":"serve","pid":17,"refused":null}
//! host:    JSON to the end of the stream: {"done":…} or {"failed":"…"}
//! ```
//!
//! A message is a line of JSON, of bounded length. Only the host's own user and root are heard;
//! a guest trusts a host of its own user, or root's.

pub(super) mod desk;
pub(super) mod guest;
pub(super) mod host;
pub(super) mod places;

use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::desk::VolumeAsk;
use crate::posix::mounting::MountOptions;

/// The version of the protocol; another one is refused.
const VERSION: u32 = 1;
/// The socket's name in the state's directory.
const SOCKET: &str = "control.sock";
/// Longest message, in bytes.
const MAX_LINE_LEN_BYTES: usize = 4_096;
/// Longest time in which a mount is agreed on, from a guest's first byte to the host's last word.
const PATIENCE: Duration = Duration::from_secs(20);

/// When a talk must be over; none where the next word may take any time.
type Deadline = Option<Instant>;

/// What a guest begins with.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Hello {
    portico: u32,
    ask: Ask,
    /// Whether it can attach a mount that the host made.
    #[serde(default)]
    attaches: bool,
}

/// What a guest wants.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    Mount(Wish),
    Volume(VolumeAsk),
}

/// What is to be seen through a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wish {
    /// Where it is mounted, as the guest sees it.
    pub(super) at: PathBuf,
    /// A bucket; none for all of them.
    pub(super) bucket: Option<String>,
    /// Whether devices can be made through it.
    pub(super) may_make_devices: bool,
}

impl Wish {
    /// Whether a mount of the file system that all share would do: nobody makes devices through
    /// that one, and everybody may come in.
    fn can_share(&self, options: &MountOptions) -> bool {
        options.allow_other && !self.may_make_devices
    }
}

/// Who has a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HostKind {
    /// `portico serve`: if it goes, it is expected back.
    Serve,
    /// A `portico mount` that found no server: if it goes, another may take its place.
    Mount,
}

/// A host's first answer.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Welcome {
    portico: u32,
    by: HostKind,
    pid: u32,
    refused: Option<String>,
    /// Whether it sends a mount of the file system that all share.
    #[serde(default)]
    shares: bool,
}

/// What a guest says of its mount.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Attached {},
    Stands {},
}

/// What a host says of a mount.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Mounted(String),
    Failed(String),
    Again {},
    Leaving {},
    Ended {},
}

/// The socket's path by a descriptor of its directory: it is short however long the path of the
/// tree is. Source: unix(7), 108 bytes.
fn with_address<T>(state: &Path, act: impl FnOnce(&Path) -> Result<T, Error>) -> Result<T, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(state, flags, Mode::empty())?;
    let address = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
    act(Path::new(&address))
}

/// Listens for guests, in place of whoever did before. The caller has the tree's lock, so that
/// nobody listens there now.
fn listen(state: &Path) -> Result<UnixListener, Error> {
    with_address(state, |address| {
        match std::fs::remove_file(address) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(address)?;
        rustix::fs::chmod(address, Mode::RUSR | Mode::WUSR)?;
        Ok(listener)
    })
}

/// What a peer of another version is told.
fn other_version(version: u32) -> String {
    format!("the server speaks version {VERSION} of its protocol, not {version}")
}

fn connect(state: &Path) -> Result<UnixStream, Error> {
    let stream = with_address(state, |address| UnixStream::connect(address))?;
    Ok(stream)
}

/// Begins a talk, of bounded length whatever the other side does.
fn begin(stream: &UnixStream) -> Result<Deadline, Error> {
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(Some(Instant::now() + PATIENCE))
}

/// Lets the next read wait until the deadline. Errors: TimedOut where it has passed.
fn wait_until(stream: &UnixStream, deadline: Deadline) -> Result<(), Error> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    if left.is_some_and(|left| left.is_zero()) {
        return Err(ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(left)
}

/// Refuses a peer that is neither this process's user nor root.
fn check_peer(stream: &UnixStream) -> Result<(), Error> {
    let peer = sockopt::socket_peercred(stream)?.uid;
    if peer.is_root() || peer == rustix::process::geteuid() {
        return Ok(());
    }
    Err(ErrorKind::PermissionDenied.into())
}

fn say<T: Serialize>(mut stream: &UnixStream, message: &T) -> Result<(), Error> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Reads one message; none where the stream ends before it begins. Byte by byte, so that nothing
/// that follows is taken: a descriptor comes with its own byte.
fn hear<T: DeserializeOwned>(
    mut stream: &UnixStream,
    deadline: Deadline,
) -> Result<Option<T>, Error> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        wait_until(stream, deadline)?;
        match stream.read(&mut byte) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(0) if line.is_empty() => return Ok(None),
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte == *b"\n" => break,
            Ok(_) if line.len() == MAX_LINE_LEN_BYTES => {
                return Err(Error::new(ErrorKind::InvalidData, "a message is too long"));
            }
            Ok(_) => line.push(byte[0]),
        }
    }
    let message = serde_json::from_slice(&line);
    message
        .map(Some)
        .map_err(|error| Error::new(ErrorKind::InvalidData, error))
}

/// As [`hear`], where a message must come.
fn hear_next<T: DeserializeOwned>(stream: &UnixStream, deadline: Deadline) -> Result<T, Error> {
    hear(stream, deadline)?.ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

fn send_descriptor(stream: &UnixStream, descriptor: BorrowedFd<'_>) -> Result<(), Error> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let parts = [IoSlice::new(b"\n")];
    sendmsg(stream.as_fd(), &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The descriptor that comes with the next byte. Errors: InvalidData where none does.
fn receive_descriptor(stream: &UnixStream, deadline: Deadline) -> Result<OwnedFd, Error> {
    wait_until(stream, deadline)?;
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    if recvmsg(stream.as_fd(), &mut parts, &mut ancillary, flags)?.bytes == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let found = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    found.ok_or_else(|| Error::new(ErrorKind::InvalidData, "no descriptor came"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_arrive_in_order() {
        let (one, other) = UnixStream::pair().unwrap();
        let hello = Hello {
            portico: VERSION,
            ask: Ask::Mount(Wish {
                at: "/mnt".into(),
                bucket: Some("b".to_owned()),
                may_make_devices: false,
            }),
            attaches: true,
        };
        say(&one, &hello).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        send_descriptor(&one, reader.as_fd()).unwrap();
        say(&one, &Word::Leaving {}).unwrap();
        drop((one, reader));
        assert_eq!(hear::<Hello>(&other, None).unwrap(), Some(hello));
        let mut received = std::fs::File::from(receive_descriptor(&other, None).unwrap());
        assert_eq!(hear::<Word>(&other, None).unwrap(), Some(Word::Leaving {}));
        assert_eq!(hear::<Word>(&other, None).unwrap(), None);
        writer.write_all(b"x").unwrap();
        drop(writer);
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let (one, other) = UnixStream::pair().unwrap();
        (&one).write_all(&[b'x'; MAX_LINE_LEN_BYTES + 1]).unwrap();
        let error = hear::<Word>(&other, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        (&one).write_all(b"\n").unwrap();
        let error = hear_next::<Word>(&other, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    }

    #[test]
    fn a_talk_ends_though_the_other_side_goes_on_byte_by_byte() {
        let (mut one, other) = UnixStream::pair().unwrap();
        let dripping = std::thread::spawn(move || {
            while one.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let deadline = Some(Instant::now() + Duration::from_millis(50));
        let error = hear::<Word>(&other, deadline).unwrap_err();
        let kinds = [ErrorKind::TimedOut, ErrorKind::WouldBlock];
        assert!(kinds.contains(&error.kind()), "{error}");
        drop(other);
        dripping.join().unwrap();
    }

    #[test]
    fn a_byte_without_a_descriptor_is_refused() {
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(b"\n").unwrap();
        let error = receive_descriptor(&other, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_a_long_path_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("d".repeat(120));
        std::fs::create_dir(&state).unwrap();
        let error = connect(&state).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        drop(listen(&state).unwrap());
        let error = connect(&state).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let listener = listen(&state).unwrap();
        let stream = connect(&state).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        check_peer(&accepted).unwrap();
        drop(stream);
    }
}
