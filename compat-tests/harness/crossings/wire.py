"""A small S3 client for one thread: one connection, signatures by hand, no retries."""

import datetime
import hashlib
import hmac
import re
import time
from html import unescape
from urllib.parse import quote

from harness import rawhttp

UNSIGNED = "UNSIGNED-PAYLOAD"
META = "x-amz-meta-"


class Wire:
    """Signed requests to one bucket of a server."""

    def __init__(self, server, bucket):
        self.server, self.bucket = server, bucket
        self.connection = self.stream = None
        self.day, self.key = None, None
        # Since when something is asked, and what; for who watches.
        self.asking = None

    def signing_key(self, day):
        """The day's key. Source: SigV4."""
        if day != self.day:
            key = ("AWS4" + self.server.secret_key).encode()
            for word in (day, self.server.region, "s3", "aws4_request"):
                key = hmac.new(key, word.encode(), hashlib.sha256).digest()
            self.day, self.key = day, key
        return self.key

    def head(self, method, path, query, headers, length):
        """Request line and headers, signed."""
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        lines = {"host": self.server.authority, "x-amz-content-sha256": UNSIGNED, "x-amz-date": stamp}
        lines |= {name.lower(): value for name, value in headers.items()}
        names = ";".join(sorted(lines))
        signed = "".join(f"{name}:{lines[name]}\n" for name in sorted(lines))
        query_text = "&".join(f"{quote(name, '')}={quote(query[name], '-_.~')}" for name in sorted(query))
        canonical = f"{method}\n{path}\n{query_text}\n{signed}\n{names}\n{UNSIGNED}"
        scope = f"{stamp[:8]}/{self.server.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.new(self.signing_key(stamp[:8]), text.encode(), hashlib.sha256).hexdigest()
        lines["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.server.access_key}/{scope},SignedHeaders={names},Signature={signature}"
        )
        lines["content-length"] = str(length)
        return rawhttp.head_bytes(method, f"{path}?{query_text}" if query_text else path, lines)

    def ask(self, method, key="", body=b"", query=None, headers=None):
        """One request and its answer."""
        self.asking = (time.monotonic(), f"{method} {key or '/'}")
        try:
            return self.exchange(method, key, body, query, headers)
        finally:
            self.asking = None

    def exchange(self, method, key, body, query, headers):
        """As `ask`."""
        path = f"/{self.bucket}/{quote(key)}" if key else f"/{self.bucket}"
        request = self.head(method, path, query or {}, headers or {}, len(body)) + body
        for again in (True, False):
            if self.connection is None:
                self.connection = rawhttp.connect(self.server)
                self.stream = self.connection.makefile("rb")
            try:
                self.connection.sendall(request)
                answer = rawhttp.read_answer(self.connection, method != "HEAD", self.stream)
            except (BrokenPipeError, ConnectionResetError):
                answer = None
            if answer is not None:
                if body and answer.status >= 300:
                    self.close()  # the server may not have read the body, and then it closes
                return answer
            self.close()
            assert again and method in ("GET", "HEAD"), f"no answer to {method} {path}"
        return None

    def close(self):
        """Ends the connection."""
        if self.connection:
            self.stream.close()
            self.connection.close()
        self.connection = None

    def page(self, prefix="", delimiter=""):
        """A listing: `{key: (size, etag, last modified)}` and the common prefixes."""
        query = {"list-type": "2", "prefix": prefix} | ({"delimiter": delimiter} if delimiter else {})
        answer = self.ask("GET", query=query)
        assert answer.status == 200, answer.body
        text = answer.body.decode()
        assert "<IsTruncated>true" not in text
        entries = re.findall(r"<Contents>(.*?)</Contents>", text, re.S)
        keys = {}
        for entry in entries:
            key, size, etag, modified = (field(entry, name) for name in ("Key", "Size", "ETag", "LastModified"))
            assert key not in keys, f"{key} twice in one listing"
            keys[key] = (int(size), etag.strip('"'), modified)
        prefixes = re.findall(r"<CommonPrefixes>\s*<Prefix>(.*?)</Prefix>", text, re.S)
        return keys, {unescape(one) for one in prefixes}


def field(entry, name):
    """The text of an element."""
    return unescape(entry.split(f"<{name}>")[1].split(f"</{name}>")[0])


def meta_of(headers):
    """User metadata in the headers of an answer."""
    return {name[len(META) :]: value for name, value in headers.items() if name.startswith(META)}
