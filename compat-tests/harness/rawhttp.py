"""Requests that no client library would send, written to the socket by hand."""

import datetime
import hashlib
import hmac
import os
import socket
from urllib.parse import parse_qsl, quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
# Longer where a machine has other work: a file system that stands still is not stale.
READ_S = float(os.environ.get("PORTICO_COMPAT_READ_S", "20"))


class Answer:
    """Status, headers (lower case) and body of an answer."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def code(self):
        """The S3 error code in the body, or none."""
        if b"<Code>" not in self.body:
            return None
        return self.body.split(b"<Code>")[1].split(b"</Code>")[0].decode()


def sign(server, method, path, headers=None, payload_hash=EMPTY_SHA256):
    """Headers of a SigV4 request; `path` may hold a query. The payload hash is signed as it is given."""
    request = AWSRequest(method, server.url + path, headers={"X-Amz-Content-SHA256": payload_hash, **(headers or {})})
    request.context["client_config"] = None
    signer = FixedPayload(Credentials(server.access_key, server.secret_key), "s3", server.region)
    signer.payload_hash = payload_hash
    signer.add_auth(request)
    return {**dict(request.headers.items()), "Host": server.authority}


class FixedPayload(S3SigV4Auth):
    """SigV4 over the payload hash that the test names, true or not."""

    payload_hash = EMPTY_SHA256

    def payload(self, request):
        """What stands in x-amz-content-sha256."""
        return self.payload_hash


def head_bytes(method, path, headers):
    """The request line and headers as bytes."""
    lines = [f"{method} {path} HTTP/1.1"] + [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def connect(server):
    """A connection that does not wait for ever."""
    connection = socket.create_connection((server.host, server.port), timeout=READ_S)
    connection.settimeout(READ_S)
    return connection


def read_answer(connection, has_body=True, stream=None):
    """Reads one answer; None where the server only closes. More than one needs the same `stream`."""
    stream = stream or connection.makefile("rb")
    line = stream.readline()
    if not line:
        return None
    status, headers = int(line.split()[1]), {}
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if not has_body or status in (204, 304):
        return Answer(status, headers, b"")
    if headers.get("transfer-encoding") == "chunked":
        return Answer(status, headers, read_chunked(stream))
    length = headers.get("content-length")
    return Answer(status, headers, stream.read(int(length)) if length is not None else stream.read())


def read_chunked(stream):
    """A body in HTTP's chunked coding."""
    body = b""
    while length := int(stream.readline().split(b";")[0], 16):
        body += stream.read(length)
        stream.readline()
    stream.readline()
    return body


def send(server, method, path, body=b"", headers=None, signed=True, payload_hash=None):
    """Sends one request whole and reads the answer."""
    if payload_hash is None:
        payload_hash = hashlib.sha256(body).hexdigest()
    extra = {"Content-Length": str(len(body)), **(headers or {})}
    lines = sign(server, method, path, extra, payload_hash) if signed else {"Host": server.authority, **extra}
    with connect(server) as connection:
        connection.sendall(head_bytes(method, path, lines) + body)
        return read_answer(connection, has_body=method != "HEAD")


class ChunkSigner:
    """aws-chunked bodies with a signature in each chunk. Source: S3 API, sigv4-streaming."""

    def __init__(self, server, path, decoded_len, headers=None):
        payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
        more = {
            "Content-Encoding": "aws-chunked",
            "X-Amz-Decoded-Content-Length": str(decoded_len),
            **(headers or {}),
        }
        self.headers = sign(server, "PUT", path, more, payload)
        self.stamp = self.headers["X-Amz-Date"]
        self.scope = f"{self.stamp[:8]}/{server.region}/s3/aws4_request"
        self.previous = self.headers["Authorization"].rsplit("Signature=", 1)[1]
        key = ("AWS4" + server.secret_key).encode()
        for word in (self.stamp[:8], server.region, "s3", "aws4_request"):
            key = hmac.new(key, word.encode(), hashlib.sha256).digest()
        self.key = key

    def chunk(self, data):
        """One chunk, signed; an empty one ends the body."""
        digest = hashlib.sha256(data).hexdigest()
        text = "\n".join(["AWS4-HMAC-SHA256-PAYLOAD", self.stamp, self.scope, self.previous, EMPTY_SHA256, digest])
        self.previous = hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()
        return f"{len(data):x};chunk-signature={self.previous}\r\n".encode() + data + b"\r\n"


def presign_v2(server, method, path, expires_s=300):
    """A SigV2 query-string URL, as old tools make it."""
    import base64

    expires = int(datetime.datetime.now().timestamp()) + expires_s
    text = f"{method}\n\n\n{expires}\n{path}".encode()
    signature = base64.b64encode(hmac.new(server.secret_key.encode(), text, hashlib.sha1).digest()).decode()
    query = f"AWSAccessKeyId={server.access_key}&Expires={expires}&Signature={quote(signature, safe='')}"
    return f"{server.url}{path}?{query}"


def query_of(url):
    """The query of a URL as a dictionary."""
    return dict(parse_qsl(urlsplit(url).query))
