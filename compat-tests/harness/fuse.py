"""A server's tree, mounted: `portico mount` as a child process.

`PORTICO_COMPAT_BIND=1` binds the plain directory where the mount would be: what fails then is the
disk's or the test's own fault.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from harness.process import plain_env, run, tail
from harness.server import BINARY
from harness.wait import until

BIND = bool(os.environ.get("PORTICO_COMPAT_BIND"))
END_S = 30


def need_fuse():
    """Skips where nothing can be mounted."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"/dev/fuse: {error.strerror}")
    if not may_mount() and (os.geteuid() == 0 or not shutil.which("fusermount3")):
        pytest.skip("no CAP_SYS_ADMIN" if os.geteuid() == 0 else "not root and no fusermount3")


def may_mount():
    """Whether this process has CAP_SYS_ADMIN. Source: capabilities(7)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        effective = next(line for line in lines if line.startswith("CapEff"))
    return bool(int(effective.split()[1], 16) >> 21 & 1)


def need_root():
    """Skips where the test needs other users, devices or capabilities."""
    if os.geteuid() != 0:
        pytest.skip("not root")


def need(*commands):
    """Skips where a command is not installed."""
    for command in commands:
        if not shutil.which(command):
            pytest.skip(f"{command} is not installed")


def mounts():
    """What is mounted where, as (path, type), the topmost last; asks no file system, so that a dead mount cannot
    hold the test up."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            words = line.split(" ")
            yield unescape(words[4]), words[words.index("-") + 1]


def mounts_at(point):
    """The types of what is mounted at a path, the topmost last."""
    return [kind for path, kind in mounts() if path == str(point)]


def unescape(word):
    """A path of /proc/self/mountinfo. Source: proc(5): octal escapes of blanks."""
    return word.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")


def unmount(point):
    """Takes away whatever is mounted at a path."""
    for _ in mounts_at(point):
        subprocess.run(["umount", "-l", str(point)], capture_output=True, timeout=END_S)


def unmount_below(folder):
    """Takes away what a run that was killed left mounted."""
    for path, _ in list(mounts()):
        if path.startswith(f"{folder}/"):
            unmount(path)


class Mount:
    """`portico mount DIR[/BUCKET] POINT`."""

    def __init__(self, server, point, log_path, *, bucket="", options=(), args=(), wrap=()):
        self.server, self.point, self.log_path = server, Path(point), Path(log_path)
        self.bucket, self.options = bucket, list(options)
        self.args, self.wrap = list(args), list(wrap)
        self.process = None

    def command(self):
        """The command line."""
        source = self.server.data_dir / self.bucket if self.bucket else self.server.data_dir
        argv = [*self.wrap, str(BINARY), "mount", str(source), str(self.point), *self.args]
        return argv + [word for option in self.options for word in ("-o", option)]

    def path(self, bucket="", key=""):
        """Where an object is seen through the mount."""
        return self.point / bucket / key

    def spawn(self):
        """Starts the command without waiting for the mount."""
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=plain_env(self.log_path.parent),
            )
        return self

    def start(self):
        """Mounts, and waits until it stands."""
        if not mounts_at(self.point):
            self.point.mkdir(parents=True, exist_ok=True)
        if BIND:
            run(["mount", "--bind", self.server.volume_dir / self.bucket, self.point])
            return self
        self.spawn()
        until("the mount stands", self.stands_or_ended)
        return self

    def stands_or_ended(self):
        """True once it is mounted; fails where the command ended before."""
        code = self.process.poll()
        assert code is None, f"{' '.join(self.command())}\nended with {code}:\n{self.log()}"
        return self.stands()

    def stands(self):
        """True where a FUSE file system is mounted at the point and answers."""
        if not any(kind.startswith("fuse") for kind in mounts_at(self.point)):
            return False
        try:
            os.statvfs(self.point)  # asks the server, where stat(2) may answer from memory
            # The dead one may have gone since the table was read: then the directory below answered.
            return os.path.ismount(self.point)
        except OSError:
            return False

    def stop(self):
        """SIGTERM, as an init system does it; returns the exit code."""
        if BIND or not self.process:
            unmount(self.point)
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the mount runs on {END_S} s after SIGTERM:\n{self.log()}") from None

    def kill(self):
        """SIGKILL: no goodbye. What is mounted stays mounted."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(END_S)

    def clear(self):
        """Leaves nothing behind, whatever happened."""
        self.kill()
        unmount(self.point)

    def log(self, limit=6000):
        """The last of what it wrote."""
        return tail(self.log_path.read_bytes(), limit) if self.log_path.exists() else ""
