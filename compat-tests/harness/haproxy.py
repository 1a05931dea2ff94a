"""HAProxy in front of gateways, as docs/outgrowing-one-machine.md configures it."""

import re
import shutil
import socket
import subprocess
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "outgrowing-one-machine.md"
# What each turn of three is a connection: every byte goes as the client sent it.
BY_CONNECTION = """\
defaults
    mode tcp
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    option redispatch 1
    retries 5
frontend s3
    bind :443
    default_backend gateways
backend gateways
    balance roundrobin
    server g1 10.0.0.1:7480
"""


def documented():
    """The configuration that the document shows."""
    block = DOCUMENT.read_text().split("## A proxy in front\n", 1)[1]
    lines = [line[4:] for line in block.splitlines()[1:]]
    return "\n".join(lines[: lines.index("")]) + "\n"


def start(config, port, gateways, mode="http"):
    """Starts it on a port of 127.0.0.1, before these gateways; gives the process."""
    text = documented() if mode == "http" else BY_CONNECTION
    text = re.sub(r"bind .*", f"bind 127.0.0.1:{port}", text)
    check = " check" if mode == "http" else ""
    rows = "".join(f"    server g{number} {gateway}{check}\n" for number, gateway in enumerate(gateways))
    text = re.sub(r"(    server .*\n)+", rows, text)
    config.write_text("global\n    maxconn 2000\n" + text)
    with open(config.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [shutil.which("haproxy") or "haproxy", "-db", "-f", str(config)], stdout=log, stderr=log
        )


def is_open(endpoint):
    """Whether a gateway answers through it."""
    try:
        with socket.create_connection((endpoint.host, endpoint.port), timeout=2) as probe:
            if endpoint.scheme == "https":
                return True
            probe.settimeout(5)
            probe.sendall(f"GET / HTTP/1.1\r\nHost: {endpoint.authority}\r\nConnection: close\r\n\r\n".encode())
            return probe.recv(12)[9:] not in (b"", b"502", b"503", b"504")
    except OSError:
        return False
