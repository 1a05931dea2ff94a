"""Several mounts of one tree are one file system: locks, mapped memory and files hold among them."""

import fcntl
import mmap
import os
import sqlite3
import subprocess
import sys
from contextlib import ExitStack
from xml.etree import ElementTree

import pytest
import urllib3
from botocore.exceptions import ClientError

from harness import clients, fuse
from harness.data import KIB
from harness.locks import holder, takes
from harness.wait import until

pytestmark = pytest.mark.tree
KINDS = pytest.mark.parametrize("kind", ["flock", "lockf"])

COUNTER = """
import sqlite3, sys
base = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for _ in range(100):
    base.execute("BEGIN IMMEDIATE")
    (n,) = base.execute("SELECT n FROM t").fetchone()
    base.execute("UPDATE t SET n = ?", (n + 1,))
    base.execute("COMMIT")
"""


@pytest.fixture
def mounts(fresh_server, new_mount):
    """Two mounts of a server's tree, and one of a bucket in it."""
    fuse.need_root()
    clients.boto(fresh_server).create_bucket(Bucket="bkt")
    return [new_mount(fresh_server, bucket=bucket).start() for bucket in ("", "", "bkt")]


def folders(mounts):
    """Where each shows the bucket's files."""
    return [mount.point / ("" if mount.bucket else "bkt") for mount in mounts]


@KINDS
def test_locks_hold_among_all_mounts_of_a_tree(mounts, kind):
    lock, places = getattr(fcntl, kind), folders(mounts)
    (places[0] / "k").write_bytes(b"x" * 100)
    for held_at in places:
        held = holder(held_at / "k", kind)
        for asked_at in places:
            with open(asked_at / "k", "r+b") as file:
                assert not takes(lock, file)
        held.kill()
        held.wait(20)
        for asked_at in places:
            with open(asked_at / "k", "r+b") as file:
                until("a killed process holds no lock", lambda file=file: takes(lock, file))


@KINDS
def test_no_lock_outlives_the_server(fresh_server, mounts, kind):
    lock, places = getattr(fcntl, kind), folders(mounts)
    (places[0] / "k").write_bytes(b"x")
    for ends in (fresh_server.kill, fresh_server.stop):
        held = holder(places[1] / "k", kind)
        ends()
        fresh_server.start()
        for mount in mounts:
            until("the mount is back", mount.stands, 60)
        for place in places:
            with open(place / "k", "r+b") as file:
                assert takes(lock, file)
                with open(places[0] / "k", "r+b") as other:
                    assert kind == "lockf" or not takes(lock, other)
        held.kill()
        held.wait(20)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_through_all_mounts_at_once(mounts, journal):
    paths = [place / "base.sqlite" for place in folders(mounts)]
    base = sqlite3.connect(paths[0], timeout=60, isolation_level=None)
    assert base.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
    base.execute("CREATE TABLE t (n INTEGER)")
    base.execute("INSERT INTO t VALUES (0)")
    counters = [subprocess.Popen([sys.executable, "-c", COUNTER, path]) for path in paths]
    assert [counter.wait(300) for counter in counters] == [0, 0, 0]
    assert base.execute("SELECT n FROM t").fetchone() == (300,)
    assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    base.close()


def test_store_to_mapped_memory_is_seen_by_readers_at_other_mounts(mounts):
    paths = [place / "k" for place in folders(mounts)]
    paths[0].write_bytes(bytes(64 * KIB))
    with ExitStack() as opened:
        files = [opened.enter_context(path.open("r+b")) for path in paths]
        views = [opened.enter_context(mmap.mmap(file.fileno(), 0)) for file in files]
        for number in range(200):
            at, word = number * 321, b"%04d" % number
            writer = number % len(views)
            views[writer][at : at + 4] = word
            for view, file in zip(views, files, strict=True):
                assert view[at : at + 4] == word
                assert os.pread(file.fileno(), 4, at) == word
            os.pwrite(files[writer].fileno(), b"next", at)
            assert [view[at : at + 4] for view in views] == [b"next"] * len(views)


def test_bucket_made_again_by_s3_is_shown_by_its_mount(fresh_server, mounts):
    s3, mount = clients.boto(fresh_server), mounts[2]
    for number in range(4):
        name = f"k{number}"
        with open(mount.point / name, "wb") as held:
            held.write(b"old")
        s3.delete_object(Bucket="bkt", Key=name)
        s3.delete_bucket(Bucket="bkt")
        assert not (mount.point / name).exists()
        s3.create_bucket(Bucket="bkt")
        s3.put_object(Bucket="bkt", Key=f"{name}-new", Body=b"new")
        until("the new bucket shows", lambda name=name: (mount.point / f"{name}-new").exists())
        assert os.listdir(mount.point) == [f"{name}-new"]
        (mount.point / f"{name}-new").unlink()
        assert len(fuse.mounts_at(mount.point)) == 1


LOCK_CONFIG = "[bucket.careful]\nrespect_locks = true\n"


def code_of(call, **arguments):
    """Status and S3 code of a refused call; nothing where it is not refused."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    return None


def refusals(s3, key):
    """What S3 answers to each request that would replace or remove an object that stands."""
    at = {"Bucket": "careful", "Key": key}
    upload = {**at, "UploadId": s3.create_multipart_upload(**at)["UploadId"]}
    part = s3.upload_part(**upload, PartNumber=1, Body=b"part")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    form = s3.generate_presigned_post("careful", key)
    fields = {**form["fields"], "file": ("name", b"posted")}
    posted = urllib3.PoolManager(timeout=60, retries=False).request("POST", form["url"], fields=fields)
    several = s3.delete_objects(Bucket="careful", Delete={"Objects": [{"Key": key}]})["Errors"]
    yield "post", (posted.status, ElementTree.fromstring(posted.data).findtext("Code"))
    yield "delete many", (409, several[0]["Code"])
    yield "put", code_of(s3.put_object, **at, Body=b"new")
    yield "delete", code_of(s3.delete_object, **at)
    yield "copy", code_of(s3.copy_object, **at, CopySource="careful/other")
    same = {"CopySource": f"careful/{key}", "MetadataDirective": "REPLACE", "Metadata": {"a": "b"}}
    yield "copy onto itself", code_of(s3.copy_object, **at, **same)
    yield "complete", code_of(s3.complete_multipart_upload, **upload, MultipartUpload=parts)
    s3.abort_multipart_upload(**upload)


@KINDS
def test_s3_respects_locks_for_writing_wherever_they_are_taken(new_server, new_mount, kind):
    fuse.need_root()
    server = new_server(config=LOCK_CONFIG).start()
    s3 = clients.boto(server)
    for bucket in ("careful", "careless"):
        s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket="careful", Key="other", Body=b"other")
    mounts = [new_mount(server).start(), new_mount(server, bucket="careful").start()]
    mounts.append(new_mount(server, options=("devices",)).start())
    places = [mounts[0].point / "careful", mounts[1].point, mounts[2].point / "careful", server.path("careful")]
    for number, place in enumerate(places):
        key = f"d/k{number}"
        s3.put_object(Bucket="careful", Key=key, Body=b"old")
        held = holder(place / key, kind)
        for what, answer in refusals(s3, key):
            assert answer == (409, "OperationAborted"), (what, place)
        s3.put_object_tagging(Bucket="careful", Key=key, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
        assert s3.get_object(Bucket="careful", Key=key)["Body"].read() == b"old"
        held.kill()
        held.wait(20)
        again = {"Bucket": "careful", "Key": key, "Body": b"new"}
        until("the lock is free", lambda again=again: code_of(s3.put_object, **again) is None)
        s3.delete_object(Bucket="careful", Key=key)
    s3.put_object(Bucket="careless", Key="k", Body=b"old")
    held = holder(mounts[0].point / "careless" / "k", kind)
    s3.put_object(Bucket="careless", Key="k", Body=b"new")
    held.kill()
    held.wait(20)
