"""The scripted engine is measured with every visit, is in no comparison, and tells the suite's own error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Drive

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.run import RunRecord
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.drive.ask.request import Suite
from bench_core.drive.launch.processes.launcher import ProcessLauncher
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.own_error import OWN_ERROR_BATCHES, own_error_jobs
from bench_core.drive.plan.plan import make_plan
from bench_core.runs.load import load_run
from bench_core.verify.run import verify_run

RUN = ("--images", "null", "--device", "cpu", "--launcher", "process", "--samples", "8", "--max-new-tokens", "4")
FAST = ("--option", "null.ttft_s=0.001", "--option", "null.tpot_s=0.001")


def test_it_is_planned_at_one_and_at_the_largest_batch_size_beside_any_images() -> None:
    plan = make_plan(Suite(images=("transformers",), batch_sizes=(1, 4, 16)), Catalogue(), "cpu")
    (job,) = own_error_jobs(plan, Catalogue(), 1, 64)
    assert [cell.cell for cell in job.planned()] == ["null.harness.b1", "null.harness.b16"]
    assert all(cell.harness and not cell.ranked for cell in job.planned())
    assert job.limits == {"max_batches": OWN_ERROR_BATCHES}
    (again,) = own_error_jobs(plan, Catalogue(), 2, 64)
    assert [cell.cell for cell in again.planned()] == ["null.harness.b1.r2", "null.harness.b16.r2"]


@pytest.mark.parametrize(
    ("asked", "word", "tpot_s"),
    [
        ({"concurrency": (1, 64)}, "c64", None),
        ({"concurrency": (1,)}, "c8", None),
        ({"concurrency": (512,)}, "c512", 0.02),
        ({"request_rate": (0.5, 16.0)}, "r16", None),
        ({"request_rate": (0.5,)}, "r10", None),
        ({"request_rate": (16.0,), "arrivals": "constant"}, "r16-constant", None),
        ({"request_rate": (1000.0,)}, "r128", None),
        ({"concurrency": (16,), "request_rate": (4.0,)}, "c16", None),
        ({"concurrency": (1,), "request_rate": (40.0,)}, "r40", None),
        ({"trace": Path("some.jsonl")}, "c64", None),
    ],
)
def test_under_load_it_is_planned_at_the_largest_load_point(asked: dict[str, object], word: str, tpot_s: float) -> None:
    """A request of 200 tokens takes 1.015 s by the script, so a concurrency of 16 is 15.8 requests/s; 128 requests/s
    are 25,600 tokens/s, and so are 512 streams of 20 ms a token."""
    suite = Suite.model_validate({"images": ("vllm",), **asked})
    (job,) = own_error_jobs(make_plan(suite, Catalogue(), "cpu"), Catalogue(), 1, 200)
    assert [cell.cell for cell in job.planned()] == [f"null.harness.{word}"]
    assert all(cell.harness for cell in job.planned())
    assert job.options.get("tpot_s") == tpot_s
    assert job.limits["max_serve_seconds"] >= 4


def test_batches_and_loads_have_a_launch_each() -> None:
    plan = make_plan(Suite(images=("null",), batch_sizes=(2,), concurrency=(16,)), Catalogue(), "cpu")
    jobs = own_error_jobs(plan, Catalogue(), 1, 64)
    assert [job.cells for job in jobs] == [("null.harness.b1", "null.harness.b2"), ("null.harness.c16",)]
    assert [job.served for job in jobs] == [False, True]


SERVED = (*RUN, *FAST, "--max-ramp-seconds", "1", "--max-serve-seconds", "2", "--no-device-rates", "--run-id", "mine")


@pytest.mark.alone
@pytest.mark.parametrize(
    ("load", "cell", "own"),
    [
        (("--concurrency", "2"), "null.harness.c8", "concurrency 8"),
        (
            ("--find-capacity", "null.scripted", "--slo", "ttft_s=1", "--capacity-start", "2", "--capacity-limit", "2"),
            "null.harness.r10",
            "10 requests/s",
        ),
    ],
    ids=("loads", "capacity-alone"),
)
def test_a_run_of_cells_under_load_measures_the_scripted_server(
    drive: Drive, tmp_path: Path, load: tuple[str, ...], cell: str, own: str
) -> None:
    called = drive(*SERVED, *load)
    assert called.code == 0, called.err
    assert f"the suite's own error: under load at {own}: median TTFT" in " ".join(called.out.split())
    run = tmp_path / "results" / "mine"
    assert [planned.cell for planned in RunRecord.read(run / layout.RUN_FILE).visits[0].harness_check or ()] == [cell]
    spec = CellSpec.read(layout.cell_folder(run, cell) / layout.SPEC_FILE)
    assert spec.options["ttft_s"] == 0.02, "options given for the grid's null are not its own"
    view = load_run(run)
    (row,) = view.own_error_served
    assert row.planned.cell not in {other.planned.cell for other in view.served}
    numbers = {gap.name: gap for gap in row.gaps}
    assert set(numbers) == {"ttft_s", "tpot_s", "output_throughput_tok_s", "lateness_s"}
    # Wide, as the machine may be busy: a wrong unit or a wrong script is off by far more.
    assert all(abs(numbers[name].error) < 0.5 for name in ("tpot_s", "output_throughput_tok_s"))
    report = (run / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert "### The suite's own error under load" in report
    assert report.count("harness") == 0
    assert verify_run(run).differences == ()
    log = layout.cell_folder(run, cell) / layout.EVENTS_FILE
    log.write_text(log.read_text(encoding="utf-8").replace('"asked_tokens":4', '"asked_tokens":5', 1), encoding="utf-8")
    assert {found.cell for found in verify_run(run, published=False).differences} == {cell}


def test_the_check_under_load_can_be_switched_off(drive: Drive, tmp_path: Path) -> None:
    shown = drive(*SERVED, "--concurrency", "2", "--dry-run")
    assert "the suite's own error: null.harness x {c8}" in shown.out
    shown = drive(*SERVED, "--concurrency", "2", "--no-harness-check", "--dry-run")
    assert "own error" not in shown.out
    plan = make_plan(Suite(images=("ctranslate2",), batch_sizes=(1,), concurrency=(2,)), Catalogue(), "cpu")
    assert [job.served for job in own_error_jobs(plan, Catalogue(), 1, 64)] == [False], "no load is measured"


def test_it_is_never_a_cell_of_the_grid() -> None:
    plan = make_plan(Suite(images=("null",), variants=("all",), batch_sizes=(1,)), Catalogue(), "cpu")
    assert [cell.cell for cell in plan.cells] == ["null.scripted.b1"]
    for suite in (Suite(images=("null",), variants=("null.harness",)), Suite(control="null.harness.b1")):
        with pytest.raises(BadInput, match="measures the suite itself"):
            make_plan(suite, Catalogue(), "cpu")


def test_a_run_measures_it_and_prints_the_bound_beside_the_tables(drive: Drive, tmp_path: Path) -> None:
    called = drive(*RUN, *FAST, "--batch-sizes", "1,4", "--run-id", "mine")
    assert called.code == 0, called.err
    assert "the suite's own error: at most TTFT" in " ".join(called.out.split())
    run = tmp_path / "results" / "mine"
    record = RunRecord.read(run / layout.RUN_FILE)
    assert [cell.cell for cell in record.cells] == ["null.scripted.b1", "null.scripted.b4"], (
        "the plan is what was asked"
    )
    assert [cell.cell for cell in record.visits[0].harness_check or ()] == ["null.harness.b1", "null.harness.b4"]
    spec = CellSpec.read(layout.cell_folder(run, "null.harness.b1") / layout.SPEC_FILE)
    assert spec.options["ttft_s"] == 0.02, "options given for the grid's null are not its own"
    view = load_run(run)
    for row in view.own_error:
        assert {gap.name for gap in row.gaps} == {"ttft_s", "tpot_s", "output_throughput_tok_s", "memory_bytes"}
        # Wide, as the machine may be busy: a wrong unit or a wrong script is off by far more.
        assert all(abs(gap.error) < 0.5 for gap in row.gaps)
    report = (run / layout.REPORT_FILE).read_text(encoding="utf-8")
    for size in (1, 4):
        table = report.split(f"## Batch size {size}\n")[1].split("\n## ")[0]
        assert "The suite's own error on this machine: at most TTFT" in table
        assert "harness" not in table.split("The suite's own error")[0]
    assert "harness" not in (run / layout.TABLE_FILE).read_text(encoding="utf-8")
    assert "harness" not in (run / layout.FIGURES_FOLDER / "throughput.svg").read_text(encoding="utf-8")


def test_it_can_be_switched_off_and_the_report_says_so_and_a_run_keeps_its_prompts(
    drive: Drive, tmp_path: Path
) -> None:
    called = drive(*RUN, *FAST, "--batch-sizes", "1", "--run-id", "mine", "--no-harness-check")
    assert called.code == 0, called.err
    run = tmp_path / "results" / "mine"
    assert RunRecord.read(run / layout.RUN_FILE).visits[0].harness_check == ()
    assert [path.name for path in (run / layout.CELLS_FOLDER).iterdir()] == ["null.scripted.b1"]
    assert "**The suite's own error**: not measured" in (run / layout.REPORT_FILE).read_text(encoding="utf-8")
    (prepared,) = (tmp_path / "data" / layout.WORKLOADS_FOLDER).glob("*.json")
    assert load_run(run).workload == Workload.read(prepared)


def test_each_visit_has_its_own_and_keeps_the_earlier_one_unless_nothing_is_measured(
    drive: Drive, tmp_path: Path
) -> None:
    assert drive(*RUN, *FAST, "--batch-sizes", "1", "--run-id", "mine").code == 0
    run = tmp_path / "results" / "mine"
    assert drive("--resume", "mine").code == 0
    assert len(RunRecord.read(run / layout.RUN_FILE).visits) == 1
    before = (layout.cell_folder(run, "null.harness.b1") / layout.EVENTS_FILE).read_bytes()
    called = drive("--resume", "mine", "--batch-sizes", "4")
    assert called.code == 0, called.err
    assert [row.planned.cell for row in load_run(run).own_error] == [
        "null.harness.b1",
        "null.harness.b1.r2",
        "null.harness.b4.r2",
    ]
    assert (layout.cell_folder(run, "null.harness.b1") / layout.EVENTS_FILE).read_bytes() == before
    assert verify_run(run).differences == ()


def test_a_run_does_not_fail_because_its_own_error_cannot_be_measured(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The box of the scripted engine dies: the cells asked for are measured, and the report says what is not known."""
    run = ProcessLauncher.run

    def dies(self, launch, on_stdout):  # type: ignore[no-untyped-def]
        if launch.labels["job"] == "null.harness":
            path = launch.folders.data / launch.arguments[launch.arguments.index("--assignment") + 1]
            handed = json.loads(path.read_text(encoding="utf-8"))
            for cell in handed["cells"]:
                cell["options"] |= {"fail_in": "load", "fail_how": "abort"}
            path.write_text(json.dumps(handed), encoding="utf-8")
        return run(self, launch, on_stdout)

    monkeypatch.setattr(ProcessLauncher, "run", dies)
    called = drive(*RUN, *FAST, "--batch-sizes", "1", "--run-id", "mine", "--json")
    assert called.code == 0, called.err
    assert list(json.loads(called.out.splitlines()[-1])["verdicts"]) == ["null.scripted.b1"]
    report = (tmp_path / "results" / "mine" / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert "not known: null.harness.b1: crashed: the engine died of SIGABRT" in report
    assert verify_run(tmp_path / "results" / "mine").differences == ()


def test_an_image_that_cannot_be_built_for_it_is_a_note(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure = ProcessLauncher.ensure
    calls: list[str] = []

    def second_fails(self, image, target, device, tell):  # type: ignore[no-untyped-def]
        calls.append(image.name)
        if len(calls) > 1:
            raise BadInput("no package index")
        return ensure(self, image, target, device, tell)

    monkeypatch.setattr(ProcessLauncher, "ensure", second_fails)
    called = drive(*RUN, *FAST, "--batch-sizes", "1", "--run-id", "mine", "--json")
    assert called.code == 0, called.err
    assert calls == ["null", "null"], "once for the cells, once for the check"
    assert "the suite's own error will not be known: no package index" in called.out
    assert RunRecord.read(tmp_path / "results" / "mine" / layout.RUN_FILE).visits[0].harness_check == ()
