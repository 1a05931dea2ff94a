"""A server whose volume is on several bricks, and what its commands say."""

import json

from harness.data import read_tree
from harness.mounts import inside
from harness.process import run
from harness.wait import until

HEALED_S = 90


def lacking(status):
    """How many groups are without a copy that they should have."""
    return status["short_groups"] + status["to_make_groups"]


class Bricks:
    """`portico serve OWN --brick …` with directories of the test's own, and its commands."""

    def __init__(self, new_server, home, count, *, replicas=2, wrap=(), args=()):
        self.dirs = [home / f"brick{number}" for number in range(count)]
        bricks = [word for directory in self.dirs for word in ("--brick", str(directory))]
        words = [*bricks, "--replicas", str(replicas), *args]
        self.server = new_server(data_dir=home / "own", args=words, wrap=wrap)

    def at(self, directories):
        """Has these as its bricks."""
        self.dirs = list(directories)
        self.server.args += [word for directory in self.dirs for word in ("--brick", str(directory))]

    def command(self, *words, ok=(0,)):
        """Runs `portico WORDS --dir OWN`."""
        argv = [self.server.binary, *words, "--dir", self.server.data_dir]
        return run(argv, env=self.server.environment(), ok=ok)

    def said(self, *words):
        """What a command answers in JSON."""
        return json.loads(self.command(*words, "--json").stdout)

    def status(self):
        """How the volume is."""
        return self.said("volume", "status")

    def state(self, number):
        """What a brick is; none where the volume has none of that number."""
        bricks = {brick["number"]: brick["state"] for brick in self.status()["bricks"]}
        return bricks.get(number)

    def settled(self):
        """Waits until everything has its copies where they should be."""

        def is_settled():
            status = self.status()
            return lacking(status) + status["to_drop_groups"] == 0 and status

        return until("everything has all its copies", is_settled, HEALED_S)

    def trees(self, bucket):
        """The files of a bucket on each brick, by key."""
        roots = [directory / "main" / bucket for directory in self.dirs]
        if self.server.running():
            roots = [inside(self.server, root) for root in roots]
        return [read_tree(root) for root in roots]

    def copies(self, bucket):
        """The copies of each key of a bucket, by key."""
        found = {}
        for tree in self.trees(bucket):
            for key, data in tree.items():
                found.setdefault(key, []).append(data)
        return found

    def check_equal(self, bucket, count=2):
        """What the bricks have of a bucket is on so many of them, byte for byte."""

        def unequal():
            copies = self.copies(bucket)
            return [key for key, found in copies.items() if found != found[:1] * count]

        # A copy in sync makes what it has in its log a moment later.
        until("all copies are equal", lambda: not unequal())

    def check_copies(self, bucket, wanted, count=2):
        """Every object is on so many bricks, byte for byte, and nothing else is."""
        copies = self.copies(bucket)
        assert sorted(copies) == sorted(wanted)
        wrong = {key: len(copies[key]) for key, data in wanted.items() if copies[key] != [data] * count}
        assert not wrong, f"without {count} equal copies: {wrong}"
