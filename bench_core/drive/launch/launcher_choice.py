"""Which launcher a call of the driver uses: containers where a Docker engine of this host answers, else processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bench_core.contract.errors import BadInput
from bench_core.contract.records.run import LauncherName
from bench_core.drive.launch.launcher import Launcher


@dataclass(frozen=True)
class Choice:
    """A launcher, and how it was come by.

    Attributes:
        words: for the plan: its name, its engine where that is not the usual one, why it is not the other launcher.
        instead_of_docker: why ``auto`` does without containers; empty where it does not.
    """

    launcher: Launcher
    words: str
    instead_of_docker: str = ""


# Each brings its own world; one that is not taken is not imported.
def _docker() -> Choice:
    from bench_core.drive.launch.containers.endpoint import chosen_endpoint, connect  # noqa: PLC0415
    from bench_core.drive.launch.containers.launcher import DockerLauncher  # noqa: PLC0415

    endpoint = chosen_endpoint()
    return Choice(DockerLauncher(connect(endpoint)), f"docker at {endpoint.words}" if endpoint.chosen_by else "docker")


def _process() -> Choice:
    from bench_core.drive.launch.processes.launcher import ProcessLauncher  # noqa: PLC0415

    return Choice(ProcessLauncher(), "process")


# A new launcher is a line here and its name in the records.
_LAUNCHERS: dict[LauncherName, Callable[[], Choice]] = {"docker": _docker, "process": _process}


def choose_launcher(wanted: Literal["auto", LauncherName]) -> Choice:
    """The launcher that is asked for.

    Raises:
        BadInput: it is asked for by name and cannot be had: for containers, no Docker engine of this host answers.
    """
    if wanted != "auto":
        return _LAUNCHERS[wanted]()
    try:
        return _LAUNCHERS["docker"]()
    except BadInput as error:
        return Choice(_LAUNCHERS["process"]().launcher, f"process: {error.cause}", error.cause)
