"""The kind of volume that the suites run on: `PORTICO_COMPAT_VOLUME=brick|bricks|shared`.

- brick: one directory; what is meant where nothing is said
- bricks: two directories, everything on both
- shared: three gateways of one directory behind HAProxy, request by request in turn

volumes.toml names the tests that a kind of volume is not for, each with its reason.
"""

import contextlib
import fnmatch
import os
import shutil
import signal
import subprocess
import tempfile
import time
import tomllib
from pathlib import Path

from harness import haproxy
from harness.server import BINARY, STOP_S, Server, free_port

KINDS = ("brick", "bricks", "shared")
KIND = os.environ.get("PORTICO_COMPAT_VOLUME", "brick")
assert KIND in KINDS, f"PORTICO_COMPAT_VOLUME={KIND}: one of {', '.join(KINDS)}"
GATEWAYS = 3
# A server that is told its kind of volume by the test.
OWN_KIND = ("--shared", "--brick", "--adopt")

# What is not for a kind of volume, and why.
TABLE = Path(__file__).resolve().parents[1] / "volumes.toml"


def reason_not_to_run(name, table=TABLE):
    """Why a test, `file::test`, is not for this kind of volume; none where it is."""
    entries = tomllib.loads(table.read_text()).get(KIND, [])
    return next(
        (entry["why"] for entry in entries for pattern in entry["tests"] if fnmatch.fnmatchcase(name, pattern)), None
    )


def new_server(data_dir, log_path, *, balance="http", **options):
    """A server with the kind of volume asked for; `balance` is what one turn of three gateways is for: a request
    (`http`) or a connection (`tcp`), which leaves every byte as the client sent it."""
    if KIND == "brick" or any(word in OWN_KIND for word in options.get("args", ())):
        return Server(data_dir, log_path, **options)
    if KIND == "bricks":
        return OnBricks(data_dir, log_path, **options)
    return Gateways(data_dir, log_path, balance, **options)


class OnBricks(Server):
    """`portico serve DIR --brick DIR/b0 --brick DIR/b1`."""

    @property
    def volume_dir(self):
        """One of two equal trees."""
        return self.data_dir / "b0" / "main"

    def command(self):
        """As for one, and the bricks."""
        bricks = [word for name in ("b0", "b1") for word in ("--brick", str(self.data_dir / name))]
        return [*super().command(), *bricks, "--replicas", "2"]


class Processes:
    """Several processes that are started and ended as one."""

    def __init__(self, each):
        self.each = list(each)

    @property
    def pid(self):
        """One of them."""
        return self.each[0].pid

    @property
    def returncode(self):
        """The worst."""
        codes = [one.returncode for one in self.each]
        return None if None in codes else max(codes, key=abs)

    def poll(self):
        """None while one of them runs."""
        for one in self.each:
            one.poll()
        return self.returncode

    def wait(self, timeout=None):
        """Waits for all."""
        deadline = time.monotonic() + (timeout or STOP_S)
        for one in self.each:
            one.wait(max(deadline - time.monotonic(), 0.01))
        return self.returncode

    def send_signal(self, number):
        """To all."""
        for one in self.each:
            one.send_signal(number)

    def terminate(self):
        """SIGTERM to all."""
        self.send_signal(signal.SIGTERM)

    def kill(self):
        """SIGKILL to all."""
        self.send_signal(signal.SIGKILL)


class Gateways(Server):
    """Three of `portico serve --shared DIR`, and HAProxy in front of them. What is done to the process is done to all
    of them at once."""

    def __init__(self, data_dir, log_path, balance, **options):
        super().__init__(data_dir, log_path, **options)
        self.balance, self.ports, self.proxy = balance, [], None

    def gateway(self, port):
        """One of them, not started."""
        one = Server(
            self.data_dir,
            self.log_path,
            args=["--shared", *self.args],
            env=self.env,
            wrap=self.wrap,
            keys=(self.access_key, self.secret_key),
            binary=self.binary,
        )
        one.config_path, one.port, one.scheme = self.config_path, port, self.scheme
        return one

    def spawn(self):
        """Starts all at once, as an orchestrator does."""
        self.port = self.port or free_port()
        self.ports = self.ports or [free_port() for _ in range(GATEWAYS)]
        keep_verdict(self.data_dir)
        self.process = Processes(self.gateway(port).spawn().process for port in self.ports)
        self.start_proxy()
        return self

    def start_proxy(self):
        """HAProxy, if it does not run."""
        if self.proxy and self.proxy.poll() is None:
            return
        mode = "tcp" if self.scheme == "https" else self.balance
        self.proxy = haproxy.start(
            self.log_path.with_suffix(".haproxy.cfg"), self.port, [f"127.0.0.1:{port}" for port in self.ports], mode
        )

    def answers(self):
        """True where each gateway does, and one of them through the proxy."""
        return all(self.gateway(port).answers() for port in self.ports) and haproxy.is_open(self)

    def stop(self):
        """SIGTERM to the gateways, then the proxy goes."""
        try:
            return super().stop()
        finally:
            self.stop_proxy()

    def kill(self):
        """SIGKILL to the gateways."""
        super().kill()
        self.stop_proxy()

    def stop_proxy(self):
        """Ends HAProxy."""
        if self.proxy:
            self.proxy.kill()
            self.proxy.wait(STOP_S)
            self.proxy = None


VERDICTS = {}


def keep_verdict(data_dir):
    """Puts the doctor's verdict into a directory as if it had run there: once for all on one file system."""
    data_dir.mkdir(parents=True, exist_ok=True)
    kept = data_dir / ".portico" / "doctor.json"
    device = os.stat(data_dir).st_dev
    if device not in VERDICTS:
        trial = Path(tempfile.mkdtemp(prefix=".doctor-", dir=data_dir.parent))
        words = [str(BINARY), "doctor", "--shared", str(trial), str(trial), "--rounds", "3"]
        said = subprocess.run(words, capture_output=True, text=True, timeout=300)
        assert said.returncode == 0, said.stdout + said.stderr
        VERDICTS[device] = (trial / ".portico" / "doctor.json").read_bytes()
        shutil.rmtree(trial)
    owner = os.stat(data_dir)
    kept.parent.mkdir(mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError), open(kept, "xb") as file:
        file.write(VERDICTS[device])
        for path in (kept.parent, kept):
            os.chown(path, owner.st_uid, owner.st_gid)
