"""Three gateways on a real distributed file system, a mount each: what the doctor says, and that none is stale."""

import os
import secrets
import shutil
import time

import pytest

from harness.crossings.gateways import GatewayWalk, doctor, open_gateways
from harness.crossings.kills import under_load
from harness.engines import Gluster, MooseFS

pytestmark = [
    pytest.mark.tree,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces and mounts"),
    pytest.mark.skipif(
        os.environ.get("PORTICO_COMPAT_ENGINES") != "1",
        reason="real distributed file systems: PORTICO_COMPAT_ENGINES=1 ./compat-tests/run -k engines",
    ),
]
SECONDS = float(os.environ.get("PORTICO_COMPAT_ENGINES_S", "25"))
# Looks of the doctor. By hand more: python -m harness.crossings.gateways --engine gluster --rounds 200
ROUNDS = 10


@pytest.fixture(scope="module", params=[MooseFS, Gluster], ids=lambda engine: engine.name)
def tree(request, run_dir):
    """An engine, and its tree as three mounts show it."""
    missing = request.param.missing()
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    home = run_dir / f"{request.param.name}-{secrets.token_hex(4)}"
    home.mkdir()
    engine = request.param(home / "engine")
    try:
        engine.start()
        engine.home_of_run = home
        engine.trees = [point / "tree" for point in engine.points]
        engine.trees[0].mkdir()
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(home, ignore_errors=True)


def test_gateways_share_a_real_file_system(tree):
    """The doctor passes it; no gateway is stale; a gateway and a storage daemon killed lose nothing."""
    began = time.monotonic()
    code, said = doctor(tree.trees, ROUNDS)
    print(f"{said}\n{time.monotonic() - began:.0f} s")
    assert code == 0, said
    gateways = open_gateways(tree.home_of_run, tree.trees)
    try:
        seed = int(os.environ.get("PORTICO_COMPAT_SEED") or secrets.randbits(31))
        print(f"seed {seed}")
        walk = GatewayWalk(gateways, seed)
        print(walk.run(seconds=SECONDS))
        assert walk.crossings > 0
        print(under_load(gateways, tree, SECONDS, seed))
        for gateway in gateways:
            assert "panicked at" not in gateway.log_path.read_text()
    finally:
        for gateway in gateways:
            gateway.kill()
