"""Bricks that fail one after another under load: nothing acknowledged is lost, torn or stale.

Ten minutes by hand: `python -m harness.storm`.
"""

import os
import shutil

import pytest

from harness.storm import Storm

pytestmark = pytest.mark.tree


@pytest.fixture
def storm(new_server, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("not root: cannot mount, nor look at another process's system calls")
    if not shutil.which("mount"):
        pytest.skip("no mount(8)")
    made = Storm(tmp_path, os.environ.get("PORTICO_COMPAT_SEED", "1"), new_server)
    try:
        yield made
    finally:
        made.close()


def test_nothing_is_lost_while_bricks_fail_under_load(storm):
    storm.begin()
    for fault in ["io errors", "flipped", "killed", "moved", "full"]:
        storm.strike(fault)
    found = storm.end()
    assert not found["wrong"], found["wrong"]
    assert found["acknowledged"] > 100, found
    # A full brick takes no more bodies; hardly anything else is refused.
    others = sum(count for kind, count in found["failures"].items() if "StorageFull" not in kind)
    assert others <= found["acknowledged"] // 50, found["failures"]
