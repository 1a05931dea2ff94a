"""fsx, fio and stress-ng on the mount: what was written is what is read, also through S3."""

import hashlib
import os
import secrets

import pytest

from harness import fuse
from harness.data import MIB
from harness.process import run, tool
from harness.tree import seen_by_all_doors

pytestmark = pytest.mark.tree
OPERATIONS = int(os.environ.get("PORTICO_COMPAT_FSX_OPERATIONS", "12000"))
FLEN = 2 * MIB
# Weights of fsx.toml; what is not named has fsx's default.
PROFILES = {
    "default": "",
    "close-open": "close_open = 5\n",
    "no-mmap": "mapread = 0\nmapwrite = 0\n",
    "fsync": "fsync = 2\nfdatasync = 2\nclose_open = 1\n",
    "holes": "punch_hole = 5\nposix_fallocate = 5\ncopy_file_range = 5\nsendfile = 5\nclose_open = 1\n",
    "cache": "invalidate = 3\nposix_fadvise = 5\nclose_open = 2\nmapwrite = 20\n",
}
STRESSORS = ("dir", "dirdeep", "link", "rename", "symlink", "hdd", "fallocate", "utime", "xattr", "flock")


@pytest.fixture
def seed(request):
    """A seed that is printed; `PORTICO_COMPAT_SEED` repeats one."""
    value = int(os.environ.get("PORTICO_COMPAT_SEED") or secrets.randbits(31))
    print(f"seed {value}: PORTICO_COMPAT_SEED={value} ./compat-tests/run -k '{request.node.name}'")
    return value


@pytest.mark.timeout(900)
@pytest.mark.parametrize("profile", PROFILES)
def test_fsx(profile, place, s3, bucket, seed, tmp_path):
    if not tool("fsx"):
        pytest.skip("fsx is not installed")
    config = tmp_path / "fsx.toml"
    config.write_text(f"flen = {FLEN}\n[weights]\n{PROFILES[profile]}")
    path = place / "fsx"
    run([tool("fsx"), "-f", config, "-N", OPERATIONS, "-S", seed, "-P", tmp_path, path], timeout=800)
    seen_by_all_doors(s3, bucket, "fsx", path.read_bytes())


@pytest.mark.parametrize("direct", [True, False], ids=["O_DIRECT", "buffered"])
def test_fio_verifies_what_it_wrote(direct, place, s3, bucket, seed, tmp_path):
    fuse.need("fio")
    path = place / "fio"
    words = f"--name=x --filename={path} --size=24m --bs=16k --rw=randwrite --verify=crc32c --verify_fatal=1"
    more = [f"--direct={int(direct)}", f"--randseed={seed}", "--ioengine=psync", "--end_fsync=1"]
    run(["fio", *words.split(), *more], cwd=tmp_path)
    head = s3.head_object(Bucket=bucket, Key="fio")
    assert head["ContentLength"] == path.stat().st_size == 24 * MIB
    data = s3.get_object(Bucket=bucket, Key="fio")["Body"].read()
    assert hashlib.md5(data).digest() == hashlib.md5(path.read_bytes()).digest()


def test_mixed_direct_and_buffered_jobs_agree(place, seed, tmp_path):
    """Two writers of halves of one file, one with O_DIRECT, each verifying its own."""
    fuse.need("fio")
    common = f"--bs=4k --rw=randwrite --verify=crc32c --verify_fatal=1 --size=8m --randseed={seed} --ioengine=psync"
    halves = [f"--name={name} --filename={place / 'shared'} --direct={direct} --offset={offset}m"
              for name, direct, offset in (("direct", 1, 0), ("buffered", 0, 8))]  # fmt: skip
    run(["fio", *common.split(), *" ".join(halves).split()], cwd=tmp_path)


@pytest.mark.timeout(300)
def test_stressors(place, seed):
    """Many names made and unmade at once, as fsstress does it."""
    fuse.need_root()
    fuse.need("stress-ng")
    work = place / "stress"
    work.mkdir()
    words = f"--temp-path {work} --timeout 15s --verify --seed {seed} --hdd-bytes 8m --fallocate-bytes 8m"
    run(["stress-ng", *words.split(), *(word for name in STRESSORS for word in (f"--{name}", "1"))], timeout=200)
    assert os.listdir(work) == []
