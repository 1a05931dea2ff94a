"""A network namespace with a loopback of its own: what listens there meets nothing of this machine."""

import contextlib
import os
import subprocess
import uuid
from pathlib import Path

# An address that Gluster does not take for a loopback's.
ADDRESS = "10.93.0.1"


class Namespace:
    """Made at once, removed by `remove`."""

    def __init__(self):
        self.name = f"portico-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "-n", self.name, "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)

    @property
    def prefix(self):
        """Words before a command that is to run there. The mounts stay this process's own."""
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    def run(self, *argv, check=True, timeout=120, **more):
        """Runs a command there to its end; gives what it said."""
        words = [*self.prefix, *map(str, argv)]
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, **more
        )
        assert not check or done.returncode == 0, f"{words}: {done.returncode}: {done.stdout}"
        return done.stdout

    def spawn(self, log, *argv, **more):
        """Starts a command there that goes on."""
        with open(log, "ab") as out:
            return subprocess.Popen(
                [*self.prefix, *map(str, argv)], stdout=out, stderr=out, stdin=subprocess.DEVNULL, **more
            )

    def pids(self):
        """Processes in the namespace."""
        done = subprocess.run(["ip", "netns", "pids", self.name], stdout=subprocess.PIPE, text=True, check=False)
        return [int(pid) for pid in done.stdout.split()]

    def remove(self):
        """Kills what is left in it and takes it away."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        subprocess.run(["ip", "netns", "del", self.name], check=False)


def unmount(point):
    """Takes a FUSE mount away, dead or alive."""
    if Path(point).is_mount() or not readable(point):
        subprocess.run(["umount", "-l", str(point)], check=False, stderr=subprocess.DEVNULL)


def readable(point):
    """Whether a directory answers."""
    try:
        os.listdir(point)
    except OSError:
        return False
    return True
