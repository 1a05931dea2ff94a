//! Which place a path names: the root, a bucket, or something below one, which may have a key.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::files::{Errno, FilePath, FileResult};
use crate::keypath::{key_of_marker, key_of_plain};
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;

/// A path, told apart.
#[derive(Debug)]
pub(super) enum Place<'p> {
    /// The volume's root.
    Root,
    /// A name in the root that a bucket can have.
    Bucket(BucketName),
    /// A path below such a name.
    Below(Below<'p>),
}

/// A path below a bucket.
#[derive(Debug)]
pub(super) struct Below<'p> {
    /// The whole path.
    pub path: &'p FilePath,
    /// The bucket.
    pub bucket: BucketName,
    /// The path below the bucket.
    pub rest: &'p OsStr,
    /// The directory that it is in.
    pub parent: FilePath,
    /// Its name there.
    pub name: &'p OsStr,
}

/// The bucket that a name in the root can be. What can be none does not exist for a mount:
/// portico's own directory among it.
pub(super) fn bucket_of(name: &OsStr) -> FileResult<BucketName> {
    let name = name.to_str().ok_or(Errno::NOENT)?;
    BucketName::parse(name).map_err(|_| Errno::NOENT)
}

/// Tells a path apart. Errors: ENOENT where it is not below a name that a bucket can have.
pub(super) fn place_of(path: &FilePath) -> FileResult<Place<'_>> {
    let Some((bucket, rest)) = path.in_bucket() else {
        return Ok(Place::Root);
    };
    let bucket = bucket_of(bucket)?;
    if rest.is_empty() {
        return Ok(Place::Bucket(bucket));
    }
    let (parent, name) = path.split().ok_or(Errno::NOENT)?;
    Ok(Place::Below(Below {
        path,
        bucket,
        rest,
        parent,
        name,
    }))
}

/// As [`place_of`], for what is made or moved: in the root that is nothing but a bucket.
/// Errors: EPERM, ENOENT.
pub(super) fn below(path: &FilePath) -> FileResult<Below<'_>> {
    match place_of(path) {
        Ok(Place::Below(below)) => Ok(below),
        Ok(Place::Root | Place::Bucket(_)) => Err(Errno::PERM),
        // A name in the root that no bucket can have.
        Err(_) if path.components().count() == 1 => Err(Errno::PERM),
        Err(e) => Err(e),
    }
}

impl Below<'_> {
    /// The object that stands here where a file does; none where no key has this path.
    pub fn object(&self) -> Option<Locator> {
        let key = key_of_plain(self.rest.as_bytes())?;
        Some(Locator::new(self.bucket.clone(), key))
    }

    /// The object that the directory here can be.
    pub fn marker(&self) -> Option<Locator> {
        let key = key_of_marker(self.rest.as_bytes())?;
        Some(Locator::new(self.bucket.clone(), key))
    }
}

/// The object at a path, where there can be one.
pub(super) fn object_at(path: &FilePath) -> Option<Locator> {
    match place_of(path) {
        Ok(Place::Below(below)) => below.object(),
        _ => None,
    }
}

/// Keys as the intent log takes them.
pub(super) fn keys<'a>(
    objects: impl IntoIterator<Item = &'a Option<Locator>>,
) -> Vec<(BucketName, ObjectKey)> {
    let objects = objects.into_iter().flatten();
    objects
        .map(|at| (at.bucket.clone(), at.key.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn path(names: &[&[u8]]) -> FilePath {
        names.iter().fold(FilePath::root(), |path, name| {
            path.join(&OsString::from_vec(name.to_vec())).unwrap()
        })
    }

    #[test]
    fn a_path_below_a_bucket_has_a_key_where_one_can_be() {
        let whole = path(&[b"b", b"x", b"y"]);
        let Ok(Place::Below(below)) = place_of(&whole) else {
            panic!("it is below a bucket");
        };
        assert_eq!(below.object().unwrap().key.as_str(), "x/y");
        assert_eq!(below.marker().unwrap().key.as_str(), "x/y/");
        assert_eq!(below.parent, path(&[b"b", b"x"]));
        assert_eq!(object_at(&path(&[b"b", b"\xff"])), None);
        assert_eq!(object_at(&path(&[b"b"])), None);
        let long = [b"b".as_slice(), &[b'x'; 250], &[b'x'; 250], &[b'x'; 250]];
        assert!(object_at(&path(&long)).is_some());
        let longer = [long.as_slice(), &[&[b'x'; 250], &[b'x'; 250]]].concat();
        assert_eq!(object_at(&path(&longer)), None);
    }

    #[test]
    fn what_is_no_bucket_does_not_exist() {
        for name in [b".portico".as_slice(), b".x", b"\xff"] {
            assert_eq!(place_of(&path(&[name])).err(), Some(Errno::NOENT));
            assert_eq!(place_of(&path(&[name, b"x"])).err(), Some(Errno::NOENT));
            assert_eq!(below(&path(&[name])).err(), Some(Errno::PERM));
            assert_eq!(below(&path(&[name, b"x"])).err(), Some(Errno::NOENT));
        }
        assert_eq!(below(&path(&[b"b"])).err(), Some(Errno::PERM));
        assert_eq!(below(&FilePath::root()).err(), Some(Errno::PERM));
    }
}
