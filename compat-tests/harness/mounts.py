"""A small file system that only one server sees: a tmpfs in a mount namespace of its own."""

import fcntl
import os
import shutil
import struct
import subprocess

import pytest


def private_tmpfs(mount_point, size):
    """The words to put before a command so that it runs with a tmpfs of `size` at `mount_point`."""
    if os.geteuid() != 0:
        pytest.skip("not root: cannot mount a small file system")
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        pytest.skip("no unshare and nsenter (util-linux)")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, timeout=20).returncode:
        pytest.skip("mount namespaces are not permitted here")
    mount_point.mkdir(parents=True, exist_ok=True)
    mount = f'mount -t tmpfs -o size={size},mode=755 small "$0" && exec "$@"'
    return ["unshare", "-m", "--propagation", "private", "sh", "-c", mount, str(mount_point)]


def private_ext4(mount_point, size_mib):
    """As `private_tmpfs`, with an ext4 in a file: one that can be made read-only under its writers."""
    private_tmpfs(mount_point, "1m")
    if not shutil.which("mkfs.ext4"):
        pytest.skip("no mkfs.ext4 (e2fsprogs)")
    image = mount_point.with_suffix(".img")
    with open(image, "wb") as file:
        file.truncate(size_mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, timeout=60)
    mount = 'mount -o loop,errors=remount-ro "$0" "$1" && shift && exec "$@"'
    trial = ["unshare", "-m", "sh", "-c", mount, str(image), str(mount_point), "true"]
    if subprocess.run(trial, capture_output=True, timeout=60).returncode:
        pytest.skip("no loop devices: cannot mount an ext4 in a file")
    return ["unshare", "-m", "--propagation", "private", "sh", "-c", mount, str(image), str(mount_point)]


def make_read_only(server, path=None):
    """Makes the server's ext4 read-only, as a disk error does it."""
    device = os.stat(inside(server, path or server.data_dir)).st_dev
    name = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
    trigger = f"/sys/fs/ext4/{name}/trigger_fs_error"
    if not os.path.exists(trigger):
        pytest.skip("this kernel's ext4 has no trigger_fs_error")
    with open(trigger, "w") as file:
        file.write("portico test")


def rot_below(server, mount_point, name):
    """Flips a bit of a file on `private_ext4`, below the file system: nothing but the byte tells of it."""
    path = inside(server, mount_point / name)
    with open(path, "rb") as file:
        # FS_IOC_FIEMAP with FIEMAP_FLAG_SYNC, for one extent. Source: Documentation/filesystems/fiemap.rst.
        head = struct.pack("=QQIIII", 0, 1, 1, 0, 1, 0)
        answer = fcntl.ioctl(file, 0xC020660B, head + bytes(56))
        assert struct.unpack_from("=I", answer, 20) == (1,), "its bytes are in an extent"
        (physical,) = struct.unpack_from("=Q", answer, 32 + 8)
        with open(mount_point.with_suffix(".img"), "r+b") as image:
            image.seek(physical)
            before = image.read(1)[0]
            assert before == file.read(1)[0]
            image.seek(physical)
            image.write(bytes([before ^ 1]))
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        assert os.pread(file.fileno(), 1, 0)[0] == before ^ 1


def inside(server, path):
    """The path as the server sees it, from outside of its namespace."""
    return f"/proc/{server.process.pid}/root{path}"
