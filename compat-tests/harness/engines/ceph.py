"""CephFS: one monitor, one manager, one metadata server, three object stores in files, and as many ceph-fuse mounts as
asked for."""

import json
import os
import signal
import uuid

from harness.engines.engine import Engine
from harness.engines.namespace import ADDRESS

STORES = 3
# No keys: everything is in a network namespace of its own. The last but one lets the first open of a new object on
# another gateway not wait for the metadata server's next tick. docs/outgrowing-one-machine.md
CONFIG = """\
[global]
fsid = {fsid}
mon host = [v2:{address}:3300,v1:{address}:6789]
public addr = {address}
auth cluster required = none
auth service required = none
auth client required = none
run dir = {home}
admin socket = {home}/$name.$pid.asok
log file = {home}/$name.log
osd pool default size = 3
osd pool default min size = 2
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = bluestore
bluestore block size = 4294967296
bluestore block create = true
osd memory target = 939524096
osd heartbeat grace = 6
mon osd min down reporters = 1
mon osd adjust heartbeat grace = false
mon allow pool delete = true
mds tick interval = 0.1
[mon]
mon data = {home}/mon
[osd]
osd data = {home}/osd$id
[mgr]
mgr data = {home}/mgr
mgr initial modules =
[mds]
mds data = {home}/mds
"""


class Ceph(Engine):
    """One file system in pools of three copies."""

    name = "ceph"
    needs = ("ceph", "ceph-mon", "monmaptool", "ceph-osd", "ceph-mgr", "ceph-mds", "ceph-fuse")
    start_s = 120

    def __init__(self, home, mounts=3):
        super().__init__(home, mounts)
        self.stores = {}

    def bring_up(self):
        """What `start` does, once there is a namespace."""
        fsid, self.config = str(uuid.uuid4()), self.home / "ceph.conf"
        self.config.write_text(CONFIG.format(fsid=fsid, address=ADDRESS, home=self.home))
        names = f"[v2:{ADDRESS}:3300,v1:{ADDRESS}:6789]"
        self.net.run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", names, self.home / "monmap")
        self.tool("ceph-mon", "--mkfs", "-i", "a", "--monmap", self.home / "monmap")
        self.daemon("ceph-mon", "a")
        self.patiently(lambda: "quorum_names" in self.ceph("quorum_status", check=False))
        for number in range(STORES):
            self.make_store(number)
        for pool in ("metadata", "data"):
            self.ceph("osd", "pool", "create", pool, "8", "8")
        (self.home / "mds").mkdir()
        (self.home / "mgr").mkdir()
        self.daemon("ceph-mgr", "x")
        self.ceph("fs", "new", "tree", "metadata", "data")
        self.daemon("ceph-mds", "a")
        self.patiently(lambda: "up:active" in self.ceph("mds", "stat"))
        for point in self.points:
            point.mkdir()
            self.tool("ceph-fuse", "-n", "client.admin", point)
        # Room is told by the manager.
        self.patiently(lambda: os.statvfs(self.points[0]).f_blocks > 0)
        self.patiently(lambda: all(point.is_mount() and self.writable(point) for point in self.points))
        return self

    def tool(self, name, *words, **more):
        """Runs one of Ceph's programs to its end."""
        return self.net.run(name, "-c", self.config, *words, **more)

    def ceph(self, *words, **more):
        """Asks the monitor."""
        return self.tool("ceph", "--connect-timeout", "5", *words, **more)

    def daemon(self, name, identity):
        """Starts one that goes on."""
        log = self.home / f"{name}.{identity}.out"
        return self.net.spawn(log, name, "-f", "-c", self.config, "-i", identity)

    def make_store(self, number):
        """One of those that keep the data."""
        identity = str(uuid.uuid4())
        assert int(self.ceph("osd", "new", identity).split()[-1]) == number
        (self.home / f"osd{number}").mkdir()
        self.tool("ceph-osd", "-i", number, "--mkfs", "--osd-uuid", identity)
        self.stores[number] = self.daemon("ceph-osd", number)
        self.patiently(lambda: self.stores_up() > number)

    def stores_up(self):
        """How many object stores the monitor has seen."""
        said = self.ceph("osd", "stat", "--format", "json")
        return json.loads(said[said.index("{") :])["num_up_osds"]

    def kill_storage(self):
        """SIGKILL to one of the three."""
        self.stores[0].send_signal(signal.SIGKILL)
        self.stores[0].wait(10)

    def revive_storage(self):
        """Starts it again."""
        self.stores[0] = self.daemon("ceph-osd", 0)
