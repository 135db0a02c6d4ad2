"""What pip (alone or inside a Docker build) says when it fails, told apart: a version that does not exist, a network, a
disk, pins that contradict each other. The cause is pip's own line; the hint says what helps."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench_core.contract.errors import BadInput, MachineFailure, MayPass, shortened
from bench_core.drive.launch.launcher import NotInstalled

_NETWORK = re.compile(
    r"temporary failure|name or service not known|timed out|timeout|connection (?:reset|refused|broken|aborted)"
    r"|network is unreachable|service unavailable|bad gateway|gateway time-?out|too many requests|unexpected eof"
    r"|failed to establish a new connection|max retries exceeded|could not fetch url|remote end closed|proxyerror"
    r"|http error 5\d\d|sslerror",
    re.IGNORECASE,
)
_NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_NO_VERSION = re.compile(
    r"could not find a version that satisfies the requirement (\S+).*?\(from versions: ([^)]*)\)", re.I
)
_OTHER_PYTHON = re.compile(r"ignored the following versions that require a different python version", re.IGNORECASE)
_CONTRADICTION = re.compile(r"resolutionimpossible|conflicting dependencies|conflict is caused by", re.IGNORECASE)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # Docker's classic builder paints what a step writes on standard error
_VERSIONS_SHOWN = 5
_LONGEST = 300


def explain(what: str, lines: Sequence[str], otherwise: str) -> BadInput:
    """The error of an installation that has failed.

    Args:
        what: begins the message: ``x could not be installed``.
        lines: what pip or the build said last.
        otherwise: the hint where pip's words are not known.
    """
    said = [plain for line in lines if (plain := _COLOURS.sub("", line).strip())]
    text = "\n".join(said)
    cause = shortened(f"{what}: {_cause(said)}", _LONGEST)
    if _NO_SPACE.search(text):
        return MachineFailure(cause, "free some space on the disk")
    if _NETWORK.search(text):
        return MayPass(cause, "is a package index reachable? PIP_INDEX_URL names another one")
    return NotInstalled(cause, _hint(text) or otherwise, text + "\n")


def _cause(said: Sequence[str]) -> str:
    """The last line of an error; a build's own "returned a non-zero code" says less than pip's line before it."""
    errors = [line for line in said if "error" in line.lower() and "non-zero code" not in line]
    return (errors or list(said) or [""])[-1].removeprefix("ERROR: ")


def _hint(text: str) -> str:
    missing = _NO_VERSION.search(text)
    if missing is not None:
        requirement, versions = missing[1], [name.strip() for name in missing[2].split(",")]
        if _OTHER_PYTHON.search(text):
            return f"{requirement} exists for another Python alone: mend the pin, or use another Python"
        if versions in ([""], ["none"]):
            return f"the package index that pip asks has nothing for {requirement}, or not for this Python and platform"
        shown = ", ".join(versions[-_VERSIONS_SHOWN:])
        return f"{requirement} does not exist at the package index that pip asks, which has {shown}: take one of these"
    if _CONTRADICTION.search(text):
        return "two requirements contradict each other: compare the image's requirements with its constraints"
    return ""
