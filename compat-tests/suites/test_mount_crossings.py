"""Crossings: random changes through each door and behind our back, seen at once by the others."""

import os
import secrets

import pytest

from harness.crossings.walk import Walk

pytestmark = pytest.mark.tree
CONFIG = 'scan_interval = "1s"\n'
SECONDS = float(os.environ.get("PORTICO_COMPAT_CROSSINGS_S", "20"))


def walked(server, mount, doors, seconds, **options):
    """Walks with a seed that is printed; `PORTICO_COMPAT_SEED` repeats one."""
    seed = int(os.environ.get("PORTICO_COMPAT_SEED") or secrets.randbits(31))
    print(f"seed {seed}")
    walk = Walk(server, mount.point, seed, doors.split(","), **options)
    print(walk.run(seconds=seconds))
    return walk.crossings


@pytest.mark.timeout(900)
@pytest.mark.parametrize("doors", ["s3,mount", "s3,mount,brick"])
def test_no_door_is_stale(server, mount, doors):
    """By hand: python -m harness.crossings --count 100000."""
    assert walked(server, mount, doors, SECONDS) > 5 * SECONDS


@pytest.mark.timeout(900)
def test_no_door_is_stale_where_the_kernel_tells_of_nothing(new_server, new_mount):
    """Listings wait for the next look at the tree; the keys themselves do not."""
    server = new_server(config=f"{CONFIG}watch = false\n").start()
    mount = new_mount(server).start()
    assert walked(server, mount, "s3,mount,brick", SECONDS / 2, behind_s=5) > 0
