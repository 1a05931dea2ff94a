use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::super::Bricks;
use super::super::tests::{Rig, bucket};
use crate::files::{
    Caller, Errno, FileAttr, FilePath, FileResult, Files, OpenDir, OpenFile, OpenFlags, RenameMode,
    SetAttr, SetTime, Target, XattrMode,
};
use crate::name::ObjectKey;
use crate::object::Locator;
use crate::volume::{NewBucket, Object, Volume};

const ME: Caller = Caller {
    uid: 0,
    gid: 0,
    umask: 0o022,
};
const WRITE: OpenFlags = OpenFlags {
    write: true,
    read: true,
    append: false,
    truncate: false,
    exclusive: false,
    sync: false,
};
const READ: OpenFlags = OpenFlags {
    write: false,
    ..WRITE
};

fn path(text: &str) -> FilePath {
    text.split('/').fold(FilePath::root(), |path, name| {
        path.join(OsStr::new(name)).unwrap()
    })
}

/// Runs what a mount's threads do, on one that may wait.
async fn mounted<T: Send + 'static>(
    bricks: &Bricks,
    act: impl FnOnce(&Bricks) -> T + Send + 'static,
) -> T {
    let bricks = bricks.clone();
    tokio::task::spawn_blocking(move || act(&bricks))
        .await
        .unwrap()
}

async fn start(rig: &mut Rig, ids: &[u32]) -> Bricks {
    let bricks = rig.start(ids).await;
    let made = bricks.create_bucket(&bucket(), NewBucket::default()).await;
    made.unwrap();
    bricks
}

fn write(bricks: &Bricks, at: &str, bytes: &[u8]) -> FileResult<FileAttr> {
    let (_, file) = bricks.create(&path(at), 0o644, WRITE, ME)?;
    assert_eq!(file.write(0, bytes)?, bytes.len());
    file.flush()?;
    bricks.attr(Target::Open(&file))
}

fn read(bricks: &Bricks, at: &str) -> FileResult<Vec<u8>> {
    let path = path(at);
    let id = bricks.lookup(&path)?.id();
    let file = bricks.open_file(Target::Named { path: &path, id }, READ)?;
    let mut buffer = Vec::new();
    file.read(0, &mut buffer, 1 << 22)?;
    Ok(buffer)
}

fn mv(bricks: &Bricks, from: &str, to: &str, mode: RenameMode) -> FileResult<()> {
    Files::rename(bricks, &path(from), &path(to), mode)
}

fn names(bricks: &Bricks, at: &str) -> FileResult<Vec<String>> {
    let path = path(at);
    let id = bricks.lookup(&path)?.id();
    let mut names = Vec::new();
    bricks.open_dir(&path, id)?.read(0, &mut |entry| {
        names.push(entry.name.to_str().unwrap().to_owned());
        true
    })?;
    Ok(names)
}

async fn get(bricks: &Bricks, key: &str) -> Vec<u8> {
    let at = Locator::new(bucket(), ObjectKey::parse(key).unwrap());
    let object = bricks.open(&at).await.unwrap();
    object
        .read(0..object.info().len_bytes)
        .await
        .unwrap()
        .to_vec()
}

/// All files, directories and links of a brick's tree, with what they hold and have.
fn tree(root: &Path) -> Vec<(PathBuf, String, Vec<u8>)> {
    use std::os::unix::fs::MetadataExt;
    let (mut found, mut left) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() == ".portico" {
                continue;
            }
            let facts = path.symlink_metadata().unwrap();
            let (uid, gid, mode) = (facts.uid(), facts.gid(), facts.mode());
            let mut shown = format!("{mode:o} {uid} {gid}");
            let bytes = if facts.is_dir() {
                left.push(path.clone());
                Vec::new()
            } else {
                shown += &format!(" {}.{}", facts.mtime(), facts.mtime_nsec());
                match std::fs::read_link(&path) {
                    Ok(to) => to.into_os_string().into_encoded_bytes(),
                    Err(_) => std::fs::read(&path).unwrap(),
                }
            };
            found.push((path.strip_prefix(root).unwrap().to_owned(), shown, bytes));
        }
    }
    found.sort();
    found
}

fn assert_copies_equal(rig: &Rig) {
    let first = tree(rig.dir(0));
    assert!(!first.is_empty());
    for id in 1..rig.len() {
        assert_eq!(first, tree(rig.dir(id)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_is_on_every_brick_and_an_object() {
    let mut rig = Rig::new(2, 2);
    let bricks = start(&mut rig, &[0, 1]).await;
    let body: Vec<u8> = (0..3_000_000u32).map(|at| at as u8).collect();
    let expected = body.clone();
    mounted(&bricks, move |bricks| {
        bricks.make_dir(&path("bkt/dir"), 0o750, ME).unwrap();
        let attr = write(bricks, "bkt/dir/file", &body).unwrap();
        assert_eq!(attr.len_bytes, body.len() as u64);
        assert_eq!(bricks.lookup(&path("bkt/dir/file")).unwrap().ino, attr.ino);
        assert_eq!(read(bricks, "bkt/dir/file").unwrap(), body);
        assert_eq!(names(bricks, "bkt").unwrap(), ["dir"]);
        assert_eq!(names(bricks, "bkt/dir").unwrap(), ["file"]);
    })
    .await;
    assert_eq!(get(&bricks, "dir/file").await, expected);
    assert_copies_equal(&rig);
    bricks.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_in_pieces_is_what_is_read() {
    let mut rig = Rig::new(2, 2);
    let bricks = start(&mut rig, &[0, 1]).await;
    mounted(&bricks, |bricks| {
        let (_, file) = bricks.create(&path("bkt/f"), 0o600, WRITE, ME).unwrap();
        let mut model = vec![0; 400_000];
        for step in 0..400usize {
            let at = step * 7_919 % 390_000;
            let piece = vec![step as u8; 1 + step * 13 % 9_000];
            file.write(at as u64, &piece).unwrap();
            let end = (at + piece.len()).min(model.len());
            model[at..end].copy_from_slice(&piece[..end - at]);
        }
        let set = SetAttr {
            len_bytes: Some(400_000),
            ..SetAttr::default()
        };
        assert_eq!(
            bricks.set_attr(Target::Open(&file), set).unwrap().len_bytes,
            400_000
        );
        let mut read = Vec::new();
        file.read(0, &mut read, 1 << 20).unwrap();
        assert_eq!(read, model);
        file.sync(false).unwrap();
    })
    .await;
    assert_copies_equal(&rig);
    bricks.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_made_moved_and_removed() {
    let mut rig = Rig::new(2, 2);
    let bricks = start(&mut rig, &[0, 1]).await;
    mounted(&bricks, |bricks| {
        for name in ["a", "b", "c", "d", "e"] {
            let at = format!("bkt/{name}");
            let ino = write(bricks, &at, name.as_bytes()).unwrap().ino;
            for to in ["bkt/.x.AbCdEf", "bkt/other", "bkt/x"] {
                mv(bricks, &at, to, RenameMode::Replace).unwrap();
                assert_eq!(bricks.lookup(&path(&at)), Err(Errno::NOENT));
                let moved = bricks.lookup(&path(to)).unwrap().ino;
                assert_eq!(moved, ino, "it is the same file");
                mv(bricks, to, &at, RenameMode::NoReplace).unwrap();
            }
        }
        let b = path("bkt/b");
        let refused = mv(bricks, "bkt/a", "bkt/b", RenameMode::NoReplace);
        assert_eq!(refused, Err(Errno::EXIST));
        mv(bricks, "bkt/a", "bkt/b", RenameMode::Replace).unwrap();
        assert_eq!(read(bricks, "bkt/b").unwrap(), b"a");
        bricks.unlink(&b).unwrap();
        assert_eq!(bricks.unlink(&b), Err(Errno::NOENT));
        bricks.make_dir(&path("bkt/dir"), 0o755, ME).unwrap();
        assert_eq!(bricks.unlink(&path("bkt/dir")), Err(Errno::ISDIR));
        write(bricks, "bkt/dir/in", b"in").unwrap();
        assert_eq!(bricks.remove_dir(&path("bkt/dir")), Err(Errno::NOTEMPTY));
        let moved = mv(bricks, "bkt/dir", "bkt/dir2", RenameMode::Replace);
        assert_eq!(moved, Err(Errno::XDEV));
        bricks.unlink(&path("bkt/dir/in")).unwrap();
        let dir = bricks.lookup(&path("bkt/dir")).unwrap();
        mv(bricks, "bkt/dir", "bkt/dir2", RenameMode::Replace).unwrap();
        assert_eq!(bricks.lookup(&path("bkt/dir2")).unwrap().ino, dir.ino);
        bricks.remove_dir(&path("bkt/dir2")).unwrap();
        assert_eq!(names(bricks, "bkt").unwrap(), ["c", "d", "e"]);
    })
    .await;
    assert_copies_equal(&rig);
    bricks.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_follow_a_file_that_is_moved_and_keep_one_that_is_gone() {
    let mut rig = Rig::new(2, 2);
    let bricks = start(&mut rig, &[0, 1]).await;
    mounted(&bricks, |bricks| {
        let (_, file) = bricks.create(&path("bkt/from"), 0o644, WRITE, ME).unwrap();
        file.write(0, b"one ").unwrap();
        mv(bricks, "bkt/from", "bkt/to", RenameMode::Replace).unwrap();
        file.write(4, b"two ").unwrap();
        assert_eq!(read(bricks, "bkt/to").unwrap(), b"one two ");
        bricks.unlink(&path("bkt/to")).unwrap();
        file.write(8, b"three").unwrap();
        file.sync(false).unwrap();
        let mut read = Vec::new();
        file.read(0, &mut read, 100).unwrap();
        assert_eq!(read, b"one two three");
        assert_eq!(bricks.lookup(&path("bkt/to")), Err(Errno::NOENT));
        assert_eq!(bricks.attr(Target::Open(&file)).unwrap().link_count, 0);
        write(bricks, "bkt/to", b"another").unwrap();
        file.write(0, b"ONE").unwrap();
        file.flush().unwrap();
        assert_eq!(super::tests::read(bricks, "bkt/to").unwrap(), b"another");
    })
    .await;
    assert_copies_equal(&rig);
    bricks.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_the_same_on_every_brick_and_outlive_a_restart() {
    let mut rig = Rig::new(2, 2);
    let bricks = start(&mut rig, &[0, 1]).await;
    let before = mounted(&bricks, |bricks| {
        let attr = write(bricks, "bkt/f", b"bytes").unwrap();
        let at = path("bkt/f");
        let id = attr.id();
        let target = || Target::Named { path: &at, id };
        let set = SetAttr {
            mode: Some(0o2_751),
            mtime: Some(SetTime::At(1_234_567_890_123_456_789)),
            ..SetAttr::default()
        };
        let set = bricks.set_attr(target(), set).unwrap();
        assert_eq!(set.mode & 0o7_777, 0o2_751);
        assert_eq!(set.mtime_ns, 1_234_567_890_123_456_789);
        let name = OsStr::new("user.own");
        bricks
            .set_xattr(target(), name, b"value", XattrMode::Create)
            .unwrap();
        let again = bricks.set_xattr(target(), name, b"value", XattrMode::Create);
        assert_eq!(again, Err(Errno::EXIST));
        let meta = OsStr::new("user.s3.meta.color");
        bricks
            .set_xattr(target(), meta, b"red", XattrMode::Set)
            .unwrap();
        assert_eq!(
            bricks.xattr_names(target()).unwrap(),
            ["user.own", "user.s3.meta.color"]
        );
        bricks
            .make_symlink(&path("bkt/link"), OsStr::new("f"), ME)
            .unwrap();
        bricks.lookup(&at).unwrap()
    })
    .await;
    assert_copies_equal(&rig);
    bricks.close().await.unwrap();
    let bricks = rig.start(&[1]).await;
    mounted(&bricks, move |bricks| {
        let at = path("bkt/f");
        let now = bricks.lookup(&at).unwrap();
        assert_eq!(
            (now.ino, now.mtime_ns, now.mode),
            (before.ino, before.mtime_ns, before.mode)
        );
        let target = || Target::Named {
            path: &at,
            id: now.id(),
        };
        assert_eq!(
            bricks.xattr(target(), OsStr::new("user.own")).unwrap(),
            b"value"
        );
        assert_eq!(
            bricks
                .xattr(target(), OsStr::new("user.s3.meta.color"))
                .unwrap(),
            b"red"
        );
        let link = path("bkt/link");
        let id = bricks.lookup(&link).unwrap().id();
        assert_eq!(bricks.read_link(&link, id).unwrap(), "f");
    })
    .await;
    bricks.close().await.unwrap();
}
