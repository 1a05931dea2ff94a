"""Requests that have no answer for long: whose they are, and what the gateway's threads wait in meanwhile."""

import threading
import time
from collections import Counter
from pathlib import Path

LONG_S = 5
# What threads without work wait in.
IDLE = ("futex_wait_queue", "futex_wait", "ep_poll", "do_epoll_wait", "hrtimer_nanosleep", "0")


def waits(pid):
    """What a process's threads are in, in the kernel's words, with how many are: without those that have no work."""
    seen = Counter()
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            where, call = (task / "wchan").read_text(), (task / "syscall").read_text().split()[0]
            name = (task / "comm").read_text().strip()
        except (OSError, IndexError):
            continue
        if where not in IDLE:
            seen[f"{name}: {where}, system call {call}"] += 1
    return seen


class Watch(threading.Thread):
    """Looks at requests each second; says of each that is long, once, what its gateway waits in."""

    def __init__(self, wires, report):
        super().__init__(daemon=True)
        self.wires, self.report = wires, report
        self.over, self.told = threading.Event(), set()
        self.longest_s, self.what = 0.0, None

    def run(self):
        while not self.over.wait(0.5):
            self.look()

    def look(self):
        """One round."""
        for wire in self.wires():
            asking = wire.asking
            if asking is None:
                continue
            began, what = asking
            long_s = time.monotonic() - began
            if long_s > self.longest_s:
                self.longest_s, self.what = long_s, what
            if long_s > LONG_S and (id(wire), began) not in self.told:
                self.told.add((id(wire), began))
                pid = wire.server.process.pid
                rows = [f"  {count} x {row}" for row, count in waits(pid).most_common()]
                head = f"no answer for {long_s:.0f} s to {what} at {wire.server.url}, process {pid}, which waits in:"
                self.report("\n".join([head, *(rows or ["  nothing"])]))

    def end(self):
        """Ends it; gives the longest wait seen, in words."""
        self.over.set()
        self.join()
        return f"longest request seen {self.longest_s:.1f} s ({self.what})"
