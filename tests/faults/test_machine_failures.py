"""A machine that fails is not an outcome of the cells: they are tried again, and stay to come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import Drive
from null_run import null_run

from bench_core.contract.errors import MachineFailure
from bench_core.contract.records import layout
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.outcome import EXIT_BAD_INPUT, EXIT_MACHINE, MARKED, Outcome, Verdict
from bench_core.contract.records.run import GpuInfo
from bench_core.contract.records.workload import Workload
from bench_core.drive.ask.request import Request, Suite
from bench_core.drive.launch.launcher import Ended, Launch, Launcher
from bench_core.drive.launch.processes.launcher import ProcessLauncher
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.plan import make_plan
from bench_core.drive.plan.resume import Earlier
from bench_core.drive.run.collect import write_record
from bench_core.drive.run.execute import Execution
from bench_core.drive.run.gpu_gate import GpuGate
from bench_core.drive.run.progress import Display
from bench_core.prepare.models.model import ModelRequest, prepare_model

RUN = (*null_run(samples=8), "--option", "null.ttft_s=0.001", "--option", "null.tpot_s=0.0005", "--run-id", "mine")
NO_GPU = "error: --device cuda: no GPU answers through NVML here\nhint: start the container with --gpus, or use cpu\n"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench_core.drive.run.retry.PAUSES_S", (0.0, 0.0))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[Launch]]:
    """The first ``n`` launches end as a worker does that finds no GPU; what was launched."""

    def first(number: int) -> list[Launch]:
        whole = ProcessLauncher.run
        launched: list[Launch] = []

        def run(self: ProcessLauncher, launch: Launch, take: Any) -> Ended:
            launched.append(launch)
            return (
                Ended(EXIT_MACHINE, False, NO_GPU, 0.0, 1.0) if len(launched) <= number else whole(self, launch, take)
            )

        monkeypatch.setattr(ProcessLauncher, "run", run)
        return launched

    return first


def test_cells_stay_to_come_where_the_machine_fails(
    drive: Drive, tmp_path: Path, failing: Callable[[int], list[Launch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = failing(99)
    called = drive(*RUN, "--batch-sizes", "1,2", "--repeats", "2")
    assert called.code == EXIT_MACHINE
    assert "error: --device cuda: no GPU answers through NVML here" in called.err
    assert len(launched) == 3, "tried three times, and the next repeat would meet the same"
    run = tmp_path / "results" / "mine"
    assert not list(run.glob(f"cells/*/{layout.OUTCOME_FILE}"))
    assert not Earlier.load(run).complete
    assert (run / layout.REPORT_FILE).exists()
    monkeypatch.undo()
    resumed = drive("--resume", "mine")
    assert resumed.code == 0, resumed.err
    assert len(Earlier.load(run).complete) == 4


def test_a_machine_that_comes_back_measures_and_marks(
    drive: Drive, tmp_path: Path, failing: Callable[[int], list[Launch]]
) -> None:
    failing(2)
    called = drive(*RUN, "--batch-sizes", "1,2")
    assert called.code == 0, called.err
    assert called.err.count("no GPU answers through NVML here; trying again") == 2
    for size in (1, 2):
        folder = layout.cell_folder(tmp_path / "results" / "mine", f"null.scripted.b{size}")
        assert "this machine failed before it" in Verdict.read(folder / layout.OUTCOME_FILE).evidence[MARKED]


def test_what_a_box_was_to_read_and_is_gone_is_no_bad_specification(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ProcessLauncher.run

    def run(self: ProcessLauncher, launch: Launch, take: Any) -> Ended:
        (launch.folders.model / layout.MODEL_FILE).unlink(missing_ok=True)
        ended = whole(self, launch, take)
        assert ended.exit_code == EXIT_BAD_INPUT
        return ended

    monkeypatch.setattr(ProcessLauncher, "run", run)
    called = drive(*RUN, "--batch-sizes", "1")
    assert called.code == EXIT_MACHINE, called.err
    assert layout.MODEL_FILE in called.err
    assert not list((tmp_path / "results" / "mine").glob(f"cells/*/{layout.OUTCOME_FILE}"))


def test_a_card_that_has_gone_leaves_its_cells_to_the_others(tmp_path: Path) -> None:
    class OneCard:
        name = "process"

        def run(self, launch: Launch, _take: Any) -> Ended:
            assert launch.gpu is not None
            if launch.gpu.uuid == "GPU-1":
                return Ended(EXIT_MACHINE, False, NO_GPU, 0.0, 1.0)
            assert launch.folders.run is not None
            for cell in launch.labels["cells"].split(","):
                folder = layout.cell_folder(launch.folders.run, cell)
                folder.mkdir(parents=True)
                write_record(folder / layout.OUTCOME_FILE, Verdict(outcome=Outcome.UNSUPPORTED, judged_by="worker"))
            return Ended(13, False, "", 0.0, 1.0)

        def stop(self) -> None:
            raise AssertionError("the other card goes on")

    class Gate:
        def begin(self, uuid: str) -> None: ...
        def leave(self, uuid: str, what: str) -> None: ...
        def enter(self, uuid: str, stopping: Any) -> str:
            return ""

    suite = Suite(images=("null",), batch_sizes=(1, 2), repeats=3)
    plan = make_plan(suite, Catalogue(), "cuda")
    cards = [GpuInfo(uuid=f"GPU-{n}", name="N", memory_bytes=1 << 30, driver_version="1") for n in (1, 2)]
    request = Request(suite=suite, data=tmp_path)
    gate = cast(GpuGate, Gate())
    execution = Execution(request, plan, cast(Launcher, OneCard()), cards, Display(), gate=gate)
    model = prepare_model(ModelRequest(name="synthetic/tiny"), tmp_path / "models")
    prompts = ((5, 6, 7), (8, 9))
    workload = Workload(
        name="two", tokenizer="byte-level", max_prompt_tokens=3, truncated=0, dropped_empty=0, duplicates=0,
        digest=prompts_sha256(prompts), prompts=prompts,
    )  # fmt: skip
    prepared = Prepared(model, tmp_path, workload, tmp_path / "w.json")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / layout.RUN_FILE).write_text("{}", encoding="utf-8")  # else it counts as removed
    finished = execution.measure(prepared, tmp_path / "run", {})
    assert len(finished.verdicts) >= 4, "what was begun on the card that works"
    assert isinstance(finished.refusal, MachineFailure)
