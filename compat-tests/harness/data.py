"""Bytes to store, and trees of files to compare."""

import hashlib
import os
import random
import time

KIB = 1024
MIB = 1024 * 1024


def blob(len_bytes, seed=0):
    """Bytes that do not compress and are the same for the same seed."""
    return random.Random(f"{seed}/{len_bytes}").randbytes(len_bytes)


def md5(data):
    """MD5 in hex: the ETag of an object put whole."""
    return hashlib.md5(data).hexdigest()


def multipart_etag(parts):
    """The ETag of an object made of these parts."""
    return hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest() + f"-{len(parts)}"


def write_tree(root, files):
    """Writes `{relative path: bytes}` below root, an hour old: sync tools compare whole seconds."""
    then = time.time() - 3600
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (then, then))


def read_tree(root):
    """Reads a directory back as `{relative path: bytes}`; the server's own directory is left out."""
    found = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != ".portico"]
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = file.read()
    return found


def sample_tree():
    """A small tree with the names and sizes that users have."""
    return {
        "readme.txt": b"hello\n",
        "empty": b"",
        "photos/2024/a b.jpg": blob(70 * KIB, 1),
        "photos/2024/\u00fcber+plus&amp.jpg": blob(3 * KIB, 2),
        "photos/2025/100%.png": blob(10, 3),
        "deep/er/and/deeper/file.bin": blob(300 * KIB, 4),
        "notes/\u65e5\u672c\u8a9e.txt": "\u6771\u4eac".encode(),
    }
