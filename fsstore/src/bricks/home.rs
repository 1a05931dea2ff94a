//! A brick's directory as it is found, and as this process has it.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::identity::{IdentityError, Label, Place, place_of};
use super::seat::{Kept, Names, OF_BRICK, OF_SERVER, Seat, Seen};
use crate::brick::osdisk::OsDisk;
use crate::durable;

/// The directory of portico's own in a brick, and in a tree that a server has.
pub const STATE: &str = ".portico";
/// The directory of objects in a brick.
pub const OBJECTS: &str = "main";
/// What file systems put into an empty one.
const LOST_AND_FOUND: &str = "lost+found";
/// How often, and after how long each time, a held lock is tried again (1 s in all).
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A directory that a brick may be in. Blocking.
pub struct Home {
    /// Where, without links.
    pub dir: PathBuf,
    /// Its `.portico`, as long as it is not copied.
    pub place: Place,
    seat: Seat<OsDisk>,
    /// Held, so that no other process takes it.
    _lock: OwnedFd,
}

/// What is found in a directory.
pub enum Found {
    /// It is not there, or its disk fails.
    Gone(io::Error),
    /// An empty directory.
    Empty,
    /// Something, but no brick. True where it is a tree that `portico serve DIR` has served.
    Plain {
        /// See above.
        is_store: bool,
    },
    /// A brick, made or half made.
    Brick(Box<Home>, Seen),
}

impl Home {
    /// Looks at a directory and takes it, where there is anything of a brick. Errors: InUse.
    pub fn find(dir: &Path) -> Result<Found, IdentityError> {
        match Self::try_find(dir) {
            Ok(found) => Ok(found),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(IdentityError::InUse {
                dir: dir.to_owned(),
            }),
            Err(error) => Ok(Found::Gone(error)),
        }
    }

    fn try_find(dir: &Path) -> io::Result<Found> {
        let dir = dir.canonicalize()?;
        let mut is_empty = true;
        for entry in std::fs::read_dir(&dir)? {
            is_empty &= entry?.file_name() == LOST_AND_FOUND;
        }
        if is_empty {
            return Ok(Found::Empty);
        }
        let state = dir.join(STATE);
        let has_any = |names: &[&str]| names.iter().any(|name| state.join(name).exists());
        if !has_any(&["brick.json", "brick.json.making"]) {
            let is_store = has_any(&["lock"]) && dir.join(OBJECTS).is_dir();
            return Ok(Found::Plain { is_store });
        }
        let home = Self::open(dir, OF_BRICK)?;
        let seen = home.seat.look()?;
        Ok(Found::Brick(Box::new(home), seen))
    }

    /// Takes a directory that is to become a brick: makes its own directory in it.
    pub(super) fn make(dir: &Path) -> io::Result<Self> {
        let dir = dir.canonicalize()?;
        make_own(&dir.join(STATE))?;
        Self::open(dir, OF_BRICK)
    }

    fn open(dir: PathBuf, names: Names) -> io::Result<Self> {
        let state = dir.join(STATE);
        let lock = rustix::fs::open(
            &state,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        take(&lock)?;
        Ok(Self {
            place: place_of(&state)?,
            seat: seat_in(&state, names)?,
            dir,
            _lock: lock,
        })
    }

    /// Where its objects are.
    pub fn objects(&self) -> PathBuf {
        self.dir.join(OBJECTS)
    }

    /// Its seat.
    pub fn seat(&self) -> &Seat<OsDisk> {
        &self.seat
    }

    /// A label that is this home's.
    pub(super) fn label(&self, label: &Label) -> Label {
        Label {
            place: self.place,
            ..label.clone()
        }
    }

    /// Writes what it keeps; to be handed to [`super::seats::Seats`], and keeps the lock.
    pub fn into_write(self) -> super::seats::Write {
        let whole = self;
        Box::new(move |kept: &Kept| {
            // Named whole, or the closure would take the seat alone and the lock would go.
            let home: &Self = &whole;
            home.seat.write(kept)
        })
    }
}

/// Locks, after a moment where it must be: a process that was killed lets go a little later, and a
/// child has what is open here until it begins. Errors: WouldBlock.
fn take(lock: &OwnedFd) -> io::Result<()> {
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            outcome => return Ok(outcome?),
        }
    }
    Err(ErrorKind::WouldBlock.into())
}

/// The server's own directory as a seat, made where it is not there.
pub(super) fn own_seat(own: &Path) -> io::Result<Seat<OsDisk>> {
    make_own(own)?;
    seat_in(own, OF_SERVER)
}

fn make_own(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    sync_parent(dir)
}

fn sync_parent(dir: &Path) -> io::Result<()> {
    dir.parent().map_or(Ok(()), durable::sync_dir_at)
}

fn seat_in(state: &Path, names: Names) -> io::Result<Seat<OsDisk>> {
    use crate::brick::disk::Disk;
    let disk = Arc::new(OsDisk::open(state, state)?);
    let root = disk.root();
    Ok(Seat::new(disk, root, names))
}
