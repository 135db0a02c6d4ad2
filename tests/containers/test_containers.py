"""The scripted engine in real containers: same files, hardened boxes, honest clocks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import docker
import pytest
from conftest import ROOT, Run

from bench_core.contract.measures.cell import CellResult
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Verdict
from bench_core.contract.records.run import RunRecord
from bench_core.drive.launch.box import box_user
from bench_core.drive.launch.containers.build import ImageBuilder
from bench_core.verify.run import verify_run

pytestmark = pytest.mark.docker

# Without what measures the device first, where its image is at hand: the containers looked for are those of cells.
QUICK = (
    *("--images", "null", "--samples", "8", "--max-new-tokens", "16", "--run-id", "mine"),
    "--no-device-rates",
)


def test_a_run_leaves_the_files_of_the_layout_and_no_container(
    run: Run, tmp_path: Path, docker_client: docker.DockerClient
) -> None:
    done = run(*QUICK, "--batch-sizes", "1,4")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "mine"
    record = RunRecord.read(folder / layout.RUN_FILE)
    assert record.launcher == "docker"
    assert record.images["null"].id.startswith("sha256:")
    for cell in record.cells:
        files = list(layout.cell_folder(folder, cell.cell).iterdir())
        assert sorted(path.name for path in files) == sorted(layout.CELL_FILES)
        assert {path.stat().st_uid for path in files} == {os.getuid()}
    left = docker_client.containers.list(all=True, filters={"label": "llm-bench.run=mine"})
    assert left == []
    done_again = verify_run(folder)
    assert (done_again.differences, done_again.not_checked) == ((), ()), "the image holds the code that the run names"


def test_measuring_containers_are_hardened_and_memory_that_their_engine_holds_is_seen(
    run: Run, tmp_path: Path, docker_client: docker.DockerClient
) -> None:
    """What docs/architecture.md promises of a measuring container, read from the engine while a cell is measured. In
    the cell, 64 MiB held from load on, and 32 KiB per token of batch x (prompt + output) from prepare on."""
    done: list[subprocess.CompletedProcess[str]] = []
    held = ("--option", "null.load_bytes=67108864", "--option", "null.kv_bytes_per_token=32768")
    script = (*held, "--option", "null.load_s=2", "--no-harness-check")
    thread = threading.Thread(target=lambda: done.append(run(*QUICK, "--batch-sizes", "4", *script)))
    thread.start()
    container = _wait_for_container(docker_client, "mine")
    thread.join()
    assert done[0].returncode == 0, done[0].stderr
    host, config = container["HostConfig"], container["Config"]
    assert host["NetworkMode"] == "none"
    assert config["NetworkDisabled"] is True, "the kernel's name space alone: Docker's part of it is half of a start"
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert host["PidsLimit"] > 0
    assert host["Memory"] > 0
    assert host["MemorySwap"] == host["Memory"]
    assert host["Init"] is True
    assert config["User"] == "{}:{}".format(*box_user())
    assert not config["User"].startswith("0:")
    writable = [mount["Destination"] for mount in container["Mounts"] if mount["RW"]]
    assert writable == ["/results/mine"]
    assert not any("docker.sock" in mount["Source"] for mount in container["Mounts"])
    given = {entry.split("=")[0] for entry in config["Env"]}
    assert given <= {"PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "HOME", "LOGNAME"}
    result = CellResult.read(tmp_path / "results" / "mine" / "cells" / "null.scripted.b4" / layout.RESULT_FILE)
    memory = result.metrics.host_memory
    assert memory is not None
    assert memory.baseline_bytes is not None
    assert memory.after_load_bytes is not None
    assert memory.after_prepare_bytes is not None
    spec = json.loads((tmp_path / "results/mine/cells/null.scripted.b4" / layout.SPEC_FILE).read_text("utf-8"))
    cache_bytes = 4 * (spec["workload"]["longest_prompt_tokens"] + 16) * 32768
    assert memory.after_load_bytes - memory.baseline_bytes == pytest.approx(67108864, rel=0.1)
    assert memory.after_prepare_bytes - memory.after_load_bytes == pytest.approx(cache_bytes, rel=0.1)


def test_a_box_can_write_its_memory_where_the_system_below_has_no_folder_for_it(
    docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    """A system that was imported from a host's folders may lack /tmp. Docker then makes it for the working directory,
    as root's alone, and runc gives the tmpfs above it the same mode."""
    system, base = "llm-bench/test-no-tmp:cpu", "llm-bench/test-base-on-no-tmp:cpu"
    below = ImageBuilder(docker_client).operating_system("cpu")
    (tmp_path / "Dockerfile").write_text(f"FROM {below}\nRUN rm -rf /tmp\n", encoding="utf-8")
    try:
        docker_client.images.build(path=str(tmp_path), tag=system, rm=True)
        arguments = {"BASE_IMAGE": system, "FLAVOUR": "cpu"}
        docker_client.images.build(
            path=str(ROOT), dockerfile="docker/base.Dockerfile", tag=base, buildargs=arguments, rm=True
        )
        memory = "/tmp"  # noqa: S108  # inside the container
        modes = []
        for tag in (system, base):
            modes.append(
                docker_client.containers.run(
                    tag, ["stat", "-c", "%a", memory], remove=True, read_only=True, user="65532:65532",
                    working_dir=memory, tmpfs={memory: "rw,mode=1777"},
                )
            )  # fmt: skip
        assert modes == [b"755\n", b"1777\n"], "without the base's own folder, and with it"
    finally:
        for tag in (base, system):
            if docker_client.images.list(name=tag):
                docker_client.images.remove(tag, force=True)


def _wait_for_container(client: docker.DockerClient, run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for container in client.containers.list(filters={"label": f"llm-bench.run={run_id}"}):
            attributes: dict[str, Any] = container.attrs
            return attributes
        time.sleep(0.1)
    raise AssertionError("no container of the run was seen")


def test_a_container_killed_from_outside_is_a_row_and_the_rest_goes_on(
    run: Run, tmp_path: Path, docker_client: docker.DockerClient
) -> None:
    """The cell in hand is `killed`; a fresh container measures those that are left."""
    done: list[subprocess.CompletedProcess[str]] = []
    script = ("--option", "null.tpot_s=0.05", "--option", "null.ttft_s=0.05", "--no-harness-check")
    thread = threading.Thread(target=lambda: done.append(run(*QUICK, "--batch-sizes", "1,8", *script)))
    thread.start()
    container = _wait_for_container(docker_client, "mine")
    cell = tmp_path / "results" / "mine" / "cells" / "null.scripted.b1" / layout.EVENTS_FILE
    while not cell.exists() or '"batch"' not in cell.read_text(encoding="utf-8"):
        time.sleep(0.05)
    docker_client.containers.get(container["Id"]).kill("SIGKILL")
    thread.join()
    assert done[0].returncode == 1
    cells = tmp_path / "results" / "mine" / "cells"
    first = Verdict.read(cells / "null.scripted.b1" / layout.OUTCOME_FILE)
    assert (first.outcome.value, first.judged_by) == ("killed", "driver")
    assert Verdict.read(cells / "null.scripted.b8" / layout.OUTCOME_FILE).outcome.value == "ok"


@pytest.mark.alone
def test_times_of_the_scripted_engine_are_measured_within_one_percent(docker_client: docker.DockerClient) -> None:
    """20 ms to first token and 5 ms per token, median of ten launches; the overhead of a launch is printed."""
    command = [sys.executable, "-m", "bench_core.drive.own_error", "--launches", "10", "--launcher", "docker"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    medians = [float(text) for text in re.findall(r"median error ([+-][\d.]+)%", done.stdout)]
    assert len(medians) == 3
    assert max(abs(value) for value in medians) < 1.0
    overhead = re.search(r"overhead +median ([\d.]+) s", done.stdout)
    assert overhead is not None
    assert 0.0 < float(overhead[1]) < 10.0


def test_the_contract_suite_passes_on_a_new_image(docker_client: docker.DockerClient, tmp_path: Path) -> None:
    """`make new-image NAME=x` gives an image that builds and passes the suite at once. In a copy of the repository:
    tests beside this one look at the images of this one."""
    name, clone = "made-by-a-test", tmp_path / "clone"
    for part in ("bench_core", "docker", "images"):
        shutil.copytree(ROOT / part, clone / part, ignore=shutil.ignore_patterns("__pycache__", ".mypy_cache"))
    shutil.copy(ROOT / ".dockerignore", clone)
    try:
        script = clone / "docker" / "new-image.sh"
        made = subprocess.run([script, name], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        command = [sys.executable, "-m", "bench_core.drive", "--images", name, "--device", "cpu"]
        command += ["--launcher", "docker", "--self-check"]
        done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False, timeout=1200)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("passed") >= 12
    finally:
        for tag in {f"llm-bench/{name}:cpu"} & {tag for i in docker_client.images.list() for tag in i.tags}:
            docker_client.images.remove(tag)
