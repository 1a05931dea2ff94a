"""Who may ask: signatures of both versions, presigned URLs, styles of address, and nobody at all."""

import datetime
import email.utils
import socket
import urllib.error
import urllib.request

import botocore.auth
import botocore.crt.auth
import pytest
from botocore.exceptions import ClientError

from harness import clients, rawhttp
from harness.data import MIB, blob

DOMAIN = "s3.portico.test"
CONFIG = f'domains = ["{DOMAIN}"]\n'


def fetch(url, method="GET", data=None, headers=None):
    """Status and body, whatever the status."""
    request = urllib.request.Request(url, method=method, data=data, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def code_of(call, **arguments):
    with pytest.raises(ClientError) as error:
        call(**arguments)
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def test_sigv2_header(server, bucket, s3):
    old = clients.boto(server, signature="s3")
    old.put_object(Bucket=bucket, Key="a b/\u00fc", Body=b"data", Metadata={"m": "1"})
    assert old.get_object(Bucket=bucket, Key="a b/\u00fc")["Body"].read() == b"data"
    assert old.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    assert old.get_object_tagging(Bucket=bucket, Key="a b/\u00fc")["TagSet"] == []
    bad = clients.boto(server, signature="s3", secret_key="wrong")
    assert code_of(bad.list_objects_v2, Bucket=bucket) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize("signature", ["s3", "s3v4"])
def test_presigned_get_and_put(server, bucket, signature):
    client = clients.boto(server, signature=signature)
    where = {"Bucket": bucket, "Key": "a+b &=/\u00fc"}
    put = client.generate_presigned_url("put_object", where, ExpiresIn=60)
    assert fetch(put, "PUT", b"by url", {"Content-Type": ""})[0] == 200
    get = client.generate_presigned_url("get_object", {**where, "ResponseContentType": "x/y"}, ExpiresIn=60)
    assert fetch(get) == (200, b"by url")
    assert fetch(get + "0")[0] == 403
    assert fetch(get, "DELETE")[0] == 403
    head = client.generate_presigned_url("head_object", where, ExpiresIn=60)
    assert fetch(head, "HEAD")[0] == 200


def test_presigned_v2_by_hand(server, bucket, s3):
    s3.put_object(Bucket=bucket, Key="k", Body=b"data")
    assert fetch(rawhttp.presign_v2(server, "GET", f"/{bucket}/k")) == (200, b"data")
    status, body = fetch(rawhttp.presign_v2(server, "GET", f"/{bucket}/k", expires_s=-5))
    assert status == 403 and b"AccessDenied" in body


def test_presigned_bounds(server, bucket, s3):
    where = {"Bucket": bucket, "Key": "k"}
    s3.put_object(**where, Body=b"data")
    week = 7 * 24 * 3600
    v4 = clients.boto(server, signature="s3v4")
    assert fetch(v4.generate_presigned_url("get_object", where, ExpiresIn=week))[0] == 200
    status, body = fetch(v4.generate_presigned_url("get_object", where, ExpiresIn=week + 1))
    assert status == 400 and b"AuthorizationQueryParametersError" in body


def test_wrong_keys(server, bucket):
    wrong_secret = clients.boto(server, secret_key="wrong")
    assert code_of(wrong_secret.list_objects_v2, Bucket=bucket) == (403, "SignatureDoesNotMatch")
    unknown = clients.boto(server, access_key="AKIANOBODY")
    assert code_of(unknown.list_objects_v2, Bucket=bucket) == (403, "InvalidAccessKeyId")


@pytest.mark.parametrize("signature", ["s3", "s3v4"])
def test_clock_skew(server, bucket, monkeypatch, signature):
    now = datetime.datetime.now(datetime.UTC)
    stale = now - datetime.timedelta(minutes=16)
    for module in (botocore.auth, botocore.crt.auth):
        monkeypatch.setattr(module, "get_current_datetime", lambda *_, **__: stale)
    monkeypatch.setattr(botocore.auth, "formatdate", lambda **_: email.utils.format_datetime(stale, usegmt=True))
    client = clients.boto(server, signature=signature)
    assert code_of(client.list_objects_v2, Bucket=bucket) == (403, "RequestTimeTooSkewed")


def test_anonymous_is_refused_and_let_in_by_acl(server, s3, bucket):
    nobody = clients.anonymous(server)
    s3.put_object(Bucket=bucket, Key="secret", Body=b"x")
    assert code_of(nobody.get_object, Bucket=bucket, Key="secret") == (403, "AccessDenied")
    assert code_of(nobody.list_objects_v2, Bucket=bucket) == (403, "AccessDenied")
    assert code_of(nobody.put_object, Bucket=bucket, Key="k", Body=b"x") == (403, "AccessDenied")
    s3.put_object(Bucket=bucket, Key="open", Body=b"to all", ACL="public-read")
    assert nobody.get_object(Bucket=bucket, Key="open")["Body"].read() == b"to all"
    assert code_of(nobody.delete_object, Bucket=bucket, Key="open") == (403, "AccessDenied")
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert nobody.list_objects_v2(Bucket=bucket)["KeyCount"] == 2
    assert code_of(nobody.get_object, Bucket=bucket, Key="secret") == (403, "AccessDenied")


def test_object_acl_round_trip(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    acl = s3.get_object_acl(Bucket=bucket, Key="k")
    assert [grant["Permission"] for grant in acl["Grants"]] == ["FULL_CONTROL"]
    s3.put_object_acl(Bucket=bucket, Key="k", ACL="public-read")
    grants = s3.get_object_acl(Bucket=bucket, Key="k")["Grants"]
    assert ("http://acs.amazonaws.com/groups/global/AllUsers", "READ") in [
        (grant["Grantee"].get("URI"), grant["Permission"]) for grant in grants
    ]
    s3.put_object_acl(Bucket=bucket, Key="k", AccessControlPolicy={"Grants": acl["Grants"], "Owner": acl["Owner"]})
    assert s3.get_object_acl(Bucket=bucket, Key="k")["Grants"] == acl["Grants"]


@pytest.fixture
def name_service(monkeypatch, server):
    """Names below our domain lead to this machine; nothing is asked of the network."""
    asked = socket.getaddrinfo

    def answer(host, *rest, **more):
        return asked(server.host if str(host).endswith(DOMAIN) else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.mark.tree
@pytest.mark.parametrize("signature", ["s3", "s3v4"])
def test_virtual_host_style(server, s3, bucket, name_service, signature):
    class Named:
        url = f"http://{DOMAIN}:{server.port}"
        region, access_key, secret_key = server.region, server.access_key, server.secret_key

    client = clients.boto(Named, style="virtual", signature=signature)
    data = blob(MIB)
    client.put_object(Bucket=bucket, Key="a/b c", Body=data)
    assert client.get_object(Bucket=bucket, Key="a/b c")["Body"].read() == data
    assert s3.get_object(Bucket=bucket, Key="a/b c")["Body"].read() == data
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    url = client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "a/b c"}, ExpiresIn=60)
    assert url.startswith(f"http://{bucket}.{DOMAIN}") and fetch(url) == (200, data)
