"""restic with its repository in a bucket."""

import json

from harness.data import MIB, blob, read_tree, sample_tree, write_tree


def restored(restic, target):
    """Restores the newest snapshot; returns what came back."""
    restic("restore", "latest", "--target", target)
    return read_tree(target)


def test_init_backup_check_restore_prune(restic, tmp_path):
    source = tmp_path / "source"
    write_tree(source, {**sample_tree(), "big": blob(24 * MIB)})
    restic("init")
    restic("backup", ".", cwd=source)
    restic("check", "--read-data")
    assert restored(restic, tmp_path / "one") == read_tree(source)

    (source / "readme.txt").write_bytes(b"changed\n")
    (source / "big").unlink()
    restic("backup", ".", cwd=source)
    assert restored(restic, tmp_path / "two") == read_tree(source)

    assert len(json.loads(restic("snapshots", "--json"))) == 2
    restic("forget", "--keep-last", "1", "--prune")
    restic("check", "--read-data")
    assert len(json.loads(restic("snapshots", "--json"))) == 1
    assert restored(restic, tmp_path / "three") == read_tree(source)
