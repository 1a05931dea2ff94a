"""The processes behind a mount: ended, killed, started again; nothing lost, no stale lock, no dead mount left."""

import concurrent.futures
import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from harness import clients, fuse
from harness.data import KIB, MIB, blob, md5, read_tree, write_tree
from harness.process import plain_env, run
from harness.server import BINARY, Server
from harness.tree import PROVISIONAL, assert_true_etag, listed, seen_by_all_doors
from harness.wait import until

pytestmark = pytest.mark.tree
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
HELPER = Path("/usr/sbin/mount.portico")


@pytest.fixture
def pair(fresh_server, new_mount):
    """A server with a bucket, and its mount."""
    clients.boto(fresh_server).create_bucket(Bucket="bkt")
    return fresh_server, new_mount(fresh_server).start()


def remounted(mount):
    """Waits until the mount answers again."""
    until("the mount is back", mount.stands, 60)


class Writer:
    """Writes files through the mount and remembers what was made durable. `may_be[name]` holds what a file may be."""

    def __init__(self, folder, number):
        self.folder, self.number = folder, number
        self.source = random.Random(number)
        self.may_be, self.acknowledged = {}, 0

    def run(self, stop):
        while not stop.is_set():
            try:
                self.step()
            except OSError:
                return
            self.acknowledged += 1

    def step(self):
        name = f"w{self.number}-{self.source.randrange(30)}"
        path, before = self.folder / name, self.may_be.get(name, [None])
        choice = self.source.random()
        data = self.source.randbytes(self.source.choice([0, 100, 5000, 90 * KIB]))
        if choice < 0.15:
            self.may_be[name] = [*before, None]
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            self.may_be[name] = [None]
        elif choice < 0.5:
            self.may_be[name] = [*before, data]
            durable(path.with_name(f"{name}.tmp"), data)
            os.rename(path.with_name(f"{name}.tmp"), path)
            self.may_be[name] = [data]
        else:
            self.may_be[name] = None  # truncated and rewritten in place: anything in between until the fsync
            durable(path, data)
            self.may_be[name] = [data]


def durable(path, data):
    """Writes a file and waits for fsync(2)."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def true_everywhere(server, folder, writers):
    """Plain files, mount, objects and listing agree with each other and with what was acknowledged."""
    s3, tree = clients.boto(server), read_tree(server.path("bkt"))
    index = listed(s3, "bkt")
    assert set(index) == set(tree), "the first listing is not true"
    for writer in writers:
        for name, contents in writer.may_be.items():
            assert contents is None or tree.get(name) in contents, f"{name} is none of what it may be"
            writer.may_be[name] = [tree.get(name)]
    for key, data in tree.items():
        assert index[key]["Size"] == len(data)
        assert_true_etag(index[key]["ETag"], data)
        got = s3.get_object(Bucket="bkt", Key=key)
        assert got["Body"].read() == data
        assert_true_etag(got["ETag"], data)
        assert (folder / key).read_bytes() == data


@pytest.mark.timeout(400)
def test_kill_of_the_server_during_writes_loses_no_acknowledged_fsync(pair):
    server, mount = pair
    folder = mount.path("bkt")
    writers = [Writer(folder, number) for number in range(6)]
    for round_number in range(3):
        stop = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(len(writers)) as pool:
            for writer in writers:
                writer.acknowledged = 0
                pool.submit(writer.run, stop)
            wanted = 150 + 50 * round_number
            until("the writers write", lambda: sum(writer.acknowledged for writer in writers) > wanted)
            server.kill()
            stop.set()
        server.start()
        remounted(mount)
        true_everywhere(server, folder, writers)
        until("staging is swept", lambda: not server.staging_debris())


def test_kill_with_a_file_open_for_writing_leaves_no_stale_tag(pair):
    """Its record still holds the digest of before the edit."""
    server, mount = pair
    s3, path = clients.boto(server), mount.path("bkt", "k")
    s3.put_object(Bucket="bkt", Key="k", Body=blob(5000, "old"))
    before = path.stat()
    file = os.open(path, os.O_RDWR)
    os.pwrite(file, blob(5000, "new"), 0)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    server.kill()
    with contextlib.suppress(OSError):
        os.close(file)
    server.start()
    assert_true_etag(listed(s3, "bkt")["k"]["ETag"], blob(5000, "new"))
    seen_by_all_doors(s3, "bkt", "k", blob(5000, "new"))
    remounted(mount)
    assert path.read_bytes() == blob(5000, "new")
    until(
        "the digest is known",
        lambda: s3.head_object(Bucket="bkt", Key="k")["ETag"].strip('"') == md5(blob(5000, "new")),
    )


def test_kill_after_a_directory_was_renamed_keeps_the_listing_true(pair):
    server, mount = pair
    folder = mount.path("bkt")
    write_tree(folder, {f"one/{number:03}": b"x" for number in range(500)})
    listed(clients.boto(server), "bkt")
    os.rename(folder / "one", folder / "two")
    server.kill()
    server.start()
    assert set(listed(clients.boto(server), "bkt")) == {f"two/{number:03}" for number in range(500)}


def test_dead_mount_answers_and_comes_back_with_the_server(pair):
    server, mount = pair
    path = mount.path("bkt", "k")
    path.write_bytes(b"before")
    held = os.open(path, os.O_RDONLY)
    server.kill()
    for call in (path.read_bytes, lambda: os.listdir(mount.point), lambda: path.write_bytes(b"x")):
        with pytest.raises(OSError) as error:
            call()
        assert error.value.errno in (errno.ENOTCONN, errno.ENOENT, errno.ECONNABORTED, errno.EIO)
    os.close(held)
    server.start()
    remounted(mount)
    assert path.read_bytes() == b"before"
    path.write_bytes(b"after")
    seen_by_all_doors(clients.boto(server), "bkt", "k", b"after")


def test_server_that_stops_and_starts_takes_the_mount_along(pair):
    server, mount = pair
    for number in range(3):
        mount.path("bkt", "k").write_bytes(b"%d" % number)
        assert server.stop() == 0
        server.start()
        remounted(mount)
        assert mount.path("bkt", "k").read_bytes() == b"%d" % number
    assert len(fuse.mounts_at(mount.point)) == 1


def test_killed_supervisor_leaves_a_mount_that_works_and_umount_ends_it(pair):
    server, mount = pair
    path = mount.path("bkt", "k")
    mount.kill()
    path.write_bytes(b"after")
    seen_by_all_doors(clients.boto(server), "bkt", "k", b"after")
    clients.boto(server).put_object(Bucket="bkt", Key="k", Body=b"by s3")
    assert path.read_bytes() == b"by s3"
    run(["umount", mount.point])
    assert fuse.mounts_at(mount.point) == []
    assert server.answers()
    mount.start()
    assert path.read_bytes() == b"by s3"


def test_umount_ends_the_command(pair):
    server, mount = pair
    run(["umount", mount.point])
    assert mount.process.wait(20) == 0
    assert os.listdir(mount.point) == []
    assert server.answers()


def test_umount_is_refused_while_a_file_is_open_and_done_after(pair):
    _, mount = pair
    with open(mount.path("bkt", "k"), "wb") as file:
        run(["umount", mount.point], ok=(32,))
        file.write(b"x")
    run(["umount", mount.point])


def test_mount_over_what_a_dead_one_left(pair):
    server, mount = pair
    server.kill()
    mount.kill()
    assert fuse.mounts_at(mount.point)
    server.start()
    mount.start()
    assert len(fuse.mounts_at(mount.point)) == 1
    mount.path("bkt", "k").write_bytes(b"x")
    seen_by_all_doors(clients.boto(server), "bkt", "k", b"x")


def test_one_bucket_is_mounted_alone(fresh_server, new_mount):
    s3 = clients.boto(fresh_server)
    s3.create_bucket(Bucket="bkt")
    mount = new_mount(fresh_server, bucket="bkt").start()
    (mount.point / "k").write_bytes(b"x")
    seen_by_all_doors(s3, "bkt", "k", b"x")
    s3.put_object(Bucket="bkt", Key="d/k", Body=b"y")
    assert (mount.point / "d" / "k").read_bytes() == b"y"
    assert not (mount.point / ".portico").exists()


def bytes_read_by(pid):
    """What a process has asked for by read(2) and its kin, in bytes. Source: proc_pid_io(5)."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def test_mount_says_how_bytes_travel(pair):
    server, mount = pair
    (server.path("bkt") / "k").write_bytes(os.urandom(8 << 20))
    said = next(
        line.split(maxsplit=1)[1] for line in mount.log_path.read_text().splitlines() if line.startswith("data")
    )
    # What hashing reads of the new file comes first.
    until("the file is hashed", lambda: "px1-" not in tag_of(server))
    before = bytes_read_by(server.process.pid)
    assert len((mount.point / "bkt" / "k").read_bytes()) == 8 << 20
    came_by_server = bytes_read_by(server.process.pid) - before >= 8 << 20
    assert said == ("through the server" if came_by_server else "passthrough")


def test_bucket_that_is_not_there_is_not_mounted(fresh_server, new_mount):
    mount = new_mount(fresh_server, bucket="none")
    mount.point.mkdir()
    assert mount.spawn().process.wait(20) != 0
    assert "none" in mount.log()
    assert fuse.mounts_at(mount.point) == []


def test_mount_without_a_server_holds_the_tree_alone(fresh_server, new_server, new_mount):
    clients.boto(fresh_server).create_bucket(Bucket="bkt")
    clients.boto(fresh_server).put_object(Bucket="bkt", Key="k", Body=b"x", Metadata={"m": "1"})
    fresh_server.stop()
    mount = new_mount(fresh_server).start()
    assert mount.path("bkt", "k").read_bytes() == b"x"
    mount.path("bkt", "made").write_bytes(b"y")
    second = new_server(data_dir=fresh_server.data_dir).spawn()
    assert second.process.wait(20) not in (0, None)
    assert str(mount.process.pid) in second.log()
    assert mount.stop() == 0
    fresh_server.start()
    s3 = clients.boto(fresh_server)
    assert set(listed(s3, "bkt")) == {"k", "made"}
    assert s3.head_object(Bucket="bkt", Key="k")["Metadata"] == {"m": "1"}


def test_kill_of_a_mount_without_a_server_leaves_a_true_index(fresh_server, new_mount):
    clients.boto(fresh_server).create_bucket(Bucket="bkt")
    fresh_server.stop()
    mount = new_mount(fresh_server).start()
    write_tree(mount.path("bkt"), {f"{number}": b"%d" % number for number in range(300)})
    for number in range(0, 300, 3):
        mount.path("bkt", str(number)).unlink()
    mount.kill()
    fuse.unmount(mount.point)
    fresh_server.start()
    assert set(listed(clients.boto(fresh_server), "bkt")) == {str(number) for number in range(300) if number % 3}


def test_serve_mounts_and_unmounts_by_itself(new_server, run_dir):
    fuse.need_fuse()
    point = run_dir / "serve-mount"
    point.mkdir(exist_ok=True)
    server = new_server(args=["--mount", str(point)]).start()
    try:
        s3 = clients.boto(server)
        s3.create_bucket(Bucket="bkt")
        until("it is mounted", lambda: fuse.mounts_at(point))
        s3.put_object(Bucket="bkt", Key="k", Body=b"x")
        assert (point / "bkt" / "k").read_bytes() == b"x"
        (point / "bkt" / "k").write_bytes(b"through")
        seen_by_all_doors(s3, "bkt", "k", b"through")
        server.kill()
        server.start()
        until("it is mounted again", lambda: mounted_and_answers(point))
        assert (point / "bkt" / "k").read_bytes() == b"through"
        assert server.stop() == 0
        assert fuse.mounts_at(point) == []
    finally:
        server.kill()
        fuse.unmount(point)


def mounted_and_answers(point):
    try:
        return bool(fuse.mounts_at(point)) and os.listdir(point)
    except OSError:
        return False


@pytest.fixture
def users_tree(new_server, tmp_path_factory):
    """A server of nobody's own, where nobody may go."""
    fuse.need_root()
    fuse.need("setpriv", "fusermount3")
    if os.stat("/dev/fuse").st_mode & 0o006 != 0o006:
        pytest.skip("/dev/fuse is for root alone here")
    home = Path("/tmp") / f"portico-user-{os.getpid()}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    os.chown(home, 65534, 65534)
    binary = home / "portico"
    shutil.copy(BINARY, binary)
    yield home, binary
    fuse.unmount(home / "mnt")
    shutil.rmtree(home, ignore_errors=True)


def test_user_mounts_his_own_tree(users_tree):
    home, binary = users_tree
    env = plain_env(home)
    server = UserServer(home / "data", home / "server.log", wrap=NOBODY, binary=binary)
    server.start()
    point = home / "mnt"
    point.mkdir()
    os.chown(point, 65534, 65534)
    process = subprocess.Popen([*NOBODY, binary, "mount", home / "data", point], env=env)
    try:
        s3 = clients.boto(server)
        s3.create_bucket(Bucket="bkt")
        until("the mount stands", lambda: fuse.mounts_at(point))
        run([*NOBODY, "sh", "-c", f"echo hello > {point}/bkt/k && mkdir {point}/bkt/d && ls {point}/bkt"])
        seen_by_all_doors(s3, "bkt", "k", b"hello\n")
        s3.put_object(Bucket="bkt", Key="d/x", Body=b"by s3")
        assert run([*NOBODY, "cat", point / "bkt" / "d" / "x"]).stdout == b"by s3"
        assert server.path("bkt", "k").stat().st_uid == 65534
        run([*NOBODY, "fusermount3", "-u", point])
        assert process.wait(20) == 0
        assert fuse.mounts_at(point) == []
    finally:
        process.kill()
        process.wait()
        fuse.unmount(point)
        server.stop()


class UserServer(Server):
    """A server that another user runs, from a copy of the binary that he may read."""

    def __init__(self, *words, binary, **options):
        super().__init__(*words, **options)
        self.binary = binary

    def command(self):
        return [str(self.binary) if word == str(BINARY) else word for word in super().command()]


@pytest.fixture
def helper():
    """mount.portico where mount(8) looks for it."""
    fuse.need_root()
    if HELPER.exists():
        pytest.skip(f"{HELPER} is there already")
    HELPER.symlink_to(BINARY)
    yield HELPER
    HELPER.unlink()


def test_mount_by_mount_8_and_by_an_fstab(fresh_server, helper, tmp_path):
    fuse.need_fuse()
    s3, point = clients.boto(fresh_server), tmp_path / "mnt"
    s3.create_bucket(Bucket="bkt")
    point.mkdir()
    fstab = tmp_path / "fstab"
    fstab.write_text(f"{fresh_server.data_dir} {point} portico noauto,nosuid,nodev,_netdev 0 0\n")
    try:
        for command in (["mount", "-t", "portico", fresh_server.data_dir, point], ["mount", "-T", fstab, point]):
            run(command)
            (point / "bkt" / "k").write_bytes(b"x")
            seen_by_all_doors(s3, "bkt", "k", b"x")
            run(["umount", point])
            assert fuse.mounts_at(point) == []
        run(["mount", "-t", "portico", "-o", "ro", fresh_server.data_dir, point])
        with pytest.raises(OSError) as error:
            (point / "bkt" / "k").write_bytes(b"y")
        assert error.value.errno == errno.EROFS
        run(["umount", point])
    finally:
        fuse.unmount(point)


def test_mount_background_returns_when_it_stands(fresh_server, tmp_path):
    fuse.need_fuse()
    point = tmp_path / "mnt"
    point.mkdir()
    try:
        run([BINARY, "mount", "--background", fresh_server.data_dir, point])
        assert fuse.mounts_at(point)
        (point / "made-bucket").mkdir()
        run(["umount", point])
    finally:
        fuse.unmount(point)


def test_mountpoint_that_is_none_is_refused(fresh_server, new_mount, tmp_path):
    mount = new_mount(fresh_server, point=tmp_path / "not-there")
    assert mount.spawn().process.wait(20) != 0
    assert "not-there" in mount.log()


def test_unknown_option_is_refused_by_name(fresh_server, new_mount):
    mount = new_mount(fresh_server, options=["nonsense"])
    mount.point.mkdir()
    assert mount.spawn().process.wait(20) != 0
    assert "nonsense" in mount.log()


def test_full_disk_is_enospc_and_leaves_the_rest_whole(new_server, new_mount, tmp_path):
    fuse.need_root()
    data_dir = tmp_path / "small"
    data_dir.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=24m", "small", data_dir])
    server = new_server(data_dir=data_dir)
    try:
        server.start()
        s3 = clients.boto(server)
        s3.create_bucket(Bucket="bkt")
        mount = new_mount(server).start()
        folder = mount.path("bkt")
        (folder / "old").write_bytes(blob(MIB, "old"))
        with pytest.raises(OSError) as error:
            (folder / "big").write_bytes(blob(40 * MIB))
        assert error.value.errno == errno.ENOSPC
        assert (folder / "old").read_bytes() == blob(MIB, "old")
        size = (folder / "big").stat().st_size
        assert s3.head_object(Bucket="bkt", Key="big")["ContentLength"] == size
        (folder / "big").unlink()
        (folder / "after").write_bytes(blob(5 * MIB, "after"))
        seen_by_all_doors(s3, "bkt", "after", blob(5 * MIB, "after"))
        assert mount.stop() == 0
        server.stop()
    finally:
        server.kill()
        for one in fuse.mounts_at(data_dir):
            assert one == "tmpfs"
        fuse.unmount(data_dir)


def test_sigterm_of_the_mount_waits_for_nobody(pair):
    """A file that is still open does not keep the command."""
    server, mount = pair
    with open(mount.path("bkt", "k"), "wb") as file:
        file.write(b"x")
        file.flush()
        mount.process.send_signal(signal.SIGTERM)
        assert mount.process.wait(20) == 0
        file.write(b"y")
    until("what was written is there", lambda: server.path("bkt", "k").read_bytes() == b"xy")
    started = time.monotonic()
    until("the edit is over", lambda: not tag_of(server).startswith(PROVISIONAL))
    assert time.monotonic() - started < 30


def tag_of(server):
    return clients.boto(server).head_object(Bucket="bkt", Key="k")["ETag"].strip('"')
