"""The process: start, second start, stop, restart, index lost, signals, keys, TLS."""

import concurrent.futures
import json
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from harness import clients, rawhttp
from harness.data import KIB, blob, write_tree
from harness.process import plain_env, run, tool
from harness.server import BINARY
from harness.tree import listed
from harness.wait import until

pytestmark = pytest.mark.tree


def test_second_server_on_one_directory_is_refused(fresh_server, new_server):
    second = new_server(data_dir=fresh_server.data_dir).spawn()
    assert second.process.wait(20) not in (0, None)
    assert fresh_server.answers()
    assert "in use" in second.log() or "lock" in second.log() or "another" in second.log(), second.log()


def test_restart_keeps_buckets_objects_and_settings(fresh_server):
    s3 = clients.boto(fresh_server)
    s3.create_bucket(Bucket="kept")
    s3.put_bucket_tagging(Bucket="kept", Tagging={"TagSet": [{"Key": "a", "Value": "1"}]})
    s3.put_object(Bucket="kept", Key="k", Body=b"x", Metadata={"m": "1"}, Tagging="t=1", ContentType="x/y")
    before = s3.head_object(Bucket="kept", Key="k")
    fresh_server.restart()
    after = s3.head_object(Bucket="kept", Key="k")
    for field in ("ETag", "LastModified", "Metadata", "ContentType", "ContentLength"):
        assert after[field] == before[field]
    assert s3.get_bucket_tagging(Bucket="kept")["TagSet"] == [{"Key": "a", "Value": "1"}]
    assert s3.get_object_tagging(Bucket="kept", Key="k")["TagSet"] == [{"Key": "t", "Value": "1"}]


def test_unfinished_upload_lives_through_a_restart(fresh_server):
    s3 = clients.boto(fresh_server)
    s3.create_bucket(Bucket="kept")
    at = {"Bucket": "kept", "Key": "k"}
    at["UploadId"] = s3.create_multipart_upload(**at, Metadata={"m": "1"})["UploadId"]
    part = s3.upload_part(**at, PartNumber=1, Body=b"part")
    fresh_server.restart()
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(**at, MultipartUpload=parts)
    got = s3.get_object(Bucket="kept", Key="k")
    assert (got["Body"].read(), got["Metadata"]) == (b"part", {"m": "1"})


def index_files(server):
    """What may be deleted: the listing index, wherever it is kept below the reserved directories."""
    found = [path for path in server.data_dir.rglob(".portico/index*")]
    assert found, "no index to delete"
    return found


def test_lost_index_is_rebuilt_while_serving(fresh_server):
    s3 = clients.boto(fresh_server)
    s3.create_bucket(Bucket="kept")
    keys = [f"d{number % 10}/{number}" for number in range(300)] + ["a", "a/b", "c//d", "folder/"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: s3.put_object(Bucket="kept", Key=key, Body=key.encode()), keys))
    before = listed(s3, "kept")
    fresh_server.stop()
    for path in index_files(fresh_server):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_tree(fresh_server.path("kept"), {"new": b"while stopped"})
    fresh_server.start()
    assert s3.get_object(Bucket="kept", Key="a")["Body"].read() == b"a"
    until("the index is whole", lambda: set(listed(s3, "kept")) == set(keys) | {"new"})
    after = listed(s3, "kept")
    assert {key: after[key]["ETag"] for key in before} == {key: before[key]["ETag"] for key in before}


def test_sigterm_drains_requests_under_way(fresh_server):
    s3 = clients.boto(fresh_server)
    s3.create_bucket(Bucket="bkt")
    data = blob(256 * KIB)
    headers = rawhttp.sign(fresh_server, "PUT", "/bkt/slow", {"Content-Length": str(len(data))}, "UNSIGNED-PAYLOAD")
    with rawhttp.connect(fresh_server) as connection:
        connection.sendall(rawhttp.head_bytes("PUT", "/bkt/slow", headers) + data[: 100 * KIB])
        time.sleep(0.3)
        fresh_server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        connection.sendall(data[100 * KIB :])
        assert rawhttp.read_answer(connection).status == 200
    assert fresh_server.process.wait(30) == 0
    assert fresh_server.path("bkt", "slow").read_bytes() == data


def test_sigterm_while_writers_write_loses_nothing(fresh_server):
    s3 = clients.boto(fresh_server)
    s3.create_bucket(Bucket="bkt")
    acknowledged, stop = [], threading.Event()

    def write(writer):
        for number in range(10_000):
            if stop.is_set():
                return
            try:
                s3.put_object(Bucket="bkt", Key=f"{writer}/{number}", Body=b"x" * 100)
            except Exception:
                return
            acknowledged.append(f"{writer}/{number}")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(write, number) for number in range(8)]
        until("some writes", lambda: len(acknowledged) > 50)
        assert fresh_server.stop() == 0
        stop.set()
        concurrent.futures.wait(writers, timeout=60)
    fresh_server.start()
    assert set(acknowledged) <= set(listed(s3, "bkt"))
    assert not fresh_server.staging_debris()


def portico(server, *words, **options):
    """An administrator's command on the server's directory."""
    command = [BINARY, *words, "--dir", server.data_dir, "--json"]
    done = run(command, env=plain_env(server.log_path.parent), **options)
    return json.loads(done.stdout) if done.stdout.strip() else None


def find_values(document, name):
    """Every value of that name in a JSON document."""
    if isinstance(document, dict):
        own = [document[name]] if name in document else []
        return own + [value for child in document.values() for value in find_values(child, name)]
    if isinstance(document, list):
        return [value for child in document for value in find_values(child, name)]
    return []


def test_user_added_works_after_sighup_and_restart(fresh_server):
    s3 = clients.boto(fresh_server)
    s3.create_bucket(Bucket="bkt")
    made = portico(fresh_server, "user", "add", "alice")
    access_key, secret_key = find_values(made, "access_key")[0], find_values(made, "secret_key")[0]
    fresh_server.process.send_signal(signal.SIGHUP)
    alice = clients.boto(fresh_server, access_key=access_key, secret_key=secret_key)
    until("the new key is known", lambda: knows(alice))
    fresh_server.restart()
    assert knows(alice)
    assert "alice" in json.dumps(portico(fresh_server, "user", "ls"))
    portico(fresh_server, "user", "rm", "alice")
    fresh_server.process.send_signal(signal.SIGHUP)
    until("the key is no longer known", lambda: not knows(alice))


def knows(client):
    """True where the server knows the client's key."""
    try:
        client.list_buckets()
    except ClientError as error:
        assert error.response["Error"]["Code"] == "InvalidAccessKeyId"
        return False
    return True


def test_users_of_the_configuration(new_server):
    server = new_server(
        config='[[user]]\nname = "bob"\nkeys = [{ access_key = "AKIABOB", secret_key = "secret-of-bob-00" }]\n'
    ).start()
    bob = clients.boto(server, access_key="AKIABOB", secret_key="secret-of-bob-00")
    bob.create_bucket(Bucket="of-bob")
    bob.put_object(Bucket="of-bob", Key="k", Body=b"x")
    assert bob.get_object(Bucket="of-bob", Key="k")["Body"].read() == b"x"


def test_keys_of_one_user_do_not_open_another_ones_bucket(new_server):
    server = new_server(
        config="".join(
            f'[[user]]\nname = "{name}"\nkeys = [{{ access_key = "AK{name}", secret_key = "secret-of-{name}" }}]\n'
            for name in ("alice", "bob")
        )
    ).start()
    alice, bob = (
        clients.boto(server, access_key=f"AK{name}", secret_key=f"secret-of-{name}") for name in ("alice", "bob")
    )
    alice.create_bucket(Bucket="of-alice")
    alice.put_object(Bucket="of-alice", Key="k", Body=b"x")
    for call in (bob.get_object, bob.delete_object, bob.put_object):
        with pytest.raises(ClientError, match="AccessDenied"):
            call(Bucket="of-alice", Key="k")
    with pytest.raises(ClientError, match="BucketAlreadyExists"):
        bob.create_bucket(Bucket="of-alice")
    assert "of-alice" not in [entry["Name"] for entry in bob.list_buckets()["Buckets"]]


def test_unknown_configuration_key_is_named(new_server):
    server = new_server(config='lissten = "127.0.0.1:1"\n').spawn()
    assert server.process.wait(20) not in (0, None)
    assert "lissten" in server.log() and "listen" in server.log()


def test_first_start_shows_keys_once_and_keeps_them(new_server):
    server = new_server(env={"PORTICO_ROOT_ACCESS_KEY": "", "PORTICO_ROOT_SECRET_KEY": ""})
    server.environment = lambda: plain_env(server.log_path.parent)
    server.start()
    first = server.log()
    for word in ("aws", "s3cmd", "rclone", server.authority):
        assert word in first
    kept = [path for path in server.data_dir.rglob("*") if path.is_file() and path.stat().st_mode & 0o777 == 0o600]
    assert kept, "no file of keys with mode 0600"
    server.restart()
    second = server.log()[len(first) :]
    assert any(path.name in second for path in kept)


def test_meta_and_bucket_commands(fresh_server):
    s3 = clients.boto(fresh_server)
    s3.create_bucket(Bucket="bkt")
    s3.put_object(Bucket="bkt", Key="k", Body=b"x", Metadata={"colour": "blue"})
    shown = run([BINARY, "meta", fresh_server.path("bkt", "k"), "--json"], env=plain_env(Path("/")))
    assert "blue" in shown.stdout.decode() and "9dd4e461268c8034f5c8564e155c67a6" in shown.stdout.decode()
    assert "bkt" in json.dumps(portico(fresh_server, "bucket", "ls"))
    fresh_server.stop()
    portico(fresh_server, "index", "check")
    portico(fresh_server, "index", "rebuild")
    portico(fresh_server, "index", "check")


def test_tls(new_server, tmp_path):
    if not tool("openssl"):
        pytest.skip("openssl is not installed: no certificate to try")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    run([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert,
    ])  # fmt: skip
    server = new_server(args=["--tls-cert", cert, "--tls-key", key])
    server.scheme, server.ca_file = "https", str(cert)
    server.start()
    s3 = clients.boto(server)
    s3.create_bucket(Bucket="bkt")
    s3.put_object(Bucket="bkt", Key="k", Body=blob(300 * KIB))
    assert s3.get_object(Bucket="bkt", Key="k")["Body"].read() == blob(300 * KIB)
    curl = tool("curl")
    if curl:
        url = s3.generate_presigned_url("get_object", {"Bucket": "bkt", "Key": "k"}, ExpiresIn=60)
        done = subprocess.run([curl, "-sS", "--cacert", cert, "-m", "20", url], capture_output=True, timeout=30)
        assert done.stdout == blob(300 * KIB)
