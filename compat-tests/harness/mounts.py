"""A small file system that only one server sees: a tmpfs in a mount namespace of its own."""

import os
import shutil
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


def remount_read_only(server):
    """Makes the server's small file system read-only under it."""
    enter = ["nsenter", "-t", str(server.process.pid), "-m", "--"]
    words = [*enter, "mount", "-o", "remount,ro", str(server.data_dir)]
    subprocess.run(words, check=True, timeout=20)


def inside(server, path):
    """The path as the server sees it, from outside of its namespace."""
    return f"/proc/{server.process.pid}/root{path}"
