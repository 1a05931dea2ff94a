"""What engines have in common: a network namespace with daemons, and mounts in it."""

import os
import shutil
import subprocess
import time

from harness.engines.namespace import Namespace, unmount


class Engine:
    """A distributed file system; `bring_up` of each starts its daemons and mounts."""

    needs = ()
    start_s = 60

    def __init__(self, home, mounts=3):
        self.home = home
        self.points = [home / f"mnt{number}" for number in range(mounts)]

    @classmethod
    def missing(cls):
        """Commands that are not installed."""
        return [name for name in cls.needs if shutil.which(name) is None]

    def start(self):
        """Starts everything and mounts it."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.net = Namespace()
        try:
            return self.bring_up()
        except BaseException:
            self.stop()
            raise

    def patiently(self, ready):
        """Waits until something is so."""
        deadline = time.monotonic() + self.start_s
        while not ready():
            assert time.monotonic() < deadline, f"{self.name} does not come up; see {self.home}"
            time.sleep(0.2)

    def writable(self, point):
        """Whether the daemons that keep the data are connected."""
        try:
            probe = point / f".up-{os.getpid()}"
            with open(probe, "wb") as file:
                file.write(b"up")
                os.fsync(file.fileno())
            probe.unlink()
        except OSError:
            return False
        return True

    def stop(self):
        """Unmounts, ends every daemon."""
        for point in self.points:
            if point.exists():
                unmount(point)
        self.net.remove()
        subprocess.run(["sync"], check=False)
