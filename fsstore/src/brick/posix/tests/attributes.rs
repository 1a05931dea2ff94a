//! Attributes, and digests that outlive their change.

use crate::files::{Errno, FileId, Files, OpenFile, SetAttr, SetTime, Target, XattrMode};

use super::{BOTH, Caller, FileAttr, FileResult, HELLO_MD5, Scene, me, path};

impl Scene {
    fn set(&self, at: &str, set: SetAttr) -> FileResult<FileAttr> {
        let ino = self.lookup(at)?.ino;
        let path = path(at);
        self.brick.set_attr(
            Target::Named {
                path: &path,
                id: FileId::any(ino),
            },
            set,
        )
    }
}

fn mode(mode: u32) -> SetAttr {
    SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    }
}

fn times(atime: Option<SetTime>, mtime: Option<SetTime>) -> SetAttr {
    SetAttr {
        atime,
        mtime,
        ..SetAttr::default()
    }
}

#[test]
fn a_mode_set_keeps_the_md5() {
    let scene = Scene::new();
    let put = scene.put("k", b"hello");
    assert_eq!(scene.set("b/k", mode(0o4711)).unwrap().mode, 0o104_711);
    assert_eq!(scene.stat("k").etag, put.etag);
    assert_eq!(scene.listed_tag("k"), put.etag.as_str());
    let scene = scene.reopened();
    assert_eq!(scene.stat("k").etag, put.etag);
    assert_eq!(scene.listed_tag("k"), put.etag.as_str());
}

#[test]
fn a_time_set_is_the_objects_and_keeps_the_md5() {
    const AT_NS: i64 = 1_000_000_000_123_456_789;
    let scene = Scene::new();
    let put = scene.put("k", b"hello");
    let set = times(Some(SetTime::At(5)), Some(SetTime::At(AT_NS)));
    let attr = scene.set("b/k", set).unwrap();
    assert_eq!((attr.atime_ns, attr.mtime_ns), (5, AT_NS));
    let stat = scene.stat("k");
    assert_eq!((stat.modified.0, &stat.etag), (AT_NS, &put.etag));
    assert_eq!(scene.listed_tag("k"), put.etag.as_str());
    let now = times(None, Some(SetTime::Now));
    let attr = scene.set("b/k", now).unwrap();
    assert!(attr.mtime_ns > AT_NS);
    assert_eq!(attr.atime_ns, 5);
    assert_eq!(scene.stat("k").etag, put.etag);
    let scene = scene.reopened();
    assert_eq!(scene.stat("k").etag, put.etag);
}

#[test]
fn a_time_before_1970_is_one() {
    let scene = Scene::new();
    scene.mkdir("b/d").unwrap();
    let set = times(Some(SetTime::At(-1)), Some(SetTime::At(-1_500_000_000)));
    let attr = scene.set("b/d", set).unwrap();
    assert_eq!((attr.atime_ns, attr.mtime_ns), (-1, -1_500_000_000));
}

#[test]
fn doubt_outlives_a_change_of_attributes() {
    let scene = Scene::new();
    scene.put("k", b"HELLO");
    let real = scene.real("b/k");
    let before = std::fs::metadata(&real).unwrap().modified().unwrap();
    std::fs::write(&real, b"hello").unwrap();
    let file = std::fs::File::options().write(true).open(&real).unwrap();
    file.set_modified(before).unwrap();
    scene.set("b/k", mode(0o600)).unwrap();
    assert!(scene.stat("k").etag.is_provisional());
    scene.set("b/k", times(None, Some(SetTime::At(9)))).unwrap();
    assert!(scene.stat("k").etag.is_provisional());
    scene.eventually_tagged("k", HELLO_MD5);
}

#[test]
fn owners_are_set_as_far_as_whoever_runs_this_may() {
    let scene = Scene::new();
    let put = scene.put("k", b"hello");
    let (uid, gid) = match rustix::process::geteuid().is_root() {
        true => (4711, 4712),
        false => (me().uid, me().gid),
    };
    let set = SetAttr {
        uid: Some(uid),
        gid: Some(gid),
        mode: Some(0o6755),
        ..SetAttr::default()
    };
    let attr = scene.set("b/k", set).unwrap();
    assert_eq!((attr.uid, attr.gid, attr.mode & 0o7777), (uid, gid, 0o6755));
    assert_eq!(scene.stat("k").etag, put.etag);
    scene
        .brick
        .make_symlink(&path("b/l"), "k".as_ref(), me())
        .unwrap();
    let owned = SetAttr {
        uid: Some(uid),
        ..SetAttr::default()
    };
    assert_eq!(scene.set("b/l", owned).unwrap().uid, uid);
}

#[test]
fn a_symbolic_link_has_times_and_no_mode_of_its_own() {
    let scene = Scene::new();
    scene.put("k", b"hello");
    let target = scene.lookup("b/k").unwrap();
    scene
        .brick
        .make_symlink(&path("b/l"), "k".as_ref(), me())
        .unwrap();
    assert_eq!(scene.set("b/l", mode(0o600)).err(), Some(Errno::OPNOTSUPP));
    let attr = scene.set("b/l", times(None, Some(SetTime::At(7)))).unwrap();
    assert_eq!(attr.mtime_ns, 7);
    assert_eq!(scene.lookup("b/k").unwrap(), target);
}

#[test]
fn what_is_made_is_the_callers() {
    let scene = Scene::new();
    let caller = match rustix::process::geteuid().is_root() {
        true => Caller {
            uid: 4711,
            gid: 4712,
            umask: 0o027,
        },
        false => Caller {
            umask: 0o027,
            ..me()
        },
    };
    let file = scene.brick.create(&path("b/f"), 0o666, BOTH, caller);
    let (attr, file) = file.unwrap();
    assert_eq!((attr.uid, attr.gid), (caller.uid, caller.gid));
    assert_eq!(attr.mode & 0o7777, 0o640);
    file.write(0, b"x").unwrap();
    let dir = scene.brick.make_dir(&path("b/d"), 0o777, caller).unwrap();
    assert_eq!((dir.uid, dir.mode & 0o7777), (caller.uid, 0o750));
    let bucket = scene.brick.make_dir(&path("new"), 0o777, caller).unwrap();
    assert_eq!((bucket.uid, bucket.gid), (caller.uid, caller.gid));
    assert_eq!(bucket.mode & 0o7777, 0o750);
    let link = scene.brick.make_symlink(&path("b/l"), "f".as_ref(), caller);
    assert_eq!(link.unwrap().uid, caller.uid);
}

#[test]
fn a_directory_hands_its_group_on() {
    let scene = Scene::new();
    scene.mkdir("b/d").unwrap();
    let gid = match rustix::process::geteuid().is_root() {
        true => 4712,
        false => me().gid,
    };
    let set = SetAttr {
        gid: Some(gid),
        mode: Some(0o2775),
        ..SetAttr::default()
    };
    scene.set("b/d", set).unwrap();
    let (file, _) = scene
        .brick
        .create(&path("b/d/f"), 0o644, BOTH, me())
        .unwrap();
    assert_eq!(file.gid, gid);
    let below = scene.mkdir("b/d/below").unwrap();
    assert_eq!((below.gid, below.mode & 0o7777), (gid, 0o2755));
}

/// A user's entry besides owner, group, mask and others. Source: acl(5), and the kernel's
/// `posix_acl_xattr.h`.
fn acl_with_user(uid: u32) -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, may, id) in [
        (0x01_u16, 6_u16, u32::MAX),
        (0x02, 4, uid),
        (0x04, 4, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 0, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(may.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

#[test]
fn access_lists_are_kept_handed_down_and_keep_the_md5() {
    let scene = Scene::new();
    let put = scene.put("k", b"hello");
    let acl = acl_with_user(4711);
    let set = |at: &str, name: &str| {
        let (path, ino) = (path(at), scene.lookup(at).unwrap().ino);
        let target = Target::Named {
            path: &path,
            id: FileId::any(ino),
        };
        scene
            .brick
            .set_xattr(target, name.as_ref(), &acl, XattrMode::Set)
    };
    set("b/k", "system.posix_acl_access").unwrap();
    assert_eq!(scene.lookup("b/k").unwrap().mode & 0o777, 0o640);
    assert_eq!(scene.stat("k").etag, put.etag);
    scene.mkdir("b/d").unwrap();
    set("b/d", "system.posix_acl_default").unwrap();
    // Where a default list stands, the umask does not count.
    let caller = Caller {
        umask: 0o077,
        ..me()
    };
    let made = scene.brick.create(&path("b/d/f"), 0o666, BOTH, caller);
    let (attr, file) = made.unwrap();
    assert_eq!(attr.mode & 0o777, 0o640);
    let name = "system.posix_acl_access".as_ref();
    let handed_down = scene.brick.xattr(Target::Open(&file), name).unwrap();
    assert_eq!(handed_down, acl);
}

#[test]
fn a_file_system_has_room() {
    let facts = Scene::new().brick.facts().unwrap();
    assert!(facts.blocks >= facts.blocks_free && facts.blocks > 0);
    assert_eq!(facts.name_len_bytes, 255);
}
