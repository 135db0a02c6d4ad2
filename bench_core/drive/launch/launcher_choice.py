"""Which launcher a call of the driver uses: containers where a Docker engine of this host answers, else processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench_core.contract.errors import BadInput
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


def choose_launcher(wanted: Literal["auto", "docker", "process"]) -> Choice:
    """The launcher that is asked for.

    Raises:
        BadInput: containers are asked for, and no Docker engine of this host answers.
    """
    why_not = ""
    # Each brings its own world; the one not taken is not imported.
    if wanted != "process":
        from bench_core.drive.launch.containers.endpoint import chosen_endpoint, connect  # noqa: PLC0415
        from bench_core.drive.launch.containers.launcher import DockerLauncher  # noqa: PLC0415

        try:
            endpoint = chosen_endpoint()
            launcher = DockerLauncher(connect(endpoint))
        except BadInput as error:
            if wanted == "docker":
                raise
            why_not = error.cause
        else:
            return Choice(launcher, f"docker at {endpoint.words}" if endpoint.chosen_by else "docker")
    from bench_core.drive.launch.processes.launcher import ProcessLauncher  # noqa: PLC0415

    return Choice(ProcessLauncher(), f"process: {why_not}" if why_not else "process", why_not)
