"""kill -9 under load: every acknowledged write is there, whole, and the listing agrees with the tree."""

import concurrent.futures
import os
import random
import threading

import pytest

from harness import clients, rawhttp
from harness.data import KIB, MIB, blob, md5, read_tree
from harness.tree import listed
from harness.wait import until

pytestmark = pytest.mark.tree
SWEPT_S = 150  # gateways sweep what others left that they have watched for half a minute
WRITERS = 12
KEYS_EACH = 40


class Writer:
    """One client of its own keys. `may_be[key]` holds what the key may be: the last acknowledged
    content, and what was asked but never answered; None stands for a key that is not there."""

    def __init__(self, server, number, stop):
        self.s3, self.number, self.stop = clients.boto(server), number, stop
        self.source = random.Random(number)
        self.may_be = {}
        self.acknowledged = 0

    def run(self):
        while not self.stop.is_set():
            key = f"w{self.number}/{self.source.randrange(KEYS_EACH)}"
            try:
                self.step(key)
            except Exception:
                return
            self.acknowledged += 1

    def step(self, key):
        before = self.may_be.get(key, [None])
        choice = self.source.random()
        if choice < 0.15:
            self.may_be[key] = [*before, None]
            self.s3.delete_object(Bucket="bkt", Key=key)
            self.may_be[key] = [None]
            return
        data = self.source.randbytes(self.source.choice([0, 100, 4 * KIB, 90 * KIB, MIB]))
        self.may_be[key] = [*before, data]
        if choice < 0.25:
            self.multipart(key, data)
        else:
            self.s3.put_object(Bucket="bkt", Key=key, Body=data, Metadata={"md5": md5(data)})
        self.may_be[key] = [data]

    def multipart(self, key, data):
        at = {"Bucket": "bkt", "Key": key}
        at["UploadId"] = self.s3.create_multipart_upload(**at, Metadata={"md5": md5(data)})["UploadId"]
        part = self.s3.upload_part(**at, PartNumber=1, Body=data)
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        self.s3.complete_multipart_upload(**at, MultipartUpload=parts)


def check(server, writers):
    """Compares the tree, the objects and the listing with what the writers know."""
    s3 = clients.boto(server)
    tree = read_tree(server.path("bkt"))
    index = until("the listing is whole", lambda: same_keys(listed(s3, "bkt"), tree))
    for writer in writers:
        for key, contents in writer.may_be.items():
            data = tree.get(key)
            assert data in contents, f"{key} is none of what it may be"
            if data is None:
                continue
            got = s3.get_object(Bucket="bkt", Key=key)
            assert got["Body"].read() == data
            assert got["Metadata"] == {"md5": md5(data)}, f"{key} has another object's metadata"
            assert index[key]["Size"] == len(data) and index[key]["ETag"] == got["ETag"]
            assert got["ETag"].strip('"') == md5(data) or got["ETag"].strip('"').endswith("-1")
            writer.may_be[key] = [data]
    known = {key for writer in writers for key in writer.may_be}
    assert set(tree) <= known


def same_keys(index, tree):
    return index if set(index) == set(tree) else None


def test_kill_under_load_three_times(fresh_server):
    server = fresh_server
    clients.boto(server).create_bucket(Bucket="bkt")
    known = [Writer(server, number, None) for number in range(WRITERS)]
    for round_number in range(3):
        stop = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
            for writer in known:
                writer.stop, writer.acknowledged = stop, 0
                pool.submit(writer.run)
            until("the writers write", lambda: sum(writer.acknowledged for writer in known) > 150 + 50 * round_number)
            server.kill()
            stop.set()
        server.start()
        until("staging is swept", lambda: not server.staging_debris(), SWEPT_S)
        check(server, known)


def test_kill_while_a_large_put_runs(fresh_server):
    server = fresh_server
    s3 = clients.boto(server)
    s3.create_bucket(Bucket="bkt")
    s3.put_object(Bucket="bkt", Key="k", Body=b"old")
    data = blob(48 * MIB)
    headers = rawhttp.sign(server, "PUT", "/bkt/k", {"Content-Length": str(2 * len(data))}, "UNSIGNED-PAYLOAD")
    with rawhttp.connect(server) as connection:
        connection.sendall(rawhttp.head_bytes("PUT", "/bkt/k", headers) + data)
        server.kill()
    server.start()
    assert s3.get_object(Bucket="bkt", Key="k")["Body"].read() == b"old"
    until("staging is swept", lambda: not server.staging_debris(), SWEPT_S)


def test_edit_that_nobody_saw_before_a_kill(new_server):
    server = new_server(config='scan_interval = "1h"\nhash = "never"\n').start()
    s3 = clients.boto(server)
    s3.create_bucket(Bucket="bkt")
    tags = {key: s3.put_object(Bucket="bkt", Key=key, Body=blob(5000, key))["ETag"] for key in ("edited", "alone")}
    path = server.path("bkt", "edited")
    before = path.stat()
    with open(path, "r+b") as file:
        file.write(blob(5000, "other"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    server.kill()
    server.start()
    listing = {key: entry["ETag"] for key, entry in listed(s3, "bkt").items()}
    assert listing["alone"] == tags["alone"] == s3.head_object(Bucket="bkt", Key="alone")["ETag"]
    assert tags["edited"] not in (listing["edited"], s3.head_object(Bucket="bkt", Key="edited")["ETag"])
