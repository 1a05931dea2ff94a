//! Any bytes as a key, as a path below a bucket and as an escaped path: nothing panics, and what
//! is decoded encodes to the same.
#![no_main]

use fsstore::keypath::{Place, decode_escaped, escaped_path, key_of_marker, key_of_plain, place};
use fsstore::name::ObjectKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(key) = key_of_plain(bytes) {
        assert_eq!(place(&key), Place::Plain(key.as_str()));
    }
    if let Some(key) = key_of_marker(bytes) {
        assert!(matches!(place(&key), Place::Marker { .. }));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(key) = decode_escaped(text) {
        assert_eq!(escaped_path(&key), text);
    }
    if let Ok(key) = ObjectKey::parse(text) {
        let path = escaped_path(&key);
        assert!(path.split('/').all(|name| (2..=255).contains(&name.len())));
        assert_eq!(decode_escaped(&path), Some(key));
    }
});
