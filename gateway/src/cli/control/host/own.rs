//! The mounts that the host makes itself.

use fsstore::files::Files;

use super::{Host, LOOK_INTERVAL, spawn};
use crate::cli::CommandError;
use crate::cli::control::Wish;
use crate::cli::control::places::{dead_mount, is_still_there, mount, mount_failed};
use crate::posix::mounting::{self, MountId, MountOptions, Waited, Watched};
use crate::posix::sessions::{DataPath, Session};
use crate::posix::shared::Share;

/// A mount that shares its file system with others, and how it is made.
struct Kept {
    options: MountOptions,
    wish: Wish,
    watched: Watched,
    share: Share,
}

impl<V: Files> Host<V> {
    /// Mounts in this process. `ended` is called once the mount is gone.
    pub(crate) fn mount(
        &self,
        options: &MountOptions,
        wish: &Wish,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<DataPath, CommandError> {
        self.base(wish)?;
        let host = self.clone();
        match self.mount_shared(options, wish, None)? {
            Some((watched, share)) => {
                let (mut id, data_path) = (watched.id(), share.data_path());
                self.own(wish, id);
                let kept = Kept {
                    options: options.clone(),
                    wish: wish.clone(),
                    watched,
                    share,
                };
                spawn("mounted", move || {
                    host.keep(kept, &mut id);
                    host.disown(id);
                    ended();
                })?;
                Ok(data_path)
            }
            None => {
                let (session, id) = self.mount_own(options, wish)?;
                let data_path = session.data_path();
                self.own(wish, id);
                spawn("mounted", move || {
                    if let Err(error) = session.join() {
                        tracing::warn!(%error, "a mount ended badly");
                    }
                    host.disown(id);
                    ended();
                })?;
                Ok(data_path)
            }
        }
    }

    fn own(&self, wish: &Wish, id: MountId) {
        self.inner.own().push((wish.at.clone(), id));
    }

    fn disown(&self, id: MountId) {
        self.inner.own().retain(|(_, other)| *other != id);
    }

    /// Mounts the file system that all share, in the place of the mount `before`, where there was
    /// one; none where that cannot be. Errors: something else stands in its place.
    fn mount_shared(
        &self,
        options: &MountOptions,
        wish: &Wish,
        before: Option<&Watched>,
    ) -> Result<Option<(Watched, Share)>, CommandError> {
        if !wish.can_share(options) {
            return Ok(None);
        }
        let Some((mount, share)) = self.share(wish)? else {
            return Ok(None);
        };
        let dead = dead_mount(&wish.at)?;
        // A path may lead elsewhere by now: users rename directories.
        let is_it = |before| dead.as_ref().is_some_and(|dead| dead.is(before));
        if !before.is_none_or(is_it) {
            let shown = wish.at.display();
            let told = format!("what was mounted does not stand at {shown} any more");
            return Err(CommandError::new(told));
        }
        match mount.attach(&wish.at, options, dead) {
            Ok(watched) => Ok(Some((watched, share))),
            Err(error) if mounting::may_not(&error) => Ok(None),
            Err(error) => Err(mount_failed(&wish.at, &error)),
        }
    }

    /// Mounts a file system of its own.
    fn mount_own(
        &self,
        options: &MountOptions,
        wish: &Wish,
    ) -> Result<(Session, MountId), CommandError> {
        let dead = dead_mount(&wish.at)?;
        let mounted = mount(&wish.at, options, dead);
        let (device, id) = mounted.map_err(|error| mount_failed(&wish.at, &error))?;
        let started = self.start(wish, device).map_err(CommandError::from);
        let session = started.inspect_err(|_| {
            let _ = mounting::detach(&wish.at);
        })?;
        Ok((session, id))
    }

    /// Waits for the end of a mount. Where someone else's was ended by force, and this one with
    /// it, or where its bucket was made again, it is made again.
    fn keep(&self, mut kept: Kept, id: &mut MountId) {
        let longest = kept.share.may_be_renewed().then_some(LOOK_INTERVAL);
        loop {
            let again = match kept.watched.wait(kept.share.ended(), longest) {
                Ok(Waited::Gone) => return,
                Ok(Waited::Nothing) => {
                    kept.renew();
                    Ok(())
                }
                Ok(Waited::Else) if self.is_leaving() || !is_still_there(&kept.watched) => return,
                Ok(Waited::Else) => self.revive(&mut kept),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = again {
                tracing::warn!(error = error.text, "a mount is kept no more");
                return;
            }
            let now = kept.watched.id();
            if now != *id {
                self.own(&kept.wish, now);
                self.disown(*id);
                *id = now;
            }
        }
    }

    /// Mounts anew what has ended.
    fn revive(&self, kept: &mut Kept) -> Result<(), CommandError> {
        let again = self.mount_shared(&kept.options, &kept.wish, Some(&kept.watched))?;
        let (watched, share) =
            again.ok_or_else(|| CommandError::new("it can be shared no more"))?;
        (kept.watched, kept.share) = (watched, share);
        Ok(())
    }
}

impl Kept {
    /// Shows the bucket that stands by now where another one stood.
    fn renew(&mut self) {
        let Some(mount) = self.share.renewed() else {
            return;
        };
        match mount.replace(&self.wish.at, &self.options, &self.watched) {
            Ok(watched) => self.watched = watched,
            Err(error) => {
                tracing::debug!(%error, "a mount shows a bucket that is gone");
                self.share.was_not_renewed();
            }
        }
    }
}
