"""The contract between the doors: what one acknowledged, the other shows with its next answer."""

import concurrent.futures
import errno
import os
import shutil
import stat
import threading
import time

import pytest
from botocore.exceptions import ClientError

from harness import clients, fuse
from harness.crossings.wire import Wire
from harness.data import KIB, MIB, blob, md5, multipart_etag, write_tree
from harness.process import run
from harness.tree import PROVISIONAL, assert_true_etag, listed, seen_by_all_doors
from harness.wait import until

pytestmark = pytest.mark.tree
CONFIG = 'scan_interval = "1s"\n'
OLD, NEW = blob(5000, "old"), blob(5000, "new")
BEHIND_S = 1.0


def absent(s3, bucket, key):
    """S3 has no such object, neither by its key nor in the listing."""
    with pytest.raises(ClientError, match="404"):
        s3.head_object(Bucket=bucket, Key=key)
    assert key not in listed(s3, bucket)


def etag(s3, bucket, key):
    """The tag of HEAD, without quotes."""
    return s3.head_object(Bucket=bucket, Key=key)["ETag"].strip('"')


def settled(s3, bucket, key, data):
    """The true MD5 arrives by itself, in HEAD and in the listing."""
    until("the digest is known", lambda: etag(s3, bucket, key) == md5(data))
    until("the listing has it", lambda: listed(s3, bucket)[key]["ETag"].strip('"') == md5(data))


# Bytes and names.


def test_file_written_through_the_mount_is_an_object_and_a_plain_file(place, s3, bucket, server):
    (place / "d").mkdir()
    (place / "d" / "k").write_bytes(OLD)
    seen_by_all_doors(s3, bucket, "d/k", OLD)
    assert server.path(bucket, "d/k").read_bytes() == OLD
    entry = listed(s3, bucket)["d/k"]
    assert entry["Size"] == len(OLD)
    assert int(entry["LastModified"].timestamp()) == int((place / "d" / "k").stat().st_mtime)


@pytest.mark.parametrize("key", ["a//b", "../up", "n" * 256, "trailing/"])
def test_key_that_is_no_path_is_unseen_by_the_mount(place, s3, bucket, key):
    (place / "k").write_bytes(b"k")
    s3.put_object(Bucket=bucket, Key=key, Body=b"" if key.endswith("/") else OLD)
    expected = ["k", "trailing"] if key == "trailing/" else ["k"]
    assert sorted(os.listdir(place)) == expected
    assert sorted(listed(s3, bucket)) == sorted(["k", key])
    s3.delete_object(Bucket=bucket, Key=key)
    assert os.listdir(place) == ["k"]


def test_the_mount_shows_the_directory_where_a_and_a_slash_b_exist(place, s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=OLD, Metadata={"m": "1"})
    assert (place / "a").read_bytes() == OLD
    s3.put_object(Bucket=bucket, Key="a/b", Body=NEW)
    assert (place / "a").is_dir()
    assert os.listdir(place / "a") == ["b"]
    assert (place / "a" / "b").read_bytes() == NEW
    assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == OLD
    s3.delete_object(Bucket=bucket, Key="a/b")
    assert (place / "a").is_file()
    assert (place / "a").read_bytes() == OLD
    got = s3.get_object(Bucket=bucket, Key="a")
    assert (got["Body"].read(), got["Metadata"]) == (OLD, {"m": "1"})


def test_rmdir_through_the_mount_brings_the_shorter_key_back(place, s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=OLD, Metadata={"m": "1"})
    s3.put_object(Bucket=bucket, Key="a/b/c", Body=NEW)
    (place / "a" / "b" / "c").unlink()
    assert list(listed(s3, bucket)) == ["a"]
    assert (place / "a" / "b").is_dir()
    (place / "a" / "b").rmdir()
    (place / "a").rmdir()
    assert (place / "a").read_bytes() == OLD
    got = s3.get_object(Bucket=bucket, Key="a")
    assert (got["Body"].read(), got["Metadata"]) == (OLD, {"m": "1"})
    assert list(listed(s3, bucket)) == ["a"]


def test_directory_made_through_the_mount_is_no_object_and_stays(place, s3, bucket):
    (place / "d" / "e").mkdir(parents=True)
    assert listed(s3, bucket) == {}
    (place / "d" / "e" / "k").write_bytes(b"k")
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [one["Prefix"] for one in page["CommonPrefixes"]] == ["d/"]
    s3.delete_object(Bucket=bucket, Key="d/e/k")
    assert (place / "d" / "e").is_dir()
    assert listed(s3, bucket) == {}


def test_directories_that_keys_made_go_with_the_last_key_and_the_mount_sees_it(place, s3, bucket):
    s3.put_object(Bucket=bucket, Key="d/e/k", Body=b"k")
    assert os.listdir(place / "d" / "e") == ["k"]
    s3.delete_object(Bucket=bucket, Key="d/e/k")
    assert os.listdir(place) == []
    assert not (place / "d").exists()


def test_deletes_through_the_mount_leave_the_directories(place, s3, bucket):
    s3.put_object(Bucket=bucket, Key="d/e/k", Body=b"k")
    (place / "d" / "e" / "k").unlink()
    assert (place / "d" / "e").is_dir()
    shutil.rmtree(place / "d")
    assert os.listdir(place) == []
    s3.put_object(Bucket=bucket, Key="d/e/k", Body=b"k")
    shutil.rmtree(place / "d")
    assert (os.listdir(place), listed(s3, bucket)) == ([], {})


def test_marker_made_by_s3_is_a_directory(place, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k/", Body=b"")
    assert (place / "k").is_dir()
    assert list(listed(s3, bucket)) == ["k/"]
    (place / "k").rmdir()
    assert listed(s3, bucket) == {}


def test_reserved_directory_is_out_of_reach_of_the_mount(mount, place, server):
    path = mount.point / ".portico"
    assert (server.volume_dir / ".portico").exists()
    assert not path.exists()
    assert ".portico" not in os.listdir(mount.point)
    (place / "k").write_bytes(b"k")
    for call in (
        os.mkdir,
        lambda path: os.open(path, os.O_CREAT | os.O_RDWR),
        lambda path: os.symlink("x", path),
        lambda path: os.rename(place / "k", path),
        lambda path: os.link(place / "k", path),
        lambda path: os.stat(path / "index"),
        os.listdir,
    ):
        with pytest.raises(OSError):
            call(path)
    assert os.listdir(place) == ["k"]


def test_buckets_are_made_and_removed_through_the_mount(mount, s3):
    name = "made-by-mkdir"
    (mount.point / name).mkdir()
    assert name in [one["Name"] for one in s3.list_buckets()["Buckets"]]
    (mount.point / name / "k").write_bytes(OLD)
    seen_by_all_doors(s3, name, "k", OLD)
    with pytest.raises(OSError) as error:
        (mount.point / name).rmdir()
    assert error.value.errno == errno.ENOTEMPTY
    (mount.point / name / "k").unlink()
    (mount.point / name).rmdir()
    with pytest.raises(ClientError, match="404"):
        s3.head_bucket(Bucket=name)
    s3.create_bucket(Bucket=name)
    assert os.listdir(mount.point / name) == []
    s3.delete_bucket(Bucket=name)
    assert not (mount.point / name).exists()


def test_name_that_no_bucket_may_have_is_refused_in_the_root(mount):
    with pytest.raises(OSError) as error:
        (mount.point / ".hidden").mkdir()
    assert error.value.errno == errno.EINVAL
    with pytest.raises(OSError):
        (mount.point / "file").write_bytes(b"x")
    assert "file" not in os.listdir(mount.point)


# Seeing each other.


def test_put_is_seen_through_the_mount_at_once(place, s3, bucket):
    """Whatever the kernel remembers: that the name was not there, the old size, the old pages."""
    path = place / "d" / "k"
    for number in range(60):
        assert not path.exists()
        data = blob(100 + number * 37, number)
        s3.put_object(Bucket=bucket, Key="d/k", Body=data)
        assert path.stat().st_size == len(data)
        assert path.read_bytes() == data
        assert os.listdir(place / "d") == ["k"]
        again = blob(100 + number * 37, f"again {number}")
        s3.put_object(Bucket=bucket, Key="d/k", Body=again)
        assert path.read_bytes() == again
        s3.delete_object(Bucket=bucket, Key="d/k")


def test_every_kind_of_s3_change_is_seen_through_the_mount_at_once(place, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=OLD)
    assert sorted(os.listdir(place)) == ["k"]
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k")
    assert sorted(os.listdir(place)) == ["copy", "k"]
    assert (place / "copy").read_bytes() == OLD
    at = {"Bucket": bucket, "Key": "parts"}
    at["UploadId"] = s3.create_multipart_upload(**at)["UploadId"]
    assert not (place / "parts").exists()
    part = s3.upload_part(**at, PartNumber=1, Body=NEW)
    assert not (place / "parts").exists()
    s3.complete_multipart_upload(**at, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    assert (place / "parts").read_bytes() == NEW
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}, {"Key": "copy"}]})
    assert os.listdir(place) == ["parts"]
    assert not (place / "k").exists()


def test_every_kind_of_mount_change_is_seen_by_s3_at_once(place, s3, bucket):
    path = place / "k"
    path.write_bytes(OLD)
    seen_by_all_doors(s3, bucket, "k", OLD)
    with open(path, "ab") as file:
        file.write(b"more")
    seen_by_all_doors(s3, bucket, "k", OLD + b"more")
    os.truncate(path, 100)
    seen_by_all_doors(s3, bucket, "k", OLD[:100])
    os.link(path, place / "hard")
    seen_by_all_doors(s3, bucket, "hard", OLD[:100])
    os.rename(path, place / "moved")
    absent(s3, bucket, "k")
    seen_by_all_doors(s3, bucket, "moved", OLD[:100])
    path.write_bytes(NEW)
    os.rename(path, place / "moved")
    seen_by_all_doors(s3, bucket, "moved", NEW)
    assert {key: entry["Size"] for key, entry in listed(s3, bucket).items()} == {"hard": 100, "moved": 5000}
    (place / "hard").unlink()
    absent(s3, bucket, "hard")


def test_two_mounts_of_one_tree_agree_at_once(server, place, bucket, new_mount):
    other = new_mount(server).start().path(bucket)
    for number in range(30):
        assert not (other / "k").exists()
        (place / "k").write_bytes(blob(100 + number, number))
        assert (other / "k").read_bytes() == blob(100 + number, number)
        (other / "k").write_bytes(blob(300 + number, number))
        assert (place / "k").read_bytes() == blob(300 + number, number)
        os.rename(other / "k", other / "moved")
        assert os.listdir(place) == ["moved"]
        (place / "moved").unlink()
        assert os.listdir(other) == []


def test_open_file_goes_on_with_the_old_bytes_after_a_put(place, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=OLD)
    with open(place / "k", "r+b") as file:
        s3.put_object(Bucket=bucket, Key="k", Body=NEW)
        assert file.read() == OLD
        file.write(b"to the old file")
        file.flush()
        seen_by_all_doors(s3, bucket, "k", NEW)
        assert (place / "k").read_bytes() == NEW
    seen_by_all_doors(s3, bucket, "k", NEW)
    settled(s3, bucket, "k", NEW)


def test_get_in_progress_never_mixes_two_states_into_a_whole_answer(place, s3, bucket):
    """Length and bytes are of one state, or the answer breaks off."""
    size = 48 * MIB
    (place / "k").write_bytes(bytes(size))
    stop = threading.Event()

    def edit():
        with open(place / "k", "r+b", buffering=0) as file:
            while not stop.is_set():
                for byte in b"12":
                    file.seek(0)
                    file.write(bytes([byte]) * MIB)
                    os.pwrite(file.fileno(), bytes([byte]) * MIB, size - MIB)

    editor = threading.Thread(target=edit)
    editor.start()
    broken = whole = 0
    try:
        for _ in range(12):
            try:
                got = s3.get_object(Bucket=bucket, Key="k")
                data = got["Body"].read()
            except Exception:
                broken += 1
                continue
            whole += 1
            assert len(data) == got["ContentLength"] == size
            assert_true_etag(got["ETag"], data)
    finally:
        stop.set()
        editor.join()
    assert broken + whole == 12
    data = (place / "k").read_bytes()
    seen_by_all_doors(s3, bucket, "k", data)


def test_file_open_for_writing_has_its_size_and_a_provisional_tag(place, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=OLD)
    assert etag(s3, bucket, "k") == md5(OLD)
    with open(place / "k", "r+b", buffering=0) as file:
        seen = set()
        for number in range(20):
            file.seek(0, os.SEEK_END)
            file.write(b"%010d" % number)
            tag = etag(s3, bucket, "k")
            entry = listed(s3, bucket)["k"]
            assert tag.startswith(PROVISIONAL) and entry["ETag"].strip('"').startswith(PROVISIONAL)
            assert entry["Size"] == len(OLD) + 10 * (number + 1)
            assert tag not in seen
            seen.add(tag)
    settled(s3, bucket, "k", (place / "k").read_bytes())


def test_file_opened_for_writing_and_left_alone_keeps_its_tag(place, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=OLD)
    with open(place / "k", "r+b"):
        assert etag(s3, bucket, "k").startswith(PROVISIONAL)
    until("the tag is back", lambda: etag(s3, bucket, "k") == md5(OLD))


def behind(what, fact):
    """True within the second that a change behind portico's back may take."""
    started = time.monotonic()
    while not fact():
        assert time.monotonic() - started < BEHIND_S, f"not within {BEHIND_S} s: {what}"
        time.sleep(0.01)


def test_change_behind_our_back_is_seen_within_a_second(place, s3, bucket, server):
    path, raw = place / "d" / "k", server.path(bucket, "d/k")
    assert not path.exists()
    write_tree(server.path(bucket), {"d/k": OLD})
    seen_by_all_doors(s3, bucket, "d/k", OLD)
    behind("the mount has the file", path.exists)
    assert path.read_bytes() == OLD
    behind("the listing has it", lambda: "d/k" in listed(s3, bucket))
    before = raw.stat()
    raw.write_bytes(NEW)
    os.utime(raw, ns=(before.st_atime_ns, before.st_mtime_ns))
    seen_by_all_doors(s3, bucket, "d/k", NEW)
    behind("the mount has the bytes", lambda: path.read_bytes() == NEW)
    with open(raw, "ab") as file:
        file.write(b"more")
    seen_by_all_doors(s3, bucket, "d/k", NEW + b"more")
    behind("the mount has the size", lambda: path.stat().st_size == len(NEW) + 4)
    behind("the listing has the size", lambda: listed(s3, bucket)["d/k"]["Size"] == len(NEW) + 4)
    os.rename(raw, raw.with_name("moved"))
    behind("the mount has the name", lambda: os.listdir(place / "d") == ["moved"])
    behind("the listing has the name", lambda: list(listed(s3, bucket)) == ["d/moved"])
    shutil.rmtree(server.path(bucket, "d"))
    behind("the mount is empty", lambda: os.listdir(place) == [])
    behind("the listing is empty", lambda: listed(s3, bucket) == {})


def test_rsync_onto_the_plain_directory_is_seen_within_a_second(place, s3, bucket, server, tmp_path):
    fuse.need("rsync")
    files = {f"d{number % 7}/{number:03}": blob(200 + number, number) for number in range(300)}
    write_tree(tmp_path / "tree", files)
    run(["rsync", "-a", f"{tmp_path}/tree/", f"{server.path(bucket)}/"])
    behind("the listing is whole", lambda: set(listed(s3, bucket)) == set(files))
    for key, data in files.items():
        behind(f"the mount has {key}", (place / key).exists)
        assert (place / key).read_bytes() == data
    for key in list(files)[::10]:
        (tmp_path / "tree" / key).write_bytes(files[key].swapcase())
        files[key] = files[key].swapcase()
    run(["rsync", "-a", "--checksum", "--inplace", f"{tmp_path}/tree/", f"{server.path(bucket)}/"])
    for key, data in files.items():
        assert_true_etag(s3.head_object(Bucket=bucket, Key=key)["ETag"], data)
        behind(f"the mount has the bytes of {key}", lambda key=key, data=data: (place / key).read_bytes() == data)


def test_rename_of_a_file_is_atomic_to_s3(server, place, s3, bucket):
    """No GET of either key finds neither, and none finds another's bytes."""
    (place / "one").write_bytes(OLD)
    stop, names = threading.Event(), ("one", "two")

    def rename():
        while not stop.is_set():
            os.rename(place / "one", place / "two")
            os.rename(place / "two", place / "one")

    mover = threading.Thread(target=rename)
    mover.start()
    wire = Wire(server, bucket)
    found = 0
    try:
        for _ in range(400):
            keys = set(wire.page()[0])
            assert keys in ({"one"}, {"two"}), keys
            for name in names:
                answer = wire.ask("GET", name)
                assert answer.status in (200, 404)
                if answer.status == 200:
                    found += 1
                    assert answer.body == OLD
    finally:
        stop.set()
        mover.join()
        wire.close()
    assert found > 0


def test_rename_of_a_directory_shows_all_or_none(server, place, s3, bucket):
    count = 300
    write_tree(place / "one", {f"{number:03}": b"%d" % number for number in range(count)})
    stop = threading.Event()

    def rename():
        while not stop.is_set():
            os.rename(place / "one", place / "two")
            os.rename(place / "two", place / "one")

    mover = threading.Thread(target=rename)
    mover.start()
    wire = Wire(server, bucket)
    seen = set()
    try:
        for _ in range(100):
            keys = set(wire.page()[0])
            folder = {key.split("/")[0] for key in keys}
            assert len(folder) == 1 and len(keys) == count, (folder, len(keys))
            seen |= folder
    finally:
        stop.set()
        mover.join()
        wire.close()
    assert set(listed(s3, bucket)) == {f"one/{number:03}" for number in range(count)}
    assert s3.get_object(Bucket=bucket, Key="one/007")["Body"].read() == b"7"


def test_mtime_is_the_same_at_every_door(place, s3, bucket, server):
    s3.put_object(Bucket=bucket, Key="k", Body=OLD)
    shown = s3.head_object(Bucket=bucket, Key="k")["LastModified"].timestamp()
    assert int(shown) == int((place / "k").stat().st_mtime)
    os.utime(place / "k", (1_500_000_000, 1_400_000_000))
    assert int(s3.head_object(Bucket=bucket, Key="k")["LastModified"].timestamp()) == 1_400_000_000
    assert int(listed(s3, bucket)["k"]["LastModified"].timestamp()) == 1_400_000_000
    assert etag(s3, bucket, "k") == md5(OLD)
    with open(place / "k", "ab") as file:
        file.write(b"x")
    assert abs(s3.head_object(Bucket=bucket, Key="k")["LastModified"].timestamp() - time.time()) < 60


# ETags and metadata.


def test_file_written_through_the_mount_gets_its_md5(place, s3, bucket):
    (place / "k").write_bytes(OLD)
    settled(s3, bucket, "k", OLD)


def test_edit_through_the_mount_never_leaves_a_stale_tag(place, s3, bucket):
    for number in range(40):
        data = blob(5000, number)
        if number % 4 == 0:
            s3.put_object(Bucket=bucket, Key="k", Body=data)
            assert etag(s3, bucket, "k") == md5(data)
        with open(place / "k", "r+b") as file:
            file.write(data[::-1])
        before = (place / "k").stat()
        os.utime(place / "k", ns=(before.st_atime_ns, before.st_mtime_ns))
        seen_by_all_doors(s3, bucket, "k", data[::-1])
        assert_true_etag(listed(s3, bucket)["k"]["ETag"], data[::-1])
    settled(s3, bucket, "k", data[::-1])


def test_multipart_tag_is_kept_until_the_bytes_change(place, s3, bucket):
    parts = [blob(5 * MIB), b"end"]
    at = {"Bucket": bucket, "Key": "k"}
    at["UploadId"] = s3.create_multipart_upload(**at)["UploadId"]
    rows = [
        {"PartNumber": number, "ETag": s3.upload_part(**at, PartNumber=number, Body=part)["ETag"]}
        for number, part in enumerate(parts, 1)
    ]
    s3.complete_multipart_upload(**at, MultipartUpload={"Parts": rows})
    os.rename(place / "k", place / "moved")
    os.chmod(place / "moved", 0o640)
    assert etag(s3, bucket, "moved") == multipart_etag(parts)
    with open(place / "moved", "r+b") as file:
        file.write(b"x")
    assert_true_etag(etag(s3, bucket, "moved"), b"x" + b"".join(parts)[1:])


def test_provisional_tag_goes_on_matching_once_the_md5_is_known(place, s3, bucket):
    with open(place / "k", "wb") as file:
        file.write(OLD)
        file.flush()
    first = s3.head_object(Bucket=bucket, Key="k")["ETag"]
    settled(s3, bucket, "k", OLD)
    assert s3.get_object(Bucket=bucket, Key="k", IfMatch=first)["Body"].read() == OLD
    (place / "k").write_bytes(NEW)
    if first.strip('"') != md5(OLD):
        with pytest.raises(ClientError, match="412|PreconditionFailed"):
            s3.get_object(Bucket=bucket, Key="k", IfMatch=first)


def test_metadata_survive_rename_chmod_touch_and_edit(place, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=OLD, Metadata={"m": "1"}, ContentType="x/y", Tagging="t=1")
    os.rename(place / "k", place / "moved")
    os.chmod(place / "moved", 0o600)
    os.utime(place / "moved")
    head = s3.head_object(Bucket=bucket, Key="moved")
    assert (head["Metadata"], head["ContentType"], head["ETag"].strip('"')) == ({"m": "1"}, "x/y", md5(OLD))
    with open(place / "moved", "r+b") as file:
        file.write(b"edited")
    os.truncate(place / "moved", 6)
    head = s3.head_object(Bucket=bucket, Key="moved")
    assert (head["Metadata"], head["ContentType"], head["ContentLength"]) == ({"m": "1"}, "x/y", 6)
    assert s3.get_object_tagging(Bucket=bucket, Key="moved")["TagSet"] == [{"Key": "t", "Value": "1"}]
    assert_true_etag(head["ETag"], b"edited")


def test_copies_that_preserve_xattrs_carry_the_metadata(place, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=OLD, Metadata={"m": "1"}, ContentType="x/y")
    run(["cp", "-a", place / "k", place / "copy"])
    assert s3.head_object(Bucket=bucket, Key="copy")["Metadata"] == {"m": "1"}
    seen_by_all_doors(s3, bucket, "copy", OLD)
    (place / "copy").write_bytes(NEW)
    seen_by_all_doors(s3, bucket, "copy", NEW)
    seen_by_all_doors(s3, bucket, "k", OLD)


def test_user_metadata_is_xattrs_in_both_directions(place, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=OLD, Metadata={"color": "blue", "other": "1"})
    assert os.getxattr(place / "k", "user.s3.meta.color") == b"blue"
    assert {"user.s3.meta.color", "user.s3.meta.other"} <= set(os.listxattr(place / "k"))
    os.setxattr(place / "k", "user.s3.meta.color", b"red")
    os.setxattr(place / "k", "user.s3.meta.new", b"2")
    os.removexattr(place / "k", "user.s3.meta.other")
    head = s3.head_object(Bucket=bucket, Key="k")
    assert head["Metadata"] == {"color": "red", "new": "2"}
    assert head["ETag"].strip('"') == md5(OLD)
    os.setxattr(place / "k", "user.s3.content-type", b"text/x-test")
    assert s3.head_object(Bucket=bucket, Key="k")["ContentType"] == "text/x-test"


def test_record_is_unseen_and_cannot_be_forged(place, s3, bucket, server):
    s3.put_object(Bucket=bucket, Key="k", Body=OLD)
    record = os.getxattr(server.path(bucket, "k"), "user.portico")
    assert "user.portico" not in os.listxattr(place / "k")
    for call in (
        lambda: os.getxattr(place / "k", "user.portico"),
        lambda: os.setxattr(place / "k", "user.portico", record),
        lambda: os.removexattr(place / "k", "user.portico"),
    ):
        with pytest.raises(OSError) as error:
            call()
        assert error.value.errno in (errno.EPERM, errno.ENODATA, errno.EOPNOTSUPP, errno.EACCES)
    assert os.getxattr(server.path(bucket, "k"), "user.portico") == record


# Objects that are not quite files.


def test_hard_link_is_two_keys_until_a_put(place, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=OLD)
    os.link(place / "k", place / "hard")
    with open(place / "hard", "r+b") as file:
        file.write(NEW)
    seen_by_all_doors(s3, bucket, "k", NEW)
    seen_by_all_doors(s3, bucket, "hard", NEW)
    s3.put_object(Bucket=bucket, Key="hard", Body=b"own")
    assert (place / "k").read_bytes() == NEW
    assert ((place / "hard").read_bytes(), (place / "k").stat().st_nlink) == (b"own", 1)
    seen_by_all_doors(s3, bucket, "k", NEW)


def test_symlink_is_followed_by_s3_only_inside(place, s3, bucket, tmp_path):
    (place / "k").write_bytes(OLD)
    (tmp_path / "secret").write_bytes(b"secret")
    os.symlink("k", place / "soft")
    os.symlink(tmp_path / "secret", place / "out")
    os.symlink("../../../../../../../../etc/hostname", place / "up")
    assert s3.get_object(Bucket=bucket, Key="soft")["Body"].read() == OLD
    for key in ("out", "up"):
        absent(s3, bucket, key)
    assert (place / "out").read_bytes() == b"secret"
    (place / "soft").unlink()
    absent(s3, bucket, "soft")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == OLD


# Permissions and limits.


def test_unreadable_file_is_listed(place, s3, bucket):
    (place / "k").write_bytes(OLD)
    os.chmod(place / "k", 0)
    assert list(listed(s3, bucket)) == ["k"]


def test_create_if_absent_has_one_winner_whatever_the_door(place, s3, bucket):
    for number in range(40):
        key, won = f"k{number}", []
        barrier = threading.Barrier(2)

        def through_s3(key=key, won=won, barrier=barrier):
            barrier.wait()
            try:
                s3.put_object(Bucket=bucket, Key=key, Body=b"s3", IfNoneMatch="*")
                won.append("s3")
            except ClientError:
                pass

        def through_mount(key=key, won=won, barrier=barrier):
            barrier.wait()
            try:
                os.close(os.open(place / key, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                won.append("mount")
            except FileExistsError:
                pass

        threads = [threading.Thread(target=one) for one in (through_s3, through_mount)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1, won
        assert (place / key).read_bytes() == (b"s3" if won == ["s3"] else b"")


def test_if_match_is_decided_against_mount_writers(place, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=OLD)
    tag = s3.head_object(Bucket=bucket, Key="k")["ETag"]
    (place / "k").write_bytes(NEW)
    with pytest.raises(ClientError, match="412|PreconditionFailed"):
        s3.put_object(Bucket=bucket, Key="k", Body=b"third", IfMatch=tag)
    assert (place / "k").read_bytes() == NEW


def test_inode_numbers_are_stable_over_remounts(server, place, s3, bucket, new_mount):
    s3.put_object(Bucket=bucket, Key="d/k", Body=OLD)
    (place / "made").write_bytes(b"x")
    paths = ("d", "d/k", "made")
    before = {path: (place / path).stat().st_ino for path in paths}
    for _ in range(2):
        other = new_mount(server).start()
        assert {path: (other.path(bucket) / path).stat().st_ino for path in paths} == before
        other.stop()


# Clients on what the mount wrote.


def test_s3cmd_on_files_of_the_mount(place, s3cmd, bucket, tmp_path):
    write_tree(place, {"a": OLD, "d/b": NEW, "empty": b""})
    s3cmd("sync", f"s3://{bucket}/", f"{tmp_path}/back/")
    assert (tmp_path / "back" / "d" / "b").read_bytes() == NEW
    (place / "a").write_bytes(NEW)
    said = s3cmd("get", "--force", f"s3://{bucket}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == NEW
    assert "WARNING" not in said and "MD5" not in said
    s3cmd("sync", f"{tmp_path}/back/", f"s3://{bucket}/")
    assert (place / "a").read_bytes() in (OLD, NEW)


def test_rclone_check_on_files_of_the_mount(place, rclone, bucket, tmp_path):
    files = {"a": OLD, "d/b": NEW, "empty": b"", "big": blob(6 * MIB)}
    write_tree(place, files)
    write_tree(tmp_path / "tree", files)
    rclone("check", tmp_path / "tree", f"portico:{bucket}")
    with open(place / "a", "r+b") as file:
        file.write(NEW)
        file.flush()
        rclone("copy", f"portico:{bucket}", tmp_path / "back")
    assert (tmp_path / "back" / "a").read_bytes() == NEW
    rclone("check", "--download", tmp_path / "back", f"portico:{bucket}")
    rclone("sync", tmp_path / "tree", f"portico:{bucket}")
    assert (place / "a").read_bytes() == OLD


def test_restic_repository_copied_through_the_mount_is_whole(place, restic, tmp_path):
    write_tree(tmp_path / "tree", {"a": OLD, "d/b": NEW, "c": blob(300 * KIB)})
    restic("init")
    restic("backup", tmp_path / "tree")
    restic("check", "--read-data")
    shutil.copytree(place / "repo", place / "copied")
    shutil.rmtree(place / "repo")
    restic.env["RESTIC_REPOSITORY"] = restic.env["RESTIC_REPOSITORY"].removesuffix("repo") + "copied"
    restic("check", "--read-data")
    restic("restore", "latest", "--target", tmp_path / "back")
    assert (tmp_path / "back").joinpath(*(tmp_path / "tree" / "a").parts[1:]).read_bytes() == OLD


def test_aws_sync_on_files_of_the_mount(place, aws, bucket, tmp_path):
    write_tree(place, {"a": OLD, "d/b": NEW})
    aws("s3", "sync", f"s3://{bucket}", tmp_path / "back")
    assert (tmp_path / "back" / "d" / "b").read_bytes() == NEW
    assert aws("s3", "sync", f"s3://{bucket}", tmp_path / "back").strip() == ""
    (place / "a").write_bytes(NEW + b"longer")
    aws("s3", "sync", f"s3://{bucket}", tmp_path / "back")
    assert (tmp_path / "back" / "a").read_bytes() == NEW + b"longer"
    (tmp_path / "back" / "up").write_bytes(b"up")
    aws("s3", "sync", tmp_path / "back", f"s3://{bucket}")
    assert (place / "up").read_bytes() == b"up"


def test_mode_and_owner_of_what_s3_made_can_be_changed_through_the_mount(place, s3, bucket):
    fuse.need_root()
    s3.put_object(Bucket=bucket, Key="k", Body=OLD)
    os.chmod(place / "k", 0o4750)
    os.chown(place / "k", 1234, 4321)
    found = (place / "k").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode) & 0o777) == (1234, 4321, 0o750)
    assert etag(s3, bucket, "k") == md5(OLD)


def test_many_readers_and_writers_of_one_key_at_every_door(server, place, s3, bucket):
    """Replaced through both doors at once: whoever reads gets one of the states, whole."""
    states = {md5(blob(20 * KIB, number)): number for number in range(8)}
    s3.put_object(Bucket=bucket, Key="k", Body=blob(20 * KIB, 0))
    stop = threading.Event()
    own = clients.boto(server)

    def through_mount(number):
        (place / "tmp").write_bytes(blob(20 * KIB, number % 4))
        os.rename(place / "tmp", place / "k")

    def through_s3(number):
        own.put_object(Bucket=bucket, Key="k", Body=blob(20 * KIB, 4 + number % 4))

    def read_mount(_number):
        data = (place / "k").read_bytes()
        assert md5(data) in states, "the mount showed a mixture"

    def again_and_again(step):
        number = 0
        while not stop.is_set():
            number += 1
            step(number)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        running = [pool.submit(again_and_again, step) for step in (through_mount, through_s3, read_mount)]
        try:
            for _ in range(150):
                got = s3.get_object(Bucket=bucket, Key="k")
                data = got["Body"].read()
                assert md5(data) in states
                assert_true_etag(got["ETag"], data)
        finally:
            stop.set()
        for one in running:
            one.result()
    seen_by_all_doors(s3, bucket, "k", (place / "k").read_bytes())
