"""If-Match and its family, on reads, writes, copies and deletes."""

import concurrent.futures
import datetime

import pytest
from botocore.exceptions import ClientError

from harness.data import md5

HOUR = datetime.timedelta(hours=1)


def refused(call, **arguments):
    """Status and code of the refusal."""
    with pytest.raises(ClientError) as error:
        call(**arguments)
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


@pytest.fixture
def where(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"first")
    return {"Bucket": bucket, "Key": "k"}


@pytest.fixture
def modified(s3, where):
    return s3.head_object(**where)["LastModified"]


def test_read_if_match(s3, where):
    assert s3.get_object(**where, IfMatch=md5(b"first"))["Body"].read() == b"first"
    assert s3.get_object(**where, IfMatch="*")["Body"].read() == b"first"
    assert refused(s3.get_object, **where, IfMatch='"other"') == (412, "PreconditionFailed")
    assert refused(s3.head_object, **where, IfMatch='"other"')[0] == 412


def test_read_if_none_match(s3, where):
    assert s3.get_object(**where, IfNoneMatch='"other"')["Body"].read() == b"first"
    assert refused(s3.get_object, **where, IfNoneMatch=f'"{md5(b"first")}"')[0] == 304
    assert refused(s3.head_object, **where, IfNoneMatch="*")[0] == 304


def test_read_by_time(s3, where, modified):
    assert s3.get_object(**where, IfModifiedSince=modified - HOUR)["Body"].read() == b"first"
    assert refused(s3.get_object, **where, IfModifiedSince=modified)[0] == 304
    assert s3.get_object(**where, IfUnmodifiedSince=modified)["Body"].read() == b"first"
    assert refused(s3.get_object, **where, IfUnmodifiedSince=modified - HOUR) == (412, "PreconditionFailed")


def test_tags_outrank_times(s3, where, modified):
    tag = md5(b"first")
    assert s3.get_object(**where, IfMatch=tag, IfUnmodifiedSince=modified - HOUR)["Body"].read() == b"first"
    assert refused(s3.get_object, **where, IfNoneMatch=tag, IfModifiedSince=modified - HOUR)[0] == 304


def test_put_if_none_match(s3, where):
    assert refused(s3.put_object, **where, Body=b"second", IfNoneMatch="*") == (412, "PreconditionFailed")
    s3.put_object(Bucket=where["Bucket"], Key="new", Body=b"second", IfNoneMatch="*")
    assert s3.get_object(**where)["Body"].read() == b"first"


def test_put_if_match(s3, where):
    assert refused(s3.put_object, **where, Body=b"x", IfMatch='"other"') == (412, "PreconditionFailed")
    s3.put_object(**where, Body=b"second", IfMatch=md5(b"first"))
    assert s3.get_object(**where)["Body"].read() == b"second"
    missing = {"Bucket": where["Bucket"], "Key": "none"}
    assert refused(s3.put_object, **missing, Body=b"x", IfMatch=md5(b"first")) == (404, "NoSuchKey")


def test_one_of_many_creators_wins(s3, bucket):
    def create(number):
        try:
            s3.put_object(Bucket=bucket, Key="race", Body=f"{number}".encode() * 1000, IfNoneMatch="*")
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412)
            return None
        return number

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(create, range(32)) if number is not None]
    assert len(winners) == 1
    assert s3.get_object(Bucket=bucket, Key="race")["Body"].read() == f"{winners[0]}".encode() * 1000


def test_compare_and_swap_counts_every_winner(s3, bucket):
    s3.put_object(Bucket=bucket, Key="counter", Body=b"0")

    def add(_):
        for _ in range(200):
            got = s3.get_object(Bucket=bucket, Key="counter")
            value = int(got["Body"].read()) + 1
            try:
                s3.put_object(Bucket=bucket, Key="counter", Body=f"{value}".encode(), IfMatch=got["ETag"])
            except ClientError as error:
                assert error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412)
                continue
            return
        pytest.fail("never won")

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(24)))
    assert s3.get_object(Bucket=bucket, Key="counter")["Body"].read() == b"24"


def test_delete_if_match(s3, where):
    assert refused(s3.delete_object, **where, IfMatch='"other"') == (412, "PreconditionFailed")
    s3.delete_object(**where, IfMatch=md5(b"first"))
    assert refused(s3.head_object, **where)[0] == 404


def test_copy_source_conditions(s3, where, modified):
    copy = {"Bucket": where["Bucket"], "Key": "copy", "CopySource": where}
    s3.copy_object(**copy, CopySourceIfMatch=md5(b"first"))
    s3.copy_object(**copy, CopySourceIfModifiedSince=modified - HOUR)
    for condition in (
        {"CopySourceIfMatch": '"other"'},
        {"CopySourceIfNoneMatch": md5(b"first")},
        {"CopySourceIfUnmodifiedSince": modified - HOUR},
        {"CopySourceIfModifiedSince": modified},
    ):
        assert refused(s3.copy_object, **copy, **condition) == (412, "PreconditionFailed")


def test_copy_target_conditions(s3, where):
    copy = {"Bucket": where["Bucket"], "CopySource": where}
    s3.copy_object(**copy, Key="fresh", IfNoneMatch="*")
    assert refused(s3.copy_object, **copy, Key="fresh", IfNoneMatch="*") == (412, "PreconditionFailed")


def test_complete_if_none_match(s3, where):
    upload = s3.create_multipart_upload(**where)["UploadId"]
    part = s3.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"late")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    complete = {**where, "UploadId": upload, "MultipartUpload": parts}
    assert refused(s3.complete_multipart_upload, **complete, IfNoneMatch="*") == (412, "PreconditionFailed")
    assert s3.get_object(**where)["Body"].read() == b"first"
    s3.abort_multipart_upload(**where, UploadId=upload)
