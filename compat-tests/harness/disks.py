"""File systems in files, each as if on a disk of its own: mounted, cut off as by a power cut, mounted again."""

import os
import shutil
import subprocess

import pytest

from harness.syscalls import shut_down

# Smallest that each makes, in MiB; the files are sparse.
SIZES_MIB = {"ext4": 192, "xfs": 320}


class LoopDisk:
    """A file system of a kind in a file beside its mount point."""

    def __init__(self, mount_point, kind):
        if os.geteuid() != 0:
            pytest.skip("not root: cannot mount")
        if not shutil.which(f"mkfs.{kind}"):
            pytest.skip(f"no mkfs.{kind}")
        self.path, self.image = mount_point, mount_point.with_suffix(".img")
        self.path.mkdir(parents=True)
        with open(self.image, "wb") as file:
            file.truncate(SIZES_MIB[kind] << 20)
        force = "-F" if kind == "ext4" else "-f"
        subprocess.run([f"mkfs.{kind}", "-q", force, str(self.image)], check=True, timeout=60)
        if self.mount():
            pytest.skip(f"no loop devices, or no {kind}: cannot mount it from a file")

    def mount(self):
        """Mounts it; gives mount(8)'s exit code."""
        words = ["mount", "-o", "loop", str(self.image), str(self.path)]
        return subprocess.run(words, capture_output=True, timeout=60).returncode

    def cut(self):
        """The power is cut."""
        shut_down(self.path)

    def unmount(self):
        """Takes it away; nobody has anything open on it."""
        subprocess.run(["umount", str(self.path)], check=True, capture_output=True, timeout=60)

    def mount_again(self):
        """As after a power cut: with what its journal has."""
        self.unmount()
        if self.is_held():
            # A namespace that was made meanwhile has the mount as well: what is cut off would be mounted again.
            copy = self.image.with_suffix(".copy")
            subprocess.run(["cp", "--sparse=always", str(self.image), str(copy)], check=True, timeout=60)
            os.replace(copy, self.image)
        assert self.mount() == 0

    def is_held(self):
        """Whether somebody has the file system mounted still."""
        words = ["losetup", "--noheadings", "--output", "NAME", "--associated", str(self.image)]
        return bool(subprocess.run(words, capture_output=True, timeout=60).stdout.strip())

    def remove(self):
        """Takes all of it away."""
        subprocess.run(["umount", "-l", str(self.path)], capture_output=True, timeout=60)
        self.image.unlink(missing_ok=True)
