"""A file changed on disk never serves a stale ETag, however well the change hides itself."""

import os
import shutil

import pytest

from harness.data import blob, write_tree
from harness.tree import assert_true_etag, listed, seen_by_all_doors
from harness.wait import until

pytestmark = pytest.mark.tree
CONFIG = 'scan_interval = "1s"\n'
OLD, NEW = blob(5000, "old"), blob(5000, "new")


@pytest.fixture
def put(server, s3, bucket):
    """An object put by S3, and its path."""
    s3.put_object(Bucket=bucket, Key="k", Body=OLD, Metadata={"m": "1"}, ContentType="x/y")
    return server.path(bucket, "k")


@pytest.fixture
def check(s3, bucket):
    """Checks every door on the key as it should be now."""

    def of(data, key="k"):
        seen_by_all_doors(s3, bucket, key, data)

        def in_listing():
            entry = listed(s3, bucket).get(key)
            return entry and entry["Size"] == len(data) and is_true(entry["ETag"], data)

        until("the listing has a true tag", in_listing)
        head = s3.head_object(Bucket=bucket, Key=key)
        assert (head["Metadata"], head["ContentType"]) == ({"m": "1"}, "x/y")

    return of


def is_true(etag, data):
    try:
        assert_true_etag(etag, data)
    except AssertionError:
        return False
    return True


def overwrite(path, data):
    """In place: the same inode."""
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()


def test_another_size(put, check):
    overwrite(put, NEW + b"more")
    check(NEW + b"more")


def test_same_size(put, check):
    overwrite(put, NEW)
    check(NEW)


def test_append_and_truncate(put, check):
    with open(put, "ab") as file:
        file.write(b"tail")
    check(OLD + b"tail")
    os.truncate(put, 10)
    check(OLD[:10])


def test_same_size_with_mtime_put_back(put, check, s3, bucket):
    before = put.stat()
    overwrite(put, NEW)
    os.utime(put, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert put.stat().st_mtime_ns == before.st_mtime_ns
    check(NEW)


def test_mtime_put_back_right_after_the_listing(put, check, s3, bucket):
    """The tag was just shown by every door; each must look again."""
    for round_number in range(20):
        seen = listed(s3, bucket)["k"]["ETag"]
        before = put.stat()
        data = blob(5000, round_number)
        overwrite(put, data)
        os.utime(put, ns=(before.st_atime_ns, before.st_mtime_ns))
        for etag in (s3.head_object(Bucket=bucket, Key="k")["ETag"], s3.get_object(Bucket=bucket, Key="k")["ETag"]):
            assert_true_etag(etag, data)
            assert etag != seen
    check(data)


def test_mmap_write(put, check):
    import mmap

    with open(put, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[:] = NEW
        view.flush()
    check(NEW)


def test_edit_while_the_server_is_stopped(server, put, check):
    before = put.stat()
    server.stop()
    overwrite(put, NEW)
    os.utime(put, ns=(before.st_atime_ns, before.st_mtime_ns))
    server.start()
    check(NEW)


def test_touch_and_chmod_keep_bytes_and_metadata(put, check, s3, bucket):
    os.utime(put, (1_500_000_000, 1_500_000_000))
    os.chmod(put, 0o640)
    check(OLD)
    assert int(s3.head_object(Bucket=bucket, Key="k")["LastModified"].timestamp()) == 1_500_000_000


def test_replaced_by_rename(put, check, server, s3, bucket):
    """What an editor does: a new file moved over the old one; the metadata go with the old file."""
    other = put.with_name("k.tmp")
    other.write_bytes(NEW)
    os.rename(other, put)
    seen_by_all_doors(s3, bucket, "k", NEW)
    until("the listing follows", lambda: is_true(listed(s3, bucket).get("k", {"ETag": "0"})["ETag"], NEW))


def test_copied_with_xattrs(put, check, s3, bucket):
    """cp -a carries the record; its digest must hold for the copy's own bytes only."""
    copy = put.with_name("copy")
    shutil.copy2(put, copy)
    check(OLD, "copy")
    overwrite(copy, NEW)
    os.utime(copy, ns=(put.stat().st_atime_ns, put.stat().st_mtime_ns))
    check(NEW, "copy")
    check(OLD)


def test_hard_link_is_two_keys(put, check, s3, bucket):
    os.link(put, put.with_name("link"))
    overwrite(put, NEW)
    check(NEW)
    check(NEW, "link")
    s3.put_object(Bucket=bucket, Key="link", Body=b"own", Metadata={"m": "1"}, ContentType="x/y")
    check(b"own", "link")
    check(NEW)


def test_many_edits_under_many_readers(server, s3, bucket):
    """Bytes and tag of one answer belong together even while the file changes by replacement."""
    import threading

    path = server.path(bucket, "busy")
    write_tree(server.path(bucket), {"busy": blob(2000, 0)})
    stop = threading.Event()

    def edit():
        number = 0
        while not stop.is_set():
            number += 1
            other = path.with_name("busy.tmp")
            other.write_bytes(blob(2000, number))
            os.rename(other, path)

    editor = threading.Thread(target=edit)
    editor.start()
    try:
        for _ in range(150):
            got = s3.get_object(Bucket=bucket, Key="busy")
            assert_true_etag(got["ETag"], got["Body"].read())
    finally:
        stop.set()
        editor.join()


@pytest.mark.parametrize("is_looked_at", [True, False], ids=["looked-at", "unseen"])
def test_edit_that_hides_is_not_forgotten_on_the_way_to_a_shelter(put, s3, bucket, is_looked_at):
    """The longer key's directory moves the shorter key's file: the move's own ctime must not cover the edit's."""
    before = put.stat()
    overwrite(put, NEW)
    os.utime(put, ns=(before.st_atime_ns, before.st_mtime_ns))
    if is_looked_at:
        seen_by_all_doors(s3, bucket, "k", NEW)
    s3.put_object(Bucket=bucket, Key="k/longer", Body=OLD)
    assert_true_etag(s3.head_object(Bucket=bucket, Key="k")["ETag"], NEW)
    assert_true_etag(listed(s3, bucket)["k"]["ETag"], NEW)
    s3.delete_object(Bucket=bucket, Key="k/longer")
    seen_by_all_doors(s3, bucket, "k", NEW)
