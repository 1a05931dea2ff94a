//! Range: what is parsed resolves to a range within the object, or to none.

#![no_main]

use gateway::conditions::parse_range;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, u64)| {
    let (text, len_bytes) = input;
    if let Some(range) = parse_range(text)
        && let Ok(bytes) = range.resolve(len_bytes)
    {
        assert!(bytes.start < bytes.end && bytes.end <= len_bytes);
    }
});
