"""A Docker engine of the tests' own, which they may restart, stop and kill, and the driver as a process beside it.

The machine's engine is never touched but to copy the base image out of it, and for a bridge. Fixtures are registered by
conftest.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from bench_core.contract.records import layout
from bench_core.contract.records.events import BatchEvent, parse_events
from bench_core.contract.records.outcome import Verdict
from bench_core.drive.launch.containers.build import ImageBuilder, tag_of
from bench_core.drive.launch.containers.endpoint import connect
from bench_core.runs.load import load_run
from bench_core.runs.view import RunView

REPOSITORY = Path(__file__).resolve().parents[1]
TEST_IMAGES = Path(__file__).resolve().parent / "docker_faults" / "images"
# What makes a driver's run short and its cells countable: no cells of others' making, a fixed number of batches.
SHORT = ("--device", "cpu", "--launcher", "docker", "--no-harness-check", "--exhaustive", "--max-warmup-batches", "1")
WORK = ("--samples", "4", "--max-new-tokens", "8", "--yes")
SLOW = ("--option", "null.tpot_s=0.05")  # 0.4 s a batch, 2 s a cell: time to do something to it
LABEL = "llm-bench.driver-pid"
ENGINE_PREFIX = "bench-engine-"  # of a private engine's folder, and of its network


def until(met: Callable[[], Any], what: str, limit_s: float = 60.0) -> Any:
    """Waits for a condition; its true value.

    Raises:
        AssertionError: it never came.
    """
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if found := met():
            return found
        time.sleep(0.02)
    raise AssertionError(f"never came: {what}")


class PrivateEngine:
    """One dockerd and its containerd, which outlives it as a service of its own would.

    Its containers have the host's network or none. Still it is given a bridge, which the machine's engine makes and
    removes: a dockerd that is told to have none deletes ``docker0``, whosever it is.
    """

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix=ENGINE_PREFIX))  # short: a socket's path has 108 characters
        self.url = f"unix://{self.home}/docker.sock"
        self._interface = f"be-{self.home.name[-8:]}"  # 15 characters at most
        self._bridge = connect().networks.create(
            self.home.name, driver="bridge", internal=True, options={"com.docker.network.bridge.name": self._interface}
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._containerd: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @property
    def client(self) -> docker.DockerClient:
        """A new client."""
        return docker.DockerClient(base_url=self.url, timeout=60)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        assert self._process is None
        if self._containerd is None:
            self._containerd = self._begin(
                "containerd", "--address", str(self.home / "containerd.sock"), "--root", str(self.home / "containerd"),
                "--state", str(self.home / "state"), "--log-level", "warn",
            )  # fmt: skip
            until((self.home / "containerd.sock").exists, f"the private containerd: {self._words()}")
        (self.home / "docker.pid").unlink(missing_ok=True)  # of one that was killed; its number may be used again
        self._process = self._begin(
            "dockerd", "--host", self.url, "--data-root", str(self.home / "data"),
            "--exec-root", str(self.home / "exec"), "--pidfile", str(self.home / "docker.pid"),
            "--containerd", str(self.home / "containerd.sock"),
            "--bridge", self._interface, "--iptables=false", "--ip-forward=false", "--log-level", "warn",
        )  # fmt: skip
        until(self._answers, f"an answer of the private engine: {self._words()}", 60)

    def _begin(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.home / "engine.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def _words(self) -> str:
        with contextlib.suppress(OSError):
            return (self.home / "engine.log").read_text(encoding="utf-8", errors="replace")[-2000:]
        return ""

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._words()
        with contextlib.suppress(docker.errors.DockerException, OSError):
            return bool(docker.DockerClient(base_url=self.url, timeout=2).ping())
        return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends it: SIGTERM as its service does, SIGKILL as a crash would. It must have been started."""
        assert self._process is not None
        self.thaw()
        self._process.send_signal(how)
        self._process.wait(60)
        self._process = None

    def freeze(self) -> None:
        """It is there and answers nothing; containers run on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """It goes on."""
        if self._frozen and self._process is not None:
            self._process.send_signal(signal.SIGCONT)
        self._frozen = False

    def heal(self) -> None:
        """Whatever a test has done to it, it runs and answers again."""
        self.thaw()
        if self._process is None or self._process.poll() is not None:
            self._process = None
            self.start()

    def containers(self) -> list[Any]:
        """Those of drivers."""
        return list(self.client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True))

    def load(self, *tags: str) -> None:
        """Copies images out of the machine's engine."""
        with subprocess.Popen(["docker", "save", *tags], stdout=subprocess.PIPE) as saved:
            loading = ["docker", "--host", self.url, "load", "--quiet"]
            subprocess.run(loading, stdin=saved.stdout, check=True, capture_output=True, timeout=300)
        assert saved.returncode == 0

    def remove(self) -> None:
        """Ends it and everything that it has started, and leaves nothing."""
        if self._process is not None:
            with contextlib.suppress(docker.errors.DockerException, OSError, AssertionError):
                self.heal()
                for container in self.client.containers.list(all=True):
                    container.remove(force=True)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
        if self._containerd is not None:
            self._containerd.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._containerd.wait(20)
        for pid in self._own_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self._own_processes(), "the end of the private engine's processes", 20)
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
        for place in sorted((place for place in mounted if place.startswith(f"{self.home}/")), reverse=True):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)
        self._bridge.remove()
        shutil.rmtree(self.home)

    def _own_processes(self) -> list[int]:
        """Processes whose command line names a folder of ours: dockerd, its containerd, shims."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if f"{self.home}/".encode() in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return [pid for pid in found if pid != os.getpid()]


@dataclass
class Done:
    """A driver that has ended."""

    code: int
    out: str
    err: str


@dataclass
class Running:
    """A driver at work; its words go to files, so that nobody has to read them meanwhile."""

    process: subprocess.Popen[bytes]
    folder: Path
    name: str

    def done(self, limit_s: float = 120.0) -> Done:
        """Waits for its end.

        Raises:
            AssertionError: it does not end.
        """
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"the driver hangs; it said: {self.words}") from None
        return Done(code, (self.folder / f"{self.name}.out").read_text("utf-8"), self.words)

    @property
    def words(self) -> str:
        """Its standard error so far."""
        return (self.folder / f"{self.name}.err").read_text(encoding="utf-8", errors="replace")


class Driver:
    """Calls the driver of a repository that has the scripted engine and the tests' images, against one engine."""

    def __init__(self, engine: PrivateEngine, repository: Path, shared: Path, folder: Path) -> None:
        self.engine = engine
        self.repository = repository
        self.results = folder / "results"
        self._folder = folder
        self._shared = shared
        self._calls = 0

    def begin(
        self, *arguments: str, environment: Mapping[str, str] | None = None, user: int | None = None, code: str = ""
    ) -> Running:
        """Starts it; ``user`` runs it as that uid, which may then read what is root's (the interpreter lies anywhere)
        but write only what is its own; ``code`` is what Python runs instead of the driver's module."""
        self._calls += 1
        name = f"driver-{self._calls}"
        places = {"results": self.results, "data": self._shared / "data", "models": self._shared / "models"}
        folders = [f"--{key}={path}" for key, path in places.items() if f"--{key}" not in arguments]
        command = [
            sys.executable,
            *(("-c", code) if code else ("-m", "bench_core.drive")),
            *SHORT,
            *arguments,
            *folders,
        ]
        if user is not None:
            rights = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
            command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *rights, *command]
        variables = {**os.environ, "DOCKER_HOST": self.engine.url, "PYTHONPATH": str(self.repository)}
        variables |= environment or {}
        with (self._folder / f"{name}.out").open("wb") as out, (self._folder / f"{name}.err").open("wb") as err:
            process = subprocess.Popen(
                command, cwd=self.repository, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip
        return Running(process, self._folder, name)

    def __call__(self, *arguments: str, environment: Mapping[str, str] | None = None, limit_s: float = 120.0) -> Done:
        """Calls it and waits."""
        return self.begin(*arguments, environment=environment).done(limit_s)

    def cell(self, cell: str, run: str = "mine") -> Path:
        """A cell's folder."""
        return layout.cell_folder(self.results / run, cell)

    def verdict(self, cell: str, run: str = "mine") -> Verdict:
        """A cell's verdict."""
        return Verdict.read(self.cell(cell, run) / layout.OUTCOME_FILE)

    def view(self, run: str = "mine") -> RunView:
        """The run as a report sees it."""
        return load_run(self.results / run)

    def await_batch(self, cell: str, run: str = "mine") -> None:
        """Waits until a cell has written its first batch."""
        log = self.cell(cell, run) / layout.EVENTS_FILE
        until(lambda: log.exists() and '"batch"' in log.read_text("utf-8"), f"a batch of {cell}")

    def batches(self, cell: str, run: str = "mine") -> list[BatchEvent]:
        """All batches of a cell."""
        with (self.cell(cell, run) / layout.EVENTS_FILE).open("rb") as stream:
            return [event for event in parse_events(stream, cell) if isinstance(event, BatchEvent)]


@pytest.fixture(scope="session")
def engine_home(docker_client: docker.DockerClient) -> Iterator[PrivateEngine]:
    """A private engine that has the base image."""
    if os.getuid() != 0:
        text = "an engine of the tests' own is root's to start"
        pytest.fail(text) if os.environ.get("CI") else pytest.skip(text)
    builder = ImageBuilder(docker_client)
    builder._ensure_base("base", "cpu", lambda _line: None)
    engine = PrivateEngine()
    try:
        engine.start()
        engine.load(builder.operating_system("cpu"), tag_of("base", "cpu"))
        yield engine
    finally:
        engine.remove()


@pytest.fixture(scope="session")
def fault_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with the scripted engine and the tests' own images instead of the real ones."""
    home = tmp_path_factory.mktemp("repository")
    ignored = shutil.ignore_patterns("__pycache__", ".mypy_cache", ".ruff_cache")
    for name in ("bench_core", "docker", "images/null"):
        shutil.copytree(REPOSITORY / name, home / name, ignore=ignored)
    for folder in TEST_IMAGES.iterdir():
        shutil.copytree(folder, home / "images" / folder.name, ignore=ignored)
    shutil.copy(REPOSITORY / ".dockerignore", home)
    return home


@pytest.fixture(scope="session")
def shared_material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and workloads of all drivers of a session: prepared once."""
    return tmp_path_factory.mktemp("material")


@pytest.fixture
def engine(engine_home: PrivateEngine) -> Iterator[PrivateEngine]:
    """The private engine, running; after the test no driver's container is left on it."""
    engine_home.heal()
    yield engine_home
    engine_home.heal()
    left = engine_home.containers()
    for container in left:
        container.remove(force=True)
    assert left == [], "containers were left behind"


@pytest.fixture
def driver(engine: PrivateEngine, fault_repository: Path, shared_material: Path, tmp_path: Path) -> Driver:
    """The driver beside the private engine, with results in ``tmp_path``."""
    return Driver(engine, fault_repository, shared_material, tmp_path)
