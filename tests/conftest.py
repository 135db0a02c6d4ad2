"""The driver as a person calls it, in this process or through Docker, and the material that tests run on."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import docker
import docker.errors
import hypothesis
import pytest
import reading_guard
from private_engine import driver, engine, engine_home, fault_repository, shared_material  # noqa: F401  # fixtures

from bench_core.contract.errors import BadInput
from bench_core.drive.ask import cli
from bench_core.drive.launch.containers.endpoint import chosen_endpoint

ROOT = Path(__file__).resolve().parents[1]
# An example has no time limit: the machine may have other work.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")
_GUARD = tempfile.mkdtemp(prefix="reading-guard-")
atexit.register(shutil.rmtree, _GUARD, ignore_errors=True)
PLACES = reading_guard.places_here(str(ROOT), [tempfile.gettempdir()])
read_outside = reading_guard.begin(_GUARD, PLACES)


# Files with tests of half a minute and more begin first, so that none is left over when all others have ended.
FIRST = ("test_kill.py", "test_engine_versions.py", "test_full_disk.py", "test_repository.py", "test_compare_runs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` tells by the mark which tests use the machine's one Docker engine; a fixture that does demands it."""
    for item in items:
        uses = {"docker_client", "engine_home"} & set(getattr(item, "fixturenames", ()))
        if uses and item.get_closest_marker("docker") is None:
            raise pytest.UsageError(f"{item.nodeid} uses a Docker engine ({', '.join(sorted(uses))}) without the mark")
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@dataclass
class Called:
    """What a call left."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _nothing_is_read_outside() -> Iterator[None]:
    """Of this test, or while tests were collected."""
    yield
    read = read_outside()
    assert not read, f"read outside of the clone and temporary folders (tests/reading_guard.py): {read}"


@pytest.fixture(scope="session", autouse=True)
def _one_of_many_on_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests share a machine with others: drivers of another test run do not keep these from the device, and whoever
    else works there marks no cell, unless a test is about that and says so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_LOCK_FOLDER", str(tmp_path_factory.mktemp("locks")))
        patch.setenv("BENCH_ON_BUSY", "ignore")
        patch.setenv("BENCH_BUSY_CPUS", "1000000")
        yield


Drive = Callable[..., Called]


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Drive:
    """Calls ``python -m bench_core.drive`` with results, data and models in ``tmp_path``."""

    def call(*arguments: str, own_folders: bool = True) -> Called:
        folders = [f"--{name}={tmp_path / name}" for name in ("results", "data", "models")] if own_folders else []
        monkeypatch.setattr(sys, "argv", ["drive", *arguments, *folders])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capfd.readouterr()
        code = ended.value.code
        return Called(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call


Made = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def make_run() -> Made:
    """Calls the driver once for many tests, which read or copy what it leaves in the folder given."""

    def call(root: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        folders = [f"--{name}={root / name}" for name in ("results", "data", "models")]
        command = [sys.executable, "-m", "bench_core.drive", *arguments, *folders]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return call


@pytest.fixture(scope="session")
def docker_client() -> docker.DockerClient:
    """A client of a running engine."""
    try:
        client = chosen_endpoint().client(600)
        client.ping()
    except (BadInput, docker.errors.DockerException, OSError) as error:
        if os.environ.get("CI") or shutil.which("dockerd"):
            pytest.fail(f"a Docker engine could be started here but none answers: {error}")
        pytest.skip("this machine has no Docker engine and none can be started: see .ci/docker-engine.sh")
    return client


Run = Callable[..., "subprocess.CompletedProcess[str]"]
RunIn = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run_in(docker_client: docker.DockerClient) -> RunIn:
    """Calls the driver as a person would, with Docker, its folders in the folder given unless they are named."""

    def call(root: Path, *arguments: str, **folders: Path) -> subprocess.CompletedProcess[str]:
        places = {**{name: root / name for name in ("results", "data", "models")}, **folders}
        command = [sys.executable, "-m", "bench_core.drive", "--launcher", "docker", "--device", "cpu", *arguments]
        command += [f"--{name}={path}" for name, path in places.items()]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=3000)

    return call


@pytest.fixture
def run(run_in: RunIn, tmp_path: Path) -> Run:
    """The same, its folders in ``tmp_path``."""
    return partial(run_in, tmp_path)
