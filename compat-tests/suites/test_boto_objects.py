"""Objects through boto3: put, get, head, ranges, attributes, delete, copy."""

import datetime

import pytest
from botocore.exceptions import ClientError

from harness.data import KIB, MIB, blob, md5


def code_of(error):
    """Status and S3 code of a refused call."""
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


@pytest.mark.parametrize("len_bytes", [0, 1, 4 * KIB, 64 * KIB + 1, MIB, 5 * MIB + 3])
def test_put_and_get(s3, bucket, len_bytes):
    data = blob(len_bytes)
    put = s3.put_object(Bucket=bucket, Key="k", Body=data)
    assert put["ETag"] == f'"{md5(data)}"'
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == data
    assert got["ContentLength"] == len_bytes and got["ETag"] == put["ETag"]
    assert got["AcceptRanges"] == "bytes"


def test_overwrite_shows_the_new_object_only(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"one", Metadata={"a": "1"})
    s3.put_object(Bucket=bucket, Key="k", Body=b"second", ContentType="x/y")
    got = s3.get_object(Bucket=bucket, Key="k")
    assert (got["Body"].read(), got["Metadata"], got["ContentType"]) == (b"second", {}, "x/y")


def test_attributes_come_back(s3, bucket):
    expires = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    said = {
        "ContentType": "text/x-own; charset=utf-8",
        "CacheControl": "no-store, max-age=1",
        "ContentDisposition": 'attachment; filename="a b.txt"',
        "ContentEncoding": "gzip",
        "ContentLanguage": "de, en",
    }
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Expires=expires, Metadata={"Colour": "blue", "n": "1"}, **said)
    head = s3.head_object(Bucket=bucket, Key="k")
    assert {name: head[name] for name in said} == said
    assert head["Metadata"] == {"colour": "blue", "n": "1"}
    assert head["ExpiresString"] == "Wed, 02 Jan 2030 03:04:05 GMT"


def test_default_content_type(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert s3.head_object(Bucket=bucket, Key="k")["ContentType"] == "binary/octet-stream"


def test_last_modified_is_about_now(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    age = datetime.datetime.now(datetime.UTC) - s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    assert abs(age) < datetime.timedelta(minutes=5)


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [("bytes=0-0", 0, 0), ("bytes=3-7", 3, 7), ("bytes=90-", 90, 99), ("bytes=-5", 95, 99), ("bytes=95-200", 95, 99)],
)
def test_ranges(s3, bucket, header, first, last):
    data = blob(100)
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    got = s3.get_object(Bucket=bucket, Key="k", Range=header)
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert got["ContentRange"] == f"bytes {first}-{last}/100"
    assert got["Body"].read() == data[first : last + 1]


def test_range_beyond_the_end_is_416(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"12345")
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="k", Range="bytes=5-9")
    assert code_of(error) == (416, "InvalidRange")


def test_range_that_is_none_gets_all(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"12345")
    got = s3.get_object(Bucket=bucket, Key="k", Range="lines=1-2")
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert got["Body"].read() == b"12345"


def test_head_of_a_range(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"12345")
    head = s3.head_object(Bucket=bucket, Key="k", Range="bytes=1-2")
    assert head["ContentLength"] == 2


def test_response_overrides(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    said = {
        "ResponseContentType": "text/x-other",
        "ResponseContentDisposition": 'attachment; filename="a"',
        "ResponseCacheControl": "no-cache",
        "ResponseContentLanguage": "fr",
        "ResponseContentEncoding": "aaa",
    }
    got = s3.get_object(Bucket=bucket, Key="k", **said)
    for name, value in said.items():
        assert got[name.removeprefix("Response")] == value


def test_missing_key_and_bucket(s3, bucket):
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="nothing")
    assert code_of(error) == (404, "NoSuchKey")
    with pytest.raises(ClientError) as error:
        s3.head_object(Bucket=bucket, Key="nothing")
    assert code_of(error)[0] == 404
    for call in (s3.get_object, s3.put_object):
        with pytest.raises(ClientError) as error:
            call(Bucket="no-such-bucket-here", Key="k")
        assert code_of(error) == (404, "NoSuchBucket")


def test_delete_is_idempotent(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for _ in range(2):
        assert s3.delete_object(Bucket=bucket, Key="k")["ResponseMetadata"]["HTTPStatusCode"] == 204
    with pytest.raises(ClientError):
        s3.head_object(Bucket=bucket, Key="k")


def test_delete_many(s3, bucket):
    keys = [f"k/{number:04}" for number in range(1000)]
    for key in keys[::100]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    done = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert sorted(entry["Key"] for entry in done["Deleted"]) == keys and "Errors" not in done
    s3.put_object(Bucket=bucket, Key="<&>\u00fc", Body=b"x")
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Quiet": True, "Objects": [{"Key": "<&>\u00fc"}]})
    assert "Deleted" not in quiet
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_delete_more_than_1000_is_refused(s3, bucket):
    with pytest.raises(ClientError) as error:
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": f"{number}"} for number in range(1001)]})
    assert code_of(error) == (400, "MalformedXML")


def test_copy_keeps_or_replaces_metadata(s3, bucket):
    data = blob(3000)
    s3.put_object(Bucket=bucket, Key="a +\u00fc", Body=data, Metadata={"m": "1"}, ContentType="x/y", Tagging="t=1")
    source = {"Bucket": bucket, "Key": "a +\u00fc"}
    copied = s3.copy_object(Bucket=bucket, Key="b", CopySource=source)
    assert copied["CopyObjectResult"]["ETag"] == f'"{md5(data)}"'
    head = s3.head_object(Bucket=bucket, Key="b")
    assert (head["Metadata"], head["ContentType"]) == ({"m": "1"}, "x/y")
    assert s3.get_object_tagging(Bucket=bucket, Key="b")["TagSet"] == [{"Key": "t", "Value": "1"}]
    s3.copy_object(
        Bucket=bucket, Key="c", CopySource=source, MetadataDirective="REPLACE", Metadata={"m": "2"},
        TaggingDirective="REPLACE", Tagging="t=2",
    )  # fmt: skip
    assert s3.head_object(Bucket=bucket, Key="c")["Metadata"] == {"m": "2"}
    assert s3.get_object_tagging(Bucket=bucket, Key="c")["TagSet"] == [{"Key": "t", "Value": "2"}]
    assert s3.get_object(Bucket=bucket, Key="c")["Body"].read() == data


def test_copy_onto_itself(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"m": "1"})
    source = {"Bucket": bucket, "Key": "k"}
    with pytest.raises(ClientError) as error:
        s3.copy_object(Bucket=bucket, Key="k", CopySource=source)
    assert code_of(error) == (400, "InvalidRequest")
    s3.copy_object(Bucket=bucket, Key="k", CopySource=source, MetadataDirective="REPLACE", Metadata={"m": "2"})
    got = s3.get_object(Bucket=bucket, Key="k")
    assert (got["Body"].read(), got["Metadata"]) == (b"x", {"m": "2"})


def test_copy_from_another_bucket_and_of_nothing(s3, bucket):
    other = bucket + "-other"
    s3.create_bucket(Bucket=other)
    s3.put_object(Bucket=other, Key="k", Body=b"x")
    s3.copy_object(Bucket=bucket, Key="k", CopySource=f"{other}/k")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    for source, wanted in ((f"{other}/none", "NoSuchKey"), ("no-such-bucket-here/k", "NoSuchBucket")):
        with pytest.raises(ClientError) as error:
            s3.copy_object(Bucket=bucket, Key="j", CopySource=source)
        assert code_of(error) == (404, wanted)


def test_get_object_attributes(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"12345", ChecksumAlgorithm="SHA256")
    wanted = ["ETag", "Checksum", "ObjectSize", "StorageClass", "ObjectParts"]
    got = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=wanted)
    assert got["ETag"] == md5(b"12345")
    assert got["ObjectSize"] == 5 and got["StorageClass"] == "STANDARD"
    assert got["Checksum"]["ChecksumSHA256"] and "ObjectParts" not in got


def test_object_tagging(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1&b=%2B%20x")
    tags = s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"a": "1", "b": "+ x"}
    assert s3.head_object(Bucket=bucket, Key="k")["TagCount"] == 2
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": [{"Key": "c", "Value": "\u00fc"}]})
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "c", "Value": "\u00fc"}]
    s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []
    many = [{"Key": f"{number}", "Value": ""} for number in range(11)]
    with pytest.raises(ClientError) as error:
        s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": many})
    assert code_of(error)[0] == 400


def test_not_built_is_said_so(s3, bucket):
    for call, more in (
        (s3.put_bucket_website, {"WebsiteConfiguration": {"IndexDocument": {"Suffix": "index.html"}}}),
        (s3.put_bucket_versioning, {"VersioningConfiguration": {"Status": "Enabled"}}),
        (s3.put_object_legal_hold, {"Key": "k", "LegalHold": {"Status": "ON"}}),
    ):
        with pytest.raises(ClientError) as error:
            call(Bucket=bucket, **more)
        assert code_of(error) == (501, "NotImplemented")
