"""``python -m bench_core.drive.doctor``: what this machine has for measuring, and the command that mends what it lacks.

Nothing is built, written or measured, but for a second's look at who uses the CPUs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import docker.errors
import typer

from bench_core.contract.errors import BadInput, first_line
from bench_core.contract.measures.cpu_use import BusyRule
from bench_core.contract.records.outcome import EXIT_FAILED, EXIT_OK
from bench_core.contract.records.run import GpuInfo
from bench_core.drive.launch.containers.endpoint import chosen_endpoint, connect
from bench_core.drive.run.cpu_gate import look
from bench_core.drive.run.progress import printable
from bench_core.prepare.disk import free_bytes, nearest_there, readable
from bench_core.system.locks import system_lock_folder
from bench_core.system.machine import available_cores, cpu_name, memory_bytes
from bench_core.system.nvml import visible_gpus

State = Literal["ok", "note", "missing"]
_PYTHONS = ((3, 10), (3, 13))  # the oldest and the newest that the lock file is made for
_LITTLE_ROOM_BYTES = 20 * 10**9  # a 7B model in 16 bits is 13.5 GB, and a GPTQ engine reads an artifact made of it
_CLOCK_CALLS = 1000
_SLOW_CALL_S = 1e-6  # a clock that the kernel must be asked for; a token's time is a millisecond
_COMMAND_S = 10.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: ``missing`` is what a run with containers cannot do without; a ``note`` does not stop one.
        mend: the command or the option that helps; empty where nothing is to be done.
    """

    subject: str
    state: State
    words: str
    mend: str = ""


def findings(folders: Iterable[Path]) -> Iterator[Finding]:
    """Everything that is looked at, in the order of need.

    Args:
        folders: of results, models and workloads.
    """
    yield _python()
    gpus = visible_gpus()
    info: Mapping[str, Any] = {}
    try:
        endpoint = chosen_endpoint()
        client = connect(endpoint)
        info = client.info()
        yield Finding("docker", "ok", f"{info.get('ServerVersion', 'unknown version')} at {endpoint.words}")
    except BadInput as error:
        yield Finding("docker", "missing", error.cause, error.hint)
    except (docker.errors.DockerException, OSError) as error:
        yield Finding("docker", "missing", first_line(error), "start it again, or use --launcher process")
    yield compose()
    yield from _gpus(gpus)
    if gpus and info:
        yield toolkit(info)
    places = {"results, models, data": list(folders)}
    if root := info.get("DockerRootDir"):
        places["images of the Docker engine"] = [Path(root)]
    for what, paths in places.items():
        yield disk(what, paths)
    yield _cpus()
    yield busy()
    yield clock()
    yield _loopback()
    yield locks(system_lock_folder())


def _python() -> Finding:
    oldest, newest = _PYTHONS
    words = f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}"
    if oldest <= sys.version_info[:2] <= newest:
        return Finding("python", "ok", words)
    supported = f"{oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}"
    return Finding("python", "note", f"{words}; tested with {supported}", "make setup PYTHON=python3.12")


def _said(*command: str) -> str | None:
    """What a command prints; ``None`` where it is not there, fails or does not end."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def compose(said: Callable[..., str | None] = _said) -> Finding:
    """The plugin that ``docker compose run`` needs; the driver does without."""
    version = said("docker", "compose", "version", "--short")
    if version is not None:
        return Finding("docker compose", "ok", version)
    return Finding(
        "docker compose",
        "note",
        "not there; the driver needs none, `docker compose run ENGINE` does",
        "apt-get install docker-compose-plugin",
    )


def _gpus(found: list[GpuInfo]) -> Iterator[Finding]:
    if not found:
        yield Finding("gpu", "note", "NVML shows none; runs are on the CPU", "nvidia-smi tells whether there is one")
    for index, gpu in enumerate(found):
        memory = readable(gpu.memory_bytes)
        yield Finding("gpu", "ok", f"{index}: {gpu.name}, {memory}, driver {gpu.driver_version}, {gpu.uuid}")


def toolkit(info: Mapping[str, Any]) -> Finding:
    """Whether a Docker engine can hand a GPU to a container: by a runtime or by the container device interface."""
    devices = [str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or ()]
    if "nvidia" in (info.get("Runtimes") or {}):
        return Finding("container toolkit", "ok", "the engine has the runtime nvidia")
    if any(device.startswith("nvidia.com/gpu") for device in devices):
        return Finding("container toolkit", "ok", "the engine has found the GPUs by CDI")
    return Finding(
        "container toolkit",
        "missing",
        "the Docker engine has no NVIDIA runtime, so that containers see no GPU",
        "install nvidia-container-toolkit, then `nvidia-ctk runtime configure --runtime=docker` and restart Docker",
    )


def disk(what: str, paths: Iterable[Path]) -> Finding:
    """The least room of some folders, which are there or will be made."""
    free, path = min((free_bytes(path), path) for path in paths)
    words = f"{readable(free)} free for {what} ({path})"
    if free >= _LITTLE_ROOM_BYTES:
        return Finding("disk", "ok", words)
    return Finding("disk", "note", f"{words}; a model of 7B parameters takes 13.5 GB", "docker image prune")


def _cpus() -> Finding:
    cores, machine = available_cores(), os.cpu_count() or 0
    words = f"{cpu_name()}, {cores} of {machine} cores may be used, {readable(memory_bytes())} of memory"
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.is_file() and (name := governor.read_text(encoding="ascii").strip()) != "performance":
        return Finding("cpu", "note", f"{words}; governor {name}, so that clocks follow the load")
    return Finding("cpu", "ok", words)


def busy() -> Finding:
    """Who uses the CPUs now, by the rule that marks a cell."""
    seen = look()
    if seen is None:
        return Finding("other load", "note", "this machine does not tell what others take of the CPUs")
    if BusyRule().is_broken(seen.use):
        return Finding("other load", "note", seen.words, "wait for its end; a run on the CPU waits for free CPUs")
    return Finding("other load", "ok", "the CPUs are free")


def clock() -> Finding:
    """What one reading of the clock that times every token costs."""
    # The least of several series: what others take of the CPU meanwhile is not the clock's.
    call_s = min(timeit.repeat(time.monotonic, number=_CLOCK_CALLS, repeat=10)) / _CLOCK_CALLS
    try:
        source = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource").read_text("ascii").strip()
    except OSError:
        source = "unknown source"
    words = f"{source}, {call_s * 1e9:.0f} ns a reading"
    return Finding("clock", "ok" if call_s < _SLOW_CALL_S else "note", words)


def _loopback() -> Finding:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            return Finding("ports", "ok", "a port of 127.0.0.1 can be had, for wheels during builds")
    except OSError as error:
        return Finding("ports", "note", f"no port of 127.0.0.1: {first_line(error)}", "builds fetch from an index only")


def locks(folder: Path) -> Finding:
    """Whether drivers of this machine can keep out of each other's way."""
    if os.access(nearest_there(folder), os.W_OK | os.X_OK):
        return Finding("locks", "ok", str(folder))
    return Finding("locks", "missing", f"{folder} cannot be written", "BENCH_LOCK_FOLDER names another folder")


def show(
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    models: Annotated[Path, typer.Option(help="Folder of models and artifacts.")] = Path("models"),
    data: Annotated[Path, typer.Option(help="Folder of workloads.")] = Path("data"),
) -> None:
    """Look at this machine: Docker, its context, GPUs, disk, CPUs, clock. Says what is missing and what mends it."""
    width = shutil.get_terminal_size((120, 24)).columns
    missing = 0
    for finding in findings((results, models, data)):
        missing += finding.state == "missing"
        typer.echo(printable(f"{finding.state:<8} {finding.subject}: {finding.words}"))
        if finding.mend and finding.state != "ok":
            typer.echo(printable(f"{'':<8} -> {finding.mend}"))
    typer.echo("-" * min(width, 60))
    typer.echo(f"{missing} missing" if missing else "ready: python -m bench_core.drive --help")
    raise typer.Exit(EXIT_FAILED if missing else EXIT_OK)


def main(prog_name: str = "python -m bench_core.drive.doctor") -> None:
    """Runs the command line; exit code 1 where something is missing."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(show)
    typer.main.get_command(app).main(prog_name=prog_name)


if __name__ == "__main__":
    main()
