"""File handles of the mount: NFS clients keep them over restarts of everything."""

import errno
import os

import pytest

from harness import clients, fuse
from harness.data import read_tree
from harness.handles import handle, open_handle
from harness.tree import seen_by_all_doors
from harness.wait import until

pytestmark = pytest.mark.tree
FILES = {"d/e/made": b"by the mount", "d/put": b"by s3", "top": b"in the bucket"}
FOLDERS = ["d", "d/e"]


@pytest.fixture
def pair(fresh_server, new_mount):
    """A server with a bucket, and its mount."""
    fuse.need_root()
    clients.boto(fresh_server).create_bucket(Bucket="bkt")
    return fresh_server, new_mount(fresh_server).start()


def read(mount, wanted):
    """The bytes of the file of a handle."""
    with open(open_handle(mount.point, wanted), "rb") as file:
        return file.read()


def listed(mount, wanted):
    """The names in the directory of a handle, and where the kernel says it is."""
    folder = open_handle(mount.point, wanted, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return sorted(os.listdir(folder)), os.readlink(f"/proc/self/fd/{folder}")
    finally:
        os.close(folder)


def remounts(server, mount):
    """Each way in which a mount is made anew."""
    for ends in (server.stop, server.kill):
        ends()
        server.start()
        until("the mount is back", mount.stands, 60)
        yield
    assert mount.stop() == 0
    mount.start()
    yield


def test_handles_of_files_and_directories_survive_remounts(pair):
    server, mount = pair
    s3, bucket = clients.boto(server), mount.path("bkt")
    os.makedirs(bucket / "d" / "e")
    (bucket / "d" / "e" / "made").write_bytes(FILES["d/e/made"])
    s3.put_object(Bucket="bkt", Key="d/put", Body=FILES["d/put"])
    s3.put_object(Bucket="bkt", Key="top", Body=FILES["top"])
    assert read_tree(bucket) == FILES
    handles = {name: handle(bucket / name) for name in [*FILES, *FOLDERS, ""]}
    numbers = {name: os.stat(bucket / name).st_ino for name in handles}
    for _ in remounts(server, mount):
        for name, data in FILES.items():
            assert read(mount, handles[name]) == data
        for name in [*FOLDERS, ""]:
            names, place = listed(mount, handles[name])
            assert names == sorted(os.listdir(server.path("bkt") / name))
            assert place == str(bucket / name).rstrip("/")
        assert {name: handle(bucket / name) for name in handles} == handles
        assert {name: os.stat(bucket / name).st_ino for name in numbers} == numbers


def test_write_by_a_handle_after_a_remount_is_an_objects(pair):
    server, mount = pair
    s3, bucket = clients.boto(server), mount.path("bkt")
    s3.put_object(Bucket="bkt", Key="d/k", Body=b"before")
    wanted = handle(bucket / "d" / "k")
    for number, _ in enumerate(remounts(server, mount)):
        data = b"after %d" % number
        with open(open_handle(mount.point, wanted, os.O_WRONLY), "wb") as file:
            file.truncate()
            file.write(data)
        seen_by_all_doors(s3, "bkt", "d/k", data)
        assert (bucket / "d" / "k").read_bytes() == data


def test_handle_of_a_file_that_moved_leads_to_it_and_of_one_that_went_is_stale(pair):
    server, mount = pair
    s3, bucket = clients.boto(server), mount.path("bkt")
    os.mkdir(bucket / "d")
    for name in ("moved", "removed", "replaced"):
        (bucket / "d" / name).write_bytes(name.encode())
    handles = {name: handle(bucket / "d" / name) for name in ("moved", "removed", "replaced")}
    folder = handle(bucket / "d")
    os.rename(bucket / "d", bucket / "e")
    (bucket / "e" / "removed").unlink()
    s3.put_object(Bucket="bkt", Key="e/replaced", Body=b"another")
    for _ in remounts(server, mount):
        assert read(mount, handles["moved"]) == b"moved"
        assert listed(mount, folder) == (["moved", "replaced"], str(bucket / "e"))
        for name in ("removed", "replaced"):
            with pytest.raises(OSError) as error:
                read(mount, handles[name])
            assert error.value.errno == errno.ESTALE
