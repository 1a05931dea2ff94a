"""The server under test: the real binary on a free port of 127.0.0.1, with a directory of its own."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from harness.process import plain_env, tail

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = Path(os.environ.get("PORTICO_BINARY", TARGET / "release" / "portico"))
ACCESS_KEY = "AKIACOMPATTESTS00001"
SECRET_KEY = "compat/tests+secret/0123456789abcdefghij"
START_S = 30
STOP_S = 30
REGION = "us-east-1"


def free_port():
    """A port of 127.0.0.1 that nobody listened on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Endpoint:
    """Where a server answers and with which keys."""

    def __init__(self, host, port, access_key=ACCESS_KEY, secret_key=SECRET_KEY, scheme="http"):
        self.host, self.port, self.scheme = host, port, scheme
        self.access_key, self.secret_key, self.region = access_key, secret_key, REGION

    @property
    def url(self):
        """The endpoint as clients are told it."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def authority(self):
        """Host and port."""
        return f"{self.host}:{self.port}"


class Server(Endpoint):
    """`portico serve DIR` as a child process."""

    def __init__(
        self,
        data_dir,
        log_path,
        *,
        config=None,
        args=(),
        env=None,
        wrap=(),
        keys=(ACCESS_KEY, SECRET_KEY),
        binary=BINARY,
    ):
        super().__init__("127.0.0.1", 0, *keys)
        self.binary = binary
        self.data_dir, self.log_path = Path(data_dir), Path(log_path)
        self.args, self.wrap, self.env = list(args), list(wrap), dict(env or {})
        self.config_path = None
        self.process = None
        if config is not None:
            self.config_path = self.log_path.with_suffix(".toml")
            self.config_path.write_text(config)

    @property
    def volume_dir(self):
        """The directory of the default volume."""
        return self.data_dir / "main"

    def path(self, bucket, key=""):
        """Where an object's file is."""
        return self.volume_dir / bucket / key

    def command(self):
        """The command line."""
        argv = [*self.wrap, str(self.binary), "serve", str(self.data_dir), "--listen", self.authority]
        if self.config_path:
            argv += ["--config", str(self.config_path)]
        return argv + self.args

    def environment(self):
        """The environment: first keys as an operator would set them."""
        keys = {"PORTICO_ROOT_ACCESS_KEY": self.access_key, "PORTICO_ROOT_SECRET_KEY": self.secret_key}
        return plain_env(self.log_path.parent, **{**keys, **self.env})

    def spawn(self):
        """Starts the process without waiting for it to answer."""
        if not self.port:
            self.port = free_port()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment()
            )
        return self

    def start(self):
        """Starts it and waits until it answers."""
        self.spawn()
        deadline = time.monotonic() + START_S
        while not self.answers():
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the server does not answer after {START_S} s:\n{self.log()}")
            time.sleep(0.03)
        return self

    def answers(self):
        """True where an HTTP request gets an HTTP answer."""
        try:
            with socket.create_connection((self.host, self.port), timeout=2) as probe:
                probe.settimeout(5)
                probe.sendall(f"GET / HTTP/1.1\r\nHost: {self.authority}\r\nConnection: close\r\n\r\n".encode())
                return self.scheme == "https" or probe.recv(5) == b"HTTP/"
        except OSError:
            return False

    def running(self):
        """True while the process lives."""
        return self.process is not None and self.process.poll() is None

    def stop(self):
        """SIGTERM, as an init system does it; returns the exit code."""
        if not self.running():
            return self.process.returncode if self.process else None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server runs on {STOP_S} s after SIGTERM:\n{self.log()}") from None

    def kill(self):
        """SIGKILL: no goodbye."""
        if self.running():
            self.process.kill()
            self.process.wait(STOP_S)

    def restart(self):
        """Stops it, starts it again on the same port."""
        self.stop()
        return self.start()

    def log(self, limit=6000):
        """The last of what it wrote."""
        return tail(self.log_path.read_bytes(), limit) if self.log_path.exists() else ""

    def staging_debris(self):
        """Files left in the staging directory."""
        staging = self.volume_dir / ".portico" / "staging"
        # What goes while it is looked at is passed over.
        return [Path(folder) / name for folder, _, names in os.walk(staging) for name in names]
