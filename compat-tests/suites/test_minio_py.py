"""minio-py: another SDK's idea of S3 (aws-chunked free, single-region, XML by hand)."""

import io
from datetime import timedelta

import pytest
import urllib3
from minio import Minio
from minio.commonconfig import ComposeSource, CopySource, Tags
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

from harness.data import MIB, blob, md5


@pytest.fixture
def mc(server):
    pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=10, read=60), retries=False)
    keys = {"access_key": server.access_key, "secret_key": server.secret_key}
    return Minio(server.authority, **keys, secure=False, region=server.region, http_client=pool)


def body(answer):
    try:
        return answer.read()
    finally:
        answer.close()
        answer.release_conn()


def test_bucket_life(mc):
    mc.make_bucket("minio-bucket")
    assert mc.bucket_exists("minio-bucket")
    assert "minio-bucket" in [bucket.name for bucket in mc.list_buckets()]
    mc.remove_bucket("minio-bucket")
    assert not mc.bucket_exists("minio-bucket")


def test_put_get_stat_remove(mc, bucket):
    data = blob(100_000)
    put = mc.put_object(bucket, "a/b", io.BytesIO(data), len(data), content_type="x/y", metadata={"colour": "blue"})
    assert put.etag == md5(data)
    stat = mc.stat_object(bucket, "a/b")
    assert (stat.size, stat.etag, stat.content_type) == (len(data), md5(data), "x/y")
    assert stat.metadata["x-amz-meta-colour"] == "blue"
    assert body(mc.get_object(bucket, "a/b")) == data
    assert body(mc.get_object(bucket, "a/b", offset=10, length=5)) == data[10:15]
    mc.remove_object(bucket, "a/b")
    with pytest.raises(S3Error) as error:
        mc.stat_object(bucket, "a/b")
    assert error.value.code == "NoSuchKey"


def test_stream_of_unknown_length_is_multipart(mc, bucket):
    data = blob(12 * MIB)
    put = mc.put_object(bucket, "big", io.BytesIO(data), -1, part_size=5 * MIB)
    assert put.etag.endswith("-3")
    assert body(mc.get_object(bucket, "big")) == data


def test_file_up_and_down(mc, bucket, tmp_path):
    (tmp_path / "f").write_bytes(blob(3 * MIB))
    mc.fput_object(bucket, "f", str(tmp_path / "f"))
    mc.fget_object(bucket, "f", str(tmp_path / "g"))
    assert (tmp_path / "g").read_bytes() == (tmp_path / "f").read_bytes()


def test_list_copy_compose_and_delete_many(mc, bucket):
    parts = [blob(5 * MIB, 1), blob(1000, 2)]
    for number, part in enumerate(parts):
        mc.put_object(bucket, f"p/{number}", io.BytesIO(part), len(part))
    assert [entry.object_name for entry in mc.list_objects(bucket)] == ["p/"]
    mc.copy_object(bucket, "copy", CopySource(bucket, "p/1"))
    assert body(mc.get_object(bucket, "copy")) == parts[1]
    mc.compose_object(bucket, "whole", [ComposeSource(bucket, f"p/{number}") for number in range(2)])
    assert body(mc.get_object(bucket, "whole")) == b"".join(parts)
    names = [entry.object_name for entry in mc.list_objects(bucket, recursive=True)]
    assert names == ["copy", "p/0", "p/1", "whole"]
    assert list(mc.remove_objects(bucket, [DeleteObject(name) for name in names])) == []
    assert list(mc.list_objects(bucket, recursive=True)) == []


def test_tags(mc, bucket):
    mc.put_object(bucket, "k", io.BytesIO(b"x"), 1)
    tags = Tags.new_object_tags()
    tags["a"] = "1"
    mc.set_object_tags(bucket, "k", tags)
    assert dict(mc.get_object_tags(bucket, "k")) == {"a": "1"}
    mc.delete_object_tags(bucket, "k")
    assert not mc.get_object_tags(bucket, "k")


def test_presigned_both_ways(mc, bucket):
    http = urllib3.PoolManager(timeout=20, retries=False)
    put = http.request("PUT", mc.presigned_put_object(bucket, "p", expires=timedelta(minutes=1)), body=b"signed")
    assert put.status == 200
    got = http.request("GET", mc.presigned_get_object(bucket, "p", expires=timedelta(minutes=1)))
    assert got.data == b"signed"
