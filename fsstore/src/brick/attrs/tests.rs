//! Tests of the record: its verdict, its encoding, its size.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{
    AttrsError, DigestState, DirectoryFlags, FileFacts, MAX_RECORD_LEN_BYTES, MultipartTag, Parts,
    Record, Spilled, Stamp, Stored, Verdict, check_record_len,
};
use crate::checksum::digest_of;
use crate::name::{ETag, ObjectKey, PartNumber, UploadId, hex};
use crate::object::{Attributes, Checksum, ChecksumKind, DigestAlgorithm, ObjectPart, Timestamp};

const FACTS: FileFacts = FileFacts {
    len_bytes: 64 << 20,
    mtime_ns: 1_767_225_600_123_456_789,
    ino: 12_345_678,
    ctime_ns: 1_767_225_600_123_456_999,
};

fn key() -> ObjectKey {
    ObjectKey::parse("k").unwrap()
}

fn typical() -> Record {
    let content_type = ("content-type".to_owned(), "binary/octet-stream".to_owned());
    Record {
        state: Some(FACTS.state()),
        md5: Some([0xab; 16]),
        crc64nvme: Some(u64::MAX),
        attrs: Attributes {
            system: BTreeMap::from([content_type]),
            ..Attributes::default()
        },
        ..Record::default()
    }
}

#[test]
fn a_typical_record_fits_in_an_inode() {
    // ext4 has 92 bytes for attributes in an inode of 256; the entry and its name take 24.
    let mut record = typical();
    assert_eq!(record.encode().len(), 55);
    record.attrs.owner = Some("root".to_owned());
    assert_eq!(record.encode().len(), 62);
    // An id of 64 hexadecimal digits does not fit: such a record takes a block of its own,
    // unless inodes have 512 bytes.
    record.attrs.owner = Some("0123456789abcdef".repeat(4));
    assert_eq!(record.encode().len(), 90);
}

#[test]
fn the_encoding_does_not_change() {
    let record = typical();
    let fields = [
        "01",                                     // format
        "0110808080 20cec2f105 15cd55f551728618", // state: length, inode, mtime
        "0210abababababababababababababababab",   // MD5
        "0308ffffffffffffffff",                   // CRC-64/NVME
        "07020000",                               // content-type: binary/octet-stream
        "0489a3f7",                               // CRC-32C
    ];
    assert_eq!(hex(&record.encode()), fields.concat().replace(' ', ""));
}

#[test]
fn digests_hold_for_their_state_only() {
    let record = typical();
    let valid = |facts: &FileFacts| record.verdict(facts.len_bytes, facts.mtime_ns, facts.ino);
    assert_eq!(valid(&FACTS), Verdict::Valid);
    for other in [
        FileFacts {
            len_bytes: 1,
            ..FACTS
        },
        FileFacts {
            mtime_ns: 1,
            ..FACTS
        },
        FileFacts { ino: 1, ..FACTS },
    ] {
        assert_eq!(valid(&other), Verdict::Void);
        let info = record.to_object_info(key(), &other);
        assert!(info.etag.is_provisional());
        assert_eq!(info.digests.md5, None);
        assert_eq!(info.digests.crc64nvme, None);
        assert_eq!(info.attrs, record.attrs);
    }
    assert_eq!(Record::default().verdict(0, 0, 0), Verdict::Void);
}

#[test]
fn digests_of_no_bytes_hold_for_every_empty_file() {
    let mut record = typical();
    record.state = Some(DigestState {
        len_bytes: 0,
        mtime_ns: 5,
        ino: 6,
    });
    assert_eq!(record.verdict(0, 7, 8), Verdict::Valid);
    assert_eq!(record.verdict(1, 5, 6), Verdict::Void);
}

#[test]
fn a_valid_record_gives_its_digests() {
    let mut record = typical();
    record.etag_before = Some(7);
    let info = record.to_object_info(key(), &FACTS);
    assert_eq!(info.etag, ETag::from_md5(&[0xab; 16]));
    assert_eq!(info.etags_before, [ETag::provisional(7)]);
    assert_eq!(info.len_bytes, FACTS.len_bytes);
    assert_eq!(info.modified, Timestamp(FACTS.mtime_ns));
    record.multipart = Some(MultipartTag {
        md5_of_md5s: [1; 16],
        part_count: 3,
    });
    let info = record.to_object_info(key(), &FACTS);
    assert_eq!(info.etag, ETag::from_parts(&[1; 16], 3));
    assert_eq!(info.part_count, Some(3));
}

#[test]
fn a_provisional_tag_is_the_states_and_stable() {
    let tag = FACTS.provisional_tag();
    // Clients keep tags: this value must never change.
    assert_eq!(tag, 15_196_419_746_652_312_507);
    for other in [
        FileFacts {
            len_bytes: 1,
            ..FACTS
        },
        FileFacts {
            mtime_ns: 1,
            ..FACTS
        },
        FileFacts { ino: 1, ..FACTS },
        FileFacts {
            ctime_ns: 1,
            ..FACTS
        },
    ] {
        assert_ne!(other.provisional_tag(), tag);
    }
    let info = Record::default().to_object_info(key(), &FACTS);
    assert_eq!(info.etag, ETag::provisional(tag));
}

#[test]
fn a_marker_keeps_its_own_time() {
    let mut record = typical();
    record.state = Some(DigestState {
        len_bytes: 0,
        mtime_ns: 5,
        ino: 9,
    });
    assert_eq!(record.to_marker_info(key()), None);
    record.directory.is_marker = true;
    let info = record.to_marker_info(key()).unwrap();
    assert_eq!((info.len_bytes, info.modified), (0, Timestamp(5)));
    assert_eq!(info.etag, ETag::from_md5(&[0xab; 16]));
}

#[test]
fn voiding_keeps_what_does_not_depend_on_bytes() {
    let mut record = typical();
    record.directory.made_by_keys = true;
    let attrs = record.attrs.clone();
    record.void_digests();
    assert_eq!(record.attrs, attrs);
    assert!(record.directory.made_by_keys);
    assert_eq!(
        (record.state, record.md5, record.crc64nvme),
        (None, None, None)
    );
}

fn parts(count: u16, last_len_bytes: u64, algorithm: Option<DigestAlgorithm>) -> Vec<ObjectPart> {
    let part = |number: u16| ObjectPart {
        number: PartNumber::new(u32::from(number)).unwrap(),
        offset_bytes: u64::from(number - 1) * (8 << 20),
        len_bytes: if number == count {
            last_len_bytes
        } else {
            8 << 20
        },
        checksum: algorithm.map(|algorithm| Checksum {
            algorithm,
            kind: ChecksumKind::FullObject,
            value: digest_of(algorithm, &number.to_be_bytes()),
        }),
    };
    (1..=count).map(part).collect()
}

#[test]
fn parts_of_one_size_take_a_few_bytes() {
    let of = parts(10_000, 77, None);
    let mut record = Record::default();
    let bare = record.encode().len();
    record.parts = Parts::of(&of);
    assert!(record.encode().len() - bare <= 12);
    let back = Record::decode(&record.encode()).unwrap();
    assert_eq!(back.parts.unwrap().to_object_parts(), of);
}

#[test]
fn the_most_parts_with_checksums_fit() {
    let mut of = parts(10_000, 77, Some(DigestAlgorithm::Sha256));
    // One odd length in the middle makes the list explicit.
    of[5_000].len_bytes += 1;
    of[5_001..]
        .iter_mut()
        .for_each(|part| part.offset_bytes += 1);
    let record = Record {
        parts: Parts::of(&of),
        ..Record::default()
    };
    let bytes = record.encode();
    assert!(check_record_len(bytes.len()).is_ok(), "{}", bytes.len());
    let back = Record::decode(&bytes).unwrap();
    assert_eq!(back.parts.unwrap().to_object_parts(), of);
}

#[test]
fn part_checksums_are_kept_for_all_or_none() {
    let mut of = parts(3, 1, Some(DigestAlgorithm::Crc32));
    of[1].checksum = None;
    assert_eq!(Parts::of(&of).unwrap().checksums, None);
    assert_eq!(Parts::of(&[]), None);
}

#[test]
fn fields_of_a_later_version_are_kept() {
    let mut record = typical();
    record.unknown = vec![(21, b"new".to_vec()), (1_000, Vec::new())];
    let back = Record::decode(&record.encode()).unwrap();
    assert_eq!(back, record);
}

#[test]
fn a_stub_names_its_side_file() {
    let whole = typical().encode();
    let stub = Spilled::of(&whole);
    let decoded = Stored::decode(&stub.encode()).unwrap();
    assert_eq!(decoded, Stored::Spilled(stub));
    assert!(stub.encode().len() <= 12);
    assert_eq!(stub.decode_side_file(&whole).unwrap(), typical());
    let other = Record::default().encode();
    assert_eq!(
        stub.decode_side_file(&other),
        Err(AttrsError::AnotherSideFile)
    );
    assert_eq!(
        Stored::decode(&whole).unwrap(),
        Stored::Whole(Box::new(typical()))
    );
    assert_eq!(
        Record::decode(&stub.encode()),
        Err(AttrsError::UnknownFormat(2))
    );
}

#[test]
fn what_is_no_record_says_why() {
    assert_eq!(Record::decode(b""), Err(AttrsError::Truncated));
    assert_eq!(
        Record::decode(b"\x09aaaa"),
        Err(AttrsError::UnknownFormat(9))
    );
    assert_eq!(Record::decode(b"\x01aaaa"), Err(AttrsError::WrongCheckSum));
    let long = vec![1; MAX_RECORD_LEN_BYTES + 1];
    assert!(matches!(
        Record::decode(&long),
        Err(AttrsError::TooLong { .. })
    ));
    assert!(check_record_len(long.len()).is_err());
    let sealed = |fields: &[u8]| super::wire::seal([&[1], fields].concat());
    for fields in [
        &b"\x00\x00"[..],                                    // tag 0
        b"\x02\x01\xff",                                     // an MD5 of one byte
        b"\x03\x08\0\0\0\0\0\0\0\0\x03\x08\0\0\0\0\0\0\0\0", // twice
        b"\x0b\x01\xff",                                     // not UTF-8
        b"\x0b\x05a",                                        // longer than what is there
        b"\x0b\x81\x00a",                                    // a length not in its shortest form
        b"\x10\x02\x01\x01",                                 // too long
        b"\x0f\x01\x01",                                     // checksums of no parts
        b"\x0d\x03\x01\x00\x01",                             // no part
        b"\x07\x02\x7e\x00",                                 // no such dictionary entry
    ] {
        assert!(Record::decode(&sealed(fields)).is_err(), "{fields:?}");
    }
}

fn maps() -> impl Strategy<Value = BTreeMap<String, String>> {
    let common = prop_oneof![
        Just("content-type".to_owned()),
        Just("text/plain".to_owned()),
        Just("mtime".to_owned()),
        ".{0,20}",
    ];
    btree_map(common.clone(), common, 0..5)
}

fn checksums() -> impl Strategy<Value = Checksum> {
    (0..6usize, any::<bool>(), any::<u64>()).prop_map(|(index, full, seed)| {
        let algorithm = DigestAlgorithm::ALL[index];
        let kind = if full {
            ChecksumKind::FullObject
        } else {
            ChecksumKind::Composite
        };
        Checksum {
            algorithm,
            kind,
            value: digest_of(algorithm, &seed.to_be_bytes()),
        }
    })
}

fn some_parts() -> impl Strategy<Value = Option<Parts>> {
    let listed = (
        btree_map(1..=10_000u32, 0..u64::from(u32::MAX), 0..20),
        any::<bool>(),
    );
    let listed = listed.prop_map(|(lens, with_checksums)| {
        let parts: Vec<ObjectPart> = lens
            .iter()
            .map(|(number, len)| ObjectPart {
                number: PartNumber::new(*number).unwrap(),
                offset_bytes: 0,
                len_bytes: *len,
                checksum: with_checksums.then(|| Checksum {
                    algorithm: DigestAlgorithm::Crc32c,
                    kind: ChecksumKind::FullObject,
                    value: digest_of(DigestAlgorithm::Crc32c, &len.to_be_bytes()),
                }),
            })
            .collect();
        Parts::of(&parts)
    });
    let uniform =
        (1..50u16, 0..100u64).prop_map(|(count, last)| Parts::of(&parts(count, last, None)));
    prop_oneof![listed, uniform]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let owner = prop_oneof![
        Just(None),
        "[0-9a-f]{0,64}".prop_map(Some),
        "[0-9A-Fa-f+]{0,8}".prop_map(Some),
        ".{0,20}".prop_map(Some),
    ];
    let acl = proptest::option::of(".{0,20}");
    (maps(), maps(), maps(), owner, acl).prop_map(|(system, user, tags, owner, acl)| Attributes {
        system,
        user,
        tags,
        owner,
        acl,
    })
}

fn records() -> impl Strategy<Value = Record> {
    let optional = proptest::option::of::<proptest::arbitrary::StrategyFor<u64>>;
    let state = proptest::option::of((any::<u64>(), any::<i64>(), any::<u64>()));
    let digests = (
        proptest::option::of(any::<[u8; 16]>()),
        optional(any::<u64>()),
        optional(any::<u64>()),
        proptest::option::of((any::<[u8; 16]>(), 1..=10_000u16)),
        proptest::option::of(checksums()),
    );
    let rest = (
        proptest::option::of("[A-Za-z0-9_-]{1,64}"),
        some_parts(),
        any::<(bool, bool)>(),
        btree_map(21..u64::MAX, vec(any::<u8>(), 0..10), 0..3),
        proptest::option::of(any::<(u64, u64)>()),
    );
    (state, digests, attributes(), rest).prop_map(|(state, digests, attrs, rest)| Record {
        state: state.map(|(len_bytes, mtime_ns, ino)| DigestState {
            len_bytes,
            mtime_ns,
            ino,
        }),
        mtime_before_ns: state.map(|(_, mtime_ns, _)| !mtime_ns),
        md5: digests.0,
        crc64nvme: digests.1,
        etag_before: digests.2,
        multipart: digests.3.map(|(md5_of_md5s, part_count)| MultipartTag {
            md5_of_md5s,
            part_count,
        }),
        checksum: digests.4,
        attrs,
        upload_id: rest.0.map(|id| UploadId::parse(&id).unwrap()),
        parts: rest.1,
        directory: DirectoryFlags {
            made_by_keys: rest.2.0,
            is_marker: rest.2.1,
        },
        stamp: rest.4.map(|(epoch, seq)| Stamp { epoch, seq }),
        made: rest.4.map(|(seq, epoch)| Stamp { epoch, seq }),
        ident: rest.4.map(|(epoch, seq)| epoch ^ seq),
        unknown: rest.3.into_iter().collect(),
    })
}

proptest! {
    #[test]
    fn every_record_comes_back(record in records()) {
        prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(mut bytes in vec(any::<u8>(), 0..200), sealed in any::<bool>()) {
        if sealed {
            bytes.insert(0, super::codec::FORMAT);
            bytes = super::wire::seal(bytes);
        }
        if let Ok(Stored::Whole(record)) = Stored::decode(&bytes) {
            prop_assert_eq!(Record::decode(&record.encode()), Ok(*record));
        }
    }

    #[test]
    fn a_changed_byte_is_noticed(record in records(), at in any::<usize>(), change in 1..=255u8) {
        let mut bytes = record.encode();
        let at = at % bytes.len();
        bytes[at] ^= change;
        prop_assert!(Record::decode(&bytes).is_err());
    }

    #[test]
    fn a_mutation_with_a_right_check_sum_never_panics(
        record in records(), at in any::<usize>(), byte in any::<u8>(), cut in any::<usize>(),
    ) {
        let mut bytes = record.encode();
        bytes.truncate(bytes.len() - 4);
        let at = 1 + at % bytes.len();
        if at < bytes.len() {
            bytes[at] = byte;
        }
        bytes.truncate(1 + cut % bytes.len());
        if let Ok(record) = Record::decode(&super::wire::seal(bytes)) {
            let info = record.to_object_info(key(), &FACTS);
            prop_assert_eq!(info.len_bytes, FACTS.len_bytes);
            if let Some(parts) = &record.parts {
                prop_assert_eq!(parts.to_object_parts().len(), parts.count());
            }
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }
}
