"""GlusterFS, replica 3, one glusterd, as many mounts as asked for, with the settings that gateways need."""

import os
import signal

from harness.engines.engine import Engine
from harness.engines.namespace import ADDRESS

VOLUME = "portico"
# Without these a mount answers from memory what another one has changed. docs/outgrowing-one-machine.md
SETTINGS = {
    "performance.stat-prefetch": "off",
    "performance.quick-read": "off",
    "performance.open-behind": "off",
    "performance.read-ahead": "off",
    "performance.io-cache": "off",
    "performance.readdir-ahead": "off",
    "performance.nl-cache": "off",
    "network.ping-timeout": "5",
    "cluster.quorum-type": "auto",
}
MOUNT_SETTINGS = ["--entry-timeout=0", "--attribute-timeout=0", "--negative-timeout=0"]


class Gluster(Engine):
    """One volume of three bricks."""

    name = "gluster"
    needs = ("glusterd", "gluster", "glusterfs")

    def __init__(self, home, mounts=3, settings=SETTINGS, mount_settings=MOUNT_SETTINGS):
        super().__init__(home, mounts)
        self.settings, self.mount_settings = settings, mount_settings
        self.killed = None

    def bring_up(self):
        """What `start` does, once there is a namespace."""
        state, socket = self.home / "glusterd", self.home / "glusterd.socket"
        (state / "run").mkdir(parents=True)
        volfile = self.home / "glusterd.vol"
        volfile.write_text(
            "volume management\n type mgmt/glusterd\n"
            f" option working-directory {state}\n option run-directory {state}/run\n"
            " option transport-type socket\n option transport.socket.listen-port 24007\n"
            " option transport.address-family inet\n option ping-timeout 0\n"
            f" option glusterd-sockfile {socket}\nend-volume\n"
        )
        self.cli = ["gluster", "--mode=script", f"--glusterd-sock={socket}"]
        self.net.spawn(
            self.home / "glusterd.log", "glusterd", "-N", "-f", volfile, "-p", state / "pid", "-l", self.home / "d.log"
        )
        self.patiently(lambda: "Number of Peers" in self.net.run(*self.cli, "peer", "status", check=False))
        bricks = [self.home / f"brick{number}" for number in range(3)]
        for brick in bricks:
            brick.mkdir()
        names = [f"{ADDRESS}:{brick}" for brick in bricks]
        self.net.run(*self.cli, "volume", "create", VOLUME, "replica", 3, *names, "force")
        for key, value in self.settings.items():
            self.net.run(*self.cli, "volume", "set", VOLUME, key, value)
        self.net.run(*self.cli, "volume", "start", VOLUME)
        for number, point in enumerate(self.points):
            point.mkdir()
            self.net.run(
                "glusterfs",
                f"--volfile-server={ADDRESS}",
                f"--volfile-id={VOLUME}",
                *self.mount_settings,
                f"--log-file={self.home}/mnt{number}.log",
                point,
            )
            self.patiently(lambda point=point: point.is_mount() and self.writable(point))
        return self

    def brick_pids(self):
        """The brick daemons, by brick."""
        said = self.net.run(*self.cli, "volume", "status", VOLUME)
        rows = said.replace("\n", " ").split("Brick ")[1:]
        pids = []
        for row in rows:
            words = [word for word in row.split("Self-heal")[0].split() if word.isdigit() or word in ("Y", "N", "N/A")]
            at = next(i for i, word in enumerate(words) if word in ("Y", "N"))
            pids.append(int(words[at + 1]) if words[at] == "Y" else None)
        return pids

    def kill_storage(self):
        """SIGKILL to one of the three."""
        self.killed = self.brick_pids()[0]
        os.kill(self.killed, signal.SIGKILL)

    def revive_storage(self):
        """Starts it again."""
        self.net.run(*self.cli, "volume", "start", VOLUME, "force")
