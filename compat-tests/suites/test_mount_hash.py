"""When a file written through the mount gets its MD5, by the `hash` policy; never a stale one meanwhile."""

import time

import pytest

from harness import clients
from harness.data import KIB, blob, md5
from harness.tree import PROVISIONAL, listed, seen_by_all_doors
from harness.wait import until

pytestmark = pytest.mark.tree
DATA = blob(300 * KIB)


@pytest.fixture
def doors(new_server, new_mount):
    """A server of a policy, its client, and a bucket through its mount."""

    def of(policy):
        server = new_server(config=f'hash = "{policy}"\nscan_interval = "1s"\n').start()
        s3 = clients.boto(server)
        s3.create_bucket(Bucket="bkt")
        return s3, new_mount(server).start().path("bkt")

    return of


def tag(s3, key="k"):
    return s3.head_object(Bucket="bkt", Key=key)["ETag"].strip('"')


@pytest.mark.parametrize("policy", ["background", "on-close"])
def test_md5_is_known_soon_after_the_last_close(doors, policy):
    s3, folder = doors(policy)
    with open(folder / "k", "wb") as file:
        file.write(DATA)
        file.flush()
        assert tag(s3).startswith(PROVISIONAL)
    until("the MD5 is known", lambda: tag(s3) == md5(DATA))
    until("the listing has it", lambda: listed(s3, "bkt")["k"]["ETag"].strip('"') == md5(DATA))
    with open(folder / "k", "r+b") as file:
        file.write(b"edited")
    until("the new MD5 is known", lambda: tag(s3) == md5(b"edited" + DATA[6:]))


def test_on_read_is_known_with_the_first_answer(doors):
    s3, folder = doors("on-read")
    (folder / "k").write_bytes(DATA)
    until("the edit is over", lambda: tag(s3) == md5(DATA))
    seen_by_all_doors(s3, "bkt", "k", DATA)


def test_never_stays_provisional_and_changes_with_the_bytes(doors):
    s3, folder = doors("never")
    (folder / "k").write_bytes(DATA)
    until("the edit is over", lambda: tag(s3) == tag(s3))
    first = tag(s3)
    time.sleep(2)
    assert tag(s3) == first and first.startswith(PROVISIONAL)
    seen_by_all_doors(s3, "bkt", "k", DATA)
    (folder / "k").write_bytes(DATA[::-1])
    assert tag(s3) != first
    seen_by_all_doors(s3, "bkt", "k", DATA[::-1])
    s3.put_object(Bucket="bkt", Key="k", Body=DATA)
    assert tag(s3) == md5(DATA)


def test_buckets_have_policies_of_their_own(new_server, new_mount):
    config = 'hash = "never"\n[bucket.soon]\nhash = "on-close"\n[bucket.asked]\nhash = "on-read"\n'
    server = new_server(config=config).start()
    s3 = clients.boto(server)
    mount = new_mount(server).start()
    for bucket in ("soon", "asked", "other"):
        s3.create_bucket(Bucket=bucket)
        (mount.path(bucket) / "k").write_bytes(DATA)

    def shown(bucket):
        return listed(s3, bucket)["k"]["ETag"].strip('"')

    until("on-close is hashed by itself", lambda: shown("soon") == md5(DATA))
    assert shown("asked").startswith(PROVISIONAL)
    until(
        "on-read is hashed when asked", lambda: s3.head_object(Bucket="asked", Key="k")["ETag"].strip('"') == md5(DATA)
    )
    assert s3.head_object(Bucket="other", Key="k")["ETag"].strip('"').startswith(PROVISIONAL)
    assert shown("other").startswith(PROVISIONAL)


def test_file_that_is_written_again_and_again_is_never_shown_with_an_old_md5(doors):
    s3, folder = doors("on-close")
    for number in range(60):
        data = blob(2000, number)
        (folder / "k").write_bytes(data)
        seen_by_all_doors(s3, "bkt", "k", data)
