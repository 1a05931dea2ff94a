use std::sync::Arc;

use super::{MAX_FILES, MAX_LEN_BYTES, Quarantine, Quarantined};
use crate::brick::disk::Disk;
use crate::brick::osdisk::OsDisk;
use crate::name::{BucketName, ObjectKey};
use crate::object::Locator;

fn kept(number: u64, len_bytes: u64) -> Quarantined {
    Quarantined {
        number,
        bucket: "b".to_owned(),
        key: "k".to_owned(),
        what: "rotten".to_owned(),
        len_bytes,
        since_s: 7,
    }
}

#[test]
fn the_oldest_go_where_there_are_too_many_or_too_long_ones() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    std::fs::write(dir.path().join("bad"), b"bad").unwrap();
    let disk = Arc::new(OsDisk::open(dir.path(), dir.path()).unwrap());
    disk.make_dir(&disk.root(), "q", 0o700).unwrap();
    let quarantine = Quarantine {
        dir: disk.open_dir(&disk.root(), "q").unwrap(),
        disk: Arc::clone(&disk),
    };
    let file = disk.open(&disk.root(), "bad").unwrap();
    let at = Locator::new(
        BucketName::parse("bucket").unwrap(),
        ObjectKey::parse("k").unwrap(),
    );
    let keep = |kept| quarantine.keep(&file, &at, kept).unwrap();
    let numbers = || {
        let found = quarantine.list().unwrap();
        found.iter().map(|kept| kept.number).collect::<Vec<_>>()
    };
    for number in 0..MAX_FILES as u64 + 2 {
        assert!(keep(kept(number, 3)));
    }
    assert_eq!(numbers(), (2..MAX_FILES as u64 + 2).collect::<Vec<_>>());
    assert_eq!(
        std::fs::read(dir.path().join("q/0000000000000002")).unwrap(),
        b"bad"
    );
    assert!(!dir.path().join("q/0000000000000001").exists());
    assert!(keep(kept(900, MAX_LEN_BYTES - 3)));
    assert_eq!(numbers(), [MAX_FILES as u64 + 1, 900]);
    assert!(!keep(kept(901, MAX_LEN_BYTES + 1)));
    assert_eq!(quarantine.list().unwrap()[1], kept(900, MAX_LEN_BYTES - 3));
}
