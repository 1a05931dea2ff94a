#!/usr/bin/env python3
"""Runs ceph/s3-tests from a checkout outside of this repository against a server of our own, and
compares with what is kept here: the names of the cases that pass, a reason for each that does not.

    git clone https://github.com/ceph/s3-tests /tmp/s3-tests
    target/compat-venv/bin/python compat-tests/s3-tests/run.py /tmp/s3-tests [--update] [pytest words]

Ends with 1 where a case of passes.txt fails or a failing case has no reason in reasons.toml.
"""

import argparse
import fnmatch
import shutil
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as tree
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness import clients, volumes  # noqa: E402
from harness.process import plain_env  # noqa: E402
from harness.server import TARGET  # noqa: E402

PASSES, REASONS = HERE / "passes.txt", HERE / "reasons.toml"
FILES = ["s3tests/functional/test_s3.py", "s3tests/functional/test_headers.py"]
CASE_LIMIT_S = 120
RUN_LIMIT_S = 3600

# Cases that real AWS is known to pass, less those that need a second, foreign S3 service.
MARKS = "not fails_on_aws and not cloud_transition and not cloud_restore"

# Sections of the suite's configuration, a user each. All are of one account: the suite looks for
# buckets of each before and after every case, and only the default account has a volume so far.
USERS = ["s3 main", "s3 alt", "s3 tenant", "iam", "iam root", "iam alt root"]


def keys_of(section):
    """Name, access key and secret key of a section's user."""
    name = section.replace(" ", "-")
    return name, f"AK{name.upper()}", f"secret-of-{name}-0123456789"


def server_config():
    """`[[user]]` tables for our server."""
    tables = []
    for section in USERS:
        name, access, secret = keys_of(section)
        keys = f'[{{ access_key = "{access}", secret_key = "{secret}" }}]'
        tables.append(f'[[user]]\nname = "{name}"\nkeys = {keys}\n')
    return "".join(tables)


def suite_config(server):
    """The configuration that the suite reads; owners are asked of the server."""
    text = f"[DEFAULT]\nhost = {server.host}\nport = {server.port}\nis_secure = False\nssl_verify = False\n\n"
    text += "[fixtures]\nbucket prefix = s3t-{random}-\n\n"
    for section in USERS:
        name, access, secret = keys_of(section)
        owner = clients.boto(server, access_key=access, secret_key=secret).list_buckets()["Owner"]
        text += (
            f"[{section}]\ndisplay_name = {owner.get('DisplayName', name)}\nuser_id = {owner['ID']}\n"
            f"email = {name}@example.com\naccess_key = {access}\nsecret_key = {secret}\n"
        )
        text += "tenant =\n\n" if section == "s3 tenant" else "\n"
    return text


def suite_python(checkout):
    """A Python environment with what the suite itself asks for."""
    venv = TARGET / "s3-tests-venv"
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=300)
        wanted = ["-r", str(checkout / "requirements.txt"), "pytest-timeout"]
        subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True, timeout=900)
    return python


def run_suite(checkout, words):
    """Runs the suite; returns outcomes by case: passed, failed or skipped, with what was said."""
    home = TARGET / "s3-tests"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    report = home / "report.xml"
    server = volumes.new_server(home / "data", home / "server.log", config=server_config()).start()
    try:
        (home / "s3tests.conf").write_text(suite_config(server))
        env = plain_env(home, S3TEST_CONF=str(home / "s3tests.conf"), PYTHONDONTWRITEBYTECODE="1")
        flags = [
            "-q",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            f"--timeout={CASE_LIMIT_S}",
            f"--junit-xml={report}",
            "-m",
            MARKS,
        ]
        command = [suite_python(checkout), "-m", "pytest", *flags, *FILES, *words]
        with open(home / "suite.log", "wb") as log:
            subprocess.run(command, cwd=checkout, env=env, stdout=log, stderr=log, timeout=RUN_LIMIT_S)
    finally:
        server.stop()
    return read_report(report)


def read_report(report):
    """Outcomes by case name, `file::case`."""
    outcomes = {}
    for case in tree.parse(report).getroot().iter("testcase"):
        name = case.get("classname").rsplit(".", 1)[-1] + "::" + case.get("name")
        outcome, said = outcomes.get(name, ("passed", ""))
        for kind, means in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
            for mark in case.iter(kind):
                outcome, said = means, said or (mark.get("message") or "").splitlines()[0]
        outcomes[name] = outcome, said
    return outcomes


def read_reasons():
    """Pairs of a pattern of case names and the reason; the first that fits counts."""
    if not REASONS.exists():
        return []
    entries = tomllib.loads(REASONS.read_text()).get("reason", [])
    return [(pattern, entry["why"]) for entry in entries for pattern in entry["cases"]]


def reason_for(name, reasons):
    """The reason for a case, or none."""
    return next((why for pattern, why in reasons if fnmatch.fnmatchcase(name, pattern)), None)


def compare(outcomes, whole_run):
    """Prints what differs from what is kept; returns how many things are wrong."""
    kept = set(PASSES.read_text().split()) if PASSES.exists() else set()
    reasons = read_reasons()
    passed = {name for name, (outcome, _) in outcomes.items() if outcome == "passed"}
    lost = sorted(name for name in kept if name in outcomes and name not in passed)
    gone = sorted(kept - set(outcomes)) if whole_run else []
    bare = sorted(name for name in set(outcomes) - passed if name not in kept and not reason_for(name, reasons))
    for title, names in (
        ("in passes.txt, but does not pass", lost),
        ("in passes.txt, but the suite has no such case", gone),
        ("does not pass and has no reason", bare),
        ("passes, but is not in passes.txt (--update)", sorted(passed - kept)),
    ):
        for name in names:
            print(f"{title}: {name}  {outcomes.get(name, ('', ''))[1][:140]}")
    print(f"{len(passed)} passed, {len(outcomes) - len(passed)} did not, of {len(outcomes)}")
    return len(lost) + len(gone) + len(bare)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a checkout of ceph/s3-tests")
    parser.add_argument("--update", action="store_true", help="write passes.txt from this run")
    args, words = parser.parse_known_args()
    outcomes = run_suite(args.checkout.resolve(), words)
    if args.update:
        kept = set(PASSES.read_text().split()) if words and PASSES.exists() else set()
        passed = {name for name, (outcome, _) in outcomes.items() if outcome == "passed"}
        PASSES.write_text("".join(f"{name}\n" for name in sorted((kept - set(outcomes)) | passed)))
    return 1 if compare(outcomes, not words) else 0


if __name__ == "__main__":
    sys.exit(main())
