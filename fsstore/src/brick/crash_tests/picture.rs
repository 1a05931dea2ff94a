//! A picture of all that a brick has, as callers see it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use super::super::Brick;
use super::super::crashdisk::CrashDisk;
use super::ops::{Place, at, upload_ids};
use crate::checksum::digest_of;
use crate::error::StoreError;
use crate::name::{BucketName, ETag};
use crate::object::{DigestAlgorithm, Locator, ObjectInfo, PartClaim};
use crate::volume::{ComposeOptions, ListEntry, ListQuery, Object, Volume};

/// All that a scene names: buckets and places.
#[derive(Debug, Clone, Default)]
pub struct Universe {
    pub buckets: BTreeSet<&'static str>,
    pub places: BTreeSet<Place>,
}

/// What stands at each bucket, key and upload, in words; what is not there is left out.
pub type Picture = BTreeMap<String, String>;

const ABSENT: &str = "absent";

/// What a picture says of one thing.
pub fn said<'a>(picture: &'a Picture, what: &str) -> &'a str {
    picture.get(what).map_or(ABSENT, String::as_str)
}

/// Takes a picture, and checks that each object is of one piece.
pub async fn take(brick: &Brick<CrashDisk>, universe: &Universe) -> Picture {
    let mut picture = Picture::new();
    for bucket in &universe.buckets {
        match brick.bucket(&BucketName::parse(bucket).unwrap()).await {
            Ok(info) => {
                let words = format!("{:?} {:?}", info.owner, info.settings);
                picture.insert(format!("bucket {bucket}"), words);
            }
            Err(StoreError::NoSuchBucket) => {}
            Err(e) => panic!("bucket {bucket}: {e:?}"),
        }
    }
    for place in &universe.places {
        if let Some(words) = object_in_words(brick, &at(place)).await {
            picture.insert(format!("object {place}"), words);
        }
        let uploads = uploads_in_words(brick, &at(place)).await;
        if !uploads.is_empty() {
            picture.insert(format!("uploads {place}"), uploads);
        }
    }
    picture
}

async fn object_in_words(brick: &Brick<CrashDisk>, at: &Locator) -> Option<String> {
    let object = match brick.open(at).await {
        Ok(object) => object,
        Err(StoreError::NoSuchKey | StoreError::NoSuchBucket) => return None,
        Err(e) => panic!("{at:?}: {e:?}"),
    };
    let info = object.info();
    let bytes = object.read(0..info.len_bytes).await.unwrap();
    assert_eq!(bytes.len() as u64, info.len_bytes);
    assert!(!info.etag.is_provisional(), "{at:?} lost its tag: {info:?}");
    let md5 = digest_of(DigestAlgorithm::Md5, &bytes);
    if info.part_count.is_none() {
        let md5: [u8; 16] = md5.clone().try_into().unwrap();
        assert_eq!(info.etag, ETag::from_md5(&md5), "{at:?}: {info:?}");
    }
    if let Some(crc) = info.digests.crc64nvme {
        let actual = digest_of(DigestAlgorithm::Crc64Nvme, &bytes);
        assert_eq!(crc.to_be_bytes().to_vec(), actual, "{at:?}");
    }
    let (parts, attrs) = (object.parts().await.unwrap(), &info.attrs);
    let access = object.file().map(|file| file.access().unwrap());
    Some(format!(
        "{} bytes {md5:?} {} {attrs:?} {:?} {parts:?} {access:?}",
        info.len_bytes, info.etag, info.checksum
    ))
}

async fn uploads_in_words(brick: &Brick<CrashDisk>, at: &Locator) -> String {
    let ids = match upload_ids(brick, at).await {
        Ok(ids) => ids,
        Err(StoreError::NoSuchBucket) => return String::new(),
        Err(e) => panic!("uploads of {at:?}: {e:?}"),
    };
    let mut words = String::new();
    for id in ids {
        let page = brick.list_parts(at, &id, None, 10_000).await.unwrap();
        write!(words, "[{:?}", page.upload.attrs).unwrap();
        for part in page.parts {
            write!(
                words,
                " {}: {} {}",
                part.number.get(),
                part.len_bytes,
                part.etag
            )
            .unwrap();
        }
        words.push(']');
    }
    words
}

/// Checks that listings say what is said of each key.
pub async fn check_listings(brick: &Brick<CrashDisk>, universe: &Universe) {
    for bucket in &universe.buckets {
        let bucket = BucketName::parse(bucket).unwrap();
        let query = ListQuery {
            limit: 1_000,
            ..ListQuery::default()
        };
        let page = match brick.list(&bucket, &query).await {
            Ok(page) => page,
            Err(StoreError::NoSuchBucket) => continue,
            Err(e) => panic!("list {bucket}: {e:?}"),
        };
        let mut stated = Vec::new();
        for place in &universe.places {
            let at = at(place);
            if at.bucket == bucket
                && let Ok(info) = brick.stat(&at).await
            {
                stated.push(entry_of(info));
            }
        }
        stated.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(page.objects, stated, "listing of {bucket}");
    }
}

/// All that is listed, by place.
pub async fn listed(brick: &Brick<CrashDisk>, universe: &Universe) -> Vec<(String, ListEntry)> {
    let mut listed = Vec::new();
    for bucket in &universe.buckets {
        let query = ListQuery {
            limit: 1_000,
            ..ListQuery::default()
        };
        let name = BucketName::parse(bucket).unwrap();
        match brick.list(&name, &query).await {
            Ok(page) => {
                let objects = page.objects.into_iter();
                listed.extend(objects.map(|entry| (format!("{bucket}:{}", entry.key), entry)));
            }
            Err(StoreError::NoSuchBucket) => {}
            Err(e) => panic!("list {bucket}: {e:?}"),
        }
    }
    listed
}

fn entry_of(info: ObjectInfo) -> ListEntry {
    ListEntry {
        key: info.key,
        len_bytes: info.len_bytes,
        etag: info.etag,
        modified: info.modified,
        owner: info.attrs.owner,
        checksum: info.checksum.map(|sum| (sum.algorithm, sum.kind)),
    }
}

/// Waits until the tree has been compared with the index.
pub async fn scanned(brick: &Brick<CrashDisk>) {
    let mut progress = brick.progress();
    let done = progress.wait_for(|progress| progress.done);
    tokio::time::timeout(Duration::from_secs(60), done)
        .await
        .expect("the scan ends")
        .unwrap();
}

/// Completes every upload, and checks that each part has the bytes its tag says.
pub async fn finish_uploads(brick: &Brick<CrashDisk>, universe: &Universe) {
    for place in &universe.places {
        let at = at(place);
        let Ok(ids) = upload_ids(brick, &at).await else {
            continue;
        };
        for id in ids {
            let parts = brick
                .list_parts(&at, &id, None, 10_000)
                .await
                .unwrap()
                .parts;
            let claims: Vec<_> = parts
                .iter()
                .map(|part| PartClaim {
                    number: part.number,
                    etag: part.etag.as_str().to_owned(),
                    checksum: None,
                })
                .collect();
            let composed = brick.compose(&at, &id, &claims, ComposeOptions::default());
            match composed.await {
                Ok(_) => {}
                Err(StoreError::InvalidPart { .. } | StoreError::PartTooSmall { .. }) => continue,
                Err(e) => panic!("complete {place}: {e:?}"),
            }
            let object = brick.open(&at).await.unwrap();
            let bytes = object.read(0..object.info().len_bytes).await.unwrap();
            let mut rest = &bytes[..];
            for part in &parts {
                let (of_part, after) = rest.split_at(part.len_bytes as usize);
                let md5: [u8; 16] = digest_of(DigestAlgorithm::Md5, of_part).try_into().unwrap();
                assert_eq!(
                    ETag::from_md5(&md5),
                    part.etag,
                    "{place}: part {:?}",
                    part.number
                );
                rest = after;
            }
            assert!(rest.is_empty());
        }
    }
}
