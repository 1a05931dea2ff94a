//! Extended attributes, and what S3 keeps with an object among them.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use crate::files::{Errno, FileId, Files, OpenFile, Target, XattrMode};
use crate::volume::AttrsPatch;

use super::{FileResult, HELLO_MD5, Scene, me, path};

impl Scene {
    fn xattr(&self, at: &str, name: &str) -> FileResult<Vec<u8>> {
        let path = path(at);
        let ino = self.lookup(at)?.ino;
        let target = Target::Named {
            path: &path,
            id: FileId::any(ino),
        };
        self.brick.xattr(target, OsStr::new(name))
    }

    fn set_xattr(&self, at: &str, name: &str, value: &[u8]) -> FileResult<()> {
        self.set_xattr_as(at, name, value, XattrMode::Set)
    }

    fn set_xattr_as(&self, at: &str, name: &str, value: &[u8], mode: XattrMode) -> FileResult<()> {
        let path = path(at);
        let ino = self.lookup(at)?.ino;
        let target = Target::Named {
            path: &path,
            id: FileId::any(ino),
        };
        self.brick.set_xattr(target, OsStr::new(name), value, mode)
    }

    fn take_xattr(&self, at: &str, name: &str) -> FileResult<()> {
        let path = path(at);
        let ino = self.lookup(at)?.ino;
        let target = Target::Named {
            path: &path,
            id: FileId::any(ino),
        };
        self.brick.remove_xattr(target, OsStr::new(name))
    }

    fn xattrs(&self, at: &str) -> Vec<String> {
        let path = path(at);
        let ino = self.lookup(at).unwrap().ino;
        let target = Target::Named {
            path: &path,
            id: FileId::any(ino),
        };
        let names = self.brick.xattr_names(target).unwrap().into_iter();
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn put_with(&self, key: &str, system: &[(&str, &str)], user: &[(&str, &str)]) {
        let map = |entries: &[(&str, &str)]| -> BTreeMap<String, String> {
            let entries = entries.iter();
            entries
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        self.put(key, b"hello");
        let headers = Some((map(system), map(user)));
        self.patch(
            key,
            AttrsPatch {
                headers,
                ..AttrsPatch::default()
            },
        );
    }
}

#[test]
fn what_s3_keeps_is_shown() {
    let scene = Scene::new();
    scene.put_with(
        "k",
        &[("content-type", "text/plain"), ("x-of-a-door", "hidden")],
        &[("colour", "blue")],
    );
    assert_eq!(
        scene.xattrs("b/k"),
        ["user.s3.content-type", "user.s3.meta.colour"]
    );
    assert_eq!(scene.xattr("b/k", "user.s3.meta.colour").unwrap(), b"blue");
    let kind = scene.xattr("b/k", "user.s3.content-type").unwrap();
    assert_eq!(kind, b"text/plain");
    for none in [
        "user.s3.meta.size",
        "user.s3.expires",
        "user.s3.x-of-a-door",
    ] {
        assert_eq!(scene.xattr("b/k", none), Err(Errno::NODATA), "{none}");
    }
}

#[test]
fn what_is_set_is_the_objects_and_keeps_its_md5() {
    let scene = Scene::new();
    let put = scene.put("k", b"hello");
    scene
        .set_xattr("b/k", "user.s3.meta.colour", b"blue")
        .unwrap();
    scene
        .set_xattr("b/k", "user.s3.content-type", b"text/plain")
        .unwrap();
    scene.set_xattr("b/k", "user.own", b"\xff\0").unwrap();
    let stat = scene.stat("k");
    assert_eq!(stat.attrs.user["colour"], "blue");
    assert_eq!(stat.attrs.system["content-type"], "text/plain");
    assert_eq!(stat.etag, put.etag);
    assert_eq!(scene.listed_tag("k"), put.etag.as_str());
    assert_eq!(scene.xattr("b/k", "user.own").unwrap(), b"\xff\0");
    let scene = scene.reopened();
    assert_eq!(scene.stat("k").etag, put.etag);
    scene.take_xattr("b/k", "user.s3.meta.colour").unwrap();
    scene.take_xattr("b/k", "user.own").unwrap();
    assert!(scene.stat("k").attrs.user.is_empty());
    assert_eq!(scene.xattrs("b/k"), ["user.s3.content-type"]);
    assert_eq!(scene.stat("k").etag, put.etag);
    let again = scene.take_xattr("b/k", "user.s3.meta.colour");
    assert_eq!(again, Err(Errno::NODATA));
}

#[test]
fn the_record_is_not_seen_and_not_forged() {
    let scene = Scene::new();
    let put = scene.put("k", b"hello");
    let name = "user.portico";
    assert!(scene.xattrs("b/k").is_empty());
    assert_eq!(scene.xattr("b/k", name), Err(Errno::NODATA));
    assert_eq!(scene.set_xattr("b/k", name, b"x"), Err(Errno::PERM));
    assert_eq!(scene.take_xattr("b/k", name), Err(Errno::PERM));
    assert_eq!(scene.set_xattr("b", name, b"x"), Err(Errno::PERM));
    assert_eq!(scene.stat("k").etag, put.etag);
}

#[test]
fn a_name_or_value_that_no_header_has_is_einval() {
    let scene = Scene::new();
    scene.put("k", b"hello");
    for name in [
        "user.s3.meta.",
        "user.s3.meta.Upper",
        "user.s3.meta.a b",
        "user.s3.meta.é",
        "user.s3.other",
        "user.s3.",
    ] {
        let set = scene.set_xattr("b/k", name, b"x");
        assert_eq!(set, Err(Errno::INVAL), "{name}");
    }
    for value in [b"a\nb".as_slice(), b"\xff", b" x", b"a\0"] {
        let set = scene.set_xattr("b/k", "user.s3.meta.a", value);
        assert_eq!(set, Err(Errno::INVAL), "{value:?}");
    }
    assert!(scene.stat("k").attrs.user.is_empty());
}

#[test]
fn user_metadata_has_s3s_limit() {
    let scene = Scene::new();
    scene.put("k", b"hello");
    let name = "user.s3.meta.a";
    scene.set_xattr("b/k", name, &[b'x'; 2_047]).unwrap();
    let more = scene.set_xattr("b/k", "user.s3.meta.b", b"");
    assert_eq!(more, Err(Errno::NOSPC));
    let larger = scene.set_xattr("b/k", name, &[b'x'; 2_049]);
    assert_eq!(larger, Err(Errno::TOOBIG));
    assert_eq!(scene.stat("k").attrs.user["a"].len(), 2_047);
}

#[test]
fn an_attribute_is_made_or_replaced_as_asked() {
    let scene = Scene::new();
    scene.put("k", b"hello");
    for name in ["user.s3.meta.a", "user.own"] {
        let set = |mode| scene.set_xattr_as("b/k", name, b"x", mode);
        assert_eq!(set(XattrMode::Replace), Err(Errno::NODATA), "{name}");
        assert_eq!(set(XattrMode::Create), Ok(()), "{name}");
        assert_eq!(set(XattrMode::Create), Err(Errno::EXIST), "{name}");
        assert_eq!(set(XattrMode::Replace), Ok(()), "{name}");
    }
}

#[test]
fn a_directory_and_a_link_have_nothing_of_s3() {
    let scene = Scene::new();
    scene.mkdir("b/d").unwrap();
    scene.put("b-marker/", b"");
    scene
        .brick
        .make_symlink(&path("b/l"), "d".as_ref(), me())
        .unwrap();
    let name = "user.s3.meta.a";
    for at in ["b", "b/d", "b/l", "b/b-marker"] {
        assert_eq!(scene.xattr(at, name), Err(Errno::NODATA), "{at}");
        assert_eq!(
            scene.set_xattr(at, name, b"x"),
            Err(Errno::OPNOTSUPP),
            "{at}"
        );
        assert!(scene.xattrs(at).is_empty(), "{at}");
    }
    scene.set_xattr("b/d", "user.own", b"x").unwrap();
    assert_eq!(scene.xattrs("b/d"), ["user.own"]);
}

#[test]
fn metadata_set_while_a_file_is_written_are_kept() {
    let scene = Scene::new();
    let file = scene.create("b/k").unwrap();
    let target = Target::Open(&file);
    let name = OsStr::new("user.s3.meta.a");
    scene
        .brick
        .set_xattr(target, name, b"x", XattrMode::Set)
        .unwrap();
    let shown = |name| scene.brick.xattr(Target::Open(&file), OsStr::new(name));
    assert_eq!(shown("user.s3.meta.a").unwrap(), b"x");
    assert_eq!(shown("user.none"), Err(Errno::NODATA));
    file.write(0, b"hello").unwrap();
    drop(file);
    scene.eventually_tagged("k", HELLO_MD5);
    assert_eq!(scene.stat("k").attrs.user["a"], "x");
}
