//! One node: small, because the kernel may know millions of them. What only directories or open
//! files have is kept aside.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;

use fsstore::files::FileAttr;

use super::{DIRECTORY, KIND, REGULAR};

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub parent: u64,
    pub name: Arc<OsStr>,
}

/// What is known of a directory.
#[derive(Debug, Default)]
struct Directory {
    children: HashMap<Arc<OsStr>, u64>,
    /// Other hands may have moved it.
    doubted: bool,
    /// How many names were in it when it was last read to its end.
    listed: Option<usize>,
    /// The handle as which reads it the kernel keeps its names.
    keeper: Option<u64>,
}

/// What holds a file open.
#[derive(Debug)]
struct Open<H> {
    handles: Vec<(u64, H)>,
    writer_count: usize,
}

/// Length and times of writing and changing.
type State = (u64, i64, i64);

#[derive(Debug)]
pub(super) struct Node<H> {
    /// The inode's own number.
    pub real: u64,
    pub generation: u64,
    /// How often the kernel was given this node and has not said that it forgot it.
    pub lookups: u64,
    /// Where it stands; none once it has lost all names that the kernel knows.
    name: Option<Place>,
    /// Its further names.
    more_names: Vec<Place>,
    dir: Option<Box<Directory>>,
    open: Option<Box<Open<H>>>,
    /// What was last said of it, where it is no regular file: the answer for those who stand in
    /// a directory that is removed.
    last: Option<Box<FileAttr>>,
    /// As it was when its bytes were last opened, where that is asked.
    opened_as: Option<Box<State>>,
}

impl<H> Node<H> {
    pub fn new(real: u64, generation: u64) -> Box<Self> {
        Box::new(Self {
            real,
            generation,
            lookups: 0,
            name: None,
            more_names: Vec::new(),
            dir: None,
            open: None,
            last: None,
            opened_as: None,
        })
    }

    pub fn note_last(&mut self, attr: &FileAttr) {
        if attr.mode & KIND != REGULAR {
            self.last = Some(Box::new(*attr));
        }
    }

    pub fn last(&self) -> Option<&FileAttr> {
        self.last.as_deref()
    }

    pub fn is_directory(&self) -> bool {
        self.last()
            .is_some_and(|last| last.mode & KIND == DIRECTORY)
    }

    pub fn names(&self) -> impl Iterator<Item = &Place> {
        self.name.iter().chain(&self.more_names)
    }

    pub fn add_name(&mut self, place: Place) {
        match self.name {
            None => self.name = Some(place),
            Some(_) => self.more_names.push(place),
        }
    }

    pub fn remove_name(&mut self, parent: u64, name: &OsStr) {
        let stays = |place: &Place| place.parent != parent || &*place.name != name;
        self.more_names.retain(&stays);
        if self.name.as_ref().is_some_and(|place| !stays(place)) {
            let has_more = !self.more_names.is_empty();
            self.name = has_more.then(|| self.more_names.remove(0));
        }
        if self.more_names.is_empty() {
            self.more_names = Vec::new();
        }
    }

    pub fn take_names(&mut self) -> impl Iterator<Item = Place> + use<H> {
        let more = std::mem::take(&mut self.more_names);
        self.name.take().into_iter().chain(more)
    }

    fn dir(&mut self) -> &mut Directory {
        self.dir.get_or_insert_default()
    }

    pub fn child(&self, name: &OsStr) -> Option<u64> {
        self.dir.as_ref()?.children.get(name).copied()
    }

    pub fn add_child(&mut self, name: Arc<OsStr>, ino: u64) {
        self.dir().children.insert(name, ino);
    }

    pub fn remove_child(&mut self, name: &OsStr) -> Option<u64> {
        self.dir.as_mut()?.children.remove(name)
    }

    pub fn child_names(&self) -> impl Iterator<Item = &Arc<OsStr>> {
        self.dir.iter().flat_map(|dir| dir.children.keys())
    }

    pub fn note_listed(&mut self, count: usize) {
        self.dir().listed = Some(count);
    }

    /// Whether half of what was last listed in it is known, and no other handle keeps it.
    pub fn keeps(&mut self, handle: u64) -> bool {
        let Some(dir) = &mut self.dir else {
            return false;
        };
        let knows_most = |count: usize| dir.children.len() >= count / 2;
        let keeps = dir.keeper.is_none() && dir.listed.is_some_and(knows_most);
        if keeps {
            dir.keeper = Some(handle);
        }
        keeps
    }

    pub fn kept(&mut self, handle: u64) {
        if let Some(dir) = &mut self.dir
            && dir.keeper == Some(handle)
        {
            dir.keeper = None;
        }
    }

    pub fn is_doubted(&self) -> bool {
        self.dir.as_ref().is_some_and(|dir| dir.doubted)
    }

    pub fn set_doubted(&mut self, is_doubted: bool) {
        if is_doubted || self.dir.is_some() {
            self.dir().doubted = is_doubted;
        }
    }

    pub fn handles(&self) -> &[(u64, H)] {
        self.open.as_ref().map_or(&[], |open| &open.handles)
    }

    pub fn writer_count(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.writer_count)
    }

    pub fn hold(&mut self, number: u64, handle: H, is_writable: bool) {
        let open = self.open.get_or_insert_with(|| {
            Box::new(Open {
                handles: Vec::new(),
                writer_count: 0,
            })
        });
        open.handles.push((number, handle));
        open.writer_count += usize::from(is_writable);
    }

    /// A handle holds it no more, though its file may still be open.
    pub fn let_go(&mut self, number: u64) {
        if let Some(open) = &mut self.open {
            open.handles.retain(|(other, _)| *other != number);
        }
    }

    /// A handle's file is closed.
    pub fn close(&mut self, was_writable: bool) {
        if let Some(open) = &mut self.open {
            open.writer_count = open.writer_count.saturating_sub(usize::from(was_writable));
            if open.handles.is_empty() && open.writer_count == 0 {
                self.open = None;
            }
        }
    }

    /// Whether its bytes are as they were when this was last asked.
    pub fn is_as_before(&mut self, now: State) -> bool {
        let before = self.opened_as.replace(Box::new(now));
        before.is_some_and(|before| *before == now)
    }

    /// Whether the kernel or a handle needs it, or one below it for its path.
    pub fn is_needed(&self) -> bool {
        let has_children = self
            .dir
            .as_ref()
            .is_some_and(|dir| !dir.children.is_empty());
        self.lookups > 0 || !self.handles().is_empty() || self.writer_count() > 0 || has_children
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_small() {
        assert!(size_of::<Node<Arc<u8>>>() <= 112);
    }
}
