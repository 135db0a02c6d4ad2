"""Each engine in its own process and virtual environment, for a machine without Docker: same arguments, same files."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Literal

from bench_core.contract.asked.manifest import MULTICAST_OFF, DeviceKind
from bench_core.contract.errors import MachineFailure
from bench_core.contract.records.run import ImageInfo
from bench_core.contract.serving.sidecar import CLIENT_SECRET, SERVER_GONE
from bench_core.drive.launch.launcher import Ended, Launch, LineTaker, Target
from bench_core.drive.launch.processes.environments import Environments
from bench_core.drive.launch.published import LOOPBACK, Published
from bench_core.drive.launch.silence import Silence
from bench_core.drive.plan.builds import Build
from bench_core.drive.plan.catalogue import REPOSITORY, Image
from bench_core.drive.plan.recipe import recipe_of
from bench_core.system.cpus import deal
from bench_core.system.lines import LineSplitter, Tail

# What a worker may see of the host's environment: where the loader and the certificates are, nothing of the user's.
_PASSED_ON = ("LD_LIBRARY_PATH", "LANG", "TZ")
_PIECE_BYTES = 1 << 16
_LOOK_S = 0.01


class ProcessLauncher:
    """Launches workers as processes. What only a container can promise (no network, read-only root) it does not."""

    name: Literal["process"] = "process"

    def __init__(self) -> None:
        self._environments = Environments()
        self._running: list[subprocess.Popen[bytes]] = []
        self._stops = 0

    def recipe(self, image: Image, device: DeviceKind) -> str:
        """Digest of its files and pins, and Python's version."""
        files = [*image.files, *self._environments.pins(image, "measure", device)]
        return recipe_of(files, {"device": device, "python": platform.python_version()})

    def clear_orphans(self, tell: Callable[[str], None]) -> int:  # noqa: ARG002
        """None: the kernel ends a worker with its driver."""
        return 0

    def is_ready(self, image: Image, target: Target, device: DeviceKind) -> bool:
        """Whether the environment is installed."""
        return self._environments.is_ready(image, target, device)

    def builds(self, image: Image, target: Target, device: DeviceKind) -> list[Build]:
        """The environment, where it is not installed."""
        return self._environments.builds(image, target, device)

    def ensure(self, image: Image, target: Target, device: DeviceKind, tell: Callable[[str], None]) -> ImageInfo:
        """Installs the environment where needed."""
        path = self._environments.ensure(image, target, device, tell)
        identity = "pins:" + self._environments.identity(image, target, device)
        recipe, notes = self.recipe(image, device), image.manifest.notes
        return ImageInfo(reference=path.name, id=identity, recipe=recipe, notes=notes)

    def ensure_services(self, device: DeviceKind, tell: Callable[[str], None]) -> list[str]:  # noqa: ARG002
        """None: the host's own Python prepares."""
        return []

    def client_builds(self, device: DeviceKind) -> list[Build]:  # noqa: ARG002
        """None: this Python has what the client needs."""
        return []

    def ensure_client(self, device: DeviceKind, tell: Callable[[str], None]) -> None:
        """Nothing: this Python has what the client needs."""

    def run(self, launch: Launch, on_stdout: LineTaker) -> Ended:
        """One worker's life; of cells under load a server's and its client's, whose end counts, unless the server ended
        before."""
        if not launch.client_processes:
            return self._run(launch, on_stdout)
        published = launch.published
        shares = deal(launch.generators_here, launch.cpus)
        port = free_ports() if published is None else published.server_port
        ends: list[Ended] = []
        client: list[subprocess.Popen[bytes]] = []

        def serve() -> None:
            # The server where other hosts reach it, its supervisor on loopback in any case.
            listens = () if published is None else ("--host", published.address, "--supervisor-host", LOOPBACK)
            server = replace(
                launch,
                folders=replace(launch.folders, run=None),
                arguments=(*launch.arguments, "--serve", str(port), *listens),
                published=None,
            )
            ends.append(self._run(server, lambda _line: None, cpus=shares.server, followed=False, begun=servers.append))
            for process in client:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.Signals[SERVER_GONE])

        servers: list[subprocess.Popen[bytes]] = []
        thread = threading.Thread(target=serve, name="server")
        words = list(launch.arguments)
        command = [
            sys.executable, "-m", "bench_core.client", "--assignment", words[words.index("--assignment") + 1],
            "--server", f"{LOOPBACK}:{port}", "--network", "loopback" if published is None else "published",
            *_client_places(launch), *(_gathers(published) if published is not None else ()),
        ]  # fmt: skip
        thread.start()
        try:
            ended = self._run(launch, on_stdout, command, cpus=shares.client, begun=client.append)
        finally:
            gone = bool(ends)
            while thread.is_alive() and not servers:  # the client has ended while it was being started
                time.sleep(_LOOK_S)
            for server in servers:
                server.terminate()
            thread.join()
        return ended if not gone else replace(ends[0], started_s=ended.started_s, ended_s=ended.ended_s)

    def _run(
        self,
        launch: Launch,
        on_stdout: LineTaker,
        command: list[str] | None = None,
        *,
        cpus: tuple[int, ...] = (),
        followed: bool = True,
        begun: Callable[[subprocess.Popen[bytes]], None] = lambda _: None,
    ) -> Ended:
        """
        Args:
            command: instead of the image's worker.
            cpus: that it may use; all where there are none.
            followed: it is what :meth:`stop` asks to stop, and what must not be silent.
        """
        device: DeviceKind = "cuda" if launch.gpu else "cpu"
        environment = self._environments.path(launch.image, launch.target, device)
        with tempfile.TemporaryDirectory(prefix="llm-bench-") as home:
            variables = _variables(environment, home, launch)
            started = time.monotonic()
            worker = [str(environment / "bin" / "python"), "-m", "bench_core.worker", *launch.arguments]
            with _affinity(cpus or launch.cpus or ()):
                process = subprocess.Popen(
                    command or [*worker, *places(launch, Path(home))],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=home,
                    env=variables,
                    start_new_session=True,
                    pass_fds=() if launch.run_lock is None else (launch.run_lock,),
                )
            begun(process)
            if followed:
                self._running.append(process)
            if self._stops and followed:  # asked while it was being started, when there was nothing to pass it on to
                self._signal(process)
            try:
                silence = Silence(launch.silence_limit_s if followed else None, process.terminate, process.kill)
                with silence:
                    tail = self._follow(process, on_stdout, silence)
                code = process.wait()
            finally:
                if followed:
                    self._running.remove(process)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        return Ended(code, False, tail.text(), started, time.monotonic(), silence.too_long)

    def stop(self) -> None:
        """SIGTERM to what runs, then SIGKILL."""
        self._stops += 1
        for process in list(self._running):
            self._signal(process)

    def _signal(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM if self._stops == 1 else signal.SIGKILL)

    def _follow(self, process: subprocess.Popen[bytes], on_stdout: LineTaker, silence: Silence) -> Tail:
        tail = Tail()

        def take(piece: bytes) -> None:
            silence.heard()
            lines.feed(piece)

        lines = LineSplitter(on_stdout)
        assert process.stdout is not None  # noqa: S101  # both are pipes, see run
        assert process.stderr is not None  # noqa: S101
        errors = threading.Thread(target=_drain, args=(process.stderr, tail.feed), daemon=True)
        errors.start()
        _drain(process.stdout, take)
        lines.end()
        errors.join(timeout=5.0)
        return tail


def _drain(stream: IO[bytes], take: Callable[[bytes], None]) -> None:
    while piece := os.read(stream.fileno(), _PIECE_BYTES):
        take(piece)


def places(launch: Launch, home: Path) -> list[str]:
    """A worker's arguments that say where things are; ``home`` is its own folder, which goes with it.

    Engines look for weights with ``glob`` in the model's path as they were given it. A path that holds letters of a
    pattern would match nothing, or a neighbour's weights: such a folder of models gets a link in ``home``.
    """
    folders = launch.folders
    models = folders.model.resolve().parent
    if glob.escape(str(models)) != str(models):
        link = home / "models"
        link.symlink_to(models, target_is_directory=True)
        models = link
    found = ["--image-folder", str(launch.image.folder), "--models", str(models)]
    found += ["--model-folder", folders.model.name, "--end-with", str(os.getpid())]
    if folders.data is not None:
        found += ["--data", str(folders.data.resolve())]
    if folders.run is not None:
        found += ["--results", str(folders.run.resolve().parent), "--run-id", folders.run.name]
    return found


def _variables(environment: Path, home: str, launch: Launch) -> dict[str, str]:
    """What a worker sees of an environment: nothing of the user's."""
    variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    variables |= {
        "PATH": f"{environment / 'bin'}:{os.defpath}",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "HOME": home,
        "TMPDIR": home,
        "LOGNAME": "bench",
        "HF_HUB_OFFLINE": "1",
    }
    if launch.gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.uuid for gpu in launch.gpus)
    if launch.published is not None:  # the client's, not the server's
        variables[CLIENT_SECRET] = launch.published.secret
    return variables | (MULTICAST_OFF if launch.other_gpus else {})


def _client_places(launch: Launch) -> list[str]:
    folders = launch.folders
    assert folders.data is not None  # noqa: S101  # cells under load have a workload and a run
    assert folders.run is not None  # noqa: S101
    found = ["--data", str(folders.data.resolve()), "--results", str(folders.run.resolve().parent)]
    return [*found, "--run-id", folders.run.name, "--end-with", str(os.getpid())]


def _gathers(published: Published) -> list[str]:
    """Words of a client whose load generators are on other hosts."""
    found = ["--nodes", str(published.nodes), "--listen", f"{published.address}:{published.client_port}"]
    return [*found, "--reached-at", f"{published.address}:{published.server_port}"]


@contextlib.contextmanager
def _affinity(cpus: tuple[int, ...]) -> Iterator[None]:
    """What is started inside may use these CPUs: a child has its thread's."""
    before = os.sched_getaffinity(0)
    if cpus:
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_ports() -> int:
    """The first of two neighbouring TCP ports of this host's loopback that nobody listens on."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port
    raise MachineFailure("no two neighbouring ports are free on 127.0.0.1")
