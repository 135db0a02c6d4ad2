"""What pip says when it fails is told apart by its own words: a version that does not exist is no network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench_core.contract.errors import MachineFailure, MayPass
from bench_core.drive.launch.launcher import NotInstalled
from bench_core.drive.launch.processes.pip_words import explain

MISSING = """\
ERROR: Could not find a version that satisfies the requirement engine==9.9 (from versions: 0.1, 0.2, 0.3, 0.4, 0.5, 1.0)
ERROR: No matching distribution found for engine==9.9
"""
NETWORK = """\
WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by \
'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f>: Failed to establish a new \
connection: [Errno -3] Temporary failure in name resolution')': /simple/engine/
ERROR: Could not find a version that satisfies the requirement engine==1.0 (from versions: none)
ERROR: No matching distribution found for engine==1.0
"""


@pytest.mark.parametrize(
    ("said", "kind", "cause", "hint"),
    [
        (MISSING, NotInstalled, "No matching distribution found for engine==9.9",
         "engine==9.9 does not exist at the package index that pip asks, which has 0.2, 0.3, 0.4, 0.5, 1.0: take"),
        (MISSING.replace("0.1, 0.2, 0.3, 0.4, 0.5, 1.0", "none"), NotInstalled, "No matching distribution",
         "has nothing for engine==9.9, or not for this Python and platform"),
        ("ERROR: Ignored the following versions that require a different python version: 9.9 Requires-Python >=3.13\n"
         + MISSING, NotInstalled, "No matching distribution", "exists for another Python alone"),
        (NETWORK, MayPass, "No matching distribution found for engine==1.0", "is a package index reachable?"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", MachineFailure,
         "[Errno 28] No space left on device", "free some space"),
        ("ERROR: Cannot install a==1 and b==2 because these package versions have conflicting dependencies.\n"
         "ERROR: ResolutionImpossible: for help visit the documentation\n", NotInstalled, "ResolutionImpossible",
         "two requirements contradict each other"),
        ("\x1b[91mERROR: No matching distribution found for engine==9.9\x1b[0m\n", NotInstalled,
         "x could not be installed: No matching distribution", "as it was"),
        ("something else\nerror: subprocess-exited-with-error\n", NotInstalled, "subprocess-exited", "as it was"),
        (MISSING + "The command '/bin/sh -c pip install' returned a non-zero code: 1\n", NotInstalled,
         "No matching distribution found for engine==9.9", "does not exist"),
        ("", NotInstalled, "x could not be installed: ", "as it was"),
    ],
)  # fmt: skip
def test_pips_words_say_what_has_failed(said: str, kind: type[Exception], cause: str, hint: str) -> None:
    error = explain("x could not be installed", said.splitlines(), "as it was")
    assert type(error) is kind
    assert error.cause.startswith("x could not be installed: ".strip())
    assert cause.strip() in error.cause
    assert hint in error.hint


def test_this_pip_says_it_in_these_words(tmp_path: Path) -> None:
    """Without a network: a folder of packages is an index, too."""
    (tmp_path / "engine-1.0-py3-none-any.whl").write_bytes(b"")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--find-links", str(tmp_path), "engine==9.9"]
    target = ("--target", str(tmp_path / "there"), "--disable-pip-version-check")
    done = subprocess.run([*command, *target], capture_output=True, text=True, check=False)
    error = explain("x could not be installed", (done.stdout + done.stderr).splitlines(), "as it was")
    assert type(error) is NotInstalled
    assert (
        error.hint == "engine==9.9 does not exist at the package index that pip asks, which has 1.0: take one of these"
    )
