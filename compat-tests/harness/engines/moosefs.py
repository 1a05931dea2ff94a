"""MooseFS: one master, three chunk servers, goal 2, as many mounts as asked for."""

import os
import shutil
import signal
import time

from harness.engines.engine import Engine
from harness.engines.namespace import ADDRESS

# Without these a mount answers from memory what another one has changed. docs/outgrowing-one-machine.md
MOUNT_OPTIONS = (
    "mfsxattrcacheto=0,mfsattrcacheto=0,mfsentrycacheto=0,mfsdirentrycacheto=0,mfsnegentrycacheto=0,mfscachemode=DIRECT"
)
CHUNK_SERVERS = 3


class MooseFS(Engine):
    """One tree."""

    name = "moosefs"
    needs = ("mfsmaster", "mfschunkserver", "mfsmount")

    def __init__(self, home, mounts=3, options=MOUNT_OPTIONS):
        super().__init__(home, mounts)
        self.options = options
        self.servers = {}

    def bring_up(self):
        """What `start` does, once there is a namespace."""
        data = self.home / "master"
        data.mkdir()
        empty = [f"{place}/metadata.mfs.empty" for place in ("/var/lib/mfs", "/usr/share/mfs")]
        source = next(path for path in empty if os.path.exists(path))
        shutil.copy(source, data / "metadata.mfs")
        (self.home / "exports.cfg").write_text("* / rw,alldirs,admin,maproot=0:0\n")
        (self.home / "topology.cfg").write_text("")
        (self.home / "master.cfg").write_text(
            f"WORKING_USER = root\nWORKING_GROUP = root\nDATA_PATH = {data}\n"
            f"EXPORTS_FILENAME = {self.home}/exports.cfg\nTOPOLOGY_FILENAME = {self.home}/topology.cfg\n"
            f"MATOML_LISTEN_HOST = {ADDRESS}\nMATOCS_LISTEN_HOST = {ADDRESS}\nMATOCL_LISTEN_HOST = {ADDRESS}\n"
        )
        self.net.spawn(self.home / "master.log", "mfsmaster", "-f", "-c", self.home / "master.cfg", "start")
        time.sleep(1)
        for number in range(CHUNK_SERVERS):
            self.start_chunk_server(number)
        for number, point in enumerate(self.points):
            point.mkdir()
            self.patiently(lambda number=number, point=point: self.mount(number, point))
        self.patiently(lambda: self.writable(self.points[0]))
        self.net.run("mfssetgoal", "-r", "2", self.points[0])
        return self

    def start_chunk_server(self, number):
        """One of those that keep the data."""
        data, disk = self.home / f"chunk{number}", self.home / f"disk{number}"
        data.mkdir(exist_ok=True)
        disk.mkdir(exist_ok=True)
        (data / "hdd.cfg").write_text(f"{disk}\n")
        (data / "chunk.cfg").write_text(
            f"WORKING_USER = root\nWORKING_GROUP = root\nDATA_PATH = {data}\nHDD_CONF_FILENAME = {data}/hdd.cfg\n"
            f"HDD_LEAVE_SPACE_DEFAULT = 0\nMASTER_HOST = {ADDRESS}\nCSSERV_LISTEN_HOST = {ADDRESS}\n"
            f"CSSERV_LISTEN_PORT = {9500 + number}\nMASTER_RECONNECTION_DELAY = 1\nHDD_FSYNC_BEFORE_CLOSE = 0\n"
        )
        self.servers[number] = self.net.spawn(
            self.home / f"chunk{number}.log", "mfschunkserver", "-f", "-c", data / "chunk.cfg", "start"
        )

    def mount(self, number, point):
        """One mount; false where the master does not answer yet."""
        self.net.run("mfsmount", point, "-H", ADDRESS, "-o", self.options, check=False)
        return point.is_mount()

    def kill_storage(self):
        """SIGKILL to one of the three."""
        self.servers[0].send_signal(signal.SIGKILL)
        self.servers[0].wait(10)

    def revive_storage(self):
        """Starts it again."""
        self.start_chunk_server(0)
