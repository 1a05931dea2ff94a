"""System calls on the mount, one property each."""

import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import socket
import stat
import subprocess
import sys
import time

import pytest

from harness import fuse
from harness.data import KIB, MIB, blob
from harness.locks import holder, takes
from harness.process import run
from harness.tree import listed, seen_by_all_doors
from harness.wait import until

pytestmark = pytest.mark.tree
OTHER = 1234

MAPPER = """
import mmap, sys
file = open(sys.argv[1], "r+b")
view = mmap.mmap(file.fileno(), 0)
print(view[5000:5005])
view[9:12] = b"two"
"""

APPENDER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for number in range(2000):
    os.write(fd, b"%s %04d\\n" % (sys.argv[2].encode(), number))
"""


@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_lock_between_two_processes(place, kind):
    path = place / "lock"
    path.write_bytes(b"x")
    lock = getattr(fcntl, kind)
    with open(path, "r+b") as file:
        held = holder(path, kind)
        with pytest.raises(BlockingIOError):
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.stdin.close()
        lock(file, fcntl.LOCK_EX)
        held.wait(20)
        lock(file, fcntl.LOCK_UN)
        held = holder(path, kind)
        held.kill()
        held.wait(20)
        until("a killed process holds no lock", lambda: takes(lock, file))


def test_fcntl_locks_of_ranges(place):
    path = place / "lock"
    path.write_bytes(b"x" * 100)
    program = (
        "import fcntl,os,sys\nfd=os.open(sys.argv[1],os.O_RDWR)\nout=[]\n"
        "for start in (0,10,20):\n"
        " try:\n  fcntl.lockf(fd,fcntl.LOCK_EX|fcntl.LOCK_NB,10,start)\n  out.append('free')\n"
        " except OSError as error:\n  out.append('held')\nprint(*out)"
    )
    with open(path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 10)
        said = run([sys.executable, "-c", program, path]).stdout.decode().split()
    assert said == ["free", "held", "free"]


def test_shared_mmap_is_seen_by_read_by_another_process_and_by_s3(place, s3, bucket):
    path = place / "mapped"
    path.write_bytes(bytes(64 * KIB))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[5000:5005] = b"store"
        assert os.pread(file.fileno(), 5, 5000) == b"store"
        assert run([sys.executable, "-c", MAPPER, path]).stdout == b"b'store'\n"
        assert view[9:12] == b"two"
        view.flush()
        got = s3.get_object(Bucket=bucket, Key="mapped")["Body"].read()
        assert (got[5000:5005], got[9:12], len(got)) == (b"store", b"two", 64 * KIB)
    seen_by_all_doors(s3, bucket, "mapped", path.read_bytes())


def test_store_through_a_map_that_outlives_its_descriptor(place, s3, bucket):
    path = place / "mapped"
    path.write_bytes(bytes(8 * KIB))
    file = os.open(path, os.O_RDWR)
    view = mmap.mmap(file, 0)
    os.close(file)
    for number in range(5):
        view[number * 1000 : number * 1000 + 4] = b"%04d" % number
        view.flush()
        seen_by_all_doors(s3, bucket, "mapped", view[:])
    view.close()
    seen_by_all_doors(s3, bucket, "mapped", path.read_bytes())


def test_mapped_program_runs_and_is_busy(place):
    program = place / "program"
    shutil.copy("/bin/sleep", program)
    running = subprocess.Popen([program, "20"])
    try:
        with pytest.raises(OSError) as error:
            os.open(program, os.O_WRONLY)
        assert error.value.errno == errno.ETXTBSY
    finally:
        running.kill()
        running.wait()


def aligned(data):
    """A buffer at a page's start."""
    buffer = mmap.mmap(-1, len(data))
    buffer.write(data)
    return buffer


def test_o_direct_beside_buffered_and_mapped(place, s3, bucket):
    path = place / "direct"
    data = blob(256 * KIB)
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o644)
    assert os.pwritev(file, [aligned(data)], 0) == len(data)
    assert path.read_bytes() == data
    with open(path, "r+b") as buffered, mmap.mmap(buffered.fileno(), 0) as view:
        assert view[:] == data
        piece = blob(4 * KIB, "piece")
        os.pwritev(file, [aligned(piece)], 64 * KIB)
        assert view[64 * KIB : 68 * KIB] == piece
        os.pwrite(buffered.fileno(), b"buffered", 0)
        back = aligned(bytes(4 * KIB))
        os.preadv(file, [back], 0)
        assert back[:8] == b"buffered"
        view[100:106] = b"mapped"
        os.preadv(file, [back], 0)
        assert back[100:106] == b"mapped"
    os.close(file)
    data = b"buffered" + data[8:100] + b"mapped" + data[106 : 64 * KIB] + piece + data[68 * KIB :]
    seen_by_all_doors(s3, bucket, "direct", data)


def test_holes_are_kept_found_and_made(place, s3, bucket):
    path = place / "sparse"
    with open(path, "w+b") as file:
        file.truncate(16 * MIB)
        os.pwrite(file.fileno(), b"x" * 4096, 8 * MIB)
        assert os.fstat(file.fileno()).st_blocks * 512 <= 64 * KIB
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 8 * MIB
        assert os.lseek(file.fileno(), 8 * MIB, os.SEEK_HOLE) == 8 * MIB + 4096
        with pytest.raises(OSError) as error:
            os.lseek(file.fileno(), 9 * MIB, os.SEEK_DATA)
        assert error.value.errno == errno.ENXIO
    whole = bytes(8 * MIB) + b"x" * 4096 + bytes(8 * MIB - 4096)
    assert s3.get_object(Bucket=bucket, Key="sparse")["Body"].read() == whole
    run(["fallocate", "--punch-hole", "--offset", str(8 * MIB), "--length", "4096", path])
    assert path.stat().st_blocks == 0
    assert s3.get_object(Bucket=bucket, Key="sparse")["Body"].read() == bytes(16 * MIB)
    run(["fallocate", "--length", str(MIB), place / "allocated"])
    assert (place / "allocated").stat().st_blocks * 512 >= MIB
    assert s3.head_object(Bucket=bucket, Key="allocated")["ContentLength"] == MIB


def test_copy_file_range(place, s3, bucket):
    data = blob(300 * KIB)
    (place / "from").write_bytes(data)
    with open(place / "from", "rb") as source, open(place / "to", "wb") as target:
        left = len(data)
        while left:
            left -= os.copy_file_range(source.fileno(), target.fileno(), left)
    seen_by_all_doors(s3, bucket, "to", data)


def test_xattrs(place):
    path = place / "k"
    path.write_bytes(b"x")
    os.setxattr(path, "user.a", b"1")
    os.setxattr(path, "user.a", b"2", os.XATTR_REPLACE)
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.a", b"3", os.XATTR_CREATE)
    with pytest.raises(OSError) as error:
        os.setxattr(path, "user.b", b"3", os.XATTR_REPLACE)
    assert error.value.errno == errno.ENODATA
    os.setxattr(path, "user.empty", b"")
    assert sorted(os.listxattr(path)) == ["user.a", "user.empty"]
    assert (os.getxattr(path, "user.a"), os.getxattr(path, "user.empty")) == (b"2", b"")
    os.removexattr(path, "user.a")
    with pytest.raises(OSError) as error:
        os.getxattr(path, "user.a")
    assert error.value.errno == errno.ENODATA
    with pytest.raises(OSError) as error:
        os.setxattr(path, "user.big", b"x" * 100_000)
    assert error.value.errno in (errno.ENOSPC, errno.E2BIG)
    assert os.listxattr(path) == ["user.empty"]


def acl(path):
    """An ACL as getfacl prints it, numeric and without its heading."""
    return run(["getfacl", "-cnp", path]).stdout.decode().split()


def test_acl_is_set_shown_and_enforced(place):
    fuse.need_root()
    fuse.need("setfacl", "getfacl", "setpriv")
    path = place / "k"
    path.write_bytes(b"secret")
    os.chmod(path, 0o600)
    as_other = ["setpriv", "--reuid", str(OTHER), "--regid", str(OTHER), "--clear-groups", "cat", path]
    run(as_other, ok=(1,))
    run(["setfacl", "-m", f"u:{OTHER}:r", path])
    assert run(as_other).stdout == b"secret"
    assert acl(path) == ["user::rw-", f"user:{OTHER}:r--", "group::---", "mask::r--", "other::---"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    os.chmod(path, 0o600)
    run(as_other, ok=(1,))
    run(["setfacl", "-b", path])
    assert acl(path) == ["user::rw-", "group::---", "other::---"]


def test_default_acl_is_inherited(place):
    fuse.need("setfacl", "getfacl")
    folder = place / "d"
    folder.mkdir()
    run(["setfacl", "-d", "-m", f"u::rwx,g::r-x,o::---,u:{OTHER}:rwx", folder])
    old = os.umask(0o077)
    try:
        (folder / "file").write_bytes(b"")
        (folder / "sub").mkdir()
    finally:
        os.umask(old)
    entries = [entry for entry in acl(folder / "file") if not entry.startswith("#")]
    assert entries == ["user::rw-", f"user:{OTHER}:rwx", "group::r-x", "mask::rw-", "other::---"]
    assert f"default:user:{OTHER}:rwx" in acl(folder / "sub")
    assert f"user:{OTHER}:rwx" in acl(folder / "sub")


def test_umask_owner_and_setgid_directories(place):
    fuse.need_root()
    fuse.need("setpriv")
    folder = place / "d"
    folder.mkdir()
    os.chown(folder, 0, 4321)
    os.chmod(folder, 0o2777)
    who = ["setpriv", "--reuid", str(OTHER), "--regid", str(OTHER), "--clear-groups"]
    run([*who, "sh", "-c", f"umask 027; cd {folder}; echo x > file; mkdir sub; ln -s x soft; mkfifo pipe"])
    found = {name: (folder / name).lstat() for name in ("file", "sub", "soft", "pipe")}
    assert {(entry.st_uid, entry.st_gid) for entry in found.values()} == {(OTHER, 4321)}
    assert stat.S_IMODE(found["file"].st_mode) == 0o640
    assert stat.S_IMODE(found["sub"].st_mode) == 0o2750
    assert stat.S_IMODE(found["pipe"].st_mode) == 0o640
    os.chmod(folder, 0o755)
    run([*who, "sh", "-c", f"echo y > {folder}/new"], ok=(1, 2))
    run([*who, "sh", "-c", f"rm {folder}/file"], ok=(1, 2))


def test_permissions_are_checked_by_the_kernel(place):
    fuse.need_root()
    fuse.need("setpriv")
    path = place / "k"
    path.write_bytes(b"x")
    os.chmod(path, 0o640)
    os.chown(path, 0, 77)
    base = ["setpriv", "--reuid", str(OTHER), "--regid", str(OTHER)]
    run([*base, "--clear-groups", "cat", path], ok=(1,))
    assert run([*base, "--groups", "77", "cat", path]).stdout == b"x"
    run([*base, "--groups", "77", "sh", "-c", f"echo y > {path}"], ok=(1, 2))
    run([*base, "--clear-groups", "chmod", "777", path], ok=(1,))


def test_hard_and_symbolic_links(place):
    path = place / "k"
    path.write_bytes(b"x")
    os.link(path, place / "hard")
    os.symlink("k", place / "soft")
    assert path.stat().st_nlink == 2
    assert (place / "hard").stat().st_ino == path.stat().st_ino
    (place / "soft").write_bytes(b"through")
    assert (place / "hard").read_bytes() == b"through"
    path.unlink()
    assert (place / "hard").read_bytes() == b"through"
    assert (place / "hard").stat().st_nlink == 1
    with pytest.raises(FileNotFoundError):
        (place / "soft").read_bytes()
    assert os.readlink(place / "soft") == "k"
    target = "t" * 4000
    os.symlink(target, place / "long")
    assert os.readlink(place / "long") == target


def test_open_unlinked_file_lives_on(place, s3, bucket):
    path = place / "k"
    with open(path, "w+b") as file:
        file.write(b"x" * 1000)
        file.flush()
        path.unlink()
        assert not path.exists()
        assert os.listdir(place) == []
        assert listed(s3, bucket) == {}
        file.write(b"more")
        file.flush()
        os.ftruncate(file.fileno(), 1002)
        os.fsync(file.fileno())
        found = os.fstat(file.fileno())
        assert (found.st_nlink, found.st_size) == (0, 1002)
        os.fchmod(file.fileno(), 0o600)
        os.utime(file.fileno(), ns=(1, 2))
        assert os.fstat(file.fileno()).st_mtime_ns == 2
        assert os.pread(file.fileno(), 5000, 0) == b"x" * 1000 + b"mo"
        path.write_bytes(b"new")
        assert os.pread(file.fileno(), 1, 0) == b"x"
    assert path.read_bytes() == b"new"
    assert list(listed(s3, bucket)) == ["k"]


def test_rename_over_an_open_file(place, s3, bucket):
    (place / "k").write_bytes(b"old")
    (place / "n").write_bytes(b"new")
    with open(place / "k", "r+b") as file:
        os.rename(place / "n", place / "k")
        assert file.read() == b"old"
        file.write(b"er")
        file.flush()
        assert (place / "k").read_bytes() == b"new"
        seen_by_all_doors(s3, bucket, "k", b"new")
    assert (place / "k").read_bytes() == b"new"
    seen_by_all_doors(s3, bucket, "k", b"new")
    assert list(listed(s3, bucket)) == ["k"]


RENAME_NOREPLACE, RENAME_EXCHANGE, AT_FDCWD = 1, 2, -100


def renameat2(one, two, flags):
    """renameat2(2), which Python does not have."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(two), flags):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def test_rename_noreplace_and_exchange(place, s3, bucket):
    (place / "a").write_bytes(b"1")
    (place / "b").write_bytes(b"22")
    with pytest.raises(FileExistsError):
        renameat2(place / "a", place / "b", RENAME_NOREPLACE)
    renameat2(place / "a", place / "b", RENAME_EXCHANGE)
    assert ((place / "a").read_bytes(), (place / "b").read_bytes()) == (b"22", b"1")
    seen_by_all_doors(s3, bucket, "a", b"22")
    seen_by_all_doors(s3, bucket, "b", b"1")
    assert {key: entry["Size"] for key, entry in listed(s3, bucket).items()} == {"a": 2, "b": 1}
    renameat2(place / "a", place / "c", RENAME_NOREPLACE)
    assert list(listed(s3, bucket)) == ["b", "c"]


def test_names_of_255_bytes(place, s3, bucket):
    name = "\u00e4" * 127 + "x"
    (place / name).write_bytes(b"x")
    assert os.listdir(place) == [name]
    seen_by_all_doors(s3, bucket, name, b"x")
    with pytest.raises(OSError) as error:
        (place / (name + "y")).write_bytes(b"x")
    assert error.value.errno == errno.ENAMETOOLONG


def test_name_that_is_no_utf8_works_and_is_no_object(place, s3, bucket):
    path = os.fsencode(place) + b"/\xff\xfe"
    with open(path, "wb") as file:
        file.write(b"x")
    os.rename(path, path + b"\xfd")
    assert os.listdir(os.fsencode(place)) == [b"\xff\xfe\xfd"]
    with open(path + b"\xfd", "rb") as file:
        assert file.read() == b"x"
    assert listed(s3, bucket) == {}
    (place / "k").write_bytes(b"k")
    assert list(listed(s3, bucket)) == ["k"]
    os.rename(path + b"\xfd", place / "now")
    assert list(listed(s3, bucket)) == ["k", "now"]
    os.rename(place / "now", path)
    assert list(listed(s3, bucket)) == ["k"]
    os.unlink(path)


def test_path_longer_than_a_key_works_and_is_no_object(place, s3, bucket):
    deep = place
    for number in range(12):
        deep = deep / f"{number:02}{'d' * 98}"
        deep.mkdir()
    (deep / "file").write_bytes(b"deep")
    assert (deep / "file").read_bytes() == b"deep"
    assert len(str((deep / "file").relative_to(place))) > 1024
    assert listed(s3, bucket) == {}
    (place / "k").write_bytes(b"k")
    os.rename(deep / "file", place / "up")
    assert list(listed(s3, bucket)) == ["k", "up"]
    shutil.rmtree(place / f"00{'d' * 98}")
    assert sorted(os.listdir(place)) == ["k", "up"]


def test_fifos_and_sockets_work_and_are_no_objects(place, s3, bucket):
    os.mkfifo(place / "fifo")
    reader = subprocess.Popen(["cat", place / "fifo"], stdout=subprocess.PIPE)
    (place / "fifo").write_bytes(b"through")
    assert reader.communicate(timeout=20)[0] == b"through"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        old = os.getcwd()
        os.chdir(place)  # the address of a socket has no room for a long path
        try:
            listener.bind("socket")
            listener.listen()
            client.connect("socket")
        finally:
            os.chdir(old)
        client.sendall(b"hello")
        assert listener.accept()[0].recv(5) == b"hello"
    assert listed(s3, bucket) == {}
    assert sorted(os.listdir(place)) == ["fifo", "socket"]


def test_device_nodes_are_refused(place):
    fuse.need_root()
    if fuse.BIND:
        pytest.skip("no mount")
    with pytest.raises(PermissionError):
        os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert os.listdir(place) == []


def test_times_have_nanoseconds(place):
    path = place / "k"
    path.write_bytes(b"x")
    os.utime(path, ns=(1_500_000_000_000_000_001, 1_600_000_000_999_999_999))
    found = path.stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_500_000_000_000_000_001, 1_600_000_000_999_999_999)
    os.utime(path, ns=(-1_000_000_001, -2_000_000_002))
    assert path.stat().st_mtime_ns == -2_000_000_002
    before = time.time_ns()
    os.utime(path)
    assert abs(path.stat().st_mtime_ns - before) < 20_000_000_000


def test_write_and_truncate_move_the_times_of_an_open_file(place):
    with open(place / "k", "w+b", buffering=0) as file:
        file.write(b"x")
        one = os.fstat(file.fileno())
        os.utime(file.fileno(), ns=(1, 1))
        assert (place / "k").stat().st_mtime_ns == 1
        file.write(b"y")
        two = os.fstat(file.fileno())
        assert two.st_mtime_ns >= one.st_mtime_ns and two.st_size == 2
        assert (place / "k").stat().st_mtime_ns == two.st_mtime_ns
        os.truncate(place / "k", 1)
        assert os.fstat(file.fileno()).st_size == 1


def test_append_by_two_processes_loses_no_line(place):
    writers = [subprocess.Popen([sys.executable, "-c", APPENDER, place / "log", name]) for name in "ab"]
    assert [writer.wait(100) for writer in writers] == [0, 0]
    lines = (place / "log").read_text().splitlines()
    assert sorted(lines) == [f"{name} {number:04}" for name in "ab" for number in range(2000)]


def test_directory_read_while_it_changes(place):
    """What stands all the while is met once, whatever comes and goes beside it."""
    for number in range(3000):
        (place / f"stays{number:05}").touch()
        (place / f"goes{number:05}").touch()
    met = []
    with os.scandir(place) as entries:
        for entry in entries:
            met.append(entry.name)
            if len(met) % 3 == 0 and (number := len(met) // 3) < 3000:
                (place / f"goes{number:05}").unlink()
                (place / f"comes{number:05}").touch()
    stays = [name for name in met if name.startswith("stays")]
    assert sorted(stays) == [f"stays{number:05}" for number in range(3000)]
    assert len(set(met)) == len(met)


def test_statvfs_is_the_disks(place, server):
    of_mount, of_disk = os.statvfs(place), os.statvfs(server.volume_dir)
    assert (of_mount.f_blocks, of_mount.f_bsize, of_mount.f_namemax) == (of_disk.f_blocks, of_disk.f_bsize, 255)
    assert of_mount.f_bavail > 0 and of_mount.f_files == of_disk.f_files


def test_inode_numbers_are_those_of_the_disk_and_of_readdir(place, server, bucket):
    (place / "d").mkdir()
    (place / "k").write_bytes(b"x")
    with os.scandir(place) as entries:
        inodes = {entry.name: (entry.inode(), entry.stat(follow_symlinks=False).st_ino) for entry in entries}
    for name, (of_readdir, of_stat) in inodes.items():
        assert of_readdir == of_stat == server.path(bucket, name).stat().st_ino


def test_getcwd_and_relative_paths_in_a_removed_directory(place):
    (place / "d").mkdir()
    old = os.getcwd()
    os.chdir(place / "d")
    try:
        assert os.getcwd() == str(place / "d")
        os.rename(place / "d", place / "e")
        assert os.getcwd() == str(place / "e")
        os.rmdir(place / "e")
        with pytest.raises(FileNotFoundError):
            os.open("x", os.O_CREAT | os.O_WRONLY)
    finally:
        os.chdir(old)
