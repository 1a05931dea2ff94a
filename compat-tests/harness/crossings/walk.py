"""One walk of random changes, each asked about at the other doors before the next is made."""

import random
import time
import uuid
from collections import Counter

from harness.crossings.changes import Changes, draw, neighbours
from harness.crossings.checks import Checks, Stale, within
from harness.crossings.model import Model, parent
from harness.crossings.wire import Wire

# What a change behind our back may take until listings and the kernel's memory of the mount follow it, where the
# kernel tells of it.
BEHIND_S = 1.0
SHOWN = 25


class Walk:
    """Counts crossings; `trace` keeps every change that was made."""

    def __init__(self, server, mount_root, seed, doors=("s3", "mount", "brick"), without=(), behind_s=BEHIND_S):
        self.server, self.mount_root, self.seed = server, mount_root, seed
        self.doors, self.without, self.grace_s = list(doors), without, behind_s
        self.crossings, self.changes_made, self.behind_s = 0, Counter(), []
        self.trace = []

    def begin(self):
        """An empty bucket of its own and the doors to it."""
        bucket = f"walk-{uuid.uuid4().hex[:10]}"
        self.wire = Wire(self.server, bucket)
        assert self.wire.ask("PUT").status == 200
        mount, brick = self.mount_root / bucket, self.server.path(bucket)
        model = Model()
        self.changes = Changes(model, self.wire, mount, brick, self.server.volume_dir.parent / f".spare-{bucket}")
        self.checks = Checks(model, self.changes, self.wire, mount, brick, self.seed)
        self.model = model

    def run(self, *, crossings=None, seconds=None, report=None):
        """Walks until that many crossings or seconds are over."""
        source = random.Random(self.seed)
        self.begin()
        started = said = time.monotonic()
        try:
            while (crossings is None or self.crossings < crossings) and (
                seconds is None or time.monotonic() - started < seconds
            ):
                self.step(draw(source, self.doors, self.without))
                if report and time.monotonic() - said > 10:
                    said = time.monotonic()
                    report(self.summary(said - started))
        finally:
            self.end()
        return self.summary(time.monotonic() - started)

    def repeat(self, changes):
        """Makes just these changes on an empty bucket."""
        self.begin()
        try:
            for change in changes:
                self.step(change)
        finally:
            self.end()

    def end(self):
        """Closes what is open."""
        self.changes.close()
        self.wire.close()

    def step(self, change):
        """One change, and what every door says of it."""
        self.trace.append(change)
        try:
            touched = self.changes.run(change)
            if touched is None:
                self.trace.pop()
                return
            self.changes_made[f"{change[0]} {change[1]}"] += 1
            self.ask(change[0], touched)
        except (Stale, AssertionError, OSError) as error:
            raise Stale(f"{error}\n{self.account()}") from error

    def ask(self, door, touched):
        """The other doors first, then the one that made the change."""
        others = [one for one in ("s3", "mount") if one != door]
        for one in others:
            self.ask_door(one, touched, self.grace_s if door == "brick" else 0)
            self.crossings += 1
        for path in touched:
            self.checks.brick_path(path)
        if door != "brick" and self.checks.source.random() < 0.3:
            self.ask_door(door, touched, 0)

    def ask_door(self, door, touched, grace_s):
        """Keys at once, listings within the grace; the kernel's memory of the mount within it too."""
        few = touched if len(touched) < 6 else self.checks.source.sample(touched, 6)
        if door == "s3":
            for key in few:
                self.checks.s3_key(key)
            if grace_s:
                waited = within(grace_s, self.checks.s3_listing)  # whole, so that later ones need no grace
            self.checks.s3_page(few)
        else:
            waited = 0
            for path in neighbours(few):
                waited = max(waited, within(grace_s, self.checks.mount_path, path))
            for folder in {parent(path) for path in neighbours(few)}:
                waited = max(waited, within(grace_s, self.checks.mount_listing, folder))
        if grace_s:
            self.behind_s.append(waited)

    def summary(self, seconds):
        """One line."""
        behind = sorted(self.behind_s) or [0]
        text = (
            f"{self.crossings} crossings, 0 stale; {sum(self.changes_made.values())} changes in {seconds:.0f} s"
            f" ({self.crossings / max(seconds, 1e-9):.0f}/s), seed {self.seed}"
        )
        if self.behind_s:
            middle, last = behind[len(behind) // 2] * 1000, behind[-1] * 1000
            text += f"; what was changed behind our back was seen in {middle:.1f} ms, at most {last:.0f} ms"
        return text

    def account(self):
        """What led to a failure."""
        lines = [f"  {number}: {change}" for number, change in list(enumerate(self.trace))[-SHOWN:]]
        held = [key for writer in self.changes.writers for key in self.changes.names_of(writer.inode)]
        return "\n".join(
            [
                f"seed {self.seed}, after {self.crossings} crossings; the last changes:",
                *lines,
                f"files: {sorted(self.model.files)}",
                f"sheltered: {sorted(self.model.sheltered)}",
                f"directories: {self.model.dirs}",
                f"open for writing: {held}",
            ]
        )


def shrink(walk_of, changes, patience_s=120):
    """A shorter list of changes that still fails, by leaving out ever smaller pieces. `walk_of` makes a new walk."""
    deadline = time.monotonic() + patience_s

    def fails(some):
        try:
            walk_of().repeat(some)
        except Stale:
            return True
        return False

    if not fails(changes):
        return None
    piece = max(len(changes) // 2, 1)
    while time.monotonic() < deadline:
        start = 0
        while start < len(changes) and time.monotonic() < deadline:
            shorter = changes[:start] + changes[start + piece :]
            if shorter and fails(shorter):
                changes = shorter
            else:
                start += piece
        if piece == 1:
            break
        piece = max(piece // 2, 1)
    return changes
