"""Asks a door what it shows and compares it with the model."""

import email.utils
import os
import random
import stat
import time
from datetime import UTC, datetime

from harness.crossings.model import parent
from harness.crossings.wire import meta_of
from harness.tree import PROVISIONAL

# Where the mount's stand-ins for inode numbers begin.
FIRST_STAND_IN = 1 << 62


class Stale(AssertionError):
    """A door that shows something else than what was acknowledged."""


def same(what, seen, wanted):
    """Fails with both."""
    if seen != wanted:
        raise Stale(f"{what}: {shown(seen)}, must be {shown(wanted)}")


def shown(value):
    """Short enough to read."""
    text = repr(value)
    return text if len(text) < 300 else f"{text[:120]} … {len(value)} in all"


class Checks:
    """The doors of one bucket."""

    def __init__(self, model, changes, wire, mount_root, brick_root, seed):
        self.model, self.changes, self.wire = model, changes, wire
        self.mount_root, self.brick_root = mount_root, brick_root
        self.source = random.Random(seed)
        self.provisional = {}  # tag: the bytes for which it was shown
        self.last_tag = {}  # key: the tag and bytes shown last

    # S3.

    def s3_key(self, key):
        """HEAD or GET of a key: there or not, length, bytes, tag, time, metadata."""
        inode = self.model.objects().get(key)
        method = self.source.choice(("GET", "GET", "HEAD"))
        headers = {}
        old = self.last_tag.get(key)
        if old and self.source.random() < 0.25:
            method, headers = "GET", {"if-none-match": f'"{old[0]}"'}
        answer = self.wire.ask(method, key, headers=headers)
        if inode is None:
            same(f"{method} {key}: status", answer.status, 404)
            self.last_tag.pop(key, None)
            return
        if headers and answer.status == 304:
            same(f"If-None-Match {old[0]} of {key}: not modified", inode.data, old[1])
            return
        same(f"{method} {key}: status", answer.status, 200)
        same(f"{method} {key}: length", int(answer.headers["content-length"]), len(inode.data))
        if method == "GET":
            same(f"GET {key}: bytes", answer.body, inode.data)
        tag = answer.headers["etag"].strip('"')
        self.tag(f"{method} {key}", tag, inode)
        self.last_tag[key] = (tag, inode.data)
        same(f"{method} {key}: metadata", meta_of(answer.headers), inode.meta)
        if key in self.model.files:
            when = email.utils.parsedate_to_datetime(answer.headers["last-modified"]).timestamp()
            same(f"{method} {key}: Last-Modified", int(when), self.mtime_s(key))

    def mtime_s(self, key):
        """The file's own modification time."""
        return os.lstat(self.brick_root / key).st_mtime_ns // 10**9

    def tag(self, what, tag, inode):
        """A tag is true of these bytes, or provisional and never shown for others."""
        if tag.startswith(PROVISIONAL):
            same(f"{what}: {tag} was shown for other bytes", self.provisional.setdefault(tag, inode.data), inode.data)
        elif self.changes.is_held(inode):
            raise Stale(f"{what}: {tag} while the file is open for writing")
        elif tag not in inode.tags():
            raise Stale(f"{what}: stale ETag {tag}, must be {inode.tags()}")

    def s3_listing(self, prefix="", delimiter=""):
        """A listing: keys, common prefixes, and each entry's size, tag and time."""
        what = f"list {prefix!r} by {delimiter!r}"
        keys, prefixes = self.wire.page(prefix, delimiter)
        wanted_keys, wanted_prefixes = self.model.page(prefix, delimiter)
        same(f"{what}: keys", sorted(keys), sorted(wanted_keys))
        same(f"{what}: prefixes", sorted(prefixes), sorted(wanted_prefixes))
        for key, (size, tag, modified) in keys.items():
            inode = self.model.objects()[key]
            same(f"{what}: size of {key}", size, len(inode.data))
            self.tag(f"{what}: {key}", tag, inode)
            if key in self.model.files:
                when = datetime.fromisoformat(modified.replace("Z", "+00:00")).astimezone(UTC).timestamp()
                same(f"{what}: time of {key}", int(when), self.mtime_s(key))

    def s3_page(self, keys):
        """One of the listings that these keys are in."""
        prefixes = [""] + [parent(key) + "/" for key in keys if parent(key)]
        self.s3_listing(self.source.choice(prefixes), self.source.choice(("", "/")))

    # The mount.

    def mount_path(self, path):
        """stat and read of a path."""
        try:
            found = os.lstat(self.mount_root / path)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        inode = self.model.files.get(path)
        if inode is None:
            kind = None if found is None else "directory" if stat.S_ISDIR(found.st_mode) else "file"
            same(f"stat {path}", kind, "directory" if path in self.model.dirs else None)
            return
        if found is None:
            raise Stale(f"stat {path}: not there")
        disk = os.lstat(self.brick_root / path)
        # SEMANTICS 44: a number used again while the kernel still holds the old file has a stand-in.
        if found.st_ino < FIRST_STAND_IN:
            same(f"stat {path}: st_ino", found.st_ino, disk.st_ino)
        for name in ("st_size", "st_mtime_ns", "st_mode", "st_nlink", "st_uid", "st_gid"):
            same(f"stat {path}: {name}", getattr(found, name), getattr(disk, name))
        same(f"stat {path}: size", found.st_size, len(inode.data))
        with open(self.mount_root / path, "rb", buffering=0) as file:
            same(f"read {path}", file.read(), inode.data)

    def mount_listing(self, folder):
        """readdir of a directory."""
        if folder and folder not in self.model.dirs:
            return
        same(f"readdir {folder!r}", sorted(os.listdir(self.mount_root / folder)), sorted(self.model.children(folder)))

    def brick_path(self, path):
        """The plain file has the object's bytes: promise 1."""
        inode = self.model.files.get(path)
        if inode is not None:
            same(f"the plain file {path}", (self.brick_root / path).read_bytes(), inode.data)


def within(grace_s, check, *words):
    """Tries until it holds or the grace is over; gives the seconds that it took."""
    started = time.monotonic()
    while True:
        try:
            check(*words)
            return time.monotonic() - started
        except Stale:
            if time.monotonic() - started > grace_s:
                raise
        time.sleep(0.002)
