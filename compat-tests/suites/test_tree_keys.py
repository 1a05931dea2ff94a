"""Keys that are paths, keys that cannot be, and files that are no objects."""

import os
import socket

import pytest
from botocore.exceptions import ClientError

from harness import rawhttp
from harness.data import blob, read_tree
from harness.tree import listed
from harness.wait import until

pytestmark = pytest.mark.tree
CONFIG = 'scan_interval = "1s"\n'

AWKWARD = [
    "/leading", "//two", "a//b", "a/", "a/b/", "dir/./dot", "dir/../up", "..", ".", "...", "../../etc/passwd",
    ".portico", ".portico/x", "dir/.portico/y", "n" * 256, "long/" + "s" * 300 + "/end", "x" * 1024,
    "line\nbreak", "tab\there", "del\x7f", "cr\r", "bell\x07", "back\\slash", "quote\"'", "100%", "%41", "%2F", "a%00b",
    " lead", "trail ", "plus+plus", "a&b=c;d?e#f", "<xml>&amp;", "\u00e9", "e\u0301", "\U0001f600", "\ufffd", "~", "*",
]  # fmt: skip


def works(s3, bucket, key):
    """Put, get, list, delete of one key, each exact."""
    data = blob(50, key)
    s3.put_object(Bucket=bucket, Key=key, Body=data)
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == data
    assert key in listed(s3, bucket)
    assert key in listed(s3, bucket, prefix=key)


@pytest.mark.parametrize("key", AWKWARD, ids=lambda key: ascii(key[:20]))
def test_awkward_key_alone(s3, bucket, server, key):
    works(s3, bucket, key)
    outside = [name for name in os.listdir(server.volume_dir.parent.parent) if name in ("etc", "passwd", "up")]
    assert outside == []
    s3.delete_object(Bucket=bucket, Key=key)
    assert listed(s3, bucket) == {}
    with pytest.raises(ClientError, match="404"):
        s3.head_object(Bucket=bucket, Key=key)
    assert read_tree(server.path(bucket)) == {}


def test_awkward_keys_together(s3, bucket):
    for key in AWKWARD:
        s3.put_object(Bucket=bucket, Key=key, Body=blob(50, key))
    assert list(listed(s3, bucket)) == sorted(AWKWARD, key=str.encode)
    for key in AWKWARD:
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == blob(50, key)
    done = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in AWKWARD if xml_can(key)]})
    assert "Errors" not in done
    assert set(listed(s3, bucket)) == {key for key in AWKWARD if not xml_can(key)}


def xml_can(key):
    """XML 1.0 has no control characters, and a parser turns a carriage return into a line feed."""
    return all(char in "\t\n" or char >= " " for char in key)


def test_key_of_1025_bytes_is_refused(s3, bucket):
    with pytest.raises(ClientError, match="KeyTooLong"):
        s3.put_object(Bucket=bucket, Key="x" * 1025, Body=b"")


@pytest.mark.parametrize("order", [("a", "a/b", "a/b/c"), ("a/b/c", "a/b", "a"), ("a/b", "a", "a/b/c")])
def test_a_and_a_slash_b(s3, bucket, server, order):
    for key in order:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode() * 3, Metadata={"m": key})
    for key in order:
        got = s3.get_object(Bucket=bucket, Key=key)
        assert (got["Body"].read(), got["Metadata"]) == (key.encode() * 3, {"m": key})
    assert list(listed(s3, bucket)) == ["a", "a/b", "a/b/c"]
    assert server.path(bucket, "a/b/c").read_bytes() == b"a/b/c" * 3
    s3.put_object(Bucket=bucket, Key="a", Body=b"again")
    s3.delete_object(Bucket=bucket, Key="a/b/c")
    s3.delete_object(Bucket=bucket, Key="a/b")
    assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"again"
    assert read_tree(server.path(bucket)) == {"a": b"again"}
    s3.delete_object(Bucket=bucket, Key="a")
    assert listed(s3, bucket) == {} and read_tree(server.path(bucket)) == {}


def test_a_and_a_slash_b_live_through_a_restart(s3, bucket, server):
    for key in ("a", "a/b", "c//d"):
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    server.restart()
    for key in ("a", "a/b", "c//d"):
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    assert list(listed(s3, bucket)) == ["a", "a/b", "c//d"]


def test_directory_marker(s3, bucket, server):
    s3.put_object(Bucket=bucket, Key="folder/", Body=b"")
    assert server.path(bucket, "folder").is_dir()
    assert list(listed(s3, bucket)) == ["folder/"]
    s3.put_object(Bucket=bucket, Key="folder/", Body=b"with a body")
    assert s3.get_object(Bucket=bucket, Key="folder/")["Body"].read() == b"with a body"
    with pytest.raises(ClientError, match="404"):
        s3.head_object(Bucket=bucket, Key="folder")
    s3.delete_object(Bucket=bucket, Key="folder/")
    assert listed(s3, bucket) == {}


def test_directory_made_by_mkdir_is_no_object(s3, bucket, server):
    (server.path(bucket) / "made").mkdir()
    with pytest.raises(ClientError, match="404"):
        s3.head_object(Bucket=bucket, Key="made/")
    s3.put_object(Bucket=bucket, Key="made/k", Body=b"x")
    s3.delete_object(Bucket=bucket, Key="made/k")
    assert (server.path(bucket) / "made").is_dir()


def test_symlinks_are_followed_only_inside(s3, bucket, server, tmp_path):
    (tmp_path / "secret").write_bytes(b"not yours")
    inside = server.path(bucket)
    (inside / "real").write_bytes(b"inside")
    (inside / "dir").mkdir()
    (inside / "good").symlink_to("real")
    (inside / "absolute").symlink_to(tmp_path / "secret")
    (inside / "out").symlink_to(os.path.relpath(tmp_path / "secret", inside))
    (inside / "outdir").symlink_to(tmp_path)
    (inside / "loop").symlink_to("loop")
    (inside / "reserved").symlink_to(os.path.relpath(server.volume_dir / ".portico", inside))
    assert s3.get_object(Bucket=bucket, Key="good")["Body"].read() == b"inside"
    for key in ("absolute", "out", "outdir/secret", "loop", "reserved/index"):
        with pytest.raises(ClientError, match="404|NoSuchKey"):
            s3.get_object(Bucket=bucket, Key=key)
    until("the file is listed", lambda: "real" in listed(s3, bucket))
    assert not {"absolute", "out", "outdir/secret", "loop"} & set(listed(s3, bucket))


def test_put_through_a_symlinked_directory_stays_inside(s3, bucket, server, tmp_path):
    server.path(bucket, "outdir").symlink_to(tmp_path)
    try:
        s3.put_object(Bucket=bucket, Key="outdir/planted", Body=b"x")
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] < 500
    assert not (tmp_path / "planted").exists()


def test_special_files_do_not_exist(s3, bucket, server):
    os.mkfifo(server.path(bucket, "fifo"))
    here = os.getcwd()
    os.chdir(server.path(bucket))
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket")
    finally:
        os.chdir(here)
    for key in ("fifo", "socket"):
        with pytest.raises(ClientError, match="404|NoSuchKey"):
            s3.get_object(Bucket=bucket, Key=key)
    assert listed(s3, bucket) == {}


def test_reserved_directory_is_out_of_reach(server, s3):
    names = [entry["Name"] for entry in s3.list_buckets()["Buckets"]]
    assert not [name for name in names if name.startswith(".")]
    for path in ("/.portico/index", "/.portico?list-type=2", "/..", "/../main", "/%2e%2e/%2e%2e/etc/passwd"):
        answer = rawhttp.send(server, "GET", path)
        assert answer.status in (400, 403, 404)


def test_name_that_is_no_utf8_is_not_listed_and_harms_nothing(s3, bucket, server):
    with open(os.fsencode(server.path(bucket)) + b"/bad\xff", "wb") as file:
        file.write(b"x")
    s3.put_object(Bucket=bucket, Key="good", Body=b"x")
    assert "good" in listed(s3, bucket)
