"""aws-cli, as typed at a shell."""

import json
import urllib.request

import pytest

from harness.data import KIB, MIB, blob, md5, read_tree, sample_tree, write_tree
from harness.process import run, tool


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    write_tree(root, sample_tree())
    return root


def test_make_list_and_remove_bucket(aws):
    aws("s3", "mb", "s3://cli-bucket")
    assert "cli-bucket" in aws("s3", "ls")
    aws("s3", "rb", "s3://cli-bucket")
    assert "cli-bucket" not in aws("s3", "ls")


def test_cp_up_and_down_small(aws, bucket, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"hello")
    aws("s3", "cp", tmp_path / "a.txt", f"s3://{bucket}/dir/a.txt")
    aws("s3", "cp", f"s3://{bucket}/dir/a.txt", tmp_path / "back.txt")
    assert (tmp_path / "back.txt").read_bytes() == b"hello"
    assert "dir/a.txt" in aws("s3", "ls", "--recursive", f"s3://{bucket}")
    assert "PRE dir/" in aws("s3", "ls", f"s3://{bucket}")


def test_cp_from_stdin_and_to_stdout(aws, bucket):
    aws("s3", "cp", "-", f"s3://{bucket}/piped", stdin=b"from a pipe")
    assert aws("s3", "cp", f"s3://{bucket}/piped", "-") == "from a pipe"


def test_cp_above_8_mib_is_multipart(aws, bucket, s3, tmp_path):
    data = blob(20 * MIB + 17)
    (tmp_path / "big").write_bytes(data)
    aws("s3", "cp", tmp_path / "big", f"s3://{bucket}/big")
    head = s3.head_object(Bucket=bucket, Key="big")
    assert head["ContentLength"] == len(data)
    assert head["ETag"].strip('"').endswith("-3")
    aws("s3", "cp", f"s3://{bucket}/big", tmp_path / "back")
    assert md5((tmp_path / "back").read_bytes()) == md5(data)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_cp_bucket_to_bucket_above_8_mib(aws, bucket, tmp_path):
    data = blob(9 * MIB)
    (tmp_path / "big").write_bytes(data)
    aws("s3", "cp", tmp_path / "big", f"s3://{bucket}/big")
    aws("s3", "cp", f"s3://{bucket}/big", f"s3://{bucket}/copy")
    aws("s3", "cp", f"s3://{bucket}/copy", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_cp_keeps_type_and_metadata(aws, bucket, s3, tmp_path):
    (tmp_path / "page.html").write_bytes(b"<p>")
    aws(
        "s3", "cp", tmp_path / "page.html", f"s3://{bucket}/page.html",
        "--metadata", "colour=blue", "--cache-control", "max-age=5", "--storage-class", "STANDARD",
    )  # fmt: skip
    head = s3.head_object(Bucket=bucket, Key="page.html")
    assert head["ContentType"] == "text/html"
    assert head["Metadata"] == {"colour": "blue"}
    assert head["CacheControl"] == "max-age=5"


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_cp_with_checksum_algorithm(aws, bucket, tmp_path, algorithm):
    data = blob(9 * MIB)
    (tmp_path / "big").write_bytes(data)
    aws("s3", "cp", tmp_path / "big", f"s3://{bucket}/big", "--checksum-algorithm", algorithm)
    aws("s3", "cp", f"s3://{bucket}/big", tmp_path / "back", "--checksum-mode", "ENABLED")
    assert (tmp_path / "back").read_bytes() == data


def test_cp_of_missing_key_fails_clearly(aws, bucket, tmp_path):
    with pytest.raises(AssertionError, match="404|NoSuchKey|does not exist"):
        aws("s3", "cp", f"s3://{bucket}/nothing", tmp_path / "x")


def test_sync_up_with_changes_and_deletes(aws, bucket, tree, s3):
    aws("s3", "sync", tree, f"s3://{bucket}/base")
    assert aws("s3", "sync", tree, f"s3://{bucket}/base") == ""
    (tree / "readme.txt").write_bytes(b"changed: longer than before\n")
    (tree / "empty").unlink()
    (tree / "new").write_bytes(b"new")
    said = aws("s3", "sync", "--no-progress", "--delete", tree, f"s3://{bucket}/base")
    assert len([line for line in said.splitlines() if line.strip()]) == 3
    keys = {entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]}
    assert keys == {f"base/{name}" for name in read_tree(tree)}
    assert s3.get_object(Bucket=bucket, Key="base/readme.txt")["Body"].read().startswith(b"changed")


def test_sync_down_with_changes_and_deletes(aws, bucket, tree, s3, tmp_path):
    aws("s3", "sync", tree, f"s3://{bucket}")
    back = tmp_path / "back"
    aws("s3", "sync", f"s3://{bucket}", back)
    assert read_tree(back) == read_tree(tree)
    assert aws("s3", "sync", f"s3://{bucket}", back) == ""
    s3.put_object(Bucket=bucket, Key="readme.txt", Body=b"another length")
    s3.delete_object(Bucket=bucket, Key="empty")
    aws("s3", "sync", "--delete", f"s3://{bucket}", back)
    assert (back / "readme.txt").read_bytes() == b"another length"
    assert not (back / "empty").exists()


def test_mv_and_rm_recursive(aws, bucket, tree, s3):
    aws("s3", "cp", "--recursive", tree, f"s3://{bucket}/a")
    aws("s3", "mv", "--recursive", f"s3://{bucket}/a", f"s3://{bucket}/b")
    keys = {entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]}
    assert keys == {f"b/{name}" for name in read_tree(tree)}
    aws("s3", "rm", "--recursive", f"s3://{bucket}/b/photos")
    left = {entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]}
    assert left == {key for key in keys if not key.startswith("b/photos")}
    aws("s3", "rb", "--force", f"s3://{bucket}")
    aws("s3", "mb", f"s3://{bucket}")


def test_presigned_url_is_fetched_by_curl_and_urllib(aws, bucket, s3, tmp_path):
    data = blob(100 * KIB)
    s3.put_object(Bucket=bucket, Key="a b/presigned+ü", Body=data)
    url = aws("s3", "presign", f"s3://{bucket}/a b/presigned+ü", "--expires-in", "60").strip()
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert answer.read() == data
    if not tool("curl"):
        pytest.skip("curl is not installed; urllib passed")
    run([tool("curl"), "-fsS", "--max-time", "20", "-o", tmp_path / "got", url])
    assert (tmp_path / "got").read_bytes() == data


def test_s3api_object_calls(aws, bucket, tmp_path):
    (tmp_path / "body").write_bytes(b"0123456789")
    where = ["--bucket", bucket, "--key", "k"]
    put = json.loads(aws("s3api", "put-object", *where, "--body", tmp_path / "body", "--tagging", "a=1&b=2"))
    assert put["ETag"] == f'"{md5(b"0123456789")}"'
    head = json.loads(aws("s3api", "head-object", *where))
    assert head["ContentLength"] == 10
    aws("s3api", "get-object", *where, "--range", "bytes=2-4", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == b"234"
    tags = json.loads(aws("s3api", "get-object-tagging", *where))
    assert {tag["Key"]: tag["Value"] for tag in tags["TagSet"]} == {"a": "1", "b": "2"}
    parts = ["--object-attributes", "ETag", "ObjectSize", "StorageClass"]
    attributes = json.loads(aws("s3api", "get-object-attributes", *where, *parts))
    assert attributes["ObjectSize"] == 10
    copied = aws("s3api", "copy-object", "--bucket", bucket, "--key", "c", "--copy-source", f"{bucket}/k")
    assert json.loads(copied)["CopyObjectResult"]["ETag"] == put["ETag"]
    doomed = json.dumps({"Objects": [{"Key": "k"}, {"Key": "c"}, {"Key": "never was"}]})
    deleted = json.loads(aws("s3api", "delete-objects", "--bucket", bucket, "--delete", doomed))
    assert len(deleted["Deleted"]) == 3


def test_s3api_listing_pages(aws, bucket, s3):
    for number in range(7):
        s3.put_object(Bucket=bucket, Key=f"k{number}", Body=b"")
    listed = json.loads(aws("s3api", "list-objects-v2", "--bucket", bucket, "--page-size", "2"))
    assert [entry["Key"] for entry in listed["Contents"]] == [f"k{number}" for number in range(7)]
    one = json.loads(aws("s3api", "list-objects-v2", "--bucket", bucket, "--max-items", "3"))
    assert len(one["Contents"]) == 3 and one["NextToken"]


def test_s3api_wait_and_bucket_calls(aws, bucket):
    aws("s3api", "wait", "bucket-exists", "--bucket", bucket)
    assert "LocationConstraint" in aws("s3api", "get-bucket-location", "--bucket", bucket)
    assert json.loads(aws("s3api", "get-bucket-acl", "--bucket", bucket))["Grants"]
    owner = json.loads(aws("s3api", "list-buckets"))["Owner"]
    assert owner["ID"]
