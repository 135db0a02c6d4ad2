"""What a run's folder holds reaches the report as it is, or as a row that says what is wrong with it."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import CT2, FP32, SEQUENTIAL, VLLM, Method, Script, cell_path, write_run

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.outcome import INTERRUPTED, Outcome, Verdict
from bench_core.contract.records.run import RunRecord
from bench_core.report.write.files import write_report
from bench_core.runs.load import load_run
from bench_core.runs.view import Row
from bench_core.system.files import write_text


def _edit_line(path: Path, number: int, edit: Callable[[str], str]) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = edit(lines[number - 1])
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")


def _only(folder: Path) -> Row:
    (row,) = load_run(folder).rows
    return row


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A run of one good cell."""
    return write_run(tmp_path, Script((VLLM,), batch_sizes=(4,)))


def _events(run: Path) -> Path:
    return cell_path(run, VLLM, 4) / layout.EVENTS_FILE


@pytest.mark.parametrize("method", [VLLM, CT2, SEQUENTIAL, FP32], ids=lambda method: method.image)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_numbers_are_those_that_the_script_implies(tmp_path: Path, method: Method, batch_size: int) -> None:
    """Throughput, latency, TTFT, TPOT and memory equal what the script's formulas give on paper."""
    script = Script((method,), batch_sizes=(batch_size,), new_tokens=20, batches=8)
    row = _only(write_run(tmp_path, script))
    assert row.result is not None
    metrics = row.result.metrics
    latency_s = method.latency_s(batch_size, 20)
    assert metrics.batches == 8
    assert metrics.warmup_batches == 1
    assert metrics.batch_latency_s.mean == pytest.approx(latency_s, rel=1e-9)
    assert metrics.output_tokens_per_batch == 20 * batch_size
    assert metrics.output_throughput_tok_s == pytest.approx(20 * batch_size / latency_s, rel=1e-9)
    if method is SEQUENTIAL:
        assert metrics.ttft_s is None
        assert metrics.tpot_s is None
    else:
        growth = 1 + method.per_prompt * (batch_size - 1)
        assert metrics.ttft_s is not None
        assert metrics.tpot_s is not None
        assert metrics.ttft_s.mean == pytest.approx(method.ttft_s * growth, abs=1e-6)
        assert metrics.tpot_s.mean == pytest.approx(method.tpot_s * growth, abs=1e-6)
    assert metrics.device_memory is not None
    assert metrics.device_memory.peak_bytes == method.device_bytes(batch_size)


def test_rows_keep_the_order_of_the_plan(tmp_path: Path) -> None:
    """The plan decides the order, not the folder's listing."""
    run = write_run(tmp_path, Script((VLLM, CT2, FP32), batch_sizes=(4, 1)))
    assert [row.planned.cell for row in load_run(run).rows] == [
        "vllm.fp16.b4",
        "vllm.fp16.b1",
        "ctranslate2.int8_float16.b4",
        "ctranslate2.int8_float16.b1",
        "transformers.fp32.b4",
        "transformers.fp32.b1",
    ]


def test_result_json_is_not_believed(one: Path) -> None:
    """A number comes from the events, whatever result.json says."""
    before = _only(one)
    (cell_path(one, VLLM, 4) / layout.RESULT_FILE).write_text('{"metrics": {"output_throughput_tok_s": 1e9}}')
    assert _only(one) == before


def test_compressed_events_give_the_same_row(tmp_path: Path) -> None:
    """events.jsonl.gz stands for events.jsonl."""
    script = Script((VLLM, CT2), batch_sizes=(1, 4))
    plain = load_run(write_run(tmp_path / "plain", script))
    packed_run = write_run(tmp_path / "packed", script, compressed=True)
    assert not list(packed_run.rglob(layout.EVENTS_FILE))
    assert load_run(packed_run) == plain


def test_truncated_compressed_events_are_damage(tmp_path: Path) -> None:
    """A cut .gz is a damaged cell, not a crash and not a shorter measurement."""
    run = write_run(tmp_path, Script((VLLM,), batch_sizes=(4,)), compressed=True)
    packed = cell_path(run, VLLM, 4) / f"{layout.EVENTS_FILE}.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    row = _only(run)
    assert row.status == "damaged"
    assert row.result is None
    packed.write_bytes(b"not gzip at all")
    assert _only(run).status == "damaged"


def test_a_cell_without_a_folder_or_outcome_is_not_run(tmp_path: Path) -> None:
    """Never reached, or cut off: both are rows, without a number."""
    method = replace(VLLM, unreached=(1,))
    run = write_run(tmp_path, Script((method,), batch_sizes=(1, 4)))
    (cell_path(run, method, 4) / layout.OUTCOME_FILE).unlink()
    rows = load_run(run).rows
    assert [row.status for row in rows] == ["not run", "not run"]
    assert all(row.result is None and row.problem for row in rows)


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.OK])
def test_an_outcome_stands_with_its_cause(tmp_path: Path, outcome: Outcome) -> None:
    """Every way to fail is shown as itself, and no number beside it."""
    method = replace(VLLM, dies={4: (outcome, "the cause of it")})
    row = _only(write_run(tmp_path, Script((method,), batch_sizes=(4,))))
    assert (row.status, row.problem, row.result) == (outcome.value, "the cause of it", None)


@pytest.mark.parametrize(
    ("cause", "phase", "status", "problem"),
    [
        ("stopped on request", None, "not run", "the run was stopped before this cell was begun"),
        ("stopped on request", "load", "stopped", "on request"),
        ("stopped on request after the batch in hand", "measure", "stopped", "on request after the batch in hand"),
        (INTERRUPTED, None, "stopped", INTERRUPTED),
        (
            "ended from outside by SIGKILL",
            "measure",
            "killed",
            "ended from outside by SIGKILL",
        ),
    ],
)
def test_a_stop_that_was_asked_for_is_no_failure(
    tmp_path: Path, cause: str, phase: str | None, status: str, problem: str
) -> None:
    """Files of any age say ``killed``; what the cell shows goes by who wished it, and when."""
    run = write_run(tmp_path, Script((replace(VLLM, dies={4: (Outcome.KILLED, cause)}), CT2), batch_sizes=(4,)))
    verdict = Verdict(outcome=Outcome.KILLED, cause=cause, phase=phase, judged_by="worker")
    write_text(cell_path(run, VLLM, 4) / layout.OUTCOME_FILE, verdict.model_dump_json())
    row, other = load_run(run).rows
    assert (row.status, row.problem, row.complete, row.pending) == (status, problem, False, status != "killed")
    assert (other.status, other.pending) == ("ok", False)
    text = write_report(run).markdown.read_text()
    pending = "1 of 2 measured; 1 not measured yet, --resume measures it\n"
    assert (pending in text) is (status != "killed")
    assert ("1 of 2 measured; the others are below\n" in text) is (status == "killed")
    assert ("judged by the worker" in text) is (status != "not run"), "nobody judged a cell that was not begun"
    assert ("| killed |" in text) is (status == "killed")


def test_a_failed_cell_needs_no_whole_events(tmp_path: Path) -> None:
    """The event log of a cell that died may be cut anywhere: its outcome is what counts."""
    method = replace(VLLM, dies={4: (Outcome.KILLED, "signal 9")})
    run = write_run(tmp_path, Script((method,), batch_sizes=(4,)))
    _events(run).write_text('{"type": "star')
    assert _only(run).status == "killed"


def _without(key: str) -> Callable[[str], str]:
    def edit(line: str) -> str:
        content = json.loads(line)
        del content[key]
        return json.dumps(content)

    return edit


@pytest.mark.parametrize(
    ("number", "edit"),
    [
        (6, lambda line: line[: len(line) // 2]),
        (7, lambda line: ""),
        (10, _without("latency_s")),
        (10, lambda line: line.replace('"type":"batch"', '"type":"batsch"')),
        (3, lambda line: "[" * 100_000),
        (3, lambda line: line.replace("load", "lo\udcffd")),
    ],
    ids=["cut", "empty", "key missing", "unknown type", "deeply nested", "not UTF-8"],
)
def test_damage_is_named_with_its_line(tmp_path: Path, number: int, edit: Callable[[str], str]) -> None:
    """One broken line costs its own cell only, and the row says which line."""
    run = write_run(tmp_path, Script((VLLM, CT2), batch_sizes=(4,)))
    _edit_line(_events(run), number, edit)
    broken, whole = load_run(run).rows
    assert broken.status == "damaged"
    assert broken.damage is not None
    assert broken.damage.where == f"events.jsonl:{number}"
    assert broken.result is None
    assert whole.status == "ok"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"index":2', '"index":3'),
        ('"outcome":"ok"', '"outcome":"crashed"'),
        ('"offsets_us":[[', '"offsets_us":[[' + "9" * 400 + ","),
    ],
)
def test_no_number_comes_from_events_that_carry_none(one: Path, old: str, new: str) -> None:
    """Infinite times, missing batches, a bad end: damage, never a number and never a traceback."""
    text = _events(one).read_text(encoding="utf-8")
    assert old in text
    _events(one).write_text(text.replace(old, new), encoding="utf-8")
    row = _only(one)
    assert row.status == "damaged"
    assert row.damage is not None
    assert row.damage.where.startswith("events.jsonl")


@pytest.mark.parametrize("infinity", ["Infinity", "1e400"])
@pytest.mark.parametrize("key", ["latency_s", "started_s", "duration_s"])
def test_an_infinite_time_is_damage(one: Path, key: str, infinity: str) -> None:
    """JSON as Python writes it knows Infinity; whether or not the event's own checks pass it, no row prints it."""
    text = _events(one).read_text(encoding="utf-8")
    changed = re.sub(rf'"{key}":[0-9.]+', f'"{key}":{infinity}', text)
    assert changed != text
    _events(one).write_text(changed, encoding="utf-8")
    assert _only(one).status == "damaged"


def test_a_number_beyond_all_measure_is_damage(one: Path) -> None:
    """An integer of 400 digits divides by nothing: damage where a cell holds it, bad input where the run does."""
    text = _events(one).read_text(encoding="utf-8")
    _events(one).write_text(re.sub(r'"rss_bytes":\[\d+', '"rss_bytes":[' + "9" * 400, text), encoding="utf-8")
    assert _only(one).status == "damaged"
    record = one / layout.RUN_FILE
    record.write_text(re.sub(r'"memory_bytes": \d+', '"memory_bytes": ' + "9" * 400, record.read_text()))
    with pytest.raises(BadInput):
        load_run(one)


def test_a_cell_that_may_not_be_read_is_damage(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused file costs its own cell, not the report."""

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    record = RunRecord.read(one / layout.RUN_FILE)
    monkeypatch.setattr(RunRecord, "read", lambda path: record)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert _only(one).problem == "spec.json: Permission denied"


def test_a_missing_last_batch_line_at_the_end_is_damage(one: Path) -> None:
    """A log cut between two lines lacks its end, so it cannot pass for a shorter measurement."""
    lines = _events(one).read_text(encoding="utf-8").splitlines()
    _events(one).write_text("\n".join(lines[:-3]) + "\n", encoding="utf-8")
    assert _only(one).problem == "events.jsonl: the event log does not end well"


def test_missing_events_of_a_good_cell_are_damage(one: Path) -> None:
    """An outcome ok alone is no measurement."""
    _events(one).unlink()
    assert _only(one).problem == "events.jsonl: the file is missing"


@pytest.mark.parametrize(
    ("file", "content"),
    [(layout.SPEC_FILE, "{"), (layout.OUTCOME_FILE, '{"outcome": "splendid", "judged_by": "worker"}')],
)
def test_a_damaged_record_is_damage(one: Path, file: str, content: str) -> None:
    """spec.json and outcome.json are checked like the events."""
    (cell_path(one, VLLM, 4) / file).write_text(content)
    row = _only(one)
    assert row.status == "damaged"
    assert row.problem.startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("key", "value"), [("max_new_tokens", 7), ("length", "natural"), ("variant", "gptq"), ("device", "cpu")]
)
def test_a_cell_of_other_work_has_no_place_in_the_table(one: Path, key: str, value: object) -> None:
    """Rows of a table did equal work: a spec that differs from the run's is damage."""
    path = cell_path(one, VLLM, 4) / layout.SPEC_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    row = _only(one)
    assert row.status == "damaged"
    assert row.problem.startswith("spec.json: ")


def test_a_link_out_of_the_run_is_not_followed(one: Path, tmp_path: Path) -> None:
    """A report reads its run and nothing else."""
    outside = tmp_path / "outside.jsonl"
    _events(one).rename(outside)
    _events(one).symlink_to(outside)
    assert _only(one).problem == "events.jsonl: a link that leaves the run's folder"


def test_a_pipe_is_not_waited_for(one: Path) -> None:
    """A named pipe in place of a file would hang the report for ever."""
    _events(one).unlink()
    os.mkfifo(_events(one))
    assert _only(one).problem == "events.jsonl: not a regular file"


def _change_plan(run: Path, change: Callable[[list[dict[str, object]]], object]) -> None:
    path = run / layout.RUN_FILE
    record = json.loads(path.read_text())
    change(record["cells"])
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "change",
    [
        lambda cells: cells[0].update(cell="../../../etc.x.b4"),
        lambda cells: cells[0].update(image="..", cell="...fp16.b4"),
        lambda cells: cells[0].update(batch_size=0, cell="vllm.fp16.b0"),
        lambda cells: cells.append(dict(cells[0])),
        lambda cells: cells.clear(),
    ],
    ids=["other name", "dots", "batch size 0", "twice", "empty"],
)
def test_a_plan_that_cannot_be_is_refused(one: Path, change: Callable[[list[dict[str, object]]], object]) -> None:
    """A cell's name becomes a path, so it must be the one its parts make."""
    _change_plan(one, change)
    with pytest.raises(BadInput):
        load_run(one)


def test_what_is_not_a_run_is_refused_with_a_hint(tmp_path: Path) -> None:
    """No folder, no run.json, a damaged one: one line each, and what a run is."""
    (tmp_path / "empty").mkdir()
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / layout.RUN_FILE).write_text("{}")
    for folder in ("missing", "empty", "damaged"):
        with pytest.raises(BadInput) as caught:
            load_run(tmp_path / folder)
        assert caught.value.hint
        assert "\n" not in caught.value.cause


def test_compressed_and_plain_prefer_the_plain_one(one: Path) -> None:
    """Where both lie there, the log that the worker wrote counts."""
    (cell_path(one, VLLM, 4) / f"{layout.EVENTS_FILE}.gz").write_bytes(gzip.compress(b"{}"))
    assert _only(one).status == "ok"
