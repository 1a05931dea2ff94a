"""Changes behind portico's back that only the kernel can have told of: no look at the whole tree comes in time."""

import os
import re
import shutil
import uuid

import pytest

from harness import clients
from harness.data import MIB, blob, md5
from harness.tree import listed
from harness.wait import until

pytestmark = [
    pytest.mark.tree,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: the kernel tells nobody else of changes"),
]
LEVEL = '[log]\nlevel = "info,portico::access=warn,fsstore::brick::watch=debug"\n'
CONFIG = f'scan_interval = "1h"\nhash = "never"\n{LEVEL}'
MANY = 20_000
TOLD = "the kernel tells of changes"


def reindexed(server):
    """How many keys the watch has found wrong so far."""
    log = re.sub(r"\x1b\[[0-9;]*m", "", server.log_path.read_text(errors="replace"))
    return sum(int(keys) for keys in re.findall(r"changed behind our back keys=(\d+)", log))


@pytest.fixture(scope="module")
def tree(server):
    """A bucket that holds many files already, and that the first look at the whole tree is through with."""
    if TOLD not in server.log():
        pytest.skip("this kernel or file system does not tell of changes")
    s3 = clients.boto(server)
    s3.create_bucket(Bucket="large")
    for n in range(MANY):
        if n % 1000 == 0:
            server.path("large", f"d{n // 1000:02}").mkdir()
        server.path("large", f"d{n // 1000:02}/f{n:05}").write_bytes(b"%d" % n)
    until("all of them are listed", lambda: len(listed(s3, "large")) == MANY, patience_s=120)
    return "large"


@pytest.fixture
def here(tree):
    """A prefix of the test's own in the large bucket."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def shown(s3, tree, here):
    """The keys below the prefix, with their lengths."""

    def of():
        return {key: entry["Size"] for key, entry in listed(s3, tree, here).items()}

    return of


def keys_below(prefix, *names):
    return {f"{prefix}/{name}" for name in names}


def test_create_rename_and_remove(server, tree, here, shown):
    folder = server.path(tree, here)
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    (folder / "below/further").mkdir(parents=True)
    (folder / "below/further/b").write_bytes(b"2")
    os.symlink("a", folder / "link")
    os.link(folder / "a", folder / "second-name")
    everything = keys_below(here, "a", "below/further/b", "link", "second-name")
    until("new files are listed", lambda: set(shown()) == everything)
    (folder / "a").rename(folder / "renamed")
    until("the new name is listed", lambda: f"{here}/renamed" in shown())
    assert f"{here}/a" not in shown()
    (folder / "c").write_bytes(b"333")
    (folder / "c").replace(folder / "renamed")
    until("what replaced it is listed", lambda: shown().get(f"{here}/renamed") == 3)
    shutil.rmtree(folder)
    until("nothing is listed", lambda: not shown())


def test_edits_are_listed_and_hashed(new_server):
    server = new_server(config=f'scan_interval = "1h"\n{LEVEL}').start()
    s3 = clients.boto(server)
    s3.create_bucket(Bucket="first")
    here, folder = "dir", server.path("first", "dir")
    folder.mkdir()

    def shown():
        return {key: entry["ETag"].strip('"') for key, entry in listed(s3, "first").items()}

    (folder / "k").write_bytes(blob(1000, 1))
    until("it is hashed", lambda: shown().get(f"{here}/k") == md5(blob(1000, 1)))
    before = (folder / "k").stat()
    with open(folder / "k", "r+b") as file:
        file.write(blob(1000, 2))
    os.utime(folder / "k", ns=(before.st_atime_ns, before.st_mtime_ns))
    until("it is hashed again", lambda: shown().get(f"{here}/k") == md5(blob(1000, 2)))
    os.truncate(folder / "k", 10)
    until("the cut is hashed", lambda: shown().get(f"{here}/k") == md5(blob(1000, 2)[:10]))


def test_directory_moved_in_renamed_and_moved_out(server, tree, here, shown):
    outside = server.data_dir / f"outside-{here}"
    (outside / "x/y").mkdir(parents=True)
    names = [f"x/y/f{n}" for n in range(500)]
    for name in names:
        (outside / name).write_bytes(b"moved")
    outside.rename(server.path(tree, here))
    until("what was moved in is listed", lambda: set(shown()) == keys_below(here, *names))
    server.path(tree, f"{here}/x").rename(server.path(tree, f"{here}/z"))
    renamed = keys_below(here, *(name.replace("x/", "z/", 1) for name in names))
    until("it is listed at its new name", lambda: set(shown()) == renamed)
    (server.path(tree, f"{here}/z") / "later").write_bytes(b"1")
    until("a file in the moved one is listed", lambda: set(shown()) == renamed | {f"{here}/z/later"})
    server.path(tree, here).rename(outside)
    until("what was moved out is not listed", lambda: not shown())
    shutil.rmtree(outside)


def test_burst(server, tree, here, shown):
    folder = server.path(tree, here)
    folder.mkdir()
    for n in range(MANY):
        (folder / f"f{n}").write_bytes(b"x")
    until("all are listed", lambda: len(shown()) == MANY, patience_s=60)
    shutil.rmtree(folder)
    until("none is listed", lambda: not shown(), patience_s=60)


def test_file_and_directory_take_turns(server, tree, here, shown):
    path = server.path(tree, here)
    path.write_bytes(b"file")
    until("the file is listed", lambda: set(shown()) == {here})
    path.unlink()
    path.mkdir()
    (path / "k").write_bytes(b"1")
    until("what is in the directory is listed", lambda: set(shown()) == {f"{here}/k"})
    shutil.rmtree(path)
    path.write_bytes(b"file again")
    until("the file is listed again", lambda: set(shown()) == {here})


def test_buckets_come_and_go(server, s3, tree):
    name, other = (f"b-{uuid.uuid4().hex[:12]}" for _ in range(2))
    server.path(name).mkdir()
    server.path(name, "k").write_bytes(b"1")

    def keys(bucket):
        try:
            return set(listed(s3, bucket))
        except s3.exceptions.NoSuchBucket:
            return None

    until("the bucket is listed", lambda: keys(name) == {"k"})
    server.path(name).rename(server.path(other))
    until("its new name is listed", lambda: (keys(name), keys(other)) == (None, {"k"}))
    server.path(name).mkdir()
    until("another one of its name is empty", lambda: keys(name) == set())
    shutil.rmtree(server.path(other))
    until("it is gone", lambda: keys(other) is None)


def test_own_changes_are_not_taken_for_others(server, s3, tree, here, shown):
    shown_before = len(listed(s3, tree))
    until("earlier changes are looked at", lambda: len(listed(s3, tree)) == shown_before)
    server.path(tree, f"{here}-first").write_bytes(b"1")
    until("the first is listed", lambda: f"{here}-first" in shown())
    before = reindexed(server)
    assert before > 0
    for n in range(300):
        s3.put_object(Bucket=tree, Key=f"{here}/{n % 100}/k", Body=blob(n % 7 * 50_000))
    s3.copy_object(Bucket=tree, Key=f"{here}/copy", CopySource={"Bucket": tree, "Key": f"{here}/1/k"})
    upload = s3.create_multipart_upload(Bucket=tree, Key=f"{here}/parts")["UploadId"]
    parts = []
    for number, body in enumerate([blob(5 * MIB), b"end"], 1):
        part = s3.upload_part(Bucket=tree, Key=f"{here}/parts", UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    s3.complete_multipart_upload(Bucket=tree, Key=f"{here}/parts", UploadId=upload, MultipartUpload={"Parts": parts})
    for n in range(100):
        s3.delete_object(Bucket=tree, Key=f"{here}/{n}/k")
    server.path(tree, f"{here}-last").write_bytes(b"1")
    until("the last is listed", lambda: f"{here}-last" in shown())
    # One file made by another hand is looked at once for each of its few events, and nothing else is.
    assert reindexed(server) - before <= 4


def test_names_behind_a_symbolic_link_are_still_found(new_server):
    server = new_server(config='scan_interval = "1s"\n').start()
    s3 = clients.boto(server)
    for bucket in ("one", "two"):
        s3.create_bucket(Bucket=bucket)
    server.path("one", "real").mkdir()
    os.symlink("../one/real", server.path("two", "linked"))
    server.path("one", "real/k").write_bytes(b"1")
    until("it is listed at its own name", lambda: "real/k" in listed(s3, "one"))
    until("it is listed behind the link", lambda: "linked/k" in listed(s3, "two"))
    server.path("one", "real/later").write_bytes(b"1")
    until("a later one as well", lambda: "linked/later" in listed(s3, "two"))


def test_scans_go_on_where_the_kernel_tells_too_little(new_server):
    if not shutil.which("setpriv"):
        pytest.skip("no setpriv (util-linux)")
    less = ["setpriv", "--bounding-set", "-dac_read_search", "--inh-caps", "-dac_read_search"]
    server = new_server(config='scan_interval = "1s"\n', wrap=less).start()
    s3 = clients.boto(server)
    s3.create_bucket(Bucket="first")
    for name in ("one", "two"):
        server.path("first", name).write_bytes(b"1")
        until("a scan finds it", lambda: name in listed(s3, "first"))
    assert "scans go on" in server.log()


def mounted(new_server, mountpoint, **config):
    """A started server that mounts its tree itself."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse")
    mountpoint.mkdir()
    lines = "".join(f"{key} = {value}\n" for key, value in config.items())
    server = new_server(config=f'scan_interval = "1h"\n{lines}', args=["--mount", str(mountpoint)]).start()
    until("it is mounted", mountpoint.is_mount)
    return server


@pytest.mark.parametrize("watch", ["true", "false"])
def test_mount_forgets_what_changed_behind_our_back(new_server, tmp_path, watch):
    mountpoint = tmp_path / "mountpoint"
    server = mounted(new_server, mountpoint, watch=watch)
    clients.boto(server).create_bucket(Bucket="first")
    brick, mount = server.path("first"), mountpoint / "first"
    (brick / "dir/below").mkdir(parents=True)
    (brick / "k").write_bytes(b"1")

    def seen():
        absent = [name for name in ("later", "made", "fifo") if not (mount / name).exists()]
        modes = [oct(path.stat().st_mode & 0o777) for path in (mountpoint, mount / "dir", mount / "k")]
        return absent, modes, (mount / "k").stat().st_size, (mount / "dir/below").exists()

    root_mode = oct(server.volume_dir.stat().st_mode & 0o777)
    before = (["later", "made", "fifo"], [root_mode, "0o755", "0o644"], 1, True)
    until("the mount shows what is there", lambda: seen() == before)
    (brick / "later").write_bytes(b"1")
    (brick / "made").mkdir()
    os.mkfifo(brick / "fifo")
    (brick / "dir/below").rmdir()
    (brick / "dir").chmod(0o700)
    (brick / "k").write_bytes(b"12345")
    (brick / "k").chmod(0o600)
    server.volume_dir.chmod(0o711)
    until("all of it is seen", lambda: seen() == ([], ["0o711", "0o700", "0o600"], 5, False))


def test_scans_alone_find_changes_where_the_kernel_is_not_asked(new_server):
    server = new_server(config='scan_interval = "1s"\nwatch = false\n').start()
    s3 = clients.boto(server)
    s3.create_bucket(Bucket="first")
    server.path("first", "dir").mkdir()
    server.path("first", "dir/k").write_bytes(b"1")
    until("a scan finds it", lambda: "dir/k" in listed(s3, "first"))
    assert TOLD not in server.log()
