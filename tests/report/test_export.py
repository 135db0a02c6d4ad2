"""A run for other programs: the same rows in every format, documented, and safe whatever they hold."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pandas
import pytest
from pyarrow import parquet  # type: ignore[import-untyped]
from report_runs import CT2, SEQUENTIAL, VLLM, Script, write_run
from serving_runs import FAST, LoadScript, write_loaded
from test_report_written import MIXED
from typer.testing import CliRunner

from bench_core.contract.errors import BadInput
from bench_core.contract.records.outcome import Outcome
from bench_core.drive.schema import schema_text
from bench_core.report.cli import app
from bench_core.report.export.about import VERSION
from bench_core.report.export.schema import Export
from bench_core.report.export.tables import UNITS, Field, batch_fields, cell_fields, plain, request_fields
from bench_core.report.export.write import FORMATS, JSON_FILE, LLM_D_FOLDER, export, formats_of
from bench_core.report.format import csv_text

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results" / "published"
SCHEMA = ROOT / "docs" / "schema" / "export.schema.json"
PAGE = ROOT / "docs" / "export.md"

# Numbers without a unit: counts, shares and ratios, perplexity's parts and seeds.
PLAIN_NUMBER = re.compile(
    r"batch_size|concurrency|repeat|visit|rows|batches|index|_values$|_tokens$|^tokens|requests_|_prompts$|gaps|"
    r"_prefix$|_rows_|_rows$|precision|share_|attainment|utilisation|throttled|m[bf]u$|_relative_|explained_by|p_value|"
    r"bits_per_weight|schema_version|in_flight|_positions$|_seed$|^(batch|request|process|prompt|first_prompt)$|"
    r"http_status|output_tokens_per_batch|^gpus$"
)


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported run of closed batches, some of which failed."""
    home = tmp_path_factory.mktemp("offline")
    export(write_run(home, MIXED), home / "export")
    return home / "export"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported run of cells under load."""
    home = tmp_path_factory.mktemp("loaded")
    export(write_loaded(home), home / "export")
    return home / "export"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published run under load on an H200, exported."""
    home = tmp_path_factory.mktemp("published")
    export(PUBLISHED / "h200-serving", home)
    return home


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(folder / f"{name}.parquet").to_pylist()
    return found


def csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True))


def without_nothing(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


@pytest.mark.parametrize(
    "fields", [cell_fields(), batch_fields(), request_fields()], ids=["cells", "batches", "requests"]
)
def test_every_column_has_a_type_and_every_number_its_unit_in_its_name(fields: tuple[Field, ...]) -> None:
    names = [field.name for field in fields]
    assert len(set(names)) == len(names)
    for field in fields:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", field.name)
        assert field.kind in (str, int, float, bool)
        if field.kind in (int, float):
            assert bool(field.unit) != bool(PLAIN_NUMBER.search(field.name)), field.name
    assert {field.unit for field in cell_fields()} <= {*UNITS.values(), ""}


def test_ends_of_intervals_say_what_they_are_of() -> None:
    fields = {field.name: field for field in cell_fields()}
    ends = [name for name in fields if "_low" in name]
    assert len(ends) > 20
    for name in ends:
        assert name.replace("_low", "_high") in fields
        assert fields[name].meaning.startswith("lower end of the 95 % interval of ")


@pytest.mark.parametrize("which", ["offline", "loaded"])
def test_every_format_has_the_same_rows(which: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(which)
    whole = json.loads((folder / JSON_FILE).read_text())
    names = ["cells", "batches" if which == "offline" else "requests"]
    assert sorted(path.name for path in folder.glob("*.parquet")) == sorted(f"{name}.parquet" for name in names)
    for name in names:
        rows = rows_of(folder, name)
        assert rows
        assert whole[name] == [without_nothing(row) for row in rows]
        for row, text in zip(rows, csv_rows(folder / f"{name}.csv"), strict=True):
            for column, value in row.items():
                expected = "" if value is None else csv_text(value) if isinstance(value, str) else str(value)
                assert text[column] == expected


@pytest.mark.parametrize(("run", "table"), [("2026-11-23-cpu-quality", "table.csv"), ("h200-serving", "serving.csv")])
def test_numbers_are_those_of_the_reports_own_tables(
    tmp_path: Path, run: str, table: str, request: pytest.FixtureRequest
) -> None:
    """One declaration: a column of the report's CSV has its name, its place and its value in the export."""
    if run == "h200-serving":
        folder: Path = request.getfixturevalue("published")
    else:
        folder = tmp_path
        export(PUBLISHED / run, folder, ("csv",))
    mine = csv_rows(folder / "cells.csv")
    theirs = csv_rows(PUBLISHED / run / table)
    assert len(theirs) == len(mine) > 3
    for ours, other in zip(mine, theirs, strict=True):
        for name, text in other.items():
            if name not in ours:
                raise AssertionError(f"{name} is not exported")
            assert ours[name] == text or math.isclose(float(ours[name]), float(text)), name


def test_a_cell_s_numbers_follow_from_its_batches(offline: Path) -> None:
    cells = {row["cell"]: row for row in rows_of(offline, "cells")}
    batches = rows_of(offline, "batches")
    measured = [row for row in batches if row["phase"] == "measure"]
    assert {row["cell"] for row in measured} == {name for name, row in cells.items() if row["outcome"] == "ok"}
    for name in {row["cell"] for row in measured}:
        own = [row for row in measured if row["cell"] == name]
        assert len(own) == cells[name]["batches"]
        tokens, seconds = sum(row["output_tokens"] for row in own), sum(row["latency_s"] for row in own)
        assert tokens == cells[name]["output_tokens"]
        assert tokens / seconds == pytest.approx(cells[name]["output_throughput_tok_s"])
        assert all(
            row["output_throughput_tok_s"] == pytest.approx(row["output_tokens"] / row["latency_s"]) for row in own
        )
        told = [row["ttft_mean_s"] for row in own if row["ttft_mean_s"] is not None]
        if len(told) == len(own):
            assert sum(told) / len(told) == pytest.approx(cells[name]["ttft_mean_s"])
    assert any(row["phase"] == "warmup" for row in batches)


def test_a_cell_s_numbers_follow_from_its_requests(published: Path) -> None:
    cells = {row["cell"]: row for row in rows_of(published, "cells")}
    requests = pandas.read_parquet(published / "requests.parquet")
    for name, cell in cells.items():
        own = requests[(requests.cell == name) & requests.in_window]
        assert len(own) == cell["requests_scheduled"]
        answered = own[own.outcome == "ok"]
        assert len(answered) == cell["requests_ok"]
        assert answered.ttft_s.median() == pytest.approx(cell["ttft_p50_s"])
        assert answered.tpot_s.mean() == pytest.approx(cell["tpot_mean_s"])
        assert answered.e2e_s.max() == pytest.approx(cell["e2e_max_s"])


def test_every_row_says_what_it_is_of(published: Path) -> None:
    for row in rows_of(published, "cells"):
        assert row["schema_version"] == VERSION
        assert (row["run_id"], row["gpu"], row["driver_version"]) == ("serving", "NVIDIA H200", "580.159.04")
        assert (row["engine"], row["engine_version"]) == ("vllm", "0.26.0")
        assert row["outcome"] == "ok"
        assert len(row["workload_digest"]) == len(row["model_digest"]) == 64
        assert json.loads(row["versions"])["torch"] == "2.11.0"


def test_a_cell_without_numbers_has_its_outcome_and_cause(offline: Path) -> None:
    cells = {row["cell"]: row for row in rows_of(offline, "cells")}
    failed = [row for row in cells.values() if row["outcome"] != "ok"]
    assert {row["outcome"] for row in failed} == {"oom_load", "not run"}
    for row in failed:
        assert row["cause"]
        assert not row["ranked"]
        assert row["output_throughput_tok_s"] is None


def test_the_json_is_what_its_schema_says(offline: Path, loaded: Path) -> None:
    schema = json.loads(SCHEMA.read_text())
    for folder in (offline, loaded):
        text = (folder / JSON_FILE).read_text()
        jsonschema.validate(json.loads(text), schema)
        assert Export.model_validate_json(text).schema_version == VERSION
    wrong = json.loads(text)
    wrong["cells"][0]["ttft_p50_s"] = "fast"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_the_schema_has_every_column_with_its_unit() -> None:
    schema = json.loads(schema_text(SCHEMA))
    for name, fields in (("Cells", cell_fields()), ("Batches", batch_fields()), ("Requests", request_fields())):
        properties = schema["$defs"][name]["properties"]
        assert list(properties) == [field.name for field in fields]
        assert all(properties[field.name].get("unit", "") == field.unit for field in fields)
    assert schema["properties"]["schema_version"]["const"] == VERSION


def test_parquet_says_its_version_and_its_units(loaded: Path) -> None:
    schema = parquet.read_schema(loaded / "cells.parquet")
    assert schema.metadata[b"llm_bench.schema_version"] == str(VERSION).encode()
    assert schema.field("ttft_p50_s").metadata[b"unit"] == b"s"
    assert b"median time to first token" in schema.field("ttft_p50_s").metadata[b"meaning"]


# Each is harmless in no naive CSV.
HOSTILE = (
    '=HYPERLINK("http://x","y")',
    "a,b",
    'say "no"',
    "two\nlines\r\nmore",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\ud800",
    "\x00",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_one_field_and_no_formula(tmp_path: Path, text: str) -> None:
    bad = replace(
        VLLM,
        label=text.encode("utf-8", "replace").decode(),
        facts={"a": text.encode("utf-8", "replace").decode()},
        dies={4: (Outcome.CRASHED, text.encode("utf-8", "replace").decode())},
    )
    export(write_run(tmp_path, replace(MIXED, methods=(bad, CT2))), tmp_path / "out")
    rows = csv_rows(tmp_path / "out" / "cells.csv")
    assert len(rows) == 4
    for row in rows:
        assert None not in row
        assert None not in row.values()
        assert row["image"] in ("vllm", "ctranslate2")
        for name, value in row.items():
            assert "\n" not in value
            assert not value.startswith(("=", "+", "@", "\t"))
            assert not value.startswith("-") or float(value) < 0, name
    pages = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").glob("*.csv")]
    assert all("\r" not in page and "\x00" not in page for page in pages)
    assert rows_of(tmp_path / "out", "cells")[0]["method"] == plain(bad.label, str)


def test_numbers_that_are_none_are_left_out() -> None:
    assert [plain(value, float) for value in (math.inf, math.nan, 1)] == [None, None, 1.0]
    assert plain("a\ud800b\n", str) == "a b"


# --- llm-d ------------------------------------------------------------------------------------------------------------

NEEDS_311 = pytest.mark.skipif(sys.version_info < (3, 11), reason="llmd-benchmark-report needs Python 3.11")


@NEEDS_311
@pytest.mark.parametrize("which", ["loaded", "published"])
def test_llm_d_s_own_model_takes_our_report(which: str, request: pytest.FixtureRequest) -> None:
    from llmd_benchmark_report import BenchmarkReportV021, load_benchmark_report

    folder: Path = request.getfixturevalue(which)
    cells = {row["cell"]: row for row in rows_of(folder, "cells") if row["outcome"] == "ok"}
    reports = {path.stem: json.loads(path.read_text()) for path in (folder / LLM_D_FOLDER).glob("*.json")}
    assert reports.keys() == cells.keys()
    assert len({report["run"]["uid"] for report in reports.values()}) == len(reports)
    assert len({report["run"]["eid"] for report in reports.values()}) == 1
    for cell, written in reports.items():
        report = load_benchmark_report(written)
        assert isinstance(report, BenchmarkReportV021)
        assert report.version == "0.2.1"
        row, found = cells[cell], report.dump()["results"]["request_performance"]["aggregate"]
        assert found["latency"]["time_to_first_token"]["p50"] == row["ttft_p50_s"]
        assert found["latency"]["time_per_output_token"]["mean"] == row["tpot_mean_s"]
        assert found["throughput"]["output_token_rate"]["mean"] == row["output_throughput_tok_s"]
        assert found["requests"]["total"] == row["requests_sent"]
        load = report.dump()["scenario"]["load"]["standardized"]
        assert (load.get("concurrency"), load.get("rate_qps")) == (row["concurrency"], row["request_rate_per_s"])
        stack = report.dump()["scenario"]["stack"][0]["standardized"]
        assert (stack["tool"], stack["accelerator"]["model"]) == (row["engine"] or row["image"], row["gpu"])
        assert written["results"]["observability"]["llm_bench"] == without_nothing(row)


@NEEDS_311
def test_llm_d_s_model_would_find_a_wrong_unit(loaded: Path) -> None:
    from llmd_benchmark_report import load_benchmark_report

    report = json.loads(next((loaded / LLM_D_FOLDER).glob("*.json")).read_text())
    report["results"]["request_performance"]["aggregate"]["latency"]["time_to_first_token"]["units"] = "tokens/s"
    with pytest.raises(ValueError, match="Invalid units"):
        load_benchmark_report(report)


def test_llm_d_has_no_report_of_a_cell_that_failed_or_of_closed_batches(tmp_path: Path) -> None:
    engines = (FAST, replace(FAST, variant="dead", label="dead", dies=True))
    paths = export(write_loaded(tmp_path, LoadScript(engines=engines, loads=("c4",))), tmp_path / "out", ("llm-d",))
    assert [path.name for path in paths] == ["vllm.fp16.c4.json"]
    run = write_run(tmp_path, Script((SEQUENTIAL,), run_id="batches"))
    with pytest.raises(BadInput, match="cells under load"):
        export(run, tmp_path / "none", ("llm-d",))
    assert not (tmp_path / "none").exists()


# --- the page, the command --------------------------------------------------------------------------------------------


def code_of(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def test_the_lines_of_the_page_load_the_export(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB and pandas, each in one line."""
    (tmp_path / "export").symlink_to(published)
    monkeypatch.chdir(tmp_path)
    blocks = code_of(PAGE.read_text(encoding="utf-8"))
    duck, frame = (next(block for block in blocks if name in block) for name in ("duckdb", "pandas"))
    assert all(len([*filter(None, block.splitlines())]) == 2 for block in (duck, frame)), "an import and one line"
    found: dict[str, Any] = {}
    exec(duck, found)  # noqa: S102 - the page's own
    exec(frame, found)  # noqa: S102
    cells = rows_of(published, "cells")
    assert len(found["cells"]) == len(cells)
    assert sorted(found["fastest"].fetchall()) == sorted(
        (row["method"], row["point"], row["output_throughput_tok_s"]) for row in cells
    )


def test_the_command_writes_what_it_is_asked_for(tmp_path: Path) -> None:
    run = write_run(tmp_path, MIXED)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    result = CliRunner().invoke(app, [str(run), "--export", str(out), "--export-format", "csv,json"])
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {"cells.csv", "batches.csv", "export.json"}
    assert result.output.split() == [str(out / name) for name in ("cells.csv", "batches.csv", "export.json")]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    CliRunner().invoke(app, [str(run), "--export", str(out), "--export-format", "csv,json"])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first, "the same bytes each time"


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--export", "out", "--export-format", "xlsx"], "'xlsx' is no format"),
        (["--export-format", "csv"], "--export-format goes with --export"),
        (["--export", "out", "--check"], "do not go together"),
        (["--export", "out", "--out", "elsewhere"], "--export does not write a report"),
        (["--export", "out", "--unfinished"], "--unfinished goes with --publish"),
        (["--export", "out", "--kwh-price", "0.3"], "prices go with a report"),
        (["--export", "run.json"], "not a folder"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], cause: str
) -> None:
    run = write_run(tmp_path, replace(MIXED, run_id="run"))
    monkeypatch.chdir(tmp_path)
    first = "missing" if arguments[-1] == "run.json" else str(run)
    result = CliRunner().invoke(app, [first, *arguments])
    assert result.exit_code == 2
    assert cause in result.output
    assert not (tmp_path / "out").exists()


def test_a_list_of_formats() -> None:
    assert formats_of("") == FORMATS
    assert formats_of("csv, parquet,csv") == ("csv", "parquet")
    with pytest.raises(BadInput) as refused:
        formats_of("parqet")
    assert "parquet" in refused.value.hint
