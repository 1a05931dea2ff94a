//! aws-chunked: any input, however split, gives what it gives whole.

#![no_main]

use bytes::Bytes;
use gateway::body::chunked::{ChunkedDecoder, Step};
use libfuzzer_sys::fuzz_target;

/// The bytes, and the trailing headers unless there was an error.
type Outcome = (Vec<u8>, Option<Vec<(String, String)>>);

fn decode(inputs: &[&[u8]]) -> Outcome {
    let mut decoder = ChunkedDecoder::unsigned();
    let mut out = Vec::new();
    for input in inputs {
        let mut input = Bytes::copy_from_slice(input);
        loop {
            match decoder.step(&mut input) {
                Ok(Step::Data(data)) => out.extend_from_slice(&data),
                Ok(Step::NeedMore) => break,
                Err(_) => return (out, None),
            }
        }
    }
    let trailers = decoder.finish().ok();
    (out, trailers)
}

// Input: a byte that says how long the pieces are, then the body.
fuzz_target!(|input: &[u8]| {
    let Some((len, body)) = input.split_first() else {
        return;
    };
    let pieces: Vec<&[u8]> = body.chunks(usize::from(*len).max(1)).collect();
    assert_eq!(decode(&pieces), decode(&[body]));
});
