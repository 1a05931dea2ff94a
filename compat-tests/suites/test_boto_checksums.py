"""Digests and checksums: each algorithm, as header and as trailer, kept, given back, and refused when wrong."""

import base64
import hashlib
import zlib

import pytest
from awscrt import checksums as crt
from botocore.exceptions import ClientError

from harness import clients
from harness.data import MIB, blob


def b64(raw):
    return base64.b64encode(raw).decode()


DIGESTS = {
    "CRC32": lambda data: b64(zlib.crc32(data).to_bytes(4, "big")),
    "CRC32C": lambda data: b64(crt.crc32c(data).to_bytes(4, "big")),
    "CRC64NVME": lambda data: b64(crt.crc64nvme(data).to_bytes(8, "big")),
    "SHA1": lambda data: b64(hashlib.sha1(data).digest()),
    "SHA256": lambda data: b64(hashlib.sha256(data).digest()),
}
each_algorithm = pytest.mark.parametrize("algorithm", DIGESTS)


@pytest.fixture
def plain(server):
    """A client that adds no checksum by itself."""
    return clients.boto(server, request_checksum_calculation="when_required")


def code_of(call, **arguments):
    with pytest.raises(ClientError) as error:
        call(**arguments)
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


@each_algorithm
def test_as_header(plain, bucket, algorithm):
    data = blob(70_000)
    named = {f"Checksum{algorithm}": DIGESTS[algorithm](data)}
    put = plain.put_object(Bucket=bucket, Key="k", Body=data, **named)
    assert put[f"Checksum{algorithm}"] == named[f"Checksum{algorithm}"]
    head = plain.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"] == named[f"Checksum{algorithm}"]
    assert head["ChecksumType"] == "FULL_OBJECT"
    assert f"Checksum{algorithm}" not in plain.head_object(Bucket=bucket, Key="k")


@each_algorithm
def test_as_trailer(plain, bucket, algorithm):
    data = blob(300_000)
    put = plain.put_object(Bucket=bucket, Key="k", Body=data, ChecksumAlgorithm=algorithm)
    assert put[f"Checksum{algorithm}"] == DIGESTS[algorithm](data)
    got = plain.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got["Body"].read() == data and got[f"Checksum{algorithm}"] == DIGESTS[algorithm](data)


@each_algorithm
def test_wrong_one_leaves_the_old_object(plain, bucket, algorithm):
    plain.put_object(Bucket=bucket, Key="k", Body=b"old")
    wrong = {f"Checksum{algorithm}": DIGESTS[algorithm](b"other")}
    assert code_of(plain.put_object, Bucket=bucket, Key="k", Body=b"new", **wrong) == (400, "BadDigest")
    assert plain.get_object(Bucket=bucket, Key="k")["Body"].read() == b"old"


def test_content_md5(plain, bucket):
    plain.put_object(Bucket=bucket, Key="k", Body=b"x", ContentMD5=b64(hashlib.md5(b"x").digest()))
    wrong = {"Bucket": bucket, "Key": "k", "Body": b"new"}
    assert code_of(plain.put_object, **wrong, ContentMD5=b64(hashlib.md5(b"y").digest())) == (400, "BadDigest")
    assert code_of(plain.put_object, **wrong, ContentMD5="bm90IGFuIG1kNQ==") == (400, "InvalidDigest")
    assert plain.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


@each_algorithm
def test_multipart_part_by_part(plain, bucket, algorithm):
    where = {"Bucket": bucket, "Key": "k"}
    at = {**where, "UploadId": plain.create_multipart_upload(**where, ChecksumAlgorithm=algorithm)["UploadId"]}
    bodies, parts = [blob(5 * MIB, 1), blob(77, 2)], []
    for number, body in enumerate(bodies, 1):
        put = plain.upload_part(**at, PartNumber=number, Body=body, ChecksumAlgorithm=algorithm)
        assert put[f"Checksum{algorithm}"] == DIGESTS[algorithm](body)
        named = {f"Checksum{algorithm}": put[f"Checksum{algorithm}"]}
        parts.append({"PartNumber": number, "ETag": put["ETag"], **named})
    done = plain.complete_multipart_upload(**at, MultipartUpload={"Parts": parts})
    whole = DIGESTS[algorithm](b"".join(bodies))
    joined = DIGESTS[algorithm](b"".join(base64.b64decode(part[f"Checksum{algorithm}"]) for part in parts))
    if algorithm == "CRC64NVME":
        assert (done["ChecksumType"], done[f"Checksum{algorithm}"]) == ("FULL_OBJECT", whole)
    else:
        assert (done["ChecksumType"], done[f"Checksum{algorithm}"]) == ("COMPOSITE", f"{joined}-2")
    head = plain.head_object(**where, ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"] == done[f"Checksum{algorithm}"]


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
def test_multipart_full_object(plain, bucket, algorithm):
    where = {"Bucket": bucket, "Key": "k"}
    kind = {"ChecksumAlgorithm": algorithm, "ChecksumType": "FULL_OBJECT"}
    at = {**where, "UploadId": plain.create_multipart_upload(**where, **kind)["UploadId"]}
    bodies, parts = [blob(5 * MIB, 1), blob(5 * MIB, 2), blob(3, 3)], []
    for number, body in enumerate(bodies, 1):
        put = plain.upload_part(**at, PartNumber=number, Body=body, ChecksumAlgorithm=algorithm)
        parts.append({"PartNumber": number, "ETag": put["ETag"]})
    named = {"ChecksumType": "FULL_OBJECT", "MultipartUpload": {"Parts": parts}}
    wrong = {f"Checksum{algorithm}": DIGESTS[algorithm](b"other")}
    assert code_of(plain.complete_multipart_upload, **at, **named, **wrong) == (400, "BadDigest")
    right = {f"Checksum{algorithm}": DIGESTS[algorithm](b"".join(bodies))}
    done = plain.complete_multipart_upload(**at, **named, **right)
    assert done["ChecksumType"] == "FULL_OBJECT"
    assert done[f"Checksum{algorithm}"] == right[f"Checksum{algorithm}"]


def test_copy_with_another_algorithm(plain, bucket):
    plain.put_object(Bucket=bucket, Key="a", Body=b"data", ChecksumAlgorithm="CRC32")
    copied = plain.copy_object(Bucket=bucket, Key="b", CopySource=f"{bucket}/a", ChecksumAlgorithm="SHA256")
    assert copied["CopyObjectResult"]["ChecksumSHA256"] == DIGESTS["SHA256"](b"data")


def test_default_client_gets_its_checksum_back(s3, bucket):
    data = blob(1000)
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"] == DIGESTS["CRC32"](data)
