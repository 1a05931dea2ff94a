"""A volume under load while its bricks fail: what was acknowledged is there, whole and current.

`python -m harness.storm --minutes 10` prints the figures of docs/reliability.md. Three bricks, two copies; faults come
one after another, each when the volume has all its copies again:

- `io errors`: every call on a brick fails with EIO (its system calls are answered for by the harness: the server
  makes them without libc, so that no preloaded library could)
- `full`: a brick's file system, a tmpfs, is filled by somebody else
- `moved`: a brick's directory is renamed and comes back
- `flipped`: a byte of a copy changes, and a scrub is asked for
- `killed`: kill -9 of the server, and its start
"""

import argparse
import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from harness import clients
from harness.bricks import Bricks
from harness.data import KIB, MIB, md5
from harness.server import Server
from harness.syscalls import Syscalls
from harness.wait import until

FAULTS = ["io errors", "full", "moved", "flipped", "killed"]
CLIENTS = 6
KEYS_EACH = 40
COLD = 30
SIZES = [0, 100, 4 * KIB, 90 * KIB, 300 * KIB, MIB]
TMPFS_MIB = 320
FAULT_S = 4
LONG_S = 180


class Client(threading.Thread):
    """Writes and reads keys of its own. `known[key]` is what a key may be: the last content acknowledged, and what was
    asked since without an answer."""

    def __init__(self, storm, number):
        super().__init__(daemon=True)
        self.storm, self.number = storm, number
        self.s3 = clients.boto(storm.server, read_timeout_s=LONG_S)
        self.source = random.Random(f"{storm.seed}/{number}")
        self.known = {}
        self.acknowledged = self.reads = self.errors = 0
        self.longest_s = 0.0
        self.wrong = []
        self.failures = {}

    def run(self):
        while not self.storm.is_over.is_set():
            key = f"c{self.number}/{self.source.randrange(KEYS_EACH)}"
            begun = time.monotonic()
            try:
                self.step(key)
            except AssertionError as error:
                self.wrong.append(str(error))
            except Exception as error:
                if not self.storm.is_down.is_set():
                    self.errors += 1
                    kind = f"{self.storm.fault}: {str(error)[:120]}"
                    self.failures[kind] = self.failures.get(kind, 0) + 1
                time.sleep(0.05)
            else:
                self.longest_s = max(self.longest_s, time.monotonic() - begun)

    def step(self, key):
        choice = self.source.random()
        if choice < 0.4:
            self.check(key)
            self.reads += 1
            return
        data = None if choice < 0.5 else self.source.randbytes(self.source.choice(SIZES))
        before = self.known.get(key, [None])
        self.known[key] = [*before, data]
        if data is None:
            self.s3.delete_object(Bucket="bkt", Key=key)
        else:
            self.s3.put_object(Bucket="bkt", Key=key, Body=data, Metadata={"md5": md5(data)})
        self.known[key] = [data]
        self.acknowledged += 1

    def check(self, key):
        found = read(self.s3, key)
        known = self.known.get(key, [None])
        if found not in known:
            what = "lost" if found is None else "stale"
            raise AssertionError(f"{key}: {what}, {len(known)} contents are possible")


def read(s3, key):
    """An object's bytes, none where there is none; they are those that its metadata speak of."""
    try:
        got = s3.get_object(Bucket="bkt", Key=key)
    except s3.exceptions.NoSuchKey:
        return None
    data = got["Body"].read()
    if got["Metadata"]["md5"] != md5(data):
        raise AssertionError(f"{key}: torn, {len(data)} bytes are not those that were written")
    return data


class Storm:
    """The volume, its clients, and what happens to it."""

    def __init__(self, home, seed, new_server=None):
        self.seed, self.home = seed, Path(home)
        self.source = random.Random(str(seed))
        self.is_over, self.is_down = threading.Event(), threading.Event()
        self.small = self.home / "small"
        self.small.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m,mode=755", "small", str(self.small)]
        subprocess.run(words, check=True, timeout=60)
        self.failing = self.home / "failing"
        self.calls = Syscalls(self.home, self.failing)
        new_server = new_server or (lambda data_dir, **more: Server(data_dir, self.home / "server.log", **more))
        self.bricks = Bricks(new_server, self.home, 0, wrap=self.calls.wrap)
        self.bricks.at([self.home / "plain", self.small / "p", self.failing])
        self.server = self.bricks.server
        self.rows, self.fault = [], "start"

    def begin(self):
        """Starts the server and the clients."""
        self.server.start()
        s3 = clients.boto(self.server)
        s3.create_bucket(Bucket="bkt")
        self.cold = {f"cold/{number}": self.source.randbytes(SIZES[1 + number % 5]) for number in range(COLD)}
        for key, data in self.cold.items():
            s3.put_object(Bucket="bkt", Key=key, Body=data, Metadata={"md5": md5(data)})
        self.clients = [Client(self, number) for number in range(CLIENTS)]
        for client in self.clients:
            client.start()

    def strike(self, fault):
        """One fault, until the volume is whole again."""
        begun = time.monotonic()
        self.fault = fault
        detected = getattr(self, fault.replace(" ", "_"))()
        ended = time.monotonic()
        self.fault = f"after {fault}"
        self.bricks.settled()
        self.rows.append((fault, detected, time.monotonic() - ended))
        print(f"{fault}: noticed after {detected and round(detected, 2)} s, struck for {ended - begun:.1f} s, ", end="")
        print(f"whole after {time.monotonic() - ended:.1f} s", flush=True)

    def noticed(self, begun, brick):
        """Seconds until a brick is no longer said to be well."""
        until(f"brick {brick} is noticed", lambda: self.bricks.state(brick) != "whole", LONG_S)
        return time.monotonic() - begun

    def io_errors(self):
        begun = time.monotonic()
        self.calls.fail(lambda _name, _path: errno.EIO)
        try:
            detected = self.noticed(begun, 2)
            time.sleep(FAULT_S)
        finally:
            self.calls.fail(None)
        return detected

    def full(self):
        with open(self.small / "foreign", "wb", buffering=0) as file:
            try:
                while file.write(bytes(MIB)):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
        time.sleep(FAULT_S)
        os.unlink(self.small / "foreign")

    def moved(self):
        begun = time.monotonic()
        away = self.home / "away"
        os.rename(self.home / "plain", away)
        try:
            detected = self.noticed(begun, 0)
            time.sleep(FAULT_S)
        finally:
            os.rename(away, self.home / "plain")
        return detected

    def flipped(self):
        # One that is under way has maybe passed the object.
        until("no scrub is under way", lambda: self.bricks.said("scrub", "status")["state"] == "idle", LONG_S)
        key = self.source.choice(sorted(self.cold))
        paths = [directory / "main" / "bkt" / key for directory in self.bricks.dirs]
        path = self.source.choice([path for path in paths if path.exists()])
        facts = path.stat()
        with open(path, "r+b") as file:
            at = self.source.randrange(len(self.cold[key]))
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << self.source.randrange(8)]))
        # As the disk does it: nothing tells of it.
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        begun = time.monotonic()
        self.bricks.command("scrub", "start")
        try:
            until("the copy is mended", lambda: path.read_bytes() == self.cold[key], LONG_S)
        except AssertionError as error:
            said = self.bricks.said("scrub", "status")
            raise AssertionError(f"{error}: {path}, {said}; {self.server.log(4000)}") from None
        assert read(clients.boto(self.server), key) == self.cold[key]
        return time.monotonic() - begun

    def killed(self):
        self.is_down.set()
        self.server.kill()
        self.server.start()
        time.sleep(1)
        self.is_down.clear()

    def end(self):
        """Stops the clients, and looks at everything that was acknowledged, through the server and on the bricks."""
        self.is_over.set()
        for client in self.clients:
            client.join(LONG_S)
            for key in client.known:
                try:
                    client.check(key)
                except AssertionError as error:
                    client.wrong.append(str(error))
        s3 = clients.boto(self.server)
        lost = [key for key, data in self.cold.items() if read(s3, key) != data]
        self.bricks.settled()
        self.bricks.check_equal("bkt")
        wrong = [text for client in self.clients for text in client.wrong] + lost
        return {
            "acknowledged": sum(client.acknowledged for client in self.clients),
            "reads": sum(client.reads for client in self.clients),
            "refused": sum(client.errors for client in self.clients),
            "longest_s": max(client.longest_s for client in self.clients),
            "failures": dict(sum((Counter(client.failures) for client in self.clients), Counter())),
            "wrong": wrong,
        }

    def close(self):
        """Takes everything away."""
        self.is_over.set()
        self.calls.fail(None)
        self.server.kill()
        self.calls.close()
        subprocess.run(["umount", "-l", str(self.small)], capture_output=True, timeout=60)


def main():
    """By hand."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--minutes", type=float, default=10)
    words.add_argument("--seed", default=str(int(time.time())))
    words.add_argument("--faults", default=",".join(FAULTS))
    asked = words.parse_args()
    print(f"seed {asked.seed}", flush=True)
    home = tempfile.mkdtemp(prefix="portico-storm-")
    storm = Storm(home, asked.seed)
    try:
        storm.begin()
        deadline = time.monotonic() + 60 * asked.minutes
        faults = asked.faults.split(",")
        while time.monotonic() < deadline:
            storm.strike(storm.source.choice(faults))
        found = storm.end()
    finally:
        storm.close()
    for fault in faults:
        rows = [row for row in storm.rows if row[0] == fault]
        detected = [row[1] for row in rows if row[1] is not None]
        healed = [row[2] for row in rows]
        if rows:
            told = f"noticed after {max(detected):.2f} s at most, " if detected else ""
            print(f"{fault}: {len(rows)} times, {told}whole {max(healed):.1f} s after its end at most")
    print(found)
    shutil.rmtree(home, ignore_errors=True)
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
