"""Crossings between gateways of one tree: each change is made on one, and asked about on all the others at once.

    python -m harness.crossings.gateways --engine gluster --count 10000 [--seed N]

A crossing is one acknowledged change and one other gateway that was asked about it. With an engine the gateways have
a mount each; `--engine local` is one directory. `--kill` ends with gateways and storage killed under load.
"""

import argparse
import concurrent.futures
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from email.utils import parsedate_to_datetime
from pathlib import Path

from harness.crossings.changes import Changes, draw
from harness.crossings.checks import Checks, Stale
from harness.crossings.model import Model
from harness.crossings.stalls import Watch
from harness.crossings.wire import Wire
from harness.engines import ENGINES
from harness.server import BINARY, TARGET, Server

SHOWN = 25


class GatewayChecks(Checks):
    """What a gateway shows; a file's time is what the gateway that changed it says."""

    def __init__(self, *words):
        super().__init__(*words)
        self.times = {}

    def mtime_s(self, key):
        return self.times.get(key)

    def learn_times(self, keys):
        """Asks the gateway that made a change."""
        for key in keys:
            answer = self.wire.ask("HEAD", key)
            if answer.status == 200:
                self.times[key] = int(parsedate_to_datetime(answer.headers["last-modified"]).timestamp())


class GatewayWalk:
    """Counts crossings between gateways."""

    def __init__(self, gateways, seed):
        self.gateways, self.seed = gateways, seed
        self.crossings, self.made, self.trace = 0, Counter(), []
        self.wires = []

    def run(self, *, crossings=None, seconds=None, report=None, over=lambda: False):
        """Walks until that many crossings or seconds are over, or all is."""
        source = random.Random(self.seed)
        bucket = f"walk-{uuid.uuid4().hex[:10]}"
        self.wires = wires = [Wire(gateway, bucket) for gateway in self.gateways]
        assert wires[0].ask("PUT").status == 200
        model = Model()
        changes = Changes(model, wires[0], None, None, None)
        checks = GatewayChecks(model, changes, wires[0], None, None, self.seed)
        started = said = time.monotonic()
        try:
            while (
                (crossings is None or self.crossings < crossings)
                and (seconds is None or time.monotonic() - started < seconds)
                and not over()
            ):
                number, change = source.randrange(len(wires)), draw(source, ["s3"])
                self.trace.append((number, change))
                self.step(number, change, wires, changes, checks)
                if report and time.monotonic() - said > 10:
                    said = time.monotonic()
                    report(self.summary(said - started))
        except (Stale, AssertionError, OSError) as error:
            raise Stale(f"{error}\n{self.account(model)}") from error
        finally:
            for wire in wires:
                wire.close()
        return self.summary(time.monotonic() - started)

    def step(self, number, change, wires, changes, checks):
        """One change, and what every other gateway says of it."""
        changes.wire = checks.wire = wires[number]
        touched = changes.run(change)
        if touched is None:
            return
        self.made[change[1]] += 1
        checks.learn_times(touched)
        for other, wire in enumerate(wires):
            if other == number:
                continue
            checks.wire = wire
            for key in touched:
                checks.s3_key(key)
            checks.s3_page(touched)
            self.crossings += 1

    def summary(self, seconds):
        """One line."""
        return (
            f"{self.crossings} crossings between {len(self.gateways)} gateways, 0 stale;"
            f" {sum(self.made.values())} changes in {seconds:.0f} s ({self.crossings / max(seconds, 1e-9):.0f}/s),"
            f" seed {self.seed}"
        )

    def account(self, model):
        """What led to a failure."""
        lines = [f"  {number}: {change}" for number, change in list(enumerate(self.trace))[-SHOWN:]]
        head = f"seed {self.seed}, after {self.crossings} crossings; the last changes (gateway, change):"
        return "\n".join([head, *lines, f"keys: {sorted(model.objects())}"])


def walks(gateways, seed, count, number, report):
    """So many walks at once, each in a bucket of its own: an engine that is slow to answer is asked by all of them
    meanwhile. Gives what they say together; raises what the first said that failed."""
    each = [GatewayWalk(gateways, seed + n) for n in range(number)]
    watch = Watch(lambda: [wire for walk in each for wire in walk.wires], report)
    watch.start()
    began = said = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(number) as pool:
        running = [pool.submit(walk.run, crossings=-(-count // number), over=lambda: failed(running)) for walk in each]
        while not all(one.done() for one in running):
            concurrent.futures.wait(running, timeout=1)
            if time.monotonic() - said > 10:
                said = time.monotonic()
                report(f"{sum(walk.crossings for walk in each)} crossings in {said - began:.0f} s, 0 stale")
    longest = watch.end()
    for one in running:
        one.result()
    seconds, made = time.monotonic() - began, sum(sum(walk.made.values()) for walk in each)
    crossings = sum(walk.crossings for walk in each)
    return (
        f"{crossings} crossings between {len(gateways)} gateways by {number} walks, 0 stale;"
        f" {made} changes in {seconds:.0f} s ({crossings / seconds:.0f}/s), seed {seed}; {longest}"
    )


def failed(running):
    """Whether one of them did."""
    return any(one.done() and one.exception() for one in running)


def doctor(points, rounds=30):
    """`portico doctor --shared` on two mounts; gives its exit code and what it said."""
    words = [str(BINARY), "doctor", "--shared", str(points[0]), str(points[1]), "--rounds", str(rounds)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
    return done.returncode, done.stdout


def open_gateways(home, points, *, config=None, args=()):
    """A gateway for each mount, started."""
    gateways = []
    for number, point in enumerate(points):
        log = home / f"gateway{number}.log"
        gateways.append(Server(point, log, config=config, args=["--shared", *args]))
        gateways[-1].start()
    return gateways


def main():
    """Ends with 1 where a gateway was stale or something acknowledged was lost."""
    parser = argparse.ArgumentParser(prog="python -m harness.crossings.gateways", description=__doc__)
    parser.add_argument("--engine", choices=sorted(ENGINES), default="local")
    parser.add_argument("--count", type=int, default=10_000, help="crossings")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--gateways", type=int, default=3)
    parser.add_argument("--walks", type=int, default=1, help="at once, each in a bucket of its own")
    parser.add_argument("--rounds", type=int, default=30, help="of the doctor")
    parser.add_argument("--kill", type=int, default=0, metavar="SECONDS", help="then load with kills for so long")
    words = parser.parse_args()
    seed = secrets.randbits(31) if words.seed is None else words.seed
    print(f"seed {seed}", flush=True)
    TARGET.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix=f"gateways-{words.engine}-", dir=TARGET))
    engine = ENGINES[words.engine](home / "engine", mounts=words.gateways)
    gateways, is_kept = [], False
    try:
        began = time.monotonic()
        engine.start()
        print(f"{words.engine} is up after {time.monotonic() - began:.1f} s", flush=True)
        points = [point / "tree" for point in engine.points]
        points[0].mkdir(exist_ok=True)
        began = time.monotonic()
        code, said = doctor(points, words.rounds)
        print(f"{said}doctor: exit {code} after {time.monotonic() - began:.1f} s", flush=True)
        gateways += open_gateways(home, points)
        print(walks(gateways, seed, words.count, words.walks, lambda text: print(text, flush=True)), flush=True)
        if words.kill:
            from harness.crossings.kills import under_load

            print(under_load(gateways, engine, words.kill, seed), flush=True)
        return code
    except (Stale, AssertionError) as failure:
        is_kept = True
        print(f"FAILED: {failure}", flush=True)
        for gateway in gateways:
            print(gateway.log(2000))
        print(f"kept: {home}", flush=True)
        return 1
    finally:
        for gateway in gateways:
            gateway.kill()
        engine.stop()
        if not is_kept:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
