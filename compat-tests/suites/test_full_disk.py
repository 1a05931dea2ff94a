"""A disk that is full or read-only: a clear error, the old object intact, nothing left behind."""

import os

import pytest
from botocore.exceptions import ClientError

from harness import clients
from harness.data import MIB, blob
from harness.mounts import inside, make_read_only, private_ext4, private_tmpfs
from harness.wait import until

pytestmark = pytest.mark.tree


@pytest.fixture
def small(new_server, tmp_path):
    """A server on a file system of 24 MiB with one object in it."""
    data_dir = tmp_path / "small"
    return started(new_server(data_dir=data_dir, wrap=private_tmpfs(data_dir, "24m")))


def started(server):
    """The server with one object in it, and a client."""
    server.start()
    s3 = clients.boto(server)
    s3.create_bucket(Bucket="bkt")
    s3.put_object(Bucket="bkt", Key="old", Body=blob(MIB, "old"))
    return server, s3


def refused(call, **arguments):
    """Status and code of the refusal."""
    with pytest.raises(ClientError) as error:
        call(**arguments)
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def staged(server):
    """What lies in staging, seen through the server's own namespace."""
    staging = inside(server, server.volume_dir / ".portico" / "staging")
    return [name for _, _, names in os.walk(staging) for name in names]


def test_disk_full(small):
    server, s3 = small
    status, code = refused(s3.put_object, Bucket="bkt", Key="old", Body=blob(40 * MIB))
    assert status in (507, 503) and code not in ("InternalError", None)
    assert s3.get_object(Bucket="bkt", Key="old")["Body"].read() == blob(MIB, "old")
    until("staging is empty", lambda: not staged(server))
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket="bkt")["Contents"]] == ["old"]


def test_full_disk_fills_by_small_objects_and_is_freed_by_deletes(small):
    _, s3 = small
    acknowledged, code = [], None
    for number in range(60):
        try:
            s3.put_object(Bucket="bkt", Key=f"{number:03}", Body=blob(MIB, number))
        except ClientError as error:
            code = error.response["ResponseMetadata"]["HTTPStatusCode"]
            break
        acknowledged.append(number)
    assert code in (507, 503) and len(acknowledged) > 5
    for number in acknowledged:
        assert s3.get_object(Bucket="bkt", Key=f"{number:03}")["Body"].read() == blob(MIB, number)
    for number in acknowledged:
        s3.delete_object(Bucket="bkt", Key=f"{number:03}")
    s3.put_object(Bucket="bkt", Key="after", Body=blob(5 * MIB, "after"))
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket="bkt")["Contents"]] == ["after", "old"]


def test_disk_full_in_a_part(small):
    _, s3 = small
    at = {"Bucket": "bkt", "Key": "old"}
    at["UploadId"] = s3.create_multipart_upload(**at)["UploadId"]
    part = s3.upload_part(**at, PartNumber=1, Body=blob(MIB, "part"))
    status, _ = refused(s3.upload_part, **at, PartNumber=2, Body=blob(40 * MIB))
    assert status in (507, 503)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(**at, MultipartUpload=parts)
    assert s3.get_object(Bucket="bkt", Key="old")["Body"].read() == blob(MIB, "part")


def test_read_only_file_system(new_server, tmp_path):
    data_dir = tmp_path / "fragile"
    server, s3 = started(new_server(data_dir=data_dir, wrap=private_ext4(data_dir, 64)))
    make_read_only(server)
    for call, more in ((s3.put_object, {"Body": b"new"}), (s3.delete_object, {})):
        status, code = refused(call, Bucket="bkt", Key="old", **more)
        assert status >= 403 and code not in ("InternalError", None)
    assert s3.get_object(Bucket="bkt", Key="old")["Body"].read() == blob(MIB, "old")
    assert s3.head_object(Bucket="bkt", Key="old")["ContentLength"] == MIB
    server.kill()  # its index cannot be flushed: a clean end is not to be had
