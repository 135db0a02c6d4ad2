"""Each engine in its own process and virtual environment, for a machine without Docker: same arguments, same files."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.records.run import ImageInfo
from bench_core.drive.launch.launcher import Ended, Launch, LineTaker, Target
from bench_core.drive.launch.processes.environments import Environments
from bench_core.drive.launch.silence import Silence
from bench_core.drive.plan.catalogue import REPOSITORY, Image
from bench_core.drive.plan.recipe import recipe_of
from bench_core.system.lines import LineSplitter, Tail

# What a worker may see of the host's environment: where the loader and the certificates are, nothing of the user's.
_PASSED_ON = ("LD_LIBRARY_PATH", "LANG", "TZ")
_PIECE_BYTES = 1 << 16


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

    def ensure(self, image: Image, target: Target, device: DeviceKind, tell: Callable[[str], None]) -> ImageInfo:
        """Installs the environment where needed."""
        path = self._environments.ensure(image, target, device, tell)
        identity = "pins:" + self._environments.identity(image, target, device)
        recipe, notes = self.recipe(image, device), image.manifest.notes
        return ImageInfo(reference=path.name, id=identity, recipe=recipe, notes=notes)

    def ensure_services(self, device: DeviceKind, tell: Callable[[str], None]) -> list[str]:  # noqa: ARG002
        """None: the host's own Python prepares."""
        return []

    def run(self, launch: Launch, on_stdout: LineTaker) -> Ended:
        """One worker's life."""
        device: DeviceKind = "cuda" if launch.gpu else "cpu"
        environment = self._environments.path(launch.image, launch.target, device)
        with tempfile.TemporaryDirectory(prefix="llm-bench-") as home:
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
            if launch.gpu:
                variables["CUDA_VISIBLE_DEVICES"] = launch.gpu.uuid
            started = time.monotonic()
            process = subprocess.Popen(
                [
                    str(environment / "bin" / "python"),
                    "-m",
                    "bench_core.worker",
                    *launch.arguments,
                    *places(launch, Path(home)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=home,
                env=variables,
                start_new_session=True,
                pass_fds=() if launch.run_lock is None else (launch.run_lock,),
            )
            self._running.append(process)
            if self._stops:  # asked while it was being started, when there was nothing to pass it on to
                self._signal(process)
            try:
                silence = Silence(launch.silence_limit_s, process.terminate, process.kill)
                with silence:
                    tail = self._follow(process, on_stdout, silence)
                code = process.wait()
            finally:
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
