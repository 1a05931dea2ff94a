"""`apply_mtime`: what rclone and s3cmd upload has on disk, and through the mount, the time it has at home."""

import os

import pytest

from harness.data import MIB, blob, sample_tree, write_tree

pytestmark = pytest.mark.tree
CONFIG = "apply_mtime = true\n"
BASE_NS = 1_500_000_000_000_000_000


@pytest.fixture
def tree(tmp_path):
    """Files with times of their own, one of them long enough to be sent in parts."""
    root = tmp_path / "tree"
    write_tree(root, {**sample_tree(), "long": blob(12 * MIB)})
    for number, path in enumerate(files(root)):
        os.utime(path, ns=(BASE_NS, BASE_NS + number * 1_000_000_123_456))
    return root


def files(root):
    return sorted(path for path in root.rglob("*") if path.is_file())


def times(root, unit=1):
    return {str(path.relative_to(root)): path.stat().st_mtime_ns // unit for path in files(root)}


def last_modified(s3, bucket):
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    return {entry["Key"]: int(entry["LastModified"].timestamp()) for entry in listed}


def test_rclone_gives_the_file_its_own_time(rclone, server, mount, bucket, s3, tree, tmp_path):
    there, remote = mount.path(bucket), f"portico:{bucket}"
    parts = ("--s3-upload-cutoff=5M", "--s3-chunk-size=5M")
    rclone("copy", *parts, tree, remote)
    assert times(server.path(bucket)) == times(there) == times(tree)
    assert last_modified(s3, bucket) == times(tree, 1_000_000_000)
    rclone("check", tree, remote)
    for number, words in enumerate(([], ["--use-server-modtime", "--modify-window=1s"])):
        log = tmp_path / f"log{number}"
        rclone("sync", "-v", "--log-file", log, *parts, *words, tree, remote)
        assert "Copied" not in log.read_text() and "Updated" not in log.read_text()
    os.utime(tree / "readme.txt", ns=(BASE_NS, 7_000_000_001))
    rclone("sync", *parts, tree, remote)
    assert times(server.path(bucket)) == times(there) == times(tree)
    rclone("check", tree, remote)


def test_s3cmd_gives_the_file_its_own_time(s3cmd, server, mount, bucket, s3, tree):
    second = 1_000_000_000
    words = ("sync", "--multipart-chunk-size-mb=5", f"{tree}/", f"s3://{bucket}/")
    s3cmd(*words)
    assert times(server.path(bucket), second) == times(mount.path(bucket), second) == times(tree, second)
    assert last_modified(s3, bucket) == times(tree, second)
    assert "upload:" not in s3cmd(*words)
    s3cmd("put", tree / "readme.txt", f"s3://{bucket}/other")
    assert (mount.path(bucket) / "other").stat().st_mtime_ns // second == times(tree, second)["readme.txt"]


def test_nonsense_is_no_error_and_no_time(s3, mount, bucket):
    for number, text in enumerate(("soon", "", "1e9", "99999999999999999999", "-")):
        s3.put_object(Bucket=bucket, Key=f"k{number}", Body=b"x", Metadata={"mtime": text})
        head = s3.head_object(Bucket=bucket, Key=f"k{number}")
        assert head["Metadata"]["mtime"] == text
        assert head["LastModified"].timestamp() > BASE_NS / 1e9 + 1e8
