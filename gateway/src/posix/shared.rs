//! The one file system of a volume that its mounts are clones of, served by one session: what
//! one mount changes, all know, and a lock taken through one holds for all.
//!
//! It is made for the first mount and kept, so that the next one shares it. Where the kernel
//! cannot clone it or this process may not, there is none, and every mount is a file system of
//! its own.

use std::ffi::{OsStr, OsString};
use std::io::{Error, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use fsstore::files::Files;
use rustix::io::Errno;

use super::mounting::{Anchor, LooseMount, may_not};
use super::sessions::{DataPath, Sessions, Terms};

/// A volume's file system, as long as it has one.
pub struct SharedTree<V> {
    source: String,
    sessions: Sessions<V>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    None,
    Made(Made),
    /// Nothing can be shared here, or not any more.
    Never,
}

#[derive(Debug)]
struct Made {
    number: u64,
    anchor: Arc<Anchor>,
    data_path: DataPath,
    ended: Arc<PipeReader>,
    share_count: usize,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the file system out of its place, if it is this one.
fn take(state: &Mutex<State>, suits: impl Fn(&Made) -> bool) -> Option<Made> {
    let mut state = lock(state);
    match std::mem::take(&mut *state) {
        State::Made(made) if suits(&made) => Some(made),
        other => {
            *state = other;
            None
        }
    }
}

/// Whether an error of [`Anchor::make`] is the kernel's or the process's nature: any other, as a
/// lack of memory or descriptors, may pass.
fn is_for_good(error: &Error) -> bool {
    may_not(error)
        || matches!(
            Errno::from_io_error(error),
            Some(Errno::INVAL | Errno::NODEV)
        )
}

impl<V: Files> SharedTree<V> {
    /// None so far. df(1) and mount(8) show `source`.
    pub fn new(source: String, sessions: Sessions<V>) -> Self {
        Self {
            source,
            sessions,
            state: Arc::default(),
        }
    }

    /// One more mount, of the volume or of a bucket; none where mounts cannot be shared. Errors:
    /// ENOENT for the bucket; those of the session's beginning.
    pub fn share(&self, bucket: Option<&OsStr>) -> Result<Option<(LooseMount, Share)>, Error> {
        let mut state = lock(&self.state);
        if let State::None = *state {
            *state = self.make()?;
        }
        let State::Made(made) = &mut *state else {
            return Ok(None);
        };
        // The session answers where the bucket is; it never takes this lock before it ends.
        let mount = made.anchor.clone_of(bucket)?;
        let shown = mount.number()?;
        made.share_count += 1;
        let share = Share {
            bucket: bucket.map(OsStr::to_owned),
            shown,
            anchor: Arc::downgrade(&made.anchor),
            number: made.number,
            data_path: made.data_path,
            ended: Arc::clone(&made.ended),
            state: Arc::clone(&self.state),
        };
        Ok(Some((mount, share)))
    }

    fn make(&self) -> Result<State, Error> {
        let (anchor, device) = match Anchor::make(&self.source) {
            Ok(made) => made,
            Err(error) if is_for_good(&error) => {
                tracing::info!(%error, "each mount is a file system of its own");
                return Ok(State::Never);
            }
            Err(error) => {
                tracing::warn!(%error, "this mount is a file system of its own");
                return Ok(State::None);
            }
        };
        let mut session = self.sessions.start(Terms::default(), device)?;
        self.sessions.keep_locks(&mut session, anchor.file_system());
        let (number, data_path) = (session.number(), session.data_path());
        let (ended, ends) = std::io::pipe()?;
        let state = Arc::clone(&self.state);
        let thread = std::thread::Builder::new().name("mounted".to_owned());
        thread.spawn(move || {
            if let Err(error) = session.join() {
                tracing::warn!(%error, "the mounts ended badly");
            }
            drop(take(&state, |made| made.number == number));
            // Closed, it tells all who share.
            drop(ends);
        })?;
        Ok(State::Made(Made {
            number,
            anchor: Arc::new(anchor),
            data_path,
            ended: Arc::new(ended),
            share_count: 0,
        }))
    }

    /// Lets the file system go where nobody shares it: it ends with its last mount, and stands on
    /// where one is left whose watcher was killed.
    pub fn release_unused(&self) {
        drop(take(&self.state, |made| made.share_count == 0));
    }

    /// Lets the file system go, and makes none any more.
    pub fn release(&self) {
        let before = std::mem::replace(&mut *lock(&self.state), State::Never);
        drop(before);
    }
}

/// A mount's part in the file system, as long as someone watches the mount.
#[derive(Debug)]
pub struct Share {
    bucket: Option<OsString>,
    /// The inode number of what the mount shows.
    shown: u64,
    anchor: Weak<Anchor>,
    number: u64,
    data_path: DataPath,
    ended: Arc<PipeReader>,
    state: Arc<Mutex<State>>,
}

impl Share {
    /// How bytes travel.
    pub fn data_path(&self) -> DataPath {
        self.data_path
    }

    /// A mount to take the place of the one there is, where that is of a bucket and another stands
    /// under the bucket's name by now: what a mount begins at it keeps for ever.
    pub fn renewed(&mut self) -> Option<LooseMount> {
        let (bucket, anchor) = (self.bucket.as_ref()?, self.anchor.upgrade()?);
        let renewed = || -> Result<_, Error> {
            if anchor.number_of(bucket)? == self.shown {
                return Ok(None);
            }
            let mount = anchor.clone_of(Some(bucket))?;
            let shown = mount.number()?;
            Ok(Some((mount, shown)))
        };
        match renewed() {
            Ok(Some((mount, shown))) if shown != self.shown => {
                self.shown = shown;
                Some(mount)
            }
            Ok(_) => None,
            Err(error) => {
                // The bucket is gone, and made again some day; or the file system has ended.
                tracing::trace!(%error, "no bucket to be mounted again");
                None
            }
        }
    }

    /// What was given by [`Share::renewed`] did not get to its place: it is to be given again.
    pub fn was_not_renewed(&mut self) {
        self.shown = 0;
    }

    /// Whether it may have to be [renewed](Self::renewed).
    pub fn may_be_renewed(&self) -> bool {
        self.bucket.is_some()
    }

    /// A descriptor that is closed on the other side, as poll(2) tells, once the file system is
    /// served no more.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let State::Made(made) = &mut *lock(&self.state)
            && made.number == self.number
        {
            made.share_count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharing_is_given_up_for_what_the_kernel_cannot_and_not_for_what_passes() {
        let is_for_good = |error: Errno| is_for_good(&Error::from(error));
        let lasting = [
            Errno::PERM,
            Errno::ACCESS,
            Errno::NOSYS,
            Errno::INVAL,
            Errno::NODEV,
        ];
        assert!(lasting.into_iter().all(is_for_good));
        let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOSPC];
        assert!(!passing.into_iter().any(is_for_good));
    }
}
