"""An untouched run verifies; whatever is changed in one is found and named, with its file and cell."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_runs import measured, read_log, write_log

from bench_core.contract.errors import BadInput
from bench_core.contract.records import layout
from bench_core.contract.records.digest import prompts_sha256
from bench_core.contract.records.workload import Workload
from bench_core.report.write.files import write_report
from bench_core.verify.differences import Difference
from bench_core.verify.publish import NotVerified, publish
from bench_core.verify.run import verify_run

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED_WITH_ROOFS = ROOT / "results" / "published" / "2026-11-23-cpu-quality"
ONE, TWO, FAILED, HARNESS = "null.scripted.b1", "null.scripted.b2", "null.scripted.b4", "null.harness.b1"
EVENTS, RESULT, OUTCOME, SPEC = layout.EVENTS_FILE, layout.RESULT_FILE, layout.OUTCOME_FILE, layout.SPEC_FILE
Change = Callable[[Path], None]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as the driver leaves it, through processes: batch sizes 1 and 2 are good, 4 runs out of memory."""
    root = tmp_path_factory.mktemp("real")
    command = [sys.executable, "-m", "bench_core.drive", "--images", "null", "--device", "cpu", "--launcher", "process"]
    command += ["--samples", "8", "--max-new-tokens", "4", "--batch-sizes", "1,2,4", "--run-id", "mine"]
    for word in ("ttft_s=0.002", "tpot_s=0.001", "fail_in=generate", "fail_how=oom", "fail_from_batch_size=4"):
        command += ["--option", f"null.{word}"]
    command += [f"--{name}={root / name}" for name in ("results", "data", "models")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    return root / "results" / "mine"


@pytest.fixture
def mine(real: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(real, tmp_path / "mine"))


def cell_file(run: Path, cell: str, name: str) -> Path:
    return layout.cell_folder(run, cell) / name


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a JSON file in place."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def lines_of(run: Path, cell: str) -> list[dict[str, Any]]:
    return read_log(layout.cell_folder(run, cell))


def write_lines(run: Path, cell: str, lines: list[dict[str, Any]]) -> None:
    write_log(layout.cell_folder(run, cell), lines)


def with_events(cell: str, change: Callable[[list[dict[str, Any]]], None]) -> Change:
    """A change of one cell's log."""

    def apply(run: Path) -> None:
        lines = lines_of(run, cell)
        change(lines)
        write_lines(run, cell, lines)

    return apply


def seal(run: Path, cell: str) -> None:
    """Makes outcome.json name the log that is there now, as somebody would who covers a change up."""
    digest = hashlib.sha256(cell_file(run, cell, EVENTS).read_bytes()).hexdigest()
    edit(cell_file(run, cell, OUTCOME), lambda record: record.update(events_sha256=digest))


def differences(run: Path) -> tuple[Difference, ...]:
    return verify_run(run, published=False).differences


def named(found: tuple[Difference, ...], file: str, cell: str | None, what: str) -> bool:
    """Whether one of them names this file and cell and says this."""
    return any(d.file.startswith(file) and d.cell == cell and re.search(what, d.what) for d in found)


def test_an_untouched_run_verifies_and_nothing_of_it_is_left_unchecked(real: Path) -> None:
    done = verify_run(real)
    assert done.differences == ()
    assert done.not_checked == ()
    assert done.cells == 3 + 2, "the scripted engine's own cells are among them"


# --- tampering with the raw events ------------------------------------------------------------------------------------


def _latency(lines: list[dict[str, Any]]) -> None:
    measured(lines)[1]["latency_s"] *= 0.999


def _token(lines: list[dict[str, Any]]) -> None:
    measured(lines)[1]["outputs"][0][2] ^= 1


def _drop(lines: list[dict[str, Any]]) -> None:
    lines.remove(measured(lines)[-1])


def _drop_inside(lines: list[dict[str, Any]]) -> None:
    lines.remove(measured(lines)[1])


def _duplicate(lines: list[dict[str, Any]]) -> None:
    """A good batch once more at the end, with the next index."""
    last = measured(lines)[-1]
    lines.insert(lines.index(last) + 1, {**measured(lines)[0], "index": last["index"] + 1})


def _reorder(lines: list[dict[str, Any]]) -> None:
    """Two batches change places, times and indices put right."""
    first, second = measured(lines)[:2]
    for key in ("prompts", "prompts_digest", "prompt_tokens", "outputs"):
        first[key], second[key] = second[key], first[key]


def _swap_rows(lines: list[dict[str, Any]]) -> None:
    """Two prompts of one batch change places."""
    batch = measured(lines)[0]
    for key in ("prompts", "prompt_tokens", "outputs"):
        batch[key].reverse()


def _claim(lines: list[dict[str, Any]]) -> None:
    """The log says that the engine got other ids than the workload's."""
    measured(lines)[0]["prompts_digest"] = "0" * 64


def _shorter(lines: list[dict[str, Any]]) -> None:
    """A row of a forced cell lacks its last token."""
    batch = measured(lines)[0]
    batch["outputs"][0].pop()
    batch["arrivals"]["shared"] = False
    rows = len(batch["outputs"])
    offsets = batch["arrivals"]["offsets_us"][0]
    batch["arrivals"]["offsets_us"] = [offsets[: len(batch["outputs"][row])] for row in range(rows)]


def _late(lines: list[dict[str, Any]]) -> None:
    """A batch that begins before the one in front has ended."""
    measured(lines)[1]["started_s"] = measured(lines)[0]["started_s"] + 1e-4


def _memory(lines: list[dict[str, Any]]) -> None:
    """Half of the memory in every sample."""
    for line in lines:
        if line["type"] == "telemetry":
            line["rss_bytes"] = [None if value is None else value // 2 for value in line["rss_bytes"]]


def _mean_work(lines: list[dict[str, Any]]) -> None:
    """The workload is said to hold longer prompts, so that these batches would be the quick ones of it."""
    stop = next(line for line in lines if line["type"] == "stop")
    stop["mean_work"]["longest_prompt_tokens"] *= 2


def _spread(lines: list[dict[str, Any]]) -> None:
    """The workload is said to hold other prompts of the same mean."""
    stop = next(line for line in lines if line["type"] == "stop")
    values = stop["work_spread"]["prompt_tokens"]
    values[0], values[-1] = values[0] - 0.5, values[-1] + 0.5


def _available(lines: list[dict[str, Any]]) -> None:
    """The workload is said to go on."""
    stop = next(line for line in lines if line["type"] == "stop")
    stop["available_batches"] += 1
    stop["reason"] = "max_batches"
    stop["rule"]["max_batches"] = stop["available_batches"] - 1


def _code(lines: list[dict[str, Any]]) -> None:
    lines[0]["harness"] = "0" * 64


# What is found once the digest of the log has been made to fit; `None`: nothing but that digest tells of it.
EVENT_CHANGES: dict[str, tuple[Callable[[list[dict[str, Any]]], None], str, str | None]] = {
    "changed latency": (_latency, RESULT, r"batch_latency_s\.mean is .*, recomputed"),
    "changed output token": (_token, EVENTS, None),
    "dropped last batch": (_drop, EVENTS, "measuring stopped because of workload, and its batches say otherwise"),
    "dropped batch inside": (_drop_inside, EVENTS, "missing or out of order"),
    "duplicated batch": (_duplicate, EVENTS, r"prompts 0 to 1 instead of 8 to 9|begins before"),
    "re-ordered batches": (_reorder, EVENTS, r"measure batch 0: prompts 2 to 3 instead of 0 to 1"),
    "re-ordered prompt": (_swap_rows, EVENTS, r"measure batch 0: prompts 1, 0 are not a batch of the workload"),
    "other ids": (_claim, EVENTS, "ids given to the engine are not those"),
    "a token less": (_shorter, EVENTS, r"measure batch 0: row 0: 3 output tokens instead of exactly 4"),
    "overlapping batches": (_late, EVENTS, r"measure batch 1 begins before measure batch 0 has ended"),
    "halved memory": (_memory, RESULT, r"host_memory\.peak_bytes is"),
    "other mean work": (_mean_work, EVENTS, r"measured for a mean work of .* and the workload's is"),
    "other spread of work": (_spread, EVENTS, "measured for another spread of work than the workload's"),
    "more batches": (_available, EVENTS, r"measured for \d+ full batches, and the workload has \d+"),
    "other code": (_code, EVENTS, "measured by code of digest 000000000000"),
}


@pytest.mark.parametrize("kind", EVENT_CHANGES)
def test_a_change_of_the_raw_events_is_found(mine: Path, kind: str) -> None:
    change, _, _ = EVENT_CHANGES[kind]
    with_events(TWO, change)(mine)
    found = differences(mine)
    assert named(found, f"cells/{TWO}/{EVENTS}", TWO, "is not the log that the worker wrote"), found
    assert {difference.cell for difference in found} == {TWO}, "no other cell is blamed"


@pytest.mark.parametrize("kind", [kind for kind, (_, _, what) in EVENT_CHANGES.items() if what is not None])
def test_it_is_found_as_well_where_the_digest_was_made_to_fit(mine: Path, kind: str) -> None:
    """What the events say must agree with the workload, with themselves and with the result, not only with a digest."""
    change, file, what = EVENT_CHANGES[kind]
    assert what is not None
    with_events(TWO, change)(mine)
    seal(mine, TWO)
    assert named(differences(mine), f"cells/{TWO}/{file}", TWO, what), differences(mine)


def test_a_truncated_log_is_found(mine: Path) -> None:
    path = cell_file(mine, ONE, EVENTS)
    path.write_bytes(path.read_bytes()[:-60])
    assert named(differences(mine), f"cells/{ONE}/{EVENTS}:", ONE, ".")
    seal(mine, ONE)
    assert named(differences(mine), f"cells/{ONE}/{EVENTS}:", ONE, "."), "a digest of half a log does not make it whole"


def test_events_of_another_cell_are_found(mine: Path) -> None:
    shutil.copyfile(cell_file(mine, ONE, EVENTS), cell_file(mine, TWO, EVENTS))
    seal(mine, TWO)
    found = differences(mine)
    assert named(found, f"cells/{TWO}/{EVENTS}", TWO, "1 rows for a batch size of 2")
    assert named(found, f"cells/{TWO}/{EVENTS}", TWO, f"its batches are those of {ONE}")


# --- tampering with records, plan and folders -------------------------------------------------------------------------


def _into(cell: str, name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    return lambda run: edit(cell_file(run, cell, name), change)


def _record(change: Callable[[dict[str, Any]], object]) -> Change:
    return lambda run: edit(run / layout.RUN_FILE, change)


def _throughput(record: dict[str, Any]) -> None:
    record["metrics"]["output_throughput_tok_s"] *= 1.0001


def _another_workload(run: Path) -> None:
    """The prompts kept with the run, two of them exchanged, with a digest that fits."""
    path = run / layout.WORKLOAD_FILE
    content = json.loads(gzip.decompress(path.read_bytes()))
    content["prompts"][:2] = content["prompts"][1::-1]
    content["digest"] = prompts_sha256(content["prompts"])
    path.write_bytes(Workload.model_validate(content).packed())


def _planned_twice(run: Path) -> None:
    edit(run / layout.RUN_FILE, lambda record: record["cells"].append(dict(record["cells"][0])))


def _unplanned(run: Path) -> None:
    shutil.copytree(layout.cell_folder(run, ONE), layout.cell_folder(run, "null.scripted.b8"))


RECORD_CHANGES: dict[str, tuple[Change, str, str | None, str]] = {
    "changed result.json number": (
        _into(TWO, RESULT, _throughput),
        f"cells/{TWO}/{RESULT}",
        TWO,
        r"metrics\.output_throughput_tok_s is .*, recomputed",
    ),
    "changed count in result.json": (
        _into(ONE, RESULT, lambda r: r["metrics"].update(output_tokens=33)),
        f"cells/{ONE}/{RESULT}",
        ONE,
        r"metrics\.output_tokens is 33, recomputed 32",
    ),
    "result.json of a failed cell": (
        lambda run: (cell_file(run, FAILED, RESULT).write_bytes(cell_file(run, ONE, RESULT).read_bytes()), None)[1],
        f"cells/{FAILED}/{RESULT}",
        FAILED,
        "stands beside the outcome oom_kv",
    ),
    "result.json taken away": (
        lambda run: cell_file(run, ONE, RESULT).unlink(),
        f"cells/{ONE}/{RESULT}",
        ONE,
        "missing",
    ),
    "outcome from failed to ok": (
        _into(FAILED, OUTCOME, lambda r: r.update(outcome="ok", cause="")),
        f"cells/{FAILED}/{EVENTS}",
        FAILED,
        "does not end well",
    ),
    "outcome from ok to failed": (
        _into(ONE, OUTCOME, lambda r: r.update(outcome="oom_kv", cause="made up")),
        f"cells/{ONE}/{OUTCOME}",
        ONE,
        "outcome is oom_kv, but the event log ends well",
    ),
    "one failure for another": (
        _into(FAILED, OUTCOME, lambda r: r.update(outcome="timeout")),
        f"cells/{FAILED}/{OUTCOME}",
        FAILED,
        "outcome is timeout, but the event log ends with oom_kv",
    ),
    "artifact digest where none is read": (
        _into(ONE, SPEC, lambda r: r.update(artifact_digest="ab" * 32)),
        f"cells/{ONE}/{SPEC}",
        ONE,
        "artifact_digest is abababababab, but no artifact is read",
    ),
    "model facts": (
        _into(ONE, SPEC, lambda r: r["model"].update(layers=99)),
        f"cells/{ONE}/{SPEC}",
        ONE,
        r"model\.layers is 99",
    ),
    "workload digest in run.json": (
        _record(lambda r: r["workload"].update(digest="0" * 64)),
        layout.WORKLOAD_FILE,
        None,
        "not the workload of run.json",
    ),
    "workload digest in spec.json": (
        _into(ONE, SPEC, lambda r: r["workload"].update(digest="0" * 64)),
        f"cells/{ONE}/{SPEC}",
        ONE,
        "workload is 0000",
    ),
    "other prompts kept": (_another_workload, layout.WORKLOAD_FILE, None, "not the workload of run.json"),
    "damaged prompts": (
        lambda run: (
            (run / layout.WORKLOAD_FILE).write_bytes((run / layout.WORKLOAD_FILE).read_bytes()[:-9]),
            None,
        )[1],
        layout.WORKLOAD_FILE,
        None,
        ".",
    ),
    "image id": (
        _record(lambda r: r["images"]["null"].update(id="sha256:" + "0" * 64)),
        layout.RUN_FILE,
        None,
        "image null is sha256:0000",
    ),
    "image id of a visit": (
        _record(lambda r: r["visits"][0]["images"]["null"].update(id="sha256:" + "0" * 64)),
        layout.RUN_FILE,
        None,
        "in its visits sha256:0000",
    ),
    "code of a visit": (
        _record(lambda r: r["visits"][0].update(harness="0" * 64)),
        f"cells/{ONE}/{EVENTS}",
        ONE,
        "run.json says 000000000000",
    ),
    "cell folder removed": (
        lambda run: shutil.rmtree(layout.cell_folder(run, TWO)),
        f"cells/{TWO}",
        TWO,
        "planned and has no folder",
    ),
    "harness cell removed": (
        lambda run: shutil.rmtree(layout.cell_folder(run, HARNESS)),
        f"cells/{HARNESS}",
        HARNESS,
        "planned and has no folder",
    ),
    "unplanned cell": (_unplanned, "cells/null.scripted.b8", "null.scripted.b8", "not in the plan"),
    "cell planned twice": (_planned_twice, layout.RUN_FILE, None, "planned twice"),
    "cell without a visit": (
        _record(lambda r: r["visits"][0].update(cells=[ONE, FAILED])),
        layout.RUN_FILE,
        TWO,
        "no visit was to measure it",
    ),
    "two logs": (
        lambda run: (
            cell_file(run, ONE, layout.COMPRESSED_EVENTS_FILE).write_bytes(gzip.compress(b"")),
            None,
        )[1],
        f"cells/{ONE}/{layout.COMPRESSED_EVENTS_FILE}",
        ONE,
        "stands beside",
    ),
}


@pytest.mark.parametrize("kind", RECORD_CHANGES)
def test_a_change_of_records_plan_or_folders_is_found(mine: Path, kind: str) -> None:
    change, file, cell, what = RECORD_CHANGES[kind]
    change(mine)
    found = differences(mine)
    assert named(found, file, cell, what), found


def test_a_swapped_artifact_digest_is_found(mine: Path) -> None:
    """The run as if its engine read an artifact that its visit recorded: clean so, and not after an exchange."""
    artifact = {"digest": "ab" * 32, "recipe": "r", "made_by": "null", "given": None}
    edit(mine / layout.RUN_FILE, lambda r: r["visits"][0]["artifacts"].update({"toy-int8": artifact}))
    for cell in (ONE, TWO, FAILED):
        edit(cell_file(mine, cell, SPEC), lambda r: r.update(artifact="toy-int8", artifact_digest="ab" * 32))
    assert differences(mine) == ()
    edit(cell_file(mine, TWO, SPEC), lambda r: r.update(artifact_digest="cd" * 32))
    (found,) = differences(mine)
    assert (found.file, found.cell) == (f"cells/{TWO}/{SPEC}", TWO)
    assert found.what == "artifact_digest of toy-int8 is cdcdcdcdcdcd, its visit read abababababab"


def test_where_no_visit_records_an_artifact_cells_must_agree_on_it(mine: Path) -> None:
    for cell in (ONE, TWO, FAILED):
        edit(cell_file(mine, cell, SPEC), lambda r: r.update(artifact="toy-int8", artifact_digest="ab" * 32))
    done = verify_run(mine, published=False)
    assert done.differences == ()
    assert any("digests of artifacts" in line for line in done.not_checked)
    edit(cell_file(mine, TWO, SPEC), lambda r: r.update(artifact_digest="cd" * 32))
    assert named(differences(mine), f"cells/{TWO}/{SPEC}", TWO, "cells do not agree on it")


# --- tampering with what is published ---------------------------------------------------------------------------------


def _sub(name: str, pattern: str, replacement: str) -> Change:
    def apply(run: Path) -> None:
        text = (run / name).read_text(encoding="utf-8")
        changed = re.sub(pattern, replacement, text, count=1)
        assert changed != text
        (run / name).write_text(changed, encoding="utf-8")

    return apply


def _table_number(run: Path) -> None:
    path = run / layout.TABLE_FILE
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    rows[1]["output_throughput_tok_s"] = "9999.5"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _table_row(run: Path) -> None:
    path = run / layout.TABLE_FILE
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(TWO)), encoding="utf-8")


PUBLISHED_CHANGES: dict[str, tuple[Change, str, str | None, str]] = {
    "changed table.csv number": (
        _table_number,
        f"{layout.TABLE_FILE}:3",
        TWO,
        r"output_throughput_tok_s is 9999\.5, recomputed \d",
    ),
    "row of table.csv taken away": (_table_row, layout.TABLE_FILE, TWO, "line is missing"),
    "changed report.md number": (
        _sub(layout.REPORT_FILE, r"(## Batch size 2\n(?:.*\n)*?\| null scripted \| )0\.0", r"\g<1>0.1"),
        f"{layout.REPORT_FILE}:",
        None,
        r"has .*0\.1.*, recomputed .*0\.0",
    ),
    "changed bound of the suite's own error": (
        _sub(layout.REPORT_FILE, r"at most TTFT [0-9.e-]+ %", "at most TTFT 0.0 %"),
        f"{layout.REPORT_FILE}:",
        None,
        "at most TTFT 0.0 %",
    ),
    "line of report.md taken away": (
        _sub(layout.REPORT_FILE, r"- \*\*Date\*\*.*\n", ""),
        f"{layout.REPORT_FILE}:",
        None,
        "recomputed",
    ),
    "changed report.html number": (
        _sub(layout.PAGE_FILE, r"null scripted", "null promoted"),
        f"{layout.PAGE_FILE}:",
        None,
        "null promoted",
    ),
    "changed figure": (
        _sub(f"{layout.FIGURES_FOLDER}/throughput.svg", r"batch_size: 1; value: [0-9.]+", "batch_size: 1; value: 9e9"),
        f"{layout.FIGURES_FOLDER}/throughput.svg",
        None,
        "value: 9e9",
    ),
    "line of a figure taken away": (
        _sub(f"{layout.FIGURES_FOLDER}/throughput.svg", r'<path [^>]*aria-roledescription="line mark"[^>]*/>', ""),
        f"{layout.FIGURES_FOLDER}/throughput.svg",
        None,
        "its lines are not those of the raw events, among them",
    ),
}


@pytest.mark.parametrize("kind", PUBLISHED_CHANGES)
def test_a_change_of_what_is_published_is_found(mine: Path, kind: str) -> None:
    change, file, cell, what = PUBLISHED_CHANGES[kind]
    change(mine)
    found = verify_run(mine).differences
    assert named(found, file, cell, what), found
    assert {difference.file.split(":")[0] for difference in found} == {file.split(":")[0]}, "and nothing else is"


# --- the command ------------------------------------------------------------------------------------------------------


def verify(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench_core.verify", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_names_each_difference_in_a_line_and_exits_with_1(mine: Path) -> None:
    assert verify(mine).returncode == 0
    with_events(TWO, _latency)(mine)
    _table_number(mine)
    called = verify(mine)
    assert called.returncode == 1
    lines = [line for line in called.stderr.splitlines() if line.startswith("differs: ")]
    assert any(line.startswith(f"differs: cells/{TWO}/{EVENTS}: {TWO}: is not the log") for line in lines)
    assert any(line.startswith(f"differs: {layout.TABLE_FILE}:3: {TWO}: output_throughput") for line in lines)
    told = json.loads(verify(mine, "--json").stdout)
    assert told["agrees"] is False
    assert len(told["differences"]) == len(lines)
    assert {"file", "cell", "what"} == set(told["differences"][0])


def test_what_is_no_run_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / layout.RUN_FILE).write_text("{", encoding="utf-8")
    for name in ("missing", "empty", "damaged"):
        called = verify(tmp_path / name)
        assert called.returncode == 2
        assert called.stderr.startswith("error: ")


# --- publishing -------------------------------------------------------------------------------------------------------


def test_a_published_copy_is_whole_small_and_without_what_is_private(mine: Path, tmp_path: Path) -> None:
    publish(mine, tmp_path / "published")
    names = {p.relative_to(tmp_path / "published").as_posix() for p in (tmp_path / "published").rglob("*")}
    assert f"cells/{ONE}/{layout.COMPRESSED_EVENTS_FILE}" in names
    assert not {name for name in names if name.endswith((layout.LOG_FILE, layout.SUITE_FILE, EVENTS))}
    done = verify_run(tmp_path / "published")
    assert (done.differences, done.not_checked) == ((), ())
    packed = cell_file(tmp_path / "published", ONE, layout.COMPRESSED_EVENTS_FILE).read_bytes()
    assert gzip.decompress(packed) == cell_file(mine, ONE, EVENTS).read_bytes()
    listed = subprocess.run(
        ["sha256sum", "--check", "--strict", layout.DIGESTS_FILE],
        cwd=tmp_path / "published", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr


def test_publishing_twice_gives_the_same_bytes(mine: Path, tmp_path: Path) -> None:
    publish(mine, tmp_path / "a")
    publish(tmp_path / "a", tmp_path / "b")
    trees = [
        {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    ]
    assert trees[0] == trees[1]
    assert trees[0][f"cells/{ONE}/{layout.COMPRESSED_EVENTS_FILE}"][4:8] == bytes(4), "no time of making in it"


def test_what_stands_beside_the_cells_is_published_and_its_change_is_found(mine: Path, tmp_path: Path) -> None:
    """Roofs and figures of others are part of a report; without them a copy's report would be another one."""
    (mine / layout.DEVICE_RATES_FOLDER).mkdir()
    roofs = Path(layout.DEVICE_RATES_FOLDER) / "v1.cpu.json"
    shutil.copyfile(PUBLISHED_WITH_ROOFS / layout.FORMER_DEVICE_RATES_FOLDER / roofs.name, mine / roofs)
    shutil.copyfile(ROOT / "docs" / "study.yaml", mine / layout.BESIDE_FILE)
    write_report(mine)
    folder = tmp_path / "published"
    publish(mine, folder)
    assert (folder / layout.REPORT_FILE).read_bytes() == (mine / layout.REPORT_FILE).read_bytes()
    edit(folder / roofs, lambda record: record.update(threads=3))
    assert named(differences(folder), roofs.as_posix(), None, f"sha256 is .*, {layout.DIGESTS_FILE} has")


def test_a_published_copy_without_prompts_says_what_cannot_be_checked(mine: Path, tmp_path: Path) -> None:
    publish(mine, tmp_path / "published", prompts=False)
    assert not (tmp_path / "published" / layout.WORKLOAD_FILE).exists()
    done = verify_run(tmp_path / "published")
    assert done.differences == ()
    assert any(line.startswith("ids given to the engines") for line in done.not_checked)


def test_a_run_is_published_unfinished_only_if_asked_and_says_so(mine: Path, tmp_path: Path) -> None:
    """What was never reached is told from what was taken away afterwards."""
    shutil.rmtree(layout.cell_folder(mine, ONE))
    with pytest.raises(NotVerified) as refused:
        publish(mine, tmp_path / "whole")
    assert [d.cell for d in refused.value.differences] == [ONE]
    folder = tmp_path / "part"
    publish(mine, folder, unfinished=True)
    done = verify_run(folder)
    assert done.differences == ()
    assert any(line.startswith("planned cells that were not reached") for line in done.not_checked)
    assert "not run" in (folder / layout.REPORT_FILE).read_text(encoding="utf-8")
    shutil.rmtree(layout.cell_folder(folder, TWO))
    assert any(d.cell == TWO and "is missing" in d.what for d in verify_run(folder).differences)


def test_a_change_of_a_published_copy_is_found_by_its_digests(mine: Path, tmp_path: Path) -> None:
    """Even one that is made alike at every place that says it, such as an image's id."""
    folder = tmp_path / "published"
    publish(mine, folder)

    def other_image(record: dict[str, Any]) -> None:
        for images in (record["images"], record["visits"][0]["images"]):
            images["null"]["id"] = "pins:" + "0" * 64

    edit(folder / layout.RUN_FILE, other_image)
    assert named(differences(folder), layout.RUN_FILE, None, f"sha256 is .*, {layout.DIGESTS_FILE} has")
    (layout.cell_folder(folder, ONE) / "notes.txt").write_text("x", encoding="utf-8")
    assert named(differences(folder), f"cells/{ONE}/notes.txt", None, "is not named in")


def test_a_run_that_does_not_verify_is_not_published(mine: Path, tmp_path: Path) -> None:
    with_events(TWO, _latency)(mine)
    with pytest.raises(NotVerified):
        publish(mine, tmp_path / "published")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"], "nothing is left behind"


def test_publishing_by_the_command(mine: Path, tmp_path: Path) -> None:
    def report(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bench_core.report", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = report(mine, "--publish", tmp_path / "there")
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout
    assert report(mine, "--publish", tmp_path / "there").returncode == 2, "an existing folder is never written over"
    assert report(mine, "--without-prompts").returncode == 2


# --- damage of any kind -----------------------------------------------------------------------------------------------


def _damaged(content: bytes, drawn: random.Random) -> bytes:
    """A flipped bit, a cut end, or a number beyond reason in place of another."""
    kind = drawn.randrange(3)
    if kind == 0:
        at = drawn.randrange(len(content))
        return content[:at] + bytes([content[at] ^ (1 << drawn.randrange(8))]) + content[at + 1 :]
    numbers = list(re.finditer(rb"\d+", content))
    if kind == 1 or not numbers:
        return content[: drawn.randrange(len(content))]
    number = drawn.choice(numbers)
    word = drawn.choice(
        [b"9" * 400, b"-1", b"1e308", b"1e-320", b"12345678901234567890", b"9223372036854775808", b"NaN", b"9" * 5000]
    )
    return content[: number.start()] + word + content[number.end() :]


def test_no_damage_makes_the_verification_itself_fail(mine: Path) -> None:
    """It answers with differences or refuses the run as bad input, whatever stands in a file."""
    drawn = random.Random(20261123)  # noqa: S311  # damage, not secrets
    raw = [mine / layout.RUN_FILE, mine / layout.WORKLOAD_FILE]
    raw += [path for path in sorted((mine / layout.CELLS_FOLDER).rglob("*")) if path.name != layout.LOG_FILE]
    files = [path for path in raw if path.is_file()]
    logs_found = logs = 0
    for _ in range(80):
        path = drawn.choice(files)
        content = path.read_bytes()
        path.write_bytes(_damaged(content, drawn))
        changed = path.read_bytes() != content
        try:
            found = differences(mine)
        except BadInput:
            assert path.name == layout.RUN_FILE
            found = ()
        if path.name == EVENTS and changed:
            logs += 1
            logs_found += bool(found)
        path.write_bytes(content)
    assert logs_found == logs > 10, "every change of a log is found"
    assert differences(mine) == ()


def test_a_link_out_of_the_run_is_not_followed(mine: Path, tmp_path: Path) -> None:
    for name in (f"cells/{ONE}/{RESULT}", layout.WORKLOAD_FILE):
        outside = tmp_path / Path(name).name
        (mine / name).rename(outside)
        (mine / name).symlink_to(outside)
    found = differences(mine)
    assert named(found, f"cells/{ONE}/{RESULT}", ONE, "a link that leaves the run's folder")
    assert named(found, layout.WORKLOAD_FILE, None, "a link that leaves the run's folder")
