"""Locks of files: a process that holds one, and whether one can be had."""

import fcntl
import subprocess
import sys

HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
getattr(fcntl, sys.argv[2])(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def holder(path, kind):
    """A process that holds a lock until its stdin ends. `kind` is `flock` or `lockf`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    return process


def takes(lock, file):
    """Whether a lock can be had at once; then it is held."""
    try:
        lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
