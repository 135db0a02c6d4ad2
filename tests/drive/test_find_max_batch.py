"""``--find-max-batch``, through the driver and the process launcher, with an engine scripted to run out of memory."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Drive, Made

from bench_core.contract.errors import BadInput
from bench_core.contract.measures.cell import CellResult
from bench_core.contract.measures.max_batch import MaxBatch
from bench_core.contract.records import layout
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.outcome import MemoryEvidence, Outcome, Verdict
from bench_core.contract.records.run import GpuInfo
from bench_core.contract.records.spec import CellSpec
from bench_core.contract.records.workload import Workload
from bench_core.drive.ask.request import Request, Suite
from bench_core.drive.launch.processes.launcher import ProcessLauncher
from bench_core.drive.material.prepared import Prepared
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.plan import method_job
from bench_core.drive.run import gpu_gate
from bench_core.drive.run.gpu_gate import Occupancy, Occupant
from bench_core.drive.run.progress import Display
from bench_core.drive.search.trials import Site, Trials
from bench_core.prepare.models.model import ModelRequest, prepare_model
from bench_core.system.locks import Locks
from bench_core.verify.publish import publish
from bench_core.verify.run import verify_run

SEARCH = ("--find-max-batch", "null.scripted")
RUN = (
    *("--device", "cpu", "--launcher", "process", "--samples", "8", "--max-new-tokens", "4", "--run-id", "mine"),
    *("--no-harness-check", "--exhaustive", "--max-warmup-batches", "1"),
    *("--option", "null.load_s=0", "--option", "null.ttft_s=0.001", "--option", "null.tpot_s=0.001"),
)
# Enough for three rows, held for good: 4 MiB.
THREE = (
    *("--option", "null.needs_bytes_per_row=1000", "--option", "null.budget_bytes=3999"),
    *("--option", "null.load_bytes=4194304"),
)
RESULTS = Path("results") / "mine"


def found(root: Path, method: str = "null.scripted") -> MaxBatch:
    return MaxBatch.read(root / RESULTS / layout.MAX_BATCH_FOLDER / f"{method}.json")


@dataclass(frozen=True)
class Searched:
    """Results, data and models of a whole run with its search, and what the driver said."""

    root: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def searched(make_run: Made, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    root = tmp_path_factory.mktemp("searched")
    done = make_run(root, *RUN, *THREE, *SEARCH)
    return Searched(root, done.stdout, done.stderr)


@pytest.fixture
def copied(searched: Searched, tmp_path: Path) -> Searched:
    """The same, where ``drive`` looks and a test may change it."""
    shutil.copytree(searched.root, tmp_path, dirs_exist_ok=True, symlinks=True)
    return Searched(tmp_path, searched.out, searched.err)


def test_the_largest_is_that_of_the_script_with_its_evidence(searched: Searched) -> None:
    record, run = found(searched.root), searched.root / RESULTS
    assert (record.largest, record.smallest_failing, record.problem) == (3, 4, "")
    assert [(t.batch_size, t.outcome.value) for t in record.trials] == [(1, "ok"), (2, "ok"), (4, "oom_kv"), (3, "ok")]
    home = run / layout.MAX_BATCH_FOLDER / record.home
    for trial in record.trials:
        cell = layout.cell_folder(home / trial.folder, f"null.scripted.b{trial.batch_size}")
        assert Verdict.read(cell / layout.OUTCOME_FILE).outcome is trial.outcome
        spec = CellSpec.read(cell / layout.SPEC_FILE)
        assert spec.protocol.score_texts == 0, "a trial is asked whether it fits, nothing else"
        if trial.fits:
            metrics = CellResult.read(cell / layout.RESULT_FILE).metrics
            assert (metrics.warmup_batches, metrics.batches) == (1, 1)
            assert trial.host_peak_bytes == (metrics.host_memory.peak_bytes if metrics.host_memory else None)
    dead = MemoryEvidence.of(record.trials[2].evidence)
    assert (dead.host_at_death or 0) > 4 << 20, "memory at death"
    assert (dead.host_peak or 0) >= (dead.host_at_death or 0)
    cells = [path.name for path in (run / layout.CELLS_FOLDER).iterdir()]
    assert cells == ["null.scripted.b1"], "a trial is no cell of the run"


def test_it_stands_in_report_and_console_and_is_verified(copied: Searched, tmp_path: Path) -> None:
    run = tmp_path / RESULTS
    report = (run / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert "### Largest batch size" in report
    assert "### Trials of the largest batch size" in report
    line = next(line for line in report.splitlines() if line.startswith("| null scripted | 3 |"))
    assert "oom_kv" in line
    assert "Largest batch size" in copied.out
    assert "null.scripted at batch size 4: does not fit: oom_kv: ScriptedOutOfMemory" in copied.err
    assert verify_run(run).differences == ()
    copy = tmp_path / "published"
    publish(run, copy)
    assert "### Trials of the largest batch size" in (copy / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert not [path for path in copy.rglob("*") if path.name in (layout.LOG_FILE, layout.SUITE_FILE)]
    path = run / layout.MAX_BATCH_FOLDER / "null.scripted.json"
    record = MaxBatch.read(path)
    path.write_text(record.model_copy(update={"largest": 2}).to_json())
    lines = [difference.line for difference in verify_run(run, published=False).differences]
    assert lines == ["max-batch/null.scripted.json: largest is 2, from its trials follows 3"]
    path.write_text(record.model_copy(update={"trials": record.trials[:3]}).to_json())
    assert "one is missing" in verify_run(run, published=False).differences[0].line
    path.write_text(record.to_json())
    cell = run / layout.MAX_BATCH_FOLDER / record.home / "trial-03" / "cells" / "null.scripted.b4"
    verdict = Verdict.read(cell / layout.OUTCOME_FILE)
    (cell / layout.OUTCOME_FILE).write_text(verdict.model_copy(update={"outcome": Outcome.CRASHED}).to_json())
    assert "trial 3 (batch size 4): is oom_kv, outcome.json says crashed" in verify_run(run).differences[0].line


def test_a_resumed_run_tries_nothing_twice_and_finishes_what_was_cut_off(
    drive: Drive, copied: Searched, tmp_path: Path
) -> None:
    assert copied.root == tmp_path
    run = tmp_path / RESULTS
    record = found(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in (run / layout.MAX_BATCH_FOLDER / record.home).rglob("*")}
    assert Suite.read(run / layout.SUITE_FILE).find_max_batch == ("null.scripted",)
    called = drive("--resume", "mine")
    assert called.code == 0, called.err
    assert "nothing was tried again" in called.err
    assert found(tmp_path) == record
    assert files == {path: path.stat().st_mtime_ns for path in (run / layout.MAX_BATCH_FOLDER / record.home).rglob("*")}
    # As a driver leaves it that is killed in the third trial: a folder, and no word of it in the record.
    cut = record.model_copy(update={"trials": record.trials[:2], "largest": None, "smallest_failing": None})
    (run / layout.MAX_BATCH_FOLDER / "null.scripted.json").write_text(cut.to_json())
    assert drive("--resume", "mine").code == 0
    again = found(tmp_path)
    assert (again.largest, again.smallest_failing, again.searches) == (3, 4, 1)
    assert [trial.number for trial in again.trials] == [1, 2, 5, 6], "what is there is not written over"


def test_other_conditions_are_another_search(drive: Drive, copied: Searched, tmp_path: Path) -> None:
    assert copied.root == tmp_path
    first = found(tmp_path)
    two = ("--option", "null.budget_bytes=2999")
    assert drive("--resume", "mine", *two).code == 0, "no cell is to be measured, so that none contradicts it"
    second = found(tmp_path)
    assert (second.largest, second.searches, second.home) == (2, 2, "null.scripted.2")
    assert (tmp_path / RESULTS / layout.MAX_BATCH_FOLDER / first.home / "trial-04").is_dir()


@pytest.mark.parametrize(
    ("asked", "limit", "by", "words"),
    [
        ((), 4, "prompts", "4 or more: the workload has no more prompts"),
        (("--max-batch-limit", "3"), 3, "request", "3 or more: no more were to be tried"),
        (("--max-batch-limit", "99"), 4, "prompts", "4 or more: the workload has no more prompts"),
    ],
)
def test_a_limit_is_told_as_one(
    drive: Drive, tmp_path: Path, asked: tuple[str, ...], limit: int, by: str, words: str
) -> None:
    """Prompts are unique within a batch, so that no batch is larger than the workload."""
    called = drive(*RUN, "--samples", "4", *SEARCH, *asked, "--json")
    assert called.code == 0, called.err
    record = found(tmp_path)
    assert (record.largest, record.smallest_failing, record.limit, record.limited_by) == (limit, None, limit, by)
    assert words in (tmp_path / RESULTS / layout.REPORT_FILE).read_text(encoding="utf-8")
    news = [json.loads(line) for line in called.out.splitlines()]
    assert news[-1]["max_batch"] == {"null.scripted": {"largest": limit, "problem": ""}}
    told = [line for line in news if "no batch size beyond 4 can be tried" in line.get("text", "")]
    assert len(told) == ("99" in asked)


def test_an_engine_that_dies_of_memory_counts_as_one_that_says_so(drive: Drive, tmp_path: Path) -> None:
    """Its process has ended: what it printed is what is left, and image.yaml knows the words."""
    abort = ("--option", "null.fail_in=generate", "--option", "null.fail_how=oom_abort")
    called = drive(*RUN, *abort, "--option", "null.fail_from_batch_size=3", *SEARCH)
    assert called.code == 0, called.err
    record = found(tmp_path)
    assert (record.largest, record.smallest_failing) == (2, 3)
    dead = record.trial_of(3)
    assert dead is not None
    assert dead.cause == "the engine ended itself (SIGABRT), having said 'scripted: out of memory'"
    assert dead.evidence["last_line"] == "scripted: out of memory"
    assert MemoryEvidence.of(dead.evidence).host_at_death


def test_the_plan_tells_of_it_and_writes_nothing(drive: Drive, tmp_path: Path) -> None:
    called = drive(*RUN, *SEARCH, "--dry-run")
    assert called.code == 0, called.err
    assert "then the largest batch size that fits, at most the number of prompts: null.scripted" in called.out
    assert not (tmp_path / "results").exists()


def test_another_failure_ends_the_search_and_says_so(drive: Drive, tmp_path: Path) -> None:
    abort = ("--option", "null.fail_in=generate", "--option", "null.fail_how=abort")
    called = drive(*RUN, *abort, "--option", "null.fail_from_batch_size=3", *SEARCH)
    assert called.code == 1
    record = found(tmp_path)
    assert record.largest is None
    assert record.problem == "batch size 4: crashed: the engine died of SIGABRT; 2 fits"
    assert verify_run(tmp_path / RESULTS).differences == ()


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("--find-max-batch", "nothing.x"), "is no method: IMAGE.VARIANT"),
        (("--find-max-batch", "null"), "is no method: IMAGE.VARIANT"),
        (("--find-max-batch", "null.other"), "has no variant 'other'"),
        (("--find-max-batch", "null.harness"), "measures the suite itself"),
        (("--images", "null", "--find-max-batch", "vllm.gptq"), "does not run on cpu"),
        ((*SEARCH, "--max-batch-limit", "70000"), "--max-batch-limit"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_written(
    drive: Drive, tmp_path: Path, words: tuple[str, ...], cause: str
) -> None:
    called = drive(*RUN, *words)
    assert called.code == 2
    assert cause in called.err.splitlines()[0]
    assert not (tmp_path / "results").exists()


def _two_prompts(place: Path) -> Prepared:
    """What a trial's plan is made of; nothing of it is read."""
    prompts = ((5, 6, 7), (8, 9))
    workload = Workload(
        name="two", tokenizer="byte-level", max_prompt_tokens=3, truncated=0, dropped_empty=0, duplicates=0,
        digest=prompts_sha256(prompts), prompts=prompts,
    )  # fmt: skip
    model = prepare_model(ModelRequest(name="synthetic/tiny"), place / "models")
    return Prepared(model, place, workload, place / "w.json")


def test_a_gpu_that_is_busy_ends_a_trial_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as "stopped on request", and not as a batch size that does not fit. One gate serves all trials, so that
    memory which one has not given back marks the next."""
    busy = Occupancy((Occupant(4711, "python", 12_000_000_000),), 12_400_000_000, 97)
    monkeypatch.setattr(gpu_gate.GpuGate.__init__, "__kwdefaults__", {
        **(gpu_gate.GpuGate.__init__.__kwdefaults__ or {}), "look_at": lambda _uuid: busy, "sleep": lambda _s: None,
    })  # fmt: skip
    card = GpuInfo(uuid="GPU-1", name="N", memory_bytes=1 << 34, driver_version="1")
    request = Request(suite=Suite(on_busy="refuse", busy_wait_s=0), data=tmp_path)
    gates: list[object] = []
    site = Site(request, ProcessLauncher(), [card], Display(), "cuda", lambda e: gates.append(e._gate), Locks())
    trials = Trials(site, {})
    job = method_job("null.scripted", "--find-max-batch", request.suite, Catalogue(), "cuda")
    for number in (1, 2):
        with pytest.raises(BadInput, match=r"GPU-1 is busy: process 4711 \(python\), 12.0 GB"):
            trials.run(job, _two_prompts(tmp_path), tmp_path / f"trial-{number}", tmp_path)
    assert not trials.stopped
    assert gates[0] is gates[1]
