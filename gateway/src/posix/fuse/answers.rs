//! Replies that depend on more than the outcome: how long the kernel may remember what it is
//! told, and how it gets at an open file's bytes.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use fsstore::files::{Errno, FileResult, Files};
use fuser::{
    BackingId, FileHandle, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyXattr,
};

use super::Adapter;
use super::convert::{attributes, code, nothing};
use super::note;
use crate::posix::fs::{Entry, Opened};

/// How long the kernel may remember what it will be told the end of.
const LASTING: Duration = Duration::from_secs(24 * 3600);
/// How long it may remember that a name is not there, where it cannot be told to forget all such.
const FLEETING: Duration = Duration::from_secs(1);

/// How an open file is to be answered.
pub(super) enum Answer {
    Passing(Arc<BackingId>),
    Ordinary,
}

impl<V: Files> Adapter<V> {
    pub(super) fn lasts(&self, may_remember: bool, is_alone: bool) -> Duration {
        if may_remember && is_alone && self.fs.is_told_all() {
            LASTING
        } else {
            Duration::ZERO
        }
    }

    pub(super) fn reply_entry(&self, entry: FileResult<Entry>, reply: ReplyEntry) {
        // Held over the reply: who comes in between has all that was remembered forgotten.
        let is_alone = self.company.alone();
        match entry {
            Ok(entry) => reply.entry_with_ttls(
                &self.lasts(entry.may_remember, *is_alone),
                &self.lasts(true, *is_alone),
                &attributes(&entry.attr),
                Generation(entry.attr.generation),
            ),
            Err(Errno::NOENT) if *is_alone && self.fs.is_told_all() => {
                let lasts = if self.facts.has_epoch() {
                    LASTING
                } else {
                    FLEETING
                };
                reply.entry(&lasts, &nothing(), Generation(0));
            }
            Err(error) => reply.error(code(error)),
        }
    }

    /// As [`Adapter::reply_entry`], for what was to be made: its absence is an error.
    pub(super) fn reply_made(&self, entry: FileResult<Entry>, reply: ReplyEntry) {
        match entry {
            Err(error) => reply.error(code(error)),
            made => self.reply_entry(made, reply),
        }
    }

    pub(super) fn reply_attr(&self, entry: FileResult<Entry>, reply: ReplyAttr) {
        let is_alone = self.company.alone();
        match entry {
            Ok(entry) => {
                let lasts = self.lasts(entry.may_remember, *is_alone);
                reply.attr(&lasts, &attributes(&entry.attr));
            }
            Err(error) => reply.error(code(error)),
        }
    }

    /// Answers that a directory is open; the kernel may keep its names.
    pub(super) fn reply_opened_dir(&self, ino: u64, handle: u64, reply: ReplyOpen) {
        let is_alone = self.company.alone();
        let flags = match *is_alone && self.fs.may_keep_names(ino, handle) {
            true => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
            false => FopenFlags::empty(),
        };
        reply.opened(FileHandle(handle), flags);
    }

    /// Has the kernel forget attributes, of which it was told that they last. Takes no lock of
    /// the kernel's, so a thread that serves may do it.
    pub(super) fn forget_attr(&self, ino: u64, opened: Opened) {
        if let (true, Some(notifier)) = (opened.must_forget_attr, self.facts.notifier.get()) {
            note(notifier.inval_inode(INodeNo(ino), -1, 0));
        }
    }

    /// Decides how the kernel reads and writes what was opened.
    pub(super) fn path_of_data(
        &self,
        opened: Opened,
        back: impl FnOnce(BorrowedFd<'_>) -> std::io::Result<BackingId>,
    ) -> FileResult<Answer> {
        let passing = &self.facts.passing;
        if !passing.is_on() {
            return Ok(Answer::Ordinary);
        }
        match self.fs.back(opened.number, back) {
            None => Ok(Answer::Ordinary),
            Some(Ok(backing)) => {
                passing.note(true);
                Ok(Answer::Passing(backing))
            }
            Some(Err(error)) if passing.note(false) => {
                tracing::warn!(%error, "the kernel passes nothing through: reads and writes go \
                                        through the server");
                Ok(Answer::Ordinary)
            }
            // A file that is open twice must not be open in two ways: the kernel refuses it.
            Some(Err(error)) => {
                self.fs.release(opened.number);
                Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
            }
        }
    }
}

pub(super) fn reply_empty(outcome: FileResult<()>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(code(error)),
    }
}

/// Answers a question for an xattr or a list of them: its length where `size` is 0.
pub(super) fn reply_xattr(value: FileResult<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(code(error)),
    }
}
