"""The tree and S3 show the same bytes: in both directions, before and during serving."""

import os

import pytest
from botocore.exceptions import ClientError

from harness import clients
from harness.data import MIB, blob, read_tree, sample_tree, write_tree
from harness.tree import assert_true_etag, listed, seen_by_all_doors
from harness.wait import until

pytestmark = pytest.mark.tree
CONFIG = 'scan_interval = "1s"\n'
THEN_NS = 1_600_000_000_500_000_000


def test_put_is_a_plain_file(server, s3, bucket):
    for key, data in sample_tree().items():
        s3.put_object(Bucket=bucket, Key=key, Body=data, Metadata={"m": "1"}, Tagging="t=1")
    assert read_tree(server.path(bucket)) == sample_tree()
    entry = listed(s3, bucket)["readme.txt"]
    assert int(server.path(bucket, "readme.txt").stat().st_mtime) == int(entry["LastModified"].timestamp())


def test_multipart_copy_and_post_are_plain_files(server, s3, bucket):
    at = {"Bucket": bucket, "Key": "a/big"}
    upload = s3.create_multipart_upload(**at)["UploadId"]
    parts, bodies = [], [blob(5 * MIB, 1), blob(5 * MIB, 2), b"end"]
    for number, body in enumerate(bodies, 1):
        part = s3.upload_part(**at, UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    s3.complete_multipart_upload(**at, UploadId=upload, MultipartUpload={"Parts": parts})
    s3.copy_object(Bucket=bucket, Key="b/copy", CopySource=at)
    whole = b"".join(bodies)
    assert read_tree(server.path(bucket)) == {"a/big": whole, "b/copy": whole}


def test_delete_removes_the_file_and_empty_directories(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="a/b/c", Body=b"x")
    s3.put_object(Bucket=bucket, Key="a/d", Body=b"x")
    s3.delete_object(Bucket=bucket, Key="a/b/c")
    assert not server.path(bucket, "a/b").exists() and server.path(bucket, "a/d").exists()
    s3.delete_object(Bucket=bucket, Key="a/d")
    assert not server.path(bucket, "a").exists() and server.path(bucket).is_dir()


def test_open_file_goes_on_with_the_old_bytes(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    with open(server.path(bucket, "k"), "rb") as held:
        s3.put_object(Bucket=bucket, Key="k", Body=b"new bytes")
        assert held.read() == b"old"
    assert server.path(bucket, "k").read_bytes() == b"new bytes"


def test_file_made_while_serving(server, s3, bucket):
    data = blob(3 * MIB + 1)
    write_tree(server.path(bucket), {"dir/made": data})
    os.utime(server.path(bucket, "dir/made"), ns=(THEN_NS, THEN_NS))
    seen_by_all_doors(s3, bucket, "dir/made", data)
    entry = until("the file is listed", lambda: listed(s3, bucket).get("dir/made"))
    assert entry["Size"] == len(data)
    assert int(entry["LastModified"].timestamp()) == THEN_NS // 1_000_000_000
    assert_true_etag(entry["ETag"], data)
    listed_at_top = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert listed_at_top["CommonPrefixes"] == [{"Prefix": "dir/"}]


def test_provisional_etag_becomes_the_md5(server, s3, bucket):
    data = blob(100_000)
    write_tree(server.path(bucket), {"made": data})
    first = s3.head_object(Bucket=bucket, Key="made")["ETag"]

    def settled():
        etag = s3.head_object(Bucket=bucket, Key="made")["ETag"]
        assert_true_etag(etag, data)
        return "px1-" not in etag

    until("the digest is known", settled)
    assert s3.get_object(Bucket=bucket, Key="made", IfMatch=first)["Body"].read() == data


def test_whole_tree_dropped_in_while_serving(server, s3, bucket):
    files = {f"t/{number % 7}/{number}.bin": blob(number * 10, number) for number in range(300)}
    write_tree(server.path(bucket), files)
    until("all are listed", lambda: set(listed(s3, bucket)) == set(files))
    for key, entry in listed(s3, bucket).items():
        assert entry["Size"] == len(files[key])
        assert_true_etag(entry["ETag"], files[key])


def test_file_removed_and_renamed_on_disk(server, s3, bucket):
    for key in ("gone", "before", "stays"):
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode(), Metadata={"m": key})
    server.path(bucket, "gone").unlink()
    server.path(bucket, "before").rename(server.path(bucket, "after"))
    for key in ("gone", "before"):
        with pytest.raises(ClientError, match="404"):
            s3.head_object(Bucket=bucket, Key=key)
    assert s3.get_object(Bucket=bucket, Key="after")["Body"].read() == b"before"
    assert s3.head_object(Bucket=bucket, Key="after")["Metadata"] == {"m": "before"}
    until("the listing follows", lambda: set(listed(s3, bucket)) == {"after", "stays"})


def test_directory_made_on_disk_is_a_bucket(server, s3):
    write_tree(server.volume_dir / "made-by-mkdir", {"k": b"x"})
    names = until(
        "the bucket is listed",
        lambda: "made-by-mkdir" in [entry["Name"] for entry in s3.list_buckets()["Buckets"]],
    )
    assert names and s3.get_object(Bucket="made-by-mkdir", Key="k")["Body"].read() == b"x"


def test_tree_dropped_in_before_the_first_start(new_server, tmp_path):
    server = new_server(config=CONFIG)
    files = {**sample_tree(), "big": blob(20 * MIB)}
    write_tree(server.path("photos"), files)
    server.start()
    s3 = clients.boto(server)
    assert [entry["Name"] for entry in s3.list_buckets()["Buckets"]] == ["photos"]
    for key, data in files.items():
        seen_by_all_doors(s3, "photos", key, data)
    until("all are listed", lambda: set(listed(s3, "photos")) == set(files))
    assert read_tree(server.path("photos")) == files


def test_rclone_check_of_a_dropped_tree(server, rclone, s3, bucket, tmp_path):
    files = sample_tree()
    for root in (tmp_path / "tree", server.path(bucket)):
        write_tree(root, files)
    until("all are listed", lambda: set(listed(s3, bucket)) == set(files))
    rclone("check", tmp_path / "tree", f"portico:{bucket}")
