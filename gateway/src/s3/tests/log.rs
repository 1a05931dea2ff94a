//! The access log.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use crate::s3::testing::{Door, Who};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_request_is_one_line_with_what_was_sent() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_ansi(false)
        .finish();
    // For the whole process: with a default of one thread, tracing may decide on another thread
    // that an event interests nobody. Other tests ask for no such key.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let door = Door::open();
    let answer = door.ask(Who::Alice, "GET", "/nowhere/some%20key").await;
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let lines = text.lines().filter(|line| line.contains("some key"));
    let lines: Vec<&str> = lines.collect();
    let [text] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    for part in [
        "method=GET".to_owned(),
        "bucket=\"nowhere\"".to_owned(),
        "key=\"some key\"".to_owned(),
        "user=\"alice\"".to_owned(),
        "status=404".to_owned(),
        format!("bytes={}", answer.body.len()),
        format!("request_id={}", answer.header("x-amz-request-id").unwrap()),
    ] {
        assert!(text.contains(&part), "{part} in {text}");
    }
    assert!(!text.contains("Signature"), "{text}");
}
