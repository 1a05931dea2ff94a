"""Buckets through boto3: create, head, delete, location, tagging, CORS, ACL; and the POST form."""

import json
import urllib.error
import urllib.request

import pytest
from botocore.exceptions import ClientError

from harness import clients, rawhttp


def code_of(call, **arguments):
    with pytest.raises(ClientError) as error:
        call(**arguments)
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def test_life_of_a_bucket(s3):
    s3.create_bucket(Bucket="life-of-a-bucket")
    assert s3.head_bucket(Bucket="life-of-a-bucket")["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert s3.get_bucket_location(Bucket="life-of-a-bucket")["LocationConstraint"] is None
    s3.put_object(Bucket="life-of-a-bucket", Key="a/b", Body=b"x")
    assert code_of(s3.delete_bucket, Bucket="life-of-a-bucket") == (409, "BucketNotEmpty")
    s3.delete_object(Bucket="life-of-a-bucket", Key="a/b")
    s3.delete_bucket(Bucket="life-of-a-bucket")
    assert code_of(s3.head_bucket, Bucket="life-of-a-bucket")[0] == 404
    assert code_of(s3.delete_bucket, Bucket="life-of-a-bucket") == (404, "NoSuchBucket")


def test_create_twice(s3, bucket):
    s3.create_bucket(Bucket=bucket)
    assert s3.head_bucket(Bucket=bucket)


@pytest.mark.parametrize("name", ["Upper", "under_score", "a..b", "192.168.0.1", "-a-b", "ab", "x" * 64])
def test_bad_names(server, name):
    answer = rawhttp.send(server, "PUT", f"/{name}")
    assert (answer.status, answer.code()) == (400, "InvalidBucketName")


def test_bucket_tagging(s3, bucket):
    assert code_of(s3.get_bucket_tagging, Bucket=bucket) == (404, "NoSuchTagSet")
    tags = [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}]
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})
    got = s3.get_bucket_tagging(Bucket=bucket)["TagSet"]
    assert sorted(got, key=lambda tag: tag["Key"]) == tags
    s3.delete_bucket_tagging(Bucket=bucket)
    assert code_of(s3.get_bucket_tagging, Bucket=bucket) == (404, "NoSuchTagSet")


def test_bucket_acl(s3, bucket):
    assert [grant["Permission"] for grant in s3.get_bucket_acl(Bucket=bucket)["Grants"]] == ["FULL_CONTROL"]
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    permissions = {grant["Permission"] for grant in s3.get_bucket_acl(Bucket=bucket)["Grants"]}
    assert permissions == {"FULL_CONTROL", "READ", "WRITE"}


CORS = {
    "CORSRules": [
        {
            "AllowedMethods": ["GET", "PUT"],
            "AllowedOrigins": ["https://*.example.com"],
            "AllowedHeaders": ["x-amz-*", "content-type"],
            "ExposeHeaders": ["ETag"],
            "MaxAgeSeconds": 77,
        }
    ]
}


def lower(headers):
    """Headers by their names in lower case."""
    return {name.lower(): value for name, value in headers.items()}


def ask(url, method, headers):
    """Status and headers of a plain request."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers), timeout=20) as answer:
            return answer.status, lower(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, lower(error.headers)


def test_cors(s3, bucket, server):
    assert code_of(s3.get_bucket_cors, Bucket=bucket) == (404, "NoSuchCORSConfiguration")
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration=CORS)
    rule = s3.get_bucket_cors(Bucket=bucket)["CORSRules"][0]
    assert rule == CORS["CORSRules"][0]
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="public-read")
    url = f"{server.url}/{bucket}/k"

    status, headers = ask(url, "GET", {"Origin": "https://www.example.com"})
    assert status == 200
    assert headers["access-control-allow-origin"] in ("https://www.example.com", "https://*.example.com")
    assert headers["access-control-expose-headers"] == "ETag"
    assert "access-control-allow-origin" not in ask(url, "GET", {"Origin": "https://other.org"})[1]

    asked = {"Origin": "https://a.example.com", "Access-Control-Request-Method": "PUT"}
    status, headers = ask(url, "OPTIONS", {**asked, "Access-Control-Request-Headers": "content-type"})
    assert status == 200 and "PUT" in headers["access-control-allow-methods"]
    assert headers["access-control-max-age"] == "77"
    assert ask(url, "OPTIONS", {**asked, "Access-Control-Request-Method": "DELETE"})[0] == 403
    assert ask(url, "OPTIONS", {**asked, "Access-Control-Request-Headers": "authorization"})[0] == 403

    s3.delete_bucket_cors(Bucket=bucket)
    assert ask(url, "OPTIONS", asked)[0] == 403


def post_form(server, bucket, fields, file, name="upload.bin"):
    """Sends a browser's form; returns status, headers and body."""
    mark = "----compat0123456789"
    body = b""
    for key, value in fields.items():
        body += f'--{mark}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
    body += f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'.encode()
    body += b"Content-Type: text/plain\r\n\r\n" + file + f"\r\n--{mark}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    request = urllib.request.Request(f"{server.url}/{bucket}", method="POST", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, lower(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, lower(error.headers), error.read()


@pytest.mark.parametrize("signature", ["s3v4", "s3"])
def test_post_form(server, s3, bucket, signature):
    client = clients.boto(server, signature=signature)
    more = {"Content-Type": "text/x-own", "x-amz-meta-colour": "blue", "success_action_status": "201"}
    conditions = [{name: value} for name, value in more.items()] + [["content-length-range", 1, 100]]
    form = client.generate_presigned_post(bucket, "up/${filename}", dict(more), conditions, ExpiresIn=60)
    status, headers, body = post_form(server, bucket, form["fields"], b"from a form")
    assert status == 201 and b"<Key>up/upload.bin</Key>" in body and headers["etag"]
    got = s3.get_object(Bucket=bucket, Key="up/upload.bin")
    assert (got["Body"].read(), got["ContentType"]) == (b"from a form", "text/x-own")
    assert got["Metadata"] == {"colour": "blue"}

    status, _, body = post_form(server, bucket, form["fields"], b"x" * 101)
    assert status == 400 and b"EntityTooLarge" in body
    status, _, body = post_form(server, bucket, {**form["fields"], "key": "other"}, b"x")
    assert status == 403 and b"AccessDenied" in body
    wrong = {name: "AAAA" if "ignature" in name else value for name, value in form["fields"].items()}
    assert post_form(server, bucket, wrong, b"x")[0] == 403
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_post_form_without_policy_needs_a_public_bucket(server, s3, bucket):
    assert post_form(server, bucket, {"key": "k"}, b"x")[0] == 403
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    assert post_form(server, bucket, {"key": "k"}, b"x")[0] == 204
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_error_body_has_ids(server, bucket):
    try:
        urllib.request.urlopen(f"{server.url}/{bucket}", timeout=20)
        pytest.fail("anonymous listing of a private bucket")
    except urllib.error.HTTPError as error:
        body = error.read().decode()
        assert "<Code>AccessDenied</Code>" in body and "<RequestId>" in body and "<HostId>" in body
        assert error.headers["Content-Type"].startswith("application/xml")
        assert f"<RequestId>{error.headers['x-amz-request-id']}</RequestId>" in body


def test_json_is_not_xml(s3, bucket, server):
    body = json.dumps({"not": "xml"}).encode()
    answer = rawhttp.send(server, "PUT", f"/{bucket}?tagging", body, {"Content-Type": "application/xml"})
    assert answer.status == 400 and answer.code() in ("MalformedXML", "InvalidRequest")
