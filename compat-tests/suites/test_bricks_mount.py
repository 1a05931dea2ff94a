"""The mount of a volume on several bricks: what programs write is on each, equal, and an object."""

import errno
import mmap
import os
import shutil
import sqlite3
import subprocess
import sys
import threading

import pytest

from harness import clients, fuse
from harness.bricks import Bricks
from harness.data import KIB, MIB, blob, read_tree, write_tree
from harness.process import plain_env, run
from harness.tree import listed, seen_by_all_doors
from harness.wait import until

pytestmark = pytest.mark.tree
GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}
APPEND = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for number in range(200):
    os.write(file, b"%s %04d\\n" % (sys.argv[2].encode(), number))
os.close(file)
"""


@pytest.fixture
def served(new_server, new_mount, tmp_path):
    """Makes a served volume of so many bricks with a bucket, mounted: (bricks, s3, the bucket's directory)."""
    fuse.need_fuse()

    def make(count=2, **options):
        bricks = Bricks(new_server, tmp_path, count, **options)
        bricks.server.start()
        s3 = clients.boto(bricks.server)
        s3.create_bucket(Bucket="bkt")
        mount = new_mount(bricks.server).start()
        return bricks, s3, mount.path("bkt")

    return make


def facts(directory):
    """Type, permissions, owner, and of what is no directory the time, of everything below."""
    found = {}
    for folder, folders, files in os.walk(directory):
        for name in folders + files:
            path = os.path.join(folder, name)
            stat = os.lstat(path)
            known = (stat.st_mode, stat.st_uid, stat.st_gid)
            time = () if os.path.isdir(path) and not os.path.islink(path) else (stat.st_mtime_ns,)
            found[os.path.relpath(path, directory)] = known + time
    return found


def check_alike(bricks):
    """With as many bricks as copies: each has the same names, bytes, owners, permissions and times."""
    bricks.check_equal("bkt", len(bricks.dirs))
    trees = [facts(directory / "main" / "bkt") for directory in bricks.dirs]
    assert trees[1:] == trees[:-1]


@pytest.mark.parametrize("count", [2, 3])
def test_what_one_door_does_the_other_shows_at_once_and_every_copy_has(served, count):
    bricks, s3, place = served(count)
    wanted = {}
    for number, size in enumerate([0, 1, 4 * KIB, 300 * KIB, 3 * MIB]):
        key, data = f"made/d{number % 2}/{number}", blob(size, number)
        write_tree(place, {key: data})
        assert s3.get_object(Bucket="bkt", Key=key)["Body"].read() == data
        wanted[key] = data
    for number in range(5):
        key, data = f"put/{number}", blob(10 * KIB, f"put{number}")
        s3.put_object(Bucket="bkt", Key=key, Body=data)
        assert (place / key).read_bytes() == data
        wanted[key] = data
    s3.put_object(Bucket="bkt", Key="made/d0/0", Body=b"replaced")
    assert (place / "made/d0/0").read_bytes() == b"replaced"
    with open(place / "put/0", "r+b") as file:
        file.seek(5)
        file.write(b"written")
    wanted["put/0"] = wanted["put/0"][:5] + b"written" + wanted["put/0"][12:]
    assert s3.get_object(Bucket="bkt", Key="put/0")["Body"].read() == wanted["put/0"]
    s3.delete_object(Bucket="bkt", Key="put/1")
    assert not (place / "put/1").exists()
    os.unlink(place / "put/2")
    os.truncate(place / "put/3", 100)
    os.rename(place / "put/4", place / "moved")
    wanted |= {"made/d0/0": b"replaced", "put/3": wanted["put/3"][:100], "moved": wanted["put/4"]}
    for key in ["put/1", "put/2", "put/4"]:
        del wanted[key]
    assert read_tree(place) == wanted
    assert sorted(listed(s3, "bkt")) == sorted(wanted)
    for key, data in wanted.items():
        seen_by_all_doors(s3, "bkt", key, data)
    bricks.check_copies("bkt", wanted)
    if count == 2:
        check_alike(bricks)


def test_etag_becomes_the_md5_on_every_brick(served):
    bricks, s3, place = served()
    data = blob(200 * KIB)
    write_tree(place, {"file": data})
    tag = until("it is hashed", lambda: md5_tag(s3, "file"))
    bricks.server.restart()
    shutil.move(bricks.dirs[0], bricks.dirs[0].with_suffix(".away"))
    until("the other brick answers", lambda: md5_tag(s3, "file") == tag)
    seen_by_all_doors(s3, "bkt", "file", data)


def md5_tag(s3, key):
    """An object's tag, once it is an MD5."""
    tag = s3.head_object(Bucket="bkt", Key=key)["ETag"]
    return tag if "-" not in tag else None


def test_programs_work(served, tmp_path):
    fuse.need("git", "tar", "rsync")
    bricks, _, place = served()
    env = plain_env(tmp_path, **GIT)

    def git(*words, cwd):
        return run(["git", *words], cwd=cwd, env=env).stdout.decode()

    repo = place / "repo"
    repo.mkdir()
    git("init", "-q", "-b", "main", ".", cwd=repo)
    for number in range(4):
        write_tree(repo, {f"d{number % 2}/{number}": blob(3 * KIB, number).hex().encode(), "readme": b"%d" % number})
        git("add", "-A", cwd=repo)
        git("commit", "-q", "-m", f"step {number}", cwd=repo)
    git("clone", "-q", "--no-local", str(repo), "clone", cwd=place)
    assert git("fsck", "--full", "--strict", cwd=place / "clone") == ""
    assert git("status", "--porcelain", cwd=place / "clone") == ""
    with sqlite3.connect(place / "db.sqlite") as database:
        database.execute("create table t (a)")
        for mode in ["delete", "wal"]:
            database.execute(f"pragma journal_mode = {mode}")
            for number in range(10):
                database.execute("insert into t values (?)", (number,))
                database.commit()
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert database.execute("select count(*) from t").fetchall() == [(20,)]
    database.close()
    plain = tmp_path / "plain"
    write_tree(plain, {f"d{number % 3}/{number}": blob(number * KIB, number) for number in range(24)})
    (plain / "link").symlink_to("d0/0")
    os.chmod(plain / "d1/1", 0o4751)
    os.setxattr(plain / "d2/2", "user.own", b"value")
    os.utime(plain / "d0/3", ns=(10**18, 10**18 + 7))
    run(["rsync", "-aHAX", f"{plain}/", f"{place}/synced/"])
    differ = ["rsync", "-aHAXnc", "--delete", "--itemize-changes", f"{plain}/", f"{place}/synced/"]
    assert run(differ).stdout == b""
    run(["tar", "--xattrs", "-C", place, "-cf", tmp_path / "x.tar", "synced"])
    (place / "untarred").mkdir()
    run(["tar", "--xattrs", "-C", place / "untarred", "-xpf", tmp_path / "x.tar"])
    assert read_tree(place / "untarred/synced") == read_tree(plain)
    assert os.getxattr(place / "untarred/synced/d2/2", "user.own") == b"value"
    check_alike(bricks)


def test_mapped_memory_appends_and_files_without_a_name(served):
    bricks, s3, place = served()
    with open(place / "mapped", "w+b") as file:
        file.truncate(64 * KIB)
        with mmap.mmap(file.fileno(), 0) as view:
            view[5000:5006] = b"mapped"
            view.flush()
            assert s3.get_object(Bucket="bkt", Key="mapped", Range="bytes=5000-5005")["Body"].read() == b"mapped"
            view[60000:60004] = b"late"
    assert (place / "mapped").read_bytes()[60000:60004] == b"late"
    writers = [subprocess.Popen([sys.executable, "-c", APPEND, place / "log", name]) for name in ("one", "two")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    lines = (place / "log").read_text().splitlines()
    assert sorted(lines) == sorted(f"{name} {number:04}" for name in ("one", "two") for number in range(200))
    with open(place / "gone", "w+b") as file:
        file.write(b"before ")
        file.flush()
        os.unlink(place / "gone")
        file.write(b"after")
        file.flush()
        file.seek(0)
        assert file.read() == b"before after"
    with open(place / "replaced", "w+b") as old:
        old.write(b"old")
        old.flush()
        (place / ".new").write_bytes(b"new")
        os.rename(place / ".new", place / "replaced")
        assert (place / "replaced").read_bytes() == b"new"
        old.seek(0)
        assert old.read() == b"old"
    assert sorted(os.listdir(place)) == ["log", "mapped", "replaced"]
    check_alike(bricks)


def test_what_the_mount_cannot_do_is_said_by_its_error(served):
    _, _, place = served()
    write_tree(place, {"dir/file": b"x", "other": b"y"})

    def refused(act, *words):
        with pytest.raises(OSError) as error:
            act(*words)
        return error.value.errno

    assert refused(os.link, place / "other", place / "linked") == errno.EPERM
    assert refused(os.rename, place / "dir", place / "moved") == errno.EXDEV
    assert refused(os.mkdir, os.fsencode(place) + b"/\xff") == errno.EILSEQ
    run(["mv", place / "dir", place / "moved"])
    assert read_tree(place) == {"moved/file": b"x", "other": b"y"}


def test_a_brick_that_goes_while_files_are_written_fails_no_write(served):
    bricks, _, place = served()
    errors, stop, written = [], threading.Event(), {}

    def write():
        number = 0
        while not stop.is_set():
            key, data = f"w/{number}", blob(20 * KIB + number, number)
            try:
                write_tree(place, {key: data})
                with open(place / "w/all", "ab") as log:
                    log.write(data[:100])
                    os.fsync(log.fileno())
            except OSError as error:
                errors.append(error)
                return
            written[key] = data
            number += 1

    (place / "w").mkdir()
    writer = threading.Thread(target=write)
    writer.start()
    try:
        until("files are written", lambda: len(written) > 20)
        away = bricks.dirs[1].with_suffix(".away")
        os.rename(bricks.dirs[1], away)
        until("the brick is seen to be gone", lambda: bricks.state(1) not in ("whole", None))
        before = len(written)
        until("files are written without it", lambda: len(written) > before + 20)
        os.rename(away, bricks.dirs[1])
        before = len(written)
        until("files are written while it comes back", lambda: len(written) > before + 20)
    finally:
        stop.set()
        writer.join(60)
    assert not errors
    whole = b"".join(data[:100] for data in written.values())
    assert (place / "w/all").read_bytes() == whole
    bricks.settled()
    bricks.check_copies("bkt", written | {"w/all": whole})


def test_what_was_synced_before_a_kill_is_on_every_brick(served):
    bricks, s3, place = served()
    data = blob(700 * KIB)
    file = os.open(place / "synced", os.O_CREAT | os.O_WRONLY)
    for at in range(0, len(data), 10 * KIB):
        os.write(file, data[at : at + 10 * KIB])
    os.fsync(file)
    bricks.server.kill()
    with pytest.raises(OSError):
        os.close(file)
    bricks.server.start()
    seen_by_all_doors(s3, "bkt", "synced", data)
    bricks.settled()
    bricks.check_copies("bkt", {"synced": data})
