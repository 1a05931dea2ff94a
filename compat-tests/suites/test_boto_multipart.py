"""Multipart uploads through boto3."""

import random

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from harness.data import KIB, MIB, blob, md5, multipart_etag


def code_of(call, **arguments):
    """Status and code of the refusal."""
    with pytest.raises(ClientError) as error:
        call(**arguments)
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


class Upload:
    """One upload in progress."""

    def __init__(self, s3, bucket, key="k", **options):
        self.s3, self.where = s3, {"Bucket": bucket, "Key": key}
        self.id = s3.create_multipart_upload(**self.where, **options)["UploadId"]
        self.at = {**self.where, "UploadId": self.id}
        self.parts = {}

    def put(self, number, data):
        self.parts[number] = self.s3.upload_part(**self.at, PartNumber=number, Body=data)["ETag"]
        return self.parts[number]

    def listed(self):
        return [{"PartNumber": number, "ETag": self.parts[number]} for number in sorted(self.parts)]

    def complete(self, parts=None, **options):
        named = {"Parts": self.listed() if parts is None else parts}
        return self.s3.complete_multipart_upload(**self.at, MultipartUpload=named, **options)

    def abort(self):
        self.s3.abort_multipart_upload(**self.at)


@pytest.fixture
def upload(s3, bucket):
    return Upload(s3, bucket, ContentType="x/y", Metadata={"m": "1"})


def test_complete(s3, bucket, upload):
    parts = [blob(5 * MIB, 1), blob(5 * MIB, 2), blob(100, 3)]
    for number, part in enumerate(parts, 1):
        assert upload.put(number, part) == f'"{md5(part)}"'
    assert code_of(s3.head_object, **upload.where)[0] == 404
    done = upload.complete()
    assert done["ETag"] == f'"{multipart_etag(parts)}"'
    got = s3.get_object(**upload.where)
    assert got["Body"].read() == b"".join(parts)
    assert (got["ContentType"], got["Metadata"], got["ETag"]) == ("x/y", {"m": "1"}, done["ETag"])
    assert s3.get_object(**upload.where, Range="bytes=5242878-5242881")["Body"].read() == parts[0][-2:] + parts[1][:2]


def test_complete_is_idempotent(s3, upload):
    upload.put(1, b"x")
    first = upload.complete()
    assert upload.complete()["ETag"] == first["ETag"]


def test_parts_in_any_order_with_gaps_and_rewrites(s3, upload):
    parts = {3: blob(5 * MIB, 3), 7: blob(6 * MIB, 7), 10_000: b"end"}
    for number in (10_000, 3, 7):
        upload.put(number, b"first try")
        upload.put(number, parts[number])
    done = upload.complete()
    assert done["ETag"] == f'"{multipart_etag([parts[number] for number in sorted(parts)])}"'
    assert s3.get_object(**upload.where)["Body"].read() == b"".join(parts[number] for number in sorted(parts))


def test_parts_left_out_are_dropped(s3, upload):
    for number in (1, 2, 3):
        upload.put(number, blob(5 * MIB, number))
    upload.complete([{"PartNumber": 2, "ETag": upload.parts[2]}])
    assert s3.get_object(**upload.where)["Body"].read() == blob(5 * MIB, 2)


def test_get_by_part_number(s3, upload):
    parts = [blob(5 * MIB, 1), blob(5 * MIB + 1, 2), blob(9, 3)]
    for number, part in enumerate(parts, 1):
        upload.put(number, part)
    upload.complete()
    got = s3.get_object(**upload.where, PartNumber=2)
    assert got["PartsCount"] == 3 and got["Body"].read() == parts[1]
    assert s3.head_object(**upload.where, PartNumber=3)["ContentLength"] == 9
    assert code_of(s3.get_object, **upload.where, PartNumber=4)[0] == 416


def test_refusals(s3, bucket, upload):
    upload.put(1, blob(100 * KIB, 1))
    upload.put(2, b"small")
    assert code_of(upload.complete) == (400, "EntityTooSmall")
    assert code_of(upload.complete, parts=list(reversed(upload.listed()))) == (400, "InvalidPartOrder")
    wrong = [{"PartNumber": 1, "ETag": md5(b"other")}]
    assert code_of(upload.complete, parts=wrong) == (400, "InvalidPart")
    assert code_of(upload.complete, parts=[{"PartNumber": 9, "ETag": upload.parts[1]}]) == (400, "InvalidPart")
    assert code_of(upload.complete, parts=[]) == (400, "MalformedXML")
    for number in (0, 10_001):
        bad = {**upload.at, "PartNumber": number, "Body": b"x"}
        assert code_of(s3.upload_part, **bad) == (400, "InvalidArgument")
    ghost = {**upload.where, "UploadId": "no-such-upload"}
    assert code_of(s3.upload_part, **ghost, PartNumber=1, Body=b"x") == (404, "NoSuchUpload")
    assert code_of(s3.abort_multipart_upload, **ghost) == (404, "NoSuchUpload")
    upload.abort()
    assert code_of(s3.list_parts, **upload.at) == (404, "NoSuchUpload")


def test_abort_leaves_the_old_object(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    upload = Upload(s3, bucket)
    upload.put(1, b"new")
    upload.abort()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"old"
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_list_parts_in_pages(s3, upload):
    for number in range(1, 8):
        upload.put(number, b"x" * number)
    page = s3.list_parts(**upload.at, MaxParts=3)
    assert [(part["PartNumber"], part["Size"]) for part in page["Parts"]] == [(1, 1), (2, 2), (3, 3)]
    assert page["IsTruncated"] and page["NextPartNumberMarker"] == 3
    rest = s3.list_parts(**upload.at, PartNumberMarker=3)
    assert [part["PartNumber"] for part in rest["Parts"]] == [4, 5, 6, 7]
    assert rest["Parts"][0]["ETag"] == upload.parts[4]
    upload.abort()


def test_list_uploads(s3, bucket):
    uploads = [Upload(s3, bucket, key) for key in ("a/1", "a/2", "b", "b")]
    listed = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [entry["Key"] for entry in listed] == ["a/1", "a/2", "b", "b"]
    assert {entry["UploadId"] for entry in listed} == {upload.id for upload in uploads}
    folded = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [entry["Prefix"] for entry in folded["CommonPrefixes"]] == ["a/"] and len(folded["Uploads"]) == 2
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, PaginationConfig={"PageSize": 1})
    assert sum(len(page.get("Uploads", [])) for page in pages) == 4
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    for upload in uploads:
        upload.abort()


def test_upload_part_copy(s3, bucket, upload):
    data = blob(12 * MIB)
    s3.put_object(Bucket=bucket, Key="source", Body=data)
    source = {"Bucket": bucket, "Key": "source"}
    for number, (first, last) in enumerate([(0, 6 * MIB - 1), (6 * MIB, 12 * MIB - 1)], 1):
        said = {"PartNumber": number, "CopySource": source, "CopySourceRange": f"bytes={first}-{last}"}
        copied = s3.upload_part_copy(**upload.at, **said)
        upload.parts[number] = copied["CopyPartResult"]["ETag"]
    beyond = {"PartNumber": 3, "CopySource": source, "CopySourceRange": f"bytes=0-{12 * MIB}"}
    assert code_of(s3.upload_part_copy, **upload.at, **beyond)[0] in (400, 416)
    upload.complete()
    assert s3.get_object(**upload.where)["Body"].read() == data


def test_transfer_manager(s3, bucket, tmp_path):
    data = blob(33 * MIB + 5)
    (tmp_path / "f").write_bytes(data)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=6)
    s3.upload_file(str(tmp_path / "f"), bucket, "big", Config=config)
    s3.download_file(bucket, "big", str(tmp_path / "g"), Config=config)
    assert md5((tmp_path / "g").read_bytes()) == md5(data)
    s3.copy({"Bucket": bucket, "Key": "big"}, bucket, "copy", Config=config)
    first = random.Random(1).randrange(len(data) - 1000)
    got = s3.get_object(Bucket=bucket, Key="copy", Range=f"bytes={first}-{first + 999}")
    assert got["Body"].read() == data[first : first + 1000]


def test_object_parts_attributes(s3, bucket):
    upload = Upload(s3, bucket, ChecksumAlgorithm="SHA256")
    parts = []
    for number, part in enumerate([blob(5 * MIB, 1), b"end"], 1):
        put = s3.upload_part(**upload.at, PartNumber=number, Body=part, ChecksumAlgorithm="SHA256")
        parts.append({"PartNumber": number, "ETag": put["ETag"], "ChecksumSHA256": put["ChecksumSHA256"]})
    upload.complete(parts)
    got = s3.get_object_attributes(**upload.where, ObjectAttributes=["ObjectParts", "ObjectSize"])
    assert got["ObjectParts"]["TotalPartsCount"] == 2 and got["ObjectSize"] == 5 * MIB + 3
