"""Waiting for what must become true, with an end to the patience."""

import time

PATIENCE_S = 30


def until(what, fact, patience_s=PATIENCE_S):
    """Calls `fact` until it returns something true; fails with `what` after the patience is over."""
    deadline = time.monotonic() + patience_s
    while True:
        found = fact()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {patience_s} s: {what}"
        time.sleep(0.05)
