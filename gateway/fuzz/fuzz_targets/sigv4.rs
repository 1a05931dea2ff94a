//! A request with any Authorization header, query and headers is verified without a panic, and
//! never for anybody: its sender has no secret.

#![no_main]

use std::sync::LazyLock;

use fsstore::object::Timestamp;
use gateway::auth::{AuthConfig, authenticate};
use gateway::users::{AccessKey, Directory, Entry, Origin, Secret, User, stable_id};
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp::from_secs(1_369_353_600);

static DIRECTORY: LazyLock<Directory> = LazyLock::new(|| {
    let user = User {
        id: stable_id("alice"),
        name: "alice".to_owned(),
        account: "main".to_owned(),
        groups: Vec::new(),
        uid: None,
        gid: None,
    };
    let key = AccessKey {
        id: "AKID".to_owned(),
        secret: Secret::new("not-known-to-the-fuzzer"),
        session_token: None,
        expires: None,
    };
    Directory::build(vec![Entry {
        user: user.into(),
        keys: vec![key],
        origin: Origin::Config,
    }])
    .expect("the user is well-formed")
});

// Input: lines of target, Authorization, x-amz-date, x-amz-content-sha256, any header.
fuzz_target!(|input: &str| {
    let mut lines = input.split('\n');
    let mut line = || lines.next().unwrap_or("");
    let mut request = http::Request::builder().uri(line());
    for name in ["authorization", "x-amz-date", "x-amz-content-sha256"] {
        let value = line();
        if !value.is_empty() {
            request = request.header(name, value);
        }
    }
    if let Some((name, value)) = line().split_once(':') {
        request = request.header(name, value);
    }
    let Ok(request) = request.body(()) else {
        return;
    };
    let config = AuthConfig {
        domains: vec!["s3.example".to_owned()],
        ..AuthConfig::default()
    };
    let (parts, ()) = request.into_parts();
    if let Ok(found) = authenticate(&parts, &DIRECTORY, NOW, &config) {
        assert!(found.identity.is_none(), "a signature was guessed");
    }
});
