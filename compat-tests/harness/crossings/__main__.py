"""The walk by hand: a server and a mount of its own, as many crossings as asked for."""

import argparse
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from harness.crossings.checks import Stale
from harness.crossings.walk import Walk, shrink
from harness.fuse import Mount
from harness.server import TARGET, Server


def main():
    """Ends with 1 where a door was stale."""
    parser = argparse.ArgumentParser(prog="python -m harness.crossings", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="crossings")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--doors", default="s3,mount,brick", help="where changes are made")
    parser.add_argument("--without", default="", help="changes that are not made, by name: poke_map,link")
    parser.add_argument("--durability", default="strict", choices=["strict", "relaxed"])
    parser.add_argument("--config", default='scan_interval = "1s"\n', help="lines of portico.toml")
    parser.add_argument("--option", "-o", action="append", default=[], help="of the mount")
    parser.add_argument("--shrink", action="store_true", help="look for a shorter way to a failure")
    words = parser.parse_args()
    seed = secrets.randbits(31) if words.seed is None else words.seed
    print(f"seed {seed}", flush=True)
    TARGET.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="crossings-", dir=TARGET))
    config = f'durability = "{words.durability}"\n{words.config}'
    server = Server(home / "data", home / "server.log", config=config)
    mount = Mount(server, home / "mnt", home / "mount.log", options=words.option)
    is_kept = False
    try:
        server.start()
        mount.start()
        choice = (words.doors.split(","), words.without.split(","))
        walk = Walk(server, mount.point, seed, *choice)
        try:
            print(walk.run(crossings=words.count, report=lambda text: print(text, flush=True)))
            print("  ".join(f"{name} {count}" for name, count in sorted(walk.changes_made.items())))
        except Stale as stale:
            is_kept = True
            print(f"STALE: {stale}\n{server.log(2000)}\n{mount.log(2000)}\nkept: {home}", flush=True)
            if words.shrink:
                shorter = shrink(lambda: Walk(server, mount.point, seed, *choice), walk.trace)
                print("not repeated by its changes alone" if shorter is None else "\n".join(map(str, shorter)))
            return 1
        return 0
    finally:
        mount.clear()
        server.kill()
        if not is_kept:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
