//! Policies of POST forms and texts of access lists: any text is read or refused, without a
//! panic; nobody is found to have signed.

#![no_main]

use fsstore::object::Timestamp;
use gateway::auth::AuthConfig;
use gateway::auth::acl::Acl;
use gateway::auth::post_policy::verify;
use gateway::body::form::FormFields;
use gateway::users::Directory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: Vec<(String, String)>| {
    for (_, text) in &input {
        if let Some(acl) = Acl::from_text(text) {
            assert_eq!(Acl::from_text(&acl.to_text()), Some(acl));
        }
    }
    let fields = FormFields::new(input, "a.txt");
    let now = Timestamp::from_secs(1_369_353_600);
    if let Ok(found) = verify(
        &fields,
        "b",
        &Directory::default(),
        now,
        &AuthConfig::default(),
    ) {
        assert!(found.identity.is_none());
    }
});
