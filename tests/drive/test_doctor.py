"""What ``bench_core.drive.doctor`` says of a machine, and that it changes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench_core.contract.measures.cpu_use import CpuUse
from bench_core.contract.records.run import GpuInfo
from bench_core.drive import doctor
from bench_core.drive.run.cpu_gate import Look

GPU = GpuInfo(uuid="GPU-1", name="a card", memory_bytes=80 * 10**9, driver_version="580.1")


def test_the_command_names_what_is_missing_and_what_mends_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench_core.drive.doctor", "--results", str(tmp_path / "results")],
        capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "DOCKER_HOST": f"unix://{tmp_path}/nobody.sock", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert f"missing  docker: no Docker daemon answers at unix://{tmp_path}/nobody.sock" in done.stdout
    assert "-> start it" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 missing"
    assert list(tmp_path.iterdir()) == [], "it only looks"


def test_everything_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "visible_gpus", lambda: [GPU])
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    found = {finding.subject: finding for finding in doctor.findings((tmp_path,))}
    assert list(found) == [
        "python", "docker", "docker compose", "gpu", "disk", "cpu", "other load", "clock", "ports", "locks",
    ]  # fmt: skip
    assert found["gpu"].words == "0: a card, 80.0 GB, driver 580.1, GPU-1"
    assert found["clock"].state == "ok"
    assert "ns a reading" in found["clock"].words


@pytest.mark.parametrize(
    ("info", "state"),
    [
        ({"Runtimes": {"runc": {}}}, "missing"),
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, "ok"),
        ({"Runtimes": None, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, "ok"),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "vendor.com/net=0"}]}, "missing"),
    ],
)
def test_a_gpu_reaches_containers_by_a_runtime_or_by_cdi(info: dict[str, object], state: str) -> None:
    found = doctor.toolkit(info)
    assert found.state == state
    assert ("nvidia-ctk" in found.mend) == (state == "missing")


def test_compose_is_needed_by_compose_alone() -> None:
    assert doctor.compose(lambda *_: "5.6.1") == doctor.Finding("docker compose", "ok", "5.6.1")
    assert doctor.compose(lambda *_: None).state == "note"


def test_little_room_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = {tmp_path / "a": 10**12, tmp_path / "b": 10**9}
    monkeypatch.setattr(doctor, "free_bytes", room.get)
    found = doctor.disk("results", room)
    assert (found.state, found.words.startswith("1.0 GB free for results")) == ("note", True)
    assert doctor.disk("results", [tmp_path / "a"]).state == "ok"


def test_who_uses_the_cpus_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    use = CpuUse(window_s=1.0, cpus=2, own_cpus=0.0, idle_cpus=0.5, steal_cpus=0.0, others_cpus=1.5)
    monkeypatch.setattr(doctor, "look", lambda: Look(use, ((7, "loop", 1.5),)))
    assert doctor.busy().state == "note"
    assert "process 7 (loop)" in doctor.busy().words
    monkeypatch.setattr(doctor, "look", lambda: Look(use.model_copy(update={"others_cpus": 0.01})))
    assert doctor.busy().state == "ok"


def test_a_lock_folder_that_cannot_be_written_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.locks(tmp_path / "not" / "there").state == "ok"
    monkeypatch.setattr("os.access", lambda *_: False)
    assert doctor.locks(tmp_path).state == "missing"
