"""A run goes on where it ended: complete cells are kept to the byte, the others are measured, and nothing that decides
a number may have changed in between."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Called, Drive, Made

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import Outcome, Verdict
from bench_core.contract.records.run import ArtifactInfo, GpuInfo, RunRecord, VisitInfo
from bench_core.contract.records.spec import CellSpec
from bench_core.drive.ask.request import Suite
from bench_core.drive.launch.processes.launcher import ProcessLauncher
from bench_core.drive.material.provide import Provision
from bench_core.drive.plan.catalogue import Catalogue
from bench_core.drive.plan.plan import make_plan
from bench_core.drive.plan.resume import Earlier, find_run
from bench_core.drive.run.collect import write_record

# Without the check of the suite itself: test_harness_check.py has it in runs that are resumed.
BASE = ("--device", "cpu", "--launcher", "process", "--samples", "8", "--max-new-tokens", "4", "--no-harness-check")
FAST = ("--option", "null.ttft_s=0.001", "--option", "null.tpot_s=0.001")
RUN = ("--images", "null", *BASE, *FAST)
GPU = GpuInfo(uuid="GPU-1", name="NVIDIA H100 80GB HBM3", memory_bytes=85_520_809_984, driver_version="580.95")


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _record(run: Path) -> RunRecord:
    return RunRecord.read(run / layout.RUN_FILE)


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def _end(run: Path, cell: str, outcome: Outcome) -> None:
    """Makes a cell one that ended otherwise."""
    folder = layout.cell_folder(run, cell)
    (folder / layout.RESULT_FILE).unlink(missing_ok=True)
    write_record(folder / layout.OUTCOME_FILE, Verdict(outcome=outcome, cause="made so", judged_by="worker"))


@pytest.fixture(scope="module")
def made(make_run: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results, data and models of a whole run, ``mine``, of batch sizes 1 and 4."""
    root = tmp_path_factory.mktemp("made")
    make_run(root, *RUN, "--batch-sizes", "1,4", "--run-id", "mine")
    return root


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> Path:
    """A copy of that run, with its data and models, where ``drive`` looks."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, symlinks=True)
    return tmp_path / "results" / "mine"


def test_what_is_missing_stopped_or_damaged_is_measured_and_the_rest_kept_to_the_byte(
    drive: Drive, tmp_path: Path
) -> None:
    assert drive(*RUN, "--batch-sizes", "1,2,4,8", "--run-id", "mine").code == 0
    run = tmp_path / "results" / "mine"
    before = _tree(run / "cells" / "null.scripted.b1")
    first = _record(run)
    for path in (run / "cells" / "null.scripted.b2").iterdir():
        path.unlink()
    _end(run, "null.scripted.b4", Outcome.KILLED)
    events = run / "cells" / "null.scripted.b8" / layout.EVENTS_FILE
    events.write_bytes(events.read_bytes()[:-40])
    called = drive("--resume", "mine")
    assert called.code == 0, called.err
    assert "1 of 4 cells asked for are complete" in called.out
    record = _record(run)
    assert _tree(run / "cells" / "null.scripted.b1") == before
    assert record.cells == first.cells
    again = ("null.scripted.b2", "null.scripted.b4", "null.scripted.b8")
    assert [visit.cells for visit in record.visits] == [first.visits[0].cells, again]
    assert all(row.result is not None for row in Earlier.load(run).view.rows)
    kept = Verdict.read(run / "set-aside" / "null.scripted.b4.1" / layout.OUTCOME_FILE)
    assert kept.outcome is Outcome.KILLED
    report = (run / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert "4 of 4 measured" in report
    assert "### Visits" in report


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_what_the_cell_is_not_to_blame_for_is_measured_again(mine: Path, outcome: Outcome) -> None:
    _end(mine, "null.scripted.b4", outcome)
    if outcome is Outcome.OK:
        (mine / "cells" / "null.scripted.b4" / layout.EVENTS_FILE).unlink()  # ok, but nothing follows from it
    again = outcome in (Outcome.OK, Outcome.KILLED, Outcome.SKIPPED)
    complete = {cell.cell for cell in Earlier.load(mine).complete_cells}
    assert complete == {"null.scripted.b1"} | (set() if again else {"null.scripted.b4"})


@pytest.mark.parametrize(("outcome", "kept"), [(Outcome.CRASHED, False), (Outcome.BAD_SPEC, True)])
def test_a_box_that_died_before_the_cell_began_is_not_the_cells_failure(
    mine: Path, outcome: Outcome, kept: bool
) -> None:
    _end(mine, "null.scripted.b4", outcome)
    (mine / "cells" / "null.scripted.b4" / layout.SPEC_FILE).unlink()
    assert ("null.scripted.b4" in {cell.cell for cell in Earlier.load(mine).complete_cells}) is kept


def test_a_failure_of_the_cell_is_kept_and_told_in_the_exit_code(drive: Drive, tmp_path: Path) -> None:
    dies = ("--option", "null.fail_in=generate", "--option", "null.fail_how=oom")
    late = ("--option", "null.fail_from_batch_size=4")
    assert drive(*RUN, "--batch-sizes", "1,4", "--run-id", "mine", *dies, *late).code == 1
    run = tmp_path / "results" / "mine"
    before = _tree(run)
    called = drive("--resume", "mine", "--json")
    assert called.code == 1
    assert json.loads(called.out.splitlines()[-1])["verdicts"]["null.scripted.b4"]["outcome"] == "oom_kv"
    assert _tree(run / "cells") == {k.removeprefix("cells/"): v for k, v in before.items() if k.startswith("cells/")}
    assert (run / layout.RUN_FILE).read_bytes() == before[layout.RUN_FILE], "a visit without a cell is none"


def test_what_a_killed_driver_was_just_writing_is_gone_afterwards_though_no_cell_is_missing(
    drive: Drive, mine: Path
) -> None:
    """Found by a test that kills: every cell was complete, so that no visit began, and the report's half stayed."""
    before = sorted(path.name for path in mine.rglob("*"))
    for half in (".report.html.x1", ".run.json.x2", "figures/.memory.png.x3", ".workload.json.gz.x4"):
        (mine / half).write_text("half", encoding="utf-8")
    assert drive("--resume", "mine").code == 0
    assert sorted(path.name for path in mine.rglob("*")) == before


def test_cells_are_added_and_the_run_asks_for_them_from_then_on(drive: Drive, mine: Path) -> None:
    called = drive("--resume", str(mine), "--batch-sizes", "2,4")
    assert called.code == 0, called.err
    assert [cell.batch_size for cell in _record(mine).cells] == [1, 4, 2]
    assert _record(mine).visits[1].cells == ("null.scripted.b2",)
    _end(mine, "null.scripted.b2", Outcome.KILLED)
    assert drive("--resume", "mine").code == 0
    assert len(Earlier.load(mine).complete) == 3


def test_other_options_than_a_runs_own_are_remembered(drive: Drive, mine: Path) -> None:
    """`--resume` alone asks for what the first call asked for: prompts, lengths and options."""
    suite = Suite.read(mine / layout.SUITE_FILE)
    assert (suite.samples, suite.max_new_tokens, suite.options) == (8, 4, {"null": {"ttft_s": 0.001, "tpot_s": 0.001}})
    assert drive("--resume", "mine", "--batch-sizes", "8").code == 0
    assert Suite.read(mine / layout.SUITE_FILE).batch_sizes == (1, 4), "what a run began with stays its selection"
    assert len({spec.workload.digest for spec in _specs(mine)}) == 1


def _specs(run: Path) -> list[CellSpec]:
    return [CellSpec.read(path) for path in sorted(run.glob("cells/*/spec.json"))]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--max-new-tokens", "5"), "max_new_tokens is 5, was 4"),
        (("--length", "natural"), "length is natural, was forced"),
        (("--warmup-batches", "2"), "warmup_batches is 2, was 1"),
        (("--max-batches", "1"), "max_batches is 1, was none"),
        (("--threads", "77"), "threads is 77"),
        (("--seed", "1"), "model digest is"),
        (("--samples", "9"), "workload digest is"),
        (("--option", "null.tpot_s=0.002"), "option null.scripted.tpot_s is 0.002, was 0.001"),
    ],
)
def test_a_run_of_another_kind_is_refused_and_left_as_it_is(
    drive: Drive, mine: Path, arguments: tuple[str, ...], said: str
) -> None:
    before = _tree(mine)
    called = drive("--resume", "mine", "--batch-sizes", "2", *arguments)
    assert called.code == 2, called.out
    lines = called.err.strip().splitlines()
    assert lines[-2].startswith("error: mine cannot go on with this: ")
    assert said in lines[-2]
    assert lines[-1].startswith("hint: ")
    assert _tree(mine) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--resume", "mine", "--run-id", "x"), "leave out --run-id"),
        (("--resume", "mine", "--self-check"), "leave out"),
        (("--resume", "mime"), "did you mean mine?"),
        (("--resume", "../mine"), "no such run"),
        (("--resume", "\0"), "no such run"),
        (("--resume", "mine", "--control", "null.other.b1"), "has no variant"),
        (("--resume", "mine", "--control", "scripted.b1"), "IMAGE.VARIANT.bN"),
        (("--resume", "mine", "--control", "null.scripted"), "IMAGE.VARIANT.bN"),
        (("--artifact", "x"), "NAME=SOURCE"),
        (("--artifact", "gptq-int4=x"), "did you mean gptq-int4-g128"),
    ],
)
def test_misuse_is_two_lines(drive: Drive, mine: Path, arguments: tuple[str, ...], said: str) -> None:
    before = _tree(mine)
    called: Called = drive(*arguments)
    assert called.code == 2
    assert said in called.err
    assert "Traceback" not in called.err
    assert _tree(mine) == before


def test_parity_may_be_asked_for_later_or_no_more(drive: Drive, mine: Path) -> None:
    """It is measured beside the cell's numbers, not among them."""
    assert mine.is_dir()
    called = drive("--resume", "mine", "--batch-sizes", "2", "--direct-batches", "1", "--direct-batch-sizes", "2")
    assert called.code == 0, called.err


def test_a_dry_run_shows_what_is_kept_and_writes_nothing(drive: Drive, mine: Path) -> None:
    before = _tree(mine)
    called = drive("--resume", "mine", "--batch-sizes", "1,2", "--control", "null.scripted.b1", "--dry-run")
    assert called.code == 0, called.err
    assert "resumes mine: 1 of 3 cells asked for are complete and kept" in called.out
    assert "control: null.scripted.b1.r2, measured first" in called.out
    assert _tree(mine) == before


def test_a_record_of_before_visits_can_be_gone_on_with(drive: Drive, mine: Path) -> None:
    """Neither visits nor suite.json nor recipes: what the record and the cells say must do."""
    (mine / layout.SUITE_FILE).unlink()

    def strip(content: dict[str, Any]) -> None:
        del content["visits"]
        for image in content["images"].values():
            del image["recipe"]
        for cell in content["cells"]:
            del cell["repeat"]

    _edit(mine / layout.RUN_FILE, strip)
    called = drive("--resume", "mine", "--batch-sizes", "8", *FAST)
    assert called.code == 0, called.err
    record = _record(mine)
    assert [visit.cells for visit in record.visits] == [
        ("null.scripted.b1", "null.scripted.b4"),
        ("null.scripted.b8",),
    ]


def test_the_order_of_the_prompts_is_the_runs_own(drive: Drive, mine: Path) -> None:
    """It stands in the record, in each cell, and in the prompts kept with the run; a visit keeps to it."""
    record = _record(mine)
    assert record.workload.sample_seed == 0
    spec = CellSpec.read(layout.cell_folder(mine, "null.scripted.b1") / layout.SPEC_FILE)
    assert spec.workload == record.workload
    for asked in (("--sample-seed", "1"), ("--sample-order", "dataset")):
        called = drive("--resume", "mine", "--batch-sizes", "2", *asked)
        assert called.code == 2
        assert "order of the prompts is" in called.err
        assert "was shuffled with seed 0" in called.err
    assert "8, shuffled with seed 0; 4 new tokens" in drive("--resume", "mine", "--batch-sizes", "2", "--dry-run").out


@pytest.fixture(scope="module")
def in_order(make_run: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, ``old``, of batch size 1 with the prompts in the dataset's order."""
    root = tmp_path_factory.mktemp("in-order")
    make_run(root, *RUN, "--batch-sizes", "1", "--sample-order", "dataset", "--run-id", "old")
    return root


@pytest.mark.parametrize("suite_kept", [True, False])
def test_a_run_of_before_prompts_were_shuffled_goes_on_in_the_datasets_order(
    drive: Drive, in_order: Path, tmp_path: Path, suite_kept: bool
) -> None:
    shutil.copytree(in_order, tmp_path, dirs_exist_ok=True, symlinks=True)
    run = tmp_path / "results" / "old"
    _edit(run / layout.RUN_FILE, lambda content: content["workload"].pop("sample_seed"))
    _edit(layout.cell_folder(run, "null.scripted.b1") / layout.SPEC_FILE, lambda c: c["workload"].pop("sample_seed"))
    for key in ("sample_order", "sample_seed"):
        _edit(run / layout.SUITE_FILE, lambda content, key=key: content.pop(key))  # type: ignore[misc]
    if not suite_kept:
        (run / layout.SUITE_FILE).unlink()
    called = drive("--resume", "old", "--batch-sizes", "2", *FAST)
    assert called.code == 0, called.err
    assert _record(run).workload.order == "the dataset's own order"
    cells = (CellSpec.read(layout.cell_folder(run, f"null.scripted.b{size}") / layout.SPEC_FILE) for size in (1, 2))
    assert len({spec.workload for spec in cells}) == 1


# --- differences that a test cannot bring about by options ------------------------------------------------------------


def _refusal(run: Path, suite: Suite | None = None, gpus: tuple[GpuInfo, ...] = ()) -> str:
    earlier = Earlier.load(run)
    suite = suite or earlier.suite()
    plan = make_plan(suite.model_copy(update={"batch_sizes": (2,)}), Catalogue(), "cpu")
    plan = plan.resumed(earlier.complete_cells)
    try:
        earlier.require_same_plan(plan, suite, ProcessLauncher(), gpus)
    except BadInput as error:
        return error.cause
    return ""


def test_the_same_on_the_same_machine_is_not_refused(mine: Path) -> None:
    assert _refusal(mine) == ""


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("launcher", "docker", "launcher is process, was docker"),
        ("host", {"cpu": "Other CPU", "cores": 3, "memory_bytes": 1, "system": "s", "python": "3"}, "processor is"),
    ],
)
def test_another_launcher_or_processor_is_refused(mine: Path, key: str, value: object, said: str) -> None:
    _edit(mine / layout.RUN_FILE, lambda content: content.update({key: value}))
    assert said in _refusal(mine)


def test_a_changed_image_is_refused_only_where_it_has_complete_cells(mine: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["visits"][0]["images"]["null"]["recipe"] = "0" * 64

    _edit(mine / layout.RUN_FILE, change)
    assert "image null is made of other files" in _refusal(mine)
    for cell in ("null.scripted.b1", "null.scripted.b4"):
        _end(mine, cell, Outcome.KILLED)
    assert _refusal(mine) == ""


@pytest.mark.parametrize(
    ("card", "refused"),
    [
        (GPU, False),
        (GPU.model_copy(update={"uuid": "GPU-2", "driver_version": "590.1"}), False),
        (GPU.model_copy(update={"uuid": "GPU-2", "memory_bytes": GPU.memory_bytes - 300_000_000}), False),
        (GPU.model_copy(update={"uuid": "GPU-2", "memory_bytes": GPU.memory_bytes // 2}), True),
        (GPU.model_copy(update={"uuid": "GPU-2", "name": "NVIDIA H200"}), True),
    ],
)
def test_another_card_of_the_same_model_is_the_same_machine(mine: Path, card: GpuInfo, refused: bool) -> None:
    _edit(mine / layout.RUN_FILE, lambda content: content.update({"gpus": [GPU.model_dump()]}))
    assert ("GPU is" in _refusal(mine, gpus=(card,))) is refused


def _artifact(digest: str, converter_digest: str, given: str | None = None) -> ArtifactInfo:
    return ArtifactInfo(digest=digest, converter_digest=converter_digest, made_by="x", given=given)


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        (_artifact("a" * 64, "r1"), _artifact("a" * 64, "r2"), True),
        (_artifact("a" * 64, "r1"), _artifact("b" * 64, "r1"), True),
        (_artifact("a" * 64, "r1"), _artifact("b" * 64, "r2"), False),
        (_artifact("a" * 64, "g", "hub"), _artifact("b" * 64, "g", "hub"), False),
        (_artifact("a" * 64, "g", "hub"), _artifact("b" * 64, "r1"), False),
        (None, _artifact("b" * 64, "r1"), False),
    ],
)
def test_an_artifact_is_the_same_by_content_or_by_its_converter(
    mine: Path, then: ArtifactInfo | None, now: ArtifactInfo, same: bool
) -> None:
    for path in mine.glob("cells/*/spec.json"):
        _edit(path, lambda content: content.update({"artifact": "made", "artifact_digest": "a" * 64}))

    def note(content: dict[str, Any]) -> None:
        content["visits"][0]["artifacts"] = {"made": then.model_dump()} if then else {}

    _edit(mine / layout.RUN_FILE, note)
    earlier = Earlier.load(mine)
    visit: VisitInfo = earlier.record.visits[0].model_copy(update={"artifacts": {"made": now}})
    assert (list(earlier._artifacts(visit)) == []) is same


def test_an_image_without_a_recipe_must_be_the_very_same(mine: Path) -> None:
    def strip(content: dict[str, Any]) -> None:
        content["visits"][0]["images"]["null"]["recipe"] = None

    _edit(mine / layout.RUN_FILE, strip)
    earlier = Earlier.load(mine)
    images = earlier.record.visits[0].images
    assert list(earlier._images(images)) == []
    other = {"null": images["null"].model_copy(update={"id": "sha256:other"})}
    assert "is not recorded" in next(iter(earlier._images(other)))


def test_a_folder_that_is_no_run_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no such run"):
        find_run(str(tmp_path / "empty"), tmp_path / "results")


def test_a_folder_whose_name_no_container_can_be_told_is_refused(mine: Path) -> None:
    moved = mine.rename(mine.parent / "My Run")
    with pytest.raises(BadInput, match="is not a run's name"):
        find_run(str(moved), mine.parent)


# --- the control cell -------------------------------------------------------------------------------------------------


def test_every_visit_measures_the_control_first_and_a_stopped_one_again(drive: Drive, tmp_path: Path) -> None:
    control = ("--control", "null.scripted.b4")
    called = drive(*RUN, "--batch-sizes", "1,4", "--run-id", "mine", *control)
    assert called.code == 0, called.err
    run = tmp_path / "results" / "mine"
    assert [cell.cell for cell in _record(run).cells] == ["null.scripted.b1", "null.scripted.b4"]
    assert _record(run).visits[0].cells == ("null.scripted.b4", "null.scripted.b1"), "the control comes first"
    assert "Control cell" not in (run / layout.REPORT_FILE).read_text(encoding="utf-8")
    for number, size in ((2, "2"), (3, "8")):
        assert drive("--resume", "mine", "--batch-sizes", size).code == 0
        again = f"null.scripted.b4.r{number}"
        assert _record(run).visits[-1].cells == (again, f"null.scripted.b{size}")
        assert CellSpec.read(run / "cells" / again / layout.SPEC_FILE).repeat == number
    report = (run / layout.REPORT_FILE).read_text(encoding="utf-8")
    assert report.split("## Batch size 4\n")[1].split("\n## ")[0].count("| null scripted |") == 1
    section = report.split("### Control cell\n")[1].split("\n### ")[0]
    assert [line.split("|")[3].strip() for line in section.splitlines() if "null scripted" in line] == ["1", "2", "3"]
    assert [line.split("|")[4].strip() for line in section.splitlines() if "null scripted" in line] == ["1", "2", "3"]
    assert drive("--resume", "mine").code == 0
    assert len(_record(run).visits) == 3, "a visit for the control alone is none"
    _end(run, "null.scripted.b4.r3", Outcome.KILLED)
    assert drive("--resume", "mine", "--batch-sizes", "3").code == 0
    assert _record(run).visits[-1].cells == ("null.scripted.b4.r3", "null.scripted.b3")
    assert len(Earlier.load(run).complete) == 7


def test_a_call_that_is_stopped_before_it_measures_is_no_visit(
    drive: Drive, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while images are built or the model is prepared: the run is as it was, stopped cells included."""
    _end(mine, "null.scripted.b4", Outcome.KILLED)
    before = _tree(mine)

    def install(self: Provision) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Provision, "install", install)
    assert drive("--resume", "mine").code == 130
    assert _tree(mine) == before
