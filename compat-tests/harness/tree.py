"""The promise on ETags: true for the bytes as they are now, or plainly provisional."""

from harness.data import md5

PROVISIONAL = "px1-"


def assert_true_etag(etag, data):
    """The tag is the MD5 of these bytes, or of a form that nobody takes for one."""
    bare = etag.strip('"')
    assert bare == md5(data) or bare.startswith(PROVISIONAL), f"{etag} is stale: the bytes' MD5 is {md5(data)}"


def listed(s3, bucket, prefix=""):
    """The listing of a prefix by key."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {entry["Key"]: entry for page in pages for entry in page.get("Contents", [])}


def seen_by_all_doors(s3, bucket, key, data):
    """HEAD, GET and a conditional GET agree with the bytes. Returns the tag."""
    head = s3.head_object(Bucket=bucket, Key=key)
    assert head["ContentLength"] == len(data)
    assert_true_etag(head["ETag"], data)
    got = s3.get_object(Bucket=bucket, Key=key)
    assert got["Body"].read() == data
    assert_true_etag(got["ETag"], data)
    again = s3.get_object(Bucket=bucket, Key=key, IfMatch=head["ETag"])
    assert again["Body"].read() == data
    return head["ETag"]
