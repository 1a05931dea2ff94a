"""What the tree must be: SEMANTICS.md as a few dictionaries. Knows no door."""

import errno
import hashlib


class Refused(Exception):
    """What a change must be answered with: error numbers of POSIX, any of them."""

    def __init__(self, *numbers):
        super().__init__(" or ".join(errno.errorcode[number] for number in numbers))
        self.numbers = numbers


class Inode:
    """A file's bytes and what belongs to them. Two names of one inode are a hard link."""

    def __init__(self, data, meta=None, tag=None):
        self.data, self.meta, self.tag = data, dict(meta or {}), tag

    def write(self, data):
        """Other bytes: a tag that was of the old ones is not kept."""
        if data != self.data:
            self.data, self.tag = data, None

    def tags(self):
        """The ETags that are true of it, besides provisional ones. The MD5 takes the place of a multipart tag once
        the bytes were in doubt."""
        return {hashlib.md5(self.data).hexdigest(), self.tag} - {None}


def parent(path):
    """The directory of a path; "" is the bucket."""
    return path.rpartition("/")[0]


def ancestors(path):
    """The directories above a path, outermost first, without the bucket."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: number + 1]) for number in range(len(parts))]


class Model:
    """One bucket."""

    def __init__(self):
        self.files = {}  # path: Inode
        self.sheltered = {}  # key: Inode; objects whose path is a directory
        self.dirs = {}  # path: whether only keys made it

    # What the doors show.

    def objects(self):
        """Every key."""
        return {**self.files, **self.sheltered}

    def children(self, folder):
        """The names in a directory."""
        return {path.rpartition("/")[2] for path in (*self.files, *self.dirs) if parent(path) == folder}

    def page(self, prefix, delimiter):
        """Keys and common prefixes of a listing."""
        keys, prefixes = set(), set()
        for key in self.objects():
            if key.startswith(prefix):
                rest = key[len(prefix) :]
                if delimiter and delimiter in rest:
                    prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
                else:
                    keys.add(key)
        return keys, prefixes

    # S3.

    def put(self, key, inode):
        """PUT, Complete or Copy."""
        for folder in ancestors(key):
            if folder in self.files:
                self.sheltered[folder] = self.files.pop(folder)
            self.dirs.setdefault(folder, True)
        if key in self.dirs:
            self.sheltered[key] = inode
        else:
            self.files[key] = inode

    def delete(self, key):
        """DELETE: a directory that only keys made goes with its last one, also where that went another way."""
        if self.sheltered.pop(key, None):
            return
        self.files.pop(key, None)
        for folder in reversed(ancestors(key)):
            if not self.dirs.get(folder) or self.children(folder):
                return
            if self.leave(folder):
                return

    def leave(self, folder):
        """Removes a directory; true where an object comes back to its place."""
        del self.dirs[folder]
        if folder in self.sheltered:
            self.files[folder] = self.sheltered.pop(folder)
            return True
        return False

    # POSIX.

    def walk(self, path):
        """The way to a path leads through directories."""
        for folder in ancestors(path):
            if folder in self.files:
                raise Refused(errno.ENOTDIR)
            if folder not in self.dirs:
                raise Refused(errno.ENOENT)

    def file(self, path):
        """The regular file at a path."""
        self.walk(path)
        if path in self.dirs:
            raise Refused(errno.EISDIR)
        if path not in self.files:
            raise Refused(errno.ENOENT)
        return self.files[path]

    def free(self, path):
        """Nothing stands at a path."""
        self.walk(path)
        if path in self.dirs or path in self.files:
            raise Refused(errno.EEXIST)

    def create(self, path, data):
        """open(O_CREAT | O_TRUNC) and write: in place where it is there."""
        self.walk(path)
        if path in self.dirs:
            raise Refused(errno.EISDIR)
        if path in self.files:
            self.files[path].write(data)
        else:
            self.files[path] = Inode(data)

    def mkdir(self, path):
        """mkdir(2)."""
        self.free(path)
        self.dirs[path] = False

    def rmdir(self, path):
        """rmdir(2): the object that its directory kept from its place comes back."""
        self.walk(path)
        if path in self.files:
            raise Refused(errno.ENOTDIR)
        if path not in self.dirs:
            raise Refused(errno.ENOENT)
        if self.children(path):
            raise Refused(errno.ENOTEMPTY)
        self.leave(path)

    def unlink(self, path):
        """unlink(2)."""
        self.file(path)
        del self.files[path]

    def link(self, path, to):
        """link(2)."""
        self.walk(path)
        if path not in self.dirs and path not in self.files:
            raise Refused(errno.ENOENT)
        self.free(to)
        if path in self.dirs:
            raise Refused(errno.EPERM)
        self.files[to] = self.files[path]

    def rename(self, path, to):
        """rename(2) of a file or a directory."""
        self.walk(path)
        self.walk(to)
        if path in self.dirs:
            self.rename_folder(path, to)
            return
        if to.startswith(path + "/"):
            raise Refused(errno.ENOTDIR)
        inode = self.file(path)
        if to in self.dirs:
            raise Refused(errno.EISDIR, errno.ENOTEMPTY)
        if self.files.get(to) is inode:
            return
        del self.files[path]
        self.files[to] = inode

    def rename_folder(self, path, to):
        """Everything below goes along in one step."""
        if to == path:
            return
        if to.startswith(path + "/"):
            raise Refused(errno.EINVAL)
        if to in self.files:
            raise Refused(errno.ENOTDIR)
        if path.startswith(to + "/") or (to in self.dirs and self.children(to)):
            raise Refused(errno.ENOTEMPTY, errno.EEXIST)
        for table in (self.files, self.dirs):
            for old in [old for old in table if old == path or old.startswith(path + "/")]:
                table[to + old[len(path) :]] = table.pop(old)

    def has_shelter_at_or_below(self, path):
        """Objects that do not go along when a directory moves."""
        return any(key == path or key.startswith(path + "/") for key in self.sheltered)
