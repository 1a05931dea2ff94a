"""s3cmd, as typed at a shell."""

import re
import urllib.request

import pytest

from harness.clients import S3cmd
from harness.data import MIB, blob, md5, read_tree, sample_tree, write_tree


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    write_tree(root, sample_tree())
    return root


def test_mb_ls_rb(s3cmd):
    s3cmd("mb", "s3://s3cmd-bucket")
    assert "s3://s3cmd-bucket" in s3cmd("ls")
    s3cmd("rb", "s3://s3cmd-bucket")
    assert "s3://s3cmd-bucket" not in s3cmd("ls")


def test_put_get_info_del(s3cmd, bucket, tmp_path):
    data = blob(50_000)
    (tmp_path / "file.txt").write_bytes(data)
    s3cmd(
        "put",
        "--mime-type=text/plain",
        "--add-header",
        "x-amz-meta-colour: blue",
        tmp_path / "file.txt",
        f"s3://{bucket}/dir/file.txt",
    )
    info = s3cmd("info", f"s3://{bucket}/dir/file.txt")
    assert md5(data) in info and "50000" in info and "text/plain" in info
    assert re.search(r"x-amz-meta-colour:\s+blue", info)
    s3cmd("get", f"s3://{bucket}/dir/file.txt", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert "DIR" in s3cmd("ls", f"s3://{bucket}/")
    s3cmd("del", f"s3://{bucket}/dir/file.txt")
    assert s3cmd("ls", "--recursive", f"s3://{bucket}/") == ""


def test_multipart_put(s3cmd, bucket, s3, tmp_path):
    data = blob(17 * MIB)
    (tmp_path / "big").write_bytes(data)
    s3cmd("put", "--multipart-chunk-size-mb=5", tmp_path / "big", f"s3://{bucket}/big")
    assert s3.head_object(Bucket=bucket, Key="big")["ETag"].endswith('-4"')
    s3cmd("get", f"s3://{bucket}/big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_sync_both_ways_with_changes_and_deletes(s3cmd, bucket, tree, tmp_path):
    s3cmd("sync", f"{tree}/", f"s3://{bucket}/base/")
    assert "upload:" not in s3cmd("sync", f"{tree}/", f"s3://{bucket}/base/")
    (tree / "readme.txt").write_bytes(b"HELLO\n")
    (tree / "empty").unlink()
    said = s3cmd("sync", "--delete-removed", f"{tree}/", f"s3://{bucket}/base/")
    assert said.count("upload:") == 1 and said.count("delete:") == 1
    back = tmp_path / "back"
    back.mkdir()
    s3cmd("sync", f"s3://{bucket}/base/", f"{back}/")
    assert read_tree(back) == read_tree(tree)
    assert "download:" not in s3cmd("sync", f"s3://{bucket}/base/", f"{back}/")


def test_signurl(s3cmd, bucket, s3):
    s3.put_object(Bucket=bucket, Key="signed", Body=b"by url")
    url = s3cmd("signurl", f"s3://{bucket}/signed", "+60").strip()
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert answer.read() == b"by url"


def test_cp_mv_and_recursive_del(s3cmd, bucket, s3, tree):
    s3cmd("put", "--recursive", f"{tree}/", f"s3://{bucket}/a/")
    s3cmd("cp", "--recursive", f"s3://{bucket}/a/", f"s3://{bucket}/b/")
    s3cmd("mv", f"s3://{bucket}/b/readme.txt", f"s3://{bucket}/c.txt")
    assert s3.get_object(Bucket=bucket, Key="c.txt")["Body"].read() == b"hello\n"
    s3cmd("del", "--recursive", "--force", f"s3://{bucket}/")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_setacl_public_and_private(s3cmd, bucket, s3, server):
    s3.put_object(Bucket=bucket, Key="shown", Body=b"to all")
    s3cmd("setacl", "--acl-public", f"s3://{bucket}/shown")
    with urllib.request.urlopen(f"{server.url}/{bucket}/shown", timeout=20) as answer:
        assert answer.read() == b"to all"
    s3cmd("setacl", "--acl-private", f"s3://{bucket}/shown")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{server.url}/{bucket}/shown", timeout=20)


def test_du_and_modify(s3cmd, bucket, s3):
    s3.put_object(Bucket=bucket, Key="k.txt", Body=b"12345")
    assert s3cmd("du", f"s3://{bucket}").split()[0] == "5"
    s3cmd("modify", "--add-header", "Cache-Control: max-age=7", f"s3://{bucket}/k.txt")
    assert s3.head_object(Bucket=bucket, Key="k.txt")["CacheControl"] == "max-age=7"


def test_signature_v2(server, bucket, s3, tmp_path):
    old = S3cmd(server, tmp_path, signature_v2="True")
    (tmp_path / "f").write_bytes(b"old style")
    old("put", tmp_path / "f", f"s3://{bucket}/dir/f")
    old("get", f"s3://{bucket}/dir/f", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"old style"
    assert "dir/f" in old("ls", "--recursive", f"s3://{bucket}/")
