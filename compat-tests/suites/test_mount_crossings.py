"""Crossings: random changes through each door and behind our back, seen at once by the others."""

import os
import secrets

import pytest

from harness.crossings.walk import Walk

pytestmark = pytest.mark.tree
CONFIG = 'scan_interval = "1s"\n'
SECONDS = float(os.environ.get("PORTICO_COMPAT_CROSSINGS_S", "20"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("doors", ["s3,mount", "s3,mount,brick"])
def test_no_door_is_stale(server, mount, doors):
    """By hand: python -m harness.crossings --count 100000."""
    seed = int(os.environ.get("PORTICO_COMPAT_SEED") or secrets.randbits(31))
    print(f"seed {seed}")
    walk = Walk(server, mount.point, seed, doors.split(","))
    print(walk.run(seconds=SECONDS))
    assert walk.crossings > 10 * SECONDS
