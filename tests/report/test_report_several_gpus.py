"""Runs whose models are split over two GPUs: sums, what each GPU is worth, and no ranking with runs on one."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import ROOT
from report_runs import GPU, Script, cell_path, read_log, write_log, write_run
from test_report_roofs import ENGINE, add, roofs, sheet, telemetry

from bench_core.compare.comparison import Asked, compare
from bench_core.compare.quantities import QUANTITIES
from bench_core.compare.read import read_sides
from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.device_rates import SummedRates
from bench_core.contract.records.run import RunRecord
from bench_core.drive.launch.launcher import Launcher
from bench_core.drive.plan.plan import Plan
from bench_core.drive.plan.resume import Earlier
from bench_core.report.cell import by_method
from bench_core.report.conditions import run_conditions
from bench_core.report.document import document
from bench_core.report.write.cell_table import csv_table
from bench_core.report.write.markdown import markdown
from bench_core.runs.load import load_run
from bench_core.verify.run import verify_run

sys.path.insert(0, str(ROOT / "tests" / "gpu"))
import two_gpus

ONE = Script((ENGINE,), batch_sizes=(1, 4), batches=100, run_id="one")
# Twice as fast, and as much on each of two GPUs.
FASTER = replace(ENGINE, ttft_s=0.01, tpot_s=0.005, label="Engine fp16, 2 GPUs", weights_bytes=15_000_000_000)
BOTH = replace(ONE, methods=(FASTER,), gpus=2, run_id="both")
THROUGHPUT = (QUANTITIES["throughput"],)
SECOND = f"{GPU.uuid[:-1]}2"


@pytest.fixture
def one(tmp_path: Path) -> Path:
    run = write_run(tmp_path, ONE)
    add(run, roofs("v1.gpu-0"), "v1.gpu-0")
    return run


@pytest.fixture
def both(tmp_path: Path) -> Path:
    run = write_run(tmp_path, BOTH)
    add(run, roofs("v1.gpu-0"), "v1.gpu-0")
    add(run, roofs("v1.gpu-1", gpu_uuid=SECOND), "v1.gpu-1")
    return run


def test_cells_of_two_gpus_are_read_and_verified(both: Path) -> None:
    view = load_run(both)
    assert [row.planned.cell for row in view.rows] == ["engine.fp16.b1.2gpu", "engine.fp16.b4.2gpu"]
    assert all(row.measured for row in view.rows)
    assert view.gpus_per_cell == 2
    assert not [found for found in verify_run(both).differences if "gpus is" in found.what or "card" in found.what]


def test_what_each_gpu_is_worth_stands_beside_the_whole(one: Path, both: Path) -> None:
    written = {run: markdown(document(load_run(run))) for run in (one, both)}
    assert "| Throughput (token/s) | Per GPU (token/s) | GPU Memory |" in written[both]
    assert "Per GPU" not in written[one]
    assert "memory, power and energy are sums over these GPUs" in written[both]
    for line in csv.DictReader(io.StringIO(csv_table(load_run(both)))):
        assert line["gpus"] == "2"
        assert float(line["throughput_per_gpu_tok_s"]) == float(line["workload_throughput_tok_s"]) / 2


def test_the_roofs_of_two_gpus_are_their_sums(one: Path, both: Path) -> None:
    view = load_run(both)
    found = view.device_rates_of(view.rows[0])
    assert isinstance(found, SummedRates)
    assert found.bandwidth_bytes_s == 4e12
    assert found.matrix_flop_s("float16") == found.slowest_matrix_flop_s == 1e15
    assert found.context_bytes == 2 << 29
    assert found.launch_s == pytest.approx(4e-6), "each GPU is launched on at the same time"
    alone, together = sheet(one, "Roofline")[0], sheet(both, "Roofline")[0]
    assert together["MBU"] == alone["MBU"], "half the time, twice the bandwidth"
    assert together["Bytes a step (GB)"] == alone["Bytes a step (GB)"]


def test_without_one_of_the_gpus_there_is_no_roof(both: Path) -> None:
    (both / layout.DEVICE_RATES_FOLDER / "v1.gpu-1.json").unlink()
    view = load_run(both)
    assert view.device_rates_of(view.rows[0]) is None
    assert sheet(both, "Roofline")[0]["MBU"] == "\N{EN DASH}"


def test_a_context_on_each_gpu_is_part_of_the_memory(one: Path, both: Path) -> None:
    found = [next(by_method(load_run(run))).explained for run in (one, both)]
    assert [explained.context_bytes for explained in found if explained is not None] == [1 << 29, 2 << 29]


def test_runs_on_one_and_on_two_gpus_share_no_ranking(one: Path, both: Path) -> None:
    conditions = [run_conditions(load_run(run))["gpu"] for run in (one, both)]
    assert conditions == [GPU.name, f"{GPU.name}, 2 for each cell"]


def test_a_cell_of_another_number_of_gpus_than_planned_is_found(both: Path) -> None:
    record = both / layout.RUN_FILE
    record.write_text(record.read_text(encoding="utf-8").replace('"gpus": 2', '"gpus": 3'), encoding="utf-8")
    with pytest.raises(Exception, match="cell"):
        load_run(both)


# The script that reads the visit to two GPUs.


def _asked(question: str, first: Path, second: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = two_gpus.main(question, str(first), str(second))
    return code, capsys.readouterr().out


def test_a_pair_is_held_against_its_targets(one: Path, both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run, method in ((one, ENGINE), (both, FASTER)):
        for size in (1, 4):
            telemetry(cell_path(run, method, size), power_w=500.0)
    code, said = _asked("pair", one, both, capsys)
    assert code == 1
    assert "MISSED  engine.fp16.b1.2gpu: parity was not measured" in said
    assert "engine.fp16.b1.2gpu: 2.0" in said
    assert "times one GPU, 1.0" in said
    assert "PASS  engine.fp16.b1.2gpu: GPU memory is the sum over 2 GPUs" in said
    assert "PASS  engine.fp16.b1.2gpu: bandwidth roof 2.000 times one GPU's" in said
    for run, method in ((one, ENGINE), (both, FASTER)):
        for size in (1, 4):
            _direct(cell_path(run, method, size))
    code, said = _asked("pair", one, both, capsys)
    assert code == 0, said
    assert "PASS  engine.fp16.b4.2gpu: 1.0000 of the engine called directly" in said


def _direct(cell: Path) -> None:
    """Six batches given to the engine directly as well, which takes as long."""
    events = read_log(cell)
    batches = [event for event in events if event["type"] == "batch" and event["phase"] == "measure"][:6]
    pairs: list[dict[str, Any]] = []
    for number, batch in enumerate(batches):
        pairs += [{**batch, "phase": phase, "index": number, "arrivals": None} for phase in ("paired", "direct")]
    end = next(place for place, event in enumerate(events) if event["type"] == "end")
    write_log(cell, [*events[:end], *pairs, *events[end:]])


def test_a_pool_that_takes_as_long_as_one_gpu_misses_its_target(
    one: Path, both: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = _asked("pool", one, both, capsys)
    assert code == 1
    assert "2 of 2 cells are ok" in said
    assert "of half" in said
    assert "MISSED  the run was not on several devices" in said
    assert RunRecord.read(one / layout.RUN_FILE).cells


def test_runs_of_another_number_of_gpus_are_compared_on_demand_alone(one: Path, both: Path) -> None:
    before, after = read_sides([one, both])
    with pytest.raises(BadInput, match="gpu is NVIDIA H100 80GB HBM3, and NVIDIA H100 80GB HBM3, 2 for each cell"):
        compare(before, after, Asked(THROUGHPUT, {"throughput": 0.05}))
    found = compare(before, after, Asked(THROUGHPUT, {"throughput": 0.05}, frozenset({"gpu"})))
    assert {line.cell for line in found.lines} == {"engine.fp16.b1", "engine.fp16.b4"}, "a cell beside its own"


class _Containers:
    name = "docker"


def test_a_run_goes_on_with_as_many_gpus_for_each_cell_alone(both: Path) -> None:
    earlier = Earlier.load(both)
    asked = earlier.suite()
    assert asked.gpus_per_cell == 2, "what nobody says again is as it was"
    other = asked.model_copy(update={"gpus_per_cell": 1})
    with pytest.raises(BadInput, match="gpus_per_cell is 1, was 2"):
        earlier.require_same_plan(Plan("cuda", ()), other, cast(Launcher, _Containers()), [GPU])
    earlier.require_same_plan(Plan("cuda", ()), asked, cast(Launcher, _Containers()), [GPU])
