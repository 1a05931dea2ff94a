//! Any bytes as a record, with their own check sum and with a right one: nothing panics, and
//! what is decoded comes back from its encoding.
#![no_main]

use fsstore::brick::attrs::codec::FORMAT;
use fsstore::brick::attrs::{FileFacts, Record, Stored};
use fsstore::checksum::digest_of;
use fsstore::name::ObjectKey;
use fsstore::object::DigestAlgorithm;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Stored::decode(bytes);
    let mut sealed = vec![FORMAT];
    sealed.extend_from_slice(bytes);
    let mut crc = digest_of(DigestAlgorithm::Crc32c, &sealed);
    crc.reverse();
    sealed.extend(crc);
    let Ok(record) = Record::decode(&sealed) else {
        return;
    };
    assert_eq!(Record::decode(&record.encode()).as_ref(), Ok(&record));
    if let Some(parts) = &record.parts {
        assert_eq!(parts.to_object_parts().len(), parts.count());
    }
    let key = ObjectKey::parse("k").expect("a key");
    let state = record.state.unwrap_or_default();
    let facts = FileFacts {
        len_bytes: state.len_bytes,
        mtime_ns: state.mtime_ns,
        ino: state.ino,
        ctime_ns: 0,
    };
    assert_eq!(
        record.to_object_info(key, &facts).len_bytes,
        state.len_bytes
    );
});
