//! Bytes of parts on their way into one file: several pieces at once, because a file system over a
//! network answers each with a round trip, and one disk has a queue.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Builder;

use crate::brick::disk::{Disk, DiskFile};
use crate::brick::osdisk::OsFile;
use crate::brick::tree::{failed, is_absent};
use crate::compose::Composition;
use crate::error::{Result, StoreError};
use crate::name::PartNumber;
use crate::object::{ObjectPart, PartInfo};
use crate::shared::Inner;
use crate::shared::disk::Dir;
use crate::shared::uploads::name_of;

/// One piece, in bytes.
const PIECE_LEN_BYTES: u64 = 16 << 20;
/// Most threads that copy one upload.
const MAX_COPIERS: u64 = 4;

/// Where parts are, and what was decided on.
pub(super) struct Parts<'a> {
    pub(super) inner: &'a Inner,
    pub(super) dir: &'a Dir,
    pub(super) composition: &'a Composition,
    pub(super) decided: &'a BTreeMap<PartNumber, PartInfo>,
}

impl Parts<'_> {
    /// Copies all of them. Errors: Conflict where one was sent again since it was decided on.
    pub(super) fn copy_into(&self, file: &OsFile) -> Result<()> {
        let parts = self.composition.parts.iter();
        let pieces = parts.flat_map(|part| {
            let starts = (0..part.len_bytes).step_by(PIECE_LEN_BYTES as usize);
            starts.map(move |start| (part, start))
        });
        let count = self.composition.parts.iter();
        let count: u64 = count
            .map(|part| part.len_bytes.div_ceil(PIECE_LEN_BYTES))
            .sum();
        let (pieces, is_over) = (Mutex::new(pieces), AtomicBool::new(false));
        let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
        let copy = || {
            let mut source = None;
            while !is_over.load(Ordering::Acquire)
                && let Some((part, start)) = next()
            {
                if let Err(e) = self.copy_piece(&mut source, part, start, file) {
                    is_over.store(true, Ordering::Release);
                    return Err(e);
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            // Where no more threads are to be had, those that are do it.
            let others: Vec<_> = (1..count.min(MAX_COPIERS))
                .map_while(|_| {
                    Builder::new()
                        .name("parts".to_owned())
                        .spawn_scoped(scope, copy)
                        .ok()
                })
                .collect();
            let own = copy();
            others.into_iter().fold(own, |outcome, other| {
                let other = other.join().unwrap_or_else(|_| {
                    let ended = std::io::Error::other("a thread that copied parts ended");
                    Err(StoreError::from_io("copy a part", ended))
                });
                outcome.and(other)
            })
        })
    }

    /// Copies a piece; `source` is the part that this thread has open.
    fn copy_piece(
        &self,
        source: &mut Option<(PartNumber, OsFile)>,
        part: &ObjectPart,
        start: u64,
        file: &OsFile,
    ) -> Result<()> {
        let opened = match source.take() {
            Some((number, opened)) if number == part.number => opened,
            _ => self.open(part)?,
        };
        let len_bytes = PIECE_LEN_BYTES.min(part.len_bytes - start);
        let copied = file
            .copy_from(&opened, start, part.offset_bytes + start, len_bytes)
            .map_err(failed("copy a part"))?;
        *source = Some((part.number, opened));
        match copied == len_bytes {
            true => Ok(()),
            false => Err(StoreError::Conflict),
        }
    }

    /// Opens a part, where it is the one that was decided on.
    fn open(&self, part: &ObjectPart) -> Result<OsFile> {
        let opened = match self.inner.tree.disk.open(self.dir, &name_of(part.number)) {
            Err(e) if is_absent(&e) => return Err(StoreError::Conflict),
            other => other.map_err(failed("copy a part"))?,
        };
        let facts = Inner::facts_of(&opened)?;
        let record = self.inner.tree.records.load(&opened, &facts)?;
        let decided = self.decided.get(&part.number).map(|part| part.crc64nvme);
        // Sent again meanwhile: then it is another.
        if record.unwrap_or_default().crc64nvme != decided || facts.len_bytes != part.len_bytes {
            return Err(StoreError::Conflict);
        }
        Ok(opened)
    }
}
