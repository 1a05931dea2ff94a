//! What the permissions of files let someone do: an act on a key, as a question to the kernel.
//!
//! An object that is given out is asked for by its open file, so that what was checked is what is
//! sent. What is made, replaced, changed or removed is asked for by its names, before the turn.

use std::io;
use std::sync::Arc;

use super::Inner;
use super::disk::{Disk, Question, Right, Taken};
use super::object::BrickObject;
use super::sink::off_thread;
use super::tree::{Tree, split_parent};
use crate::error::{Result, StoreError};
use crate::keypath::{self, Place};
use crate::object::Locator;
use crate::permission::{Act, Credentials};

/// An [`Act`] that owns what it names.
enum Asked<D: Disk> {
    Read {
        at: Locator,
        file: Option<Arc<D::File>>,
        /// Whether it is a marker without a body: a directory.
        is_dir: bool,
    },
    Replace(Locator),
    Remove(Locator),
    Change(Locator),
    /// The directory that a prefix leads into.
    List(String),
}

impl<D: Disk> Asked<D> {
    fn of(act: Act<'_, BrickObject<D>>) -> Self {
        match act {
            Act::Read { at, object } => {
                let file = object.and_then(BrickObject::file).map(Arc::clone);
                Self::Read {
                    at: at.clone(),
                    is_dir: object.is_some() && file.is_none(),
                    file,
                }
            }
            Act::Replace(at) => Self::Replace(at.clone()),
            Act::Remove(at) => Self::Remove(at.clone()),
            Act::Change(at) => Self::Change(at.clone()),
            Act::List { bucket, prefix } => {
                let within = keypath::directory_of_prefix(prefix);
                Self::List(below(bucket.as_str(), within))
            }
        }
    }
}

impl<D: Disk> Inner<D> {
    /// See [`crate::volume::Volume::permit`].
    pub(super) async fn permit(
        self: &Arc<Self>,
        who: &Credentials,
        act: Act<'_, BrickObject<D>>,
    ) -> Result<()> {
        let (inner, who, asked) = (Arc::clone(self), who.clone(), Asked::of(act));
        off_thread(move || inner.tree.check(&who, &asked)).await
    }
}

impl<D: Disk> Tree<D> {
    fn check(&self, who: &Credentials, asked: &Asked<D>) -> Result<()> {
        match asked {
            Asked::Read { at, file, is_dir } => {
                let path = path_of(at);
                let file = file.as_deref().map(|file| (file, Right::Read));
                let dir = is_dir.then(|| (path.clone(), Right::Read));
                let question = Question {
                    way: Some(path),
                    dir,
                    takes: None,
                    file,
                };
                self.ask(who, &question)
            }
            Asked::Replace(at) => self.check_names(who, at, Some(Right::Write)),
            Asked::Remove(at) => self.check_names(who, at, None),
            Asked::Change(at) => {
                let (found, path) = (self.find(at)?, path_of(at));
                let file = found.as_ref().and_then(|found| found.file.as_ref());
                let is_dir = found.is_some() && file.is_none();
                let question = Question {
                    dir: is_dir.then(|| (path.clone(), Right::Write)),
                    way: Some(path),
                    takes: None,
                    file: file.map(|file| (file, Right::Write)),
                };
                self.ask(who, &question)
            }
            Asked::List(path) => {
                let question = Question {
                    way: None,
                    dir: Some((path.clone(), Right::Read)),
                    takes: None,
                    file: None,
                };
                self.ask(who, &question)
            }
        }
    }

    /// Asks for what changes names: in the directory of the key's own name, and in that which the
    /// key makes or marks.
    fn check_names(&self, who: &Credentials, at: &Locator, on_file: Option<Right>) -> Result<()> {
        let found = self.find(at)?;
        let file = found.as_ref().and_then(|found| found.file.as_ref());
        let is_aside = found.as_ref().is_some_and(|found| found.escaped);
        let bucket = at.bucket.as_str();
        let (dir, name, is_dir) = match keypath::place(&at.key) {
            Place::Plain(path) => {
                let (parent, name) = split_parent(path);
                (below(bucket, parent), Some(name), false)
            }
            // It goes like a directory that is removed.
            Place::Marker { dir } if on_file.is_none() => {
                let (parent, name) = split_parent(dir);
                (below(bucket, parent), Some(name), true)
            }
            Place::Marker { dir } => (below(bucket, Some(dir)), None, false),
            Place::Escaped => (bucket.to_owned(), None, false),
        };
        let question = Question {
            way: Some(path_of(at)),
            dir: Some((dir, Right::Write)),
            takes: Some(Taken {
                name,
                is_dir,
                aside: file.filter(|_| is_aside),
            }),
            file: file.zip(on_file),
        };
        self.ask(who, &question)
    }

    fn ask(&self, who: &Credentials, question: &Question<'_, D::File>) -> Result<()> {
        let answer = self.disk.check_rights(who, question);
        answer.map_err(|e| match e.kind() {
            // Of a path no part stands: the bucket has gone.
            io::ErrorKind::NotFound => StoreError::NoSuchBucket,
            // No further thread.
            io::ErrorKind::WouldBlock => StoreError::Busy("threads"),
            _ => StoreError::from_io("check permissions", e),
        })
    }
}

/// The path that leads to a key, from the volume's root. Where the key has none it is that of the
/// bucket's directory itself, which is searched.
fn path_of(at: &Locator) -> String {
    let within = match keypath::place(&at.key) {
        Place::Plain(path) => path,
        Place::Marker { dir } => dir,
        Place::Escaped => ".",
    };
    below(at.bucket.as_str(), Some(within))
}

fn below(bucket: &str, within: Option<&str>) -> String {
    match within {
        Some(within) => format!("{bucket}/{within}"),
        None => bucket.to_owned(),
    }
}

#[cfg(test)]
mod tests;
