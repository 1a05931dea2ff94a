"""Fixtures: a server for each module or each test, a bucket for each test, the clients."""

import os
import shutil
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from harness import clients, fuse, volumes
from harness.server import ACCESS_KEY, BINARY, SECRET_KEY, TARGET, Endpoint

RUN_DIR = Path(os.environ.get("PORTICO_COMPAT_DIR", TARGET / "compat"))
EXTERNAL = os.environ.get("PORTICO_ENDPOINT")
STARTED = []


def pytest_collection_modifyitems(items):
    """Skips what is not for the kind of volume; against a foreign server, what looks at the disk."""
    for item in items:
        why = volumes.reason_not_to_run(f"{item.module.__name__}::{item.name}")
        if why:
            item.add_marker(pytest.mark.skip(reason=f"{volumes.KIND}: {why}"))
        if EXTERNAL and item.get_closest_marker("tree"):
            item.add_marker(pytest.mark.skip(reason="PORTICO_ENDPOINT: no data directory to look at"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the end of the logs of the servers that ran."""
    report = (yield).get_result()
    if report.failed:
        for server in STARTED:
            report.sections.append((f"server log {server.log_path.name}", server.log(3000)))


@pytest.fixture(scope="session")
def run_dir():
    """An empty directory on a real disk: xattrs and rename work there as they do for users."""
    fuse.unmount_below(RUN_DIR)
    shutil.rmtree(RUN_DIR, ignore_errors=True)
    RUN_DIR.mkdir(parents=True)
    yield RUN_DIR
    if not os.environ.get("PORTICO_COMPAT_KEEP"):
        for data_dir in RUN_DIR.glob("*/data*"):
            shutil.rmtree(data_dir, ignore_errors=True)


def external_endpoint():
    """The foreign server of PORTICO_ENDPOINT, for trying the suites themselves."""
    parts = urlsplit(EXTERNAL)
    keys = os.environ.get("PORTICO_ACCESS_KEY", ACCESS_KEY), os.environ.get("PORTICO_SECRET_KEY", SECRET_KEY)
    return Endpoint(parts.hostname, parts.port, *keys, scheme=parts.scheme)


def finish(server):
    """Stops a server and checks that it was well to the end."""
    was_running = server.running()
    code = server.stop()
    log = server.log_path.read_text(errors="replace")
    assert "panicked at" not in log, f"the server panicked:\n{server.log()}"
    if was_running:
        assert code == 0, f"the server ended with {code} after SIGTERM:\n{server.log()}"


@pytest.fixture(scope="module")
def server(request, run_dir):
    """A server shared by the tests of a module."""
    if EXTERNAL:
        yield external_endpoint()
        return
    home = run_dir / request.module.__name__
    home.mkdir(exist_ok=True)
    options = {"config": getattr(request.module, "CONFIG", None), "balance": getattr(request.module, "BALANCE", "http")}
    started = volumes.new_server(home / "data", home / "server.log", **options)
    STARTED.append(started)
    try:
        yield started.start()
        finish(started)
        assert not started.staging_debris()
    finally:
        started.kill()
        STARTED.remove(started)


@pytest.fixture
def new_server(request, run_dir):
    """Makes servers of the test's own: `new_server()` is not started yet."""
    if EXTERNAL:
        pytest.skip("PORTICO_ENDPOINT: no server of our own")
    home = run_dir / f"{request.module.__name__}-{uuid.uuid4().hex[:8]}"
    home.mkdir()
    made = []

    def make(data_dir=None, **options):
        options.setdefault("balance", getattr(request.module, "BALANCE", "http"))
        made.append(volumes.new_server(data_dir or home / "data", home / f"server{len(made)}.log", **options))
        STARTED.append(made[-1])
        return made[-1]

    try:
        yield make
        for server in made:
            if server.process:
                finish(server)
    finally:
        for server in made:
            server.kill()
            STARTED.remove(server)
        if not os.environ.get("PORTICO_COMPAT_KEEP"):
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def mount(request, server, run_dir):
    """The tree of the module's server, mounted; `MOUNT_OPTIONS` of the module are its options."""
    if EXTERNAL:
        pytest.skip("PORTICO_ENDPOINT: nothing to mount")
    fuse.need_fuse()
    home = run_dir / request.module.__name__
    made = fuse.Mount(server, home / "mnt", home / "mount.log", options=getattr(request.module, "MOUNT_OPTIONS", ()))
    STARTED.append(made)
    try:
        yield made.start()
        finish_mount(made)
    finally:
        made.clear()
        STARTED.remove(made)


def finish_mount(made):
    """Unmounts and checks that it was well to the end."""
    was_running = made.process is not None and made.process.poll() is None
    code = made.stop()
    assert "panicked at" not in made.log(), f"the mount panicked:\n{made.log()}"
    if was_running:
        assert code == 0, f"the mount ended with {code} after SIGTERM:\n{made.log()}"
    assert not fuse.mounts_at(made.point), f"still mounted:\n{made.log()}"


@pytest.fixture
def place(mount, bucket):
    """An empty bucket, seen through the mount."""
    return mount.path(bucket)


@pytest.fixture
def new_mount(run_dir):
    """Makes mounts of the test's own: `new_mount(server)` is not started yet."""
    fuse.need_fuse()
    home = run_dir / f"mounts-{uuid.uuid4().hex[:8]}"
    home.mkdir()
    made = []

    def make(server, **options):
        number = len(made)
        point = options.pop("point", home / f"mnt{number}")
        made.append(fuse.Mount(server, point, home / f"mount{number}.log", **options))
        STARTED.append(made[-1])
        return made[-1]

    try:
        yield make
        for one in made:
            finish_mount(one)
    finally:
        for one in made:
            one.clear()
            STARTED.remove(one)
        if not os.environ.get("PORTICO_COMPAT_KEEP"):
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def fresh_server(new_server):
    """A started server of the test's own."""
    return new_server().start()


@pytest.fixture
def s3(server):
    """boto3 for the shared server."""
    return clients.boto(server)


@pytest.fixture
def bucket(s3):
    """An empty bucket."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def aws(server, tmp_path):
    """aws-cli for the shared server."""
    return clients.AwsCli(server, tmp_path)


@pytest.fixture
def s3cmd(server, tmp_path):
    """s3cmd for the shared server."""
    return clients.S3cmd(server, tmp_path)


@pytest.fixture
def rclone(server, tmp_path):
    """rclone for the shared server."""
    if not shutil.which("rclone"):
        pytest.skip("rclone is not installed")
    return clients.Rclone(server, tmp_path)


@pytest.fixture
def restic(server, tmp_path, bucket):
    """restic with an empty bucket of the shared server."""
    if not shutil.which("restic"):
        pytest.skip("restic is not installed")
    return clients.Restic(server, tmp_path, bucket)


def pytest_sessionstart():
    """Says at once where there is nothing to test."""
    if not EXTERNAL and not BINARY.exists():
        pytest.exit(f"no binary at {BINARY}: cargo build --release --bin portico", returncode=3)
