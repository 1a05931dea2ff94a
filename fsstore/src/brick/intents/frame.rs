//! The frames of a segment: `[len u32 LE][crc32c u32 LE][payload]`.
//!
//! A segment begins with a frame of kind 0x04. In it a payload that begins with a byte below 0x20
//! is of the kind which that byte says; any other is `bucket \0 key`. In a segment of an earlier
//! version, which begins otherwise, every payload is.
//!
//! | kind | payload                                              |
//! |------|------------------------------------------------------|
//! | 0x01 | inode number u64 LE, then nothing or `bucket \0 key` |
//! | 0x02 | `bucket \0 directory`, empty for the bucket's own    |
//! | 0x03 | `bucket`                                             |
//! | 0x04 | the host's boot and the mounting in it, or empty        |
//! | 0x05 | `bucket`                                             |
//! | 0x06 | `bucket \0 key`, where the bucket's name begins so   |
//! | 0x07 | inode number u64 LE, ctime in nanoseconds i64 LE     |

use crc_fast::CrcAlgorithm;

use super::super::disk::FileFacts;
use crate::name::{BucketName, ObjectKey};

const HEADER_LEN_BYTES: usize = 8;
const MAX_FRAME_LEN_BYTES: usize = 2048;

const EDIT: u8 = 1;
const DIR: u8 = 2;
const BUCKET: u8 = 3;
const BOOT: u8 = 4;
const ROWS: u8 = 5;
const KEY: u8 = 6;
const OURS: u8 = 7;
/// A payload whose first byte is below it begins with its kind.
const KINDS_END: u8 = 0x20;

/// Tells one run of the host, and of the file system, from another: until the next, what was not
/// synced is in the page cache. Source: random(4), boot_id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootId(String);

impl BootId {
    /// Longest one kept, in bytes: the kernel's has 36.
    const MAX_LEN_BYTES: usize = 64;

    /// Takes what names a boot; none where that is empty, too long or no text.
    pub fn new(id: &str) -> Option<Self> {
        let id = id.trim();
        let fits = (1..=Self::MAX_LEN_BYTES).contains(&id.len());
        (fits && !id.contains(char::is_control)).then(|| Self(id.to_owned()))
    }

    /// This host's; none where it is not known.
    pub fn of_host() -> Option<Self> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Self::new(&id)
    }

    /// This boot, with the number of a mounting of the file system within it: a disk that was
    /// pulled out has lost what was not synced, though the host went on.
    pub fn with_mounting(self, number: u64) -> Option<Self> {
        Self::new(&format!("{} {number:x}", self.0))
    }
}

/// A directory of a bucket; empty for the bucket's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketDir {
    /// The bucket.
    pub bucket: BucketName,
    /// The path below it, without a slash at its end.
    pub path: String,
}

impl BucketDir {
    /// A directory of a bucket.
    pub fn new(bucket: &BucketName, path: &str) -> Self {
        Self {
            bucket: bucket.clone(),
            path: path.to_owned(),
        }
    }
}

impl Ours {
    /// A file as it is now.
    pub fn of(facts: &FileFacts) -> Self {
        Self {
            ino: facts.ino,
            ctime_ns: facts.ctime_ns,
        }
    }
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// This key was about to change.
    Key(BucketName, ObjectKey),
    /// This file, then at this key, was opened to be edited.
    Edit {
        /// Its inode number.
        ino: u64,
        /// Where it stood; none at a path that is no key.
        at: Option<(BucketName, ObjectKey)>,
    },
    /// Names in this directory were about to change.
    Dir(BucketDir),
    /// Names in many directories of this bucket were about to change.
    Bucket(BucketName),
    /// The segment was begun in this boot; none where that was not known.
    Boot(Option<BootId>),
    /// A whole directory of this bucket was about to be moved, or one into it.
    Rows(BucketName),
    /// A change of ours was made.
    Ours(Ours),
}

/// A file as a change of ours left it: digests that held before hold while it has this ctime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ours {
    /// Its inode number.
    pub ino: u64,
    /// In nanoseconds since the epoch.
    pub ctime_ns: i64,
}

impl Intent {
    /// Appends its frame.
    pub fn push_to(&self, frames: &mut Vec<u8>) {
        match self {
            Self::Key(bucket, key) => push_key(frames, bucket, key),
            Self::Edit { ino, at } => {
                let ino = ino.to_le_bytes();
                match at {
                    Some((bucket, key)) => push(
                        frames,
                        &[
                            &[EDIT],
                            &ino,
                            bucket.as_str().as_bytes(),
                            &[0],
                            key.as_str().as_bytes(),
                        ],
                    ),
                    None => push(frames, &[&[EDIT], &ino]),
                }
            }
            Self::Dir(dir) => push_dir(frames, &dir.bucket, &dir.path),
            Self::Bucket(bucket) => push_bucket(frames, bucket),
            Self::Boot(boot) => {
                let id = boot.as_ref().map_or("", |BootId(id)| id);
                push(frames, &[&[BOOT], id.as_bytes()]);
            }
            Self::Rows(bucket) => push_rows(frames, bucket),
            Self::Ours(ours) => push_ours(frames, *ours),
        }
    }
}

/// Appends a key's frame.
pub fn push_key(frames: &mut Vec<u8>, bucket: &BucketName, key: &ObjectKey) {
    let (bucket, key) = (bucket.as_str().as_bytes(), key.as_str().as_bytes());
    let kind: &[u8] = match bucket[0] {
        ..KINDS_END => &[KEY],
        _ => &[],
    };
    push(frames, &[kind, bucket, &[0], key]);
}

/// Appends a directory's frame.
pub fn push_dir(frames: &mut Vec<u8>, bucket: &BucketName, path: &str) {
    let bucket = bucket.as_str().as_bytes();
    push(frames, &[&[DIR], bucket, &[0], path.as_bytes()]);
}

/// Appends a bucket's frame.
pub fn push_bucket(frames: &mut Vec<u8>, bucket: &BucketName) {
    push(frames, &[&[BUCKET], bucket.as_str().as_bytes()]);
}

/// Appends the frame of a bucket in which whole directories move.
pub fn push_rows(frames: &mut Vec<u8>, bucket: &BucketName) {
    push(frames, &[&[ROWS], bucket.as_str().as_bytes()]);
}

/// Appends the frame of a file as a change of ours left it.
pub fn push_ours(frames: &mut Vec<u8>, ours: Ours) {
    let (ino, ctime_ns) = (ours.ino.to_le_bytes(), ours.ctime_ns.to_le_bytes());
    push(frames, &[&[OURS], &ino, &ctime_ns]);
}

fn push(frames: &mut Vec<u8>, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(len <= MAX_FRAME_LEN_BYTES, "names are bounded");
    let start = frames.len();
    frames.extend_from_slice(&(len as u32).to_le_bytes());
    frames.extend_from_slice(&[0; 4]);
    for part in parts {
        frames.extend_from_slice(part);
    }
    let crc = crc_of(&frames[start + HEADER_LEN_BYTES..]);
    frames[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

fn crc_of(payload: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, payload) as u32
}

/// What stands at the beginning of some bytes.
pub enum Frame<'a> {
    /// A frame, what it says (none where a later version wrote it), and what follows.
    Whole(Option<Intent>, &'a [u8]),
    /// Not all of it is there.
    Short,
    /// No frame.
    Torn,
}

/// Reads a frame; `has_kinds` says that the segment begins with its boot, or that this is to be
/// found out.
pub fn next_frame(bytes: &[u8], has_kinds: bool) -> Frame<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN_BYTES>() else {
        return Frame::Short;
    };
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i]));
    let len = word(0) as usize;
    if len == 0 || len > MAX_FRAME_LEN_BYTES {
        return Frame::Torn;
    }
    let Some((payload, rest)) = rest.split_at_checked(len) else {
        return Frame::Short;
    };
    if crc_of(payload) != word(4) {
        return Frame::Torn;
    }
    match payload[0] {
        kind @ ..KINDS_END if has_kinds => Frame::Whole(intent_of(kind, &payload[1..]), rest),
        _ => match key_of(payload) {
            Some((bucket, key)) => Frame::Whole(Some(Intent::Key(bucket, key)), rest),
            None => Frame::Torn,
        },
    }
}

fn intent_of(kind: u8, payload: &[u8]) -> Option<Intent> {
    match kind {
        EDIT => {
            let (ino, at) = payload.split_first_chunk::<8>()?;
            let at = match at {
                [] => None,
                at => Some(key_of(at)?),
            };
            let ino = u64::from_le_bytes(*ino);
            Some(Intent::Edit { ino, at })
        }
        DIR => {
            let (bucket, path) = std::str::from_utf8(payload).ok()?.split_once('\0')?;
            Some(Intent::Dir(BucketDir::new(&bucket_of(bucket)?, path)))
        }
        BUCKET => bucket_of(std::str::from_utf8(payload).ok()?).map(Intent::Bucket),
        ROWS => bucket_of(std::str::from_utf8(payload).ok()?).map(Intent::Rows),
        OURS => {
            let (ino, ctime_ns) = payload.split_first_chunk()?;
            Some(Intent::Ours(Ours {
                ino: u64::from_le_bytes(*ino),
                ctime_ns: i64::from_le_bytes(ctime_ns.try_into().ok()?),
            }))
        }
        BOOT if payload.is_empty() => Some(Intent::Boot(None)),
        BOOT => {
            let boot = BootId::new(std::str::from_utf8(payload).ok()?)?;
            Some(Intent::Boot(Some(boot)))
        }
        KEY => key_of(payload).map(|(bucket, key)| Intent::Key(bucket, key)),
        _ => None,
    }
}

fn bucket_of(name: &str) -> Option<BucketName> {
    BucketName::parse(name).ok()
}

fn key_of(payload: &[u8]) -> Option<(BucketName, ObjectKey)> {
    let (bucket, key) = std::str::from_utf8(payload).ok()?.split_once('\0')?;
    Some((bucket_of(bucket)?, ObjectKey::parse(key).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_intents() -> Vec<Intent> {
        let bucket = BucketName::parse("bucket").unwrap();
        let key = ObjectKey::parse("a/b\u{1}c").unwrap();
        vec![
            Intent::Boot(BootId::new("7a-b")),
            Intent::Boot(None),
            Intent::Key(bucket.clone(), key.clone()),
            Intent::Key(BucketName::parse("\u{4}\u{1}").unwrap(), key.clone()),
            Intent::Edit {
                ino: 0x0102,
                at: Some((bucket.clone(), key)),
            },
            Intent::Edit {
                ino: u64::MAX,
                at: None,
            },
            Intent::Dir(BucketDir::new(&bucket, "x/y")),
            Intent::Dir(BucketDir::new(&bucket, "")),
            Intent::Bucket(bucket.clone()),
            Intent::Rows(bucket),
            Intent::Ours(Ours {
                ino: u64::MAX,
                ctime_ns: -2,
            }),
        ]
    }

    #[test]
    fn every_kind_comes_back() {
        let (intents, mut frames) = (some_intents(), Vec::new());
        intents
            .iter()
            .for_each(|intent| intent.push_to(&mut frames));
        let mut rest = &frames[..];
        for intent in intents {
            let Frame::Whole(Some(read), after) = next_frame(rest, true) else {
                panic!("{intent:?} is not read");
            };
            assert_eq!(read, intent);
            rest = after;
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_cut_frame_is_short_and_a_changed_one_torn() {
        for intent in some_intents() {
            let mut frame = Vec::new();
            intent.push_to(&mut frame);
            for end in 0..frame.len() {
                assert!(matches!(next_frame(&frame[..end], true), Frame::Short));
            }
            for at in HEADER_LEN_BYTES..frame.len() {
                frame[at] ^= 0x40;
                assert!(matches!(next_frame(&frame, true), Frame::Torn));
                frame[at] ^= 0x40;
            }
        }
    }

    #[test]
    fn a_kind_of_a_later_version_is_passed_over() {
        let mut frames = Vec::new();
        push(&mut frames, &[&[0x1f], b"something"]);
        let known = some_intents().remove(0);
        known.push_to(&mut frames);
        let Frame::Whole(None, rest) = next_frame(&frames, true) else {
            panic!("not passed over");
        };
        assert!(matches!(next_frame(rest, true), Frame::Whole(Some(read), _) if read == known));
    }

    #[test]
    fn the_host_has_a_boot_id() {
        assert_eq!(BootId::of_host(), BootId::of_host());
        assert!(BootId::of_host().is_some());
    }

    #[test]
    fn another_mounting_is_another_run() {
        let boot = BootId::of_host().unwrap();
        let first = boot.clone().with_mounting(u64::MAX);
        assert!(first.is_some());
        assert_ne!(first, boot.clone().with_mounting(7));
        assert_ne!(first, Some(boot));
    }

    #[test]
    fn what_an_earlier_version_wrote_is_a_key() {
        let payload: &[&[u8]] = &[b"\x04bucket", &[0], b"k"];
        let mut frame = Vec::new();
        push(&mut frame, payload);
        let Frame::Whole(Some(Intent::Key(bucket, _)), _) = next_frame(&frame, false) else {
            panic!("no key");
        };
        assert_eq!(bucket.as_str(), "\u{4}bucket");
        // Nor is it taken for a segment's beginning.
        assert!(!matches!(
            next_frame(&frame, true),
            Frame::Whole(Some(Intent::Boot(_)), _)
        ));
    }
}
