"""Commands as users type them, bound in time, with their output shown where they fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

TIMEOUT_S = 120
VENV_BIN = Path(sys.executable).parent
TOOLS_BIN = VENV_BIN.parents[1] / "compat-tools" / "bin"


class CommandFailed(AssertionError):
    """A command that ended with another code than the test wanted."""


def tool(name):
    """The path of a command: what `run` installed first, then the system's; None where there is none."""
    for folder in (VENV_BIN, TOOLS_BIN):
        if (folder / name).exists():
            return str(folder / name)
    return shutil.which(name)


def plain_env(home, **more):
    """An environment without the caller's own S3 settings or proxies."""
    dropped = ("AWS_", "RCLONE_", "RESTIC_", "PORTICO_", "S3CMD_")
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(dropped) and not name.lower().endswith("_proxy")
    }
    env.update(HOME=str(home), PATH=f"{VENV_BIN}:{os.environ['PATH']}", LC_ALL="C.UTF-8", NO_PROXY="*")
    env.update(more)
    return env


def run(argv, *, env=None, cwd=None, stdin=None, timeout=TIMEOUT_S, ok=(0,)):
    """Runs a command to its end; fails the test, with all it said, where its code is not in `ok`."""
    done = subprocess.run(
        [str(word) for word in argv],
        env=env,
        cwd=cwd,
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
    )
    if done.returncode not in ok:
        raise CommandFailed(
            f"{' '.join(map(str, argv))}\nended with {done.returncode}\n"
            f"stdout: {tail(done.stdout)}\nstderr: {tail(done.stderr)}"
        )
    return done


def tail(output, limit=4000):
    """The last `limit` bytes of what a command said, as text."""
    return output[-limit:].decode(errors="replace")
