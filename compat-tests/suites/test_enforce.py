"""Buckets that enforce the permissions of files: S3 is let in where the kernel would let the user in."""

import os
import shutil
import subprocess
import urllib.request
from itertools import product
from urllib.error import HTTPError

import pytest
from botocore.exceptions import ClientError

from harness import clients
from harness.server import BINARY
from harness.tree import listed
from harness.wait import until

pytestmark = [
    pytest.mark.tree,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: the kernel cannot be asked on behalf of others"),
]
NOBODY = 65534
STAFF = 4500
IDS = {"alice": (4001, 4100, []), "bob": (4002, 4200, []), "clerk": (4003, 4300, [7, STAFF]), "zero": (0, 0, [])}
CONFIG = """
scan_interval = "1s"
[bucket.guarded]
enforce = "posix"
[bucket.open]
enforce = "policy"
[[user]]
name = "stranger"
groups = [".admin"]
keys = [{ access_key = "AKstranger", secret_key = "secret-of-stranger" }]
""" + "".join(
    f"""
[[user]]
name = "{name}"
groups = [".admin"]
uid = {uid}
gid = {gid}
gids = {gids}
keys = [{{ access_key = "AK{name}", secret_key = "secret-of-{name}" }}]
"""
    for name, (uid, gid, gids) in IDS.items()
)
REFUSED = (403, "AccessDenied")


def client_of(server, name):
    return clients.boto(server, access_key=f"AK{name}", secret_key=f"secret-of-{name}")


@pytest.fixture(scope="module")
def by(server):
    """Clients by name of user, and two buckets that anyone may do everything in."""
    made = {name: client_of(server, name) for name in [*IDS, "stranger"]}
    for bucket in ("guarded", "open"):
        made["zero"].create_bucket(Bucket=bucket)
        server.path(bucket).chmod(0o777)
    return made


@pytest.fixture
def home(server, by, request):
    """A directory of the test's own that anyone may do everything in."""
    path = server.path("guarded", request.node.name[:80])
    path.mkdir()
    path.chmod(0o777)
    yield path
    server.path("guarded").chmod(0o777)


def at(path, **more):
    """Where S3 has a file of the bucket."""
    key = str(path).split("/guarded/", 1)[1]
    return {"Bucket": "guarded", "Key": key, **more}


def own(path, who, mode):
    """Gives a file or directory to a user, with permissions."""
    uid, gid, _ = IDS[who]
    os.chown(path, uid, gid)
    path.chmod(mode)


def make(path, who, mode, data=b"old"):
    path.write_bytes(data)
    own(path, who, mode)
    return path


def answer_of(call, **arguments):
    """Status and S3 code of a refused call; nothing where it is not refused."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    return None


def post(s3, where):
    """What S3 answers to a form: as `answer_of`."""
    form = s3.generate_presigned_post(where["Bucket"], where["Key"], ExpiresIn=60)
    fields = "".join(
        f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in {**form["fields"], "file": "posted"}.items()
    )
    body = f"{fields}--edge--\r\n".encode()
    request = urllib.request.Request(form["url"], body, {"Content-Type": "multipart/form-data; boundary=edge"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20):
            return None
    except HTTPError as error:
        return error.code, "AccessDenied" if b"<Code>AccessDenied</Code>" in error.read() else "another"


def readings(s3, where, into):
    """What S3 answers to each request that gives out an object or something of it."""
    source = {"Bucket": where["Bucket"], "Key": where["Key"]}
    upload = s3.create_multipart_upload(**into)["UploadId"]
    yield "get", answer_of(s3.get_object, **where)
    yield "range", answer_of(s3.get_object, **where, Range="bytes=0-0")
    head = answer_of(s3.head_object, **where)
    yield "head", head and (head[0], REFUSED[1])
    part = answer_of(s3.head_object, **where, PartNumber=1)
    yield "head of a part", part and (part[0], REFUSED[1])
    yield "attributes", answer_of(s3.get_object_attributes, **where, ObjectAttributes=["ETag"])
    yield "tags", answer_of(s3.get_object_tagging, **where)
    yield "access list", answer_of(s3.get_object_acl, **where)
    yield "copy from it", answer_of(s3.copy_object, **into, CopySource=source)
    copied = {**into, "UploadId": upload, "PartNumber": 1, "CopySource": source}
    yield "part from it", answer_of(s3.upload_part_copy, **copied)
    s3.abort_multipart_upload(**into, UploadId=upload)


def attribute_changes(s3, where):
    """What S3 answers to each request that changes attributes alone."""
    yield "put tags", answer_of(s3.put_object_tagging, **where, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    yield "delete tags", answer_of(s3.delete_object_tagging, **where)
    yield "put access list", answer_of(s3.put_object_acl, **where, ACL="private")


def replacements(s3, where, other):
    """What S3 answers to each request that makes or replaces an object in one step."""
    yield "post", post(s3, where)
    yield "create upload", answer_of(s3.create_multipart_upload, **where)
    yield "copy to it", answer_of(s3.copy_object, **where, CopySource={"Bucket": other["Bucket"], "Key": other["Key"]})
    yield "put", answer_of(s3.put_object, **where, Body=b"new")


def removals(s3, where):
    many = s3.delete_objects(Bucket=where["Bucket"], Delete={"Objects": [{"Key": where["Key"]}]})
    errors = [(403, error["Code"]) for error in many.get("Errors", [])]
    yield "delete many", errors[0] if errors else None
    yield "delete", answer_of(s3.delete_object, **where)


def test_every_request_is_checked_against_the_files_permissions(by, home):
    d, free = home / "d", make(home / "free", "bob", 0o666)
    d.mkdir()
    bob, into, other = by["bob"], at(home / "into"), at(free)
    for dir_mode, file_mode in ((0o755, 0o600), (0o777, 0o600), (0o766, 0o666), (0o777, 0o666)):
        make(d / "k", "alice", file_mode)
        own(d, "alice", dir_mode)
        may_search, k = dir_mode & 1, at(d / "k")
        expected = None if may_search and file_mode & 4 else REFUSED
        for what, answer in readings(bob, k, into):
            assert answer == expected, (what, oct(dir_mode), oct(file_mode))
        for what, answer in attribute_changes(bob, k):
            assert answer == expected, (what, oct(dir_mode), oct(file_mode))
        for what, answer in replacements(bob, k, other):
            assert answer == expected, (what, oct(dir_mode), oct(file_mode))
        if expected:
            assert (d / "k").read_bytes() == b"old"
        expected = None if may_search and dir_mode & 2 else REFUSED
        for what, answer in removals(bob, k):
            assert answer == expected, (what, oct(dir_mode), oct(file_mode))
        assert (d / "k").exists() == (expected is not None)


def test_upload_is_checked_at_every_step(by, home):
    d = home / "d"
    d.mkdir()
    own(d, "alice", 0o777)
    bob, k = by["bob"], at(d / "new/k")
    upload = bob.create_multipart_upload(**k)["UploadId"]
    part = {"ETag": bob.upload_part(**k, UploadId=upload, PartNumber=1, Body=b"part")["ETag"], "PartNumber": 1}
    complete = {**k, "UploadId": upload, "MultipartUpload": {"Parts": [part]}}
    d.chmod(0o755)
    assert answer_of(bob.upload_part, **k, UploadId=upload, PartNumber=2, Body=b"x") == REFUSED
    assert answer_of(bob.complete_multipart_upload, **complete) == REFUSED
    assert not (d / "new").exists()
    d.chmod(0o777)
    bob.complete_multipart_upload(**complete)
    assert (d / "new/k").read_bytes() == b"part"


# What decides for the kernel itself: a process of the user, in the bucket's directory.
READ = 'cat "$0" > /dev/null'
REMOVE = 'mv -- "$0" "$0.moved" && mv -- "$0.moved" "$0"'
REPLACE = f'{REMOVE} && : >> "$0"'


def kernel_lets(server, who, script, where):
    uid, gid, gids = IDS[who]
    command = ["/bin/sh", "-c", script, where["Key"]]
    ids = {"user": uid, "group": gid, "extra_groups": gids}
    return subprocess.run(command, cwd=server.path("guarded"), capture_output=True, timeout=20, **ids).returncode == 0


@pytest.mark.parametrize("dir_mode", [0o755, 0o750, 0o770, 0o711, 0o733, 0o1777, 0o3770, 0o777], ids=oct)
def test_s3_is_let_in_where_a_process_of_the_user_is(server, by, home, dir_mode):
    d = home / "d"
    d.mkdir()
    verdicts = set()
    for who, file_mode in product(("alice", "bob", "clerk"), (0o600, 0o640, 0o604, 0o660, 0o606, 0o066)):
        for script, call, more in (
            (READ, "get_object", {}),
            (REPLACE, "put_object", {"Body": b"new"}),
            (REMOVE, "delete_object", {}),
        ):
            make(d / "k", "alice", file_mode)
            os.chown(d / "k", -1, STAFF)
            own(d, "zero", dir_mode)
            os.chown(d, -1, STAFF)
            k = at(d / "k")
            lets = kernel_lets(server, who, script, k)
            expected = None if lets else REFUSED
            assert answer_of(getattr(by[who], call), **k, **more) == expected, (who, oct(file_mode), call)
            verdicts.add((call, lets))
    assert len(verdicts) > 3, verdicts


def test_default_acl_lets_another_user_in(by, home):
    if not shutil.which("setfacl"):
        pytest.skip("no setfacl (acl)")
    d = home / "d"
    d.mkdir()
    own(d, "alice", 0o700)
    for acl in ("u:4002:rwx", "d:u:4002:r,d:u::rw,d:g::-,d:o::-"):
        subprocess.run(["setfacl", "-m", acl, str(d)], check=True, timeout=20)
    k = at(d / "k")
    by["alice"].put_object(**k, Body=b"alice's")
    assert by["bob"].get_object(**k)["Body"].read() == b"alice's"
    assert answer_of(by["bob"].put_object, **k, Body=b"x") == REFUSED
    assert answer_of(by["clerk"].get_object, **k) == REFUSED
    by["bob"].put_object(**at(d / "bobs"), Body=b"bob's")
    subprocess.run(["setfacl", "-x", "u:4002", str(d / "k")], check=True, timeout=20)
    assert answer_of(by["bob"].get_object, **k) == REFUSED
    assert by["bob"].get_object(**at(d / "bobs"))["Body"].read() == b"bob's"


def test_listing_of_an_unreadable_directory_is_refused(by, home):
    d = home / "d"
    (d / "below").mkdir(parents=True)
    for path in (d, d / "below"):
        own(path, "alice", 0o755)
    make(d / "k", "alice", 0o600)
    make(d / "below/k", "alice", 0o644)
    bob, prefix = by["bob"], at(d)["Key"]
    keys = {f"{prefix}/k", f"{prefix}/below/k"}
    until("the files are listed", lambda: set(listed(by["zero"], "guarded", f"{prefix}/")) == keys)
    assert set(listed(bob, "guarded", f"{prefix}/")) == keys
    assert answer_of(bob.get_object, **at(d / "k")) == REFUSED
    assert answer_of(bob.head_object, **at(d / "k"))[0] == 403
    d.chmod(0o711)
    for call in (bob.list_objects, bob.list_objects_v2, bob.list_object_versions, bob.list_multipart_uploads):
        for within in ("/", "/k", "/none/"):
            assert answer_of(call, Bucket="guarded", Prefix=prefix + within) == REFUSED
        assert answer_of(call, Bucket="guarded", Prefix=f"{prefix}/below/") is None
    assert bob.get_object(**at(d / "below/k"))["Body"].read() == b"old"
    d.chmod(0o700)
    assert answer_of(bob.list_objects_v2, Bucket="guarded", Prefix=f"{prefix}/below/") == REFUSED
    assert set(listed(by["alice"], "guarded", f"{prefix}/")) == keys
    home.parent.chmod(0o733)
    assert answer_of(bob.list_objects_v2, Bucket="guarded") == REFUSED
    assert answer_of(by["zero"].list_objects_v2, Bucket="guarded") is None


def test_what_is_not_there_is_told_to_those_who_may_look(by, home):
    d = home / "d"
    d.mkdir()
    own(d, "alice", 0o711)
    assert answer_of(by["bob"].get_object, **at(d / "none"))[0] == 404
    d.chmod(0o700)
    assert answer_of(by["bob"].get_object, **at(d / "none")) == REFUSED
    assert answer_of(by["bob"].delete_object, **at(d / "none")) == REFUSED
    assert answer_of(by["alice"].get_object, **at(d / "none"))[0] == 404


def test_sticky_directory_lets_only_ones_own_be_taken(by, home):
    home.chmod(0o1777)
    own_file, others = home / "bobs", make(home / "others", "alice", 0o666)
    by["bob"].put_object(**at(own_file), Body=b"x")
    assert answer_of(by["bob"].delete_object, **at(others)) == REFUSED
    assert answer_of(by["bob"].put_object, **at(others), Body=b"x") == REFUSED
    # It would be moved aside.
    assert answer_of(by["bob"].put_object, **at(others / "below"), Body=b"x") == REFUSED
    assert others.read_bytes() == b"old"
    assert answer_of(by["bob"].put_object, **at(own_file), Body=b"y") is None
    assert answer_of(by["bob"].delete_object, **at(own_file)) is None
    assert answer_of(by["alice"].delete_object, **at(others)) is None


@pytest.mark.parametrize("name", ["k//awkward", "sheltered"], ids=["escaped", "sheltered"])
def test_object_that_stands_aside_has_its_own_permissions(server, by, home, name):
    alice, bob = by["alice"], by["bob"]
    # The nearest directory of an awkward key is the bucket's.
    where = {"Bucket": "guarded", "Key": f"{home.name}/{name}"}
    alice.put_object(**where, Body=b"alice's")
    alice.put_object(**{**where, "Key": f"{where['Key']}/below"}, Body=b"x")
    kept = server.volume_dir / ".portico" / "keys" / "guarded"
    files = [path for path in kept.rglob("*") if path.is_file() and path.read_bytes() == b"alice's"]
    assert len(files) == 1
    files[0].chmod(0o600)
    assert answer_of(bob.get_object, **where) == REFUSED
    assert answer_of(bob.put_object, **where, Body=b"x") == REFUSED
    assert answer_of(bob.put_object_tagging, **where, Tagging={"TagSet": []}) == REFUSED
    assert alice.get_object(**where)["Body"].read() == b"alice's"
    files[0].chmod(0o644)
    assert bob.get_object(**where)["Body"].read() == b"alice's"
    for directory in (home, home.parent):
        directory.chmod(0o755)
    assert answer_of(bob.delete_object, **where) == REFUSED
    for directory in (home, home.parent):
        directory.chmod(0o777)
    assert answer_of(bob.delete_object, **where) is None


def message_of(call, **arguments):
    with pytest.raises(ClientError) as refused:
        call(**arguments)
    assert refused.value.response["Error"]["Code"] == "AccessDenied"
    return refused.value.response["Error"]["Message"]


def test_who_has_no_uid_is_refused_and_told_why(server, s3, by, home):
    make(home / "k", "alice", 0o666)
    by["zero"].put_bucket_acl(Bucket="guarded", ACL="public-read-write")
    for client in (by["stranger"], s3, clients.anonymous(server)):
        assert "has no uid and gid" in message_of(client.put_object, **at(home / "new"), Body=b"x")
        assert "has no uid and gid" in message_of(client.list_objects_v2, Bucket="guarded")
        assert answer_of(client.get_object, **at(home / "k"))[0] == 403
    # Elsewhere it is the policy that decides.
    for client in (by["stranger"], s3):
        client.put_object(Bucket="open", Key="k", Body=b"x")
    server.path("open", "k").chmod(0o600)
    assert by["bob"].get_object(Bucket="open", Key="k")["Body"].read() == b"x"


def test_permissions_come_besides_the_policy_not_instead(new_server):
    config = CONFIG.replace('name = "bob"\ngroups = [".admin"]', 'name = "bob"')
    server = new_server(config=config).start()
    zero, bob = client_of(server, "zero"), client_of(server, "bob")
    zero.create_bucket(Bucket="guarded")
    server.path("guarded").chmod(0o777)
    make(server.path("guarded", "k"), "bob", 0o666)
    assert answer_of(bob.get_object, **at(server.path("guarded", "k"))) == REFUSED
    assert answer_of(bob.put_object, Bucket="guarded", Key="new", Body=b"x") == REFUSED
    assert zero.get_object(Bucket="guarded", Key="k")["Body"].read() == b"old"


def test_a_user_of_the_users_file_has_groups(new_server):
    server = new_server(config='[bucket.guarded]\nenforce = "posix"\n').start()
    ids = ["--uid", "4004", "--gid", "4400", "--gids", f"7,{STAFF}", "--groups", ".admin"]
    keys = ["--access-key", "AKdora", "--secret-key", "secret-of-dora"]
    command = [str(BINARY), "user", "add", "dora", "--dir", str(server.data_dir), *ids, *keys]
    added = subprocess.run(command, capture_output=True, timeout=20, text=True)
    assert added.returncode == 0, added.stderr
    dora = client_of(server, "dora")
    until("the user may come in", lambda: answer_of(dora.list_buckets) is None)
    dora.create_bucket(Bucket="guarded")
    k = make(server.path("guarded", "k"), "alice", 0o640)
    assert answer_of(dora.get_object, Bucket="guarded", Key="k") == REFUSED
    os.chown(k, -1, STAFF)
    assert answer_of(dora.get_object, Bucket="guarded", Key="k") is None


def test_a_server_that_is_not_root_refuses_to_start(new_server, tmp_path_factory):
    if not shutil.which("setpriv"):
        pytest.skip("no setpriv (util-linux)")
    home = tmp_path_factory.mktemp("nobody")
    for directory in (home, home.parent, home.parent.parent):
        directory.chmod(0o755)
    shutil.copy(BINARY, home / "portico")
    (home / "data").mkdir()
    os.chown(home / "data", NOBODY, NOBODY)
    (home / "portico.toml").write_text('[bucket.guarded]\nenforce = "posix"\n')
    as_nobody = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    args = ["--config", str(home / "portico.toml")]
    server = new_server(home / "data", wrap=as_nobody, args=args, binary=home / "portico").spawn()
    assert server.process.wait(20) not in (0, None)
    assert "[bucket.guarded]" in server.log() and "runs as root" in server.log(), server.log()
    server.process = None
