"""Virtual environments for the process launcher: one per image and target, from the image's own requirement files."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench_core.contract.asked.manifest import DeviceKind
from bench_core.contract.records.digest import entries_sha256, file_sha256
from bench_core.drive.launch.launcher import Target
from bench_core.drive.launch.processes.pip_words import explain
from bench_core.drive.plan.builds import MEASURED_HERE, Build, BuildBegins, BuildLog
from bench_core.drive.plan.catalogue import REPOSITORY, Image
from bench_core.prepare.disk import taken_bytes
from bench_core.prepare.staging import locked

ENVIRONMENTS_FOLDER = REPOSITORY / ".envs"
WHEELS = ".wheels"  # in that folder: wheels that were compiled for environments
_READY = "ready"
_LINES_KEPT = 200  # of what pip says


def requirement_files(image: Image, target: Target, device: DeviceKind) -> list[Path]:
    """The pinned requirements of an image's target, those of its base first: what its Dockerfile installs."""
    converting = target == "convert" and image.manifest.convert_target
    candidates = [REPOSITORY / "docker" / "requirements.base.txt"]
    if image.manifest.base != "base" or converting:
        base = "torch" if converting else image.manifest.base
        candidates.append(REPOSITORY / "docker" / f"requirements.{base}.{device}.txt")
    names = ["requirements.txt", f"requirements.{device}.txt"]
    candidates += [image.folder / name for name in names]
    if converting:
        candidates.append(image.folder / "requirements.convert.txt")
    return [path for path in candidates if path.is_file()]


def complete_files(image: Image, target: Target, device: DeviceKind) -> list[Path]:
    """Requirements that name all they need and are installed with ``--no-deps``, after the others.

    For an engine whose metadata demands more than it uses, or releases that exclude those of the other requirements.
    """
    converting = target == "convert" and image.manifest.convert_target
    stem = "requirements.convert.no-deps" if converting else "requirements.no-deps"
    names = [f"{stem}.txt", f"{stem}.{device}.txt"]
    return [path for name in names if (path := image.folder / name).is_file()]


def constraints_file(image: Image) -> Path:
    """Transitive pins: those that all images share, or an image's own where it stands on another generation."""
    own = image.folder / "constraints.txt"
    return own if own.is_file() else REPOSITORY / "docker" / "constraints.txt"


def wheel_script(image: Image, device: DeviceKind) -> Path | None:
    """What compiles an engine as the image's Dockerfile does, where pip alone would compile another.

    ``wheels.<device>.sh DEVICE OUT PYTHON`` leaves in OUT the wheels that pip is to take, with a pip of that PYTHON.
    """
    path = image.folder / f"wheels.{device}.sh"
    return path if path.is_file() else None


def _wheel_files(image: Image, device: DeviceKind) -> list[Path]:
    """What the wheels of that script follow from."""
    if wheel_script(image, device) is None:
        return []
    names = ["requirements.txt", "requirements.build.txt", "*.sh", "*.cmake"]
    return sorted(path for name in names for path in image.folder.glob(name))


class Environments:
    """Finds and makes environments under ``.envs/``."""

    def __init__(self, folder: Path = ENVIRONMENTS_FOLDER) -> None:
        self._folder = folder
        self._log = BuildLog(MEASURED_HERE if folder == ENVIRONMENTS_FOLDER else folder / MEASURED_HERE.name)

    def pins(self, image: Image, target: Target, device: DeviceKind) -> list[Path]:
        """All files that pin what is installed, or compile it."""
        files = [*requirement_files(image, target, device), *complete_files(image, target, device)]
        files += [path for path in _wheel_files(image, device) if path not in files]
        return [*files, constraints_file(image)]

    def identity(self, image: Image, target: Target, device: DeviceKind) -> str:
        """Digest of all pins and of the Python that they are installed for."""
        return _identity(self.pins(image, target, device))

    def path(self, image: Image, target: Target, device: DeviceKind) -> Path:
        """Where the environment is or would be."""
        suffix = "-convert" if target == "convert" and image.manifest.convert_target else ""
        return self._folder / f"{image.name}{suffix}-{device}-{self.identity(image, target, device)[:12]}"

    def wheels(self, image: Image, device: DeviceKind) -> Path | None:
        """Where the wheels that its script compiles are or would be: the same for measuring and converting."""
        files = _wheel_files(image, device)
        return self._folder / WHEELS / f"{image.name}-{device}-{_identity(files)[:12]}" if files else None

    def is_ready(self, image: Image, target: Target, device: DeviceKind) -> bool:
        """Whether it was made to the end."""
        return (self.path(image, target, device) / _READY).is_file()

    def builds(self, image: Image, target: Target, device: DeviceKind) -> list[Build]:
        """The environment, where it is not ready. What was never installed is expected to take what the layers of the
        image take that hold the same packages."""
        return [] if self.is_ready(image, target, device) else [self._build(image, target, device)]

    def _build(self, image: Image, target: Target, device: DeviceKind) -> Build:
        name, _, identity = self.path(image, target, device).name.rpartition("-")
        converting = target == "convert" and image.manifest.convert_target
        bases = dict.fromkeys(["base", "torch" if converting else image.manifest.base])
        own = f"{image.engine}-convert" if converting else image.engine
        return Build(name, identity, tuple(f"{layer}:{device}" for layer in (*bases, own)))

    def ensure(self, image: Image, target: Target, device: DeviceKind, tell: Callable[[str], None]) -> Path:
        """Makes the environment where it is missing.

        Raises:
            NotInstalled: pip fails; the cause is its last error line.
            MayPass, MachineFailure: it is the network that fails, or the disk.
        """
        path = self.path(image, target, device)
        if self.is_ready(image, target, device):
            return path
        with locked(path.parent, path.name, tell, doing="installs") as lock:
            if not self.is_ready(image, target, device):
                self._make(path, image, target, device, lock, tell)
        return path

    def _make(
        self,
        path: Path,
        image: Image,
        target: Target,
        device: DeviceKind,
        lock: int,
        tell: Callable[[str], None],
    ) -> None:
        tell(BuildBegins(f"installing {path.name}", self._build(image, target, device)))
        shutil.rmtree(path, ignore_errors=True)
        started = time.monotonic()
        _run([sys.executable, "-m", "venv", str(path)], path.name, lock)
        install = [str(path / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "-q"]
        install += ["-c", str(constraints_file(image))]
        if (wheels := self._compiled(image, device, path / "bin" / "python", tell)) is not None:
            install += ["--find-links", str(wheels)]
        _run([*install, *_named(requirement_files(image, target, device))], path.name, lock)
        complete = complete_files(image, target, device)
        if complete:
            _run([*install, "--no-deps", *_named(complete)], path.name, lock)
        (path / _READY).write_text("", encoding="utf-8")
        took_s = time.monotonic() - started
        self._log.keep(self._build(image, target, device), taken_bytes(path), took_s, cached=False)
        tell(f"installed {path.name} in {took_s:.0f} s")

    def _compiled(self, image: Image, device: DeviceKind, python: Path, tell: Callable[[str], None]) -> Path | None:
        """The wheels of the image's script, compiled where they are missing."""
        script, wheels = wheel_script(image, device), self.wheels(image, device)
        if script is None or wheels is None:
            return None
        with locked(wheels.parent, wheels.name, tell, doing="compiles") as lock:
            if not (wheels / _READY).is_file():
                shutil.rmtree(wheels, ignore_errors=True)
                wheels.mkdir(parents=True)
                _run(["bash", str(script), device, str(wheels), str(python)], wheels.name, lock)
                (wheels / _READY).write_text("", encoding="utf-8")
        return wheels


def _identity(files: list[Path]) -> str:
    """Digest of files of the repository and of this Python."""
    entries = [(str(path.relative_to(REPOSITORY)), file_sha256(path)) for path in files]
    return entries_sha256([*entries, ("python", sys.version)])


def _named(files: list[Path]) -> list[str]:
    return [word for file in files for word in ("-r", str(file))]


def _run(command: list[str], what: str, lock: int) -> None:
    """One step, in a process group that ends with this call whatever ends it. The lock goes along: as long as any of
    these processes lives, nobody else writes into the environment."""
    variables = {**os.environ, "PIP_NO_INPUT": "1"}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
        env=variables,
        start_new_session=True,
        pass_fds=(lock,),
    ) as process:
        try:
            said, _ = process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        raise explain(
            f"{what} could not be installed", said.splitlines()[-_LINES_KEPT:], "pip's words are in worker.log"
        )
