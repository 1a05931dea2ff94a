"""The power of real file systems is cut at a chosen change that an operation makes: afterwards there is the old or
the new, whole, its digests hold, the listing agrees, and copies are equal.

Each run of the tests takes a few of the changes; `PORTICO_COMPAT_CUTS=all` takes every one.
"""

import os
import random
import shutil

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from harness import clients, fuse
from harness.bricks import Bricks, lacking
from harness.data import KIB, blob, md5, read_tree
from harness.disks import LoopDisk
from harness.syscalls import Syscalls
from harness.tree import listed
from harness.wait import until

pytestmark = pytest.mark.tree
EVERY = os.environ.get("PORTICO_COMPAT_CUTS") == "all"
MOST_CHANGES = 400
# An operation on disks that are both gone may have no answer.
NO_ANSWER_S = 3
BEFORE, AFTER = blob(70 * KIB, 1), blob(90 * KIB, 2)
# Bodies that several bricks keep in their logs until their trees are synced.
SMALL_BEFORE, SMALL_AFTER = blob(5 * KIB, 3), blob(6 * KIB, 4)
FAILED = (ClientError, BotoCoreError)


@pytest.fixture
def disks(request, tmp_path_factory):
    """Two file systems of a kind, and what counts the calls on them."""
    home = tmp_path_factory.mktemp("disks")
    made = []
    try:
        for number in range(2):
            made.append(LoopDisk(home / f"disk{number}", request.param))
        yield made
    finally:
        for disk in made:
            disk.remove()


def state(s3, key):
    """What stands at a key, none where nothing does: bytes that are its tag's, with metadata of their own."""
    try:
        got = s3.get_object(Bucket="bkt", Key=key)
    except s3.exceptions.NoSuchKey:
        return None
    data = got["Body"].read()
    assert got["ETag"].strip('"') == md5(data), f"{key}: its digest is in doubt"
    assert got["Metadata"] == {"md5": md5(data)}, f"{key}: bytes of one version, metadata of another"
    return data


def put(s3, key, data):
    s3.put_object(Bucket="bkt", Key=key, Body=data, Metadata={"md5": md5(data)})


class Put:
    """A new object."""

    before, after = None, AFTER

    def run(self, s3, key, _):
        put(s3, key, self.after)


class Overwrite(Put):
    """An object replaced."""

    before = BEFORE


class SmallPut(Put):
    """A small new object."""

    after = SMALL_AFTER


class SmallOverwrite(Put):
    """A small object replaced."""

    before, after = SMALL_BEFORE, SMALL_AFTER


class Delete(Put):
    """An object removed."""

    before, after = BEFORE, None

    def run(self, s3, key, _):
        s3.delete_object(Bucket="bkt", Key=key)


class Tag(Put):
    """Attributes changed: bytes and digests stay."""

    before, after = BEFORE, BEFORE

    def run(self, s3, key, _):
        tags = {"TagSet": [{"Key": "a", "Value": "b"}]}
        s3.put_object_tagging(Bucket="bkt", Key=key, Tagging=tags)


class Rename(Put):
    """A name moved on the mount, and its directory synced."""

    before, after = BEFORE, None

    def run(self, s3, key, mount):
        os.rename(mount.path("bkt", key), mount.path("bkt", f"{key}.moved"))
        directory = os.open(mount.path("bkt", key).parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class Rig:
    """A server on disks whose power is cut, and its clients."""

    def __init__(self, server, disks, calls):
        self.server, self.disks, self.calls, self.mount = server, disks, calls, None

    def start(self):
        self.server.start()
        self.s3 = clients.boto(self.server)
        self.hasty = clients.boto(self.server, read_timeout_s=NO_ANSWER_S)

    def stop_mounting(self):
        if self.mount:
            self.mount.stop()

    def cut(self, disks):
        """Cuts off some of the disks, and keeps what the server did last."""
        self.seen = list(self.calls.last)[-12:]
        for disk in disks:
            disk.cut()

    def restart(self):
        """The end of the process on disks that were cut off, and its next start."""
        self.server.kill()
        self.stop_mounting()
        for disk in self.disks:
            disk.mount_again()
        self.start()


def played(rig, operation, key, after, cut):
    """Runs an operation with disks cut off when it has made so many changes. Gives whether that came, and whether
    the operation was answered."""
    rig.calls.arm(after, lambda: rig.cut(cut))
    try:
        operation.run(rig.hasty, key, rig.mount)
        is_answered = True
    except (*FAILED, OSError):
        is_answered = False
    return not rig.calls.disarm(), is_answered


def check(rig, operation, key, is_answered):
    """Old or new; new where it was answered. Gives what is there."""
    found = state(rig.s3, key)
    allowed = [operation.after] if is_answered else [operation.before, operation.after]
    found_bytes = None if found is None else len(found)
    assert found in allowed, f"{key}: answered {is_answered}, found {found_bytes} bytes after {rig.seen}"
    assert (key in listed(rig.s3, "bkt")) == (found is not None)
    if isinstance(operation, Rename):
        moved = state(rig.s3, f"{key}.moved")
        assert (moved is None) != (found is None) and moved in (None, BEFORE), "a rename lost or doubled its file"
    put(rig.s3, key, b"later")
    assert state(rig.s3, key) == b"later"
    return found


def scenes(rig, operation, kinds, checked):
    """Plays an operation cut at its changes, by turns of `kinds`: which disks."""
    source = random.Random(os.environ.get("PORTICO_COMPAT_SEED", "1"))
    name = type(operation).__name__.lower()
    after, count = (0 if EVERY else source.randrange(4)), 0
    while after < MOST_CHANGES:
        for cut in kinds if EVERY else [kinds[count % len(kinds)]]:
            key = f"{name}/{after}-{count}"
            count += 1
            if operation.before is not None:
                put(rig.s3, key, operation.before)
            came, is_answered = played(rig, operation, key, after, cut)
            if not came:
                # The power goes as the answer comes.
                rig.cut(cut)
                assert is_answered, "it failed without a fault"
                assert after > 3, f"{name} makes {after} changes alone"
            rig.restart()
            checked(operation, key, is_answered)
            if not came:
                return count
        after += 1 if EVERY else 1 + source.randrange(2 * MOST_CHANGES // 40)
    raise AssertionError(f"{name} makes more than {MOST_CHANGES} changes")


@pytest.mark.parametrize("disks", ["ext4", "xfs"], indirect=True)
def test_one_brick_after_power_cuts(new_server, tmp_path, disks):
    calls = Syscalls(tmp_path, *(disk.path for disk in disks))
    server = new_server(data_dir=disks[0].path / "data", wrap=calls.wrap)
    rig = Rig(server, disks, calls)
    rig.start()
    rig.s3.create_bucket(Bucket="bkt")
    for operation in [Put(), Overwrite(), Delete(), Tag()]:
        count = scenes(rig, operation, [disks[:1]], lambda *scene: check(rig, *scene))
        print(f"{type(operation).__name__}: {count} cuts")
    # What is listed is what stands.
    assert sorted(listed(rig.s3, "bkt")) == sorted(read_tree(server.path("bkt")))
    server.stop()
    calls.close()


@pytest.mark.parametrize("disks", ["ext4", "xfs"], indirect=True)
def test_a_rename_on_the_mount_after_power_cuts(new_server, tmp_path, disks):
    fuse.need_fuse()
    calls = Syscalls(tmp_path, disks[0].path)
    server = new_server(data_dir=disks[0].path / "data", wrap=calls.wrap)
    rig = Rig(server, disks[:1], calls)
    rig.start()
    rig.s3.create_bucket(Bucket="bkt")

    def mounted():
        rig.mount = fuse.Mount(server, tmp_path / "mnt", tmp_path / "mount.log").start()

    def checked(*scene):
        check(rig, *scene)
        mounted()

    mounted()
    count = scenes(rig, Rename(), [disks[:1]], checked)
    print(f"Rename: {count} cuts")
    rig.stop_mounting()
    server.stop()
    calls.close()


def on_bricks(new_server, home, disks):
    """A volume with an empty bucket, a brick on each disk, and its rig."""
    calls = Syscalls(home, *(disk.path for disk in disks))
    bricks = Bricks(new_server, home, 0, wrap=calls.wrap)
    bricks.at(disk.path / "p" for disk in disks)
    rig = Rig(bricks.server, disks, calls)
    rig.start()
    rig.s3.create_bucket(Bucket="bkt")
    return bricks, rig


@pytest.mark.parametrize("disks", ["ext4", "xfs"] if EVERY else ["ext4"], indirect=True)
def test_copies_are_equal_after_power_cuts(new_server, tmp_path, disks):
    bricks, rig = on_bricks(new_server, tmp_path, disks)

    def checked(operation, key, is_answered):
        check(rig, operation, key, is_answered)
        bricks.settled()
        bricks.check_equal("bkt")

    kinds = [disks, disks[:1], disks[1:]]
    for operation in [Put(), Overwrite(), SmallPut(), SmallOverwrite(), Delete(), Tag()]:
        count = scenes(rig, operation, kinds, checked)
        print(f"{type(operation).__name__}: {count} cuts")
    bricks.server.stop()
    rig.calls.close()


@pytest.mark.parametrize("disks", ["ext4", "xfs"] if EVERY else ["xfs"], indirect=True)
def test_healing_after_power_cuts(new_server, tmp_path, disks):
    bricks, rig = on_bricks(new_server, tmp_path, disks)
    objects = {f"d{number % 3}/{number}": blob(3 * KIB * number, number) for number in range(8)}
    source = random.Random(os.environ.get("PORTICO_COMPAT_SEED", "1"))
    after, count = 0, 0
    while after < MOST_CHANGES:
        for key, data in objects.items():
            put(rig.s3, key, data)
        bricks.settled()
        bricks.server.stop()
        # What a brick has at the first half of the keys is lost, and its log: it must compare all.
        shutil.rmtree(disks[1].path / "p" / "main" / "bkt" / "d0")
        shutil.rmtree(disks[1].path / "p" / "main" / ".portico" / "replica")
        rig.calls.arm(after, lambda: [disk.cut() for disk in disks])
        bricks.server.spawn()
        until("it was cut, or all is healed", lambda: rig.calls.at is None or is_healed(bricks))
        if rig.calls.disarm():
            break
        count += 1
        rig.restart()
        for key, data in objects.items():
            assert state(rig.s3, key) == data
        bricks.settled()
        bricks.check_copies("bkt", objects)
        after += 1 if EVERY else 40 + source.randrange(80)
    print(f"Heal: {count} cuts")
    assert count > 0
    bricks.server.stop()
    rig.calls.close()


def is_healed(bricks):
    """Whether a server answers and nothing is left to heal."""
    return bricks.server.answers() and lacking(bricks.status()) == 0
