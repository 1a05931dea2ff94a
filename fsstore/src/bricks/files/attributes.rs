//! Attributes of files, as a mount asks for them and changes them.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::super::Bricks;
use super::super::kinds::Name;
use super::change::{FileChange, SetFacts};
use super::look::{Node, Place, place_of};
use super::names::{dir_name, of_dir};
use super::nodes::OWN_XATTRS;
use super::open::{BricksFile, of_file};
use crate::brick::in_place::put_xattr;
use crate::brick::osdisk::OsDisk;
use crate::brick::osdisk::posix::{
    self, is_dir, is_regular, is_symlink, meet, set_mode, set_owner, set_times, xattr, xattr_names,
};
use crate::brick::posix::{Named, named_in_record, set_entry, take_entry, xattr_meaning};
use crate::files::{
    Errno, FileAttr, FileId, FilePath, FileResult, SetAttr, SetTime, Target, XattrMode,
};
use crate::object::{Attributes, Locator, Precondition};
use crate::volume::{AttrsPatch, Volume};

/// What a call is about, found.
enum Found<'a> {
    Node(Box<Node>, Place),
    Open(&'a BricksFile),
}

impl Bricks<OsDisk> {
    fn found<'a>(&self, target: Target<'a, BricksFile>) -> FileResult<Found<'a>> {
        match target {
            Target::Named { path, id } => self.found_at(path, id),
            Target::Open(file) => {
                self.wait(file.inode.settle());
                // By its name, where it has one: that is where it is changed.
                if let Some(at) = file.place() {
                    let id = FileId::any(file.inode.ident);
                    match self.found_at(&self.path_of(&at)?, id) {
                        Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => {}
                        other => return other,
                    }
                }
                Ok(Found::Open(file))
            }
        }
    }

    fn found_at<'a>(&self, path: &FilePath, id: FileId) -> FileResult<Found<'a>> {
        let node = self.node_as(path, id)?;
        Ok(Found::Node(Box::new(node), place_of(path)?))
    }

    pub(super) fn attr_of(&self, target: Target<'_, BricksFile>) -> FileResult<FileAttr> {
        match target {
            Target::Named { path, id } => Ok(self.node_as(path, id)?.attr),
            Target::Open(file) => file.attr(),
        }
    }

    pub(super) fn set_attributes(
        &self,
        target: Target<'_, BricksFile>,
        set: SetAttr,
    ) -> FileResult<FileAttr> {
        if let Target::Named { path, id } = &target {
            return self.set_named(path, *id, set);
        }
        let Target::Open(file) = target else {
            return Err(Errno::INVAL);
        };
        if let Some(len_bytes) = set.len_bytes {
            file.cut(len_bytes)?;
        }
        let rest = SetAttr {
            len_bytes: None,
            ..set
        };
        if rest != SetAttr::default() {
            file.alter(
                move |ident, now_ns| FileChange::Set {
                    ident,
                    set: facts_of(rest, now_ns),
                },
                |copy| {
                    let fd = copy.fd.as_fd();
                    if rest.uid.is_some() || rest.gid.is_some() {
                        set_owner(fd, rest.uid, rest.gid)?;
                    }
                    if let Some(mode) = rest.mode {
                        set_mode(fd, mode)?;
                    }
                    set_times(fd, rest.atime, rest.mtime)
                },
            )?;
        }
        file.attr()
    }

    fn set_named(&self, path: &FilePath, id: FileId, set: SetAttr) -> FileResult<FileAttr> {
        let node = self.node_as(path, id)?;
        let mode = node.met.attr.mode;
        if set.mode.is_some() && is_symlink(mode) {
            return Err(Errno::OPNOTSUPP);
        }
        if set.len_bytes.is_some() {
            match (is_dir(mode), is_regular(mode)) {
                (true, _) => return Err(Errno::ISDIR),
                (_, false) => return Err(Errno::INVAL),
                _ => {}
            }
        }
        let id = node.attr.id();
        match place_of(path)? {
            Place::Root => return Err(Errno::PERM),
            Place::Bucket(_) => self.on_each_brick(path, |fd| {
                if set.uid.is_some() || set.gid.is_some() {
                    set_owner(fd, set.uid, set.gid)?;
                }
                if let Some(mode) = set.mode {
                    set_mode(fd, mode)?;
                }
                set_times(fd, set.atime, set.mtime)
            })?,
            Place::Below(at) => {
                let ident = node.ident;
                if let (Some(len), true) = (set.len_bytes, is_regular(mode)) {
                    self.shared
                        .require_room(&at, len.saturating_sub(node.met.attr.len_bytes) / 64)?;
                }
                self.change_at(&at, &node, move |now_ns| FileChange::Set {
                    ident,
                    set: facts_of(set, now_ns),
                })?;
                if let (Some(len), Some(inode)) = (set.len_bytes, self.shared.writing.get(ident)) {
                    inode.lock().end = len;
                }
                if set.len_bytes.is_some() && self.shared.writing.get(ident).is_none() {
                    let flags = crate::files::OpenFlags {
                        read: true,
                        write: true,
                        ..Default::default()
                    };
                    // Closed at once: its digests are taken again.
                    let node = self.node_as(path, id)?;
                    let (_, file) = self.open_node(path, &node, flags)?;
                    file.inode.lock().is_edited = true;
                }
            }
        }
        Ok(self.node_as(path, id)?.attr)
    }

    /// Has what stands at a place changed, where it is still what was found.
    fn change_at(
        &self,
        at: &Locator,
        node: &Node,
        change: impl Fn(i64) -> FileChange + Send + Sync + 'static,
    ) -> FileResult<()> {
        let mode = node.met.attr.mode;
        if is_regular(mode) {
            let changed = self.shared.change_standing(at, node.ident, change);
            return self.passing(&at.bucket, changed);
        }
        let is_dir = is_dir(mode);
        let name = match is_dir {
            true => dir_name(at),
            false => Name::object(at),
        };
        let group = self.shared.group_of(at);
        let place = at.clone();
        self.passing(
            &at.bucket,
            self.shared.change_file(group, vec![name], move |inner| {
                let change = change(inner.now().0);
                let change = match is_dir {
                    true => of_dir(&place, change),
                    false => of_file(&place, change),
                };
                Ok(Ok((Some(change), ())))
            }),
        )
    }

    /// A bucket's directory is no name of any group: each brick that is here is told.
    fn on_each_brick(
        &self,
        path: &FilePath,
        act: impl Fn(std::os::fd::BorrowedFd<'_>) -> FileResult<()>,
    ) -> FileResult<()> {
        for member in self.shared.live_members() {
            match member.inner.disk().open_node(path) {
                Err(Errno::NOENT) => {}
                other => act(other?.as_fd())?,
            }
        }
        Ok(())
    }

    pub(super) fn get_xattr(
        &self,
        target: Target<'_, BricksFile>,
        name: &OsStr,
    ) -> FileResult<Vec<u8>> {
        let found = self.found(target)?;
        match xattr_meaning(name) {
            Named::Own if name.as_bytes().starts_with(OWN_XATTRS) => Err(Errno::NODATA),
            Named::Own => match &found {
                Found::Node(node, _) => xattr(node.fd.as_fd(), name),
                Found::Open(file) => xattr(file.settled_copy()?.fd.as_fd(), name),
            },
            Named::Record | Named::Nothing => Err(Errno::NODATA),
            named => {
                let mut attrs = attrs_of(&found);
                take_entry(&mut attrs, &named)
                    .map(String::into_bytes)
                    .ok_or(Errno::NODATA)
            }
        }
    }

    pub(super) fn list_xattrs(&self, target: Target<'_, BricksFile>) -> FileResult<Vec<OsString>> {
        let found = self.found(target)?;
        let listed = match &found {
            Found::Node(node, _) => xattr_names(node.fd.as_fd()),
            Found::Open(file) => xattr_names(file.settled_copy()?.fd.as_fd()),
        };
        let mut names = match listed {
            Err(Errno::OPNOTSUPP) => Vec::new(),
            other => other?,
        };
        names.retain(|name| {
            matches!(xattr_meaning(name), Named::Own) && !name.as_bytes().starts_with(OWN_XATTRS)
        });
        names.extend(named_in_record(attrs_of(&found)));
        Ok(names)
    }

    /// Sets an attribute, or with no value takes it away.
    pub(super) fn put_xattr(
        &self,
        target: Target<'_, BricksFile>,
        name: &OsStr,
        value: Option<(&[u8], XattrMode)>,
    ) -> FileResult<()> {
        let found = self.found(target)?;
        if name.as_bytes().starts_with(OWN_XATTRS) {
            return Err(Errno::PERM);
        }
        let named = xattr_meaning(name);
        match (&named, value) {
            (Named::Own, _) => {}
            (Named::Record, _) => return Err(Errno::PERM),
            (Named::Nothing, Some(_)) => return Err(Errno::INVAL),
            (Named::Nothing, None) => return Err(Errno::NODATA),
            _ => return self.put_entry(&found, &named, value),
        }
        let (node, at) = match found {
            Found::Open(file) => {
                let copy = file.settled_copy()?;
                return match value {
                    Some((value, mode)) => posix::set_xattr(copy.fd.as_fd(), name, value, mode),
                    None => posix::take_xattr(copy.fd.as_fd(), name),
                };
            }
            Found::Node(_, Place::Root) => return Err(Errno::PERM),
            Found::Node(node, Place::Bucket(bucket)) => {
                drop(node);
                let path = FilePath::root().join(bucket.as_str().as_ref())?;
                return self.on_each_brick(&path, |fd| {
                    put_xattr(fd, name.as_bytes(), value.map(|(value, _)| value))
                });
            }
            Found::Node(node, Place::Below(at)) => (node, at),
        };
        let standing = xattr(node.fd.as_fd(), name);
        match (&standing, value) {
            (Ok(_), Some((_, XattrMode::Create))) => return Err(Errno::EXIST),
            (Err(Errno::NODATA), Some((_, XattrMode::Replace)) | None) => {
                return Err(Errno::NODATA);
            }
            _ => {}
        }
        if let Some((value, _)) = value {
            self.try_xattr(&node, name, value)?;
        }
        let (ident, name) = (node.ident, name.as_bytes().to_vec());
        let value = value.map(|(value, _)| value.to_vec());
        self.change_at(&at, &node, move |_| FileChange::Xattr {
            ident,
            name: name.clone(),
            value: value.clone(),
        })
    }

    /// Whether the disk would take an attribute: one that it refuses must not come into the log.
    fn try_xattr(&self, node: &Node, name: &OsStr, value: &[u8]) -> FileResult<()> {
        let mode = node.met.attr.mode;
        if !is_regular(mode) && !is_dir(mode) {
            if name.as_bytes() == crate::brick::acl::ACCESS_ACL.as_bytes() && !is_symlink(mode) {
                return Ok(());
            }
            // User attributes are regular files' and directories' alone. Source: xattr(7).
            return Err(Errno::PERM);
        }
        let trial = node.member.inner.unnamed().map_err(|e| e.errno())?;
        let posix = super::nodes::posix_of(node.fd.as_fd(), &meet(node.fd.as_fd())?)?;
        let is_dirs = name.as_bytes() == crate::brick::acl::DEFAULT_ACL.as_bytes();
        let fd = crate::brick::disk::DiskFile::descriptor(&trial).ok_or(Errno::IO)?;
        for (other, value) in &posix.xattrs {
            let is_other = other.starts_with(b"user.") && other != name.as_bytes();
            if is_other {
                posix::set_xattr(fd, OsStr::from_bytes(other), value, XattrMode::Set)?;
            }
        }
        match is_dirs {
            true => Ok(()),
            false => posix::set_xattr(fd, name, value, XattrMode::Set),
        }
    }

    /// Changes what S3 keeps with an object, as S3 does.
    fn put_entry(
        &self,
        found: &Found<'_>,
        named: &Named<'_>,
        value: Option<(&[u8], XattrMode)>,
    ) -> FileResult<()> {
        let Found::Node(node, Place::Below(at)) = found else {
            return Err(Errno::OPNOTSUPP);
        };
        if !is_regular(node.met.attr.mode) {
            return Err(Errno::OPNOTSUPP);
        }
        let mut attrs = attrs_of(found);
        match value {
            Some((value, mode)) => set_entry(&mut attrs, named, value, mode)?,
            None => {
                take_entry(&mut attrs, named).ok_or(Errno::NODATA)?;
            }
        }
        let patch = AttrsPatch {
            headers: Some((attrs.system, attrs.user)),
            ..AttrsPatch::default()
        };
        let always = Precondition::default();
        let patched = Volume::set_attrs(self, at, patch, &always);
        self.wait(patched).map(|_| ()).map_err(|e| e.errno())
    }
}

fn attrs_of(found: &Found<'_>) -> Attributes {
    match found {
        Found::Node(node, _) => {
            let record = node.record.clone();
            record.map(|record| record.attrs).unwrap_or_default()
        }
        Found::Open(_) => Attributes::default(),
    }
}

/// What is to be set, at an instant.
fn facts_of(set: SetAttr, now_ns: i64) -> SetFacts {
    let time = |time: SetTime| match time {
        SetTime::Now => now_ns,
        SetTime::At(at_ns) => at_ns,
    };
    SetFacts {
        len_bytes: set.len_bytes,
        mode: set.mode,
        uid: set.uid,
        gid: set.gid,
        atime_ns: set.atime.map(time),
        // A new length is a write.
        mtime_ns: set.mtime.map(time).or(set.len_bytes.map(|_| now_ns)),
    }
}
