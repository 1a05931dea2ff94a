"""Programs that people run on a file system, on the mount."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from harness import fuse
from harness.data import KIB, blob, read_tree, sample_tree, write_tree
from harness.process import plain_env, run
from harness.tree import listed

pytestmark = pytest.mark.tree
GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


@pytest.fixture
def git(tmp_path):
    """git without the caller's settings."""
    fuse.need("git")
    env = plain_env(tmp_path, **GIT)
    return lambda *words, cwd: run(["git", *words], cwd=cwd, env=env).stdout.decode()


@pytest.fixture
def plain(server):
    """An empty directory on the same disk, beside the tree."""
    path = server.data_dir.parent / "plain"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def commit_some(git, repo):
    """A repository with a history, and a merge in it."""
    git("init", "-q", "-b", "main", ".", cwd=repo)
    for number in range(12):
        write_tree(
            repo, {f"d{number % 3}/{number}.txt": blob(3 * KIB, number).hex().encode(), "readme": b"%d" % number}
        )
        git("add", "-A", cwd=repo)
        git("commit", "-q", "-m", f"step {number}", cwd=repo)
    git("checkout", "-q", "-b", "side", "HEAD~3", cwd=repo)
    write_tree(repo, {"side": b"side"})
    git("add", "-A", cwd=repo)
    git("commit", "-q", "-m", "side", cwd=repo)
    git("checkout", "-q", "main", cwd=repo)
    git("merge", "-q", "-m", "merge", "side", cwd=repo)


def test_git_clone_work_and_fsck(git, place, plain, tmp_path):
    commit_some(git, plain)
    git("clone", "-q", "--no-local", str(plain), "clone", cwd=place)
    clone = place / "clone"
    assert git("fsck", "--full", "--strict", cwd=clone) == ""
    assert git("rev-parse", "HEAD", cwd=clone) == git("rev-parse", "HEAD", cwd=plain)
    assert git("status", "--porcelain", cwd=clone) == ""
    (clone / "readme").write_text("changed\n")
    (clone / "new").write_text("new\n")
    assert git("status", "--porcelain", cwd=clone).split() == ["M", "readme", "??", "new"]
    git("add", "-A", cwd=clone)
    git("commit", "-q", "-m", "on the mount", cwd=clone)
    git("gc", "-q", "--prune=now", cwd=clone)
    git("push", "-q", "origin", "main:pushed", cwd=clone)
    assert git("fsck", "--full", "--strict", cwd=clone) == ""
    git("clone", "-q", str(clone), str(tmp_path / "back"), cwd=tmp_path)
    assert git("rev-parse", "HEAD", cwd=tmp_path / "back") == git("rev-parse", "pushed", cwd=plain)


def test_git_repository_made_on_the_mount(git, place):
    repo = place / "repo"
    repo.mkdir()
    commit_some(git, repo)
    git("clone", "-q", str(repo), str(place / "second"), cwd=place)
    assert git("fsck", "--full", "--strict", cwd=place / "second") == ""
    git("worktree", "add", "-q", str(place / "tree"), "side", cwd=repo)
    assert git("status", "--porcelain", cwd=place / "tree") == ""


def c_project(root, units):
    """A program of many small files that all need one header."""
    sources = {
        "all.h": "#define ONE 1\n" + "".join(f"int f{number}(void);\n" for number in range(units)),
        "main.c": '#include <stdio.h>\n#include "all.h"\nint main(void){printf("%d\\n", '
        + "+".join(f"f{number}()" for number in range(units))
        + ");return 0;}\n",
        "Makefile": "OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\nprogram: $(OBJECTS)\n\t$(CC) -o $@ $^\n"
        "%.o: %.c all.h\n\t$(CC) -c -o $@ $<\n",
    }
    sources |= {f"f{number}.c": f'#include "all.h"\nint f{number}(void){{return ONE;}}\n' for number in range(units)}
    write_tree(root, {name: text.encode() for name, text in sources.items()})


def test_make_builds_and_knows_what_is_new(place, s3, bucket):
    fuse.need("make", "cc")
    root = place / "project"
    c_project(root, 30)
    run(["make", "-j2"], cwd=root)
    assert run([root / "program"]).stdout == b"30\n"
    run(["make", "-q"], cwd=root)
    (root / "all.h").write_text((root / "all.h").read_text().replace("ONE 1", "ONE 2"))
    run(["make", "-q"], cwd=root, ok=(1,))
    run(["make", "-j2"], cwd=root)
    assert run([root / "program"]).stdout == b"60\n"
    program = s3.get_object(Bucket=bucket, Key="project/program")["Body"].read()
    assert program == (root / "program").read_bytes()


SQLITE_WRITER = """
import sqlite3, sys
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
base = sqlite3.connect(path, timeout=60, isolation_level=None)
base.execute("PRAGMA busy_timeout=60000")
for number in range(count):
    base.execute("BEGIN IMMEDIATE")
    total = base.execute("SELECT count(*) FROM t").fetchone()[0]
    base.execute("INSERT INTO t VALUES (?, ?, ?)", (name, number, total))
    base.execute("COMMIT")
base.close()
"""


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_sqlite_with_two_processes(place, journal):
    path = place / "base.sqlite"
    base = sqlite3.connect(path, timeout=60, isolation_level=None)
    assert base.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
    base.execute("CREATE TABLE t (writer TEXT, number INTEGER, total INTEGER UNIQUE)")
    count = 300 if journal == "wal" else 60
    writers = [subprocess.Popen([sys.executable, "-c", SQLITE_WRITER, path, name, str(count)]) for name in "ab"]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        now = base.execute("SELECT count(*) FROM t").fetchone()[0]
        assert now >= seen
        seen = now
    assert [writer.wait(60) for writer in writers] == [0, 0]
    rows = base.execute("SELECT total FROM t ORDER BY total").fetchall()
    assert rows == [(number,) for number in range(2 * count)]
    assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    base.close()
    again = sqlite3.connect(path)
    assert again.execute("SELECT count(*) FROM t").fetchone() == (2 * count,)
    again.close()


def rich_tree(root):
    """Files with everything that archivers carry: links, xattrs, ACLs, holes, modes, times, owners."""
    write_tree(root, sample_tree())
    os.link(root / "readme.txt", root / "hard")
    os.symlink("readme.txt", root / "soft")
    os.symlink("nowhere/at/all", root / "dangling")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "readme.txt", "user.color", b"blue\0binary\xff")
    os.setxattr(root / "photos", "user.of-directory", b"1")
    os.chmod(root / "readme.txt", 0o4751)
    os.chmod(root / "photos", 0o2755)
    os.chmod(root / "empty", 0o600)
    with open(root / "sparse", "wb") as file:
        file.write(b"start")
        file.truncate(8 << 20)
        file.seek(6 << 20)
        file.write(b"middle")
    os.utime(root / "readme.txt", ns=(1_600_000_000_111_222_333, 1_500_000_000_123_456_789))
    os.utime(root / "photos", ns=(1_600_000_000_111_222_333, 1_400_000_000_123_456_789))
    if os.geteuid() == 0:
        os.chown(root / "empty", 1234, 4321)
    if shutil.which("setfacl"):
        run(["setfacl", "-m", "u:1:rwx,g:2:r-x", root / "photos" / "2025" / "100%.png"])
        run(["setfacl", "-d", "-m", "u:1:rwx,g:2:r-x", root / "notes"])


def facts(root):
    """What of a tree must survive a copy."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in folders + names:
            path = Path(folder, name)
            stat = path.lstat()
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in user_xattrs(path)}
            is_plain = path.is_file() and not path.is_symlink()
            times, size = (stat.st_mtime_ns, stat.st_size) if is_plain else (None, None)
            found[str(path.relative_to(root))] = (stat.st_mode, stat.st_uid, stat.st_gid, size, times, xattrs)
    return found


def user_xattrs(path):
    """The names of the xattrs that are the application's."""
    return sorted(name for name in os.listxattr(path, follow_symlinks=False) if name != "user.portico")


def regular_files(root):
    """Contents of the regular files, links not followed."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                found[str(path.relative_to(root))] = path.read_bytes()
    return found


def same(one, two):
    """Both trees have the same facts, bytes and hard links."""
    assert facts(one) == facts(two)
    assert regular_files(one) == regular_files(two)
    for root in (one, two):
        assert os.stat(root / "hard").st_ino == os.stat(root / "readme.txt").st_ino
        assert os.readlink(root / "dangling") == "nowhere/at/all"


@pytest.fixture
def rich(plain):
    root = plain / "rich"
    rich_tree(root)
    return root


def test_tar_there_and_back(rich, place, plain):
    options = ["--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--numeric-owner"]
    run(["tar", *options, "-C", rich, "-cf", plain / "there.tar", "."])
    (place / "x").mkdir()
    run(["tar", *options, "-C", place / "x", "-xpf", plain / "there.tar"])
    same(rich, place / "x")
    run(["tar", *options, "-C", place / "x", "-cf", plain / "back.tar", "."])
    (plain / "back").mkdir()
    run(["tar", *options, "-C", plain / "back", "-xpf", plain / "back.tar"])
    same(rich, plain / "back")


def test_rsync_there_and_back(rich, place, plain):
    fuse.need("rsync")
    run(["rsync", "-aHAXS", f"{rich}/", f"{place}/x/"])
    same(rich, place / "x")
    assert run(["rsync", "-aHAXSnic", "--delete", f"{rich}/", f"{place}/x/"]).stdout == b""
    run(["rsync", "-aHAXS", f"{place}/x/", f"{plain}/back/"])
    same(rich, plain / "back")
    (rich / "readme.txt").write_bytes(b"HELLO\n")
    (rich / "empty").unlink()
    run(["rsync", "-aHAXS", "--delete", "--inplace", f"{rich}/", f"{place}/x/"])
    same_files = regular_files(rich)
    assert regular_files(place / "x") == same_files


def test_cp_there_and_back(rich, place, plain):
    run(["cp", "-a", "--reflink=auto", "--sparse=auto", rich, place / "x"])
    same(rich, place / "x")
    run(["cp", "-a", "--reflink=auto", place / "x", place / "y"])
    same(rich, place / "y")
    run(["cp", "-a", place / "y", plain / "back"])
    same(rich, plain / "back")


def test_mv_from_another_file_system_and_within(rich, place, tmp_path):
    before, contents = facts(rich), regular_files(rich)
    run(["mv", rich, place / "x"])
    run(["mv", place / "x", place / "y"])
    assert (facts(place / "y"), regular_files(place / "y")) == (before, contents)
    run(["mv", place / "y", tmp_path / "z"])
    assert (facts(tmp_path / "z"), regular_files(tmp_path / "z")) == (before, contents)
    assert os.listdir(place) == []


def test_find_du_and_rm(place, s3, bucket):
    write_tree(place / "x", sample_tree())
    found = run(["find", ".", "-type", "f"], cwd=place / "x").stdout.decode().split("\n")
    assert {name[2:] for name in found if name} == set(sample_tree())
    assert int(run(["du", "-s", "--apparent-size", "-B1", place / "x"]).stdout.split()[0]) > 370 * KIB
    run(["rm", "-r", place / "x"])
    assert listed(s3, bucket) == {}
    assert read_tree(place) == {}


def test_dd_in_all_its_ways(place):
    data = blob(256 * KIB)
    for flags in ("direct", "sync", "dsync", "append", "nonblock"):
        path = place / flags
        run(["dd", f"of={path}", "bs=64k", f"oflag={flags}", "iflag=fullblock", "status=none"], stdin=data)
        assert path.read_bytes() == data
    run(["dd", f"if={place / 'sync'}", f"of={place / 'copy'}", "bs=64k", "iflag=direct", "conv=fsync", "status=none"])
    assert (place / "copy").read_bytes() == data


@pytest.mark.timeout(900)
def test_directory_of_many_files(place, s3, bucket):
    """PORTICO_COMPAT_MANY=1000000 is the size that is tried by hand."""
    count = int(os.environ.get("PORTICO_COMPAT_MANY", "20000"))
    folder = place / "many"
    folder.mkdir()
    for number in range(count):
        os.close(os.open(folder / f"{number:07}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    names = [f"{number:07}" for number in range(count)]
    assert sorted(os.listdir(folder)) == names
    with os.scandir(folder) as entries:
        assert sum(entry.stat().st_size == 0 and entry.is_file() for entry in entries) == count
    assert list(listed(s3, bucket, prefix="many/")) == [f"many/{name}" for name in names]
    with os.scandir(folder) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(folder) == []
    assert listed(s3, bucket) == {}
    folder.rmdir()
