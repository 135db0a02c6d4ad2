"""Tests with real containers. Where a Docker engine could be started they fail without one; they never quietly skip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import docker
import docker.errors
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def docker_client() -> docker.DockerClient:
    """A client of a running engine."""
    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        if os.environ.get("CI") or shutil.which("dockerd"):
            pytest.fail(f"a Docker engine could be started here but none answers: {error}")
        pytest.skip("this machine has no Docker engine and none can be started: see .ci/docker-engine.sh")
    return client


@pytest.fixture(scope="session")
def material() -> Path:
    """The folder of real stories and models that lies beside the checkout in development and CI."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.fail(f"{folder.name} is missing beside the checkout: these tests need its model and stories")
    return folder


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(docker_client: docker.DockerClient, tmp_path: Path) -> Run:
    """Calls the driver as a person would, with Docker, its folders in ``tmp_path``; models are shared by a session."""

    def call(*arguments: str, **folders: Path) -> subprocess.CompletedProcess[str]:
        places = {"results": tmp_path / "results", "data": tmp_path / "data", "models": tmp_path / "models", **folders}
        command = [sys.executable, "-m", "bench_core.drive", "--launcher", "docker", "--device", "cpu", *arguments]
        command += [f"--{name}={path}" for name, path in places.items()]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=3000)

    return call
