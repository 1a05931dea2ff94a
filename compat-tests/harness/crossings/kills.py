"""Load on several gateways while one of them and one storage daemon are killed: what was acknowledged stays."""

import hashlib
import random
import threading
import time
import uuid

from harness.crossings.wire import Wire
from harness.wait import until

KEYS_EACH = 40
WRITERS = 6


class Writer(threading.Thread):
    """Puts and deletes keys of its own through gateways by turns; knows what was acknowledged."""

    def __init__(self, gateways, bucket, number, seed, over):
        super().__init__(daemon=True)
        self.gateways, self.bucket, self.over = gateways, bucket, over
        self.source = random.Random(f"{seed}-{number}")
        self.keys = [f"writer-{number}/{n % 7}/{n}" for n in range(KEYS_EACH)]
        self.held = {}  # key: digests it may have; None stands for nothing
        self.acknowledged, self.refused, self.longest_s, self.problem = 0, 0, 0.0, None

    def run(self):
        try:
            while not self.over.is_set():
                self.one()
        except Exception as problem:  # shown by who joins
            self.problem = problem

    def one(self):
        """One change. Where no answer came it may have been made or not."""
        key = self.source.choice(self.keys)
        body = None if self.source.random() < 0.2 else self.source.randbytes(self.source.choice([10, 5000, 400_000]))
        wanted = hashlib.md5(body).hexdigest() if body is not None else None
        gateway = self.source.choice(self.gateways)
        wire, began = Wire(gateway, self.bucket), time.monotonic()
        before = self.held.get(key, {None})
        try:
            answer = wire.ask("DELETE", key) if body is None else wire.ask("PUT", key, body)
            is_done = answer.status in (200, 204)
        except (AssertionError, OSError):
            is_done = False
        finally:
            wire.close()
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        if is_done:
            self.acknowledged += 1
            self.held[key] = {wanted}
        else:
            self.refused += 1
            self.held[key] = before | {wanted}
            time.sleep(0.05)


def begin_upload(gateway, bucket, key):
    """Begins a multipart upload; gives its id."""
    wire = Wire(gateway, bucket)
    answer = wire.ask("POST", key, query={"uploads": ""})
    wire.close()
    return answer.body.split(b"<UploadId>")[1].split(b"</UploadId>")[0].decode()


def send_part(gateway, bucket, key, upload, number, body):
    """Sends a part; gives its tag."""
    wire = Wire(gateway, bucket)
    answer = wire.ask("PUT", key, body, query={"partNumber": str(number), "uploadId": upload})
    wire.close()
    assert answer.status == 200, answer.body
    return answer.headers["etag"]


def complete(gateway, bucket, key, upload, tags):
    """Completes an upload."""
    rows = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>" for number, tag in enumerate(tags, 1)
    )
    wire = Wire(gateway, bucket)
    body = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
    answer = wire.ask("POST", key, body, query={"uploadId": upload})
    wire.close()
    assert answer.status == 200 and b"<Error>" not in answer.body, answer.body


def killed_in_an_upload(gateways, bucket):
    """Begun on one gateway, which is killed while it takes a part; another takes the parts, a third completes."""
    key, parts = "upload", [random.Random(n).randbytes((5 << 20) + n) for n in range(2)]
    upload = begin_upload(gateways[0], bucket, key)
    first = send_part(gateways[0], bucket, key, upload, 1, parts[0])
    half = Wire(gateways[0], bucket)
    path, query = f"/{bucket}/{key}", {"partNumber": "2", "uploadId": upload}
    head = half.head("PUT", path, query, {}, len(parts[1]))
    from harness import rawhttp

    connection = rawhttp.connect(gateways[0])
    connection.sendall(head + parts[1][: 3 << 20])
    time.sleep(0.3)
    gateways[0].kill()
    connection.close()
    second = send_part(gateways[1 % len(gateways)], bucket, key, upload, 2, parts[1])
    last = gateways[2 % len(gateways)] if len(gateways) > 2 else gateways[1]
    complete(last, bucket, key, upload, [first, second])
    for gateway in gateways[1:]:
        wire = Wire(gateway, bucket)
        answer = wire.ask("GET", key)
        wire.close()
        assert answer.status == 200 and answer.body == b"".join(parts), f"the upload is not whole at {gateway.url}"
    gateways[0].start()


def under_load(gateways, engine, seconds, seed):
    """Load for so long; a third in a gateway is killed in an upload, two thirds in a storage daemon. Fails where
    anything acknowledged is lost, torn, or shown differently by two gateways."""
    bucket = f"kills-{uuid.uuid4().hex[:8]}"
    wire = Wire(gateways[0], bucket)
    assert wire.ask("PUT").status == 200
    wire.close()
    over = threading.Event()
    writers = [Writer(gateways, bucket, number, seed, over) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    time.sleep(seconds / 3)
    killed_in_an_upload(gateways, bucket)
    time.sleep(seconds / 3)
    engine.kill_storage()
    time.sleep(seconds / 3)
    over.set()
    for writer in writers:
        writer.join(120)
        assert not writer.is_alive(), "a writer hangs"
        assert writer.problem is None, f"a writer failed: {writer.problem!r}"
    engine.revive_storage()
    checked = 0
    for gateway in gateways:
        until("the gateway answers", gateway.answers)
        wire = Wire(gateway, bucket)
        listed, _ = wire.page("writer-")
        for writer in writers:
            for key, allowed in writer.held.items():
                answer = wire.ask("GET", key)
                seen = hashlib.md5(answer.body).hexdigest() if answer.status == 200 else None
                assert answer.status in (200, 404), f"GET {key}: {answer.status}"
                assert seen in allowed, f"{key} at {gateway.url}: {seen}, acknowledged {allowed}"
                assert (key in listed) == (seen is not None), f"{key} at {gateway.url}: listed {key in listed}"
                if seen:
                    assert listed[key][1] == seen, f"{key}: listed with {listed[key][1]}, has {seen}"
                # The next gateway must say the same.
                allowed.intersection_update({seen})
                checked += 1
        wire.close()
    done, refused = sum(w.acknowledged for w in writers), sum(w.refused for w in writers)
    longest = max(writer.longest_s for writer in writers)
    return (
        f"{done} changes acknowledged and {refused} refused in {seconds} s with a gateway and a storage daemon killed;"
        f" 0 lost in {checked} looks; longest request {longest:.1f} s"
    )
