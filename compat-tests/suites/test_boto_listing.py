"""Listings: v1 and v2, prefixes, delimiters, pages, order, encodings."""

import pytest
from botocore.exceptions import ClientError

KEYS = sorted(
    ["a", "a-b", "a/1", "a/2", "a/b/3", "b", "c/d", "c e/f", "z\u00fc/1", "\U0001f600", "\ufffdx"], key=str.encode
)


@pytest.fixture
def filled(s3, bucket):
    for key in KEYS:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    return bucket


def keys_of(page):
    return [entry["Key"] for entry in page.get("Contents", [])]


def prefixes_of(page):
    return [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]


def test_order_is_utf8_binary(s3, filled):
    assert keys_of(s3.list_objects_v2(Bucket=filled)) == KEYS
    assert keys_of(s3.list_objects(Bucket=filled)) == KEYS


def test_entry_has_all_fields(s3, filled):
    entry = s3.list_objects_v2(Bucket=filled, Prefix="a-b", FetchOwner=True)["Contents"][0]
    assert entry["Size"] == 3 and entry["StorageClass"] == "STANDARD" and entry["Owner"]["ID"]
    head = s3.head_object(Bucket=filled, Key="a-b")
    assert entry["ETag"] == head["ETag"]
    assert entry["LastModified"].replace(microsecond=0) == head["LastModified"]
    assert "Owner" not in s3.list_objects_v2(Bucket=filled)["Contents"][0]
    assert "Owner" in s3.list_objects(Bucket=filled)["Contents"][0]


def test_delimiter_and_prefix(s3, filled):
    top = s3.list_objects_v2(Bucket=filled, Delimiter="/")
    assert keys_of(top) == [key for key in KEYS if "/" not in key]
    assert prefixes_of(top) == ["a/", "c e/", "c/", "z\u00fc/"]
    assert top["KeyCount"] == len(keys_of(top)) + 4
    below = s3.list_objects_v2(Bucket=filled, Delimiter="/", Prefix="a/")
    assert (keys_of(below), prefixes_of(below)) == (["a/1", "a/2"], ["a/b/"])
    odd = s3.list_objects_v2(Bucket=filled, Delimiter="b")
    assert prefixes_of(odd) == ["a-b", "a/b", "b"]
    assert keys_of(s3.list_objects_v2(Bucket=filled, Prefix="nothing")) == []


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_v2_pages(s3, filled, size):
    found, token = [], {}
    while True:
        page = s3.list_objects_v2(Bucket=filled, MaxKeys=size, **token)
        assert page["KeyCount"] == len(keys_of(page)) <= size
        found += keys_of(page)
        if not page["IsTruncated"]:
            break
        token = {"ContinuationToken": page["NextContinuationToken"]}
    assert found == KEYS


@pytest.mark.parametrize("size", [1, 2, 100])
def test_v1_pages_with_delimiter(s3, filled, size):
    found, marker = [], {}
    while True:
        page = s3.list_objects(Bucket=filled, MaxKeys=size, Delimiter="/", **marker)
        found += keys_of(page) + prefixes_of(page)
        if not page["IsTruncated"]:
            break
        marker = {"Marker": page["NextMarker"]}
    wanted = {key.split("/")[0] + "/" if "/" in key else key for key in KEYS}
    assert len(found) == len(wanted) and set(found) == wanted


def test_v2_pages_with_delimiter(s3, filled):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=filled, Delimiter="/", PaginationConfig={"PageSize": 1})
    found = [name for page in pages for name in keys_of(page) + prefixes_of(page)]
    assert len(found) == len(set(found)) == 9


def test_start_after_and_marker(s3, filled):
    assert keys_of(s3.list_objects_v2(Bucket=filled, StartAfter="a/1")) == KEYS[KEYS.index("a/1") + 1 :]
    assert keys_of(s3.list_objects_v2(Bucket=filled, StartAfter="a/11")) == KEYS[KEYS.index("a/2") :]
    assert keys_of(s3.list_objects(Bucket=filled, Marker="b")) == KEYS[KEYS.index("b") + 1 :]


def test_zero_and_bad_max_keys(s3, filled):
    none = s3.list_objects_v2(Bucket=filled, MaxKeys=0)
    assert keys_of(none) == [] and not none["IsTruncated"]
    with pytest.raises(ClientError) as error:
        s3.list_objects_v2(Bucket=filled, MaxKeys=-1)
    assert error.value.response["Error"]["Code"] == "InvalidArgument"


def test_encoding_type_url(s3, filled):
    page = s3.list_objects_v2(Bucket=filled, EncodingType="url", Prefix="c ")
    assert page["EncodingType"] == "url"
    assert keys_of(page) == ["c%20e/f"] or keys_of(page) == ["c+e/f"]


def test_more_than_a_page(s3, bucket):
    for number in range(1005):
        s3.put_object(Bucket=bucket, Key=f"{number:05}", Body=b"")
    first = s3.list_objects_v2(Bucket=bucket, MaxKeys=5000)
    assert first["KeyCount"] == 1000 and first["IsTruncated"]
    second = s3.list_objects_v2(Bucket=bucket, ContinuationToken=first["NextContinuationToken"])
    assert keys_of(first) + keys_of(second) == [f"{number:05}" for number in range(1005)]


def test_a_change_is_listed_at_once(s3, bucket):
    for number in range(60):
        s3.put_object(Bucket=bucket, Key=f"k{number}", Body=b"x" * number)
        assert f"k{number}" in keys_of(s3.list_objects_v2(Bucket=bucket))
        if number % 2:
            s3.delete_object(Bucket=bucket, Key=f"k{number}")
            assert f"k{number}" not in keys_of(s3.list_objects_v2(Bucket=bucket))


def test_missing_bucket(s3):
    with pytest.raises(ClientError) as error:
        s3.list_objects_v2(Bucket="no-such-bucket-here")
    assert error.value.response["Error"]["Code"] == "NoSuchBucket"


def test_list_buckets(s3, bucket):
    names = [bucket + suffix for suffix in ("-x", "-y", "-z")]
    for name in names:
        s3.create_bucket(Bucket=name)
    listed = s3.list_buckets(Prefix=bucket)
    assert [entry["Name"] for entry in listed["Buckets"]] == [bucket, *names]
    assert all(entry["CreationDate"] for entry in listed["Buckets"])
    page = s3.list_buckets(Prefix=bucket, MaxBuckets=2)
    rest = s3.list_buckets(Prefix=bucket, ContinuationToken=page["ContinuationToken"])
    assert [entry["Name"] for entry in page["Buckets"] + rest["Buckets"]] == [bucket, *names]
