//! What the replicated log is made of: names, changes, and what heals a brick.
//!
//! A change says all that becomes of its names, decided once: applied anywhere it leaves the same
//! bytes, times and attributes. It is written down as JSON; see [`super::log`].

use std::collections::BTreeMap;
use std::sync::Arc;

use placement::replica::{Effect, Kinds, Position};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::files::change::{FileChange, Posix, Special};
use super::healing::Held;
use crate::brick::attrs::{Record, Stamp};
use crate::name::{BucketName, ObjectKey, UploadId, hex};
use crate::object::{
    Attributes, ChecksumKind, DigestAlgorithm, FileOwner, Locator, PartInfo, Timestamp,
};
use crate::volume::{BucketInfo, Durability};

/// The kinds of a volume of files.
#[derive(Debug, Clone)]
pub struct Kept;

impl Kinds for Kept {
    type Name = Name;
    type Body = Option<Arc<Change>>;
    type Copy = Arc<Copied>;
    type Page = Arc<Listed>;

    fn is_heavy(body: &Self::Body) -> bool {
        body.as_ref().is_some_and(|change| change.bytes().is_some())
    }
}

/// Something that changes as one. Buckets come first, then directories,
/// those above before those below, then objects, then uploads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Name {
    /// A bucket, with what is known of it.
    #[serde(rename = "b")]
    Bucket(BucketName),
    /// A directory, where a mount made it or changed it.
    #[serde(rename = "d")]
    Dir(BucketName, ObjectKey),
    /// An object, or what else but a directory stands at its path.
    #[serde(rename = "o")]
    Object(BucketName, ObjectKey),
    /// An upload under way, with its parts.
    #[serde(rename = "u")]
    Upload(BucketName, ObjectKey, UploadId),
}

impl Name {
    /// The object at a place.
    pub fn object(at: &Locator) -> Self {
        Self::Object(at.bucket.clone(), at.key.clone())
    }

    /// An upload to a place.
    pub fn upload(at: &Locator, id: &UploadId) -> Self {
        Self::Upload(at.bucket.clone(), at.key.clone(), id.clone())
    }
}

/// What is kept of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketFacts {
    /// When it was created.
    pub created_ns: i64,
    /// Who owns it.
    pub owner: Option<String>,
    /// Documents kept with it.
    pub settings: BTreeMap<String, String>,
}

impl BucketFacts {
    /// As doors are told it.
    pub fn info(&self, name: &BucketName) -> BucketInfo {
        BucketInfo {
            name: name.clone(),
            created: Timestamp(self.created_ns),
            owner: self.owner.clone(),
            durability: Durability::Strict,
            settings: self.settings.clone(),
        }
    }
}

/// A new object's record and time; its bytes are staged under the change's number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewObject {
    /// Length in bytes.
    pub len_bytes: u64,
    /// Its time.
    pub modified_ns: i64,
    /// Its record, without the state of any file.
    #[serde(with = "record_in_hex")]
    pub record: Record,
    /// To whom it belongs.
    pub owner: FileOwner,
    /// Permissions and attributes of a file that a mount moved here; none for what is put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posix: Option<Box<Posix>>,
    /// Where it stood before, where a mount moved it: the name there goes next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_from: Option<(BucketName, ObjectKey)>,
}

/// What an upload was begun with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BegunUpload {
    /// When.
    pub begun_ns: i64,
    /// The attributes its object will have.
    pub attrs: Attributes,
    /// The checksum asked for.
    pub checksum: Option<(DigestAlgorithm, ChecksumKind)>,
    /// To whom the object will belong.
    pub owner: FileOwner,
}

/// One change, as it is logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// The staged file gets its name; an upload it was composed of ends.
    Put {
        /// Where.
        bucket: BucketName,
        /// Where.
        key: ObjectKey,
        /// What.
        new: Box<NewObject>,
        /// The upload that ends with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upload: Option<UploadId>,
    },
    /// The object goes.
    Remove {
        /// Where.
        bucket: BucketName,
        /// Where.
        key: ObjectKey,
    },
    /// Attributes of an object that stays.
    Patch {
        /// Where.
        bucket: BucketName,
        /// Where.
        key: ObjectKey,
        /// All of them.
        attrs: Box<Attributes>,
        /// Its new time, where it gets one.
        touched_ns: Option<i64>,
        /// To whom it is given, where it is.
        owner: Option<FileOwner>,
    },
    /// The bucket is there, and this is what is known of it.
    KeepBucket {
        /// Which.
        bucket: BucketName,
        /// What.
        facts: BucketFacts,
        /// To whom a directory made for it belongs.
        owner: FileOwner,
    },
    /// The bucket goes; it has no object.
    RemoveBucket {
        /// Which.
        bucket: BucketName,
        /// When that one was created: a later one of the name stays.
        created_ns: i64,
    },
    /// An upload begins.
    Begin {
        /// To where.
        bucket: BucketName,
        /// To where.
        key: ObjectKey,
        /// Its id.
        id: UploadId,
        /// What was said.
        begun: Box<BegunUpload>,
    },
    /// The staged file is a part.
    Part {
        /// To where.
        bucket: BucketName,
        /// To where.
        key: ObjectKey,
        /// The upload.
        id: UploadId,
        /// What it is.
        part: Box<PartInfo>,
    },
    /// What a mount changes at the path of an object.
    File {
        /// Where.
        bucket: BucketName,
        /// Where.
        key: ObjectKey,
        /// What.
        change: Box<FileChange>,
    },
    /// What a mount changes of a directory.
    Dir {
        /// Where.
        bucket: BucketName,
        /// Its path, as a key without a slash at the end.
        path: ObjectKey,
        /// What.
        change: Box<FileChange>,
    },
    /// An upload ends without an object.
    End {
        /// To where.
        bucket: BucketName,
        /// To where.
        key: ObjectKey,
        /// The upload.
        id: UploadId,
    },
}

impl Change {
    /// The names it changes, and whether what becomes of each depends on what was there.
    pub fn effects(&self) -> Vec<Effect<Name>> {
        let effect = |name, is_derived| Effect { name, is_derived };
        match self {
            Self::Put {
                bucket,
                key,
                upload,
                ..
            } => {
                let mut effects = vec![effect(Name::Object(bucket.clone(), key.clone()), false)];
                if let Some(id) = upload {
                    let name = Name::Upload(bucket.clone(), key.clone(), id.clone());
                    effects.push(effect(name, false));
                }
                effects
            }
            Self::Remove { bucket, key } => {
                vec![effect(Name::Object(bucket.clone(), key.clone()), false)]
            }
            Self::Patch { bucket, key, .. } => {
                vec![effect(Name::Object(bucket.clone(), key.clone()), true)]
            }
            Self::KeepBucket { bucket, .. } | Self::RemoveBucket { bucket, .. } => {
                vec![effect(Name::Bucket(bucket.clone()), false)]
            }
            Self::Begin {
                bucket, key, id, ..
            }
            | Self::End { bucket, key, id } => {
                let name = Name::Upload(bucket.clone(), key.clone(), id.clone());
                vec![effect(name, false)]
            }
            Self::File {
                bucket,
                key,
                change,
            } => {
                let is_derived = change.is_derived();
                let name = Name::Object(bucket.clone(), key.clone());
                let other = change.other().cloned();
                let other = other.map(|(bucket, key)| Name::Object(bucket, key));
                let names = std::iter::once(name).chain(other);
                names.map(|name| effect(name, is_derived)).collect()
            }
            Self::Dir {
                bucket,
                path,
                change,
            } => {
                let name = Name::Dir(bucket.clone(), path.clone());
                vec![effect(name, change.is_derived())]
            }
            Self::Part {
                bucket, key, id, ..
            } => {
                let name = Name::Upload(bucket.clone(), key.clone(), id.clone());
                vec![effect(name, true)]
            }
        }
    }

    /// The bytes that stand beside it in the log.
    pub fn bytes(&self) -> Option<&bytes::Bytes> {
        match self {
            Self::File { change, .. } => change.bytes(),
            _ => None,
        }
    }

    /// Gives it the bytes that stood beside it.
    pub fn set_bytes(&mut self, found: bytes::Bytes) {
        if let Self::File { change, .. } = self {
            change.set_bytes(found);
        }
    }

    /// Whether bytes were staged for it.
    pub fn has_staged(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Part { .. })
    }
}

/// A position as files keep it.
pub fn stamp_of(at: Position) -> Stamp {
    Stamp {
        epoch: at.epoch,
        seq: at.seq,
    }
}

/// Names of a range with what tells whether another brick has the same.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// The last name before the range; none from the first on.
    pub after: Option<Name>,
    /// The last of the range; none to the last of all.
    pub upto: Option<Name>,
    /// The names, in order, each with its mark.
    pub names: BTreeMap<Name, Mark>,
}

/// What tells two versions of a name apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The change that made it; none for what is older than the layer.
    pub stamp: Option<Stamp>,
    /// What tells versions of one stamp apart: length and time of a file.
    pub rest: (u64, i64),
    /// A check sum of what else there is to it, its attributes say.
    pub attrs: u64,
    /// A check sum of its digests; none where none of them hold.
    pub digests: Option<u64>,
}

impl Mark {
    /// Whether a copy with another mark is as good as this one.
    pub fn is_met_by(&self, own: &Self) -> bool {
        let is_same = |a: &Self, b: &Self| (a.stamp, a.rest, a.attrs) == (b.stamp, b.rest, b.attrs);
        is_same(self, own) && (self.digests.is_none() || self.digests == own.digests)
    }
}

/// What is handed over whole.
#[derive(Debug, Clone)]
pub enum Copied {
    /// A bucket.
    Bucket(BucketFacts),
    /// An object, staged on the receiver under a number.
    Object(Box<NewObject>, Arc<Held>),
    /// A symbolic link or the like, with its time.
    Special(Special, Posix, i64),
    /// A directory with its number.
    Dir(u64, Posix),
    /// An upload with its parts, each staged on the receiver.
    Upload(BegunUpload, Vec<(PartInfo, Arc<Held>)>),
}

impl NewObject {
    /// Its time.
    pub fn modified(&self) -> Timestamp {
        Timestamp(self.modified_ns)
    }
}

mod record_in_hex {
    use super::{Deserialize, Deserializer, Record, Serialize, Serializer, hex};

    pub fn serialize<S: Serializer>(record: &Record, to: S) -> Result<S::Ok, S::Error> {
        hex(&record.encode()).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Record, D::Error> {
        let text = String::deserialize(from)?;
        let digit = |at: usize| {
            text.get(at..at + 2)
                .map(|pair| u8::from_str_radix(pair, 16))
        };
        let bytes = (0..text.len()).step_by(2).map(digit);
        let bytes: Option<Result<Vec<u8>, _>> = bytes.collect();
        let bytes = bytes.transpose().map_err(serde::de::Error::custom)?;
        let bytes = bytes.ok_or_else(|| serde::de::Error::custom("half a byte"))?;
        Record::decode(&bytes).map_err(serde::de::Error::custom)
    }
}
