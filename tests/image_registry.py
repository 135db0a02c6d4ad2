"""A real registry of images on this host: Debian's package docker-registry, unpacked for the test where it is not
installed."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from private_engine import until
from ray_nodes import free_port

_CONFIG = """\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {folder}/images}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def _program(folder: Path) -> str:
    found = shutil.which("docker-registry")
    if found:
        return found
    if not shutil.which("apt-get"):
        pytest.fail("a registry is needed: install distribution's `registry` as docker-registry")
    fetched = subprocess.run(
        ["apt-get", "download", "docker-registry"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert fetched.returncode == 0, fetched.stderr
    (package,) = folder.glob("docker-registry_*.deb")
    subprocess.run(["dpkg-deb", "--extract", str(package), str(folder / "unpacked")], check=True)
    return str(folder / "unpacked" / "usr" / "bin" / "docker-registry")


@contextmanager
def accepting(folder: Path) -> Iterator[str]:
    """Its address, ``127.0.0.1:PORT``. It lets everybody in and forgets everything at its end."""
    program = _program(folder)
    port = free_port()
    config = folder / "registry.yml"
    config.write_text(_CONFIG.format(folder=folder, port=port), encoding="utf-8")
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    try:
        until(lambda: _answers(port), f"the registry: {(folder / 'registry.log').read_text(errors='replace')[-500:]}")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
