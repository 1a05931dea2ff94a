"""Random changes: made as plain tuples, so that a run can be shown and repeated, and carried out."""

import base64
import hashlib
import mmap
import os
import random
from urllib.parse import quote

from harness.crossings.model import Inode, Refused, parent
from harness.crossings.wire import META
from harness.data import multipart_etag

KEYS = ["a", "a/b", "a/b/c", "a/d", "a-b", "b", "b/c", "d/e/f", "d/e/g", "d/h", "x", "y", "\u00e4 \u00f6", "z/1"]
FOLDERS = ["a", "a/b", "b", "d", "d/e", "z", "m", "m/n"]
SIZES = [0, 1, 100, 100, 4096, 5000, 5000, 70_000, 300_000]
WRITERS = 2
S3_CHANGES = ["put"] * 6 + ["put_new", "put_match", "multipart", "copy", "copy"] + ["delete"] * 4 + ["delete_many"]
MOUNT_CHANGES = (
    ["create"] * 4
    + ["write", "append", "truncate", "rename", "rename"] * 2
    + ["rename_folder", "unlink", "unlink", "mkdir", "mkdir", "rmdir", "rmdir", "link", "chmod", "utime", "meta"]
    + ["store", "open", "open", "poke", "poke", "poke_map", "close"]
)
BRICK_CHANGES = (
    ["replace", "edit"] * 3
    + ["truncate", "unlink", "rename", "append"] * 2
    + ["rename_folder", "rename_folder", "mkdir", "rmdir", "chmod", "utime"]
)


def blob(size, seed):
    """Bytes that are the same for the same words."""
    return random.Random(seed).randbytes(size)


def draw(source, doors, without=()):
    """One change, as a tuple of words."""
    door = source.choice(doors)
    names = {"s3": S3_CHANGES, "mount": MOUNT_CHANGES, "brick": BRICK_CHANGES}[door]
    name = source.choice([name for name in names if name not in without])
    key, other, seed = source.choice(KEYS), source.choice(KEYS), source.randrange(1 << 30)
    size = source.choice(SIZES)
    if name in ("mkdir", "rmdir", "rename_folder"):
        key, other = source.choice(FOLDERS), source.choice(FOLDERS)
    if name == "delete_many":
        key = tuple(sorted(source.sample(KEYS, 3)))
    return door, name, key, other, size, seed


class Writer:
    """A file held open for writing through the mount, and mapped."""

    def __init__(self, root, path, inode):
        self.inode, self.file = inode, os.open(root / path, os.O_RDWR)
        self.map = mmap.mmap(self.file, 0) if inode.data else None

    def close(self):
        if self.map:
            self.map.close()
        os.close(self.file)


class Changes:
    """Carries changes out, in the world and in the model. Each method gives the keys it touched."""

    def __init__(self, model, wire, mount_root, brick_root, spare):
        self.model, self.wire = model, wire
        self.roots = {"mount": mount_root, "brick": brick_root}
        self.spare = spare
        self.writers = []

    def run(self, change):
        """Carries one out; none where it does not apply to the tree as it is."""
        door, name, key, other, size, seed = change
        if door == "s3":
            return getattr(self, f"s3_{name}")(key, other, size, seed)
        return self.posix(door, f"posix_{name}", key, other, size, seed)

    def posix(self, door, method, key, other, size, seed):
        """A system call that the model refuses must fail with the same error and change nothing."""
        try:
            touched = getattr(self, method)(door, key, other, size, seed)
        except Refused as refused:
            expected = refused.numbers
            try:
                getattr(self, method)(door, key, other, size, seed, refused=True)
            except OSError as error:
                assert error.errno in expected, f"{error!r} where the model says {refused}"
                return [key] if isinstance(key, str) else []
            raise AssertionError(f"no error where the model says {refused}") from None
        return touched

    def names_of(self, inode):
        """Every key of an inode."""
        return [key for key, one in self.model.objects().items() if one is inode]

    def is_held(self, inode):
        """Whether it is open for writing through the mount."""
        return any(writer.inode is inode for writer in self.writers)

    # S3.

    def s3_put(self, key, _other, size, seed, **headers):
        meta = {"m": str(seed)} if seed % 3 == 0 else {}
        lines = {META + name: value for name, value in meta.items()} | headers
        answer = self.wire.ask("PUT", key, blob(size, seed), headers=lines)
        if answer.status == 412 and headers:
            return None
        assert answer.status == 200, answer.body
        self.model.put(key, Inode(blob(size, seed), meta))
        return [key]

    def s3_put_new(self, key, other, size, seed):
        is_there = key in self.model.objects()
        touched = self.s3_put(key, other, size, seed, **{"if-none-match": "*"})
        assert (touched is None) == is_there, f"If-None-Match: * on {key}, which is {'' if is_there else 'not '}there"
        return touched

    def s3_put_match(self, key, other, size, seed):
        if key not in self.model.objects():
            return None
        tag = self.wire.ask("HEAD", key).headers["etag"]
        touched = self.s3_put(key, other, size, seed, **{"if-match": tag})
        assert touched, f"If-Match: {tag} of {key} did not match"
        return touched

    def s3_multipart(self, key, _other, size, seed):
        answer = self.wire.ask("POST", key, query={"uploads": ""})
        upload = answer.body.split(b"<UploadId>")[1].split(b"</UploadId>")[0].decode()
        parts = [blob(5 << 20, seed), blob(size, seed + 1)] if seed % 20 == 0 else [blob(size, seed)]
        rows = ""
        for number, part in enumerate(parts, 1):
            sent = self.wire.ask("PUT", key, part, query={"partNumber": str(number), "uploadId": upload})
            rows += f"<Part><PartNumber>{number}</PartNumber><ETag>{sent.headers['etag']}</ETag></Part>"
        body = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
        answer = self.wire.ask("POST", key, body, query={"uploadId": upload})
        assert answer.status == 200 and b"<Error>" not in answer.body, answer.body
        self.model.put(key, Inode(b"".join(parts), tag=multipart_etag(parts)))
        return [key]

    def s3_copy(self, key, other, _size, _seed):
        source = self.model.objects().get(other)
        if source is None or other == key:
            return None
        answer = self.wire.ask("PUT", key, headers={"x-amz-copy-source": quote(f"/{self.wire.bucket}/{other}")})
        assert answer.status == 200 and b"<Error>" not in answer.body, answer.body
        self.model.put(key, Inode(source.data, source.meta))
        return [key]

    def s3_delete(self, key, _other, _size, _seed):
        assert self.wire.ask("DELETE", key).status == 204
        self.model.delete(key)
        return [key]

    def s3_delete_many(self, keys, _other, _size, _seed):
        rows = "".join(f"<Object><Key>{key}</Key></Object>" for key in keys)
        answer = self.wire.ask(
            "POST", body=f"<Delete>{rows}</Delete>".encode(), query={"delete": ""}, headers=md5_of(rows)
        )
        assert answer.status == 200 and b"<Error>" not in answer.body, answer.body
        for key in keys:
            self.model.delete(key)
        return list(keys)

    # POSIX, through the mount or on the plain directory.

    def posix_create(self, door, path, _other, size, seed, refused=False):
        if not refused:
            self.model.create(path, blob(size, seed))
        file = os.open(self.roots[door] / path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
        write_all(file, blob(size, seed))
        os.close(file)
        return self.names_of(self.model.files[path])

    def posix_replace(self, door, path, _other, size, seed, refused=False):
        """What rsync does behind our back: a new file moved into place."""
        if not refused:
            self.model.walk(path)
            if path in self.model.dirs:
                return None
            self.model.files[path] = Inode(blob(size, seed))
        self.spare.write_bytes(blob(size, seed))
        os.rename(self.spare, self.roots[door] / path)
        return [path]

    def edit(self, door, path, refused, change, flags=os.O_RDWR):
        """Opens a file, lets `change` write to it, closes it."""
        inode = None if refused else self.model.file(path)
        file = os.open(self.roots[door] / path, flags)
        change(file, inode)
        os.close(file)
        return self.names_of(inode)

    def posix_write(self, door, path, _other, size, seed, refused=False):
        def change(file, inode):
            offset = seed % (len(inode.data) + 10)
            os.pwrite(file, blob(size, seed), offset)
            overlay(inode, offset, blob(size, seed))

        return self.edit(door, path, refused, change)

    def posix_append(self, door, path, _other, size, seed, refused=False):
        def change(file, inode):
            os.write(file, blob(size, seed))
            inode.write(inode.data + blob(size, seed))

        return self.edit(door, path, refused, change, os.O_WRONLY | os.O_APPEND)

    def posix_edit(self, door, path, _other, _size, seed, refused=False):
        """In place, of the same length, with the modification time put back: as well hidden as can be."""

        def change(file, inode):
            before = os.fstat(file)
            data = blob(len(inode.data), seed)
            os.pwrite(file, data, 0)
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
            if data:
                inode.write(data)

        return self.edit(door, path, refused, change)

    def posix_truncate(self, door, path, _other, size, seed, refused=False):
        inode = None if refused else self.model.file(path)
        if inode and any(writer.inode is inode and writer.map for writer in self.writers):
            return None  # a store beyond the end of a mapped file is SIGBUS, as it must be
        size += seed % 3
        os.truncate(self.roots[door] / path, size)
        if size != len(inode.data):
            inode.write(inode.data[:size].ljust(size, b"\0"))
        return self.names_of(inode)

    def posix_store(self, door, path, _other, size, seed, refused=False):
        """A store through a shared map."""
        if not refused and not self.model.file(path).data:
            return None

        def change(file, inode):
            with mmap.mmap(file, 0) as view:
                store(view, inode, size, seed)

        return self.edit(door, path, refused, change)

    def posix_open(self, door, path, _other, _size, _seed, refused=False):
        inode = None if refused else self.model.file(path)
        if len(self.writers) >= WRITERS and not refused:
            return None
        self.writers.append(Writer(self.roots[door], path, inode))
        return self.names_of(inode)

    def posix_poke(self, _door, _path, _other, size, seed):
        if not self.writers:
            return None
        writer = self.writers[seed % len(self.writers)]
        offset = seed % (len(writer.inode.data) + 10)
        os.pwrite(writer.file, blob(size, seed), offset)
        overlay(writer.inode, offset, blob(size, seed))
        return self.names_of(writer.inode)

    def posix_poke_map(self, _door, _path, _other, size, seed):
        mapped = [writer for writer in self.writers if writer.map]
        if not mapped:
            return None
        writer = mapped[seed % len(mapped)]
        store(writer.map, writer.inode, size, seed)
        return self.names_of(writer.inode)

    def posix_close(self, _door, _path, _other, _size, seed):
        if not self.writers:
            return None
        writer = self.writers.pop(seed % len(self.writers))
        writer.close()
        return self.names_of(writer.inode)

    def posix_unlink(self, door, path, _other, _size, _seed, refused=False):
        if not refused:
            self.model.unlink(path)
        os.unlink(self.roots[door] / path)
        return [path]

    def posix_link(self, door, path, other, _size, _seed, refused=False):
        if not refused:
            self.model.link(path, other)
        os.link(self.roots[door] / path, self.roots[door] / other)
        return [path, other]

    def posix_rename(self, door, path, other, _size, _seed, refused=False):
        if not refused:
            self.model.walk(path)
            if path in self.model.dirs:
                return None
            self.model.rename(path, other)
        os.rename(self.roots[door] / path, self.roots[door] / other)
        return [path, other]

    def posix_rename_folder(self, door, path, other, _size, _seed, refused=False):
        if not refused:
            self.model.walk(path)
            if path not in self.model.dirs or any(map(self.model.has_shelter_at_or_below, (path, other))):
                return None
            moving = [key for key in self.model.files if key.startswith(path + "/")]
            self.model.rename(path, other)
        os.rename(self.roots[door] / path, self.roots[door] / other)
        return [path, other, *moving, *(other + key[len(path) :] for key in moving)]

    def posix_mkdir(self, door, path, _other, _size, _seed, refused=False):
        if not refused:
            self.model.mkdir(path)
        os.mkdir(self.roots[door] / path)
        return [path]

    def posix_rmdir(self, door, path, _other, _size, _seed, refused=False):
        if not refused:
            if door == "brick" and path in self.model.sheltered:
                return None  # nobody is there to bring it back
            self.model.rmdir(path)
        os.rmdir(self.roots[door] / path)
        return [path]

    def posix_chmod(self, door, path, _other, _size, seed, refused=False):
        if not refused:
            if path in self.model.dirs:
                return None  # directories have modes and times too
            self.model.file(path)
        os.chmod(self.roots[door] / path, 0o600 + seed % 64)
        return self.names_of(self.model.files[path])

    def posix_utime(self, door, path, _other, _size, seed, refused=False):
        if not refused:
            if path in self.model.dirs:
                return None  # directories have modes and times too
            self.model.file(path)
        os.utime(self.roots[door] / path, ns=(seed * 10**9, (10**9 + seed % 10**8) * 10**9 + seed))
        return self.names_of(self.model.files[path])

    def posix_meta(self, door, path, _other, _size, seed, refused=False):
        if path in self.model.dirs:
            return None
        inode = None if refused else self.model.file(path)
        os.setxattr(self.roots[door] / path, "user.s3.meta.m", str(seed).encode())
        inode.meta["m"] = str(seed)
        return self.names_of(inode)

    def close(self):
        """Lets every file go."""
        while self.writers:
            self.writers.pop().close()


def write_all(file, data):
    """As write(2) may take less than all."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def overlay(inode, offset, data):
    """What pwrite(2) makes of the bytes."""
    if data:
        old = inode.data.ljust(offset, b"\0")
        inode.write(old[:offset] + data + old[offset + len(data) :])


def store(view, inode, size, seed):
    """Stores into a map, and into the model's bytes."""
    offset = seed % len(view)
    data = blob(max(min(size, len(view) - offset, len(inode.data) - offset), 0), seed)  # not beyond the end: SIGBUS
    if data:
        view[offset : offset + len(data)] = data
        overlay(inode, offset, data)


def md5_of(rows):
    """Content-MD5 of a batch delete."""
    return {"content-md5": base64.b64encode(hashlib.md5(f"<Delete>{rows}</Delete>".encode()).digest()).decode()}


def neighbours(keys):
    """The keys and the directories above them, up to the bucket."""
    found = set()
    for key in keys:
        path = key
        while path:
            found.add(path)
            path = parent(path)
    return found
