"""What ``bench_core.drive.prune`` removes of an engine's images."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import docker
import docker.errors
import pytest
from private_engine import PrivateEngine

from bench_core.drive.launch.containers.build import CONTEXT_LABEL

pytestmark = pytest.mark.docker


def build(client: docker.DockerClient, tag: str, version: str, label: str) -> str:
    """An image of one layer; its id."""
    dockerfile = f'FROM scratch\nLABEL "{label}"="{version}"\nCOPY Dockerfile /{version}\n'
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        tar.addfile(entry, io.BytesIO(dockerfile.encode()))
    archive.seek(0)
    image, _ = client.images.build(fileobj=archive, custom_context=True, tag=tag, rm=True)
    return str(image.id)


def test_images_that_a_newer_build_has_replaced_go_and_no_others(
    engine: PrivateEngine, fault_repository: Path, tmp_path: Path
) -> None:
    client = engine.client
    client.images.prune(filters={"dangling": True})  # what earlier tests' drivers have replaced on their engine
    old = build(client, "llm-bench/mine:cpu", "1", CONTEXT_LABEL)
    new = build(client, "llm-bench/mine:cpu", "2", CONTEXT_LABEL)
    build(client, "others/theirs:cpu", "1", "others.label")
    build(client, "others/theirs:cpu", "2", "others.label")
    before = {str(image.id) for image in client.images.list(filters={"dangling": True})}
    assert old in before
    assert len(before) == 2
    command = [sys.executable, "-m", "bench_core.drive.prune", "--models", str(tmp_path), "--yes"]
    environment = {**os.environ, "DOCKER_HOST": engine.url, "DOCKER_CONTEXT": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=fault_repository)
    assert done.returncode == 0, done.stderr
    assert "images that a newer build has replaced: 1" in done.stdout
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get(old)
    assert client.images.get("llm-bench/mine:cpu").id == new
    assert {str(image.id) for image in client.images.list(filters={"dangling": True})} == before - {old}
    for tag in ("llm-bench/mine:cpu", "others/theirs:cpu", *(before - {old})):
        client.images.remove(tag, force=True)
