"""pjdfstest: what passes on the plain directory passes on the mount, less the cases in reasons.toml."""

import re
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

import pytest

from harness import fuse
from harness.process import tool
from harness.server import ROOT

pytestmark = pytest.mark.tree
MOUNT_OPTIONS = ("devices",)
REASONS = ROOT / "compat-tests" / "pjdfstest" / "reasons.toml"
FEWEST = 300
# Two users of every Debian, each with a group of its own name.
CONFIG_OF_SUITE = """
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
[dummy_auth]
entries = [["bin", "bin"], ["daemon", "daemon"]]
"""


@pytest.fixture
def near():
    """A directory with a short path: the cases with sockets have room for 108 bytes."""
    fuse.need_root()
    if not tool("pjdfstest"):
        pytest.skip("pjdfstest is not installed")
    made = Path(tempfile.mkdtemp(prefix="pjd", dir="/tmp"))
    made.chmod(0o755)
    (made / "fs").mkdir()
    (made / "second").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "second", made / "second"], check=True, timeout=20)
    yield made
    fuse.unmount(made / "second")
    shutil.rmtree(made, ignore_errors=True)


def outcomes(place, config, near):
    """Runs the suite in a directory: `{case: (outcome, why)}`."""
    subprocess.run(["mount", "--bind", place, near / "fs"], check=True, timeout=20)
    try:
        command = [tool("pjdfstest"), "-c", config, "-s", near / "second", "-p", near / "fs"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    finally:
        fuse.unmount(near / "fs")
    found = re.findall(r"^(\S+) +(ok|skipped|FAILED)\n(?:\t(.*))?", done.stdout, re.M)
    assert len(found) > FEWEST, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return {case: (outcome, why) for case, outcome, why in found}


@pytest.mark.timeout(900)
def test_what_passes_on_the_disk_passes_on_the_mount(mount, bucket, server, near, tmp_path):
    config = tmp_path / "pjdfstest.toml"
    config.write_text(CONFIG_OF_SUITE)
    plain = server.data_dir.parent / "plain"
    shutil.rmtree(plain, ignore_errors=True)
    plain.mkdir(mode=0o755)
    on_disk = outcomes(plain, config, near)
    on_mount = outcomes(mount.path(bucket), config, near)
    reasons = tomllib.loads(REASONS.read_text())
    passing = {case for case, said in on_disk.items() if said[0] == "ok"}
    failing = {case: said for case, said in on_mount.items() if case in passing and said[0] != "ok"}
    counts = f"{len(passing)} pass on the disk, {len(passing) - len(failing)} of them on the mount"
    print(counts)
    unexplained = {case: said for case, said in failing.items() if case not in reasons}
    assert not unexplained, f"{counts}\n" + "\n".join(f"{case}: {said}" for case, said in unexplained.items())
    assert set(reasons) <= set(failing), f"pass by now: {set(reasons) - set(failing)}"
