"""rclone, as typed at a shell."""

import os

import pytest

from harness.data import MIB, blob, md5, read_tree, sample_tree, write_tree


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    write_tree(root, sample_tree())
    return root


def test_copy_check_and_back(rclone, bucket, tree, tmp_path):
    rclone("copy", tree, f"portico:{bucket}/base")
    rclone("check", tree, f"portico:{bucket}/base")
    rclone("check", "--download", tree, f"portico:{bucket}/base")
    rclone("copy", f"portico:{bucket}/base", tmp_path / "back")
    assert read_tree(tmp_path / "back") == read_tree(tree)


def test_mtime_is_kept(rclone, bucket, tree, tmp_path):
    os.utime(tree / "readme.txt", ns=(1_500_000_000_123_456_789,) * 2)
    rclone("copy", tree, f"portico:{bucket}")
    rclone("copy", f"portico:{bucket}", tmp_path / "back")
    assert (tmp_path / "back" / "readme.txt").stat().st_mtime_ns == 1_500_000_000_123_456_789


def test_sync_with_changes_and_deletes(rclone, bucket, tree, s3):
    rclone("sync", tree, f"portico:{bucket}")
    (tree / "readme.txt").write_bytes(b"HELLO\n")
    (tree / "empty").unlink()
    rclone("sync", tree, f"portico:{bucket}")
    keys = {entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]}
    assert keys == set(read_tree(tree))
    assert s3.get_object(Bucket=bucket, Key="readme.txt")["Body"].read() == b"HELLO\n"


def test_sync_down_deletes(rclone, bucket, tree, s3, tmp_path):
    rclone("sync", tree, f"portico:{bucket}")
    back = tmp_path / "back"
    rclone("sync", f"portico:{bucket}", back)
    s3.delete_object(Bucket=bucket, Key="readme.txt")
    rclone("sync", f"portico:{bucket}", back)
    assert not (back / "readme.txt").exists()
    assert len(read_tree(back)) == len(sample_tree()) - 1


def test_cat_lsf_size_and_hashsum(rclone, bucket, s3):
    s3.put_object(Bucket=bucket, Key="d/a", Body=b"aaa")
    s3.put_object(Bucket=bucket, Key="b", Body=b"bb")
    assert rclone("cat", f"portico:{bucket}/d/a") == "aaa"
    assert rclone("cat", "--offset", "1", "--count", "1", f"portico:{bucket}/b") == "b"
    assert rclone("lsf", f"portico:{bucket}").split() == ["b", "d/"]
    assert "Total objects: 2" in rclone("size", f"portico:{bucket}")
    sums = dict(line.split("  ")[::-1] for line in rclone("hashsum", "MD5", f"portico:{bucket}").splitlines())
    assert sums == {"d/a": md5(b"aaa"), "b": md5(b"bb")}


def test_multipart_and_server_side_copy(rclone, bucket, tmp_path):
    data = blob(21 * MIB)
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "big").write_bytes(data)
    limits = ["--s3-upload-cutoff", "8M", "--s3-chunk-size", "5M"]
    rclone("copy", *limits, tmp_path / "up", f"portico:{bucket}/up")
    rclone("check", tmp_path / "up", f"portico:{bucket}/up")
    rclone("copyto", "--s3-copy-cutoff", "8M", f"portico:{bucket}/up/big", f"portico:{bucket}/copy")
    rclone("copyto", f"portico:{bucket}/copy", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_rcat_moveto_delete_purge(rclone, bucket, s3):
    rclone("rcat", f"portico:{bucket}/piped", stdin=b"from a pipe")
    rclone("moveto", f"portico:{bucket}/piped", f"portico:{bucket}/x/moved")
    assert s3.get_object(Bucket=bucket, Key="x/moved")["Body"].read() == b"from a pipe"
    rclone("deletefile", f"portico:{bucket}/x/moved")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    rclone("mkdir", "portico:rclone-bucket")
    rclone("rcat", "portico:rclone-bucket/a/b", stdin=b"x")
    rclone("purge", "portico:rclone-bucket")
    assert "rclone-bucket" not in rclone("lsd", "portico:")
