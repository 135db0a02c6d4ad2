"""Devices are measured at a visit where that costs seconds, and never at the cost of the run; the search for the
smallest memory budget, through the driver."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from conftest import Drive, Made

from bench_core.contract.asked.manifest import Manifest
from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cell import CellResult
from bench_core.contract.measures.min_memory import RELATIVE_INTERVAL, MinMemory
from bench_core.contract.records import layout
from bench_core.contract.records.device_rates import DeviceRates
from bench_core.contract.records.run import GpuInfo
from bench_core.contract.records.spec import CellSpec
from bench_core.drive.ask.request import Suite
from bench_core.drive.launch.launcher import Ended, Launch
from bench_core.drive.launch.processes.environments import Environments
from bench_core.drive.launch.processes.launcher import ProcessLauncher
from bench_core.drive.plan.catalogue import Catalogue, Image
from bench_core.drive.plan.plan import make_plan
from bench_core.drive.run import device_rates
from bench_core.drive.run.device_rates import is_at_hand, measure_devices, name_of
from bench_core.drive.run.progress import Display
from bench_core.verify.run import verify_run

RUN = ("--device", "cpu", "--launcher", "process", "--samples", "8", "--max-new-tokens", "8", "--no-harness-check")
GPUS = [
    GpuInfo(uuid=f"GPU-{letter * 8}-0000-4000", name="N", memory_bytes=1 << 30, driver_version="1") for letter in "ab"
]
RECORD = DeviceRates(name="v1.cpu", wall_time_utc="t", device="cpu", cpu="c", threads=1, seconds=1)
CODE = """\
import time

from bench_core.contract.records.device_rates import WorkPiece


def work(device):
    return [WorkPiece("launch", "chain", "float32", (1,), 100, lambda: lambda n: time.sleep(0.001 * n)),
            WorkPiece("read", "sum", "float32", (8, 8), 1e6, lambda: lambda n: time.sleep(0.01 * n))]
"""


def probe_image(folder: Path) -> Image:
    """An image that offers sleep as work, on the torch base."""
    folder.mkdir()
    (folder / "work.py").write_text(CODE)
    (folder / "image.yaml").write_text(
        "{name: probe, title: Probe, measures_device: 'work:work', base: torch, batching: native, token_times: none,"
        " devices: [cuda, cpu], packages: []}"
    )
    return Image(folder, Manifest.load(folder))


@dataclass
class Boxes:
    """A launcher that notes what it is asked for."""

    name: Literal["docker", "process"] = "docker"
    ready: bool = False
    then: Callable[[Launch], Ended] = lambda launch: Ended(0, False, "", 0.0, 0.0)
    launched: list[Launch] = field(default_factory=list)

    def is_ready(self, *_: Any) -> bool:
        return self.ready

    def ensure(self, *_: Any) -> None: ...

    def run(self, launch: Launch, _on_stdout: Any) -> Ended:
        self.launched.append(launch)
        return self.then(launch)


class Notes(Display):
    """What was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def detail(self, text: str) -> None: ...


@pytest.mark.parametrize(
    ("name", "ready", "images", "expected"),
    [
        ("docker", False, ("null",), False),
        ("docker", True, ("null",), True),
        ("docker", False, ("null", "transformers"), True),  # the torch base is there anyway
        ("process", False, ("null", "transformers"), False),  # an environment of its own would cost minutes
        ("process", True, ("null",), True),
    ],
)
def test_a_device_is_measured_unasked_where_that_costs_seconds(
    tmp_path: Path, name: Any, ready: bool, images: tuple[str, ...], expected: bool
) -> None:
    plan = make_plan(Suite(images=images), Catalogue(), "cpu")
    assert is_at_hand(probe_image(tmp_path / "probe"), plan, Boxes(name, ready)) is expected  # type: ignore[arg-type]


def _measure(tmp_path: Path, boxes: Boxes, gpus: list[GpuInfo]) -> tuple[list[Path], list[str]]:
    notes = Notes()
    plan = make_plan(Suite(images=("null",)), Catalogue(), "cuda" if gpus else "cpu")
    written = measure_devices(
        probe_image(tmp_path / "probe"), plan, boxes, gpus, notes,  # type: ignore[arg-type]
        run_folder=tmp_path / "mine", model_folder=tmp_path, visit=1, threads=None,
    )  # fmt: skip
    return written, notes.said


def test_every_gpu_is_measured_once_by_uuid_in_a_box_like_a_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_rates, "used_bytes", lambda uuid: 0)
    monkeypatch.setattr(device_rates, "memory_came_back", lambda uuid, baseline: True)

    def leave(launch: Launch) -> Ended:
        folder = tmp_path / "mine" / layout.DEVICE_RATES_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        name = launch.arguments[1]
        (folder / f"{name}.json").write_text(RECORD.model_copy(update={"name": name}).to_json())
        return Ended(0, False, "", 0.0, 0.0)

    boxes = Boxes(then=leave)
    written, _ = _measure(tmp_path, boxes, GPUS)
    assert [path.stem for path in written] == ["v1.gpu-aaaaaaaa-0000-40", "v1.gpu-bbbbbbbb-0000-40"]
    assert all(layout.is_name(path.stem) for path in written)
    assert [launch.gpu for launch in boxes.launched] == GPUS
    assert {launch.target for launch in boxes.launched} == {"measure"}
    assert {launch.folders.run for launch in boxes.launched} == {tmp_path / "mine"}
    assert name_of(3, None) == "v3.cpu"


def _raises(error: Exception) -> Callable[[Launch], Ended]:
    def run(_launch: Launch) -> Ended:
        raise error

    return run


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (lambda _: Ended(13, False, "error: no GPU\n", 0, 0), "no GPU"),
        (lambda _: Ended(0, False, "", 0, 0), "No such file"),  # ended well and left nothing
        (_raises(BadInput("no container")), "no container"),
        (_raises(RuntimeError("the daemon has gone")), "the daemon has gone"),
    ],
)
def test_nothing_that_goes_wrong_stops_the_run(tmp_path: Path, then: Callable[[Launch], Ended], said: str) -> None:
    written, notes = _measure(tmp_path, Boxes(then=then), [])
    assert written == []
    assert said in notes[-1]
    assert "the device was not measured" in notes[-1]


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    """The repository's probe replaced by one that needs no torch, in the scripted engine's environment."""
    image = probe_image(tmp_path / "probe")
    monkeypatch.setattr(Catalogue, "probe", lambda self, device: image)
    own = Environments.path
    null = Catalogue().get("null")

    def path(self: Environments, asked: Image, target: Any, device: Any) -> Path:
        return own(self, null if asked is image else asked, target, device)

    monkeypatch.setattr(Environments, "path", path)
    monkeypatch.setattr(ProcessLauncher, "recipe", lambda self, image, device: "of no file of the repository")
    return image


def test_a_run_has_the_roofs_of_its_device(drive: Drive, tmp_path: Path, probe: Image) -> None:
    called = drive(*RUN, "--images", "null", "--batch-sizes", "1", "--run-id", "mine", "--threads", "1")
    assert called.code == 0, called.err
    run = tmp_path / "results" / "mine"
    record = DeviceRates.read(run / "device-rates" / "v1.cpu.json")
    assert record.bandwidth_bytes_s == pytest.approx(1e8, rel=0.3)
    report = (run / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert "### Peak rates" in report
    assert "### Roofline" in report
    assert "bytes of a step are not known" in report  # of a scripted engine
    (line,) = csv.DictReader((run / layout.TABLE_FILE).read_text(encoding="utf-8").splitlines())
    assert (line["mbu"], line["bound"]) == ("", "")
    assert float(line["step_s"]) == pytest.approx(0.005, rel=0.2)
    assert drive("--resume", "mine", "--batch-sizes", "2", "--images", "null").code == 0
    assert {path.stem for path in (run / "device-rates").iterdir()} == {"v1.cpu", "v2.cpu"}


def test_no_roofs_where_they_are_unwanted(drive: Drive, tmp_path: Path, probe: Image) -> None:
    called = drive(*RUN, "--images", "null", "--batch-sizes", "1", "--run-id", "mine", "--no-device-rates")
    assert called.code == 0, called.err
    run = tmp_path / "results" / "mine"
    assert not (run / "device-rates").exists()
    assert "Roofline" not in (run / layout.REPORT_FILE).read_text(encoding="utf-8")


# The smallest memory budget.

NEEDS = 100_000_000
SCRIPT = ("--option", f"null.needs_bytes_per_row={NEEDS}", "--option", "null.ttft_s=0.1", "--option", "null.load_s=0")


@pytest.fixture(scope="module")
def searched(make_run: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run with its search."""
    root = tmp_path_factory.mktemp("searched")
    make_run(root, *RUN, *SCRIPT, "--min-memory", "null.scripted.b4", "--run-id", "mine", "--json")
    return root / "results" / "mine"


def test_the_smallest_budget_is_that_of_the_script(searched: Path) -> None:
    run = searched
    found = MinMemory.read(run / layout.MIN_MEMORY_FOLDER / "null.scripted.b4.json")
    assert found.problem == ""
    assert found.smallest is not None
    assert found.largest_failing is not None
    assert found.largest_failing < 4 * NEEDS <= found.smallest
    assert found.smallest - found.largest_failing <= RELATIVE_INTERVAL * found.smallest
    assert found.guess == 4 * NEEDS, "what the engine says that it reserves in vain is left out at once"
    assert [trial.value for trial in found.trials] == [1e9, 4e8, 4e8 * 0.9805]
    assert {trial.outcome.value for trial in found.trials} == {"ok", "oom_kv"}
    assert all(trial.host_peak_bytes for trial in found.trials if trial.sustained)
    results = [CellResult.read(path) for path in (run / layout.MIN_MEMORY_FOLDER).rglob(layout.RESULT_FILE)]
    assert {(result.metrics.warmup_batches, result.metrics.batches) for result in results} == {(1, 1)}
    specs = [CellSpec.read(path) for path in (run / layout.MIN_MEMORY_FOLDER).rglob(layout.SPEC_FILE)]
    assert {spec.protocol.score_texts for spec in specs} == {0}, "a trial is asked whether it fits, nothing else"
    cells = [path.name for path in (run / "cells").iterdir()]
    assert cells == ["null.scripted.b4"], "a trial is no cell of the run"
    report = (run / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert "### Smallest memory" in report
    assert "budget_bytes" in report
    assert verify_run(run).differences == ()


CHANGES: tuple[tuple[Callable[[dict[str, Any]], object], str], ...] = (
    (lambda r: r.update(smallest=r["trials"][0]["value"]), "smallest is 1000000000.0, from its trials follows 4"),
    (lambda r: r.update(largest_failing=None), "largest_failing is None, from its trials follows 392200000.0"),
    (lambda r: r["trials"].pop(2), "its answer does not follow from its trials: one is missing"),
    (lambda r: r.update(guess=None), "guess is None, from its trials follows 400000000.0"),
    (lambda r: r["trials"][0].update(unused_bytes=7), "trial 1 (budget_bytes 1e+09): unused_bytes is 7, its cell"),
    (lambda r: r["trials"][1].update(host_peak_bytes=1), "host_peak_bytes is 1, its cell says "),
    (lambda r: r["trials"][1].update(output_throughput_tok_s=999.0), "output_throughput_tok_s is 999.0, its cell"),
    (lambda r: r["trials"][1].update(cache_tokens=7), "trial 2 (budget_bytes 4e+08): cache_tokens is 7, its cell"),
    (lambda r: r["trials"][2].update(outcome="ok", sustained=True), "is ok, outcome.json says oom_kv"),
    (lambda r: r["trials"][1].update(sustained=False), "sustained is False, its cell says True"),
    (lambda r: r["trials"][1].update(number=9), "trial 9 (budget_bytes 4e+08): trial-09 is missing"),
)


def test_a_search_that_was_changed_is_found(searched: Path, tmp_path: Path) -> None:
    """Budgets of 1000, 400 and 392 MB are tried, of which the last is not enough."""
    run = tmp_path / "mine"
    shutil.copytree(searched, run, symlinks=True)
    path = run / layout.MIN_MEMORY_FOLDER / "null.scripted.b4.json"
    whole = path.read_text()
    for change, words in CHANGES:
        record = json.loads(whole)
        change(record)
        path.write_text(json.dumps(record))
        found = [one.line for one in verify_run(run, published=False).differences]
        assert any(words in line for line in found), (words, found)
    path.write_text(whole)
    second = path.with_suffix("") / layout.trial_folder(2)
    log = layout.cell_folder(second, "null.scripted.b4") / layout.EVENTS_FILE
    log.write_text(re.sub(r'"rss_bytes": ?\[', r"\g<0>99000000000, ", log.read_text(), count=1))
    found = [one.line for one in verify_run(run, published=False).differences]
    assert any("trial 2" in line and layout.RESULT_FILE in line for line in found), found


def test_a_cell_that_is_never_sustained_is_told(drive: Drive, tmp_path: Path) -> None:
    """The cell itself ends well (no budget is set), its search does not."""
    never = ("--option", "null.needs_bytes_per_row=9000000000")
    called = drive(*RUN, *SCRIPT, *never, "--min-memory", "null.scripted.b1", "--run-id", "mine")
    assert called.code == 1
    found = MinMemory.read(tmp_path / "results" / "mine" / layout.MIN_MEMORY_FOLDER / "null.scripted.b1.json")
    assert found.smallest is None
    assert "not even the largest budget sustains it: oom_kv" in found.problem
    assert len(found.trials) == 1


def test_a_complete_run_is_searched_without_measuring_it_again(drive: Drive, tmp_path: Path) -> None:
    least = ("--option", "null.needs_bytes_per_row=1", "--option", "null.ttft_s=0.1")
    assert drive(*RUN, *least, "--images", "null", "--batch-sizes", "1", "--run-id", "mine").code == 0
    run = tmp_path / "results" / "mine"
    before = (run / layout.RUN_FILE).read_bytes()
    called = drive("--resume", "mine", "--min-memory", "null.scripted.b1")
    assert called.code == 0, called.err
    assert (run / layout.RUN_FILE).read_bytes() == before
    found = json.loads((run / layout.MIN_MEMORY_FOLDER / "null.scripted.b1.json").read_text())
    assert (found["smallest"], found["largest_failing"]) == (1000.0, None)


@pytest.mark.parametrize(
    ("cell", "cause"),
    [
        ("null.scripted", "is not a cell"),
        ("nothing.x.b1", "is not a cell"),
        ("transformers.fp32.b1", "has no memory budget on cpu"),
        ("vllm.fp32.b1", "has no memory budget on cpu"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_written(
    drive: Drive, tmp_path: Path, cell: str, cause: str
) -> None:
    called = drive(*RUN, "--min-memory", cell)
    assert called.code == 2
    assert cause in called.err.splitlines()[0]
    assert not (tmp_path / "results").exists()
