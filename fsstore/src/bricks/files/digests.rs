//! Digests of files that a mount has written: taken on one brick once nobody writes any more, and
//! logged for all, bound to the change that left the bytes.

use std::sync::Arc;
use std::time::Duration;

use super::super::Bricks;
use super::super::kinds::Name;
use super::change::FileChange;
use super::open::of_file;
use super::writing::Inode;
use crate::brick::HashPolicy;
use crate::brick::look::state_of;
use crate::brick::osdisk::OsDisk;
use crate::brick::sink::off_thread;
use crate::error::{Result, StoreError};

/// How often a file is read that changes meanwhile, and the pause after the first time.
const MAX_ROUNDS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(50);

impl Bricks<OsDisk> {
    /// The last who wrote to a file has closed it.
    pub(super) fn digest_after_edit(&self, inode: Arc<Inode>) {
        let bricks = self.clone();
        self.shared.runtime.spawn(async move {
            if let Err(error) = bricks.digest(&inode).await {
                let at = inode.lock().at.clone();
                tracing::debug!(bucket = %at.bucket, key = %at.key, %error, "not hashed");
            }
        });
    }

    async fn digest(&self, inode: &Inode) -> Result<()> {
        for round in 1..=MAX_ROUNDS {
            if self.digest_once(inode).await? {
                return Ok(());
            }
            tokio::time::sleep(PAUSE * round).await;
        }
        Ok(())
    }

    /// Gives whether nothing is left to do: else the file changed meanwhile.
    async fn digest_once(&self, inode: &Inode) -> Result<bool> {
        inode.settle().await;
        let at = inode.lock().at.clone();
        let (group, ident) = (self.shared.group_of(&at), inode.ident);
        let reader = self.shared.reader(group).await?;
        let asked = reader.inner.hash_edited(&at.bucket);
        if !matches!(asked, HashPolicy::OnClose | HashPolicy::Background) {
            return Ok(true);
        }
        let (place, inner) = (at.clone(), Arc::clone(&reader.inner));
        let Some((of, digests)) = off_thread(move || inner.digest_of(&place, ident)).await? else {
            return Ok(true);
        };
        if inode.lock().writers > 0 {
            // Whoever closes it last has it done.
            return Ok(true);
        }
        let Some(digests) = digests else {
            return Ok(false);
        };
        let names = vec![Name::object(&at)];
        let logged = self.shared.change_file(group, names, move |inner| {
            let standing = inner.ident_at(&at)?;
            let it =
                standing.filter(|(found, record, _)| *found == ident && record.stamp == Some(of));
            let Some((_, _, facts)) = it else {
                return Ok(Ok((None, false)));
            };
            let change = FileChange::Digests {
                ident,
                of: (of.epoch, of.seq),
                md5: digests.md5,
                crc64nvme: digests.crc64nvme,
                shown: state_of(&facts).provisional_tag(),
            };
            Ok(Ok((Some(of_file(&at, change)), true)))
        });
        let failed = |errno: crate::files::Errno| StoreError::from_io("log digests", errno.into());
        logged.await.map_err(failed)
    }
}
