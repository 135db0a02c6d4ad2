"""Measuring a device: every sample kept, a failing piece named, the record whole; samples while engines hog a machine;
package energy from sysfs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from worker_material import REPOSITORY, Place, write_image

from bench_core.contract.adapter import Device
from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.errors import BadInput
from bench_core.contract.records.device_rates import DeviceRates, WorkPiece
from bench_core.worker import device_rates as calibration_module
from bench_core.worker.device_rates import SAMPLE_S, SAMPLES, measure_device, time_piece
from bench_core.worker.sample.rapl import PackageEnergy
from bench_core.worker.sample.sampler import Sampler

PROBE = """\
name: probe
title: Probe
measures_device: {entry}
batching: native
token_times: none
devices: [cuda, cpu]
packages: []
"""
CODE = """\
import time

from bench_core.contract.records.device_rates import WorkPiece


def sleepy(duration_s):
    return lambda: lambda iterations: time.sleep(duration_s * iterations)


def broken():
    raise RuntimeError("no such dtype\\nhere")


def work(device):
    return [
        WorkPiece("launch", "chain", "float32", (1,), 100, sleepy(0.001)),
        WorkPiece("read", "sum", "float32", (8, 8), 1e6, sleepy(0.01)),
        WorkPiece("matrix", "product", "float16", (8, 8, 8), 1e9, broken),
        WorkPiece("matrix", "product, float32", "float32", (8, 8, 8), 1e9, sleepy(0.01)),
    ]
"""


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    """An image that offers sleep as work."""
    folder = tmp_path / "probe"
    folder.mkdir()
    name = f"work_{tmp_path.name.replace('-', '_')}"
    (folder / "image.yaml").write_text(PROBE.format(entry=f"{name}:work"), encoding="utf-8")
    (folder / f"{name}.py").write_text(CODE, encoding="utf-8")
    return folder


class Hand:
    """A clock that only work moves."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@pytest.mark.parametrize(("duration_s", "samples"), [(1e-7, SAMPLES), (0.02, SAMPLES), (0.7, 3), (5.0, 3)])
def test_samples_are_long_enough_and_slow_work_gets_fewer(duration_s: float, samples: int) -> None:
    clock = Hand()

    def run(iterations: int) -> None:
        clock.now_ns += round(iterations * duration_s * 1e9)

    found = time_piece(WorkPiece("read", "n", "float32", (1,), 1e6, lambda: run), clock)
    assert len(found.samples_s) == samples
    assert min(found.samples_s) >= SAMPLE_S
    assert found.iterations == 1 or max(found.samples_s) < 10 * SAMPLE_S
    assert found.best_per_s == pytest.approx(1e6 / duration_s, rel=1e-6)


def test_a_piece_that_fails_is_named_and_the_others_are_measured(probe: Path) -> None:
    found = measure_device(probe, Manifest.load(probe), Device("cpu", None, 2), "v1.cpu")
    assert [m.name for m in found.measurements] == ["chain", "sum", "product, float32"]
    assert found.failures == {"product": "RuntimeError: no such dtype"}
    assert found.bandwidth_bytes_s == pytest.approx(1e8, rel=0.3)
    assert found.launch_s == pytest.approx(1e-5, rel=0.5)
    assert found.matrix_flop_s("float16") is None
    assert found.telemetry is not None
    assert found.context_bytes is None
    assert found.threads == 2


def test_a_machine_that_others_fill_gets_fewer_pieces_and_still_a_record(
    probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_module, "ALL_S", 0.1)
    found = measure_device(probe, Manifest.load(probe), Device("cpu", None, 2), "v1.cpu")
    assert [m.name for m in found.measurements] == ["chain"]
    assert set(found.failures) == {"sum", "product", "product, float32"}
    assert found.failures["sum"].startswith("left out")


def test_a_context_is_what_the_first_piece_takes(probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In use after it less what was in use before, by whoever else."""
    answers = iter([600 << 20, 1100 << 20])

    class Gpu:
        """A GPU of which only the memory is asked."""

        def __init__(self, uuid: str) -> None:
            assert uuid == "GPU-1"

        def used_bytes(self) -> int:
            return next(answers)

    class Silent:
        """A sampler that asks nothing."""

        def __init__(self, *_: Any) -> None: ...

        def start(self) -> None: ...

        def stop(self) -> None: ...

        def take(self) -> None: ...

    monkeypatch.setattr(calibration_module, "GpuReader", Gpu)
    monkeypatch.setattr(calibration_module, "Sampler", Silent)
    found = measure_device(probe, Manifest.load(probe), Device("cuda", "GPU-1", 1), "v1.gpu-1")
    assert found.context_bytes == 500 << 20
    assert found.gpu_uuid == "GPU-1"


def test_the_worker_writes_the_record_into_the_run(tmp_path: Path, probe: Path) -> None:
    place = Place.prepared(tmp_path / "place")
    ran = place.run("--measure-device", "v2.cpu", "--run-id", "mine", "--threads", "1", image=probe)
    assert ran.code == 0, ran.err
    path = place.results / "mine" / "device-rates" / "v2.cpu.json"
    record = DeviceRates.read(path)
    assert (record.name, record.device, record.threads) == ("v2.cpu", "cpu", 1)
    assert [file.name for file in path.parent.iterdir()] == ["v2.cpu.json"]
    assert "product failed: RuntimeError: no such dtype" in ran.err


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("--measure-device", "v1.cpu"), "--measure-device needs a run"),
        (("--measure-device", "../x", "--run-id", "mine"), "is not a name"),
        (("--variant", "x", "--run-id", "mine"), "has no variant 'x'"),  # no engine, so nothing to run
    ],
)
def test_misuse_is_one_line(tmp_path: Path, probe: Path, arguments: tuple[str, ...], cause: str) -> None:
    place = Place.prepared(tmp_path / "place")
    ran = place.run(*arguments, image=probe)
    assert ran.code == 2
    assert cause in ran.err.splitlines()[0]
    assert list(place.results.iterdir()) == []


def test_an_engine_measures_no_device(tmp_path: Path) -> None:
    place = Place.prepared(tmp_path / "place")
    ran = place.run("--measure-device", "v1.cpu", "--run-id", "mine", image=write_image(tmp_path / "twisted"))
    assert (ran.code, "does not measure devices" in ran.err) == (2, True)


@pytest.mark.parametrize(
    "change",
    [
        "adapter: a:B\n",
        "variants: {x: {artifact: none, default: true}}\n",
    ],
)
def test_an_image_is_an_engine_or_measures_devices(tmp_path: Path, change: str) -> None:
    (tmp_path / "image.yaml").write_text(PROBE.format(entry="a:b") + change)
    with pytest.raises(BadInput, match="is no engine"):
        Manifest.load(tmp_path)


def test_the_probe_of_this_repository_is_whole() -> None:
    """Built as the other images are: ends by importing its own module, installs nothing."""
    folder = REPOSITORY / "images" / "device-probe"
    manifest = Manifest.load(folder)
    assert manifest.measures_device == "probe:work"
    assert not manifest.ranked
    text = (folder / "Dockerfile").read_text(encoding="utf-8")
    assert text.strip().endswith('ENTRYPOINT ["python", "-m", "bench_core.worker"]')
    assert "import probe, torch" in text
    assert "pip install" not in text


# Sampling beside engines that leave nothing for others.

HOGS = {
    "all its threads compute": (
        "import threading\n"
        "def burn():\n    while True: sum(range(1000))\n"
        "for _ in range(16): threading.Thread(target=burn, daemon=True).start()\nburn()"
    ),
    "all cores compute": (
        "import os\n"
        "for _ in range(2 * len(os.sched_getaffinity(0))):\n    if os.fork() == 0:\n        while True: pass\n"
        "while True: pass"
    ),
    # One long call that never lets go of the interpreter's lock.
    "the interpreter's lock is held": "import itertools\nmax(itertools.repeat(0))",
}


@pytest.mark.alone
@pytest.mark.parametrize("how", HOGS)
def test_an_engine_cannot_starve_the_sampler(how: str) -> None:
    """The sampler lives in another process; a machine without a free core delays it, but never by a second."""
    engine = subprocess.Popen([sys.executable, "-c", HOGS[how]], start_new_session=True)
    try:
        time.sleep(0.5)
        sampler = Sampler(engine.pid, None)
        sampler.start()
        time.sleep(2.0)
        sampler.stop()
        event = sampler.take()
    finally:
        os.killpg(engine.pid, 9)
        engine.wait()
    assert event is not None
    gaps = [later - earlier for earlier, later in zip(event.t_s, event.t_s[1:], strict=False)]
    assert len(event.t_s) >= 10
    assert max(gaps) < 1.0
    assert all(value for value in event.rss_bytes)


# Package energy.


def zone(root: Path, number: str, name: str, energy_uj: int, range_uj: int = 1000) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder


def test_packages_are_summed_and_their_parts_are_not(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 100)
    zone(tmp_path, "1", "package-1", 500)
    zone(tmp_path, "0:0", "core", 7)
    zone(tmp_path, "2", "psys", 9)
    energy = PackageEnergy(tmp_path)
    assert energy.read_uj() == 0
    zone(tmp_path, "0", "package-0", 130)
    zone(tmp_path, "1", "package-1", 570)
    zone(tmp_path, "0:0", "core", 900)
    assert energy.read_uj() == 100


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 990)
    energy = PackageEnergy(tmp_path)
    zone(tmp_path, "0", "package-0", 30)
    assert energy.read_uj() == 40
    zone(tmp_path, "0", "package-0", 35)
    assert energy.read_uj() == 45


def test_what_may_not_be_read_is_none_and_not_a_part(tmp_path: Path) -> None:
    """Two packages of which one is hidden: half of the energy is no energy."""
    zone(tmp_path, "0", "package-0", 10)
    (zone(tmp_path, "1", "package-1", 10) / "energy_uj").unlink()
    assert PackageEnergy(tmp_path).read_uj() is None
    assert PackageEnergy(tmp_path / "nowhere").read_uj() is None


def test_a_counter_that_vanishes_ends_the_readings(tmp_path: Path) -> None:
    folder = zone(tmp_path, "0", "package-0", 10)
    energy = PackageEnergy(tmp_path)
    assert energy.read_uj() == 0
    (folder / "energy_uj").write_text("not a number")
    assert energy.read_uj() is None
    assert energy.read_uj() is None


def test_readable_packages_are_a_column_of_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "0", "package-0", 10)
    sampler = Sampler(os.getpid(), None)
    sampler._packages = PackageEnergy(tmp_path)
    sampler.sample()
    zone(tmp_path, "0", "package-0", 25)
    sampler.sample()
    event = sampler.take()
    assert event is not None
    assert event.package_energy_uj == (0, 15)
    sampler._packages = PackageEnergy(tmp_path / "nowhere")
    sampler.sample()
    event = sampler.take()
    assert event is not None
    assert event.package_energy_uj is None
