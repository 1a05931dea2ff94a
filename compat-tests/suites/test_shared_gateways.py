"""Several gateways of one tree: seen at once by the others, killed in the middle, refused where nobody looked."""

import json
import os
import secrets
import shutil
import subprocess
import time

import pytest

from harness import haproxy
from harness.clients import boto
from harness.crossings.gateways import GatewayWalk, doctor, open_gateways
from harness.crossings.kills import under_load
from harness.engines import Local
from harness.server import BINARY, Endpoint, free_port
from harness.wait import until

pytestmark = pytest.mark.tree
SECONDS = float(os.environ.get("PORTICO_COMPAT_CROSSINGS_S", "20"))


@pytest.fixture
def home(run_dir):
    """A directory of the test's own."""
    path = run_dir / f"shared-{secrets.token_hex(4)}"
    path.mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def gateways(home):
    """Three gateways of one directory that the doctor has passed."""
    points = Local(home).start().points
    code, said = doctor(points, rounds=10)
    assert code == 0, said
    opened = open_gateways(home, points)
    yield opened
    for gateway in opened:
        assert "panicked at" not in gateway.log_path.read_text()
        gateway.kill()


def seed_of_run():
    """A seed that is printed; `PORTICO_COMPAT_SEED` repeats one."""
    seed = int(os.environ.get("PORTICO_COMPAT_SEED") or secrets.randbits(31))
    print(f"seed {seed}")
    return seed


@pytest.mark.timeout(600)
def test_no_gateway_is_stale(gateways):
    """By hand: python -m harness.crossings.gateways --count 10000."""
    walk = GatewayWalk(gateways, seed_of_run())
    print(walk.run(seconds=SECONDS))
    assert walk.crossings > 0


@pytest.mark.timeout(600)
def test_a_gateway_killed_in_an_upload_loses_nothing(gateways, home):
    """Parts go to another gateway, a third completes; six writers go on meanwhile."""
    print(under_load(gateways, Local(home), 9, seed_of_run()))


def test_a_second_gateway_is_refused_where_no_doctor_was(new_server, run_dir):
    """Until the file system was looked at, or someone takes the risk."""
    first = new_server(args=["--shared"]).start()
    second = new_server(first.data_dir, args=["--shared"])
    second.spawn()
    assert second.process.wait(60) == 1
    assert "portico doctor --shared" in second.log()
    assert first.answers()
    risky = new_server(first.data_dir, args=["--shared", "--shared-unproven"]).start()
    assert risky.answers()


def test_a_server_that_does_not_share_is_kept_out(new_server):
    """And the reverse."""
    first = new_server(args=["--shared"]).start()
    alone = new_server(first.data_dir)
    alone.spawn()
    assert alone.process.wait(60) == 1
    assert "--shared" in alone.log()


def test_users_are_the_trees(gateways):
    """A user added beside one gateway comes in by another within two seconds; the tree says so, not a node."""
    tree = gateways[0].data_dir
    said = subprocess.run(
        [str(BINARY), "user", "add", "walker", "--dir", str(tree), "--json"], stdout=subprocess.PIPE, check=True
    )
    keys = json.loads(said.stdout)
    time.sleep(2)
    for gateway in gateways:
        client = boto(gateway, access_key=keys["access_key"], secret_key=keys["secret_key"])
        assert client.list_buckets()["Buckets"] == []


def test_the_doctor_says_why_and_ends_with_1(home):
    """Two directories that are not one."""
    for name in "ab":
        (home / name).mkdir()
    code, said = doctor([home / "a", home / "b"], rounds=1)
    assert code == 1
    assert "not one directory" in said


def test_the_doctors_answer_is_for_scripts_too(home):
    """A row a fact, a verdict over all, and the same kept in the tree."""
    (home / "a").mkdir()
    done = subprocess.run(
        [str(BINARY), "doctor", "--shared", str(home / "a"), str(home / "a"), "--rounds", "5", "--json"],
        stdout=subprocess.PIPE,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["passed"] is True
    assert {row["verdict"] for row in answer["rows"]} == {"passed"}
    assert json.loads((home / "a" / ".portico" / "doctor.json").read_text())["passed"] is True


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
@pytest.mark.timeout(120)
def test_haproxy_hides_a_gateway_that_is_killed(gateways, home):
    """docs/outgrowing-one-machine.md: its configuration, and requests through it while one of three dies."""
    endpoint = Endpoint("127.0.0.1", free_port())
    proxy = haproxy.start(home / "haproxy.cfg", endpoint.port, [gateway.authority for gateway in gateways])
    try:
        until("HAProxy is up", lambda: haproxy.is_open(endpoint))
        client = boto(endpoint)
        client.create_bucket(Bucket="proxied")
        for number in range(60):
            if number == 20:
                gateways[1].kill()
            body = os.urandom(2000)
            client.put_object(Bucket="proxied", Key=f"k{number % 7}", Body=body)
            assert client.get_object(Bucket="proxied", Key=f"k{number % 7}")["Body"].read() == body
    finally:
        proxy.terminate()
        proxy.wait(10)
