"""To whom what S3 makes belongs on disk, and files that the server may not read."""

import os
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from harness import clients
from harness.data import MIB, blob
from harness.server import BINARY
from harness.tree import listed
from harness.wait import until

pytestmark = [
    pytest.mark.tree,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: files cannot be given to others"),
]
NOBODY = 65534
ALICE = ("AKALICE", "secret-of-alice")
BOB = ("AKBOB", "secret-of-bob")
CONFIG = """
scan_interval = "1s"
[[user]]
name = "alice"
groups = [".admin"]
uid = 4001
gid = 4100
umask = "0027"
keys = [{ access_key = "AKALICE", secret_key = "secret-of-alice" }]
[[user]]
name = "bob"
groups = [".admin"]
uid = 4002
gid = 4200
keys = [{ access_key = "AKBOB", secret_key = "secret-of-bob" }]
"""


def client_of(server, keys):
    return clients.boto(server, access_key=keys[0], secret_key=keys[1])


@pytest.fixture
def alice(server):
    return client_of(server, ALICE)


@pytest.fixture
def bob(server):
    return client_of(server, BOB)


@pytest.fixture
def home(alice, request):
    """A bucket that alice made."""
    name = request.node.name.replace("_", "-")[:60].lower()
    alice.create_bucket(Bucket=name)
    return name


def owned(path):
    """Owner, group and permissions."""
    facts = path.stat()
    return facts.st_uid, facts.st_gid, oct(facts.st_mode & 0o7777)


def put_multipart(s3, bucket, key):
    at = {"Bucket": bucket, "Key": key}
    upload = s3.create_multipart_upload(**at)["UploadId"]
    parts = []
    for number, body in enumerate([blob(5 * MIB, 1), b"end"], 1):
        part = s3.upload_part(**at, UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    return {**at, "UploadId": upload, "MultipartUpload": {"Parts": parts}}


def post_form(s3, bucket, key):
    form = s3.generate_presigned_post(bucket, key, ExpiresIn=60)
    fields = "".join(
        f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in {**form["fields"], "file": "posted"}.items()
    )
    body = f"{fields}--edge--\r\n".encode()
    request = urllib.request.Request(form["url"], body, {"Content-Type": "multipart/form-data; boundary=edge"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
        assert answer.status == 204


def test_what_a_user_makes_is_the_users(server, alice, home):
    alice.put_object(Bucket=home, Key="a/small", Body=b"x")
    alice.put_object(Bucket=home, Key="a/large", Body=blob(3 * MIB))
    alice.copy_object(Bucket=home, Key="b/copy", CopySource={"Bucket": home, "Key": "a/small"})
    alice.complete_multipart_upload(**put_multipart(alice, home, "c/parts"))
    post_form(alice, home, "d/posted")
    alice.put_object(Bucket=home, Key="marker/", Body=b"")
    for key in ("a/small", "a/large", "b/copy", "c/parts", "d/posted"):
        assert owned(server.path(home, key)) == (4001, 4100, "0o640"), key
    for key in ("", "a", "b", "c", "d", "marker"):
        assert owned(server.path(home, key)) == (4001, 4100, "0o750"), key


def test_root_user_and_a_user_without_umask(server, s3, bob, home):
    s3.put_object(Bucket=home, Key="by-root/k", Body=b"x")
    bob.put_object(Bucket=home, Key="by-bob/k", Body=b"x")
    own = server.volume_dir.stat()
    assert owned(server.path(home, "by-root/k")) == (own.st_uid, own.st_gid, "0o644")
    assert owned(server.path(home, "by-bob/k")) == (4002, 4200, "0o644")
    assert owned(server.path(home, "by-bob")) == (4002, 4200, "0o755")


def test_an_upload_is_its_beginners_after_a_restart(new_server):
    server = new_server(config=CONFIG).start()
    alice, bob = client_of(server, ALICE), client_of(server, BOB)
    alice.create_bucket(Bucket="uploads")
    completion = put_multipart(alice, "uploads", "k")
    server.restart()
    bob.complete_multipart_upload(**completion)
    assert owned(server.path("uploads", "k")) == (4001, 4100, "0o640")


def test_who_replaces_a_file_owns_it(server, alice, bob, home):
    alice.put_object(Bucket=home, Key="dir/k", Body=b"alice's")
    server.path(home, "dir/k").chmod(0o666)
    bob.put_object(Bucket=home, Key="dir/k", Body=b"bob's")
    assert owned(server.path(home, "dir/k")) == (4002, 4200, "0o644")
    assert owned(server.path(home, "dir")) == (4001, 4100, "0o750")


def test_metadata_replaced_in_place_leaves_the_permissions(server, alice, bob, home):
    alice.put_object(Bucket=home, Key="k", Body=b"x")
    server.path(home, "k").chmod(0o604)
    bob.copy_object(
        Bucket=home, Key="k", CopySource={"Bucket": home, "Key": "k"}, MetadataDirective="REPLACE", Metadata={"m": "2"}
    )
    assert owned(server.path(home, "k")) == (4002, 4200, "0o604")
    assert bob.head_object(Bucket=home, Key="k")["Metadata"] == {"m": "2"}


def test_set_group_id_directory_and_default_acl(server, alice, home):
    shared = server.path(home, "shared")
    shared.mkdir()
    os.chown(shared, -1, 4999)
    shared.chmod(0o2770)
    alice.put_object(Bucket=home, Key="shared/below/k", Body=b"x")
    assert owned(shared / "below") == (4001, 4999, "0o2750")
    assert owned(shared / "below/k") == (4001, 4999, "0o640")
    if not shutil.which("setfacl"):
        pytest.skip("no setfacl (acl)")
    subprocess.run(["setfacl", "-d", "-m", "u:4002:rw,g::rwx,o::-", str(shared)], check=True, timeout=20)
    alice.put_object(Bucket=home, Key="shared/later/k", Body=b"x")
    in_place = shared / "in-place"
    with open(os.open(in_place, os.O_CREAT | os.O_WRONLY, 0o666), "wb"):
        pass
    name = "system.posix_acl_access"
    assert os.getxattr(shared / "later/k", name) == os.getxattr(in_place, name)
    assert (shared / "later/k").stat().st_mode == in_place.stat().st_mode


@pytest.fixture
def reachable():
    """A directory that nobody may reach, with a binary that nobody may start."""
    with tempfile.TemporaryDirectory(prefix="portico-nobody-") as made:
        home = Path(made)
        home.chmod(0o755)
        shutil.copy(BINARY, home / "portico")
        (home / "portico.toml").write_text(CONFIG)
        (home / "data").mkdir()
        os.chown(home / "data", NOBODY, NOBODY)
        yield home


@pytest.fixture
def unprivileged(reachable, new_server):
    """A server that runs as nobody."""
    if not shutil.which("setpriv"):
        pytest.skip("no setpriv (util-linux)")
    as_nobody = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    args = ["--config", str(reachable / "portico.toml")]
    return new_server(reachable / "data", wrap=as_nobody, args=args, binary=reachable / "portico").start()


def code_of(call, **options):
    with pytest.raises(ClientError) as refused:
        call(**options)
    return refused.value.response["ResponseMetadata"]["HTTPStatusCode"]


def test_unreadable_files_never_break_a_listing(unprivileged):
    server, s3 = unprivileged, clients.boto(unprivileged)
    for bucket in ("first", "second"):
        s3.create_bucket(Bucket=bucket)
    keys = ["a", "closed/k", "names-only/k", "passage/k", "secret", "z"]
    for key in keys:
        s3.put_object(Bucket="first", Key=key, Body=b"12345")
    for name, mode in (("secret", 0o600), ("closed", 0o700), ("names-only", 0o744), ("passage", 0o711)):
        os.chown(server.path("first", name), 0, 0)
        server.path("first", name).chmod(mode)
    (server.path("first", "secret-dropped-in")).write_bytes(b"1")
    (server.path("first", "secret-dropped-in")).chmod(0o600)
    (server.path("first", "dropped-in")).write_bytes(b"1")

    def seen():
        found = set(listed(s3, "first"))
        return found - {"passage/k"} == {"a", "dropped-in", "secret", "secret-dropped-in", "z"}

    until("what may be looked at is listed, and the rest breaks nothing", seen)
    assert listed(s3, "first")["secret"]["Size"] == 5
    for key in ("secret", "secret-dropped-in", "closed/k", "names-only/k"):
        assert code_of(s3.get_object, Bucket="first", Key=key) == 403, key
        assert code_of(s3.head_object, Bucket="first", Key=key) == 403, key
    assert s3.get_object(Bucket="first", Key="passage/k")["Body"].read() == b"12345"
    os.chown(server.path("first"), 0, 0)
    server.path("first").chmod(0o700)
    s3.put_object(Bucket="second", Key="k", Body=b"x")
    server.path("second", "dropped-in").write_bytes(b"x")
    until("the other bucket is scanned", lambda: set(listed(s3, "second")) == {"k", "dropped-in"})
    until("an unreadable bucket is refused", lambda: code_of(s3.list_objects_v2, Bucket="first") == 403)
    assert {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]} == {"first", "second"}
    server.restart()
    assert set(listed(s3, "second")) == {"k", "dropped-in"}
    assert code_of(s3.list_objects_v2, Bucket="first") == 403
    server.path("first").chmod(0o755)
    until("it is listed again", seen)


def test_a_server_that_is_not_root_says_so_once(unprivileged):
    server, alice = unprivileged, client_of(unprivileged, ALICE)
    alice.create_bucket(Bucket="first")
    for n in range(3):
        alice.put_object(Bucket="first", Key=f"dir/k{n}", Body=b"x")
        assert owned(server.path("first", f"dir/k{n}")) == (NOBODY, NOBODY, "0o640")
    assert owned(server.path("first")) == (NOBODY, NOBODY, "0o750")
    said = [line for line in server.log().splitlines() if "only root can give them away" in line]
    assert len(said) == 1 and "alice" in said[0] and "bob" in said[0]
    assert "cannot be given away" not in server.log()
