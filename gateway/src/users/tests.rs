//! Users over starts, reloads and concurrent commands.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

fn open(dir: &Path) -> (UserStore, bool) {
    let (store, FirstStart(first)) = UserStore::open(dir, Vec::new(), None).unwrap();
    (store, first)
}

fn declared(text: &str) -> Result<Vec<UserConfig>, toml::de::Error> {
    #[derive(serde::Deserialize)]
    struct Config {
        user: Vec<UserConfig>,
    }
    toml::from_str::<Config>(text).map(|config| config.user)
}

fn named(name: &str) -> NewUser {
    NewUser {
        name: name.to_owned(),
        ..NewUser::default()
    }
}

fn root_key(store: &UserStore) -> AccessKey {
    let directory = store.directory();
    let root = directory.entries().find(|e| e.user.name == ROOT_NAME);
    root.unwrap().keys[0].clone()
}

#[test]
fn the_first_start_makes_root_and_the_second_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, is_first) = open(dir.path());
    assert!(is_first);
    let (again, is_first) = open(dir.path());
    assert!(!is_first);
    assert_eq!(root_key(&store), root_key(&again));
    let directory = again.directory();
    let root = directory.root().unwrap();
    assert!(root.is_admin());
    assert!(is_canonical_id(&root.id));
    let mode = std::fs::metadata(store.path())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn keys_of_the_environment_replace_those_of_root() {
    let dir = tempfile::tempdir().unwrap();
    let kept = root_key(&open(dir.path()).0);
    let keys = RootKeys {
        access_key: "ROOTKEY".to_owned(),
        secret_key: Secret::new("rootsecret"),
    };
    let (store, _) = UserStore::open(dir.path(), Vec::new(), Some(keys)).unwrap();
    let directory = store.directory();
    assert!(directory.credential("ROOTKEY").unwrap().user.is_admin());
    assert!(directory.credential(&kept.id).is_none());
    assert_eq!(root_key(&open(dir.path()).0), kept);
}

#[test]
fn declared_users_have_the_same_id_after_every_start() {
    let users = declared(
        "[[user]]\nname = \"alice\"\nuid = 1000\ngroups = [\"g\"]\n\
         keys = [{ access_key = \"ALICE\", secret_key = \"alicesecret\" }]\n",
    )
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = UserStore::open(dir.path(), users.clone(), None).unwrap();
    let directory = store.directory();
    let found = directory.credential("ALICE").unwrap();
    assert_eq!(found.user.id, stable_id("alice"));
    assert_eq!(found.user.account, "main");
    assert_eq!(found.user.uid, Some(1000));
    let other = NewKey::default();
    for error in [
        store.remove_user("alice", NOW).unwrap_err(),
        store.remove_key("ALICE", NOW).unwrap_err(),
        store.add_key("alice", &other, NOW).unwrap_err(),
    ] {
        assert!(matches!(error, UserError::Declared(_)), "{error:?}");
    }
    let text = std::fs::read_to_string(store.path()).unwrap();
    assert!(!text.contains("alice"));
    store.set_declared(Vec::new()).unwrap();
    assert!(store.directory().credential("ALICE").is_none());
}

#[test]
fn unknown_keys_of_a_declared_user_are_errors() {
    let error = declared("[[user]]\nname = \"a\"\ngroup = []\n").unwrap_err();
    assert!(error.to_string().contains("group"), "{error}");
}

#[test]
fn users_and_keys_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let added = store.add_user(named("bob"), NOW).unwrap();
    let first = &added.keys[0];
    let second = store.add_key("bob", &NewKey::default(), NOW).unwrap();
    let (again, _) = open(dir.path());
    for id in [&first.id, &second.id] {
        assert_eq!(again.directory().credential(id).unwrap().user, added.user);
    }
    store.remove_key(&first.id, NOW).unwrap();
    assert!(store.directory().credential(&first.id).is_none());
    store.remove_user("bob", NOW).unwrap();
    assert!(store.directory().user_by_name("bob").is_none());
    assert!(store.directory().credential(&second.id).is_none());
    for error in [
        store.remove_user("bob", NOW).unwrap_err(),
        store.remove_key(&first.id, NOW).unwrap_err(),
        store.add_key("bob", &NewKey::default(), NOW).unwrap_err(),
    ] {
        assert!(matches!(error, UserError::Missing(_)), "{error:?}");
    }
    let error = store.remove_user(ROOT_NAME, NOW).unwrap_err();
    assert!(matches!(error, UserError::Root));
}

#[test]
fn what_exists_or_is_malformed_is_refused_and_leaves_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.add_user(named("bob"), NOW).unwrap();
    let before = std::fs::read(store.path()).unwrap();
    let error = store.add_user(named("bob"), NOW).unwrap_err();
    assert!(matches!(error, UserError::Exists(_)));
    let taken = NewKey {
        access_key: Some(root_key(&store).id),
        ..NewKey::default()
    };
    let error = store.add_key("bob", &taken, NOW).unwrap_err();
    assert!(matches!(error, UserError::Exists(_)));
    for bad in ["", "a b", "a/b", "a\n", &"x".repeat(129)] {
        let error = store.add_user(named(bad), NOW).unwrap_err();
        assert!(matches!(error, UserError::Malformed { .. }), "{bad}");
    }
    for (id, secret) in [
        ("ab", "longenough"),
        ("abc", "short"),
        ("a:b", "longenough"),
    ] {
        let key = NewKey {
            access_key: Some(id.to_owned()),
            secret_key: Some(Secret::new(secret)),
            ttl_secs: None,
        };
        let error = store.add_key("bob", &key, NOW).unwrap_err();
        assert!(matches!(error, UserError::Malformed { .. }), "{id}");
        assert!(!error.to_string().contains(secret));
    }
    assert_eq!(std::fs::read(store.path()).unwrap(), before);
}

#[test]
fn temporary_keys_have_a_token_and_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let new = NewKey {
        ttl_secs: Some(60),
        ..NewKey::default()
    };
    let key = store.add_key(ROOT_NAME, &new, NOW).unwrap();
    assert!(key.session_token.is_some());
    assert_eq!(key.expires, Some(Timestamp::from_secs(NOW.secs() + 60)));
    assert_eq!(
        open(dir.path())
            .0
            .directory()
            .credential(&key.id)
            .unwrap()
            .key,
        key
    );
    // Long after its end it is forgotten at the next change, not before.
    let later = |days: i64| Timestamp::from_secs(NOW.secs() + days * 86_400);
    store.add_user(named("bob"), later(1)).unwrap();
    assert!(store.directory().credential(&key.id).is_some());
    store.add_user(named("carol"), later(9)).unwrap();
    assert!(store.directory().credential(&key.id).is_none());
    for ttl_secs in [0, MAX_TTL_SECS + 1] {
        let new = NewKey {
            ttl_secs: Some(ttl_secs),
            ..NewKey::default()
        };
        assert!(store.add_key(ROOT_NAME, &new, NOW).is_err());
    }
}

#[test]
fn a_running_store_sees_what_a_command_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = open(dir.path());
    let (command, _) = open(dir.path());
    assert!(!server.reload_if_changed().unwrap());
    command.add_user(named("bob"), NOW).unwrap();
    assert!(server.directory().user_by_name("bob").is_none());
    assert!(server.reload_if_changed().unwrap());
    assert!(server.directory().user_by_name("bob").is_some());
    assert!(!server.reload_if_changed().unwrap());
}

#[test]
fn a_file_that_cannot_be_read_leaves_the_users_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let secret = root_key(&store).secret.reveal().to_owned();
    let text = std::fs::read_to_string(store.path()).unwrap();
    for (from, to) in [
        ("format = 1", "format = 2"),
        ("secret_key = ", "secret_key "),
        ("name", "nom"),
    ] {
        std::fs::write(store.path(), text.replace(from, to)).unwrap();
        let error = store.reload().unwrap_err();
        assert!(matches!(error, UserError::Unreadable { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains(&secret));
        assert!(store.directory().root().is_some());
    }
}

#[test]
fn concurrent_commands_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    open(path);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let (store, _) = open(path);
                for n in 0..5 {
                    store
                        .add_user(named(&format!("u{thread}-{n}")), NOW)
                        .unwrap();
                }
            });
        }
    });
    let (store, _) = open(path);
    assert_eq!(store.directory().entries().count(), 21);
}

#[test]
fn a_staging_file_left_by_a_crash_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    std::fs::write(dir.path().join(".portico/users.toml.new"), "half a fi").unwrap();
    store.add_user(named("bob"), NOW).unwrap();
    assert!(open(dir.path()).0.directory().user_by_name("bob").is_some());
}

#[test]
fn debug_output_shows_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let new = NewKey {
        ttl_secs: Some(60),
        ..NewKey::default()
    };
    let key = store.add_key(ROOT_NAME, &new, NOW).unwrap();
    let shown = format!("{store:?} {:?} {new:?}", store.directory());
    assert!(shown.contains(&key.id));
    assert!(!shown.contains(key.secret.reveal()));
    assert!(!shown.contains(key.session_token.unwrap().reveal()));
}

#[test]
fn the_owner_of_files_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let new = NewUser {
        uid: Some(1_000),
        gid: Some(100),
        gids: vec![4, 2_000],
        umask: Some("027".parse().unwrap()),
        ..named("alice")
    };
    let (store, _) = open(dir.path());
    store.add_user(new, NOW).unwrap();
    let directory = open(dir.path()).0.directory();
    let kept = directory.user_by_name("alice").unwrap().file_owner();
    assert_eq!(
        (kept.uid, kept.gid, kept.umask),
        (Some(1_000), Some(100), Some(0o027))
    );
    let credentials = directory.user_by_name("alice").unwrap().credentials();
    let expected = Credentials {
        uid: 1_000,
        gid: 100,
        groups: vec![4, 2_000],
    };
    assert_eq!(credentials, Some(expected));
    let root = directory.root().unwrap();
    assert_eq!(root.file_owner(), FileOwner::default());
    assert_eq!(root.credentials(), None);
    let declared = declared("[[user]]\nname = \"bob\"\numask = \"0077\"\n").unwrap();
    assert_eq!(declared[0].umask.unwrap().to_string(), "0077");
}

#[test]
fn what_is_no_umask_and_no_id_is_refused() {
    for text in ["", "8", "-1", "+7", "1000", "0o7", "rwx"] {
        assert!(text.parse::<Umask>().is_err(), "{text}");
        let user = format!("[[user]]\nname = \"bob\"\numask = \"{text}\"\n");
        assert!(declared(&user).is_err(), "{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let by_gid = NewUser {
        gid: Some(u32::MAX),
        ..named("alice")
    };
    let by_gids = NewUser {
        gids: vec![4, u32::MAX],
        ..named("alice")
    };
    for new in [by_gid, by_gids] {
        let added = store.add_user(new, NOW);
        assert!(matches!(added, Err(UserError::Malformed { .. })));
    }
}
