"""A volume on several bricks: plain, equal copies; bricks that are lost, refused, healed, changed."""

import os
import subprocess
import threading
import urllib.request

import pytest

from harness import clients
from harness.bricks import HEALED_S, Bricks
from harness.data import KIB, MIB, blob, read_tree, sample_tree, write_tree
from harness.mounts import make_read_only, private_ext4, private_tmpfs, rot_below
from harness.server import free_port
from harness.tree import listed, seen_by_all_doors
from harness.wait import until

pytestmark = pytest.mark.tree
SIZES = [0, 1, 100, 4 * KIB, 90 * KIB, 3 * MIB]


def put_some(s3, bucket, name, count=24):
    """Puts objects of many sizes; returns them by key."""
    objects = {f"{name}/d{number % 5}/{number:03}": blob(SIZES[number % len(SIZES)], number) for number in range(count)}
    for key, data in objects.items():
        s3.put_object(Bucket=bucket, Key=key, Body=data)
    return objects


def check_reads(s3, bucket, objects):
    """Every object reads as it was written, and the listing has these keys alone."""
    for key, data in objects.items():
        seen_by_all_doors(s3, bucket, key, data)
    assert sorted(listed(s3, bucket)) == sorted(objects)


def started(new_server, home, count, **options):
    """A served volume with an empty bucket, and a client."""
    bricks = Bricks(new_server, home, count, **options)
    bricks.server.start()
    s3 = clients.boto(bricks.server)
    s3.create_bucket(Bucket="bkt")
    return bricks, s3


def refusal(bricks):
    """What a server says that does not start."""
    server = bricks.server
    before = len(server.log(1 << 20))
    server.spawn()
    assert server.process.wait(30) == 1, server.log()
    return server.log(1 << 20)[before:]


@pytest.mark.parametrize("count", [2, 3])
def test_copies_are_plain_files_equal_on_each_replica(new_server, tmp_path, count):
    bricks, s3 = started(new_server, tmp_path, count)
    objects = put_some(s3, "bkt", "first")
    objects["first/d0/000"] = b"replaced"
    s3.put_object(Bucket="bkt", Key="first/d0/000", Body=b"replaced")
    s3.delete_object(Bucket="bkt", Key="first/d1/001")
    del objects["first/d1/001"]
    check_reads(s3, "bkt", objects)
    bricks.check_copies("bkt", objects)
    if count > 2:
        assert all(tree for tree in bricks.trees("bkt")), "every brick has its share"
    # It starts again without being told where its bricks are.
    bricks.server.args = []
    bricks.server.restart()
    check_reads(s3, "bkt", objects)
    assert bricks.server.stop() == 0
    bricks.check_copies("bkt", objects)


def test_clients_sync_to_bricks_and_back(new_server, tmp_path):
    bricks, _ = started(new_server, tmp_path, 3)
    files, home = sample_tree(), tmp_path / "home"
    home.mkdir()
    write_tree(tmp_path / "from", files)
    rclone = clients.Rclone(bricks.server, home)
    rclone("copy", tmp_path / "from", "portico:bkt")
    rclone("check", tmp_path / "from", "portico:bkt")
    bricks.check_copies("bkt", files)
    rclone("copy", "portico:bkt", tmp_path / "to")
    assert read_tree(tmp_path / "to") == files


def test_multipart_uploads_are_whole_on_each_replica(new_server, tmp_path):
    bricks, s3 = started(new_server, tmp_path, 3)
    parts = [blob(5 * MIB, 1), blob(5 * MIB, 2), blob(100, 3)]
    at = {"Bucket": "bkt", "Key": "big/file"}
    at["UploadId"] = s3.create_multipart_upload(**at)["UploadId"]
    tags = [
        {"PartNumber": number, "ETag": s3.upload_part(**at, PartNumber=number, Body=part)["ETag"]}
        for number, part in enumerate(parts, 1)
    ]
    s3.complete_multipart_upload(**at, MultipartUpload={"Parts": tags})
    bricks.check_copies("bkt", {"big/file": b"".join(parts)})


def test_a_brick_that_is_missing_costs_nothing_and_is_healed(new_server, tmp_path):
    bricks, s3 = started(new_server, tmp_path, 3)
    objects = put_some(s3, "bkt", "first")
    bricks.server.stop()
    away = tmp_path / "away"
    os.rename(bricks.dirs[1], away)
    bricks.server.start()
    assert bricks.state(1) == "missing"
    check_reads(s3, "bkt", objects)
    objects |= put_some(s3, "bkt", "second")
    s3.delete_object(Bucket="bkt", Key="first/d2/002")
    del objects["first/d2/002"]
    check_reads(s3, "bkt", objects)
    assert bricks.status()["short_groups"] > 0
    assert 'event="brick.missing"' in bricks.server.log(1 << 20)
    bricks.server.stop()
    os.rename(away, bricks.dirs[1])
    bricks.server.start()
    bricks.settled()
    check_reads(s3, "bkt", objects)
    bricks.check_copies("bkt", objects)


def test_a_brick_that_fails_while_it_is_served_fails_no_request(new_server, tmp_path):
    broken = tmp_path / "brick1"
    bricks, s3 = started(new_server, tmp_path, 3, wrap=private_ext4(broken, 96))
    objects = put_some(s3, "bkt", "first")
    make_read_only(bricks.server, broken)
    objects |= put_some(s3, "bkt", "second")
    check_reads(s3, "bkt", objects)
    until("the brick is seen to have failed", lambda: bricks.state(1) == "failed")
    until("an event tells of it", lambda: 'event="brick.failed"' in bricks.server.log(1 << 20))
    copies = bricks.copies("bkt")
    assert all(data in copies[key] for key, data in objects.items())


def test_a_full_brick_refuses_what_does_not_fit_and_lets_deletes_through(new_server, tmp_path):
    small = tmp_path / "brick0"
    bricks, s3 = started(new_server, tmp_path, 2, wrap=private_tmpfs(small, "48m"))
    objects = put_some(s3, "bkt", "first", 12)
    with pytest.raises(s3.exceptions.ClientError) as refused:
        s3.put_object(Bucket="bkt", Key="big", Body=blob(80 * MIB))
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] in (503, 507)
    check_reads(s3, "bkt", objects)
    for key in list(objects)[:4]:
        s3.delete_object(Bucket="bkt", Key=key)
        del objects[key]
    check_reads(s3, "bkt", objects)
    bricks.check_copies("bkt", objects)


def test_what_was_acknowledged_before_a_kill_is_on_all_replicas(new_server, tmp_path):
    bricks, s3 = started(new_server, tmp_path, 3)
    for turn in range(3):
        acknowledged, stop = {}, threading.Event()

        def write(number, acknowledged=acknowledged, stop=stop, turn=turn):
            client = clients.boto(bricks.server)
            for count in range(10_000):
                if stop.is_set():
                    return
                key, data = f"t{turn}/w{number}/{count}", blob(2 * KIB, f"{turn}/{number}/{count}")
                try:
                    client.put_object(Bucket="bkt", Key=key, Body=data)
                except Exception:
                    return
                acknowledged[key] = data

        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        until("some are acknowledged", lambda acknowledged=acknowledged: len(acknowledged) > 100)
        bricks.server.kill()
        stop.set()
        for writer in writers:
            writer.join()
        bricks.server.start()
        bricks.settled()
        for key, data in acknowledged.items():
            assert s3.get_object(Bucket="bkt", Key=key)["Body"].read() == data
        listing = listed(s3, "bkt", f"t{turn}/")
        copies = {key: found for key, found in bricks.copies("bkt").items() if key.startswith(f"t{turn}/")}
        assert sorted(listing) == sorted(copies)
        assert set(acknowledged) <= set(copies)
        assert all(len(found) == 2 and found[0] == found[1] for found in copies.values())


def test_a_brick_is_drained_and_removed_and_what_it_held_is_elsewhere(new_server, tmp_path):
    bricks, s3 = started(new_server, tmp_path, 3)
    objects = put_some(s3, "bkt", "first")
    still = bricks.command("brick", "remove", "2", ok=(1,))
    assert b"portico brick drain 2" in still.stderr
    bricks.command("brick", "drain", str(bricks.dirs[2]))
    until("the brick is empty", lambda: bricks.state(2) == "drained", 90)
    check_reads(s3, "bkt", objects)
    bricks.command("brick", "remove", "2")
    assert [brick["number"] for brick in bricks.status()["bricks"]] == [0, 1]
    removed = bricks.dirs.pop()
    bricks.check_copies("bkt", objects)
    bricks.server.args = []
    bricks.server.restart()
    check_reads(s3, "bkt", objects)
    bricks.server.stop()
    bricks.server.args = ["--brick", str(removed)]
    assert "was taken out of volume" in refusal(bricks)


def test_a_brick_that_is_added_gets_its_share_at_once(new_server, tmp_path):
    bricks, s3 = started(new_server, tmp_path, 2)
    objects = put_some(s3, "bkt", "first")
    bricks.command("brick", "add", tmp_path / "brick2")
    bricks.dirs.append(tmp_path / "brick2")
    objects |= put_some(s3, "bkt", "second")
    check_reads(s3, "bkt", objects)
    # It goes on where it was.
    bricks.server.restart()
    bricks.settled()
    held = {brick["number"]: brick["held_groups"] for brick in bricks.status()["bricks"]}
    assert held[2] > 500, held
    check_reads(s3, "bkt", objects)
    assert bricks.trees("bkt")[2]


def test_a_brick_is_replaced_by_another_while_it_is_served(new_server, tmp_path):
    bricks, s3 = started(new_server, tmp_path, 3)
    objects = put_some(s3, "bkt", "first")
    bricks.command("brick", "replace", bricks.dirs[1], tmp_path / "brick3")
    objects |= put_some(s3, "bkt", "second")
    until("what it held is elsewhere", lambda: bricks.state(1) == "drained", HEALED_S)
    bricks.settled()
    assert bricks.status()["bricks"][3]["held_groups"] > 500
    bricks.command("brick", "remove", "1")
    bricks.dirs[1] = tmp_path / "brick3"
    check_reads(s3, "bkt", objects)
    bricks.check_copies("bkt", objects)


def test_a_brick_that_is_moved_away_is_let_go_and_taken_in_when_it_is_back(new_server, tmp_path):
    bricks, s3 = started(new_server, tmp_path, 3)
    objects = put_some(s3, "bkt", "first")
    away = tmp_path / "away"
    os.rename(bricks.dirs[1], away)
    until("it is seen to be missing", lambda: bricks.state(1) == "missing")
    objects |= put_some(s3, "bkt", "second")
    s3.delete_object(Bucket="bkt", Key="first/d2/002")
    del objects["first/d2/002"]
    check_reads(s3, "bkt", objects)
    # What is put in its place is not taken for it.
    bricks.dirs[1].mkdir()
    check_reads(s3, "bkt", objects)
    assert bricks.state(1) == "missing"
    bricks.dirs[1].rmdir()
    os.rename(away, bricks.dirs[1])
    bricks.settled()
    check_reads(s3, "bkt", objects)
    bricks.check_copies("bkt", objects)
    log = bricks.server.log(1 << 20)
    assert log.count('event="brick.missing"') == 1 and 'event="brick.back"' in log


def test_a_brick_that_was_missing_at_the_start_is_taken_in_when_it_comes(new_server, tmp_path):
    bricks, s3 = started(new_server, tmp_path, 2)
    objects = put_some(s3, "bkt", "first")
    bricks.server.stop()
    away = tmp_path / "away"
    os.rename(bricks.dirs[1], away)
    bricks.server.start()
    assert bricks.state(1) == "missing"
    objects |= put_some(s3, "bkt", "second")
    # A copy of it, as one that was restored: compared before it counts.
    subprocess.run(["cp", "-a", away, bricks.dirs[1]], check=True, timeout=60)
    bricks.settled()
    check_reads(s3, "bkt", objects)
    bricks.check_copies("bkt", objects)
    assert 'event="brick.doubted"' in bricks.server.log(1 << 20)


def test_a_rebalance_is_paused_and_goes_on(new_server, tmp_path):
    bricks, s3 = started(new_server, tmp_path, 3)
    objects = put_some(s3, "bkt", "first")
    assert bricks.said("rebalance", "pause")["is_paused"]
    bricks.command("brick", "drain", "0")
    held = bricks.status()["to_make_groups"]
    assert held > 0
    bricks.server.restart()
    status = bricks.said("rebalance", "status")
    assert status["is_paused"] and status["to_make_groups"] == held
    check_reads(s3, "bkt", objects)
    bricks.command("rebalance", "start")
    until("the brick is empty", lambda: bricks.state(0) == "drained", 90)
    check_reads(s3, "bkt", objects)


def test_a_store_grows_without_being_moved(new_server, tmp_path):
    alone = new_server(data_dir=tmp_path / "store")
    alone.start()
    s3 = clients.boto(alone)
    s3.create_bucket(Bucket="bkt")
    objects = put_some(s3, "bkt", "old")
    inode = os.stat(alone.path("bkt", "old/d3/003")).st_ino
    bricks = Bricks(new_server, tmp_path, 1)
    bricks.dirs.insert(0, alone.data_dir)
    words = ["volume", "create", "grown", "--adopt", "--brick", alone.data_dir, "--brick", bricks.dirs[1]]
    running = bricks.command(*words, ok=(1,))
    assert b"in use by the portico with pid" in running.stderr
    alone.stop()
    bricks.command(*words)
    bricks.server.args = []
    bricks.server.start()
    s3 = clients.boto(bricks.server)
    check_reads(s3, "bkt", objects)
    objects |= put_some(s3, "bkt", "new")
    bricks.settled()
    check_reads(s3, "bkt", objects)
    bricks.check_copies("bkt", objects)
    assert os.stat(alone.path("bkt", "old/d3/003")).st_ino == inode
    assert "is a brick of volume `grown`" in refusal_of(alone)


def refusal_of(server):
    """What a server says that does not start."""
    server.spawn()
    assert server.process.wait(30) == 1
    return server.log()


def test_what_is_no_brick_of_the_volume_is_refused_with_a_word(new_server, tmp_path):
    bricks, _ = started(new_server, tmp_path / "one", 2)
    bricks.server.stop()
    given = list(bricks.server.args)

    def refused(*more):
        bricks.server.args = [*given, *more]
        return refusal(bricks)

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "portico brick add" in refused("--brick", str(empty))
    (empty / "file").write_text("mine")
    assert "it is not empty" in refused("--brick", str(empty))
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", bricks.dirs[1], copy], check=True, timeout=60)
    assert "are the same brick" in refused("--brick", str(copy))
    other = Bricks(new_server, tmp_path / "two", 2)
    other.server.start()
    other.server.stop()
    assert "is a brick of another volume" in refused("--brick", str(other.dirs[0]))
    for directory in bricks.dirs:
        os.rename(directory, directory.with_suffix(".away"))
        directory.mkdir()
    assert "are the disks mounted?" in refused()
    assert not any(any(directory.iterdir()) for directory in bricks.dirs)


def test_a_scrub_mends_a_byte_that_was_flipped(new_server, tmp_path):
    bricks, s3 = started(new_server, tmp_path, 2)
    objects = put_some(s3, "bkt", "first")
    bricks.command("scrub", "start")
    until("all of it was read", lambda: ended(bricks, "status"))
    clean = bricks.said("scrub", "status")
    assert sum(brick["objects"] for brick in clean["bricks"]) == 2 * len(objects)
    assert not clean["named"]
    flip(bricks.dirs[1] / "main/bkt/first/d3/003")
    bricks.command("scrub", "start")
    found = until("all of it was read", lambda: ended(bricks, "status"))
    told = [(named["brick"], named["key"], named["is_mended"]) for named in found["named"]]
    assert told == [(1, "first/d3/003", True)]
    bricks.check_copies("bkt", objects)
    (kept,) = found["quarantine"]
    assert (kept["brick"], kept["key"]) == (1, "first/d3/003")
    assert os.path.getsize(kept["path"]) == len(objects["first/d3/003"])
    log = bricks.server.log(1 << 20)
    assert 'event="scrub.found"' in log and 'event="rot.mended"' in log


def test_a_byte_that_rotted_is_not_given_to_a_reader_and_is_mended(new_server, tmp_path):
    disk = tmp_path / "brick0"
    bricks, s3 = started(new_server, tmp_path, 2, wrap=private_ext4(disk, 96))
    objects = put_some(s3, "bkt", "first")
    short = [key for key, data in objects.items() if 0 < len(data) < MIB]
    for key in short:
        rot_below(bricks.server, disk, f"main/bkt/{key}")
    # Of each object one brick is read: of some of so many this one.
    for key in short:
        seen_by_all_doors(s3, "bkt", key, objects[key])
    until("what was read is mended", lambda: 'event="rot.mended"' in bricks.server.log(1 << 20))
    bricks.command("scrub", "start")
    until("all of it was read", lambda: ended(bricks, "status"))
    rot = bricks.said("scrub", "status")["since_start"]
    assert rot == {"found": len(short), "mended": len(short), "lost": 0}
    bricks.check_copies("bkt", objects)


def test_a_file_that_was_edited_on_one_brick_is_read_elsewhere_and_mended(new_server, tmp_path):
    bricks, s3 = started(new_server, tmp_path, 2)
    objects = put_some(s3, "bkt", "first", 12)
    for directory in bricks.dirs:
        (directory / "main/bkt/first/d4/004").write_bytes(b"edited")
        seen_by_all_doors(s3, "bkt", "first/d4/004", objects["first/d4/004"])
        if (directory / "main/bkt/first/d4/004").read_bytes() == b"edited":
            bricks.command("scrub", "start")
            until("all of it was read", lambda: ended(bricks, "status"))
        bricks.check_copies("bkt", objects)


def ended(bricks, word):
    """The scrub where it has come to its end."""
    status = bricks.said("scrub", word)
    return status["state"] == "idle" and status["ended_s"] and status


def flip(path):
    """Changes one byte of a file, and puts its time back."""
    stat = os.stat(path)
    with open(path, "r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_numbers_are_told_on_a_listener_of_their_own(new_server, tmp_path):
    at = f"127.0.0.1:{free_port()}"
    bricks, s3 = started(new_server, tmp_path, 3, args=["--metrics-listen", at])
    put_some(s3, "bkt", "first", 6)

    def numbers():
        with urllib.request.urlopen(f"http://{at}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            lines = answer.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def state(brick, word):
        return numbers()[f'portico_brick_state{{brick="{brick}",dir="{bricks.dirs[brick]}",state="{word}"}}']

    puts = 'door="s3",operation="PutObject"'
    found = numbers()
    assert found[f'portico_requests_total{{{puts},status="200"}}'] == 6
    assert found[f'portico_request_duration_seconds_bucket{{{puts},le="+Inf"}}'] == 6
    assert found[f"portico_received_bytes_total{{{puts}}}"] >= sum(SIZES)
    assert (found["portico_volume_groups"], found["portico_volume_short_groups"]) == (1024, 0)
    assert state(1, "whole") == 1 and state(1, "missing") == 0
    os.rename(bricks.dirs[1], tmp_path / "away")
    until("the brick is told to be missing", lambda: state(1, "missing") == 1)
    until("what it held lacks copies", lambda: numbers()["portico_volume_short_groups"] > 0)


def test_commands_say_that_no_server_runs(new_server, tmp_path):
    bricks, _ = started(new_server, tmp_path, 2)
    bricks.server.stop()
    status = bricks.status()
    assert [brick["state"] for brick in status["bricks"]] == ["whole", "whole"]
    for words in (["brick", "drain", "0"], ["brick", "add", str(tmp_path / "x")], ["scrub", "start"]):
        said = bricks.command(*words, ok=(1,)).stderr.decode()
        assert "no portico serves" in said, said
