"""A run goes to the engine of the active Docker context, here the tests' own, and to no other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from private_engine import WORK, Driver, PrivateEngine

pytestmark = pytest.mark.docker

NULL = ("--images", "null", *WORK, "--batch-sizes", "1")


def test_a_run_goes_to_the_engine_of_the_active_context(driver: Driver, engine: PrivateEngine, tmp_path: Path) -> None:
    """By DOCKER_CONTEXT before there is a config.json, then by `docker context use`."""
    settings = {"DOCKER_HOST": "", "DOCKER_CONFIG": str(tmp_path / "settings")}
    command = ["docker", "--config", settings["DOCKER_CONFIG"], "context"]
    subprocess.run([*command, "create", "private", "--docker", f"host={engine.url}"], check=True, capture_output=True)
    named = driver(*NULL, "--run-id", "named", environment={**settings, "DOCKER_CONTEXT": "private"})
    assert named.code == 0, named.err
    assert f"launched as docker at {engine.url} (context private, of DOCKER_CONTEXT)" in named.out
    subprocess.run([*command, "use", "private"], check=True, capture_output=True)
    used = driver(*NULL, "--run-id", "used", environment=settings)
    assert used.code == 0, used.err
    assert "(context private, of docker context use)" in used.out
    engine.stop()  # the machine's own goes on answering, and is not asked
    refused = driver(*NULL, "--run-id", "refused", environment=settings)
    assert refused.code == 2
    assert f"no Docker daemon answers at {engine.url} (context private" in refused.err
