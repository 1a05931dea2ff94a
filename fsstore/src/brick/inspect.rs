//! A volume looked at from outside, for commands. Nothing is changed in it, and a server may be
//! running, except where a method says otherwise. Blocking, but for what is async.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;

use super::buckets::Buckets;
use super::disk::FileFacts;
use super::index::{Index, KeyRange, MAX_FETCH_ROWS, Row};
use super::look::state_of;
use super::osdisk::OsDisk;
use super::sink::off_thread;
use super::tree::Tree;
use super::walk::{Step, walk};
use crate::by_bucket::ByBucket;
use crate::error::{Result, StoreError};
use crate::keypath::{self, KEYS_DIR, RESERVED};
use crate::name::{BucketName, ObjectKey};
use crate::object::{Locator, ObjectInfo};
use crate::volume::{BucketInfo, Durability, MAX_PAGE};

/// Most keys that a check of the index names for each bucket.
pub const MAX_EXAMPLES: usize = 10;

/// A volume's tree, to look at.
pub struct Inspector {
    tree: Tree<OsDisk>,
    buckets: Buckets,
    index_dir: PathBuf,
}

/// What a bucket holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketTotals {
    /// The bucket.
    pub info: BucketInfo,
    /// Number of objects.
    pub objects: u64,
    /// Their length in bytes, all together.
    pub len_bytes: u64,
}

/// What is known of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The object. Its digests are as its record has them; whether its ctime moved without our
    /// doing only the index knows.
    pub info: ObjectInfo,
    /// Inode number of its file.
    pub ino: u64,
    /// True where its key is not its path.
    pub is_escaped: bool,
    /// True where its file has a record at all.
    pub has_record: bool,
}

/// How the index of one bucket differs from the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketCheck {
    /// The bucket.
    pub bucket: BucketName,
    /// Objects in the tree.
    pub objects: u64,
    /// Objects that the index lacks.
    pub missing: u64,
    /// Rows of the index without an object.
    pub extra: u64,
    /// Rows that describe another state of the file than it has.
    pub stale: u64,
    /// The first keys that are wrong, up to [`MAX_EXAMPLES`].
    pub examples: Vec<ObjectKey>,
}

impl BucketCheck {
    /// True where the index says what the tree says.
    pub fn is_true(&self) -> bool {
        (self.missing, self.extra, self.stale) == (0, 0, 0)
    }

    fn note(&mut self, key: &ObjectKey) {
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(key.clone());
        }
    }
}

/// Finds the volume that a file is in, and the object that it is. None where the file is not in
/// a volume or is none of its objects.
pub fn locate(path: &Path) -> Result<Option<(PathBuf, Locator)>> {
    let fail = |e| StoreError::from_io("look at the path", e);
    let is_dir = std::fs::symlink_metadata(path).map_err(fail)?.is_dir();
    let absolute = match (path.parent(), path.file_name()) {
        // The last component is not resolved: a symbolic link is a key of its own.
        (Some(parent), Some(name)) if !is_dir => {
            let here = Path::new(".");
            let parent = if parent.as_os_str().is_empty() {
                here
            } else {
                parent
            };
            parent.canonicalize().map_err(fail)?.join(name)
        }
        _ => path.canonicalize().map_err(fail)?,
    };
    for root in absolute.ancestors().skip(1) {
        let own = root.join(RESERVED);
        if own.join("staging").is_dir() && own.join("index").is_dir() {
            let inside = absolute.strip_prefix(root).ok();
            let inside = inside.and_then(Path::to_str).unwrap_or_default();
            return Ok(locator_of(inside, is_dir).map(|at| (root.to_owned(), at)));
        }
    }
    Ok(None)
}

/// The object at a path below a volume's root.
fn locator_of(inside: &str, is_dir: bool) -> Option<Locator> {
    let (bucket, rest) = inside.split_once('/')?;
    if bucket == RESERVED {
        let (bucket, escaped) = rest
            .strip_prefix(KEYS_DIR)?
            .strip_prefix('/')?
            .split_once('/')?;
        let key = keypath::decode_escaped(escaped)?;
        return Some(Locator::new(BucketName::parse(bucket).ok()?, key));
    }
    let key = match is_dir {
        true => keypath::key_of_marker(rest.as_bytes())?,
        false => keypath::key_of_plain(rest.as_bytes())?,
    };
    Some(Locator::new(BucketName::parse(bucket).ok()?, key))
}

impl Inspector {
    /// Opens a volume that a server has opened before. Errors: Io, AccessDenied.
    pub fn open(root: &Path, durability: ByBucket<Durability>) -> Result<Self> {
        let own = root.join(RESERVED);
        let disk = OsDisk::open(root, &own.join("staging"))
            .map_err(|e| StoreError::from_io("open the volume", e))?;
        Ok(Self {
            tree: Tree::open(Arc::new(disk))?,
            buckets: Buckets::new(durability),
            index_dir: own.join("index"),
        })
    }

    /// Every bucket, by name.
    pub fn buckets(&self) -> Result<Vec<BucketInfo>> {
        let mut all: Vec<BucketInfo> = Vec::new();
        loop {
            let after = all.last().map(|bucket| bucket.name.as_str().to_owned());
            let page = self
                .buckets
                .list(&self.tree, "", after.as_deref(), MAX_PAGE)?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// Counts a bucket's objects by a walk. Errors: NoSuchBucket.
    pub fn totals(&self, name: &BucketName) -> Result<BucketTotals> {
        let mut totals = BucketTotals {
            info: (*self.buckets.load(&self.tree, name)?).clone(),
            objects: 0,
            len_bytes: 0,
        };
        walk(&self.tree, name, None, &mut |met| {
            if let Some(facts) = self.facts(name, &met.key, met.facts)? {
                totals.objects += 1;
                totals.len_bytes += facts.len_bytes;
            }
            Ok(Step::Next)
        })?;
        Ok(totals)
    }

    /// The facts of an object that a walk met; none where it turns out to be none.
    fn facts(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        met: Option<FileFacts>,
    ) -> Result<Option<FileFacts>> {
        if met.is_some() {
            return Ok(met);
        }
        let found = self.tree.find(&Locator::new(bucket.clone(), key.clone()))?;
        Ok(found.map(|found| found.facts))
    }

    /// Describes an object. Errors: NoSuchKey.
    pub fn describe(&self, at: &Locator) -> Result<Described> {
        let found = self.tree.find(at)?.ok_or(StoreError::NoSuchKey)?;
        let record = match (&found.marker, &found.file) {
            (Some(record), _) => Some(record.clone()),
            (None, Some(file)) => self.tree.records.load(file, &found.facts)?,
            (None, None) => None,
        };
        let has_record = record.is_some();
        let record = record.unwrap_or_default();
        let info = match (&found.marker, record.to_marker_info(at.key.clone())) {
            (Some(_), Some(info)) => info,
            _ => record.to_object_info(at.key.clone(), &state_of(&found.facts)),
        };
        Ok(Described {
            info,
            ino: found.facts.ino,
            is_escaped: found.escaped,
            has_record,
        })
    }

    /// Compares the index with the tree, as a clean stop left them. No server may be running:
    /// the index has one owner. Buckets that only the index has are among the answers.
    pub async fn check_index(self) -> Result<Vec<BucketCheck>> {
        let (index, _) = Index::open(&self.index_dir).await?;
        let index = Arc::new(index);
        let (shared, runtime) = (Arc::clone(&index), Handle::current());
        let checks = off_thread(move || {
            let mut names: Vec<BucketName> = self
                .buckets()?
                .into_iter()
                .map(|bucket| bucket.name)
                .collect();
            names.extend(shared.buckets().into_iter().map(|(name, _)| name));
            names.sort();
            names.dedup();
            let check = |name| self.check_bucket(&shared, &runtime, name);
            names.into_iter().map(check).collect()
        })
        .await;
        if let Ok(index) = Arc::try_unwrap(index).map_err(drop) {
            index.close().await?;
        }
        checks
    }

    fn check_bucket(
        &self,
        index: &Index,
        runtime: &Handle,
        bucket: BucketName,
    ) -> Result<BucketCheck> {
        let mut rows = Rows::new(index, runtime, &bucket);
        let mut check = BucketCheck {
            bucket: bucket.clone(),
            objects: 0,
            missing: 0,
            extra: 0,
            stale: 0,
            examples: Vec::new(),
        };
        let walked = walk(&self.tree, &bucket, None, &mut |met| {
            let Some(facts) = self.facts(&bucket, &met.key, met.facts)? else {
                return Ok(Step::Next);
            };
            check.objects += 1;
            while let Some((key, _)) = rows.next_if(|key| *key < met.key)? {
                check.extra += 1;
                check.note(&key);
            }
            match rows.next_if(|key| *key == met.key)? {
                None => {
                    check.missing += 1;
                    check.note(&met.key);
                }
                Some((key, row)) if met.facts.is_some() && differs(&row, &facts) => {
                    check.stale += 1;
                    check.note(&key);
                }
                Some(_) => {}
            }
            Ok(Step::Next)
        });
        match walked {
            Ok(_) | Err(StoreError::NoSuchBucket) => {}
            Err(error) => return Err(error),
        }
        while let Some((key, _)) = rows.next_if(|_| true)? {
            check.extra += 1;
            check.note(&key);
        }
        Ok(check)
    }
}

fn differs(row: &Row, facts: &FileFacts) -> bool {
    (row.ino, row.ctime_ns, row.mtime_ns, row.len_bytes)
        != (facts.ino, facts.ctime_ns, facts.mtime_ns, facts.len_bytes)
}

/// The rows of a bucket in order, a page in memory at a time.
struct Rows<'a> {
    index: &'a Index,
    runtime: &'a Handle,
    bucket: &'a BucketName,
    page: VecDeque<(ObjectKey, Row)>,
    range: Option<KeyRange>,
}

impl<'a> Rows<'a> {
    fn new(index: &'a Index, runtime: &'a Handle, bucket: &'a BucketName) -> Self {
        Self {
            index,
            runtime,
            bucket,
            page: VecDeque::new(),
            range: Some(KeyRange::all()),
        }
    }

    /// Takes the next row where its key is as wanted.
    fn next_if(
        &mut self,
        is_wanted: impl Fn(&ObjectKey) -> bool,
    ) -> Result<Option<(ObjectKey, Row)>> {
        if self.page.is_empty()
            && let Some(range) = self.range.take()
        {
            let rows = self.index.rows(self.bucket, &range, MAX_FETCH_ROWS);
            self.page = self.runtime.block_on(rows)?.into();
            if self.page.len() == MAX_FETCH_ROWS {
                let last = self.page.back().map(|(key, _)| key.as_str().to_owned());
                self.range = last.map(|last| KeyRange::all().after(&last));
            }
        }
        match self.page.front() {
            Some((key, _)) if is_wanted(key) => Ok(self.page.pop_front()),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::brick::{Brick, BrickOptions};
    use crate::volume::{CommitOptions, NewBucket, StageOptions, Staged, Volume};

    fn bucket() -> BucketName {
        BucketName::parse("b").unwrap()
    }

    fn at(key: &str) -> Locator {
        Locator::new(bucket(), ObjectKey::parse(key).unwrap())
    }

    /// A volume with these objects, each with its key for bytes, made and closed.
    async fn volume(keys: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let brick = Brick::open(BrickOptions::new(dir.path())).await.unwrap();
        brick
            .create_bucket(&bucket(), NewBucket::default())
            .await
            .unwrap();
        for key in keys {
            let mut staged = brick
                .stage(&at(key), StageOptions::default())
                .await
                .unwrap();
            staged.write(Bytes::from((*key).to_owned())).await.unwrap();
            staged.commit(CommitOptions::default()).await.unwrap();
        }
        brick.close().await.unwrap();
        dir
    }

    fn open(dir: &Path) -> Inspector {
        Inspector::open(dir, ByBucket::default()).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_index_that_was_closed_is_true_and_each_kind_of_error_is_counted() {
        let dir = volume(&["a", "a/b", "c//d", "e/f", "g"]).await;
        let checks = open(dir.path()).check_index().await.unwrap();
        assert_eq!(checks.len(), 1);
        assert!(checks[0].is_true(), "{checks:?}");
        assert_eq!(checks[0].objects, 5);

        let place = dir.path().join("b");
        std::fs::write(place.join("new"), b"1").unwrap();
        std::fs::write(place.join("g"), b"other bytes").unwrap();
        std::fs::remove_file(place.join("e/f")).unwrap();
        let check = open(dir.path()).check_index().await.unwrap().remove(0);
        assert_eq!((check.missing, check.extra, check.stale), (1, 1, 1));
        let wrong: Vec<&str> = check.examples.iter().map(ObjectKey::as_str).collect();
        assert_eq!(wrong, ["e/f", "g", "new"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_bucket_is_counted_with_its_awkward_keys() {
        let dir = volume(&["a", "a/b", "c//d"]).await;
        let totals = open(dir.path()).totals(&bucket()).unwrap();
        assert_eq!((totals.objects, totals.len_bytes), (3, 8));
        assert_eq!(open(dir.path()).buckets().unwrap(), [totals.info]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_path_is_the_object_that_stands_there() {
        let dir = volume(&["d/plain", "c//d"]).await;
        let root = dir.path().canonicalize().unwrap();
        let plain = locate(&root.join("b/d/plain")).unwrap();
        assert_eq!(plain, Some((root.clone(), at("d/plain"))));
        let own = root.join(RESERVED).join(KEYS_DIR).join("b");
        let escaped = own.join(keypath::escaped_path(&at("c//d").key));
        assert_eq!(locate(&escaped).unwrap(), Some((root.clone(), at("c//d"))));
        assert_eq!(locate(&root.join(RESERVED).join("index")).unwrap(), None);

        let described = open(&root).describe(&at("d/plain")).unwrap();
        assert!(described.has_record && !described.is_escaped);
        assert!(!described.info.etag.is_provisional());
        std::fs::write(root.join("b/d/plain"), b"changed").unwrap();
        let described = open(&root).describe(&at("d/plain")).unwrap();
        assert!(described.info.etag.is_provisional());
        let outside = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(locate(outside.path()).unwrap(), None);
    }
}
