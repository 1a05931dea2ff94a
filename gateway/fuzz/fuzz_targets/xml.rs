//! XML documents of requests: any bytes are parsed or refused, without a panic.

#![no_main]

use gateway::s3::xml::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|document: &[u8]| {
    for root in ["Delete", "CompleteMultipartUpload", "AccessControlPolicy"] {
        if let Ok(element) = parse(document, root) {
            let _ = element.child("Object").map(|child| child.text_of("Key"));
        }
    }
});
