"""Bodies that lie, break off or make no sense: a clear error, the old object, nothing left behind."""

import base64
import hashlib
import os
import random

import pytest

from harness import rawhttp
from harness.data import KIB, MIB, blob, md5
from harness.wait import until

pytestmark = pytest.mark.tree
OLD = b"the old object"
BALANCE = "tcp"  # a proxy that reads requests answers the bad ones itself


@pytest.fixture
def path(s3, bucket):
    """The path of a key that holds the old object."""
    s3.put_object(Bucket=bucket, Key="k", Body=OLD)
    return f"/{bucket}/k"


@pytest.fixture
def unharmed(server, s3, bucket):
    """Checks that the old object is whole, alone, and that nothing is staged."""

    def check():
        until("staging is empty", lambda: not server.staging_debris())
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == OLD
        assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["k"]
        assert os.listdir(server.path(bucket)) == ["k"]
        assert server.path(bucket, "k").read_bytes() == OLD

    return check


def test_wrong_content_sha256(server, path, unharmed):
    wrong = hashlib.sha256(b"other").hexdigest()
    answer = rawhttp.send(server, "PUT", path, b"new", payload_hash=wrong)
    assert (answer.status, answer.code()) == (400, "XAmzContentSHA256Mismatch")
    unharmed()


def test_wrong_md5_of_a_large_body(server, path, unharmed):
    headers = {"Content-MD5": base64.b64encode(hashlib.md5(b"other").digest()).decode()}
    answer = rawhttp.send(server, "PUT", path, blob(3 * MIB), headers, payload_hash="UNSIGNED-PAYLOAD")
    assert (answer.status, answer.code()) == (400, "BadDigest")
    unharmed()


def test_wrong_signature_does_not_take_the_body(server, path, unharmed):
    headers = rawhttp.sign(server, "PUT", path, {"Content-Length": str(MIB), "Expect": "100-continue"})
    headers["Authorization"] = headers["Authorization"][:-4] + "0000"
    with rawhttp.connect(server) as connection:
        connection.sendall(rawhttp.head_bytes("PUT", path, headers))
        answer = rawhttp.read_answer(connection)
    assert (answer.status, answer.code()) == (403, "SignatureDoesNotMatch")
    unharmed()


def test_expect_100_is_answered_before_the_body(server, s3, path):
    body = blob(100 * KIB)
    more = {"Content-Length": str(len(body)), "Expect": "100-continue"}
    headers = rawhttp.sign(server, "PUT", path, more, hashlib.sha256(body).hexdigest())
    with rawhttp.connect(server) as connection:
        connection.sendall(rawhttp.head_bytes("PUT", path, headers))
        assert connection.recv(25).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert rawhttp.read_answer(connection).status == 200
    assert server.path(*path[1:].split("/")).read_bytes() == body


def test_expect_100_is_not_answered_where_a_condition_fails(server, path, unharmed):
    more = {"Content-Length": str(MIB), "Expect": "100-continue", "If-None-Match": "*"}
    headers = rawhttp.sign(server, "PUT", path, more, "UNSIGNED-PAYLOAD")
    with rawhttp.connect(server) as connection:
        connection.sendall(rawhttp.head_bytes("PUT", path, headers))
        assert rawhttp.read_answer(connection).status == 412
    unharmed()


def test_an_answer_without_100_ends_the_connection(server, path):
    """botocore misreads what follows such an answer on its connection: aws s3 sync hung for a minute."""
    headers = rawhttp.sign(server, "PUT", path, {"Content-Length": "0", "Expect": "100-continue"})
    with rawhttp.connect(server) as connection:
        connection.sendall(rawhttp.head_bytes("PUT", path, headers))
        answer = rawhttp.read_answer(connection)
    assert (answer.status, answer.headers.get("connection")) == (200, "close")


def test_a_body_never_sent_is_not_cut_out_of_the_next_request(server, path):
    """A client whose 100-continue is refused goes on with its next request on the same connection."""
    more = {"Content-Length": "2", "Expect": "100-continue", "If-None-Match": "*"}
    put = rawhttp.head_bytes("PUT", path, rawhttp.sign(server, "PUT", path, more, "UNSIGNED-PAYLOAD"))
    get = rawhttp.head_bytes("GET", path, rawhttp.sign(server, "GET", path))
    answered = 0
    for _ in range(1000):
        with rawhttp.connect(server) as connection:
            stream = connection.makefile("rb")
            connection.sendall(put)
            refused = rawhttp.read_answer(connection, stream=stream)
            assert refused.status == 412
            if refused.headers.get("connection") == "close":
                continue
            try:
                connection.sendall(get)
                got = rawhttp.read_answer(connection, stream=stream)
            except ConnectionError:
                continue
            if got is not None:
                answered += 1
                assert (got.status, got.body) == (200, OLD), f"after {answered} good ones: {got.code()}"


@pytest.mark.parametrize("sent", [0, 10, 700 * KIB])
def test_client_gone_in_mid_body(server, path, unharmed, sent):
    headers = rawhttp.sign(server, "PUT", path, {"Content-Length": str(MIB)}, "UNSIGNED-PAYLOAD")
    with rawhttp.connect(server) as connection:
        connection.sendall(rawhttp.head_bytes("PUT", path, headers) + blob(sent))
    unharmed()


def test_client_gone_in_mid_part(server, s3, bucket, path, unharmed):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    part = f"{path}?partNumber=1&uploadId={upload}"
    headers = rawhttp.sign(server, "PUT", part, {"Content-Length": str(MIB)}, "UNSIGNED-PAYLOAD")
    with rawhttp.connect(server) as connection:
        connection.sendall(rawhttp.head_bytes("PUT", part, headers) + blob(300 * KIB))
    until("staging is empty", lambda: not server.staging_debris())
    assert "Parts" not in s3.list_parts(Bucket=bucket, Key="k", UploadId=upload)
    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)
    unharmed()


def test_get_given_up_in_the_middle(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="big", Body=blob(30 * MIB))
    for _ in range(10):
        headers = rawhttp.sign(server, "GET", f"/{bucket}/big")
        with rawhttp.connect(server) as connection:
            connection.sendall(rawhttp.head_bytes("GET", f"/{bucket}/big", headers))
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert md5(s3.get_object(Bucket=bucket, Key="big")["Body"].read()) == md5(blob(30 * MIB))


def chunked(server, path, chunks, decoded_len, spoil=lambda raw: raw, headers=None):
    """Sends a body of signed chunks; `spoil` may change the bytes of it."""
    signer = rawhttp.ChunkSigner(server, path, decoded_len, headers)
    raw = spoil(b"".join(signer.chunk(chunk) for chunk in [*chunks, b""]))
    with rawhttp.connect(server) as connection:
        lines = {**signer.headers, "Content-Length": str(len(raw))}
        connection.sendall(rawhttp.head_bytes("PUT", path, lines) + raw)
        return rawhttp.read_answer(connection)


CHUNKS = [blob(64 * KIB, 1), blob(64 * KIB, 2), b"the end"]
LEN = sum(map(len, CHUNKS))


def test_signed_chunks(server, s3, bucket):
    assert chunked(server, f"/{bucket}/k", CHUNKS, LEN).status == 200
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"".join(CHUNKS) and "ContentEncoding" not in got


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda raw: raw.replace(b"the end", b"the enD"), "SignatureDoesNotMatch"),
        (lambda raw: raw[: raw.rindex(b"0;chunk-signature")], "IncompleteBody"),
        (lambda raw: raw[:-20], "IncompleteBody"),
        (lambda raw: b"zz" + raw, None),
        (lambda raw: b"ffffffffffffffff;chunk-signature=" + b"0" * 64 + b"\r\n" + raw, None),
        (lambda raw: b"5" * 5000, None),
    ],
    ids=["changed byte", "no last chunk", "cut", "no hex", "huge chunk", "endless size"],
)
def test_spoilt_chunks(server, path, unharmed, spoil, code):
    answer = chunked(server, path, CHUNKS, LEN, spoil)
    assert answer.status in (400, 403) and answer.code() not in (None, "InternalError")
    if code:
        assert answer.code() == code
    unharmed()


@pytest.mark.parametrize("off_by", [-1, 1])
def test_decoded_length_must_be_true(server, path, unharmed, off_by):
    answer = chunked(server, path, CHUNKS, LEN + off_by)
    assert answer.status == 400 and answer.code() not in (None, "InternalError")
    unharmed()


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "broken off"])
def test_transfer_encoding_chunked(server, s3, bucket, path, unharmed, is_whole):
    """AWS answers 411; RGW takes it. We may do either, but never store a part of it."""
    headers = {**rawhttp.sign(server, "PUT", path, None, "UNSIGNED-PAYLOAD"), "Transfer-Encoding": "chunked"}
    with rawhttp.connect(server) as connection:
        connection.sendall(rawhttp.head_bytes("PUT", path, headers) + b"3\r\nnew\r\n")
        if not is_whole:
            connection.close()
            unharmed()
            return
        connection.sendall(b"0\r\n\r\n")
        answer = rawhttp.read_answer(connection)
    if answer.status == 200:
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"new"
    else:
        assert (answer.status, answer.code()) == (411, "MissingContentLength")
        unharmed()


@pytest.mark.parametrize("payload_hash", ["UNSIGNED-PAYLOAD", rawhttp.EMPTY_SHA256], ids=["unsigned", "signed"])
def test_no_length_at_all(server, path, unharmed, payload_hash):
    headers = rawhttp.sign(server, "PUT", path, None, payload_hash)
    with rawhttp.connect(server) as connection:
        connection.sendall(rawhttp.head_bytes("PUT", path, headers))
        answer = rawhttp.read_answer(connection)
    assert (answer.status, answer.code()) == (411, "MissingContentLength")
    unharmed()


def test_too_large_is_refused_at_once(server, path, unharmed):
    more = {"Content-Length": str(5 * 1024**3 + 1), "Expect": "100-continue"}
    headers = rawhttp.sign(server, "PUT", path, more, "UNSIGNED-PAYLOAD")
    with rawhttp.connect(server) as connection:
        connection.sendall(rawhttp.head_bytes("PUT", path, headers))
        answer = rawhttp.read_answer(connection)
    assert (answer.status, answer.code()) == (400, "EntityTooLarge")
    unharmed()


def test_too_many_metadata(server, s3, path, unharmed):
    answer = rawhttp.send(server, "PUT", path, b"new", {"x-amz-meta-much": "m" * 2100})
    assert (answer.status, answer.code()) == (400, "MetadataTooLarge")
    unharmed()


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /b?uploadId HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
    b"GET /b/k HTTP/1.1\r\nHost: x\r\nAuthorization: AWS4-HMAC-SHA256 Credential=,,=,\r\n\r\n",
    b"GET /b/k HTTP/1.1\r\nHost: x\r\nAuthorization: AWS :\r\nDate: never\r\n\r\n",
    b"GET /b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=99999999999999999999 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
]


@pytest.mark.parametrize("raw", GARBAGE, ids=lambda raw: ascii(raw[:24]))
def test_garbage_gets_an_error_or_a_closed_door(server, s3, raw):
    try:
        with rawhttp.connect(server) as connection:
            connection.sendall(raw)
            connection.shutdown(1)
            answer = rawhttp.read_answer(connection)
            assert answer is None or 400 <= answer.status < 500
    except OSError:
        pass
    assert s3.list_buckets()["Owner"]


def test_random_bytes(server, s3):
    for seed in range(200):
        source = random.Random(seed)
        head = source.choice(
            [b"", b"GET / HTTP/1.1\r\n", b"PUT /b/k HTTP/1.1\r\nHost: x\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
        )
        try:
            with rawhttp.connect(server) as connection:
                connection.sendall(head + source.randbytes(source.randrange(2000)))
                connection.shutdown(1)
                while connection.recv(65536):
                    pass
        except OSError:
            pass
    assert s3.list_buckets()["Owner"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("?delete", b"<Delete>"),
        ("?delete", b"<Delete><Object><Key>k</Key></Object>" * 3),
        ("?delete", b'<!DOCTYPE x [<!ENTITY a "b">]><Delete><Object><Key>&a;</Key></Object></Delete>'),
        ("?delete", b"<Other/>"),
        ("?delete", b"\xff\xfe\x00"),
        ("?delete", b"<Delete>" + b"<a>" * 100_000),
    ],
    ids=["open", "many roots", "doctype", "other", "no text", "deep"],
)
def test_malformed_xml(server, bucket, path, body, unharmed, s3):
    s3.put_object(Bucket=bucket, Key="k", Body=OLD)
    headers = {"Content-MD5": base64.b64encode(hashlib.md5(body).digest()).decode()}
    answer = rawhttp.send(server, "POST", f"/{bucket}{path}", body, headers)
    assert (answer.status, answer.code()) == (400, "MalformedXML")
    unharmed()


def test_head_of_a_missing_key_has_no_body(server, bucket):
    answer = rawhttp.send(server, "GET", f"/{bucket}/nothing")
    assert (answer.status, answer.code()) == (404, "NoSuchKey")
    with rawhttp.connect(server) as connection:
        headers = {**rawhttp.sign(server, "HEAD", f"/{bucket}/nothing"), "Connection": "close"}
        connection.sendall(rawhttp.head_bytes("HEAD", f"/{bucket}/nothing", headers))
        raw = b"".join(iter(lambda: connection.recv(65536), b""))
    assert raw.startswith(b"HTTP/1.1 404") and raw.endswith(b"\r\n\r\n")
