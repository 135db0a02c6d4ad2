"""Every cell that was reached ends with one verdict, whoever could still speak."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench_core.contract.records import layout
from bench_core.contract.records.events import TelemetryEvent
from bench_core.contract.records.outcome import EXIT_MACHINE, MemoryEvidence, Outcome, Verdict
from bench_core.drive.launch.launcher import Ended
from bench_core.drive.run.collect import judge, read_verdict, write_record

CELLS = ["null.scripted.b1", "null.scripted.b4", "null.scripted.b16"]


def _ended(code: int, *, oom: bool = False, said: str = "") -> Ended:
    return Ended(code, oom, said, 0.0, 1.0)


def _tell(run: Path, cell: str, outcome: Outcome, *, result: bool = False) -> None:
    folder = layout.cell_folder(run, cell)
    folder.mkdir(parents=True)
    write_record(folder / layout.OUTCOME_FILE, Verdict(outcome=outcome, judged_by="worker"))
    if result:
        (folder / layout.RESULT_FILE).write_text("{}", encoding="utf-8")


def test_who_ends_a_box_by_asking_twice_has_interrupted_it(tmp_path: Path) -> None:
    layout.cell_folder(tmp_path, CELLS[0]).mkdir(parents=True)
    (verdict,) = judge(tmp_path, CELLS, _ended(137), interrupted=True).values()
    assert (verdict.outcome, verdict.outcome.is_of_the_cell) == (Outcome.KILLED, False)
    assert verdict.cause.startswith("interrupted: somebody asked twice to stop")
    assert judge(tmp_path, CELLS[1:], _ended(137), interrupted=True) == {}, "what was not begun is still to come"


def test_a_failure_of_the_machine_is_no_verdict_on_any_cell(tmp_path: Path) -> None:
    _tell(tmp_path, CELLS[0], Outcome.OK, result=True)
    layout.cell_folder(tmp_path, CELLS[1]).mkdir()
    assert set(judge(tmp_path, CELLS, _ended(EXIT_MACHINE, said="error: no GPU answers\n"))) == {CELLS[0]}
    assert not (layout.cell_folder(tmp_path, CELLS[1]) / layout.OUTCOME_FILE).exists()
    assert not layout.cell_folder(tmp_path, CELLS[2]).exists()


def test_the_workers_verdicts_stand(tmp_path: Path) -> None:
    for cell in CELLS:
        _tell(tmp_path, cell, Outcome.OK, result=True)
    assert [v.outcome for v in judge(tmp_path, CELLS, _ended(0)).values()] == [Outcome.OK] * 3


def test_ok_without_a_result_is_no_verdict(tmp_path: Path) -> None:
    _tell(tmp_path, CELLS[0], Outcome.OK)
    assert read_verdict(tmp_path, CELLS[0]) is None


def test_a_truncated_verdict_is_none(tmp_path: Path) -> None:
    _tell(tmp_path, CELLS[0], Outcome.OK, result=True)
    path = layout.cell_folder(tmp_path, CELLS[0]) / layout.OUTCOME_FILE
    path.write_text(path.read_text(encoding="utf-8")[:20], encoding="utf-8")
    assert read_verdict(tmp_path, CELLS[0]) is None


@pytest.mark.parametrize(
    ("ended", "outcome", "cause"),
    [
        (_ended(137, oom=True), Outcome.OOM_KV, "memory limit"),
        (_ended(137), Outcome.KILLED, "from outside"),
        (_ended(-9), Outcome.KILLED, "from outside"),
        (_ended(139), Outcome.CRASHED, "139"),
        (_ended(0), Outcome.CRASHED, "left no verdict"),
        (_ended(2, said="noise\nerror: no such thing\nhint: look\n"), Outcome.BAD_SPEC, "no such thing"),
    ],
)
def test_a_box_that_died_is_judged_from_outside(tmp_path: Path, ended: Ended, outcome: Outcome, cause: str) -> None:
    """Only the cell in hand is charged; the cells after it are left to a fresh box."""
    _tell(tmp_path, CELLS[0], Outcome.OK, result=True)
    layout.cell_folder(tmp_path, CELLS[1]).mkdir()
    verdicts = judge(tmp_path, CELLS, ended)
    assert list(verdicts) == CELLS[:2]
    assert verdicts[CELLS[1]].outcome is outcome
    assert cause in verdicts[CELLS[1]].cause
    assert verdicts[CELLS[1]].judged_by == "driver"
    assert read_verdict(tmp_path, CELLS[1]) == verdicts[CELLS[1]]
    assert (layout.cell_folder(tmp_path, CELLS[1]) / layout.LOG_FILE).is_file()


def test_a_box_at_its_memory_limit_tells_what_was_sampled_last(tmp_path: Path) -> None:
    """The supervisor was ended as well: samples up to the last whole line are what is known of memory at death."""
    folder = layout.cell_folder(tmp_path, CELLS[0])
    folder.mkdir(parents=True)
    lines = [
        TelemetryEvent(t_s=(1.0, 2.0), rss_bytes=(10, 70), device_used_bytes=(5, 6)),
        TelemetryEvent(t_s=(3.0, 4.0), rss_bytes=(50, None), device_used_bytes=(9, 8)),
    ]
    text = "".join(line.model_dump_json() + "\n" for line in lines)
    (folder / layout.EVENTS_FILE).write_text(text + '{"type": "telem', encoding="utf-8")
    verdict = judge(tmp_path, CELLS, _ended(137, oom=True, said="a\nlast words\n"))[CELLS[0]]
    assert (verdict.outcome, verdict.exit_code) == (Outcome.OOM_KV, 137)
    assert MemoryEvidence.of(verdict.evidence) == MemoryEvidence(50, 70, 8, 9)
    assert verdict.evidence["last_line"] == "last words"


def test_a_box_at_its_memory_limit_before_any_cell_was_loading(tmp_path: Path) -> None:
    verdicts = judge(tmp_path, CELLS, _ended(137, oom=True))
    assert {(v.outcome, v.exit_code) for v in verdicts.values()} == {(Outcome.OOM_LOAD, 137)}


def test_a_box_that_never_began_is_the_end_of_all_its_cells(tmp_path: Path) -> None:
    verdicts = judge(tmp_path, CELLS, _ended(125))
    assert list(verdicts) == CELLS
    assert {v.outcome for v in verdicts.values()} == {Outcome.CRASHED}
