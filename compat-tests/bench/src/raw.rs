//! What the disk itself takes: write to a temporary name, fsync, rename. Nothing else.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Result;
use crate::load::{Block, Work, run};

/// How a raw write ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// With the rename.
    Rename,
    /// With an fsync of the directory after the rename: what strict durability asks for.
    SyncDirectory,
}

/// Writes `data` again and again on `threads` threads. `names` bounds the names each thread uses
/// in turn; more than that and it overwrites.
pub fn write_loop(
    dir: &Path,
    data: &[u8],
    threads: usize,
    names: usize,
    finish: Finish,
    limit: Duration,
) -> Result<Block> {
    fs::create_dir_all(dir)?;
    let work = (0..threads)
        .map(|thread| writer(dir.to_owned(), data, thread, names, finish))
        .collect::<Result<Vec<_>>>()?;
    let block = run(work, limit)?;
    fs::remove_dir_all(dir)?;
    Ok(block)
}

fn writer(
    dir: PathBuf,
    data: &[u8],
    thread: usize,
    names: usize,
    finish: Finish,
) -> Result<Work<'_>> {
    let handle = File::open(&dir)?;
    let temporary = dir.join(format!(".tmp-{thread}"));
    let mut count = 0;
    Ok(Box::new(move || {
        let mut file = File::create(&temporary)?;
        file.write_all(data)?;
        file.sync_all()?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the plain loop that publication is measured against"
        )]
        fs::rename(&temporary, dir.join(format!("{thread}-{}", count % names)))?;
        if finish == Finish::SyncDirectory {
            handle.sync_all()?;
        }
        count += 1;
        Ok(Some(data.len() as u64))
    }))
}
