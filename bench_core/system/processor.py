"""What this host's processor is called. Linux names it in /proc/cpuinfo on x86 only; ``lscpu`` knows the others."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterator
from typing import Any

from bench_core.contract.records.run import HostInfo
from bench_core.system.machine import host_info

_PATIENCE_S = 10


def this_host() -> HostInfo:
    """The machine in a record, the processor by the name that the most knowing source of the host has for it: on an ARM
    host ``Neoverse-N1`` instead of ``aarch64``."""
    host = host_info()
    if host.cpu != platform.machine():
        return host
    return host.model_copy(update={"cpu": _asked() or host.cpu})


def as_meant(recorded: str, now: str) -> str:
    """A recorded processor's name to compare with ``now``: records of before call every ARM processor by the machine's
    type, which says no more than that."""
    return now if recorded == platform.machine() else recorded


def models_in(text: str) -> list[str]:
    """The names of processors in what ``lscpu --json`` prints, each once; a machine may have two kinds of cores."""
    try:
        fields = json.loads(text)["lscpu"]
    except (ValueError, KeyError, TypeError):
        return []
    names = [data for field, data in _fields(fields) if field == "Model name:" and data.strip("- ")]
    return list(dict.fromkeys(names))


def _fields(fields: Any) -> Iterator[tuple[str, str]]:
    """Field and value of a tree: newer releases put what belongs to a vendor or a model below it."""
    for entry in fields if isinstance(fields, list) else ():
        if isinstance(entry, dict):
            yield str(entry.get("field") or ""), str(entry.get("data") or "")
            yield from _fields(entry.get("children"))


def _asked() -> str | None:
    command = ["lscpu", "--json"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
        )
    except (OSError, subprocess.TimeoutExpired):  # util-linux is not on every host
        return None
    return " + ".join(models_in(done.stdout)) or None
