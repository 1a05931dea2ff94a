"""A server whose system calls on some directories are counted, and can be made to fail.

What changes a file system stops in the kernel until a thread here has looked at it, by seccomp's
user notification: whatever library makes the call, and in whichever thread. So something can be done
at the instant of a server's nth change. Source: seccomp_unotify(2). x86-64 alone.
"""

import array
import ctypes
import fcntl
import os
import platform
import select
import socket
import struct
import sys
import threading
from collections import deque
from pathlib import Path

import pytest

# By number: what the call is, and which argument has the directory or file; none for a path.
CALLS = {
    1: ("write", 0),
    18: ("pwrite64", 0),
    20: ("writev", 0),
    296: ("pwritev", 0),
    328: ("pwritev2", 0),
    74: ("fsync", 0),
    75: ("fdatasync", 0),
    306: ("syncfs", 0),
    77: ("ftruncate", 0),
    285: ("fallocate", 0),
    190: ("fsetxattr", 0),
    199: ("fremovexattr", 0),
    91: ("fchmod", 0),
    93: ("fchown", 0),
    280: ("utimensat", 0),
    326: ("copy_file_range", 2),
    257: ("openat", 0),
    2: ("open", None),
    258: ("mkdirat", 0),
    259: ("mknodat", 0),
    265: ("linkat", 2),
    266: ("symlinkat", 1),
    263: ("unlinkat", 0),
    87: ("unlink", None),
    264: ("renameat", 0),
    316: ("renameat2", 0),
}
OPENS = {257: 2, 2: 1}
MAKING = 0o100 | 0o20000000  # O_CREAT, __O_TMPFILE
AT_FDCWD = 0xFFFFFF9C
SYS_SECCOMP = 317
SET_MODE_FILTER, NEW_LISTENER = 1, 8
NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
CONTINUE = 1
AUDIT_ARCH_X86_64 = 0xC000003E
# How many calls are remembered, for who looks into a failure.
LAST = 60
ALLOW, USER_NOTIF = 0x7FFF0000, 0x7FC00000


def need_notification():
    """Skips where system calls cannot be looked at."""
    if platform.machine() != "x86_64":
        pytest.skip("not x86-64: system calls have other numbers")
    if os.geteuid() != 0:
        pytest.skip("not root: cannot look at another process's system calls")


class Syscalls:
    """Looks at the calls of one process after another, each started with `wrap` before its words."""

    def __init__(self, directory, *paths):
        need_notification()
        self.paths = [f"{path}/" for path in paths]
        self.socket_path = Path(directory) / "syscalls.sock"
        self.counted = 0
        self.last = deque(maxlen=LAST)
        self.at, self.action = None, None
        self.refuse = None
        self.lock = threading.Lock()
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(self.socket_path))
        self.listening.listen()
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()

    @property
    def wrap(self):
        """The words before the command's."""
        return [sys.executable, __file__, str(self.socket_path)]

    def arm(self, after, action):
        """Has `action` called when `after` more calls were let through, before the next is."""
        with self.lock:
            self.at, self.action = self.counted + after, action

    def disarm(self):
        """Takes that back; says whether it was still to come."""
        with self.lock:
            was_to_come, self.at = self.at is not None, None
        return was_to_come

    def fail(self, refuse):
        """Has calls fail for which `refuse(name, path)` gives an errno; none ends that."""
        self.refuse = refuse

    def close(self):
        """Ends it, after the last process it looks at."""
        # The number of a socket that somebody still waits on would be the next one's.
        self.listening.shutdown(socket.SHUT_RDWR)
        self.accepting.join()
        self.listening.close()

    def accept(self):
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            with connection:
                _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(4))
                (descriptor,) = array.array("i", ancillary[0][2][:4])
            threading.Thread(target=self.look, args=(descriptor,), daemon=True).start()

    def look(self, listener):
        """Answers one process's calls until it has ended."""
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while True:
            (_, events), *_ = poll.poll()
            if not events & select.POLLIN:
                break
            notice = bytearray(80)
            try:
                fcntl.ioctl(listener, NOTIF_RECV, notice)
            except OSError:
                continue  # Its thread was killed meanwhile.
            identity, process, _, number = struct.unpack_from("=QIIi", notice)
            arguments = struct.unpack_from("=6Q", notice, 32)
            error = self.answer(process, number, arguments)
            answer = bytearray(struct.pack("=QqiI", identity, 0, -error, 0 if error else CONTINUE))
            try:
                fcntl.ioctl(listener, NOTIF_SEND, answer)
            except OSError:
                continue
        os.close(listener)

    def answer(self, process, number, arguments):
        """The errno a call fails with; 0 for none."""
        name, place = CALLS[number]
        path = self.path(process, number, place, arguments)
        if path is None or not any(f"{path}/".startswith(prefix) for prefix in self.paths):
            return 0
        with self.lock:
            action = None
            if self.at is not None and self.counted >= self.at:
                self.at, action = None, self.action
            if action:
                action()
            self.counted += 1
            self.last.append((name, path))
        refuse = self.refuse
        return (refuse and refuse(name, path)) or 0

    @staticmethod
    def path(process, number, place, arguments):
        try:
            if place is not None and arguments[place] & 0xFFFFFFFF != AT_FDCWD:
                return os.readlink(f"/proc/{process}/fd/{arguments[place] & 0xFFFFFFFF}")
            at = arguments[0] if place is None else arguments[place + 1]
            with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
                memory.seek(at)
                return memory.read(4096).split(b"\0", 1)[0].decode("utf-8", "replace")
        except (OSError, ValueError):
            return None


def shut_down(path):
    """Cuts a file system off from its disk as a power cut does, its journal unwritten. Source: FS_IOC_SHUTDOWN of
    ext4 and XFS, with what they call NOLOGFLUSH."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(directory, 0x8004587D, struct.pack("=I", 2))
    finally:
        os.close(directory)


def filter_program():
    """Which calls are told, as a program of BPF: opens only where they may make a file."""
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    program = [(load, 0, 0, 4), (equal, 1, 0, AUDIT_ARCH_X86_64), (give, 0, 0, ALLOW), (load, 0, 0, 0)]
    for number in CALLS:
        if number in OPENS:
            flags = 16 + 8 * OPENS[number]
            program += [(equal, 0, 4, number), (load, 0, 0, flags), (any_bit, 0, 1, MAKING)]
            program += [(give, 0, 0, USER_NOTIF), (give, 0, 0, ALLOW)]
        else:
            program += [(equal, 0, 1, number), (give, 0, 0, USER_NOTIF)]
    return [*program, (give, 0, 0, ALLOW)]


def become_watched(socket_path, argv):
    """Has this process's calls told to whoever listens at a socket, and becomes another program."""
    told = socket.socket(socket.AF_UNIX)
    told.connect(socket_path)
    libc = ctypes.CDLL(None, use_errno=True)
    program = filter_program()
    filters = b"".join(struct.pack("=HBBI", *step) for step in program)
    kept = ctypes.create_string_buffer(filters)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(kept)))
    # What is told from here on waits for an answer: nothing but what hands the descriptor over is done.
    descriptors = array.array("i", [0])
    descriptors[0] = libc.syscall(SYS_SECCOMP, SET_MODE_FILTER, NEW_LISTENER, header)
    if descriptors[0] < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    told.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    become_watched(sys.argv[1], sys.argv[2:])
